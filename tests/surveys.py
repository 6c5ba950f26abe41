"""Tiny surveys in the formats that the readers know, and experiment files for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn.config import to_yaml

Arrays = dict[str, np.ndarray]
OBJECTS = {"train": 12, "validation": 6, "test": 6}
STEPS = 5
PADDING = -99.0


def goto_arrays(classes: int = 2) -> Arrays:
    """Returns the nine arrays of a GOTO survey by the files' stems; object i of a split is of class i mod `classes`."""
    generator = np.random.default_rng(0)
    arrays: Arrays = {}
    for split, objects in OBJECTS.items():
        time = np.sort(generator.uniform(0, 100, (objects, STEPS)), axis=1)
        value = generator.normal(18, 1, (objects, STEPS))
        error = generator.uniform(0.01, 0.1, (objects, STEPS))
        table = np.stack([time, value, error], axis=2)
        table[::3, -2:] = PADDING
        arrays[f"{split}_time_features"] = table
        arrays[f"{split}_contextual_features"] = generator.normal(size=(objects, 2))
        arrays[f"{split}_labels"] = np.eye(classes)[np.arange(objects) % classes]
    return arrays


def write_goto(folder: Path, arrays: Arrays) -> Path:
    """Writes the arrays into `folder` and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def spcc_tables(objects: int = 24) -> tuple[Arrays, pd.DataFrame]:
    """Returns the arrays and metadata of an SPCC survey with the labels 1, 2 and 3, 4 observations an object."""
    generator = np.random.default_rng(0)
    rows = 4 * objects
    names = np.arange(100, 100 + objects)
    arrays: Arrays = {
        "snid": names,
        "offsets": np.arange(0, rows + 1, 4),
        "mjd": 56000 + generator.uniform(0, 100, rows),
        "band": (np.arange(rows) % 4).astype(np.int8),
        "flux": generator.normal(100, 30, rows),
        "flux_err": generator.uniform(1, 5, rows),
    }
    metadata = pd.DataFrame({"snid": names, "sim_type": 1 + np.arange(objects) % 3})
    for name in ("ra", "decl", "mwebv", "hostz", "hostz_err"):
        metadata[name] = generator.uniform(0, 1, objects)
    return arrays, metadata


def write_spcc(folder: Path, arrays: Arrays, metadata: pd.DataFrame) -> Path:
    """Writes both files into `folder` and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "spcc_lightcurves.npz", **arrays)  # pyright: ignore[reportArgumentType]
    metadata.to_csv(folder / "spcc_metadata.csv", index=False)
    return folder


def experiment_values(reader: str, path: Path | str) -> dict[str, Any]:
    """Returns the values of a small complete experiment on the survey at `path`."""
    features = ["value", "value_error"] if reader == "goto" else ["passband", "flux"]
    return {
        "experiment": "tiny",
        "seed": 1,
        "data": {"reader": reader, "path": str(path), "features": ["time_difference", *features]},
        "split": {"method": "given"} if reader == "goto" else {"train": 0.5, "validation": 0.25},
        "task": {},
        "model": {"units": 4, "depth": 1, "dense_units": 3, "dense_depth": 1},
        "loss": {},
        "training": {"epochs": 2},
        "selection": {},
        "grid": {},
    }


def changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns the values with dotted keys replaced: `changed(values, model__units=3)`, `__` standing for the dot."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            result[section][key] = value
        else:
            result[section] = value
    return result


def write_experiment(file: Path, values: dict[str, Any]) -> Path:
    """Writes an experiment file and returns its path."""
    file.write_text(to_yaml(values))
    return file
