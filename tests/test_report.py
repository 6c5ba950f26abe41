"""The report tells the numbers of the files beside it, whatever the names in them, in any browser window."""

import csv
import html.parser
import itertools
import json
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics as sk

from jaxrnn import (
    __version__,
    attributions,
    calibration,
    early,
    ensembles,
    evaluation,
    examples,
    metrics,
    report,
    selection,
    uncertainty,
)
from jaxrnn.config import Task, read_yaml, to_yaml
from jaxrnn.errors import JaxrnnError
from jaxrnn.evaluation import Classified, Property
from jaxrnn.predictions import Predictions
from jaxrnn.report import figures, inputs
from jaxrnn.report import uncertainty as said_of_uncertainty
from jaxrnn.report.tables import percent
from jaxrnn.results import write_json, write_text

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
FIGURES = ("class_counts", "sequence_lengths", "grid_scores", "learning_curves", "confusion_matrix_validation",
           "confusion_matrix_test", "class_scores", "score_curves_validation_training_learning_rate",
           "score_curves_test_training_learning_rate", "roc_curves", "precision_recall_curves", "reliability", "slices",
           "comparisons", "cadences", "entropies", "attributions", "examples", "dearest_mistakes",
           "effects")  # fmt: skip
SCORES = ("accuracy", "macro_f1", "macro_auc", "log_loss", "plasticc_log_loss")
SHOWN = ("macro_auc", "macro_f1", "accuracy", "log_loss", "plasticc_log_loss")
CLASSES = ("AGN", "RR Lyrae", "SN Ia", "SN II", "Cepheid")
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" 'name' &amp; <b>",
    "two\nlines\tand a tab",
    "x" * 300,
    "x" * 299 + "y",
    "a|b.c[0]['d']\\e",
    "datum.share > 0 {{ 7 * 7 }} ${8 * 8}",
    "NA",
    "",
    "\x01\N{RIGHT-TO-LEFT OVERRIDE}",
    "truth",
)
INPUTS = ("flux_g (uJy)", "flux_r (uJy)", "flux_i (uJy)")
GRID = {"model.cell": ["gru", "lstm"], "training.learning_rate": [0.0003, 0.001, 0.003], "loss.gamma": [0, 1]}


