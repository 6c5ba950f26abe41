"""The recurrence beside a plain scan and PyTorch's, and a pack's trials side by side, in turn, and shared out.

    python benchmarks/recurrence.py            # both parts: layer, packs
    python benchmarks/recurrence.py packs      # one; the other's results stay

Sides run in turn in one process. `layer`: one recurrent layer, forward and backward, or forward alone, in a loop on the
device. `packs`: an epoch of the network of config/goto.yaml, 576 sequences of 40 steps, batch 32, beside the same
network in PyTorch, one model after another. Results go to benchmarks/results/recurrence.json and, as Markdown tables,
to the standard output.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ingest import machine
from numpy.random import default_rng

from jaxrnn import batches, training
from jaxrnn.batches import Bucket
from jaxrnn.blueprint import GATES
from jaxrnn.config import Model, Training
from jaxrnn.recurrence import recur, scanned
from jaxrnn.training import Hyperparameters

RESULTS = Path(__file__).parent / "results" / "recurrence.json"
RUNS = 7
# units, batch, steps
SHAPES = ((25, 32, 40), (16, 128, 100), (64, 128, 100), (256, 128, 100))
FEATURES = 5
TORCH = {"simple": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
WIDTHS = (1, 8, 32)
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


def our_layer(
    function: Callable[..., Any], cell: str, shape: tuple[int, ...], *, backward: bool
) -> Callable[[], float]:
    units, batch, steps = shape
    generator = default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(0.1 * generator.normal(size=shape), jnp.float32)

    inputs, lengths = normal(batch, steps, FEATURES), jnp.full(batch, steps)
    kernels = tuple(normal(FEATURES, units) for _ in range(GATES[cell]))
    bias = normal(units) if cell == "gru" else None
    start = kernels, normal(units, GATES[cell] * units), bias
    passes = max(2, round(2e8 / (steps * batch * units * (units + 30) * GATES[cell])))

    def total(parameters: Any, inputs: jax.Array) -> jax.Array:
        kernels, kernel, bias = parameters
        gates = tuple(jnp.einsum("bti,iu->tub", inputs, of_gate) for of_gate in kernels)
        states, last = function(cell, gates, kernel, bias, lengths)
        return jnp.square(states).sum() + last.sum()

    def again(_: jax.Array, state: Any) -> Any:
        parameters, inputs, seen = state
        if backward:
            parameters = jax.tree.map(
                lambda old, slope: old - 1e-6 * slope, parameters, jax.grad(total)(parameters, inputs)
            )
            return parameters, inputs, seen
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
                states, last = layer(inputs)
                if backward:
                    layer.zero_grad()
                    (states.square().sum() + (last[0] if cell == "lstm" else last).sum()).backward()
        return 1e3 * (time.perf_counter() - began) / passes

    return run


def layer() -> list[dict[str, Any]]:
    rows = []
    for cell in GATES:
        for shape in SHAPES:
            for backward in (True, False):
                sides = {
                    "ours_ms": our_layer(recur, cell, shape, backward=backward),
                    "plain_scan_ms": our_layer(scanned, cell, shape, backward=backward),
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
    rows = []
    for cell, units in (("gru", 25), ("gru", 50), ("lstm", 25), ("lstm", 50)):
        ours = {
            f"{way}_{width}_ms": our_epoch(cell, units, width, way)
            for width in WIDTHS
            for way in ("side_by_side", "in_turn", "shared_out")[: 3 if width > 1 else 2]
        }
        cores = len(os.sched_getaffinity(0))
        peers = {f"torch_{threads}_threads_ms": torch_epoch(cell, units, threads) for threads in sorted({1, cores})}
        found = timed(ours | peers)
        best = {
            side: min(found[name]["median"] for name in names) for side, names in (("ours", ours), ("torch", peers))
        }
        rows.append({"cell": cell, "units": units, **found, "torch_over_ours": best["torch"] / best["ours"]})
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
