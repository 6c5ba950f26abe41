"""Long tables, one row an observation, in CSV or Parquet; the options say which column is what."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from jaxrnn import readers
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import Column, Survey
from jaxrnn.readers.folders import files_below
from jaxrnn.readers.rows import (
    TABLE_ENDINGS,
    ColumnMap,
    Table,
    TablesReader,
    first_readable,
    numbering,
    open_table,
    open_tables,
)

Name = Annotated[str, Field(min_length=1)]


class ValueColumn(readers.Options):
    """A quantity whose column in the file has another name."""

    column: Name = Field(description="The column's name in the file.")
    unit: str = Field(default="", description='Its unit, "" for a pure number.')


class Metadata(readers.Options):
    """The table with one row an object."""

    file: Name = Field(
        description="The table's file (CSV, gzipped or not, or Parquet), from the folder of `data.path`."
    )
    object: Name | None = Field(
        default=None, description="Its column with the object's id; left out where it is `object`."
    )
    columns: dict[Name, str | ValueColumn] = Field(
        default={}, description="Numbers known once for each object: name -> unit, or `{column: ..., unit: ...}`."
    )


class TableReader(TablesReader):
    """Long tables, one row an observation: CSV, gzipped CSV or Parquet, with an optional table of objects.

    A CSV file that was cut in the middle of a row is found by the fields that the row lacks; one cut within its last
    number looks whole, because a last line without a line end is allowed.
    """

    EXAMPLE = """\
data:
  reader: table
  path: survey
  options:
    object: star
    time: mjd
    values: {flux: uJy, flux_error: {column: flux_err, unit: uJy}, quality: ""}
    errors: [flux_error]
    flags: [quality]
    passband: filter
    passbands: [g, r]
    label: class
    metadata: {file: stars.csv, columns: {parallax: mas}}
  features: [time_difference, passband, flux, flux_error]
