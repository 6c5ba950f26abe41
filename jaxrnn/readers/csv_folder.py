"""Folders of CSV files, one an object: what a survey's archive or a lab's logger writes."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey
from jaxrnn.readers.folders import Entry, bytes_of, files_below, number, read_at_most, read_entries, stem
from jaxrnn.readers.table import ValueColumn

# Of one file, uncompressed: a small gzip file may hold more than any memory.
MOST_BYTES = 1 << 28
ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".dat", ".dat.gz")

Text = Annotated[str, Field(min_length=1)]


class CsvFolderOptions(Options):
    time: Text = Field(default="time", description="The column of times, in `time_unit`.")
    time_unit: Text = Field(default="days", description="Unit of time.")
    values: dict[Text, str | ValueColumn] = Field(
        min_length=1,
        description='Quantities measured at each observation: name -> unit ("" for a pure number), or `{column: ..., '
        "unit: ...}` where the files' column is named otherwise. A cell that is empty, `NA`, `null` or `None` is NaN.",
    )
    errors: tuple[Text, ...] = Field(
        default=(), description="Which values are errors, and so positive: `flux_error` is the error of `flux`."
    )
    flags: tuple[Text, ...] = Field(default=(), description="Which values are whole numbers or 0/1 marks, for cuts.")
    passband: Text | None = Field(default=None, description="The column of passbands, by name.")
    passbands: tuple[Text, ...] = Field(
        default=(), validate_default=True, description="Names of the passbands, needed with `passband`."
    )
    step_labels: Text | None = Field(default=None, description="The column with a label for each row.")
    separator: Annotated[str, Field(min_length=1, max_length=1)] = Field(
        default=",",
        description='What stands between cells: `,`, `;`, a tab `"\\t"`, or a space, which stands for any '
        "number of spaces.",
    )
    files: Text = Field(
        default="*.csv*",
        description="Which files are objects: a pattern of names, `lc_*.dat`. Only names that end in .csv, .tsv, .txt "
        "or .dat count, or in these with .gz.",
    )
    labels: Literal["folder", "name", "table", "none"] = Field(
        default="folder",
        description="Where labels come from: the sub-`folder` that the file lies in, its `name` by `pattern`, the "
        "`table`, or `none`.",
    )
    pattern: Text | None = Field(
        default=None,
        validate_default=True,
        description="Regular expression that the file's whole name without ending must match. Its groups `label` (for "
        "`labels: name`), `group`, `id` and `split` say what they are called.",
    )
    splits: Literal["folder", "table"] | None = Field(
        default=None,
        description="`folder`: the first sub-folder is `train`, `validation` or `test`. `table`: the column `split` of "
        "the table.",
    )
    table: Text | None = Field(
        default=None,
        validate_default=True,
        description="A CSV file with a row an object, from the folder of the survey, where labels, metadata or groups "
        "stand in one.",
    )
    id_column: Text = Field(default="id", description="Column of the table with the objects' ids.")
    label_column: Text = Field(default="label", description="Column of the table with labels, for `labels: table`.")
    group_column: Text | None = Field(
        default=None, description="Column of the table that says which objects belong together."
    )
    metadata: dict[Text, str | ValueColumn] = Field(
        default={},
        description="Numbers known once for each object, columns of the table: name -> unit, or `{column: ..., unit: "
        "...}`.",
    )

    @field_validator("passbands")
    @classmethod
    def _go_with_passband(cls, passbands: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "passband" in info.data and bool(passbands) != bool(info.data["passband"]):
            raise ValueError("`passband` and `passbands` need each other")
        return passbands

    @field_validator("pattern")
    @classmethod
    def _has_a_label(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        try:
            groups = re.compile(pattern or "").groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if info.data.get("labels") == "name" and "label" not in groups:
            raise ValueError("expected a group `(?P<label>...)`, because `labels: name` takes the label from it")
        return pattern

    @field_validator("table")
    @classmethod
    def _is_named(cls, table: str | None, info: ValidationInfo) -> str | None:
        if table is None and "table" in (info.data.get("labels"), info.data.get("splits")):
            raise ValueError("expected the name of a CSV file, because labels or splits come from it")
        return table

    @field_validator("group_column", "metadata")
    @classmethod
    def _have_a_table(cls, value: Any, info: ValidationInfo) -> Any:
        if value and "table" in info.data and info.data["table"] is None:
            raise ValueError("names a column of `table`, and there is no `table`")
        return value


class CsvFolderReader(SequenceReader):
    """Folders of CSV files with a heading, gzipped or not, an object a file, in sub-folders or not.

    Ids are paths from the folder without ending (`rrlyrae/star_17`) unless `pattern` has a group `id`; the table may
    name an object by that or by the file's name alone (`star_17`). Columns, units, passbands, metadata, groups and
    splits are what the options name. Hidden files do not count. A file may end without an end of line, so one that was
    cut within its last number looks whole.
    """

    Options = CsvFolderOptions
    TO_PREDICT: ClassVar[dict[str, Any]] = {"labels": "none", "step_labels": None, "splits": None, "group_column": None}
    EXAMPLE = """data:
  reader: csv_folder
  path: variables # variables/rrlyrae/star_17.csv: hjd,mag,mag_err
  options:
    time: hjd
    values: {mag: mag, mag_error: {column: mag_err, unit: mag}}
    errors: [mag_error]
    labels: folder
  features: [time_difference, mag, mag_error]
