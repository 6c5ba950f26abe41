"""SNANA's HEAD and PHOT tables as CSV, as SuperNNova (Moller & de Boissiere 2020, MNRAS 491, 4277) reads them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Observations, Part, Survey, snana
from jaxrnn.readers.rows import ColumnMap, Table, TablesReader, Wanted, first_readable, open_tables

TIME, FLUX, FLUX_ERROR = "MJD", "FLUXCAL", "FLUXCALERR"


class SnanaCsvReader(TablesReader):
    """SNANA's tables as CSV, gzipped or not: pairs of `...HEAD.csv` (objects) and `...PHOT.csv` (observations)."""

    EXAMPLE = """\
data:
  reader: snana_csv
  path: simulation
  options:
    passbands: [g, r, i, z]
    types: {101: Ia, 20: II}
  features: [time_difference, passband, flux, flux_error]
  metadata: [HOSTGAL_PHOTOZ, MWEBV]
"""

    Options = snana.Options
    TO_PREDICT: ClassVar[dict[str, Any]] = {"label": None}

    def __init__(self, path: Path, options: snana.Options) -> None:
        heads, phots = zip(*snana.pairs(path, (".csv", ".csv.gz")), strict=True)
        objects, observations = open_tables(heads), open_tables(phots)
        first, first_phot = first_readable(objects), first_readable(observations)
        band = next((name for name in ("FLT", "BAND") if name in first_phot.columns), "FLT")
        if not options.passbands:
            found = listed(_bands(first_phot, band))
            raise JaxrnnError(f"{first_phot.file}: declare data.options.passbands; its first rows have {found}")
        label = snana.label_column(first.file, first.columns, options.label)
        metadata = snana.metadata_columns(first.file, first.columns, options.metadata)
        flag = ("PHOTFLAG",) if "PHOTFLAG" in first_phot.columns else ()
        columns = ColumnMap(
            object="SNID",
            time=TIME,
            values=(FLUX, FLUX_ERROR, *flag),
            passband=band,
            passband_number=lambda band: snana.band_number(band, options.passbands),
            object_id="SNID",
            object_label=label,
            metadata=tuple(column.name for column in metadata),
            label_names=snana.label_names(options.types),
            missing={column.name: snana.missing_values(column.name) for column in metadata},
        )
        survey = Survey(
            columns=(*snana.COLUMNS, *(Column("photflag") for _ in flag)),
            error_columns=("flux_error",),
            flag_columns=("photflag",) if flag else (),
            metadata=metadata,
            passbands=options.passbands,
            labelled=label is not None,
            settled=(f"label {label}",),
        )
        self._use(survey, columns, observations, objects)

    def read_observations(self, part: Part) -> Iterator[Observations]:
        for rows in super().read_observations(part):
            ends = rows.time == snana.END_OF_OBJECT
            if ends.any():
                arrays = {name: value for name, value in vars(rows).items() if name != "file" and value is not None}
                rows = replace(rows, **{name: value[~ends] for name, value in arrays.items()})
            yield rows


def _bands(table: Table, band: str) -> list[str]:
    """Returns the bands that stand in the first rows of a table."""
    wanted = Wanted("SNID", texts=(band,))
    table.check(wanted)
    return sorted(
        {text for rows in islice(table.read(table.parts(1 << 20)[0], wanted), 1) for text in rows.texts[band].texts}
    )
