"""The workflow on one machine: what runs again after which change, and what a user sees of mistakes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiments import read_predictions
from sklearn import metrics as sk
from workflows import CHECKOUT, LOCAL, TABLES, Workflow, rules_in, wait_until

pytestmark = pytest.mark.mpi  # the local profile ingests with two ranks, and ingest refuses any other number of them
AFTER_TRAINING = ["aggregate", "report"]
ALL = ["aggregate", "ingest", "report", "simulate", "split", "train", "train"]


def test_the_whole_workflow_runs(finished: Workflow) -> None:
    results = finished.table("experiment_results.csv")
    assert len(results) == 4
    assert set(results["outcome"]) == {"completed"}
    assert not results["test_macro_auc"].isna().to_numpy().any()
    assert "<html" in (finished.results / "report.html").read_text()


def test_snakemakes_own_report_holds_page_tables_and_figures(finished: Workflow, tmp_path: Path) -> None:
    page = tmp_path / "snakemake.html"
    done = finished.copied_to(tmp_path / "copy").run("--report", str(page))
    assert done.returncode == 0, done.stdout
    shown = page.read_text()
    names = ["report.html", "best.json", *(name for name in TABLES if name != "splits.csv")]
    names += [path.name for path in (finished.results / "figures").glob("*.svg")]
    assert len(names) > 8 and [name for name in names if f'"{name}"' not in shown] == []
    assert "Validation chose" in shown  # a caption


def test_every_number_is_scikit_learns_of_the_predictions(finished: Workflow) -> None:
    folder, (best, _) = finished.results, finished.chosen()
    predicted, classes = read_predictions(folder / "jobs" / best["job"] / "predictions.h5")
    test = predicted["test"]
    truth, shown = test.labels, test.probabilities[best["trial"]].astype(float)
    shown /= shown.sum(axis=1, keepdims=True)  # float32's sum is not quite 1
    said = shown.argmax(axis=1)
    expected = {
        "log_loss": sk.log_loss(truth, shown),
        "accuracy": sk.accuracy_score(truth, said),
        "macro_auc": sk.roc_auc_score(truth, shown, multi_class="ovr"),
        "weighted_f1": sk.f1_score(truth, said, average="weighted"),
    }
    for index, name in enumerate(classes):
        expected |= {
            f"auc_{name}": sk.roc_auc_score(truth == index, shown[:, index]),
            f"average_precision_{name}": sk.average_precision_score(truth == index, shown[:, index]),
            f"recall_{name}": sk.recall_score(truth == index, said == index),
        }
    assert {name: best["test"][name]["value"] for name in expected} == pytest.approx(expected, rel=1e-5)

    def table(name: str) -> Any:
        return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])

    matrix = table("confusion_matrix_test").set_index("truth").to_numpy()
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(truth, said))
    for end, how in (("", "true"), ("_by_prediction", "pred")):
        shares = table(f"confusion_matrix_test_normalised{end}").set_index("truth").to_numpy()
        np.testing.assert_allclose(shares, sk.confusion_matrix(truth, said, normalize=how), atol=1e-12)
    for name, curve in table("roc_test").groupby("class"):
        area = sk.auc(curve["false_positive_rate"], curve["true_positive_rate"])
        assert area == pytest.approx(expected[f"auc_{name}"], rel=1e-9)
    scores = table("calibration_scores").set_index(["probabilities", "score"])["value"]
    assert scores["as predicted", "log_loss"] == pytest.approx(expected["log_loss"], rel=1e-5)
    brier = ((shown - np.eye(len(classes))[truth]) ** 2).sum(axis=1).mean()
    assert scores["as predicted", "brier"] == pytest.approx(brier, rel=1e-5)
    assert (table("slices_test").groupby("property")["objects"].sum() == len(truth)).all()
    assert len(table("mistakes_test")) == min(20, (truth != said).sum())
    assert table("ensemble")["value"].iloc[0] == pytest.approx(expected["log_loss"], rel=1e-5)
    assert len(table("comparisons")) == 3
    assert 0 < table("cadence")["sequences"].sum() <= 88


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({"training.checkpoint_minutes": 1.0, "training.segment_seconds": 1.0}, []),
        ({"task.target": "agn", "selection.metric": "figure_of_merit"}, AFTER_TRAINING),
        ({"audit": {"only": ["copies"]}}, ["audit", "report"]),
        ({"training.learning_rate": 0.002}, [*AFTER_TRAINING, "train", "train"]),
        ({"grid/model.cell": ["simple", "gru", "lstm"]}, [*AFTER_TRAINING, "train"]),
        ({"split.train": 0.6}, [*AFTER_TRAINING, "split", "train", "train"]),
        ({"data.shard_mb": 1}, [rule for rule in ALL if rule != "simulate"]),
        ({"data.simulation": {"objects": {"variable_star": 41, "supernova": 24, "agn": 24}}}, ALL),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(
    finished: Workflow, tmp_path: Path, changes: dict[str, Any], rerun: list[str]
) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure(changes)
    workflow.config.write_text("# a comment, and another time\n" + workflow.config.read_text())
    assert workflow.planned() == rerun


def test_a_second_run_does_nothing(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    before = _times(workflow.results)
    workflow.config.touch()
    done = workflow.run()
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert _times(workflow.results) == before


def test_experiments_with_the_same_data_share_one_ingest(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"experiment": "another"})
    assert workflow.planned() == [*AFTER_TRAINING, "split", "train", "train"]


def test_one_more_grid_value_trains_the_new_trials_alone(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    before = {path.parent.name: path.stat().st_mtime_ns for path in workflow.results.glob("trials/*/trial.json")}
    workflow.configure({"grid/loss.gamma": [0, 1, 2]})
    done = workflow.run()
    assert done.returncode == 0, done.stdout
    assert rules_in(done.stdout) == [*AFTER_TRAINING, "train", "train"]
    assert "4 of 6 trials are finished" in done.stdout
    after = {path.parent.name: path.stat().st_mtime_ns for path in workflow.results.glob("trials/*/trial.json")}
    assert len(after) == 6
    assert before.items() <= after.items()
    old = workflow.table("experiment_results.csv").query("`loss.gamma` < 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(old, finished.table("experiment_results.csv"), check_exact=True)


def test_halving_trains_rung_by_rung_and_reruns_what_a_change_of_it_touches(finished: Workflow, tmp_path: Path) -> None:
    halved = finished.copied_to(tmp_path)
    _forget_training(halved)
    halved.configure({"search.halving": {"reduction": 2, "rungs": 2}})
    # two jobs in two rungs
    trained = ["aggregate", "promote", "report", "rung", "rung", "train", "train"]
    done = halved.run()
    assert done.returncode == 0, done.stdout
    assert rules_in(done.stdout) == trained
    table = halved.table("training_results.csv")
    assert sorted(zip(table["epochs"], table["outcome"], strict=True)) == [(10, "halted")] * 2 + [(20, "completed")] * 2
    assert halved.planned() == []
    # those that went on are what they are without
    whole = finished.table("training_results.csv")
    losses = dict(zip(whole["trial"], whole["loss"], strict=True))
    for trial, loss, outcome in zip(table["trial"], table["loss"], table["outcome"], strict=True):
        assert outcome == "halted" or loss == pytest.approx(losses[trial], rel=1e-5)
    # as many epochs, and another number of grid points that goes on
    halved.configure({"search.halving": {"reduction": 2, "rungs": 2}, "grid/loss.gamma": [0, 1, 2]})
    assert halved.planned() == trained
    halved.configure({"search.halving": {"reduction": 3, "rungs": 2}})
    assert halved.planned() == trained
    halved.configure()
    assert halved.planned() == ["aggregate", "report", "train", "train"]


def test_interrupted_it_goes_on_and_gives_what_it_would_have_given(finished: Workflow, tmp_path: Path) -> None:
    # as if only ingest and split were done; a checkpoint after every epoch
    workflow = finished.copied_to(tmp_path)
    _forget_training(workflow)
    workflow.configure({"training.checkpoint_minutes": 1e-6, "training.segment_seconds": 1e-3})
    process = workflow.start()
    wait_until(lambda: len(list(workflow.results.glob("checkpoints/*/[0-9]*"))) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode != 0, output
    assert "stopped by SIGINT" in _log(workflow, "tiny/jobs/*/log.txt")
    assert not (workflow.results / "report.html").exists()

    workflow.configure()
    done = workflow.run()
    assert done.returncode == 0, done.stdout
    assert "goes on from" in _log(workflow, "tiny/jobs/*/log.txt")
    for name in TABLES:
        pd.testing.assert_frame_equal(workflow.table(name), finished.table(name), check_exact=True)


def test_where_a_job_always_fails_the_report_is_of_the_others_and_says_so(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    pool = {"layer": "pool", "kind": "mean"}
    good, bad = ["gru", pool, "dense"], [{"layer": "flatten", "steps": 1}, "dense"]  # too few, as the job finds out
    settings = {"model": {}, "training.epochs": 2}
    workflow.configure(settings | {"grid": {"model.layers": [good, bad]}})
    done = workflow.run()
    assert done.returncode != 0, done.stdout
    page = (workflow.results / "report.html").read_text()
    assert "1 job failed, and this report is of the others" in page and "sequences of at most 1 steps" in page
    assert len(workflow.table("experiment_results.csv")) == 1
    # it fails again, and is not taken for done
    assert workflow.planned() == [*AFTER_TRAINING, "train"]
    workflow.configure(settings | {"grid": {"model.layers": [good]}})
    done = workflow.run()
    assert done.returncode == 0, done.stdout
    assert "1 job failed" not in (workflow.results / "report.html").read_text()
    assert workflow.planned() == []


def test_the_longest_jobs_begin_first(finished: Workflow, tmp_path: Path) -> None:
    """So that no job is left over beside idle cores."""
    workflow = finished.copied_to(tmp_path)
    # without a GPU they end as soon as they begin
    workflow.configure({"grid": {"model.units": [8, 32, 4, 16, 2]}, "training.epochs": 1, "training.device": "gpu"})
    output = workflow.run("--cores", "1", "--until", "train").stdout
    assert re.findall(r"Train the job units-(\d+)-1", output) == ["32", "16", "8", "4", "2"], output


def test_a_job_replays_by_hand(finished: Workflow, tmp_path: Path) -> None:
    job = finished.results / "jobs" / "cell-gru-1"
    workflow = finished.copied_to(tmp_path / "copy")
    config = "results/tiny/jobs/cell-gru-1/config.yaml"
    command = [sys.executable, "-m", "jaxrnn", "train", "--config", config, "--retrain"]
    cores = workflow.chosen()[0]["software"]["cores"]
    assert f"JAX_NUM_CPU_DEVICES={cores} NPROC={cores} jaxrnn train" in (finished.results / "report.html").read_text()
    environment = workflow.environment | {"JAX_NUM_CPU_DEVICES": cores, "NPROC": cores}
    subprocess.run([*command, "--output", tmp_path / "replay"], cwd=workflow.folder, env=environment, check=True)
    assert (tmp_path / "replay" / "history.csv").read_bytes() == (job / "history.csv").read_bytes()
    assert (tmp_path / "replay" / "predictions.h5").read_bytes() == (job / "predictions.h5").read_bytes()


def test_without_an_experiment_file_it_lists_those_that_are_there() -> None:
    done = _snakemake("--dry-run")
    assert done.returncode != 0
    assert "found 0" in done.stdout
    for path in sorted((CHECKOUT / "config").glob("*.yaml")):
        assert f"--configfile config/{path.name}" in done.stdout
    assert "File " not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configfile", "config/goto.yaml", "config/goto.yaml"], "expected one experiment file, found 2"),
        (["--configfile", "config/goto.yaml", "--config", "seed=2"], "--config seed: values on the command line"),
    ],
)
def test_what_would_merge_settings_is_refused(arguments: list[str], message: str) -> None:
    done = _snakemake("--dry-run", *arguments)
    assert done.returncode != 0
    assert message in done.stdout
    assert "File " not in done.stdout


def test_several_processes_want_a_launcher(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"training.processes": 2})
    assert workflow.planned() == []  # the local profile has one, and results stay what they are
    done = workflow.run("--dry-run", "--set-resources", "ingest:mpi=", profile=LOCAL)
    assert done.returncode != 0
    assert "training.processes: 2 are started by an MPI launcher, and the profile names none" in done.stdout
    assert "File " not in done.stdout


def test_every_mistake_in_the_experiment_file_is_told_at_once(finished: Workflow, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, finished.compiled)
    workflow.configure({"model.unit": 4, "training.learning_rate": -1, "grid/model.cell": ["gro"]})
    done = workflow.run()
    assert done.returncode != 0
    for part in ("3 mistakes", "model.unit", "did you mean 'units'?", "training.learning_rate", "did you mean 'gru'?"):
        assert part in done.stdout
    assert "Traceback" not in done.stdout
    assert "File " not in done.stdout
    assert not (tmp_path / "results").exists()


def _snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _log(workflow: Workflow, pattern: str) -> str:
    return "".join(path.read_text() for path in (workflow.folder / "results").glob(pattern))


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _forget_training(workflow: Workflow) -> None:
    for path in workflow.results.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("splits.csv", "statistics.json"):
            path.unlink()


def test_a_new_survey_is_classified_by_name_and_nothing_else_is_done(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    refused = workflow.run("--dry-run", "predict")
    assert refused.returncode and "has no section `predict`" in refused.stdout and "Traceback" not in refused.stdout
    (survey,) = (workflow.folder / "results" / "surveys").iterdir()
    workflow.configure({"predict": {"path": str(survey), "output": "next/week.csv"}})
    assert workflow.planned() == [], "the section reruns nothing"
    done = workflow.run("--printshellcmds", "predict")
    assert done.returncode == 0, done.stdout
    found = pd.read_csv(workflow.folder / "next" / "week.csv", dtype={"id": str})
    assert len(found) == 88 and found["id"].is_unique
    log = (workflow.results / "logs" / "predict.txt").read_text()
    assert "88 of 88 objects are predicted" in log
    assert "jaxrnn predict" in done.stdout and "--ranks 2" in done.stdout and "jaxrnn train" not in done.stdout
