"""The audit of an experiment: whether its scores can be believed. docs/audit.md tells what it looks for, and how.

It needs a dataset; what looks at networks needs the chosen one too. Networks that it trains are a job of their own
under `audit/` in the experiment's folder, with checkpoints, so that the same command goes on after a kill.
"""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import bundles, hypotheses, jobs, leaks, plan, predict, results, shards, shuffles, splits, trials
from jaxrnn.batches import Corpus, Part
from jaxrnn.config import AUDITS, Audit, Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.hypotheses import COLUMNS, Cadence, Finding, Lesson, Subject
from jaxrnn.results import Results

Say = Callable[[str], None]
# Where a test split is what training was, and the other way round: `leaks` tells of the object in the later one.
REVERSED = {splits.TRAIN: splits.TEST, splits.TEST: splits.TRAIN}


def audit(experiment: Experiment, at: Results, say: Say) -> list[Finding]:
    """Writes `audit.csv` and `audit.json` into the experiment's folder; returns what was found, in the order of
    `config.AUDITS`. Raises JaxrnnError where there is no dataset, or the choice is of other settings."""
    settings, folder = experiment.audit or Audit(), at.experiment(experiment.experiment)
    dataset = at.dataset(plan.dataset_key(experiment))
    of = {"trial": None, "fingerprint": None, "data_digest": None}
    if (folder / "best.json").exists():
        subject, of = _trained(experiment, at, dataset, say)
    else:
        say("no trial is chosen yet: what looks at networks is left out (`jaxrnn aggregate` chooses)")
        subject = _untrained(experiment, at, dataset)
    found = hypotheses.examine(
        subject, settings.only or AUDITS, permutations=settings.permutations, level=settings.level, say=say
    )
    table = pd.DataFrame([[getattr(entry, name) for name in COLUMNS] for entry in found], columns=list(COLUMNS))
    with results.written_whole(folder / "audit.csv") as temporary:
        table.to_csv(temporary, index=False)
    values: dict[str, Any] = {**of, "level": settings.level, "permutations": settings.permutations}
    shown = [{name: asdict(entry)[name] for name in COLUMNS} for entry in found]
    results.write_json(folder / "audit.json", {**values, "draws": hypotheses.DRAWS, "findings": shown})
    return found


def _trained(experiment: Experiment, at: Results, dataset: Path, say: Say) -> tuple[Subject, dict[str, str | None]]:
    """Returns the experiment with its chosen network, and what tells of which trial, and of which data, it is."""
    folder = at.experiment(experiment.experiment)
    best = results.read_json(folder / "best.json", "jaxrnn aggregate")
    made = plan.make(experiment)
    chosen = [(job, trial) for job in made.jobs for trial in job.trials if trial.id == best["trial"]]
    record = trials.record(at.trial(experiment.experiment, chosen[0][1].fingerprint)) if chosen else None
    if record is None or not record["best_epoch"]:
        raise JaxrnnError(
            f"{folder / 'best.json'}: its trial {best['trial']} is not one that this experiment has finished; run "
            "`jaxrnn aggregate` again"
        )
    job, trial = chosen[0]
    job_file = plan.load_job(at.job(experiment.experiment, job.name) / "config.yaml")
    # to the chosen trial's best epoch, by its settings
    short = job_file.training.model_copy(update={"epochs": record["best_epoch"], "patience": None})
    alone = job_file.job.model_copy(update={"trials": (trial,)})
    job_file = job_file.model_copy(update={"job": alone, "training": short})
    jobs.choose_device(job_file.training.device)
    inputs = jobs.read_inputs(job_file, at)
    bundle, data = bundles.load(folder / "best"), inputs.any_data
    lesson = Lesson(data.train, data.validation, shuffles.of_split(data.scored, splits.TEST))

    def learn(lessons: Mapping[str, Lesson]) -> dict[str, np.ndarray]:
        variants = {name: jobs.Data(*lesson) for name, lesson in lessons.items()}
        return jobs.train_variants(job_file, at, inputs, variants, Results(folder), say)

    subject = _subject(experiment, dataset, splits.read_splits(folder), lesson, trial.fold, len(inputs.classes))
    subject = replace(
        subject,
        learn=learn,
        predict=lambda part: predict.predict(bundle, part),
        teach=None if bundle.model.decoder is None else lambda part: predict.taught(bundle, part),
        looks_ahead=inputs.network.looks_ahead,
        normalised_by_sequence=any(feature.normalisation == "sequence" for feature in job_file.data.features),
    )
    return subject, {"trial": trial.id, "fingerprint": trial.fingerprint, "data_digest": inputs.data_digest}


