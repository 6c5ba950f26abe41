"""The files of a survey made by `jaxrnn simulate`: their schema, which the simulator writes by, and their reader.

A folder holds `survey.json` (written last: it lists the files and says which passbands there are) and, for each file
number, `objects-<number>.parquet` and `observations-<number>.parquet`. The rows of an object's observations may stand
anywhere in the observations file of the same number.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Options, Part, SequenceReader, Sequences, Survey, cut
from jaxrnn.results import read_json

if TYPE_CHECKING:
    import pyarrow as pa

FLUX_UNIT = "uJy"
ZERO_POINT_MAGNITUDE = 23.9  # AB magnitude of 1 uJy
MADE_BY = "jaxrnn simulate --config FILE"


# Parquet with zstd holds a simulated observation in about this share of the bytes that it has in memory.
COMPRESSED = 0.4


class Field(NamedTuple):
    """A column of a file: `kind` is the name of an Arrow type."""

    name: str
    kind: str
    unit: str
    description: str


OBJECT_FIELDS = (
    Field("object_id", "string", "", "name of the object, unique in the survey"),
    Field("class", "string", "", "what the object is: the label"),
    Field("galactic_latitude", "double", "deg", "angle from the plane of the Galaxy, -90 to 90"),
    Field("host_distance", "double", "arcsec", "separation from the nearest catalogued galaxy"),
)
OBSERVATION_FIELDS = (
    Field("object_id", "string", "", "the object observed, a row of the objects file"),
    Field("mjd", "double", "days", "Modified Julian Date"),
    Field("passband", "string", "", "filter of the observation"),
    Field("flux", "float", FLUX_UNIT, "flux on the image minus that on the template; negative where fainter"),
    Field("flux_error", "float", FLUX_UNIT, "standard deviation of flux"),
    Field("detected", "bool", "", "whether flux differs from 0 by 5 flux_error; forced photometry where not"),
)
METADATA = tuple(Column(field.name, field.unit) for field in OBJECT_FIELDS[2:])
COLUMNS = tuple(Column(field.name, field.unit) for field in OBSERVATION_FIELDS[3:])


@cache
def _schema(fields: tuple[Field, ...]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        pa.field(name, pa.type_for_alias(kind), nullable=False, metadata={"unit": unit, "description": description})
        for name, kind, unit, description in fields
    )


def __getattr__(name: str) -> "pa.Schema":
    """The Arrow schemas OBJECTS and OBSERVATIONS, made when asked for: who looks at Options alone loads no Arrow."""
    if name in ("OBJECTS", "OBSERVATIONS"):
        return _schema(OBJECT_FIELDS if name == "OBJECTS" else OBSERVATION_FIELDS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class SimulatedReader(SequenceReader):
    """Surveys made by `jaxrnn simulate`; a part is one file, or a piece of its objects where it is larger than a part.

    A file's table of objects is read whole, its observations batch by batch: those of the part's objects stay.
    """

    EXAMPLE = """\
data:
  reader: simulated
  simulation: {}
  features: [time_difference, passband, flux, flux_error, detected]
  metadata: [galactic_latitude, host_distance]
