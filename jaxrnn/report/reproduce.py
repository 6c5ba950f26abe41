"""The section on how to do it again: commands, seeds, versions, checksums, the experiment file."""

import os
import shlex
from pathlib import Path
from typing import Any

from jaxrnn.config import to_yaml
from jaxrnn.errors import listed
from jaxrnn.report.inputs import Inputs
from jaxrnn.report.tables import Table, as_number, count_cell, text_cell


def section(inputs: Inputs) -> dict[str, Any]:
    folder = _from_here(inputs.folder)
    root = os.path.dirname(folder) or "."
    elsewhere = "" if root == "results" else f" --results {shlex.quote(root)}"
    job = f"{folder}/jobs/{inputs.best['job']}/config.yaml"
    file = f"{folder}/experiment.yaml"
    software = inputs.best["software"]
    trained_with = sorted(software.items())
    # to the same bits on as many cores
    cores = software.get("cores") if software.get("device", "").startswith("cpu") else None
    on_as_many = f"JAX_NUM_CPU_DEVICES={shlex.quote(cores)} NPROC={shlex.quote(cores)} " if cores else ""
    seeds = sorted({row["seed"] for row in inputs.trials}, key=as_number)
    return {
        "replay": f"{on_as_many}jaxrnn train --config {shlex.quote(job)}{elsewhere} --retrain --output replay",
        "file": file,
        "local": f"snakemake --profile workflow/profiles/local --configfile {file}",
        "slurm": f"snakemake --profile slurm --configfile {file}",
        "trial": inputs.best["trial"],
        "seed": inputs.best["seed"],
        "fold": inputs.best.get("fold"),
        "seeds": listed(seeds, 12),
        "first_seed": inputs.config["seed"],
        "hours": f"{sum(row['seconds'] for row in inputs.trials) / 3600:.2g}",
        "jobs": len({row["job"] for row in inputs.trials}),
        "made_by": inputs.best["jaxrnn_version"],
        "trained_with": trained_with,
        "shards": Table.of(
            "shards",
            "Shards of the dataset",
            ["File", "Sequences", "Steps", "SHA-256"],
            [
                [text_cell(s["file"]), count_cell(s["sequences"]), count_cell(s["steps"]), text_cell(s["sha256"])]
                for s in inputs.manifest["shards"]
            ],
        ),
        "yaml": to_yaml(inputs.config),
    }


def _from_here(path: Path) -> str:
    """Returns a path as one types it here: from the working directory where it lies below."""
    full = path.resolve()
    here = Path.cwd().resolve()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()
