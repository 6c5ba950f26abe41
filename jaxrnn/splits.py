"""Splits, classes, and statistics that see the training split alone."""

import hashlib
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn import results, shards
from jaxrnn.config import REST, Split, Task, digest
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import SPLITS
from jaxrnn.shards import Shard

EXCLUDED = "excluded"


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

    @property
    def deviation(self) -> np.ndarray:
        """Returns the standard deviation, 1 for a column that never varies."""
        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(deviation > 1e-12 * np.maximum(1, np.abs(self.mean)), deviation, 1.0)


@dataclass(frozen=True)
class Statistics:
    """What training and prediction need to know of the training split.

    classes: names in index order. class_counts: [class], training objects. means and deviations of features and
    metadata: 0 and 1 for indicators. settings_digest: stands for the sections `split` and `task`. data_digest: stands
    for the dataset's content and the splits; trials of other data never match.
    """

    classes: tuple[str, ...]
    class_counts: np.ndarray
    feature_mean: np.ndarray
    feature_deviation: np.ndarray
    metadata_mean: np.ndarray
    metadata_deviation: np.ndarray
    settings_digest: str
    data_digest: str

    def to_json(self) -> dict[str, object]:
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, object]) -> "Statistics":
        arrays = {name: np.array(values[name]) for name in cls.__dataclass_fields__ if isinstance(values[name], list)}
        arrays |= {"classes": tuple(values["classes"])}  # pyright: ignore
        arrays |= {name: values[name] for name in ("settings_digest", "data_digest")}
        return cls(**arrays)  # pyright: ignore


def read_statistics(folder: Path) -> Statistics:
    return Statistics.from_json(results.read_json(folder / "statistics.json", "jaxrnn split"))


def read_splits(folder: Path) -> pd.DataFrame:
    path = folder / "splits.csv"
    if not path.exists():
        raise JaxrnnError(f"{path}: not there yet; run `jaxrnn split` first")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def shard_paths(dataset: Path) -> list[Path]:
    """Returns the dataset's shards in order; raises JaxrnnError where ingest has not finished."""
    return [
        dataset / entry["file"] for entry in results.read_json(dataset / "manifest.json", "jaxrnn ingest")["shards"]
    ]


def split(split: Split, task: Task, seed: int, dataset: Path, folder: Path) -> Statistics:
    """Writes `splits.csv` and `statistics.json` into `folder`; returns the statistics.

    Raises JaxrnnError for labels in no class, classes too small to split, or splits that the survey doesn't give.
    """
    paths = shard_paths(dataset)
    content = [shards.read(path) for path in paths]
    labels = np.concatenate([shard.labels for shard in content])
    ids = np.concatenate([shard.ids for shard in content])
    groups = class_labels(task, labels)
    names = class_of(task, groups, labels)
    included = names != ""
    _check_counts(groups, names[included])
    assigned = np.full(len(ids), EXCLUDED, dtype=object)
    if split.method == "given":
        assigned[included] = _given(content)[included]
    elif split.method == "hash":
        assigned[included] = _hashed(split, ids[included], seed)
    else:
        assigned[included] = _stratified(split, ids[included], names[included], seed)
    _check_every_class_everywhere(groups, names, assigned, split)
    table = pd.DataFrame({"id": ids, "label": labels, "class": names, "split": assigned})
    training = assigned == SPLITS[0]
    features, metadata = _moments(content, training)
    indicators = content[0].indicators
    statistics = Statistics(
        classes=tuple(groups),
        class_counts=np.array([int((names[training] == name).sum()) for name in groups]),
        feature_mean=np.where(indicators, 0.0, features.mean),
        feature_deviation=np.where(indicators, 1.0, features.deviation),
        metadata_mean=metadata.mean,
        metadata_deviation=metadata.deviation,
        settings_digest=settings_digest(split, task, seed),
        data_digest=_data_digest(dataset, table),
    )
    with results.written_whole(folder / "splits.csv") as temporary:
        table.to_csv(temporary, index=False)
    results.write_json(folder / "statistics.json", statistics.to_json())
    return statistics


def settings_digest(split: Split, task: Task, seed: int) -> str:
    """Returns what stands for everything in the experiment file that decides classes and splits."""
    return digest([split.model_dump(mode="json"), task.model_dump(mode="json"), seed])


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


def _check_counts(groups: dict[str, list[str]], names: np.ndarray) -> None:
    if len(groups) < 2:
        raise JaxrnnError(f"task: the data has one class ({listed(list(groups))}); expected at least 2 to tell apart")
    for name in groups:
        count = int((names == name).sum())
        if count < len(SPLITS):
            raise JaxrnnError(
                f"task.classes: class '{name}' has {count} object{'s' * (count != 1)}; expected at least "
                f"{len(SPLITS)}, one for each of {', '.join(SPLITS)}; join it with another class in `task.classes` or "
                "name its labels in `task.exclude`"
            )


def _check_every_class_everywhere(
    groups: dict[str, list[str]], names: np.ndarray, assigned: np.ndarray, split: Split
) -> None:
    for part in SPLITS:
        absent = [name for name in groups if not ((names == name) & (assigned == part)).any()]
        if absent:
            raise JaxrnnError(
                f"split: class {listed([repr(name) for name in absent])} has no object in the {part} split (method "
                f"'{split.method}'); use `split.method: exact`, other shares, or join the class with another"
            )


def _given(content: list[Shard]) -> np.ndarray:
    if any(shard.splits is None for shard in content):
        raise JaxrnnError("split.method: this survey's files give no splits; use `exact` or `hash`")
    return np.concatenate([shard.splits for shard in content]).astype(object)  # pyright: ignore


def _hashed(split: Split, ids: np.ndarray, seed: int) -> np.ndarray:
    places = np.array([_uniform(seed, name) for name in ids])
    limits = [split.train, split.train + split.validation]
    return np.array(SPLITS, dtype=object)[np.searchsorted(limits, places, side="right")]


def _uniform(seed: int, name: str) -> float:
    """Returns a number in [0, 1) that depends on seed and object alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64


def _stratified(split: Split, ids: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    """Assigns exact shares within each class, in the order of the ids' hashes: shard order plays no part."""
    assigned = np.empty(len(ids), dtype=object)
    places = np.array([_uniform(seed, name) for name in ids])
    for name in np.unique(names.astype(str)):
        members = np.flatnonzero(names == name)
        members = members[np.lexsort((ids[members], places[members]))]
        count = len(members)
        train = min(max(round(split.train * count), 1), count - 2)
        validation = min(max(round((split.train + split.validation) * count) - train, 1), count - train - 1)
        assigned[members] = SPLITS[2]
        assigned[members[:train]] = SPLITS[0]
        assigned[members[train : train + validation]] = SPLITS[1]
    return assigned


def _moments(content: list[Shard], training: np.ndarray) -> tuple[Moments, Moments]:
    """Returns the moments of features and metadata over training sequences: partials by shard, merged in order."""
    ends = np.cumsum([len(shard.ids) for shard in content])
    chosen = np.split(training, ends[:-1])
    features = [Moments.of(s.features[np.repeat(c, s.lengths)]) for s, c in zip(content, chosen, strict=True)]
    metadata = [Moments.of(s.metadata[c]) for s, c in zip(content, chosen, strict=True)]
    return reduce(Moments.merged, features), reduce(Moments.merged, metadata)


def _data_digest(dataset: Path, table: pd.DataFrame) -> str:
    manifest = results.read_json(dataset / "manifest.json", "jaxrnn ingest")
    return digest([[entry["sha256"] for entry in manifest["shards"]], table.to_csv(index=False)])
