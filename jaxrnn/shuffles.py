"""Parts of a survey with other labels or other features: what audits train on and look at.

Each is a part as the one that it is made of, read shard by shard, and draws by (seed, shard) alone: a shard that is
read again is the same. Labels are drawn within each split, so that every split keeps its classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from jaxrnn.batches import Examples, Part

# From the labels of a part to others of the same form.
Relabel = Callable[[Part, np.random.Generator], np.ndarray]


def relabelled(part: Part, labels: np.ndarray) -> Part:
    """Returns the part with these labels, in the form of its own."""
    offsets = part.offsets

    def read(index: int) -> Examples:
        rows = part.starts[index : index + 2]
        start, stop = offsets[rows] if part.labels_by_step else rows
        return replace(part.read(index), labels=labels[start:stop])

    return replace(part, labels=labels, read=read)


def refeatured(part: Part, seed: list[int], change: Callable[[Examples, np.random.Generator], Examples]) -> Part:
    """Returns the part with each shard's examples changed; a shard's draws are its own."""

    def read(index: int) -> Examples:
        return change(part.read(index), np.random.default_rng([*seed, index]))

    return replace(part, read=read)


# Labels


def over_sequences(part: Part, generator: np.random.Generator, kinds: np.ndarray | None = None) -> np.ndarray:
    """Returns the labels, each sequence with those of another one. Where steps have labels, a sequence takes the
    other's in their order, cut or begun again to its own number of them; steps without a label keep none. kinds:
    numbers [sequence]; those of one kind exchange labels among them, of whatever split."""
    taken = _from(part, generator) if kinds is None else _mixed(kinds, generator)
    if not part.labels_by_step:
        return part.labels[taken]
    labelled = np.flatnonzero(part.labels >= 0)
    owner = np.repeat(np.arange(len(part)), part.lengths)[labelled]
    counts = np.bincount(owner, minlength=len(part))
    first = np.cumsum(counts) - counts
    # a sequence without a label has none to give: its taker keeps its own
    taken = np.where(counts[taken] > 0, taken, np.arange(len(part)))
    within = np.arange(len(labelled)) - first[owner]
    source = first[taken[owner]] + within % counts[taken[owner]]
    labels = part.labels.copy()
    labels[labelled] = part.labels[labelled[source]]
    return labels


def over_steps(part: Part, generator: np.random.Generator) -> np.ndarray:
    """Returns the labels [step], each with that of any other step."""
    labels = part.labels.copy()
    split = np.repeat(part.splits, part.lengths)
    for name in np.unique(part.splits):
        rows = np.flatnonzero((split == name) & (part.labels >= 0))
        labels[rows] = part.labels[generator.permutation(rows)]
    return labels


def constant(part: Part, generator: np.random.Generator) -> np.ndarray:
    """Returns the labels [step], all steps of a sequence with the commonest label of another one."""
    others = of_sequences(part)[_from(part, generator)]
    spread = np.repeat(others, part.lengths)
    return np.where((part.labels >= 0) & (spread >= 0), spread, part.labels)


def of_sequences(part: Part) -> np.ndarray:
    """Returns the label [sequence] of each sequence; where steps have labels their commonest one, -1 without any."""
    if not part.labels_by_step:
        return part.labels
    owner = np.repeat(np.arange(len(part)), part.lengths)
    labelled = part.labels >= 0
    classes = int(part.labels.max(initial=0)) + 1
    counts = np.bincount(owner[labelled] * classes + part.labels[labelled], minlength=len(part) * classes)
    counts = counts.reshape(len(part), classes)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1).astype(part.labels.dtype)


def are_constant(part: Part) -> bool:
    """Returns whether all labelled steps of each sequence have one label, or each sequence has one."""
    if not part.labels_by_step:
        return True
    spread = np.repeat(of_sequences(part), part.lengths)
    return bool((spread == part.labels)[part.labels >= 0].all())


def _from(part: Part, generator: np.random.Generator) -> np.ndarray:
    """Returns from which sequence [sequence] each takes its labels: one of its own split."""
    taken = np.arange(len(part))
    for name in np.unique(part.splits):
        rows = np.flatnonzero(part.splits == name)
        taken[rows] = generator.permutation(rows)
    return taken


# Features


def moments(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation [feature and metadata column] over a part's steps and sequences."""
    sums, squares, counts = 0.0, 0.0, 0
    for examples in every(part):
        steps, sequences = examples.features.astype(np.float64), examples.metadata.astype(np.float64)
        sums = sums + np.concatenate([steps.sum(axis=0), sequences.sum(axis=0)])
        squares = squares + np.concatenate([(steps**2).sum(axis=0), (sequences**2).sum(axis=0)])
        counts = counts + np.repeat([len(steps), len(sequences)], [part.features, part.metadata])
    mean = np.asarray(sums / np.maximum(counts, 1))
    return mean, np.sqrt(np.maximum(squares / np.maximum(counts, 1) - mean**2, 0))


