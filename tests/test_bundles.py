"""The bundle: who is in it, how they are calibrated, and a card that is text whatever the survey says."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import jaxrnn, refused
from experiments import read_predictions
from invented import bundle, observations, saved, write_survey
from markdown_it import MarkdownIt
from sklearn.metrics import accuracy_score, log_loss
from test_selection import invented

from jaxrnn import aggregate, bundles, calibration, cards, plan, predictions, trials
from jaxrnn.classifier import Classifier
from jaxrnn.results import COMPLETED, DIVERGED, HALTED, Results


def chosen_point(at: Results, best: dict[str, Any]) -> dict[str, Any]:
    """Returns, by split, labels and the probabilities of both seeds of the chosen grid point, by seed."""
    content, _ = predictions.read(at.job("tiny", best["job"]) / "predictions.h5")
    by_split = content[best.get("fold")]
    point = best["trial"].rpartition("seed-")[0]
    return {
        split: (entry.labels, {name: values for name, values in entry.probabilities.items() if point in name})
        for split, entry in by_split.items()
    }


@pytest.mark.parametrize("folds", [None, 2])
def test_other_seeds_of_the_chosen_point_are_members_calibrated_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int | None
) -> None:
    experiment, at = invented(tmp_path, folds)
    # networks whose predictions are invented can't be asked for more
    monkeypatch.setattr(aggregate, "_write_uncertainty", lambda *_: None)
    best = aggregate.aggregate(experiment, at)
    made = bundles.load(at.experiment("tiny") / "best")
    assert made.members[0].trial == best["trial"] and len(made.members) == 2
    assert {member.seed for member in made.members} == {1, 2}
    found = chosen_point(at, best)
    labels, probabilities = found["validation"]
    calibrated = []
    test_labels, test = found["test"]
    for member in made.members:
        assert member.temperature == calibration.temperature(probabilities[member.trial], labels)
        logits = np.log(test[member.trial].astype(np.float64)) / member.temperature
        calibrated.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        assert member.arrays["weights"].tolist() == [best.get("fold", 0), member.seed]
    together = np.mean(calibrated, axis=0)
    scores = best["ensemble"]["test"]
    assert scores["log_loss"]["value"] == pytest.approx(log_loss(test_labels, together), abs=1e-5)
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(test_labels, together.argmax(axis=1)))
    card = (at.experiment("tiny") / "best" / "README.md").read_text()
    assert f"| accuracy | {best['test']['accuracy']['value']:.3f}" in card.replace("\\", "")
    assert f"{scores['accuracy']['value']:.3f}" in card
    assert json.loads((at.experiment("tiny") / "best.json").read_text())["temperature"] == made.members[0].temperature


@pytest.mark.parametrize("outcome", [DIVERGED, HALTED])
def test_a_seed_that_was_not_trained_to_its_end_is_no_member(tmp_path: Path, outcome: str) -> None:
    experiment, at = invented(tmp_path, None)
    made = plan.make(experiment)
    (chosen, other, *_) = (trial for job in made.jobs for trial in job.trials)
    assert made.points[chosen.id] == made.points[other.id]
    job = next(job for job in made.jobs if chosen in job.trials)
    validation = dict.fromkeys(
        (chosen.id, other.id), read_predictions(at.job("tiny", job.name) / "predictions.h5")[0]["validation"]
    )
    finished = trials.load(at.trial("tiny", chosen.fingerprint))

    def members(said: str) -> list[str]:
        outcomes = {trial: said if trial == other.id else COMPLETED for trial in made.points}
        return [member.trial for member in aggregate._members(made, chosen, finished, outcomes, validation, at)]

    assert members(COMPLETED) == [chosen.id, other.id]
    assert members(outcome) == [chosen.id]


def test_no_code_is_imported_because_a_bundle_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = write_survey(tmp_path / "survey", *observations())
    made = bundle(survey, members=1)
    best = saved(tmp_path / "best", replace(made, data=made.data.model_copy(update={"reader": "named_by_it:Own"})))
    (tmp_path / "named_by_it.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\nfrom jaxrnn.readers.table import TableReader as Own\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("predict", "--model", best, "--input", survey, "--output", tmp_path / "p.csv")
    assert Classifier.load(best).columns and bundles.load(best).data.reader == "named_by_it:Own"
    message = refused(*arguments)
    assert message.endswith("--reader named_by_it:Own\n")
    (tmp_path / "data.yaml").write_text("data: {shard_mb: 1}\n")
    assert "--reader" in refused(*arguments, "--data", "data.yaml")
    (tmp_path / "data.yaml").write_text("data: {reader: table}\n")
    for known in (("--data", "data.yaml"), ("--reader", "table")):
        assert jaxrnn(*arguments, *known)[0] == 0
        (tmp_path / "p.csv").unlink()
    assert not (tmp_path / "ran").exists() and "named_by_it" not in sys.modules
    (tmp_path / "data.yaml").write_text('data: {reader: "named_by_it:Own"}\n')
    assert jaxrnn(*arguments, "--data", "data.yaml")[0] == 0 and (tmp_path / "ran").exists()
    written = (tmp_path / "p.csv").read_bytes()
    (tmp_path / "p.csv").unlink()
    code, _, messages = jaxrnn(*arguments, "--reader", "named_by_it:Own")
    assert (tmp_path / "p.csv").read_bytes() == written
    assert code == 0 and "30 of 30 objects are predicted" in messages


HOSTILE = ["<script>alert(1)</script>", "**b** _i_ `c`", "[a](javascript:x)", "x|y\n# head", "![i](http://e)", "&lt;"]


def test_nothing_in_a_card_is_more_than_text(tmp_path: Path) -> None:
    made = bundle(write_survey(tmp_path / "survey", *observations()))
    made = replace(
        made,
        statistics=replace(made.statistics, classes=tuple(HOSTILE), class_counts=np.arange(4, 10)),
        data=made.data.model_copy(update={"path": "\n\n# no\n<b>"}),
        trial={"best_epoch": 3},
    )
    score = {"value": 0.5, "low": 0.4, "high": None}
    best = {
        "trial": "*t*", "metric": "macro_auc", "objects": {"test": 9}, "interval": "95 %", "missing_jobs": {},
        "test": {f"f1_{name}": score for name in HOSTILE}, "ensemble": {"test": {f"f1_{n}": score for n in HOSTILE}},
    }  # fmt: skip
    counts = {name: {"train": 99, "validation": 1, "test": 1} for name in HOSTILE}
    objects = {"objects_in": 9, "objects_rejected": 0, "objects_cut": 0}
    text = cards.card("tiny", made, best, counts, objects, {"jax": "<i>"})
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    words = [token for block in parsed for token in block.children or ()]
    assert {token.type for token in words} <= {"text", "code_inline", "softbreak", "text_special"}
    assert not [token for token in parsed if token.type.startswith("html")]
    assert [token.tag for token in parsed if token.type == "heading_open"] == ["h1", *["h2"] * 4]
    shown = "".join(token.content for token in words)
    # what was trained on, which is a part of the training split with `training.sequences`
    assert "Trained on 39 objects" in text and "The smallest class had 4 to train on" in text
    for name in HOSTILE:
        assert shown.count(" ".join(name.split())) >= 3, name
