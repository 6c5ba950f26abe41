"""The `.ts` files of the UEA and UCR archives (Bagnall et al. 2018, arXiv 1811.00075; as sktime and aeon read them).

A header of lines `@key value` ends with `@data`; `#` begins a comment. Then a line is an object: its dimensions, and
last its class where the header says `@classLabel true`, separated by colons. A dimension is a list of values,
`1.5,?,2`, or, with `@timestamps true`, of times (numbers) with values, `(0,1.5),(2,2)`; `?` and `NaN` are missing
values.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import BinaryIO, Literal

import numpy as np
from pydantic import Field

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey

ENDING = ".ts"
CHUNK_BYTES = 1 << 20
PAIRS = re.compile(r"\(([^(),]*),([^(),]*)\)")
HEADER_LINES = 10_000  # comments and all; a file without @data is not read to its end
HEADER_LINE_BYTES = 1 << 20


class TsOptions(Options):
    files: dict[Literal["train", "validation", "test"], str] | None = Field(
        default=None,
        min_length=1,
        description="Name of each split's file in the folder. Left out: the files that end in _TRAIN.ts and _TEST.ts "
        "(and _VALIDATION.ts), or the only file, without splits.",
    )
    time_unit: str = Field(
        default="steps",
        description="Unit of time of the file's timestamps. Without timestamps the time is the number of the step.",
    )


class TsReader(SequenceReader):
    """The `.ts` format of the UEA and UCR archives: uni- or multivariate, of any lengths, with missing values.

    Dimensions are columns. A file is cut between lines, so that a large one is shared.
    """

    Options = TsOptions
    EXAMPLE = """\
data:
  reader: ts
  path: surveys/BasicMotions
  features: [dimension_0, dimension_1, dimension_2]
"""

    def __init__(self, path: Path, options: TsOptions) -> None:
        self._options = options
        self._files = _files(path, options.files)
        self._headers = {file: _header(file) for file in self._files.values()}
        first, *others = self._headers.items()
        for file, header in others:
            if header.kind != first[1].kind:
                raise JaxrnnError(
                    f"{file}: {header.told}; {first[0].name} has {first[1].told}; expected the same in every file"
                )
        self._kind = first[1]
        # how many lines stand before a place of a file: the last one counted
        self._counted: dict[Path, tuple[int, int]] = {}

    def describe(self) -> Survey:
        return Survey(
            columns=tuple(Column(f"dimension_{index}") for index in range(self._kind.dimensions)),
            time_unit=self._options.time_unit,
            gives_splits="" not in self._files,
            labelled=self._kind.labelled,
        )

    def files(self) -> list[Path]:
        return list(self._files.values())

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop are bytes of one file, where lines begin."""
        parts = []
        for file, header in self._headers.items():
            size = file.stat().st_size
            with file.open("rb") as opened:
                start = header.stop
                while start < size:
                    # the part that begins at `start` ends with the line in which the budget ends
                    stop = start + budget - 1
                    if stop < size:
                        opened.seek(stop)
                        stop = _line_end(opened)
                    stop = min(stop, size)
                    parts.append(Part((file,), start, stop, stop - start))
                    start = stop
        return parts

    def read(self, part: Part) -> Sequences:
        (file,) = part.files
        split = next(split for split, place in self._files.items() if place == file)
        header = self._headers[file]
        try:
            number = self._lines_before(file, part.start)
            with file.open("rb") as opened:
                opened.seek(part.start)
                content = opened.read(part.stop - part.start)
        except OSError as error:
            raise JaxrnnError(f"{file}: cannot be read ({error.strerror}); expected a .ts file")
        lines = content.removesuffix(b"\n").split(b"\n")
        self._counted[file] = (part.stop, number + len(lines))
        ids, labels, times, tables, faults = [], [], [], [], []
        for line_number, line in enumerate(lines, start=number + 1):
            if not (line := line.strip()) or line.startswith((b"#", b"%")):
                continue
            label, time, table, fault = "", np.zeros(0), np.zeros((0, header.dimensions)), ""
            try:
                time, table, label = _parsed(line.decode("utf-8"), header)
            except UnicodeDecodeError as error:
                fault = f"line {line_number}: byte {error.start} is no UTF-8 text"
            except ValueError as error:
                fault = f"line {line_number}: {error}"
            ids.append(f"{file.stem}-{line_number}")
            labels.append(label)
            times.append(time)
            tables.append(table)
            faults.append(fault)
        lengths = [len(time) for time in times]
        rows = sum(lengths)
        return Sequences(
            ids=np.array(ids, dtype=str),
            labels=np.array(labels, dtype=str),
            offsets=np.cumsum([0, *lengths]),
            time=np.concatenate([np.zeros(0), *times]),
            values=np.concatenate([np.zeros((0, header.dimensions)), *tables]),
            passband=np.zeros(rows, dtype=np.int64),
            metadata=np.zeros((len(ids), 0)),
            row_numbers=np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(length) for length in lengths)]),
            files=(str(file),),
            splits=np.full(len(ids), split) if split else None,
            object_faults=np.array(faults, dtype=object),
        )

    def _lines_before(self, file: Path, place: int) -> int:
        """Returns how many lines of a file stand before a place, counted on from the place last asked for."""
        header = self._headers[file]
        start, lines = self._counted.get(file, (header.stop, header.lines))
        if start > place:
            start, lines = header.stop, header.lines
        with file.open("rb") as opened:
            opened.seek(start)
            while start < place and (chunk := opened.read(min(CHUNK_BYTES, place - start))):
                lines += chunk.count(b"\n")
                start += len(chunk)
        return lines


