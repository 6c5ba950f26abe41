"""The networks: a list of layers, then one logit a class.

Layers are Flax NNX modules; `split` once, then plain jax transformations over their state.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int, UInt16

from jaxrnn import blueprint
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
        self.logits = nnx.Linear(self.blueprint.gives.width, classes, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
        *,
        dropout_rate: Float[Array, ""] | float | None = None,
        recurrent_dropout_rate: Float[Array, ""] | float | None = None,
        dropout_bits: UInt16[Array, " draw"] | None = None,
    ) -> Float[Array, "batch label"] | Float[Array, "batch step label"]:
        """Returns the logits: [batch, class], or [batch, step, class] with 0 beyond the lengths (`lengths_out`) where
        the network answers at each step.

        In training, with `dropout_bits` (uniform, at least `dropout_draws` of them), it drops out, and batch norm takes
        the batch's statistics and keeps them. A recurrent_dropout_rate of None leaves it out of the program.
        """
        call = Call(lengths, metadata, dropout_rate, recurrent_dropout_rate, dropout_bits)
        takes, gives = self.blueprint.takes, self.blueprint.gives
        values = call.masked(features, takes)
        for layer in self.layers:
            values = layer(values, call)
        return call.masked(self.logits(values), gives)

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


def penalised_kernel(parameters: Any) -> Array | None:
    """Returns the kernel that `loss.l2` penalises: the last dense layer's before the classes; None without one."""
    dense = {path: leaf for path, leaf in nnx.to_flat_state(parameters) if path[-2:] == ("dense", "kernel")}
    return dense[max(dense)][...] if dense else None
