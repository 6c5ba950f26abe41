"""Site profiles: each is whole, asks for nothing that isn't there, and knows what nothing else knows of its site."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as plugin
import yaml
from snakemake_executor_plugin_slurm import partitions, submit_string, utils, validation
from workflows import CHECKOUT, Workflow, wait_until

from jaxrnn import doctor, estimates, lock, plan
from jaxrnn.config import digest, load
from jaxrnn.results import write_json

SLURM = CHECKOUT / "slurm"
GENERIC = SLURM / "config.yaml"
PROFILES = [GENERIC, *sorted(SLURM.glob("*/config.yaml"))]
SITES = [path for path in PROFILES if (path.parent / "partitions.yaml").exists()]
# What the cluster of the tests leaves out, to see a failure at once.
NOT_ON_THE_TEST_CLUSTER = {"retries", "max-status-checks-per-second"}
RULES = {path.name: path.read_text() for path in (CHECKOUT / "workflow" / "rules").glob("*.smk")}
# Settings that are there to be chosen: `#` and no space before the key.
OPTIONAL = re.compile(r"^( *)#(?=(?:  )*[\w-]+:(?: |$))", re.MULTILINE)


class Resources(dict[str, Any]):
    """A job's resources, as the plugin reads them: by key and by attribute."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Job:
    """A job of a rule as the plugin sees it: what the rule asks for, and then what the profile says."""

    threads = 1

    def __init__(self, profile: Path, rule: str, **asked: Any) -> None:
        values = yaml.safe_load(profile.read_text())
        own = values.get("set-resources", {}).get(rule, {})
        given = asked | values.get("default-resources", {}) | own
        unquoted = {key: value.strip("'") if isinstance(value, str) else value for key, value in given.items()}
        self.name, self.resources = rule, Resources(unquoted)

    def submitted(self) -> list[str]:
        """Returns the words of the call of sbatch."""
        params = {"run_uuid": "run", "slurm_logfile": "log", "comment_str": "rule", "account": "", "partition": ""}
        call = submit_string.get_submit_command(self, params | {"workdir": "."})
        return shlex.split(call + utils.set_gres_string(self))  # pyright: ignore[reportArgumentType]


def name_of(profile: Path) -> str:
    return profile.parent.name


def with_all_options(profile: Path) -> str:
    return OPTIONAL.sub(r"\1", profile.read_text())


def asked_by_the_rules() -> dict[str, int]:
    """Returns the most that any rule asks for by itself."""
    text = "".join(RULES.values())
    names = {"runtime": "runtime|minutes", "mem_mb": "mem_mb|memory_mb"}
    return {name: max(map(int, re.findall(rf"\b(?:{words})=(\d+)", text))) for name, words in names.items()}


def settings_in(text: str) -> set[tuple[str, ...]]:
    """Returns a profile's settings, each with the keys that lead to it."""

    def walk(values: Any, *keys: str) -> Iterator[tuple[str, ...]]:
        if isinstance(values, dict):
            for key, value in values.items():
                yield from walk(value, *keys, key)
        else:
            yield *keys, str(values)

    return set(walk(yaml.safe_load(text)))


# As they stand those alone that say something that they don't say with every option.
TAKEN = [
    (profile, options)
    for profile in PROFILES
    for options in ("as it stands", "with every option")
    if options == "with every option" or settings_in(profile.read_text()) - settings_in(with_all_options(profile))
]


@pytest.mark.parametrize(("profile", "options"), TAKEN, ids=lambda of: name_of(of) if isinstance(of, Path) else of)
def test_snakemake_takes_a_profile(profile: Path, options: str, tmp_path: Path) -> None:
    copy = shutil.copytree(profile.parent, tmp_path / "profile", ignore=shutil.ignore_patterns("results"))
    if options == "with every option":
        (copy / "config.yaml").write_text(with_all_options(profile))
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    done = workflow.run("--dry-run", profile=str(copy))
    assert done.returncode == 0, done.stdout
    assert "This was a dry-run" in done.stdout
    assert "warning" not in done.stdout.lower(), done.stdout


