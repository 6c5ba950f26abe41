"""Raw double-precision files in the layout of the ADACS waves, packed number by number."""

import struct
from pathlib import Path

import numpy as np

from samples import Object, Sample

LABELS = ("sine", "square", "2")


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, damageable = {}, []
    for split, count in (("Train", 6), ("Validation", 3), ("Test", 3)):
        (folder / split).mkdir()
        for number in range(1, count + 1):
            length = int(generator.integers(1, 10))
            values = generator.normal(size=length)
            (folder / split / f"X_{number}.dat").write_bytes(struct.pack(f"<{length}d", *values))
            (folder / split / f"Y_{number}.dat").write_bytes(struct.pack("<d", number % 3))
            damageable.append(folder / split / f"Y_{number}.dat")
            objects[f"{split}/{number}"] = Object(
                label=LABELS[number % 3],
                time=0.25 * np.arange(length),
                values=values[:, None],
                split=split.lower(),
            )
    options = {"labels": {"0": "sine", "1": "square"}, "sampling_step": 0.25, "time_unit": "seconds"}
    return Sample(folder, options, objects, tuple(damageable))