@dataclass(frozen=True)
class Header:
    """What a file's header says. classes: those declared, if any. length: of every object, where it is declared.
    stop, lines: where the data begins, in bytes and in lines."""

    dimensions: int
    timestamps: bool
    labelled: bool
    classes: tuple[str, ...]
    length: int | None
    stop: int
    lines: int

    @property
    def kind(self) -> tuple[int, bool, bool]:
        return self.dimensions, self.timestamps, self.labelled

    @property
    def told(self) -> str:
        with_, without = "with", "without"
        return (
            f"{self.dimensions} dimensions, {with_ if self.timestamps else without} timestamps, "
            f"{with_ if self.labelled else without} class labels"
        )


def _files(path: Path, named: dict[Literal["train", "validation", "test"], str] | None) -> dict[str, Path]:
    """Returns each split's file; a file without splits as the split ""."""
    if not path.is_dir():
        if named:
            raise JaxrnnError(f"data.options.files: names files in a folder, and {path} is a file")
        return {"": path}
    if named:
        files = {split: path / named[split] for split in SPLITS if split in named}
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            raise JaxrnnError(f"{path}: {listed(missing)} missing; data.options.files names it")
        return files
    found = sorted(file for file in path.iterdir() if file.name.lower().endswith(ENDING))
    files = {}
    for split in SPLITS:
        of_split = [file for file in found if file.name.lower().endswith(f"_{split}{ENDING}")]
        if len(of_split) > 1:
            raise JaxrnnError(
                f"{path}: {listed([file.name for file in of_split])} are all the {split} split; "
                "name one under data.options.files"
            )
        files.update(zip([split], of_split, strict=False))
    if not files and len(found) == 1:
        files = {"": found[0]}
    if not found:
        raise JaxrnnError(f"{path}: *.ts missing; expected <name>_TRAIN.ts and <name>_TEST.ts, or one .ts file")
    if len(files) < len(found):
        raise JaxrnnError(
            f"{path}: holds {listed([file.name for file in found])}; expected <name>_TRAIN.ts and <name>_TEST.ts, or "
            "one .ts file; name those to read under data.options.files"
        )
    unreadable = [file for file in files.values() if not file.is_file()]
    if unreadable:
        raise JaxrnnError(f"{unreadable[0]}: is no regular file, or a link that leads nowhere; expected a .ts file")
    return files


