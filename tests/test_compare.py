"""Experiments side by side: pairs against counts by hand, whatever the order of objects and classes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from workflows import Workflow

from jaxrnn import compare, predictions
from jaxrnn.errors import JaxrnnError

pytestmark = pytest.mark.mpi


def chosen(folder: Path) -> tuple[Path, str]:
    """Returns where the chosen trial's predictions are, and its name."""
    best = json.loads((folder / "best.json").read_text())
    return folder / "jobs" / best["job"] / "predictions.h5", best["trial"]


@pytest.fixture
def pair(finished: Workflow, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a finished experiment, of which the second classifies some test objects otherwise."""
    copies = [tmp_path / "one", tmp_path / "two"]
    for folder in copies:
        shutil.copytree(finished.results, folder)
    path, trial = chosen(copies[1])
    by_fold, classes = predictions.read(path)
    test = by_fold[None]["test"]
    changed = test.probabilities[trial].copy()
    changed[:9] = np.roll(changed[:9], 1, axis=1)
    by_fold[None]["test"] = replace(test, probabilities={**test.probabilities, trial: changed})
    predictions.write(path, by_fold, classes)
    return copies[0], copies[1]


def shuffle(folder: Path) -> None:
    """Puts the objects of an experiment's test predictions into another order, and its classes."""
    path, _ = chosen(folder)
    by_fold, classes = predictions.read(path)
    test = by_fold[None]["test"]
    rows, columns = np.random.default_rng(0).permutation(len(test.ids)), np.roll(np.arange(len(classes)), 1)
    by_fold[None]["test"] = replace(
        test,
        ids=test.ids[rows],
        labels=np.argsort(columns)[test.labels[rows]],
        lengths=test.lengths[rows],
        places=test.places[rows],
        probabilities={name: values[rows][:, columns] for name, values in test.probabilities.items()},
    )
    validation = by_fold[None]["validation"]
    by_fold[None]["validation"] = replace(validation, labels=np.argsort(columns)[validation.labels])
    predictions.write(path, by_fold, tuple(classes[column] for column in columns))


def test_pairs_are_counted_on_the_same_objects_in_any_order(pair: tuple[Path, Path]) -> None:
    hits = []
    for folder in pair:
        path, trial = chosen(folder)
        test = predictions.read(path)[0][None]["test"]
        hits.append(test.probabilities[trial].argmax(axis=1) == test.labels)
    alone, other = int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum())
    assert alone + other > 3
    found = compare.compare(pair)
    shuffle(pair[1])
    again = compare.compare(pair)
    pd.testing.assert_frame_equal(found.pairs, again.pairs)
    (row,) = found.pairs.to_dict("records")
    assert (row["other"], row["objects"], found.remarks) == ("two", len(hits[0]), [])
    assert (row["chosen_alone"], row["other_alone"]) == (alone, other)
    assert row["difference"] == pytest.approx((alone - other) / len(hits[0]))
    assert row["p_holm"] == pytest.approx(stats.binomtest(alone, alone + other).pvalue)


def test_what_differs_is_told_and_the_page_holds_the_tables(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = pair[1] / "experiment.yaml"
    file.write_text(file.read_text().replace("batch_size: 16", "batch_size: 8<b>"))
    found = compare.compare(pair)
    assert found.settings.to_numpy().tolist() == [["training.batch_size", "16", "8<b>"]]
    folder = tmp_path / "comparison"
    compare.write(found, folder)
    compare.write(found, folder)  # again
    page = (folder / "comparison.html").read_text()
    assert "8&lt;b&gt;" in page and "8<b>" not in page and page.count("<tr") == 7
    assert (folder / "figures" / "experiments.png").read_bytes().startswith(b"\x89PNG")
    assert 'href="figures/experiments.svg"' in page and (folder / "figures" / "experiments.svg").exists()
    scores = pd.read_csv(folder / "scores.csv")
    best = json.loads((pair[0] / "best.json").read_text())["test"]
    own = scores[scores["experiment"] == "one"].set_index("score")["value"]
    assert own["macro_auc"] == best["macro_auc"]["value"] and f"{own['macro_auc']:.3f}" in page
    with pytest.raises(JaxrnnError, match="is there and no comparison"):
        compare.write(found, pair[0])


def test_what_cannot_be_compared_is_said(pair: tuple[Path, Path]) -> None:
    path, _ = chosen(pair[1])
    by_fold, classes = predictions.read(path)
    predictions.write(path, by_fold, ("another", *classes[1:]))
    found = compare.compare(pair)
    assert not len(found.pairs) and "their classes differ" in found.remarks[0]
    for folders, message in (
        (pair[:1], "two experiments at least"),
        ((pair[0], pair[0]), "named twice"),
        ((pair[0], pair[0].parent / "none"), "best.json: not there yet"),
    ):
        with pytest.raises(JaxrnnError, match=message):
            compare.compare(folders)
