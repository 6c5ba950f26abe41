"""`jaxrnn doctor`, and the refusal of jobs that a cluster would not run: on a real SLURM, without one, and what SLURM
prints."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import slurm_cluster
from commands import jaxrnn, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from workflows import CHECKOUT, Workflow

from jaxrnn import doctor, slurm
from jaxrnn.doctor import FAULT, NOT_CHECKED, OK, WARNING, Finding
from jaxrnn.errors import JaxrnnError

PROFILE = "slurm/testcluster"
# SLURM 22.05.8: `scontrol show partition --oneliner`, and sinfo with the columns of `slurm.partitions`.
SHOWN = """\
PartitionName=main AllowGroups=ALL AllowAccounts=astro,physics AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
DefaultTime=00:05:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=00:10:00 \
MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=node[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO \
OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=2 SelectTypeParameters=NONE \
JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=2000 TRES=cpu=8,mem=125G,node=2,billing=8
PartitionName=long AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A \
DefaultTime=00:05:00 DisableRootJobs=NO MaxNodes=UNLIMITED MaxTime=7-00:00:00 MinNodes=0 State=UP TotalCPUs=8 \
TotalNodes=3 MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=125G,node=2,billing=8
"""
NODES = """\
main|2|4|64000|gpu:2|idle
long|2|4|64000|gpu:v100:2(S:0-1),fpga:1|mixed
long|1|16|8000|(null)|down*
"""
CLUSTER = slurm.Cluster(
    slurm.partitions_in(SHOWN, NODES),
    slurm.settings_in("ClusterName             = test\nAccountingStorageType   = accounting_storage/slurmdbd\n"),
)
LONG = slurm.Request("train", partitions=("long",), minutes=600, memory_mb=8000)


def faults(request: slurm.Request, cluster: slurm.Cluster = CLUSTER, accounts: list[str] | None = None) -> str:
    """Returns what would keep a job from running, in one text."""
    found = doctor.misfits(request, cluster, accounts)
    return "\n".join(f"{finding.found} -> {finding.remedy}" for finding in found if finding.state == FAULT)


def test_what_slurm_prints_of_partitions_is_read_whole() -> None:
    main, long = CLUSTER.partitions
    assert (main.name, main.state, main.is_default, main.minutes, main.memory_mb) == ("main", "UP", True, 10, 2000)
    assert (main.accounts, main.accounts_denied) == (("astro", "physics"), ())
    assert main.nodes == (slurm.Nodes(2, 4, 64000, {"": 2}, True),)
    assert (long.is_default, long.minutes, long.memory_mb, long.accounts) == (False, 7 * 1440, None, ())
    assert [nodes.is_usable for nodes in long.nodes] == [True, False]
    assert long.gpu_kinds == ["v100"]
    assert CLUSTER.has_accounting


@pytest.mark.parametrize(
    ("state", "usable"),
    [("idle", True), ("mixed-", True), ("idle~", True), ("idle*", False), ("down", False), ("drained$", False)],
)
def test_nodes_that_take_no_job_now_are_known(state: str, usable: bool) -> None:
    _, long = slurm.partitions_in(SHOWN, f"long|1|16|8000|(null)|{state}")
    assert long.nodes[0].is_usable == usable
    told = list(doctor.misfits(LONG, slurm.Cluster((long,), {}), None))
    assert [finding.state for finding in told] == ([] if usable else [WARNING])


@pytest.mark.parametrize(
    ("asks", "cluster", "state", "said"),
    [
        ("sacct", {}, FAULT, "it would wait for ever"),
        ("squeue", {"MinJobAge": "300 sec"}, OK, "for 300 s"),
        ("squeue", {"MinJobAge": "30 sec"}, WARNING, "forgets ended jobs after 30 s"),
    ],
)
def test_how_the_end_of_jobs_is_learnt_is_checked(asks: str, cluster: dict[str, str], state: str, said: str) -> None:
    found = doctor.accounting({"status_command": asks}, slurm.Cluster((), cluster))
    assert (found.state, said in found.found) == (state, True)


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("1-00:00:00", 1440), ("00:10:00", 10), ("00:00:30", 0.5), ("UNLIMITED", None), ("INFINITE", None), ("n/a", None)],
)
def test_times_of_slurm_are_minutes(time: str, minutes: float | None) -> None:
    seconds = slurm.seconds_in(time)
    assert (None if seconds is None else seconds / 60) == minutes


@pytest.mark.parametrize(
    "resources",
    [
        {"runtime": 480, "mem_mb": 8000, "_cores": 2},
        {"runtime": 60, "mem_mb": 8000, "_cores": 1, "tasks": 16, "mpi": "srun --mpi=pmi2"},
        {"runtime": 60, "mem_mb_per_cpu": 500, "_cores": 4, "slurm_partition": "long", "slurm_account": "astro"},
        {"runtime": 60, "mem_mb": 100, "_cores": 1, "gpu": 2, "gpu_model": "v100"},
        {"runtime": 60, "mem_mb": 100, "_cores": 1, "gpu": 1},
        {"runtime": 60, "mem_mb": 100, "_cores": 1, "gres": "gpu:v100:1", "cpus_per_task": 3},
        {"runtime": 60, "mem_mb": 100, "_cores": 1, "constraint": "skylake", "qos": "high", "nodes": 2},
    ],
)
def test_a_request_is_what_snakemakes_plugin_would_submit(resources: dict[str, Any]) -> None:
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    given = type("Resources", (dict,), {"__getattr__": lambda self, name: self[name]})(resources)
    job = SimpleNamespace(resources=given, threads=resources["_cores"])
    params = {"run_uuid": "x", "slurm_logfile": "x", "comment_str": "x", "workdir": None}
    params |= {
        key: f" {option} {resources[f'slurm_{key}']}" if f"slurm_{key}" in resources else ""
        for key, option in (("account", "-A"), ("partition", "-p"))
    }
    theirs = _options(get_submit_command(job, params) + set_gres_string(job))  # type: ignore[arg-type]
    for name in ("--job-name", "--output", "--export", "--comment", "--parsable"):
        theirs.pop(name)
    ours = _options(shlex.join(["sbatch", *slurm.Request.of("train", resources).options]))
    if "--mem-per-cpu" in theirs:
        theirs["--mem"] = str(int(theirs.pop("--mem-per-cpu")) * resources["_cores"])
    if "--gres" in theirs:
        theirs["--gpus"] = theirs.pop("--gres").removeprefix("gpu:")
    theirs.setdefault("--ntasks", "1")  # with GPUs it leaves out what is SLURM's default
    assert ours == theirs


def _options(command: str) -> dict[str, str]:
    long = {"-t": "--time", "-p": "--partition", "-A": "--account", "-C": "--constraint"}
    found: dict[str, str] = {}
    words = iter(shlex.split(command)[1:])
    for word in words:
        name, has_value, value = word.partition("=")
        flag = name in ("--parsable",)
        found[long.get(name, name)] = value if has_value else "" if flag else next(words)
    return found


def test_a_job_that_fits_is_not_objected_to() -> None:
    assert list(doctor.misfits(LONG, CLUSTER, None)) == []
    assert list(doctor.misfits(replace(LONG, gpus=2, gpu_kind="v100", cores=4), CLUSTER, None)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partitions": ("lnog",)}, ["'lnog'", "main, long", "did you mean 'long'", "`slurm_partition`"]),
        ({"account": "astor"}, ["'astor'", "not one of yours (astro)", "did you mean 'astro'", "`slurm_account`"]),
        ({"minutes": 20000}, ["20000 minutes", "'long' allows 10080", "`runtime`"]),
        ({"memory_mb": 64001}, ["64,001 MB", "at most 64,000", "`mem_mb`"]),
        ({"cores": 17}, ["17 cores", "has 16", "`set-threads`"]),
        ({"tasks": 25}, ["25 tasks of 1 core", "24 cores altogether", "`tasks`"]),
        ({"gpus": 1, "gpu_kind": "a100"}, ["kind a100", "has v100", "training.device: cpu"]),
        ({"gpus": 3}, ["3 GPUs", "at most 2"]),
        ({"memory_mb": 9000, "cores": 5}, ["together"]),
        ({"partitions": (), "minutes": 11}, ["'main' allows 10", "a partition that allows it: long"]),
        ({"partitions": (), "memory_mb": 2001}, ["2,001 MB", "at most 2,000"]),
    ],
)
def test_a_job_that_does_not_fit_is_told_why_and_what_to_do(changes: dict[str, Any], said: list[str]) -> None:
    told = faults(replace(LONG, **changes), accounts=["astro"])
    assert all(words in told for words in said), told


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        slurm.Request,
        rule=st.just("train"),
        partitions=st.sampled_from([(), ("main",), ("long",), ("main", "long")]),
        account=st.sampled_from(["", "astro", "nobody"]),
        minutes=st.integers(1, 20000),
        memory_mb=st.integers(1, 100_000),
        cores=st.integers(1, 20),
        tasks=st.integers(1, 30),
        gpus=st.integers(0, 4),
        gpu_kind=st.sampled_from(["", "v100", "a100"]),
    ),
    st.sampled_from(["minutes", "memory_mb", "cores", "tasks", "gpus"]),
    st.integers(1, 100_000),
)
def test_who_asks_for_more_never_fits_better(request: slurm.Request, what: str, more: int) -> None:
    bigger = replace(request, **{what: getattr(request, what) + more})
    if faults(request, accounts=["astro"]):
        assert faults(bigger, accounts=["astro"])
    # and a job of several partitions runs where it would run in one of them
    if len(request.partitions) == 2:
        alone = [faults(replace(request, partitions=(name,)), accounts=["astro"]) for name in request.partitions]
        assert bool(faults(request, accounts=["astro"])) == all(map(bool, alone))


OWN = {"long": slurm.Limits(60, 5000)}


@pytest.mark.parametrize(
    ("request_", "own", "most"),
    [
        (slurm.Request("train"), {}, (10, 2000)),
        (LONG, {}, (10080, 64000)),
        (replace(LONG, cores=16), {}, (10080, 8000)),
        (replace(LONG, partitions=("main", "long")), {}, (10080, 64000)),
        (slurm.Request("train"), OWN, (60, 5000)),
        (LONG, OWN, (10080, 64000)),
        (slurm.Request("train"), {"gone": slurm.Limits(1, 1)}, (10, 2000)),
        (replace(LONG, elsewhere=True), {}, (math.inf, math.inf)),
        (replace(LONG, gpus=1, gpu_kind="a100"), {}, (math.inf, math.inf)),
        (replace(LONG, partitions=("lnog",)), {}, (math.inf, math.inf)),
    ],
)
def test_the_most_that_a_job_may_ask_for_is_its_partitions(
    request_: slurm.Request, own: dict[str, slurm.Limits], most: tuple[float, float]
) -> None:
    assert CLUSTER.limits(request_, own) == most
    # a site's own plugin may send it elsewhere
    redirected = slurm.Cluster(CLUSTER.partitions, {"JobSubmitPlugins": "lua"})
    assert redirected.limits(slurm.Request("train"), {}) == (math.inf, math.inf)


def test_time_is_that_of_partitions_that_have_the_memory() -> None:
    short, long = CLUSTER.partitions
    cluster = slurm.Cluster((replace(short, memory_mb=None), replace(long, memory_mb=4000)), {})
    request = slurm.Request("train", partitions=("main", "long"), memory_mb=4000)
    assert cluster.limits(request, {}) == (10080, 64000)
    assert cluster.limits(replace(request, memory_mb=4001), {}) == (10, 64000)


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        slurm.Request,
        rule=st.just("train"),
        partitions=st.sampled_from([(), ("main",), ("long",), ("main", "long")]),
        minutes=st.integers(1, 20000),
        memory_mb=st.integers(1, 200_000),
        cores=st.integers(1, 20),
        gpus=st.integers(0, 3),
        gpu_kind=st.sampled_from(["", "v100"]),
    )
)
def test_a_job_that_could_run_at_all_can_with_what_it_may_ask_for(request: slurm.Request) -> None:
    memory = min(request.memory_mb or 0, CLUSTER.limits(request, {}).memory_mb)
    cut = replace(request, memory_mb=memory)
    cut = replace(cut, minutes=min(request.minutes or 0, CLUSTER.limits(cut, {}).minutes))
    assert not faults(cut) or faults(replace(request, minutes=1, memory_mb=1))


def test_what_the_site_may_know_better_is_a_warning() -> None:
    own = slurm.Cluster(CLUSTER.partitions, {**CLUSTER.settings, "JobSubmitPlugins": "lua"})
    far = slurm.Request("train", minutes=11, gpus=1, gpu_kind="v100")
    assert faults(far)
    assert not faults(far, own)  # it may be sent to another partition
    assert faults(replace(far, partitions=("main",)), own)
    long = replace(LONG, minutes=20000)
    assert faults(long)
    assert not faults(replace(long, others=("--qos=long",)))
    (told,) = doctor.misfits(replace(far, minutes=5, gpu_kind="", memory_mb=1), CLUSTER, None)
    assert (told.state, "for the accounts astro, physics, and no account" in told.found) == (WARNING, True)


def test_partitions_that_the_plugin_chooses_from_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("executor: slurm\nslurm-partition-config: some.yaml\n")
    monkeypatch.setattr(doctor.slurm, "refusal", lambda request: "")

    def judged(*names: str) -> str:
        (tmp_path / "some.yaml").write_text(json.dumps({"partitions": {name: {} for name in names}}))
        settings = {**doctor.read_profile(tmp_path).slurm, "status_command": "squeue"}
        *_, found = doctor.suited([replace(LONG, partitions=())], settings, CLUSTER)
        return f"{found.state}: {found.found}"

    assert judged("main", "long").startswith(OK)
    assert judged("main").startswith(f"{FAULT}: 8,000 MB of memory")
    assert judged("long", "gone").startswith(f"{FAULT}: partition 'gone' is none of")


def test_slurm_is_asked_of_few_of_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[slurm.Request] = []
    monkeypatch.setattr(doctor.slurm, "refusal", lambda request: asked.append(request) or "")
    many = [replace(LONG, minutes=minutes) for minutes in range(1, 300)]
    assert len(list(doctor.suited(many, {"status_command": "squeue"}, CLUSTER))) == 2
    assert len(asked) == doctor.MOST_VERDICTS
    assert asked[0].minutes == 299


def test_jobs_for_another_cluster_are_not_judged() -> None:
    far = slurm.Request.of("train", {"slurm_partition": "nowhere", "slurm_cluster": "other"})
    assert [finding.subject for finding in doctor.suited([far], {"status_command": "squeue"}, CLUSTER)] == [
        "accounting"
    ]


@pytest.mark.parametrize(
    ("array_jobs", "version", "state"),
    [(None, "2.8.0", None), ("all", "2.7.1", FAULT), ("train", "2.8.0", FAULT), ("all", "2.9.0", WARNING)],
)
def test_job_arrays_are_refused_where_they_are_known_to_stall(
    array_jobs: str | None, version: str, state: str | None
) -> None:
    found = doctor.arrays(array_jobs, version)
    assert (found and found.state) == state


# The columns of `quota -w -p` and of `lfs quota`, whose long file systems take a line of their own.
QUOTA = """\
Disk quotas for user astro (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
nas:/home       9500000  10000000 11000000       0   12000       0       0       0
"""
LFS_QUOTA = """\
Disk quotas for usr astro (uid 1000):
     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
/fred/oz123/a_long_name
                1000000*      0 1000000       -     500       0  100000       -
"""


def test_quotas_are_judged_by_their_least_limit() -> None:
    (home,), (fred,) = doctor.quotas_in(QUOTA), doctor.quotas_in(LFS_QUOTA)
    assert (home.place, home.kb, home.most_kb, home.most_files) == ("nas:/home", 9_500_000, 10_000_000, 0)
    assert home.judged("user").state == WARNING
    assert (fred.place, fred.kb, fred.most_kb, fred.files, fred.most_files) == (
        "/fred/oz123/a_long_name",
        1_000_000,
        1_000_000,
        500,
        100_000,
    )
    assert fred.judged("user").state == FAULT
    assert replace(fred, kb=10).judged("user").state == OK


# `lfs project -d`, and `lfs quota` of a user without a limit, a group within its own, and a project at its end.
LFS = """\
#!/bin/sh
echo "$*" >> {calls}
case "$*" in
"project -d "*) echo "   {project} P $3"; exit;;
"quota -u {user} "*) limits="0 0 - 20 0 0";;
"quota -g {group} "*) limits="2000000000 5000000000 - 30 0 0";;
"quota -p 4711 "*) limits="0 1000000000 - 40 0 0";;
*) echo "unknown: $*" >&2; exit 1;;
esac
echo "Disk quotas for ... :"
echo "     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace"
echo "        /fred    1000000000 $limits -"
"""


@pytest.mark.parametrize("project", [4711, 0])
def test_on_lustre_quotas_of_the_group_and_the_project_count_too(
    project: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"calls": tmp_path / "calls", "user": os.getuid(), "group": os.getegid(), "project": project}
    (tmp_path / "lfs").write_text(LFS.format(**values))
    (tmp_path / "lfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "mount_of", lambda path: ("10.0.0.1@o2ib:/fred", "lustre"))
    user, group, *of_project = doctor.quotas(tmp_path)
    assert (user.state, user.found) == (OK, "/fred, user: none set")
    assert (group.state, group.found) == (OK, f"/fred, group {os.getegid()}: 1,000 of 2,000 GB used")
    told = [(finding.state, finding.found) for finding in of_project]
    assert told == ([(FAULT, "/fred, project 4711: 1,000 of 1,000 GB used")] if project else [])
    asked = (tmp_path / "calls").read_text().splitlines()
    assert len(asked) == (4 if project else 3) and all(words.endswith(f" {tmp_path}") for words in asked)
    # files of a folder that hands its group on count there
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2755)
    assert f"group {(tmp_path / 'shared').stat().st_gid}" in [of for of, _ in doctor._holders(tmp_path / "shared")]


CPU = {"jax": "0.10.2", "platform": "cpu", "devices": ["cpu"], "count": 1, "version": "PJRT C API cuda 12090"}
P100, A100 = ["Tesla P100-PCIE-12GB", "6.0", "535.1"], ["NVIDIA A100", "8.0", "580.1"]


@pytest.mark.parametrize(
    ("gpu", "platform", "plugins", "there", "kinds", "elsewhere", "state", "said"),
    [
        (False, "cpu", [], [], [], True, OK, "none is asked for"),
        (True, "cpu", [], [], [], True, FAULT, "finds cpu"),
        (True, "cpu", ["cuda12"], [], ["v100"], True, NOT_CHECKED, "none on this machine"),
        (True, "cpu", ["cuda13"], [], ["tesla_v100-pcie"], True, FAULT, "older than what CUDA 13 knows"),
        (True, "cpu", ["cuda13"], [P100], [], False, FAULT, "older than what CUDA 13 knows"),
        (True, "cpu", ["cuda12"], [A100], [], False, FAULT, "driver 580.1"),
        (True, "cpu", ["cuda12"], [], [], False, FAULT, "finds cpu"),
        (
            True,
            "gpu",
            ["cuda12"],
            [P100],
            ["p100"],
            False,
            OK,
            "CUDA 12.9; Tesla P100-PCIE-12GB (compute capability 6.0, driver 535.1)",
        ),
        (False, "cpu", [], [A100], [], False, WARNING, "finds cpu"),
    ],
)
def test_gpus_are_judged_by_what_is_wanted_and_what_is_there(
    gpu: bool,
    platform: str,
    plugins: list[str],
    there: list[list[str]],
    kinds: list[str],
    elsewhere: bool,
    state: str,
    said: str,
) -> None:
    found = doctor.judged_gpu(gpu, CPU | {"platform": platform, "plugins": plugins}, there, kinds, elsewhere=elsewhere)
    assert found.state == state
    assert said in found.found
    assert (found.remedy == "") == (state == OK)


@pytest.mark.parametrize(
    ("launcher", "library", "known", "state"),
    [
        ("srun --mpi=pmi2", "MPICH Version: 5.0.2", ["pmi2", "pmix"], None),
        ("srun --mpi=pmix", "MPICH Version: 5.0.2", ["pmi2", "pmix"], WARNING),
        ("srun --mpi=pmi2", "Open MPI v5.0.11", ["pmi2"], WARNING),
        ("srun --mpi=pmix", "Open MPI v5.0.11", ["none", "pmi2"], FAULT),
        ("mpirun", "Open MPI v5.0.11", None, None),
    ],
)
def test_a_launcher_that_does_not_fit_the_library_is_told(
    launcher: str, library: str, known: list[str] | None, state: str | None
) -> None:
    found = doctor.unfit_launcher(launcher, library, known)
    assert (found and found.state) == state


def submitted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, launcher: str, cluster: slurm.Cluster = CLUSTER, *, gpu: bool = False
) -> tuple[slurm.Request, dict[str, Any]]:
    """Returns what `--job` would submit, and what the job is told."""
    found: list[slurm.Request] = []

    def submit(request: slurm.Request, script: str, *, name: str, log: str) -> int:
        found.append(request)
        told.update(json.loads((Path(log).parent / doctor.ASKED).read_text()))
        raise slurm.SlurmError("it is not submitted")

    told: dict[str, Any] = {}
    monkeypatch.setattr(doctor.slurm, "submit", submit)
    monkeypatch.setattr(doctor.slurm, "cancel", lambda name: None)
    wanted = doctor.Wanted(folder, None, folder / "results", job=True, gpu=gpu)
    list(doctor.by_job(wanted, replace(LONG, nodes=4), launcher, cluster, lambda text: None))
    return found[0], told


def test_ranks_are_tried_on_two_nodes_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, told = submitted(monkeypatch, tmp_path, "srun --mpi=pmi2")
    assert (request.nodes, request.tasks, request.gpus, told["alone"]) == (2, 2, 0, "")
    # SLURM wants one for each node
    assert submitted(monkeypatch, tmp_path, "/usr/bin/srun", gpu=True)[0].gpus == 2
    request, told = submitted(monkeypatch, tmp_path, "mpirun")
    assert (request.nodes, request.tasks, told["alone"]) == (None, 2, "`mpirun` may not reach others")
    request, told = submitted(monkeypatch, tmp_path, "")
    assert (request.nodes, request.tasks, told["alone"]) == (None, 1, "")
    _, long = slurm.partitions_in(SHOWN, "long|1|4|64000|gpu:v100:2|idle\nlong|3|4|64000|gpu:v100:2|down")
    request, told = submitted(monkeypatch, tmp_path, "srun", slurm.Cluster((long,), {}))
    assert (request.nodes, request.tasks) == (None, 2)
    assert told["alone"] == "partition long has no second one that could take this job"


@pytest.mark.mpi
def test_where_ranks_met_is_said(tmp_path: Path) -> None:
    """Ranks of one machine, which are told that they are on several nodes."""
    launcher = tmp_path / "srun"
    on_its_node = """sh -c 'SLURMD_NODENAME=node$PMI_RANK exec "$@"' sh"""
    launcher.write_text(f'#!/bin/bash\nexec mpiexec "$1" "$2" {on_its_node} "${{@:3}}"\n')
    launcher.chmod(0o755)
    found = doctor.ranks_together(str(launcher), "")
    assert (found.state, found.found) == (OK, f"2 ranks started by `{launcher}` see each other, on node0 and node1")
    here = doctor.node_name()
    found = doctor.ranks_together("mpiexec", "there is no other")
    assert found.state == OK
    assert found.found.endswith(f"see each other, on {here}; it was not tried whether nodes do: there is no other")
    found = doctor.ranks_together("mpiexec", "")
    assert found.state == WARNING and f"but on {here} alone, of a job on 2 nodes" in found.found


def test_a_profile_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    assert "did you mean 'slurm/testcluster'" in refused("doctor", "--profile", "slurm/testclutser")
    (tmp_path / "config.yaml").write_text("executor: [slurm")
    assert "cannot be read" in refused("doctor", "--profile", tmp_path)


def test_the_executors_plugin_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    (found,) = doctor.plugin(doctor.read_profile(CHECKOUT / "slurm"))
    assert found.state == FAULT
    assert "pip install" in found.remedy


def test_a_lock_is_seen_to_hold_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.locks(tmp_path / "results").state == OK
    assert list(tmp_path.iterdir()) == []
    # were a second run let in, it would be told
    monkeypatch.setattr(doctor.lock, "_refuse_living", lambda *_: None)
    monkeypatch.setattr(doctor.lock, "_flocked", lambda *_: True)
    assert doctor.locks(tmp_path / "results").state == FAULT


# A file system whose locks fail, as some mounts' do.
NO_LOCKS = """
#include <errno.h>
extern "C" int flock(int file, int operation) { errno = ENOLCK; return -1; }
"""


@pytest.mark.compiler
def test_hdf5_whose_locks_fail_is_told_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    assert doctor.hdf5(results) == Finding("HDF5", OK, "a small file is written and read")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "locks.cc").write_text(NO_LOCKS)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", "locks.so", "locks.cc"], cwd=tmp_path, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "locks.so"))
    found = doctor.hdf5(results)
    assert (found.state, "unable to lock file" in found.found) == (FAULT, True), found
    assert "export HDF5_USE_FILE_LOCKING=FALSE" in found.remedy
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    assert doctor.hdf5(results).state == OK
    assert not results.exists()


def test_hdf5_that_fails_without_locks_too_is_another_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_hdf5_fails", lambda *_: "no such library")
    found = doctor.hdf5(tmp_path)
    assert (found.state, "no such library" in found.found, "HDF5_USE" in found.remedy) == (FAULT, True, False)


def test_a_scheduler_that_hangs_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scontrol", "sinfo", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "SECONDS", 0.2)
    cluster, (found, rest) = doctor.reach(doctor.read_profile(CHECKOUT / PROFILE))
    assert cluster is None
    assert (found.state, rest.state) == (FAULT, NOT_CHECKED)
    assert "does not answer: `scontrol show partition" in found.found
    with pytest.raises(JaxrnnError, match="does not answer"):
        doctor.refuse([LONG], {})
    monkeypatch.setenv(doctor.SWITCH, "0")
    assert "was not looked" in doctor.refuse([LONG], {})[0]


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without SLURM: all programs of this one but those. Returns an empty folder to work in."""
    programs = tmp_path / "programs"
    programs.mkdir()
    theirs = (
        "sinfo",
        "scontrol",
        "squeue",
        "sacct",
        "sacctmgr",
        "sshare",
        "sbatch",
        "srun",
        "scancel",
        "salloc",
        "sstat",
    )
    for path in Path("/usr/bin").iterdir():
        if path.name not in theirs:
            (programs / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{programs}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_on_a_laptop_slurm_is_told_to_be_missing_and_the_rest_is_checked(laptop: Path) -> None:
    code, output, _ = jaxrnn("doctor", "--profile", CHECKOUT / "slurm", "--job", "--json")
    told = json.loads(output)
    states = {finding["subject"]: finding["state"] for finding in told["findings"]}
    assert (code, told["faults"], states["SLURM"]) == (2, 1, FAULT), told
    assert (states["jobs on it"], states["nodes"]) == (NOT_CHECKED, NOT_CHECKED)
    for subject in ("plugin", "workflow", "results folder", "space", "locks", "HDF5", "compile cache", "GPU"):
        assert states[subject] in (OK, WARNING), (subject, told)
    (missing,) = [finding for finding in told["findings"] if finding["subject"] == "SLURM"]
    assert "no SLURM here" in missing["found"]
    assert "workflow/profiles/local" in missing["remedy"]
    assert list(laptop.iterdir()) == []


def test_a_laptops_own_profile_is_well_there(laptop: Path) -> None:
    code, output, messages = jaxrnn("doctor", "--profile", CHECKOUT / "workflow/profiles/local")
    assert code == 0, output + messages
    assert output.startswith("ok ")
    assert FAULT not in output


def test_the_workflow_on_a_laptop_says_that_slurm_is_missing_before_it_writes(laptop: Path) -> None:
    workflow = Workflow(laptop, laptop)
    workflow.configure()
    done = workflow.run(profile=PROFILE)
    assert done.returncode == 1
    assert "jaxrnn: no SLURM here" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (laptop / "results").exists()
    assert workflow.run("--dry-run", profile=PROFILE).returncode == 0


@pytest.fixture
def tiny(cluster: None, tmp_path: Path) -> Workflow:
    workflow = Workflow(tmp_path, tmp_path / "compiled")
    workflow.configure()
    return workflow


@pytest.mark.slurm
@pytest.mark.mpi
def test_a_cluster_that_is_well_is_found_so_from_a_node_too(tiny: Workflow) -> None:
    done = _doctor(tiny, "--job", "--json", "--config", str(tiny.config))
    told = json.loads(done.stdout)
    assert (done.returncode, told["faults"]) == (0, 0), done.stdout + done.stderr
    states = {finding["subject"]: (finding["state"], finding["found"]) for finding in told["findings"]}
    assert states["accounting"] == (OK, "the state of jobs is asked of `squeue`, which knows ended ones for 600 s")
    assert states["aggregate, ingest, report, simulate, split, train"][0] == OK
    (node,) = {subject.partition(":")[0] for subject in states if ":" in subject}
    assert node in slurm_cluster.NODES
    for subject in ("shared folder", "locks", "HDF5", "compile cache", "GPU", "MPI"):
        assert states[f"{node}: {subject}"][0] == OK, states
    met = "2 ranks started by `srun --mpi=pmi2` see each other, on node1 and node2"
    assert states[f"{node}: MPI"][1] == met
    assert [*tiny.folder.glob("results/*")] == []
    assert slurm_cluster.jobs()[-1]["JobState"] in ("COMPLETED", "COMPLETING", "RUNNING")


@pytest.mark.slurm
@pytest.mark.mpi
def test_ranks_that_do_not_see_each_other_and_a_missing_gpu_are_found(tiny: Workflow) -> None:
    # PyPI's mpich knows no PMIx: two ranks that each think they are alone, or die
    profile = shutil.copytree(CHECKOUT / PROFILE, tiny.folder / "pmix")
    given = (profile / "config.yaml").read_text()
    (profile / "config.yaml").write_text(given.replace("--mpi=pmi2", "--mpi=none"))
    done = _doctor(tiny, "--gpu", "--json", profile=profile)
    assert done.returncode == 2, done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    (mpi,) = [finding for subject, finding in found.items() if subject.endswith(": MPI")]
    (gpu,) = [finding for subject, finding in found.items() if subject.endswith(": GPU")]
    assert mpi["state"] == gpu["state"] == FAULT
    assert "this process sees 1" in mpi["found"]
    assert "finds cpu" in gpu["found"]


@pytest.mark.slurm
def test_a_folder_that_nodes_do_not_see_is_found(tiny: Workflow) -> None:
    # a mount that this process and its children alone see
    hidden = f"mount -t tmpfs none {tiny.folder} && cd {tiny.folder} && exec {shlex.join(_command('--job', '--json'))}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", hidden], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    *_, job = json.loads(done.stdout)["findings"]
    assert (job["subject"], job["state"]) == ("job", FAULT)
    assert f"left nothing in {tiny.folder}/results" in job["found"]
    assert "file system that nodes see" in job["remedy"]


