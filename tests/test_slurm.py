"""The workflow on a real SLURM: each job is submitted, and the tables are those of a run without a cluster."""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import slurm_cluster
from slurm_cluster import Cluster
from workflows import CHECKOUT, TABLES, Workflow

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]
SUBMITTED = ("simulate", "ingest", "split", "train", "results")


@pytest.fixture(scope="module")
def generic(
    cluster: Cluster, finished: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workflow, subprocess.Popen[str]]:
    """The profile for any site, under way from ingest on: it mostly waits, because it asks SLURM seldom."""
    workflow = finished.copied_to(tmp_path_factory.mktemp("generic"))
    workflow.configure({"data.shard_mb": 1, "grid": {}})
    return workflow, workflow.start("--slurm-status-command", "squeue", profile="slurm")


def test_every_job_is_submitted_and_the_tables_are_those_of_a_local_run(
    generic: object, finished: Workflow, tmp_path: Path
) -> None:
    workflow = Workflow(tmp_path, finished.compiled)
    workflow.configure()
    done = workflow.run(profile="slurm/testcluster")
    assert done.returncode == 0, done.stdout
    jobs = _submitted(done.stdout)
    assert Counter(rule for rule, _ in jobs) == {**dict.fromkeys(SUBMITTED, 1), "train": 2}
    assert ("ingest", "2") in jobs, "ingest has two MPI ranks"
    for name in TABLES:
        pd.testing.assert_frame_equal(workflow.table(name), finished.table(name), check_exact=True)
    assert "Nothing to be done" in workflow.run(profile="slurm/testcluster").stdout


def test_the_profile_for_any_site_needs_no_settings(generic: tuple[Workflow, subprocess.Popen[str]]) -> None:
    workflow, process = generic
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert sorted(_submitted(output)) == sorted((rule, "1") for rule in SUBMITTED if rule != "simulate")
    assert (workflow.results / "report.html").stat().st_size > 0


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """A user made for the test, whose home is removed with it."""
    home = Path(tempfile.mkdtemp(prefix="jaxrnn-home-"))
    name = home.name.replace("_", "-").lower()
    subprocess.run(["useradd", "--no-create-home", f"--home-dir={home}", name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=True)
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
    run = output.partition("SLURM run ID: ")[2].split()[0]
    jobs = [job for job in slurm_cluster.jobs() if job["JobName"] == run]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    return [(job["Comment"].split("_")[1], job["NumTasks"]) for job in jobs]
