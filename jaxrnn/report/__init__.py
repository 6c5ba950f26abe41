"""The report: one self-contained page that answers which classifier, how good, how sure, and whether to believe it.

It reads what the other commands wrote, computes nothing that they measured, and draws through `report.figures`.
Each section of the page is a function here that returns what its part of `page.html.j2` shows.
"""

import base64
import csv
import hashlib
import io
import math
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from jaxrnn import early, estimates, metrics, plan, search
from jaxrnn.config import (
    ERROR_RATES,
    LOWER_IS_BETTER,
    Halving,
    Loss,
    Model,
    Range,
    Task,
    Training,
    digest,
    read_yaml,
    substituted,
    to_yaml,
)
from jaxrnn.early import SINCE_FIRST, STEPS
from jaxrnn.errors import JaxrnnError, listed, plural
from jaxrnn.readers import SPLITS
from jaxrnn.report import figures
from jaxrnn.report.figures import SCORES, Figure
from jaxrnn.results import ATTEMPTS, DIVERGED, HALTED, HISTORY_COLUMNS, read_json, write_text, written_whole
from jaxrnn.splits import EXCLUDED, POOL
from jaxrnn.transcripts import DECODED_COLUMNS, DELETED, INSERTED

FEW_OBJECTS = 10  # in the test split: fewer say little about a class
EDGE = 0.05  # of a range, at each of its ends
FEWEST_VALUES = 3  # of a grid key that scores are drawn against
EXAMPLES = 5  # decoded sequences with a mistake, and without
LARGE_GAP = 0.05  # of accuracy between training and validation
MANY_REJECTED = 0.01  # share of objects
HISTORY = ("trial", *HISTORY_COLUMNS)
TRIALS = ("trial", "job", "seed", "epochs", "best_epoch", "seconds", "input_seconds", "pack_halvings", "outcome")
FOLDS_DEPEND = "Folds share training objects, so that intervals over them are too narrow."
STRATEGIES = {"random": "drawn at random", "sobol": "drawn by Sobol's sequence"}
Row = dict[str, Any]
NOT_A_NUMBER = "\N{EN DASH}"


