"""The search: what is drawn, how far each rung goes, and which grid points go on."""

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import surveys
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, qmc

from jaxrnn import config, plan, search
from jaxrnn.config import Experiment, Range
from jaxrnn.errors import JaxrnnError

VALUES = surveys.experiment_values("goto", "folder")
RANGES = {
    "model.cell": ["simple", "gru", "lstm"],
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    "model.dropout": {"low": 0.1, "high": 0.6, "scale": "linear"},
    "model.units": {"low": 3, "high": 40, "scale": "log"},
    "training.gradient_clip": {"low": 0.5, "high": 5, "scale": "log"},
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(surveys.changed(VALUES, **changes))


def drawn(strategy: str, points: int, grid: dict[str, Any] = RANGES, **changes: Any) -> list[dict[str, Any]]:
    found = {"strategy": strategy, "points": points, **changes}
    return search.points(experiment(grid=grid, search=found))


DRAWN = pytest.mark.parametrize("strategy", ["random", "sobol"])


@DRAWN
@settings(max_examples=20, deadline=None)
@given(points=st.integers(1, 60), seed=st.integers(0, 2**31 - 2), keys=st.sets(st.sampled_from(sorted(RANGES))))
def test_points_differ_lie_in_their_ranges_and_are_the_first_of_more(
    strategy: str, points: int, seed: int, keys: set[str]
) -> None:
    grid = {key: RANGES[key] for key in keys | {"training.learning_rate"}}
    found = drawn(strategy, points, grid, seed=seed)
    assert len(found) == points == len({tuple(point.items()) for point in found})
    for point in found:
        assert list(point) == list(grid)
        for key, value in point.items():
            values = grid[key]
            if isinstance(values, dict):
                assert values["low"] <= value <= values["high"]
                assert isinstance(value, int) == (key == "model.units")
                assert float(f"{value:.4g}") == value
            else:
                assert value in values
    # of Sobol's sequence a power of 2 is drawn, of which the points are the first
    assert drawn(strategy, 100, grid, seed=seed)[:points] == found
    turned = dict(reversed(grid.items()))
    assert [dict(reversed(point.items())) for point in drawn(strategy, points, turned, seed=seed)] == found
    assert drawn(strategy, 30, grid, seed=seed) != drawn(strategy, 30, grid, seed=seed + 1)


def shares(points: list[dict[str, Any]]) -> np.ndarray:
    """Returns the learning rates and dropouts [point, key] as shares of their ranges."""
    keys = ("training.learning_rate", "model.dropout")
    ranges = {key: Range.model_validate(RANGES[key]) for key in keys}
    return np.array([[search.share(ranges[key], point[key]) for key in keys] for point in points])


@DRAWN
def test_draws_are_even_on_the_scale_of_their_range(strategy: str) -> None:
    points = drawn(strategy, 2000)
    for column in shares(points).T:
        assert kstest(column, "uniform").pvalue > 1e-3
    counts = pd.Series([point["model.cell"] for point in points]).value_counts()
    assert len(counts) == 3 and (abs(counts - 2000 / 3) < 100).all()
    units = pd.Series([point["model.units"] for point in points])
    # a whole number has its stretch up to the next one, on the logarithmic scale
    expected = [math.log((n + 1) / n) / math.log(41 / 3) for n in range(3, 41)]
    found = units.value_counts(normalize=True).reindex(range(3, 41), fill_value=0)
    assert abs(found.to_numpy() - expected).max() < 0.02


def test_sobols_points_cover_the_ranges_more_evenly_than_chance() -> None:
    keys = {key: RANGES[key] for key in ("training.learning_rate", "model.dropout")}
    worst = max(qmc.discrepancy(shares(drawn("sobol", 64, keys, seed=seed)).clip(0, 1)) for seed in range(10))
    best = min(qmc.discrepancy(shares(drawn("random", 64, keys, seed=seed)).clip(0, 1)) for seed in range(10))
    assert worst < best


@DRAWN
def test_every_combination_of_lists_can_be_drawn(strategy: str) -> None:
    grid = {"model.cell": ["simple", "gru", "lstm"], "model.units": [4, 8, 16, 32, 64]}
    found = drawn(strategy, 15, grid)
    assert sorted(map(str, found)) == sorted(map(str, search.points(experiment(grid=grid))))


def test_a_range_of_too_few_numbers_is_given_up_with_what_to_do() -> None:
    grid = {"model.units": {"low": 3, "high": 5, "scale": "linear"}}
    assert {point["model.units"] for point in drawn("random", 3, grid)} == {3, 4, 5}
    with pytest.raises(JaxrnnError, match=r"search.points: 4 grid points, and 120 draws gave only 3 that differ"):
        drawn("random", 4, grid)


def test_more_points_keep_the_trials_that_there_are() -> None:
    def fingerprints(points: int) -> list[str]:
        made = plan.make(experiment(grid=RANGES, seeds=2, search={"strategy": "random", "points": points}))
        return [trial.fingerprint for trial in sorted(made.trials, key=lambda trial: trial.id)]

    assert set(fingerprints(5)) < set(fingerprints(9)) and len(set(fingerprints(9))) == 18


# Successive halving


@given(epochs=st.integers(1, 500), reduction=st.integers(2, 5), stages=st.integers(2, 6), points=st.integers(1, 1000))
def test_rungs_give_fewer_points_more_epochs(epochs: int, reduction: int, stages: int, points: int) -> None:
    halving = {"reduction": reduction, "rungs": stages}
    found = search.rungs(epochs, config.Halving(**halving), points)
    assert [rung.number for rung in found] == list(range(1, stages + 1))
    assert (found[0].points, found[-1].epochs) == (points, epochs)
    for before, after in itertools.pairwise(found):
        assert before.points <= after.points * reduction < before.points + reduction**stages
        assert before.epochs * reduction >= after.epochs >= before.epochs
    if epochs >= reduction ** (stages - 1):
        assert len({rung.epochs for rung in found}) == stages


def test_without_halving_there_is_one_rung() -> None:
    assert search.rungs(7, None, 4) == (search.Rung(1, 7, 4),)
    job = plan.job_values(
        plan.make(experiment(grid=RANGES, search={"strategy": "random", "points": 2})),
        plan.make(experiment(grid=RANGES, search={"strategy": "random", "points": 2})).jobs[0],
    )
    # a job is a point in itself, and draws nothing
    assert job["search"] == config.Search().model_dump(mode="json") and job["grid"] == {}


TRIALS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.25, 0.5, 0.75, math.nan]), st.sampled_from(["halted", "diverged"])),
    min_size=1,
    max_size=20,
)


