"""Prediction of new surveys: what a job predicted, from any number of ranks and after any kill, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import jaxrnn, refused
from invented import CLASSES, HOSTILE, bundle, observations, saved, write_survey
from scipy import stats
from test_ingest import MPIRUN, needs_mpi
from workflows import Workflow

from jaxrnn import (
    batches,
    bundles,
    calibration,
    decoding,
    ensembles,
    inference,
    ingest,
    predict,
    predictions,
    shards,
    splits,
    tables,
)
from jaxrnn.bundles import Bundle
from jaxrnn.errors import JaxrnnError
from jaxrnn.predictions import Predictions
from jaxrnn.ranks import Ranks
from jaxrnn.results import Results
from jaxrnn.transcripts import Transcripts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A survey in several shards and a model for it; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    survey = write_survey(folder / "survey", *observations())
    return survey, saved(folder / "best", bundle(survey))


def silent(done: int, total: int) -> None:
    pass


def run(model: Bundle, survey: Path, output: Path) -> inference.Told:
    return inference.run(model, inference.data_for(model, survey), output, Ranks(), silent)


def test_it_predicts_what_the_job_predicted(finished: Workflow, tmp_path: Path) -> None:
    model = bundles.load(finished.results / "best")
    (survey,) = (finished.folder / "results" / "surveys").iterdir()
    code, _, messages = jaxrnn(
        "predict", "--model", finished.results / "best", "--input", survey, "--output", tmp_path / "p.parquet"
    )
    assert code == 0 and "88 of 88 objects are predicted, 0 rejected and 0 cut" in messages
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet"]
    best = json.loads((finished.results / "best.json").read_text())
    content, classes = predictions.read(finished.results / "jobs" / best["job"] / "predictions.h5")
    test = content[None]["test"]
    expected = test.probabilities[best["trial"]]
    # before calibration
    at = Results(finished.folder / "results")
    (dataset,) = (at.root / "datasets").iterdir()
    corpus = batches.Corpus(dataset, splits.read_splits(finished.results), model.statistics)
    part = corpus.part("test")
    pieces = [part.read(place) for place in range(len(part.starts) - 1)]
    found = np.concatenate([predict.by_batches(model, piece)[0] for piece in pieces])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # the command's table
    table = tables.read(tmp_path / "p.parquet").set_index("id").loc[test.ids]
    columns = [f"probability_{name}" for name in classes]
    calibrated = calibration.scaled(expected, best["temperature"])
    np.testing.assert_allclose(table[columns], calibrated, atol=1e-5)
    assert table["class"].tolist() == [classes[index] for index in expected.argmax(axis=1)]
    validation = content[None]["validation"]
    fitted = calibration.temperature(validation.probabilities[best["trial"]], validation.labels)
    assert model.members[0].temperature == best["temperature"] == fitted


def test_every_format_holds_the_same_and_ids_stay_text(made: tuple[Path, Path], tmp_path: Path) -> None:
    survey, best = made
    model = bundles.load(best)
    found = {}
    for ending in ("parquet", "csv", "h5"):
        told = run(model, survey, tmp_path / f"p.{ending}")
        assert told == inference.Told(30, 30, 0, 0, 0, None)
        found[ending] = tables.read(tmp_path / f"p.{ending}")
    first = found["parquet"]
    assert set(HOSTILE) <= set(first["id"]) and first["id"].is_unique and len(first) == 30
    assert set(first["class"]) <= set(CLASSES)
    for other in found.values():
        pd.testing.assert_frame_equal(first, other.astype(first.dtypes), check_exact=True)
    assert not list(tmp_path.glob("*.work")) and not list(tmp_path.glob("*.rejected.csv"))


def test_an_ensembles_numbers_are_those_of_its_members(made: tuple[Path, Path], tmp_path: Path) -> None:
    survey, best = made
    model = bundles.load(best)
    run(model, survey, tmp_path / "both.parquet")
    both = tables.read(tmp_path / "both.parquet")
    columns = [f"probability_{name}" for name in CLASSES]
    alone = []
    for place, member in enumerate(model.members):
        run(replace(model, members=(member,)), survey, tmp_path / f"{place}.parquet")
        alone.append(tables.read(tmp_path / f"{place}.parquet"))
        assert (alone[-1]["mutual_information"] == 0).all()
    probabilities = np.stack([table[columns].to_numpy(np.float64) for table in alone])
    mean = probabilities.mean(axis=0)
    np.testing.assert_allclose(both[columns], mean, atol=1e-6)
    total = stats.entropy(mean, axis=1)
    np.testing.assert_allclose(both["entropy"], total, atol=1e-5)
    np.testing.assert_allclose(
        both["mutual_information"], total - stats.entropy(probabilities, axis=2).mean(axis=0), atol=1e-5
    )
    assert both["class"].tolist() == [CLASSES[index] for index in mean.argmax(axis=1)]


def test_a_certain_class_has_no_entropy() -> None:
    assert ensembles.entropy(np.array([[0.0, 1.0], [0.5, 0.5]])) == pytest.approx([0, np.log(2)])


@pytest.mark.mpi
@needs_mpi
def test_any_number_of_ranks_writes_the_same_bytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    survey, best = made
    # one rank here: what a lone process writes
    run(bundles.load(best), survey, tmp_path / "one.h5")
    command = [sys.executable, "-m", "jaxrnn", "predict", "--model", best, "--input", survey]
    words = [MPIRUN, "-n", "2", *command, "--output", tmp_path / "two.h5", "--ranks", "2"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("30 of 30 objects are predicted") == 1
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


KILLED = """
import os, signal, sys
from jaxrnn import cli, inference
from jaxrnn.inference import answers
made = []
def killed(*arguments):
    made.append(1)
    if len(made) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return answers(*arguments)
