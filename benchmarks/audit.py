"""What the audit says of planted leaks, of clean experiments, and of the fifth system's two suspects.

    python benchmarks/audit.py planted clean clean_networks clips networks

Each part is written into benchmarks/results/audit.json when it is done; the others there stay. `planted`: each leak of
tests/planted.py with all audits (copies and groups: tests/test_audit.py). `clean`: 20 surveys in which values alone
tell the class, and 10 whose labels change within sequences; `clean_networks`: 20 experiments of jaxrnn's own networks
on such surveys. `clips`: the survey of config/audit_clips.yaml, by three reservoir networks (Jaeger 2001, GMD report
148: fixed random recurrence, of which a ridge regression reads the class), which are trained in no time: along time;
the same, told the true label of the step before; and along the axis of samples. `networks`: the same three of jaxrnn's
own, trained as that file says.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

import record  # noqa: E402
import reservoir  # noqa: E402

from jaxrnn import (  # noqa: E402  # noqa: E402
    aggregate,
    audit,
    blueprint,
    bundles,
    config,
    hypotheses,
    ingest,
    jobs,
    plan,
    predict,
    results,
    shuffles,
    splits,
    trials,
)
from jaxrnn import clips as simulated_clips  # noqa: E402
from jaxrnn.batches import Examples, Part  # noqa: E402
from jaxrnn.hypotheses import Finding, Lesson, Subject  # noqa: E402
from jaxrnn.ranks import Ranks  # noqa: E402
from jaxrnn.results import Results  # noqa: E402

OUTPUT = CHECKOUT / "benchmarks" / "results" / "audit.json"
CLEAN = 20
SCANS = 18  # of a subject


def said(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def shown(found: list[Finding]) -> dict[str, Any]:
    """Returns the verdicts, and of what was told the numbers."""
    keys = ("expected", "low", "high", "found", "p", "p_corrected", "accuracy")
    told = [entry for entry in found if entry.verdict != hypotheses.UNTOLD]

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {e.audit: {"verdict": e.verdict} | {k: rounded(getattr(e, k)) for k in keys} for e in told}


def alarms(found: list[Finding]) -> list[str]:
    return [entry.audit for entry in found if entry.verdict in (hypotheses.LEAK, hypotheses.SHORTCUT)]


def planted(folder: Path) -> dict[str, Any]:
    """Returns which audits raise an alarm for each leak, of all of them."""
    import test_audit  # pyright: ignore[reportMissingImports]

    done = {}
    for leak, (make, name, verdict) in test_audit.PLANTED.items():
        found = hypotheses.examine(make(), permutations=20)
        named = {entry.audit: entry.verdict for entry in found}[name] == verdict
        done[leak] = {"audit": name, "named": named, "alarms": alarms(found)}
        said(f"{leak}: {done[leak]}")
    return done


def experiment_of(folder: Path, seed: int) -> tuple[config.Experiment, Results]:
    """Returns a trained experiment on a clean survey of GOTO's form: classes differ by the values' frequency alone, and
    not too well."""
    import experiments  # pyright: ignore[reportMissingImports]

    generator = np.random.default_rng(seed)
    classes, objects = 2 + seed % 2, 240
    survey = folder / "survey"
    survey.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", objects), ("validation", objects // 3), ("test", objects // 2)):
        label = generator.permutation(np.arange(count) % classes)
        lengths = generator.integers(5, 13, count)
        steps = np.arange(12) + generator.uniform(0, 0.5, (count, 12)).cumsum(axis=1)
        phase = generator.uniform(0, 2 * np.pi, (count, 1))
        value = np.sin(steps * (0.4 + 0.5 * label[:, None]) + phase) + generator.normal(0, 0.4, (count, 12))
        table = np.stack([steps + generator.uniform(0, 300, (count, 1)), value, np.full((count, 12), 0.4)], axis=2)
        table[:, :, 2] *= generator.uniform(0.5, 1.5, (count, 12))
        table[np.arange(12) >= lengths[:, None]] = -99.0
        np.save(survey / f"{split}_time_features.npy", table)
        np.save(survey / f"{split}_contextual_features.npy", generator.normal(0, 1, (count, 2)))
        np.save(survey / f"{split}_labels.npy", np.eye(classes)[label])
    return trained(
        *experiments.prepared(
            folder,
            seed=seed,
            data={"reader": "goto", "path": str(survey), "features": ["time_difference", "value", "value_error"],
                  "metadata": ["context_0"]},
            model={"units": 8, "depth": 1, "dense_units": 5, "dense_depth": 1, "cell": ["gru", "lstm"][seed % 2]},
            training={"batch_size": 32, "learning_rate": 0.01, "epochs": 8, "length_buckets": 1},
        )
    )  # fmt: skip


def trained(experiment: config.Experiment, at: Results, made: plan.Plan) -> tuple[config.Experiment, Results]:
    for job in made.jobs:
        file = at.job(experiment.experiment, job.name) / "config.yaml"
        jobs.train(plan.load_job(file), at, file.parent, said)
    aggregate.aggregate(experiment, at)
    return experiment, at


def clean(folder: Path) -> dict[str, Any]:
    """Returns the alarms on surveys of tests/planted.py without a leak, with 2 to 4 classes, a label a sequence or a
    step, by ridge regressions; and on those whose labels change within sequences, by some that count steps."""
    import planted  # pyright: ignore[reportMissingImports]

    done = {}
    for seed in range(CLEAN):
        survey = planted.clean(100 + seed, classes=2 + seed % 3, by_step=bool(seed % 2))
        done[f"seed {seed}"] = judged(hypotheses.examine(planted.subject(survey), permutations=20))
        said(f"{seed}: {done[f'seed {seed}']}")
    for seed in range(CLEAN, CLEAN + CLEAN // 2):
        survey = planted.clean(100 + seed, classes=2 + seed % 3, by_step=True, changing=True)
        subject = planted.subject(survey, planted.counting)
        done[f"seed {seed}"] = judged(hypotheses.examine(subject, permutations=20))
        said(f"{seed}: {done[f'seed {seed}']}")
    return counted(done)


def clean_networks(folder: Path) -> dict[str, Any]:
    """Returns the alarms on experiments with jaxrnn's own networks."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    done = {}
    for seed in range(CLEAN):
        experiment, at = experiment_of(folder / str(seed), seed)
        done[f"seed {seed}"] = judged(audit.audit(experiment, at, lambda text: None))
        best = results.read_json(at.experiment("tiny") / "best.json", "")["test"]["macro_auc"]["value"]
        done[f"seed {seed}"]["macro AUC of the chosen network"] = round(best, 3)
        said(f"{seed}: {done[f'seed {seed}']}")
    return counted(done)


