# All Python of the workflow: which experiment this is, its plan, and on what of it each rule depends.
#
# What a rule depends on reaches it as a digest of values among its params, or stands in its paths. The experiment's file
# is no input, so that touching, moving or commenting it reruns nothing, and experiments with the same `data` section
# share one ingest.
import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from snakemake.io import IOFile

import jaxrnn.controller
import jaxrnn.doctor
import jaxrnn.estimates
import jaxrnn.lock
import jaxrnn.plan
from jaxrnn.config import AUDITS, RUN_KEYS, TRAINED_AUDITS, Experiment, digest, load
from jaxrnn.errors import JaxrnnError
from jaxrnn.estimates import Asked
from jaxrnn.readers import open_reader, reader_class
from jaxrnn.results import Results, mistakes_tables
from jaxrnn.slurm import Cluster, Limits, Request

# A mistake of the user ends in `sys.exit`, because Snakemake prints an exception with its traceback.

# Jobs find the commands of this very environment, also where it was not activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]))


# A site may send it before a job's time ends; Snakemake's own processes around a job would die of it.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def given_file() -> Path:
    """Returns the one experiment file; anything that would merge values into it is refused."""
    settings = workflow.config_settings
    if settings.config:
        raise JaxrnnError(
            f"--config {' '.join(settings.config)}: values on the command line are refused, so that the experiment is "
            "what its file says; edit the file, or copy it and give the copy another `experiment:` name"
        )
    if len(settings.configfiles) != 1:
        examples = sorted(Path(workflow.basedir, "config").glob("*.yaml"))
        raise JaxrnnError(
            f"expected one experiment file, found {len(settings.configfiles)}; give one of these, or your own:\n"
            + "\n".join(f"  --configfile {os.path.relpath(example)}" for example in examples)
        )
    file = Path(settings.configfiles[0])
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def survey_files(plan: jaxrnn.plan.Plan) -> list[str]:
    """Returns the files that ingest reads: when one of them changes, it runs again."""
    data = plan.experiment.data
    if plan.survey_key is not None:
        reader = reader_class(data.reader)
        elsewhere = reader.files_elsewhere(reader.Options.model_validate(data.options))
        return [f"results/surveys/{plan.survey_key}/survey.json", *map(str, elsewhere)]
    return [str(file) for file in open_reader(data.reader, Path(data.path), data.options).files()]


def new_survey_files(wildcards) -> list[str]:
    """Returns the files of the survey that `predict` names: when one of them changes, it runs again."""
    if experiment.predict is None:
        sys.exit(f"jaxrnn: {experiment_file}: has no section `predict`, which names the survey to be classified")
    data, path = experiment.data, Path(experiment.predict.path)
    try:
        options = data.options | reader_class(data.reader).TO_PREDICT
        return [str(file) for file in open_reader(data.reader, path, options).files()]
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: predict.path: {error}")


def without_run_keys(experiment: Experiment) -> dict:
    """Returns the experiment's values without those that change how a job runs and not what it gives."""
    values = experiment.model_dump(mode="json", exclude={"predict"})
    return values | {"training": {key: value for key, value in values["training"].items() if key not in RUN_KEYS}}


# Snakemake doesn't count params that derive from outputs or resources as reasons to rerun, and knows them by the names
# of these functions' arguments.
def experiment_path(wildcards, output) -> str:
    # what the DAG was made from, also when the user edits the file meanwhile
    return f"results/{experiment.experiment}/experiment.yaml"


def launcher(wildcards, resources) -> str:
    """Returns what starts `tasks` MPI ranks, or nothing for one process alone."""
    return f"{resources.mpi} -n {resources.tasks}" if getattr(resources, "mpi", "") else ""


