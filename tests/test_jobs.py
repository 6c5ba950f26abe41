"""Jobs: finished trials are kept, interrupted ones go on, and the end is the same to the bit."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import pandas as pd
import pytest
from experiments import read_predictions

from jaxrnn import (
    aggregate,
    batches,
    bundles,
    config,
    jobs,
    metrics,
    plan,
    predict,
    predictions,
    report,
    splits,
    stages,
    training,
)
from jaxrnn.checkpoints import Checkpoints
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import Results

GRID = {"loss.gamma": [0, 1], "training.learning_rate": [0.01, 0.003]}
UNDISTURBED: dict[str, Any] = {"grid": GRID, "training__length_buckets": 2}


def prepared(folder: Path, **changes: Any) -> tuple[config.Experiment, Results, plan.Plan]:
    """As of `experiments`, with one bucket: another one is compiled, and changes nothing of what most tests ask."""
    return experiments.prepared(folder, **{"training__length_buckets": 1} | changes)


def quiet(text: str) -> None:
    pass


def train_all(at: Results, made: plan.Plan, say: jobs.Say = quiet) -> None:
    for job in made.jobs:
        folder = at.job(made.experiment.experiment, job.name)
        jobs.train(plan.load_job(folder / "config.yaml"), at, folder, say)


def outputs(at: Results, made: plan.Plan) -> dict[str, pd.DataFrame]:
    """Returns a job's tables without what was measured by the clock, and its probabilities."""
    folder = at.job(made.experiment.experiment, made.jobs[0].name)
    content, _ = read_predictions(folder / "predictions.h5")
    tables = {name: pd.read_csv(folder / name) for name in ("trials.csv", "history.csv")}
    tables["trials.csv"] = tables["trials.csv"].drop(columns=["seconds", "input_seconds"])
    for split, entry in content.items():
        stacked = {trial: p.ravel() for trial, p in entry.probabilities.items()}
        tables[split] = pd.DataFrame(stacked)
    return tables


def assert_equal(first: dict[str, pd.DataFrame], second: dict[str, pd.DataFrame]) -> None:
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, plan.Plan]:
    folder = tmp_path_factory.mktemp("undisturbed")
    _, at, made = prepared(folder, **UNDISTURBED)
    train_all(at, made)
    return folder, at, made


def fresh_copy(folder: Path, to: Path) -> tuple[Results, plan.Plan]:
    """Returns the same experiment before its training, in another folder."""
    shutil.copytree(folder / "survey", to / "survey")
    _, at, made = prepared(to, data__path=str(folder / "survey"), **UNDISTURBED)
    return at, made


def start(at: Results, made: plan.Plan, seconds: str) -> subprocess.Popen[str]:
    """Starts the job as a process of its own that writes a checkpoint every `seconds`."""
    folder = at.job(made.experiment.experiment, made.jobs[0].name)
    config = folder / "config.yaml"
    minutes = float(seconds) / 60
    text = config.read_text().replace("checkpoint_minutes: 5.0", f"checkpoint_minutes: {minutes}")
    config.write_text(text)
    command = [sys.executable, "-m", "jaxrnn", "train", "--config", str(config), "--results", str(at.root)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def wait_for_checkpoint(at: Results, made: plan.Plan, process: subprocess.Popen[str]) -> None:
    folder = at.checkpoints(made.experiment.experiment, made.jobs[0].name)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir()):
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    raise AssertionError("no checkpoint within two minutes")


def test_ctrl_c_saves_and_the_same_command_goes_on(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path
) -> None:
    """SIGTERM and SIGKILL are in test_resuming.py."""
    folder, at, made = undisturbed
    other, remade = fresh_copy(folder, tmp_path)
    process = start(other, remade, "0.0001")
    wait_for_checkpoint(other, remade, process)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "stopped by SIGINT; the checkpoint is written" in text and "Traceback" not in text
    said: list[str] = []
    train_all(other, remade, said.append)
    assert any("goes on from the checkpoint" in line for line in said)
    assert_equal(outputs(at, made), outputs(other, remade))
    assert not other.checkpoints("tiny", remade.jobs[0].name).exists()


