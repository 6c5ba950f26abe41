"""A job on its device: its trials through a pack of fixed width, with checkpoints, signals and progress.

The pack has `width` places. A place whose trial is finished takes the next waiting one at the end of the epoch; every
trial counts its own epochs. Between segments, and only there, the job looks at signals, checkpoints and progress.

With successive halving a job comes once for each rung, and trains those of its trials that went on from the rung
before, from where they were.
"""

import contextlib
import importlib.metadata
import math
import platform
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxrnn import (
    __version__,
    augmentation,
    batches,
    blueprint,
    bundles,
    claims,
    compilation,
    deadlines,
    distributed,
    losses,
    native,
    plan,
    predict,
    predictions,
    progress,
    results,
    shares,
    slurm,
    splits,
    stages,
    training,
    trials,
)
from jaxrnn.batches import Corpus, Part, Schedule, Window, Windows
from jaxrnn.blueprint import Blueprint
from jaxrnn.checkpoints import Checkpoints
from jaxrnn.claims import Claim
from jaxrnn.config import LOWER_IS_BETTER, RUN_KEYS, TRACED_KEYS, Output, RecurrentLayer, digest
from jaxrnn.deadlines import Deadline
from jaxrnn.errors import Interrupted, JaxrnnError, Unwritable, listed, plural
from jaxrnn.estimates import duration
from jaxrnn.plan import JobFile, Trial
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.progress import COMPILING, PREDICTING, TRAINING, Tell
from jaxrnn.ranks import Ranks
from jaxrnn.results import Results
from jaxrnn.slurm import SlurmError
from jaxrnn.splits import Statistics
from jaxrnn.stages import Stage, Store
from jaxrnn.training import Hyperparameters, State
from jaxrnn.trials import FinishedTrial

Say = Callable[[str], None]
T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# How long a job waits between attempts to write its results on a full disk.
WAITS_FOR_ROOM = (5, 15, 30, 60, 120, 240)
FIRST_SEGMENT_STEPS = 16
# A signal within this time of the first one is the same one.
AGAIN_SECONDS = 1.0
ALONE = Ranks()


def train(
    job_file: JobFile,
    at: Results,
    output: Path,
    say: Say,
    *,
    rung: int | None = None,
    retrain: bool = False,
    attempt: int = 1,
    ranks: Ranks = ALONE,
    tell: Tell = progress.nothing,
) -> None:
    """Trains the job's trials that are not finished yet, and writes the job's outputs into `output`.

    rung: of successive halving, counted from 1; the last one where it is None. Those before write `trials.csv` alone,
    into `output`/rung-<rung>.
    retrain: train all of them to the end, with a store and checkpoints of their own under `output`, so that the
    experiment's stay as they are; interrupted, it goes on as any job does.
    attempt: how often it was started, after errors; the report tells of it.
    ranks: the processes that train together, of which the first one alone looks into folders, writes and speaks.
    tell: takes how far it is, as fields of `Progress`.
    Raises JaxrnnError for a missing device or faulty input, Interrupted after a signal (with a checkpoint written).
    """
    say = say if ranks.rank == 0 else _nothing
    stage = ranks.first(lambda: stages.of(job_file, at, rung, retrain=retrain))
    if not stage.last:
        output = output / f"rung-{rung}"
    ranks.first(lambda: _note_allocation(output, ranks, say))
    if not stage.last and not stage.trials:
        ranks.first(lambda: _write_rung(job_file, stage, {}, output))
        say(f"job {job_file.job.name}: none of its trials went on to rung {rung}")
        return
    ranks.first(lambda: results.note_attempt(output, attempt, say))
    distributed.join(ranks, job_file.training.device)
    device = ranks.here(lambda: choose_device(job_file.training.device))
    _check_alike(ranks)
    _check_rows(job_file.training.batch_size)
    inputs = ranks.here(lambda: read_inputs(job_file, at))
    data, folds = inputs.any_data, len(inputs.folds)
    counts = {name: int((data.scored.splits == name).sum()) for name in SCORED_SPLITS}
    say(
        f"job {job_file.job.name}: {len(job_file.job.trials)} trials on {device}; "
        + ", ".join(f"{count} {name}" for name, count in ({"train": len(data.train)} | counts).items())
        + f" sequences of {len(inputs.classes)} classes"
        + (f", in fold {inputs.folds[0]} of {folds} folds" if folds > 1 else "")
    )
    recurrent = any(isinstance(placed.layer, RecurrentLayer) for placed in blueprint.every(inputs.network.placed))
    if recurrent and job_file.training.device == "cpu" and (reason := native.absent()):
        say(f"recurrent layers run as XLA compiles them, and not in their own kernel, which is faster: {reason}")
    base, name = Results(output) if retrain else at, job_file.job.name + ("" if stage.last else f".rung-{rung}")
    folder = base.checkpoints(job_file.experiment, name)
    with contextlib.ExitStack() as stack:
        claim = ranks.here(lambda: stack.enter_context(claims.held(folder)) if ranks.rank == 0 else None)
        store = Store(base, job_file.experiment, inputs.data_digest, claim)
        _train_missing(job_file, stage, inputs, at, store, Checkpoints(folder, claim, ranks), say, ranks, tell)
        ranks.first(lambda: _write(job_file, at, stage, inputs, store, output, rung, say))
        if claim:
            claim.check()
            shutil.rmtree(folder, ignore_errors=True)  # results are whole, and need no checkpoint any more
    say(f"job {job_file.job.name}: done, results in {output}")


def _note_allocation(job_folder: Path, ranks: Ranks, say: Say) -> None:
    """Notes beside a job's outputs what SLURM gives it, which the report compares with what it used: nothing for
    several processes, whose use Snakemake doesn't see."""
    job, path = slurm.own_job(), job_folder / results.ALLOCATION
    path.unlink(missing_ok=True)
    if job is None or ranks.size > 1:
        return
    try:
        results.write_json(path, {"job": job, **asdict(slurm.allocation(job))})
    except (SlurmError, Unwritable) as error:
        say(f"what SLURM gives job {job} is not known, and the report won't tell it ({error})")


def _train_missing(
    job_file: JobFile,
    stage: Stage,
    inputs: "Inputs",
    at: Results,
    store: Store,
    checkpoints: Checkpoints,
    say: Say,
    ranks: Ranks,
    tell: Tell,
) -> None:
    """Trains what is not finished yet."""

    def missing() -> list[Trial]:
        return ranks.first(lambda: [trial for trial in stage.trials if store.found(trial, stage) is None])

    waiting = missing()
    for trial in waiting:
        if ranks.rank == 0 and store.of_other_data(trial):
            say(f"trial {trial.id} was trained on other data or splits; it is trained again")
    if len(waiting) < len(stage.trials):
        finished = len(stage.trials) - len(waiting)
        say(f"{finished} trials are finished already and are kept (--retrain --output FOLDER trains them again there)")
    if waiting:
        # several processes must find the same programs or all compile them, and jobs of several are few and long
        shared = contextlib.nullcontext(lambda: None)
        if ranks.size == 1:
            shared = compilation.shared(_compiled(job_file, inputs, at), say)
        with shared as publish:
            _train_all(job_file, stage, inputs, missing, store, checkpoints, say, publish, ranks, tell)


