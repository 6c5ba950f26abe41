"""Augmentation: what it does to a normalised, padded batch is what NumPy does to the observations themselves."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrnn import augmentation, batches
from jaxrnn.augmentation import Augmenter, Draws
from jaxrnn.batches import Bucket
from jaxrnn.config import Augmentation, Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.splits import Statistics

BANDS = ("g", "r", "i")
STEPS = 12
EVERYTHING = {"truncation": 0.6, "noise": 0.8, "drop_observations": 0.3, "drop_passbands": 0.4, "time_shift": 3.0}


@dataclass
class Survey:
    """Observations of one object as they were made: time [step], seen [step, band], flux and error [step, band]."""

    time: np.ndarray
    seen: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    shift: float = 0.0
    detected: float = 0.0


def observed(seed: int, night: bool, detected: float = 2.5) -> Survey:
    generator = np.random.default_rng(seed)
    length = int(generator.integers(1, STEPS + 1))
    first = generator.integers(0, len(BANDS), length)
    seen = first[:, None] == np.arange(len(BANDS))
    if night:
        seen |= generator.random(seen.shape) < 0.4
    return Survey(
        time=50 + np.cumsum(generator.uniform(0.1, 3, length)),
        seen=seen,
        flux=generator.uniform(20, 100, seen.shape),
        error=generator.uniform(1, 5, seen.shape),
        detected=detected,
    )


# What the features are, by the way that steps are made: (name, kind, column, scaling), written out by hand.
def data(night: bool, scaling: str, normalisation: str = "feature") -> Data:
    error_scaling = {"none": "none", "asinh": "log", "log": "asinh", "magnitude": "magnitude"}[scaling]
    names = ["time", "time_since_first", "time_difference", "time_since_detection"]
    features = [
        *({"name": name, "normalisation": normalisation if "_" in name else "feature"} for name in names),
        {"name": "passband"},
        {"name": "flux", "scaling": scaling, "softening": 7.0, "normalisation": normalisation},
        {"name": "flux_error", "scaling": error_scaling, "softening": 2.0},
    ]
    values = {"reader": "spcc", "path": "p", "features": features, "steps": "night" if night else "observation"}
    return Data.model_validate(values | {"detection": {"signal_to_noise": 5}})


def described(night: bool) -> list[dict[str, Any]]:
    names = ["time", "time_since_first", "time_difference", "time_since_detection"]
    entries = [(name, "", "", index) for index, name in enumerate(names)]
    entries += [("passband", "", band, 4) for band in BANDS]
    for column, kind, source in (("flux", "value", 5), ("flux_error", "error", 6)):
        entries += [(kind, column, band, source) for band in (BANDS if night else ("",))]
    return [
        {"name": f"{kind}{band}", "unit": "", "kind": kind, "column": column, "passband": band, "source": source}
        | {"indicator": kind == "passband"}
        for kind, column, band, source in entries
    ]


def featurised(survey: Survey, settings: Data, night: bool) -> np.ndarray:
    """Returns features [step, feature] float64 straight from the observations, NaN where absent."""
    scaling = settings.features[5].scaling
    flux, error = survey.flux, survey.error
    with np.errstate(invalid="ignore"):
        scaled = {
            "none": (flux, error),
            "asinh": (np.arcsinh(flux / 7.0), np.log(error)),
            "log": (np.log(flux), np.arcsinh(error / 2.0)),
            "magnitude": (23.9 - 2.5 * np.log10(flux), 2.5 / np.log(10) * error / flux),
        }[scaling]
    blocks = [np.where(survey.seen, table, np.nan) for table in scaled]
    if not night:
        blocks = [np.nansum(block, axis=1)[:, None] for block in blocks]
    time = survey.time + survey.shift
    clocks = [time, time - time[0] + survey.shift, np.diff(time, prepend=time[0]), time - 50 - survey.detected]
    return np.concatenate([np.stack(clocks, axis=1), survey.seen.astype(float), *blocks], axis=1)


def kept(candidates: Any, uniform: Any, probability: float) -> Any:
    stays = candidates & (uniform >= probability)
    if not stays.any():
        stays[max(np.flatnonzero(candidates), key=lambda place: uniform[place])] = True
    return stays


def changed(survey: Survey, settings: Augmentation, draws: Draws, night: bool, logarithm: bool) -> Survey:
    """Returns the object as the changes would have had it observed."""
    keep: Any = np.ones(len(survey.time), dtype=bool)
    if draws.cut[0] < settings.truncation:
        keep[int(draws.cut[1] * len(keep)) + 1 :] = False
    seen = survey.seen.copy()
    if settings.drop_passbands:
        seen &= keep[:, None]
        seen &= kept(seen.any(axis=0), draws.passbands, settings.drop_passbands)
        keep = seen.any(axis=1)
    keep = kept(keep, draws.steps[: len(keep)], settings.drop_observations)
    flux, error = survey.flux[keep], survey.error[keep]
    noise = draws.noise[: keep.sum()] if settings.noise else np.zeros((1, 1))
    noisy = flux + settings.noise * error * noise
    noisy = np.where(noisy > 0, noisy, flux) if logarithm else noisy
    shift = settings.time_shift * (2 * float(draws.shift) - 1)
    return Survey(survey.time[keep], seen[keep], noisy, error * np.hypot(1, settings.noise), shift, survey.detected)


def normalised(values: np.ndarray, statistics: Statistics) -> np.ndarray:
    return statistics.normalised(values, np.zeros((1, 0)), np.array([0, len(values)]))[0]


def statistics_of(surveys: list[Survey], settings: Data, night: bool, sequence: bool) -> Statistics:
    table = np.concatenate([featurised(survey, settings, night) for survey in surveys])
    indicator = np.array([column["kind"] == "passband" for column in described(night)])
    by_sequence = np.zeros(0, dtype=np.int64)
    mean, deviation = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    if sequence:
        by_sequence = np.array([i for i, c in enumerate(described(night)) if "_" in c["kind"] or c["kind"] == "value"])
        mean[by_sequence], deviation[by_sequence] = 0, 1
    return Statistics(
        classes=("a", "b"),
        class_counts=np.array([1, 1]),
        feature_mean=np.where(indicator, 0, mean),
        feature_deviation=np.where(indicator, 1, deviation),
        metadata_mean=np.zeros(0),
        metadata_deviation=np.zeros(0),
        settings_digest="",
        data_digest="",
        sequence_features=by_sequence,
    )


@dataclass
class Case:
    night: bool
    settings: Data
    surveys: list[Survey]
    statistics: Statistics

    def augmenter(self, **settings: Any) -> Augmenter:
        return augmentation.make(
            Augmentation.model_validate(settings), self.settings, described(self.night), self.statistics
        )

    def batch(self, surveys: list[Survey] | None = None, keys: Any = None) -> Bucket:
        tables = [
            normalised(featurised(s, self.settings, self.night), self.statistics) for s in surveys or self.surveys
        ]
        features = np.stack([np.pad(table, ((0, STEPS - len(table)), (0, 0))) for table in tables])
        lengths = np.array([len(table) for table in tables], dtype=np.int32)
        rows = len(tables)
        keys = np.arange(rows) + 7 if keys is None else np.asarray(keys)
        return Bucket(
            features, lengths, np.zeros((rows, 0), np.float32), np.zeros(rows, np.int32), keys.astype(np.uint32)
        )


def case(night: bool, scaling: str, sequence: bool = False) -> Case:
    settings = data(night, scaling, "sequence" if sequence else "feature")
    surveys = [observed(seed, night) for seed in range(40)]
    return Case(night, settings, surveys, statistics_of(surveys, settings, night, sequence))


def agrees(given: Case, **settings: Any) -> int:
    """Checks every sequence of a batch against NumPy; returns how many of them the changes have shortened."""
    augmenter, batch = given.augmenter(**settings), given.batch()
    key = jax.random.key(3)
    # not compiled as a whole: its operations are compiled once for all cases
    found = jax.device_get(augmenter(batch, key))
    drawn = jax.device_get(jax.vmap(lambda k: augmenter.draws(jax.random.fold_in(key, k), STEPS))(batch.keys))
    logarithm = given.settings.features[5].scaling in ("log", "magnitude")
    for row, survey in enumerate(given.surveys):
        draws = Draws(*(values[row] for values in drawn))
        wanted = changed(survey, augmenter.settings, draws, given.night, logarithm)
        expected = normalised(featurised(wanted, given.settings, given.night), given.statistics)
        assert found.lengths[row] == len(expected)
        np.testing.assert_allclose(found.features[row, : len(expected)], expected, atol=3e-4, rtol=3e-4)
        assert not found.features[row, len(expected) :].any()
    return int((found.lengths < batch.lengths).sum())


@pytest.mark.parametrize(
    ("night", "change"), [*((False, change) for change in EVERYTHING), (True, "noise"), (True, "drop_passbands")]
)
def test_each_change_is_that_of_the_observations(night: bool, change: str) -> None:
    shortened = agrees(case(night, "asinh"), **{change: EVERYTHING[change]})
    if change in ("truncation", "drop_observations"):
        assert 10 < shortened < 40
    elif change != "drop_passbands":
        assert shortened == 0


@pytest.mark.parametrize(("night", "scaling"), [(False, "none"), (True, "asinh"), (False, "log"), (True, "magnitude")])
def test_all_changes_together_are_those_of_the_observations(night: bool, scaling: str) -> None:
    assert agrees(case(night, scaling), **EVERYTHING) > 20


@pytest.mark.parametrize("night", [False, True])
def test_columns_normalised_by_sequence_are_normalised_again(night: bool) -> None:
    given = case(night, "asinh", sequence=True)
    assert agrees(given, truncation=0.6, drop_observations=0.3, drop_passbands=0.4) > 20


def test_what_is_left_of_a_sequence_is_never_nothing() -> None:
    given = case(True, "none")
    augment = given.augmenter(truncation=1, drop_observations=0.99, drop_passbands=0.99)
    found = augment(given.batch(), jax.random.key(0))
    assert found.lengths.min() == 1
    padded = given.batch()._replace(lengths=np.zeros(40, dtype=np.int32))
    empty = augment(padded, jax.random.key(0))
    assert not np.asarray(empty.lengths).any() and not np.asarray(empty.features).any()


def test_draws_have_their_stated_distributions() -> None:
    augmenter = case(False, "none").augmenter(**EVERYTHING)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(1), np.arange(4000))
    drawn = jax.device_get(jax.vmap(lambda key: augmenter.draws(key, STEPS))(keys))
    count = drawn.noise.size
    assert abs(drawn.noise.mean()) < 5 / np.sqrt(count) and abs(drawn.noise.std() - 1) < 5 / np.sqrt(2 * count)
    assert np.isfinite(drawn.noise).all() and abs(drawn.noise).max() > 3.5
    for uniform in (drawn.cut, drawn.shift, drawn.passbands, drawn.steps):
        assert uniform.min() >= 0 and uniform.max() < 1
        assert abs(uniform.mean() - 0.5) < 5 / np.sqrt(12 * uniform.size)
    together = np.concatenate([drawn.cut, drawn.shift[:, None], drawn.passbands, drawn.steps, drawn.noise[:, :, 0]], 1)
    assert np.abs(np.corrcoef(together.T) - np.eye(together.shape[1])).max() < 0.1


def test_draws_depend_on_the_object_alone() -> None:
    """Not on the batch, the place in it, or how far it is padded; other epochs and seeds draw anew."""
    given = case(True, "asinh")
    augment, key = given.augmenter(**EVERYTHING), jax.random.key(5)
    found = augment(given.batch(), key)
    order = np.random.default_rng(0).permutation(40)[:15]
    again = augment(given.batch([given.surveys[row] for row in order], order + 7), key)
    np.testing.assert_allclose(again.features, np.asarray(found.features)[order], atol=1e-6)
    np.testing.assert_array_equal(again.lengths, np.asarray(found.lengths)[order])
    batch = given.batch()
    wider = batch._replace(features=np.pad(batch.features, ((0, 0), (0, 3), (0, 0))))
    np.testing.assert_array_equal(augment(wider, key).lengths, found.lengths)
    np.testing.assert_allclose(augment(wider, key).features[:, :STEPS], found.features, atol=1e-6)
    other = augment(batch, jax.random.fold_in(key, 1))
    assert (np.asarray(other.lengths) != np.asarray(found.lengths)).mean() > 0.3


def test_nothing_asked_for_is_nothing_compiled_in(tmp_path: Any) -> None:
    given = case(False, "none")
    # the manifest is not even looked for
    assert augmentation.read(Augmentation(), given.settings, tmp_path, given.statistics) is None


def test_object_keys_are_the_ids_checksums() -> None:
    # the published check value of CRC-32
    assert batches.object_keys(np.array(["123456789"])).tolist() == [0xCBF43926]


@pytest.mark.parametrize(
    ("settings", "without", "match"),
    [
        ({"noise": 0.5}, {"error"}, r"augmentation\.noise: 0\.5 needs a column with its column of errors"),
        ({"drop_passbands": 0.5}, {"passband"}, r"augmentation\.drop_passbands: 0\.5 needs the feature `passband`"),
        ({"time_shift": 2}, {"time", "time_since_first", "time_since_detection"}, r"augmentation\.time_shift: 2 needs"),
    ],
)
def test_a_change_that_the_features_cannot_have_is_refused(
    settings: dict[str, Any], without: set[str], match: str
) -> None:
    given = case(False, "none")
    left = [index for index, column in enumerate(described(False)) if column["kind"] not in without]
    statistics = replace(
        given.statistics,
        feature_mean=given.statistics.feature_mean[left],
        feature_deviation=given.statistics.feature_deviation[left],
    )
    columns = [described(False)[index] for index in left]
    with pytest.raises(JaxrnnError, match=match):
        augmentation.make(Augmentation.model_validate(settings), given.settings, columns, statistics)
    # what the features do have is made all the same
    augmentation.make(Augmentation(drop_observations=0.5), given.settings, columns, statistics)


def test_noise_on_what_is_normalised_by_sequence_is_refused() -> None:
    with pytest.raises(JaxrnnError, match=r"augmentation\.noise: 1 needs values whose unit .*flux.*sequence"):
        case(False, "none", sequence=True).augmenter(noise=1)


def test_nights_without_marks_of_what_they_have_take_no_noise() -> None:
    given = case(True, "none")
    columns = [column for column in described(True) if column["kind"] != "passband"]
    left = [index for index, column in enumerate(described(True)) if column["kind"] != "passband"]
    statistics = replace(
        given.statistics,
        feature_mean=given.statistics.feature_mean[left],
        feature_deviation=given.statistics.feature_deviation[left],
    )
    with pytest.raises(JaxrnnError, match=r"augmentation\.noise: 1 needs the feature `passband`"):
        augmentation.make(Augmentation(noise=1), given.settings, columns, statistics)
