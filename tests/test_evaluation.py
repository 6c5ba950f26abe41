"""What is told of the chosen trial beyond its scores, against scikit-learn, exact tests and simulated truths."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import special, stats
from sklearn import metrics as sk

from jaxrnn import aggregate, calibration, ensembles, evaluation, metrics
from jaxrnn.batches import Part
from jaxrnn.errors import JaxrnnError
from jaxrnn.evaluation import Classified, Property
from jaxrnn.hypotheses import Ranked
from jaxrnn.predictions import Predictions

NAMES = ("a", "b", "c")


def judged(
    counts: tuple[int, ...] = (300, 200, 100), sharpened: float = 1, seed: int = 0, steps: int = 1
) -> Classified:
    """Returns probabilities that are `sharpened` times as sure as the ones that labels are drawn from."""
    generator = default_rng(seed)
    logits = generator.normal(0, 2, (sum(counts), len(counts)))
    truth = special.softmax(logits, axis=1)
    labels = (truth.cumsum(axis=1) > generator.random((len(truth), 1))).argmax(axis=1)
    probabilities = special.softmax(sharpened * logits, axis=1)
    return Classified(probabilities.astype(np.float32), labels, np.arange(len(labels)) // steps, steps > 1)


def frames(tables: Any) -> Any:
    """pandas' types know less of a table than these tests do."""
    return tables


def test_curves_have_scikit_learns_areas() -> None:
    found = judged((3000, 2000, 1000))
    roc, precision_recall = frames(evaluation.curves(found, NAMES))
    for index, name in enumerate(NAMES):
        truth, score = found.labels == index, found.probabilities[:, index]
        own = roc[roc["class"] == name]
        assert len(own) <= evaluation.MOST_POINTS
        area = sk.auc(own["false_positive_rate"], own["true_positive_rate"])
        assert area == pytest.approx(sk.roc_auc_score(truth, score), abs=5e-4)
        own = precision_recall[precision_recall["class"] == name]
        assert len(own) <= evaluation.MOST_POINTS
        steps = -np.diff(own["recall"]) @ own["precision"].to_numpy()[:-1]
        assert steps == pytest.approx(sk.average_precision_score(truth, score), abs=5e-3)
        assert own["recall"].iloc[0] == 1 and own["recall"].iloc[-1] == 0
    # curves of few points are whole
    few = judged((30, 20, 10))
    roc, _ = frames(evaluation.curves(few, NAMES))
    own = roc[roc["class"] == "b"]
    expected = sk.roc_auc_score(few.labels == 1, few.probabilities[:, 1])
    assert sk.auc(own["false_positive_rate"], own["true_positive_rate"]) == pytest.approx(expected, abs=1e-12)


