"""What running through SLURM costs: to the first job, for each job, and in calls of the scheduler.

    python benchmarks/slurm.py [--jobs 300] [--minutes 10]

On the tests' own cluster (tests/slurm_cluster.py; as root, on a machine that has no SLURM of its own):
- start: from the command, in an empty folder, to the first job that is submitted.
- jobs: what a job of about 1 and of 10 minutes takes in SLURM beyond the training itself: Snakemake's own start in the
  job, Python, data, compilation, checkpoints, predictions. For one of 60 minutes the line through both goes on.
- queue: so many jobs that all wait, for some minutes; how often each of SLURM's programs is called.

Results go to benchmarks/results/slurm.json.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import record
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT / "tests"))

import slurm_cluster  # noqa: E402
from workflows import EXPERIMENT, Workflow  # noqa: E402

OUTPUT = record.RESULTS / "slurm.json"
MINUTES, EXTRAPOLATED = (1, 10), 60
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel")
SUBMITTED = "has been submitted with SLURM jobid"


def counted(folder: Path) -> Path:
    """Makes programs that note their call and then are the real ones; returns the folder for PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        real = shutil.which(name)
        assert real, name
        (programs / name).write_text(f'#!/bin/sh\necho "$(date +%s) {name}" >> {folder}/calls\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


def until_submitted(process: subprocess.Popen[str]) -> float:
    """Returns the seconds until a job is submitted."""
    began = time.perf_counter()
    assert process.stdout
    for line in process.stdout:
        if SUBMITTED in line:
            return time.perf_counter() - began
    sys.exit("no job was submitted")


def stop(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()


def start(runs: int) -> dict[str, Any]:
    taken = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            workflow = Workflow(Path(name), Path(name) / "compiled")
            workflow.configure()
            process = workflow.start(profile="slurm/testcluster")
            taken.append(until_submitted(process))
            stop(process)
    return record.spread(taken)


def job(folder: Path, epochs: int) -> dict[str, float]:
    """Runs an experiment of one job; returns how long SLURM ran it, and how much of that it trained."""
    workflow = Workflow(folder, folder.parent / "compiled")
    folder.mkdir()
    workflow.configure({"grid": {}, "model.units": 96, "model.depth": 2, "training.epochs": epochs})
    options = ("--slurm-init-seconds-before-status-checks", "5", "--until", "train")
    done = workflow.run(*options, profile="slurm/testcluster")
    if done.returncode:
        sys.exit(done.stdout)
    shown = [entry for entry in slurm_cluster.jobs() if entry["WorkDir"] == str(folder)]
    (trained,) = (entry for entry in shown if entry["Comment"].startswith("rule_train"))
    hours, minutes, seconds = map(int, trained["RunTime"].split(":"))
    training = pd.read_csv(next(workflow.results.glob("jobs/*/trials.csv")))["seconds"].sum()
    return {"epochs": epochs, "slurm_seconds": 3600 * hours + 60 * minutes + seconds, "training_seconds": training}


def jobs(folder: Path) -> dict[str, Any]:
    """Returns jobs of about `MINUTES`, and of `EXTRAPOLATED` what follows from them."""
    folder.mkdir()
    first = job(folder / "probe", 100)
    found = []
    for minutes in MINUTES:
        ran = job(folder / f"{minutes}-minutes", round(60 * minutes / first["training_seconds"] * first["epochs"]))
        ran["overhead_seconds"] = ran["slurm_seconds"] - ran["training_seconds"]
        found.append({name: round(value, 2) for name, value in ran.items()})
    short, long = ((entry["training_seconds"], entry["overhead_seconds"]) for entry in found)
    slope = (long[1] - short[1]) / (long[0] - short[0])
    overhead = long[1] + slope * (60 * EXTRAPOLATED - long[0])
    return {"ran": found, "extrapolated": {"minutes": EXTRAPOLATED, "overhead_seconds": round(overhead, 2)}}


def queue(folder: Path, jobs: int, minutes: float) -> dict[str, Any]:
    """Lets so many jobs wait for so long; returns how often SLURM was called until all were submitted, and after."""
    workflow = Workflow(folder / "queue", folder / "compiled")
    # a survey that is ingested and split
    shutil.copytree(folder / "jobs" / "probe", workflow.folder)
    units, gammas = 4, [0, 1]
    size = {"model.units": list(range(units, units + jobs)), "loss.gamma": gammas}
    workflow.configure({"grid": size})
    subprocess.run(["scontrol", "update", "partitionname=main", "state=down"], check=True)
    (folder / "calls").unlink(missing_ok=True)
    settings = ("--jobs", str(jobs), "--slurm-init-seconds-before-status-checks", "15")
    process = workflow.start(*settings, profile="slurm/testcluster", path=counted(folder))
    began = time.perf_counter()
    assert process.stdout
    for _ in range(jobs):
        until_submitted(process)
    submitting = time.perf_counter() - began
    calls = folder / "calls"
    before = Counter(line.split()[1] for line in calls.read_text().splitlines())
    time.sleep(60 * minutes)
    after = Counter(line.split()[1] for line in calls.read_text().splitlines()) - before
    stop(process)
    subprocess.run(["scontrol", "update", "partitionname=main", "state=up"], check=True)
    return {
        "jobs": jobs,
        "submitting_seconds": round(submitting, 1),
        "calls_while_submitting": dict(before),
        "waiting_minutes": minutes,
        "calls_while_waiting": dict(after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300, help="that wait in the queue (300)")
    parser.add_argument("--minutes", type=float, default=10, help="for which they wait (10)")
    parser.add_argument("--runs", type=int, default=5, help="of the start (5)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if reason := slurm_cluster.obstacle():
        sys.exit(reason)
    noted = record.begun()
    with slurm_cluster.running(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"start_seconds": start(options.runs), "jobs": jobs(folder / "jobs")}
        found["queue"] = queue(folder, options.jobs, options.minutes)
    record.keep(options.output, {**noted, "grid": yaml.safe_dump(EXPERIMENT["grid"]), **found})
    print(found)


if __name__ == "__main__":
    main()
