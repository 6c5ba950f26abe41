"""Sequences as arrays that a device can train on: normalised, right-padded, in length buckets, by windows.

What fits on the device is one window, which stays there. What doesn't is walked through in windows of fixed shapes,
each of shards that the epoch's draw brings together, and read ahead while the device trains on the one before. Every
trial of a pack walks through the windows and buckets in the same order (`Schedule`), which the compiled program needs;
which sequences a batch holds is each trial's own draw.
"""

import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxrnn import shards, shares, splits, staging
from jaxrnn.config import Task
from jaxrnn.errors import JaxrnnError
from jaxrnn.shards import Shard
from jaxrnn.splits import Statistics

PLAIN = Task()  # a label an object
XLA_ALIGNMENT = 64  # bytes


class Bucket(NamedTuple):
    """Sequences of similar length: features [row, step, feature] float32 (0 beyond the length), lengths [row] int32,
    metadata [row, column] float32, labels [row] int32, or [row, step] where steps have labels, or [row, position] of
    label sequences (-1 where there is none), keys [row] uint32 (the objects' `object_keys`). Rows of length 0 are
    filling, stand last and count nowhere. Where a pack has trials of several folds, each fold has an equal share of the
    rows, one after another (`fold_rows`)."""

    features: np.ndarray
    lengths: np.ndarray
    metadata: np.ndarray
    labels: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Sequences as a ragged table, normalised: offsets [sequence + 1], features [step, feature], labels [sequence],
    [sequence, position] of label sequences or, where steps have labels, [step], ..."""

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


@dataclass(frozen=True)
class Part:
    """The sequences of some splits: what is known of each in advance, and how the rest is read, shard by shard.

    ids, splits, lengths: [sequence], one shard's after another's. labels: [sequence] class indices, [sequence,
    position] of label sequences or, where steps have labels, [step] (-1 where there is none). starts: [shard + 1], the
    first sequence of each. features, metadata: numbers of columns. read: from a shard's place in `starts` to its
    sequences.
    """

    ids: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    features: int
    metadata: int
    read: Callable[[int], Examples]
    labels_by_step: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> np.ndarray:
        """Returns where each sequence's steps begin, [sequence + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def some(self, chosen: np.ndarray) -> "Part":
        """Returns a few sequences, by their places in increasing order, as a part in memory; the shards that they stand
        in are read."""
        pieces = []
        for place in np.unique(np.searchsorted(self.starts, chosen, side="right") - 1):
            examples, start = self.read(int(place)), self.starts[place]
            own = chosen[(chosen >= start) & (chosen < start + len(examples))] - start
            steps, offsets = _steps_of(examples.offsets, own)
            labels = examples.labels[steps if self.labels_by_step else own]
            features, metadata = examples.features[steps], examples.metadata[own]
            pieces.append(Examples(examples.ids[own], labels, offsets, features, metadata))
        return Part.of(pieces, labels_by_step=self.labels_by_step)

    @classmethod
    def of(cls, pieces: list[Examples], split: str = "train", *, labels_by_step: bool = False) -> "Part":
        """Returns examples that are in memory as a part, each piece as if it were a shard."""
        lengths = np.concatenate([piece.lengths for piece in pieces])
        return cls(
            ids=np.concatenate([piece.ids for piece in pieces]),
            labels=np.concatenate([piece.labels for piece in pieces]),
            splits=np.full(len(lengths), split),
            lengths=lengths,
            starts=np.cumsum([0, *map(len, pieces)]),
            features=pieces[0].features.shape[1],
            metadata=pieces[0].metadata.shape[1],
            read=pieces.__getitem__,
            labels_by_step=labels_by_step,
        )