def test_finished_trials_are_never_trained_twice(
    undisturbed: tuple[Path, Results, plan.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, at, made = undisturbed
    before = outputs(at, made)
    monkeypatch.setattr(jobs, "_Pack", lambda *_, **__: pytest.fail("trained again"))
    shutil.rmtree(at.job("tiny", made.jobs[0].name) / "models")
    train_all(at, made)
    assert_equal(before, outputs(at, made))
    assert (at.job("tiny", made.jobs[0].name) / "models").is_dir()


def test_a_larger_grid_trains_the_new_trials_alone(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0]}, seeds=2)
    train_all(at, made)
    before = {path.name: path.stat().st_mtime_ns for path in (at.experiment("tiny") / "trials").iterdir()}
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 2]}, seeds=2)
    said: list[str] = []
    train_all(at, made, said.append)
    assert any("2 trials are finished already" in line for line in said)
    after = {path.name: path.stat().st_mtime_ns for path in (at.experiment("tiny") / "trials").iterdir()}
    assert len(after) == 4 and before.items() <= after.items()


def test_an_empty_place_takes_a_waiting_trial_and_other_devices_go_on(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials on two devices leave a place empty; the job grew while it was killed, and goes on on one device."""
    shutil.copytree(undisturbed[0] / "survey", tmp_path / "survey")
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2]})
    process = start(at, made, "0.0001")
    wait_for_checkpoint(at, made, process)
    process.kill()
    process.communicate()
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2, 3, 4]})
    monkeypatch.setattr(training, "devices_for", lambda width: 1)
    lines: list[str] = []
    train_all(at, made, lines.append)
    assert any("goes on from the checkpoint" in line for line in lines)
    assert any("2 devices shared the pack out, 1 do now" in line for line in lines)
    table = pd.read_csv(at.job("tiny", made.jobs[0].name) / "trials.csv")
    assert table["pack_width"].tolist() == [4] * 5
    assert set(table["outcome"]) == {"completed"} and set(table["epochs"]) == {4}
    history = pd.read_csv(at.job("tiny", made.jobs[0].name) / "history.csv")
    assert history.groupby("trial", sort=False)["epoch"].apply(list).tolist() == [[1, 2, 3, 4]] * 5
    # each trial is what it is in a run of all five at once
    shutil.copytree(tmp_path / "survey", tmp_path / "other" / "survey")
    _, at, made = prepared(tmp_path / "other", grid={"loss.gamma": [0, 1, 2, 3, 4]})
    train_all(at, made)
    whole = pd.read_csv(at.job("tiny", made.jobs[0].name) / "history.csv")
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(history[column], whole[column], rtol=1e-3)
    assert len(set(history["train_loss"].tolist())) == len(history)


def test_new_trials_wait_for_a_place_in_the_resumed_pack(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path
) -> None:
    """A job that grew while it was interrupted keeps its width: the new trials take the places of finished ones."""
    shutil.copytree(undisturbed[0] / "survey", tmp_path / "survey")
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1]})
    process = start(at, made, "0.0001")
    wait_for_checkpoint(at, made, process)
    process.kill()
    process.communicate()
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2, 3, 4]})
    train_all(at, made)
    table = pd.read_csv(at.job("tiny", made.jobs[0].name) / "trials.csv")
    assert table["pack_width"].tolist() == [2] * 5
    assert set(table["outcome"]) == {"completed"} and set(table["epochs"]) == {4}
    history = pd.read_csv(at.job("tiny", made.jobs[0].name) / "history.csv")
    assert history.groupby("trial", sort=False)["epoch"].apply(list).tolist() == [[1, 2, 3, 4]] * 5
    # a trial that waited is the trial that it would have been in a pack of two from the start
    _, other, remade = prepared(tmp_path / "again", grid={"loss.gamma": [3, 4]})
    train_all(other, remade)
    waited = history.query("trial == 'gamma-4_seed-1'").reset_index(drop=True)
    alone = pd.read_csv(other.job("tiny", remade.jobs[0].name) / "history.csv")
    pd.testing.assert_frame_equal(waited, alone.query("trial == 'gamma-4_seed-1'").reset_index(drop=True))


def test_a_diverging_trial_is_a_result(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, grid={"training.learning_rate": [0.01, 1e30]}, training__gradient_clip=None)
    train_all(at, made)
    table = pd.read_csv(at.job("tiny", made.jobs[0].name) / "trials.csv")
    assert table["outcome"].tolist() == ["completed", "diverged"]
    best = aggregate.aggregate(made.experiment, at)
    assert best["trial"] == table["trial"][0]
    grid = pd.read_csv(at.experiment("tiny") / "grid_results.csv")
    assert grid["diverged"].tolist() == [0, 1]


def test_other_data_under_the_same_settings_is_trained_again(tmp_path: Path) -> None:
    from experiments import write_arrays

    _, at, made = prepared(tmp_path)
    train_all(at, made)
    write_arrays(tmp_path / "survey", seed=5)
    _, at, made = prepared(tmp_path)
    said: list[str] = []
    train_all(at, made, said.append)
    assert any("was trained on other data" in line for line in said)


def test_the_bundle_predicts_what_the_table_holds(undisturbed: tuple[Path, Results, plan.Plan]) -> None:
    _, at, made = undisturbed
    best = aggregate.aggregate(made.experiment, at)
    folder = at.experiment("tiny")
    statistics = splits.read_statistics(folder)
    corpus = batches.Corpus(at.dataset(made.dataset_key), splits.read_splits(folder), statistics)
    part = corpus.part("test")
    bundle = bundles.load(folder / "best")
    stored, _ = read_predictions(at.job("tiny", best["job"]) / "predictions.h5")
    # the job predicted both splits together, in one shape: another shape, another order of rounding
    whole = predict.predict(bundle, part)
    np.testing.assert_allclose(whole, stored["test"].probabilities[best["trial"]], atol=1e-6)
    # however little memory there is
    np.testing.assert_allclose(predict.predict(bundle, part, most_bytes=1.0), whole, atol=1e-6)
    assert part.ids.tolist() == stored["test"].ids.tolist()


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Lets a device refuse packs of more than `most` trials, as GPUs do and a CPU doesn't; returns the widths tried."""
    import jax

    make, widths = training.make, []

    def made(*arguments: Any, **options: Any) -> training.Program:
        program = make(*arguments, **options)

        def advance(states: training.State, *rest: Any) -> training.State:
            if not widths or widths[-1] != len(states.epoch):
                widths.append(len(states.epoch))
            if len(states.epoch) > most:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
            return program.advance(states, *rest)

        return program._replace(advance=advance)

    monkeypatch.setattr(training, "make", made)
    return widths


def test_a_pack_that_does_not_fit_begins_anew_at_half_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2, 3, 4, 5, 6]})
    with monkeypatch.context() as patch:
        widths = short_of_memory(patch, 2)
        said: list[str] = []
        train_all(at, made, said.append)
    # 7 trials on two devices, then 3 and so 4 places, then one: no place of two devices holds less
    assert widths == [8, 4, 1]
    assert sum("the pack does not fit the device's memory (RESOURCE_EXHAUSTED" in line for line in said) == 2
    table = pd.read_csv(at.job("tiny", made.jobs[0].name) / "trials.csv")
    assert set(table["outcome"]) == {"completed"} and set(table["pack_halvings"]) == {2}
    aggregate.aggregate(made.experiment, at)
    page = report.write(at.experiment("tiny"), at.dataset(made.dataset_key)).read_text()
    assert "A pack did not fit the device" in page and "all-1 (2 times)" in page


