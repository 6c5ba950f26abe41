"""Augmentation: training sequences changed as they are used, inside the compiled step, each time anew.

A sequence's draws follow from the trial's seed, the epoch and the object, so that they depend on no batch and no
companion. The changes come in this order: truncation, dropped passbands, dropped steps, noise, time shift. What is left
looks like a sequence that was observed that way, as far as its features tell: differences of time are taken between the
steps that are left and times since the first one from the first that is left, and columns that are normalised by
sequence are normalised again. What features can't tell stays as it is: `time_since_detection` keeps its detection, and
a night that loses some of its passbands its mean time.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv
from jaxtyping import Array

from jaxrnn import results
from jaxrnn.batches import Bucket
from jaxrnn.config import Augmentation, Data, Feature
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.splits import Statistics

# Columns that move with the object's dates.
SHIFTED = ("time", "time_since_first", "time_since_detection")
# A spread of less than this share of the whole sequence's deviation is rounding.
ROUNDING = 1e-5


class Draws(NamedTuple):
    """What one sequence's changes are made of, uniform in [0, 1) but for `noise`, which is standard normal.

    cut: [2], whether to truncate and where. shift: a number. passbands: [passband]. steps: [step]. noise: [step, pair],
    for the steps that are left.
    """

    cut: Array
    shift: Array
    passbands: Array
    steps: Array
    noise: Array


class Pair(NamedTuple):
    """A column of values and its column of errors; presence: the column that marks their passband, None where they are
    always there."""

    value: int
    error: int
    presence: int | None


@dataclass(frozen=True)
class Columns:
    """The features' columns. mean, deviation: [feature] float32, as in `Statistics`, or [fold, feature] of several
    folds. presence: of a column that belongs to a passband, the column that marks it. by_sequence: those normalised by
    each sequence's own mean and deviation."""

    kinds: list[str]
    features: list[Feature]
    mean: Any
    deviation: Any
    bands: list[int]
    presence: dict[int, int]
    by_sequence: list[int]
    pairs: list[Pair]

    def raw(self, values: Array, column: int) -> Array:
        return values * self.deviation[column] + self.mean[column]

    def normalised(self, values: Array, column: int) -> Array:
        return (values - self.mean[column]) / self.deviation[column]


