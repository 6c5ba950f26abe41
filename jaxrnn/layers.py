"""The layers of networks, as Flax NNX modules over padded sequences.

Sequences are right-padded. Whatever a layer does, a step at or beyond a sequence's length comes out as 0, and changes
no state, no mean and no statistic; so do the rows of length 0 that fill a batch up. A layer knows from its blueprint
how far the sequence is shortened where it stands, and finds the valid steps by the lengths of the input.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt16

from jaxrnn import config, native, shares
from jaxrnn.blueprint import GATES, Placed, Shape
from jaxrnn.config import ConvLayer, DenseLayer, DropoutLayer, FlattenLayer, PoolLayer, RecurrentLayer, WindowPoolLayer
from jaxrnn.recurrence import recur

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda values: values,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "exponential": jnp.exp,
}
glorot = nnx.initializers.glorot_uniform()
# A score that no step has; the difference to itself is a number, as that of infinity is not.
LEAST = -1e30


@dataclass
class Call:
    """One call of a network: what every layer may need beside the values that it is given.

    lengths: of the input. metadata: [batch, column]. In training `bits` holds random numbers, as many as the blueprint
    says for the whole batch, which the layers take in their order; in evaluation it is None. They come in one array,
    drawn outside, because each draw inside a differentiated loop costs seconds of compilation. dropout_rate and
    recurrent_rate: of layers that have none of their own; a recurrent_rate of None leaves recurrent dropout out of the
    program. frozen: with `bits`, it drops out, and all else is as in evaluation.
    """

    lengths: Int[Array, " batch"]
    metadata: Float[Array, "batch column"]
    dropout_rate: Float[Array, ""] | float | None = None
    recurrent_rate: Float[Array, ""] | float | None = None
    bits: UInt16[Array, " draw"] | None = None
    frozen: bool = False
    used: int = field(default=0, init=False)

    @property
    def drops(self) -> bool:
        return self.bits is not None

    @property
    def training(self) -> bool:
        return self.drops and not self.frozen

    def valid(self, values: Array, shape: Shape) -> Bool[Array, "..."]:
        """Returns which of `values`, which have this shape, count: [batch, step, 1] or, of vectors, [batch, 1]."""
        if not shape.has_steps:
            return (self.lengths > 0)[:, None]
        return (jnp.arange(values.shape[1])[None, :] < shape.steps(self.lengths)[:, None])[..., None]

    def masked(self, values: Array, shape: Shape) -> Array:
        """Returns `values` with 0 at steps beyond the length; vectors as they are."""
        return jnp.where(self.valid(values, shape), values, 0) if shape.has_steps else values

    def dropped(self, values: Array, rate: Float[Array, ""] | float) -> Array:
        """Returns `values` after dropout."""
        assert self.bits is not None
        # those of the whole batch, so that a row has the same ones whoever works on it
        whole = values.size * shares.count()
        bits = self.bits[self.used : self.used + whole].reshape(-1, *values.shape[1:])
        self.used += whole
        return dropout(values, rate, shares.own(bits))


def dropout(values: Array, rate: Float[Array, ""] | float, bits: UInt16[Array, "..."]) -> Array:
    """Returns `values` with a share `rate` of entries set to 0 and the others scaled up (Srivastava et al. 2014).

    The rate may be traced, which `nnx.Dropout` can't have. bits: uniform, one for each value; with 16 of them the rate
    holds to 1 / 65,536.
    """
    return jnp.where(bits.astype(jnp.float32) >= rate * 65536, values / (1 - rate), 0)


class Layer(nnx.Module):
    """A layer at its place. Called with values [batch, step, width] or [batch, width], as its blueprint says; those
    beyond a length are 0. Returns the same of its output."""

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        self.takes, self.gives = placed.takes, placed.gives
        self.settings: Any = placed.layer

    def __call__(self, values: Array, call: Call) -> Array:
        raise NotImplementedError


# Recurrent layers


class Recurrent(nnx.Module):
    """One direction of a simple, GRU or LSTM layer over masked sequences.

    The cells are PyTorch's and cuDNN's, equations and gate order alike: simple is tanh(x W + h R + b); the GRU (Cho et
    al. 2014) applies its reset gate after the recurrent product (gates r, z, n); the LSTM (Hochreiter and Schmidhuber
    1997) has a forget gate (gates i, f, g, o). Initialised as in Keras: Glorot uniform inputs, orthogonal recurrence,
    zero biases, forget bias 1.
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
        self,
        inputs: Float[Array, "batch step feature"],
        lengths: Int[Array, " batch"],
        kept: Float[Array, "batch unit"] | None = None,
    ) -> tuple[Float[Array, "batch step unit"], Float[Array, "batch unit"]]:
        """Returns the state after each step (0 beyond the length) and after the last valid one. kept: see `recur`."""
        recurrent_bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
        if native.usable(inputs):
            kernel = jnp.concatenate([self.input_kernel[...], self.recurrent_kernel[...]])
            given = inputs, kernel, self.bias[...], recurrent_bias, lengths, kept
            return native.layer(self.cell, *given, reverse=self.reverse)
        if self.reverse:
            inputs = reversed_valid(inputs, lengths)
        kernels, biases = (jnp.split(of[...], GATES[self.cell], axis=-1) for of in (self.input_kernel, self.bias))
        gates = tuple(
            jnp.einsum("bti,iu->tub", inputs, kernel) + bias[:, None]
            for kernel, bias in zip(kernels, biases, strict=True)
        )
        kept = None if kept is None else kept.T
        states, last = recur(self.cell, gates, self.recurrent_kernel[...], recurrent_bias, lengths, kept)
        states = states.transpose(2, 0, 1)
        return (reversed_valid(states, lengths) if self.reverse else states), last.T


