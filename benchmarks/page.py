"""Writes benchmarks/RESULTS.md from benchmarks/results/*.json and benchmarks/targets.json.

    python benchmarks/page.py

Every number of the page is read from these files. What limits a row and what was tried is kept by hand, below.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER / "RESULTS.md"
ABSENT = "not measured yet"
EXTRAPOLATED = 60  # minutes of a job
UNKNOWN = "not looked into yet"
# By target; shown where the row is missed. What the files hold is not said again here, for it would go stale.
LIMITS = {
    "keras": "Start-up, then products. With one epoch in place of 50 the same grid takes 36 s (2026-11-27, the first "
    "round of `goto.py`): Snakemake's start, ingest and split 7; on each core two jobs, one after the other, each some "
    "9 from its process to its first epoch's end (Python 1, initial states 1, tracing and XLA's compilation 4 and more "
    "beside another job); `aggregate` 7, of which uncertainty and attributions 5; report 4. Were training free, Keras "
    "would take 19 times as long. In training, 60 % of a step is the kernel, which makes products at 110 GFLOP/s a "
    "core (`jax.profiler`, lstm of 50 units, one device: 2.2 of 3.5 ms); the rest is dropout's bits, the optimiser and "
    "many small loops. Tried and kept: the kernel, networks built by shapes alone (64 programs a job before, 21 now), "
    "jobs side by side, so that one compiles while another trains, and the longest first (63 s without, 57 with "
    "it, a run each). Tried and left: passes of dropout in two threads (no faster).",
    "torch": "as above; besides, PyTorch's LSTM is a fused kernel of its own on a CPU, which its GRU is not",
    "predict": "Half of the time is reading: ours begins with shards on the disk, SuperNNova's with arrays in memory. "
    "Of the rest 70 % is the kernel. By count of operations its network predicts some 100,000 objects a second at the "
    "matmul's speed, 9 times as many as SuperNNova does. Tried and kept: rows in order of length, whose padding then "
    "takes no time; joined directions left in the kernel's layout (together 1.7 times).",
    "layer": "PyTorch's LSTM is one fused kernel on a CPU (its profiler names `mkldnn_rnn_layer`), its GRU and simple "
    "layer are made of single operations; the targets come from a GRU's prototype. On 256 units both sides make "
    "products at close to the matmul's speed (see below), and little is left to win. Tried and kept: the kernel, an "
    "estimate and a step of Newton's for each division.",
    "dag": "Checking each trial's values and writing the jobs' YAML, then Snakemake's own start. Tried and kept: YAML "
    "written by libyaml.",
}


def render(folder: Path = FOLDER) -> str:
    """Returns the page."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))}
    wanted = json.loads((folder / "targets.json").read_text())
    sections = [
        _targets(found, wanted),
        _goto(found.get("goto")),
        _supernnova(found.get("supernnova")),
        _layer(found.get("recurrence")),
        _scaling(found.get("scaling", {})),
        _device(found.get("scaling", {}).get("device")),
        _start(found.get("scaling", {}).get("start")),
        _dag(found.get("dag")),
        _slurm(found.get("slurm", {})),
        _ingest(found.get("ingest")),
        _early(found.get("early")),
        _predict(found.get("predict")),
        _convolution(found.get("convolution")),
        _report(found.get("report")),
        _coverage(found.get("coverage")),
        _runs(found),
    ]
    head = [
        "# Results of the benchmarks",
        "",
        "Written by `python benchmarks/page.py` from `results/*.json` and `targets.json`; not to be edited. "
        "`make bench` measures anew and writes it. What each benchmark does is in [README.md](README.md) and "
        "in its script.",
        "Numbers are medians, with the least and the most in brackets. A ratio above one says that the peer takes "
        "longer, or predicts fewer objects; its brackets are the runs that say least and most for us.",
    ]
    return "\n".join(["\n".join(head), *(section for section in sections if section)]) + "\n"


# ---------------------------------------------------------------- tables


def number(value: float) -> str:
    """Returns a number in three digits, or in all of a whole one."""
    if isinstance(value, int) or (abs(value) >= 100 and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:.3g}"


