"""An epoch of SPCC and prediction beside SuperNNova's: two bidirectional layers of 32 LSTM units, batch 128, one trial.

    python benchmarks/supernnova.py --folder SCRATCH --supernnova /path/to/its/venv/bin/python

Balanced classes, 80 / 10 / 10 %, photometric redshift of the host. SuperNNova trains by its own function, with whole
sequences and with its default, which cuts each at random; ours is a job of `jaxrnn train`. The times are taken between
the calls that each makes anyway: of an epoch's training steps alone, and with its validation, where SuperNNova also
scores training objects and draws its losses. Predicted are the training objects, from what each side keeps: arrays
in memory by SuperNNova, shards on disk by ours. Both sides run in turn; of each run the first epoch does not count.
Results go to benchmarks/results/supernnova.json.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import record
import yaml
from goto import CHECKOUT
from ingest import TWO_WORKERS, TYPES, write_survey

OUTPUT = record.RESULTS / "supernnova.json"
UNITS, BATCH = 32, 128


def experiment(data: Path, epochs: int) -> dict[str, Any]:
    values = yaml.safe_load((CHECKOUT / "config" / "spcc_early.yaml").read_text())
    values["experiment"] = "spcc_epoch"
    values["data"] |= {"path": str(data / "spcc"), "evaluation": [], "night_gap": 0.33}  # days: SuperNNova's
    values["task"] = {"classes": values["task"]["classes"]}
    values["model"] = {"cell": "lstm", "units": UNITS, "depth": 2, "bidirectional": True, "pooling": "mean"}
    values["model"] |= {"dropout": 0.05, "dense_depth": 0}
    values["training"] = {"batch_size": BATCH, "epochs": epochs, "length_buckets": 3}
    return values | {"augmentation": {}, "selection": {}, "seeds": 1}


def ours(config: Path) -> None:
    """Trains a job, predicts its training objects, and prints the times."""
    import jax

    from jaxrnn import blueprint, bundles, jobs, plan, predict, splits, training
    from jaxrnn.batches import Corpus
    from jaxrnn.results import Results

    at, job_file = Results(Path("results")), plan.load_job(config)
    begun: list[float] = []
    trained: list[float] = []
    make = training.make

    def timed(*values: Any, **options: Any) -> training.Program:
        program = make(*values, **options)

        def advance(*values: Any) -> training.State:
            if len(begun) == len(trained):
                begun.append(time.perf_counter())
            return program.advance(*values)

        def evaluate(*values: Any) -> jax.Array:
            if len(begun) > len(trained):
                trained.append(time.perf_counter())
            return program.evaluate(*values)

        return program._replace(advance=advance, evaluate=evaluate)

    training.make = timed
    jobs.train(job_file, at, config.parent, lambda text: print(text, file=sys.stderr))
    (trial,) = job_file.job.trials
    folder = at.experiment(job_file.experiment)
    statistics = splits.read_statistics(folder, None, job_file.training.sequences)
    corpus = Corpus(at.dataset(job_file.job.dataset), splits.read_splits(folder), statistics, task=job_file.task)
    part, arrays = corpus.part("train"), bundles.read_arrays(config.parent / "models" / f"{trial.id}.npz")
    outputs = len(statistics.classes)
    speeds = []
    for _ in range(job_file.training.epochs + 1):
        began = time.perf_counter()
        predict.probabilities(job_file.model, [arrays], part, outputs)
        speeds.append(len(part) / (time.perf_counter() - began))
    found = {
        "epoch_seconds": [end - start for start, end in zip(begun, trained, strict=True)],
        "whole_epoch_seconds": [end - start for start, end in itertools.pairwise(begun)],
        "objects_per_second": speeds[1:],  # the first compiles
        "objects": len(part),
        "parameters": blueprint.of(job_file.model, "sequence", part.features, part.metadata, outputs).parameters,
    }
    print(json.dumps(found))


def said(command: list[Any], folder: Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=record.as_installed(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words[:6])} ... failed:\n{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch; what is there is not made again")
    parser.add_argument("--supernnova", type=Path, required=True, help="the Python of an environment with SuperNNova")
    parser.add_argument("--data", type=Path, default=CHECKOUT.parent / "shared" / "data", help="the real surveys")
    parser.add_argument("--runs", type=int, default=5, help="of each side (5)")
    parser.add_argument("--epochs", type=int, default=4, help="of each run, 3 or more (4)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if options.epochs < 3:
        parser.error("--epochs: at least 3, as the first does not count and ours leaves the last one's end untold")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    noted = record.begun()
    noted["machine"] |= record.versions(options.supernnova, ["supernnova", "torch"])
    survey, peer = folder / "survey", folder / "peer"
    types = ["--sntype_var", "SNTYPE", "--sntypes", json.dumps({str(code): name for code, name in TYPES.items()})]
    common = ["--dump_dir", peer, "--redshift", "zpho", *types]
    if not (peer / "processed" / "database.h5").exists():
        shutil.rmtree(survey, ignore_errors=True)
        survey.mkdir()
        write_survey(options.data.resolve() / "spcc", survey, 1, 1)
        said([options.supernnova, "-c", TWO_WORKERS, "make_data", "--raw_dir", survey, *common], folder)
    (folder / "epoch.yaml").write_text(yaml.safe_dump(experiment(options.data.resolve(), options.epochs)))
    for command in ("ingest", "split", "plan"):
        said([sys.executable, "-m", "jaxrnn", command, "--config", "epoch.yaml"], folder)
    results = folder / "results" / "spcc_epoch"
    (config,) = results.glob("jobs/*/config.yaml")
    # -P: this file is no package of theirs
    theirs = [options.supernnova, "-P", Path(__file__).with_name("supernnova_peer.py").resolve(), *common]
    theirs += ["--nb_epoch", options.epochs, "--hidden_dim", UNITS, "--batch_size", BATCH]
    sides: dict[str, list[Any]] = {
        "ours": [sys.executable, Path(__file__).resolve(), "--train", config],
        "supernnova": [*theirs, "--random_length", "False"],
        "supernnova_random_lengths": theirs,
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(options.runs):
        for name, command in sides.items():
            if name == "ours":
                shutil.rmtree(results / "trials", ignore_errors=True)
            runs[name].append(json.loads(said(command, folder).splitlines()[-1]))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
    found = {}
    for name, each in runs.items():
        found[name] = {key: each[0][key] for key in ("objects", "parameters")}
        for key, first in (("epoch_seconds", 1), ("whole_epoch_seconds", 1), ("objects_per_second", 0)):
            found[name][key] = record.spread([value for run in each for value in run[key][first:]])
    ratios = {
        "epoch_over_ours": ("supernnova", "ours", "epoch_seconds"),
        "whole_epoch_over_ours": ("supernnova", "ours", "whole_epoch_seconds"),
        "random_lengths_epoch_over_ours": ("supernnova_random_lengths", "ours", "epoch_seconds"),
        "predictions_over_theirs": ("ours", "supernnova", "objects_per_second"),
    }
    content = {name: record.ratio(found[one][key], found[other][key]) for name, (one, other, key) in ratios.items()}
    shape = {"runs": options.runs, "objects": found["ours"]["objects"], "batch": BATCH}
    record.keep(options.output, {**noted, **shape, "sides": found, **content})
    for name, value in content.items():
        print("{name}: {median:.2f} ({low:.2f} to {high:.2f})".format(name=name, **value))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        ours(Path(sys.argv[2]))
    else:
        main()
