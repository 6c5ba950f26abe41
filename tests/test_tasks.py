"""Labels of steps and of prefixes: where they go, what they weigh, and how they are scored."""

import re
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from experiments import prepared, read_predictions
from numpy.random import default_rng
from test_leaks import experiment, shard, write_dataset

from jaxrnn import (
    aggregate,
    augmentation,
    batches,
    bundles,
    jobs,
    metrics,
    plan,
    predict,
    report,
    splits,
    training,
)
from jaxrnn.batches import Bucket, Corpus, Examples, Part, Windows
from jaxrnn.config import Augmentation, Data, Model, Output, Task, Training
from jaxrnn.errors import Interrupted, JaxrnnError
from jaxrnn.predictions import Predictions
from jaxrnn.results import Results
from jaxrnn.splits import Statistics
from jaxrnn.training import Hyperparameters

NAMES = ("a", "b", "c")


def stepwise(lengths: list[int], seed: int = 0) -> Examples:
    """Returns sequences whose one feature is their label + 10, so that each label can be told from its step; -1 is
    none."""
    generator = default_rng(seed)
    labels = generator.integers(-1, 3, sum(lengths)).astype(np.int32)
    return Examples(
        ids=np.arange(len(lengths)).astype(str),
        labels=labels,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=(labels[:, None] + 10).astype(np.float32),
        metadata=np.zeros((len(lengths), 0), dtype=np.float32),
    )


@pytest.mark.parametrize("most_bytes", [np.inf, 400.0])
def test_each_step_keeps_its_label_in_every_window(most_bytes: float) -> None:
    lengths = default_rng(1).integers(1, 9, 30).tolist()
    pieces = [stepwise(lengths[start : start + 7], start) for start in range(0, 30, 7)]
    part = Part.of(pieces, labels_by_step=True)
    assert len(part.labels) == part.offsets[-1] == sum(lengths)
    seen = 0
    with Windows(part, batches.edges(part.lengths, 2), most_bytes, seed=1) as windows:
        assert windows.whole == np.isinf(most_bytes)
        for index in range(windows.count()):
            for bucket in windows.get(0, index).buckets:
                features, lengths_here, _, labels, _ = map(np.asarray, bucket)
                valid = np.arange(features.shape[1]) < lengths_here[:, None]
                np.testing.assert_array_equal(labels[valid] + 10, features[valid][:, 0])
                assert (labels[~valid] == -1).all()
                seen += valid.sum()
    assert seen == sum(lengths)


def bucket(lengths: list[int], labels: np.ndarray, steps: int = 5) -> Bucket:
    rows = len(lengths)
    return Bucket(
        np.zeros((rows, steps, 1), np.float32), np.array(lengths, np.int32), np.zeros((rows, 0), np.float32),
        labels, np.zeros(rows, np.uint32),
    )  # fmt: skip


def test_what_places_weigh() -> None:
    lengths, labels = [3, 5, 1, 0], np.array([2, 0, 1, 0], np.int32)
    found, weights = map(np.asarray, training.weighted_labels("sequence", bucket(lengths, labels)))
    assert found.tolist() == labels.tolist() and weights.tolist() == [1, 1, 1, 0]
    found, weights = map(np.asarray, training.weighted_labels("prefix", bucket(lengths, labels)))
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], rtol=1e-6)
    assert (weights > 0).sum(axis=1).tolist() == lengths and (found == labels[:, None]).all()
    by_step = np.full((4, 5), -1, np.int32)
    by_step[0, :3], by_step[1, :5], by_step[2, 4] = [2, -1, 0], [1, 1, 1, -1, 0], 2
    found, weights = map(np.asarray, training.weighted_labels("step", bucket(lengths, by_step)))
    assert weights[0].tolist() == [1, 0, 1, 0, 0] and weights[1].tolist() == [1, 1, 1, 0, 1]
    assert not weights[2:].any() and (found >= 0).all(), "a label beyond the length counts nowhere"


