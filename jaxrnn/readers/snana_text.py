"""SNANA's text files, one object a file: lines `KEY: value`, `NOBS`, `VARLIST`, and a line `OBS:` an observation."""

import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Part, SequenceReader, Sequences, Survey, snana
from jaxrnn.readers.folders import bytes_of, files_below, read_at_most

ENDINGS = (".dat", ".dat.gz", ".txt", ".txt.gz")
END_KEYS = ("END", "END_PHOTOMETRY")
# What older files call the columns of the FITS tables.
ALIASES = {"DECL": "DEC", "HOST_GALAXY_PHOTO-Z": "HOSTGAL_PHOTOZ", "HOST_GALAXY_SPEC-Z": "HOSTGAL_SPECZ"}
# A larger text is no light curve of one object.
MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class _Object:
    """A text file as it stands: header by key, the fields of each line of observations, whether `END:` was there."""

    header: dict[str, str]
    columns: list[str]
    rows: list[list[str]]
    ended: bool


class SnanaTextReader(SequenceReader):
    """SNANA's text files (`.DAT`, gzipped or not), one object a file, in a folder or folders below it."""

    EXAMPLE = """\
data:
  reader: snana_text
  path: DES
  options: {types: {1: Ia, 22: II}, label: SNTYPE}
  features: [time_difference, passband, flux, flux_error]
  metadata: [HOSTGAL_PHOTOZ]
"""

    Options = snana.Options
    TO_PREDICT: ClassVar[dict[str, Any]] = {"label": None}

    def __init__(self, path: Path, options: snana.Options) -> None:
        self._files = files_below(path, ENDINGS)
        first, found = _first_readable(self._files)
        # the first file that can be read stands for all: what another lacks is missing there
        self._label = snana.label_column(first, list(found.header), options.label)
        self._metadata = snana.metadata_columns(first, list(found.header), options.metadata)
        self._passbands = snana.passbands_of(first, found.header.get("FILTERS", ""), options.passbands)
        self._flags = ("PHOTFLAG",) if "PHOTFLAG" in found.columns else ()
        self._label_names = snana.label_names(options.types)

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
        return list(self._files)

    def parts(self, budget: int) -> list[Part]:
        """Returns a part a file."""
        return [Part((file,), 0, bytes_of(file), bytes_of(file)) for file in self._files]

    def read(self, part: Part) -> Sequences:
        file = part.files[0]
        found = _read(file)
        band = next((name for name in ("FLT", "BAND") if name in found.columns), "FLT")
        wanted = ("MJD", "FLUXCAL", "FLUXCALERR", *self._flags)
        absent = [name for name in (*wanted, band) if name not in found.columns]
        if absent and (found.rows or found.columns):
            raise JaxrnnError(f"{file}: no {listed(absent)} in its VARLIST; it has {listed(found.columns, 30)}")
        count = len(found.columns)
        faults = [
            "" if len(row) == count else f"{len(row)} values where VARLIST names {count}: {' '.join(row)[:40]!r}"
            for row in found.rows
        ]
        numbers = np.full((len(found.rows), len(wanted)), np.nan)
        for place, name in enumerate(wanted if found.rows else ()):
            _fill(numbers[:, place], name, found, faults)
        bad = [row for row, fault in enumerate(faults) if fault]
        numbers[bad] = np.nan
        place = found.columns.index(band) if found.rows else 0
        bands = [row[place] if not fault else "" for row, fault in zip(found.rows, faults, strict=True)]
        known = {name: snana.band_number(name, self._passbands) for name in set(bands)}
        name = found.header["SNID"]
        keep = numbers[:, 0] != snana.END_OF_OBJECT
        return Sequences(
            ids=np.array([name], dtype=object),
            labels=np.array([self._label_of(found)], dtype=object),
            offsets=np.array([0, keep.sum()], dtype=np.int64),
            time=numbers[keep, 0],
            values=numbers[keep, 1:],
            passband=np.array([known[name] for name in bands], dtype=np.int64)[keep],
            metadata=np.array(
                [[self._metadata_of(found, column.name, file) for column in self._metadata]], dtype=float
            ),
            row_numbers=np.flatnonzero(keep),
            files=(str(file),),
            row_faults=np.array(faults, dtype=object)[keep] if bad else None,
        )

    def _label_of(self, found: _Object) -> str:
        text = found.header.get(self._label or "", "")
        if self._label == "SIM_COMMENT":
            named = re.search(r"\bType\s*=\s*([^\s,]+)", text)
            text = named.group(1) if named else ""
        text = text.partition(" ")[0]
        return self._label_names.get(text, text)

    @staticmethod
    def _metadata_of(found: _Object, column: str, file: Path) -> float:
        text = found.header.get(column, "")
        try:
            value = _number(text.partition(" ")[0]) if text else np.nan
        except ValueError:
            raise JaxrnnError(f"{file}: {column} is {text[:40]!r}; expected a number") from None
        return np.nan if value in snana.missing_values(column) else value


