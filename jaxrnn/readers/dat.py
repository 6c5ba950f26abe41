"""Folders of raw numbers: `X_<name>.dat` holds a sequence, one number a step, `Y_<name>.dat` its label, one number.

The files have no header: nothing but the numbers, as C or MATLAB's `fwrite` writes them.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, FiniteFloat

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey


class DatOptions(Options):
    splits: dict[Literal["train", "validation", "test"], str] | None = Field(
        default=None,
        description="Sub-folder of each split, `{train: Train, test: Test}`; one that begins with `./`, `../` or `/` "
        "lies elsewhere, seen from the folder where the command is called. Left out: those called train, validation "
        "and test, in any case; without any, the files lie in the folder itself, and there are no splits.",
    )
    dtype: Literal["<f8", ">f8", "<f4", ">f4", "<i4", ">i4", "<i2", ">i2"] = Field(
        default="<f8",
        description="The numbers' type: f4 and f8 are single and double precision, i2 and i4 whole numbers of 2 and 4 "
        "bytes; < is little-endian (nearly every machine), > big-endian.",
    )
    labels: dict[str, str] = Field(
        default={},
        description='Names of the labels by number, `{"0": sine, "1": square}`. A number left out stays a number.',
    )
    sampling_step: FiniteFloat = Field(default=1.0, gt=0, description="Time between two samples, in `time_unit`.")
    time_unit: str = Field(default="steps", description="Unit of time of `sampling_step`.")


class DatReader(SequenceReader):
    """Folders of raw double-precision `.dat` files, `X_<name>.dat` and `Y_<name>.dat` an object.

    An X without its Y is an object without a label, a Y without its X an object without observations.
    """

    Options = DatOptions
    EXAMPLE = """\
data:
  reader: dat
  path: surveys/adacs
  options:
    splits: {train: Train, test: Test}
    labels: {"0": sine, "1": square}
  features: [value]