def _write(
    job_file: JobFile,
    at: Results,
    stage: Stage,
    inputs: "Inputs",
    store: Store,
    output: Path,
    rung: int | None,
    say: Say,
) -> None:
    """Writes the job's outputs, of trials that are all in the store."""
    folders = {}
    for trial in job_file.job.trials if stage.last else stage.trials:
        folder = store.found(trial, stage)
        if folder is None:
            raise JaxrnnError(
                f"trial {trial.id}: successive halving ended it, and what it was then is no longer in "
                f"{store.results.trial(job_file.experiment, '')}; run `jaxrnn train --rung 1` with "
                f"{at.job(job_file.experiment, job_file.job.name) / 'config.yaml'}, then the next ones"
            )
        folders[trial.fingerprint] = folder
    if stage.last:
        _patiently(lambda: _write_outputs(job_file, inputs, stage, folders, output, store.claim), say)
    else:
        _patiently(lambda: _write_rung(job_file, stage, folders, output, inputs.data_digest, store.claim), say)


def train_variants(
    job_file: JobFile, at: Results, inputs: "Inputs", variants: "Mapping[str, Data]", base: Results, say: Say
) -> dict[str, np.ndarray]:
    """Trains networks like the job's first trial, one on each variant of its data, as a job of their own; returns the
    probabilities of the variants' test splits.

    inputs: what `read_inputs` gives for the job. base: where they are kept, so that a later call finds those that are
    finished, and goes on from the checkpoint. A variant's name, with the trial and the experiment's seed, from which
    it is drawn, decides what it becomes.
    Raises what `train` raises.
    """
    (first, *_), epochs = job_file.job.trials, job_file.training.epochs
    of_all = first.fingerprint, epochs, job_file.seed
    trials_of_variants = tuple(
        first.model_copy(update={"id": name, "fold": fold, "fingerprint": digest([*of_all, name])})
        for fold, name in enumerate(variants)
    )
    job = job_file.job.model_copy(update={"name": "variants", "trials": trials_of_variants})
    job_file = job_file.model_copy(update={"experiment": "audit", "job": job})
    own = inputs.statistics[first.fold]
    folds: dict[int | None, Data] = dict(enumerate(variants.values()))
    augment = augmentation.read(
        job_file.augmentation,
        job_file.data,
        at.dataset(job.dataset),
        *[own] * len(folds),
        labels_by_step=inputs.any_data.train.labels_by_step,
    )
    inputs = Inputs(dict.fromkeys(folds, own), folds, list(folds), inputs.network, augment, inputs.corpus)
    stage, folder = Stage(job_file.training.epochs, job.trials), base.checkpoints("audit", job.name)
    with claims.held(folder) as claim:
        store = Store(base, "audit", inputs.data_digest, claim)
        checkpoints = Checkpoints(folder, claim, ALONE)
        _train_missing(job_file, stage, inputs, at, store, checkpoints, say, ALONE, progress.nothing)
        claim.check()
        found = {trial.id: store.found(trial, stage) for trial in job.trials}
        shutil.rmtree(folder, ignore_errors=True)
    return {name: trials.load(path).probabilities["test"] for name, path in found.items() if path is not None}


def _train_all(
    job_file: JobFile,
    stage: Stage,
    inputs: "Inputs",
    missing: Callable[[], list[Trial]],
    store: Store,
    checkpoints: Checkpoints,
    say: Say,
    publish: Callable[[], None],
    ranks: Ranks,
    tell: Tell,
) -> None:
    """Trains what the stage asks for and is missing yet; a pack that does not fit the device at half its width."""
    deadline = deadlines.deadline(say) if ranks.rank == 0 else Deadline(None)
    reads_again = not all(windows.whole for windows in _windows(job_file, inputs))

    def train(halvings: int) -> None:
        while waiting := missing():
            with _Pack(job_file, stage, inputs, waiting, store, checkpoints, say, halvings, ranks) as pack:
                began = time.monotonic()
                pack.run(publish, deadline, tell)
                say(f"waited for input {100 * pack.waited / (time.monotonic() - began):.1f} % of the time")

    with contextlib.ExitStack() as stack:
        if reads_again:
            ranks.here(lambda: stack.enter_context(inputs.corpus.staged(say)))
        _fitting(job_file, train, checkpoints, say)


def _windows(job_file: JobFile, inputs: "Inputs") -> tuple[Windows, Windows]:
    """Returns what is trained on and what is watched, in windows."""
    settings, every = job_file.training, list(inputs.data.values())
    most_bytes = settings.window_mb * 1e6 / len(every)  # of each fold: a pack may hold all of them
    held = [list(inputs.data).index(fold) for fold in inputs.folds]
    longest = batches.edges(np.concatenate([data.train.lengths for data in every]), settings.length_buckets)
    # the split's seed draws the windows: trials of all seeds walk through the same ones
    seed = plan.split_seed(job_file.model_dump())
    trained, watched = [data.train for data in every], [data.validation for data in every]
    return (
        Windows(trained, longest, most_bytes, held=held, seed=seed, epochs=settings.epochs),
        predict.evaluation_windows(watched, longest, most_bytes, held),
    )


def _patiently(write: Callable[[], None], say: Say) -> None:
    """Calls `write`, and where the disk is full again after a while, for some minutes; then raises Unwritable."""
    for seconds in WAITS_FOR_ROOM:
        try:
            return write()
        except Unwritable as error:
            if not error.full:
                raise
            say(f"{error}; it is tried again in {seconds} s")
            time.sleep(seconds)
    return write()


class _DoesNotFit(Exception):
    """That a pack's program needs more memory than its device has left."""


def _fitting(job_file: JobFile, run: Callable[[int], Any], checkpoints: Checkpoints, say: Say) -> Any:
    """Returns what `run` returns, called with how often the pack's width is to be halved, until its pack fits the
    device; raises JaxrnnError where one trial alone does not."""
    halvings = 0
    while True:
        try:
            return run(halvings)
        except (jax.errors.JaxRuntimeError, _DoesNotFit) as error:
            reason = str(error).strip().partition("\n")[0]
            # of several processes others may have had memory enough, and be where they can't be called back from
            final = "RESOURCE_EXHAUSTED" not in reason or jax.process_count() > 1
            if isinstance(error, jax.errors.JaxRuntimeError) and final:
                raise
        if _most_places(job_file, halvings) == 1:
            raise JaxrnnError(
                f"job {job_file.job.name}: the device's memory is too small for one trial ({reason}); lower "
                "`training.window_mb` or `training.batch_size`, take a smaller network, or a device with more memory"
            )
        halvings += 1
        most = plural(_most_places(job_file, halvings), "trial")
        say(f"the pack does not fit the device's memory ({reason}); it begins anew with {most} at once")
        checkpoints.clear()  # of the width that does not fit


def _most_places(job_file: JobFile, halvings: int) -> int:
    """Returns how many trials may train at once, after so many times that a pack did not fit."""
    return max(1, min(len(job_file.job.trials), job_file.training.trials_per_job) >> halvings)


