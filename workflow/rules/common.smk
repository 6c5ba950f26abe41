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
from pathlib import Path

from snakemake.io import IOFile

import jaxrnn.controller
import jaxrnn.doctor
import jaxrnn.estimates
import jaxrnn.plan
from jaxrnn.config import AUDITS, RUN_KEYS, TRAINED_AUDITS, Experiment, digest, load
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import open_reader, reader_class
from jaxrnn.results import Results, mistakes_tables
from jaxrnn.slurm import Request

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


# Of a training job that was not measured.
UNMEASURED = dict(runtime=480, mem_mb=8000)


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


def minutes_of(wildcards) -> int:
    """Returns how long a training job may run at a time, as `jaxrnn plan` measured it, if it did."""
    return measured[wildcards.job][0] if wildcards.job in measured else UNMEASURED["runtime"]


def memory_mb(wildcards, attempt) -> int:
    """Returns the memory of a training job, as `jaxrnn plan` measured it, if it did; it may have run out of it before."""
    memory = measured[wildcards.job][1] if wildcards.job in measured else UNMEASURED["mem_mb"]
    # SLURM counts a node's, and all processes may be on one
    return memory * attempt * experiment.training.processes


def minutes_of_audit(wildcards) -> int:
    """Returns how long the audit may run at a time: as the longest training job."""
    return max((minutes for minutes, _ in measured.values()), default=UNMEASURED["runtime"])


def memory_of_audit(wildcards, attempt) -> int:
    """Returns the memory of the audit: as the largest training job's, whose networks its own are like."""
    # in one process, however many train a job together
    return max((memory for _, memory in measured.values()), default=UNMEASURED["mem_mb"]) * attempt


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


def check_cluster() -> None:
    """Ends the run before anything is submitted where SLURM would not run a job of it; warns of what may pass."""
    if workflow.executor_plugin.name != "slurm":
        return
    dag = workflow.dag
    alone = [job for job in dag.needrun_jobs() if not (job.is_local or job.rule.norun)]
    asked = {dag.get_job_group(job) or job for job in alone}  # a group of jobs is one SLURM job
    settings = vars(workflow.executor_settings)
    try:
        names = {job: job.groupid if job.is_group() else job.rule.name for job in asked}
        requests = [Request.of(name, dict(job.resources.items())) for job, name in names.items()]
        for remark in jaxrnn.doctor.refuse(requests, settings):
            logger.warning(remark)
    except JaxrnnError as error:
        sys.exit(f"jaxrnn: {error}")


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