def test_the_report_tells_which_jobs_were_started_again(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path
) -> None:
    folder, _, made = undisturbed
    shutil.copytree(folder / "results", tmp_path / "results")
    at = Results(tmp_path / "results")
    job = at.job("tiny", made.jobs[0].name)
    for attempt, said in ((3, "A job was started again"), (1, "")):
        jobs.train(plan.load_job(job / "config.yaml"), at, job, quiet, attempt=attempt)
        aggregate.aggregate(made.experiment, at)
        page = report.write(at.experiment("tiny"), at.dataset(made.dataset_key)).read_text()
        assert ("A job was started again" in page) == bool(said)
        assert (f"{made.jobs[0].name} (3 attempts)" in page) == bool(said)


def test_the_width_follows_from_the_compiled_programs_own_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU does not say what is free, and so the test does; what is needed is XLA's own analysis."""
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2, 3, 4, 5, 6]}, training__length_buckets=2)
    measure, needed = training.memory_needed, []

    def measured(compiled: Any) -> int:
        needed.append(measure(compiled))
        return needed[-1]

    monkeypatch.setattr(training, "together", lambda: True)  # as on a GPU, where each trial takes its share
    monkeypatch.setattr(training, "memory_needed", measured)
    monkeypatch.setattr(training, "free_memory", lambda devices: 0)
    with pytest.raises(JaxrnnError, match=r"memory is too small for one trial \(\S+ MB for 1 trial, and 0 MB are free"):
        train_all(at, made)
    assert len(needed) == 3 and needed == sorted(needed, reverse=True) and needed[0] > 1.5 * needed[1]
    monkeypatch.setattr(training, "free_memory", lambda devices: needed[0] - 1)
    said: list[str] = []
    train_all(at, made, said.append)
    table = pd.read_csv(at.job("tiny", made.jobs[0].name) / "trials.csv")
    assert set(table["pack_width"]) == {4} and set(table["pack_halvings"]) == {1}
    assert any("begins anew with 3 trials at once" in line for line in said)
    assert any(line.startswith("memory: ") and "on each of 2 devices" in line for line in said)


