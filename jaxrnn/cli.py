"""The `jaxrnn` command. Each subcommand loads the experiment, calls one function, and says what was written.

Nothing heavy is imported before a subcommand runs: `jaxrnn --help` answers at once.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from jaxrnn import __version__
from jaxrnn.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, EndedElsewhere, Interrupted, JaxrnnError, plural

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains, compares and reports recurrent classifiers of survey time series.",
    epilog="""\b
Snakemake calls simulate, ingest, split, train, aggregate, audit and report:
  snakemake --profile workflow/profiles/local --configfile config/demo.yaml
\b
Exit codes: 0 done, 2 a mistake in input or configuration, 130 interrupted
(what was done is kept, and the same command goes on).""",
)
ConfigFile = Annotated[Path, typer.Option("--config", help="The experiment file, such as config/demo.yaml.")]
ResultsFolder = Annotated[Path, typer.Option("--results", help="Where results lie.")]
ModelFolder = Annotated[Path, typer.Option("--model", help="The chosen model, results/<experiment>/best.")]
RESULTS = Path("results")
SLURM = Path("slurm")
MACHINE_FAULTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOTDIR)


def say(text: str) -> None:
    with suppress(OSError):  # a log on a disk that is full costs no work
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _progress(noun: str, rank: int = 0) -> Callable[[int, int], None]:
    """Returns a function that tells how far a count is, at most every ten seconds; of many ranks the first one tells,
    of its own share."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if rank == 0 and time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"{done} of {total} {noun}")

    return tell


def _examples(*commands: str) -> str:
    # \b keeps click from joining the lines
    return "\b\n" + "\n".join(["Examples:" if len(commands) > 1 else "Example:", *(f"  {line}" for line in commands)])


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"jaxrnn {__version__}")
        raise typer.Exit


@app.command(
    epilog=_examples(
        "jaxrnn simulate --config config/demo.yaml", "mpirun -n 4 jaxrnn simulate --config config/demo.yaml --ranks 4"
    )
)
def simulate(
    config: Annotated[
        Path,
        typer.Option("--config", help="An experiment file with data.simulation, or a file of these parameters alone."),
    ],
    results: ResultsFolder = RESULTS,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of the survey; results/surveys/<key> where left out.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option("--ranks", min=1, help="MPI ranks that were asked for; others are refused.")
    ] = None,
) -> None:
    """Makes a survey: light curves, brain scans, or waves."""
    from jaxrnn import ranks as mpi
    from jaxrnn.config import load_simulation
    from jaxrnn.plan import survey_key
    from jaxrnn.results import Results

    place = mpi.join(ranks)
    simulation = place.each(lambda: load_simulation(config))[place.rank]
    maker = sys.modules[type(simulation).__module__]
    folder = output or Results(results).survey(survey_key(simulation))
    tell = _progress("files", place.rank)

    def progress(done: int, total: int) -> None:
        place.heed()
        tell(done, total)

    place.each(lambda: maker.simulate(simulation, folder, place.rank, place.size, progress))
    place.first(lambda: maker.finish(simulation, folder))
    if place.rank == 0:
        say(f"survey in {folder}")


@app.command(
    epilog=_examples(
        "jaxrnn ingest --config config/goto.yaml", "mpirun -n 4 jaxrnn ingest --config config/goto.yaml --ranks 4"
    )
)
def ingest(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    ranks: Annotated[
        int | None, typer.Option("--ranks", min=1, help="MPI ranks that were asked for; others are refused.")
    ] = None,
) -> None:
    """Turns survey files into shards; accounts for each object."""
    from jaxrnn import ingest as ingest_module
    from jaxrnn import plan as plan_module
    from jaxrnn import ranks as mpi
    from jaxrnn.config import load
    from jaxrnn.results import Results

    place, at = mpi.join(ranks), Results(results)
    experiment = place.each(lambda: load(config))[place.rank]
    folder = at.dataset(plan_module.dataset_key(experiment))
    survey = plan_module.survey_folder(experiment, at)
    manifest = ingest_module.ingest(experiment.data, survey, folder, place, _progress("parts or shards", place.rank))
    if place.rank == 0:
        counts: dict[str, int] = manifest["counts"]  # type: ignore[assignment]
        rejected = counts["objects_rejected"] + counts["observations_rejected"] + counts["parts_rejected"]
        say(
            f"{counts['objects_out']} of {counts['objects_in']} objects and {counts['observations_out']} of "
            f"{counts['observations_in']} observations are in {folder}"
            + (f"; {_cut(counts)} by choice" if counts["observations_cut"] else "")
            + _repeated(counts)
            + ("; what is rejected stands in rejected.csv, with reasons" if rejected else "")
        )


