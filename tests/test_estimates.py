"""What `jaxrnn plan` says that jobs will take, from a moment of them, and what it is compared with."""

import heapq
from pathlib import Path
from typing import Any

import pytest
from experiments import prepared, write_config
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn import config, estimates, jobs, plan, results
from jaxrnn.errors import JaxrnnError

TOOK: dict[str, Any] = {
    "device": "cpu (cpu)",
    "pack_width": 2,
    "parameters": 100,
    "steps": 8,
    "compile_seconds": 5.0,
    "step_seconds": 0.01,
    "epoch_end_seconds": 0.02,
    "end_seconds": 1.0,
    "start_seconds": 4.0,
    "memory_mb": 500.4,
    "device_memory_mb": None,
}
USED = tuple(f"{when}_{what}" for when in ("used", "given") for what in ("seconds", "memory_mb", "cores"))


def quiet(text: str) -> None:
    pass


def test_a_moment_of_a_job_is_measured_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1]})
    before = sorted(tmp_path.rglob("*"))
    path = at.job("tiny", made.jobs[0].name) / "config.yaml"
    found = jobs.calibrate(plan.load_job(path), at, 0.1)
    assert sorted(tmp_path.rglob("*")) == before
    # 120 objects in batches of 16, in two buckets with a short batch each
    assert found["steps"] in (8, 9) and found["parameters"] > 0 and "cpu" in found["device"]
    assert 0 < found["step_seconds"] < 1 and found["epoch_end_seconds"] > 0 and found["end_seconds"] > 0
    spent = found["compile_seconds"] + found["step_seconds"] + found["epoch_end_seconds"] + found["end_seconds"]
    assert spent < found["timed_seconds"] and found["memory_mb"] > 100


def test_an_estimate_runs_the_job_as_a_process_of_its_own(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1]})
    assert estimates.ready(made, at)
    said: list[str] = []
    (row,) = estimates.estimate(made, at, 2, said.append)
    assert said == ["measuring program 1 of 1: all-1"]
    assert (row["job"], row["scaled_from"]) == ("all-1", "")
    assert row["seconds"] > 1 and row["memory_mb"] > 100 and row["device_memory_mb"] is None
    experiment = config.digest(config.read_yaml(at.experiment("tiny") / "experiment.yaml"))
    (compared,) = estimates.compared(at.experiment("tiny"), ["all-1"], experiment, 1)
    assert compared == {**row, **dict.fromkeys(USED)}
    # another file has no such estimate
    (unknown,) = estimates.compared(at.experiment("tiny"), ["all-1"], "another", 1)
    assert "seconds" not in unknown
    words = estimates.in_words([row], {"all-1": 2})
    assert "2 cores a job" in words[0]
    assert f"  all-1: 2 trials of {row['parameters']:,} parameters, " in words[1]


def test_what_jobs_ask_for_follows_from_what_was_measured_of_this_very_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"model.cell": ["gru", "lstm"], "loss.gamma": [0, 1]}
    experiment, at, made = prepared(tmp_path, grid=grid)
    assert estimates.resources(made, at) == {}
    monkeypatch.setattr(estimates, "_measure", lambda *_: TOOK | {"step_seconds": 10.0})
    rows = {row["job"]: row for row in estimates.estimate(made, at, 2, quiet)}
    asked = estimates.resources(made, at)
    assert asked.keys() == rows.keys() and len(asked) == 2
    for job, (minutes, memory_mb, needed_mb) in asked.items():
        assert rows[job]["seconds"] > 300
        assert rows[job]["memory_mb"] == needed_mb
        # measured on two cores, and it may have one
        assert 4 * rows[job]["seconds"] < 60 * minutes < 8 * rows[job]["seconds"] + 900
        assert rows[job]["memory_mb"] + 500 < memory_mb < 2 * rows[job]["memory_mb"] + 1500
    other = experiment.model_copy(update={"seed": 2})
    assert estimates.resources(plan.make(other), at) == {}
    # a login node's CPU says nothing of a GPU
    monkeypatch.setattr(estimates, "_measure", lambda *_: TOOK | {"device": "gpu (H100)"})
    estimates.estimate(made, at, 2, quiet)
    assert estimates.resources(made, at) == {}