def reversed_valid(
    values: Float[Array, "batch step feature"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch step feature"]:
    """Returns each sequence's valid steps in reverse order, its padding where it was."""
    steps = jnp.arange(values.shape[1])[None, :]
    source = jnp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return jnp.take_along_axis(values, source[:, :, None], axis=1)


class Directions(Layer):
    """One or both directions of a recurrent layer, side by side."""

    settings: RecurrentLayer

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        settings, width = self.settings, placed.takes.width
        self.directions = nnx.List(
            [
                Recurrent(settings.layer, width, settings.units, reverse=reverse, rngs=rngs)
                for reverse in (False, True)[: 1 + settings.bidirectional]
            ]
        )

    def __call__(self, values: Array, call: Call) -> Array:
        lengths, rate = self.takes.steps(call.lengths), self.settings.recurrent_dropout
        rate = call.recurrent_rate if rate is None else rate or None
        outputs = []
        for direction in self.directions:
            kept = None
            if call.drops and rate is not None:
                kept = call.dropped(jnp.ones((len(values), direction.units), values.dtype), rate)
            states, last = direction(values, lengths, kept)
            outputs.append(last if self.settings.output == "last" else states)
        return native.kept_in_place(jnp.concatenate(outputs, axis=-1))


# Windows


# Steps of a convolution's kernel up to which its windows are laid side by side, which takes as much memory as so many
# copies of the input.
WIDEST_WINDOW = 16


class Conv(Layer):
    """A convolution along the steps."""

    settings: ConvLayer

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        settings = self.settings
        self.kernel = nnx.Param(glorot(rngs.params(), (settings.kernel, placed.takes.width, settings.filters)))
        self.bias = nnx.Param(jnp.zeros(settings.filters))

    def __call__(self, values: Array, call: Call) -> Array:
        settings, kernel = self.settings, self.kernel[...]
        before = (settings.kernel - 1) // (2 if settings.padding == "same" else 1)
        last = (-(-values.shape[1] // settings.stride) - 1) * settings.stride + 1
        stride, dimensions = (settings.stride,), ("NWC", "WIO", "NWC")
        values = framed(values, settings.kernel, settings.stride, before, 0)
        # windows side by side, and one product: inside a loop, where training and evaluation run, XLA's own convolution
        # takes 11 to 25 times as long on a CPU (benchmarks/convolution.py)
        if settings.kernel <= WIDEST_WINDOW:
            windows = [values[:, at : at + last : settings.stride] for at in range(settings.kernel)]
            values = jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, kernel.shape[2])
        else:
            values = jax.lax.conv_general_dilated(values, kernel, stride, "VALID", dimension_numbers=dimensions)
        return call.masked(ACTIVATIONS[settings.activation](values + self.bias[...]), self.gives)


class WindowPool(Layer):
    """The largest value, or the mean, of the valid steps in each window."""

    settings: WindowPoolLayer

    def __call__(self, values: Array, call: Call) -> Array:
        settings = self.settings
        size, stride = settings.size, settings.stride or settings.size
        valid = call.valid(values, self.takes)

        def over_windows(values: Array, start: float, combine: Callable[..., Array]) -> Array:
            values = framed(values, size, stride, size - 1 if settings.causal else 0, start)
            return jax.lax.reduce_window(values, start, combine, (1, size, 1), (1, stride, 1), "VALID")

        if settings.layer == "max_pool":
            pooled = over_windows(jnp.where(valid, values, -jnp.inf), -jnp.inf, jax.lax.max)
        else:
            count = over_windows(valid.astype(values.dtype), 0.0, jax.lax.add)
            pooled = over_windows(values, 0.0, jax.lax.add) / jnp.maximum(count, 1)
        return call.masked(pooled, self.gives)


def framed(
    values: Float[Array, "batch step feature"], size: int, stride: int, before: int, fill: float
) -> Float[Array, "batch framed feature"]:
    """Returns `values` with `fill` around them, or cut at the end, so that whole windows of `size` steps begin `before`
    steps before each `stride`-th step, and nowhere else.

    Where windows stand follows from the first step alone: were they centred between both ends, as libraries do, longer
    padding would move them.
    """
    steps = values.shape[1]
    windows = -(-steps // stride)
    after = (windows - 1) * stride + size - before - steps
    return jax.lax.pad(values, jnp.asarray(fill, values.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


# Normalisation and dropout


class BatchNorm(Layer):
    """Batch norm over valid entries alone (Ioffe and Szegedy 2015, arXiv 1502.03167)."""

    # those of Keras, in which the GOTO network was published
    MOMENTUM, EPSILON = 0.99, 1e-3

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        width = placed.takes.width
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))

    def __call__(self, values: Array, call: Call) -> Array:
        mean, variance = self.mean[...], self.var[...]
        if call.training:
            mean, variance = moments(values, call.valid(values, self.takes))
            for kept, found in ((self.mean, mean), (self.var, variance)):
                kept[...] = jax.lax.stop_gradient(self.MOMENTUM * kept[...] + (1 - self.MOMENTUM) * found)
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.EPSILON)
        return call.masked((values - mean) * scale + self.bias[...], self.takes)


class InputNormalisation(Layer):
    """Batch norm of the inputs, without scale and shift. Evaluation takes the mean of all training batches' statistics:
    a moving one would take hundreds of steps to come from 0 and 1 to where the inputs are."""

    EPSILON = 1e-5

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        width = placed.takes.width
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.batches = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, values: Array, call: Call) -> Array:
        mean, variance = self.mean[...], self.var[...]
        if call.training:
            mean, variance = moments(values, call.valid(values, self.takes))
            self.batches[...] = self.batches[...] + 1
            for kept, found in ((self.mean, mean), (self.var, variance)):
                kept[...] = jax.lax.stop_gradient(kept[...] + (found - kept[...]) / self.batches[...])
        return call.masked((values - mean) * jax.lax.rsqrt(variance + self.EPSILON), self.takes)


def moments(
    values: Float[Array, "*entries width"], valid: Bool[Array, "*entries 1"]
) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
    """Returns mean and variance over the valid entries."""
    axes = tuple(range(values.ndim - 1))
    total, count = shares.summed((jnp.where(valid, values, 0).sum(axes), valid.sum(axes).astype(values.dtype)))
    count = jnp.maximum(count, 1)
    mean = total / count
    # in two passes: the squares of times in days would leave nothing of their variance
    return mean, shares.summed(jnp.where(valid, jnp.square(values - mean), 0).sum(axes)) / count


class LayerNorm(Layer):
    """Layer norm of each step, or vector, by itself (Ba et al. 2016, arXiv 1607.06450)."""

    EPSILON = 1e-5

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        width = placed.takes.width
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))

    def __call__(self, values: Array, call: Call) -> Array:
        centred = values - values.mean(axis=-1, keepdims=True)
        deviation = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.EPSILON)
        return call.masked(centred * deviation * self.scale[...] + self.bias[...], self.takes)


