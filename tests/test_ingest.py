"""Ingest: the same bytes from any number of ranks, nothing lost, nothing done twice."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import surveys
from commands import jaxrnn
from experiments import write_arrays, write_config

from jaxrnn import arrivals, config, faults, ingest, plan, readers, shards
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks
from jaxrnn.results import Results
from jaxrnn.shards import Shard

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
needs_mpi = pytest.mark.skipif(MPIRUN is None, reason="no mpirun; `pip install jaxrnn[mpi]` brings one")


def run(at: Path, file: Path, ranks: int, *, asked: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jaxrnn", "ingest", "--config", str(file), "--results", str(at)]
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    asked_for = ["--ranks", str(asked or ranks)]
    return subprocess.run([*launcher, *command, *asked_for], capture_output=True, text=True, timeout=120)


def files(folder: Path) -> dict[str, bytes]:
    names = sorted(path.name for path in folder.iterdir())
    return {name: (folder / name).read_bytes() for name in names}


def alone(folder: Path, at: Path) -> Path:
    """Ingests in this process; returns the dataset's folder."""
    experiment = config.load(folder / "tiny.yaml")
    dataset = Results(at).dataset(plan.dataset_key(experiment))
    ingest.ingest(experiment.data, folder / "survey", dataset, Ranks(), lambda done, total: None)
    return dataset


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    write_arrays(tmp_path / "survey")
    write_config(tmp_path, data__shard_mb=0.00512)
    return tmp_path


@pytest.mark.mpi
@needs_mpi
def test_any_number_of_ranks_writes_the_same_bytes(survey: Path) -> None:
    written = {}
    for ranks in (1, 2, 3):
        done = run(survey / f"ranks-{ranks}", survey / "tiny.yaml", ranks)
        assert done.returncode == 0, done.stderr
        (folder,) = (survey / f"ranks-{ranks}" / "datasets").iterdir()
        written[ranks] = files(folder)
    assert len([name for name in written[1] if name.endswith(".h5")]) == 14
    assert written[1] == written[2] == written[3]


@pytest.mark.mpi
@needs_mpi
def test_ranks_that_are_not_what_was_asked_for_are_refused(survey: Path) -> None:
    done = run(survey / "out", survey / "tiny.yaml", 2, asked=3)
    assert done.returncode == 2
    assert "3 MPI ranks were asked for, and this process sees 2" in done.stderr and "Traceback" not in done.stderr
    assert not (survey / "out").exists()


@pytest.mark.mpi
@needs_mpi
def test_a_fault_on_one_rank_ends_all_with_its_message_once(survey: Path) -> None:
    table = np.load(survey / "survey" / "validation_time_features.npy")
    table[7, 2, 1] = np.nan
    np.save(survey / "survey" / "validation_time_features.npy", table)
    done = run(survey / "out", survey / "tiny.yaml", 3)
    assert done.returncode == 2
    assert done.stderr.count("value not finite") == 1 and "Traceback" not in done.stderr
    assert not list((survey / "out").rglob("manifest.json"))


def test_shards_give_back_what_the_survey_holds(survey: Path) -> None:
    dataset = alone(survey, survey / "results")
    manifest = json.loads((dataset / "manifest.json").read_text())
    content = [shards.read(dataset / entry["file"]) for entry in manifest["shards"]]
    table = np.load(survey / "survey" / "train_time_features.npy")
    joined = np.concatenate([shard.features for shard in content])
    kept = table[table[:, :, 0] != -99]
    np.testing.assert_allclose(joined[: len(kept)], kept, rtol=1e-6)
    assert [entry["sha256"] for entry in manifest["shards"]] == [
        shards.checksum(dataset / entry["file"]) for entry in manifest["shards"]
    ]
    counts = manifest["counts"]
    assert counts["objects_in"] == counts["objects_out"] + counts["objects_rejected"] == 200
    assert counts["observations_in"] == counts["observations_out"] + counts["observations_rejected"]


def test_changed_survey_files_are_ingested_anew(survey: Path) -> None:
    dataset = alone(survey, survey / "results")
    first = files(dataset)
    write_arrays(survey / "survey", objects=90, seed=3)
    alone(survey, survey / "results")
    second = files(dataset)
    assert len(second) < len(first) and second["00000.h5"] != first["00000.h5"]


