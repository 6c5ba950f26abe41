"""The sections on the search and on training: grid points and trials, what they cost, how they learnt."""

import math
from collections import Counter
from typing import Any

import jaxrnn.report.figures as figures
from jaxrnn import estimates, search
from jaxrnn.config import Halving, Training
from jaxrnn.errors import listed
from jaxrnn.report.figures import SCORES, Figure
from jaxrnn.report.inputs import Inputs, Row
from jaxrnn.report.tables import (
    NOT_A_NUMBER,
    Cell,
    Table,
    count_cell,
    number_or_text,
    percent,
    score_cell,
    sentence,
    text_cell,
    value_text,
)
from jaxrnn.report.verdict import FOLDS_DEPEND

MOST_KEYS = 8  # of the figure of effects
FEWEST_VALUES = 3  # of a grid key that scores are drawn against
STRATEGIES = {"random": "drawn at random", "sobol": "drawn by Sobol's sequence"}


def drawn(inputs: Inputs) -> list[Figure]:
    seeds = [(inputs.label(row), row[inputs.metric]) for row in inputs.trials]
    return [
        figures.grid_scores(inputs.points(), seeds, inputs.metric, inputs.varied),
        *([_searched(inputs)] if inputs.ranges else []),
        *([figures.effects(_effects(inputs), inputs.metric)] if inputs.effects else []),
        figures.learning_curves(
            inputs.history, str(inputs.chosen["trial"]), int(inputs.chosen["best_epoch"]), inputs.metric
        ),
    ]


def section(inputs: Inputs) -> dict[str, Any]:
    points = inputs.points()
    trials = sorted(inputs.trials, key=lambda row: (inputs.order(row[inputs.metric]), row["log_loss"]))
    tests = {row["trial"]: row for row in inputs.tests}
    keys = [sentence(key.rpartition(".")[2].replace("_", " ")) for key in inputs.keys]
    scores = [sentence(name) for name in inputs.scores.values()]
    marked_points = [index for index, point in enumerate(points) if point["chosen"]]
    marked_trials = [index for index, row in enumerate(trials) if row is inputs.chosen]
    means = f" Mean over {inputs.drawn} with its 95 % interval." if inputs.drawn else ""
    means += f" {FOLDS_DEPEND}" if inputs.in_folds else ""

    parts = ["Seeds", *(["Folds"] if inputs.in_folds else [])]

    def grid_table(name: str, caption: str, prefix: str) -> Table:
        rows = [
            [
                Cell(str(rank), float(rank)),
                *(number_or_text(point[key]) for key in inputs.keys),
                *(
                    score_cell(*(point[f"{prefix}{score}_{part}"] for part in ("mean", "low", "high")))
                    for score in inputs.scores
                ),
                count_cell(point["seeds"]),
                *([count_cell(point["folds"])] if inputs.in_folds else []),
                count_cell(point["diverged"]),
                *([count_cell(point["halted"]) if point["halted"] else Cell(NOT_A_NUMBER)] if inputs.rungs else []),
            ]
            for rank, point in enumerate(points, start=1)
        ]
        halted = ["Halted after epoch"] if inputs.rungs else []
        return Table.of(name, caption, ["Rank", *keys, *scores, *parts, "Diverged", *halted], rows, marked_points)

    trial_rows = [
        [
            text_cell(row["trial"]),
            *(number_or_text(row[key]) for key in inputs.keys),
            number_or_text(row["seed"]),
            *([number_or_text(row["fold"])] if inputs.in_folds else []),
            *(score_cell(row[score]) for score in inputs.scores),
            count_cell(row["best_epoch"]),
            count_cell(row["epochs"]),
            Cell(f"{row['seconds']:,.1f}", row["seconds"]),
            Cell(f"{row['input_seconds']:,.1f}", row["input_seconds"]),
            text_cell(row["outcome"].replace("_", " ")),
        ]
        for row in trials
    ]
    test_rows = [
        [text_cell(row["trial"]), *(score_cell(tests[row["trial"]][f"test_{score}"]) for score in inputs.scores)]
        for row in trials
    ]
    fold = ["Fold"] if inputs.in_folds else []
    spent = sum(row["seconds"] for row in trials)
    head = ["Trial", *keys, "Seed", *fold, *scores, "Best epoch", "Epochs", "Seconds", "Input seconds", "Outcome"]
    return {
        "points": len(points),
        "trials": len(trials),
        "metric": SCORES[inputs.metric],
        "varied": [(key, _tried(inputs, key)) for key in inputs.varied],
        "strategy": STRATEGIES.get((inputs.config.get("search") or {}).get("strategy", "grid"), ""),
        "halving": _halving(inputs),
        "cost": _cost(inputs),
        "explained": _explained(inputs),
        "shared": [(key, value_text(inputs.config["grid"][key][0])) for key in inputs.keys if key not in inputs.varied],
        "drawn": inputs.drawn,
        "in_folds": inputs.in_folds,
        "random_folds": inputs.in_folds and inputs.config["split"].get("fold_kind") == "random",
        "hours": f"{spent / 3600:.2g}",
        "waited": f"{sum(row['input_seconds'] for row in trials) / max(spent, 1e-9):.1%}",
        "grid": grid_table("grid", f"Grid points, best first, on validation.{means}", ""),
        "grid_test": grid_table("grid-test", f"The same grid points on test.{means}", "test_"),
        "table": Table.of(
            "trials", "Trials, best first, on validation at each trial's best epoch", head, trial_rows, marked_trials
        ),
        "table_test": Table.of("trials-test", "The same trials on test", ["Trial", *scores], test_rows, marked_trials),
    }


