"""Two readers of a user's own, which docs/readers.md shows: each knows a format of plain text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Column, Objects, Observations, Options, Part, RowReader, SequenceReader, Sequences, Survey


class StarOptions(Options):
    unit: str = Field(default="mag", description="Unit of brightness.")


class StarFilesReader(SequenceReader):
    """Reads a folder of `<star>.lc` files: the class in the first line, then time (days), brightness and its error."""

    Options = StarOptions
    EXAMPLE = """data:
  reader: own_reader:StarFilesReader
  path: my_survey
  options: {unit: mag}
  features: [time_difference, brightness, brightness_error]
"""

    def __init__(self, path: Path, options: StarOptions) -> None:
        self._unit = options.unit
        self._files = sorted(file for file in path.glob("*.lc"))
        if not self._files:
            raise JaxrnnError(f"{path}: no file ends in .lc; expected one for each star")

    def describe(self) -> Survey:
        columns = Column("brightness", self._unit), Column("brightness_error", self._unit)
        return Survey(columns=columns, error_columns=("brightness_error",))

    def files(self) -> list[Path]:
        return self._files

    def parts(self, budget: int) -> list[Part]:
        return [Part((file,), 0, 1, bytes=file.stat().st_size) for file in self._files]

    def read(self, part: Part) -> Sequences:
        (file,) = part.files
        try:
            label, *lines = file.read_text(encoding="utf-8").splitlines()
            table = np.array([line.split() for line in lines], dtype=np.float64).reshape(len(lines), 3)
        except (OSError, ValueError) as error:
            raise JaxrnnError(
                f"{file}: {error}; expected a class, then lines with time, brightness and error"
            ) from None
        return Sequences(
            ids=np.array([file.stem]),
            labels=np.array([label]),
            offsets=np.array([0, len(table)]),
            time=table[:, 0],
            values=table[:, 1:],
            passband=np.zeros(len(table), dtype=np.int64),
            metadata=np.zeros((1, 0)),
            row_numbers=np.arange(len(table)),
            files=(str(file),),
        )


class NightLogReader(RowReader):
    """Reads a log of observations in any order: star, class, time (days), brightness and its error in each line."""

    EXAMPLE = """data:
  reader: own_reader:NightLogReader
  path: my_survey/log.txt
  features: [time_difference, brightness, brightness_error]
"""

    def __init__(self, path: Path, options: Options) -> None:
        self._file = path

    def describe(self) -> Survey:
        columns = Column("brightness", "mag"), Column("brightness_error", "mag")
        return Survey(columns=columns, error_columns=("brightness_error",))

    def files(self) -> list[Path]:
        return [self._file]

    def object_parts(self, budget: int) -> list[Part]:
        return []  # no table of objects: each line says its star's class

    def read_objects(self, part: Part) -> Iterator[Objects]:
        yield from ()

    def observation_parts(self, budget: int) -> list[Part]:
        size = self._file.stat().st_size
        starts = range(0, size, max(1, budget))
        return [
            Part((self._file,), start, min(start + budget, size), bytes=min(budget, size - start)) for start in starts
        ]

    def read_observations(self, part: Part) -> Iterator[Observations]:
        places, rows, faults = [], [], []
        with self._file.open("rb") as log:
            log.seek(max(part.start - 1, 0))
            if part.start:
                log.readline()  # a line belongs to the part in which it begins
            while (place := log.tell()) < part.stop and (line := log.readline()):
                cells = line.split()
                star, label = [*cells, b"", b""][:2]
                try:
                    row, fault = np.array(cells[2:], dtype=np.float64).reshape(3), ""
                except ValueError:
                    row, fault = np.full(3, np.nan), "expected star, class, time, brightness and error"
                places.append(place)
                rows.append((star, label.decode(errors="replace"), row))
                faults.append(fault)
        table = np.array([row for _, _, row in rows]).reshape(len(rows), 3)
        yield Observations(
            object_ids=np.array([star for star, _, _ in rows], dtype="S"),
            labels=np.array([label for _, label, _ in rows], dtype=str),
            time=table[:, 0],
            values=table[:, 1:],
            passband=np.zeros(len(rows), dtype=np.int64),
            row_numbers=np.array(places, dtype=np.int64),
            file=str(self._file),
            faults=np.array(faults, dtype=object),
        )
