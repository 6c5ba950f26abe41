"""A job on its device: its trials through a pack of fixed width, with checkpoints, signals and progress.

The pack has `width` places. A place whose trial is finished takes the next waiting one at the end of the epoch; every
trial counts its own epochs. Between segments, and only there, the job looks at signals, checkpoints and progress.
"""

import importlib.metadata
import math
import os
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxrnn import __version__, batches, bundles, losses, plan, predict, predictions, results, splits, training, trials
from jaxrnn.batches import Examples
from jaxrnn.checkpoints import Checkpoints
from jaxrnn.config import RUN_KEYS, TRACED_KEYS, digest
from jaxrnn.errors import Interrupted, JaxrnnError, listed
from jaxrnn.plan import JobFile, Trial
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.results import Results
from jaxrnn.splits import Statistics
from jaxrnn.training import Hyperparameters, State
from jaxrnn.trials import FinishedTrial

Say = Callable[[str], None]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
FIRST_SEGMENT_STEPS = 16


def train(job_file: JobFile, at: Results, output: Path, say: Say, *, retrain: bool = False) -> None:
    """Trains the job's trials that are not finished yet, and writes the job's outputs into `output`.

    retrain: train all of them, with a store and checkpoints of their own under `output`, so that the experiment's
    stay as they are; interrupted, it goes on as any job does.
    Raises JaxrnnError for a missing device or faulty input, Interrupted after a signal (with a checkpoint written).
    """
    device = _choose_device(job_file.training.device)
    experiment_folder = at.experiment(job_file.experiment)
    statistics = splits.read_statistics(experiment_folder)
    seed = plan.split_seed(job_file.model_dump())
    if statistics.settings_digest != splits.settings_digest(job_file.split, job_file.task, seed):
        raise JaxrnnError(
            f"{experiment_folder / 'splits.csv'}: made with other `split` or `task` settings than this job has; run "
            "`jaxrnn split` and `jaxrnn plan` with the same experiment file, then train again"
        )
    examples = batches.load(at.dataset(job_file.job.dataset), splits.read_splits(experiment_folder), statistics)
    say(
        f"job {job_file.job.name}: {len(job_file.job.trials)} trials on {device}; "
        + ", ".join(f"{len(entry)} {name}" for name, entry in examples.items())
        + f" sequences of {len(statistics.classes)} classes"
    )
    base = Results(output) if retrain else at
    folders = {trial.fingerprint: base.trial(job_file.experiment, trial.fingerprint) for trial in job_file.job.trials}
    waiting = [t for t in job_file.job.trials if not _is_finished(folders[t.fingerprint], statistics, say)]
    if len(waiting) < len(job_file.job.trials):
        finished = len(job_file.job.trials) - len(waiting)
        say(f"{finished} trials are finished already and are kept (--retrain --output FOLDER trains them again there)")
    if waiting:
        checkpoints = Checkpoints(base.checkpoints(job_file.experiment, job_file.job.name))
        pack = _Pack(job_file, statistics, examples, waiting, folders, checkpoints, say)
        pack.run()
        checkpoints.close(remove=True)
    _write_outputs(job_file, statistics, examples, folders, output)
    say(f"job {job_file.job.name}: done, results in {output}")


def _choose_device(wanted: str) -> str:
    """Returns the device's name after making it the only one in use; raises JaxrnnError where it is not there."""
    if wanted == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        devices = jax.devices(wanted)
    except RuntimeError as error:
        raise JaxrnnError(
            f"training.device: gpu, and JAX {jax.__version__} on {platform.node()} finds only {_usable_devices()} "
            f"({error}). "
            "Ask the scheduler for a GPU, install the CUDA build (pip install 'jaxrnn[cuda12]' or [cuda13]), or set "
            "`training.device: cpu`"
        )
    jax.config.update("jax_default_device", devices[0])
    return f"{devices[0].platform} ({devices[0].device_kind})"


def _usable_devices() -> str:
    try:
        return ", ".join(sorted({f"{device.platform} ({device.device_kind})" for device in jax.devices()}))
    except (RuntimeError, AssertionError):
        return "nothing that it can use"


def _is_finished(folder: Path, statistics: Statistics, say: Say) -> bool:
    record = trials.record(folder)
    if record is None:
        return False
    if record["data_digest"] != statistics.data_digest:
        say(f"trial {record['trial']} was trained on other data or splits; it is trained again")
        return False
    return True


