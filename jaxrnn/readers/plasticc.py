"""PLAsTiCC, the Photometric LSST Astronomical Time-Series Classification Challenge (arXiv 1810.00001), as CSV files.

Observations: `object_id`, `mjd` (days), `passband` 0 to 5 for ugrizy, `flux` and `flux_err` in the challenge's own unit
(SNANA's FLUXCAL, zero point 27.5 mag), `detected` (0/1). The table of objects has `target`, the class, where it is
told. The files that were published after the challenge say `detected_bool`, `ddf_bool` and `true_target`.
"""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from jaxrnn import readers
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Survey
from jaxrnn.readers.folders import files_below
from jaxrnn.readers.rows import ColumnMap, Table, TablesReader, first_readable, numbering, open_table, open_tables

PASSBANDS = ("u", "g", "r", "i", "z", "y")
OBSERVATIONS = ("object_id", "mjd", "passband", "flux", "flux_err", "detected")
METADATA = (
    Column("ra", "deg"),
    Column("decl", "deg"),
    Column("gal_l", "deg"),
    Column("gal_b", "deg"),
    Column("ddf"),
    Column("hostgal_specz"),
    Column("hostgal_photoz"),
    Column("hostgal_photoz_err"),
    Column("distmod", "mag"),
    Column("mwebv", "mag"),
)
# Kessler et al. 2019 (PASP 131, 094501), table 2.
CLASS_NAMES = {
    "90": "SNIa",
    "67": "SNIa-91bg",
    "52": "SNIax",
    "42": "SNII",
    "62": "SNIbc",
    "95": "SLSN-I",
    "15": "TDE",
    "64": "KN",
    "88": "AGN",
    "92": "RRL",
    "65": "M-dwarf",
    "16": "EB",
    "53": "Mira",
    "6": "uLens-Single",
    "991": "uLens-Binary",
    "992": "ILOT",
    "993": "CaRT",
    "994": "PISN",
    "995": "uLens-String",
}


class PlasticcReader(TablesReader):
    """PLAsTiCC: CSV files of observations, and the table of their objects beside them."""

    EXAMPLE = """\
data:
  reader: plasticc
  path: plasticc
  options: {names: true}
  features: [time_difference, passband, flux, flux_error]
  metadata: [hostgal_photoz]
"""

    TO_PREDICT: ClassVar[dict[str, Any]] = {"label": None}

    class Options(readers.Options):
        metadata: str | None = Field(
            default=None,
            description="The file with one row an object; left out where one file alone has `metadata` in its name.",
        )
        observations: str = Field(
            default="*", description="Which of the other files hold observations, as a pattern: `training_set*`."
        )
        label: str | None = Field(
            default=None, description="Column with the class: `target` where it is left out; or `true_target`."
        )
        names: bool = Field(
            default=False, description="Call the classes SNIa, SNII, ... (PASP 131, 094501) and not 90, 42, ..."
        )

    def __init__(self, path: Path, options: Options) -> None:
        files = files_below(path, (".csv", ".csv.gz"))
        objects = open_table(_metadata_file(path, files, options.metadata))
        if "object_id" not in objects.columns:
            raise JaxrnnError(f"{objects.file}: no column object_id; expected PLAsTiCC's metadata, one row an object")
        observations = open_tables([
            file
            for file in files
            if file.match(options.observations) and "metadata" not in file.name and file != objects.file
        ])  # fmt: skip
        if not observations:
            raise JaxrnnError(
                f"{path}: no file of observations that fits {options.observations}; expected CSV files with "
                f"{', '.join(OBSERVATIONS)}"
            )
        detected = _present("detected", first_readable(observations))
        metadata = {column: _present(column.name, objects) for column in METADATA}
        metadata = {column: name for column, name in metadata.items() if name in objects.columns}
        # the challenge kept the classes of its test set to itself
        label = options.label or ("target" if "target" in objects.columns else None)
        columns = ColumnMap(
            object="object_id",
            time="mjd",
            values=("flux", "flux_err", detected),
            marks=(detected,),
            passband="passband",
            passband_number=numbering([str(place) for place in range(len(PASSBANDS))]),
            object_id="object_id",
            object_label=label,
            metadata=tuple(metadata.values()),
            label_names=CLASS_NAMES if options.names else {},
        )
        survey = Survey(
            columns=(Column("flux", "SNANA FLUXCAL"), Column("flux_error", "SNANA FLUXCAL"), Column("detected")),
            error_columns=("flux_error",),
            flag_columns=("detected",),
            metadata=tuple(metadata),
            passbands=PASSBANDS,
            labelled=label is not None,
            settled=(f"label {label}", detected),
        )
        self._use(survey, columns, observations, [objects])


def _present(column: str, table: Table) -> str:
    """Returns the name that a 0/1 column has in the table."""
    return f"{column}_bool" if f"{column}_bool" in table.columns else column


def _metadata_file(path: Path, files: list[Path], named: str | None) -> Path:
    if named is not None:
        return (path if path.is_dir() else path.parent) / named
    found = [file for file in files if "metadata" in file.name]
    if len(found) != 1:
        raise JaxrnnError(
            f"{path}: {'no file' if not found else listed([file.name for file in found])} with `metadata` in its name; "
            "expected one table with a row an object; name it by data.options.metadata"
        )
    return found[0]
