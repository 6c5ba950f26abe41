"""Submitting while SLURM doesn't answer: Snakemake takes a job that could not be submitted for one that failed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jaxrnn import slurm
from jaxrnn.errors import JaxrnnError

PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 10.0


def submit(arguments: Sequence[str], path: str) -> int:
    """Calls the sbatch that is on `path` until SLURM answers, for at most ten minutes; returns its exit code, and
    passes on what it prints. Where the process that asked for it has gone, nothing is submitted any more.

    One that timed out may have been heard: before it is called again the queue is asked for a job of the same name and
    comment, whose id is then printed, as `--parsable` has it.
    """
    sbatch = shutil.which("sbatch", path=path)
    if sbatch is None:
        print("sbatch: not found on PATH", file=sys.stderr)
        return 127
    # read once: a second call would find nothing
    script = sys.stdin.read() if "/dev/stdin" in arguments else None
    end, parent = time.monotonic() + PATIENCE_SECONDS, os.getppid()
    while True:
        done = subprocess.run([sbatch, *arguments], input=script, capture_output=True, text=True)
        last = time.monotonic() > end or "--test-only" in arguments
        if not done.returncode or not slurm.NO_ANSWER.search(done.stderr) or last:
            break
        time.sleep(PAUSE_SECONDS)
        if os.getppid() != parent:
            return 1
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
        there = [job for job in slurm.queue() if (job.name, job.comment) == (name, comment) and name]
        return next((job.id for job in there if job.state != "COMPLETING"), None)  # an attempt before is no answer
    except JaxrnnError:
        return None


def main() -> None:
    """Is called by the program that stands in front of sbatch, with its own path and sbatch's arguments."""
    here = Path(sys.argv[1]).resolve().parent
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder).resolve() != here]
    sys.exit(submit(sys.argv[2:], os.pathsep.join(path)))


if __name__ == "__main__":
    main()
