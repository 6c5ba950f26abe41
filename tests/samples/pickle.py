"""A pickle of sequences of unequal length, written by Python's own pickle."""

import pickle
from pathlib import Path

import numpy as np

from samples import Object, Sample


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, pairs = {}, []
    for split, count in (("train", 8), ("test", 4)):
        x = [generator.normal(size=(int(generator.integers(1, 10)), 2)) for _ in range(count)]
        y = np.arange(count) % 3
        pairs.append((x, y))
        for number, values in enumerate(x):
            objects[f"{split}-{number:06d}"] = Object(
                label=str(y[number]), time=np.arange(len(values), dtype=float), values=values, split=split
            )
    file = folder / "waves.pkl"
    file.write_bytes(pickle.dumps(tuple(pairs)))
    return Sample(file, {}, objects, (file,))
