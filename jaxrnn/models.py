"""The networks: recurrent layers over padded sequences, then dense layers that the metadata joins.

Sequences are right-padded: a step at or beyond a sequence's length changes no state, counts in no mean and comes
out as 0. Layers are Flax NNX modules; `split` once, then plain jax transformations over their state.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt16

from jaxrnn.config import Model

GATES = {"simple": 1, "gru": 3, "lstm": 4}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}
glorot = nnx.initializers.glorot_uniform()


class Recurrent(nnx.Module):
    """A simple, GRU or LSTM layer over masked sequences.

    The cells are PyTorch's and cuDNN's, equations and gate order alike: simple is tanh(x W + h R + b); the GRU (Cho et
    al.
    2014) applies its reset gate after the recurrent product (gates r, z, n); the LSTM (Hochreiter and Schmidhuber 1997)
    has a forget gate (gates i, f, g, o). Initialised as in Keras: Glorot uniform inputs, orthogonal recurrence, zero
    biases, forget bias 1.
    """

    def __init__(self, cell: str, inputs: int, units: int, *, reverse: bool = False, rngs: nnx.Rngs) -> None:
        gates = GATES[cell]
        orthogonal = nnx.initializers.orthogonal()
        self.cell, self.units, self.reverse = cell, units, reverse
        self.input_kernel = nnx.Param(glorot(rngs.params(), (inputs, gates * units)))
        self.recurrent_kernel = nnx.Param(orthogonal(rngs.params(), (units, gates * units)))
        bias = jnp.zeros(gates * units)
        self.bias = nnx.Param(bias.at[units : 2 * units].set(1.0) if cell == "lstm" else bias)
        self.recurrent_bias = nnx.Param(jnp.zeros(units)) if cell == "gru" else None

    def __call__(
        self, inputs: Float[Array, "batch step feature"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch step unit"], Float[Array, "batch unit"]]:
        """Returns the state after each step (0 beyond the length) and after the last valid one."""
        if self.reverse:
            inputs = reversed_valid(inputs, lengths)
        projected = jnp.einsum("bti,ig->tbg", inputs, self.input_kernel[...]) + self.bias[...]
        recurrent_bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
        states, last = recur(self.cell, projected, self.recurrent_kernel[...], recurrent_bias, lengths)
        return (reversed_valid(states, lengths) if self.reverse else states), last


def recur(
    cell: str,
    projected: Float[Array, "step batch gate_unit"],
    kernel: Float[Array, "unit gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    lengths: Int[Array, " batch"],
) -> tuple[Float[Array, "batch step unit"], Float[Array, "batch unit"]]:
    """Returns the hidden state after each step, 0 beyond the length, and the last valid one.

    projected: the inputs times their kernel plus bias, of all steps at once: one large product instead of many small
    ones.
    """
    units = kernel.shape[0]
    batch = projected.shape[1]
    # each gate is a scan input of its own: slicing one array inside the loop keeps XLA's CPU kernel scalar
    gates = tuple(jnp.split(projected, GATES[cell], axis=-1))
    valid = jnp.arange(projected.shape[0])[:, None] < lengths[None, :]
    zeros = jnp.zeros((batch, units), projected.dtype)

    def simple(state: Any, x: Any) -> Any:
        (hidden,) = state
        return (jnp.tanh(x[0] + hidden @ kernel),)

    def gru(state: Any, x: Any) -> Any:
        (hidden,) = state
        r, z, n = jnp.split(hidden @ kernel, 3, axis=-1)
        reset, update = jax.nn.sigmoid(x[0] + r), jax.nn.sigmoid(x[1] + z)
        candidate = jnp.tanh(x[2] + reset * (n + candidate_bias))  # pyright: ignore[reportOperatorIssue]
        return ((1 - update) * candidate + update * hidden,)

    def lstm(state: Any, x: Any) -> Any:
        hidden, memory = state
        i, f, g, o = jnp.split(hidden @ kernel, 4, axis=-1)
        memory = jax.nn.sigmoid(x[1] + f) * memory + jax.nn.sigmoid(x[0] + i) * jnp.tanh(x[2] + g)
        return (jax.nn.sigmoid(x[3] + o) * jnp.tanh(memory), memory)

    step = {"simple": simple, "gru": gru, "lstm": lstm}[cell]

    def masked(state: Any, x: Any) -> Any:
        gate_inputs, is_valid = x
        keep = is_valid[:, None]
        state = tuple(jnp.where(keep, new, old) for new, old in zip(step(state, gate_inputs), state, strict=True))
        return state, jnp.where(keep, state[0], 0)

    start = (zeros, zeros) if cell == "lstm" else (zeros,)
    last, states = jax.lax.scan(masked, start, (gates, valid))
    return jnp.swapaxes(states, 0, 1), last[0]


def reversed_valid(
    values: Float[Array, "batch step feature"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch step feature"]:
    """Returns each sequence's valid steps in reverse order, its padding where it was."""
    steps = jnp.arange(values.shape[1])[None, :]
    source = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return jnp.take_along_axis(values, source[:, :, None], axis=1)