def calibrate(job_file: JobFile, at: Results, seconds: float) -> dict[str, Any]:
    """Trains the job's trials for about so many seconds, of which nothing is kept but what was compiled; returns what
    they take on this device.

    Of the whole pack, of `pack_width` places: `compile_seconds`, `step_seconds`, `epoch_end_seconds` (validation),
    `end_seconds` (checkpoint, predictions); `steps` an epoch; `memory_mb`, the process's largest so far, and
    `device_memory_mb`, None where the device doesn't tell; `timed_seconds`, that all this took; `parameters` of a
    network, and `device`.
    """
    device = choose_device(job_file.training.device)
    inputs = read_inputs(job_file, at)

    def timed(action: Callable[[], Any]) -> float:
        began = time.monotonic()
        action()
        return time.monotonic() - began

    def train(halvings: int) -> dict[str, Any]:
        began = time.monotonic()
        with _Pack(job_file, stage, inputs, [*stage.trials], store, checkpoints, _nothing, halvings) as pack:
            _, steps = pack.epoch_steps()
            first, done, taken = timed(pack.some_steps), 0, 0.0
            while not done or taken < seconds:
                if pack.epoch_steps()[0] == steps:
                    pack.window = 0  # the same epoch again
                before = pack.epoch_steps()[0]
                taken += timed(pack.some_steps)
                done += pack.epoch_steps()[0] - before
            compiling, ending = timed(pack.end_epoch), timed(pack.end_epoch)
            return {
                "pack_width": len(pack.places),
                "steps": steps,
                "compile_seconds": max(first - FIRST_SEGMENT_STEPS * taken / done, 0.0) + max(compiling - ending, 0.0),
                "step_seconds": taken / done,
                "epoch_end_seconds": ending,
                "end_seconds": timed(pack.end),
                "timed_seconds": time.monotonic() - began,
            }

    with (
        tempfile.TemporaryDirectory(prefix="jaxrnn-") as folder,
        compilation.shared(_compiled(job_file, inputs, at), _nothing),
    ):
        stage = stages.Stage(job_file.training.epochs, job_file.job.trials)
        store = Store(Results(Path(folder)), job_file.experiment, inputs.data_digest)
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        found = _fitting(job_file, train, checkpoints, _nothing)
    peaks = [(entry.memory_stats() or {}).get("peak_bytes_in_use") for entry in jax.local_devices()]
    return {
        "device": device,
        "parameters": inputs.network.parameters,
        **found,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "device_memory_mb": None if None in peaks else sum(peaks) / 1e6,  # pyright: ignore
    }


def _nothing(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Inputs:
    """What a job reads: statistics and data of each fold of the experiment, which of them are its trials', the network
    and augmentation that they are for, and the dataset that all data are of. Without folds there is one, None."""

    statistics: dict[int | None, Statistics]
    data: dict[int | None, "Data"]
    folds: list[int | None]
    network: Blueprint
    augment: training.Augment | None
    corpus: Corpus

    @property
    def any_data(self) -> "Data":
        """Returns the data of one of the job's folds, for what is the same in all."""
        return self.data[self.folds[0]]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.statistics[self.folds[0]].classes

    @property
    def data_digest(self) -> str:
        """Returns what stands for the data and all splits of it."""
        return self.statistics[self.folds[0]].data_digest


def read_inputs(job_file: JobFile, at: Results) -> Inputs:
    experiment_folder = at.experiment(job_file.experiment)
    folds = [None] if job_file.split.folds is None else [*range(job_file.split.folds)]
    sequences = job_file.training.sequences
    statistics = {fold: splits.read_statistics(experiment_folder, fold, sequences) for fold in folds}
    digests = {entry.settings_digest for entry in statistics.values()}
    if digests != {splits.settings_digest(job_file)}:
        raise JaxrnnError(
            f"{experiment_folder / 'splits.csv'}: made with other settings of `split`, `task` or `normalisation` "
            "than this job has; run `jaxrnn split` and `jaxrnn plan` with the same experiment file, then train again"
        )
    dataset = at.dataset(job_file.job.dataset)
    table, seed = splits.read_splits(experiment_folder), plan.split_seed(job_file.model_dump())
    corpus = Corpus(dataset, table, *statistics.values(), task=job_file.task, seed=seed)
    named = ("train",), ("validation",), SCORED_SPLITS
    data = {fold: Data(*(corpus.part(*names, fold=fold) for names in named)) for fold in folds}
    own = job_file.job.folds
    train, classes = data[own[0]].train, statistics[own[0]].classes
    splits.check_classes(job_file, classes)
    kind = job_file.task.kind
    outputs = job_file.loss.outputs(len(classes), kind)
    network = blueprint.of(job_file.model, kind, train.features, train.metadata, outputs)
    parts = [part for fold in own for part in (data[fold].train, data[fold].validation, data[fold].scored)]
    network.check_length(max(int(part.lengths.max()) for part in parts))
    if kind == "label_sequence":
        for part in parts:
            splits.check_spelling(part.ids, part.lengths, part.labels, network)
    normalised, by_step = [statistics[fold] for fold in own], train.labels_by_step
    augment = augmentation.read(job_file.augmentation, job_file.data, dataset, *normalised, labels_by_step=by_step)
    return Inputs(statistics, data, own, network, augment, corpus)


def _compiled(job_file: JobFile, inputs: Inputs, at: Results) -> Path:
    """Returns where jobs whose programs are the same leave them to each other."""
    # parts of one size make programs of the same shapes, whatever is in them: folds, and splits by another seed
    of_folds = [inputs.data[fold] for fold in inputs.folds]
    sizes = [[len(part) for part in (data.train, data.validation, data.scored)] for data in of_folds]
    return at.compiled(compilation.key([_static_settings(job_file), sizes, _software()]))


def choose_device(wanted: str) -> str:
    """Returns the device's name, and how many there are, after making its kind the only one in use; raises
    JaxrnnError where it is not there."""
    if wanted == "cpu":
        jax.config.update("jax_platforms", "cpu")
        # a device a core, which share a pack out; a process that has used JAX before keeps what it has
        if jax.config.jax_num_cpu_devices < 0:  # pyright: ignore[reportAttributeAccessIssue] (set by none so far)
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", native.cores())
    try:
        devices, own = jax.devices(wanted), jax.local_devices(backend=wanted)
    except RuntimeError as error:
        raise JaxrnnError(
            f"training.device: gpu, and JAX {jax.__version__} on {platform.node()} finds only {_usable_devices()} "
            f"({error}). "
            "Ask the scheduler for a GPU, install the CUDA build (pip install 'jaxrnn[cuda12]' or [cuda13]), or set "
            "`training.device: cpu`"
        )
    jax.config.update("jax_default_device", own[0])
    several = f" x {len(devices)}" if len(devices) > 1 else ""
    return f"{devices[0].platform} ({devices[0].device_kind}){several}"


def _check_alike(ranks: Ranks) -> None:
    """Raises JaxrnnError where the processes would not come to the same digits: each makes the same step for itself."""
    if ranks.size == 1:
        return
    found = ranks.each(lambda: {**_software(), "processor": compilation.key([])})
    values = {
        name: sorted({str(other[name]) for other in found}) for name in found[0] if name not in ("cores", "recurrence")
    }
    if differ := [f"{name} ({listed(values[name])})" for name in values if len(values[name]) > 1]:
        raise JaxrnnError(
            f"training.processes: {ranks.size}, which differ in {', '.join(differ)}. Those that train together must "
            "come to the same digits; ask the scheduler for nodes of one kind, with the same software"
        )


def _check_rows(batch_size: int) -> None:
    devices = training.row_devices()
    if batch_size % devices:
        raise JaxrnnError(
            f"training.batch_size: {batch_size} rows can't be shared out evenly among the {devices} devices of "
            f"{plural(jax.process_count(), 'process')}; take a multiple, or fewer devices (on a CPU, cores) for each"
        )


def _usable_devices() -> str:
    try:
        return ", ".join(sorted({f"{device.platform} ({device.device_kind})" for device in jax.devices()}))
    except (RuntimeError, AssertionError):
        return "nothing that it can use"


class _Signals:
    """Remembers that a signal came, for the loop to see between segments. A second one does not wait for that: Ctrl-C
    ends the process at once, and others do what they do outside of the loop."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            # a launcher hands on what the terminal sent already
            if time.monotonic() - self._since < AGAIN_SECONDS:
                return
            signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else self._before[number])
            signal.raise_signal(number)
        self.received, self._since = number, time.monotonic()


@dataclass(frozen=True)
class Data:
    """What is trained on, what is watched, and what is predicted once a trial is finished (validation and test)."""

    train: Part
    validation: Part
    scored: Part

    def places_of(self, split: str, network: Blueprint) -> np.ndarray:
        """Returns which of the scored part's places, as `predict.probabilities` has them, are of a split."""
        return np.repeat(self.scored.splits == split, network.places(self.scored.lengths))

    def labels_of(self, split: str) -> np.ndarray:
        """Returns the labels of a split's objects, or of their steps."""
        chosen = self.scored.splits == split
        return self.scored.labels[np.repeat(chosen, self.scored.lengths) if self.scored.labels_by_step else chosen]


@dataclass
class _Place:
    """What the host knows of one trial in the pack; input_seconds: those of `seconds` in which input was waited for."""

    trial: Trial
    history: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    input_seconds: float = 0.0
    halted: Path | None = None  # from where it goes on

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("history", "seconds", "input_seconds")}
        return {"fingerprint": self.trial.fingerprint, **values}


