"""What the DAG itself costs for a grid of 10,000 trials: `jaxrnn plan`, and Snakemake's dry run.

    python benchmarks/dag.py

Four programs (cell, units) of 2,500 trials each, which differ in learning rate, dropout, l2 and gamma. Each run has a
folder of its own, empty but for the experiment file; the dry run follows the plan there. Start-up is included. Results
go to benchmarks/results/dag.json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import goto_grid
import numpy as np
import record
import yaml
from goto import CHECKOUT, experiment

OUTPUT = record.RESULTS / "dag.json"
# The user means so many trials; what they would take isn't measured.
SIZE = ("--yes", "--no-measure")


def grid(trials: int) -> dict[str, list[Any]]:
    """Returns four programs with so many trials together."""
    each = trials // 4
    rates, dropouts, penalties = 10, 10, 5
    gammas, rest = divmod(each, rates * dropouts * penalties)
    if rest or not gammas:
        sys.exit(f"{trials} trials: it must be a multiple of {4 * rates * dropouts * penalties}")
    return {
        "model.cell": ["gru", "lstm"],
        "model.units": [25, 50],
        "training.learning_rate": [float(f"{value:.4g}") for value in np.geomspace(1e-4, 1e-1, rates)],
        "model.dropout": [round(0.05 * step, 2) for step in range(dropouts)],
        "loss.l2": [float(f"{value:.4g}") for value in np.geomspace(1e-4, 1e-1, penalties)],
        "loss.gamma": [round(0.5 * step, 1) for step in range(gammas)],
    }


def seconds(command: list[Any], folder: Path) -> tuple[float, str]:
    began = time.perf_counter()
    words = [str(word) for word in (sys.executable, "-m", *command)]
    done = subprocess.run(words, cwd=folder, env=record.as_installed(), capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stdout[-4000:] + done.stderr[-4000:])
    return taken, done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="a multiple of 2,000 (10,000)")
    parser.add_argument("--runs", type=int, default=5, help="of each command (5)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    values = experiment(goto_grid.DATA, 50) | {"grid": grid(options.trials)}
    noted = record.begun()
    workflow = ["snakemake", "--snakefile", CHECKOUT / "Snakefile", "--configfile", "grid.yaml", "--dry-run"]
    workflow += ["--profile", CHECKOUT / "workflow" / "profiles" / "local"]
    commands: dict[str, list[Any]] = {"plan": ["jaxrnn", "plan", "--config", "grid.yaml", *SIZE], "dry_run": workflow}
    times: dict[str, list[float]] = {name: [] for name in commands}
    said = ""
    for number in range(options.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "grid.yaml").write_text(yaml.safe_dump(values))
            for name, command in commands.items():
                taken, printed = seconds(command, Path(folder))
                print(f"{name}: {taken:.1f} s{'' if number else ', not counted'}", file=sys.stderr, flush=True)
                if number:  # before, modules are compiled and files read
                    times[name].append(taken)
                said = printed if name == "plan" else said
    together = [sum(each) for each in zip(*times.values(), strict=True)]
    found = {f"{name}_seconds": record.spread(each) for name, each in (times | {"both": together}).items()}
    jobs = int(said.partition(" trials in ")[2].split()[0])
    record.keep(options.output, {**noted, "trials": options.trials, "jobs": jobs, **found})
    print("{median:.1f} s ({low:.1f} to {high:.1f})".format(**found["both_seconds"]))


if __name__ == "__main__":
    main()
