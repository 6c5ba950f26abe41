"""From the experiment to its trials and jobs: a pure function of the file, known before anything runs.

A trial is one grid point with one seed and, with `split.folds`, one fold. A job holds trials that differ in traced keys
and folds alone, and so compile to one program, at most `training.trials_per_job` of them.
"""

import csv
import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxrnn import __version__, results, search
from jaxrnn.config import (
    FAULTS,
    RUN_KEYS,
    SCORE_KEYS,
    TRACED_KEYS,
    Experiment,
    Search,
    Section,
    decoder_in_words,
    decoder_of,
    digest,
    layers_in_words,
    layers_of,
    parsed,
    read_yaml,
    simulation_class,
    substituted,
    to_yaml,
)
from jaxrnn.errors import JaxrnnError, listed, plural
from jaxrnn.results import Results

MOST_UNCONFIRMED = 1000  # trials


class Trial(Section):
    """One grid point with one seed, and one fold where there are folds.

    id: readable, from the grid's values. fingerprint: stands for everything that decides what the trial becomes, save
    the survey's content; equal fingerprints, equal trials, whatever grid they stand in.
    hyperparameters: the traced keys' values.
    """

    id: str
    seed: int
    fold: int | None = None
    fingerprint: str
    hyperparameters: dict[str, Any]


class Job(Section):
    """The trials that one `jaxrnn train` trains at once."""

    name: str
    dataset: str
    trials: tuple[Trial, ...]

    @property
    def folds(self) -> list[int | None]:
        """Returns the folds of the job's trials; None is that of an experiment without folds."""
        return sorted({trial.fold for trial in self.trials}, key=lambda fold: -1 if fold is None else fold)


class JobFile(Experiment):
    """`jobs/<job>/config.yaml`: the experiment with the job's static values in place, and its trials.

    content: stands for all other values but `RUN_KEYS`, so that a job is never another than its name says.
    """

    jaxrnn_version: str
    job: Job
    content: str


@dataclass(frozen=True)
class Plan:
    """An experiment's jobs. `points`: the grid point of each trial, by trial id, as dotted keys and values."""

    experiment: Experiment
    jobs: tuple[Job, ...]
    points: dict[str, dict[str, Any]]

    @property
    def size(self) -> int:
        """Returns the number of grid points."""
        return len(self.points) // (self.experiment.seeds * (self.experiment.split.folds or 1))

    @cached_property
    def rungs(self) -> tuple[search.Rung, ...]:
        return search.rungs(self.experiment.training.epochs, self.experiment.search.halving, self.size)

    @cached_property
    def point_numbers(self) -> dict[str, int]:
        """Returns the number of each trial's grid point, by trial id."""
        known: dict[str, int] = {}
        return {name: known.setdefault(digest(point), len(known)) for name, point in self.points.items()}

    @cached_property
    def dataset_key(self) -> str:
        return dataset_key(self.experiment)

    @cached_property
    def survey_key(self) -> str | None:
        return _survey_key(self.experiment)

    def sequences(self, job: Job) -> int | None:
        """Returns the job's `training.sequences`."""
        return self.points[job.trials[0].id].get("training.sequences", self.experiment.training.sequences)

    @property
    def trials(self) -> list[Trial]:
        return [trial for job in self.jobs for trial in job.trials]


def dataset_key(experiment: Experiment) -> str:
    """Returns the name of the dataset: `data` sections that give equal shards share one ingest."""
    values = experiment.data.model_dump(mode="json", exclude={"most_rejected"})
    # where faults are, `stop` has no dataset and `reject` has one without them: an experiment that stops at a kind of
    # fault must not find the dataset of one that left such faults out
    values["on_error"] = sorted(kind for kind in FAULTS if experiment.data.rejects(kind))
    for feature in values["features"]:
        # statistics are taken of training sequences, when the splits are known
        del feature["normalisation"]
    return digest(values)


def survey_key(simulation: Section) -> str:
    """Returns the name of a simulated survey: equal parameters, equal survey."""
    return digest(simulation.model_dump(mode="json"))


def survey_folder(experiment: Experiment, at: Results) -> Path:
    """Returns the folder of the survey's files, simulated or given."""
    key = _survey_key(experiment)
    if key is not None:
        return at.survey(key)
    assert experiment.data.path is not None
    return Path(experiment.data.path)


