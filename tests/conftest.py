"""What all tests share: where real data lies, a cluster, and that nothing is left out unnoticed."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from slurm_cluster import Cluster
from workflows import CHECKOUT, Workflow
from xdist.scheduler import LoadFileScheduling

DATA = Path(os.environ.get("JAXRNN_DATA") or CHECKOUT.parent / "shared" / "data")
# Tests with these marks depend on the machine. In CI, where everything that they need is installed, they must run.
MACHINE_MARKS = ("slurm", "mpi", "browser", "compiler", "shellcheck")

# The test files that take longest, the longest first.
LONGEST = (
    "test_containers.py",
    "test_training.py",
    "test_jobs.py",
    "test_resuming.py",
    "test_status.py",
    "test_workflow.py",
    "test_fuzzing.py",
    "test_report.py",
    "test_halving.py",
    "test_distributed.py",
    "test_models.py",
    "test_layers.py",
    "test_attention.py",
    "test_faulty_surveys.py",
    "test_ingest.py",
    "test_ranks.py",
    "test_label_sequences.py",
    "test_sites.py",
)

# Hours on a machine of its own: `make soak`
collect_ignore = [] if os.environ.get("JAXRNN_SOAK") else ["test_slurm_soak.py"]

# Many tests compile the same small programs, some in processes of their own: each is compiled once a session, whose
# first process makes the folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jaxrnn-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# a shell that starts these tests in the background has them ignore Ctrl-C, and so whatever they start
signal.signal(signal.SIGINT, signal.default_int_handler)
# packs are shared out here, as among several GPUs
os.environ["JAX_NUM_CPU_DEVICES"] = "2"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real surveys."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; put it there, or name its folder in JAXRNN_DATA")
    return DATA


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The tiny experiment after a run of the whole workflow on this machine; not to be changed.

    The processes of a session share it: the first one that asks for it makes it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workflow = Workflow(folder / "finished", Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    with (folder / "finished.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished.made").exists():
            shutil.rmtree(workflow.folder, ignore_errors=True)  # of a process that failed at it
            workflow.folder.mkdir()
            workflow.configure()
            done = workflow.run()
            assert done.returncode == 0, done.stdout
            (folder / "finished.made").touch()
    return workflow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A real SLURM; for tests with the mark `slurm`. JAXRNN_SLURM=required: without one nothing is run."""
    if reason := slurm_cluster.obstacle():
        if os.environ.get("JAXRNN_SLURM") == "required":
            pytest.exit(reason, returncode=1)
        pytest.skip(reason)
    with slurm_cluster.running() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _own_jobs_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends what a test that failed submitted from its folder, which would keep the next ones waiting."""
    uses = {"cluster", "tmp_path"} <= set(request.fixturenames)
    folder = request.getfixturevalue("tmp_path") if uses else None
    yield
    if folder is not None:
        slurm_cluster.end_jobs(folder)


class _ByFile(LoadFileScheduling):
    """Each test file is run by one process; those that need a cluster, of which a machine has one, by the same one.

    What takes longest begins first: at the end nothing else would be left to do meanwhile. Those that need a cluster,
    and the one that makes a container, mostly wait besides.
    """

    CLUSTER = "tests that need a cluster"

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return self.CLUSTER if "slurm" in file or "doctor" in file else file

    def _assign_work_unit(self, node: Any) -> None:
        names = [self.CLUSTER, *LONGEST]
        places = {scope: names.index(name) for scope in self.workqueue if (name := Path(scope).name) in names}
        if places:
            self.workqueue.move_to_end(min(places, key=places.__getitem__), last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return _ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run where a test was skipped that must run in CI."""
    if os.environ.get("CI") and _must_have_run(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not terminalreporter.stats.get("skipped"):
        return
    terminalreporter.section("left out")
    if os.environ.get("CI"):
        for name in _must_have_run(config):
            terminalreporter.line(f"FAILED {name}: it must run in CI", red=True)
    else:
        terminalreporter.line(
            "Some tests were left out, for the reasons below. What can be installed on Debian, as root:"
        )
        terminalreporter.line("make test INSTALL=1")


def _must_have_run(config: pytest.Config) -> list[str]:
    """Returns the tests that were skipped though all they need should be there."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    marks = [*MACHINE_MARKS, *(["data"] if DATA.is_dir() else [])]
    skipped = reporter.stats.get("skipped", []) if reporter else []
    # a whole module that was skipped has no keywords, and could hold any test
    return [report.nodeid for report in skipped if any(mark in getattr(report, "keywords", marks) for mark in marks)]