def test_snakemake_refuses_an_option_that_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(GENERIC.read_text() + "slurm-arrays: all\n")
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    done = workflow.run("--dry-run", profile=str(tmp_path))
    assert "unrecognized arguments: --slurm-arrays" in done.stdout


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_a_profile_is_whole(profile: Path) -> None:
    missing = yaml.safe_load(GENERIC.read_text()).keys() - yaml.safe_load(profile.read_text()).keys()
    assert not missing - (NOT_ON_THE_TEST_CLUSTER if name_of(profile) == "testcluster" else set())


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_no_profile_submits_job_arrays(profile: Path) -> None:
    # With them the plugin stops submitting when more jobs are ready than `jobs` allows (its issue 473).
    assert not [key for key in yaml.safe_load(with_all_options(profile)) if "array" in key]
    assert plugin.ExecutorSettings().array_jobs is None


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_all_rules_that_train_have_the_same_cores(profile: Path) -> None:
    threads = yaml.safe_load(profile.read_text())["set-threads"]
    assert threads["train"] == threads["rung"] == threads["audit"]


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_what_a_profile_sets_is_there_to_be_set(profile: Path) -> None:
    values = yaml.safe_load(with_all_options(profile))
    rules = set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)", "".join(RULES.values()), re.MULTILINE))
    assert {*values.get("set-resources", {}), *values.get("set-threads", {})} <= rules
    sources = "".join(path.read_text() for path in Path(plugin.__file__).parent.glob("*.py"))
    sources += "".join(RULES.values())
    known = set(re.findall(r"resources(?:\.get)?[.(]\s*\"?(\w+)", sources)) | {"runtime", "mem_mb", "tmpdir", "disk_mb"}
    sections = [values.get("default-resources", {}), *values.get("set-resources", {}).values()]
    assert {key for section in sections for key in section} <= known


@pytest.mark.parametrize("profile", SITES, ids=name_of)
def test_every_job_finds_a_partition_and_a_gpu_job_one_with_gpus(profile: Path) -> None:
    choices = partitions.read_partition_file(profile.parent / "partitions.yaml")
    limits = {choice.name: choice.limits for choice in choices}

    def chosen(rule: str, **asked: Any) -> str:
        job: Any = Job(profile, rule, **asked_by_the_rules() | asked)
        name = partitions.get_best_partition(choices, job, mute())
        assert name, f"{rule} fits nowhere"
        return name

    assert limits[chosen("train", gpu=1)].max_gpu > 0
    without = any(limit.max_gpu == 0 for limit in limits.values())
    for rule in ("train", "ingest", "aggregate", "predict"):
        assert (limits[chosen(rule, gpu=0)].max_gpu == 0) == without


@pytest.mark.parametrize("profile", PROFILES, ids=name_of)
def test_a_job_asks_for_memory_time_and_its_gpu(profile: Path) -> None:
    job = Job(profile, "train", **asked_by_the_rules(), gpu=1)
    validation.validate_slurm_extra(job)
    words = job.submitted()
    assert int(words[words.index("--mem") + 1]) > 0
    assert int(words[words.index("-t") + 1]) > 0
    assert "--gpus=1" in words
    for rule in ("ingest", "predict"):
        ranks = Job(profile, rule, **{"tasks": 1, "mpi": "", **asked_by_the_rules()})
        assert f"--ntasks={ranks.resources.tasks}" in ranks.submitted()
        assert bool(ranks.resources.mpi) == (ranks.resources.tasks > 1)


@pytest.mark.parametrize("scratch", [True, False])
def test_temporary_files_go_to_the_nodes_own_disk(scratch: bool, tmp_path: Path) -> None:
    profile, other = SLURM / "ozstar", SLURM / "ngarrgu_tindebeek"
    one, two = (yaml.safe_load((of / "config.yaml").read_text())["default-resources"] for of in (profile, other))
    assert one["tmpdir"] == two["tmpdir"]
    (tmp_path / "Snakefile").write_text("rule tell:\n    output: 'told'\n    shell: 'echo $TMPDIR > {output}'\n")
    folders = {"JOBFS": str(tmp_path / "node" / "7")} if scratch else {}
    (tmp_path / "elsewhere").mkdir()
    environment = {**Workflow(tmp_path, tmp_path).environment, "TMPDIR": str(tmp_path / "elsewhere"), **folders}
    command = [sys.executable, "-m", "snakemake", "--profile", str(profile), "--executor", "local", "--cores", "1"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "told").read_text().strip() == folders.get("JOBFS", environment["TMPDIR"])


