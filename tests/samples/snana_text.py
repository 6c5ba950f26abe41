"""Light curves in SNANA's text format, as the files of the SPCC have it: keys, remarks, truth among them."""

import gzip
from pathlib import Path

import numpy as np

from samples import Object, Sample

HEADER = """\
SURVEY: DES
SNID:   {name}
SNTYPE:  -9
FILTERS: griz
RA:      {ra!r}  deg
DECL:    -43.000000  deg
FAKE:    2   (=> simulated LC with snlc_sim.exe)
MWEBV:   0.0111    MW E(B-V)
REDSHIFT_SPEC:    -9.00000 +- 9.00000
HOST_GALAXY_PHOTO-Z:   {redshift}  +- 0.0468

SIM_COMMENT:  SN Type = {label} , MODEL = SDSS-017862
SIM_REDSHIFT:  0.3972

# ============================================
NOBS: {length}
NVAR: 7
VARLIST:  MJD  FLT FIELD   FLUXCALERR   FLUXCAL   MAG  PHOTFLAG
"""


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, files = {}, []
    for number in range(12):
        length = 1 + number % 9
        values = generator.normal(0, 10, (length, 3))
        values[:, 1] = np.abs(values[:, 1])
        values[:, 2] = generator.integers(0, 4097, length)
        redshift = round(float(generator.uniform(0, 1)), 4) if number % 4 else -9.0
        entry = Object(
            label=("Ia", "II", "Ibc")[number % 3],
            time=np.sort(generator.uniform(56171, 56300, length)),
            values=values,
            passbands=tuple("griz"[place] for place in generator.integers(0, 4, length)),
            metadata={
                "RA": float(generator.uniform(0, 360)),
                "DEC": -43.0,
                "MWEBV": 0.0111,
                "HOSTGAL_PHOTOZ": redshift if redshift > 0 else float("nan"),
                "HOSTGAL_PHOTOZ_ERR": 0.0468,
            },
        )
        name = f"SN{number:03d}"
        objects[name] = entry
        text = HEADER.format(name=name, ra=entry.metadata["RA"], redshift=redshift, label=entry.label, length=length)
        for time, (flux, error, flag), band in zip(
            entry.time.tolist(), entry.values.tolist(), entry.passbands, strict=True
        ):
            text += f"OBS:  {time!r}  {band} NULL  {error!r}  {flux!r}  99.000 {flag:.0f}\n"
        file = folder / f"DES_{name}.DAT{'.gz' if number % 2 else ''}"
        content = (text + "END:\n").encode()
        file.write_bytes(gzip.compress(content) if number % 2 else content)
        files.append(file)
    return Sample(folder, {}, objects, damageable=(files[0], files[1]))
