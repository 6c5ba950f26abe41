"""From the experiment to trials and jobs: what is stable, what is shared, and what is told."""

import itertools
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import surveys
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import config, plan
from jaxrnn.config import RUN_KEYS, TRACED_KEYS, Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results
from jaxrnn.simulate import Simulation

VALUES = {**surveys.experiment_values("goto", "folder"), "augmentation": {}}


def made(**changes: Any) -> plan.Plan:
    return plan.make(Experiment.model_validate(surveys.changed(VALUES, **changes)))


def fingerprints(of: plan.Plan) -> dict[str, str]:
    return {trial.id: trial.fingerprint for trial in of.trials}


# Trials

NUMBERS = st.floats(1e-12, 9.9, allow_nan=False)
GRIDS = st.fixed_dictionaries(
    {},
    optional={
        "model.cell": st.lists(st.sampled_from(["simple", "gru", "lstm"]), min_size=1, unique=True),
        "model.units": st.lists(st.integers(1, 4096), min_size=1, max_size=3, unique=True),
        "model.bidirectional": st.lists(st.booleans(), min_size=1, unique=True),
        "training.gradient_clip": st.lists(st.none() | NUMBERS, min_size=1, max_size=3, unique=True),
        "training.learning_rate": st.lists(st.floats(1e-8, 1e30), min_size=1, max_size=3, unique=True),
        "loss.gamma": st.lists(st.floats(0, 10), min_size=1, max_size=3, unique=True),
        "loss.class_weights": st.lists(st.sampled_from(["balanced", "effective", "none"]), min_size=1, unique=True),
        "loss.kind": st.lists(st.sampled_from(["categorical", "binary"]), min_size=1, unique=True),
        "training.optimiser": st.lists(st.sampled_from(["adam", "adamw", "rmsprop", "sgd"]), min_size=1, unique=True),
        "training.schedule": st.lists(st.sampled_from(["constant", "cosine", "plateau"]), min_size=1, unique=True),
        "training.plateau_patience": st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    },
)


@settings(max_examples=60, deadline=None)
@given(grid=GRIDS, seeds=st.integers(1, 3), width=st.integers(1, 5))
def test_ids_are_unique_plain_and_the_same_every_time(grid: dict[str, list[Any]], seeds: int, width: int) -> None:
    try:
        planned = made(grid=grid, seeds=seeds, training__trials_per_job=width)
    except JaxrnnError as error:
        # values that are alike in the 10 digits of a name are explained
        if "two points are the same trial" not in str(error):
            raise
        return
    ids = [trial.id for trial in planned.trials]
    points = list(itertools.product(*grid.values(), range(1, seeds + 1)))
    assert len(ids) == len(set(ids)) == len({trial.fingerprint for trial in planned.trials}) == len(points)
    names = [job.name for job in planned.jobs]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) <= 130 for name in ids + names)
    assert made(grid=grid, seeds=seeds, training__trials_per_job=width).jobs == planned.jobs
    # a job compiles once: its trials differ in traced keys alone
    for job in planned.jobs:
        static = [{k: v for k, v in planned.points[trial.id].items() if k not in TRACED_KEYS} for trial in job.trials]
        assert all(entry == static[0] for entry in static)
        assert 1 <= len(job.trials) <= width
        assert job.dataset == planned.dataset_key
    # every grid point is there, with every seed
    found = [(*planned.points[trial.id].values(), trial.seed) for trial in planned.trials]
    assert sorted(found, key=repr) == sorted(points, key=repr)


def test_jobs_are_as_few_as_compiling_allows() -> None:
    grid = {"model.cell": ["gru", "lstm"], "training.learning_rate": [1e-4, 1e-3, 1e-2], "loss.gamma": [0, 1]}
    planned = made(grid=grid, seeds=2, training__trials_per_job=4096)
    assert [(job.name, len(job.trials)) for job in planned.jobs] == [("cell-gru-1", 12), ("cell-lstm-1", 12)]
    planned = made(grid=grid, seeds=2, training__trials_per_job=5)
    assert [len(job.trials) for job in planned.jobs] == [5, 5, 2, 5, 5, 2]
    assert [job.name for job in made().jobs] == ["all-1"]