class Corpus:
    """A dataset's shards with the splits of its objects; `part` gives the sequences of some splits."""

    def __init__(
        self,
        dataset: Path,
        table: pd.DataFrame,
        *statistics: Statistics,
        task: Task = PLAIN,
        seed: int = 0,
    ) -> None:
        """table: `splits.csv`, whose rows stand in the shards' order. statistics: one entry, or one of each fold. seed:
        of the split, which decides whom a training split of fewer sequences holds. Reads of the shards what is known of
        each sequence alone, and step labels where the task is of steps; raises JaxrnnError where they hold other
        objects than `table`."""
        self._statistics = {entry.fold: entry for entry in statistics}
        self._assigned = {entry.fold: _assigned(table, entry, seed) for entry in statistics}
        known = statistics[0]  # classes and labels are those of all folds
        self._paths = self._read_from = splits.shard_paths(dataset)
        class_index = {name: index for index, name in enumerate(known.classes)}
        self._by_step = task.kind == "step"
        self._ids = table["id"].to_numpy(dtype=str)
        self._read_before: set[int] = set()
        lengths, starts = [], [0]
        first: Shard | None = None
        for path in self._paths:
            shard = shards.read(path, steps=False)
            first = first or shard
            shards.check_alike(first, shard, path)
            if not np.array_equal(shard.ids, self._ids[starts[-1] : starts[-1] + len(shard.ids)]):
                raise JaxrnnError(f"{path}: holds other objects than splits.csv lists; run `jaxrnn split` again")
            lengths.append(shard.lengths)
            starts.append(starts[-1] + len(shard.ids))
            self._columns = len(shard.feature_columns), shard.metadata.shape[1]
        if starts[-1] < len(table):
            raise JaxrnnError(f"{dataset}: holds fewer objects than splits.csv lists; run `jaxrnn split` again")
        self._lengths, self._starts = np.concatenate(lengths), np.array(starts)
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        if self._by_step:
            label_index = {label: class_index[name] for label, name in known.labels.items()}
            self._labels = np.concatenate([_step_labels(path, label_index) for path in self._paths])
            if len(self._labels) != self._offsets[-1]:
                raise JaxrnnError(f"{dataset}: has not a label for each step; run `jaxrnn ingest` again")
        elif task.kind == "label_sequence":
            # what is in no split has no class, and need not be parsed again
            texts = np.where(table["class"] == "", "", table["label"])
            self._labels = splits.label_sequences(task, texts, known.labels, known.classes)
        else:
            self._labels = np.array([class_index.get(name, -1) for name in table["class"]], dtype=np.int32)

    @contextmanager
    def staged(self, say: Callable[[str], None]) -> Iterator[None]:
        """Lets parts read copies of the shards while the block lasts, where the site gives the job a disk for them."""
        try:
            with staging.copies(self._paths, say) as self._read_from:
                yield
        finally:
            self._read_from = self._paths

    def part(self, *names: str, fold: int | None = None) -> Part:
        """Returns the sequences of the splits that are named, as trials of `fold` see them."""
        statistics, assigned = self._statistics[fold], self._assigned[fold]
        rows = np.flatnonzero(np.isin(assigned, names))
        starts = np.searchsorted(rows, self._starts)

        def read(index: int) -> Examples:
            return self._read(index, rows[starts[index] : starts[index + 1]], statistics)

        return Part(
            ids=self._ids[rows],
            labels=self._labels_of(rows),
            splits=assigned[rows],
            lengths=self._lengths[rows],
            starts=starts,
            features=self._columns[0],
            metadata=self._columns[1],
            read=read,
            labels_by_step=self._by_step,
        )

    def _labels_of(self, rows: np.ndarray) -> np.ndarray:
        return self._labels[_steps_of(self._offsets, rows)[0] if self._by_step else rows]

    def _read(self, index: int, rows: np.ndarray, statistics: Statistics) -> Examples:
        """Returns the sequences `rows` (of the whole dataset) of one shard, normalised by a fold's statistics."""
        path, start = self._paths[index], self._starts[index]
        # a broken disk shows at the first reading; checksums cost half of the time
        shard = shards.read(self._read_from[index], check=index not in self._read_before)
        self._read_before.add(index)
        if not np.array_equal(shard.lengths, self._lengths[start : self._starts[index + 1]]):
            raise JaxrnnError(f"{path}: changed since this job began; train again once ingest has finished")
        offsets, features, metadata = _rows(shard, rows - start)
        features, metadata = statistics.normalised(features, metadata, offsets)
        return Examples(self._ids[rows], self._labels_of(rows), offsets, features, metadata)


def _assigned(table: pd.DataFrame, statistics: Statistics, seed: int) -> np.ndarray:
    """Returns the split [row] of each object as trials of a fold see it; what they don't train on is surplus."""
    assigned = splits.assigned(table, statistics.fold)
    training = splits.trained_on(table, statistics.fold, statistics.sequences, seed=seed)
    return np.where((assigned == splits.TRAIN) & ~training, splits.SURPLUS, assigned).astype(str)


