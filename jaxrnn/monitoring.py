"""The validation scores that training watches, computed on the device after every epoch.

`metrics` computes the reported scores from the stored predictions with scikit-learn; a test holds the two together.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrnn import ctc

SMALLEST_PROBABILITY = 1e-7  # as in `metrics`


class Scores(NamedTuple):
    """Of one trial on one split: the mean of what it minimises, and the scores of `metrics` by their names. What a task
    has not is NaN."""

    loss: Array
    log_loss: Array
    accuracy: Array
    macro_f1: Array
    macro_auc: Array
    plasticc_log_loss: Array
    figure_of_merit: Array
    label_error_rate: Array
    sequence_error_rate: Array


def scores(
    logits: Float[Array, "object label"],
    losses: Float[Array, " object"],
    labels: Int[Array, " object"],
    valid: Bool[Array, " object"],
    *,
    importance: Sequence[float] | None = None,
    target: int | None = None,
) -> Scores:
    """Returns the scores over the valid objects; every class must have one among them.

    importance: [class], the weights of `plasticc_log_loss`. target: the class of `figure_of_merit`. What is left out
    leaves its score NaN.
    """
    classes = jnp.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    truth = (labels[:, None] == classes) & valid[:, None]
    claimed = (predicted[:, None] == classes) & valid[:, None]
    hits = (truth & claimed).sum(axis=0)
    f1 = 2 * hits / jnp.maximum(truth.sum(axis=0) + claimed.sum(axis=0), 1)
    probabilities = jax.nn.softmax(logits)
    areas = jax.vmap(roc_auc, in_axes=(1, 1, None))(probabilities, truth, valid)
    count = valid.sum()
    surprise = jnp.minimum(-jax.nn.log_softmax(logits), -math.log(SMALLEST_PROBABILITY))
    by_class = jnp.where(truth, surprise, 0).sum(axis=0)
    weighted = jnp.float32(jnp.nan)
    if importance is not None:
        weighted = jnp.average(by_class / truth.sum(axis=0), weights=jnp.asarray(importance, by_class.dtype))
    merit = jnp.float32(jnp.nan)
    if target is not None:
        right, wrong = hits[target], claimed[:, target].sum() - hits[target]
        merit = right / truth[:, target].sum() * right / jnp.maximum(right + 3 * wrong, 1)
    return Scores(
        loss=jnp.where(valid, losses, 0).sum() / count,
        log_loss=by_class.sum() / count,
        accuracy=hits.sum() / count,
        macro_f1=f1.mean(),
        macro_auc=areas.mean(),
        plasticc_log_loss=weighted,
        figure_of_merit=merit,
        label_error_rate=jnp.float32(jnp.nan),
        sequence_error_rate=jnp.float32(jnp.nan),
    )


def spelling_scores(
    losses: Float[Array, " object"],
    distances: Float[Array, " object"],
    label_lengths: Int[Array, " object"],
    valid: Bool[Array, " object"],
) -> Scores:
    """Returns the scores of label sequences over the valid objects, from their losses -log p and edit distances."""
    loss = jnp.where(valid, losses, 0).sum() / valid.sum()
    nothing = Scores(*[jnp.float32(jnp.nan)] * len(Scores._fields))
    return nothing._replace(
        loss=loss,
        log_loss=loss,
        label_error_rate=ctc.label_error_rate(distances.astype(jnp.int32), label_lengths, valid),
        sequence_error_rate=ctc.sequence_error_rate(distances.astype(jnp.int32), valid),
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