def _first_readable(files: list[Path]) -> tuple[Path, _Object]:
    """Returns the first file that can be read, and what it holds; raises the first file's JaxrnnError where none can.
    What is wrong with those before it is said when they are read."""
    failed: JaxrnnError | None = None
    for file in files:
        try:
            return file, _read(file)
        except JaxrnnError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _fill(numbers: np.ndarray, name: str, found: _Object, faults: list[str]) -> None:
    """Puts a column of text into `numbers`; what is no number gets a fault."""
    place = found.columns.index(name)
    try:
        numbers[:] = [_number(row[place]) for row in found.rows]
    except (ValueError, IndexError):
        for index, row in enumerate(found.rows):
            try:
                numbers[index] = _number(row[place]) if place < len(row) else np.nan
            except ValueError:
                faults[index] = faults[index] or f"{name}: {row[place][:40]!r} is no number"


def _number(text: str) -> float:
    if "_" in text:  # Python would read 1_000
        raise ValueError(text)
    return float(text)


def _read(file: Path) -> _Object:
    """Returns what a text file holds; raises JaxrnnError where it is no whole SNANA light curve."""
    text = _text(file)
    if not text.strip():
        raise JaxrnnError(f"{file}: is empty; expected an SNANA light curve in text")
    found = _parsed(file, text)
    if not found.header.get("SNID"):
        raise JaxrnnError(f"{file}: no line `SNID:`; expected an SNANA light curve in text")
    stated = found.header.get("NOBS", "")
    if stated and stated != str(len(found.rows)):
        raise JaxrnnError(
            f"{file}: {len(found.rows)} lines `OBS:` where NOBS states {stated[:20]}; truncated? Copy the file again"
        )
    if not found.ended and not stated:
        raise JaxrnnError(f"{file}: neither `NOBS:` nor `END:`; truncated? Expected one of them in a whole light curve")
    if found.rows and not found.columns:
        raise JaxrnnError(f"{file}: no line `VARLIST:` before its observations; it names their columns")
    return found


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = read_at_most(opened, MOST_BYTES)
        if text[:2] == b"\x1f\x8b" or file.suffix.lower() == ".gz":
            text = read_at_most(gzip.GzipFile(fileobj=io.BytesIO(text)), MOST_BYTES)
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise JaxrnnError(f"{file}: not text in UTF-8; expected an SNANA light curve, lines `KEY: value`") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise JaxrnnError(f"{file}: cannot be read ({reason}); truncated or damaged? Copy the file again") from None


def _parsed(file: Path, text: str) -> _Object:
    header: dict[str, str] = {}
    columns: list[str] = []
    rows: list[list[str]] = []
    ended = False
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if key == "OBS" and colon:
            rows.append(value.split())
        elif key in END_KEYS and colon:
            ended = True
            break  # spectra may follow
        elif key in ("VARLIST", "VARNAMES") and not columns:
            columns = value.split()
        elif key == "EPOCH" and colon:
            raise JaxrnnError(
                f"{file}: the verbose format (`EPOCH:`) is not read; expected lines `OBS:` after a VARLIST"
            )
        elif colon and key and not key[0].isspace() and not key.startswith("#"):
            name = ALIASES.get(key, key)
            value, error = (entry.strip() for entry in value.partition("+-")[::2])
            header.setdefault(name, value)
            if error:
                header.setdefault(f"{name}_ERR", error)
    # the last line of a file that is cut within it looks whole
    if not ended and rows and not text.endswith("\n"):
        raise JaxrnnError(f"{file}: ends within a line; truncated? Expected a line end, or `END:`")
    if "NOBS" in header:
        header["NOBS"] = header["NOBS"].partition(" ")[0]
    header["SNID"] = header.get("SNID", "").partition(" ")[0]
    return _Object(header, columns, rows, ended)