inference.answers = killed
cli.main()
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey, best = made
    model = bundles.load(best)
    run(model, survey, tmp_path / "quiet.parquet")
    output = tmp_path / "killed.parquet"
    words = [sys.executable, "-c", KILLED, "predict", "--model", best, "--input", survey, "--output", output]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not output.exists()
    before = {path: path.read_bytes() for path in tmp_path.rglob("parts/*.parquet")}
    assert len(before) == 2
    answered: list[int] = []

    def counted(*arguments: Any) -> inference.Answers:
        answered.append(1)
        return predicted(*arguments)

    predicted: Callable[..., inference.Answers] = inference.answers
    monkeypatch.setattr(inference, "answers", counted)
    run(model, survey, output)
    assert output.read_bytes() == (tmp_path / "quiet.parquet").read_bytes()
    count = len(answered)
    run(model, survey, output)
    assert len(answered) - count == count + len(before), "what was predicted before the kill was predicted again"


def test_what_is_left_out_is_accounted_for(made: tuple[Path, Path], tmp_path: Path) -> None:
    table, stars = observations()
    model = bundle(made[0], kind="sequence", layers=[{"layer": "flatten", "steps": 9}, {"layer": "dense", "units": 3}])
    table.loc[table["star"] == "007", "flux_error"] = -1.0  # rejected with all of its rows
    lengths: Any = table.groupby("star").size()
    scratched = next(name for name, length in lengths.items() if 2 < length < 9 and name not in ("007", "star-3"))
    table.loc[table.index[table["star"] == scratched][0], "flux"] = np.nan
    stars.loc[stars["star"] == "star-3", "redshift"] = np.nan  # no metadata, no prediction
    survey = write_survey(tmp_path / "survey", table, stars)
    told = run(model, survey, tmp_path / "p.csv")
    too_long = set(lengths.index[lengths > 9]) - {"007", "star-3"}
    assert too_long and told.objects == 30 == told.predicted + told.rejected + told.cut
    assert told.rejected == len(too_long) + 2
    rejected = pd.read_csv(tmp_path / "p.csv.rejected.csv", dtype=str, keep_default_na=False)
    reasons: Any = rejected.set_index("object")["reason"]
    assert too_long == set(reasons.index[reasons.str.contains("network takes at most 9")])
    assert "flux not finite" in reasons.loc[scratched] and "redshift missing" in reasons.loc["star-3"]
    assert set(tables.read(tmp_path / "p.csv")["id"]) == set(stars["star"]) - too_long - {"007", "star-3"}


