"""What of an experiment is done, running, waiting or failed, from files and one call of squeue.

Nothing here needs the workflow's controller, or writes anything: the same is seen from any shell that sees the results
folder. Whether a job that says that it runs still does is known from SLURM's queue, from its process on the same host,
or, elsewhere, from the age of its last sign of life.
"""

import csv
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxrnn import controller, estimates, plan, progress, results, search, slurm
from jaxrnn.config import Experiment, digest, load, parsed, read_yaml
from jaxrnn.errors import JaxrnnError, nearest, plural
from jaxrnn.estimates import duration
from jaxrnn.progress import Progress
from jaxrnn.results import Results
from jaxrnn.slurm import QueuedJob

DONE, RUNNING, WAITING = "done", "running", "waiting"
STOPPED, LOST, FAILED = "stopped", "lost", "failed"
# The order of the table, and how many jobs of each state it shows; `--json` has all.
MOST_ROWS = {FAILED: 10, LOST: 10, STOPPED: 10, RUNNING: 40, WAITING: 10, DONE: 10}
# A job on another host, of which no queue knows, is taken for dead after so long without a sign of life.
DEAD_SECONDS = 5 * progress.SIGN_OF_LIFE_SECONDS
JUST_NOW_SECONDS = 10.0  # a job that began after the queue was read is not in it
SILENT_STAGE_SECONDS = 3600.0
LONGEST_MESSAGE = 500
# What SLURM writes of a job's end into the job's own log.
CAUSE = re.compile(r"DUE TO [A-Z ]+|[Oo]ut[ -][Oo]f[ -][Mm]emory|oom.kill|CANCELLED", re.ASCII)
# Aggregate and report are one SLURM job, or two with the audit between them, whose comments are these and the rules of
# it that run.
GROUPS = ("rule_results_", "rule_report_")
_SAID_AT = re.compile(r"\d\d:\d\d:\d\d ")


@dataclass(frozen=True)
class StageStatus:
    """A step of the workflow that comes once; log: of its command."""

    name: str
    state: str
    message: str
    log: str


@dataclass(frozen=True)
class JobStatus:
    """A training job. rung: which one it is in, None without halving. trials, trials_finished: of all of its trials.
    told: what it says of itself. slurm_job, nodes: of the queue, or told. seconds: that its training took, once done.
    """

    name: str
    state: str
    message: str
    log: str
    trials: int
    trials_finished: int
    rung: int | None = None
    slurm_job: int | None = None
    nodes: str = ""
    seconds: float | None = None
    told: Progress | None = None


@dataclass(frozen=True)
class ExperimentStatus:
    """An experiment: its stages and jobs, and what else there is to say. seconds_left: a guess, None where there is
    nothing to guess from."""

    name: str
    stages: tuple[StageStatus, ...]
    jobs: tuple[JobStatus, ...]
    report: str
    seconds_left: float | None = None
    remarks: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> dict[str, int]:
        """Returns the number of jobs by state, in the table's order."""
        found = Counter(job.state for job in self.jobs)
        return {state: found[state] for state in MOST_ROWS if found[state]}

    @property
    def finished(self) -> bool:
        return all(entry.state == DONE for entry in (*self.stages, *self.jobs))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "counts": self.counts, "finished": self.finished}


@dataclass(frozen=True)
class Queue:
    """SLURM's queue as it was at a moment, None where it is not known. remark: why not, for the user."""

    jobs: tuple[QueuedJob, ...] | None = None
    read_at: float = field(default_factory=time.time)
    remark: str = ""

    @staticmethod
    def now() -> "Queue":
        """Returns the queue. It is asked before files are read: what ends meanwhile has then written that it has."""
        at = time.time()
        if not slurm.present():
            return Queue(None, at)
        try:
            return Queue(slurm.queue(), at)
        except JaxrnnError as error:
            return Queue(None, at, f"the queue is not known, and what follows is from files alone: {error}")

    def of_folder(self, root: Path) -> dict[str | int, QueuedJob]:
        """Returns the jobs that were submitted for a results folder, by id and by comment; of two with one comment the
        one that runs."""
        ours, found = root.resolve().parent, {}
        folders = {entry.folder: Path(entry.folder).resolve() == ours for entry in self.jobs or ()}
        for entry in sorted(self.jobs or (), key=lambda entry: not entry.waits):
            found[entry.id] = entry
            if folders[entry.folder]:
                found[entry.comment] = entry
        return found


