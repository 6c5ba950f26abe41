"""Copies in two splits are found, and nothing else is taken for one."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxrnn import __version__, ingest, leaks, results, shards, splits
from jaxrnn.config import Experiment
from jaxrnn.errors import JaxrnnError
from jaxrnn.features import FeatureColumn
from jaxrnn.ranks import Ranks
from jaxrnn.shards import Shard

Sequences = list[np.ndarray]


def feature(name: str, kind: str = "value", source: int = 0, indicator: bool = False) -> FeatureColumn:
    return FeatureColumn(name, "", kind, name, "", source, indicator)


def shard(
    sequences: Sequences,
    labels: list[str],
    start: int = 0,
    columns: tuple[FeatureColumn, ...] | None = None,
    **others: Any,
) -> Shard:
    """Returns a shard of objects `0`, `1`, ... with these sequences [step, feature]."""
    lengths = [len(sequence) for sequence in sequences]
    features = np.concatenate(sequences).astype(np.float32)
    values: dict[str, Any] = {
        "ids": np.array([str(start + i) for i in range(len(sequences))]),
        "labels": np.array(labels),
        "offsets": np.cumsum([0, *lengths]),
        "time": np.concatenate([np.arange(n, dtype=float) for n in lengths]),
        "features": features,
        "metadata": np.zeros((len(sequences), 0), dtype=np.float32),
        "splits": None,
        "groups": None,
        "step_labels": None,
        "feature_columns": columns or tuple(feature(f"x{i}") for i in range(features.shape[1])),
        "metadata_columns": (),
        "time_unit": "days",
        "rejected": (),
        "counts": {},
    }
    return Shard(**values | others)


def write_dataset(folder: Path, content: list[Shard]) -> Path:
    """Writes shards and a manifest as ingest does; returns the dataset's folder."""
    entries = []
    for index, entry in enumerate(content):
        path = folder / f"{index:05d}.h5"
        shards.write(path, entry, __version__)
        numbers = {"sequences": len(entry.ids), "steps": len(entry.time)}
        entries.append({"file": path.name, **numbers, "sha256": shards.checksum(path)})
    results.write_json(folder / "manifest.json", {"shards": entries})
    return folder


def experiment(features: int = 1, **split: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "experiment": "tiny",
            "seed": 1,
            "data": {"reader": "goto", "path": "survey", "features": [f"x{i}" for i in range(features)]},
            "split": split,
        }
    )


def found(folder: Path, sequences: Sequences, places: list[str], **others: Any) -> pd.DataFrame:
    """Returns what `leaks.find` finds among sequences in two shards, in these splits."""
    half = len(sequences) // 2
    groups = others.pop("groups", None)
    parts = [shard(sequences[:half], ["a"] * half, **others)]
    parts.append(shard(sequences[half:], ["b"] * (len(sequences) - half), half, **others))
    dataset = write_dataset(folder, parts)
    table = pd.DataFrame({"id": np.arange(len(sequences)).astype(str), "split": places}, dtype=object)
    return leaks.find(splits.shard_paths(dataset), table, groups).table


GENERATOR = np.random.default_rng()


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    GENERATOR.bit_generator.state = np.random.default_rng(5).bit_generator.state


def white_noise(count: int) -> Sequences:
    return [GENERATOR.normal(0, 1, (20, 2)) for _ in range(count)]


def faint_among_bright(count: int) -> Sequences:
    """Brightness spans five decades and the cadence is shared: a faint object's flux is tiny beside a bright one's."""
    size = 10.0 ** GENERATOR.uniform(-4, 1, count)
    return [np.column_stack([np.arange(30), s * GENERATOR.normal(0, 1, 30)]) for s in size]


