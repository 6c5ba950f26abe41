"""Faulty surveys and results: one message that the user can act on, and nothing half-written."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import surveys
from commands import assert_whole, jaxrnn, refused
from surveys import Arrays

from jaxrnn import plan, predictions, readers, shards, splits
from jaxrnn.errors import JaxrnnError
from jaxrnn.predictions import Predictions

TIME, CONTEXT, LABELS = "train_time_features", "train_contextual_features", "train_labels"


class Workplace:
    """A folder with an experiment file, its survey and its results."""

    def __init__(self, folder: Path, reader: str) -> None:
        self.folder, self.reader = folder, reader
        self.survey, self.results = folder / "survey", folder / "results"
        self.file = folder / "tiny.yaml"
        self.change()

    def change(self, **changes: Any) -> None:
        values = surveys.experiment_values(self.reader, self.survey)
        surveys.write_experiment(self.file, surveys.changed(values, **changes))

    def done(self, command: str) -> str:
        """Returns what `jaxrnn <command>` says, which must succeed."""
        code, _, messages = jaxrnn(command, "--config", self.file, "--results", self.results)
        assert code == 0, messages
        return messages

    def refused(self, command: str) -> str:
        """Returns the message with which `jaxrnn <command>` is refused; nothing that was there may change."""
        before = {path: path.read_bytes() for path in self.results.rglob("*") if path.is_file()}
        message = refused(command, "--config", self.file, "--results", self.results)
        assert_whole(self.results)
        assert {path: path.read_bytes() for path in before} == before
        return message

    @property
    def dataset(self) -> Path:
        (manifest,) = self.results.glob("datasets/*/manifest.json")
        return manifest.parent

    def rejected(self) -> pd.DataFrame:
        return pd.read_csv(self.dataset / "rejected.csv", dtype=str, keep_default_na=False)

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.dataset / "manifest.json").read_text())


@pytest.fixture
def goto(tmp_path: Path) -> Workplace:
    surveys.write_goto(tmp_path / "survey", surveys.goto_arrays())
    return Workplace(tmp_path, "goto")


@pytest.fixture
def spcc(tmp_path: Path) -> Workplace:
    surveys.write_spcc(tmp_path / "survey", *surveys.spcc_tables())
    return Workplace(tmp_path, "spcc")


def assert_nothing_ingested(place: Workplace) -> None:
    assert not list(place.results.rglob("manifest.json"))
    assert not list(place.results.rglob("rejected.csv"))


# Files


def described(tmp_path: Path, reader: str) -> Workplace:
    """Returns a workplace whose experiment names a reader with options that fit some survey, which is not there."""
    (tmp_path / "sample").mkdir()
    sample = importlib.import_module(f"samples.{reader}").write(tmp_path / "sample", np.random.default_rng(0))
    place = Workplace(tmp_path, reader)
    place.change(data__options=sample.options)
    return place


@pytest.mark.parametrize("reader", sorted(readers.READERS))
def test_a_folder_that_is_not_there(tmp_path: Path, reader: str) -> None:
    place = described(tmp_path, reader)
    message = place.refused("ingest")
    assert f"data.path: {place.survey} does not exist (looked for from {Path.cwd()})" in message
    assert_nothing_ingested(place)


@pytest.mark.parametrize("reader", sorted(readers.READERS))
def test_a_folder_without_the_readers_files(tmp_path: Path, reader: str) -> None:
    place = described(tmp_path, reader)
    place.survey.mkdir()
    message = place.refused("ingest")
    assert str(place.survey) in message
    assert "expect" in message or "see data.options" in message or "run `jaxrnn simulate" in message
    assert_nothing_ingested(place)


def test_a_file_where_the_surveys_folder_should_be(goto: Workplace) -> None:
    shutil.rmtree(goto.survey)
    goto.survey.write_text("a file")
    assert str(goto.survey) in goto.refused("ingest")


@pytest.mark.parametrize("name", sorted(surveys.goto_arrays()))
def test_a_missing_array_is_named(goto: Workplace, name: str) -> None:
    (goto.survey / f"{name}.npy").unlink()
    assert f"{goto.survey}: {name}.npy missing; the reader 'goto' expects" in goto.refused("ingest")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def scribbled(file: Path) -> None:
    file.write_bytes(b"these are no numbers\n" * 20)


def pickled(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.array([{"a": Path("/")}, None], dtype=object), allow_pickle=True)


def a_bare_pickle(file: Path) -> None:
    np.array([1]).dump(file)


def an_archive(file: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, a=np.zeros(3))


def a_broken_archive(file: Path) -> None:
    an_archive(file)
    truncated(file)


def text(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.array([["a", "b"]]))


def complex_numbers(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.ones((2, 2), dtype=complex))


@pytest.mark.parametrize(
    "damage",
    [truncated, emptied, scribbled, pickled, a_bare_pickle, an_archive, a_broken_archive, text, complex_numbers],
)
@pytest.mark.parametrize("name", [TIME, "test_labels"])
def test_an_array_that_cannot_be_read(goto: Workplace, damage: Callable[[Path], None], name: str) -> None:
    damage(goto.survey / f"{name}.npy")
    message = goto.refused("ingest")
    assert f"{goto.survey / name}.npy: " in message
    assert "expected" in message
    assert_nothing_ingested(goto)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        (TIME, (12, 5), "shape (12, 5); expected (objects, steps, 3) with time, value and error as the last axis"),
        (TIME, (12, 5, 4), "shape (12, 5, 4); expected (objects, steps, 3)"),
        (TIME, (), "shape (); expected (objects, steps, 3)"),
        (CONTEXT, (12,), "shape (12,); expected (12, columns), one row for each object of train_time_features.npy"),
        (CONTEXT, (11, 2), "shape (11, 2); expected (12, columns)"),
        (LABELS, (13, 2), "shape (13, 2); expected (12, columns)"),
        ("test_labels", (6, 3), "test has 2 contextual and 3 label columns, train has 2 and 2"),
        ("validation_contextual_features", (6, 1), "validation has 1 contextual and 2 label columns"),
    ],
)
def test_arrays_of_the_wrong_shape(goto: Workplace, name: str, shape: tuple[int, ...], said: str) -> None:
    np.save(goto.survey / f"{name}.npy", np.ones(shape))
    assert said in goto.refused("ingest")
    assert_nothing_ingested(goto)


@pytest.mark.parametrize("damage", [truncated, emptied, scribbled, pickled, a_broken_archive, text])
def test_an_archive_that_cannot_be_read(spcc: Workplace, damage: Callable[[Path], None]) -> None:
    damage(spcc.survey / "spcc_lightcurves.npz")
    assert f"{spcc.survey / 'spcc_lightcurves.npz'}: not a readable .npz archive" in spcc.refused("ingest")
    assert_nothing_ingested(spcc)


def test_an_archive_with_flipped_bytes(spcc: Workplace) -> None:
    file = spcc.survey / "spcc_lightcurves.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    file.write_bytes(content)
    assert f"{file}: not a readable .npz archive" in spcc.refused("ingest")


def test_an_archive_of_python_objects_runs_nothing(spcc: Workplace) -> None:
    arrays, metadata = surveys.spcc_tables()
    surveys.write_spcc(spcc.survey, arrays | {"flux": np.array([{}] * 96, dtype=object)}, metadata)
    assert "not a readable .npz archive (Object arrays cannot be loaded" in spcc.refused("ingest")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("flux", None, "no array flux; expected snid, offsets, mjd"),
        ("flux", np.ones(95), "flux not of the shape of mjd, (96,)"),
        ("band", np.ones((96, 2)), "band not "),
        ("mjd", np.ones((96, 1)), "mjd"),
        ("mjd", np.array(["x"] * 96), "mjd"),
        ("offsets", np.arange(0, 97, 4)[:-1], "offsets do not fit; expected 25 values that grow from 0 to 96"),
        ("offsets", np.arange(0, 97, 4)[::-1], "offsets do not fit"),
        ("offsets", np.arange(0, 97, 4) + 1, "offsets do not fit"),
        ("offsets", np.arange(0, 97, 4) + 0.5, "offsets do not fit"),
        ("flux", np.array(["bright"] * 96), "flux"),
        ("snid", np.full(24, 100), "stands twice"),
    ],
)
def test_arrays_that_do_not_fit_together(spcc: Workplace, name: str, array: np.ndarray | None, said: str) -> None:
    arrays, metadata = surveys.spcc_tables()
    kept: Arrays = {key: value for key, value in arrays.items() if key != name}
    surveys.write_spcc(spcc.survey, kept if array is None else {**kept, name: array}, metadata)
    message = spcc.refused("ingest")
    assert said in message
    assert str(spcc.survey) in message


def without_a_column(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="hostz")


def with_a_row_twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.head(1)])


def with_text_for_a_number(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({"hostz": object}).assign(hostz=["unknown", *table["hostz"][1:]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_column, "no column hostz; it has snid, sim_type, ra"),
        (with_a_row_twice, "object 100 has two rows; expected one row an object"),
        (with_text_for_a_number, "column hostz"),
    ],
)
def test_metadata_tables_that_do_not_fit(
    spcc: Workplace, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    arrays, metadata = surveys.spcc_tables()
    surveys.write_spcc(spcc.survey, arrays, change(metadata))
    message = spcc.refused("ingest")
    assert f"{spcc.survey / 'spcc_metadata.csv'}: " in message
    assert said in message


@pytest.mark.parametrize("content", ["", '"a\n', "\x00\x01", "snid\n"])
def test_metadata_that_is_no_table(spcc: Workplace, content: str) -> None:
    (spcc.survey / "spcc_metadata.csv").write_text(content)
    assert f"{spcc.survey / 'spcc_metadata.csv'}: " in spcc.refused("ingest")


# Objects and observations


def damaged_goto() -> tuple[Arrays, list[tuple[str, str, str]]]:
    """Returns arrays with one fault of each kind, and the rows (object, row, reason) that account for them."""
    arrays = surveys.goto_arrays()
    table = arrays[TIME]
    table[1, 0, 0] = np.nan
    table[2, 1, 1] = np.inf
    table[4, 2, 2] = -0.1
    table[5, 0, 2] = 0
    table[7] = surveys.PADDING
    table[8, :, 1] = np.nan  # its last two steps are padding no longer, as not all three values are
    arrays[CONTEXT][10, 1] = np.nan
    return arrays, [
        ("train-000001", "0", "time not finite"),
        ("train-000002", "1", "value not finite"),
        ("train-000004", "2", "value_error not positive"),
        ("train-000005", "0", "value_error not positive"),
        ("train-000007", "", "no observations"),
        ("train-000008", "", "every observation was rejected"),
        *(("train-000008", str(row), "value not finite") for row in range(surveys.STEPS)),
        ("train-000010", "", "context_1 missing or not finite"),
    ]


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 11])
def test_a_faulty_object_stops_ingest_by_default(goto: Workplace, index: int) -> None:
    faulty, faults = damaged_goto()
    name, row, reason = faults[index]
    arrays = surveys.goto_arrays()
    number = int(name.removeprefix("train-"))
    arrays[TIME][number], arrays[CONTEXT][number] = faulty[TIME][number], faulty[CONTEXT][number]
    surveys.write_goto(goto.survey, arrays)
    goto.change(data__metadata=["context_0", "context_1"])
    message = goto.refused("ingest")
    where = f"{goto.survey / TIME}.npy: object {name}" + (f", row {row}" if row else "")
    assert f"{where}: {reason}; mend the file, or set `data.on_error: reject`" in message
    assert_nothing_ingested(goto)


def test_the_number_of_further_faults_is_told(goto: Workplace) -> None:
    surveys.write_goto(goto.survey, damaged_goto()[0])
    assert "more faults in this part of the survey" in goto.refused("ingest")


def test_rejected_objects_and_observations_are_accounted_for(goto: Workplace) -> None:
    arrays, faults = damaged_goto()
    surveys.write_goto(goto.survey, arrays)
    goto.change(data__metadata=["context_1"], data__on_error="reject", data__most_rejected=1, data__shard_mb=0.00076)
    goto.done("ingest")
    rejected, manifest = goto.rejected(), goto.manifest()
    found = list(rejected[["object", "row", "reason"]].itertuples(index=False, name=None))
    assert sorted(found) == sorted(faults)
    assert set(rejected["file"]) == {f"{goto.survey / TIME}.npy"}
    counts = manifest["counts"]
    whole = rejected["row"] == ""
    gone = set(rejected.loc[whole, "object"])
    assert counts["objects_in"] == sum(surveys.OBJECTS.values())
    assert counts["objects_rejected"] == whole.sum() == len(gone) == 3
    assert counts["objects_in"] == counts["objects_out"] + counts["objects_rejected"]
    assert counts["observations_in"] == counts["observations_out"] + counts["observations_rejected"]
    assert manifest["rejected_by_reason"] == rejected["reason"].value_counts().to_dict()
    # each observation that is not there has its own row, or belongs to an object that has one
    present = sum((~(table == surveys.PADDING).all(axis=2)).sum() for key, table in arrays.items() if "time" in key)
    assert counts["observations_in"] == present
    content = [shards.read(goto.dataset / entry["file"]) for entry in manifest["shards"]]
    ids = [name for shard in content for name in shard.ids.tolist()]
    assert len(ids) == counts["objects_out"]
    assert not gone & set(ids)
    assert sum(shard.lengths.sum() for shard in content) == counts["observations_out"]
    assert all(np.isfinite(shard.features).all() and np.isfinite(shard.metadata).all() for shard in content)
    # what is left is as it would be without the faulty objects
    assert sum(manifest["labels"].values()) == counts["objects_out"]


def test_faults_of_metadata_that_is_not_used_do_not_matter(goto: Workplace) -> None:
    arrays = surveys.goto_arrays()
    arrays[CONTEXT][3, 1] = np.nan
    surveys.write_goto(goto.survey, arrays)
    goto.change(data__metadata=["context_0"])
    assert "24 of 24 objects" in goto.done("ingest")


@pytest.mark.parametrize("row", [[0, 0], [1, 1], [0.5, 0.5], [2, -1], [np.nan, 1]])
def test_labels_that_are_not_one_hot(goto: Workplace, row: list[float]) -> None:
    arrays = surveys.goto_arrays()
    arrays[LABELS][3] = row
    surveys.write_goto(goto.survey, arrays)
    assert f"{goto.survey / LABELS}.npy: row 3 is not one-hot" in goto.refused("ingest")


def test_objects_without_a_label_are_stopped_at_or_rejected(spcc: Workplace) -> None:
    arrays, metadata = surveys.spcc_tables()
    arrays["band"][9] = 7
    arrays["band"][17] = -2
    arrays["flux_err"][30] = -1
    surveys.write_spcc(spcc.survey, arrays, metadata.drop(index=5))
    assert "object 102, row 9: passband is none of g, r, i, z (2 more faults" in spcc.refused("ingest")
    spcc.change(data__on_error={"passband": "reject", "error": "reject"})
    assert "object 105: no label" in spcc.refused("ingest")
    spcc.change(data__on_error="reject")
    assert "23 of 24 objects and 89 of 96 observations" in spcc.done("ingest")
    found = list(spcc.rejected()[["object", "row", "reason"]].itertuples(index=False, name=None))
    assert sorted(found) == [
        ("102", "9", "passband is none of g, r, i, z"),
        ("104", "17", "passband is none of g, r, i, z"),
        ("105", "", "no label"),
        ("107", "30", "flux_error not positive"),
    ]
    assert spcc.manifest()["labels"] == {"1": 8, "2": 8, "3": 7}


def test_logarithms_of_what_is_not_positive(spcc: Workplace) -> None:
    arrays, metadata = surveys.spcc_tables()
    arrays["flux"][2] = -5
    surveys.write_spcc(spcc.survey, arrays, metadata)
    spcc.done("ingest")
    spcc.change(data__features=[{"name": "flux", "scaling": "log"}])
    message = refused("ingest", "--config", spcc.file, "--results", spcc.results)
    assert "object 100, row 2: flux not positive, and its logarithm is asked for" in message


def test_a_survey_of_which_nothing_is_left(goto: Workplace) -> None:
    arrays = surveys.goto_arrays()
    for name in arrays:
        if "time" in name:
            arrays[name][:] = surveys.PADDING
    surveys.write_goto(goto.survey, arrays)
    goto.change(data__on_error="reject")
    assert "no object is left of 24 (24 no observations)" in goto.refused("ingest")
    assert_nothing_ingested(goto)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data__features", ["valu"], "data.features: this survey has no 'valu'; did you mean 'value'?"),
        ("data__features", ["passband"], "data.features: this survey has no 'passband'"),
        ("data__features", [{"name": "time", "scaling": "log"}], "data.features: 'time' takes no scaling"),
        ("data__metadata", ["context_2"], "data.metadata: this survey has no 'context_2'; did you mean 'context_1'?"),
        ("data__steps", "night", "data.steps: `night` puts passbands side by side, and this survey has none"),
    ],
)
def test_what_this_survey_does_not_have(goto: Workplace, key: str, value: object, said: str) -> None:
    goto.change(**{key: value})
    assert said in goto.refused("ingest")
    assert_nothing_ingested(goto)


def test_a_mended_survey_is_ingested_afresh(goto: Workplace) -> None:
    faulty = surveys.goto_arrays()
    faulty["test_time_features"][0, 0, 1] = np.nan
    surveys.write_goto(goto.survey, faulty)
    goto.refused("ingest")
    surveys.write_goto(goto.survey, surveys.goto_arrays())
    goto.done("ingest")
    mended = {path.name: path.read_bytes() for path in goto.dataset.glob("*.h5")}
    shutil.rmtree(goto.results)
    goto.done("ingest")
    assert {path.name: path.read_bytes() for path in goto.dataset.glob("*.h5")} == mended


# Labels and classes


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"classes": {"a": ["1"], "b": ["2"]}}, "task.classes: '3' (8 objects) in no class; add them to one, or to"),
        ({"exclude": ["2", "3"]}, "task: the data has one class (1); expected at least 2"),
        ({"classes": {"a": ["1"], "b": ["11"], "c": ["*"]}}, "'11'"),
        ({"exclude": ["33"]}, "'33'"),
        ({"classes": {"a": ["1", "2", "3"], "b": ["*"]}}, "class 'b' has 0 objects"),
    ],
)
def test_labels_that_do_not_fit_the_survey(spcc: Workplace, task: dict[str, Any], said: str) -> None:
    spcc.change(task=task)
    spcc.done("ingest")
    assert said in spcc.refused("split")
    assert not (spcc.results / "tiny").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss__kind": "binary"}, "loss.kind: `binary` tells two classes apart, and there are 3 (1, 2, 3); use"),
        ({"grid": {"loss.kind": ["categorical", "binary"]}}, "loss.kind: `binary` tells two classes apart"),
        ({"task__target": "4"}, "task.target: there is no class '4' (the classes are 1, 2, 3)"),
        ({"task__class_importance": {"33": 2}}, "task.class_importance: there is no class '33'; did you mean '3'?"),
    ],
)
def test_losses_and_scores_that_do_not_fit_the_classes(spcc: Workplace, changes: dict[str, Any], said: str) -> None:
    """Said when the labels are first known, and again before a job trains or results are merged."""
    spcc.change(**changes)
    spcc.done("ingest")
    assert said in spcc.refused("split")
    spcc.change()
    spcc.done("split")
    spcc.change(**changes)
    spcc.done("plan")
    jobs = sorted(spcc.results.glob("tiny/jobs/*/config.yaml"))
    fitting = [job for job in jobs if "categorical" in job.parent.name]
    assert len(jobs) > len(fitting)
    for job in set(jobs) - set(fitting):
        assert said.removeprefix("grid.") in refused("train", "--config", job, "--results", spcc.results)


def test_a_label_that_the_survey_does_not_have_names_the_nearest(spcc: Workplace) -> None:
    arrays, metadata = surveys.spcc_tables()
    metadata["sim_type"] = ["Ia", "Ibc", "II"] * 8
    surveys.write_spcc(spcc.survey, arrays, metadata)
    spcc.done("ingest")
    spcc.change(task__classes={"thermonuclear": ["Ib"], "other": ["*"]})
    message = spcc.refused("split")
    assert "task" in message
    assert "'Ib'" in message
    assert "did you mean 'Ibc'?" in message


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_a_single_object(spcc: Workplace, count: int) -> None:
    arrays, metadata = surveys.spcc_tables()
    metadata["sim_type"] = [3] * count + [1, 2] * ((24 - count) // 2) + [1] * (count % 2)
    surveys.write_spcc(spcc.survey, arrays, metadata)
    spcc.done("ingest")
    message = spcc.refused("split")
    assert f"class '3' has {count} object{'s' * (count > 1)}; expected at least 3, one for each of train" in message
    spcc.change(task={"exclude": ["3"]})
    spcc.done("split")


def test_a_class_that_is_called_like_what_is_left_out(spcc: Workplace) -> None:
    spcc.change(task={"classes": {"excluded": ["1"], "b": ["2"]}, "exclude": ["3"]})
    spcc.done("ingest")
    assert "4 excluded, 4 b" in spcc.done("split")
    table = splits.read_splits(spcc.results / "tiny")
    assert table["split"].tolist().count("excluded") == 8
    assert table["class"].tolist().count("excluded") == 8


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_that_one_split_lacks(goto: Workplace, split: str) -> None:
    """No score that needs two classes is ever asked of a split that has one."""
    arrays = surveys.goto_arrays()
    arrays[f"{split}_labels"][:] = [1, 0]
    surveys.write_goto(goto.survey, arrays)
    goto.done("ingest")
    assert (
        f"split: class '1' has no object in the {split} split (method 'given'); use `split.method: exact`"
        in goto.refused("split")
    )
    goto.change(split={"train": 0.5, "validation": 0.25})
    goto.done("split")


def test_splits_that_the_survey_does_not_give(spcc: Workplace) -> None:
    spcc.change(split={"method": "given"})
    spcc.done("ingest")
    assert "split.method: this survey's files give no splits; use `exact` or `hash`" in spcc.refused("split")


# Results


def of_version(file: Path, version: object) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "jaxrnn_version": version}))


@pytest.mark.parametrize("version", ["0.0.9", "7.1.0", None])
def test_results_of_another_version_are_refused(goto: Workplace, version: str | None) -> None:
    goto.done("ingest")
    manifest = goto.dataset / "manifest.json"
    good = manifest.read_text()
    of_version(manifest, version)
    message = goto.refused("split")
    assert f"{manifest}: made by jaxrnn {version}, and this is" in message
    assert "results of different versions are never mixed" in message
    assert "remove the folder" in message
    manifest.write_text(good)
    goto.done("split")
    goto.done("plan")
    statistics = goto.results / "tiny" / "statistics.json"
    of_version(statistics, version)
    assert f"{statistics}: made by jaxrnn {version}" in goto.refused("aggregate")


def test_a_survey_marker_of_another_version_is_refused(goto: Workplace) -> None:
    goto.done("ingest")
    of_version(goto.dataset / "survey_files.json", "0.0.9")
    assert "made by jaxrnn 0.0.9" in goto.refused("ingest")


@pytest.mark.parametrize("damage", [truncated, emptied, scribbled])
def test_broken_results_say_what_to_run_again(goto: Workplace, damage: Callable[[Path], None]) -> None:
    goto.done("ingest")
    manifest = goto.dataset / "manifest.json"
    good = manifest.read_text()
    damage(manifest)
    message = refused("split", "--config", goto.file, "--results", goto.results)
    assert f"{manifest}: cannot be read" in message
    assert "remove it and run `jaxrnn ingest` again" in message
    manifest.write_text(good)
    damage(goto.dataset / "00000.h5")
    message = refused("split", "--config", goto.file, "--results", goto.results)
    assert f"{goto.dataset / '00000.h5'}: no readable shard" in message
    assert "remove it and run `jaxrnn ingest` again" in message
    assert not (goto.results / "tiny").exists()


def test_json_that_is_no_object(goto: Workplace) -> None:
    goto.done("ingest")
    (goto.dataset / "manifest.json").write_text("[1]")
    assert "expected a JSON object; remove it and run `jaxrnn ingest` again" in goto.refused("split")


def test_a_shard_of_another_version_is_refused(goto: Workplace) -> None:
    goto.done("ingest")
    with h5py.File(goto.dataset / "00000.h5", "a") as file:
        file.attrs["jaxrnn_version"] = "0.0.9"
    assert f"{goto.dataset / '00000.h5'}: made by jaxrnn 0.0.9" in goto.refused("split")


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    part = Predictions(
        "sequence", np.array(["a", "b"]), np.array([0, 1]), np.ones(2), np.ones(2), {"one": np.full((2, 2), 0.5)}
    )
    predictions.write(tmp_path / "predictions.h5", {None: {"validation": part, "test": part}}, ("x", "y"))
    assert predictions.read(tmp_path / "predictions.h5")[1] == ("x", "y")
    return tmp_path / "predictions.h5"


def test_predictions_of_another_version_are_refused(predicted: Path) -> None:
    with h5py.File(predicted, "a") as file:
        file.attrs["jaxrnn_version"] = "0.0.9"
    with pytest.raises(JaxrnnError, match=r"predictions\.h5: made by jaxrnn 0\.0\.9"):
        predictions.read(predicted)


@pytest.mark.parametrize("damage", [truncated, emptied, scribbled])
def test_broken_predictions_are_refused(predicted: Path, damage: Callable[[Path], None]) -> None:
    damage(predicted)
    with pytest.raises(JaxrnnError, match=r"predictions\.h5: cannot be read .*; remove it and train the job again"):
        predictions.read(predicted)


@pytest.mark.parametrize("lacking", ["validation", "test/ids", "test/probabilities"])
def test_incomplete_predictions_are_refused(predicted: Path, lacking: str) -> None:
    with h5py.File(predicted, "a") as file:
        del file[lacking]
    with pytest.raises(JaxrnnError, match=r"predictions\.h5: cannot be read"):
        predictions.read(predicted)


def test_a_jobs_config_of_another_version_is_refused(goto: Workplace) -> None:
    goto.done("plan")
    file = goto.results / "tiny" / "jobs" / "all-1" / "config.yaml"
    version = plan.load_job(file).jaxrnn_version
    file.write_text(file.read_text().replace(version, "0.0.9"))
    message = refused("train", "--config", file, "--results", goto.results)
    assert f"{file}: made by jaxrnn 0.0.9" in message


def test_statistics_that_come_before_their_splits_are_missed(goto: Workplace) -> None:
    goto.done("ingest")
    goto.done("split")
    (goto.results / "tiny" / "splits.csv").unlink()
    with pytest.raises(JaxrnnError, match=r"splits\.csv: not there yet; run `jaxrnn split` first"):
        splits.read_splits(goto.results / "tiny")
