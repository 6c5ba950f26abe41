"""Cuts: agreement with plain loops over single objects, and what must not change."""

import math
import statistics
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn import cuts
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Column, Sequences, Survey

SURVEY = Survey(
    columns=(Column("flux", "uJy"), Column("flux_error", "uJy"), Column("quality"), Column("detected")),
    error_columns=("flux_error",),
    flag_columns=("quality", "detected"),
    passbands=("g", "r"),
    metadata=(Column("alert", "days"), Column("redshift")),
)
COLUMNS = ["flux", "flux_error", "quality", "detected"]
# Times are whole multiples of this, so that sums and differences are exact and times repeat.
TICK_DAYS = 1 / 64


def declared(**changes: object) -> Data:
    """Returns a `data` section; no survey is read with it."""
    return Data.model_validate({"reader": "jaxrnn.readers:SequenceReader", "path": ".", "features": ["flux"]} | changes)


@st.composite
def surveys(draw: st.DrawFn, shortest: int = 0, longest: int = 12, most_objects: int = 6) -> Sequences:
    """Draws sequences sorted by time, in which every array says to which object and row it belongs."""
    lengths = draw(st.lists(st.integers(shortest, longest), max_size=most_objects))
    return made(lengths, draw(st.integers(0, 2**32 - 1)))