def light_curves(count: int) -> Sequences:
    time = np.arange(40.0)
    curves = []
    for _ in range(count):
        start, rise, fall, peak = GENERATOR.uniform((5, 1, 5, 1), (20, 5, 20, 100))
        shape = np.exp(-(time - start) / fall) / (1 + np.exp(-(time - start) / rise))
        curves.append((peak * shape + GENERATOR.normal(0, 1, 40))[:, None])
    return curves


def images(count: int) -> Sequences:
    """Strokes on a dark ground, in whole numbers: most numbers are 0 in every image."""
    pictures = []
    for _ in range(count):
        picture = np.zeros((28, 28))
        row, column = GENERATOR.integers(6, 22, 2)
        for step in GENERATOR.integers(-1, 2, (30, 2)):
            row, column = np.clip(step + np.array([row, column]), 4, 23)
            picture[row, column] = GENERATOR.integers(100, 256)
        pictures.append(picture)
    return pictures


def short_ones(count: int) -> Sequences:
    return [GENERATOR.normal(20, 1, (4, 2)) for _ in range(count)]


def random_walks(count: int) -> Sequences:
    return [GENERATOR.normal(0, 1, (GENERATOR.integers(10, 30), 1)).cumsum(axis=0) for _ in range(count)]


KINDS = [white_noise, faint_among_bright, light_curves, images, short_ones, random_walks]


def columns_of(sequences: Sequences, kind: Any) -> tuple[FeatureColumn, ...] | None:
    if kind is faint_among_bright:
        return feature("time", "time"), feature("flux", source=1)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_thousand_different_sequences_none_is_taken_for_another(tmp_path: Path, kind: Any) -> None:
    sequences = kind(2000)
    places = GENERATOR.permutation(["train"] * 1200 + ["validation"] * 400 + ["test"] * 400).tolist()
    assert found(tmp_path, sequences, places, columns=columns_of(sequences, kind)).empty


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_copies_are_found_among_many_others(tmp_path: Path, kind: Any, noise: float) -> None:
    sequences = kind(300)
    # noise of 0.1 % of each feature's own deviation
    copies = [s + noise * s.std(axis=0) * GENERATOR.normal(0, 1, s.shape) for s in sequences[:50]]
    everything = [*sequences, *copies]
    places = ["test"] * 25 + ["validation"] * 25 + ["train"] * 300
    rows = found(tmp_path, everything, places, columns=columns_of(sequences, kind))
    assert set(rows["kind"]) == {"near_equal" if noise else "equal"}
    assert rows["object"].tolist() == [str(300 + i) for i in range(50)]
    assert rows["other_object"].tolist() == [str(i) for i in range(50)]
    assert set(rows["split"]) == {"train"}
    assert rows["other_split"].tolist() == ["test"] * 25 + ["validation"] * 25


def test_how_near_is_near(tmp_path: Path) -> None:
    """The bound is `NEAR` of the sequence's own deviation, in each feature by itself, whatever the others are."""
    base = [GENERATOR.normal(0, 1, (50, 2)) * [1.0, 1000.0] + [5, 0] for _ in range(40)]
    for factor, expected in ((0.9, 40), (1.1, 0)):
        copies = []
        for index, sequence in enumerate(base):
            copy = sequence.astype(np.float32).astype(np.float64)
            column = index % 2
            change = GENERATOR.normal(0, 1, 50)
            change *= leaks.NEAR * factor * copy[:, column].std() / np.sqrt((change**2).mean())
            copy[:, column] += change
            copies.append(copy)
        columns = feature("a", source=0), feature("b", source=1)
        rows = found(tmp_path / str(factor), [*base, *copies], ["test"] * 40 + ["train"] * 40, columns=columns)
        assert len(rows) == expected


