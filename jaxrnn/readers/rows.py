"""Tables of rows (CSV, gzipped CSV, Parquet), read in pieces: fast where they are clean, row by row where they are not.

A plain CSV file is cut into ranges of bytes that begin and end at line ends, so that one large file is shared between
ranks; a gzipped one is a single part that is streamed; a Parquet file is cut between its row groups. A row that cannot
be read comes out like any other, with NaN for its numbers and the reason in `Rows.faults`.

Rows of CSV files are numbered by the byte at which they begin (in the uncompressed text): a rank knows that without
counting the lines before its part, which on a file of 60 GB would be a pass over all of it by each rank. `rows_at`
counts, once, when rows are to be named.
"""

import csv
import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import SPLITS, Objects, Observations, Part, RowReader, Survey
from jaxrnn.readers.folders import bytes_of

# Text that is parsed at once: some ten times as much memory is needed for it.
PIECE_BYTES = 8 << 20
# A dirty piece is cut until it is this small, then read row by row: one bad row costs the others little.
ROW_BY_ROW_BYTES = 32 << 10
MOST_LINE_BYTES = 1 << 20
MOST_ID_BYTES = 256
SHOWN_TEXT = 40
# What a compressed text grows by, about; the file itself does not say it reliably.
GZIP_RATIO = 4
MISSING = ("", "nan", "NaN", "NAN", "-nan", "NA", "N/A", "n/a", "<NA>", "null", "NULL", "None")
SPLIT_NAMES = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
SPLIT_NAMES |= {name: name for name in SPLITS}
TABLE_ENDINGS = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Categories:
    """A column of few different texts: row i holds texts[codes[i]]."""

    codes: np.ndarray
    texts: list[str]

    def decoded(self) -> np.ndarray:
        """Returns [row] object, str."""
        return np.array([*self.texts, ""], dtype=object)[self.codes]

    def numbered(self, number: Callable[[str], int]) -> np.ndarray:
        """Returns [row] int64, the number of each row's text, -1 where it is missing."""
        return np.array([*map(number, self.texts), -1], dtype=np.int64)[self.codes]


@dataclass(frozen=True)
class Rows:
    """Some rows of a table: ids [row] bytes (dtype S), each column of numbers [row] float64, of texts, and faults
    [row] object str, None where every row could be read."""

    ids: np.ndarray
    numbers: dict[str, np.ndarray]
    texts: dict[str, Categories]
    row_numbers: np.ndarray
    faults: np.ndarray | None = None


@dataclass(frozen=True)
class Wanted:
    """Which columns are read: the object's id; numbers; marks (numbers, or true and false); texts."""

    ids: str
    numbers: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.ids, *self.numbers, *self.marks, *self.texts)))


