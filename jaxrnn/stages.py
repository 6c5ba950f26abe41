"""What a call of a job has to do, and what of it is done already: rungs of successive halving, and the store of trials.

Without halving there is one stage, in which all trials train to the end.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from jaxrnn import search, trials
from jaxrnn.claims import Claim
from jaxrnn.errors import JaxrnnError
from jaxrnn.plan import JobFile, Trial
from jaxrnn.results import Results
from jaxrnn.trials import FinishedTrial


@dataclass(frozen=True)
class Stage:
    """Trains these trials up to an epoch. last: whether they are then finished; ended: of the job's other trials, by
    fingerprint, the epoch after which their rung halted them."""

    until: int
    trials: tuple[Trial, ...]
    last: bool = True
    ended: dict[str, int] = field(default_factory=dict)


def of(job_file: JobFile, at: Results, rung: int | None, *, retrain: bool = False) -> Stage:
    """Returns what a job does in a rung, counted from 1, the last one where it is None; with `retrain` all trials train
    to the end. Raises JaxrnnError where there is no such rung, or the one before has not ended."""
    rungs, going = search.rungs(job_file.training.epochs, job_file.search.halving), job_file.job.trials
    if rung is not None and (retrain or not 1 <= rung <= len(rungs)):
        wrong = "`--retrain` trains to the end" if retrain else f"the experiment's rungs are 1 to {len(rungs)}"
        raise JaxrnnError(f"--rung {rung}: {wrong if retrain or len(rungs) > 1 else '`search.halving` is not set'}")
    if retrain:
        return Stage(job_file.training.epochs, going)
    number = len(rungs) if rung is None else rung
    ended: dict[str, int] = {}
    for before in rungs[: number - 1]:
        promoted = search.promoted(at.experiment(job_file.experiment), before.number)
        ended |= {trial.fingerprint: before.epochs for trial in going if trial.fingerprint not in promoted}
        going = tuple(trial for trial in going if trial.fingerprint in promoted)
    return Stage(rungs[number - 1].epochs, going, number == len(rungs), ended)


@dataclass(frozen=True)
class Store:
    """An experiment's finished trials, and those that rungs halted, as far as they are of the same data.

    claim: that of the job which writes here.
    """

    results: Results
    experiment: str
    data_digest: str
    claim: Claim | None = None

    def found(self, trial: Trial, stage: Stage) -> Path | None:
        """Returns where a trial is that has come as far as the stage asks, None where it has not."""
        if self._is_whole(self._folder(trial)):
            return self._folder(trial)
        epochs = stage.until if not stage.last else stage.ended.get(trial.fingerprint)
        halted = self._folder(trial, epochs)
        return halted if epochs is not None and self._is_whole(halted) else None

    def halted(self, trial: Trial, until: int) -> Path | None:
        """Returns where a trial was halted last, after at most so many epochs; None where it was not."""
        folders = self._folder(trial).parent.glob(f"{trial.fingerprint}.epoch-*")
        by_epochs = {int(folder.name.rpartition("-")[2]): folder for folder in folders}
        last_first = [by_epochs[epochs] for epochs in sorted(by_epochs, reverse=True) if epochs <= until]
        return next((folder for folder in last_first if self._is_whole(folder)), None)

    def of_other_data(self, trial: Trial) -> bool:
        """Returns whether a trial is finished, but on other data or splits."""
        record = trials.record(self._folder(trial))
        return record is not None and record["data_digest"] != self.data_digest

    def save(self, trial: Trial, finished: FinishedTrial) -> None:
        """Keeps a trial, finished or, where it has a state to go on from, halted; a finished one needs no other."""
        epochs = int(finished.record["epochs"])
        trials.save(self._folder(trial, epochs if finished.state else None), finished, self.claim)
        if not finished.state:
            for folder in self._folder(trial).parent.glob(f"{trial.fingerprint}.epoch-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, trial: Trial, epochs: int | None = None) -> Path:
        return self.results.trial(self.experiment, trial.fingerprint, epochs)

    def _is_whole(self, folder: Path) -> bool:
        record = trials.record(folder)
        return record is not None and record["data_digest"] == self.data_digest