@pytest.mark.parametrize("kind", ["sequence", "prefix", "step"])
def test_what_is_scored_on_the_device_is_what_the_tables_score(kind: Output) -> None:
    generator = default_rng(0)
    lengths = generator.integers(1, 7, 25)
    by_step = generator.integers(-1, 3, lengths.sum()).astype(np.int32)
    labels = by_step if kind == "step" else generator.integers(0, 3, 25).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    examples = Examples(
        np.arange(25).astype(str),
        labels,
        offsets,
        np.zeros((offsets[-1], 1), np.float32),
        np.zeros((25, 0), np.float32),
    )
    part = Part.of([examples], labels_by_step=kind == "step")
    with Windows(part, batches.edges(lengths, 3), np.inf, multiple=4) as windows:
        window = windows.get()
    targets = training.targets(kind, window.buckets)
    places = 25 if kind == "sequence" else lengths.sum()
    each = np.ones(25, int) if kind == "sequence" else lengths
    stored = Predictions(
        kind, examples.ids, labels, lengths, each, {"one": generator.random((places, 3)).astype(np.float32)}
    )
    # the same rows, in the windows' order: bucket by bucket
    order = window.sources[window.sources >= 0]
    expected = [stored.scored_labels[stored.owners == row] for row in order]
    assert targets.labels[targets.scored].tolist() == np.concatenate(expected).tolist()
    assert len(targets.labels) == sum(
        len(b.lengths) * (1 if kind == "sequence" else b.features.shape[1]) for b in window.buckets
    )


def test_pieces_of_targets_join() -> None:
    whole = [bucket([3, 0], np.array([1, 0], np.int32)), bucket([2, 5], np.array([2, 0], np.int32), 6)]
    kinds: tuple[Output, ...] = ("sequence", "prefix")
    for kind in kinds:
        together = training.targets(kind, whole)
        joined = training.joined([training.targets(kind, [entry]) for entry in whole])
        for one, other in zip(together, joined, strict=True):
            np.testing.assert_array_equal(one, other)


# Splits


def labelled_by_step(objects: int = 40) -> list[Any]:
    generator = default_rng(3)
    sequences = [generator.normal(0, 1, (length, 2)) for length in generator.integers(8, 15, objects)]
    labels = [generator.choice(["rest", "move", "noise"], len(sequence)) for sequence in sequences]
    half = objects // 2
    return [
        shard(sequences[rows], [""] * half, first, step_labels=np.concatenate(labels[rows]))
        for rows, first in ((slice(0, half), 0), (slice(half, objects), half))
    ]


def with_task(kind: str, **task: Any) -> Any:
    of = experiment(2, leaks="report")
    return of.model_copy(update={"task": of.task.model_copy(update={"kind": kind, **task})})


def test_steps_have_classes_of_their_own(tmp_path: Path) -> None:
    entries = labelled_by_step()
    dataset = write_dataset(tmp_path / "dataset", entries)
    said = splits.split(with_task("step", exclude=("noise",)), dataset, tmp_path)
    table, statistics = splits.read_splits(tmp_path), splits.read_statistics(tmp_path)
    assert statistics.classes == ("move", "rest") and statistics.labels == {"move": "move", "rest": "rest"}
    assert set(table["split"]) == set(splits.SPLITS)
    part = Corpus(dataset, table, statistics, task=Task(kind="step")).part("train")
    stored = np.concatenate([entry.step_labels for entry in entries])
    owners = np.repeat(np.arange(40), np.concatenate([entry.lengths for entry in entries]))
    mine = stored[np.isin(owners, np.flatnonzero(table["split"] == "train"))]
    assert part.labels.tolist() == [{"move": 0, "rest": 1}.get(label, -1) for label in mine]
    assert statistics.class_counts.tolist() == [(mine == "move").sum(), (mine == "rest").sum()]
    assert f"training has steps: {(mine == 'move').sum()} move" in said[-1]
    read = [part.read(place) for place in range(len(part.starts) - 1)]
    np.testing.assert_array_equal(np.concatenate([piece.labels for piece in read]), part.labels)


def test_a_survey_without_step_labels_is_no_task_by_step(tmp_path: Path) -> None:
    sequences = [default_rng(i).normal(0, 1, (9, 2)) for i in range(30)]
    dataset = write_dataset(tmp_path / "dataset", [shard(sequences, ["a", "b"] * 15)])
    with pytest.raises(JaxrnnError, match=r"task\.kind: `step`, and this survey's files give no step labels"):
        splits.split(with_task("step"), dataset, tmp_path)


# Intervals


def test_intervals_by_sequence_are_those_of_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that repeat their sequence's say nothing more: the interval stays; taken one by one it would shrink."""
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    generator = default_rng(0)
    labels = generator.permutation(np.arange(90) % 3)
    logits = generator.normal(0, 1, (90, 3)) + np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    once = metrics.with_intervals(probabilities, labels, NAMES, 1, owners=np.arange(90))
    each = np.repeat(np.arange(90), 5)
    often = metrics.with_intervals(probabilities[each], labels[each], NAMES, 1, owners=each)
    alone = metrics.with_intervals(probabilities[each], labels[each], NAMES, 1)
    for name, score in once.items():
        assert often[name] == pytest.approx(score, rel=1e-9)
        assert alone[name]["high"] - alone[name]["low"] < 0.75 * (score["high"] - score["low"])  # pyright: ignore