def write(experiment_folder: Path, dataset_folder: Path) -> Path:
    """Writes `figures/` and `report.html` into an experiment's folder, each whole or not at all; returns the page.

    Raises JaxrnnError for an input that is missing or broken, with the command that makes it.
    """
    inputs = _read(experiment_folder, dataset_folder)
    curves = _score_curves(inputs)
    drawn = {figure.name: figure for figure in _figures(inputs, curves)}
    page = _page(inputs, drawn, curves)
    with written_whole(experiment_folder / "figures") as folder:
        folder.mkdir()
        for figure in drawn.values():
            (folder / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
            (folder / f"{figure.name}.png").write_bytes(figure.png())
    path = experiment_folder / "report.html"
    write_text(path, page)
    return path


# Reading


@dataclass(frozen=True)
class Inputs:
    """What the page is made from. Rows hold text in their text columns and floats in the others.

    objects: how many of each (label, class, split), as the chosen trial's fold has them. steps: how many of each class
    in each split, where steps have labels, or objects several. leaks: how many objects stand in two splits, by kind,
    and what was done about them. remarks: what else `jaxrnn split` said. early: the chosen trial's rows of
    early_test.csv, none where it predicts no prefixes. attention: the chosen trial's weights `[target step, source
    step]` by test object, none where it has no decoder. scores: those that the task defines, by the names of their
    columns. confusion: counts `[truth, predicted]` of validation and test; of label sequences with what was inserted in
    the last row and what was deleted in the last column. decoded: the rows of decoded_test.csv, none where no label
    sequence is decoded. keys: the grid's dotted keys. ranges: those whose values were drawn from a range. rungs: of
    successive halving, all but the last: rows of the grid points that were in them. experiment: the
    digest of the experiment's values. chosen: the chosen trial's row. attempts: of the jobs that were started again
    after an error, how often they were.
    """

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    early: list[Row]
    attention: dict[str, NDArray[np.float64]]
    objects: Counter[tuple[str, str, str]]
    steps: dict[str, dict[str, int]]
    leaks: dict[str, Any]
    remarks: list[str]
    trials: list[Row]
    tests: list[Row]
    grid: list[Row]
    history: list[Row]
    best: dict[str, Any]
    classes: list[str]
    confusion: dict[str, NDArray[np.int64]]
    decoded: list[Row]
    scores: dict[str, str]
    keys: list[str]
    ranges: dict[str, Range]
    rungs: list[list[Row]]
    experiment: str
    chosen: Row
    attempts: dict[str, int]

    @property
    def metric(self) -> str:
        return str(self.best["metric"])

    @property
    def spells(self) -> bool:
        """Returns whether the task is of label sequences."""
        return bool(self.decoded)

    @property
    def counted(self) -> str:
        """Returns what has a class, and is scored: `objects`, their `steps`, or the `labels` of label sequences."""
        return "labels" if self.spells else "steps" if self.steps else "objects"

    @property
    def drawn(self) -> str:
        """Returns what a grid point's trials differ in: `seeds`, `folds`, both, or "" where it has one trial."""
        seeds = ["seeds"] if any(row["seeds"] > 1 for row in self.grid) else []
        return " and ".join([*seeds, *(["folds"] if self.in_folds else [])])

    @property
    def in_folds(self) -> bool:
        return "fold" in self.best

    def points(self) -> list[Row]:
        """Returns the grid's rows in the order of the choice, with label, mean, low and high of the metric, the
        number of diverged trials, the epoch after which it was halted (or 0), and chosen.

        As in `jaxrnn.selection`, halted points and then those with a diverged trial stand behind all others, and log
        loss parts equals.
        """
        own = self.label(self.chosen)
        diverged = Counter(self.label(row) for row in self.trials if row["outcome"] == DIVERGED)
        halted: dict[str, int] = {}
        for row in self.trials:
            if row["outcome"] == HALTED:
                halted[self.label(row)] = max(int(row["epochs"]), halted.get(self.label(row), 0))
        points = [
            {
                **row,
                "label": self.label(row),
                "chosen": self.label(row) == own,
                "diverged": diverged[self.label(row)],
                "halted": halted.get(self.label(row), 0),
                **{part: row[f"{self.metric}_{part}"] for part in ("mean", "low", "high")},
            }
            for row in self.grid
        ]
        return sorted(
            points,
            key=lambda p: (
                not p["chosen"],
                -p["halted"] if p["halted"] else -math.inf,
                p["diverged"] > 0,
                self.order(p["mean"]),
                p["log_loss_mean"],
            ),
        )

    def order(self, score: float) -> float:
        """Returns what sorts scores of the metric, best first and those that are no number last."""
        if not math.isfinite(score):
            return math.inf
        return score if self.lower_is_better else -score

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    def label(self, row: Row) -> str:
        """Returns a grid point's values of the keys that vary."""
        return " · ".join(_value(row[key]) for key in self.varied) or "the only grid point"

    @property
    def varied(self) -> list[str]:
        return [key for key in self.keys if len(self.config["grid"][key]) > 1]


def _read(folder: Path, dataset: Path) -> Inputs:
    name = folder.name
    command = f"jaxrnn aggregate --config {shlex.quote(f'config/{name}.yaml')}"
    config_path = folder / "experiment.yaml"
    if not config_path.exists():
        raise JaxrnnError(f"{config_path}: not there yet; run `jaxrnn plan --config config/{name}.yaml` first")
    config = read_yaml(config_path)
    experiment = digest(config)
    lacking = [
        k for k in ("experiment", "seed", "data", "task", "model", "loss", "training", "grid") if k not in config
    ]
    if lacking:
        raise JaxrnnError(f"{config_path}: {listed(lacking)} missing; remove it and run `jaxrnn plan` again")
    tried = {str(key): values for key, values in (config["grid"] or {}).items()}
    keys = list(tried)
    ranges = {key: Range.model_validate(values) for key, values in tried.items() if isinstance(values, dict)}

    manifest = read_json(dataset / "manifest.json", "jaxrnn ingest")
    _expect(manifest, dataset / "manifest.json", "jaxrnn ingest",
            ("reader", "counts", "time_unit", "survey_files", "rejected_by_reason", "length_histogram", "features",
             "metadata", "shards"))  # fmt: skip
    counts = ("objects", "observations")
    expected = ("steps_out", *(f"{what}_{where}" for what in counts for where in ("in", "out", "rejected")))
    _expect(manifest["counts"], dataset / "manifest.json", "jaxrnn ingest", expected)
    best = read_json(folder / "best.json", command)
    _expect(
        best,
        folder / "best.json",
        command,
        ("trial", "job", "metric", "grid_point", "seed", "objects", "validation", "test", "software"),
    )
    overall = metrics.overall(Task.model_validate(config["task"] or {}))
    scores = {name: shown for name, shown in SCORES.items() if name in overall}
    for split in ("validation", "test"):
        _expect(best[split], folder / "best.json", command, scores)
    if best["metric"] not in scores:
        raise JaxrnnError(
            f"{folder / 'best.json'}: metric is {best['metric']!r}; expected one of {listed(list(scores))}"
        )

    statistics = read_json(folder / "statistics.json", "jaxrnn split")
    _expect(statistics, folder / "statistics.json", "jaxrnn split", ("leaks", "remarks", "counts"))

    folds = ["fold"] if "fold" in best else []
    text = ("trial", "job", "seed", "fold", "outcome", *keys)
    trials = _table(folder / "training_results.csv", command, (*TRIALS, *scores, *folds, *keys), text)
    tests = _table(folder / "experiment_results.csv", command, (*TRIALS, *(f"test_{s}" for s in scores)), text)
    parts = tuple(
        f"{prefix}{score}_{part}" for prefix in ("", "test_") for score in scores for part in ("mean", "low", "high")
    )
    grid = _table(folder / "grid_results.csv", command, (*keys, "seeds", *(["folds"] if folds else []), *parts), keys)
    history = _table(folder / "history.csv", command, HISTORY, ("trial",))
    own = [f"fold_{best['fold']}"] if folds and config.get("split", {}).get("fold_kind") == "random" else folds
    columns = ("id", "label", "class", "split", *own)
    splits = _table(folder / "splits.csv", "jaxrnn split", columns, columns)
    # a remark counts those that the user left out by name; their labels are not left out
    left_out = set((config["split"] or {}).get("leave_out") or ())
    task = (config["task"] or {}).get("kind", "sequence")
    growing: list[Row] = []
    if task == "prefix":
        rows = _table(folder / "early_test.csv", command, ("trial", *early.COLUMNS), ("trial", "by"))
        growing = [row for row in rows if row["trial"] == str(best["trial"])]
    decoded: list[Row] = []
    table = "confusion_matrix"
    if task == "label_sequence":
        table = "edit_operations"
        decoded = _table(folder / "decoded_test.csv", command, DECODED_COLUMNS, ("id", "truth", "decoded"))
        _expect(best, folder / "best.json", command, ("decoder", "beam_width", "decoders"))
    ends = (DELETED, INSERTED) if decoded else None
    classes, validation = _matrix(folder / f"{table}_validation.csv", command, ends)
    classes_test, test = _matrix(folder / f"{table}_test.csv", command, ends)
    if classes != classes_test:
        raise JaxrnnError(f"{folder}: the two tables {table}_*.csv have different classes; run `{command}` again")
    if [row["trial"] for row in trials] != [row["trial"] for row in tests]:
        raise JaxrnnError(
            f"{folder}: training_results.csv and experiment_results.csv hold different trials; run `{command}` again"
        )
    for key in ranges:
        tried[key] = sorted({float(row[key]) for row in trials})
    config = {**config, "grid": {key: [plan.cell(key, value) for value in values] for key, values in tried.items()}}
    halving = (config.get("search") or {}).get("halving")
    rungs = []
    for number in range(1, halving["rungs"] if halving else 1):
        promote = f"jaxrnn promote --rung {number} --config {shlex.quote(f'config/{name}.yaml')}"
        columns = ("trial", "epochs", "mean", "rank", "promoted")
        rows = _table(search.table(folder, number), promote, (*columns, *keys), ("trial", "promoted", *keys))
        rungs.append([*{tuple(row[key] for key in keys): row for row in rows}.values()])
    chosen = [row for row in trials if row["trial"] == str(best["trial"])]
    if len(chosen) != 1:
        raise JaxrnnError(
            f"{folder / 'training_results.csv'}: holds the chosen trial {best['trial']} {len(chosen)} times; "
            f"expected once; run `{command}` again"
        )
    return Inputs(
        folder=folder,
        config=config,
        manifest=manifest,
        early=growing,
        # there is none either where every test sequence is too long to be drawn
        attention=_weights(folder / "attention.csv", command) if (folder / "attention.csv").exists() else {},
        steps=statistics["counts"][best.get("fold") or 0] if task in ("step", "label_sequence") else {},
        objects=Counter(
            (row["label"], row["class"], _split(row, best.get("fold"))) for row in splits if row["id"] not in left_out
        ),
        leaks=statistics["leaks"],
        remarks=statistics["remarks"],
        trials=trials,
        tests=tests,
        grid=grid,
        history=history,
        best=best,
        classes=classes,
        confusion={"validation": validation, "test": test},
        decoded=decoded,
        scores=scores,
        keys=keys,
        ranges=ranges,
        rungs=rungs,
        experiment=experiment,
        chosen=chosen[0],
        attempts=_attempts(folder),
    )


def _attempts(folder: Path) -> dict[str, int]:
    files = sorted((folder / "jobs").glob(f"**/{ATTEMPTS}"))
    return {str(f.parent.relative_to(folder / "jobs")): read_json(f, "jaxrnn train")["attempts"] for f in files}


def _model_values(config: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys of `model` as the chosen trial has them; lists of layers and decoders in words, if of a grid."""
    return {**Model().model_dump(), **(substituted(config, best["grid_point"])["model"] or {})}


def _weights(path: Path, command: str) -> dict[str, NDArray[np.float64]]:
    """Returns the attention weights in an attention.csv: by object, `[target step, source step]`."""
    columns = ("target_step", "source_step", "weight")
    found: dict[str, list[list[float]]] = {}
    for row in _table(path, command, ("id", *columns), ("id",)):
        found.setdefault(row["id"], []).append([row[column] for column in columns])
    weights = {}
    for name, rows in found.items():
        target, source, weight = np.array(rows).T
        shape = int(target[-1]), int(source[-1])
        if not np.array_equal(np.stack([target, source]), np.indices(shape).reshape(2, -1) + 1):
            raise JaxrnnError(
                f"{path}: has not one row for each target and source step of {name}; remove it and run "
                f"`{command}` again"
            )
        weights[name] = weight.reshape(shape)
    return weights


def _split(row: Row, fold: int | None) -> str:
    """Returns the split of a row of splits.csv, as a fold sees it."""
    if f"fold_{fold}" in row:
        return row[f"fold_{fold}"]
    if row["split"] != POOL:
        return row["split"]
    return "validation" if row["fold"] == str(fold) else "train"


def _expect(values: dict[str, Any], path: Path, command: str, keys: Iterable[str]) -> None:
    lacking = [key for key in keys if key not in values]
    if lacking:
        raise JaxrnnError(f"{path}: {listed(lacking)} missing; remove it and run `{command}` again")


def _cells(path: Path, command: str) -> list[list[str]]:
    """Returns a CSV's cells as they are: a class may well be called NA or nan."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True))
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run `{command}` first")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); remove it and run `{command}` again")
    rows = [row for row in rows if row]
    if not rows:
        raise JaxrnnError(f"{path}: is empty; remove it and run `{command}` again")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise JaxrnnError(
                f"{path}: row {number + 1} has {len(row)} cells and the header {len(rows[0])}; "
                f"remove it and run `{command}` again"
            )
    return rows


def _table(path: Path, command: str, expected: Sequence[str], text: Sequence[str]) -> list[Row]:
    """Returns the rows of a CSV: text in the columns `text`, floats in the others expected."""
    header, *rows = _cells(path, command)
    lacking = [column for column in expected if column not in header]
    if lacking or not rows:
        fault = f"the columns {listed(lacking)} are missing" if lacking else "holds no row"
        raise JaxrnnError(f"{path}: {fault}; remove it and run `{command}` again")
    numbers = [place for place, column in enumerate(header) if column in expected and column not in text]
    result = []
    for line, row in enumerate(rows, start=2):
        values: Row = dict(zip(header, row, strict=True))
        for place in numbers:
            try:
                values[header[place]] = float(row[place]) if row[place] else math.nan
            except ValueError:
                raise JaxrnnError(
                    f"{path}: row {line}, column {header[place]}: expected a number, found {row[place]!r}; "
                    f"remove it and run `{command}` again"
                )
        result.append(values)
    return result


def _matrix(path: Path, command: str, ends: tuple[str, str] | None = None) -> tuple[list[str], NDArray[np.int64]]:
    """Returns the classes, and the counts of a CSV. ends: what stands behind the classes, as a column and as a row."""
    header, *rows = _cells(path, command)
    classes = header[1:]
    if ends is not None and rows:
        if (header[-1], rows[-1][0]) != ends:
            raise JaxrnnError(f"{path}: has no {ends[0]} column or {ends[1]} row; remove it and run `{command}` again")
        classes, rows[-1][0] = [*classes[:-1], ends[0]], ends[0]
    try:
        counts = np.array([[int(float(cell)) for cell in row[1:]] for row in rows], dtype=np.int64)
    except ValueError as error:
        raise JaxrnnError(f"{path}: {error}; remove it and run `{command}` again")
    if [row[0] for row in rows] != classes or not classes:
        raise JaxrnnError(f"{path}: rows and columns name different classes; remove it and run `{command}` again")
    return classes[: -1 if ends else None], counts


# Writing numbers


@dataclass(frozen=True)
class Cell:
    """A table's cell. value: the number as the file has it, unrounded; None for text."""

    text: str
    value: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page. The first column heads its row. marked: the chosen row. tall: may scroll in its own box."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    marked: tuple[int, ...] = ()
    numeric: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, name: str, caption: str, columns: list[str], rows: list[list[Cell]], marked: Sequence[int] = ()
    ) -> "Table":
        numeric = {i for i in range(len(columns)) if any(row[i].value is not None for row in rows)}
        return cls(name, caption, columns, rows, tuple(marked), frozenset(numeric))


