"""What SLURM says and what a job asks of it. The only module that calls SLURM's programs, each with a time-out."""

import getpass
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxrnn.errors import JaxrnnError

SECONDS = 10.0  # that SLURM has for an answer
# States of nodes that take no job now, without the marks behind them; one marked `*` does not respond.
UNUSABLE = ("down", "drained", "draining", "drain", "fail", "failing", "error", "inval", "unknown", "maint")
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
ACTIVE += ("STAGE_OUT", "STOPPED", "RESIZING", "SIGNALING")
# a kind has a letter in it: v100, but also 3g.20gb
GPU = re.compile(r"gpu(?::([\w.\-]*[A-Za-z_][\w.\-]*))?(?::(\d+))?")
ALLOCATION_FORMAT = "TimeLimit:32,tres-alloc:256"
# The comment comes last, because it may hold anything. %A is a number of its own for each task of an array.
QUEUE_FORMAT = "\t".join(("%A", "%T", "%M", "%N", "%r", "%Z", "%j", "%k"))
# What sbatch says where SLURM, or the way to it, is at fault and not the job.
NO_ANSWER = re.compile(
    r"unable to contact slurm|timed out on send|temporarily un|zero bytes were transmitted|connection (refused|failure|"
    r"timed out)|munge",
    re.IGNORECASE,
)
# What `sbatch --test-only` says that may be otherwise in an hour: nodes that are down, a limit on jobs in the queue.
PASSING = ("node configuration is not available", "DOWN, DRAINED", "busy", "accounting/QOS policy")


class SlurmError(JaxrnnError):
    """SLURM's programs are not here, do not answer, or refuse. `said`: SLURM's own words, "" where it said nothing."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike, and in one state. gpus: on each, by kind; "" where the site names none."""

    count: int
    cores: int
    memory_mb: int
    gpus: Mapping[str, int]
    is_usable: bool

    def gpus_of(self, kind: str) -> int:
        return sum(count for name, count in self.gpus.items() if kind in ("", name))

    def has_room(self, request: "Request") -> bool:
        """Returns whether one of them has what a job wants of a node for a task, and its share of the GPUs."""
        return (
            (request.memory_mb or 0) <= self.memory_mb
            and request.cores <= self.cores
            and request.gpus <= self.gpus_of(request.gpu_kind) * (request.nodes or 1)
        )


class Limits(NamedTuple):
    """How long a job may run, and what it may have of a node's memory; infinite where that is not limited."""

    minutes: float
    memory_mb: float


@dataclass(frozen=True)
class Partition:
    """A partition and its limits, None where it has none. accounts: those alone that it takes; () for all."""

    name: str
    state: str
    is_default: bool
    minutes: float | None
    memory_mb: int | None
    accounts: tuple[str, ...]
    accounts_denied: tuple[str, ...]
    nodes: tuple[Nodes, ...] = ()

    @property
    def gpu_kinds(self) -> list[str]:
        return sorted({kind for nodes in self.nodes for kind in nodes.gpus})

    def limits(self, request: "Request") -> Limits | None:
        """Returns what a job of such cores and GPUs may have here, of the largest node; None where no node has them."""
        nodes = [one for one in self.nodes if one.has_room(replace(request, memory_mb=None))]
        if self.nodes and not nodes:
            return None
        memory = max((one.memory_mb for one in nodes), default=math.inf)
        return Limits(
            math.inf if self.minutes is None else self.minutes,
            memory if self.memory_mb is None else min(memory, self.memory_mb),
        )


