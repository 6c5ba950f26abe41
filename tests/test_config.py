"""The experiment file: what is read, what is refused, and how it is said."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import surveys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxrnn import config
from jaxrnn.config import Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.simulate import Simulation

VALUES = surveys.experiment_values("goto", "folder")
Load = Callable[..., Experiment]
Refused = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the small experiment with changes, or a text."""

    def loaded(text: str | None = None, **changes: Any) -> Experiment:
        file = tmp_path / "tiny.yaml"
        file.write_text(config.to_yaml(surveys.changed(VALUES, **changes)) if text is None else text)
        return config.load(file)

    return loaded


@pytest.fixture
def refused(load: Load) -> Refused:
    """Returns the message with which an experiment file is refused."""

    def message(text: str | None = None, **changes: Any) -> str:
        with pytest.raises(JaxrnnError) as error:
            load(text, **changes)
        return str(error.value)

    return message


# Every mistake at once


def test_every_mistake_is_named_with_line_place_expectation_and_nearest_key(refused: Refused) -> None:
    message = refused(
        """experiment: a/b
seed: 1.5
data:
  reader: gotto
  path: folder
  features: [time, {name: value, scalling: log}, value]
split:
  train: 0.9
task:
  classes: {one: [a]}
model:
  unitts: 3
  dropout: 1
loss:
  gamma: -1
training:
  learning_rate: "1e-4"
  device: tpu
selection: {metric: macro_auk}
grid:
  model.cel: [gru]
  training.epochs: [5, x]
seeds: 0
"""
    )
    rows = message.split("\n")
    assert rows[0].endswith("tiny.yaml: 15 mistakes; every key is explained in config/README.md")
    expected = [
        ("line 1: experiment: expected a plain name", "found 'a/b'"),
        ("line 2: seed: expected a whole number, found 1.5", ""),
        ("line 4: data.reader: there is no reader 'gotto'", "did you mean 'goto'?"),
        ("line 6: data.features[1].scalling: unknown key", "did you mean 'scaling'?"),
        ("line 7: split.validation: train + validation is 1.05", "expected less than 1"),
        ("line 10: task.classes: expected at least 2 classes", "found 1"),
        ("line 12: model.unitts: unknown key", "did you mean 'units'? (the keys here are cell, units"),
        ("line 13: model.dropout: expected a value < 1, found 1", ""),
        ("line 15: loss.gamma: expected a value >= 0, found -1", ""),
        ("line 17: training.learning_rate: expected a number, found '1e-4'", "without quotes: 1e-4"),
        ("line 18: training.device: expected one of cpu, gpu, found 'tpu'", ""),
        ("line 19: selection.metric: expected one of macro_auc", "did you mean 'macro_auc'?"),
        ("line 21: grid.model.cel: unknown key", "did you mean 'model.cell'?"),
        ("line 22: grid.training.epochs[1]: expected a whole number, found 'x'", ""),
        ("line 23: seeds: expected a value >= 1, found 0", ""),
    ]
    for row, (start, inside) in zip(rows[1:], expected, strict=True):
        assert row.strip().startswith(start)
        assert inside in row


def test_all_required_sections_that_are_missing_are_named(refused: Refused) -> None:
    message = refused("seeds: 2\n")
    assert len(message.split("\n")) == 1 + len(config.REQUIRED)
    assert all(f": {key}: missing; every experiment file has it" in message for key in config.REQUIRED)


@pytest.mark.parametrize("key", config.OPTIONAL)
@pytest.mark.parametrize("value", [None, {}])
def test_a_section_may_be_empty(load: Load, key: str, value: object) -> None:
    assert getattr(load(**{key: value}), key) == getattr(load(**{key: {}}), key)


@pytest.mark.parametrize("key", ["experiment", "seed", "data", "seeds"])
def test_what_has_no_default_may_not_be_null(refused: Refused, key: str) -> None:
    assert f": {key}: expected" in refused(**{key: None})


@pytest.mark.parametrize("key", [*config.OPTIONAL, "data"])
@pytest.mark.parametrize("value", [3, "text", [1], True, 0.5])
def test_a_section_that_is_no_mapping(refused: Refused, key: str, value: object) -> None:
    assert f": {key}: expected a mapping of keys to values, found " in refused(**{key: value})


