"""A tiny experiment that goes through the whole workflow, for the tests that start Snakemake."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
LOCAL = "workflow/profiles/local"
TEST_CLUSTER = "slurm/testcluster"
# Snakemake whose plugin looks at its jobs each second, and not ten seconds later each time.
EAGER = """
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
main()
"""
TABLES = (
    "splits.csv",
    "training_results.csv",
    "experiment_results.csv",
    "grid_results.csv",
    "history.csv",
    "confusion_matrix_validation.csv",
    "confusion_matrix_test.csv",
)
# Two jobs, because `model.cell` changes the program, with two trials each.
EXPERIMENT: dict[str, Any] = {
    "experiment": "tiny",
    "seed": 1,
    "data": {
        "reader": "simulated",
        "simulation": {
            "objects": {"variable_star": 40, "supernova": 24, "agn": 24},
            "days": 200,
            "cadence_days": 10,
        },
        "features": ["time_since_first", "flux", "flux_error", "passband"],
        "metadata": ["galactic_latitude"],
    },
    "task": {},
    "model": {"units": 4, "depth": 1, "dense_units": 4, "dense_depth": 1},
    "loss": {},
    "training": {"epochs": 20, "batch_size": 16, "length_buckets": 1},
    "selection": {},
    "grid": {"model.cell": ["simple", "gru"], "loss.gamma": [0, 1]},
}


@dataclass(frozen=True)
class Workflow:
    """A folder with an experiment file and its results. `compiled` keeps compiled programs between jobs, for speed."""

    folder: Path
    compiled: Path

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    def copied_to(self, folder: Path) -> "Workflow":
        """Returns the same state of things elsewhere, times of files included, to be changed."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workflow(folder, self.compiled)

    def configure(self, changes: dict[str, Any] | None = None) -> None:
        """Writes the experiment file; `changes` maps paths such as `training.epochs` or `grid/model.cell` to values."""
        values = copy.deepcopy(EXPERIMENT)
        for path, value in (changes or {}).items():
            section, _, key = path.partition("/") if path.startswith("grid") else path.partition(".")
            if key:
                values.setdefault(section, {})[key] = value
            else:
                values[section] = value
        self.config.write_text(yaml.safe_dump(values, sort_keys=False))

    def run(self, *arguments: str, profile: str = LOCAL) -> subprocess.CompletedProcess[str]:
        """Runs Snakemake to its end; its whole output is in `stdout`."""
        process = self.start(*arguments, profile=profile)
        try:
            output, _ = process.communicate()
        except BaseException:  # the test's time is over: nothing of it may go on beside the next one
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def start(self, *arguments: str, profile: str = LOCAL, path: Path | None = None) -> subprocess.Popen[str]:
        """Starts Snakemake in a process group of its own, as a terminal does; `path` comes first on its PATH."""
        program = ["-c", EAGER] if profile == TEST_CLUSTER else ["-m", "snakemake"]
        return subprocess.Popen(
            [sys.executable, *program, *self.arguments(profile), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=self.environment | ({"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else {}),
        )

    def arguments(self, profile: str) -> list[str]:
        """Returns what Snakemake is told."""
        words = ["--snakefile", str(CHECKOUT / "Snakefile"), "--profile", str(CHECKOUT / profile)]
        return [*words, "--configfile", str(self.config)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(self.compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def planned(self) -> list[str]:
        """Returns which rules a run would execute now, one entry a job, from a dry run."""
        done = self.run("--dry-run")
        assert done.returncode == 0, done.stdout
        return [] if "Nothing to be done" in done.stdout else rules_in(done.stdout)

    def table(self, name: str) -> pd.DataFrame:
        """Returns a table of the results, without what differs from run to run: the time it took."""
        return pd.read_csv(self.results / name).drop(columns=["seconds", "input_seconds"], errors="ignore")

    def assert_same(self, other: "Workflow") -> None:
        """Asserts that all tables, the choice and the chosen model are the other run's."""
        for name in TABLES:
            pd.testing.assert_frame_equal(self.table(name), other.table(name), check_exact=True)
        assert self.chosen() == other.chosen()

    def chosen(self) -> tuple[Any, bytes]:
        """Returns what the choice says but for jobs that failed, and the parameters of the chosen model."""
        parameters = self.results / "best" / "parameters.npz"
        choice = json.loads((self.results / "best.json").read_text())
        return {**choice, "missing_jobs": None}, parameters.read_bytes()


def rules_in(output: str) -> list[str]:
    """Returns which rules a run executes, one entry a job, from what it printed."""
    # a header, a line, then a row for each rule, for `all`, and for their sum
    rows = output.partition("Job stats:\n")[2].partition("\n\n")[0].splitlines()[2:]
    counts = dict(row.split() for row in rows)
    return [rule for rule in sorted(counts.keys() - {"all", "total"}) for _ in range(int(counts[rule]))]


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300, every: float = 0.02
) -> None:
    """Waits for `condition`; fails with the output of `process` where it ends before, or time runs out.

    every: seconds between two looks.
    """
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"what was waited for did not come:\n{process.communicate()[0]}")
        time.sleep(every)