def _repeated(counts: dict[str, int]) -> str:
    if not counts["times_repeated"]:
        return ""
    return (
        f"; {counts['times_repeated']} observations, kept, have the time and passband of another one of their object "
        f"({counts['observations_repeated']} of them equal it in every value: rows that were copied?)"
    )


def _cut(counts: dict[str, int]) -> str:
    observations = f"{counts['observations_cut']} observations"
    if not counts["objects_cut"]:
        return f"{observations} are cut"
    return f"{observations} are cut, the whole of {counts['objects_cut']} objects among them,"


@app.command(epilog=_examples("jaxrnn verify --config config/goto.yaml"))
def verify(config: ConfigFile, results: ResultsFolder = RESULTS) -> None:
    """Checks every shard against the manifest's checksums."""
    from jaxrnn import ingest as ingest_module
    from jaxrnn import plan as plan_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    folder = Results(results).dataset(plan_module.dataset_key(load(config)))
    wrong = ingest_module.verify(folder, _progress("shards"))
    if wrong:
        raise JaxrnnError(
            "\n  ".join(
                [
                    "the dataset is not as it was written:",
                    *wrong,
                    "remove what is named here and run `jaxrnn ingest` again, it makes missing shards alone",
                ]
            )
        )
    say(f"every shard in {folder} is as it was written")


@app.command(epilog=_examples("jaxrnn readers", "jaxrnn readers table"))
def readers(
    name: Annotated[str | None, typer.Argument(help="A reader, to see its options.")] = None,
) -> None:
    """Lists the survey formats, with an example each."""
    from jaxrnn import catalogue

    print(catalogue.listing() if name is None else catalogue.described(name))


@app.command(
    epilog=_examples(
        "jaxrnn view --config config/spcc_ia.yaml",
        "jaxrnn view --config config/spcc_ia.yaml --object 13 --object 2000 --output two.png",
        "jaxrnn view --config config/spcc_ia.yaml --from-shards --class Ia --per-class 9",
    )
)
def view(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    objects: Annotated[list[str] | None, typer.Option("--object", help="An object's id; may be given often.")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="A label; all of them where left out.")] = None,
    per_class: Annotated[int, typer.Option("--per-class", min=1, help="Objects of each class, drawn by --seed.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws others.")] = 0,
    column: Annotated[
        str | None, typer.Option("--column", help="The column to draw; the first one where left out.")
    ] = None,
    from_shards: Annotated[
        bool,
        typer.Option("--from-shards", help="Draw what the network sees, from the dataset, not the survey's files."),
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", help="What to write; its ending says how: .html, .png or .svg.")
    ] = Path("view.html"),
) -> None:
    """Draws objects of a survey: look at them before training."""
    from jaxrnn import plan as plan_module
    from jaxrnn import view as view_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    experiment, at = load(config), Results(results)
    wanted = view_module.Wanted(
        objects=tuple(objects or ()),
        classes=tuple(classes or ()),
        per_class=per_class,
        seed=seed,
        column=column,
        together=experiment.task.kind == "label_sequence",
    )
    if from_shards:
        folder = at.dataset(plan_module.dataset_key(experiment))
        say(view_module.draw_dataset(folder, wanted, output, _progress("shards")))
    else:
        survey = plan_module.survey_folder(experiment, at)
        say(view_module.draw_survey(experiment.data, survey, wanted, output, _progress("parts")))


