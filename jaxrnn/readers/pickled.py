"""Pickles of arrays, `((x_train, y_train), (x_test, y_test))`, as Keras and many notebooks write them.

A pickle is a program: Python's own `pickle.load` runs whatever it says. Here nothing of it is run. `_contents` follows
the pickle's instructions itself (as `pickletools` lists them), for plain containers, text, bytes and numbers, and for
the few names by which NumPy's arrays are written; whatever else a pickle names, it is refused with that name. Arrays
are made from their bytes, type and shape, each checked, and never by calling what the pickle asks to be called.
"""

import gzip
import io
import math
import mmap
import pickletools
import re
import struct
import warnings
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, FiniteFloat

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Options, Part, SequenceReader, Sequences, Survey, cut

ENDINGS = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz")
EXPECTED = (
    "expected ((x_train, y_train), (x_test, y_test)), three such pairs with validation in the middle, or one (x, y)"
)
ROW_BYTES = 3 * 8  # time, passband and row number
LONGEST_LABEL = 1000  # characters


class PickleOptions(Options):
    columns: tuple[str, ...] = Field(
        default=(),
        description="Names of the columns of x. Left out: `value`, or `value_0`, `value_1`, ... for several.",
    )
    sampling_step: FiniteFloat = Field(
        default=1.0, gt=0, description="Time between two steps, in `time_unit`: the pickle holds no times."
    )
    time_unit: str = Field(default="steps", description="Unit of time of `sampling_step`.")


