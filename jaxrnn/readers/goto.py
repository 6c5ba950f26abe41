"""The arrays of the GOTO light-curve classifier (Burhanudin et al. 2021, MNRAS 505, 4345).

For each split of `train`, `validation`, `test` a folder holds `<split>_time_features.npy` (objects, steps, 3: time,
value, error), `<split>_contextual_features.npy` (objects, columns) and `<split>_labels.npy` (objects, classes;
one-hot). Steps whose three values are all `PADDING` are padding and no observations.
"""

import tokenize
import warnings
from pathlib import Path

import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey, cut

PADDING = -99.0
KINDS = ("time_features", "contextual_features", "labels")
# What NumPy raises for a file that is no .npy array, or whose header asks for what is not there.
UNREADABLE = (ValueError, OSError, EOFError, TypeError, OverflowError, SyntaxError, MemoryError, tokenize.TokenError)


class GotoReader(SequenceReader):
    """The `.npy` arrays of the GOTO classifier; labels are the one-hot columns' numbers, "0", "1", ...

    Arrays are mapped, and no more than one part of them is in memory.
    """

    EXAMPLE = """\
data:
  reader: goto
  path: surveys/goto
  features: [time_difference, value, value_error]
  metadata: [context_0, context_1]
"""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        missing = [file.name for file in self.files() if not file.exists()]
        if missing:
            raise JaxrnnError(
                f"{path}: {listed(missing)} missing; the reader 'goto' expects <split>_<kind>.npy for the splits "
                f"{', '.join(SPLITS)} and the kinds {', '.join(KINDS)}"
            )
        self._objects = {split: self._check_shapes(split) for split in SPLITS}

    def _file(self, split: str, kind: str) -> Path:
        return self.path / f"{split}_{kind}.npy"

    def _load(self, split: str, kind: str) -> np.ndarray:
        file = self._file(split, kind)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy remarks on files that Python 2 wrote
                # by the format's own reader: np.load would open an archive or a pickle under this name as well
                array = np.lib.format.open_memmap(file, mode="r")
        except UNREADABLE as error:
            raise JaxrnnError(f"{file}: not a readable .npy array ({error}); expected one written by numpy.save")
        if array.dtype.kind not in "fiub":
            raise JaxrnnError(f"{file}: holds {array.dtype} values; expected numbers")
        return array

    def _check_shapes(self, split: str) -> int:
        time, context, labels = (self._load(split, kind) for kind in KINDS)
        if time.ndim != 3 or time.shape[2] != 3:
            raise JaxrnnError(
                f"{self._file(split, 'time_features')}: shape {time.shape}; expected (objects, steps, 3) "
                f"with time, value and error as the last axis"
            )
        for kind, array in (("contextual_features", context), ("labels", labels)):
            if array.ndim != 2 or array.shape[0] != time.shape[0]:
                raise JaxrnnError(
                    f"{self._file(split, kind)}: shape {array.shape}; expected ({time.shape[0]}, columns), "
                    f"one row for each object of {self._file(split, 'time_features').name}"
                )
        reference = self._load(SPLITS[0], "contextual_features").shape[1], self._load(SPLITS[0], "labels").shape[1]
        if (context.shape[1], labels.shape[1]) != reference:
            raise JaxrnnError(
                f"{self.path}: {split} has {context.shape[1]} contextual and {labels.shape[1]} label columns, "
                f"{SPLITS[0]} has {reference[0]} and {reference[1]}; expected the same number in every split"
            )
        return time.shape[0]

    def describe(self) -> Survey:
        columns = self._load(SPLITS[0], "contextual_features").shape[1]
        return Survey(
            columns=(Column("value"), Column("value_error")),
            error_columns=("value_error",),
            metadata=tuple(Column(f"context_{index}") for index in range(columns)),
            gives_splits=True,
        )

    def files(self) -> list[Path]:
        return [self._file(split, kind) for split in SPLITS for kind in KINDS]

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop count objects of one split."""
        parts = []
        for split, objects in self._objects.items():
            files = [self._file(split, kind) for kind in KINDS]
            size = sum(self._load(split, kind).nbytes for kind in KINDS)
            parts += cut(files, objects, size / max(objects, 1), budget)
        return parts

    def read(self, part: Part) -> Sequences:
        split, rows = part.files[0].name.removesuffix(f"_{KINDS[0]}.npy"), slice(part.start, part.stop)
        table, context, labels = (np.array(self._load(split, kind)[rows], dtype=np.float64) for kind in KINDS)
        one_hot = (labels.sum(axis=1) == 1) & np.isin(labels, (0, 1)).all(axis=1)
        if not one_hot.all():
            wrong = int(np.argmin(one_hot)) + part.start
            raise JaxrnnError(
                f"{self._file(split, 'labels')}: row {wrong} is not one-hot; expected a single 1 and zeros elsewhere"
            )
        present = ~(table == PADDING).all(axis=2)
        lengths = present.sum(axis=1)
        steps = np.broadcast_to(np.arange(table.shape[1]), present.shape)[present]
        return Sequences(
            ids=np.array([f"{split}-{index:06d}" for index in range(part.start, part.stop)]),
            labels=labels.argmax(axis=1).astype(str),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            time=table[present][:, 0],
            values=table[present][:, 1:],
            passband=np.zeros(int(lengths.sum()), dtype=np.int64),
            metadata=context,
            row_numbers=steps,
            files=(str(self._file(split, "time_features")),),
            splits=np.full(len(lengths), split),
        )