def _untrained(experiment: Experiment, at: Results, dataset: Path) -> Subject:
    """Returns the experiment without a network; where it has no splits, because they leak, with those that it would
    have."""
    folder = at.experiment(experiment.experiment)
    fold = None if experiment.split.folds is None else 0
    with tempfile.TemporaryDirectory(prefix="jaxrnn-") as temporary:
        if not (folder / "splits.csv").exists():
            let_pass = experiment.split.model_copy(update={"leaks": "report"})
            splits.split(experiment.model_copy(update={"split": let_pass}), dataset, folder := Path(temporary))
        sequences = plan.sequences_used(experiment.model_dump())[0]
        statistics, table = splits.read_statistics(folder, fold, sequences), splits.read_splits(folder)
    corpus = Corpus(dataset, table, statistics, task=experiment.task, seed=plan.split_seed(experiment.model_dump()))
    lesson = Lesson(*(corpus.part(name, fold=fold) for name in (splits.TRAIN, splits.VALIDATION, splits.TEST)))
    return _subject(experiment, dataset, table, lesson, fold, len(statistics.classes))


def _subject(
    experiment: Experiment, dataset: Path, table: pd.DataFrame, lesson: Lesson, fold: int | None, classes: int
) -> Subject:
    paths = splits.shard_paths(dataset)
    manifest = results.read_json(dataset / "manifest.json", "jaxrnn ingest")
    return Subject(
        kind=experiment.task.kind,
        lesson=lesson,
        classes=classes,
        shared=_shared(paths, table, fold),
        cadence=_cadence(paths, lesson),
        columns=[column["name"] for column in (*manifest["features"], *manifest["metadata"])],
        seed=experiment.seed,
    )


def _shared(paths: list[Path], table: pd.DataFrame, fold: int | None) -> dict[str, int]:
    """Returns how many test sequences are equal or almost equal to one of validation or training, how many are in a
    group that has some there (left out where the survey has no groups), and how many there are."""
    assigned = splits.assigned(table, fold)
    names = [REVERSED.get(name, name) for name in assigned]
    backwards = pd.DataFrame({"id": table["id"], "split": names}, dtype=object)
    content = [shards.read(path, steps=False).groups for path in paths]
    groups = None if any(entry is None for entry in content) else np.concatenate(content).astype(object)  # type: ignore
    found = leaks.find(paths, backwards, groups).table
    rows = zip(*(found[name].tolist() for name in ("kind", "object", "split")), strict=True)
    own = {(kind == "group", name) for kind, name, split in rows if split == REVERSED[splits.TEST]}
    grouped = sum(by_group for by_group, _ in own)
    counts = {"copies": len(own) - grouped, "sequences": int((assigned == splits.TEST).sum())}
    return counts if groups is None else counts | {"groups": grouped}


def _cadence(paths: list[Path], lesson: Lesson) -> Cadence:
    rows, ids = [], []
    for path in paths:
        shard = shards.read(path)
        ids.append(shard.ids)
        rows.append(_gaps(shard.time, shard.offsets))
    known = dict(zip(np.concatenate(ids).tolist(), np.concatenate(rows), strict=True))

    def of(part: Part) -> np.ndarray:
        return np.stack([known[name] for name in part.ids.tolist()])

    return Cadence(of(lesson.train), of(lesson.test))


def _gaps(time: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns [sequence, 6] the first time, and of the times between two steps the mean, deviation, extremes and the
    share of those below half of their mean; 0 for sequences of one step."""
    rows = []
    for start, stop in itertools.pairwise(offsets):
        gaps = np.diff(time[start:stop])
        if not len(gaps):
            gaps = np.zeros(1)
        told = gaps.mean(), gaps.std(), gaps.min(), gaps.max(), (gaps < gaps.mean() / 2).mean()
        rows.append([time[start], *told])
    return np.array(rows)
