"""Prediction: a trained network's class probabilities."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxrnn import batches, training
from jaxrnn.batches import Examples
from jaxrnn.bundles import Bundle
from jaxrnn.config import Model
from jaxrnn.errors import JaxrnnError


def predict(bundle: Bundle, examples: Examples) -> np.ndarray:
    """Returns the probabilities [object, class] float32 of examples that `batches.load` normalised."""
    return probabilities(bundle.model, bundle.arrays, examples, len(bundle.statistics.classes))


def probabilities(model: Model, arrays: dict[str, np.ndarray], examples: Examples, classes: int) -> np.ndarray:
    """Returns the class probabilities [object, class] float32 of a network with these parameters."""
    features, metadata = examples.features.shape[1], examples.metadata.shape[1]
    buckets, sources = batches.bucketed(
        examples, batches.edges(examples.lengths, 1), training.evaluation_multiple(len(examples))
    )
    parameters, statistics = _states(model, features, metadata, classes, arrays)
    logits = _evaluator(model, features, metadata, classes)(  # pyright: ignore[reportArgumentType]
        parameters, statistics, buckets
    )
    found = np.zeros((len(examples), classes), dtype=np.float32)
    found[sources[sources >= 0]] = np.asarray(jax.nn.softmax(logits))[sources >= 0]
    return found


@lru_cache
def _evaluator(model: Model, features: int, metadata: int, classes: int) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, classes))
    return jax.jit(
        lambda parameters, statistics, buckets: training.evaluate(structure, parameters, statistics, buckets)
    )


def flattened(parameters: Any, statistics: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a network's state by their path, such as `recurrent/0/0/input_kernel`."""
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
