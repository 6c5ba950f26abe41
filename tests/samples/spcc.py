"""The two files of the Supernova Photometric Classification Challenge."""

import csv
from pathlib import Path

import numpy as np

from samples import Object, Sample

BANDS = "griz"


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, rows = {}, []
    arrays = {"snid": [], "offsets": [0], "mjd": [], "band": [], "flux": [], "flux_err": []}
    for number in range(12):
        name, length = 17 + 3 * number, int(generator.integers(1, 10))
        time = np.sort(generator.uniform(56000, 56100, length))
        bands = generator.integers(0, 4, length)
        # single precision, as the challenge has it
        values = np.column_stack([generator.normal(20, 30, length), generator.uniform(1, 5, length)]).astype(np.float32)
        known = {key: round(float(generator.uniform(0, 1)), 4) for key in ("ra", "decl", "mwebv", "hostz", "hostz_err")}
        label = ("Ia", "II", "Ibc")[number % 3]
        arrays["snid"].append(name)
        arrays["offsets"].append(arrays["offsets"][-1] + length)
        for key, column in (("mjd", time), ("band", bands), ("flux", values[:, 0]), ("flux_err", values[:, 1])):
            arrays[key].extend(column)
        rows.append({"snid": name, "sntype": -9, "sim_type": label, **known, "z_spec": -9.0, "sim_redshift": 0.3})
        known["sim_peakmjd"] = rows[-1]["sim_peakmjd"] = 56000.125 + number
        objects[str(name)] = Object(
            label=label,
            time=time,
            values=values.astype(np.float64),
            passbands=tuple(BANDS[band] for band in bands),
            metadata=known,
        )
    types = {"snid": "i4", "offsets": "i8", "mjd": "f8", "band": "u1", "flux": "f4", "flux_err": "f4"}
    np.savez_compressed(
        folder / "spcc_lightcurves.npz",
        allow_pickle=False,
        **{key: np.array(arrays[key], dtype) for key, dtype in types.items()},
    )
    with (folder / "spcc_metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return Sample(folder, {}, objects, (folder / "spcc_lightcurves.npz",))
