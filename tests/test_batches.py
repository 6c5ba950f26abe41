"""Batches: every sequence once an epoch, whole and in its place, and nothing else that counts."""

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from jaxrnn import batches, results, shards
from jaxrnn.batches import Corpus, Examples, Part, Window, Windows
from jaxrnn.errors import JaxrnnError
from jaxrnn.features import FeatureColumn
from jaxrnn.readers import Column
from jaxrnn.splits import Statistics

FEATURES, METADATA = 3, 2
many_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=40)
quickly = settings(max_examples=50, deadline=None, derandomize=True)


def examples(lengths: list[int], seed: int = 0, first: int = 0) -> Examples:
    """Returns sequences without a value of 0, so that padding shows."""
    generator, count = default_rng(seed), len(lengths)
    return Examples(
        ids=np.arange(first, first + count).astype(str),
        labels=generator.integers(1, 4, count).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=generator.uniform(1, 2, (sum(lengths), FEATURES)).astype(np.float32),
        metadata=generator.uniform(1, 2, (count, METADATA)).astype(np.float32),
    )


def in_shards(lengths: list[int], sizes: list[int]) -> list[Examples]:
    """Returns sequences in shards of these sizes, again and again."""
    pieces, start = [], 0
    while start < len(lengths):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(examples(lengths[start : start + size], seed=start, first=start))
        start += size
    return pieces


def check_rows(window: Window, pieces: list[Examples], widths: list[int], multiple: int) -> list[int]:
    """Checks a window's buckets; returns which sequences it holds."""
    found = {}
    for piece in pieces:
        for row, name in enumerate(piece.ids.tolist()):
            sequence = piece.features[piece.offsets[row] : piece.offsets[row + 1]]
            found[int(name)] = (sequence, piece.metadata[row], piece.labels[row])
    start, held = 0, []
    for bucket, count in zip(window.buckets, window.counts, strict=True):
        features, lengths, metadata, labels, keys = (np.asarray(values) for values in bucket)
        types = [values.dtype for values in (features, lengths, metadata, labels, keys)]
        assert types == [np.float32, np.int32, np.float32, np.int32, np.uint32]
        rows = window.sources[start : start + len(lengths)]
        start += len(lengths)
        assert len(rows) % multiple == 0
        # filling stands last
        assert (rows[:count] >= 0).all() and (rows[count:] == -1).all()
        for values in (features, lengths, metadata, labels, keys):
            assert not values[count:].any()
        for place, row in enumerate(rows[:count].tolist()):
            sequence, columns, label = found[row]
            length = lengths[place]
            assert length == len(sequence) and labels[place] == label
            # the shortest bucket that holds it
            assert features.shape[1] == next(width for width in widths if width >= length)
            np.testing.assert_array_equal(features[place, :length], sequence)
            assert not features[place, length:].any()
            np.testing.assert_array_equal(metadata[place], columns)
            assert keys[place] == batches.object_keys(np.array([str(row)]))[0]
            held.append(row)
    assert start == len(window.sources)
    return held


@given(lengths=many_lengths, known=many_lengths, groups=st.integers(1, 6), multiple=st.integers(1, 7))
@quickly
def test_what_fits_is_one_window_with_every_sequence_once(
    lengths: list[int], known: list[int], groups: int, multiple: int
) -> None:
    """The buckets' lengths come from other sequences, as training's do for those of test: some here may be longer."""
    longest = batches.edges(np.array(known), groups)
    pieces = in_shards(lengths, [7])
    with Windows(Part.of(pieces), longest, np.inf, multiple=multiple, seed=1) as windows:
        assert windows.whole and windows.count(5) == 1
        window = windows.get()
        assert sorted(check_rows(window, pieces, [*longest, max(lengths)], multiple)) == list(range(len(lengths)))
        # never a batch of filling alone, and it stays where it is
        assert all(
            0 < count > len(b.lengths) - multiple for b, count in zip(window.buckets, window.counts, strict=True)
        )
        assert windows.get(7) is window


