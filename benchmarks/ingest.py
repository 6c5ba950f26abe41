"""Measures ingest: speed beside SuperNNova's, memory, scaling over ranks, reading back, input of training, a large run.

    python benchmarks/ingest.py --folder SCRATCH --supernnova /path/to/its/venv/bin/python

Needs the real SPCC data and, for the peer, an environment with SuperNNova. Scratch takes some 25 GB with all parts.
Results go to benchmarks/results/ingest.json, part by part, and as Markdown tables to the standard output.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import yaml
from pyarrow import csv as arrow_csv

from jaxrnn import shards

RESULTS = Path(__file__).parent / "results" / "ingest.json"
COMMANDS = Path(sys.executable).parent
PASSBANDS = ("g", "r", "i", "z")
TYPES = {101: "Ia", 120: "II", 121: "IIn", 122: "IIL", 123: "IIP", 132: "Ib", 133: "Ic", 134: "Ibc"}
MISSING = -9.0
# The `jaxrnn` command, which leaves its process's peak memory behind.
AS_RANK = """
import atexit, os, resource, sys
from pathlib import Path
folder = Path(sys.argv.pop(1))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
atexit.register(lambda: (folder / f"peak-{os.getpid()}").write_text(str(peak())))
from jaxrnn.cli import main
main()
"""
# SuperNNova takes two workers fewer than there are processors. The installation stays as it is.
TWO_WORKERS = """
import multiprocessing
multiprocessing.cpu_count = lambda: 4
from cli.run import main
main()
"""


@dataclass(frozen=True)
class Run:
    """What a command took. cpu_seconds: of all its processes, which a busy machine stretches less. peaks: bytes of each
    rank, largest first."""

    seconds: float
    cpu_seconds: float
    peaks: list[int]


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how much. data: the real surveys. peer: SuperNNova's Python. objects: of `million`."""

    folder: Path
    data: Path
    peer: Path | None
    repeats: int
    objects: int

    def environment(self) -> dict[str, str]:
        """Returns the environment of both sides: modules are compiled once, as in an ordinary installation."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"PYTHONPYCACHEPREFIX": str(self.folder / "compiled")}

    def run(self, command: list[Any], peaks: Path | None = None) -> Run:
        for stale in peaks.glob("peak-*") if peaks else []:
            stale.unlink()  # of a run that was stopped
        started, cpu_started = time.perf_counter(), _cpu_of_children()
        done = subprocess.run([str(word) for word in command], env=self.environment(), capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command[:8]))} ... failed:\n{done.stderr[-4000:]}")
        found = sorted(peaks.glob("peak-*")) if peaks else []
        sizes = sorted((int(file.read_text()) for file in found), reverse=True)
        for file in found:
            file.unlink()
        return Run(seconds, _cpu_of_children() - cpu_started, sizes)

    def jaxrnn(self, *words: Any, ranks: int = 1) -> Run:
        """Runs a subcommand, on two ranks or more with `mpirun`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        alone = [sys.executable, "-c", AS_RANK, self.folder, *words]
        command = alone if ranks == 1 else [COMMANDS / "mpirun", "-n", ranks, *alone, "--ranks", ranks]
        return self.run(command, self.folder)

    def ingest(self, config: Path, ranks: int, results: Path) -> Run:
        """Ingests into an empty results folder; the survey's files are in the page cache."""
        shutil.rmtree(results, ignore_errors=True)
        os.sync()
        run = self.jaxrnn("ingest", "--config", config, "--results", results, ranks=ranks)
        print(f"  {config.stem}, {ranks} ranks: {run.seconds:.2f} s, CPU {run.cpu_seconds:.2f} s", file=sys.stderr)
        return run

    def survey(self, copies: int, pairs: int = 1) -> Path:
        """Returns a folder with SPCC so many times, ids distinct, as `pairs` of SNANA's tables in CSV."""
        folder = self.folder / f"spcc-{copies}x-{pairs}"
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_survey(self.data / "spcc", folder, copies, pairs)
            (folder / "done").touch()
        for file in folder.glob("*.csv"):
            _warm(file)
        return folder

    def config(self, name: str, path: Path, **changed: Any) -> Path:
        """Writes an experiment on SNANA tables; changed: sections, whose keys are set over the ones below."""
        sections: dict[str, Any] = {
            "experiment": name,
            "seed": 1,
            "data": {
                "reader": "snana_csv",
                "path": str(path),
                "options": {"passbands": list(PASSBANDS), "types": TYPES, "label": "SNTYPE"},
                "steps": "night",
                "night_gap": 0.33,  # days: SuperNNova's
                "features": ["time_difference", "flux", "flux_error", "passband"],
                "metadata": ["HOSTGAL_PHOTOZ", "HOSTGAL_PHOTOZ_ERR"],
                "on_error": {"error": "reject"},
            },
            "split": {"method": "hash"},
            "task": {"classes": {"Ia": ["Ia"], "other": ["*"]}},
            "model": {"cell": "gru", "units": 32},
            "loss": {},
            "training": {},
            "selection": {},
            "grid": {},
        }
        for section, values in changed.items():
            sections[section] = sections[section] | values
        file = self.folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(sections, sort_keys=False))
        return file


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---------------------------------------------------------------- surveys


