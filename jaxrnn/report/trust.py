"""The section on trust: calibration, accuracy in slices, other trials and the ensemble, uncertainty, the dearest
mistakes."""

import math
from typing import Any

import jaxrnn.report.figures as figures
import jaxrnn.report.uncertainty as uncertainty
from jaxrnn.metrics import CALIBRATION_BINS, FEWEST_OBJECTS
from jaxrnn.report.figures import SCORES, Figure
from jaxrnn.report.inputs import Inputs, Row
from jaxrnn.report.tables import (
    NOT_A_NUMBER,
    NOTHING,
    TOO_FEW,
    Cell,
    Table,
    as_number,
    believed,
    count_cell,
    measured_cell,
    p_cell,
    score_cell,
    sentence,
    text_cell,
)

CALIBRATION = {"log_loss": "log loss", "brier": "Brier score", "calibration_error": "calibration error (ECE)"}


def drawn(inputs: Inputs) -> list[Figure]:
    slices, others = _slices(inputs), _others(inputs)
    return [
        figures.reliability([believed(row) for row in inputs.evaluation["calibration"]]),
        *([figures.slices(slices, _accuracy(inputs), inputs.judged)] if slices else []),
        *([figures.comparisons(others, inputs.varied)] if others else []),
        *uncertainty.drawn(inputs),
    ]  # fmt: skip


def section(inputs: Inputs) -> dict[str, Any]:
    """Returns what is said of how far the chosen trial can be trusted."""
    scores = inputs.evaluation["calibration_scores"]
    others = _others(inputs)
    apart = [row for row in others if row["p_holm"] < 0.05]
    members = list(dict.fromkeys(row["predictions"] for row in inputs.evaluation["ensemble"]))
    return {
        "temperature": f"{max(row['temperature'] for row in scores if row['probabilities'] != _first(scores)):.2f}",
        "bins": CALIBRATION_BINS,
        "few": FEWEST_OBJECTS,
        "calibration": _calibration(scores),
        "reliability": _reliability(inputs),
        "slices": _slice_table(inputs),
        "others": len(others),
        "apart": len(apart),
        "comparisons": _comparison_table(others) if others else None,
        "ensemble": _ensemble(inputs, members) if len(members) > 1 else None,
        "uncertainty": uncertainty.section(inputs),
        "mistakes": _mistakes(inputs),
    }


def _accuracy(inputs: Inputs) -> float:
    """Returns the share of test places that is right, of label sequences as a whole."""
    test = inputs.best["test"]
    return 1 - test["sequence_error_rate"]["value"] if inputs.spells else test["accuracy"]["value"]


def _first(rows: list[Row]) -> str:
    return rows[0]["probabilities"]


def _calibration(rows: list[Row]) -> Table:
    """Returns the table of scores of calibration; of the calibration error with what chance alone would give."""
    found = [
        [
            text_cell(sentence(CALIBRATION[row["score"]])),
            text_cell(row["probabilities"]),
            measured_cell(row) if math.isfinite(row["low"]) else score_cell(row["value"]),
            score_cell(row["by_chance"]),
            p_cell(row["p_value"]),
        ]
        for row in sorted(rows, key=lambda row: list(CALIBRATION).index(row["score"]))
    ]
    columns = ["Score", "Probabilities", "Test", "By chance alone", "p"]
    return Table.of(
        "calibration", "Calibration on the test split, before and after temperature scaling", columns, found
    )


def _reliability(inputs: Inputs) -> Table:
    rows = [
        [
            text_cell(f"{row['left']:.2f} to {row['right']:.2f}"),
            text_cell(row["probabilities"]),
            count_cell(row["objects"]),
            score_cell(row["confidence"]),
            measured_cell(row | {"value": row["accuracy"]}),
        ]
        for row in inputs.evaluation["calibration"]
    ]
    columns = ["Stated probability", "Probabilities", "Objects", "Mean stated", "Share right"]
    return Table.of("reliability-bins", "Bins of the reliability diagram", columns, rows)


