"""From observations to steps and features: what the `data` section declares, computed the same way for every survey."""

from dataclasses import dataclass

import numpy as np

from jaxrnn.config import Data, Feature
from jaxrnn.errors import JaxrnnError, listed, nearest
from jaxrnn.readers import Column, Sequences, Survey

TIME_FEATURES = ("time", "time_since_first", "time_difference")


@dataclass(frozen=True)
class Steps:
    """The steps of many sequences: offsets [sequence + 1], time [step], features [step, feature] (NaN where absent)."""

    offsets: np.ndarray
    time: np.ndarray
    features: np.ndarray


def check(data: Data, survey: Survey) -> None:
    """Raises JaxrnnError where `data` asks for what the survey doesn't have."""
    columns = [column.name for column in survey.columns]
    known = [*TIME_FEATURES, *columns, *(["passband"] if survey.passbands else [])]
    for feature in data.features:
        if feature.name not in known:
            raise JaxrnnError(
                f"data.features: this survey has no '{feature.name}'{nearest(feature.name, known)}; it has "
                f"{listed(known, 20)}"
            )
        if feature.scaling != "none" and feature.name not in columns:
            raise JaxrnnError(
                f"data.features: '{feature.name}' takes no scaling; only the survey's columns do ({listed(columns)})"
            )
    names = [column.name for column in survey.metadata]
    for name in data.metadata:
        if name not in names:
            raise JaxrnnError(
                f"data.metadata: this survey has no '{name}'{nearest(name, names)}; "
                f"it has {listed(names, 20) or 'none'}"
            )
    if data.steps == "night" and not survey.passbands:
        raise JaxrnnError(
            "data.steps: `night` puts passbands side by side, and this survey has none; use `observation`"
        )


def describe(data: Data, survey: Survey) -> tuple[tuple[Column, ...], np.ndarray]:
    """Returns the features' names and units, and which of them are 0/1 indicators, in the order that `steps` writes."""
    units = {column.name: column.unit for column in survey.columns} | dict.fromkeys(TIME_FEATURES, survey.time_unit)
    columns: list[Column] = []
    indicators: list[bool] = []
    for feature in data.features:
        if feature.name == "passband":
            names = [f"passband_{band}" for band in survey.passbands]
        elif data.steps == "night" and feature.name not in TIME_FEATURES:
            names = [f"{feature.name}_{band}" for band in survey.passbands]
        else:
            names = [feature.name]
        columns += [Column(name, _scaled_unit(feature, units.get(feature.name, ""))) for name in names]
        indicators += [feature.name == "passband"] * len(names)
    return tuple(columns), np.array(indicators)


def make(data: Data, survey: Survey, sequences: Sequences) -> Steps:
    """Returns the declared features of sequences whose observations are sorted by time and free of faults."""
    by_night = data.steps == "night"
    observations = _nights(data, survey, sequences) if by_night else _observations(survey, sequences)
    offsets, time, values, presence = observations
    starts = np.repeat(offsets[:-1], np.diff(offsets))
    first = np.arange(len(time)) == starts
    clocks = {
        "time": time,
        "time_since_first": time - time[starts] if len(time) else time,
        "time_difference": np.where(first, 0.0, np.diff(time, prepend=0.0)),
    }
    columns = {column.name: index for index, column in enumerate(survey.columns)}
    blocks = []
    for feature in data.features:
        if feature.name in clocks:
            blocks.append(clocks[feature.name][:, None])
        elif feature.name == "passband":
            blocks.append(presence.astype(np.float64))
        else:
            blocks.append(_scaled(feature, values[:, columns[feature.name]]))
    features = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(time), 0))
    return Steps(offsets, time, features.astype(np.float32))


def _observations(survey: Survey, sequences: Sequences) -> tuple[np.ndarray, ...]:
    """Returns offsets, time, values [step, column, 1] and one-hot passbands [step, passband]: a step an observation."""
    presence = sequences.passband[:, None] == np.arange(len(survey.passbands))[None, :]
    return sequences.offsets, sequences.time, sequences.values[:, :, None], presence


def _nights(data: Data, survey: Survey, sequences: Sequences) -> tuple[np.ndarray, ...]:
    """Returns offsets, mean time, values [night, column, passband] and which passbands a night has.

    Where a passband was observed several times in a night, a column with a twin `<column>_error` is the mean weighted
    by inverse variance, its error that of this mean; every other column is the plain mean.
    """
    rows, bands = len(sequences.time), len(survey.passbands)
    starts_object = np.zeros(rows, dtype=bool)
    starts_object[sequences.offsets[:-1][np.diff(sequences.offsets) > 0]] = True
    new_night = starts_object | (np.diff(sequences.time, prepend=-np.inf) > data.night_gap)
    night = np.cumsum(new_night) - 1
    nights = int(night[-1]) + 1 if rows else 0
    cumulative = np.concatenate([[0], np.cumsum(new_night)])
    offsets = cumulative[sequences.offsets]
    counts = np.bincount(night, minlength=nights)
    # measured from the night's first observation, so that times of 5e4 days keep their digits
    first = sequences.time[new_night]
    time = first + np.bincount(night, sequences.time - first[night], minlength=nights) / np.maximum(counts, 1)
    cell = night * bands + sequences.passband
    present = np.bincount(cell, minlength=nights * bands)
    names = [column.name for column in survey.columns]
    values = np.full((nights * bands, len(names)), np.nan)
    seen = present > 0
    for index, name in enumerate(names):
        error = f"{name}_error"
        if name in survey.error_columns and name.removesuffix("_error") in names:
            precision = np.bincount(cell, sequences.values[:, index] ** -2, minlength=nights * bands)
            values[seen, index] = precision[seen] ** -0.5
        else:
            weight = sequences.values[:, names.index(error)] ** -2 if error in names else np.ones(rows)
            total = np.bincount(cell, weight, minlength=nights * bands)
            weighted = np.bincount(cell, weight * sequences.values[:, index], minlength=nights * bands)
            values[seen, index] = weighted[seen] / total[seen]
    values = values.reshape(nights, bands, len(names)).swapaxes(1, 2)
    return offsets, time, values, seen.reshape(nights, bands)


def _scaled(feature: Feature, values: np.ndarray) -> np.ndarray:
    if feature.scaling == "asinh":
        return np.arcsinh(values / feature.softening)
    return np.log(values) if feature.scaling == "log" else values


def _scaled_unit(feature: Feature, unit: str) -> str:
    if feature.scaling == "asinh":
        return f"asinh of {feature.softening:g} {unit}".strip()
    return f"log of {unit}".strip() if feature.scaling == "log" else unit
