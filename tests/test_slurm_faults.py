"""What a cluster does to running work, done on a real SLURM to real training: its results are those of a quiet run.

Each test has an experiment of its own, whose training is interrupted; then it goes on to its end. `make soak` runs more
and larger ones (test_slurm_soak.py).
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import NODES, Cluster
from workflows import Workflow, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]
# One job of two trials, whose training is slow because it writes a checkpoint after each epoch.
CHANGES: dict[str, Any] = {
    "grid": {"loss.gamma": [0, 1]},
    "training.epochs": 60,
    "training.checkpoint_minutes": 1e-6,
    "training.segment_seconds": 1e-3,
}


@pytest.fixture(scope="module")
def quiet(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The experiment after a run that nothing disturbed, without a cluster; not to be changed."""
    workflow = finished.copied_to(tmp_path_factory.mktemp("quiet"))
    workflow.configure(CHANGES | {"training.checkpoint_minutes": 5, "training.segment_seconds": 10})
    done = workflow.run()
    assert done.returncode == 0, done.stdout
    return workflow


@pytest.fixture
def workflow(finished: Workflow, tmp_path: Path) -> Workflow:
    """The experiment, ingested and split, and not trained."""
    workflow = finished.copied_to(tmp_path)
    workflow.configure(CHANGES)
    return workflow


def test_preempted_it_goes_on(cluster: Cluster, workflow: Workflow, quiet: Workflow) -> None:
    process = start(workflow)
    wait_for_training(workflow, process)
    cluster.preempt(seconds=2)
    end(process)
    assert restarts(workflow) == 1
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


def test_requeued_twice_held_and_cancelled_by_hand_it_goes_on(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    process = start(workflow, "--retries", "1")
    for times in (1, 2):
        wait_for_training(workflow, process)
        scontrol("requeue", training(workflow)[-1]["JobId"])
        wait_until(lambda times=times: restarts(workflow) == times, process, every=0.5)
    job = training(workflow)[-1]["JobId"]
    wait_until(lambda: training(workflow)[-1]["JobState"] == "PENDING", process, every=0.5)
    scontrol("hold", job)
    assert training(workflow)[-1]["Priority"] == "0"
    scontrol("release", job)
    wait_for_training(workflow, process)
    subprocess.run(["scancel", job], check=True)
    end(process)
    assert len(training(workflow)) == 2, "cancelled by hand it is submitted anew, as any job that failed"
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


def test_when_its_node_is_lost_it_goes_on_on_another(cluster: Cluster, workflow: Workflow, quiet: Workflow) -> None:
    process = start(workflow)
    wait_for_training(workflow, process)
    node = training(workflow)[-1]["NodeList"]
    assert node in NODES
    cluster.set_node(node, "down")
    try:
        end(process)
    finally:
        cluster.set_node(node, "resume")
    last = training(workflow)[-1]
    assert (last["NodeList"] != node, restarts(workflow), len(training(workflow))) == (True, 1, 1)
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


def test_a_controller_that_was_killed_is_replaced_and_a_living_one_is_not(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    first = start(workflow)
    wait_for_training(workflow, first)
    job = training(workflow)[-1]["JobId"]
    scontrol("suspend", job)  # it must not end meanwhile
    second = workflow.run(profile=PROFILE)
    assert second.returncode != 0
    assert f"another Snakemake runs this experiment (process {first.pid} on" in second.stdout
    assert "Traceback" not in second.stdout and "has been submitted" not in second.stdout

    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = start(workflow)
    said = until(third, "waiting for 1 SLURM job of this experiment, which an earlier controller submitted: 1 susp")
    assert "cleared the lock that a lost controller of tiny left" in said
    scontrol("resume", job)
    end(third)
    assert len(training(workflow)) == 1, "what the first one had submitted was submitted again"
    assert restarts(workflow) == 0
    workflow.assert_same(quiet)
    # what the lost one's jobs made is of unknown origin to Snakemake, and is made again all the same where that changed
    workflow.configure(CHANGES | {"training.epochs": 2})
    changed = end(start(workflow))
    assert len(training(workflow)) == 2, changed
    assert set(workflow.table("experiment_results.csv")["epochs"]) == {2}


def test_stopped_by_ctrl_c_it_ends_its_jobs_and_goes_on(cluster: Cluster, workflow: Workflow, quiet: Workflow) -> None:
    process = start(workflow)
    wait_for_training(workflow, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode != 0, output
    again = end(start(workflow))
    assert [job["JobState"] for job in training(workflow)] == ["CANCELLED", "COMPLETED"], again
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


PROFILE = "slurm/testcluster"


def start(workflow: Workflow, *arguments: str, path: Path | None = None) -> subprocess.Popen[str]:
    """Starts a controller that looks at its jobs as soon as it can; `path` comes first on its PATH."""
    return workflow.start("--slurm-init-seconds-before-status-checks", "1", *arguments, profile=PROFILE, path=path)


def end(process: subprocess.Popen[str]) -> str:
    """Returns what a controller printed, which must end well."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def until(process: subprocess.Popen[str], text: str) -> str:
    """Returns what a controller printed until it printed a text."""
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was not said:\n{said}")


def training(workflow: Workflow) -> list[dict[str, str]]:
    """Returns the experiment's SLURM jobs that train, in the order in which they were submitted."""
    jobs = [job for job in slurm_cluster.jobs() if job["WorkDir"] == str(workflow.folder)]
    return sorted((job for job in jobs if job["Comment"].startswith("rule_train")), key=lambda job: int(job["JobId"]))


def restarts(workflow: Workflow) -> int:
    return sum(int(job["Restarts"]) for job in training(workflow))


def scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True)


def log(workflow: Workflow) -> str:
    """Returns the logs of jobs, of which Snakemake keeps that of the last attempt."""
    return "".join(path.read_text() for path in workflow.results.glob("jobs/*/log.txt"))


def wait_for_training(workflow: Workflow, process: subprocess.Popen[str]) -> None:
    """Waits until training has gone on for two epochs from now, and its job runs."""
    before = newest(workflow)
    wait_until(lambda: newest(workflow) >= before + 2, process, every=0.1)
    wait_until(lambda: training(workflow)[-1]["JobState"] == "RUNNING", process, every=0.1)


def newest(workflow: Workflow) -> int:
    """Returns the number of the newest checkpoint."""
    names = [path.name for path in workflow.results.glob("checkpoints/*/[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0)
