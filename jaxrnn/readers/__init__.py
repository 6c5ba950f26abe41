"""Survey formats: everything that knows how a survey writes its files, and in which units.

Two kinds of reader. A `SequenceReader` finds an object's observations by itself: it cuts its survey into parts and
reads one part as whole sequences. A `RowReader` reads tables with one row an observation, where an object's rows may
stand anywhere: it reads rows, and `jaxrnn.grouping` brings each object's together. Both cut their work the same way
whatever the number of MPI ranks, and hold no more than about one part in memory.

Reader modules import NumPy and pydantic alone at their top, other libraries where they are used: the experiment file is
checked against `Options` by programs that read no survey.
"""

import hashlib
import sys
import sysconfig
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from jaxrnn.errors import JaxrnnError, listed, nearest

SPLITS = ("train", "validation", "test")


class Options(BaseModel):
    """What `data.options` may say to a reader. Subclasses give every key a `Field(description=...)`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Column:
    """A named quantity with its unit ("" for a pure number)."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class Survey:
    """What a survey holds, known before any observation is read.

    columns: the quantities measured at each observation, beside the time.
    error_columns: those of them that are errors, and so must be positive; `x_error` is the error of `x`.
    flag_columns: those of them that are whole numbers or 0/1 marks: for cuts and detections.
    metadata: the quantities known once for each object.
    passbands: names in the order of `Sequences.passband`; empty where the survey has none.
    gives_splits, gives_groups, gives_step_labels: whether its own files say which split an object belongs to, which
    objects belong together (one star, one subject), and a label for each step.
    labelled: False where objects have no labels (a missing one is no fault then).
    truth: those of the metadata that no observer knows: scores may be measured against them, and no network sees them.
    settled: what else the reader took from some of its files and reads all of them by, such as the column that labels
    stand in. Where it changes, or anything else that is said here, nothing that was read before holds.
    """

    columns: tuple[Column, ...]
    metadata: tuple[Column, ...] = ()
    passbands: tuple[str, ...] = ()
    error_columns: tuple[str, ...] = ()
    flag_columns: tuple[str, ...] = ()
    time_unit: str = "days"
    gives_splits: bool = False
    gives_groups: bool = False
    gives_step_labels: bool = False
    labelled: bool = True
    truth: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of a survey that is read at once.

    files: what it is read from. start, stop: which piece of these files, where they hold more than one part; the
    reader says of what (objects, bytes, rows). bytes: about how large it is in memory or as text, for sharing the work.
    """

    files: tuple[Path, ...]
    start: int = 0
    stop: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Sequences:
    """Many sequences as one ragged table: rows offsets[i] to offsets[i + 1] belong to object i.

    ids, labels: [object] str, an empty label where it is missing. offsets: [object + 1] int64.
    time: [row] float64. values: [row, column] float64. passband: [row] int64, an index into
    `Survey.passbands`, -1 where it is none of them; all 0 where the survey has no passbands.
    metadata: [object, metadata column] float64, NaN where missing. row_numbers: [row] int64, the row of the file, from
    0, for messages. files: named in messages. splits: [object] str, one of `SPLITS`. groups: [object] str.
    step_labels: [row] str. row_faults, object_faults: why the reader could not read a row or an object ("" where it
    could). row_file, object_file: index into `files`, where there are several.

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
    files: tuple[str, ...]
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None
    step_labels: np.ndarray | None = None
    row_faults: np.ndarray | None = None
    object_faults: np.ndarray | None = None
    row_file: np.ndarray | None = None
    object_file: np.ndarray | None = None


@dataclass(frozen=True)
class Objects:
    """Rows of a table of objects, as `Sequences` has them; ids: [object] bytes (dtype S, UTF-8)."""

    ids: np.ndarray
    labels: np.ndarray
    metadata: np.ndarray
    row_numbers: np.ndarray
    file: str
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None
    faults: np.ndarray | None = None


@dataclass(frozen=True)
class Observations:
    """Rows of a table of observations, as `Sequences` has them; object_ids: [row] bytes (dtype S, UTF-8).

    labels, groups: [row] str, where the table of observations itself says what each object is (no table of objects).
    """

    object_ids: np.ndarray
    time: np.ndarray
    values: np.ndarray
    passband: np.ndarray
    row_numbers: np.ndarray
    file: str
    step_labels: np.ndarray | None = None
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    faults: np.ndarray | None = None