def judged(found: list[Finding]) -> dict[str, Any]:
    p_values = [entry.p_corrected for entry in found if entry.p_corrected is not None]
    return {"alarms": alarms(found), "least corrected p": round(min(p_values), 4)}


def counted(done: dict[str, Any]) -> dict[str, Any]:
    false = sum(bool(entry["alarms"]) for entry in done.values())
    return {"level": config.Audit().level, "experiments with an alarm": false, "experiments": done}


# The fifth system


def prepared(folder: Path) -> tuple[config.Experiment, Results]:
    """Returns the experiment of config/audit_clips.yaml, simulated, ingested, split and planned."""
    experiment, at = config.load(CHECKOUT / "config" / "audit_clips.yaml"), Results(folder)
    dataset = at.dataset(plan.dataset_key(experiment))
    simulation = config.load_simulation(CHECKOUT / "config" / "audit_clips.yaml")
    survey = plan.survey_folder(experiment, at)
    simulated_clips.simulate(simulation, survey, 0, 1, lambda done, total: None)
    simulated_clips.finish(simulation, survey)
    ingest.ingest(experiment.data, survey, dataset, Ranks(), lambda done, total: None)
    if not (at.experiment(experiment.experiment) / "splits.csv").exists():
        splits.split(experiment, dataset, at.experiment(experiment.experiment))
    plan.write(plan.make(experiment), at)
    return experiment, at


