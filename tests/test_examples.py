"""The objects that the report draws are those that the seed says, and every number of their figures is the survey's."""

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from invented import DATA, HOSTILE, observations, write_survey
from numpy.random import default_rng
from test_leaks import feature, shard, write_dataset

from jaxrnn import examples, features, ingest, results, shards, splits
from jaxrnn.config import Data, Feature
from jaxrnn.examples import EXAMPLE, GROWING, MISTAKE, Wanted
from jaxrnn.predictions import Predictions
from jaxrnn.ranks import Ranks
from jaxrnn.report import figures, inputs
from jaxrnn.report.figures import Shown
from jaxrnn.results import Results
from jaxrnn.shards import Shard
from jaxrnn.splits import LABELS, STEPS

CLASSES = ("a", "b", "<b>rare</b>")


def table(objects: int = 300, seed: int = 0) -> pd.DataFrame:
    """Returns a splits.csv; of the last class one object alone is in training."""
    generator = default_rng(seed)
    names = generator.choice(np.array(CLASSES[:2], dtype=object), objects)
    split = generator.choice(["train", "validation", "test"], objects)
    names[0], split[0], names[1], split[1] = CLASSES[2], "train", CLASSES[2], "test"
    ids = [f"o{number}" for number in range(objects)]
    return pd.DataFrame({"id": ids, "label": names, "class": names, "split": split}, dtype=object)


# Which objects


def test_examples_are_of_training_and_follow_from_the_seed_alone() -> None:
    known = table()
    split = dict(zip(known["id"], known["split"], strict=True))
    names = dict(zip(known["id"], known["class"], strict=True))
    found = examples.of_classes(known, None, CLASSES, 1)
    assert [each.name for each in found] == ["a"] * 3 + ["b"] * 3 + [CLASSES[2]], "a class may have a single object"
    assert all(split[each.id] == "train" and names[each.id] == each.name for each in found)
    assert len({each.id for each in found}) == len(found)
    mixed = known.sample(frac=1, random_state=3)
    assert examples.of_classes(mixed, None, CLASSES, 1) == found, "whatever the order of the shards"
    others = [examples.of_classes(known, None, CLASSES, seed) for seed in range(2, 5)]
    assert all({each.id for each in other} != {each.id for each in found} for other in others)


def test_examples_are_of_the_folds_own_training() -> None:
    known = table()
    pooled = known["split"].isin(["train", "validation"])
    known["fold"] = np.where(pooled, np.arange(len(known)) % 3, "").astype(str)
    known.loc[pooled, "split"] = splits.POOL
    fold = dict(zip(known["id"], known["fold"], strict=True))
    for own in range(3):
        found = examples.of_classes(known, own, CLASSES, 1)
        assert found and all(fold[each.id] not in ("", str(own)) for each in found)


def test_of_many_classes_the_first_are_drawn() -> None:
    names = [f"class {number}" for number in range(30)]
    known = pd.DataFrame({"id": [f"o{n}" for n in range(300)], "label": "", "class": names * 10, "split": "train"})
    found = examples.of_classes(known, None, names, 1)
    assert [*dict.fromkeys(each.name for each in found)] == names[: examples.MOST_CLASSES]


@pytest.mark.parametrize("kind", [STEPS, LABELS])
def test_objects_without_a_class_are_drawn_together(kind: str) -> None:
    known = table().assign(**{"class": kind})
    found = examples.of_classes(known, None, CLASSES, 1)
    labels = dict(zip(known["id"], known["label"], strict=True))
    assert len(found) == examples.TOGETHER
    assert [each.name for each in found] == [labels[each.id] if kind == LABELS else "" for each in found]


def test_of_mistakes_the_dearest_of_each_object_is_drawn() -> None:
    ids = ["x", "x", "y", *(f"z{number}" for number in range(9))]
    mistakes: Any = pd.DataFrame({"id": ids, "step": range(3, 15), "truth": "a"})
    found = examples.mistaken(mistakes)
    assert found[:2] == [Wanted(MISTAKE, "test", "a", "x", 3), Wanted(MISTAKE, "test", "a", "y", 5)]
    assert len(found) == examples.MOST_MISTAKES
    assert examples.mistaken(mistakes.drop(columns="step"))[0] == Wanted(MISTAKE, "test", "a", "x")
    assert examples.mistaken(mistakes[:0]) == []