@dataclass(frozen=True)
class Request:
    """What one SLURM job asks for. memory_mb: on each node; minutes and memory_mb are None where SLURM's default holds.

    elsewhere: it is for another cluster, of which this one says nothing. others: further options of sbatch.
    """

    rule: str
    partitions: tuple[str, ...] = ()
    account: str = ""
    minutes: float | None = None
    memory_mb: int | None = None
    cores: int = 1  # of each task
    tasks: int = 1
    nodes: int | None = None
    gpus: int = 0
    gpu_kind: str = ""
    launcher: str = ""  # of MPI ranks
    elsewhere: bool = False
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: str, resources: Mapping[str, Any]) -> "Request":
        """Returns what Snakemake's SLURM plugin makes of a job's resources. They are site configuration, so values of
        any type may come."""
        found = {name: value for name, value in resources.items() if value not in (None, "")}
        cores = _whole(found.get("cpus_per_task")) or _whole(found.get("_cores")) or 1
        memory = _whole(found.get("mem_mb"))
        if per_core := _whole(found.get("mem_mb_per_cpu")):
            memory = per_core * cores
        gpus, kind = _whole(found.get("gpu")) or 0, str(found.get("gpu_model", ""))
        if kind:
            gpus = gpus or 1
        if matched := GPU.fullmatch(str(found.get("gres", ""))):
            kind, gpus = matched[1] or "", int(matched[2] or 1)
        names = ("constraint", "qos", "reservation") if matched else ("constraint", "qos", "reservation", "gres")
        options = [(f"--{name}", found.get(name)) for name in names]
        others = [f"{option}={value}" for option, value in options if value is not None]
        return cls(
            rule=rule,
            partitions=tuple(re.findall(r"[^,\s]+", str(found.get("slurm_partition", "")))),
            # of several accounts the plugin takes the first one
            account=next(iter(re.findall(r"[^,\s]+", str(found.get("slurm_account", "")))), ""),
            minutes=_whole(found.get("runtime")),
            memory_mb=memory,
            cores=cores,
            tasks=_whole(found.get("tasks")) or 1,
            nodes=_whole(found.get("nodes")),
            gpus=gpus,
            gpu_kind=kind,
            launcher=str(found.get("mpi", "")),
            elsewhere=any(name in found for name in ("cluster", "clusters", "slurm_cluster")),
            others=(*others, *shlex.split(str(found.get("slurm_extra", "")))),
        )

    @property
    def options(self) -> list[str]:
        """Returns what sbatch is given for it."""
        named = {
            "--partition": ",".join(self.partitions),
            "--account": self.account,
            "--time": self.minutes and f"{self.minutes:.0f}",
            "--mem": self.memory_mb,
            "--nodes": self.nodes,
            "--gpus": self.gpus and (f"{self.gpu_kind}:{self.gpus}" if self.gpu_kind else self.gpus),
            "--ntasks": self.tasks,
            "--cpus-per-task": self.cores,
        }
        return [*(f"{name}={value}" for name, value in named.items() if value), *self.others]


@dataclass(frozen=True)
class Cluster:
    """What SLURM says of the whole cluster. settings: as `scontrol show config` names them."""

    partitions: tuple[Partition, ...]
    settings: Mapping[str, str]

    @property
    def has_accounting(self) -> bool:
        return self.settings.get("AccountingStorageType", "").removeprefix("accounting_storage/") == "slurmdbd"

    @property
    def redirects(self) -> bool:
        """Whether a plugin of the site's own may change what a job asks for."""
        return self.settings.get("JobSubmitPlugins", "(null)") not in ("(null)", "")

    def choice(self, request: Request) -> list[Partition]:
        """Returns the partitions that a job may run in: those that it names, or the default one."""
        return [
            partition
            for partition in self.partitions
            if (partition.name in request.partitions if request.partitions else partition.is_default)
        ]

    def limits(self, request: Request, own: Mapping[str, Limits]) -> Limits:
        """Returns the most that a job may ask for: as much memory as any of its partitions has for it, and as many
        minutes as those allow that have the memory that it asks for. Infinite where it is not known where it will run.

        own: of a job that names no partition, those that the workflow chooses from, each with limits of its own.
        """
        if request.partitions:
            own = {}
        if request.elsewhere or (self.redirects and not (request.partitions or own)):
            return Limits(math.inf, math.inf)
        there = [partition for partition in self.partitions if partition.name in own] or self.choice(request)
        found = [
            Limits(*map(min, limits, own.get(partition.name, limits)))
            for partition in there
            if (limits := partition.limits(request))
        ]
        enough = [limits for limits in found if limits.memory_mb >= (request.memory_mb or 0)]
        return Limits(
            max((limits.minutes for limits in enough or found), default=math.inf),
            max((limits.memory_mb for limits in found), default=math.inf),
        )


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits or runs. state: as SLURM names it (PENDING, RUNNING, ...); elapsed: how long it has run, as
    SLURM writes it; nodes: where; reason: why it waits; folder: from which it was submitted; name: of Snakemake's
    jobs the experiment's and the run's; comment: of these `rule_<rule>_wildcards_<their values, joined by _>`."""

    id: int
    state: str
    elapsed: str
    nodes: str
    reason: str
    folder: str
    name: str
    comment: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def present() -> bool:
    """Returns whether this machine has SLURM's programs."""
    return shutil.which("squeue") is not None