# YAML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping of keys to values, found nothing"),
        ("# a remark\n", "found nothing"),
        ("- a\n- b\n", 'found ["a", "b"]'),
        ("plain\n", "found 'plain'"),
        ("experiment:\n\tseed: 1\n", "tiny.yaml:2:1: not valid YAML: while scanning"),
        ("experiment:\n\tseed: 1\n", "indents with spaces, not with tabs"),
        ("a: 1\nseed: 1\na: 2\n", "tiny.yaml:3:1: not valid YAML: the key 'a' stands twice"),
        ("model: {units: 1, units: 2}\n", "tiny.yaml:1:19: not valid YAML: the key 'units' stands twice"),
        ("task: {classes: {0: [a], '0': [b]}}\n", "the key '0' stands twice"),
        ("a: [1\nb: 2\n", "tiny.yaml:2:2: not valid YAML: while parsing a flow sequence"),
        ("a: b: c\n", "mapping values are not allowed here"),
        ("a: 'b\n", "found unexpected end of stream"),
        ("? [a, b]\n: 1\n", "a key must be plain text"),
        ("? {a: b}\n: 1\n", "a key must be plain text"),
        ("a: 1\n---\nb: 2\n", "expected a single document in the stream"),
        ("a: \x07\n", "tiny.yaml:1: not valid YAML: the character #x0007 is not allowed"),
        ("a: &x 1\nb: *x\n", "tiny.yaml:2:4: not valid YAML: aliases (`*name`) are not read"),
        ("a: &x [*x]\n", "aliases (`*name`) are not read"),
        ("model: &m {units: 1}\nloss:\n  <<: *m\n", "aliases (`*name`) are not read"),
        ("a: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deep"),
        ("a: " + "9" * 5000 + "\n", "holds a number that cannot be read"),
        ("a: !!python/object/apply:os.system ['touch here']\n", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: !other 1\n", "could not determine a constructor"),
        ("a: !!binary aGk=\n", "could not determine a constructor"),
        ("a: !!set {b, c}\n", "could not determine a constructor"),
        ("a: !!int x\n", "cannot be read"),
        ("%YAML 3.0\n---\na: 1\n", "found incompatible YAML document"),
    ],
)
def test_yaml_faults_are_explained(refused: Refused, tmp_path: Path, text: str, said: str) -> None:
    message = refused(text)
    assert message.startswith(str(tmp_path / "tiny.yaml"))
    assert said in message
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tiny.yaml"]


def test_an_alias_bomb_is_refused_at_its_first_alias(refused: Refused) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "tiny.yaml:2:10: not valid YAML: aliases" in refused("\n".join(lines))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(JaxrnnError, match="expected a YAML file, which is text in UTF-8; byte 0 is none"):
        config.load(binary)
    with pytest.raises(JaxrnnError, match=r"expected a YAML file, found a folder; did you mean .*model\.yaml"):
        config.load(tmp_path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"gotto\.yaml: no such file$"):
        config.load(tmp_path / "gotto.yaml")
    for name in ("goto.yaml", "spcc_ia.yaml"):
        (tmp_path / name).write_text("a: 1")
    with pytest.raises(JaxrnnError, match=r"no such file; did you mean .*/goto\.yaml\?$"):
        config.load(tmp_path / "gotto.yaml")
    with pytest.raises(JaxrnnError, match=r"no such file; the folder .*confg isn't there either"):
        config.load(tmp_path / "confg" / "goto.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(load: Load) -> None:
    text = config.to_yaml(VALUES)
    assert load("\ufeff" + text.replace("\n", "\r\n")) == load(text)


# Values


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", "100e-6", ".1e-3", "1.e-4"])
def test_numbers_as_they_are_written(load: Load, written: str) -> None:
    text = config.to_yaml(surveys.changed(VALUES, training={"learning_rate": 0.5})).replace("0.5", written)
    assert load(text).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training__learning_rate", "1e-4", "expected a number, found '1e-4'; write it without quotes: 1e-4"),
        ("training__learning_rate", "fast", "expected a number, found 'fast'"),
        ("training__learning_rate", True, "expected a number, found true"),
        ("training__learning_rate", None, "expected a number, found null"),
        ("training__learning_rate", [1e-3], "expected a number, found [0.001]"),
        ("training__learning_rate", float("nan"), "training.learning_rate: expected a"),
        ("training__learning_rate", float("inf"), "expected a finite number, found inf"),
        ("training__learning_rate", 0, "expected a value > 0, found 0"),
        ("training__learning_rate", 10**400, "expected a number that a computer can hold"),
        ("loss__l2", float("-inf"), "loss.l2: expected a"),
        ("loss__l2", float("nan"), "loss.l2: expected a"),
        ("model__units", True, "expected a whole number, found true"),
        ("model__units", 32.0, "expected a whole number, found 32.0"),
        ("model__units", "32", "expected a whole number, found '32'; write it without quotes: 32"),
        ("model__units", 4097, "expected a value <= 4096, found 4097"),
        ("model__units", None, "expected a whole number, found null"),
        ("model__bidirectional", 1, "expected true or false, found 1"),
        ("model__bidirectional", "true", "expected true or false, found 'true'"),
        ("model__cell", "GRU", "expected one of simple, gru, lstm, found 'GRU'"),
        ("model__cell", ["gru"], 'expected one of simple, gru, lstm, found ["gru"]'),
        ("training__patience", 0, "expected a value >= 1, found 0"),
        ("seed", -1, "expected a value >= 0, found -1"),
        ("seed", 2**31, "expected a value < 2147483648, found 2147483648"),
        ("data__features", "time", "data.features: expected a list, found 'time'"),
        ("data__features", [], "expected at least one entry, found []"),
        ("data__features", [3], "data.features[0]: expected a mapping of keys to values, found 3"),
        ("data__features", [None], "data.features[0]: expected a mapping of keys to values, found null"),
        ("data__features", ["time", "value", "time"], "data.features: 'time' is listed twice"),
        ("data__metadata", ["a", "a"], "data.metadata: 'a' is listed twice"),
        ("data__metadata", [""], "data.metadata[0]: expected text that is not empty, found ''"),
        ("data__path", 3, "data.path: expected text, found 3"),
        ("data__path", None, "expected either `path` (files that are there) or `simulation` (files to be made)"),
        ("data__simulation", {}, "found both"),
        ("split__train", 1, "expected a value < 1, found 1"),
        ("unknown", 1, ": unknown: unknown key (the keys here are experiment, seed, data"),
        ("modell", {}, ": modell: unknown key; did you mean 'model'?"),
    ],
)
def test_values_that_are_refused(refused: Refused, key: str, value: object, said: str) -> None:
    message = refused(**{key: value})
    assert said in message
    assert message.split("\n")[0].endswith("1 mistake; every key is explained in config/README.md")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/tmp/x", "", "x" * 65, ".hidden", "-rf", "a b", "a.b", "ä", "a\n", "a\0", "..", "~", "_a"]
)
def test_names_that_are_no_plain_folder_names(refused: Refused, name: str) -> None:
    assert ": experiment: expected a plain name of at most 64 letters, digits" in refused(experiment=name)


