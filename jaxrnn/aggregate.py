"""From the jobs' predictions to the experiment's tables, the choice, its mistakes and its model bundle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import (
    attributions,
    bundles,
    calibration,
    cards,
    early,
    ensembles,
    evaluation,
    examples,
    metrics,
    plan,
    predictions,
    results,
    search,
    selection,
    splits,
    transcripts,
    trials,
    uncertainty,
)
from jaxrnn.bundles import Bundle, Member
from jaxrnn.config import ERROR_RATES, LOWER_IS_BETTER, Experiment, Task
from jaxrnn.errors import JaxrnnError, listed, plural
from jaxrnn.evaluation import Classified
from jaxrnn.plan import Job, Plan, Trial
from jaxrnn.predictions import SCORED_SPLITS, Predictions
from jaxrnn.results import Results, written_whole
from jaxrnn.transcripts import Transcripts
from jaxrnn.trials import FinishedTrial

BOOKKEEPING = ("epochs", "best_epoch", "seconds", "input_seconds", "pack_halvings", "outcome")


def aggregate(experiment: Experiment, at: Results, *, partial: bool = False) -> dict[str, Any]:
    """Writes the experiment's tables, those of mistakes, `best.json` and `best/`; returns what `best.json` holds.

    Only the jobs of the present plan are read. The choice reads validation alone.
    partial: of the jobs that are whole, where others failed; `best.json` names these, with the end of their logs.
    """
    made, missing = plan.make(experiment), {}
    if partial:
        made, missing = _whole(made, at)
    folder = at.experiment(experiment.experiment)
    predicted, trained, history = _read_jobs(made, at)
    first = made.jobs[0]
    classes, task = _statistics(made, first, first.trials[0], at).classes, experiment.task
    splits.check_classes(experiment, classes)
    scored = {
        split: {trial: _scores(entry, trial, classes, task) for trial, entry in by_trial.items()}
        for split, by_trial in predicted.items()
    }
    overall = metrics.overall(task)
    shown = [*overall, *(f"f1_{name}" for name in classes if task.kind != "label_sequence")]
    keys = list(experiment.grid)
    validation = _table(made, trained, scored["validation"], shown)
    choice = selection.choose(validation, keys, experiment.selection.metric)
    test = pd.DataFrame(scored["test"]).T.loc[validation["trial"]]
    test_columns = test[shown].add_prefix("test_").reset_index(drop=True)
    both = pd.concat([validation, test_columns], axis=1)
    names = [*overall, *(f"test_{name}" for name in overall)]
    _write_csv(folder / "training_results.csv", validation)
    _write_csv(folder / "experiment_results.csv", both)
    _write_csv(folder / "grid_results.csv", selection.summarise(both, keys, names))
    _write_csv(folder / "effects.csv", selection.effects(validation, keys, experiment.selection.metric))
    _write_csv(folder / "history.csv", history)
    job, trial = next((job, trial) for job in made.jobs for trial in job.trials if trial.id == choice.trial)
    best: dict[str, Any] = {
        "trial": choice.trial,
        "job": job.name,
        **plan.draw(trial),
        "fingerprint": trial.fingerprint,
        "data_digest": _statistics(made, job, job.trials[0], at).data_digest,
        "metric": choice.metric,
        "grid_point": choice.point,
        "grid_point_mean": choice.mean,
        "objects": {split: len(predicted[split][choice.trial].ids) for split in SCORED_SPLITS},
        "missing_jobs": missing,
    }
    seen = {split: predicted[split][choice.trial] for split in SCORED_SPLITS}
    _check_finite(seen["test"], choice.trial)
    if task.kind == "label_sequence":
        best |= _write_transcripts(experiment, seen, choice.trial, classes, folder)
    else:
        best |= _write_confusions(experiment, seen, choice.trial, classes, folder)
    if task.kind == "prefix":
        _write_early(made, validation, choice, predicted, classes, at)
    _write_csv(folder / results.SCORES, evaluation.overall_scores(best, task))
    finished = trials.load(at.trial(experiment.experiment, trial.fingerprint))
    _write_attention(folder / "attention.csv", finished.attention)
    best["software"] = {name: finished.record.get(name, "") for name in trials.SOFTWARE}
    outcomes = dict(zip(validation["trial"], validation["outcome"], strict=True))
    members = _members(made, trial, finished, outcomes, predicted["validation"], at)
    best |= _ensemble(experiment, members, predicted, classes)
    mistakes = _write_evaluation(made, validation, choice, predicted, classes, best, at)
    bundle = _write_bundle(made, job, trial, finished, members, best, at)
    best["inputs"] = _write_examples(made, trial, predicted["test"][trial.id], mistakes, classes, at)
    _write_uncertainty(made, trial, bundle, predicted["test"][trial.id], at)
    results.write_json(folder / "best.json", best)
    return best


def _whole(made: Plan, at: Results) -> tuple[Plan, dict[str, str]]:
    """Returns the plan of the jobs that are whole, and of the others the last line of their logs."""
    jobs, missing = [], {}
    for job in made.jobs:
        folder = at.job(made.experiment.experiment, job.name)
        try:
            if not (folder / "models").is_dir():
                raise FileNotFoundError
            _read_jobs(replace(made, jobs=(job,)), at)
            jobs.append(job)
        except (JaxrnnError, OSError, ValueError):
            missing[job.name] = "".join(results.tail(folder / "log.txt")[-1:]).strip()
    if not jobs:
        raise JaxrnnError(f"none of the {len(made.jobs)} jobs is finished, so that there is nothing to choose from")
    trials = {trial.id for job in jobs for trial in job.trials}
    points = {trial: point for trial, point in made.points.items() if trial in trials}
    return replace(made, jobs=tuple(jobs), points=points), missing


def promote(experiment: Experiment, at: Results, number: int) -> str:
    """Writes the table of a rung, which says which trials go on from it; returns that in words."""
    made = plan.make(experiment)
    if number >= len(made.rungs):
        raise JaxrnnError(
            f"--rung {number}: trials go on from rungs 1 to {len(made.rungs) - 1}"
            if len(made.rungs) > 1
            else "`search.halving` is not set: there are no rungs"
        )
    folder = at.experiment(experiment.experiment)
    rung, metric = made.rungs[number - 1], experiment.selection.metric
    going = None if number == 1 else search.promoted(folder, number - 1)
    tables = []
    for job in made.jobs:
        path = at.job(experiment.experiment, job.name) / f"rung-{number}" / "trials.csv"
        try:
            table = pd.read_csv(path, dtype={"trial": str, "fingerprint": str, "data_digest": str})
        except FileNotFoundError:
            raise JaxrnnError(f"{path}: not there yet; run `jaxrnn train --rung {number}` with the job's config.yaml")
        own = [trial for trial in job.trials if going is None or trial.fingerprint in going]
        expected = _expected(made, job, own, at)
        columns = (table[name] for name in ("trial", "fingerprint", "data_digest"))
        if list(zip(*columns, strict=True)) != expected:
            raise JaxrnnError(
                f"{path}: holds trials of other settings or data than the experiment has now; run `jaxrnn plan`, then "
                f"`jaxrnn train --rung {number}` with the job's config.yaml"
            )
        tables.append(table.assign(job=job.name))
    trained = pd.concat([table for table in tables if len(table)], ignore_index=True)
    if set(trained["outcome"]) == {results.DIVERGED}:
        raise JaxrnnError(
            f"all {len(trained)} trials of rung {number} diverged: there is nothing to choose; lower "
            "training.learning_rate or set training.gradient_clip"
        )
    score, following = f"validation_{metric}", made.rungs[number]
    shown = trained[["trial", "fingerprint", "job", "outcome", "epochs", "best_epoch", score]].to_dict("records")  # pyright: ignore
    sign = -1 if metric in LOWER_IS_BETTER else 1
    ranked = search.promote(shown, made.point_numbers, score, following.points, sign)
    by_id = {trial.id: trial for trial in made.trials}
    rows = [row | plan.draw(by_id[row["trial"]]) | plan.shown_point(made, by_id[row["trial"]]) for row in ranked]
    _write_csv(search.table(folder, number), pd.DataFrame(rows).astype({"rank": "Int64"}))
    points = {made.point_numbers[row["trial"]]: row["promoted"] for row in ranked}
    return (
        f"rung {number} of {len(made.rungs)}: {sum(points.values())} of {len(points)} grid points go on from epoch "
        f"{rung.epochs} to {following.epochs}"
    )


def _check_finite(test: Predictions, trial: str) -> None:
    """Raises JaxrnnError where the chosen trial, whose validation scores are numbers, fails on test objects."""
    finite = np.isfinite(test.probabilities[trial]).all(axis=1)
    lost = test.ids[np.unique(np.repeat(np.arange(len(test.ids)), test.places)[~finite])].tolist()
    if lost:
        raise JaxrnnError(
            f"trial {trial}, which validation chose, gives probabilities that are not finite for {len(lost)} of "
            f"{plural(len(test.ids), 'test object')} ({listed(lost, 3)}), so that it has no test score; look at these "
            "objects' values, and lower training.learning_rate or set training.gradient_clip, or take its grid point "
            "out of `grid`"
        )


def _scores(entry: Predictions, trial: str, classes: tuple[str, ...], task: Task) -> dict[str, float]:
    if task.kind == "label_sequence":
        return Transcripts.of(entry, trial, task.beam_width).scores()
    return metrics.scores(entry.scored(trial), entry.scored_labels, classes, task)


def _write_confusions(
    experiment: Experiment, seen: dict[str, Predictions], trial: str, classes: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """Writes the confusion matrices of a trial; returns its scores in each split."""
    best: dict[str, Any] = {
        "interval": metrics.INTERVALS_BY_STEP if experiment.task.kind == "step" else metrics.INTERVALS
    }
    for split, entry in seen.items():
        chosen, labels = entry.scored(trial), entry.scored_labels
        owners = entry.owners if entry.kind == "step" else None
        best[split] = metrics.with_intervals(chosen, labels, classes, experiment.seed, experiment.task, owners)
        matrix = metrics.confusion_matrix(chosen, labels, classes)
        _write_matrix(folder / f"confusion_matrix_{split}.csv", matrix, classes)
        for axis, end in ((1, ""), (0, "_by_prediction")):
            shares = matrix / np.maximum(matrix.sum(axis=axis, keepdims=True), 1)
            _write_matrix(folder / f"confusion_matrix_{split}_normalised{end}.csv", shares, classes)
    return best


def _write_evaluation(
    made: Plan,
    validation: pd.DataFrame,
    choice: selection.Choice,
    predicted: dict[str, dict[str, Predictions]],
    classes: tuple[str, ...],
    best: dict[str, Any],
    at: Results,
) -> pd.DataFrame:
    """Writes what `evaluation` finds of the chosen trial on test; returns its mistakes. best: what best.json holds so
    far."""
    experiment, task, seed = made.experiment, made.experiment.task, made.experiment.seed
    folder, entry = at.experiment(experiment.experiment), predicted["test"][choice.trial]
    test = evaluation.judged(entry, choice.trial, task)
    bins, calibration_scores = evaluation.calibrated(test, best["temperature"], seed)
    known, cadences = evaluation.properties(at.dataset(made.dataset_key), entry.ids, entry.lengths)

    # other folds may have other test objects
    here = validation
    if "fold" in validation:
        own = dict(zip(validation["trial"], validation["fold"], strict=True))[choice.trial]
        here = validation.loc[validation["fold"] == own]
    score = here[choice.metric].to_numpy(dtype=float)
    order = np.argsort(score if choice.metric in LOWER_IS_BETTER else -score, kind="stable")
    usable = ((here["outcome"] != results.DIVERGED) & np.isfinite(score)).to_numpy()
    ranked = here["trial"].to_numpy()[order[usable[order]]].tolist()
    numbers = made.point_numbers
    points: dict[int, list[str]] = {}
    for trial in ranked:
        points.setdefault(numbers[trial], []).append(trial)
    points.pop(numbers[choice.trial])
    best_of_points = [trials[0] for trials in points.values()]
    others = {trial: evaluation.judged(predicted["test"][trial], trial, task) for trial in best_of_points}
    together = best.get("ensemble", {"trials": [], "test": None})
    tables = {
        "calibration": bins,
        "calibration_scores": calibration_scores,
        "cadence": cadences,
        "slices_test": evaluation.slices(test, known, seed),
        "mistakes_test": evaluation.mistakes(test, entry, classes, task.separator),
        "ensemble": evaluation.ensemble(best["test"], together["test"], len(together["trials"]), task),
        "comparisons": evaluation.comparisons(test, others, seed),
    }
    if isinstance(test, Classified):
        tables["roc_test"], tables["precision_recall_test"] = evaluation.curves(test, classes)
        tables["class_scores_test"] = evaluation.class_scores(best["test"], classes)
    for name, table in tables.items():
        _write_csv(folder / f"{name}.csv", table)
    return tables["mistakes_test"]


def _write_transcripts(
    experiment: Experiment, seen: dict[str, Predictions], trial: str, classes: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """Writes what a trial decoded and the edits that part it from the truth; returns its scores in each split by the
    task's decoder, and by both."""
    task = experiment.task
    width = None if seen["test"].by_decoder else task.beam_width or transcripts.BEAM_WIDTH
    if width is None:
        own, widths = "named", {"named": None}
    else:
        own, widths = "greedy" if task.beam_width is None else "beam", {"greedy": None, "beam": width}
    best: dict[str, Any] = {"interval": transcripts.INTERVALS, "decoder": own, "beam_width": width, "decoders": {}}
    for name, beam_width in widths.items():
        found = {split: Transcripts.of(entry, trial, beam_width) for split, entry in seen.items()}
        scores = {split: entry.with_intervals(experiment.seed) for split, entry in found.items()}
        best["decoders"][name] = {split: {rate: score[rate] for rate in ERROR_RATES} for split, score in scores.items()}
        if name != own:
            continue
        best |= scores
        for split, entry in found.items():
            counts = entry.edit_counts(len(classes))
            table = pd.DataFrame(counts, columns=[*classes, transcripts.DELETED])
            table.insert(0, "truth", [*classes, transcripts.INSERTED], allow_duplicates=True)
            _write_csv(folder / f"edit_operations_{split}.csv", table)
            decoded = entry.table(seen[split].ids.tolist(), classes, task.separator)
            _write_csv(folder / f"decoded_{split}.csv", decoded)
    _write_csv(folder / results.DECODERS, evaluation.decoder_scores(best["decoders"]))
    return best