@given(
    lengths=many_lengths,
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    groups=st.integers(1, 3),
    multiple=st.integers(1, 3),
    share=st.floats(0.05, 0.99),
    seed=st.integers(-3, 3),
)
@quickly
def test_windows_hold_every_sequence_once_an_epoch_in_the_same_shapes(
    lengths: list[int], sizes: list[int], groups: int, multiple: int, share: float, seed: int
) -> None:
    longest = batches.edges(np.array(lengths), groups)
    pieces = in_shards(lengths, sizes)
    part = Part.of(pieces)
    place = np.searchsorted(longest, lengths)
    row_bytes = 4 * (np.array(longest)[place] * FEATURES + METADATA + 3)
    most = share * row_bytes.sum()
    shapes = set()
    with Windows(part, longest, most, multiple=multiple, seed=seed, epochs=2) as windows:
        assert not windows.whole
        for epoch in range(2):
            held = []
            for index in range(windows.count(epoch)):
                window = windows.get(epoch, index)
                held += check_rows(window, pieces, longest, multiple)
                assert window.counts.sum() > 0
                np.testing.assert_array_equal(window.counts, windows.counts(epoch, index))
                shapes.add(tuple(bucket.features.shape for bucket in window.buckets))
            assert sorted(held) == list(range(len(lengths)))
        (rows,) = {tuple(shape[0] for shape in entry) for entry in shapes}
        # no bucket is larger than its share, the largest shard of it and filling ask for
        for index, width in enumerate(windows.steps):
            in_bucket = np.array(longest)[place] == width
            largest = max(in_bucket[a:b].sum() for a, b in zip(part.starts, part.starts[1:], strict=False))
            assert rows[index] < max(share * in_bucket.sum(), largest) + multiple + 1e-6


def long_survey() -> Part:
    return Part.of(in_shards(default_rng(2).integers(1, 12, 300).tolist(), [10]))


def order_of(windows: Windows, epoch: int) -> list[list[int]]:
    return [windows.get(epoch, index).sources.tolist() for index in range(windows.count(epoch))]


def test_windows_are_a_function_of_seed_and_epoch() -> None:
    part = long_survey()

    def windows(seed: int | None) -> Windows:
        return Windows(part, [6, 12], 12_000, seed=seed, epochs=3)

    with windows(1) as first, windows(1) as again, windows(2) as other, windows(None) as plain:
        assert 3 <= first.count(0) <= 6
        # read in whatever order, as after an interruption
        backwards = [[again.get(e, i).sources.tolist() for i in range(again.count(e))] for e in (2, 1, 0)]
        orders = [order_of(first, epoch) for epoch in (0, 1, 2)]
        assert orders == backwards[::-1]
        assert orders[0] != orders[1] != orders[2] and orders[0] != order_of(other, 0)
        # without a seed, the shards' own order
        kept = [row for window in order_of(plain, 0) for row in sorted(window) if row >= 0]
        assert kept == list(range(300)) and order_of(plain, 1) == order_of(plain, 0)


def test_the_next_window_is_read_while_this_one_is_used() -> None:
    part = long_survey()
    asked: list[tuple[int, str]] = []

    def read(place: int) -> Examples:
        asked.append((place, threading.current_thread().name))
        time.sleep(0.01)
        return part.read(place)

    with Windows(replace(part, read=read), [12], 12_000, seed=1, epochs=2) as windows:
        windows.get(0, 0)
        first = windows.waited
        assert first >= 0.01
        windows.get(0, 0)
        assert windows.waited == first
        deadline = time.monotonic() + 20
        expected = int(windows.counts(0, 0).sum() + windows.counts(0, 1).sum()) // 10
        while len(asked) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        # that window, and no more than that: memory is bounded
        time.sleep(0.1)
        assert len(asked) == expected
    assert {name.startswith("jaxrnn-input") for _, name in asked} == {True}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxrnn-input")]


def test_cores_that_share_a_pack_out_share_the_data_too() -> None:
    pieces = in_shards([3, 7, 5, 12, 1], [2])
    windows = Windows(Part.of(pieces), [12], np.inf)
    windows.sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("trial",)), jax.P())
    with windows:
        for values in windows.get().buckets[0]:
            assert isinstance(values, jax.Array)
            places = {shard.data.unsafe_buffer_pointer() for shard in values.addressable_shards}
            assert len(values.addressable_shards) == len(jax.devices()) > 1 and len(places) == 1