@pytest.mark.parametrize("name", config.RESERVED_NAMES)
def test_names_of_folders_that_experiments_share(refused: Refused, name: str) -> None:
    assert "holds what experiments share; choose another name" in refused(experiment=name)


@pytest.mark.parametrize("name", ["a", "A-1_b", "0", "x" * 64])
def test_plain_names(load: Load, name: str) -> None:
    assert load(experiment=name).experiment == name


# The task


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"classes": {"a": ["1"]}}, "task.classes: expected at least 2 classes to tell apart, found 1"),
        ({"classes": {}}, "expected at least 2 classes to tell apart, found 0"),
        ({"classes": {"a": ["1", "2"], "b": ["2"]}}, "task.classes: '2' named more than once"),
        ({"classes": {"a": ["1"], "b": [1]}}, "task.classes: '1' named more than once"),
        ({"classes": {"a": ["*"], "b": ["*"]}}, "task.classes: '*' named more than once"),
        ({"classes": {"a": ["1"], "b": ["2"]}, "exclude": ["2"]}, "task.exclude: '2' named more than once"),
        ({"exclude": ["x", "x"]}, "task.exclude: 'x' named more than once"),
        ({"exclude": ["*"]}, "task.exclude: '*' stands for the labels not named elsewhere, and only in a class"),
        ({"exclude": None}, "task.exclude: expected a list, found null"),
        ({"classes": {"a": [], "b": ["1"]}}, "task.classes.a: expected at least one entry"),
        ({"classes": {"a": [True], "b": ["1"]}}, "task.classes.a[0]: expected text, found true; put it in quotes"),
        ({"classes": {"a": [1.5], "b": ["1"]}}, "task.classes.a[0]: expected text, found 1.5; put it in quotes"),
        ({"classes": {"a": None, "b": ["1"]}}, "task.classes.a[0]: expected text, found null"),
        ({"classes": {"": ["2"], "b": ["1"]}}, "expected text that is not empty"),
        ({"classes": ["a", "b"]}, "task.classes: expected a mapping of keys to values"),
    ],
)
def test_tasks_that_are_refused(refused: Refused, task: dict[str, Any], said: str) -> None:
    assert said in refused(task=task)


def test_labels_and_class_names_are_text_as_written(load: Load) -> None:
    text = config.to_yaml({key: value for key, value in VALUES.items() if key != "task"})
    task = load(text + "task: {classes: {yes: [0, 1], no: 2, 3: ['*']}, exclude: [7, x]}\n").task
    assert task.classes == {"yes": ("0", "1"), "no": ("2",), "3": ("*",)}
    assert task.exclude == ("7", "x")


# The grid


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"model.cel": ["gru"]}, "grid.model.cel: unknown key; did you mean 'model.cell'?"),
        ({"cell": ["gru"]}, "grid.cell: unknown key"),
        ({"model": [{}]}, "grid.model: unknown key"),
        ({"data.path": ["a", "b"]}, "grid.data.path: a grid can't vary `data`"),
        ({"split.seed": [1]}, "grid.split.seed: a grid can't vary `split`"),
        ({"seed": [1, 2]}, "grid.seed: seeds are no grid key; write `seeds: 3` beside `grid`"),
        ({"seeds": [1, 2]}, "grid.seeds: seeds are no grid key"),
        ({"training.device": ["cpu", "gpu"]}, "grid.training.device: changes how a job runs, not what comes out"),
        ({"model.cell": []}, "grid.model.cell: an empty list makes a grid of no trials"),
        (
            {"model.cell": "gru"},
            "grid.model.cell: expected a list of values, or a range of `low`, `high` and `scale`, found 'gru'",
        ),
        (
            {"model.cell": None},
            "grid.model.cell: expected a list of values, or a range of `low`, `high` and `scale`, found null",
        ),
        ({"model.cell": {"gru": 1}}, "grid.model.cell: low: missing"),
        ({"model.cell": ["gru", "lstm", "gru"]}, "grid.model.cell[2]: 'gru' stands twice"),
        ({"loss.gamma": [1, 0, 1.0]}, "grid.loss.gamma[2]: 1.0 stands twice"),
        ({"loss.gamma": [0, -1]}, "grid.loss.gamma[1]: expected a value >= 0, found -1"),
        ({"loss.gamma": [0, "1"]}, "grid.loss.gamma[1]: expected a number, found '1'"),
        ({"loss.gamma": [0, [1]]}, "grid.loss.gamma[1]: expected a number, found [1]"),
        ({"loss.gamma": [0, {"a": 1}]}, "grid.loss.gamma[1]: expected a number"),
        ({"loss.gamma": [0, None]}, "grid.loss.gamma[1]: expected a number, found null"),
        ({"model.bidirectional": [True, 1]}, "grid.model.bidirectional[1]: expected true or false, found 1"),
        ({"model.units": [8, 16.0]}, "grid.model.units[1]: expected a whole number, found 16.0"),
        ({1: [1]}, "grid.1: unknown key"),
        (
            {"training.learning_rate": [n / 1e4 for n in range(1, 1001)], "model.units": list(range(1, 102))},
            "grid: 101,000 trials",
        ),
    ],
)
def test_grids_that_are_refused(refused: Refused, grid: dict[Any, Any], said: str) -> None:
    message = refused(grid=grid)
    assert said in message
    assert "1 mistake;" in message