def test_short_sequences_that_equal_others_are_found_unless_it_could_be_chance(tmp_path: Path) -> None:
    """Twenty of sixty short sequences have a twin in test: found where what they hold is rare."""

    def counts(name: str, sequences: Sequences, times: np.ndarray | None = None) -> dict[str, int]:
        everything = [*sequences, *sequences[:20]]
        more: dict[str, Any] = {} if times is None else {"time": np.concatenate([*times, *times[:20]])}
        dataset = write_dataset(tmp_path / name, [shard(everything, ["a"] * 80, **more)])
        places = ["train"] * 60 + ["test"] * 20
        table = pd.DataFrame({"id": np.arange(80).astype(str), "split": places}, dtype=object)
        return leaks.find(splits.shard_paths(dataset), table, None).counts

    assert counts("measured", [GENERATOR.normal(20, 1, (7, 1)) for _ in range(60)])["equal"] == 20
    assert counts("times", list(GENERATOR.normal(20, 1, (60, 2, 1))), GENERATOR.uniform(0, 1, (60, 2)))["equal"] == 20
    for name, plain in {
        "blank": [np.zeros((28, 28))] * 60,
        "one step": [GENERATOR.normal(20, 1, (1, 1)) for _ in range(60)],
        "constant": [np.full((7, 1), value) for value in GENERATOR.normal(20, 1, 60)],
        "counts": [GENERATOR.integers(0, 5, (5, 1)).astype(float) for _ in range(60)],
        "walks": [GENERATOR.integers(-1, 2, (6, 1)).cumsum(axis=0) + 100.0 for _ in range(60)],
    }.items():
        found = counts(name, plain)
        assert (found["objects"], found["too_few_numbers"]) == (0, 80), name


@pytest.mark.parametrize("other", ["time", "value"])
def test_short_sequences_are_equal_in_time_and_values_or_not_at_all(tmp_path: Path, other: str) -> None:
    values, times = GENERATOR.normal(20, 1, (30, 6, 1)), GENERATOR.uniform(0, 1, (30, 6))
    copies, later = values.copy(), times.copy()
    if other == "time":
        later[:, -1] += 1
    else:
        copies[:, -1] += 1
    rows = found(tmp_path, [*values, *copies], ["test"] * 30 + ["train"] * 30)
    assert len(rows) == (30 if other == "time" else 0)  # without times of their own
    dataset = write_dataset(
        tmp_path / "timed", [shard([*values, *copies], ["a"] * 60, time=np.concatenate([*times, *later]))]
    )
    table = pd.DataFrame({"id": np.arange(60).astype(str), "split": ["test"] * 30 + ["train"] * 30}, dtype=object)
    assert not leaks.find(splits.shard_paths(dataset), table, None)


def test_short_sequences_of_whole_numbers_that_coincide_by_chance_refuse_nothing(tmp_path: Path) -> None:
    """Of 4000 honest objects with 1 to 5 steps on a shared cadence, hundreds equal another."""
    sequences = [GENERATOR.poisson(3, (int(n), 1)).astype(float) for n in GENERATOR.integers(1, 6, 4000)]
    places = GENERATOR.permutation(["train"] * 3000 + ["test"] * 1000).tolist()
    assert len({s.tobytes() for s in sequences}) < 3500
    assert found(tmp_path, sequences, places).empty


def test_split_says_what_was_not_compared(tmp_path: Path) -> None:
    sequences = [
        np.ones((3, 1)),
        *GENERATOR.normal(0, 1, (30, 6, 1)),
        *GENERATOR.normal(0, 1, (30, 9, 1)),
    ]
    dataset = write_dataset(tmp_path / "dataset", [shard(sequences, (["a", "b"] * 31)[:61])])
    said = splits.split(experiment(1), dataset, tmp_path / "split")
    plain, short = (text for text in said if text.startswith("leaks: "))
    assert plain.startswith("leaks: 1 sequences") and plain.endswith(
        "whose equality could be chance, were not compared"
    )
    assert short == "leaks: 30 sequences of fewer than 8 numbers that vary were compared for equality alone"


