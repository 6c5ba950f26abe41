"""What may import what, and that the command line answers before anything heavy is loaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxrnn"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Returns the full names that a module imports; with `top_level`, only where importing it imports them too."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for inner in ast.walk(node)
        if inner is not node
    }
    for node in ast.walk(tree):
        if top_level and id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def users_of(library: str) -> set[str]:
    return {
        name
        for name, path in MODULES.items()
        if any(entry == library or entry.startswith(f"{library}.") for entry in imported(path))
    }


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("h5py", {"jaxrnn.shards", "jaxrnn.predictions", "jaxrnn.tables", "jaxrnn.readers.hdf5", "jaxrnn.clips"}),
        ("mpi4py", {"jaxrnn.ranks"}),
        ("orbax", set()),
        ("altair", {"jaxrnn.report.figures"}),
        ("vl_convert", {"jaxrnn.report.figures"}),
        ("typer", {"jaxrnn.cli"}),
        ("snakemake", set()),
        ("pyarrow", {"jaxrnn.simulate", "jaxrnn.readers.simulated", "jaxrnn.readers.rows", "jaxrnn.tables"}),
        ("astropy", {"jaxrnn.readers.snana_fits"}),
    ],
)
def test_a_library_has_its_one_place(library: str, allowed: set[str]) -> None:
    assert users_of(library) <= allowed


def test_slurms_programs_have_their_one_place() -> None:
    programs = {"sbatch", "scancel", "scontrol", "sinfo", "sacctmgr"}
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in programs
    }
    # `submission` stands in front of the real sbatch, which Snakemake calls
    assert users == {"jaxrnn.slurm", "jaxrnn.submission"}


def test_networks_and_losses_do_no_input_or_output() -> None:
    for name in ("blueprint", "layers", "recurrence", "models", "attention", "losses", "ctc", "monitoring", "training"):
        found = imported(PACKAGE / f"{name}.py")
        assert not found & {"os", "pathlib", "io", "jaxrnn.results", "jaxrnn.shards", "jaxrnn.trials", "pandas"}, name


def test_readers_know_nothing_of_what_comes_after_them() -> None:
    allowed = {"jaxrnn.errors", "jaxrnn.readers", "jaxrnn.results"}
    for name, path in MODULES.items():
        if name.startswith("jaxrnn.readers"):
            ours = {entry for entry in imported(path) if entry.startswith("jaxrnn.")}
            assert all(any(entry == a or entry.startswith(f"{a}.") for a in allowed) for entry in ours), (name, ours)


def test_modules_import_each_other_without_circles() -> None:
    edges = {
        name: {entry for entry in imported(path, top_level=True) if entry in MODULES and entry != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


WITHOUT_JAX = ("cli", "config", "blueprint", "plan", "ingest", "splits", "aggregate", "report", "view", "describe")
WITHOUT_JAX += ("decoding", "doctor", "slurm", "status", "inference")


def test_what_runs_without_a_device_loads_no_jax() -> None:
    """All in one process: what none of them loads here, each loads by itself neither."""
    code = "import importlib, sys\n"
    code += f"for name in {WITHOUT_JAX}:\n    importlib.import_module(f'jaxrnn.{{name}}')\n"
    code += "    assert not {'jax', 'flax'} & set(sys.modules), name\n"
    subprocess.run([sys.executable, "-c", code], check=True)
