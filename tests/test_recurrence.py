"""The recurrence and its own backward pass: equal to autodiff of the plain scan, in any pack, at any mask."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import recurrence
from jaxrnn.blueprint import GATES
from jaxrnn.recurrence import recur, scanned

CELLS = tuple(GATES)


def drawn(cell: str, seed: int, steps: int, units: int, batch: int, *, dropped: bool, dtype: Any = np.float64) -> Any:
    generator = np.random.default_rng(seed)
    gates = tuple(generator.normal(size=(steps, units, batch)).astype(dtype) for _ in range(GATES[cell]))
    kernel = (generator.normal(size=(units, GATES[cell] * units)) / np.sqrt(units)).astype(dtype)
    bias = generator.normal(size=units).astype(dtype) if cell == "gru" else None
    lengths = generator.integers(0, steps + 1, batch)
    kept = (2.0 * (generator.random((units, batch)) < 0.5)).astype(dtype) if dropped else None
    return gates, kernel, bias, lengths, kept


def turned(cell: str, gates: Any, kernel: Any, bias: Any, lengths: Any, kept: Any) -> tuple[jax.Array, jax.Array]:
    """Returns what `scanned` gives, in the layout of `recur`."""
    rows = tuple(jnp.swapaxes(gate, 1, 2) for gate in gates)
    states, last = scanned(cell, rows, kernel, bias, lengths, None if kept is None else kept.T)
    return jnp.swapaxes(states, 1, 2), last.T


def gradients(function: Any, cell: str, values: Any) -> Any:
    """Returns states, the last ones, and the gradients of a sum that every state has a share in."""
    gates, kernel, bias, lengths, kept = values

    def total(gates: Any, kernel: Any, bias: Any) -> Any:
        states, last = function(cell, gates, kernel, bias, lengths, kept)
        shares = jnp.cos(jnp.arange(states.size)).reshape(states.shape)
        return (shares * states).sum() + jnp.square(last).sum(), (states, last)

    found, seen = jax.grad(total, argnums=(0, 1) if bias is None else (0, 1, 2), has_aux=True)(gates, kernel, bias)
    return seen, found


@pytest.mark.parametrize("cell", CELLS)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 6),
    units=st.integers(1, 4),
    batch=st.integers(1, 4),
    dropped=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_gradients_are_those_of_autodiff_through_the_plain_scan(
    cell: str, seed: int, steps: int, units: int, batch: int, dropped: bool
) -> None:
    with jax.enable_x64():
        values = drawn(cell, seed, steps, units, batch, dropped=dropped)
        for ours, theirs in zip(
            jax.tree.leaves(gradients(recur, cell, values)),
            jax.tree.leaves(gradients(turned, cell, values)),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_wide_kernels_have_the_same_gradient(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64():
        values = drawn(cell, 1, 7, 5, 3, dropped=True)
        narrow = gradients(recur, cell, values)
        monkeypatch.setattr(recurrence, "WIDEST_BY_STEP", 4)
        wide = gradients(recur, cell, values)
    for one, other in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_what_lies_beyond_a_length_has_no_gradient_and_gives_none(cell: str) -> None:
    values = drawn(cell, 2, 9, 4, 6, dropped=False, dtype=np.float32)
    gates, kernel, bias, lengths, kept = values
    beyond = np.arange(9)[:, None, None] >= lengths
    filled = tuple(np.where(beyond, np.float32(1e30), gate) for gate in gates)
    clean, full = (gradients(recur, cell, (of, kernel, bias, lengths, kept)) for of in (gates, filled))
    for one, other in zip(jax.tree.leaves(clean), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(one, other)
    for gradient in full[1][0]:
        assert not np.any(np.asarray(gradient)[np.broadcast_to(beyond, gradient.shape)])


@pytest.mark.parametrize("cell", CELLS)
def test_a_pack_is_its_trials(cell: str) -> None:
    values = drawn(cell, 3, 8, 5, 4, dropped=True, dtype=np.float32)
    kernels = jnp.stack([values[1], 2 * values[1], -values[1]])
    pack = jax.vmap(lambda kernel: gradients(recur, cell, (values[0], kernel, *values[2:])))(kernels)
    for index, kernel in enumerate(kernels):
        alone = gradients(recur, cell, (values[0], kernel, *values[2:]))
        for one, other in zip(jax.tree.leaves(pack), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=2e-5, atol=2e-6)
