"""The recurrence and its own backward pass: equal to autodiff of the plain scan, in any pack, at any mask."""

import re
from collections.abc import Callable
from pathlib import Path
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


# a shape is compiled once, however many values it is tried with
compiled = jax.jit(gradients, static_argnums=(0, 1))
SHAPES = [(1, 1, 1), (6, 4, 4), (5, 3, 1), (2, 1, 4), (3, 4, 2)]  # steps, units, batch


@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from(SHAPES), dropped=st.booleans())
@settings(max_examples=30, deadline=None)
def test_gradients_are_those_of_autodiff_through_the_plain_scan(
    cell: str, seed: int, shape: tuple[int, int, int], dropped: bool
) -> None:
    with jax.enable_x64():
        values = drawn(cell, seed, *shape, dropped=dropped)
        for ours, theirs in zip(
            jax.tree.leaves(compiled(recur, cell, values)),
            jax.tree.leaves(compiled(turned, cell, values)),
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


UNITS, BATCH, STEPS = 25, 32, 40
ARITHMETIC = r"= (?:contract |fast |reassoc |nsz |nnan |ninf |arcp |afn )*f(?:add|mul|sub|div|neg) (?:\w+ )*"
MOST_SCALAR = 3  # operations for each number that a kernel stores


def scalar_kernels(gradient: Callable[..., Any], arguments: Any, folder: Path) -> dict[str, float]:
    """Returns how many operations for each number stored the kernels have that XLA compiled without vectors."""
    # compiled here and now, and found in no cache, for no other program has this number
    number = np.random.default_rng().uniform(1, 2)
    lowered = jax.jit(lambda *values: jax.tree.map(lambda leaf: leaf * number, gradient(*values))).lower(*arguments)
    lowered.compile(compiler_options={"xla_dump_to": str(folder)})
    found, seen = {}, 0
    for path in folder.glob("*ir-with-opt.ll"):
        for kernel in re.finditer(r"define [^{]*@([\w.\-]+)\([^{]*\{(.*?)\n\}", path.read_text(), re.DOTALL):
            name, body = kernel.groups()
            scalar, vector = (len(re.findall(ARITHMETIC + kind, body)) for kind in ("float ", r"<\d+ x float>"))
            stores = len(re.findall(r"store float ", body))
            seen += scalar + vector > 0
            if scalar and not vector:
                found[name] = scalar / max(stores, 1)
    assert seen > 4, f"{seen} kernels: XLA no longer writes what this test reads"
    return found


@pytest.mark.parametrize("cell", CELLS)
def test_the_compiled_steps_are_no_scalar_code(cell: str, tmp_path: Path) -> None:
    """Forward and backward, for units that no vector's width divides."""
    gates = tuple(jnp.ones((STEPS, UNITS, BATCH)) for _ in range(GATES[cell]))
    kernel, bias = jnp.ones((UNITS, GATES[cell] * UNITS)) / 100, jnp.zeros(UNITS) if cell == "gru" else None

    def loss(gates: Any, kernel: Any) -> Any:
        return (recur(cell, gates, kernel, bias, jnp.full(BATCH, STEPS))[0] ** 2).sum()

    found = scalar_kernels(jax.grad(loss, argnums=(0, 1)), (gates, kernel), tmp_path)
    assert all(each <= MOST_SCALAR for each in found.values()), found


def test_gates_cut_from_one_array_within_the_loop_are_scalar_code(tmp_path: Path) -> None:
    """What the other test guards against: were it not seen here, it would not be seen there."""
    gates, kernel = jnp.ones((STEPS, BATCH, 3 * UNITS)), jnp.ones((UNITS, 3 * UNITS)) / 100

    def loss(gates: Any, kernel: Any) -> Any:
        def step(state: Any, inputs: Any) -> Any:
            recurred = state @ kernel
            cut = [[whole[:, gate * UNITS : (gate + 1) * UNITS] for gate in range(3)] for whole in (inputs, recurred)]
            state = recurrence.CELLS["gru"].step((state,), *cut)[0][0]
            return state, state

        return (jax.lax.scan(step, jnp.zeros((BATCH, UNITS)), gates)[1] ** 2).sum()

    found = scalar_kernels(jax.grad(loss, argnums=(0, 1)), (gates, kernel), tmp_path)
    assert any(each > MOST_SCALAR for each in found.values()), found
