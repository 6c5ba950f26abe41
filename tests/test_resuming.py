"""Jobs as processes that are killed, stopped, doubled and starved: what they leave in the end is always the same.

JAXRNN_SOAK=1 kills a hundred times instead of a few.
"""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import assert_whole
from experiments import prepared
from test_ingest import MPIRUN, needs_mpi

from jaxrnn import deadlines, jobs, slurm
from jaxrnn.deadlines import Deadline
from jaxrnn.errors import Interrupted
from jaxrnn.ranks import Ranks
from jaxrnn.slurm import Allocation

KILLS = 100 if os.environ.get("JAXRNN_SOAK") else 3
JOB = "all-1"
BEGUN = "goes on from the checkpoint"


@dataclass
class Job:
    """A job in a results folder of its own, with its programs compiled."""

    root: Path
    environment: dict[str, str]

    @property
    def output(self) -> Path:
        return self.root / "tiny" / "jobs" / JOB

    @property
    def checkpoints(self) -> Path:
        return self.root / "tiny" / "checkpoints" / JOB

    @property
    def log(self) -> str:
        path = self.root.parent / "log.txt"
        return path.read_text() if path.exists() else ""

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts the job, which writes into the log, behind what is there."""
        command = [sys.executable, "-m", "jaxrnn", "train", "--config", str(self.output / "config.yaml"), *options]
        return self.call(command, **environment)

    def call(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command of jaxrnn, with the results folder."""
        with (self.root.parent / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, "--results", str(self.root)], stderr=log, env=self.environment | environment
            )

    def checkpoint(self) -> int:
        """Returns the number of the newest checkpoint, 0 where there is none."""
        numbers = [int(path.name) for path in self.checkpoints.glob("[0-9]*")]
        return max(numbers, default=0)

    def arrive(self, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds, while the job runs."""
        end = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.005)

    def files(self) -> dict[str, object]:
        """Returns all that the job gave, to the bit; without what the clock measured."""
        found: dict[str, object] = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in (self.output / "history.csv", self.output / "predictions.h5")
        }
        for path in [*self.output.glob("models/*.npz"), *self.root.glob("tiny/trials/*/*.npz")]:
            with np.load(path) as archive:
                found |= {f"{path.relative_to(self.root)}/{name}": archive[name].tobytes() for name in archive.files}
        table = pd.read_csv(self.output / "trials.csv").drop(columns=["seconds", "input_seconds"])
        return found | {"trials.csv": table.to_csv()}

    def assert_gave(self, wanted: dict[str, object]) -> None:
        found = self.files()
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
        assert not self.checkpoints.exists()
        assert_whole(self.root)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job after a run without disturbance. Three trials at two places; checkpoints all the time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = {"training__epochs": 20, "training__trials_per_job": 16, "training__checkpoint_minutes": 1e-5}
    prepared(folder, grid={"loss.gamma": [0, 1, 2]}, **settings)
    (folder / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "SLURM_"))}
    environment |= {"TMPDIR": str(folder / "tmp"), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    job = Job(folder / "results", environment)
    config = job.output / "config.yaml"
    config.write_text(config.read_text().replace("trials_per_job: 16", "trials_per_job: 2"))
    shutil.copytree(job.root, folder / "before")
    assert job.start().wait() == 0, job.log
    shutil.copytree(job.root / "compiled", folder / "before" / "compiled")
    assert not list((folder / "tmp").iterdir())
    return job


@pytest.fixture
def job(undisturbed: Job, tmp_path: Path) -> Job:
    """The job before it is trained."""
    shutil.copytree(undisturbed.root.parent / "before", tmp_path / "results")
    (tmp_path / "tmp").mkdir()
    return Job(tmp_path / "results", undisturbed.environment | {"TMPDIR": str(tmp_path / "tmp")})


@pytest.mark.timeout(7200)
def test_killed_at_random_instants_it_gives_what_it_would_have_given(
    undisturbed: Job, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    instants, kills, completed = random.Random(seed), 0, 0
    lived, trained = 5.0, 2.0  # how long it does, in all and from its first checkpoint on
    while kills < KILLS or not completed:
        began, before = time.monotonic(), job.checkpoint()
        process, wait, since = job.start(), instants.uniform(0, lived), began
        if instants.random() < 0.8:  # the rest in what it does before it writes anything, too
            while job.checkpoint() <= before and process.poll() is None:
                time.sleep(0.001)
            wait, since = instants.uniform(0, trained), time.monotonic()
        while process.poll() is None and (kills >= KILLS or time.monotonic() - since < wait):
            time.sleep(0.001)
        if process.poll() is None:
            process.kill()
        code = process.wait()
        if code == 0:
            completed += 1
            lived, trained = time.monotonic() - began, time.monotonic() - since if since > began else trained
            job.assert_gave(undisturbed.files())
            shutil.rmtree(job.root)
            shutil.copytree(undisturbed.root.parent / "before", job.root)
        else:
            assert code == -signal.SIGKILL, job.log
            kills += 1
            print(f"kill {kills}", flush=True)
    assert "can't be read" not in job.log and "Traceback" not in job.log
    with capsys.disabled():
        print(
            f"\n{kills} kills, {completed} times to the end, {job.log.count(BEGUN)} times on from a checkpoint", end=""
        )


def test_an_old_copy_that_wakes_after_the_new_one_has_ended_harms_nothing(undisturbed: Job, job: Job) -> None:
    old = job.start()
    job.arrive(old, lambda: job.checkpoint() >= 3)
    old.send_signal(signal.SIGSTOP)
    new = job.start()
    assert new.wait() == 0, job.log
    job.assert_gave(undisturbed.files())
    times = {path: path.stat().st_mtime_ns for path in job.root.rglob("*")}
    old.send_signal(signal.SIGCONT)
    assert old.wait() == 2, job.log
    assert "a newer copy of this job works here, or has ended" in job.log and "Traceback" not in job.log
    job.assert_gave(undisturbed.files())
    assert {path: path.stat().st_mtime_ns for path in job.root.rglob("*")} == times


def test_a_new_copy_takes_over_from_one_that_is_at_work(undisturbed: Job, job: Job) -> None:
    old = job.start()
    job.arrive(old, lambda: job.checkpoint() >= 3)
    old.send_signal(signal.SIGSTOP)  # until the new one trains: the job is short
    new = job.start()
    job.arrive(new, lambda: BEGUN in job.log)
    old.send_signal(signal.SIGCONT)
    assert old.wait() == 2, job.log
    assert f"a newer copy of this job works here (process {new.pid} on" in job.log
    assert new.wait() == 0, job.log
    assert "Traceback" not in job.log
    job.assert_gave(undisturbed.files())


def test_copies_stopped_at_random_instants_harm_nothing(undisturbed: Job, job: Job) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    instants, sleeping = random.Random(seed), []
    for _ in range(max(2, KILLS // 10)):
        process = job.start()
        lines = job.log.count("\n")
        job.arrive(process, lambda lines=lines, process=process: job.log.count("\n") > lines or process.poll() == 0)
        time.sleep(instants.uniform(0, 2))
        process.send_signal(signal.SIGSTOP)
        sleeping.append(process)
    new = job.start()
    for process in sleeping:
        time.sleep(instants.uniform(0, 2))
        process.send_signal(signal.SIGCONT)
    assert new.wait() == 0, job.log
    # one may have ended before it was stopped
    assert {process.wait() for process in sleeping} <= {0, 2}, job.log
    assert "Traceback" not in job.log
    job.assert_gave(undisturbed.files())


@pytest.fixture
def small_disk(job: Job) -> Iterator[Path]:
    """A file system of a few megabytes, on which all results lie."""
    aside = job.root.with_name("aside")
    job.root.rename(aside)
    job.root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(job.root)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    shutil.copytree(aside, job.root, dirs_exist_ok=True)
    yield job.root
    subprocess.run(["umount", str(job.root)], check=True)


def test_a_disk_that_is_full_for_a_while_costs_nothing_but_time(undisturbed: Job, job: Job, small_disk: Path) -> None:
    process = job.start()
    job.arrive(process, lambda: job.checkpoint() >= 2)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        newest = job.checkpoint()
        # a checkpoint, and what is written at the end of a trial, which waits
        job.arrive(process, lambda: "it is tried again in 5 s" in job.log)
    assert newest and job.checkpoint() - newest <= 1
    filler.unlink()
    assert process.wait() == 0, job.log
    assert "No space left on device" in job.log and "Traceback" not in job.log
    job.assert_gave(undisturbed.files())


@dataclass
class Cluster:
    """Stand-ins for SLURM's programs, which say what the test wants and note what was asked of them."""

    folder: Path

    def answer(
        self, *, left: str, state: str = "RUNNING", requeue: int = 0, allocation: str = "echo 2:00 cpu=2,mem=400M"
    ) -> None:
        programs = {
            "squeue": f'case "$*" in *%L*) echo {left};; *tres-alloc*) {allocation};; *) echo "{state}|None";; esac',
            "scontrol": f'echo "$*" >> {self.folder}/asked; [ {requeue} = 0 ] || echo "scontrol: {state}" >&2; '
            f"exit {requeue}",
        }
        for name, script in programs.items():
            path = self.folder / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_JOB_ID": "7", "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "bin").mkdir()
    return Cluster(tmp_path / "bin")


