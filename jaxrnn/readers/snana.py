"""What SNANA's formats share (Kessler et al. 2009, PASP 121, 1028; its manual, section 4): names, units, what is truth.

Fluxes are FLUXCAL, of zero point 27.5 mag. The simulation's own values, `SIM_...`, are truth: they may be labels, and
are never metadata; nor are types that a spectrum told.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator

from jaxrnn import readers
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import Column
from jaxrnn.readers.folders import files_below

FLUX_UNIT = "SNANA FLUXCAL"
COLUMNS = (Column("flux", FLUX_UNIT), Column("flux_error", FLUX_UNIT))
# After each light curve, PHOT tables have a row with this time.
END_OF_OBJECT = -777.0
# Columns that say an object's class, the most telling first.
LABELS = ("SIM_TYPE_NAME", "SIM_TYPE_INDEX", "SIM_COMMENT", "SNTYPE", "MYTYPE", "TYPE")
TYPES = (*LABELS, "FAKE")
# Metadata without `metadata` in the options: what is known before any spectrum of the transient is taken.
USUAL_METADATA = (
    "RA",
    "DEC",
    "DECL",
    "MWEBV",
    "HOSTGAL_PHOTOZ",
    "HOSTGAL_PHOTOZ_ERR",
    "HOSTGAL_SPECZ",
    "HOSTGAL_SPECZ_ERR",
)
UNITS = {
    "RA": "deg",
    "DEC": "deg",
    "DECL": "deg",
    "MWEBV": "mag",
    "MWEBV_ERR": "mag",
    "PEAKMJD": "days",
    "MJD_TRIGGER": "days",
    "MJD_DETECT_FIRST": "days",
    "MJD_DETECT_LAST": "days",
    "SEARCH_PEAKMJD": "days",
    "VPEC": "km/s",
    "VPEC_ERR": "km/s",
    "HOSTGAL_LOGMASS": "dex(solMass)",
    "HOSTGAL_SNSEP": "arcsec",
}
# Numbers that stand for a missing value, where they can't be one.
MISSING = (-9.0, -99.0, -999.0, -9999.0)
MISSING_LABELS = ("", "-9", "-99", "-999", "NULL", "UNKNOWN")


class Options(readers.Options):
    """What all three of SNANA's formats may be told."""

    label: str | None = Field(
        default=None,
        description=f"Which column is the class. Left out: the first that is there of {', '.join(LABELS)}. "
        "`SIM_COMMENT` stands for the `SN Type = ...` in that line of text files.",
    )
    types: dict[str | int, str] = Field(
        default={}, description="Names for types: `{1: Ia, 101: Ia, 20: II}`; types not named keep their number."
    )
    metadata: tuple[str, ...] | None = Field(
        default=None,
        description="Columns known once for each object. `SIM_...` and types are refused: they tell the answer. Take "
        f"`REDSHIFT_FINAL` only where it needs no spectrum of the transient. Left out: {', '.join(USUAL_METADATA)}, "
        "as far as they are there.",
    )
    passbands: tuple[str, ...] = Field(
        default=(), description="Names of the passbands. Left out: what `FILTERS` in the first file lists."
    )

    @field_validator("metadata")
    @classmethod
    def _known_to_an_observer(cls, metadata: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in metadata or ():
            if name.upper().startswith("SIM_") or name.upper() in TYPES:
                raise ValueError(
                    f"{name} tells the answer and is not known to an observer; it may be the `label` alone"
                )
        return metadata


def label_column(file: Path, columns: Sequence[str], wanted: str | None) -> str | None:
    """Returns the column with the class; None where the file has none and none is asked for."""
    if wanted is None:
        return next((name for name in LABELS if name in columns), None)
    if wanted not in columns:
        raise JaxrnnError(
            f"{file}: no column {wanted} (data.options.label){nearest(wanted, list(columns))}; it has "
            f"{listed(list(columns), 30)}"
        )
    return wanted


def metadata_columns(file: Path, columns: Sequence[str], wanted: tuple[str, ...] | None) -> tuple[Column, ...]:
    """Returns the columns that become metadata, with units."""
    if wanted is None:
        wanted = tuple(name for name in USUAL_METADATA if name in columns)
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise JaxrnnError(
            f"{file}: no column {listed(absent)} (data.options.metadata){nearest(absent[0], list(columns))}; it has "
            f"{listed([name for name in columns if not name.startswith('SIM_')], 30)}"
        )
    return tuple(Column(name, UNITS.get(name, "")) for name in wanted)


def missing_values(column: str) -> tuple[float, ...]:
    """Returns the numbers that stand for a missing value; a position or an offset may be -9."""
    return () if column in ("RA", "DEC", "DECL", "VPEC") else MISSING


def label_names(types: dict[str | int, str]) -> dict[str, str]:
    """Returns what labels in the files are called: missing ones "", types by their names."""
    return dict.fromkeys(MISSING_LABELS, "") | {str(key): name for key, name in types.items()}


def band_number(band: str, passbands: Sequence[str]) -> int:
    """Returns where a band stands among the passbands, or -1. SNANA knows it by its last letter: LSST-g is g."""
    band = band.strip()
    letter = band[-1:] if band[-2:-1] in ("-", "/", "_") else band
    return next((passbands.index(name) for name in (band, letter) if name in passbands), -1)


def passbands_of(file: Path, filters: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the survey's passbands: those declared, or each letter of FILTERS."""
    found = declared or tuple(filters.replace(" ", "").replace(",", ""))
    if not found or len(set(found)) < len(found):
        raise JaxrnnError(
            f"{file}: its FILTERS are {filters!r}; expected a letter for each passband, as in griz; declare "
            "data.options.passbands"
        )
    return found


def pairs(path: Path, endings: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Returns the HEAD files in or below `path` (or the one it is), each with its PHOT file; raises JaxrnnError where
    one lacks the other. Files with neither word in their names are no part of the survey."""
    files = files_below(path if path.is_dir() else path.parent, endings)
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for file in files:
        kind = max(("HEAD", "PHOT"), key=file.name.rfind)
        if kind in file.name:
            before, _, after = file.name.rpartition(kind)
            name = before, after.lower().removesuffix(".gz")
            twin = found.setdefault((str(file.parent), "*".join(name)), {}).setdefault(kind, file)
            if twin != file:
                raise JaxrnnError(f"{file}: {twin.name} beside it is the same table; remove one of them")
    if not path.is_dir():
        found = {key: pair for key, pair in found.items() if path in pair.values()}
    if not found:
        raise JaxrnnError(f"{path}: expected pairs of files ...HEAD{endings[0]} and ...PHOT{endings[0]}, found none")
    for pair in found.values():
        for kind, other in (("HEAD", "PHOT"), ("PHOT", "HEAD")):
            if kind not in pair:
                expected = kind.join(pair[other].name.rsplit(other, 1))
                raise JaxrnnError(f"{pair[other]}: no {kind} file beside it; expected the pair, with {expected}")
    return [(pair["HEAD"], pair["PHOT"]) for pair in found.values()]