def _statistics(made: Plan, job: Job, trial: Trial, at: Results) -> splits.Statistics:
    return splits.read_statistics(at.experiment(made.experiment.experiment), trial.fold, made.sequences(job))


def _expected(made: Plan, job: Job, trials: Sequence[Trial], at: Results) -> list[tuple[str, str, str]]:
    """Returns what a job's `trials.csv` must say of its trials: their ids, fingerprints and data."""
    digest = _statistics(made, job, job.trials[0], at).data_digest
    return [(trial.id, trial.fingerprint, digest) for trial in trials]


def _read_jobs(made: Plan, at: Results) -> tuple[dict[str, dict[str, Predictions]], pd.DataFrame, pd.DataFrame]:
    """Returns the predictions by split and trial (each with its own places: strides may differ), the jobs' `trials.csv`
    and `history.csv` as one table each."""
    trained, histories = [], []
    merged: dict[str, dict[str, Predictions]] = {split: {} for split in SCORED_SPLITS}
    first_of: dict[int | None, tuple[Job, dict[str, Predictions]]] = {}
    for job in made.jobs:
        statistics = _statistics(made, job, job.trials[0], at)
        folder = at.job(made.experiment.experiment, job.name)
        content, found_classes = predictions.read(folder / "predictions.h5")
        table = pd.read_csv(folder / "trials.csv", dtype={"fingerprint": str, "data_digest": str})
        expected = _expected(made, job, job.trials, at)
        found = list(zip(*(table.get(name, []) for name in ("trial", "fingerprint", "data_digest")), strict=True))
        if found_classes != statistics.classes or found != expected:
            raise JaxrnnError(
                f"{folder}: holds the results of other settings or data than the experiment has now; run "
                f"`jaxrnn plan`, then `jaxrnn train --config {folder / 'config.yaml'}`"
            )
        trained.append(table)
        histories.append(pd.read_csv(folder / "history.csv"))
        for fold, by_split in content.items():
            first, known = first_of.setdefault(fold, (job, by_split))
            for split, entry in by_split.items():
                if entry.ids.tolist() != known[split].ids.tolist():
                    raise JaxrnnError(
                        f"job {job.name} was trained on other splits than job {first.name}; train both again"
                    )
                for trial, probabilities in entry.probabilities.items():
                    merged[split][trial] = replace(entry, probabilities={trial: probabilities})
    return merged, pd.concat(trained, ignore_index=True), pd.concat(histories, ignore_index=True)


