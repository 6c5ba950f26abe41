"""The focal loss is its formula, with PyTorch's gradient; its class weights are 1 on average."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
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
    logits: jax.Array, labels: jax.Array, weights: jax.Array, gamma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns each object's loss and their sum's gradient; gamma is traced, as in a pack whose trials differ in it."""

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = losses.focal(logits, labels, class_weights=weights, gamma=gamma)
        return each.sum(), each

    slope, each = jax.grad(total, has_aux=True)(logits)
    return each, slope


def focal(
    logits: np.ndarray, labels: np.ndarray, gamma: float, weights: np.ndarray = WEIGHTS, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(dtype == np.float64):
        found = evaluated(logits.astype(dtype), labels, weights.astype(dtype), np.asarray(gamma, dtype))  # pyright: ignore
        assert all(values.dtype == dtype for values in found)
        return np.asarray(found[0]), np.asarray(found[1])


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
    found, slope = focal(logits, labels, gamma)
    leaf = torch.tensor(logits, requires_grad=True)
    own = torch.softmax(leaf, dim=1)[torch.arange(OBJECTS), torch.tensor(labels).long()]
    expected = -torch.tensor(WEIGHTS[labels]) * (1 - own) ** gamma * torch.log(own)
    expected.sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9)
    np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-7, atol=1e-10)


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
