"""The model bundle: what prediction needs of a finished experiment, in plain files without pickles.

`bundle.json` has config, classes, inputs, normalisation, calibration and versions; `parameters.npz` has the chosen
trial's arrays by their path in the network, `parameters_<n>.npz` those of the n-th other seed of its grid point;
`README.md` is the model card. Needs no jax: `predict` runs what is here. A bundle may come from anybody: it is data,
and no code that it names is imported.
"""

import hashlib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn import __version__, results
from jaxrnn.config import Data, Model, Task, digest
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import READERS, Column, Survey, reader_class
from jaxrnn.results import written_whole
from jaxrnn.splits import Statistics

LAYOUT_VERSION = 2
CARD = "README.md"
_COLUMNS = ("columns", "metadata")  # of a survey


@dataclass(frozen=True)
class Member:
    """One network of the ensemble. trial, seed: how it was trained; arrays: its parameters by path.

    temperature: what makes its probabilities those of its own validation predictions (`calibration.temperature`): of
    one label a sequence, and of prefixes, fitted on whole sequences; of steps, on those with a label. Label sequences
    have no probabilities of a label alone, and 1.
    """

    trial: str
    seed: int
    temperature: float
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Bundle:
    """A trained network. outputs: how many output units it has; survey: what the training survey held; features and
    metadata: names and units of its inputs; members: the chosen trial, and behind it the other seeds of its grid point
    and fold that did not diverge (none of label sequences, whose steps don't stand for each other); trial: how the
    chosen one was trained."""

    model: Model
    task: Task
    outputs: int
    data: Data
    survey: Survey
    features: list[dict[str, Any]]
    metadata: list[dict[str, Any]]
    statistics: Statistics
    members: tuple[Member, ...]
    trial: dict[str, Any]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the parameters of the chosen trial."""
        return self.members[0].arrays

    @property
    def digest(self) -> str:
        """Returns what stands for all that decides predictions: equal digests, equal predictions."""
        parameters = hashlib.sha256()
        for member in self.members:
            for name, array in sorted(member.arrays.items()):
                parameters.update(f"{name} {array.dtype} {array.shape}".encode())
                parameters.update(array.tobytes())
        return digest([_described(self), __version__, parameters.hexdigest()])


def save(folder: Path, bundle: Bundle, card: str) -> None:
    """Writes the bundle, with its model card, whole or not at all."""
    with written_whole(folder) as temporary:
        temporary.mkdir()
        for place, member in enumerate(bundle.members):
            write_arrays(temporary / _parameters(place), member.arrays)
        (temporary / CARD).write_text(card, encoding="utf-8")
        results.write_json(temporary / "bundle.json", {"layout_version": LAYOUT_VERSION, **_described(bundle)})


def load(folder: Path) -> Bundle:
    """Returns the bundle in a folder, `results/<experiment>/best` for one; raises JaxrnnError for a broken one."""
    if folder.exists() and not folder.is_dir():
        raise JaxrnnError(f"{folder}: expected a model bundle, the folder `results/<experiment>/best`")
    values = results.read_json(folder / "bundle.json", "jaxrnn aggregate")
    if values.get("layout_version") != LAYOUT_VERSION:
        raise JaxrnnError(
            f"{folder}: a model bundle of layout {values.get('layout_version', 1)}, and this version of jaxrnn reads "
            f"{LAYOUT_VERSION}; run `jaxrnn aggregate` again, with the experiment's file"
        )
    try:
        members = tuple(
            Member(entry["trial"], entry["seed"], float(entry["temperature"]), read_arrays(folder / _parameters(place)))
            for place, entry in enumerate(values["members"])
        )
        if not members or not all(member.temperature > 0 for member in members):
            raise ValueError("it has no network, or one without a temperature")
        return Bundle(
            model=Model.model_validate(values["model"]),
            task=Task.model_validate(values["task"]),
            outputs=values["outputs"],
            data=_data(values["data"]),
            survey=survey(values["survey"]),
            features=values["features"],
            metadata=values["metadata"],
            statistics=Statistics.from_json(values["statistics"]),
            members=members,
            trial=values["trial"],
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise JaxrnnError(f"{folder}: no whole model bundle ({error}); run `jaxrnn aggregate` again")


def _data(values: dict[str, Any]) -> Data:
    """Returns the `data` section of a bundle. A reader of one's own is a name alone here: whoever made the bundle must
    not choose a module that is imported."""
    if values["reader"] in READERS:
        reader_class(values["reader"]).Options.model_validate(values["options"])
        return Data.model_validate(values)
    own = str(values["reader"])
    return Data.model_validate(values | {"reader": next(iter(READERS))}).model_copy(update={"reader": own})


def survey(values: dict[str, Any]) -> Survey:
    """Returns the survey that `dataclasses.asdict` made plain, as JSON gives it back."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    columns: dict[str, Any] = {name: tuple(Column(**entry) for entry in values[name]) for name in _COLUMNS}
    return Survey(**plain | columns)


def _described(bundle: Bundle) -> dict[str, Any]:
    return {
        "model": bundle.model.model_dump(mode="json"),
        "task": bundle.task.model_dump(mode="json"),
        "outputs": bundle.outputs,
        "data": bundle.data.model_dump(mode="json"),
        "survey": asdict(bundle.survey),
        "features": bundle.features,
        "metadata": bundle.metadata,
        "statistics": bundle.statistics.to_json(),
        "members": [
            {"trial": member.trial, "seed": member.seed, "temperature": member.temperature} for member in bundle.members
        ],
        "trial": bundle.trial,
    }


def _parameters(place: int) -> str:
    return f"parameters_{place}.npz" if place else "parameters.npz"


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise JaxrnnError(f"{path}: no readable parameters ({error}); remove the folder {path.parent} and run again")
