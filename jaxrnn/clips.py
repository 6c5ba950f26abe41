"""Simulated subjects who watch film clips in a scanner: a label, the clip, for each time point of every scan.

The form is that of the film-watching scans of the Human Connectome Project as Misra et al. 2021 (PLOS Comput. Biol. 17,
e1008943) classified them: subjects, regions of a parcellation, 15 clips of unequal length, of which every subject saw
14 once and one four times. Each subject is a pure function of the seed and its own number, and a file of its own.

A scan is the clip's response, which all subjects share, and what goes on in the subject beside it. The response: a film
is scenes of some seconds, in each of which it has more or less of a few traits, and each trait drives by its own
weights the regions that respond at all, about 30 % of the cortex (Hasson et al. 2004, Science 303, 1634); smoothed and
delayed by the haemodynamic response (double gamma; Glover 1999, NeuroImage 9, 416), so that the first seconds of a clip
tell nothing. Subjects follow it with gains of their own. Beside it: fluctuations of seven networks (Yeo et al. 2011, J.
Neurophysiol. 106, 1125), smoothed the same way, and noise of each region with a memory from one time point to the next,
an autoregression of first order (Woolrich et al. 2001, NeuroImage 14, 1370).
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
from numpy.random import Generator, Philox
from pydantic import Field, model_validator

from jaxrnn import __version__
from jaxrnn.config import Number, Section, Whole
from jaxrnn.errors import JaxrnnError
from jaxrnn.results import check_version, read_json, write_json, written_whole

MADE_BY = "jaxrnn simulate --config FILE"
REPEATED = "test_retest"  # what the HCP calls the clip that every run ends with
SCAN_SECONDS = 1.0  # between two time points
RESPONSIVE = 0.3  # share of the regions that respond to films
TRAITS = 8  # that scenes have more or less of
SCENE_SECONDS = 10.0  # in the mean
GAIN_SPREAD = 0.3  # of the logarithm of a subject's gain in a region
NETWORKS = 7
NETWORK_SHARE = 0.3  # of what is not the clip's response
MEMORY = 0.4  # of a region's noise, from one time point to the next
RESPONSE_SECONDS = 32  # after which the haemodynamic response is over
# what a counter-based stream of numbers is for: the second number of its key, above all subjects
CLIP, ANATOMY = 2**32, 2**33


class Clips(Section):
    """Subjects in a scanner who watch film clips, in the form of the Human Connectome Project: HDF5 files for the
    reader `hdf5`, with a label, the clip, for each time point."""

    kind: Literal["clips"] = Field(description="`clips`, for subjects who watch film clips.")
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = Field(
        0, description="Another seed is other subjects who see other clips."
    )
    subjects: Annotated[Whole, Field(ge=2, lt=100_000)] = Field(176, description="How many subjects there are.")
    train_subjects: Annotated[Whole, Field(ge=1)] = Field(
        100, description="How many of them, the first ones, are of the training split; the others are the test split."
    )
    regions: Annotated[Whole, Field(ge=4, le=4096)] = Field(300, description="Regions of the brain: columns `bold`.")
    clips: Annotated[Whole, Field(ge=2, le=1000)] = Field(15, description="Different clips: the classes.")
    repeats: Annotated[Whole, Field(ge=1, le=100)] = Field(
        4, description="How often every subject sees the last clip, `test_retest`; the others are seen once."
    )
    shortest: Annotated[Whole, Field(ge=2)] = Field(
        48, description="Time points of the shortest clip, one a second; lengths lie evenly from here to `longest`."
    )
    longest: Annotated[Whole, Field(ge=2, le=10_000)] = Field(90, description="Time points of the longest clip.")
    shared_variance: Annotated[Number, Field(ge=0, lt=1)] = Field(
        0.2,
        description="Share of the variance of a region that responds which is the clip's own, in the mean: about the "
        "correlation between two subjects. At 0 nothing but the length of a scan tells its clip.",
    )

    @model_validator(mode="after")
    def _some_to_test(self) -> "Clips":
        if self.train_subjects >= self.subjects:
            raise ValueError(
                f"train_subjects: {self.train_subjects} of {self.subjects} subjects leave none to test; take fewer"
            )
        if self.shortest > self.longest:
            raise ValueError(f"shortest: {self.shortest} time points, and the longest clip has {self.longest}")
        return self

    @property
    def names(self) -> list[str]:
        """Returns the clips' names; the last one is the one that is repeated."""
        return [*(f"clip_{number:02d}" for number in range(self.clips - 1)), REPEATED]

    @property
    def steps(self) -> list[int]:
        """Returns how many time points each clip has. Neighbouring numbers differ much, and the repeated clip, the last
        one, is of middle length."""
        even = np.linspace(self.shortest, self.longest, self.clips).round().astype(int)
        order = np.argsort(np.arange(self.clips) * 7 % self.clips, kind="stable")
        lengths = even[order].tolist()
        middle = lengths.index(int(even[self.clips // 2]))
        lengths[middle], lengths[-1] = lengths[-1], lengths[middle]
        return lengths

    @property
    def seen(self) -> list[int]:
        """Returns the clips in the order in which every subject sees them: the repeated one ends each run."""
        each = -(-(self.clips - 1) // self.repeats)
        runs = [list(range(self.clips - 1))[start : start + each] for start in range(0, self.clips - 1, each)]
        runs += [[] for _ in range(self.repeats - len(runs))]
        return [clip for run in runs for clip in (*run, self.clips - 1)]


def _rng(simulation: Clips, purpose: int) -> Generator:
    return Generator(Philox(key=np.array([simulation.seed, purpose], dtype=np.uint64)))


@cache
def _response(steps: int) -> np.ndarray:
    """Returns the matrix [step, step + RESPONSE_SECONDS] that turns what neurons do, from before the first step on,
    into the blood's response, which for lasting activity comes to 1."""
    time = np.arange(RESPONSE_SECONDS) * SCAN_SECONDS

    def gamma(shape: float) -> np.ndarray:
        return time ** (shape - 1) * np.exp(-time) / math.gamma(shape)

    # peaks at 5 s, and an undershoot of a sixth of it later
    response = gamma(6.0) - gamma(16.0) / 6
    matrix = np.zeros((steps, steps + RESPONSE_SECONDS))
    for step in range(steps):
        matrix[step, step + 1 : step + RESPONSE_SECONDS + 1] = response[::-1]
    return matrix / response.sum()


@cache
def _memory(steps: int) -> np.ndarray:
    """Returns the matrix [step, step] that turns white noise into a stationary autoregression with variance 1."""
    lag = np.subtract.outer(np.arange(steps), np.arange(steps))
    matrix = np.where(lag >= 0, MEMORY ** np.maximum(lag, 0), 0.0)
    # the first column carries all that went before
    matrix[:, 1:] *= np.sqrt(1 - MEMORY**2)
    return matrix


def _anatomy(simulation: Clips) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights [trait, region] with which what goes on in films drives regions, all 0 in those that do not
    respond, else of norm 1; and the network of each region."""
    rng = _rng(simulation, ANATOMY)
    weights = rng.normal(size=(TRAITS, simulation.regions))
    weights /= np.sqrt(np.square(weights).sum(axis=0))
    responsive = rng.permutation(simulation.regions) < max(1, round(RESPONSIVE * simulation.regions))
    return weights * responsive, rng.integers(0, NETWORKS, simulation.regions)


def responses(simulation: Clips) -> list[np.ndarray]:
    """Returns each clip's own response [step, region], of variance about 1 where a region responds."""
    weights, _ = _anatomy(simulation)
    found = []
    for clip, steps in enumerate(simulation.steps):
        rng = _rng(simulation, CLIP + clip)
        cuts = rng.random(steps) < SCAN_SECONDS / SCENE_SECONDS
        scenes = rng.normal(size=(steps + 1, TRAITS))[np.cumsum(cuts)]
        # before the film there is nothing to see
        seen = np.concatenate([np.zeros((RESPONSE_SECONDS, TRAITS)), scenes])
        found.append(_response(steps) @ seen @ weights)
    return found


def scans(simulation: Clips, subject: int) -> list[np.ndarray]:
    """Returns what is measured of a subject, in the order of `seen`: [step, region] each, in the scanner's units; a
    pure function of the parameters and the subject's number."""
    rng = _rng(simulation, subject)
    _, network = _anatomy(simulation)
    own = responses(simulation)
    gains = np.exp(rng.normal(-(GAIN_SPREAD**2) / 2, GAIN_SPREAD, simulation.regions))
    found = []
    for clip in simulation.seen:
        steps = simulation.steps[clip]
        fluctuations = _response(steps) @ rng.normal(size=(steps + RESPONSE_SECONDS, NETWORKS))
        fluctuations /= np.sqrt(np.square(_response(1)).sum())
        noise = _memory(steps) @ rng.normal(size=(steps, simulation.regions))
        beside = np.sqrt(NETWORK_SHARE) * fluctuations[:, network] + np.sqrt(1 - NETWORK_SHARE) * noise
        shared = simulation.shared_variance
        signal = np.sqrt(shared) * gains * own[clip] + np.sqrt(1 - shared) * beside
        # each scan has the scanner's scale and level of that day
        found.append(rng.normal(10_000, 300) + rng.uniform(50, 150) * signal)
    return found


def simulate(simulation: Clips, folder: Path, rank: int, size: int, progress: Callable[[int, int], None]) -> None:
    """Writes the subjects of `rank` among `size` ranks, a file each; files that are there already are kept.

    A file has bold [scan, time point, region] float32, NaN beyond a clip's end, clip [scan, time point], and, [scan],
    subject and split (train or test). progress and errors: as of `jaxrnn.simulate.simulate`.
    """
    _check_folder(simulation, folder)
    subjects = range(rank, simulation.subjects, size)
    for done, subject in enumerate(subjects, start=1):
        file = _file(folder, subject)
        if not file.exists():
            with written_whole(file) as temporary:
                _write(simulation, subject, temporary)
        progress(done, len(subjects))


def _write(simulation: Clips, subject: int, file: Path) -> None:
    measured = scans(simulation, subject)
    bold = np.full((len(measured), simulation.longest, simulation.regions), np.nan, dtype=np.float32)
    labels = np.full(bold.shape[:2], "", dtype="S16")
    for scan, (values, clip) in enumerate(zip(measured, simulation.seen, strict=True)):
        bold[scan, : len(values)] = values
        labels[scan, : len(values)] = simulation.names[clip]
    split = "train" if subject < simulation.train_subjects else "test"
    with h5py.File(file, "w") as opened:
        opened.attrs["jaxrnn_version"] = __version__
        opened.attrs["simulation"] = simulation.model_dump_json()
        opened["bold"], opened["clip"] = bold, labels
        opened["subject"] = np.full(len(measured), f"subject_{subject:03d}", dtype="S16")
        opened["split"] = np.full(len(measured), split, dtype="S5")


def finish(simulation: Clips, folder: Path) -> None:
    """Writes `survey.json`, which makes the files a survey; raises JaxrnnError where a file is missing."""
    _check_folder(simulation, folder)
    files = [_file(folder, subject) for subject in range(simulation.subjects)]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise JaxrnnError(
            f"{missing[0]}: not written, and {len(missing) - 1} files more; run `{MADE_BY}` again, it goes on"
        )
    steps = dict(zip(simulation.names, simulation.steps, strict=True))
    described = {"simulation": simulation.model_dump(mode="json"), "scan_seconds": SCAN_SECONDS, "time_points": steps}
    write_json(folder / "survey.json", {**described, "files": [file.name for file in files]})


def _file(folder: Path, subject: int) -> Path:
    return folder / f"subject_{subject:03d}.h5"


def _check_folder(simulation: Clips, folder: Path) -> None:
    """Raises JaxrnnError where the folder holds (part of) a survey of other parameters or of another version."""
    remedy = "nothing was changed; choose another folder, or remove this one if the survey is no longer needed"
    if folder.exists() and not folder.is_dir():
        raise JaxrnnError(f"{folder}: is a file; expected a folder for the survey; {remedy}")
    found: dict[Path, Any] = {}
    if (folder / "survey.json").exists():
        found[folder / "survey.json"] = read_json(folder / "survey.json", MADE_BY).get("simulation")
    for file in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(file, "r") as opened:
                check_version(opened.attrs["jaxrnn_version"], file)
                found[file] = Clips.model_validate_json(str(opened.attrs["simulation"])).model_dump(mode="json")
        except (OSError, KeyError, ValueError) as error:
            raise JaxrnnError(f"{file}: not a whole file of a simulated survey ({error!r}); {remedy}")
    for file, there in found.items():
        if there != simulation.model_dump(mode="json"):
            raise JaxrnnError(f"{file}: of a survey with other parameters; {remedy}")
