"""A real SLURM on one machine: munge, a controller, and two nodes with two make-believe GPUs each.

`running()` is what the tests use. By hand, as root: `python tests/slurm_cluster.py`, then in another terminal
`snakemake --profile slurm/testcluster --configfile config/demo.yaml`; Ctrl-C ends it.

The cluster lives in a process of its own, which tears everything down as soon as the process that asked for it is gone,
however it ended. SLURM's clients must find the configuration in /etc/slurm, because Snakemake removes SLURM_CONF inside
jobs; so three links stand there while the cluster runs. A SLURM that is already configured there is never touched.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("node1", "node2")
GPUS_PER_NODE = 2
CONFIGURATION = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge"
START_SECONDS = 30.0
PREFIX = "jaxrnn-slurm-"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Timings are for tests: jobs start, end and are forgotten within seconds. pgid, because without cgroups `linuxproc`
# leaves processes of cancelled jobs alive; cred_expire, because a requeued job waits until its credential expires.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n/spool
TmpFS={folder}/%n/tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
MessageTimeout=10
KillWait=5
CompleteWait=0
MinJobAge=600
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0,defer_batch,requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
JobRequeue=1
PrologFlags=Alloc
GresTypes=gpu
DefMemPerCPU=100
NodeName=DEFAULT CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:{gpus}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=00:05:00 State=UP
"""


class Unavailable(Exception):
    """Why no cluster can run here; the message is the reason that a skipped test shows."""


def obstacle() -> str:
    """Returns why no cluster can start on this machine, or "" if one can."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"no {', '.join(missing)} on PATH; as root: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "SLURM's daemons start jobs of other users, so only root can run the test cluster"
    foreign = [path for file in FILES if os.path.lexists(path := CONFIGURATION / file) and not _left_over(path)]
    return f"{foreign[0]} exists and is not a link of these tests; it is left alone" if foreign else ""


@contextmanager
def running() -> Iterator[None]:
    """Runs a cluster that plain `sbatch`, `srun`, ... find; raises Unavailable where none can run."""
    keeper = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the tests, and their end that of the cluster
    )
    assert keeper.stdin and keeper.stdout
    try:
        answer = keeper.stdout.readline().strip()
        if answer != "ready":
            raise Unavailable(answer or "the test cluster ended before it was up")
        yield
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def jobs() -> list[dict[str, str]]:
    """Returns the fields of every job of the last minutes, as `scontrol show job` names them."""
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, check=True).stdout
    fields = (line.split() for line in shown.splitlines() if line.startswith("JobId="))
    return [dict(field.split("=", 1) for field in line if "=" in field) for line in fields]


def _left_over(path: Path) -> bool:
    """Whether `path` is a link to a cluster that is no more (its keeper was killed together with the machine)."""
    if not path.is_symlink():
        return False
    folder = Path(os.readlink(path)).parent
    if not folder.name.startswith(PREFIX):
        return False
    try:
        return not _alive(int((folder / "keeper").read_text()))
    except (OSError, ValueError):
        return True


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextmanager
def _cluster() -> Iterator[Path]:
    """Yields the folder of a cluster that is up; whatever happens, ends its daemons and jobs and removes its links."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "keeper").write_text(str(os.getpid()))
        _configure(folder)
        CONFIGURATION.mkdir(exist_ok=True)
        for file in FILES:
            link = CONFIGURATION / file
            link.unlink(missing_ok=True)  # a left-over: `obstacle` has looked
            link.symlink_to(folder / file)
            stack.callback(link.unlink, missing_ok=True)
        munge_files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        _daemon(stack, folder, "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *munge_files)
        _wait_until((folder / "munge.socket").is_socket, "munged", folder)
        stack.callback(_kill_steps, folder)
        _daemon(stack, folder, "slurmctld", "-D")
        for node in NODES:
            _daemon(stack, folder / node, "slurmd", "-D", "-N", node)
        _wait_until(_nodes_up, "SLURM", folder)
        stack.callback(_cancel_jobs)
        stack.callback(_ignore_signals)
        yield folder


def _configure(folder: Path) -> None:
    controller_port, *node_ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        for node, port in zip(NODES, node_ports, strict=True)
    ]
    (folder / "state").mkdir()
    for node in NODES:
        (folder / node / "tmp").mkdir(parents=True)
        for gpu in range(GPUS_PER_NODE):
            # SLURM wants a device file for each GPU; a null device serves
            os.mknod(folder / node / f"gpu{gpu}", 0o666 | 0o020000, os.makedev(1, 3))
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(
            host=host, controller_port=controller_port, folder=folder, gpus=GPUS_PER_NODE, nodes="\n".join(nodes)
        )
    )
    gpus = [f"NodeName={node} Name=gpu File={folder}/{node}/gpu[0-{GPUS_PER_NODE - 1}]\n" for node in NODES]
    (folder / "gres.conf").write_text("".join(gpus))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _daemon(stack: ExitStack, folder: Path, *command: str) -> None:
    """Starts a daemon as a child of this process, in `folder`, and puts its end on `stack`."""
    log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
    daemon = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
    )

    def end() -> None:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    stack.callback(end)


def _wait_until(condition, what: str, folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            logs = "".join(f"\n--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(folder.rglob("*.log")))
            print(logs, file=sys.stderr)
            raise Unavailable(f"{what} was not up after {START_SECONDS:g} s")
        time.sleep(0.05)


def _nodes_up() -> bool:
    states = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True).stdout.split()
    return states == ["idle"] * len(NODES)


def _cancel_jobs() -> None:
    queue = ["squeue", "-h", "-o", "%A"]
    if ids := subprocess.run(queue, capture_output=True, text=True).stdout.split():
        subprocess.run(["scancel", "--full", "--signal=KILL", *ids], capture_output=True)
        subprocess.run(["scancel", *ids], capture_output=True)
        end = time.monotonic() + 10
        while subprocess.run(queue, capture_output=True, text=True).stdout.split() and time.monotonic() < end:
            time.sleep(0.1)


def _kill_steps(folder: Path) -> None:
    """Kills the step daemons that outlived their node; they are in the folder in which it was started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == "slurmstepd\n" and (process / "cwd").readlink().parent == folder:
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Keeps a cluster until the standard input ends or a signal arrives."""

    def stop(*_: object) -> None:
        _ignore_signals()  # what follows is the end of the cluster, and a second signal must not cut it short
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, stop)
    if reason := obstacle():
        print(reason)
        return
    try:
        with _cluster():
            print("ready", flush=True)
            sys.stdin.read()
    except Unavailable as reason:
        print(reason)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
