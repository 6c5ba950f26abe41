"""GOTO's grid of 32 trials and its data, as the peers of `goto.py` need them: with NumPy alone, in any environment."""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DATA = Path(__file__).parents[2] / "shared" / "data" / "goto" / "sample_data"
EPOCHS, BATCH, DENSE, L2, MASK = 50, 32, 25, 0.01, -99.0
GRID: dict[str, list[Any]] = {
    "model.cell": ["gru", "lstm"],
    "model.units": [25, 50],
    "model.dropout": [0.2, 0.5],
    "training.learning_rate": [1e-3, 1e-2],
    "loss.gamma": [0, 1],
}


class Trial(NamedTuple):
    cell: str
    units: int
    dropout: float
    learning_rate: float
    gamma: float


TRIALS = [Trial(*values) for values in itertools.product(*GRID.values())]
# of one cell and one number of units, which alone decide what a trial costs
ALIKE = len(TRIALS) // 4


def some(count: int) -> list[int]:
    """Returns the places of so many trials, equally many of each cell and number of units, evenly spread."""
    within = np.linspace(0, ALIKE - 1, count // 4).round().astype(int)
    return [start + int(place) for start in range(0, len(TRIALS), ALIKE) for place in within]


class Split(NamedTuple):
    """series [object, step, feature], context [object, column] and labels [object] of one split."""

    series: np.ndarray
    context: np.ndarray
    labels: np.ndarray


def read(folder: Path) -> tuple[Split, Split, np.ndarray]:
    """Returns the training and validation splits, normalised by training's mean and deviation, and the classes'
    weights."""
    splits = {}
    for name in ("train", "validation"):
        parts = [np.load(folder / f"{name}_{part}.npy") for part in ("time_features", "contextual_features", "labels")]
        splits[name] = Split(parts[0].astype(np.float32), parts[1].astype(np.float32), parts[2].argmax(axis=1))
    train = splits["train"]
    valid = train.series[..., 0] != MASK
    scales = [(values.mean(axis=0), values.std(axis=0)) for values in (train.series[valid], train.context)]

    def normalised(split: Split) -> Split:
        series = np.where(split.series == MASK, MASK, (split.series - scales[0][0]) / scales[0][1])
        return Split(series, (split.context - scales[1][0]) / scales[1][1], split.labels)

    counts = np.bincount(train.labels)
    weights = len(train.labels) / (len(counts) * counts)
    return normalised(train), normalised(splits["validation"]), weights.astype(np.float32)


class Found(NamedTuple):
    """A trained network: its parameters, and its loss and accuracy on validation after the last epoch."""

    parameters: int
    loss: float
    accuracy: float


# from a trial and the number of epochs
Train = Callable[[Trial, int], Found]


def run(description: str | None, prepare: Callable[[argparse.Namespace], Train]) -> None:
    """Is a peer's command: trains the trials that were asked for, one after another, and prints a line of JSON each."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with GOTO's sample data")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=0, help="0 for the library's own choice")
    parser.add_argument("--trials", type=int, nargs="+", default=range(len(TRIALS)), help="places in the grid; all")
    options = parser.parse_args()
    train = prepare(options)
    for place in options.trials:
        began = time.perf_counter()
        found = train(TRIALS[place], options.epochs)
        print(json.dumps({"trial": place, "seconds": time.perf_counter() - began, **found._asdict()}), flush=True)