def test_rejected_rows_are_accounted_for(survey: Path) -> None:
    file = survey / "survey" / "train_time_features.npy"
    table = np.load(file)
    table[3, :, 1] = np.inf  # the whole object
    table[5, 1, 2] = -1.0
    np.save(file, table)
    with pytest.raises(JaxrnnError, match=r"object train-000003, row 0: value not finite.*on_error: reject"):
        alone(survey, survey / "results")
    write_config(survey, data__shard_mb=0.00512, data__on_error="reject")
    dataset = alone(survey, survey / "results")
    counts = json.loads((dataset / "manifest.json").read_text())["counts"]
    rejected = pd.read_csv(dataset / "rejected.csv")
    assert counts["objects_in"] - counts["objects_out"] == counts["objects_rejected"] == 1
    rows = counts["observations_in"] - counts["observations_out"]
    assert rows == counts["observations_rejected"] == rejected["row"].notna().sum()
    assert set(rejected["object"]) == {"train-000003", "train-000005"}
    assert "value_error not positive" in set(rejected["reason"])


def test_a_value_beyond_single_precision_is_a_fault(survey: Path) -> None:
    file = survey / "survey" / "train_time_features.npy"
    table = np.load(file)
    table[3, 0, 1] = 1e39  # finite here, infinite in a shard
    np.save(file, table)
    with pytest.raises(JaxrnnError, match="object train-000003, row 0: value not finite"):
        alone(survey, survey / "results")


# ---------------------------------------------------------------- tables of rows

ROWS: dict[str, Any] = {
    "reader": "table",
    "options": {
        "object": "star",
        "time": "mjd",
        "values": {"flux": "uJy", "flux_error": "uJy"},
        "errors": ["flux_error"],
        "passband": "band",
        "passbands": ["g", "r"],
        "label": "class",
        "metadata": {"file": "stars.csv", "columns": {"parallax": "mas"}},
    },
    "features": ["time", "flux", "flux_error", "passband"],
    "metadata": ["parallax"],
    "shard_mb": 0.004,
}


def write_rows(folder: Path, objects: int = 60, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes a table of observations in order of time, so that no object's rows stand together, and its objects."""
    generator = np.random.default_rng(seed)
    stars = pd.DataFrame({
        "star": [f"star-{seed}-{index:04d}" for index in range(objects)],
        "class": np.array(["rr", "eb", "lpv"])[np.arange(objects) % 3],
        "parallax": generator.uniform(0, 1, objects).round(6),
    })  # fmt: skip
    owner = np.repeat(np.arange(objects), generator.integers(1, 12, objects))
    rows = pd.DataFrame({
        "star": stars["star"].to_numpy()[owner],
        "mjd": generator.uniform(0, 100, len(owner)).round(4),
        "band": np.array(["g", "r"])[generator.integers(0, 2, len(owner))],
        "flux": generator.normal(0, 10, len(owner)).round(3),
        "flux_error": generator.uniform(1, 2, len(owner)).round(3),
    }).sort_values("mjd", kind="stable")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / f"lc_{seed}.csv", index=False)
    stars.to_csv(folder / "stars.csv", index=False)
    return rows, stars


def write_row_config(folder: Path, **changes: Any) -> Path:
    values = {**ROWS, "path": str(folder / "survey"), **changes}
    file = write_config(folder, split__method="exact")
    file.write_text(config.to_yaml({**config.read_yaml(file), "data": values}))
    return file


def content(dataset: Path) -> dict[str, Shard]:
    manifest = json.loads((dataset / "manifest.json").read_text())
    return {entry["file"]: shards.read(dataset / entry["file"]) for entry in manifest["shards"]}


def by_object(dataset: Path) -> dict[str, tuple[str, np.ndarray, np.ndarray, float]]:
    found = {}
    for shard in content(dataset).values():
        for index, name in enumerate(shard.ids):
            rows = slice(shard.offsets[index], shard.offsets[index + 1])
            found[str(name)] = (
                str(shard.labels[index]), shard.time[rows], shard.features[rows], float(shard.metadata[index, 0])
            )  # fmt: skip
    return found