def _slices(inputs: Inputs) -> list[Row]:
    """Returns the slices of properties that have several, with their `label`."""
    rows = inputs.evaluation["slices_test"]
    several = {row["property"] for row in rows if sum(other["property"] == row["property"] for other in rows) > 1}
    return [believed(row | {"label": _label(row)}) for row in rows if row["property"] in several]


def _label(row: Row) -> str:
    if not math.isfinite(row["from"]):
        return "unknown"
    low, high = (f"{row[end]:.3g}" for end in ("from", "to"))
    return low if low == high else f"{low} to {high}"


def _slice_table(inputs: Inputs) -> Table:
    rows = [
        [
            text_cell(f"{row['property']} ({row['unit']})" if row["unit"] else row["property"]),
            text_cell(_label(row)),
            count_cell(row["objects"]),
            measured_cell(row | {"value": row["accuracy"]}),
        ]
        for row in inputs.evaluation["slices_test"]
    ]
    return Table.of("slices", "Accuracy on test in slices", ["Property", "Slice", "Objects", "Accuracy"], rows)


def _others(inputs: Inputs) -> list[Row]:
    """Returns the rows of other trials, the best on validation first, with the `label` of their grid point."""
    labels = {row["trial"]: inputs.label(row) for row in inputs.trials}
    rows = inputs.evaluation["comparisons"]
    return [believed(row | {"label": labels.get(row["trial"], row["trial"])}) for row in rows]


def _comparison_table(others: list[Row]) -> Table:
    rows = [
        [
            text_cell(row["label"]),
            score_cell(row["accuracy"]),
            _signed(row["difference"], row["low"], row["high"], row["objects"]),
            count_cell(row["chosen_alone"]),
            count_cell(row["other_alone"]),
            p_cell(row["p_value"]),
            p_cell(row["p_holm"]),
            _signed(row["log_loss_difference"], row["log_loss_low"], row["log_loss_high"], row["objects"]),
        ]
        for row in others
    ]
    columns = ["Grid point", "Its accuracy", "Difference of accuracy", "Right in the chosen alone",
               "Right in the other alone", "p", "p, corrected", "Difference of log loss"]  # fmt: skip
    return Table.of(
        "comparisons", "The chosen trial minus the best trial of each other grid point, test", columns, rows
    )


def _signed(value: float, low: float, high: float, objects: float) -> Cell:
    if not math.isfinite(value):
        return Cell(NOT_A_NUMBER, math.nan)
    if objects < FEWEST_OBJECTS:
        return Cell(f"{value:+.3f}", value, TOO_FEW)
    note = f"[{low:+.3f}, {high:+.3f}]" if math.isfinite(low) and math.isfinite(high) else ""
    return Cell(f"{value:+.3f}", value, note)


def _ensemble(inputs: Inputs, members: list[str]) -> Table:
    found = {(row["predictions"], row["score"]): row for row in inputs.evaluation["ensemble"]}
    rows = []
    for name in members:
        cells = [found[name, score] for score in inputs.scores]
        rows.append([text_cell(name), *(measured_cell(row) for row in cells)])
    columns = ["Predictions", *(sentence(SCORES[score]) for score in inputs.scores)]
    return Table.of("ensemble", "The chosen trial, and the mean of its grid point's trials, test", columns, rows)


def _mistakes(inputs: Inputs) -> Table | None:
    rows = inputs.evaluation["mistakes_test"]
    by_step = any("step" in row for row in rows)
    cells = [
        [
            text_cell(row["id"]),
            *([count_cell(as_number(row["step"]))] if by_step else []),
            text_cell(row["truth"] or NOTHING),
            text_cell(row["predicted"] or NOTHING),
            score_cell(row["probability"]),
            score_cell(row["probability_of_truth"]),
            count_cell(row["steps"]),
        ]
        for row in rows
    ]
    columns = ["Object", *(["Step"] if by_step else []), "Truth", "Taken for", "Probability", "Of the truth", "Steps"]
    return Table.of("mistakes", "The mistakes that it was surest of, test", columns, cells) if cells else None
