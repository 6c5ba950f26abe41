"""TensorBoard's events against the tables and arrays that they were made from."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made when imported)
from workflows import Workflow

from jaxrnn import tensorboard
from jaxrnn.errors import JaxrnnError

pytestmark = pytest.mark.mpi


def quiet(done: int, total: int) -> None:
    pass


def summaries(folder: Path) -> list[tuple[int, Any]]:
    """Returns the step and value of each summary in a run's file, a TFRecord: length, its sum, content, its sum."""
    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, value) for value in event.summary.value]
        content = content[16 + length :]
    return found


def test_events_hold_curves_grid_values_networks_and_mistakes(finished: Workflow, tmp_path: Path) -> None:
    results = finished.copied_to(tmp_path).results
    written = tensorboard.write(results, quiet)
    trials, history = (pd.read_csv(results / name) for name in ("training_results.csv", "history.csv"))
    assert sorted(path.name for path in written.iterdir()) == sorted(trials["trial"])
    with_figures = []
    for _, row in trials.iterrows():
        found = summaries(written / str(row["trial"]))
        own = history[history["trial"] == row["trial"]]
        for tag, column in (("loss/train", "train_loss"), ("macro_auc/validation", "validation_macro_auc")):
            shown = {step: value.simple_value for step, value in found if value.tag == tag}
            assert list(shown) == own["epoch"].tolist()
            np.testing.assert_allclose(list(shown.values()), own[column], rtol=1e-6)
        tags = {value.tag for _, value in found}
        assert not any("figure_of_merit" in tag for tag in tags), "a column without values"
        assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= tags
        arrays = np.load(results / "jobs" / str(row["job"]) / "models" / f"{row['trial']}.npz")
        counted = {value.tag: value.histo.num for _, value in found if value.HasField("histo")}
        assert counted == {f"network/{name}": arrays[name].size for name in arrays.files}
        with_figures += [(row["trial"], value) for _, value in found if value.HasField("image")]
    (chosen,) = {trial for trial, _ in with_figures}
    images = {value.tag: value.image for _, value in with_figures}
    assert chosen in (results / "best.json").read_text()
    assert {"mistakes/confusion_matrix_test", "mistakes/confusion_matrix_validation"} <= set(images)
    assert all(image.width > 100 and image.height > 100 for image in images.values())


def test_an_unfinished_experiment_has_none(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"best.json: not there yet; run `jaxrnn aggregate` first"):
        tensorboard.write(tmp_path, quiet)
