"""Ranks: one that fails or is stopped ends all of them, with one message; and one run works in a folder."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from experiments import write_config
from test_ingest import MPIRUN, needs_mpi

from jaxrnn import config, lock
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import LAUNCHER_VARIABLES, join

SECONDS_A_FILE = 1.5
FILES = 16
READER = f'''
"""One object a file; each takes its time."""
import time
from pathlib import Path
import numpy as np
from jaxrnn import ranks, readers
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Column, Part, Sequences, Survey

class Slow(readers.SequenceReader):
    class Options(readers.Options):
        seconds: float = {SECONDS_A_FILE}
        bad: str = ""
        patience: float = 60.0

    def __init__(self, path, options):
        self._files, self._options = sorted(path.glob("*.txt")), options
        ranks.PATIENCE_SECONDS = options.patience

    def describe(self):
        return Survey(columns=(Column("flux", ""),))

    def files(self):
        return self._files

    def parts(self, budget):
        return [Part((file,), 0, 0, 10_000) for file in self._files]

    def read(self, part):
        file = part.files[0]
        if file.stem == self._options.bad:
            raise JaxrnnError(f"{{file}}: this one is bad")
        (file.parent.parent / f"began-{{file.stem}}").touch()
        time.sleep(self._options.seconds)
        numbers = np.arange(3.0)
        return Sequences(
            np.array([file.stem]), np.array(["ab"[int(file.stem) % 2]]), np.array([0, 3]), numbers,
            numbers[:, None], np.zeros(3, dtype=np.int64), np.zeros((1, 0)), np.arange(3), (str(file),),
        )
'''


def write_slow(folder: Path, *, shard_mb: float = 0.01, **options: Any) -> Path:
    """Writes a survey that is read slowly, one file a shard unless `shard_mb` says else; returns its experiment."""
    (folder / "slow_reader.py").write_text(READER)
    (folder / "survey").mkdir()
    for number in range(FILES):
        (folder / "survey" / f"{number:02d}.txt").write_text("x")
    file = write_config(folder, split__method="exact")
    data = {
        "reader": "slow_reader:Slow", "path": str(folder / "survey"), "options": options, "features": ["time", "flux"],
        "shard_mb": shard_mb,
    }  # fmt: skip
    file.write_text(config.to_yaml({**config.read_yaml(file), "data": data}))
    return file


def began(file: Path, ranks: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "jaxrnn", "ingest", "--config", str(file), "--results", str(file.parent / "out")]
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": f"{file.parent}:{os.environ.get('PYTHONPATH', Path.cwd())}"}
    return subprocess.Popen(
        [*launcher, *command], text=True, stderr=subprocess.PIPE, env=environment, cwd=file.parent, process_group=0
    )


def ended(run: "subprocess.Popen[str]") -> tuple[int, str]:
    """Returns the exit code and messages of a run, once it has ended."""
    _, messages = run.communicate(timeout=60)
    return run.returncode, messages


def wait_for(folder: Path, pattern: str, count: int = 1) -> list[Path]:
    end = time.monotonic() + 60
    while len(found := list(folder.rglob(pattern))) < count:
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)
    return found


def assert_nothing_is_held(folder: Path) -> None:
    left = [*folder.rglob("*.part"), *folder.rglob(lock.NAME), *folder.rglob("manifest.json")]
    assert not left


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(("bad", "shard_mb"), [("00", 0.01), ("01", 0.08)])
def test_ranks_hear_of_a_failed_one_at_their_next_piece(tmp_path: Path, bad: str, shard_mb: float) -> None:
    """Of 16 files that take 1.5 s each, nearly all are never read, whichever rank fails, many shards or few."""
    run = began(write_slow(tmp_path, bad=bad, shard_mb=shard_mb), 2)
    code, messages = ended(run)
    assert code == 2
    assert messages.count("this one is bad") == 1 and messages.startswith("jaxrnn: ")
    assert "Traceback" not in messages and "abort" not in messages.lower()
    assert len(list(tmp_path.glob("began-*"))) <= 3
    assert_nothing_is_held(tmp_path)


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("bad", [0, 1])
def test_no_message_is_left_when_ranks_end(bad: int) -> None:
    """MPI_Finalize fails where one is, and launchers kill the other ranks then: their exit code is lost."""
    script = f"""
from mpi4py import MPI
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import join
ranks = join(None)
def work():
    while True:
        if ranks.rank == {bad}:
            raise JaxrnnError("this one is bad")
        ranks.heed()
try:
    ranks.each(work)
