"""What training costs against trials, steps and objects; how far it is from what the device can do; how it starts.

    python benchmarks/scaling.py                # all parts
    python benchmarks/scaling.py steps start    # some; the others' results stay

`trials`: an epoch of packs of 1 to 256 trials of GOTO's network (config/goto.yaml, gru), 560 sequences of 40 steps.
`steps`: a training step of a GRU of 32 units, batch 32, on sequences of 32 to 8,192 steps.
`objects`: an epoch of the same network, batch 128, on 10^3 to 10^6 sequences of 40 steps, all in the device's memory.
`device`: a large matmul and a large copy, and beside them one recurrent layer in three shapes.
`start`: `jaxrnn train` on GOTO's sample data from the start of the process to the end of its first training step, with
nothing compiled earlier and with the programs that `jaxrnn plan` left under results/compiled.

An epoch is its training steps; validation is not in it. Exponents are least squares in log-log, with standard errors.
Results go to benchmarks/results/scaling.json and figures to benchmarks/figures.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import goto_grid
import jax
import jax.numpy as jnp
import numpy as np
import record
import yaml
from goto import CHECKOUT, experiment
from scipy import stats

from jaxrnn import batches, training
from jaxrnn.batches import Bucket
from jaxrnn.blueprint import GATES
from jaxrnn.config import Model, Training, load
from jaxrnn.native import SAVED
from jaxrnn.training import Hyperparameters

OUTPUT = record.RESULTS / "scaling.json"
FIGURES = Path(__file__).parent / "figures"
FEATURES, COLUMNS, CLASSES = 3, 2, 2
GOTO_OBJECTS, GOTO_STEPS, GOTO_BATCH = 560, 40, 32
TRIALS = [2**power for power in range(9)]
STEPS = [2**power for power in range(5, 14)]
OBJECTS = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
# of the layer, as in recurrence.py: features of a step; units, batch, steps
INPUTS = 5
SHAPES = ((25, 32, 40), (16, 128, 100), (64, 128, 100), (256, 128, 100))
# Does what `jaxrnn` does, up to the end of the first training step.
FIRST_STEP = """
import os
import jax
from jaxrnn import training
make = training.make
def first(*values, **options):
    program = make(*values, **options)
    def advance(*values):
        jax.block_until_ready(program.advance(*values[:-1], values[-2] + 1))
        os._exit(0)
    return program._replace(advance=advance)