def processes_of_training() -> dict:
    """Returns the resources of a job of several processes, or none for one: SLURM's plugin takes every job that has an
    MPI launcher for one of many tasks."""
    processes = experiment.training.processes
    if processes == 1:
        return {}
    # one fact of the site for all rules: profiles name it for ingest
    given = workflow.resource_settings.overwrite_resources.get("ingest", {})
    name = str(given["mpi"].raw) if "mpi" in given else ""
    if not name:
        raise JaxrnnError(
            f"{experiment_file}: training.processes: {processes} are started by an MPI launcher, and the profile names "
            "none; set `mpi` of the rule `ingest` under `set-resources`, `mpirun` or `srun --mpi=pmi2` "
            "(slurm/README.md), or train with `training.processes: 1`"
        )
    # without the last one SLURM's plugin would ask for so many tasks on each GPU
    return {"mpi": name, "tasks": processes, **({"tasks_per_gpu": 1} if experiment.training.device == "gpu" else {})}


def trials_of(wildcards) -> str:
    """Returns what a job's outputs depend on."""
    trials = jaxrnn.plan.job_digest(jobs[wildcards.job])
    return digest([trials, rungs]) if rungs else trials


def cores_of(wildcards) -> int:
    """Returns how many cores a training job takes: on a CPU one for each of its trials, or fewer where jobs stand side
    by side. Of several processes each has so many, and one is what their rows need."""
    if experiment.training.processes > 1 or experiment.training.device != "cpu":
        return 1
    trials = len(jobs[wildcards.job].trials)
    cores = workflow.resource_settings.cores  # none on a cluster, where the profile sets them
    # by the whole plan, not by what is left of it: a job that goes on does so on as many as before
    return jaxrnn.estimates.cores_of_a_job(len(jobs), trials, cores) if cores else trials


def audit_cores() -> int:
    """Returns how many cores the audit can use: on a CPU one for each of the networks that train at once."""
    if experiment.training.device == "gpu" or experiment.audit is None:
        return 1
    if not {*(experiment.audit.only or AUDITS)} & {*TRAINED_AUDITS}:
        return 1
    return min(experiment.audit.permutations, experiment.training.trials_per_job)


# Of a training job that was not measured. It goes on where its time was too short.
UNMEASURED = Asked(minutes=480, memory_mb=8000, needed_mb=1)


@functools.cache
def priorities() -> dict[str, int]:
    """Returns that of each training job, of 1,000 at most."""
    work = jaxrnn.estimates.work(plan, Results(Path("results")))
    most = max(work.values())
    return {job: round(1000 * own / most) for job, own in work.items()}


def priority_of(wildcards) -> int:
    """Returns a training job's: the longest begin first, so that none is left for the end, beside idle cores."""
    # a job's own Snakemake has nothing to choose from
    return priorities()[wildcards.job] if workflow.is_main_process else 0


@functools.cache
def cluster() -> Cluster | JaxrnnError | None:
    """Returns what SLURM says of itself, or why it says nothing; None where jobs go elsewhere, or are not looked at.

    The controller alone looks, and once.
    """
    # a dry run has another executor, and --dag and the like have none
    submits = getattr(workflow.executor_plugin, "name", "") == "slurm"
    submits = submits or (workflow.dryrun and jaxrnn.doctor.AS_SUBMITTED in os.environ)
    if not (submits and workflow.is_main_process) or os.getenv(jaxrnn.doctor.SWITCH) == "0":
        return None
    try:
        return jaxrnn.slurm.cluster()
    except JaxrnnError as error:
        return error


@functools.cache
def own_partitions() -> list:
    """Returns those of the profile's partitions.yaml, as SLURM's plugin reads them; it chooses of them for a job that
    names none."""
    file = getattr(workflow.executor_settings, "partition_config", None) or os.getenv(jaxrnn.doctor.PARTITIONS)
    if not file:
        return []
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    return read_partition_file(Path(file))


# Of a rule's resources those that decide where a job may run, and on which of the nodes there. None of them can depend on
# its time or memory.
PLACING = ("slurm_partition", "slurm_cluster", "clusters", "cluster", "gpu", "gpu_model", "gres", "nodes")
PLACING += ("cpus_per_task", "mem_mb_per_cpu")


