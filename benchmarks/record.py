"""What all results have in common: the machine, versions, date, load and command, and medians with their spread."""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingest import machine

RESULTS = Path(__file__).parent / "results"
# those that `machine` leaves out
PACKAGES = ("jaxlib", "flax", "optax", "snakemake")


def begun() -> dict[str, Any]:
    """Returns what is noted before anything is measured: the load says whether the machine was quiet."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "machine": machine() | versions,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 2),
        "command": command(sys.argv),
    }


def command(arguments: Sequence[str]) -> str:
    """Returns the command as a page may show it: whatever is a path of this machine is PATH there."""

    def shown(word: str) -> str:
        name, equals, value = word.partition("=")
        return (f"{name}=PATH" if equals and "/" in value else "PATH") if "/" in word else word

    return " ".join(["python", f"benchmarks/{Path(arguments[0]).name}", *map(shown, arguments[1:])])


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": len(values)}


def ratio(peer: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """Returns how many times as much the peer takes: of the medians, and of the runs that say least and most for us."""
    return {
        "median": peer["median"] / ours["median"],
        "low": peer["low"] / ours["high"],
        "high": peer["high"] / ours["low"],
    }


def keep(output: Path, content: dict[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n")


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions that another environment has."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} lacks one of {', '.join(packages)}:\n{done.stderr[-500:]}")
    return json.loads(done.stdout)


def as_installed(**changed: str) -> dict[str, str]:
    """Returns the environment of a user's command: nothing that JAX compiled earlier is found, modules are."""
    hidden = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_NUM_CPU_DEVICES", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | changed
