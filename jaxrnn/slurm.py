"""SLURM through its own commands: what is in the queue, and submitting while it doesn't answer."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxrnn.errors import JaxrnnError

ANSWER_SECONDS = 60.0
# What sbatch says where SLURM, or the way to it, is at fault and not the job.
NO_ANSWER = re.compile(r"unable to contact|timed out|temporarily|connect|zero bytes|authentication|try again", re.I)
PATIENCE_SECONDS = 3600.0
PAUSE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """A job that waits or runs; `reason` is why it waits, `comment` the rule and wildcards that Snakemake gives it."""

    id: str
    state: str
    name: str
    reason: str
    comment: str
    folder: Path


def call(*command: str) -> str:
    """Returns what a command of SLURM's prints; raises JaxrnnError where it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except FileNotFoundError:
        raise JaxrnnError(f"{command[0]}: not found on PATH; this machine has no SLURM, or its module is not loaded")
    except subprocess.TimeoutExpired:
        raise JaxrnnError(f"{command[0]}: SLURM did not answer within {ANSWER_SECONDS:g} s; try again later")
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise JaxrnnError(f"{command[0]}: SLURM did not answer ({reason}); try again when it does")
    return done.stdout


def queue() -> list[Job]:
    """Returns the user's jobs that wait, run, or are about to end; raises JaxrnnError where SLURM does not answer."""
    shown = call("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%T|%j|%r|%k|%Z")
    fields = (line.split("|", 5) for line in shown.splitlines())
    return [Job(job, state, name, why, comment, Path(folder)) for job, state, name, why, comment, folder in fields]


def submit(arguments: Sequence[str], path: str) -> int:
    """Calls the sbatch that is on `path` until SLURM answers, for at most an hour; returns its exit code, and passes on
    what it prints.

    One that timed out may have been heard: before it is called again the queue is asked for a job of the same name and
    comment, whose id is then printed, as `--parsable` has it.
    """
    sbatch = shutil.which("sbatch", path=path)
    if sbatch is None:
        print("sbatch: not found on PATH", file=sys.stderr)
        return 127
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = subprocess.run([sbatch, *arguments], capture_output=True, text=True)
        if not done.returncode or not NO_ANSWER.search(done.stderr) or time.monotonic() > end:
            break
        time.sleep(PAUSE_SECONDS)
        if heard := _submitted(_value(arguments, "--job-name"), _value(arguments, "--comment")):
            print(heard)
            return 0
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def _value(arguments: Sequence[str], option: str) -> str:
    return arguments[arguments.index(option) + 1] if option in arguments[:-1] else ""


def _submitted(name: str, comment: str) -> str:
    """Returns the id of the job of that name and comment in the queue, "" where there is none or SLURM is silent."""
    try:
        return next((job.id for job in queue() if name and (job.name, job.comment) == (name, comment)), "")
    except JaxrnnError:
        return ""
