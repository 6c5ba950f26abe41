"""Batches: every sequence once, whole and in its place, and nothing else that counts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import prepared
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from jaxrnn import batches, shards, splits
from jaxrnn.batches import Examples
from jaxrnn.errors import JaxrnnError

FEATURES, METADATA = 3, 2
many_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=40)
quickly = settings(max_examples=100, deadline=None, derandomize=True)


def examples(lengths: list[int], seed: int = 0) -> Examples:
    """Returns sequences without a value of 0, so that padding shows."""
    generator, count = default_rng(seed), len(lengths)
    return Examples(
        ids=np.arange(count).astype(str),
        labels=generator.integers(1, 4, count).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=generator.uniform(1, 2, (sum(lengths), FEATURES)).astype(np.float32),
        metadata=generator.uniform(1, 2, (count, METADATA)).astype(np.float32),
    )


@given(lengths=many_lengths, known=many_lengths, groups=st.integers(1, 6), multiple=st.integers(1, 7))
@quickly
def test_buckets_hold_every_sequence_once_and_padding_is_0(
    lengths: list[int], known: list[int], groups: int, multiple: int
) -> None:
    """The buckets' lengths come from other sequences, as training's do for those of test: some here may be longer."""
    given_examples = examples(lengths)
    longest = batches.edges(np.array(known), groups)
    buckets, sources = batches.bucketed(given_examples, longest, multiple)
    assert sorted(sources[sources >= 0]) == list(range(len(lengths)))
    assert len(sources) == sum(len(bucket.lengths) for bucket in buckets)
    widths = [*longest, max(lengths)]
    start = 0
    for bucket in buckets:
        rows = sources[start : start + len(bucket.lengths)]
        start += len(rows)
        assert len(rows) % multiple == 0
        # never a batch of filling alone
        assert (rows >= 0).sum() > len(rows) - multiple
        assert [values.dtype for values in bucket] == [np.float32, np.int32, np.float32, np.int32]
        for place, row in enumerate(rows):
            length = bucket.lengths[place]
            assert not bucket.features[place, length:].any()
            if row < 0:
                assert length == 0
                assert not bucket.metadata[place].any()
                continue
            assert length == lengths[row]
            # the shortest bucket that holds it
            assert bucket.features.shape[1] == next(width for width in widths if width >= length)
            sequence = slice(given_examples.offsets[row], given_examples.offsets[row + 1])
            np.testing.assert_array_equal(bucket.features[place, :length], given_examples.features[sequence])
            np.testing.assert_array_equal(bucket.metadata[place], given_examples.metadata[row])
            assert bucket.labels[place] == given_examples.labels[row]


def test_no_sequence_makes_no_bucket() -> None:
    buckets, sources = batches.bucketed(examples([]), [5])
    assert (buckets, len(sources)) == ((), 0)


@given(lengths=many_lengths, groups=st.integers(1, 6))
@quickly
def test_edges_cover_all_lengths_and_no_bucket_is_empty(lengths: list[int], groups: int) -> None:
    longest = batches.edges(np.array(lengths), groups)
    assert longest == sorted(set(longest))
    assert longest[-1] == max(lengths)
    assert len(longest) <= groups
    assert set(longest) <= set(lengths)
    buckets, _ = batches.bucketed(examples(lengths), longest)
    assert [bucket.features.shape[1] for bucket in buckets] == longest


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_edges_share_out_the_sequences_evenly(groups: int) -> None:
    lengths = default_rng(0).permutation(np.arange(1, 501))
    counts = np.diff([0, *batches.edges(lengths, groups)])
    assert len(counts) == groups
    assert counts.max() - counts.min() <= 2


@given(lengths=many_lengths, groups=st.integers(1, 6), batch_size=st.integers(1, 9))
@quickly
def test_an_epoch_has_every_batch_once(lengths: list[int], groups: int, batch_size: int) -> None:
    buckets, _ = batches.bucketed(examples(lengths), batches.edges(np.array(lengths), groups))
    schedule = batches.schedule(buckets, batch_size)
    assert schedule.bucket.dtype == schedule.number.dtype == np.int32
    found = Counter(zip(schedule.bucket.tolist(), schedule.number.tolist(), strict=True))
    expected = [
        (index, number)
        for index, bucket in enumerate(buckets)
        for number in range(-(-len(bucket.lengths) // batch_size))
    ]
    assert found == Counter(expected)
    again = batches.schedule(buckets, batch_size)
    assert all((first == second).all() for first, second in zip(schedule, again, strict=True))


def test_an_epoch_mixes_the_buckets() -> None:
    lengths = default_rng(1).integers(1, 100, 2000).tolist()
    buckets, _ = batches.bucketed(examples(lengths), batches.edges(np.array(lengths), 4))
    order = batches.schedule(buckets, 10).bucket
    # of 200 batches in 4 equal buckets drawn at random, 3 in 4 differ from the one before
    assert np.mean(np.diff(order) != 0) == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / len(order)))


# From shards


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    experiment, at, made = prepared(tmp_path_factory.mktemp("survey"))
    folder = at.experiment(experiment.experiment)
    return at.dataset(made.dataset_key), splits.read_splits(folder), splits.read_statistics(folder)


def test_the_training_split_is_normalised_by_itself(survey: tuple[Any, ...]) -> None:
    loaded = batches.load(*survey)
    train = loaded["train"]
    for values in (train.features, train.metadata):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.mean(axis=0, dtype=np.float64), 0, atol=1e-5)
        np.testing.assert_allclose(values.std(axis=0, dtype=np.float64), 1, atol=1e-5)
    assert np.abs(loaded["test"].features.mean(axis=0)).max() > 1e-3


def test_every_object_is_loaded_into_its_split_as_the_shards_have_it(survey: tuple[Any, ...], tmp_path: Path) -> None:
    dataset, table, statistics = survey
    raw = {}
    for path in splits.shard_paths(dataset):
        shard = shards.read(path)
        for row, name in enumerate(shard.ids.tolist()):
            raw[name] = (shard.features[shard.offsets[row] : shard.offsets[row + 1]], shard.metadata[row])
    for name, loaded in batches.load(*survey).items():
        rows = table[table["split"] == name]
        assert loaded.ids.tolist() == rows["id"].tolist()
        assert [statistics.classes[label] for label in loaded.labels] == rows["class"].tolist()
        for index, identifier in enumerate(loaded.ids.tolist()):
            features = loaded.features[loaded.offsets[index] : loaded.offsets[index + 1]]
            restored = features * statistics.feature_deviation + statistics.feature_mean
            np.testing.assert_allclose(restored, raw[identifier][0], rtol=1e-4, atol=1e-4)
            metadata = loaded.metadata[index] * statistics.metadata_deviation + statistics.metadata_mean
            np.testing.assert_allclose(metadata, raw[identifier][1], rtol=1e-4, atol=1e-4)


def test_splits_of_other_objects_are_refused(survey: tuple[Any, ...]) -> None:
    dataset, table, statistics = survey
    with pytest.raises(JaxrnnError, match="jaxrnn split"):
        batches.load(dataset, table.iloc[::-1], statistics)


def test_a_column_that_was_not_observed_becomes_its_mean() -> None:
    statistics = splits.Statistics(
        classes=("a", "b"),
        class_counts=np.array([1, 1]),
        feature_mean=np.array([5.0, 1.0]),
        feature_deviation=np.array([2.0, 1.0]),
        metadata_mean=np.zeros(0),
        metadata_deviation=np.zeros(0),
        settings_digest="",
        data_digest="",
    )
    shard = shards.Shard(
        ids=np.array(["x"]),
        labels=np.array(["a"]),
        offsets=np.array([0, 2]),
        time=np.arange(2.0),
        features=np.array([[np.nan, 1.0], [9.0, 2.0]], dtype=np.float32),
        metadata=np.zeros((1, 0), dtype=np.float32),
        splits=None,
        feature_columns=(),
        indicators=np.array([False, False]),
        metadata_columns=(),
        time_unit="days",
        rejected=(),
        counts={},
    )
    found = batches._normalised(shard, np.zeros(1, dtype=np.int32), statistics)
    np.testing.assert_array_equal(found.features, [[0.0, 0.0], [2.0, 1.0]])
