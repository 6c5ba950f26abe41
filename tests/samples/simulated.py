"""A survey of two pairs of Parquet files as the simulator lays them out; observations of a file stand in any order."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn import __version__
from samples import Object, Sample


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, files = {}, []
    for number in range(2):
        table, observed = [], []
        for index in range(6):
            name, label = f"{6 * number + index:08d}", ("agn", "supernova", "variable_star")[index % 3]
            length = int(generator.integers(1, 10))
            time = np.sort(generator.uniform(60000, 60100, length))
            flux = generator.normal(0, 50, length).astype(np.float32)
            error = generator.uniform(1, 5, length).astype(np.float32)
            detected = np.abs(flux) > 5 * error
            bands = [str(band) for band in generator.choice(["g", "r"], length)]
            latitude, distance = generator.uniform(-90, 90), generator.uniform(0, 60)
            table.append((name, label, latitude, distance))
            observed += zip([name] * length, time, bands, flux, error, detected, strict=True)
            objects[name] = Object(
                label=label,
                time=time,
                values=np.column_stack([flux, error, detected]).astype(np.float64),
                passbands=tuple(bands),
                metadata={"galactic_latitude": latitude, "host_distance": distance},
            )
        # objects stand mixed, each in the order of its own observations
        turn = np.argsort([row[1] for row in observed], kind="stable")
        names = f"objects-{number:05d}.parquet", f"observations-{number:05d}.parquet"
        columns = ["object_id", "class", "galactic_latitude", "host_distance"]
        pd.DataFrame(table, columns=columns).to_parquet(folder / names[0], index=False)
        columns = ["object_id", "mjd", "passband", "flux", "flux_error", "detected"]
        pd.DataFrame([observed[row] for row in turn], columns=columns).to_parquet(folder / names[1], index=False)
        files.append({"objects": names[0], "observations": names[1], "count": 6})
    description = {"jaxrnn_version": __version__, "passbands": ["g", "r"], "files": files}
    (folder / "survey.json").write_text(json.dumps(description))
    damageable = (folder / "survey.json", *(folder / name for entry in files for name in list(entry.values())[:2]))
    return Sample(folder, {}, objects, damageable)
