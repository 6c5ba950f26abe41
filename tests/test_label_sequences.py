"""Label sequences by CTC, from the survey to the report: what is taught, scored and told."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from experiments import prepared, read_predictions
from numpy.random import default_rng
from sklearn import metrics as sk
from test_reader_mnist import ink

from jaxrnn import (
    aggregate,
    batches,
    bundles,
    compare,
    config,
    ctc,
    decoding,
    jobs,
    plan,
    predict,
    predictions,
    report,
    results,
    splits,
    training,
    transcripts,
    uncertainty,
    view,
)
from jaxrnn.batches import Bucket, Corpus, Examples, Part, Windows
from jaxrnn.config import Model, Training
from jaxrnn.errors import JaxrnnError
from jaxrnn.predictions import Predictions
from jaxrnn.training import Hyperparameters, Program, State
from jaxrnn.transcripts import Transcripts
from jaxrnn.uncertainty import DROPOUT

LAYERS: list[Any] = [
    {"layer": "conv", "filters": 12, "kernel": 3, "stride": 2},
    {"layer": "gru", "units": 8, "bidirectional": True},
]
TASK: dict[str, Any] = {
    "task": {"kind": "label_sequence"},
    "model": {"layers": LAYERS},
    "loss": {"kind": "ctc", "class_weights": "none"},
    "selection": {"metric": "label_error_rate"},
}
RATES = ("label_error_rate", "sequence_error_rate")


def write_survey(folder: Path, objects: int = 90, separator: str = " ") -> None:
    """Writes a table of observations: each label of an object is a plateau of its height, between steps at 0."""
    generator, rows = default_rng(7), []
    heights = {"low": 1.0, "high": 3.0, "<b>deep</b>": -2.0}
    for number in range(objects):
        labels = generator.choice(list(heights), generator.integers(1, 4)).tolist()
        values = [0.0]
        for label in labels:
            values += [heights[label]] * int(generator.integers(3, 6)) + [0.0] * int(generator.integers(2, 4))
        for step, value in enumerate(values):
            noisy = value + generator.normal(0, 0.1)
            rows.append({"star": f"s{number}", "time": step, "value": noisy, "phases": separator.join(labels)})
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)


def label_data(folder: Path) -> dict[str, Any]:
    options = {"object": "star", "time": "time", "values": {"value": ""}, "label": "phases"}
    return {"reader": "table", "options": options, "features": ["value"], "path": str(folder / "survey")}


def ready(folder: Path, **changes: Any) -> Any:
    """Returns an experiment on label sequences that is ingested, split and planned; its results lie under `folder`."""
    if not (folder / "survey").exists():
        write_survey(folder / "survey")
    split = {"method": "exact", "train": 0.6, "validation": 0.2}
    of = {"data": label_data(folder), "split": split, "seeds": 2, **TASK}
    return prepared(folder, training__batch_size=8, training__learning_rate=0.01, **{**of, **changes})


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("label_sequences")
    of, at, made = ready(folder, training__epochs=40, training__length_buckets=1)
    (job,) = made.jobs
    jobs.train(plan.load_job(at.job("tiny", job.name) / "config.yaml"), at, at.job("tiny", job.name), lambda text: None)
    return of, at, made, aggregate.aggregate(of, at)


def test_a_network_learns_to_spell(learnt: Any) -> None:
    of, at, made, best = learnt
    folder = at.experiment("tiny")
    assert best["test"]["label_error_rate"]["value"] < 0.1
    content, classes = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")
    test = content["test"]
    assert classes == ("<b>deep</b>", "high", "low")
    assert test.kind == "label_sequence" and test.places.tolist() == (-(-test.lengths // 2)).tolist()
    assert test.probabilities[best["trial"]].shape == (test.places.sum(), 4)
    np.testing.assert_allclose(test.probabilities[best["trial"]].sum(axis=1), 1, atol=1e-5)
    # the labels are those of the survey
    texts = pd.read_csv(folder / "splits.csv", dtype=str).set_index("id")["label"]
    for name, labels in zip(test.ids, test.labels, strict=True):
        assert " ".join(classes[label] for label in labels[labels >= 0]) == texts[name]
    # the bundle predicts the same
    statistics = splits.read_statistics(folder)
    corpus = Corpus(at.dataset(made.dataset_key), splits.read_splits(folder), statistics, task=of.task)
    again = predict.predict(bundles.load(folder / "best"), corpus.part("test"))
    np.testing.assert_allclose(again, test.probabilities[best["trial"]], atol=2e-6)


def test_what_training_watched_is_what_the_tables_score(learnt: Any) -> None:
    _, at, _, _ = learnt
    history = pd.read_csv(at.experiment("tiny") / "history.csv").set_index(["trial", "epoch"])
    table = pd.read_csv(at.experiment("tiny") / "training_results.csv")
    assert len(table) == 2 and not [name for name in table if name.startswith(("f1_", "macro_", "accuracy"))]
    for row in table.to_dict("records"):
        watched = history.loc[(row["trial"], row["best_epoch"])]
        for name in ("log_loss", *RATES):
            assert row[name] == pytest.approx(watched[f"validation_{name}"], rel=2e-4), name
        assert row["loss"] == pytest.approx(row["log_loss"], rel=2e-4)
    grid = pd.read_csv(at.experiment("tiny") / "grid_results.csv")
    assert {f"{split}{rate}_mean" for split in ("", "test_") for rate in RATES} <= set(grid)


def test_networks_of_one_grid_may_have_other_strides(tmp_path: Path) -> None:
    lists = [
        [{"layer": "conv", "filters": 4, "stride": 2}, {"layer": "gru", "units": 4}],
        [{"layer": "gru", "units": 4}],
    ]
    of, at, made = ready(tmp_path, training__epochs=1, grid={"model.layers": lists}, seeds=1)
    for job in made.jobs:
        folder = at.job("tiny", job.name)
        jobs.train(plan.load_job(folder / "config.yaml"), at, folder, lambda text: None)
    aggregate.aggregate(of, at)
    table = pd.read_csv(at.experiment("tiny") / "training_results.csv")
    assert len(table) == 2
    np.testing.assert_allclose(table["log_loss"], table["loss"], rtol=2e-4)


def test_both_decoders_are_told_with_intervals(learnt: Any) -> None:
    _, at, made, best = learnt
    content, _ = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")
    assert best["decoder"] == "greedy" and best["interval"] == transcripts.INTERVALS
    table: Any = pd.read_csv(at.experiment("tiny") / "decoders.csv")
    for split, entry in content.items():
        for name, width in (("greedy", None), ("beam", best["beam_width"])):
            found = Transcripts.of(entry, best["trial"], width)
            for rate in RATES:
                told = best["decoders"][name][split][rate]
                assert told["value"] == getattr(decoding, rate)(found.truth, found.decoded)
                assert told["low"] is None or told["low"] <= told["value"] <= told["high"]
                (row,) = table[(table[["decoder", "split", "score"]] == [name, split, rate]).all(axis=1)]["value"]
                assert row == told["value"]
        assert best[split]["label_error_rate"] == best["decoders"]["greedy"][split]["label_error_rate"]
    assert sorted(file.name for file in at.experiment("tiny").glob("*_test.csv")) == [
        f"{name}_test.csv" for name in ("attributions", "decoded", "edit_operations", "mistakes", "slices")
    ]
    for name in results.mistakes_tables("label_sequence"):
        assert (at.experiment("tiny") / name).exists()
    shown: Any = pd.read_csv(at.experiment("tiny") / "examples.csv", dtype=str)
    texts: Any = pd.read_csv(at.experiment("tiny") / "splits.csv", dtype=str).set_index("id")
    mistakes = pd.read_csv(at.experiment("tiny") / "mistakes_test.csv", dtype=str)
    drawn = {kind: set(own["split"]) for kind, own in shown.groupby("drawn_as")}
    assert drawn == {"example": {"train"}} | ({"mistake": {"test"}} if len(mistakes) else {})
    assert (shown["class"].to_numpy() == texts["label"][shown["id"]].to_numpy()).all()


def test_the_table_of_edits_adds_up(learnt: Any) -> None:
    _, at, made, best = learnt
    content, classes = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")
    for split, entry in content.items():
        counts = pd.read_csv(at.experiment("tiny") / f"edit_operations_{split}.csv").set_index("truth")
        assert [*counts.index] == [*classes, "(inserted)"] and [*counts] == [*classes, "(deleted)"]
        check_edits(counts.to_numpy(), Transcripts.of(entry, best["trial"]), len(classes))
        told = pd.read_csv(at.experiment("tiny") / f"decoded_{split}.csv", keep_default_na=False)
        assert told["id"].tolist() == entry.ids.tolist()
        assert (told["edits"] == 0).tolist() == (told["truth"] == told["decoded"]).tolist()


def test_label_sequences_are_compared_object_by_object(learnt: Any, tmp_path: Path) -> None:
    _, at, _, best = learnt
    folders, right = [tmp_path / "one", tmp_path / "two"], []
    for folder in folders:
        shutil.copytree(at.experiment("tiny"), folder)
        path = folder / "jobs" / best["job"] / "predictions.h5"
        content, classes = read_predictions(path)
        if folder.name == "two":  # other labels for some, in another order
            test = content["test"]
            changed = test.probabilities[best["trial"]].copy()
            changed[: test.offsets[6]] = np.roll(changed[: test.offsets[6]], 1, axis=1)
            test = replace(test, probabilities={**test.probabilities, best["trial"]: changed})
            content = content | {"test": test.some(default_rng(1).permutation(len(test.ids)).tolist())}
            predictions.write(path, {None: content}, classes)
        found = Transcripts.of(content["test"], best["trial"])
        right.append({str(name) for name, edits in zip(content["test"].ids, found.edits, strict=True) if not edits})
    told = compare.compare(folders)
    (row,) = told.pairs.to_dict("records")
    assert told.remarks == [] and len(right[0] - right[1]) > 2
    assert (row["chosen_alone"], row["other_alone"]) == (len(right[0] - right[1]), len(right[1] - right[0]))
    assert row["objects"] == len(content["test"].ids) and row["log_loss_difference"] < 0
    compare.write(told, tmp_path / "comparison")


def surprises_on_the_device(
    entry: Predictions, trial: str, labels: list[transcripts.Labels], temperature: float = 1.0
) -> np.ndarray:
    """Returns -log p [sequence] of labels by `ctc.ctc`."""
    probabilities = entry.probabilities[trial]
    blank = probabilities.shape[1] - 1
    logits = np.zeros((len(labels), entry.places.max(), blank + 1), np.float32)
    given = np.full((len(labels), max(1, *map(len, labels))), -1, np.int32)
    for row, (start, stop) in enumerate(zip(entry.offsets[:-1], entry.offsets[1:], strict=True)):
        logits[row, : stop - start] = np.log(np.maximum(probabilities[start:stop], 1e-37)) / temperature
        given[row, : len(labels[row])] = labels[row]
    counts = (given >= 0).sum(axis=1).astype(np.int32)
    return np.asarray(ctc.ctc(*map(jnp.asarray, (logits, entry.places.astype(np.int32), given, counts)), blank=blank))


def test_how_far_to_trust_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is often wrong: probabilities and their calibration are those of the loss on the device."""
    monkeypatch.setattr(uncertainty, "PASSES", 4)
    model = {"layers": [*LAYERS, {"layer": "dropout", "rate": 0.2}]}
    of, at, made = ready(tmp_path, model=model, training__epochs=5, training__length_buckets=1)
    (job,) = made.jobs
    jobs.train(plan.load_job(at.job("tiny", job.name) / "config.yaml"), at, at.job("tiny", job.name), lambda text: None)
    best = aggregate.aggregate(of, at)
    folder, trial = at.experiment("tiny"), best["trial"]
    content, _ = read_predictions(at.job("tiny", job.name) / "predictions.h5")
    test, validation = (Transcripts.of(content[split], trial) for split in ("test", "validation"))
    hits, probability = test.edits == 0, np.exp(-surprises_on_the_device(content["test"], trial, test.decoded))
    assert 0 < hits.sum() < len(hits)

    decoded: Any = pd.read_csv(folder / "decoded_test.csv", keep_default_na=False)
    np.testing.assert_allclose(decoded["probability"], probability, rtol=2e-4)
    mistakes: Any = pd.read_csv(folder / "mistakes_test.csv", keep_default_na=False)
    wrong = decoded[decoded["edits"] > 0].sort_values("probability", ascending=False, kind="stable")[:20]
    for name, other in (("id", "id"), ("truth", "truth"), ("predicted", "decoded"), ("probability", "probability")):
        assert mistakes[name].tolist() == wrong[other].tolist()
    np.testing.assert_allclose(mistakes["probability_of_truth"], np.exp(-wrong["log_loss"]), rtol=1e-9)

    # the temperature is the best one on validation
    temperature = bundles.load(folder / "best").members[0].temperature
    losses = [
        surprises_on_the_device(content["validation"], trial, validation.truth, temperature * factor).mean()
        for factor in (1, 0.9, 1.1)
    ]
    assert temperature == best["temperature"] != 1 and losses[0] == min(losses)
    scores: Any = pd.read_csv(folder / "calibration_scores.csv").set_index(["probabilities", "score"])["value"]
    for name, own in (("as predicted", 1.0), ("temperature scaled", temperature)):
        stated, truth = (
            np.exp(-surprises_on_the_device(content["test"], trial, labels, own))
            for labels in (test.decoded, test.truth)
        )
        assert scores[name, "log_loss"] == pytest.approx(-np.log(truth).mean(), rel=1e-4)
        assert scores[name, "brier"] == pytest.approx(2 * sk.brier_score_loss(hits, stated), rel=1e-4)
    bins: Any = pd.read_csv(folder / "calibration.csv")
    assert bins.groupby("probabilities")["objects"].sum().tolist() == [len(hits)] * 2
    slices: Any = pd.read_csv(folder / "slices_test.csv")
    lengths = slices[slices["property"] == "length"]
    assert (lengths["accuracy"] * lengths["objects"]).sum() == pytest.approx(hits.sum())

    table: Any = pd.read_csv(folder / "uncertainty.csv").set_index(["predictions", "score"])["value"]
    assert table["chosen trial", "accuracy"] == hits.mean()
    assert table["chosen trial", "log_loss"] == pytest.approx(scores["temperature scaled", "log_loss"], rel=1e-4)
    assert np.isnan(table["chosen trial", "mutual_information"]) and table[DROPOUT, "mutual_information"] > 0
    inputs = set(pd.read_csv(folder / "out_of_distribution.csv")["inputs"])
    assert {"test", "random", "sine"} <= inputs

    page = report.write(folder, at.dataset(made.dataset_key)).read_text()
    for said in (
        "Dearest mistakes",
        "exactly the labels that were decoded",
        "Integrated gradients",
    ):
        assert said in page
    assert "<b>deep</b>" not in page
    figures = {file.name for file in (folder / "figures").glob("*.svg")}
    assert {"reliability.svg", "slices.svg", "entropies.svg", "dearest_mistakes.svg", "cadences.svg"} <= figures


