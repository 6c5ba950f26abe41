"""The choice: the best grid point by validation alone, not the luckiest trial."""

import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import stats
from test_leaks import shard, write_dataset

from jaxrnn import aggregate, bundles, plan, predictions, results, selection, splits, trials
from jaxrnn.config import Experiment, Selection, Task
from jaxrnn.errors import JaxrnnError
from jaxrnn.metrics import mean_with_interval, score_names, scores
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.readers import Column, Survey
from jaxrnn.results import COMPLETED, DIVERGED, EARLY_STOPPED, HALTED, Results
from jaxrnn.selection import Choice, choose
from jaxrnn.shards import COUNTS

KEYS = ["model.cell", "model.bidirectional", "training.gradient_clip", "training.patience"]
VALUES: list[list[Any]] = [["gru", "lstm"], [False, True], [None, 0.5, 1.0], [3, None]]


def trial(
    point: dict[str, Any], auc: float, loss: float = 0.5, outcome: str = COMPLETED, **others: Any
) -> dict[str, Any]:
    return {**point, "macro_auc": auc, "log_loss": loss, "outcome": outcome, **others}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Returns trials t0, t1, ... in this order, as `training_results.csv` has them."""
    return pd.DataFrame([{"trial": f"t{index}", **row} for index, row in enumerate(rows)])


def rates(**scores: list[float]) -> pd.DataFrame:
    """Returns trials of the points learning_rate = slow, fast, ... with a seed for each score."""
    return table(*(trial({"rate": name}, score) for name, entries in scores.items() for score in entries))


def test_the_best_mean_wins_over_the_luckiest_seed() -> None:
    choice = choose(rates(lucky=[0.99, 0.5, 0.5], steady=[0.8, 0.9, 0.85]), ["rate"], "macro_auc")
    assert (choice.trial, choice.point, choice.metric) == ("t4", {"rate": "steady"}, "macro_auc")
    assert choice.mean == pytest.approx(0.85)


def test_what_a_key_explains_is_what_an_analysis_of_variance_finds() -> None:
    generator = default_rng(3)
    grid = {"cell": ["gru", "lstm", "simple"], "units": [32, 4, None], "gamma": [0.0, 1.0]}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    aucs = {index: 0.5 + 0.2 * (point["units"] == 32) + 0.05 * generator.random() for index, point in enumerate(points)}
    # two seeds each; what diverged, or was halted, takes no part
    rows = [trial(point, aucs[index] + part) for index, point in enumerate(points) for part in (-0.01, 0.01)]
    rows += [trial(points[0], 0.0, outcome=DIVERGED), trial(points[1], 0.0, outcome=HALTED)]
    rows += [trial({"cell": "other", "units": 1, "gamma": 0.5}, 0.1, outcome=HALTED), trial(points[0], math.nan)]
    found = selection.effects(table(*rows), list(grid), "macro_auc")
    assert found["key"].iloc[0] == "units" and found["explained"].is_monotonic_decreasing
    for key, values in grid.items():
        own = found[found["key"] == key].set_index("value")
        groups = [[aucs[index] for index, point in enumerate(points) if point[key] == value] for value in values]
        f, k, n = stats.f_oneway(*groups).statistic, len(values), len(points)
        assert own["explained"].to_numpy() == pytest.approx(max(0.0, (f - 1) * (k - 1) / (f * (k - 1) + n - k)))
        for value, group in zip(values, groups, strict=True):
            row = own.loc[f"{value:g}" if isinstance(value, float) else str(value)]
            assert row["points"] == len(group) and row["mean"] == pytest.approx(np.mean(group))
            assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(group, [25, 75])))
    assert found[found["key"] == "units"]["value"].tolist() == ["4", "32", "None"]


def test_of_many_numbers_neighbours_stand_together() -> None:
    rates = 10.0 ** default_rng(1).uniform(-4, -1, 40)
    rows = [trial({"rate": rate, "one": "same"}, 0.9 - 0.1 * (rate > np.median(rates))) for rate in rates]
    found = selection.effects(table(*rows), ["one", "rate"], "macro_auc")
    assert found["points"].tolist() == [10, 10, 10, 10] and set(found["key"]) == {"rate"}
    assert found["mean"].tolist() == pytest.approx([0.9, 0.9, 0.8, 0.8]) and found["explained"].tolist() == [1.0] * 4
    ends = [tuple(map(float, value.split(" to "))) for value in found["value"]]
    assert ends == sorted(ends) and all(low < high for low, high in ends)
    assert selection.effects(table(*rows), ["one"], "macro_auc").empty
    # of few points too, and where each value has one, no share is told
    few = selection.effects(table(*rows[:8]), ["rate"], "macro_auc")
    assert few["points"].tolist() == [4, 4]
    alone = [trial({"cell": name}, auc) for name, auc in (("a", 0.1), ("b", 0.9))]
    assert np.isnan(selection.effects(table(*alone), ["cell"], "macro_auc")["explained"].to_numpy()).all()
    assert selection.effects(table(*rows), [], "macro_auc").empty


def test_what_chance_gives_is_taken_off() -> None:
    generator, shares = default_rng(5), list[float]()
    for _ in range(200):
        rows = [trial({"rate": rate}, generator.random()) for rate in generator.random(12)]
        shares.append(selection.effects(table(*rows), ["rate"], "macro_auc")["explained"].iloc[0])
    assert np.median(shares) < 0.05 and np.mean(shares) < 0.2  # of 12 points in 4 groups; eta squared has 0.27


def test_log_loss_is_best_where_it_is_least() -> None:
    trials = table(
        *(trial({"rate": rate}, auc, loss) for rate, auc, loss in [(1, 0.9, 0.7), (1, 0.9, 0.4), (2, 0.1, 0.3)])
    )
    assert choose(trials, ["rate"], "log_loss") == Choice("t2", {"rate": 2}, "log_loss", 0.3)
    assert choose(trials.head(2), ["rate"], "log_loss").trial == "t1"


def test_points_with_a_diverged_seed_stand_back() -> None:
    brilliant = [trial({"rate": 1.0}, 0.99), trial({"rate": 1.0}, math.nan, math.nan, DIVERGED)]
    whole = [trial({"rate": 0.1}, 0.6), trial({"rate": 0.1}, 0.7, outcome=EARLY_STOPPED)]
    assert choose(table(*brilliant, *whole), ["rate"], "macro_auc").trial == "t3"
    # where no point is whole, the seeds that came through decide, and a diverged trial is never chosen
    assert choose(table(*brilliant, trial({"rate": 0.1}, 1.0, outcome=DIVERGED)), ["rate"], "macro_auc").trial == "t0"


def test_a_score_that_is_nan_counts_as_diverged() -> None:
    trials = table(
        trial({"rate": 1}, 0.99), trial({"rate": 1}, math.nan), trial({"rate": 2}, 0.5), trial({"rate": 2}, 0.5)
    )
    assert choose(trials, ["rate"], "macro_auc").point == {"rate": 2}


def test_all_trials_diverged_is_said_with_what_to_do() -> None:
    trials = table(*[trial({"rate": rate}, 0.9, outcome=DIVERGED) for rate in (1, 2, 3)])
    with pytest.raises(JaxrnnError, match=r"all 3 trials diverged.*training\.learning_rate"):
        choose(trials, ["rate"], "macro_auc")


def test_equals_are_parted_by_log_loss_then_by_their_order() -> None:
    def of(*losses: float) -> str:
        return choose(
            table(*(trial({"rate": index // 2}, 0.75, loss) for index, loss in enumerate(losses))),
            ["rate"],
            "macro_auc",
        ).trial

    assert of(0.5, 0.5, 0.5, 0.25) == "t3"
    assert of(0.25, 0.5, 0.5, 0.5) == "t0"
    assert of(0.5, 0.25, 0.25, 0.5) == "t1"
    assert of(0.5, 0.5, 0.5, 0.5) == "t0"


def test_without_a_grid_the_best_seed_is_chosen() -> None:
    choice = choose(table(*(trial({}, auc) for auc in (0.5, 0.75, 0.25))), [], "macro_auc")
    assert choice == Choice("t1", {}, "macro_auc", 0.5)


@pytest.mark.parametrize(
    "values",
    [[1.0, None], [None, 3], ["gru", "lstm"], [True, False], [True, None], ["x", None], [None]],
    ids=repr,
)
def test_grid_values_of_every_kind_keep_their_points_apart(values: list[Any]) -> None:
    for best in range(len(values)):
        rows = [trial({"key": value}, float(index == best)) for index, value in enumerate(values) for _ in range(2)]
        choice = choose(table(*rows), ["key"], "macro_auc")
        assert (choice.trial, choice.mean) == (f"t{2 * best}", 1.0)
        chosen = choice.point["key"]
        assert chosen == values[best]
        # plain Python, as JSON and YAML write it
        assert type(chosen) in (type(values[best]), float)
        points = selection.summarise(table(*rows), ["key"], ["macro_auc"])
        assert points["macro_auc_mean"].tolist() == [float(index == best) for index in range(len(values))]


def plainly_chosen(rows: list[dict[str, Any]], metric: str) -> tuple[str, tuple[Any, ...]]:
    """Returns what `choose` should, found by loops over the points in their order."""
    sign = -1 if metric == "log_loss" else 1
    points: dict[tuple[Any, ...], list[tuple[int, dict[str, Any]]]] = {}
    for index, row in enumerate(rows):
        points.setdefault(tuple(row[key] for key in KEYS), []).append((index, row))
    best = None
    for point, members in points.items():
        kept = [(index, row) for index, row in members if row["outcome"] != DIVERGED]
        if not kept:
            continue
        mean, loss = (sum(row[name] for _, row in kept) / len(kept) for name in (metric, "log_loss"))
        rank = (len(kept) == len(members), sign * mean, -loss)
        if best is None or rank > best[0]:
            seed = max(kept, key=lambda entry: (sign * entry[1][metric], -entry[1]["log_loss"], -entry[0]))
            best = (rank, f"t{seed[0]}", point)
    assert best is not None
    return best[1:]


@given(data=st.data(), metric=st.sampled_from(["macro_auc", "log_loss"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_choice_is_what_plain_loops_find(data: st.DataObject, metric: str) -> None:
    # scores in eighths: their sums are exact, so that ties are ties
    eighths = st.integers(0, 4).map(lambda value: value / 8)
    points = data.draw(st.lists(st.tuples(*map(st.sampled_from, VALUES)), min_size=1, max_size=6, unique=True))
    seeds = data.draw(st.sampled_from([1, 2, 4]))
    rows = [
        trial(
            dict(zip(KEYS, point, strict=True)),
            data.draw(eighths),
            data.draw(eighths),
            data.draw(st.sampled_from([COMPLETED, COMPLETED, EARLY_STOPPED, DIVERGED])),
        )
        for point in points
        for _ in range(seeds)
    ]
    if all(row["outcome"] == DIVERGED for row in rows):
        rows[-1]["outcome"] = COMPLETED
    choice = choose(table(*rows), KEYS, metric)
    assert (choice.trial, tuple(choice.point[key] for key in KEYS)) == plainly_chosen(rows, metric)


def test_no_test_score_can_change_the_choice() -> None:
    generator = default_rng(0)
    rows = [trial({"rate": rate}, generator.random(), generator.random()) for rate in range(5) for _ in range(3)]
    trials = table(*rows)
    for metric in ("macro_auc", "log_loss"):
        blind = choose(trials, ["rate"], metric)
        for _ in range(20):
            leaked = trials.assign(
                **{f"test_{name}": generator.random(len(rows)) for name in ("macro_auc", "log_loss")}
            )
            assert choose(leaked, ["rate"], metric) == blind


def test_a_summary_counts_all_seeds_and_averages_those_that_came_through() -> None:
    scores = [0.5, 0.625, 0.75]
    rows = [trial({"clip": 1.0}, score) for score in scores]
    rows += [trial({"clip": 2.0}, 0.5), trial({"clip": 2.0}, math.nan, math.nan, DIVERGED)]
    rows += [trial({"clip": 3.0}, math.nan, math.nan, DIVERGED)]
    found = selection.summarise(table(*rows), ["clip"], ["macro_auc", "log_loss"])
    assert found[["clip", "seeds", "diverged"]].to_numpy().tolist() == [[1, 3, 0], [2, 2, 1], [3, 1, 1]]
    means = found[["macro_auc_mean", "macro_auc_low", "macro_auc_high"]].to_numpy(dtype=float)
    np.testing.assert_allclose(means[0], mean_with_interval(np.array(scores)))
    np.testing.assert_array_equal(means[1], [0.5, np.nan, np.nan])
    assert np.isnan(means[2]).all()


def test_folds_count_as_seeds_do() -> None:
    rows = [
        trial({"rate": rate}, auc, seed=seed, fold=fold)
        for rate, scores in ((1, [0.9, 0.5, 0.5, 0.5]), (2, [0.7, 0.7, 0.75, 0.7]))
        for (seed, fold), auc in zip([(1, 0), (1, 1), (2, 0), (2, 1)], scores, strict=True)
    ]
    choice = choose(table(*rows), ["rate"], "macro_auc")
    assert (choice.point, choice.trial) == ({"rate": 2}, "t6")
    found = selection.summarise(table(*rows), ["rate"], ["macro_auc"])
    assert found[["seeds", "folds"]].to_numpy().tolist() == [[2, 2], [2, 2]]
    np.testing.assert_allclose(found["macro_auc_mean"], [0.6, 0.7125])


# From the jobs' files to the choice


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose predictions are invented can't be asked for more."""
    monkeypatch.setattr(aggregate, "_write_uncertainty", lambda *_: None)


