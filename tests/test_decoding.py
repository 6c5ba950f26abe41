"""Beam search and edits are what trying every possibility gives."""

from collections import Counter, defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from jaxrnn import decoding

Labels = tuple[int, ...]


def collapsed(path: Labels, blank: int) -> Labels:
    kept = path[:1] + tuple(after for before, after in pairwise(path) if after != before)
    return tuple(label for label in kept if label != blank)


def labellings(probabilities: np.ndarray, blank: int) -> dict[Labels, float]:
    """Returns the probability of every label sequence, summed over all paths one by one."""
    found: dict[Labels, float] = defaultdict(float)
    for path in product(range(probabilities.shape[1]), repeat=len(probabilities)):
        found[collapsed(path, blank)] += float(np.prod(probabilities[np.arange(len(path)), list(path)]))
    return found


@st.composite
def outputs(draw: st.DrawFn, most_steps: int = 5, least: float = 0.0) -> tuple[np.ndarray, int]:
    """Returns probabilities [step, label], some of them 0, and the blank. `least`: of each step's best label."""
    classes = draw(st.integers(2, 4))
    steps = draw(st.integers(0, most_steps))
    generator = default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = generator.dirichlet(np.full(classes, draw(st.sampled_from([0.1, 1.0, 10.0]))), steps)
    if draw(st.booleans()):
        probabilities = np.where(probabilities < 0.1, 0, probabilities)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    if least:
        best = np.eye(classes)[generator.integers(0, classes, steps)]
        probabilities = least * best + (1 - least) * probabilities
    return probabilities, draw(st.integers(0, classes - 1))


@given(of=outputs())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_beam_that_keeps_all_finds_every_labelling_with_its_probability(of: tuple[np.ndarray, int]) -> None:
    probabilities, blank = of
    expected = {labels: p for labels, p in labellings(probabilities, blank).items() if p > 0}
    found = decoding.prefix_beam(probabilities, blank=blank, width=10_000)
    assert {labels for labels, _ in found} == set(expected) and len(found) == len(expected)
    for labels, log_probability in found:
        np.testing.assert_allclose(log_probability, np.log(expected[labels]), rtol=1e-9, atol=1e-9)
    assert all(first[1] >= second[1] for first, second in pairwise(found))
    assert expected[found[0][0]] >= max(expected.values()) * (1 - 1e-9)
    assert expected[found[0][0]] >= expected[decoding.greedy(probabilities, blank=blank)] * (1 - 1e-9)


