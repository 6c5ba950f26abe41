"""The networks of an experiment, as a table and as a drawing, before anything is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxrnn import blueprint, features, plan, readers, results, search
from jaxrnn.blueprint import Blueprint, Placed, Shape
from jaxrnn.config import (
    TRACED_KEYS,
    DropoutLayer,
    Experiment,
    Loss,
    MetadataLayer,
    Model,
    RecurrentLayer,
    digest,
    substituted,
)
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results

MOST_TABLES = 8  # of more networks, a line each
SUFFIXES = (".svg", ".png")


@dataclass(frozen=True)
class Inputs:
    """What a network is made for: numbers of features a step, columns of metadata and classes, and the steps of the
    longest sequence, None where no dataset says."""

    features: int
    metadata: int
    classes: int
    longest: int | None


@dataclass(frozen=True)
class Row:
    """A layer in a table. kind: of its layer, "" for the inputs. causal: `yes`, or why not; "" where no steps are left.
    depth: how many residuals it is within."""

    name: str
    kind: str
    settings: str
    gives: str
    parameters: int
    causal: str
    depth: int


@dataclass(frozen=True)
class Described:
    """One network of an experiment. name: of its grid values; told: what a table does not show."""

    name: str
    rows: tuple[Row, ...]
    parameters: int
    told: tuple[str, ...]


def describe(experiment: Experiment, at: Results, output: Path | None = None, classes: int | None = None) -> str:
    """Returns the experiment's different networks as tables, in plain text, and draws them into `output`, an .svg or
    .png file. classes: how many there are, where neither the file nor a dataset says.

    Needs no jax. Raises JaxrnnError where the survey isn't there, or the number of classes isn't known.
    """
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise JaxrnnError(f"--output {output}: expected a name that ends in {' or '.join(SUFFIXES)}")
    inputs = inputs_of(experiment, at, classes)
    found = networks(experiment, inputs)
    if output is not None:
        _draw(found[:MOST_TABLES], output)
    return _text(experiment, inputs, found)


def inputs_of(experiment: Experiment, at: Results, classes: int | None = None) -> Inputs:
    """Returns what the experiment's networks are made for: as its dataset says, or the survey where none is there."""
    data, folder = experiment.data, at.dataset(plan.dataset_key(experiment))
    if (folder / "manifest.json").exists():
        # pandas, which the survey alone does not need
        from jaxrnn import shards, splits

        manifest = results.read_json(folder / "manifest.json", "jaxrnn ingest")
        paths = splits.shard_paths(folder)
        if classes is None:
            labels = list(manifest["labels"])
            if experiment.task.kind == "step":
                found = [shards.step_labels(path) for path in paths]
                labels = [label for each in found if each is not None for label in np.unique(each).tolist()]
            elif experiment.task.kind == "label_sequence":
                labels = list({label for text in labels for label in experiment.task.labels_of(text)})
            classes = len(splits.class_labels(experiment.task, np.array(labels)))
        longest = max(int(shards.read(path, steps=False).lengths.max(initial=0)) for path in paths)
        return Inputs(len(manifest["features"]), len(manifest["metadata"]), classes, longest)
    if classes is None and experiment.task.classes is not None:
        classes = len(experiment.task.classes)
    if classes is None:
        raise JaxrnnError(
            "how many classes there are is known once the survey is ingested (`jaxrnn ingest` with this file), or from "
            "`task.classes`; or say it: --classes 2"
        )
    folder = plan.survey_folder(experiment, at)
    if data.simulation is not None and not folder.exists():
        raise JaxrnnError(f"{folder}: the survey is not made yet; run `jaxrnn simulate` with this file first")
    survey = readers.open_reader(data.reader, folder, data.options).describe()
    features.check(data, survey)
    return Inputs(len(features.describe(data, survey)), len(data.metadata), classes, data.cuts.max_steps)


def networks(experiment: Experiment, inputs: Inputs) -> list[Described]:
    """Returns the different networks of the experiment's grid, in its order."""
    keys = [key for key in experiment.grid if key.startswith(("model.", "loss.kind")) and key not in TRACED_KEYS]
    base = experiment.model_dump(mode="json", include={"model", "loss"})
    found: dict[Blueprint, Described] = {}
    points = ({key: point[key] for key in keys} for point in search.points(experiment))
    for point in {digest(point): point for point in points}.values():
        values_here = substituted(base, point)
        model = Model.model_validate(values_here["model"])
        outputs = Loss.model_validate(values_here["loss"]).outputs(inputs.classes, experiment.task.kind)
        made = blueprint.of(model, experiment.task.kind, inputs.features, inputs.metadata, outputs)
        name = "_".join(plan.slug(key, value, keys) for key, value in point.items())
        if made not in found:
            found[made] = _described(name, made, _rates(experiment, model), inputs)
    return list(found.values())