@dataclass(frozen=True)
class Made:
    """An experiment of invented results, as `jaxrnn aggregate` would leave it."""

    folder: Path
    dataset: Path
    classes: tuple[str, ...]

    def write(self) -> Path:
        return report.write(self.folder, self.dataset)

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def make(
    root: Path,
    classes: tuple[str, ...] = CLASSES,
    grid: dict[str, list[Any]] = GRID,
    seeds: int = 3,
    epochs: int = 40,
    objects: int = 4000,
    diverged: int = 1,
    rejected: int = 23,
    metric: str = "macro_auc",
    folds: int | None = None,
    target: str | None = None,
) -> Made:
    """Writes an experiment whose numbers are drawn from one seed; with a target, it has a figure of merit."""
    scores = SCORES if target is None else (*SCORES, "figure_of_merit")
    rng = np.random.default_rng(20)
    folder, dataset = root / "results" / "demo", root / "results" / "datasets" / "3f9a"
    folder.mkdir(parents=True)
    dataset.mkdir(parents=True)
    shares = np.geomspace(1, 0.012, len(classes))
    totals = np.maximum(4, (objects * shares / shares.sum()).astype(int))
    labels = np.repeat(np.arange(len(classes)), totals)
    splits = rng.choice(["train", "validation", "test"], len(labels), p=[0.7, 0.15, 0.15])

    def rows(name: str, header: list[str], lines: list[list[Any]]) -> None:
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([["" if isinstance(v, float) and np.isnan(v) else v for v in line] for line in lines])

    lines: list[list[Any]] = [
        [f"obj{i:05d}", classes[c], classes[c], s] for i, (c, s) in enumerate(zip(labels, splits, strict=True))
    ]
    lines.append(["odd", "unknown", "", "excluded"])
    if folds is None:
        rows("splits.csv", ["id", "label", "class", "split"], lines)
    else:
        pooled = [[*line[:3], "pool", i % folds] if line[3] in ("train", "validation") else [*line, ""]
                  for i, line in enumerate(lines)]  # fmt: skip
        rows("splits.csv", ["id", "label", "class", "split", "fold"], pooled)
    no_leak = {"objects": 0, "group": 0, "equal": 0, "near_equal": 0, "too_few_numbers": 0, "action": "refuse"}
    write_json(folder / "statistics.json", {"remarks": [], "leaks": no_leak, "counts": [], "statistics": []})
    write_json(
        dataset / "manifest.json",
        {
            "reader": "simulated",
            "time_unit": "days",
            "survey_files": [{"path": "0000.h5", "bytes": 5_200_000}, {"path": "0001.h5", "bytes": 4_100_000}],
            "counts": {
                "objects_in": len(labels) + 1 + rejected, "objects_out": len(labels) + 1, "objects_rejected": rejected,
                "observations_in": 60 * len(labels) + 7, "observations_out": 60 * len(labels),
                "observations_rejected": 7 if rejected else 0, "steps_out": 60 * len(labels),
                "observations_cut": 0, "objects_cut": 0,
                "parts_in": 20, "parts_rejected": 0, "bytes_in": 9_300_000, "bytes_rejected": 0,
                "times_repeated": 0, "observations_repeated": 0,
            },
            "rejected_by_reason": {"no observation left": rejected - 3, "flux is not finite": 3} if rejected else {},
            "labels": dict(zip(classes, map(int, totals), strict=True)),
            "length_histogram": {
                "edges": list(range(0, 150, 10)),
                "counts": [int(900 * np.exp(-(((b - 6) / 3) ** 2))) for b in range(14)],
            },
            "features": [{"name": "time_since_first", "unit": "days"}, {"name": "flux", "unit": "nJy"}],
            "metadata": [{"name": "host_distance", "unit": "arcsec"}, {"name": "galactic_latitude", "unit": "deg"}],
            "shards": [
                {"file": "00000.h5", "sequences": len(labels) + 1, "steps": 60 * len(labels), "sha256": "ab" * 32},
            ],
        },
    )  # fmt: skip
    write_text(
        folder / "experiment.yaml",
        to_yaml(
            {
                "experiment": "demo", "seed": 7, "seeds": seeds,
                "data": {"reader": "simulated", "simulation": {"objects": objects}, "features": [{"name": "flux"}]},
                "split": {"method": "exact"}, "task": {"target": target}, "model": {"cell": "gru", "units": 32},
                "loss": {"class_weights": "balanced"}, "training": {"epochs": epochs, "monitor": "loss"},
                "selection": {"metric": metric}, "grid": grid,
            }
        ),
    )  # fmt: skip

    keys = list(grid)
    points = [dict(zip(keys, values, strict=True)) for values in itertools.product(*grid.values())]
    trials: list[dict[str, Any]] = []
    history: list[list[Any]] = []
    for index, point in enumerate(points):
        quality = 0.78 + 0.16 * rng.random()
        for seed, fold in itertools.product(range(7, 7 + seeds), range(folds or 1)):
            in_fold = {} if folds is None else {"fold": fold}
            name = f"{index:03d}-s{seed}" + (f"-f{fold}" if in_fold else "")
            level = quality + 0.008 * rng.normal()
            row: dict[str, Any] = {"trial": name, "job": f"job{index // 6:02d}", "seed": seed, **in_fold, **point}
            ended = epochs
            best, seconds = int(rng.integers(epochs // 2, epochs)), round(40 + 20 * rng.random(), 2)
            values = {"accuracy": level - 0.05, "macro_f1": level - 0.1, "macro_auc": min(0.999, level + 0.04)}
            values["log_loss"] = 0.9 - 0.6 * level
            outcome = "completed"
            if len(trials) < diverged:
                ended, best, outcome, values = 9, 8, "diverged", dict.fromkeys(values, np.nan)
            prefixed = {f"test_{key}": value - 0.01 * rng.random() for key, value in values.items()}
            for values_of, prefix in ((values, ""), (prefixed, "test_")):
                values_of[f"{prefix}plasticc_log_loss"] = values_of[f"{prefix}log_loss"] + 0.2
                if target is not None:
                    values_of[f"{prefix}figure_of_merit"] = values_of[f"{prefix}macro_f1"] - 0.2
            per_class = {f"f1_{c}": values["macro_f1"] + 0.02 * rng.normal() for c in classes}
            tested = {f"test_f1_{c}": v - 0.01 for c, v in zip(classes, per_class.values(), strict=True)}
            row |= {"loss": values["log_loss"] * 1.1, **values, **per_class}
            row |= {
                "epochs": ended,
                "best_epoch": best,
                "seconds": seconds,
                "input_seconds": seconds / 50,
                "pack_halvings": 0,
                "outcome": outcome,
                **prefixed,
                **tested,
            }
            trials.append(row)
            for epoch in range(1, ended + 1):
                rise = 1 - np.exp(-epoch / (4 + 8 * rng.random()))
                train = 1.5 * np.exp(-epoch / 14) + 0.25 - 0.2 * level + 0.01 * rng.normal()
                loss = (
                    1.5 * np.exp(-epoch / 12) + 0.9 - 0.6 * level + 0.02 * rng.normal() + 0.002 * max(0, epoch - best)
                )
                if outcome == "diverged" and epoch > 4:
                    train = loss = 10.0 ** (epoch - 3)
                history.append([name, epoch, 0.001, train, level * rise, loss, loss, (level - 0.02) * rise,
                                (level - 0.1) * rise, 0.5 + (level - 0.46) * rise, *[np.nan] * 4])  # fmt: skip
    order = [k for k in trials[0] if not k.startswith("test_")]
    rows("training_results.csv", order, [[row[k] for k in order] for row in trials])
    rows("experiment_results.csv", list(trials[0]), [list(row.values()) for row in trials])
    rows(
        "plan.csv",
        ["trial", "job", "seed", *keys],
        [[row[k] for k in ("trial", "job", "seed", *keys)] for row in trials],
    )
    rows("history.csv", list(inputs.HISTORY), history)

    names = [*scores, *(f"test_{score}" for score in scores)]
    header = [*keys, "seeds", *(["folds"] if folds else []), "diverged"]
    header += [f"{name}_{part}" for name in names for part in ("mean", "low", "high")]
    summary: list[list[Any]] = []
    groups: list[list[dict[str, Any]]] = []
    for point in points:
        own = [row for row in trials if all(row[k] == point[k] for k in keys)]
        groups.append(own)
        ended = [row for row in own if row["outcome"] != "diverged"]
        line: list[Any] = [*point.values(), seeds, *([folds] if folds else []), len(own) - len(ended)]
        for name in names:
            values = np.array([row[name] for row in ended])
            half = 4.3 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            mean = float(values.mean()) if len(values) else np.nan
            line += [mean, mean - half, mean + half]
        summary.append(line)
    rows("grid_results.csv", header, summary)
    selection.effects(pd.DataFrame(trials), keys, metric).to_csv(folder / "effects.csv", index=False)

    sign = -1 if metric.endswith("log_loss") else 1
    whole = [own for own in groups if all(row["outcome"] != "diverged" for row in own)]
    point_of_best = max(whole, key=lambda own: sign * np.mean([row[metric] for row in own]))
    chosen = max(point_of_best, key=lambda row: sign * row[metric])
    confusion = {}
    for split in ("validation", "test"):
        truth = np.array([int(((labels == c) & (splits == split)).sum()) for c in range(len(classes))])
        matrix = np.stack([
            rng.multinomial(n, (lambda p: p / p.sum())(np.where(np.arange(len(classes)) == c, 8 + 5 * rng.random(),
                            1.2 * rng.random(len(classes)) ** 4)))
            for c, n in enumerate(truth)
        ])  # fmt: skip
        confusion[split] = matrix
        shares = {
            end: np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
            for end, total in (("", matrix.sum(1, keepdims=True)), ("_by_prediction", matrix.sum(0, keepdims=True)))
        }
        for suffix, values in (("", matrix), *((f"_normalised{end}", share) for end, share in shares.items())):
            rows(
                f"confusion_matrix_{split}{suffix}.csv",
                ["truth", *classes],
                [[c, *v] for c, v in zip(classes, values.tolist(), strict=True)],
            )

    def interval(value: float, half: float) -> dict[str, float]:
        return {"value": float(value), "low": float(max(0, value - half)), "high": float(min(1, value + half))}

    matrix = confusion["test"]
    test = {score: interval(chosen[f"test_{score}"], 0.011) for score in scores}
    for c, name in enumerate(classes):
        recall = matrix[c, c] / max(1, matrix[c].sum())
        precision = matrix[c, c] / max(1, matrix[:, c].sum())
        half = 0.9 / np.sqrt(matrix[c].sum() + 2)
        test[f"recall_{name}"], test[f"precision_{name}"] = interval(recall, half), interval(precision, half)
        test[f"f1_{name}"] = interval(2 * recall * precision / max(1e-9, recall + precision), half)
    judged = {split: judgements(counts, rng) for split, counts in confusion.items()}
    chosen_point = [chosen[key] for key in keys]
    others = [own[0]["trial"] for own in groups if [own[0][key] for key in keys] != chosen_point]
    write_evaluation(folder, judged, others, classes, dict.fromkeys(metrics.overall(Task(target=target)), 0.5), rng)
    write_examples(folder, classes, rng)
    for c, name in enumerate(classes):
        own = judged["test"].probabilities[:, c]
        test[f"auc_{name}"] = interval(sk.roc_auc_score(judged["test"].labels == c, own), 0.02)
        test[f"average_precision_{name}"] = interval(sk.average_precision_score(judged["test"].labels == c, own), 0.03)
    for kind in ("precision", "recall", "f1", "auc"):
        own = [test[f"{kind}_{name}"]["value"] for name in classes]
        test[f"macro_{kind}"] = test.get(f"macro_{kind}", interval(float(np.mean(own)), 0.02))
        test[f"weighted_{kind}"] = interval(float(np.average(own, weights=matrix.sum(1))), 0.02)
    for name, entry in test.items():
        of = name.partition("_")[2]
        entry["objects"] = int(matrix[classes.index(of)].sum()) if of in classes else int(matrix.sum())
    validation = {score: interval(chosen[score], 0.009) for score in scores}
    by_split = {"validation": validation, "test": test}
    evaluation.overall_scores(by_split, Task(target=target)).to_csv(folder / "scores.csv", index=False)
    evaluation.class_scores(test, classes).to_csv(folder / "class_scores_test.csv", index=False)
    write_json(
        folder / "best.json",
        {
            "trial": chosen["trial"], "job": chosen["job"], "metric": metric, "seed": chosen["seed"],
            **({"fold": chosen["fold"]} if folds else {}),
            "grid_point": {k: chosen[k] for k in keys},
            **by_split,
            "objects": {"validation": int(confusion["validation"].sum()), "test": int(matrix.sum())},
            "inputs": len(INPUTS),
            "interval": "95 %, bootstrap over objects, 1,000 resamples",
            "software": {"jaxrnn": __version__, "jax": "0.10.2", "device": "cpu (cpu)"},
        },
    )  # fmt: skip
    return Made(folder, dataset, classes)


def judgements(counts: np.ndarray, rng: np.random.Generator) -> Classified:
    """Returns probabilities whose most probable classes make up this confusion matrix."""
    truth, predicted = (np.repeat(index, counts.ravel()) for index in np.indices(counts.shape).reshape(2, -1))
    level = rng.uniform(0.5, 0.95, len(truth))[:, None]
    spread = rng.dirichlet(np.ones(len(counts)), len(truth))
    probabilities = level * np.eye(len(counts))[predicted] + (1 - level) * spread
    return Classified(probabilities.astype(np.float32), truth, np.arange(len(truth)), by_step=False)


def write_evaluation(
    folder: Path,
    judged: dict[str, Classified],
    others: list[str],
    classes: tuple[str, ...],
    scores: dict[str, float],
    rng: np.random.Generator,
) -> None:
    """Writes what `jaxrnn.evaluation` finds of these predictions, and of others that shuffle some of them."""
    test = judged["test"]
    count = len(test.labels)
    latitude = np.where(rng.random(count) < 0.1, np.nan, rng.normal(size=count))
    lengths = rng.integers(5, 90, count).astype(float)
    known = [Property("length", "steps", lengths), Property("galactic_latitude", "deg", latitude)]
    ids = np.array([f"test{i:05d}" for i in range(count)])
    entry = Predictions("sequence", ids, test.labels, np.full(count, 60), np.ones(count, dtype=int), {})
    mixed = {trial: replace(test, probabilities=np.where((rng.random(count) < 0.03)[:, None], test.probabilities[::-1],
                                                         test.probabilities)) for trial in others}  # fmt: skip
    roc, precision_recall = evaluation.curves(test, classes)
    fitted = calibration.temperature(judged["validation"].probabilities, judged["validation"].labels)
    bins, calibration_scores = evaluation.calibrated(test, fitted, 1)
    edges = np.linspace(1, 13, 25)
    tables = {
        "roc_test": roc, "precision_recall_test": precision_recall, "calibration": bins,
        "calibration_scores": calibration_scores, "slices_test": evaluation.slices(test, known, 1),
        "mistakes_test": evaluation.mistakes(test, entry, classes),
        "cadence": pd.DataFrame({"from": edges[:-1], "to": edges[1:], "sequences": np.arange(24)}),
        "ensemble": pd.DataFrame([
            {"predictions": of, "score": name, "value": value, "low": value - 0.1, "high": 1.0, "objects": count}
            for of in (evaluation.CHOSEN, "ensemble of 3") for name, value in scores.items()
        ]),
        "comparisons": evaluation.comparisons(test, mixed, 1),
        **unsure(test, rng)._asdict(),
        "attributions_test": attributed(test, entry, classes, rng),
    }  # fmt: skip
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def unsure(test: Classified, rng: np.random.Generator) -> uncertainty.Tables:
    """Returns what is said of how sure these predictions are, and of predictions of made-up inputs, which are less."""
    said = {}
    for kind in uncertainty.INPUTS:
        flat = rng.dirichlet(np.ones(test.probabilities.shape[1]), len(test.labels))
        own = test.probabilities if kind == uncertainty.TEST else (test.probabilities + 2 * flat) / 3
        members = [(4 * own + rng.dirichlet(np.ones(own.shape[1]), len(own))) / 5 for _ in range(3)]
        together = {
            evaluation.CHOSEN: ensembles.together([own], [1.0]),
            "ensemble of 3": ensembles.together(members, [1.0] * 3),
            uncertainty.DROPOUT: ensembles.together(members[1:], [1.0] * 2),
        }
        said[kind] = {name: uncertainty.Said.of(own, test.labels) for name, own in together.items()}
    return uncertainty.judged(said, test.owners, 1, by_step=False)


def attributed(
    test: Classified, entry: Predictions, classes: tuple[str, ...], rng: np.random.Generator
) -> pd.DataFrame:
    """Returns attributions of the objects that are chosen for them, of 30 steps and 11 features each."""
    features = [*(f"flux_{band}" for band in "ugrizy"), *(f"error_{band}" for band in "ugrz"), "time_difference"]
    rows = []
    for row in attributions.chosen(test, entry.lengths):
        values = rng.normal(0, 0.01, (30, len(features)))
        predicted = int(test.probabilities[row].argmax())
        once = {"id": entry.ids[row], "of_step": pd.NA,
                "chosen_as": attributions.RIGHT if test.hits[row] else attributions.WRONG,
                "truth": classes[test.labels[row]], "predicted": classes[predicted],
                "probability": float(test.probabilities[row, predicted]), "baseline": 0.2, "gap": 1e-4}  # fmt: skip
        rows += [
            {
                **once,
                "step": step,
                "time": 2.5 * step,
                "feature": name,
                "value": 0.3,
                "attribution": values[step - 1, at],
            }
            for step in range(1, 31)
            for at, name in enumerate(features)
        ]
        rows.append({**once, "feature": "host_distance", "value": 0.1, "attribution": 0.03})
    return pd.DataFrame(rows, columns=list(attributions.COLUMNS)).astype(dict.fromkeys(("of_step", "step"), "Int64"))


def write_examples(folder: Path, classes: tuple[str, ...], rng: np.random.Generator, growing: bool = False) -> None:
    """Writes what `jaxrnn.examples` finds: objects of the split that have 1 to 60 steps in three passbands."""
    known, mistakes = (pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
                       for name in ("splits", "mistakes_test"))  # fmt: skip
    fold = 0 if "fold" in known else None
    wanted = [*examples.of_classes(known, fold, classes, 7), *examples.mistaken(mistakes)]
    test = Predictions("prefix", np.array([f"grown{i}" for i in range(12)]), np.resize(np.arange(len(classes)), 12),
                       np.arange(12) % 5 + 1, np.arange(12) % 5 + 1, {})  # fmt: skip
    if growing:
        probabilities = rng.dirichlet(np.ones(len(classes)), int(test.lengths.sum())).astype(np.float32)
        test = replace(test, probabilities={"one": probabilities})
        wanted += examples.growing(test, "one", classes, 7)
    lengths = dict(zip(test.ids.tolist(), test.lengths.tolist(), strict=True))
    pieces = []
    for number, each in enumerate(wanted):
        length = lengths.get(each.id, 60 if number else 1)
        values = rng.normal(0, 30, (length, len(INPUTS))).astype(np.float32)
        values[rng.random(values.shape) < 0.5] = np.nan
        observed = examples.Observed(59000 + np.sort(rng.uniform(0, 90, length)), INPUTS, values)
        most = examples.MOST_DRAWN // len(wanted)  # as if all were examples
        pieces.append(examples._rows(each, observed, min(most, examples.MOST_VALUES)))
    table = pd.concat(pieces, ignore_index=True)
    table.to_csv(folder / "examples.csv", index=False)
    if growing:
        examples.grown(table, test, "one", classes).to_csv(folder / "growing_test.csv", index=False)


class Page(html.parser.HTMLParser):
    """The page as a reader gets it: its tables with their unrounded values, its text, its scripts, its headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.text, self.scripts, self.headings = "", 0, []
        self.ids: list[str] = []
        self.captioned, self.numbers = set(), []
        self._table, self._cell, self._inside = "", None, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if known.get("id"):
            self.ids.append(str(known["id"]))
        if tag == "script":
            self.scripts += 1
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self._table = str(known["id"])
            self.tables[self._table] = []
        if tag == "caption":
            self.captioned.add(self._table)
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("th", "td"):
            assert tag == "td" or known.get("scope") in ("row", "col")
            value = known.get("data-value")
            self._cell = ["", None if value is None else float(value)]
        elif "data-value" in known:
            self.numbers.append(float(str(known["data-value"])))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None:
            self.tables[self._table][-1].append((self._cell[0].strip(), self._cell[1]))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell[0] += data


@pytest.fixture(scope="module", autouse=True)
def drawn() -> Iterator[dict[str, Any]]:
    """What was drawn already, which is not drawn again while it is here: most pages have the same figures."""
    known: dict[str, Any] = {}

    def once(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawing(of: Any, **settings: Any) -> Any:
            key = json.dumps([draw.__name__, of, settings], default=repr)
            if key not in known:
                known[key] = draw(of, **settings)
            return known[key]

        return drawing

    with pytest.MonkeyPatch.context() as patch:
        for name in ("vegalite_to_svg", "svg_to_png"):
            patch.setattr(figures.vl_convert, name, once(getattr(figures.vl_convert, name)))
        yield known


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("experiment"))
    made.write()
    return made


@pytest.fixture(scope="module")
def page(made: Made) -> Page:
    return Page(made.folder / "report.html")


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """The experiment without a report, to be broken."""
    folder = tmp_path / "results" / "demo"
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    dataset = shutil.copytree(made.dataset, tmp_path / "results" / "datasets" / "3f9a")
    return Made(folder, dataset, made.classes)


def number(text: str) -> float:
    return float(text) if text else np.nan


def test_the_tables_of_scores_hold_the_numbers_of_the_files(made: Made, page: Page) -> None:
    head, *rows = page.tables["trials"]
    places = {name: [cell[0] for cell in head].index(shown) for name, shown in
              {"accuracy": "Accuracy", "macro_f1": "Macro F1", "macro_auc": "Macro AUC", "log_loss": "Log loss",
               "plasticc_log_loss": "Class-averaged log loss", "seconds": "Seconds", "input_seconds": "Input seconds",
               "best_epoch": "Best epoch", "epochs": "Epochs"}.items()}  # fmt: skip
    shown = {row[0][0].removesuffix("chosen").strip(): row for row in rows}
    results = made.table("training_results.csv")
    assert len(shown) == len(results)
    for result in results:
        row = shown[result["trial"]]
        for name, place in places.items():
            text, value = row[place]
            np.testing.assert_equal(value, number(result[name]))
            if name in SCORES:
                assert text == ("\N{EN DASH}" if not result[name] else f"{float(result[name]):.3f}")
        assert row[-1][0] == result["outcome"].replace("_", " ")
    scores = [row[places["macro_auc"]][1] for row in rows]
    ended = [score for score in scores if score is not None and np.isfinite(score)]
    assert ended == sorted(ended, reverse=True), "best first"
    assert all(np.isnan(score) for score in scores[len(ended) :] if score is not None), "diverged trials last"
    tests = {row["trial"]: row for row in made.table("experiment_results.csv")}
    for row in page.tables["trials-test"][1:]:
        result = tests[row[0][0].removesuffix("chosen").strip()]
        names = [f"test_{name}" for name in ("macro_auc", "macro_f1", "accuracy", "log_loss", "plasticc_log_loss")]
        np.testing.assert_equal([cell[1] for cell in row[1:]], [number(result[name]) for name in names])


@pytest.mark.parametrize(("table", "prefix"), [("grid", ""), ("grid-test", "test_")])
def test_the_tables_of_grid_points_hold_means_and_intervals(made: Made, page: Page, table: str, prefix: str) -> None:
    head, *rows = page.tables[table]
    place = [cell[0] for cell in head].index("Macro AUC")
    results = {(r["model.cell"], float(r["training.learning_rate"]), float(r["loss.gamma"])): r
               for r in made.table("grid_results.csv")}  # fmt: skip
    assert len(rows) == len(results)
    for row in rows:
        result = results[row[1][0], float(row[2][0]), float(row[3][0])]
        mean, low, high = (float(result[f"{prefix}macro_auc_{part}"]) for part in ("mean", "low", "high"))
        assert row[place] == (f"{mean:.3f} [{low:.3f}, {high:.3f}]", mean)
    assert ["chosen" in row[0][0] for row in rows] == [True] + [False] * (len(rows) - 1)
    assert [row[-1][1] for row in rows] == [0.0] * (len(rows) - 1) + [1.0], "a diverged seed puts its point last"


def test_the_verdict_and_the_classes_hold_the_numbers_of_best(made: Made, page: Page) -> None:
    best = json.loads((made.folder / "best.json").read_text())
    shown = ("macro_auc", "macro_f1", "accuracy", "log_loss", "plasticc_log_loss")
    assert page.numbers == [best["test"][score]["value"] for score in shown]
    auc = best["test"]["macro_auc"]
    assert f"macro AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in " ".join(page.text.split())
    assert best["interval"] in page.text and best["trial"] in page.text
    for row, name in zip(page.tables["class-scores"][1:], made.classes, strict=True):
        assert row[0][0] == name
        kinds = ("precision", "recall", "f1", "auc", "average_precision")
        assert [cell[1] for cell in row[2:]] == [best["test"][f"{kind}_{name}"]["value"] for kind in kinds]
    macro, weighted = page.tables["averages"][1:]
    assert [cell[1] for cell in macro[1:5]] == [best["test"][f"macro_{k}"]["value"] for k in kinds[:4]]
    assert weighted[2][1] == best["test"]["accuracy"]["value"]


def test_the_section_on_trust_holds_the_numbers_of_the_files(made: Made, page: Page) -> None:
    """Every number of a table of the page, unrounded, is the one in the CSV beside it."""
    tables = {
        "calibration": ("calibration_scores", ["value", "by_chance", "p_value"], lambda row: row["score"]),
        "reliability-bins": ("calibration", ["objects", "confidence", "accuracy"], None),
        "slices": ("slices_test", ["objects", "accuracy"], None),
        "mistakes": ("mistakes_test", ["probability", "probability_of_truth", "steps"], None),
        "comparisons": ("comparisons", ["accuracy", "difference", "chosen_alone", "other_alone", "p_value", "p_holm",
                                        "log_loss_difference"], None),
    }  # fmt: skip
    for name, (file, columns, order) in tables.items():
        rows = made.table(f"{file}.csv")
        if order is not None:
            rows.sort(key=lambda row: ["log_loss", "brier", "calibration_error"].index(order(row)))
        shown = [[cell[1] for cell in row if cell[1] is not None] for row in page.tables[name][1:]]
        assert len(shown) == len(rows) > 0, name
        np.testing.assert_equal(shown, [[number(row[column]) for column in columns] for row in rows])
    for row, name in zip(page.tables["ensemble"][1:], (evaluation.CHOSEN, "ensemble of 3"), strict=True):
        values = {r["score"]: number(r["value"]) for r in made.table("ensemble.csv") if r["predictions"] == name}
        assert [cell[1] for cell in row[1:]] == [values[score] for score in SHOWN]


def test_what_is_said_of_uncertainty_holds_the_numbers_of_the_files(made: Made, page: Page) -> None:
    scores = {(row["predictions"], row["score"]): number(row["value"]) for row in made.table("uncertainty.csv")}
    names = list(dict.fromkeys(name for name, _ in scores))
    for name, row in zip(names, page.tables["uncertainty"][1:], strict=True):
        assert row[0][0].lower() == name
        np.testing.assert_equal([cell[1] for cell in row[1:]], [scores[name, score] for score in uncertainty.SCORES])
    rows = made.table("out_of_distribution.csv")
    rows.sort(key=lambda row: uncertainty.INPUTS.index(row["inputs"]))
    shown = page.tables["out-of-distribution"][1:]
    assert len(shown) == len(rows) == 15
    for told, row in zip(shown, rows, strict=True):
        assert told[1][0] == row["predictions"]
        values = [number(row[name]) for name in ("sure", "median", "mutual_information", "auc")]
        found = [np.nan if cell[1] is None else cell[1] for cell in told[2:]]
        np.testing.assert_equal(found, values)
    own = {row["inputs"]: number(row["sure"]) for row in rows if row["predictions"] == evaluation.CHOSEN}
    shares = [f"{words} {percent(own[kind], 1)}" for kind, words in said_of_uncertainty.SHOWN.items()]
    assert f"{', '.join(shares[:-1])} and {shares[-1]}" in page.text
    first = list({row["id"]: row for row in reversed(made.table("attributions_test.csv"))}.values())[::-1]
    for told, row in zip(page.tables["attributions"][1:], first, strict=True):
        assert [cell[0] for cell in told[:3]] == [row["id"], row["truth"], row["predicted"]]
        assert [cell[1] for cell in told[3:]] == [number(row[name]) for name in ("probability", "baseline", "gap")]


def test_a_network_that_is_as_sure_of_noise_is_warned_of(copied: Made) -> None:
    """The rule: the interval of the AUC, by which entropy tells random values from test objects, is above 0.5, and
    fewer of them have a high probability."""
    rarer = copied.table("out_of_distribution.csv")[1]["sure"]

    def told(low: str, objects: str = "400", auc: str = "0.6", sure: str = rarer) -> dict[str, str]:
        def change(rows: list[dict[str, str]]) -> None:
            rows[1].update(auc=auc, low=low, high="0.9", objects=objects, sure=sure)

        edit(copied.folder / "out_of_distribution.csv", change)
        return checks(copied)

    assert copied.table("out_of_distribution.csv")[1]["inputs"] == uncertainty.RANDOM
    assert told("0.501")["Less sure of noise than of test objects"] == "passed"
    assert told("0.499")["As sure of noise as of test objects"] == "warning"
    as_often = copied.table("out_of_distribution.csv")[0]["sure"]
    assert told("0.501", sure=as_often)["As sure of noise as of test objects"] == "warning"
    assert told("", auc="1.0")["Less sure of noise than of test objects"] == "passed", "all are told apart"
    assert not [title for title in told("0.4", objects="9") if "noise" in title]


@pytest.mark.parametrize("kinds", [(uncertainty.TEST, uncertainty.REVERSED), (uncertainty.TEST,)])
def test_kinds_of_inputs_that_could_not_be_made_up_are_left_out(copied: Made, kinds: tuple[str, ...]) -> None:
    for name in ("out_of_distribution", "entropies"):
        edit(copied.folder / f"{name}.csv", lambda rows: rows.__setitem__(slice(None), [
            row for row in rows if row["inputs"] in kinds
        ]))  # fmt: skip
    page = Page(copied.write())
    assert len(page.tables["out-of-distribution"]) == 1 + 3 * len(kinds)
    assert (copied.folder / "figures" / "entropies.svg").exists() == (len(kinds) > 1)
    assert not [title for title in checks(copied) if "noise" in title]


def test_what_there_is_no_dropout_and_no_attribution_of_is_told(copied: Made) -> None:
    def without(rows: list[dict[str, str]]) -> None:
        rows[:] = [row for row in rows if row["predictions"] == evaluation.CHOSEN]

    for name in ("uncertainty", "out_of_distribution", "entropies"):
        edit(copied.folder / f"{name}.csv", without)
    header = (copied.folder / "attributions_test.csv").read_text().splitlines()[0]
    assert "next to nothing" not in Page(copied.write()).text
    edit(
        copied.folder / "attributions_test.csv",
        lambda rows: [row.update(attribution="0.00001") for row in rows if row["id"] == rows[0]["id"]],
    )
    assert "1 of the maps shows next to nothing" in Page(copied.write()).text
    write_text(copied.folder / "attributions_test.csv", f"{header}\n")
    page = Page(copied.write())
    assert "The chosen network has no dropout" in page.text and len(page.tables["out-of-distribution"]) == 6
    assert "attributions" not in page.tables and not (copied.folder / "figures" / "attributions.svg").exists()


def test_attributions_of_labelled_steps_name_their_step(copied: Made) -> None:
    assert "Each is of one labelled step" not in Page(copied.write()).text
    edit(copied.folder / "attributions_test.csv", lambda rows: [row.update(of_step="7") for row in rows])
    page = Page(copied.write())
    assert "Each is of one labelled step" in page.text
    head, *rows = page.tables["attributions"]
    assert head[1][0] == "Step" and {row[1][1] for row in rows} == {7}
    assert "step 7: " in (copied.folder / "figures" / "attributions.svg").read_text()


def test_a_gap_beyond_what_is_tolerated_is_told(copied: Made) -> None:
    def apart(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["gap"] = "-0.06" if row["id"] == rows[0]["id"] else row["gap"]

    edit(copied.folder / "attributions_test.csv", apart)
    assert "1 of 6 is beyond the 0.05 that is tolerated" in Page(copied.write()).text


def test_the_scores_of_the_verdict_and_the_classes_are_in_the_files_too(made: Made, page: Page) -> None:
    scores = {(row["split"], row["score"]): row for row in made.table("scores.csv")}
    assert page.numbers == [number(scores["test", score]["value"]) for score in SHOWN]
    of_classes = {(row["class"], row["score"]): row for row in made.table("class_scores_test.csv")}
    kinds = ("precision", "recall", "f1", "auc", "average_precision")
    for name, row in zip(made.classes, page.tables["class-scores"][1:], strict=True):
        for kind, (text, value) in zip(kinds, row[2:], strict=True):
            told = of_classes[name, kind]
            assert value == number(told["value"])
            ends = f"[{number(told['low']):.3f}, {number(told['high']):.3f}]"
            assert text.endswith(ends if number(told["objects"]) >= metrics.FEWEST_OBJECTS else "too few")
    for kind, row in zip(("macro", "weighted"), page.tables["averages"][1:], strict=True):
        for score, (_, value) in zip(kinds, row[1:], strict=True):
            if (told := scores.get(("test", f"{kind}_{score}"))) is not None:
                assert value == number(told["value"])


def test_few_objects_have_no_interval(copied: Made) -> None:
    best = json.loads((copied.folder / "best.json").read_text())
    for score in ("recall_AGN", "accuracy"):
        best["test"][score]["objects"] = 9
    (copied.folder / "best.json").write_text(json.dumps(best))

    def few(rows: list[dict[str, str]]) -> None:
        rows[0]["objects"] = "9"

    def rare(rows: list[dict[str, str]]) -> None:
        rows[0].update(p_value="1e-9", p_holm="4e-5", objects="9")

    for name in ("slices_test", "ensemble", "calibration_scores"):
        edit(copied.folder / f"{name}.csv", few)
    edit(copied.folder / "comparisons.csv", rare)
    page = Page(copied.write())
    assert "(too few objects for an interval)" in page.text
    first = {name: [cell[0] for cell in page.tables[name][1]] for name in ("calibration", "ensemble", "comparisons")}
    assert first["calibration"][2].endswith("too few")
    assert [text.endswith("too few") for text in first["ensemble"][1:]].count(True) == 1
    assert [first["comparisons"][place].endswith("too few") for place in (2, 7)] == [True, True]
    assert first["comparisons"][5:7] == ["< 0.0001", "< 0.0001"]
    assert page.tables["class-scores"][1][3][0].endswith("too few")
    assert [row[3][0].endswith("too few") for row in page.tables["slices"][1:3]] == [True, False]


def test_what_keys_explain_is_told_and_drawn(made: Made, page: Page, tmp_path: Path) -> None:
    shares = {row["key"]: float(row["explained"]) for row in made.table("effects.csv")}
    assert len(shares) == 3
    told = ", ".join(f"{key} {share:.0%}".replace("%", " %") for key, share in shares.items())
    assert f"(epsilon squared): {told}." in " ".join(page.text.split())
    assert f"{next(iter(shares))}: {max(shares.values()):.0%}".replace("%", " %") in " ".join(words_in(made, "effects"))
    alone = make(tmp_path, grid={"model.cell": ["gru"]}, diverged=0)
    assert "variance among grid points" not in Page(alone.write()).text
    assert not (alone.folder / "figures" / "effects.svg").exists()


def test_what_slurm_gave_stands_beside_what_was_used(copied: Made) -> None:
    assert "SLURM gave" not in copied.write().read_text()
    jobs = [copied.folder / "jobs" / name for name in ("job00", "job01")]
    # the first one ran three times as long as the second
    for folder, seconds, memory, load, cores in zip(jobs, (300, 100), (500, 100), (180, 50), (2, 1), strict=True):
        folder.mkdir(parents=True)
        (folder / "benchmark.tsv").write_text(f"s\tmax_rss\tmean_load\n{seconds}\t{memory}\t{load}\n")
        write_json(folder / "allocation.json", {"job": cores, "cores": cores, "memory_mb": 1000.0, "seconds": 1000.0})
    page = Page(copied.write())
    assert "Of what SLURM gave these jobs they used 84 % of the core time, 40 % of the memory, 20 % of the time." in (
        " ".join(page.text.split())
    )
    head, first, second = page.tables["jobs"][:3]
    assert [cell[0] for cell in head[2:]] == [
        "Seconds used", "Time limit (s)", "Memory used (MB)", "Memory given (MB)", "Cores busy", "Cores given",
    ]  # fmt: skip
    assert [cell[0] for cell in first[2:]] == ["300", "1,000", "500", "1,000", "1.80", "2"]
    assert [cell[0] for cell in second[2:]] == ["100", "1,000", "100", "1,000", "0.50", "1"]
    # side by side in one allocation
    write_json(jobs[1] / "allocation.json", {"job": 2, "cores": 2, "memory_mb": 1000.0, "seconds": 1000.0})
    page = Page(copied.write())
    assert "SLURM gave" not in page.text and len(page.tables["jobs"][0]) == 5


def test_probabilities_that_are_wrong_by_more_than_chance_are_warned_of(copied: Made) -> None:
    def judged(before: str, after: str) -> dict[str, str]:
        def change(rows: list[dict[str, str]]) -> None:
            errors = [row for row in rows if row["score"] == "calibration_error"]
            errors[0]["p_value"], errors[1]["p_value"] = before, after

        edit(copied.folder / "calibration_scores.csv", change)
        return checks(copied)

    assert judged("0.001", "0.001")["Probabilities are not to be taken at their word"] == "warning"
    assert judged("0.001", "0.3")["Probabilities need temperature scaling"] == "note"
    assert judged("0.2", "0.3")["Probabilities are calibrated, as far as the test split can tell"] == "passed"


def test_the_matrices_and_the_counts_hold_the_numbers_of_the_files(made: Made, page: Page) -> None:
    for split in ("validation", "test"):
        for suffix in ("", "_normalised", "_normalised_by_prediction"):
            shown = page.tables[f"matrix-{split}{suffix.replace('_', '-')}"]
            text = (made.folder / f"confusion_matrix_{split}{suffix}.csv").read_text(encoding="utf-8")
            file = list(csv.reader(text.splitlines()))
            assert [[cell[1] for cell in row[1:]] for row in shown[1:]] == [
                [float(c) for c in row[1:]] for row in file[1:]
            ]
    rows = made.table("splits.csv")
    for row in page.tables["classes"][1:-1]:
        counts = [
            sum(r["class"] == row[0][0] and r["split"] == s for r in rows) for s in ("train", "validation", "test")
        ]
        assert [cell[1] for cell in row[1:]] == [*counts, sum(counts)]


def test_the_page_is_well_made(made: Made, page: Page) -> None:
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(page.headings)), "no level of heading is skipped"
    assert len(set(page.ids)) == len(page.ids), "ids are unique, those of the figures too"
    assert page.captioned == set(page.tables)
    assert page.scripts == 1
    text = (made.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink))", text)
    shown = page.text
    config = yaml.safe_load((made.folder / "experiment.yaml").read_text())
    assert to_yaml(config) in shown, "it can be used again as it stands"
    best = json.loads((made.folder / "best.json").read_text())
    assert f"jobs/{best['job']}/config.yaml" in shown
    assert "ab" * 32 in shown
    for figure in ElementTree.fromstring("<x>" + "".join(re.findall(r"<svg.*?</svg>", text, re.S)) + "</x>"):
        assert figure.get("role") == "img" and figure.get("aria-label")


def test_ids_of_a_figure_and_what_refers_to_them_are_its_own() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><clipPath id="clip0"><path d="M0,0"/></clipPath>'
        '<g clip-path="url(#clip0)" fill="#0072b2"><text>url(#clip0) &lt;b id="clip0"&gt;</text></g></svg>'
    )
    root = ElementTree.fromstring(figures.Figure("some", 'a "label" <', svg, 9.0).inline())
    clip, group = root
    assert clip.get("id") == "some-clip0" and group.get("clip-path") == "url(#some-clip0)"
    assert group.get("fill") == "#0072b2" and group[0].text == 'url(#clip0) <b id="clip0">'
    assert root.get("role") == "img" and root.get("aria-label") == 'a "label" <'


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_there_as_svg_and_png_with_marks(made: Made, name: str) -> None:
    svg = ElementTree.fromstring((made.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
    marks = [
        element
        for element in svg.iter()
        if re.search(r"mark-(symbol|line|rect|rule|text) role-mark", element.get("class", ""))
    ]
    assert sum(len(element) for element in marks) >= 4
    words = " ".join("".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert len(words.split()) > 8, "title, axis titles and labels"
    png = (made.folder / "figures" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20], "big")
    assert width == pytest.approx(2 * float(svg.get("width", "0")), abs=2)
    empty = f'<svg xmlns="http://www.w3.org/2000/svg" width="{svg.get("width")}" height="{svg.get("height")}"/>'
    assert len(png) > 3 * len(figures.Figure("empty", "", empty, width / 2).png()), "not an empty sheet"


def test_the_confusion_matrix_is_annotated_with_counts_and_shares(made: Made) -> None:
    svg = ElementTree.fromstring((made.folder / "figures" / "confusion_matrix_test.svg").read_text(encoding="utf-8"))
    words = ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for row in made.table("confusion_matrix_test.csv"):
        count = int(row[row["truth"]])
        total = sum(int(row[name]) for name in made.classes)
        assert f"{count:,}" in words and f"{100 * count / total:.0f} %" in words


def test_what_is_chosen_is_marked_in_every_table_of_the_search(made: Made, page: Page) -> None:
    best = json.loads((made.folder / "best.json").read_text())
    chosen = [row for row in page.tables["trials"] if "chosen" in row[0][0]]
    assert [row[0][0].removesuffix("chosen").strip() for row in chosen] == [best["trial"]]
    (point,) = [row for row in page.tables["grid"] if "chosen" in row[0][0]]
    assert [cell[0] for cell in point[1:4]] == [
        f"{v:g}" if not isinstance(v, str) else v for v in best["grid_point"].values()
    ]


def checks(made: Made) -> dict[str, str]:
    text = made.write().read_text(encoding="utf-8")
    return {
        " ".join(title.split()): level
        for level, title in re.findall(r'<li data-level="(\w+)">.*?<strong>(.*?)\.</strong>', text, re.S)
    }


def test_checks_warn_of_what_went_wrong(tmp_path: Path) -> None:
    made = make(tmp_path, seeds=1, diverged=2, rejected=300, objects=500)
    found = checks(made)
    assert found["2 trials diverged"] == "warning"
    assert found["300 objects rejected"] == "warning"
    assert any(title.startswith("Too few test objects") for title in found)
    assert found["One seed a grid point"] == "note"


def test_checks_pass_where_nothing_went_wrong(tmp_path: Path) -> None:
    made = make(tmp_path, classes=("a", "b"), diverged=0, rejected=0, objects=20_000)
    edit(
        made.folder / "calibration_scores.csv",
        lambda rows: [row.update(p_value="0.4") for row in rows if row["p_value"]],
    )
    found = checks(made)
    assert "warning" not in found.values()
    assert {"No trial diverged", "Nothing was rejected", "Enough test objects", "Trained long enough"} <= set(found)


def edit(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_best_epoch_that_is_the_last_one_warns(copied: Made) -> None:
    def last(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["best_epoch"] = row["epochs"]

    edit(copied.folder / "training_results.csv", last)
    assert checks(copied)["Still improving when training ended"] == "warning"


def test_a_gap_between_training_and_validation_warns(copied: Made) -> None:
    def overfit(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["train_accuracy"] = "0.999"

    edit(copied.folder / "history.csv", overfit)
    assert checks(copied)["Overfit"] == "warning"


def test_a_perfect_test_score_warns_of_a_leak(copied: Made) -> None:
    def perfect(rows: list[dict[str, str]]) -> None:
        for row in rows:
            total = sum(int(row[name]) for name in copied.classes)
            row |= {name: str(total if name == row["truth"] else 0) for name in copied.classes}

    edit(copied.folder / "confusion_matrix_test.csv", perfect)
    assert checks(copied)["The test score is perfect"] == "warning"
    assert "confuses nothing" in (copied.folder / "report.html").read_text()


def test_a_test_score_below_validation_warns(copied: Made) -> None:
    best = json.loads((copied.folder / "best.json").read_text())
    best["test"]["macro_auc"] = {"value": 0.80, "low": 0.78, "high": 0.82}
    (copied.folder / "best.json").write_text(json.dumps(best))
    assert checks(copied)["Worse on test than on validation"] == "warning"


def with_leaks(made: Made, **counts: Any) -> dict[str, str]:
    path = made.folder / "statistics.json"
    values = json.loads(path.read_text())
    values["leaks"] |= counts
    path.write_text(json.dumps(values))
    return checks(made)


def test_leaks_are_told(copied: Made) -> None:
    assert with_leaks(copied, too_few_numbers=4)["No leak between splits"] == "passed"
    text = " ".join(Page(copied.folder / "report.html").text.split())
    assert "no group stands in two splits" in text and "4 sequences too short or too plain to be compared" in text
    found = {"objects": 7, "equal": 5, "near_equal": 2}
    assert with_leaks(copied, **found, action="report")["7 objects leak between splits"] == "warning"
    text = " ".join(Page(copied.folder / "report.html").text.split())
    assert "5 objects equal to one in another split, 2 objects almost equal to one in another split" in text
    assert "warn" in text.partition("Can I believe it?")[0] and "7 objects leak between splits" in text
    assert with_leaks(copied, **found, action="drop_from_training")["7 leaking objects taken out"] == "note"


def test_objects_taken_out_count_in_no_split(copied: Made) -> None:
    before = {row[0][0]: row[-1][1] or 0 for row in Page(copied.write()).tables["classes"][1:]}

    def leak(rows: list[dict[str, str]]) -> None:
        for row in [row for row in rows if row["class"] == "AGN" and row["split"] == "train"][:9]:
            row["split"] = "leaked"

    edit(copied.folder / "splits.csv", leak)
    after = {row[0][0]: row[-1][1] or 0 for row in Page(copied.write()).tables["classes"][1:]}
    assert {name: before[name] - after[name] for name in before if before[name] != after[name]} == {
        "AGN": 9, "All classes": 9
    }  # fmt: skip


def test_growing_sequences_are_drawn_and_tabled(tmp_path: Path) -> None:
    made = make(tmp_path)
    path = made.folder / "experiment.yaml"
    values = read_yaml(path)
    values["task"] = {"kind": "prefix", "early": {"around": "peak", "at": [-7, 0]}}
    path.write_text(to_yaml(values))
    best = json.loads((made.folder / "best.json").read_text())["trial"]
    header = ["trial", *early.COLUMNS]
    moments = [("steps", 1.0), ("steps", 9.0), ("time_since_first", 0.0), ("time_since_first", 80.0)]
    rows = [
        [trial, by, at, 590, 10, *([score] * len(early.SCORES))]
        for trial, score in (("another", 0.1), (best, 0.625))
        for by, at in [*moments, ("peak", -7.0), ("peak", 0.0)]
    ]
    with (made.folder / "early_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    write_examples(made.folder, made.classes, np.random.default_rng(1), growing=True)
    page = Page(report.write(made.folder, made.dataset))
    table = page.tables["early"]
    assert [[value for _, value in row[:4]] for row in table[1:]] == [[-7, 590, 10, 0.625], [0, 590, 10, 0.625]]
    assert "Time from peak (days)" in table[0][0][0]
    assert "0.625 after the first step and 0.625 after 9" in page.text
    svg = (made.folder / "figures" / "early_curves.svg").read_text()
    assert "steps observed at most" in svg and "calibration error" in svg
    words = words_in(made, "growing_objects")
    grown = made.table("growing_test.csv")
    assert len({row["id"] for row in grown}) == examples.MOST_GROWING and {row["id"] for row in grown} <= {
        word.partition(" ")[0] for word in words
    }
    assert sum(word.startswith("taken for ") for word in words) == len(
        {row["id"] for row in grown if row["truth"] != row["predicted"]}
    )
    edit(made.folder / "growing_test.csv", lambda rows: rows.pop())
    with pytest.raises(JaxrnnError, match=r"growing_test\.csv: has not one row"):
        report.write(made.folder, made.dataset)
    (made.folder / "early_test.csv").unlink()
    with pytest.raises(JaxrnnError, match=r"early_test\.csv"):
        report.write(made.folder, made.dataset)


def test_folds_are_told_and_their_intervals_doubted(tmp_path: Path) -> None:
    made = make(tmp_path, grid={"training.learning_rate": [0.001, 0.003]}, seeds=2, folds=3, diverged=0)
    found = checks(made)
    page = Page(made.folder / "report.html")
    text = " ".join(page.text.split())
    best = json.loads((made.folder / "best.json").read_text())
    assert "over its seeds and folds was chosen, then its best trial" in text
    assert "intervals over them are too narrow" in text
    assert found.get("The choice is clear") in (None, "note")
    head, *rows = page.tables["trials"]
    place = [cell[0] for cell in head].index("Fold")
    results = {row["trial"]: row["fold"] for row in made.table("training_results.csv")}
    assert len(rows) == 12
    for row in rows:
        assert row[place][0] == results[row[0][0].removesuffix("chosen").strip()]
    head, *rows = page.tables["grid"]
    assert [[row[[c[0] for c in head].index(name)][1] for name in ("Seeds", "Folds")] for row in rows] == [[2, 3]] * 2
    # the table of classes shows the chosen trial's own splits
    own = str(best["fold"])
    for row in page.tables["classes"][1:-1]:
        members = [r for r in made.table("splits.csv") if r["class"] == row[0][0]]
        validation = sum(r["fold"] == own for r in members)
        test = sum(r["split"] == "test" for r in members)
        assert [cell[1] for cell in row[1:]] == [len(members) - validation - test, validation, test, len(members)]


def test_what_ingest_cut_and_could_not_read_is_told(copied: Made) -> None:
    path = copied.dataset / "manifest.json"
    assert "cut" not in Page(copied.write()).tables
    manifest = json.loads(path.read_text())
    manifest["cut_by_reason"] = {"flag of photflag": 40, "outside the window": 2}
    manifest["counts"] |= {"observations_cut": 42, "objects_cut": 5, "parts_rejected": 3, "bytes_rejected": 4_000_000}
    manifest["counts"] |= {"times_repeated": 9, "observations_repeated": 8}
    path.write_text(json.dumps(manifest))
    page = Page(copied.write())
    assert [[cell[0] for cell in row] for row in page.tables["cut"][1:]] == [
        ["flag of photflag", "40"], ["outside the window", "2"]
    ]  # fmt: skip
    text = " ".join(page.text.split())
    assert "42 observations in all were left out by choice, and 5 objects kept none" in text
    assert "3 of the survey's files, or pieces of them, could not be read" in text
    assert "3 of 20 (15 %; 43 % of the bytes) were left out" in text and "Nothing was rejected" not in text
    assert "9 observations have the time and passband of another one of their object, 8 of them equal" in text


def test_hostile_class_names_are_text(tmp_path: Path) -> None:
    made = make(tmp_path, classes=HOSTILE, objects=2500)
    page = Page(made.write())
    assert page.scripts == 1
    assert [row[0][0] for row in page.tables["class-scores"][1:]] == [
        "\N{REPLACEMENT CHARACTER}" * 2 if name == HOSTILE[-2] else name.strip() for name in HOSTILE
    ]
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.text, "it would turn the sentence around"
    assert "{{ 7 * 7 }} ${8 * 8}" in page.text and "alert(1)" in page.text
    for name in FIGURES:
        svg = ElementTree.fromstring((made.folder / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
        assert not [
            element for element in svg.iter() if element.tag.rpartition("}")[2] in ("script", "foreignObject", "b")
        ]
    svg = ElementTree.fromstring((made.folder / "figures" / "confusion_matrix_test.svg").read_text(encoding="utf-8"))
    words = ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for label in figures.labels(HOSTILE):
        assert words.count(label) == 2, f"{label} stands at both axes"


def test_labels_are_short_printable_and_different() -> None:
    shown = figures.labels(HOSTILE)
    assert len(set(shown)) == len(HOSTILE)
    assert all(label.isprintable() and 0 < len(label) <= figures.LONGEST_LABEL + 4 for label in shown)


def test_a_grid_without_keys_and_with_one_seed(tmp_path: Path) -> None:
    made = make(tmp_path, grid={}, seeds=1, diverged=0, classes=("a", "b"))
    page = Page(made.write())
    assert len(page.tables["grid"]) == 2 and "chosen" in page.tables["grid"][1][0][0]


def test_values_of_yaml_are_told_apart(tmp_path: Path) -> None:
    grid = {
        "training.gradient_clip": [None, 1.0],
        "model.bidirectional": [True, False],
        "training.learning_rate": [1e-4, 1],
    }
    page = Page(make(tmp_path, grid=grid, seeds=1, diverged=0).write())
    shown = {tuple(cell[0] for cell in row[1:4]) for row in page.tables["grid"][1:]}
    assert shown == set(itertools.product(("null", "1"), ("true", "false"), ("0.0001", "1")))
    assert sum("chosen" in row[0][0] for row in page.tables["grid"]) == 1


def words_in(made: Made, figure: str) -> list[str]:
    svg = ElementTree.fromstring((made.folder / "figures" / f"{figure}.svg").read_text(encoding="utf-8"))
    return ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_scores_are_drawn_against_keys_of_numbers(tmp_path: Path) -> None:
    grid = {"training.sequences": [10, 100, 1000], "model.cell": ["gru", "lstm"]}
    made = make(tmp_path, grid=grid, metric="accuracy")
    html = made.write().read_text(encoding="utf-8")
    found = {file.stem for file in (made.folder / "figures").glob("score_curves*.svg")}
    assert found == {f"score_curves_{split}_training_sequences" for split in ("validation", "test")}
    for split in ("validation", "test"):
        words = words_in(made, f"score_curves_{split}_training_sequences")
        assert {"10", "100", "1000", "gru", "lstm", f"{split} accuracy"} <= set(words)
        assert "training.sequences (logarithmic)" in words
    # who chooses does not see the test scores
    test = html.index('id="figure-score_curves_test_training_sequences"')
    assert html.index("<summary>Test scores of every grid point") < test < html.index('<section id="training"')
    assert html.index('id="figure-score_curves_validation_training_sequences"') < html.index("<summary>Test scores of")


def test_a_null_among_the_numbers_is_in_the_table_alone(tmp_path: Path) -> None:
    made = make(tmp_path, grid={"training.sequences": [10, None, 100, 1000]}, metric="accuracy")
    page = Page(made.write())
    words = words_in(made, "score_curves_test_training_sequences")
    assert {"10", "100", "1000"} <= set(words) and "null" not in words
    assert any("The point with null is in the table alone." in word for word in words)
    assert "null" in [cell[0] for row in page.tables["grid"] for cell in row]


@pytest.mark.parametrize(
    "grid",
    [
        {"model.units": [8, 16]},
        {"model.cell": ["simple", "gru", "lstm"]},
        {"training.gradient_clip": [None, 1, 2]},  # two numbers
        {"model.units": [8, 16, 32], "training.learning_rate": [1, 2, 3, 4, 5, 6], "loss.gamma": [0, 1]},
    ],
    ids=["two values", "words", "null", "too many lines"],
)
def test_no_curve_is_drawn_of_what_makes_none(tmp_path: Path, grid: dict[str, list[Any]]) -> None:
    made = make(tmp_path, grid=grid, seeds=2)
    made.write()
    assert not list((made.folder / "figures").glob("score_curves*"))


def test_scores_that_are_all_one_have_a_frame(copied: Made) -> None:
    def equal(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row |= {name: "1.0" for name in row if name.startswith("macro_auc")}

    for name in ("training_results.csv", "grid_results.csv"):
        edit(copied.folder / name, equal)
    copied.write()
    for figure in ("grid_scores", "score_curves_validation_training_learning_rate"):
        words = words_in(copied, figure)
        assert {"0.96", "1.00"} <= set(words) and "1.02" not in words


@pytest.mark.parametrize(
    ("metric", "shown"), [("log_loss", "Log loss"), ("plasticc_log_loss", "Class-averaged log loss")]
)
def test_log_loss_is_better_when_lower(tmp_path: Path, metric: str, shown: str) -> None:
    page = Page(make(tmp_path, metric=metric, diverged=0).write())
    head, *rows = page.tables["grid"]
    place = [cell[0] for cell in head].index(shown)
    losses = [row[place][1] for row in rows]
    assert losses == sorted(losses, key=lambda value: value or 0.0)


def test_a_target_has_its_figure_of_merit_in_every_table_of_scores(tmp_path: Path) -> None:
    made = make(tmp_path, metric="figure_of_merit", target="SN Ia", diverged=0)
    page = Page(made.write())
    for name in ("grid", "grid-test", "trials", "trials-test"):
        assert "Figure of merit" in [cell[0] for cell in page.tables[name][0]], name
    head, *rows = page.tables["grid"]
    place = [cell[0] for cell in head].index("Figure of merit")
    merits = [row[place][1] for row in rows]
    assert merits == sorted(merits, key=lambda value: -(value or 0.0))
    best = json.loads((made.folder / "best.json").read_text())
    assert page.numbers[-1] == best["test"]["figure_of_merit"]["value"]
    # it was not watched: macro AUC is drawn in its place
    assert "Loss and macro AUC at each epoch" in page.text

    def watched(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["validation_figure_of_merit"] = "0.5"

    edit(made.folder / "history.csv", watched)
    assert "Loss and figure of merit at each epoch" in Page(made.write()).text


def test_objects_left_out_by_name_are_no_labels_left_out(copied: Made) -> None:
    assert "unknown (1)" in Page(copied.write()).text
    change_settings(copied, split={"leave_out": ["odd"]})
    text = Page(copied.write()).text
    assert "unknown (" not in text and "Labels left out" not in text


def test_fewer_training_sequences_are_told(copied: Made) -> None:
    of = sum(row["split"] == "train" for row in copied.table("splits.csv"))
    change_settings(copied, training={"sequences": of})
    assert "Training objects seen" not in Page(copied.write()).text
    change_settings(copied, training={"sequences": 100})
    assert f"100 of {of:,}, as training.sequences says" in " ".join(Page(copied.write()).text.split())


def test_steps_are_called_steps(copied: Made) -> None:
    change_settings(copied, task={"kind": "step"})
    statistics = json.loads((copied.folder / "statistics.json").read_text())
    counts = {name: {"train": 900, "validation": 90, "test": 99} for name in copied.classes}
    write_json(copied.folder / "statistics.json", {**statistics, "counts": [counts]})
    best = json.loads((copied.folder / "best.json").read_text())
    for name in copied.classes:
        best["test"][f"recall_{name}"]["objects"] = 3 if name == "AGN" else 30  # sequences, however many their steps
    (copied.folder / "best.json").write_text(json.dumps(best))
    text = " ".join(Page(copied.write()).text.split())
    steps = sum(int(value) for row in copied.table("confusion_matrix_test.csv") for value in [*row.values()][1:])
    assert f"On {steps:,} steps of {best['objects']['test']:,} test objects, which neither" in text
    assert "Steps of each class, by split" in text and "Too few test objects for 1 class. “AGN” (3):" in text
    assert (
        "All three are of one step a sequence" in text and "The calibration error, of one step a sequence, is" in text
    )
    assert (
        "Objects of each class" not in text
        and "Objects of each class" not in (copied.folder / "figures" / "class_counts.svg").read_text()
    )


def change_settings(made: Made, **sections: dict[str, Any]) -> None:
    path = made.folder / "experiment.yaml"
    values = yaml.safe_load(path.read_text())
    for name, keys in sections.items():
        values[name] = {**(values.get(name) or {}), **keys}
    write_text(path, to_yaml(values))


def test_attention_may_have_as_many_rows_as_it_likes() -> None:
    """Label sequences have a row a position; blocks keep the weight, and the strip says what a colour is."""
    weights = np.random.default_rng(3).dirichlet(np.ones(140), size=6)
    blocks, down, across = figures._blocks(weights)
    assert (blocks.shape, down, across) == ((6, 35), 1, 4)
    np.testing.assert_allclose(blocks.sum(axis=1), 1)
    drawn = figures.attention({"one": weights}, positions=True)
    assert "labelled position" in drawn.svg and "attention weight" in drawn.svg and "labelled step" not in drawn.svg


def test_loss_and_optimiser_are_told_in_words(copied: Made) -> None:
    path = copied.folder / "experiment.yaml"
    values = yaml.safe_load(path.read_text())
    values["loss"] = {"kind": "binary", "class_weights": "effective", "beta": 0.99, "label_smoothing": 0.1}
    values["training"] |= {"optimiser": "adamw", "schedule": "cosine"}
    write_text(path, to_yaml(values))
    text = " ".join(Page(copied.write()).text.split())
    assert "label smoothing 0.1, class weights by effective number (beta 0.99), AdamW and learning rate" in text
    assert ", falling in a cosine" in text
    assert "binary" in text


def test_a_large_grid_with_many_classes(tmp_path: Path) -> None:
    grid = {"model.units": [8, 16, 32, 64, 128], "training.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
            "loss.gamma": [0, 0.5, 1, 2]}  # fmt: skip
    made = make(tmp_path, classes=tuple(f"class {i}" for i in range(15)), grid=grid, epochs=60, objects=20_000)
    start = time.perf_counter()
    path = made.write()
    assert time.perf_counter() - start < 60
    assert len(Page(path).tables["trials"]) == 301
    assert path.stat().st_size < 5e6
    assert "40 of 100 grid points, the best first" in (made.folder / "figures" / "grid_scores.svg").read_text()


def test_a_second_write_is_byte_equal(made: Made, drawn: dict[str, Any]) -> None:
    before = {p.name: p.read_bytes() for p in [made.folder / "report.html", *(made.folder / "figures").iterdir()]}
    drawn.clear()
    made.write()
    after = {p.name: p.read_bytes() for p in [made.folder / "report.html", *(made.folder / "figures").iterdir()]}
    assert before == after


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("best.json", "jaxrnn aggregate"),
        ("training_results.csv", "jaxrnn aggregate"),
        ("experiment_results.csv", "jaxrnn aggregate"),
        ("grid_results.csv", "jaxrnn aggregate"),
        ("history.csv", "jaxrnn aggregate"),
        ("confusion_matrix_validation.csv", "jaxrnn aggregate"),
        ("confusion_matrix_test.csv", "jaxrnn aggregate"),
        ("roc_test.csv", "jaxrnn aggregate"),
        ("calibration.csv", "jaxrnn aggregate"),
        ("examples.csv", "jaxrnn aggregate"),
        ("splits.csv", "jaxrnn split"),
        ("statistics.json", "jaxrnn split"),
        ("experiment.yaml", "jaxrnn plan"),
        ("manifest.json", "jaxrnn ingest"),
    ],
)
def test_a_missing_or_broken_file_names_the_command_that_makes_it(copied: Made, name: str, command: str) -> None:
    path = (copied.dataset if name == "manifest.json" else copied.folder) / name
    text = path.read_text(encoding="utf-8")

    def message() -> str:
        with pytest.raises(JaxrnnError) as caught:
            copied.write()
        assert not (copied.folder / "report.html").exists() and not (copied.folder / "figures").exists()
        assert not list(copied.folder.glob(".*")), "nothing half-written"
        return str(caught.value)

    path.unlink()
    assert str(path) in (missing := message()) and command in missing
    path.write_text(text[: len(text) // 2].rpartition("\n")[0] + '\n"', encoding="utf-8")
    assert str(path) in message()
    path.write_text("", encoding="utf-8")
    assert str(path) in message()
    if name.endswith(".csv"):
        for column in ("trial,", "truth,", "seeds,", "label,", "class,", "probabilities,"):
            text = text.replace(column, f"no-{column}", 1)
        path.write_text(text.replace("no-truth,", "truth,extra,"), encoding="utf-8")
        assert str(path) in (wrong := message()) and command in wrong


def test_a_score_that_is_missing_names_its_file(copied: Made) -> None:
    best = json.loads((copied.folder / "best.json").read_text())
    del best["test"]["macro_f1"]
    (copied.folder / "best.json").write_text(json.dumps(best))
    with pytest.raises(JaxrnnError, match=r"best\.json: macro_f1 missing.*jaxrnn aggregate"):
        copied.write()


def test_a_number_that_is_none_names_its_row_and_column(copied: Made) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[1]["accuracy"] = "high"

    edit(copied.folder / "training_results.csv", spoil)
    with pytest.raises(JaxrnnError, match=r"training_results\.csv: row 3, column accuracy: .*'high'"):
        copied.write()


def test_labels_that_share_a_class_are_listed(copied: Made) -> None:
    def group(rows: list[dict[str, str]]) -> None:
        for index, row in enumerate(rows):
            if row["class"] == "SN II":
                row["label"] = ("IIP", "IIn")[index % 2]

    edit(copied.folder / "splits.csv", group)
    rows = {row[0][0]: row[1][0] for row in Page(copied.write()).tables["classes"]}
    assert rows["Class"] == "Labels of the survey" and rows["SN II"] == "IIP, IIn" and rows["AGN"] == "AGN"


def test_results_of_another_version_are_explained(copied: Made) -> None:
    best = json.loads((copied.folder / "best.json").read_text())
    (copied.folder / "best.json").write_text(json.dumps({**best, "jaxrnn_version": "99.1"}))
    with pytest.raises(JaxrnnError, match=r"99\.1"):
        copied.write()


def test_text_on_the_matrix_has_contrast_in_both_schemes() -> None:
    def luminance(colour: np.ndarray) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def rgb(text: str) -> np.ndarray:
        return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255

    for scheme in (0, 1):
        colour = {name: rgb(pair[scheme]) for name, pair in figures.TOKENS.items()}
        for share in np.linspace(0, 1, 101):
            cell = share * colour["heat"] + (1 - share) * colour["surface"]
            text = colour["on_heat"] if share > figures.DARK_TEXT else colour["on_pale"]
            light, dark = sorted((luminance(cell), luminance(text)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, share)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright: pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["plain", "hostile"])
def written(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "plain":
        return made.folder / "report.html"
    return make(tmp_path_factory.mktemp("hostile"), classes=HOSTILE, objects=2500).write()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, written: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(written.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    # evaluated, for the page's policy lets no other script in
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious
    assert len(found["passes"]) > 15
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_in_a_browser(browser: Any, written: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri())
    page.wait_for_load_state("networkidle")
    assert not faults
    assert [url for url in requests if not url.startswith("data:")] == [written.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(24, 27, 32)")
    sheet = page.evaluate("getComputedStyle(document.querySelector('.drawn svg > rect')).fill")
    assert sheet == background, "a figure's ground is the page's"
    # some figures are for after the choice, folded away
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in FIGURES:
        drawn = page.locator(f"#figure-{name} svg")
        assert drawn.is_visible()
        box = drawn.bounding_box()
        assert box["width"] > 200 and box["height"] > 60
        assert drawn.locator("[class*=role-mark] > *").count() >= 4
    heads = page.locator("#trials thead button")
    place = [text.strip() for text in heads.all_inner_texts()].index("Accuracy")
    heads.nth(place).click()
    values = page.eval_on_selector_all(
        "#trials tbody tr", f"rows => rows.map(row => row.cells[{place}].dataset.value).map(Number)"
    )
    finite = [value for value in values if np.isfinite(value)]
    assert len(finite) > 3 and finite == sorted(finite), "a click on a column's head sorts by it"
    assert heads.nth(place).locator("xpath=..").get_attribute("aria-sort") == "ascending"
    rows = page.locator("#trials tbody tr")
    before = rows.count()
    page.get_by_role("searchbox").fill("completed lstm")
    kept = page.locator("#trials tbody tr:visible")
    assert 0 < kept.count() < before, "the filter leaves rows with all words"
    assert all("lstm" in text and "completed" in text for text in kept.all_inner_texts())
    assert page.get_by_role("status").inner_text() == f"{kept.count()} of {before}"
    page.get_by_role("searchbox").fill("")
    assert kept.count() == before
    context.close()
