"""The recurrent layers' own kernel: equal to autodiff of the plain scan, row by row the same whatever lies beside."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import native
from jaxrnn.blueprint import GATES
from jaxrnn.layers import Recurrent, reversed_valid
from jaxrnn.recurrence import scanned

CELLS = tuple(GATES)
KERNEL = re.compile(r"None\nkernel \(\d+ threads\)\n")
pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True, scope="module")
def kernel() -> None:
    if reason := native.absent():
        pytest.skip(f"no kernel: {reason}")


def drawn(cell: str, seed: int, steps: int, inputs: int, units: int, batch: int, *, dropped: bool = False) -> Any:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    lengths = generator.integers(0, steps + 1, batch)
    values = jnp.where(np.arange(steps)[:, None] < lengths[:, None, None], normal(batch, steps, inputs), 0)
    kernel = normal(inputs + units, GATES[cell] * units) / np.sqrt(units + inputs)
    candidate_bias = normal(units) if cell == "gru" else None
    kept = jnp.asarray(2.0 * (generator.random((batch, units)) < 0.5), jnp.float32) if dropped else None
    return values, kernel, normal(GATES[cell] * units), candidate_bias, jnp.asarray(lengths), kept


def plain(
    cell: str, inputs: Any, kernel: Any, bias: Any, candidate_bias: Any, lengths: Any, kept: Any, *, reverse: bool
) -> Any:
    """Returns what the kernel gives, by a scan that autodiff goes through."""
    rows, features = reversed_valid(inputs, lengths) if reverse else inputs, inputs.shape[2]
    gates = jnp.split(jnp.einsum("bti,iu->tbu", rows, kernel[:features]) + bias, GATES[cell], axis=-1)
    states, last = scanned(cell, tuple(gates), kernel[features:], candidate_bias, lengths, kept)
    states = states.transpose(1, 0, 2)
    return reversed_valid(states, lengths) if reverse else states, last


def gradients(function: Any, cell: str, values: Any, *, reverse: bool = False) -> Any:
    """Returns states, the last ones, and the gradients of a sum that every state has a share in."""
    *differentiated, lengths, kept = values

    def total(*differentiated: Any) -> Any:
        states, last = function(cell, *differentiated, lengths, kept, reverse=reverse)
        shares = jnp.cos(jnp.arange(states.size)).reshape(states.shape)
        return (shares * states).sum() + jnp.square(last).sum(), (states, last)

    chosen = tuple(place for place, value in enumerate(differentiated) if value is not None)
    found, seen = jax.grad(total, argnums=chosen, has_aux=True)(*differentiated)
    return jax.tree.leaves((seen, found))


@pytest.mark.parametrize("cell", CELLS)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 7),
    inputs=st.integers(1, 18),
    units=st.integers(1, 35),
    batch=st.integers(1, 150),
    dropped=st.booleans(),
    reverse=st.booleans(),
)
@settings(max_examples=6, deadline=None)
def test_values_and_gradients_are_those_of_the_plain_scan(
    cell: str, seed: int, steps: int, inputs: int, units: int, batch: int, dropped: bool, reverse: bool
) -> None:
    values = drawn(cell, seed, steps, inputs, units, batch, dropped=dropped)
    # one program of each is compiled, and not one for each operation
    compiled = jax.jit(gradients, static_argnums=(0, 1), static_argnames="reverse")
    ours, theirs = (compiled(function, cell, values, reverse=reverse) for function in (native.layer, plain))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(1, float(jnp.abs(other).max())))


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_is_the_same_bits_in_any_batch_on_any_number_of_threads(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So in tiles of one, two and four vectors, full ones and others."""
    inputs, kernel, bias, candidate_bias, lengths, _ = drawn(cell, 1, 9, 3, 13, 150)
    found = []
    for threads, rows in ((1, 150), (2, 150), (7, 150), (64, 150), (1, 3), (2, 33)):
        monkeypatch.setattr(native, "threads", lambda threads=threads: threads)
        few = lengths[:rows]

        def states_of(inputs: Any, lengths: Any = few) -> Any:
            return native.layer(cell, inputs, kernel, bias, candidate_bias, lengths)

        (states, last), pull = jax.vjp(states_of, inputs[:rows])
        (slopes,) = pull((states, last))
        found.append([np.asarray(each[:3]) for each in (states, last, slopes)])
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_beyond_a_length_changes_nothing(cell: str, reverse: bool) -> None:
    inputs, *others = drawn(cell, 2, 9, 3, 4, 40)
    beyond = np.arange(9)[:, None] >= np.asarray(others[3])[:, None, None]
    clean, full = (
        gradients(native.layer, cell, (given, *others), reverse=reverse)
        for given in (inputs, jnp.where(beyond, 1e30, inputs))
    )
    for one, other in zip(clean, full, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.any(np.asarray(full[2])[np.broadcast_to(beyond, inputs.shape)])


def test_a_number_that_is_none_stays_so_and_in_its_row() -> None:
    inputs, *others = drawn("lstm", 3, 5, 2, 6, 20)
    others[3] = jnp.full(20, 5)
    states, _ = native.layer("lstm", inputs.at[7, 2, 0].set(jnp.nan), *others)
    clean, _ = native.layer("lstm", inputs, *others)
    assert np.isnan(states[7, 2:]).all()
    for gradient in gradients(native.layer, "lstm", (inputs.at[7, 2, 0].set(jnp.nan), *others))[3:]:
        assert np.isnan(gradient).any()  # as it would be by autodiff: a trial that diverges is seen
    rest = [row for row in range(20) if row != 7]
    np.testing.assert_array_equal(np.asarray(states)[rest], np.asarray(clean)[rest])


def test_tanh_and_the_logistic_function_are_exact_to_rounding() -> None:
    """A simple layer without kernels is tanh of its bias; a GRU whose candidate is 1 is 1 - sigmoid of one."""
    values = np.concatenate([np.linspace(-120, 120, 4001), np.geomspace(1e-30, 1, 500), [-np.inf, np.inf]])
    values = values.astype(np.float32)
    units, lengths = len(values), jnp.ones(1, jnp.int32)
    nothing = jnp.zeros((1, 1, 1)), jnp.zeros((1 + units, units)), jnp.asarray(values), None, lengths
    with np.errstate(over="ignore"):
        expected = np.tanh(values.astype(float)), 1 / (1 + np.exp(values.astype(float)))
    tanh = native.layer("simple", *nothing)[1][0]
    np.testing.assert_allclose(tanh, expected[0], rtol=4e-7)
    few = np.concatenate([np.linspace(-120, 120, 401), [-np.inf, np.inf]]).astype(np.float32)
    bias = jnp.concatenate([jnp.zeros(403), jnp.asarray(few), jnp.full(403, 100.0)])
    given = jnp.zeros((1, 1, 1)), jnp.zeros((404, 3 * 403)), bias, jnp.zeros(403), lengths
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(few.astype(float)))
    np.testing.assert_allclose(native.layer("gru", *given)[1][0], expected, atol=2e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_a_pack_is_its_trials(cell: str) -> None:
    values = drawn(cell, 4, 6, 3, 5, 9, dropped=True)
    kernels = jnp.stack([values[1], 2 * values[1], -values[1]])
    pack = jax.vmap(lambda kernel: gradients(native.layer, cell, (values[0], kernel, *values[2:])))(kernels)
    for index, kernel in enumerate(kernels):
        alone = gradients(native.layer, cell, (values[0], kernel, *values[2:]))
        for one, other in zip(pack, alone, strict=True):
            np.testing.assert_array_equal(one[index], other)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_is_the_same_with_and_without_the_kernel(
    cell: str, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Recurrent(cell, 3, 7, reverse=reverse, rngs=nnx.Rngs(0))
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 3)), jnp.float32)
    lengths = jnp.array([8, 0, 3, 5, 1])
    structure, parameters = nnx.split(layer)

    def found() -> Any:
        def total(parameters: Any) -> jax.Array:
            states, last = nnx.merge(structure, parameters)(inputs, lengths)
            return (states**2).sum() + last.sum()

        return jax.tree.leaves((nnx.merge(structure, parameters)(inputs, lengths), jax.grad(total)(parameters)))

    ours = found()
    monkeypatch.setattr(native, "usable", lambda values: False)
    for one, other in zip(ours, found(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def why(tmp_path: Path, **environment: str) -> str:
    """Returns what a process of its own says of the kernel."""
    code = "from jaxrnn import native; print(native.absent(), native.told(), sep='\\n')"
    command = [sys.executable, "-c", code]
    given = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout


def test_without_the_kernel_layers_run_in_xla_and_the_reason_is_told(tmp_path: Path) -> None:
    """Whatever XDG_CACHE_HOME says: where nothing can be kept, the kernel is compiled by each process."""
    assert why(tmp_path, JAXRNN_NATIVE="0") == "JAXRNN_NATIVE=0\nXLA\n"
    empty = why(tmp_path, PATH=str(tmp_path))
    assert empty == "no C++ compiler on PATH (on Debian: apt-get install g++)\nXLA\n"
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'fatal error: no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    said = why(tmp_path, CXX=f"{broken} -v", PATH=str(tmp_path))
    assert said == f"{broken} -v could not compile recurrence.cc: fatal error: no such header\nXLA\n"
    # the next compiler is asked
    assert KERNEL.fullmatch(why(tmp_path, CXX=str(broken), XDG_CACHE_HOME=str(broken)))


def test_the_kernel_is_kept_where_its_user_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native._cache() == tmp_path / "jaxrnn" / f"recurrence-{native._digest()}.so"
    assert (tmp_path / "jaxrnn").stat().st_mode & 0o777 == 0o700
    (tmp_path / "jaxrnn").chmod(0o777)
    assert native._cache() is None
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert native._cache() is None


def test_the_kernel_is_compiled_once_and_a_damaged_one_anew(tmp_path: Path) -> None:
    assert KERNEL.fullmatch(why(tmp_path))
    (made,) = (tmp_path / ".cache" / "jaxrnn").iterdir()
    assert KERNEL.fullmatch(why(tmp_path, PATH=str(tmp_path)))
    content = made.read_bytes()
    made.write_bytes(content[: len(content) // 2])
    assert KERNEL.fullmatch(why(tmp_path))
    assert made.stat().st_size == len(content)
    assert [*made.parent.iterdir()] == [made]


def test_weight_gradients_repeat_to_the_bit_whichever_thread_makes_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "threads", lambda: 4)
    values = drawn("gru", 5, 12, 3, 20, 300)
    repeated = jax.jit(lambda: gradients(native.layer, "gru", values))
    first = repeated()
    for _ in range(20):
        for one, other in zip(first, repeated(), strict=True):
            np.testing.assert_array_equal(one, other)
