"""Observations in no order in four files (CSV, with CRLF, gzipped, Parquet), and a table of their objects."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from samples import Object, Sample

CLASSES = ("RRAB", "DSCT", "EA")
PASSBANDS = ("g", "r", "zs")
OPTIONS = {
    "object": "star",
    "time": "hjd",
    "values": {
        "magnitude": {"column": "mag", "unit": "mag"},
        "magnitude_error": {"column": "mag_err", "unit": "mag"},
        "blended": "",
    },
    "errors": ["magnitude_error"],
    "flags": ["blended"],
    "passband": "filter",
    "passbands": {"g": 1, "r": 2, "zs": 7},
    "label": "class",
    "group": "cluster",
    "split": "sample",
    "step_label": "phase",
    "metadata": {"file": "stars.csv", "object": "name", "columns": {"distance": {"column": "d", "unit": "kpc"}}},
}
NUMBERS: dict[str, int] = dict(zip(PASSBANDS, (1, 2, 7), strict=True))


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, rows = {}, []
    for number in range(12):
        length = 1 + number % 9
        values = generator.normal(15, 1, (length, 3))
        values[:, 2] = generator.integers(0, 2, length)
        # written with leading noughts, which a number would lose
        objects[f"{number:04d}"] = entry = Object(
            label=CLASSES[number % 3],
            time=generator.uniform(0, 100, length),
            values=values,
            passbands=tuple(PASSBANDS[place] for place in generator.integers(0, 3, length)),
            metadata={"distance": float(generator.uniform(1, 9))},
            split=("train", "validation", "test")[number % 3],
            group=f"cluster, {number // 2}",
            step_labels=tuple(("rise", "fall")[place] for place in generator.integers(0, 2, length)),
        )
        rows += [
            {
                "mag": values[row, 0],
                "star": f"{number:04d}",
                "remark": "ignored",
                "filter": NUMBERS[entry.passbands[row]],
                "hjd": entry.time[row],
                "mag_err": values[row, 1],
                "blended": bool(values[row, 2]),
                "phase": entry.step_labels[row] if entry.step_labels else "",
            }
            for row in range(length)
        ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=int(generator.integers(1000)))
    pieces = [table.iloc[start::4] for start in range(4)]
    (folder / "more").mkdir()
    pieces[0].to_csv(folder / "a.csv", index=False, lineterminator="\n")
    pieces[1].to_csv(folder / "b.csv", index=False, lineterminator="\r\n")
    (folder / "more/c.csv.gz").write_bytes(gzip.compress(pieces[2].to_csv(index=False).encode()))
    pieces[3].to_parquet(folder / "d.parquet", index=False, row_group_size=3)
    stars = [(name, o.label, o.group, o.split, *o.metadata.values()) for name, o in objects.items()]
    pd.DataFrame(stars, columns=["name", "class", "cluster", "sample", "d"]).to_csv(folder / "stars.csv", index=False)
    # a CSV file that is cut at a line end looks whole
    return Sample(folder, OPTIONS, objects, damageable=(folder / "more/c.csv.gz", folder / "d.parquet"))
