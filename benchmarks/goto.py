"""The first system's grid, 32 trials of 50 epochs: our whole command beside PyTorch, trial after trial.

    python benchmarks/goto.py [--runs 3]

gru and lstm, units 25 and 50, dropout 0.2 and 0.5, learning rate 1e-3 and 1e-2, gamma 0 and 1, batch 32, validation
after every epoch, no early stopping, on the sample data of GOTO. Ours is `snakemake` over the whole DAG in an empty
folder: start-up, ingest, compilation, training, prediction of both splits, tables and report. The peer is one process
of this file (`--peer THREADS`) that reads the same arrays and trains one model after another, with its start-up.
Results go to benchmarks/results/goto.json.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "goto.json"
DATA = CHECKOUT.parent / "shared" / "data" / "goto" / "sample_data"
EPOCHS, BATCH = 50, 32
GRID: dict[str, list[Any]] = {
    "model.cell": ["gru", "lstm"],
    "model.units": [25, 50],
    "model.dropout": [0.2, 0.5],
    "training.learning_rate": [1e-3, 1e-2],
    "loss.gamma": [0, 1],
}


def ours() -> float:
    """Returns the seconds of the whole workflow in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("Snakefile", "workflow", "environment.yml"):
            source = CHECKOUT / name
            shutil.copytree(source, place / name) if source.is_dir() else shutil.copy(source, place / name)
        values = yaml.safe_load((CHECKOUT / "config" / "goto.yaml").read_text())
        values["data"]["path"] = str(DATA)
        values |= {"grid": GRID, "seeds": 1}
        values["training"] |= {"epochs": EPOCHS, "batch_size": BATCH}
        (place / "grid.yaml").write_text(yaml.safe_dump(values))
        began = time.perf_counter()
        command = ["snakemake", "--profile", "workflow/profiles/local", "--configfile", "grid.yaml"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        taken = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        lines = (place / "results" / "goto" / "experiment_results.csv").read_text().splitlines()
        assert len(lines) == 33, f"{len(lines) - 1} trials"
        return taken


def peer(threads: int) -> None:
    """Trains the grid in PyTorch, one model after another, and prints the mean seconds of an epoch by trial."""
    import numpy as np
    import torch
    from recurrence import TorchNetwork

    torch.set_num_threads(threads)
    tensors: dict[str, tuple[torch.Tensor, ...]] = {}
    for split in ("train", "validation"):
        series, context, labels = (
            np.load(DATA / f"{split}_{name}.npy") for name in ("time_features", "contextual_features", "labels")
        )
        parts = (series.astype(np.float32), context.astype(np.float32), labels.argmax(axis=1))
        tensors[split] = tuple(map(torch.from_numpy, parts))
    for columns in (0, 1):
        values = tensors["train"][columns]
        axes = tuple(range(values.ndim - 1))
        mean, deviation = values.mean(axes), values.std(axes)
        for split, parts in tensors.items():
            kept = list(parts)
            kept[columns] = (parts[columns] - mean) / deviation
            tensors[split] = tuple(kept)
    counts = torch.bincount(tensors["train"][2])
    weights = counts.sum() / (len(counts) * counts)

    def loss_of(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
        chosen = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
        return -(weights[labels] * (1 - chosen.exp()) ** gamma * chosen).mean()

    for cell, units, dropout, rate, gamma in itertools.product(*GRID.values()):
        began = time.perf_counter()
        network = TorchNetwork(cell, units, dropout)
        adam = torch.optim.Adam(network.parameters(), rate)
        found = 0.0
        for _ in range(EPOCHS):
            network.train()
            for rows in torch.randperm(len(tensors["train"][0])).split(BATCH):
                adam.zero_grad()
                series, context, labels = (values[rows] for values in tensors["train"])
                penalty = 0.01 * network.last.weight.square().sum()
                (loss_of(network(series, context), labels, gamma) + penalty).backward()
                adam.step()
            network.eval()
            with torch.no_grad():
                found = float(loss_of(network(*tensors["validation"][:2]), tensors["validation"][2], gamma))
        assert np.isfinite(found)
        print(f"{(time.perf_counter() - began) / EPOCHS:.4f}", flush=True)


def peer_seconds(threads: int) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--peer", str(threads)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="How often each side runs, in turn.")
    parser.add_argument("--peer", type=int, help="Only PyTorch's side, with so many threads.")
    settings = parser.parse_args()
    if settings.peer:
        peer(settings.peer)
        return
    from ingest import machine

    noted = {"date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0], "runs": settings.runs}
    cores = len(os.sched_getaffinity(0))
    sides: dict[str, list[float]] = {"ours": []} | {f"torch_{count}_threads": [] for count in sorted({1, cores})}
    for _ in range(settings.runs):
        for name, taken in sides.items():
            taken.append(ours() if name == "ours" else peer_seconds(int(name.split("_")[1])))
            print(f"{name}: {taken[-1]:.1f} s", flush=True)
    found = {name: {"median": statistics.median(each), "each": each} for name, each in sides.items()}
    best = min(entry["median"] for name, entry in found.items() if name != "ours")
    content = {"machine": machine(), **noted, "seconds": found, "torch_over_ours": best / found["ours"]["median"]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(f"PyTorch took {content['torch_over_ours']:.1f} times as long")


if __name__ == "__main__":
    main()
