"""The networks: a list of layers, then one logit a class, from a dense layer or from a decoder.

Layers are Flax NNX modules; `split` once, then plain jax transformations over their state.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt16

from jaxrnn import blueprint, config
from jaxrnn.attention import Decoder, before_end
from jaxrnn.blueprint import Placed
from jaxrnn.config import Model, Output
from jaxrnn.layers import Call, glorot, made


class Network(nnx.Module):
    """The layers of a blueprint, and the one that gives the classes.

    The family with depth 2, dense depth 2, sigmoid and batch norm is the network of GOTO (Burhanudin et al. 2021,
    section 3.3), but for batch norm that leaves padding out.
    """

    def __init__(
        self, model: Model, output: Output, features: int, metadata: int, classes: int, *, rngs: nnx.Rngs
    ) -> None:
        """output: what is wanted, see `Model.as_layers`. Raises JaxrnnError where the layers don't fit."""
        self.blueprint = blueprint.of(model, output, features, metadata, classes)
        self.layers = nnx.List([made(placed, rngs) for placed in self.blueprint.layers])
        placed, width = self.blueprint.decoder, self.blueprint.gives.width
        self.logits = nnx.Linear(width, classes, kernel_init=glorot, rngs=rngs) if placed is None else None
        self.decoder = None if placed is None else _decoder(placed, classes, rngs)

    def __call__(
        self,
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
        *,
        dropout_rate: Float[Array, ""] | float | None = None,
        recurrent_dropout_rate: Float[Array, ""] | float | None = None,
        dropout_bits: UInt16[Array, " draw"] | None = None,
        frozen: bool = False,
    ) -> Float[Array, "batch label"] | Float[Array, "batch step label"]:
        """Returns the logits: [batch, class], or [batch, step, class] with 0 beyond the lengths (`lengths_out`) where
        the network answers at each step, or at each position of a label sequence. A decoder infers, by its own labels
        alone.

        In training, with `dropout_bits` (uniform, at least `dropout_draws` of them), it drops out, and batch norm takes
        the batch's statistics and keeps them. A recurrent_dropout_rate of None leaves it out of the program. frozen: it
        drops out, and batch norm takes what it has kept, as in evaluation.
        """
        rates = dropout_rate, recurrent_dropout_rate
        values = self._encoded(features, Call(lengths, metadata, *rates, dropout_bits, frozen))
        if self.decoder is not None:
            return self.decoder.infer(values, self._source_lengths(lengths))[0]
        assert self.logits is not None
        return Call(lengths, metadata).masked(self.logits(values), self.blueprint.gives)

    def taught(
        self,
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
        labels: Int[Array, "batch place"],
        *,
        teacher_share: Float[Array, ""] | float,
        teacher_bits: UInt16[Array, "batch place"],
        dropout_rate: Float[Array, ""] | float | None = None,
        recurrent_dropout_rate: Float[Array, ""] | float | None = None,
        dropout_bits: UInt16[Array, " draw"] | None = None,
    ) -> Float[Array, "batch place label"]:
        """Returns the logits of training by a teacher, of a network with a decoder: a share of the places is fed the
        label before that is given, see `Decoder.teach`. labels: of each step, -1 where unknown; or label sequences with
        their end (`attention.with_end`). dropout_bits: None leaves all else as in evaluation. This is the only way in
        for labels."""
        assert self.decoder is not None
        values = self._encoded(features, Call(lengths, metadata, dropout_rate, recurrent_dropout_rate, dropout_bits))
        lengths = self._source_lengths(lengths)
        ends = lengths if self.decoder.positions is None else (labels >= 0).sum(axis=1)
        return self.decoder.teach(values, lengths, labels, ends, teacher_share=teacher_share, bits=teacher_bits)[0]

    def attended(
        self,
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
    ) -> Float[Array, "batch target source"]:
        """Returns the attention weights of a network with a decoder, as it infers, and 0 behind the end that it names.
        They take steps squared of memory a sequence: for a few of them at once."""
        assert self.decoder is not None
        values = self._encoded(features, Call(lengths, metadata))
        logits, weights = self.decoder.infer(values, self._source_lengths(lengths))
        if self.decoder.positions is None:
            return weights
        named = before_end(logits.argmax(axis=2), end=self.decoder.classes - 1)
        return jnp.where(jnp.arange(weights.shape[1])[None, :, None] <= named[:, None, None], weights, 0)

    def _source_lengths(self, lengths: Int[Array, " batch"]) -> Int[Array, " batch"]:
        """Returns how many of the steps that the decoder attends to are valid."""
        assert self.blueprint.decoder is not None
        return self.blueprint.decoder.takes.steps(lengths)

    def _encoded(self, features: Array, call: Call) -> Array:
        """Returns what the layers give, before the classes."""
        values = call.masked(features, self.blueprint.takes)
        for layer in self.layers:
            values = layer(values, call)
        return values

    @property
    def per_step(self) -> bool:
        """Returns whether there are logits for each step, not for each sequence."""
        return self.blueprint.gives.has_steps

    def steps_out(self, steps: int) -> int:
        """Returns for how many steps a network with `per_step` gives logits where the input has so many: strides
        shorten it."""
        return self.blueprint.gives.steps(steps)

    def lengths_out(self, lengths: Int[Array, " batch"]) -> Int[Array, " batch"]:
        """Returns how many steps of each sequence's logits are valid."""
        return self.blueprint.gives.steps(lengths)

    def dropout_draws(self, batch: int, steps: int, *, recurrent: bool = False) -> int:
        """Returns how many bits dropout uses for a batch: one for each value that it may drop. recurrent: whether
        `recurrent_dropout_rate` will be given."""
        return self.blueprint.draws(batch, steps, recurrent)


def _decoder(placed: Placed, classes: int, rngs: nnx.Rngs) -> Decoder:
    settings = placed.layer
    assert isinstance(settings, config.Decoder)
    return Decoder(
        settings.cell,
        placed.takes.width,
        settings.units,
        classes,
        attention=settings.attention,
        positions=placed.gives.positions,
        look_ahead=settings.look_ahead,
        rngs=rngs,
    )


def penalised_kernel(parameters: Any) -> Array | None:
    """Returns the kernel that `loss.l2` penalises: the last dense layer's before the classes; None without one."""
    dense = {path: leaf for path, leaf in nnx.to_flat_state(parameters) if path[-2:] == ("dense", "kernel")}
    return dense[max(dense)][...] if dense else None