def test_numbers_of_losses_and_optimisers_share_a_program_and_their_kinds_do_not() -> None:
    grid = {
        "loss.label_smoothing": [0, 0.1],
        "loss.class_weights": ["effective", "balanced"],
        "loss.beta": [0.9, 0.999],
        "training.optimiser": ["adamw", "sgd"],
        "training.weight_decay": [0, 1e-2],
        "training.momentum": [0, 0.9],
        "training.gradient_clip": [None, 1.0],
        "training.schedule": ["cosine", "plateau"],
        "training.warmup_epochs": [0, 0.5],
    }
    planned = made(grid=grid, training__trials_per_job=4096)
    assert [(job.name, len(job.trials)) for job in planned.jobs] == [
        (f"optimiser-{optimiser}_schedule-{schedule}-1", 128)
        for optimiser in ("adamw", "sgd")
        for schedule in ("cosine", "plateau")
    ]
    assert len({trial.fingerprint for trial in planned.trials}) == 512
    first = planned.trials[0].hyperparameters
    assert {**first, "training.gradient_clip": None} == first
    assert (first["training.warmup_epochs"], first["loss.beta"]) == (0.0, 0.9)
    # what is no axis of the grid is handed to the program all the same
    assert set(first) == set(TRACED_KEYS) - {"seed"}


def test_what_scores_need_decides_a_trial_where_it_monitors_that_score() -> None:
    scoring = {"task__class_importance": {"0": 2.0}, "task__target": "1"}
    (plain,) = made().trials
    (scored,) = made(**scoring).trials
    assert plain.fingerprint == scored.fingerprint
    for monitor, key in (("plasticc_log_loss", "class_importance"), ("figure_of_merit", "target")):
        (before,) = made(**scoring, training__monitor=monitor).trials
        (other,) = made(
            **{**scoring, f"task__{key}": {"0": 3.0} if key != "target" else "0"}, training__monitor=monitor
        ).trials
        unwatched = "target" if key != "target" else "class_importance"
        (same,) = made(
            **{**scoring, f"task__{unwatched}": None if unwatched == "target" else {}}, training__monitor=monitor
        ).trials
        assert before.fingerprint != other.fingerprint
        assert before.fingerprint == same.fingerprint


def test_names_are_readable() -> None:
    grid = {"model.cell": ["gru"], "training.learning_rate": [1e-5], "training.patience": [None, 3], "loss.l2": [1e20]}
    assert [trial.id for trial in made(grid=grid, model__bidirectional=True).trials] == [
        "cell-gru_learning_rate-1e-05_patience-null_l2-1e20_seed-1",
        "cell-gru_learning_rate-1e-05_patience-3_l2-1e20_seed-1",
    ]


def test_a_grown_grid_keeps_the_trials_it_had() -> None:
    grid = {"model.cell": ["gru"], "training.learning_rate": [1e-4, 1e-3]}
    before = fingerprints(made(grid=grid, seeds=2))
    grown = {"model.cell": ["lstm", "gru"], "training.learning_rate": [1e-5, 1e-3, 1e-4]}
    after = fingerprints(made(grid=grown, seeds=3))
    assert len(before) == 4
    assert len(after) == 18
    assert {name: after[name] for name in before} == before


def test_a_trial_is_the_same_whether_its_values_stand_in_the_grid_or_in_the_sections() -> None:
    (in_grid,) = made(grid={"model.units": [7], "loss.gamma": [2]}).trials
    (in_sections,) = made(model__units=7, loss__gamma=2).trials
    assert in_grid.fingerprint == in_sections.fingerprint
    assert in_grid.hyperparameters == in_sections.hyperparameters
    assert in_grid.hyperparameters["loss.gamma"] == 2.0


