"""How sure networks are: agreement with other libraries, Monte-Carlo dropout as its definition, made-up inputs."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import invented
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxrnn import calibration, ensembles, metrics, predict, uncertainty
from jaxrnn.batches import Examples
from jaxrnn.bundles import Bundle
from jaxrnn.evaluation import CHOSEN
from jaxrnn.features import TIME_FEATURES
from jaxrnn.uncertainty import INPUTS, RANDOM, REVERSED, SHUFFLED, SINE, TEST

LAYERS = [
    {"layer": "gru", "units": 6, "recurrent_dropout": 0.2},
    {"layer": "dropout"},
    {"layer": "batch_norm"},
    {"layer": "pool", "kind": "mean"},
    {"layer": "dropout", "rate": 0.1},
]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.write_survey(tmp_path_factory.mktemp("survey"), *invented.observations())


def examples(bundle: Bundle, count: int = 40, seed: int = 3) -> tuple[Examples, np.ndarray]:
    """Returns sequences as the bundle's networks see them, with 0/1 where a column is an indicator, and their times."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 12, count))])
    features = rng.normal(0.2, 1.3, (offsets[-1], len(bundle.features))).astype(np.float32)
    for place, column in enumerate(bundle.features):
        if column["indicator"]:
            features[:, place] = rng.random(offsets[-1]) < 0.5
    ids = np.array([f"object-{row}" for row in range(count)])
    metadata = rng.normal(size=(count, len(bundle.metadata))).astype(np.float32)
    labels = rng.integers(0, 3, count)
    times = np.concatenate([np.sort(rng.uniform(0, 90, b - a)) for a, b in itertools.pairwise(offsets)])
    return Examples(ids, labels, offsets, features, metadata), times


def said(seed: int, places: int, classes: int = 3) -> dict[str, dict[str, ensembles.Together]]:
    rng = np.random.default_rng(seed)
    found = {}
    for at, kind in enumerate(INPUTS):
        members = [rng.dirichlet(np.full(classes, 0.8 + 0.1 * at), places).astype(np.float32) for _ in range(3)]
        found[kind] = {
            CHOSEN: ensembles.together(members[:1], [1.3]),
            "ensemble of 3": ensembles.together(members, [1.3, 0.8, 1.0]),
        }
    return found


def of_classes(
    found: dict[str, dict[str, ensembles.Together]], labels: np.ndarray
) -> dict[str, dict[str, uncertainty.Said]]:
    return {
        kind: {name: uncertainty.Said.of(own, labels) for name, own in together.items()}
        for kind, together in found.items()
    }


def test_tables_agree_with_scipy_and_scikit_learn() -> None:
    found, labels = said(0, 300), np.random.default_rng(1).integers(0, 3, 300)
    tables = uncertainty.judged(of_classes(found, labels), np.arange(300), 5, by_step=False)
    scores = {(row["predictions"], row["score"]): row for row in records(tables.uncertainty)}
    rows = {(row["predictions"], row["inputs"]): row for row in records(tables.out_of_distribution)}
    for name in found[TEST]:
        own = found[TEST][name]
        entropy, right = stats.entropy(own.probabilities, axis=1), own.probabilities.argmax(axis=1) == labels
        values = {score: scores[name, score]["value"] for score in uncertainty.SCORES}
        assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, own.probabilities.argmax(axis=1)))
        assert values["log_loss"] == pytest.approx(sk.log_loss(labels, own.probabilities), rel=1e-4)
        assert values["calibration_error"] == metrics.calibration_error(own.probabilities, labels)
        assert values["entropy"] == pytest.approx(entropy.mean(), rel=1e-5)
        assert values["mistakes_auc"] == pytest.approx(sk.roc_auc_score(~right, own.entropy))
        assert scores[name, "mistakes_auc"]["objects"] == min(right.sum(), (~right).sum())
        for kind in INPUTS:
            row, other = rows[name, kind], found[kind][name]
            assert row["sure"] == (other.probabilities.max(axis=1) > 0.9).mean()
            assert row["median"] == pytest.approx(np.median(stats.entropy(other.probabilities, axis=1)), rel=1e-4)
            if kind == TEST:
                assert np.isnan(row["auc"])
                continue
            truth, score = np.repeat([0, 1], 300), np.concatenate([own.entropy, other.entropy])
            assert row["auc"] == pytest.approx(sk.roc_auc_score(truth, score))
            assert row["low"] < row["auc"] < row["high"]
    for row in scores.values():
        assert not row["low"] > row["value"] and not row["high"] < row["value"]
    counted: dict[tuple[str, str], int] = {}
    for row in records(tables.entropies):
        key = row["predictions"], row["inputs"]
        counted[key] = counted.get(key, 0) + row["places"]
    assert set(counted.values()) == {300} and len(counted) == 10


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def test_areas_by_objects_are_those_of_their_places_ties_and_all() -> None:
    rng = np.random.default_rng(2)
    owners, score = np.sort(rng.integers(0, 20, 200)), rng.integers(0, 8, 200).astype(float)
    high = rng.random(200) < 0.4
    draws = uncertainty._Draws.of(20, 1)
    found = draws.area(score[high], owners[high], score[~high], owners[~high])
    assert found["value"] == pytest.approx(sk.roc_auc_score(high, score))
    weights = draws.counts[:, owners]
    one_by_one = [sk.roc_auc_score(high, score, sample_weight=own) for own in weights]
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(one_by_one, [2.5, 97.5]))
    assert np.isnan(draws.area(score[:0], owners[:0], score, owners)["value"])
    assert np.isnan(draws.area(score * np.nan, owners, score, owners)["value"])