def fitted(validation: Classified) -> float:
    return calibration.temperature(validation.probabilities, validation.labels)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_calibration_error_that_chance_explains_is_told_from_one_that_it_does_not(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of probabilities that are right, p is as small as 0.2 in a fifth of all surveys."""
    monkeypatch.setattr(evaluation, "RESAMPLES", 100)
    right = [evaluation._chance(judged((80, 80, 80), seed=seed, steps=steps), seed).p_value for seed in range(100)]
    assert 0.08 <= np.mean(np.array(right) <= 0.2) <= 0.34
    wrong = [evaluation._chance(judged((80, 80, 80), 4, seed, steps), seed).p_value for seed in range(10)]
    assert np.median(wrong) < 0.05


def test_calibration_is_told_before_and_after_the_temperature() -> None:
    validation, test = judged(sharpened=3, seed=10), judged(sharpened=3, seed=20)
    bins, scores = frames(evaluation.calibrated(test, fitted(validation), seed=4))
    values = scores.set_index(["probabilities", "score"])
    temperature = values["temperature"][evaluation.SCALED, "brier"]
    assert temperature == pytest.approx(3, rel=0.15)
    # by hand: scikit-learn takes less for the least probability
    own = test.probabilities[np.arange(600), test.labels].astype(float)
    expected = -np.log(np.maximum(own, metrics.SMALLEST_PROBABILITY)).mean()
    assert values["value"][evaluation.AS_PREDICTED, "log_loss"] == pytest.approx(expected, rel=1e-9)
    assert values["value"][evaluation.SCALED, "log_loss"] < values["low"][evaluation.AS_PREDICTED, "log_loss"]
    assert values["p_value"][evaluation.AS_PREDICTED, "calibration_error"] < 0.01
    assert values["p_value"][evaluation.SCALED, "calibration_error"] > 0.01
    for name in (evaluation.AS_PREDICTED, evaluation.SCALED):
        assert bins[bins["probabilities"] == name]["objects"].sum() == len(test.labels)
    # one number, one interval
    expected = metrics.with_intervals(test.probabilities, test.labels, NAMES, seed=4)["log_loss"]
    row = values.loc[(evaluation.AS_PREDICTED, "log_loss")]
    assert (row["low"], row["high"]) == pytest.approx((expected["low"], expected["high"]), rel=1e-9)


def test_a_calibration_error_of_steps_is_of_those_that_chance_is_told_of() -> None:
    """Ten copies of each step: error and chance are those of the sequences, as if each had one."""
    alone = replace(judged((30, 20, 10)), by_step=True)
    probabilities, labels, owners = (
        np.repeat(own, 10, axis=0) for own in (alone.probabilities, alone.labels, alone.owners)
    )
    copies = Classified(probabilities, labels, owners, True)
    # of each sequence a tenth step that is surely right: none of them may enter the error alone
    sure = np.arange(0, 600, 10)
    mixed = replace(copies, probabilities=copies.probabilities.copy())
    mixed.probabilities[sure] = np.eye(3)[mixed.labels[sure]]
    for found in (copies, mixed):
        bins, scores = frames(evaluation.calibrated(found, fitted(found), 3))
        row = scores[scores["score"] == "calibration_error"].iloc[0]
        drawn = np.random.default_rng(3).permutation(600)
        rows = drawn[np.unique(found.owners[drawn], return_index=True)[1]]
        assert row["value"] == metrics.calibration_error(found.probabilities[rows], found.labels[rows])
        assert row["objects"] == 60 and bins["objects"].max() <= 60, "sequences, of which no bin has more"


def test_intervals_of_steps_draw_whole_sequences() -> None:
    """Where the steps of a sequence are copies of one, the interval is that of the sequences."""
    alone = judged((60, 50, 40))
    probabilities, labels, owners = (
        np.repeat(own, 5, axis=0) for own in (alone.probabilities, alone.labels, alone.owners)
    )
    copies = Classified(probabilities, labels, owners, True)
    alone = replace(alone, by_step=True)
    for first, other in zip(evaluation.calibrated(alone, 2, 3), evaluation.calibrated(copies, 2, 3), strict=True):
        np.testing.assert_allclose(first[["low", "high"]], other[["low", "high"]], atol=1e-6)


def test_slices_hold_every_object_once() -> None:
    found = judged()
    generator = default_rng(1)
    unknown = np.where(generator.random(600) < 0.2, np.nan, generator.normal(size=600))
    known = [Property("length", "steps", np.repeat([4.0, 9.0], 300)), Property("depth", "", unknown),
             Property("tied", "", np.minimum(generator.integers(0, 9, 600), 3).astype(float))]  # fmt: skip
    table: Any = evaluation.slices(found, known, seed=0)
    assert (table.groupby("property")["objects"].sum() == 600).all()
    first = table[table["property"] == "length"]
    assert first["from"].tolist() == first["to"].tolist() == [4, 9]
    assert first["accuracy"].tolist() == [found.hits[:300].mean(), found.hits[300:].mean()]
    assert (first["low"].iloc[0], first["high"].iloc[0]) == metrics.wilson(int(found.hits[:300].sum()), 300)
    depth = table[table["property"] == "depth"]
    assert len(depth) == evaluation.SLICES + 1 and np.isnan(depth["from"].iloc[-1])
    assert depth["objects"].iloc[-1] == np.isnan(unknown).sum() and np.ptp(depth["objects"].iloc[:-1]) <= 1
    tied = table[table["property"] == "tied"]
    assert (tied["from"].iloc[1:].to_numpy() > tied["to"].iloc[:-1].to_numpy()).all(), "equal values stand together"


def test_other_trials_are_compared_on_the_same_objects() -> None:
    """The p-values are McNemar's, by hand; the paired interval is narrower than two apart, and holds the difference."""
    chosen = judged()
    worse = chosen.probabilities.copy()
    worse[:40] = worse[:40, ::-1]
    others = {"worse": Classified(worse, chosen.labels, chosen.owners, False), "same": chosen}
    table: Any = evaluation.comparisons(chosen, others, seed=0).set_index("trial")
    row = table.loc["worse"]
    alone, other = int(row["chosen_alone"]), int(row["other_alone"])
    total = alone + other
    tail = sum(special.comb(total, k) for k in range(max(alone, other), total + 1)) / 2**total
    assert row["p_value"] == pytest.approx(min(1, 2 * tail), rel=1e-9)
    assert row["difference"] == pytest.approx((alone - other) / 600, abs=1e-12)
    assert row["low"] < row["difference"] < row["high"]
    assert row["high"] - row["low"] < 2 * np.sqrt(chosen.hits.var() / 600) * 1.96
    assert table.loc["same", ["difference", "p_value", "p_holm"]].tolist() == [0, 1, 1]
    assert row["p_holm"] == pytest.approx(2 * row["p_value"])
    assert evaluation.comparisons(chosen, {}, seed=0).empty
    # steps: signs are flipped by sequence, of which a third are on the chosen trial's side alone
    steps = Classified(chosen.probabilities, chosen.labels, np.arange(600) // 3, True)
    others = {"worse": Classified(worse, chosen.labels, steps.owners, True)}
    flipped: Any = evaluation.comparisons(steps, others, seed=0)
    assert flipped["p_value"].iloc[0] == pytest.approx(row["p_value"], abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_signs_are_those_of_every_combination(seed: int) -> None:
    sums = default_rng(seed).integers(-3, 5, 10).astype(float)
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    exact = np.mean(np.abs(signs @ sums) >= abs(sums.sum()))
    error = np.sqrt(exact * (1 - exact) / evaluation.FLIPS)
    assert evaluation._flipped(sums, seed) == pytest.approx(exact, abs=4 * error + 1 / evaluation.FLIPS)


def test_ranks_summed_by_sequence_have_scikit_learns_weighted_area() -> None:
    """Steps whose label is their sequence's: the area of ranks that are summed by sequence is the area of the steps."""
    generator, lengths = default_rng(4), np.arange(1, 31)
    owners, labels = np.repeat(np.arange(30), lengths), generator.permutation(np.repeat([0, 1, 2], 10))
    shown = generator.dirichlet(np.ones(3), len(owners)).round(2) + 0.1 * np.eye(3)[labels[owners]]
    ranked = Ranked(np.arange(len(owners)), stats.rankdata(shown, axis=0), shown.argmax(axis=1))
    nothing: Any = None
    ids, starts = np.arange(30).astype(str), np.array([0, 30])
    part = Part(ids, labels[owners], nothing, lengths, starts, 0, 0, nothing, labels_by_step=True)
    for own in (labels, generator.permutation(labels)):
        expected = np.mean([sk.roc_auc_score(own[owners] == index, shown[:, index]) for index in range(3)])
        assert ranked.by_sequence(part).auc(own) == pytest.approx(expected, abs=1e-12)


def test_holms_correction_is_the_published_one() -> None:
    """The example of Holm's procedure with four tests: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    np.testing.assert_allclose(metrics.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert metrics.holm(np.zeros(0)).size == 0


def test_the_dearest_mistakes_stand_first() -> None:
    found = judged()
    ids = np.array([f"obj{i}" for i in range(600)])
    entry = Predictions("sequence", ids, found.labels, np.arange(600), np.ones(600, dtype=int), {})
    table: Any = evaluation.mistakes(found, entry, NAMES)
    assert len(table) == evaluation.MISTAKES and (table["truth"] != table["predicted"]).all()
    assert (np.diff(table["probability"]) <= 0).all()
    left = found.probabilities.max(axis=1)[~found.hits]
    assert table["probability"].iloc[-1] == np.sort(left)[-evaluation.MISTAKES]
    assert [f"obj{n}" for n in table["steps"]] == table["id"].tolist()


def test_the_ensemble_stands_beside_the_chosen_trial() -> None:
    first, second = judged(), judged()
    second = Classified(np.roll(second.probabilities, 1, axis=1), second.labels, second.owners, False)
    alone = metrics.with_intervals(first.probabilities, first.labels, NAMES, 0)
    mean = ensembles.together([first.probabilities, second.probabilities], [1, 1]).probabilities
    both = metrics.with_intervals(mean, first.labels, NAMES, 0)
    table: Any = evaluation.ensemble(alone, both, 2, metrics.PLAIN)
    scores = table[table["predictions"] == "ensemble of 2"].set_index("score")["value"]
    mean = (first.probabilities.astype(float) + second.probabilities) / 2
    assert scores["macro_auc"] == pytest.approx(metrics.macro_auc(mean, first.labels), abs=1e-6)
    assert scores["accuracy"] == pytest.approx((mean.argmax(axis=1) == first.labels).mean(), abs=0.01)
    assert len(evaluation.ensemble(alone, None, 0, metrics.PLAIN)) == len(metrics.overall(metrics.PLAIN))


def test_steps_are_counted_within_their_sequence() -> None:
    """Two sequences, of which some steps have no label: the mistakes name sequence and step, slices count sequences."""
    labels = np.array([0, -1, 1, 1, 0])
    said = np.array([0, 1, 0, 1, 1])
    entry = Predictions("step", np.array(["x", "y"]), labels, np.array([3, 2]), np.array([3, 2]),
                        {"t": np.where(np.eye(2)[said] == 1, [[0.6], [0.5], [0.7], [0.8], [0.9]], 0.1)})  # fmt: skip
    found = Classified.of(entry, "t")
    assert found.owners.tolist() == [0, 0, 1, 1] and found.hits.tolist() == [True, False, True, False]
    table: Any = evaluation.mistakes(found, entry, ("a", "b"))
    assert table[["id", "step", "truth", "predicted"]].to_numpy().tolist() == [["y", 2, "a", "b"], ["x", 3, "b", "a"]]
    table = evaluation.slices(found, [Property("length", "steps", np.array([3.0, 2.0]))], seed=0)
    assert table[["from", "objects", "accuracy"]].to_numpy().tolist() == [[2, 1, 0.5], [3, 1, 0.5]]


def test_a_choice_that_fails_on_test_objects_is_told_of() -> None:
    """Once, with how many and which: the tables of evaluation can't be made of what is no number."""
    probabilities = np.full((7, 2), 0.5, dtype=np.float32)
    ids, lengths = np.array(["x", "y", "z"]), np.array([2, 4, 1])
    entry = Predictions("prefix", ids, np.array([0, 1, 0]), lengths, lengths, {"t": probabilities})
    aggregate._check_finite(entry, "t")
    probabilities[3:7, 1] = np.nan, np.inf, np.nan, np.nan
    with pytest.raises(JaxrnnError, match=r"trial t, .* for 2 of 3 test objects \(y, z\).*training.gradient_clip"):
        aggregate._check_finite(entry, "t")


def test_every_score_of_best_json_stands_in_a_table() -> None:
    found = judged()
    best = {
        split: metrics.with_intervals(found.probabilities, found.labels, NAMES, 0) for split in ("validation", "test")
    }
    overall, of_classes = frames(
        (evaluation.overall_scores(best, metrics.PLAIN), evaluation.class_scores(best["test"], NAMES))
    )
    told = {row["score"]: row for row in overall[overall["split"] == "test"].to_dict("records")}
    told |= {f"{row['score']}_{row['class']}": row for row in of_classes.to_dict("records")}
    assert {name: {part: row[part] for part in evaluation.MEASURED} for name, row in told.items()} == best["test"]