@dataclass(frozen=True)
class Augmenter:
    """The changes that `settings`, not all 0, ask for."""

    settings: Augmentation
    columns: Columns
    labels_by_step: bool = False

    def __call__(self, batch: Bucket, key: Array, fold: Any = 0) -> Bucket:
        """Returns a batch with its sequences changed, step labels with their steps; key: of the trial's epoch. fold:
        which of the folds' means and deviations were taken, where `Columns` have those of several."""
        columns = self.columns
        if columns.mean.ndim > 1:
            of_fold = (jnp.asarray(values)[fold] for values in (columns.mean, columns.deviation))
            own = replace(columns, **dict(zip(("mean", "deviation"), of_fold, strict=True)))
            return replace(self, columns=own)(batch, key)

        def change(features: Array, length: Array, object_key: Array) -> tuple[Array, Array, Array]:
            draws = self.draws(jax.random.fold_in(key, object_key), len(features))
            return self.changed(features, length, draws)

        arrays = (jnp.asarray(values) for values in (batch.features, batch.lengths, batch.keys))
        features, lengths, sources = jax.vmap(change)(*arrays)
        labels = jnp.asarray(batch.labels)
        if self.labels_by_step:
            labels = jnp.take_along_axis(labels, sources, axis=1)
        return batch._replace(features=features, lengths=lengths, labels=labels)

    def draws(self, key: Array, steps: int) -> Draws:
        """Returns a sequence's draws; those of a step are the same however far the sequence is padded."""
        bands, pairs = len(self.columns.bands), len(self.columns.pairs) if self.settings.noise else 0
        # one draw for all: each compiles for a second
        bits = jax.random.bits(key, (3 + bands + steps * (1 + pairs),), jnp.uint32) >> 8
        uniform = bits.astype(jnp.float32) * 2**-24
        by_step = uniform[3 + bands :].reshape(steps, 1 + pairs)
        normal = jnp.sqrt(2.0) * erfinv(2 * by_step[:, 1:] - (1 - 2**-24))
        return Draws(uniform[:2], uniform[2], uniform[3 : 3 + bands], by_step[:, 0], normal)

    def changed(self, features: Array, length: Array, draws: Draws) -> tuple[Array, Array, Array]:
        """Returns a sequence's changed features [step, feature], 0 beyond the length, its new length, and which step
        each of them was [step]."""
        settings, source = self.settings, jnp.arange(len(features))
        keep = jnp.arange(len(features)) < length
        if settings.truncation:
            to = jnp.floor(draws.cut[1] * length) + 1
            keep &= (jnp.arange(len(features)) < to) | (draws.cut[0] >= settings.truncation)
        if settings.drop_passbands:
            features, keep = self._without_passbands(features, keep, draws.passbands)
        if settings.drop_observations:
            keep = _kept(keep, draws.steps, settings.drop_observations)
        if settings.truncation or settings.drop_passbands or settings.drop_observations:
            features, length, source = self._moved_together(features, keep)
        valid = jnp.arange(len(features)) < length
        if settings.noise:
            features = self._noisy(features, draws.noise)
        if settings.time_shift:
            shift = settings.time_shift * (2 * draws.shift - 1)
            for column, kind in enumerate(self.columns.kinds):
                if kind in SHIFTED and column not in self.columns.by_sequence:
                    features = features.at[:, column].add(shift / self.columns.deviation[column])
        return jnp.where(valid[:, None], features, 0), length, source

    def _without_passbands(self, features: Array, keep: Array, uniform: Array) -> tuple[Array, Array]:
        """Returns the features with the columns of dropped passbands absent, and the steps that keep a passband."""
        bands, presence = self.columns.bands, self.columns.presence
        seen = (features[:, np.array(bands)] > 0.5) & keep[:, None]
        seen &= _kept(seen.any(axis=0), uniform, self.settings.drop_passbands)
        for column, band in presence.items():
            features = features.at[:, column].set(jnp.where(seen[:, bands.index(band)], features[:, column], 0))
        features = features.at[:, np.array(bands)].set(seen.astype(features.dtype))
        return features, seen.any(axis=1)

    def _moved_together(self, features: Array, keep: Array) -> tuple[Array, Array, Array]:
        """Returns the kept steps at the front, what depends on earlier steps computed anew, their number, and which
        step each was [step]."""
        columns, steps = self.columns, jnp.arange(len(features))
        length = keep.sum(dtype=jnp.int32)
        source = jnp.zeros_like(steps).at[jnp.where(keep, jnp.cumsum(keep) - 1, len(steps))].set(steps, mode="drop")
        moved = features[source]
        for column, kind in enumerate(columns.kinds):
            if kind not in ("time_since_first", "time_difference"):
                continue
            # the first is 0; where a sequence's own deviation is unknown, times are right but for a factor
            whole = features[:, column]
            whole = whole - whole[0] if column in columns.by_sequence else columns.raw(whole, column)
            clock = (jnp.cumsum(whole) if kind == "time_difference" else whole)[source]
            before = jnp.roll(clock, 1).at[0].set(clock[0]) if kind == "time_difference" else clock[0]
            values = clock - before
            values = values if column in columns.by_sequence else columns.normalised(values, column)
            moved = moved.at[:, column].set(values)
        for column in columns.by_sequence:
            there = steps < length
            if column in columns.presence:
                there &= moved[:, columns.presence[column]] > 0.5
            moved = moved.at[:, column].set(_by_sequence(moved[:, column], there))
        return moved, length, source

    def _noisy(self, features: Array, noise: Array) -> Array:
        columns, settings = self.columns, self.settings
        for index, (value, error, presence) in enumerate(columns.pairs):
            value_as, error_as = columns.features[value], columns.features[error]
            flux = _unscaled(value_as, columns.raw(features[:, value], value))
            sigma = _unscaled_error(error_as, columns.raw(features[:, error], error), flux)
            with_noise = flux + settings.noise * sigma * noise[:, index]
            if value_as.scaling in ("log", "magnitude"):
                # what is not positive has no logarithm: such a step keeps its value, and its error grows all the same
                with_noise = jnp.where(with_noise > 0, with_noise, flux)
            sigma = sigma * np.float32(np.sqrt(1 + settings.noise**2))
            there = True if presence is None else features[:, presence] > 0.5
            for column, values in (
                (value, _scaled(value_as, with_noise)),
                (error, _scaled_error(error_as, sigma, with_noise)),
            ):
                values = jnp.where(there, columns.normalised(values, column), features[:, column])
                features = features.at[:, column].set(values)
        return features


def read(
    settings: Augmentation, data: Data, dataset: Path, *statistics: Statistics, labels_by_step: bool = False
) -> Augmenter | None:
    """Returns what changes a job's training sequences, None where `augmentation` asks for nothing.
    statistics: of each fold that the job has. labels_by_step: whether each step has a label, which goes where it goes.

    Raises JaxrnnError, naming the key, where the dataset's features don't have what a change needs.
    """
    if not any(settings.model_dump().values()):
        return None
    columns = results.read_json(dataset / "manifest.json", "jaxrnn ingest")["features"]
    made = [make(settings, data, columns, entry, labels_by_step=labels_by_step) for entry in statistics]
    if len(made) == 1:
        return made[0]
    mean, deviation = (np.stack([getattr(entry.columns, name) for entry in made]) for name in ("mean", "deviation"))
    return replace(made[0], columns=replace(made[0].columns, mean=mean, deviation=deviation))