def test_rows_in_any_order_become_the_objects_that_pandas_groups(tmp_path: Path) -> None:
    rows, stars = write_rows(tmp_path / "survey")
    write_row_config(tmp_path)
    dataset = alone(tmp_path, tmp_path / "results")
    found = by_object(dataset)
    assert len(content(dataset)) > 3 and sorted(found) == sorted(stars["star"])
    for name, group in rows.groupby("star"):
        expected = group.sort_values("mjd", kind="stable")
        label, time_days, features, parallax = found[str(name)]
        star = stars.set_index("star").loc[str(name)]
        assert label == star["class"] and parallax == np.float32(star["parallax"])
        np.testing.assert_array_equal(time_days, expected["mjd"])
        np.testing.assert_array_equal(features[:, 1], expected["flux"].astype(np.float32))
        assert (features[:, 3] == (expected["band"] == "g")).all() and (
            features[:, 4] == (expected["band"] == "r")
        ).all()
    assert not (dataset / arrivals.ROWS).exists()


@pytest.mark.mpi
@needs_mpi
def test_one_large_table_is_shared_by_ranks_and_gives_the_same_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "survey", objects=300)
    file = write_row_config(tmp_path)
    written = []
    for ranks in (1, 3):
        done = run(tmp_path / f"ranks-{ranks}", file, ranks)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / f"ranks-{ranks}" / "datasets").iterdir()
        written.append(files(folder))
    assert len(written[0]) > 8 and written[0] == written[1]


def test_observations_without_object_and_objects_without_observations(tmp_path: Path) -> None:
    rows, stars = write_rows(tmp_path / "survey")
    stars = pd.concat([stars.iloc[1:], pd.DataFrame({"star": ["unseen"], "class": ["rr"], "parallax": [0.1]})])
    stars.to_csv(tmp_path / "survey" / "stars.csv", index=False)
    write_row_config(tmp_path)
    with pytest.raises(
        JaxrnnError, match=r"not in the table of objects.*orphan: reject|no observations.*empty: reject"
    ):
        alone(tmp_path, tmp_path / "results")
    write_row_config(tmp_path, on_error={"orphan": "reject", "empty": "reject"})
    dataset = alone(tmp_path, tmp_path / "results")
    rejected = pd.read_csv(dataset / "rejected.csv").set_index("object")
    assert rejected["reason"].to_dict() == {"star-0-0000": "not in the table of objects", "unseen": "no observations"}
    counts = json.loads((dataset / "manifest.json").read_text())["counts"]
    assert counts["objects_in"] == 61 and counts["objects_out"] == 59
    assert counts["observations_rejected"] == (rows["star"] == "star-0-0000").sum()
    assert_accounted(counts)


def assert_accounted(counts: dict[str, int]) -> None:
    assert counts["objects_in"] == counts["objects_out"] + counts["objects_rejected"] + counts["objects_cut"]
    left = counts["observations_out"] + counts["observations_rejected"] + counts["observations_cut"]
    assert counts["observations_in"] == left


def test_bad_rows_are_told_apart_and_accounted_for(tmp_path: Path) -> None:
    write_rows(tmp_path / "survey")
    table = tmp_path / "survey" / "lc_0.csv"
    lines = table.read_text().splitlines()
    lines[4] = ",".join([lines[4].split(",")[0], "soon", *lines[4].split(",")[2:]])
    lines[9] += ",1,2"
    lines[20] = lines[20].replace(",g,", ",u,").replace(",r,", ",u,")
    lines[30] = lines[30].rpartition(",")[0] + ",-9"
    table.write_text("\n".join(lines) + "\n")
    kinds = {}
    for kind in ("row", "passband", "error"):
        write_row_config(
            tmp_path, on_error={other: "reject" for other in ("row", "passband", "error", "empty") if other != kind}
        )
        with pytest.raises(JaxrnnError, match=f"{{{kind}: reject}}") as refusal:
            alone(tmp_path, tmp_path / "results")
        kinds[kind] = str(refusal.value)
    assert "soon" in kinds["row"] and ", row 3: " in kinds["row"]
    write_row_config(tmp_path, on_error="reject")
    dataset = alone(tmp_path, tmp_path / "results")
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert_accounted(manifest["counts"])
    assert manifest["counts"]["observations_in"] == len(lines) - 1
    rejected = pd.read_csv(dataset / "rejected.csv", dtype=str, keep_default_na=False)
    assert sorted(rejected.loc[rejected["row"] != "", "row"].astype(int)) == [3, 8, 19, 29]
    assert rejected["file"].str.endswith("lc_0.csv").all()


