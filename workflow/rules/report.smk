# From trained jobs to the choice and the report.


rule aggregate:
    input:
        plan=ancient(rules.plan.output.table),
        splits=rules.split.output.splits,
        trials=expand("results/{{experiment}}/jobs/{job}/trials.csv", job=jobs),
        history=expand("results/{{experiment}}/jobs/{job}/history.csv", job=jobs),
        predictions=expand("results/{{experiment}}/jobs/{job}/predictions.h5", job=jobs),
        models=expand("results/{{experiment}}/jobs/{job}/models", job=jobs),
    output:
        multiext(
            "results/{experiment}/",
            "best.json",
            "training_results.csv",
            "experiment_results.csv",
            "grid_results.csv",
            "history.csv",
            "confusion_matrix_validation.csv",
            "confusion_matrix_test.csv",
            "confusion_matrix_validation_normalised.csv",
            "confusion_matrix_test_normalised.csv",
        ),
        best=directory("results/{experiment}/best"),
    log:
        "results/{experiment}/logs/aggregate.txt",
    benchmark:
        "results/{experiment}/benchmarks/aggregate.tsv"
    message:
        "Choose the best trial of {wildcards.experiment} and merge all results"
    params:
        selection=digest(values["selection"]),
    group:
        "results"
    resources:
        runtime=30,
        mem_mb=4000,
    shell:
        "jaxrnn aggregate --config {experiment_file:q} > {log:q} 2>&1"


rule report:
    input:
        results=rules.aggregate.output,
    output:
        page="results/{experiment}/report.html",
        figures=directory("results/{experiment}/figures"),
    log:
        "results/{experiment}/logs/report.txt",
    benchmark:
        "results/{experiment}/benchmarks/report.tsv"
    message:
        "Write the report results/{wildcards.experiment}/report.html"
    params:
        values=digest(without_run_keys(experiment)),
    group:
        "results"
    resources:
        runtime=30,
        mem_mb=4000,
    shell:
        "jaxrnn report --config {experiment_file:q} > {log:q} 2>&1"
