"""TensorBoard's view of an experiment: `tensorboard --logdir results/<experiment>` after `jaxrnn tensorboard`.

A run a trial: each column of history.csv by epoch, the grid's values with the validation scores (HParams; test scores
are not there, for this view is one to choose by), histograms of the network's arrays at its best epoch. The chosen
trial's run has the figures of its mistakes besides. Everything comes from the tables and files that the workflow wrote.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from tensorboardX import FileWriter
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (made when imported)
from tensorboardX.summary import histogram, hparams, scalar

from jaxrnn import bundles, results
from jaxrnn.config import read_yaml
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import written_whole

FOLDER = "tensorboard"
SPLITS = ("train", "validation")


def write(folder: Path, progress: Callable[[int, int], None]) -> Path:
    """Writes `tensorboard/` into an experiment's folder, whole or not at all; returns it.

    Raises JaxrnnError where the experiment is not finished.
    """
    best = results.read_json(folder / "best.json", "jaxrnn aggregate")
    trials, history = (_table(folder / name) for name in ("training_results.csv", "history.csv"))
    keys = ["seed", *(["fold"] if "fold" in trials else []), *read_yaml(folder / "experiment.yaml")["grid"]]
    scores = [name for name in best["validation"] if name in trials]
    epochs = dict(iter(history.groupby("trial")))
    with written_whole(folder / FOLDER) as temporary:
        rows = trials.to_dict("records")
        for number, row in enumerate(rows, start=1):
            writer = FileWriter(str(temporary / row["trial"]))
            try:
                _write_trial(writer, row, keys, scores, folder)
                _write_curves(writer, epochs[row["trial"]])
                if row["trial"] == best["trial"]:
                    _write_figures(writer, folder / "figures", row["best_epoch"])
            finally:
                writer.close()
            progress(number, len(rows))
    return folder / FOLDER


def _write_trial(writer: FileWriter, row: dict[str, Any], keys: list[str], scores: list[str], folder: Path) -> None:
    """Writes a trial's grid values with its scores, and its network's arrays."""
    tried = {key: row[key] if isinstance(row[key], int | float) else str(row[key]) for key in keys}
    for summary in hparams(tried, {name: float(row[name]) for name in scores}):
        writer.add_summary(summary)
    for name in scores:  # HParams shows those metrics that the run has as scalars
        writer.add_summary(scalar(name, float(row[name])), row["epochs"])
    arrays = bundles.read_arrays(folder / "jobs" / row["job"] / "models" / f"{row['trial']}.npz")
    for name, array in arrays.items():
        writer.add_summary(histogram(f"network/{name}", array, "auto"), row["best_epoch"])


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"trial": str, "job": str})
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there yet; run the workflow to its end first")


def _write_curves(writer: FileWriter, history: pd.DataFrame) -> None:
    """Writes each column that has values, a split's under its name: both splits' losses then share a chart's group."""
    for name in history.columns.drop(["trial", "epoch"]):
        split = next((split for split in SPLITS if name.startswith(f"{split}_")), None)
        tag = f"{name.removeprefix(f'{split}_')}/{split}" if split else str(name)
        for epoch, value in history[["epoch", name]].dropna().itertuples(index=False):
            writer.add_summary(scalar(tag, value), int(epoch))


def _write_figures(writer: FileWriter, folder: Path, step: int) -> None:
    """Writes the report's figures of mistakes, as they are."""
    for path in sorted(folder.glob("*_validation.png")) + sorted(folder.glob("*_test.png")):
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # of a PNG's first chunk
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
        writer.add_summary(Summary(value=[Summary.Value(tag=f"mistakes/{path.stem}", image=image)]), step)