class Dropout(Layer):
    settings: DropoutLayer

    def __call__(self, values: Array, call: Call) -> Array:
        rate = call.dropout_rate if self.settings.rate is None else self.settings.rate or None
        return call.dropped(values, rate) if call.drops and rate is not None else values


# Dense layers, and what makes one vector of the steps


class Dense(Layer):
    """A dense layer, of each step by itself where there are steps."""

    settings: DenseLayer

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        self.dense = nnx.Linear(placed.takes.width, placed.gives.width, kernel_init=glorot, rngs=rngs)

    def __call__(self, values: Array, call: Call) -> Array:
        return call.masked(ACTIVATIONS[self.settings.activation](self.dense(values)), self.gives)


class Pool(Layer):
    """The last, mean, largest or attended value of the valid steps, or of those up to each step.

    Attention is that of Yang et al. (2016, 10.18653/v1/N16-1174, eqs. 5 to 7): the weight of a step h is the softmax,
    over the steps, of u . tanh(W h + b).
    """

    settings: PoolLayer

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        if self.settings.kind == "attention":
            width = placed.takes.width
            self.kernel, self.bias = nnx.Param(glorot(rngs.params(), (width, width))), nnx.Param(jnp.zeros(width))
            self.query = nnx.Param(glorot(rngs.params(), (width, 1))[:, 0])

    def __call__(self, values: Array, call: Call) -> Array:
        valid, lengths = call.valid(values, self.takes), self.takes.steps(call.lengths)
        if self.settings.running:
            return call.masked(self._running(values), self.takes)
        if self.settings.kind == "last":
            ends = jnp.maximum(lengths - 1, 0)[:, None, None]
            return jnp.take_along_axis(values, ends, axis=1)[:, 0]
        if self.settings.kind == "mean":
            return values.sum(axis=1) / jnp.maximum(lengths, 1)[:, None]
        if self.settings.kind == "max":
            largest = jnp.where(valid, values, -jnp.inf).max(axis=1)
            return jnp.where(lengths[:, None] > 0, largest, 0)
        scores = jnp.where(valid, self.scores(values), LEAST)
        weights = jnp.where(valid, jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=1, keepdims=True))), 0)
        return (weights * values).sum(axis=1) / jnp.where(lengths > 0, weights.sum(axis=(1, 2)), 1)[:, None]

    def _running(self, values: Array) -> Array:
        kind = self.settings.kind
        if kind == "last":
            return values
        if kind == "max":
            return jax.lax.associative_scan(jnp.maximum, values, axis=1)
        if kind == "mean":
            sums = jax.lax.associative_scan(jnp.add, values, axis=1)
            return sums / jnp.arange(1, values.shape[1] + 1)[None, :, None]
        # each prefix's weights are relative to the largest score up to there, which later steps can't change
        scores = self.scores(values)
        largest = jax.lax.stop_gradient(scores)
        weights = jnp.exp(scores - largest)
        _, weights, sums = jax.lax.associative_scan(together, (largest, weights, weights * values), axis=1)
        return sums / weights

    def scores(self, values: Array) -> Float[Array, "batch step 1"]:
        return (jnp.tanh(values @ self.kernel[...] + self.bias[...]) @ self.query[...])[..., None]