def _effects(inputs: Inputs) -> list[Row]:
    """Returns the rows of effects.csv, with the `label` of each value; no more keys than a figure has room for."""
    keys = [*dict.fromkeys(row["key"] for row in inputs.effects)][:MOST_KEYS]
    return [row | {"label": value_text(row["value"])} for row in inputs.effects if row["key"] in keys]


def _explained(inputs: Inputs) -> str:
    """Returns in words how much of the spread among grid points each key explains; "" where nothing is known."""
    shares = {row["key"]: row["explained"] for row in inputs.effects if math.isfinite(row["explained"])}
    return listed([f"{key} {percent(round(share, 2), 1)}" for key, share in shares.items()])


def _tried(inputs: Inputs, key: str) -> str:
    """Returns in words which values of a grid key were tried."""
    if key not in inputs.ranges:
        return ", ".join(value_text(value) for value in inputs.config["grid"][key])
    drawn_from = inputs.ranges[key]
    scale = ", on a logarithmic scale" if drawn_from.scale == "log" else ""
    return f"drawn from {value_text(drawn_from.low)} to {value_text(drawn_from.high)}{scale}"


def _cost(inputs: Inputs) -> dict[str, Any] | None:
    """Returns a table of what `jaxrnn plan` expected of each job, what it used, and what SLURM gave it, and the shares
    of the last that were used; None where nothing is known."""
    jobs = Counter(row["job"] for row in inputs.trials)
    found = estimates.compared(inputs.folder, list(jobs), inputs.experiment, len(inputs.rungs) + 1)
    if all(row["used_seconds"] is None and "seconds" not in row for row in found):
        return None

    def shown(name: str, value: float | None) -> Cell:
        places = 2 if name == "used_cores" else 0
        return Cell(NOT_A_NUMBER, math.nan) if value is None else Cell(f"{value:,.{places}f}", float(value))

    columns = {
        "Seconds expected": "seconds",
        "Seconds used": "used_seconds",
        "Time limit (s)": "given_seconds",
        "Memory expected (MB)": "memory_mb",
        "Memory used (MB)": "used_memory_mb",
        "Memory given (MB)": "given_memory_mb",
        "Cores busy": "used_cores",
        "Cores given": "given_cores",
    }
    known = {name for name in columns.values() if any(row.get(name) is not None for row in found)}
    columns = {head: name for head, name in columns.items() if name in known or name.startswith("used")}
    told = [
        *(["what jaxrnn plan expected of them"] if "seconds" in known else []),
        "what their last run used",
        *(["what SLURM gave it"] if "given_cores" in known else []),
    ]
    caption = f"Jobs: {', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else f"Jobs: {told[0]}"
    if "seconds" not in known:
        caption += "; jaxrnn plan, called before it, says what to expect"
    rows = [
        [
            text_cell(row["job"]),
            count_cell(jobs[row["job"]]),
            *(shown(name, row.get(name)) for name in columns.values()),
        ]
        for row in sorted(found, key=lambda row: -(row["used_seconds"] or 0))
    ]
    return {"table": Table.of("jobs", caption, ["Job", "Trials", *columns], rows), "efficiency": _efficiency(found)}


