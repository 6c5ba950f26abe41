"""The recurrence beside the plain scan that it replaced and PyTorch's, and a pack's trials side by side, in turn, and
shared out among the cores.

    python benchmarks/recurrence.py            # both parts: layer, packs
    python benchmarks/recurrence.py packs      # one; the other's results stay

`layer`: one recurrent layer as networks have it, forward and backward or forward alone, in a loop on the device.
`packs`: an epoch of the network of config/goto.yaml, 576 sequences of 40 steps, batch 32, beside the same network in
PyTorch, with the best of 1 and all threads, and of a process a core. Ours masks, has the focal loss and L2 compiled in,
and draws its batches on the device; PyTorch's has plain cross-entropy. Sides run in turn. Results go to
benchmarks/results/recurrence.json and, as Markdown tables, to the standard output.
"""

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from ingest import machine
from numpy.random import default_rng

from jaxrnn import batches, training
from jaxrnn.batches import Bucket
from jaxrnn.blueprint import GATES
from jaxrnn.config import Model, Training
from jaxrnn.layers import Recurrent
from jaxrnn.recurrence import step_of
from jaxrnn.training import Hyperparameters

RESULTS = Path(__file__).parent / "results" / "recurrence.json"
RUNS = 7
# units, batch, steps
SHAPES = ((25, 32, 40), (16, 128, 100), (64, 128, 100), (256, 128, 100))
FEATURES = 5
TORCH = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
WIDTH = 8
SEQUENCES, STEPS, BATCH = 576, 40, 32


def timed(sides: dict[str, Callable[[], float]]) -> dict[str, Any]:
    """Returns the median, least and most of what each side says it took, sides in turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(RUNS + 1):
        for name, side in sides.items():
            taken = side()
            if run:  # the first compiles, or warms up
                found[name].append(taken)
    return {
        name: {"median": statistics.median(each), "low": min(each), "high": max(each)} for name, each in found.items()
    }


def plain(cell: str, of: Recurrent, inputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the states of a layer by a scan in [batch, unit] layout, through which autodiff goes: the layer as it was
    before it had a backward pass of its own."""
    bias = None if of.recurrent_bias is None else of.recurrent_bias[...]
    step = step_of(cell, of.recurrent_kernel[...], bias)
    projected = jnp.einsum("bti,ig->tbg", inputs, of.input_kernel[...]) + of.bias[...]
    gates = tuple(jnp.split(projected, GATES[cell], axis=-1))
    valid = jnp.arange(inputs.shape[1])[:, None, None] < lengths[:, None]

    def masked(state: Any, x: Any) -> Any:
        now, keep = x
        state = tuple(jnp.where(keep, new, old) for new, old in zip(step(state, now), state, strict=True))
        return state, jnp.where(keep, state[0], 0)

    start = (jnp.zeros((len(inputs), of.units)),) * (2 if cell == "lstm" else 1)
    return jnp.swapaxes(jax.lax.scan(masked, start, (gates, valid))[1], 0, 1)


def our_layer(cell: str, shape: tuple[int, ...], *, backward: bool, before: bool) -> Callable[[], float]:
    units, batch, steps = shape
    inputs = jnp.asarray(default_rng(0).normal(size=(batch, steps, FEATURES)), jnp.float32)
    lengths = jnp.full(batch, steps)
    structure, start = nnx.split(Recurrent(cell, FEATURES, units, rngs=nnx.Rngs(0)))
    passes = max(2, round(2e8 / (steps * batch * units * (units + 30) * GATES[cell])))

    def total(parameters: Any, inputs: jax.Array) -> jax.Array:
        made = nnx.merge(structure, parameters)
        states = plain(cell, made, inputs, lengths) if before else made(inputs, lengths)[0]
        return jnp.square(states).sum()

    def again(_: jax.Array, state: Any) -> Any:
        parameters, inputs, seen = state
        if backward:
            gradient = jax.grad(total)(parameters, inputs)
            return jax.tree.map(lambda old, slope: old - 1e-6 * slope, parameters, gradient), inputs, seen
        found = total(parameters, inputs)
        # the next pass needs this one
        return parameters, inputs + 1e-9 * found, seen + found

    loop = jax.jit(lambda *state: jax.lax.fori_loop(0, passes, again, state))

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(loop(start, inputs, jnp.float32(0)))
        return 1e3 * (time.perf_counter() - began) / passes

    return run