"""

    def __init__(self, path: Path, options: CsvFolderOptions) -> None:
        self._path, self._options = path, options
        self._folder = path if path.is_dir() else path.parent
        table = self._folder / options.table if options.table else None
        told = options.labels == "table" or options.splits == "table" or options.group_column or options.metadata
        self._table = table if told else None  # to predict, there need be none that has labels alone
        # what is measured, and what is known once: name -> column in the file
        self._columns = {
            name: name if isinstance(value, str) else value.column for name, value in options.values.items()
        }
        self._metadata = {
            name: name if isinstance(value, str) else value.column for name, value in options.metadata.items()
        }
        for key, names in (("errors", options.errors), ("flags", options.flags)):
            for name in names:
                if name not in self._columns:
                    known = list(self._columns)
                    raise JaxrnnError(
                        f"data.options.{key}: there is no value '{name}'{nearest(name, known)} "
                        f"(the values are {listed(known)})"
                    )
        listing = files_below(path, ENDINGS)
        self._files = [file for file in listing if file != table and fnmatchcase(file.name, options.files)]
        if path.is_file():
            self._files = listing
        if not self._files:
            raise JaxrnnError(f"{path}: no file matches data.options.files, {options.files}")
        self._pattern = re.compile(options.pattern) if options.pattern else None
        self._entries  # noqa: B018  (a table that cannot be read is said at once)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        options = self._options
        if self._table is None:
            return {}
        wanted = [options.label_column] if options.labels == "table" else []
        wanted += ["split"] if options.splits == "table" else []
        wanted += [options.group_column] if options.group_column else []
        return read_entries(self._table, options.id_column, [*wanted, *self._metadata.values()])

    @cached_property
    def _gives(self) -> frozenset[str]:
        """Which of group and split the survey says."""
        options, named = self._options, self._pattern.groupindex if self._pattern else {}
        told = {"group": options.group_column or "group" in named, "split": options.splits or "split" in named}
        return frozenset(key for key, value in told.items() if value)

    def describe(self) -> Survey:
        options = self._options

        def columns(said: dict[str, str | ValueColumn]) -> tuple[Column, ...]:
            return tuple(Column(name, unit if isinstance(unit, str) else unit.unit) for name, unit in said.items())

        return Survey(
            columns=columns(options.values),
            metadata=columns(options.metadata),
            passbands=options.passbands,
            error_columns=options.errors,
            flag_columns=options.flags,
            time_unit=options.time_unit,
            gives_splits="split" in self._gives,
            gives_groups="group" in self._gives,
            gives_step_labels=options.step_labels is not None,
            labelled=options.labels != "none",
        )

    def files(self) -> list[Path]:
        return [*self._files, *([self._table] if self._table else [])]

    def parts(self, budget: int) -> list[Part]:
        table = (self._table,) if self._table else ()
        whole = [Part((file, *table), 0, 1, bytes_of(file)) for file in self._files]
        # rows of the table whose file is not there: objects without observations, which ingest accounts for
        absent = len(self._absent())
        return [*whole, *([Part(table, 0, absent, 100 * absent)] if absent else [])]

    def _absent(self) -> list[str]:
        return sorted(self._entries.keys() - {key for file in self._files for key in self._keys(file)})

    def _keys(self, file: Path) -> tuple[str, ...]:
        """Returns what the table may call the object of a file."""
        identity = self._said(file)["id"]
        return identity, identity.rpartition("/")[2]

    def _said(self, file: Path) -> dict[str, str]:
        """Returns what a file's path says of its object: id, label, group and split, as far as it does; and a fault."""
        options = self._options
        identity = stem(self._path, file, ENDINGS)
        *folders, name = identity.split("/")
        said = {"id": identity, "fault": ""}
        if self._pattern:
            match = self._pattern.fullmatch(name)
            said |= {key: text or "" for key, text in match.groupdict().items()} if match else {}
            if not match:
                said["fault"] = f"the name {file.name} does not match `pattern` {self._pattern.pattern}"
        if options.splits == "folder":
            said["split"], folders = (folders[0], folders[1:]) if folders else ("", [])
        if options.labels != "name":
            said["label"] = folders[-1] if folders and options.labels == "folder" else ""
        return said

    def read(self, part: Part) -> Sequences:
        if self._table is not None and part.files[0] == self._table:
            fault = f"in {self._table.name}, and there is no such file"
            absent = self._absent()
            objects = [({"id": name, "fault": fault}, self._entries[name]) for name in absent]
            return self._sequences(part, objects, self._empty())
        (file, *_) = part.files
        entry = next((self._entries[key] for key in self._keys(file) if key in self._entries), None)
        return self._sequences(part, [(self._said(file), entry)], self._rows(file))

    def _empty(self) -> dict[str, np.ndarray]:
        words = np.zeros(0, dtype=object)
        return {
            "time": np.zeros(0),
            "values": np.zeros((0, len(self._columns))),
            "passband": np.zeros(0, dtype=np.int64),
            "row_numbers": np.zeros(0, dtype=np.int64),
            "row_faults": words,
            "step_labels": words.astype(str),
        }

    def _sequences(
        self, part: Part, objects: Sequence[tuple[dict[str, str], Entry | None]], rows: dict[str, np.ndarray]
    ) -> Sequences:
        options = self._options
        metadata = np.full((len(objects), len(self._metadata)), np.nan)
        for place, (said, entry) in enumerate(objects):
            if entry is None:
                continue
            said["fault"] = said["fault"] or entry.fault
            if options.labels == "table":
                said["label"] = entry.cells[options.label_column]
            if options.splits == "table":
                said["split"] = entry.cells["split"]
            if options.group_column:
                said["group"] = entry.cells[options.group_column]
            for column, name in enumerate(self._metadata.values()):
                try:
                    metadata[place, column] = number(entry.cells[name])
                except ValueError:
                    said["fault"] = said["fault"] or f"its {name} is '{entry.cells[name][:40]}'; expected a number"
        for said, _ in objects:
            if "split" in self._gives and said.get("split") not in SPLITS:
                fault = f"its split is '{said.get('split', '')[:40]}'; expected one of {', '.join(SPLITS)}"
                said |= {"split": SPLITS[0], "fault": said["fault"] or fault}

        def of_each(key: str) -> np.ndarray:
            return np.array([said.get(key, "") for said, _ in objects], dtype=str)

        rows = dict(rows)
        step_labels = rows.pop("step_labels")
        return Sequences(
            ids=of_each("id"),
            labels=of_each("label"),
            offsets=np.array([0] * len(objects) + [len(rows["time"])], dtype=np.int64),
            metadata=metadata,
            files=(str(part.files[0]),),
            splits=of_each("split") if "split" in self._gives else None,
            groups=of_each("group") if "group" in self._gives else None,
            object_faults=np.array([said["fault"] for said, _ in objects], dtype=object),
            step_labels=step_labels if options.step_labels else None,
            **rows,
        )

    def _rows(self, file: Path) -> dict[str, np.ndarray]:
        """Returns the file's rows; those that cannot be read stand among them with their `row_faults`."""
        options = self._options
        heading, cells, numbers, wrong = _cells(file, options.separator)
        numeric = [options.time, *self._columns.values()]
        words = [name for name in (options.passband, options.step_labels) if name is not None]
        for name in [*numeric, *words]:
            if name not in heading:
                raise JaxrnnError(f"{file}: no column '{name}'{nearest(name, heading)} (it has {listed(heading, 20)})")
            if heading.count(name) > 1:
                raise JaxrnnError(f"{file}: the column '{name}' stands twice in its heading; rename one")
        count = len(wrong)
        faults = np.array(wrong, dtype=object)
        values = np.full((count, len(numeric)), np.nan)
        for column, name in enumerate(numeric):
            values[:, column] = _numbers(cells[heading.index(name)], name, faults)

        def text(name: str | None) -> np.ndarray:
            if name is None:
                return np.full(count, "", dtype="U1")
            return np.array([cell.strip() for cell in cells[heading.index(name)]], dtype=str)

        place = {name: index for index, name in enumerate(options.passbands)}
        return {
            "time": values[:, 0],
            "values": values[:, 1:],
            "passband": np.array(
                [place.get(name, -1 if place else 0) for name in text(options.passband)], dtype=np.int64
            ),
            "row_numbers": np.array(numbers, dtype=np.int64),
            "row_faults": faults,
            "step_labels": text(options.step_labels),
        }


