"""A ragged HDF5 file with everything that the reader knows: passbands, metadata, groups, splits, labels of steps."""

from pathlib import Path

import h5py
import numpy as np

from samples import Object, Sample

CLASSES = ("rest", "task", "movie")
PASSBANDS = ("g", "r")
SPLITS = ("train", "validation", "test")


def write(folder: Path, generator: np.random.Generator) -> Sample:
    objects = {}
    for number in range(12):
        length = 1 + number % 9
        objects[f"run {number}"] = Object(
            label=CLASSES[number % 3],
            time=np.sort(generator.uniform(0, 100, length)),
            values=generator.uniform(0.1, 9, (length, 3)),
            passbands=tuple(PASSBANDS[place] for place in generator.integers(0, 2, length)),
            metadata={"age": float(generator.uniform(20, 80)), "weight": float(generator.uniform(50, 90))},
            split=SPLITS[number // 4],
            group=f"subject {number // 2}",
            step_labels=tuple(f"state {state}" for state in generator.integers(0, 4, length)),
        )
    every = list(objects.values())
    file = folder / "survey.h5"
    with h5py.File(file, "w") as opened:
        opened["steps/signal"] = np.concatenate([entry.values for entry in every])
        opened["steps/when"] = np.concatenate([entry.time for entry in every])
        opened["steps/band"] = [name for entry in every for name in entry.passbands]
        opened["steps/state"] = [label for entry in every for label in entry.step_labels or ()]
        opened["first_rows"] = np.cumsum([0, *(len(entry.time) for entry in every)])
        opened["names"] = list(objects)
        opened["condition"] = [entry.label for entry in every]
        opened["subject"] = [entry.group for entry in every]
        opened["split"] = [entry.split for entry in every]
        for name in ("age", "weight"):
            opened[f"person/{name}"] = [entry.metadata[name] for entry in every]
    options = {
        "features": "steps/signal",
        "offsets": "first_rows",
        "columns": ["left", "right", "right_error"],
        "units": {"left": "mV", "right*": "uV", "age": "years"},
        "errors": ["right_error"],
        "time": "steps/when",
        "time_unit": "seconds",
        "passband": "steps/band",
        "passbands": list(PASSBANDS),
        "labels": "condition",
        "step_labels": "steps/state",
        "ids": "names",
        "groups": "subject",
        "splits": "split",
        "metadata": {"age": "person/age", "weight": "person/weight"},
    }
    return Sample(file, options, objects, damageable=(file,))
