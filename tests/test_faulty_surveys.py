"""Faults in surveys of every format, through the command: one message that can be acted on, or an account of each."""

import csv
import functools
import gzip
import io
import os
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from commands import assert_whole, jaxrnn, refused
from samples import Sample
from samples.wav import RATE, riff
from test_bad_input import Workplace
from test_readers import FULL_ACCESS, emptied, in_child, linked_to_itself, scribbled, truncated, write_sample

from jaxrnn import faults, shards
from jaxrnn.readers import READERS, RowReader, open_reader, reader_class

# What a message tells beside what is wrong: what was expected, or what to do.
ADVICE = re.compile(
    r"expect|it has|remove|run `|again|mend the file|declare|rename|put the file|leave it out|set `data\.|see data\.",
    re.IGNORECASE,
)


class Place(Workplace):
    """A workplace whose survey is the sample of a reader, with everything that it holds in the network's input."""

    def __init__(self, folder: Path, reader: str) -> None:
        self.sample: Sample = write_sample(reader, folder / "survey")
        self.described = open_reader(reader, self.sample.path, self.sample.options).describe()
        super().__init__(folder, reader)
        self.input()

    def input(self, **changes: Any) -> None:
        """Writes the experiment file, with these keys of `data` changed."""
        survey = self.described
        features = ["time", *(column.name for column in survey.columns), *(["passband"] if survey.passbands else [])]
        data = {
            "path": str(self.sample.path),
            "options": self.sample.options,
            "features": features,
            "metadata": [],
            "most_rejected": 1,
            "shard_mb": 0.002,
            **changes,
        }
        self.change(**{f"data__{key}": value for key, value in data.items()}, split={"method": "exact"})

    def refused(self, command: str) -> str:
        """Returns the message of the command, which leaves nothing half-written; rows that were brought in order stay,
        in a hidden folder, for the next try."""
        message = refused(command, "--config", self.file, "--results", self.results)
        assert not [path for path in self.results.rglob("*") if path.name.endswith((".part", ".old"))]
        for path in self.results.rglob("*.h5"):
            shards.read(path)
        return message

    def told(self, *names: str) -> str:
        """Returns the message with which ingest is refused, which names these, and says what to do."""
        message = self.refused("ingest")
        assert not list(self.results.rglob("manifest.json")) and not list(self.results.rglob("rejected.csv"))
        assert all(name in message for name in names), (names, message)
        assert ADVICE.search(message), message
        assert message.count("\n") == 1 and len(message) < 2000, message
        return message

    def accounted(self) -> list[dict[str, str]]:
        """Returns the rows of rejected.csv after an ingest in which nothing is lost without a word."""
        self.done("ingest")
        assert_whole(self.dataset)
        rejected, manifest = self.rejected(), self.manifest()
        counts = manifest["counts"]
        assert counts["objects_in"] == counts["objects_out"] + counts["objects_rejected"]
        assert counts["observations_in"] == counts["observations_out"] + counts["observations_rejected"]
        assert (rejected["row"] == "").sum() == counts["objects_rejected"] + counts["parts_rejected"]
        reasons = [faults.alike(*row) for row in rejected[["reason", "file"]].itertuples(index=False)]
        assert manifest["rejected_by_reason"] == Counter(reasons)
        return [{str(key): str(value) for key, value in row.items()} for row in rejected.to_dict("records")]

    def steps(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the times and features of each object."""
        found = {}
        for entry in self.manifest()["shards"]:
            shard = shards.read(self.dataset / entry["file"])
            for place, name in enumerate(shard.ids):
                rows = slice(shard.offsets[place], shard.offsets[place + 1])
                found[str(name)] = shard.time[rows], shard.features[rows]
        return found


# ---------------------------------------------------------------- faults of one cell, in every format
# Each sets a quantity of an object with several observations, at its observation `row`, and returns its id and file.


def content_of(file: Path) -> str:
    return (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()


def write_content(file: Path, text: str) -> None:
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())


def set_cell(file: Path, column: str, value: Any, row: int) -> dict[str, str]:
    """Sets a cell of a CSV file; returns what stood in its row. row: among all, from 0."""
    heading, *rows = csv.reader(io.StringIO(content_of(file), newline=""))
    before = dict(zip(heading, rows[row], strict=True))
    rows[row][heading.index(column)] = str(value)
    with io.StringIO(newline="") as text:
        csv.writer(text, lineterminator="\n").writerows([heading, *rows])
        write_content(file, text.getvalue())
    return before


def rows_of(file: Path, column: str, value: str) -> list[int]:
    _, *rows = csv.reader(io.StringIO(content_of(file), newline=""))
    heading = next(csv.reader(io.StringIO(content_of(file))))
    return [number for number, row in enumerate(rows) if row[heading.index(column)].strip() == value]


def in_csv(
    observations: str, objects: str, object_column: str, victim: str, columns: dict[str, str]
) -> Callable[[Path, str, Any, int], tuple[str, Path]]:
    def put(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
        of_object = quantity == "label"
        file = folder / (objects if of_object else observations)
        own = rows_of(file, object_column, victim)
        set_cell(file, columns[quantity], value, own[0 if of_object else row])
        return victim, file

    put.quantities = frozenset(columns)  # type: ignore[attr-defined]
    return put


def adapter(*quantities: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def named(put: Callable[..., Any]) -> Callable[..., Any]:
        put.quantities = frozenset(quantities)  # type: ignore[attr-defined]
        return put

    return named


@adapter("time", "value", "error", "passband")
def in_csv_folder(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "validation/rrlyrae/star_4.csv"
    columns = {"time": "hjd", "value": "mag", "error": "mag_err", "passband": "filter"}
    set_cell(file, columns[quantity], value, row)
    return "validation/rrlyrae/star_4", file


@adapter("time", "value", "error", "passband", "label")
def in_snana_text(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "DES_SN004.DAT"
    lines = file.read_text().splitlines()
    if quantity == "label":
        lines = [re.sub(r"SN Type = \w+", f"SN Type = {value}", line) for line in lines]
    else:
        places = [number for number, line in enumerate(lines) if line.startswith("OBS:")]
        words = lines[places[row]].split()
        words[{"time": 1, "passband": 2, "error": 4, "value": 5}[quantity]] = str(value)
        lines[places[row]] = " ".join(words)
    file.write_text("\n".join(lines) + "\n")
    return "SN004", file


@adapter("time", "value", "error")
def in_goto(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "train_time_features.npy"
    table = np.load(file)
    place = int(np.argmax((table[:, :, 0] != -99).sum(axis=1)))
    table[place, row, ("time", "value", "error").index(quantity)] = value
    np.save(file, table)
    return f"train-{place:06d}", file


@adapter("time", "value", "error", "passband")
def in_spcc(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "spcc_lightcurves.npz"
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    place = int(np.argmax(np.diff(arrays["offsets"])))
    name = {"time": "mjd", "value": "flux", "error": "flux_err", "passband": "band"}[quantity]
    arrays[name][arrays["offsets"][place] + row] = value
    np.savez(file, allow_pickle=False, **arrays)
    return str(arrays["snid"][place]), file


@adapter("time", "value", "error", "passband", "label")
def in_hdf5(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "survey.h5"
    with h5py.File(file, "a") as opened:
        data: Any = opened
        first = int(data["first_rows"][4]) + row
        if quantity in ("value", "error"):
            data["steps/signal"][first, 1 if quantity == "value" else 2] = value
        elif quantity == "label":
            data["condition"][4] = value
        else:
            data[{"time": "steps/when", "passband": "steps/band"}[quantity]][first] = value
    return "run 4", file


@adapter("value", "label")
def in_ts(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "Small_TRAIN.ts"
    lines = file.read_text().splitlines()
    number = max(range(9, len(lines)), key=lambda number: len(lines[number]))
    *dimensions, label = lines[number].split(":")
    if quantity == "label":
        label = str(value)
    else:
        values = dimensions[0].split(",")
        values[row] = str(value)
        dimensions[0] = ",".join(values)
    lines[number] = ":".join([*dimensions, label])
    file.write_text("\n".join(lines) + "\n")
    return f"Small_TRAIN-{number + 1}", file


@adapter("value")
def in_pickle(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "waves.pkl"
    pairs = pickle.loads(file.read_bytes())
    place = int(np.argmax([len(table) for table in pairs[0][0]]))
    pairs[0][0][place][row, 0] = value
    file.write_bytes(pickle.dumps(pairs))
    return f"train-{place:06d}", file


@adapter("value")
def in_dat(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    files = sorted((folder / "Train").glob("X_*.dat"), key=lambda file: -file.stat().st_size)
    values = np.fromfile(files[0])
    values[row] = value
    values.tofile(files[0])
    return f"Train/{files[0].stem[2:]}", files[0]


@adapter("value")
def in_wav(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "1_bob_4.wav"
    samples = np.linspace(-0.5, 0.5, 5, dtype="<f4")
    samples[row] = value
    file.write_bytes(riff(samples.tobytes(), RATE, kind=3, bits=32, channels=1))
    return "1_bob_4", file


@adapter("time", "value", "error", "passband", "label")
def in_simulated(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    file = folder / "observations-00000.parquet"
    table: Any = pd.read_parquet(file)
    victim = str(table["object_id"].mode()[0])
    columns = {"time": "mjd", "value": "flux", "error": "flux_error", "passband": "passband", "label": "class"}
    if quantity == "label":
        objects = pd.read_parquet(folder / "objects-00000.parquet")
        objects.loc[objects["object_id"] == victim, "class"] = value
        objects.to_parquet(folder / "objects-00000.parquet", index=False)
    else:
        table.loc[table.index[table["object_id"] == victim][row], columns[quantity]] = value
        table.to_parquet(file, index=False)
    return victim, file


@adapter("time", "value", "error", "passband", "label")
def in_snana_fits(folder: Path, quantity: str, value: Any, row: int) -> tuple[str, Path]:
    kind, column = {
        "time": ("PHOT", "MJD"),
        "value": ("PHOT", "FLUXCAL"),
        "error": ("PHOT", "FLUXCALERR"),
        "passband": ("PHOT", "BAND"),
        "label": ("HEAD", "SIM_TYPE_INDEX"),
    }[quantity]
    with fits.open(folder / "MODEL0-0001_HEAD.FITS") as head:
        first = int(head[1].data["PTROBS_MIN"][4]) - 1  # type: ignore[union-attr]
    with fits.open(folder / f"MODEL0-0001_{kind}.FITS", mode="update", memmap=False) as opened:
        opened[1].data[column][4 if kind == "HEAD" else first + row] = value  # type: ignore[union-attr]
    return "4", folder / "MODEL0-0001_PHOT.FITS"


PUT: dict[str, Callable[..., tuple[str, Path]]] = {
    "table": in_csv(
        "a.csv", "stars.csv", "star", "0006",
        {"time": "hjd", "value": "mag", "error": "mag_err", "passband": "filter", "label": "class"},
    ),
    "plasticc": in_csv(
        "training_set_batch1.csv", "training_set_metadata.csv", "object_id", "604",
        {"time": "mjd", "value": "flux", "error": "flux_err", "passband": "passband", "label": "target"},
    ),
    "snana_csv": in_csv(
        "DES_A_PHOT.csv", "DES_A_HEAD.csv", "SNID", "16",
        {"time": "MJD", "value": "FLUXCAL", "error": "FLUXCALERR", "passband": "FLT", "label": "SNTYPE"},
    ),
    "csv_folder": in_csv_folder,
    "snana_text": in_snana_text,
    "snana_fits": in_snana_fits,
    "spcc": in_spcc,
    "goto": in_goto,
    "hdf5": in_hdf5,
    "ts": in_ts,
    "pickle": in_pickle,
    "dat": in_dat,
    "wav": in_wav,
    "simulated": in_simulated,
}  # fmt: skip

# What a fault is set to, its kind (for `on_error`) and its reason.
FAULTS = {
    "a value that is none": ("value", "nan", "value", r"\S+ not finite"),
    "an infinite value": ("value", "inf", "value", r"\S+ not finite"),
    "a value beyond single precision": ("value", "1e39", "value", r"\S+ not finite"),
    "a negative error": ("error", "-9", "error", r"\S+ not positive"),
    "an error of zero": ("error", "0", "error", r"\S+ not positive"),
    "a time that is none": ("time", "nan", "value", "time not finite"),
    "an infinite time": ("time", "-inf", "value", "time not finite"),
    "text for a number": ("value", "soon", "row", ".*soon.*"),
    "an undeclared passband": ("passband", None, "passband", "passband is none of .*"),
    "no label": ("label", "", "label", "no label"),
}
# How a passband that is not declared and a label that is missing are written; and formats whose numbers are no text.
UNDECLARED = {"plasticc": "9", "table": "9", "spcc": 7, "goto": 9}
UNLABELLED = {"ts": "?", "snana_fits": -9, "snana_csv": "-9", "snana_text": "-9"}
OF_TEXT = ("table", "plasticc", "snana_csv", "csv_folder", "snana_text", "ts")
FAULTY = [
    (reader, fault)
    for reader, put in PUT.items()
    for fault, (quantity, value, *_) in FAULTS.items()
    if quantity in put.quantities  # type: ignore[attr-defined]
    and (value != "soon" or reader in OF_TEXT)
    and not (quantity == "label" and reader in ("table", "hdf5"))  # each step has its label
    and not (value == "1e39" and reader in ("wav", "simulated", "snana_fits", "spcc"))  # these hold single precision
]


@pytest.fixture
def place(tmp_path: Path, reader: str) -> Place:
    return Place(tmp_path, reader)


def put(place: Place, quantity: str, value: Any, row: int = 1) -> tuple[str, Path]:
    """Sets a cell of the survey; returns the object and the file that a message must name."""
    if quantity in ("value", "error", "time") and place.reader not in OF_TEXT:
        value = float(value)
    return PUT[place.reader](place.survey, quantity, value, row)


@pytest.mark.parametrize(("reader", "fault"), FAULTY)
def test_a_fault_stops_ingest_or_is_accounted_for(place: Place, fault: str) -> None:
    quantity, value, kind, reason = FAULTS[fault]
    if quantity == "passband":
        value = UNDECLARED.get(place.reader, "x")
    elif quantity == "label":
        value = UNLABELLED.get(place.reader, "")
    name, file = put(place, quantity, value)
    message = place.told(str(file.parent), f"object {name}", "{" + f"{kind}: reject" + "}")
    of_object = quantity == "label" or (place.reader == "ts" and kind == "row")
    where = rf"object {re.escape(name)}: " if of_object else rf"object {re.escape(name)}, row \d+: "
    assert re.search(where + reason, message), message
    place.input(on_error={kind: "reject"})
    (rejected,) = place.accounted()
    assert rejected["object"] == name and re.fullmatch(reason, rejected["reason"])
    assert rejected["row"] == "" if of_object else rejected["row"].isdigit() and rejected["file"] == str(file)
    # the others are as they are without the fault
    found = place.steps()
    assert found.keys() == place.sample.objects.keys() - ({name} if of_object else set())
    for identity, entry in place.sample.objects.items():
        if identity != name:
            np.testing.assert_array_equal(found[identity][0], np.sort(entry.time))


@pytest.mark.parametrize("reader", [reader for reader, put in PUT.items() if "time" in put.quantities])  # type: ignore[attr-defined]
def test_unsorted_and_repeated_times_become_sorted_ones(place: Place) -> None:
    name, _ = put(place, "time", "70000.5", 0)
    put(place, "time", "-3.25", 1)
    put(place, "time", "-3.25", 2)
    assert not place.accounted()
    time, _ = place.steps()[name]
    entry = place.sample.objects[name]
    assert len(time) == len(entry.time) and (np.diff(time) >= 0).all()
    assert time[0] == time[1] == -3.25 and time[-1] == 70000.5


# ---------------------------------------------------------------- whole files

BROKEN = [truncated(0.6), emptied, scribbled, linked_to_itself]


def damageable(place: Place) -> Iterator[Path]:
    """Yields each file whose damage must be told, and mends it afterwards."""
    for number, file in enumerate(place.sample.damageable):
        content = file.read_bytes()
        place.results = place.folder / f"results-{number}"
        yield file
        file.unlink()
        file.write_bytes(content)


@pytest.mark.parametrize("damage", BROKEN, ids=["truncated", "empty", "of another format", "a link to itself"])
@pytest.mark.parametrize("reader", list(READERS))
def test_a_file_that_cannot_be_read_stops_with_its_name(place: Place, damage: Callable[[Path], None]) -> None:
    for file in damageable(place):
        damage(file)
        if damage is BROKEN[0] and place.reader in ("ts", "snana_text", "csv_folder") and file.suffix != ".gz":
            jaxrnn("ingest", "--config", place.file, "--results", place.results)  # a text that was cut is another text
        else:
            place.told(file.name.removesuffix(".gz"))


@pytest.mark.parametrize("reader", list(READERS))
def test_a_broken_file_is_accounted_for_or_stops(place: Place) -> None:
    """Where all else can be read without it, `on_error` may leave it out."""
    for file in damageable(place):
        scribbled(file)
        place.input(on_error="reject")
        code, _, message = jaxrnn("ingest", "--config", place.file, "--results", place.results)
        if code:
            assert code == 2 and file.name in message and ADVICE.search(message), message
        else:
            rejected = place.accounted()
            assert any(Path(row["file"]).name == file.name or file.name in row["reason"] for row in rejected)


@pytest.mark.parametrize("reader", list(READERS))
def test_files_that_may_not_be_read_are_told(reader: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(FULL_ACCESS)  # pytest's own folders are closed to others
        place = Place(Path(temporary), reader)
        # here first: what is imported only now could not be found by the child
        place.done("ingest")
        for file in place.sample.damageable:
            file.chmod(0)
            results = Path(temporary) / f"results-{file.parent.name}-{file.name}"
            results.mkdir(mode=0o777)
            results.chmod(0o777)
            place.results = results
            failed = in_child(functools.partial(_told_to_child, place, file.name.removesuffix(".gz")))
            assert not failed, failed
            file.chmod(FULL_ACCESS)


def _told_to_child(place: Place, name: str) -> str:
    place.told(name)
    return ""


@pytest.mark.parametrize("reader", list(READERS))
def test_a_file_that_changes_while_it_is_read_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader_class(place.reader)
    method = "read_observations" if issubclass(found, RowReader) else "read"
    original = getattr(found, method)
    changed: list[Path] = []

    def reading(self: Any, part: Any) -> Any:
        result = original(self, part)
        if not issubclass(found, RowReader):
            touch(part.files[0])
            return result
        return later(result, part)

    def later(pieces: Any, part: Any) -> Iterator[Any]:
        yield from pieces
        touch(part.files[0])

    def touch(file: Path) -> None:
        changed.append(file)
        os.utime(file, ns=(1, 1 + len(changed)))

    monkeypatch.setattr(found, method, reading)
    message = place.told("changed while it was read")
    assert any(str(file) in message for file in changed)


# ---------------------------------------------------------------- objects and tables that do not go together


def doubled_line(file: str, row: int) -> Callable[[Path], Path]:
    """Returns a change that lets a line of a table stand twice."""

    def change(folder: Path) -> Path:
        lines = content_of(folder / file).splitlines(keepends=True)
        write_content(folder / file, "".join([*lines, lines[1 + row]]))
        return folder / file

    return change


def copied(file: str, other: str) -> Callable[[Path], Path]:
    """Returns a change that lets a file stand twice in the survey."""

    def change(folder: Path) -> Path:
        (folder / other).write_bytes((folder / file).read_bytes())
        return folder / file

    return change


def doubled_in_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "survey.h5", "a") as opened:
        data: Any = opened
        data["names"][3] = data["names"][4]
    return folder / "survey.h5"


def doubled_in_fits(folder: Path) -> Path:
    file = folder / "MODEL0-0001_HEAD.FITS"
    with fits.open(file, mode="update", memmap=False) as opened:
        opened[1].data["SNID"][3] = opened[1].data["SNID"][4]  # type: ignore[union-attr]
    return file


def doubled_in_parquet(folder: Path) -> Path:
    file = folder / "objects-00000.parquet"
    table = pd.read_parquet(file)
    table.loc[3, "object_id"] = table.loc[4, "object_id"]
    table.to_parquet(file, index=False)
    return file


def doubled_in_spcc(folder: Path) -> Path:
    file = folder / "spcc_lightcurves.npz"
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["snid"][3] = arrays["snid"][4]
    np.savez(file, allow_pickle=False, **arrays)
    return file


DOUBLED = {
    "table": doubled_line("stars.csv", 4),
    "plasticc": doubled_line("training_set_metadata.csv", 4),
    "snana_csv": doubled_line("DES_A_HEAD.csv", 2),
    "csv_folder": copied("validation/rrlyrae/star_4.csv", "validation/rrlyrae/star_4.csv.gz"),
    "snana_text": copied("DES_SN004.DAT", "DES_again.DAT"),
    "snana_fits": doubled_in_fits,
    "hdf5": doubled_in_hdf5,
    "simulated": doubled_in_parquet,
    "spcc": doubled_in_spcc,
    "wav": copied("1_bob_4.wav", "1_bob_4.WAV"),
}


@pytest.mark.parametrize("reader", list(DOUBLED))
def test_an_object_that_stands_twice_is_told(place: Place) -> None:
    file = DOUBLED[place.reader](place.survey)
    place.input()
    message = place.told()
    assert re.search("twice|more than one row|stands in two parts|gzip", message), message
    assert str(file.parent) in message or str(place.results) in message


HALVES = {
    "snana_fits": ("MODEL0-0001_PHOT.FITS", "MODEL0-0001_HEAD.FITS"),
    "snana_csv": ("DES_A_PHOT.csv", "DES_A_HEAD.csv"),
    "mnist": ("t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"),
    "spcc": ("spcc_metadata.csv", "spcc_lightcurves.npz"),
    "simulated": ("observations-00000.parquet", "objects-00000.parquet"),
    "dat": ("Train/Y_1.dat", "Train/X_1.dat"),
    "goto": ("train_labels.npy", "train_time_features.npy"),
}


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("reader", list(HALVES))
def test_one_file_of_a_pair_without_the_other_is_told(place: Place, half: int) -> None:
    missing = place.survey / HALVES[place.reader][half]
    missing.unlink()
    place.told(missing.name if place.reader != "dat" else "Train")


COLUMNS = {
    "table": ("a.csv", "mag_err"),
    "plasticc": ("training_set_batch1.csv", "flux_err"),
    "snana_csv": ("DES_A_PHOT.csv", "FLUXCALERR"),
    "snana_text": ("DES_SN000.DAT", "FLUXCALERR"),
    "csv_folder": ("validation/rrlyrae/star_4.csv", "mag_err"),
    "spcc": ("spcc_metadata.csv", "mwebv"),
}


@pytest.mark.parametrize("reader", list(COLUMNS))
def test_a_column_that_is_not_there_is_told_with_those_that_are(place: Place, reader: str) -> None:
    name, column = COLUMNS[reader]
    file = place.survey / name
    file.write_text(file.read_text().replace(column, "other", 1))
    message = place.refused("ingest")
    assert str(file) in message and column in message and "other" in message, message


def text_in_parquet(column: str, file: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        table = pd.read_parquet(folder / file)
        table[column] = ["bright", *table[column].astype(str)[1:]]
        table.to_parquet(folder / file, index=False)
        return folder / file

    return change


def text_in_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "survey.h5", "a") as opened:
        signal: Any = opened["steps/signal"]
        table = signal[()].astype("S9")
        del opened["steps/signal"]
        opened["steps/signal"] = table
    return folder / "survey.h5"


def text_in_fits(folder: Path) -> Path:
    file = folder / "MODEL0-0001_PHOT.FITS"
    with fits.open(file, memmap=False) as opened:
        data: Any = opened[1].data  # type: ignore[union-attr]
        columns = [
            fits.Column("FLUXCAL", "8A", array=data["FLUXCAL"].astype(str)) if column.name == "FLUXCAL" else column
            for column in data.columns
        ]
        primary = opened[0].copy()
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns)]).writeto(file, overwrite=True)
    return file


def text_in_pickle(folder: Path) -> Path:
    file = folder / "waves.pkl"
    pairs = pickle.loads(file.read_bytes())
    pairs[0][0][2] = np.array([["bright", "faint"]])
    file.write_bytes(pickle.dumps(pairs))
    return file


def text_in_spcc(folder: Path) -> Path:
    file = folder / "spcc_lightcurves.npz"
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(file, allow_pickle=False, **(arrays | {"flux": arrays["flux"].astype(str)}))
    return file


TEXT = {
    "table": text_in_parquet("mag", "d.parquet"),
    "simulated": text_in_parquet("flux", "observations-00000.parquet"),
    "hdf5": text_in_hdf5,
    "snana_fits": text_in_fits,
    "pickle": text_in_pickle,
    "spcc": text_in_spcc,
}


@pytest.mark.parametrize("reader", list(TEXT))
def test_numbers_that_are_text_are_told(place: Place) -> None:
    file = TEXT[place.reader](place.survey)
    place.told(file.name)
