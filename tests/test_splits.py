"""Splits hold their shares, and statistics see the training split alone."""

import itertools
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leaks import feature, shard, write_dataset

from jaxrnn import batches, results, shards, splits
from jaxrnn.config import Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.features import FeatureColumn
from jaxrnn.readers import SPLITS, Column
from jaxrnn.shards import Shard
from jaxrnn.splits import Histogram, Moments, Statistics

# one name of `data.features` may stand for several columns, and one of them is a mark
COLUMNS: tuple[FeatureColumn, ...] = (
    feature("time", "time", 0),
    feature("flux_g", source=1),
    feature("flux_r", source=1),
    feature("passband_g", "passband", 2, True),
    feature("heavy", source=3),
)
NORMALISATIONS = ("feature", "survey", "feature", "robust")


def content(objects: int = 150, shards_of: int = 37, seed: int = 0, **others: Any) -> list[Shard]:
    """Returns shards of noise with gaps, whose class is not told by anything."""
    generator = np.random.default_rng(seed)
    sequences, labels = [], []
    for index in range(objects):
        values = generator.normal([100, 5, -3, 0, 0], [30, 2, 9, 0, 1], (generator.integers(8, 20), 5))
        values[:, 3] = generator.integers(0, 2, len(values))
        values[:, 4] = np.exp(3 * values[:, 4])
        values[generator.random(len(values)) < 0.2, 1] = np.nan
        sequences.append(values)
        labels.append("abc"[min(2, index % 5)])
    result = []
    for start in range(0, objects, shards_of):
        chosen = slice(start, start + shards_of)
        mine = {name: values[chosen] for name, values in others.items()}
        metadata = generator.normal(3, 4, (len(labels[chosen]), 1)).astype(np.float32)
        described = {"metadata": metadata, "metadata_columns": (Column("redshift"),)}
        result.append(shard(sequences[chosen], labels[chosen], start, COLUMNS, **mine, **described))
    return result


def experiment(normalisations: tuple[str, ...] = NORMALISATIONS, seed: int = 1, **split: Any) -> Experiment:
    names = ("time", "flux", "passband", "heavy")
    features = [{"name": n, "normalisation": kind} for n, kind in zip(names, normalisations, strict=True)]
    return Experiment.model_validate(
        {
            "experiment": "tiny",
            "seed": seed,
            "data": {"reader": "goto", "path": "survey", "features": features},
            "split": split,
        }
    )


def made(folder: Path, entries: list[Shard], of: Experiment) -> pd.DataFrame:
    """Returns `splits.csv` of these shards; the folder holds all that was written."""
    splits.split(of, write_dataset(folder / "dataset", entries), folder)
    return splits.read_splits(folder)