def test_moments_are_of_what_was_observed() -> None:
    rng = np.random.default_rng(8)
    seen = rng.random(4000) < 0.2
    values = np.where(seen, rng.normal(2, 3, 4000), 0)
    features = np.stack([values, seen, rng.normal(1, 2, 4000)], axis=1)
    columns = [{"kind": "value", "passband": "g", "indicator": False},
               {"kind": "passband", "passband": "g", "indicator": True},
               {"kind": "value", "passband": None, "indicator": False}]  # fmt: skip
    mean, deviation = uncertainty.moments(features, columns)
    assert mean[[0, 2]] == pytest.approx([values[seen].mean(), features[:, 2].mean()])
    assert deviation[[0, 2]] == pytest.approx([values[seen].std(), features[:, 2].std()])


def test_mutual_information_is_entropy_less_the_mean_entropy(survey: Path) -> None:
    bundle = invented.bundle(survey, layers=LAYERS)
    inputs, _ = examples(bundle)
    passes = predict.by_dropout(bundle, inputs, 12, 4, 0.3, 0.0)
    together = ensembles.together(passes, [0.7] * 12)
    scaled = np.stack([calibration.scaled(own, 0.7) for own in passes]).astype(float)
    own, whole = stats.entropy(scaled, axis=2).mean(axis=0), stats.entropy(scaled.mean(axis=0), axis=1)
    np.testing.assert_allclose(together.mutual_information, whole - own, atol=1e-6)
    assert (together.mutual_information >= 0).all() and together.mutual_information.max() > 1e-4


@pytest.mark.parametrize("kind", ["sequence", "prefix"])
def test_passes_without_dropout_are_the_prediction(survey: Path, kind: str) -> None:
    layers = [{"layer": "lstm", "units": 5}, {"layer": "dropout"}, {"layer": "batch_norm"}]
    layers += [{"layer": "pool", "kind": "mean"}] if kind == "sequence" else []
    bundle = invented.bundle(survey, kind=kind, layers=layers, members=1)
    inputs, _ = examples(bundle)
    (plain,) = predict.by_batches(bundle, inputs)
    for own in predict.by_dropout(bundle, inputs, 3, 1, 0.0, 0.0):
        np.testing.assert_allclose(own, plain, atol=1e-6)
    dropped = predict.by_dropout(bundle, inputs, 400, 1, 0.1, 0.0)
    assert np.abs(dropped[0] - plain).max() > 1e-3 and np.abs(dropped[0] - dropped[1]).max() > 1e-3
    assert np.abs(np.mean(dropped, axis=0) - plain).mean() < 0.3 * np.abs(np.stack(dropped) - plain).mean()