def test_a_device_too_small_for_one_trial_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1]})
    widths = short_of_memory(monkeypatch, 0)
    with pytest.raises(JaxrnnError, match=r"job all-1: the device's memory is too small for one trial \(RESOURCE_EXH"):
        train_all(at, made)
    assert widths == [2, 1]


def test_other_faults_of_a_device_are_not_taken_for_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    _, at, made = prepared(tmp_path, training__checkpoint_minutes=1e-6)
    before, calls = jobs._Pack.some_steps, []

    def broken(pack: Any) -> None:
        calls.append(pack)
        if len(calls) == 3:
            raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")
        before(pack)

    monkeypatch.setattr(jobs._Pack, "some_steps", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is gone"):
        train_all(at, made)
    # and what was done is not lost
    said: list[str] = []
    train_all(at, made, said.append)
    assert any("goes on from the checkpoint" in line for line in said)


def test_few_trials_are_shared_out_among_all_devices(tmp_path: Path) -> None:
    """A job of which most trials are finished: its pack is as wide as ever, and no device is left idle."""
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2, 3, 4, 5, 6, 7]})
    job_file = plan.load_job(at.job("tiny", made.jobs[0].name) / "config.yaml")
    inputs = jobs.read_inputs(job_file, at)
    store = stages.Store(at, "tiny", inputs.data_digest)
    stage = stages.of(job_file, at, None)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with jobs._Pack(job_file, stage, inputs, [*stage.trials[:3]], store, checkpoints, quiet) as pack:
        occupied = [place is not None for place in pack.places]
    # four places a device
    assert (sum(occupied[:4]), sum(occupied[4:])) == (2, 1)


def test_gpu_asked_for_and_not_there_stops_at_once(tmp_path: Path) -> None:
    import jax

    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this machine has a GPU")
    _, at, made = prepared(tmp_path, training__device="gpu")
    with pytest.raises(JaxrnnError, match=r"training.device: gpu, and JAX .* finds only cpu"):
        train_all(at, made)


