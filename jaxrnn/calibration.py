"""Calibration: how far probabilities can be taken at their word, and the one number that mends them.

Probabilities are [object, class] (or [step, class]), labels [object] class indices.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize

from jaxrnn.metrics import CALIBRATION_BINS, calibration_bins, log_loss, wilson

# Of a class, which may have been rounded to 0: a temperature makes much of differences between small probabilities.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
# Of the search for a temperature, in its logarithm: 1/50 to 50.
LOG_TEMPERATURES = (-np.log(50), np.log(50))


class Bin(NamedTuple):
    """The objects of which something is said with a probability in [`left`, `right`): how many, their mean probability
    (`confidence`), the share of right ones (`accuracy`) and its 95 % interval by Wilson's score."""

    left: float
    right: float
    objects: int
    confidence: float
    accuracy: float
    low: float
    high: float


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes the log loss of `scaled` least (Guo et al. 2017, arXiv 1706.04599, eq. 9);
    within 1/50 and 50. Above one: the probabilities were too sure of themselves. 1 where no object is classified wrong:
    no number is small enough then, and each would make certainties of a few lucky objects."""
    if (probabilities.argmax(axis=-1) == labels).all():
        return 1.0
    return fitted(lambda temperature: log_loss(scaled(probabilities, temperature), labels))


def fitted(loss: Callable[[float], float]) -> float:
    """Returns the temperature within 1/50 and 50 whose loss is least."""
    found = optimize.minimize_scalar(
        lambda logarithm: loss(float(np.exp(logarithm))), bounds=LOG_TEMPERATURES, method="bounded"
    )
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(log p / temperature) float32; p at least `SMALLEST_PROBABILITY`. The most probable class
    stays the most probable one."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY)) / temperature
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (raised / raised.sum(axis=-1, keepdims=True)).astype(np.float32)


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns Brier's score (1950), the mean over objects of the sum over classes of (p - truth)^2: 0 to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities.astype(np.float64) - truth) ** 2).sum(axis=1).mean())


def reliability(confidence: np.ndarray, hits: np.ndarray, bins: int = CALIBRATION_BINS) -> list[Bin]:
    """Returns the bins of equal width that have objects, as `metrics.calibration_error` cuts them: of what was said of
    each [object] with a probability, and whether it is right."""
    place = calibration_bins(confidence, bins)
    found = []
    for number in np.unique(place):
        here = place == number
        count, shares = int(here.sum()), (float(confidence[here].mean()), float(hits[here].mean()))
        found.append(Bin(number / bins, (number + 1) / bins, count, *shares, *wilson(int(hits[here].sum()), count)))
    return found
