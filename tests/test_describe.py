"""What `jaxrnn describe` prints and draws is the network that would be trained."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
import surveys
from commands import jaxrnn, refused
from flax import nnx

from jaxrnn import config, describe, training
from jaxrnn.config import Experiment, Model
from jaxrnn.describe import Inputs
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results

LISTED = [
    "input_normalisation",
    {"layer": "conv", "filters": 4, "kernel": 3, "stride": 2},
    {"layer": "residual", "layers": [{"layer": "gru", "units": 6, "recurrent_dropout": 0.25}, "batch_norm"]},
    "dropout",
    {"layer": "lstm", "units": 5, "bidirectional": True, "output": "last"},
    "metadata",
    {"layer": "dense", "units": 7, "activation": "elu"},
]
INPUTS = Inputs(features=3, metadata=2, classes=4, longest=9)


def experiment(path: Path | str = "folder", **changes: Any) -> Experiment:
    return Experiment.model_validate(surveys.changed(surveys.experiment_values("goto", path), **changes))


def rows_of(text: str) -> list[list[str]]:
    """Returns the rows of the first table, cells cut at the columns of its header."""
    lines = text.splitlines()
    rule = next(place for place, line in enumerate(lines) if line.startswith("---"))
    starts = [lines[rule - 1].index(name) for name in ("layer", "output", "parameters", "causal", "settings")]
    starts[2] = starts[1] + max(len(line[starts[1] :].split("]")[0]) for line in lines[rule + 1 :] if "]" in line) + 1
    ends = [*starts[1:], None]
    table = lines[rule + 1 : lines.index("", rule)]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in table]


def test_a_list_is_described_layer_by_layer() -> None:
    (found,) = describe.networks(experiment(model={"layers": LISTED, "dropout": 0.4}), INPUTS)
    table = [(row.depth, row.name, row.gives, row.parameters, row.causal, row.settings) for row in found.rows]
    assert table == [
        (0, "input", "[batch, 9, 3]", 0, "", ""),
        (0, "input_normalisation 1", "[batch, 9, 3]", 0, "yes", ""),
        (0, "conv 1", "[batch, 5, 4]", 40, "no: is centred",
         "filters 4, kernel 3, stride 2, padding same, activation relu"),
        (0, "residual 1", "[batch, 5, 6]", 24, "yes", ""),
        (1, "gru 1", "[batch, 5, 6]", 204, "yes", "units 6, output steps, recurrent_dropout 0.25"),
        (1, "batch_norm 1", "[batch, 5, 6]", 12, "yes", ""),
        (0, "dropout 1", "[batch, 5, 6]", 0, "yes", "rate 0.4"),
        (0, "lstm 1", "[batch, 10]", 480, "no: reads backwards", "units 5, bidirectional, output last"),
        (0, "metadata 1", "[batch, 12]", 0, "", ""),
        (0, "dense 1", "[batch, 7]", 91, "", "units 7, activation elu"),
        (0, "classes", "[batch, 4]", 32, "", ""),
    ]  # fmt: skip
    assert found.parameters == sum(row.parameters for row in found.rows)
    assert found.told == ("not causal: conv 1 is centred; lstm 1 reads backwards",)


@pytest.mark.parametrize("model", [{}, {"cell": "lstm", "bidirectional": True, "pooling": "max"}, {"layers": LISTED}])
def test_the_parameters_are_those_of_the_network(model: dict[str, Any]) -> None:
    (found,) = describe.networks(experiment(model=model), INPUTS)
    made = training.network(Model.model_validate(model), 3, 2, 4)
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))


def test_a_decoder_is_described_with_what_it_looks_at() -> None:
    layers = [{"layer": "lstm", "units": 5, "bidirectional": True}]
    decoder = {"attention": "dot", "cell": "gru", "units": 10}
    model = {"layers": layers, "decoder": decoder}
    (found,) = describe.networks(experiment(model=model, task={"kind": "step"}), INPUTS)
    made = training.network(Model.model_validate(model), 3, 2, 4, "step")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))
    assert found.parameters == parameters == sum(row.parameters for row in found.rows)
    table = [(row.name, row.kind, row.gives, row.causal, row.settings) for row in found.rows[-2:]]
    assert table == [
        ("decoder", "decoder", "[batch, 9, 10]", "no: attends to later steps",
         "attention dot, cell gru, units 10, look_ahead"),
        ("classes", "dense", "[batch, 9, 4]", "", ""),
    ]  # fmt: skip
    assert found.told[0] == "not causal: lstm 1 reads backwards; decoder attends to later steps"
    causal = {"units": 4, "decoder": {"look_ahead": False}}
    grid = {"model.decoder": [None, {"look_ahead": False}, {"units": 7}]}
    several = describe.networks(experiment(model=causal, task={"kind": "step"}, grid=grid), INPUTS)
    assert [network.name for network in several] == [
        "decoder-null", "decoder-general-gru-32-causal", "decoder-general-gru-7",
    ]  # fmt: skip
    assert several[1].told[0] == "causal: no layer looks ahead"


@pytest.mark.parametrize("longest", [None, 9])
def test_a_decoder_of_label_sequences_has_its_positions_whatever_the_input(longest: int | None) -> None:
    model = {"layers": ["max_pool", "gru"], "decoder": {"most_labels": 4}}
    settings: dict[str, Any] = {"task": {"kind": "label_sequence"}, "loss": {"class_weights": "none"}}
    of = experiment(model=model, selection={"metric": "label_error_rate"}, **settings)
    (found,) = describe.networks(of, replace(INPUTS, longest=longest))
    # four labels and the end; and the end is a class more
    assert [row.gives for row in found.rows[-2:]] == ["[batch, 5, 32]", f"[batch, 5, {INPUTS.classes + 1}]"]


def test_steps_that_are_not_known_have_a_name() -> None:
    inputs = Inputs(features=3, metadata=2, classes=4, longest=None)
    (found,) = describe.networks(experiment(model={"layers": LISTED}), inputs)
    assert [row.gives for row in found.rows[:3]] == ["[batch, step, 3]", "[batch, step, 3]", "[batch, step / 2, 4]"]


def test_a_grid_has_each_network_once() -> None:
    grid = {
        "model.units": [3, 4],
        "training.learning_rate": [1e-3, 1e-2],
        "model.dropout": [0.1, 0.2],
        "model.recurrent_dropout": [0, 0.1],
        "loss.gamma": [0, 1],
        "model.cell": ["gru", "lstm"],
    }
    found = describe.networks(experiment(grid=grid), INPUTS)
    assert [network.name for network in found] == [
        f"units-{units}_cell-{cell}" for units in (3, 4) for cell in ("gru", "lstm")
    ]
    settings = {row.name: row.settings for row in found[0].rows}
    assert settings["gru 1"] == "units 3, output last, recurrent_dropout model.recurrent_dropout"
    assert settings["dropout 1"] == "rate model.dropout"


def test_what_a_table_does_not_show_is_told() -> None:
    layers = [{"layer": "max_pool", "causal": True}, {"layer": "flatten", "steps": 4}]
    (found,) = describe.networks(experiment(model={"layers": layers}), INPUTS)
    assert found.told == (
        "causal: no layer looks ahead",
        "`data.metadata` is joined nowhere; a `metadata` layer would join it",
        "takes sequences of at most 8 steps, and the data has some of 9: training will refuse them",
    )


# The command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    survey = surveys.write_goto(tmp_path / "survey", surveys.goto_arrays())
    values = surveys.experiment_values("goto", survey)
    return surveys.write_experiment(tmp_path / "tiny.yaml", surveys.changed(values, data__metadata=["context_0"]))


def test_the_survey_and_then_the_dataset_say_what_the_network_is_for(file: Path, tmp_path: Path) -> None:
    at = ("--config", str(file), "--results", str(tmp_path / "results"))
    assert "how many classes there are is known once the survey is ingested" in refused("describe", *at)
    code, text, _ = jaxrnn("describe", *at, "--classes", "5")
    assert code == 0
    assert text.startswith("tiny: sequences of any length, 3 features a step, 1 of metadata, 5 classes.\n")
    assert [row[:2] for row in rows_of(text)][:2] == [["input", "[batch, step, 3]"], ["gru 1", "[batch, 4]"]]
    assert rows_of(text)[-2][:2] == ["classes", "[batch, 5]"]
    assert jaxrnn("ingest", *at)[0] == 0
    code, text, _ = jaxrnn("describe", *at)
    assert code == 0
    assert text.startswith(f"tiny: sequences of at most {surveys.STEPS} steps, 3 features a step, 1 of metadata, 2 cl")
    assert [row[0] for row in rows_of(text)] == [
        "input", "gru 1", "dropout 1", "batch_norm 1", "metadata 1", "dense 1", "classes", "total",
    ]  # fmt: skip
    assert "\ncausal: no layer looks ahead\n" in text


def test_classes_of_the_file_count(file: Path, tmp_path: Path) -> None:
    values = config.read_yaml(file) | {"task": {"classes": {"a": ["0"], "b": ["1"], "c": ["*"]}}}
    surveys.write_experiment(file, values)
    assert "3 classes" in jaxrnn("describe", "--config", str(file), "--results", str(tmp_path / "results"))[1]


def test_many_networks_get_a_line_each(file: Path, tmp_path: Path) -> None:
    units = list(range(1, describe.MOST_TABLES + 4))
    surveys.write_experiment(file, config.read_yaml(file) | {"grid": {"model.units": units}})
    _, text, _ = jaxrnn("describe", "--config", str(file), "--results", str(tmp_path), "--classes", "2")
    assert text.count("\ntotal ") == describe.MOST_TABLES
    assert re.findall(r"^units-(\d+): [\d,]+ parameters$", text, flags=re.MULTILINE) == ["9", "10", "11"]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_network_is_drawn(file: Path, tmp_path: Path, suffix: str) -> None:
    surveys.write_experiment(file, config.read_yaml(file) | {"model": {"layers": LISTED}})
    drawn = tmp_path / f"network{suffix}"
    at = ("--config", str(file), "--results", str(tmp_path / "results"), "--classes", "2")
    code, text, messages = jaxrnn("describe", *at, "--output", str(drawn))
    assert code == 0 and f"drawn in {drawn}" in messages
    if suffix == ".png":
        assert drawn.read_bytes().startswith(b"\x89PNG")
        return
    words = ["".join(element.itertext()) for element in ElementTree.parse(drawn).iter() if element.tag.endswith("text")]
    for name, gives, parameters, *_ in rows_of(text)[:-1]:
        assert name in words and gives in words and (parameters in words or not parameters)
    assert any("not causal: conv 1 is centred; lstm 1 reads backwards" in word for word in words)


def test_what_is_refused(file: Path, tmp_path: Path) -> None:
    assert "expected a name that ends in .svg or .png" in refused(
        "describe", "--config", str(file), "--output", "a.pdf"
    )
    data = {"reader": "simulated", "simulation": {}, "features": ["time"]}
    surveys.write_experiment(file, config.read_yaml(file) | {"data": data})
    at = ("--config", str(file), "--results", str(tmp_path), "--classes", "2")
    assert "the survey is not made yet; run `jaxrnn simulate`" in refused("describe", *at)
    survey = surveys.write_goto(tmp_path / "other", surveys.goto_arrays())
    with pytest.raises(JaxrnnError, match="this survey has no 'colour'"):
        describe.inputs_of(experiment(survey, data__features=["colour"]), Results(tmp_path), 2)


def test_describing_needs_no_jax(file: Path, tmp_path: Path) -> None:
    called = ["describe", "--config", str(file), "--results", str(tmp_path / "results"), "--classes", "2"]
    code = f"import sys; sys.argv = ['jaxrnn', *{called}]\ntry:\n    from jaxrnn.cli import main; main()\n"
    code += "except SystemExit: pass\nassert 'jax' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
