"""The controller: the Snakemake process, on a login node, that submits an experiment's jobs.

An experiment has one at a time. It holds `results/<experiment>/controller.json`, which says who it is and, by its time
of change, that it lives. The file that a lost one left behind (killed, or its node died) is taken over, and with it
what else it left: Snakemake's lock, jobs in SLURM's queue, and outputs that Snakemake knows nothing of.
"""

import atexit
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jaxrnn import lock, plan, slurm
from jaxrnn.config import digest
from jaxrnn.errors import JaxrnnError, plural
from jaxrnn.plan import Plan
from jaxrnn.results import Results

NAME = "controller.json"
LIVE = (
    "{folder}: another Snakemake runs this experiment ({who}), and nothing was submitted; {remedy}. Ctrl-C, or "
    "kill -INT, ends it together with its SLURM jobs, and the same command goes on"
)
LOOK_SECONDS = 10.0
TELL_SECONDS = 600.0
LONGEST_PREFIX = 50  # of the names of jobs, as Snakemake's plugin has it
# Of each rule whose outputs depend on the experiment beyond their paths, one that is there when it is done; each rule
# after those that it builds on.
OUTPUTS = ("splits.csv", "jobs/*/rung-*/trials.csv", "rungs/*.csv", "jobs/*/trials.csv", "best.json", "report.html")

_controlled: set[Path] = set()


def begin(
    made: Plan,
    at: Results,
    *,
    submits: bool,
    snakemake: Path,
    known: Callable[[Path], bool],
    say: Callable[[str], None],
    early: bool = True,
) -> None:
    """Makes this process the experiment's controller until it ends, if it isn't, and settles what a lost one left.

    Waits for its SLURM jobs, which hold what they were given to do and finish it, and so are never submitted twice.
    Raises JaxrnnError where another controller lives, and where SLURM doesn't say which jobs there are.
    submits: to SLURM.
    snakemake: its own folder. known: whether it knows from what a file was made.
    early: before Snakemake looked at files and took its own lock; later, jobs to wait for are an error.
    """
    folder = at.experiment(made.experiment.experiment)
    if folder in _controlled:
        return
    lost = (folder / NAME).exists()
    held = ExitStack()
    held.enter_context(lock.held(folder, NAME, LIVE))
    atexit.register(held.close)
    _controlled.add(folder)
    if early and _clear_locks(snakemake / "locks", folder):
        say(f"cleared the lock that a lost controller of {folder.name} left")
    if submits or lost:
        try:
            _wait(job_names(folder.name), early, say)
        except JaxrnnError:
            if submits:
                raise
    if early:
        _forget_unknown(made, folder, known)


def job_names(experiment: str) -> str:
    """Returns what the names of the experiment's SLURM jobs begin with; an underscore and the run's id follow."""
    if len(experiment) <= LONGEST_PREFIX:
        return experiment
    return f"{experiment[: LONGEST_PREFIX - 9]}-{digest(experiment)[:8]}"


def _clear_locks(locks: Path, folder: Path) -> bool:
    """Removes Snakemake's locks on files of the experiment, whose controller this process is; returns whether there
    were any. Locks of other experiments stay."""
    ours = [path for path in locks.glob("*.lock") if re.search(rf"^{re.escape(str(folder))}/", path.read_text(), re.M)]
    for path in ours:
        path.unlink()
    return bool(ours)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Lets Ctrl-C end what the block does at once: Snakemake runs inside asyncio, which would hold it back until we are
    done. Where it is ignored it stays so."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@_stoppable()
def _wait(names: str, early: bool, say: Callable[[str], None]) -> None:
    """Waits until no job of the experiment, from this folder, is in SLURM's queue."""
    here, told, last = Path.cwd(), "", 0.0
    name = re.compile(rf"{re.escape(names)}_[0-9a-f-]{{36}}")
    while jobs := [job for job in slurm.queue() if name.fullmatch(job.name) and Path(job.folder) == here]:
        states = ", ".join(
            f"{count} {state.lower()}" for state, count in sorted(Counter(j.state for j in jobs).items())
        )
        cancel = "scancel " + " ".join(f"--name={name}" for name in sorted({job.name for job in jobs}))
        if not early:
            raise JaxrnnError(
                f"{plural(len(jobs), 'SLURM job')} of this experiment, which an earlier controller submitted, are "
                f"still there ({states}); run this without naming files or rules, which waits for them, or end them: "
                f"{cancel}"
            )
        if states != told or time.monotonic() - last > TELL_SECONDS:
            say(
                f"waiting for {plural(len(jobs), 'SLURM job')} of this experiment, which an earlier controller "
                f"submitted: {states}. To end them instead, in another shell: {cancel}"
            )
            told, last = states, time.monotonic()
        time.sleep(LOOK_SECONDS)
    if told:
        say("the earlier controller's SLURM jobs have ended")


def _forget_unknown(made: Plan, folder: Path, known: Callable[[Path], bool]) -> None:
    """Removes outputs of which Snakemake doesn't know from what they were made, where the experiment has changed.

    Jobs that outlived their controller are such: their controller writes down what a job was made from when that ends.
    Where the experiment is the same they are what they must be. Where it isn't they would stay for ever, whatever
    changes; made again, a job finds the trials that it had finished.
    """
    earlier = folder / "experiment.yaml"
    if not earlier.exists() or earlier.read_text(encoding="utf-8") == plan.written(made.experiment):
        return
    removed = False
    for pattern in OUTPUTS:
        # and what builds on them, without which Snakemake would not miss them
        old = [path for path in folder.glob(pattern) if removed or not known(path)]
        for path in old:
            path.unlink()
        removed = removed or bool(old)
