"""Leaks: what stands in two splits, so that test scores would tell how well the network remembers.

Looked for are groups (one star, one subject) and sequences that are equal or almost equal to one in another split,
whatever their labels say. Ids need no look: ingest lets no object stand twice. Splits have an order: test, validation,
training, or test and the folds. A leak is told of the object in the later one, so that taking out every object that is
told leaves no leak.

Two sequences are almost equal if they have as many steps, and for each feature that `data.features` lists the root mean
square of their difference is below `NEAR` of the feature's own deviation along the sequence (of its size, where it
doesn't vary). Each measure is the sequence's own: a faint object's noise differs from another's, however bright others
are. No two sequences of noise come so close by chance once they have some 8 numbers; those with fewer than
`FEWEST_NUMBERS` are left out and counted.

Not all pairs are compared. Each sequence is projected on a few fixed random directions; neighbours among these
sketches, which a k-d tree finds, are then compared number by number. A pair just within `NEAR` is missed with a
probability below 1e-3, a closer one with less. Equal sequences are found by a hash of 64 bits: among 10 million
different ones, two are taken for equal with a probability of 3e-6.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn import results, shards
from jaxrnn.errors import listed
from jaxrnn.readers import SPLITS
from jaxrnn.shards import Shard

NEAR = 0.01
FEWEST_NUMBERS = 8
DIRECTIONS = 7
# Of a difference of NEAR, each direction shows NEAR on average; the deviation's own difference may add as much again.
RADIUS = 8 * NEAR
NEIGHBOURS = 4
COLUMNS = ("kind", "object", "split", "other_object", "other_split")
KINDS = {
    "group": "{} of {} in a group that {} has too",
    "equal": "{} of {} equal to one of {}",
    "near_equal": "{} of {} almost equal to one of {}",
}


@dataclass(frozen=True)
class Leaks:
    """Every object that stands, or whose like stands, in an earlier split too.

    table: rows of `COLUMNS`; an object has at most one row of a kind (in each random fold), with one example of what it
    equals. leaking: [partition, object] bool, a row for each of `partitions`. too_few_numbers: how many sequences were
    too poor to be compared.
    """

    table: pd.DataFrame
    leaking: np.ndarray
    too_few_numbers: int

    def __bool__(self) -> bool:
        return bool(self.leaking.any())

    @property
    def counts(self) -> dict[str, int]:
        kinds = self.table["kind"].tolist()
        found = {kind: kinds.count(kind) for kind in KINDS}
        return {"objects": int(self.leaking.any(axis=0).sum()), **found, "too_few_numbers": self.too_few_numbers}

    def write(self, path: Path) -> None:
        with results.written_whole(path) as temporary:
            self.table.to_csv(temporary, index=False)

    def summary(self) -> str:
        """Returns what was found, in a sentence, with examples."""
        rows = list(zip(*(self.table[name] for name in COLUMNS), strict=True))
        counts = Counter((kind, split, other) for kind, _, split, _, other in rows)
        found = [KINDS[kind].format(count, split, other) for (kind, split, other), count in counts.items()]
        examples = [f"{name} and {other}" for _, name, _, other, _ in rows[:3]]
        return f"what stands in one split stands in another too: {listed(found)}; such as {listed(examples)}"

    def refusal(self, path: Path) -> str:
        by_group = "; `split.by: group` keeps groups whole" if self.counts["group"] else ""
        return (
            f"split: {self.summary()}; test scores would be too good. {path} lists them all. Take them out of the "
            "survey's files, or set `split.leaks`: `drop_from_training` takes them from the training split (and from "
            f"validation where test has the other), `report` goes on and says so in the report{by_group}"
        )


def find(paths: list[Path], table: pd.DataFrame, groups: np.ndarray | None) -> Leaks:
    """Returns the leaks between the splits, and folds, of `splits.csv`'s rows, which stand in the shards' order.

    groups: [object] str, "" for objects that belong to none; None where the survey has no groups.
    """
    prints = _Prints.read(paths)
    telling = prints.numbers >= FEWEST_NUMBERS
    ids, rows, leaking = table["id"].to_numpy(), [], []
    too_few = np.zeros(len(table), dtype=bool)
    for names, place in partitions(table):
        found = _between(paths, prints, telling, place, groups)
        rows += [
            pd.DataFrame(dict(zip(COLUMNS, (kind, ids[a], names[place[a]], ids[b], names[place[b]]), strict=True)))
            for kind, (a, b) in found.items()
        ]
        leaking.append(np.isin(np.arange(len(table)), np.concatenate([objects for objects, _ in found.values()])))
        too_few |= ~telling & (place >= 0)
    return Leaks(pd.concat(rows, ignore_index=True), np.stack(leaking), int(too_few.sum()))


def _between(
    paths: list[Path], prints: "_Prints", telling: np.ndarray, place: np.ndarray, groups: np.ndarray | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns by kind the objects that leak between the splits of one partition, each with one that it leaks to."""
    found = {} if groups is None else {"group": _same(groups, groups != "", place)}
    found["equal"] = _same(prints.digests, telling, place)
    equal = np.isin(np.arange(len(place)), found["equal"][0])
    near, others = _neighbours(prints, telling, telling & ~equal, place)
    close = _near_equal(paths, prints.starts, near, others)
    near, others = near[close], others[close]
    first = _firsts(near)
    found["near_equal"] = near[first], others[first]
    return found


