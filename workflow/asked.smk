# For `jaxrnn doctor`: a dry run of this file writes what the workflow's jobs ask of a cluster to JAXRNN_ASKED.
# Snakemake shows resources only of jobs without a message, and hides them else.
import atexit
import json


include: "../Snakefile"


def write_asked() -> None:
    """Writes each job's rule and resources, once the DAG of a dry run is made."""
    if workflow.dag is None:
        return
    jobs = [job for job in workflow.dag.jobs if not (job.rule.norun or job.rule.name in workflow._localrules)]
    asked = [[job.rule.name, {name: str(value) for name, value in job.resources.items()}] for job in jobs]
    Path(os.environ["JAXRNN_ASKED"]).write_text(json.dumps(asked))


atexit.register(write_asked)