def made(lengths: list[int], seed: int) -> Sequences:
    generator = np.random.default_rng(seed)
    rows, objects = sum(lengths), len(lengths)
    ticks = [np.sort(generator.integers(0, 400, length)) for length in lengths]
    flux = np.round(generator.standard_t(1.5, rows) * 3, 1)  # heavy tails, values that repeat
    marks = generator.integers(0, 64, rows), generator.random(rows) < 0.2
    return Sequences(
        ids=np.array([f"object {index}" for index in range(objects)], dtype=object),
        labels=np.array([f"label {index}" for index in range(objects)], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        time=50000 + np.concatenate([*ticks, []]) * TICK_DAYS,
        values=np.stack([flux, np.round(generator.uniform(0.5, 2, rows), 2), *marks], axis=1).astype(np.float64),
        passband=generator.integers(0, 2, rows),
        metadata=np.stack(
            [
                np.where(generator.random(objects) < 0.2, np.nan, 50000 + generator.integers(0, 400, objects) / 64),
                np.arange(objects),
            ],
            axis=1,
        ),
        row_numbers=np.arange(rows) + 100,
        files=("first.csv", "second.csv"),
        splits=np.array([f"split {index}" for index in range(objects)], dtype=object),
        groups=np.array([f"group {index}" for index in range(objects)], dtype=object),
        step_labels=np.array([f"step {row}" for row in range(rows)], dtype=object),
        row_faults=np.array([f"row {row}" for row in range(rows)], dtype=object),
        object_faults=np.array([f"fault {index}" for index in range(objects)], dtype=object),
        row_file=np.arange(rows) % 2,
        object_file=np.arange(objects) % 2,
    )


def rows_of(sequences: Sequences) -> dict[str, list[int]]:
    """Returns the row numbers of each object."""
    bounds = zip(sequences.ids, sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    return {name: sequences.row_numbers[start:stop].tolist() for name, start, stop in bounds}


def assert_equal(found: Sequences, expected: Sequences) -> None:
    for field in fields(Sequences):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


def assert_belongs_together(sequences: Sequences, origin: Sequences) -> None:
    """Every array still says what the origin says of the same rows and objects."""
    rows = sequences.row_numbers - 100
    for name in ("time", "values", "passband", "step_labels", "row_faults", "row_file"):
        np.testing.assert_array_equal(getattr(sequences, name), getattr(origin, name)[rows], err_msg=name)
    objects = [origin.ids.tolist().index(name) for name in sequences.ids]
    for name in ("labels", "splits", "groups", "object_faults", "object_file", "metadata"):
        np.testing.assert_array_equal(getattr(sequences, name), getattr(origin, name)[objects], err_msg=name)


def reordered(sequences: Sequences, order: list[int]) -> Sequences:
    """Returns the chosen objects in another order, put together object by object."""
    rows = [row for index in order for row in range(sequences.offsets[index], sequences.offsets[index + 1])]
    per_row = ("time", "values", "passband", "row_numbers", "step_labels", "row_faults", "row_file")
    per_object = ("ids", "labels", "metadata", "splits", "groups", "object_faults", "object_file")
    lengths = np.diff(sequences.offsets)[order]
    return replace(
        sequences,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **{name: getattr(sequences, name)[rows] for name in per_row},
        **{name: getattr(sequences, name)[order] for name in per_object},
    )


# ---------------------------------------------------------------- what one object's cuts are, in plain Python


def plain_detection(data: Data, sequences: Sequences, rows: list[int]) -> int | None:
    """Returns the first detected of the rows."""
    assert data.detection is not None
    for row in rows:
        flux, error, _, detected = sequences.values[row]
        if data.detection.column is not None:
            if detected:
                return row
        elif data.detection.signal_to_noise is not None and flux > data.detection.signal_to_noise * error:
            return row
    return None


def plain_cuts(data: Data, sequences: Sequences) -> tuple[dict[str, list[int]], Counter[str]]:
    """Returns the row numbers left of each object, and counts by the first word of the reason."""
    counts: Counter[str] = Counter()
    left: dict[str, list[int]] = {}
    for index, name in enumerate(sequences.ids):
        rows = list(range(sequences.offsets[index], sequences.offsets[index + 1]))
        for number, flag in enumerate(data.cuts.flags):
            stay = []
            for row in rows:
                value = sequences.values[row, COLUMNS.index(flag.column)]
                bad = bool(flag.reject_bits and int(value) & flag.reject_bits)
                bad |= bool(flag.require_bits and ~int(value) & flag.require_bits)
                bad |= bool(flag.keep_values and value not in flag.keep_values)
                stay += [] if bad else [row]
            counts[f"cuts.flags[{number}]"] += len(rows) - len(stay)
            rows = stay
        window = data.cuts.window
        if window is not None and rows:
            center = sequences.metadata[index, 0]
            if window.around == "first":
                center = sequences.time[rows[0]]
            elif window.around == "detection":
                first = plain_detection(data, sequences, rows)
                center = math.nan if first is None else sequences.time[first]
            stay = [row for row in rows if center - window.before <= sequences.time[row] <= center + window.after]
            counts["cuts.window"] += len(rows) - len(stay)
            rows = stay
        for number, clip in enumerate(data.cuts.sigma_clip):
            before = len(rows)
            for passband in (0, 1):
                band = [row for row in rows if sequences.passband[row] == passband]
                for _ in range(clip.iterations if band else 0):
                    value = {row: float(sequences.values[row, COLUMNS.index(clip.column)]) for row in band}
                    if not value:
                        break
                    median = statistics.median(value.values())
                    deviation = 1.4826 * statistics.median(abs(value[row] - median) for row in band)
                    band = [row for row in band if not (abs(value[row] - median) > clip.sigma * deviation > 0)]
                rows = [row for row in rows if sequences.passband[row] != passband or row in band]
            counts[f"cuts.sigma_clip[{number}]"] += before - len(rows)
        left[name] = [int(sequences.row_numbers[row]) for row in rows]
    return left, +counts


FLAGS = st.fixed_dictionaries(
    {"column": st.just("quality")},
    optional={
        "reject_bits": st.integers(1, 7),
        "require_bits": st.sampled_from([8, 16, 24]),
        "keep_values": st.lists(st.integers(0, 63), min_size=1, max_size=60),
    },
)
WINDOWS = st.fixed_dictionaries(
    {
        "around": st.sampled_from(["detection", "first", "alert"]),
        "before": st.integers(0, 200).map(lambda ticks: ticks * TICK_DAYS),
        "after": st.integers(0, 400).map(lambda ticks: ticks * TICK_DAYS),
    }
)
CLIPS = st.fixed_dictionaries(
    {
        "column": st.sampled_from(["flux", "flux_error"]),
        "sigma": st.sampled_from([0.3, 1.0, 2.0, 3.5]),
        "iterations": st.integers(1, 4),
    }
)
DETECTIONS = st.sampled_from([{"column": "detected"}, {"signal_to_noise": 2}, {"signal_to_noise": 40}])
CUTS = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.lists(FLAGS, max_size=2),
        "window": WINDOWS,
        "sigma_clip": st.lists(CLIPS, max_size=2),
    },
)