@app.command(
    epilog=_examples(
        "jaxrnn describe --config config/goto.yaml", "jaxrnn describe --config config/spcc_ia.yaml --output network.svg"
    )
)
def describe(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    output: Annotated[
        Path | None, typer.Option("--output", help="Also draw them into this file; its ending says how: .svg or .png.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, help="How many there are, where the file doesn't say.")
    ] = None,
) -> None:
    """Prints the networks, layer by layer, and draws them."""
    from jaxrnn import describe as describe_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    print(describe_module.describe(load(config), Results(results), output, classes))
    if output is not None:
        say(f"drawn in {output}")


@app.command(epilog=_examples("jaxrnn split --config config/goto.yaml"))
def split(config: ConfigFile, results: ResultsFolder = RESULTS) -> None:
    """Splits the objects; takes statistics of training alone."""
    from jaxrnn import plan as plan_module
    from jaxrnn import splits
    from jaxrnn.config import load
    from jaxrnn.results import Results

    experiment, at = load(config), Results(results)
    dataset = at.dataset(plan_module.dataset_key(experiment))
    folder = at.experiment(experiment.experiment)
    for remark in splits.split(experiment, dataset, folder):
        say(remark)
    say(f"splits in {folder / 'splits.csv'}")


@app.command(epilog=_examples("jaxrnn plan --config config/goto.yaml"))
def plan(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    yes: Annotated[bool, typer.Option("--yes", help="So many trials are meant, however many they are.")] = False,
    measure: Annotated[bool, typer.Option(help="Train a moment of each program, to say what jobs will take.")] = True,
    cores: Annotated[
        int | None,
        typer.Option("--cores", min=1, help="Of a job that trains on a CPU; left out, its share of this machine's."),
    ] = None,
) -> None:
    """Writes the grid's trials and each job's config.yaml."""
    from jaxrnn import plan as plan_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    experiment, at = load(config), Results(results)
    made = plan_module.make(experiment)
    plan_module.check_size(made, at, confirm=yes)
    for remark in (*plan_module.write(made, at), *plan_module.in_words(made)):
        say(remark)
    say(f"each trial with its job: {at.experiment(experiment.experiment) / 'plan.csv'}")
    from jaxrnn import estimates

    if not measure:
        return
    if not estimates.ready(made, at):
        say("what jobs will take can be measured once the survey is ingested and split: jaxrnn ingest, jaxrnn split")
        return
    most = max(len(job.trials) for job in made.jobs)
    cores = cores or estimates.cores_of_a_job(len(made.jobs), most, os.cpu_count() or 1)
    try:
        rows = estimates.estimate(made, at, cores, say)
    except JaxrnnError as error:
        # the plan is written all the same
        say(f"{error} (--no-measure leaves this out)")
        return
    for line in estimates.in_words(rows, {job.name: len(job.trials) for job in made.jobs}):
        say(line)
    if experiment.training.processes > 1:
        say(f"measured with one process; each job has {experiment.training.processes}, and takes less time")


@app.command(epilog=_examples("jaxrnn calibrate --config results/goto/jobs/cell-gru-1/config.yaml"))
def calibrate(
    config: Annotated[Path, typer.Option("--config", help="A job's config.yaml, which `jaxrnn plan` writes.")],
    results: ResultsFolder = RESULTS,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long it trains.")] = 3.0,
) -> None:
    """Prints what a job takes on this device, from a moment of it."""
    import json

    from jaxrnn import plan as plan_module

    job_file = plan_module.load_job(config)
    from jaxrnn import jobs
    from jaxrnn.results import Results

    print(json.dumps(jobs.calibrate(job_file, Results(results), seconds)))


@app.command(epilog=_examples("jaxrnn promote --config config/goto_search.yaml --rung 1"))
def promote(
    config: ConfigFile,
    rung: Annotated[int, typer.Option("--rung", min=1, help="The rung that all jobs have trained, counted from 1.")],
    results: ResultsFolder = RESULTS,
) -> None:
    """Chooses by validation which trials go on from a rung."""
    from jaxrnn import aggregate as aggregate_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    say(aggregate_module.promote(load(config), Results(results), rung))


@app.command(
    epilog=_examples(
        "jaxrnn train --config results/goto/jobs/cell-gru-1/config.yaml",
        "jaxrnn train --config results/goto/jobs/cell-gru-1/config.yaml --output replay --retrain",
        "mpirun -n 4 jaxrnn train --config results/goto/jobs/cell-gru-1/config.yaml",
    )
)
def train(
    config: Annotated[Path, typer.Option("--config", help="A job's config.yaml, which `jaxrnn plan` writes.")],
    results: ResultsFolder = RESULTS,
    output: Annotated[
        Path | None, typer.Option("--output", help="Where the job's outputs go; the config's folder where left out.")
    ] = None,
    rung: Annotated[
        int | None, typer.Option("--rung", min=1, help="Of search.halving; the last one where left out.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train finished trials again, to the end.")] = False,
    attempt: Annotated[
        int, typer.Option("--attempt", min=1, help="How often it was started, after errors; the report tells.")
    ] = 1,
    requeue: Annotated[
        bool,
        typer.Option(
            "--requeue", help="Requeue the SLURM job that it is in when that is nearly over, or at TERM or USR1."
        ),
    ] = False,
) -> None:
    """Trains a job's trials at once, on from its checkpoint."""
    from jaxrnn import plan as plan_module
    from jaxrnn import ranks as mpi

    try:
        place = mpi.join(None)
    except JaxrnnError:
        # one process needs no MPI, whatever a launcher's variables in the shell say
        if plan_module.load_job(config).training.processes > 1:
            raise
        place = mpi.Ranks().listening()
    job_file = place.here(lambda: plan_module.load_job(config, place.size))
    from jaxrnn import deadlines, progress
    from jaxrnn.results import Results

    at, output = Results(results), output or config.parent
    folder = output if rung is None else output / f"rung-{rung}"
    telling = progress.told(folder) if place.rank == 0 else nullcontext(progress.nothing)
    # a job script of the user's own is not ours to start again
    ending = deadlines.going_on(place, say) if requeue else nullcontext()
    with telling as tell, place.as_one(), ending:
        from jaxrnn import jobs

        jobs.train(job_file, at, output, say, rung=rung, retrain=retrain, attempt=attempt, ranks=place, tell=tell)


@app.command(
    epilog=_examples("jaxrnn status", "jaxrnn status --config config/goto.yaml --watch 30", "jaxrnn status goto --json")
)
def status(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments; all that are planned here where left out.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The experiment file, in place of a name.")] = None,
    results: ResultsFolder = RESULTS,
    watch: Annotated[
        float | None, typer.Option("--watch", min=5, help="Look again every so many seconds, until all is done.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, for a program to read.")] = False,
) -> None:
    """Shows what is done, running, waiting, failed, and how far."""
    from jaxrnn import status as status_module
    from jaxrnn.results import Results

    at = Results(results)
    while True:
        page, finished = status_module.page(at, tuple(names or ()), config, as_json=as_json)
        if watch and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")  # a screen of its own, from the top
        print(f"{time.strftime('%H:%M:%S')}\n{page}\n" if watch and not as_json else page, flush=True)
        if not watch or finished:
            return
        time.sleep(watch)


@app.command(epilog=_examples("jaxrnn aggregate --config config/goto.yaml"))
def aggregate(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of the jobs that are finished, where others failed; the report says so.")
    ] = False,
) -> None:
    """Writes the tables; chooses the best trial by validation."""
    from jaxrnn import aggregate as aggregate_module
    from jaxrnn.config import ERROR_RATES, load
    from jaxrnn.results import Results

    best = aggregate_module.aggregate(load(config), Results(results), partial=partial)

    def shown_score(name: str) -> str:
        value, low, high = (best["test"][name][part] for part in ("value", "low", "high"))
        return f"{name.replace('_', ' ')} {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")

    told = ("macro_auc", "macro_f1", "accuracy", *ERROR_RATES)
    shown = ", ".join(shown_score(name) for name in told if name in best["test"])
    say(f"chosen by validation {best['metric']}: {best['trial']}; on test {shown}")


