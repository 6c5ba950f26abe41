"""Optimisers, and the learning rate of each step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

EPSILON = 1e-8
RMS_DECAY = 0.9


def make(
    kind: str, *, learning_rate: Any, momentum: Any, weight_decay: Any, gradient_clip: Any
) -> optax.GradientTransformation:
    """Returns the optimiser, whose steps are those of `torch.optim`; all its numbers may be traced.

    adam: Kingma and Ba 2015 (arXiv 1412.6980), betas 0.9 and 0.999. adamw: Loshchilov and Hutter 2019 (arXiv
    1711.05101). rmsprop: Tieleman and Hinton 2012, with the decay 0.9 of Keras (`alpha` in PyTorch). sgd: stochastic
    gradient descent. Epsilon is 1e-8, outside the root.

    momentum: of sgd and rmsprop, as a running sum of steps (not a mean); the others have no use for it.
    weight_decay: times the parameters, all of them, is added to the gradient; for adamw to the step instead, so that
    they shrink by the learning rate times it. gradient_clip: largest norm of the gradient, before decay; inf for none.
    """
    decay = optax.add_decayed_weights(weight_decay)
    steps = {
        "adam": (decay, optax.scale_by_adam(eps=EPSILON)),
        "adamw": (optax.scale_by_adam(eps=EPSILON), decay),
        "rmsprop": (decay, optax.scale_by_rms(RMS_DECAY, EPSILON, eps_in_sqrt=False), optax.trace(momentum)),
        "sgd": (decay, optax.trace(momentum)),
    }
    rate = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(optax.clip_by_global_norm(gradient_clip), *steps[kind], rate)


class Plateau(NamedTuple):
    """scale: what the learning rate is multiplied by. waited: epochs since the last better one, or since scale fell."""

    scale: Array
    waited: Array

    @classmethod
    def begun(cls) -> "Plateau":
        return cls(jnp.float32(1), jnp.int32(0))

    def after(self, better: Bool[Array, ""], *, factor: Float[Array, ""], patience: Int[Array, ""]) -> "Plateau":
        """Returns it after an epoch: the scale falls by `factor` once `patience` epochs in a row were no better.

        PyTorch's `ReduceLROnPlateau(threshold=0)` with a patience of one less, for it counts the epochs let pass.
        """
        waited = jnp.where(better, 0, self.waited + 1)
        falls = waited >= patience
        return Plateau(jnp.where(falls, self.scale * factor, self.scale), jnp.where(falls, 0, waited))


def learning_rate(
    schedule: str,
    progress: Float[Array, ""],
    *,
    peak: Float[Array, ""],
    epochs: int,
    warmup_epochs: Float[Array, ""],
    final_share: Float[Array, ""],
    plateau: Plateau,
) -> Float[Array, ""]:
    """Returns the learning rate of a step that begins when `progress` epochs, whole and broken, are over.

    It rises linearly from 0 to `peak` in `warmup_epochs`. Then `constant` stays there; `cosine` falls in half a cosine
    to `final_share` of it when all epochs are over (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without
    restarts); `plateau` has its scale throughout.
    """
    rise = jnp.where(progress < warmup_epochs, progress / jnp.maximum(warmup_epochs, 1e-9), 1.0)
    if schedule == "plateau":
        return peak * rise * plateau.scale
    if schedule == "constant":
        return peak * rise
    over = jnp.clip((progress - warmup_epochs) / (epochs - warmup_epochs), 0, 1)
    return peak * rise * (final_share + (1 - final_share) * (1 + jnp.cos(jnp.pi * over)) / 2)
