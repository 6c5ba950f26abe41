"""SNANA's HEAD and PHOT tables as CSV, one pair gzipped, with the truth beside what an observer knows."""

import gzip
from pathlib import Path

import numpy as np

from samples import Object, Sample

HEAD = "SNID,PEAKMJD,HOSTGAL_PHOTOZ,HOSTGAL_PHOTOZ_ERR,HOSTGAL_SPECZ,HOSTGAL_SPECZ_ERR,SIM_REDSHIFT_CMB,MWEBV,SNTYPE"


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects: dict[str, Object] = {}
    heads, phots = [[HEAD], [HEAD]], [["SNID,MJD,FLUXCAL,FLUXCALERR,FLT"], ["SNID,MJD,FLUXCAL,FLUXCALERR,FLT"]]
    for number in range(12):
        length, name = 1 + number % 9, str(number * number)
        redshift, host, dust = generator.uniform(0, 1, 3).tolist()
        entry = Object(
            label=("Ia", "120", "133")[number % 3],
            time=np.sort(generator.uniform(56171, 56300, length)),
            values=np.abs(generator.normal(0, 10, (length, 2))),
            passbands=tuple("griz"[place] for place in generator.integers(0, 4, length)),
            metadata={
                "MWEBV": dust,
                "HOSTGAL_PHOTOZ": host,
                "HOSTGAL_PHOTOZ_ERR": 0.05,
                "HOSTGAL_SPECZ": float("nan") if number % 2 else redshift,
                "HOSTGAL_SPECZ_ERR": float("nan"),
            },
        )
        objects[name] = entry
        spectrum, kind = -9.0 if number % 2 else redshift, {"Ia": "101"}.get(entry.label, entry.label)
        heads[number % 2].append(f"{name} ,56200.5,{host!r},0.05,{spectrum!r},-9.0,{redshift!r},{dust!r},{kind}")
        for time, (flux, error), band in zip(entry.time.tolist(), entry.values.tolist(), entry.passbands, strict=True):
            phots[number % 2].append(f"{name},{time!r},{flux!r},{error!r},{band} ")
        phots[number % 2].append(f"{name},-777.0,-777.0,-777.0,-")
    for kind, tables in (("HEAD", heads), ("PHOT", phots)):
        texts = ["\n".join([*table, ""]).encode() for table in tables]
        (folder / f"DES_A_{kind}.csv").write_bytes(texts[0])
        (folder / f"DES_B_{kind}.csv.gz").write_bytes(gzip.compress(texts[1]))
    options = {"passbands": list("griz"), "types": {"101": "Ia"}}
    return Sample(folder, options, objects, tuple(folder / f"DES_B_{kind}.csv.gz" for kind in ("HEAD", "PHOT")))