def noise(mean: np.ndarray, deviation: np.ndarray) -> Callable[[Examples, np.random.Generator], Examples]:
    """Returns what replaces features and metadata by normal noise of these moments: lengths alone stay."""

    def change(examples: Examples, generator: np.random.Generator) -> Examples:
        features = examples.features.shape[1]

        def drawn(like: np.ndarray, columns: slice) -> np.ndarray:
            return generator.normal(mean[columns], deviation[columns], like.shape).astype(np.float32)

        return replace(
            examples,
            features=drawn(examples.features, slice(features)),
            metadata=drawn(examples.metadata, slice(features, None)),
        )

    return change


def jointly_in_time(examples: Examples, generator: np.random.Generator) -> Examples:
    """Returns the sequences with their steps in another order, all features alike; labels stay where they are."""
    order = _within(examples, generator)
    return replace(examples, features=examples.features[order])


def each_in_time(examples: Examples, generator: np.random.Generator) -> Examples:
    """Returns the sequences with each feature's values in an order of its own."""
    columns = [column[_within(examples, generator)] for column in examples.features.T]
    return replace(examples, features=np.stack(columns, axis=1) if columns else examples.features)


def _within(examples: Examples, generator: np.random.Generator) -> np.ndarray:
    """Returns an order [step] that mixes the steps of each sequence."""
    return _mixed(np.repeat(np.arange(len(examples)), examples.lengths), generator)


def _mixed(kinds: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns an order that mixes what is of one kind, for each kind."""
    order = np.empty(len(kinds), int)
    order[np.argsort(kinds, kind="stable")] = np.lexsort((generator.random(len(kinds)), kinds))
    return order


# Sequences


def every(part: Part) -> Iterable[Examples]:
    """Returns the examples of all shards that have some, one shard's after another's."""
    return map(part.read, np.flatnonzero(np.diff(part.starts)).tolist())


def of_split(part: Part, name: str) -> Part:
    """Returns the sequences of one of a part's splits."""
    stays = part.splits == name
    rows = np.flatnonzero(stays)

    def read(index: int) -> Examples:
        examples, own = part.read(index), stays[part.starts[index] : part.starts[index + 1]]
        steps = np.repeat(own, examples.lengths)
        offsets = np.concatenate([[0], np.cumsum(examples.lengths[own])]).astype(np.int64)
        labels = examples.labels[steps if part.labels_by_step else own]
        return Examples(examples.ids[own], labels, offsets, examples.features[steps], examples.metadata[own])

    return replace(
        part,
        ids=part.ids[rows],
        labels=part.labels[np.repeat(stays, part.lengths) if part.labels_by_step else rows],
        splits=part.splits[rows],
        lengths=part.lengths[rows],
        starts=np.searchsorted(rows, part.starts),
        read=read,
    )


def reordered(part: Part, rows: np.ndarray) -> Part:
    """Returns a few sequences in the order of `rows`, in memory."""
    chosen = np.sort(rows)
    few = part.some(chosen)
    pieces, offsets = list(every(few)), few.offsets
    features, labels = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("features", "labels"))
    metadata = np.concatenate([piece.metadata for piece in pieces])
    order = np.searchsorted(chosen, rows)
    lengths = few.lengths[order]
    own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = np.repeat(offsets[order] - own[:-1], lengths) + np.arange(own[-1])
    labels = labels[steps if part.labels_by_step else order]
    whole = Examples(few.ids[order], labels, own, features[steps], metadata[order])
    return replace(Part.of([whole], labels_by_step=part.labels_by_step), splits=part.splits[rows])


def cut(part: Part, kept: np.ndarray) -> Part:
    """Returns a part in memory with the first `kept` [sequence] steps of each sequence alone."""
    pieces, start = [], 0
    for examples in every(part):
        own = kept[start : (start := start + len(examples))]
        within = np.arange(len(examples.features)) - np.repeat(examples.offsets[:-1], examples.lengths)
        stays = within < np.repeat(own, examples.lengths)
        labels = examples.labels[stays] if part.labels_by_step else examples.labels
        offsets = np.concatenate([[0], np.cumsum(own)]).astype(np.int64)
        pieces.append(replace(examples, labels=labels, offsets=offsets, features=examples.features[stays]))
    return replace(Part.of(pieces, labels_by_step=part.labels_by_step), splits=part.splits)
