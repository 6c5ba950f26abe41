"""What the page is made from: the files of an experiment and its dataset, read and checked."""

import csv
import io
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxrnn import early, examples, metrics, plan, results, search, selection
from jaxrnn.config import LOWER_IS_BETTER, Range, Task, digest, read_yaml
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.evaluation import COMPARISONS, MEASURED
from jaxrnn.report.figures import SCORES, Shown
from jaxrnn.report.tables import value_text
from jaxrnn.results import ATTEMPTS, DIVERGED, HALTED, HISTORY_COLUMNS, read_json
from jaxrnn.splits import POOL
from jaxrnn.transcripts import DECODED_COLUMNS, DELETED, INSERTED

HISTORY = ("trial", *HISTORY_COLUMNS)
# Of the tables of `jaxrnn.evaluation`: their columns of text, and of numbers.
EVALUATION_COLUMNS = {
    "roc_test": (("class",), ("false_positive_rate", "true_positive_rate", "threshold")),
    "precision_recall_test": (("class",), ("recall", "precision", "threshold")),
    "calibration": (("probabilities",), ("left", "right", "objects", "confidence", "accuracy", "low", "high")),
    "calibration_scores": (
        ("probabilities", "score"),
        ("temperature", "objects", "value", "low", "high", "by_chance", "p_value"),
    ),
    "cadence": ((), ("from", "to", "sequences")),
    "slices_test": (("property", "unit"), ("from", "to", "objects", "accuracy", "low", "high")),
    "mistakes_test": (("id", "truth", "predicted"), ("steps", "probability", "probability_of_truth")),
    "ensemble": (("predictions", "score"), MEASURED),
    "comparisons": (("trial",), COMPARISONS[1:]),
    "uncertainty": (("predictions", "score"), MEASURED),
    "out_of_distribution": (
        ("predictions", "inputs"),
        ("objects", "places", "sure", "sure_low", "sure_high", "median", "mutual_information", "auc", "low", "high"),
    ),
    "entropies": (("predictions", "inputs"), ("from", "to", "places")),
    "attributions_test": (
        ("id", "chosen_as", "truth", "predicted", "feature"),
        ("of_step", "probability", "baseline", "gap", "step", "attribution"),
    ),
}
MAY_BE_EMPTY = ("mistakes_test", "comparisons", "attributions_test")
TRIALS = ("trial", "job", "seed", "epochs", "best_epoch", "seconds", "input_seconds", "pack_halvings", "outcome")
Row = dict[str, Any]


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
    sequence is decoded. shown: the objects of examples.csv, in its order, and shown_inputs what was observed of them,
    with units. evaluation: the rows of each table of `EVALUATION_COLUMNS`, of label sequences without those of classes.
    effects: the rows of effects.csv. keys: the grid's dotted keys. ranges: those whose values were drawn from a range.
    rungs: of successive halving, all but the last: rows of the grid points that were in them. experiment: the digest of
    the experiment's values. chosen: the chosen trial's row. attempts: of the jobs that were started again after an
    error, how often they were.
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
    effects: list[Row]
    history: list[Row]
    best: dict[str, Any]
    classes: list[str]
    confusion: dict[str, NDArray[np.int64]]
    decoded: list[Row]
    shown: list[Shown]
    shown_inputs: list[str]
    evaluation: dict[str, list[Row]]
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
    def judged(self) -> str:
        """Returns what is right or wrong as a whole: `objects`, their `steps`, or `sequences` of labels."""
        return "sequences" if self.spells else self.counted

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
        return " · ".join(value_text(row[key]) for key in self.varied) or "the only grid point"

    @property
    def varied(self) -> list[str]:
        return [key for key in self.keys if len(self.config["grid"][key]) > 1]


def read(folder: Path, dataset: Path) -> Inputs:
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
        ("trial", "job", "metric", "grid_point", "seed", "objects", "inputs", "validation", "test", "software"),
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
    effects = _table(folder / "effects.csv", command, selection.EFFECTS, ("key", "value"), may_be_empty=True)
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
    shown_inputs, shown = _shown(folder, command, classes if task == "prefix" else ())
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
        effects=effects,
        history=history,
        best=best,
        classes=classes,
        confusion={"validation": validation, "test": test},
        decoded=decoded,
        shown=shown,
        shown_inputs=shown_inputs,
        evaluation=_evaluation(folder, command, of_classes=not decoded),
        scores=scores,
        keys=keys,
        ranges=ranges,
        rungs=rungs,
        experiment=experiment,
        chosen=chosen[0],
        attempts=_attempts(folder),
    )


def _evaluation(folder: Path, command: str, *, of_classes: bool) -> dict[str, list[Row]]:
    return {
        name: _table(folder / f"{name}.csv", command, (*text, *numbers), text, may_be_empty=name in MAY_BE_EMPTY)
        for name, (text, numbers) in EVALUATION_COLUMNS.items()
        if of_classes or f"{name}.csv" not in results.OF_CLASSES
    }


def _shown(folder: Path, command: str, growing: Sequence[str]) -> tuple[list[str], list[Shown]]:
    """Returns the inputs and the objects of examples.csv. growing: the classes whose probabilities growing_test.csv
    holds, none where no prefix is predicted."""
    path, known = folder / results.EXAMPLES, len(examples.COLUMNS)
    header, *rows = _cells(path, command)
    if tuple(header[:known]) != examples.COLUMNS or len(header) == known or not rows:
        raise JaxrnnError(f"{path}: holds no steps of objects; remove it and run `{command}` again")
    grown: dict[str, list[Row]] = {}
    if growing:
        text = ("id", "truth", "predicted", "class")
        for row in _table(folder / results.GROWING, command, examples.PROBABILITIES, text, may_be_empty=True):
            grown.setdefault(row["id"], []).append(row)
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        drawn_as, _, name, of = row[:4]
        found.setdefault((drawn_as, name, of), []).append(row[4:])
    shown = []
    for (drawn_as, name, of), own in found.items():
        try:
            numbers = np.array([[float(cell) if cell else math.nan for cell in row] for row in own])
        except ValueError as error:
            raise JaxrnnError(f"{path}: object {of}: {error}; remove it and run `{command}` again")
        steps, step, _, since_first, *values = numbers.T
        probabilities = predicted = None
        if drawn_as == examples.GROWING:
            mine = grown.get(of, [])
            if len(mine) != len(own) * len(growing):
                raise JaxrnnError(
                    f"{folder / results.GROWING}: has not one row for each class and drawn step of {of}; run "
                    f"`{command}` again"
                )
            probabilities = np.array([row["probability"] for row in mine]).reshape(len(own), len(growing))
            predicted = mine[0]["predicted"]
        shown.append(Shown(drawn_as, name, of, int(steps[0]), step.astype(np.int64), since_first, np.stack(values, 1),
                           predicted=predicted, probabilities=probabilities))  # fmt: skip
    return header[known:], shown


def _attempts(folder: Path) -> dict[str, int]:
    files = sorted((folder / "jobs").glob(f"**/{ATTEMPTS}"))
    return {str(f.parent.relative_to(folder / "jobs")): read_json(f, "jaxrnn train")["attempts"] for f in files}


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


def _table(
    path: Path, command: str, expected: Sequence[str], text: Sequence[str], *, may_be_empty: bool = False
) -> list[Row]:
    """Returns the rows of a CSV: text in the columns `text`, floats in the others expected."""
    header, *rows = _cells(path, command)
    lacking = [column for column in expected if column not in header]
    if lacking or not (rows or may_be_empty):
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
