"""Sequences as arrays that a device can train on: normalised, right-padded, in length buckets.

Every trial of a pack walks through the buckets in the same order (`Schedule`), which the compiled program needs;
which sequences a batch holds is each trial's own draw.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxrnn import shards
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SPLITS
from jaxrnn.shards import Shard
from jaxrnn.splits import Statistics, shard_paths


class Bucket(NamedTuple):
    """Sequences of similar length: features [row, step, feature] float32 (0 beyond the length), lengths [row] int32,
    metadata [row, column] float32, labels [row] int32. Rows of length 0 are filling and count nowhere."""

    features: np.ndarray
    lengths: np.ndarray
    metadata: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Examples:
    """One split's sequences as a ragged table, normalised: offsets [sequence + 1], features [step, feature], ..."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    features: np.ndarray
    metadata: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.ids)


class Schedule(NamedTuple):
    """The batches of an epoch: for each step [step] int32 the bucket and the batch's number within it."""

    bucket: np.ndarray
    number: np.ndarray


def load(dataset: Path, splits: pd.DataFrame, statistics: Statistics) -> dict[str, Examples]:
    """Returns the examples of each split. `splits` is `splits.csv`, whose rows stand in the shards' order."""
    pieces: dict[str, list[Examples]] = {name: [] for name in SPLITS}
    class_index = {name: index for index, name in enumerate(statistics.classes)}
    start = 0
    for path in shard_paths(dataset):
        shard = shards.read(path)
        rows = splits.iloc[start : start + len(shard.ids)]
        start += len(shard.ids)
        if rows["id"].tolist() != shard.ids.tolist():
            raise JaxrnnError(f"{path}: holds other objects than splits.csv lists; run `jaxrnn split` again")
        examples = _normalised(shard, rows["class"].map(class_index).fillna(-1).to_numpy(dtype=np.int32), statistics)
        for name in SPLITS:
            pieces[name].append(_rows(examples, np.flatnonzero(rows["split"].to_numpy() == name)))
    return {name: joined(parts) for name, parts in pieces.items()}


def _normalised(shard: Shard, labels: np.ndarray, statistics: Statistics) -> Examples:
    features = (shard.features - statistics.feature_mean) / statistics.feature_deviation
    metadata = (shard.metadata - statistics.metadata_mean) / statistics.metadata_deviation
    # a passband that was not observed becomes the training mean; its presence column says so
    features = np.nan_to_num(features.astype(np.float32), nan=0.0)
    return Examples(shard.ids, labels, shard.offsets, features, metadata.astype(np.float32))


def _rows(examples: Examples, chosen: np.ndarray) -> Examples:
    lengths = examples.lengths[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = np.repeat(examples.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Examples(
        examples.ids[chosen], examples.labels[chosen], offsets, examples.features[steps], examples.metadata[chosen]
    )


def joined(parts: list[Examples]) -> Examples:
    """Returns the examples of all parts, one part after another."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Examples(
        ids=np.concatenate([part.ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=np.concatenate([part.features for part in parts]),
        metadata=np.concatenate([part.metadata for part in parts]),
    )


def edges(lengths: np.ndarray, buckets: int) -> list[int]:
    """Returns the longest length of each bucket: quantiles of `lengths`, the last its maximum."""
    quantiles = np.quantile(lengths, np.arange(1, buckets + 1) / buckets, method="higher")
    return sorted({int(edge) for edge in quantiles})


def bucketed(examples: Examples, longest: list[int], multiple: int = 1) -> tuple[tuple[Bucket, ...], np.ndarray]:
    """Returns the examples in buckets, and where each bucket row came from ([row] index into `examples`, -1 for
    filling).

    longest: each bucket's longest length; sequences beyond the last go into a bucket of their own.
    multiple: each bucket is filled with rows of length 0 up to a multiple of this.
    """
    lengths = examples.lengths
    if len(lengths) and lengths.max() > longest[-1]:
        longest = [*longest, int(lengths.max())]
    place = np.searchsorted(longest, lengths)
    buckets, sources = [], []
    for index, steps in enumerate(longest):
        rows = np.flatnonzero(place == index)
        if not len(rows):
            continue
        filling = -len(rows) % multiple
        buckets.append(_padded(_rows(examples, rows), steps, filling))
        sources.append(np.concatenate([rows, np.full(filling, -1)]))
    return tuple(buckets), np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64)


def _padded(examples: Examples, steps: int, filling: int) -> Bucket:
    count = len(examples) + filling
    lengths = np.concatenate([examples.lengths, np.zeros(filling, dtype=np.int64)]).astype(np.int32)
    features = np.zeros((count, steps, examples.features.shape[1]), dtype=np.float32)
    owner = np.repeat(np.arange(len(examples)), examples.lengths)
    features[owner, np.arange(len(owner)) - examples.offsets[owner]] = examples.features
    metadata = np.zeros((count, examples.metadata.shape[1]), dtype=np.float32)
    metadata[: len(examples)] = examples.metadata
    labels = np.zeros(count, dtype=np.int32)
    labels[: len(examples)] = examples.labels
    return Bucket(features, lengths, metadata, labels)


def schedule(buckets: tuple[Bucket, ...], batch_size: int) -> Schedule:
    """Returns the order of an epoch's batches, the same in every epoch and for every trial.

    The buckets are mixed by a fixed draw, so that lengths come in no order.
    """
    bucket = np.concatenate(
        [np.full(-(-len(b.lengths) // batch_size), index, dtype=np.int32) for index, b in enumerate(buckets)]
    )
    bucket = np.random.default_rng(0).permutation(bucket)
    number = np.zeros_like(bucket)
    for index in range(len(buckets)):
        number[bucket == index] = np.arange((bucket == index).sum())
    return Schedule(bucket, number)
