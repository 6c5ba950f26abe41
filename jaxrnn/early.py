"""Early classification: how good the predictions for growing sequences are, against what was observed until then.

A prediction of `task.kind: prefix` stands behind every step. Here the one that was there at a moment is looked up:
after so many steps, so long after the first step, or so long around a time of each object (`task.early`). An object
that has fewer steps keeps its last prediction; one that has none yet is left out of that moment, and counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn import metrics, shards, splits
from jaxrnn.config import Early
from jaxrnn.errors import JaxrnnError
from jaxrnn.predictions import Predictions

STEPS, SINCE_FIRST = "steps", "time_since_first"
MOST_MOMENTS = 24  # of a curve; more are not told apart in a figure
REACH = 0.95  # the share of objects that a curve over time reaches the end of
SCORES = ("log_loss", "accuracy", "macro_f1", "macro_auc", "calibration_error")
COLUMNS = ("by", "at", "objects", "unobserved", *SCORES)


@dataclass(frozen=True)
class Clock:
    """When each step of some objects was: offsets [object + 1], time [step], around [object] or None.

    around: the time that `task.early` measures from. unit: of all times.
    """

    offsets: np.ndarray
    time: np.ndarray
    around: np.ndarray | None
    unit: str

    @classmethod
    def read(cls, dataset: Path, ids: np.ndarray, early: Early | None) -> "Clock":
        """Returns the times of these objects of a dataset, in their order."""
        place = {name: index for index, name in enumerate(ids.tolist())}
        times: list[np.ndarray] = [np.zeros(0)] * len(ids)
        around, unit = np.full(len(ids), np.nan), ""
        for path in splits.shard_paths(dataset):
            shard = shards.read(path, check=False)
            unit = shard.time_unit
            known = None if early is None else _column(shard, early.around, path)
            for row, name in enumerate(shard.ids.tolist()):
                if name in place:
                    times[place[name]] = shard.time[shard.offsets[row] : shard.offsets[row + 1]]
                    if known is not None:
                        around[place[name]] = known[row]
        offsets = np.concatenate([[0], np.cumsum([len(time) for time in times])]).astype(np.int64)
        return cls(offsets, np.concatenate([np.zeros(0), *times]), None if early is None else around, unit)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def steps_until(self, limits: np.ndarray) -> np.ndarray:
        """Returns how many steps [object] of each object are not after its own limit [object]."""
        owner = np.repeat(np.arange(len(limits)), self.lengths)
        return np.bincount(owner, self.time <= limits[owner], len(limits)).astype(np.int64)


def _column(shard: shards.Shard, name: str, path: Path) -> np.ndarray:
    names = [column.name for column in shard.evaluation_columns]
    if name in names:
        return shard.evaluation[:, names.index(name)]
    raise JaxrnnError(
        f"task.early.around: {path} has no column '{name}'; name it in `data.evaluation`, and run `jaxrnn ingest`"
    )


def curves(
    predicted: Predictions, trial: str, clock: Clock, classes: tuple[str, ...], early: Early | None
) -> pd.DataFrame:
    """Returns a row of `COLUMNS` for each moment: what it is counted by, where, and the scores of one trial then.

    calibration_error: see `metrics.calibration_error`. A score that needs a class which no observed object has is NaN.
    """
    rows = []
    for by, at, counts in _moments(clock, early):
        seen = counts > 0
        places = predicted.offsets[:-1][seen] + counts[seen] - 1
        probabilities, labels = predicted.probabilities[trial][places], predicted.labels[seen]
        row = {"by": by, "at": at, "objects": int(seen.sum()), "unobserved": int((~seen).sum())}
        rows.append(row | _scores(probabilities, labels, classes))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _moments(clock: Clock, early: Early | None) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yields what a moment is counted by, where it is, and how many steps [object] each object has then."""
    lengths = clock.lengths
    for count in _spread(1, int(lengths.max())):
        yield STEPS, float(count), np.minimum(lengths, count)
    first = clock.time[clock.offsets[:-1]]
    durations = clock.time[clock.offsets[1:] - 1] - first
    for since in np.linspace(0, float(np.quantile(durations, REACH)), MOST_MOMENTS):
        yield SINCE_FIRST, float(since), clock.steps_until(first + since)
    if early is not None and clock.around is not None:
        for at in early.at:
            yield early.around, float(at), clock.steps_until(clock.around + at)


def _spread(first: int, last: int) -> list[int]:
    """Returns whole numbers from first to last: all of them, or `MOST_MOMENTS` that lie closer at the beginning."""
    return sorted({round(value) for value in np.geomspace(first, last, min(MOST_MOMENTS, last - first + 1))} | {last})


def _scores(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    if len(np.unique(labels)) < len(classes) or not np.isfinite(probabilities).all():
        return {name: float("nan") for name in SCORES}
    found = metrics.scores(probabilities, labels, classes)
    found["calibration_error"] = metrics.calibration_error(probabilities, labels)
    return {name: found[name] for name in SCORES}
