"""However files arrive, and in whatever order of runs, a dataset holds what a fresh ingest of all files holds."""

import csv
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import ingest, shards
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks

CLOCK = count(1)
REJECT: dict[str, Any] = {"on_error": "reject", "most_rejected": 1}


def write(file: Path, content: str | bytes) -> None:
    """Writes a file with a time of change that no file had before: tests are quicker than clocks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(file, ns=(0, next(CLOCK) * 1_000_000_000))


def made(values: dict[str, Any], survey: Path, dataset: Path) -> dict[str, Any]:
    data = Data.model_validate({**values, "path": str(survey)})
    return ingest.ingest(data, survey, dataset, Ranks(), lambda done, total: None)


def content(dataset: Path) -> dict[str, Any]:
    """Returns all that a dataset holds, but for which shard an object is in."""
    manifest = json.loads((dataset / "manifest.json").read_text())
    objects: dict[str, Any] = {}
    for entry in manifest["shards"]:
        shard = shards.read(dataset / entry["file"])
        for index, name in enumerate(shard.ids.tolist()):
            rows = slice(shard.offsets[index], shard.offsets[index + 1])
            group = None if shard.groups is None else str(shard.groups[index])
            assert name not in objects
            objects[name] = (
                str(shard.labels[index]), group, shard.time[rows].tolist(), shard.features[rows].tobytes(),
                shard.metadata[index].tobytes(), shard.feature_columns,
            )  # fmt: skip
    with (dataset / "rejected.csv").open(newline="") as file:
        rejected = sorted(map(tuple, csv.reader(file)))
    told = {key: value for key, value in manifest.items() if key not in ("shards", "survey_files")}
    survey = sorted((entry["path"], entry["bytes"]) for entry in manifest["survey_files"])
    counts = manifest["counts"]
    for noun in ("objects", "observations"):
        left = counts[f"{noun}_out"] + counts[f"{noun}_rejected"] + counts[f"{noun}_cut"]
        assert counts[f"{noun}_in"] == left
    return {"objects": objects, "rejected": rejected, "told": told, "survey": survey}


def outcome(values: dict[str, Any], survey: Path, dataset: Path) -> dict[str, Any] | None:
    """Returns what a dataset holds after an ingest, None where the ingest is refused."""
    try:
        made(values, survey, dataset)
    except JaxrnnError:
        return None
    return content(dataset)


def assert_as_fresh(values: dict[str, Any], survey: Path, dataset: Path) -> dict[str, Any] | None:
    found = outcome(values, survey, dataset)
    with tempfile.TemporaryDirectory() as fresh:
        assert found == outcome(values, survey, Path(fresh))
    return found


# ---------------------------------------------------------------- any files in any order

NIGHTS: dict[str, Any] = {
    "reader": "table",
    "options": {
        "object": "star", "time": "mjd", "values": {"flux": "uJy"}, "label": "class", "group": "field",
        "passband": "band", "passbands": ["g", "r"],
    },
    "features": ["time_difference", "flux", "passband"],
    "shard_mb": 0.0002,
}  # fmt: skip
STARS: dict[str, Any] = {
    "reader": "csv_folder",
    "options": {
        "values": {"mag": "mag"}, "labels": "table", "table": "table.csv", "files": "star*",
        "pattern": "(?P<id>star.).*",
    },
    "features": ["time", "mag"],
    "shard_mb": 0.0001,
}  # fmt: skip
PAIRS: dict[str, Any] = {"reader": "dat", "features": ["value"], "shard_mb": 0.0001}
CURVES: dict[str, Any] = {"reader": "snana_text", "features": ["time", "passband", "flux"], "shard_mb": 0.0004}


def night(draw: int) -> str:
    """Returns a table of a night: few stars, so that nights share them; labels that contradict, and faulty rows."""
    generator = np.random.default_rng(draw)
    rows = ["star,mjd,flux,band,class,field"]
    for _ in range(generator.integers(0, 9)):
        star = generator.integers(0, 6) + 6 * (draw % 2)
        label = "eb" if generator.uniform() < 0.05 else f"c{star % 2}"
        flux = "soon" if generator.uniform() < 0.1 else f"{generator.normal():.3f}"
        band = "gru"[generator.choice(3, p=[0.5, 0.4, 0.1])]
        rows.append(f"s{star},{generator.integers(0, 20)},{flux},{band},{label},f{star % 3}")
    return "\n".join(rows) + "\n"


def star(draw: int) -> str:
    return "" if draw % 7 == 0 else "time,mag\n" + "".join(f"{step},{draw}.{step}\n" for step in range(draw % 4))


def listed(draw: int) -> str:
    return "id,label\n" + "".join(f"star{index},{'ab'[(index + draw) % 2]}\n" for index in range(draw % 6 + 1))


def curve(name: str, filters: str = "griz", header: str = "SNTYPE: 1\n", rows: int = 4, columns: str = "") -> str:
    observations = "".join(
        f"OBS: {5.0 + row} {filters[row % len(filters)]} {row}.5 1.0 {'0' if columns else ''}\n" for row in range(rows)
    )
    return (
        f"SNID: {name}\nFILTERS: {filters}\n{header}NOBS: {rows}\nVARLIST: MJD FLT FLUXCAL FLUXCALERR {columns}\n"
        f"{observations}END:\n"
    )


def curves(draw: int) -> str:
    header = ("SNTYPE: 1\n", "SNTYPE: 2\nSIM_TYPE_NAME: Ia\n", "RA: 5\nSNTYPE: 1\n")[draw % 3]
    columns = "PHOTFLAG" if draw % 5 == 0 else ""
    text = curve(f"sn{draw % 6}", ("griz", "zirg")[draw % 4 == 0], header, draw % 4 + 1, columns)
    return text[: len(text) // 2] if draw % 6 == 1 else text


def files_of(kind: str, index: int, draw: int) -> tuple[str, str | bytes]:
    """Returns the name and the content of the file number `index` in its version `draw`."""
    if kind == "nights":
        return f"night{index}.csv", night(draw)
    if kind == "stars":
        return ("table.csv", listed(draw)) if index == 0 else (f"star{index}{'ab'[draw % 2]}.csv", star(draw))
    if kind == "pairs":
        side = "XY"[index % 2]
        values = [draw % 2] if side == "Y" else np.arange(draw % 4)
        return f"{side}_{index // 2}.dat", np.array(values, dtype="<f8").tobytes()
    return f"{'ba'[index % 2]}{index}.DAT", curves(draw)


KINDS = {"nights": NIGHTS, "stars": STARS, "pairs": PAIRS, "curves": CURVES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_error", ["reject", "stop"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_however_files_arrive_the_dataset_is_that_of_all(kind: str, on_error: str, data: st.DataObject) -> None:
    changes = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=4)
    runs = data.draw(st.lists(changes, min_size=2, max_size=4))
    cuts: dict[str, Any] = {}
    if kind == "nights" and data.draw(st.booleans()):
        cuts = {"cuts": {"window": {"around": "first", "before": 0, "after": 4}, "max_steps": 2}}
    values = {**KINDS[kind], **cuts, "on_error": on_error, "most_rejected": 1}
    with tempfile.TemporaryDirectory() as name:
        survey, dataset = Path(name) / "survey", Path(name) / "dataset"
        for run in runs:
            for index, draw, what in run:
                file, text = files_of(kind, index, draw)
                if what == 0 and (survey / file).exists() and file != "table.csv":
                    (survey / file).unlink()
                else:
                    write(survey / file, text)
            if kind == "stars" and not (survey / "table.csv").exists():
                write(survey / "table.csv", listed(5))
            assert_as_fresh(values, survey, dataset)


# ---------------------------------------------------------------- what once went wrong


def test_a_label_that_comes_later_takes_no_object_away(tmp_path: Path) -> None:
    for index in range(1, 7):
        write(tmp_path / "survey" / f"X_{index}.dat", np.arange(index + 40, dtype="<f8").tobytes())
        if index > 1:
            write(tmp_path / "survey" / f"Y_{index}.dat", np.array([index % 2], dtype="<f8").tobytes())
    values = {**PAIRS, **REJECT, "shard_mb": 0.0008}
    made(values, tmp_path / "survey", tmp_path / "dataset")
    write(tmp_path / "survey" / "Y_1.dat", np.array([1.0]).tobytes())
    found = assert_as_fresh(values, tmp_path / "survey", tmp_path / "dataset")
    assert found is not None and sorted(found["objects"]) == list("123456") and len(found["rejected"]) == 1


@pytest.mark.parametrize(
    "first",
    [
        curve("first", "zirg"),
        curve("first", columns="PHOTFLAG"),
        curve("first", header="SIM_TYPE_NAME: Ia\nSNTYPE: 1\n"),
        curve("first", header="RA: 5\nSNTYPE: 1\n"),
    ],
)
def test_a_new_first_file_that_decides_how_all_are_read_starts_anew(tmp_path: Path, first: str) -> None:
    for index in range(12):
        write(tmp_path / "survey" / f"b{index}.DAT", curve(f"sn{index}"))
    values = {**CURVES, **REJECT}
    before = made(values, tmp_path / "survey", tmp_path / "dataset")
    write(tmp_path / "survey" / "AAA.DAT", first)
    found = assert_as_fresh(values, tmp_path / "survey", tmp_path / "dataset")
    assert found is not None and len(before["shards"]) > 3
    columns = [shards.read(file).feature_columns for file in (tmp_path / "dataset").glob("*.h5")]
    assert len(columns) > 3 and all(each == columns[0] for each in columns)


@pytest.mark.parametrize("on_error", ["stop", "reject"])
def test_a_second_night_of_the_same_stars_joins_the_first(tmp_path: Path, on_error: str) -> None:
    head = "star,mjd,flux,band,class,field\n"
    values = {**NIGHTS, "on_error": on_error}
    for number in (1, 2):
        rows = "".join(f"s{index},{10 * number + step},1.5,g,c,f\n" for index in range(40) for step in range(10))
        write(tmp_path / "survey" / f"night{number}.csv", head + rows)
        found = assert_as_fresh(values, tmp_path / "survey", tmp_path / "dataset")
        assert found is not None and found["told"]["counts"]["observations_out"] == 400 * number
        assert len(found["objects"]) == 40


def test_files_that_a_table_told_of_and_that_come_later_are_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "survey" / "table.csv", listed(5))
    values = {**STARS, **REJECT}
    for indices in ((0, 1, 2), (3, 4, 5)):
        for index in indices:
            write(tmp_path / "survey" / f"star{index}.csv", star(3))
        found = assert_as_fresh(values, tmp_path / "survey", tmp_path / "dataset")
        assert found is not None and found["told"]["counts"]["objects_in"] == 6
    assert len(found["objects"]) == 6 and len(found["rejected"]) == 1


def test_a_table_that_changes_reaches_files_that_came_after_it(tmp_path: Path) -> None:
    write(tmp_path / "survey" / "table.csv", "id,label\n" + "".join(f"star{index},a\n" for index in (0, 1)))
    for index in (0, 1, 7):
        write(tmp_path / "survey" / f"star{index}.csv", star(3))
        assert_as_fresh({**STARS, **REJECT}, tmp_path / "survey", tmp_path / "dataset")
    write(tmp_path / "survey" / "table.csv", "id,label\n" + "".join(f"star{index},b\n" for index in (0, 1, 7)))
    found = assert_as_fresh({**STARS, **REJECT}, tmp_path / "survey", tmp_path / "dataset")
    assert found is not None and {label for label, *_ in found["objects"].values()} == {"b"}


# ---------------------------------------------------------------- a reader of one's own

OWN = """
from own_reader import StarFilesReader
from own_labels import renamed
from dataclasses import replace

