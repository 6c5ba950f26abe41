# From the grid to trained jobs.


localrules:
    plan,


# The plan also writes experiment.yaml. It is no output, because Snakemake deletes outputs before it reruns a rule, and
# the plan reads the earlier experiment.yaml to say what changed.
rule plan:
    output:
        table="results/{experiment}/plan.csv",
        configs=expand("results/{{experiment}}/jobs/{job}/config.yaml", job=jobs),
    log:
        "results/{experiment}/logs/plan.txt",
    benchmark:
        "results/{experiment}/benchmarks/plan.tsv"
    message:
        "Plan the jobs of {wildcards.experiment}"
    params:
        values=digest(values),
    resources:
        runtime=10,
        mem_mb=1000,
    shell:
        "jaxrnn plan --config {experiment_file:q} > {log:q} 2>&1"


# The config is `ancient`, because a new plan rewrites the files of all jobs: a job runs again when its trials change.
# Checkpoints and finished trials are no outputs, and so survive every rerun: a job goes on where it was, in the same log.
rule train:
    input:
        config=ancient("results/{experiment}/jobs/{job}/config.yaml"),
        manifest=manifest,
        splits=rules.split.output.splits,
        statistics=rules.split.output.statistics,
    output:
        trials="results/{experiment}/jobs/{job}/trials.csv",
        history="results/{experiment}/jobs/{job}/history.csv",
        predictions="results/{experiment}/jobs/{job}/predictions.h5",
        models=directory("results/{experiment}/jobs/{job}/models"),
    log:
        "results/{experiment}/jobs/{job}/log.txt",
    benchmark:
        "results/{experiment}/jobs/{job}/benchmark.tsv"
    message:
        "Train the job {wildcards.job}"
    params:
        trials=trials_of,
    threads: 1
    resources:
        runtime=480,
        mem_mb=8000,
        gpu=gpus,
    shell:
        "jaxrnn train --config {input.config:q} >> {log:q} 2>&1"