OTHER_VALUES: dict[str, Any] = {
    "seed": 2,
    "data.reader": "spcc",
    "data.path": "elsewhere",
    "data.steps": "night",
    "data.night_gap": 0.3,
    "data.features": ["time_difference", "value"],
    "data.metadata": ["context_0"],
    "data.options": {"a": 1},
    "data.detection": {"signal_to_noise": 5},
    "data.cuts": {"max_steps": 7},
    "data.shard_mb": 3.0,
    "data.compression": "gzip",
    "data.on_error": "reject",
    "data.most_rejected": 0.5,
    "split.method": "hash",
    "split.train": 0.6,
    "split.validation": 0.2,
    "split.by": "group",
    "split.folds": 2,
    "split.balance": True,
    "data.evaluation": ["context_0"],
    "task.kind": "prefix",
    "split.leaks": "report",
    "split.leave_out": ["a"],
    "split.seed": 5,
    "task.classes": {"a": ["0"], "b": ["*"]},
    "task.exclude": ["7"],
    "task.class_importance": {"0": 2.0},
    "task.target": "1",
    "model.cell": "lstm",
    "model.units": 5,
    "model.depth": 3,
    "model.bidirectional": True,
    "model.dropout": 0.3,
    "model.recurrent_dropout": 0.1,
    "model.input_normalisation": True,
    "model.normalisation": "none",
    "model.pooling": "mean",
    "model.dense_units": 7,
    "model.dense_depth": 3,
    "model.dense_activation": "relu",
    "loss.kind": "binary",
    "model.layers": ["gru", "pool"],
    "model.decoder": {"units": 5},
    "loss.class_weights": "none",
    "loss.beta": 0.99,
    "loss.label_smoothing": 0.1,
    "loss.gamma": 1.0,
    "loss.l2": 0.1,
    "augmentation.truncation": 0.5,
    "augmentation.noise": 1.0,
    "augmentation.drop_observations": 0.1,
    "augmentation.drop_passbands": 0.1,
    "augmentation.time_shift": 3.0,
    "training.batch_size": 8,
    "training.optimiser": "sgd",
    "training.learning_rate": 2e-3,
    "training.momentum": 0.9,
    "training.sequences": 50,
    "training.weight_decay": 0.01,
    "training.schedule": "cosine",
    "training.warmup_epochs": 1.0,
    "training.final_share": 0.1,
    "training.plateau_factor": 0.1,
    "training.plateau_patience": 3,
    "training.teacher_share": 0.25,
    "training.final_teacher_share": 0.25,
    "training.teacher_schedule": "linear",
    "training.gradient_clip": None,
    "training.epochs": 9,
    "training.monitor": "macro_f1",
    "training.patience": 4,
    "training.window_mb": 10.0,
    "training.length_buckets": 1,
    "training.device": "gpu",
    "training.processes": 2,
    "training.trials_per_job": 3,
    "training.checkpoint_minutes": 1.0,
    "training.segment_seconds": 1.0,
    "selection.metric": "log_loss",
    "experiment": "other",
}
# They decide where a trial lies, how it runs and whether it is chosen, but not what it becomes.
WITHOUT_EFFECT = {"experiment", "selection.metric", "data.most_rejected", "task.class_importance", "task.target"}
WITHOUT_EFFECT |= {f"training.{key}" for key in RUN_KEYS}


def with_value(key: str, value: Any) -> dict[str, Any]:
    if key == "model.layers":
        return {"model": {"layers": value}}  # nothing of a family stands beside a list
    return {key.replace(".", "__"): value}


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_fingerprint_stands_for_what_decides_a_trial(key: str) -> None:
    (before,) = made().trials
    after = made(**with_value(key, OTHER_VALUES[key])).trials[0]
    assert (before.fingerprint == after.fingerprint) == (key in WITHOUT_EFFECT)


def test_no_key_is_forgotten() -> None:
    every = {"seed", "experiment"}
    for name in ("data", "split", "task", "model", "loss", "augmentation", "training", "selection"):
        every |= {f"{name}.{key}" for key in getattr(made().experiment, name).model_dump()}
    assert every - set(OTHER_VALUES) == {
        "data.simulation", "task.early", "task.separator", "task.beam_width", "split.fold_kind",
    }  # fmt: skip


def test_how_trials_are_searched_for_decides_none_of_them() -> None:
    grid = {"training.learning_rate": [1e-3, 1e-2, 1e-1]}
    alone = fingerprints(made(grid=grid))
    assert fingerprints(made(grid=grid, search={"halving": {}})) == alone
    assert fingerprints(made(grid=grid, search={"strategy": "random", "points": 3})) == alone


def test_audits_decide_no_trial_no_dataset_and_no_job() -> None:
    alone, audited = made(), made(audit={"permutations": 7})
    assert fingerprints(audited) == fingerprints(alone) and audited.dataset_key == alone.dataset_key
    assert [plan.job_values(audited, job) for job in audited.jobs] == [
        plan.job_values(alone, job) for job in alone.jobs
    ]