def allowed(name: str, ask: Callable, least: Callable = lambda wildcards: 1, share: float = 1) -> Callable:
    """Returns the function of a rule's resource `name`, `runtime` (minutes) or `mem_mb`: what `ask` says of a job at an
    attempt, or as much of it as the job's partition allows. What a user sets takes the function's place, and is not cut.

    least: less than this it never is, because the job would fail. share: of the time, where one SLURM job does the work
    of several rules.
    """

    def asked(wildcards, input, attempt, threads, rulename) -> int:
        wanted, here = ask(wildcards, attempt), cluster()
        if not isinstance(here, Cluster):
            return wanted
        resources = workflow.get_rule(rulename).resources
        given = {"input": input, "attempt": attempt, "threads": threads, "rulename": rulename}
        names = PLACING if name == "mem_mb" else (*PLACING, "mem_mb")
        values = {
            one: resources.get(one).evaluate(wildcards, **given, async_run=workflow.async_run).value for one in names
        }
        request = Request.of(rulename, values | {"_cores": threads})
        own = {
            choice.name: Limits(choice.limits.max_runtime, choice.limits.max_mem_mb)
            for choice in own_partitions()
            if choice.limits.max_gpu >= request.gpus
        }
        limits = here.limits(request, own)
        most = limits.memory_mb if name == "mem_mb" else share * limits.minutes
        return max(least(wildcards), int(min(wanted, most)))

    return asked


def asked_of(job: str) -> Asked:
    """Returns what a training job asks for at first, as `jaxrnn plan` measured it, if it did."""
    return measured.get(job, UNMEASURED)


def most_asked() -> Asked:
    """Returns the most of each that a training job asks for, which does for the audit, whose networks are like theirs."""
    return Asked(*map(max, zip(*(measured.values() or [UNMEASURED]))))


# How long a training job may run at a time.
minutes_of = allowed("runtime", lambda wildcards, attempt: asked_of(wildcards.job).minutes)
# It may have run out of memory before. SLURM counts a node's, and all processes may be on one.
memory_mb = allowed(
    "mem_mb",
    lambda wildcards, attempt: asked_of(wildcards.job).memory_mb * attempt * experiment.training.processes,
    least=lambda wildcards: asked_of(wildcards.job).needed_mb * experiment.training.processes,
)
minutes_of_audit = allowed("runtime", lambda wildcards, attempt: most_asked().minutes)
# In one process, however many train a job together.
memory_of_audit = allowed(
    "mem_mb",
    lambda wildcards, attempt: most_asked().memory_mb * attempt,
    least=lambda wildcards: most_asked().needed_mb,
)


def attempt_number(wildcards, attempt) -> int:
    return attempt


def promoted(wildcards) -> list[str]:
    """Returns the table of what went on from the rung before, or nothing for the first one."""
    before = int(wildcards.get("rung", len(plan.rungs))) - 1
    return [f"results/{experiment.experiment}/rungs/{before}.csv"] if before else []


def report_on_the_rest(run_logs: list) -> None:
    """Writes tables and report of the jobs that are finished, where others failed; the report names these.

    The files are made older than all input, so that the next run makes them anew whatever has become of the others.
    """
    folder, command = Path("results") / experiment.experiment, [sys.executable, "-m", "jaxrnn"]
    interrupted = getattr(workflow.scheduler, "_user_kill", None)
    if interrupted or any("Terminating processes on user request" in Path(log).read_text() for log in run_logs):
        return
    for name in ("aggregate --partial", "report"):
        words = [*command, *name.split(), "--config", str(folder / "experiment.yaml")]
        if subprocess.run(words).returncode:
            return
    for name in ("best.json", "report.html"):
        os.utime(folder / name, (1, 1))
    logger.error(f"Some jobs failed. {folder / 'report.html'} is of the others, and names them.")


def requests_of(job) -> list[Request]:
    """Returns what a job asks SLURM for, and what its last attempt would where that is something else."""
    name, first = job.groupid if job.is_group() else job.rule.name, job.attempt
    found = [Request.of(name, dict(job.resources.items()))]
    job.attempt = first + (job.restart_times or 0)
    last = Request.of(name, dict(job.resources.items()))
    if last != found[0]:
        found.append(replace(last, rule=f"{name} at attempt {job.attempt}"))
    job.attempt = first
    return found


