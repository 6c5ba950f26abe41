"""Observations left out by choice: quality flags, a window of time, outliers; each cut counted by its reason.

Longest sequences (`cuts.max_steps`) are cut by `jaxrnn.features`, which knows what a step is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from jaxrnn.config import Data, FlagCut, SigmaClip, Window
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import Sequences, Survey

# Whole numbers below this are exact in the float64 of `Sequences.values`.
EXACT = 2**53
# Standard deviations in one median absolute deviation of normal values.
MAD_TO_SIGMA = 1.4826

PER_OBJECT = ("ids", "labels", "metadata", "splits", "groups", "object_faults", "object_file")
PER_ROW = ("time", "values", "passband", "row_numbers", "step_labels", "row_faults", "row_file")


def check(data: Data, survey: Survey) -> None:
    """Raises JaxrnnError where `data.detection` or `data.cuts` asks for what the survey doesn't have."""
    columns = [column.name for column in survey.columns]
    if data.detection is not None and data.detection.column is not None:
        _check_column("data.detection.column", data.detection.column, survey.flag_columns, "column of marks")
    if data.detection is not None and data.detection.signal_to_noise is not None and not errors_of(survey):
        raise JaxrnnError(
            "data.detection.signal_to_noise: needs a column with a column of its errors (`flux` with `flux_error`), "
            f"and this survey has none; its columns are {listed(columns, 20)}. Use `column` with a column of 0/1 marks"
        )
    for index, flag in enumerate(data.cuts.flags):
        place = f"data.cuts.flags[{index}]"
        _check_column(f"{place}.column", flag.column, survey.flag_columns, "column of marks")
        _check_bits(place, flag)
    if data.cuts.window is not None:
        _check_window(data, survey, data.cuts.window)
    for index, clip in enumerate(data.cuts.sigma_clip):
        _check_column(f"data.cuts.sigma_clip[{index}].column", clip.column, columns, "column")