training.make = first
from jaxrnn.cli import main
main()
"""


class Epoch(NamedTuple):
    """What trains an epoch and says the seconds that it took, and the bytes that its compiled program needs besides the
    data and the states, by its own analysis."""

    run: Callable[[], float]
    program_bytes: int


def one_epoch(model: Model, trials: int, objects: int, steps: int, batch: int) -> Epoch:
    """Returns an epoch of a pack on random sequences, compiled."""
    program = training.make(model, Training.model_validate({"batch_size": batch}), FEATURES, COLUMNS, CLASSES)
    generator = np.random.default_rng(0)
    bucket = Bucket(
        generator.normal(size=(objects, steps, FEATURES)).astype(np.float32),
        np.full(objects, steps, np.int32),
        generator.normal(size=(objects, COLUMNS)).astype(np.float32),
        generator.integers(0, CLASSES, objects).astype(np.int32),
        np.arange(objects, dtype=np.uint32),
    )
    count = -(-objects // batch)
    shared = jax.device_put(((bucket,), batches.schedule(np.array([objects]), batch, count)))
    hypers = training.stacked(
        [
            Hyperparameters(
                seed=np.uint32(seed),
                learning_rate=np.float32(1e-3),
                dropout=np.float32(model.dropout),
                recurrent_dropout=np.float32(0),
                l2=np.float32(0.01),
                gamma=np.float32(1),
                class_weights=np.ones(CLASSES, np.float32),
            )
            for seed in range(trials)
        ]
    )
    states = program.begin(hypers)

    def advance(stop: int) -> float:
        nonlocal states
        numbers = [jnp.int32(number) for number in (0, 0, stop)]
        began = time.perf_counter()
        states = program.advance(states, hypers, *shared, *numbers)
        jax.block_until_ready(states.loss_sum)
        return time.perf_counter() - began

    compiled = program.advance.lower(states, hypers, *shared, *map(jnp.int32, (0, 0, 1))).compile()  # pyright: ignore
    program = program._replace(advance=compiled)  # one program for any number of steps
    return Epoch(lambda: advance(count), training.memory_needed(compiled))


@dataclass(frozen=True)
class Extent:
    """How much is measured: each size up to the largest one, so often."""

    largest: int
    runs: int

    def of(self, sizes: list[int]) -> list[int]:
        return [size for size in sizes if size <= self.largest]


def measured(
    sizes: list[int], runs: int, epoch: Callable[[int], Epoch], share: Callable[[int], float]
) -> dict[str, Any]:
    """Returns a row a size, in seconds of an epoch over `share` and the program's MB, and the exponent of the time: of
    all sizes together, and of the two largest, where fixed costs weigh least."""
    rows = []
    for size in sizes:
        of_size = epoch(size)
        of_size.run()  # the first one also meets cold caches
        seconds = record.spread([of_size.run() / share(size) for _ in range(runs)])
        rows.append({"size": size, "seconds": seconds, "program_mb": of_size.program_bytes / 1e6})
        print(f"  {size}: {rows[-1]['seconds']['median']:.4f} s", file=sys.stderr, flush=True)
        jax.clear_caches()
    logs = np.log([[row["size"], row["seconds"]["median"]] for row in rows]).T
    found = stats.linregress(*logs)
    last = float(np.diff(logs[1, -2:])[0] / np.diff(logs[0, -2:])[0])
    exponent = {"exponent": float(found.slope), "standard_error": float(found.stderr), "last_exponent": last}
    return {"rows": rows, **exponent, "constant": float(np.exp(found.intercept))}


def shallow() -> Model:
    return Model.model_validate(
        {"cell": "gru", "units": 32, "depth": 1, "dropout": 0, "dense_units": 32, "dense_depth": 1}
    )


def trials(extent: Extent) -> dict[str, Any]:
    model = load(CHECKOUT / "config" / "goto.yaml").model

    def epoch(size: int) -> Epoch:
        return one_epoch(model, size, GOTO_OBJECTS, GOTO_STEPS, GOTO_BATCH)

    return measured(extent.of(TRIALS), extent.runs, epoch, share=lambda _: 1)


def steps(extent: Extent) -> dict[str, Any]:
    def batch_count(size: int) -> int:
        return max(2, 8192 // size)

    def epoch(size: int) -> Epoch:
        return one_epoch(shallow(), 1, 32 * batch_count(size), size, 32)

    return measured(extent.of(STEPS), extent.runs, epoch, share=batch_count)


def objects(extent: Extent) -> dict[str, Any]:
    return measured(
        extent.of(OBJECTS), extent.runs, lambda size: one_epoch(shallow(), 1, size, 40, 128), share=lambda _: 1
    )


def device(extent: Extent) -> dict[str, Any]:
    """The device's ceilings, and a recurrent layer beside them; all in turn. Operations and bytes of the layer are
    counted, not asked of the compiler, which counts a loop's body once."""
    from recurrence import our_layer, timed

    side = min(4096 if jax.default_backend() == "cpu" else 16384, extent.largest)
    values = 2**28 if extent.largest >= 4096 else 2**20
    square, long = jnp.ones((side, side), jnp.float32), jnp.ones(values, jnp.float32)
    kernels: dict[str, tuple[Any, ...]] = {
        "matmul": (jax.jit(lambda values: jnp.matmul(values, values, precision="highest")), square),
        "copy": (jax.jit(jnp.copy), long),
        "addition": (jax.jit(lambda values: values + 1), long),
    }
    layers = {
        (cell, shape, backward): our_layer(cell, shape, backward=backward)
        for cell in ("gru", "lstm")
        for shape in SHAPES
        for backward in (True, False)
    }
    times: dict[Any, list[float]] = {name: [] for name in kernels}
    for number in range(extent.runs + 1):
        for name, (kernel, argument) in kernels.items():
            began = time.perf_counter()
            kernel(argument).block_until_ready()
            if number:  # the first compiles
                times[name].append(time.perf_counter() - began)
    gflops = record.spread([2e-9 * side**3 / seconds for seconds in times["matmul"]])
    copied = [record.spread([2 * 4e-9 * values / seconds for seconds in times[name]]) for name in ("copy", "addition")]
    bandwidth = max(copied, key=lambda speed: speed["median"])
    taken = timed(layers, extent.runs)
    rows = []
    for cell, shape, backward in layers:
        operations, moved = counted(cell, shape, backward=backward)
        seconds = {name: each / 1e3 for name, each in taken[cell, shape, backward].items()}
        row = {"cell": cell, **dict(zip(("units", "batch", "steps"), shape, strict=True))}
        row |= {"what": "training" if backward else "prediction", "seconds": seconds}
        row |= {"gflop_s": 1e-9 * operations / seconds["median"], "gbyte_s": 1e-9 * moved / seconds["median"]}
        row |= {"of_matmul": row["gflop_s"] / gflops["median"], "of_copy": row["gbyte_s"] / bandwidth["median"]}
        rows.append(row)
    return {"matmul_side": side, "copy_bytes": 4 * values, "gflop_s": gflops, "gbyte_s": bandwidth, "rows": rows}