# From the survey to the report


def write_steps(folder: Path, objects: int = 60, steps: int = 14) -> None:
    """Writes a table of observations whose step label says whether the value is above 0, but for some that nobody
    labelled."""
    generator = default_rng(5)
    rows = []
    for number in range(objects):
        for step in range(int(generator.integers(8, steps + 1))):
            value = generator.normal(0, 1)
            label = "unsure" if generator.random() < 0.1 else "up" if value > 0 else "down"
            rows.append(
                {"star": f"s{number}", "time": step + generator.uniform(0, 0.5), "value": value, "phase": label}
            )
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)


STEP_OPTIONS = {"object": "star", "time": "time", "values": {"value": ""}, "step_label": "phase"}


def resumed_to_the_same_bits(at: Results, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains a finished job again, stopped by a signal in the middle of an epoch and begun anew."""
    told: list[str] = []

    def interrupt(progress: Any) -> None:
        told.append("")
        if len(told) == 3:
            signal.raise_signal(signal.SIGTERM)

    def train(say: jobs.Say) -> None:
        jobs.train(plan.load_job(folder / "config.yaml"), at, output, say, retrain=True)

    with monkeypatch.context() as patched:
        patched.setattr(jobs._Progress, "tell", interrupt)
        patched.setattr(jobs, "FIRST_SEGMENT_STEPS", 1)
        patched.setattr(jobs._Pack, "_adapt_segment", lambda *_: None)
        with pytest.raises(Interrupted):
            train(told.append)
    train(told.append)
    assert any(re.search("goes on from the checkpoint: epoch ., step [1-9]", line) for line in told)
    (first, _), (second, _) = (read_predictions(place / "predictions.h5") for place in (folder, output))
    for split, entry in first.items():
        for trial, found in entry.probabilities.items():
            np.testing.assert_array_equal(found, second[split].probabilities[trial])


@pytest.mark.parametrize(
    ("kind", "decoder"), [("prefix", None), ("step", None), ("step", {"units": 6, "attention": "dot"})]
)
def test_a_task_goes_from_the_survey_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, decoder: dict[str, Any] | None
) -> None:
    changes: dict[str, Any] = {"task": {"kind": kind}}
    if decoder is not None:
        changes |= {"model__decoder": decoder, "model__dense_depth": 0, "loss": {}}
    if kind == "step":
        write_steps(tmp_path / "survey")
        data = {"reader": "table", "options": STEP_OPTIONS, "features": ["value"], "path": str(tmp_path / "survey")}
        changes |= {"data": data, "split": {"method": "exact", "train": 0.6, "validation": 0.2}}
        changes["task"] |= {"exclude": ["unsure"]}
    of, at, made = prepared(
        tmp_path, training__epochs=15, training__batch_size=8, model__normalisation="none", grid={"loss.gamma": [0, 1]},
        **changes,
    )  # fmt: skip
    (job,) = made.jobs
    folder, experiment_folder = at.job("tiny", job.name), at.experiment("tiny")
    jobs.train(plan.load_job(folder / "config.yaml"), at, folder, lambda text: None)
    if decoder is not None:
        resumed_to_the_same_bits(at, folder, tmp_path / "again", monkeypatch)
    best = aggregate.aggregate(of, at)
    content, classes = read_predictions(folder / "predictions.h5")
    test = content["test"]
    (trial, *_) = test.probabilities
    assert test.kind == kind and len(test.probabilities[trial]) == test.lengths.sum()
    np.testing.assert_allclose(test.probabilities[trial].sum(axis=1), 1, atol=1e-5)
    # the value itself is the answer, and the sines differ after some steps
    assert best["test"]["accuracy"]["value"] > 0.85
    statistics = splits.read_statistics(experiment_folder)
    corpus = Corpus(at.dataset(made.dataset_key), splits.read_splits(experiment_folder), statistics,
                    task=of.task)  # fmt: skip
    again = predict.predict(bundles.load(experiment_folder / "best"), corpus.part("test"))
    # other paddings of the same sequences round differently
    np.testing.assert_allclose(again, test.probabilities[best["trial"]], atol=2e-6)
    page = report.write(experiment_folder, at.dataset(made.dataset_key)).read_text()
    check_objects(experiment_folder, test, best["trial"], classes)
    assert ("Objects as they grow" in page) == (kind == "prefix")
    assert ("Early classification" in page) == (kind == "prefix")
    if kind == "prefix":
        curves = pd.read_csv(experiment_folder / "early_test.csv")
        own = curves[curves["trial"] == best["trial"]]
        last = own.loc[own["by"] == "steps", "accuracy"].to_numpy()[-1]
        assert last == pytest.approx(best["test"]["accuracy"]["value"])
    else:
        truth = test.labels[test.labels >= 0]
        assert best["interval"] == metrics.INTERVALS_BY_STEP and classes == ("down", "up")
        matrix = pd.read_csv(experiment_folder / "confusion_matrix_test.csv")[["down", "up"]].to_numpy()
        assert matrix.sum(axis=1).tolist() == np.bincount(truth).tolist()
        assert "Steps of each class, by split" in page
    assert ("What the decoder attends to" in page) == (decoder is not None)
    assert "What decisions rest on" in page
    assert ("Each is of one labelled step" in page) == (kind == "step")
    assert ("Each label is named after those before it" in page) == (decoder is not None)
    # what is scored again, of some objects, is what was predicted
    rows = pd.read_csv(experiment_folder / "uncertainty.csv").to_dict("records")
    sure = {(row["predictions"], row["score"]): row["value"] for row in rows}
    assert sure["chosen trial", "accuracy"] == pytest.approx(best["test"]["accuracy"]["value"])
    weights = experiment_folder / "attention.csv"
    assert weights.exists() == (decoder is not None)
    if decoder is not None:
        table, lengths = pd.read_csv(weights), dict(zip(test.ids, test.lengths, strict=True))
        ordered = sorted(test.ids)
        assert set(table["id"]) == {ordered[0], ordered[len(ordered) // 2], ordered[-1]}
        for name, own in table.groupby("id"):
            square = own.pivot(index="target_step", columns="source_step", values="weight").to_numpy()
            assert square.shape == (lengths[name], lengths[name])
            np.testing.assert_allclose(square.sum(axis=1), 1, atol=1e-4)


def check_objects(folder: Path, test: Predictions, trial: str, classes: tuple[str, ...]) -> None:
    """The objects that are drawn are of the splits that are said, and what is told of them is what was predicted."""
    shown: Any = pd.read_csv(folder / "examples.csv", dtype={"id": str, "class": str}, keep_default_na=False)
    split: Any = pd.read_csv(folder / "splits.csv", dtype=str).set_index("id")["split"]
    assert (shown["split"].to_numpy() == split[shown["id"]].to_numpy()).all()
    assert set(shown["split"][shown["drawn_as"] == "example"]) == {"train"}
    mistakes: Any = pd.read_csv(folder / "mistakes_test.csv", dtype=str)["id"].drop_duplicates().tolist()
    assert shown["id"][shown["drawn_as"] == "mistake"].drop_duplicates().tolist() == mistakes[:6]
    assert (folder / "figures" / "examples.svg").exists()
    assert (folder / "figures" / "dearest_mistakes.png").exists() == bool(mistakes)
    assert (folder / "growing_test.csv").exists() == (test.kind == "prefix")
    if test.kind == "prefix":
        grown = pd.read_csv(folder / "growing_test.csv", dtype={"id": str, "class": str, "truth": str})
        for name, own in grown.groupby("id"):
            at = test.ids.tolist().index(name)
            steps = own["step"].to_numpy() - 1
            probabilities = test.probabilities[trial][test.offsets[at] :][steps]
            places = [classes.index(of) for of in own["class"]]
            np.testing.assert_allclose(own["probability"], probabilities[np.arange(len(own)), places], rtol=1e-6)
            assert set(own["truth"]) == {classes[test.labels[at]]}


def test_a_batch_without_a_labelled_step_teaches_nothing() -> None:
    """A label beyond each sequence's length, and none within: what is left must be a number, and the parameters too."""
    model = Model.model_validate({"units": 3, "depth": 1, "dense_depth": 0, "normalisation": "none", "pooling": "last"})
    settings = Training.model_validate({"batch_size": 4, "length_buckets": 1})
    program = training.make(model, settings, 1, 0, 3, kind="step")
    rates = map(np.float32, (0.1, 0, 0, 0, 0))
    one = Hyperparameters(np.uint32(1), *rates, np.ones(3, np.float32))  # pyright: ignore[reportCallIssue]
    hypers = training.stacked([one])
    before = program.begin(hypers)
    batch = bucket([3, 5, 1, 0], np.full((4, 5), -1, np.int32))
    schedule = batches.schedule(np.array([3]), 4, 1)
    after = program.advance(jax.tree.map(jax.numpy.copy, before), hypers, (batch,), schedule, *map(np.int32, (0, 0, 1)))
    for one, other in zip(jax.tree.leaves(before.parameters), jax.tree.leaves(after.parameters), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(after.loss_sum).all() and not after.seen.any()


def test_a_prefix_must_not_know_of_later_steps(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"model\.bidirectional: a layer reads backwards, so that what"):
        prepared(tmp_path, task={"kind": "prefix"}, model__bidirectional=True)
    features: list[Any] = ["time", {"name": "value", "normalisation": "sequence"}]
    with pytest.raises(JaxrnnError, match=r"features\[1\]\.normalisation: it is taken of the whole sequence"):
        prepared(tmp_path, task={"kind": "prefix"}, data__features=features)
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"features\[1\]: steps before it", {"data__features": ["value", "time_since_detection"]}),
        (r"cuts\.keep: which steps stay", {"data__cuts": {"max_steps": 5, "keep": "even"}}),
        (r"cuts\.window\.around: where", {"data__cuts": {"window": {"around": "detection", "before": 1, "after": 1}}}),
        (r"cuts\.sigma_clip: outliers", {"data__cuts": {"sigma_clip": [{"column": "value", "sigma": 3}]}}),
    ]
    for said, changes in cases:
        with pytest.raises(JaxrnnError, match=said):
            prepared(tmp_path, task={"kind": "prefix"}, **changes)
    with pytest.raises(JaxrnnError, match=r"task\.early\.around: 'peak' is not among `data\.evaluation`"):
        prepared(tmp_path, task={"kind": "prefix", "early": {"around": "peak", "at": [0]}})
    with pytest.raises(JaxrnnError, match=r"split\.balance: an object's steps are of several classes"):
        prepared(tmp_path, task={"kind": "step"}, split={"method": "exact", "balance": True})
    layers: list[Any] = ["gru", {"layer": "conv", "kernel": 3}, {"layer": "pool", "running": True}]
    with pytest.raises(JaxrnnError, match=r"model\.layers: conv 1 is centred, so that"):
        prepared(tmp_path, task={"kind": "prefix"}, model={"layers": layers}, loss={})
    strided: list[Any] = ["gru", {"layer": "max_pool", "size": 2}]
    with pytest.raises(JaxrnnError, match=r"model\.layers: gives an answer for every 2 steps"):
        prepared(tmp_path, task={"kind": "step"}, model={"layers": strided}, loss={})


