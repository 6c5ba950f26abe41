"""The CTC loss is the sum over all paths, and PyTorch's; what is watched on the device is what the host computes."""

from collections import defaultdict
from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from jaxrnn import ctc, decoding

# Kernels that LLVM does not optimise compute the same and compile in half the time.
QUICK = {"xla_backend_optimization_level": 0}
torch.set_num_threads(1)


class Batch:
    """Rows of every kind: ragged, of one step, without labels, filling, and with labels that don't fit."""

    def __init__(self, blank: int, classes: int = 4, steps: int = 9, positions: int = 4, seed: int = 0) -> None:
        generator = default_rng(seed)
        one, two = [label for label in range(classes) if label != blank][:2]
        spelled = [(one, two, one), (one, one), (two, two, two), (), (two,), (one,), (), (one, one), (one, two)]
        self.lengths = np.array([9, 7, 5, 4, 3, 1, 0, 2, 1], dtype=np.int32)
        self.label_lengths = np.array([len(labels) for labels in spelled], dtype=np.int32)
        self.labels = np.full((len(spelled), positions), -1, dtype=np.int32)
        for row, labels in enumerate(spelled):
            self.labels[row, : len(labels)] = labels
        self.logits = generator.normal(0, 2, (len(spelled), steps, classes))
        self.blank = blank
        self.filling = self.lengths == 0
        needed = np.array([decoding.needed_steps(np.array(labels)) for labels in spelled])
        self.impossible = ~self.filling & (needed > self.lengths)
        self.possible = ~self.filling & ~self.impossible


