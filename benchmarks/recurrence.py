"""A recurrent layer beside PyTorch's, beside what XLA compiles of it without its kernel, and beside a plain scan.

    python benchmarks/recurrence.py

One recurrent layer as networks have it, forward and backward or forward alone, in a loop on the device; PyTorch's with
the best of 1 and all threads. What follows the layer is left out on both sides: its states' gradient is given. Sides
run in turn in one process. Results go to benchmarks/results/recurrence.json and, as a Markdown table, to the standard
output.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from ingest import machine
from numpy.random import default_rng

from jaxrnn import native
from jaxrnn.blueprint import GATES
from jaxrnn.layers import Recurrent
from jaxrnn.recurrence import scanned

RESULTS = Path(__file__).parent / "results" / "recurrence.json"
RUNS = 5
SECONDS, REST = 0.4, 0.3
# units, batch, steps
SHAPES = ((25, 32, 40), (16, 128, 100), (64, 128, 100), (256, 128, 100))
FEATURES = 5
TORCH = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def timed(sides: dict[Any, Callable[[int], None]], runs: int = RUNS) -> dict[Any, Any]:
    """Returns the median, least and most milliseconds of a pass of each side, which is called with how many to make:
    as many as take SECONDS. Sides take turns, and rest before theirs, for threads wait busily for a while."""
    passes = {}
    for name, side in sides.items():
        side(2)  # compiles, or warms up
        began = time.perf_counter()
        side(4)
        passes[name] = max(4, round(4 * SECONDS / (time.perf_counter() - began)))
    found: dict[Any, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            time.sleep(REST)
            began = time.perf_counter()
            side(passes[name])
            found[name].append(1e3 * (time.perf_counter() - began) / passes[name])
    return {
        name: {"median": statistics.median(each), "low": min(each), "high": max(each)} for name, each in found.items()
    }


def plain(cell: str, of: Recurrent, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the states of a layer by a scan in [batch, unit] layout, through which autodiff goes: the layer as it was
    before it had a backward pass of its own."""
    bias = None if of.recurrent_bias is None else of.recurrent_bias[...]
    projected = jnp.einsum("bti,ig->tbg", inputs, of.input_kernel[...]) + of.bias[...]
    gates = tuple(jnp.split(projected, GATES[cell], axis=-1))
    states, _ = scanned(cell, gates, of.recurrent_kernel[...], bias, lengths)
    return jnp.swapaxes(states, 0, 1)


def our_layer(cell: str, shape: tuple[int, ...], *, backward: bool, way: str = "ours") -> Callable[[int], None]:
    """Returns what makes passes of a layer; way: as it is, or as `xla` compiles it, or by a `plain_scan`."""
    units, batch, steps = shape
    inputs = jnp.asarray(default_rng(0).normal(size=(batch, steps, FEATURES)), jnp.float32)
    lengths = jnp.full(batch, steps)
    structure, start = nnx.split(Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(0)))

    slopes = jnp.asarray(default_rng(1).normal(size=(batch, steps, units)), jnp.float32)

    def states(parameters: Any, inputs: jax.Array) -> jax.Array:
        made = nnx.merge(structure, parameters)
        if way == "plain_scan":
            return plain(cell, made, inputs, lengths)
        with mock.patch.object(native, "usable", return_value=way == "ours"):
            return made(inputs, lengths)[0]

    def again(_: jax.Array, state: Any) -> Any:
        parameters, inputs = state
        if backward:
            (gradient,) = jax.vjp(lambda parameters: states(parameters, inputs), parameters)[1](slopes)
            return jax.tree.map(lambda old, slope: old - 1e-9 * slope, parameters, gradient), inputs
        # the next pass needs this one
        return parameters, inputs + 1e-9 * states(parameters, inputs)[0, -1, 0]

    loop = jax.jit(lambda passes, *state: jax.lax.fori_loop(0, passes, again, state))

    def run(passes: int) -> None:
        jax.block_until_ready(loop(passes, start, inputs))

    return run


def torch_layer(cell: str, shape: tuple[int, ...], threads: int, *, backward: bool) -> Callable[[int], None]:
    units, batch, steps = shape
    layer = TORCH[cell](FEATURES, units, batch_first=True)
    inputs, slopes = torch.randn(batch, steps, FEATURES), torch.randn(batch, steps, units)

    def run(passes: int) -> None:
        torch.set_num_threads(threads)
        with torch.set_grad_enabled(backward):
            for _ in range(passes):
                states = layer(inputs)[0]
                if backward:
                    layer.zero_grad()
                    states.backward(slopes)

    return run


def layer() -> list[dict[str, Any]]:
    rows = []
    for cell in GATES:
        for shape in SHAPES:
            for backward in (True, False):
                sides = {
                    f"{way}_ms": our_layer(cell, shape, backward=backward, way=way)
                    for way in ("ours", "xla", "plain_scan")
                }
                for threads in sorted({1, len(os.sched_getaffinity(0))}):
                    sides[f"torch_{threads}_threads_ms"] = torch_layer(cell, shape, threads, backward=backward)
                found = timed(sides)
                best = min(entry["median"] for name, entry in found.items() if name.startswith("torch"))
                row = {"cell": cell, **dict(zip(("units", "batch", "steps"), shape, strict=True))}
                row |= {"what": "training" if backward else "prediction", **found}
                for way in ("xla", "plain_scan"):
                    row[f"{way}_over_ours"] = found[f"{way}_ms"]["median"] / found["ours_ms"]["median"]
                row["torch_over_ours"] = best / found["ours_ms"]["median"]
                rows.append(row)
    return rows


def main() -> None:
    noted = {"date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0], "device": str(jax.devices()[0])}
    assert native.absent() is None, f"no kernel: {native.absent()}"
    content = {"machine": machine() | {"torch": torch.__version__}, **noted, "rows": layer()}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(table(content["rows"]))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    for row in rows:
        cells = [
            "{median:.2f} ({low:.2f} to {high:.2f})".format(**value) if isinstance(value, dict) else value
            for value in row.values()
        ]
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
