"""The validation scores that training watches, computed on the device after every epoch.

`metrics` computes the reported scores from the stored predictions with scikit-learn; a test holds the two together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Scores(NamedTuple):
    """Of one trial on one split: mean loss, shares of 1."""

    loss: Array
    accuracy: Array
    macro_f1: Array
    macro_auc: Array


def scores(
    logits: Float[Array, "object label"],
    losses: Float[Array, " object"],
    labels: Int[Array, " object"],
    valid: Bool[Array, " object"],
) -> Scores:
    """Returns the scores over the valid objects; every class must have one among them."""
    classes = jnp.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    truth = (labels[:, None] == classes) & valid[:, None]
    claimed = (predicted[:, None] == classes) & valid[:, None]
    hits = (truth & claimed).sum(axis=0)
    f1 = 2 * hits / jnp.maximum(truth.sum(axis=0) + claimed.sum(axis=0), 1)
    probabilities = jax.nn.softmax(logits)
    areas = jax.vmap(roc_auc, in_axes=(1, 1, None))(probabilities, truth, valid)
    count = valid.sum()
    return Scores(
        loss=jnp.where(valid, losses, 0).sum() / count,
        accuracy=hits.sum() / count,
        macro_f1=f1.mean(),
        macro_auc=areas.mean(),
    )


def roc_auc(score: Float[Array, " object"], positive: Bool[Array, " object"], valid: Bool[Array, " object"]) -> Array:
    """Returns the area under the ROC curve as the Mann-Whitney statistic, ties counting half."""
    order = jnp.argsort(jnp.where(valid, score, jnp.inf))
    sorted_score, sorted_positive = score[order], positive[order]
    negative = (valid & ~positive)[order]
    below = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(negative, dtype=jnp.int32)])
    ranked = jnp.where(valid[order], sorted_score, jnp.inf)
    left = below[jnp.searchsorted(ranked, ranked, side="left")]
    right = below[jnp.searchsorted(ranked, ranked, side="right")]
    wins = jnp.where(sorted_positive, 0.5 * (left + right) / jnp.maximum(negative.sum(), 1), 0)
    return wins.sum() / jnp.maximum(positive.sum(), 1)
