"""What `jaxrnn status` and `progress.json` say of experiments: real ones, finished, under way, killed and failed."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import jaxrnn, refused
from workflows import Workflow, wait_until

from jaxrnn import progress, slurm, status
from jaxrnn.errors import Interrupted, JaxrnnError
from jaxrnn.progress import Progress
from jaxrnn.results import Results, write_text
from jaxrnn.status import Queue

pytestmark = pytest.mark.mpi  # of the fixture `finished`
NO_SLURM = Queue(None)
GRU, SIMPLE = "cell-gru-1", "cell-simple-1"
# what squeue 22.05 says, of jobs of Snakemake's plugin 2.8 and of one by hand
SQUEUE = """\
5\tPENDING\t0:00\t\tResources\t/home/me/jaxrnn\ta-run\trule_train_wildcards_tiny_cell-gru-1
4\tRUNNING\t1:02\tnode1\tNone\t/home/me/jaxrnn\ta-run\trule_train_wildcards_tiny_cell-simple-1
3\tRUNNING\t1-02:03:04\tnode[1-2]\tNone\t/home/me\tby hand\t(null)
"""


def look(workflow: Workflow, queue: Queue = NO_SLURM) -> dict[str, status.JobStatus]:
    """Returns the jobs of a workflow's experiment by name."""
    found = status.of(Results(workflow.folder / "results"), "tiny", queue)
    return {job.name: job for job in found.jobs}


def shown(workflow: Workflow, *arguments: str) -> str:
    """Returns the page of `jaxrnn status`, without what is said of this machine's SLURM."""
    code, output, messages = jaxrnn("status", *arguments, "--results", workflow.folder / "results")
    assert (code, messages) == (0, "")
    lines = [line for line in output.splitlines() if not line.startswith("the queue is not known")]
    return "\n".join(lines).removeprefix("\n")


def start(workflow: Workflow, job: str = GRU) -> subprocess.Popen[str]:
    config = f"results/tiny/jobs/{job}/config.yaml"
    log = (workflow.results / "jobs" / job / "log.txt").open("a")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxrnn", "train", "--config", config],
            cwd=workflow.folder,
            env=workflow.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def replan(workflow: Workflow) -> None:
    at = ("--results", workflow.folder / "results")
    code, _, messages = jaxrnn("plan", "--no-measure", "--config", workflow.config, *at)
    assert code == 0, messages


def wait_for_training(workflow: Workflow, process: subprocess.Popen[str]) -> None:
    def trains() -> bool:
        job = look(workflow)[GRU]
        return job.state == "running" and job.told is not None and job.told.epoch is not None

    wait_until(trains, process, 120)