def test_objects_that_cuts_empty_are_cut(made: tuple[Path, Path], tmp_path: Path) -> None:
    cuts = {"window": {"around": "redshift", "before": 1e5, "after": 59050}}
    model = bundle(made[0], data={"cuts": cuts})
    told = run(model, made[0], tmp_path / "p.csv")
    rejected = pd.read_csv(tmp_path / "p.csv.rejected.csv", dtype=str, keep_default_na=False)
    assert 0 < told.cut == len(rejected) and set(rejected["reason"]) == {inference.CUT}
    assert told.predicted + told.cut == told.objects == 30


def test_where_all_is_rejected_the_table_is_empty_and_says_so(made: tuple[Path, Path], tmp_path: Path) -> None:
    table, stars = observations()
    survey = write_survey(tmp_path / "survey", table.assign(flux_error=0.0), stars)
    for ending in ("parquet", "csv", "h5"):
        output = tmp_path / f"p.{ending}"
        code, _, messages = jaxrnn("predict", "--model", made[1], "--input", survey, "--output", output)
        assert code == 0 and "0 of 30 objects are predicted, 30 rejected and 0 cut" in messages
        assert len(tables.read(output)) == 0 and "probability_other" in tables.read(output)
        rejected = pd.read_csv(tmp_path / f"p.{ending}.rejected.csv", dtype=str)
        assert rejected["reason"].tolist().count("every observation was rejected") == 30


def test_files_that_cannot_be_read_are_told(made: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path / "survey")
    (tmp_path / "survey" / "torn.csv").write_text("a,table\nof,something,else\n")
    arguments = ("--input", tmp_path / "survey", "--output", tmp_path / "p.csv")
    code, _, messages = jaxrnn("predict", "--model", made[1], *arguments)
    assert code == 0, messages
    assert "30 of 30 objects are predicted, 0 rejected and 0 cut; 1 files, or pieces of them, could not be" in messages
    rejected = pd.read_csv(tmp_path / "p.csv.rejected.csv", dtype=str, keep_default_na=False)
    assert rejected["file"].tolist() == [str(tmp_path / "survey" / "torn.csv")]


def test_an_empty_survey_is_one_message(made: tuple[Path, Path], tmp_path: Path) -> None:
    table, stars = observations()
    survey = write_survey(tmp_path / "survey", table.iloc[:0], stars.iloc[:0])
    message = refused("predict", "--model", made[1], "--input", survey, "--output", tmp_path / "p.csv")
    assert "the survey's 2 files hold no object and no row; expected some" in message
    assert not (tmp_path / "p.csv").exists()


def units(changed: dict[str, Any]) -> None:
    changed["values"] = {"flux": "Jy", "flux_error": "uJy"}


def bands(changed: dict[str, Any]) -> None:
    changed["passbands"] = ["g", "r", "i"]


def no_redshift(changed: dict[str, Any]) -> None:
    changed["metadata"] = {"file": "stars.csv", "columns": {"other": {"column": "redshift"}}}


