"""Leaks: what stands in two splits, so that test scores would tell how well the network remembers.

Looked for are groups (one star, one subject) and sequences that are equal or almost equal to one in another split,
whatever their labels say. Ids need no look: ingest lets no object stand twice. Splits have an order: test, validation,
training, or test and the folds. A leak is told of the object in the later one, so that taking out every object that is
told leaves no leak.

Equal are sequences whose steps are, byte for byte. Where fewer than `FEWEST_NUMBERS` of their numbers vary, that may be
chance: their times must be equal too, and what they hold so rare that fewer than `CHANCE` such pairs are expected among
all that short. How rare follows from how often each different value and each time, and its difference from the one
before, occurs in the same shard, errors and marks left out. One step, a constant, or a count of two or three
whole numbers is never rare enough; three steps of measured values with their times are. What is too common is counted.

Two sequences are almost equal if they have as many steps, and for each feature that `data.features` lists the root mean
square of their difference is below `NEAR` of the feature's own deviation along the sequence (of its size, where it
doesn't vary). Each measure is the sequence's own: a faint object's noise differs from another's, however bright others
are. No two sequences of noise come so close by chance once they have some 8 numbers; those with fewer than
`FEWEST_NUMBERS` are not looked at for this.

Not all pairs are compared. Each sequence is projected on a few fixed random directions, its features measured in units
of their deviation, which are powers of two, so that almost equal sequences share them (one whose deviation is close to
a power is looked for in both units). A distance between such sketches is about one between sequences, whatever they
have in common: curves of one form and many amplitudes lie as far apart as they are. A k-d tree finds neighbours
within a radius, nearest first, which are then compared number by number, until one is found or none is left; those of
which more than `MOST_NEIGHBOURS` are in vain are counted. A pair just within `NEAR` is missed with a
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
CHANCE = 1e-3
# Of a shard, for how often values occur.
MOST_ROWS = 100_000
DIRECTIONS = 7
# Of a difference of NEAR, each direction shows NEAR on average.
RADIUS = 9 * NEAR
NEIGHBOURS, MOST_NEIGHBOURS = 4, 2048
# Features beyond are measured together: each may lie close to a power of two, and all combinations are looked up.
MOST_UNITS = 6
# What is held at once where pairs are compared.
PAIRS_AT_ONCE, VALUES_AT_ONCE = 1 << 20, 1 << 22
NO_UNIT = -10_000  # of features that are 0 throughout
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
    equals. leaking: [partition, object] bool, a row for each of `partitions`. too_few_numbers: how many sequences are
    too short or too plain for their equality to tell anything. short: how many others were compared for equality
    alone. unfinished: how many have so many neighbours that not all were compared.
    """

    table: pd.DataFrame
    leaking: np.ndarray
    too_few_numbers: int
    short: int = 0
    unfinished: int = 0

    def __bool__(self) -> bool:
        return bool(self.leaking.any())

    @property
    def counts(self) -> dict[str, int]:
        kinds = self.table["kind"].tolist()
        found = {kind: kinds.count(kind) for kind in KINDS}
        limits = {"too_few_numbers": self.too_few_numbers, "short": self.short, "unfinished": self.unfinished}
        return {"objects": int(self.leaking.any(axis=0).sum()), **found, **limits}

    def remarks(self) -> list[str]:
        """Returns what was not compared, a sentence each."""
        few, most = f"fewer than {FEWEST_NUMBERS} numbers that vary", f"more than {MOST_NEIGHBOURS}"
        texts = {
            f"of {few}, and common ones, whose equality could be chance, were not compared": self.too_few_numbers,
            f"of {few} were compared for equality alone": self.short,
            f"are like {most} of other splits, and were not compared with all of them": self.unfinished,
        }
        return [f"leaks: {count} sequences {text}" for text, count in texts.items() if count]

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
    # chance pairs expected among the short ones: half their number squared, times the probability of one pair
    short = int((~telling).sum())
    rare = ~telling & (prints.bits > 2 * np.log2(max(short, 1)) - 1 - np.log2(CHANCE))
    ids, rows, leaking = table["id"].to_numpy(), [], []
    placed, unfinished = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
    for names, place in partitions(table):
        found, left = _between(paths, prints, telling, rare, place, groups)
        rows += [
            pd.DataFrame(dict(zip(COLUMNS, (kind, ids[a], names[place[a]], ids[b], names[place[b]]), strict=True)))
            for kind, (a, b) in found.items()
        ]
        leaking.append(np.isin(np.arange(len(table)), np.concatenate([objects for objects, _ in found.values()])))
        placed |= place >= 0
        unfinished[left] = True
    return Leaks(
        pd.concat(rows, ignore_index=True),
        np.stack(leaking),
        too_few_numbers=int((placed & ~telling & ~rare).sum()),
        short=int((placed & rare).sum()),
        unfinished=int(unfinished.sum()),
    )