def dropout(values: Array, rate: Float[Array, ""], bits: UInt16[Array, "..."]) -> Array:
    """Returns `values` with a share `rate` of entries set to 0 and the others scaled up (Srivastava et al. 2014).

    The rate may be traced, which `nnx.Dropout` can't have. bits: uniform, one for each value; with 16 of them the rate
    holds to 1 / 65,536.
    """
    return jnp.where(bits.astype(jnp.float32) >= rate * 65536, values / (1 - rate), 0)


class Network(nnx.Module):
    """Recurrent layers, pooling over valid steps, metadata joined, dense layers, one logit a class.

    With depth 2, dense depth 2, sigmoid and batch norm it is the network of GOTO (Burhanudin et al. 2021, section
    3.3), but for batch norm that leaves padding out.
    """

    def __init__(self, model: Model, features: int, metadata: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.pooling, self.activation = model.pooling, model.dense_activation
        directions = (False, True) if model.bidirectional else (False,)
        width = features
        layers, norms = [], []
        for _ in range(model.depth):
            layers.append(
                nnx.List([Recurrent(model.cell, width, model.units, reverse=back, rngs=rngs) for back in directions])
            )
            width = model.units * len(directions)
            norms.append(_norm(model, width, rngs))
        self.recurrent, self.recurrent_norms = nnx.List(layers), nnx.List(norms)
        width += metadata
        dense, norms = [], []
        for index in range(model.dense_depth):
            dense.append(nnx.Linear(width, model.dense_units, kernel_init=glorot, rngs=rngs))
            width = model.dense_units
            norms.append(_norm(model, width, rngs) if index < model.dense_depth - 1 else None)
        self.dense, self.dense_norms = nnx.List(dense), nnx.List(norms)
        self.classes = nnx.Linear(width, classes, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        features: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        metadata: Float[Array, "batch column"],
        *,
        dropout_rate: Float[Array, ""] | None = None,
        dropout_bits: UInt16[Array, " draw"] | None = None,
    ) -> Float[Array, "batch label"]:
        """Returns the logits. In training, with `dropout_bits`, it drops out and batch norm takes the batch's
        statistics.

        dropout_bits: uniform, at least `dropout_draws` of them. They come in one array, drawn outside, because each
        draw inside a differentiated loop costs seconds of compilation.
        """
        training = dropout_bits is not None
        valid = jnp.arange(features.shape[1])[None, :] < lengths[:, None]
        present = lengths > 0
        used = 0

        def regularised(values: Array, norm: nnx.BatchNorm | None, mask: Bool[Array, "..."]) -> Array:
            nonlocal used
            if dropout_bits is not None and dropout_rate is not None:
                bits = dropout_bits[used : used + values.size].reshape(values.shape)
                used += values.size
                values = dropout(values, dropout_rate, bits)
            if norm is not None:
                values = norm(values, use_running_average=not training, mask=mask[..., None])
            return values

        values = features
        for index, (layers, norm) in enumerate(zip(self.recurrent, self.recurrent_norms, strict=True)):
            outputs = [layer(values, lengths) for layer in layers]
            if index < len(self.recurrent) - 1:
                values = regularised(jnp.concatenate([states for states, _ in outputs], axis=-1), norm, valid)
            else:
                values = regularised(self._pooled(outputs, lengths, valid), norm, present)
        values = jnp.concatenate([values, metadata], axis=-1)
        for index, (layer, norm) in enumerate(zip(self.dense, self.dense_norms, strict=True)):
            values = ACTIVATIONS[self.activation](layer(values))
            if index < len(self.dense) - 1:
                values = regularised(values, norm, present)
        return self.classes(values)

    def dropout_draws(self, batch: int, steps: int) -> int:
        """Returns how many bits dropout uses for a batch: one for each value that it may drop."""
        widths = [sum(layer.units for layer in layers) for layers in self.recurrent]
        dense = sum(layer.out_features for layer in self.dense[:-1])
        return batch * (steps * sum(widths[:-1]) + widths[-1] + dense)

    def _pooled(self, outputs: list[tuple[Array, Array]], lengths: Array, valid: Array) -> Array:
        if self.pooling == "last":
            return jnp.concatenate([last for _, last in outputs], axis=-1)
        states = jnp.concatenate([states for states, _ in outputs], axis=-1)
        if self.pooling == "mean":
            return states.sum(axis=1) / jnp.maximum(lengths, 1)[:, None]
        lowest = jnp.where(valid[:, :, None], states, -jnp.inf).max(axis=1)
        return jnp.where(lengths[:, None] > 0, lowest, 0)


def _norm(model: Model, width: int, rngs: nnx.Rngs) -> nnx.BatchNorm | None:
    # momentum and epsilon are those of Keras, in which the GOTO network was published
    return nnx.BatchNorm(width, momentum=0.99, epsilon=1e-3, rngs=rngs) if model.normalisation == "batch" else None


def penalised_kernel(parameters: Any) -> Array:
    """Returns the kernel that `loss.l2` penalises: the last dense layer's before the classes."""
    dense = parameters["dense"]
    return dense[max(dense)]["kernel"][...]