@pytest.mark.slurm
def test_a_job_whose_turn_does_not_come_is_cancelled(tiny: Workflow) -> None:
    _scontrol("update", "partitionname=main", "state=down")
    try:
        done = _doctor(tiny, "--job", "--json", "--wait", "0")
    finally:
        _scontrol("update", "partitionname=main", "state=up")
    *_, job = json.loads(done.stdout)["findings"]
    assert (done.returncode, job["state"]) == (0, WARNING)
    assert "is pending (PartitionDown) after 0 minutes, and is cancelled" in job["found"]
    assert slurm_cluster.jobs()[-1]["JobState"] == "CANCELLED"


@pytest.mark.slurm
def test_ctrl_c_cancels_the_job(tiny: Workflow) -> None:
    _scontrol("update", "partitionname=main", "state=down")
    try:
        process = subprocess.Popen(
            _command("--job"),
            cwd=tiny.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout and process.stderr
        for line in process.stderr:
            if "pending" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        output, messages = process.communicate(timeout=30)
    finally:
        _scontrol("update", "partitionname=main", "state=up")
    assert process.returncode == 130, messages
    assert "Traceback" not in messages
    assert "main' is DOWN" in output
    job = slurm_cluster.jobs()[-1]
    assert job["JobName"].startswith("jaxrnn-doctor-")
    assert job["JobState"] == "CANCELLED"
    assert [*tiny.folder.glob("results/*")] == []


@pytest.mark.slurm
def test_a_scheduler_that_stopped_is_a_finding(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (controller,) = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _reads(path) == "slurmctld\n"
    ]
    monkeypatch.setattr(slurm, "SECONDS", 1.0)
    os.kill(controller, signal.SIGSTOP)
    try:
        found, (finding, _) = doctor.reach(doctor.read_profile(CHECKOUT / PROFILE))
    finally:
        os.kill(controller, signal.SIGCONT)
    assert found is None
    assert (finding.state, "does not answer" in finding.found) == (FAULT, True)
    slurm.call("scontrol", "ping", seconds=20)


def _reads(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--default-resources", "slurm_partition=mian"],
            [
                "ingest, results, simulate, split, train: partition 'mian' is none of",
                "(main, urgent); did you mean 'main'?",
            ],
        ),
        (
            [
                "--set-resources",
                "simulate:runtime=2000",
                "simulate:mem_mb=64001",
                "simulate:gpu=1",
                "simulate:gpu_model=a100",
            ],
            ["2000 minutes", "allows 1440", "64,001 MB", "at most 64,000", "1 GPU of kind a100"],
        ),
        (["--slurm-status-command", "sacct"], ["keeps no accounts", "`slurm-status-command: squeue`"]),
        (["--slurm-array-jobs", "all"], ["issue 473"]),
        (["--set-resources", "simulate:constraint=icelake"], ["simulate: SLURM refuses it: Invalid feature"]),
    ],
)
def test_a_mistake_in_the_profile_is_one_message_before_anything_is_submitted(
    tiny: Workflow, arguments: list[str], said: list[str]
) -> None:
    before = len(slurm_cluster.jobs())
    done = tiny.run(*arguments, profile=PROFILE)
    message = done.stdout.partition("jaxrnn: ")[2]
    assert done.returncode == 1
    assert message.startswith("the cluster would not run these jobs, and nothing was submitted:"), done.stdout
    assert all(words in message for words in said), message
    assert "Traceback" not in done.stdout
    assert len(slurm_cluster.jobs()) == before
    assert not (tiny.folder / "results").exists()