def test_many_trials_start_only_once_they_are_meant(tmp_path: Path) -> None:
    at = Results(tmp_path)
    rates = [n / 1000 for n in range(1, 1001)]
    plan.check_size(made(grid={"training.learning_rate": rates}), at)
    many = made(grid={"training.learning_rate": rates}, seeds=2)
    with pytest.raises(
        JaxrnnError, match=r"2,000 trials in 125 jobs; more than 1,000 start only once `jaxrnn plan --ye"
    ):
        plan.check_size(many, at)
    plan.check_size(many, at, confirm=True)
    plan.check_size(many, at)
    # as many, but not more
    with pytest.raises(JaxrnnError, match="3,000 trials"):
        plan.check_size(made(grid={"training.learning_rate": rates}, seeds=3), at)


def test_the_plan_is_told_in_words() -> None:
    assert plan.in_words(made()) == ["1 grid point: 1 trial in 1 job"]
    search = {"strategy": "random", "points": 27, "halving": {}}
    grid = {"training.learning_rate": {"low": 1e-3, "high": 1e-1, "scale": "log"}}
    assert plan.in_words(made(grid=grid, seeds=2, search=search, training__epochs=18)) == [
        "27 grid points x 2 seeds: 54 trials in 4 jobs",
        # 27 x 2 + 9 x 4 + 3 x 12 epochs, with each of two seeds
        "successive halving trains 27 to epoch 2, 9 to epoch 6, 3 to epoch 18: at most 252 epochs of trials in place "
        "of 972",
    ]


def test_the_kind_of_folds_decides_trials() -> None:
    prints = [
        [trial.fingerprint for trial in made(split={"method": "exact", "folds": 2, "fold_kind": kind}).trials]
        for kind in ("k_fold", "random")
    ]
    assert len({*prints[0], *prints[1]}) == 4


def test_when_predictions_are_scored_changes_no_trial() -> None:
    early = {"around": "peak", "at": [-2, 0]}
    (before,), (after,) = made(task={"kind": "prefix"}).trials, made(task={"kind": "prefix", "early": early}).trials
    assert before.fingerprint == after.fingerprint


def test_fingerprints_and_keys_of_simulated_surveys() -> None:
    def simulated(**parameters: Any) -> plan.Plan:
        return made(data={"reader": "simulated", "simulation": parameters, "features": ["time"]})

    one, other = simulated(days=300), simulated(days=301)
    assert one.trials[0].fingerprint != other.trials[0].fingerprint
    assert one.survey_key != other.survey_key
    assert one.dataset_key != other.dataset_key
    assert one.survey_key == plan.survey_key(Simulation.model_validate({"days": 300}))
    assert made().survey_key is None


def residual(*listed: Any) -> dict[str, Any]:
    return {"layer": "residual", "layers": list(listed)}


# Alike but for a bracket, a default, a rate, an order.
LISTS = [
    ["gru", "pool"],
    [{"layer": "gru", "units": 33}, "pool"],
    [residual("gru", "dense"), "pool"],
    [residual("gru"), "dense", "pool"],
    [residual(residual("gru")), "dense", "pool"],
    ["gru", "dropout", "pool"],
    ["gru", {"layer": "dropout", "rate": 0}, "pool"],
    ["dropout", "gru", "pool"],
    ["gru", {"layer": "pool", "kind": "mean"}],
    ["gru", {"layer": "conv", "padding": "causal"}, "pool"],
    ["gru", "conv", "pool"],
    [*["gru", "dropout", "batch_norm"] * 20, "pool"],
    [*["gru", "dropout", "batch_norm"] * 20, {"layer": "pool", "kind": "max"}],
]


def test_lists_of_layers_are_points_of_a_grid() -> None:
    grid = {"model.layers": LISTS, "model.dropout": [0.1, 0.2], "model.recurrent_dropout": [0, 0.3]}
    planned = made(model={}, grid=grid, seeds=2)
    ids = [trial.id for trial in planned.trials]
    assert len(set(ids)) == len({trial.fingerprint for trial in planned.trials}) == len(LISTS) * 8
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) <= 120 for name in ids)
    # dropout's rates enter the program as arrays
    assert [len(job.trials) for job in planned.jobs] == [8] * len(LISTS)
    assert planned.jobs[0].name == "layers-gru-32-pool-last-1"
    assert ids[0] == "layers-gru-32-pool-last_dropout-0.1_recurrent_dropout-0_seed-1"
    assert planned.jobs[2].name == "layers-residual-gru-32-dense-32-end-pool-last-1"
    assert max(len(job.name) for job in planned.jobs) <= 60