def test_facts_of_a_site_stand_in_its_folder_alone() -> None:
    names = {name_of(profile) for profile in PROFILES} - {"slurm", "template", "testcluster"}
    for profile in SITES:
        if name_of(profile) in names:
            names |= yaml.safe_load((profile.parent / "partitions.yaml").read_text())["partitions"].keys()
    facts = re.compile("|".join(sorted({*names, "JOBFS", "/fred", r"\bmodule load\b"})), re.IGNORECASE)
    assert facts.search((SLURM / "ozstar" / "config.yaml").read_text())
    elsewhere = [*(CHECKOUT / "jaxrnn").rglob("*.py"), *(CHECKOUT / "workflow").rglob("*.*")]
    elsewhere += [*(CHECKOUT / "config").iterdir(), *map(CHECKOUT.joinpath, ("Snakefile", "Makefile", "Dockerfile"))]
    assert not [str(path) for path in elsewhere if path.is_file() and facts.search(path.read_text(errors="replace"))]


@pytest.mark.parametrize("name", ["ozstar", "ngarrgu_tindebeek"])
def test_what_was_not_seen_at_a_site_is_marked(name: str) -> None:
    for file in ("config.yaml", "partitions.yaml"):
        assert "not verified" in (SLURM / name / file).read_text().lower()


def test_the_guide_names_every_profile_and_its_links_lead_somewhere() -> None:
    guide = (SLURM / "README.md").read_text()
    for profile in PROFILES:
        assert f"`{profile.parent.relative_to(CHECKOUT)}`" in guide or name_of(profile) == "template"
    for target in re.findall(r"\]\(([^)#]+)\)", guide):
        assert (SLURM / target).exists(), target