@cache
def compiled(blank: int) -> Any:
    def total(logits: jax.Array, weights: jax.Array, *of: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = ctc.ctc(logits, *of, blank=blank)
        # an infinite loss in the sum leaves the others' gradients as they are
        return (weights * each).sum(), each

    return jax.jit(jax.grad(total, has_aux=True), compiler_options=QUICK)


def loss(
    logits: np.ndarray, lengths: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray, blank: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses [batch], and the gradient of their sum weighted with 1, 2, 3, ..."""
    weights = np.arange(1, len(logits) + 1).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        slope, each = compiled(blank)(logits.astype(dtype), weights, lengths, labels, label_lengths)
        assert slope.dtype == each.dtype == dtype
        return np.asarray(each), np.asarray(slope)


def torch_loss(
    logits: np.ndarray, lengths: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray, blank: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    leaf = torch.tensor(logits.astype(dtype), requires_grad=True)
    each = torch.nn.functional.ctc_loss(
        torch.log_softmax(leaf, dim=2).transpose(0, 1),
        torch.tensor(np.maximum(labels, 0)).long(),
        torch.tensor(lengths).long(),
        torch.tensor(label_lengths).long(),
        blank=blank,
        reduction="none",
    )
    (each * torch.arange(1, len(logits) + 1)).sum().backward()
    assert leaf.grad is not None
    return each.detach().numpy(), leaf.grad.numpy()


def labellings(probabilities: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """Returns the probability of every label sequence, summed over all paths one by one."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(probabilities.shape[1]), repeat=len(probabilities)):
        spelled = [label for place, label in enumerate(path) if place == 0 or label != path[place - 1]]
        weight = float(np.prod(probabilities[np.arange(len(path)), list(path)]))
        found[tuple(label for label in spelled if label != blank)] += weight
    return found


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_the_sum_over_all_paths(blank: int) -> None:
    steps, classes, generator = 5, 3, default_rng(1)
    logits = generator.normal(0, 2, (steps + 1, steps, classes))
    others = [label for label in range(classes) if label != blank]
    every = [labels for count in range(4) for labels in product(others, repeat=count)]
    lengths = np.arange(steps + 1, dtype=np.int32)
    for labels in every:
        padded = np.tile(np.array([*labels, *[-1] * (3 - len(labels))], dtype=np.int32), (steps + 1, 1))
        counts = np.full(steps + 1, len(labels), dtype=np.int32)
        found, _ = loss(logits, lengths, padded, counts, blank, np.float64)
        assert found[0] == 0
        for length in range(1, steps + 1):
            probabilities = np.exp(torch.log_softmax(torch.tensor(logits[length, :length]), dim=1).numpy())
            expected = labellings(probabilities, blank).get(labels, 0.0)
            np.testing.assert_allclose(np.exp(-found[length]), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
@pytest.mark.parametrize("blank", [0, 1, 3])
def test_the_loss_and_its_gradient_are_pytorchs(blank: int, dtype: Any, tolerance: float) -> None:
    batch = Batch(blank)
    of = batch.lengths, batch.labels, batch.label_lengths
    found, slope = loss(batch.logits, *of, blank, dtype)
    each, expected = torch_loss(batch.logits, *of, blank, dtype)
    rows = batch.possible
    np.testing.assert_allclose(found[rows], each[rows], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slope[rows], expected[rows], rtol=tolerance, atol=10 * tolerance)
    beyond = np.arange(slope.shape[1])[None, :] >= batch.lengths[:, None]
    assert (slope[beyond] == 0).all()


def test_filling_and_what_does_not_fit_have_no_gradient() -> None:
    batch = Batch(0)
    found, slope = loss(batch.logits, batch.lengths, batch.labels, batch.label_lengths, 0, np.float32)
    assert batch.filling.sum() == 1 and batch.impossible.sum() == 2
    assert (found[batch.filling] == 0).all()
    assert (found[batch.impossible] == np.inf).all()
    assert np.isfinite(found[batch.possible]).all()
    assert (slope[~batch.possible] == 0).all()
    assert all(slope[row].any() for row in np.flatnonzero(batch.possible))


def test_filling_may_hold_labels() -> None:
    batch = Batch(0)
    found, slope = loss(batch.logits, np.zeros_like(batch.lengths), batch.labels, batch.label_lengths, 0, np.float32)
    assert (found == 0).all() and (slope == 0).all()


@pytest.mark.parametrize("garbage", [1e30, np.nan, np.inf])
def test_padding_changes_no_bit(garbage: float) -> None:
    batch = Batch(0)
    clean = loss(batch.logits, batch.lengths, batch.labels, batch.label_lengths, 0, np.float32)
    beyond = np.arange(batch.logits.shape[1])[None, :] >= batch.lengths[:, None]
    logits = np.where(beyond[:, :, None], garbage, batch.logits)
    unused = np.arange(batch.labels.shape[1])[None, :] >= batch.label_lengths[:, None]
    for filler in (0, 1, 99):
        labels = np.where(unused, filler, batch.labels).astype(np.int32)
        disturbed = loss(logits, batch.lengths, labels, batch.label_lengths, 0, np.float32)
        for actual, desired in zip(disturbed, clean, strict=True):
            np.testing.assert_array_equal(actual, desired)


def test_longer_padding_and_another_order_change_nothing() -> None:
    batch = Batch(0)
    clean, slope = loss(batch.logits, batch.lengths, batch.labels, batch.label_lengths, 0, np.float64)
    longer = np.pad(batch.logits, ((0, 0), (0, 13), (0, 0)), constant_values=7.0)
    labels = np.pad(batch.labels, ((0, 0), (0, 5)), constant_values=3)
    found, slope_of_longer = loss(longer, batch.lengths, labels, batch.label_lengths, 0, np.float64)
    np.testing.assert_allclose(found, clean, rtol=1e-12)
    np.testing.assert_allclose(slope_of_longer[:, : slope.shape[1]], slope, rtol=1e-9, atol=1e-12)
    order = default_rng(0).permutation(len(clean))
    moved = batch.logits[order], batch.lengths[order], batch.labels[order], batch.label_lengths[order]
    np.testing.assert_allclose(loss(*moved, 0, np.float64)[0], clean[order], rtol=1e-12)


def test_a_pack_of_trials_is_each_of_them() -> None:
    batch = Batch(0)
    of = batch.lengths, batch.labels, batch.label_lengths
    logits = np.stack([batch.logits, 2 * batch.logits, -batch.logits]).astype(np.float32)
    pack = jax.jit(jax.vmap(lambda logits: ctc.ctc(logits, *map(jnp.asarray, of), blank=0)), compiler_options=QUICK)
    alone = [loss(each, *of, 0, np.float32)[0] for each in logits]
    np.testing.assert_allclose(pack(logits), alone, rtol=1e-5, atol=1e-5)


def test_5000_steps_keep_their_digits_in_float32() -> None:
    """PyTorch's own float32 gradient is off by 0.03 here: it lets log p grow to thousands."""
    steps, classes, generator = 5000, 11, default_rng(3)
    lengths = np.array([steps, 1, 4200], dtype=np.int32)
    label_lengths = np.array([100, 1, 7], dtype=np.int32)
    labels = generator.integers(1, classes, (3, 100)).astype(np.int32)
    logits = generator.normal(0, 2, (3, steps, classes))
    of = lengths, labels, label_lengths
    found, slope = loss(logits, *of, 0, np.float32)
    each, expected = torch_loss(logits, *of, 0, np.float64)
    np.testing.assert_allclose(found, each, rtol=2e-6)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, expected, atol=2e-3)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_confident_logits_leave_the_gradient_finite(scale: float) -> None:
    batch = Batch(0)
    found, slope = loss(batch.logits * scale, batch.lengths, batch.labels, batch.label_lengths, 0, np.float32)
    assert np.isfinite(found[batch.possible]).all()
    assert np.isfinite(slope).all()


# What training watches

ROWS, STEPS, CLASSES, POSITIONS = 24, 12, 4, 5
best_path = jax.jit(ctc.greedy, static_argnames="blank", compiler_options=QUICK)
distance = jax.jit(ctc.edit_distance, compiler_options=QUICK)


@given(seed=st.integers(0, 2**32 - 1), blank=st.integers(0, CLASSES - 1))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_best_path_is_the_hosts(seed: int, blank: int) -> None:
    generator = default_rng(seed)
    # few values: labels repeat and tie
    logits = generator.integers(0, 3, (ROWS, STEPS, CLASSES)).astype(np.float32)
    lengths = generator.integers(0, STEPS + 1, ROWS).astype(np.int32)
    labels, counts = map(np.asarray, best_path(logits, lengths, blank=blank))
    assert labels.shape == (ROWS, STEPS)
    for row in range(ROWS):
        expected = decoding.greedy(logits[row, : lengths[row]], blank=blank)
        assert tuple(labels[row, : counts[row]]) == expected
        assert (labels[row, counts[row] :] == -1).all()


def recursive(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Returns the edit distance by its definition."""
    if not one or not other:
        return len(one) + len(other)
    same = recursive(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, recursive(one[1:], other) + 1, recursive(one, other[1:]) + 1)


sequences = st.lists(st.integers(0, 2), max_size=POSITIONS).map(tuple)


@given(pairs=st.lists(st.tuples(sequences, sequences), min_size=1, max_size=ROWS), garbage=st.integers(-1, 2))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_distances_and_rates_are_the_definitions(pairs: Any, garbage: int) -> None:
    references = np.full((ROWS, POSITIONS), garbage, dtype=np.int32)
    hypotheses = np.full((ROWS, POSITIONS + 2), garbage, dtype=np.int32)
    lengths = np.zeros((2, ROWS), dtype=np.int32)
    for row, (reference, hypothesis) in enumerate(pairs):
        references[row, : len(reference)], hypotheses[row, : len(hypothesis)] = reference, hypothesis
        lengths[:, row] = len(reference), len(hypothesis)
    found = np.array(distance(references, lengths[0], hypotheses, lengths[1]))
    np.testing.assert_array_equal(found[: len(pairs)], [recursive(*pair) for pair in pairs])
    valid = np.arange(ROWS) < len(pairs)
    found[~valid] = 1000
    truths, guesses = zip(*pairs, strict=True)
    distances, counted = jnp.asarray(found), jnp.asarray(valid)
    rates = (
        ctc.label_error_rate(distances, jnp.asarray(lengths[0]), counted),
        ctc.sequence_error_rate(distances, counted),
    )
    expected = decoding.label_error_rate(truths, guesses), decoding.sequence_error_rate(truths, guesses)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