def torch_layer(cell: str, shape: tuple[int, ...], threads: int, *, backward: bool) -> Callable[[], float]:
    units, batch, steps = shape
    layer = TORCH[cell](FEATURES, units, batch_first=True)
    inputs = torch.randn(batch, steps, FEATURES)
    passes = max(2, round(1e8 / (steps * batch * units * (units + 30) * GATES[cell])))

    def run() -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        with torch.set_grad_enabled(backward):
            for _ in range(passes):
                total = layer(inputs)[0].square().sum()
                if backward:
                    layer.zero_grad()
                    total.backward()
        return 1e3 * (time.perf_counter() - began) / passes

    return run


def layer() -> list[dict[str, Any]]:
    rows = []
    for cell in GATES:
        for shape in SHAPES:
            for backward in (True, False):
                sides = {
                    "ours_ms": our_layer(cell, shape, backward=backward, before=False),
                    "plain_scan_ms": our_layer(cell, shape, backward=backward, before=True),
                }
                for threads in sorted({1, len(os.sched_getaffinity(0))}):
                    sides[f"torch_{threads}_threads_ms"] = torch_layer(cell, shape, threads, backward=backward)
                found = timed(sides)
                best = min(entry["median"] for name, entry in found.items() if name.startswith("torch"))
                row = {"cell": cell, **dict(zip(("units", "batch", "steps"), shape, strict=True))}
                row |= {"what": "training" if backward else "prediction", **found}
                row["plain_scan_over_ours"] = found["plain_scan_ms"]["median"] / found["ours_ms"]["median"]
                row["torch_over_ours"] = best / found["ours_ms"]["median"]
                rows.append(row)
    return rows


class TorchNetwork(torch.nn.Module):
    """The network of config/goto.yaml."""

    def __init__(self, cell: str, units: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.first, self.second = (TORCH[cell](width, units, batch_first=True) for width in (3, units))
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm1d(units) for _ in range(2)])
        self.drop = torch.nn.Dropout(dropout)
        self.dense = torch.nn.Sequential(
            torch.nn.Linear(units + 2, 25),
            torch.nn.Sigmoid(),
            torch.nn.Dropout(dropout),
            torch.nn.BatchNorm1d(25),
            torch.nn.Linear(25, 25),
            torch.nn.Sigmoid(),
        )
        self.last = torch.nn.Linear(25, 2)

    def forward(self, features: torch.Tensor, metadata: torch.Tensor) -> torch.Tensor:
        states = self.norms[0](self.drop(self.first(features)[0]).transpose(1, 2)).transpose(1, 2)
        last = self.norms[1](self.drop(self.second(states)[0][:, -1]))
        return self.last(self.dense(torch.cat([last, metadata], dim=1)))


def torch_epoch(cell: str, units: int, threads: int) -> Callable[[], float]:
    torch.set_num_threads(threads)
    network = TorchNetwork(cell, units)
    adam = torch.optim.Adam(network.parameters())
    features, metadata = torch.randn(SEQUENCES, STEPS, 3), torch.randn(SEQUENCES, 2)
    labels = torch.randint(0, 2, (SEQUENCES,))

    def run() -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        for rows in torch.randperm(SEQUENCES).split(BATCH):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(network(features[rows], metadata[rows]), labels[rows]).backward()
            adam.step()
        return 1e3 * (time.perf_counter() - began)

    return run


_network: Callable[[], float] | None = None  # of a process of `torch_processes`


def _epoch_in_process(cell: str, units: int) -> float:
    global _network
    _network = _network or torch_epoch(cell, units, 1)
    return _network()


