"""A simulated survey: variable stars, supernovae and active galactic nuclei, as difference photometry.

Each object is a pure function of the seed and its own number (`light_curve`), so any number of ranks, and any cut into
files, makes the same survey. What is observed is the flux on each image minus that on a template, in uJy: the template
is the mean of images taken in the year before the survey. An object enters the survey when `DETECTIONS` observations
differ from the template by 5 sigma; one that doesn't is drawn again. Observations without a detection stay in as forced
photometry, from `FORCED_DAYS` before the first detection to as long after the last.

Sources: pulsation as Fourier series, Simon & Lee 1981 (ApJ 248, 291), values about those of Soszynski et al. 2008 and
2009 (Acta Astron. 58, 163; 59, 1); supernova light curves, Bazin et al. 2009 (A&A 499, 653) with the plateau of Villar
et al. 2019 (ApJ 884, 83); damped random walk, Kelly et al. 2009 (ApJ 698, 895), its parameters, MacLeod et al. 2010
(ApJ 721, 1014); photometric errors, Ivezic et al. 2019 (ApJ 873, 111).
"""

import json
import math
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator, Philox
from pydantic import Field, model_validator

from jaxrnn import __version__
from jaxrnn.config import Number, Section, Whole
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers.simulated import FLUX_UNIT, MADE_BY, METADATA, OBJECTS, OBSERVATIONS, ZERO_POINT_MAGNITUDE
from jaxrnn.results import check_version, read_json, write_json, written_whole

# Effective wavelengths of LSST's filters (Ivezic et al. 2019), in nm.
WAVELENGTH_NM = {"u": 367.0, "g": 483.0, "r": 622.0, "i": 755.0, "z": 869.0, "y": 971.0}
FIRST_MJD = 60000.0
YEAR_DAYS = 365.25
DETECTION_SIGMA = 5.0
DETECTIONS = 5  # an object with fewer is not in the survey
FORCED_DAYS = 30.0
TEMPLATE_IMAGES = 10
GAMMA = 0.039  # Ivezic et al. 2019, table 2: share of the sky in the noise
CALIBRATION_ERROR = 0.005  # of the flux: what photometry can't get better than
DRAWS = 1000  # after so many objects that nobody detects, the survey can't be made


class Objects(Section):
    """How many objects of each class the survey holds."""

    variable_star: Annotated[Whole, Field(ge=0)] = Field(
        description="RR Lyrae, delta Scuti, Cepheids, long-period variables."
    )
    supernova: Annotated[Whole, Field(ge=0)] = Field(description="Types Ia, Ib/c and II.")
    agn: Annotated[Whole, Field(ge=0)] = Field(description="Active galactic nuclei.")


