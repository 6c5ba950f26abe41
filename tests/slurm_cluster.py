"""A real SLURM on one machine: munge, a controller, and two nodes with two make-believe GPUs each; with accounting,
on a database of its own, where that is asked for.

`running()` is what the tests use, and `Cluster` how they break it. By hand, as root: `python tests/slurm_cluster.py`,
with `--accounting` if it is to have that, then in another terminal `snakemake --profile slurm/testcluster --configfile
config/demo.yaml`; Ctrl-C ends it. A machine has one cluster at a time: who comes second waits.

The cluster lives in a process of its own, which tears everything down as soon as the process that asked for it is gone,
however it ended. SLURM's clients must find the configuration in /etc/slurm, because Snakemake removes SLURM_CONF inside
jobs; so three links stand there while the cluster runs. A SLURM that is already configured there is never touched.
"""

import fcntl
import os
import pwd
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NODES = ("node1", "node2")
GPUS_PER_NODE = 2
CONFIGURATION = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge"
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb")
ACCOUNTING_PACKAGES = "slurmdbd mariadb-server"
ACCOUNT = "test"
START_SECONDS = 30.0
PREFIX = "jaxrnn-slurm-"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Two that run at once take turns. Beyond so many seconds the second one gives up.
TURN = Path(tempfile.gettempdir()) / "jaxrnn-slurm.lock"
TURN_SECONDS = 540.0

# Timings are for tests: jobs start, end and are forgotten within seconds. pgid, because without cgroups `linuxproc`
# leaves processes of cancelled jobs alive; cred_expire, because a requeued job waits until its credential expires;
# ReturnToService, so that a node that was set down stays so, and one whose daemon was killed is back with that;
# FirstJobId, because MPICH names what it shares in memory after the job: what a killed rank left there must not meet a
# job of the next cluster.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
{authentication}
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
ReturnToService=1
FirstJobId={first_job}
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
{accounting}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
PrologFlags=Alloc
GresTypes=gpu
DefMemPerCPU=100
NodeName=DEFAULT CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:{gpus}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=00:05:00 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=00:10:00 DefaultTime=00:05:00 State=UP PriorityTier=10 PreemptMode=OFF
"""
AUTHENTICATION = "AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket,cred_expire=5"
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
# What a cluster with accounting enforces: an account that is there, and limits.
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,safe
"""
SLURMDBD_CONF = """\
{authentication}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""
DATABASE = (
    "CREATE DATABASE slurm_acct_db; CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm'; "
    "CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm'; "
    "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1'; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';"
)


class Unavailable(Exception):
    """Why no cluster can run here; the message is the reason that a skipped test shows."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. Its daemons are `slurmctld`, `slurmdbd` and, by their nodes' names, the nodes'."""

    orders: IO[str]
    answers: IO[str]

    def kill(self, daemon: str) -> None:
        """Kills a daemon as SIGKILL does; what it started lives on."""
        self._order("kill", daemon)

    def start(self, daemon: str) -> None:
        """Starts a daemon that was killed; returns at once."""
        self._order("start", daemon)

    def _order(self, *words: str) -> None:
        print(*words, file=self.orders, flush=True)
        answer = self.answers.readline().strip()
        assert answer == "done", answer

    def set_node(self, node: str, state: str) -> None:
        """Sets a node `down`, which ends its jobs as the loss of a node does, or `resume`s it."""
        subprocess.run(["scontrol", "update", f"nodename={node}", f"state={state}", "reason=test"], check=True)

    def preempt(self, seconds: float) -> str:
        """Submits a job to the partition `urgent` that takes all nodes for so long; returns its id.

        Every other job is sent back into the queue.
        """
        size = [f"--nodes={len(NODES)}", "--exclusive", f"--gres=gpu:{GPUS_PER_NODE}", "--output=/dev/null"]
        submitted = ["sbatch", "--parsable", "--partition=urgent", *size, f"--wrap=sleep {seconds:g}"]
        return subprocess.run(submitted, capture_output=True, text=True, check=True).stdout.strip()


