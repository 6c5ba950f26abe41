# From the chosen model and a new survey to predictions: asked for by name, `snakemake predict ...`.


rule predict:
    input:
        survey=new_survey_files,
        model=f"results/{experiment.experiment}/best",
    output:
        predictions,
    log:
        f"results/{experiment.experiment}/logs/predict.txt",
    benchmark:
        f"results/{experiment.experiment}/benchmarks/predict.tsv"
    conda:
        "../../environment.yml"
    resources:
        runtime=allowed("runtime", lambda wildcards, attempt: 240),
        mem_mb=8000,
        tasks=1,
        mpi="",
    params:
        survey=lambda wildcards: experiment.predict.path,
        # a reader of one's own is imported on the experiment's word, not on the model's
        reader=experiment.data.reader,
        launcher=launcher,
    message:
        "Classify a new survey by {input.model}"
    shell:
        "{params.launcher} jaxrnn predict --model {input.model:q} --input {params.survey:q} --output {output:q} "
        "--reader {params.reader:q} --ranks {resources.tasks} > {log:q} 2>&1"
