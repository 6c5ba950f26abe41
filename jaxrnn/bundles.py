"""The model bundle: a trained network with everything that prediction needs, in two plain files without pickles.

`bundle.json` has config, classes, inputs, normalisation and versions; `parameters.npz` has the arrays by their path in
the network. Needs no jax: `predict` runs what is here.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn import results
from jaxrnn.config import Data, Model, Task
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import written_whole
from jaxrnn.splits import Statistics


@dataclass(frozen=True)
class Bundle:
    """A trained network. outputs: how many output units it has; features and metadata: names and units of its inputs;
    arrays: its parameters by path; trial: how it was trained."""

    model: Model
    task: Task
    outputs: int
    data: Data
    features: list[dict[str, str]]
    metadata: list[dict[str, str]]
    statistics: Statistics
    arrays: dict[str, np.ndarray]
    trial: dict[str, Any]


def save(folder: Path, bundle: Bundle) -> None:
    """Writes the bundle whole or not at all."""
    described = {
        "model": bundle.model.model_dump(mode="json"),
        "task": bundle.task.model_dump(mode="json"),
        "outputs": bundle.outputs,
        "data": bundle.data.model_dump(mode="json"),
        "features": bundle.features,
        "metadata": bundle.metadata,
        "statistics": bundle.statistics.to_json(),
        "trial": bundle.trial,
    }
    with written_whole(folder) as temporary:
        temporary.mkdir()
        write_arrays(temporary / "parameters.npz", bundle.arrays)
        results.write_json(temporary / "bundle.json", described)


def load(folder: Path) -> Bundle:
    """Returns the bundle in a folder, `results/<experiment>/best` for one; raises JaxrnnError for a broken one."""
    values = results.read_json(folder / "bundle.json", "jaxrnn aggregate")
    try:
        return Bundle(
            model=Model.model_validate(values["model"]),
            task=Task.model_validate(values["task"]),
            outputs=values["outputs"],
            data=Data.model_validate(values["data"]),
            features=values["features"],
            metadata=values["metadata"],
            statistics=Statistics.from_json(values["statistics"]),
            arrays=read_arrays(folder / "parameters.npz"),
            trial=values["trial"],
        )
    except (KeyError, ValueError) as error:
        raise JaxrnnError(f"{folder}: no whole model bundle ({error}); run `jaxrnn aggregate` again")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise JaxrnnError(f"{path}: no readable parameters ({error}); remove the folder {path.parent} and run again")
