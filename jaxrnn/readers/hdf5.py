"""HDF5 files of any layout, by the names of their data sets: arrays, ragged arrays, or a group for each object."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey, cut
from jaxrnn.readers.folders import bytes_of, files_below, stem

ENDINGS = (".hdf5", ".h5", ".hdf")
# No compression shrinks numbers so far: a file that claims more than this many times its size is broken or hostile.
MOST_EXPANSION = 10_000
MOST_LINKS = 16

Text = Annotated[str, Field(min_length=1)]


class Hdf5Options(Options):
    features: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        description="Path of the data set of measurements: [object, step, column], or [row, column] with `offsets`, or "
        "[step, column] in each object's group; `.` where the object itself is that data set. Without the axis of "
        "columns it is one column. A list of paths puts their columns side by side."
    )
    group_per_object: bool = Field(
        default=False,
        description="`true`: each member of `objects` is one object, a group that holds the data sets named here (or "
        "a data set, with `features: .`); its name is its id, with the file's name before it where there are several "
        "files. What is known once for an object may be an attribute too.",
    )
    objects: Text = Field(default="/", description="The group whose members are the objects, for `group_per_object`.")
    offsets: Text | None = Field(
        default=None,
        description="Path of a data set [object + 1] of whole numbers: rows offsets[i] to offsets[i + 1] are of object "
        "i, and everything known for each step is [row].",
    )
    lengths: Text | None = Field(
        default=None, description="Path of a data set [object]: how many steps each object has; the rest is padding."
    )
    padding: float | Literal["nan"] | None = Field(
        default=None,
        description="Without `lengths`: steps at the end whose every measurement is this number (or `nan`) are padding "
        "and no observations. `null`: every step is an observation.",
    )
    columns: Text | tuple[Text, ...] = Field(
        default="feature_",
        description="A name for each column of `features`, or a prefix for their numbers: `feature_` makes "
        "`feature_000`, `feature_001`, ...",
    )
    units: dict[Text, str] = Field(
        default={},
        description="Units of columns and metadata by name, where `*` stands for any text, `{'feature_*': mV}`; those "
        "not named are pure numbers.",
    )
    errors: tuple[Text, ...] = Field(
        default=(), description="Columns that are errors, and so positive; `x_error` is the error of `x`."
    )
    flags: tuple[Text, ...] = Field(default=(), description="Columns of whole numbers or 0/1 marks, for cuts.")
    time: Text | None = Field(
        default=None,
        description="Path of a data set of times, [object, step] or [row], or [step] for all objects. `null`: the "
        "step's number times `time_step`.",
    )
    time_step: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="Time from step to step in `time_unit` where there is no `time`: a repetition time."
    )
    time_unit: Text | None = Field(
        default=None, description="Unit of time; `null` is days where there is `time`, and steps where there is none."
    )
    passband: Text | None = Field(
        default=None,
        description="Path of a data set of passbands, [object, step] or [row]: names, or numbers from 0 that count "
        "`passbands`.",
    )
    passbands: tuple[Text, ...] = Field(
        default=(), validate_default=True, description="Names of the passbands, needed with `passband`."
    )
    labels: Text | None = Field(
        default=None, description="Path of a data set [object] of labels, text or numbers; `null`: there are none."
    )
    step_labels: Text | None = Field(
        default=None, description="Path of a data set [object, step] or [row]: a label for each step."
    )
    ids: Text | None = Field(
        default=None, description="Path of a data set [object] of ids; `null`: the file's name and the object's number."
    )
    groups: Text | None = Field(
        default=None, description="Path of a data set [object]: what belongs together, such as subjects."
    )
    splits: Text | None = Field(
        default=None, description="Path of a data set [object] of the words `train`, `validation` and `test`."
    )
    metadata: dict[Text, Text] = Field(
        default={}, description="Numbers known once for each object: names, and paths of data sets [object]."
    )

    @field_validator("passbands")
    @classmethod
    def _go_with_passband(cls, passbands: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "passband" in info.data and bool(passbands) != bool(info.data["passband"]):
            raise ValueError("`passband` and `passbands` need each other")
        return passbands

    @field_validator("offsets", "lengths", "padding")
    @classmethod
    def _one_layout(cls, value: Any, info: ValidationInfo) -> Any:
        earlier = {
            "offsets": ("group_per_object",),
            "lengths": ("group_per_object", "offsets"),
            "padding": ("lengths", "offsets"),
        }
        for key in earlier[info.field_name or ""]:
            if value is not None and info.data.get(key):
                raise ValueError(f"`{key}` and this exclude each other")
        return value


class Hdf5Reader(SequenceReader):
    """HDF5 files by the names of their data sets: one file, or a folder of files that are read each by itself.

    Three layouts: arrays [object, step, column] with padding; rows of all objects one after another with `offsets`; a
    group (or data set) for each object. Columns, units, metadata, passbands, labels, labels of steps, groups and splits
    are what the options name. Data that lies outside the file (external links, virtual data sets) is refused.
    """

    Options = Hdf5Options
    TO_PREDICT: ClassVar[dict[str, Any]] = {"labels": None, "step_labels": None, "groups": None, "splits": None}
    EXAMPLE = """data:
  reader: hdf5
  path: fmri/subjects.h5 # bold [run, scan, region], task [run, scan], subject [run], condition [run]
  options:
    features: bold
    columns: region_
    time_step: 0.72 # repetition time
    time_unit: seconds
    labels: condition
    step_labels: task
    groups: subject
    padding: nan
  features: ['region_*']
