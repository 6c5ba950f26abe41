"""The reported scores are scikit-learn's, and their intervals hold what they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import special, stats
from sklearn import metrics as sk

from jaxrnn import metrics
from jaxrnn.config import Task

NAMES = ("a", "b", "c")
CLASSES = len(NAMES)
Z = stats.norm.ppf(0.975)
TASK = Task(class_importance={"a": 0.5, "c": 3}, target="b")
IMPORTANCE = np.array([0.5, 1.0, 3.0])


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities [object, class], often tied, and labels, every class among them."""
    generator, spread = default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.integers(0, 4))
    count = draw(st.integers(CLASSES, 60))
    probabilities = special.softmax(generator.integers(-spread, spread + 1, (count, CLASSES)).astype(float), axis=1)
    rest = generator.choice(CLASSES, count - CLASSES, p=generator.dirichlet(np.ones(CLASSES)))
    return probabilities, generator.permutation(np.concatenate([np.arange(CLASSES), rest]))


def classified(counts: tuple[int, ...], separation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 probabilities and labels of classes so large, better told apart the larger the separation."""
    generator = default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    logits = generator.normal(0, 1, (len(labels), len(counts))) + separation * np.eye(len(counts))[labels]
    return special.softmax(logits, axis=1).astype(np.float32), labels


def wilson(hits: int, count: int) -> tuple[Any, Any]:
    """Wilson (1927), eq. for the two roots of (p - hits / n)^2 = z^2 p (1 - p) / n."""
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return middle - half, middle + half


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 60)


@given(drawn=predictions())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scores_are_scikit_learns(drawn: Any) -> None:
    probabilities, labels = drawn
    found = metrics.scores(probabilities, labels, NAMES, TASK)
    counts = np.bincount(labels, minlength=CLASSES)
    wrong = ((probabilities.argmax(axis=1) == 1) & (labels != 1)).sum()
    hits = ((probabilities.argmax(axis=1) == 1) & (labels == 1)).sum()
    predicted = probabilities.argmax(axis=1)
    expected = {
        "log_loss": sk.log_loss(labels, probabilities),
        "accuracy": sk.accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0.0),  # pyright: ignore
        "macro_auc": sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        # each class counts by its importance, shared evenly among its objects
        "plasticc_log_loss": sk.log_loss(labels, probabilities, sample_weight=(IMPORTANCE / counts)[labels]),
        "figure_of_merit": hits / counts[1] * (hits / (hits + 3 * wrong) if hits else 0.0),
    }
    for index, name in enumerate(NAMES):
        truth, claimed = labels == index, predicted == index
        expected[f"f1_{name}"] = sk.f1_score(truth, claimed, zero_division=0.0)  # pyright: ignore
        expected[f"precision_{name}"] = sk.precision_score(truth, claimed, zero_division=0.0)  # pyright: ignore
        expected[f"recall_{name}"] = sk.recall_score(truth, claimed)
        expected[f"auc_{name}"] = sk.roc_auc_score(truth, probabilities[:, index])
        expected[f"average_precision_{name}"] = sk.average_precision_score(truth, probabilities[:, index])
    by: Any = {"y_true": labels, "y_pred": predicted, "zero_division": 0.0}
    one = np.eye(CLASSES)[labels]
    expected |= {
        "macro_precision": sk.precision_score(average="macro", **by),
        "macro_recall": sk.recall_score(average="macro", **by),
        "macro_average_precision": sk.average_precision_score(one, probabilities, average="macro"),
        "weighted_precision": sk.precision_score(average="weighted", **by),
        "weighted_f1": sk.f1_score(average="weighted", **by),
        "weighted_auc": sk.roc_auc_score(one, probabilities, average="weighted"),
    }
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert list(found) == metrics.score_names(NAMES, TASK)
    plain = metrics.scores(probabilities, labels, NAMES)
    assert list(plain) == metrics.score_names(NAMES) == [name for name in found if name != "figure_of_merit"]
    assert {name for name in plain if plain[name] != found[name]} <= {"plasticc_log_loss"}
    matrix = metrics.confusion_matrix(probabilities, labels, NAMES)
    pairs = [
        [int(((labels == row) & (predicted == column)).sum()) for column in range(CLASSES)] for row in range(CLASSES)
    ]
    np.testing.assert_array_equal(matrix, pairs)


def test_two_classes_have_the_area_of_either() -> None:
    probabilities, labels = classified((30, 20), 1.0)
    expected = sk.roc_auc_score(labels, probabilities[:, 1].astype(np.float64))
    assert metrics.macro_auc(probabilities, labels) == pytest.approx(expected, abs=1e-3)
    double = np.stack([1 - probabilities[:, 1].astype(float), probabilities[:, 1].astype(float)], axis=1)
    assert metrics.macro_auc(double, labels) == pytest.approx(expected, rel=1e-12)


def test_plasticcs_log_loss_weighs_classes_whatever_their_sizes() -> None:
    """Malz et al. 2019: -(sum over classes of w_m / N_m times the sum of its objects' ln p) / sum of w_m."""
    probabilities = np.array([[0.5, 0.25, 0.25]] * 4 + [[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    labels = np.array([0, 0, 0, 0, 1, 2])
    expected = -(0.5 * np.log(0.5) + 1 * np.log(0.7) + 3 * np.log(0.8)) / 4.5
    assert metrics.plasticc_log_loss(probabilities, labels, IMPORTANCE.tolist()) == pytest.approx(expected, rel=1e-12)
    even = metrics.plasticc_log_loss(probabilities, labels, [1.0] * 3)
    assert even == pytest.approx(-(np.log(0.5) + np.log(0.7) + np.log(0.8)) / 3, rel=1e-12)
    # of as many objects a class, it is the log loss
    assert metrics.plasticc_log_loss(probabilities[3:], labels[3:], [7.0] * 3) == pytest.approx(
        metrics.log_loss(probabilities[3:], labels[3:]), rel=1e-12
    )


@pytest.mark.parametrize(
    ("right", "missed", "wrong", "expected"),
    [(10, 0, 0, 1.0), (8, 2, 0, 0.8), (10, 0, 10, 0.25), (6, 4, 2, 0.6 * 6 / 12), (0, 5, 3, 0.0), (0, 5, 0, 0.0)],
)
def test_the_figure_of_merit_is_spccs(right: int, missed: int, wrong: int, expected: float) -> None:
    """Kessler et al. 2010: N_true^2 / (N_total (N_true + 3 N_false))."""
    truth = np.array([True] * (right + missed) + [False] * (wrong + 7))
    claimed = np.array([True] * right + [False] * missed + [True] * wrong + [False] * 7)
    assert metrics.figure_of_merit(claimed, truth) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("own", [0.0, 1e-30, 9e-8, 1e-7, 2e-7, 0.5, 1.0])
def test_log_loss_of_an_own_class_has_a_bound(own: float) -> None:
    """A float32 probability is no better known than to 1e-7: less counts as that, and nothing is infinite."""
    probabilities = np.array([[own, 1 - own], [0.25, 0.75]])
    expected = (-np.log(max(own, 1e-7)) - np.log(0.75)) / 2
    assert metrics.log_loss(probabilities, np.array([0, 1])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_a_probability_that_is_not_finite_leaves_no_score_and_no_interval(missing: float) -> None:
    probabilities, labels = classified((10, 10, 10), 1.0)
    probabilities[4, 1] = missing
    assert all(np.isnan(value) for value in metrics.scores(probabilities, labels, NAMES).values())
    for name, entry in metrics.with_intervals(probabilities, labels, NAMES, seed=0).items():
        assert all(number is None or np.isnan(number) for number in entry.values()), f"{name}: {entry}"


# Intervals


SHARES = {"accuracy", *(f"recall_{name}" for name in NAMES)}


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("counts", "separation", "without"),
    [
        ((40, 30, 20), 1.0, set()),
        ((40, 30, 20), 0.0, set()),
        ((60, 5, 1), 2.0, set()),
        ((1, 1, 1), 0.0, set(metrics.score_names(NAMES, TASK)) - SHARES),
        ((20, 20, 20), 50.0, set(metrics.score_names(NAMES, TASK)) - SHARES),
    ],
    ids=["usual", "guessing", "one rare object", "one object each", "perfect"],
)
def test_every_value_is_within_its_interval(counts: tuple[int, ...], separation: float, without: set[str]) -> None:
    """Where all resamples agree, an interval of width 0 would say too much: it is left out."""
    probabilities, labels = classified(counts, separation)
    found = metrics.with_intervals(probabilities, labels, NAMES, 1, TASK)
    values = {name: entry["value"] for name, entry in found.items()}
    assert values == metrics.scores(probabilities, labels, NAMES, TASK)
    for name, entry in found.items():
        value, low, high = entry["value"], entry["low"], entry["high"]
        assert value is not None
        assert (low is None) == (high is None)
        if low is None or high is None:
            assert name not in SHARES
            continue
        assert low < high
        # the resampled means are sums in another order than the value's
        assert low - 1e-12 <= value <= high + 1e-12, name
        assert name.endswith("log_loss") or 0 <= low < high <= 1, name
    assert {name for name, entry in found.items() if entry["low"] is None} >= without


@pytest.mark.usefixtures("few_resamples")
def test_the_seed_alone_draws_the_intervals() -> None:
    probabilities, labels = classified((40, 30, 20), 1.0)
    first, again, other = (metrics.with_intervals(probabilities, labels, NAMES, seed) for seed in (3, 3, 4))
    assert first == again
    differing = {name for name in first if first[name] != other[name]}
    assert differing
    assert not differing & SHARES


@pytest.mark.usefixtures("few_resamples")
def test_intervals_of_shares_are_wilsons() -> None:
    probabilities, labels = classified((40, 30, 3), 1.0)
    found = metrics.with_intervals(probabilities, labels, NAMES, seed=0)
    hits = probabilities.argmax(axis=1) == labels
    members = {"accuracy": np.ones(len(labels), dtype=bool)}
    members |= {f"recall_{name}": labels == index for index, name in enumerate(NAMES)}
    for name, rows in members.items():
        low, high = wilson(int(hits[rows].sum()), int(rows.sum()))
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high), rel=1e-9)


def test_areas_have_delongs_variance() -> None:
    """Against the definition: who has the higher score, of every pair of an object of the class and one of the rest."""
    probabilities, labels = classified((30, 12, 9), 0.7)
    found = metrics.with_intervals(probabilities, labels, NAMES, seed=0)
    influence = np.zeros(probabilities.shape)
    for index, score in enumerate(probabilities.T):
        own, rest = np.flatnonzero(labels == index), np.flatnonzero(labels != index)
        wins = np.sign(score[own][:, None] - score[rest]) / 2 + 0.5
        influence[own, index], influence[rest, index] = wins.mean(axis=1) / len(own), wins.mean(axis=0) / len(rest)
    np.testing.assert_allclose(metrics.auc_influence(probabilities, labels), influence)
    counts = np.bincount(labels)
    for name, weights in (("auc_b", [0, 1, 0]), ("macro_auc", [1 / 3] * 3), ("weighted_auc", counts / len(labels))):
        own = influence @ np.asarray(weights, dtype=float)
        variance = sum(counts[index] * own[labels == index].var(ddof=1) for index in range(CLASSES))
        area = found[name]["value"]
        half = Z * np.sqrt(variance) / (area * (1 - area))  # pyright: ignore
        ends = special.expit(special.logit(area) + np.array([-half, half]))
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(tuple(ends), rel=1e-6), name


@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_perfect_area_has_no_interval(counts: list[int], seed: int) -> None:
    """Its variance is rounding: an interval of it would have no width."""
    generator, labels = default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    members = [np.flatnonzero(labels == index) for index in range(len(counts))]
    for own in (np.eye(len(counts))[labels], 1 - np.eye(len(counts))[labels]):  # always right, and always wrong
        influence = metrics.auc_influence(own + generator.uniform(0, 0.5, own.shape), labels)
        for weights in (
            *np.eye(len(counts)),
            np.array(counts) / sum(counts),
            generator.dirichlet(np.ones(len(counts))),
        ):
            assert metrics.area_interval(influence, members, weights) == (None, None)


def test_an_object_alone_in_its_class_is_not_passed_over() -> None:
    """It has no variance: what it counts in has no interval, and among the others it counts at its worst."""
    probabilities, labels = classified((40, 30, 1), 1.0)
    found = metrics.with_intervals(probabilities, labels, NAMES, seed=0)
    assert [found[name]["low"] is None for name in ("auc_c", "macro_auc", "weighted_auc")] == [True] * 3
    influence, own = metrics.auc_influence(probabilities, labels)[:, 0], found["auc_a"]
    known = sum(count * influence[labels == index].var(ddof=1) for index, count in enumerate((40, 30)))
    area = own["value"]
    half = Z * np.sqrt(known + 1 / 31**2 / 4) / (area * (1 - area))  # pyright: ignore
    assert (own["low"], own["high"]) == pytest.approx(
        tuple(special.expit(special.logit(area) + np.array([-half, half])))
    )


def test_a_class_that_is_nearly_all_rests_on_the_few_others() -> None:
    probabilities, labels = classified((200, 2, 3), 1.0)
    found = metrics.with_intervals(probabilities, labels, NAMES, seed=0)
    resting = {kind: found[f"{kind}_a"]["objects"] for kind in ("recall", "f1", "auc", "average_precision")}
    assert resting == {"recall": 200, "f1": 5, "auc": 5, "average_precision": 5}


def test_what_an_interval_rests_on_is_counted() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    found = metrics.with_intervals(0.8 * np.eye(3)[predicted] + 0.1, labels, NAMES, seed=0)
    counts = {name: entry["objects"] for name, entry in found.items()}
    assert [counts[f"recall_{name}"] for name in NAMES] == [3, 2, 1]
    assert [counts[f"precision_{name}"] for name in NAMES] == [2, 4, 0]
    assert (counts["accuracy"], counts["macro_f1"], counts["macro_auc"]) == (6, 1, 1)
    two = metrics.with_intervals(
        0.8 * np.eye(3)[predicted] + 0.1, labels, NAMES, seed=0, owners=np.array([0, 0, 1, 1, 0, 1])
    )
    assert [two[name]["objects"] for name in ("accuracy", "recall_a", "recall_c")] == [2, 2, 1]


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    """Log loss is a mean over objects, drawn anew within classes: its standard error is known."""
    probabilities, labels = classified((200, 150, 50), 1.0)
    found = metrics.with_intervals(probabilities, labels, NAMES, seed=5)["log_loss"]
    own = -np.log(probabilities[np.arange(len(labels)), labels])
    variance = sum(
        (labels == index).mean() ** 2 * own[labels == index].var() / (labels == index).sum() for index in range(3)
    )
    half = Z * np.sqrt(variance)
    low, high = found["low"], found["high"]
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * half, rel=0.15)
    assert (high + low) / 2 == pytest.approx(found["value"], abs=half / 4)


def test_the_interval_of_accuracy_covers_in_19_of_20_surveys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 1)
    truth, count, surveys, generator = 0.85, 60, 250, default_rng(11)
    labels = np.arange(count) % 2
    covered = 0
    for _ in range(surveys):
        right = generator.random(count) < truth
        probabilities = np.where((np.eye(2)[labels] == 1) == right[:, None], 0.9, 0.1)
        entry = metrics.with_intervals(probabilities, labels, ("a", "b"), seed=0)["accuracy"]
        covered += entry["low"] <= truth <= entry["high"]  # pyright: ignore
    hits = np.arange(count + 1)
    within = [low <= truth <= high for low, high in (wilson(int(hit), count) for hit in hits)]
    exact = stats.binom.pmf(hits, count, truth)[within].sum()
    assert exact == pytest.approx(0.95, abs=0.02)
    assert covered / surveys == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / surveys))


