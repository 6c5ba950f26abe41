"""Tables of predictions as Parquet, CSV or HDF5: written piece by piece, so that they need the memory of one, and whole
or not at all.

A piece is a table of pandas. Its columns are text, whole numbers and floats, the same in every piece.
docs/predictions.md describes the files.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from jaxrnn import __version__
from jaxrnn.config import PREDICTION_ENDINGS
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import written_whole

LAYOUT_VERSION = 1
CHUNK_ROWS = 4096  # of HDF5
Write = Callable[[pd.DataFrame], None]


def check(path: Path) -> None:
    """Raises JaxrnnError where the ending of `path` names none of the formats."""
    if path.suffix not in PREDICTION_ENDINGS:
        raise JaxrnnError(
            f"{path}: expected a name that ends in {', '.join(PREDICTION_ENDINGS)}, which says how it is written"
        )


@contextmanager
def writing(path: Path, about: dict[str, str]) -> Iterator[Write]:
    """Yields what writes the next piece of the table at `path`, in the format of its ending; at least one is needed.

    about: what stands in the file beside the table, where the format has a place for it.
    """
    check(path)
    about = {"layout_version": str(LAYOUT_VERSION), "jaxrnn_version": __version__, **about}
    with written_whole(path) as temporary, _WRITERS[path.suffix](temporary, about) as write:
        yield write


@contextmanager
def _parquet(path: Path, about: dict[str, str]) -> Iterator[Write]:
    opened: list[parquet.ParquetWriter] = []

    def write(piece: pd.DataFrame) -> None:
        schema = _schema(piece).with_metadata(about)
        if not opened:
            opened.append(parquet.ParquetWriter(path, schema))
        opened[0].write_table(pa.Table.from_pandas(piece, schema, preserve_index=False).replace_schema_metadata(about))

    try:
        yield write
    finally:
        for writer in opened:
            writer.close()


@contextmanager
def _csv(path: Path, about: dict[str, str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:

        def write(piece: pd.DataFrame) -> None:
            # all text is quoted: Python's writer leaves a lone carriage return, which readers take for a line's end
            begins = file.tell() == 0
            piece.to_csv(file, index=False, header=begins, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)

        yield write


@contextmanager
def _hdf5(path: Path, about: dict[str, str]) -> Iterator[Write]:
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs.update(about)

        def write(piece: pd.DataFrame) -> None:
            if "columns" not in file.attrs:
                file.attrs["columns"] = list(piece.columns)
                for place, name in enumerate(piece.columns):
                    dtype: Any = h5py.string_dtype() if _is_text(piece[name]) else piece[name].dtype
                    made = file.create_dataset(_place(place), (0,), dtype, maxshape=(None,), chunks=(CHUNK_ROWS,))
                    made.attrs["name"] = name
            for place, name in enumerate(piece.columns):
                column: Any = file[_place(place)]
                column.resize(len(column) + len(piece), axis=0)
                if len(piece):
                    column[-len(piece) :] = piece[name].to_numpy(dtype=object if _is_text(piece[name]) else None)

        yield write


def _place(number: int) -> str:
    # a class may be called anything, and "a/b" is no name in HDF5
    return f"column_{number}"


_Writer = Callable[[Path, dict[str, str]], AbstractContextManager[Write]]
_WRITERS: dict[str, _Writer] = dict(zip(PREDICTION_ENDINGS, (_parquet, _csv, _hdf5), strict=True))


def _is_text(column: Any) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def _schema(piece: pd.DataFrame) -> pa.Schema:
    # said, not guessed: a piece without rows has the types of the others
    types = [pa.string() if _is_text(piece[name]) else pa.from_numpy_dtype(piece[name].dtype) for name in piece]
    return pa.schema(list(zip(map(str, piece), types, strict=True)))


def read(path: Path) -> pd.DataFrame:
    """Returns the table at `path`, in any of the formats; CSV with its numbers as text reads them back."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pandas()
    if path.suffix == ".csv":
        text = dict.fromkeys(("id", "class", "labels"), str)
        return pd.read_csv(path, dtype=text, keep_default_na=False)  # pyright: ignore
    with h5py.File(path, "r", locking=False) as opened:  # whole, and no longer written
        file: Any = opened
        columns = {}
        for place, name in enumerate(file.attrs["columns"]):
            values = file[_place(place)]
            columns[str(name)] = values.asstr()[()] if h5py.check_string_dtype(values.dtype) else values[()]
        return pd.DataFrame(columns)
