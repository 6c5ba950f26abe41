"""Measures prediction: objects a second of `jaxrnn predict` end to end, and of its networks alone.

    python benchmarks/predict.py --folder SCRATCH

The survey is a table of light curves in CSV, the model a network as it begins (what it says takes as long as what a
trained one says). Results go to benchmarks/results/predict.json, and as Markdown to the standard output.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import record
from flax import nnx
from pyarrow import csv

from jaxrnn import bundles, features, inference, ingest, predict, shards, splits, training
from jaxrnn.batches import Examples
from jaxrnn.bundles import Bundle, Member
from jaxrnn.config import Data, Model, Task
from jaxrnn.ranks import Ranks
from jaxrnn.splits import Statistics

RESULTS = record.RESULTS / "predict.json"
STEPS = 60  # on average
CLASSES = ("Ia", "II", "Ibc")
DATA: dict[str, Any] = {
    "reader": "table",
    "options": {
        "object": "star",
        "time": "mjd",
        "values": {"flux": "uJy", "flux_error": "uJy"},
        "errors": ["flux_error"],
        "passband": "band",
        "passbands": ["g", "r", "i", "z"],
    },
    "features": ["time_since_first", "time_difference", "passband", "flux", "flux_error"],
    "shard_mb": 16,
}
MODEL = {"cell": "gru", "units": 64, "depth": 2, "dense_units": 32}


def write_survey(folder: Path, objects: int) -> int:
    """Writes the survey, unless it is there; returns its bytes."""
    file = folder / "observations.csv"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        lengths = rng.integers(STEPS // 2, STEPS * 3 // 2, objects)
        count = int(lengths.sum())
        columns = {
            "star": np.repeat(np.arange(objects), lengths),
            "mjd": rng.uniform(59000, 59200, count).round(4),
            "flux": rng.normal(20, 30, count).round(3),
            "flux_error": rng.uniform(1, 5, count).round(3),
            "band": np.array(list("griz"))[rng.integers(0, 4, count)],
        }
        csv.write_csv(pa.table(columns), file)
    return file.stat().st_size


def model(survey: Path, members: int) -> Bundle:
    """Returns an ensemble of networks as they begin."""
    data = Data.model_validate({**DATA, "path": str(survey)})
    _, known = ingest.opened(data, survey, to_predict=True)
    inputs = [vars(column) for column in features.describe(data, known)]
    settings, width = Model.model_validate(MODEL), len(inputs)

    def arrays(seed: int) -> dict[str, np.ndarray]:
        network = training.network(settings, width, 0, len(CLASSES), "sequence", jax.random.key(seed))
        _, parameters, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
        return predict.flattened(parameters, statistics)

    nothing, zeros, ones = np.zeros(0), np.zeros(width), np.full(width, 30.0)
    statistics = Statistics(CLASSES, np.ones(3, np.int64), zeros, ones, nothing, nothing, "", "")
    return Bundle(
        settings, Task(), len(CLASSES), data, known, inputs, [], statistics,
        tuple(Member(f"seed-{seed}", seed, 1.0, arrays(seed)) for seed in range(members)), {},
    )  # fmt: skip


def timed_command(best: Path, survey: Path, output: Path, ranks: int) -> float:
    """Returns the seconds of `jaxrnn predict` from its start to the table."""
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    words = [*launcher, sys.executable, "-m", "jaxrnn", "predict", "--model", best, "--input", survey]
    began = time.perf_counter()
    done = subprocess.run(
        [*map(str, words), "--output", str(output), "--ranks", str(ranks)],
        capture_output=True, text=True, env=record.as_installed(),
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"jaxrnn predict failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def timed_networks(bundle: Bundle, survey: Path, folder: Path, runs: int) -> list[float]:
    """Returns the seconds that the networks take for all shards, which are in memory; the programs are compiled."""
    data = inference.data_for(bundle, survey)
    ingest.ingest(data, survey, folder, Ranks(), lambda done, total: None, to_predict=True)
    held = []
    for path in splits.shard_paths(folder):
        shard = shards.read(path)
        inputs = bundle.statistics.normalised(shard.features, shard.metadata, shard.offsets)
        held.append(Examples(shard.ids, shard.labels, shard.offsets, *inputs))
    found = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        for examples in held:
            predict.by_batches(bundle, examples)
        found.append(time.perf_counter() - began)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch")
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--members", type=int, default=1, help="networks of the ensemble")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="MPI ranks, one measurement each")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    noted = record.begun()
    survey, best = given.folder / "survey", given.folder / "best"
    size = write_survey(survey, given.objects)
    bundle = model(survey, given.members)
    bundles.save(best, bundle, "")
    found: dict[str, Any] = {}
    for ranks in given.ranks:
        seconds = [timed_command(best, survey, given.folder / "p.parquet", ranks) for _ in range(given.runs)]
        found[f"jaxrnn predict, {ranks} ranks"] = record.spread([given.objects / taken for taken in seconds])
    alone = timed_networks(bundle, survey, given.folder / "dataset", given.runs)
    found["networks alone"] = record.spread([given.objects / taken for taken in alone])
    sizes = {"objects": given.objects, "mean_steps": STEPS, "survey_bytes": size, "members": given.members}
    record.keep(given.output, {**noted, **sizes, "objects_per_second": found})
    print("| what | objects a second |\n| --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {values['median']:.0f} ({values['low']:.0f} to {values['high']:.0f}) |")


if __name__ == "__main__":
    main()