def _rates(experiment: Experiment, model: Model) -> dict[str, str]:
    """Returns the rates of layers that have none of their own, or the key where the grid varies it."""
    rates = {"rate": "model.dropout", "recurrent_dropout": "model.recurrent_dropout"}
    values = {"rate": model.dropout, "recurrent_dropout": model.recurrent_dropout}
    return {name: key if key in experiment.grid else f"{values[name]:g}" for name, key in rates.items()}


def _described(name: str, made: Blueprint, rates: dict[str, str], inputs: Inputs) -> Described:
    def shown(shape: Shape) -> str:
        if not shape.has_steps:
            return f"[batch, {shape.width}]"
        if shape.positions is not None:
            return f"[batch, {shape.positions}, {shape.width}]"
        steps = "step" if inputs.longest is None else f"{shape.steps(inputs.longest)}"
        steps += f" / {shape.stride}" if inputs.longest is None and shape.stride != 1 else ""
        return f"[batch, {steps}, {shape.width}]"

    def rows(layers: Sequence[Placed], depth: int) -> Iterator[Row]:
        for placed in layers:
            settings = _settings(placed, rates)
            own = placed.parameters - sum(inner.parameters for inner in placed.within)
            causal = f"no: {placed.looks_ahead.removeprefix(placed.name).strip()}" if placed.looks_ahead else "yes"
            causal = causal if placed.gives.has_steps or placed.looks_ahead else ""
            yield Row(placed.name, placed.kind, settings, shown(placed.gives), own, causal, depth)
            yield from rows(placed.within, depth + 1)

    logits = replace(made.gives, width=made.classes)
    every = (
        Row("input", "", "", shown(made.takes), 0, "", 0),
        *rows(made.placed, 0),
        Row("classes", "dense", "", shown(logits), (made.gives.width + 1) * made.classes, "", 0),
    )
    ahead = "; ".join(made.looks_ahead)
    told = [f"not causal: {ahead}" if ahead else "causal: no layer looks ahead"]
    if inputs.metadata and not any(isinstance(it.layer, MetadataLayer) for it in blueprint.every(made.layers)):
        told.append("`data.metadata` is joined nowhere; a `metadata` layer would join it")
    if made.longest is not None:
        told.append(f"takes sequences of at most {made.longest} steps")
        if inputs.longest is not None and inputs.longest > made.longest:
            told[-1] += f", and the data has some of {inputs.longest}: training will refuse them"
    return Described(name, every, made.parameters, tuple(told))


def _settings(placed: Placed, rates: dict[str, str]) -> str:
    words = []
    for key, value in placed.layer:
        if key in ("layer", "layers") or value is False:
            continue
        if value is None:
            # of a recurrent layer, or of dropout, the model's; a stride is the window's size
            value = rates.get(key) if isinstance(placed.layer, DropoutLayer | RecurrentLayer) else None
            if value is None or (key == "recurrent_dropout" and value == "0"):
                continue
        words.append(key if value is True else f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)


def _text(experiment: Experiment, inputs: Inputs, found: Sequence[Described]) -> str:
    known = "of any length" if inputs.longest is None else f"of at most {inputs.longest} steps"
    counts = f"{inputs.features} features a step, {inputs.metadata} of metadata, {inputs.classes} classes"
    several = f" {len(found)} different networks." if len(found) > 1 else ""
    blocks = [f"{experiment.experiment}: sequences {known}, {counts}.{several}"]
    for network in found[:MOST_TABLES]:
        lines = [network.name, ""] if network.name else []
        cells = [("layer", "output", "parameters", "causal", "settings")]
        for row in network.rows:
            parameters = f"{row.parameters:,}" if row.parameters else ""
            cells.append((f"{'  ' * row.depth}{row.name}", row.gives, parameters, row.causal, row.settings))
        cells.append(("total", "", f"{network.parameters:,}", "", ""))
        widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
        for place, row in enumerate(cells):
            aligned = zip(row, widths, ("<", "<", ">", "<", "<"), strict=True)
            line = "  ".join(f"{cell:{side}{width}}" for cell, width, side in aligned).rstrip()
            lines += [line] if place else [line, "-" * (sum(widths) + 8)]
        blocks.append("\n".join([*lines, "", *network.told]))
    if rest := found[MOST_TABLES:]:
        blocks.append("\n".join(f"{network.name}: {network.parameters:,} parameters" for network in rest))
    return "\n\n".join(blocks)


def _draw(found: Sequence[Described], output: Path) -> None:
    from jaxrnn.report import figures

    figure = figures.networks(found)
    if output.suffix.lower() == ".svg":
        results.write_text(output, figure.svg)
    else:
        with results.written_whole(output) as temporary:
            temporary.write_bytes(figure.png())