@settings(max_examples=200, deadline=None)
@given(surveys(longest=20), CUTS, DETECTIONS)
def test_cuts_are_what_plain_loops_leave(sequences: Sequences, chosen: dict, detection: dict) -> None:
    data = declared(cuts=chosen, detection=detection)
    left, counts = cuts.apply(data, SURVEY, sequences)
    expected, expected_counts = plain_cuts(data, sequences)
    assert rows_of(left) == expected
    found = Counter[str]()
    for reason, count in counts.items():
        found[reason.partition(":")[0]] += count
    assert found == expected_counts
    assert all(count > 0 for count in counts.values())
    assert_belongs_together(left, sequences)


@settings(max_examples=60, deadline=None)
@given(surveys(), CUTS, DETECTIONS, st.randoms(use_true_random=False))
def test_cuts_of_an_object_depend_on_it_alone(sequences: Sequences, chosen: dict, detection: dict, random) -> None:
    data = declared(cuts=chosen, detection=detection)
    order = list(range(len(sequences.ids)))
    random.shuffle(order)
    order = order[: random.randint(0, len(order))]
    alone, _ = cuts.apply(data, SURVEY, reordered(sequences, order))
    assert_equal(alone, reordered(cuts.apply(data, SURVEY, sequences)[0], order))


@settings(max_examples=60, deadline=None)
@given(
    surveys(longest=25),
    DETECTIONS,
    st.one_of(
        st.fixed_dictionaries({"flags": st.lists(FLAGS, min_size=1, max_size=2)}, optional={"window": WINDOWS}),
        st.fixed_dictionaries(
            {"sigma_clip": CLIPS.map(lambda clip: [clip | {"iterations": 100}])},
            optional={"flags": st.lists(FLAGS, max_size=1)},
        ),
    ),
)
def test_cuts_made_twice_are_cuts_made_once(sequences: Sequences, detection: dict, chosen: dict) -> None:
    """Holds for all but rounds of clipping that were broken off, and windows around what was then clipped."""
    data = declared(cuts=chosen, detection=detection)
    once, _ = cuts.apply(data, SURVEY, sequences)
    twice, counts = cuts.apply(data, SURVEY, once)
    assert_equal(twice, once)
    assert not counts


@settings(max_examples=60, deadline=None)
@given(surveys(), st.randoms(use_true_random=False))
def test_what_is_kept_stays_together(sequences: Sequences, random) -> None:
    objects = np.array([random.random() < 0.6 for _ in sequences.ids], dtype=bool)
    rows = np.array([random.random() < 0.6 for _ in sequences.time], dtype=bool)
    left = cuts.kept(sequences, objects, rows)
    assert rows_of(left) == {
        name: [number for number in numbers if rows[number - 100]]
        for (name, numbers), stays in zip(rows_of(sequences).items(), objects, strict=True)
        if stays
    }
    assert_belongs_together(left, sequences)
    assert left.offsets.dtype == np.int64 and left.files == sequences.files


def test_arrays_that_are_not_there_stay_away() -> None:
    absent = ("splits", "groups", "step_labels", "row_faults", "object_faults", "row_file", "object_file")
    sequences = replace(made([3, 4], 0), **dict.fromkeys(absent))
    left = cuts.kept(sequences, np.array([False, True]), np.ones(7, dtype=bool))
    assert all(getattr(left, name) is None for name in absent)
    assert left.offsets.tolist() == [0, 4]


def test_no_cuts_change_nothing() -> None:
    sequences = made([3, 0, 5], 1)
    left, counts = cuts.apply(declared(), SURVEY, sequences)
    assert_equal(left, sequences)
    assert not counts