@app.command(
    epilog=_examples(
        "jaxrnn predict --model results/goto/best --input next-week --output predictions.parquet",
        "mpirun -n 4 jaxrnn predict --model results/goto/best --input next-week --output p.csv --ranks 4",
    )
)
def predict(
    model: ModelFolder,
    survey: Annotated[Path, typer.Option("--input", help="The survey's folder or file, as `data.path` names one.")],
    output: Annotated[
        Path, typer.Option("--output", help="What to write; its ending says how: .parquet, .csv or .h5.")
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="YAML with a `data` section: what differs from the training survey's."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option("--reader", help="What reads the survey; one of your own is run only if you name it here."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option("--ranks", min=1, help="MPI ranks that were asked for; others are refused.")
    ] = None,
) -> None:
    """Classifies a survey with a finished experiment's model."""
    from jaxrnn import bundles, inference, tables
    from jaxrnn import ranks as mpi

    tables.check(output)
    place = mpi.join(ranks)
    bundle = place.here(lambda: bundles.load(model))
    settings = place.here(lambda: inference.data_for(bundle, survey, data, reader))
    told = inference.run(
        bundle, settings, output, place, _progress("parts or shards read", place.rank), _progress("shards", place.rank)
    )
    if place.rank == 0:
        say(
            f"{told.predicted} of {told.objects} objects are predicted, {told.rejected} rejected and {told.cut} cut"
            + (f"; {told.unreadable} files, or pieces of them, could not be read" if told.unreadable else "")
            + f"; predictions in {output}"
            + (f", what was left out in {told.rejected_file}, with reasons" if told.rejected_file else "")
        )


@app.command(epilog=_examples("jaxrnn export --model results/goto/best --output model.stablehlo"))
def export(
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", help="The program; what it takes stands in a .json beside it.")],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="What sequences are padded to; any number where left out.")
    ] = None,
) -> None:
    """Writes a model as a StableHLO program, to run elsewhere."""
    from jaxrnn import bundles

    bundle = bundles.load(model)
    from jaxrnn import exports

    about = exports.write(bundle, output, steps)
    say(f"program in {output}; what it takes and gives in {about}")


