"""Calibration against scikit-learn's curve and score, and against probabilities whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from jaxrnn import calibration, metrics


def drawn(objects: int, classes: int, seed: int = 0, sharpened: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities that are `sharpened` times as sure as the ones that the labels are drawn from."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(objects, classes))
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (truth.cumsum(axis=1) > generator.random((objects, 1))).argmax(axis=1)
    shown = np.exp(sharpened * logits)
    return (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("sharpened", [0.5, 1, 3])
def test_the_temperature_undoes_a_known_sharpening(sharpened: float) -> None:
    probabilities, labels = drawn(20_000, 3, sharpened=sharpened)
    found = calibration.temperature(probabilities, labels)
    assert found == pytest.approx(sharpened, rel=0.05)
    mended = calibration.scaled(probabilities, found)
    assert metrics.log_loss(mended, labels) <= metrics.log_loss(probabilities, labels) + 1e-6
    assert metrics.calibration_error(mended, labels) < 0.02


def test_predictions_without_a_mistake_are_left_as_they_are() -> None:
    labels = np.array([0, 1, 0, 1])
    assert calibration.temperature(0.8 * np.eye(2)[labels] + 0.1, labels) == 1


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_scaling_keeps_the_order_of_classes(seed: int, temperature: float) -> None:
    probabilities, _ = drawn(20, 4, seed)
    found = calibration.scaled(probabilities, temperature)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (found.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert np.allclose(calibration.scaled(probabilities, 1), probabilities, atol=1e-6)


def test_reliability_is_scikit_learns_curve_and_adds_up_to_the_calibration_error() -> None:
    probabilities, labels = drawn(3_000, 3, sharpened=2)
    bins = calibration.reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, 10)
    hits, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    accuracy, mean = calibration_curve(hits, confidence, n_bins=10)
    assert np.allclose([each.accuracy for each in bins], accuracy)
    assert np.allclose([each.confidence for each in bins], mean, atol=1e-6)
    assert sum(each.objects for each in bins) == 3_000
    gaps = sum(each.objects * abs(each.accuracy - each.confidence) for each in bins) / 3_000
    assert gaps == pytest.approx(metrics.calibration_error(probabilities, labels, 10), abs=1e-6)
    assert all(each.low <= each.accuracy <= each.high for each in bins)


def test_briers_score_is_scikit_learns() -> None:
    probabilities, labels = drawn(500, 2)
    ours = calibration.brier(probabilities, labels)
    assert ours == pytest.approx(2 * float(brier_score_loss(labels, probabilities[:, 1])), abs=1e-6)
