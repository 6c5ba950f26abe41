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

# one shape, so that one program serves all draws
ROWS, CLASSES = 48, 3
softmax = jax.jit(jax.nn.softmax)
scores = jax.jit(monitoring.scores)
roc_auc = jax.jit(monitoring.roc_auc)
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def scattered(values: np.ndarray, valid: np.ndarray, filling: Any) -> np.ndarray:
    """Returns [row, ...] with the values on the valid rows, in order, and `filling` on the others."""
    result = np.full((len(valid), *values.shape[1:]), filling, dtype=values.dtype)
    result[valid] = values
    return result


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
        scattered(logits, valid, filling), scattered(losses, valid, filling), scattered(labels, valid, 1), valid
    )
    probabilities = np.asarray(softmax(scattered(logits, valid, 0.0)))[valid]
    predicted = logits.argmax(axis=1)
    areas = [sk.roc_auc_score(labels == index, probabilities[:, index]) for index in range(CLASSES)]
    np.testing.assert_allclose(found.loss, losses.mean(), **TOLERANCE)
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
    watched = scores(logits, losses, labels, np.ones(count, dtype=bool))
    reported = metrics.scores(probabilities, labels, tuple(map(str, range(classes))))
    for name in ("accuracy", "macro_f1", "macro_auc"):
        assert float(getattr(watched, name)) == pytest.approx(reported[name], abs=2e-6)
    assert float(watched.loss) == pytest.approx(reported["log_loss"], rel=1e-5)


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
