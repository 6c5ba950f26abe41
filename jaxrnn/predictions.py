"""`predictions.h5`: the class probabilities of a job's trials on validation and test, from which every score is
computed.

Layout (version 1): for each split a group with `ids` [object] UTF-8 bytes, `labels` [object] int32 class indices and
`probabilities` [trial, object, class] float32. Attributes `trials` and `classes` name the axes.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jaxrnn import __version__
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import check_version, written_whole

LAYOUT_VERSION = 1
SCORED_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Predictions:
    """One split's predictions of some trials: ids [object] str, labels [object], probabilities by trial [object,
    class]."""

    ids: np.ndarray
    labels: np.ndarray
    probabilities: dict[str, np.ndarray]


def write(path: Path, predictions: dict[str, Predictions], classes: tuple[str, ...]) -> None:
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        trials = list(predictions[SCORED_SPLITS[0]].probabilities)
        file.attrs["layout_version"] = LAYOUT_VERSION
        file.attrs["jaxrnn_version"] = __version__
        file.attrs["trials"] = trials
        file.attrs["classes"] = list(classes)
        for split, entry in predictions.items():
            group = file.create_group(split)
            group.create_dataset("ids", data=np.array([name.encode() for name in entry.ids.tolist()]))
            group.create_dataset("labels", data=entry.labels.astype(np.int32))
            stacked = np.stack([entry.probabilities[trial] for trial in trials]).astype(np.float32)
            group.create_dataset("probabilities", data=stacked, chunks=True, fletcher32=True)


def read(path: Path) -> tuple[dict[str, Predictions], tuple[str, ...]]:
    """Returns the predictions of each split, and the classes' names; raises JaxrnnError for an unreadable file."""
    try:
        with h5py.File(path, "r") as file:
            check_version(file.attrs.get("jaxrnn_version"), path)
            trials = [str(name) for name in file.attrs["trials"]]  # pyright: ignore
            classes = tuple(str(name) for name in file.attrs["classes"])  # pyright: ignore
            return {split: _split(file[split], trials) for split in SCORED_SPLITS}, classes
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run `jaxrnn train --config {path.parent / 'config.yaml'}` first")
    except (OSError, KeyError, ValueError) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); remove it and train the job again")


def _split(group: object, trials: list[str]) -> Predictions:
    stacked = group["probabilities"][()]  # pyright: ignore
    ids = np.array([name.decode() for name in group["ids"][()]], dtype=str)  # pyright: ignore
    return Predictions(ids, group["labels"][()], dict(zip(trials, stacked, strict=True)))  # pyright: ignore
