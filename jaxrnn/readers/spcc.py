"""The Supernova Photometric Classification Challenge (Kessler et al. 2010, arXiv 1008.1024) as one ragged `npz`.

A folder holds `spcc_lightcurves.npz` (`snid`, `offsets`, `mjd` in days, `band` 0 to 3 for griz, `flux`, `flux_err`) and
`spcc_metadata.csv` (a row an object; `sim_type` is the label). Of the metadata only what an observer knows may be a
feature: the columns `sim_*`, `sntype` and `z_spec` tell the answer or stand for spectra that were taken to get it.
`sim_peakmjd`, where the table has it, is there for `data.evaluation`.
"""

import lzma
import tokenize
import warnings
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import Column, Options, Part, SequenceReader, Sequences, Survey, cut

ARRAYS = ("snid", "offsets", "mjd", "band", "flux", "flux_err")
PASSBANDS = ("g", "r", "i", "z")
METADATA = (
    Column("ra", "deg"),
    Column("decl", "deg"),
    Column("mwebv", "mag"),
    Column("hostz"),
    Column("hostz_err"),
    Column("sim_peakmjd", "days"),
)
TRUTH = ("sim_peakmjd",)
LABEL = "sim_type"
# What zipfile and NumPy raise for a file that is no archive of plain arrays, or a damaged one.
UNREADABLE = (
    *(ValueError, OSError, EOFError, TypeError, KeyError, OverflowError, MemoryError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
)


class SpccReader(SequenceReader):
    """The Supernova Photometric Classification Challenge as a ragged `npz` and a CSV table of metadata.

    An `npz` is compressed and so cannot be read in pieces: its arrays are loaded once, whole, and stay in memory (60 MB
    for the challenge's 2 million observations). Objects of the table that have no light curve come last, with
    no observations.
    """

    EXAMPLE = """\
data:
  reader: spcc
  path: surveys/spcc
  features: [time_difference, passband, flux, flux_error]
  metadata: [hostz, hostz_err]
"""

    def __init__(self, path: Path, options: Options) -> None:
        self._light_curves = path / "spcc_lightcurves.npz"
        self._metadata = path / "spcc_metadata.csv"
        missing = [file.name for file in self.files() if not file.exists()]
        if missing:
            raise JaxrnnError(f"{path}: {listed(missing)} missing; expected {', '.join(f.name for f in self.files())}")

    def files(self) -> list[Path]:
        return [self._light_curves, self._metadata]

    def describe(self) -> Survey:
        return Survey(
            columns=(Column("flux", "SNANA FLUXCAL"), Column("flux_error", "SNANA FLUXCAL")),
            error_columns=("flux_error",),
            metadata=METADATA,
            passbands=PASSBANDS,
            truth=TRUTH,
        )

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop count objects."""
        arrays, _ = self._loaded
        objects, size = len(arrays["snid"]), sum(array.nbytes for array in arrays.values())
        return cut(self.files(), objects, size / max(objects, 1), budget)

    def read(self, part: Part) -> Sequences:
        arrays, metadata = self._loaded
        offsets = arrays["offsets"][part.start : part.stop + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        ids = arrays["snid"][part.start : part.stop]
        known = metadata.reindex(ids).reindex(columns=[LABEL, *(column.name for column in METADATA)])
        band = arrays["band"][rows]
        with np.errstate(all="ignore"):  # what is no number in single precision is none in double precision
            values = np.stack([arrays["flux"][rows], arrays["flux_err"][rows]], axis=1).astype(np.float64)
            time = arrays["mjd"][rows].astype(np.float64)
        return Sequences(
            ids=ids,
            labels=known[LABEL].fillna("").to_numpy(dtype=str),
            offsets=(offsets - offsets[0]).astype(np.int64),
            time=time,
            values=values,
            # -1.0: among unsigned numbers there is no -1
            passband=np.where(np.isin(band, np.arange(len(PASSBANDS))), band, -1.0).astype(np.int64),
            metadata=known[[column.name for column in METADATA]].to_numpy(dtype=np.float64),
            row_numbers=np.arange(rows.start, rows.stop),
            files=(str(self._light_curves),),
        )

    @cached_property
    def _loaded(self) -> tuple[dict[str, np.ndarray], Any]:
        """The arrays, with objects that the table alone has at their end, and the table by object id."""
        arrays, metadata = self._load_arrays(), self._load_metadata()
        unobserved = metadata.index[~metadata.index.isin(arrays["snid"])].to_numpy(dtype=str)
        arrays["snid"] = np.concatenate([arrays["snid"], unobserved])
        arrays["offsets"] = np.concatenate([arrays["offsets"], np.full(len(unobserved), arrays["offsets"][-1])])
        return arrays, metadata

    def _load_arrays(self) -> dict[str, np.ndarray]:
        try:
            # opened here, so that it is closed whatever NumPy makes of it
            with (
                self._light_curves.open("rb") as file,
                np.lib.npyio.NpzFile(file, allow_pickle=False) as archive,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # NumPy remarks on files that Python 2 wrote
                absent = [name for name in ARRAYS if name not in archive]
                if absent:
                    raise JaxrnnError(f"{self._light_curves}: no array {listed(absent)}; expected {', '.join(ARRAYS)}")
                arrays = {name: np.asarray(archive[name]) for name in ARRAYS}
            if arrays["snid"].dtype.kind == "S":
                arrays["snid"] = np.char.decode(arrays["snid"], "utf-8")
        except UNREADABLE as error:
            raise JaxrnnError(
                f"{self._light_curves}: not a readable .npz archive ({error}); expected a whole file; copy it again"
            )
        kinds = {name: "iuU" if name == "snid" else "iuf" for name in ARRAYS}
        unlike = [name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in kinds[name]]
        if unlike:
            raise JaxrnnError(
                f"{self._light_curves}: {listed(unlike)} not one-dimensional arrays of numbers; expected all of "
                f"{', '.join(ARRAYS)} to be"
            )
        offsets, rows = arrays["offsets"], len(arrays["mjd"])
        wrong = [name for name in ("band", "flux", "flux_err") if arrays[name].shape != (rows,)]
        if wrong:
            raise JaxrnnError(f"{self._light_curves}: {listed(wrong)} not of the shape of mjd, ({rows},)")
        fits = offsets.dtype.kind in "iu" and len(offsets) == len(arrays["snid"]) + 1
        if not fits or offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
            raise JaxrnnError(
                f"{self._light_curves}: offsets do not fit; expected {len(arrays['snid']) + 1} values that grow "
                f"from 0 to {rows}"
            )
        return {**arrays, "snid": arrays["snid"].astype(str), "offsets": offsets.astype(np.int64)}

    def _load_metadata(self) -> Any:
        import pandas as pd

        try:
            table = pd.read_csv(self._metadata, dtype={LABEL: str, "snid": str}, low_memory=False)
        except (ValueError, OSError, OverflowError, MemoryError) as error:
            raise JaxrnnError(
                f"{self._metadata}: not a readable CSV table ({error}); expected a whole file; copy it again"
            )
        wanted = ["snid", LABEL, *(column.name for column in METADATA if column.name not in TRUTH)]
        absent = [name for name in wanted if name not in table.columns]
        if absent:
            raise JaxrnnError(f"{self._metadata}: no column {listed(absent)}; it has {listed(list(table.columns), 20)}")
        there = [column.name for column in METADATA if column.name in table]
        words = [name for name in there if not pd.api.types.is_numeric_dtype(table[name])]
        if words and len(table):
            raise JaxrnnError(
                f"{self._metadata}: column {listed(words)} holds text; expected numbers, empty where unknown"
            )
        nameless = table["snid"].isna().to_numpy()
        if nameless.any():
            row = int(nameless.argmax())
            raise JaxrnnError(f"{self._metadata}: row {row} (from 0) has no snid; expected the object's number")
        if table["snid"].duplicated().any():
            twice = table["snid"][table["snid"].duplicated()].tolist()[0]
            raise JaxrnnError(f"{self._metadata}: object {twice} has two rows; expected one row an object")
        return table.set_index("snid")
