"""Everything that a cluster does to running work, at greater length: `make soak`.

Each test has a grid of six jobs on two nodes with make-believe GPUs, and a cluster with accounting. What came of it
is in docs/reliability.md.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import yaml
from slurm_cluster import NODES, Cluster
from test_slurm_faults import CHANGES, PROFILE, end, log, newest, restarts, scontrol, start, training, until
from workflows import CHECKOUT, Workflow, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.mpi, pytest.mark.timeout(3600)]
GRID: dict[str, Any] = {
    "grid": {"model.cell": ["simple", "gru", "lstm"], "model.units": [4, 6], "loss.gamma": [0, 1]},
    "training.epochs": 240,  # for none to end before its fault comes
}
JOBS = 6
SILENT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
AS_ON_THE_CLUSTER = ("--set-threads", "train=2")  # of a local run: bits depend on how many share a pack out
ONE_GPU_EACH = ("--set-resources", "train:gpu=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := slurm_cluster.obstacle(accounting=True):
        pytest.exit(reason, returncode=1)
    with slurm_cluster.running(accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def quiet(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The grid after a run that nothing disturbed, without a cluster; not to be changed."""
    workflow = finished.copied_to(tmp_path_factory.mktemp("quiet"))
    workflow.configure(CHANGES | GRID | {"training.checkpoint_minutes": 5, "training.segment_seconds": 10})
    done = workflow.run(*AS_ON_THE_CLUSTER)
    assert done.returncode == 0, done.stdout
    return workflow


@pytest.fixture
def workflow(finished: Workflow, tmp_path: Path) -> Workflow:
    """The grid, ingested and split, and not trained."""
    workflow = finished.copied_to(tmp_path)
    workflow.configure(CHANGES | GRID)
    return workflow


def running(workflow: Workflow) -> list[dict[str, str]]:
    return [job for job in training(workflow) if job["JobState"] == "RUNNING"]


def wait_for_all(workflow: Workflow, process: subprocess.Popen[str]) -> None:
    """Waits until as many jobs train as there are GPUs."""
    wait_until(lambda: len(running(workflow)) == len(NODES) * slurm_cluster.GPUS_PER_NODE, process, every=1)
    before = newest(workflow)
    wait_until(lambda: newest(workflow) >= before + 5, process, every=0.2)


def preempt(cluster: Cluster, workflow: Workflow) -> None:
    cluster.preempt(seconds=10)


def requeue_all(cluster: Cluster, workflow: Workflow) -> None:
    scontrol("requeue", ",".join(job["JobId"] for job in running(workflow)))


def signal_all(cluster: Cluster, workflow: Workflow) -> None:
    """As somebody does who needs the nodes: each job saves and requeues itself."""
    subprocess.run(["scancel", "--signal=USR1", *(job["JobId"] for job in running(workflow))], check=True)


def lose_a_node(cluster: Cluster, workflow: Workflow) -> None:
    cluster.set_node(NODES[1], "down")
    time.sleep(20)
    cluster.set_node(NODES[1], "resume")


def kill_a_node_s_daemon(cluster: Cluster, workflow: Workflow) -> None:
    """SLURM gives the node up and its jobs to others, while they still run there; then it is back."""
    there = processes(workflow, "jaxrnn train", NODES[1])
    cluster.kill(NODES[1])
    end = time.monotonic() + 60
    while not state_of(NODES[1]).startswith("down"):  # some time after SlurmdTimeout
        assert time.monotonic() < end
        time.sleep(0.2)
    still = processes(workflow, "jaxrnn train", NODES[1])
    cluster.start(NODES[1])
    assert there and set(there) & set(still), "what ran there had ended before the node came back"


def state_of(node: str) -> str:
    return subprocess.run(["sinfo", "-h", "-n", node, "-o", "%T"], capture_output=True, text=True).stdout


def restart_slurmctld(cluster: Cluster, workflow: Workflow) -> None:
    cluster.kill("slurmctld")
    time.sleep(60)
    assert subprocess.run(["squeue"], capture_output=True).returncode
    cluster.start("slurmctld")


def stop_slurmdbd(cluster: Cluster, workflow: Workflow) -> None:
    cluster.kill("slurmdbd")
    time.sleep(60)
    assert subprocess.run(["sacct"], capture_output=True).returncode
    cluster.start("slurmdbd")