class PickleReader(SequenceReader):
    """Pickles `((x_train, y_train), (x_test, y_test))` or `(x, y)` of NumPy arrays and lists, gzipped or not.

    x: [object, step, column], [object, step], or a list of arrays of unequal length; y: numbers, text, or one-hot. A
    pickle cannot be read in pieces: it is in memory whole, as it was written. No code in it is run.
    """

    Options = PickleOptions
    EXAMPLE = """\
data:
  reader: pickle
  path: surveys/mnist.pkl
  features: [{name: value_0, normalisation: none}, {name: value_14, normalisation: none}]
"""

    def __init__(self, path: Path, options: PickleOptions) -> None:
        self._file, self._options = path, options
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS))
            if len(found) != 1:
                raise JaxrnnError(
                    f"{path}: {f'{len(found)} pickles' if found else '*.pkl missing'}; expected data.path to name one "
                    f"file, or a folder with one ({', '.join(ENDINGS)})"
                )
            self._file = found[0]
        if not self._file.is_file():
            raise JaxrnnError(f"{self._file}: is no regular file; expected a pickle")

    def files(self) -> list[Path]:
        return [self._file]

    def describe(self) -> Survey:
        return Survey(
            columns=tuple(Column(name) for name in self._columns),
            time_unit=self._options.time_unit,
            gives_splits=self._splits[0][0] != "",
        )

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop count objects of all splits, one split after another; a part lies in one split."""
        parts = []
        for first, _, tables, labels in self._numbered():
            rows = sum(len(table) for table in tables)
            size = rows * (8 * len(self._columns) + ROW_BYTES) / max(len(labels), 1)
            parts += [
                Part(part.files, first + part.start, first + part.stop, part.bytes)
                for part in cut(self.files(), len(labels), size, budget)
            ]
        return parts

    def read(self, part: Part) -> Sequences:
        first, split, tables, labels = next(
            held for held in reversed(self._numbered()) if held[0] <= part.start and len(held[3])
        )
        place = slice(part.start - first, part.stop - first)
        chosen = [np.asarray(table, dtype=np.float64) for table in tables[place]]
        lengths = [len(table) for table in chosen]
        steps = np.concatenate([np.arange(length) for length in lengths])
        return Sequences(
            ids=np.array([f"{split or 'object'}-{index:06d}" for index in range(place.start, place.stop)]),
            labels=labels[place],
            offsets=np.cumsum([0, *lengths]),
            time=self._options.sampling_step * steps,
            values=np.concatenate([table.reshape(len(table), len(self._columns)) for table in chosen]),
            passband=np.zeros(len(steps), dtype=np.int64),
            metadata=np.zeros((len(chosen), 0)),
            row_numbers=steps,
            files=(str(self._file),),
            splits=np.full(len(chosen), split) if split else None,
        )

    def _numbered(self) -> list[tuple[int, str, Any, np.ndarray]]:
        """Returns the splits, each with the number of its first object among all."""
        starts = np.cumsum([0, *(len(labels) for _, _, labels in self._splits)]).tolist()
        return [(start, *held) for start, held in zip(starts, self._splits, strict=False)]

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        # sequences without a step may have any shape
        widths = {table.shape[1] for _, tables, _ in self._splits for table in tables if len(table)}
        if len(widths) != 1 or 0 in widths:
            raise JaxrnnError(
                f"{self._file}: sequences of {listed(sorted(widths))} columns; expected the same number everywhere"
                if widths
                else f"{self._file}: holds no sequence; {EXPECTED}"
            )
        (width,) = widths
        if self._options.columns and len(self._options.columns) != width:
            raise JaxrnnError(
                f"data.options.columns: {len(self._options.columns)} names; {self._file} has {width} columns"
            )
        return self._options.columns or (("value",) if width == 1 else tuple(f"value_{i}" for i in range(width)))

    @cached_property
    def _splits(self) -> list[tuple[str, Any, np.ndarray]]:
        """The splits ("" where there are none), the sequences of each, [object] of [step, column], and its labels."""
        try:
            content, size = _contents(self._file)
        except (OSError, EOFError, zlib.error) as error:
            raise JaxrnnError(f"{self._file}: cannot be read ({error}); expected a pickle, perhaps gzipped")
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, MemoryError) as error:
            raise JaxrnnError(
                f"{self._file}: no readable pickle ({type(error).__name__}: {str(error)[:200]}); the file is truncated "
                "or damaged, or no pickle; write it again by pickle.dump"
            )
        pairs = content if isinstance(content, tuple | list) else ()
        if len(pairs) in (2, 3) and all(_is_pair(pair) for pair in pairs):
            names = ("train", "test") if len(pairs) == 2 else ("train", "validation", "test")
        elif len(pairs) == 2:
            names, pairs = ("",), [pairs]
        else:
            raise JaxrnnError(f"{self._file}: holds {_kind(content)}; {EXPECTED}")
        return [(name, *self._checked(name, x, y, size)) for name, (x, y) in zip(names, pairs, strict=True)]

    def _checked(self, split: str, x: Any, y: Any, size: int) -> tuple[Any, np.ndarray]:
        where = f"{self._file}: " + (f"split {split}: " if split else "")
        try:
            tables, labels = _tables(x, size), _labels(y, size)
        except (ValueError, TypeError, OverflowError, MemoryError) as error:
            raise JaxrnnError(f"{where}{error}; {EXPECTED}")
        if len(tables) != len(labels):
            raise JaxrnnError(f"{where}{len(tables)} sequences and {len(labels)} labels; expected a label a sequence")
        return tables, labels


def _is_pair(value: Any) -> bool:
    """Returns whether a value is some (x, y), and no x or y itself."""
    pair = isinstance(value, tuple) or (isinstance(value, list) and all(isinstance(v, np.ndarray) for v in value))
    return (
        pair
        and len(value) == 2
        and not any(isinstance(entry, int | float | str | bytes | np.generic) for entry in value)
    )


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")


def _tables(x: Any, size: int) -> Any:
    """Returns sequences as an array [object, step, column] or a list of arrays [step, column], in the type that they
    have; raises ValueError where they are none. size: bytes of the pickle, which its numbers cannot outnumber."""
    if isinstance(x, np.ndarray) and x.dtype != object:
        _check_numbers(x, "x")
        if x.ndim not in (2, 3):
            raise ValueError(f"x has the shape {x.shape}, not [object, step] or [object, step, column]")
        return x if x.ndim == 3 else x[:, :, None]
    entries = x.tolist() if isinstance(x, np.ndarray) and x.ndim == 1 else x
    if not isinstance(entries, list | tuple):
        raise ValueError(f"x is {_kind(x)}, no array or list of sequences")
    _check_nested(entries, size, depth=3)
    tables = []
    for index, entry in enumerate(entries):
        table = np.asarray(entry) if isinstance(entry, np.ndarray | list | tuple) else None
        if table is None or table.ndim not in (1, 2):
            raise ValueError(f"x[{index}] is {_kind(entry)}, not [step] or [step, column]")
        _check_numbers(table, f"x[{index}]")
        tables.append(table if table.ndim == 2 else table[:, None])
    return tables


def _labels(y: Any, size: int) -> np.ndarray:
    """Returns labels as text, [object], "" where one is missing; raises ValueError where y is neither labels nor
    one-hot."""
    if isinstance(y, list | tuple):
        if all(isinstance(entry, int | float | str | bytes | np.generic | None) for entry in y):
            return np.array([_label(entry, index) for index, entry in enumerate(y)], dtype=str)
        _check_nested(y, size, depth=2)
        y = np.array(y)
    if not isinstance(y, np.ndarray):
        raise ValueError(f"y is {_kind(y)}, no array or list of labels")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf":
        one_hot = (y.sum(axis=1) == 1) & np.isin(y, (0, 1)).all(axis=1)
        if not one_hot.all():
            raise ValueError(f"y[{int(np.argmin(one_hot))}] is not one-hot (a single 1 and zeros elsewhere)")
        return y.argmax(axis=1).astype(str)
    if y.ndim != 1:
        raise ValueError(f"y has the shape {y.shape}, not [object] or, one-hot, [object, class]")
    return np.array([_label(entry, index) for index, entry in enumerate(y.tolist())], dtype=str)


def _label(value: Any, index: int) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, str) and len(value) <= LONGEST_LABEL:
        return value
    if isinstance(value, int | float):
        return str(value).removesuffix(".0") if abs(value) < 2**63 else repr(float(value))
    raise ValueError(f"y[{index}] is {_kind(value)}, no number or short text")


def _check_numbers(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype} values, not numbers")


def _check_nested(entries: Any, size: int, depth: int) -> None:
    """Raises ValueError where lists are nested deeper than `depth`, hold anything but numbers, or hold more than their
    pickle has bytes: lists that stand in one another many times over would fill any memory."""
    total = 0

    def count(entries: Any, depth: int) -> None:
        nonlocal total
        for entry in entries:
            nested = isinstance(entry, list | tuple | np.ndarray)
            if nested and depth == 1:
                raise ValueError("lists are nested too deep")
            if not nested and not isinstance(entry, int | float | np.number | np.bool_ | None):
                raise ValueError(f"a list holds {_kind(entry)} where a number must be")
            total += 1 + (entry.size if isinstance(entry, np.ndarray) else 0)
            if total > 2 * size:
                raise ValueError("lists hold one another more often than a pickle of this size can mean")
            if nested and not isinstance(entry, np.ndarray):
                count(entry, depth - 1)

    count(entries, depth)


# What follows makes Python values of a pickle.


class _Global:
    """A name that a pickle mentions; nothing is imported for it."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Array:
    """An array that a pickle announces first and describes later, or at once."""

    value: np.ndarray | None = None


