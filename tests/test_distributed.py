"""Processes that train one network together come to what one process comes to, and end together, whatever ends them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import assert_whole, refused
from experiments import prepared, read_predictions, write_arrays, write_config
from test_ingest import MPIRUN, needs_mpi

from jaxrnn import bundles, config, jobs, plan
from jaxrnn.distributed import Node, own_cores, own_gpus
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results

# A process whose others are gone ends soon, where it would wait a minute; segments begin with one step.
COMMAND = """
from jaxrnn import cli, distributed, jobs, ranks
ranks.PATIENCE_SECONDS, distributed.LOST_SECONDS, jobs.FIRST_SEGMENT_STEPS = 2.0, 10, 1
cli.main()
"""
# What is compiled takes most of the time; test_shares.py has every kind of layer.
LAYERS: list[Any] = [
    "batch_norm",
    {"layer": "gru", "units": 3, "bidirectional": True},
    {"layer": "dropout"},
    {"layer": "pool", "kind": "last"},
]
# 20 steps, in which rounding has not grown yet
SETTINGS: dict[str, Any] = {
    "model": {"layers": LAYERS, "dropout": 0.3},
    "loss": {"l2": 0.0},
    "grid": {"loss.gamma": [0, 1]},
    "training__epochs": 2,
    "training__length_buckets": 1,
    "training__segment_seconds": 1e-6,
}


class Experiment:
    """A planned experiment of one job, copied for each way to train it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        write_arrays(folder / "survey", objects=160)
        _, self.at, self.made = prepared(folder, **SETTINGS | changes)
        self.job = self.made.jobs[0].name

    def copied(self, folder: Path) -> Results:
        shutil.copytree(self.at.root, folder)
        return Results(folder)

    def start(self, at: Results, processes: int, *launcher: str, minutes: float = 5.0) -> "subprocess.Popen[str]":
        """Starts the job as so many processes of one core each; minutes: between checkpoints."""
        path = at.job("tiny", self.job) / "config.yaml"
        values = config.read_yaml(path)
        values["training"] |= {"processes": processes, "checkpoint_minutes": minutes}
        path.write_text(config.to_yaml(values))
        command = [str(MPIRUN), *launcher, "-n", str(processes), sys.executable, "-c", COMMAND, "train"]
        command += ["--config", str(path), "--results", str(at.root)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, process_group=0)

    def arrays(self, at: Results) -> dict[str, np.ndarray]:
        """Returns the parameters, histories and predictions of a trained job."""
        folder = at.job("tiny", self.job)
        found = {
            f"{path.stem}/{name}": a
            for path in (folder / "models").iterdir()
            for name, a in bundles.read_arrays(path).items()
        }
        history = pd.read_csv(folder / "history.csv").drop(columns="trial")
        found |= {name: history[name].to_numpy() for name in history}
        for split, entry in read_predictions(folder / "predictions.h5")[0].items():
            found |= {f"{split}/{trial}": values for trial, values in entry.probabilities.items()}
        return found


def ended(run: "subprocess.Popen[str]") -> tuple[int, str]:
    """Returns the exit code and messages of a run, once it has ended."""
    _, messages = run.communicate(timeout=100)
    return run.returncode, messages


def member(run: "subprocess.Popen[str]", rank: int) -> int:
    """Returns the id of a launcher's process of that rank."""
    waiting, found = [run.pid], []
    while waiting:
        process = waiting.pop()
        for thread in Path(f"/proc/{process}/task").iterdir():
            waiting += map(int, (thread / "children").read_text().split())
        if f"PMI_RANK={rank}\0" in Path(f"/proc/{process}/environ").read_text():
            found.append(process)
    (process,) = found
    return process


def last_checkpoint(at: Results, job: str) -> int:
    folder = at.checkpoints("tiny", job)
    return max((int(entry.name) for entry in folder.glob("*") if entry.name.isdigit()), default=0)


