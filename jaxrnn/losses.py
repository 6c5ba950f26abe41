"""Losses of one label each, unreduced: of an object, or of each of its steps."""

import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int


def focal(
    logits: Float[Array, "*object label"],
    labels: Int[Array, "*object"],
    *,
    class_weights: Float[Array, " label"],
    gamma: Float[Array, ""] | float = 0.0,
    label_smoothing: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*object"]:
    """Returns -sum_c w_c q_c (1 - p_c)^gamma log p_c of each object, where q_c is the smoothed label: 1 - s + s /
    classes for the object's own class, s / classes for the others.

    Without smoothing s it is the focal loss (Lin et al. 2017, arXiv 1708.02002, eq. 5). gamma 0 is the cross-entropy of
    smoothed labels (Szegedy et al. 2016, arXiv 1512.00567, section 7), in which every class's term has that class's
    weight, as in PyTorch; both 0, the weighted cross-entropy.
    """
    log_probabilities = log_softmax(logits)
    missing = -jnp.expm1(log_probabilities)
    # the power's gradient at 0 is infinite for gamma < 1: keep the base away from 0
    focus = jnp.where(gamma > 0, jnp.maximum(missing, 1e-7) ** gamma, 1.0)
    share = label_smoothing / logits.shape[-1]
    own = labels[..., None] == jnp.arange(logits.shape[-1])
    smoothed = jnp.where(own, 1 - label_smoothing + share, share)
    return -(class_weights * smoothed * focus * log_probabilities).sum(axis=-1)


def class_logits(outputs: Float[Array, "*object output"]) -> Float[Array, "*object label"]:
    """Returns a logit a class: [0, z] of a network with one output z, so that the second of two classes has probability
    sigmoid(z) and `focal` is the binary cross-entropy; any other network's outputs as they are."""
    return jnp.concatenate([jnp.zeros_like(outputs), outputs], axis=-1) if outputs.shape[-1] == 1 else outputs


def class_weights(kind: str, counts: np.ndarray, *, beta: float = 0.999) -> np.ndarray:
    """Returns each class's weight [class] float32, from the counts n_c of training objects.

    `balanced` is N / (classes n_c), so that the mean over objects is 1. `effective` is the class-balanced weight
    (1 - beta) / (1 - beta^n_c) (Cui et al. 2019, arXiv 1901.05555), scaled so that the mean over classes is 1: equal
    weights for beta 0, in proportion to 1 / n_c as beta nears 1. `none` is 1.
    """
    if kind == "none":
        return np.ones(len(counts), dtype=np.float32)
    if kind == "balanced":
        return (counts.sum() / (len(counts) * counts)).astype(np.float32)
    with np.errstate(divide="ignore"):
        weights = -1 / np.expm1(counts * np.log(beta))
    return (weights * len(counts) / weights.sum()).astype(np.float32)
