"""What running through SLURM costs: to the first job, for each job, and in calls of the scheduler.

    python benchmarks/slurm.py [start] [jobs] [queue] [--jobs 300] [--minutes 10]

On the tests' own cluster (tests/slurm_cluster.py; as root, on a machine that has no SLURM of its own):
- start: from the command, in an empty folder, to the first job that is submitted; with nothing of it in the page cache
  (cold), and right after that.
- jobs: what a job of about 1 and of 10 minutes takes in SLURM beyond the training itself: Snakemake's own start in the
  job, Python, data, programs that an earlier job compiled, predictions. SLURM tells whole seconds.
- queue: so many jobs that all wait, for some minutes; how often each of SLURM's programs is called.

Results go to benchmarks/results/slurm.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import record

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT / "tests"))

import slurm_cluster  # noqa: E402
from workflows import Workflow  # noqa: E402

OUTPUT = record.RESULTS / "slurm.json"
PAGE_CACHE = Path("/proc/sys/vm/drop_caches")
MINUTES = (1, 10)
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


def start(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    taken: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(options.runs):
        for when, seconds in taken.items():
            place = folder / f"{when}-{number}"
            place.mkdir()
            workflow = Workflow(place, place / "compiled")
            workflow.configure()
            if when == "cold":
                os.sync()
                PAGE_CACHE.write_text("3")
            process = workflow.start("--slurm-status-command", "squeue", profile="slurm")
            seconds.append(until_submitted(process))
            stop(process)
    return {when: record.spread(seconds) for when, seconds in taken.items()}


def job(folder: Path, epochs: int) -> dict[str, float]:
    """Runs an experiment of one job; returns how long SLURM ran it, and its trial's training with all compilation."""
    workflow = Workflow(folder, folder.parent / "compiled")
    folder.mkdir(parents=True)
    workflow.configure({"grid": {}, "model.units": 96, "model.depth": 2, "training.epochs": epochs})
    options = ("--slurm-init-seconds-before-status-checks", "5", "--until", "train")
    done = workflow.run(*options, profile="slurm/testcluster")
    if done.returncode:
        sys.exit(done.stdout)
    shown = [entry for entry in slurm_cluster.jobs() if entry["WorkDir"] == str(folder)]
    (trained,) = (entry for entry in shown if entry["Comment"].startswith("rule_train"))
    hours, minutes, seconds = map(int, trained["RunTime"].split(":"))
    training = pd.read_csv(next(workflow.results.glob("jobs/*/trials.csv")))["seconds"].sum()
    return {"epochs": epochs, "slurm_seconds": 3600 * hours + 60 * minutes + seconds, "trial_seconds": training}


def jobs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns jobs of about `MINUTES`. Pure training is what epochs more take, as two jobs differ."""
    job(folder / "compiles", 1)
    few, more = (job(folder / f"{epochs}-epochs", epochs) for epochs in (100, 1100))
    epoch = (more["trial_seconds"] - few["trial_seconds"]) / (more["epochs"] - few["epochs"])
    ran = [job(folder / f"{minutes}-minutes", round(60 * minutes / epoch)) for minutes in MINUTES]
    short, long = ran
    epoch = (long["trial_seconds"] - short["trial_seconds"]) / (long["epochs"] - short["epochs"])
    found = []
    for entry in ran:
        training = epoch * entry["epochs"]
        entry |= {"training_seconds": training, "overhead_seconds": entry["slurm_seconds"] - training}
        found.append({name: round(value, 2) for name, value in entry.items()})
    return {"ran": found}


def waiting() -> int:
    queued = subprocess.run(["squeue", "-h", "-t", "PD", "-o", "%A"], capture_output=True, text=True)
    return len(queued.stdout.split())


def queue(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Lets so many jobs wait for so long; returns how often SLURM was called until all were submitted, and after."""
    job(folder / "queue", 1)  # a survey that is ingested and split
    workflow = Workflow(folder / "queue", folder / "compiled")
    workflow.configure({"grid": {"model.units": list(range(4, 4 + options.jobs)), "loss.gamma": [0, 1]}})
    subprocess.run(["scontrol", "update", "partitionname=main", "state=down"], check=True)
    # the profile for any site, which asks SLURM as seldom as users' runs do; the test cluster's asks each second
    settings = ("--jobs", str(options.jobs), "--slurm-status-command", "squeue")
    process = workflow.start(*settings, profile="slurm", path=counted(folder))
    began = time.perf_counter()
    assert process.stdout
    threading.Thread(target=process.stdout.read, daemon=True).start()  # else it would wait for a reader
    while waiting() < options.jobs:
        time.sleep(1)
    submitting = time.perf_counter() - began
    calls = folder / "calls"
    before = Counter(line.split()[1] for line in calls.read_text().splitlines())
    time.sleep(60 * options.minutes)
    after = Counter(line.split()[1] for line in calls.read_text().splitlines()) - before
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    subprocess.run(["scontrol", "update", "partitionname=main", "state=up"], check=True)
    return {
        "jobs": options.jobs,
        "submitting_seconds": round(submitting, 1),
        "calls_while_submitting": dict(before),
        "waiting_minutes": options.minutes,
        "calls_while_waiting": dict(after),
    }


PARTS = {"start": start, "jobs": jobs, "queue": queue}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--jobs", type=int, default=300, help="that wait in the queue (300)")
    parser.add_argument("--minutes", type=float, default=10, help="for which they wait (10)")
    parser.add_argument("--runs", type=int, default=5, help="of the start (5)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; the parts are {', '.join(PARTS)}")
    if reason := slurm_cluster.obstacle():
        sys.exit(reason)
    # a shell that starts this in the background has it ignore Ctrl-C, and so whatever it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with slurm_cluster.running():
        for name in options.parts or PARTS:
            print(name, file=sys.stderr, flush=True)
            noted = record.begun()
            with tempfile.TemporaryDirectory() as folder:
                found = {**noted, **PARTS[name](Path(folder), options)}
            kept = json.loads(options.output.read_text()) if options.output.exists() else {}
            record.keep(options.output, {**kept, name: found})


if __name__ == "__main__":
    main()