def _text(value: object) -> Cell:
    return Cell(str(value))


def _count(value: float) -> Cell:
    return Cell(f"{int(value):,}" if math.isfinite(value) else NOT_A_NUMBER, float(value))


def _score(value: float, low: float = math.nan, high: float = math.nan) -> Cell:
    """Returns a score as 0.972 [0.961, 0.981]; with a fourth decimal where it or its interval is that small."""
    value, low, high = (math.nan if number is None else float(number) for number in (value, low, high))
    if not math.isfinite(value):
        return Cell(NOT_A_NUMBER, math.nan)
    known = math.isfinite(low) and math.isfinite(high)
    places = 4 if 0 < value < 0.01 or (known and 0 < high - low < 0.004) else 3
    return Cell(f"{value:.{places}f}", value, f"[{low:.{places}f}, {high:.{places}f}]" if known else "")


def _measured(score: dict[str, Any]) -> Cell:
    return _score(score["value"], score.get("low", math.nan), score.get("high", math.nan))


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "under 0.1\N{NO-BREAK SPACE}%"
    return f"{share:.{0 if share >= 10 or share == round(share) else 1}f}\N{NO-BREAK SPACE}%"


def _value(value: object) -> str:
    """Returns a grid value as YAML writes it, the same whether it comes from JSON or a CSV."""
    text = {"": "null", "None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


# The sections


@dataclass(frozen=True)
class Check:
    """One reason to believe or doubt. level: warning, note or passed."""

    level: str
    title: str
    text: str


def _verdict(inputs: Inputs) -> dict[str, Any]:
    test, validation = inputs.best["test"], inputs.best["validation"]
    scores = []
    for score, name in inputs.scores.items():
        scores.append({"name": name, "test": _measured(test[score]), "validation": _measured(validation[score])})
    checks = _checks(inputs)
    warnings = sum(check.level == "warning" for check in checks)
    return {
        "scores": scores,
        "objects": int(inputs.best["objects"]["test"]),
        "scored": "" if inputs.counted != "steps" else f"{int(inputs.confusion['test'].sum()):,} steps of ",
        "interval": str(inputs.best.get("interval", "95 %")),
        "model": _model(inputs),
        "point": [(key, _value(inputs.chosen[key])) for key in inputs.keys],
        "tried": f"{plural(len(inputs.trials), 'trial')} of {plural(len(inputs.grid), 'grid point')}",
        "metric": SCORES[inputs.metric],
        "confusions": _edits(inputs) if inputs.spells else _confusions(inputs),
        "checks": checks,
        "warnings": warnings,
        "doubts": [check.title[0].lower() + check.title[1:] for check in checks if check.level == "warning"],
        "spells": inputs.spells,
    }


def _model(inputs: Inputs) -> str:
    """Returns the chosen network and loss in words."""
    values = substituted(inputs.config, inputs.best["grid_point"])
    model = _model_values(inputs.config, inputs.best)
    loss = {**Loss().model_dump(), **(values["loss"] or {})}
    training = {**Training().model_dump(), **(values["training"] or {})}
    kind = f"focal loss (gamma {_value(loss['gamma'])})" if loss["gamma"] else "cross-entropy"
    kind = f"binary {kind}" if loss["kind"] == "binary" else kind
    if loss["kind"] == "ctc":
        kind = "connectionist temporal classification (CTC)"
    smoothing = f"label smoothing {_value(loss['label_smoothing'])}, " if loss["label_smoothing"] else ""
    effective = f"class weights by effective number (beta {_value(loss['beta'])})"
    weights = {"balanced": "balanced class weights", "effective": effective}.get(
        loss["class_weights"], "no class weights"
    )
    weights = "" if loss["kind"] == "ctc" else f"{weights}, "
    optimiser = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD"}[training["optimiser"]]
    schedule = {"cosine": ", falling in a cosine", "plateau": ", falling on plateaus"}.get(training["schedule"], "")
    return (
        f"{_network(model)}, trained with {kind}, {smoothing}{weights}{optimiser} and learning rate "
        f"{_value(training['learning_rate'])}{schedule}"
    )


def _network(model: dict[str, Any]) -> str:
    decoder = plan.cell("model.decoder", model["decoder"])
    return _encoder(model) + (f" with a decoder ({decoder})" if decoder else "")


def _encoder(model: dict[str, Any]) -> str:
    if model["layers"] is not None:
        return f"the network {plan.cell('model.layers', model['layers'])}"
    cell = {"gru": "GRU", "lstm": "LSTM", "simple": "simple recurrent"}.get(model["cell"], str(model["cell"]))
    direction = "bidirectional " if model["bidirectional"] else ""
    article = "an" if cell == "LSTM" and not direction else "a"
    layers = f"{plural(model['depth'], 'layer')} of {plural(model['units'], 'unit')}"
    return f"{article} {direction}{cell} network, {layers}"


def _baseline(inputs: Inputs) -> dict[str, Any]:
    """Returns the scores of always answering the commonest class of the test split."""
    totals = inputs.confusion["test"].sum(1)
    share = float(totals.max() / totals.sum()) if totals.sum() else 0.0
    present = int((totals > 0).sum())
    return {
        "class": inputs.classes[int(totals.argmax())],
        "accuracy": share,
        "macro_f1": 2 * share / (1 + share) / max(1, present),
    }


def _confusions(inputs: Inputs, most: int = 3) -> list[dict[str, Any]]:
    """Returns the commonest mistakes on the test split."""
    counts = inputs.confusion["test"]
    wrong = [
        (int(counts[t, p]), t, p) for t in range(len(counts)) for p in range(len(counts)) if t != p and counts[t, p]
    ]
    return [
        {
            "count": f"{count:,}",
            "total": f"{int(counts[t].sum()):,}",
            "share": _percent(count, counts[t].sum()),
            "truth": inputs.classes[t],
            "predicted": inputs.classes[p],
        }
        for count, t, p in sorted(wrong, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    ]


def _edits(inputs: Inputs, most: int = 3) -> list[dict[str, Any]]:
    """Returns the commonest edits on the test split, as `_confusions` does."""
    counts, names = inputs.confusion["test"], inputs.classes
    totals, last = counts.sum(1), len(inputs.classes)
    wrong = [(int(n), int(t), int(p)) for (t, p), n in np.ndenumerate(counts) if t != p and n]
    return [
        {
            "count": f"{count:,}",
            "total": f"{int(totals[t]):,}",
            "share": _percent(count, totals[t]),
            "truth": names[t] if t < last else None,
            "predicted": names[p] if p < last else None,
        }
        for count, t, p in sorted(wrong, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    ]


def _checks(inputs: Inputs) -> list[Check]:
    of_classes = [] if inputs.spells else [_check_baseline(inputs)]
    found = [
        _check_missing(inputs), *of_classes, _check_perfect(inputs), _check_transfer(inputs), _check_objects(inputs),
        _check_margin(inputs), _check_overfit(inputs), _check_epochs(inputs), _check_edges(inputs),
        _check_diverged(inputs), _check_halted(inputs), _check_packs(inputs), _check_attempts(inputs),
        _check_leaks(inputs), _check_rejected(inputs),
    ]  # fmt: skip
    order = ("warning", "note", "passed")
    return sorted((check for check in found if check), key=lambda check: order.index(check.level))


def _check_missing(inputs: Inputs) -> Check | None:
    missing: dict[str, str] = inputs.best.get("missing_jobs", {})
    if not missing:
        return None
    said = listed([f"{job} ({line or 'it said nothing'})" for job, line in missing.items()], 4)
    return Check(
        "warning",
        f"{_sentence(plural(len(missing), 'job'))} failed, and this report is of the others",
        f"Its trials are in no table, and the choice was made without them: {said}. Their `log.txt` says more. The "
        "command that trained the others trains them again, and then writes the whole report.",
    )


def _check_baseline(inputs: Inputs) -> Check | None:
    score, base = inputs.best["test"]["macro_f1"], _baseline(inputs)
    if score["value"] is None:
        return None
    low = score["low"] if score.get("low") is not None else score["value"]
    text = (
        f"Always answering “{base['class']}”, the commonest class of the test split, would have macro F1 "
        f"{base['macro_f1']:.3f} and accuracy {base['accuracy']:.3f}; the classifier has "
        f"{score['value']:.3f} and {inputs.best['test']['accuracy']['value']:.3f}."
    )
    if low > base["macro_f1"]:
        return Check("passed", "Better than guessing", text)
    return Check("warning", "No better than guessing", text)


def _check_perfect(inputs: Inputs) -> Check | None:
    counts = inputs.confusion["test"]
    if not counts.sum() or np.trace(counts) < counts.sum():
        return None
    return Check(
        "warning",
        "The test score is perfect",
        f"All {int(counts.sum()):,} {inputs.counted} of the test split are classified "
        "correctly. That is more often a leak than a perfect classifier: look for features that follow from the label.",
    )


def _check_transfer(inputs: Inputs) -> Check | None:
    name = SCORES[inputs.metric]
    test, validation = inputs.best["test"].get(inputs.metric), inputs.best["validation"].get(inputs.metric)
    if not test or not validation or None in (validation["value"], test["value"], test.get("low"), test.get("high")):
        return None
    worse = validation["value"] < test["low"] if inputs.lower_is_better else validation["value"] > test["high"]
    shown = f"{_measured(test).text} {_measured(test).note}"
    text = f"The {name} was {validation['value']:.3f} on validation, which chose the trial, and is {shown} on test"
    if worse:
        return Check(
            "warning",
            "Worse on test than on validation",
            f"{text}: the validation score is outside the test interval. The choice among "
            f"{len(inputs.trials):,} trials was partly luck, or the splits differ. Only the test score "
            "says what to expect.",
        )
    return Check("passed", "Validation and test agree", f"{text}.")


def _check_objects(inputs: Inputs) -> Check:
    totals = inputs.confusion["test"].sum(1)[: len(inputs.classes)]
    few = [(name, int(n)) for name, n in zip(inputs.classes, totals, strict=True) if n < FEW_OBJECTS]
    what = inputs.counted
    if not few:
        return Check(
            "passed",
            f"Enough test {what}",
            f"Every class has at least {int(totals.min()):,} {what} in the test split.",
        )
    names = listed([f"“{name}” ({count})" for name, count in few], 5)
    which = "how often it is mistaken is" if inputs.spells else "a class's scores, and the macro scores with them, are"
    return Check(
        "warning",
        f"Too few test {what} for {plural(len(few), 'class')}",
        f"{names}: with fewer than {FEW_OBJECTS} {what} {which} uncertain.",
    )


def _check_margin(inputs: Inputs) -> Check | None:
    points = [point for point in inputs.points() if math.isfinite(point["mean"])]
    name = SCORES[inputs.metric]
    if not inputs.drawn:
        return Check(
            "note",
            "One seed a grid point",
            "How far the scores depend on the seed is unknown, and so is whether the chosen grid point is better than "
            "the next. `seeds: 3` in the experiment file shows it.",
        )
    if len(points) < 2:
        return None
    # the chosen one first, whatever parted equals
    first, second, *rest = sorted(points, key=lambda point: not point["chosen"])
    text = (
        f"The chosen grid point has mean validation {name} {_with_interval(first)} over its {inputs.drawn}, "
        f"the next ({second['label']}) {_with_interval(second)}"
    )

    def apart(point: Row) -> bool:
        # false where an interval is unknown, as for seeds with equal scores
        return first["high"] < point["low"] if inputs.lower_is_better else first["low"] > point["high"]

    if apart(second):
        dependent = f" {FOLDS_DEPEND}" if inputs.in_folds else ""
        return Check("note" if inputs.in_folds else "passed", "The choice is clear", f"{text}.{dependent}")
    near = [point for point in (second, *rest) if not apart(point)]
    return Check(
        "note",
        "The choice is close",
        f"{text}. The intervals do not part {plural(len(near), 'other grid point')} from the chosen one: another "
        "choice might do as well.",
    )


def _with_interval(row: Any) -> str:
    cell = _score(row["mean"], row["low"], row["high"])
    return f"{cell.text} {cell.note}".strip()


def _check_overfit(inputs: Inputs) -> Check | None:
    chosen = (inputs.chosen["trial"], inputs.chosen["best_epoch"])
    best = [row for row in inputs.history if (row["trial"], row["epoch"]) == chosen]
    if not best:
        return None
    train, validation = best[0]["train_accuracy"], best[0]["validation_accuracy"]
    if math.isnan(train):
        return None  # of label sequences: what is decoded in training is not watched
    text = f"At its best epoch the accuracy is {train:.3f} on training and {validation:.3f} on validation"
    if train - validation > LARGE_GAP:
        return Check(
            "warning",
            "Overfit",
            f"{text}: the network knows its training objects better than new ones. More dropout, a smaller network or "
            "more data would help.",
        )
    return Check("passed", "Little overfitting", f"{text}.")


def _check_epochs(inputs: Inputs) -> Check:
    best, epochs = int(inputs.chosen["best_epoch"]), int(inputs.chosen["epochs"])
    if best >= epochs:
        return Check(
            "warning",
            "Still improving when training ended",
            f"The best epoch is the last one, {best} of {epochs}. Raise `training.epochs`.",
        )
    return Check("passed", "Trained long enough", f"The best epoch is {best} of {epochs}.")


def _check_edges(inputs: Inputs) -> Check | None:
    edges = []
    for key in inputs.varied:
        values = inputs.config["grid"][key]
        if key in inputs.ranges:
            place = search.share(inputs.ranges[key], float(inputs.chosen[key]))
            if min(place, 1 - place) < EDGE and float(inputs.chosen[key]) != 0:
                edges.append(f"`{key}: {_value(inputs.chosen[key])}`")
            continue
        if len(values) < 3 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            continue
        chosen = _value(inputs.chosen[key])
        # 0 is where a rate or a penalty ends, not where the grid does
        if chosen != "0" and chosen in (_value(min(values)), _value(max(values))):
            edges.append(f"`{key}: {chosen}`")
    if not edges:
        return None
    return Check(
        "note",
        "The choice lies at the edge of the grid",
        f"Smallest or largest of what was tried: {listed(edges)}. A better one may lie beyond.",
    )


def _check_diverged(inputs: Inputs) -> Check:
    diverged = [row["trial"] for row in inputs.trials if row["outcome"] == DIVERGED]
    total = len(inputs.trials)
    if not diverged:
        return Check("passed", "No trial diverged", f"{_sentence(plural(total, 'trial'))} ended with finite scores.")
    return Check(
        "warning",
        f"{_sentence(plural(len(diverged), 'trial'))} diverged",
        f"{len(diverged):,} of {total:,} trials ended with a loss that is not finite: {listed(diverged, 4)}. "
        "Grid points are summarised without them; a lower learning rate or `training.gradient_clip` helps.",
    )


def _check_halted(inputs: Inputs) -> Check | None:
    if inputs.chosen["outcome"] != HALTED:
        return None
    return Check(
        "warning",
        "The chosen trial was not trained to the end",
        f"Successive halving ended it after {int(inputs.chosen['epochs'])} epochs, and all trials that went on have "
        "diverged. A lower learning rate or `training.gradient_clip` helps.",
    )


def _check_packs(inputs: Inputs) -> Check | None:
    halved = [row for row in inputs.trials if row["pack_halvings"]]
    if not halved:
        return None
    often = {row["job"]: int(row["pack_halvings"]) for row in halved}
    jobs = listed([f"{job} ({plural(count, 'time')})" for job, count in often.items()], 4)
    return Check(
        "note",
        "A pack did not fit the device's memory",
        f"It began anew with half as many trials at once: {jobs}. A lower `training.trials_per_job` saves "
        "what was lost.",
    )


def _check_attempts(inputs: Inputs) -> Check | None:
    if not inputs.attempts:
        return None
    jobs = listed([f"{job} ({plural(count, 'attempt')})" for job, count in inputs.attempts.items()], 4)
    return Check(
        "note",
        "A job was started again",
        f"It failed, or had too little memory or time: {jobs}. It went on from its last checkpoint, with more memory, "
        "and gave what it would have given; its `log.txt` and SLURM's say more. More `mem_mb` or `runtime` in the "
        "profile saves what was lost.",
    )


def _check_leaks(inputs: Inputs) -> Check:
    count, text = inputs.leaks["objects"], _leaks(inputs)
    if not count:
        return Check("passed", "No leak between splits", f"{_sentence(text)}.")
    listed_in = "`leaks.csv` lists them."
    if inputs.leaks["action"] == "drop_from_training":
        title = f"{plural(count, 'leaking object')} taken out"
        return Check("note", title, f"{_sentence(text)}. They are in no split any more; {listed_in}")
    return Check(
        "warning",
        f"{plural(count, 'object')} leak{'s' * (count == 1)} between splits",
        f"{_sentence(text)}. The network may remember instead of classify: scores are too good. {listed_in} "
        "`leaks: drop_from_training` takes them out.",
    )


def _leaks(inputs: Inputs) -> str:
    """Returns what stands in two splits, in words."""
    kinds = {
        "group": "with their group also in another split",
        "equal": "equal to one in another split",
        "near_equal": "almost equal to one in another split",
    }
    found = [f"{plural(inputs.leaks[kind], 'object')} {words}" for kind, words in kinds.items() if inputs.leaks[kind]]
    few = inputs.leaks["too_few_numbers"]
    unknown = f"; {plural(few, 'sequence')} too short or too plain to be compared" if few else ""
    return (
        ", ".join(found) or "no group stands in two splits, and no sequence equal or almost equal to another"
    ) + unknown


def _check_rejected(inputs: Inputs) -> Check:
    counts = inputs.manifest["counts"]
    objects, observations = int(counts["objects_rejected"]), int(counts["observations_rejected"])
    parts, bytes_share = int(counts["parts_rejected"]), counts["bytes_rejected"] / max(1, counts["bytes_in"])
    if parts:
        # how many objects they held, nobody knows
        share = max(parts / counts["parts_in"], bytes_share, objects / max(1, counts["objects_in"]))
        return Check(
            "warning" if share > MANY_REJECTED else "note",
            f"{plural(parts, 'file')}, or pieces of them, could not be read",
            f"{parts:,} of {int(counts['parts_in']):,} ({_percent(parts, counts['parts_in'])}; "
            f"{_percent(counts['bytes_rejected'], counts['bytes_in'])} of the bytes) were left out with all that they "
            f"hold. Of what could be read, {objects:,} of {int(counts['objects_in']):,} objects and {observations:,} "
            f"of {int(counts['observations_in']):,} observations were rejected; the reasons stand under Data. The "
            "scores hold for objects like those that were kept.",
        )
    if not objects and not observations:
        return Check(
            "passed",
            "Nothing was rejected",
            f"No object of the survey's {int(counts['objects_in']):,} was left out as faulty.",
        )
    share = objects / max(1, counts["objects_in"])
    return Check(
        "warning" if share > MANY_REJECTED else "note",
        f"{plural(objects, 'object')} rejected" if objects else "Observations were rejected",
        f"{objects:,} of {int(counts['objects_in']):,} objects ({_percent(objects, counts['objects_in'])}) and "
        f"{observations:,} of {int(counts['observations_in']):,} observations were left out; the reasons stand under "
        "Data. The scores hold for objects like those that were kept.",
    )


def _data(inputs: Inputs) -> dict[str, Any]:
    manifest, config = inputs.manifest, inputs.config
    counts = _class_counts(inputs)
    labels: dict[str, set[str]] = {}
    for label, name, split in inputs.objects:
        if split in SPLITS:
            labels.setdefault(name, set()).add(label)
    grouped = any(labels.get(name, {name}) != {name} for name in counts)
    columns = ["Class", *(["Labels of the survey"] if grouped else []), "Train", "Validation", "Test", "All"]
    rows = [
        [
            _text(name),
            *([_text(listed(sorted(labels.get(name, ())), 12))] if grouped else []),
            *(_count(own[split]) for split in SPLITS),
            _count(sum(own.values())),
        ]
        for name, own in counts.items()
    ]
    totals = [sum(own[split] for own in counts.values()) for split in SPLITS]
    rows.append([_text("All classes"), *([_text("")] if grouped else []), *map(_count, [*totals, sum(totals)])])
    excluded: Counter[str] = Counter()
    for (label, _, split), count in inputs.objects.items():
        if split == EXCLUDED:
            excluded["objects with an excluded label" if inputs.spells else label] += count
    fold = f", as fold {inputs.best['fold']} has them" if inputs.in_folds else ""
    data = config["data"]
    units = [f"{f['name']} ({f['unit']})" if f.get("unit") else str(f["name"]) for f in manifest["features"]]
    metadata = [f"{m['name']} ({m['unit']})" if m.get("unit") else str(m["name"]) for m in manifest["metadata"]]
    size = sum(file["bytes"] for file in manifest["survey_files"])
    return {
        "reader": manifest["reader"],
        "path": None if data.get("simulation") is not None else str(data.get("path")),
        "files": plural(len(manifest["survey_files"]), "file"),
        "megabytes": f"{size / 1e6:,.1f}",
        "counts": {key: int(value) for key, value in manifest["counts"].items()},
        "units": units,
        "metadata": metadata,
        "counted": inputs.counted,
        "table": Table.of("classes", f"{inputs.counted.capitalize()} of each class, by split{fold}", columns, rows),
        "trained_on": _trained_on(inputs),
        "leaks": _leaks(inputs),
        "remarks": inputs.remarks,
        "excluded": excluded.most_common(),
        "rejected": _reasons("rejected", "What was rejected, by reason", manifest["rejected_by_reason"]),
        "cut": _reasons("cut", "Observations cut by `data.cuts`, by reason", manifest.get("cut_by_reason", {})),
    }


def _trained_on(inputs: Inputs) -> str | None:
    """Returns how many of the training objects the chosen trial saw, where `training.sequences` leaves some out."""
    training = substituted(inputs.config, inputs.best["grid_point"])["training"] or {}
    of = sum(count for (_, _, split), count in inputs.objects.items() if split == "train")
    seen = training.get("sequences")
    if seen is None or seen >= of:
        return None
    return f"{seen:,} of {of:,}, as `training.sequences` says"


def _reasons(name: str, caption: str, counts: dict[str, int]) -> Table:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Table.of(name, caption, ["Reason", "Count"], [[_text(reason), _count(count)] for reason, count in ordered])


def _class_counts(inputs: Inputs) -> dict[str, dict[str, int]]:
    if inputs.steps:
        return inputs.steps
    counts: dict[str, Counter[str]] = {name: Counter() for name in inputs.classes}
    for (_, name, split), count in inputs.objects.items():
        if split in SPLITS:
            counts.setdefault(name, Counter())[split] += count
    return {name: {split: own[split] for split in SPLITS} for name, own in counts.items()}


def _search(inputs: Inputs) -> dict[str, Any]:
    points = inputs.points()
    trials = sorted(inputs.trials, key=lambda row: (inputs.order(row[inputs.metric]), row["log_loss"]))
    tests = {row["trial"]: row for row in inputs.tests}
    keys = [_sentence(key.rpartition(".")[2].replace("_", " ")) for key in inputs.keys]
    scores = [_sentence(name) for name in inputs.scores.values()]
    marked_points = [index for index, point in enumerate(points) if point["chosen"]]
    marked_trials = [index for index, row in enumerate(trials) if row is inputs.chosen]
    means = f" Mean over {inputs.drawn} with its 95 % interval." if inputs.drawn else ""
    means += f" {FOLDS_DEPEND}" if inputs.in_folds else ""

    parts = ["Seeds", *(["Folds"] if inputs.in_folds else [])]

    def grid_table(name: str, caption: str, prefix: str) -> Table:
        rows = [
            [
                Cell(str(rank), float(rank)),
                *(_number_or_text(point[key]) for key in inputs.keys),
                *(
                    _score(*(point[f"{prefix}{score}_{part}"] for part in ("mean", "low", "high")))
                    for score in inputs.scores
                ),
                _count(point["seeds"]),
                *([_count(point["folds"])] if inputs.in_folds else []),
                _count(point["diverged"]),
                *([_count(point["halted"]) if point["halted"] else Cell(NOT_A_NUMBER)] if inputs.rungs else []),
            ]
            for rank, point in enumerate(points, start=1)
        ]
        halted = ["Halted after epoch"] if inputs.rungs else []
        return Table.of(name, caption, ["Rank", *keys, *scores, *parts, "Diverged", *halted], rows, marked_points)

    trial_rows = [
        [
            _text(row["trial"]),
            *(_number_or_text(row[key]) for key in inputs.keys),
            _number_or_text(row["seed"]),
            *([_number_or_text(row["fold"])] if inputs.in_folds else []),
            *(_score(row[score]) for score in inputs.scores),
            _count(row["best_epoch"]),
            _count(row["epochs"]),
            Cell(f"{row['seconds']:,.1f}", row["seconds"]),
            Cell(f"{row['input_seconds']:,.1f}", row["input_seconds"]),
            _text(row["outcome"].replace("_", " ")),
        ]
        for row in trials
    ]
    test_rows = [
        [_text(row["trial"]), *(_score(tests[row["trial"]][f"test_{score}"]) for score in inputs.scores)]
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
        "shared": [(key, _value(inputs.config["grid"][key][0])) for key in inputs.keys if key not in inputs.varied],
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


def _tried(inputs: Inputs, key: str) -> str:
    """Returns in words which values of a grid key were tried."""
    if key not in inputs.ranges:
        return ", ".join(_value(value) for value in inputs.config["grid"][key])
    drawn_from = inputs.ranges[key]
    scale = ", on a logarithmic scale" if drawn_from.scale == "log" else ""
    return f"drawn from {_value(drawn_from.low)} to {_value(drawn_from.high)}{scale}"


def _cost(inputs: Inputs) -> Table | None:
    """Returns a table of what `jaxrnn plan` expected of each job, and what it used; None where neither is known."""
    jobs = Counter(row["job"] for row in inputs.trials)
    found = estimates.compared(inputs.folder, list(jobs), inputs.experiment, len(inputs.rungs) + 1)
    if all(row["used_seconds"] is None and "seconds" not in row for row in found):
        return None

    def shown(value: float | None) -> Cell:
        return Cell(NOT_A_NUMBER, math.nan) if value is None else Cell(f"{value:,.0f}", float(value))

    columns = {
        "Seconds expected": "seconds",
        "Seconds used": "used_seconds",
        "Memory expected (MB)": "memory_mb",
        "Memory used (MB)": "used_memory_mb",
    }
    caption = "Jobs: what jaxrnn plan expected of them, and what their last run used"
    if not any("seconds" in row for row in found):
        columns = {head: name for head, name in columns.items() if name.startswith("used")}
        caption = "Jobs: what their last run used; jaxrnn plan, called before it, says what to expect"
    rows = [
        [_text(row["job"]), _count(jobs[row["job"]]), *(shown(row.get(name)) for name in columns.values())]
        for row in sorted(found, key=lambda row: -(row["used_seconds"] or 0))
    ]
    return Table.of("jobs", caption, ["Job", "Trials", *columns], rows)


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
        rows.append([*map(_count, counts), _score(ranked[0]), _score(ranked[going - 1])])
    rows.append([*map(_count, (last.number, last.epochs, going)), *[Cell(NOT_A_NUMBER)] * 3])
    whole = len(inputs.trials) * epochs
    metric = SCORES[inputs.metric]
    head = ["Rung", "Up to epoch", "Grid points", "Went on", f"Best {metric}", f"Least {metric} that went on"]
    return {
        "table": Table.of("rungs", f"Rungs, by validation {metric}", head, rows),
        "epochs": int(sum(row["epochs"] for row in inputs.trials)),
        "whole": int(whole),
    }


def _number_or_text(value: object) -> Cell:
    text = _value(value)
    number = _float(text)
    return Cell(text, number) if math.isfinite(number) else Cell(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _training(inputs: Inputs) -> dict[str, Any]:
    training = {**Training().model_dump(), **(inputs.config["training"] or {})}
    return {
        "score": SCORES[inputs.metric if figures.is_watched(inputs.history, inputs.metric) else "macro_auc"],
        "spells": inputs.spells,
        "monitor": SCORES.get(training["monitor"], training["monitor"]),
        "best_epoch": int(inputs.chosen["best_epoch"]),
        "epochs": int(inputs.chosen["epochs"]),
        "outcomes": Counter(row["outcome"].replace("_", " ") for row in inputs.trials).most_common(),
    }


def _performance(inputs: Inputs) -> dict[str, Any]:
    if inputs.spells:
        return _spelling(inputs)
    test = inputs.best["test"]
    totals = inputs.confusion["test"].sum(1)
    rows = [
        [
            _text(name),
            _count(total),
            *(_measured(test[f"{score}_{name}"]) if f"{score}_{name}" in test else Cell(NOT_A_NUMBER)
              for score in ("precision", "recall", "f1")),
        ]
        for name, total in zip(inputs.classes, totals, strict=True)
    ]  # fmt: skip
    return {
        "table": Table.of(
            "class-scores",
            "Each class on the test split",
            ["Class", f"Test {inputs.counted}", "Precision (purity)", "Recall (completeness)", "F1"],
            rows,
        ),
        "matrices": {split: _matrix_tables(inputs, split) for split in ("validation", "test")},
    }


def _spelling(inputs: Inputs) -> dict[str, Any]:
    """Returns what is said of decoded label sequences."""
    best, splits = inputs.best, ("test", "validation")
    known = {
        "greedy": "Greedy: the most probable path",
        "beam": f"Prefix beam search of width {best['beam_width']}",
        "named": "The network's decoder: its most probable label, one after another",
    }
    decoders = {name: known[name] for name in best["decoders"]}
    rows = [
        [
            _text(words + (", as everywhere on this page" if name == best["decoder"] and len(decoders) > 1 else "")),
            *(
                _measured(best["decoders"][name][split][rate])
                for split in ("test", "validation")
                for rate in ERROR_RATES
            ),
        ]
        for name, words in decoders.items()
    ]
    heads = [f"{_sentence(SCORES[rate])}, {split}" for split in splits for rate in ERROR_RATES]
    columns = ["True label", *inputs.classes, DELETED]
    names = [*inputs.classes, INSERTED]
    wrong = [row for row in inputs.decoded if row["edits"]]
    right = [row for row in inputs.decoded if not row["edits"]]
    # the first of each, in the order of the table: no choice that flatters, or shames
    shown = [*wrong[:EXAMPLES], *right[:EXAMPLES]]
    return {
        "decoders": Table.of(
            "decoders",
            f"Error rates{' of both decoders' if len(decoders) > 1 else ''}, chosen trial",
            ["Decoder", *heads],
            rows,
        ),
        "matrices": {
            split: [
                Table.of(
                    f"edits-{split}",
                    f"Labels of the {split} split: rows are true labels, columns what they were decoded as",
                    columns,
                    [[_text(name), *map(_count, inputs.confusion[split][i])] for i, name in enumerate(names)],
                )
            ]
            for split in ("validation", "test")
        },
        "examples": Table.of(
            "examples",
            f"The first {len(wrong[:EXAMPLES])} test sequences with a mistake, and {len(right[:EXAMPLES])} without",
            ["Object", "Truth", "Decoded", "Edits", "Log loss"],
            [
                [
                    *(_text(row[name]) for name in ("id", "truth", "decoded")),
                    _count(row["edits"]),
                    _score(row["log_loss"]),
                ]
                for row in shown
            ],
        ),
    }


def _matrix_tables(inputs: Inputs, split: str) -> list[Table]:
    counts = inputs.confusion[split]
    totals = counts.sum(1)
    columns = ["True class", *inputs.classes]
    return [
        Table.of(
            f"matrix-{split}",
            f"{inputs.counted.capitalize()} of the {split} split: rows are the true class, columns the predicted one",
            columns,
            [[_text(name), *map(_count, counts[i])] for i, name in enumerate(inputs.classes)],
        ),
        Table.of(
            f"matrix-{split}-normalised",
            f"Share of the true class in the {split} split",
            columns,
            [
                [_text(name), *(_score(n / totals[i] if totals[i] else math.nan) for n in counts[i])]
                for i, name in enumerate(inputs.classes)
            ],
        ),
    ]


def _early(inputs: Inputs) -> dict[str, Any] | None:
    """Returns what is said of growing sequences, None where no prefix is predicted."""
    if not inputs.early:
        return None
    unit = inputs.manifest["time_unit"]
    around = [row for row in inputs.early if row["by"] not in (STEPS, SINCE_FIRST)]
    first, last = (next(row for row in rows if row["by"] == STEPS) for rows in (inputs.early, inputs.early[::-1]))
    columns = [f"Time from {around[0]['by']} ({unit})" if around else "", "Objects", "Not observed yet"]
    scores = early.SCORES
    rows = [
        [Cell(f"{row['at']:+g}", row["at"]), _count(row["objects"]), _count(row["unobserved"]),
         *(_score(row[score]) for score in scores)]
        for row in around
    ]  # fmt: skip
    heads = [*columns, *(_sentence(SCORES.get(score, score.replace("_", " "))) for score in scores)]
    return {
        "first": f"{first['accuracy']:.3f}",
        "last": f"{last['accuracy']:.3f}",
        "steps": f"{last['at']:g}",
        "table": Table.of("early", "Test scores of what was observed until then", heads, rows) if rows else None,
    }


def _reproduce(inputs: Inputs) -> dict[str, Any]:
    folder = _from_here(inputs.folder)
    root = os.path.dirname(folder) or "."
    elsewhere = "" if root == "results" else f" --results {shlex.quote(root)}"
    job = f"{folder}/jobs/{inputs.best['job']}/config.yaml"
    file = f"{folder}/experiment.yaml"
    trained_with = sorted(inputs.best["software"].items())
    seeds = sorted({row["seed"] for row in inputs.trials}, key=_float)
    return {
        "replay": f"jaxrnn train --config {shlex.quote(job)}{elsewhere} --retrain --output replay",
        "file": file,
        "local": f"snakemake --profile workflow/profiles/local --configfile {file}",
        "slurm": f"snakemake --profile slurm --configfile {file}",
        "trial": inputs.best["trial"],
        "seed": inputs.best["seed"],
        "fold": inputs.best.get("fold"),
        "seeds": listed(seeds, 12),
        "first_seed": inputs.config["seed"],
        "made_by": inputs.best["jaxrnn_version"],
        "trained_with": trained_with,
        "shards": Table.of(
            "shards",
            "Shards of the dataset",
            ["File", "Sequences", "Steps", "SHA-256"],
            [
                [_text(s["file"]), _count(s["sequences"]), _count(s["steps"]), _text(s["sha256"])]
                for s in inputs.manifest["shards"]
            ],
        ),
        "yaml": to_yaml(inputs.config),
    }


def _from_here(path: Path) -> str:
    """Returns a path as one types it here: from the working directory where it lies below."""
    full = path.resolve()
    here = Path.cwd().resolve()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()


# The page


def _score_curves(inputs: Inputs) -> list[tuple[str, str, Figure]]:
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
                    "series": " · ".join(_value(row[other]) for other in others),
                    **{part: row[f"{prefix}{inputs.metric}_{part}"] for part in ("mean", "low", "high")},
                }
                for row in inputs.grid
                if _value(row[key]) != "null"
            ]
            figure = figures.score_curves(points, inputs.metric, key, split, without_null=len(given) < len(tried))
            found.append((key, split, figure))
    return found


def _searched(inputs: Inputs) -> Figure:
    ranges = {key: drawn_from.scale for key, drawn_from in inputs.ranges.items()}
    points = [{**point, **{key: float(point[key]) for key in ranges}} for point in inputs.points()]
    return figures.searched(points, ranges, inputs.metric)


def _figures(inputs: Inputs, curves: Sequence[tuple[str, str, Figure]]) -> list[Figure]:
    histogram = inputs.manifest["length_histogram"]
    seeds = [(inputs.label(row), row[inputs.metric]) for row in inputs.trials]
    test = inputs.best["test"]
    scores = [
        {"class": name, "score": shown, "low": None, "high": None, **test[f"{score}_{name}"]}
        for name in inputs.classes
        for score, shown in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
        if f"{score}_{name}" in test
    ]
    matrices = [
        figures.edit_operations(inputs.confusion[split], inputs.classes, split)
        if inputs.spells
        else figures.confusion_matrix(inputs.confusion[split], inputs.classes, split, inputs.counted)
        for split in ("validation", "test")
    ]
    return [
        figures.class_counts(_class_counts(inputs), inputs.counted),
        figures.sequence_lengths(histogram["edges"], histogram["counts"]),
        figures.grid_scores(inputs.points(), seeds, inputs.metric, inputs.varied),
        *(figure for _, _, figure in curves),
        *([_searched(inputs)] if inputs.ranges else []),
        figures.learning_curves(
            inputs.history, str(inputs.chosen["trial"]), int(inputs.chosen["best_epoch"]), inputs.metric
        ),
        *matrices,
        *([] if inputs.spells else [figures.class_scores(scores)]),
        *([figures.early_curves(inputs.early, inputs.manifest["time_unit"])] if inputs.early else []),
        *([figures.attention(inputs.attention, positions=inputs.spells)] if inputs.attention else []),
    ]


def _printable(value: Any) -> Any:
    """Returns text without control and formatting characters: a name must not turn the line that it stands in."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    hidden = (c for c in set(value) if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf"))
    return value.translate({ord(c): "\N{REPLACEMENT CHARACTER}" for c in hidden})


def _with_keys(text: str) -> Markup:
    """Returns a sentence with `keys of the experiment file` as code."""
    return Markup(re.sub(r"`([\w.: -]+)`", r"<code>\1</code>", str(escape(_printable(text)))))


def _page(inputs: Inputs, drawn: dict[str, Figure], curves: Sequence[tuple[str, str, Figure]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["keys"] = _with_keys
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    template = environment.get_template("page.html.j2")
    return template.render(
        name=inputs.config["experiment"],
        figure_style=Markup(figures.stylesheet()),
        figures={name: {"svg": Markup(figure.inline()), "width": figure.width} for name, figure in drawn.items()},
        verdict=_verdict(inputs),
        data=_data(inputs),
        search=_search(inputs),
        curves=[{"key": key, "split": split, "name": figure.name} for key, split, figure in curves],
        training=_training(inputs),
        early=_early(inputs),
        attended=len(inputs.attention),
        performance=_performance(inputs),
        reproduce=_reproduce(inputs),
    )
