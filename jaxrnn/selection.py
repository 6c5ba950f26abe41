"""The choice among trials. It is handed the validation table alone: no test score can reach it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn.config import LOWER_IS_BETTER
from jaxrnn.errors import JaxrnnError
from jaxrnn.metrics import mean_with_interval
from jaxrnn.results import DIVERGED, HALTED

EFFECTS = ("key", "value", "points", "mean", "low", "high", "explained")
# Of a key's values; where more are numbers, or they have fewer points each, groups of neighbours stand for them.
MOST_VALUES, FEWEST, GROUPS = 8, 3, 4


@dataclass(frozen=True)
class Choice:
    """The chosen trial, its grid point, and the metric's mean over the point's trials: its seeds in every fold."""

    trial: str
    point: dict[str, Any]
    metric: str
    mean: float


def choose(training_results: pd.DataFrame, keys: list[str], metric: str) -> Choice:
    """Returns the grid point with the best mean of a validation metric over its trials, and the best of these.

    A point's trials are its seeds, in every fold where there are folds. Points that successive halving ended, and then
    points with a diverged trial, stand back behind all others; equals are parted by validation log loss.
    """
    # points are numbered before any trial is left out: a grid value of None is NaN here, and equals nothing
    point = _points(training_results, keys)
    trials = point.value_counts()
    usable = training_results[(training_results["outcome"] != DIVERGED) & np.isfinite(training_results[metric])]
    if usable.empty:
        raise JaxrnnError(
            f"all {len(training_results)} trials diverged: there is nothing to choose; lower training.learning_rate "
            "or set training.gradient_clip"
        )
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    ranked = []
    for place, rows in usable.groupby(point, sort=True):
        whole = HALTED not in set(rows["outcome"]), len(rows) == trials[place]
        ranked.append((*whole, sign * rows[metric].mean(), -rows["log_loss"].mean(), -place, rows))  # pyright: ignore
    *_, rows = max(ranked, key=lambda entry: entry[:5])
    best = rows.sort_values([metric, "log_loss"], ascending=[sign < 0, True], kind="stable").iloc[0]
    return Choice(str(best["trial"]), {key: plain(best[key]) for key in keys}, metric, float(rows[metric].mean()))


def summarise(table: pd.DataFrame, keys: list[str], scores: list[str]) -> pd.DataFrame:
    """Returns one row a grid point: seeds, folds (where the table has folds), how many of its trials diverged, and each
    score's mean, its interval and standard deviation over the others.

    Trials of different folds share most of their training objects: over folds, intervals are too narrow.
    """
    rows = []
    for _, group in table.groupby(_points(table, keys), sort=True):
        row: dict[str, Any] = {key: group.iloc[0][key] for key in keys}
        diverged = (group["outcome"] == DIVERGED).to_numpy(dtype=bool)
        folds = group["fold"].nunique() if "fold" in group else 1
        row |= {"seeds": len(group) // folds} | ({"folds": folds} if "fold" in group else {})
        row["diverged"] = int(diverged.sum())
        for score in scores:
            values = group[score].to_numpy(dtype=float)[~diverged]
            mean, low, high = mean_with_interval(values)
            # a t interval doesn't know where its score ends
            most = np.inf if score.removeprefix("test_") in LOWER_IS_BETTER else 1.0
            ends = np.clip([low, high], 0.0, most)
            row |= {f"{score}_mean": mean, f"{score}_low": float(ends[0]), f"{score}_high": float(ends[1])}
            row[f"{score}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        rows.append(row)
    result = pd.DataFrame(rows)
    for key in keys:
        # else a whole number beside None becomes 3.0
        result[key] = pd.Series([row[key] for row in rows], dtype=object)
    return result


def effects(training_results: pd.DataFrame, keys: list[str], metric: str) -> pd.DataFrame:
    """Returns what each key that varies does to a validation metric: a row for each of its values (`EFFECTS`), keys
    that explain most first.

    points: the grid points with that value, each by the mean over its trials. mean, low, high: of these, and the ends
    of their middle half. explained: the share of the variance among points that lies between the key's values, less
    what as many random groups would have (epsilon squared; Kelley 1935, doi 10.1073/pnas.21.9.554), at least 0; NaN
    where no value has two points. Diverged trials and those that successive halving ended take no part.
    """
    given = training_results[metric].to_numpy(dtype=float)
    ended = training_results["outcome"].isin([DIVERGED, HALTED]).to_numpy(dtype=bool)
    usable = ~ended & np.isfinite(given)
    points = _points(training_results, keys).to_numpy()[usable]
    _, first, point = np.unique(points, return_index=True, return_inverse=True)
    score, found = np.bincount(point, given[usable]) / np.bincount(point), []
    for key in keys:
        values = training_results[key].to_numpy(dtype=object)[usable][first]
        of_value = [(name, score[here]) for name, here in _by_value(values)]
        if len(of_value) < 2:
            continue
        explained = _explained([values for _, values in of_value])
        for name, values in of_value:
            ends = np.quantile(values, [0.25, 0.75])
            found.append((key, name, len(values), values.mean(), *ends, explained))
    table = pd.DataFrame(found, columns=list(EFFECTS))
    return table.sort_values("explained", ascending=False, kind="stable", ignore_index=True, na_position="last")


def _explained(groups: list[np.ndarray]) -> float:
    whole = np.concatenate(groups)
    total = ((whole - whole.mean()) ** 2).sum()
    within, freedom = sum(((own - own.mean()) ** 2).sum() for own in groups), len(whole) - len(groups)
    if freedom == 0:
        return float("nan")
    return max(0.0, 1 - within / freedom * (len(whole) - 1) / total) if total > 0 else 0.0


def _by_value(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns the values of a key, the least first, with the places that have them; of numbers that are too many, or
    have a place or two each, groups of neighbours."""
    numbers = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), dtype=np.float64)
    # a whole number beside None has become 3.0
    names = np.array(
        [f"{value:.12g}" if isinstance(value, float) else str(value) for value in map(plain, values)], dtype=object
    )
    different, groups = len(set(names)), min(GROUPS, len(names) // FEWEST)
    crowded = different > MOST_VALUES or len(names) < FEWEST * different
    if crowded and 1 < groups < different and np.isfinite(numbers).all():
        ends = np.unique(np.quantile(numbers, np.arange(1, groups) / groups))
        places = np.searchsorted(ends, numbers)
        parts = [places == place for place in np.unique(places)]
        return [(f"{numbers[here].min():.4g} to {numbers[here].max():.4g}", here) for here in parts]
    return [(name, names == name) for name in dict.fromkeys(names[np.argsort(numbers, kind="stable")].tolist())]


def _points(table: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Returns the number of each trial's grid point, in the order of the table."""
    if not keys:
        return pd.Series(0, index=table.index)
    return table.groupby(keys, sort=False, dropna=False).ngroup()


def plain(value: Any) -> Any:
    """Returns a NumPy scalar as Python's own, NaN as None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
