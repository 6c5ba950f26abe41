"""SNANA's FITS tables: HEAD, a row an object, points by PTROBS_MIN and PTROBS_MAX (from 1) to its rows of PHOT."""

import gzip
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Part, SequenceReader, Sequences, Survey, snana
from jaxrnn.readers.folders import bytes_of

ENDINGS = (".fits", ".fits.gz")


@dataclass(frozen=True)
class _Pair:
    """The two tables of a pair, memory-mapped, and the FILTERS that HEAD states."""

    head: Any
    phot: Any
    filters: str


class SnanaFitsReader(SequenceReader):
    """SNANA's FITS tables, gzipped or not: pairs of `...HEAD.FITS` (objects) and `...PHOT.FITS` (observations)."""

    EXAMPLE = """\
data:
  reader: snana_fits
  path: ELASTICC
  options: {types: {10: Ia, 21: Ibc}, label: SIM_TYPE_INDEX}
  features: [time_difference, passband, flux, flux_error]
  metadata: [MWEBV, HOSTGAL_PHOTOZ]
"""

    Options = snana.Options
    TO_PREDICT: ClassVar[dict[str, Any]] = {"label": None}

    def __init__(self, path: Path, options: snana.Options) -> None:
        self._pairs = snana.pairs(path, ENDINGS)
        self._opened: tuple[tuple[Path, ...], _Pair] | None = None
        files, pair = self._first_readable()
        # the first pair that can be read stands for all: what another lacks is missing there
        self._label = snana.label_column(files[0], pair.head.names, options.label)
        self._metadata = snana.metadata_columns(files[0], pair.head.names, options.metadata)
        _check(files[0], pair.head, (), [column.name for column in self._metadata])
        self._passbands = snana.passbands_of(files[0], pair.filters, options.passbands)
        self._flags = ("PHOTFLAG",) if "PHOTFLAG" in pair.phot.names else ()
        self._label_names = snana.label_names(options.types)

    def _first_readable(self) -> tuple[tuple[Path, Path], _Pair]:
        """Returns the first pair that can be read; raises the first one's JaxrnnError where none can."""
        failed: JaxrnnError | None = None
        for files in self._pairs:
            try:
                return files, self._open(files)
            except JaxrnnError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def describe(self) -> Survey:
        return Survey(
            columns=(*snana.COLUMNS, *(Column(flag.lower()) for flag in self._flags)),
            error_columns=("flux_error",),
            flag_columns=tuple(flag.lower() for flag in self._flags),
            metadata=self._metadata,
            passbands=self._passbands,
            labelled=self._label is not None,
            settled=(f"label {self._label}",),
        )

    def files(self) -> list[Path]:
        return [file for pair in self._pairs for file in pair]

    def parts(self, budget: int) -> list[Part]:
        """Returns each pair cut into ranges of rows of HEAD."""
        parts = []
        for files in self._pairs:
            try:
                pair = self._open(files)
            except JaxrnnError:
                # said when it is read, so that the other pairs are
                parts.append(Part(files, 0, 0, sum(map(bytes_of, files))))
                continue
            starts, stops, _ = _pointers(pair)
            ends = np.cumsum((stops - starts) * pair.phot.dtype.itemsize + pair.head.dtype.itemsize)
            start = 0
            while start < len(ends):
                before = int(ends[start - 1]) if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
                parts.append(Part(files, start, stop, int(ends[stop - 1]) - before))
                start = stop
        return parts

    def read(self, part: Part) -> Sequences:
        pair = self._open(part.files)
        head = pair.head[part.start : part.stop]
        starts, stops, faults = (found[part.start : part.stop] for found in _pointers(pair))
        lengths = stops - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        contiguous = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all()
        # a row that marks an object's end may lie between two objects: a slice of the map, where there is none
        phot = pair.phot[rows[0] : rows[-1] + 1] if contiguous else pair.phot[rows]
        time = _numbers(phot, "MJD")
        keep = time != snana.END_OF_OBJECT
        band = next(name for name in ("BAND", "FLT") if name in pair.phot.names)
        bands, codes = np.unique(_text(phot, band, part.files[1]), return_inverse=True)
        numbers = np.array([snana.band_number(str(name), self._passbands) for name in bands], dtype=np.int64)
        values = [_numbers(phot, name) for name in ("FLUXCAL", "FLUXCALERR", *self._flags)]
        kept = np.concatenate([[0], np.cumsum(keep)])
        return Sequences(
            ids=_texts(head, "SNID", part.files[0]),
            labels=self._labels(head, part.files[0]),
            offsets=kept[offsets],
            time=time[keep],
            values=np.stack(values, axis=1)[keep],
            passband=(numbers[codes.reshape(-1)] if len(codes) else codes)[keep].astype(np.int64),
            metadata=self._metadata_of(head),
            row_numbers=rows[keep],
            files=(str(part.files[1]),),
            object_faults=faults if (faults != "").any() else None,
        )

    def _labels(self, head: Any, file: Path) -> np.ndarray:
        if self._label is None or self._label not in head.names:
            return np.full(len(head), "", dtype=object)
        texts = _texts(head, self._label, file)
        return np.array([self._label_names.get(text, text) for text in texts], dtype=object)

    def _metadata_of(self, head: Any) -> np.ndarray:
        metadata = np.full((len(head), len(self._metadata)), np.nan)
        for place, column in enumerate(self._metadata):
            if column.name in head.names:
                found = _numbers(head, column.name)
                metadata[:, place] = np.where(np.isin(found, snana.missing_values(column.name)), np.nan, found)
        return metadata

    def _open(self, files: tuple[Path, ...]) -> _Pair:
        """Returns a pair; the last one stays open, because its parts are read one after another."""
        if self._opened is None or self._opened[0] != files:
            self._opened = None
            head, filters = _table(files[0])
            phot, _ = _table(files[1])
            _check(files[0], head, (("SNID",), ("PTROBS_MIN",), ("PTROBS_MAX",)), ("PTROBS_MIN", "PTROBS_MAX"))
            numbers = ("MJD", "FLUXCAL", "FLUXCALERR", *getattr(self, "_flags", ()))
            _check(files[1], phot, (*((name,) for name in numbers), ("BAND", "FLT")), numbers)
            self._opened = files, _Pair(head, phot, filters)
        return self._opened[1]


