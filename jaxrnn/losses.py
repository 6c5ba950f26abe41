"""Losses of one object each, unreduced."""

import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int


def focal(
    logits: Float[Array, "object label"],
    labels: Int[Array, " object"],
    *,
    class_weights: Float[Array, " label"],
    gamma: Float[Array, ""] | float,
) -> Float[Array, " object"]:
    """Returns -w_c (1 - p_t)^gamma log p_t of each object (Lin et al. 2017, arXiv 1708.02002, eq. 5).

    p_t is the probability of the object's own class c. gamma 0 is the weighted cross-entropy.
    """
    log_probability = jnp.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0]
    missing = -jnp.expm1(log_probability)
    # the power's gradient at 0 is infinite for gamma < 1: keep the base away from 0
    focus = jnp.where(gamma > 0, jnp.maximum(missing, 1e-7) ** gamma, 1.0)
    return -class_weights[labels] * focus * log_probability


def class_weights(kind: str, counts: np.ndarray) -> np.ndarray:
    """Returns each class's weight [class] float32: `balanced` is N / (classes n_c) from training counts, `none` is
    1."""
    if kind == "none":
        return np.ones(len(counts), dtype=np.float32)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
