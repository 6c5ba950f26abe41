"""Growing sequences: the prediction that was there at each moment, found by hand."""

from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from test_leaks import shard, write_dataset

from jaxrnn import early, metrics
from jaxrnn.config import Early, Task
from jaxrnn.early import SINCE_FIRST, STEPS, Clock
from jaxrnn.errors import JaxrnnError
from jaxrnn.predictions import Predictions

CLASSES = ("a", "b", "c")


def drawn(objects: int = 60, seed: int = 0) -> tuple[Predictions, Clock]:
    """Returns predictions behind every step of sequences of 1 to 12 steps, and when the steps were."""
    generator = default_rng(seed)
    lengths = generator.integers(1, 13, objects)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.arange(objects) % len(CLASSES)
    steps = np.concatenate([np.arange(length) for length in lengths])
    # the longer the sequence, the surer and the better
    logits = generator.normal(0, 1, (offsets[-1], 3)) + 0.4 * steps[:, None] * np.eye(3)[np.repeat(labels, lengths)]
    odds = np.exp(logits)
    time = 50_000 + np.concatenate([np.sort(generator.uniform(0, 40, length)) for length in lengths])
    predicted = Predictions(
        "prefix",
        np.arange(objects).astype(str),
        labels,
        lengths,
        lengths,
        {"one": odds / odds.sum(axis=1, keepdims=True)},
    )
    return predicted, Clock(offsets, time, 50_000 + generator.uniform(5, 35, objects), "days")


def at_hand(predicted: Predictions, clock: Clock, by: str, at: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns probabilities, labels, and how many objects are not observed yet, object by object."""
    found, labels, missing = [], [], 0
    for index in range(len(predicted.ids)):
        start, end = clock.offsets[index], clock.offsets[index + 1]
        time = clock.time[start:end]
        if by == STEPS:
            count = min(int(at), len(time))
        else:
            assert clock.around is not None
            origin = time[0] if by == SINCE_FIRST else clock.around[index]
            count = sum(1 for moment in time if moment <= origin + at)
        if count:
            found.append(predicted.probabilities["one"][start + count - 1])
            labels.append(predicted.labels[index])
        missing += not count
    return np.array(found), np.array(labels), missing


def test_every_moment_is_the_prediction_that_was_there_then() -> None:
    predicted, clock = drawn()
    table = early.curves(predicted, "one", clock, CLASSES, Early(around="peak", at=(-10, -2, 0, 3.5, 30)))
    assert set(table["by"]) == {STEPS, SINCE_FIRST, "peak"}
    assert table.loc[table["by"] == "peak", "at"].tolist() == [-10, -2, 0, 3.5, 30]
    for row in table.to_dict("records"):
        probabilities, labels, missing = at_hand(predicted, clock, row["by"], row["at"])
        assert (row["objects"], row["unobserved"]) == (len(labels), missing)
        assert row["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == labels).mean(), abs=1e-12)
        assert row["macro_auc"] == pytest.approx(metrics.macro_auc(probabilities, labels), abs=1e-12)
        assert row["log_loss"] == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
    assert table.loc[table["by"] == "peak", "unobserved"].max() > 0
    whole = table.loc[table["by"] == STEPS].iloc[-1]
    scores = metrics.scores(predicted.scored("one"), predicted.scored_labels, CLASSES)
    assert whole["at"] == 12 and whole["macro_f1"] == scores["macro_f1"], "the last moment is the whole sequence"


def test_a_moment_that_lacks_a_class_has_no_scores() -> None:
    predicted, clock = drawn()
    assert clock.around is not None
    first = clock.time[clock.offsets[:-1]]
    late = Clock(clock.offsets, clock.time, np.where(predicted.labels == 0, first - 1, first + 1), "days")
    table = early.curves(predicted, "one", late, CLASSES, Early(around="peak", at=(0,)))
    (row,) = table.query("by == 'peak'").to_dict("records")
    assert row["unobserved"] == 20 and np.isnan(row["macro_auc"]) and np.isnan(row["accuracy"])


def test_the_clock_is_the_shards(tmp_path: Path) -> None:
    generator = default_rng(1)
    sequences = [generator.normal(0, 1, (length, 2)) for length in generator.integers(1, 9, 40)]
    half = [shard(sequences[:20], ["a"] * 20), shard(sequences[20:], ["b"] * 20, 20)]
    dataset = write_dataset(tmp_path, half)
    ids = np.concatenate([entry.ids for entry in half])[::-3]
    clock = Clock.read(dataset, ids, None)
    for index, name in enumerate(ids.tolist()):
        (entry,) = (entry for entry in half if name in entry.ids)
        row = entry.ids.tolist().index(name)
        expected = entry.time[entry.offsets[row] : entry.offsets[row + 1]]
        np.testing.assert_array_equal(clock.time[clock.offsets[index] : clock.offsets[index + 1]], expected)
    with pytest.raises(JaxrnnError, match=r"has no column 'peak'; name it in `data\.evaluation`"):
        Clock.read(dataset, ids, Early(around="peak", at=(0,)))


def test_early_times_are_for_prefixes_alone() -> None:
    with pytest.raises(ValueError, match="which only `kind: prefix` predicts"):
        Task.model_validate({"kind": "step", "early": {"around": "peak", "at": [0]}})


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    generator = default_rng(0)
    confidence = generator.uniform(0.5, 1, 200_000)
    labels = (generator.random(len(confidence)) > confidence).astype(int)
    honest = np.column_stack([confidence, 1 - confidence])
    assert metrics.calibration_error(honest, labels) < 0.005
    always = np.tile([0.9, 0.1], (1000, 1))
    assert metrics.calibration_error(always, np.arange(1000) % 2) == pytest.approx(0.4, abs=1e-12)
    # by hand, bin by bin
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += abs((labels[inside] == 0).mean() - confidence[inside].mean()) * inside.mean()
    assert metrics.calibration_error(honest, labels) == pytest.approx(total, abs=1e-9)