class Mine(StarFilesReader):
    def read(self, part):
        found = super().read(part)
        return replace(found, labels=renamed(found.labels))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function that writes the module from which a reader of one's own takes its labels, as a new process
    would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine.py").write_text(OWN)
    for index in range(8):
        write(tmp_path / "survey" / f"s{index}.lc", "a\n" + "".join(f"{step} {index}.5 0.1\n" for step in range(5)))

    def change(code: str) -> None:
        (tmp_path / "own_labels.py").write_text(code)
        for name in ("mine", "own_labels"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    return change


MINE: dict[str, Any] = {"reader": "mine:Mine", "features": ["time", "brightness"], "shard_mb": 0.0001}


def test_an_edited_reader_of_ones_own_reads_all_again(tmp_path: Path, own: Callable[[str], None]) -> None:
    for label in ("new", "old"):
        own(f"import numpy as np\n\ndef renamed(labels):\n    return np.full(len(labels), '{label}')\n")
        found = assert_as_fresh(MINE, tmp_path / "survey", tmp_path / "dataset")
        assert found is not None and {entry[0] for entry in found["objects"].values()} == {label}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").glob("*.h5")}
    own((tmp_path / "own_labels.py").read_text())
    made(MINE, tmp_path / "survey", tmp_path / "dataset")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").glob("*.h5")} == times


@pytest.mark.parametrize("on_error", ["stop", "reject"])
def test_an_error_in_a_reader_of_ones_own_names_file_and_line(
    tmp_path: Path, own: Callable[[str], None], on_error: str
) -> None:
    own("def renamed(labels):\n    return {}[labels[0]]\n")
    with pytest.raises(JaxrnnError, match=r"s0\.lc.*the reader 'mine:Mine' fails on it \(mine\.py, line 9: KeyError"):
        made({**MINE, "on_error": on_error}, tmp_path / "survey", tmp_path / "dataset")