@given(trials=TRIALS, most=st.integers(1, 6), sign=st.sampled_from([1, -1]))
def test_the_best_points_go_on_with_all_their_trials(
    trials: list[tuple[int, float, str]], most: int, sign: int
) -> None:
    names = [f"trial-{number}" for number in range(len(trials))]
    rows = [
        {"trial": name, "outcome": outcome, "score": score}
        for name, (_, score, outcome) in zip(names, trials, strict=True)
    ]
    found = search.promote(rows, dict(zip(names, (t[0] for t in trials), strict=True)), "score", most, sign)
    assert sorted(row["trial"] for row in found) == sorted(names)
    # as one would do it by hand
    standing = []
    for point in {t[0] for t in trials}:
        scores = [score for at, score, outcome in trials if at == point and outcome == "halted" and score == score]
        if scores:
            lost = len(scores) < sum(at == point for at, *_ in trials)
            standing.append((lost, -sign * statistics.fmean(scores), point))
    going = {point for *_, point in sorted(standing)[:most]}
    told = {row["trial"]: row["promoted"] for row in found}
    assert [told[name] for name in names] == [at in going for at, *_ in trials]


def test_a_rungs_table_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"rungs/1.csv: not there yet; run `jaxrnn promote --rung 1`"):
        search.promoted(tmp_path, 1)
    (tmp_path / "rungs").mkdir()
    (tmp_path / "rungs" / "1.csv").write_text("trial\na\n")
    with pytest.raises(JaxrnnError, match=r"rungs/1.csv: cannot be read"):
        search.promoted(tmp_path, 1)