def call(*argv: str, seconds: float | None = None, given: str | None = None) -> str:
    """Returns what a program of SLURM prints; raises SlurmError where it is not here, does not answer within `seconds`
    (SECONDS where left out), or fails. given: its standard input."""
    seconds = seconds or SECONDS
    try:
        done = subprocess.run(
            argv,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise SlurmError(
            f"no SLURM here: no `{argv[0]}` on PATH; start this on a login node of the cluster (with SLURM's module "
            "loaded, where it is one), or work without a cluster: --profile workflow/profiles/local"
        )
    except OSError as error:
        raise SlurmError(f"`{argv[0]}` cannot be started ({error.strerror or error})")
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"SLURM does not answer: `{shlex.join(argv)}` said nothing for {seconds:g} s; try again when `sinfo` "
            "answers, or ask the site's staff"
        )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = "; ".join(dict.fromkeys(line.removeprefix(f"{argv[0]}: ").removeprefix("error: ") for line in lines[:4]))
        raise SlurmError(f"`{shlex.join(argv[:3])}` failed: {said or f'exit code {done.returncode}'}", said)
    return done.stdout


def cluster() -> Cluster:
    """Returns the partitions and settings of the cluster, by three calls; raises SlurmError."""
    found = partitions()
    return Cluster(found, settings_in(call("scontrol", "show", "config")))


def partitions() -> tuple[Partition, ...]:
    """Returns all partitions with their nodes, by two calls; raises SlurmError."""
    shown = call("scontrol", "show", "partition", "--oneliner", "--all")
    return partitions_in(shown, call("sinfo", "--noheader", "--all", "--exact", "--format=%R|%D|%c|%m|%G|%T"))


def partitions_in(shown: str, nodes: str) -> tuple[Partition, ...]:
    """Returns what `scontrol show partition --oneliner` and `sinfo` say; sinfo's columns are those of `partitions`."""
    alike: dict[str, list[Nodes]] = {}
    for line in nodes.splitlines():
        words = line.split("|")
        if len(words) == 6:
            name, count, cores, memory, resources, state = words
            usable = "*" not in state and state.rstrip("*~#!%$@^-+").lower() not in UNUSABLE
            one = Nodes(_whole(count) or 0, _whole(cores) or 0, _whole(memory) or 0, _gpus(resources), usable)
            alike.setdefault(name, []).append(one)
    found = []
    for line in shown.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in fields:
            name = fields["PartitionName"]
            found.append(
                Partition(
                    name=name,
                    state=fields.get("State", "UP"),
                    is_default=fields.get("Default") == "YES",
                    minutes=None if (limit := seconds_in(fields.get("MaxTime", "UNLIMITED"))) is None else limit / 60,
                    memory_mb=_limit(fields.get("MaxMemPerNode", "")),
                    accounts=_names(fields.get("AllowAccounts", "ALL")),
                    accounts_denied=_names(fields.get("DenyAccounts", "ALL")),
                    nodes=tuple(alike.get(name, ())),
                )
            )
    return tuple(found)


