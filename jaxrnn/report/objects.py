"""Single objects of the report: examples of each class, the dearest mistakes, and some as they grow."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jaxrnn.report.figures as figures
from jaxrnn.examples import EXAMPLE, GROWING, MISTAKE, MOST_CLASSES, MOST_GROWING
from jaxrnn.report.figures import Figure, Shown
from jaxrnn.report.inputs import Inputs
from jaxrnn.report.tables import NOTHING


def drawn(inputs: Inputs) -> list[Figure]:
    found = [
        ("examples", "Examples of training", _by_class(inputs, EXAMPLE), ()),
        ("dearest_mistakes", "The dearest mistakes, test", {"": _mistakes(inputs)}, ()),
        ("growing_objects", "Test objects as they grow", _by_class(inputs, GROWING), inputs.classes),
    ]
    unit = inputs.manifest["time_unit"]
    return [
        figures.objects(name, title, rows, inputs.shown_inputs, unit, classes)
        for name, title, rows, classes in found
        if any(rows.values())
    ]


def section(inputs: Inputs) -> dict[str, Any]:
    """Returns what is said of the objects that are drawn."""
    by_class = inputs.counted == "objects"
    return {
        "seed": inputs.config["seed"],
        "by_class": by_class,
        "undrawn": max(len(inputs.classes) - MOST_CLASSES, 0) if by_class else 0,
        "classes": len(inputs.classes),
        "inputs": len(inputs.shown_inputs),
        "of_inputs": inputs.best["inputs"],
        "thinned": any(len(shown.step) < shown.steps for shown in inputs.shown),
        "mistakes": len(_mistakes(inputs)),
        "most_growing": MOST_GROWING,
        "growing": len(_chosen(inputs, GROWING)),
    }


def _chosen(inputs: Inputs, drawn_as: str) -> list[Shown]:
    return [shown for shown in inputs.shown if shown.drawn_as == drawn_as]


def _by_class(inputs: Inputs, drawn_as: str) -> dict[str, Sequence[Shown]]:
    """Returns the objects of each class, or all in one row where they are of no one class."""
    rows: dict[str, list[Shown]] = {}
    for shown in _chosen(inputs, drawn_as):
        if shown.predicted is not None:
            right = shown.predicted == shown.name
            shown = replace(shown, told=["rightly classified" if right else f"taken for {shown.predicted}"])
        if inputs.counted == "objects":
            rows.setdefault(shown.name, []).append(shown)
        else:
            rows.setdefault("", []).append(replace(shown, told=[shown.name] if shown.name else []))
    return dict(rows)


def _mistakes(inputs: Inputs) -> list[Shown]:
    found = []
    for shown in _chosen(inputs, MISTAKE):
        row = next(row for row in inputs.evaluation["mistakes_test"] if row["id"] == shown.id)
        step = int(row["step"]) if "step" in row else None
        truth = (row["truth"] or NOTHING) if step is None else f"{row['truth']} at step {step:,}"
        told = [f"truth: {truth}", f"taken for: {row['predicted'] or NOTHING}, {row['probability']:.3f}"]
        found.append(replace(shown, told=told, marked=step))
    return found
