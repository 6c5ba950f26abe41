"""Our own HDF5 files on file systems that many nodes share: read without locks, and written at once."""

import fcntl
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from experiments import prepared

from jaxrnn import predictions, shards, splits, tables
from jaxrnn.predictions import Predictions


def of_objects(count: int) -> predictions.Folds:
    """Returns made-up predictions of so many objects by two trials."""
    ids, ones = np.array([f"object-{number}" for number in range(count)]), np.ones(count, dtype=np.int64)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), (2, count)).astype(np.float32)
    by_trial: dict[str, np.ndarray] = {"a": probabilities[0], "b": probabilities[1]}
    return {None: {split: Predictions("sequence", ids, ones, ones, ones, by_trial) for split in ("validation", "test")}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    _, at, made = prepared(folder)
    found = {name: folder / f"{name}.h5" for name in ("predictions", "table")}
    predictions.write(found["predictions"], of_objects(5), ("x", "y", "z"))
    with tables.writing(found["table"], {}) as write:
        write(pd.DataFrame({"id": ["a"], "probability": [0.5]}))
    return found | {"shard": splits.shard_paths(at.dataset(made.dataset_key))[0]}


READERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("shard", shards.read),
    ("shard", lambda path: shards.of_sequences(path, shards.read(path).ids[:2].tolist())),
    ("shard", shards.step_labels),
    ("shard", lambda path: shards.ids(path, "")),
    ("predictions", predictions.read),
    ("table", tables.read),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_lock_that_is_not_to_be_had_keeps_nobody_from_reading(
    files: dict[str, Path], name: str, read: Callable[[Path], Any]
) -> None:
    """It stands for a file system without locks: HDF5 is refused its own in the same way."""
    with files[name].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(files[name], "r")
        read(files[name])


def test_predictions_are_written_at_once(tmp_path: Path) -> None:
    """However many there are: a file system of many nodes is slow with small pieces."""
    given = of_objects(200_000)

    def calls() -> int:
        """Returns how often this process has written."""
        (count,) = re.findall(r"syscw: (\d+)", Path("/proc/self/io").read_text())
        return int(count)

    before = calls()
    predictions.write(tmp_path / "predictions.h5", given, ("x", "y", "z"))
    assert calls() - before < 10
    (found,), classes = list(predictions.read(tmp_path / "predictions.h5")[0].values()), ("x", "y", "z")
    for split, entry in given[None].items():
        assert found[split].ids.tolist() == entry.ids.tolist()
        for trial, probabilities in entry.probabilities.items():
            np.testing.assert_array_equal(found[split].probabilities[trial], probabilities)
    assert predictions.read(tmp_path / "predictions.h5")[1] == classes
