"""From probabilities to label sequences, and from these to errors, on the host: no jax.

`ctc` has the loss, and the twins on the device of what training watches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # of a label at a step, which may have been rounded to 0
MOST_STEPS = 1 << 18  # of sequences of similar length that are looked at together, with their padding


def needed_steps(labels: Any) -> Any:
    """Returns the length [...] of the shortest input that can spell the labels [..., position] by CTC.

    Each label takes a step, and so does the blank that must part two equal ones. -1 is no label, and stands last. The
    labels are an array of NumPy, or of JAX.
    """
    there = labels >= 0
    return there.sum(axis=-1) + ((labels[..., 1:] == labels[..., :-1]) & there[..., 1:]).sum(axis=-1)


def surprise(probabilities: np.ndarray, labels: Sequence[int], blank: int) -> float:
    """Returns -log p of the labels, summed over all paths that spell them (Graves et al. 2006, eqs. 5 to 8), infinite
    where the input is too short.

    probabilities: [step, label] of one sequence, without padding; taken as at least `SMALLEST_PROBABILITY`.
    """
    return float(surprises([probabilities], [labels], blank)[0])


def surprises(pieces: Sequence[np.ndarray], labels: Sequence[Sequence[int]], blank: int) -> np.ndarray:
    """Returns the `surprise` [sequence] of the labels of each of several sequences, many at a time."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    found, left = np.zeros(len(pieces)), np.argsort(-lengths, kind="stable")
    while len(left):
        own, left = np.split(left, [max(1, MOST_STEPS // max(1, lengths[left[0]]))])
        found[own] = _surprises([pieces[at] for at in own], [labels[at] for at in own], lengths[own], blank)
    return found


def _surprises(
    pieces: Sequence[np.ndarray], labels: Sequence[Sequence[int]], lengths: np.ndarray, blank: int
) -> np.ndarray:
    rows, counts = np.arange(len(pieces)), np.array([len(own) for own in labels])
    spelled = np.full((len(rows), max(counts.max(), 1)), -1)
    spelled[np.arange(spelled.shape[1]) < counts[:, None]] = [label for own in labels for label in own]
    states = np.full((len(rows), 2 * spelled.shape[1] + 1), blank)
    states[:, 1::2] = np.where(spelled >= 0, spelled, blank)
    may_skip = np.zeros(states.shape, dtype=bool)
    may_skip[:, 2:] = states[:, 2:] != states[:, :-2]
    log_probabilities = np.zeros((len(rows), lengths.max(), pieces[0].shape[1]))
    for row, piece in enumerate(pieces):
        log_probabilities[row, : len(piece)] = np.log(np.maximum(piece.astype(np.float64), SMALLEST_PROBABILITY))
    never = np.full((len(rows), 2), -np.inf)
    forward = np.broadcast_to(np.where(np.arange(states.shape[1]) == 0, 0.0, -np.inf), states.shape)
    for step in range(lengths.max()):
        earlier = np.concatenate([never, forward], axis=1)
        skipped = np.where(may_skip, earlier[:, :-2], -np.inf)
        emitted = np.take_along_axis(log_probabilities[:, step], states, axis=1)
        further = np.logaddexp(np.logaddexp(forward, earlier[:, 1:-1]), skipped) + emitted
        forward = np.where(step < lengths[:, None], further, forward)
    # without labels the path is of blanks alone, and has one state
    ends = forward[rows, 2 * counts], np.where(counts > 0, forward[rows, np.maximum(2 * counts - 1, 0)], -np.inf)
    return np.where(needed_steps(spelled) > lengths, np.inf, -np.logaddexp(*ends))


def greedy(probabilities: np.ndarray, *, blank: int) -> tuple[int, ...]:
    """Returns the labels that the most probable path spells: repeats collapsed, then blanks dropped.

    probabilities: [step, label] of one sequence, without padding; logits do as well.
    """
    path = probabilities.argmax(axis=1)
    begins = np.append(True, path[1:] != path[:-1])[: len(path)]
    return tuple(path[begins & (path != blank)].tolist())


def named(probabilities: np.ndarray, *, end: int) -> tuple[int, ...]:
    """Returns the labels that a decoder names before the end, or at all positions where it names none.

    probabilities: [position, label] of one sequence; logits do as well.
    """
    path = probabilities.argmax(axis=1)
    ends = np.flatnonzero(path == end)
    return tuple(path[: ends[0] if len(ends) else None].tolist())


def named_surprise(probabilities: np.ndarray, labels: Sequence[int], end: int) -> float:
    """Returns -log p of the labels and, unless they take all positions, the end behind them, each at its position, by a
    decoder's probabilities [position, label] of one sequence, which depend on the labels that it named before; infinite
    where it has too few positions. Each is taken as at least `SMALLEST_PROBABILITY`."""
    if len(labels) > len(probabilities):
        return float("inf")
    wanted = [*labels, end][: len(probabilities)]
    found = probabilities[np.arange(len(wanted)), wanted].astype(np.float64)
    return -float(np.log(np.maximum(found, SMALLEST_PROBABILITY)).sum())


def prefix_beam(probabilities: np.ndarray, *, blank: int, width: int) -> list[tuple[tuple[int, ...], float]]:
    """Returns at most `width` label sequences with the logarithm of their probability, the most probable first.

    Prefix beam search (Graves 2012, Supervised Sequence Labelling, section 7.5; Hannun et al. 2014, arXiv 1408.2873,
    algorithm 1, without a language model). After each step the `width` most probable prefixes go on. A probability is
    summed over those paths alone whose every prefix was kept: it is a lower bound, and exact where none was dropped.
    With all prefixes kept the first is the most probable labelling. A narrower beam promises less: that of width 1 may
    find a less probable labelling than `greedy`; it finds the same where one label has more than 1 / sqrt(2) of each
    step's probability.

    probabilities: [step, label] of one sequence, without padding, each step's sum 1.
    """
    with np.errstate(divide="ignore"):
        log_probabilities = np.log(probabilities.astype(np.float64))
    classes = probabilities.shape[1]
    # prefixes are nodes of a tree: a parent and a last label each; the root is the empty prefix
    parents, lasts = [-1], [-1]
    children: dict[tuple[int, int], int] = {}
    beam = [0]
    # log probability of the paths so far that spell the prefix and end with a blank, or with its last label
    by_blank, by_label = np.zeros(1), np.full(1, -np.inf)
    for emitted in log_probabilities:
        count = len(beam)
        last = np.array([lasts[node] for node in beam])
        labelled = np.flatnonzero(last >= 0)
        either = np.logaddexp(by_blank, by_label)
        longer = either[:, None] + emitted[None, :]
        longer[:, blank] = -np.inf
        # the same label again is a new one only after a blank, and else the same
        longer[labelled, last[labelled]] = by_blank[labelled] + emitted[last[labelled]]
        by_label[labelled] += emitted[last[labelled]]
        by_blank = either + emitted[blank]
        # what makes one prefix of the beam longer may be another of the beam
        place = {node: index for index, node in enumerate(beam)}
        for index, node in enumerate(beam):
            parent = place.get(parents[node])
            if parent is not None:
                by_label[index] = np.logaddexp(by_label[index], longer[parent, last[index]])
                longer[parent, last[index]] = -np.inf
        scores = np.concatenate([np.logaddexp(by_blank, by_label), longer.ravel()])
        # stable, so that ties fall alike everywhere
        best = np.argsort(-scores, kind="stable")[:width]
        best = best[scores[best] > -np.inf]
        nodes = []
        for choice in best.tolist():
            if choice < count:
                nodes.append(beam[choice])
                continue
            parent, label = divmod(choice - count, classes)
            key = (beam[parent], label)
            if key not in children:
                children[key] = len(parents)
                parents.append(key[0])
                lasts.append(label)
            nodes.append(children[key])
        by_blank = np.concatenate([by_blank, np.full(longer.size, -np.inf)])[best]
        by_label = np.concatenate([by_label, longer.ravel()])[best]
        beam = nodes

    def spelled(node: int) -> tuple[int, ...]:
        labels = []
        while node:
            labels.append(lasts[node])
            node = parents[node]
        return tuple(reversed(labels))

    return [(spelled(node), total) for node, total in zip(beam, np.logaddexp(by_blank, by_label).tolist(), strict=True)]


def edit_operations(reference: Sequence[int], hypothesis: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """Returns a shortest list of edits that turns the reference into the hypothesis, in the order of the labels.

    A pair is what stands in the reference and what in the hypothesis: (3, 5) a substitution, (None, 5) an insertion,
    (3, None) a deletion. There are as many as the edit distance (Levenshtein 1966). Of equally short lists it is the
    one that, seen from the end, substitutes before it deletes and deletes before it inserts.
    """
    rows, columns = len(reference), len(hypothesis)
    place = np.arange(columns + 1)
    distances = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    distances[0] = place
    labels = np.asarray(hypothesis, dtype=np.int64)
    for row, label in enumerate(reference, start=1):
        without = distances[row - 1] + 1
        without[1:] = np.minimum(without[1:], distances[row - 1, :-1] + (labels != label))
        distances[row] = np.minimum.accumulate(without - place) + place
    operations: list[tuple[int | None, int | None]] = []
    row, column = rows, columns
    while row or column:
        here = distances[row, column]
        pair = (reference[row - 1] if row else None, hypothesis[column - 1] if column else None)
        if row and column and here == distances[row - 1, column - 1] + (pair[0] != pair[1]):
            row, column = row - 1, column - 1
            if pair[0] != pair[1]:
                operations.append(pair)
        elif row and here == distances[row - 1, column] + 1:
            row -= 1
            operations.append((pair[0], None))
        else:
            column -= 1
            operations.append((None, pair[1]))
    return operations[::-1]


def label_error_rate(references: Sequence[Sequence[int]], hypotheses: Sequence[Sequence[int]]) -> float:
    """Returns the sum of the edit distances over the sum of the references' lengths (at least 1)."""
    distances = [len(edit_operations(*pair)) for pair in zip(references, hypotheses, strict=True)]
    return sum(distances) / max(sum(map(len, references)), 1)


def sequence_error_rate(references: Sequence[Sequence[int]], hypotheses: Sequence[Sequence[int]]) -> float:
    """Returns the share of the sequences whose labels are not all right; there must be one."""
    wrong = [tuple(reference) != tuple(found) for reference, found in zip(references, hypotheses, strict=True)]
    return sum(wrong) / len(wrong)