def page(at: Results, wanted: Sequence[str], config: Path | None, *, as_json: bool = False) -> tuple[str, bool]:
    """Returns what a user reads, or JSON, and whether all of it is done.

    wanted: experiments by name; with `config` also that of a file; all of the results folder where there are neither,
    a line each and the jobs of the unfinished ones. Raises JaxrnnError for one that has not been planned.
    """
    submitted = load(config) if config is not None else None
    of_file = [submitted.experiment] if submitted else []
    chosen = sorted({*wanted, *of_file}) or names(at)
    if not chosen:
        raise JaxrnnError(f"{at.root}: no experiment has been planned here; --results names another folder")
    queue = Queue.now()
    found = [of(at, name, queue, submitted if name in of_file else None) for name in chosen]
    done = all(entry.finished for entry in found)
    if as_json:
        values = {"queue": queue.remark, "experiments": [entry.as_json() for entry in found]}
        return json.dumps(values, indent=1), done
    return in_words(found, queue, jobs=lambda entry: bool(wanted or submitted) or not entry.finished), done


def names(at: Results) -> list[str]:
    """Returns the experiments that have been planned in a results folder, the latest last."""
    found = {path.parent.name: path.stat().st_mtime for path in at.root.glob("*/experiment.yaml")}
    return sorted(found, key=lambda name: (found[name], name))


def of(at: Results, name: str, queue: Queue, submitted: Experiment | None = None) -> ExperimentStatus:
    """Returns the state of an experiment; raises JaxrnnError where it has not been planned.

    submitted: what the user's file has now; where that is not what was planned, a remark says so.
    """
    return _Look(at, name, queue).status(submitted)


