"""Experiments side by side: their choices' scores, and how they differ on the test objects that they have in common.

The first experiment is compared with each of the others. Nothing here chooses: who takes the better one by its test
score spends the test split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import evaluation, metrics, predictions, results, transcripts
from jaxrnn.config import Task, read_yaml
from jaxrnn.errors import JaxrnnError, listed, plural
from jaxrnn.evaluation import Classified, Judged, Spelled
from jaxrnn.predictions import Predictions
from jaxrnn.results import written_whole
from jaxrnn.transcripts import Transcripts

SCORES, SETTINGS, PAIRS, PAGE = "scores.csv", "settings.csv", "pairs.csv", "comparison.html"
PAIR_COLUMNS = ("other", *(name for name in evaluation.COMPARISONS if name != "trial"))
UNSET = "(not there)"
OTHER_LABELS = "they have other labels for the same objects"


@dataclass(frozen=True)
class Experiment:
    """A finished experiment: its name here, file, what best.json says, and the chosen trial's predictions of test."""

    name: str
    config: dict[str, Any]
    best: dict[str, Any]
    test: Predictions
    classes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, name: str) -> "Experiment":
        """Raises JaxrnnError where the experiment in a folder is not finished."""
        best = results.read_json(folder / "best.json", "jaxrnn aggregate")
        config = read_yaml(folder / "experiment.yaml")
        path = folder / "jobs" / str(best.get("job")) / "predictions.h5"
        by_fold, classes = predictions.read(path)
        try:
            test = by_fold[best.get("fold")]["test"]
            chosen = {best["trial"]: test.probabilities[best["trial"]]}
        except KeyError as error:
            raise JaxrnnError(f"{path}: lacks {error} of the chosen trial; run `jaxrnn aggregate` in {folder} again")
        return cls(name, config, best, replace(test, probabilities=chosen), classes)

    @property
    def trial(self) -> str:
        return str(self.best["trial"])


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. scores: a row an experiment and score (experiment, score, value, low, high, objects, on its
    own test objects). settings: a row for each key in which they differ, a column an experiment. pairs: a row for each
    other experiment (`PAIR_COLUMNS`): the first one minus it, on the test objects of both. remarks: what can't be
    compared, and why."""

    names: list[str]
    scores: pd.DataFrame
    settings: pd.DataFrame
    pairs: pd.DataFrame
    remarks: list[str]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compares finished experiments; raises JaxrnnError for fewer than two, or one that is not finished."""
    if len(folders) < 2:
        raise JaxrnnError("compare: two experiments at least, such as `jaxrnn compare results/a results/b`")
    experiments = [Experiment.read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    first, *others = experiments
    remarks, judged = [], {}
    for other in others:
        pair = _paired(first, other)
        if isinstance(pair, str):
            remarks.append(f"{first.name} and {other.name} can't be compared object by object: {pair}")
        else:
            judged[other.name] = pair
            if len(pair[0].owners) < len(first.test.owners):
                remarks.append(
                    f"{first.name} and {other.name} have {plural(len(set(pair[0].owners.tolist())), 'test object')} in "
                    f"common, of {len(first.test.ids)} and {len(other.test.ids)}"
                )
    return Comparison(
        [experiment.name for experiment in experiments],
        pd.DataFrame([row for experiment in experiments for row in _scores(experiment)]),
        _settings(experiments),
        _pairs(judged, int(first.config["seed"])),
        remarks,
    )


def write(found: Comparison, folder: Path) -> None:
    """Writes the tables, the figure and the page into a folder, whole or not at all."""
    from jaxrnn.report import comparison

    if folder.exists() and not (folder / PAGE).exists():
        raise JaxrnnError(f"{folder}: is there and no comparison; name another folder by --output")
    drawn = comparison.drawn(found)
    page = comparison.page(found, drawn)
    with written_whole(folder) as temporary:
        temporary.mkdir(parents=True)
        for name, table in ((SCORES, found.scores), (SETTINGS, found.settings), (PAIRS, found.pairs)):
            table.to_csv(temporary / name, index=False)
        drawn.write(temporary / "figures")
        (temporary / PAGE).write_text(page, encoding="utf-8")


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the folders' own names, or where two are the same their paths."""
    own = [folder.resolve().name for folder in folders]
    names = own if len(set(own)) == len(own) else [str(folder) for folder in folders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise JaxrnnError(f"compare: {listed(repeated)} named twice")
    return names


def _paired(first: Experiment, other: Experiment) -> tuple[Judged, Judged] | str:
    """Returns what both say of the places that they have in common, in the same order; or why there are none."""
    one, two = first.test, other.test
    for kind, told in (("step", "one labels steps"), ("label_sequence", "one spells label sequences")):
        if (one.kind == kind) != (two.kind == kind):
            return f"{told}, the other doesn't"
    if set(first.classes) != set(other.classes):
        return f"their classes differ ({listed(list(first.classes))}; {listed(list(other.classes))})"
    ids = np.intersect1d(one.ids, two.ids)
    if not len(ids):
        return "they have no test object in common"
    if one.kind == "label_sequence":
        spelled = [_spelled(experiment, ids) for experiment in (first, other)]
        texts = [
            transcripts.texts(pair.transcripts.truth, experiment.classes, " ").tolist()
            for pair, experiment in zip(spelled, (first, other), strict=True)
        ]
        return (spelled[0], spelled[1]) if texts[0] == texts[1] else OTHER_LABELS
    pair = [_of(first, ids, first.classes), _of(other, ids, first.classes)]
    if len(pair[0].labels) != len(pair[1].labels) or (pair[0].labels != pair[1].labels).any():
        return OTHER_LABELS
    if len(set(pair[0].labels.tolist())) < len(first.classes):
        return f"the {plural(len(ids), 'test object')} that they have in common leave out a class"
    return pair[0], pair[1]


def _spelled(experiment: Experiment, ids: np.ndarray) -> Spelled:
    """Returns what is decoded of these objects, by their ids, as the experiment decodes."""
    test, place = experiment.test, {name: row for row, name in enumerate(experiment.test.ids.tolist())}
    width = experiment.best["beam_width"] if experiment.best["decoder"] == "beam" else None
    return Spelled.found(Transcripts.of(test.some([place[name] for name in ids.tolist()]), experiment.trial, width))


def _of(experiment: Experiment, ids: np.ndarray, classes: tuple[str, ...]) -> Classified:
    """Returns what is scored of these objects, by their ids, with this order of the classes."""
    judged = Classified.of(experiment.test, experiment.trial)
    place = {name: number for number, name in enumerate(ids.tolist())}
    owners = np.array([place.get(name, -1) for name in experiment.test.ids.tolist()])[judged.owners]
    # by object, and the steps of one in their order
    kept = np.flatnonzero(owners >= 0)
    kept = kept[np.argsort(owners[kept], kind="stable")]
    columns = [experiment.classes.index(name) for name in classes]
    labels = np.argsort(columns)[judged.labels[kept]]
    return Classified(judged.probabilities[kept][:, columns], labels, owners[kept], judged.by_step)


def _pairs(judged: Mapping[str, tuple[Judged, Judged]], seed: int) -> pd.DataFrame:
    tables = [evaluation.comparisons(one, {name: two}, seed) for name, (one, two) in judged.items()]
    if not tables:
        return pd.DataFrame(columns=list(PAIR_COLUMNS))
    table = pd.concat(tables, ignore_index=True).rename(columns={"trial": "other"})
    table["p_holm"] = metrics.holm(table["p_value"].to_numpy(dtype=float))
    return table.reindex(columns=list(PAIR_COLUMNS))


def _scores(experiment: Experiment) -> list[dict[str, Any]]:
    names, scores = metrics.overall(Task.model_validate(experiment.config["task"] or {})), experiment.best["test"]
    return [
        {"experiment": experiment.name, "score": name}
        | {part: scores[name].get(part, math.nan) for part in evaluation.MEASURED}
        for name in names
    ]


def _settings(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Returns the keys in which the files differ, and what was chosen of the grids."""
    flat = [_flat({**experiment.config, "chosen": experiment.best["grid_point"]}) for experiment in experiments]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [[key, *(values.get(key, UNSET) for values in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1 and row[0] != "experiment"]
    return pd.DataFrame(rows, columns=["key", *(experiment.name for experiment in experiments)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns values by their dotted keys, as text."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