def counted(cell: str, shape: tuple[int, ...], *, backward: bool) -> tuple[float, float]:
    """Returns the operations of the products of one pass of a layer, and the bytes of its arrays [step, unit, row]:
    each written once and read once, kernels not counted, as they stay in the cache. The entrywise part of the cells
    is left out of the operations, so that they are the fewest that the layer can do with."""
    units, batch, steps = shape
    gates, places = GATES[cell], batch * steps
    operations = 2 * places * gates * units * (INPUTS + units)
    # inputs read, states written
    values = INPUTS + units
    if backward:
        # two more products for each; what was saved written and read, inputs, states and their gradient read, the
        # inputs' gradient written
        operations *= 3
        values += 2 * INPUTS + 2 * SAVED[cell] * units + 2 * units
    return float(operations), 4.0 * places * values


def start(extent: Extent) -> dict[str, Any]:
    """From the start of a process to the end of the first training step of GOTO's first job, 8 trials."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "grid.yaml").write_text(yaml.safe_dump(experiment(goto_grid.DATA, 1)))
        environment = record.as_installed()
        results, aside = place / "results" / "compiled", place / "aside"

        def run(*words: Any) -> float:
            command = [str(word) for word in (sys.executable, *words)]
            began = time.perf_counter()
            done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-4000:])
            return time.perf_counter() - began

        for command in ("ingest", "split", "plan"):
            run("-m", "jaxrnn", command, "--config", "grid.yaml")
        if not any(results.iterdir()):
            sys.exit("`jaxrnn plan` left no compiled program")
        job = min((place / "results" / "goto" / "jobs").iterdir())
        step = ("-c", FIRST_STEP, "train", "--config", job / "config.yaml")
        times: dict[str, list[float]] = {"cold_seconds": [], "warm_seconds": []}
        for number in range(extent.runs + 1):
            shutil.move(results, aside)
            cold = run(*step)
            # a process that ends by os._exit leaves none
            assert not results.exists(), "the cold start found compiled programs, or left some"
            shutil.move(aside, results)
            warm = run(*step)
            if number:  # the first also meets cold files
                times["cold_seconds"].append(cold)
                times["warm_seconds"].append(warm)
        return {name: record.spread(each) for name, each in times.items()}


PARTS = {part.__name__: part for part in (trials, steps, objects, device, start)}
AXES = {
    "trials": ("trials in the pack", "seconds an epoch of the whole pack"),
    "steps": ("steps a sequence", "seconds a training step"),
    "objects": ("objects", "seconds an epoch"),
}


def draw(name: str, found: dict[str, Any]) -> None:
    """Draws a part's medians with their spread and the fitted line, log-log."""
    import altair as alt

    from jaxrnn.report.figures import FONT, LIGHT

    x, y = AXES[name]
    rows = [{"x": row["size"], **row["seconds"]} for row in found["rows"]]
    for row in rows:
        row["fitted"] = found["constant"] * row["x"] ** found["exponent"]
    base = alt.Chart(alt.Data(values=rows)).encode(alt.X("x:Q", title=x, scale=alt.Scale(type="log")))
    scale = alt.Scale(type="log")
    spread = base.mark_rule(color=LIGHT["first"]).encode(alt.Y("low:Q", title=y, scale=scale), alt.Y2("high:Q"))
    points = base.mark_point(color=LIGHT["first"], filled=True, size=60).encode(alt.Y("median:Q", scale=scale))
    line = base.mark_line(color=LIGHT["second"], strokeDash=[6, 3]).encode(alt.Y("fitted:Q", scale=scale))
    title = alt.Title(
        f"{y[0].upper()}{y[1:]} against {x}",
        subtitle=f"points: medians, least and most; dashed: fitted, exponent {found['exponent']:.2f}",
    )
    chart = alt.layer(line, spread, points, title=title).properties(width=480, height=300, background="white")
    FIGURES.mkdir(exist_ok=True)
    chart.configure(font=FONT).configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal").save(
        FIGURES / f"{name}.svg"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--largest", type=int, default=10**9, help="leaves larger sizes out, for a try")
    parser.add_argument("--runs", type=int, default=5, help="of each (5)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; the parts are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        print(name, file=sys.stderr, flush=True)
        noted = record.begun() | {"device": jax.devices()[0].device_kind}
        found = {**noted, **PARTS[name](Extent(options.largest, options.runs))}
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        record.keep(options.output, {**kept, name: found})
        if name in AXES and options.output == OUTPUT:
            draw(name, found)


if __name__ == "__main__":
    main()