def test_a_pack_that_ended_as_one_keeps_its_width_for_those_that_wait(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after all trials of the pack were stored and before the next ones began."""
    shutil.copytree(undisturbed[0] / "survey", tmp_path / "survey")
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2]})
    folder = at.job("tiny", made.jobs[0].name)
    text = (folder / "config.yaml").read_text().replace("trials_per_job: 16", "trials_per_job: 2")
    (folder / "config.yaml").write_text(text)

    def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(jobs._Pack, "_refill", killed)
        with pytest.raises(Killed):
            train_all(at, made)
    train_all(at, made)
    table = pd.read_csv(folder / "trials.csv")
    assert table["pack_width"].tolist() == [2, 2, 2] and set(table["epochs"]) == {4}


def test_a_replay_leaves_the_experiment_as_it_is(undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path) -> None:
    _, at, made = undisturbed
    folder = at.job("tiny", made.jobs[0].name)
    before = {path: path.stat().st_mtime_ns for path in at.experiment("tiny").rglob("*")}
    jobs.train(plan.load_job(folder / "config.yaml"), at, tmp_path / "replay", quiet, retrain=True)
    assert before == {path: path.stat().st_mtime_ns for path in at.experiment("tiny").rglob("*")}
    replayed, _ = read_predictions(tmp_path / "replay" / "predictions.h5")
    stored, _ = read_predictions(folder / "predictions.h5")
    for trial, probabilities in stored["test"].probabilities.items():
        np.testing.assert_array_equal(replayed["test"].probabilities[trial], probabilities)


def test_results_of_different_settings_are_never_merged(tmp_path: Path) -> None:
    grid = {"model.cell": ["simple", "gru"]}
    _, at, made = prepared(tmp_path, grid=grid, training__epochs=1)
    train_all(at, made)
    _, at, made = prepared(tmp_path, grid=grid, training__epochs=2)
    first = at.job("tiny", made.jobs[0].name)
    jobs.train(plan.load_job(first / "config.yaml"), at, first, quiet)
    with pytest.raises(JaxrnnError, match=r"gru-1: holds the results of other settings or data"):
        aggregate.aggregate(made.experiment, at)


def test_a_job_refuses_splits_of_other_settings(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path)
    statistics = splits.read_statistics(at.experiment("tiny"))
    other = made.experiment.model_copy(update={"seed": 99})
    splits.split(other, at.dataset(made.dataset_key), at.experiment("tiny"))
    assert splits.read_statistics(at.experiment("tiny")).settings_digest != statistics.settings_digest
    with pytest.raises(JaxrnnError, match="made with other settings of `split`, `task` or `normalisation`"):
        train_all(at, made)


def test_a_binary_network_is_trained_by_any_score_and_kept_with_one_output(tmp_path: Path) -> None:
    grid = {"training.monitor": ["plasticc_log_loss", "figure_of_merit"], "loss.label_smoothing": [0, 0.1]}
    settings = {"loss__kind": "binary", "loss__class_weights": "effective", "training__optimiser": "adamw"}
    task = {"class_importance": {"1": 3.0}, "target": "1"}
    _, at, made = prepared(tmp_path, grid=grid, task=task, **settings)
    train_all(at, made)
    statistics = splits.read_statistics(at.experiment("tiny"))
    for job, monitor in zip(made.jobs, grid["training.monitor"], strict=True):
        content, _ = read_predictions(at.job("tiny", job.name) / "predictions.h5")
        history = pd.read_csv(at.job("tiny", job.name) / "history.csv")
        table = pd.read_csv(at.job("tiny", job.name) / "trials.csv").set_index("trial")
        other = "figure_of_merit" if monitor == "plasticc_log_loss" else "plasticc_log_loss"
        assert history[f"validation_{other}"].isna().to_numpy().all()
        for trial, rows in history.groupby("trial"):
            watched = rows.set_index("epoch")[f"validation_{monitor}"]
            best = watched.idxmin() if monitor == "plasticc_log_loss" else watched.idxmax()
            assert table.loc[str(trial), "best_epoch"] == best
            # what was watched on the device is what is scored from the predictions of the best epoch
            seen = content["validation"]
            found = metrics.scores(
                seen.probabilities[str(trial)], seen.labels, statistics.classes, made.experiment.task
            )
            assert found[monitor] == pytest.approx(watched[best], rel=1e-5)
    best = aggregate.aggregate(made.experiment, at)
    bundle = bundles.load(at.experiment("tiny") / "best")
    assert bundle.outputs == 1
    folder = at.experiment("tiny")
    part = batches.Corpus(at.dataset(made.dataset_key), splits.read_splits(folder), statistics).part("test")
    stored, _ = read_predictions(at.job("tiny", best["job"]) / "predictions.h5")
    predicted = predict.predict(bundle, part)
    assert predicted.shape == (len(part), 2)
    np.testing.assert_allclose(predicted, stored["test"].probabilities[best["trial"]], atol=1e-6)


def test_what_predictions_are_worth_trains_nothing_again(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "copy")
    given = {"data__path": str(undisturbed[0] / "survey"), **UNDISTURBED}
    _, at, made = prepared(tmp_path / "copy", **given, task={"target": "1", "class_importance": {"0": 2.0}})
    monkeypatch.setattr(jobs, "_Pack", lambda *_, **__: pytest.fail("trained again"))
    train_all(at, made)
    assert np.isfinite(aggregate.aggregate(made.experiment, at)["test"]["figure_of_merit"]["value"])


def test_a_survey_without_metadata_is_trained(tmp_path: Path) -> None:
    _, at, made = prepared(tmp_path, data__metadata=[], training__epochs=1)
    train_all(at, made)
    best = aggregate.aggregate(made.experiment, at)
    assert np.isfinite(best["test"]["accuracy"]["value"])


def test_a_job_says_how_long_it_waited_for_input(undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path) -> None:
    _, at, made = undisturbed
    folder = at.job("tiny", made.jobs[0].name)
    table = pd.read_csv(folder / "trials.csv")
    assert np.all(table["input_seconds"] > 0)
    assert np.all(table["input_seconds"] < table["seconds"])
    said: list[str] = []
    jobs.train(plan.load_job(folder / "config.yaml"), at, tmp_path / "again", said.append, retrain=True)
    assert [line for line in said if re.fullmatch(r"waited for input \d+\.\d % of the time", line)]


# Data that does not fit: 120 sequences in windows of about 35, read from shards of about 10.
IN_WINDOWS = {
    "training__window_mb": 0.005,
    "data__shard_mb": 0.004,
    "training__epochs": 3,
    "training__length_buckets": 1,
}


class Killed(BaseException):
    pass


# The learning rate goes on from the step and the plateau where it was.
FALLING = {"training__schedule": "cosine", "training__warmup_epochs": 0.5}
ON_PLATEAU = {"training__schedule": "plateau", "training__plateau_patience": 1, "training__learning_rate": 0.3}
WITH_MOMENTUM = {"training__optimiser": "sgd", "training__momentum": 0.9, "training__weight_decay": 0.01}


@pytest.mark.parametrize("settings", [FALLING, ON_PLATEAU | WITH_MOMENTUM], ids=["falling", "on plateaus"])
def test_a_job_in_windows_is_the_same_however_it_is_interrupted_and_its_trials_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Three trials at two places: the last one waits for both of the others."""
    _, at, made = prepared(tmp_path, grid={"loss.gamma": [0, 1, 2]}, **IN_WINDOWS, **settings)
    config = at.job("tiny", made.jobs[0].name) / "config.yaml"
    config.write_text(config.read_text().replace("trials_per_job: 16", "trials_per_job: 2"))
    job_file = plan.load_job(config)
    monkeypatch.setattr(jobs, "FIRST_SEGMENT_STEPS", 1)
    monkeypatch.setattr(jobs._Pack, "_adapt_segment", lambda *_: None)
    walk: list[tuple[int, int, int]] = []
    kill_at: list[int] = []
    advance = jobs._Pack.some_steps

    def watched(pack: jobs._Pack) -> None:
        advance(pack)
        assert not pack.windows.whole and not pack.validation.whole
        walk.append((pack.epoch, pack.window, pack.step))
        if len(walk) in kill_at:
            pack._save()
            raise Killed

    monkeypatch.setattr(jobs._Pack, "some_steps", watched)

    def trained(name: str, file: plan.JobFile) -> pd.DataFrame:
        jobs.train(file, at, tmp_path / name, quiet, retrain=True)
        history = pd.read_csv(tmp_path / name / "history.csv")
        content, _ = read_predictions(tmp_path / name / "predictions.h5")
        for split, entry in content.items():
            for trial, probabilities in entry.probabilities.items():
                assert np.isfinite(probabilities).all()
                history.loc[history["trial"] == trial, split] = hashlib.sha256(probabilities.tobytes()).hexdigest()
        return history.sort_values(["trial", "epoch"]).reset_index(drop=True)

    whole = trained("whole", job_file)
    assert whole.groupby("trial")["epoch"].apply(list).tolist() == [[1, 2, 3]] * 3
    if settings is FALLING:
        # both packs walk through the same steps, here one at a time
        steps = np.array([sum(epoch == each for epoch, *_ in walk) / 2 for each in range(3)])
        last = np.arange(3) + (steps - 1) / steps
        rates = 0.01 * np.minimum(last / 0.5, 1) * (1 + np.cos(np.pi * (last - 0.5) / 2.5)) / 2
        np.testing.assert_allclose(whole["learning_rate"], np.tile(rates, 3), rtol=1e-5)
    else:
        assert len(set(whole["learning_rate"].tolist())) > 1
    windows = 1 + max(window for _, window, step in walk if step)
    assert windows >= 3
    # within the second window, and at the end of one in the second epoch, both in the first pack
    within = 1 + next(place for place, (_, window, step) in enumerate(walk) if window == 1 and step)
    border = 1 + next(p for p, (epoch, window, step) in enumerate(walk) if epoch == 1 and window == 2 and not step)
    kill_at[:] = [within, border]
    walk.clear()
    for _ in kill_at:
        with pytest.raises(Killed):
            trained("killed", job_file)
    kill_at.clear()
    pd.testing.assert_frame_equal(trained("killed", job_file), whole, check_exact=True)
    backwards = job_file.model_copy(
        update={"job": job_file.job.model_copy(update={"trials": job_file.job.trials[::-1]})}
    )
    pd.testing.assert_frame_equal(trained("backwards", backwards), whole, check_exact=True)


ALIKE = {
    "training__epochs": 3,
    "training__length_buckets": 1,
    "augmentation": {"noise": 0.5},
    "loss": {"class_weights": "balanced"},
}


def fold_results(at: Results, made: plan.Plan) -> dict[int | None, tuple[np.ndarray, dict[str, Any]]]:
    """Returns the history and, by split, the predictions of each fold's trial."""
    found = {}
    for job in made.jobs:
        folder = at.job(made.experiment.experiment, job.name)
        history = pd.read_csv(folder / "history.csv").set_index("trial")
        content, _ = predictions.read(folder / "predictions.h5")
        for trial in job.trials:
            own = content[trial.fold]
            by_split = {split: (entry.ids.tolist(), entry.probabilities[trial.id]) for split, entry in own.items()}
            of_trial = history.loc[trial.id].to_numpy(dtype=float)
            found[trial.fold] = of_trial, by_split
    return found


def assert_alike(one: tuple[np.ndarray, dict[str, Any]], other: tuple[np.ndarray, dict[str, Any]]) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=1e-3, atol=1e-4)
    for split, (ids, probabilities) in one[1].items():
        assert ids == other[1][split][0]
        np.testing.assert_allclose(probabilities, other[1][split][1], atol=1e-4)


