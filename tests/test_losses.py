"""The loss is its formula, with PyTorch's gradient, smoothed, focused and of one output alike; class weights weigh what
they are said to."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import special
from sklearn.metrics import log_loss

from jaxrnn import losses

OBJECTS, CLASSES = 200, 4
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])


def drawn(seed: int = 0, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [object, class] and labels [object]."""
    generator = default_rng(seed)
    return generator.normal(0, scale, (OBJECTS, CLASSES)), generator.integers(0, CLASSES, OBJECTS).astype(np.int32)


@jax.jit
def evaluated(
    outputs: jax.Array, labels: jax.Array, weights: jax.Array, gamma: jax.Array, smoothing: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns each object's loss and their sum's gradient; numbers are traced, as in a pack whose trials differ in
    them."""

    def total(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = losses.class_logits(outputs)
        each = losses.focal(logits, labels, class_weights=weights, gamma=gamma, label_smoothing=smoothing)
        return each.sum(), each

    slope, each = jax.grad(total, has_aux=True)(outputs)
    return each, slope


def focal(
    outputs: np.ndarray,
    labels: np.ndarray,
    gamma: float,
    weights: np.ndarray = WEIGHTS,
    dtype: Any = np.float64,
    smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(dtype == np.float64):
        numbers = [np.asarray(number, dtype) for number in (weights, gamma, smoothing)]
        found = evaluated(outputs.astype(dtype), labels, *numbers)  # pyright: ignore
        assert all(values.dtype == dtype for values in found)
        return np.asarray(found[0]), np.asarray(found[1])


def differentiated(each: torch.Tensor, leaf: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns PyTorch's losses and their sum's gradient."""
    each.sum().backward()
    assert leaf.grad is not None
    return each.detach().numpy(), leaf.grad.numpy()


def assert_close(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-9)


def test_gamma_0_is_the_weighted_cross_entropy() -> None:
    logits, labels = drawn()
    found, _ = focal(logits, labels, 0.0)
    truth = torch.tensor(labels).long()
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), truth, torch.tensor(WEIGHTS), reduction="none")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    probabilities = torch.softmax(torch.tensor(logits), dim=1).numpy()
    weighted_mean = found.sum() / WEIGHTS[labels].sum()
    assert weighted_mean == pytest.approx(log_loss(labels, probabilities, sample_weight=WEIGHTS[labels]), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 10.0])
