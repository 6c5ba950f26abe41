"""What the page says of attributions: which inputs of a few test objects the chosen network's decisions rest on."""

from typing import Any

import numpy as np

import jaxrnn.report.figures as figures
from jaxrnn.attributions import MIDPOINTS, RIGHT, TOLERANCE
from jaxrnn.report.figures import Attributed, Figure
from jaxrnn.report.inputs import Inputs, Row
from jaxrnn.report.tables import NOTHING, Cell, Table, count_cell, score_cell, text_cell


def drawn(inputs: Inputs) -> list[Figure]:
    found = _objects(inputs)
    return [figures.attributions([_drawable(rows) for rows in found])] if found else []


def section(inputs: Inputs) -> dict[str, Any] | None:
    """Returns what is said of attributions; None where there are none, as all test objects are too long."""
    found = [rows[0] for rows in _objects(inputs)]
    if not found:
        return None
    gaps = [abs(row["gap"]) for row in found]
    right = sum(row["chosen_as"] == RIGHT for row in found)
    return {
        "objects": len(found),
        "by_step": _by_step(found),
        "right": right,
        "wrong": len(found) - right,
        "midpoints": MIDPOINTS,
        "tolerance": f"{TOLERANCE:g}",
        "empty": sum(sum(abs(row["attribution"]) for row in rows) < TOLERANCE for rows in _objects(inputs)),
        "beyond": sum(gap > TOLERANCE for gap in gaps),
        "table": _table(found),
    }


def _objects(inputs: Inputs) -> list[list[Row]]:
    """Returns the rows of attributions_test.csv, by object."""
    found: dict[str, list[Row]] = {}
    for row in inputs.evaluation.get("attributions_test", []):
        found.setdefault(row["id"], []).append(row)
    return list(found.values())


def _by_step(found: list[Row]) -> bool:
    return found[0]["of_step"] == found[0]["of_step"]  # else NaN


def _drawable(rows: list[Row]) -> Attributed:
    first, of_steps = rows[0], [row for row in rows if row["step"] == row["step"]]
    features = list(dict.fromkeys(row["feature"] for row in of_steps))
    values = np.array([row["attribution"] for row in of_steps]).reshape(-1, len(features))
    mistake = "" if first["chosen_as"] == RIGHT else f", truly {first['truth'] or NOTHING}"
    step = f"step {first['of_step']:.0f}: " if _by_step(rows) else ""
    told = f"{step}{first['predicted'] or NOTHING} ({first['probability']:.2f}){mistake}"
    metadata = {row["feature"]: row["attribution"] for row in rows[len(of_steps) :]}
    return Attributed(first["id"], told, features, values, metadata)


def _table(found: list[Row]) -> Table:
    rows = [
        [
            text_cell(row["id"]),
            *([count_cell(row["of_step"])] if _by_step(found) else []),
            text_cell(row["truth"] or NOTHING),
            text_cell(row["predicted"] or NOTHING),
            score_cell(row["probability"]),
            score_cell(row["baseline"]),
            Cell(f"{row['gap']:.1e}", row["gap"]),
        ]
        for row in found
    ]
    step = ["Step"] if _by_step(found) else []
    columns = ["Object", *step, "Truth", "Taken for", "Probability", "Of the baseline", "Gap"]
    return Table.of("attributions", "What the attributions of each object add up to", columns, rows)
