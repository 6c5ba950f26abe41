"""One step of a causal network at a time: what it carries from step to step, so that one more observation costs one.

The layers are those that training uses. What works on each step by itself is called on a sequence of one step; a
recurrent layer's step is `recurrence.step_of`, a causal convolution sees the inputs that its kernel spans, and a pool
carries what it has pooled.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn import blueprint, config, layers, losses, predict, training
from jaxrnn.blueprint import Blueprint, Placed
from jaxrnn.bundles import Bundle
from jaxrnn.config import Model, Output
from jaxrnn.layers import Call
from jaxrnn.models import Network
from jaxrnn.recurrence import CELLS, step_of

State = Any


def obstacles(made: Blueprint) -> list[str]:
    """Returns why a network can't go on by one step at a time; nothing for one that can."""
    found = [*made.looks_ahead]
    if made.decoder is not None and not made.looks_ahead:
        found.append("decoder attends to all steps before")
    return found + [
        f"{placed.name} {_why_not(placed)}" for placed in blueprint.every(made.layers) if _why_not(placed) is not None
    ]


def _why_not(placed: Placed) -> str | None:
    match placed.layer:
        case config.FlattenLayer():
            return "takes all steps at once"
        case config.WindowPoolLayer():
            return "pools a window of steps"
        case config.ConvLayer(stride=stride) if stride > 1:
            return "has a stride, and no answer at the steps between"
    return None


class Stepper:
    """The networks of a bundle, by steps. `begin` gives the state before the first one."""

    def __init__(self, bundle: Bundle) -> None:
        shape = len(bundle.features), len(bundle.metadata), bundle.outputs, bundle.task.kind
        self._members = predict.states(bundle)
        self._begin, self._step = _compiled(bundle.model, *shape)  # pyright: ignore[reportArgumentType]

    def begin(self) -> list[State]:
        return [self._begin(*member) for member in self._members]

    def step(
        self, states: list[State], features: np.ndarray, metadata: np.ndarray
    ) -> tuple[list[State], list[np.ndarray]]:
        """Returns the states after one more step, with features [1, feature], and the class probabilities [1, class]
        there, of each member; metadata: [1, column]."""
        after = [
            self._step(*member, state, features, metadata) for member, state in zip(self._members, states, strict=True)
        ]
        return [state for state, _ in after], [np.asarray(probabilities) for _, probabilities in after]


@lru_cache
def _compiled(model: Model, features: int, metadata: int, outputs: int, kind: Output) -> tuple[Any, Any]:
    structure = nnx.graphdef(training.network(model, features, metadata, outputs, kind))

    def begin(parameters: Any, statistics: Any) -> State:
        return [_begin(layer) for layer in nnx.merge(structure, parameters, statistics).layers]

    def step(parameters: Any, statistics: Any, state: State, features: Array, metadata: Array) -> tuple[State, Array]:
        network = nnx.merge(structure, parameters, statistics)
        state, logits = _step(network, state, features[:, None], Call(jnp.ones(1, jnp.int32), metadata))
        return state, jax.nn.softmax(losses.class_logits(logits))

    return jax.jit(begin), jax.jit(step)


def _step(network: Network, state: State, values: Array, call: Call) -> tuple[State, Array]:
    """Returns the state after the step with these values [1, 1, feature], and the logits [1, class] there."""
    after = []
    for layer, before in zip(network.layers, state, strict=True):
        carried, values = _through(layer, before, values, call)
        after.append(carried)
    assert network.logits is not None
    return after, network.logits(values).reshape(1, -1)


def _begin(layer: layers.Layer) -> State:
    """Returns what a layer carries before the first step."""
    width = layer.takes.width
    match layer:
        case layers.Directions():
            (direction,) = layer.directions
            return (jnp.zeros((1, direction.units)),) * CELLS[direction.cell].states
        case layers.Conv():
            return jnp.zeros((1, layer.settings.kernel - 1, width))
        case layers.Pool():
            pooled = jnp.zeros((1, 1, width))
            return {
                "last": (),
                "mean": (jnp.zeros(()), pooled),
                "max": jnp.full_like(pooled, -jnp.inf),
                "attention": (jnp.full((1, 1, 1), layers.LEAST), jnp.zeros((1, 1, 1)), pooled),
            }[layer.settings.kind]
        case layers.Residual():
            return [_begin(inner) for inner in layer.layers]
    return ()


def _through(layer: layers.Layer, carried: State, values: Array, call: Call) -> tuple[State, Array]:
    """Returns what a layer carries after a step, and what it gives there."""
    match layer:
        case layers.Directions():
            (direction,) = layer.directions
            carried = _recurred(direction, carried, values[:, 0])
            return carried, carried[0] if layer.settings.output == "last" else carried[0][:, None]
        case layers.Conv():
            window = jnp.concatenate([carried, values], axis=1)
            whole = Call(jnp.full(1, window.shape[1], jnp.int32), call.metadata)
            return window[:, 1:], layer(window, whole)[:, -1:]
        case layers.Pool():
            carried, pooled = _pooled(layer, carried, values)
            return carried, pooled if layer.settings.running else pooled[:, 0]
        case layers.Residual():
            inputs, after = values, []
            for inner, before in zip(layer.layers, carried, strict=True):
                state, values = _through(inner, before, values, call)
                after.append(state)
            return after, values + (inputs if layer.projection is None else inputs @ layer.projection[...])
    return carried, layer(values, call)


def _recurred(direction: layers.Recurrent, carried: State, inputs: Array) -> State:
    bias = None if direction.recurrent_bias is None else direction.recurrent_bias[...]
    projected = inputs @ direction.input_kernel[...] + direction.bias[...]
    gates = jnp.split(projected, blueprint.GATES[direction.cell], axis=-1)
    return step_of(direction.cell, direction.recurrent_kernel[...], bias)(carried, tuple(gates))


def _pooled(layer: layers.Pool, carried: State, values: Array) -> tuple[State, Array]:
    """Returns what was pooled up to and with a step's values [1, 1, width], as the layer does of all steps at once."""
    match layer.settings.kind:
        case "mean":
            count, total = carried[0] + 1, carried[1] + values
            return (count, total), total / count
        case "max":
            largest = jnp.maximum(carried, values)
            return largest, largest
        case "attention":
            together = layers.together(carried, (layer.scores(values), jnp.ones((1, 1, 1)), values))
            return together, together[2] / together[1]
    return carried, values
