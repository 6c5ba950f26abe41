"""From observations to steps and features: what the `data` section declares, computed the same way for every survey."""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from jaxrnn import cuts
from jaxrnn.config import Cuts, Data, Feature
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import Sequences, Survey

DETECTION = "time_since_detection"
TIME_FEATURES = ("time", "time_since_first", "time_difference", DETECTION)


@dataclass(frozen=True)
class FeatureColumn:
    """One column of the network's input. jaxrnn.shards stores these fields as attributes, by these names.

    name, unit: after scaling. kind: `time`, `time_since_first`, `time_difference`, `time_since_detection`, `passband`,
    `value` or `error`. column: the survey's column (`flux`), "" where it comes from none. passband: the one that it is
    of, "" where of none. source: index into `data.features`. indicator: a 0/1 column, which is never normalised.
    """

    name: str
    unit: str
    kind: str
    column: str
    passband: str
    source: int
    indicator: bool


@dataclass(frozen=True)
class Steps:
    """The steps of many sequences.

    offsets: [sequence + 1] int64. time: [step] float64. features: [step, input] float32, NaN where a night has no
    observation in a passband. step_labels: [step] str, of a night that of its first observation; None where the survey
    has none. cut: how many observations stand in steps that `cuts.max_steps` left out, by reason.
    """

    offsets: np.ndarray
    time: np.ndarray
    features: np.ndarray
    step_labels: np.ndarray | None
    cut: Counter[str]


