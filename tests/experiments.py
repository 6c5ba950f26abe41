"""A small real experiment, from arrays on disk to planned jobs, for the tests of what comes after."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxrnn import config, ingest, plan, predictions, splits
from jaxrnn.config import Experiment
from jaxrnn.plan import Plan
from jaxrnn.predictions import Predictions
from jaxrnn.ranks import Ranks
from jaxrnn.results import Results

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"reader": "goto", "features": ["time", "value", "value_error"], "metadata": ["context_0"]},
    "split": {"method": "given"},
    "task": {},
    "model": {"units": 6, "depth": 1, "dropout": 0.3, "dense_units": 5},
    "loss": {"l2": 0.001},
    "training": {"batch_size": 16, "learning_rate": 0.01, "epochs": 4, "length_buckets": 2, "segment_seconds": 0.01},
    "selection": {},
}


def write_arrays(folder: Path, objects: int = 120, steps: int = 12, classes: int = 2, seed: int = 0) -> None:
    """Writes a survey of sines in GOTO's form: the class is the period, lengths vary, padding is -99."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", objects), ("validation", objects // 3), ("test", objects // 3)):
        label = np.arange(count) % classes
        lengths = generator.integers(3, steps + 1, count)
        time = np.arange(steps) + generator.uniform(0, 0.5, (count, steps)).cumsum(axis=1)
        value = np.sin(time * (0.5 + label[:, None])) + generator.normal(0, 0.3, (count, steps))
        table = np.stack([time, value, generator.uniform(0.1, 0.5, (count, steps))], axis=2)
        table[np.arange(steps) >= lengths[:, None]] = -99.0
        np.save(folder / f"{split}_time_features.npy", table)
        np.save(folder / f"{split}_contextual_features.npy", generator.normal(0, 1, (count, 2)))
        np.save(folder / f"{split}_labels.npy", np.eye(classes)[label])


def read_predictions(path: Path) -> tuple[dict[str, Predictions], tuple[str, ...]]:
    """Returns the predictions of a job of an experiment without folds, by split, and the classes."""
    content, classes = predictions.read(path)
    return content[None], classes


def write_config(folder: Path, **changes: Any) -> Path:
    """Writes an experiment file; changes are dotted keys with `__` for the dot, or whole top-level keys."""
    values: dict[str, Any] = {"experiment": "tiny", "seed": 1, "grid": {}, **{k: dict(v) for k, v in SECTIONS.items()}}
    values["data"]["path"] = str(folder / "survey")
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = value
        else:
            values[section] = value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def prepared(folder: Path, **changes: Any) -> tuple[Experiment, Results, Plan]:
    """Returns a tiny experiment that is ingested, split and planned; its results lie under `folder`."""
    if not (folder / "survey").exists():
        write_arrays(folder / "survey")
    experiment = config.load(write_config(folder, **changes))
    at = Results(folder / "results")
    dataset = at.dataset(plan.dataset_key(experiment))
    ingest.ingest(experiment.data, folder / "survey", dataset, Ranks(), lambda done, total: None)
    splits.split(experiment, dataset, at.experiment(experiment.experiment))
    made = plan.make(experiment)
    plan.write(made, at)
    return experiment, at, made