def test_what_reading_ahead_runs_into_is_told_where_the_window_is_asked_for() -> None:
    part = long_survey()

    def read(place: int) -> Examples:
        if place == 29:
            raise JaxrnnError("29.h5: broken")
        return part.read(place)

    with Windows(replace(part, read=read), [12], 12_000) as windows:
        last = windows.count() - 1
        for index in range(last):
            windows.get(0, index)
        with pytest.raises(JaxrnnError, match=r"29\.h5: broken"):
            windows.get(0, last)


@given(lengths=many_lengths, groups=st.integers(1, 6))
@quickly
def test_edges_cover_all_lengths(lengths: list[int], groups: int) -> None:
    longest = batches.edges(np.array(lengths), groups)
    assert longest == sorted(set(longest))
    assert longest[-1] == max(lengths)
    assert len(longest) <= groups
    assert set(longest) <= set(lengths)


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_edges_share_out_the_sequences_evenly(groups: int) -> None:
    lengths = default_rng(0).permutation(np.arange(1, 501))
    counts = np.diff([0, *batches.edges(lengths, groups)])
    assert len(counts) == groups
    assert counts.max() - counts.min() <= 2


@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=6), batch_size=st.integers(1, 9), more=st.integers(0, 3)
)
@quickly
def test_a_window_has_every_batch_once(counts: list[int], batch_size: int, more: int) -> None:
    steps = sum(-(-count // batch_size) for count in counts)
    schedule = batches.schedule(np.array(counts), batch_size, steps + more)
    assert schedule.bucket.dtype == schedule.number.dtype == np.int32
    assert len(schedule.bucket) == len(schedule.number) == steps + more
    found = Counter(zip(schedule.bucket[:steps].tolist(), schedule.number[:steps].tolist(), strict=True))
    expected = [(index, number) for index, count in enumerate(counts) for number in range(-(-count // batch_size))]
    assert found == Counter(expected)
    again = batches.schedule(np.array(counts), batch_size, steps + more)
    assert all((first == second).all() for first, second in zip(schedule, again, strict=True))


def test_a_window_knows_what_share_of_the_epoch_is_over() -> None:
    counts = [np.array([10, 3]), np.array([4, 9]), np.array([7, 0])]
    steps = [int(-(-of // 4).sum()) for of in counts]
    found = [
        batches.schedule(of, 4, 6, sum(steps[:index]), sum(steps)).over[:own]
        for index, (of, own) in enumerate(zip(counts, steps, strict=True))
    ]
    np.testing.assert_allclose(np.concatenate(found), np.arange(sum(steps)) / sum(steps), rtol=1e-6)
    np.testing.assert_array_equal(batches.schedule(counts[0], 4, 6).over, [0, 0.25, 0.5, 0.75, 0, 0])


def test_an_epoch_mixes_the_buckets() -> None:
    order = batches.schedule(np.array([500, 500, 500, 500]), 10, 200).bucket
    # of 200 batches in 4 equal buckets drawn at random, 3 in 4 differ from the one before
    assert np.mean(np.diff(order) != 0) == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / len(order)))


# From shards


def write_dataset(folder: Path, shard_sizes: tuple[int, ...] = (9, 5, 11)) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Writes shards with their manifest; returns `splits.csv` and each object's features and metadata by id."""
    generator, rows, raw, files = default_rng(4), [], {}, []
    for index, size in enumerate(shard_sizes):
        lengths = generator.integers(1, 8, size)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.array([f"{index}/{row}" for row in range(size)])
        features = generator.normal(5, 3, (offsets[-1], 2)).astype(np.float32)
        metadata = generator.normal(-2, 4, (size, 1)).astype(np.float32)
        columns = [FeatureColumn(name, "", "value", name, "", place, False) for place, name in enumerate("ab")]
        shards.write(
            folder / f"{index}.h5",
            shards.Shard(
                ids=ids,
                labels=np.full(size, "x"),
                offsets=offsets,
                time=np.zeros(offsets[-1]),
                features=features,
                metadata=metadata,
                splits=None,
                groups=None,
                step_labels=None,
                feature_columns=tuple(columns),
                metadata_columns=(Column("z"),),
                time_unit="days",
                rejected=(),
                counts={},
            ),
            "0.1.0",
        )
        files.append({"file": f"{index}.h5"})
        for row, name in enumerate(ids.tolist()):
            raw[name] = features[offsets[row] : offsets[row + 1]], metadata[row]
            rows.append((name, generator.choice(["one", "two"]), generator.choice(["train", "validation", "test", ""])))
    # a shard that has nothing of one split
    rows = [(a, b, "test") if a.startswith("1/") else (a, b, c) for a, b, c in rows]
    results.write_json(folder / "manifest.json", {"shards": files})
    return pd.DataFrame(rows, columns=["id", "class", "split"]), raw


STATISTICS = Statistics(
    classes=("one", "two"),
    class_counts=np.array([1, 1]),
    feature_mean=np.array([5.0, 4.0]),
    feature_deviation=np.array([3.0, 2.0]),
    metadata_mean=np.array([-2.0]),
    metadata_deviation=np.array([4.0]),
    settings_digest="",
    data_digest="",
)


@pytest.fixture
def survey(tmp_path: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    return tmp_path, *write_dataset(tmp_path)


@pytest.mark.parametrize("names", [("train",), ("test",), ("validation", "test")])
def test_every_object_is_read_into_its_split_as_the_shards_have_it(
    survey: tuple[Path, pd.DataFrame, dict[str, Any]], names: tuple[str, ...]
) -> None:
    folder, table, raw = survey
    part = Corpus(folder, table, STATISTICS).part(*names)
    rows = table[table["split"].isin(names)]
    assert part.ids.tolist() == rows["id"].tolist() and part.splits.tolist() == rows["split"].tolist()
    assert [STATISTICS.classes[label] for label in part.labels] == rows["class"].tolist()
    assert part.lengths.tolist() == [len(raw[name][0]) for name in part.ids.tolist()]
    assert (part.features, part.metadata) == (2, 1)
    read = [part.read(place) for place in range(len(part.starts) - 1)]
    assert [len(piece) for piece in read] == np.diff(part.starts).tolist()
    whole = Part.of(read)
    assert whole.ids.tolist() == part.ids.tolist() and whole.labels.tolist() == part.labels.tolist()
    for piece in read:
        for row, name in enumerate(piece.ids.tolist()):
            features = piece.features[piece.offsets[row] : piece.offsets[row + 1]]
            np.testing.assert_allclose(features, (raw[name][0] - [5, 4]) / [3, 2], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(piece.metadata[row], (raw[name][1] + 2) / 4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fault", ["other order", "fewer rows", "more rows"])
def test_splits_of_other_objects_are_refused(survey: tuple[Path, pd.DataFrame, dict[str, Any]], fault: str) -> None:
    folder, table, _ = survey
    more = pd.concat([table, table.tail(1)], ignore_index=True)
    table = {"other order": table.iloc[::-1], "fewer rows": table.iloc[:-1], "more rows": more}[fault]
    with pytest.raises(JaxrnnError, match="jaxrnn split"):
        Corpus(folder, table, STATISTICS)


def test_the_first_reading_of_a_shard_is_checked_and_later_ones_see_that_it_changed(
    survey: tuple[Path, pd.DataFrame, dict[str, Any]], tmp_path: Path
) -> None:
    folder, table, raw = survey
    path = folder / "0.h5"
    whole = path.read_bytes()
    first = next(name for name in raw if name.startswith("0/"))
    at = whole.index(raw[first][0].tobytes())
    flipped = bytearray(whole)
    flipped[at] ^= 1
    path.write_bytes(flipped)
    part = Corpus(folder, table, STATISTICS).part("train")
    with pytest.raises(JaxrnnError, match=r"0\.h5: no readable shard"):
        part.read(0)
    path.write_bytes(whole)
    part.read(0)
    path.write_bytes(flipped)
    assert len(part.read(0)) > 0
    path.write_bytes((folder / "1.h5").read_bytes())
    with pytest.raises(JaxrnnError, match=r"0\.h5: changed since this job began"):
        part.read(0)
