"""The section on the data: what entered, in which classes and splits, and what was left out."""

from collections import Counter
from typing import Any

import jaxrnn.report.figures as figures
from jaxrnn.config import substituted
from jaxrnn.errors import listed, plural
from jaxrnn.readers import SPLITS
from jaxrnn.report.figures import Figure
from jaxrnn.report.inputs import Inputs
from jaxrnn.report.tables import Table, count_cell, text_cell
from jaxrnn.splits import EXCLUDED


def drawn(inputs: Inputs) -> list[Figure]:
    histogram, cadence = inputs.manifest["length_histogram"], inputs.evaluation.get("cadence")
    return [
        figures.class_counts(class_counts(inputs), inputs.counted),
        figures.sequence_lengths(histogram["edges"], histogram["counts"]),
        *([figures.cadences(cadence, inputs.manifest["time_unit"])] if cadence else []),
    ]


def section(inputs: Inputs) -> dict[str, Any]:
    manifest, config = inputs.manifest, inputs.config
    counts = class_counts(inputs)
    labels: dict[str, set[str]] = {}
    for label, name, split in inputs.objects:
        if split in SPLITS:
            labels.setdefault(name, set()).add(label)
    grouped = any(labels.get(name, {name}) != {name} for name in counts)
    columns = ["Class", *(["Labels of the survey"] if grouped else []), "Train", "Validation", "Test", "All"]
    rows = [
        [
            text_cell(name),
            *([text_cell(listed(sorted(labels.get(name, ())), 12))] if grouped else []),
            *(count_cell(own[split]) for split in SPLITS),
            count_cell(sum(own.values())),
        ]
        for name, own in counts.items()
    ]
    totals = [sum(own[split] for own in counts.values()) for split in SPLITS]
    rows.append(
        [text_cell("All classes"), *([text_cell("")] if grouped else []), *map(count_cell, [*totals, sum(totals)])]
    )
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
        "judged": inputs.judged,
        "table": Table.of("classes", f"{inputs.counted.capitalize()} of each class, by split{fold}", columns, rows),
        "trained_on": _trained_on(inputs),
        "leaks": leaks(inputs),
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
    return Table.of(
        name, caption, ["Reason", "Count"], [[text_cell(reason), count_cell(count)] for reason, count in ordered]
    )


def class_counts(inputs: Inputs) -> dict[str, dict[str, int]]:
    if inputs.steps:
        return inputs.steps
    counts: dict[str, Counter[str]] = {name: Counter() for name in inputs.classes}
    for (_, name, split), count in inputs.objects.items():
        if split in SPLITS:
            counts.setdefault(name, Counter())[split] += count
    return {name: {split: own[split] for split in SPLITS} for name, own in counts.items()}


def leaks(inputs: Inputs) -> str:
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
