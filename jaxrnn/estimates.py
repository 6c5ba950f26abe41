"""What a plan will take, before any of it is submitted: a moment of its programs, measured, times what it asks for.

Each program is measured in a process of its own, as a job would run it, so that start-up and memory are a job's. On a
CPU a job trains as many trials at once as it has cores, which the caller says.
"""

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jaxrnn import blueprint, results
from jaxrnn.config import TRACED_KEYS, Model, digest
from jaxrnn.errors import JaxrnnError, plural
from jaxrnn.plan import Job, Plan, job_values
from jaxrnn.results import Results

FILE = "estimates.json"
MOST_PROGRAMS = 8  # that are measured
A_PROGRAM = 3.0  # seconds of training
# What a job asks a scheduler for beyond what is expected of it.
SLOWER, SPARE_MINUTES = 3, 10
MOST_MINUTES = 480  # of a longer job too, which is requeued
LARGER, SPARE_MB = 1.5, 1000
# What a job takes to start, compile and end, which more cores don't shorten, beside its training on one core. Jobs of
# minutes have about as much; much longer ones don't mind.
START = 0.1
# What a survey has about as many of, for jobs to be compared before there is one.
FEATURES, CLASSES, ALL_SEQUENCES = 8, 2, 1_000_000


def cores_of_a_job(jobs: int, trials: int, cores: int) -> int:
    """Returns how many of one machine's cores each of so many jobs of so many trials takes on a CPU, at most one a
    trial, for all of them to end first.

    Jobs side by side start while others train; but none of the last ones should leave cores without work.
    """

    def whole(each: int) -> float:
        return math.ceil(jobs / (cores // each)) * (START + math.ceil(trials / each) / trials)

    return min(range(1, min(cores, trials) + 1), key=whole)


def work(made: Plan, at: Results) -> dict[str, float]:
    """Returns how much each job has to do, beside the others: the seconds that `estimate` measured for this very
    experiment, or else parameters times epochs times sequences times trials.

    The survey need not be there. How many features and classes it has changes little in which job is the longest.
    """
    if rows := _measured(made, at):
        return {row["job"]: row["seconds"] for row in rows}
    found = {}
    for job in made.jobs:
        values = job_values(made, job)
        sequences = made.sequences(job) or ALL_SEQUENCES
        found[job.name] = _parameters(made, values) * values["training"]["epochs"] * sequences * len(job.trials)
    return found


def _parameters(made: Plan, values: dict[str, Any]) -> int:
    """Returns about how many a network has; 1 where no number of features fits that is known before the survey is."""
    model, metadata = Model.model_validate(values["model"]), len(made.experiment.data.metadata)
    # dot attention may want as many features as its decoder has units
    for features in (FEATURES, *([model.decoder.units] if model.decoder else [])):
        with suppress(blueprint.Misfit):
            return blueprint.of(model, made.experiment.task.kind, features, metadata, CLASSES).parameters
    return 1


def _measured(made: Plan, at: Results) -> list[dict[str, Any]]:
    """Returns what `estimate` kept, where it measured this very experiment; else nothing."""
    try:
        kept = results.read_json(at.experiment(made.experiment.experiment) / FILE, "jaxrnn plan")
    except JaxrnnError:  # none was made, or by another version
        return []
    return kept["jobs"] if kept["experiment"] == digest(made.experiment.model_dump(mode="json")) else []


def ready(made: Plan, at: Results) -> bool:
    """Returns whether the survey is ingested and split, without which nothing can be measured."""
    folder = at.experiment(made.experiment.experiment)
    return (at.dataset(made.dataset_key) / "manifest.json").exists() and (folder / "statistics.json").exists()


def estimate(made: Plan, at: Results, cores: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measures the plan's programs, the ones that differ most first; returns, and keeps, a row a job.

    `seconds`: from the job's start to its end, every rung together; `memory_mb` and `device_memory_mb`; `parameters` of
    a network; `cores` that it takes at most, on a CPU; `scaled_from`: the job whose program was measured in place of
    this one's, "" for its own; `device`. The plan must be written, and `ready`. Raises
    JaxrnnError where a program can't be measured.
    """
    programs: dict[str, list[Job]] = {}
    for job in made.jobs:
        programs.setdefault(_program(made, job), []).append(job)
    shown = list(programs)
    # from all over the grid, for what lies between is like its neighbours
    chosen = dict.fromkeys(shown[index * (len(shown) - 1) // (MOST_PROGRAMS - 1)] for index in range(MOST_PROGRAMS))
    measured: dict[str, tuple[Job, dict[str, Any]]] = {}
    for number, program in enumerate(chosen, start=1):
        longest = max(programs[program], key=lambda job: len(job.trials))
        say(f"measuring program {number} of {len(chosen)}: {longest.name}")
        measured[program] = longest, _measure(made, longest, at, cores)
    rows = []
    for index, program in enumerate(shown):
        near = program if program in measured else min(measured, key=lambda other: abs(shown.index(other) - index))
        of, took = measured[near]
        rows += [
            {
                "job": job.name,
                "seconds": round(_seconds(made, took, len(job.trials), len(of.trials)), 1),
                "memory_mb": round(took["memory_mb"]),
                "device_memory_mb": took["device_memory_mb"] and round(took["device_memory_mb"]),
                "parameters": took["parameters"],
                "scaled_from": "" if near == program else of.name,
                "device": took["device"],
                "cores": cores,
            }
            for job in programs[program]
        ]
    values = {"experiment": digest(made.experiment.model_dump(mode="json")), "jobs": rows}
    results.write_json(at.experiment(made.experiment.experiment) / FILE, values)
    return rows


def _program(made: Plan, job: Job) -> str:
    """Returns what stands for a job's program: jobs of one program differ in traced keys, seeds and folds alone."""
    point = made.points[job.trials[0].id]
    return digest({key: value for key, value in point.items() if key not in TRACED_KEYS})


def _measure(made: Plan, job: Job, at: Results, cores: int) -> dict[str, Any]:
    path = at.job(made.experiment.experiment, job.name) / "config.yaml"
    command = [sys.executable, "-m", "jaxrnn", "calibrate", "--config", str(path), "--results", str(at.root)]
    began = time.monotonic()
    # as the rule calls a job
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(min(cores, len(job.trials)))}
    command += ["--seconds", str(A_PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    taken = time.monotonic() - began
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was killed, perhaps for its memory"]
        raise JaxrnnError(f"job {job.name} can't be measured here: {lines[-1].removeprefix('jaxrnn: ')}")
    found = json.loads(done.stdout)
    return found | {"start_seconds": taken - found["timed_seconds"]}


def _seconds(made: Plan, took: dict[str, Any], trials: int, measured: int) -> float:
    """Returns how long a job of so many trials takes; measured: how many trials `took` is of."""
    epoch = took["steps"] * took["step_seconds"] + took["epoch_end_seconds"]
    # a GPU trains as many trials as it has places in the time of one
    of_trials = trials / measured if took["device"].startswith("cpu") else math.ceil(trials / took["pack_width"])
    before, epochs = 0, 0.0
    for rung in made.rungs:
        epochs += (rung.epochs - before) * rung.points / made.size
        before = rung.epochs
    each = took["start_seconds"] + took["end_seconds"]
    # what the first rung compiles the others find
    return len(made.rungs) * each + took["compile_seconds"] + epochs * epoch * of_trials


class Asked(NamedTuple):
    """What a job asks a scheduler for; needed_mb: the memory that it was measured to take, and fails without."""

    minutes: int
    memory_mb: int
    needed_mb: int


def resources(made: Plan, at: Results) -> dict[str, Asked]:
    """Returns what each job asks a scheduler for, where `estimate` measured this very experiment on a device of the
    kind that it trains on; else of no job.

    Minutes and memory are more than expected, for a node may be slower than the one that measured, and its libraries
    larger; minutes are those of a single core, which is what a CPU job has at least.
    """
    on_cpu = made.experiment.training.device == "cpu"
    return {
        row["job"]: Asked(
            min(
                MOST_MINUTES, math.ceil(SLOWER * row["seconds"] * (row["cores"] if on_cpu else 1) / 60) + SPARE_MINUTES
            ),
            math.ceil((LARGER * row["memory_mb"] + SPARE_MB) / 100) * 100,
            row["memory_mb"],
        )
        for row in _measured(made, at)
        if row["device"].startswith(made.experiment.training.device)
    }


def in_words(rows: list[dict[str, Any]], trials: dict[str, int]) -> list[str]:
    """Returns a line a job, or for many jobs the largest ones, and their sum. trials: how many each job has."""
    row = rows[0]
    cores = f", {plural(row['cores'], 'core')} a job" if row["device"].startswith("cpu") else ""
    said = [f"expected on {row['device']}{cores}, from a moment of each program:"]
    longest = sorted(rows, key=lambda row: -row["seconds"])
    for row in longest[:10]:
        memory = f"{row['memory_mb']:,} MB of memory"
        if row["device_memory_mb"]:
            memory += f" and {row['device_memory_mb']:,} MB of the device's"
        scaled = f" (as {row['scaled_from']})" if row["scaled_from"] else ""
        said.append(
            f"  {row['job']}: {plural(trials[row['job']], 'trial')} of {row['parameters']:,} parameters, "
            f"{duration(row['seconds'])}, {memory}{scaled}"
        )
    if len(rows) > 10:
        said.append(f"  ... and {len(rows) - 10:,} more")
    total = sum(row["seconds"] for row in rows)
    kind = "GPU" if any(row["device_memory_mb"] for row in rows) else "job"
    said.append(
        f"{plural(len(rows), 'job')} in all: {total / 3600:.3g} {kind} hours; early stopping can only shorten it"
    )
    return said


def duration(seconds: float) -> str:
    """Returns seconds as one reads them: 90 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def compared(folder: Path, jobs: list[str], experiment: str, rungs: int) -> list[dict[str, Any]]:
    """Returns a row for each job of an experiment: its estimate, as `estimate` has it, if it was made for this file,
    and what it used by Snakemake's account of its last run: `used_seconds` of all rungs, `used_memory_mb`, the largest,
    and `used_cores`, how many were busy on average; what SLURM gave it then: `given_seconds`, its time limits,
    `given_memory_mb` and `given_cores`, the largest; None where jobs shared an allocation. experiment: the digest of
    its values."""
    expected: dict[str, Any] = {}
    with suppress(JaxrnnError):  # none was made, or by another version
        kept = results.read_json(folder / FILE, "jaxrnn plan")
        expected = {row["job"]: row for row in kept["jobs"]} if kept["experiment"] == experiment else {}
    rows, holders = [], dict[int, set[str]]()
    for job in jobs:
        used, given = [], list[dict[str, Any]]()
        for place in (".", *(f"rung-{number}" for number in range(1, rungs))):
            account = folder / "jobs" / job / place / "benchmark.tsv"
            if account.exists():
                with account.open(newline="", encoding="utf-8") as file:
                    used += list(csv.DictReader(file, delimiter="\t"))
            with suppress(JaxrnnError):  # it was not in SLURM
                given.append(results.read_json(folder / "jobs" / job / place / results.ALLOCATION, "jaxrnn train"))
        row = {"job": job, **expected.get(job, {})}
        # where a process was too short to be looked at, Snakemake writes NA, or -
        memory = [float(entry["max_rss"]) for entry in used if entry["max_rss"][:1].isdigit()]
        loads = [
            (float(entry["mean_load"]) / 100, float(entry["s"]))
            for entry in used
            if entry.get("mean_load", "")[:1].isdigit()
        ]
        seconds = sum(taken for _, taken in loads)
        row["used_cores"] = sum(load * taken for load, taken in loads) / seconds if seconds else None
        row["used_seconds"] = sum(float(entry["s"]) for entry in used) if used else None
        row["used_memory_mb"] = max(memory, default=None)
        whole = len(given) == len(used)  # else a rung ran outside of SLURM
        for name, together in (("seconds", sum), ("memory_mb", max), ("cores", max)):
            parts = [entry[name] for entry in given]
            row[f"given_{name}"] = together(parts) if parts and whole and None not in parts else None
        rows.append(row)
        for entry in given:
            holders.setdefault(entry["job"], set()).add(job)
    # jobs side by side in one allocation: none has all of it
    shared = set[str]().union(*(held for held in holders.values() if len(held) > 1))
    for row in rows:
        if row["job"] in shared:
            row |= dict.fromkeys(("given_seconds", "given_memory_mb", "given_cores"))
    return rows