"""

    TO_PREDICT: ClassVar[dict[str, Any]] = {"label": None, "group": None, "split": None, "step_label": None}

    class Options(readers.Options):
        object: Name = Field(
            description="Column with the object's id; its rows may stand anywhere. Ids are text and stay as they are "
            "written: `7`, `007` and `7.0` are three objects (pandas writes whole numbers as `7.0` where a column has "
            "gaps: write them as text)."
        )
        time: Name = Field(description="Column with the time, a number.")
        time_unit: Name = Field(default="days", description="Unit of the time.")
        values: dict[Name, str | ValueColumn] = Field(
            min_length=1,
            description='Quantities measured at each observation: name -> unit ("" for a pure number), or '
            "`{column: ..., unit: ...}` where the file's column is named otherwise.",
        )
        errors: tuple[Name, ...] = Field(
            default=(), description="Which values are errors, in their unit: `flux_error` is the error of `flux`."
        )
        flags: tuple[Name, ...] = Field(
            default=(), description="Which values are whole numbers or true/false: quality flags, detections."
        )
        passband: Name | None = Field(default=None, description="Column with the passband, text or number.")
        passbands: tuple[Name, ...] | dict[Name, str | int] = Field(
            default=(),
            description="The passbands' names in the file; or name -> text or number in the file, `{g: 1, r: 2}`.",
        )
        label: Name | None = Field(
            default=None,
            description="Column with the object's class, in `metadata` or else in the observations; left out where "
            "there is none. Here and in the columns below, blanks around a text do not count, and an empty field, NA, "
            "N/A, nan, null or None says that it is missing.",
        )
        group: Name | None = Field(
            default=None,
            description="Column that is the same for objects that belong together (one star, one subject), in "
            "`metadata` or else in the observations.",
        )
        split: Name | None = Field(
            default=None, description="Column of `metadata` that says train, validation or test; for `split: given`."
        )
        step_label: Name | None = Field(default=None, description="Column with the label of each observation.")
        metadata: Metadata | None = Field(default=None, description="A table with one row an object.")
        files: str = Field(
            default="*", description="Which files of a folder hold observations, as a pattern of names: `lc_*.csv`."
        )
        separator: Annotated[str, Field(min_length=1, max_length=1)] = Field(
            default=",", description='What stands between the fields of a CSV row: `";"`, `"\\t"`.'
        )

        @field_validator("separator")
        @classmethod
        def _plain_separator(cls, separator: str) -> str:
            if not separator.isascii() or separator in '"\r\n\0':
                raise ValueError("expected one plain character such as , or ;")
            return separator

    def __init__(self, path: Path, options: Options) -> None:
        folder = path if path.is_dir() else path.parent
        known = options.metadata
        objects = [] if known is None else [open_table(folder / known.file, options.separator)]
        files = [
            file
            for file in files_below(path, TABLE_ENDINGS)
            if file == path or (fnmatch(file.name, options.files) and all(file != table.file for table in objects))
        ]
        if not files:
            raise JaxrnnError(
                f"{path}: no table of observations whose name fits {options.files}; see data.options.files"
            )
        observations = open_tables(files, options.separator)
        names = list(options.values)
        for key, chosen in (("errors", options.errors), ("flags", options.flags)):
            absent = [name for name in chosen if name not in names]
            if absent:
                raise JaxrnnError(
                    f"data.options.{key}: {listed(absent)} is none of `values`{nearest(absent[0], names)}; it has "
                    f"{listed(names)}"
                )
        odd = [
            name for name in options.errors if name.removesuffix("_error") not in names or not name.endswith("_error")
        ]
        if odd:
            raise JaxrnnError(
                f"data.options.errors: {listed(odd)} is the error of no value; expected a name such as "
                f"{names[0]}_error: `{names[0]}_error: {{column: {odd[0]}}}` under `values`"
            )
        if bool(options.passband) != bool(options.passbands):
            raise JaxrnnError(
                "data.options: `passband` (the column) and `passbands` (the names) go together; found only one of them"
            )
        passbands = options.passbands if isinstance(options.passbands, dict) else {b: b for b in options.passbands}
        if options.split and known is None:
            raise JaxrnnError("data.options.split: needs `metadata`, a table with one row an object")
        in_objects = {
            key: bool(objects)
            and column is not None
            and self._stands_in(column, key, objects[0], first_readable(observations))
            for key, column in (("label", options.label), ("group", options.group))
        }
        metadata = {} if known is None else known.columns
        columns = ColumnMap(
            object=options.object,
            time=options.time,
            values=tuple(_column(name, options.values) for name in names),
            marks=tuple(_column(name, options.values) for name in options.flags),
            passband=options.passband,
            passband_number=numbering([str(text) for text in passbands.values()]),
            label=None if in_objects["label"] else options.label,
            group=None if in_objects["group"] else options.group,
            step_label=options.step_label,
            object_id=options.object if known is None or known.object is None else known.object,
            object_label=options.label if in_objects["label"] else None,
            object_group=options.group if in_objects["group"] else None,
            object_split=options.split,
            metadata=tuple(_column(name, metadata) for name in metadata),
        )
        survey = Survey(
            columns=tuple(Column(name, _unit(options.values[name])) for name in names),
            metadata=tuple(Column(name, _unit(entry)) for name, entry in metadata.items()),
            passbands=tuple(passbands),
            error_columns=options.errors,
            flag_columns=options.flags,
            time_unit=options.time_unit,
            gives_splits=options.split is not None,
            gives_groups=options.group is not None,
            gives_step_labels=options.step_label is not None,
            labelled=options.label is not None,
        )
        self._use(survey, columns, observations, objects)

    @staticmethod
    def _stands_in(column: str, key: str, objects: Table, observations: Table) -> bool:
        """Returns whether a column is one of the table of objects; raises JaxrnnError where it is in neither table."""
        if column not in objects.columns and column not in observations.columns:
            known = [*objects.columns, *observations.columns]
            raise JaxrnnError(
                f"data.options.{key}: no column {column} in {objects.file} or {observations.file}"
                f"{nearest(column, known)}; they have {listed(known, 20)}"
            )
        return column in objects.columns


def _column(name: str, columns: dict[str, str | ValueColumn]) -> str:
    entry = columns[name]
    return entry.column if isinstance(entry, ValueColumn) else name


def _unit(entry: str | ValueColumn) -> str:
    return entry.unit if isinstance(entry, ValueColumn) else entry