def check(data: Data, survey: Survey) -> None:
    """Raises JaxrnnError where `data` asks for what the survey doesn't have, or for what can't be computed."""
    _check_magnitudes(_check_features(data, survey), survey)
    if data.steps == "night" and not survey.passbands:
        raise JaxrnnError(
            "data.steps: `night` puts passbands side by side, and this survey has none; use `observation`"
        )
    names = [column.name for column in describe(data, survey)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise JaxrnnError(
            f"data.features: two inputs would be called '{twice[0]}': this survey has a column of that name, and "
            "another one, or `passband`, gives it by `<name>_<passband>`; leave one of them out"
        )
    cuts.check(data, survey)
    names = [column.name for column in survey.metadata]
    for key, wanted in (("metadata", data.metadata), ("evaluation", data.evaluation)):
        for name in wanted:
            if name not in names:
                raise JaxrnnError(
                    f"data.{key}: this survey has no '{name}'{nearest(name, names)}; "
                    f"it has {listed(names, 20) or 'none'}"
                )
    known_to_none = [name for name in data.metadata if name in survey.truth]
    if known_to_none:
        raise JaxrnnError(
            f"data.metadata: no observer knows {listed(known_to_none)}, so that no network may see it; name it in "
            "`data.evaluation`, where scores are to be measured against it"
        )


def _check_features(data: Data, survey: Survey) -> dict[str, Feature]:
    """Returns the feature that asks for each of the survey's columns."""
    columns = [column.name for column in survey.columns]
    known = [*TIME_FEATURES, *columns, *(["passband"] if survey.passbands else [])]
    asked: dict[str, Feature] = {}
    for feature in data.features:
        if feature.name == DETECTION and data.detection is None:
            raise JaxrnnError(
                f"data.features: `{DETECTION}` needs data.detection, which says what counts as one: "
                "`detection: {signal_to_noise: 5}`"
            )
        matched = _matched(feature, survey)
        if not matched and feature.name not in known:
            raise JaxrnnError(
                f"data.features: this survey has no '{feature.name}'{nearest(feature.name, known)}; it has "
                f"{listed(known, 20)}"
            )
        if not matched and feature.scaling != "none":
            raise JaxrnnError(
                f"data.features: '{feature.name}' takes no scaling; only the survey's columns do "
                f"({listed(columns, 20)})"
            )
        for name in matched:
            if name in asked:
                raise JaxrnnError(
                    f"data.features: '{name}' is asked for twice, by '{asked[name].name}' and by '{feature.name}'; "
                    "expected every column once"
                )
            asked[name] = feature
    return asked


def _check_magnitudes(asked: dict[str, Feature], survey: Survey) -> None:
    errors = cuts.errors_of(survey)
    for name, feature in asked.items():
        if feature.scaling == "magnitude" and name in survey.error_columns and name not in errors.values():
            raise JaxrnnError(
                f"data.features: '{name}' is an error, and `magnitude` needs the flux that it belongs to; this survey "
                f"has no '{name.removesuffix('_error')}' beside it. Use another scaling, `log` for one"
            )
        error = asked.get(errors.get(name, ""))
        if error is not None and (feature.scaling == "magnitude") != (error.scaling == "magnitude"):
            raise JaxrnnError(
                f"data.features: '{name}' has `scaling: {feature.scaling}` and its errors '{errors[name]}' have "
                f"`scaling: {error.scaling}`; expected `magnitude` for both or for neither, so that the errors are "
                "those of what the network sees"
            )


def _matched(feature: Feature, survey: Survey) -> list[str]:
    """Returns the survey's columns that a feature's name stands for, in the survey's order; `*` is any text."""
    if feature.name in TIME_FEATURES or (feature.name == "passband" and survey.passbands):
        return []
    pattern = re.compile(".*".join(re.escape(text) for text in feature.name.split("*")), re.DOTALL)
    return [column.name for column in survey.columns if pattern.fullmatch(column.name)]


def positive(data: Data, survey: Survey) -> set[str]:
    """Returns the columns that must be positive: those whose logarithm, or whose magnitude, is asked for."""
    fluxes = {error: name for name, error in cuts.errors_of(survey).items()}
    result: set[str] = set()
    for feature in data.features:
        if feature.scaling in ("log", "magnitude"):
            result.update(_matched(feature, survey))
        if feature.scaling == "magnitude":
            result.update(fluxes[name] for name in _matched(feature, survey) if name in fluxes)
    return result


def describe(data: Data, survey: Survey) -> tuple[FeatureColumn, ...]:
    """Returns what `make` writes into each column of `Steps.features`."""
    units = {column.name: column.unit for column in survey.columns}
    found: list[FeatureColumn] = []
    for source, feature in enumerate(data.features):
        name = feature.name
        if name in TIME_FEATURES:
            found.append(FeatureColumn(name, survey.time_unit, name, "", "", source, False))
        elif name == "passband" and survey.passbands:
            found += [FeatureColumn(f"passband_{b}", "", name, "", b, source, True) for b in survey.passbands]
        else:
            for column in _matched(feature, survey):
                kind = "error" if column in survey.error_columns else "value"
                unit = _scaled_unit(feature, units[column])
                for band in survey.passbands if data.steps == "night" else ("",):
                    full = f"{column}_{band}" if band else column
                    found.append(FeatureColumn(full, unit, kind, column, band, source, False))
    return tuple(found)


def make(data: Data, survey: Survey, sequences: Sequences) -> Steps:
    """Returns the declared features of sequences whose observations are sorted by time and free of faults.

    A night's time is the mean of its observations'; where it has several in a passband, a column with a column of
    errors becomes the mean weighted by inverse variance, its error that of this mean, every other column the plain
    mean. Scalings come after.

    A detection belongs to the object: `time_since_detection` is measured from the step with the first detected
    observation, also where `cuts.max_steps` leaves that step out. An object that is never detected is measured from
    its last step, so that every value is at most 0, as before a detection. `time_since_first` and `time_difference`
    are measured on the steps that are left. Raises JaxrnnError where a feature is beyond single precision.
    """
    begins = _begins_step(data, sequences)
    step_of_row = np.cumsum(begins) - 1
    first_rows = np.flatnonzero(begins)
    offsets = np.searchsorted(first_rows, sequences.offsets)
    columns = describe(data, survey)
    if data.steps == "night":
        time = _night_times(sequences, step_of_row, first_rows)
        seen, values = _nights(survey, sequences, step_of_row, columns)
    else:
        time = sequences.time
        seen = sequences.passband[:, None] == np.arange(len(survey.passbands))
        values = {column.name: sequences.values[:, [index]] for index, column in enumerate(survey.columns)}
    clocks = {"time": time}
    if any(column.kind == DETECTION for column in columns):
        clocks[DETECTION] = time - time[_detection_steps(data, survey, sequences, step_of_row, offsets)]

    left = _left(data.cuts, offsets)
    cut = Counter[str]()
    if not left.all():
        cut[f"cuts.max_steps: beyond {data.cuts.max_steps}, keep {data.cuts.keep}"] = int((~left[step_of_row]).sum())
        offsets = np.concatenate([[0], np.cumsum(left)])[offsets]
        clocks = {name: clock[left] for name, clock in clocks.items()}
        values = {name: table[left] for name, table in values.items()}
        seen, first_rows = seen[left], first_rows[left]
    starts = np.repeat(offsets[:-1], np.diff(offsets))
    time = clocks["time"]
    clocks["time_since_first"] = time - time[starts]
    clocks["time_difference"] = np.where(np.arange(len(time)) == starts, 0.0, np.diff(time, prepend=0.0))

    features = np.empty((len(time), len(columns)), dtype=np.float32)
    fluxes = {error: name for name, error in cuts.errors_of(survey).items()}
    with np.errstate(over="ignore"):  # told by `_check_finite`
        for index, column in enumerate(columns):
            name = column.column
            place = survey.passbands.index(column.passband) if column.passband else 0
            if column.kind in clocks:
                features[:, index] = clocks[column.kind]
            elif column.kind == "passband":
                features[:, index] = seen[:, place]
            else:
                flux = values[fluxes[name]][:, place] if name in fluxes else None
                features[:, index] = _scaled(data.features[column.source], values[name][:, place], flux)
    _check_finite(features, offsets, sequences, columns)
    labels = None if sequences.step_labels is None else sequences.step_labels[first_rows]
    return Steps(offsets, time, features, labels, cut)


def _begins_step(data: Data, sequences: Sequences) -> np.ndarray:
    """Returns whether a step begins with the observation, [row] bool."""
    if data.steps == "observation":
        return np.ones(len(sequences.time), dtype=bool)
    begins = np.diff(sequences.time, prepend=-np.inf) > data.night_gap
    begins[sequences.offsets[:-1][np.diff(sequences.offsets) > 0]] = True
    return begins


def _night_times(sequences: Sequences, night_of_row: np.ndarray, first_rows: np.ndarray) -> np.ndarray:
    # measured from the night's first observation, so that times of 5e4 days keep their digits
    first = sequences.time[first_rows]
    since = np.bincount(night_of_row, sequences.time - first[night_of_row], minlength=len(first))
    return first + since / np.bincount(night_of_row, minlength=len(first))


def _nights(
    survey: Survey, sequences: Sequences, night_of_row: np.ndarray, columns: tuple[FeatureColumn, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns which passbands a night has, [night, passband] bool, and the values of the columns that the features
    are made of, [night, passband], NaN where it has not the passband."""
    nights, bands = (int(night_of_row[-1]) + 1 if len(night_of_row) else 0), len(survey.passbands)
    cells = night_of_row * bands + sequences.passband
    index = {column.name: place for place, column in enumerate(survey.columns)}
    errors = cuts.errors_of(survey)
    fluxes = {error: name for name, error in errors.items()}

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cells, weights, minlength=nights * bands)

    count = total()
    values: dict[str, np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # cells without an observation
        for name in {fluxes.get(name, name) for name in (column.column for column in columns) if name}:
            column = sequences.values[:, index[name]]
            if name not in errors:
                values[name] = total(column) / count
                continue
            error = sequences.values[:, index[errors[name]]]
            # weights are relative to the cell's smallest error: the square of a tiny one is no number
            smallest = np.full(nights * bands, np.inf)
            np.minimum.at(smallest, cells, error)
            weights = (smallest[cells] / error) ** 2
            values[name] = total(weights * column) / total(weights)
            values[errors[name]] = np.where(count > 0, smallest / np.sqrt(total(weights)), np.nan)
    shape = nights, bands
    return (count > 0).reshape(shape), {name: table.reshape(shape) for name, table in values.items()}


def _detection_steps(
    data: Data, survey: Survey, sequences: Sequences, step_of_row: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Returns for each step the one with its object's first detection, the last one where nothing is detected."""
    owner = np.repeat(np.arange(len(sequences.ids)), np.diff(offsets))
    rows = cuts.first_detected(data, survey, sequences)[owner]
    return np.where(rows >= 0, step_of_row[rows], offsets[1:][owner] - 1)


def _left(limits: Cuts, offsets: np.ndarray) -> np.ndarray:
    """Returns which steps `max_steps` and `keep` leave, [step] bool."""
    lengths, most = np.diff(offsets), limits.max_steps
    left = np.ones(offsets[-1], dtype=bool)
    if most is None:
        return left
    too_long = lengths > most
    long_lengths = lengths[too_long, None]
    if limits.keep == "even":
        # rounded places of `most` points from the first step to the last, halves up
        gaps = max(most - 1, 1)
        places = (2 * np.arange(most) * (long_lengths - 1) + gaps) // (2 * gaps)
    else:
        places = np.arange(most) + (long_lengths - most if limits.keep == "last" else 0)
    left[np.repeat(too_long, lengths)] = False
    left[offsets[:-1][too_long, None] + places] = True
    return left


def _scaled(feature: Feature, values: np.ndarray, flux: np.ndarray | None) -> np.ndarray:
    """Returns scaled values; flux: what they are the errors of, None where they are none."""
    if feature.scaling == "asinh":
        return np.arcsinh(values / feature.softening)
    if feature.scaling == "log":
        return np.log(values)
    if feature.scaling == "magnitude":
        return feature.zero_point - 2.5 * np.log10(values) if flux is None else 2.5 / np.log(10) * (values / flux)
    return values


def unscaled(feature: Feature, values: np.ndarray) -> np.ndarray:
    """Returns what `make` scaled, of a column that holds no errors: values in the survey's unit, to the single
    precision of features."""
    values = values.astype(np.float64)
    if feature.scaling == "asinh":
        return feature.softening * np.sinh(values)
    if feature.scaling == "log":
        return np.exp(values)
    if feature.scaling == "magnitude":
        return 10 ** ((feature.zero_point - values) / 2.5)
    return values


def _scaled_unit(feature: Feature, unit: str) -> str:
    if feature.scaling == "asinh":
        return f"asinh of {feature.softening:g} {unit}".strip()
    if feature.scaling == "log":
        return f"log of {unit}".strip()
    return "mag" if feature.scaling == "magnitude" else unit


def _check_finite(
    features: np.ndarray, offsets: np.ndarray, sequences: Sequences, columns: tuple[FeatureColumn, ...]
) -> None:
    if not np.isinf(features).any():
        return
    step, column = np.argwhere(np.isinf(features))[0]
    owner = np.searchsorted(offsets, step, side="right") - 1
    file = sequences.files[0 if sequences.object_file is None else sequences.object_file[owner]]
    raise JaxrnnError(
        f"{file}: object {sequences.ids[owner]}, step {step - offsets[owner]}: the input "
        f"'{columns[column].name}' is beyond single precision (3.4e38), though no value in the survey is; "
        "expected values that data.features makes numbers of: look at this object in the survey, and at `softening` "
        "where the scaling is asinh"
    )