def invented(folder: Path, folds: int | None) -> tuple[Experiment, Results]:
    """Writes what split, plan and training would leave, with probabilities that get better with the learning rate."""
    rng = default_rng(0)
    values = {
        "experiment": "tiny",
        "seed": 1,
        "seeds": 2,
        "data": {"reader": "goto", "path": "survey", "features": ["x0"]},
        "split": {"folds": folds},
        "grid": {"training.learning_rate": [0.001, 0.01], "model.cell": ["gru", "lstm"]},
    }
    experiment, at = Experiment.model_validate(values), Results(folder)
    made = plan.make(experiment)
    sequences = [rng.normal(0, 1, (9, 1)) for _ in range(60)]
    dataset = write_dataset(at.dataset(made.dataset_key), [shard(sequences, ["a", "b"] * 30)])
    manifest = results.read_json(dataset / "manifest.json", "")
    results.write_json(
        dataset / "manifest.json",
        {
            **manifest,
            "features": [{"name": "x0", "unit": ""}],
            "metadata": [],
            "survey": asdict(Survey((Column("x0"),))),
            "counts": dict.fromkeys(COUNTS, 60),
        },
    )
    splits.split(experiment, dataset, at.experiment("tiny"))
    listed = splits.read_splits(at.experiment("tiny"))
    plan.write(made, at)
    for job in made.jobs:
        content, records, history = {fold: {} for fold in job.folds}, [], []
        for fold, split in itertools.product(job.folds, SCORED_SPLITS):
            rows = listed.loc[splits.assigned(listed, fold) == split]
            labels = np.array([name == "b" for name in rows["class"]]).astype(int)
            probabilities = {}
            for entry in [entry for entry in job.trials if entry.fold == fold]:
                skill = 1 if entry.hyperparameters["training.learning_rate"] == 0.001 else 4
                odds = 1 / (1 + np.exp(-skill * (labels - 0.5) - rng.normal(0, 1, len(labels))))
                probabilities[entry.id] = np.column_stack([1 - odds, odds]).astype(np.float32)
            ids, ones = rows["id"].to_numpy(dtype=str), np.ones(len(labels))
            content[fold][split] = Predictions("sequence", ids, labels, ones, ones, probabilities)
        for entry in job.trials:
            digest = splits.read_statistics(at.experiment("tiny"), entry.fold).data_digest
            record = {"trial": entry.id, "fingerprint": entry.fingerprint, "data_digest": digest, "loss": 0.5}
            record |= {
                "epochs": 1,
                "best_epoch": 1,
                "seconds": 1.0,
                "input_seconds": 0.1,
                "pack_halvings": 0,
                "outcome": COMPLETED,
            }
            records.append(record)
            history.append({"trial": entry.id, "epoch": 1})
            by_split = {split: content[entry.fold][split].probabilities[entry.id] for split in SCORED_SPLITS}
            finished = trials.FinishedTrial(
                [[1.0] * len(results.HISTORY_COLUMNS)],
                {"weights": np.array([float(entry.fold or 0), entry.seed])},
                by_split,
                record | dict.fromkeys(trials.SOFTWARE, "1"),
            )
            trials.save(at.trial("tiny", entry.fingerprint), finished)
        output = at.job("tiny", job.name)
        predictions.write(output / "predictions.h5", content, ("a", "b"))
        pd.DataFrame(records).to_csv(output / "trials.csv", index=False)
        pd.DataFrame(history).to_csv(output / "history.csv", index=False)
    return experiment, at


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("folds", [None, 3])
def test_tables_and_choice_come_from_each_trials_own_validation(tmp_path: Path, folds: int | None) -> None:
    experiment, at = invented(tmp_path, folds)
    best = aggregate.aggregate(experiment, at)
    folder = at.experiment("tiny")
    training, both, grid = (pd.read_csv(folder / f"{n}_results.csv") for n in ("training", "experiment", "grid"))
    assert len(training) == len(both) == 4 * 2 * (folds or 1)
    assert ("fold" in training) == ("fold" in both) == ("folds" in grid) == ("fold" in best) == (folds is not None)
    assert grid["seeds"].tolist() == [2] * 4
    listed = splits.read_splits(folder)
    truth = dict(zip(listed["id"], listed["class"], strict=True))
    for row in training.to_dict("records"):
        content, _ = predictions.read(at.job("tiny", row["job"]) / "predictions.h5")
        seen = content[row.get("fold")]["validation"]
        if folds is not None:
            own = listed[listed["fold"] == str(row["fold"])]["id"]
            assert seen.ids.tolist() == own.tolist()
        pair = seen.ids, seen.probabilities[row["trial"]]
        right = [truth[name] == "ab"[int(p.argmax())] for name, p in zip(*pair, strict=True)]
        assert row["accuracy"] == pytest.approx(np.mean(right))
    rows = training.to_dict("records")
    for point in grid.to_dict("records"):
        own = [row for row in rows if all(row[key] == point[key] for key in experiment.grid)]
        assert point["macro_auc_mean"] == pytest.approx(np.mean([row["macro_auc"] for row in own]))
        if folds is not None:
            assert point["folds"] == folds
            assert sorted(row["fold"] for row in own) == sorted([*range(folds)] * 2)
    assert best["grid_point"]["training.learning_rate"] == 0.01
    (chosen,) = [row for row in rows if row["trial"] == best["trial"]]
    assert best["seed"] == chosen["seed"]
    assert best["validation"]["accuracy"]["value"] == pytest.approx(chosen["accuracy"])
    bundle = bundles.load(folder / "best")
    assert bundle.arrays["weights"].tolist() == [best.get("fold", 0), best["seed"]]
    np.testing.assert_array_equal(
        bundle.statistics.feature_mean, splits.read_statistics(folder, best.get("fold")).feature_mean
    )
    matrix = pd.read_csv(folder / "confusion_matrix_validation.csv").set_index("truth")
    assert matrix.to_numpy().sum() == best["objects"]["validation"]