def predicted(objects: int = 40, seed: int = 0) -> Predictions:
    """Returns predictions behind each of 1 to 9 steps; all of the last class are right."""
    generator = default_rng(seed)
    lengths = generator.integers(1, 10, objects)
    labels = np.arange(objects) % 3
    probabilities = generator.dirichlet(np.ones(3), lengths.sum()).astype(np.float32)
    probabilities[np.repeat(labels, lengths) == 2] = [0.1, 0.2, 0.7]
    ids = np.array([f"o{number}" for number in range(objects)])
    return Predictions("prefix", ids, labels, lengths, lengths, {"one": probabilities})


def test_of_growing_objects_one_is_right_and_one_is_wrong() -> None:
    entry = predicted()
    found = examples.growing(entry, "one", CLASSES, 1)
    answers = dict(zip(entry.ids.tolist(), entry.scored("one").argmax(axis=1).tolist(), strict=True))
    right = [(each.name, CLASSES[answers[each.id]] == each.name) for each in found]
    assert right == [("a", True), ("a", False), ("b", True), ("b", False), (CLASSES[2], True)]
    assert examples.growing(entry, "one", CLASSES, 1) == found != examples.growing(entry, "one", CLASSES, 2)
    most = examples.growing(predicted(300), "one", CLASSES, 1)
    assert len(most) <= examples.MOST_GROWING


# What was observed of them


def plain(shape: int) -> Data:
    return Data.model_validate({"reader": "goto", "path": "p", "features": [f"x{at}" for at in range(shape)]})


def dataset_of(folder: Path, lengths: list[int], columns: int) -> tuple[Path, list[Shard]]:
    """Returns a dataset of two shards, of objects `0`, `1`, ... with these lengths."""
    generator = default_rng(1)
    sequences = [generator.normal(0, 3, (length, columns)).astype(np.float32) for length in lengths]
    half = len(lengths) // 2
    described = tuple(feature(f"x{at}", source=at) for at in range(columns))
    parts = [shard(sequences[:half], ["a"] * half, columns=described)]
    parts.append(shard(sequences[half:], ["a"] * (len(lengths) - half), half, columns=described))
    return write_dataset(folder, parts), parts


@pytest.mark.parametrize("columns", [1, 3, examples.MOST_LINES, 28, 90, 250])
def test_values_are_those_of_the_shards(tmp_path: Path, columns: int) -> None:
    lengths = [1, 2, 500, 40, 1, 7]
    dataset, parts = dataset_of(tmp_path, lengths, columns)
    wanted = [Wanted(EXAMPLE, "train", "a", str(at)) for at in (5, 2, 0)] + [Wanted(MISTAKE, "test", "a", "2", 333)]
    found, of = examples.read(dataset, plain(columns), wanted)
    assert of == columns
    described, values = found.iloc[:, :8], found.iloc[:, 8:]
    assert tuple(described) == examples.COLUMNS and len(values.columns) == min(columns, examples.MOST_INPUTS)
    kept = [int(name[1:]) for name in values]
    for (drawn_as, of_id), own in described.groupby(["drawn_as", "id"]):
        part = parts[int(of_id) >= 3]
        row = part.ids.tolist().index(of_id)
        steps = own["step"].to_numpy() - 1
        time = part.time[part.offsets[row] : part.offsets[row + 1]]
        features = part.features[part.offsets[row] : part.offsets[row + 1]]
        np.testing.assert_array_equal(values.loc[own.index].to_numpy(), features[steps][:, kept])
        np.testing.assert_array_equal(own["time"], time[steps])
        np.testing.assert_array_equal(own["since_first"], time[steps] - time[0])
        assert set(own["steps"]) == {lengths[int(of_id)]} and (np.diff(steps) > 0).all()
        assert steps[0] == 0 and steps[-1] == len(time) - 1, "the first and the last step are there"
        most = examples.MOST_VALUES if columns <= examples.MOST_LINES else examples.MOST_CELLS
        assert len(steps) * len(kept) <= max(most, 2 * len(kept)) + (drawn_as == MISTAKE) * len(kept)
        assert drawn_as != MISTAKE or 332 in steps
    # as the report reads them
    (tmp_path / "experiment").mkdir()
    found.to_csv(tmp_path / "experiment" / results.EXAMPLES, index=False)
    names, shown = inputs._shown(tmp_path / "experiment", "jaxrnn aggregate", ())
    assert names == [*values] and [each.id for each in shown] == ["5", "2", "0", "2"]
    again = np.concatenate([each.values for each in shown]).astype(np.float32)
    np.testing.assert_array_equal(again, values.to_numpy())


