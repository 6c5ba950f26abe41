"""Two files of observations and the table of their objects, as the challenge has them."""

import csv
import gzip
from pathlib import Path

import numpy as np

from samples import Object, Sample

PASSBANDS = "ugrizy"
METADATA = ("ra", "decl", "gal_l", "gal_b", "ddf", "hostgal_specz", "hostgal_photoz", "hostgal_photoz_err")
METADATA = (*METADATA, "distmod", "mwebv")


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects = {}
    for number in range(12):
        length = 1 + number % 9
        values = generator.normal(0, 100, (length, 3))
        values[:, 1] = np.abs(values[:, 1])
        values[:, 2] = generator.integers(0, 2, length)
        metadata: dict[str, float] = dict(zip(METADATA, generator.uniform(0, 1, len(METADATA)).tolist(), strict=True))
        metadata |= {"ddf": float(number % 2), "distmod": float("nan") if number % 3 else 40.5}
        objects[str(600 + number)] = Object(
            label=("42", "90", "991")[number % 3],
            time=np.sort(generator.uniform(59580, 60675, length)),
            values=values,
            passbands=tuple(PASSBANDS[place] for place in generator.integers(0, 6, length)),
            metadata=metadata,
        )
    with (folder / "training_set_metadata.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["object_id", *METADATA, "target"])
        table.writerows([name, *entry.metadata.values(), entry.label] for name, entry in objects.items())
    batches = [["object_id,mjd,passband,flux,flux_err,detected"] for _ in range(2)]
    for number, (name, entry) in enumerate(objects.items()):
        for time, (flux, error, detected), band in zip(
            entry.time.tolist(), entry.values.tolist(), entry.passbands, strict=True
        ):
            batches[number % 2].append(f"{name},{time!r},{PASSBANDS.index(band)},{flux!r},{error!r},{detected:.0f}")
    texts = ["\n".join([*batch, ""]).encode() for batch in batches]
    (folder / "training_set_batch1.csv").write_bytes(texts[0])
    (folder / "training_set_batch2.csv.gz").write_bytes(gzip.compress(texts[1]))
    return Sample(folder, {}, objects, damageable=(folder / "training_set_batch2.csv.gz",))
