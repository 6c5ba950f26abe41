"""Simulated sine and square waves, in the form of the ADACS workshop on sequence classification: raw `.dat` files.

As its MATLAB script has it (M. Smith, Swinburne University of Technology): 128 samples x = 1, 2, ..., 128 of sin(f x)
or of MATLAB's square(f x), which is 1 in the first half of a period and -1 in the second; f is 0.1 + 0.3 U radians a
step, U uniform in [0, 1), and each kind is as likely; no noise. Each wave is a pure function of the seed, its split and
its number, so that more of them change none of the others.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator, Philox
from pydantic import Field, model_validator

from jaxrnn import __version__
from jaxrnn.config import Section, Whole
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SPLITS
from jaxrnn.results import check_version, read_json, write_json, written_whole

MADE_BY = "jaxrnn simulate --config FILE"
STEPS = 128
LOWEST, SPREAD = 0.1, 0.3  # of the frequency, radians a step
SINE, SQUARE = 0.0, 1.0  # what a Y file holds
Count = Annotated[Whole, Field(ge=0, lt=10_000_000)]


class Waves(Section):
    """Sine and square waves of 128 samples, as the ADACS workshop's: raw files for the reader `dat`, labelled 0 and 1,
    in a folder for each split."""

    kind: Literal["waves"] = Field(description="`waves`, for the reader `dat`.")
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(0, description="Another seed is other waves.")
    train: Count = Field(200, description="Waves of the training split; 0 leaves it out.")
    validation: Count = Field(50, description="Waves of the validation split; 0 leaves it out.")
    test: Count = Field(2000, description="Waves of the test split; 0 leaves it out.")

    @model_validator(mode="after")
    def _some(self) -> "Waves":
        if not any(self.counts.values()):
            raise ValueError("train, validation and test: all are 0; expected at least one wave")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Returns how many waves each split has."""
        return {split: getattr(self, split) for split in SPLITS}


def wave(simulation: Waves, split: str, number: int) -> tuple[np.ndarray, float]:
    """Returns a wave's samples [step] float64 and its label, `SINE` or `SQUARE`."""
    # the second word of the key is the stream: no two waves share one
    stream = SPLITS.index(split) << 32 | number
    rng = Generator(Philox(key=np.array([simulation.seed, stream], dtype=np.uint64)))
    label = SINE if rng.random() < 0.5 else SQUARE
    phase = (LOWEST + SPREAD * rng.random()) * np.arange(1, STEPS + 1)
    return (np.sin(phase) if label == SINE else square(phase)), label


def square(phase: np.ndarray) -> np.ndarray:
    """Returns MATLAB's square wave of a phase in radians."""
    return np.where(np.mod(phase, 2 * np.pi) < np.pi, 1.0, -1.0)


def simulate(simulation: Waves, folder: Path, rank: int, size: int, progress: Callable[[int, int], None]) -> None:
    """Writes the waves of `rank` among `size` ranks: `<split>/X_<number>.dat`, `<split>/Y_<number>.dat`, from number 1.

    progress and errors: as of `jaxrnn.simulate.simulate`.
    """
    _check_folder(simulation, folder)
    waves = [(split, number) for split, count in simulation.counts.items() for number in range(1, count + 1)]
    mine = waves[rank::size]
    for done, (split, number) in enumerate(mine, start=1):
        samples, label = wave(simulation, split, number)
        for file, values in zip(_files(folder, split, number), (samples, np.array([label])), strict=True):
            # to wait for the disk would take a hundred times as long, and `simulate` makes them again
            with written_whole(file, durable=False) as temporary:
                temporary.write_bytes(values.astype("<f8").tobytes())
        progress(done, len(mine))


def finish(simulation: Waves, folder: Path) -> None:
    """Writes `survey.json`, which makes the files a survey; raises JaxrnnError where a file is missing."""
    _check_folder(simulation, folder)
    missing = [file for file in _every_file(simulation, folder) if not file.exists()]
    if missing:
        raise JaxrnnError(f"{missing[0]}: not written, and {len(missing) - 1} files more; run `{MADE_BY}` again")
    values = {"jaxrnn_version": __version__, "simulation": simulation.model_dump(mode="json")}
    write_json(folder / "survey.json", values)


def _files(folder: Path, split: str, number: int) -> tuple[Path, Path]:
    return folder / split / f"X_{number}.dat", folder / split / f"Y_{number}.dat"


def _every_file(simulation: Waves, folder: Path) -> Iterator[Path]:
    for split, count in simulation.counts.items():
        for number in range(1, count + 1):
            yield from _files(folder, split, number)


def _check_folder(simulation: Waves, folder: Path) -> None:
    """Raises JaxrnnError where the folder holds other waves, or those of another version."""
    remedy = "nothing was changed; choose another folder, or remove this one if the survey is no longer needed"
    if folder.exists() and not folder.is_dir():
        raise JaxrnnError(f"{folder}: is a file; expected a folder for the survey; {remedy}")
    if (folder / "survey.json").exists():
        found = read_json(folder / "survey.json", MADE_BY)
        check_version(found.get("jaxrnn_version"), folder / "survey.json")
        if found.get("simulation") != simulation.model_dump(mode="json"):
            raise JaxrnnError(f"{folder / 'survey.json'}: of a survey with other parameters; {remedy}")
    others = set(folder.glob("**/*.dat")) - set(_every_file(simulation, folder))
    if others:
        raise JaxrnnError(f"{min(others)}: no file of this survey; {remedy}")