def _survey_key(experiment: Experiment) -> str | None:
    if experiment.data.simulation is None:
        return None
    simulation = experiment.data.simulation
    return survey_key(simulation_class(simulation).model_validate(simulation))


def make(experiment: Experiment) -> Plan:
    """Returns the plan: grid points in their order, each with `seeds` seeds in every fold, grouped into jobs."""
    base = experiment.model_dump(mode="json") | {"grid": {}, "search": {}}
    keys = list(experiment.grid)
    folds = [None] if experiment.split.folds is None else list(range(experiment.split.folds))
    groups: dict[tuple[str, ...], list[Trial]] = {}
    points: dict[str, dict[str, Any]] = {}
    for drawn in search.points(experiment):
        values = substituted(base, drawn)
        resolved = Experiment.model_validate(values).model_dump(mode="json")
        point = {key: _at(resolved, key) for key in keys}
        slugs = {key: slug(key, value, keys) for key, value in point.items()}
        static = [slug for key, slug in slugs.items() if key not in TRACED_KEYS]
        hyperparameters = {key: _at(resolved, key) for key in TRACED_KEYS if key != "seed"}
        seeds = range(experiment.seed, experiment.seed + experiment.seeds)
        for fold, seed in itertools.product(folds, seeds):
            in_fold = [] if fold is None else [f"fold-{fold}"]
            name = _short("_".join([*slugs.values(), f"seed-{seed}", *in_fold]))
            if name in points:
                raise JaxrnnError(f"grid: two points are the same trial '{name}'; every value may stand once")
            points[name] = point
            trial = Trial(
                id=name,
                seed=seed,
                fold=fold,
                fingerprint=_fingerprint(resolved, seed, fold),
                hyperparameters=hyperparameters,
            )
            groups.setdefault(tuple(static), []).append(trial)
    jobs = []
    for group, trials in groups.items():
        for number, start in enumerate(range(0, len(trials), experiment.training.trials_per_job), start=1):
            chunk = tuple(trials[start : start + experiment.training.trials_per_job])
            name = _short("_".join(group) or "all") + f"-{number}"
            jobs.append(Job(name=name, dataset=dataset_key(experiment), trials=chunk))
    return Plan(experiment, tuple(jobs), points)


def job_values(plan: Plan, job: Job) -> dict[str, Any]:
    """Returns the content of the job's `config.yaml`: complete, so that it replays by hand."""
    base = plan.experiment.model_dump(mode="json")
    point = plan.points[job.trials[0].id]
    values = substituted(base, {key: value for key, value in point.items() if key not in TRACED_KEYS})
    halving = base["search"]["halving"]
    halved = Search(halving=halving).model_dump(mode="json")
    values |= {"grid": {}, "seeds": 1, "predict": None, "audit": None, "search": halved}
    values = {"jaxrnn_version": __version__, **values, "job": job.model_dump(mode="json")}
    return {**values, "content": _content(values)}


def _content(values: dict[str, Any]) -> str:
    training = {key: value for key, value in values["training"].items() if key not in RUN_KEYS}
    return digest({key: value for key, value in values.items() if key != "content"} | {"training": training})


def job_digest(job: Job) -> str:
    """Returns what a job's outputs depend on: other trials, another digest. How it runs (`RUN_KEYS`) is not in it."""
    return digest([[trial.id, trial.fingerprint] for trial in job.trials])


def load_job(path: Path, processes: int | None = None) -> JobFile:
    """Returns the job in a `config.yaml`; raises JaxrnnError where it is none, of another version, or wants another
    number of processes than there are."""
    values = read_yaml(path)
    if "job" not in values:
        raise JaxrnnError(
            f"{path}: no job's config; expected results/<experiment>/jobs/<job>/config.yaml, which `jaxrnn plan` writes"
        )
    results.check_version(values.get("jaxrnn_version"), path)
    job_file = parsed(JobFile, values, path)
    if job_file.content != _content(job_file.model_dump(mode="json")):
        raise JaxrnnError(
            f"{path}: changed since `jaxrnn plan` wrote it, so its trials would not be what their names say; change "
            "the experiment file and run `jaxrnn plan` again. By hand only "
            f"{listed([f'training.{key}' for key in RUN_KEYS])} may be changed"
        )
    wanted = job_file.training.processes
    if processes is not None and processes != wanted:
        came = f"{processes} came together" if processes > 1 else "1 came"
        start = f"`mpirun -n {wanted} jaxrnn train ...`, or your site's launcher" if wanted > 1 else "start one alone"
        raise JaxrnnError(
            f"{path}: training.processes: {wanted}, and {came}; {start}, or set `training.processes: {processes}`"
        )
    return job_file


