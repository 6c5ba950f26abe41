"""`predictions.h5`: the class probabilities of a job's trials on validation and test, from which every score is
computed.

Layout (version 5): for each split a group, within one of each fold (`fold_<number>`) where there are folds, with `ids`
[object] UTF-8 bytes, `lengths` [object] int64 (steps), `places` [object] int64 (how many it has), `labels` int32 class
indices and `probabilities` [trial, place, class] float32. A place is an object or, where every step is predicted
(attribute `kind`: `prefix` or `step`), a step, or, of label sequences (`label_sequence`), a step of the output, of
which there are fewer where the network has strides, or a position that its decoder names (attribute `by_decoder`):
those of an object stand together, in their order. Labels are [object], [step] (-1 where there is none) where steps have
labels, or [object, position] of label sequences (-1 beyond them), whose last column of probabilities is CTC's blank, or
the decoder's end. The attributes `classes` of the file and `trials` of a group name the axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxrnn import __version__
from jaxrnn.claims import Claim
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import check_version, written_whole

LAYOUT_VERSION = 5
SCORED_SPLITS = ("validation", "test")
_FOLD = "fold_"


@dataclass(frozen=True)
class Predictions:
    """One split's predictions of some trials. kind: `task.kind`. ids [object] str, labels as in the file's layout,
    lengths [object], places [object] how many each has, probabilities by trial [place, class]. by_decoder: whether the
    places are positions of label sequences, which a decoder names."""

    kind: str
    ids: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    probabilities: dict[str, np.ndarray]
    by_decoder: bool = False

    @property
    def offsets(self) -> np.ndarray:
        """Returns where each object's places begin, [object + 1]."""
        return np.concatenate([[0], np.cumsum(self.places)]).astype(np.int64)

    @property
    def scored_labels(self) -> np.ndarray:
        """Returns the class index [scored] of what is scored: objects, or steps that have a label."""
        return self.labels[self.labels >= 0] if self.kind == "step" else self.labels

    @property
    def owners(self) -> np.ndarray:
        """Returns the object [scored] that each scored place belongs to."""
        objects = np.arange(len(self.ids))
        return np.repeat(objects, self.lengths)[self.labels >= 0] if self.kind == "step" else objects

    @property
    def scored_steps(self) -> np.ndarray:
        """Returns which step [scored] of its object each step with a label is, from 1."""
        return np.flatnonzero(self.labels >= 0) - np.concatenate([[0], np.cumsum(self.lengths)])[self.owners] + 1

    def scored(self, trial: str) -> np.ndarray:
        """Returns a trial's probabilities [scored, class] of what is scored; of prefixes, the whole sequence's."""
        found = self.probabilities[trial]
        if self.kind == "prefix":
            return found[self.offsets[1:] - 1]
        return found[self.labels >= 0] if self.kind == "step" else found

    def some(self, rows: Sequence[int]) -> "Predictions":
        """Returns those of these objects, where an object has one label or a label sequence."""
        assert self.kind != "step"
        starts = self.offsets
        places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
        found = {trial: probabilities[places] for trial, probabilities in self.probabilities.items()}
        own = {name: getattr(self, name)[rows] for name in ("ids", "labels", "lengths", "places")}
        return replace(self, probabilities=found, **own)


Folds = dict[int | None, dict[str, Predictions]]  # by fold, None where there are none, and split


def write(path: Path, predictions: Folds, classes: tuple[str, ...], claim: Claim | None = None) -> None:
    # made in memory and written at once, as shards are: HDF5 itself writes many small pieces, here and there
    image = _image(predictions, classes)
    with written_whole(path, claim=claim) as temporary:
        temporary.write_bytes(image)


def _image(predictions: Folds, classes: tuple[str, ...]) -> bytes:
    options: Any = {"driver": "core", "backing_store": False, "libver": ("v110", "v110")}
    with h5py.File("predictions", "w", **options) as file:
        any_entry = next(iter(predictions.values()))[SCORED_SPLITS[0]]
        file.attrs["layout_version"] = LAYOUT_VERSION
        file.attrs["jaxrnn_version"] = __version__
        file.attrs["classes"] = list(classes)
        file.attrs["kind"] = any_entry.kind
        file.attrs["by_decoder"] = any_entry.by_decoder
        for fold, by_split in predictions.items():
            for split, entry in by_split.items():
                group = file.create_group(split if fold is None else f"{_FOLD}{fold}/{split}")
                group.attrs["trials"] = list(entry.probabilities)
                group.create_dataset("ids", data=np.array([name.encode() for name in entry.ids.tolist()]))
                group.create_dataset("labels", data=entry.labels.astype(np.int32))
                group.create_dataset("lengths", data=entry.lengths.astype(np.int64))
                group.create_dataset("places", data=entry.places.astype(np.int64))
                stacked = np.stack([*entry.probabilities.values()]).astype(np.float32)
                group.create_dataset("probabilities", data=stacked, chunks=True, fletcher32=True)
        file.flush()
        return file.id.get_file_image()


def read(path: Path) -> tuple[Folds, tuple[str, ...]]:
    """Returns the predictions of each split, and the classes' names; raises JaxrnnError for an unreadable file."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # whole, as shards are
            check_version(file.attrs.get("jaxrnn_version"), path)
            classes = tuple(str(name) for name in file.attrs["classes"])  # pyright: ignore
            kind, by_decoder = str(file.attrs["kind"]), bool(file.attrs["by_decoder"])
            names = [str(name) for name in file]
            found: Folds = {int(name.removeprefix(_FOLD)): {} for name in names if name.startswith(_FOLD)}
            found = found or {None: {}}
            for fold, by_split in found.items():
                of_fold: Any = file if fold is None else file[f"{_FOLD}{fold}"]
                by_split |= {split: _split(of_fold[split], kind, by_decoder) for split in SCORED_SPLITS}
            return found, classes
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run `jaxrnn train --config {path.parent / 'config.yaml'}` first")
    except (OSError, KeyError, ValueError) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); remove it and train the job again")


def _split(group: Any, kind: str, by_decoder: bool) -> Predictions:
    stacked = group["probabilities"][()]
    ids = np.array([name.decode() for name in group["ids"][()]], dtype=str)
    trials = [str(name) for name in group.attrs["trials"]]
    probabilities = dict(zip(trials, stacked, strict=True))
    labels, lengths, places = (group[name][()] for name in ("labels", "lengths", "places"))
    return Predictions(kind, ids, labels, lengths, places, probabilities, by_decoder)