@settings(max_examples=60, deadline=None)
@given(surveys(), DETECTIONS)
def test_a_detection_is_the_first_mark_of_its_object(sequences: Sequences, detection: dict) -> None:
    data = declared(detection=detection)
    expected = [
        plain_detection(data, sequences, list(range(start, stop)))
        for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    ]
    found = cuts.first_detected(data, SURVEY, sequences)
    assert found.tolist() == [-1 if row is None else row for row in expected]


def test_reasons_say_which_cut_it_was() -> None:
    sequences = made([8, 8, 8], 5)
    values = sequences.values.copy()
    values[:, 2] = [8, 4, *[0] * 22]
    values[:, 3] = [*[0] * 8, 0, 0, 0, 1, 0, 0, 0, 0, *[1] * 8]
    time = np.tile(np.arange(8.0), 3)
    data = declared(
        detection={"column": "detected"},
        cuts={
            "flags": [{"column": "quality", "reject_bits": 8}, {"column": "quality", "keep_values": [0, 8]}],
            "window": {"around": "detection", "before": 1, "after": 4},
        },
    )
    _, counts = cuts.apply(data, SURVEY, replace(sequences, values=values, time=time))
    assert counts == {
        "cuts.flags[0]: quality has a bit of 8": 1,
        "cuts.flags[1]: quality is none of 0, 8": 1,
        "cuts.window: object without detection": 6,
        "cuts.window: beyond 1 before to 4 after detection": 2 + 3,
    }


def test_a_clip_without_spread_leaves_nothing_out() -> None:
    sequences = made([5], 0)
    values = sequences.values.copy()
    values[:, 0] = [1, 1, 1, 1, 99]  # the median absolute deviation is 0
    sequences = replace(sequences, values=values, passband=np.zeros(5, dtype=np.int64))
    data = declared(cuts={"sigma_clip": [{"column": "flux", "sigma": 3}]})
    left, counts = cuts.apply(data, SURVEY, sequences)
    assert len(left.time) == 5 and not counts


def test_bits_of_a_fraction_are_refused() -> None:
    sequences = made([3, 2], 0)
    values = sequences.values.copy()
    values[4, 2] = 1.5
    data = declared(cuts={"flags": [{"column": "quality", "reject_bits": 8}]})
    with pytest.raises(JaxrnnError, match=r"first\.csv: object object 1, row 104: quality is 1\.5; expected a whole"):
        cuts.apply(data, SURVEY, replace(sequences, values=values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detection": {"column": "detectd"}}, r"detection\.column: .* did you mean 'detected'.*quality, detected"),
        ({"detection": {"column": "flux"}}, r"detection\.column: this survey has no column of marks 'flux'"),
        ({"cuts": {"flags": [{"column": "quality"}]}}, r"cuts\.flags\[0\]: leaves nothing out"),
        ({"cuts": {"flags": [{"column": "flux", "reject_bits": 1}]}}, r"cuts\.flags\[0\]\.column: .* 'flux'"),
        (
            {"cuts": {"flags": [{"column": "quality", "reject_bits": 6, "require_bits": 12}]}},
            r"cuts\.flags\[0\]: 4 stands in",
        ),
        ({"cuts": {"flags": [{"column": "quality", "reject_bits": 2**60}]}}, r"cuts\.flags\[0\]: bits beyond"),
        ({"cuts": {"window": {"around": "alrt", "before": 1, "after": 1}}}, r"around: .* did you mean 'alert'"),
        ({"cuts": {"window": {"around": "flux", "before": 1, "after": 1}}}, r"around: .*\(alert, redshift\)"),
        (
            {"cuts": {"window": {"around": "detection", "before": 1, "after": 1}}},
            r"around: `detection` needs data\.detection",
        ),
        ({"cuts": {"sigma_clip": [{"column": "mag", "sigma": 3}]}}, r"sigma_clip\[0\]\.column: .* no column 'mag'"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(changes: dict, message: str) -> None:
    with pytest.raises(JaxrnnError, match=message):
        cuts.check(declared(**changes), SURVEY)


def test_a_ratio_needs_errors() -> None:
    with pytest.raises(JaxrnnError, match=r"signal_to_noise: needs a column with a column of its errors .* are value"):
        cuts.check(declared(detection={"signal_to_noise": 5}), Survey(columns=(Column("value"), Column("error"))))