def clips(folder: Path) -> dict[str, Any]:
    experiment, at = prepared(folder)
    subject = audit._untrained(experiment, at, at.dataset(plan.dataset_key(experiment)))
    subject = replace(subject, lesson=Lesson(*map(in_memory, subject.lesson)))
    models = {"clean": reservoir.along_time, "fed": reservoir.fed, "along samples": reservoir.along_samples}
    done = {}
    for name, train in models.items():
        said(name)

        def learn(lessons: Mapping[str, Lesson], train: reservoir.Train = train) -> dict[str, np.ndarray]:
            return {key: train(entry, subject.classes)(entry.test) for key, entry in lessons.items()}

        own = replace(subject, learn=learn, predict=train(subject.lesson, subject.classes))
        done[name] = told(own, permutations=10, level=config.Audit().level)
    return done


def in_memory(part: Part) -> Part:
    return replace(part.some(np.arange(len(part))), splits=part.splits)


def told(subject: Subject, *, permutations: int, level: float) -> dict[str, Any]:
    """Returns the author's numbers of a network, and what the audit says of it."""
    found = hypotheses.examine(subject, permutations=permutations, level=level, say=said)
    assert subject.predict is not None and subject.learn is not None
    lessons = by_uniform_labels(subject)
    by_chance = subject.learn(lessons)
    return {
        "accuracy": accuracy(subject.predict(subject.lesson.test), subject.lesson.test.labels),
        "accuracy, labels uniform at every step": float(
            np.mean([accuracy(by_chance[key], lessons[key].test.labels) for key in lessons])
        ),
        "alarms": alarms(found),
        "audits": shown(found),
        "words": {entry.audit: entry.words for entry in found if entry.verdict != hypotheses.UNTOLD},
    }


def by_uniform_labels(subject: Subject) -> dict[str, Lesson]:
    return {
        f"uniform-{n}": Lesson(*(uniform_labels(part, n, role) for role, part in enumerate(subject.lesson)))
        for n in range(3)
    }


def networks(folder: Path) -> dict[str, Any]:
    experiment, at = prepared(folder)
    made = plan.make(experiment)
    trained(experiment, at, made)
    subject, _ = audit._trained(experiment, at, at.dataset(plan.dataset_key(experiment)), said)
    settings = experiment.audit or config.Audit()
    sampled = along_samples(experiment, at, made, folder, subject)
    models = {"clean": subject, "fed": fed(subject, at.experiment(experiment.experiment)), "along samples": sampled}
    done = {}
    for name, one in models.items():
        said(name)
        done[name] = told(one, permutations=3, level=settings.level)
    return done


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return round(float((probabilities.argmax(axis=1) == labels)[labels >= 0].mean()), 4)


def uniform_labels(part: Part, number: int, role: int) -> Part:
    """Returns the part with labels drawn anew at every step, each class as often."""
    drawn = np.random.default_rng([77, number, role]).integers(0, 15, len(part.labels))
    return shuffles.relabelled(part, drawn.astype(part.labels.dtype))


def fed(subject: Subject, own: Path) -> Subject:
    """Returns the same networks, with true labels handed to their decoders in prediction."""
    bundle = bundles.load(own / "best")

    def learn(lessons: Mapping[str, Lesson]) -> dict[str, np.ndarray]:
        assert subject.learn is not None
        subject.learn(lessons)
        folders = {results.read_json(f, "")["trial"]: f.parent for f in (own / "audit" / "trials").glob("*/trial.json")}
        found = {}
        for name, lesson in lessons.items():
            one = replace(bundle.members[0], arrays=trials.load(folders[name]).arrays)
            found[name] = predict.taught(replace(bundle, members=(one,)), lesson.test)
        return found

    return replace(subject, learn=learn, predict=lambda part: predict.taught(bundle, part), teach=None)