def open_table(file: Path, separator: str = ",") -> "Table":
    """Returns the table in `file`, which its first bytes tell; raises JaxrnnError where it has no readable header."""
    try:
        with file.open("rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise JaxrnnError(f"{file}: cannot be read ({error.strerror}); expected a table of rows") from None
    if not start:
        raise JaxrnnError(f"{file}: is empty; expected a table with a line of column names")
    if start == b"PAR1" or file.suffix.lower() in (".parquet", ".pq"):
        return ParquetTable(file)
    return CsvTable(file, separator, gzipped=start[:2] == b"\x1f\x8b" or file.suffix.lower() == ".gz")


class Table(ABC):
    """A file with named columns and one row after another."""

    file: Path
    columns: list[str]

    def check(self, wanted: Wanted) -> None:
        """Raises JaxrnnError where the table lacks a column, or has one of another type."""
        absent = [column for column in wanted.columns if column not in self.columns]
        if absent:
            hint = nearest(absent[0], self.columns)
            raise JaxrnnError(f"{self.file}: no column {listed(absent)}{hint}; it has {listed(self.columns, 20)}")

    @abstractmethod
    def parts(self, budget: int) -> list[Part]:
        """Returns the file in parts of about `budget` bytes."""

    @abstractmethod
    def read(self, part: Part, wanted: Wanted) -> Iterator[Rows]:
        """Yields the part's rows, in order, in pieces of at most about `PIECE_BYTES`."""

    def rows_at(self, row_numbers: np.ndarray) -> np.ndarray:
        """Returns the rows, from 0, that `Rows.row_numbers` stand for."""
        return row_numbers


class UnreadableTable(Table):
    """One table of several whose header cannot be read, or lacks a column: a single part, and reading it says why."""

    def __init__(self, file: Path, reason: str) -> None:
        self.file, self.columns, self._reason = file, [], reason

    def check(self, wanted: Wanted) -> None:
        raise JaxrnnError(self._reason)

    def parts(self, budget: int) -> list[Part]:
        return [Part((self.file,), 0, 0, bytes_of(self.file))]

    def read(self, part: Part, wanted: Wanted) -> Iterator[Rows]:
        raise JaxrnnError(self._reason)


def open_tables(files: Sequence[Path], separator: str = ",") -> list[Table]:
    """Returns the tables in `files`, one that cannot be opened as an `UnreadableTable`; raises JaxrnnError where that
    is every one of them."""

    def opened(file: Path) -> Table:
        try:
            return open_table(file, separator)
        except JaxrnnError as error:
            return UnreadableTable(file, str(error))

    return _some_readable([opened(file) for file in files])


def first_readable(tables: Sequence[Table]) -> Table:
    return next(table for table in tables if not isinstance(table, UnreadableTable))


def _checked(tables: Sequence[Table], wanted: Wanted) -> list[Table]:
    """Returns the tables, those that lack a column as an `UnreadableTable`; raises JaxrnnError where all do."""

    def checked(table: Table) -> Table:
        try:
            table.check(wanted)
        except JaxrnnError as error:
            return UnreadableTable(table.file, str(error))
        return table

    return _some_readable([checked(table) for table in tables])


def _some_readable(tables: list[Table]) -> list[Table]:
    # said at once where no table is right: it is the options, then, that are wrong
    if tables and all(isinstance(table, UnreadableTable) for table in tables):
        tables[0].check(Wanted(""))
    return tables


class CsvTable(Table):
    """A CSV file with a line of column names, perhaps after comments (#); UTF-8, any line ends, perhaps gzipped."""

    def __init__(self, file: Path, separator: str = ",", gzipped: bool = False) -> None:
        self.file = file
        self._separator = separator
        self._gzipped = gzipped
        with self._reading(), self._open() as opened:
            self.columns, self._header_end = self._header(opened.read(MOST_LINE_BYTES))
        twice = sorted({column for column in self.columns if column and self.columns.count(column) > 1})
        if twice:
            raise JaxrnnError(f"{file}: column {listed(twice)} stands twice in its first line; rename one of them")

    def _open(self) -> BinaryIO:
        return gzip.open(self.file, "rb") if self._gzipped else self.file.open("rb")  # type: ignore[return-value]

    def _reading(self) -> "_Reading":
        return _Reading(self.file)

    def _header(self, start: bytes) -> tuple[list[str], int]:
        """Returns the column names, and the byte at which the first row begins."""
        position = 3 if start.startswith(b"\xef\xbb\xbf") else 0
        while position < len(start):
            end = start.find(b"\n", position)
            if end < 0 and (len(start) == MOST_LINE_BYTES or b"\r" in start[position:-1]):
                raise JaxrnnError(
                    f"{self.file}: no line end in its first {len(start):,} bytes; expected CSV, a row a line"
                )
            end = len(start) if end < 0 else end
            line = start[position:end].strip()
            position = min(end + 1, len(start))
            if line and not line.startswith(b"#"):
                return self._names(line), position
        raise JaxrnnError(f"{self.file}: no line of column names; expected a table in CSV")

    def _names(self, line: bytes) -> list[str]:
        try:
            text = line.decode("utf-8")
            names = next(csv.reader([text], delimiter=self._separator, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise JaxrnnError(
                f"{self.file}: its first line is no CSV in UTF-8 ({error}); expected column names"
            ) from None
        if "\0" in text:
            raise JaxrnnError(f"{self.file}: NUL bytes in its first line; expected column names, in UTF-8")
        return [name.strip() for name in names]

    def parts(self, budget: int) -> list[Part]:
        """Returns the file cut at line ends into parts of about `budget` bytes; start and stop are bytes."""
        with self._reading():
            size = self.file.stat().st_size
        if self._gzipped:
            return [Part((self.file,), 0, 0, size * GZIP_RATIO)]
        starts = [self._header_end]
        with self._reading(), self.file.open("rb") as opened:
            for target in range(self._header_end + budget, size, budget):
                if target > starts[-1]:
                    opened.seek(target - 1)
                    line = opened.readline(MOST_LINE_BYTES)
                    if len(line) == MOST_LINE_BYTES and not line.endswith(b"\n"):
                        raise JaxrnnError(
                            f"{self.file}: a line of more than {MOST_LINE_BYTES:,} bytes at byte {target - 1:,}; "
                            "expected CSV, a row a line"
                        )
                    starts.append(target - 1 + len(line))
        stops = [*starts[1:], size]
        return [
            Part((self.file,), start, stop, stop - start)
            for start, stop in zip(starts, stops, strict=True)
            if start < stop
        ]

    def read(self, part: Part, wanted: Wanted) -> Iterator[Rows]:
        with self._reading(), self._open() as opened:
            position = self._header_end if self._gzipped else part.start
            opened.seek(position)
            rest = b""
            while True:
                left = PIECE_BYTES if self._gzipped else min(PIECE_BYTES, part.stop - position - len(rest))
                new = opened.read(left)
                if not new:
                    break
                text = rest + new
                end = text.rfind(b"\n") + 1
                if not end and len(text) > MOST_LINE_BYTES:
                    raise JaxrnnError(f"{self.file}: no line end after byte {position:,}; expected CSV, a row a line")
                if end:
                    yield from self._parsed(text[:end], position, wanted)
                position, rest = position + end, text[end:]
            if rest:
                yield from self._parsed(rest, position, wanted)

    def rows_at(self, row_numbers: np.ndarray) -> np.ndarray:
        """Returns the rows, counted from 0 after the line of column names, that begin at these bytes of the text: one
        pass over the file. Blank lines count."""
        wanted, order = np.unique(row_numbers, return_inverse=True)
        counts = np.zeros(len(wanted), dtype=np.int64)
        with self._reading(), self._open() as opened:
            opened.seek(self._header_end)
            position, lines = self._header_end, 0
            while position < (wanted[-1] if len(wanted) else 0):
                new = np.frombuffer(opened.read(PIECE_BYTES), dtype=np.uint8)
                if not len(new):
                    break
                inside = (wanted > position) & (wanted <= position + len(new))
                ends = np.flatnonzero(new == ord("\n"))
                counts[inside] = lines + np.searchsorted(ends, wanted[inside] - position)
                position, lines = position + len(new), lines + len(ends)
        return counts[order].reshape(row_numbers.shape)

    def _parsed(self, text: bytes, position: int, wanted: Wanted) -> Iterator[Rows]:
        """Yields the rows of whole lines that begin at byte `position`."""
        rows = self._at_once(text, position, wanted)
        if rows is not None:
            if len(rows.row_numbers):
                yield rows
            return
        step = max(len(text) // 16, ROW_BY_ROW_BYTES // 2)
        if len(text) <= ROW_BY_ROW_BYTES or text.find(b"\n", step) + 1 in (0, len(text)):
            yield from self._row_by_row(text, position, wanted)
            return
        start = 0
        while start < len(text):
            stop = text.find(b"\n", start + step) + 1 or len(text)
            yield from self._parsed(text[start:stop], position + start, wanted)
            start = stop

    def _at_once(self, text: bytes, position: int, wanted: Wanted) -> Rows | None:
        """Returns the rows of a piece, or None where any of them is not clean."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if b"\0" in text:
            return None
        starts, blank, unpaired = _lines(text)
        if unpaired:
            return None
        text_type = pa.dictionary(pa.int32(), pa.string())
        types = dict.fromkeys((*wanted.marks, *wanted.texts), text_type)
        types |= dict.fromkeys(wanted.numbers, pa.float64()) | {wanted.ids: pa.string()}
        names = [name or f"\0{place}" for place, name in enumerate(self.columns)]
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(text),
                arrow_csv.ReadOptions(use_threads=False, block_size=max(len(text), 1), column_names=names),
                arrow_csv.ParseOptions(delimiter=self._separator),
                arrow_csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(wanted.columns),
                    null_values=MISSING,
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(starts) - blank.sum():
            return None  # line ends within rows, or other than those that parts are cut at
        marks = {column: _marks(_categories(table[column])) for column in wanted.marks}
        ids = _ids(table[wanted.ids])
        if ids is None or any(numbers is None for numbers in marks.values()):
            return None
        return Rows(
            ids,
            {column: _numbers(table[column]) for column in wanted.numbers} | marks,  # type: ignore[arg-type]
            {column: _categories(table[column]) for column in wanted.texts},
            (starts[~blank] if blank.any() else starts) + position,
        )

    def _row_by_row(self, text: bytes, position: int, wanted: Wanted) -> Iterator[Rows]:
        """Yields the rows of a piece, each with what is wrong with it."""
        place = {column: self.columns.index(column) for column in wanted.columns}
        fields: dict[str, list[str]] = {column: [] for column in wanted.columns}
        faults, row_numbers = [], []
        for line in text.split(b"\n"):
            start, position = position, position + len(line) + 1
            if not line.strip():
                continue
            found, fault = self._fields(line)
            row_numbers.append(start)
            for column, index in place.items():
                fields[column].append(found[index] if index < len(found) else "")
            # what is in columns that nobody reads is no fault, as where whole pieces are parsed
            if not fault and any("\ufffd" in fields[column][-1] for column in place):
                fault = f"not in UTF-8: {_shown(line.decode('utf-8', 'replace'))}"
            faults.append(fault)
        if not row_numbers:
            return
        numbers = {column: np.full(len(faults), np.nan) for column in (*wanted.numbers, *wanted.marks)}
        ids = []
        for row, fault in enumerate(faults):
            name = fields[wanted.ids][row].strip().encode()
            if len(name) > MOST_ID_BYTES and not fault:
                fault = f"{wanted.ids}: {_shown(fields[wanted.ids][row])} is longer than {MOST_ID_BYTES} bytes"
            ids.append(name[:MOST_ID_BYTES].decode("utf-8", "ignore").encode())
            found = {column: (_mark if column in wanted.marks else _number)(fields[column][row]) for column in numbers}
            wrong = next((column for column, value in found.items() if value is None), None)
            if wrong is not None and not fault:
                fault = f"{wrong}: {_shown(fields[wrong][row])} is no number"
            if not fault:
                for column, value in found.items():
                    numbers[column][row] = value
            faults[row] = fault
        texts = {}
        for column in wanted.texts:
            distinct, codes = np.unique(np.array(fields[column], dtype=str), return_inverse=True)
            texts[column] = Categories(codes, [str(entry) for entry in distinct])
        reasons = np.array(faults, dtype=object) if any(faults) else None
        yield Rows(np.array(ids, dtype=bytes), numbers, texts, np.array(row_numbers, dtype=np.int64), reasons)

    def _fields(self, line: bytes) -> tuple[list[str], str]:
        """Returns the fields of a line, and what is wrong with it ("" where nothing is)."""
        text = line.decode("utf-8", "replace").strip("\r\n")
        if "\0" in text:
            return [], f"NUL bytes: {_shown(text)}"
        try:
            # text behind a closing quote goes on with the field, as where whole pieces are parsed
            fields = next(csv.reader([text], delimiter=self._separator, strict=text.count('"') % 2 == 1))
        except csv.Error as error:
            reason = "a quote that does not close on its line (line ends within quotes are not read)"
            reason = reason if text.count('"') % 2 else str(error)
            return text.split(self._separator)[:1], f"{reason}: {_shown(text)}"
        if len(fields) != len(self.columns):
            return fields, f"{len(fields)} fields where {len(self.columns)} are expected: {_shown(text)}"
        return fields, ""


class ParquetTable(Table):
    """A Parquet file; rows are numbered from 0."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with _Reading(file), self._open() as opened:
            schema = opened.schema_arrow
            self.columns = list(schema.names)
            self._types = {name: schema.field(place).type for place, name in enumerate(schema.names)}
            groups = [opened.metadata.row_group(place) for place in range(opened.metadata.num_row_groups)]
            self._groups = [(group.num_rows, group.total_byte_size) for group in groups]
        if len(set(self.columns)) < len(self.columns):
            twice = sorted({column for column in self.columns if self.columns.count(column) > 1})
            raise JaxrnnError(f"{file}: column {listed(twice)} stands twice; rename one of them")

    def _open(self) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self.file, memory_map=True, pre_buffer=False)

    def parts(self, budget: int) -> list[Part]:
        """Returns the file cut between row groups into parts of about `budget` bytes; start and stop are row groups."""
        parts: list[Part] = []
        start, size = 0, 0
        for place, (_, group_bytes) in enumerate(self._groups):
            if place > start and size + group_bytes > budget:
                parts.append(Part((self.file,), start, place, size))
                start, size = place, 0
            size += group_bytes
        return [*parts, Part((self.file,), start, len(self._groups), size)] if self._groups else []

    def read(self, part: Part, wanted: Wanted) -> Iterator[Rows]:
        row = sum(rows for rows, _ in self._groups[: part.start])
        piece = max(1, PIECE_BYTES // (8 * len(wanted.columns)))
        with _Reading(self.file), self._open() as opened:
            batches = opened.iter_batches(
                piece, list(range(part.start, part.stop)), list(wanted.columns), use_threads=False
            )
            for batch in batches:
                if batch.num_rows:
                    yield self._rows(batch, row, wanted)
                row += batch.num_rows

    def check(self, wanted: Wanted) -> None:
        super().check(wanted)
        import pyarrow.types as kinds

        def plain(kind: Any) -> Any:
            return kind.value_type if kinds.is_dictionary(kind) else kind

        def is_text(kind: Any) -> bool:
            return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)

        for column in wanted.columns:
            kind = plain(self._types[column])
            number = (
                kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind) or kinds.is_boolean(kind)
            )
            if column == wanted.ids and not (is_text(kind) or kinds.is_integer(kind)):
                expected = "text or whole numbers"
            elif column in (*wanted.numbers, *wanted.marks) and not number and not kinds.is_null(kind):
                expected = "numbers"
            elif not (is_text(kind) or number or kinds.is_null(kind)):
                expected = "text or numbers"
            else:
                continue
            raise JaxrnnError(f"{self.file}: column {column} holds {self._types[column]}; expected {expected}")

    def _rows(self, batch: Any, row: int, wanted: Wanted) -> Rows:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = pa.table(batch)
        ids = _ids(pc.fill_null(pc.cast(table[wanted.ids], pa.string()), ""))
        if ids is None:
            raise JaxrnnError(
                f"{self.file}: column {wanted.ids} holds an id of more than {MOST_ID_BYTES} bytes; expected short names"
            )
        texts = {}
        for column in wanted.texts:
            values = table[column].cast(pa.string()) if _is_dictionary(table[column].type) else table[column]
            encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
            distinct = [
                "" if entry is None or entry != entry else str(entry) for entry in encoded.dictionary.to_pylist()
            ]
            # a column of whole numbers with gaps is one of floating-point numbers to pandas
            floating = pa.types.is_floating(values.type)
            texts[column] = Categories(
                np.from_dlpack(encoded.indices), [_whole(e) if floating else e for e in distinct]
            )
        return Rows(
            ids,
            {column: _numbers(pc.cast(table[column], pa.float64())) for column in (*wanted.numbers, *wanted.marks)},
            texts,
            np.arange(row, row + table.num_rows),
        )


class _Reading:
    """Says which file could not be read, whatever the library calls the reason."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, JaxrnnError | GeneratorExit):
            return
        import pyarrow as pa

        if isinstance(error, EOFError):
            raise JaxrnnError(f"{self._file}: truncated ({error}); expected a whole gzip file; copy it again") from None
        if isinstance(error, OSError | zlib.error | pa.ArrowException | ValueError):
            reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
            raise JaxrnnError(
                f"{self._file}: cannot be read as a table ({reason}); truncated or damaged? Expected CSV, gzipped CSV "
                "or Parquet, as the name says; copy the file again"
            ) from None


@dataclass(frozen=True)
class ColumnMap:
    """Where the files have what a survey consists of: names of columns, None or () where they have it not.

    values: in the order of `Survey.columns`. marks: those of them that may be written as true and false.
    passband_number: from the text in the file to an index. label, group, step_label: in the observations; what is named
    `object_...`, and `metadata`, in the table of objects. label_names: what labels of the file are called. missing:
    numbers that stand for missing metadata.
    """

    object: str
    time: str
    values: tuple[str, ...]
    marks: tuple[str, ...] = ()
    passband: str | None = None
    passband_number: Callable[[str], int] = lambda text: -1
    label: str | None = None
    group: str | None = None
    step_label: str | None = None
    object_id: str = ""
    object_label: str | None = None
    object_group: str | None = None
    object_split: str | None = None
    metadata: tuple[str, ...] = ()
    label_names: dict[str, str] = field(default_factory=dict)
    missing: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def observations(self) -> Wanted:
        texts = (self.passband, self.label, self.group, self.step_label)
        numbers = tuple(column for column in self.values if column not in self.marks)
        return _wanted(self.object, (self.time, *numbers), self.marks, texts)

    def objects(self) -> Wanted:
        return _wanted(self.object_id, self.metadata, (), (self.object_label, self.object_group, self.object_split))


def numbering(texts: Sequence[str]) -> Callable[[str], int]:
    """Returns a function that says where a text stands among `texts`, or -1. Blanks around it, and a whole number that
    is written as 2.0, do not matter."""
    places = {text: place for place, text in enumerate(texts)}
    return lambda text: places.get(text.strip(), places.get(_whole(text), -1))


class TablesReader(RowReader):
    """What the readers of tables share: they say which files and columns, `_use`, and this reads them."""

    def _use(
        self, survey: Survey, columns: ColumnMap, observations: Sequence[Table], objects: Sequence[Table] = ()
    ) -> None:
        """Raises JaxrnnError where no file has all columns; one that lacks some is a part that cannot be read."""
        self._survey, self._columns = survey, columns
        self._observations = {table.file: table for table in _checked(observations, columns.observations())}
        self._objects = {table.file: table for table in _checked(objects, columns.objects())}

    def describe(self) -> Survey:
        return self._survey

    def files(self) -> list[Path]:
        return [*self._objects, *self._observations]

    def object_parts(self, budget: int) -> list[Part]:
        return [part for table in self._objects.values() for part in table.parts(budget)]

    def observation_parts(self, budget: int) -> list[Part]:
        return [part for table in self._observations.values() for part in table.parts(budget)]

    def rows_at(self, file: str, row_numbers: np.ndarray) -> np.ndarray:
        return (self._objects | self._observations)[Path(file)].rows_at(row_numbers)

    def read_objects(self, part: Part) -> Iterator[Objects]:
        columns = self._columns
        for rows in self._objects[part.files[0]].read(part, columns.objects()):
            metadata = np.empty((len(rows.ids), len(columns.metadata)))
            for place, column in enumerate(columns.metadata):
                metadata[:, place] = rows.numbers[column]
                metadata[np.isin(metadata[:, place], columns.missing.get(column, ())), place] = np.nan
            splits, faults = self._splits(rows)
            yield Objects(
                ids=rows.ids,
                labels=self._labels(rows, columns.object_label),
                metadata=metadata,
                row_numbers=rows.row_numbers,
                file=str(part.files[0]),
                splits=splits,
                groups=_words(rows, columns.object_group),
                faults=faults,
            )

    def read_observations(self, part: Part) -> Iterator[Observations]:
        columns = self._columns
        for rows in self._observations[part.files[0]].read(part, columns.observations()):
            values = [rows.numbers[column] for column in columns.values]
            if columns.passband:
                passband = rows.texts[columns.passband].numbered(columns.passband_number)
            else:
                passband = np.zeros(len(rows.ids), dtype=np.int64)
            yield Observations(
                object_ids=rows.ids,
                time=rows.numbers[columns.time],
                values=np.stack(values, axis=1) if values else np.empty((len(rows.ids), 0)),
                passband=passband,
                row_numbers=rows.row_numbers,
                file=str(part.files[0]),
                step_labels=_words(rows, columns.step_label),
                labels=self._labels(rows, columns.label) if columns.label else None,
                groups=_words(rows, columns.group),
                faults=rows.faults,
            )

    def _labels(self, rows: Rows, column: str | None) -> np.ndarray:
        if column is None:
            return np.full(len(rows.ids), "", dtype=object)
        found = rows.texts[column]
        names = self._columns.label_names
        texts = [names.get(text.strip(), names.get(_whole(text), _word(text))) for text in found.texts]
        return Categories(found.codes, texts).decoded()

    def _splits(self, rows: Rows) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Returns the split of each object, and the faults with what is no split among them."""
        column = self._columns.object_split
        if column is None:
            return None, rows.faults
        found = rows.texts[column]
        texts = [SPLIT_NAMES.get(text.strip().lower(), _word(text)) for text in found.texts]
        reasons = ["" if s in SPLITS else f"{column}: {_shown(s)} is none of {', '.join(SPLITS)}" for s in texts]
        splits, faults = Categories(found.codes, texts).decoded(), Categories(found.codes, reasons).decoded()
        if rows.faults is not None:
            faults = np.where(rows.faults == "", faults, rows.faults)
        return splits, faults if (faults != "").any() else None


def _wanted(ids: str, numbers: Sequence[str], marks: Sequence[str], texts: Sequence[str | None]) -> Wanted:
    """Raises JaxrnnError where a column is wanted both as numbers and as texts."""
    wanted = Wanted(ids, tuple(numbers), tuple(marks), tuple(text for text in texts if text))
    kinds = [{ids}, {*wanted.numbers}, {*wanted.marks}, {*wanted.texts}]
    both = sorted({column for kind in kinds for other in kinds if kind is not other for column in kind & other})
    if both:
        raise JaxrnnError(
            f"data.options: column {listed(both)} is named as two things; expected each of the object's id, numbers, "
            "flags and texts (passband, label, group) in columns of their own"
        )
    return wanted


def _lines(text: bytes) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns where the lines begin, which of them are blank, and whether any has a quote that does not close."""
    characters = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    if not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    blank = lengths == 0
    single = np.flatnonzero(lengths == 1)
    blank[single] = characters[starts[single]] == ord("\r")
    unpaired = b'"' in text and bool((np.add.reduceat(characters == ord('"'), starts, dtype=np.int64) % 2).any())
    return starts, blank, unpaired


def _ids(column: Any) -> np.ndarray | None:
    """Returns [row] bytes (dtype S) of an Arrow column of text, None where one is too long. No loop over rows: the
    characters of all rows, one after another, are put where a table of equally wide rows has them."""
    column = column.combine_chunks()
    if not len(column):
        return np.empty(0, dtype="S1")
    _, offsets_buffer, characters_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    width = max(int(lengths.max()), 1)
    if width > MOST_ID_BYTES:
        return None
    # without any text there is no buffer
    characters = np.frombuffer(characters_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    if len(characters) == width * len(column):
        filled = characters
    else:
        filled = np.zeros((len(column), width), dtype=np.uint8)
        filled[np.arange(width) < lengths[:, None]] = characters
    ids = np.frombuffer(filled.tobytes(), dtype=f"S{width}")
    blanks = (characters == ord(" ")) | (characters == ord("\t"))
    return np.strings.strip(ids) if blanks.any() else ids


def _numbers(column: Any) -> np.ndarray:
    """Returns [row] float64, NaN where there is no number. Not by `to_numpy`, which loads pandas, for half a second."""
    column = column.combine_chunks()
    if not column.null_count:
        return np.from_dlpack(column)
    values = np.frombuffer(column.buffers()[1], np.float64, len(column), 8 * column.offset)
    return np.where(np.from_dlpack(column.is_null().cast("uint8")), np.nan, values)


def _is_dictionary(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_dictionary(kind)


def _categories(column: Any) -> Categories:
    column = column.combine_chunks()
    texts = [entry or "" for entry in column.dictionary.to_pylist()]
    return Categories(np.from_dlpack(column.indices), texts)


def _marks(categories: Categories) -> np.ndarray | None:
    """Returns [row] float64, None where a text is no mark."""
    values = [_mark(text) for text in categories.texts]
    return None if None in values else np.array([*values, np.nan], dtype=np.float64)[categories.codes]


def _mark(text: str) -> float | None:
    return {"true": 1.0, "t": 1.0, "false": 0.0, "f": 0.0}.get(text.strip().lower(), _number(text))


def _number(text: str) -> float | None:
    """Returns the number that a field holds, NaN where it is missing, None where it is something else."""
    text = text.strip()
    if text in MISSING:
        return np.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _words(rows: Rows, column: str | None) -> np.ndarray | None:
    """Returns [row] object, the texts of a column of names, None where there is no such column."""
    if column is None:
        return None
    found = rows.texts[column]
    return Categories(found.codes, [_word(text) for text in found.texts]).decoded()


def _word(text: str) -> str:
    """Returns a name (a label, a group) without the blanks around it, "" where the text says that it is missing."""
    text = text.strip()
    return "" if text in MISSING else text


def _whole(text: str) -> str:
    """Returns "2" for "2.0" and " 2"; any other text as it is."""
    number = _number(text)
    return str(int(number)) if number is not None and np.isfinite(number) and number == int(number) else text


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 3]}...")