def check_size(plan: Plan, at: Results, *, confirm: bool = False) -> None:
    """Raises JaxrnnError where there are more trials than one may start by mistake, and nobody has said that they are
    meant; with `confirm` that is said, and kept."""
    trials, path = len(plan.trials), at.experiment(plan.experiment.experiment) / "confirmed.json"
    if trials <= MOST_UNCONFIRMED:
        return
    if confirm:
        results.write_json(path, {"trials": trials})
    elif not path.exists() or results.read_json(path, "jaxrnn plan --yes")["trials"] < trials:
        raise JaxrnnError(
            f"{trials:,} trials in {len(plan.jobs):,} jobs; more than {MOST_UNCONFIRMED:,} start only once "
            "`jaxrnn plan --yes` with this file has said that they are meant. Fewer values in `grid`, or a `search` "
            "that draws some of its points, need less"
        )


def in_words(plan: Plan) -> list[str]:
    """Returns what will be trained: grid points, trials, jobs, and how far the rungs go."""
    seeds, folds = plan.experiment.seeds, plan.experiment.split.folds or 1
    draws = (f" x {seeds} seeds" if seeds > 1 else "") + (f" x {folds} folds" if folds > 1 else "")
    trials, jobs = plural(len(plan.trials), "trial"), plural(len(plan.jobs), "job")
    said = [f"{plural(plan.size, 'grid point')}{draws}: {trials} in {jobs}"]
    if len(plan.rungs) > 1:
        far = ", ".join(f"{rung.points:,} to epoch {rung.epochs:,}" for rung in plan.rungs)
        before = (0, *(rung.epochs for rung in plan.rungs))
        epochs = sum(rung.points * (rung.epochs - start) for rung, start in zip(plan.rungs, before, strict=False))
        whole = plan.size * plan.experiment.training.epochs
        said.append(
            f"successive halving trains {far}: at most {epochs * seeds * folds:,} epochs of trials in place of "
            f"{whole * seeds * folds:,}"
        )
    return said


def write(plan: Plan, at: Results) -> list[str]:
    """Writes `plan.csv`, `experiment.yaml` and the jobs' configs; returns remarks about earlier results."""
    folder = at.experiment(plan.experiment.experiment)
    remarks = _compare_with_earlier(plan, folder)
    for job in plan.jobs:
        results.write_text(folder / "jobs" / job.name / "config.yaml", to_yaml(job_values(plan, job)))
    results.write_text(folder / "experiment.yaml", written(plan.experiment))
    _write_table(plan, folder / "plan.csv")
    return remarks


def written(experiment: Experiment) -> str:
    """Returns what `experiment.yaml` holds."""
    return to_yaml(experiment.model_dump(mode="json"))


def _write_table(plan: Plan, path: Path) -> None:
    """Writes a row a trial with its job, seed, fold (where there are folds) and grid point.

    With the standard library: this module is loaded by every job's Snakemake, which pandas would hold up by a second.
    """
    rows = [
        {"trial": trial.id, "job": job.name, **draw(trial), "fingerprint": trial.fingerprint} | shown_point(plan, trial)
        for job in plan.jobs
        for trial in job.trials
    ]
    with results.written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def shown_point(plan: Plan, trial: Trial) -> dict[str, Any]:
    """Returns a trial's grid point as tables have it."""
    return {key: cell(key, value) for key, value in plan.points[trial.id].items()}


def draw(trial: Trial) -> dict[str, int]:
    """Returns what parts a trial from the others of its grid point: its seed and, where there are folds, its fold."""
    return {"seed": trial.seed} | ({} if trial.fold is None else {"fold": trial.fold})


