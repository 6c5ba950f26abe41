"""One controller at a time, and what a lost one left. On a real SLURM: test_slurm_faults.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflows import CHECKOUT, EXPERIMENT, Workflow

from jaxrnn import controller, plan, submission
from jaxrnn.config import load
from jaxrnn.errors import JaxrnnError
from jaxrnn.plan import Plan
from jaxrnn.results import Results

RUN = "01234567-89ab-cdef-0123-456789abcdef"
# As Snakemake calls it.
WAITING = """
import asyncio, sys
from jaxrnn import controller
async def snakemake():
    controller._wait("tiny", True, lambda text: print(text, flush=True))
try:
    asyncio.run(snakemake())
except KeyboardInterrupt:
    sys.exit("stopped")
"""
KEEP = """
import sys, time
from pathlib import Path
from jaxrnn import controller, lock
with lock.held(Path(sys.argv[1]), controller.NAME, controller.LIVE):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that begins as the controller of a plan and returns what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(controller, "LOOK_SECONDS", 0.05)
    ends: list[Any] = []
    monkeypatch.setattr(controller.atexit, "register", ends.append)

    def begin(made: Plan, **changes: Any) -> list[str]:
        said: list[str] = []
        settings = {"submits": False, "snakemake": Path(".snakemake"), "known": lambda path: False, "say": said.append}
        controller.begin(made, Results(Path("results")), **settings | changes)
        return said

    yield begin
    for end in ends:
        end()
    controller._controlled.clear()


def made(**changes: Any) -> Plan:
    Path("tiny.yaml").write_text(yaml.safe_dump({**EXPERIMENT, **changes}))
    return plan.make(load(Path("tiny.yaml")))


