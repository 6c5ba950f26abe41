"""What is watched on the device is what scikit-learn, and so the report, computes from the same predictions."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from sklearn import metrics as sk

from jaxrnn import metrics, monitoring
from jaxrnn.config import ERROR_RATES, Task
from jaxrnn.results import HISTORY_COLUMNS

# one shape, so that one program serves all draws
ROWS, CLASSES = 48, 3
softmax = jax.jit(jax.nn.softmax)
IMPORTANCE, TARGET = (0.5, 1.0, 3.0), 1
scores = jax.jit(monitoring.scores, static_argnames=("importance", "target"))
roc_auc = jax.jit(monitoring.roc_auc)
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def scattered(values: np.ndarray, valid: np.ndarray, filling: Any) -> np.ndarray:
    """Returns [row, ...] with the values on the valid rows, in order, and `filling` on the others."""
    result = np.full((len(valid), *values.shape[1:]), filling, dtype=values.dtype)
    result[valid] = values
    return result


def log_loss(labels: np.ndarray, probabilities: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
    """Returns scikit-learn's, of float32 probabilities, which sum to 1 but for their rounding."""
    return sk.log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True), sample_weight=sample_weight)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns logits and labels of the valid rows, and [row] which those are. Every class is among them.

    The logits are small whole numbers: rows tie often, and their probabilities tie without rounding.
    """
    count = draw(st.integers(CLASSES, ROWS))
    generator = default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.integers(0, 4))
    logits = generator.integers(-spread, spread + 1, (count, CLASSES)).astype(np.float32)
    rest = generator.choice(CLASSES, count - CLASSES, p=generator.dirichlet(np.ones(CLASSES)))
    labels = generator.permutation(np.concatenate([np.arange(CLASSES), rest])).astype(np.int32)
    valid = generator.permutation(np.arange(ROWS) < count)
    return logits, labels, valid


@given(drawn=predictions(), filling=st.sampled_from([0.0, 1e30, np.nan, -np.inf]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scores_are_scikit_learns_over_the_valid_rows(drawn: Any, filling: float) -> None:
    logits, labels, valid = drawn
    losses = default_rng(0).uniform(0, 5, len(labels)).astype(np.float32)
    found = scores(
        scattered(logits, valid, filling),
        scattered(losses, valid, filling),
        scattered(labels, valid, 1),
        valid,
        importance=IMPORTANCE,
        target=TARGET,
    )
    probabilities = np.asarray(softmax(scattered(logits, valid, 0.0)))[valid].astype(np.float64)
    predicted = logits.argmax(axis=1)
    areas = [sk.roc_auc_score(labels == index, probabilities[:, index]) for index in range(CLASSES)]
    np.testing.assert_allclose(found.loss, losses.mean(), **TOLERANCE)
    np.testing.assert_allclose(found.log_loss, log_loss(labels, probabilities), **TOLERANCE)
    shares = (np.array(IMPORTANCE) / np.bincount(labels, minlength=CLASSES))[labels]
    weighted = log_loss(labels, probabilities, sample_weight=shares)
    np.testing.assert_allclose(found.plasticc_log_loss, weighted, **TOLERANCE)
    merit = metrics.figure_of_merit(predicted == TARGET, labels == TARGET)
    np.testing.assert_allclose(found.figure_of_merit, merit, **TOLERANCE)
    np.testing.assert_allclose(found.accuracy, sk.accuracy_score(labels, predicted), **TOLERANCE)
    np.testing.assert_allclose(found.macro_f1, sk.f1_score(labels, predicted, average="macro"), **TOLERANCE)
    np.testing.assert_allclose(found.macro_auc, np.mean(areas), **TOLERANCE)


@pytest.mark.parametrize("separation", [0.0, 1.0, 20.0])
def test_what_training_watches_is_what_the_tables_report(separation: float) -> None:
    count, classes, generator = 3000, 4, default_rng(0)
    labels = generator.permutation(np.arange(count) % classes).astype(np.int32)
    logits = (
        generator.normal(0, 1, (count, classes)).astype(np.float32)
        + np.float32(separation) * np.eye(classes, dtype=np.float32)[labels]
    )
    probabilities = np.asarray(softmax(logits))
    losses = -np.log(probabilities[np.arange(count), labels])
    names = tuple(map(str, range(classes)))
    task = Task(class_importance={"1": 2.0, "3": 0.25}, target="2")
    watched = scores(
        logits,
        losses,
        labels,
        np.ones(count, dtype=bool),
        importance=tuple(task.importance(names)),
        target=task.target_index(names),
    )
    reported = metrics.scores(probabilities, labels, names, task)
    for name in metrics.overall(task):
        assert float(getattr(watched, name)) == pytest.approx(reported[name], rel=1e-5, abs=2e-6), name
    assert float(watched.loss) == pytest.approx(reported["log_loss"], rel=1e-5)


def test_what_is_watched_is_every_overall_score_and_stands_in_the_history() -> None:
    assert {*monitoring.Scores._fields} == {"loss", *metrics.overall(Task(target="a")), *ERROR_RATES}
    watched = [f"validation_{name}" for name in monitoring.Scores._fields]
    assert [name for name in HISTORY_COLUMNS if name.startswith("validation_")] == watched


def test_what_the_task_does_not_define_is_no_number() -> None:
    logits = np.eye(CLASSES, dtype=np.float32)
    found = scores(logits, np.ones(CLASSES, np.float32), np.arange(CLASSES, dtype=np.int32), np.ones(CLASSES, bool))
    missing = [name for name, value in found._asdict().items() if np.isnan(value)]
    assert missing == ["plasticc_log_loss", "figure_of_merit", *ERROR_RATES]


def test_a_hopeless_object_costs_as_much_as_in_the_tables() -> None:
    """A probability of 0 in float32 counts as the least that there is, on the device too."""
    logits = np.array([[-200.0, 200.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    labels = np.arange(CLASSES, dtype=np.int32)
    found = scores(logits, np.ones(CLASSES, np.float32), labels, np.ones(CLASSES, bool), importance=IMPORTANCE)
    task = Task(class_importance={"0": 0.5, "2": 3.0})
    reported = metrics.scores(np.asarray(softmax(logits)), labels, ("0", "1", "2"), task)
    assert float(found.log_loss) == pytest.approx(reported["log_loss"], rel=1e-5)
    assert float(found.plasticc_log_loss) == pytest.approx(reported["plasticc_log_loss"], rel=1e-5)


# Subnormal numbers are left out: XLA takes them for 0, in the softmax that the scores come from too.
shares = st.floats(0, 1, width=32, allow_subnormal=False) | st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(
    rows=st.lists(st.tuples(shares, st.booleans(), st.booleans()), min_size=2, max_size=ROWS),
    filling=st.sampled_from([0.5, np.nan, np.inf]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_area_is_scikit_learns_whatever_ties(rows: list[tuple[float, bool, bool]], filling: float) -> None:
    score, positive, valid = (np.array(column) for column in zip(*rows, strict=True))
    score, missing = score.astype(np.float32), ROWS - len(rows)
    # one object of each kind at least, of which an area can be made
    positive[:2], valid[:2] = (True, False), True
    found = roc_auc(
        np.pad(np.where(valid, score, filling).astype(np.float32), (0, missing), constant_values=filling),
        np.pad(positive & valid, (0, missing)),
        np.pad(valid, (0, missing)),
    )
    np.testing.assert_allclose(found, sk.roc_auc_score(positive[valid], score[valid]), **TOLERANCE)


def test_the_area_of_many_objects_keeps_its_digits() -> None:
    count, generator = 100_000, default_rng(0)
    positive = generator.random(count) < 0.02
    score = (generator.normal(0, 1, count) + positive).astype(np.float32).round(2)
    found = roc_auc(score, positive, np.ones(count, dtype=bool))
    assert float(found) == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-5)