def brute_force(sequences: np.ndarray, places: list[str]) -> set[int]:
    """Returns which of equally long sequences [object, step, feature] are near one of an earlier split."""
    order = np.array([["test", "validation", "train"].index(place) for place in places])
    values = sequences.astype(np.float32).astype(np.float64)
    scale = values.std(axis=1)
    near = set()
    for index, sequence in enumerate(values):
        earlier = order < order[index]
        difference = np.sqrt(((values[earlier] - sequence) ** 2).mean(axis=1))
        if (difference <= leaks.NEAR * np.minimum(scale[earlier], scale[index])).all(axis=1).any():
            near.add(index)
    return near


@pytest.mark.parametrize("offsets", ["none", "like the amplitudes", "large"])
@pytest.mark.parametrize("columns", [1, 3])
def test_one_form_with_many_amplitudes_and_offsets(tmp_path: Path, offsets: str, columns: int) -> None:
    """Sequences of one template are alike whatever their size: all that are near, and none other, are found."""
    members = 600
    template = np.stack([np.sin(np.arange(25.0) / 4 * (k + 1)) for k in range(columns)], axis=1)
    size = 10.0 ** GENERATOR.uniform(-1, 1, (members, 1, columns)) * [1.0, 1e3, 1e-3][:columns]
    if columns == 3:
        size = size[:, :, :1] * [1.0, 1e3, 1e-3]
    offset = (
        {"none": 0.0, "like the amplitudes": 1.0, "large": 300.0}[offsets] * size * GENERATOR.integers(1, 3, size.shape)
    )
    curves = size * template + offset
    # every fourth has a twin, 0.2 % larger
    twins = curves[::4] + 0.002 * size[::4] * template
    everything = np.concatenate([curves, twins])
    places = GENERATOR.permutation(["train"] * 500 + ["test"] * 250).tolist()
    expected = brute_force(everything, places)
    assert 50 < len(expected) < 450
    names = tuple(feature(f"x{i}", source=i) for i in range(columns))
    rows = found(tmp_path, list(everything), places, columns=names)
    assert set(rows["object"].astype(int)) == expected


def test_near_pairs_are_found_whatever_their_difference_looks_like(tmp_path: Path) -> None:
    """2000 pairs just within `NEAR`: shifted, scaled, with noise, or with one step changed, of any size and level."""
    base, copies = [], []
    for index in range(2000):
        size, level = 10.0 ** GENERATOR.uniform(-3, 3), GENERATOR.normal(0, 30)
        curve = size * (GENERATOR.normal(0, 1, (30, 2)) + level)
        one_step = np.eye(30, 2, -(index % 28))
        changes = np.ones((30, 2)), curve - curve.mean(axis=0), GENERATOR.normal(0, 1, (30, 2)), one_step
        change = changes[index % 4]
        change = change * curve.std(axis=0) / np.sqrt((change**2).mean(axis=0)) * leaks.NEAR * 0.98
        base.append(curve)
        copies.append(curve + change)
    everything = [*base, *copies]
    names = feature("a", source=0), feature("b", source=1)
    rows = found(tmp_path, everything, ["test"] * 2000 + ["train"] * 2000, columns=names)
    expected = brute_force(np.array(everything), ["test"] * 2000 + ["train"] * 2000)
    missed = expected - set(rows["object"].astype(int))
    assert len(expected) > 1900 and len(missed) <= 2


def test_missing_numbers_are_part_of_what_is_equal(tmp_path: Path) -> None:
    base = GENERATOR.normal(0, 1, (20, 1))
    base[3] = np.nan
    other = base.copy()
    other[3] = 0.0
    assert found(tmp_path / "same", [base, base], ["train", "test"])["kind"].tolist() == ["equal"]
    assert found(tmp_path / "other", [base, other], ["train", "test"]).empty