"""

    def __init__(self, path: Path, options: Hdf5Options) -> None:
        self._path, self._options = path, options
        self._files = files_below(path, ENDINGS)
        sets = (options.features,) if isinstance(options.features, str) else options.features
        self._sets = sets
        self._columns = self._first_columns()
        for key, names in (("errors", options.errors), ("flags", options.flags)):
            for name in names:
                if name not in self._columns:
                    raise JaxrnnError(
                        f"data.options.{key}: there is no column '{name}'{nearest(name, self._columns)} "
                        f"(the columns are {listed(self._columns)})"
                    )

    def _first_columns(self) -> list[str]:
        """Returns the names of the columns, as many as the first readable file has."""
        failed: JaxrnnError | None = None
        for file in self._files:
            try:
                with _opened(file) as opened:
                    width = self._width(opened, file)
            except JaxrnnError as error:
                failed = failed or error
                continue
            names = self._options.columns
            if isinstance(names, str):
                return [f"{names}{number:03d}" for number in range(width)]
            if len(names) != width:
                raise JaxrnnError(
                    f"{file}: {listed(self._sets)} has {width} columns, and data.options.columns names {len(names)}"
                )
            if len(set(names)) < width:
                raise JaxrnnError(f"data.options.columns: a name stands twice in {listed(names, 20)}")
            return list(names)
        assert failed is not None
        raise failed

    def _width(self, opened: Any, file: Path) -> int:
        """Returns the number of columns of a file; checks that its data sets are there and go together."""
        if not self._options.group_per_object:
            return _Arrays(opened, file, self._options, self._sets).width
        objects = self._objects(opened, file)
        failed: JaxrnnError | None = None
        for name in objects:
            try:
                return sum(
                    block.shape[1] for block in self._blocks(_found(objects, name, file), file, only_shapes=True)
                )
            except JaxrnnError as error:
                failed = failed or error
        raise failed or JaxrnnError(f"{file}: the group {self._options.objects} is empty; expected an object a member")

    def _objects(self, opened: Any, file: Path) -> Any:
        """Returns the group whose members are the objects."""
        found = _found(opened, self._options.objects, file)
        if not hasattr(found, "keys"):
            raise JaxrnnError(
                f"{file}: {self._options.objects} is no group; expected one whose members are the objects"
            )
        return found

    def describe(self) -> Survey:
        options = self._options

        def column(name: str) -> Column:
            return Column(name, next((unit for key, unit in options.units.items() if fnmatchcase(name, key)), ""))

        return Survey(
            columns=tuple(column(name) for name in self._columns),
            metadata=tuple(column(name) for name in options.metadata),
            passbands=options.passbands,
            error_columns=options.errors,
            flag_columns=options.flags,
            time_unit=options.time_unit or ("days" if options.time else "steps"),
            gives_splits=options.splits is not None,
            gives_groups=options.groups is not None,
            gives_step_labels=options.step_labels is not None,
            labelled=options.labels is not None,
        )

    def files(self) -> list[Path]:
        return list(self._files)

    def parts(self, budget: int) -> list[Part]:
        parts = []
        for file in self._files:
            try:
                with _opened(file) as opened:
                    parts += self._parts(opened, file, budget)
            except JaxrnnError:
                if len(self._files) == 1:
                    raise
                # said when the part is read, so that one broken file of many may be rejected
                parts.append(Part((file,), 0, 0, bytes_of(file)))
        return parts

    def _parts(self, opened: Any, file: Path, budget: int) -> list[Part]:
        if self._options.group_per_object:
            count = len(self._objects(opened, file))
            return cut([file], count, bytes_of(file) / max(count, 1), budget)
        arrays = _Arrays(opened, file, self._options, self._sets)
        if arrays.offsets is None:
            return cut([file], arrays.count, arrays.row_bytes * arrays.steps, budget)
        parts, start, ends = [], 0, arrays.offsets[1:] * arrays.row_bytes
        while start < arrays.count:
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            parts.append(Part((file,), start, stop, max(1, int(ends[stop - 1] - before))))
            start = stop
        return parts

    def read(self, part: Part) -> Sequences:
        (file,) = part.files
        with _opened(file) as opened:
            if self._options.group_per_object:
                return self._read_groups(self._objects(opened, file), file, part)
            return self._read_arrays(_Arrays(opened, file, self._options, self._sets), file, part)

    def _read_arrays(self, arrays: "_Arrays", file: Path, part: Part) -> Sequences:
        options = self._options
        if arrays.width != len(self._columns):
            raise JaxrnnError(
                f"{file}: {listed(self._sets)} has {arrays.width} columns; expected {len(self._columns)}, as "
                "other files have"
            )
        start, stop = part.start, part.stop or arrays.count
        if stop > arrays.count:
            raise JaxrnnError(f"{file}: holds {arrays.count} objects, and held {stop} before; it changed while in use")
        count = stop - start
        whole = arrays.features(start, stop)
        faults = np.full(count, "", dtype=object)
        if arrays.offsets is not None:
            ends = arrays.offsets[start : stop + 1]
            lengths, present = np.diff(ends), np.full(len(whole), True)
        else:
            lengths = np.full(count, arrays.steps)
            if options.lengths is not None:
                lengths = arrays.whole_numbers(options.lengths, start, stop)
                wrong = (lengths < 0) | (lengths > arrays.steps)
                faults[wrong] = (
                    f"its length in {options.lengths} is not from 0 to the {arrays.steps} steps that there are"
                )
                lengths = np.where(wrong, 0, lengths)
            elif options.padding is not None:
                lengths = _unpadded(whole, options.padding)
            present = np.arange(arrays.steps) < lengths[:, None]
        rows = int(lengths.sum())
        steps = np.arange(rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        first_row = 0 if arrays.offsets is None or not count else int(arrays.offsets[start])

        def each_step(name: str) -> np.ndarray:
            found = arrays.per_step(name, start, stop)
            return found[steps] if name == options.time and found.shape != present.shape else found[present]

        def each_object(name: str | None) -> np.ndarray | None:
            return None if name is None else _as_text(arrays.per_object(name, start, stop), name, file)

        ids = each_object(options.ids)
        if ids is None:
            ids = np.array(
                [f"{stem(self._path, file, ENDINGS)}-{number:06d}" for number in range(start, stop)], dtype=str
            )
        labels = each_object(options.labels)
        return Sequences(
            ids=ids,
            labels=np.full(count, "", dtype="U1") if labels is None else labels,
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            time=steps * options.time_step
            if options.time is None
            else _as_numbers(each_step(options.time), "time", file),
            values=whole[present],
            passband=np.zeros(rows, dtype=np.int64)
            if options.passband is None
            else self._passband(each_step(options.passband), file),
            metadata=np.stack(
                [_as_numbers(arrays.per_object(name, start, stop), name, file) for name in options.metadata.values()],
                axis=1,
            )
            if options.metadata
            else np.zeros((count, 0)),
            row_numbers=steps if arrays.offsets is None else first_row + np.arange(rows),
            files=(str(file),),
            splits=_as_splits(each_object(options.splits), faults),
            groups=each_object(options.groups),
            step_labels=None
            if options.step_labels is None
            else _as_text(each_step(options.step_labels), options.step_labels, file),
            object_faults=faults,
        )

    def _passband(self, found: np.ndarray, file: Path) -> np.ndarray:
        """Returns the place of each passband in `passbands`, -1 where it is none of them: int64."""
        names = self._options.passbands
        if found.dtype.kind in "iu":
            return np.where((found >= 0) & (found < len(names)), found, -1).astype(np.int64)
        place = {name: index for index, name in enumerate(names)}
        text = _as_text(found, str(self._options.passband), file)
        return np.array([place.get(name, -1) for name in text], dtype=np.int64)

    def _blocks(self, member: Any, file: Path, only_shapes: bool = False) -> list[Any]:
        """Returns the measurements of one object's group, [step, column] each; with `only_shapes` zeros for them."""
        blocks = []
        for name in self._sets:
            found = member if name == "." else _data_set(member, name, file)
            if not hasattr(found, "shape"):
                raise JaxrnnError(f"{file}: {member.name} is a group; expected a data set, as `features: .` says")
            if found.ndim not in (1, 2) or found.dtype.kind not in "fiub":
                raise JaxrnnError(
                    f"{file}: {found.name} has the shape {found.shape} of {found.dtype}; "
                    "expected numbers [step, column]"
                )
            if blocks and len(found) != len(blocks[0]):
                raise JaxrnnError(f"{file}: {found.name} has {len(found)} steps; expected {len(blocks[0])}")
            shape = len(found), 1 if found.ndim == 1 else found.shape[1]
            values = np.broadcast_to(0.0, shape) if only_shapes else found[()].astype(np.float64).reshape(shape)
            blocks.append(values)
        return blocks

    def _read_groups(self, objects: Any, file: Path, part: Part) -> Sequences:
        options = self._options
        names = list(objects)[part.start : part.stop or None]
        prefix = "" if file == self._path else f"{stem(self._path, file, ENDINGS)}-"
        read = [self._read_group(objects, name, prefix, file) for name in names]
        lengths = np.array([len(entry["values"]) for entry in read], dtype=np.int64)
        faults = np.array([entry["fault"] for entry in read], dtype=object)

        def gathered(key: str, wanted: object = True) -> Any:
            return np.array([entry[key] for entry in read], dtype=str) if wanted else None

        return Sequences(
            ids=gathered("ids"),
            labels=gathered("labels"),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            time=np.concatenate([entry["time"] for entry in read]),
            values=np.concatenate([entry["values"] for entry in read]),
            passband=np.concatenate([entry["passband"] for entry in read]),
            metadata=np.array([entry["metadata"] for entry in read], dtype=np.float64).reshape(len(read), -1),
            row_numbers=np.concatenate([np.arange(length) for length in lengths]),
            files=(str(file),),
            splits=_as_splits(gathered("splits", options.splits), faults),
            groups=gathered("groups", options.groups),
            step_labels=np.concatenate([entry["step_labels"] for entry in read]) if options.step_labels else None,
            object_faults=faults,
        )

    def _read_group(self, objects: Any, name: str, prefix: str, file: Path) -> dict[str, Any]:
        """Returns what one object's group holds; where it cannot be read, no steps and the reason as `fault`."""
        options = self._options
        entry: dict[str, Any] = {
            "ids": prefix + name,
            **dict.fromkeys(("labels", "groups", "splits", "fault"), ""),
            "metadata": [np.nan] * len(options.metadata),
        }
        empty = {
            "time": np.zeros(0),
            "values": np.zeros((0, len(self._columns))),
            "passband": np.zeros(0, dtype=np.int64),
            "step_labels": np.zeros(0, dtype="U1"),
        }
        try:
            member = _found(objects, name, file)
            for key in ("ids", "labels", "groups", "splits"):
                source = getattr(options, key)
                if source is not None:
                    entry[key] = str(_as_text(_known_once(member, source, file), source, file)[0])
            entry["metadata"] = [
                _as_numbers(_known_once(member, source, file), source, file)[0] for source in options.metadata.values()
            ]
            values = np.concatenate(self._blocks(member, file), axis=1)
            if values.shape[1] != len(self._columns):
                raise JaxrnnError(f"{file}: {member.name} has {values.shape[1]} columns; expected {len(self._columns)}")
            if options.padding is not None:
                values = values[: _unpadded(values[None], options.padding)[0]]

            def each_step(source: str) -> np.ndarray:
                found = _data_set(member, source, file)
                if found.ndim != 1 or len(found) < len(values):
                    raise JaxrnnError(f"{file}: {found.name} has the shape {found.shape}; expected ({len(values)},)")
                return _contents(found, slice(0, len(values)))

            steps = np.arange(len(values))
            entry |= {
                "values": values,
                "time": _as_numbers(each_step(options.time), options.time, file)
                if options.time
                else steps * options.time_step,
                "passband": self._passband(each_step(options.passband), file)
                if options.passband
                else np.zeros(len(values), dtype=np.int64),
                "step_labels": _as_text(each_step(options.step_labels), options.step_labels, file)
                if options.step_labels
                else empty["step_labels"],
            }
        except JaxrnnError as error:
            entry |= {**empty, "fault": str(error).removeprefix(f"{file}: ")}
        return entry


