"""Checks of a machine before anything is paid for: what is there, what is not as it must be, and what to do about it.

`examine` goes from the login node as far as one can see from there, and by one short job, where it is asked for, to a
node. `refuse` is the part of it with which the workflow begins on a cluster.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from jaxrnn import lock, slurm
from jaxrnn.config import load
from jaxrnn.errors import JaxrnnError, listed, nearest, plural
from jaxrnn.results import read_json, write_json

OK, WARNING, FAULT, NOT_CHECKED = "ok", "warning", "fault", "not checked"
PLUGIN = "snakemake-executor-plugin-slurm"
# Its issue 473: with array jobs, slots leak and the run stalls. Seen in these versions; the newest is the last known.
STALLS = (2, 7), (2, 8, 0)
# JAX's plugins for GPUs. CUDA 13 knows none of less than this compute capability (P100: 6.0, V100: 7.0).
CUDA = ("cuda12", "cuda13")
CUDA13_LEAST = 7.5
OLD_GPUS = {"k80", "m40", "m60", "p4", "p40", "p100", "v100", "v100s"}
LOCAL_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "apfs", "f2fs")
ROOT = Path(__file__).resolve().parents[1]
PROBE_SECONDS = 180.0  # to load JAX from a slow disk, and compile a kernel
HDF5_SECONDS = 60.0
HDF5_LOCKING = "HDF5_USE_FILE_LOCKING"
FREE_MB, FREE_FILES = 5_000, 10_000  # below which a warning comes
NEARLY = 0.9  # of a quota
MOST_VERDICTS = 12  # that a start asks of SLURM, however many kinds of jobs there are
MOST_FAULTS = 10  # in one message
SWITCH = "JAXRNN_DOCTOR"  # 0: jobs are submitted unchecked
PARTITIONS = "SNAKEMAKE_SLURM_PARTITIONS"  # the plugin's own: a partitions.yaml where the profile names none
AS_SUBMITTED = "JAXRNN_AS_SUBMITTED"  # set: a dry run looks at the cluster, as a run does
# Of the job: what it may take, how often is looked, and how long its last file may take to show up on this host.
JOB_MINUTES, JOB_MEMORY_MB, RANKS = 10, 4_000, 2
LOOK_SECONDS, LATENCY_SECONDS = 2.0, 60.0
ASKED, FOUND, LOG, HELD = "asked.json", "found.json", "log.txt", "held"


@dataclass(frozen=True)
class Finding:
    """What a check found of a subject, its state, and what to do where that is not OK."""

    subject: str
    state: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.state:<12} {self.subject:<20} {self.found}"]
        if self.remedy:
            lines.append(f"{'':<12} {'':<20} -> {self.remedy}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Profile:
    """A Snakemake profile: its folder, the executor, and the settings of the SLURM plugin by their Python names."""

    folder: Path
    executor: str
    slurm: Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What is to be examined. job: also by a job; gpu: which has a GPU; wait_minutes: for it to start and end."""

    profile: Path
    experiment: Path | None
    results: Path
    job: bool = False
    gpu: bool = False
    wait_minutes: float = 15.0


def examine(wanted: Wanted, say: Callable[[str], None]) -> Iterator[Finding]:
    """Yields what is found, check by check. Raises JaxrnnError where the profile or the experiment's file is faulty."""
    profile = read_profile(wanted.profile)
    experiment = None if wanted.experiment is None else load(wanted.experiment)
    on_slurm = profile.executor == "slurm"
    yield from plugin(profile)
    cluster, reached = reach(profile)
    yield from reached
    asked, finding = requests(profile, wanted.experiment, as_submitted=cluster is not None)
    yield finding
    if cluster is not None:
        yield from suited(asked, profile.slurm, cluster)
    launcher = next((request.launcher for request in asked if request.launcher), "")
    yield from ranks_here(launcher, cluster is not None)
    yield from folder(wanted.results, shared=on_slurm and not wanted.job)
    yield from quotas(wanted.results)
    yield locks(wanted.results)
    yield hdf5(wanted.results)
    yield compiled(wanted.results)
    gpu = wanted.gpu or (experiment is not None and experiment.training.device == "gpu")
    kinds = kinds_of([completed(request, profile.slurm) for request in asked], cluster) if cluster else []
    yield from device(gpu, kinds, elsewhere=on_slurm)
    if not wanted.job:
        if on_slurm:
            yield Finding("nodes", NOT_CHECKED, "GPUs, ranks and the shared folder, as a job sees them", "add --job")
    elif cluster is None:
        yield Finding("nodes", NOT_CHECKED, "there is no SLURM that takes a job")
    else:
        request = next((request for request in asked if request.rule == "train"), slurm.Request("train"))
        yield from by_job(wanted, completed(request, profile.slurm), launcher, cluster, say)


def refuse(
    asked: Iterable[slurm.Request], settings: Mapping[str, Any], cluster: slurm.Cluster | None = None
) -> list[str]:
    """Returns remarks on jobs that are to be submitted; raises JaxrnnError, one message for all, where SLURM would
    refuse one, or let it wait for ever, or the workflow wait for it. settings: those of Snakemake's SLURM plugin.
    cluster: what SLURM says of itself, where it was asked already."""
    if os.environ.get(SWITCH) == "0":
        return [f"{SWITCH}=0: it was not looked whether the cluster runs these jobs"]
    stalls = arrays(settings.get("array_jobs"), importlib.metadata.version(PLUGIN))
    findings = [*([stalls] if stalls else []), *suited(asked, settings, cluster or slurm.cluster())]
    faults = [finding for finding in findings if finding.state == FAULT]
    if faults:
        lines = [f"  {fault.subject}: {fault.found}\n    -> {fault.remedy}" for fault in faults[:MOST_FAULTS]]
        if more := faults[MOST_FAULTS:]:
            lines.append(f"  and {len(more)} more")
        lines.append(f"If your site knows better, {SWITCH}=0 in the environment submits them all the same.")
        raise JaxrnnError("\n".join(["the cluster would not run these jobs, and nothing was submitted:", *lines]))
    told = [finding for finding in findings if finding.state == WARNING]
    return [f"{finding.subject}: {finding.found} -> {finding.remedy}" for finding in told]