class Simulation(Section):
    """A survey of the sky to be made: what it looks at, and how often and how deep."""

    kind: Literal["light_curves"] = Field(
        "light_curves",
        description="What survey is made: `light_curves` for the reader `simulated`, or `clips` or `waves` (below).",
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(
        0, description="Another seed is another survey of the same kind."
    )
    objects: Objects = Field(
        Objects(variable_star=2000, supernova=150, agn=150),
        description="Number of objects of each class; 0 leaves a class out. Imbalanced by default, as surveys are.",
    )
    passbands: Annotated[tuple[Literal["u", "g", "r", "i", "z", "y"], ...], Field(min_length=1)] = Field(
        ("g", "r", "i"), description="Filters; a visit takes some of them, at least one. More make longer sequences."
    )
    days: Annotated[Number, Field(ge=30, le=20000)] = Field(
        600.0, description="Length of the survey, days. Longer for slow variability and longer sequences."
    )
    cadence_days: Annotated[Number, Field(ge=0.1, le=100)] = Field(
        6.0, description="Mean time between visits to a field in its season, days. Shorter makes longer sequences."
    )
    season_days: Annotated[Number, Field(ge=10, le=YEAR_DAYS)] = Field(
        210.0, description="How long of each year a field is up, days; the rest is a gap. 365.25 leaves no gap."
    )
    depth_magnitude: Annotated[Number, Field(ge=15, le=27)] = Field(
        21.0,
        description="AB magnitude detected at 5 sigma in a dark, typical night. About 20 for GOTO, 20.5 for ZTF, 24 "
        "for LSST. Deeper means farther supernovae.",
    )
    objects_per_file: Annotated[Whole, Field(ge=1)] = Field(
        1000,
        description="Objects in one file. Ranks share the files: at least as many files as ranks keep all at work.",
    )

    @model_validator(mode="after")
    def _observable(self) -> "Simulation":
        if len(set(self.passbands)) < len(self.passbands):
            raise ValueError("passbands: one is listed twice")
        if self.number_of_objects == 0:
            raise ValueError("objects: all are 0; expected at least one object")
        visits = self.days * self.season_days / YEAR_DAYS / self.cadence_days
        if visits < 2 * DETECTIONS:
            raise ValueError(
                f"days, season_days and cadence_days give a field {visits:.1f} visits; expected at least "
                f"{2 * DETECTIONS}, for {DETECTIONS} detections; lengthen the survey or season, or shorten the cadence"
            )
        return self

    @property
    def number_of_objects(self) -> int:
        return sum(count for _, count in self.objects)

    @property
    def number_of_files(self) -> int:
        return math.ceil(self.number_of_objects / self.objects_per_file)

    def label(self, index: int) -> str:
        """Returns the class of object `index`, without making any other.

        Each class lies as evenly among the objects as its number lets it, so every file has the survey's proportions.
        """
        total = self.number_of_objects
        for label, count in self.objects:
            before = index * count // total
            if (index + 1) * count // total > before:
                return label
            # go on among the objects of the other classes
            index, total = index - before, total - count
        raise IndexError(f"the survey has {self.number_of_objects} objects")


LABELS = tuple(Objects.model_fields)


@dataclass(frozen=True)
class LightCurve:
    """One object as the survey has it; arrays are [observation], in order of time.

    time: MJD, days. passband: index into the survey's passbands. flux, flux_error and true_flux (without noise): uJy,
    relative to the template. metadata: galactic latitude (deg) and host distance (arcsec).
    """

    object_id: str
    label: str
    metadata: tuple[float, float]
    time: np.ndarray
    passband: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    detected: np.ndarray
    true_flux: np.ndarray


@dataclass(frozen=True)
class _Source:
    """What stands in the sky: its whole flux (with that of its host) at each epoch asked for, uJy, and its metadata."""

    flux: np.ndarray
    galactic_latitude_deg: float
    host_distance_arcsec: float


def light_curve(simulation: Simulation, index: int) -> LightCurve:
    """Returns object `index` of the survey; a pure function of the parameters but `objects_per_file`, and of `index`.

    Raises JaxrnnError where the survey is so shallow or short that nothing of the object's class is ever detected.
    """
    label = simulation.label(index)
    # counter-based: the key alone sets the stream, and streams of different keys are independent (Salmon et al. 2011)
    rng = Generator(Philox(key=np.array([simulation.seed, index], dtype=np.uint64)))
    for _ in range(DRAWS):
        observed = _observe(simulation, rng, label, f"{index:08d}")
        if observed is not None:
            return observed
    raise JaxrnnError(
        f"simulation: object {index} ({label}): of {DRAWS} drawn, none had {DETECTIONS} detections; the survey is too "
        f"shallow or too short for it; raise depth_magnitude, days or season_days, or shorten cadence_days"
    )


def _observe(simulation: Simulation, rng: Generator, label: str, object_id: str) -> LightCurve | None:
    """Returns a new object of the class as the survey sees it, or None where it isn't detected often enough."""
    time, passband, depth = _visits(simulation, rng)
    if len(time) < DETECTIONS:
        return None
    bands = len(simulation.passbands)
    template_time = np.repeat(np.sort(rng.uniform(-YEAR_DAYS, 0.0, TEMPLATE_IMAGES)), bands)
    wavelength = np.array([WAVELENGTH_NM[name] for name in simulation.passbands])
    images = len(template_time)
    source = _SOURCES[label](
        rng,
        simulation.depth_magnitude,
        np.concatenate([template_time, time]),
        np.concatenate([np.tile(wavelength, TEMPLATE_IMAGES), wavelength[passband]]),
    )
    template = source.flux[:images].reshape(TEMPLATE_IMAGES, bands).mean(axis=0)
    total = source.flux[images:]
    true_flux = total - template[passband]
    flux_error = photometric_error(total, depth)
    flux = true_flux + flux_error * rng.standard_normal(len(time))
    detected = np.abs(flux) >= DETECTION_SIGMA * flux_error
    if np.count_nonzero(detected) < DETECTIONS:
        return None
    found = time[detected]
    kept = slice(*np.searchsorted(time, (found[0] - FORCED_DAYS, found[-1] + FORCED_DAYS)))
    return LightCurve(
        object_id=object_id,
        label=label,
        metadata=(source.galactic_latitude_deg, source.host_distance_arcsec),
        time=FIRST_MJD + time[kept],
        passband=passband[kept],
        flux=flux[kept],
        flux_error=flux_error[kept],
        detected=detected[kept],
        true_flux=true_flux[kept],
    )


def _visits(simulation: Simulation, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns when a field is observed (days since the survey began), in which passband, and how deep: [observation].

    The season opens on a date that follows from the field's right ascension, which is uniform. Some fields are visited
    more often, or join late, or are given up early.
    """
    cadence = simulation.cadence_days * rng.uniform(0.6, 1.4)
    start, stop = simulation.days * rng.uniform(0.0, 0.3), simulation.days * rng.uniform(0.7, 1.0)
    visit = start + rng.exponential(cadence, size=math.ceil(1.5 * (stop - start) / cadence) + 20).cumsum()
    season_opens = rng.uniform(0.0, YEAR_DAYS)
    visit = visit[(visit < stop) & ((visit - season_opens) % YEAR_DAYS < simulation.season_days)]
    at_night = np.floor(visit) + rng.uniform(0.0, 0.3, len(visit))
    moonlight = 0.5 + 0.5 * np.cos(2 * np.pi / 29.53 * visit)
    seeing = rng.normal(0.0, 0.2, len(visit))

    # each visit takes the passbands whose turn falls below 0.6, one after another within the hour
    turn = rng.random((len(visit), len(simulation.passbands)))
    taken = (turn < 0.6) | (turn == turn.min(axis=1, keepdims=True, initial=1.0))
    row, passband = np.nonzero(taken)
    time = at_night[row] + 0.04 * turn[taken]
    # scattered moonlight is blue
    lost = np.array([0.8 * (WAVELENGTH_NM["g"] / WAVELENGTH_NM[name]) ** 2 for name in simulation.passbands])
    depth = simulation.depth_magnitude + seeing[row] - moonlight[row] * lost[passband]
    order = np.argsort(time, kind="stable")
    return time[order], passband[order], depth[order]


def photometric_error(flux: np.ndarray, depth_magnitude: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of a measured flux, uJy, at 5 sigma depths `depth_magnitude`.

    Ivezic et al. 2019, eq. 5, times flux: with x = f5 / f, sigma^2 = f^2 ((0.04 - gamma) x + gamma x^2), where f5 is
    the flux at the 5 sigma depth. Photons of the object make the first term, those of the sky the second.
    """
    limit = _flux(depth_magnitude)
    return np.sqrt(GAMMA * limit**2 + (0.04 - GAMMA) * limit * flux + (CALIBRATION_ERROR * flux) ** 2)


@dataclass(frozen=True)
class Pulsator:
    """A kind of pulsating star: magnitude = mean + A1 sum_k R_k1 cos(k phase + phi_k1), R_11 = 1, phi_11 = 0.

    share: of the variable stars. period_days, amplitude: ranges, log-uniform; amplitude is A1 in g, magnitudes.
    ratio, phase: R_k1 and phi_k1 (rad) of k = 2, 3, 4. colour: g - r, magnitudes.
    """

    share: float
    period_days: tuple[float, float]
    amplitude: tuple[float, float]
    ratio: tuple[float, float, float]
    phase: tuple[float, float, float]
    colour: float


# The Cepheids' bump moves through the light curve with the period (Hertzsprung 1926), and is at the top at 10 days.
PULSATORS = {
    "RR Lyrae ab": Pulsator(0.28, (0.45, 0.80), (0.22, 0.45), (0.48, 0.34, 0.22), (3.97, 1.96, 6.20), 0.25),
    "RR Lyrae c": Pulsator(0.12, (0.25, 0.42), (0.15, 0.27), (0.14, 0.07, 0.04), (4.70, 2.80, 1.60), 0.15),
    "delta Scuti": Pulsator(0.12, (0.05, 0.20), (0.05, 0.30), (0.28, 0.10, 0.04), (3.95, 1.80, 6.00), 0.15),
    "Cepheid, short": Pulsator(0.10, (3.0, 8.0), (0.22, 0.40), (0.42, 0.18, 0.08), (4.30, 2.30, 0.40), 0.50),
    "Cepheid, bump": Pulsator(0.06, (8.0, 13.0), (0.20, 0.35), (0.18, 0.13, 0.07), (5.00, 5.60, 2.50), 0.60),
    "Cepheid, long": Pulsator(0.06, (13.0, 40.0), (0.30, 0.50), (0.38, 0.20, 0.10), (4.80, 3.10, 1.50), 0.75),
    "long-period variable": Pulsator(0.26, (60.0, 450.0), (0.06, 2.00), (0.15, 0.05, 0.02), (4.40, 2.50, 1.00), 1.30),
}
_PULSATORS = tuple(PULSATORS.values())
_PULSATOR_SHARES = tuple(accumulate(kind.share for kind in _PULSATORS))


def _variable_star(rng: Generator, depth: float, time: np.ndarray, wavelength: np.ndarray) -> _Source:
    kind = _PULSATORS[bisect(_PULSATOR_SHARES, rng.random() * _PULSATOR_SHARES[-1])]
    period, amplitude = _log_uniform(rng, *kind.period_days), _log_uniform(rng, *kind.amplitude)
    ratio = np.array([1.0, *kind.ratio]) * rng.normal(1.0, 0.1, 4)
    offset = np.array([0.0, *kind.phase]) + rng.normal(0.0, 0.1, 4)
    phase = rng.uniform(0.0, 2 * np.pi) + 2 * np.pi / period * time
    shape = ratio @ np.cos(np.arange(1, 5)[:, None] * phase + offset[:, None])
    # RR Lyrae in SDSS (Sesar et al. 2010, ApJ 708, 717): 1 : 0.7 : 0.6 in g, r, i, and no more in u than in g
    reddened = (np.maximum(wavelength, WAVELENGTH_NM["g"]) / WAVELENGTH_NM["g"]) ** -1.2
    mean = rng.uniform(depth - 6.0, depth) + _colour(rng.normal(kind.colour, 0.15), wavelength)
    # a disc, seen from within
    latitude = min(rng.exponential(20.0), 90.0) * (1 if rng.random() < 0.5 else -1)
    return _Source(_flux(mean + amplitude * reddened * shape), latitude, _chance_distance(rng))


@dataclass(frozen=True)
class SupernovaType:
    """A type of supernova, means in the rest frame; share: of the supernovae detected.

    magnitude, scatter: absolute, at the peak in r. rise_days, fall_days: e-folding times in r, plateau_days: between
    them. decline: share of the flux lost in the plateau. colour: g - r at the peak, magnitudes.
    """

    share: float
    magnitude: float
    scatter: float
    rise_days: float
    fall_days: float
    plateau_days: float
    decline: float
    colour: float

    def shape(self, days: np.ndarray, redness: np.ndarray) -> np.ndarray:
        """Returns the flux, 1 at the peak in r, at days in the rest frame and wavelengths relative to r."""
        rise, fall = self.rise_days * redness**0.3, self.fall_days * redness
        # redder light peaks later
        later = days - 3.0 * (redness - 1)
        return supernova_shape(later, rise, fall, self.plateau_days, self.decline) / self._brightest

    @cached_property
    def _brightest(self) -> float:
        days = np.linspace(0.0, 50.0, 501)
        return float(supernova_shape(days, self.rise_days, self.fall_days, self.plateau_days, self.decline).max())


# Peak magnitudes: Richardson et al. 2014 (AJ 147, 118); times: Bazin et al. 2009, Villar et al. 2019.
SUPERNOVA_TYPES = {
    "Ia": SupernovaType(0.65, -19.3, 0.35, 3.5, 25.0, 4.0, 0.1, 0.0),
    "Ib/c": SupernovaType(0.12, -17.6, 0.8, 4.0, 20.0, 4.0, 0.1, 0.4),
    "II": SupernovaType(0.23, -17.0, 0.9, 3.0, 14.0, 85.0, 0.4, 0.2),
}
_TYPES = tuple(SUPERNOVA_TYPES.values())
_TYPE_SHARES = tuple(accumulate(kind.share for kind in _TYPES))


def supernova_shape(
    days: np.ndarray, rise_days: np.ndarray | float, fall_days: np.ndarray | float, plateau_days: float, decline: float
) -> np.ndarray:
    """Returns a supernova's flux relative to what it would be at once after an instant rise; arrays broadcast.

    Villar et al. 2019, eq. 1: 1 / (1 + exp(-t / rise)), times 1 - decline t / plateau on the plateau and an exponential
    with the time `fall` after it; with a short plateau the function of Bazin et al. 2009.
    """
    rise = 1.0 / (1.0 + np.exp(-np.clip(days / rise_days, -50.0, 50.0)))
    plateau = 1.0 - decline * np.clip(days / plateau_days, 0.0, 1.0)
    return rise * plateau * np.exp(-np.maximum(days - plateau_days, 0.0) / fall_days)


def _supernova(rng: Generator, depth: float, time: np.ndarray, wavelength: np.ndarray) -> _Source:
    kind = _TYPES[bisect(_TYPE_SHARES, rng.random() * _TYPE_SHARES[-1])]
    absolute = rng.normal(kind.magnitude, kind.scatter)
    redshift = _redshift(rng, absolute, depth - 0.5, farthest=1.2)
    rest_nm = wavelength / (1 + redshift)
    slowness = rng.lognormal(0.0, 0.15)
    days = (time - rng.uniform(0.0, time[-1])) / (1 + redshift) / slowness
    shape = kind.shape(days, rest_nm / WAVELENGTH_NM["r"])
    peak = absolute + distance_modulus(redshift) + _colour(rng.normal(kind.colour, 0.1), rest_nm)
    host = _flux(rng.uniform(depth - 1.0, depth + 3.0) + _colour(0.6, wavelength))
    if rng.random() < 0.12:
        distance = _chance_distance(rng)  # the host is too faint for the catalogue
    else:
        # an exponential disc with a scale of 3 kpc, at the angular diameter distance
        kpc_per_arcsec = 10 ** (0.2 * distance_modulus(redshift) - 2) / (1 + redshift) ** 2 / 206265.0
        distance = _centroided(rng, rng.gamma(2.0, 3.0 / kpc_per_arcsec))
    return _Source(host + _flux(peak) * shape, _extragalactic_latitude(rng), distance)


def damped_random_walk(rng: Generator, time: np.ndarray, damping_time: float) -> np.ndarray:
    """Returns the process of mean 0, variance 1 and correlation exp(-|dt| / damping_time) at ascending times: [time].

    Exact for any spacing (Kelly et al. 2009, eq. 4 to 7): given the value before it, each is Gaussian.
    """
    kept = np.exp(-np.diff(time, prepend=time[:1]) / damping_time)
    fresh = np.sqrt(1.0 - kept**2) * rng.standard_normal(len(time))
    value = rng.standard_normal()
    values = []
    for share, innovation in zip(kept.tolist(), fresh.tolist(), strict=True):
        value = share * value + innovation
        values.append(value)
    return np.array(values)


def _agn(rng: Generator, depth: float, time: np.ndarray, wavelength: np.ndarray) -> _Source:
    """MacLeod et al. 2010, eq. 7: amplitude and damping time by wavelength, luminosity and black hole mass.

    The damping time's weak dependence on wavelength is left out, so that one process drives all passbands.
    """
    absolute = rng.normal(-23.0, 1.2)
    redshift = _redshift(rng, absolute, depth - 1.5, farthest=3.0)
    log_mass = rng.normal(2.0 - 0.27 * absolute, 0.3) - 9.0
    damping_time = 10 ** (2.4 + 0.03 * (absolute + 23) + 0.21 * log_mass + rng.normal(0.0, 0.2)) * (1 + redshift)
    rest_nm = wavelength / (1 + redshift)
    log_amplitude = -0.51 + 0.131 * (absolute + 23) + 0.18 * log_mass + rng.normal(0.0, 0.15)
    # the standard deviation is SF_infinity / sqrt(2)
    deviation = 10**log_amplitude / math.sqrt(2) * (rest_nm / 400.0) ** -0.479
    mean = absolute + distance_modulus(redshift) + _colour(rng.normal(0.2, 0.15), wavelength)
    # every fifth is catalogued as a star, and the nearest galaxy is another one
    distance = _chance_distance(rng) if rng.random() < 0.2 else _centroided(rng, 0.0)
    flux = _flux(mean + deviation * damped_random_walk(rng, time, damping_time))
    return _Source(flux, _extragalactic_latitude(rng), distance)


_SOURCES: dict[str, Callable[[Generator, float, np.ndarray, np.ndarray], _Source]] = {
    "variable_star": _variable_star,
    "supernova": _supernova,
    "agn": _agn,
}


def _flux(magnitude: Any) -> Any:
    """Returns the flux of an AB magnitude, uJy."""
    return 10.0 ** (0.4 * (ZERO_POINT_MAGNITUDE - magnitude))


def _colour(g_minus_r: float, wavelength: np.ndarray) -> np.ndarray:
    """Returns magnitude minus that in r, linear in 1 / wavelength, as a thermal spectrum has it."""
    inverse = 1.0 / WAVELENGTH_NM["r"]
    return g_minus_r * (1.0 / wavelength - inverse) / (1.0 / WAVELENGTH_NM["g"] - inverse)


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


_REDSHIFTS = np.linspace(0.0, 3.0, 3001)[1:]
# flat universe, H0 = 70 km/s/Mpc, matter 0.3; the integral from 0 by the trapezoidal rule
_HUBBLE = np.sqrt(0.3 * (1 + _REDSHIFTS) ** 3 + 0.7)
_STEPS = np.diff(_REDSHIFTS, prepend=0.0) * 0.5 * (1 / _HUBBLE + 1 / np.r_[1.0, _HUBBLE[:-1]])
_COMOVING_MPC = 299792.458 / 70.0 * np.cumsum(_STEPS)
_MODULI = 5 * np.log10((1 + _REDSHIFTS) * _COMOVING_MPC) + 25


def distance_modulus(redshift: float) -> float:
    """Returns apparent minus absolute magnitude at a redshift of at most 3 (flat, H0 = 70 km/s/Mpc, matter 0.3)."""
    return float(np.interp(redshift, _REDSHIFTS, _MODULI))


def _redshift(rng: Generator, absolute: float, limit: float, farthest: float) -> float:
    """Returns the redshift of a source brighter than magnitude `limit`: as many in each volume, near us as z^3."""
    reach = min(float(np.interp(limit - absolute, _MODULI, _REDSHIFTS)), farthest)
    return reach * rng.random() ** (1 / 3)


def _extragalactic_latitude(rng: Generator) -> float:
    """Returns a galactic latitude in degrees: uniform on the sphere, but behind the dust of the plane."""
    return math.degrees(math.asin(rng.uniform(0.1, 1.0))) * (1 if rng.random() < 0.5 else -1)


def _chance_distance(rng: Generator) -> float:
    """Returns how far the nearest unrelated galaxy is, arcsec: 5 an arcmin^2, placed at random."""
    return rng.rayleigh(60.0 / math.sqrt(2 * math.pi * 5.0))


def _centroided(rng: Generator, distance: float) -> float:
    """Returns a distance in arcsec as measured, with a positional error of 0.3 arcsec."""
    return math.hypot(distance + rng.normal(0.0, 0.3), rng.normal(0.0, 0.3))


def simulate(simulation: Simulation, folder: Path, rank: int, size: int, progress: Callable[[int, int], None]) -> None:
    """Writes the files of `rank` among `size` ranks; files that are there already are kept, so a killed run goes on.

    progress: called after each file with the number of this rank's files that are done, and of all of them. `finish`
    follows, on one rank, when every rank is done. Raises JaxrnnError, with nothing written, where the folder holds
    another survey.
    """
    _check_folder(simulation, folder)
    numbers = range(rank, simulation.number_of_files, size)
    for done, number in enumerate(numbers, start=1):
        files = _files(folder, number)
        if not all(file.exists() for file in files):
            curves = [light_curve(simulation, index) for index in _objects_of(simulation, number)]
            for file, table in zip(files, _tables(simulation, curves), strict=True):
                with written_whole(file) as temporary:
                    pq.write_table(table, temporary, compression="zstd")
        progress(done, len(numbers))


def finish(simulation: Simulation, folder: Path) -> None:
    """Writes `survey.json`, which makes the files a survey; raises JaxrnnError where a file is missing."""
    _check_folder(simulation, folder)
    files = {number: _files(folder, number) for number in range(simulation.number_of_files)}
    missing = [file for pair in files.values() for file in pair if not file.exists()]
    if missing:
        raise JaxrnnError(
            f"{missing[0]}: not written, and {len(missing) - 1} files more; run `{MADE_BY}` again, it goes on"
        )
    description = {
        "simulation": simulation.model_dump(mode="json"),
        "passbands": list(simulation.passbands),
        "time": "MJD, days",
        "flux_unit": FLUX_UNIT,
        "zero_point_magnitude": ZERO_POINT_MAGNITUDE,
        "metadata_units": {column.name: column.unit for column in METADATA},
        "files": [
            {"objects": objects.name, "observations": observations.name, "count": len(_objects_of(simulation, number))}
            for number, (objects, observations) in files.items()
        ],
    }
    write_json(folder / "survey.json", description)


def _objects_of(simulation: Simulation, number: int) -> range:
    """Returns the objects of one file."""
    start = number * simulation.objects_per_file
    return range(start, min(start + simulation.objects_per_file, simulation.number_of_objects))


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"objects-{number:05d}.parquet", folder / f"observations-{number:05d}.parquet"


def _tables(simulation: Simulation, curves: list[LightCurve]) -> tuple[pa.Table, pa.Table]:
    """Returns the objects and the observations of one file; both carry what they were made from."""
    metadata = {"jaxrnn": json.dumps({"jaxrnn_version": __version__, "simulation": simulation.model_dump(mode="json")})}
    ids = pa.array([curve.object_id for curve in curves])
    lengths = [len(curve.time) for curve in curves]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(curve, name) for curve in curves])

    objects = [ids, [curve.label for curve in curves], *np.array([curve.metadata for curve in curves]).T]
    observations = [
        ids.take(pa.array(np.repeat(np.arange(len(curves)), lengths))),
        joined("time"),
        pa.array(simulation.passbands).take(pa.array(joined("passband"))),
        joined("flux").astype(np.float32),
        joined("flux_error").astype(np.float32),
        joined("detected"),
    ]
    return (
        pa.table(objects, schema=OBJECTS.with_metadata(metadata)),
        pa.table(observations, schema=OBSERVATIONS.with_metadata(metadata)),
    )


def _check_folder(simulation: Simulation, folder: Path) -> None:
    """Raises JaxrnnError where the folder holds (part of) a survey of other parameters or of another version."""
    remedy = "nothing was changed; choose another folder, or remove this one if the survey is no longer needed"
    if folder.exists() and not folder.is_dir():
        raise JaxrnnError(f"{folder}: is a file; expected a folder for the survey; {remedy}")
    description = folder / "survey.json"
    found = {description: read_json(description, MADE_BY)} if description.exists() else {}
    for file in sorted(folder.glob("*.parquet")):
        try:
            metadata = pq.read_schema(file).metadata or {}
            found[file] = dict(json.loads(metadata[b"jaxrnn"]))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise JaxrnnError(f"{file}: not a whole file of a simulated survey ({error!r}); {remedy}")
        check_version(found[file].get("jaxrnn_version"), file)
    wanted = simulation.model_dump(mode="json")
    for file, values in found.items():
        there = values.get("simulation")
        if there != wanted:
            keys = [key for key in wanted if not isinstance(there, dict) or there.get(key) != wanted[key]]
            raise JaxrnnError(f"{file}: of a survey with other parameters (different: {', '.join(keys)}); {remedy}")