def together(first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Returns largest score, summed weights and weighted sum of two stretches together, the weights relative to that
    score."""
    largest = jnp.maximum(first[0], second[0])
    scales = jnp.exp(first[0] - largest), jnp.exp(second[0] - largest)
    weights, sums = (scales[0] * first[at] + scales[1] * second[at] for at in (1, 2))
    return largest, weights, sums


class Flatten(Layer):
    """All steps side by side, filled up with 0."""

    settings: FlattenLayer

    def __call__(self, values: Array, call: Call) -> Array:
        missing = self.settings.steps - values.shape[1]
        values = jnp.pad(values, ((0, 0), (0, max(missing, 0)), (0, 0)))[:, : self.settings.steps]
        return values.reshape(values.shape[0], -1)


class Metadata(Layer):
    """The metadata joined to the vector, or to every valid step."""

    def __call__(self, values: Array, call: Call) -> Array:
        metadata = jnp.where((call.lengths > 0)[:, None], call.metadata, 0)
        if self.takes.has_steps:
            metadata = jnp.broadcast_to(metadata[:, None, :], (*values.shape[:2], metadata.shape[1]))
        return call.masked(jnp.concatenate([values, metadata], axis=-1), self.takes)


class Residual(Layer):
    """The input plus what the layers make of it (He et al. 2016, arXiv 1512.03385, eqs. 1 and 2)."""

    def __init__(self, placed: Placed, rngs: nnx.Rngs) -> None:
        super().__init__(placed, rngs)
        self.layers = nnx.List([made(inner, rngs) for inner in placed.within])
        widths = placed.takes.width, placed.gives.width
        self.projection = None if widths[0] == widths[1] else nnx.Param(glorot(rngs.params(), widths))

    def __call__(self, values: Array, call: Call) -> Array:
        shortcut = values if self.projection is None else values @ self.projection[...]
        for layer in self.layers:
            values = layer(values, call)
        return shortcut + values


LAYERS: dict[type[config.Section], type[Layer]] = {
    config.InputNormalisationLayer: InputNormalisation,
    config.RecurrentLayer: Directions,
    config.ConvLayer: Conv,
    config.WindowPoolLayer: WindowPool,
    config.BatchNormLayer: BatchNorm,
    config.LayerNormLayer: LayerNorm,
    config.DropoutLayer: Dropout,
    config.DenseLayer: Dense,
    config.PoolLayer: Pool,
    config.FlattenLayer: Flatten,
    config.MetadataLayer: Metadata,
    config.ResidualLayer: Residual,
}


def made(placed: Placed, rngs: nnx.Rngs) -> Layer:
    """Returns the layer of a blueprint, with its first parameters."""
    return LAYERS[type(placed.layer)](placed, rngs)
