"""The simulated survey: the same whatever the ranks, physically right, and read back as it was made."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng

from jaxrnn import config
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Options
from jaxrnn.readers.simulated import COLUMNS, SimulatedReader
from jaxrnn.simulate import (
    DETECTIONS,
    LABELS,
    PULSATORS,
    SUPERNOVA_TYPES,
    YEAR_DAYS,
    LightCurve,
    Simulation,
    damped_random_walk,
    distance_modulus,
    finish,
    light_curve,
    photometric_error,
    simulate,
)

WHOLE = 1 << 30  # bytes: more than any file of these surveys

OBJECTS = {"variable_star": 90, "supernova": 20, "agn": 10}
SMALL: dict[str, Any] = {"seed": 7, "objects": OBJECTS, "objects_per_file": 25}


def survey(**changes: Any) -> Simulation:
    return Simulation.model_validate({**SMALL, **changes})


def made(simulation: Simulation, folder: Path, ranks: int = 1) -> Path:
    for rank in reversed(range(ranks)):
        simulate(simulation, folder, rank, ranks, lambda done, total: None)
    finish(simulation, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(survey(), tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="module")
def curves() -> list[LightCurve]:
    simulation = survey(objects={"variable_star": 300, "supernova": 150, "agn": 150})
    return [light_curve(simulation, index) for index in range(simulation.number_of_objects)]


# The same survey, however it is made


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_any_number_of_ranks_writes_the_same_bytes(folder: Path, tmp_path: Path, ranks: int) -> None:
    assert contents(made(survey(), tmp_path, ranks)) == contents(folder)


def test_an_object_does_not_depend_on_the_files_or_on_others() -> None:
    one, other = survey(), survey(objects_per_file=1)
    for index in (101, 3, 3, 50):
        first, second = light_curve(one, index), light_curve(other, index)
        assert (first.object_id, first.label, first.metadata) == (second.object_id, second.label, second.metadata)
        np.testing.assert_array_equal(first.time, second.time)
        np.testing.assert_array_equal(first.flux, second.flux)


def test_seeds_and_objects_differ() -> None:
    fluxes = [light_curve(survey(seed=seed), index).flux[:5].tolist() for seed in (1, 2) for index in range(20)]
    assert len({tuple(flux) for flux in fluxes}) == 40


@pytest.mark.parametrize("objects", [(90, 20, 10), (1, 0, 0), (0, 1, 1), (997, 2, 1), (0, 0, 12)])
def test_classes_have_exactly_the_objects_asked_for(objects: tuple[int, ...]) -> None:
    simulation = survey(objects=dict(zip(LABELS, objects, strict=True)))
    counted = Counter(simulation.label(index) for index in range(simulation.number_of_objects))
    assert tuple(counted[label] for label in LABELS) == objects


def test_every_file_holds_the_classes_in_proportion() -> None:
    simulation = survey(objects={"variable_star": 800, "supernova": 100, "agn": 100})
    for start in range(0, 1000, 100):
        counted = Counter(simulation.label(index) for index in range(start, start + 100))
        assert abs(counted["supernova"] - 10) <= 1 and abs(counted["agn"] - 10) <= 1


# What is in the sky


@pytest.mark.parametrize("spacing", ["regular", "irregular"])
def test_damped_random_walk_has_its_variance_and_autocorrelation(spacing: str) -> None:
    rng, damping_time, walks = default_rng(3), 40.0, 4000
    time = np.linspace(0, 200, 21) if spacing == "regular" else np.sort(default_rng(5).uniform(0, 200, 21))
    values = np.array([damped_random_walk(rng, time, damping_time) for _ in range(walks)])
    expected = np.exp(-np.abs(time[:, None] - time[None, :]) / damping_time)
    error = 5 * np.sqrt((1 + expected**2) / walks)
    assert (np.abs(values.mean(axis=0)) < 5 / np.sqrt(walks)).all()
    assert (np.abs(np.cov(values.T, bias=True) - expected) < error).all()


@pytest.mark.parametrize("name", SUPERNOVA_TYPES)
def test_supernovae_rise_once_and_decline(name: str) -> None:
    days = np.linspace(-60, 400, 4601)
    for redness in (0.6, 1.0, 1.5):
        flux = SUPERNOVA_TYPES[name].shape(days, np.full(len(days), redness))
        peak = int(flux.argmax())
        assert (np.diff(flux[: peak + 1]) >= 0).all() and (np.diff(flux[peak:]) <= 0).all()
        assert flux[0] < 1e-3 and flux[-1] < 1e-3 and 0 < days[peak] < 30
    r = SUPERNOVA_TYPES[name].shape(days, np.ones(len(days)))
    assert r.max() == pytest.approx(1.0, abs=1e-3)


def test_supernovae_fade_slower_in_red_light() -> None:
    late, blue, red = np.array([60.0]), np.array([0.8]), np.array([1.2])
    assert SUPERNOVA_TYPES["Ia"].shape(late, red) > 1.5 * SUPERNOVA_TYPES["Ia"].shape(late, blue)


@pytest.mark.parametrize("name", PULSATORS)
def test_pulsators_rise_at_least_as_fast_as_they_fade(name: str) -> None:
    kind, phase = PULSATORS[name], np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    magnitude = np.cos(phase) + sum(
        ratio * np.cos(k * phase + offset) for k, ratio, offset in zip((2, 3, 4), kind.ratio, kind.phase, strict=True)
    )
    brightest, faintest = int(magnitude.argmin()), int(magnitude.argmax())
    rise = (brightest - faintest) % 2000 / 2000
    assert 0.1 < rise < 0.55
    assert rise < 0.25 or name != "RR Lyrae ab"


def test_distance_modulus_agrees_with_published_cosmology() -> None:
    # Wright's calculator (2006, PASP 118, 1711), flat, H0 = 70, matter 0.3: luminosity distances in Mpc
    for redshift, megaparsec in ((0.1, 460.3), (0.5, 2832.9), (1.0, 6607.1), (2.0, 15539.0)):
        assert distance_modulus(redshift) == pytest.approx(5 * np.log10(megaparsec) + 25, abs=0.01)


def test_supernovae_brighten_and_agn_change_both_ways(curves: list[LightCurve]) -> None:
    def negative(label: str) -> float:
        return float(np.mean([(c.flux[c.detected] < 0).any() for c in curves if c.label == label]))

    assert negative("supernova") < 0.02
    assert negative("agn") > 0.4 and negative("variable_star") > 0.9


def test_metadata_informs_without_deciding(curves: list[LightCurve]) -> None:
    latitude, distance = (
        {label: np.array([abs(c.metadata[column]) for c in curves if c.label == label]) for label in LABELS}
        for column in (0, 1)
    )
    assert max(values.max() for values in latitude.values()) <= 90
    assert np.median(latitude["variable_star"]) < 0.6 * np.median(latitude["supernova"])
    assert np.percentile(latitude["variable_star"], 90) > np.percentile(latitude["supernova"], 10)
    assert np.median(distance["agn"]) < np.median(distance["supernova"]) < np.median(distance["variable_star"])
    assert np.percentile(distance["agn"], 95) > np.percentile(distance["variable_star"], 25)


# How it is observed


def test_noise_is_as_large_as_the_errors_say(curves: list[LightCurve]) -> None:
    pulls = np.concatenate([(c.flux - c.true_flux) / c.flux_error for c in curves])
    # selection by detections favours noise that helps it a little
    assert abs(pulls.mean()) < 0.02 and abs(pulls.std() - 1) < 0.02
    assert np.mean(np.abs(pulls) > 2) == pytest.approx(0.0455, abs=0.005)


def test_errors_follow_the_depth_and_the_flux() -> None:
    depth = np.array([20.0, 21.0])
    limit = 10 ** (0.4 * (23.9 - depth))
    np.testing.assert_allclose(limit / photometric_error(limit, depth), 5.0, rtol=1e-3)
    assert (photometric_error(100 * limit, depth) > 3 * photometric_error(0 * limit, depth)).all()


def test_errors_are_positive_and_differ_within_an_object(curves: list[LightCurve]) -> None:
    for curve in curves:
        assert np.isfinite(curve.flux).all() and (curve.flux_error > 0).all()
        assert curve.flux_error.max() > 1.1 * curve.flux_error.min()


def test_detections_are_marked_and_forced_photometry_stays(curves: list[LightCurve]) -> None:
    for curve in curves:
        np.testing.assert_array_equal(curve.detected, np.abs(curve.flux) >= 5 * curve.flux_error)
        assert curve.detected.sum() >= DETECTIONS
    for label in LABELS:
        assert 0.05 < np.concatenate([c.detected for c in curves if c.label == label]).mean() < 0.95


def test_lengths_vary(curves: list[LightCurve]) -> None:
    lengths = np.array([len(curve.time) for curve in curves])
    assert lengths.min() < 20 and 30 < np.median(lengths) < 100 and 100 < lengths.max() < 300


def test_time_ascends_within_the_survey_and_all_passbands_appear(curves: list[LightCurve]) -> None:
    for curve in curves:
        assert (np.diff(curve.time) > 0).all()
        assert curve.time[0] >= 60000 and curve.time[-1] < 60000 + 601
    np.testing.assert_array_equal(np.unique(np.concatenate([c.passband for c in curves])), [0, 1, 2])


def test_seasons_leave_gaps_and_all_year_surveys_have_none() -> None:
    def longest_gaps(season_days: float) -> np.ndarray:
        simulation = survey(objects={"variable_star": 40, "supernova": 0, "agn": 0}, days=1500, season_days=season_days)
        times = [light_curve(simulation, index).time for index in range(40)]
        return np.array([np.diff(time).max() for time in times if np.ptp(time) > YEAR_DAYS])

    assert len(longest_gaps(210)) > 30
    assert longest_gaps(210).min() > YEAR_DAYS - 210 - 2
    assert np.median(longest_gaps(YEAR_DAYS)) < 60


# The files


def test_the_reader_returns_what_was_made(folder: Path) -> None:
    reader, simulation = SimulatedReader(folder, Options()), survey()
    assert [part.start for part in reader.parts(WHOLE)] == [0] * 5
    index = 0
    for part in reader.parts(WHOLE):
        sequences = reader.read(part)
        for row in range(len(sequences.ids)):
            made_again, rows = light_curve(simulation, index), slice(*sequences.offsets[row : row + 2])
            assert (sequences.ids[row], sequences.labels[row]) == (made_again.object_id, made_again.label)
            np.testing.assert_array_equal(sequences.metadata[row], made_again.metadata)
            np.testing.assert_array_equal(sequences.time[rows], made_again.time)
            np.testing.assert_array_equal(sequences.passband[rows], made_again.passband)
            single = [made_again.flux.astype(np.float32), made_again.flux_error.astype(np.float32), made_again.detected]
            np.testing.assert_array_equal(sequences.values[rows], np.stack(single, axis=1))
            index += 1
    assert index == 120


def test_parts_of_any_size_hold_the_same_objects(folder: Path) -> None:
    reader = SimulatedReader(folder, Options())
    third = reader.parts(WHOLE)[0].bytes // 3
    whole, cut = ([reader.read(part) for part in reader.parts(size)] for size in (WHOLE, third))
    assert len(cut) >= 3 * len(whole) and max(len(sequences.ids) for sequences in cut) > 1
    for column in ("ids", "labels", "time", "values", "passband", "metadata", "row_numbers"):
        expected, found = (np.concatenate([getattr(read, column) for read in reads]) for reads in (whole, cut))
        np.testing.assert_array_equal(found, expected)
    lengths = [np.concatenate([np.diff(read.offsets) for read in reads]) for reads in (whole, cut)]
    np.testing.assert_array_equal(lengths[0], lengths[1])


def test_units_and_passbands_are_described(folder: Path) -> None:
    described = SimulatedReader(folder, Options()).describe()
    assert [(c.name, c.unit) for c in described.columns] == [("flux", "uJy"), ("flux_error", "uJy"), ("detected", "")]
    assert [(c.name, c.unit) for c in described.metadata] == [("galactic_latitude", "deg"), ("host_distance", "arcsec")]
    assert described.passbands == ("g", "r", "i") and described.error_columns == ("flux_error",)


def test_a_killed_run_goes_on_and_makes_the_missing_files_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "survey")
    again, missing = tmp_path / "survey", "observations-00002.parquet"
    (again / missing).unlink()
    (again / ".objects-00002.parquet.part").write_text("half")
    kept = (again / "objects-00001.parquet").stat().st_mtime_ns
    made(survey(), again)
    assert contents(again) == contents(folder)
    assert (again / "objects-00001.parquet").stat().st_mtime_ns == kept


def test_a_survey_with_a_missing_file_is_not_finished(folder: Path, tmp_path: Path) -> None:
    simulate(survey(), tmp_path, 0, 2, lambda done, total: None)
    with pytest.raises(JaxrnnError, match=r"objects-00001.parquet: not written, and 3 files more"):
        finish(survey(), tmp_path)
    assert not (tmp_path / "survey.json").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_another_survey_is_never_overwritten(folder: Path, tmp_path: Path, finished: bool) -> None:
    shutil.copytree(folder, tmp_path / "survey")
    if not finished:
        (tmp_path / "survey" / "survey.json").unlink()
    before = contents(tmp_path / "survey")
    for step in (lambda s, f: simulate(s, f, 1, 2, lambda done, total: None), finish):
        with pytest.raises(JaxrnnError, match=r"other parameters \(different: seed, days\).*nothing was changed"):
            step(survey(seed=8, days=700), tmp_path / "survey")
    assert contents(tmp_path / "survey") == before


def test_progress_counts_this_ranks_files(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    simulate(survey(), tmp_path, 1, 2, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


# Mistakes


@pytest.mark.parametrize(
    ("change", "place", "text"),
    [
        ({"cadence": 3}, ("cadence",), "did you mean 'cadence_days'"),
        ({"passbands": ["g", "q"]}, ("passbands", 1), "expected one of u, g, r, i, z, y, found 'q'"),
        ({"passbands": ["g", "g"]}, (), "listed twice"),
        ({"passbands": []}, ("passbands",), "at least one"),
        ({"objects": {"variable_star": 5, "supernova": 5}}, ("objects", "agn"), "missing"),
        ({"objects": {**OBJECTS, "supernovae": 5}}, ("objects", "supernovae"), "did you mean 'supernova'"),
        ({"objects": {"variable_star": 0, "supernova": 0, "agn": 0}}, (), "at least one object"),
        ({"objects": {"variable_star": -1, "supernova": 0, "agn": 0}}, ("objects", "variable_star"), ">= 0"),
        ({"days": 60, "cadence_days": 30}, (), "expected at least 10"),
        ({"season_days": float("inf")}, ("season_days",), "expected a finite number"),
        ({"season_days": 366}, ("season_days",), "expected a value <= 365.25"),
        ({"depth_magnitude": "deep"}, ("depth_magnitude",), "expected a number"),
        ({"objects_per_file": 2.5}, ("objects_per_file",), "whole number"),
    ],
)
def test_mistaken_parameters_are_explained(change: dict[str, Any], place: tuple[Any, ...], text: str) -> None:
    mistakes: dict[tuple[Any, ...], str] = {}
    assert config._checked(Simulation, {**SMALL, **change}, mistakes) is None
    assert text in mistakes[place]


def test_defaults_are_written_as_they_are_read() -> None:
    defaults = Simulation.model_validate({})
    assert Simulation.model_validate(json.loads(defaults.model_dump_json())) == defaults


def test_a_survey_that_detects_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = survey()
    monkeypatch.setattr("jaxrnn.simulate.DETECTIONS", 10**6)
    with pytest.raises(JaxrnnError, match=r"object 0 \(.*\): of 1000 drawn.*too shallow or too short.*raise depth"):
        light_curve(simulation, 0)


def test_a_file_in_the_folders_place_is_explained(tmp_path: Path) -> None:
    (tmp_path / "survey").write_text("")
    with pytest.raises(JaxrnnError, match="is a file; expected a folder"):
        simulate(survey(), tmp_path / "survey", 0, 1, lambda done, total: None)


def changed(file: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pq.write_table(change(pq.read_table(folder / file)), folder / file)

    return write


def truncate(folder: Path) -> None:
    file = folder / "observations-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def replaced(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "survey.json").unlink(), r"survey.json: not there yet; run `jaxrnn simulate"),
        (lambda f: (f / "survey.json").write_text("{"), r"survey.json: cannot be read"),
        (lambda f: (f / "survey.json").write_text('{"jaxrnn_version": "0.1.0"}'), r"survey.json: not the description"),
        (lambda f: (f / "objects-00003.parquet").unlink(), r"objects-00003.parquet missing"),
        (truncate, r"observations-00001.parquet: not a readable Parquet file"),
        (changed("observations-00001.parquet", lambda t: t.drop_columns(["flux"])), r"no column flux; it has object"),
        (
            changed("observations-00001.parquet", replaced("flux", pa.array(["x"] * 1000))),
            r"column flux holds string values that are no float",
        ),
        (changed("objects-00001.parquet", lambda t: t.slice(1)), r"24 objects, and survey.json says 25"),
        (
            changed("objects-00001.parquet", replaced("object_id", pa.array(["a"] * 25))),
            r"objects-00001.parquet: object a has more than one row",
        ),
        (
            changed("objects-00001.parquet", replaced("object_id", pa.array([f"a{i}" for i in range(25)]))),
            r"observations-00001.parquet: row 0 is of object 00000025, which objects-00001.parquet does not have",
        ),
    ],
)
def test_damaged_surveys_are_explained(folder: Path, tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "survey"))
    if damage.__name__ == "write":  # as many rows as the replaced column has
        file = copy / "observations-00001.parquet"
        pq.write_table(pq.read_table(file).slice(0, 1000), file)
    damage(copy)

    def read_all() -> None:
        reader = SimulatedReader(copy, Options())
        for part in reader.parts(WHOLE):
            reader.read(part)

    with pytest.raises(JaxrnnError, match=text):
        read_all()


def test_faulty_values_are_handed_on_as_they_are(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "survey"))
    file = copy / "observations-00000.parquet"
    table = pq.read_table(file)
    flux, passband = table["flux"].to_pylist(), table["passband"].to_pylist()
    flux[0], flux[1], passband[2] = None, float("inf"), "K"
    table = replaced("flux", pa.array(flux, pa.float32()))(table)
    pq.write_table(replaced("passband", pa.array(passband))(table), file)
    reader = SimulatedReader(copy, Options())
    sequences = reader.read(reader.parts(WHOLE)[0])
    column = [c.name for c in COLUMNS].index("flux")
    assert np.isnan(sequences.values[0, column]) and sequences.values[1, column] == np.inf
    assert sequences.passband[2] == -1 and (np.delete(sequences.passband, 2) >= 0).all()


def test_observations_in_any_order_are_read_in_the_objects_order(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "survey"))
    file = copy / "observations-00000.parquet"
    table = pq.read_table(file)
    order = np.argsort(table["mjd"].to_numpy(), kind="stable")
    pq.write_table(table.take(pa.array(order)), file)
    readers = SimulatedReader(folder, Options()), SimulatedReader(copy, Options())
    expected, found = (reader.read(reader.parts(WHOLE)[0]) for reader in readers)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(order[found.row_numbers], expected.row_numbers)