@pytest.mark.slurm
def test_slurms_own_verdict_is_asked_without_a_job(cluster: None) -> None:
    before = len(slurm_cluster.jobs())
    assert slurm.refusal(slurm.Request("train", minutes=5, memory_mb=100)) == ""
    assert slurm.refusal(slurm.Request("train", partitions=("nope",))) != ""
    assert len(slurm_cluster.jobs()) == before


def _command(*arguments: str, profile: Path = CHECKOUT / PROFILE) -> list[str]:
    return [sys.executable, "-m", "jaxrnn", "doctor", "--profile", str(profile), *arguments]


def _doctor(
    workflow: Workflow, *arguments: str, profile: Path = CHECKOUT / PROFILE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments, profile=profile), cwd=workflow.folder, capture_output=True, text=True)


def _scontrol(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True)
    time.sleep(0.2)


def test_a_finding_is_a_line_and_its_remedy_another() -> None:
    lines = str(Finding("locks", WARNING, "what was found", "what to do")).splitlines()
    assert lines[0].split() == ["warning", "locks", "what", "was", "found"]
    assert lines[1].strip() == "-> what to do"


def test_a_silent_slurm_refuses_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"

    def silent(*_: str) -> str:
        raise slurm.SlurmError(f"`sbatch` failed: {said}", said)

    monkeypatch.setattr(slurm, "call", silent)
    (told,) = doctor.refused(LONG)
    assert (told.state, "was not asked" in told.found) == (WARNING, True)