def spread(values: dict[str, Any] | None, factor: float = 1) -> str:
    if values is None:
        return "-"
    if "low" not in values:
        values = values | {"low": min(values["runs"]), "high": max(values["runs"])}
    shown = {name: number(factor * values[name]) for name in ("median", "low", "high")}
    return "{median} [{low}, {high}]".format(**shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, *paragraphs: str) -> str:
    return "\n\n".join(["", f"## {title}", *(text for text in paragraphs if text)])[1:]


# ---------------------------------------------------------------- targets


def _targets(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    goto, peer = found.get("goto", {}), found.get("supernnova", {})
    measured = {
        "keras": goto.get("keras_over_ours"),
        "torch": goto.get("torch_over_ours"),
        "epoch": peer.get("epoch_over_ours"),
        "predict": peer.get("predictions_over_theirs"),
    }
    rows = [
        _target(wanted[name]["what"], ratio, wanted[name]["times"], LIMITS.get(name, UNKNOWN))
        for name, ratio in measured.items()
    ]
    layer = wanted["layer"]
    cells = found.get("recurrence", {}).get("rows", [])
    for what, by_units in layer["times"].items():
        for units, times in by_units.items():
            place = f"batch {layer['batch']}, {layer['steps']} steps, {units} units, {what}"
            shape = {"units": int(units), "batch": layer["batch"], "steps": layer["steps"], "what": what}
            fitting = [row for row in cells if shape.items() <= row.items()]
            for row in fitting or [None]:
                cell = f", {row['cell']}" if row else ""
                told = any(LIMITS["layer"] in each for each in rows)
                limits = "as the layer's first one" if told else LIMITS["layer"]
                rows.append(_target(f"{layer['what']}: {place}{cell}", row and torch_over_ours(row), times, limits))
    dag, most = found.get("dag"), wanted["dag"]["seconds"]
    if dag is None:
        rows.append([wanted["dag"]["what"], ABSENT, f"at most {number(most)} s", "-", "-"])
    else:
        taken = dag["both_seconds"]
        missed = "reached" if taken["median"] <= most else f"missed: {number(taken['median'] / most)} times as long"
        limits = "-" if taken["median"] <= most else LIMITS["dag"]
        what = f"{wanted['dag']['what']}: {number(dag['trials'])} trials"
        rows.append([what, f"{spread(taken)} s", f"at most {number(most)} s", missed, limits])
    return section(
        "Targets",
        table(["what", "times, or seconds", "target", "reached or missed", "what limits it, and what was tried"], rows),
    )


def _target(what: str, ratio: dict[str, Any] | None, times: float, limits: str) -> list[str]:
    if ratio is None:
        return [what, ABSENT, f"{number(times)} times", "-", "-"]
    if ratio["median"] >= times:
        return [what, spread(ratio), f"{number(times)} times", "reached", "-"]
    missed = f"missed: {100 * ratio['median'] / times:.0f} % of it"
    return [what, spread(ratio), f"{number(times)} times", missed, limits]


def torch_over_ours(row: dict[str, Any]) -> dict[str, float]:
    """Returns the ratio of a row of recurrence.json, with PyTorch's better thread count."""
    peers = [entry for name, entry in row.items() if name.startswith("torch_") and name.endswith("_ms")]
    best, ours = min(peers, key=lambda entry: entry["median"]), row["ours_ms"]
    return {
        "median": best["median"] / ours["median"],
        "low": best["low"] / ours["high"],
        "high": best["high"] / ours["low"],
    }


# ---------------------------------------------------------------- one section a benchmark


def _goto(found: dict[str, Any] | None) -> str:
    if found is None:
        return section("GOTO's grid", f"`goto.py`: {ABSENT}.")
    rows = []
    for name, side in found["sides"].items():
        scaled = f"{side['trials']}, scaled" if side["scaled"] else str(side["trials"])
        values = [side["seconds"], side["measured_seconds"], side.get("training_seconds")]
        quality = [side["validation_loss"], side["validation_accuracy"]]
        rows.append([name.replace("_", " "), scaled, *map(spread, values), *map(spread, quality)])
    head = ["side", "trials measured", "whole grid (s)", "measured (s)", "training jobs alone (s)"]
    head += ["validation loss, of trials", "validation accuracy, of trials"]
    text = [f"{found['epochs']} epochs a trial, {found['runs']} runs of each side, in turn."]
    whole = found["sides"]["ours"]["trials"]
    for name, side in found["sides"].items():
        if side["scaled"]:
            text.append(
                f"**{name.replace('_', ' ')} was not measured whole**: {side['trials']} of {whole} trials were, "
                "equally many of each cell and number of units; the whole is their seconds times "
                f"{number(whole / side['trials'])}, with the start-up counted once."
            )
    ratios = [
        [name.removesuffix("_over_ours").replace("_", " "), spread(value)]
        for name, value in found.items()
        if name.endswith("_over_ours")
    ]
    text.append(f"PyTorch's better side, trial after trial, is {found['torch_in_turn'].replace('_', ' ')}.")
    return section("GOTO's grid", " ".join(text), table(head, rows), table(["peer", "peer / ours"], ratios))


def _supernnova(found: dict[str, Any] | None) -> str:
    if found is None:
        return section("SPCC beside SuperNNova", f"`supernnova.py`: {ABSENT}.")
    head = ["side", "parameters", "training of an epoch (s)", "with validation (s)", "predicted objects a second"]
    rows = [
        [name.replace("_", " "), number(side["parameters"])]
        + [spread(side.get(key)) for key in ("epoch_seconds", "whole_epoch_seconds", "objects_per_second")]
        for name, side in found["sides"].items()
    ]
    ratios = [[name.replace("_", " "), spread(value)] for name, value in found.items() if "_over_" in name]
    text = (
        f"{number(found['objects'])} training objects, batch {found['batch']}. Whole sequences on both sides; "
        "SuperNNova's default cuts each sequence at random in training, which is shown beside it."
    )
    return section("SPCC beside SuperNNova", text, table(head, rows), table(["ratio", ""], ratios))


def _layer(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = []
    for row in found["rows"]:
        shape = ", ".join(str(row[name]) for name in ("cell", "units", "batch", "steps"))
        others = [
            {
                "median": row[f"{way}_over_ours"],
                "low": row[f"{way}_ms"]["low"] / row["ours_ms"]["high"],
                "high": row[f"{way}_ms"]["high"] / row["ours_ms"]["low"],
            }
            if f"{way}_ms" in row
            else None
            for way in ("xla", "plain_scan")
        ]
        ratios = map(spread, (*others, torch_over_ours(row)))
        rows.append([shape, row["what"], spread(row["ours_ms"]), *ratios])
    head = ["cell, units, batch, steps", "", "ours (ms)", "XLA / ours", "plain scan / ours", "PyTorch / ours"]
    text = (
        '"XLA" is our layer without its kernel, which is what a GPU runs and a machine without a C++ compiler; "plain '
        'scan" is autodiff of a `lax.scan`.'
    )
    return section("One recurrent layer", text, table(head, rows))


PARTS = {
    "trials": ("trials", "seconds an epoch of the pack", "seconds a trial and epoch"),
    "steps": ("steps", "seconds a training step", "seconds a step of the sequence"),
    "objects": ("objects", "seconds an epoch", "seconds an object"),
}


def _scaling(found: dict[str, Any]) -> str:
    parts = {name: found[name] for name in PARTS if name in found}
    if not parts:
        return section("Cost against trials, steps and objects", f"`scaling.py`: {ABSENT}.")
    head = ["against", "exponent", "standard error", "between the two largest"]
    rows = [
        [name, number(part["exponent"]), number(part["standard_error"]), number(part["last_exponent"])]
        for name, part in parts.items()
    ]
    texts = [table(head, rows), "A program's MB are by its own analysis, besides the data and the trials' states."]
    for name, part in parts.items():
        of_each = [
            [
                number(row["size"]),
                spread(row["seconds"]),
                spread(row["seconds"], 1 / row["size"]),
                number(row["program_mb"]),
            ]
            for row in part["rows"]
        ]
        head = [*PARTS[name], "the program's MB"]
        texts += [table(head, of_each), f"![{PARTS[name][1]} against {name}](figures/{name}.svg)"]
    return section("Cost against trials, steps and objects", *texts)


def _device(found: dict[str, Any] | None) -> str:
    if found is None:
        return section("Distance from the device's limits", f"`scaling.py device`: {ABSENT}.")
    text = (
        f"Ceilings of {found['device']}: {spread(found['gflop_s'])} GFLOP/s (float product of two matrices, "
        f"{number(found['matmul_side'])} each way), {spread(found['gbyte_s'])} GB/s read and written (copy of "
        f"{number(found['copy_bytes'])} bytes). Operations and bytes of the layer are counted by a formula, in "
        "`scaling.counted`, not taken from the compiler: the products alone, and each array between the passes "
        "written once and read once. What stays in the cache never moves, so that a share of the copy may exceed one."
    )
    rows = [
        [", ".join(str(row[name]) for name in ("cell", "units", "batch", "steps")), row["what"]]
        + [spread(row["seconds"], 1e3)]
        + [number(row[name]) for name in ("gflop_s", "of_matmul", "gbyte_s", "of_copy")]
        for row in found["rows"]
    ]
    head = ["cell, units, batch, steps", "", "ms", "GFLOP/s", "of the matmul's", "GB/s", "of the copy's"]
    return section("Distance from the device's limits", text, table(head, rows))


def _start(found: dict[str, Any] | None) -> str:
    if found is None:
        return section("Start", f"`scaling.py start`: {ABSENT}.")
    rows = [
        ["nothing compiled earlier", spread(found["cold_seconds"])],
        ["warm: JAX's compilation cache holds the program", spread(found["warm_seconds"])],
    ]
    return section("Start", table(["`jaxrnn train` up to the end of its first step", "s"], rows))


def _dag(found: dict[str, Any] | None) -> str:
    if found is None:
        return section("The DAG", f"`dag.py`: {ABSENT}.")
    rows = [[name, spread(found[f"{name}_seconds"])] for name in ("plan", "dry_run", "both")]
    said = f"{number(found['trials'])} trials in {number(found['jobs'])} jobs"
    return section("The DAG", table([said, "s"], [[name.replace("_", " "), value] for name, value in rows]))


def _slurm(found: dict[str, Any]) -> str:
    said = ["The test cluster on this machine; what a queue of other users adds is not in it."]
    if "start" in found:
        said.append(
            f"From the command in an empty folder to the first job submitted: {spread(found['start']['cold'])} s with "
            f"nothing of it in the page cache, {spread(found['start']['warm'])} s right after."
        )
    if "jobs" in found:

        def row(training: float, overhead: float, note: str = "") -> list[str]:
            return [f"{number(training / 60)}{note}", *map(number, (training, overhead)), f"{overhead / training:.1%}"]

        ran = [(entry["training_seconds"], entry["overhead_seconds"]) for entry in found["jobs"]["ran"]]
        (short, little), (long, much) = ran
        further = 60 * EXTRAPOLATED
        line = much + (much - little) / (long - short) * (further - long)
        rows = [*(row(*entry) for entry in ran), row(further, line, ", by the line through both")]
        said.append(table(["a job of (min)", "training (s)", "in SLURM beyond it (s)", "of the training"], rows))
    if "queue" in found:
        queue = found["queue"]
        whens = [queue[f"calls_while_{when}"] for when in ("submitting", "waiting")]
        names = sorted({name for calls in whens for name in calls})
        took = f"until all {number(queue['jobs'])} jobs are submitted ({number(queue['submitting_seconds'])} s)"
        head = ["calls of", took, f"in the next {number(queue['waiting_minutes'])} min, in which all wait"]
        said.append(table(head, [[name, *(str(calls.get(name, 0)) for calls in whens)] for name in names]))
    said += [f"`slurm.py {part}`: {ABSENT}." for part in ("start", "jobs", "queue") if part not in found]
    return section("SLURM", *said)


def _report(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = [[name, number(found[key])] for name, key in (
        ("seconds, start-up included", "seconds"), ("peak memory (MB)", "peak_memory_mb"), ("the page (MB)", "page_mb")
    )]  # fmt: skip
    return section("The report", table([f"{number(found['trials'])} trials", ""], rows))


def _coverage(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    # what is said of a row: truth within 0.1 to 0.9 or beyond, so many objects in all, and of the rarest class
    parts = {
        "100 objects and more": lambda usual, count, rarest: usual and count >= 100,
        "the same, truth beyond": lambda usual, count, rarest: not usual and count >= 100,
        "rarest class of 10 to 25": lambda usual, count, rarest: usual and 10 <= rarest <= 25,
        "rarest class below 10": lambda usual, count, rarest: usual and rarest < 10,
    }
    by_score: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        by_score.setdefault(row["score"], []).append(row)
    rows = []
    for score, own in by_score.items():
        cells = []
        for inside in parts.values():
            here = [
                100 * row["coverage"]
                for row in own
                if inside(0.1 <= row["truth"] <= 0.9, sum(row["objects"]), min(row["objects"]))
            ]
            cells.append(f"{min(here):.1f} to {max(here):.1f}" if here else "-")
        rows.append([score, *cells])
    return section(
        "What intervals cover",
        "How often (%) a 95 % interval of the report holds a truth of 0.1 to 0.9 (or beyond), least and most over the "
        f"simulated settings, each of {number(min(row['surveys'] for row in found['rows']))} surveys at least. An "
        "interval that is unknown counts as one that does not.",
        table(["", *parts], rows),
    )


def _ingest(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = []
    for name in ("1_pairs", "4_pairs"):
        part = found.get("peer", {}).get(name)
        if part:
            rows.append([f"SPCC, {name.replace('_', ' ')} of files: `make_data` / ours", number(part["ratio"])])
            rows.append([f"SPCC, {name.replace('_', ' ')} of files: with splits", number(part["ratio_with_split"])])
    if memory := found.get("memory"):
        rows.append(["peak memory, most / least data", number(memory["most_over_least"])])
    rows += [
        [f"one MPI rank / two: {name}", number(part["ratio"])]
        for name, part in found.get("ranks", {}).items()
        if isinstance(part, dict)
    ]
    if large := found.get("million"):
        said = f"ingest of {number(large['objects'])} objects, objects a second"
        rows.append([said, number(large["objects_per_second"])])
    rows += [
        [f"share of training that waits for input, {name.replace('_', ' ')}", number(part["share"])]
        for name, part in found.get("training", {}).items()
        if isinstance(part, dict)
    ]
    return section("Ingest", table(["", "median"], rows))


def _early(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = []
    for moment, by_trial in found["moments"].items():
        trials = list(by_trial.values())
        columns = [[trial[name] for trial in trials] for name in ("accuracy", "auc")]
        means = [f"{sum(each) / len(each):.{digits}f}" for each, digits in zip(columns, (1, 4), strict=True)]
        theirs = [f"{trials[0]['accuracy_supernnova']:.1f}", f"{trials[0]['auc_supernnova']:.4f}"]
        rows.append([moment.replace("_", " "), means[0], theirs[0], means[1], theirs[1]])
    head = ["observed until", "accuracy (%)", "SuperNNova's", "AUC", "SuperNNova's"]
    return section("Early classification", "Means over the seeds of ours.", table(head, rows))


def _predict(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = [[name, spread(values)] for name, values in found["objects_per_second"].items()]
    said = f"{number(found['objects'])} objects of {found['mean_steps']} steps, {found['members']} networks"
    return section("Prediction of a new survey", table([said, "objects a second"], rows))


def _convolution(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    names = ("batch", "steps", "width", "filters", "kernel")
    rows = [
        [", ".join(str(row[name]) for name in names), number(row["ratio_in_loop"]), number(row["ratio_outside"])]
        for row in found["rows"]
    ]
    return section("Convolutions", table([", ".join(names), "XLA's / ours, in a loop", "outside of loops"], rows))


def _runs(found: dict[str, Any]) -> str:
    rows, machines = [], {}
    for file, content in found.items():
        parts = {name: part for name, part in content.items() if isinstance(part, dict) and "date" in part}
        for name, part in ({file: content} if "date" in content else parts).items():
            label = file if name == file else f"{file}, {name}"
            command = (
                f"`{part['command']}`" if "command" in part else f"`python benchmarks/{file}.py`, options not noted"
            )
            rows.append([label, part["date"], number(part["load_before"]), command])
            machine = part.get("machine") or content.get("machine", {})
            said = ", ".join(f"{key} {value}" for key, value in machine.items())
            machines.setdefault(said, []).append(label)
    shown = [f"- {'; '.join(labels)}: {said}" for said, labels in machines.items()]
    return section("Runs", table(["result", "date", "load found before", "command"], rows), "\n".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    PAGE.write_text(render())
    print(PAGE)


if __name__ == "__main__":
    main()