def test_no_steps_of_other_objects_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, parts = dataset_of(tmp_path, [3, 900, 4, 900, 5, 900], 2)
    found = shards.of_sequences(splits.shard_paths(dataset)[0], {"0", "2", "5"})
    assert found.ids.tolist() == ["0", "2"] and found.offsets.tolist() == [0, 3, 7]
    whole = parts[0]
    np.testing.assert_array_equal(found.features, np.concatenate([whole.features[:3], whole.features[903:]]))
    nothing = shards.of_sequences(splits.shard_paths(dataset)[1], {"0"})
    assert nothing.features.shape == (0, 2) and nothing.offsets.tolist() == [0]
    # nor any shard behind the last object
    read = []
    own = shards.of_sequences
    monkeypatch.setattr(shards, "of_sequences", lambda path, wanted: read.append(path) or own(path, wanted))
    examples.read(dataset, plain(2), [Wanted(EXAMPLE, "train", "a", "1")])
    assert len(read) == 1


@pytest.mark.parametrize("steps", ["observation", "night"])
def test_values_are_the_surveys_in_its_units(tmp_path: Path, steps: str) -> None:
    """Through ingest and scaling, passband by passband; an id may be anything."""
    seen: Any
    seen, stars = observations(40)
    seen["flux"] = seen["flux"].abs() + 0.1
    survey = write_survey(tmp_path / "survey", seen, stars)
    chosen = [*HOSTILE[:4], "star-3"]
    for scaling in ({"scaling": "asinh", "softening": 5}, {"scaling": "log"}, {"scaling": "magnitude"}, {}):
        errors = [{"name": "flux_error", "scaling": "magnitude"}] if scaling.get("scaling") == "magnitude" else []
        declared = ["time_since_first", {"name": "flux", **scaling}, *errors, "passband"]
        data = Data.model_validate({**DATA, "features": declared, "steps": steps, "path": str(survey)})
        dataset = Results(tmp_path).dataset(str(len(list(tmp_path.iterdir()))))
        ingest.ingest(data, survey, dataset, Ranks(), lambda done, total: None, to_predict=True)
        table, of = examples.read(dataset, data, [Wanted(EXAMPLE, "train", "a", name) for name in chosen])
        assert of == 2 and [*table][8:] == ["flux_g (uJy)", "flux_r (uJy)"]
        for name in chosen:
            own: Any = table[table["id"] == name]
            for band in ("g", "r"):
                truth = seen[(seen["star"] == name) & (seen["band"] == band)].sort_values("mjd")
                column = own[f"flux_{band} (uJy)"]
                assert len(own) == own["steps"].iloc[0]
                if steps == "observation":
                    np.testing.assert_allclose(column.dropna(), truth["flux"], rtol=2e-5)
                    np.testing.assert_allclose(own["time"][column.notna()], truth["mjd"], rtol=0, atol=1e-9)
                else:
                    assert truth["flux"].min() * 0.99 <= column.min() and column.max() <= truth["flux"].max() * 1.01