def holder(folder: Path) -> subprocess.Popen[str]:
    """Returns a process that is the controller of the experiment in `folder`."""
    process = subprocess.Popen([sys.executable, "-c", KEEP, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_living_controller_is_left_alone_and_named_and_a_dead_one_is_replaced(began: Any) -> None:
    folder = Path("results/tiny")
    other = holder(folder)
    with pytest.raises(
        JaxrnnError, match=f"another Snakemake runs this experiment \\(process {other.pid} on .*, since"
    ):
        began(made())
    other.kill()
    other.communicate()
    began(made())
    assert json.loads((folder / controller.NAME).read_text())["process"] == os.getpid()
    assert began(made()) == [], "who is the controller already stays it"


def test_a_run_that_may_be_tried_again_later_says_so_by_its_exit_code(tmp_path: Path) -> None:
    """slurm/controller.sh knows it: the other one may have been killed on another node, less than two minutes ago."""
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    workflow.results.mkdir(parents=True)
    other = {"host": "elsewhere", "process": 1, "since": "2026-11-27 20:00:00"}
    for targets in ((), ("--retries", "0", "results/tiny/splits.csv")):
        (workflow.results / controller.NAME).write_text(json.dumps(other))
        done = workflow.run(*targets)
        assert done.returncode == os.EX_TEMPFAIL == 75, done.stdout
        assert "jaxrnn: results/tiny: another Snakemake runs this experiment (process 1 on elsewhere" in done.stdout
        assert "Traceback" not in done.stdout
    # another fault is for good
    workflow.configure({"model.unit": 4})
    assert workflow.run().returncode == 1


def test_locks_of_a_dead_controller_are_cleared_and_those_of_other_experiments_are_not(began: Any) -> None:
    locks = Path(".snakemake/locks")
    locks.mkdir(parents=True)
    contents = {"0.input": "tiny/splits.csv", "0.output": "tiny/report.html", "1.output": "tiny2/report.html"}
    for name, path in contents.items():
        (locks / f"{name}.lock").write_text(f"results/datasets/0/manifest.json\nresults/{path}\n")
    assert began(made()) == ["cleared the lock that a lost controller of tiny left"]
    assert [path.name for path in locks.iterdir()] == ["1.output.lock"]


def test_what_jobs_without_a_controller_made_is_made_again_where_the_experiment_changed(began: Any) -> None:
    folder = Path("results/tiny")
    names = ("splits.csv", "jobs/a/trials.csv", "jobs/b/trials.csv", "best.json", "report.html", "jobs/a/history.csv")
    plan.write(made(), Results(Path("results")))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    began(made())
    assert all((folder / name).exists() for name in names)
    controller._controlled.clear()
    known = {folder / name for name in names} - {folder / "jobs/a/trials.csv"}
    (folder / controller.NAME).unlink()
    began(made(seed=2), known=known.__contains__)
    gone = [name for name in names if not (folder / name).exists()]
    assert gone == ["jobs/a/trials.csv", "best.json", "report.html"], "with what builds on it"


def squeue(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Puts a command `squeue` on PATH that is this shell script."""
    folder.mkdir()
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def line(number: int, state: str, name: str, comment: str, folder: str | Path) -> str:
    """Returns a job as `slurm.queue` has it of squeue."""
    return "\t".join((str(number), state, "0:00", "", "None", str(folder), name, comment))


def test_jobs_of_this_experiment_and_folder_are_waited_for(
    began: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [(f"tiny_x_{RUN}", tmp_path), (f"tiny_{RUN}", "/elsewhere"), (f"my-tiny_{RUN}", tmp_path)]
    lines = [line(number, "RUNNING", name, "c", folder) for number, (name, folder) in enumerate(others)]
    squeue(monkeypatch, tmp_path / "bin", f"cat {tmp_path}/queue")
    (tmp_path / "queue").write_text("\n".join([*lines, line(7, "PENDING", f"tiny_{RUN}", "rule_train", tmp_path)]))
    with pytest.raises(JaxrnnError, match=f"1 SLURM job .*still there .1 pending.*scancel --name=tiny_{RUN}"):
        began(made(), submits=True, early=False)
    controller._controlled.clear()
    (tmp_path / "results/tiny" / controller.NAME).unlink()

    def end_job(seconds: float) -> None:
        (tmp_path / "queue").write_text("\n".join(lines))

    monkeypatch.setattr(time, "sleep", end_job)
    said = began(made(), submits=True)
    assert len(said) == 2
    assert "waiting for 1 SLURM job of this experiment, which an earlier controller submitted: 1 pending" in said[0]


def test_ctrl_c_ends_the_waiting_though_snakemake_runs_inside_asyncio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(monkeypatch, tmp_path / "bin", f"cat {tmp_path}/queue")
    (tmp_path / "queue").write_text(line(7, "PENDING", f"tiny_{RUN}", "rule_train", tmp_path))
    words = [sys.executable, "-c", WAITING]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and "waiting for 1 SLURM job" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (1, "stopped\n")


def test_without_an_answer_from_slurm_nothing_is_submitted(
    began: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(
        monkeypatch, tmp_path / "bin", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
    )
    with pytest.raises(JaxrnnError, match=r"squeue .*Unable to contact"):
        began(made(), submits=True)


def test_the_names_of_jobs_are_short_enough_and_tell_experiments_apart() -> None:
    assert controller.job_names("goto") == "goto"
    long = [controller.job_names("a" * 60 + letter) for letter in "bc"]
    assert len(set(long)) == 2
    assert {len(name) for name in long} == {controller.LONGEST_PREFIX}


@pytest.mark.parametrize(
    ("heard", "message", "code", "printed", "calls"),
    [
        ("", "Socket timed out on send/recv operation", 0, "12", 3),
        ("rule_train", "Socket timed out on send/recv operation", 0, "9", 1),
        ("rule_split", "Socket timed out on send/recv operation", 0, "12", 3),
        ("", "Batch job submission failed: Invalid account", 1, "", 1),
    ],
)
def test_submitting_waits_for_an_answer_and_submits_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    heard: str,
    message: str,
    code: int,
    printed: str,
    calls: int,
) -> None:
    """The third call of sbatch is answered."""
    squeue(monkeypatch, tmp_path / "bin", f"cat {tmp_path}/queue")
    (tmp_path / "queue").write_text(line(9, "PENDING", f"tiny_{RUN}", heard, "/") if heard else "")
    (tmp_path / "bin" / "sbatch").write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/calls\n"
        f"[ $(wc -l < {tmp_path}/calls) -ge 3 ] && echo 12 && exit 0\necho 'sbatch: error: {message}' >&2\nexit 1\n"
    )
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setattr(submission, "PAUSE_SECONDS", 0.01)
    arguments = ["--parsable", "--job-name", f"tiny_{RUN}", "--comment", "rule_train", "--wrap=true"]
    assert submission.submit(arguments, os.environ["PATH"]) == code
    assert capsys.readouterr().out.strip() == printed
    assert len((tmp_path / "calls").read_text().split()) == calls


def test_a_script_on_standard_input_is_handed_on_at_every_call(tmp_path: Path) -> None:
    """As Snakemake's `slurm-pass-command-as-script` has it; by the program that stands in front of sbatch."""
    (tmp_path / "sbatch").write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/calls\ncat > {tmp_path}/script\n"
        f"[ $(wc -l < {tmp_path}/calls) -ge 2 ] && echo 12 && exit 0\n"
        "echo 'sbatch: error: Socket timed out on send/recv operation' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    for program in ("sbatch", "squeue"):
        (tmp_path / program).chmod(0o755)
    front = CHECKOUT / "slurm" / "bin" / "sbatch"
    code = "from jaxrnn import submission; submission.PAUSE_SECONDS = 0.01; submission.main()"
    (tmp_path / "python").write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{code}" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = os.pathsep.join([str(front.parent), str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "JAXRNN_PYTHON": str(tmp_path / "python")}
    command = ["sbatch", "--parsable", "/dev/stdin"]
    done = subprocess.run(command, input="#!/bin/sh\ntrue\n", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "12"), done.stderr
    assert (tmp_path / "calls").read_text() == "x\nx\n"
    assert (tmp_path / "script").read_text() == "#!/bin/sh\ntrue\n"


def test_what_only_looks_at_the_workflow_is_no_controller(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    made = plan.make(load(workflow.config))
    outputs = [workflow.results / name for name in ("splits.csv", "best.json")]
    for path in (*outputs, workflow.results / "experiment.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an experiment that has changed since")
    assert made.experiment.experiment == "tiny"
    for option in ("--dag", "--summary"):
        done = workflow.run(option)
        assert done.returncode == 0, done.stdout
        assert all(path.exists() for path in outputs), option
        assert not (workflow.results / controller.NAME).exists()