class _Look:
    """One look at an experiment."""

    def __init__(self, at: Results, name: str, queue: Queue) -> None:
        self.at, self.name, self.folder = at, name, at.experiment(name)
        self.queue, self.queued = queue, queue.of_folder(at.root)
        self.jobs = _planned(self.folder, names(at))
        self.experiment: Experiment | None = None
        self.remarks: list[str] = []
        path = self.folder / "experiment.yaml"
        try:
            self.experiment = parsed(Experiment, read_yaml(path), path)
        except JaxrnnError as error:
            self.remarks.append(_plain(f"stages and rungs are not known: {error}"))
        training, halving = (self.experiment.training, self.experiment.search.halving) if self.experiment else (0, None)
        self.rungs = len(search.rungs(training.epochs, halving)) if training else 1
        store = at.trial(name, "")
        # one listing: a look at each trial's folder would be thousands
        self.finished = set(os.listdir(store)) if store.is_dir() else set()
        self.data_digest = self._data_digest()
        self.trained: list[dict[str, str]] = []  # the rows of finished jobs

    def status(self, submitted: Experiment | None) -> ExperimentStatus:
        if submitted is not None and self.experiment not in (None, submitted):
            self.remarks.append("the experiment file has changed since this plan was made; what follows is of the plan")
        jobs = tuple(self._job(job, trials) for job, trials in self.jobs.items())
        return ExperimentStatus(
            self.name,
            self._stages(jobs),
            jobs,
            str(self.folder / "report.html"),
            self._seconds_left(jobs),
            tuple(self.remarks),
        )

    def _data_digest(self) -> str | None:
        """Returns what stands for the data and splits that are there now, None before there are any."""
        with suppress(JaxrnnError, KeyError, IndexError):
            entries = results.read_json(self.folder / "statistics.json", "jaxrnn split")["statistics"]
            return entries[0]["data_digest"]
        return None

    # --- jobs ---

    def _job(self, name: str, trials: dict[str, str]) -> JobStatus:
        folder = self.at.job(self.name, name)
        table = _trials_table(folder / "trials.csv")
        found = JobStatus(
            name=name,
            state=DONE,
            message="",
            log=str(folder / "log.txt"),
            trials=len(trials),
            trials_finished=sum(fingerprint in self.finished for fingerprint in trials.values()),
            rung=self.rungs if self.rungs > 1 else None,
        )
        if table is not None and self._is_of(table, trials, whole=True):
            outcomes = Counter(row["outcome"] for row in table)
            said = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in outcomes.items())
            self.trained += table
            seconds = sum(float(row["seconds"] or 0) for row in table)
            return replace(found, message=said, trials_finished=len(trials), seconds=seconds)
        number, comment = None, f"rule_train_wildcards_{self.name}_{name}"
        for rung in range(1, self.rungs):
            table = _trials_table(folder / f"rung-{rung}" / "trials.csv")
            # those of later rungs are the ones that went on
            if table is None or not self._is_of(table, trials, whole=rung == 1):
                number, folder = rung, folder / f"rung-{rung}"
                comment = f"rule_rung_wildcards_{self.name}_{name}_{rung}"
                break
        found = replace(found, rung=number or found.rung, log=str(folder / "log.txt"))
        told = progress.read(folder)
        entry = self.queued.get(comment)
        if entry is None and told is not None and told.state == progress.RUNNING and told.slurm_job is not None:
            entry = self.queued.get(told.slurm_job)  # the id of one that has ended may be another job's by now
        if told is not None and (
            told.state == progress.DONE or (entry is not None and not entry.waits and told.slurm_job != entry.id)
        ):
            told = None  # of an earlier run, whose outputs are gone or of other trials; this one has said nothing yet
        state, message = self._running_state(folder, told, entry, comment)
        return replace(
            found,
            state=state,
            message=_plain(message),
            slurm_job=entry.id if entry else told.slurm_job if told else None,
            nodes=(entry.nodes if entry else "") or (told.host if told else ""),
            told=told,
        )

    def _is_of(self, table: list[dict[str, str]], trials: dict[str, str], *, whole: bool) -> bool:
        """Returns whether a table is of the planned trials and of the present data; whole: of all of them."""
        rows = {row.get("trial"): row.get("fingerprint") for row in table}
        of_data = self.data_digest is None or all(row.get("data_digest") == self.data_digest for row in table)
        return of_data and (rows == trials if whole else rows.items() <= trials.items())

    def _running_state(
        self, folder: Path, told: Progress | None, entry: QueuedJob | None, comment: str
    ) -> tuple[str, str]:
        """Returns state and message of a job that is not done."""
        if entry is not None and entry.waits:
            before = f"; before: {told.message or told.state}" if told and told.state in (STOPPED, FAILED) else ""
            return WAITING, f"in the queue: {entry.reason}{before}"
        if entry is not None and told is None:
            return RUNNING, "begins"
        if told is None:
            error = _error(results.tail(folder / "log.txt"))
            return (FAILED, error) if error else (WAITING, "")
        if told.state != RUNNING:
            return told.state, told.message
        if self._lives(told, folder, entry):
            return RUNNING, told.phase
        where = f"SLURM job {told.slurm_job}" if told.slurm_job else f"process {told.process}"
        last = self._cause(comment, told.slurm_job) or "".join(results.tail(folder / "log.txt")[-1:])
        return LOST, f"{where} on {told.host} ended without a word; last sign of it {_ago(told.written)}: {last}"

    def _lives(self, told: Progress, folder: Path, entry: QueuedJob | None) -> bool:
        if entry is not None:
            return True
        if told.slurm_job and self.queue.jobs is not None and _is_mine(folder / progress.NAME):
            return told.began > self.queue.read_at - JUST_NOW_SECONDS
        if told.host == os.uname().nodename:
            return told.lives
        return told.written > time.time() - DEAD_SECONDS

    def _cause(self, comment: str, slurm_job: int | None) -> str:
        """Returns what SLURM said of a job's end, where its log lies at Snakemake's own place."""
        rule, _, values = comment.partition("_wildcards_")
        logs = self.at.root.resolve().parent / ".snakemake" / "slurm_logs"
        lines = results.tail(logs / rule / values / f"{slurm_job}.log") if slurm_job else []
        return next((line for line in reversed(lines) if CAUSE.search(line)), "")

    def _seconds_left(self, jobs: Sequence[JobStatus]) -> float | None:
        """Returns what is left to train over how many jobs train now, of which each trial takes the mean of those of
        finished jobs or, before there is one, what `jaxrnn plan` measured."""
        running = [job for job in jobs if job.state == RUNNING]
        if not running or self.rungs > 1:
            return None
        done = [job for job in jobs if job.state == DONE]
        trials = sum(job.trials for job in done)
        each = sum(job.seconds or 0.0 for job in done) / trials if trials else None
        expected: dict[str, float] = {}
        if each is None and self.experiment is not None:
            with suppress(JaxrnnError, KeyError, TypeError):
                kept = results.read_json(self.folder / estimates.FILE, "jaxrnn plan")
                if kept["experiment"] == digest(self.experiment.model_dump(mode="json")):
                    expected = {row["job"]: float(row["seconds"]) for row in kept["jobs"]}

        def left(job: JobStatus) -> float | None:
            if job.state == RUNNING and job.told is not None and job.told.seconds_left is not None:
                return max(0.0, job.told.seconds_left - (time.time() - job.told.written))
            whole = expected.get(job.name) if each is None else each * job.trials
            return None if whole is None else whole * (1 - job.trials_finished / job.trials)

        lefts = [left(job) for job in jobs if job.state in (RUNNING, WAITING)]
        known = [seconds for seconds in lefts if seconds is not None]
        return max(sum(known) / len(running), *known) if len(known) == len(lefts) else None

    # --- stages ---

    def _stages(self, jobs: Sequence[JobStatus]) -> tuple[StageStatus, ...]:
        """Returns the stages in their order, of which none is done before those in front of it are.

        By what files hold, and not by their times: Snakemake runs nothing anew whose input is the same again.
        """
        if self.experiment is None:
            return ()
        survey, dataset = plan.survey_folder(self.experiment, self.at), plan.dataset_key(self.experiment)
        manifest, logs = self.at.dataset(dataset) / "manifest.json", self.folder / "logs"
        trained = [self.at.job(self.name, job.name) / "trials.csv" for job in jobs]
        chosen, page = self.folder / "best.json", self.folder / "report.html"
        split = [self.folder / "splits.csv", self.folder / "statistics.json"]
        found: list[StageStatus] = []

        def look(name: str, wildcards: str, log: Path, inputs: list[Path], outputs: list[Path]) -> None:
            ready = all(stage.state == DONE for stage in found)
            done = all(path.exists() for path in outputs)
            if name == "aggregate":
                ready = ready and all(job.state == DONE for job in jobs)
                # no trial takes as long twice
                merged = _trials_table(self.folder / "training_results.csv") or []
                done = done and _times(merged) == _times(self.trained)
            entry = self.queued.get(f"rule_{name}_wildcards_{wildcards}")
            if ready and not done and name in ("aggregate", "report"):
                ours = f"{controller.job_names(self.name)}_"
                of_group = (job for job in self.queued.values() if job.comment.startswith(GROUPS))
                entry = entry or next((job for job in of_group if job.name.startswith(ours)), None)
            state, message = (DONE, "") if ready and done and not entry else _stage(log, inputs, entry, ready=ready)
            found.append(StageStatus(name, state, message, str(log)))

        if self.experiment.data.simulation is not None:
            look("simulate", survey.name, survey / "log.txt", [], [survey / "survey.json"])
        look("ingest", dataset, manifest.with_name("log.txt"), [], [manifest])
        look("split", self.name, logs / "split.txt", [manifest], split)
        look("aggregate", self.name, logs / "aggregate.txt", trained, [chosen])
        if self.experiment.audit:
            look("audit", self.name, logs / "audit.txt", [chosen], [self.folder / "audit.json"])
        look("report", self.name, logs / "report.txt", [chosen], [page])
        return tuple(found)


