"""Submitting while SLURM doesn't answer: Snakemake takes a job that could not be submitted for one that failed."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from jaxrnn import slurm
from jaxrnn.errors import JaxrnnError

# What sbatch says where SLURM, or the way to it, is at fault and not the job.
NO_ANSWER = re.compile(r"unable to contact|timed out|temporarily|connect|zero bytes|authentication|try again", re.I)
PATIENCE_SECONDS = 3600.0
PAUSE_SECONDS = 10.0


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


def _submitted(name: str, comment: str) -> int | None:
    """Returns the id of the job of that name and comment in the queue, None where there is none or SLURM is silent."""
    try:
        return next((job.id for job in slurm.queue() if name and (job.name, job.comment) == (name, comment)), None)
    except JaxrnnError:
        return None