@pytest.mark.parametrize("change", ["truncation", "drop_observations", "drop_passbands"])
def test_labels_of_steps_move_with_their_steps(change: str) -> None:
    """The value of a step is its label, and stays so whatever steps are left out."""
    generator = default_rng(2)
    lengths, steps = generator.integers(2, 12, 40).astype(np.int32), 12
    valid = np.arange(steps) < lengths[:, None]
    labels = np.where(valid, generator.integers(0, 3, (40, steps)), -1).astype(np.int32)
    bands = np.eye(2)[generator.integers(0, 2, (40, steps))]
    features = np.where(valid[..., None], np.concatenate([labels[..., None] + 10, bands], axis=2), 0)
    names = [("value", "value", ""), ("passband", "", "g"), ("passband", "", "r")]
    columns = [
        {"name": name, "unit": "", "kind": name, "column": column, "passband": band, "source": index}
        for index, (name, column, band) in zip((0, 1, 1), names, strict=True)
    ]
    statistics = Statistics(
        NAMES, np.ones(3), np.zeros(3), np.ones(3), np.zeros(0), np.ones(0), settings_digest="", data_digest=""
    )
    data = Data.model_validate({"reader": "spcc", "path": "p", "features": ["value", "passband"]})
    augment = augmentation.make(
        Augmentation.model_validate({change: 0.6}), data, columns, statistics, labels_by_step=True
    )
    batch = Bucket(
        features.astype(np.float32), lengths, np.zeros((40, 0), np.float32), labels, np.arange(40, dtype=np.uint32)
    )
    after = augment(batch, jax.random.key(0))
    still = np.arange(steps) < np.asarray(after.lengths)[:, None]
    assert still.sum() < valid.sum()
    np.testing.assert_array_equal(np.asarray(after.labels)[still] + 10, np.asarray(after.features)[still][:, 0])
    # the labels of a sequence in their order, of which there may be as many, stay
    whole = augmentation.make(Augmentation.model_validate({change: 0.6}), data, columns, statistics)
    np.testing.assert_array_equal(whole(batch, jax.random.key(0)).labels, labels)
