"""What the section on trust says of uncertainty: of test objects, and of inputs that the network never saw."""

import math
from typing import Any

import jaxrnn.report.figures as figures
from jaxrnn.evaluation import CHOSEN
from jaxrnn.report.figures import Figure
from jaxrnn.report.inputs import Inputs, Row
from jaxrnn.report.tables import Table, measured_cell, percent, score_cell, sentence, text_cell
from jaxrnn.uncertainty import DROPOUT, PASSES, RANDOM, REVERSED, SCORES, SHUFFLED, SINE, SURE, TEST

COLUMNS = {
    "accuracy": "Accuracy",
    "log_loss": "Log loss",
    "calibration_error": "Calibration error",
    "mistakes_auc": "AUC of mistakes",
    "entropy": "Mean entropy",
    "mutual_information": "Mutual information",
}
SHOWN = {
    TEST: "test objects",
    RANDOM: "random values",
    REVERSED: "reversed in time",
    SHUFFLED: "shuffled in time",
    SINE: "sine waves",
}


def drawn(inputs: Inputs) -> list[Figure]:
    # where there is nothing to make up, kinds are missing
    known = {row["inputs"] for row in inputs.evaluation["entropies"]}
    kinds = {kind: words for kind, words in SHOWN.items() if kind in known}
    return [figures.entropies(inputs.evaluation["entropies"], kinds)] if len(kinds) > 1 else []


def section(inputs: Inputs) -> dict[str, Any]:
    rows = inputs.evaluation["out_of_distribution"]
    found = by_inputs(inputs)
    predictions = list(dict.fromkeys(row["predictions"] for row in rows))
    return {
        "objects": f"{int(rows[0]['objects']):,}",
        "of": f"{int(inputs.best['objects']['test']):,}",
        "passes": PASSES if DROPOUT in predictions else None,
        "ensemble": next((name for name in predictions if name not in (CHOSEN, DROPOUT)), None),
        "sure": f"{SURE:g}",
        "told": _told(found),
        "scores": _scores(inputs, predictions),
        "kinds": _kinds(rows),
    }


def by_inputs(inputs: Inputs, predictions: str = CHOSEN) -> dict[str, Row]:
    """Returns the rows of out_of_distribution.csv of the chosen trial, or of others, by the kind of inputs."""
    rows = inputs.evaluation.get("out_of_distribution", [])
    return {row["inputs"]: row for row in rows if row["predictions"] == predictions}


def _told(found: dict[str, Row]) -> str:
    """Returns what share of each kind of inputs the chosen trial is sure of, in words."""
    shares = [f"{SHOWN[kind]} {percent(row['sure'], 1)}" for kind, row in found.items()]
    return f"{', '.join(shares[:-1])} and {shares[-1]}" if len(shares) > 1 else shares[0]


def _scores(inputs: Inputs, predictions: list[str]) -> Table:
    found = {(row["predictions"], row["score"]): row for row in inputs.evaluation["uncertainty"]}
    rows = [
        [
            text_cell(sentence(name)),
            *(measured_cell(found[name, score]) for score in SCORES[:4]),
            *(score_cell(found[name, score]["value"]) for score in SCORES[4:]),
        ]
        for name in predictions
    ]
    columns = ["Predictions", *(COLUMNS[score] for score in SCORES)]
    return Table.of("uncertainty", "Predictions and their uncertainty, test", columns, rows)


def _kinds(rows: list[Row]) -> Table:
    def area(row: Row) -> dict[str, Any]:
        return {"value": row["auc"], "low": row["low"], "high": row["high"], "objects": row["objects"]}

    cells = [
        [
            text_cell(sentence(SHOWN[row["inputs"]])),
            text_cell(row["predictions"]),
            measured_cell(
                {"value": row["sure"], "low": row["sure_low"], "high": row["sure_high"], "objects": row["objects"]}
            ),
            score_cell(row["median"]),
            score_cell(row["mutual_information"]),
            measured_cell(area(row)) if math.isfinite(row["auc"]) else text_cell(""),
        ]
        for row in sorted(rows, key=lambda row: list(SHOWN).index(row["inputs"]))
    ]
    columns = ["Inputs", "Predictions", f"Surer than {SURE:g}", "Median entropy", "Mutual information", "AUC"]
    return Table.of("out-of-distribution", "How sure it is of inputs that it never saw", columns, cells)