def torch_processes(cell: str, units: int, processes: int) -> Callable[[], float]:
    """One model in each of so many processes of one thread, as who has many to train would have it."""
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context) for _ in range(processes)]

    def run() -> float:
        began = time.perf_counter()
        for started in [pool.submit(_epoch_in_process, cell, units) for pool in pools]:
            started.result()
        return 1e3 * (time.perf_counter() - began) / processes

    return run


def our_epoch(cell: str, units: int, width: int, way: str) -> Callable[[], float]:
    """way: side_by_side, in_turn or shared_out."""
    values = {"cell": cell, "units": units, "depth": 2, "dropout": 0.2, "normalisation": "batch", "dense_units": 25}
    model = Model.model_validate(values | {"dense_depth": 2, "dense_activation": "sigmoid"})
    settings = Training.model_validate({"batch_size": BATCH, "epochs": 50})
    generator, chosen = default_rng(0), training.together
    try:
        training.together = lambda: way == "side_by_side"
        devices = training.devices_for(width) if way == "shared_out" else 1
        program = training.make(model, settings, 3, 2, 2, devices=devices)
    finally:
        training.together = chosen
    bucket = Bucket(
        generator.normal(size=(SEQUENCES, STEPS, 3)).astype(np.float32),
        np.full(SEQUENCES, STEPS, np.int32),
        generator.normal(size=(SEQUENCES, 2)).astype(np.float32),
        generator.integers(0, 2, SEQUENCES).astype(np.int32),
        np.arange(SEQUENCES, dtype=np.uint32),
    )
    counts = np.array([SEQUENCES])
    shared = jax.device_put(((bucket,), batches.schedule(counts, BATCH, SEQUENCES // BATCH)), program.common)
    hypers = training.stacked(
        [
            Hyperparameters(
                seed=np.uint32(seed),
                learning_rate=np.float32(1e-3),
                dropout=np.float32(0.2),
                recurrent_dropout=np.float32(0),
                l2=np.float32(0.01),
                gamma=np.float32(0),
                class_weights=np.ones(2, np.float32),
            )
            for seed in range(width)
        ]
    )
    states = program.begin(hypers)
    numbers = [jnp.int32(number) for number in (0, 0, SEQUENCES // BATCH)]

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(program.advance(states, hypers, *shared, *numbers).loss_sum)
        return 1e3 * (time.perf_counter() - began) / width

    return run


def packs() -> list[dict[str, Any]]:
    """Milliseconds a model and epoch. Ours in a job is `shared_out`; `in_turn` is one device of the same cores."""
    cores, rows = len(os.sched_getaffinity(0)), []
    for cell, units in (("gru", 25), ("gru", 50), ("lstm", 25), ("lstm", 50)):
        ours = {f"{way}_ms": our_epoch(cell, units, WIDTH, way) for way in ("side_by_side", "in_turn", "shared_out")}
        peers = {f"torch_{threads}_threads_ms": torch_epoch(cell, units, threads) for threads in sorted({1, cores})}
        peers[f"torch_{cores}_processes_ms"] = torch_processes(cell, units, cores)
        found = timed(ours | peers)
        row = {"cell": cell, "units": units, "pack": WIDTH, **found}
        row["in_turn_over_shared_out"] = found["in_turn_ms"]["median"] / found["shared_out_ms"]["median"]
        row["torch_over_shared_out"] = min(found[name]["median"] for name in peers) / found["shared_out_ms"]["median"]
        rows.append(row)
    return rows


PARTS = {"layer": layer, "packs": packs}


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


def main() -> None:
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # a device a core, as `jaxrnn train` has it
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or PARTS:
        noted = {"date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0], "device": str(jax.devices()[0])}
        content[name] = {"machine": machine() | {"torch": torch.__version__}, **noted, "rows": PARTS[name]()}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
        print(table(content[name]["rows"]), flush=True)


if __name__ == "__main__":
    main()