def test_what_cannot_be_measured_here_is_said(tmp_path: Path) -> None:
    import jax

    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this machine has a GPU")
    _, at, made = prepared(tmp_path, training__device="gpu")
    with pytest.raises(JaxrnnError, match=r"job all-1 can't be measured here: training.device: gpu, and JAX"):
        estimates.estimate(made, at, 2, quiet)


def test_jobs_of_one_program_are_measured_once_and_many_programs_by_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"model.units": list(range(1, 21)), "loss.gamma": [0, 1, 2]}
    split = {"method": "exact", "train": 0.5, "validation": 0.2, "folds": 2}
    _, at, made = prepared(tmp_path, grid=grid, split=split, training__trials_per_job=4)
    measured: list[str] = []

    def measure(_: Any, job: plan.Job, *__: Any) -> dict[str, Any]:
        measured.append(job.name)
        return TOOK | {"parameters": int(job.name.split("-")[1])}

    monkeypatch.setattr(estimates, "_measure", measure)
    rows = estimates.estimate(made, at, 2, quiet)
    # of each program a job of the most trials
    assert len(measured) == estimates.MOST_PROGRAMS and len(made.jobs) == len(rows) == 20 * 2
    assert {measured[0], measured[-1]} == {"units-1-1", "units-20-1"}
    for row in rows:
        units = int(row["job"].split("-")[1])
        assert abs(row["parameters"] - units) <= 2
        assert (row["scaled_from"] == "") == (row["parameters"] == units)
        # 4 epochs of 8 steps; a CPU trains half of the trials in half of the time
        share = 1 if row["job"].endswith("-1") else 0.5
        assert row["seconds"] == round(10 + 4 * 0.1 * share, 1)


def test_each_rung_begins_anew_and_trains_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"loss.gamma": [0, 1, 2, 3]}
    search = {"halving": {"reduction": 2, "rungs": 3}}
    _, at, made = prepared(tmp_path, grid=grid, search=search, training__epochs=8)
    monkeypatch.setattr(estimates, "_measure", lambda *_: TOOK)
    (row,) = estimates.estimate(made, at, 2, quiet)
    # all to epoch 2, half of them to 4, a quarter to 8
    # and what the first rung compiled in 5 s the others find
    assert row["seconds"] == round(3 * 5 + 5 + 0.1 * (2 + 2 / 2 + 4 / 4), 1)


def test_a_gpu_trains_a_pack_in_the_time_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2]}, training__trials_per_job=2)
    took = TOOK | {"device": "gpu (NVIDIA H100)", "device_memory_mb": 123.4}
    monkeypatch.setattr(estimates, "_measure", lambda *_: took)
    rows = estimates.estimate(made, at, 2, quiet)
    assert [row["seconds"] for row in rows] == [10.4, 10.4]
    words = estimates.in_words(rows, {job.name: len(job.trials) for job in made.jobs})
    assert words[-1].startswith("2 jobs in all: 0.00578 GPU hours") and "123 MB of the device's" in words[1]
    # of a device that holds one trial at once, two packs one after the other
    monkeypatch.setattr(estimates, "_measure", lambda *_: took | {"pack_width": 1})
    assert [row["seconds"] for row in estimates.estimate(made, at, 2, quiet)] == [10.8, 10.4]