def _efficiency(jobs: list[dict[str, Any]]) -> str:
    """Returns in words which share of what SLURM gave all jobs they used; "" where it gave none."""
    shares = []
    for noun, name in (("core time", "cores"), ("memory", "memory_mb"), ("time", "seconds")):
        used, given = f"used_{name}", f"given_{name}"
        known = [row for row in jobs if row["used_seconds"] and row[used] is not None and row[given] is not None]
        # cores and memory are a job's for as long as it runs
        held = [1.0 if name == "seconds" else row["used_seconds"] for row in known]
        total = sum(row[given] * seconds for row, seconds in zip(known, held, strict=True))
        if known:
            share = sum(row[used] * seconds for row, seconds in zip(known, held, strict=True))
            shares.append(f"{percent(share, total)} of the {noun}")
    return f"Of what SLURM gave these jobs they used {listed(shares)}." if shares else ""


def _halving(inputs: Inputs) -> dict[str, Any] | None:
    """Returns what successive halving did: a table of its rungs, and the epochs that it saved; None without it."""
    if not inputs.rungs:
        return None
    rows = []
    epochs, halving = inputs.config["training"]["epochs"], Halving.model_validate(inputs.config["search"]["halving"])
    *before, last = search.rungs(epochs, halving)
    for rung, points in zip(before, inputs.rungs, strict=True):
        ranked = sorted((point["mean"] for point in points), key=inputs.order)
        going = sum(point["promoted"] == "True" for point in points)
        counts = rung.number, rung.epochs, len(points), going
        rows.append([*map(count_cell, counts), score_cell(ranked[0]), score_cell(ranked[going - 1])])
    rows.append([*map(count_cell, (last.number, last.epochs, going)), *[Cell(NOT_A_NUMBER)] * 3])
    whole = len(inputs.trials) * epochs
    metric = SCORES[inputs.metric]
    head = ["Rung", "Up to epoch", "Grid points", "Went on", f"Best {metric}", f"Least {metric} that went on"]
    return {
        "table": Table.of("rungs", f"Rungs, by validation {metric}", head, rows),
        "epochs": int(sum(row["epochs"] for row in inputs.trials)),
        "whole": int(whole),
    }


def score_curves(inputs: Inputs) -> list[tuple[str, str, Figure]]:
    """Returns key, split and figure of each grid key whose values are numbers, at least `FEWEST_VALUES`, and perhaps
    `null`, which no axis has; none of a key beside which the other keys have more settings than a figure has lines."""
    found = []
    for key in inputs.varied:
        if key in inputs.ranges:
            continue  # drawn by `figures.searched`
        tried = inputs.config["grid"][key]
        given = [value for value in tried if value is not None]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
        others = [other for other in inputs.varied if other != key]
        settings = {tuple(row[other] for other in others) for row in inputs.grid}
        if not numbers or len(given) < FEWEST_VALUES or len(settings) > len(figures.SERIES_TOKENS):
            continue
        for split, prefix in (("validation", ""), ("test", "test_")):
            points = [
                {
                    "at": float(row[key]),
                    "series": " · ".join(value_text(row[other]) for other in others),
                    **{part: row[f"{prefix}{inputs.metric}_{part}"] for part in ("mean", "low", "high")},
                }
                for row in inputs.grid
                if value_text(row[key]) != "null"
            ]
            figure = figures.score_curves(points, inputs.metric, key, split, without_null=len(given) < len(tried))
            found.append((key, split, figure))
    return found


def _searched(inputs: Inputs) -> Figure:
    ranges = {key: drawn_from.scale for key, drawn_from in inputs.ranges.items()}
    points = [{**point, **{key: float(point[key]) for key in ranges}} for point in inputs.points()]
    return figures.searched(points, ranges, inputs.metric)


def training(inputs: Inputs) -> dict[str, Any]:
    training = {**Training().model_dump(), **(inputs.config["training"] or {})}
    return {
        "score": SCORES[inputs.metric if figures.is_watched(inputs.history, inputs.metric) else "macro_auc"],
        "spells": inputs.spells,
        "monitor": SCORES.get(training["monitor"], training["monitor"]),
        "best_epoch": int(inputs.chosen["best_epoch"]),
        "epochs": int(inputs.chosen["epochs"]),
        "outcomes": Counter(row["outcome"].replace("_", " ") for row in inputs.trials).most_common(),
    }
