"""Prediction: a trained network's class probabilities."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxrnn import batches, blueprint, training
from jaxrnn.batches import Part, Windows
from jaxrnn.bundles import Bundle
from jaxrnn.config import Model
from jaxrnn.errors import JaxrnnError

# Of a part that is kept whole, where nothing else stands on the device.
MOST_BYTES = 2.048e9


def predict(bundle: Bundle, part: Part, most_bytes: float = MOST_BYTES) -> np.ndarray:
    """Returns the probabilities [object, class] float32 of a part's objects, in its order."""
    return probabilities(bundle.model, [bundle.arrays], part, len(bundle.statistics.classes), most_bytes)[0]


def probabilities(
    model: Model, networks: list[dict[str, np.ndarray]], part: Part, classes: int, most_bytes: float = MOST_BYTES
) -> list[np.ndarray]:
    """Returns the class probabilities [object, class] float32 of each of the networks with these parameters.

    Objects of more than `most_bytes`, padded, are read and predicted in windows of a quarter of that.
    """
    network = blueprint.of(model, "sequence", part.features, part.metadata, classes)
    network.check_length(int(part.lengths.max(initial=0)))
    states = [_states(model, part.features, part.metadata, classes, arrays) for arrays in networks]
    evaluator = _evaluator(model, part.features, part.metadata, classes)  # pyright: ignore[reportArgumentType]
    found = [np.zeros((len(part), classes), dtype=np.float32) for _ in networks]
    with evaluation_windows(part, batches.edges(part.lengths, 1), most_bytes) as windows:
        for index in range(windows.count()):
            window = windows.get(0, index)
            present = window.sources >= 0
            for result, (parameters, statistics) in zip(found, states, strict=True):
                logits = evaluator(parameters, statistics, window.buckets)
                result[window.sources[present]] = np.asarray(jax.nn.softmax(logits))[present]
    return found


def evaluation_windows(part: Part, longest: list[int], most_bytes: float) -> Windows:
    """Returns a part's windows for `training.evaluate`: the whole part, or windows of a quarter of `most_bytes`, since
    they stand in memory beside those that are trained on."""
    multiple = training.evaluation_multiple(len(part))
    whole = Windows(part, longest, most_bytes, multiple=multiple)
    return whole if whole.whole else Windows(part, longest, most_bytes / 4, multiple=multiple)


@lru_cache
def _evaluator(model: Model, features: int, metadata: int, classes: int) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, classes))
    return jax.jit(
        lambda parameters, statistics, buckets: training.evaluate(structure, parameters, statistics, buckets)
    )


def flattened(parameters: Any, statistics: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a network's state by their path, such as `layers/0/directions/0/input_kernel`."""
    return {
        "/".join(str(part) for part in path): np.asarray(leaf[...])
        for state in (parameters, statistics)
        for path, leaf in nnx.to_flat_state(state)
    }


def _states(model: Model, features: int, metadata: int, classes: int, arrays: dict[str, np.ndarray]) -> tuple[Any, Any]:
    _, *states = nnx.split(training.network(model, features, metadata, classes), nnx.Param, nnx.BatchStat)
    filled = []
    for state in states:
        leaves = []
        for path, leaf in nnx.to_flat_state(state):
            name = "/".join(str(part) for part in path)
            if name not in arrays or arrays[name].shape != leaf[...].shape:
                found = arrays[name].shape if name in arrays else "none"
                raise JaxrnnError(f"parameters: '{name}' has shape {found}; the network needs {leaf[...].shape}")
            leaves.append((path, leaf.replace(jax.numpy.asarray(arrays[name]))))
        filled.append(nnx.from_flat_state(leaves))
    return filled[0], filled[1]