RATE = {"low": 1e-4, "high": 1e-2, "scale": "log"}
DRAWN = {"strategy": "random", "points": 4}


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("training.learning_rate", {"low": 1e-4, "high": 1e-2}, "scale: missing; `log` for learning rates"),
        ("training.learning_rate", {**RATE, "scale": "lin"}, "scale: expected one of linear, log, found 'lin'"),
        ("training.learning_rate", {**RATE, "step": 1}, "step: unknown key"),
        ("training.learning_rate", {**RATE, "low": "1e-4"}, "low: expected a number, found '1e-4'"),
        ("training.learning_rate", {**RATE, "low": 0}, "`scale: log` wants a `low` above 0, found 0"),
        ("training.learning_rate", {**RATE, "low": -1, "scale": "linear"}, "low: expected a value > 0, found -1"),
        ("training.learning_rate", {**RATE, "low": 0.5}, "`low` must be less than `high`, found 0.5 and 0.01"),
        ("model.dropout", {**RATE, "high": 1}, "high: expected a value < 1, found 1"),
        ("model.units", {**RATE, "low": 1, "high": 8.5}, "takes whole numbers; found a range from 1 to 8.5"),
        ("model.cell", RATE, "takes no numbers, and a range is of numbers; give a list of values"),
        ("training.sequences", {**RATE, "low": 10, "high": 90}, "every number of sequences has statistics of its own"),
    ],
)
def test_ranges_that_are_refused(refused: Refused, key: str, values: dict[str, Any], said: str) -> None:
    message = refused(search=DRAWN, grid={key: values})
    assert f"grid.{key}: {said}" in message and "1 mistake;" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search": {"strategy": "gird"}}, "search.strategy: expected one of grid, random, sobol, found 'gird'"),
        ({"grid": {"training.learning_rate": RATE}}, "grid.training.learning_rate: a range has no combinations; set"),
        ({"search": {"points": 4}}, "search.points: is of `strategy: random` and `sobol`"),
        ({"search": {"strategy": "sobol"}, "grid": {"loss.gamma": [0, 1]}}, "search.points: missing; how many grid"),
        ({"search": DRAWN}, "search.strategy: draws from `grid`, which is empty"),
        ({"search": DRAWN, "grid": {"loss.gamma": [0, 1, 2]}}, "search.points: 4 grid points, and the lists of `grid`"),
        ({"search": {**DRAWN, "points": 0}}, "search.points: expected a value >= 1, found 0"),
        ({"search": {**DRAWN, "points": 200_000}, "grid": {"training.learning_rate": RATE}}, "grid: 200,000 trials"),
        (
            {"search": {"halving": {}}, "training__epochs": 9},
            "search.halving: there is one grid point, and nothing to choose among",
        ),
        (
            {"search": {"halving": {"rungs": 4}}, "grid": {"loss.gamma": [0, 1]}, "training__epochs": 20},
            "search.halving: 4 rungs with a `reduction` of 3 need at least 27 `training.epochs`, found 20",
        ),
        (
            {"search": {"halving": {}}, "grid": {"training.epochs": [10, 20]}},
            "grid.training.epochs: `search.halving` gives grid points their epochs",
        ),
        (
            {
                "search": {"halving": {}},
                "grid": {"loss.gamma": [0, 1]},
                "selection__metric": "plasticc_log_loss",
                "training__epochs": 20,
            },
            "search.halving: chooses by `selection.metric: plasticc_log_loss`, which training computes only where",
        ),
        ({"search": {"halving": {"reduction": 1}}}, "search.halving.reduction: expected a value >= 2, found 1"),
    ],
)
def test_searches_that_are_refused(refused: Refused, changes: dict[str, Any], said: str) -> None:
    message = refused(**changes)
    assert said in message and "1 mistake;" in message


def test_every_key_that_decides_a_trial_may_be_varied() -> None:
    sections = {
        "model": config.Model,
        "loss": config.Loss,
        "augmentation": config.Augmentation,
        "training": config.Training,
    }
    every = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}
    assert set(config.grid_keys()) == every - {f"training.{key}" for key in config.RUN_KEYS}
    assert set(config.TRACED_KEYS) <= {*config.grid_keys(), "seed"}


@pytest.mark.parametrize(
    "changes",
    [
        {"model__dense_depth": 0, "loss__l2": 0.1},
        {"model__dense_depth": 0, "grid": {"loss.l2": [0, 0.1]}},
        {"loss__l2": 0.1, "grid": {"model.dense_depth": [1, 0]}},
        {"grid": {"model.dense_depth": [1, 0], "loss.l2": [0, 0.1]}},
    ],
)
def test_a_penalty_on_a_layer_that_is_not_there(refused: Refused, changes: dict[str, Any]) -> None:
    assert "loss.l2: penalises the last dense layer, and with `model.dense_depth: 0` there is none" in refused(
        **changes
    )
    assert "4 mistakes" in refused(**changes, seed=-1, seeds=1, data__reader="x", experiment="a/b")