def cut_checkpoints_short(cluster: Cluster, workflow: Workflow) -> None:
    """Takes the last byte of each job's newest checkpoint while the job waits in the queue."""
    stopped = [job["JobId"] for job in running(workflow)]
    scontrol("requeuehold", ",".join(stopped))
    end = time.monotonic() + 60
    while {job["JobState"] for job in training(workflow) if job["JobId"] in stopped} != {"PENDING"}:
        assert time.monotonic() < end
        time.sleep(0.5)
    folders = list(workflow.results.glob("checkpoints/*"))
    assert len(folders) == len(stopped)
    for folder in folders:
        file = max(folder.glob("[0-9]*"), key=lambda path: int(path.name))
        os.truncate(file, file.stat().st_size - 1)
    scontrol("release", ",".join(stopped))


@pytest.mark.parametrize(
    ("fault", "again", "arguments"),
    [
        (preempt, 4, ()),
        (requeue_all, 4, ()),
        (signal_all, 4, ()),
        (lose_a_node, 1, ()),
        (kill_a_node_s_daemon, 1, ()),
        (restart_slurmctld, 0, ()),
        (stop_slurmdbd, 0, ("--slurm-status-command", "sacct")),
        (cut_checkpoints_short, 4, ()),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ",
)
def test_a_grid_goes_on(
    cluster: Cluster,
    workflow: Workflow,
    quiet: Workflow,
    fault: Callable[[Cluster, Workflow], None],
    again: int,
    arguments: tuple[str, ...],
) -> None:
    """again: how many times jobs start again, at least."""
    process = start(workflow, *ONE_GPU_EACH, *arguments)
    wait_for_all(workflow, process)
    fault(cluster, workflow)
    end(process)
    assert len(training(workflow)) == JOBS, "no job was submitted twice"
    assert restarts(workflow) >= again
    assert log(workflow).count("can't be read") == (4 if fault is cut_checkpoints_short else 0)
    workflow.assert_same(quiet)


def test_jobs_whose_training_is_killed_are_tried_again_and_go_on(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    """At random instants, four processes at a time; a hundred of them without SLURM are in test_resuming.py."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    process = start(workflow, *ONE_GPU_EACH, "--retries", "5")
    for wait in random.Random(seed).choices(range(10), k=3):
        wait_for_all(workflow, process)
        time.sleep(wait / 20)
        trainers = processes(workflow, "jaxrnn train")
        assert trainers
        for number in trainers:
            os.kill(number, signal.SIGKILL)
    end(process)
    failed = [job for job in training(workflow) if job["JobState"] == "FAILED"]
    assert len(training(workflow)) == JOBS + len(failed) and failed
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


def processes(workflow: Workflow, command: str, node: str = "") -> list[int]:
    """Returns the numbers of Python's processes that run `command` on an experiment, on a node."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ")
            if (folder / "cwd").readlink() == workflow.folder and f"/bin/{command} " in words:
                found += [int(folder.name)] if not node or node_of(folder) == node else []
        except OSError:
            continue  # it ended meanwhile
    return found


def node_of(process: Path) -> str:
    """Returns the node whose step a process belongs to: the name of the folder that SLURM's step daemon works in."""
    while (process / "comm").read_text() != "slurmstepd\n":
        parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        if parent == "0":
            return ""
        process = process.with_name(parent)
    return (process / "cwd").readlink().name


@pytest.fixture
def small_disk(finished: Workflow, tmp_path: Path) -> Iterator[Workflow]:
    """The grid on a file system of its own, which is small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        workflow = finished.copied_to(folder)
        workflow.configure(CHANGES | GRID)
        yield workflow
    finally:
        slurm_cluster.end_jobs(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_grid_goes_on_when_its_disk_was_full_for_a_while(
    cluster: Cluster, small_disk: Workflow, quiet: Workflow
) -> None:
    """All that the experiment has is on it: results, logs, Snakemake's own folder."""
    process = start(small_disk, *ONE_GPU_EACH, "--retries", "2")
    wait_for_all(small_disk, process)
    filler = small_disk.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        began, before = time.monotonic(), 0
        while time.monotonic() - began < 30:
            try:
                file.write(bytes(4096))
                before = newest(small_disk)
            except OSError:
                time.sleep(0.01)
    assert newest(small_disk) <= before + 1, "checkpoints were written, so that it was not full"
    filler.unlink()
    output, _ = process.communicate()
    print(output)
    # where Snakemake itself ended of it, the same command goes on
    if process.returncode:
        end(start(small_disk, *ONE_GPU_EACH, "--retries", "2"))
    small_disk.assert_same(quiet)


def test_a_shard_with_a_flipped_byte_is_made_anew(cluster: Cluster, workflow: Workflow, quiet: Workflow) -> None:
    """Flipped while four of the jobs train and two wait, which are the ones that find it."""
    process = start(workflow, *ONE_GPU_EACH)
    wait_for_all(workflow, process)
    (shard,) = workflow.folder.glob("results/datasets/*/*.h5")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    output, _ = process.communicate()
    assert process.returncode != 0, output
    assert f"{shard.name}: no readable shard" in output and "remove it and run `jaxrnn ingest` again" in output
    assert sum(job["JobState"] == "COMPLETED" for job in training(workflow)) == 4, "those that had read it"
    shard.unlink()
    end(start(workflow, *ONE_GPU_EACH, "--forcerun", "ingest"))
    workflow.assert_same(quiet)


def test_the_rest_completes_beside_a_diverging_trial_and_a_job_that_always_fails(
    cluster: Cluster, workflow: Workflow, finished: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layers = [
        [{"layer": cell, "units": units}, {"layer": "pool", "kind": "mean"}, "dense"]
        for cell in ("simple", "gru", "lstm")
        for units in (4, 6)
    ]
    fails = [{"layer": "flatten", "steps": 1}, "dense"]  # too few, as the job finds out

    def settings(layers: list[Any]) -> dict[str, Any]:
        grid = {"model.layers": layers, "training.learning_rate": [0.01, 1e30]}
        return {"model": {}, "training.epochs": 20, "training.gradient_clip": None, "grid": grid}

    undisturbed = finished.copied_to(tmp_path_factory.mktemp("undisturbed"))
    undisturbed.configure(settings(layers))
    done = undisturbed.run(*AS_ON_THE_CLUSTER)
    assert done.returncode == 0, done.stdout

    workflow.configure(settings([*layers, fails]))
    process = start(workflow, *ONE_GPU_EACH, "--retries", "1")
    output, _ = process.communicate()
    assert process.returncode != 0, output
    states = [job["JobState"] for job in training(workflow)]
    assert (states.count("COMPLETED"), states.count("FAILED")) == (JOBS, 2), "the one that fails was tried twice"
    assert "1 job failed, and this report is of the others" in (workflow.results / "report.html").read_text()
    assert workflow.table("experiment_results.csv")["outcome"].tolist().count("diverged") == JOBS
    workflow.assert_same(undisturbed)


def test_a_grid_goes_on_after_its_controller_was_killed_and_then_stopped(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    process = start(workflow, *ONE_GPU_EACH)
    wait_for_all(workflow, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(workflow, *ONE_GPU_EACH)
    until(process, "which an earlier controller submitted")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert "stopped while it waited" in output
    assert running(workflow), "its jobs go on"
    end(start(workflow, *ONE_GPU_EACH))
    assert len(training(workflow)) == JOBS
    workflow.assert_same(quiet)


def test_jobs_that_run_out_of_memory_are_tried_again_with_more(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    output = end(start(workflow, "--set-resources", "train:gpu=1", "train:mem_mb=attempt*400", "--retries", "3"))
    states = [job["JobState"] for job in training(workflow)]
    assert states.count("COMPLETED") == JOBS, output
    assert len(states) > JOBS, "none ran out of memory"
    assert "A job was started again" in (workflow.results / "report.html").read_text()
    workflow.assert_same(quiet)


def test_a_grid_goes_on_when_sbatch_failed_for_a_minute(
    cluster: Cluster, workflow: Workflow, quiet: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bin")
    failing = (
        f"if [ -e {folder}/fails ]; then echo >> {folder}/refused; "
        f"echo 'sbatch: error: Batch job submission failed: {SILENT}' >&2; exit 1; fi"
    )
    (folder / "sbatch").write_text(f'#!/bin/sh\n{failing}\nexec {shutil.which("sbatch")} "$@"\n')
    (folder / "sbatch").chmod(0o755)
    (folder / "fails").touch()
    process = start(workflow, *ONE_GPU_EACH, "--retries", "2", path=folder)
    time.sleep(60)
    (folder / "fails").unlink()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert (folder / "refused").exists() and len(training(workflow)) == JOBS
    workflow.assert_same(quiet)


def test_jobs_that_wait_for_others_of_the_same_controller_are_submitted(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    """More are ready than Snakemake may have submitted at once, at which versions of its plugin stood still (#473)."""
    end(start(workflow, *ONE_GPU_EACH, "--jobs", "2"))
    assert len(training(workflow)) == JOBS
    workflow.assert_same(quiet)


def test_requeued_twice_held_and_cancelled_by_hand_a_grid_goes_on(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    process = start(workflow, *ONE_GPU_EACH, "--retries", "1")
    for times in (1, 2):
        wait_for_all(workflow, process)
        requeue_all(cluster, workflow)
        wait_until(lambda times=times: restarts(workflow) >= 4 * times, process, every=0.5)
    wait_for_all(workflow, process)
    held, cancelled = (job["JobId"] for job in running(workflow)[:2])
    scontrol("requeuehold", held)
    time.sleep(10)
    scontrol("release", held)
    subprocess.run(["scancel", cancelled], check=True)
    end(process)
    assert len(training(workflow)) == JOBS + 1, "cancelled by hand it is submitted anew, as any job that failed"
    workflow.assert_same(quiet)


def test_of_two_controllers_one_is_refused_and_ctrl_c_ends_the_others_jobs_which_go_on_later(
    cluster: Cluster, workflow: Workflow, quiet: Workflow
) -> None:
    first = start(workflow, *ONE_GPU_EACH)
    wait_for_all(workflow, first)
    second = workflow.run(profile=PROFILE)
    assert second.returncode != 0 and "another Snakemake runs this experiment" in second.stdout
    os.killpg(first.pid, signal.SIGINT)
    output, _ = first.communicate()
    assert first.returncode != 0, output
    assert not running(workflow)
    end(start(workflow, *ONE_GPU_EACH))
    assert "goes on from the checkpoint" in log(workflow)
    workflow.assert_same(quiet)


def test_an_account_that_is_not_there_is_one_message_and_nothing_is_submitted(
    cluster: Cluster, workflow: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    profile = tmp_path_factory.mktemp("profile") / "site"
    shutil.copytree(CHECKOUT / PROFILE, profile)
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    settings.pop("slurm-no-account")
    settings["default-resources"]["slurm_account"] = "nobody-s"
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    done = workflow.run(*ONE_GPU_EACH, profile=str(profile))
    assert done.returncode != 0 and not training(workflow)
    assert "nobody-s" in done.stdout and "account" in done.stdout and "Traceback" not in done.stdout, done.stdout


def test_jobs_longer_than_their_limit_finish_by_chained_requeues(
    cluster: Cluster, workflow: Workflow, finished: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # how fast this machine is tells how many epochs take several times what a job has: a minute before it must save
    changes = CHANGES | GRID
    workflow.configure(changes | {"training.epochs": 100_000})
    process = start(workflow, *ONE_GPU_EACH)
    wait_for_all(workflow, process)
    before = newest(workflow)
    time.sleep(20)
    changes |= {"training.epochs": 3 * (newest(workflow) - before)}  # some checkpoints an epoch: minutes
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    print(f"{changes['training.epochs']} epochs")
    workflow.configure(changes)
    first = len(training(workflow))
    end(start(workflow, "--set-resources", "train:gpu=1", "train:runtime=2"))
    chained = training(workflow)[first:]
    assert len(chained) == JOBS
    assert all(int(job["Restarts"]) >= 2 and job["JobState"] == "COMPLETED" for job in chained)
    undisturbed = finished.copied_to(tmp_path_factory.mktemp("undisturbed"))
    undisturbed.configure(changes | {"training.checkpoint_minutes": 5, "training.segment_seconds": 10})
    done = undisturbed.run(*AS_ON_THE_CLUSTER)
    assert done.returncode == 0, done.stdout
    workflow.assert_same(undisturbed)