@pytest.mark.usefixtures("unasked")
def test_scores_that_the_task_defines_stand_in_every_table_and_may_choose(tmp_path: Path) -> None:
    """As `metrics` computes them, with intervals; naming a target afterwards trains nothing again."""
    task = Task(class_importance={"a": 3.0}, target="b")
    plain, at = invented(tmp_path, None)
    aggregate.aggregate(plain, at)
    folder = at.experiment("tiny")
    assert "figure_of_merit" not in pd.read_csv(folder / "training_results.csv")
    before = pd.read_csv(folder / "training_results.csv")["plasticc_log_loss"]
    for metric in ("figure_of_merit", "plasticc_log_loss"):
        changed = plain.model_copy(update={"task": task, "selection": Selection.model_validate({"metric": metric})})
        best = aggregate.aggregate(changed, at)
        training, both, grid = (pd.read_csv(folder / f"{n}_results.csv") for n in ("training", "experiment", "grid"))
        for row in both.to_dict("records"):
            content, _ = predictions.read(at.job("tiny", row["job"]) / "predictions.h5")
            for prefix, split in (("", "validation"), ("test_", "test")):
                seen = content[None][split]
                found = scores(seen.probabilities[row["trial"]], seen.labels, ("a", "b"), task)
                for name in ("figure_of_merit", "plasticc_log_loss"):
                    assert row[f"{prefix}{name}"] == pytest.approx(found[name])
        assert np.abs(training["plasticc_log_loss"].to_numpy() - before.to_numpy()).min() > 1e-6
        sign = 1 if metric == "figure_of_merit" else -1
        means = sign * grid[f"{metric}_mean"]
        assert best["metric"] == metric
        assert sign * best["grid_point_mean"] == pytest.approx(means.max())
        for name in (f"{metric}_low", f"{metric}_high", f"test_{metric}_low", f"test_{metric}_high"):
            assert grid[name].notna().to_numpy().any(), name
        chosen = best["validation"]["plasticc_log_loss"]
        assert chosen["low"] < chosen["value"] < chosen["high"]
        assert set(best["test"]) == set(best["validation"]) == set(score_names(("a", "b"), task))


def test_a_job_of_other_splits_is_not_read(tmp_path: Path) -> None:
    experiment, at = invented(tmp_path, 3)
    path = at.job("tiny", "cell-gru-1") / "predictions.h5"
    content, classes = predictions.read(path)
    other = {split: replace(entry, ids=entry.ids[::-1]) for split, entry in content[1].items()}
    predictions.write(path, content | {1: other}, classes)
    # the other job that has the fold tells
    with pytest.raises(JaxrnnError, match=r"cell-lstm-1 was trained on other splits than job cell-gru-1"):
        aggregate.aggregate(experiment, at)
