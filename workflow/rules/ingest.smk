# From survey files to shards, splits and statistics.


rule simulate:
    output:
        "results/surveys/{survey}/survey.json",
    log:
        "results/surveys/{survey}/log.txt",
    benchmark:
        "results/surveys/{survey}/benchmark.tsv"
    message:
        "Simulate the survey {wildcards.survey}"
    resources:
        runtime=60,
        mem_mb=4000,
    shell:
        "jaxrnn simulate --config {experiment_file:q} > {log:q} 2>&1"


# Only the manifest is an output: shards that a changed survey leaves as they are must outlive a rerun.
# How ranks are started is a fact of the site: profiles set `tasks` and `mpi` ("mpirun -n 2", "srun --mpi=pmi2 -n 2").
rule ingest:
    input:
        surveys,
    output:
        "results/datasets/{dataset}/manifest.json",
    log:
        "results/datasets/{dataset}/log.txt",
    benchmark:
        "results/datasets/{dataset}/benchmark.tsv"
    message:
        "Ingest the dataset {wildcards.dataset}"
    resources:
        runtime=240,
        mem_mb=8000,
        tasks=1,
        mpi="",
    shell:
        "{resources.mpi} jaxrnn ingest --config {experiment_file:q} --ranks {resources.tasks} > {log:q} 2>&1"


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
    message:
        "Split the objects of {wildcards.experiment}"
    params:
        values=digest([values["split"], values["task"], jaxrnn.plan.split_seed(values)]),
    resources:
        runtime=60,
        mem_mb=8000,
    shell:
        "jaxrnn split --config {experiment_file:q} > {log:q} 2>&1"
