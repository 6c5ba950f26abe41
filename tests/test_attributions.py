"""Integrated gradients: of a linear network exactly, complete, through the kernel as through XLA's own path."""

import csv
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import invented
import numpy as np
import pytest
from experiments import prepared

from jaxrnn import aggregate, attributions, decoding, inference, jobs, native, plan, predict, shuffles, transcripts
from jaxrnn.batches import Examples
from jaxrnn.evaluation import Classified
from jaxrnn.predictions import Predictions


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.write_survey(tmp_path_factory.mktemp("survey"), *invented.observations())


@pytest.fixture
def fresh() -> Any:
    predict._attributor.cache_clear()
    yield
    predict._attributor.cache_clear()


def examples(bundle: Any, lengths: tuple[int, ...] = (9, 1, 5), seed: int = 0) -> Examples:
    rng, offsets = np.random.default_rng(seed), np.concatenate([[0], np.cumsum(lengths)])
    features = rng.normal(size=(offsets[-1], len(bundle.features))).astype(np.float32)
    metadata = rng.normal(size=(len(lengths), len(bundle.metadata))).astype(np.float32)
    ids = np.array([f"o{row}" for row in range(len(lengths))])
    return Examples(ids, np.zeros(len(lengths), int), offsets, features, metadata)


def test_of_a_linear_network_it_is_the_weight_times_the_input(
    survey: Path, monkeypatch: pytest.MonkeyPatch, fresh: Any
) -> None:
    """What is a probability otherwise is the logit here: mean over steps, and a dense layer."""
    monkeypatch.setattr(predict.jax.nn, "softmax", lambda logits: logits)
    bundle = invented.bundle(survey, layers=[{"layer": "pool", "kind": "mean"}, {"layer": "metadata"}])
    inputs, classes = examples(bundle), np.array([0, 1, 2])
    (name,) = (name for name in bundle.arrays if name.endswith("kernel"))
    kernel, features = bundle.arrays[name], len(bundle.features)
    for row, own in enumerate(predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, 64)):
        values, length = inputs.features[slice(*inputs.offsets[row : row + 2])], inputs.lengths[row]
        np.testing.assert_allclose(
            own.features, values * kernel[:features, classes[row]] / length, rtol=2e-5, atol=1e-6
        )
        np.testing.assert_allclose(own.metadata, inputs.metadata[row] * kernel[features:, classes[row]], rtol=2e-5)
        assert own.features.sum() + own.metadata.sum() == pytest.approx(own.reached - own.baseline, abs=1e-5)


@pytest.mark.parametrize("kind", ["sequence", "prefix"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_probabilities_and_completeness(survey: Path, kind: str, cell: str) -> None:
    model: dict[str, Any] = {"cell": cell, "pooling": "last"}
    bundle = invented.bundle(survey, kind=kind, **model)
    inputs = examples(bundle)
    (probabilities, _), classes = predict.by_batches(bundle, inputs), np.array([2, 0, 1])
    ends = np.arange(3) if kind == "sequence" else inputs.offsets[1:] - 1
    found = predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, attributions.MIDPOINTS)
    for row, own in enumerate(found):
        assert own.features.shape == (inputs.lengths[row], len(bundle.features))
        assert own.reached == pytest.approx(probabilities[ends[row], classes[row]], abs=2e-6)
        gap = own.features.sum() + own.metadata.sum() - (own.reached - own.baseline)
        assert abs(gap) < attributions.TOLERANCE / 10


DECODER: dict[str, Any] = {"units": 5, "cell": "gru", "attention": "general", "look_ahead": True}


@pytest.mark.parametrize(
    ("kind", "by"), [("label_sequence", "ctc"), ("label_sequence", "decoder"), ("step", "decoder")]
)
def test_of_several_labels_they_lead_to_the_probability_that_was_said(survey: Path, kind: str, by: str) -> None:
    decoder = DECODER | ({"most_labels": 3} if kind == "label_sequence" else {})
    own = {"decoder": decoder} if by == "decoder" else {}
    outputs = 4 if kind == "label_sequence" else 3
    bundle = invented.bundle(survey, kind=kind, members=1, outputs=outputs, **own)
    inputs = examples(bundle, (9, 3, 5, 8))

    def said_of(share: float) -> list[np.ndarray]:
        part = Examples(inputs.ids, inputs.labels, inputs.offsets, np.float32(share) * inputs.features,
                        np.float32(share) * inputs.metadata)  # fmt: skip
        places = inference.network(bundle).places(inputs.lengths)
        return np.split(predict.by_batches(bundle, part)[0], np.cumsum(places)[:-1])

    if kind == "label_sequence":
        labels = transcripts.decode(said_of(1), by == "decoder", None)
        surprise = decoding.named_surprise if by == "decoder" else decoding.surprise

        def reached(pieces: list[np.ndarray]) -> list[float]:
            return [np.exp(-surprise(*pair, 3)) for pair in zip(pieces, labels, strict=True)]
    else:
        labels = [tuple(piece.argmax(axis=1).tolist()) for piece in said_of(1)]

        def reached(pieces: list[np.ndarray]) -> list[float]:
            return [piece[-1, own[-1]] for piece, own in zip(pieces, labels, strict=True)]

    found = predict.attributed(bundle, inputs, labels, inputs.lengths, attributions.MIDPOINTS)
    np.testing.assert_allclose([own.reached for own in found], reached(said_of(1)), rtol=2e-5, atol=1e-7)
    for own, length in zip(found, inputs.lengths, strict=True):
        assert own.features.shape == (length, len(bundle.features)) and own.features.any()
        gap = own.features.sum() + own.metadata.sum() - (own.reached - own.baseline)
        assert abs(gap) < attributions.TOLERANCE / 10
    if by == "ctc":  # else what is named on the way, and fed, may be other labels
        baseline = said_of(0)
        np.testing.assert_allclose([own.baseline for own in found], reached(baseline), rtol=2e-5, atol=1e-7)


def test_gradients_through_the_kernel_are_those_of_differences(survey: Path, fresh: Any) -> None:
    """The derivative of the probability along the way to the inputs is what the midpoints are a mean of."""
    bundle = invented.bundle(survey, cell="lstm", members=1)
    inputs, classes = examples(bundle), np.array([0, 1, 2])
    found = predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, 1)

    def at(share: float) -> np.ndarray:
        part = Examples(inputs.ids, inputs.labels, inputs.offsets, np.float32(share) * inputs.features,
                        np.float32(share) * inputs.metadata)  # fmt: skip
        return predict.by_batches(bundle, part)[0][np.arange(3), classes].astype(float)

    slope = (at(0.51) - at(0.49)) / 0.02
    sums = [own.features.sum() + own.metadata.sum() for own in found]
    np.testing.assert_allclose(sums, slope, atol=2e-4)
    with native.left_out():
        predict._attributor.cache_clear()
        plain = predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, 1)
    for own, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(own.features, other.features, atol=1e-6)


