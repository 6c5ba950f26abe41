"""config/README.md and config/schema.json say what the program does."""

import importlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import surveys
import yaml
from jsonschema import Draft202012Validator

from jaxrnn import catalogue, clips, config, plan, readers, simulate
from jaxrnn.waves import Waves

CONFIG = Path(__file__).parent.parent / "config"
README = (CONFIG / "README.md").read_text(encoding="utf-8")


def test_every_key_is_explained_as_the_program_has_it() -> None:
    assert README.endswith(f"\n\n{config.tables()}\n{catalogue.tables()}"), (
        "run `jaxrnn schema --tables` and replace the end of config/README.md"
    )


def test_the_tables_have_every_key_with_unit_and_reason() -> None:
    tables = config.tables()
    sections = (config.Experiment, config.Data, config.Feature, config.Split, config.Task, config.Model, config.Loss)
    sections += (config.Training, config.Selection, simulate.Simulation, simulate.Objects, config.Augmentation, Waves)
    sections += (config.Detection, config.Cuts, config.FlagCut, config.Window, config.SigmaClip, config.Early)
    sections += (config.Decoder, clips.Clips, config.Search, config.Halving, config.Range, config.Predict, config.Audit)
    sections += get_args(config.Layer)
    # `layer` itself stands in the headings of the layers
    keys = [f"\n| `{key}` |" for section in sections for key in section.model_fields if key != "layer"]
    assert all(key in tables for key in keys)
    assert tables.count("\n| `") == len(keys)
    assert all(f"`{kind}`" in tables for kind in config.LAYER_KINDS)
    for section in sections:
        for key, field in section.model_fields.items():
            if key == "layer":
                continue
            inner = getattr(field.annotation, "__doc__", "") if field.description is None else field.description
            assert len(inner or "") > 15, key


def test_defaults_in_the_tables_are_those_of_the_models() -> None:
    tables = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^###|\Z)", config.tables(), flags=re.MULTILINE | re.DOTALL))
    row = r"^\| `(\w+)` \|.*?\| (`[^|]*`|\(required\)|see below) \|"
    for name in ("model", "loss", "training", "selection"):
        rows = dict(re.findall(row, tables[name], flags=re.MULTILINE))
        for key, default in getattr(config, name.title())().model_dump(mode="json").items():
            assert yaml.safe_load(rows[key].strip("`")) == default, key


def test_the_schema_file_is_what_the_command_prints() -> None:
    assert json.loads((CONFIG / "schema.json").read_text()) == config.schema(), (
        "run `jaxrnn schema > config/schema.json`"
    )


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_experiments_load_and_fit_the_schema(file: Path) -> None:
    plan.make(config.load(file))
    Draft202012Validator(config.schema()).validate(config.read_yaml(file))


def test_there_are_shipped_experiments() -> None:
    assert {file.stem for file in CONFIG.glob("*.yaml")} >= {"goto"}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "units", 0),
        ("model", "unit", 3),
        ("training", "learning_rate", "1e-4"),
        ("training", "learning_rate", 0),
        ("loss", "gamma", 11),
        ("model", "layers", ["gro"]),
        ("model", "layers", ["flatten"]),
        ("model", "layers", []),
        ("model", "layers", [{"units": 3}]),
        ("model", "layers", [{"layer": "gru", "filters": 3}]),
        ("model", "layers", [{"layer": "residual", "layers": [{"layer": "conv", "kernel": 0}]}]),
        ("grid", "model.layers", ["gru"]),
        ("data", "reader", "gotto"),
        ("data", "simulation", {"dayss": 3}),
        ("data", "simulation", {"kind": "clips", "days": 300}),
        ("model", "decoder", {"attention": "dott"}),
        ("training", "teacher_schedule", "cosine"),
        ("grid", "model.cell", ["gro"]),
        ("grid", "model.cell", []),
        ("grid", "data.path", ["a"]),
    ],
)
def test_the_schema_shows_editors_what_loading_refuses(section: str, key: str, value: Any) -> None:
    values = surveys.experiment_values("goto", "folder")
    schema = Draft202012Validator(config.schema())
    schema.validate(values)
    assert not schema.is_valid({**values, section: {**values[section], key: value}})


def test_the_schema_knows_lists_of_layers() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    example = yaml.safe_load(next(block for block in blocks if "layers:" in block))
    schema = Draft202012Validator(config.schema())
    values = surveys.experiment_values("goto", "folder")
    values["data"]["metadata"] = ["context_0"]
    nested = ["gru", {"layer": "residual", "layers": ["dense", {"layer": "dropout", "rate": None}]}, "pool"]
    for model in (example["model"], {"layers": nested}, {"layers": None}):
        schema.validate({**values, "model": model})
        assert config.Experiment.model_validate({**values, "model": model})
    schema.validate({**values, "model": {}, "grid": {"model.layers": [nested, ["pool"]]}})


def test_the_example_is_complete_and_makes_the_trials_that_the_text_says(tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[0]
    file = tmp_path / "stars.yaml"
    file.write_text(example)
    made = plan.make(config.load(file))
    assert (len(made.trials), [job.name for job in made.jobs]) == (18, ["cell-gru-1", "cell-lstm-1"])
    assert "cell-gru_learning_rate-0.001_seed-1" in [trial.id for trial in made.trials]
    for text in (
        "2 x 3 points and 18 trials",
        "`cell-gru-1` and\n`cell-lstm-1`",
        "`cell-gru_learning_rate-0.001_seed-1`",
    ):
        assert text in README
    Draft202012Validator(config.schema()).validate(config.read_yaml(file))


def test_traced_and_run_keys_are_named() -> None:
    prose = README.partition("## Every key")[0]
    for key in (
        *config.TRACED_KEYS,
        *(f"training.{key}" for key in config.RUN_KEYS),
        *config.REQUIRED,
        *config.OPTIONAL,
    ):
        assert f"`{key}`" in prose or key == "seed", key


def test_every_reader_is_described_with_its_columns(tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", README.partition("## Every key")[0], flags=re.MULTILINE))
    assert list(rows) == list(readers.READERS)
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        sample = importlib.import_module(f"samples.{name}").write(tmp_path / name, np.random.default_rng(0))
        survey = readers.open_reader(name, sample.path, sample.options).describe()
        if "*any*" in row:
            continue  # named by the user
        for column in (*survey.columns[:3], *survey.metadata):
            assert f"`{column.name}`" in row and (not column.unit or f"({column.unit})" in row), column
        bands = row.rpartition("| ")[2]
        told = survey.passbands and bands.startswith((", ".join(survey.passbands), "as the", "*declared*", "those"))
        assert told or (not survey.passbands and bands == "none |"), name
