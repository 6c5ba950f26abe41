"""Two pairs of SNANA's FITS tables, one gzipped; between the light curves stand the rows that end them."""

import gzip
from pathlib import Path

import numpy as np
from astropy.io import fits

from samples import Object, Sample


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects: dict[str, Object] = {}
    damageable: list[Path] = []
    for pair in range(2):
        names = [f"{100 * pair + number}" for number in range(6)]
        for number, name in enumerate(names):
            length = 1 + (4 * pair + number) % 9
            values = generator.normal(0, 10, (length, 3)).astype(np.float32).astype(np.float64)
            values[:, 1] = np.abs(values[:, 1])
            values[:, 2] = generator.integers(0, 4097, length)
            objects[name] = Object(
                label=("Ia", "20", "42")[number % 3],
                time=np.sort(generator.uniform(60000, 60300, length)),
                values=values,
                passbands=tuple("ugr"[place] for place in generator.integers(0, 3, length)),
                metadata={
                    "RA": float(generator.uniform(0, 360)),
                    "HOSTGAL_PHOTOZ": float("nan") if number % 2 else float(generator.uniform(0, 1)),
                },
            )
        kept = [objects[name] for name in names]
        types = {"Ia": 10, "20": 20, "42": 42}
        lengths = np.array([len(entry.time) for entry in kept])
        starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
        head = [
            fits.Column("SNID", "16A", array=np.array(names)),
            fits.Column("RA", "D", array=[entry.metadata["RA"] for entry in kept]),
            fits.Column("NOBS", "J", array=lengths),
            fits.Column("PTROBS_MIN", "J", array=starts + 1),
            fits.Column("PTROBS_MAX", "J", array=starts + lengths),
            fits.Column(
                "HOSTGAL_PHOTOZ", "D", array=np.nan_to_num([e.metadata["HOSTGAL_PHOTOZ"] for e in kept], nan=-9)
            ),
            fits.Column("SIM_TYPE_INDEX", "I", array=[types[entry.label] for entry in kept]),
        ]

        def ended(pieces: list[np.ndarray], end: float | str) -> np.ndarray:
            return np.concatenate([[*piece, end] for piece in pieces])

        phot = [
            fits.Column("MJD", "D", array=ended([entry.time for entry in kept], -777.0)),
            fits.Column("BAND", "8A", array=ended([np.array(entry.passbands) for entry in kept], "-")),
            fits.Column("PHOTFLAG", "J", array=ended([entry.values[:, 2] for entry in kept], 0)),
            fits.Column("FLUXCAL", "E", array=ended([entry.values[:, 0] for entry in kept], -777.0)),
            fits.Column("FLUXCALERR", "E", array=ended([entry.values[:, 1] for entry in kept], -777.0)),
        ]
        for kind, columns in (("HEAD", head), ("PHOT", phot)):
            first = fits.PrimaryHDU()
            first.header["FILTERS"] = "ugr"
            file = folder / f"MODEL{pair}-0001_{kind}.FITS"
            fits.HDUList([first, fits.BinTableHDU.from_columns(columns)]).writeto(file)
            if pair:
                content = file.read_bytes()
                file.unlink()
                file = file.with_name(f"{file.name}.gz")
                file.write_bytes(gzip.compress(content))
            damageable.append(file)
    return Sample(folder, {"types": {10: "Ia"}}, objects, tuple(damageable))