def make(
    settings: Augmentation,
    data: Data,
    columns: list[dict[str, Any]],
    statistics: Statistics,
    *,
    labels_by_step: bool = False,
) -> Augmenter:
    """Returns what makes the changes that `settings` asks for. columns: `features` of the dataset's manifest."""
    kinds = [column["kind"] for column in columns]
    bands = {column["passband"]: index for index, column in enumerate(columns) if column["kind"] == "passband"}
    by_passband = {
        index: column["passband"]
        for index, column in enumerate(columns)
        if column["kind"] in ("value", "error") and column["passband"]
    }
    presence = {index: bands[band] for index, band in by_passband.items()} if bands else {}
    places = {(column["column"], column["passband"]): index for index, column in enumerate(columns) if column["column"]}
    pairs = [
        Pair(value, places[f"{name}_error", band], presence.get(value))
        for (name, band), value in places.items()
        if (f"{name}_error", band) in places and kinds[places[f"{name}_error", band]] == "error"
    ]
    described = Columns(
        kinds=kinds,
        features=[data.features[column["source"]] for column in columns],
        mean=statistics.feature_mean.astype(np.float32),
        deviation=statistics.feature_deviation.astype(np.float32),
        bands=list(bands.values()),
        presence=presence,
        by_sequence=statistics.sequence_features.tolist(),
        pairs=pairs,
    )
    _check(settings, described, bool(by_passband))
    return Augmenter(settings, described, labels_by_step)


def _check(settings: Augmentation, columns: Columns, by_night: bool) -> None:
    """Raises JaxrnnError where the features don't have what a change needs."""
    by_sequence = {columns.features[index].name for index in columns.by_sequence}
    noisy = {columns.features[index].name for pair in columns.pairs for index in (pair.value, pair.error)}
    shifted = [index for index, kind in enumerate(columns.kinds) if kind in SHIFTED]

    def refuse(key: str, problem: str, remedy: str) -> None:
        if getattr(settings, key):
            value = getattr(settings, key)
            raise JaxrnnError(f"augmentation.{key}: {value:g} needs {problem}; {remedy}, or set it to 0")

    if not columns.pairs:
        refuse(
            "noise",
            "a column with its column of errors (`flux` and `flux_error`), and data.features has no such pair",
            "add the errors to data.features",
        )
    if by_sequence & noisy:
        refuse(
            "noise",
            f"values whose unit is known, and {listed(sorted(by_sequence & noisy))} in data.features have "
            "`normalisation: sequence`, which forgets it",
            "choose another normalisation for them",
        )
    if not columns.bands:
        refuse("drop_passbands", "the feature `passband`", "add it to data.features")
    if not shifted:
        refuse("time_shift", f"one of the features {listed(SHIFTED)}", "add one of them to data.features")
    if shifted and set(shifted) <= set(columns.by_sequence):
        refuse(
            "time_shift",
            "a time that is not normalised by sequence, which undoes every shift",
            "choose another normalisation",
        )
    if by_night and not columns.bands:
        refuse("noise", "the feature `passband`, which says what a night has not", "add it to data.features")
        if set(columns.by_sequence) & {i for i, kind in enumerate(columns.kinds) if kind in ("value", "error")}:
            for key in ("truncation", "drop_observations"):
                refuse(
                    key,
                    "the feature `passband`, which says what a night has not, beside `normalisation: sequence`",
                    "add it to data.features",
                )


def _kept(candidates: Array, uniform: Array, probability: float) -> Array:
    """Returns which candidates are not dropped; the one with the largest draw always stays."""
    last = jnp.argmax(jnp.where(candidates, uniform, -1))
    return candidates & ((uniform >= probability) | (jnp.arange(len(candidates)) == last))


def _by_sequence(values: Array, there: Array) -> Array:
    """Returns values less their mean over their deviation, where they are there."""
    count = jnp.maximum(there.sum(), 1)
    centred = values - jnp.where(there, values, 0).sum() / count
    deviation = jnp.sqrt(jnp.where(there, centred**2, 0).sum() / count)
    return jnp.where(there, centred / jnp.where(deviation > ROUNDING, deviation, 1), 0)


def _unscaled(feature: Feature, values: Array) -> Array:
    if feature.scaling == "asinh":
        return feature.softening * jnp.sinh(values)
    if feature.scaling == "log":
        return jnp.exp(values)
    return 10 ** (0.4 * (feature.zero_point - values)) if feature.scaling == "magnitude" else values


def _scaled(feature: Feature, values: Array) -> Array:
    if feature.scaling == "asinh":
        return jnp.arcsinh(values / feature.softening)
    if feature.scaling == "log":
        return jnp.log(values)
    return feature.zero_point - 2.5 * jnp.log10(values) if feature.scaling == "magnitude" else values


def _unscaled_error(feature: Feature, values: Array, flux: Array) -> Array:
    # the error of a magnitude is 2.5 / ln 10 times the error of the flux over the flux
    return values * flux * (np.log(10) / 2.5) if feature.scaling == "magnitude" else _unscaled(feature, values)


def _scaled_error(feature: Feature, values: Array, flux: Array) -> Array:
    return values / flux * (2.5 / np.log(10)) if feature.scaling == "magnitude" else _scaled(feature, values)