def partitions(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns each partition of the objects of `splits.csv` into splits that must not know of each other: the splits'
    names in their order, and each object's [object] index into them, -1 for none. Random folds are one each."""
    drawn = [name for name in table if str(name).startswith("fold_")]
    if drawn:
        found = []
        for name in map(str, drawn):
            named = {split: f"{split} of fold {name[5:]}" for split in reversed(SPLITS)}
            found.append(_placed(list(named.values()), [named.get(split, "") for split in table[name]]))
        return found
    if "fold" not in table:
        return [_placed(list(reversed(SPLITS)), table["split"])]
    folds = sorted(set(table["fold"]) - {""}, key=int)
    shown = np.where(table["fold"] == "", table["split"], "fold " + table["fold"])
    return [_placed([SPLITS[2], *(f"fold {fold}" for fold in folds)], shown)]


def _placed(names: list[str], shown: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    index = {name: number for number, name in enumerate(names)}
    return np.array(names, dtype=object), np.array([index.get(name, -1) for name in shown], dtype=np.int64)


def _same(keys: np.ndarray, usable: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the objects whose key an earlier split has too, and the first object there that has it."""
    rows = np.flatnonzero(usable & (place >= 0))
    rows = rows[np.argsort(place[rows], kind="stable")]
    kept = keys[rows]
    _, first, key = np.unique(
        kept.astype(str) if kept.dtype == object else kept, return_index=True, return_inverse=True
    )
    earliest = rows[first][key]
    later = place[rows] > place[earliest]
    order = np.argsort(rows[later])
    return rows[later][order], earliest[later][order]


@dataclass(frozen=True)
class _Prints:
    """A few numbers for each sequence: digests [object] uint64 of its features; sketches [object, DIRECTIONS + 1]
    float32, the last of them its length; numbers [object], how many of its numbers vary. starts: [shard + 1]."""

    digests: np.ndarray
    sketches: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "_Prints":
        found = [_printed(shards.read(path)) for path in paths]
        digests, sketches, numbers = (np.concatenate(entries) for entries in zip(*found, strict=True))
        return cls(digests, sketches, numbers, np.cumsum([0, *(len(entry[0]) for entry in found)]))


def _printed(shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, offsets, lengths = np.ascontiguousarray(shard.features), shard.offsets, shard.lengths
    digests = np.array(
        [
            int.from_bytes(hashlib.blake2b(features[start:end].tobytes(), digest_size=8).digest(), "big")
            for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        ],
        dtype=np.uint64,
    )
    owner = np.repeat(np.arange(len(lengths)), lengths)
    centred, scale = _centred(shard, owner)
    shape = np.divide(centred, scale[owner], out=np.zeros_like(centred), where=scale[owner] > 0)
    # a direction's weight is a random sign of the step times one of the feature; longer sequences only add to them
    steps = _signs(int(lengths.max(initial=0)), 0)[np.arange(len(owner)) - offsets[owner]]
    projected = (shape @ _signs(features.shape[1], 1)) * steps
    sketches = np.stack([np.bincount(owner, column, len(lengths)) for column in projected.T], axis=1)
    sketches /= np.sqrt(np.maximum(lengths, 1) * features.shape[1])[:, None]
    return digests, np.column_stack([sketches, lengths]).astype(np.float32), _varying(shard, owner)


def _signs(rows: int, stream: int) -> np.ndarray:
    return np.where(np.random.default_rng(stream).random((rows, DIRECTIONS)) < 0.5, -1.0, 1.0)


def _centred(shard: Shard, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [step, feature] less their sequence's mean, NaN as 0, and [sequence, feature] the deviation
    that differences are measured by: one for all columns of one source."""
    values = shard.features.astype(np.float64)
    counts = np.maximum(shard.lengths, 1)
    source = np.array([column.source for column in shard.feature_columns])
    squares, sizes = np.zeros((len(counts), len(source))), np.zeros((len(counts), len(source)))
    for column in range(len(source)):
        present = ~np.isnan(values[:, column])
        seen = np.where(present, values[:, column], 0.0)
        mean = np.bincount(owner, seen, len(counts)) / np.maximum(np.bincount(owner, present, len(counts)), 1)
        values[:, column] = np.where(present, seen - mean[owner], 0.0)
        squares[:, column] = np.bincount(owner, values[:, column] ** 2, len(counts)) / counts
        sizes[:, column] = np.bincount(owner, seen**2, len(counts)) / counts
    together = source[:, None] == source[None, :]
    variance, size = squares @ together, sizes @ together
    # what doesn't vary, save for the rounding of its mean, is measured by its size
    scale = np.sqrt(np.where(variance > 1e-24 * size, variance, size) / together.sum(axis=0))
    return values, scale


def _varying(shard: Shard, owner: np.ndarray) -> np.ndarray:
    """Returns how many numbers [sequence] say something.

    Those of columns that vary along the sequence, or in a sequence of one step those that aren't 0. Times and marks are
    left out where there is anything else: many objects share a cadence.
    """
    columns = shard.feature_columns
    telling = [i for i, column in enumerate(columns) if column.kind in ("value", "error")]
    telling = telling or [i for i, column in enumerate(columns) if not column.indicator]
    numbers = np.zeros(len(shard.ids), dtype=np.int64)
    first, single = shard.offsets[owner], (shard.lengths == 1)[owner]
    for column in telling:
        present = ~np.isnan(shard.features[:, column])
        values = np.where(present, shard.features[:, column], 0.0)
        unlike = np.where(single, values != 0, values != values[first])
        varies = np.bincount(owner, unlike, len(numbers)) > 0
        numbers += np.where(varies, np.bincount(owner[present], minlength=len(numbers)), 0)
    return numbers


def _neighbours(
    prints: _Prints, telling: np.ndarray, wanted: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of a wanted object and a telling one of an earlier split whose sketches are close."""
    from scipy.spatial import KDTree

    objects, others = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for number in range(1, int(place.max(initial=0)) + 1):
        earlier = np.flatnonzero(telling & (place < number) & (place >= 0))
        later = np.flatnonzero(wanted & (place == number))
        if len(earlier) and len(later):
            # one of those that are equal stands for all
            earlier = earlier[_firsts(prints.digests[earlier])]
            tree = KDTree(prints.sketches[earlier], balanced_tree=False, compact_nodes=False)
            found = np.asarray(tree.query(prints.sketches[later], k=NEIGHBOURS, distance_upper_bound=RADIUS)[1])
            row, rank = np.nonzero(found < len(earlier))
            objects.append(later[row])
            others.append(earlier[found[row, rank]])
    return np.concatenate(objects), np.concatenate(others)


def _near_equal(paths: list[Path], starts: np.ndarray, objects: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which pairs [pair] are almost equal, from their steps; shards are read again, a few at a time."""

    @lru_cache(maxsize=4)
    def measured(shard_number: int) -> tuple[Shard, np.ndarray]:
        shard = shards.read(paths[shard_number], check=False)
        return shard, _centred(shard, np.repeat(np.arange(len(shard.ids)), shard.lengths))[1]

    def sequence(index: int) -> tuple[Shard, np.ndarray, np.ndarray]:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        shard, scale = measured(number)
        row = index - int(starts[number])
        return shard, shard.features[shard.offsets[row] : shard.offsets[row + 1]], scale[row]

    close = np.zeros(len(objects), dtype=bool)
    shard_of = np.searchsorted(starts, np.stack([objects, others]), side="right") - 1
    for pair in np.lexsort((shard_of[1], shard_of[0])).tolist():
        (shard, one, scale), (_, other, other_scale) = sequence(int(objects[pair])), sequence(int(others[pair]))
        if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
            continue
        squares = (np.nan_to_num(one.astype(np.float64)) - np.nan_to_num(other.astype(np.float64))) ** 2
        source = np.array([column.source for column in shard.feature_columns])
        together = source[:, None] == source[None, :]
        difference = np.sqrt(squares.mean(axis=0) @ together / together.sum(axis=0))
        close[pair] = bool(np.all(difference <= NEAR * np.minimum(scale, other_scale)))
    return close


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Returns where each different key stands first."""
    return np.unique(keys, return_index=True)[1]
