"""Finished trials: what each left, kept under `results/<experiment>/trials/<fingerprint>/` and never trained twice.

Snakemake knows nothing of this folder and so never deletes it: a rerun or changed job adopts what is finished here.
Trials that successive halving halts lie beside them, `<fingerprint>.epoch-<epochs>/`, with what they go on from.
"""

import csv
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import bundles, results
from jaxrnn.claims import Claim
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import HISTORY_COLUMNS, written_whole

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
SOFTWARE = ("jaxrnn", *LIBRARIES, "device", "cores", "recurrence")


@dataclass(frozen=True)
class FinishedTrial:
    """A trial's outcome: history rows as in `HISTORY_COLUMNS`; arrays of the best epoch's network; probabilities
    [object, class] by split; attention: weights [target step, source step] by the id of the test object, where there is
    a decoder; state: the leaves of the training state, of a halted trial; record: outcome, epochs, best_epoch, loss,
    seconds, input_seconds (of them, those in which input was waited for), pack width, device, versions."""

    history: list[list[float]]
    arrays: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    record: dict[str, Any]
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    state: list[np.ndarray] = field(default_factory=list)


def save(folder: Path, finished: FinishedTrial, claim: Claim | None = None) -> None:
    """Writes the trial whole or not at all, and under a claim only while it holds."""
    with written_whole(folder, claim=claim) as temporary:
        temporary.mkdir()
        pd.DataFrame(finished.history, columns=list(HISTORY_COLUMNS)).to_csv(temporary / "history.csv", index=False)
        bundles.write_arrays(temporary / "parameters.npz", finished.arrays)
        bundles.write_arrays(temporary / "probabilities.npz", finished.probabilities)
        # an id may be anything, and is no name in an archive
        numbered = {f"weights_{number}": weights for number, weights in enumerate(finished.attention.values())}
        bundles.write_arrays(
            temporary / "attention.npz", {"ids": np.array(list(finished.attention), dtype=str)} | numbered
        )
        if finished.state:
            leaves = {f"leaf_{number}": leaf for number, leaf in enumerate(finished.state)}
            bundles.write_arrays(temporary / "state.npz", leaves)
        results.write_json(temporary / "trial.json", finished.record)


def load(folder: Path) -> FinishedTrial:
    record = results.read_json(folder / "trial.json", "jaxrnn train")
    attention = bundles.read_arrays(folder / "attention.npz")
    return FinishedTrial(
        history=history(folder),
        arrays=bundles.read_arrays(folder / "parameters.npz"),
        probabilities=bundles.read_arrays(folder / "probabilities.npz"),
        record=record,
        attention={str(name): attention[f"weights_{number}"] for number, name in enumerate(attention["ids"])},
    )


def history(folder: Path) -> list[list[float]]:
    """Returns a finished trial's epochs, rows as in `HISTORY_COLUMNS`."""
    try:
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            # not by pandas, of which not every version gives back the very number that it wrote
            return [[float(value or "nan") for value in row] for row in itertools.islice(csv.reader(file), 1, None)]
    except (OSError, ValueError, csv.Error) as error:
        raise JaxrnnError(f"{folder / 'history.csv'}: cannot be read ({error}); remove {folder} and train again")


def state(folder: Path) -> list[np.ndarray]:
    """Returns the leaves of a halted trial's training state, in their order."""
    leaves = bundles.read_arrays(folder / "state.npz")
    return [leaves[f"leaf_{number}"] for number in range(len(leaves))]


def record(folder: Path) -> dict[str, Any] | None:
    """Returns the record of a finished trial, None where it is not finished."""
    path = folder / "trial.json"
    return results.read_json(path, "jaxrnn train") if path.exists() else None