def test_any_id_comes_back_from_the_table_of_what_is_rejected(tmp_path: Path) -> None:
    ids = ["a\rb", 'two\n"lines"', ",", "NA"]
    with h5py.File(tmp_path / "survey.h5", "w") as file:
        file["flux"], file["ids"] = np.full((len(ids) + 1, 2, 1), [[[np.nan]]] * len(ids) + [[[1.0]]]), [*ids, "whole"]
    of_survey(
        {"reader": "hdf5", "path": str(tmp_path / "survey.h5"), "options": {"features": "flux", "ids": "ids"},
         "features": ["*"], "on_error": "reject", "most_rejected": 1},
        tmp_path / "dataset",
    )  # fmt: skip
    rejected = pd.read_csv(tmp_path / "dataset" / "rejected.csv", dtype=str, keep_default_na=False)
    assert rejected.loc[rejected["row"] == "", "object"].tolist() == ids


# ---------------------------------------------------------------- what comes later, changes, or breaks


def test_only_files_that_are_new_are_ingested(tmp_path: Path) -> None:
    samples = importlib.import_module("samples.csv_folder")
    (tmp_path / "first").mkdir()
    sample = samples.write(tmp_path / "first", np.random.default_rng(0))
    data = Data.model_validate(
        {"reader": "csv_folder", "path": str(sample.path), "options": sample.options, "features": ["time"],
         "shard_mb": 0.0005, "on_error": "reject", "most_rejected": 1}
    )  # fmt: skip

    def made() -> dict[str, Any]:
        return ingest.ingest(data, sample.path, tmp_path / "dataset", Ranks(), lambda done, total: None)

    first = made()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "dataset").glob("*.h5")}
    source = sorted(
        path for path in sample.path.rglob("*.csv") if path.stem in sample.objects or path.stem[-1].isdigit()
    )[0]
    later = source.with_name(f"later{source.name}")
    shutil.copy(source, later)
    second = made()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "dataset").glob("*.h5")}
    assert second["counts"]["objects_in"] == first["counts"]["objects_in"] + 1
    assert before.items() < after.items() and len(after) == len(before) + 1
    later.unlink()
    assert made() == first


def test_a_table_that_comes_later_without_its_objects_starts_anew(tmp_path: Path) -> None:
    write_rows(tmp_path / "survey")
    write_row_config(tmp_path)
    alone(tmp_path, tmp_path / "results")
    rows = pd.read_csv(tmp_path / "survey" / "lc_0.csv")
    more = rows.iloc[:40].assign(mjd=lambda table: table["mjd"] + 1000)
    more.to_csv(tmp_path / "survey" / "lc_1.csv", index=False)
    dataset = alone(tmp_path, tmp_path / "results")
    grown = by_object(dataset)
    assert sum(len(time_days) for _, time_days, *_ in grown.values()) == len(rows) + 40
    assert files(dataset) == files(alone(tmp_path, tmp_path / "anew"))


def test_an_object_of_two_files_stops_or_is_taken_once(tmp_path: Path) -> None:
    arrays, metadata = surveys.spcc_tables()
    arrays["snid"] = arrays["snid"].copy()
    arrays["snid"][-1] = arrays["snid"][0]
    surveys.write_spcc(tmp_path / "survey", arrays, metadata.iloc[:-1])
    for shard_mb in (0.0003, 1.0):
        values = {"reader": "spcc", "path": str(tmp_path / "survey"), "features": ["flux"], "shard_mb": shard_mb}

        def made(values: dict[str, Any], name: str) -> dict[str, Any]:
            data = Data.model_validate(values)
            return ingest.ingest(data, tmp_path / "survey", tmp_path / name, Ranks(), lambda done, total: None)

        with pytest.raises(JaxrnnError, match=f"object {arrays['snid'][0]}.*duplicate: reject"):
            made(values, f"stopped-{shard_mb}")
        manifest = made(values | {"on_error": {"duplicate": "reject"}}, f"kept-{shard_mb}")
        assert manifest["rejected_by_reason"] == {faults.TWICE: 1}
        assert manifest["counts"]["observations_rejected"] == 4
        assert_accounted(manifest["counts"])
        again = made(values | {"on_error": {"duplicate": "reject"}}, f"kept-{shard_mb}")
        assert again == manifest