def read_profile(folder: Path) -> Profile:
    """Returns what a profile's file says; raises JaxrnnError where it is not there, or no YAML."""
    file = folder / "config.yaml"
    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        there = sorted(str(path.parent) for path in Path().glob("slurm/**/config.yaml"))
        raise JaxrnnError(
            f"{file}: no such profile"
            + nearest(str(folder), there)
            + f"; expected a folder with a config.yaml, such as {listed(there) or 'slurm, where the checkout is'}"
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JaxrnnError(f"{file}: cannot be read ({error})")
    if not isinstance(found, dict):
        raise JaxrnnError(f"{file}: expected `key: value` lines, as in slurm/config.yaml")
    settings = {
        key.removeprefix("slurm-").replace("-", "_"): value
        for key, value in found.items()
        if isinstance(key, str) and key.startswith("slurm-")
    }
    # as Snakemake does: a file beside the profile, where there is one of this name
    if (beside := folder / str(settings.get("partition_config"))).exists():
        settings["partition_config"] = beside
    return Profile(folder, str(found.get("executor", "local")), settings)


def plugin(profile: Profile) -> Iterator[Finding]:
    """Yields whether Snakemake can submit at all, and whether its plugin's known fault is avoided."""
    if profile.executor != "slurm":
        found = f"{profile.folder} runs jobs by executor `{profile.executor}`"
        yield Finding("profile", OK, found)
        return
    try:
        version = importlib.metadata.version(PLUGIN)
    except importlib.metadata.PackageNotFoundError:
        found = f"{PLUGIN} is not installed beside Snakemake: `executor: slurm` is unknown without it"
        yield Finding("plugin", FAULT, found, f"pip install -c requirements.lock {PLUGIN}")
        return
    yield arrays(profile.slurm.get("array_jobs"), version) or Finding("plugin", OK, f"{PLUGIN} {version}")


def arrays(array_jobs: object, version: str) -> Finding | None:
    """Returns what is to be said of job arrays with a version of the plugin."""
    if not array_jobs:
        return None
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    remedy = "take `slurm-array-jobs` out of the profile: jobs are then submitted one by one, and none waits for others"
    found = f"`slurm-array-jobs: {array_jobs}` with {PLUGIN} {version}"
    if STALLS[0] <= numbers <= STALLS[1]:
        return Finding(
            "plugin", FAULT, f"{found} stalls (its issue 473): jobs are left out, and never submitted", remedy
        )
    if numbers > STALLS[1]:
        return Finding("plugin", WARNING, f"{found}, of which it is not known whether it stalls (issue 473)", remedy)
    return None


def requests(profile: Profile, experiment: Path | None, *, as_submitted: bool) -> tuple[list[slurm.Request], Finding]:
    """Returns what each job of the workflow asks for, from a dry run of it with this profile, and how that went.

    Without an experiment, the demo's jobs: rules ask for the same in all experiments, but for GPUs and cores.
    as_submitted: cut to what the cluster's partitions allow, at which the dry run then looks too.
    """
    file = experiment or ROOT / "config" / "demo.yaml"
    snakefile = ROOT / "workflow" / "asked.smk"
    if not snakefile.exists():
        return [], Finding("workflow", NOT_CHECKED, f"{snakefile} is not there: this is no checkout")
    with tempfile.TemporaryDirectory(prefix="jaxrnn-") as place:
        output = Path(place) / "asked.json"
        words = ["-m", "snakemake", "all", "--snakefile", str(snakefile), "--profile", str(profile.folder.absolute())]
        words += ["--configfile", str(file.absolute()), "--dry-run", "--forceall", "--quiet", "all"]
        if experiment is None:
            words += ["--directory", place]  # nothing is left behind where nothing is to be run
        environment = {"JAXRNN_ASKED": str(output)}
        if as_submitted:
            environment |= {AS_SUBMITTED: "1"}
            # a dry run has one core for each job if no more are named, and forgets what its profile says of SLURM
            words += ["--cores", "1000000"]
            if own := profile.slurm.get("partition_config"):
                environment |= {PARTITIONS: str(Path(own).absolute())}
        done = _run(sys.executable, *words, seconds=PROBE_SECONDS, environment=environment)
        if done.returncode or not output.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Using profile")]
            said = " ".join(line.strip() for line in lines[-6:]) or f"exit code {done.returncode}"
            command = f"snakemake --profile {profile.folder} --configfile {file} --dry-run"
            remedy = f"see what `{command}` says, and mend that first"
            return [], Finding("workflow", FAULT, f"its dry run fails: {said}", remedy)
        asked = [slurm.Request.of(rule, resources) for rule, resources in json.loads(output.read_text())]
    asked = list(dict.fromkeys(asked))
    rules = listed(list(dict.fromkeys(request.rule for request in asked)), limit=12)
    return asked, Finding("workflow", OK, f"its dry run with {profile.folder} and {file.name} is well: {rules}")


def reach(profile: Profile) -> tuple[slurm.Cluster | None, list[Finding]]:
    """Returns what SLURM says of itself, None where it says nothing, and whether it is there."""
    if profile.executor != "slurm":
        return None, [Finding("SLURM", NOT_CHECKED, f"{profile.folder} needs none")]
    try:
        cluster = slurm.cluster()
    except slurm.SlurmError as error:
        found, _, remedy = str(error).partition("; ")
        rest = Finding(
            "jobs on it", NOT_CHECKED, "partitions, accounts, limits and accounting: SLURM must answer first"
        )
        return None, [Finding("SLURM", FAULT, found, remedy or "ask the site's staff"), rest]
    names = listed([partition.name for partition in cluster.partitions])
    version = cluster.settings.get("SLURM_VERSION", "of unknown version")
    name = cluster.settings.get("ClusterName", "without a name")
    return cluster, [Finding("SLURM", OK, f"{version} answers for the cluster {name}; partitions {names}")]


def suited(asked: Iterable[slurm.Request], settings: Mapping[str, Any], cluster: slurm.Cluster) -> Iterator[Finding]:
    """Yields whether the cluster would run these jobs, and whether the workflow would learn of it."""
    yield accounting(settings, cluster)
    here = [completed(request, settings) for request in dict.fromkeys(asked) if not request.elsewhere]
    if not here:
        return
    allowed = associations({request.account for request in here} - {""}, cluster)
    findings: dict[Finding, list[str]] = {}
    asked_slurm = 0
    # those that ask for most are the first, for SLURM is asked of a few alone
    for request in sorted(here, key=lambda one: (one.minutes or 0, one.memory_mb or 0, one.gpus), reverse=True):
        unfit = list(misfits(request, cluster, allowed))
        if asked_slurm < MOST_VERDICTS and not any(finding.state == FAULT for finding in unfit):
            unfit += refused(request)
            asked_slurm += 1
        for finding in unfit or [fit(request, cluster)]:
            findings.setdefault(finding, []).append(request.rule)
    for finding, rules in findings.items():
        yield replace(finding, subject=listed(sorted(set(rules)), limit=12))


def completed(request: slurm.Request, settings: Mapping[str, Any]) -> slurm.Request:
    """Returns what a job asks for, with what the plugin's settings add to each."""
    given = [f"--{name}={settings[name]}" for name in ("qos", "reservation") if settings.get(name)]
    return replace(request, others=(*request.others, *given), partitions=request.partitions or choices(settings))


def choices(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the partitions of `slurm-partition-config`, of which the plugin chooses one for a job that names none."""
    file = settings.get("partition_config") or os.environ.get(PARTITIONS)
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        if file:
            # what is wrong with the file, the plugin tells before it submits
            return tuple(map(str, yaml.safe_load(Path(file).read_text())["partitions"]))
    return ()


def accounting(settings: Mapping[str, Any], cluster: slurm.Cluster) -> Finding:
    """Returns whether Snakemake can learn of the end of jobs in the way that it will ask."""
    asks = settings.get("status_command") or ("sacct" if shutil.which("sacct") else "squeue")
    if asks == "sacct" and not cluster.has_accounting:
        found = "this SLURM keeps no accounts, and Snakemake asks `sacct` for the state of jobs: it would wait for ever"
        return Finding("accounting", FAULT, found, "`slurm-status-command: squeue` in the profile")
    if asks == "sacct":
        try:
            slurm.ask_accounting()
        except slurm.SlurmError as error:
            remedy = "`slurm-status-command: squeue` in the profile, until the site's database is back"
            return Finding("accounting", FAULT, f"SLURM's database does not answer: {error.said or error}", remedy)
        return Finding("accounting", OK, "SLURM's database answers; the state of jobs is asked of `sacct`")
    kept = cluster.settings.get("MinJobAge", "").split()
    seconds = int(kept[0]) if kept and kept[0].isdigit() else 0
    looked = 3 * int(settings.get("init_seconds_before_status_checks") or 40)
    if seconds < looked:
        found = f"SLURM forgets ended jobs after {seconds} s (MinJobAge), and `squeue` is asked every {looked} s or so"
        remedy = "a smaller `slurm-init-seconds-before-status-checks`" + (
            ", or take `slurm-status-command: squeue` out: there is a database" if cluster.has_accounting else ""
        )
        return Finding("accounting", WARNING, found, f"{remedy}, in the profile")
    return Finding("accounting", OK, f"the state of jobs is asked of `squeue`, which knows ended ones for {seconds} s")


def associations(named: set[str], cluster: slurm.Cluster) -> list[str] | None:
    """Returns this user's accounts, where some are named and SLURM keeps them; None where it can't tell."""
    if not named or not cluster.has_accounting:
        return None
    with suppress(slurm.SlurmError):
        return slurm.accounts() or None
    return None


def misfits(request: slurm.Request, cluster: slurm.Cluster, accounts: Sequence[str] | None) -> Iterator[Finding]:
    """Yields why a job would be refused, or wait for ever. accounts: this user's, None where SLURM doesn't tell."""
    names = [partition.name for partition in cluster.partitions]
    for name in request.partitions:
        if name not in names:
            found = f"partition '{name}' is none of this cluster's ({listed(names, limit=20)}){nearest(name, names)}"
            yield _fault(found, "`slurm_partition` in the profile")
            return
    if request.account and accounts is not None and request.account.lower() not in map(str.lower, accounts):
        found = (
            f"account '{request.account}' is not one of yours ({listed(accounts)}){nearest(request.account, accounts)}"
        )
        yield _fault(found, "`slurm_account` in the profile")
        return
    if request.account and accounts is None:
        found = f"account '{request.account}': SLURM doesn't say whether it is yours"
        yield Finding("", WARNING, found, "compare it with what the site gave you")
    choice = cluster.choice(request)
    all_of = [list(_misfits_in(partition, request, cluster)) for partition in choice]
    if not choice:
        found = f"no partition is named, and the cluster has no default one, of {listed(names, limit=20)}"
        all_of = [[_fault(found, "`slurm_partition` under `default-resources` in the profile")]]
    # a job of several partitions runs where it fits
    for finding in min(all_of, key=lambda findings: sum(finding.state == FAULT for finding in findings)):
        # a site's own submit plugin may send a job elsewhere
        mild = cluster.redirects and not request.partitions
        yield replace(finding, state=WARNING) if mild else finding


def _misfits_in(partition: slurm.Partition, request: slurm.Request, cluster: slurm.Cluster) -> Iterator[Finding]:
    name = f"partition '{partition.name}'"
    if partition.state == "INACTIVE" or partition.state == "DRAIN":
        yield _fault(f"{name} takes no jobs now ({partition.state})", "another `slurm_partition`, or later")
    elif partition.state != "UP":
        found = f"{name} is {partition.state}: jobs wait until it is up"
        yield Finding("", WARNING, found, "another `slurm_partition`, or patience")
    if partition.accounts and request.account not in partition.accounts:
        who = f"account '{request.account}'" if request.account else "no account"
        found = f"{name} is for the accounts {listed(partition.accounts)}, and {who} is asked for"
        # yours by default may be one of them, or the one asked for may be a child of one: SLURM's verdict counts
        yield Finding("", WARNING, found, "`slurm_account` or `slurm_partition` in the profile")
    if request.account in partition.accounts_denied:
        found = f"{name} takes no jobs of account '{request.account}'"
        yield _fault(found, "`slurm_account` or `slurm_partition` in the profile")
    if partition.minutes is not None and (request.minutes or 0) > partition.minutes:
        longer = [
            one.name for one in cluster.partitions if one.minutes is None or one.minutes >= (request.minutes or 0)
        ]
        found = f"{request.minutes:g} minutes are asked for, and {name} allows {partition.minutes:g}"
        where = f", or a partition that allows it: {listed(longer)}" if longer else ""
        # a quality of service may allow more
        state = WARNING if any(option.startswith("--qos") for option in request.others) else FAULT
        yield Finding("", state, found, f"a smaller `runtime` (jobs go on from checkpoints){where}")
    nodes = partition.nodes
    memory = max((one.memory_mb for one in nodes), default=0)
    if partition.memory_mb is not None:
        memory = min(memory or partition.memory_mb, partition.memory_mb)
    if memory and (request.memory_mb or 0) > memory:
        found = f"{request.memory_mb:,} MB of memory are asked for, and a node of {name} gives at most {memory:,}"
        yield _fault(found, "a smaller `mem_mb` (or `mem_mb_per_cpu`)")
    cores = max((one.cores for one in nodes), default=0)
    if cores and request.cores > cores:
        found = f"{plural(request.cores, 'core')} a task are asked for, and a node of {name} has {cores}"
        yield _fault(found, "fewer under `set-threads` in the profile")
    total = sum(one.count * one.cores for one in nodes)
    if cores and request.tasks * request.cores > total and request.cores <= cores:
        found = f"{plural(request.tasks, 'task')} of {plural(request.cores, 'core')} are asked for, and {name} has "
        yield _fault(f"{found}{plural(total, 'core')} altogether", "fewer `tasks`")
    yield from _gpu_misfits(partition, request, cluster)
    each = [one.has_room(request) for one in nodes]
    if nodes and not any(each) and all(any(one.has_room(part) for one in nodes) for part in _parts(request)):
        found = f"no node of {name} has the memory, cores and GPUs that are asked for together"
        yield _fault(found, "less `mem_mb`, fewer cores or GPUs")
    elif nodes and any(each) and not any(fits and one.is_usable for fits, one in zip(each, nodes, strict=True)):
        found = f"the nodes of {name} that could run it are down, drained or reserved: jobs wait for them"
        yield Finding("", WARNING, found, "another `slurm_partition`, or patience")


def _gpu_misfits(partition: slurm.Partition, request: slurm.Request, cluster: slurm.Cluster) -> Iterator[Finding]:
    if not request.gpus:
        return
    most = max((one.gpus_of(request.gpu_kind) for one in partition.nodes), default=0)
    what = f"{plural(request.gpus, 'GPU')}{f' of kind {request.gpu_kind}' if request.gpu_kind else ''}"
    if request.gpus <= most * (request.nodes or 1):
        return
    kinds = [kind or "(no kind named)" for kind in partition.gpu_kinds]
    there = [
        one.name
        for one in cluster.partitions
        if any(nodes.gpus_of(request.gpu_kind) >= request.gpus for nodes in one.nodes)
    ]
    if not kinds:
        found = f"{what} is asked for, and partition '{partition.name}' has none"
    elif not most:
        found = f"{what} is asked for, and partition '{partition.name}' has {listed(kinds)}"
        found += nearest(request.gpu_kind, partition.gpu_kinds)
    else:
        found = f"{what} are asked for, and a node of partition '{partition.name}' has at most {most}"
    where = f"a partition that has it ({listed(there)})" if there else "a kind and number that are there"
    yield _fault(found, f"{where}, by `slurm_partition`, `gpu` or `gpu_model`; or `training.device: cpu`")


def _parts(request: slurm.Request) -> list[slurm.Request]:
    nothing = replace(request, memory_mb=None, cores=1, gpus=0)
    return [
        replace(nothing, memory_mb=request.memory_mb),
        replace(nothing, cores=request.cores),
        replace(nothing, gpus=request.gpus),
    ]


def _fault(found: str, remedy: str) -> Finding:
    return Finding("", FAULT, found, remedy)


def refused(request: slurm.Request) -> list[Finding]:
    """Returns what SLURM itself has against a job, of which the limits that it tells say nothing."""
    try:
        said = slurm.refusal(request)
    except slurm.SlurmError as error:
        return [Finding("", WARNING, f"SLURM was not asked whether it takes the job: {error}", "try again")]
    if not said:
        return []
    # without its options, which differ: what holds for many rules is said once
    if any(words in said for words in slurm.PASSING):
        return [Finding("", WARNING, f"SLURM would not start it now: {said}", "it may pass; or ask")]
    return [_fault(f"SLURM refuses it: {said}", "the option that it names, in the profile")]


def fit(request: slurm.Request, cluster: slurm.Cluster) -> Finding:
    """Returns that a job fits, and what into."""
    where = ", ".join(partition.name for partition in cluster.choice(request))
    return Finding("", OK, f"SLURM would take it, in partition {where}")


def kinds_of(asked: Iterable[slurm.Request], cluster: slurm.Cluster) -> list[str]:
    """Returns the kinds of GPU that the jobs that ask for one could get."""
    found: set[str] = set()
    for request in asked:
        if request.gpus:
            found |= {
                kind for one in cluster.choice(request) for kind in one.gpu_kinds if request.gpu_kind in ("", kind)
            }
    return sorted(found)


def ranks_here(launcher: str, has_slurm: bool) -> Iterator[Finding]:
    """Yields whether mpi4py finds its library, and whether that one fits the launcher, as far as names tell."""
    done = _run(sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())", seconds=60)
    library = done.stdout.strip().splitlines()[0].strip("\0 ") if done.stdout.strip() else ""
    if done.returncode or not library:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        state = FAULT if launcher else WARNING
        remedy = "load the site's MPI module, or `pip install 'jaxrnn[mpi]'`; one process needs none"
        yield Finding("MPI", state, f"mpi4py finds no MPI library ({reason})", remedy)
        return
    if not launcher:
        yield Finding("MPI", OK, f"{library}; ingest is one process in this profile")
        return
    program = shlex.split(launcher)[0]
    if not shutil.which(program):
        remedy = "the launcher of your MPI library, as `mpi` under `set-resources: ingest` in the profile"
        yield Finding("MPI", FAULT, f"`{launcher}` starts ranks, and there is no `{program}` on PATH", remedy)
        return
    if finding := unfit_launcher(launcher, library, slurm.launchers() if has_slurm and program == "srun" else None):
        yield finding
    else:
        yield Finding("MPI", OK, f"{library}, started by `{launcher}`")


def unfit_launcher(launcher: str, library: str, known: Sequence[str] | None) -> Finding | None:
    """Returns why ranks would each think that they are alone, as far as names tell. known: srun's kinds of MPI."""
    wanted = next((word.removeprefix("--mpi=") for word in shlex.split(launcher) if word.startswith("--mpi=")), None)
    key = "`mpi` under `set-resources: ingest` in the profile"
    if wanted and known and wanted not in known:
        return Finding("MPI", FAULT, f"this srun knows no --mpi={wanted}, but {listed(known)}", key)
    fits = "pmix" if "Open MPI" in library else "pmi2"
    if wanted in ("pmi2", "pmix") and wanted != fits and ("Open MPI" in library or "MPICH" in library):
        found = f"`{launcher}` with {library}: each rank would think that it is alone"
        return Finding("MPI", WARNING, found, f"srun --mpi={fits}, as {key}; --job tries it")
    return None


def folder(results: Path, *, shared: bool) -> Iterator[Finding]:
    """Yields whether results can be written, on what, and how much room there is."""
    try:
        with lock.made(results), tempfile.NamedTemporaryFile(dir=results, prefix="doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            room = os.statvfs(results)
    except OSError as error:
        reason = error.strerror or error
        yield Finding("results folder", FAULT, f"{results.absolute()} cannot be written ({reason})", "another folder")
        return
    source, kind = mount_of(results)
    found = f"{results.absolute()}, on {source} ({kind})"
    if shared and kind in LOCAL_FILE_SYSTEMS:
        remedy = "nodes must see it at the same path: --job tells; else work on the site's shared file system"
        yield Finding("results folder", WARNING, f"{found}: a disk of this machine alone, by its kind", remedy)
    else:
        yield Finding("results folder", OK, f"{found}, can be written")
    free_mb, files = room.f_bavail * room.f_frsize / 1e6, room.f_favail if room.f_files else None
    found = f"{free_mb / 1e3:,.0f} GB free" + (f", for {files:,} more files" if files is not None else "")
    scarce = free_mb < FREE_MB or (files is not None and files < FREE_FILES)
    yield Finding("space", WARNING if scarce else OK, found, "make room before you start" if scarce else "")


def mount_of(path: Path) -> tuple[str, str]:
    """Returns what a path's file system is mounted from, and its kind."""
    with suppress(OSError):
        here, best = str(path.resolve()), ("", "", "unknown kind")
        for line in Path("/proc/mounts").read_text().splitlines():
            source, point, kind, *_ = (word.replace("\\040", " ") for word in line.split())
            inside = here == point or here.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[1]):
                best = source, point, kind
        return best[0], best[2]
    return "a disk", "unknown kind"


def quotas(results: Path) -> Iterator[Finding]:
    """Yields how much is used of the quotas that hold for what is written here, where `lfs quota` or `quota` tells: of
    this user, on Lustre also of the group and the project."""
    place = results if results.is_dir() else Path()
    source, kind = mount_of(place)
    if kind == "lustre" and shutil.which("lfs"):
        asked = [(of, ["lfs", "quota", *words, str(place.resolve())]) for of, words in _holders(place)]
    elif shutil.which("quota"):
        asked = [("user", ["quota", "-w", "-p", "-u"])]
    else:
        yield Finding("quota", NOT_CHECKED, "no `quota` here; free space is above", "the site's own command may tell")
        return
    found: list[tuple[str, Quota]] = []
    for of, words in asked:
        # it fails where a quota is exceeded
        rows = quotas_in(_run(*words, seconds=20).stdout)
        own = [row for row in rows if kind == "lustre" or row.place == source]
        found += [(of, row) for row in own or rows]
    if not found:
        yield Finding("quota", OK, f"`{asked[0][1][0]}` tells of none")
    for of, row in found:
        yield row.judged(of)


def _holders(place: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields in whose quotas a new file of a folder on Lustre counts, and the options of `lfs quota` for each."""
    status = place.stat()
    group = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()
    yield "user", ["-u", str(os.getuid())]
    yield f"group {group}", ["-g", str(group)]
    # <project> <P, where new files inherit it, or -> <folder>
    words = _run("lfs", "project", "-d", str(place.resolve()), seconds=20).stdout.split()
    if words and words[0].isdigit() and words[0] != "0":
        yield f"project {words[0]}", ["-p", words[0]]


@dataclass(frozen=True)
class Quota:
    """Of one file system: kB and files used, and the least limit of each, 0 for none."""

    place: str
    kb: int
    most_kb: int
    files: int
    most_files: int

    def judged(self, of: str) -> Finding:
        """Returns what is to be said of it. of: whose it is."""
        parts = (self.kb / 1e6, self.most_kb / 1e6, "GB"), (self.files, self.most_files, "files")
        shares = [used / most for used, most, _ in parts if most]
        found = ", ".join(f"{used:,.0f} of {most:,.0f} {unit}" for used, most, unit in parts if most)
        if not shares:
            return Finding("quota", OK, f"{self.place}, {of}: none set")
        state = FAULT if max(shares) >= 1 else WARNING if max(shares) > NEARLY else OK
        remedy = "" if state == OK else "remove what is not needed, or ask for more: jobs fail where it ends"
        return Finding("quota", state, f"{self.place}, {of}: {found} used", remedy)


def quotas_in(shown: str) -> list[Quota]:
    """Returns the rows of `quota -w -p` and `lfs quota`: file system; used, quota, limit, grace in kB; and of files."""
    found, before = [], ""
    for line in shown.splitlines():
        words = f"{before} {line}".split()
        before = ""
        if len(words) == 1 and "/" in words[0]:
            before = words[0]  # a long name stands on a line of its own
        elif len(words) >= 8:
            values = [word.strip("*[]") for word in words[1:]]
            numbers = [values[place] for place in (0, 1, 2, 4, 5, 6)]
            if all(number.isdigit() for number in numbers):
                kb, soft, hard, files, soft_files, hard_files = map(int, numbers)
                found.append(Quota(words[0], kb, _least(soft, hard), files, _least(soft_files, hard_files)))
    return found


def _least(*limits: int) -> int:
    return min((limit for limit in limits if limit), default=0)


def locks(results: Path) -> Finding:
    """Returns whether a folder under `results` can be held by one run alone, and by which kind of lock."""
    try:
        with lock.made(results), tempfile.TemporaryDirectory(dir=results, prefix="doctor-") as place:
            has_flock = _flocks(Path(place) / "flock")
            with lock.held(Path(place) / HELD):
                if not _is_held(Path(place) / HELD):
                    remedy = "work on another file system; never start two runs in one folder here"
                    return Finding("locks", FAULT, "a second run can take the lock that a first one holds", remedy)
    except OSError as error:
        return Finding("locks", NOT_CHECKED, f"nothing can be written in {results} ({error.strerror or error})")
    if has_flock:
        return Finding("locks", OK, "the kernel's (flock), and a file that says who holds it")
    found = f"no flock on this file system: a file says who holds it, and is believed for {lock.DEAD_SECONDS:g} s"
    return Finding("locks", WARNING, found, "mount option `flock` on Lustre; else wait so long after a run was killed")


def _flocks(path: Path) -> bool:
    """Whether the file system has the kernel's locks, and this one is free."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _is_held(place: Path) -> bool:
    try:
        with lock.held(place):
            return False
    except JaxrnnError:
        return True


def hdf5(results: Path) -> Finding:
    """Returns whether HDF5, which locks each file that it opens, can write and read one under `results`."""
    unlocked = {HDF5_LOCKING: "FALSE"}
    try:
        with lock.made(results), tempfile.TemporaryDirectory(dir=results, prefix="doctor-") as place:
            if not (reason := _hdf5_fails(place)):
                return Finding("HDF5", OK, "a small file is written and read")
            without_locks = _hdf5_fails(place, unlocked)
    except OSError as error:
        return Finding("HDF5", NOT_CHECKED, f"nothing can be written in {results} ({error.strerror or error})")
    if without_locks:
        remedy = "another folder, or the site's staff; without locks it fails too"
        return Finding("HDF5", FAULT, f"no file can be written and read: {reason}", remedy)
    found = f"its locks don't work on this file system, without them a file is written and read: {reason}"
    return Finding("HDF5", FAULT, found, f"export {HDF5_LOCKING}=FALSE, before you submit: jobs inherit it")


def _hdf5_fails(place: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns why a file can't be written and read in a folder, "" where it can."""
    # in a process of its own: HDF5 reads its environment once, and a lock may never be given
    code = "import sys; from jaxrnn import doctor; doctor.keep_table(sys.argv[1])"
    done = _run(sys.executable, "-c", code, place, seconds=HDF5_SECONDS, environment=environment)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].strip() if done.returncode else ""


def keep_table(folder: str) -> None:
    """Writes a small HDF5 file there and reads it; ends with one message where that fails."""
    import pandas as pd

    from jaxrnn import tables

    path, given = Path(folder) / "table.h5", pd.DataFrame({"id": ["a", "b"], "probability": [0.25, 0.75]})
    try:
        with tables.writing(path, {}) as write:
            write(given)
        found = tables.read(path)
    except (JaxrnnError, OSError) as error:
        sys.exit(str(error))
    if not found.equals(given):
        sys.exit("what is read is not what was written")


def compiled(results: Path) -> Finding:
    """Returns whether compiled programs can be kept: for other jobs, and by a job meanwhile on its node's disk."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    place = Path(given) if given else results / "compiled"
    for where, remedy in ((place, "its permissions"), (Path(tempfile.gettempdir()), "TMPDIR, a folder on a disk")):
        try:
            with lock.made(where), tempfile.NamedTemporaryFile(dir=where, prefix=".doctor-") as file:
                file.write(bytes(100_000))
                file.flush()
        except OSError as error:
            found = f"{where} cannot be written ({error.strerror or error}): every job compiles all its programs anew"
            return Finding("compile cache", WARNING, found, remedy)
    return Finding("compile cache", OK, f"{place}, and {tempfile.gettempdir()} while a job runs")


def device(gpu: bool, kinds: Sequence[str], *, elsewhere: bool) -> list[Finding]:
    """Returns what JAX finds on this machine, and whether recurrent layers run in their own kernel on its CPU.

    gpu: whether one is wanted. kinds: of the GPUs that jobs get. elsewhere: jobs run on other machines.
    """
    code = "import json; from jaxrnn import doctor; print(json.dumps(doctor.probe()))"
    done = _run(sys.executable, "-c", code, seconds=PROBE_SECONDS)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [
            Finding("JAX", FAULT, f"it does not start: {said}", "install it anew: pip install -c requirements.lock")
        ]
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return [judged_gpu(gpu, seen, cards(), kinds, elsewhere=elsewhere), *judged_kernel(gpu, seen)]


def probe() -> dict[str, Any]:
    """Returns what JAX finds here; it is called in a process of its own, which a faulty driver may end or hold up."""
    import jax

    from jaxrnn import native

    devices = jax.devices()
    return {
        "jax": jax.__version__,
        "platform": devices[0].platform,
        "devices": sorted({f"{one.device_kind}" for one in devices}),
        "count": len(devices),
        "version": " ".join(devices[0].client.platform_version.split()),
        "plugins": [name for name in CUDA if _installed(f"jax-{name}-plugin")],
        "kernel": native.absent() if devices[0].platform == "cpu" else None,
    }


def _installed(package: str) -> bool:
    with suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def cards() -> list[list[str]]:
    """Returns name, compute capability and driver of each GPU that the driver sees; [] where there is none."""
    if not shutil.which("nvidia-smi"):
        return []
    done = _run("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader", seconds=30)
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 3] if not done.returncode else []


def judged_gpu(
    gpu: bool, seen: Mapping[str, Any], there: Sequence[Sequence[str]], kinds: Sequence[str], *, elsewhere: bool
) -> Finding:
    """Returns what is to be said of the GPU that JAX sees, or doesn't. there: what the driver sees (`cards`)."""
    plugins: list[str] = seen["plugins"]
    driver = ", ".join(
        sorted({f"{name} (compute capability {power}, driver {number})" for name, power, number in there})
    )
    told = f"JAX {seen['jax']} finds {seen['platform']} ({', '.join(seen['devices'])}, {seen['count']})"
    install = "pip install -c requirements.lock -e '.[cuda12]'"
    old = [row[0] for row in there if _number(row[1]) < CUDA13_LEAST]
    old += [kind for kind in kinds if OLD_GPUS & set(re.split(r"[\W_]+", kind.lower()))]
    if old and plugins == ["cuda13"]:
        found = f"{listed(old)} is older than what CUDA 13 knows, and JAX has its plugin for CUDA 13"
        return Finding("GPU", FAULT, found, f"pip uninstall jax-cuda13-plugin jax-cuda13-pjrt; {install}")
    if seen["platform"] == "gpu":
        # JAX tells CUDA 12.9 as `cuda 12090`
        number = re.search(r"cuda (\d+)", seen["version"])
        cuda = f"CUDA {int(number[1]) // 1000}.{int(number[1]) % 1000 // 10}" if number else seen["version"]
        return Finding("GPU", OK, f"{told}, {cuda}; {driver or 'nvidia-smi says nothing'}")
    if there:
        found = f"{told}, and the driver has {driver}"
        remedy = install if not plugins else "a driver that is new enough for it, or the other of cuda12 and cuda13"
        return Finding("GPU", FAULT if gpu and not elsewhere else WARNING, found, remedy)
    if not gpu:
        return Finding("GPU", OK, f"{told}; none is asked for")
    if not plugins:
        return Finding("GPU", FAULT, f"a GPU is asked for, and {told}: it has no plugin for one", install)
    if elsewhere:
        found = f"none on this machine; JAX {seen['jax']} has its plugin for {listed(plugins)}"
        return Finding("GPU", NOT_CHECKED, found, "a job sees one: --job --gpu")
    return Finding(
        "GPU", FAULT, f"a GPU is asked for, and {told}", "ask the scheduler for one, or its driver is broken"
    )


def judged_kernel(gpu: bool, seen: Mapping[str, Any]) -> list[Finding]:
    if gpu or seen["platform"] != "cpu":
        return []
    if seen["kernel"] is None:
        return [Finding("C++ compiler", OK, "recurrent layers run in their own kernel on this CPU")]
    found = f"recurrent layers run without their own kernel, several times slower: {seen['kernel']}"
    return [Finding("C++ compiler", WARNING, found, "load a module with g++, or name one in CXX, before you submit")]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0


def by_job(
    wanted: Wanted, request: slurm.Request, launcher: str, cluster: slurm.Cluster, say: Callable[[str], None]
) -> Iterator[Finding]:
    """Yields what one short job, in the training jobs' partition, found on its node, and where ranks can be started on
    two, between these. It is cancelled where it does not end in time, or this process is interrupted."""
    results = wanted.results.resolve()
    with ExitStack() as stack:
        stack.enter_context(_interruptible())
        stack.enter_context(lock.made(results))
        # what the job still writes when it is cancelled must not stop the removal
        made = tempfile.TemporaryDirectory(dir=results, prefix="doctor-", ignore_cleanup_errors=True)
        place = Path(stack.enter_context(made))
        small = replace(
            request,
            minutes=JOB_MINUTES,
            memory_mb=min(JOB_MEMORY_MB, request.memory_mb or JOB_MEMORY_MB),
            cores=1,
            tasks=RANKS if launcher else 1,
            nodes=None,
            gpus=(request.gpus or 1) if wanted.gpu else 0,
        )
        alone = "" if not launcher else one_node(launcher, small, cluster)
        if launcher and not alone:
            # SLURM gives no node of such a job without a GPU
            small = replace(small, nodes=RANKS, gpus=max(small.gpus, RANKS) if wanted.gpu else 0)
        asked = {"gpu": wanted.gpu, "launcher": launcher, "alone": alone, "host": platform.node()}
        write_json(place / ASKED, asked)
        command = [sys.executable, "-m", "jaxrnn", "doctor", "--on-node", str(place)]
        script = f"#!/bin/sh\nexec {shlex.join(command)}\n"
        stack.enter_context(lock.held(place / HELD))
        yield from _submitted(small, script, place, wanted.wait_minutes, say)


def one_node(launcher: str, request: slurm.Request, cluster: slurm.Cluster) -> str:
    """Returns why ranks are tried on one node alone; "" where a node for each can be had."""
    if Path(shlex.split(launcher)[0]).name != "srun":
        return f"`{shlex.split(launcher)[0]}` may not reach others"
    each = replace(request, gpus=min(request.gpus, 1))
    counts = {
        partition.name: sum(nodes.count for nodes in partition.nodes if nodes.is_usable and nodes.has_room(each))
        for partition in cluster.choice(request)
    }
    if max(counts.values(), default=0) >= RANKS:
        return ""
    return f"partition {listed([*counts])} has no second one that could take this job"


def _submitted(
    request: slurm.Request, script: str, place: Path, wait_minutes: float, say: Callable[[str], None]
) -> Iterator[Finding]:
    name, ended = f"jaxrnn-{place.name}", False
    try:
        try:
            job = slurm.submit(request, script, name=name, log=str(place / LOG))
            say(f"job {job} is submitted: sbatch {shlex.join(request.options)}")
            lines = _awaited(job, place, wait_minutes, say)
            ended = True
        except slurm.SlurmError as error:
            lines = [Finding("job", FAULT, str(error), "mend what is named here, then --job again")]
        yield from lines
    finally:
        if not ended or not (place / FOUND).exists():
            # by its name: an interruption may come before its number is known
            with suppress(slurm.SlurmError):
                slurm.cancel(name)


def _awaited(job: int, place: Path, wait_minutes: float, say: Callable[[str], None]) -> list[Finding]:
    """Returns what the job found, or why it found nothing."""
    began, told, gone = time.monotonic(), "", 0.0
    while not (place / FOUND).exists():
        try:
            now, reason = slurm.state(job)
        except slurm.SlurmError as error:  # the job may run all the same
            now, reason = told or "PENDING", str(error)
        if now in slurm.ACTIVE:
            if now != told:
                say(f"job {job}: {now.lower()}{f' ({reason})' if reason not in ('None', '') else ''}")
            told = now
            if time.monotonic() - began > wait_minutes * 60:
                found = f"job {job} is {now.lower()} ({reason}) after {wait_minutes:g} minutes, and is cancelled"
                return [Finding("job", WARNING, found, "a longer --wait, or a partition with a shorter queue")]
        else:
            gone = gone or time.monotonic()
            if now not in ("COMPLETED", "") or time.monotonic() - gone > LATENCY_SECONDS:
                return [_unheard(job, now or "gone", place)]
        time.sleep(min(LOOK_SECONDS, 0.2 + (time.monotonic() - began) / 10))
    return [Finding(**values) for values in read_json(place / FOUND, "jaxrnn doctor --job")["findings"]]


def _unheard(job: int, state: str, place: Path) -> Finding:
    with suppress(OSError):
        if lines := (place / LOG).read_text(errors="replace").strip().splitlines():
            found = f"job {job} ended ({state.lower()}): {' '.join(lines[-3:])}"
            return Finding("job", FAULT, found, "this Python must run on the nodes as it does here")
    found = f"job {job} ended ({state.lower()}), and left nothing in {place.parent}"
    return Finding(
        "job", FAULT, found, "the folder must lie on a file system that nodes see at the same path, writable"
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets TERM and HUP end the block in order, as Ctrl-C does."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_node(place: Path) -> None:
    """Writes what a job finds on its node, for `by_job` to read."""
    asked = read_json(place / ASKED, "jaxrnn doctor --job")
    node = node_name()
    findings = [
        Finding("shared folder", OK, f"{node} sees and writes {place.parent}"),
        _lock_across(place, asked["host"]),
        hdf5(place.parent),
        compiled(place.parent),
        *device(asked["gpu"], [], elsewhere=False),
    ]
    if asked["launcher"]:
        findings.append(ranks_together(asked["launcher"], asked["alone"]))
    told = [replace(finding, subject=f"{node}: {finding.subject}") for finding in findings]
    write_json(place / FOUND, {"findings": [asdict(finding) for finding in told]})


def _lock_across(place: Path, host: str) -> Finding:
    """Returns whether a node is refused what the login node holds."""
    if not _is_held(place / HELD):
        found = f"a node can take the lock that {host} holds: two runs could work in one folder"
        return Finding("locks", FAULT, found, "work on another file system, or never start two runs")
    if _flocks(place / HELD / lock.NAME):
        found = "the kernel's do not reach other hosts; a file that says who holds it does"
        return Finding("locks", OK, f"{found}, and is believed for {lock.DEAD_SECONDS:g} s after a run was killed")
    return Finding("locks", OK, f"what {host} holds is refused here")


def ranks_together(launcher: str, alone: str) -> Finding:
    """Returns whether ranks that a launcher starts know of each other, and on which nodes. alone: why they are on one,
    "" where each has a node of its own."""
    code = f"from jaxrnn import doctor; doctor.meet({RANKS})"
    words = [*shlex.split(launcher), "-n", str(RANKS), sys.executable, "-c", code]
    done = _run(*words, seconds=PROBE_SECONDS)
    said = [line for line in done.stdout.splitlines() if line.startswith("met ")]
    if done.returncode == 0 and len(said) == 1 and said[0].startswith(f"met {RANKS} on "):
        nodes = said[0].removeprefix(f"met {RANKS} on ").split()
        found = f"{RANKS} ranks started by `{launcher}` see each other"
        if len(nodes) > 1:
            return Finding("MPI", OK, f"{found}, on {' and '.join(nodes)}")
        if alone:
            return Finding("MPI", OK, f"{found}, on {nodes[0]}; it was not tried whether nodes do: {alone}")
        found += f", but on {nodes[0]} alone, of a job on {RANKS} nodes: whether these do is not known"
        return Finding("MPI", WARNING, found, "look at the launcher's options")
    reason = " ".join((done.stderr or done.stdout).split())[-600:] or f"exit code {done.returncode}"
    remedy = "srun --mpi=pmi2 for MPICH and Intel MPI, --mpi=pmix for Open MPI, as `mpi` of `ingest` in the profile"
    return Finding("MPI", FAULT, f"{RANKS} ranks by `{launcher}` do not work together: {reason}", remedy)


def meet(ranks: int) -> None:
    """Prints, once, how many ranks know of each other, and on which nodes; ends with one message where it is another
    number."""
    from jaxrnn import ranks as mpi

    try:
        place = mpi.join(ranks)
        met = place.each(lambda: (place.rank, node_name()))
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: {error}")
    if place.rank == 0:
        print(f"met {len({rank for rank, _ in met})} on {' '.join(dict.fromkeys(node for _, node in met))}")


def node_name() -> str:
    """Returns what SLURM calls this machine, or its own name outside of a job."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _run(*words: str, seconds: float, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Returns how a program ended; one that is not there or hangs fails, and says so."""
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]}: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"{words[0]} did not end within {seconds:g} s")