def test_a_trial_in_a_pack_of_several_folds_is_what_its_split_alone_gives(tmp_path: Path) -> None:
    """Random folds are the splits of neighbouring seeds: statistics, noise, class weights, all are the fold's own."""
    shares = {"method": "exact", "train": 0.5, "validation": 0.2}
    folds = {**shares, "folds": 2, "fold_kind": "random", "seed": 5}
    _, at, made = prepared(tmp_path, split=folds, **ALIKE)
    assert len(made.jobs) == 1
    train_all(at, made)
    together = fold_results(at, made)
    assert not np.allclose(together[0][0], together[1][0], rtol=1e-3)
    for fold in range(2):
        # what they share is compiled once
        _, at, alone = prepared(tmp_path, experiment=f"alone-{fold}", split={**shares, "seed": 5 + fold}, **ALIKE)
        train_all(at, alone)
        assert_alike(together[fold], fold_results(at, alone)[None])


def test_which_folds_share_a_pack_changes_no_trial(tmp_path: Path) -> None:
    """Folds of different sizes in windows, of which one has a batch more: a job of all folds, two of two and one."""
    folds = {"method": "exact", "train": 0.5, "validation": 0.23, "folds": 3}
    found = []
    for most in (3, 2):
        place = tmp_path / str(most)
        _, at, made = prepared(place, split=folds, training__trials_per_job=most, **IN_WINDOWS)
        assert [job.folds for job in made.jobs] == ([[0, 1, 2]] if most == 3 else [[0, 1], [2]])
        train_all(at, made)
        found.append(fold_results(at, made))
        best = aggregate.aggregate(made.experiment, at)
        assert bundles.load(at.experiment("tiny") / "best").statistics.fold == best["fold"]
    assert found[0].keys() == found[1].keys() and len(found[0]) == 3
    for key in found[0]:
        assert_alike(found[0][key], found[1][key])