def test_a_file_that_cannot_be_read_stops_or_is_accounted_for(tmp_path: Path) -> None:
    samples = importlib.import_module("samples.snana_text")
    (tmp_path / "survey").mkdir()
    sample = samples.write(tmp_path / "survey", np.random.default_rng(0))
    broken = sample.damageable[-1]
    broken.write_bytes(b"")
    values = {"reader": "snana_text", "path": str(sample.path), "options": sample.options, "features": ["flux"]}
    values |= {"most_rejected": 1}

    def made(on_error: Any) -> dict[str, Any]:
        data = Data.model_validate(values | {"on_error": on_error})
        return ingest.ingest(data, sample.path, tmp_path / "dataset", Ranks(), lambda done, total: None)

    with pytest.raises(JaxrnnError, match=broken.name):
        made({"empty": "reject"})
    manifest = made("reject")
    assert manifest["counts"]["parts_rejected"] == 1
    rejected = pd.read_csv(tmp_path / "dataset" / "rejected.csv", dtype=str, keep_default_na=False)
    assert rejected.query("object == ''")["file"].tolist() == [str(broken)]


def test_a_file_that_changes_while_it_is_read_is_refused(survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxrnn.readers.goto import GotoReader

    read = GotoReader.read

    def meanwhile(self: GotoReader, part: readers.Part) -> readers.Sequences:
        found = read(self, part)
        os.utime(survey / "survey" / "test_labels.npy", ns=(1, 1))
        return found

    monkeypatch.setattr(GotoReader, "read", meanwhile)
    with pytest.raises(JaxrnnError, match=r"test_labels.npy: changed while it was read; run the same command again"):
        alone(survey, survey / "results")


def test_too_many_rejected_stop_with_the_share(survey: Path) -> None:
    file = survey / "survey" / "train_time_features.npy"
    table = np.load(file)
    table[:60, :, 1] = np.nan
    np.save(file, table)
    write_config(survey, data__on_error="reject")
    with pytest.raises(JaxrnnError, match=r"60 of 200 objects are rejected .*30\.0%.*most_rejected: 0\.1"):
        alone(survey, survey / "results")
    (dataset,) = (survey / "results" / "datasets").iterdir()
    assert not (dataset / "manifest.json").exists()


def test_cuts_are_counted_apart_from_faults(tmp_path: Path) -> None:
    rows, _ = write_rows(tmp_path / "survey")
    write_row_config(tmp_path, cuts={"window": {"around": "first", "before": 0, "after": 40}, "max_steps": 3})
    dataset = alone(tmp_path, tmp_path / "results")
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert_accounted(manifest["counts"])
    first = rows.groupby("star")["mjd"].transform("min")
    inside = rows[rows["mjd"] - first <= 40]
    assert manifest["counts"]["observations_out"] == inside.groupby("star").size().clip(upper=3).sum()
    assert sum(manifest["cut_by_reason"].values()) == manifest["counts"]["observations_cut"] > 0
    assert len(manifest["cut_by_reason"]) == 2 and not manifest["rejected_by_reason"]


def light_curves(folder: Path, count: int, cut: int, emptied: int = 0) -> dict[str, Any]:
    """Writes SNANA texts: of the first ones nothing, of the next ones a half; returns a `data` section for them."""
    folder.mkdir(parents=True)
    for index in range(count):
        rows = "".join(f"OBS: {step}.5 {'gr'[step % 2]} {step}.0 1.0\n" for step in range(20 + index % 7))
        head = f"SNID: {index}\nFILTERS: gr\nSNTYPE: {index % 2}\nNOBS: {20 + index % 7}\n"
        text = f"{head}VARLIST: MJD FLT FLUXCAL FLUXCALERR\n{rows}END:\n"
        length = 0 if index < emptied else len(text) // 2 + index % 13 if index < emptied + cut else len(text)
        (folder / f"sn{index:03d}.DAT").write_text(text[:length])
    return {"reader": "snana_text", "path": str(folder), "features": ["flux", "passband"], "on_error": "reject"}


def of_survey(values: dict[str, Any], dataset: Path) -> dict[str, Any]:
    data = Data.model_validate(values)
    return ingest.ingest(data, Path(values["path"]), dataset, Ranks(), lambda done, total: None)


@pytest.mark.parametrize(("cut", "emptied"), [(180, 0), (0, 180), (25, 0)])
def test_files_that_cannot_be_read_count_for_the_ceiling(tmp_path: Path, cut: int, emptied: int) -> None:
    values = light_curves(tmp_path / "survey", 200, cut, emptied)
    share = f"{(cut + emptied) / 2:.1f}%"
    with pytest.raises(JaxrnnError, match=rf"{cut + emptied} of 200 files, or pieces of them, cannot be read.*{share}"):
        of_survey(values, tmp_path / "dataset")
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    manifest = of_survey(values | {"most_rejected": 0.95}, tmp_path / "dataset")
    counts = manifest["counts"]
    assert counts["parts_in"] == 200 and counts["objects_out"] == 200 - cut - emptied
    sizes = [path.stat().st_size or 1 for path in sorted((tmp_path / "survey").iterdir())]
    assert counts["bytes_in"] == sum(sizes) and counts["bytes_rejected"] == sum(sizes[: cut + emptied])
    # one reason for each kind of damage, not one for each file
    assert len(manifest["rejected_by_reason"]) <= 3 and sum(manifest["rejected_by_reason"].values()) == cut + emptied
    rejected = pd.read_csv(tmp_path / "dataset" / "rejected.csv")
    assert sorted(rejected["file"]) == sorted(map(str, (tmp_path / "survey").iterdir()))[: cut + emptied]
    assert not rejected["reason"].str.contains("DAT").any()


def test_a_few_bytes_may_be_many_parts_and_one_part_many_bytes(tmp_path: Path) -> None:
    """The ceiling is on both: the largest file of many counts for its size."""
    values = light_curves(tmp_path / "survey", 40, 0)
    large = tmp_path / "survey" / "sn039.DAT"
    large.write_text(large.read_text() * 0 + "SNID: 39\n" + "OBS: 1 g 1 1\n" * 5000)
    with pytest.raises(JaxrnnError, match="bytes of files cannot be read"):
        of_survey(values, tmp_path / "dataset")
    assert of_survey(values | {"most_rejected": 0.8}, tmp_path / "dataset")["counts"]["parts_rejected"] == 1


@pytest.mark.parametrize("reader", ["snana_text", "table", "snana_fits"])
def test_a_file_that_fails_when_the_survey_is_opened_may_be_rejected(tmp_path: Path, reader: str) -> None:
    """The first file, too, by which readers tell what the survey holds."""
    if reader == "snana_text":
        values, broken = light_curves(tmp_path / "survey", 20, 0), tmp_path / "survey" / "sn000.DAT"
    elif reader == "table":
        write_rows(tmp_path / "survey")
        values = ROWS | {"path": str(tmp_path / "survey"), "on_error": "reject"}
        broken = tmp_path / "survey" / "lc_00.csv"
    else:
        sample = importlib.import_module("samples.snana_fits")
        (tmp_path / "survey").mkdir()
        options = sample.write(tmp_path / "survey", np.random.default_rng(0)).options
        head = sorted((tmp_path / "survey").rglob("*HEAD.FITS*"))[0]
        broken = head.with_name(f"AA_{head.name}")
        shutil.copy(head.with_name(head.name.replace("HEAD", "PHOT")), str(broken).replace("HEAD", "PHOT"))
        values = {"reader": "snana_fits", "path": str(tmp_path / "survey"), "options": options, "features": ["flux"]}
        values["on_error"] = "reject"
    broken.write_bytes(b"")
    values["most_rejected"] = 1
    manifest = of_survey(values, tmp_path / "dataset")
    assert manifest["counts"]["parts_rejected"] == 1 and manifest["counts"]["objects_out"] > 0
    rejected = pd.read_csv(tmp_path / "dataset" / "rejected.csv", dtype=str, keep_default_na=False)
    (reason,) = rejected.query("object == ''")["reason"]
    assert rejected.query("object == ''")["file"].tolist() == [str(broken)] and "SNID" not in reason
    assert "empty" in reason.lower()
    with pytest.raises(JaxrnnError, match=broken.name):
        of_survey(values | {"on_error": "stop"}, tmp_path / "stopped")


def test_tables_that_all_lack_a_column_are_refused_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "survey")
    write_rows(tmp_path / "survey", seed=1)
    options = ROWS["options"] | {"values": {"flax": "uJy"}, "errors": []}
    with pytest.raises(JaxrnnError, match=r"no column flax; did you mean|no column flax"):
        of_survey(ROWS | {"path": str(tmp_path / "survey"), "options": options, "on_error": "reject"}, tmp_path / "d")


