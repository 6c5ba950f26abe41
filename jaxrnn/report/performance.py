"""The sections on performance: matrices, classes, label sequences, growing sequences, attention."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jaxrnn.report.figures as figures
from jaxrnn import early
from jaxrnn.config import ERROR_RATES
from jaxrnn.early import SINCE_FIRST, STEPS
from jaxrnn.report.figures import SCORES, Figure
from jaxrnn.report.inputs import Inputs
from jaxrnn.report.tables import (
    NOT_A_NUMBER,
    Cell,
    Table,
    believed,
    count_cell,
    measured_cell,
    score_cell,
    sentence,
    text_cell,
)
from jaxrnn.transcripts import DELETED, INSERTED

CLASS_SCORES = {
    "precision": "Precision (purity)",
    "recall": "Recall (completeness)",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "Average precision",
}
EXAMPLES = 5  # decoded sequences with a mistake, and without


def drawn(inputs: Inputs) -> list[Figure]:
    test = inputs.best["test"]
    scores = [
        {"class": name, "score": shown, **believed({"low": None, "high": None} | test[f"{score}_{name}"])}
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
        *matrices,
        *([] if inputs.spells else [figures.class_scores(scores), *_curves(inputs)]),
        *([figures.early_curves(inputs.early, inputs.manifest["time_unit"])] if inputs.early else []),
        *([figures.attention(inputs.attention, positions=inputs.spells)] if inputs.attention else []),
    ]


def _curves(inputs: Inputs) -> list[Figure]:
    test = inputs.best["test"]

    def areas(score: str) -> dict[str, float]:
        return {name: test[f"{score}_{name}"]["value"] for name in inputs.classes if f"{score}_{name}" in test}

    return [
        figures.class_curves(inputs.evaluation["roc_test"], areas("auc"), "roc"),
        figures.class_curves(inputs.evaluation["precision_recall_test"], areas("average_precision"), "recall"),
    ]


def section(inputs: Inputs) -> dict[str, Any]:
    if inputs.spells:
        return _spelling(inputs)
    test = inputs.best["test"]
    totals = inputs.confusion["test"].sum(1)
    rows = [
        [
            text_cell(name),
            count_cell(total),
            *(measured_cell(test[f"{score}_{name}"]) if f"{score}_{name}" in test else Cell(NOT_A_NUMBER)
              for score in CLASS_SCORES),
        ]
        for name, total in zip(inputs.classes, totals, strict=True)
    ]  # fmt: skip
    return {
        "table": Table.of(
            "class-scores",
            "Each class on the test split",
            ["Class", f"Test {inputs.counted}", *CLASS_SCORES.values()],
            rows,
        ),
        "averages": _averages(inputs),
        "matrices": {split: _matrix_tables(inputs, split) for split in ("validation", "test")},
    }


def _averages(inputs: Inputs) -> Table:
    """Returns the table of means over classes, each class counting alike (macro) or by its objects (weighted)."""
    test = inputs.best["test"]
    # weighted by a class's objects, recall is the accuracy
    names = {kind: {score: f"{kind}_{score}" for score in CLASS_SCORES} for kind in ("macro", "weighted")}
    names["weighted"]["recall"] = "accuracy"
    rows = [
        [text_cell(kind), *(measured_cell(test[own]) if own in test else Cell(NOT_A_NUMBER) for own in of.values())]
        for kind, of in names.items()
    ]
    return Table.of("averages", "Means over classes on the test split", ["Mean", *CLASS_SCORES.values()], rows)


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
            text_cell(
                words + (", as everywhere on this page" if name == best["decoder"] and len(decoders) > 1 else "")
            ),
            *(
                measured_cell(best["decoders"][name][split][rate])
                for split in ("test", "validation")
                for rate in ERROR_RATES
            ),
        ]
        for name, words in decoders.items()
    ]
    heads = [f"{sentence(SCORES[rate])}, {split}" for split in splits for rate in ERROR_RATES]
    columns = ["True label", *inputs.classes, DELETED]
    names = [*inputs.classes, INSERTED]
    wrong = [row for row in inputs.decoded if row["edits"]]
    right = [row for row in inputs.decoded if not row["edits"]]
    # the first of each, in the order of the table: no choice that flatters, or shames
    shown = [*wrong[:EXAMPLES], *right[:EXAMPLES]]
    return {
        "decoders": Table.of(
            "decoders",
            f"Error rates{' of both decoders' if len(decoders) > 1 else ''}, chosen trial (decoders.csv)",
            ["Decoder", *heads],
            rows,
        ),
        "matrices": {
            split: [
                Table.of(
                    f"edits-{split}",
                    f"Labels of the {split} split: rows are true labels, columns what they were decoded as",
                    columns,
                    [[text_cell(name), *map(count_cell, inputs.confusion[split][i])] for i, name in enumerate(names)],
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
                    *(text_cell(row[name]) for name in ("id", "truth", "decoded")),
                    count_cell(row["edits"]),
                    score_cell(row["log_loss"]),
                ]
                for row in shown
            ],
        ),
    }


def _matrix_tables(inputs: Inputs, split: str) -> list[Table]:
    counts = inputs.confusion[split]
    columns = ["True class", *inputs.classes]

    def shares(name: str, caption: str, totals: NDArray[np.int64]) -> Table:
        values = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
        rows = _headed(inputs, values, score_cell)
        return Table.of(f"matrix-{split}-{name}", f"{caption} in the {split} split", columns, rows)

    return [
        Table.of(
            f"matrix-{split}",
            f"{inputs.counted.capitalize()} of the {split} split: rows are the true class, columns the predicted one",
            columns,
            _headed(inputs, counts, count_cell),
        ),
        shares("normalised", "Share of the true class", counts.sum(1, keepdims=True)),
        shares("normalised-by-prediction", "Share of what is called a class", counts.sum(0, keepdims=True)),
    ]


def _headed(inputs: Inputs, values: NDArray[Any], cell: Callable[[float], Cell]) -> list[list[Cell]]:
    return [[text_cell(name), *map(cell, row)] for name, row in zip(inputs.classes, values, strict=True)]


def early_section(inputs: Inputs) -> dict[str, Any] | None:
    """Returns what is said of growing sequences, None where no prefix is predicted."""
    if not inputs.early:
        return None
    unit = inputs.manifest["time_unit"]
    around = [row for row in inputs.early if row["by"] not in (STEPS, SINCE_FIRST)]
    first, last = (next(row for row in rows if row["by"] == STEPS) for rows in (inputs.early, inputs.early[::-1]))
    columns = [f"Time from {around[0]['by']} ({unit})" if around else "", "Objects", "Not observed yet"]
    scores = early.SCORES
    rows = [
        [Cell(f"{row['at']:+g}", row["at"]), count_cell(row["objects"]), count_cell(row["unobserved"]),
         *(score_cell(row[score]) for score in scores)]
        for row in around
    ]  # fmt: skip
    heads = [*columns, *(sentence(SCORES.get(score, score.replace("_", " "))) for score in scores)]
    return {
        "first": f"{first['accuracy']:.3f}",
        "last": f"{last['accuracy']:.3f}",
        "steps": f"{last['at']:g}",
        "table": Table.of("early", "Test scores of what was observed until then", heads, rows) if rows else None,
    }