def _table(made: Plan, trained: pd.DataFrame, scored: dict[str, dict[str, float]], shown: list[str]) -> pd.DataFrame:
    """Returns `training_results.csv`: a row a trial, those of its scores that are shown, on validation at its best
    epoch."""
    by_trial = trained.set_index("trial")
    rows = []
    for job in made.jobs:
        for trial in job.trials:
            record = by_trial.loc[trial.id]
            row: dict[str, Any] = {"trial": trial.id, "job": job.name, **plan.draw(trial)}
            row |= plan.shown_point(made, trial)
            row |= {"loss": record["loss"]} | {name: scored[trial.id][name] for name in shown}
            rows.append(row | {name: record[name] for name in BOOKKEEPING})
    table = pd.DataFrame(rows)
    for key in made.experiment.grid:
        # else a whole number beside None becomes 3.0
        table[key] = pd.Series([row[key] for row in rows], dtype=object)
    return table


def _write_early(
    made: Plan,
    validation: pd.DataFrame,
    choice: selection.Choice,
    predicted: dict[str, dict[str, Predictions]],
    classes: tuple[str, ...],
    at: Results,
) -> None:
    """Writes `early_validation.csv` and `early_test.csv`: the scores of growing sequences, for each trial of the chosen
    grid point."""
    experiment, dataset = made.experiment, at.dataset(made.dataset_key)
    trials_of_point = [trial for trial in made.trials if made.points[trial.id] == made.points[choice.trial]]
    outcomes = dict(zip(validation["trial"], validation["outcome"], strict=True))
    for split in SCORED_SPLITS:
        found, clocks = [], {}
        for trial in trials_of_point:
            if outcomes[trial.id] == results.DIVERGED:
                continue
            entry = predicted[split][trial.id]
            if trial.fold not in clocks:
                clocks[trial.fold] = early.Clock.read(dataset, entry.ids, experiment.task.early)
            curve = early.curves(entry, trial.id, clocks[trial.fold], classes, experiment.task.early)
            curve.insert(0, "trial", trial.id)
            found.append(curve)
        _write_csv(at.experiment(experiment.experiment) / f"early_{split}.csv", pd.concat(found, ignore_index=True))