def test_the_loss_and_its_gradient_are_the_formula(gamma: float) -> None:
    """-w_c (1 - p_t)^gamma log p_t, differentiated by PyTorch."""
    logits, labels = drawn(seed=1)
    leaf = torch.tensor(logits, requires_grad=True)
    own = torch.softmax(leaf, dim=1)[torch.arange(OBJECTS), torch.tensor(labels).long()]
    expected = -torch.tensor(WEIGHTS[labels]) * (1 - own) ** gamma * torch.log(own)
    assert_close(focal(logits, labels, gamma), differentiated(expected, leaf))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_are_pytorchs(smoothing: float) -> None:
    logits, labels = drawn(seed=4)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=smoothing, reduction="none")
    expected = differentiated(loss(leaf, torch.tensor(labels).long()), leaf)
    assert_close(focal(logits, labels, 0.0, smoothing=smoothing), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_weights_focus_and_smoothing_are_one_formula(gamma: float) -> None:
    """Every class's term of the smoothed cross-entropy has its own weight and focus, differentiated by PyTorch."""
    logits, labels = drawn(seed=5)
    leaf = torch.tensor(logits, requires_grad=True)
    shares = torch.softmax(leaf, dim=1)
    smoothed = 0.8 * torch.eye(CLASSES, dtype=torch.float64)[torch.tensor(labels).long()] + 0.2 / CLASSES
    terms = torch.tensor(WEIGHTS) * smoothed * (1 - shares) ** gamma * torch.log(shares)
    assert_close(focal(logits, labels, gamma, smoothing=0.2), differentiated(-terms.sum(dim=1), leaf))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_one_output_is_the_binary_cross_entropy(gamma: float, smoothing: float) -> None:
    generator = default_rng(6)
    scores, labels = generator.normal(0, 3, OBJECTS), generator.integers(0, 2, OBJECTS).astype(np.int32)
    weights = np.array([0.5, 2.0])
    found = focal(scores[:, None], labels, gamma, weights, smoothing=smoothing)
    leaf = torch.tensor(scores, requires_grad=True)
    smoothed = torch.tensor(labels, dtype=torch.float64) * (1 - smoothing) + smoothing / 2
    terms = [
        weight * share * torch.nn.functional.binary_cross_entropy_with_logits(leaf, truth, reduction="none")
        * torch.sigmoid(sign * leaf) ** gamma
        for weight, share, truth, sign in (
            (0.5, 1 - smoothed, torch.zeros_like(leaf), 1), (2.0, smoothed, torch.ones_like(leaf), -1)
        )
    ]  # fmt: skip
    each, slope = differentiated(terms[0] + terms[1], leaf)
    assert_close(found, (each, slope[:, None]))
    # and that of two outputs, of which the first stays 0
    both = focal(np.stack([np.zeros(OBJECTS), scores], axis=1), labels, gamma, weights, smoothing=smoothing)
    assert_close((found[0], found[1][:, 0]), (both[0], both[1][:, 1]))


def test_the_plain_binary_loss_is_pytorchs() -> None:
    generator = default_rng(7)
    scores, labels = generator.normal(0, 5, OBJECTS), generator.integers(0, 2, OBJECTS).astype(np.int32)
    leaf = torch.tensor(scores, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    each, slope = differentiated(loss(leaf, torch.tensor(labels, dtype=torch.float64), reduction="none"), leaf)
    assert_close(focal(scores[:, None], labels, 0.0, np.ones(2)), (each, slope[:, None]))
    with jax.enable_x64(True):
        shares = jax.nn.softmax(losses.class_logits(scores[:, None]))  # pyright: ignore
    np.testing.assert_allclose(shares[:, 1], special.expit(scores), rtol=1e-12)


def test_labels_of_every_step_are_as_labels_of_objects() -> None:
    logits, labels = drawn(seed=8)
    whole = focal(logits, labels, 1.5, smoothing=0.1)
    by_step = focal(logits.reshape(20, 10, CLASSES), labels.reshape(20, 10), 1.5, smoothing=0.1)
    assert by_step[0].shape == (20, 10)
    np.testing.assert_array_equal(by_step[0].ravel(), whole[0])
    np.testing.assert_array_equal(by_step[1].reshape(OBJECTS, CLASSES), whole[1])


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_makes_a_smoothed_loss_or_its_gradient_infinite(gamma: float, smoothing: float) -> None:
    margins = np.array([-1e30, -1e4, -100, -20, -16, -8, 0, 8, 15, 16, 17, 18, 20, 100, 1e4, 1e30])
    logits = np.concatenate([margins[:, None], np.zeros((len(margins), CLASSES - 1))], axis=1)
    for own in range(CLASSES):
        labels = np.full(len(margins), own, dtype=np.int32)
        found = focal(logits, labels, gamma, dtype=np.float32, smoothing=smoothing)
        assert all(np.isfinite(values).all() for values in found)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_no_probability_makes_the_loss_or_its_gradient_infinite(gamma: float) -> None:
    """The margin is the own class's logit less the others': p_t goes from 0 to 1 as float32 has them."""
    margins = np.array([-1e30, -1e4, -100, -20, 0, 10, 15, 16, 17, 18, 20, 100, 1e4, 1e30])
    logits = np.concatenate([margins[:, None], np.zeros((len(margins), CLASSES - 1))], axis=1)
    loss, slope = focal(logits, np.zeros(len(margins), dtype=np.int32), gamma, dtype=np.float32)
    assert np.isfinite(loss).all()
    assert np.isfinite(slope).all()
    assert (loss >= 0).all()
    # more of the own class's logit never costs more, but for the rounding of sums near p_t = 1
    assert (slope[:, 0] <= 1e-6).all()
    hopeless = margins < -10
    np.testing.assert_allclose(loss[hopeless], -WEIGHTS[0] * (margins[hopeless] - np.log(3)), rtol=1e-5)
    np.testing.assert_allclose(slope[hopeless, 0], -WEIGHTS[0], rtol=1e-5)


def test_focusing_lessens_what_is_well_classified_most() -> None:
    logits, labels = drawn(seed=2)
    plain, focused, sharper = (focal(logits, labels, gamma, np.ones(CLASSES))[0] for gamma in (0.0, 1.0, 2.0))
    assert (sharper <= focused).all()
    assert (focused <= plain).all()
    # the share that is left is (1 - p_t)^gamma: it falls as p_t rises, that is as the plain loss falls
    order = np.argsort(plain)
    assert (np.diff((focused / plain)[order]) >= -1e-6).all()


@given(counts=st.lists(st.integers(1, 10**6), min_size=2, max_size=20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_balanced_weights_make_classes_weigh_alike(counts: list[int]) -> None:
    n = np.array(counts)
    weights = losses.class_weights("balanced", n)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [sum(counts) / (len(counts) * count) for count in counts], rtol=1e-6)
    # every class's objects weigh as much together, and the mean weight of all objects is 1
    np.testing.assert_allclose(weights * n, np.full(len(n), n.sum() / len(n)), rtol=1e-6)
    assert (weights.astype(np.float64) * n).sum() / n.sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_array_equal(losses.class_weights("none", n), np.ones(len(n), dtype=np.float32))


@given(counts=st.lists(st.integers(1, 10**6), min_size=2, max_size=20), beta=st.floats(0, 0.999999))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_effective_weights_are_the_class_balanced_ones(counts: list[int], beta: float) -> None:
    n = np.array(counts)
    weights = losses.class_weights("effective", n, beta=beta)
    assert weights.dtype == np.float32
    plain = np.array([(1 - beta) / (1 - beta**count) for count in counts])
    np.testing.assert_allclose(weights, plain / plain.mean(), rtol=1e-6)
    assert weights.astype(np.float64).mean() == pytest.approx(1, rel=1e-6)
    # the rarer, the heavier
    assert (np.diff(weights[np.argsort(n, kind="stable")]) <= 0).all()


def test_effective_weights_lie_between_equal_and_balanced_ones() -> None:
    n = np.array([5, 50, 5000])
    np.testing.assert_array_equal(losses.class_weights("effective", n, beta=0.0), np.ones(3))
    np.testing.assert_allclose(losses.class_weights("effective", n, beta=1e-6), np.ones(3), atol=1e-5)
    balanced = losses.class_weights("balanced", n)
    limit = losses.class_weights("effective", n, beta=1 - 1e-10)
    np.testing.assert_allclose(limit, balanced / balanced.mean(), rtol=1e-5)
    spread = [np.ptp(losses.class_weights("effective", n, beta=beta)) for beta in (0.0, 0.9, 0.99, 0.999, 0.99999)]
    assert spread == sorted(spread)
