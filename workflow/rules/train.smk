# Jobs: each trains the trials that its config.yaml names.


# The plan is written here, by the process that made the DAG from it, and not by a rule: Snakemake leaves every other
# reason to run a job unlooked at while a rule that the job depends on has to run, even through `ancient` files. So one
# more grid value would either train nothing at first, or all jobs again.
onstart:
    check_cluster()
    become_controller(early=False)
    write_plan()


# Checkpoints and finished trials are no outputs, and so survive every rerun: a job goes on where it was. Its log is of its
# last start alone, for Snakemake begins it anew. XLA takes as many threads as NPROC says.
rule train:
    input:
        manifest=manifest,
        splits=rules.split.output.splits,
        statistics=rules.split.output.statistics,
        promoted=promoted,
    output:
        trials="results/{experiment}/jobs/{job}/trials.csv",
        history="results/{experiment}/jobs/{job}/history.csv",
        predictions="results/{experiment}/jobs/{job}/predictions.h5",
        models=directory("results/{experiment}/jobs/{job}/models"),
    log:
        "results/{experiment}/jobs/{job}/log.txt",
    benchmark:
        "results/{experiment}/jobs/{job}/benchmark.tsv"
    priority: priority_of
    conda:
        "../../environment.yml"
    threads: cores_of
    resources:
        **processes,
        runtime=minutes_of,
        mem_mb=memory_mb,
        gpu=gpus,
        attempt=attempt_number,
    params:
        config="results/{experiment}/jobs/{job}/config.yaml",
        trials=trials_of,
        launcher=launcher,
        rung="",
    message:
        "Train the job {wildcards.job}"
    shell:
        "{params.launcher} env JAX_NUM_CPU_DEVICES={threads} NPROC={threads} "
        "jaxrnn train --config {params.config:q} {params.rung}"
        " --attempt {resources.attempt} --requeue >> {log:q} 2>&1"


# With successive halving: each job once a rung, then the choice of what goes on. Which trials these are is known only
# then, so that every job has its part in every rung, and ends at once where none of its trials does.
use rule train as rung with:
    output:
        trials="results/{experiment}/jobs/{job}/rung-{rung}/trials.csv",
    log:
        "results/{experiment}/jobs/{job}/rung-{rung}/log.txt",
    benchmark:
        "results/{experiment}/jobs/{job}/rung-{rung}/benchmark.tsv"
    params:
        config="results/{experiment}/jobs/{job}/config.yaml",
        trials=trials_of,
        launcher=launcher,
        rung="--rung {rung}",
    message:
        "Train the job {wildcards.job}, rung {wildcards.rung}"


rule promote:
    input:
        expand("results/{{experiment}}/jobs/{job}/rung-{{rung}}/trials.csv", job=jobs),
    output:
        "results/{experiment}/rungs/{rung}.csv",
    log:
        "results/{experiment}/logs/promote-{rung}.txt",
    benchmark:
        "results/{experiment}/benchmarks/promote-{rung}.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=experiment_path,
        metric=experiment.selection.metric,
        rungs=rungs,
    message:
        "Choose which trials of {wildcards.experiment} go on from rung {wildcards.rung}"
    shell:
        "jaxrnn promote --config {params.experiment:q} --rung {wildcards.rung} > {log:q} 2>&1"