def test_longer_padding_and_smaller_batches_change_nothing(
    survey: Path, monkeypatch: pytest.MonkeyPatch, fresh: Any
) -> None:
    bundle, classes = invented.bundle(survey, cell="gru"), np.array([0, 1, 2])
    inputs = examples(bundle)
    first = predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, 16)
    monkeypatch.setattr(predict, "LEAST_STEPS", 64)
    monkeypatch.setattr(predict, "MOST_STEPS", 512)
    assert all(own.features.any() for own in first)
    again = predict.attributed(bundle, inputs, classes[:, None].tolist(), inputs.lengths, 16)
    for own, other in zip(first, again, strict=True):
        np.testing.assert_allclose(own.features, other.features, atol=1e-6)
        assert own.reached == pytest.approx(other.reached, abs=1e-6)


def test_the_surest_of_each_class_and_the_dearest_mistakes_are_chosen() -> None:
    rng = np.random.default_rng(4)
    probabilities, labels = rng.dirichlet(np.full(3, 0.5), 200), rng.integers(0, 3, 200)
    lengths = np.where(rng.random(200) < 0.3, attributions.MOST_STEPS + 1, 9)
    judged = Classified(probabilities, labels, np.arange(200), by_step=False)
    rows = attributions.chosen(judged, lengths)
    assert len(rows) == attributions.MOST_OBJECTS == len(set(rows.tolist())) and (lengths[rows] == 9).all()
    right, wrong = rows[judged.hits[rows]], rows[~judged.hits[rows]]
    confidence = probabilities.max(axis=1)
    for row in right:
        alike = judged.hits & (labels == labels[row]) & (lengths == 9)
        assert confidence[row] == confidence[alike].max()
    assert sorted(labels[right].tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(confidence[wrong], np.sort(confidence[~judged.hits & (lengths == 9)])[::-1][:3])
    perfect = Classified(np.eye(12)[np.arange(24) % 12], np.arange(24) % 12, np.arange(24), by_step=False)
    assert len(attributions.chosen(perfect, np.full(24, 3))) == attributions.MOST_OBJECTS
    assert not len(attributions.chosen(perfect, np.full(24, attributions.MOST_STEPS + 1)))


def test_of_labelled_steps_one_an_object_is_chosen() -> None:
    rng = np.random.default_rng(5)
    probabilities, labels, owners = rng.dirichlet(np.full(3, 0.5), 300), rng.integers(0, 3, 300), np.arange(300) // 20
    judged = Classified(probabilities, labels, owners, by_step=True)
    places = attributions.chosen(judged, np.full(15, 20))
    assert len(places) == attributions.MOST_OBJECTS == len(set(owners[places].tolist()))
    assert (~judged.hits[places]).sum() >= attributions.FEWEST_MISTAKES
    # all are as sure, and each object has steps of every class: none is left out, nor are the mistakes
    labels = np.tile(np.arange(4), 8)
    sure = np.eye(4)[np.where(np.arange(32) % 8 == 7, 0, labels)]
    judged = Classified(sure, labels, np.arange(32) // 4, by_step=True)
    places = attributions.chosen(judged, np.full(8, 4))
    assert judged.hits[places].tolist() == [True] * 3 + [False] * 3
    assert len(set(labels[places[:3]].tolist())) == 3 and len(set(judged.owners[places].tolist())) == 6
    few = Classified(sure[4:8], labels[4:8], np.zeros(4, dtype=np.int64), by_step=True)
    assert attributions.chosen(few, np.full(1, 4)).tolist() == [3], "one object, and its mistake"


def test_steps_of_the_table_are_those_that_were_predicted(survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are missing at some steps, and objects come in another order than in the split."""
    bundle = invented.bundle(survey, kind="step", cell="gru", members=1)
    inputs = examples(bundle, (9, 4, 5, 7, 3))
    (probabilities,), count = predict.by_batches(bundle, inputs), int(inputs.offsets[-1])
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(count) < 0.3, -1, rng.integers(0, 3, count))
    order = np.array([3, 1, 0, 4, 2])
    places = np.concatenate([np.arange(*inputs.offsets[row : row + 2]) for row in order])
    lengths = inputs.lengths[order]
    entry = Predictions("step", inputs.ids[order], labels[places], lengths, lengths, {"it": probabilities[places]})
    monkeypatch.setattr(shuffles, "reordered", lambda part, rows: rows)
    monkeypatch.setattr(shuffles, "every", lambda rows: (some(inputs, rows),))
    monkeypatch.setattr(attributions.Clock, "read", lambda dataset, ids, early: SimpleNamespace(time=np.zeros(count)))
    part: Any = inputs
    table = attributions.table(bundle, part, Path(), entry, "it")
    classes = bundle.statistics.classes
    row_of = {name: row for row, name in enumerate(inputs.ids.tolist())}
    shown = table.drop_duplicates("id")
    assert len(shown) > 3
    for told in shown.to_dict("records"):
        place = inputs.offsets[row_of[told["id"]]] + told["of_step"] - 1
        assert told["probability"] == pytest.approx(probabilities[place].max(), abs=2e-6)
        assert (told["truth"], told["predicted"]) == (classes[labels[place]], classes[probabilities[place].argmax()])


def some(inputs: Examples, rows: np.ndarray) -> Examples:
    steps = np.concatenate([np.arange(*inputs.offsets[row : row + 2]) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(inputs.lengths[rows])])
    features, metadata = inputs.features[steps], inputs.metadata[rows]
    return Examples(inputs.ids[rows], inputs.labels[rows], offsets, features, metadata)


def test_a_step_s_attributions_lead_to_its_own_probability_and_come_from_nothing_later(survey: Path) -> None:
    bundle = invented.bundle(survey, kind="prefix", cell="gru")
    inputs, steps_of = examples(bundle), np.array([4, 1, 5])
    (probabilities, _), classes = predict.by_batches(bundle, inputs), np.array([1, 1, 2])
    found = predict.attributed(bundle, inputs, classes[:, None].tolist(), steps_of, attributions.MIDPOINTS)
    for row, (own, step) in enumerate(zip(found, steps_of, strict=True)):
        assert own.reached == pytest.approx(probabilities[inputs.offsets[row] + step - 1, classes[row]], abs=2e-6)
        assert own.features[:step].any() and not own.features[step:].any(), "the network looks back alone"
        gap = own.features.sum() + own.metadata.sum() - (own.reached - own.baseline)
        assert abs(gap) < attributions.TOLERANCE / 10


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_of_a_trained_network_attributions_are_complete_and_stand_in_the_table(tmp_path: Path, cell: str) -> None:
    of, at, planned = prepared(tmp_path, training__epochs=8, model__cell=cell, grid={"loss.gamma": [0]})
    (job,) = planned.jobs
    folder = at.job("tiny", job.name)
    jobs.train(plan.load_job(folder / "config.yaml"), at, folder, lambda text: None)
    best = aggregate.aggregate(of, at)
    rows = read(at.experiment("tiny") / "attributions_test.csv")
    assert tuple(rows[0]) == attributions.COLUMNS
    for _, group in itertools.groupby(rows, key=lambda row: row["id"]):
        *steps, metadata = group
        assert metadata["feature"] == "context_0" and metadata["step"] == metadata["time"] == ""
        assert [int(row["step"]) for row in steps] == np.repeat(np.arange(1, len(steps) // 3 + 1), 3).tolist()
        assert all(float(row["time"]) >= 0 for row in steps)
        probability, baseline, gap = (float(metadata[name]) for name in ("probability", "baseline", "gap"))
        total = sum(float(row["attribution"]) for row in (*steps, metadata))
        assert total - (probability - baseline) == pytest.approx(gap, abs=1e-6)
        assert abs(gap) < attributions.TOLERANCE / 10
    sure = {(row["predictions"], row["score"]): row["value"] for row in read(at.experiment("tiny") / "uncertainty.csv")}
    assert float(sure["chosen trial", "accuracy"]) == pytest.approx(best["test"]["accuracy"]["value"])
    assert {name for name, _ in sure} == {"chosen trial", "dropout, 50 passes"}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