class _Pack:
    """The trials of a job that train at once; `places[i]` is what trains at place i, None where it is empty."""

    def __init__(
        self,
        job_file: JobFile,
        stage: Stage,
        inputs: Inputs,
        waiting: list[Trial],
        store: Store,
        checkpoints: Checkpoints,
        say: Say,
        halvings: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.job_file, self.stage, self.say, self.halvings = job_file, stage, say, halvings
        self.ranks = ranks
        self.inputs, self.network, self.augment = inputs, inputs.network, inputs.augment
        self.store, self.checkpoints, self.waiting = store, checkpoints, list(waiting)
        self.windows, self.validation = _windows(job_file, inputs)
        self.kind: Output = job_file.task.kind
        self._targets: training.Targets | None = None
        self.outputs = job_file.loss.outputs(len(inputs.classes), self.kind)
        self._replace = jax.jit(self._replaced)
        # the window of the epoch under way, and the step within it
        self.window, self.step = 0, 0
        self.segment_steps = FIRST_SEGMENT_STEPS
        self._scheduled: tuple[Window, Schedule] | None = None
        self.compiled = False
        self.tell: Tell = progress.nothing  # until it runs
        self.refused = False  # the last checkpoint
        self.places: list[_Place | None] = []
        self.program: training.Program
        self.hypers: Hyperparameters
        self.states: State
        if not self._resume():
            # on a CPU empty places take no time: every rung of a job, and every rerun, then runs the same program
            count = len(self.waiting) if training.together() else len(job_file.job.trials)
            most = _most_places(job_file, halvings)
            self.places = [None] * training.width_for(min(count, most))
            self._fill(min(len(self.waiting), most))
            self._make_program()
            self.states = self._begun()
        self._let_idle()

    def _let_idle(self) -> None:
        """Lets empty places rest: what they hold has no part in anything, and on a CPU then takes no time."""
        occupied = np.array([place is not None for place in self.places])
        running = np.asarray(self.states.running) & occupied
        self.states = shares.put(self.states._replace(running=running), self.program.own)

    def _fill(self, count: int) -> np.ndarray:
        """Gives so many empty places to the next waiting trials; returns which places."""
        empty = [index for index, place in enumerate(self.places) if place is None]
        # each device has as many places side by side: few trials are shared out among all devices
        own = len(self.places) // training.devices_for(len(self.places))
        empty = sorted(empty, key=lambda index: (index % own, index))[:count]
        for index in empty:
            trial = self.waiting.pop(0)
            self.places[index] = self.ranks.first(lambda trial=trial: self._place(trial))
        began = [place for place in self.places if place is not None]
        if not self.windows.whole and len({len(place.history) for place in began}) > 1:
            # what a window holds depends on the epoch, which must be that of all
            self.say("some trials have no rung to go on from; all of them begin anew")
            self.places = [None if place is None else _Place(place.trial) for place in self.places]
        return np.isin(np.arange(len(self.places)), empty)

    def _place(self, trial: Trial) -> _Place:
        """Returns the place of a trial that begins, or goes on from an earlier rung."""
        folder = self.store.halted(trial, self.stage.until)
        if folder is None:
            return _Place(trial)
        record, software = trials.record(folder) or {}, _software()
        changed = [name for name in ("jaxrnn", *trials.LIBRARIES) if record.get(name) != software[name]]
        if changed:
            self.say(f"trial {trial.id} was halted under another {listed(changed)}; it begins anew")
            return _Place(trial)
        return _Place(trial, trials.history(folder), record["seconds"], record["input_seconds"], folder)

    def _begun(self) -> State:
        """Returns the states in which the trials at all places begin, or go on from an earlier rung."""
        states = self.program.begin(jax.device_get(self.hypers))
        taken = [(index, place) for index, place in enumerate(self.places) if place is not None]
        resumed = {index: (place, place.halted) for index, place in taken if place.halted is not None}
        if not resumed:
            return states
        leaves, structure = jax.tree.flatten(jax.device_get(states))
        leaves = [np.array(leaf) for leaf in leaves]
        for index, (place, folder) in resumed.items():
            for leaf, kept in zip(leaves, self.ranks.first(lambda folder=folder: trials.state(folder)), strict=True):
                leaf[index] = kept
            place.halted = None  # it has begun, and is not read again when another place is filled
        return shares.put(jax.tree.unflatten(structure, leaves), self.program.own)

    def _make_program(self) -> None:
        """Makes the program for as many places as there are, and their hyperparameters."""
        job_file, train = self.job_file, self.inputs.any_data.train
        # of all trials, the finished ones among them: where a job was stopped changes nothing of its program
        recurrent_dropout = any(trial.hyperparameters["model.recurrent_dropout"] > 0 for trial in job_file.job.trials)
        self.program = training.make(
            job_file.model,
            job_file.training,
            train.features,
            train.metadata,
            self.outputs,
            self.augment,
            kind=self.kind,
            recurrent_dropout=recurrent_dropout,
            folds=len(self.inputs.folds),
            waits=len(self.inputs.data) > 1,
            devices=training.devices_for(len(self.places)),
            row_devices=training.row_devices(),
            **_monitored(job_file, self.inputs.classes),
        )
        self.hypers = self._hyperparameters()
        self.windows.sharding = self.validation.sharding = self.program.common

    def __enter__(self) -> "_Pack":
        return self

    def __exit__(self, *error: object) -> None:
        for windows in (self.windows, self.validation):
            windows.__exit__(*error)

    @property
    def epoch(self) -> int:
        """Returns how many epochs the trials have finished. Those of a pack that train in more than one window began
        together; of others it decides nothing."""
        return min([len(place.history) for place in self.places if place is not None], default=0)

    @property
    def waited(self) -> float:
        """Returns the seconds in which the device has waited for input."""
        return self.windows.waited + self.validation.waited

    def run(self, publish: Callable[[], None], deadline: Deadline, tell: Tell) -> None:
        """Trains until no trial runs or waits; each finished one is in the store before the next epoch begins.

        publish: is called between segments, when programs may have been compiled. deadline: before which it stops as by
        a signal. tell: of `train`.
        """
        self.tell = tell
        tell(phase=COMPILING)
        line = _Progress(self)
        saved = time.monotonic()
        with _Signals() as signals:
            while any(self.places):
                began, waited = time.monotonic(), self.waited
                self.some_steps()
                ended = self.window == self.windows.count(self.epoch)
                report = self._finish_epoch() if ended else None
                self._share(time.monotonic() - began, self.waited - waited)
                if report is not None:
                    self._keep(report)
                    if not any(self.places):
                        break
                line.tell()
                publish()

                def look(saved: float = saved) -> tuple[bool, bool, int | None]:
                    # a disk that does not answer stops nothing: the claim is looked at again before each write
                    with contextlib.suppress(OSError):
                        if self.checkpoints.claim:
                            self.checkpoints.claim.check()
                    due = time.monotonic() - saved > 60 * self.job_file.training.checkpoint_minutes
                    return due, deadline.is_near(), signals.received

                # one process's clock counts, and a signal to any of them
                told = self.ranks.each(look)
                (due, late, _), received = told[0], next((number for *_, number in told if number is not None), None)
                if late or received is not None:
                    self._save(self._unless_refused)
                    by = "the end of its time" if received is None else signal.Signals(received).name
                    kept = "the one before stays" if self.refused else "the checkpoint is written"
                    # every start of a job that is requeued comes further, by a segment at least
                    raise Interrupted(
                        f"job {self.job_file.job.name}: stopped by {by}; {kept}, and the same command goes on from it",
                        requeue=late or received in deadlines.REQUEUING,
                    )
                if due:
                    began = time.monotonic()
                    self._save(self._unless_refused)
                    saved = time.monotonic()
                    deadline.saving = max(deadline.saving, saved - began)

    def _unless_refused(self, write: Callable[[], None]) -> None:
        """Writes a checkpoint that another one follows: training is worth more than each of them."""
        self.refused = False
        try:
            write()
        except Unwritable as error:
            self.refused = True
            self.say(f"{error}; the checkpoint is tried again when the next one is due, and the one before stays")

    def some_steps(self) -> None:
        """Trains for a segment, at most to the end of the window."""
        # inside of a program no process waits for another one's input
        window = self.ranks.here(lambda: self.windows.get(self.epoch, self.window))
        batch_size = self.job_file.training.batch_size
        if self._scheduled is None or self._scheduled[0] is not window:
            by_window = self._window_steps()
            before, most_steps = sum(by_window[: self.window]), self._steps(self.windows.rows)
            schedule = batches.schedule(window.counts, batch_size, most_steps, before, sum(by_window))
            self._scheduled = window, shares.put(schedule, self.program.common)
        steps = self._steps(window.counts)
        stop = min(self.step + self.segment_steps, steps)
        numbers = [np.int32(number) for number in (self.window, self.step, stop)]
        arguments = self.states, self.hypers, window.buckets, self._scheduled[1], *numbers
        if not self.compiled:
            self._check_memory(arguments)
        # all make the next segment as long as the first process does
        self._adapt_segment(self.ranks.each(lambda: self._advance(arguments))[0], stop - self.step)
        self.window, self.step = (self.window, stop) if stop < steps else (self.window + 1, 0)

    def _advance(self, arguments: Any) -> float:
        """Trains on; returns the seconds that it took."""
        began = time.monotonic()
        self.states = self._together(lambda: self.program.advance(*arguments))
        return time.monotonic() - began

    def _check_memory(self, arguments: Any) -> None:
        """Raises _DoesNotFit where the program, by its own analysis, needs more memory than a device has left."""
        devices = training.devices_for(len(self.places)) * training.row_devices()
        told = self.ranks.each(lambda: training.free_memory(devices))
        free = None if None in told else min(told)  # pyright: ignore[reportArgumentType]
        if not hasattr(self.program.advance, "lower"):  # a function around it, which times it
            return
        if free is None and self.ranks.size == 1:
            return
        lowered = self.program.advance.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
        # no process waits inside of it for one that still compiles it
        compiled = self.ranks.here(lowered.compile)
        if free is None:
            self.program = self.program._replace(advance=compiled)
            return
        needed = training.memory_needed(compiled)
        where = "" if devices == 1 else f" on each of {devices} devices"
        trials = plural(len(self.places), "trial")
        reason = f"{needed / 1e6:,.0f} MB for {trials}{where}, and {free / 1e6:,.0f} MB are free"
        if needed > free:
            raise _DoesNotFit(reason)
        self.say(f"memory: {reason}")
        self.program = self.program._replace(advance=compiled)  # it need not be compiled again

    def _steps(self, counts: np.ndarray) -> int:
        """Returns how many batches buckets with so many sequences make."""
        return int(-(-counts // self.job_file.training.batch_size).sum())

    def epoch_steps(self) -> tuple[int, int]:
        """Returns how many steps of the epoch under way are done, and how many it has."""
        steps = self._window_steps()
        return sum(steps[: self.window]) + self.step, sum(steps)

    def _window_steps(self) -> list[int]:
        """Returns how many steps each window of the epoch under way has."""
        epoch = self.epoch
        return [self._steps(self.windows.counts(epoch, index)) for index in range(self.windows.count(epoch))]

    def _adapt_segment(self, seconds: float, steps: int) -> None:
        wanted = self.job_file.training.segment_seconds
        if not self.compiled:
            self.compiled = True  # in this time: it says nothing yet
        elif seconds > wanted and self.segment_steps > 1:
            self.segment_steps = max(1, math.floor(self.segment_steps * wanted / seconds))
        elif seconds < wanted / 2 and steps == self.segment_steps:
            self.segment_steps *= 2

    def end_epoch(self) -> None:
        """Ends the epoch where it is."""
        self._keep(self._finish_epoch())

    def end(self) -> None:
        """Ends all trials where they are: with a checkpoint, and in the store."""
        self._save()
        self._store_all([index for index, place in enumerate(self.places) if place is not None])

    def _together(self, compute: Callable[[], T]) -> T:
        """Returns what all processes compute together, once it is there; raises JaxrnnError where another one has gone,
        or this one has no memory left."""
        try:
            return jax.block_until_ready(compute())
        except jax.errors.JaxRuntimeError as error:
            if self.ranks.size == 1:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise JaxrnnError(
                f"job {self.job_file.job.name}: process {self.ranks.rank} of {self.ranks.size} on {platform.node()} "
                f"can't go on with the others ({reason}); another one may have ended, or the memory may be too small. "
                "The same command goes on from the last checkpoint"
            )

    def _finish_epoch(self) -> tuple[Any, Any, training.EpochReport]:
        """Returns the trials' epochs, which of them go on, and their reports."""
        logits, targets, folds = [], [], len(self.inputs.folds)
        for index in range(self.validation.count()):
            # inside of a program no process waits for another one's input
            window = self.ranks.here(lambda index=index: self.validation.get(0, index))
            logits.append(self.program.evaluate(self.states, self.hypers, window.buckets))
            if self._targets is None:
                of_fold = [[batches.fold_rows(entry, fold, folds) for entry in window.buckets] for fold in range(folds)]
                targets.append([training.targets(self.kind, buckets) for buckets in of_fold])
        if self._targets is None:  # the same in every epoch
            found = training.of_folds([training.joined(list(pieces)) for pieces in zip(*targets, strict=True)])
            self._targets = shares.put(found, self.program.common)
        told = self.ranks.each(lambda: self._together(lambda: self._epoch_ended(logits)))
        for other in told[1:]:
            same = zip(jax.tree.leaves(told[0]), jax.tree.leaves(other), strict=True)
            if not all(np.array_equal(a, b, equal_nan=True) for a, b in same):
                raise JaxrnnError(
                    f"job {self.job_file.job.name}: its {self.ranks.size} processes came to different digits in epoch "
                    f"{self.epoch + 1}; ask the scheduler for nodes of one kind"
                )
        return told[0]

    def _epoch_ended(self, logits: list[jax.Array]) -> tuple[Any, Any, training.EpochReport]:
        together = logits[0] if len(logits) == 1 else jnp.concatenate(logits, axis=1)
        self.states, report = self.program.finish_epoch(self.states, self.hypers, together, self._targets)
        return jax.device_get((self.states.epoch, self.states.running, report))

    def _keep(self, reported: tuple[Any, Any, training.EpochReport]) -> None:
        """Takes an epoch into the histories, stores the trials that ended with it, and fills their places."""
        epochs, running, report = reported
        self.window, self.step = 0, 0
        for index, place in enumerate(self.places):
            if place is not None:
                in_training = report.learning_rate, report.train_loss, report.train_accuracy
                scores = [entry[index] for entry in (*in_training, *report.validation)]
                place.history.append([float(epochs[index]), *map(float, scores)])
        ended = self._ended(running)
        if ended:
            # the checkpoint comes first: were the store ahead of it, a resumed job would begin with fewer trials, and
            # so another width, than it had
            self._save(lambda write: _patiently(write, self.say))
            self._store_all(ended)
        self._refill()
        if not self.stage.last and None in self.places:
            self._let_idle()  # what a rung halts would run on

    def _ended(self, running: Any) -> list[int]:
        """Returns the places whose trials are finished, or halted by the rung; between epochs."""
        return [
            index
            for index, place in enumerate(self.places)
            if place is not None and (not running[index] or len(place.history) >= self.stage.until)
        ]

    def _share(self, seconds: float, waited: float) -> None:
        occupied = [place for place in self.places if place is not None]
        for place in occupied:
            place.seconds += seconds / len(occupied)
            place.input_seconds += waited / len(occupied)

    def _store_all(self, ended: list[int]) -> None:
        """Stores the finished trials and empties their places."""
        self.tell(phase=PREDICTING)
        self.ranks.first(lambda: self._store_each(ended))
        for index in ended:
            self.places[index] = None

    def _store_each(self, ended: list[int]) -> None:
        # what makes a finished trial leaves the device at once, not leaf by leaf for each of them
        kept = ("best_parameters", "best_statistics", "best_epoch", "epoch", "diverged")
        halts = not self.stage.last
        found = jax.device_get(self.states if halts else {name: getattr(self.states, name) for name in kept})
        found = found._asdict() if halts else found
        states = [jax.tree.map(lambda leaf, at=index: leaf[at], found) for index in ended]
        networks = [predict.flattened(state["best_parameters"], state["best_statistics"]) for state in states]
        model, most_bytes = self.job_file.model, self.job_file.training.window_mb * 1e6
        predicted: dict[int, np.ndarray] = {}
        attention: dict[int, dict[str, np.ndarray]] = {}
        folds = [self._trial_at(index).fold for index in ended]
        for fold in self.inputs.folds:
            # all of a fold in one walk through the data; a trial without a best epoch has no network to predict with
            trained = [place for place, state in enumerate(states) if state["best_epoch"] and folds[place] == fold]
            if not trained:
                continue
            own, scored = [networks[place] for place in trained], self.inputs.data[fold].scored
            found = predict.probabilities(model, own, scored, self.outputs, most_bytes, kind=self.kind)
            predicted |= dict(zip(trained, found, strict=True))
            if model.decoder is not None:
                found = predict.attention(model, own, scored, scored.splits == "test", self.outputs, kind=self.kind)
                attention |= dict(zip(trained, found, strict=True))
        for place, index in enumerate(ended):
            places = int(self.network.places(self.inputs.data[folds[place]].scored.lengths).sum())
            nothing = np.full((places, max(self.outputs, 2)), np.nan, dtype=np.float32)
            self._store(index, states[place], networks[place], predicted.get(place, nothing), attention.get(place, {}))

    def _trial_at(self, index: int) -> Trial:
        """Returns the trial that trains at a place."""
        place = self.places[index]
        assert place is not None
        return place.trial

    def _refill(self) -> None:
        """Gives each empty place to the next waiting trial; between epochs, which all places walk through together.

        Where an epoch has several windows, its number decides what they hold: trials then begin only together, so that
        none of them depends on when a place became free.
        """
        if any(self.places) and not self.windows.whole:
            return
        fresh = self._fill(min(len(self.waiting), self.places.count(None)))
        if fresh.any():
            self.hypers = self._hyperparameters()
            replaced = self._replace(self.states, self._begun(), fresh)
            self.states = shares.put(replaced, self.program.own)

    @staticmethod
    def _replaced(states: State, fresh_states: State, fresh: jax.Array) -> State:
        def choose(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return jax.tree.map(choose, states, fresh_states)

    def _hyperparameters(self) -> Hyperparameters:
        """Returns the pack's hyperparameters; an empty place repeats the first trial's, and nothing reads it."""
        any_trial = next((place.trial for place in self.places if place is not None), None) or self.waiting[0]
        rows = []
        for place in self.places:
            trial = any_trial if place is None else place.trial
            values = trial.hyperparameters
            clip = values["training.gradient_clip"]
            rows.append(
                Hyperparameters(
                    seed=np.uint32(trial.seed),
                    learning_rate=np.float32(values["training.learning_rate"]),
                    dropout=np.float32(values["model.dropout"]),
                    recurrent_dropout=np.float32(values["model.recurrent_dropout"]),
                    l2=np.float32(values["loss.l2"]),
                    gamma=np.float32(values["loss.gamma"]),
                    class_weights=losses.class_weights(
                        values["loss.class_weights"],
                        self.inputs.statistics[trial.fold].class_counts,
                        beta=values["loss.beta"],
                    ),
                    label_smoothing=np.float32(values["loss.label_smoothing"]),
                    momentum=np.float32(values["training.momentum"]),
                    weight_decay=np.float32(values["training.weight_decay"]),
                    gradient_clip=np.float32(np.inf if clip is None else clip),
                    warmup_epochs=np.float32(values["training.warmup_epochs"]),
                    final_share=np.float32(values["training.final_share"]),
                    plateau_factor=np.float32(values["training.plateau_factor"]),
                    plateau_patience=np.int32(values["training.plateau_patience"]),
                    teacher_share=np.float32(values["training.teacher_share"]),
                    final_teacher_share=np.float32(values["training.final_teacher_share"]),
                    fold=np.int32(self.inputs.folds.index(trial.fold)),
                )
            )
        return shares.put(training.stacked(rows), self.program.own)

    def _store(
        self,
        index: int,
        state: dict[str, Any],
        arrays: dict[str, np.ndarray],
        predicted: np.ndarray,
        attention: dict[str, np.ndarray],
    ) -> None:
        place = self.places[index]
        assert place is not None
        best, epochs = int(state["best_epoch"]), int(state["epoch"])
        outcome = results.COMPLETED if epochs == self.job_file.training.epochs else results.EARLY_STOPPED
        outcome = results.DIVERGED if state["diverged"] else outcome
        halted = not self.stage.last and bool(state["running"])
        outcome = results.HALTED if halted else outcome
        data = self.inputs.data[place.trial.fold]
        probabilities = {name: predicted[data.places_of(name, self.network)] for name in SCORED_SPLITS}
        loss = place.history[best - 1][results.HISTORY_COLUMNS.index("validation_loss")] if best else None
        record = {
            "trial": place.trial.id,
            "seed": place.trial.seed,
            "hyperparameters": place.trial.hyperparameters,
            "data_digest": self.inputs.data_digest,
            "outcome": outcome,
            "epochs": epochs,
            "best_epoch": best,
            "loss": loss,
            "seconds": round(place.seconds, 3),
            "input_seconds": round(place.input_seconds, 3),
            "pack_width": len(self.places),
            "pack_halvings": self.halvings,
            **_software(),
        }
        leaves = jax.tree.leaves(State(**state)) if halted else []
        finished = FinishedTrial(place.history, arrays, probabilities, record, attention, leaves)
        _patiently(lambda: self.store.save(place.trial, finished), self.say)

    def _save(self, by: Callable[[Callable[[], None]], None] = lambda write: write()) -> None:
        """Writes a checkpoint; by: as in `Checkpoints.save`."""
        values = {
            "program": self._program_digest(),
            "window": self.window,
            "step": self.step,
            "segment_steps": self.segment_steps,
            "until": self.stage.until,
            "places": [None if place is None else place.to_json() for place in self.places],
            "devices": training.devices_for(len(self.places)) * training.row_devices(),
            **_software(),
        }
        self.checkpoints.save(jax.device_get(self.states), values, by)

    def _program_digest(self) -> str:
        """Returns what a checkpoint's arrays depend on: the static settings and the data."""
        return digest([_static_settings(self.job_file), self.inputs.folds, self.inputs.data_digest])

    def _resume(self) -> bool:
        """Returns whether a checkpoint of this job was found and taken."""
        restored = self.checkpoints.restore(self._places_of, self.say)
        if restored is None:
            return False
        arrays, values = restored
        self.states = jax.device_get(arrays)  # on no device yet: there may be more of them now, or fewer
        self.window, self.step, self.segment_steps = (values[name] for name in ("window", "step", "segment_steps"))
        kept = {place.trial.fingerprint for place in self.places if place is not None}
        self.waiting = [trial for trial in self.waiting if trial.fingerprint not in kept]
        if not any(self.places):
            self.window, self.step = 0, 0  # of an epoch of trials that are no longer asked for
        done, steps = self.epoch_steps()
        self.say(f"goes on from the checkpoint: epoch {self.epoch + 1}, step {done} of {steps}")
        if (self.window, self.step) == (0, 0):
            # what ended with the epoch before was to be stored when the job was killed
            self._store_all(self._ended(np.asarray(self.states.running)))
            self._refill()
        return True

    def _places_of(self, values: dict[str, Any]) -> State | None:
        """Takes a checkpoint's trials into their places; returns its states' shapes, None where it is of no use."""
        software = _software()
        others = {name: f"{name} was {values.get(name)}, is {software[name]}" for name in software}
        others = {name: text for name, text in others.items() if values.get(name) != software[name]}
        if values["program"] != self._program_digest():
            self.say("the checkpoint found is of other settings or data and is not used; training begins anew")
            return None
        if others.keys() & {"jaxrnn", *trials.LIBRARIES}:
            self.say(f"the checkpoint found is of other software ({listed([*others.values()])}) and is not used")
            return None
        if others:
            self.say(f"the checkpoint was written elsewhere ({listed([*others.values()])}): the last digits may differ")
        if values["until"] != self.stage.until:
            self.say("the checkpoint found is of other rungs and is not used")
            return None
        by_fingerprint = {trial.fingerprint: trial for trial in self.waiting}
        self.places = []
        for entry in values["places"]:
            place = None
            if entry is not None and entry["fingerprint"] in by_fingerprint:
                entry["trial"] = by_fingerprint[entry.pop("fingerprint")]
                place = _Place(**entry)
            self.places.append(place)
        if not any(self.places) and not self.waiting:
            return None
        devices = training.devices_for(len(self.places)) * training.row_devices()
        if values["devices"] != devices:
            self.say(f"{values['devices']} devices shared the pack out, {devices} do now: the last digits may differ")
        self._make_program()
        return jax.eval_shape(self.program.begin, self.hypers)


def _static_settings(job_file: JobFile) -> dict[str, Any]:
    """Returns the settings that a job's programs depend on."""
    values = job_file.model_dump(mode="json", include={"data", "task", "model", "loss", "augmentation", "training"})
    values["task"] = plan.learnt_task(values["task"], job_file.training.monitor)
    runs = [f"training.{key}" for key in RUN_KEYS if key != "device"]
    for key in (*TRACED_KEYS, *runs):
        section, _, name = key.partition(".")
        values.get(section, {}).pop(name, None)
    return values


def _monitored(job_file: JobFile, classes: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the monitored score needs of the task. Others stay unknown to training, so that a trial depends on
    no key of `task` that only says what predictions are worth."""
    needs = {
        "plasticc_log_loss": {"importance": job_file.task.importance(classes)},
        "figure_of_merit": {"target": job_file.task.target_index(classes)},
    }
    return needs.get(job_file.training.monitor, {})


class _Progress:
    """A line after the first segment, then one every half minute; the same is told to who looks from elsewhere."""

    def __init__(self, pack: _Pack) -> None:
        self.pack, self.last = pack, -math.inf
        self.trials = len(pack.waiting) + len(pack.places) - pack.places.count(None)

    def tell(self) -> None:
        if time.monotonic() - self.last < 30:
            return
        self.last = time.monotonic()
        places = [place for place in self.pack.places if place is not None]
        epochs = self.pack.stage.until
        done = min(len(place.history) for place in places)
        name, best_of, words = "macro_auc", max, "macro AUC up to"
        if self.pack.kind == "label_sequence":
            name, best_of, words = "label_error_rate", min, "label error rate down to"
        column = results.HISTORY_COLUMNS.index(f"validation_{name}")
        scored = [row[column] for place in places for row in place.history[-1:] if math.isfinite(row[column])]
        best = f", validation {words} {best_of(scored):.3f}" if scored else ""
        waiting = f", {len(self.pack.waiting)} waiting" if self.pack.waiting else ""
        left, seconds_left = "", None
        spent = sum(place.seconds for place in places)
        step, steps = self.pack.epoch_steps()
        finished = sum(len(place.history) for place in places) + len(places) * step / steps
        if finished:
            to_do = sum(epochs - len(place.history) for place in places) + epochs * len(self.pack.waiting)
            seconds_left = spent / finished * (to_do - len(places) * step / steps)
            left = f", at most {duration(seconds_left)} left"
        where = f"epoch {done} of {epochs}, step {step} of {steps}"
        self.pack.say(f"{where}: {len(places)} trials training{waiting}{best}{left}")
        self.pack.tell(
            phase=TRAINING,
            trials_finished=self.trials - len(places) - len(self.pack.waiting),
            trials_training=len(places),
            trials_waiting=len(self.pack.waiting),
            epoch=done,
            epochs=epochs,
            step=step,
            steps=steps,
            score=name,
            best=best_of(scored) if scored else None,
            seconds_left=seconds_left,
            pack_width=len(self.pack.places),
            devices=training.devices_for(len(self.pack.places)),
        )


def _software() -> dict[str, str]:
    """Returns what a trial's last digits may depend on, by the names in `trials.SOFTWARE`."""
    device = jax.local_devices()[0]
    versions = (__version__, *(importlib.metadata.version(name) for name in trials.LIBRARIES))
    # of a CPU, those that the job was given: each is a device
    cores = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    hardware = f"{device.platform} ({device.device_kind})", str(cores if cores > 0 else native.cores())
    return dict(zip(trials.SOFTWARE, (*versions, *hardware, native.told()), strict=True))


def _write_outputs(
    job_file: JobFile,
    inputs: Inputs,
    stage: Stage,
    folders: dict[str, Path],
    output: Path,
    claim: Claim | None = None,
) -> None:
    network = inputs.network
    rows, histories = [], []
    finished = {trial.id: trials.load(folders[trial.fingerprint]) for trial in job_file.job.trials}
    for trial in job_file.job.trials:
        record = {"pack_halvings": 0, **finished[trial.id].record}
        if record["epochs"] > stage.ended.get(trial.fingerprint, record["epochs"]):
            record["outcome"] = results.HALTED  # finished when there was no such rung
        row = {"trial": trial.id, "fingerprint": trial.fingerprint, "data_digest": inputs.data_digest}
        row |= {"seed": trial.seed, **trial.hyperparameters}
        names = ("outcome", "epochs", "best_epoch", "loss", "seconds", "input_seconds", "pack_width", "pack_halvings")
        names += ("device",)
        rows.append(row | {name: record[name] for name in names})
        history = pd.DataFrame(finished[trial.id].history, columns=list(results.HISTORY_COLUMNS)).astype({"epoch": int})
        history.insert(0, "trial", trial.id)
        histories.append(history)

    def predicted(fold: int | None, split: str) -> Predictions:
        data, kind = inputs.data[fold], job_file.task.kind
        ids, lengths = (values[data.scored.splits == split] for values in (data.scored.ids, data.scored.lengths))
        own = [trial.id for trial in job_file.job.trials if trial.fold == fold]
        return Predictions(
            kind,
            ids,
            data.labels_of(split),
            lengths,
            network.places(lengths),
            {trial: finished[trial].probabilities[split] for trial in own},
            by_decoder=kind == "label_sequence" and network.decoder is not None,
        )

    output.mkdir(parents=True, exist_ok=True)
    of_folds = {fold: {split: predicted(fold, split) for split in SCORED_SPLITS} for fold in inputs.folds}
    predictions.write(output / "predictions.h5", of_folds, inputs.classes, claim)
    with results.written_whole(output / "models", claim=claim) as temporary:
        temporary.mkdir()
        for trial, entry in finished.items():
            bundles.write_arrays(temporary / f"{trial}.npz", entry.arrays)
    with results.written_whole(output / "history.csv", claim=claim) as temporary:
        pd.concat(histories).to_csv(temporary, index=False)
    with results.written_whole(output / "trials.csv", claim=claim) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _write_rung(
    job_file: JobFile,
    stage: Stage,
    folders: dict[str, Path],
    output: Path,
    data_digest: str = "",
    claim: Claim | None = None,
) -> None:
    """Writes `trials.csv` of a rung: its trials, and their scores at the best of the epochs up to its last one."""
    monitor = f"validation_{job_file.training.monitor}"
    sign = -1 if job_file.training.monitor in LOWER_IS_BETTER else 1
    at = results.HISTORY_COLUMNS.index(monitor)
    rows = []
    for trial in stage.trials:
        history = trials.history(folders[trial.fingerprint])[: stage.until]
        record = trials.record(folders[trial.fingerprint]) or {}
        # as training has it: the first of equals, and none of an epoch that is no number
        best = max((row for row in history if math.isfinite(row[at])), key=lambda row: sign * row[at], default=None)
        # one that another experiment trained on has not ended here
        outcome = results.HALTED if record["epochs"] > stage.until else record["outcome"]
        row = {"trial": trial.id, "fingerprint": trial.fingerprint, "seed": trial.seed}
        row |= {"data_digest": data_digest, "outcome": outcome}
        scores = dict(zip(results.HISTORY_COLUMNS, best or [math.nan] * len(results.HISTORY_COLUMNS), strict=True))
        rows.append(row | {"epochs": len(history), "best_epoch": scores.pop("epoch")} | scores)
    columns = ("trial", "fingerprint", "seed", "data_digest", "outcome", "epochs", "best_epoch")
    table = pd.DataFrame(rows, columns=[*columns, *results.HISTORY_COLUMNS[1:]])
    with results.written_whole(output / "trials.csv", claim=claim) as temporary:
        table.to_csv(temporary, index=False)
