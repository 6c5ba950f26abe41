# From trained jobs to the choice, the audit and the report.


onerror:
    report_on_the_rest([log] if isinstance(log, str) else log)


rule aggregate:
    input:
        splits=rules.split.output.splits,
        trials=expand("results/{{experiment}}/jobs/{job}/trials.csv", job=jobs),
        history=expand("results/{{experiment}}/jobs/{job}/history.csv", job=jobs),
        predictions=expand("results/{{experiment}}/jobs/{job}/predictions.h5", job=jobs),
        models=expand("results/{{experiment}}/jobs/{job}/models", job=jobs),
    output:
        choice=report("results/{experiment}/best.json", caption="../captions/best.rst", category="{experiment}"),
        tables=report(
            multiext(
                "results/{experiment}/",
                "training_results.csv",
                "experiment_results.csv",
                "grid_results.csv",
                "effects.csv",
                "history.csv",
                *mistakes_tables(experiment.task.kind),
            ),
            caption="../captions/tables.rst",
            category="{experiment}",
            subcategory="tables",
        ),
        best=directory("results/{experiment}/best"),
    log:
        "results/{experiment}/logs/aggregate.txt",
    benchmark:
        "results/{experiment}/benchmarks/aggregate.tsv"
    group:
        "results"
    conda:
        "../../environment.yml"
    # the chosen networks run here, hundreds of times on a few hundred objects, and differently long
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 60 * attempt, share=1 if experiment.audit else 2 / 3),
        mem_mb=allowed("mem_mb", lambda wildcards, attempt: 4000 * attempt),
    params:
        experiment=experiment_path,
        selection=digest([values["selection"], values["task"]]),
    message:
        "Choose the best trial of {wildcards.experiment} and merge all results"
    shell:
        "env JAX_PLATFORMS=cpu jaxrnn aggregate --config {params.experiment:q} > {log:q} 2>&1"


# Where the experiment asks for it. Networks that it trains are kept under results/<experiment>/audit, which is no output: a
# killed audit goes on.
rule audit:
    input:
        results=rules.aggregate.output,
    output:
        table=report(
            "results/{experiment}/audit.csv",
            caption="../captions/tables.rst",
            category="{experiment}",
            subcategory="tables",
        ),
        findings="results/{experiment}/audit.json",
    log:
        "results/{experiment}/logs/audit.txt",
    benchmark:
        "results/{experiment}/benchmarks/audit.tsv"
    conda:
        "../../environment.yml"
    threads: audit_cores()
    resources:
        runtime=minutes_of_audit,
        mem_mb=memory_of_audit,
        gpu=min(gpus, 1),
    params:
        experiment=experiment_path,
        values=digest(values["audit"]),
    message:
        "Audit {wildcards.experiment}"
    shell:
        "env JAX_NUM_CPU_DEVICES={threads} NPROC={threads} "
        "jaxrnn audit --config {params.experiment:q} --requeue >> {log:q} 2>&1"


rule report:
    input:
        results=rules.aggregate.output,
        audit=rules.audit.output if experiment.audit else [],
    output:
        page=report("results/{experiment}/report.html", caption="../captions/page.rst", category="{experiment}"),
        figures=report(
            directory("results/{experiment}/figures"),
            patterns=["{figure}.svg"],
            caption="../captions/figures.rst",
            category="{experiment}",
            subcategory="figures",
        ),
    log:
        "results/{experiment}/logs/report.txt",
    benchmark:
        "results/{experiment}/benchmarks/report.tsv"
    # a group holds nothing that waits for what is outside
    group:
        "report" if experiment.audit else "results"
    conda:
        "../../environment.yml"
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 30, share=1 if experiment.audit else 1 / 3),
        mem_mb=allowed("mem_mb", lambda wildcards, attempt: 4000),
    params:
        experiment=experiment_path,
        values=digest(without_run_keys(experiment)),
    message:
        "Write the report results/{wildcards.experiment}/report.html"
    shell:
        "jaxrnn report --config {params.experiment:q} > {log:q} 2>&1"