def _compare_with_earlier(plan: Plan, folder: Path) -> list[str]:
    """Returns what changed since this experiment's last plan, and what becomes of the earlier trials."""
    earlier = folder / "experiment.yaml"
    if not earlier.exists():
        return []
    before = read_yaml(earlier)
    old, new = _flat(before), _flat(plan.experiment.model_dump(mode="json"))
    changed = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if not changed:
        return []
    stored = {path.name for path in (folder / "trials").glob("*") if not path.name.startswith(".")}
    kept = [trial for trial in plan.trials if trial.fingerprint in stored]
    remarks = [
        f"{folder} has results of another version of this experiment; changed since: {listed(changed, 20)}",
        f"{len(kept)} of {len(plan.trials)} trials are finished under the same settings and are kept, unless the "
        f"survey's files changed; {len(plan.trials) - len(kept)} will be trained. "
        "Trials of other settings are never read.",
    ]
    known = {job.name for job in plan.jobs}
    stale = sorted(path.name for path in (folder / "jobs").glob("*") if path.name not in known)
    if stale:
        remarks.append(f"job folders that belong to no job any more, and are not read: {listed(stale)}")
    return remarks


def _flat(values: Any, place: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values and place != "grid":
        return {k: v for key, inner in values.items() for k, v in _flat(inner, f"{place}.{key}".lstrip(".")).items()}
    return {place: values}


def _at(values: dict[str, Any], dotted: str) -> Any:
    section, _, key = dotted.partition(".")
    return values[section][key]


def _fingerprint(resolved: dict[str, Any], seed: int, fold: int | None) -> str:
    training = {key: value for key, value in resolved["training"].items() if key not in RUN_KEYS}
    split = resolved["split"] | {"seed": split_seed(resolved)}
    # how much may be rejected changes nothing of what is kept
    data = {key: value for key, value in resolved["data"].items() if key != "most_rejected"}
    decisive = {key: resolved[key] for key in ("model", "loss", "augmentation")}
    decisive["task"] = learnt_task(resolved["task"], training["monitor"])
    return digest(decisive | {"data": data, "training": training, "split": split, "seed": seed, "fold": fold})


def learnt_task(task: dict[str, Any], monitor: str = "") -> dict[str, Any]:
    """Returns the keys of `task` that decide what is learnt or, by the score that training monitors, when it was best;
    not those that only say what predictions are worth, and when."""
    only_scores = {"early", "beam_width", *SCORE_KEYS.values()} - {SCORE_KEYS.get(monitor)}
    return {key: value for key, value in task.items() if key not in only_scores}


def sequences_used(values: dict[str, Any]) -> list[int | None]:
    """Returns the values of `training.sequences` that the trials of an experiment, or of a job, train with."""
    return list(values["grid"].get("training.sequences", [values["training"]["sequences"]]))


def split_seed(values: dict[str, Any]) -> int:
    return values["seed"] if values["split"]["seed"] is None else values["split"]["seed"]


def slug(key: str, value: Any, keys: list[str]) -> str:
    """Returns a grid value with its key as the names of trials and jobs have it. keys: all of the grid's."""
    last = key.rpartition(".")[2]
    name = last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
    if isinstance(value, float):
        return f"{name}-{value:.10g}".replace("e+", "e")
    shown = "null" if value is None else str(cell(key, value)).lower()
    if key == "model.layers":
        # brackets vanish below, and lists that differ in them alone must not
        shown = _short(shown.replace(")", " end"), 48)
    return f"{name}-{re.sub(r'[^a-z0-9.]+', '-', shown).strip('-')}"


def cell(key: str, value: Any) -> Any:
    """Returns a value of the grid key as tables have it: a list of layers, or a decoder, as one line."""
    if value is None or isinstance(value, str):
        return value  # what a table holds already is such a line
    if key == "model.decoder":
        return decoder_in_words(decoder_of(value))
    layers = layers_of(value) if key == "model.layers" else None
    return layers_in_words(layers) if layers else value


def _short(name: str, limit: int = 120) -> str:
    # a folder's name may have 255 bytes, and SLURM's logs and Snakemake's records add to it
    return name if len(name) <= limit else f"{name[: limit - 13]}-{digest(name)}"