def test_a_table_without_rows_is_said_to_have_none(tmp_path: Path) -> None:
    write_rows(tmp_path / "survey")
    (tmp_path / "survey" / "lc_0.csv").write_text("star,mjd,band,flux,flux_error\n")
    (tmp_path / "survey" / "stars.csv").write_text("star,class,parallax\n")
    with pytest.raises(JaxrnnError, match="hold no object and no row"):
        of_survey(ROWS | {"path": str(tmp_path / "survey")}, tmp_path / "dataset")


def test_repeated_times_and_rows_are_kept_and_told(tmp_path: Path) -> None:
    rows, _ = write_rows(tmp_path / "survey")
    again = pd.concat([rows.iloc[:9], rows.iloc[20:24].assign(flux=lambda table: table["flux"] + 1)])
    later = rows.iloc[40:45].assign(band=lambda table: table["band"].map({"g": "r", "r": "g"}))
    pd.concat([rows, again, later]).to_csv(tmp_path / "survey" / "lc_0.csv", index=False)
    write_row_config(tmp_path)
    code, _, messages = jaxrnn("ingest", "--config", tmp_path / "tiny.yaml", "--results", tmp_path / "results")
    assert code == 0 and "; 13 observations, kept, have the time and passband of another" in messages
    counts = json.loads((alone(tmp_path, tmp_path / "results") / "manifest.json").read_text())["counts"]
    assert (counts["times_repeated"], counts["observations_repeated"]) == (13, 9)
    assert counts["observations_out"] == len(rows) + 18