def test_a_pass_follows_from_the_seed_and_padding_is_not_looked_at(survey: Path) -> None:
    bundle = invented.bundle(survey, layers=LAYERS, members=1)
    inputs, _ = examples(bundle)
    first, again, other = (predict.by_dropout(bundle, inputs, 2, seed, 0.3, 0.2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.stack(first) - np.stack(other)).max() > 1e-3


def test_longer_padding_changes_no_entropy(survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = invented.bundle(survey, layers=LAYERS)
    inputs, _ = examples(bundle)
    tables = []
    for least in (8, 64):
        monkeypatch.setattr(predict, "LEAST_STEPS", least)
        members = predict.by_batches(bundle, inputs)
        tables.append(ensembles.together(members, [1.0, 1.0]))
    for short, long in zip(*tables, strict=True):
        np.testing.assert_allclose(short, long, atol=2e-6)


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3)])
def test_whether_a_network_drops_out_follows_from_rates_and_layers(survey: Path, rates: tuple[float, float]) -> None:
    plain = [{"layer": "gru", "units": 4}, {"layer": "dropout"}, {"layer": "pool", "kind": "mean"}]
    assert uncertainty._network(invented.bundle(survey, layers=plain)).drops(*rates) == any(rates)
    assert uncertainty._network(invented.bundle(survey, layers=LAYERS)).drops(*rates), "some have rates of their own"
    never = [{"layer": "gru", "units": 4, "recurrent_dropout": 0}, {"layer": "pool", "kind": "mean"}]
    assert not uncertainty._network(invented.bundle(survey, layers=never)).drops(*rates)


# Made-up inputs


def made(bundle: Bundle, seed: int = 1, **changes: Any) -> tuple[Examples, dict[str, Examples]]:
    objects, times = examples(bundle)
    objects = replace(objects, **changes)
    mean, deviation = np.arange(len(bundle.features)), np.full(len(bundle.features), 0.5)
    return objects, uncertainty.made_up(objects, times, bundle.features, mean, deviation, seed)


def test_made_up_inputs_keep_lengths_times_and_metadata(survey: Path) -> None:
    bundle = invented.bundle(survey)
    objects, found = made(bundle)
    kinds = np.array([column["kind"] for column in bundle.features])
    assert list(found) == [RANDOM, REVERSED, SHUFFLED, SINE]
    for kind, inputs in found.items():
        for name in ("ids", "labels", "offsets", "metadata"):
            np.testing.assert_array_equal(getattr(inputs, name), getattr(objects, name))
        assert inputs.features.dtype == np.float32 and np.isfinite(inputs.features).all()
        timed = np.isin(kinds, TIME_FEATURES)
        np.testing.assert_array_equal(inputs.features[:, timed], objects.features[:, timed])
        assert not np.array_equal(inputs.features, objects.features), kind
    for start, stop in zip(objects.offsets, objects.offsets[1:], strict=False):
        own, rest = objects.features[start:stop], ~np.isin(kinds, TIME_FEATURES)
        np.testing.assert_array_equal(found[REVERSED].features[start:stop, rest], own[::-1, rest])
        mixed = found[SHUFFLED].features[start:stop, rest]
        assert sorted(map(tuple, mixed.tolist())) == sorted(map(tuple, own[:, rest].tolist())), "a step stays a step"
    _, again = made(bundle)
    _, other = made(bundle, seed=2)
    for kind in found:
        np.testing.assert_array_equal(again[kind].features, found[kind].features)
    assert not np.array_equal(other[RANDOM].features, found[RANDOM].features)


def test_random_values_and_waves_have_the_moments_that_are_given(survey: Path) -> None:
    bundle = invented.bundle(survey)
    rng, count = np.random.default_rng(0), 4000
    offsets = np.arange(0, count + 1, 40)
    features = np.zeros((count, len(bundle.features)), np.float32)
    objects = Examples(np.arange(100).astype(str), np.zeros(100, int), offsets, features, np.zeros((100, 1)))
    times = np.sort(rng.uniform(0, 100, (100, 40)), axis=1).ravel()
    mean, deviation = rng.normal(size=features.shape[1]), rng.uniform(0.5, 2, features.shape[1])
    # all passbands are seen
    for place, column in enumerate(bundle.features):
        features[:, place] = column["indicator"]
    found = uncertainty.made_up(objects, times, bundle.features, mean, deviation, 1)
    for place, column in enumerate(bundle.features):
        for kind, of in ((RANDOM, ("value", "error")), (SINE, ("value",))):
            own = found[kind].features[:, place]
            if column["kind"] in of:
                assert own.mean() == pytest.approx(mean[place], abs=0.1 * deviation[place])
                assert own.std() == pytest.approx(deviation[place], rel=0.06)
            else:
                np.testing.assert_array_equal(own, features[:, place])


