"""A convolution along the steps as one product of windows, beside XLA's own, inside and outside of a loop.

    python benchmarks/convolution.py

Training and evaluation are loops on the device, and inside of one XLA's CPU backend misses its fast convolution. Both
sides run in turn in one process, values and gradients, and agree to float32's rounding. Results go to
benchmarks/results/convolution.json, and as a Markdown table to the standard output.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ingest import machine
from numpy.random import default_rng

from jaxrnn import blueprint, layers
from jaxrnn.config import ConvLayer, Model
from jaxrnn.layers import Call, Conv, framed

RESULTS = Path(__file__).parent / "results" / "convolution.json"
# batch, steps, width, filters, kernel
SHAPES = ((32, 140, 28, 64, 5), (32, 140, 64, 64, 3), (32, 70, 128, 128, 3), (128, 36, 64, 64, 3))
RUNS, PASSES = 7, 10


def xla(conv: Conv, values: jax.Array, call: Call) -> jax.Array:
    """The same layer by `lax.conv_general_dilated`."""
    settings: ConvLayer = conv.settings
    framing = framed(values, settings.kernel, settings.stride, (settings.kernel - 1) // 2, 0)
    dimensions = ("NWC", "WIO", "NWC")
    found = jax.lax.conv_general_dilated(framing, conv.kernel[...], (1,), "VALID", dimension_numbers=dimensions)
    return call.masked(jax.nn.relu(found + conv.bias[...]), conv.gives)


def descents(
    layer: Callable[[Conv, jax.Array, Call], jax.Array], made: Any, lengths: jax.Array, *, in_loop: bool
) -> Callable[[Any, jax.Array], Any]:
    """Returns a compiled function that descends along the gradient by parameters and values: `PASSES` times in a loop,
    or once outside of any."""
    structure = nnx.graphdef(made)

    def loss(parameters: Any, values: jax.Array) -> jax.Array:
        return jnp.tanh(
            layer(nnx.merge(structure, parameters), values, Call(lengths, jnp.zeros((len(lengths), 0))))
        ).sum()

    def descend(state: Any) -> Any:
        return jax.tree.map(lambda old, slope: old - 1e-4 * slope, state, jax.grad(loss, (0, 1))(*state))

    if in_loop:
        return jax.jit(lambda *state: jax.lax.fori_loop(0, PASSES, lambda _, state: descend(state), state))
    return jax.jit(lambda *state: descend(state))


def measured(shape: tuple[int, ...]) -> dict[str, Any]:
    batch, steps, width, filters, kernel = shape
    model = Model.model_validate({"layers": [{"layer": "conv", "filters": filters, "kernel": kernel}]})
    (placed,) = blueprint.of(model, "step", width, 0, 2).layers
    made = layers.made(placed, nnx.Rngs(0))
    generator = default_rng(1)
    values = jnp.asarray(generator.normal(size=(batch, steps, width)), jnp.float32)
    lengths = jnp.asarray(generator.integers(1, steps + 1, batch))
    sides = {"ours": Conv.__call__, "xla": xla}
    row: dict[str, Any] = dict(zip(("batch", "steps", "width", "filters", "kernel"), shape, strict=True))
    for where, in_loop in (("in_loop", True), ("outside", False)):
        run = {name: descents(layer, made, lengths, in_loop=in_loop) for name, layer in sides.items()}
        state = nnx.state(made, nnx.Param), values
        found = [jax.tree.leaves(jax.block_until_ready(side(*state))) for side in run.values()]
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        times: dict[str, list[float]] = {name: [] for name in run}
        for _ in range(RUNS):
            for name, side in run.items():
                began = time.perf_counter()
                jax.block_until_ready(side(*state))
                times[name].append(1e3 * (time.perf_counter() - began) / (PASSES if in_loop else 1))
        for name, each in times.items():
            row[f"{name}_{where}_ms"] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
        row[f"ratio_{where}"] = statistics.median(times["xla"]) / statistics.median(times["ours"])
    return row


def main() -> None:
    load = os.getloadavg()[0]
    rows = [measured(shape) for shape in SHAPES]
    noted = {"date": time.strftime("%Y-%m-%d"), "load_before": load, "device": str(jax.devices()[0])}
    content = {"machine": machine(), **noted, "rows": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(
        "| batch, steps, width, filters, kernel | ours, in a loop (ms) | XLA's (ms) | ratio | ours, outside | XLA's |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        shape = ", ".join(str(row[name]) for name in ("batch", "steps", "width", "filters", "kernel"))
        cells = [
            "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row[f"{side}_{where}_ms"])
            for where in ("in_loop", "outside")
            for side in ("ours", "xla")
        ]
        print(f"| {shape} | {cells[0]} | {cells[1]} | {row['ratio_in_loop']:.1f} | {cells[2]} | {cells[3]} |")


if __name__ == "__main__":
    main()