@pytest.mark.parametrize(("counts", "truth"), [((50, 50), 0.1), ((50, 50), 0.7), ((20, 80), 0.9)])
def test_the_interval_of_an_area_covers_in_19_of_20_surveys(counts: tuple[int, int], truth: float) -> None:
    """benchmarks/coverage.py in small: scores that are normal in each class, apart by as much as the area says."""
    surveys, generator = 400, default_rng(3)
    members = [np.arange(counts[0]), np.arange(counts[0], sum(counts))]
    labels = np.repeat([0, 1], counts)
    covered = 0
    for _ in range(surveys):
        score = generator.normal(size=len(labels)) + np.sqrt(2) * special.ndtri(truth) * (labels == 0)
        influence = metrics.auc_influence(np.stack([score, -score], axis=1), labels)
        low, high = metrics.area_interval(influence, members, np.array([1.0, 0.0]))
        covered += low is not None and high is not None and low <= truth <= high
    assert covered / surveys == pytest.approx(0.95, abs=0.02 + 3 * np.sqrt(0.95 * 0.05 / surveys))


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_mean_over_seeds_has_students_interval(values: list[float]) -> None:
    mean, low, high = metrics.mean_with_interval(np.array(values))
    deviation = np.std(values, ddof=1)
    assert mean == pytest.approx(np.mean(values))
    assert low <= mean <= high or (len(set(values)) == 1 and np.isnan([low, high]).all())
    if deviation > 1e-6:
        error = stats.sem(values)
        assert (low, high) == pytest.approx(stats.t.interval(0.95, len(values) - 1, np.mean(values), error), rel=1e-6)


