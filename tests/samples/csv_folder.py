"""A folder of CSV files in sub-folders by split and class, every other one gzipped, and a table of what they are."""

import gzip
from pathlib import Path

import numpy as np

from samples import Object, Sample

CLASSES = ("cepheid", "rrlyrae", "eclipsing")
SPLITS = ("train", "validation", "test")
PASSBANDS = ("V", "I")


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, files = {}, []
    table = ["star,distance,cluster"]
    for number in range(12):
        length, label, split = 1 + number % 9, CLASSES[number % 3], SPLITS[number // 4]
        entry = Object(
            label=label,
            time=np.sort(generator.uniform(0, 100, length)),
            values=generator.normal(15, 1, (length, 2)),
            passbands=tuple(PASSBANDS[place] for place in generator.integers(0, 2, length)),
            metadata={"distance": float(generator.uniform(1, 9))},
            split=split,
            group=f"cluster {number // 2}",
        )
        name = f"{split}/{label}/star_{number}"
        objects[name] = entry
        rows = [
            f"{time!r},ignored,{passband},{magnitude!r},{error!r}"
            for time, passband, (magnitude, error) in zip(
                entry.time.tolist(), entry.passbands, entry.values.tolist(), strict=True
            )
        ]
        text = "\r\n".join(["hjd,remark,filter,mag,mag_err", *rows, ""]).encode()
        file = folder / f"{name}.csv{'.gz' if number % 2 else ''}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(text) if number % 2 else text)
        files.append(file)
        table.append(f"star_{number},{entry.metadata['distance']!r},{entry.group}")
    (folder / "stars.csv").write_text("\n".join(table) + "\n")
    options = {
        "time": "hjd",
        "values": {
            "magnitude": {"column": "mag", "unit": "mag"},
            "magnitude_error": {"column": "mag_err", "unit": "mag"},
        },
        "errors": ["magnitude_error"],
        "passband": "filter",
        "passbands": list(PASSBANDS),
        "labels": "folder",
        "splits": "folder",
        "table": "stars.csv",
        "id_column": "star",
        "group_column": "cluster",
        "metadata": {"distance": "kpc"},
    }
    return Sample(folder, options, objects, damageable=(files[6], files[7], folder / "stars.csv"))