def _header(file: Path) -> Header:
    """Returns what a file's header says; the first line of data says how many dimensions there are where it doesn't."""
    keys: dict[str, str] = {}
    with file.open("rb") as opened:
        if not os.fstat(opened.fileno()).st_size:
            raise JaxrnnError(f"{file}: is empty; expected a .ts file: a header, @data, and a line an object")
        for number in range(1, HEADER_LINES + 1):
            line = opened.readline(HEADER_LINE_BYTES)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise JaxrnnError(f"{file}: line {number} is no UTF-8 text; expected a .ts file; write it as UTF-8")
            if not line or (text and text[0] not in "@#%"):
                found = f"line {number} is neither @key nor a comment" if line else "ends"
                raise JaxrnnError(
                    f"{file}: {found} before @data; "
                    "expected a .ts file: lines `@key value`, then @data, then a line an object"
                )
            if text.startswith("@"):
                key, _, value = text[1:].replace("\t", " ").partition(" ")
                if key.lower() == "data":
                    break
                keys[key.lower()] = value.strip()
        else:
            raise JaxrnnError(f"{file}: no @data in its first {HEADER_LINES} lines; expected a .ts file")
        stop = opened.tell()
        first = b""
        while not first and (line := opened.readline()):
            first = b"" if line.strip().startswith((b"#", b"%")) else line.strip()

    def flag(*names: str) -> tuple[bool, list[str]]:
        """Returns whether a key is true, and the words after it."""
        words = next((keys[name].split() for name in names if name in keys), [])
        if words and words[0].lower() not in ("true", "false"):
            raise JaxrnnError(f"{file}: @{names[0]} {shortened(words[0])}; expected `true` or `false`")
        return bool(words) and words[0].lower() == "true", words[1:]

    def whole(*names: str) -> int | None:
        text = next((keys[name] for name in names if name in keys), None)
        if text is not None and not (re.fullmatch(r"0*[1-9][0-9]{0,5}", text)):
            raise JaxrnnError(f"{file}: @{names[0]} {shortened(text)}; expected a whole number above 0")
        return None if text is None else int(text)

    if flag("targetlabel")[0]:
        raise JaxrnnError(f"{file}: @targetLabel true: its labels are numbers to be predicted; expected classes")
    labelled, classes = flag("classlabel")
    dimensions = whole("dimensions", "dimension")
    if dimensions is None and flag("univariate")[0]:
        dimensions = 1
    if dimensions is None:
        if not first:
            raise JaxrnnError(f"{file}: no line of data, and no @dimensions; expected a line an object")
        dimensions = max(1, len(first.split(b":")) - labelled)
    length = whole("serieslength") if flag("equallength")[0] else None
    return Header(dimensions, flag("timestamps")[0], labelled, tuple(classes), length, stop, number)


def _line_end(opened: BinaryIO) -> int:
    """Returns where the line ends in which an open file stands, and leaves the file there."""
    while line := opened.readline(CHUNK_BYTES):
        if line.endswith(b"\n"):
            break
    return opened.tell()


def _parsed(line: str, header: Header) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns an object's times [step], values [step, dimension] and label; raises ValueError where a line is none."""
    fields, expected = line.split(":"), header.dimensions + header.labelled
    if len(fields) != expected:
        raise ValueError(
            f"{len(fields)} fields between colons; expected {header.dimensions} dimensions"
            f"{' and a class' if header.labelled else ''}"
        )
    label = fields.pop().strip() if header.labelled else ""
    if label == "?":
        label = ""
    if label and header.classes and label not in header.classes:
        known = f"{listed(header.classes)}, which the header's @classLabel lists"
        raise ValueError(f"class {shortened(label)} is none of {known}")
    times, columns = [], []
    for index, field in enumerate(fields):
        if "_" in field:
            # Python would read 1_0 as 10
            raise ValueError(f"dimension {index} holds '_', which is in no number")
        if header.timestamps:
            pairs = PAIRS.findall(field)
            if PAIRS.sub("", field).replace(",", "").strip():
                raise ValueError(f"dimension {index} is no list of (time,value)")
            times.append(_numbers([time for time, _ in pairs], index, "time"))
            columns.append(_numbers([value for _, value in pairs], index, "value"))
        else:
            columns.append(_numbers(field.split(",") if field.strip() else [], index, "value"))
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        other = next(index for index, length in enumerate(lengths) if length != lengths[0])
        raise ValueError(
            f"dimension {other} has {lengths[other]} values, and dimension 0 has {lengths[0]}; expected as many in each"
        )
    if header.length not in (None, lengths[0]):
        raise ValueError(
            f"{lengths[0]} values a dimension; the header says @equalLength and @seriesLength {header.length}"
        )
    for index, time in enumerate(times):
        if not np.array_equal(time, times[0], equal_nan=True):
            raise ValueError(f"the times of dimension {index} are not those of dimension 0")
    time = times[0] if times else np.arange(lengths[0], dtype=np.float64)
    return time, np.stack(columns, axis=1), label


def _numbers(words: list[str], dimension: int, what: str) -> np.ndarray:
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        pass
    numbers = np.empty(len(words))
    for step, word in enumerate(words):
        try:
            numbers[step] = np.nan if word.strip() == "?" else float(word)
        except ValueError:
            raise ValueError(f"dimension {dimension}, step {step}: the {what} {word.strip()[:40]!r} is no number")
    return numbers