@pytest.mark.parametrize("on_error", ["stop", {"empty": "reject"}])
def test_objects_that_cuts_empty_are_no_fault(tmp_path: Path, on_error: Any) -> None:
    """A window around detection leaves nothing of what is never detected: that is what was asked for."""
    rows, stars = write_rows(tmp_path / "survey")
    seen = set(rows["star"].to_numpy()[rows["flux"].to_numpy() > 8 * rows["flux_error"].to_numpy()])
    cuts = {"window": {"around": "detection", "before": 30, "after": 30}}
    write_row_config(tmp_path, cuts=cuts, detection={"signal_to_noise": 8}, on_error=on_error)
    dataset = alone(tmp_path, tmp_path / "results")
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert_accounted(manifest["counts"])
    assert 1 - len(seen) / len(stars) > 0.1, "the ceiling on what is rejected is not reached"
    assert manifest["counts"]["objects_cut"] == len(stars) - len(seen) and not manifest["counts"]["objects_rejected"]
    unseen = {str(name) for shard in content(dataset).values() for name in shard.cut_ids}
    assert unseen == set(stars["star"]) - seen and sorted(by_object(dataset)) == sorted(seen)
    code, _, messages = jaxrnn("ingest", "--config", tmp_path / "tiny.yaml", "--results", tmp_path / "results")
    assert code == 0 and f"the whole of {len(unseen)} objects among them, by choice" in messages
    assert "rejected" not in messages