@app.command(epilog=_examples("jaxrnn audit --config config/audit_copies.yaml"))
def audit(
    config: ConfigFile,
    results: ResultsFolder = RESULTS,
    requeue: Annotated[
        bool,
        typer.Option(
            "--requeue", help="Requeue the SLURM job that it is in when that is nearly over, or at TERM or USR1."
        ),
    ] = False,
) -> None:
    """Audits whether the scores can be believed; names leaks."""
    from jaxrnn import deadlines
    from jaxrnn.config import load
    from jaxrnn.ranks import Ranks
    from jaxrnn.results import Results

    experiment, at, alone = load(config), Results(results), Ranks().listening()
    with deadlines.going_on(alone, say) if requeue else nullcontext():
        from jaxrnn import audit as audit_module

        found = audit_module.audit(experiment, at, say)
    for finding in found:
        print(f"{finding.verdict.upper():9} {finding.audit}: {finding.words}")
    say(f"audits in {at.experiment(experiment.experiment) / 'audit.csv'}")


@app.command(epilog=_examples("jaxrnn report --config config/goto.yaml"))
def report(config: ConfigFile, results: ResultsFolder = RESULTS) -> None:
    """Writes the experiment's report.html and its figures."""
    from jaxrnn import plan as plan_module
    from jaxrnn import report as report_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    experiment, at = load(config), Results(results)
    dataset = at.dataset(plan_module.dataset_key(experiment))
    say(f"report in {report_module.write(at.experiment(experiment.experiment), dataset)}")