def settings_in(shown: str) -> dict[str, str]:
    """Returns the keys and values of `scontrol show config`."""
    pairs = (line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def accounts() -> list[str]:
    """Returns the accounts of this user, in SLURM's order; raises SlurmError, also where SLURM keeps no accounting."""
    shown = call(
        "sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}", "format=account"
    )
    return list(dict.fromkeys(line.strip() for line in shown.splitlines() if line.strip()))


def ask_accounting() -> None:
    """Raises SlurmError where SLURM's database does not answer."""
    call("sacct", "--noheader", "--allocations", "--starttime=now")


def refusal(request: Request) -> str:
    """Returns why SLURM would not take such a job, in its words, or ""; nothing is submitted."""
    try:
        call("sbatch", "--test-only", *request.options, "--wrap=true")
    except SlurmError as error:
        if not error.said or NO_ANSWER.search(error.said):
            raise
        return error.said.replace("allocation failure: ", "")
    return ""


def submit(request: Request, script: str, *, name: str, log: str) -> int:
    """Submits a script, to run in this folder, and returns the job's number; raises SlurmError."""
    options = [*request.options, f"--job-name={name}", f"--output={log}", "--no-requeue"]
    said = call("sbatch", "--parsable", *options, seconds=3 * SECONDS, given=script)
    # some sites' submit filters say more than the number
    numbers = re.findall(r"^(\d+)(?:;.*)?$", said, re.MULTILINE)
    if not numbers:
        raise SlurmError(f"sbatch took the job, and names no number: {said.strip()!r}", said)
    return int(numbers[-1])


def state(job: int) -> tuple[str, str]:
    """Returns a job's state and why it waits; ("", "") where SLURM no longer knows it."""
    try:
        shown = call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r").strip()
    except SlurmError as error:
        if "Invalid job id" in error.said:
            return "", ""
        raise
    now, _, reason = shown.partition("|")
    return now, reason


def queue() -> tuple[QueuedJob, ...]:
    """Returns this user's jobs that wait or run, by one call of squeue."""
    return parsed_queue(call("squeue", "--me", "--noheader", "--format", QUEUE_FORMAT))


def parsed_queue(text: str) -> tuple[QueuedJob, ...]:
    """Returns the jobs of squeue's output in `QUEUE_FORMAT`; what is no job (a site's greeting) is passed over."""
    rows = (line.split("\t", 7) for line in text.splitlines())
    return tuple(QueuedJob(int(row[0]), *row[1:]) for row in rows if len(row) == 8 and row[0].isdigit())


@dataclass(frozen=True)
class Allocation:
    """What a running job has of all its nodes together; None where SLURM doesn't share it out, or sets no limit."""

    cores: int | None
    memory_mb: float | None
    seconds: float | None

    @classmethod
    def of(cls, shown: str) -> "Allocation":
        """Returns what squeue shows in `ALLOCATION_FORMAT`."""
        limit, _, resources = shown.strip().partition(" ")
        found = {name: value for name, _, value in (part.partition("=") for part in resources.strip().split(","))}
        return cls(_whole(found.get("cpu")), _megabytes(found.get("mem", "")), seconds_in(limit))


def allocation(job: int) -> Allocation:
    """Returns what SLURM has given a running job; raises SlurmError."""
    return Allocation.of(call("squeue", "--noheader", f"--jobs={job}", f"--Format={ALLOCATION_FORMAT}"))


def own_job() -> int | None:
    """Returns the number of the job that this process is in, None outside of SLURM."""
    number = os.environ.get("SLURM_JOB_ID", "")
    return int(number) if number.isdecimal() else None


def seconds_left(job: int) -> float | None:
    """Returns how long a running job may still run, None without a limit; raises SlurmError."""
    # not the time of its end, which would be by the controller's clock
    return seconds_in(call("squeue", "--noheader", f"--jobs={job}", "--format=%L").strip())


def seconds_in(time: str) -> float | None:
    """Returns the seconds of SLURM's [days-][hours:]minutes:seconds; None for no limit."""
    days, _, clock = time.rpartition("-")
    parts = clock.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isdecimal() for part in (days or "0", *parts)):
        return None
    hours, minutes, seconds = map(int, ["0", *parts][-3:])
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def requeue(job: int) -> None:
    """Ends a running job and puts it into the queue again, under the same number; raises SlurmError."""
    call("scontrol", "requeue", str(job))


def cancel(name: str) -> None:
    """Cancels this user's jobs of a name, however far their submission came; raises SlurmError."""
    call("scancel", f"--user={getpass.getuser()}", f"--name={name}")


def launchers() -> list[str]:
    """Returns the kinds of MPI that srun knows: pmi2, pmix, ..."""
    try:
        shown = call("srun", "--mpi=list")
    except SlurmError as error:
        shown = error.said
    return [word for line in shown.splitlines() if len(word := line.strip().removeprefix("srun: ")) and " " not in word]


def _names(words: str) -> tuple[str, ...]:
    return () if words in ("ALL", "(null)", "") else tuple(words.split(","))


def _limit(words: str) -> int | None:
    return int(words) if words.isdigit() else None


def _whole(value: object) -> int | None:
    try:
        return int(float(str(value).rstrip("+")))
    except (ValueError, OverflowError):
        return None


def _megabytes(size: str) -> float | None:
    """Returns the MB of SLURM's 400M, 1.50G."""
    matched = re.fullmatch(r"([\d.]+)([KMGTP])", size)
    return float(matched[1]) * 1024.0 ** ("KMGTP".index(matched[2]) - 1) if matched else None


def _gpus(resources: str) -> dict[str, int]:
    """Returns the GPUs of `gpu:v100:2(S:0-1),fpga:1`, by kind."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", resources).split(","):
        if matched := GPU.fullmatch(word):
            found[matched[1] or ""] = found.get(matched[1] or "", 0) + int(matched[2] or 1)
    return found
