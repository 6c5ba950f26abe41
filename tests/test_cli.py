"""The `jaxrnn` command: help, messages and exit codes."""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import surveys
from commands import assert_whole, jaxrnn, refused

import jaxrnn as package
from jaxrnn import catalogue, config
from jaxrnn.errors import Interrupted, JaxrnnError

COMMANDS = ("simulate", "ingest", "describe", "split", "plan", "train", "aggregate", "report", "status", "doctor")
COMMANDS += ("schema",)
ROOT = Path(__file__).parent.parent


def small_experiment(folder: Path) -> Path:
    survey = surveys.write_goto(folder / "survey", surveys.goto_arrays())
    return surveys.write_experiment(folder / "tiny.yaml", surveys.experiment_values("goto", survey))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Returns the file of a small experiment whose survey is there."""
    return small_experiment(tmp_path)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_says_what_a_command_does_with_an_example(command: tuple[str, ...]) -> None:
    code, text, messages = jaxrnn(*command, "--help")
    assert (code, messages) == (0, "")
    assert "..." not in re.sub(r"\[(ARGS|names)\]\.\.\.|^  names\.\.\.", "", text, flags=re.MULTILINE)
    examples = [
        line.strip() for line in text.splitlines() if line.startswith(("    jaxrnn ", "    mpirun ", "    snakemake "))
    ]
    assert examples
    if command:
        assert f"jaxrnn {command[0]}" in examples[0]
        for line in examples:
            options = [word for word in line.partition(f"jaxrnn {command[0]}")[2].split() if word.startswith("--")]
            assert all(option in text.partition("Example")[0] for option in options)
    else:
        assert all(f"\n  {name}" in text for name in COMMANDS)


def test_help_and_mistakes_answer_before_anything_heavy_is_imported(experiment: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests'); from commands import jaxrnn, refused\n"
        f"for name in {COMMANDS}: assert jaxrnn(name, '--help')[0] == 0\n"
        "assert jaxrnn('plan', '--config')[0] == 2\n"
        # `commands` itself imports h5py, and so numpy
        "heavy = {'jax', 'flax', 'optax', 'pandas', 'scipy', 'sklearn', 'altair', 'mpi4py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert \"no job's config\" in refused('train', '--config', {str(experiment)!r})\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["jaxrnn"] == "jaxrnn.cli:main"
    called = [sys.executable, "-m", "jaxrnn", "plan", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(called, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"jaxrnn: {tmp_path / 'none.yaml'}: no such file\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Usage: jaxrnn"),
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (("plan", "--confg", "x"), "No such option: --confg"),
        (("plan", "--confg", "x"), "--config"),
        (("plan",), "Missing option '--config'"),
        (("plan", "--config"), "requires an argument"),
        (("plan", "--config", "x", "y"), "unexpected extra argument"),
        (("ingest", "--config", "x", "--ranks", "0"), "Invalid value for '--ranks'"),
        (("ingest", "--config", "x", "--ranks", "two"), "Invalid value for '--ranks'"),
    ],
)
def test_what_the_command_line_refuses(arguments: tuple[str, ...], said: str) -> None:
    code, output, messages = jaxrnn(*arguments)
    assert code == 2
    assert said in output + messages
    assert "Traceback" not in messages


def test_version() -> None:
    assert jaxrnn("--version") == (0, f"jaxrnn {package.__version__}\n", "")


def test_schema_and_tables() -> None:
    code, output, messages = jaxrnn("schema")
    assert (code, messages) == (0, "")
    assert json.loads(output) == config.schema()
    assert jaxrnn("schema", "--tables") == (0, f"{config.tables()}\n{catalogue.tables()}\n", "")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (JaxrnnError("what is wrong"), 2, "jaxrnn: what is wrong\n"),
        (Interrupted("stopped; the checkpoint is written"), 130, "jaxrnn: stopped; the checkpoint is written\n"),
        (KeyboardInterrupt(), 130, "jaxrnn: interrupted; the same command goes on\n"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "jaxrnn: a/b: Permission denied\n"),
        (OSError(28, "No space left on device", "a/b"), 2, "jaxrnn: a/b: No space left on device\n"),
        (NotADirectoryError(20, "Not a directory", "a/b"), 2, "jaxrnn: a/b: Not a directory\n"),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str) -> None:
    def fail(path: Path) -> None:
        raise raised

    monkeypatch.setattr(config, "load", fail)
    assert jaxrnn("plan", "--config", "x") == (code, "", said)


@pytest.mark.parametrize("raised", [ValueError("a bug"), FileNotFoundError(2, "No such file", "a"), OSError("a bug")])
def test_bugs_are_not_dressed_up_as_mistakes_of_the_user(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    def fail(path: Path) -> None:
        raise raised

    monkeypatch.setattr(config, "load", fail)
    with pytest.raises(type(raised)):
        jaxrnn("plan", "--config", "x")


def test_the_path_from_files_to_jobs(experiment: Path, tmp_path: Path) -> None:
    at = ("--config", experiment, "--results", tmp_path / "results")
    for command, said in {
        "ingest": "24 of 24 objects and 104 of 104 observations are in ",
        "split": "training has 6 0, 6 1",
        "plan": "1 grid point: 1 trial in 1 job",
    }.items():
        code, output, messages = jaxrnn(command, *at)
        assert (code, output) == (0, "")
        assert said in messages
    assert_whole(tmp_path / "results")


@pytest.mark.parametrize("command", ["split", "train", "aggregate", "report"])
def test_a_step_that_comes_too_early_names_the_one_before(experiment: Path, tmp_path: Path, command: str) -> None:
    results = tmp_path / "results"
    file = experiment
    if command == "train":
        jaxrnn("plan", "--config", experiment, "--results", results)
        file = results / "tiny" / "jobs" / "all-1" / "config.yaml"
    before = sorted(tmp_path.rglob("*"))
    message = refused(command, "--config", file, "--results", results)
    assert "run `jaxrnn " in message
    # a job says how it ended
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "progress.json"] == before


@contextmanager
def unprivileged() -> Iterator[None]:
    """Gives up root's right to read and write everything, where the tests have it."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("place", "mode", "command"),
    [
        ("tiny.yaml", 0, "plan"),
        ("survey", 0, "ingest"),
        ("survey/train_labels.npy", 0, "ingest"),
        ("results", 0o555, "plan"),
        ("results", 0o555, "ingest"),
    ],
)
def test_what_may_not_be_read_or_written(place: str, mode: int, command: str) -> None:
    # not in tmp_path, whose parents are root's alone
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = small_experiment(folder)
        jaxrnn("ingest", "--config", file, "--results", folder / "elsewhere")  # what it imports may need rights
        (folder / "results").mkdir()
        before = (folder / place).stat().st_mode
        (folder / place).chmod(mode)
        with unprivileged():
            message = refused(command, "--config", file, "--results", folder / "results")
        (folder / place).chmod(before)
        assert "Permission denied" in message
        assert str(folder / place) in message
        assert list((folder / "results").iterdir()) == []


def test_results_where_a_file_is(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    for command in ("plan", "ingest"):
        assert str(tmp_path / "results") in refused(command, "--config", experiment, "--results", tmp_path / "results")
    assert (tmp_path / "results").read_text() == "a file"