def along_samples(
    experiment: config.Experiment, at: Results, made: plan.Plan, folder: Path, subject: Subject
) -> Subject:
    """Returns a recurrent network whose recurrence runs along the axis of samples, a subject's scans in their order,
    for each time point by itself: a network along time of the survey with both axes exchanged."""
    (job,) = made.jobs
    job_file = plan.load_job(at.job(experiment.experiment, job.name) / "config.yaml")
    model = job_file.model.model_copy(update={"decoder": None})
    job_file = job_file.model_copy(update={"model": model})
    inputs = jobs.read_inputs(job_file, at)
    inputs = replace(inputs, network=blueprint.of(model, "step", subject.lesson.train.features, 0, subject.classes))
    base = Results(folder / "along_samples")

    def learn(lessons: Mapping[str, Lesson]) -> dict[str, np.ndarray]:
        variants = {name: jobs.Data(*map(exchanged, lesson)) for name, lesson in lessons.items()}
        found = jobs.train_variants(job_file, at, inputs, variants, base, said)
        return {name: back(found[name], lesson.test) for name, lesson in lessons.items()}

    learn({"as it is": subject.lesson})
    folders = {results.read_json(f, "")["trial"]: f.parent for f in base.root.glob("audit/trials/*/trial.json")}
    arrays = trials.load(folders["as it is"]).arrays

    def predicted(part: Part) -> np.ndarray:
        found = predict.probabilities(model, [arrays], exchanged(part), subject.classes, kind="step")[0]
        return back(found, part)

    return replace(subject, learn=learn, predict=predicted, teach=None, looks_ahead=())


def exchanged(part: Part) -> Part:
    """Returns the part with samples as steps: for each run of `SCANS` samples, and each time point, a sequence. A
    sample that is over has zeros, and no label."""
    everything, steps, valid = list(shuffles.every(part)), int(part.lengths.max()), reservoir.valid(part)
    features = np.zeros((len(part), steps, part.features), np.float32)
    labels = np.full((len(part), steps), -1, part.labels.dtype)
    features[valid] = np.concatenate([examples.features for examples in everything])
    labels[valid] = np.concatenate([examples.labels for examples in everything])
    runs = [np.arange(start, min(start + SCANS, len(part))) for start in range(0, len(part), SCANS)]
    found = np.concatenate([features[run].swapaxes(0, 1).reshape(-1, part.features) for run in runs])
    own = np.concatenate([labels[run].T.ravel() for run in runs])
    lengths = np.repeat([len(run) for run in runs], steps)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.array([f"{part.ids[run[0]]} at {step}" for run in runs for step in range(steps)])
    whole = Examples(ids, own, offsets, found, np.zeros((len(ids), 0), np.float32))
    made = Part.of([whole], labels_by_step=True)
    return replace(made, splits=np.repeat([part.splits[run[0]] for run in runs], steps))


def back(probabilities: np.ndarray, part: Part) -> np.ndarray:
    """Returns the probabilities of the exchanged part in the order of its own places."""
    steps, found, start = int(part.lengths.max()), [], 0
    for first in range(0, len(part), SCANS):
        size = min(SCANS, len(part) - first)
        piece = probabilities[start : (start := start + steps * size)].reshape(steps, size, -1)
        found.append(piece.swapaxes(0, 1))
    return np.concatenate(found)[reservoir.valid(part)]


def main() -> None:
    parts = {"planted": planted, "clean": clean, "clean_networks": clean_networks, "clips": clips, "networks": networks}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(parts))
    parser.add_argument("--folder", type=Path, help="where surveys and networks are kept, to go on with")
    options = parser.parse_args()
    for name in options.parts:
        noted, began = record.begun(), time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            found = parts[name](options.folder or Path(temporary))
        known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
        minutes = round((time.monotonic() - began) / 60, 1)
        record.keep(OUTPUT, known | {name: {**noted, "minutes": minutes, "found": found}})
        said(f"{name}: written to {OUTPUT}")


if __name__ == "__main__":
    main()