@pytest.mark.parametrize("scaling", ["none", "asinh", "log", "magnitude"])
def test_a_scaling_undone_gives_what_was_scaled(scaling: Any) -> None:
    values = np.geomspace(1e-3, 1e6, 50)
    if scaling in ("none", "asinh"):
        values = np.concatenate([-values, [0], values])
    feature = Feature(name="flux", scaling=scaling, softening=3)
    scaled = features._scaled(feature, values, None).astype(np.float32)
    np.testing.assert_allclose(features.unscaled(feature, scaled), values, rtol=1e-5)


def test_many_passbands_leave_the_other_columns_out(tmp_path: Path) -> None:
    columns = [("flux", band) for band in "ugrizy"] + [("size", band) for band in "ugrizy"]
    described = tuple(
        features.FeatureColumn(f"{name}_{band}", "", "value", name, band, at // 6, False)
        for at, (name, band) in enumerate(columns)
    )
    dataset = write_dataset(tmp_path, [shard([np.ones((4, 12))], ["a"], columns=described)])
    found, of = examples.read(dataset, plain(2), [Wanted(EXAMPLE, "train", "a", "0")])
    assert of == 12 and [*found][8:] == [f"flux_{band}" for band in "ugrizy"]


def test_a_survey_without_columns_shows_what_features_there_are(tmp_path: Path) -> None:
    described = (features.FeatureColumn("time_difference", "days", "time_difference", "", "", 0, False),)
    dataset = write_dataset(tmp_path, [shard([np.arange(4.0)[:, None]], ["a"], columns=described)])
    data = Data.model_validate({"reader": "goto", "path": "p", "features": ["time_difference"]})
    found, _ = examples.read(dataset, data, [Wanted(EXAMPLE, "train", "a", "0")])
    assert found["time_difference (days)"].tolist() == [0, 1, 2, 3]


def test_an_input_may_be_called_as_a_column_is(tmp_path: Path) -> None:
    entry = predicted(2)
    lengths = entry.lengths.tolist()
    described = (feature("step"), feature("id", source=1))
    dataset = write_dataset(tmp_path, [shard([np.full((n, 2), 7.0) for n in lengths], ["a", "b"], columns=described)])
    data = Data.model_validate({"reader": "goto", "path": "p", "features": ["step", "id"]})
    named = [Wanted(GROWING, "test", CLASSES[at], str(at)) for at in range(2)]
    found, _ = examples.read(dataset, data, named)
    entry = replace(entry, ids=np.array(["0", "1"]))
    grown = examples.grown(found, entry, "one", CLASSES)
    assert len(grown) == sum(lengths) * 3
    np.testing.assert_array_equal(grown["probability"], entry.probabilities["one"].ravel())
    for at, own in enumerate(("0", "1")):
        rows = grown[grown["id"] == own]
        assert set(rows["truth"]) == {CLASSES[at]}
        assert set(rows["predicted"]) == {CLASSES[int(entry.scored("one")[at].argmax())]}
        assert rows["step"].tolist() == np.repeat(np.arange(lengths[at]) + 1, 3).tolist()


# How they are drawn


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What figures are made of, as they are drawn."""
    kept: list[dict[str, Any]] = []
    own = figures.vl_convert.vegalite_to_svg
    monkeypatch.setattr(figures.vl_convert, "vegalite_to_svg", lambda spec: kept.append(spec) or own(spec))
    return kept


def objects(lengths: list[int], columns: int, classes: int = 0) -> list[Shown]:
    generator = default_rng(2)
    found = []
    for number, length in enumerate(lengths):
        values = generator.normal(0, 10, (length, columns))
        values[generator.random(values.shape) < 0.3] = np.nan
        of = generator.dirichlet(np.ones(classes), length) if classes else None
        since = np.sort(generator.uniform(0, 9, length)) if number else np.arange(length) * 2.0
        since = (since - since[0]).astype(np.float64)
        steps = np.arange(length) * 2 + 1
        found.append(Shown(EXAMPLE, "a", HOSTILE[number], int(2 * length - 1), steps, since, values, ("told",),
                           marked=1, predicted="b" if classes else None, probabilities=of))  # fmt: skip
    return found


@pytest.mark.parametrize("classes", [0, 3, 30])
@pytest.mark.parametrize("columns", [1, 3, 6, 28])
def test_every_number_of_a_figure_is_that_of_an_object(drawn: list[dict[str, Any]], columns: int, classes: int) -> None:
    of = objects([9, 1, 5], columns, classes)
    names = [f"x{at} (uJy)" for at in range(columns)]
    class_names = [f"class {at}" for at in range(classes)]
    found = figures.objects("examples", "Examples", {"<b>a</b>": of[:2], "b": of[2:]}, names, "days", class_names)
    for shown, place in zip(of, ("0-0", "0-1", "1-0"), strict=True):
        data = drawn[0]["datasets"]
        pairs = {(float(x), float(y)) for x, row in zip(shown.since_first, shown.values, strict=True)
                 for y in row if np.isfinite(y)}  # fmt: skip
        if columns <= examples.MOST_LINES:
            for kind in ("rows", "points"):
                rows = data[f"{kind}-{place}-0"]
                assert {(row["x"], row["y"]) for row in rows} == pairs
                assert len({row["band"] for row in rows}) == np.isfinite(shown.values).any(axis=0).sum()
        else:
            (row,) = data[f"image-{place}"]
            levels = unpacked(row["url"])
            downwards = len(of[0].step) <= columns and not classes
            assert levels.shape == (shown.values.shape if downwards else shown.values.shape[::-1])
            levels = levels if downwards else levels.T
            np.testing.assert_array_equal(levels == 0, np.isnan(shown.values))
            seen = np.isfinite(shown.values)
            order = np.argsort(shown.values[seen], kind="stable")
            assert (np.diff(levels[seen][order].astype(int)) >= 0).all(), "more is stronger"
        if classes:
            rows = data[f"rows-{place}-p"]
            most = min(classes, figures.MOST_SERIES)
            assert len(rows) == most * len(shown.step) and shown.probabilities is not None
            known = {(float(x), float(y)) for x, row in zip(shown.since_first, shown.probabilities, strict=True)
                     for y in row}  # fmt: skip
            assert {(row["x"], row["y"]) for row in rows} <= known
    for text in ("told", "17 steps", "9 of 17 steps"):
        assert text in found.svg
    assert "days" in found.svg and ("uJy" in found.svg)
    assert "<b>" not in found.svg and "<script" not in found.svg
    assert ("12 of 30 classes, those" in found.svg) == (classes == 30)


def unpacked(url: str) -> np.ndarray:
    """Returns the levels [row, column] of an image."""
    image = base64.b64decode(url.partition(",")[2])
    width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
    start = image.index(b"IDAT")
    size = int.from_bytes(image[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(image[start + 4 : start + 4 + size]), np.uint8).reshape(height, width + 1)
    return rows[:, 1:]


def test_marks_that_say_what_they_are_stay_marks() -> None:
    rows = [{"x": at, "y": at, "text": f"observation {at}"} for at in range(2 * figures.REPEATED)]
    panel = figures.Panel("points", "time", "flux", (0, 30), (0, 30), rows)
    (found,) = figures.panels("one", figures.Drawing("one", (), (), (), [panel]), ())
    assert found.svg.count('aria-label="observation') == len(rows) and "<use" not in found.svg


def test_an_axis_is_of_time_where_steps_are_even_and_of_steps_elsewhere() -> None:
    even, uneven = objects([9, 9], 28)
    names = [f"x{at}" for at in range(28)]
    for shown, words in ((even, "time (days)"), (uneven, "drawn step")):
        found = figures.objects("examples", "Examples", {"a": [shown]}, names, "days")
        assert words in found.svg


def test_shapes_that_are_drawn_often_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is the same, and half as large."""
    of = objects([60], 3)

    def draw() -> figures.Figure:
        return figures.objects("examples", "Examples", {"a": of}, ["x", "y", "z"], "days")

    short = draw()
    monkeypatch.setattr(figures, "_shorten", lambda root: None)
    long = draw()
    assert "<use" in short.svg and "<use" not in long.svg and len(short.svg) < 0.6 * len(long.svg)
    assert short.png() == long.png()
    assert 'href="#examples-s0"' in short.inline() and 'id="examples-s0"' in short.inline()