def rows_of(entries: list[Shard], table: pd.DataFrame, fold: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [step, column] and metadata of the training sequences, found by loops."""
    training = splits.assigned(table, fold) == "train"
    features, metadata, number = [], [], 0
    for entry in entries:
        for index in range(len(entry.ids)):
            if training[number]:
                features.append(entry.features[entry.offsets[index] : entry.offsets[index + 1]])
                metadata.append(entry.metadata[index])
            number += 1
    return np.concatenate(features).astype(np.float64), np.array(metadata, dtype=np.float64)


@pytest.mark.parametrize("change", ["order", "metadata", "unit"])
def test_shards_of_other_columns_are_refused(tmp_path: Path, change: str) -> None:
    entries = content()
    columns = entries[2].feature_columns
    changed = {
        "order": {"feature_columns": (columns[1], columns[0], *columns[2:])},
        "metadata": {"metadata_columns": (Column("blueshift"),)},
        "unit": {"time_unit": "seconds"},
    }[change]
    table = made(tmp_path / "whole", entries, experiment())
    statistics = splits.read_statistics(tmp_path / "whole")
    entries[2] = replace(entries[2], **changed)
    refusal = r"00002\.h5: its .* are .*, and those of the dataset's first shard .* `jaxrnn ingest` again"
    with pytest.raises(JaxrnnError, match=refusal):
        made(tmp_path / "mixed", entries, experiment())
    with pytest.raises(JaxrnnError, match=refusal):
        batches.Corpus(tmp_path / "mixed" / "dataset", table, statistics)


# Statistics


def check_statistics(statistics: Statistics, features: np.ndarray, metadata: np.ndarray) -> None:
    mean, deviation = np.nanmean(features, axis=0), np.nanstd(features, axis=0)
    np.testing.assert_allclose(statistics.feature_mean[0], mean[0], rtol=1e-10)
    np.testing.assert_allclose(statistics.feature_deviation[0], deviation[0], rtol=1e-10)
    both = features[:, 1:3]
    np.testing.assert_allclose(statistics.feature_mean[1:3], np.nanmean(both), rtol=1e-10)
    np.testing.assert_allclose(statistics.feature_deviation[1:3], np.nanstd(both), rtol=1e-10)
    assert (statistics.feature_mean[3], statistics.feature_deviation[3]) == (0, 1), "marks stay 0 and 1"
    low, middle, high = np.quantile(features[:, 4], [0.25, 0.5, 0.75], method="inverted_cdf")
    bound = 2.0 ** -(Histogram.BITS + 1)
    assert abs(statistics.feature_mean[4] - middle) <= bound * middle
    assert abs(statistics.feature_deviation[4] - 0.7413 * (high - low)) <= 0.7413 * bound * (high + low)
    np.testing.assert_allclose(statistics.metadata_mean, metadata.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(statistics.metadata_deviation, metadata.std(axis=0), rtol=1e-10)


@pytest.mark.parametrize("method", ["given", "exact", "hash"])
def test_statistics_are_those_of_the_training_split(tmp_path: Path, method: str) -> None:
    entries = content(splits=np.array((["train"] * 3 + ["validation", "test"]) * 30))
    if method == "given":
        # every class in every split
        entries = content(splits=np.array([SPLITS[i // 5 % 3] for i in range(150)]))
    table = made(tmp_path, entries, experiment(method=method))
    statistics = splits.read_statistics(tmp_path)
    check_statistics(statistics, *rows_of(entries, table))
    counts = table.query("split == 'train'")["class"].value_counts()
    assert statistics.class_counts.tolist() == [counts[name] for name in statistics.classes]


@pytest.mark.parametrize("by", ["object", "group"])
@pytest.mark.parametrize("method", ["exact", "hash", "given"])
def test_each_fold_has_the_statistics_of_its_own_training(tmp_path: Path, method: str, by: str) -> None:
    groups = np.array([f"star {i // 5}" for i in range(150)])
    given = np.array([SPLITS[i // 5 % 3] for i in range(150)])
    entries = content(splits=given, groups=groups)
    table = made(tmp_path, entries, experiment(method=method, by=by, folds=4, leaks="report"))
    digests = set()
    for fold in range(4):
        statistics = splits.read_statistics(tmp_path, fold)
        check_statistics(statistics, *rows_of(entries, table, fold))
        counts = pd.Series(table["class"].to_numpy()[splits.assigned(table, fold) == "train"]).value_counts()
        assert statistics.class_counts.tolist() == [counts[name] for name in statistics.classes]
        digests.add(statistics.data_digest)
    assert len(digests) == 1
    for fold in (None, 4):
        with pytest.raises(JaxrnnError, match=r"other `split\.folds`"):
            splits.read_statistics(tmp_path, fold)


@pytest.mark.parametrize("by", ["object", "group"])
@pytest.mark.parametrize("method", ["exact", "hash"])
def test_a_random_fold_is_the_split_of_its_seed(tmp_path: Path, method: str, by: str) -> None:
    entries = content(groups=np.array([f"star {i // 5}" for i in range(150)]))
    settings: dict[str, Any] = {"method": method, "by": by, "leaks": "report"}
    table = made(tmp_path / "folds", entries, experiment(seed=3, folds=4, fold_kind="random", **settings))
    tests = set()
    for fold in range(4):
        alone = made(tmp_path / f"alone-{fold}", entries, experiment(seed=3 + fold, **settings))
        np.testing.assert_array_equal(splits.assigned(table, fold), splits.assigned(alone))
        own, single = (
            splits.read_statistics(tmp_path / "folds", fold),
            splits.read_statistics(tmp_path / f"alone-{fold}"),
        )
        for name in ("feature_mean", "feature_deviation", "metadata_mean", "metadata_deviation", "class_counts"):
            np.testing.assert_array_equal(getattr(own, name), getattr(single, name))
        tests.add(tuple(np.flatnonzero(splits.assigned(table, fold) == "test")))
    assert len(tests) == 4, "every fold has a test split of its own"


@pytest.mark.parametrize("fold_kind", [None, "k_fold", "random"])
def test_balanced_classes_are_as_large_as_the_smallest(tmp_path: Path, fold_kind: str | None) -> None:
    folds = {} if fold_kind is None else {"folds": 3, "fold_kind": fold_kind}
    table = made(tmp_path, content(), experiment(balance=True, leaks="report", **folds))
    smallest = min((table["class"] == name).sum() for name in "abc")
    kept = table["split"] != splits.SURPLUS
    assert [((table["class"] == name) & kept).sum() for name in "abc"] == [smallest] * 3
    for fold in [None] if fold_kind is None else range(3):
        place, left_out = splits.assigned(table, fold), (table["split"] == splits.SURPLUS).to_numpy()
        assert not set(place[left_out]) & set(SPLITS) and set(place[~left_out]) == set(SPLITS)
        assert splits.read_statistics(tmp_path, fold).class_counts.max() <= smallest
    again = made(tmp_path / "again", content()[::-1], experiment(balance=True, leaks="report", **folds))
    left = [set(found.loc[found["split"] == splits.SURPLUS, "id"]) for found in (table, again)]
    assert left[0] == left[1], "who is left out depends on seed and object alone"


def test_random_folds_are_not_drawn_from_given_splits() -> None:
    with pytest.raises(ValueError, match="takes them from the files; use `exact` or `hash`"):
        experiment(method="given", folds=2, fold_kind="random")


def test_other_validation_and_test_sequences_change_no_statistic(tmp_path: Path) -> None:
    places = np.array([SPLITS[i // 5 % 3] for i in range(150)])
    entries = content(splits=places)
    made(tmp_path / "before", entries, experiment(method="given"))
    for entry in entries:
        others = np.repeat(entry.splits != "train", entry.lengths)
        entry.features[others] *= 1000
    made(tmp_path / "after", entries, experiment(method="given"))
    before, after = (splits.read_statistics(tmp_path / name) for name in ("before", "after"))
    np.testing.assert_array_equal(before.feature_mean, after.feature_mean)
    np.testing.assert_array_equal(before.feature_deviation, after.feature_deviation)
    assert before.data_digest != after.data_digest


def test_every_normalisation_of_one_column(tmp_path: Path) -> None:
    entries = content()
    dataset = write_dataset(tmp_path / "dataset", entries)
    digests = set()
    for kind in ("feature", "robust", "survey", "sequence", "none"):
        of = experiment((kind,) * 4)
        splits.split(of, dataset, tmp_path)
        statistics = splits.read_statistics(tmp_path)
        digests.add(statistics.settings_digest)
        assert statistics.settings_digest == splits.settings_digest(of)
        entry = entries[0]
        shown, metadata = statistics.normalised(entry.features, entry.metadata, entry.offsets)
        assert shown.dtype == metadata.dtype == np.float32
        np.testing.assert_array_equal(shown[:, 3], entry.features[:, 3])
        np.testing.assert_array_equal(shown[:, 1] == 0, np.isnan(entry.features[:, 1]))
        values = entry.features.astype(np.float64)
        if kind == "none":
            np.testing.assert_array_equal(shown, np.nan_to_num(entry.features))
        elif kind == "sequence":
            assert statistics.sequence_features.tolist() == [0, 1, 2, 4]
            for start, end in itertools.pairwise(entry.offsets):
                own = values[start:end, [0, 1, 2, 4]]
                own = (own - np.nanmean(own, axis=0)) / np.nanstd(own, axis=0)
                np.testing.assert_allclose(shown[start:end, [0, 1, 2, 4]], np.nan_to_num(own), rtol=1e-5, atol=1e-6)
        else:
            expected = (values - statistics.feature_mean) / statistics.feature_deviation
            np.testing.assert_array_equal(shown, np.nan_to_num(expected.astype(np.float32)))
    assert len(digests) == 5, "other normalisation, other statistics"


def test_a_sequence_is_normalised_the_same_in_any_company() -> None:
    statistics = Statistics(
        ("a", "b"), np.array([1, 1]), np.zeros(2), np.ones(2), np.zeros(0), np.ones(0), "", "", np.array([0, 1])
    )
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 30, 50)
    offsets = np.cumsum([0, *lengths])
    values = generator.normal(1e4, 1e-2, (offsets[-1], 2)).astype(np.float32)
    values[offsets[3] : offsets[4]] = 7.25  # doesn't vary
    values[generator.random(len(values)) < 0.3, 0] = np.nan
    together, _ = statistics.normalised(values, np.zeros((50, 0)), offsets)
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        alone, _ = statistics.normalised(values[start:end], np.zeros((1, 0)), np.array([0, end - start]))
        np.testing.assert_array_equal(alone, together[start:end])
        if index == 3 or end - start == 1:
            assert not alone.any()
    assert np.isfinite(together).all()


def test_statistics_come_back_from_json(tmp_path: Path) -> None:
    made(tmp_path, content(), experiment(("sequence", "survey", "none", "robust")))
    statistics = splits.read_statistics(tmp_path)
    again = Statistics.from_json(statistics.to_json())
    for name, value in vars(statistics).items():
        np.testing.assert_array_equal(getattr(again, name), value)
        if isinstance(value, np.ndarray):
            assert getattr(again, name).dtype == value.dtype


def test_how_objects_lie_in_shards_changes_moments_by_rounding_alone_and_robust_ones_not_at_all(tmp_path: Path) -> None:
    found = []
    for each in (150, 37, 15):
        folder = tmp_path / str(each)
        generator = np.random.default_rng(3)
        values = generator.normal(20, 1, (150, 9, 5))
        values[..., 3] = 0
        labels = ["a", "b"] * 75
        entries = [
            shard(list(values[i : i + each]), labels[i : i + each], i, COLUMNS) for i in range(0, len(values), each)
        ]
        made(folder, entries, experiment())
        found.append(splits.read_statistics(folder))
    for other in found[1:]:
        np.testing.assert_allclose(other.feature_deviation, found[0].feature_deviation, rtol=1e-12)
        assert other.feature_mean[4] == found[0].feature_mean[4]
        assert other.feature_deviation[4] == found[0].feature_deviation[4]


def test_where_half_of_the_numbers_are_equal_robust_takes_the_standard_deviation(tmp_path: Path) -> None:
    entries = content()
    for entry in entries:
        entry.features[np.arange(len(entry.features)) % 8 != 0, 4] = 0.0
    table = made(tmp_path, entries, experiment())
    features, _ = rows_of(entries, table)
    statistics = splits.read_statistics(tmp_path)
    np.testing.assert_allclose(statistics.feature_deviation[4], features[:, 4].std(), rtol=1e-10)
    assert abs(statistics.feature_mean[4]) < 1e-40


def test_a_column_of_tiny_numbers_is_normalised_too(tmp_path: Path) -> None:
    entries = content()
    for entry in entries:
        entry.features[:] *= 1e-20
    table = made(tmp_path, entries, experiment(("feature",) * 4))
    features, _ = rows_of(entries, table)
    np.testing.assert_allclose(splits.read_statistics(tmp_path).feature_deviation[2], features[:, 2].std(), rtol=1e-9)


FLOATS = st.floats(width=32, allow_infinity=False, allow_nan=True)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(FLOATS, max_size=20), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.randoms(use_true_random=False),
)
def test_quantiles_are_within_their_bound_in_any_order(parts: list[list[float]], share: float, random: Any) -> None:
    histograms = [Histogram.of(np.array(part, dtype=np.float32)) for part in parts]
    merged = reduce(Histogram.merged, histograms)
    random.shuffle(histograms)
    again = reduce(Histogram.merged, histograms)
    np.testing.assert_array_equal(merged.bins, again.bins)
    np.testing.assert_array_equal(merged.counts, again.counts)
    values = np.array([value for part in parts for value in part], dtype=np.float32)
    values = values[~np.isnan(values)].astype(np.float64)
    assert merged.counts.sum() == len(values)
    expected = np.quantile(values, share, method="inverted_cdf") if len(values) else 0.0
    # numbers below 2^-126 share bins of a fixed width
    bound = 2.0 ** -(Histogram.BITS + 1) * max(abs(expected), 2.0**-126)
    assert abs(merged.quantile(share) - expected) <= bound


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=20), min_size=1, max_size=6))
def test_merged_moments_are_those_of_the_whole(parts: list[list[float]]) -> None:
    arrays = [np.array(part, dtype=float).reshape(-1, 1) for part in parts]
    merged = reduce(Moments.merged, [Moments.of(array) for array in arrays])
    whole = np.concatenate(arrays)[:, 0]
    whole = whole[~np.isnan(whole)]
    assert merged.count[0] == len(whole)
    if len(whole):
        np.testing.assert_allclose(merged.mean[0], whole.mean(), rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(merged.squares[0], ((whole - whole.mean()) ** 2).sum(), rtol=1e-9, atol=1e-3)


# Splits


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.7, 0.15), (0.34, 0.33)])
def test_exact_shares_hold_within_each_class(tmp_path: Path, shares: tuple[float, float]) -> None:
    table = made(tmp_path, content(), experiment(train=shares[0], validation=shares[1]))
    assert "fold" not in table
    for _, members in table.groupby("class"):
        counts = members["split"].value_counts().to_dict()
        assert abs(counts["train"] - shares[0] * len(members)) <= 0.5
        assert abs(counts["train"] + counts["validation"] - sum(shares) * len(members)) <= 1


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    entries = content()
    tables = [made(tmp_path / str(n), entries, experiment(seed=seed)) for n, seed in enumerate((1, 1, 2))]
    first, again, other = (table["split"] for table in tables)
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize("by", ["object", "group"])
@pytest.mark.parametrize("method", ["exact", "hash"])
def test_where_an_object_goes_is_not_decided_by_its_place(tmp_path: Path, method: str, by: str) -> None:
    """The same objects in another order, in other shards, go where they went."""
    found = []
    for order in (np.arange(200), np.random.default_rng(1).permutation(200)):
        rng = np.random.default_rng(0)
        sequences = rng.normal(0, 1, (200, 9, 5))
        labels = np.array(["a", "b"] * 100)
        groups = np.array([f"star {i // 4}" for i in range(200)])
        entry = shard(
            list(sequences[order]), labels[order].tolist(), 0, COLUMNS, ids=order.astype(str), groups=groups[order]
        )
        of = experiment(method=method, by=by, folds=3, leaks="report")
        found.append(made(tmp_path / str(len(found)), [entry], of).set_index("id").sort_index())
    assert found[0].equals(found[1])


@pytest.mark.parametrize("folds", [None, 5])
def test_hash_never_moves_an_object_when_others_come(tmp_path: Path, folds: int | None) -> None:
    rng = np.random.default_rng(0)
    sequences, labels = list(rng.normal(0, 1, (4000, 8, 5))), ["a", "b"] * 2000
    of = experiment(method="hash", folds=folds)
    whole = made(tmp_path / "whole", [shard(sequences, labels, 0, COLUMNS)], of)
    some = made(tmp_path / "some", [shard(sequences[:900], labels[:900], 0, COLUMNS)], of)
    assert some.equals(whole.iloc[:900])
    # five standard deviations of a share of 4,000
    shares = whole["split"].value_counts(normalize=True).to_dict()
    for name, share in {"train": 0.7, "validation": 0.15}.items() if folds is None else {"pool": 0.85}.items():
        assert abs(shares[name] - share) < 5 * np.sqrt(share * (1 - share) / 4000)
    if folds is not None:
        counts = whole.query("split == 'pool'")["fold"].value_counts()
        assert len(counts) == 5 and counts.min() > 550


def test_folds_share_the_pool_evenly_in_every_class(tmp_path: Path) -> None:
    table = made(tmp_path, content(), experiment(folds=4))
    pool = table.query("split == 'pool'")
    assert set(table["split"]) == {"pool", "test"} and set(table.query("split == 'test'")["fold"]) == {""}
    for counts in (pool["fold"].value_counts(), *(rows["fold"].value_counts() for _, rows in pool.groupby("class"))):
        assert len(counts) == 4 and counts.max() - counts.min() <= 1
    seen = np.array([splits.assigned(table, fold) for fold in range(4)])
    assert ((seen == "validation").sum(axis=0) == (table["split"] == "pool")).all(), "each validates once"
    assert ((seen == "test").sum(axis=0) == 4 * (table["split"] == "test")).all()
    for fold in range(4):
        np.testing.assert_array_equal(seen[fold] == "validation", table["fold"] == str(fold))


GROUPS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=3, max_size=60)


@settings(deadline=None, max_examples=80)
@given(GROUPS, st.sampled_from([(0.7, 0.15, 0.15), (0.34, 0.33, 0.33), (0.2,) * 5]), st.integers(0, 9))
def test_groups_stay_whole_and_shares_are_off_by_less_than_a_group(
    groups: list[tuple[int, int]], shares: tuple[float, ...], seed: int
) -> None:
    units = np.array([f"g{i}" for i, (size, _) in enumerate(groups) for _ in range(size)])
    names = np.array(["abc"[label] for size, label in groups for _ in range(size)], dtype=object)
    places = np.array([splits.uniform(seed, unit) for unit in units])
    part = splits._by_group(names, units, places, shares)
    for unit in np.unique(units):
        assert len(set(part[units == unit])) == 1
    for label, name in enumerate("abc"):
        sizes = [size for size, other in groups if other == label]
        if not sizes:
            continue
        counts = np.array([((names == name) & (part == index)).sum() for index in range(len(shares))])
        over = counts - np.array(shares) * sum(sizes)
        assert over.max() < max(sizes)
        if len(sizes) >= len(shares):
            assert counts.min() > 0


def test_mixed_groups_stay_whole_and_classes_near_their_shares(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.choice(["a", "b", "c"], 600, p=[0.6, 0.3, 0.1]), rng.integers(0, 80, 600)
    groups = np.array([f"subject {number}" if number else "" for number in groups])
    entry = shard(list(rng.normal(0, 1, (600, 8, 5))), labels.tolist(), 0, COLUMNS, groups=groups)
    for folds in (None, 4):
        table = made(tmp_path / str(folds), [entry], experiment(by="group", folds=folds))
        place = (table["split"] + table.get("fold", "")).to_numpy()
        for name in np.unique(groups[groups != ""]):
            assert len(set(place[groups == name])) == 1
        assert len(set(place[groups == ""])) > 1, "an object without a group goes by itself"
        for label in "abc":
            places = [row["split"] for row in table.to_dict("records") if row["class"] == label]
            assert abs(places.count("test") / len(places) - 0.15) < 0.08


def test_given_without_validation_takes_it_from_training_alone(tmp_path: Path) -> None:
    places = np.array(["test" if i // 5 % 3 == 0 else "train" for i in range(150)])
    entries = content(splits=places)
    of = experiment(method="given", validation=0.2)
    said = splits.split(of, write_dataset(tmp_path / "dataset", entries), tmp_path)
    table = splits.read_splits(tmp_path)
    train = int((places == "train").sum())
    assert said[0].startswith("the survey's files give no validation split: 20 of 100 training objects")
    assert said[0] in results.read_json(tmp_path / "statistics.json", "")["remarks"]
    np.testing.assert_array_equal(table["split"] == "test", places == "test")
    for _, rows in table.loc[places == "train"].groupby("class"):
        assert abs(rows["split"].tolist().count("validation") - 0.2 * len(rows)) <= 0.5
    found = table["split"].tolist()
    assert found.count("train") + found.count("validation") == train


@pytest.mark.parametrize(
    ("split", "others", "said"),
    [
        ({"method": "given"}, {}, "this survey's files give no splits"),
        ({"by": "group"}, {}, "this survey's files give no groups"),
        ({"method": "given"}, {"splits": np.array(["train"] * 150)}, "give train alone; expected train and test"),
        ({"method": "given"}, {"splits": np.array(["train"] * 149 + ["dev"])}, "149 for one, are in none"),
        ({"folds": 30}, {}, "class 'a' has 30 objects; expected at least 31, one for each of 30 folds"),
        ({"by": "group"}, {"groups": np.array(["a", "b"] * 75)}, "has no object in the"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be(tmp_path: Path, split: dict[str, Any], others: dict[str, Any], said: str) -> None:
    with pytest.raises(JaxrnnError) as error:
        made(tmp_path, content(**others), experiment(**split))
    assert said in str(error.value)
    assert not (tmp_path / "splits.csv").exists()


def test_a_survey_without_labels_is_explained(tmp_path: Path) -> None:
    entries = content()
    for entry in entries:
        entry.labels[:] = ""
    with pytest.raises(JaxrnnError, match="the survey's objects have no labels"):
        made(tmp_path, entries, experiment())


def test_excluded_labels_are_in_no_split_and_no_statistic(tmp_path: Path) -> None:
    values = experiment().model_dump()
    values["task"]["exclude"] = ("c",)
    entries = content()
    table = made(tmp_path, entries, Experiment.model_validate(values))
    np.testing.assert_array_equal(table["split"] == "excluded", table["label"] == "c")
    check_statistics(splits.read_statistics(tmp_path), *rows_of(entries, table))


def test_shards_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are the steps of two shards held."""
    import weakref

    alive: list[weakref.ref[Any]] = []
    most = 0
    read = shards.read

    def watched(path: Path, **options: Any) -> Shard:
        nonlocal most
        found = read(path, **options)
        if options.get("steps", True):
            alive.append(weakref.ref(found.features))
            most = max(most, sum(entry() is not None for entry in alive))
        return found

    dataset = write_dataset(tmp_path / "dataset", content(shards_of=25))
    monkeypatch.setattr(shards, "read", watched)
    splits.split(experiment(), dataset, tmp_path)
    assert len(alive) >= 12
    assert most <= 2, "the one before is let go as the next one is read"


# Fewer sequences to train on


def with_sequences(of: Experiment, *counts: int | None) -> Experiment:
    return of.model_copy(update={"grid": {"training.sequences": counts}})


@pytest.mark.parametrize("folds", [None, "k_fold", "random"])
def test_fewer_sequences_keep_the_shares_of_classes_and_are_parts_of_more(tmp_path: Path, folds: str | None) -> None:
    entries, counts = content(), (3, 4, 17, 40, 59, None)
    settings: dict[str, Any] = {"folds": 3, "fold_kind": folds} if folds else {}
    of = with_sequences(experiment(**settings), *counts)
    table = made(tmp_path, entries, of)
    names = table["class"].to_numpy()
    for fold in range(3) if folds else [None]:
        whole = splits.assigned(table, fold) == "train"
        before = np.zeros(len(table), dtype=bool)
        for count in counts:
            used = splits.trained_on(table, fold, count, seed=1)
            assert used.sum() == (count or whole.sum())
            assert not (before & ~used).any() and not (used & ~whole).any()
            for name in np.unique(names):
                share = (names[whole] == name).mean() * used.sum()
                assert abs((names[used] == name).sum() - share) < 1.5
                assert (names[used] == name).any()
            statistics = splits.read_statistics(tmp_path, fold, count)
            assert statistics.class_counts.tolist() == [(names[used] == name).sum() for name in "abc"]
            # normalised by what is trained on alone
            alone = table.assign(split=np.where(used, "train", "surplus"))
            check_statistics(statistics, *rows_of(entries, alone))
            corpus = batches.Corpus(tmp_path / "dataset", table, statistics, seed=1)
            assert corpus.part("train", fold=fold).ids.tolist() == table["id"][used].tolist()
            assert (
                corpus.part("test", fold=fold).ids.tolist()
                == table["id"][splits.assigned(table, fold) == "test"].tolist()
            )
            before = used
    others = splits.trained_on(table, fold, 40, seed=2)
    assert others.sum() == 40 and (others != splits.trained_on(table, fold, 40, seed=1)).any()


@pytest.mark.parametrize(
    ("count", "refusal"),
    [
        (106, "training.sequences: 106, and the training split has 105; use at most so many, or `null` for all"),
        (2, "training.sequences: 2, and there are 3 classes; use one of each at least"),
    ],
)
def test_more_sequences_than_there_are_and_fewer_than_classes_are_refused(
    tmp_path: Path, count: int, refusal: str
) -> None:
    with pytest.raises(JaxrnnError) as caught:
        made(tmp_path, content(), with_sequences(experiment(), 40, count))
    assert str(caught.value) == refusal


def test_statistics_of_other_numbers_of_sequences_are_not_taken(tmp_path: Path) -> None:
    made(tmp_path, content(), with_sequences(experiment(), 40))
    for count in (None, 41):
        with pytest.raises(JaxrnnError, match=r"made with other .* `training.sequences` than this job has"):
            splits.read_statistics(tmp_path, None, count)


def test_objects_that_are_left_out_are_in_no_split(tmp_path: Path) -> None:
    entries = content()
    names = [entries[0].ids[3], entries[2].ids[0]]
    of = experiment(leave_out=names)
    dataset = write_dataset(tmp_path / "dataset", entries)
    assert "`split.leave_out` leaves out 2 objects" in splits.split(of, dataset, tmp_path)
    table = splits.read_splits(tmp_path)
    assert table["id"][table["split"] == splits.EXCLUDED].tolist() == names
    check_statistics(splits.read_statistics(tmp_path), *rows_of(entries, table))
    with pytest.raises(JaxrnnError, match=r"split.leave_out: there is no object 'nobody'.*; the ids stand in"):
        splits.split(experiment(leave_out=["nobody"]), dataset, tmp_path)
    assert experiment(leave_out=[7]).split.leave_out == ("7",)
