"""Ingest: the same bytes from any number of ranks, nothing lost, nothing done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from experiments import write_arrays, write_config

from jaxrnn import config, features, ingest, plan, readers, shards
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks, join
from jaxrnn.readers import Column, Sequences, Survey
from jaxrnn.results import Results

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
    write_config(tmp_path, data__sequences_per_shard=16)
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


def test_ranks_that_each_think_they_are_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        COMM_WORLD = type("World", (), {"Get_size": lambda self: 1, "Get_rank": lambda self: 0})()

    monkeypatch.setitem(sys.modules, "mpi4py", type("mpi4py", (), {"MPI": Alone}))
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(JaxrnnError, match="4 MPI ranks were asked for, and this process sees 1"):
        join(None)


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


def test_a_killed_ingest_goes_on_and_ends_in_the_same_bytes(survey: Path) -> None:
    write_arrays(survey / "survey", objects=600)
    write_config(survey, data__sequences_per_shard=4)
    whole = alone(survey, survey / "whole")
    command = [sys.executable, "-m", "jaxrnn", "ingest", "--config", str(survey / "tiny.yaml"), "--results"]
    process = subprocess.Popen([*command, str(survey / "cut")], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list((survey / "cut").rglob("*.h5"))) < 10 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (cut,) = (survey / "cut" / "datasets").iterdir()
    assert not (cut / "manifest.json").exists(), "it was killed too late to show anything"
    before = {path.name: path.stat().st_mtime_ns for path in cut.glob("[0-9]*.h5")}
    alone(survey, survey / "cut")
    after = {path.name: path.stat().st_mtime_ns for path in cut.glob("[0-9]*.h5")}
    assert len(before) >= 10 and before.items() <= after.items()
    assert files(cut) == files(whole)


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
    with pytest.raises(JaxrnnError, match=r"object train-000003.*every observation was rejected.*on_error: reject"):
        alone(survey, survey / "results")
    write_config(survey, data__sequences_per_shard=16, data__on_error="reject")
    dataset = alone(survey, survey / "results")
    counts = json.loads((dataset / "manifest.json").read_text())["counts"]
    rejected = pd.read_csv(dataset / "rejected.csv")
    assert counts["objects_in"] - counts["objects_out"] == counts["objects_rejected"] == 1
    rows = counts["observations_in"] - counts["observations_out"]
    assert rows == counts["observations_rejected"] == rejected["row"].notna().sum()
    assert set(rejected["object"]) == {"train-000003", "train-000005"}
    assert "error not positive" in set(rejected["reason"])


def test_a_value_beyond_single_precision_is_a_fault(survey: Path) -> None:
    file = survey / "survey" / "train_time_features.npy"
    table = np.load(file)
    table[3, 0, 1] = 1e39  # finite here, infinite in a shard
    np.save(file, table)
    with pytest.raises(JaxrnnError, match="object train-000003, row 0: value not finite"):
        alone(survey, survey / "results")


@pytest.mark.parametrize("per_shard", [4, 100])
def test_an_object_that_stands_twice_stops_wherever_shards_are_cut(tmp_path: Path, per_shard: int) -> None:
    import surveys

    arrays, metadata = surveys.spcc_tables()
    arrays["snid"] = arrays["snid"].copy()
    arrays["snid"][-1] = arrays["snid"][0]
    surveys.write_spcc(tmp_path / "survey", arrays, metadata)
    data = Data.model_validate(
        {
            "reader": "spcc",
            "path": str(tmp_path / "survey"),
            "features": ["flux"],
            "on_error": "reject",
            "sequences_per_shard": per_shard,
        }
    )
    with pytest.raises(JaxrnnError, match=f"object {arrays['snid'][0]}"):
        ingest.ingest(data, tmp_path / "survey", tmp_path / "dataset", Ranks(), lambda done, total: None)


# ---------------------------------------------------------------- features

BANDS = Survey(
    columns=(Column("flux", "uJy"), Column("flux_error", "uJy")), error_columns=("flux_error",), passbands=("g", "r")
)


def light_curves(seed: int = 0, count: int = 12) -> Sequences:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 30, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    time_days = np.concatenate([50000 + np.sort(generator.uniform(0, 12, n)) for n in lengths])
    values = np.stack([generator.normal(0, 5, offsets[-1]), generator.uniform(0.5, 2, offsets[-1])], axis=1)
    return Sequences(
        ids=np.arange(count).astype(str), labels=np.full(count, "x"), offsets=offsets, time=time_days, values=values,
        passband=generator.integers(0, 2, offsets[-1]), metadata=np.zeros((count, 0)),
        row_numbers=np.arange(offsets[-1]), file="here",
    )  # fmt: skip


def test_nights_are_what_plain_loops_find() -> None:
    data = Data.model_validate(
        {"reader": "spcc", "path": ".", "steps": "night", "features": ["time", "flux", "flux_error", "passband"]}
    )
    sequences = light_curves()
    steps = features.make(data, BANDS, sequences)
    expected = []
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        nights: list[list[int]] = []
        for row in range(start, stop):
            if row == start or sequences.time[row] - sequences.time[row - 1] > data.night_gap:
                nights.append([])
            nights[-1].append(row)
        for night in nights:
            flux, error, seen = [], [], []
            for band in (0, 1):
                rows = [row for row in night if sequences.passband[row] == band]
                weights = sequences.values[rows, 1] ** -2.0
                seen.append(float(bool(rows)))
                flux.append(np.average(sequences.values[rows, 0], weights=weights) if rows else np.nan)
                error.append(weights.sum() ** -0.5 if rows else np.nan)
            expected.append([sequences.time[night].mean(), *flux, *error, *seen])
    np.testing.assert_allclose(steps.features, np.array(expected), rtol=2e-6, equal_nan=True)
    assert steps.offsets[-1] == len(expected)
    columns, indicators = features.describe(data, BANDS)
    assert [column.name for column in columns] == [
        "time", "flux_g", "flux_r", "flux_error_g", "flux_error_r", "passband_g", "passband_r",
    ]  # fmt: skip
    assert indicators.tolist() == [False] * 5 + [True] * 2


def test_a_step_an_observation_keeps_every_observation() -> None:
    data = Data.model_validate(
        {
            "reader": "spcc",
            "path": ".",
            "features": [
                "time_since_first",
                "time_difference",
                {"name": "flux", "scaling": "asinh", "softening": 2.0},
                {"name": "flux_error", "scaling": "log"},
                "passband",
            ],
        }
    )
    sequences = light_curves(1)
    steps = features.make(data, BANDS, sequences)
    assert len(steps.features) == len(sequences.time)
    np.testing.assert_allclose(steps.features[:, 2], np.arcsinh(sequences.values[:, 0] / 2), rtol=1e-6)
    np.testing.assert_allclose(steps.features[:, 3], np.log(sequences.values[:, 1]), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(steps.features[:, 4:].argmax(axis=1), sequences.passband)
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        since = sequences.time[start:stop] - sequences.time[start]
        np.testing.assert_allclose(steps.features[start:stop, 0], since, atol=1e-5)
        np.testing.assert_allclose(steps.features[start:stop, 1], np.diff(since, prepend=0), atol=1e-5)


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
    read = [reader.read(part) for part in reader.parts(100)]
    assert sum(len(sequences.ids) for sequences in read) == 1000
    assert all((np.diff(sequences.offsets) == 40).all() for sequences in read)
    table = np.load(data_folder / "goto" / "sample_data" / "train_time_features.npy")
    np.testing.assert_array_equal(read[0].values, table[:100].reshape(-1, 3)[:, 1:])