def check_edits(counts: np.ndarray, found: Transcripts, classes: int) -> None:
    """What leaves a row or a column is what stands in the sequences, whatever the edits were."""
    truth, decoded = (
        np.bincount(np.array([label for labels in sequences for label in labels], dtype=int), minlength=classes)
        for sequences in (found.truth, found.decoded)
    )
    assert counts[:-1].sum(axis=1).tolist() == truth.tolist()
    assert counts[:, :-1].sum(axis=0).tolist() == decoded.tolist()
    assert counts.sum() - np.trace(counts) == found.edits.sum() and counts[-1, -1] == 0


def noise(objects: int = 60, classes: int = 4, seed: int = 0) -> Predictions:
    generator = default_rng(seed)
    places = generator.integers(0, 12, objects)
    counts = np.minimum(places // 2, generator.integers(0, 5, objects))
    labels = np.where(np.arange(5) < counts[:, None], generator.integers(0, classes, (objects, 5)), -1)
    logits = generator.normal(0, 2, (places.sum(), classes + 1))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    ids = np.arange(objects).astype(str)
    return Predictions("label_sequence", ids, labels, places, places, {"one": probabilities})


@pytest.mark.parametrize("width", [None, 3])
def test_edits_of_noise_add_up(width: int | None) -> None:
    found = Transcripts.of(noise(), "one", width)
    check_edits(found.edit_counts(4), found, 4)
    assert found.edits.sum() > 50
    scores = found.with_intervals(1)
    for rate in RATES:
        value, low, high, objects = scores[rate].values()
        assert objects == len(found.truth)
        assert value == getattr(decoding, rate)(found.truth, found.decoded)
        assert low is not None and value is not None and high is not None and low < value < high


def test_a_diverged_trial_has_no_score() -> None:
    entry = noise()
    entry.probabilities["one"][3] = np.nan
    found = Transcripts.of(entry, "one", 2)
    assert np.isnan([*found.scores().values()]).all()
    assert found.with_intervals(1) == {name: {"value": None, "low": None, "high": None} for name in transcripts.SCORES}


def test_the_report_tells_what_was_decoded(learnt: Any) -> None:
    _, at, made, best = learnt
    page = report.write(at.experiment("tiny"), at.dataset(made.dataset_key)).read_text()
    for said in ("Label error rate, test", "Sequence error rate, test", "Prefix beam search of width", "temporal"):
        assert said in page
    for left_out in ("Confusion matrix", "Macro", "macro", "Each class", "No better than guessing", "<b>deep</b>"):
        assert left_out not in page
    assert "&lt;b&gt;deep&lt;/b&gt;" in page
    figures = {file.name for file in (at.experiment("tiny") / "figures").glob("*.svg")}
    assert {"edit_operations_test.svg", "edit_operations_validation.svg"} <= figures
    assert not [name for name in figures if name.startswith(("confusion", "class_scores"))]
    value = best["test"]["label_error_rate"]["value"]
    assert f"{value:.3f}" in page or f"{value:.4f}" in page


def test_a_beam_changes_scores_and_no_trial(learnt: Any) -> None:
    of, at, made, best = learnt
    wider = of.model_copy(update={"task": of.task.model_copy(update={"beam_width": 5})})
    assert [t.fingerprint for t in plan.make(wider).trials] == [t.fingerprint for t in made.trials]
    parted = of.model_copy(update={"task": of.task.model_copy(update={"separator": ","})})
    assert plan.make(parted).trials[0].fingerprint != made.trials[0].fingerprint
    again = aggregate.aggregate(wider, at)
    assert (again["decoder"], again["beam_width"]) == ("beam", 5)
    assert again["test"]["label_error_rate"] == again["decoders"]["beam"]["test"]["label_error_rate"]
    assert again["decoders"]["greedy"] == best["decoders"]["greedy"]
    aggregate.aggregate(of, at)


class Killed(Exception):
    pass


def test_a_killed_job_resumes_to_the_same_bits(learnt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, at, made, _ = learnt
    check_resumed(at, made, tmp_path, monkeypatch)


def check_resumed(at: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains the only job again, killed within an epoch and resumed: it gives what it gave undisturbed."""
    advance, segments = jobs._Pack.some_steps, []

    def killed(pack: Any) -> None:
        advance(pack)
        segments.append(pack.step)
        if len(segments) >= 20 and pack.step and not isinstance(segments[0], str):
            segments[0] = "killed"
            pack._save()
            raise Killed

    monkeypatch.setattr(jobs._Pack, "some_steps", killed)
    monkeypatch.setattr(jobs, "FIRST_SEGMENT_STEPS", 1)
    monkeypatch.setattr(jobs._Pack, "_adapt_segment", lambda *_: None)
    folder = at.job("tiny", made.jobs[0].name)
    file, said = plan.load_job(folder / "config.yaml"), list[str]()
    with pytest.raises(Killed):
        jobs.train(file, at, tmp_path, said.append, retrain=True)
    jobs.train(file, at, tmp_path, said.append, retrain=True)
    assert any("goes on from the checkpoint" in line for line in said)
    histories = [pd.read_csv(where / "history.csv") for where in (folder, tmp_path)]
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    before, after = (read_predictions(where / "predictions.h5")[0]["test"] for where in (folder, tmp_path))
    for trial, probabilities in before.probabilities.items():
        np.testing.assert_array_equal(probabilities, after.probabilities[trial])


# The loss


def sequences(lengths: list[int], seed: int = 0) -> Examples:
    generator = default_rng(seed)
    labels = np.full((len(lengths), 3), -1, dtype=np.int32)
    for row, length in enumerate(lengths):
        count = int(generator.integers(0, min(3, (length + 1) // 4) + 1))
        labels[row, :count] = generator.integers(0, 2, count)
    return Examples(
        np.arange(len(lengths)).astype(str),
        labels,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        generator.normal(0, 1, (sum(lengths), 2)).astype(np.float32),
        np.zeros((len(lengths), 0), np.float32),
    )


MODEL = Model.model_validate({"layers": LAYERS, "dropout": 0})


@pytest.fixture(scope="module")
def program() -> tuple[Program, Hyperparameters, State]:
    settings = Training.model_validate({"batch_size": 4, "length_buckets": 1})
    made = training.make(MODEL, settings, 2, 0, 3, kind="label_sequence")
    rates = map(np.float32, (0.01, 0, 0, 0, 0))
    one = Hyperparameters(np.uint32(1), *rates, np.ones(2, np.float32))  # pyright: ignore[reportCallIssue]
    hypers = training.stacked([one])
    return made, hypers, made.begin(hypers)


def after_a_step(program: tuple[Program, Hyperparameters, State], batch: Bucket) -> State:
    made, hypers, state = program
    schedule = batches.schedule(np.array([(batch.lengths > 0).sum()]), 4, 1)
    return made.advance(jax.tree.map(jnp.copy, state), hypers, (batch,), schedule, *map(np.int32, (0, 0, 1)))


def bucket(examples: Examples, steps: int, positions: int = 3) -> Bucket:
    part = Part.of([examples])
    with Windows(part, [steps], np.inf) as windows:
        (found,) = jax.device_get(windows.get().buckets)
    extra = positions - found.labels.shape[1]
    return found._replace(labels=np.pad(found.labels, ((0, 0), (0, extra)), constant_values=-1))


def test_padding_changes_no_loss_and_no_step(program: Any) -> None:
    examples = sequences([9, 12, 6, 5], 3)
    close, far = bucket(examples, 12), bucket(examples, 21, 5)
    garbage = np.arange(21)[:, None] >= far.lengths[:, None, None]
    filled = far._replace(features=np.where(garbage, 99, far.features).astype(np.float32))
    states = [after_a_step(program, batch) for batch in (close, far, filled)]
    assert np.asarray(states[0].seen) == 4
    for one, other, dirty in zip(*(jax.tree.leaves(state.parameters) for state in states), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
        np.testing.assert_array_equal(other, dirty)
    np.testing.assert_allclose(states[0].loss_sum, states[1].loss_sum, rtol=1e-5)


def test_labels_that_do_not_fit_teach_nothing(program: Any) -> None:
    """As where augmentation leaves too few steps: others of the batch teach what they would have."""
    examples = sequences([9, 12, 6, 5], 3)
    whole = bucket(examples, 12)
    longer = np.array([[0, 0, 0], *whole.labels[1:].tolist()], np.int32)
    short = whole._replace(labels=longer, lengths=np.array([5, 12, 6, 5], np.int32))
    state = after_a_step(program, short)
    assert np.asarray(state.seen) == 3 and np.isfinite(state.loss_sum).all()
    without = after_a_step(program, whole._replace(lengths=np.array([0, 12, 6, 5], np.int32)))
    for one, other in zip(jax.tree.leaves(state.parameters), jax.tree.leaves(without.parameters), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_device_scores_as_the_host_does(program: Any) -> None:
    """Over several buckets and a filling row, the rates and the loss that training watches are those of the tables."""
    made, hypers, state = program
    examples = sequences(default_rng(2).integers(1, 20, 41).tolist(), 5)
    part = Part.of([examples])
    with Windows(part, batches.edges(part.lengths, 3), np.inf, multiple=4) as windows:
        window = windows.get()
    told = made.evaluate(state, hypers, window.buckets)
    targets = training.of_folds([training.targets("label_sequence", window.buckets)])
    _, epoch = made.finish_epoch(jax.tree.map(jnp.copy, state), hypers, told, targets)
    arrays = predict.flattened(
        *(jax.tree.map(lambda leaf: leaf[0], tree) for tree in (state.parameters, state.statistics))
    )
    (found,) = predict.probabilities(MODEL, [arrays], part, 3, kind="label_sequence")
    places = -(-part.lengths // 2)
    entry = Predictions("label_sequence", part.ids, part.labels, part.lengths, places, {"one": found})
    scores = Transcripts.of(entry, "one").scores()
    for name, value in scores.items():
        assert np.asarray(getattr(epoch.validation, name))[0] == pytest.approx(value, rel=1e-4), name
    assert np.isnan(np.asarray(epoch.validation.accuracy)).all()


def test_the_loss_on_the_host_is_that_of_the_device() -> None:
    """`decoding.surprise` against `ctc.ctc`, which tests hold to all paths and to PyTorch."""
    entry = noise(40, seed=4)
    steps = int(entry.places.max())
    logits = np.zeros((40, steps, 5), np.float32)
    for row, (start, stop) in enumerate(zip(entry.offsets[:-1], entry.offsets[1:], strict=True)):
        logits[row, : stop - start] = np.log(entry.probabilities["one"][start:stop])
    counts = (entry.labels >= 0).sum(axis=1).astype(np.int32)
    given = map(jnp.asarray, (logits, entry.places.astype(np.int32), entry.labels.astype(np.int32), counts))
    device = np.asarray(ctc.ctc(*given, blank=4))
    host = Transcripts.of(entry, "one").log_losses
    np.testing.assert_allclose(host, device, rtol=1e-4, atol=1e-5)


# Splits, and bad input


def test_labels_are_grouped_excluded_and_counted(tmp_path: Path) -> None:
    task = {"kind": "label_sequence", "classes": {"up": ["high", "low"], "down": ["<b>deep</b>"]}}
    of, at, made = ready(tmp_path, task=task)
    table, statistics = splits.read_splits(at.experiment("tiny")), splits.read_statistics(at.experiment("tiny"))
    assert statistics.classes == ("down", "up") and set(table["class"]) == {splits.LABELS}
    train = Corpus(at.dataset(made.dataset_key), table, statistics, task=of.task).part("train")
    expected = [["down" if "b>" in label else "up" for label in text.split()] for text in
                table.set_index("id").loc[train.ids, "label"]]  # fmt: skip
    found = [[statistics.classes[label] for label in labels if label >= 0] for labels in train.labels]
    assert found == expected
    assert statistics.class_counts.tolist() == [sum(own.count(name) for own in expected) for name in ("down", "up")]
    ready(tmp_path, task={"kind": "label_sequence", "exclude": ["high"]})
    table = splits.read_splits(at.experiment("tiny"))
    assert ((table["split"] == "excluded") == table["label"].str.contains("high")).all()
    remarks = results.read_json(at.experiment("tiny") / "statistics.json", "")["remarks"]
    assert f"{(table['split'] == 'excluded').sum()} objects with a label that `task.exclude`" in remarks[0]


def test_separators(tmp_path: Path) -> None:
    def labels_of(separator: str, text: str) -> list[str]:
        return config.Task(kind="label_sequence", separator=separator).labels_of(text)

    assert labels_of(" ", " 7  2\t1 ") == ["7", "2", "1"] and labels_of("", "721") == ["7", "2", "1"]
    assert labels_of("->", "7 -> 2->1 1") == ["7", "2", "1 1"] and labels_of(",", "7,,1") == ["7", "", "1"]
    write_survey(tmp_path / "survey", 30, separator=",")
    survey = tmp_path / "survey" / "rows.csv"
    survey.write_text(survey.read_text().replace('"low,low"', '"low,,low"').replace('"low,high"', '"low,,high"'))
    with pytest.raises(JaxrnnError, match=r"task\.separator: object s\d+ has the label 'low,,.*leaves an empty label"):
        ready(tmp_path, task={"kind": "label_sequence", "separator": ","})


def test_labels_that_the_steps_cannot_spell_are_told_before_training(tmp_path: Path) -> None:
    said = (
        r"task\.kind: object s\d+ \(and \d+ others\) has \d+ steps, of which model\.layers\[0\] \(max_pool\), "
        r"model\.layers\[1\] \(conv\) leave \d+, and its \d labels need at least \d.*; use a smaller stride in "
    )
    short = [{"layer": "max_pool", "size": 4}, {"layer": "conv", "stride": 4}]
    with pytest.raises(JaxrnnError, match=said):
        ready(tmp_path, model={"layers": short})
    with pytest.raises(JaxrnnError, match=r"of which grid\.model\.layers\[1\]\[0\] \(max_pool\), grid\.model\.layers"):
        ready(tmp_path, model={}, grid={"model.layers": [LAYERS, short]})
    # splits that were made before the network was changed
    of, at, _ = ready(tmp_path)
    changed = of.model_copy(update={"model": Model.model_validate({"layers": short})})
    plan.write(plan.make(changed), at)
    with pytest.raises(JaxrnnError, match=said):
        jobs.train(plan.load_job(at.job("tiny", "all-1") / "config.yaml"), at, tmp_path / "out", lambda text: None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": {"class_weights": "none"}}, r"loss\.kind: `task\.kind: label_sequence` is trained by `ctc`"),
        ({"task": {"kind": "sequence"}}, r"loss\.kind: `ctc` spells label sequences"),
        ({"task": {}, "loss": {}}, r"selection\.metric: `label_error_rate` is of label sequences"),
        ({"loss": {"kind": "ctc"}}, r"loss\.class_weights: label sequences have one loss each.*`class_weights: none`"),
        ({"loss": {**TASK["loss"], "gamma": 1}}, r"loss\.gamma: label sequences have one loss each"),
        ({"grid": {"loss.label_smoothing": [0, 0.1]}}, r"grid\.loss\.label_smoothing: label sequences have one loss"),
        ({"split__balance": True}, r"split\.balance: a sequence has labels of several classes"),
        ({"task": {**TASK["task"], "target": "a"}}, r"task\.target: is of one class an object"),
        ({"task": {**TASK["task"], "class_importance": {"a": 2}}}, r"task\.class_importance: is of one class"),
        ({"training__monitor": "macro_f1"}, r"training\.monitor: `macro_f1` is of one class an object; label seq"),
        ({"selection": {}}, r"selection\.metric: `macro_auc` is of one class an object"),
        ({"model": {"decoder": {}}}, r"model\.decoder: names one label after another, and `ctc` spells label seq"),
        ({"augmentation": {"truncation": 0.1}}, r"augmentation\.truncation: the last labels would lose their steps"),
        ({"model": {"layers": ["gru", "pool"]}}, r"pool makes one vector of the steps, and the task wants an answer"),
        ({"task": {"separator": ","}, "loss": {}, "selection": {}}, r"task\.separator: is of label sequences"),
        ({"task": {"beam_width": 3}, "loss": {}, "selection": {}}, r"task\.beam_width: is of label sequences"),
    ],
)  # fmt: skip
def test_what_means_nothing_for_label_sequences_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JaxrnnError, match=said):
        prepared(tmp_path, **{**TASK, **changes})


def test_the_survey_is_drawn_without_a_section_for_each_spelling(tmp_path: Path) -> None:
    write_survey(tmp_path / "survey", 40)
    data = config.Data.model_validate(label_data(tmp_path))
    page = tmp_path / "view.html"
    said = view.draw_survey(data, tmp_path / "survey", view.Wanted(per_class=2, together=True), page)
    assert "2 objects" in said and page.read_text().count("<article") == 2
    assert "at most 2 in all" in page.read_text() and "classes" not in said and "a class" not in page.read_text()


def test_no_image_of_a_line_is_in_two_splits(tmp_path: Path) -> None:
    """Lines of several passes share images within a group: whole groups are split, or the audit of leaks refuses."""
    folder = tmp_path / "survey"
    folder.mkdir()
    for prefix, count, seed in (("train", 900, 1), ("t10k", 100, 2)):
        for kind, content in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), ink(count, seed, 9), strict=True):
            (folder / f"{prefix}-{kind}").write_bytes(content)
    options = {"lines": {"passes": 2, "digits": 3}}
    data = {"reader": "mnist", "path": str(folder), "options": options, "features": ["pixel_*"]}
    of: dict[str, Any] = {**TASK, "data": data, "split": {"method": "given", "validation": 0.2}}
    with pytest.raises(JaxrnnError, match="group"):
        prepared(tmp_path, **of)
    _, at, _ = prepared(tmp_path, **{**of, "split": {**of["split"], "by": "group"}})
    table = splits.read_splits(at.experiment("tiny"))
    assert table["split"].value_counts().to_dict() == {"train": 480, "validation": 120, "test": 34}
