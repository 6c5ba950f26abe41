"""Early classification beside SuperNNova's, on one split of SPCC: accuracy and AUC around the peak, with paired tests.

    python benchmarks/early.py --folder SCRATCH --supernnova /path/to/its/venv/bin/python

SuperNNova makes its database, with the split, and trains as in `../shared/systems.md`; then `config/spcc_early.yaml` is
trained on the very same objects, and both are scored on the same test objects. Every step is kept in SCRATCH and not
repeated. Results go to benchmarks/results/early.json, and as a Markdown table to the standard output.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import yaml
from ingest import TWO_WORKERS, TYPES, machine, version_of, write_survey
from scipy import stats
from sklearn.metrics import roc_auc_score

from jaxrnn import early, predictions
from jaxrnn.config import Early
from jaxrnn.results import Results

RESULTS = Path(__file__).parent / "results" / "early.json"
CONFIG = Path(__file__).parent.parent / "config" / "spcc_early.yaml"
OFFSETS = (-7, -2, 0, 2, 30)
SPLITS = ("train", "validation", "test")  # as SuperNNova numbers them
TARGET = 0  # the class Ia, first in both
DRAWS = 2_000


@dataclass(frozen=True)
class Bench:
    folder: Path
    data: Path
    peer: Path
    epochs: int
    seeds: int

    def once(self, name: str, command: list[Any]) -> float:
        """Runs a command, unless an earlier call did; returns the seconds that it took."""
        done = self.folder / f"{name}.seconds"
        if not done.exists():
            print(f"{name} ...", file=sys.stderr, flush=True)
            started = time.perf_counter()
            with (self.folder / f"{name}.log").open("w") as log:
                code = subprocess.run([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT).returncode
            if code:
                sys.exit(f"{name} failed; see {log.name}")
            done.write_text(str(time.perf_counter() - started))
        return float(done.read_text())

    def jaxrnn(self, name: str, *words: Any) -> float:
        return self.once(name, [sys.executable, "-m", "jaxrnn", *words, "--results", self.folder / "results"])


# ---------------------------------------------------------------- both sides


def supernnova(bench: Bench) -> tuple[pd.DataFrame, dict[str, int], float]:
    """Returns its predictions of the test objects, its split of all objects by id, and the seconds of training."""
    survey, output = bench.folder / "survey", bench.folder / "peer"
    if not survey.exists():
        survey.mkdir(parents=True)
        write_survey(bench.data / "spcc", survey, 1, 1)
    types = ["--sntype_var", "SNTYPE", "--sntypes", json.dumps({str(code): name for code, name in TYPES.items()})]
    common = ["--dump_dir", output, "--redshift", "zpho", *types]
    bench.once("make_data", [bench.peer, "-c", TWO_WORKERS, "make_data", "--raw_dir", survey, *common])
    seconds = bench.once("train_rnn", [bench.peer, "-c", TWO_WORKERS, "train_rnn", "--nb_epoch", bench.epochs, *common])
    (found,) = (output / "models").glob("*/PRED_*.pickle")
    with h5py.File(output / "processed" / "database.h5") as file:
        ids = np.array([name.decode() for name in file["SNID"][()]])  # type: ignore
        split = dict(zip(ids.tolist(), file["dataset_photometry_2classes"][()].tolist(), strict=True))  # type: ignore
    # made by our own call just above
    return pd.read_pickle(found).set_index("SNID"), split, seconds


def ours(bench: Bench, split: dict[str, int]) -> tuple[list[str], predictions.Predictions, early.Clock, float]:
    """Trains on the same split; returns the trials, their predictions of the test objects, and when steps were."""
    folder = bench.folder / "ours"
    used = {name: SPLITS[place] for name, place in split.items() if place >= 0}
    if not folder.exists():
        folder.mkdir(parents=True)
        with np.load(bench.data / "spcc" / "spcc_lightcurves.npz") as arrays:
            ids = np.repeat(arrays["snid"], np.diff(arrays["offsets"]))
            columns = {name: arrays[name] for name in ("mjd", "band", "flux", "flux_err")}
        table = pd.DataFrame({"snid": ids} | columns)
        table[table["snid"].astype(str).isin(list(used))].to_csv(folder / "observations.csv", index=False)
        objects = pd.read_csv(bench.data / "spcc" / "spcc_metadata.csv", dtype={"snid": str})
        objects = objects[objects["snid"].isin(list(used))].assign(split=lambda table: table["snid"].map(used))
        wanted = ["snid", "sim_type", "split", "hostz", "hostz_err", "sim_peakmjd"]
        objects[wanted].to_csv(folder / "objects.csv", index=False)
    values = yaml.safe_load(CONFIG.read_text())
    values["data"] |= {
        "reader": "table",
        "path": str(folder.resolve()),
        "options": {
            "object": "snid",
            "time": "mjd",
            "values": {"flux": "SNANA FLUXCAL", "flux_error": {"column": "flux_err", "unit": "SNANA FLUXCAL"}},
            "errors": ["flux_error"],
            "passband": "band",
            "passbands": {"g": 0, "r": 1, "i": 2, "z": 3},
            "label": "sim_type",
            "split": "split",
            "files": "observations.csv",
            "metadata": {
                "file": "objects.csv",
                "object": "snid",
                "columns": {"hostz": "", "hostz_err": "", "sim_peakmjd": "days"},
            },
        },
    }
    values |= {"split": {"method": "given"}, "seeds": bench.seeds}
    config = bench.folder / "ours.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    at = Results(bench.folder / "results")
    for command in ("ingest", "split", "plan"):
        bench.jaxrnn(f"ours_{command}", command, "--config", config)
    jobs = sorted(at.experiment("spcc_early").glob("jobs/*/config.yaml"))
    seconds = sum(bench.jaxrnn(f"ours_train_{file.parent.name}", "train", "--config", file) for file in jobs)
    (job,) = jobs
    content, classes = predictions.read(job.parent / "predictions.h5")
    assert classes[TARGET] == "Ia"
    test = content["test"]
    (dataset,) = (bench.folder / "results" / "datasets").iterdir()
    clock = early.Clock.read(dataset, test.ids, Early(around="sim_peakmjd", at=OFFSETS))
    return list(test.probabilities), test, clock, seconds


def steps_seen(clock: early.Clock, offset: int) -> np.ndarray:
    """Returns how many nights [object] SuperNNova sees at an offset: those before the night nearest to the peak and the
    offset, which it leaves out even where it was earlier."""
    moment = clock.around + offset  # type: ignore[operator]
    counts = []
    for index, limit in enumerate(moment):
        times = clock.time[clock.offsets[index] : clock.offsets[index + 1]]
        place = int(np.searchsorted(times, limit))
        if place > 0 and (place == len(times) or abs(limit - times[place - 1]) < abs(limit - times[place])):
            place -= 1
        counts.append(place)
    return np.array(counts)


# ---------------------------------------------------------------- comparison


def compared(labels: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int = 1) -> dict[str, Any]:
    """Returns accuracy in % and AUC of two sides' probabilities [object] of class Ia, with paired tests.

    p_accuracy: exact McNemar test, two-sided. auc_difference: with its 95 % interval and p_auc by bootstrap over
    objects, which both sides share.
    """
    is_target = labels == TARGET
    right, other = (((p > 0.5) == is_target) for p in (first, second))
    won, lost = int((right & ~other).sum()), int((other & ~right).sum())
    rng, differences = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        drawn = rng.integers(len(labels), size=len(labels))
        if is_target[drawn].any() and not is_target[drawn].all():
            pair = [roc_auc_score(is_target[drawn], p[drawn]) for p in (first, second)]
            differences.append(pair[0] - pair[1])
    drawn = np.array(differences)
    below = (np.sum(drawn <= 0) + 1) / (len(drawn) + 1)
    return {
        "objects": len(labels),
        "accuracy": round(100 * float(right.mean()), 2),
        "accuracy_supernnova": round(100 * float(other.mean()), 2),
        "right_alone": won,
        "right_alone_supernnova": lost,
        "p_accuracy": float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        "auc": round(float(roc_auc_score(is_target, first)), 4),
        "auc_supernnova": round(float(roc_auc_score(is_target, second)), 4),
        "auc_difference_interval": [round(float(value), 4) for value in np.quantile(drawn, [0.025, 0.975])],
        "p_auc": float(min(1.0, 2 * min(below, 1 - below + 1 / (len(drawn) + 1)))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch; what is there is not made again")
    parser.add_argument("--supernnova", type=Path, required=True, help="the Python of an environment with SuperNNova")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the real surveys")
    parser.add_argument("--epochs", type=int, default=90, help="of SuperNNova (90)")
    parser.add_argument("--seeds", type=int, default=3, help="of ours (3)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, options.data.resolve(), options.supernnova, options.epochs, options.seeds)
    load = os.getloadavg()[0]
    theirs, split, their_seconds = supernnova(bench)
    trials, test, clock, seconds = ours(bench, split)
    theirs = theirs.loc[test.ids.tolist()]
    if not ((theirs["target"].to_numpy() == 0) == (test.labels == TARGET)).all():
        sys.exit("the two sides' labels differ")
    rows: dict[str, Any] = {}
    for offset in (*OFFSETS, None):
        suffix = "all" if offset is None else "PEAKMJD" + (f"{offset:+d}" if offset else "")
        second = theirs[f"{suffix}_class0"].to_numpy()
        counts = clock.lengths if offset is None else clock.steps_until(clock.around + offset)  # type: ignore
        fewer = clock.lengths if offset is None else steps_seen(clock, offset)
        for name, seen in ((suffix, counts), (f"{suffix}_same_nights", fewer)):
            if offset is None and name != suffix:
                continue
            both = (seen > 0) & np.isfinite(second)
            places = test.offsets[:-1][both] + seen[both] - 1
            found = [
                compared(test.labels[both], test.probabilities[trial][places, TARGET], second[both]) for trial in trials
            ]
            rows[name] = dict(zip(trials, found, strict=True))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "supernnova": version_of(bench.peer),
        "load_before": round(load, 2),
        "supernnova_epochs": bench.epochs,
        "objects": {name: list(split.values()).count(index) for index, name in enumerate(SPLITS)},
        "train_seconds_of_all_trials": round(seconds, 1),
        "train_rnn_seconds": round(their_seconds, 1),
        "moments": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print("| moment | trial | objects | accuracy % | SuperNNova | p | AUC | SuperNNova | difference, 95 % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for moment, by_trial in rows.items():
        for trial, row in by_trial.items():
            low, high = row["auc_difference_interval"]
            print(
                f"| {moment} | {trial} | {row['objects']} | {row['accuracy']:.1f} | {row['accuracy_supernnova']:.1f}",
                f"{row['p_accuracy']:.2g} | {row['auc']:.4f} | {row['auc_supernnova']:.4f}",
                f"{low:+.4f} to {high:+.4f} |",
                sep=" | ",
            )


if __name__ == "__main__":
    main()