def test_verify_finds_what_is_not_as_it_was_written(survey: Path) -> None:
    dataset = alone(survey, survey / "results")
    assert ingest.verify(dataset, lambda done, total: None) == []
    names = sorted(path.name for path in dataset.glob("*.h5"))
    flipped = bytearray((dataset / names[1]).read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (dataset / names[1]).write_bytes(flipped)
    (dataset / names[2]).unlink()
    shutil.copy(dataset / names[0], dataset / "99999.h5")
    wrong = ingest.verify(dataset, lambda done, total: None)
    assert [name in text for name, text in zip([names[1], names[2], "99999.h5"], wrong, strict=True)] == [True] * 3
    code, _, messages = jaxrnn("verify", "--config", survey / "tiny.yaml", "--results", survey / "results")
    assert code == 2 and names[1] in messages and "run `jaxrnn ingest` again" in messages


def test_a_flipped_bit_is_an_error_when_a_shard_is_read(survey: Path) -> None:
    dataset = alone(survey, survey / "results")
    path = dataset / "00000.h5"
    whole = shards.read(path)
    place = path.read_bytes().find(whole.features.tobytes()[:24])
    assert place > 0, "the features are not stored as they are"
    broken = bytearray(path.read_bytes())
    broken[place + 5] ^= 4
    path.write_bytes(broken)
    with pytest.raises(JaxrnnError, match=r"00000\.h5: no readable shard"):
        shards.read(path)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_shards_are_read_the_same_with_and_without_checksums(survey: Path, compression: str) -> None:
    write_config(survey, data__compression=compression)
    (path,) = alone(survey, survey / "results").glob("*.h5")
    checked, unchecked = shards.read(path), shards.read(path, check=False)
    for name, value in vars(checked).items():
        np.testing.assert_array_equal(value, getattr(unchecked, name))


# ---------------------------------------------------------------- killed, and no room


# the children, which are this process's copies, touch nothing of JAX's
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
@pytest.mark.parametrize("kind", ["sequences", "rows"])
def test_killed_at_random_instants_it_ends_in_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """Children of this process are killed at 25 random instants, up to five of them with the same folder."""
    if kind == "rows":
        write_rows(tmp_path / "survey", objects=200)
        write_row_config(tmp_path, shard_mb=0.006)
    else:
        write_arrays(tmp_path / "survey")
        write_config(tmp_path, data__shard_mb=0.006)
    alone(tmp_path, tmp_path / "imports")
    began = time.monotonic()
    whole = files(alone(tmp_path, tmp_path / "whole"))
    seconds = time.monotonic() - began
    generator = np.random.default_rng(0)
    killed, kept, rounds = 0, 0, 0
    while killed < 25:
        rounds += 1
        assert rounds < 60, "the kills come too late to show anything"
        at = tmp_path / f"cut-{rounds}"
        for _ in range(5):
            before = {path: path.stat().st_mtime_ns for path in at.rglob("[0-9]*.h5")}
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    alone(tmp_path, at)
                os._exit(0)
            time.sleep(generator.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            after = {path: path.stat().st_mtime_ns for path in at.rglob("[0-9]*.h5")}
            assert before.items() <= after.items(), "a shard that was whole was made again"
            killed, kept = killed + was_killed, kept + was_killed * len(before)
            if not was_killed:
                seconds *= 0.8  # it ran through: the machine is quicker now than it was for the first one
                break
        assert files(alone(tmp_path, at)) == whole
        (dataset,) = (at / "datasets").iterdir()
        assert not [path for path in dataset.rglob("*") if path.name.startswith(".")]
    assert kept > 0, "no kill came after a shard was written"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs, which needs root")
@pytest.mark.parametrize("kind", ["sequences", "rows"])
def test_a_full_disk_gives_one_message_and_leaves_nothing_broken(tmp_path: Path, kind: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        if kind == "rows":
            write_rows(tmp_path / "survey", objects=2000)
            write_row_config(tmp_path, shard_mb=0.02)
        else:
            write_arrays(tmp_path / "survey", objects=600)
            write_config(tmp_path, data__shard_mb=0.02)
        with pytest.raises(JaxrnnError, match=r"cannot be written \(No space left on device\); nothing was left"):
            alone(tmp_path, small)
        (dataset,) = (small / "datasets").iterdir()
        assert not list(dataset.rglob("*.part")) and not (dataset / "manifest.json").exists()
        for path in dataset.glob("*.h5"):
            shards.read(path)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert files(alone(tmp_path, small)) == files(alone(tmp_path, tmp_path / "whole"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ---------------------------------------------------------------- real data


@pytest.mark.data
def test_spcc_is_accounted_for_to_the_observation(data_folder: Path, tmp_path: Path) -> None:
    data = Data.model_validate(
        {
            "reader": "spcc",
            "path": str(data_folder / "spcc"),
            "features": ["flux", "passband"],
            "metadata": ["hostz"],
            "on_error": "reject",
        }
    )
    manifest = ingest.ingest(data, data_folder / "spcc", tmp_path / "dataset", Ranks(), lambda done, total: None)
    counts: dict[str, int] = manifest["counts"]  # pyright: ignore
    assert counts["objects_in"] == counts["objects_out"] == 21319
    assert counts["observations_in"] == 2052860 and counts["observations_rejected"] == 20
    assert manifest["rejected_by_reason"] == {"flux_error not positive": 20}
    assert manifest["labels"] == {
        "II": 12027, "IIL": 425, "IIP": 189, "IIn": 789, "Ia": 5088, "Ib": 1438, "Ibc": 259, "Ic": 1104,
    }  # fmt: skip


@pytest.mark.data
def test_goto_arrays_are_read_whole(data_folder: Path) -> None:
    reader = readers.open_reader("goto", data_folder / "goto" / "sample_data")
    read = [reader.read(part) for part in reader.parts(100_000)]  # pyright: ignore
    assert sum(len(sequences.ids) for sequences in read) == 1000
    assert all((np.diff(sequences.offsets) == 40).all() for sequences in read)
    table = np.load(data_folder / "goto" / "sample_data" / "train_time_features.npy")
    np.testing.assert_array_equal(read[0].values, table[:100].reshape(-1, 3)[:, 1:])
