"""GOTO's grid, 32 trials of 50 epochs: our whole workflow beside PyTorch and beside the first system's Keras.

    python benchmarks/goto.py [--keras /path/to/its/venv/bin/python [--keras-trials 4]] [--torch-trials 8]

gru and lstm, units 25 and 50, dropout 0.2 and 0.5, learning rate 1e-3 and 1e-2, gamma 0 and 1, batch 32, validation
after every epoch, no early stopping, on the sample data of GOTO. Ours is `snakemake` over the whole DAG in an empty
folder: start-up, ingest, compilation, training, prediction of both splits, tables and report, with nothing compiled
earlier. A peer is one process that reads the same arrays and trains one model after another, with its start-up:
PyTorch with one thread, with a thread a core, and as a process of one thread on each core, which share the trials.

A peer may train fewer trials, equally many of each cell and number of units: the whole is then its start-up and end
once, and the trials' seconds times 32 over their number. Sides run in turn, after a short run of each that is not
counted. Results go to benchmarks/results/goto.json.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import goto_grid
import record
import yaml
from goto_grid import BATCH, EPOCHS, GRID, TRIALS

from jaxrnn import blueprint
from jaxrnn.config import load

CHECKOUT = Path(__file__).resolve().parents[1]
OUTPUT = record.RESULTS / "goto.json"
FEATURES, COLUMNS, CLASSES = 3, 2, 2
# Biases that a peer adds to one that is there already, for each unit of two layers.
DOUBLE_BIASES = {("torch", "gru"): 4, ("torch", "lstm"): 8, ("keras", "gru"): 4, ("keras", "lstm"): 0}
LEAST_ACCURACY = 0.9


@dataclass(frozen=True)
class Run:
    """One run of a side. seconds: of the whole grid, wall clock. measured: without what follows from fewer trials.
    training: between the first training job's start and the last one's end, of ours. losses, accuracies: of each trial
    on validation after its last epoch."""

    seconds: float
    measured: float
    losses: list[float]
    accuracies: list[float]
    training: float | None = None


def experiment(data: Path, epochs: int) -> dict[str, Any]:
    """Returns the values of the experiment file: config/goto.yaml with the benchmark's grid."""
    values = yaml.safe_load((CHECKOUT / "config" / "goto.yaml").read_text())
    values["data"]["path"] = str(data)
    values |= {"grid": GRID, "seeds": 1}
    values["training"] |= {"epochs": epochs, "batch_size": BATCH}
    return values


def ours(data: Path, epochs: int) -> Run:
    """Runs the whole workflow in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "grid.yaml").write_text(yaml.safe_dump(experiment(data, epochs)))
        command = [sys.executable, "-m", "snakemake", "--snakefile", CHECKOUT / "Snakefile"]
        command += ["--profile", CHECKOUT / "workflow" / "profiles" / "local", "--configfile", "grid.yaml"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=record.as_installed())
        seconds = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        results = place / "results" / "goto"
        ends = [(file.stat().st_mtime, file) for file in results.glob("jobs/*/benchmark.tsv")]
        spans = [(end - float(next(_rows(file, "\t"))["s"]), end) for end, file in ends]
        last = {row["trial"]: row for row in _rows(results / "history.csv")}
        assert len(last) == len(TRIALS), f"{len(last)} trials"
        return Run(
            seconds,
            seconds,
            [float(row["validation_loss"]) for row in last.values()],
            [float(row["validation_accuracy"]) for row in last.values()],
            max(end for _, end in spans) - min(start for start, _ in spans),
        )


def _rows(file: Path, delimiter: str = ",") -> Any:
    with file.open() as opened:
        yield from csv.DictReader(opened, delimiter=delimiter)


def peer(
    library: str, python: Path, options: list[Any], trials: list[int], processes: int = 1, threads: int = 0
) -> Run:
    """Trains the trials in so many processes, which share them out; threads: 0 for the library's own choice."""
    script = Path(__file__).with_name(f"goto_{library}.py")
    environment = record.as_installed(**({"OMP_NUM_THREADS": str(threads)} if threads else {}))
    began = time.perf_counter()
    started = []
    for share in range(processes):
        chosen = trials[share::processes]
        command = [python, script, *options, "--threads", threads, "--trials", *chosen]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        started.append(subprocess.Popen([str(word) for word in command], **pipes))  # type: ignore[call-overload]
    outputs = [process.communicate() for process in started]
    measured = time.perf_counter() - began
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            sys.exit(f"{script.name} failed:\n{errors[-4000:]}")
    shares = [[yaml.safe_load(line) for line in printed.splitlines()] for printed, _ in outputs]
    found = [entry for share in shares for entry in share]
    for entry in found:
        _check_parameters(library, entry)
    training = max(sum(entry["seconds"] for entry in share) for share in shares)
    whole = measured + training * (len(TRIALS) / len(trials) - 1)
    return Run(whole, measured, [entry["loss"] for entry in found], [entry["accuracy"] for entry in found])