class _Type:
    """A NumPy type in the making: its code, as in f8, and its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def made(self) -> np.dtype:
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


_TYPE_CODES = re.compile(r"f[248]|[iu][1248]|b1|O8?|[SU][1-9][0-9]{0,6}")
_ADMITTED = {
    **{f"numpy.{core}.multiarray._reconstruct": "announce" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": "array" for core in ("core", "_core")},
    "numpy.dtype": "type",
    "numpy.ndarray": "ndarray",
    "_codecs.encode": "encode",
    "builtins.bytes": "empty",
    "__builtin__.bytes": "empty",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _contents(file: Path) -> tuple[Any, int]:
    """Returns what a pickle holds and its size in bytes. JaxrnnError: it names what is not admitted; any ValueError,
    IndexError, KeyError, ...: it is damaged."""
    with file.open("rb") as opened, warnings.catch_warnings():
        # of escapes in text, where a pickle is damaged
        warnings.simplefilter("ignore", DeprecationWarning)
        if opened.read(2) == b"\x1f\x8b":
            with gzip.open(file, "rb") as zipped:
                content = zipped.read()
            return _followed(io.BytesIO(content), file), len(content)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as program:
            return _followed(program, file), len(program)


def _followed(program: Any, file: Path) -> Any:
    """Returns what a pickle's instructions leave; Python's documentation of each is in `pickletools`."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        entries, stack = stack, marks.pop()
        return entries

    instructions: Any = pickletools.genops(program)
    for code, argument, _ in instructions:
        name = code.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            return _value(stack.pop())
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name == "POP":
            stack.pop() if stack else since_mark()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            entries = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(_value(entry) for entry in reversed(entries)))
        elif name == "TUPLE":
            entries = since_mark()
            stack.append(tuple(_value(entry) for entry in entries))
        elif name in ("EMPTY_LIST", "LIST"):
            entries = since_mark() if name == "LIST" else []
            stack.append([_value(entry) for entry in entries])
        elif name in ("APPEND", "APPENDS"):
            entries = since_mark() if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(_value(entry) for entry in entries)
        elif name in ("EMPTY_DICT", "DICT"):
            entries = since_mark() if name == "DICT" else []
            stack.append(dict(zip(entries[::2], map(_value, entries[1::2]), strict=True)))
        elif name in ("SETITEM", "SETITEMS"):
            entries = since_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _expect(stack[-1], dict).update(zip(entries[::2], map(_value, entries[1::2]), strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
            else:
                module, _, attribute = argument.partition(" ")
            if f"{module}.{attribute}" not in _ADMITTED:
                raise _refused(file, f"{module}.{attribute}")
            stack.append(_Global(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, called = _expect(stack.pop(), tuple), _expect(stack.pop(), _Global)
            stack.append(_reduced(called.name, arguments, file))
        elif name == "BUILD":
            state = _expect(stack.pop(), tuple)
            _build(stack[-1], state)
        else:
            raise _refused(file, argument.replace(" ", ".") if name == "INST" else f"the instruction {name}")
    raise ValueError("it has no end")


def _refused(file: Path, name: str) -> JaxrnnError:
    return JaxrnnError(
        f"{file}: asks for {name}, and a pickle can run anything by such a name; nothing was run. Expected NumPy "
        "arrays, lists, tuples, dicts, text and numbers alone; write the data again as these, and never load a pickle "
        "of unknown origin by other means"
    )


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} must be")
    return value


def _value(entry: Any) -> Any:
    """Returns an entry of the stack as it goes into a container: arrays as they are by now."""
    if isinstance(entry, _Array):
        if entry.value is None:
            raise ValueError("an array that is announced and not described")
        return entry.value
    return entry


def _reduced(name: str, arguments: tuple, file: Path) -> Any:
    """Returns what the pickle wants made by a name, without calling it."""
    what = _ADMITTED[name]
    if what == "announce":
        _check_ndarray(arguments[0], file)
        return _Array()
    if what == "array":
        made = _Array()
        content, kind, shape, order = arguments
        made.value = _array(content, kind, shape, order)
        return made
    if what == "scalar":
        kind, content = arguments
        return _array(content, kind, (), "C")[()]
    if what == "type":
        if not _TYPE_CODES.fullmatch(_expect(arguments[0], str)):
            raise _refused(file, f"the NumPy type {arguments[0]!r}")
        return _Type(arguments[0])
    if what == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        # how protocols 0 to 2 write bytes
        return _expect(arguments[0], str).encode("latin-1")
    if what == "empty" and not arguments:
        return b""
    raise _refused(file, f"{name} with other arguments than those of an array")


def _check_ndarray(kind: Any, file: Path) -> None:
    if not isinstance(kind, _Global) or kind.name != "numpy.ndarray":
        raise _refused(file, "an array that is no numpy.ndarray")


def _build(target: Any, state: tuple) -> None:
    """Completes an announced array, or a type with its byte order."""
    if isinstance(target, _Array) and target.value is None:
        _, shape, kind, by_columns, content = state
        target.value = _array(content, kind, shape, "F" if by_columns else "C")
    elif isinstance(target, _Type):
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise ValueError("a NumPy type with fields or metadata; expected plain numbers")
        target.order = state[1]
    else:
        raise TypeError(f"a state for a {type(target).__name__}, which has none")


def _array(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """Returns an array of the bytes, or list of Python values, that a pickle has for it."""
    dtype = _expect(kind, _Type).made()
    shape = tuple(_expect(length, int) for length in _expect(shape, tuple))
    if order not in ("C", "F") or min(shape, default=0) < 0:
        raise ValueError(f"an array of the shape {shape} in the order {order!r}")
    if isinstance(content, str):
        # Python 2's text is bytes
        content = content.encode("latin-1")
    if dtype.kind == "O":
        if len(_expect(content, list)) != math.prod(shape):
            raise ValueError(f"{len(content)} values for an array of the shape {shape}")
        array = np.empty(len(content), dtype=object)
        for place, value in enumerate(content):
            array[place] = value
        return array.reshape(shape, order=order)
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {dtype} of the shape {shape} whose bytes are not there")
    return np.ndarray(shape, dtype, content, order=order)