def _cells(file: Path, separator: str) -> tuple[list[str], list[Sequence[str]], list[int], list[str]]:
    """Returns the heading and the cells [column][row] of a CSV file; for each row its number from 0 after the heading,
    and why it cannot be read, or "". A row of the wrong length keeps its place with empty cells; empty lines do not."""
    expected = f"expected CSV with a heading, separated by {separator!r}"
    try:
        with file.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            content = read_at_most(gzip.GzipFile(fileobj=raw) if zipped else raw, MOST_BYTES + 1)
        if file.name.lower().endswith(".gz") and not zipped:
            raise JaxrnnError(f"{file}: not compressed by gzip, as its name says; {expected}")
        if len(content) > MOST_BYTES:
            raise JaxrnnError(
                f"{file}: more than {MOST_BYTES:,} bytes of text; expected the rows of one object, which are read at "
                "once. The reader `table` reads tables of any size"
            )
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise JaxrnnError(f"{file}: cannot be read ({error.strerror or error}); {expected}") from None
    except (EOFError, zlib.error) as error:
        raise JaxrnnError(f"{file}: cut or damaged ({error}); copy it again") from None
    except UnicodeDecodeError as error:
        raise JaxrnnError(f"{file}: byte {error.start} is no text in UTF-8; {expected}") from None
    if "\0" in text:
        raise JaxrnnError(f"{file}: holds bytes that are no text; {expected}")
    lines = io.StringIO(text, newline="")
    try:
        rows = [line.split() for line in lines] if separator == " " else list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise JaxrnnError(f"{file}: not a CSV file ({error}); {expected}") from None
    if not rows or not any(rows[0]):
        raise JaxrnnError(f"{file}: {'no heading in its first line' if rows else 'empty'}; {expected}")
    heading = [name.strip() for name in rows[0]]
    numbers = [number for number, row in enumerate(rows[1:]) if row]
    body = [rows[number + 1] for number in numbers]
    blank = [""] * len(heading)
    wrong = [
        "" if len(row) == len(heading) else f"has {len(row)} fields; expected {len(heading)}, as the heading has"
        for row in body
    ]
    whole = [blank if fault else row for row, fault in zip(body, wrong, strict=True)]
    return heading, list(zip(*whole, strict=True)) if whole else [[] for _ in heading], numbers, wrong


def _numbers(cells: Sequence[str], name: str, faults: np.ndarray) -> np.ndarray:
    """Returns a column as float64, NaN where a cell is missing; text for a number becomes the row's fault."""
    try:
        if not any("_" in cell for cell in cells):
            return np.array(cells, dtype=np.float64)
    except ValueError:
        pass  # cell by cell, then
    numbers = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        try:
            numbers[row] = number(cell.strip())
        except ValueError:
            faults[row] = faults[row] or f"its {name} is '{cell.strip()[:40]}'; expected a number"
    return numbers
