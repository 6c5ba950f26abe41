"""The files of a survey made by `jaxrnn simulate`: their schema, which the simulator writes by, and their reader.

A folder holds `survey.json` (written last: it lists the files and says which passbands there are) and, for each file
number, `objects-<number>.parquet` and `observations-<number>.parquet`. The rows of an object's observations may stand
anywhere in the observations file of the same number.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Part, Sequences, Survey, equal_parts
from jaxrnn.results import read_json

FLUX_UNIT = "uJy"
ZERO_POINT_MAGNITUDE = 23.9  # AB magnitude of 1 uJy
MADE_BY = "jaxrnn simulate --config FILE"


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit, "description": description})


OBJECTS = pa.schema(
    [
        _field("object_id", pa.string(), "", "name of the object, unique in the survey"),
        _field("class", pa.string(), "", "what the object is: the label"),
        _field("galactic_latitude", pa.float64(), "deg", "angle from the plane of the Galaxy, -90 to 90"),
        _field("host_distance", pa.float64(), "arcsec", "separation from the nearest catalogued galaxy"),
    ]
)
OBSERVATIONS = pa.schema(
    [
        _field("object_id", pa.string(), "", "the object observed, a row of the objects file"),
        _field("mjd", pa.float64(), "days", "Modified Julian Date"),
        _field("passband", pa.string(), "", "filter of the observation"),
        _field("flux", pa.float32(), FLUX_UNIT, "flux on the image minus that on the template; negative where fainter"),
        _field("flux_error", pa.float32(), FLUX_UNIT, "standard deviation of flux"),
        _field("detected", pa.bool_(), "", "whether flux differs from 0 by 5 flux_error; forced photometry where not"),
    ]
)
METADATA = tuple(Column(name, OBJECTS.field(name).metadata[b"unit"].decode()) for name in OBJECTS.names[2:])
COLUMNS = tuple(Column(name, OBSERVATIONS.field(name).metadata[b"unit"].decode()) for name in OBSERVATIONS.names[3:])


class SimulatedReader:
    """Reads a simulated survey; a part is one file, or a piece of it where it holds more objects than a part may."""

    def __init__(self, path: Path) -> None:
        self._description = path / "survey.json"
        values = read_json(self._description, MADE_BY)
        try:
            self._passbands = tuple(str(name) for name in values["passbands"])
            self._files = [
                ((path / entry["objects"], path / entry["observations"]), int(entry["count"]))
                for entry in values["files"]
            ]
        except (KeyError, TypeError, ValueError) as error:
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
        return Survey(columns=COLUMNS, metadata=METADATA, passbands=self._passbands, error_columns=("flux_error",))

    def files(self) -> list[Path]:
        return [self._description, *(file for files, _ in self._files for file in files)]

    def parts(self, sequences_per_part: int) -> list[Part]:
        return [
            part
            for files, count in self._files
            for part in equal_parts(files, count, sequences_per_part, files[0].stem)
        ]

    def read(self, part: Part) -> Sequences:
        file, observations_file = part.files
        objects, observations = _table(file, OBJECTS), _table(observations_file, OBSERVATIONS)
        expected = next(count for files, count in self._files if files == part.files)
        if objects.num_rows != expected:
            raise JaxrnnError(
                f"{file}: {objects.num_rows} objects, and survey.json says {expected}; "
                f"remove the file and run `{MADE_BY}` again"
            )
        owner = _owners(objects, observations, file, observations_file)
        # stable: observations keep their order within an object, however the file mixes objects
        rows = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[rows], np.arange(part.start, part.stop + 1))
        rows = rows[bounds[0] : bounds[-1]]
        return Sequences(
            ids=_text(objects["object_id"])[part.start : part.stop].astype(str),
            labels=_text(objects["class"])[part.start : part.stop].astype(str),
            offsets=(bounds - bounds[0]).astype(np.int64),
            time=_numbers(observations["mjd"])[rows],
            values=np.stack([_numbers(observations[column.name]) for column in COLUMNS], axis=1)[rows],
            passband=_places(observations["passband"], self._passbands)[rows],
            metadata=np.stack([_numbers(objects[column.name]) for column in METADATA], axis=1)[part.start : part.stop],
            row_numbers=rows,
            file=str(observations_file),
        )


def _table(file: Path, schema: pa.Schema) -> pa.Table:
    """Returns the columns of `schema` from a Parquet file, each cast to its type; other columns are left alone."""
    again = f"remove it and run `{MADE_BY}` again"
    try:
        found = pq.read_schema(file).names
        absent = [name for name in schema.names if name not in found]
        if absent:
            raise JaxrnnError(f"{file}: no column {listed(absent)}; it has {listed(found, 20)}; {again}")
        table = pq.read_table(file, columns=schema.names)
    except (pa.ArrowException, OSError) as error:
        raise JaxrnnError(f"{file}: not a readable Parquet file ({_first_line(error)}); {again}")
    columns: dict[str, Any] = {}
    for wanted in schema:
        try:
            columns[wanted.name] = table[wanted.name].cast(wanted.type)
        except pa.ArrowException as error:
            raise JaxrnnError(
                f"{file}: column {wanted.name} holds {table[wanted.name].type} values that are no {wanted.type} "
                f"({_first_line(error)}); {again}"
            )
    return pa.table(columns)


def _owners(objects: pa.Table, observations: pa.Table, file: Path, observations_file: Path) -> np.ndarray:
    """Returns the row of `objects` that each observation belongs to: [observation] int64."""
    ids = _text(objects["object_id"]).tolist()
    if len(set(ids)) < len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise JaxrnnError(f"{file}: object {twice} has more than one row; expected one row an object")
    owner = _places(observations["object_id"], ids)
    if (owner < 0).any():
        row = int(np.argmax(owner < 0))
        raise JaxrnnError(
            f"{observations_file}: row {row} is of object {observations['object_id'][row]}, which {file.name} does not "
            f"have; the two files do not belong together; remove both and run `{MADE_BY}` again"
        )
    return owner


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    """Returns where in `names` each value of a column stands, -1 where nowhere: int64."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in column.to_pylist()], dtype=np.int64)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column as float64, NaN where a value is missing."""
    return column.cast(pa.float64()).fill_null(float("nan")).to_numpy()


def _text(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column as an array of str objects, "" where a value is missing."""
    return column.fill_null("").to_numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