@pytest.mark.parametrize("how", ["SIGUSR1", "the end of its time"])
def test_a_job_saves_and_requeues_itself_before_it_is_stopped(
    undisturbed: Job, job: Job, cluster: Cluster, how: str
) -> None:
    cluster.answer(left="1-00:00:00" if how.startswith("SIG") else "0:01")
    process = job.start("--requeue", **cluster.environment)
    if how.startswith("SIG"):
        job.arrive(process, lambda: job.checkpoint() >= 2)
        process.send_signal(signal.Signals[how])
    job.arrive(process, lambda: "SLURM job 7 is requeued" in job.log)
    assert cluster.asked == ["requeue 7"]
    assert f"stopped by {how}; the checkpoint is written" in job.log
    # it waits for SLURM's own signal, so that nobody takes it for one that failed
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    cluster.answer(left="UNLIMITED")
    assert job.start("--requeue", **cluster.environment).wait() == 0, job.log
    assert job.log.count(BEGUN) == 1 and cluster.asked == ["requeue 7"]
    job.assert_gave(undisturbed.files())

    def given() -> dict[str, Any] | None:
        file = job.output / "allocation.json"
        return json.loads(file.read_text()) if file.exists() else None

    known = given()
    assert known and {"job": 7, "cores": 2, "memory_mb": 400.0, "seconds": 120.0}.items() <= known.items()
    # of a start about which SLURM says nothing, or outside of it, nothing of an earlier one is told
    cluster.answer(left="UNLIMITED", allocation="exit 1")
    for environment, said in ((cluster.environment, True), ({}, False)):
        job.start(**environment).wait()
        assert given() is None and ("what SLURM gives job 7 is not known" in job.log) == said
        (job.root.parent / "log.txt").unlink()
        (job.output / "allocation.json").write_text("{}")