def test_no_dense_layers_and_no_penalty(load: Load) -> None:
    assert load(model__dense_depth=0, grid={"loss.l2": [0]}).model.dense_depth == 0
    assert load(model__dense_depth=0, loss__l2=1, grid={"loss.l2": [0], "model.dense_depth": [0, 1]})


# Losses, schedules and scores

TWO, THREE = {"a": ["0"], "b": ["1"]}, {"a": ["0"], "b": ["1"], "c": ["2"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task__classes": THREE, "loss__kind": "binary"},
            "loss.kind: `binary` tells two classes apart, and there are 3 (a, b, c); use `categorical`, or join",
        ),
        ({"task__classes": THREE, "grid": {"loss.kind": ["categorical", "binary"]}}, "grid.loss.kind: `binary` tells"),
        ({"selection__metric": "figure_of_merit"}, "selection.metric: `figure_of_merit` is of one class; name it as"),
        ({"training__monitor": "figure_of_merit"}, "training.monitor: `figure_of_merit` is of one class; name it as"),
        ({"grid": {"training.monitor": ["loss", "figure_of_merit"]}}, "grid.training.monitor: `figure_of_merit` is of"),
        (
            {"task__classes": TWO, "task__target": "bb"},
            "task.target: there is no class 'bb'; did you mean 'b'? (the classes are a, b)",
        ),
        (
            {"task__classes": TWO, "task__class_importance": {"a": 2, "z": 1}},
            "task.class_importance: there is no class",
        ),
        ({"task__class_importance": {"a": 0}}, "task.class_importance.a: expected a value > 0, found 0"),
        ({"task__class_importance": ["a"]}, "task.class_importance: expected a mapping of keys to values"),
        ({"task__target": 1}, "task.target: expected text, found 1"),
        ({"training__momentum": 0.9}, "training.momentum: is of `optimiser: sgd` and `rmsprop`; Adam has its own"),
        (
            {"grid": {"training.momentum": [0, 0.9], "training.optimiser": ["adam", "adamw"]}},
            "grid.training.momentum: is of `optimiser: sgd` and `rmsprop`",
        ),
        ({"training__warmup_epochs": 2}, "training.warmup_epochs: 2 epochs of warm-up leave none of 2 at the full"),
        (
            {"grid": {"training.warmup_epochs": [0, 1.5], "training.epochs": [1, 9]}},
            "grid.training.warmup_epochs: 1.5 epochs of warm-up leave none of 1",
        ),
        ({"loss__beta": 1}, "loss.beta: expected a value < 1, found 1"),
        ({"loss__label_smoothing": 1.0}, "loss.label_smoothing: expected a value < 1"),
        ({"training__momentum": 1}, "training.momentum: expected a value < 1"),
        ({"training__weight_decay": -1}, "training.weight_decay: expected a value >= 0"),
        ({"training__plateau_factor": 1}, "training.plateau_factor: expected a value < 1"),
        ({"training__plateau_patience": 0}, "training.plateau_patience: expected a value >= 1"),
        ({"training__optimiser": "adamm"}, "training.optimiser: expected one of adam, adamw, rmsprop, sgd"),
        ({"training__monitor": "auc"}, "training.monitor: expected one of loss, log_loss, accuracy, macro_f1"),
    ],
)
def test_losses_schedules_and_scores_that_fit_nothing(refused: Refused, changes: dict[str, Any], said: str) -> None:
    message = refused(**changes)
    assert said in message
    assert "1 mistake;" in message
    # beside others, too
    assert said in refused(**changes, seed=-1, data__reader="gotto")


def test_losses_schedules_and_scores_that_fit(load: Load) -> None:
    task = {"classes": TWO, "target": "b", "class_importance": {"a": 2}}
    experiment = load(
        task=task,
        loss__kind="binary",
        selection__metric="figure_of_merit",
        training__monitor="plasticc_log_loss",
        training__warmup_epochs=1,
        training__momentum=0.9,
        grid={
            "training.optimiser": ["adam", "sgd"],
            "loss.kind": ["binary", "categorical"],
            "training.warmup_epochs": [0, 1.9],
        },
    )
    assert experiment.task.importance(("b", "a")) == [1.0, 2.0]
    assert experiment.task.target_index(("a", "b")) == 1
    assert load(task={}).task.target_index(("a", "b")) is None
    assert [experiment.loss.outputs(2), load().loss.outputs(7)] == [1, 7]


# Simulated surveys


def test_a_simulation_stands_with_all_its_defaults(load: Load) -> None:
    data = {"reader": "simulated", "simulation": {}, "features": ["time"]}
    assert load(data=data).data.simulation == Simulation.model_validate({}).model_dump(mode="json")


def test_mistakes_in_a_simulation_are_reported_with_the_others(refused: Refused) -> None:
    data = {"reader": "simulated", "simulation": {"dayss": 3, "objects": {"agn": -1, "supernova": 1}}, "features": []}
    message = refused(data=data)
    assert "data.simulation.dayss: unknown key; did you mean 'days'?" in message
    assert "data.simulation.objects.agn: expected a value >= 0, found -1" in message
    assert "data.simulation.objects.variable_star: missing" in message
    assert "4 mistakes" in message


