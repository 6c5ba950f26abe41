"""Steps and features: agreement with plain loops over single objects, and what must not change."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuts import COLUMNS, DETECTIONS, SURVEY, TICK_DAYS, declared, made, plain_detection, reordered, surveys

from jaxrnn import features
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Column, Sequences, Survey

TIMES = ["time", "time_since_first", "time_difference", "time_since_detection"]
EVERYTHING = [
    *TIMES,
    "passband",
    {"name": "flux", "scaling": "asinh", "softening": 2.0},
    {"name": "flux_error", "scaling": "log"},
    {"name": "*e*t*d"},  # detected
]
MAGNITUDES = [{"name": "flux*", "scaling": "magnitude", "zero_point": 27.5}]

STEPS = st.fixed_dictionaries(
    {
        "steps": st.sampled_from(["observation", "night"]),
        "detection": DETECTIONS,
        "cuts": st.fixed_dictionaries(
            {"keep": st.sampled_from(["first", "last", "even"])}, optional={"max_steps": st.integers(1, 6)}
        ),
    }
)


def bright(sequences: Sequences) -> Sequences:
    """Returns the sequences with positive fluxes, which have magnitudes."""
    values = sequences.values.copy()
    values[:, 0] = np.abs(values[:, 0]) + 0.1
    return replace(sequences, values=values)


def assert_same(found: features.Steps, expected: features.Steps, but: tuple[int, ...] = ()) -> None:
    """Equal to the bit, beside the columns `but`."""
    columns = [column for column in range(found.features.shape[1]) if column not in but]
    np.testing.assert_array_equal(found.features[:, columns], expected.features[:, columns])
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert found.step_labels is not None and expected.step_labels is not None
    assert found.step_labels.tolist() == expected.step_labels.tolist()


# ---------------------------------------------------------------- what one object's steps are, in plain Python


def plain_steps(data: Data, sequences: Sequences, index: int) -> tuple[list[list[int]], int]:
    """Returns the rows of each of an object's steps, and the step that detection is measured from."""
    rows = list(range(sequences.offsets[index], sequences.offsets[index + 1]))
    steps: list[list[int]] = []
    for row in rows:
        same = steps and data.steps == "night" and sequences.time[row] - sequences.time[row - 1] <= data.night_gap
        if same:
            steps[-1].append(row)
        else:
            steps.append([row])
    detected = plain_detection(data, sequences, rows)
    return steps, next((number for number, step in enumerate(steps) if detected in step), len(steps) - 1)


def plain_left(data: Data, count: int) -> list[int]:
    """Returns which of so many steps are left."""
    most = data.cuts.max_steps
    if most is None or count <= most:
        return list(range(count))
    if data.cuts.keep == "first":
        return list(range(most))
    if data.cuts.keep == "last":
        return list(range(count - most, count))
    return [math.floor(place * (count - 1) / (most - 1) + 0.5) for place in range(most)] if most > 1 else [0]


def plain_value(data: Data, sequences: Sequences, step: list[int], name: str, passband: int) -> float:
    """Returns a column of a step: the mean of the night's passband, or the observation's value."""
    if data.steps == "observation":
        return sequences.values[step[0], COLUMNS.index(name)]
    rows = [row for row in step if sequences.passband[row] == passband]
    if not rows:
        return math.nan
    weights = [1 / sequences.values[row, 1] ** 2 for row in rows]
    values = [sequences.values[row, COLUMNS.index(name)] for row in rows]
    if name == "flux_error":
        return 1 / math.sqrt(sum(weights))
    if name == "flux":
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return sum(values) / len(values)