def _check(file: Path, table: Any, wanted: Sequence[tuple[str, ...]], numbers: Sequence[str]) -> None:
    """Raises JaxrnnError where none of the names of a wanted column is there, or numbers are something else."""
    absent = [names[0] for names in wanted if not set(names) & set(table.names)]
    if absent:
        raise JaxrnnError(f"{file}: no column {listed(absent)}; it has {listed(table.names, 30)}")
    words = [name for name in numbers if table[:1][name].dtype.kind not in "iuf" or table[:1][name].ndim != 1]
    if words:
        raise JaxrnnError(f"{file}: column {listed(words)} does not hold a number a row; expected a table of SNANA")


def _pointers(pair: _Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where the rows of each object begin and end in PHOT, and what is wrong with its pointers ("")."""
    starts = pair.head["PTROBS_MIN"].astype(np.int64) - 1
    stops = pair.head["PTROBS_MAX"].astype(np.int64)
    faults = np.full(len(starts), "", dtype=object)
    for row in np.flatnonzero((starts < 0) | (stops < starts) | (stops > len(pair.phot))):
        # SNANA writes an object without observations with both pointers below 1
        if not starts[row] < 0 or stops[row] > 0:
            faults[row] = (
                f"row {row} of HEAD points to rows {starts[row] + 1} to {stops[row]} of PHOT, "
                f"which has {len(pair.phot)}"
            )
        starts[row] = stops[row] = 0
    if "NOBS" in pair.head.names and pair.head["NOBS"].dtype.kind in "iu":
        stated = pair.head["NOBS"].astype(np.int64)
        for row in np.flatnonzero((stated != stops - starts) & (faults == "")):
            faults[row] = f"row {row} of HEAD states NOBS {stated[row]} and points to {stops[row] - starts[row]} rows"
    return starts, stops, faults


def _numbers(table: Any, column: str) -> np.ndarray:
    return np.asarray(table[column]).astype(np.float64)


def _texts(table: Any, column: str, file: Path) -> np.ndarray:
    """Returns [row] object, str, of a column of text or of whole numbers."""
    return np.array([str(entry).strip() for entry in _text(table, column, file).tolist()], dtype=object)


def _text(table: Any, column: str, file: Path) -> np.ndarray:
    """Returns a column as text, or as the numbers that it holds."""
    found = np.asarray(table[column])
    if found.dtype.kind == "S":  # what astropy could not decode; it does so for all rows that are asked for, or none
        raise JaxrnnError(f"{file}: column {column} holds bytes that are no ASCII, which FITS text is; copy it again")
    return found.astype(str) if found.dtype.kind == "O" else found


def _table(file: Path) -> tuple[Any, str]:
    """Returns the first table of a FITS file, memory-mapped, and the FILTERS of its first header."""
    from astropy.io import fits

    try:
        with _plain(file) as opened, warnings.catch_warnings():
            # what they tell of is checked here
            warnings.simplefilter("ignore")
            size = opened.seek(0, 2)
            opened.seek(0)
            with fits.open(opened, mode="readonly", memmap=True) as units:
                unit: Any = units[1]
                place = unit.fileinfo()
                missing = place["datLoc"] + place["datSpan"] - size
                if missing > 0:
                    raise JaxrnnError(f"{file}: truncated by {missing:,} bytes; copy the file again")
                table: Any = unit.data
                filters = str(cast(Any, units[0]).header.get("FILTERS", "")).strip()
                if not isinstance(table, fits.FITS_rec):
                    raise TypeError("its second unit is no binary table")
                # reads the layout of each column, so that damage shows here
                for name in cast(Any, table).names:
                    table[:1][name]
    except JaxrnnError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JaxrnnError(f"{file}: not a whole gzip file ({error}); copy the file again") from None
    except PermissionError:
        raise JaxrnnError(f"{file}: may not be read; expected a file that you have permission for") from None
    except Exception as error:  # astropy's errors on damaged bytes are of any kind
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise JaxrnnError(f"{file}: not a readable FITS file ({reason}); expected a table of SNANA") from None
    return table, filters


def _plain(file: Path) -> BinaryIO:
    """Returns the opened file; of a gzipped one an opened, nameless copy that is not, because it is to be mapped."""
    with file.open("rb") as opened:
        if opened.read(2) != b"\x1f\x8b":
            return file.open("rb")
    with tempfile.NamedTemporaryFile() as copy, gzip.open(file) as text:
        shutil.copyfileobj(text, copy, 1 << 20)
        copy.flush()
        return Path(copy.name).open("rb")