def test_a_simulation_goes_with_its_reader(refused: Refused) -> None:
    data = {"reader": "goto", "simulation": {}, "features": ["time"]}
    assert "data.simulation: `light_curves` goes with `reader: simulated`, not with 'goto'" in refused(data=data)
    data["simulation"] = {"kind": "clips"}
    assert "data.simulation: `clips` goes with `reader: hdf5`, not with 'goto'" in refused(data=data)
    data["simulation"] = {"kind": "clip"}
    said = "data.simulation.kind: expected one of light_curves, clips, waves, found 'clip'; did you mean 'clips'?"
    assert said in refused(data=data)
    subjects = {"kind": "clips", "subjects": 5, "train_subjects": 5}
    data = {"reader": "hdf5", "options": {"features": "bold"}, "simulation": subjects, "features": ["time"]}
    assert "5 of 5 subjects leave none to test" in refused(data=data)


STEPWISE = {"data": {"reader": "goto", "path": "folder", "features": ["value"]}, "task": {"kind": "step"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"decoder": {}}}, "model.decoder: names a label for each step, and `task.kind: sequence` wants one"),
        (
            {"model": {"decoder": {"attentoin": "dot"}}},
            "model.decoder.attentoin: unknown key; did you mean 'attention'",
        ),
        ({"model": {"decoder": "dot"}}, "model.decoder: expected a mapping of keys to values, found 'dot'"),
        (
            {**STEPWISE, "model": {"units": 8, "dense_depth": 0, "decoder": {"attention": "dot", "units": 16}}},
            "model.decoder.units: dot attention compares the decoder's state of 16 units with what",
        ),
        (
            {**STEPWISE, "grid": {"model.decoder": [None, {"attention": "dot"}, {}]}},
            "grid.model.decoder[1].units: dot attention compares the decoder's state of 32 units with what dense 1",
        ),
        ({**STEPWISE, "grid": {"model.decoder": [{}, {"units": 32}]}}, 'grid.model.decoder[1]: {"units": 32} stands'),
        ({**STEPWISE, "loss": {"kind": "binary"}, "model": {"decoder": {}}}, "loss.kind: `binary` has one output, and"),
        ({"training": {"teacher_share": 1}}, "training.teacher_share: teaches a decoder, and there is no `model.dec"),
        ({"grid": {"training.teacher_schedule": ["linear"]}}, "grid.training.teacher_schedule: teaches a decoder"),
        (
            {"task": {"kind": "prefix"}, "model": {"decoder": {"look_ahead": False}}},
            "training.teacher_share: with `task.kind: prefix` every step has the label of the whole, so that a decoder",
        ),
        (
            {"task": {"kind": "prefix"}, "model": {"decoder": {}}, "training": {"teacher_share": 0}},
            "model.decoder.look_ahead: decoder attends to later steps, so that what `task.kind: prefix` predicts",
        ),
    ],
)
def test_decoders_and_teachers_that_fit_nothing(refused: Refused, changes: dict[str, Any], said: str) -> None:
    message = refused(**changes)
    assert said in message and "1 mistake;" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({**STEPWISE, "model": {"pooling": "mean"}}, "model.pooling: makes one vector of the steps, and `task.kind`"),
        ({**STEPWISE, "grid": {"model.pooling": ["last", "max"]}}, "grid.model.pooling: makes one vector of the steps"),
        (
            {"model": {"layers": ["gru", "pool"]}, "grid": {"model.dropout": [0, 0.5]}},
            "grid.model.dropout: trials would be the same but for their names, as no layer of `model.layers` takes its",
        ),
        (
            {
                "model": {"layers": ["gru", {"layer": "dropout", "rate": 0.1}, "pool"]},
                "grid": {"model.dropout": [0, 0.5]},
            },
            "grid.model.dropout: trials would be the same",
        ),
        (
            {"model": {"layers": ["conv", "dropout", "pool"]}, "grid": {"model.recurrent_dropout": [0, 0.5]}},
            "grid.model.recurrent_dropout: trials would be the same",
        ),
    ],
)
def test_keys_without_effect_are_refused(refused: Refused, changes: dict[str, Any], said: str) -> None:
    message = refused(**changes)
    assert said in message and "1 mistake;" in message


def test_rates_that_a_layer_takes_may_vary(load: Load) -> None:
    inner = {"layer": "residual", "layers": ["dropout", {"layer": "dense", "units": 1}]}
    assert load(model={"layers": ["gru", inner, "pool"]}, grid={"model.dropout": [0, 0.5]})
    assert load(model={"layers": ["gru", "pool"]}, grid={"model.recurrent_dropout": [0, 0.5]})


def test_decoders_that_fit(load: Load) -> None:
    """Dot attention straight to the inputs, as wide as the survey says; and of prefixes, which none teaches."""
    straight = {"layers": ["batch_norm"], "decoder": {"attention": "dot", "units": 3}}
    assert load(**STEPWISE, model=straight).model.decoder
    causal = {"decoder": {"look_ahead": False}}
    assert load(task={"kind": "prefix"}, model=causal, training={"teacher_share": 0}).model.decoder


def test_simulation_files(tmp_path: Path) -> None:
    alone = tmp_path / "survey.yaml"
    alone.write_text("days: 300\n")
    assert config.load_simulation(alone) == Simulation.model_validate({"days": 300})
    alone.write_text("dayss: 300\n")
    with pytest.raises(JaxrnnError, match="line 1: dayss: unknown key; did you mean 'days'"):
        config.load_simulation(alone)
    data = {"reader": "simulated", "simulation": {"days": 300}, "features": ["time"]}
    whole = surveys.write_experiment(tmp_path / "whole.yaml", {**VALUES, "data": data})
    assert config.load_simulation(whole) == Simulation.model_validate({"days": 300})
    with pytest.raises(JaxrnnError, match=r"has no data\.simulation; there is nothing to simulate"):
        config.load_simulation(surveys.write_experiment(tmp_path / "files.yaml", VALUES))
    nameless = {key: value for key, value in VALUES.items() if key != "experiment"}
    with pytest.raises(JaxrnnError, match="experiment: missing"):
        config.load_simulation(surveys.write_experiment(tmp_path / "nameless.yaml", nameless))