def plain_features(data: Data, sequences: Sequences, names: list[str]) -> tuple[list[list[float]], list[int], int]:
    """Returns the times, passbands and (unscaled) columns of all steps, each step's first row, and the rows cut."""
    table: list[list[float]] = []
    first_rows: list[int] = []
    cut = 0
    for index in range(len(sequences.ids)):
        steps, detection = plain_steps(data, sequences, index)
        times = [sum(sequences.time[row] - 50000 for row in step) / len(step) + 50000 for step in steps]
        left = plain_left(data, len(steps))
        cut += sum(len(step) for step in steps) - sum(len(steps[number]) for number in left)
        for place, number in enumerate(left):
            time = times[number]
            clocks = [time, time - times[left[0]], time - times[left[max(place - 1, 0)]], time - times[detection]]
            seen = [float(any(sequences.passband[row] == band for row in steps[number])) for band in (0, 1)]
            bands = (0, 1) if data.steps == "night" else (0,)
            values = [plain_value(data, sequences, steps[number], name, band) for name in names for band in bands]
            table.append([*clocks, *seen, *values])
            first_rows.append(steps[number][0])
    return table, first_rows, cut


@settings(max_examples=150, deadline=None)
@given(surveys(longest=20), STEPS)
def test_features_are_what_plain_loops_find(sequences: Sequences, chosen: dict) -> None:
    data = declared(features=EVERYTHING, **chosen)
    steps = features.make(data, SURVEY, sequences)
    expected, first_rows, cut = plain_features(data, sequences, ["flux", "flux_error", "detected"])
    width = 2 if data.steps == "night" else 1
    table = np.array(expected, dtype=np.float64).reshape(-1, 6 + 3 * width)
    table[:, 6 : 6 + width] = np.arcsinh(table[:, 6 : 6 + width] / 2)
    table[:, 6 + width : 6 + 2 * width] = np.log(table[:, 6 + width : 6 + 2 * width])
    np.testing.assert_allclose(steps.features, table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(steps.time, table[:, 0], rtol=1e-14)
    assert steps.step_labels is not None and sequences.step_labels is not None
    assert steps.step_labels.tolist() == sequences.step_labels[first_rows].tolist()
    assert sum(steps.cut.values()) == cut
    lengths = [
        len(plain_left(data, len(plain_steps(data, sequences, index)[0]))) for index in range(len(sequences.ids))
    ]
    assert np.diff(steps.offsets).tolist() == lengths and steps.offsets[0] == 0


@settings(max_examples=60, deadline=None)
@given(surveys(), STEPS)
def test_magnitudes_and_their_errors(sequences: Sequences, chosen: dict) -> None:
    """The error is the flux's error times the slope of the magnitude, which is measured between two fluxes nearby."""
    data = declared(features=MAGNITUDES, **chosen)
    sequences = bright(sequences)
    steps = features.make(data, SURVEY, sequences)
    table = np.array(plain_features(data, sequences, ["flux", "flux_error"])[0])
    width = 2 if data.steps == "night" else 1
    flux, error = table.reshape(-1, 6 + 2 * width)[:, 6:].reshape(-1, 2, width).swapaxes(0, 1)
    share = 1e-4
    slope = (np.log10(flux * (1 + share)) - np.log10(flux * (1 - share))) / (2 * share * flux)
    np.testing.assert_allclose(steps.features[:, :width], 27.5 - 2.5 * np.log10(flux), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(steps.features[:, width:], 2.5 * slope * error, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(surveys(), STEPS, st.randoms(use_true_random=False))
def test_features_of_an_object_depend_on_it_alone(sequences: Sequences, chosen: dict, random) -> None:
    data = declared(features=EVERYTHING, **chosen)
    order = list(range(len(sequences.ids)))
    random.shuffle(order)
    order = order[: random.randint(0, len(order))]
    together = features.make(data, SURVEY, sequences)
    alone = features.make(data, SURVEY, reordered(sequences, order))
    rows = [row for index in order for row in range(together.offsets[index], together.offsets[index + 1])]
    assert together.step_labels is not None
    expected = replace(
        together,
        offsets=np.concatenate([[0], np.cumsum(np.diff(together.offsets)[order])]),
        features=together.features[rows],
        step_labels=together.step_labels[rows],
    )
    assert_same(alone, expected)
    np.testing.assert_array_equal(alone.time, together.time[rows])


@settings(max_examples=60, deadline=None)
@given(surveys(), STEPS, st.integers(-40000 * 64, 40000 * 64))
def test_a_shift_of_all_times_changes_the_time_alone(sequences: Sequences, chosen: dict, ticks: int) -> None:
    data = declared(features=EVERYTHING, **chosen)
    if data.steps == "night":
        # a night's mean time is rounded; rows of one time in each night keep it exact
        sequences = replace(sequences, time=np.floor(sequences.time))
    before = features.make(data, SURVEY, sequences)
    after = features.make(data, SURVEY, replace(sequences, time=sequences.time + ticks * TICK_DAYS))
    assert_same(after, before, but=(0,))
    np.testing.assert_array_equal(after.time, before.time + ticks * TICK_DAYS)


@settings(max_examples=60, deadline=None)
@given(surveys(shortest=1), STEPS)
def test_times_say_where_they_begin(sequences: Sequences, chosen: dict) -> None:
    data = declared(features=TIMES, **chosen)
    steps = features.make(data, SURVEY, sequences)
    firsts = steps.offsets[:-1]
    _, since_first, difference, since_detection = steps.features.T
    assert (since_first[firsts] == 0).all() and (difference[firsts] == 0).all() and (difference >= 0).all()
    for index, (start, stop) in enumerate(zip(firsts, steps.offsets[1:], strict=True)):
        rows = list(range(sequences.offsets[index], sequences.offsets[index + 1]))
        if plain_detection(data, sequences, rows) is None:
            assert (since_detection[start:stop] <= 0).all()
        elif data.cuts.max_steps is None:
            assert (since_detection[start:stop] == 0).any()


@settings(max_examples=40, deadline=None)
@given(surveys(), st.integers(1, 6), st.sampled_from(["first", "last", "even"]))
def test_a_longest_length_holds_and_is_accounted_for(sequences: Sequences, most: int, keep: str) -> None:
    whole = features.make(declared(), SURVEY, sequences)
    cut = features.make(declared(cuts={"max_steps": most, "keep": keep}), SURVEY, sequences)
    np.testing.assert_array_equal(np.diff(cut.offsets), np.minimum(np.diff(whole.offsets), most))
    assert len(cut.time) + sum(cut.cut.values()) == len(whole.time)
    assert all(reason == f"cuts.max_steps: beyond {most}, keep {keep}" for reason in cut.cut)


def test_even_steps_reach_from_the_first_to_the_last() -> None:
    sequences = made([11, 3, 4, 1000], 2)
    steps = features.make(declared(cuts={"max_steps": 3, "keep": "even"}), SURVEY, sequences)
    assert steps.step_labels is not None
    assert steps.step_labels.tolist() == [
        f"step {row}" for row in (0, 5, 10, 11, 12, 13, 14, 16, 17, 18, 18 + 500, 18 + 999)
    ]


def test_errors_whose_squares_are_no_numbers_weigh_as_others() -> None:
    sequences = made([4], 0)
    scale = 1e-200
    values = np.array([[1.0, scale, 0, 0], [4.0, 2 * scale, 0, 0], [7.0, 3 * scale, 0, 0], [5.0, 1.0, 0, 0]])
    sequences = replace(sequences, values=values, time=np.array([1.0, 1.1, 1.2, 1.3]), passband=np.array([0, 0, 0, 1]))
    steps = features.make(declared(steps="night", features=["flux"]), SURVEY, sequences)
    np.testing.assert_allclose(steps.features, [[np.average([1, 4, 7], weights=[1, 1 / 4, 1 / 9]), 5]], rtol=1e-6)


@pytest.mark.parametrize(
    "feature",
    [
        {"name": "flux", "scaling": "asinh", "softening": 1e-300},
        "time_difference",
        {"name": "flux*", "scaling": "magnitude"},
    ],
)
def test_what_no_shard_can_hold_is_refused(feature: object) -> None:
    sequences = made([3, 2], 0)
    values = sequences.values.copy()
    values[:, :2] = 1
    values[4, :2] = 1e-300 if isinstance(feature, dict) and feature["scaling"] == "magnitude" else 1e38, 1e38
    time = np.array([0, 1, 2, -3e38, 3e38])
    with pytest.raises(JaxrnnError, match=r"second\.csv: object object 1, step 1: the input '[a-z_]+' is beyond"):
        features.make(declared(features=[feature]), SURVEY, replace(sequences, values=values, time=time))


def test_labels_that_are_not_there_stay_away() -> None:
    assert features.make(declared(), SURVEY, replace(made([3], 0), step_labels=None)).step_labels is None


@pytest.mark.parametrize("steps", ["observation", "night"])
def test_nothing_has_no_steps(steps: str) -> None:
    data = declared(features=EVERYTHING, steps=steps, detection={"column": "detected"}, cuts={"max_steps": 2})
    for lengths in ([], [0], [0, 0]):
        made_of_nothing = features.make(data, SURVEY, made(lengths, 0))
        assert made_of_nothing.offsets.tolist() == [0] * (len(lengths) + 1)
        assert made_of_nothing.features.shape == (0, len(features.describe(data, SURVEY)))


# ---------------------------------------------------------------- what the inputs are called


def test_inputs_of_observations() -> None:
    inputs = features.describe(declared(features=EVERYTHING, detection={"column": "detected"}), SURVEY)
    assert [(column.name, column.unit) for column in inputs] == [
        *((name, "days") for name in TIMES), ("passband_g", ""), ("passband_r", ""),
        ("flux", "asinh of 2 uJy"), ("flux_error", "log of uJy"), ("detected", ""),
    ]  # fmt: skip
    assert tuple(entry.indicator for entry in inputs) == (False,) * 4 + (True,) * 2 + (False,) * 3
    assert tuple(entry.source for entry in inputs) == (0, 1, 2, 3, 4, 4, 5, 6, 7)
    assert tuple(entry.kind for entry in inputs) == (*TIMES, "passband", "passband", "value", "error", "value")
    assert tuple(entry.column for entry in inputs) == ("",) * 6 + ("flux", "flux_error", "detected")
    assert tuple(entry.passband for entry in inputs) == ("",) * 4 + ("g", "r") + ("",) * 3


def test_inputs_of_nights() -> None:
    inputs = features.describe(declared(features=["time", "passband", *MAGNITUDES], steps="night"), SURVEY)
    assert [(column.name, column.unit) for column in inputs] == [
        ("time", "days"), ("passband_g", ""), ("passband_r", ""),
        ("flux_g", "mag"), ("flux_r", "mag"), ("flux_error_g", "mag"), ("flux_error_r", "mag"),
    ]  # fmt: skip
    assert tuple(entry.source for entry in inputs) == (0, 1, 1, 2, 2, 2, 2)
    assert tuple(entry.kind for entry in inputs) == ("time", "passband", "passband", "value", "value", "error", "error")
    assert tuple(entry.column for entry in inputs) == ("", "", "", "flux", "flux", "flux_error", "flux_error")
    assert tuple(entry.passband for entry in inputs) == ("", "g", "r", "g", "r", "g", "r")


REGIONS = Survey(columns=tuple(Column(name) for name in ("region_10", "region_2", "regions", "mean[1]", "mean1")))


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("region_*", ["region_10", "region_2"]),
        ("*", ["region_10", "region_2", "regions", "mean[1]", "mean1"]),
        ("*1*", ["region_10", "mean[1]", "mean1"]),
        ("mean[1]", ["mean[1]"]),
        ("re*on*2", ["region_2"]),
    ],
)
def test_a_star_is_any_text_and_nothing_else_is(name: str, columns: list[str]) -> None:
    inputs = features.describe(declared(features=[name]), REGIONS)
    assert [column.name for column in inputs] == columns


def test_a_star_reads_the_columns_that_it_stands_for() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(7, 5))
    sequences = replace(made([3, 4], 0), values=values, passband=np.zeros(7, dtype=np.int64))
    steps = features.make(declared(features=["mean1", "region_*"]), REGIONS, sequences)
    np.testing.assert_array_equal(steps.features, values[:, [4, 0, 1]].astype(np.float32))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ([{"name": "flux", "scaling": "asinh"}, "flux_error", "time"], set()),
        ([{"name": "flux_error", "scaling": "log"}], {"flux_error"}),
        ([{"name": "flux", "scaling": "magnitude"}], {"flux"}),
        ([{"name": "flux_error", "scaling": "magnitude"}], {"flux", "flux_error"}),
        ([{"name": "flux*", "scaling": "log"}, {"name": "detected"}], {"flux", "flux_error"}),
    ],
)
def test_logarithms_ask_for_positive_columns(asked: list[object], names: set[str]) -> None:
    assert features.positive(declared(features=asked), SURVEY) == names


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["fluxx"]}, r"no 'fluxx'; did you mean 'flux'\?; it has time, .*flux, flux_error.*passband"),
        ({"features": ["band_*"]}, r"no 'band_\*'.*it has time, "),
        ({"features": [{"name": "time", "scaling": "log"}]}, r"'time' takes no scaling"),
        ({"features": [{"name": "passband", "scaling": "asinh"}]}, r"'passband' takes no scaling"),
        ({"features": ["flux", "flux*"]}, r"'flux' is asked for twice, by 'flux' and by 'flux\*'"),
        ({"features": ["time_since_detection"]}, r"`time_since_detection` needs data\.detection"),
        (
            {"features": [{"name": "flux", "scaling": "magnitude"}, "flux_error"]},
            r"'flux' has `scaling: magnitude` and its errors 'flux_error' have `scaling: none`",
        ),
        (
            {"features": ["flux", {"name": "flux_error", "scaling": "magnitude"}]},
            r"'flux' has `scaling: none` and its errors 'flux_error' have `scaling: magnitude`",
        ),
        ({"metadata": ["redshft"]}, r"data\.metadata: this survey has no 'redshft'; did you mean 'redshift'\?"),
        ({"cuts": {"window": {"around": "detection", "before": 1, "after": 1}}}, r"needs data\.detection"),
        ({"detection": {"column": "seen"}}, r"data\.detection\.column: this survey has no column of marks 'seen'"),
        ({"cuts": {"sigma_clip": [{"column": "mag", "sigma": 3}]}}, r"sigma_clip\[0\]"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(changes: dict, message: str) -> None:
    with pytest.raises(JaxrnnError, match=message):
        features.check(declared(**changes), SURVEY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["value"], "steps": "night"}, r"data\.steps: `night` puts passbands side by side"),
        ({"features": ["passband"]}, r"has no 'passband'"),
        ({"features": [{"name": "error", "scaling": "magnitude"}]}, r"'error' is an error, and `magnitude` needs"),
        ({"features": ["value"], "detection": {"signal_to_noise": 5}}, r"signal_to_noise: needs"),
    ],
)
def test_a_survey_without_passbands_and_pairs(changes: dict, message: str) -> None:
    survey = Survey(columns=(Column("value"), Column("error")), error_columns=("error",))
    features.check(declared(features=["value", "error"]), survey)
    with pytest.raises(JaxrnnError, match=message):
        features.check(declared(**changes), survey)


