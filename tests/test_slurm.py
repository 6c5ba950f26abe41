"""The workflow on a real SLURM: each job is submitted, and the tables are those of a run without a cluster."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import slurm_cluster
from slurm_cluster import Cluster
from workflows import CHECKOUT, TABLES, TEST_CLUSTER, Workflow, wait_until

from jaxrnn import slurm

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]
SUBMITTED = ("simulate", "ingest", "split", "train", "results")


@pytest.fixture(scope="module")
def generic(
    cluster: Cluster, finished: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workflow, subprocess.Popen[str]]]:
    """The profile for any site, under way from ingest on: it mostly waits, because it asks SLURM seldom."""
    workflow = finished.copied_to(tmp_path_factory.mktemp("generic"))
    workflow.configure({"data.shard_mb": 1, "grid": {}})
    process = workflow.start("--slurm-status-command", "squeue", profile="slurm")
    yield workflow, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_every_job_is_submitted_and_the_tables_are_those_of_a_local_run(
    generic: object, finished: Workflow, tmp_path: Path
) -> None:
    workflow = Workflow(tmp_path, finished.compiled)
    workflow.configure()
    # as many as a local run of two jobs on two cores gives to each
    done = workflow.run("--set-threads", "train=1", profile=TEST_CLUSTER)
    assert done.returncode == 0, done.stdout
    jobs = _submitted(done.stdout)
    assert Counter(rule for rule, _ in jobs) == {**dict.fromkeys(SUBMITTED, 1), "train": 2}
    assert ("ingest", "2") in jobs, "ingest has two MPI ranks"
    for name in TABLES:
        pd.testing.assert_frame_equal(workflow.table(name), finished.table(name), check_exact=True)
    assert "Nothing to be done" in workflow.run(profile=TEST_CLUSTER).stdout

    # what each training job had of SLURM: of this profile, a core, and the time and memory that the rule asks for
    given = [json.loads(path.read_text()) for path in workflow.results.glob("jobs/*/allocation.json")]
    assert len(given) == 2 and all(entry["cores"] == 1 for entry in given)
    assert all(entry["memory_mb"] > 100 and entry["seconds"] >= 60 for entry in given), given
    page = (workflow.results / "report.html").read_text()
    assert "Of what SLURM gave these jobs they used" in page and "Memory given (MB)" in page

    # a new survey, which is the old one here, by two ranks on two nodes
    (survey,) = (workflow.folder / "results" / "surveys").iterdir()
    workflow.configure({"predict": {"path": str(survey), "output": "week.csv"}})
    # in place of all that the profile sets of resources
    resources = ("predict:nodes=2", "predict:tasks=2", "predict:mpi=srun --mpi=pmi2", "ingest:tasks=2")
    threads = ("--set-threads", "train=1")
    done = workflow.run("--set-resources", *resources, *threads, "--printshellcmds", "predict", profile=TEST_CLUSTER)
    assert done.returncode == 0, done.stdout
    assert _submitted(done.stdout) == [("predict", "2")]
    alone = tmp_path / "alone.csv"
    command = ["predict", "--model", workflow.results / "best", "--input", survey, "--output", alone]
    subprocess.run([sys.executable, "-m", "jaxrnn", *command], check=True, capture_output=True)
    pd.testing.assert_frame_equal(pd.read_csv(workflow.folder / "week.csv"), pd.read_csv(alone), rtol=1e-5)


def test_the_profile_for_any_site_needs_no_settings(generic: tuple[Workflow, subprocess.Popen[str]]) -> None:
    workflow, process = generic
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert sorted(_submitted(output)) == sorted((rule, "1") for rule in SUBMITTED if rule != "simulate")
    assert (workflow.results / "report.html").stat().st_size > 0


def test_processes_on_two_nodes_train_one_network_together(generic: object, finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    for path in workflow.results.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    # one of the finished run's four trials
    workflow.configure({"training.processes": 2, "grid": {"loss.gamma": [0]}})
    # beside what the profile says of ingest
    resources = ("train:nodes=2", "ingest:tasks=2", "ingest:mpi=srun --mpi=pmi2")
    done = workflow.run("--set-resources", *resources, profile=TEST_CLUSTER)
    assert done.returncode == 0, done.stdout
    assert ("train", "2") in _submitted(done.stdout)
    history, whole = workflow.table("history.csv"), finished.table("history.csv")
    whole = whole[whole["trial"] == "cell-gru_gamma-0_seed-1"].reset_index(drop=True)
    assert len(history) == len(whole) == 20
    # rounding grows with the steps
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(history[column][:4], whole[column][:4], rtol=1e-4)
        np.testing.assert_allclose(history[column], whole[column], rtol=0.05)


def test_status_sees_jobs_from_another_shell_with_and_without_a_controller(
    cluster: None, finished: Workflow, tmp_path: Path
) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"training.epochs": 1_000_000, "training.segment_seconds": 0.1})

    def look() -> dict[str, dict[str, Any]]:
        """Returns the jobs by state, as `jaxrnn status` has them."""
        command = [sys.executable, "-m", "jaxrnn", "status", "tiny", "--json"]
        done = subprocess.run(command, cwd=workflow.folder, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["queue"] == ""
        return {job["state"]: job for job in found["experiments"][0]["jobs"]}

    def trains(found: dict[str, dict[str, Any]]) -> bool:
        return "running" in found and (found["running"]["told"] or {}).get("epoch") is not None

    # room for one of the two jobs
    subprocess.run(["scontrol", "update", "nodename=node2", "state=drain", "reason=test"], check=True)
    process = workflow.start("--set-threads", "train=4", profile=TEST_CLUSTER)
    try:
        wait_until(lambda: trains(look()), process)
        for controller in ("lives", "is dead"):
            found = look()
            assert found.keys() == {"running", "waiting"}, controller
            assert (found["running"]["nodes"], found["running"]["told"]["phase"]) == ("node1", "training")
            assert found["waiting"]["message"].startswith("in the queue: ")
            queue = {entry.id: entry for entry in slurm.queue()}
            assert queue[found["waiting"]["slurm_job"]].waits
            runs = queue[found["running"]["slurm_job"]]
            assert (runs.state, runs.nodes, runs.folder) == ("RUNNING", "node1", str(workflow.folder))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        subprocess.run(["scancel", *map(str, queue)], check=True)
        end = time.monotonic() + 30
        while (found := look()).keys() & {"running"}:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert found.keys() == {"stopped", "waiting"}
        assert found["waiting"]["message"] == ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        subprocess.run(["scontrol", "update", "nodename=node2", "state=resume"], check=True)


def test_a_controller_that_is_a_job_ends_its_jobs_when_its_time_is_over_and_starts_again(
    cluster: None, finished: Workflow, tmp_path: Path
) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"selection.metric": "accuracy"})
    before = (workflow.results / "report.html").read_bytes()
    command = ["sbatch", "--parsable", str(CHECKOUT / "slurm" / "controller.sh"), *workflow.arguments(TEST_CLUSTER)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as after `activate`
    environment = {**workflow.environment, "PATH": path}
    submitted = subprocess.run(
        command, cwd=workflow.folder, env=environment, check=True, capture_output=True, text=True
    )
    controller = submitted.stdout.strip()
    log = workflow.folder / f"controller-{controller}.log"

    def state(comment: str) -> list[str]:
        found = [job for job in slurm_cluster.jobs() if job["WorkDir"] == str(workflow.folder)]
        return [job["JobState"] for job in found if job.get("Comment", "").startswith(comment)]

    def told() -> str:
        return log.read_text() if log.exists() else "no log"

    def ended() -> bool:
        (found,) = [job for job in slurm_cluster.jobs() if job["JobId"] == controller]
        return (found["JobState"], found["Restarts"]) == ("COMPLETED", "1")

    wait_for(lambda: "RUNNING" in state("rule_results"), told)
    # what SLURM sends five minutes before the end
    subprocess.run(["scancel", "--batch", "--signal=USR1", controller], check=True)
    wait_for(ended, told)
    assert state("rule_results") == ["CANCELLED", "COMPLETED"]
    assert f"SLURM starts job {controller} again" in told()
    assert (workflow.results / "report.html").read_bytes() != before
    assert workflow.planned() == []


def wait_for(condition: Callable[[], bool], told: Callable[[], str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """A user made for the test, whose home is removed with it."""
    home = Path(tempfile.mkdtemp(prefix="jaxrnn-home-"))
    name = home.name.replace("_", "-").lower()
    subprocess.run(["useradd", "--no-create-home", f"--home-dir={home}", name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["scancel", f"--user={name}"])
        subprocess.run(["userdel", "--force", name])
        shutil.rmtree(home)


def test_a_user_who_is_not_root_runs_it(cluster: Cluster, finished: Workflow, user: pwd.struct_passwd) -> None:
    """With a Python outside of root's home, and nothing that this user may not read."""
    folder = Path(user.pw_dir)
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [sys.executable, *(f"{place}/{own}" for place in ("/usr/local/bin", "/usr/bin"))]
    libraries = [str(CHECKOUT), sysconfig.get_paths()["purelib"]]
    environment = {"HOME": str(folder), "PATH": f"{folder}/bin:/usr/bin:/bin", "PYTHONPATH": ":".join(libraries)}
    them = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": folder, "env": environment}
    os.chown(folder, user.pw_uid, user.pw_gid)
    for python in pythons:
        try:
            subprocess.run([python, "-c", "import jax, snakemake, jaxrnn"], capture_output=True, check=True, **them)
            break
        except (OSError, subprocess.CalledProcessError):
            continue
    else:
        pytest.skip(f"no {own} that another user may run, with what jaxrnn needs, among {', '.join(pythons)}")
    workflow = finished.copied_to(folder)
    workflow.configure({"training.epochs": 19, "grid": {}})
    (folder / "bin").mkdir()
    (folder / "bin" / "jaxrnn").write_text(f"#!{python}\nfrom jaxrnn.cli import main\nmain()\n")
    (folder / "bin" / "jaxrnn").chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    command = [python, "-m", "snakemake", "--snakefile", CHECKOUT / "Snakefile", "--configfile", workflow.config]
    command += ["--profile", CHECKOUT / "slurm/testcluster"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **them)
    assert done.returncode == 0, done.stdout
    assert {path.stat().st_uid for path in folder.rglob("*")} == {user.pw_uid}
    assert set(workflow.table("experiment_results.csv")["epochs"]) == {19}


def _submitted(output: str) -> list[tuple[str, str]]:
    """Returns rule (or group of rules) and number of tasks of each SLURM job of a run, all of which succeeded."""
    # which is printed without the experiment's name where a rule is asked for by name
    run = output.partition("SLURM run ID: ")[2].split()[0].removeprefix("tiny_")
    jobs = [job for job in slurm_cluster.jobs() if job["JobName"] == f"tiny_{run}"]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    return [(job["Comment"].split("_")[1], job["NumTasks"]) for job in jobs]