# After loading


def test_loaded_values_do_not_change(load: Load) -> None:
    experiment = load(task={"classes": {"a": ["0"], "b": ["1"]}}, grid={"model.units": [3, 4]})
    sections = [experiment, *(value for _, value in experiment if isinstance(value, config.Section))]
    assert len(sections) == 10
    for section in [*sections, *experiment.data.features]:
        for key in type(section).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, key, getattr(section, key))
    assert isinstance(experiment.grid["model.units"], tuple)


def test_what_is_loaded_is_what_stands_in_the_file(load: Load) -> None:
    experiment = load(grid={"model.units": [3, 4]}, training__learning_rate=2e-5)
    written = experiment.model_dump(mode="json")
    assert written["training"]["learning_rate"] == 2e-5
    assert load(config.to_yaml(written)) == experiment


@pytest.mark.parametrize(
    "label", ["1e5", "0", "yes", "null", "1.5", "2020-01-01", "~", "<<", "*", "ä", "a: b", "#", ".inf", "0x1"]
)
def test_text_that_looks_like_something_else_stays_text(load: Load, label: str) -> None:
    experiment = load(task={"classes": {label: [label], "other": ["rest"]}})
    assert experiment.task.classes == {label: (label,), "other": ("rest",)}
    assert load(config.to_yaml(experiment.model_dump(mode="json"))) == experiment


def test_the_text_of_a_digest_is_fixed() -> None:
    assert config.digest({"b": [1, 2.5, None, "ä"], "a": True}) == config.digest({"a": True, "b": [1, 2.5, None, "ä"]})
    assert config.digest({"b": [1, 2.5, None, "ä"], "a": True}) == "2fbfdc84e834"
    assert config.digest(1) != config.digest(1.0)


