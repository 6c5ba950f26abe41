"""The recurrence of simple, GRU and LSTM layers over padded sequences: the part of training that takes the time.

`recur` has a backward pass of its own, which autodiff of the plain scan, `scanned`, can't find: it takes the gates as
the forward pass left them, carries only what must go from step to step, and makes the recurrent kernel's gradient
after the loop. In [unit, batch] layout gates lie one after another, so that a step is one product and a pass over
whole rows; each gate is a scan input of its own, for what slices one array inside the loop XLA may leave scalar on a
CPU.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.blueprint import GATES

# Units up to which the recurrent kernel's gradient is made step by step and summed: one product over all steps and rows
# must first turn its factors round, which pays only for large ones.
WIDEST_BY_STEP = 128


class Cell(NamedTuple):
    """The equations of a cell, entry by entry, so that they hold in any layout.

    step(state, inputs, recurred) -> next state, saved: one array a gate of projected inputs and of the state times the
    recurrent kernel (with the candidate's bias). saved: what `pull` needs.
    pull(change, before, after, saved) -> gradients of the inputs, of what recurred, and of the state before but for
    what goes through the kernel. change: the gradient of the state after; before, after: the states' hidden part.
    apart: whether the gradients of what recurred go back through the kernel gate by gate, and not joined: joining an
    LSTM's XLA leaves scalar on a CPU, which costs more than three products more; of a GRU's it makes one kernel.
    """

    states: int
    step: Callable[..., Any]
    pull: Callable[..., Any]
    apart: bool = False


def _simple(state: Any, inputs: Any, recurred: Any) -> Any:
    return (jnp.tanh(inputs[0] + recurred[0]),), ()


def _pull_simple(change: Any, before: Any, after: Array, saved: Any) -> Any:
    gradients = (change[0] * (1 - after * after),)
    return gradients, gradients, (None,)


def _gru(state: Any, inputs: Any, recurred: Any) -> Any:
    (hidden,) = state
    reset, update = jax.nn.sigmoid(inputs[0] + recurred[0]), jax.nn.sigmoid(inputs[1] + recurred[1])
    candidate = jnp.tanh(inputs[2] + reset * recurred[2])
    return ((1 - update) * candidate + update * hidden,), (reset, update, candidate, recurred[2])


def _pull_gru(change: Any, before: Any, after: Array, saved: Any) -> Any:
    reset, update, candidate, recurred = saved
    of_candidate = change[0] * (1 - update) * (1 - candidate * candidate)
    of_update = change[0] * (before[0] - candidate) * update * (1 - update)
    of_reset = of_candidate * recurred * reset * (1 - reset)
    inputs = (of_reset, of_update, of_candidate)
    return inputs, (of_reset, of_update, of_candidate * reset), (change[0] * update,)


def _lstm(state: Any, inputs: Any, recurred: Any) -> Any:
    entry, forget, output = (jax.nn.sigmoid(inputs[gate] + recurred[gate]) for gate in (0, 1, 3))
    content = jnp.tanh(inputs[2] + recurred[2])
    memory = forget * state[1] + entry * content
    told = jnp.tanh(memory)
    return (output * told, memory), (entry, forget, content, output, told)


def _pull_lstm(change: Any, before: Any, after: Array, saved: Any) -> Any:
    entry, forget, content, output, told = saved
    of_memory = change[1] + change[0] * output * (1 - told * told)
    gradients = (
        of_memory * content * entry * (1 - entry),
        of_memory * before[1] * forget * (1 - forget),
        of_memory * entry * (1 - content * content),
        change[0] * told * output * (1 - output),
    )
    return gradients, gradients, (None, of_memory * forget)


# PyTorch's and cuDNN's, equations and order of gates alike: see `layers.Recurrent`.
CELLS = {
    "simple": Cell(1, _simple, _pull_simple),
    "gru": Cell(1, _gru, _pull_gru),
    "lstm": Cell(2, _lstm, _pull_lstm, apart=True),
}


def step_of(
    cell: str,
    kernel: Float[Array, "unit gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    kept: Float[Array, "batch unit"] | None = None,
) -> Callable[[Any, tuple[Array, ...]], Any]:
    """Returns one step of a cell: from its state and each gate's projected input [batch, unit] to its next state; kept:
    as in `recur`."""

    def step(state: Any, inputs: tuple[Array, ...]) -> Any:
        hidden = state[0] if kept is None else state[0] * kept
        recurred = jnp.split(hidden @ kernel, GATES[cell], axis=-1)
        if candidate_bias is not None:
            recurred[2] = recurred[2] + candidate_bias
        return CELLS[cell].step(state, inputs, recurred)[0]

    return step


def recur(
    cell: str,
    gates: tuple[Float[Array, "step unit batch"], ...],
    kernel: Float[Array, "unit gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    lengths: Int[Array, " batch"],
    kept: Float[Array, "unit batch"] | None = None,
) -> tuple[Float[Array, "step unit batch"], Float[Array, "unit batch"]]:
    """Returns the hidden state after each step, 0 beyond the length, and the last valid one.

    gates: each gate's inputs times their kernel plus bias, of all steps at once: one large product instead of many
    small ones. kept: what the state is multiplied by wherever it enters `kernel`, the same at every step (recurrent
    dropout of Gal and Ghahramani 2016, arXiv 1512.05287, eq. 7); None multiplies by nothing, and no gradient goes to
    it. Differentiable once, in reverse.
    """
    valid = jnp.arange(gates[0].shape[0])[:, None, None] < lengths
    return _recur(cell, gates, kernel, candidate_bias, valid, kept)


def scanned(
    cell: str,
    gates: tuple[Float[Array, "step batch unit"], ...],
    kernel: Float[Array, "unit gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    lengths: Int[Array, " batch"],
    kept: Float[Array, "batch unit"] | None = None,
) -> tuple[Float[Array, "step batch unit"], Float[Array, "batch unit"]]:
    """Returns what `recur` does, in another layout, by a plain scan that autodiff goes through: its reference in tests
    and benchmarks."""
    step = step_of(cell, kernel, candidate_bias, kept)

    def masked(state: Any, x: Any) -> Any:
        inputs, keep = x
        state = tuple(jnp.where(keep, new, old) for new, old in zip(step(state, inputs), state, strict=True))
        return state, jnp.where(keep, state[0], 0)

    valid = jnp.arange(gates[0].shape[0])[:, None, None] < lengths[:, None]
    start = (jnp.zeros(gates[0].shape[1:], kernel.dtype),) * CELLS[cell].states
    last, states = jax.lax.scan(masked, start, (gates, valid))
    return states, last[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(
    cell: str,
    gates: tuple[Float[Array, "step unit batch"], ...],
    kernel: Float[Array, "unit gate_unit"],
    candidate_bias: Float[Array, " unit"] | None,
    valid: Bool[Array, "step 1 batch"],
    kept: Float[Array, "unit batch"] | None,
) -> tuple[Array, Array]:
    states, last, _ = _forward(cell, gates, kernel, candidate_bias, valid, kept, save=False)
    return states[0], last


def _forward(
    cell: str, gates: Any, kernel: Array, candidate_bias: Array | None, valid: Array, kept: Array | None, *, save: bool
) -> tuple[Any, Array, Any]:
    """Returns the states after each step (the hidden one 0 beyond the length; with `save` all of them), the last valid
    hidden one, and with `save` what the cell saved."""
    turned = kernel.T

    def step(state: Any, x: Any) -> Any:
        inputs, keep = x
        recurred = jnp.split(turned @ (state[0] if kept is None else state[0] * kept), GATES[cell])
        if candidate_bias is not None:
            recurred[2] = recurred[2] + candidate_bias[:, None]
        new, saved = CELLS[cell].step(state, inputs, recurred)
        state = tuple(jnp.where(keep, now, old) for now, old in zip(new, state, strict=True))
        told = (jnp.where(keep, new[0], 0), *new[1:])
        return state, (told, saved) if save else (told[:1], ())

    start = (jnp.zeros(gates[0].shape[1:], kernel.dtype),) * CELLS[cell].states
    last, (states, saved) = jax.lax.scan(step, start, (gates, valid))
    return states, last[0], saved


def _remembering(
    cell: str, gates: Any, kernel: Array, candidate_bias: Array | None, valid: Array, kept: Array | None
) -> tuple[tuple[Array, Array], Any]:
    states, last, saved = _forward(cell, gates, kernel, candidate_bias, valid, kept, save=True)
    return (states[0], last), (kernel, valid, kept, states, saved)


def _backward(cell: str, remembered: Any, changes: tuple[Array, Array]) -> Any:
    kernel, valid, kept, states, saved = remembered
    of_states, of_last = changes
    # behind a valid step lie valid ones alone, so that the state before it is the one that was told
    before = tuple(jnp.concatenate([jnp.zeros_like(state[:1]), state[:-1]]) for state in states)

    apart = CELLS[cell].apart
    pieces = jnp.split(kernel, GATES[cell], axis=1) if apart else [kernel]

    def step(change: Any, x: Any) -> Any:
        of_state, keep, before, after, saved = x
        change = (change[0] + jnp.where(keep, of_state, 0), *change[1:])
        of_inputs, of_recurred, through = CELLS[cell].pull(change, before, after, saved)
        parts = of_recurred if apart else (jnp.concatenate(of_recurred),)
        back = reduce(jnp.add, [piece @ part for piece, part in zip(pieces, parts, strict=True)])
        back = back if kept is None else back * kept
        through = (back if through[0] is None else through[0] + back, *through[1:])
        change = tuple(jnp.where(keep, new, old) for new, old in zip(through, change, strict=True))
        gradients = of_recurred if of_recurred is of_inputs else (*of_recurred, of_inputs[2])
        return change, tuple(jnp.where(keep, gradient, 0) for gradient in gradients)

    start = (of_last, *(jnp.zeros_like(of_last) for _ in states[1:]))
    _, gradients = jax.lax.scan(step, start, (of_states, valid, before, states[0], saved), reverse=True)
    of_recurred = gradients[: GATES[cell]]
    # the reset gate stands between the candidate's recurrent product and its input
    of_gates = (*of_recurred[:2], gradients[3]) if cell == "gru" else of_recurred
    entered, left = before[0] if kept is None else before[0] * kept, jnp.concatenate(of_recurred, axis=1)
    if kernel.shape[0] <= WIDEST_BY_STEP:
        of_kernel = jnp.einsum("tub,tgb->tug", entered, left).sum(axis=0)
    else:
        of_kernel = jnp.einsum("tub,tgb->ug", entered, left)
    of_bias = of_recurred[2].sum(axis=(0, 2)) if cell == "gru" else None
    return of_gates, of_kernel, of_bias, None, None


_recur.defvjp(_remembering, _backward)
