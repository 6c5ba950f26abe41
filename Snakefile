# jaxrnn as a workflow: survey files -> dataset -> splits -> trained jobs -> choice -> audit -> report.
# Which experiment: snakemake --profile workflow/profiles/local --configfile config/demo.yaml


report: "workflow/captions/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/predict.smk"


rule all:
    default_target: True
    input:
        report_page,