class Reader(ABC):
    """One survey on disk. Constructed with `data.path` and `data.options`; raises JaxrnnError where files are missing
    or malformed. The class's docstring says in its first line what it reads; EXAMPLE is a `data` section in YAML."""

    Options: ClassVar[type[BaseModel]] = Options
    EXAMPLE: ClassVar[str]
    # Options with which nothing is read that new objects have not yet: labels, groups and splits.
    TO_PREDICT: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def __init__(self, path: Path, options: Any) -> None: ...

    @abstractmethod
    def describe(self) -> Survey: ...

    @abstractmethod
    def files(self) -> list[Path]:
        """Returns every file that the survey consists of: when one of them changes, its parts are read again."""

    @classmethod
    def files_elsewhere(cls, options: Any) -> list[Path]:
        """Returns those of the files that do not lie under `data.path`: known before a survey there is made."""
        return []

    def rows_at(self, file: str, row_numbers: np.ndarray) -> np.ndarray:
        """Returns the rows of `file`, from 0, that these `row_numbers` stand for: called for the few that are named in
        messages. Tables that are cut by bytes number their rows by where they begin, and count only here."""
        return row_numbers


class SequenceReader(Reader):
    """A format in which an object's observations are found without reading the whole survey."""

    @abstractmethod
    def parts(self, budget: int) -> list[Part]:
        """Returns the survey as parts of at most about `budget` bytes, in a fixed order.

        A file with one object is a part; `ingest` puts small parts together. The parts of a file must follow from that
        file alone, so that files which come later change none of them.
        """

    @abstractmethod
    def read(self, part: Part) -> Sequences: ...


class RowReader(Reader):
    """A format of tables: one row an observation, in any order; perhaps a table of objects beside it."""

    @abstractmethod
    def object_parts(self, budget: int) -> list[Part]:
        """Returns the table of objects in parts; none where there is no such table."""

    @abstractmethod
    def observation_parts(self, budget: int) -> list[Part]: ...

    @abstractmethod
    def read_objects(self, part: Part) -> Iterator[Objects]:
        """Yields the part's rows in pieces of at most about `budget` bytes (a gzip file can't be cut into parts)."""

    @abstractmethod
    def read_observations(self, part: Part) -> Iterator[Observations]: ...


# In the order in which `jaxrnn readers` and config/README.md show them.
READERS = {
    "table": "jaxrnn.readers.table:TableReader",
    "plasticc": "jaxrnn.readers.plasticc:PlasticcReader",
    "snana_text": "jaxrnn.readers.snana_text:SnanaTextReader",
    "snana_fits": "jaxrnn.readers.snana_fits:SnanaFitsReader",
    "snana_csv": "jaxrnn.readers.snana_csv:SnanaCsvReader",
    "spcc": "jaxrnn.readers.spcc:SpccReader",
    "goto": "jaxrnn.readers.goto:GotoReader",
    "ts": "jaxrnn.readers.ts:TsReader",
    "hdf5": "jaxrnn.readers.hdf5:Hdf5Reader",
    "mnist": "jaxrnn.readers.mnist:MnistReader",
    "pickle": "jaxrnn.readers.pickled:PickleReader",
    "dat": "jaxrnn.readers.dat:DatReader",
    "wav": "jaxrnn.readers.wav:WavReader",
    "csv_folder": "jaxrnn.readers.csv_folder:CsvFolderReader",
    "simulated": "jaxrnn.readers.simulated:SimulatedReader",
}