def test_decoders_are_points_of_a_grid_and_their_teachers_share_a_job() -> None:
    decoders = [None, {}, {"attention": "dot"}, {"cell": "lstm"}, {"units": 33}, {"look_ahead": False}]
    grid = {"model.decoder": decoders, "training.teacher_share": [0.0, 1.0], "training.final_teacher_share": [0.0, 0.5]}
    planned = made(task={"kind": "step"}, grid=grid)
    assert len({trial.fingerprint for trial in planned.trials}) == len(planned.trials) == len(decoders) * 4
    assert [(job.name, len(job.trials)) for job in planned.jobs] == [
        (f"decoder-{words}-1", 4)
        for words in (
            "null", "general-gru-32", "dot-gru-32", "general-lstm-32", "general-gru-33", "general-gru-32-causal",
        )
    ]  # fmt: skip
    first, second, *_ = (planned.points[job.trials[0].id]["model.decoder"] for job in planned.jobs)
    assert plan.cell("model.decoder", first) is None and plan.cell("model.decoder", second) == "general gru 32"


def test_a_list_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    short, long = (
        made(model={"layers": layers})
        for layers in (["gru", "pool"], [{"layer": "gru", "bidirectional": False}, {"layer": "pool", "kind": "last"}])
    )
    assert short.trials[0].fingerprint == long.trials[0].fingerprint
    in_grid = made(model={}, grid={"model.layers": [["gru", "pool"]]})
    assert in_grid.trials[0].fingerprint == short.trials[0].fingerprint
    # a job's file and the table say which list it is
    plan.write(in_grid, Results(tmp_path))
    assert plan.load_job(job_file(Results(tmp_path), in_grid)).model == short.experiment.model
    assert pd.read_csv(tmp_path / "tiny" / "plan.csv")["model.layers"].tolist() == ["gru 32, pool last"]


def test_the_split_has_its_own_seed_or_the_experiments() -> None:
    assert made(split__seed=1).trials[0].fingerprint == made().trials[0].fingerprint
    # with a seed of its own, the split stays while the network's seed changes
    assert plan.split_seed(made(seed=4, split__seed=1).experiment.model_dump()) == 1
    assert plan.split_seed(made(seed=4).experiment.model_dump()) == 4


def test_equal_data_sections_share_a_dataset() -> None:
    assert made(experiment="other", model__units=9, seed=7).dataset_key == made().dataset_key
    assert made(data__night_gap=0.25).dataset_key != made().dataset_key


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_a_dataset_is_another_where_its_shards_are(key: str) -> None:
    same = not key.startswith("data.") or key == "data.most_rejected"
    assert (made(**with_value(key, OTHER_VALUES[key])).dataset_key == made().dataset_key) == same


def test_normalisation_makes_other_trials_of_the_same_dataset() -> None:
    def normalised(kind: str) -> plan.Plan:
        return made(data__features=[{"name": "value", "normalisation": kind}, "value_error"])

    plans = [normalised(kind) for kind in ("feature", "survey", "sequence", "robust", "none")]
    assert len({entry.dataset_key for entry in plans}) == 1
    assert len({entry.trials[0].fingerprint for entry in plans}) == 5


def test_a_job_has_trials_of_all_folds(tmp_path: Path) -> None:
    grid = {"model.cell": ["gru", "lstm"], "loss.gamma": [0, 2]}
    folded = {"method": "exact", "folds": 3}
    planned = made(grid=grid, seeds=2, split=folded)
    ids = [trial.id for trial in planned.trials]
    assert len(set(ids)) == len({trial.fingerprint for trial in planned.trials}) == 2 * 2 * 2 * 3
    assert "cell-gru_gamma-0_seed-1_fold-2" in ids
    assert sorted(job.name for job in planned.jobs) == ["cell-gru-1", "cell-lstm-1"]
    for job in planned.jobs:
        assert job.folds == [0, 1, 2]
        found = [(planned.points[trial.id]["loss.gamma"], trial.fold, trial.seed) for trial in job.trials]
        assert found == [*itertools.product((0, 2), range(3), (1, 2))]
    at = Results(tmp_path)
    plan.write(planned, at)
    for index, job in enumerate(planned.jobs):
        assert plan.load_job(job_file(at, planned, index)).job == job
    table = pd.read_csv(tmp_path / "tiny" / "plan.csv")
    assert dict(zip(table["trial"], table["fold"], strict=True)) == {t.id: t.fold for t in planned.trials}
    # without folds there is no trace of them
    plain = made(grid=grid, seeds=2)
    plan.write(plain, at)
    assert "fold" not in pd.read_csv(tmp_path / "tiny" / "plan.csv")
    assert all(job.folds == [None] for job in plain.jobs)