def test_what_no_passband_saw_stays_0(survey: Path) -> None:
    nights = {"steps": "night", "features": ["time_difference", "flux", "flux_error", "passband"]}
    bundle = invented.bundle(survey, data=nights)
    objects, _ = examples(bundle)
    features = objects.features.copy()
    seen = {column["passband"]: features[:, place] > 0 for place, column in enumerate(bundle.features)
            if column["indicator"]}  # fmt: skip
    for place, column in enumerate(bundle.features):
        if column["kind"] in ("value", "error"):
            features[:, place] = np.where(seen[column["passband"]], features[:, place], 0)
    _, found = made(bundle, features=features)
    for inputs in found.values():
        bands = {c["passband"]: inputs.features[:, p] > 0 for p, c in enumerate(bundle.features) if c["indicator"]}
        for place, column in enumerate(bundle.features):
            if column["kind"] in ("value", "error"):
                assert (inputs.features[~bands[column["passband"]], place] == 0).all()
                assert (inputs.features[bands[column["passband"]], place] != 0).mean() > 0.9


def test_steps_are_drawn_with_their_objects() -> None:
    found, rng = said(7, 300), np.random.default_rng(1)
    owners = np.sort(rng.integers(0, 12, 300)) * 3  # of objects, some have no labelled step
    tables = uncertainty.judged(of_classes(found, rng.integers(0, 3, 300)), owners, 5, by_step=True)
    assert set(tables.out_of_distribution["objects"]) == {12} and set(tables.out_of_distribution["places"]) == {300}
    assert {row["objects"] for row in records(tables.uncertainty) if row["score"] != "mistakes_auc"} == {12}


def test_long_sequences_are_fewer() -> None:
    from jaxrnn.batches import Part

    def part(count: int, steps: int) -> Part:
        offsets = np.arange(0, count * steps + 1, steps)
        whole = Examples(np.arange(count).astype(str), np.zeros(count, int), offsets,
                         np.zeros((count * steps, 1), np.float32), np.zeros((count, 0), np.float32))  # fmt: skip
        return Part.of([whole])

    assert len(uncertainty._drawn(part(600, 4), 1)) == uncertainty.MOST_OBJECTS
    assert len(uncertainty._drawn(part(60, 2500), 1)) == 20
    first, again = (uncertainty._drawn(part(600, 4), 1).ids for _ in range(2))
    assert first.tolist() == again.tolist() != uncertainty._drawn(part(600, 4), 2).ids.tolist()


def test_tables_of_a_bundle_follow_from_the_seed(survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxrnn.batches import Part

    monkeypatch.setattr(uncertainty, "PASSES", 4)
    bundle = invented.bundle(survey, layers=LAYERS)
    objects, times = examples(bundle)
    monkeypatch.setattr(uncertainty.Clock, "read", lambda *_: type("Known", (), {"time": times}))
    test = Part.of([objects], "test")
    dropout = uncertainty.Dropout(0.3, 0.0)
    first, again, other = (uncertainty.tables(bundle, test, test, tmp_path, dropout, seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, two)
    names = [CHOSEN, "ensemble of 2", uncertainty.DROPOUT]
    assert list(dict.fromkeys(first.out_of_distribution["predictions"])) == names
    assert not first.out_of_distribution.equals(other.out_of_distribution)
    chosen = {row["score"]: row["value"] for row in records(first.uncertainty) if row["predictions"] == CHOSEN}
    own = calibration.scaled(predict.by_batches(bundle, objects)[0], bundle.members[0].temperature)
    assert chosen["log_loss"] == pytest.approx(metrics.log_loss(own, objects.labels), rel=1e-6)


def test_kinds_that_change_nothing_are_left_out(survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxrnn.batches import Part

    bundle = invented.bundle(survey, data={"features": ["passband"]}, members=1, layers=LAYERS)
    objects, times = examples(bundle)
    monkeypatch.setattr(uncertainty.Clock, "read", lambda *_: type("Known", (), {"time": times}))
    test = Part.of([objects], "test")
    found = uncertainty.tables(bundle, test, test, tmp_path, uncertainty.Dropout(0.0, 0.0), 1)
    assert set(found.out_of_distribution["inputs"]) == {TEST, REVERSED, SHUFFLED}