class _Arrays:
    """The data sets of a file in which every data set holds all objects; checked to go together.

    count: how many objects. steps: the longest they may be, 0 with offsets. width: how many columns. row_bytes: size
    of a step's measurements. offsets: [object + 1] int64, None where steps are an axis of their own.
    """

    def __init__(self, opened: Any, file: Path, options: Hdf5Options, names: tuple[str, ...]) -> None:
        self._opened, self._file = opened, file
        self._sets = [_data_set(opened, name, file) for name in names]
        leading = 2 if options.offsets is None else 1
        axes = "[object, step, column]" if options.offsets is None else "[row, column], as `offsets` is given"
        shape = self._sets[0].shape[:leading]
        for found in self._sets:
            if found.dtype.kind not in "fiub":
                raise JaxrnnError(f"{file}: {found.name} holds {found.dtype} values; expected numbers")
            if found.ndim not in (leading, leading + 1):
                raise JaxrnnError(f"{file}: {found.name} has the shape {found.shape}; expected {axes}")
            if found.shape[:leading] != shape:
                raise JaxrnnError(
                    f"{file}: {found.name} has the shape {found.shape}, and {self._sets[0].name} has "
                    f"{self._sets[0].shape}; expected the same objects and steps in both"
                )
        self.width = sum(found.shape[leading] if found.ndim > leading else 1 for found in self._sets)
        self.row_bytes = 8 * max(self.width, 1)
        self.offsets: np.ndarray | None = None
        self.count, self.steps = (shape[0], shape[1]) if options.offsets is None else (0, 0)
        if options.offsets is not None:
            self.offsets = self.whole_numbers(options.offsets)
            self.count = len(self.offsets) - 1
            ordered = self.count >= 0 and self.offsets[0] == 0 and (np.diff(self.offsets) >= 0).all()
            if not ordered or self.offsets[-1] != shape[0]:
                raise JaxrnnError(
                    f"{file}: {options.offsets} does not fit {self._sets[0].name}; expected whole numbers that start "
                    f"with 0, never fall, and end with its number of rows, {shape[0]}"
                )
        per_step = [name for name in (options.time, options.passband, options.step_labels) if name is not None]
        for name in per_step:
            found = _data_set(opened, name, file).shape
            if found != shape and not (name == options.time and options.offsets is None and found == shape[1:]):
                raise JaxrnnError(
                    f"{file}: {name} has the shape {found}; expected {shape}, as {self._sets[0].name} has"
                )
        once = (
            options.lengths,
            options.labels,
            options.ids,
            options.groups,
            options.splits,
            *options.metadata.values(),
        )
        for name in once:
            if name is not None and _data_set(opened, name, file).shape != (self.count,):
                found = _data_set(opened, name, file).shape
                raise JaxrnnError(f"{file}: {name} has the shape {found}; expected ({self.count},), an entry an object")

    def _slice(self, start: int, stop: int) -> slice:
        return slice(start, stop) if self.offsets is None else slice(int(self.offsets[start]), int(self.offsets[stop]))

    def features(self, start: int, stop: int) -> np.ndarray:
        """Returns the measurements of some objects: [object, step, column] or [row, column] float64."""
        place, leading = self._slice(start, stop), 2 if self.offsets is None else 1
        blocks = [found[place] for found in self._sets]
        blocks = [block if block.ndim > leading else block[..., None] for block in blocks]
        return np.concatenate(blocks, axis=-1, dtype=np.float64)

    def per_step(self, name: str, start: int, stop: int) -> np.ndarray:
        found = _data_set(self._opened, name, self._file)
        shared = self.offsets is None and found.ndim == 1
        return _contents(found, slice(None) if shared else self._slice(start, stop))

    def per_object(self, name: str, start: int, stop: int) -> np.ndarray:
        return _contents(_data_set(self._opened, name, self._file), slice(start, stop))

    def whole_numbers(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        found = _data_set(self._opened, name, self._file)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise JaxrnnError(
                f"{self._file}: {name} has the shape {found.shape} of {found.dtype}; expected a row of whole numbers"
            )
        return found[start:stop].astype(np.int64)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import h5py

    expected = "expected a whole HDF5 file; copy or write it again"
    try:
        # no lock: a survey is often on a file system that knows none, or may not be written
        with h5py.File(file, "r", locking=False) as opened:
            yield opened
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        # what the library raises for damage depends on the place of the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JaxrnnError(f"{file}: cannot be read as HDF5 ({reason}); {expected}") from None
    except MemoryError:
        raise JaxrnnError(f"{file}: states a size that does not fit into memory; {expected}") from None


def _found(group: Any, path: str, file: Path, links: int = 0) -> Any:
    """Returns the group or data set at `path`; follows links inside the file alone, and not in circles."""
    import h5py
    from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

    place: Any = group.file if path.startswith("/") else group
    for name in (name for name in path.split("/") if name not in ("", ".")):
        links_here = place.id.links if isinstance(place, h5py.Group) else None
        key = name.encode()
        if links_here is None or not links_here.exists(key):
            known = [] if links_here is None else list(place)
            raise JaxrnnError(
                f"{file}: has no '{path}'{nearest(name, known)} "
                f"({place.name} holds {listed(known, 20) if known else 'nothing of that name'})"
            )
        kind = links_here.get_info(key).type
        # a link's own record is read, never what it leads to: another file might be opened by looking
        if kind == h5l.TYPE_HARD:
            place = place[name]
            continue
        if kind != h5l.TYPE_SOFT:
            raise JaxrnnError(
                f"{file}: {path} is a link to another file, and such links are not followed; name that file in "
                "data.path, or copy the data into this one"
            )
        if links == MOST_LINKS:
            raise JaxrnnError(f"{file}: {path} is a link that leads in a circle; write the data in its place")
        place = _found(place, links_here.get_val(key).decode(), file, links + 1)
    return place


def _data_set(group: Any, path: str, file: Path) -> Any:
    import h5py

    found = _found(group, path, file)
    if not isinstance(found, h5py.Dataset):
        raise JaxrnnError(f"{file}: {path} is a group, which holds {listed(list(found), 20)}; expected a data set")
    if found.is_virtual or found.external:
        raise JaxrnnError(
            f"{file}: the values of {path} lie in other files, which are not read; copy them into this one"
        )
    if found.nbytes > MOST_EXPANSION * bytes_of(file):
        raise JaxrnnError(
            f"{file}: {path} states the shape {found.shape}, far more than a file of {bytes_of(file):,} bytes can "
            "hold; write it again"
        )
    # HDF5 reads zeros where there is nothing; chunks that are not there have no such account
    stored = found.id.get_storage_size()
    if found.chunks is None and stored < found.nbytes:
        raise JaxrnnError(
            f"{file}: {path} holds {stored:,} bytes; expected the {found.nbytes:,} of its shape {found.shape}; it was "
            "never written, or is damaged; write it again"
        )
    return found


def _contents(found: Any, place: Any) -> np.ndarray:
    """Returns a piece of a data set; text as str."""
    import h5py

    if found.dtype.kind == "S" or h5py.check_string_dtype(found.dtype) is not None:
        return np.asarray(found.asstr()[place])
    return np.asarray(found[place])


def _known_once(member: Any, name: str, file: Path) -> np.ndarray:
    """Returns what an object's group holds under `name`, a data set or an attribute, as an array of one entry."""
    if name in member.attrs:
        found = np.asarray(member.attrs[name]).reshape(-1)
    else:
        found = _contents(_data_set(member, name, file), ()).reshape(-1)
    if len(found) != 1:
        raise JaxrnnError(f"{file}: {member.name}/{name} has {len(found)} entries; expected one")
    return found


def _as_text(found: np.ndarray, name: str, file: Path) -> np.ndarray:
    """Returns labels or names as str: whole numbers without a point, "" for NaN."""
    if found.dtype.kind == "f":
        return np.array(
            ["" if np.isnan(x) else str(int(x)) if np.isfinite(x) and x == int(x) else str(x) for x in found.tolist()],
            dtype=str,
        )
    if found.dtype.kind in "iub":
        return (found.astype(np.int64) if found.dtype.kind == "b" else found).astype(str)
    if found.dtype.kind == "S":
        return np.char.decode(found, "utf-8")
    if found.dtype.kind in "OU" and all(isinstance(entry, str) for entry in found.tolist()):
        return found.astype(str)
    raise JaxrnnError(f"{file}: {name} holds {found.dtype} values; expected text or numbers")


def _as_numbers(found: np.ndarray, name: str, file: Path) -> np.ndarray:
    if found.dtype.kind not in "fiub":
        raise JaxrnnError(
            f"{file}: {name} holds {'text' if found.dtype.kind in 'OSU' else found.dtype}; expected numbers"
        )
    return found.astype(np.float64)


def _as_splits(found: np.ndarray | None, faults: np.ndarray) -> np.ndarray | None:
    """Returns the splits with a fault for each that is no split."""
    if found is None:
        return None
    for place in np.flatnonzero(~np.isin(found, SPLITS)):
        faults[place] = faults[place] or f"its split is '{found[place]}'; expected one of {', '.join(SPLITS)}"
    return np.where(np.isin(found, SPLITS), found, SPLITS[0])


def _unpadded(values: np.ndarray, padding: float | str) -> np.ndarray:
    """Returns how many steps of [object, step, column] come before the padding at the end: [object] int64."""
    if not values.shape[1]:
        return np.zeros(len(values), dtype=np.int64)
    padded = np.isnan(values) if padding == "nan" else values == padding
    observed: np.ndarray = ~np.asarray(padded.all(axis=2))
    return np.where(observed.any(axis=1), values.shape[1] - np.argmax(observed[:, ::-1], axis=1), 0)
