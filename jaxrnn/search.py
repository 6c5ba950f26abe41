"""The search: which grid points an experiment tries, and by successive halving which of them go on.

All of it is known from the experiment file, but which points go on: that the validation scores of a rung say.
"""

import csv
import itertools
import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrnn.config import Experiment, Halving, Range, digest, is_whole
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import DIVERGED

DIGITS = 4  # of a drawn number: it stands in names and tables
DRAWS_A_POINT = 30  # before a search for points that differ is given up


def points(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns the grid points: values by the keys of `grid`, each point once.

    All combinations in the file's order, or so many as are drawn. Draws of a key depend on the seed and the key alone
    (of `sobol` also on which keys there are), and those of fewer points are the first ones of more.
    """
    axes, search = experiment.grid, experiment.search
    if search.strategy == "grid":
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]  # pyright: ignore
    assert search.points is not None
    seed = experiment.seed if search.seed is None else search.seed
    limit = DRAWS_A_POINT * search.points
    shares = _random(seed, sorted(axes)) if search.strategy == "random" else _sobol(seed, sorted(axes), limit)
    found: dict[str, dict[str, Any]] = {}
    for drawn in itertools.islice(shares, limit):
        point = {key: _value(key, values, drawn[key]) for key, values in axes.items()}
        found.setdefault(digest(point), point)
        if len(found) == search.points:
            return list(found.values())
    raise JaxrnnError(
        f"search.points: {search.points:,} grid points, and {limit:,} draws gave only {len(found):,} that differ; ask "
        "for fewer, or widen the ranges of `grid`"
    )


def _random(seed: int, keys: list[str]) -> Iterator[dict[str, float]]:
    # Python's own generator gives the same numbers in every version, from a text too
    drawers = {key: random.Random(f"{seed} {key}") for key in keys}
    while True:
        yield {key: drawer.random() for key, drawer in drawers.items()}


def _sobol(seed: int, keys: list[str], limit: int) -> Iterator[dict[str, float]]:
    """Yields shares by key: the points of Sobol's sequence, shifted in each dimension by bits drawn from the seed."""
    from scipy.stats import qmc

    bits = 30
    whole = qmc.Sobol(len(keys), scramble=False, bits=bits).random_base2(max(1, math.ceil(math.log2(limit))))
    shifts = [random.Random(f"{seed} {key}").getrandbits(bits) for key in keys]
    for row in whole:
        numbers = [int(share * 2**bits) ^ shift for share, shift in zip(row, shifts, strict=True)]
        yield {key: (number + 0.5) / 2**bits for key, number in zip(keys, numbers, strict=True)}


def _value(key: str, values: tuple[Any, ...] | Range, share: float) -> Any:
    """Returns the value of a key that lies at a share, from 0 to below 1, of its list or range."""
    if not isinstance(values, Range):
        return values[int(share * len(values))]
    whole = is_whole(key)
    # a whole number has the stretch up to the next one, the last of them too
    ends = (values.low, values.high + 1 if whole else values.high)
    if values.scale == "log":
        low, high = (math.log(end) for end in ends)
        found = math.exp(low + share * (high - low))
    else:
        found = ends[0] + share * (ends[1] - ends[0])
    found = math.floor(found) if whole else float(f"{found:.{DIGITS}g}")
    return min(max(found, int(values.low) if whole else values.low), int(values.high) if whole else values.high)


def share(values: Range, value: float) -> float:
    """Returns where in its range a value lies, from 0 to 1, on the range's scale."""
    low, high, at = (
        math.log(number) if values.scale == "log" else number for number in (values.low, values.high, value)
    )
    return (at - low) / (high - low)


@dataclass(frozen=True)
class Rung:
    """A stage of successive halving: up to which epoch its trials train, and how many grid points at most there are."""

    number: int
    epochs: int
    points: int


def rungs(epochs: int, halving: Halving | None, points: int = 1) -> tuple[Rung, ...]:
    """Returns the rungs, counted from 1; a single one without halving. epochs: of the last one; points: how many grid
    points there are."""
    if halving is None:
        return (Rung(1, epochs, points),)
    by_rung = [halving.reduction**number for number in range(halving.rungs)]
    return tuple(
        Rung(number, math.ceil(epochs / longer), math.ceil(points / fewer))
        for number, (longer, fewer) in enumerate(zip(reversed(by_rung), by_rung, strict=True), start=1)
    )


def table(folder: Path, number: int) -> Path:
    """Returns where a rung's table is, of an experiment's folder."""
    return folder / "rungs" / f"{number}.csv"


def promoted(folder: Path, number: int) -> set[str]:
    """Returns the fingerprints of the trials that went on from a rung."""
    path = table(folder, number)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["fingerprint"] for row in csv.DictReader(file) if row["promoted"] == "True"}
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run `jaxrnn promote --rung {number}` with the experiment file first")
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); remove it and run `jaxrnn promote --rung {number}` again")


def promote(
    trained: list[dict[str, Any]], point_of: dict[str, int], score: str, most: int, sign: int
) -> list[dict[str, Any]]:
    """Returns a rung's trials, best first, with the mean score of their grid point, its rank and whether it goes on.

    trained: the trials, each with `trial`, `outcome` and the score. point_of: the number of each trial's grid point.
    most: how many points go on; sign: -1 where lower is better. A point with a diverged trial stands behind all
    others, and does not go on where all of its trials have diverged.
    """
    by_point: dict[int, list[dict[str, Any]]] = {}
    for row in trained:
        by_point.setdefault(point_of[row["trial"]], []).append(row)
    means, order = {}, []
    for point, rows in by_point.items():
        scores = [row[score] for row in rows if row["outcome"] != DIVERGED and math.isfinite(row[score])]
        if scores:
            means[point] = statistics.fmean(scores)
            order.append((len(scores) < len(rows), -sign * means[point], point))
    ranks = {point: rank for rank, (*_, point) in enumerate(sorted(order), start=1)}
    behind = len(ranks) + 1
    return [
        row | {"mean": means.get(point), "rank": ranks.get(point), "promoted": ranks.get(point, most + 1) <= most}
        for point in sorted(by_point, key=lambda point: (ranks.get(point, behind), point))
        for row in by_point[point]
    ]