"""

    def __init__(self, path: Path, options: Options) -> None:
        self._description = path / "survey.json"
        values = read_json(self._description, MADE_BY)
        try:
            self._passbands = tuple(str(name) for name in values["passbands"])
            self._files = [
                ((path / entry["objects"], path / entry["observations"]), int(entry["count"]))
                for entry in values["files"]
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise JaxrnnError(
                f"{self._description}: not the description of a simulated survey ({type(error).__name__}: {error}); "
                f"expected `passbands` and `files`; remove it and run `{MADE_BY}` again"
            )
        missing = [file.name for file in self.files() if not file.is_file()]
        if missing:
            raise JaxrnnError(
                f"{path}: {listed(missing)} missing, though survey.json lists it; run `{MADE_BY}` again, "
                f"it makes the missing files alone"
            )

    def describe(self) -> Survey:
        return Survey(
            columns=COLUMNS,
            metadata=METADATA,
            passbands=self._passbands,
            error_columns=("flux_error",),
            flag_columns=("detected",),
        )

    def files(self) -> list[Path]:
        return [self._description, *(file for files, _ in self._files for file in files)]

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop count objects of one pair of files."""
        parts = []
        for files, count in self._files:
            # no object takes less than a byte: without this, parts would be made of objects that can't be there
            most = files[0].stat().st_size
            if not 0 < count <= most:
                raise JaxrnnError(
                    f"{self._description}: says that {files[0].name} holds {count:g} objects; expected from 1 to its "
                    f"{most} bytes; remove it and run `{MADE_BY}` again"
                )
            size = sum(file.stat().st_size for file in files) / COMPRESSED
            parts += cut(files, count, size / max(count, 1), budget)
        return parts

    def read(self, part: Part) -> Sequences:
        file, observations_file = part.files
        objects = self._objects(file, next(count for files, count in self._files if files == part.files))
        names = objects["object_id"].tolist()
        owners, rows, passbands, numbers, read = [], [], [], [], 0
        for table in _tables(observations_file, OBSERVATION_FIELDS):
            owner = _places(table["object_id"], names)
            if (owner < 0).any():
                row = int(np.argmax(owner < 0))
                raise JaxrnnError(
                    f"{observations_file}: row {read + row} is of object {table['object_id'][row]}, which {file.name} "
                    f"does not have; the two files do not belong together; remove both and run `{MADE_BY}` again"
                )
            kept = np.flatnonzero((owner >= part.start) & (owner < part.stop))
            owners.append(owner[kept])
            rows.append(read + kept)
            passbands.append(_places(table["passband"], self._passbands)[kept])
            numbers.append(np.stack([_numbers(table[c]) for c in ("mjd", *(c.name for c in COLUMNS))], axis=1)[kept])
            read += table.num_rows
        owner = np.concatenate(owners)
        # stable: observations keep their order within an object, however the file mixes objects
        order = np.argsort(owner, kind="stable")
        values = np.concatenate(numbers)[order]
        chosen = slice(part.start, part.stop)
        return Sequences(
            ids=objects["object_id"][chosen].astype(str),
            labels=objects["class"][chosen].astype(str),
            offsets=np.searchsorted(owner[order], np.arange(part.start, part.stop + 1)).astype(np.int64),
            time=values[:, 0],
            values=values[:, 1:],
            passband=np.concatenate(passbands)[order],
            metadata=np.stack([objects[column.name] for column in METADATA], axis=1)[chosen],
            row_numbers=np.concatenate(rows)[order],
            files=(str(observations_file),),
        )

    def _objects(self, file: Path, count: int) -> dict[str, np.ndarray]:
        """Returns the columns of a table of objects, which must have `count` different ones."""
        tables = list(_tables(file, OBJECT_FIELDS))
        objects = {
            field.name: np.concatenate([(_text if field.kind == "string" else _numbers)(t[field.name]) for t in tables])
            for field in OBJECT_FIELDS
        }
        found = Counter(objects["object_id"].tolist())
        if found.total() != count:
            raise JaxrnnError(
                f"{file}: {found.total()} objects, and survey.json says {count}; "
                f"remove the file and run `{MADE_BY}` again"
            )
        if len(found) < count:
            twice = found.most_common(1)[0][0]
            raise JaxrnnError(f"{file}: object {twice} has more than one row; expected one row an object")
        return objects


def _tables(file: Path, fields: tuple[Field, ...]) -> "Iterator[pa.Table]":
    """Yields the columns of a Parquet file, each cast to its type, batch by batch; other columns are left alone.

    An empty table comes first, so that a file without rows has its columns too.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = f"remove it and run `{MADE_BY}` again"
    wanted = _schema(fields)

    def cast(table: pa.Table) -> pa.Table:
        columns: dict[str, Any] = {}
        for field in wanted:
            try:
                columns[field.name] = table[field.name].cast(field.type)
            except pa.ArrowException as error:
                raise JaxrnnError(
                    f"{file}: column {field.name} holds {table[field.name].type} values that are no {field.type} "
                    f"({_first_line(error)}); {again}"
                )
        return pa.table(columns)

    yield wanted.empty_table()
    try:
        with pq.ParquetFile(file) as opened:
            found = opened.schema_arrow.names
            absent = [name for name in wanted.names if name not in found]
            if absent:
                raise JaxrnnError(f"{file}: no column {listed(absent)}; it has {listed(found, 20)}; {again}")
            for batch in opened.iter_batches(columns=wanted.names):
                batch.validate(full=True)  # text that is no UTF-8
                yield cast(pa.table(batch))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise JaxrnnError(f"{file}: not a readable Parquet file ({_first_line(error)}); {again}")


def _places(column: Any, names: Sequence[str]) -> np.ndarray:
    """Returns where in `names` each value of a column stands, -1 where nowhere: int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, pa.array(names, pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _numbers(column: Any) -> np.ndarray:
    """Returns a column as float64, NaN where a value is missing."""
    return column.cast("double").fill_null(float("nan")).to_numpy()


def _text(column: Any) -> np.ndarray:
    """Returns a column as an array of str objects, "" where a value is missing."""
    return column.fill_null("").to_numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