@pytest.mark.parametrize(
    ("options", "state", "refused", "message"),
    [
        (["--requeue"], "COMPLETING", 0, "SLURM job 7 is completing and is not requeued"),  # cancelled, or out of time
        (["--requeue"], "RUNNING", 1, "SLURM job 7 is not requeued (`scontrol requeue 7` failed: "),
        ([], "RUNNING", 0, "stopped by SIGTERM"),  # in a script of the user's own
    ],
)
def test_a_job_that_slurm_ends_or_is_not_to_requeue_ends_as_ever(
    job: Job, cluster: Cluster, options: list[str], state: str, refused: int, message: str
) -> None:
    cluster.answer(left="1-00:00:00", state=state, requeue=refused)
    process = job.start(*options, **cluster.environment)
    job.arrive(process, lambda: job.checkpoint() >= 2)
    process.terminate()
    assert process.wait() == 130, job.log
    assert message in job.log and "the same command goes on from it" in job.log
    assert cluster.asked == (["requeue 7"] if refused else [])


# The command line of a process that a signal comes to when it calls a function for the first time.
STOPPED = """
import os, signal
from jaxrnn import cli, {module}

def stopped(*values, **named):
    {module}.{function} = before
    os.kill(os.getpid(), signal.{signal})
    return before(*values, **named)

before, {module}.{function} = {module}.{function}, stopped
cli.main()
"""
READING, COMPILING, WRITING = ("jobs", "read_inputs"), ("training", "make"), ("jobs", "_write_outputs")


def stopped_in(place: tuple[str, str], by: str, *arguments: str) -> list[str]:
    """Returns the command `jaxrnn <arguments>` of such a process."""
    return [sys.executable, "-c", STOPPED.format(module=place[0], function=place[1], signal=by), *arguments]


@pytest.mark.parametrize(("place", "by"), [(READING, "SIGTERM"), (COMPILING, "SIGUSR1"), (WRITING, "SIGTERM")])
def test_a_job_is_requeued_by_a_signal_that_comes_outside_of_its_training(
    undisturbed: Job, job: Job, cluster: Cluster, place: tuple[str, str], by: str
) -> None:
    cluster.answer(left="UNLIMITED")
    arguments = "train", "--config", str(job.output / "config.yaml"), "--requeue"
    process = job.call(stopped_in(place, by, *arguments), **cluster.environment)
    job.arrive(process, lambda: "SLURM job 7 is requeued" in job.log)
    assert f"stopped by {by}; what was done is kept, and the same command goes on" in job.log
    assert cluster.asked == ["requeue 7"]
    assert process.poll() is None
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    assert job.start("--requeue", **cluster.environment).wait() == 0, job.log
    assert cluster.asked == ["requeue 7"] and "Traceback" not in job.log
    job.assert_gave(undisturbed.files())