def check_cluster() -> None:
    """Ends the run before anything is submitted where SLURM would not run a job of it; warns of what may pass."""
    if workflow.executor_plugin.name != "slurm":
        return
    dag = workflow.dag
    alone = [job for job in dag.needrun_jobs() if not (job.is_local or job.rule.norun)]
    asked = {dag.get_job_group(job) or job for job in alone}  # a group of jobs is one SLURM job
    try:
        here = cluster()
        if isinstance(here, JaxrnnError):
            raise here
        requests = [request for job in asked for request in requests_of(job)]
        for remark in jaxrnn.doctor.refuse(requests, vars(workflow.executor_settings), here):
            logger.warning(remark)
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: {error}")


# The exit code where another controller lives, for all that is known, and it may be worth to try again.
REFUSED = os.EX_TEMPFAIL


def become_controller(early: bool) -> None:
    """Makes this process the experiment's controller if it runs jobs: a dry run doesn't, nor does a job's own
    Snakemake."""
    # --dag, --summary and the like have no executor
    if not workflow.is_main_process or workflow.executor_plugin is None or workflow.dryrun:
        return
    submits = hasattr(workflow.executor_settings, "jobname_prefix")
    if submits:
        names = jaxrnn.controller.job_names(experiment.experiment)
        workflow.executor_settings.jobname_prefix = names
        executor = getattr(workflow.scheduler, "_executor", None)
        if not getattr(executor, "run_uuid", names).startswith(names):
            # where files or rules are named on the command line, it is made by now, and has submitted nothing
            executor.run_uuid = f"{names}_{executor.run_uuid}"
        patient = str(Path(workflow.basedir, "slurm", "bin"))
        os.environ.update(JAXRNN_PYTHON=sys.executable)
        path = os.getenv("PATH", os.defpath)
        if patient not in path.split(os.pathsep):
            os.environ.update(PATH=os.pathsep.join([patient, path]))
    try:
        jaxrnn.controller.begin(
            plan,
            Results(Path("results")),
            submits=submits,
            snakemake=Path(workflow.persistence.path),
            known=lambda path: workflow.persistence.metadata(IOFile(str(path))) is not None,
            say=logger.info,
            early=early,
        )
    except jaxrnn.lock.Held as refusal:
        print(f"jaxrnn: {refusal}", file=sys.stderr)
        sys.exit(REFUSED)
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: {error}")
    except OSError as error:
        sys.exit(f"jaxrnn: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("jaxrnn: stopped while it waited for SLURM jobs, which go on")


# Of all functions in rules Snakemake calls this one first, for it belongs to the target: when it knows what it is to do,
# and before it looks at any file or takes its lock, at which it would stop.
def report_page(wildcards) -> str:
    """Returns the experiment's report."""
    become_controller(early=True)
    return f"results/{experiment.experiment}/report.html"


def write_plan() -> None:
    """Writes plan.csv and the jobs' configs, and tells what becomes of earlier results."""
    try:
        for remark in jaxrnn.plan.write(plan, Results(Path("results"))):
            logger.info(remark)
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: {error}")


try:
    experiment_file = given_file()
    experiment = load(experiment_file)
    plan = jaxrnn.plan.make(experiment)
    jaxrnn.plan.check_size(plan, Results(Path("results")))
    processes = processes_of_training()
    surveys = survey_files(plan)
except JaxrnnError as error:
    sys.exit(f"jaxrnn: {error}")

jobs = {job.name: job for job in plan.jobs}
measured = jaxrnn.estimates.resources(plan, Results(Path("results")))
# Of successive halving: the epoch at which each rung ends, and how many grid points it has.
rungs = [[rung.epochs, rung.points] for rung in plan.rungs] if len(plan.rungs) > 1 else []
values = experiment.model_dump(mode="json")
manifest = f"results/datasets/{plan.dataset_key}/manifest.json"
predictions = f"results/{experiment.experiment}/predictions.parquet"
if experiment.predict is not None and experiment.predict.output is not None:
    predictions = experiment.predict.output
gpus = experiment.training.processes if experiment.training.device == "gpu" else 0


wildcard_constraints:
    experiment=re.escape(experiment.experiment),
    job="|".join(re.escape(job) for job in jobs),
    rung="[0-9]+",
    dataset="[0-9a-f]+",
    survey="[0-9a-f]+",