def test_values_alike_to_ten_digits_are_refused() -> None:
    with pytest.raises(JaxrnnError, match="two points are the same trial 'gamma-1_seed-1'"):
        made(grid={"loss.gamma": [1.0, 1.00000000000001]})


LONG_GRID = {
    "model.cell": ["gru", "lstm"],
    "model.units": [16, 32],
    "model.depth": [1, 2],
    "model.dropout": [0.1, 0.2],
    "model.normalisation": ["batch", "none"],
    "model.pooling": ["last", "mean"],
    "model.dense_units": [20, 25],
    "model.dense_activation": ["sigmoid", "relu"],
    "training.learning_rate": [1e-4, 1e-3],
    "training.batch_size": [32, 64],
}


def test_two_thousand_trials_with_long_names_stay_apart() -> None:
    planned = made(grid=LONG_GRID, seeds=2, training__trials_per_job=3)
    ids = [trial.id for trial in planned.trials]
    names = [job.name for job in planned.jobs]
    assert len(ids) == len(set(ids)) == 2048
    assert len(names) == len(set(names)) == 2**8 * 3
    assert max(map(len, ids)) <= 120
    # a name is as long as it is for what it stands for, and not for its place among others
    first = {key: entries[:1] for key, entries in LONG_GRID.items()}
    assert ids[0] == made(grid=first).trials[0].id


# Files


@pytest.fixture
def planned() -> plan.Plan:
    grid = {"model.cell": ["gru", "lstm"], "training.learning_rate": [1e-5, 1e-3], "loss.gamma": [0, 2]}
    return made(grid=grid, seeds=2, task__classes={"1e5": ["0"], "b": ["*"]})


def job_file(at: Results, of: plan.Plan, index: int = 0) -> Path:
    return at.job("tiny", of.jobs[index].name) / "config.yaml"


def test_plan_files_hold_the_plan(tmp_path: Path, planned: plan.Plan) -> None:
    at = Results(tmp_path)
    assert plan.write(planned, at) == []
    table = pd.read_csv(tmp_path / "tiny" / "plan.csv")
    assert table["trial"].tolist() == [trial.id for trial in planned.trials]
    assert table.groupby("job").size().to_dict() == {"cell-gru-1": 8, "cell-lstm-1": 8}
    assert sorted(table["training.learning_rate"].unique()) == [1e-5, 1e-3]
    # the experiment's file as it was understood, to be run again as it is
    assert config.load(tmp_path / "tiny" / "experiment.yaml") == planned.experiment


def test_a_jobs_file_gives_the_job_back(tmp_path: Path, planned: plan.Plan) -> None:
    at = Results(tmp_path)
    plan.write(planned, at)
    for index, (job, cell) in enumerate(zip(planned.jobs, ("gru", "lstm"), strict=True)):
        loaded = plan.load_job(job_file(at, planned, index))
        assert loaded.job == job
        assert loaded.model.cell == cell
        assert (loaded.grid, loaded.seeds) == ({}, 1)
        same = ("experiment", "seed", "data", "split", "task", "loss", "training", "selection")
        assert all(getattr(loaded, key) == getattr(planned.experiment, key) for key in same)


