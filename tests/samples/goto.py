"""GOTO arrays, with padding wherever a light curve is shorter than the longest."""

from pathlib import Path

import numpy as np

from samples import Object, Sample

STEPS = 9
PADDING = -99.0


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects, damageable = {}, []
    for split, count in (("train", 6), ("validation", 3), ("test", 3)):
        series = np.full((count, STEPS, 3), PADDING)
        context = generator.normal(size=(count, 2))
        labels = np.zeros((count, 3))
        for number in range(count):
            length = int(generator.integers(1, STEPS + 1))
            time = np.cumsum(generator.uniform(0.1, 3, length))
            values = np.column_stack([generator.normal(18, 1, length), generator.uniform(0.01, 0.1, length)])
            series[number, :length, 0], series[number, :length, 1:] = time, values
            labels[number, number % 3] = 1
            objects[f"{split}-{number:06d}"] = Object(
                label=str(number % 3),
                time=time,
                values=values,
                metadata={"context_0": context[number, 0], "context_1": context[number, 1]},
                split=split,
            )
        for kind, array in (("time_features", series), ("contextual_features", context), ("labels", labels)):
            np.save(folder / f"{split}_{kind}.npy", array)
            damageable.append(folder / f"{split}_{kind}.npy")
    return Sample(folder, {}, objects, tuple(damageable))