def test_groups_in_two_splits_are_found(tmp_path: Path) -> None:
    groups = np.array(["a", "a", "b", "b", "b", "", "", "c"], dtype=object)
    places = ["train", "test", "train", "train", "validation", "train", "test", "train"]
    rows = found(tmp_path, white_noise(8), places, groups=groups)
    assert rows.to_numpy().tolist() == [
        ["group", "0", "train", "1", "test"],
        ["group", "2", "train", "4", "validation"],
        ["group", "3", "train", "4", "validation"],
    ]


def survey(folder: Path, copies: int = 6) -> tuple[Path, np.ndarray]:
    """Writes 120 objects of two classes, the last of which are copies of the first; returns the pairs of places."""
    sequences = white_noise(120 - copies)
    sequences += sequences[:copies]
    labels = (["a", "b"] * 60)[:120]
    half = [shard(sequences[:60], labels[:60]), shard(sequences[60:], labels[60:], 60)]
    return write_dataset(folder, half), np.array([(i, 120 - copies + i) for i in range(copies)])


@pytest.mark.parametrize("folds", [None, 3])
def test_what_is_done_about_leaks(tmp_path: Path, folds: int | None) -> None:
    dataset, pairs = survey(tmp_path / "dataset", 20)
    settings: dict[str, Any] = {"train": 0.4, "validation": 0.3, "folds": folds}
    splits.split(experiment(2, leaks="report", **settings), dataset, tmp_path / "report")
    table = splits.read_splits(tmp_path / "report")
    place = (table["split"] + table.get("fold", "")).to_numpy()
    apart = sum(place[a] != place[b] for a, b in pairs)
    assert apart > 3
    assert len(pd.read_csv(tmp_path / "report" / "leaks.csv")) == apart
    counts = results.read_json(tmp_path / "report" / "statistics.json", "")["leaks"]
    assert (counts["objects"], counts["equal"], counts["action"]) == (apart, apart, "report")

    with pytest.raises(JaxrnnError, match=r"stands in another too.*drop_from_training") as error:
        splits.split(experiment(2, **settings), dataset, tmp_path / "refuse")
    assert str(tmp_path / "refuse" / "leaks.csv") in str(error.value)
    assert (tmp_path / "refuse" / "leaks.csv").exists()
    assert not (tmp_path / "refuse" / "splits.csv").exists()

    said = splits.split(experiment(2, leaks="drop_from_training", **settings), dataset, tmp_path / "drop")
    assert "equal to one of" in said[0]
    kept = splits.read_splits(tmp_path / "drop")
    dropped = np.array([place == splits.LEAKED for place in kept["split"]])
    assert dropped.sum() == apart
    # nothing else moved, test lost nothing, and no pair is left apart
    pd.testing.assert_frame_equal(kept.loc[~dropped], table.loc[~dropped])
    assert set(table.loc[dropped, "split"]) <= {"train", "validation", "pool"}
    now = (kept["split"] + kept.get("fold", "")).to_numpy()
    assert not [1 for a, b in pairs if now[a] != now[b] and splits.LEAKED not in (now[a], now[b])]
    # statistics are those of what is left
    for fold in [None] if folds is None else range(folds):
        training = splits.assigned(kept, fold) == "train"
        content = [shards.read(path) for path in splits.shard_paths(dataset)]
        features = np.concatenate([entry.features for entry in content]).reshape(120, 20, 2)[training]
        statistics = splits.read_statistics(tmp_path / "drop", fold)
        np.testing.assert_allclose(statistics.feature_mean, features.mean(axis=(0, 1), dtype=float), rtol=1e-9)
        assert statistics.class_counts.sum() == training.sum()
    # what was dropped can't leak again
    assert not leaks.find(splits.shard_paths(dataset), kept, None)