def obstacle(*, accounting: bool = False) -> str:
    """Returns why no cluster can start on this machine, or "" if one can."""
    programs, packages = PROGRAMS, PACKAGES
    if accounting:
        programs, packages = (*PROGRAMS, *ACCOUNTING_PROGRAMS), f"{PACKAGES} {ACCOUNTING_PACKAGES}"
    if missing := [program for program in programs if shutil.which(program) is None]:
        return f"no {', '.join(missing)} on PATH; as root: apt-get install --no-install-recommends {packages}"
    if os.geteuid() != 0:
        return "SLURM's daemons start jobs of other users, so only root can run the test cluster"
    foreign = [path for file in FILES if os.path.lexists(path := CONFIGURATION / file) and not _ours(path)]
    return f"{foreign[0]} exists and is not a link of these tests; it is left alone" if foreign else ""


@contextmanager
def running(*, accounting: bool = False) -> Iterator[Cluster]:
    """Runs a cluster that plain `sbatch`, `srun`, ... find; raises Unavailable where none can run.

    Waits while another one runs on this machine.
    """
    keeper = subprocess.Popen(
        [sys.executable, __file__, *(["--accounting"] if accounting else [])],
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
        yield Cluster(keeper.stdin, keeper.stdout)
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def jobs() -> list[dict[str, str]]:
    """Returns the fields of every job of the last minutes, as `scontrol show job` names them."""
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, check=True).stdout
    fields = (line.split() for line in shown.splitlines() if line.startswith("JobId="))
    return [dict(field.split("=", 1) for field in line if "=" in field) for line in fields]


def end_jobs(folder: Path) -> None:
    """Cancels what was submitted from `folder` and is still in the queue, and waits until it is gone.

    Where SLURM doesn't answer nothing is done: the end of the cluster ends it too.
    """
    end = time.monotonic() + 15
    while time.monotonic() < end:
        queue = subprocess.run(["squeue", "-h", "-o", "%A|%Z"], capture_output=True, text=True).stdout
        entries = (line.partition("|") for line in queue.splitlines())
        left = [job for job, _, place in entries if Path(place).is_relative_to(folder)]
        if not left:
            return
        subprocess.run(["scancel", *left], capture_output=True)
        time.sleep(0.2)


def _ours(path: Path) -> bool:
    """Whether `path` is a link to a cluster of these tests, which runs, or was killed together with its keeper."""
    return path.is_symlink() and Path(os.readlink(path)).parent.name.startswith(PREFIX)


@contextmanager
def _turn() -> Iterator[None]:
    """Waits until no other cluster of these tests runs, which the kernel knows however it ended."""
    with TURN.open("a") as file:
        end = time.monotonic() + TURN_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Unavailable(f"another test cluster has been running on this machine for {TURN_SECONDS:g} s")
                time.sleep(0.2)
        yield