def test_augmentation_changes_training_and_what_it_cannot_do_stops_the_job(
    undisturbed: tuple[Path, Results, plan.Plan], tmp_path: Path
) -> None:
    _, at, made = undisturbed
    before = pd.read_csv(at.job("tiny", made.jobs[0].name) / "history.csv")["train_loss"].tolist()[0]
    _, at, made = prepared(tmp_path, training__epochs=1, training__length_buckets=2, augmentation={"truncation": 1.0})
    train_all(at, made)
    after = pd.read_csv(at.job("tiny", made.jobs[0].name) / "history.csv")["train_loss"].tolist()[0]
    # alone or in a pack, the same trial without augmentation has the same loss to 1e-5
    assert abs(before - after) > 1e-3
    _, at, made = prepared(tmp_path, training__epochs=1, augmentation={"drop_passbands": 0.5})
    with pytest.raises(JaxrnnError, match=r"augmentation\.drop_passbands: 0\.5 needs the feature `passband`"):
        train_all(at, made)


def test_networks_of_ones_own_from_the_file_to_the_report(tmp_path: Path) -> None:
    listed = [
        ["gru", {"layer": "pool", "kind": "attention"}, "metadata"],
        [{"layer": "conv", "filters": 4, "stride": 2}, {"layer": "flatten", "steps": 6}, "dropout", "dense"],
    ]
    grid = {"model.layers": listed, "model.recurrent_dropout": [0, 0.3]}
    settings = {"model": {"dropout": 0.1}, "loss": {}, "training__epochs": 1}
    experiment, at, made = prepared(tmp_path, grid=grid, **settings)
    assert [len(job.trials) for job in made.jobs] == [2, 2]
    train_all(at, made)
    best = aggregate.aggregate(experiment, at)
    words = ["gru 32, pool attention, metadata", "conv 4 stride 2, flatten 6, dropout, dense 32"]
    folder = at.experiment("tiny")
    for table in ("plan.csv", "training_results.csv", "grid_results.csv"):
        assert set(pd.read_csv(folder / table)["model.layers"]) == set(words)
    assert best["grid_point"]["model.layers"] in words
    bundle = bundles.load(folder / "best")
    assert bundle.model.layers in [config.layers_of(layers) for layers in listed]
    page = report.write(folder, at.dataset(made.dataset_key)).read_text()
    assert f"the network {best['grid_point']['model.layers']}, trained with" in page.replace("\n", " ")
    # what was hidden of a recurrent state changed what was learnt; a network without one does not care
    content = read_predictions(at.job("tiny", made.jobs[0].name) / "predictions.h5")[0]["test"].probabilities
    one, other = content.values()
    assert not np.array_equal(one, other)