def wait_for_checkpoint(at: Results, job: str, run: "subprocess.Popen[str]", after: int) -> None:
    """Waits for a checkpoint with a higher number."""
    end = time.monotonic() + 100
    while last_checkpoint(at, job) <= after:
        assert time.monotonic() < end and run.poll() is None, ended(run)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def two(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The job after an undisturbed run as two processes."""
    at = experiment.copied(tmp_path_factory.mktemp("two") / "results")
    code, messages = ended(experiment.start(at, 2))
    assert code == 0, messages
    # one speaks for all
    assert messages.count(": done, results in") == 1, messages
    return at


@pytest.mark.mpi
@needs_mpi
def test_several_processes_are_one_within_rounding(experiment: Experiment, two: Results, tmp_path: Path) -> None:
    at = experiment.copied(tmp_path / "one")
    path = at.job("tiny", experiment.job) / "config.yaml"
    jobs.train(plan.load_job(path), at, path.parent, lambda text: None)
    alone = experiment.arrays(at)
    four = experiment.copied(tmp_path / "four")
    code, messages = ended(experiment.start(four, 4))
    assert code == 0, messages
    for results in (two, four):
        assert_whole(results.root)
        found = experiment.arrays(results)
        assert found.keys() == alone.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.mpi
@needs_mpi
def test_whatever_ends_one_ends_all_and_the_same_command_goes_on(
    experiment: Experiment, two: Results, tmp_path: Path
) -> None:
    at = experiment.copied(tmp_path / "results")
    # a signal to one that is not the first
    run = experiment.start(at, 2, minutes=1e-6)
    wait_for_checkpoint(at, experiment.job, run, after=2)
    os.kill(member(run, 1), signal.SIGTERM)
    code, messages = ended(run)
    assert code == 130, messages
    assert messages.count("stopped by SIGTERM; the checkpoint is written") == 1 and "Traceback" not in messages
    # one is killed, and the launcher doesn't care
    seen = last_checkpoint(at, experiment.job)
    run = experiment.start(at, 2, "-disable-auto-cleanup", minutes=1e-6)
    wait_for_checkpoint(at, experiment.job, run, seen)
    began = time.monotonic()
    os.kill(member(run, 1), signal.SIGKILL)
    code, messages = ended(run)
    assert code != 0 and time.monotonic() - began < 30, messages
    assert "Traceback" not in messages, messages
    assert not (at.job("tiny", experiment.job) / "trials.csv").exists()
    code, messages = ended(experiment.start(at, 2))
    assert code == 0 and "goes on from the checkpoint" in messages, messages
    for name, values in experiment.arrays(at).items():
        np.testing.assert_array_equal(values, experiment.arrays(two)[name], err_msg=name)
    assert not at.checkpoints("tiny", experiment.job).exists()


@pytest.mark.mpi
@needs_mpi
def test_as_many_as_the_file_says_or_none(experiment: Experiment, tmp_path: Path) -> None:
    at = experiment.copied(tmp_path / "results")
    path = at.job("tiny", experiment.job) / "config.yaml"
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "jaxrnn", "train", "--config", str(path)]
    code, messages = ended(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    assert code == 2
    assert messages.count("training.processes: 1, and 2 came together; start one alone") == 1, messages
    path.write_text(path.read_text().replace("processes: 1", "processes: 2"))
    assert "training.processes: 2, and 1 came; `mpirun -n 2 jaxrnn train ...`" in refused("train", "--config", path)


@pytest.mark.parametrize(
    "changes",
    [
        {"training__processes": 3},
        {"training__processes": 16, "grid": {"training.batch_size": [16, 40]}},
        {
            "training__processes": 2,
            "grid": {"training.batch_size": {"low": 16, "high": 64, "scale": "log"}},
            "search": {"strategy": "random", "points": 3},
        },
    ],
)
def test_processes_must_divide_every_batch(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(JaxrnnError, match=r"training\.processes: .* share every batch out"):
        config.load(write_config(tmp_path, **changes))
    config.load(write_config(tmp_path, training__processes=8, grid={"training.batch_size": [16, 64]}))


def test_processes_of_a_node_share_its_cores_and_gpus_out() -> None:
    cores = frozenset(range(8))
    shown = [Node("a", cores, "0,1,2,3"), Node("a", cores, "0,1,2,3"), Node("b", cores, "0,1,2,3")]
    assert [own_gpus(shown, rank) for rank in range(3)] == [[0, 1], [2, 3], None]
    assert [own_cores(shown, rank) for rank in range(3)] == [4, 4, 8]
    # the scheduler has dealt them out, and calls each the first one or not
    assert own_gpus([Node("a", cores, "0"), Node("a", cores, "0")], 1) is None
    assert own_gpus([Node("a", cores, "0,1"), Node("a", cores, "2,3")], 1) is None
    assert own_cores([Node("a", frozenset({0, 1}), None), Node("a", frozenset({2, 3}), None)], 1) == 2
    # no scheduler
    assert [own_gpus([Node("a", cores, None), Node("a", cores, None)], rank) for rank in (0, 1)] == [[0], [1]]
    assert own_gpus([Node("a", cores, None), Node("b", cores, None)], 1) is None
    with pytest.raises(JaxrnnError, match="3 processes on a see 2 GPUs"):
        own_gpus([Node("a", cores, "0,1")] * 3, 0)
