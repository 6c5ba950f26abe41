"""Deep ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474): networks of the same settings that differ in their
seeds, what they say together, and how sure they are of it.

Probabilities are [place, class].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn import calibration


class Together(NamedTuple):
    """What networks say together. probabilities: [place, class] float32, the mean p of the members' calibrated ones.

    entropy: [place] float32, -sum over classes of p ln p, in nats: 0 for a certain class, ln(classes) for a toss-up.
    mutual_information: [place] float32, entropy less the mean of the members' own entropies: the part of it that comes
    from their disagreement (Depeweg et al. 2018, arXiv 1710.07283, eq. 2), large far from the training data. 0 for one
    network alone.
    """

    probabilities: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray


def together(members: Sequence[np.ndarray], temperatures: Sequence[float]) -> Together:
    """Returns what members of these probabilities say together, each calibrated by its own temperature."""
    calibrated = [
        calibration.scaled(probabilities, temperature)
        for probabilities, temperature in zip(members, temperatures, strict=True)
    ]
    mean = np.asarray(np.mean(calibrated, axis=0, dtype=np.float64))
    total = entropy(mean)
    disagreement = np.maximum(total - np.mean([entropy(member) for member in calibrated], axis=0), 0)
    if len(calibrated) == 1:
        disagreement = np.zeros_like(disagreement)
    return Together(*(np.asarray(values, dtype=np.float32) for values in (mean, total, disagreement)))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Returns -sum p ln p over the classes, [place] float64 in nats."""
    probabilities = probabilities.astype(np.float64)
    logarithms = np.log(np.where(probabilities > 0, probabilities, 1))
    return np.abs((probabilities * logarithms).sum(axis=-1))