def test_leaks_are_taken_out_of_the_random_fold_that_they_are_in(tmp_path: Path) -> None:
    dataset, pairs = survey(tmp_path / "dataset", 20)
    settings: dict[str, Any] = {"train": 0.4, "validation": 0.3, "folds": 3, "fold_kind": "random"}
    splits.split(experiment(2, leaks="report", **settings), dataset, tmp_path / "report")
    before = splits.read_splits(tmp_path / "report")
    splits.split(experiment(2, leaks="drop_from_training", **settings), dataset, tmp_path / "drop")
    after = splits.read_splits(tmp_path / "drop")
    total = 0
    for fold in range(3):
        place, now = splits.assigned(before, fold), splits.assigned(after, fold)
        apart = [pair for pair in pairs if place[pair[0]] != place[pair[1]]]
        dropped = now == splits.LEAKED
        assert dropped.sum() == len(apart) > 0
        np.testing.assert_array_equal(now[~dropped], place[~dropped])
        assert not set(place[dropped]) & {"test"}
        assert not [1 for a, b in pairs if now[a] != now[b] and splits.LEAKED not in (now[a], now[b])]
        assert splits.read_statistics(tmp_path / "drop", fold).class_counts.sum() == (now == "train").sum()
        total += len(apart)
    assert len(pd.read_csv(tmp_path / "report" / "leaks.csv")) == total
    with pytest.raises(JaxrnnError, match=r"of fold 0 equal to one of"):
        splits.split(experiment(2, **settings), dataset, tmp_path / "refuse")


def test_a_survey_without_leaks_says_none(tmp_path: Path) -> None:
    dataset, _ = survey(tmp_path / "dataset", 0)
    (said,) = splits.split(experiment(2), dataset, tmp_path / "found")
    assert said.startswith("training has")
    assert (tmp_path / "found" / "leaks.csv").read_text() == ",".join(leaks.COLUMNS) + "\n"


@pytest.mark.data
def test_the_adacs_files_leak(tmp_path: Path, data_folder: Path) -> None:
    """All 50 test files are copies of training files; some of several, and some not to the last digit."""
    values = experiment(method="given").model_dump()
    values["data"] |= {"reader": "dat", "path": str(data_folder / "adacs"), "features": ["value"]}
    given = Experiment.model_validate(values)
    dataset = tmp_path / "dataset"
    ingest.ingest(given.data, data_folder / "adacs", dataset, Ranks(), lambda done, total: None)
    content = [shards.read(path) for path in splits.shard_paths(dataset)]
    features = np.concatenate([entry.features for entry in content]).reshape(-1, 128).astype(float)
    places = np.concatenate([entry.splits for entry in content if entry.splits is not None])
    ids = np.concatenate([entry.ids for entry in content])
    # all pairs, by brute force
    train, test = features[places == "train"], features[places == "test"]
    assert (len(train), len(test)) == (200, 50)
    distance = np.sqrt(((train[:, None] - test[None]) ** 2).mean(axis=2))
    near = distance <= leaks.NEAR * np.minimum(train.std(axis=1)[:, None], test.std(axis=1)[None])
    assert near.any(axis=0).all(), "each test file is in training"
    found = leaks.find(splits.shard_paths(dataset), pd.DataFrame({"id": ids, "split": places}), None)
    assert set(ids[found.leaking[0]]) == set(ids[places == "train"][near.any(axis=1)])
    equal = {row["object"] for row in found.table.to_dict("records") if row["kind"] == "equal"}
    assert equal == set(ids[places == "train"][(distance == 0).any(axis=1)])
    assert found.counts["too_few_numbers"] == 0
    with pytest.raises(JaxrnnError, match="of train equal to one of test"):
        splits.split(given, dataset, tmp_path / "refused")
    values["split"]["leaks"] = "drop_from_training"
    said = splits.split(Experiment.model_validate(values), dataset, tmp_path / "dropped")
    assert "give no validation split" in said[0]
    kept = splits.read_splits(tmp_path / "dropped")["split"].tolist()
    assert kept.count("test") == 50
    # copies between training and the validation split made of it go as well
    assert kept.count("train") + kept.count("validation") <= 200 - int(near.any(axis=1).sum())
