"""The model bundle: a trained network with everything that prediction needs, in two plain files without pickles.

`bundle.json` has config, classes, inputs, normalisation and versions; `parameters.npz` has the arrays by their path in the network.
"""

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxrnn import batches, results, training
from jaxrnn.batches import Examples
from jaxrnn.config import Data, Model
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import written_whole
from jaxrnn.splits import Statistics


@dataclass(frozen=True)
class Classifier:
    """A trained network. features and metadata: names and units of its inputs; arrays: its parameters by path."""

    model: Model
    data: Data
    features: list[dict[str, str]]
    metadata: list[dict[str, str]]
    statistics: Statistics
    arrays: dict[str, np.ndarray]
    trial: dict[str, Any]

    def probabilities(self, examples: Examples) -> np.ndarray:
        """Returns the probabilities [object, class] float32 of examples that `batches.load` normalised."""
        return probabilities(self.model, self.arrays, examples, len(self.statistics.classes))

    def save(self, folder: Path) -> None:
        """Writes the bundle whole or not at all."""
        with written_whole(folder) as temporary:
            temporary.mkdir()
            write_arrays(temporary / "parameters.npz", self.arrays)
            described = {
                "model": self.model.model_dump(mode="json"),
                "data": self.data.model_dump(mode="json"),
                "features": self.features,
                "metadata": self.metadata,
                "statistics": self.statistics.to_json(),
                "trial": self.trial,
            }
            results.write_json(temporary / "bundle.json", described)


def load(folder: Path) -> Classifier:
    """Returns the classifier in a bundle's folder, `results/<experiment>/best` for one; raises JaxrnnError for a broken one."""
    values = results.read_json(folder / "bundle.json", "jaxrnn aggregate")
    try:
        return Classifier(
            model=Model.model_validate(values["model"]),
            data=Data.model_validate(values["data"]),
            features=values["features"],
            metadata=values["metadata"],
            statistics=Statistics.from_json(values["statistics"]),
            arrays=read_arrays(folder / "parameters.npz"),
            trial=values["trial"],
        )
    except (KeyError, ValueError) as error:
        raise JaxrnnError(f"{folder}: no whole model bundle ({error}); run `jaxrnn aggregate` again")


def probabilities(model: Model, arrays: dict[str, np.ndarray], examples: Examples, classes: int) -> np.ndarray:
    """Returns the class probabilities [object, class] float32 of a network with these parameters."""
    features, metadata = examples.features.shape[1], examples.metadata.shape[1]
    buckets, sources = batches.bucketed(
        examples, batches.edges(examples.lengths, 1), training.evaluation_multiple(len(examples))
    )
    parameters, statistics = _states(model, features, metadata, classes, arrays)
    logits = _evaluator(model, features, metadata, classes)(parameters, statistics, buckets)
    found = np.zeros((len(examples), classes), dtype=np.float32)
    found[sources[sources >= 0]] = np.asarray(jax.nn.softmax(logits))[sources >= 0]
    return found


@lru_cache
def _evaluator(model: Model, features: int, metadata: int, classes: int) -> Any:
    structure = nnx.graphdef(training.network(model, features, metadata, classes))
    return jax.jit(lambda parameters, statistics, buckets: training.evaluate(structure, parameters, statistics, buckets))


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


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise JaxrnnError(f"{path}: no readable parameters ({error}); remove the folder {path.parent} and run again")