@contextmanager
def _cluster(accounting: bool) -> Iterator[dict[str, "_Daemon"]]:
    """Yields the daemons of a cluster that is up; whatever happens, ends them and their jobs and removes its links."""
    with ExitStack() as stack:
        stack.enter_context(_turn())
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # for the clients of other users
        controller_port, accounting_port, database_port, *node_ports = _free_ports(3 + len(NODES))
        _configure(folder, controller_port, node_ports, accounting_port if accounting else None)
        CONFIGURATION.mkdir(exist_ok=True)
        for file in FILES:
            link = CONFIGURATION / file
            link.unlink(missing_ok=True)  # a left-over: `obstacle` has looked, and it is our turn
            link.symlink_to(folder / file)
            stack.callback(link.unlink, missing_ok=True)
        munge_files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        _Daemon(stack, folder, "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *munge_files)
        _wait_until((folder / "munge.socket").is_socket, "munged", folder)
        stack.callback(_kill_steps, folder)
        daemons = {}
        if accounting:
            daemons["slurmdbd"] = _start_accounting(stack, folder, accounting_port, database_port)
        daemons["slurmctld"] = _Daemon(stack, folder, "slurmctld", "-D")
        for node in NODES:
            daemons[node] = _Daemon(stack, folder / node, "slurmd", "-D", "-N", node)
        _wait_until(_nodes_up, "SLURM", folder)
        stack.callback(_cancel_jobs)
        stack.callback(_ignore_signals)
        yield daemons


def _configure(folder: Path, controller_port: int, node_ports: list[int], accounting_port: int | None) -> None:
    host = socket.gethostname().split(".")[0]
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
        for node, port in zip(NODES, node_ports, strict=True)
    ]
    (folder / "state").mkdir()
    for node in NODES:
        (folder / node / "tmp").mkdir(parents=True)
        (folder / node / "tmp").chmod(0o1777)
        for gpu in range(GPUS_PER_NODE):
            # SLURM wants a device file for each GPU; a null device serves
            os.mknod(folder / node / f"gpu{gpu}", 0o666 | 0o020000, os.makedev(1, 3))
    accounting = NO_ACCOUNTING if accounting_port is None else ACCOUNTING.format(folder=folder, port=accounting_port)
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(
            host=host,
            controller_port=controller_port,
            first_job=1 + secrets.randbelow(60_000),
            folder=folder,
            gpus=GPUS_PER_NODE,
            nodes="\n".join(nodes),
            authentication=AUTHENTICATION.format(folder=folder),
            accounting=accounting,
        )
    )
    gpus = [f"NodeName={node} Name=gpu File={folder}/{node}/gpu[0-{GPUS_PER_NODE - 1}]\n" for node in NODES]
    (folder / "gres.conf").write_text("".join(gpus))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def _start_accounting(stack: ExitStack, folder: Path, port: int, database_port: int) -> "_Daemon":
    """Starts a database and slurmdbd, and gives root an account; returns slurmdbd."""
    database = folder / "database"
    database.mkdir()
    here = ["--no-defaults", f"--socket={folder}/database.socket"]
    made = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={database}", "--skip-test-db"]
    _run(folder, *made, "--auth-root-authentication-method=socket", "--innodb-log-file-size=16M")
    _Daemon(
        stack,
        folder,
        *("mariadbd", *here, "--user=root", f"--datadir={database}", f"--port={database_port}"),
        *("--bind-address=127.0.0.1", f"--pid-file={folder}/database.pid", "--skip-log-bin"),
        *("--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
    )
    _wait_until((folder / "database.socket").is_socket, "MariaDB", folder)
    _run(folder, "mariadb", *here, "--user=root", f"--execute={DATABASE}")
    configuration = folder / "slurmdbd.conf"
    configuration.touch(mode=0o600)
    authentication = AUTHENTICATION.format(folder=folder)
    configuration.write_text(
        SLURMDBD_CONF.format(folder=folder, port=port, database_port=database_port, authentication=authentication)
    )
    # it looks for its own file beside this one
    daemon = _Daemon(stack, folder, "slurmdbd", "-D", SLURM_CONF=str(folder / "slurm.conf"))
    listing = ["sacctmgr", "--noheader", "list", "cluster"]
    _wait_until(lambda: subprocess.run(listing, capture_output=True).returncode == 0, "slurmdbd", folder)
    for entry in ("cluster test", f"account {ACCOUNT} Description=test Organization=test"):
        _run(folder, "sacctmgr", "--immediate", "add", *entry.split())
    _run(folder, "sacctmgr", "--immediate", "add", "user", pwd.getpwuid(0).pw_name, f"Account={ACCOUNT}")
    return daemon


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise Unavailable(f"{command[0]} failed with exit code {done.returncode}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class _Daemon:
    """A daemon, a child of this process, that works in `folder`; `stack` ends it."""

    def __init__(self, stack: ExitStack, folder: Path, *command: str, **environment: str) -> None:
        self._folder, self._command, self._environment = folder, command, environment
        self._log = stack.enter_context((folder / f"{command[0]}.log").open("a"))
        self.start()
        stack.callback(self._end)

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._folder,
            start_new_session=True,
            env={**os.environ, **self._environment},
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def _wait_until(condition, what: str, folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            logs = "".join(f"\n--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(folder.rglob("*.log")))
            print(logs, file=sys.stderr)
            raise Unavailable(f"{what} was not up after {START_SECONDS:g} s")
        time.sleep(0.05)


def _nodes_up() -> bool:
    states = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"], capture_output=True, text=True
    ).stdout.split()
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
    """Keeps a cluster, and does what is ordered of its daemons, until the standard input ends or a signal arrives."""

    def stop(*_: object) -> None:
        _ignore_signals()  # what follows is the end of the cluster, and a second signal must not cut it short
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, stop)
    accounting = "--accounting" in sys.argv[1:]
    if reason := obstacle(accounting=accounting):
        print(reason)
        return
    try:
        with _cluster(accounting) as daemons:
            print("ready", flush=True)
            for order in sys.stdin:
                verb, _, name = order.strip().partition(" ")
                {"kill": _Daemon.kill, "start": _Daemon.start}[verb](daemons[name])
                print("done", flush=True)
    except Unavailable as reason:
        print(reason)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
