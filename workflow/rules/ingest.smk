# From survey files to shards, splits and statistics.


rule simulate:
    output:
        "results/surveys/{survey}/survey.json",
    log:
        "results/surveys/{survey}/log.txt",
    benchmark:
        "results/surveys/{survey}/benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 60),
        mem_mb=4000,
    params:
        experiment=experiment_path,
    message:
        "Simulate the survey {wildcards.survey}"
    shell:
        "jaxrnn simulate --config {params.experiment:q} > {log:q} 2>&1"


# Only the manifest is an output: shards that a changed survey leaves as they are must outlive a rerun.
# How ranks are started is a fact of the site: profiles set `mpi` (mpirun, srun --mpi=pmi2) and `tasks`, their number.
rule ingest:
    input:
        surveys,
    output:
        "results/datasets/{dataset}/manifest.json",
    log:
        "results/datasets/{dataset}/log.txt",
    benchmark:
        "results/datasets/{dataset}/benchmark.tsv"
    conda:
        "../../environment.yml"
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 240),
        mem_mb=8000,
        tasks=1,
        mpi="",
    params:
        experiment=experiment_path,
        launcher=launcher,
    message:
        "Ingest the dataset {wildcards.dataset}"
    shell:
        "{params.launcher} jaxrnn ingest --config {params.experiment:q} --ranks {resources.tasks} > {log:q} 2>&1"


rule split:
    input:
        manifest,
    output:
        splits="results/{experiment}/splits.csv",
        statistics="results/{experiment}/statistics.json",
    log:
        "results/{experiment}/logs/split.txt",
    benchmark:
        "results/{experiment}/benchmarks/split.tsv"
    conda:
        "../../environment.yml"
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 60),
        mem_mb=8000,
    params:
        experiment=experiment_path,
        values=digest(
            [
                values["split"],
                jaxrnn.plan.learnt_task(values["task"]),
                values["data"]["features"],
                jaxrnn.plan.split_seed(values),
                jaxrnn.plan.sequences_used(values),
            ]
        ),
    message:
        "Split the objects of {wildcards.experiment}"
    shell:
        "jaxrnn split --config {params.experiment:q} > {log:q} 2>&1"