except (JaxrnnError, SystemExit):
    MPI.Finalize()
    print("finalised")
"""
    done = subprocess.run([str(MPIRUN), "-n", "3", sys.executable, "-c", script], text=True, capture_output=True)
    assert (done.returncode, done.stdout.count("finalised")) == (0, 3), done.stderr


@pytest.mark.mpi
@needs_mpi
def test_a_rank_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    run = began(write_slow(tmp_path, bad="00", seconds=300.0, patience=0.5), 2)
    code, messages = ended(run)
    assert code == 2 and messages.count("this one is bad") == 1


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("all", signal.SIGINT),
        ("all", signal.SIGTERM),
        ("launcher", signal.SIGTERM),
        ("one rank", signal.SIGINT),
    ],
)
def test_signals_end_all_ranks_with_one_message(tmp_path: Path, to: str, number: signal.Signals) -> None:
    run = began(write_slow(tmp_path), 2)
    wait_for(tmp_path, "began-*", 2)
    if to == "all":  # as a terminal does
        os.killpg(run.pid, number)
    elif to == "launcher":
        run.send_signal(number)
    else:
        (held,) = wait_for(tmp_path, lock.NAME)
        os.kill(json.loads(held.read_text())["process"], number)
    code, messages = ended(run)
    assert messages.count("jaxrnn: interrupted; the same command goes on") == 1
    assert "Traceback" not in messages
    if to == "one rank":
        assert code == 130
    assert len(list(tmp_path.glob("began-*"))) <= 4
    assert_nothing_is_held(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_one_rank_with_a_message_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    file = write_slow(tmp_path, seconds=0.2)
    run = began(file, 1)
    wait_for(tmp_path, "[0-9]*.h5", 2)
    run.send_signal(number)
    assert ended(run) == (130, "jaxrnn: interrupted; the same command goes on\n")
    assert_nothing_is_held(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[0-9]*.h5")}
    assert ended(began(file, 1))[0] == 0
    assert before.items() < {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[0-9]*.h5")}.items()


# ---------------------------------------------------------------- one run in a folder


def test_a_second_run_in_the_same_folder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    file = write_slow(tmp_path, seconds=0.3)
    first = began(file, 1)
    (held,) = wait_for(tmp_path, lock.NAME)
    wait_for(tmp_path, "began-*")
    second = began(file, 1)
    code, messages = ended(second)
    assert code == 2
    assert f"another run works in this folder (process {first.pid} on {socket.gethostname()}, since 20" in messages
    assert "each of them thinks that it is alone" in messages and "Traceback" not in messages
    assert held.exists(), "the lock of the first one was removed"
    assert ended(first)[0] == 0
    assert not held.exists()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    file = write_slow(tmp_path, seconds=0.1)
    first = began(file, 1)
    (held,) = wait_for(tmp_path, lock.NAME)
    wait_for(tmp_path, "began-*")
    first.kill()
    ended(first)
    assert held.exists()
    assert ended(began(file, 1))[0] == 0
    assert not held.exists()


def test_what_asks_for_the_time_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it compares a lock's age with the file system's clock leaves nothing behind."""
    path = write_holder(tmp_path / "held", "elsewhere", 1)
    fstat, names = os.fstat, []

    def seen(file: int) -> os.stat_result:
        names.append(sorted(os.listdir(path.parent)))
        return fstat(file)

    monkeypatch.setattr(lock.os, "fstat", seen)
    found = lock._now(path)
    assert names and all(there == [lock.NAME] for there in names)
    assert abs(found - time.time()) < 60


def write_holder(folder: Path, host: str, process: int, silent_seconds: float = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / lock.NAME
    path.write_text(json.dumps({"host": host, "process": process, "since": "2026-01-01 00:00:00"}))
    os.utime(path, (time.time() - silent_seconds, time.time() - silent_seconds))
    return path


@pytest.mark.parametrize("has_flock", [True, False])
def test_whose_lock_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_flock: bool) -> None:
    """Where the file system has no flock, the process that the file names is looked for instead."""
    if not has_flock:

        def refuse(file: int, how: int) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", refuse)
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = socket.gethostname()
    dead = [(here, ended.pid, 0.0), ("elsewhere", os.getpid(), lock.DEAD_SECONDS + 5)]
    alive = [("elsewhere", ended.pid, 0.0)] + ([] if has_flock else [(here, os.getpid(), 0.0)])
    for number, holder in enumerate(dead):
        path = write_holder(tmp_path / f"dead-{number}", *holder)
        with lock.held(path.parent):
            assert json.loads(path.read_text())["process"] == os.getpid()
        assert not path.parent.exists()
    for number, holder in enumerate(alive):
        path = write_holder(tmp_path / f"alive-{number}", *holder)
        before = path.read_text()
        with (
            pytest.raises(JaxrnnError, match=f"process {holder[1]} on {holder[0]}.*or remove|if .*, remove"),
            lock.held(path.parent),
        ):
            pass
        assert path.read_text() == before
    # whoever comes while it is held is refused, and does not take it away
    with lock.held(tmp_path / "both"):
        with pytest.raises(JaxrnnError, match="another run works"), lock.held(tmp_path / "both"):
            pass
        assert (tmp_path / "both" / lock.NAME).exists()