def _between(
    paths: list[Path],
    prints: "_Prints",
    telling: np.ndarray,
    rare: np.ndarray,
    place: np.ndarray,
    groups: np.ndarray | None,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Returns by kind the objects that leak between the splits of one partition, each with one that it leaks to; and
    the objects that were not compared with all of their neighbours."""
    found = {} if groups is None else {"group": _same(groups, groups != "", place)}
    found["equal"] = _same(prints.digests, telling | rare, place)
    equal = np.isin(np.arange(len(place)), found["equal"][0])
    objects, others, unfinished = _near_equal(paths, prints, telling, telling & ~equal, place)
    first = _firsts(objects)
    found["near_equal"] = objects[first], others[first]
    return found, unfinished


def partitions(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns each partition of the objects of `splits.csv` into splits that must not know of each other: the splits'
    names in their order, and each object's [object] index into them, -1 for none. Random folds are one each."""
    drawn = [name for name in table if str(name).startswith("fold_")]
    if drawn:
        return [
            _placed([f"{split} of fold {name[5:]}" for split in reversed(SPLITS)], table[name] + f" of fold {name[5:]}")
            for name in map(str, drawn)
        ]
    if "fold" not in table:
        return [_placed(list(reversed(SPLITS)), table["split"].to_numpy())]
    folds = sorted(set(table["fold"]) - {""}, key=int)
    shown = np.where(table["fold"] == "", table["split"], "fold " + table["fold"])
    return [_placed([SPLITS[2], *(f"fold {fold}" for fold in folds)], shown)]


def _placed(names: list[str], shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    """A few numbers for each sequence: digests [object] uint64 of its features, and times where it is short; numbers
    [object], how many of its numbers vary; bits [object], -log2 of the probability of what a short one holds.

    Sketches are [entry, DIRECTIONS]; each object has one that it is found by, and more to look for others by where its
    units are in doubt. owners [entry]: their objects. keys [entry] uint64: only sketches of equal length and units can
    be compared. extra [entry] bool: False for the one. starts: [shard + 1].
    """

    digests: np.ndarray
    numbers: np.ndarray
    bits: np.ndarray
    sketches: np.ndarray
    owners: np.ndarray
    keys: np.ndarray
    extra: np.ndarray
    starts: np.ndarray

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "_Prints":
        found, starts = [], [0]
        for path in paths:
            shard = shards.read(path)
            digests, numbers, bits = _told(shard)
            sketches, owners, keys = _sketched(shard)
            extra = np.arange(len(owners)) >= len(digests)
            found.append((digests, numbers, bits, sketches, owners + starts[-1], keys, extra))
            starts.append(starts[-1] + len(digests))
        joined = [np.concatenate(entries) for entries in zip(*found, strict=True)]
        return cls(*joined, starts=np.array(starts))


def _told(shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns digests, numbers and bits, as `_Prints` has them."""
    features, offsets, lengths = np.ascontiguousarray(shard.features), shard.offsets, shard.lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    numbers = _varying(shard, owner)
    short = numbers < FEWEST_NUMBERS
    ends = zip(offsets[:-1].tolist(), offsets[1:].tolist(), short.tolist(), strict=True)
    digests = [
        hashlib.blake2b(
            features[start:end].tobytes() + (shard.time[start:end].tobytes() if times_too else b""), digest_size=8
        ).digest()
        for start, end, times_too in ends
    ]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64), numbers, _bits(shard, owner, short)


def _bits(shard: Shard, owner: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Returns [sequence] how rare its times and values are, 0 where it isn't short.

    Each survey's column counts once, whatever features are made of it. A value that occurred before in the sequence
    tells nothing new.
    """
    bits = np.zeros(len(short))
    rows = np.flatnonzero(short[owner])
    if not len(rows):
        return bits
    columns = {
        column.column: shard.features[:, i] for i, column in enumerate(shard.feature_columns) if column.kind == "value"
    }
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    for values in (shard.time, *columns.values()):
        step = np.diff(values, prepend=values[:1])
        told = np.minimum(_rarity(values, values[rows]), np.where(first[rows], np.inf, _rarity(step, step[rows])))
        order = np.lexsort((values[rows], owner[rows]))
        same = np.zeros(len(rows), dtype=bool)
        same[order[1:]] = (values[rows][order[1:]] == values[rows][order[:-1]]) & (
            owner[rows][order[1:]] == owner[rows][order[:-1]]
        )
        told[same | np.isnan(values[rows])] = 0
        bits += np.bincount(owner[rows], told, len(bits))
    return bits


def _rarity(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns -log2 of the share that each value has of the known ones, of which about `MOST_ROWS` are looked at."""
    known = np.sort(known[:: max(1, len(known) // MOST_ROWS)])
    counts = np.searchsorted(known, values, side="right") - np.searchsorted(known, values, side="left")
    return -np.log2((counts + 1) / (len(known) + 1))


def _sketched(shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns sketches, owners and keys, as `_Prints` has them, of one shard: the entries that objects are found by
    come first, in their order."""
    lengths, offsets = shard.lengths, shard.offsets
    owner = np.repeat(np.arange(len(lengths)), lengths)
    source = np.array([column.source for column in shard.feature_columns])
    group = np.unique(source, return_inverse=True)[1] % MOST_UNITS
    squares = _measured(shard, owner) ** 2 * (source[:, None] == source[None, :]).sum(axis=0)
    steps = _signs(int(lengths.max(initial=0)), 0)[np.arange(len(owner)) - offsets[owner]]
    columns = _signs(len(source), 1)
    values = np.nan_to_num(shard.features.astype(np.float64))
    projected, units, doubtful = [], [], []
    for number in range(int(group.max(initial=-1)) + 1):
        of = group == number
        # of each source once; a difference within NEAR for each is one for all of them together
        alone = np.flatnonzero(of)[np.unique(source[of], return_index=True)[1]]
        size = np.sqrt(squares[:, alone].sum(axis=1) / of.sum())
        with np.errstate(divide="ignore"):
            exact = np.log2(size)
        unit = np.where(size > 0, np.ceil(exact), NO_UNIT).astype(np.int64)
        # the deviations of almost equal sequences differ by no more than a difference itself
        margin = 1.5 * np.log2(1 + NEAR)
        above, below = np.ceil(exact + margin) > unit, np.ceil(exact - margin) < unit
        steps_of = (values[:, of] @ columns[of]) * steps
        projected.append(np.stack([np.bincount(owner, column, len(lengths)) for column in steps_of.T], axis=1))
        units.append(unit)
        doubtful.append(np.where(size > 0, np.where(above, 1, np.where(below, -1, 0)), 0))
    owners, chosen = np.arange(len(lengths)), np.stack(units, axis=1)
    for number, change in enumerate(doubtful):
        more = np.flatnonzero(change[owners])
        others = chosen[more].copy()
        others[:, number] += change[owners[more]]
        owners, chosen = np.concatenate([owners, owners[more]]), np.concatenate([chosen, others])
    sketches = np.zeros((len(owners), DIRECTIONS))
    for number, sums in enumerate(projected):
        sketches += np.where(chosen[:, [number]] == NO_UNIT, 0.0, np.ldexp(sums[owners], -chosen[:, [number]]))
    sketches /= np.sqrt(np.maximum(lengths[owners], 1) * len(source))[:, None]
    keys = np.zeros(len(owners), dtype=np.uint64)
    for part in (lengths[owners], *chosen.T):
        # a linear congruential step (Knuth's constants): different lengths and units get different keys
        keys = (keys ^ part.astype(np.int64).view(np.uint64)) * np.uint64(6364136223846793005) + np.uint64(
            1442695040888963407
        )
    return sketches, owners, keys


def _signs(rows: int, stream: int) -> np.ndarray:
    return np.where(np.random.default_rng(stream).random((rows, DIRECTIONS)) < 0.5, -1.0, 1.0)


def _measured(shard: Shard, owner: np.ndarray) -> np.ndarray:
    """Returns [sequence, feature] the deviation that differences are measured by: one for all columns of one source."""
    counts = np.maximum(shard.lengths, 1)
    source = np.array([column.source for column in shard.feature_columns])
    squares, sizes = np.zeros((len(counts), len(source))), np.zeros((len(counts), len(source)))
    for column in range(len(source)):
        values = shard.features[:, column].astype(np.float64)
        present = ~np.isnan(values)
        seen = np.where(present, values, 0.0)
        mean = np.bincount(owner, seen, len(counts)) / np.maximum(np.bincount(owner, present, len(counts)), 1)
        squares[:, column] = np.bincount(owner, np.where(present, seen - mean[owner], 0.0) ** 2, len(counts)) / counts
        sizes[:, column] = np.bincount(owner, seen**2, len(counts)) / counts
    together = source[:, None] == source[None, :]
    variance, size = squares @ together, sizes @ together
    # what doesn't vary, save for the rounding of its mean, is measured by its size
    return np.sqrt(np.where(variance > 1e-24 * size, variance, size) / together.sum(axis=0))


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


def _near_equal(
    paths: list[Path], prints: _Prints, telling: np.ndarray, wanted: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pairs of a wanted object and a telling one of an earlier split that are almost equal, one or more for
    each that has any; and the wanted objects that were not compared with all their neighbours."""
    from scipy.spatial import KDTree

    found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    unfinished = [np.zeros(0, dtype=np.int64)]
    # far apart where sketches can't be compared
    key = np.unique(prints.keys, return_inverse=True)[1].astype(np.float64)
    points = np.column_stack([prints.sketches, key])
    for number in range(1, int(place.max(initial=0)) + 1):
        earlier = np.flatnonzero(telling & (place < number) & (place >= 0))
        # one of those that are equal stands for all
        earlier = earlier[_firsts(prints.digests[earlier])]
        is_earlier = np.zeros(len(place), dtype=bool)
        is_earlier[earlier] = True
        targets = np.flatnonzero(is_earlier[prints.owners] & ~prints.extra)
        pending = np.flatnonzero((wanted & (place == number))[prints.owners])
        if not len(targets) or not len(pending):
            continue
        tree = KDTree(points[targets], balanced_tree=False, compact_nodes=False)
        before, nearest = 0, NEIGHBOURS
        while len(pending) and before < MOST_NEIGHBOURS:
            left = []
            for some in np.array_split(pending, -(-len(pending) * nearest // PAIRS_AT_ONCE)):
                ranks = np.arange(before + 1, nearest + 1)
                places = np.asarray(tree.query(points[some], ranks, distance_upper_bound=RADIUS)[1])  # pyright: ignore[reportArgumentType]
                row, rank = np.nonzero(places < len(targets))
                objects, others = prints.owners[some[row]], prints.owners[targets[places[row, rank]]]
                close = _compared(paths, prints.starts, objects, others)
                found.append((objects[close], others[close]))
                done = np.isin(prints.owners[some], objects[close])
                left.append(some[~done & (places[:, -1] < len(targets))])
            pending = np.concatenate(left)
            before, nearest = nearest, nearest * 8
        unfinished.append(prints.owners[pending])
    objects, others = (np.concatenate(entries) for entries in zip(*found, strict=True))
    return objects, others, np.setdiff1d(np.concatenate(unfinished), objects)


def _compared(paths: list[Path], starts: np.ndarray, objects: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which pairs [pair] are almost equal, from their steps; shards are read again, a few at a time."""

    @lru_cache(maxsize=4)
    def measured(number: int) -> tuple[Shard, np.ndarray]:
        shard = shards.read(paths[number], check=False)
        return shard, _measured(shard, np.repeat(np.arange(len(shard.ids)), shard.lengths))

    close = np.zeros(len(objects), dtype=bool)
    shard_of = np.searchsorted(starts, np.stack([objects, others]), side="right") - 1
    order = np.lexsort((shard_of[1], shard_of[0]))
    ends = np.flatnonzero(np.any(np.diff(shard_of[:, order], axis=1), axis=0)) + 1
    for pairs in np.split(order, ends) if len(order) else []:
        one, other = (measured(int(number)) for number in shard_of[:, pairs[0]])
        rows = objects[pairs] - starts[shard_of[0, pairs[0]]], others[pairs] - starts[shard_of[1, pairs[0]]]
        lengths = one[0].lengths[rows[0]]
        alike = lengths == other[0].lengths[rows[1]]
        for length in np.unique(lengths[alike]).tolist():
            same = np.flatnonzero(alike & (lengths == length))
            at_once = max(1, VALUES_AT_ONCE // max(1, length * one[0].features.shape[1]))
            for some in np.array_split(same, -(-len(same) // at_once)):
                close[pairs[some]] = _are_close(one, rows[0][some], other, rows[1][some], length)
    return close


def _are_close(
    one: tuple[Shard, np.ndarray],
    rows: np.ndarray,
    other: tuple[Shard, np.ndarray],
    other_rows: np.ndarray,
    length: int,
) -> np.ndarray:
    """Returns [pair] whether the sequences at these rows of two shards, with their deviations, are almost equal."""
    a, b = (
        shard.features[shard.offsets[places][:, None] + np.arange(length)].astype(np.float64)
        for (shard, _), places in ((one, rows), (other, other_rows))
    )
    source = np.array([column.source for column in one[0].feature_columns])
    together = source[:, None] == source[None, :]
    squares = (np.nan_to_num(a) - np.nan_to_num(b)) ** 2
    difference = np.sqrt(squares.mean(axis=1) @ together / together.sum(axis=0))
    within = np.all(difference <= NEAR * np.minimum(one[1][rows], other[1][other_rows]), axis=1)
    return within & np.all(np.isnan(a) == np.isnan(b), axis=(1, 2))


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Returns where each different key stands first."""
    return np.unique(keys, return_index=True)[1]