def _check_column(place: str, name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise JaxrnnError(
            f"{place}: this survey has no {what} '{name}'{nearest(name, known)}; it has {listed(known, 20) or 'none'}"
        )


def _check_bits(place: str, flag: FlagCut) -> None:
    reject, require = flag.reject_bits or 0, flag.require_bits or 0
    if not (reject or require or flag.keep_values):
        raise JaxrnnError(
            f"{place}: leaves nothing out; expected one of `reject_bits`, `require_bits` and `keep_values` beside "
            "`column`"
        )
    if reject & require:
        raise JaxrnnError(
            f"{place}: {reject & require} stands in `reject_bits` and in `require_bits`, which leaves every "
            "observation out; a bit has one of these places"
        )
    if max(reject, require) >= EXACT:
        raise JaxrnnError(f"{place}: bits beyond 2^52 are not kept exactly when a survey is read; expected lower ones")


def _check_window(data: Data, survey: Survey, window: Window) -> None:
    if window.around == "detection" and data.detection is None:
        raise JaxrnnError(
            "data.cuts.window.around: `detection` needs data.detection, which says what counts as one: "
            "`detection: {signal_to_noise: 5}`"
        )
    known = ["detection", "first", *(column.name for column in survey.metadata)]
    if window.around not in known:
        raise JaxrnnError(
            f"data.cuts.window.around: there is no '{window.around}'{nearest(window.around, known)}; expected "
            f"`detection`, `first` or a column of this survey's metadata ({listed(known[2:], 20) or 'it has none'})"
        )


def errors_of(survey: Survey) -> dict[str, str]:
    """Returns the column of errors of each column that has one: `x_error` of `x`."""
    names = [column.name for column in survey.columns]
    return {name: f"{name}_error" for name in names if f"{name}_error" in survey.error_columns}


def owners(sequences: Sequences) -> np.ndarray:
    """Returns which object each row belongs to, [row] int64."""
    return np.repeat(np.arange(len(sequences.ids)), np.diff(sequences.offsets))


def kept(sequences: Sequences, objects: np.ndarray, rows: np.ndarray) -> Sequences:
    """Returns the objects and rows where the masks [object] and [row] are True; an object's rows go with it.

    An object that keeps no row stays, with length 0.
    """
    if objects.all() and rows.all():
        return sequences
    owner = owners(sequences)
    rows = rows & objects[owner]
    lengths = np.bincount(owner[rows], minlength=len(sequences.ids))[objects]
    masks = dict.fromkeys(PER_OBJECT, objects) | dict.fromkeys(PER_ROW, rows)
    arrays = {name: (getattr(sequences, name), mask) for name, mask in masks.items()}
    return replace(
        sequences,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **{name: array[mask] for name, (array, mask) in arrays.items() if array is not None},
    )


def without_emptied(sequences: Sequences) -> tuple[Sequences, np.ndarray]:
    """Returns the sequences that have an observation left, and the ids of the others, [object] str."""
    left = np.diff(sequences.offsets) > 0
    return kept(sequences, left, np.ones(len(sequences.time), dtype=bool)), sequences.ids[~left]


def first_detected(data: Data, survey: Survey, sequences: Sequences) -> np.ndarray:
    """Returns the row of each object's first detected observation, [object] int64; -1 where none is detected.

    The sequences are sorted by time; `data.detection` says what counts.
    """
    assert data.detection is not None
    index = {column.name: place for place, column in enumerate(survey.columns)}
    values = sequences.values
    if data.detection.column is not None:
        detected = values[:, index[data.detection.column]] != 0
    else:
        threshold = data.detection.signal_to_noise
        detected = np.zeros(len(sequences.time), dtype=bool)
        for name, error in errors_of(survey).items():
            detected |= values[:, index[name]] > threshold * values[:, index[error]]
    rows = np.flatnonzero(detected)
    following = np.append(rows, len(detected))[np.searchsorted(rows, sequences.offsets[:-1])]
    return np.where(following < sequences.offsets[1:], following, -1)


def apply(data: Data, survey: Survey, sequences: Sequences) -> tuple[Sequences, Counter[str]]:
    """Returns the sequences without the observations that `data.cuts` leaves out, and how many went for which reason.

    The sequences are sorted by time and free of faulty rows, their metadata the survey's columns. Flags come first,
    then the window, then outliers: each cut sees what those before it left. An object without a detection, or whose
    metadata has no time, lies outside of every window around it. Objects that lose every observation stay, with
    length 0. Raises JaxrnnError where bits are asked of a value that is no whole number.
    """
    counts = Counter[str]()
    for cut in _cuts(data, survey):
        out = np.zeros(len(sequences.time), dtype=bool)
        for reason, rows in cut(sequences):
            if count := int((rows & ~out).sum()):
                counts[reason] += count
                out |= rows
        sequences = kept(sequences, np.ones(len(sequences.ids), dtype=bool), ~out)
    return sequences, counts


def _cuts(data: Data, survey: Survey) -> Iterator[Callable[[Sequences], Iterator[tuple[str, np.ndarray]]]]:
    """Yields the cuts in their order; each takes sequences and yields reasons with the rows [row] that go for them."""
    index = {column.name: place for place, column in enumerate(survey.columns)}
    for number, flag in enumerate(data.cuts.flags):
        yield partial(_flagged, f"cuts.flags[{number}]", flag, index[flag.column])
    if data.cuts.window is not None:
        yield partial(_outside, data, survey, data.cuts.window)
    for number, clip in enumerate(data.cuts.sigma_clip):
        yield partial(_outlying, f"cuts.sigma_clip[{number}]", clip, index[clip.column], survey)


def _flagged(place: str, flag: FlagCut, column: int, sequences: Sequences) -> Iterator[tuple[str, np.ndarray]]:
    values = sequences.values[:, column]
    if flag.reject_bits is not None or flag.require_bits is not None:
        bits = _whole(place, flag.column, values, sequences)
        if flag.reject_bits is not None:
            yield f"{place}: {flag.column} has a bit of {flag.reject_bits}", (bits & flag.reject_bits) != 0
        if flag.require_bits is not None:
            missing = (bits & flag.require_bits) != flag.require_bits
            yield f"{place}: {flag.column} lacks a bit of {flag.require_bits}", missing
    if flag.keep_values:
        wanted = listed([f"{value:.15g}" for value in flag.keep_values])
        yield f"{place}: {flag.column} is none of {wanted}", ~np.isin(values, flag.keep_values)


def _whole(place: str, name: str, values: np.ndarray, sequences: Sequences) -> np.ndarray:
    """Returns a column of marks as int64."""
    broken = np.flatnonzero((values != np.floor(values)) | (np.abs(values) >= EXACT))
    if len(broken):
        row = broken[0]
        owner = np.searchsorted(sequences.offsets, row, side="right") - 1
        file = sequences.files[0 if sequences.row_file is None else sequences.row_file[row]]
        raise JaxrnnError(
            f"{file}: object {sequences.ids[owner]}, row {sequences.row_numbers[row]}: {name} is {values[row]:.15g}; "
            f"expected a whole number below 2^53, whose bits data.{place} asks for; mend the file, or use `keep_values`"
        )
    return values.astype(np.int64)


def _outside(data: Data, survey: Survey, window: Window, sequences: Sequences) -> Iterator[tuple[str, np.ndarray]]:
    # an object of length 0 at the end has no first row to look at; its time is never used
    time = np.append(sequences.time, np.nan)
    if window.around == "detection":
        center = np.where((row := first_detected(data, survey, sequences)) >= 0, time[row], np.nan)
    elif window.around == "first":
        center = time[sequences.offsets[:-1]]
    else:
        center = sequences.metadata[:, [column.name for column in survey.metadata].index(window.around)]
    since = sequences.time - center[owners(sequences)]
    yield f"cuts.window: object without {window.around}", np.isnan(since)
    yield (
        f"cuts.window: beyond {window.before:g} before to {window.after:g} after {window.around}",
        (since < -window.before) | (since > window.after),
    )


def _outlying(
    place: str, clip: SigmaClip, column: int, survey: Survey, sequences: Sequences
) -> Iterator[tuple[str, np.ndarray]]:
    values = sequences.values[:, column]
    groups = owners(sequences) * max(len(survey.passbands), 1) + sequences.passband
    out = np.zeros(len(values), dtype=bool)
    rows = np.arange(len(values))
    for _ in range(clip.iterations):
        distance = np.abs(values[rows] - _medians(values[rows], groups[rows]))
        deviation = MAD_TO_SIGMA * _medians(distance, groups[rows])
        beyond = (distance > clip.sigma * deviation) & (deviation > 0)
        out[rows[beyond]] = True
        # only a group that lost a row can lose another
        rows = rows[~beyond & np.isin(groups[rows], groups[rows[beyond]])]
    yield f"{place}: {clip.column} beyond {clip.sigma:g} sigma", out


def _medians(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns for each value the median of all values in its group."""
    order = np.lexsort((values, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    counts = np.diff(starts, append=len(values))
    ranked = values[order]
    medians = (ranked[starts + (counts - 1) // 2] + ranked[starts + counts // 2]) / 2
    result = np.empty(len(values))
    result[order] = np.repeat(medians, counts)
    return result