def reader_class(name: str) -> type[Reader]:
    """Returns the reader called `name`, one of `READERS` or `module:Class`; raises JaxrnnError where there is none."""
    from importlib import import_module

    module, _, attribute = READERS.get(name, name).partition(":")
    if not attribute:
        raise JaxrnnError(
            f"there is no reader '{name}'{nearest(name, list(READERS))} (the readers are {listed(list(READERS), 20)}, "
            "or `module:Class` for one of your own)"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise JaxrnnError(
            f"the reader '{name}' cannot be loaded ({type(error).__name__}: {error}); expected a class `{attribute}` "
            f"in a module `{module}` that Python finds: a file {module.rpartition('.')[2]}.py in the folder where the "
            "command is called, or an installed package"
        ) from None
    finally:
        sys.path.remove(here)
    if not (isinstance(found, type) and issubclass(found, SequenceReader | RowReader)):
        raise JaxrnnError(
            f"the reader '{name}' is no subclass of jaxrnn.readers.SequenceReader or RowReader; docs/readers.md shows "
            "one"
        )
    return found


def open_reader(name: str, path: Path, options: dict[str, Any] | None = None) -> SequenceReader | RowReader:
    """Returns the reader called `name` on the survey at `path`; raises JaxrnnError for an unknown name."""
    found = reader_class(name)
    with blamed(name, str(path)):
        return _opened(found, name, path, options)


def _opened(found: type[Reader], name: str, path: Path, options: dict[str, Any] | None) -> SequenceReader | RowReader:
    try:
        if not path.exists():
            raise JaxrnnError(
                f"data.path: {path} does not exist (looked for from {Path.cwd()}); "
                f"expected the survey's files for the reader '{name}'"
            )
        return found(path, found.Options.model_validate(options or {}))  # pyright: ignore[reportReturnType]
    except OSError as error:
        raise JaxrnnError(
            f"{error.filename or path}: cannot be read ({error.strerror}); expected a file or folder that you may read"
        ) from error


@contextmanager
def blamed(name: str, where: str) -> Iterator[None]:
    """Turns what a reader of one's own lets fall, a KeyError in its code, into a JaxrnnError that says where.

    where: what was read. Errors of the readers that come with jaxrnn are errors of jaxrnn, and pass through.
    """
    try:
        yield
    except (JaxrnnError, OSError):
        raise
    except Exception as error:
        if name in READERS:
            raise
        source = Path(str(sys.modules[reader_class(name).__module__].__file__))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == source]
        line = f", line {lines[-1]}" if lines else ""
        raise JaxrnnError(
            f"{where}: the reader '{name}' fails on it ({source.name}{line}: {type(error).__name__}: {error}); "
            "expected sequences or rows as docs/readers.md says, or a JaxrnnError with what is wrong with the file; "
            "mend the reader"
        ) from error


def source_digest(name: str) -> str:
    """Returns what stands for the code of a reader of one's own: its module, and those that it takes names from, but
    for installed ones. "" for the readers that come with jaxrnn."""
    if name in READERS:
        return ""
    main = reader_class(name).__module__
    pending, found = [main], dict[str, str]()
    while pending:
        module = sys.modules.get(pending.pop())
        file = getattr(module, "__file__", None)
        if module is None or file is None or module.__name__ in found:
            continue
        top = module.__name__.partition(".")[0]
        if top != main.partition(".")[0] and (top == "jaxrnn" or _is_installed(Path(file))):
            continue
        found[module.__name__] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for value in list(vars(module).values()):
            taken = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(taken, str):
                pending.append(taken)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def cut(files: Sequence[Path], objects: int, object_bytes: float, budget: int) -> list[Part]:
    """Returns parts of at most about `budget` bytes of `objects` that stand one after another in `files`; start and
    stop are their places. object_bytes: about the size of one."""
    each = max(1, int(budget / max(object_bytes, 1)))
    return [
        Part(tuple(files), start, min(start + each, objects), int((min(start + each, objects) - start) * object_bytes))
        for start in range(0, objects, each)
    ]


def joined(pieces: Sequence[Sequences]) -> Sequences:
    """Returns the objects of all pieces as one, one piece after another."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    counts = [len(piece.ids) for piece in pieces]
    rows = [len(piece.time) for piece in pieces]
    files: dict[str, int] = {}
    row_files, object_files = [], []
    for piece, objects, length in zip(pieces, counts, rows, strict=True):
        places = np.array([files.setdefault(file, len(files)) for file in piece.files], dtype=np.int32)
        row_files.append(np.full(length, places[0]) if piece.row_file is None else places[piece.row_file])
        object_files.append(np.full(objects, places[0]) if piece.object_file is None else places[piece.object_file])

    def optional(name: str, lengths: list[int]) -> np.ndarray | None:
        found = [getattr(piece, name) for piece in pieces]
        if all(entry is None for entry in found):
            return None
        return np.concatenate(
            [np.full(n, "", dtype=object) if entry is None else entry for entry, n in zip(found, lengths, strict=True)]
        )

    starts = np.cumsum([0, *rows[:-1]])
    ends = [piece.offsets[1:] + start for piece, start in zip(pieces, starts, strict=True)]
    together = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("ids", "labels", "time", "values", "passband", "metadata", "row_numbers")
    }
    return replace(
        first,
        **together,
        offsets=np.concatenate([[0], *ends]).astype(np.int64),
        files=tuple(files),
        row_file=np.concatenate(row_files),
        object_file=np.concatenate(object_files),
        splits=optional("splits", counts),
        groups=optional("groups", counts),
        object_faults=optional("object_faults", counts),
        step_labels=optional("step_labels", rows),
        row_faults=optional("row_faults", rows),
    )