"""

    def __init__(self, path: Path, options: DatOptions) -> None:
        self._path, self._options = path, options
        self._folders = self._find_folders()
        names = [folder.name for folder in self._folders.values()]
        # folders that lie apart may have one name
        own = len(set(names)) == len(names)
        self._shown = {split: folder.name if own else split for split, folder in self._folders.items()}
        # [(split, name)] -> bytes of X and of Y, None where there is none
        self._objects: dict[tuple[str, str], dict[str, int]] = {}
        for split, folder in self._folders.items():
            self._list(split, folder)
        if not self._objects:
            raise JaxrnnError(f"{path}: X_<name>.dat missing; the reader 'dat' expects X_1.dat, Y_1.dat, ... in it")

    @classmethod
    def files_elsewhere(cls, options: DatOptions) -> list[Path]:
        folders = [Path(name) for name in (options.splits or {}).values() if _lies_elsewhere(name)]
        return sorted(file for folder in folders for file in folder.glob("*.dat"))

    def _find_folders(self) -> dict[str, Path]:
        """Returns where each split's files lie; the folder itself, as the split "", where there are no splits."""
        if not self._path.is_dir():
            raise JaxrnnError(f"{self._path}: is no folder; the reader 'dat' expects a folder of X_1.dat, Y_1.dat, ...")
        if self._options.splits is not None:
            folders = {
                split: Path(name) if _lies_elsewhere(name) else self._path / name
                for split, name in self._options.splits.items()
            }
            for split, folder in folders.items():
                if not folder.is_dir():
                    raise JaxrnnError(f"data.options.splits.{split}: {folder} missing; expected a folder of .dat files")
        else:
            folders = {}
            for entry in sorted(self._path.iterdir()):
                split = entry.name.lower()
                if split in SPLITS and entry.is_dir():
                    if split in folders:
                        raise JaxrnnError(
                            f"{self._path}: {folders[split].name} and {entry.name} are both the {split} split; "
                            "name one under data.options.splits"
                        )
                    folders[split] = entry
        loose = sorted(self._path.glob("[XY]_*.dat")) if folders else []
        if loose and self._path not in folders.values():
            raise JaxrnnError(
                f"{loose[0]}: lies beside the folders of the splits; expected every .dat file in one of "
                f"{', '.join(folder.name for folder in folders.values())}"
            )
        return {split: folders[split] for split in SPLITS if split in folders} or {"": self._path}

    def _list(self, split: str, folder: Path) -> None:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.name.endswith(".dat")), key=lambda entry: entry.name)
        for entry in found:
            kind, _, name = entry.name.removesuffix(".dat").partition("_")
            if kind not in ("X", "Y") or not name:
                raise JaxrnnError(f"{entry.path}: neither X_<name>.dat nor Y_<name>.dat; remove or rename it")
            try:
                size = entry.stat().st_size
            except OSError as error:
                raise JaxrnnError(f"{entry.path}: cannot be read ({error.strerror}); expected a file of numbers")
            if not entry.is_file():
                raise JaxrnnError(f"{entry.path}: is no regular file; expected a file of numbers")
            self._objects.setdefault((split, name), {})[kind] = size

    def describe(self) -> Survey:
        return Survey(
            columns=(Column("value"),),
            time_unit=self._options.time_unit,
            gives_splits="" not in self._folders,
            labelled=any("Y" in sizes for sizes in self._objects.values()),
        )

    def files(self) -> list[Path]:
        return [self._file(*place, kind) for place, sizes in self._objects.items() for kind in sorted(sizes)]

    def _file(self, split: str, name: str, kind: str) -> Path:
        return self._folders[split] / f"{kind}_{name}.dat"

    def parts(self, budget: int) -> list[Part]:
        """A part is an object: its X and its Y, or the one of them that is there."""
        return [
            Part(tuple(self._file(*place, kind) for kind in sorted(sizes)), bytes=sum(sizes.values()))
            for place, sizes in self._objects.items()
        ]

    def read(self, part: Part) -> Sequences:
        held = {file.name[0]: file for file in part.files}
        folder = part.files[0].parent
        split = next(split for split, place in self._folders.items() if place == folder)
        name = part.files[0].name.removesuffix(".dat")[2:]
        values = self._numbers(held["X"]) if "X" in held else np.zeros(0)
        label = self._label(held["Y"]) if "Y" in held else ""
        return Sequences(
            ids=np.array([f"{self._shown[split]}/{name}" if split else name]),
            labels=np.array([label]),
            offsets=np.array([0, len(values)]),
            time=self._options.sampling_step * np.arange(len(values)),
            values=values.astype(np.float64)[:, None],
            passband=np.zeros(len(values), dtype=np.int64),
            metadata=np.zeros((1, 0)),
            row_numbers=np.arange(len(values)),
            files=(str(part.files[0]),),
            splits=np.array([split]) if split else None,
        )

    def _numbers(self, file: Path) -> np.ndarray:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise JaxrnnError(f"{file}: cannot be read ({error.strerror}); expected a file of numbers")
        dtype = np.dtype(self._options.dtype)
        if not content or len(content) % dtype.itemsize:
            raise JaxrnnError(
                f"{file}: {len(content)} bytes, which is no whole number of values of {dtype.itemsize} bytes; the file "
                "is truncated, or not of the type in data.options.dtype; write it again"
            )
        return np.frombuffer(content, dtype)

    def _label(self, file: Path) -> str:
        values = self._numbers(file)
        if len(values) != 1:
            raise JaxrnnError(f"{file}: {len(values)} numbers; expected one, the label of the X of that name")
        if np.isnan(values[0]):
            return ""
        number = str(values[0]).removesuffix(".0")
        return self._options.labels.get(number, number)


def _lies_elsewhere(name: str) -> bool:
    """Returns whether a split's folder is seen from the folder of the command, not from `data.path`."""
    return name.startswith(("./", "../", "/"))