def test_inputs_of_one_name_are_refused() -> None:
    survey = Survey(columns=(Column("flux"), Column("flux_g"), Column("passband_g")), passbands=("g",))
    features.check(declared(features=["flux", "passband"], steps="night"), survey)
    with pytest.raises(JaxrnnError, match="two inputs would be called 'passband_g'"):
        features.check(declared(features=["passband", "passband_g"]), survey)


@settings(max_examples=60, deadline=None)
@given(surveys(shortest=1), STEPS)
def test_what_is_checked_can_be_made(sequences: Sequences, chosen: dict) -> None:
    data = declared(features=EVERYTHING, **chosen)
    features.check(data, SURVEY)
    steps = features.make(data, SURVEY, sequences)
    inputs = features.describe(data, SURVEY)
    assert steps.features.dtype == np.float32
    marks = steps.features[:, np.array([entry.indicator for entry in inputs])]
    assert Counter(marks.ravel().tolist()).keys() <= {0.0, 1.0}
    absent = np.isnan(steps.features)
    if data.steps == "observation":
        assert not absent.any() and (marks.sum(axis=1) == 1).all()
    else:
        # NaN exactly where the night has no observation in the passband
        for index, (band, column) in enumerate((entry.passband, entry.column) for entry in inputs):
            seen = marks[:, "gr".index(band)] == 1 if column else np.ones(len(marks), dtype=bool)
            np.testing.assert_array_equal(absent[:, index], ~seen)