def clock(changed: dict[str, Any]) -> None:
    changed["time_unit"] = "hours"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (units, "input flux in 'Jy', and the model's in 'uJy'"),
        (bands, "the passbands are g, r, i, and the model's g, r"),
        (bands, "input passband_i unknown to the model"),
        (no_redshift, "this survey has no 'redshift'"),
        (clock, "time is in hours, and the model's in days"),
    ],
)
def test_other_inputs_than_the_models_are_told(
    made: tuple[Path, Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    model = bundles.load(made[1])
    options = json.loads(json.dumps(model.data.options))
    change(options)
    (tmp_path / "data.yaml").write_text(json.dumps({"data": {"options": options}}))
    arguments = ("--model", made[1], "--input", made[0], "--output", tmp_path / "p.csv")
    message = refused("predict", *arguments, "--data", tmp_path / "data.yaml")
    assert said in message and message.count("\n") == 1


def test_bad_input_is_one_message_and_leaves_nothing(made: tuple[Path, Path], tmp_path: Path) -> None:
    survey, best = made
    output = tmp_path / "out" / "p.csv"

    def told(model: Path = best, path: Path = survey, output: Path = output, *more: object) -> str:
        return refused("predict", "--model", model, "--input", path, "--output", output, *more)

    assert "run `jaxrnn aggregate` first" in told(model=tmp_path / "none")
    assert "expected a model bundle" in told(model=best / "bundle.json")
    assert "ends in .parquet, .csv, .h5" in told(output=tmp_path / "p.txt")
    assert "does not exist" in told(path=tmp_path / "none")
    (tmp_path / "data.yaml").write_text("data: {reader: tabel}\n")
    assert "did you mean 'table'" in told(best, survey, output, "--data", tmp_path / "data.yaml")
    message = told(best, survey, output, "--reader", "tabel")
    assert message.startswith("jaxrnn: --reader tabel: 1 mistake") and "did you mean 'table'" in message
    (tmp_path / "data.yaml").write_text("data: {reader: goto, options: {}}\n")
    assert "the reader 'goto' expects" in told(best, survey, output, "--data", tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("data:\n  options: {objct: star}\n  shard_mb: -1\n")
    message = told(best, survey, output, "--data", tmp_path / "data.yaml")
    assert "line 2: data.options.objct: unknown key; did you mean 'object'" in message
    assert "line 3: data.shard_mb: expected a value > 0" in message
    (tmp_path / "data.yaml").write_text("options: {}\n")
    assert "expected one section, `data`" in told(best, survey, output, "--data", tmp_path / "data.yaml")
    assert not output.parent.exists()


def test_nothing_of_the_survey_is_written_over(made: tuple[Path, Path], tmp_path: Path) -> None:
    survey = tmp_path / "survey"
    shutil.copytree(made[0], survey)
    (tmp_path / "linked.csv").symlink_to(survey / "stars.csv")
    (tmp_path / "folder.csv").mkdir()
    (inference._rejected(tmp_path / "p.csv") / "kept").mkdir(parents=True)
    shutil.copytree(survey, tmp_path / "work.csv.work" / "survey")
    before = sorted(tmp_path.rglob("*"))

    def told(output: str, path: Path = survey) -> str:
        return refused("predict", "--model", made[1], "--input", path, "--output", tmp_path / output)

    assert "is a folder" in told("folder.csv") and "is a folder" in told("p.csv")
    assert "in the place of the survey" in told("survey/p.csv")
    assert "in the place of the survey" in told("survey/new/p.csv")
    assert "in the place of the survey" in told("work.csv", tmp_path / "work.csv.work" / "survey")
    assert "in the place of the survey" in told("linked.csv")
    # the reader takes the table of objects from beside this file
    assert "is a file of the survey" in told("survey/stars.csv", survey / "observations.csv")
    assert sorted(tmp_path.rglob("*")) == before


def broken_json(folder: Path) -> None:
    (folder / "bundle.json").write_text("{")


def old_layout(folder: Path) -> None:
    values = json.loads((folder / "bundle.json").read_text())
    del values["layout_version"]
    (folder / "bundle.json").write_text(json.dumps(values))


def torn(folder: Path) -> None:
    content = (folder / "parameters_1.npz").read_bytes()
    (folder / "parameters_1.npz").write_bytes(content[: len(content) // 2])


def flipped(folder: Path) -> None:
    content = bytearray((folder / "parameters.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "parameters.npz").write_bytes(content)


def other_model(folder: Path) -> None:
    values = json.loads((folder / "bundle.json").read_text())
    values["model"]["units"] = 6
    (folder / "bundle.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken_json, "cannot be read"),
        (old_layout, "a model bundle of layout 1"),
        (torn, "no readable parameters"),
        (flipped, "no readable parameters"),
        (other_model, "the network needs"),
    ],
)
def test_a_broken_bundle_is_one_message(
    made: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    best = tmp_path / "best"
    shutil.copytree(made[1], best)
    damage(best)
    assert said in refused("predict", "--model", best, "--input", made[0], "--output", tmp_path / "p.csv")


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kind", ["prefix", "step"])
def test_predictions_of_every_step_say_which(made: tuple[Path, Path], tmp_path: Path, kind: str, strides: int) -> None:
    layers = [
        {"layer": "conv", "filters": 4, "kernel": 2, "stride": strides, "padding": "causal"},
        {"layer": "gru", "units": 4},
    ]
    model = bundle(made[0], kind=kind, layers=layers)
    run(model, made[0], tmp_path / "p.parquet")
    found = tables.read(tmp_path / "p.parquet")
    table = observations()[0].sort_values("mjd", kind="stable")
    for name, own in found.groupby("id"):
        times = table.loc[table["star"] == name, "mjd"].to_numpy()[::strides]
        assert own["step"].tolist() == (1 + strides * np.arange(len(times))).tolist()
        np.testing.assert_allclose(own["time"], times)


@pytest.mark.parametrize("by_decoder", [False, True])
def test_label_sequences_are_decoded_as_the_report_does(
    made: tuple[Path, Path], tmp_path: Path, by_decoder: bool
) -> None:
    decoder = {"units": 5, "cell": "gru", "attention": "general", "look_ahead": True, "most_labels": 3}
    model = bundle(
        made[0],
        kind="label_sequence",
        members=1,
        outputs=4,
        task={} if by_decoder else {"beam_width": 3},
        **({"decoder": decoder} if by_decoder else {}),
    )
    run(model, made[0], tmp_path / "p.parquet")
    found = tables.read(tmp_path / "p.parquet").set_index("id")
    data, dataset = inference.data_for(model, made[0]), tmp_path / "dataset"
    ingest.ingest(data, made[0], dataset, Ranks(), silent, to_predict=True)
    network = inference.network(model)
    for path in splits.shard_paths(dataset):
        shard = shards.read(path)
        inputs = model.statistics.normalised(shard.features, shard.metadata, shard.offsets)
        examples = batches.Examples(shard.ids, shard.labels, shard.offsets, *inputs)
        (probabilities,) = predict.by_batches(model, examples)
        nothing = np.full((len(shard.ids), 1), -1)
        places = network.places(shard.lengths)
        entry = Predictions(
            "label_sequence", shard.ids, nothing, shard.lengths, places, {"t": probabilities}, by_decoder
        )
        decoded = Transcripts.of(entry, "t", model.task.beam_width).decoded
        expected = [" ".join(CLASSES[label] for label in labels) for labels in decoded]
        assert found.loc[shard.ids, "labels"].tolist() == expected
        # how sure that is: by calibrated probabilities, one sequence at a time
        scaled = calibration.scaled(probabilities, model.members[0].temperature)
        surprise = decoding.named_surprise if by_decoder else decoding.surprise
        for name, labels, piece in zip(shard.ids, decoded, np.split(scaled, np.cumsum(places)[:-1]), strict=True):
            row = found.loc[name]
            assert row["probability"] == pytest.approx(np.exp(-surprise(piece, labels, len(CLASSES))), rel=1e-5)
            counted = piece[: len(labels) + 1] if by_decoder else piece
            assert row["entropy"] == pytest.approx(stats.entropy(counted, axis=1).mean(), rel=1e-4)
    assert found["probability"].between(0, 1).all() and model.members[0].temperature != 1


def test_any_text_comes_back_from_every_format(tmp_path: Path) -> None:
    ids = [*HOSTILE, "two\nlines", "\r", '"', "'", "\t", "\u2028", "x" * 10_000]
    piece = pd.DataFrame({"id": np.array(ids, dtype=object), "class": "a", "probability_<b>/x": np.float32(1 / 3)})
    for ending in ("parquet", "csv", "h5"):
        with tables.writing(tmp_path / f"t.{ending}", {}) as write:
            for part in (piece.iloc[:0], piece.iloc[:5], piece.iloc[5:]):
                write(part)
        found = tables.read(tmp_path / f"t.{ending}")
        assert found["id"].tolist() == ids and list(found) == list(piece)
        assert set(found["probability_<b>/x"].to_numpy(np.float32)) == {np.float32(1 / 3)}


def test_bytes_of_a_bundle_are_what_was_saved(made: tuple[Path, Path], tmp_path: Path) -> None:
    model = bundles.load(made[1])
    again = bundles.load(saved(tmp_path / "again", model))
    assert again.digest == model.digest and again.survey == model.survey and again.data == model.data
    for one, other in zip(model.members, again.members, strict=True):
        assert (one.trial, one.seed, one.temperature) == (other.trial, other.seed, other.temperature)
        assert {name: values.tobytes() for name, values in one.arrays.items()} == {
            name: values.tobytes() for name, values in other.arrays.items()
        }


def test_two_runs_with_one_output_do_not_meet(made: tuple[Path, Path], tmp_path: Path) -> None:
    from jaxrnn import lock

    with lock.held(tmp_path / "p.csv.work"), pytest.raises(JaxrnnError, match="another run works in this folder"):
        run(bundles.load(made[1]), made[0], tmp_path / "p.csv")
    assert os.listdir(tmp_path) == []