def test_a_living_holder_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEWED_SECONDS", 0.01)
    with lock.held(tmp_path / "held"):
        path = tmp_path / "held" / lock.NAME
        os.utime(path, (0, 0))
        end = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end


# ---------------------------------------------------------------- who is alone


def told(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: int, device: str = "ch3") -> None:
    """Makes the launcher say these variables, and MPI find that many ranks."""

    class World:
        COMM_WORLD = type("World", (), {"Get_size": lambda self: found, "Get_rank": lambda self: 0})()

        @staticmethod
        def Is_initialized() -> bool:  # noqa: N802
            return False

        @staticmethod
        def Init_thread() -> None:  # noqa: N802
            pass

        @staticmethod
        def Get_library_version() -> str:  # noqa: N802
            return f"MPICH Version:      5.0.2\nMPICH Device:       {device}\nMPICH CC:           cc\n"

    monkeypatch.setitem(sys.modules, "mpi4py", type("mpi4py", (), {"MPI": World, "rc": type("rc", (), {})}))
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_SIZE": "4"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"},
        {"MPI_LOCALNRANKS": "4"},
        {"PMIX_RANK": "3"},
        {"PALS_RANKID": "3"},
        {"MV2_COMM_WORLD_SIZE": "4"},
        {"FLUX_JOB_SIZE": "4"},
    ],
)
def test_ranks_that_each_think_they_are_alone_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    told(monkeypatch, variables, 1)
    with pytest.raises(JaxrnnError, match="4 MPI ranks were asked for, and this process sees 1"):
        join(None)
    told(monkeypatch, variables, 4)
    assert join(None).size == 4


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_JOB_ID": "7"},  # a batch job, or salloc, without srun
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMIX_RANK": "0"},  # salloc's own step
    ],
)
def test_a_plain_command_in_a_job_of_many_tasks_is_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    told(monkeypatch, variables, 1)
    assert join(None).size == 1


def test_mpirun_inside_a_step_of_one_task_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "2"}, 2)
    assert join(None).size == 2
    told(monkeypatch, {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "4"}, 2)
    with pytest.raises(JaxrnnError, match="this process sees 2"):
        join(None)


@pytest.mark.parametrize(
    ("variables", "device", "expected"),
    [
        ({"PMI_FD": "9", "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}, "ch4:ucx ofi", "ofi"),
        ({"PMI_FD": "9", "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}, "ch4:ucx", None),
        ({"PMI_FD": "9", "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}, "ch4:ofi", None),
        ({"PMI_FD": "9", "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "1"}, "ch4:ucx ofi", None),  # mpirun in a step
        ({"PMI_FD": "9", "PMI_SIZE": "2"}, "ch4:ucx ofi", None),  # mpirun
        ({"PMIX_RANK": "1", "SLURM_STEP_NUM_TASKS": "2"}, "ch4:ucx ofi", None),
    ],
)
def test_ranks_that_srun_starts_do_not_depend_on_what_lies_in_memory(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], device: str, expected: str | None
) -> None:
    """MPICH's UCX tells SLURM's PMI more than it takes, now and then; tests/test_slurm.py has the real ranks."""
    for name in ("PMI_FD", "MPIR_CVAR_CH4_NETMOD"):
        monkeypatch.setenv(name, "")  # else monkeypatch would not know that it wasn't there
        monkeypatch.delenv(name)
    told(monkeypatch, variables, 2, device)
    assert join(None).size == 2
    assert os.environ.get("MPIR_CVAR_CH4_NETMOD") == expected
    if expected:
        monkeypatch.setenv("MPIR_CVAR_CH4_NETMOD", "ucx")
        assert join(None).size == 2
        assert os.environ["MPIR_CVAR_CH4_NETMOD"] == "ucx", "what the user set"
