"""Survey formats: everything that knows how a survey writes its files, and in which units.

A reader says what its survey holds (`describe`), cuts it into parts that can be read
independently (`parts`), and reads one part (`read`). Each part becomes one shard, so the parts
must not depend on the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxrnn.errors import JaxrnnError, listed, nearest

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Column:
    """A named quantity with its unit ("" for a pure number)."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class Survey:
    """What a survey holds, known before any observation is read.

    columns: the quantities measured at each observation, beside the time.
    error_columns: those of them that are errors, and so must be positive.
    metadata: the quantities known once for each object.
    passbands: names in the order of `Sequences.passband`; empty where the survey has none.
    gives_splits: whether the survey's own files say which split an object belongs to.
    """

    columns: tuple[Column, ...]
    metadata: tuple[Column, ...] = ()
    passbands: tuple[str, ...] = ()
    error_columns: tuple[str, ...] = ()
    time_unit: str = "days"
    gives_splits: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a survey that is read at once and becomes one shard.

    files: what it is read from. start, stop: which objects of these files, where a file holds more than one part.
    """

    name: str
    files: tuple[Path, ...]
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Sequences:
    """Many sequences as one ragged table: rows offsets[i] to offsets[i + 1] belong to object i.

    ids, labels: [object] str, an empty label where it is missing. offsets: [object + 1] int64.
    time: [row] float64. values: [row, column] float64. passband: [row] int64, an index into
    `Survey.passbands`, -1 where it is none of them; all 0 where the survey has no passbands.
    metadata: [object, metadata column] float64. splits: [object] str, one of `SPLITS`, or None.
    row_numbers: [row] int64, the row of the file, for messages. file: named in messages.

    Values are as the files have them: faults (non-finite values, errors that are not positive, missing
    labels) are found and accounted for by `ingest`, the same way for every reader.
    """

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    time: np.ndarray
    values: np.ndarray
    passband: np.ndarray
    metadata: np.ndarray
    row_numbers: np.ndarray
    file: str
    splits: np.ndarray | None = None


class Reader(Protocol):
    """One survey on disk. Constructed with `data.path`; raises JaxrnnError where files are missing or malformed."""

    def __init__(self, path: Path) -> None: ...

    def describe(self) -> Survey: ...

    def files(self) -> list[Path]:
        """Returns every file that the survey consists of: when one of them changes, ingest runs again."""
        ...

    def parts(self, sequences_per_part: int) -> list[Part]:
        """Returns the survey as parts of about `sequences_per_part` objects, in a fixed order."""
        ...

    def read(self, part: Part) -> Sequences: ...


READERS = {
    "goto": "jaxrnn.readers.goto:GotoReader",
    "simulated": "jaxrnn.readers.simulated:SimulatedReader",
    "spcc": "jaxrnn.readers.spcc:SpccReader",
}


def open_reader(name: str, path: Path) -> Reader:
    """Returns the reader called `name` on the survey at `path`; raises JaxrnnError for an unknown name."""
    from importlib import import_module

    if name not in READERS:
        raise JaxrnnError(
            f"data.reader: there is no reader '{name}'{nearest(name, list(READERS))}; "
            f"the readers are {listed(sorted(READERS))}"
        )
    if not path.exists():
        raise JaxrnnError(
            f"data.path: {path} does not exist (looked for from {Path.cwd()}); "
            f"expected the folder with the survey's files for the reader '{name}'"
        )
    module, _, attribute = READERS[name].partition(":")
    try:
        return getattr(import_module(module), attribute)(path)
    except OSError as error:
        raise JaxrnnError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def equal_parts(files: Sequence[Path], objects: int, sequences_per_part: int, name: str = "part") -> list[Part]:
    """Returns parts of at most `sequences_per_part` of the `objects` that stand one after another in `files`."""
    starts = range(0, objects, sequences_per_part)
    return [Part(f"{name} {start}", tuple(files), start, min(start + sequences_per_part, objects)) for start in starts]