# Anything at all

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["gru", "*", "1e-4", "../x", "goto", "simulated", 2**70, -1, 10**400, "time"])
)
keys = (
    st.text(max_size=6)
    | st.integers(-3, 3)
    | st.sampled_from(["name", "a", "units", "model.cell", "loss.l2", "data.x"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
RICH = {
    **surveys.changed(VALUES, data__metadata=["context_0"], grid={"model.cell": ["gru", "lstm"], "loss.l2": [0, 0.1]}),
    "task": {"classes": {"a": ["0"], "b": ["*"]}, "exclude": ["9"]},
    "seeds": 2,
}
SIMULATED = {
    **RICH,
    "data": {
        "reader": "simulated",
        "simulation": {"objects": {"agn": 3, "supernova": 1, "variable_star": 1}},
        "features": ["time", {"name": "flux", "scaling": "asinh"}],
    },
}


@st.composite
def mutated(draw: st.DrawFn) -> dict[Any, Any]:
    """Draws a valid experiment in which up to three values or keys are replaced, added or taken out."""
    values: dict[Any, Any] = copy.deepcopy(draw(st.sampled_from([RICH, SIMULATED])))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = values
        while True:
            inner = [
                entry
                for entry in (place.values() if isinstance(place, dict) else place)
                if entry and isinstance(entry, dict | list)
            ]
            if not inner or draw(st.booleans()):
                break
            place = draw(st.sampled_from(inner))
        present = list(place) if isinstance(place, dict) else list(range(len(place)))
        action = draw(st.sampled_from(["replace", "add", "remove"])) if present else "add"
        if action == "remove":
            del place[draw(st.sampled_from(present))]
        elif action == "replace":
            place[draw(st.sampled_from(present))] = draw(anything)
        elif isinstance(place, dict):
            place[draw(keys)] = draw(anything)
        else:
            place.append(draw(anything))
    return values


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(values=mutated())
def test_any_file_is_an_experiment_or_a_message(tmp_path: Path, values: dict[Any, Any]) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(config.to_yaml(values).encode("utf-8", "surrogatepass"))
    try:
        experiment = config.load(file)
    except JaxrnnError as error:
        message = str(error)
    else:
        message = f"{file}: loaded"
        file.write_text(config.to_yaml(experiment.model_dump(mode="json")))
        assert config.load(file) == experiment
    assert message.startswith(f"{file}:")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("a: -\n\t{}[]'\"&*!#|>%@`?,1e.<~é\0"), max_size=40)
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
def test_any_text_is_an_experiment_or_a_message(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(JaxrnnError):
        config.load(file)


# Lists of layers


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (["gro", "pool"], "model.layers[0]: there is no layer 'gro'; did you mean 'gru'? (the layers are input_norm"),
        ([{"layer": "conv1d"}], "model.layers[0]: there is no layer 'conv1d'; did you mean 'conv'?"),
        ([{"units": 3}], "model.layers[0]: `layer` is missing, the kind of layer (the layers are input_normalisation"),
        ([3], "model.layers[0]: expected a layer's name, or a mapping with `layer`, found 3"),
        ([["gru"]], 'model.layers[0]: expected a layer\'s name, or a mapping with `layer`, found ["gru"]'),
        ([None], "model.layers[0]: expected a layer's name, or a mapping with `layer`, found null"),
        ([], "model.layers: expected at least one entry, found []"),
        (["gru"] * 257, "model.layers: expected at most 256 entries, found 257"),
        ("gru", "model.layers: expected a list, found 'gru'"),
        ({"layer": "gru"}, "model.layers: expected a list, found {"),
        (
            [{"layer": "gru", "unitts": 3}],
            "model.layers[0].unitts: unknown key; did you mean 'units'? (the keys here are",
        ),
        (
            [{"layer": "dense", "kernel": 3}],
            "model.layers[0].kernel: unknown key (the keys here are layer, units, activ",
        ),
        (["gru", {"layer": "pool", "kind": "sum"}], "model.layers[1].kind: expected one of last, mean, max, attention"),
        ([{"layer": "conv", "stride": 0}], "model.layers[0].stride: expected a value >= 1, found 0"),
        ([{"layer": "dropout", "rate": 1}], "model.layers[0].rate: expected a value < 1, found 1"),
        (
            [{"layer": "dense", "units": "3"}],
            "model.layers[0].units: expected a whole number, found '3'; write it with",
        ),
        (["gru", "flatten"], "model.layers[1].steps: missing"),
        (["residual"], "model.layers[0].layers: missing"),
        ([{"layer": "residual", "layers": ["gro"]}], "model.layers[0].layers[0]: there is no layer 'gro'"),
        ([{"layer": "residual", "layers": [{"layer": "gru", "a": 1}]}], "model.layers[0].layers[0].a: unknown key"),
        # what fits no other layer
        (["gru"], "model.layers: the list ends with steps, and the task wants one answer a sequence"),
        (["pool", "gru"], "model.layers[1]: gru takes steps, and model.layers[0] (pool) makes one vector of them"),
        (
            ["gru", "pool", "metadata"],
            "model.layers[2]: metadata joins the metadata, and `data.metadata` names no column",
        ),
        (["pool", {"layer": "residual", "layers": ["dense", "conv"]}], "model.layers[1].layers[1]: conv takes steps"),
    ],
)
def test_lists_of_layers_that_are_refused(refused: Refused, listed: Any, said: str) -> None:
    for message, place in (
        (refused(model={"layers": listed}), "model.layers"),
        (refused(model={}, grid={"model.layers": [["pool"], listed]}), "grid.model.layers[1]"),
    ):
        assert said.replace("model.layers", place, 1) in message
        assert message.split("\n")[0].endswith("1 mistake; every key is explained in config/README.md")


def test_a_faulty_layer_is_named_by_its_line(refused: Refused) -> None:
    model = "model:\n  layers:\n  - gru\n  - layer: conv\n    kernel: 0\n  - pool\n"
    text = config.to_yaml({key: value for key, value in VALUES.items() if key != "model"})
    line = len(text.splitlines()) + 5
    assert f"line {line}: model.layers[1].kernel: expected a value >= 1, found 0" in refused(text + model)


FAMILY = "the list says what the network is, and so does"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"layers": ["pool"], "units": 3, "cell": "lstm"}}, f"model.layers: {FAMILY} `cell`, `units`; leave"),
        ({"model": {"layers": ["pool"]}, "grid": {"model.units": [3, 4]}}, f"grid.model.units: {FAMILY} `units`"),
        ({"model": {"units": 3}, "grid": {"model.layers": [["pool"]]}}, f"model.units: {FAMILY} `units`"),
        ({"model": {}, "grid": {"model.layers": [None, ["pool"]], "model.depth": [1]}}, f"grid.model.depth: {FAMILY}"),
        (
            {"model": {}, "grid": {"model.layers": [["gru", "pool"], ["pool"], ["gru", {"layer": "pool"}]]}},
            "stands twice",
        ),
        (
            {"model": {"layers": ["pool"]}, "loss__l2": 0.1},
            "loss.l2: penalises the last dense layer, and `model.layers`",
        ),
        (
            {"model": {}, "grid": {"model.layers": [["pool", "dense"], ["pool"]], "loss.l2": [0, 1]}},
            "`model.layers` has",
        ),
        ({"model": {"dense_depth": 0}, "loss__l2": 0.1}, "with `model.dense_depth: 0` there is none"),
    ],
)
def test_a_list_and_a_family_are_not_mixed(refused: Refused, changes: dict[str, Any], said: str) -> None:
    message = refused(**changes)
    assert said in message and "1 mistake;" in message


def test_lists_of_layers_load(load: Load) -> None:
    inner = {"layer": "residual", "layers": ["dropout", {"layer": "dense", "units": 5}]}
    listed = ["gru", inner, {"layer": "pool", "kind": "attention"}]
    model = {"layers": listed, "dropout": 0.4, "recurrent_dropout": 0.1, "units": 32}
    experiment = load(model=model, loss__l2=0.1)
    assert [type(layer) for layer in experiment.model.layers or ()] == [
        config.RecurrentLayer,
        config.ResidualLayer,
        config.PoolLayer,
    ]
    written = experiment.model_dump(mode="json")
    assert load(config.to_yaml(written)) == experiment
    assert hash(experiment.model) == hash(load(config.to_yaml(written)).model)
    grid = {"model.layers": [None, listed, ["pool", "dense"]], "model.dropout": [0, 0.5]}
    assert load(model={}, grid=grid).grid["model.layers"] == (None, listed, ["pool", "dense"])