@given(several=st.lists(outputs(), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_surprise_of_labels_sums_over_all_paths(several: list[tuple[np.ndarray, int]], seed: int) -> None:
    """Of sequences of any lengths together, and of each alone."""
    generator, classes = default_rng(seed), several[0][0].shape[1]
    blank = several[0][1]
    alike = [probabilities for probabilities, _ in several if probabilities.shape[1] == classes]
    others = [label for label in range(classes) if label != blank]
    labels = [tuple(generator.choice(others, generator.integers(0, 4)).tolist()) for _ in alike]
    found = decoding.surprises(alike, labels, blank)
    for one, probabilities, spelled in zip(found, alike, labels, strict=True):
        expected = labellings(np.maximum(probabilities, decoding.SMALLEST_PROBABILITY), blank).get(spelled, 0.0)
        np.testing.assert_allclose(np.exp(-one), expected, rtol=1e-9, atol=0)
        assert decoding.surprise(probabilities, spelled, blank) == one


@given(of=outputs(), width=st.integers(1, 6))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_narrow_beam_never_overstates_a_probability(of: tuple[np.ndarray, int], width: int) -> None:
    probabilities, blank = of
    true = labellings(probabilities, blank)
    found = decoding.prefix_beam(probabilities, blank=blank, width=width)
    assert 1 <= len(found) <= width
    assert len({labels for labels, _ in found}) == len(found)
    assert all(np.exp(log_probability) <= true[labels] * (1 + 1e-9) for labels, log_probability in found)
    assert all(first[1] >= second[1] for first, second in pairwise(found))


@given(of=outputs(most_steps=40, least=np.sqrt(0.5) + 1e-9))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_where_one_label_prevails_at_each_step_width_1_is_greedy(of: tuple[np.ndarray, int]) -> None:
    probabilities, blank = of
    ((labels, _),) = decoding.prefix_beam(probabilities, blank=blank, width=1)
    assert labels == decoding.greedy(probabilities, blank=blank)


def test_width_1_may_do_worse_than_greedy() -> None:
    """What a beam drops for good, the best path may need: with all prefixes kept, (2, 1) is found to be the best."""
    probabilities = np.array([[0.09, 0.33, 0.58], [0.06, 0.5, 0.44], [0.3, 0.45, 0.25]])
    true = labellings(probabilities, 0)
    ((narrow, _),) = decoding.prefix_beam(probabilities, blank=0, width=1)
    assert true[narrow] < true[decoding.greedy(probabilities, blank=0)]
    wide = decoding.prefix_beam(probabilities, blank=0, width=100)
    assert wide[0][0] == decoding.greedy(probabilities, blank=0) == (2, 1)


def test_the_sum_over_paths_beats_the_best_path() -> None:
    """The best path is two blanks, 0.36; three paths that spell one label have 0.64 together."""
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert decoding.greedy(probabilities, blank=0) == ()
    best, second = decoding.prefix_beam(probabilities, blank=0, width=2)
    assert best[0] == (1,) and second[0] == ()
    np.testing.assert_allclose(np.exp([best[1], second[1]]), [0.64, 0.36], rtol=1e-12)


def test_thousands_of_steps_do_not_vanish() -> None:
    probabilities = default_rng(0).dirichlet(np.ones(5), 5000)
    found = decoding.prefix_beam(probabilities.astype(np.float32), blank=0, width=3)
    assert len(found) == 3
    assert all(np.isfinite(log_probability) and log_probability < -1000 for _, log_probability in found)


@pytest.mark.parametrize("steps", range(5))
def test_needed_steps_are_those_of_the_shortest_path(steps: int) -> None:
    paths = {collapsed(path, 0) for path in product(range(3), repeat=steps)}
    for count in range(5):
        for labels in product((1, 2), repeat=count):
            assert (labels in paths) == (decoding.needed_steps(np.array(labels)) <= steps), labels


# Edits


def recursive(one: Labels, other: Labels) -> int:
    """Returns the edit distance by its definition."""
    if not one or not other:
        return len(one) + len(other)
    same = recursive(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, recursive(one[1:], other) + 1, recursive(one, other[1:]) + 1)


def follows(operations: list[tuple[int | None, int | None]], reference: Labels, hypothesis: Labels) -> bool:
    """Whether the edits, made in their order at some places, turn the reference into the hypothesis."""
    if (
        reference
        and hypothesis
        and reference[0] == hypothesis[0]
        and follows(operations, reference[1:], hypothesis[1:])
    ):
        return True
    if not operations:
        return not reference and not hypothesis
    (removed, added), rest = operations[0], operations[1:]
    if removed is not None and reference[:1] != (removed,):
        return False
    if added is not None and hypothesis[:1] != (added,):
        return False
    return follows(rest, reference[removed is not None :], hypothesis[added is not None :])


sequences = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(reference=sequences, hypothesis=sequences)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_edits_are_as_few_as_can_be_and_lead_there(reference: Labels, hypothesis: Labels) -> None:
    operations = decoding.edit_operations(reference, hypothesis)
    assert len(operations) == recursive(reference, hypothesis)
    assert all(removed != added for removed, added in operations)
    assert follows(operations, reference, hypothesis)


def test_edits_say_what_became_what() -> None:
    operations = decoding.edit_operations((1, 2, 3, 4), (1, 5, 3, 4, 4))
    assert Counter(operations) == {(2, 5): 1, (None, 4): 1}
    assert decoding.edit_operations((7, 8), ()) == [(7, None), (8, None)]
    assert decoding.edit_operations((), (7, 8)) == [(None, 7), (None, 8)]


def test_rates_count_labels_and_sequences() -> None:
    references, hypotheses = [(1, 2, 3), (4,), ()], [(1, 3), (4,), (5, 5)]
    assert decoding.label_error_rate(references, hypotheses) == pytest.approx(3 / 4)
    assert decoding.sequence_error_rate(references, hypotheses) == pytest.approx(2 / 3)
