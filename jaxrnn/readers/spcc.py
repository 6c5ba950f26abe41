"""The Supernova Photometric Classification Challenge (Kessler et al. 2010, arXiv 1008.1024) as one ragged `npz`.

A folder holds `spcc_lightcurves.npz` (`snid`, `offsets`, `mjd` in days, `band` 0 to 3 for griz, `flux`, `flux_err`) and
`spcc_metadata.csv` (a row an object; `sim_type` is the label). Of the metadata only what an observer knows may be a
feature: the columns `sim_*`, `sntype` and `z_spec` tell the answer or stand for spectra that were taken to get it.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Part, Sequences, Survey, equal_parts

ARRAYS = ("snid", "offsets", "mjd", "band", "flux", "flux_err")
PASSBANDS = ("g", "r", "i", "z")
METADATA = (
    Column("ra", "deg"),
    Column("decl", "deg"),
    Column("mwebv", "mag"),
    Column("hostz"),
    Column("hostz_err"),
)
LABEL = "sim_type"


class SpccReader:
    def __init__(self, path: Path) -> None:
        self._light_curves = path / "spcc_lightcurves.npz"
        self._metadata = path / "spcc_metadata.csv"
        missing = [file.name for file in self.files() if not file.exists()]
        if missing:
            raise JaxrnnError(f"{path}: {listed(missing)} missing; expected {', '.join(f.name for f in self.files())}")
        self._loaded: tuple[dict[str, np.ndarray], pd.DataFrame] | None = None

    def files(self) -> list[Path]:
        return [self._light_curves, self._metadata]

    def describe(self) -> Survey:
        return Survey(
            columns=(Column("flux", "SNANA FLUXCAL"), Column("flux_error", "SNANA FLUXCAL")),
            error_columns=("flux_error",),
            metadata=METADATA,
            passbands=PASSBANDS,
        )

    def parts(self, sequences_per_part: int) -> list[Part]:
        return equal_parts(self.files(), len(self._load()[0]["snid"]), sequences_per_part, "spcc")

    def read(self, part: Part) -> Sequences:
        arrays, metadata = self._load()
        offsets = arrays["offsets"][part.start : part.stop + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        ids = arrays["snid"][part.start : part.stop]
        known = metadata.reindex(ids)
        band = arrays["band"][rows]
        return Sequences(
            ids=ids.astype(str),
            labels=known[LABEL].fillna("").to_numpy(dtype=str),
            offsets=(offsets - offsets[0]).astype(np.int64),
            time=arrays["mjd"][rows].astype(np.float64),
            values=np.stack([arrays["flux"][rows], arrays["flux_err"][rows]], axis=1).astype(np.float64),
            passband=np.where(np.isin(band, np.arange(len(PASSBANDS))), band, -1).astype(np.int64),
            metadata=known[[column.name for column in METADATA]].to_numpy(dtype=np.float64),
            row_numbers=np.arange(rows.start, rows.stop),
            file=str(self._light_curves),
        )

    def _load(self) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        if self._loaded is None:
            self._loaded = self._load_arrays(), self._load_metadata()
        return self._loaded

    def _load_arrays(self) -> dict[str, np.ndarray]:
        try:
            # opened here, so that it is closed whatever NumPy makes of it
            with self._light_curves.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
                absent = [name for name in ARRAYS if name not in archive]
                if absent:
                    raise JaxrnnError(f"{self._light_curves}: no array {listed(absent)}; expected {', '.join(ARRAYS)}")
                arrays = {name: archive[name] for name in ARRAYS}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise JaxrnnError(f"{self._light_curves}: not a readable .npz archive ({error})")
        kinds = {name: "iuSU" if name == "snid" else "iuf" for name in ARRAYS}
        unlike = [name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in kinds[name]]
        if unlike:
            raise JaxrnnError(f"{self._light_curves}: {listed(unlike)} not one-dimensional arrays of numbers")
        offsets, rows = arrays["offsets"], len(arrays["mjd"])
        wrong = [name for name in ("band", "flux", "flux_err") if arrays[name].shape != (rows,)]
        if wrong:
            raise JaxrnnError(f"{self._light_curves}: {listed(wrong)} not of the shape of mjd, ({rows},)")
        fits = offsets.dtype.kind in "iu" and len(offsets) == len(arrays["snid"]) + 1
        if not fits or offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
            raise JaxrnnError(
                f"{self._light_curves}: offsets do not fit; expected {len(arrays['snid']) + 1} values that grow "
                f"from 0 to {rows}"
            )
        return arrays

    def _load_metadata(self) -> pd.DataFrame:
        try:
            table = pd.read_csv(self._metadata, dtype={LABEL: str})
        except (ValueError, OSError) as error:
            raise JaxrnnError(f"{self._metadata}: not a readable CSV table ({error})")
        wanted = ["snid", LABEL, *(column.name for column in METADATA)]
        absent = [name for name in wanted if name not in table.columns]
        if absent:
            raise JaxrnnError(f"{self._metadata}: no column {listed(absent)}; it has {listed(list(table.columns), 20)}")
        words = [column.name for column in METADATA if not pd.api.types.is_numeric_dtype(table[column.name])]
        if words:
            raise JaxrnnError(
                f"{self._metadata}: column {listed(words)} holds text; expected numbers, empty where unknown"
            )
        if table["snid"].duplicated().any():
            twice = table["snid"][table["snid"].duplicated()].tolist()[0]
            raise JaxrnnError(f"{self._metadata}: object {twice} has two rows; expected one row an object")
        return table.set_index("snid")