# A SLURM of two partitions that says what it is asked, and takes no job.
SCONTROL = """\
case "$*" in
*config*) echo "MinJobAge = 300 sec";;
*) echo "PartitionName=main Default=YES MaxTime=01:00:00 State=UP MaxMemPerNode=UNLIMITED"
   echo "PartitionName=long Default=NO MaxTime=7-00:00:00 State=UP MaxMemPerNode=UNLIMITED";;
esac
"""
SINFO = 'printf "main|2|4|10000|(null)|idle\\nlong|1|4|6000|(null)|idle\\nlong|1|1|20000|gpu:1|idle\\n"\n'
SBATCH = 'case "$*" in *--test-only*) exit 0;; esac\necho "sbatch: error: not here" >&2\nexit 1\n'


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts such a SLURM on PATH; returns the file with the calls of its programs."""
    programs = {"scontrol": SCONTROL, "sinfo": SINFO, "sbatch": SBATCH, "squeue": "", "scancel": ""}
    (tmp_path / "slurm").mkdir()
    for name, script in programs.items():
        (tmp_path / "slurm" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}')
        (tmp_path / "slurm" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def asked(folder: Path, *arguments: str, changes: dict[str, Any] | None = None) -> dict[str, tuple[int, int]]:
    """Returns the minutes and MB that jobs of each rule would ask for, with the generic profile."""
    workflow = Workflow(folder, folder)
    workflow.configure(changes)
    command = [sys.executable, "-m", "snakemake", "all", *workflow.arguments("slurm"), "--dry-run", "--forceall"]
    command += ["--snakefile", str(CHECKOUT / "workflow" / "asked.smk"), "--cores", "99", *arguments]
    environment = {**workflow.environment, doctor.AS_SUBMITTED: "1", "JAXRNN_ASKED": str(folder / "asked.json")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "asked.json").read_text())
    return {rule: (int(values["runtime"]), int(values["mem_mb"])) for rule, values in found}


BY_ATTEMPT = "train:slurm_partition='long' if attempt > 1 else 'main'"


@pytest.mark.parametrize(
    ("arguments", "train", "report"),
    [
        ([], (60, 8000), [(40, 4000), (20, 4000)]),
        (["--attempt", "2"], (60, 10000), [(40, 8000), (20, 4000)]),
        (["--attempt", "3"], (60, 10000), [(40, 10000), (20, 4000)]),
        (["--default-resources", "slurm_partition=long", "--attempt", "3"], (480, 20000), [(180, 12000), (30, 4000)]),
        (["--default-resources", "slurm_partition=long", "--set-threads", "train=2"], (480, 6000), None),
        (["--default-resources", "slurm_partition=main,long", "--attempt", "2"], (480, 16000), None),
        # what the user sets stays, and decides where there is time for it
        (["--set-resources", "train:mem_mb=50000"], (60, 50000), None),
        (["--set-resources", "train:runtime=90"], (90, 8000), None),
        (["--set-resources", BY_ATTEMPT], (60, 8000), None),
        (["--set-resources", BY_ATTEMPT, "--attempt", "2"], (480, 16000), None),
        (["--default-resources", "slurm_cluster=other", "--attempt", "3"], (480, 24000), None),
    ],
)
def test_no_attempt_asks_for_more_than_its_partition_allows(
    slurm_says: Path, tmp_path: Path, arguments: list[str], train: tuple[int, int], report: list[tuple[int, int]] | None
) -> None:
    found = asked(tmp_path, *arguments)
    assert found["train"] == train
    assert report is None or [found["aggregate"], found["report"]] == report
    assert len([call for call in slurm_says.read_text().splitlines() if call.startswith("sinfo ")]) == 1


def test_the_profiles_own_limits_of_partitions_count_too(
    slurm_says: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"main": {"max_runtime": "30m", "max_mem_mb": 9000}, "gone": {"max_mem_mb": 1}}
    (tmp_path / "partitions.yaml").write_text(yaml.safe_dump({"partitions": limits}))
    monkeypatch.setenv("SNAKEMAKE_SLURM_PARTITIONS", str(tmp_path / "partitions.yaml"))
    assert asked(tmp_path, "--attempt", "2")["train"] == (30, 9000)


def test_doctor_judges_what_a_run_would_ask_for(slurm_says: Path, tmp_path: Path) -> None:
    profile = shutil.copytree(SLURM / "testcluster", tmp_path / "profile")
    (profile / "partitions.yaml").write_text("partitions: {main: {max_runtime: 30m, max_mem_mb: 64000}}")
    read = doctor.read_profile(profile)
    found, told = doctor.requests(read, None, as_submitted=True)
    assert told.state == doctor.OK
    (train,) = [request for request in found if request.rule == "train"]
    assert (train.minutes, train.memory_mb, train.cores) == (30, 8000, 2)
    found, _ = doctor.requests(read, None, as_submitted=False)
    assert [request.minutes for request in found if request.rule == "train"] == [480]


def test_with_an_audit_the_report_is_a_job_of_its_own(slurm_says: Path, tmp_path: Path) -> None:
    found = asked(tmp_path, "--attempt", "2", changes={"audit": {"only": ["copies"]}})
    assert (found["aggregate"], found["audit"], found["report"]) == ((60, 8000), (60, 10000), (30, 4000))


def test_what_a_job_was_measured_to_need_is_not_cut(
    slurm_says: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it would fail; as it stands, it is refused
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    made = plan.make(load(workflow.config))
    rows = [
        {"job": job.name, "seconds": 600, "memory_mb": memory_mb, "cores": 1, "device": "cpu (cpu)"}
        for job, memory_mb in zip(made.jobs, (9500, 12000), strict=True)
    ]
    values = {"experiment": digest(made.experiment.model_dump(mode="json")), "jobs": rows}
    write_json(workflow.results / estimates.FILE, values)
    monkeypatch.chdir(tmp_path)
    done = workflow.run("--slurm-status-command", "squeue", *FITTING, profile="slurm")
    assert done.returncode == 1
    (refused,) = [line for line in done.stdout.splitlines() if "are asked for" in line]
    assert refused.startswith(
        "  train: 12,000 MB of memory are asked for, and a node of partition 'main' gives at most"
    )


def test_nothing_is_looked_at_by_jobs_nor_where_nothing_is_to_be_checked(
    slurm_says: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncut = (480, 16000)
    assert asked(tmp_path, "--attempt", "2", "--mode", "remote")["train"] == uncut
    monkeypatch.setenv(doctor.SWITCH, "0")
    assert asked(tmp_path, "--attempt", "2")["train"] == uncut
    assert "sinfo" not in slurm_says.read_text()


# For ingest, whose time is its own.
FITTING = ("--set-resources", "ingest:runtime=60")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("train:mem_mb=4000 * attempt", "train at attempt 3: 12,000 MB of memory are asked for"),
        ("train:mem_mb=20000", "train: 20,000 MB of memory are asked for"),
        ("train:runtime=61", "train, train at attempt 3: 61 minutes are asked for, and partition 'main' allows 60"),
        ("report:runtime=21", "results, results at attempt 3: 61 minutes are asked for"),
    ],
)
def test_what_a_user_sets_beyond_the_partition_is_refused_before_the_first_attempt(
    slurm_says: Path, tmp_path: Path, settings: str, said: str
) -> None:
    workflow = Workflow(tmp_path, tmp_path)
    workflow.configure()
    done = workflow.run("--slurm-status-command", "squeue", *FITTING, settings, profile="slurm")
    assert done.returncode == 1
    assert said in done.stdout and done.stdout.count("are asked for") == 1
    calls = slurm_says.read_text().splitlines()
    assert [call.split()[0] for call in calls].count("sinfo") == 1
    assert all("--test-only" in call for call in calls if call.startswith("sbatch"))


def mute() -> Any:
    class Mute:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    return Mute()


@pytest.mark.parametrize(("number", "again"), [("USR1", True), ("INT", False), ("TERM", False), (None, False)])
def test_a_controller_lets_snakemake_end_well_and_is_started_again_when_its_time_is_over(
    number: str | None, again: bool, tmp_path: Path
) -> None:
    # SLURM's part is played here: its signal to the batch shell alone, and a scontrol that tells how it is called
    (tmp_path / "scontrol").write_text(
        '#!/bin/bash\n[ "$1" = requeue ] || exit 0\necho "$@" > requeued\nkill -TERM -- -$PPID\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    seconds = 5 if number else 0  # of a job on this machine Snakemake awaits the end
    rule = f"rule long:\n    output: 'done'\n    shell: 'touch began; sleep {seconds}; touch {{output}}'\n"
    (tmp_path / "Snakefile").write_text(rule)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    process = subprocess.Popen(
        [SLURM / "controller.sh", "--cores", "1"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if number:
        wait_until((tmp_path / "began").exists, process)
        process.send_signal(getattr(signal, f"SIG{number}"))
    output, _ = process.communicate(timeout=50)
    assert (process.returncode == 0) == (number is None), output
    assert not list((tmp_path / ".snakemake").glob("locks/*")), "Snakemake ended well"
    assert (tmp_path / "requeued").exists() == again
    if again:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize(("codes", "started", "code"), [([75, 0], 2, 0), ([75, 75], 2, 75), ([1], 1, 1)])
def test_a_controller_tries_once_more_when_a_dead_one_is_known_to_be_dead(
    codes: list[int], started: int, code: int, tmp_path: Path
) -> None:
    process = controller_of(tmp_path, codes)
    output, _ = process.communicate(timeout=50)
    assert process.returncode == code, output
    assert (tmp_path / "started").read_text().splitlines() == ["--cores 1"] * started
    waited = (tmp_path / "waited").read_text().split() if started > 1 else []
    assert waited == ([f"{lock.DEAD_SECONDS:g}"] if started > 1 else [])


@pytest.mark.parametrize("number", ["INT", "USR1"])
def test_a_controller_that_is_ended_while_it_waits_does_not_try_again(number: str, tmp_path: Path) -> None:
    process = controller_of(tmp_path, [75, 0], waits=50)
    wait_until((tmp_path / "waited").exists, process)
    process.send_signal(getattr(signal, f"SIG{number}"))
    output, _ = process.communicate(timeout=20)
    assert process.returncode != 0, output
    assert (tmp_path / "started").read_text() == "--cores 1\n"
    assert (tmp_path / "requeued").exists() == (number == "USR1")


def controller_of(folder: Path, codes: list[int], waits: float = 0) -> subprocess.Popen[str]:
    """Returns a controller job whose Snakemake ends with these codes, one a start, and whose sleep takes so long."""
    ends = " ".join(map(str, codes))
    programs = {
        "snakemake": f"echo $@ >> started\nset -- {ends}\nshift $(($(wc -l < started) - 1))\nexit $1",
        "sleep": f"echo $1 >> waited\nexec {shutil.which('sleep')} {waits}",
        "scontrol": "echo $@ > requeued\nkill -TERM -- -$PPID",
    }
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return subprocess.Popen(
        [SLURM / "controller.sh", "--cores", "1"],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]), "SLURM_JOB_ID": "7"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