def edit(workflow: Workflow, **fields: Any) -> None:
    """Changes what the job says of itself."""
    path = workflow.results / "jobs" / GRU / progress.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def long(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The tiny experiment planned anew, to train for hours: what the finished one left is of other trials."""
    workflow = finished.copied_to(tmp_path_factory.mktemp("long"))
    workflow.configure({"training.epochs": 1_000_000})
    replan(workflow)
    return workflow


@pytest.fixture(scope="module")
def running(long: Workflow) -> Iterator[subprocess.Popen[str]]:
    """One of its jobs, which trains."""
    process = start(long)
    try:
        wait_for_training(long, process)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def killed(long: Workflow, running: subprocess.Popen[str]) -> Workflow:
    running.kill()
    running.wait()
    return long


def test_a_finished_experiment_is_a_line(finished: Workflow) -> None:
    page = f"tiny: done, 2 jobs; {finished.results / 'report.html'}"
    assert shown(finished) == page
    table = shown(finished, "tiny")
    assert table.startswith(page)
    assert "simulate done, ingest done, split done, aggregate done, report done" in table
    assert table.count("2 completed") == 2
    assert shown(finished, "--config", str(finished.config)) == table


def test_it_answers_at_once_and_loads_no_jax(finished: Workflow) -> None:
    code = "import sys, jaxrnn.cli as cli; sys.argv[1:] = ['status']\n"
    code += "try: cli.main()\nexcept SystemExit: pass\nassert not {'jax', 'pandas', 'scipy'} & set(sys.modules)"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=finished.folder, check=True, capture_output=True)
    assert time.monotonic() - began < 2, "0.4 s on a quiet machine"


def test_a_running_job_says_how_far_it_is(long: Workflow, running: subprocess.Popen[str]) -> None:
    found = look(long)
    job, told = found[GRU], found[GRU].told
    assert (job.state, job.trials, job.trials_finished) == ("running", 2, 0)
    assert told is not None and told.process == running.pid
    assert (told.phase, told.trials_training, told.trials_waiting, told.epochs) == ("training", 2, 0, 1_000_000)
    assert told.seconds_left and told.seconds_left > 60
    assert found[SIMPLE].state == "waiting", "its tables are of the plan before"
    page = shown(long)
    assert page.strip().startswith("tiny: 0 of 2 jobs done, 1 running, 1 waiting")
    assert f"training on {os.uname().nodename}" in page
    assert "split done, aggregate not yet, report not yet" in page
    values = json.loads(jaxrnn("status", "--json", "--results", long.folder / "results")[1])
    (experiment,) = values["experiments"]
    assert (experiment["counts"], experiment["finished"]) == ({"running": 1, "waiting": 1}, False)
    told = {job["name"]: job["told"] for job in experiment["jobs"]}
    assert told[GRU]["epochs"] == 1_000_000
    assert told[SIMPLE] is None, "it is of an earlier run"


def test_slurm_knows_whether_a_job_lives(killed: Workflow, tmp_path: Path) -> None:
    workflow = killed.copied_to(tmp_path)
    edit(workflow, slurm_job=4, host="node1", began=time.time() - 3600)

    def entry(number: int, state: str, job: str, folder: Path = workflow.folder) -> slurm.QueuedJob:
        comment = f"rule_train_wildcards_tiny_{job}"
        line = "\t".join([str(number), state, "0:10", "node1", "Priority", str(folder), "a-run", comment])
        return slurm.parsed_queue(line)[0]

    def states(*entries: slurm.QueuedJob) -> tuple[str, str]:
        found = look(workflow, Queue(entries))
        return found[GRU].state, found[SIMPLE].state

    assert states(entry(4, "RUNNING", GRU), entry(5, "PENDING", SIMPLE)) == ("running", "waiting")
    assert states() == ("lost", "waiting")
    # of another checkout
    assert states(entry(6, "RUNNING", GRU, tmp_path / "x"), entry(5, "RUNNING", SIMPLE, tmp_path / "x"))[1] == "waiting"
    # requeued, and submitted anew
    assert states(entry(4, "PENDING", GRU)) == ("waiting", "waiting")
    again = look(workflow, Queue((entry(9, "RUNNING", GRU),)))[GRU]
    assert (again.state, again.message, again.slurm_job) == ("running", "begins", 9)
    # the queue was read before it began
    edit(workflow, began=time.time())
    assert states() == ("running", "waiting")
    # where nobody knows, its last sign of life does
    assert look(workflow)[GRU].state == "running"
    edit(workflow, written=time.time() - 3600)
    assert look(workflow)[GRU].state == "lost"


def test_slurms_word_on_the_end_of_a_job_is_shown(killed: Workflow, tmp_path: Path) -> None:
    workflow = killed.copied_to(tmp_path)
    edit(workflow, slurm_job=4, host="node1", began=time.time() - 3600)
    log = workflow.folder / ".snakemake" / "slurm_logs" / "rule_train" / f"tiny_{GRU}" / "4.log"
    log.parent.mkdir(parents=True)
    cause = "slurmstepd: error: *** JOB 4 ON node1 CANCELLED AT 2026-11-27T01:00:00 DUE TO TIME LIMIT ***"
    log.write_text(f"Building DAG of jobs...\n{cause}\nsome more\n")
    assert cause in look(workflow, Queue(()))[GRU].message


def test_a_killed_job_is_lost_and_one_that_a_signal_stopped_goes_on(killed: Workflow) -> None:
    job = look(killed)[GRU]
    assert job.state == "lost"
    assert "ended without a word" in job.message
    page = shown(killed)
    assert "1 waiting, 1 lost" in page or "1 lost, 1 waiting" in page
    assert f"log: {killed.results / 'jobs' / GRU / 'log.txt'}" in page

    process = start(killed)
    wait_for_training(killed, process)
    process.terminate()
    process.communicate()
    job = look(killed)[GRU]
    assert job.state == "stopped"
    assert "stopped by SIGTERM; the checkpoint is written" in job.message


def test_a_failed_job_says_why(killed: Workflow, tmp_path: Path) -> None:
    workflow = killed.copied_to(tmp_path)
    config = workflow.results / "jobs" / SIMPLE / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: gpu"))
    process = start(workflow, SIMPLE)
    process.communicate()
    assert process.returncode == 2
    job = look(workflow)[SIMPLE]
    assert job.state == "failed"
    assert job.message.startswith("training.device: gpu, and JAX ")
    assert f"    {job.message}\n    log: {workflow.results / 'jobs' / SIMPLE / 'log.txt'}" in shown(workflow)
    # what it says is lost: then its log's end says it
    (config.parent / progress.NAME).unlink()
    again = look(workflow)[SIMPLE]
    assert (again.state, again.message) == (job.state, job.message)


@pytest.mark.parametrize(
    ("removed", "log", "expected"),
    [
        ("report.html", None, {"aggregate": "done", "report": "waiting"}),
        ("report.html", "", {"aggregate": "done", "report": "running"}),
        ("best.json", "jaxrnn: no such thing; do this\n", {"aggregate": "failed", "report": "waiting"}),
        ("best.json", "Traceback (most recent call last):\n  x\nValueError: y\n", {"aggregate": "failed"}),
        ("splits.csv", "12:00:00 a remark\n", {"ingest": "done", "split": "running", "aggregate": "waiting"}),
    ],
)
def test_stages_come_one_after_another(
    finished: Workflow, tmp_path: Path, removed: str, log: str | None, expected: dict[str, str]
) -> None:
    workflow = finished.copied_to(tmp_path)
    (workflow.results / removed).unlink()
    for name in ("split", "aggregate", "report"):
        path = workflow.results / "logs" / f"{name}.txt"
        path.unlink() if log is None else path.write_text(log)
    stages = status.of(Results(tmp_path / "results"), "tiny", NO_SLURM).stages
    assert {stage.name: stage.state for stage in stages if stage.name in expected} == expected


def test_aggregate_and_report_are_one_slurm_job(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    (workflow.results / "best.json").unlink()
    for run in ("tiny_01234567", "another_01234567"):
        line = f"7\tRUNNING\t0:10\tnode1\tNone\t{tmp_path}\t{run}\trule_results_aggregate_report"
        found = status.of(Results(tmp_path / "results"), "tiny", Queue(slurm.parsed_queue(line)))
        stages = {stage.name: (stage.state, stage.message) for stage in found.stages}
        # the group's comment names no experiment; its name begins with it
        ours = ("running", "for 0:10 on node1, SLURM job 7")
        assert (stages["aggregate"] == ours) == run.startswith("tiny")
        assert stages["report"] == ("waiting", "")


def test_an_audit_stands_between_the_choice_and_the_report(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    file = workflow.results / "experiment.yaml"
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "audit": {"only": ["copies"]}}))

    def stages(*jobs: str) -> dict[str, tuple[str, str]]:
        queue = [f"7\tRUNNING\t0:10\tnode1\tNone\t{tmp_path}\ttiny_01\t{job}" for job in jobs]
        found = status.of(Results(tmp_path / "results"), "tiny", Queue(slurm.parsed_queue("\n".join(queue))))
        return {stage.name: (stage.state, stage.message) for stage in found.stages[-3:]}

    running = ("running", "for 0:10 on node1, SLURM job 7")
    assert stages() == {"aggregate": ("done", ""), "audit": ("waiting", ""), "report": ("waiting", "")}
    assert stages("rule_audit_wildcards_tiny")["audit"] == running
    (workflow.results / "logs" / "audit.txt").write_text("jaxrnn: no such thing; do this\n")
    assert stages()["audit"] == ("failed", "no such thing; do this")
    (workflow.results / "audit.json").write_text("{}")
    (workflow.results / "report.html").unlink()
    (workflow.results / "logs" / "report.txt").unlink()
    assert stages("rule_report_report") == {"aggregate": ("done", ""), "audit": ("done", ""), "report": running}


def test_jobs_of_other_data_or_trials_are_not_done(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    table = workflow.results / "jobs" / GRU / "trials.csv"
    text = table.read_text()
    table.write_text(text.replace("gamma-1", "gamma-2"))
    assert {job.state for job in look(workflow).values()} == {"done", "waiting"}
    table.write_text(text)
    statistics = workflow.results / "statistics.json"
    values = json.loads(statistics.read_text())
    for entry in values["statistics"]:
        entry["data_digest"] = "0123"
    statistics.write_text(json.dumps(values))
    assert {job.state for job in look(workflow).values()} == {"waiting"}


def test_a_job_retrained_is_not_in_the_tables_yet(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    table = workflow.results / "jobs" / GRU / "trials.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["seconds"] = "123.456"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = status.of(Results(tmp_path / "results"), "tiny", NO_SLURM)
    assert [stage.state for stage in found.stages[-2:]] == ["waiting", "waiting"]
    assert not found.finished


def test_with_halving_a_job_is_in_its_rung(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"search.halving": {"reduction": 2, "rungs": 3}})
    replan(workflow)
    folder = workflow.results / "jobs" / GRU
    table = (folder / "trials.csv").read_text()

    def rung() -> tuple[str, int | None]:
        found = look(workflow)[GRU]
        return found.state, found.rung

    assert rung() == ("done", 3)
    (folder / "trials.csv").unlink()
    assert rung() == ("waiting", 1)
    write_text(folder / "rung-1" / "trials.csv", table)
    with progress.told(folder / "rung-2"):
        assert rung() == ("running", 2)
    assert rung() == ("waiting", 2)
    # none of its trials went on
    write_text(folder / "rung-2" / "trials.csv", table.partition("\n")[0] + "\n")
    assert rung() == ("waiting", 3)


def test_a_thousand_jobs_are_a_screenful_within_seconds(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    job = (workflow.results / "jobs" / GRU / "trials.csv").read_text()
    with (workflow.results / "plan.csv").open(newline="") as file:
        columns = [row for row in csv.DictReader(file) if row["job"] == GRU]
    rows = [{**row, "job": f"job-{number}"} for number in range(1000) for row in columns]
    with (workflow.results / "plan.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for number in range(600):
        folder = workflow.results / "jobs" / f"job-{number}"
        folder.mkdir()
        (folder / "trials.csv").write_text(job)
        (folder / "log.txt").write_text("12:00:00 a line\n" * 10_000)
    for number in range(600, 900):
        folder = workflow.results / "jobs" / f"job-{number}"
        folder.mkdir()
        (folder / "log.txt").write_text("12:00:00 a line\n" * 10_000 + "jaxrnn: it failed\n")
    began = time.monotonic()
    page = shown(workflow)
    assert time.monotonic() - began < 3
    assert "600 of 1,000 jobs done, 300 failed, 100 waiting" in page
    assert "... and 290 more failed" in page
    assert "... and 90 more waiting" in page
    assert len(page.splitlines()) < 60


def test_what_is_left_follows_from_finished_and_running_jobs(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    table = workflow.results / "jobs" / GRU / "trials.csv"
    seconds = sum(look(workflow)[name].seconds or 0 for name in (GRU, SIMPLE))
    assert seconds > 0
    table.unlink()
    at = Results(workflow.folder / "results")
    assert status.of(at, "tiny", NO_SLURM).seconds_left is None, "nothing runs"
    with progress.told(table.parent) as tell:
        tell(seconds_left=1000.0)
        wait = time.monotonic() + 10
        while status.of(at, "tiny", NO_SLURM).seconds_left is None or time.monotonic() < wait - 8:
            time.sleep(0.05)
            assert time.monotonic() < wait
        left = status.of(at, "tiny", NO_SLURM).seconds_left
    assert left == pytest.approx(1000, abs=5)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 60", "said nothing for 0.5 s"),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", "Unable to contact"),
        ("echo greeting; echo 1", ""),
    ],
)
def test_a_scheduler_that_does_not_answer_is_said_in_a_line(
    finished: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "SECONDS", 0.5)
    began = time.monotonic()
    code, output, messages = jaxrnn("status", "--results", finished.folder / "results")
    assert time.monotonic() - began < 20
    assert (code, messages) == (0, "")
    first, *rest = output.splitlines()
    assert said in first
    assert (rest or [first])[-1].startswith("tiny: done")
    assert (tmp_path / "calls").read_text() == "called\n", "one call for everything"


def test_the_queue_is_read() -> None:
    waits, runs, other = slurm.parsed_queue(SQUEUE)
    assert (waits.id, waits.waits, waits.reason, waits.nodes) == (5, True, "Resources", "")
    assert (runs.id, runs.waits, runs.nodes, runs.elapsed) == (4, False, "node1", "1:02")
    assert runs.comment == f"rule_train_wildcards_tiny_{SIMPLE}"
    assert (other.folder, other.comment) == ("/home/me", "(null)")


def test_mistakes(finished: Workflow, tmp_path: Path) -> None:
    at = ("--results", finished.folder / "results")
    assert "did you mean 'tiny'?; planned here: tiny" in refused("status", "tinny", *at)
    assert "no experiment has been planned here" in refused("status", "--results", tmp_path)
    assert "no such file" in refused("status", "--config", tmp_path / "none.yaml")


def test_a_changed_experiment_file_is_told(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    workflow.configure({"training.learning_rate": 0.002})
    assert "has changed since this plan was made" in shown(workflow, "--config", str(workflow.config))


def test_watching_ends_when_all_is_done(finished: Workflow) -> None:
    assert shown(finished, "--watch", "5").splitlines()[1].startswith("tiny: done")


# --- progress.json ---


def test_progress_is_written_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "MOST_SECONDS", 0.16)
    written: list[float] = []
    write = progress._write
    monkeypatch.setattr(progress, "_write", lambda *of: (written.append(time.monotonic()), write(*of)))
    with progress.told(tmp_path) as tell:
        end = time.monotonic() + 0.8
        step = 0
        while time.monotonic() < end:
            tell(step=(step := step + 1))
            time.sleep(0.001)
    assert step > 100
    gaps = [later - before for before, later in itertools.pairwise(written)]
    # all but the last one, which the end makes
    assert all(gap >= 0.99 * min(0.02 * 2**number, 0.16) for number, gap in enumerate(gaps[:-1]))
    assert 5 <= len(written) <= 0.8 / 0.16 + 6
    found = progress.read(tmp_path)
    assert found is not None and (found.state, found.step) == ("done", step)


def test_nothing_new_is_seldom_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "MOST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "SIGN_OF_LIFE_SECONDS", 0.3)
    times = set()
    with progress.told(tmp_path):
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            times.add((tmp_path / progress.NAME).stat().st_mtime_ns)
            time.sleep(0.005)
    assert 2 <= len(times) <= 3


@pytest.mark.parametrize(
    ("raised", "state", "message"),
    [
        (JaxrnnError("what is wrong"), "failed", "what is wrong"),
        (Interrupted("stopped by SIGTERM"), "stopped", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (ValueError("a bug"), "failed", "ValueError: a bug"),
        (JaxrnnError("x" * 100_000), "failed", "x" * progress.LONGEST_MESSAGE),
    ],
)
def test_the_end_is_said_with_its_message(tmp_path: Path, raised: BaseException, state: str, message: str) -> None:
    with pytest.raises(type(raised)), progress.told(tmp_path):
        raise raised
    found = progress.read(tmp_path)
    assert found is not None and (found.state, found.message) == (state, message)


def test_a_job_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    with progress.told(folder) as tell:
        tell(epoch=1)
    assert threading.active_count() == 1 or all("write_on" not in thread.name for thread in threading.enumerate())
    assert progress.read(folder) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"state": 1, "unknown": 2}', "\x00", '{"began": "x"}', "1" * 5000]
)
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / progress.NAME).write_text(text)
    assert progress.read(tmp_path) is None


def test_a_process_that_took_the_number_of_another_is_not_it(tmp_path: Path) -> None:
    with progress.told(tmp_path):
        own = progress.read(tmp_path)
    assert own is not None and own.lives
    assert not Progress("running", 0.0, 0.0, own.host, own.process, (own.process_began or 0) + 1).lives
    ended = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
    # a zombie, which kill would still reach
    os.kill(ended.pid, signal.SIGCONT)
    assert not Progress("running", 0.0, 0.0, own.host, ended.pid).lives
    ended.wait()


def test_messages_cannot_steer_the_terminal(finished: Workflow, tmp_path: Path) -> None:
    workflow = finished.copied_to(tmp_path)
    (workflow.results / "jobs" / GRU / "trials.csv").unlink()
    with pytest.raises(ValueError, match="screen"), progress.told(workflow.results / "jobs" / GRU):
        raise ValueError("\x1b[2J a screen\ncleared")
    page = shown(workflow)
    assert "\x1b" not in page
    assert "ValueError: ?[2J a screen cleared" in page