class _Signals:
    """Remembers that a signal came, for the loop to see between segments. A second one ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None
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
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number


@dataclass
class _Place:
    """What the host knows of one trial in the pack."""

    trial: Trial
    history: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0


class _Pack:
    """The trials of a job that train at once; `places[i]` is what trains at place i, None where it is empty."""

    def __init__(
        self,
        job_file: JobFile,
        statistics: Statistics,
        examples: dict[str, Examples],
        waiting: list[Trial],
        folders: dict[str, Path],
        checkpoints: Checkpoints,
        say: Say,
    ) -> None:
        self.job_file, self.statistics, self.examples, self.say = job_file, statistics, examples, say
        # together, so that predicting them compiles once
        self.scored = batches.joined([examples[name] for name in SCORED_SPLITS])
        self.folders, self.checkpoints, self.waiting = folders, checkpoints, list(waiting)
        settings = job_file.training
        train = examples["train"]
        longest = batches.edges(train.lengths, settings.length_buckets)
        buckets, _ = batches.bucketed(train, longest)
        multiple = training.evaluation_multiple(len(examples["validation"]))
        validation, _ = batches.bucketed(examples["validation"], longest, multiple)
        self.buckets, self.validation = jax.device_put(buckets), jax.device_put(validation)
        schedule = batches.schedule(buckets, settings.batch_size)
        self.schedule, self.steps_per_epoch = jax.device_put(schedule), len(schedule.bucket)
        self.program = training.make(
            job_file.model, settings, train.features.shape[1], train.metadata.shape[1], len(statistics.classes)
        )
        self._replace = jax.jit(self._replaced)
        self.step = 0  # of the epoch under way
        self.segment_steps = FIRST_SEGMENT_STEPS
        self.compiled = False
        self.places: list[_Place | None] = []
        self.hypers: Hyperparameters
        self.states: State
        if not self._resume():
            width = min(len(self.waiting), settings.trials_per_job)
            self.places = [_Place(self.waiting.pop(0)) for _ in range(width)]
            self.hypers = self._hyperparameters()
            self.states = self.program.begin(self.hypers)

    def run(self) -> None:
        """Trains until no trial runs or waits; each finished one is in the store before the next epoch begins."""
        progress = _Progress(self)
        saved = time.monotonic()
        with _Signals() as signals:
            while any(self.places):
                began = time.monotonic()
                stop = min(self.step + self.segment_steps, self.steps_per_epoch)
                self.states = self.program.advance(
                    self.states, self.hypers, self.buckets, self.schedule, jnp.int32(self.step), jnp.int32(stop)
                )
                jax.block_until_ready(self.states.loss_sum)
                self._adapt_segment(time.monotonic() - began, stop - self.step)
                self.step = stop
                if self.step == self.steps_per_epoch:
                    self._finish_epoch(began)
                    if not any(self.places):
                        break
                else:
                    self._share(time.monotonic() - began)
                progress.tell()
                due = time.monotonic() - saved > 60 * self.job_file.training.checkpoint_minutes
                if due or signals.received is not None:
                    self._save()
                    saved = time.monotonic()
                if signals.received is not None:
                    raise Interrupted(
                        f"job {self.job_file.job.name}: stopped by {signal.Signals(signals.received).name}; the "
                        "checkpoint is written, and the same command goes on from it"
                    )

    def _adapt_segment(self, seconds: float, steps: int) -> None:
        wanted = self.job_file.training.segment_seconds
        if not self.compiled:
            self.compiled = True  # in this time: it says nothing yet
        elif seconds > wanted and self.segment_steps > 1:
            self.segment_steps = max(1, math.floor(self.segment_steps * wanted / seconds))
        elif seconds < wanted / 2 and steps == self.segment_steps:
            self.segment_steps *= 2

    def _finish_epoch(self, began: float) -> None:
        self.step = 0
        self.states, report = self.program.finish_epoch(self.states, self.hypers, self.validation)
        epochs, running, report = jax.device_get((self.states.epoch, self.states.running, report))
        self._share(time.monotonic() - began)
        for index, place in enumerate(self.places):
            if place is not None:
                scores = [entry[index] for entry in (report.train_loss, report.train_accuracy, *report.validation)]
                place.history.append([float(epochs[index]), *map(float, scores)])
        ended = [index for index, place in enumerate(self.places) if place is not None and not running[index]]
        if ended:
            # the checkpoint comes first: were the store ahead of it, a resumed job would begin with fewer trials, and
            # so another width, than it had
            self._save()
            self._store_all(ended)
        self._refill()

    def _share(self, seconds: float) -> None:
        occupied = [place for place in self.places if place is not None]
        for place in occupied:
            place.seconds += seconds / len(occupied)

    def _store_all(self, ended: list[int]) -> None:
        """Stores the finished trials and empties their places."""
        # what makes a finished trial leaves the device at once, not leaf by leaf for each of them
        kept = ("best_parameters", "best_statistics", "best_epoch", "epoch", "diverged")
        found = jax.device_get({name: getattr(self.states, name) for name in kept})
        for index in ended:
            self._store(index, jax.tree.map(lambda leaf, at=index: leaf[at], found))
            self.places[index] = None

    def _refill(self) -> None:
        """Gives each empty place to the next waiting trial; between epochs, which all places walk through together."""
        fresh = np.zeros(len(self.places), dtype=bool)
        for index, place in enumerate(self.places):
            if place is None and self.waiting:
                self.places[index] = _Place(self.waiting.pop(0))
                fresh[index] = True
        if fresh.any():
            self.hypers = self._hyperparameters()
            self.states = self._replace(self.states, self.program.begin(self.hypers), fresh)

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
            rows.append(
                Hyperparameters(
                    seed=np.uint32(trial.seed),
                    learning_rate=np.float32(values["training.learning_rate"]),
                    dropout=np.float32(values["model.dropout"]),
                    l2=np.float32(values["loss.l2"]),
                    gamma=np.float32(values["loss.gamma"]),
                    class_weights=losses.class_weights(values["loss.class_weights"], self.statistics.class_counts),
                )
            )
        return jax.device_put(training.stacked(rows))

    def _store(self, index: int, state: dict[str, Any]) -> None:
        place = self.places[index]
        assert place is not None
        arrays = predict.flattened(state["best_parameters"], state["best_statistics"])
        best, epochs = int(state["best_epoch"]), int(state["epoch"])
        outcome = results.COMPLETED if epochs == self.job_file.training.epochs else results.EARLY_STOPPED
        outcome = results.DIVERGED if state["diverged"] else outcome
        classes = len(self.statistics.classes)
        if best:
            predicted = predict.probabilities(self.job_file.model, arrays, self.scored, classes)
        else:
            predicted = np.full((len(self.scored), classes), np.nan, dtype=np.float32)
        ends = np.cumsum([len(self.examples[name]) for name in SCORED_SPLITS])
        probabilities: dict[str, np.ndarray] = dict(zip(SCORED_SPLITS, np.split(predicted, ends[:-1]), strict=True))
        loss = place.history[best - 1][results.HISTORY_COLUMNS.index("validation_loss")] if best else None
        record = {
            "trial": place.trial.id,
            "seed": place.trial.seed,
            "hyperparameters": place.trial.hyperparameters,
            "data_digest": self.statistics.data_digest,
            "outcome": outcome,
            "epochs": epochs,
            "best_epoch": best,
            "loss": loss,
            "seconds": round(place.seconds, 3),
            "pack_width": len(self.places),
            **_software(),
        }
        trials.save(self.folders[place.trial.fingerprint], FinishedTrial(place.history, arrays, probabilities, record))

    def _save(self) -> None:
        values = {
            "program": self._program_digest(),
            "step": self.step,
            "segment_steps": self.segment_steps,
            "places": [
                None
                if place is None
                else {"fingerprint": place.trial.fingerprint, "history": place.history, "seconds": place.seconds}
                for place in self.places
            ],
            **_software(),
        }
        self.checkpoints.save(self.states, values)

    def _program_digest(self) -> str:
        """Returns what a checkpoint's arrays depend on: the static settings and the data."""
        values = self.job_file.model_dump(mode="json", include={"data", "task", "model", "loss", "training"})
        runs = [f"training.{key}" for key in RUN_KEYS if key != "device"]
        for key in (*TRACED_KEYS, *runs):
            section, _, name = key.partition(".")
            values.get(section, {}).pop(name, None)
        return digest([values, self.statistics.data_digest])

    def _resume(self) -> bool:
        """Returns whether a checkpoint of this job was found and taken."""
        restored = self.checkpoints.restore(self._places_of, self.say)
        if restored is None:
            return False
        arrays, values = restored
        self.states = jax.device_put(arrays)
        self.step, self.segment_steps = values["step"], values["segment_steps"]
        kept = {place.trial.fingerprint for place in self.places if place is not None}
        self.waiting = [trial for trial in self.waiting if trial.fingerprint not in kept]
        epoch = min([len(place.history) for place in self.places if place is not None], default=0) + 1
        self.say(f"goes on from the checkpoint: epoch {epoch}, step {self.step} of {self.steps_per_epoch}")
        if self.step == 0:
            # what ended with the epoch before was to be stored when the job was killed
            running = np.asarray(self.states.running)
            ended = [index for index, place in enumerate(self.places) if place is not None and not running[index]]
            self._store_all(ended)
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
        by_fingerprint = {trial.fingerprint: trial for trial in self.waiting}
        self.places = []
        for entry in values["places"]:
            place = None
            if entry is not None and entry["fingerprint"] in by_fingerprint:
                place = _Place(by_fingerprint[entry["fingerprint"]], entry["history"], entry["seconds"])
            self.places.append(place)
        if not any(self.places) and not self.waiting:
            return None
        self.hypers = self._hyperparameters()
        return jax.eval_shape(self.program.begin, self.hypers)