@pytest.mark.parametrize(("by", "options"), [("SIGINT", ["--requeue"]), ("SIGTERM", [])])
def test_ctrl_c_and_a_script_of_the_user_s_own_end_a_job_before_its_training_as_ever(
    job: Job, cluster: Cluster, by: str, options: list[str]
) -> None:
    cluster.answer(left="UNLIMITED")
    arguments = "train", "--config", str(job.output / "config.yaml"), *options
    process = job.call(stopped_in(READING, by, *arguments), **cluster.environment)
    assert process.wait() == 130, job.log
    assert job.log.endswith("jaxrnn: interrupted; the same command goes on\n")
    assert cluster.asked == []


def test_an_audit_is_requeued_by_a_signal(undisturbed: Job, job: Job, cluster: Cluster) -> None:
    cluster.answer(left="UNLIMITED")
    arguments = "audit", "--config", str(undisturbed.root.with_name("tiny.yaml")), "--requeue"
    process = job.call(stopped_in(("hypotheses", "examine"), "SIGTERM", *arguments), **cluster.environment)
    job.arrive(process, lambda: "SLURM job 7 is requeued" in job.log)
    assert (process.poll(), cluster.asked) == (None, ["requeue 7"])
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    assert not (job.root / "tiny" / "audit.json").exists()
    again = [sys.executable, "-m", "jaxrnn", *arguments]
    assert job.call(again, **cluster.environment).wait() == 0, job.log
    assert (job.root / "tiny" / "audit.json").exists()


@pytest.mark.mpi
@needs_mpi
def test_all_processes_of_a_job_wait_for_its_requeue(job: Job, cluster: Cluster) -> None:
    """The signal comes to one that is not the first."""
    cluster.answer(left="UNLIMITED")
    path = job.output / "config.yaml"
    path.write_text(path.read_text().replace("processes: 1", "processes: 2"))
    python, option, code, *arguments = stopped_in(READING, "SIGTERM", "train", "--config", str(path), "--requeue")
    code = code.replace("    os.kill(", "    os.environ['PMI_RANK'] == '1' and os.kill(")
    command = [str(MPIRUN), "-n", "2", python, option, code, *arguments]
    process = job.call(command, **cluster.environment, JAX_NUM_CPU_DEVICES="1")
    job.arrive(process, lambda: "SLURM job 7 is requeued" in job.log)
    time.sleep(0.5)
    assert (process.poll(), cluster.asked) == (None, ["requeue 7"]), job.log
    assert job.log.count("stopped by SIGTERM") == 1 and "Traceback" not in job.log
    process.terminate()
    assert process.wait() != 0


def test_a_second_signal_is_not_waited_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "AGAIN_SECONDS", 0.0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def train() -> None:
        with deadlines.going_on(Ranks(), print), jobs._Signals() as signals:
            signal.raise_signal(signal.SIGUSR1)
            assert signals.received == signal.SIGUSR1
            signal.raise_signal(signal.SIGUSR1)
            pytest.fail("it goes on")

    with pytest.raises(Interrupted, match="stopped by SIGUSR1") as stop:
        train()
    assert stop.value.requeue


def test_where_slurm_does_not_answer_the_job_runs_all_the_same(undisturbed: Job, job: Job) -> None:
    process = job.start(SLURM_JOB_ID="7", PATH="/nowhere")
    assert process.wait() == 0, job.log
    assert "the end of SLURM job 7's time is not known" in job.log
    job.assert_gave(undisturbed.files())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:01", 1),
        ("59:59", 3599),
        ("1:00:00", 3600),
        ("2-03:04:05", 183845),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_the_time_left_is_read_as_slurm_writes_it(text: str, seconds: float | None) -> None:
    assert slurm.seconds_in(text) == seconds


@pytest.mark.parametrize(
    ("shown", "has"),
    [
        ("2:00                            cpu=2,mem=400M,node=1,billing=2\n", Allocation(2, 400, 120)),
        ("1-00:00:00 cpu=16,mem=1.50G,node=2,billing=16,gres/gpu=1", Allocation(16, 1536, 86400)),
        ("UNLIMITED  cpu=1,node=1,billing=1", Allocation(1, None, None)),
        ("N/A", Allocation(None, None, None)),
    ],
)
def test_what_a_job_has_is_read_as_slurm_writes_it(shown: str, has: Allocation) -> None:
    assert Allocation.of(shown) == has


def test_what_is_left_covers_the_longest_stretch_and_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(deadlines.time, "monotonic", lambda: now[0])
    deadline, endless = Deadline(3600.0), Deadline(None)
    looks = []
    while not deadline.is_near():
        assert not endless.is_near()
        looks.append(now[0])
        now[0] += 100 if len(looks) == 3 else 10
        deadline.saving = 7.0
    left = 3700 - looks[-1] - 10
    # enough for a stretch of 100 s, half as long again, with a checkpoint of 7 s, and no more than a look earlier
    assert 160.5 + 60 - 10 <= left < 160.5 + 60
