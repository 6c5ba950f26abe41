"""config/README.md and config/schema.json say what the program does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import surveys
import yaml
from jsonschema import Draft202012Validator

from jaxrnn import config, plan, readers, simulate
from jaxrnn.results import Results

CONFIG = Path(__file__).parent.parent / "config"
README = (CONFIG / "README.md").read_text(encoding="utf-8")


def test_every_key_is_explained_as_the_program_has_it() -> None:
    assert README.endswith("\n\n" + config.tables()), (
        "run `jaxrnn schema --tables` and replace the end of config/README.md"
    )


def test_the_tables_have_every_key_with_unit_and_reason() -> None:
    tables = config.tables()
    sections = (config.Experiment, config.Data, config.Feature, config.Split, config.Task, config.Model, config.Loss)
    sections += (config.Training, config.Selection, simulate.Simulation, simulate.Objects)
    keys = [f"\n| `{key}` |" for section in sections for key in section.model_fields]
    assert all(key in tables for key in keys)
    assert tables.count("\n| `") == len(keys)
    for section in sections:
        for key, field in section.model_fields.items():
            inner = getattr(field.annotation, "__doc__", "") if field.description is None else field.description
            assert len(inner or "") > 15, key


def test_defaults_in_the_tables_are_those_of_the_models() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \|.*?\| (`[^|]*`|\(required\)|see below) \|", config.tables(), flags=re.MULTILINE)
    )
    for section in (config.Model(), config.Loss(), config.Training(), config.Selection()):
        for key, default in section.model_dump(mode="json").items():
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
        ("data", "reader", "gotto"),
        ("data", "simulation", {"dayss": 3}),
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


def test_the_example_is_complete_and_makes_the_trials_that_the_text_says(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
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
    assert set(rows) == set(readers.READERS)
    simulation = simulate.Simulation.model_validate({"objects": {"variable_star": 2, "supernova": 0, "agn": 0}})
    folder = Results(tmp_path).survey("made")
    simulate.simulate(simulation, folder, 0, 1, lambda done, total: None)
    simulate.finish(simulation, folder)
    paths = {
        "goto": surveys.write_goto(tmp_path / "goto", surveys.goto_arrays()),
        "spcc": surveys.write_spcc(tmp_path / "spcc", *surveys.spcc_tables()),
        "simulated": folder,
    }
    for name, path in paths.items():
        survey = readers.open_reader(name, path).describe()
        columns = [*survey.columns, *survey.metadata]
        assert all(f"`{column.name}`" in rows[name] and column.unit in rows[name] for column in columns), name
        assert survey.time_unit == "days"
        assert bool(survey.passbands) == (not rows[name].endswith("| none |"))
