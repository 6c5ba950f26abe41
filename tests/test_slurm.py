"""The workflow on a real SLURM: each job is submitted, and the tables are those of a run without a cluster."""

import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import slurm_cluster
from slurm_cluster import Cluster
from workflows import TABLES, Workflow

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


def _submitted(output: str) -> list[tuple[str, str]]:
    """Returns rule (or group of rules) and number of tasks of each SLURM job of a run, all of which succeeded."""
    run = output.partition("SLURM run ID: ")[2].split()[0]
    jobs = [job for job in slurm_cluster.jobs() if job["JobName"] == run]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    return [(job["Comment"].split("_")[1], job["NumTasks"]) for job in jobs]