def _check_parameters(library: str, entry: dict[str, Any]) -> None:
    trial = TRIALS[entry["trial"]]
    expected = parameters(trial.cell, trial.units) + DOUBLE_BIASES[library, trial.cell] * trial.units
    assert entry["parameters"] == expected, f"{library}, {trial}: {entry['parameters']} parameters, not {expected}"


def parameters(cell: str, units: int) -> int:
    """Returns how many our network has."""
    model = load(CHECKOUT / "config" / "goto.yaml").model.model_copy(update={"cell": cell, "units": units})
    return blueprint.of(model, "sequence", FEATURES, COLUMNS, CLASSES).parameters


def _summary(runs: list[Run], trials: int, epochs: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "trials": trials,
        "scaled": trials < len(TRIALS),
        "seconds": record.spread([run.seconds for run in runs]),
        "measured_seconds": record.spread([run.measured for run in runs]),
        "validation_loss": record.spread(runs[-1].losses),
        "validation_accuracy": record.spread(runs[-1].accuracies),
    }
    if runs[0].training is not None:
        found["training_seconds"] = record.spread([run.training or 0 for run in runs])
    accuracy = statistics.median(runs[-1].accuracies)
    # a side that does not learn would be no peer; fewer epochs than the benchmark's are for trying the script
    assert epochs < EPOCHS or accuracy > LEAST_ACCURACY, f"half of the trials have an accuracy below {accuracy:.3f}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each side (5)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of each trial ({EPOCHS})")
    parser.add_argument("--data", type=Path, default=goto_grid.DATA, help="folder with GOTO's sample data")
    parser.add_argument("--torch-trials", type=int, default=len(TRIALS), help="of PyTorch, a multiple of 4 a core (32)")
    parser.add_argument("--keras", type=Path, help="the Python of an environment with tensorflow-cpu")
    parser.add_argument("--keras-trials", type=int, default=len(TRIALS), help="of Keras, a multiple of 4 (32)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    # processes that share few trials must each have equally many of each cell and number of units
    for count, step in ((options.torch_trials, 4 * cores), (options.keras_trials, 4)):
        if count != len(TRIALS) and count not in range(step, len(TRIALS), step):
            parser.error(f"{count} trials: it must be {len(TRIALS)}, or less and a multiple of {step}")
    noted = record.begun() | {"runs": options.runs, "epochs": options.epochs}
    noted["machine"] |= record.versions(Path(sys.executable), ["torch"])
    if options.keras:
        noted["machine"] |= record.versions(options.keras, ["keras", "tensorflow-cpu"])

    def of(library: str, python: Path, count: int, **settings: int) -> Callable[[int], Run]:
        def side(epochs: int) -> Run:
            arguments = ["--data", options.data, "--epochs", epochs]
            return peer(library, python, arguments, goto_grid.some(count), **settings)

        return side

    own, count = Path(sys.executable), options.torch_trials
    sides: dict[str, Callable[[int], Run]] = {
        "ours": lambda epochs: ours(options.data, epochs),
        "torch_1_thread": of("torch", own, count, threads=1),
        "torch_all_threads": of("torch", own, count, threads=cores),
        "torch_process_a_core": of("torch", own, count, threads=1, processes=cores),
    }
    if options.keras:
        sides["keras"] = of("keras", options.keras, options.keras_trials)
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(options.runs + 1):
        for name, side in sides.items():
            done = side(options.epochs if number else 1)
            print(f"{name}: {done.measured:.1f} s{'' if number else ', not counted'}", file=sys.stderr, flush=True)
            if number:  # before, modules are compiled and files read
                runs[name].append(done)
    counts = {"ours": len(TRIALS), "keras": options.keras_trials}
    found = {name: _summary(each, counts.get(name, count), options.epochs) for name, each in runs.items()}
    seconds = {name: entry["seconds"] for name, entry in found.items()}
    in_turn = min(("torch_1_thread", "torch_all_threads"), key=lambda name: seconds[name]["median"])
    ratios = {
        "torch_over_ours": record.ratio(seconds[in_turn], seconds["ours"]),
        "torch_process_a_core_over_ours": record.ratio(seconds["torch_process_a_core"], seconds["ours"]),
    }
    if options.keras:
        ratios["keras_over_ours"] = record.ratio(seconds["keras"], seconds["ours"])
    record.keep(options.output, {**noted, "sides": found, "torch_in_turn": in_turn, **ratios})
    for name, value in ratios.items():
        print("{name}: {median:.1f} ({low:.1f} to {high:.1f})".format(name=name, **value))


if __name__ == "__main__":
    main()
