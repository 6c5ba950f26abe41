"""From the jobs' predictions to the experiment's tables, the choice, its confusion matrices and its model bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import bundles, metrics, plan, predictions, results, selection, splits, trials
from jaxrnn.config import Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.plan import Job, Plan, Trial
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.results import Results, written_whole

BOOKKEEPING = ("epochs", "best_epoch", "seconds", "input_seconds", "outcome")


def aggregate(experiment: Experiment, at: Results) -> dict[str, Any]:
    """Writes the experiment's tables, confusion matrices, `best.json` and `best/`; returns what `best.json` holds.

    Only the jobs of the present plan are read. The choice reads validation alone.
    """
    made = plan.make(experiment)
    folder = at.experiment(experiment.experiment)
    predicted, trained, history = _read_jobs(made, at)
    classes = splits.read_statistics(folder, made.jobs[0].fold).classes
    scored = {
        split: {
            trial: metrics.scores(probabilities, entry.labels, classes)
            for entry in by_fold.values()
            for trial, probabilities in entry.probabilities.items()
        }
        for split, by_fold in predicted.items()
    }
    keys = list(experiment.grid)
    validation = _table(made, trained, scored["validation"], classes)
    choice = selection.choose(validation, keys, experiment.selection.metric)
    test = pd.DataFrame(scored["test"]).T.loc[validation["trial"]]
    shown = _shown_scores(classes)
    test_columns = test[shown].add_prefix("test_").reset_index(drop=True)
    both = pd.concat([validation, test_columns], axis=1)
    names = [*metrics.OVERALL, *(f"test_{name}" for name in metrics.OVERALL)]
    _write_csv(folder / "training_results.csv", validation)
    _write_csv(folder / "experiment_results.csv", both)
    _write_csv(folder / "grid_results.csv", selection.summarise(both, keys, names))
    _write_csv(folder / "history.csv", history)
    job, trial = next((job, trial) for job in made.jobs for trial in job.trials if trial.id == choice.trial)
    best: dict[str, Any] = {
        "trial": choice.trial,
        "job": job.name,
        **plan.draw(trial),
        "metric": choice.metric,
        "grid_point": choice.point,
        "grid_point_mean": choice.mean,
        "interval": metrics.INTERVALS,
        "objects": {split: len(predicted[split][trial.fold].labels) for split in SCORED_SPLITS},
    }
    for split in SCORED_SPLITS:
        seen = predicted[split][trial.fold]
        chosen = seen.probabilities[choice.trial]
        best[split] = metrics.with_intervals(chosen, seen.labels, classes, experiment.seed)
        matrix = metrics.confusion_matrix(chosen, seen.labels, classes)
        _write_matrix(folder / f"confusion_matrix_{split}.csv", matrix, classes)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        _write_matrix(folder / f"confusion_matrix_{split}_normalised.csv", shares.round(6), classes)
    best["software"] = _write_bundle(made, job, trial, at)
    results.write_json(folder / "best.json", best)
    return best


def _read_jobs(made: Plan, at: Results) -> tuple[dict[str, dict[int | None, Predictions]], pd.DataFrame, pd.DataFrame]:
    """Returns the predictions of all trials by split and fold, the jobs' `trials.csv` and `history.csv` as one table
    each."""
    trained, histories = [], []
    merged: dict[str, dict[int | None, Predictions]] = {split: {} for split in SCORED_SPLITS}
    first_of: dict[int | None, Job] = {}
    for job in made.jobs:
        statistics = splits.read_statistics(at.experiment(made.experiment.experiment), job.fold)
        folder = at.job(made.experiment.experiment, job.name)
        content, found_classes = predictions.read(folder / "predictions.h5")
        table = pd.read_csv(folder / "trials.csv", dtype={"fingerprint": str, "data_digest": str})
        expected = [(trial.id, trial.fingerprint, statistics.data_digest) for trial in job.trials]
        found = list(zip(*(table.get(name, []) for name in ("trial", "fingerprint", "data_digest")), strict=True))
        if found_classes != statistics.classes or found != expected:
            raise JaxrnnError(
                f"{folder}: holds the results of other settings or data than the experiment has now; run "
                f"`jaxrnn plan`, then `jaxrnn train --config {folder / 'config.yaml'}`"
            )
        trained.append(table)
        histories.append(pd.read_csv(folder / "history.csv"))
        first = first_of.setdefault(job.fold, job)
        for split in SCORED_SPLITS:
            known = merged[split].setdefault(job.fold, Predictions(content[split].ids, content[split].labels, {}))
            if content[split].ids.tolist() != known.ids.tolist():
                raise JaxrnnError(f"job {job.name} was trained on other splits than job {first.name}; train both again")
            known.probabilities.update(content[split].probabilities)
    return merged, pd.concat(trained, ignore_index=True), pd.concat(histories, ignore_index=True)


def _shown_scores(classes: tuple[str, ...]) -> list[str]:
    return [*metrics.OVERALL, *(f"f1_{name}" for name in classes)]


def _table(
    made: Plan, trained: pd.DataFrame, scored: dict[str, dict[str, float]], classes: tuple[str, ...]
) -> pd.DataFrame:
    """Returns `training_results.csv`: a row a trial, its scores on validation at its best epoch."""
    by_trial = trained.set_index("trial")
    rows = []
    for job in made.jobs:
        for trial in job.trials:
            record = by_trial.loc[trial.id]
            row: dict[str, Any] = {"trial": trial.id, "job": job.name, **plan.draw(trial)}
            row |= plan.shown_point(made, trial)
            row |= {"loss": record["loss"]} | {name: scored[trial.id][name] for name in _shown_scores(classes)}
            rows.append(row | {name: record[name] for name in BOOKKEEPING})
    table = pd.DataFrame(rows)
    for key in made.experiment.grid:
        # else a whole number beside None becomes 3.0
        table[key] = pd.Series([row[key] for row in rows], dtype=object)
    return table


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)


def _write_matrix(path: Path, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
    table = pd.DataFrame(matrix, columns=list(classes))
    table.insert(0, "truth", list(classes), allow_duplicates=True)  # a class may be called "truth" as well
    _write_csv(path, table)


def _write_bundle(made: Plan, job: Job, trial: Trial, at: Results) -> dict[str, str]:
    """Writes the chosen trial's model bundle; returns what software and device trained it."""
    settings = plan.JobFile.model_validate(plan.job_values(made, job))
    manifest = results.read_json(at.dataset(made.dataset_key) / "manifest.json", "jaxrnn ingest")
    finished = trials.load(at.trial(made.experiment.experiment, trial.fingerprint))
    bundle = bundles.Bundle(
        model=settings.model,
        data=settings.data,
        features=manifest["features"],
        metadata=manifest["metadata"],
        statistics=splits.read_statistics(at.experiment(made.experiment.experiment), job.fold),
        arrays=finished.arrays,
        trial=finished.record,
    )
    bundles.save(at.experiment(made.experiment.experiment) / "best", bundle)
    return {name: finished.record[name] for name in trials.SOFTWARE}