def _step_labels(path: Path, label_index: dict[str, int]) -> np.ndarray:
    """Returns the class index [step] int32 of a shard's steps, -1 for labels that are excluded."""
    found = shards.step_labels(path)
    names, place = np.unique(np.zeros(0, dtype=str) if found is None else found, return_inverse=True)
    return np.array([label_index.get(str(name), -1) for name in names], dtype=np.int32)[place]


def _steps_of(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps [step] of the sequences `rows` among all, and their own offsets [sequence + 1]."""
    lengths = offsets[rows + 1] - offsets[rows]
    own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(offsets[rows] - own[:-1], lengths) + np.arange(own[-1]), own


def _rows(shard: Shard, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns offsets, features and metadata of the chosen sequences."""
    if len(chosen) == len(shard.ids):
        return shard.offsets, shard.features, shard.metadata
    steps, offsets = _steps_of(shard.offsets, chosen)
    return offsets, shard.features[steps], shard.metadata[chosen]


def object_keys(ids: np.ndarray) -> np.ndarray:
    """Returns what an object's draws are folded with, [object] uint32: the CRC-32 of its id."""
    return np.array([zlib.crc32(name.encode()) for name in ids.tolist()], dtype=np.uint32)


def edges(lengths: np.ndarray, buckets: int) -> list[int]:
    """Returns the longest length of each bucket: quantiles of `lengths`, the last its maximum."""
    quantiles = np.quantile(lengths, np.arange(1, buckets + 1) / buckets, method="higher")
    return sorted({int(edge) for edge in quantiles})


class Schedule(NamedTuple):
    """The batches of a window: for each step [step] int32 the bucket and the batch's number within it, and float32 the
    share of the epoch that is over when it begins."""

    bucket: np.ndarray
    number: np.ndarray
    over: np.ndarray


def schedule(
    counts: np.ndarray, batch_size: int, most_steps: int, before: int = 0, epoch_steps: int | None = None
) -> Schedule:
    """Returns the order of a window's batches, the same for every trial, with 0 for the steps beyond them.

    counts: [bucket], sequences. The buckets are mixed by a fixed draw, so that lengths come in no order.
    before: the epoch's steps in the windows before. epoch_steps: those of all its windows; left out, of this one.
    """
    batch_counts = -(-counts // batch_size)
    bucket = np.repeat(np.arange(len(counts), dtype=np.int32), batch_counts)
    bucket = np.random.default_rng(0).permutation(bucket)
    number = np.zeros_like(bucket)
    for index in range(len(counts)):
        number[bucket == index] = np.arange(batch_counts[index])
    over = (before + np.arange(len(bucket))) / (epoch_steps or len(bucket))
    filling = 0, most_steps - len(bucket)
    return Schedule(np.pad(bucket, filling), np.pad(number, filling), np.pad(over.astype(np.float32), filling))


class Window(NamedTuple):
    """What is on the device at once. sources: [row], where each bucket's rows, one bucket after another, stand in their
    part, -1 for filling. counts: [bucket], rows that are not filling, of the fold that has most."""

    buckets: tuple[Bucket, ...]
    sources: np.ndarray
    counts: np.ndarray


class Windows:
    """A part's sequences in windows, whose buckets have the same shapes in every window of every epoch.

    parts: one, or that of each of an experiment's folds, of the same shards. held: which of them are read; the others
    have their say in what windows and buckets hold, so that these are the same whatever folds a pack trains. A window
    holds the same shards for each.
    longest: each bucket's longest length; sequences beyond the last go into a bucket of their own. most_bytes: padded
    data of one fold up to this is one window. Of more, each bucket gets its share of `most_bytes` (at least what one
    shard needs), and a window takes the next shards as long as there is room. multiple: a fold has a multiple of so
    many rows in each bucket. seed: draws the shards' order anew in each of `epochs`; None keeps their order, and all
    epochs are one. Rows then stand by length in each bucket, for steps beyond the longest of neighbouring rows take no
    time.

    `waited`: seconds that `get` has blocked. `sharding`: where windows go; None for the default device. At most two
    windows are in memory, and a third that is being built.
    """

    def __init__(
        self,
        parts: Part | Sequence[Part],
        longest: list[int],
        most_bytes: float,
        *,
        held: Sequence[int] = (0,),
        multiple: int = 1,
        seed: int | None = None,
        epochs: int = 1,
    ) -> None:
        parts = [parts] if isinstance(parts, Part) else list(parts)
        first, shard_count = parts[0], len(parts[0].starts) - 1
        all_lengths = np.concatenate([part.lengths for part in parts])
        if len(all_lengths) and all_lengths.max() > longest[-1]:
            longest = [*longest, int(all_lengths.max())]
        widths = np.array(longest)
        used = np.unique(np.searchsorted(widths, all_lengths))
        self._parts, self._seed, self._epochs = [parts[index] for index in held], seed, epochs
        self.steps = [int(width) for width in widths[used]]  # of each bucket
        places = [np.searchsorted(widths[used], part.lengths) for part in parts]
        self._place = [places[index] for index in held]
        counts = []
        for part, place in zip(parts, places, strict=True):
            pieces = np.repeat(np.arange(shard_count), np.diff(part.starts))
            counts.append(np.bincount(pieces * len(used) + place, minlength=shard_count * len(used)))
        self._counts = np.stack(counts).reshape(len(parts), shard_count, len(used))  # [fold, shard, bucket]
        positions = first.labels.shape[1] if first.labels.ndim == 2 else 1
        row_bytes = 4 * (widths[used] * (first.features + first.labels_by_step) + first.metadata + positions + 2)
        total = self._counts.sum(axis=1).max(axis=0)
        all_bytes = float((total * row_bytes).sum())
        self.whole = all_bytes <= most_bytes
        if not self.whole:
            share = (total * (most_bytes / all_bytes)).astype(np.int64)
            total = np.maximum(share, self._counts.max(axis=(0, 1)))
        self.rows = total + -total % multiple  # of each bucket, a fold
        self.waited = 0.0
        self.sharding: jax.sharding.Sharding | None = None
        self._held: tuple[tuple[int, int], Window] | None = None
        self._ahead: tuple[tuple[int, int], Future[Window]] | None = None
        self._reader = ThreadPoolExecutor(1, "jaxrnn-input")
        self._closed = False

    def __enter__(self) -> "Windows":
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of all windows, and of the one that is being read."""
        self._closed = True
        self._held = self._ahead = None
        self._reader.shutdown(cancel_futures=True)

    def count(self, epoch: int = 0) -> int:
        return len(self._cuts(epoch)[1]) - 1

    def counts(self, epoch: int, index: int) -> np.ndarray:
        """Returns how many sequences each bucket of a window holds, [bucket], of the fold that has most."""
        return self._counts[:, self._shards(epoch, index)].sum(axis=1).max(axis=0)

    def get(self, epoch: int = 0, index: int = 0) -> Window:
        """Returns a window on the device, and begins to read the one after it. Raises what reading it raises."""
        wanted = (epoch if self._drawn else 0), index
        if self._held is None or self._held[0] != wanted:
            began = time.monotonic()
            ahead = self._ahead if self._ahead is not None and self._ahead[0] == wanted else None
            future = self._reader.submit(self._read, *wanted) if ahead is None else ahead[1]
            self._ahead = None
            self._held = wanted, future.result()
            self.waited += time.monotonic() - began
            after = self._after(*wanted)
            if after not in (None, wanted):
                self._ahead = after, self._reader.submit(self._read, *after)
        return self._held[1]

    @property
    def _drawn(self) -> bool:
        return self._seed is not None and not self.whole

    def _after(self, epoch: int, index: int) -> tuple[int, int] | None:
        if index + 1 < self.count(epoch):
            return epoch, index + 1
        if not self._drawn:
            return 0, 0
        return (epoch + 1, 0) if epoch + 1 < self._epochs else None

    def _cuts(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """Returns the order of an epoch's shards, and where in it windows begin and end."""
        order = np.arange(self._counts.shape[1])
        if self._drawn:
            assert self._seed is not None
            order = np.random.default_rng([self._seed % 2**64, epoch]).permutation(order)
        sums = np.pad(np.cumsum(self._counts[:, order], axis=1), ((0, 0), (1, 0), (0, 0)))
        sums = np.moveaxis(sums, 1, 2).reshape(-1, len(order) + 1)  # [fold and bucket, shard]
        rows = np.tile(self.rows, len(self._counts))
        cuts = [0]
        while cuts[-1] < len(order):
            room = zip(sums, sums[:, cuts[-1]] + rows, strict=True)
            cuts.append(min(int(np.searchsorted(have, most, side="right")) - 1 for have, most in room))
        return order, cuts

    def _shards(self, epoch: int, index: int) -> np.ndarray:
        order, cuts = self._cuts(epoch)
        return order[cuts[index] : cuts[index + 1]]

    def _places(self, held: int, shards: np.ndarray) -> list[np.ndarray]:
        """Returns for each bucket the rows that a fold's sequences of these shards take, in their order."""
        part, place = self._parts[held], self._place[held]
        rows = np.concatenate([np.arange(*part.starts[shard : shard + 2]) for shard in shards]).astype(np.int64)
        places = []
        for number, share in enumerate(self.rows):
            lengths = part.lengths[rows[place[rows] == number]]
            at = np.arange(len(lengths))
            if self._seed is None:
                at[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
            places.append(at + held * share)
        return places

    def _read(self, epoch: int, index: int) -> Window:
        first, several = self._parts[0], len(self._parts)
        shapes = zip((several * self.rows).tolist(), self.steps, strict=True)
        buckets = [_empty(rows, steps, first) for rows, steps in shapes]
        sources = [np.full(several * rows, -1) for rows in self.rows]
        filled = np.zeros((several, len(buckets)), dtype=np.int64)
        shards = self._shards(epoch, index)
        places = [self._places(held, shards) for held in range(several)]
        for shard, held in itertools.product(shards, range(several)):
            if self._closed:
                raise RuntimeError("the windows are closed")
            part = self._parts[held]
            rows = slice(part.starts[shard], part.starts[shard + 1])
            if rows.start == rows.stop:
                continue
            examples, keys = part.read(int(shard)), object_keys(part.ids[rows])
            for number, bucket in enumerate(buckets):
                chosen = np.flatnonzero(self._place[held][rows] == number)
                at = places[held][number][filled[held, number] : filled[held, number] + len(chosen)]
                _fill(bucket, at, examples, keys, chosen, part.labels_by_step)
                sources[number][at] = chosen + part.starts[shard]
                filled[held, number] += len(chosen)
        # waited for here, so that the transfer is over when the window is asked for
        on_device = jax.block_until_ready(shares.put(tuple(buckets), self.sharding))
        together = np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64)
        return Window(on_device, together, self.counts(epoch, index))


def fold_rows(bucket: Bucket, fold: int, folds: int) -> Bucket:
    """Returns the rows of one of so many folds, in the order in which they are held."""
    share = len(bucket.lengths) // folds
    return Bucket(*(values[fold * share : (fold + 1) * share] for values in bucket))


def _empty(rows: int, steps: int, part: Part) -> Bucket:
    several = (steps,) if part.labels_by_step else part.labels.shape[1:]
    labels = _aligned((rows, *several), np.int32)
    labels[...] = -1 if several else 0
    return Bucket(
        _aligned((rows, steps, part.features), np.float32),
        _aligned((rows,), np.int32),
        _aligned((rows, part.metadata), np.float32),
        labels,
        _aligned((rows,), np.uint32),
    )


def _aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Returns zeros that begin where XLA wants arrays to: a CPU's devices, one a core, then all use this memory, and
    none makes a copy of its own."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(count + XLA_ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % XLA_ALIGNMENT :][:count].view(dtype).reshape(shape)


def _fill(
    bucket: Bucket, rows: np.ndarray, examples: Examples, keys: np.ndarray, chosen: np.ndarray, labels_by_step: bool
) -> None:
    """Writes the chosen sequences into these rows of the bucket."""
    lengths = examples.lengths[chosen]
    first = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(first, lengths)
    steps = bucket.features.shape[1]
    places = np.repeat(rows * steps, lengths) + within
    found = np.repeat(examples.offsets[chosen], lengths) + within
    bucket.features.reshape(-1, bucket.features.shape[2])[places] = examples.features[found]
    bucket.lengths[rows] = lengths
    bucket.metadata[rows] = examples.metadata[chosen]
    if labels_by_step:
        bucket.labels.reshape(-1)[places] = examples.labels[found]
    else:
        bucket.labels[rows] = examples.labels[chosen]
    bucket.keys[rows] = keys[chosen]