@pytest.mark.parametrize("found", ["0.0.1", "99.0.0", "null"])
def test_a_jobs_file_of_another_version_is_refused(tmp_path: Path, planned: plan.Plan, found: str) -> None:
    plan.write(planned, Results(tmp_path))
    file = job_file(Results(tmp_path), planned)
    file.write_text(re.sub("jaxrnn_version: .*", f"jaxrnn_version: {found}", file.read_text()))
    with pytest.raises(JaxrnnError, match="results of different versions are never mixed"):
        plan.load_job(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("units: 4", "units: 5"),
        ("epochs: 2", "epochs: 3"),
        ("learning_rate: 0.001", "learning_rate: 0.002"),
        ("path: folder", "path: other"),
        ("seed: 1", "seed: 3"),
        ("loss.gamma: 2.0", "loss.gamma: 3.0"),
        ("method: given", "method: hash"),
    ],
)
def test_an_edited_jobs_file_is_not_taken_for_what_was_planned(
    tmp_path: Path, planned: plan.Plan, old: str, new: str
) -> None:
    plan.write(planned, Results(tmp_path))
    file = job_file(Results(tmp_path), planned)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(JaxrnnError, match=r"config\.yaml: changed since `jaxrnn plan` wrote it"):
        plan.load_job(file)


def test_how_a_job_runs_may_be_changed_by_hand(tmp_path: Path, planned: plan.Plan) -> None:
    plan.write(planned, Results(tmp_path))
    file = job_file(Results(tmp_path), planned)
    file.write_text(file.read_text().replace("device: cpu", "device: gpu").replace("minutes: 5.0", "minutes: 1"))
    loaded = plan.load_job(file)
    assert (loaded.training.device, loaded.training.checkpoint_minutes) == ("gpu", 1.0)
    assert loaded.job == planned.jobs[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("units: 4", "unitts: 4", "model.unitts: unknown key; did you mean 'units'?"),
        ("units: 4", "units: four", "model.units: expected a whole number, found 'four'"),
        ("\njob:", "\njobb:", "no job's config; expected results/<experiment>/jobs/<job>/config.yaml"),
    ],
)
def test_a_jobs_file_with_a_mistake(tmp_path: Path, planned: plan.Plan, old: str, new: str, said: str) -> None:
    plan.write(planned, Results(tmp_path))
    file = job_file(Results(tmp_path), planned)
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(JaxrnnError) as error:
        plan.load_job(file)
    assert said in str(error.value)
    assert "pydantic" not in str(error.value)


def test_an_experiment_file_is_no_jobs_file(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match="no job's config; expected results/<experiment>/jobs/<job>/config"):
        plan.load_job(surveys.write_experiment(tmp_path / "tiny.yaml", VALUES))


def test_planning_again_changes_nothing_and_says_nothing(tmp_path: Path, planned: plan.Plan) -> None:
    plan.write(planned, Results(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert plan.write(planned, Results(tmp_path)) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_experiment_says_what_changed_and_what_is_kept(tmp_path: Path) -> None:
    at = Results(tmp_path)
    before = made(grid={"model.cell": ["gru"], "loss.gamma": [0, 1]})
    plan.write(before, at)
    for trial in before.trials:
        at.trial("tiny", trial.fingerprint).mkdir(parents=True)
    after = made(grid={"model.cell": ["lstm"], "loss.gamma": [0, 1, 2]}, training__device="gpu")
    changed, kept, stale = plan.write(after, at)
    assert (
        "grid: {'model.cell': ['gru'], 'loss.gamma': [0, 1]} -> {'model.cell': ['lstm'], 'loss.gamma': [0, 1, 2]}"
        in changed
    )
    assert "training.device: 'cpu' -> 'gpu'" in changed
    assert kept.startswith("0 of 3 trials are finished under the same settings") and "3 will be trained" in kept
    assert stale.endswith("not read: cell-gru-1")
    grown = made(grid={"model.cell": ["gru"], "loss.gamma": [0, 1, 2]})
    _, kept, _ = plan.write(grown, at)
    assert kept.startswith("2 of 3 trials are finished under the same settings") and "1 will be trained" in kept


def test_a_jobs_digest_stands_for_its_trials(planned: plan.Plan) -> None:
    digests = [plan.job_digest(job) for job in planned.jobs]
    assert len(set(digests)) == 2
    runs = made(grid=planned.experiment.grid, seeds=2, task__classes={"1e5": ["0"], "b": ["*"]}, training__device="gpu")
    assert [plan.job_digest(job) for job in runs.jobs] == digests
    learns = made(grid=planned.experiment.grid, seeds=2, training__epochs=3)
    assert not set(digests) & {plan.job_digest(job) for job in learns.jobs}