def _write_examples(
    made: Plan, trial: Trial, test: Predictions, mistakes: pd.DataFrame, classes: tuple[str, ...], at: Results
) -> int:
    """Writes what the report draws of single objects; returns how many inputs they have.

    test: the chosen trial's predictions. mistakes: of them, by `evaluation.mistakes`.
    """
    experiment, folder = made.experiment, at.experiment(made.experiment.experiment)
    kind, seed = experiment.task.kind, experiment.seed
    wanted = examples.of_classes(splits.read_splits(folder), trial.fold, classes, seed)
    wanted += examples.mistaken(mistakes)
    if kind == "prefix":
        wanted += examples.growing(test, trial.id, classes, seed)
    table, inputs = examples.read(at.dataset(made.dataset_key), experiment.data, wanted)
    _write_csv(folder / results.EXAMPLES, table)
    if kind == "prefix":
        _write_csv(folder / results.GROWING, examples.grown(table, test, trial.id, classes))
    return inputs


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)


def _write_matrix(path: Path, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
    table = pd.DataFrame(matrix, columns=list(classes))
    table.insert(0, "truth", list(classes), allow_duplicates=True)  # a class may be called "truth" as well
    _write_csv(path, table)


def _write_attention(path: Path, attention: dict[str, np.ndarray]) -> None:
    """Writes a row for each weight of the chosen trial; steps count from 1. Where it has no decoder, there is no such
    file, nor one of an earlier choice."""
    if not attention:
        path.unlink(missing_ok=True)
        return
    pieces = []
    for name, weights in attention.items():
        target, source = np.indices(weights.shape).reshape(2, -1) + 1
        columns = {"id": name, "target_step": target, "source_step": source, "weight": weights.ravel().round(6)}
        pieces.append(pd.DataFrame(columns))
    _write_csv(path, pd.concat(pieces, ignore_index=True))


def _members(
    made: Plan,
    chosen: Trial,
    finished: FinishedTrial,
    outcomes: dict[str, str],
    validation: dict[str, Predictions],
    at: Results,
) -> tuple[Member, ...]:
    """Returns the chosen trial and the other seeds of its grid point and fold that did not diverge, each calibrated on
    its own validation predictions."""
    task = made.experiment.task
    found = [Member(chosen.id, chosen.seed, _temperature(validation[chosen.id], chosen.id, task), finished.arrays)]
    if task.kind == "label_sequence":
        return tuple(found)
    for job in made.jobs:
        for trial in job.trials:
            alike = made.points[trial.id] == made.points[chosen.id] and trial.fold == chosen.fold
            if alike and trial.id != chosen.id and outcomes[trial.id] in (results.COMPLETED, results.EARLY_STOPPED):
                temperature = _temperature(validation[trial.id], trial.id, task)
                arrays = trials.load(at.trial(made.experiment.experiment, trial.fingerprint)).arrays
                found.append(Member(trial.id, trial.seed, temperature, arrays))
    return tuple(found)


def _temperature(entry: Predictions, trial: str, task: Task) -> float:
    """Returns a trial's temperature, see `Member`."""
    if task.kind == "label_sequence":
        return Transcripts.of(entry, trial, task.beam_width).temperature()
    return calibration.temperature(entry.scored(trial), entry.scored_labels)


def _ensemble(
    experiment: Experiment,
    members: tuple[Member, ...],
    predicted: dict[str, dict[str, Predictions]],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Returns the temperature of the chosen trial and, where it has others beside it, who they are and what they score
    together: what `jaxrnn predict` gives."""
    found: dict[str, Any] = {"temperature": members[0].temperature}
    if len(members) == 1:
        return found
    scores = {}
    for split in SCORED_SPLITS:
        entry = predicted[split][members[0].trial]
        own = [predicted[split][member.trial].scored(member.trial) for member in members]
        together = ensembles.together(own, [member.temperature for member in members]).probabilities
        owners = entry.owners if entry.kind == "step" else None
        scores[split] = metrics.with_intervals(
            together, entry.scored_labels, classes, experiment.seed, experiment.task, owners
        )
    return found | {"ensemble": {"trials": [member.trial for member in members], **scores}}


def _write_bundle(
    made: Plan,
    job: Job,
    trial: Trial,
    finished: FinishedTrial,
    members: tuple[Member, ...],
    best: dict[str, Any],
    at: Results,
) -> Bundle:
    """Writes the chosen trial's model bundle, and returns it."""
    settings = plan.JobFile.model_validate(plan.job_values(made, job))
    dataset = at.dataset(made.dataset_key) / "manifest.json"
    manifest = results.read_json(dataset, "jaxrnn ingest")
    if "survey" not in manifest:
        raise JaxrnnError(f"{dataset}: written before datasets said what their survey holds; run `jaxrnn ingest` again")
    statistics = _statistics(made, job, trial, at)
    bundle = Bundle(
        model=settings.model,
        task=settings.task,
        outputs=settings.loss.outputs(len(statistics.classes), settings.task.kind),
        data=settings.data,
        survey=bundles.survey(manifest["survey"]),
        features=manifest["features"],
        metadata=manifest["metadata"],
        statistics=statistics,
        members=members,
        trial=finished.record,
    )
    folder = at.experiment(made.experiment.experiment)
    counts = splits.read_counts(folder, trial.fold)
    card = cards.card(made.experiment.experiment, bundle, best, counts, manifest["counts"], best["software"])
    bundles.save(folder / "best", bundle, card)
    return bundle


def _write_uncertainty(made: Plan, trial: Trial, bundle: Bundle, entry: Predictions, at: Results) -> None:
    """Writes how sure the bundle's networks are of test objects and of made-up inputs, and what the chosen trial's
    decisions rest on; entry: its test predictions."""
    from jaxrnn.batches import Corpus  # loads jax, as what follows does

    experiment, dataset = made.experiment, at.dataset(made.dataset_key)
    folder, seed = at.experiment(experiment.experiment), plan.split_seed(experiment.model_dump())
    corpus = Corpus(dataset, splits.read_splits(folder), bundle.statistics, task=experiment.task, seed=seed)
    test, train = (corpus.part(name, fold=trial.fold) for name in (splits.TEST, splits.TRAIN))
    rates = (float(trial.hyperparameters[f"model.{name}"]) for name in ("dropout", "recurrent_dropout"))
    dropout = uncertainty.Dropout(*rates)
    found = uncertainty.tables(bundle, test, train, dataset, dropout, experiment.seed)._asdict()
    found["attributions_test"] = attributions.table(bundle, test, dataset, entry, trial.id)
    for name, table in found.items():
        _write_csv(folder / f"{name}.csv", table)