def test_one_seed_has_no_interval_and_nan_stays_visible() -> None:
    np.testing.assert_equal(metrics.mean_with_interval(np.array([0.5])), (0.5, np.nan, np.nan))
    np.testing.assert_equal(metrics.mean_with_interval(np.array([])), (np.nan, np.nan, np.nan))
    np.testing.assert_equal(metrics.mean_with_interval(np.array([0.5, np.nan, 0.7])), (np.nan, np.nan, np.nan))


def test_weighted_areas_are_sklearns() -> None:
    generator = np.random.default_rng(5)
    score = generator.integers(0, 12, 200) / 12  # many ties
    positive = generator.random(200) < 0.3 + 0.4 * score
    weights = generator.integers(0, 4, (6, 200)).astype(float)
    for found, own in zip(
        metrics._weighted_areas(score, positive, weights), (sk.roc_auc_score, sk.average_precision_score), strict=True
    ):
        np.testing.assert_allclose(found, [own(positive, score, sample_weight=row) for row in weights], atol=1e-12)


@pytest.mark.parametrize("by_sequence", [False, True])
def test_resampled_scores_are_those_of_the_resampled_objects(by_sequence: bool) -> None:
    """The first bootstrap sample, drawn again by hand and scored by `scores`."""
    generator = np.random.default_rng(6)
    labels = generator.permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    probabilities = generator.dirichlet(np.ones(3), 100) * 0.6 + 0.4 * np.eye(3)[labels]
    owners = generator.integers(0, 25, 100) if by_sequence else np.arange(100)
    strata = [np.arange(25)] if by_sequence else [np.flatnonzero(labels == index) for index in range(3)]
    importance, target = TASK.importance(NAMES), TASK.target_index(NAMES)
    settings = owners, strata, importance, target
    found = metrics._resampled(probabilities, labels, *settings, np.random.default_rng(7))[0]
    again = np.random.default_rng(7)
    drawn = np.zeros(max(owners) + 1, dtype=int)
    for rows in strata:
        drawn[rows] = again.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=metrics.RESAMPLES)[0]
    rows = np.repeat(np.arange(100), drawn[owners])
    expected = list(metrics.scores(probabilities[rows], labels[rows], NAMES, TASK).values())
    np.testing.assert_allclose(found, expected, atol=1e-12)