def _planned(folder: Path, others: list[str]) -> dict[str, dict[str, str]]:
    """Returns the jobs of `plan.csv` in their order, each with its trials' fingerprints by id."""
    path, jobs = folder / "plan.csv", {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                jobs.setdefault(row["job"], {})[row["trial"]] = row["fingerprint"]
    except (FileNotFoundError, NotADirectoryError):
        known = f"; planned here: {', '.join(others)}" if others else ""
        raise JaxrnnError(
            f"{path}: no plan yet{nearest(folder.name, others)}{known}. Snakemake writes it when it starts, and "
            "`jaxrnn plan` does"
        )
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise JaxrnnError(f"{path}: cannot be read ({error}); run `jaxrnn plan` again")
    return jobs


def _trials_table(path: Path) -> list[dict[str, str]] | None:
    """Returns the rows of a job's table, of which a rung may have none; None where it is not there."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _times(table: list[dict[str, str]]) -> set[tuple[str, float]]:
    return {(row["trial"], float(row["seconds"] or 0)) for row in table if row.keys() >= {"trial", "seconds"}}


def _stage(log: Path, inputs: list[Path], entry: QueuedJob | None, *, ready: bool) -> tuple[str, str]:
    """Returns state and message of a stage that is not done; ready: whether what comes before it is."""
    if entry is not None and entry.waits:
        return WAITING, f"in the queue: {entry.reason}"
    if entry is not None:
        return RUNNING, f"for {entry.elapsed} on {entry.nodes}, SLURM job {entry.id}"
    written = _changed(log)
    # a log that is older than what the stage needs is of an earlier run
    if not ready or written is None or any(written < (_changed(path) or 0.0) for path in inputs):
        return WAITING, ""
    if error := _error(results.tail(log)):
        return FAILED, _plain(error)
    if written < time.time() - SILENT_STAGE_SECONDS:
        return WAITING, f"began, and its log is silent since {_ago(written)}"
    return RUNNING, ""


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _is_mine(path: Path) -> bool:
    """Returns whether the file is this user's, whose jobs alone the queue shows."""
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _error(lines: Sequence[str]) -> str:
    """Returns with what a command ended, where its log's end is an error, else ""."""
    said = max((index for index, line in enumerate(lines) if _SAID_AT.match(line)), default=-1)
    after = list(lines[said + 1 :])
    begin = next((index for index, line in enumerate(after) if line.startswith("jaxrnn: ")), None)
    if begin is not None:
        return " ".join(line.strip() for line in after[begin:]).removeprefix("jaxrnn: ")
    return after[-1] if any(line.startswith("Traceback ") for line in after) else ""


def _plain(text: str) -> str:
    """Returns a message that may come from anywhere as one line, which cannot steer the terminal."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= LONGEST_MESSAGE else f"{shown[:LONGEST_MESSAGE]}..."


def _ago(moment: float) -> str:
    return f"{duration(max(0.0, time.time() - moment))} ago"


# --- words ---


def in_words(experiments: Sequence[ExperimentStatus], queue: Queue, *, jobs: Callable[[ExperimentStatus], bool]) -> str:
    """Returns the page that a user reads. jobs: of which experiments the jobs are shown."""
    said = [queue.remark] if queue.remark else []
    for entry in experiments:
        if len(said) and jobs(entry):
            said.append("")
        said.append(_first_line(entry))
        said += [f"  {remark}" for remark in entry.remarks]
        if jobs(entry):
            said += _stage_lines(entry)
            said += _job_lines(entry)
    return "\n".join(said)


def _first_line(entry: ExperimentStatus) -> str:
    if entry.finished:
        return f"{entry.name}: done, {plural(len(entry.jobs), 'job')}; {entry.report}"
    counts = {DONE: 0, **entry.counts}
    others = "".join(f", {counts[state]:,} {state}" for state in MOST_ROWS if state != DONE and state in counts)
    left = "" if entry.seconds_left is None else f"; about {duration(entry.seconds_left)} of training left (a guess)"
    return f"{entry.name}: {counts[DONE]:,} of {plural(len(entry.jobs), 'job')} done{others}{left}"


def _stage_lines(entry: ExperimentStatus) -> list[str]:
    words = {DONE: "done", WAITING: "not yet"}
    said = [f"{stage.name} {words.get(stage.state, stage.state)}" for stage in entry.stages]
    lines = [f"  {', '.join(said)}"] if said else []
    for stage in entry.stages:
        log = f" ({stage.log})" if stage.state == FAILED else ""
        lines += [f"    {stage.name}: {stage.message}{log}"] if stage.message else []
    return lines


def _job_lines(entry: ExperimentStatus) -> list[str]:
    """Returns the table of jobs, those that need a look first; of many in one state some, and how many more."""
    by_state = {state: [job for job in entry.jobs if job.state == state] for state in MOST_ROWS}
    if len(by_state[DONE]) > MOST_ROWS[DONE]:
        by_state[DONE] = []  # they are counted above
    header = ["job", "state", "rung", "trials", "epoch", "best", "left", ""]
    rows = [header]
    below: dict[int, list[str]] = {}
    for state, most in MOST_ROWS.items():
        for job in by_state[state][:most]:
            rows.append(_row(job))
            if state in (FAILED, LOST, STOPPED):
                below[len(rows) - 1] = [f"    {job.message}", f"    log: {job.log}"]
        if (more := len(by_state[state]) - most) > 0:
            below.setdefault(len(rows) - 1, []).append(f"  ... and {more:,} more {state}")
    if len(rows) == 1:
        return []
    # columns that hold nothing are left out
    kept = [column for column in range(len(header)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in kept}
    lines = []
    for number, row in enumerate(rows):
        lines.append("  " + "  ".join(row[column].ljust(widths[column]) for column in kept).rstrip())
        lines += below.get(number, [])
    return lines


def _row(job: JobStatus) -> list[str]:
    told = job.told if job.state in (RUNNING, LOST, STOPPED, FAILED) else None
    epoch = f"{told.epoch}/{told.epochs}" if told and told.epoch is not None else ""
    best = f"{told.score} {told.best:.3f}" if told and told.score and told.best is not None else ""
    left = duration(told.seconds_left) if told and told.seconds_left is not None and job.state == RUNNING else ""
    message = "" if job.state in (FAILED, LOST, STOPPED) else job.message
    if job.state == RUNNING:
        slurm_job = f", SLURM job {job.slurm_job}" if job.slurm_job else ""
        message = f"{message} on {job.nodes}{slurm_job}"
        if told and told.written < time.time() - 2 * progress.SIGN_OF_LIFE_SECONDS:
            message += f", last heard of {_ago(told.written)}"
    elif job.state == WAITING and job.slurm_job:
        message = f"{message} (SLURM job {job.slurm_job})".strip()
    rung = str(job.rung) if job.rung else ""
    return [job.name, job.state, rung, f"{job.trials_finished}/{job.trials}", epoch, best, left, message]
