"""SLURM's programs, as they are called from here: by a list of arguments, with an end to waiting.

Nobody parses their output elsewhere. A scheduler that is not there, refuses or does not answer is a JaxrnnError.
"""

import shutil
import subprocess
from dataclasses import dataclass

from jaxrnn.errors import JaxrnnError

PATIENCE_SECONDS = 20.0
# The comment comes last, because it may hold anything. %A is a number of its own for each task of an array.
QUEUE_FORMAT = "\t".join(("%A", "%T", "%M", "%N", "%r", "%Z", "%j", "%k"))


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits or runs. state: as SLURM names it (PENDING, RUNNING, ...); elapsed: how long it has run, as
    SLURM writes it; nodes: where; reason: why it waits; folder: from which it was submitted; name: of Snakemake's
    jobs the experiment's and the run's; comment: of these `rule_<rule>_wildcards_<their values, joined by _>`."""

    id: int
    state: str
    elapsed: str
    nodes: str
    reason: str
    folder: str
    name: str
    comment: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def present() -> bool:
    """Returns whether this machine has SLURM's programs."""
    return shutil.which("squeue") is not None


def call(*argv: str, seconds: float | None = None) -> str:
    """Returns what a program of SLURM prints; raises JaxrnnError where it is missing, fails, or takes
    longer than so many seconds, `PATIENCE_SECONDS` where left out."""
    seconds = PATIENCE_SECONDS if seconds is None else seconds
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except FileNotFoundError:
        raise JaxrnnError(f"{argv[0]}: no such program; call this where SLURM's programs are on PATH")
    except OSError as error:
        raise JaxrnnError(f"{argv[0]}: cannot be called ({error.strerror})")
    except subprocess.TimeoutExpired:
        raise JaxrnnError(f"{argv[0]}: no answer within {seconds:g} seconds; SLURM is down or busy, try again later")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise JaxrnnError(f"{argv[0]}: failed with code {done.returncode}: {lines[-1]}")
    return done.stdout


def queue() -> tuple[QueuedJob, ...]:
    """Returns this user's jobs that wait or run, by one call of squeue."""
    return parsed_queue(call("squeue", "--me", "--noheader", "--format", QUEUE_FORMAT))


def parsed_queue(text: str) -> tuple[QueuedJob, ...]:
    """Returns the jobs of squeue's output in `QUEUE_FORMAT`; what is no job (a site's greeting) is passed over."""
    rows = (line.split("\t", 7) for line in text.splitlines())
    return tuple(QueuedJob(int(row[0]), *row[1:]) for row in rows if len(row) == 8 and row[0].isdigit())