def test_sequences_that_do_not_fit_a_network_are_refused_before_training(tmp_path: Path) -> None:
    layers = [{"layer": "average_pool", "size": 2}, {"layer": "flatten", "steps": 5}]
    _, at, made = prepared(tmp_path, model={"layers": layers}, loss={})
    said: list[str] = []
    with pytest.raises(JaxrnnError, match="`flatten` takes sequences of at most 10 steps, and the data has some of 12"):
        train_all(at, made, said.append)
    assert said == []


def test_trials_of_fewer_sequences_train_on_these_alone(tmp_path: Path) -> None:
    said: list[str] = []
    experiment, at, made = prepared(tmp_path, grid={"training.sequences": [30, None]}, training__epochs=2)
    assert [(len(job.trials), made.sequences(job)) for job in made.jobs] == [(1, 30), (1, None)]
    train_all(at, made, said.append)
    assert [line for line in said if "30 train, 40 validation, 40 test" in line]
    assert [line for line in said if "120 train, 40 validation, 40 test" in line]
    best = aggregate.aggregate(experiment, at)
    folder = at.experiment("tiny")
    table = pd.read_csv(folder / "grid_results.csv", dtype={"training.sequences": str}, keep_default_na=False)
    assert table["training.sequences"].tolist() == ["30", ""]
    chosen = best["grid_point"]["training.sequences"]
    bundle = bundles.load(folder / "best")
    assert bundle.statistics.sequences == chosen
    assert bundle.statistics.class_counts.sum() == (chosen or 120)
