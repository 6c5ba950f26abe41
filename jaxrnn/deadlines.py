"""The time that SLURM gives a job: when it is nearly over, and how the job then goes on.

A job that goes on is the same SLURM job again, which waits and runs under its old number. To whoever waits for it,
Snakemake for one, it has neither failed nor ended.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxrnn import slurm
from jaxrnn.errors import Interrupted
from jaxrnn.ranks import Ranks
from jaxrnn.slurm import SlurmError

# After these a job goes on by being requeued, where it may; Ctrl-C is its user's, who wants it to end.
REQUEUING = (signal.SIGTERM, signal.SIGUSR1)
# For what no look measures: SLURM's own work, a slow file system. A tenth of a time that is shorter than ten minutes.
SPARE_SECONDS = 60.0
# What a stretch may take longer than the longest one so far.
LONGER = 1.5
# SLURM ends a requeued job at once, and kills it after KillWait, 30 s by default.
KILLED_SECONDS = 120.0


class Deadline:
    """The end of a job's time. seconds: how far it is from now, None where there is none."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.saving = 0.0  # how long a checkpoint took
        self._began = time.monotonic()
        self._looked: float | None = None
        self._longest = 0.0

    def is_near(self) -> bool:
        """Returns whether the time left may be too short for another stretch like those before, and a checkpoint.

        It is for each look between segments: from look to look is a stretch.
        """
        now = time.monotonic()
        if self._looked is not None:  # what comes before the first look reads and compiles, and comes once
            self._longest = max(self._longest, now - self._looked)
        self._looked = now
        spare = min(SPARE_SECONDS, self.seconds / 10)
        return self.seconds - (now - self._began) < LONGER * (self._longest + self.saving) + spare


def deadline(say: Callable[[str], None]) -> Deadline:
    """Returns the end of this process's SLURM job; of none outside of SLURM, or where SLURM doesn't tell."""
    job = slurm.own_job()
    if job is None:
        return Deadline(None)
    try:
        return Deadline(slurm.seconds_left(job))
    except SlurmError as error:
        say(f"the end of SLURM job {job}'s time is not known ({error}); it goes on from its last checkpoint then")
        return Deadline(None)


@contextmanager
def going_on(ranks: Ranks, say: Callable[[str], None]) -> Iterator[None]:
    """Requeues the SLURM job that these processes are in when the block ends, in all of them, by an Interrupted that
    asks for it, or by a signal that nothing in the block waits for: while it reads, say, or writes results.

    A job that SLURM ends already, cancelled or out of time, is left to it.
    """
    try:
        with ranks.requeuing(*REQUEUING):
            yield
    except Interrupted as stop:
        if stop.requeue:
            _requeue(ranks, stop, say)
        raise


def _requeue(ranks: Ranks, stop: Interrupted, say: Callable[[str], None]) -> None:
    """Requeues the job and waits for the signal by which SLURM ends it; returns where it is not requeued."""
    # SLURM's may come before it is waited for, and one that is late for another process is no reason to stop here
    came: list[int] = []
    before = {number: signal.signal(number, lambda received, _: came.append(received)) for number in REQUEUING}
    try:
        if ranks.first(lambda: _requeued(stop, say)):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if signal.SIGTERM in came:
                signal.raise_signal(signal.SIGTERM)
            time.sleep(KILLED_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _requeued(stop: Interrupted, say: Callable[[str], None]) -> bool:
    job = slurm.own_job()
    if job is None:
        return False
    try:
        state, _ = slurm.state(job)
        if state == "RUNNING":
            slurm.requeue(job)
            say(f"{stop}. SLURM job {job} is requeued, and does so")
            return True
        say(f"SLURM job {job} is {state.lower() or 'unknown'} and is not requeued")
    except SlurmError as error:
        say(f"SLURM job {job} is not requeued ({error})")
    return False
