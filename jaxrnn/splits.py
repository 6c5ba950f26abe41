"""Splits, folds, classes, and statistics that see the training split alone.

Shards are read one at a time: first what is known of each object, which decides the splits, then the steps. What stays
in memory are some hundred bytes an object, never the steps.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrnn import blueprint, decoding, leaks, plan, results, shards
from jaxrnn.blueprint import Blueprint
from jaxrnn.config import (
    REST,
    Decoder,
    Experiment,
    Feature,
    Split,
    Task,
    decoder_of,
    digest,
    layers_of,
    not_binary,
    undeclared,
)
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.features import FeatureColumn
from jaxrnn.readers import SPLITS
from jaxrnn.shards import Shard

TRAIN, VALIDATION, TEST = SPLITS
# In splits.csv, beside `SPLITS`: labels that the task leaves out; training and validation together, cut into folds;
# another split in each fold, which the columns `fold_0`, `fold_1`, ... say; objects taken out because they stand in
# another split too; objects that `split.balance` leaves out.
EXCLUDED, POOL, DRAWN, LEAKED, SURPLUS = "excluded", "pool", "drawn", "leaked", "surplus"
# The class of an object whose steps, or the labels of whose label sequence, have classes of their own.
STEPS, LABELS = "(by step)", "(label sequence)"


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviation of each column, float64, NaN left out.

    `merged` is Chan, Golub and LeVeque's pairwise update (1979, Stanford STAN-CS-79-773, eq. 2.1).
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Returns the moments of [row, column]."""
        values = values.astype(np.float64)
        present = ~np.isnan(values)
        count = present.sum(axis=0)
        mean = np.where(present, values, 0).sum(axis=0) / np.maximum(count, 1)
        squares = np.where(present, (values - mean) ** 2, 0).sum(axis=0)
        return cls(count, mean, squares)

    def merged(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        shift = other.mean - self.mean
        return Moments(count, self.mean + shift * share, self.squares + other.squares + shift**2 * self.count * share)

    def together(self, columns: Sequence[int]) -> "Moments":
        """Returns the moments of all the columns' numbers as one column."""
        single = [Moments(self.count[[c]], self.mean[[c]], self.squares[[c]]) for c in columns]
        return reduce(Moments.merged, single)

    @property
    def deviation(self) -> np.ndarray:
        """Returns the standard deviation, 1 for a column that never varies."""
        return _or_one(np.sqrt(self.squares / np.maximum(self.count, 1)), self.mean)


def _or_one(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns the deviation, 1 where it is no more than the rounding of the mean."""
    return np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)


@dataclass(frozen=True)
class Histogram:
    """How many float32 numbers fall into each bin, NaN left out; bins are fixed in advance: histograms merge exactly.

    A bin holds the numbers that share sign, exponent and `BITS` bits of their fraction; only bins that hold some are
    kept. A quantile is its bin's middle: off by at most 2^-(BITS + 1) of itself.
    """

    bins: np.ndarray
    counts: np.ndarray

    BITS = 12
    SHIFT = 23 - BITS

    @classmethod
    def of(cls, values: np.ndarray) -> "Histogram":
        present = values[~np.isnan(values)].astype(np.float32)
        bits = present.view(np.uint32)
        # as whole numbers, floats are in order once the bits of negative ones are turned over
        ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
        return cls(*np.unique(ordered >> cls.SHIFT, return_counts=True))

    def merged(self, other: "Histogram") -> "Histogram":
        bins, place = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.zeros(len(bins), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return Histogram(bins, counts)

    def quantile(self, share: float) -> float:
        """Returns the least number that at least this share of all does not exceed; 0 where there is none."""
        if not len(self.bins):
            return 0.0
        reached = np.cumsum(self.counts)
        place = np.searchsorted(reached, max(1, np.ceil(share * reached[-1])))
        ordered = np.uint32((int(self.bins[place]) << self.SHIFT) + (1 << self.SHIFT >> 1))
        bits = ordered ^ np.uint32(1 << 31) if ordered >> 31 else ~ordered
        return float(np.array(bits, dtype=np.uint32).view(np.float32))


@dataclass(frozen=True)
class Statistics:
    """What training and prediction need to know of the training split.

    classes: names in index order. class_counts: [class], training objects (steps, where each step has a label; labels,
    of label sequences). labels: the class of each of the survey's labels, but for those that are excluded.
    feature_mean, feature_deviation: what is subtracted from each feature and what it is divided by, as `data.features`
    says; 0 and 1 where nothing is. sequence_features: indices of the features that are normalised by each sequence's
    own mean and deviation. settings_digest: stands for what in the experiment file decides classes, splits and
    normalisation. data_digest: stands for the dataset's content and the splits; trials of other data never match.
    fold, sequences: of which fold, and of which `training.sequences`, these are; None where there are none, and for the
    whole training split.
    """

    classes: tuple[str, ...]
    class_counts: np.ndarray
    feature_mean: np.ndarray
    feature_deviation: np.ndarray
    metadata_mean: np.ndarray
    metadata_deviation: np.ndarray
    settings_digest: str
    data_digest: str
    sequence_features: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    labels: dict[str, str] = field(default_factory=dict)
    fold: int | None = None
    sequences: int | None = None

    def normalised(
        self, features: np.ndarray, metadata: np.ndarray, offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [step, feature] and metadata [sequence, column] as the network sees them, float32.

        offsets: [sequence + 1]. What was not observed (NaN) becomes 0, the mean; its presence column says so.
        """
        values = (features - self.feature_mean) / self.feature_deviation
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        for column in self.sequence_features:
            values[:, column] = _by_sequence(values[:, column], owner, len(offsets) - 1)
        metadata = (metadata - self.metadata_mean) / self.metadata_deviation
        return np.nan_to_num(values.astype(np.float32), nan=0.0), metadata.astype(np.float32)

    def to_json(self) -> dict[str, object]:
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        whole = ("class_counts", "sequence_features")
        arrays = {
            name: np.array(values[name], dtype=np.int64 if name in whole else np.float64)
            for name in (*whole, "feature_mean", "feature_deviation", "metadata_mean", "metadata_deviation")
        }
        return cls(
            classes=tuple(values["classes"]),
            settings_digest=values["settings_digest"],
            data_digest=values["data_digest"],
            labels=values["labels"],
            fold=values.get("fold"),
            sequences=values.get("sequences"),
            **arrays,
        )


def _by_sequence(values: np.ndarray, owner: np.ndarray, sequences: int) -> np.ndarray:
    """Returns [step] values less their sequence's mean over its deviation, NaN left out."""
    present = ~np.isnan(values)
    counts = np.maximum(np.bincount(owner, present, sequences), 1)
    mean = np.bincount(owner, np.where(present, values, 0.0), sequences) / counts
    centred = values - mean[owner]
    deviation = np.sqrt(np.bincount(owner, np.where(present, centred**2, 0.0), sequences) / counts)
    return centred / _or_one(deviation, mean)[owner]


def read_statistics(folder: Path, fold: int | None = None, sequences: int | None = None) -> Statistics:
    """Returns the statistics of the training split, or of that of a fold; or of so many `sequences` of it."""
    path = folder / "statistics.json"
    entries = results.read_json(path, "jaxrnn split")["statistics"]
    found = [
        Statistics.from_json(entry)
        for entry in entries
        if (entry.get("fold"), entry.get("sequences")) == (fold, sequences)
    ]
    if not found:
        raise JaxrnnError(
            f"{path}: made with other `split.folds` or `training.sequences` than this job has; run `jaxrnn split` again"
        )
    return found[0]


def read_counts(folder: Path, fold: int | None = None) -> dict[str, dict[str, int]]:
    """Returns how many objects (steps, or labels) of each class each of `SPLITS` has, by class; of a fold, its own."""
    return results.read_json(folder / "statistics.json", "jaxrnn split")["counts"][fold or 0]


def read_splits(folder: Path) -> pd.DataFrame:
    """Returns `splits.csv`, all as text: id, label, class, split and, with folds, fold ("" outside the pool), or the
    split in each of the random folds."""
    path = folder / "splits.csv"
    if not path.exists():
        raise JaxrnnError(f"{path}: not there yet; run `jaxrnn split` first")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def assigned(table: pd.DataFrame, fold: int | None = None) -> np.ndarray:
    """Returns the split [row] of each object of `splits.csv`, as trials of `fold` see it."""
    if f"fold_{fold}" in table:
        return table[f"fold_{fold}"].to_numpy(dtype=object)
    split = table["split"].to_numpy(dtype=object)
    if fold is None:
        return split
    in_fold = np.where(table["fold"].to_numpy() == str(fold), VALIDATION, TRAIN)
    return np.where(split == POOL, in_fold, split).astype(object)


def trained_on(
    table: pd.DataFrame, fold: int | None = None, sequences: int | None = None, *, seed: int = 0
) -> np.ndarray:
    """Returns which objects [row] of `splits.csv` trials of `fold` with this `training.sequences` train on.

    Fewer are taken class by class in the order of their hashes, the next from the class that has given the smallest
    share: shares hold to an object, every class is there where the number allows it, and smaller draws are parts of
    larger ones. Raises JaxrnnError where there are not so many, or fewer are asked for than there are classes.
    """
    training = assigned(table, fold) == TRAIN
    if sequences is None:
        return training
    rows = np.flatnonzero(training)
    names = table["class"].to_numpy(dtype=str)[rows]
    classes = np.unique(names)
    of = "" if fold is None else f" of fold {fold}"
    if sequences > len(rows):
        raise JaxrnnError(
            f"training.sequences: {sequences}, and the training split{of} has {len(rows)}; use at most so many, or "
            "`null` for all"
        )
    if sequences < len(classes):
        raise JaxrnnError(
            f"training.sequences: {sequences}, and there are {len(classes)} classes; use one of each at least"
        )
    places = np.array([uniform(seed, f"sequences/{name}") for name in table["id"].to_numpy(dtype=str)[rows]])
    given = np.empty(len(rows))
    for name in classes:
        members = np.flatnonzero(names == name)
        given[members[np.argsort(places[members], kind="stable")]] = np.arange(len(members)) / len(members)
    training[rows[np.lexsort((places, given))[sequences:]]] = False
    return training


def shard_paths(dataset: Path) -> list[Path]:
    """Returns the dataset's shards in order; raises JaxrnnError where ingest has not finished."""
    return [
        dataset / entry["file"] for entry in results.read_json(dataset / "manifest.json", "jaxrnn ingest")["shards"]
    ]


def split(experiment: Experiment, dataset: Path, folder: Path) -> list[str]:
    """Writes `splits.csv`, `leaks.csv` and `statistics.json` into `folder`; returns what a user should know of them.

    Raises JaxrnnError for labels in no class, classes too small to split, splits or groups that the survey doesn't
    give, and leaks, unless `split.leaks` allows them.
    """
    paths, settings, task = shard_paths(dataset), experiment.split, experiment.task
    known = _Known.read(paths)
    left_out = _left_out(settings, known)
    labelled = _Labelled.of(known, task, paths, left_out)
    groups = class_labels(task, labelled.labels)
    names = class_of(task, groups, labelled.labels)
    labelled = labelled.named(np.where(left_out[labelled.owner], "", names))
    _check_counts(groups, labelled, settings)
    check_classes(experiment, tuple(groups))
    names = labelled.strata(len(known.ids))
    seed = plan.split_seed(experiment.model_dump())
    if task.kind == "label_sequence":
        lookup = {label: name for name, group in groups.items() for label in group}
        sequences = label_sequences(task, np.where(names == "", "", known.labels), lookup, tuple(groups))
        _check_every_network(experiment, known.ids, known.lengths, sequences)
    surplus = _surplus(settings, known, names, seed)
    if settings.balance:
        labelled = labelled.named(np.where(surplus[labelled.owner], "", labelled.names))
        _check_counts(groups, labelled, settings)
    table = pd.DataFrame({"id": known.ids, "label": known.labels, "class": names, "split": EXCLUDED}, dtype=object)
    remarks: list[str] = []
    excluded = (names == "") & ~left_out
    if task.kind == "label_sequence" and excluded.any():
        remarks.append(f"{excluded.sum()} objects with a label that `task.exclude` names are left out whole")
    said = list(remarks)
    entering = np.where(surplus, "", names)
    if _random_folds(settings):
        table["split"] = np.where(names == "", EXCLUDED, DRAWN)
        alone = settings.model_copy(update={"folds": None})
        for fold in range(settings.folds or 0):
            table[f"fold_{fold}"] = _parts(alone, known, entering, seed + fold)[0].split
    else:
        parts, remarks = _parts(settings, known, entering, seed)
        remarks = [*said, *remarks]
        table["split"] = parts.split
        if settings.folds is not None:
            table["fold"] = parts.fold
    if left_out.any():
        remarks.append(f"`split.leave_out` leaves out {left_out.sum()} objects")
    if settings.balance:
        table.loc[surplus, "split"] = SURPLUS
        remarks.append(f"`split.balance` leaves out {surplus.sum()} objects of classes larger than the smallest")
    _check_every_class_everywhere(groups, labelled, table, settings)
    found = leaks.find(paths, table, known.groups)
    found.write(folder / "leaks.csv")
    remarks = [*remarks, *found.remarks()]
    leaking = [found.summary()] if found else []
    if found:
        if settings.leaks == "refuse":
            raise JaxrnnError(found.refusal(folder / "leaks.csv"))
        if settings.leaks == "drop_from_training":
            leaking = [f"{found.summary()}; {found.leaking.any(axis=0).sum()} objects were taken out of their splits"]
            _take_out(table, found.leaking)
            _check_every_class_everywhere(groups, labelled, table, settings)
    statistics = _statistics(experiment, dataset, paths, table, groups, labelled)
    with results.written_whole(folder / "splits.csv") as temporary:
        table.to_csv(temporary, index=False)
    results.write_json(
        folder / "statistics.json",
        {
            "remarks": remarks,
            "leaks": {**found.counts, "action": settings.leaks},
            "counts": [labelled.counts(assigned(table, fold)) for fold in _folds(settings)],
            "statistics": [entry.to_json() for entry in statistics],
        },
    )
    counts = labelled.counts(assigned(table, _folds(settings)[0]))
    shown = ", ".join(f"{counts[name][TRAIN]} {name}" for name in groups)
    steps = {"step": "steps: ", "label_sequence": "labels: "}.get(task.kind, "")
    return [*remarks, *leaking, f"training{' of fold 0' if settings.folds else ''} has {steps}{shown}"]


def _left_out(split: Split, known: "_Known") -> np.ndarray:
    """Returns which objects [object] `split.leave_out` names."""
    found = set(known.ids.tolist())
    unknown = [name for name in split.leave_out if name not in found]
    if unknown:
        raise JaxrnnError(
            f"split.leave_out: there is no object '{unknown[0]}'{nearest(unknown[0], list(found))}; the ids stand in "
            "splits.csv, leaks.csv and the titles of `jaxrnn view`"
        )
    return np.isin(known.ids.astype(str), split.leave_out)


def _surplus(split: Split, known: "_Known", names: np.ndarray, seed: int) -> np.ndarray:
    """Returns which objects [object] are left out so that all classes have as many as the smallest."""
    surplus = np.zeros(len(names), dtype=bool)
    if not split.balance:
        return surplus
    if STEPS in names or LABELS in names:
        raise JaxrnnError(
            "split.balance: an object's labels are of several classes; leave it out with `task.kind: step` or "
            "`label_sequence`"
        )
    classes, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    places = np.array([uniform(seed, f"balance/{name}") for name in known.ids])
    for name in classes:
        members = np.flatnonzero(names == name)
        surplus[members[np.argsort(places[members], kind="stable")][counts.min() :]] = True
    return surplus


def _folds(split: Split) -> Sequence[int | None]:
    return [None] if split.folds is None else list(range(split.folds))


def _random_folds(split: Split) -> bool:
    return split.folds is not None and split.fold_kind == "random"


def _take_out(table: pd.DataFrame, leaking: np.ndarray) -> None:
    """Marks leaking objects [partition, object]: of one random fold in that fold alone, else in all."""
    if "split" in table and DRAWN in set(table["split"]):
        for fold, objects in enumerate(leaking):
            table.loc[objects, f"fold_{fold}"] = LEAKED
        return
    table.loc[leaking[0], "split"] = LEAKED
    if "fold" in table:
        table.loc[leaking[0], "fold"] = ""


def settings_digest(experiment: Experiment) -> str:
    """Returns what stands for everything in the experiment file that decides classes, splits and normalisation."""
    values = experiment.model_dump(mode="json")
    normalisation = [feature["normalisation"] for feature in values["data"]["features"]]
    return digest([values["split"], plan.learnt_task(values["task"]), plan.split_seed(values), normalisation])


def check_classes(experiment: Experiment, classes: Sequence[str]) -> None:
    """Raises JaxrnnError where the loss or a score does not fit the classes that the labels make."""
    losses = experiment.grid.get("loss.kind", (experiment.loss.kind,))
    if isinstance(losses, tuple) and "binary" in losses and len(classes) != 2:
        raise JaxrnnError(f"loss.kind: {not_binary(classes)}")
    task = experiment.task
    for key, names in (("class_importance", task.class_importance), ("target", [task.target] if task.target else [])):
        unknown = undeclared(names, classes)
        if unknown:
            raise JaxrnnError(f"task.{key}: {unknown}")


def label_sequences(task: Task, texts: Iterable[str], class_name: dict[str, str], classes: Sequence[str]) -> np.ndarray:
    """Returns the class indices [object, position] int32 of each object's labels, -1 beyond them, and throughout where
    one of them is of no class.

    texts: [object], their label texts. class_name: of each label.
    """
    index = {label: list(classes).index(name) for label, name in class_name.items()}
    found = [[index.get(label, -1) for label in task.labels_of(text)] for text in texts]
    labels = np.full((len(found), max(map(len, found), default=0)), -1, dtype=np.int32)
    for row, own in enumerate(found):
        if -1 not in own:
            labels[row, : len(own)] = own
    return labels


def check_spelling(
    ids: np.ndarray,
    lengths: np.ndarray,
    labels: np.ndarray,
    network: Blueprint,
    layers_key: str = "model.layers",
    decoder_key: str = "model.decoder",
) -> None:
    """Raises JaxrnnError where an object has more labels than the decoder names, or than CTC can spell with the steps
    that the network leaves of it.

    ids, lengths: [object]; labels: [object, position], -1 beyond them. The keys are those of the network's parts.
    """
    if network.decoder is not None:
        assert isinstance(network.decoder.layer, Decoder)
        counts, most = (labels >= 0).sum(axis=1), network.decoder.layer.most_labels
        many = np.flatnonzero(counts > most)
        if len(many):
            worst = many[np.argmax(counts[many])]
            others = f" (and {len(many) - 1} others)" if len(many) > 1 else ""
            raise JaxrnnError(
                f"{decoder_key}.most_labels: object {ids[worst]}{others} has {counts[worst]} "
                f"labels, and at most {most} are named; set {counts.max()} or more, or leave such objects out of the "
                "survey"
            )
        return
    left, needed = network.gives.steps(lengths), decoding.needed_steps(labels)
    short = np.flatnonzero(left < needed)
    if not len(short):
        return
    worst = short[np.argmax(needed[short] - left[short])]
    others = f" (and {len(short) - 1} others)" if len(short) > 1 else ""
    shortening = [f"{layers_key}[{place}] ({it.kind})" for place, it in enumerate(network.layers) if it.shortens]
    repeats = needed[worst] - (labels[worst] >= 0).sum()
    blanks = f", {repeats} of them to part equal ones" if repeats else ""
    kept = f", of which {listed(shortening)} leave{'s' * (len(shortening) == 1)} {left[worst]}" if shortening else ""
    remedy = f"use a smaller stride in {listed(shortening)}" if shortening else "see `data.cuts` and `data.steps`"
    raise JaxrnnError(
        f"task.kind: object {ids[worst]}{others} has {lengths[worst]} steps{kept}, and its "
        f"{(labels[worst] >= 0).sum()} labels need at least {needed[worst]}{blanks}; {remedy}, or leave such objects "
        "out of the survey"
    )


def _check_every_network(experiment: Experiment, ids: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> None:
    """Checks the labels with each network of the grid."""

    def tried(name: str, read: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        """Returns each value of a key of `model` that is tried, by its own key."""
        key = f"model.{name}"
        if key not in experiment.grid:
            return [(key, getattr(experiment.model, name))]
        return [(f"grid.{key}[{index}]", read(value)) for index, value in enumerate(experiment.grid[key])]

    pairs = itertools.product(tried("layers", layers_of), tried("decoder", decoder_of))
    for (layers_key, layers), (decoder_key, decoder) in pairs:
        if decoder is not None:
            # of how many features there are depends no number of steps, but whether dot attention fits
            decoder = decoder.model_copy(update={"attention": "general"})
        model = experiment.model.model_copy(update={"layers": layers, "decoder": decoder})
        network = blueprint.of(model, experiment.task.kind, 1, len(experiment.data.metadata), 2)
        check_spelling(ids, lengths, labels, network, layers_key, decoder_key)


def class_labels(task: Task, labels: np.ndarray) -> dict[str, list[str]]:
    """Returns each class with its labels, in the task's order; without `task.classes`, a class a label."""
    found = np.unique(labels).tolist()
    for label in [*(label for group in (task.classes or {}).values() for label in group), *task.exclude]:
        if label not in (*found, REST):
            raise JaxrnnError(
                f"task: no object has the label '{label}'{nearest(label, found)} (the labels are {listed(found, 20)})"
            )
    present = [label for label in found if label not in task.exclude]
    if task.classes is None:
        return {label: [label] for label in present}
    named = {label for group in task.classes.values() for label in group}
    rest = [label for label in present if label not in named]
    groups = {
        name: [label for entry in group for label in (rest if entry == REST else [entry])]
        for name, group in task.classes.items()
    }
    known = {label for group in groups.values() for label in group}
    unknown = [label for label in present if label not in known]
    if unknown:
        counts = [f"'{label}' ({(labels == label).sum()} objects)" for label in unknown]
        raise JaxrnnError(
            f"task.classes: {listed(counts)} in no class; add them to one, or to `task.exclude`, or write '{REST}' "
            "for the rest"
        )
    return groups


def class_of(task: Task, groups: dict[str, list[str]], labels: np.ndarray) -> np.ndarray:
    """Returns each object's class name, "" for labels in `task.exclude`."""
    lookup = {label: name for name, group in groups.items() for label in group}
    return np.array([lookup.get(label, "") for label in labels], dtype=object)


def _check_counts(groups: dict[str, list[str]], labelled: "_Labelled", split: Split) -> None:
    if list(groups) == [""]:
        raise JaxrnnError(
            "task: the survey's objects have no labels, so that there is nothing to learn; the reader's options in "
            "`data.options` say where labels are"
        )
    if len(groups) < 2:
        raise JaxrnnError(f"task: the data has one class ({listed(list(groups))}); expected at least 2 to tell apart")
    in_pool = split.folds is not None and not _random_folds(split)
    least = (split.folds or 0) + 1 if in_pool else len(SPLITS)
    places = f"{split.folds} folds and the test split" if in_pool else ", ".join(SPLITS)
    for name in groups:
        count = len(np.unique(labelled.owner[labelled.names == name]))
        if count < least:
            raise JaxrnnError(
                f"task.classes: class '{name}' has {count} object{'s' * (count != 1)}; expected at least "
                f"{least}, one for each of {places}; join it with another class in `task.classes` or "
                "name its labels in `task.exclude`"
            )


def _check_every_class_everywhere(
    groups: dict[str, list[str]], labelled: "_Labelled", table: pd.DataFrame, split: Split
) -> None:
    """Raises JaxrnnError unless each class is in each split, or fold; two folds with it leave one to train on."""
    for parts, place in leaks.partitions(table):
        found = set(zip(labelled.names.tolist(), place[labelled.owner].tolist(), strict=True))
        for index, part in enumerate(parts):
            absent = [name for name in groups if (name, index) not in found]
            if not absent:
                continue
            leaked = " after leaks were dropped" if (table == LEAKED).to_numpy().any() else ""
            raise JaxrnnError(
                f"split: class {listed([repr(name) for name in absent])} has no object in the {part} split{leaked} "
                f"(method '{split.method}'{', whole groups' if split.by == 'group' else ''}); use "
                "`split.method: exact`, other shares, fewer folds, or join the class with another"
            )


# Who goes where


@dataclass(frozen=True)
class _Known:
    """What the shards say of each object, without its steps: [object] str, None where the survey doesn't give it."""

    ids: np.ndarray
    labels: np.ndarray
    splits: np.ndarray | None
    groups: np.ndarray | None
    lengths: np.ndarray

    @classmethod
    def read(cls, paths: list[Path]) -> "_Known":
        content = [shards.read(path, steps=False) for path in paths]
        if not content:
            raise JaxrnnError("split: the dataset has no object; see rejected.csv beside its manifest")
        for path, shard in zip(paths, content, strict=True):
            shards.check_alike(content[0], shard, path)

        def column(name: str) -> np.ndarray | None:
            found = [getattr(shard, name) for shard in content]
            return None if any(entry is None for entry in found) else np.concatenate(found).astype(object)

        ids, labels = column("ids"), column("labels")
        assert ids is not None and labels is not None
        lengths = np.concatenate([shard.lengths for shard in content])
        return cls(ids, labels, column("splits"), column("groups"), lengths)

    def units(self, split: Split) -> np.ndarray:
        """Returns the name [object] of what moves as a whole: the object, or its group if it has one."""
        if split.by == "object":
            return self.ids
        if self.groups is None:
            raise JaxrnnError(
                "split.by: this survey's files give no groups; the reader's options may name a column of them, else "
                "use `by: object`"
            )
        return np.where(self.groups == "", self.ids, self.groups)


@dataclass(frozen=True)
class _Labelled:
    """What has a label: each object, each step, or each place of a label sequence. owner: [label], the object that it
    belongs to. labels: [label] str. names: [label] str, its class, "" where it is excluded. each: the class of objects
    that have several, one of `STEPS` and `LABELS`; "" where each has one."""

    owner: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    each: str = ""

    @classmethod
    def of(cls, known: _Known, task: Task, paths: list[Path], left_out: np.ndarray) -> "_Labelled":
        if task.kind == "step":
            return cls.of_steps(paths, known)
        if task.kind == "label_sequence":
            return cls.of_sequences(known, task, left_out)
        return cls(np.arange(len(known.ids)), known.labels, known.labels)

    @classmethod
    def of_sequences(cls, known: _Known, task: Task, left_out: np.ndarray) -> "_Labelled":
        """Returns each label of each object's label text, but of those left out; raises JaxrnnError for an empty
        one."""
        parts = [() if out else task.labels_of(text) for text, out in zip(known.labels, left_out, strict=True)]
        for name, text, labels, out in zip(known.ids, known.labels, parts, left_out, strict=True):
            if not out and ("" in labels or not labels):
                raise JaxrnnError(
                    f"task.separator: object {name} has the label {text!r}, in which {task.separator!r} leaves an "
                    "empty label; expected labels with one separator between them; mend the survey, or name another "
                    "separator"
                )
        labels = np.array([label for own in parts for label in own], dtype=object)
        return cls(np.repeat(np.arange(len(known.ids)), list(map(len, parts))), labels, labels, LABELS)

    @classmethod
    def of_steps(cls, paths: list[Path], known: _Known) -> "_Labelled":
        """Returns each step's label; raises JaxrnnError where the survey gives none."""
        labels, lengths = [], []
        for path in paths:
            found = shards.step_labels(path)
            if found is None:
                raise JaxrnnError(
                    "task.kind: `step`, and this survey's files give no step labels; the reader's options in "
                    "`data.options` say where they are, else use `kind: sequence`"
                )
            labels.append(found)
            lengths.append(shards.read(path, steps=False).lengths)
        every = np.concatenate(labels).astype(object)
        return cls(np.repeat(np.arange(len(known.ids)), np.concatenate(lengths)), every, every, STEPS)

    def named(self, names: np.ndarray) -> "_Labelled":
        """Returns the same with other classes; of a label sequence, one excluded label excludes all."""
        if self.each == LABELS:
            names = np.where(np.isin(self.owner, self.owner[names == ""]), "", names)
        return replace(self, names=names)

    def strata(self, objects: int) -> np.ndarray:
        """Returns what splits are stratified by, [object] str, "" for objects that are excluded: their class, or
        nothing where an object has labels of several classes."""
        if not self.each:
            return self.names
        found = np.full(objects, "", dtype=object)
        found[self.owner[self.names != ""]] = self.each
        return found

    def counts(self, split: np.ndarray) -> dict[str, dict[str, int]]:
        """Returns how many labels of each class each of `SPLITS` has; split: [object]."""
        where = split[self.owner]
        return {
            name: {part: int(((self.names == name) & (where == part)).sum()) for part in SPLITS}
            for name in np.unique(self.names.astype(str)).tolist()
            if name
        }


@dataclass(frozen=True)
class _Parts:
    """The split and the fold ("" for none) of each object, as `splits.csv` has them."""

    split: np.ndarray
    fold: np.ndarray


def _parts(split: Split, known: _Known, names: np.ndarray, seed: int) -> tuple[_Parts, list[str]]:
    """Returns where each object goes, and what should be said about it."""
    included, units, remarks = names != "", known.units(split), []
    places = np.array([uniform(seed, unit) for unit in units])
    result = np.full(len(names), EXCLUDED, dtype=object)
    fold = np.full(len(names), "", dtype=object)

    def cut(rows: np.ndarray, parts: Sequence[str], shares: Sequence[float], least: Sequence[int]) -> np.ndarray:
        chosen = (names[rows], units[rows], places[rows])
        found = _by_group(*chosen, shares) if split.by == "group" else _by_object(*chosen, shares, least)
        return np.array(parts, dtype=object)[found]

    rows = np.flatnonzero(included)
    if split.method == "given":
        result[rows] = _given(known)[rows]
        given = set(result[rows])
        if TEST not in given or TRAIN not in given:
            raise JaxrnnError(
                f"split.method: the survey's files give {listed(sorted(given))} alone; expected train and test at "
                "least; use `exact` or `hash`"
            )
        if VALIDATION not in given and split.folds is None:
            train = np.flatnonzero(result == TRAIN)
            result[train] = cut(train, (TRAIN, VALIDATION), (1 - split.validation, split.validation), (1, 1))
            remarks.append(
                f"the survey's files give no validation split: {int((result == VALIDATION).sum())} of {len(train)} "
                f"training objects (`split.validation`: {split.validation:g}) were taken for it"
            )
    elif split.method == "hash":
        limits = [split.train, split.train + split.validation]
        result[rows] = np.array(SPLITS, dtype=object)[np.searchsorted(limits, places[rows], side="right")]
    elif split.folds is None:
        shares = (split.train, split.validation, 1 - split.train - split.validation)
        result[rows] = cut(rows, SPLITS, shares, (1, 1, 1))
    else:
        share = split.train + split.validation
        result[rows] = cut(rows, (POOL, TEST), (share, 1 - share), (split.folds, 1))
    if split.folds is not None:
        result[np.isin(result, (TRAIN, VALIDATION))] = POOL
        pool = np.flatnonzero(result == POOL)
        numbers = [str(number) for number in range(split.folds)]
        if split.method == "hash":
            place = places[pool] / (split.train + split.validation) * split.folds
            fold[pool] = np.array(numbers, dtype=object)[np.minimum(place.astype(int), split.folds - 1)]
        elif split.by == "group":
            fold[pool] = cut(pool, numbers, [1 / split.folds] * split.folds, ())
        else:
            # one after another within each class, going on in the next: classes and folds differ by at most one
            order = np.lexsort((units[pool].astype(str), places[pool], names[pool].astype(str)))
            fold[pool[order]] = np.array(numbers, dtype=object)[np.arange(len(pool)) % split.folds]
    return _Parts(result, fold), remarks


def _given(known: _Known) -> np.ndarray:
    if known.splits is None:
        raise JaxrnnError("split.method: this survey's files give no splits; use `exact` or `hash`")
    others = np.flatnonzero(~np.isin(known.splits, SPLITS))
    if len(others):
        raise JaxrnnError(
            f"split.method: {len(others)} objects, {known.ids[others[0]]} for one, are in none of the splits "
            f"{', '.join(SPLITS)}; use `exact` or `hash`"
        )
    return known.splits


def uniform(seed: int, name: str) -> float:
    """Returns a number in [0, 1) that depends on seed and object alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64


def _by_object(
    names: np.ndarray, units: np.ndarray, places: np.ndarray, shares: Sequence[float], least: Sequence[int]
) -> np.ndarray:
    """Returns the part [object]: exact shares within each class, in the order of hashes: shard order plays no part.

    least: how many objects of each class a part has at least.
    """
    part = np.empty(len(names), dtype=np.int64)
    for name in np.unique(names.astype(str)):
        members = np.flatnonzero(names == name)
        members = members[np.lexsort((units[members].astype(str), places[members]))]
        start = 0
        for index in range(len(shares)):
            wanted = round(sum(shares[: index + 1]) * len(members))
            end = min(max(wanted, start + least[index]), len(members) - sum(least[index + 1 :]))
            part[members[start:end]] = index
            start = end
    return part


def _by_group(names: np.ndarray, units: np.ndarray, places: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Returns the part [object], the same for all objects of a unit: each goes where its classes lack most.

    Units come in the order of their hashes. Where a unit's objects are all of one class, a part has more than its
    share of a class by less than that class's largest unit, and no part stays without it if there are as many units.
    """
    _, first, unit = np.unique(units.astype(str), return_index=True, return_inverse=True)
    classes, label = np.unique(names.astype(str), return_inverse=True)
    counts = np.zeros((len(first), len(classes)))
    np.add.at(counts, (unit, label), 1)
    wanted = np.array(shares)[:, None] * counts.sum(axis=0)
    filled = np.zeros_like(wanted)
    part = np.empty(len(first), dtype=np.int64)
    for index in np.argsort(places[first], kind="stable"):
        part[index] = np.argmax((1 - filled / wanted) @ counts[index])
        filled[part[index]] += counts[index]
    return part[unit]


# Statistics


@dataclass(frozen=True)
class _Partial:
    """What one shard, or several, say of some of their sequences. histograms: of the features normalised `robust`."""

    features: Moments
    metadata: Moments
    histograms: dict[int, Histogram]

    @classmethod
    def of(cls, shard: Shard, chosen: np.ndarray, robust: Sequence[int]) -> "_Partial":
        features = shard.features[np.repeat(chosen, shard.lengths)]
        histograms = {column: Histogram.of(features[:, column]) for column in robust}
        return cls(Moments.of(features), Moments.of(shard.metadata[chosen]), histograms)

    def merged(self, other: "_Partial") -> "_Partial":
        histograms = {column: found.merged(other.histograms[column]) for column, found in self.histograms.items()}
        return _Partial(self.features.merged(other.features), self.metadata.merged(other.metadata), histograms)


def _statistics(
    experiment: Experiment,
    dataset: Path,
    paths: list[Path],
    table: pd.DataFrame,
    groups: dict[str, list[str]],
    labelled: _Labelled,
) -> list[Statistics]:
    """Returns the statistics of the training split, or of each fold's, of each number of sequences that trials train
    on: partials by shard, merged in order."""
    classes, folds = tuple(groups), _folds(experiment.split)
    values = experiment.model_dump(mode="json")
    seed = plan.split_seed(values)
    codes = pd.Index(classes).get_indexer(pd.Index(labelled.names))
    cases = [(fold, sequences) for sequences in plan.sequences_used(values) for fold in folds]
    training = [trained_on(table, fold, sequences, seed=seed) for fold, sequences in cases]
    counts = [np.bincount(codes[of[labelled.owner] & (codes >= 0)], minlength=len(classes)) for of in training]
    for (_, sequences), found in zip(cases, counts, strict=True):
        if not found.all():  # where steps have labels, sequences are not drawn by class
            raise JaxrnnError(
                f"training.sequences: {sequences} of the training split leave class '{classes[int(found.argmin())]}' "
                "out; use more"
            )
    # folds of one pool train on each other: each is read once
    shared = experiment.split.folds is not None and not _random_folds(experiment.split)
    parts = [table["fold"].to_numpy() == str(fold) for fold in folds] if shared else []
    own = [of for (_, sequences), of in zip(cases, training, strict=True) if not shared or sequences is not None]
    columns, partials = _partials(experiment.data.features, paths, [*parts, *own])
    of_parts, of_own = partials[: len(parts)], iter(partials[len(parts) :])
    data_digest = _data_digest(dataset, table)
    statistics = []
    for (fold, sequences), class_counts in zip(cases, counts, strict=True):
        others = [entry for part, entry in enumerate(of_parts) if part != fold]
        partial = reduce(_Partial.merged, others) if shared and sequences is None else next(of_own)
        mean, deviation, by_sequence = _normalisation(experiment.data.features, columns, partial)
        statistics.append(
            Statistics(
                classes=classes,
                class_counts=class_counts,
                labels={label: name for name, group in groups.items() for label in group},
                feature_mean=mean,
                feature_deviation=deviation,
                metadata_mean=partial.metadata.mean,
                metadata_deviation=partial.metadata.deviation,
                settings_digest=settings_digest(experiment),
                data_digest=data_digest,
                sequence_features=by_sequence,
                fold=fold,
                sequences=sequences,
            )
        )
    return statistics


def _partials(
    features: tuple[Feature, ...], paths: list[Path], members: list[np.ndarray]
) -> tuple[tuple[FeatureColumn, ...], list[_Partial]]:
    """Returns the shards' columns, and what all shards say of each part's sequences; members: [object] bool of each."""
    columns: tuple[FeatureColumn, ...] = ()
    merged: list[_Partial] = []
    start = 0
    for path in paths:
        shard = shards.read(path, check=False)
        columns = shard.feature_columns
        robust = [i for i, c in enumerate(columns) if not c.indicator and _kind(features, c) == "robust"]
        rows = slice(start, start := start + len(shard.ids))
        found = [_Partial.of(shard, chosen[rows], robust) for chosen in members]
        merged = [_Partial.merged(*pair) for pair in zip(merged, found, strict=True)] if merged else found
    return columns, merged


def _kind(features: tuple[Feature, ...], column: FeatureColumn) -> str:
    return features[column.source].normalisation


def _normalisation(
    features: tuple[Feature, ...], columns: tuple[FeatureColumn, ...], partial: _Partial
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is subtracted from each feature, what it is divided by, and which are left to their sequences.

    Where the quartiles share a bin, as with half of the numbers equal, the standard deviation stands for theirs.
    """
    mean, deviation = np.zeros(len(columns)), np.ones(len(columns))
    own = []
    for index, column in enumerate(columns):
        kind = "none" if column.indicator else _kind(features, column)
        if kind in ("feature", "survey"):
            same = [i for i, other in enumerate(columns) if other.source == column.source and not other.indicator]
            moments = partial.features.together(same if kind == "survey" else [index])
            mean[index], deviation[index] = moments.mean[0], moments.deviation[0]
        elif kind == "robust":
            low, middle, high = (partial.histograms[index].quantile(share) for share in (0.25, 0.5, 0.75))
            mean[index] = middle
            deviation[index] = 0.7413 * (high - low) if high > low else partial.features.deviation[index]
        elif kind == "sequence":
            own.append(index)
    return mean, deviation, np.array(own, dtype=np.int64)


def _data_digest(dataset: Path, table: pd.DataFrame) -> str:
    manifest = results.read_json(dataset / "manifest.json", "jaxrnn ingest")
    return digest([[entry["sha256"] for entry in manifest["shards"]], table.to_csv(index=False)])