@app.command(epilog=_examples("jaxrnn compare results/goto results/goto_search"))
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of finished experiments, the one to compare with first.")
    ],
    output: Annotated[Path, typer.Option("--output", help="The folder of comparison.html and its tables.")] = Path(
        "comparison"
    ),
) -> None:
    """Puts experiments side by side, on test objects of both."""
    from jaxrnn import compare as compare_module

    found = compare_module.compare(folders)
    for remark in found.remarks:
        say(remark)
    compare_module.write(found, output)
    say(f"comparison in {output / 'comparison.html'}")


@app.command(epilog=_examples("jaxrnn tensorboard --config config/goto.yaml; tensorboard --logdir results/goto"))
def tensorboard(config: ConfigFile, results: ResultsFolder = RESULTS) -> None:
    """Writes TensorBoard's events of a finished experiment."""
    from jaxrnn import tensorboard as tensorboard_module
    from jaxrnn.config import load
    from jaxrnn.results import Results

    folder = Results(results).experiment(load(config).experiment)
    say(f"events in {tensorboard_module.write(folder, _progress('trials'))}: tensorboard --logdir {folder}")


@app.command(
    epilog=_examples(
        "jaxrnn doctor --profile slurm/mysite",
        "jaxrnn doctor --profile slurm --config config/goto.yaml --job --gpu",
        "jaxrnn doctor --profile workflow/profiles/local",
    )
)
def doctor(
    profile: Annotated[Path, typer.Option("--profile", help="The profile that `snakemake` will be given.")] = SLURM,
    config: Annotated[
        Path | None, typer.Option("--config", help="An experiment file: what its jobs ask for, a GPU or not.")
    ] = None,
    results: ResultsFolder = RESULTS,
    job: Annotated[bool, typer.Option("--job", help="Look from a node too, by one short job.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="With a GPU, of the kind that training asks for.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Minutes that the job may take to start and end.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    node: Annotated[Path | None, typer.Option("--on-node", hidden=True)] = None,
) -> None:
    """Checks cluster, profile, GPU, MPI and disk before a run."""
    import json
    from dataclasses import asdict

    from jaxrnn import doctor as doctor_module

    if node is not None:
        doctor_module.on_node(node)
        return
    wanted = doctor_module.Wanted(profile, config, results, job=job or gpu, gpu=gpu, wait_minutes=wait)
    findings = []
    for finding in doctor_module.examine(wanted, say):
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    faults = sum(finding.state == doctor_module.FAULT for finding in findings)
    if as_json:
        print(json.dumps({"faults": faults, "findings": [asdict(finding) for finding in findings]}, indent=1))
    if faults:
        say(f"{plural(faults, 'fault')}: what to do stands behind each")
        raise typer.Exit(EXIT_USER_ERROR)


@app.command(epilog=_examples("jaxrnn schema > config/schema.json", "jaxrnn schema --tables"))
def schema(
    tables: Annotated[bool, typer.Option("--tables", help="Print the tables of config/README.md instead.")] = False,
) -> None:
    """Prints the JSON Schema of the experiment file."""
    import json

    from jaxrnn import catalogue, config

    print(f"{config.tables()}\n{catalogue.tables()}" if tables else json.dumps(config.schema(), indent=1))


def main() -> None:
    """Runs the command line; a user's mistake is one message and exit code 2, never a traceback."""
    try:
        app(prog_name="jaxrnn")
    except JaxrnnError as error:
        print(f"jaxrnn: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Interrupted as stop:
        print(f"jaxrnn: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        # refused by the machine, at whatever step: permissions, a full or broken disk, a file where a folder should be
        if error.filename is None or error.errno not in MACHINE_FAULTS:
            raise
        print(f"jaxrnn: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except EndedElsewhere:
        raise
    except SystemExit as end:
        # what typer makes of Ctrl-C, without a word
        if end.code == EXIT_INTERRUPTED:
            print("jaxrnn: interrupted; the same command goes on", file=sys.stderr)
        raise