def test_what_was_used_is_read_from_every_rung(tmp_path: Path) -> None:
    accounts = {"": ("2.5", "300.5", "180"), "rung-1": ("10", "400", "80.00"), "rung-2": ("1", "NA", "NA")}
    accounts["rung-3"] = ("9", "9", "9")
    for place, (seconds, memory, load) in accounts.items():
        path = tmp_path / "jobs" / "a" / place / "benchmark.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tmean_load\n{seconds}\t0:00:02\t{memory}\t{load}\n")
    nothing = dict.fromkeys(USED)
    used = nothing | {"used_seconds": 13.5, "used_memory_mb": 400.0, "used_cores": 1.0}
    assert estimates.compared(tmp_path, ["a", "b"], "", 3) == [{"job": "a", **used}, {"job": "b", **nothing}]
    for place, cores, memory, seconds in (("", 2, 512.0, 60.0), ("rung-1", 4, 256.0, None), ("rung-2", 1, 256.0, 30.0)):
        has = {"job": 7, "cores": cores, "memory_mb": memory, "seconds": seconds}
        results.write_json(tmp_path / "jobs" / "a" / place / results.ALLOCATION, has)
    (found,) = estimates.compared(tmp_path, ["a"], "", 3)
    gave = {"given_cores": 4, "given_memory_mb": 512.0}
    assert found == {"job": "a", **used, **gave}, "a rung without a limit"
    results.write_json(tmp_path / "jobs" / "a" / "rung-1" / results.ALLOCATION, {**has, "cores": 4, "seconds": 10.0})
    (found,) = estimates.compared(tmp_path, ["a"], "", 3)
    assert found == {"job": "a", **used, **gave, "given_seconds": 100.0}
    # a run outside of SLURM since then
    (tmp_path / "jobs" / "a" / results.ALLOCATION).unlink()
    assert estimates.compared(tmp_path, ["a"], "", 3) == [{"job": "a", **used}]


@pytest.mark.parametrize(("seconds", "shown"), [(9.6, "10 s"), (130, "2 min"), (7300, "2.0 h")])
def test_durations_are_read_at_a_glance(seconds: float, shown: str) -> None:
    assert estimates.duration(seconds) == shown


@pytest.mark.parametrize(
    ("jobs", "trials", "cores", "each"),
    [(1, 8, 2, 2), (1, 1, 2, 1), (4, 8, 2, 1), (5, 8, 2, 2), (40, 16, 2, 1), (2, 16, 16, 8), (3, 16, 16, 4)],
)
def test_jobs_stand_side_by_side_where_no_core_is_left_without_work(
    jobs: int, trials: int, cores: int, each: int
) -> None:
    assert estimates.cores_of_a_job(jobs, trials, cores) == each


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 16))
def test_no_other_number_of_cores_would_end_earlier(jobs: int, trials: int, cores: int) -> None:
    def ends(each: int) -> float:
        free = [0.0] * (cores // each)  # a scheduler that hands the next job to whatever is free first
        for _ in range(jobs):
            heapq.heapreplace(free, free[0] + estimates.START + -(-trials // each) / trials)
        return max(free)

    chosen = estimates.cores_of_a_job(jobs, trials, cores)
    assert 1 <= chosen <= min(cores, trials)
    assert ends(chosen) <= min(ends(each) for each in range(1, min(cores, trials) + 1)) + 1e-9


def test_larger_networks_longer_training_and_more_trials_are_more_work(tmp_path: Path) -> None:
    at = results.Results(tmp_path / "results")

    def work(grid: dict[str, list[Any]]) -> list[float]:
        made = plan.make(config.load(write_config(tmp_path, grid=grid)))
        found = estimates.work(made, at)
        return [found[job.name] for job in made.jobs]

    for key, values in {
        "model.units": [2, 4, 60],
        "model.cell": ["simple", "gru", "lstm"],
        "model.depth": [1, 3],
        "training.epochs": [2, 5],
        "training.sequences": [10, 60, None],
    }.items():
        found = work({key: values})
        assert found == sorted(set(found)) and len(found) == len(values), key
    (two,), (three,) = work({"loss.gamma": [0, 1]}), work({"loss.gamma": [0, 1, 2]})
    assert three == 1.5 * two


def test_what_was_measured_says_how_much_work_a_job_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, at, made = prepared(tmp_path, grid={"model.units": [2, 8]})
    small, large = (job.name for job in made.jobs)
    assert estimates.work(made, at)[large] > estimates.work(made, at)[small]
    took = {small: {**TOOK, "step_seconds": 1.0}, large: TOOK}
    monkeypatch.setattr(estimates, "_measure", lambda made, job, at, cores: took[job.name])
    rows = estimates.estimate(made, at, 1, quiet)
    assert estimates.work(made, at) == {row["job"]: row["seconds"] for row in rows}
    assert estimates.work(made, at)[small] > estimates.work(made, at)[large]