class _Progress:
    """A line after the first segment, then one every half minute."""

    def __init__(self, pack: _Pack) -> None:
        self.pack, self.last = pack, -math.inf

    def tell(self) -> None:
        if time.monotonic() - self.last < 30:
            return
        self.last = time.monotonic()
        places = [place for place in self.pack.places if place is not None]
        epochs = self.pack.job_file.training.epochs
        done = min(len(place.history) for place in places)
        scored = [row[-1] for place in places for row in place.history[-1:] if math.isfinite(row[-1])]
        best = f", validation macro AUC up to {max(scored):.3f}" if scored else ""
        waiting = f", {len(self.pack.waiting)} waiting" if self.pack.waiting else ""
        left = ""
        spent = sum(place.seconds for place in places)
        finished = (
            sum(len(place.history) for place in places) + len(places) * self.pack.step / self.pack.steps_per_epoch
        )
        if finished:
            to_do = sum(epochs - len(place.history) for place in places) + epochs * len(self.pack.waiting)
            left = f", at most {_duration(spent / finished * to_do)} left"
        where = f"epoch {done} of {epochs}, step {self.pack.step} of {self.pack.steps_per_epoch}"
        self.pack.say(f"{where}: {len(places)} trials training{waiting}{best}{left}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _software() -> dict[str, str]:
    """Returns what a trial's last digits may depend on, by the names in `trials.SOFTWARE`."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    versions = (__version__, *(importlib.metadata.version(name) for name in trials.LIBRARIES))
    return dict(zip(trials.SOFTWARE, (*versions, f"{device.platform} ({device.device_kind})", str(cores)), strict=True))


def _write_outputs(
    job_file: JobFile, statistics: Statistics, examples: dict[str, Examples], folders: dict[str, Path], output: Path
) -> None:
    rows, histories = [], []
    finished = {trial.id: trials.load(folders[trial.fingerprint]) for trial in job_file.job.trials}
    for trial in job_file.job.trials:
        record = finished[trial.id].record
        row = {"trial": trial.id, "fingerprint": trial.fingerprint, "data_digest": statistics.data_digest}
        row |= {"seed": trial.seed, **trial.hyperparameters}
        names = ("outcome", "epochs", "best_epoch", "loss", "seconds", "pack_width", "device")
        rows.append(row | {name: record[name] for name in names})
        history = pd.DataFrame(finished[trial.id].history, columns=list(results.HISTORY_COLUMNS)).astype({"epoch": int})
        history.insert(0, "trial", trial.id)
        histories.append(history)
    predicted = {
        name: Predictions(
            examples[name].ids,
            examples[name].labels,
            {trial: entry.probabilities[name] for trial, entry in finished.items()},
        )
        for name in SCORED_SPLITS
    }
    output.mkdir(parents=True, exist_ok=True)
    predictions.write(output / "predictions.h5", predicted, statistics.classes)
    with results.written_whole(output / "models") as temporary:
        temporary.mkdir()
        for trial, entry in finished.items():
            bundles.write_arrays(temporary / f"{trial}.npz", entry.arrays)
    with results.written_whole(output / "history.csv") as temporary:
        pd.concat(histories).to_csv(temporary, index=False)
    with results.written_whole(output / "trials.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