def write_survey(spcc: Path, folder: Path, copies: int, pairs: int) -> None:
    with np.load(spcc / "spcc_lightcurves.npz") as arrays:
        owner = np.repeat(np.arange(len(arrays["snid"])), np.diff(arrays["offsets"]))
        snid = arrays["snid"].astype(np.int64)
        rows = {
            "MJD": arrays["mjd"],
            "FLUXCAL": arrays["flux"],
            "FLUXCALERR": arrays["flux_err"],
            "FLT": pa.DictionaryArray.from_arrays(arrays["band"].astype(np.int8), list(PASSBANDS)).cast(pa.string()),
        }
    metadata = arrow_csv.read_csv(spcc / "spcc_metadata.csv").to_pydict()
    place = {name: index for index, name in enumerate(metadata["snid"])}
    order = [place[name] for name in snid.tolist()]
    number = {name: code for code, name in TYPES.items()}
    missing = np.full(len(snid), MISSING)
    heads = {
        "PEAKMJD": np.array(metadata["sim_peakmjd"])[order],
        "HOSTGAL_PHOTOZ": np.array(metadata["hostz"])[order],
        "HOSTGAL_PHOTOZ_ERR": np.array(metadata["hostz_err"])[order],
        "HOSTGAL_SPECZ": missing,
        "HOSTGAL_SPECZ_ERR": missing,
        "MWEBV": np.array(metadata["mwebv"])[order],
        "SNTYPE": np.array([number[name] for name in metadata["sim_type"]])[order],
    }
    plain = arrow_csv.WriteOptions(quoting_style="none")
    # a pair holds whole objects: pieces of SPCC where there are more pairs than copies, else whole copies
    cuts = np.linspace(0, len(snid) * copies, pairs + 1).astype(np.int64)
    for pair, (first, last) in enumerate(itertools.pairwise(cuts.tolist())):
        head, phot = (folder / f"DES{f'-{pair:03d}' if pairs > 1 else ''}_{kind}.csv" for kind in ("HEAD", "PHOT"))
        schemas = [pa.table({"SNID": snid[:0]} | {k: v[:0] for k, v in t.items()}).schema for t in (heads, rows)]
        with (
            arrow_csv.CSVWriter(head, schemas[0], write_options=plain) as objects,
            arrow_csv.CSVWriter(phot, schemas[1], write_options=plain) as observations,
        ):
            for copy in range(first // len(snid), -(-last // len(snid))):
                start, stop = max(first - copy * len(snid), 0), min(last - copy * len(snid), len(snid))
                ids = snid + copy * 1_000_000
                begin, end = np.searchsorted(owner, [start, stop])
                table = {"SNID": ids[start:stop]} | {name: values[start:stop] for name, values in heads.items()}
                objects.write_table(pa.table(table, schema=schemas[0]))
                table = {"SNID": ids[owner[begin:end]]} | {name: values[begin:end] for name, values in rows.items()}
                observations.write_table(pa.table(table, schema=schemas[1]))


def _warm(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(1 << 24):
            pass


def _size(files: Any) -> int:
    return sum(file.stat().st_size for file in files)


def _manifest(results: Path) -> tuple[Path, dict[str, Any]]:
    file = next(iter((results / "datasets").glob("*/manifest.json")))
    return file.parent, json.loads(file.read_text())


def _times(runs: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(runs), 3), "runs": [round(run, 3) for run in runs]}


# ---------------------------------------------------------------- parts


def peer(bench: Bench) -> dict[str, Any]:
    """SPCC in CSV to training-ready files: ours with 2 ranks, SuperNNova's `make_data` with 2 workers, in turn."""
    if bench.peer is None:
        sys.exit("the part `peer` needs --supernnova: the Python of an environment with SuperNNova")
    found: dict[str, Any] = {"supernnova": version_of(bench.peer)}
    for pairs in (1, 4):
        survey = bench.survey(1, pairs)
        config, results = bench.config(f"peer-{pairs}", survey), bench.folder / "results"
        ours, splits, theirs = [], [], []
        for repeat in range(bench.repeats + 1):
            run = bench.ingest(config, 2, results)
            split = bench.jaxrnn("split", "--config", config, "--results", results)
            if repeat:  # the first compiles the modules
                ours.append(run)
                splits.append(split)
            if repeat <= (2 if pairs == 1 else 1):
                other = _make_data(bench, survey)
                if repeat:
                    theirs.append(other)
        folder, manifest = _manifest(results)
        with h5py.File(next((bench.folder / "peer").glob("processed/*.h5"))) as file:
            their_objects = len(file["SNID"])  # type: ignore[arg-type]
            their_steps = sum(len(row) for row in file["data"][()]) // len(file["features"])  # type: ignore
        seconds, their_seconds = ([run.seconds for run in runs] for runs in (ours, theirs))
        both = [run.seconds + split.seconds for run, split in zip(ours, splits, strict=True)]
        found[f"{pairs}_pairs"] = {
            "rows": manifest["counts"]["observations_in"],
            "bytes": _size(survey.glob("*.csv")),
            "ingest_seconds": _times(seconds),
            "ingest_and_split_seconds": _times(both),
            "make_data_seconds": _times(their_seconds),
            "ratio": round(statistics.median(their_seconds) / statistics.median(seconds), 1),
            "ratio_with_split": round(statistics.median(their_seconds) / statistics.median(both), 1),
            "ingest_cpu_seconds": _times([run.cpu_seconds for run in ours]),
            "make_data_cpu_seconds": _times([run.cpu_seconds for run in theirs]),
            "peak_bytes": max(max(run.peaks) for run in ours),
            "objects": manifest["counts"]["objects_out"],
            "steps": manifest["counts"]["steps_out"],
            "their_objects": their_objects,
            "their_steps": their_steps,
            "shard_bytes": _size(folder.glob("*.h5")),
            "their_bytes": _size((bench.folder / "peer").glob("processed/*.h5")),
        }
    return found


def _make_data(bench: Bench, survey: Path) -> Run:
    output = bench.folder / "peer"
    shutil.rmtree(output, ignore_errors=True)
    types = json.dumps({str(code): name for code, name in TYPES.items()})
    os.sync()
    arguments = ["make_data", "--dump_dir", output, "--raw_dir", survey, "--sntype_var", "SNTYPE", "--sntypes", types]
    run = bench.run([bench.peer, "-c", TWO_WORKERS, *arguments])
    print(f"  make_data: {run.seconds:.2f} s, of the CPU {run.cpu_seconds:.2f} s", file=sys.stderr)
    return run


def memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of each of 2 ranks with 1, 10 and 50 times the data, each as one pair of files."""
    found = {}
    for copies in (1, 10, 50):
        survey = bench.survey(copies)
        config, results = bench.config(f"memory-{copies}", survey), bench.folder / "results"
        run = bench.ingest(config, 2, results)
        folder, manifest = _manifest(results)
        found[f"{copies}x"] = {
            "rows": manifest["counts"]["observations_in"],
            "bytes": _size(survey.glob("*.csv")),
            "seconds": round(run.seconds, 2),
            "peak_bytes": run.peaks,
            "shards": len(manifest["shards"]),
            "shard_bytes": _size(folder.glob("*.h5")),
        }
        shutil.rmtree(results)
        if copies == 50:
            shutil.rmtree(survey)
    peaks = [max(entry["peak_bytes"]) for entry in found.values()]
    return found | {"most_over_least": round(max(peaks) / min(peaks), 3)}


def ranks(bench: Bench) -> dict[str, Any]:
    """One rank and two, in turn: SPCC once, 10 times in 10 pairs of files, 10 times in one pair."""
    found = {}
    for copies, pairs in ((1, 1), (10, 10), (10, 1)):
        config = bench.config(f"ranks-{copies}-{pairs}", bench.survey(copies, pairs))
        runs: dict[int, list[Run]] = {1: [], 2: []}
        for _ in range(bench.repeats):
            for count, done in runs.items():
                done.append(bench.ingest(config, count, bench.folder / "results"))
        entry: dict[str, Any] = {
            f"{n}_ranks_seconds": _times([run.seconds for run in done]) for n, done in runs.items()
        }
        entry |= {f"{n}_ranks_cpu_seconds": _times([run.cpu_seconds for run in done]) for n, done in runs.items()}
        medians = [statistics.median(run.seconds for run in done) for done in runs.values()]
        found[f"{copies}x in {pairs} pairs"] = entry | {"ratio": round(medians[0] / medians[1], 2)}
    return found


def partitions(bench: Bench) -> dict[str, Any]:
    """SPCC 10 times, cut finer and finer, as a larger survey is: the cost of bringing parts x partitions together."""
    found = {}
    for megabytes in (32, 4, 1):
        config = bench.config(f"partitions-{megabytes}", bench.survey(10), data={"shard_mb": megabytes})
        run = bench.ingest(config, 2, bench.folder / "results")
        shards_made = len(_manifest(bench.folder / "results")[1]["shards"])
        found[f"shard_mb {megabytes}"] = {
            "seconds": round(run.seconds, 2),
            "partitions": shards_made,
            "peak_bytes": run.peaks,
        }
    return found


def reading(bench: Bench) -> dict[str, Any]:
    """Shards read back from the page cache beside NumPy reading the same file, and the same arrays from .npy files."""
    found: dict[str, Any] = {}
    for compression in ("none", "gzip"):
        data = {"steps": "observation", "compression": compression}
        config, results = bench.config(f"reading-{compression}", bench.survey(1), data=data), bench.folder / "results"
        bench.ingest(config, 2, results)
        paths = sorted(_manifest(results)[0].glob("*.h5"))
        copies = bench.folder / "npy"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for index, path in enumerate(paths):
            with h5py.File(path) as file:
                for name in ("ids", "labels", "offsets", "time", "features", "metadata"):
                    np.save(copies / f"{index}-{name}.npy", file[name][()])  # type: ignore[index]
        arrays = sorted(copies.iterdir())
        ways: dict[str, Callable[[], object]] = {
            "numpy_fromfile": lambda: [np.fromfile(path, dtype=np.uint8) for path in paths],  # noqa: B023
            "numpy_load": lambda: [np.load(path) for path in arrays],  # noqa: B023
            "read_checked": lambda: [shards.read(path) for path in paths],  # noqa: B023
            "read_unchecked": lambda: [shards.read(path, check=False) for path in paths],  # noqa: B023
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(12):
            for name, read in ways.items():
                started = time.perf_counter()
                read()
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
        content = _size(arrays)
        speeds = {f"{name}_mb_s": round(content / statistics.median(runs) / 1e6) for name, runs in seconds.items()}
        found[compression] = {"bytes": _size(paths), "bytes_of_arrays": content} | speeds
    return found


def training(bench: Bench) -> dict[str, Any]:
    """The share of its time that a job waits for input while it streams SPCC through small windows."""
    found = {}
    survey = bench.survey(1)
    for window in (4, 16):
        name = f"training-{window}"
        changed = {"training": {"window_mb": window, "epochs": 5, "batch_size": 64}, "data": {"shard_mb": 4}}
        config, results = bench.config(name, survey, **changed), bench.folder / "results"
        bench.ingest(config, 2, results)
        for command in ("split", "plan"):
            bench.jaxrnn(command, "--config", config, "--results", results)
        job = next((results / name / "jobs").iterdir())
        bench.jaxrnn("train", "--config", job / "config.yaml", "--results", results)
        rows = arrow_csv.read_csv(job / "trials.csv").to_pylist()
        seconds, waited = (sum(row[key] for row in rows) for key in ("seconds", "input_seconds"))
        found[f"window_mb {window}"] = {
            "seconds": round(seconds, 2),
            "input_seconds": round(waited, 3),
            "share": round(waited / seconds, 4),
        }
        print(f"  {name}: {waited:.3f} of {seconds:.1f} s", file=sys.stderr)
    return found


def million(bench: Bench) -> dict[str, Any]:
    """A million simulated light curves: made, ingested, split and verified."""
    objects, rare = bench.objects, bench.objects // 20
    simulation = {
        "objects": {"variable_star": objects - 2 * rare, "supernova": rare, "agn": rare},
        "passbands": ["g", "r", "i"],
        "days": 400,
        "objects_per_file": 5000,
    }
    data = {"reader": "simulated", "simulation": simulation, "metadata": ["galactic_latitude"]}
    config = bench.config("million", Path(), data=data, task={"classes": None})
    sections = yaml.safe_load(config.read_text())
    del sections["data"]["path"], sections["data"]["options"], sections["task"]["classes"]
    config.write_text(yaml.safe_dump(sections, sort_keys=False))
    results = bench.folder / "million"
    shutil.rmtree(results, ignore_errors=True)
    runs: dict[str, Run] = {}
    for command, count in (("simulate", 2), ("ingest", 2), ("verify", 1), ("split", 1)):
        runs[command] = bench.jaxrnn(command, "--config", config, "--results", results, ranks=count)
        print(f"  {command}: {runs[command]}", file=sys.stderr)
    folder, manifest = _manifest(results)
    counts, seconds = manifest["counts"], runs["ingest"].seconds
    survey = next((results / "surveys").iterdir())
    found = {
        "objects": counts["objects_out"],
        "observations": counts["observations_in"],
        "steps": counts["steps_out"],
        "objects_per_second": round(counts["objects_out"] / seconds),
        "observations_per_second": round(counts["observations_in"] / seconds),
        "survey_files": len(list(survey.iterdir())),
        "survey_bytes": _size(survey.iterdir()),
        "shards": len(manifest["shards"]),
        "shard_bytes": _size(folder.glob("*.h5")),
        "manifest_bytes": (folder / "manifest.json").stat().st_size,
        "survey_files_json_bytes": (folder / "survey_files.json").stat().st_size,
        "splits_csv_bytes": (results / "million" / "splits.csv").stat().st_size,
    }
    for command, run in runs.items():
        found |= {f"{command}_seconds": round(run.seconds, 2), f"{command}_cpu_seconds": round(run.cpu_seconds, 2)}
        found[f"{command}_peak_bytes"] = run.peaks
    shutil.rmtree(results)
    return found


PARTS = {part.__name__: part for part in (peer, memory, ranks, partitions, reading, training, million)}


# ---------------------------------------------------------------- what is kept and shown


def version_of(python: Path) -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('supernnova'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("jaxrnn", "numpy", "pyarrow", "h5py", "jax", "mpi4py", "mpich")
    installed = {entry.metadata["Name"].lower() for entry in importlib.metadata.distributions()}
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages if name in installed},
    }


def _table(name: str, found: dict[str, Any]) -> str:
    """Returns a part's results as a Markdown table: a row for each mapping in them, or one of the plain values."""
    rows = {key: value for key, value in found.items() if isinstance(value, dict)}
    plain = {key: value for key, value in found.items() if key not in rows}
    rows = rows or {name: plain}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {name} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for key, row in rows.items():
        lines.append(f"| {key} | {' | '.join(_shown(row.get(column, '')) for column in columns)} |")
    if len(plain) and name not in rows:
        lines += ["", ", ".join(f"{key} {_shown(value)}" for key, value in plain.items())]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']} ({min(value['runs'])} to {max(value['runs'])})"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder, on the disk to be measured")
    parser.add_argument("--supernnova", type=Path, help="the Python of an environment with SuperNNova")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the real surveys")
    parser.add_argument("--repeats", type=int, default=3, help="of each timed command (3)")
    parser.add_argument("--objects", type=int, default=1_000_000, help="simulated light curves (a million)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; the parts are {', '.join(PARTS)}")
    folder = options.folder.resolve()
    bench = Bench(folder, options.data.resolve(), options.supernnova, options.repeats, options.objects)
    for name in options.parts or PARTS:
        print(name, file=sys.stderr)
        load = os.getloadavg()[0]
        found = {"date": time.strftime("%Y-%m-%d"), "load_before": round(load, 2), **PARTS[name](bench)}
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        kept = {"machine": machine(), **{k: v for k, v in kept.items() if k != "machine"}, name: found}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(kept, indent=1) + "\n")
        print(_table(name, found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
