"""Splits hold their shares, and statistics see the training split alone."""

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiments import prepared
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import shards, splits
from jaxrnn.config import Split
from jaxrnn.splits import Moments, Statistics, shard_paths


def read(folder: Path) -> pd.DataFrame:
    return splits.read_splits(folder).set_index("id")


def tiny(folder: Path, **split: Any) -> tuple[pd.DataFrame, Statistics, Path]:
    experiment, at, made = prepared(folder, split=split, data__sequences_per_shard=16)
    found = at.experiment(experiment.experiment)
    return read(found), splits.read_statistics(found), at.dataset(made.dataset_key)


@pytest.mark.parametrize("method", ["given", "exact", "hash"])
def test_statistics_are_those_of_the_training_split(tmp_path: Path, method: str) -> None:
    table, statistics, dataset = tiny(tmp_path, method=method)
    rows, metadata = [], []
    for path in shard_paths(dataset):
        shard = shards.read(path)
        for index, name in enumerate(shard.ids):
            if table.loc[name, "split"] == "train":
                rows.append(shard.features[shard.offsets[index] : shard.offsets[index + 1]])
                metadata.append(shard.metadata[index])
    values = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(statistics.feature_mean, values.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(statistics.feature_deviation, values.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(statistics.metadata_mean, np.mean(metadata, axis=0), rtol=1e-6)
    counts = table.query("split == 'train'")["class"].value_counts()
    assert statistics.class_counts.tolist() == [counts[name] for name in statistics.classes]


def test_other_validation_and_test_sequences_change_no_statistic(tmp_path: Path) -> None:
    _, before, _ = tiny(tmp_path, method="given")
    for part in ("validation", "test"):
        file = tmp_path / "survey" / f"{part}_time_features.npy"
        table = np.load(file)
        table[table[:, :, 0] != -99] *= 1000
        np.save(file, table)
    _, after, _ = tiny(tmp_path, method="given")
    np.testing.assert_array_equal(before.feature_mean, after.feature_mean)
    np.testing.assert_array_equal(before.feature_deviation, after.feature_deviation)
    assert before.data_digest != after.data_digest


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.7, 0.15), (0.34, 0.33)])
def test_exact_shares_hold_within_each_class(tmp_path: Path, shares: tuple[float, float]) -> None:
    table, _, _ = tiny(tmp_path, method="exact", train=shares[0], validation=shares[1])
    for _, members in table.groupby("class"):
        counts = members["split"].value_counts().to_dict()
        assert abs(counts["train"] - shares[0] * len(members)) <= 0.5
        assert abs(counts["train"] + counts["validation"] - sum(shares) * len(members)) <= 1


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    first, again, other = (tiny(tmp_path, method="exact", seed=seed)[0]["split"] for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_hash_never_moves_an_object_when_others_come() -> None:
    split = Split(method="hash")
    names = np.arange(4000).astype(str)
    whole = dict(zip(names, splits._hashed(split, names, 1), strict=True))
    some = names[::3][::-1]
    assert [whole[name] for name in some] == splits._hashed(split, some, 1).tolist()
    shares = pd.Series(list(whole.values())).value_counts(normalize=True).to_dict()
    # five standard deviations of a share of 4,000
    assert abs(shares["train"] - 0.7) < 0.036 and abs(shares["validation"] - 0.15) < 0.028


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
