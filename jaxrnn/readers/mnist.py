"""Images in the idx format of MNIST (LeCun et al. 1998, Proc. IEEE 86, 2278), gzipped or not: a row of pixels a step,
or lines of several digits side by side, a column of pixels a step.

An idx file is a magic number (0, 0, type, number of axes), the length of each axis as a big-endian 32-bit integer, and
the values. Images have three axes (image, row, column), labels one; both are unsigned bytes.
"""

import gzip
import hashlib
import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from pydantic import Field, model_validator

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey, cut

UNSIGNED_BYTE = 8
KINDS = {"images": 3, "labels": 1}  # and their number of axes
CHUNK_BYTES = 1 << 20
MOST_COLUMNS = 65_535
GZIP_RATIO = 1032  # of what DEFLATE at most makes of a byte
ROW_BYTES = 3 * 8  # time, passband and row number


BLOCK_LINES = 20  # lines of a block, within which passes pair their images anew


class Lines(Options):
    digits: Annotated[int, Field(ge=1, le=1000)] = Field(default=5, description="How many digits a line has.")
    widths: Literal["fixed", "variable"] = Field(
        default="fixed",
        description="`fixed`: whole images side by side. `variable`: each cut to the columns that have ink, with empty "
        "columns on both sides, so that lines differ in length.",
    )
    margin: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=4,
        description="For `widths: variable`: at most so many empty columns on each side of a digit, drawn for each.",
    )
    passes: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="How often the training images are used, each time in other lines. More than 1 needs `split.by: "
        "group`: a group is a block of 20 lines' images, which are paired with each other alone, so that no image is "
        "both in training and in validation.",
    )
    warp: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0,
        description="Every pass over the training images but the first sees each under an affine map drawn for it, so "
        "that more `passes` show more than the images as they are: the four entries of its matrix differ from the "
        "identity's by at most this (turned, sheared, wider or narrower), and it is moved by at most this times half "
        "its size. Validation lines that `split` takes from training are warped too; test images never are.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Draws which images share a line, margins and warps."
    )

    @model_validator(mode="after")
    def _warped_passes(self) -> "Lines":
        if self.warp and self.passes == 1:
            raise ValueError("`warp` leaves the first pass as it is; set `passes` to 2 or more, or leave it out")
        return self

    @model_validator(mode="after")
    def _margins_of_variable_widths(self) -> "Lines":
        if self.widths == "fixed" and self.margin != Lines.model_fields["margin"].default:
            raise ValueError("`margin` is of `widths: variable`; set that, or leave it out")
        return self


class MnistOptions(Options):
    lines: Lines | None = Field(
        default=None,
        description="Lines of several digits side by side instead of images: a step is a column of pixels, `pixel_00` "
        "the top one, and the label names the digits in their order, `7 2 1 0 4`. Each image stands in one line of its "
        "own split; what is left over makes a shorter line. For `task.kind: label_sequence`.",
    )
    files: dict[Literal["train", "validation", "test"], str] = Field(
        default={"train": "train", "test": "t10k"},
        min_length=1,
        description="How the names of each split's files begin: `train` stands for `train-images-idx3-ubyte` and "
        "`train-labels-idx1-ubyte`, with or without `.gz`.",
    )
    blank_rows: Literal["keep", "trim"] = Field(
        default="keep",
        description="`trim` leaves out the rows above and below what is drawn, where every pixel is 0, so that "
        "sequences have unequal lengths; an image without a drawing keeps its first row.",
    )


class MnistReader(SequenceReader):
    """Images with labels in the idx files of MNIST, gzipped or not: each row of pixels is a step, 0 to 255 as stored;
    or lines of such images, each column of pixels a step.

    A file that is not gzipped is mapped; of the gzipped ones one pair is in memory at a time, a byte a pixel.
    """

    Options = MnistOptions
    EXAMPLE = """\
data:
  reader: mnist
  path: surveys/mnist
  features: [{name: pixel_00, normalisation: none}, {name: pixel_14, normalisation: none}]
"""

    def __init__(self, path: Path, options: MnistOptions) -> None:
        if options.lines is not None and options.blank_rows == "trim":
            raise JaxrnnError(
                "data.options.blank_rows: `trim` leaves out rows of single images, and the steps of `lines` are "
                "columns; leave one of the two out"
            )
        self._blank_rows = options.blank_rows
        self._pairs = {
            split: tuple(_found(path, f"{options.files[split]}-{kind}-idx{axes}-ubyte") for kind, axes in KINDS.items())
            for split in SPLITS
            if split in options.files
        }
        missing = [file.name for pair in self._pairs.values() for file in pair if not file.exists()]
        if missing:
            raise JaxrnnError(
                f"{path}: {listed(missing)} missing; expected images and labels of each split, with or without .gz; "
                "data.options.files says how their names begin"
            )
        self._shapes = {split: self._check_shapes(split) for split in self._pairs}
        widths = {split: shape[2] for split, shape in self._shapes.items()}
        if len(set(widths.values())) > 1:
            raise JaxrnnError(f"{path}: images of {widths} columns; expected the same in every split")
        self._width = next(iter(widths.values()))
        self._lines = options.lines
        heights = {split: shape[1] for split, shape in self._shapes.items()}
        if self._lines is not None and (len(set(heights.values())) > 1 or max(heights.values()) > MOST_COLUMNS):
            raise JaxrnnError(
                f"{path}: images of {heights} rows; lines need the same in every split, at most {MOST_COLUMNS}"
            )
        self._height = next(iter(heights.values()))
        self._unzipped: tuple[Path, np.ndarray] | None = None

    def _check_shapes(self, split: str) -> tuple[int, ...]:
        images, labels = (_shape(file, axes) for file, axes in zip(self._pairs[split], KINDS.values(), strict=True))
        if labels[0] != images[0]:
            raise JaxrnnError(
                f"{self._pairs[split][1]}: {labels[0]} labels for the {images[0]} images of "
                f"{self._pairs[split][0].name}; expected one label an image; the two files do not belong together"
            )
        if not 0 < images[2] <= MOST_COLUMNS:
            raise JaxrnnError(f"{self._pairs[split][0]}: images of {images[2]} columns; expected 1 to {MOST_COLUMNS}")
        return images

    def describe(self) -> Survey:
        pixels = self._width if self._lines is None else self._height
        digits = max(2, len(str(pixels - 1)))
        return Survey(
            columns=tuple(Column(f"pixel_{index:0{digits}d}") for index in range(pixels)),
            time_unit="steps",
            gives_splits=True,
            gives_groups=self._lines is not None and self._lines.passes > 1,
        )

    def files(self) -> list[Path]:
        return [file for pair in self._pairs.values() for file in pair]

    def parts(self, budget: int) -> list[Part]:
        """A part's start and stop count images of one file, or its lines."""
        if self._lines is not None:
            most = self._lines.digits * (self._width + 2 * self._lines.margin) * (8 * self._height + ROW_BYTES)
            return [
                part
                for split, pair in self._pairs.items()
                for part in cut(pair, self._count_lines(split) * self._passes(split), most, budget)
            ]
        return [
            part
            for split, (objects, rows, columns) in self._shapes.items()
            for part in cut(self._pairs[split], objects, rows * (8 * columns + ROW_BYTES), budget)
        ]

    def read(self, part: Part) -> Sequences:
        split = next(split for split, pair in self._pairs.items() if pair == part.files)
        images_file, labels_file = part.files
        if self._lines is not None:
            return self._read_lines(part, split, self._lines)
        images = self._values(images_file, self._shapes[split])[part.start : part.stop]
        labels = _values(labels_file, self._shapes[split][:1])[part.start : part.stop]
        objects = len(images)
        kept = _drawn(images) if self._blank_rows == "trim" else np.ones(images.shape[:2], dtype=bool)
        steps = np.argwhere(kept)[:, 1]
        return Sequences(
            ids=np.array([f"{split}-{index:06d}" for index in range(part.start, part.stop)]),
            labels=labels.astype(str),
            offsets=np.concatenate([[0], np.cumsum(kept.sum(axis=1))]),
            time=steps.astype(np.float64),
            values=images[kept].astype(np.float64),
            passband=np.zeros(len(steps), dtype=np.int64),
            metadata=np.zeros((objects, 0)),
            row_numbers=steps,
            files=(str(images_file),),
            splits=np.full(objects, split),
        )

    def _passes(self, split: str) -> int:
        assert self._lines is not None
        return self._lines.passes if split == SPLITS[0] else 1

    def _count_lines(self, split: str) -> int:
        """Returns how many lines a pass over a split's images has."""
        assert self._lines is not None
        return -(-self._shapes[split][0] // self._lines.digits)

    def _read_lines(self, part: Part, split: str, lines: Lines) -> Sequences:
        """Returns the lines from start to stop. Which images a line has, and where they stand in it, follows from seed,
        split, pass and images alone: it is the same however lines are cut into parts."""
        images_file, labels_file = part.files
        images, labels = self._values(images_file, self._shapes[split]), _values(labels_file, self._shapes[split][:1])
        count, each = len(labels), self._count_lines(split)
        strips, lengths, texts, groups = [], [], [], []
        for line in range(part.start, part.stop):
            number, place = divmod(line, each)
            own = _order(lines.seed, split, number, count, lines.digits)[place * lines.digits :][: lines.digits]
            digits = [images[image].T for image in own]
            if number > 0 and lines.warp > 0:
                maps = _raw(lines.seed, f"{split}/warps/{number}", 6 * count).reshape(-1, 6)
                digits = [warped(digit, lines.warp, maps[image]) for digit, image in zip(digits, own, strict=True)]
            if lines.widths == "variable":
                margins = _raw(lines.seed, f"{split}/margins/{number}", 2 * count) % (lines.margin + 1)
                around = [margins[2 * image : 2 * image + 2] for image in own]
                digits = [
                    np.pad(_inked(digit), ((int(before), int(after)), (0, 0)))
                    for digit, (before, after) in zip(digits, around, strict=True)
                ]
            strips += digits
            lengths.append(sum(map(len, digits)))
            texts.append(" ".join(str(label) for label in labels[own]))
            groups.append(f"{split}-block-{place // BLOCK_LINES:05d}")
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Sequences(
            ids=np.array([f"{split}-line-{line:06d}" for line in range(part.start, part.stop)]),
            labels=np.array(texts),
            offsets=offsets,
            time=steps.astype(np.float64),
            values=np.concatenate(strips).astype(np.float64),
            passband=np.zeros(len(steps), dtype=np.int64),
            metadata=np.zeros((len(texts), 0)),
            row_numbers=steps,
            files=(str(images_file),),
            splits=np.full(len(texts), split),
            groups=np.array(groups) if lines.passes > 1 else None,
        )

    def _values(self, file: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the images of a file: mapped, or those last unzipped."""
        if self._unzipped is None or self._unzipped[0] != file:
            # the old ones go before the new ones come
            self._unzipped = None
            self._unzipped = (file, _values(file, shape))
        return self._unzipped[1]


def _drawn(images: np.ndarray) -> np.ndarray:
    """Returns which rows [image, row] lie between the first and the last with a pixel that is not 0, inclusive."""
    inked = np.any(images != 0, axis=2)
    inked[~np.any(inked, axis=1), :1] = True
    return np.maximum.accumulate(inked, axis=1) & np.flip(np.maximum.accumulate(np.flip(inked, axis=1), axis=1), axis=1)


def _inked(steps: np.ndarray) -> np.ndarray:
    """Returns the steps from the first with ink to the last; all of an image without any."""
    inked = np.flatnonzero(steps.any(axis=1))
    return steps[inked[0] : inked[-1] + 1] if len(inked) else steps


def warped(image: np.ndarray, warp: float, drawn: np.ndarray) -> np.ndarray:
    """Returns the image [column, row] under the affine map about its centre that `drawn`, six 64-bit numbers, says."""
    import scipy.ndimage  # where it is needed: every command loads the readers

    drawn = warp * (2.0**-63 * drawn - 1)
    matrix, centre = np.eye(2) + drawn[:4].reshape(2, 2), (np.array(image.shape) - 1) / 2
    source = centre - matrix @ centre + drawn[4:] * np.array(image.shape) / 2
    # SciPy's types know an offset of one number alone
    moved = scipy.ndimage.affine_transform(image.astype(float), matrix, source, order=1)  # pyright: ignore[reportArgumentType]
    return np.rint(moved).astype(image.dtype)


@lru_cache(maxsize=4)
def _raw(seed: int, purpose: str, count: int) -> np.ndarray:
    """Returns draws [count] uint64, the same on every machine: a bit generator's stream, unlike what is made of it,
    never changes."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:16], "big")
    return np.random.Philox(key=key).random_raw(count)


@lru_cache(maxsize=4)
def _order(seed: int, split: str, number: int, count: int, digits: int) -> np.ndarray:
    """Returns the images [count] of a pass in the order in which they fill its lines: every image once, those of a
    block in its own lines."""
    drawn = np.argsort(_raw(seed, f"{split}/blocks", count), kind="stable")
    block = np.empty(count, dtype=np.int64)
    block[drawn] = np.arange(count) // (BLOCK_LINES * digits)
    return np.lexsort((_raw(seed, f"{split}/order/{number}", count), block))


def _found(folder: Path, name: str) -> Path:
    """Returns the file as it is there: gzipped, or else under the name without .gz."""
    plain, zipped = folder / name, folder / f"{name}.gz"
    return zipped if zipped.exists() and not plain.exists() else plain


def _gzipped(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def _open(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if _gzipped(file) else file.open("rb")  # pyright: ignore[reportReturnType]


def _shape(file: Path, axes: int) -> tuple[int, ...]:
    """Returns the lengths of the axes that an idx file's header states; checks them where the file is not gzipped."""
    magic = bytes([0, 0, UNSIGNED_BYTE, axes])
    try:
        with _open(file) as opened:
            header = opened.read(4 + 4 * axes)
        size, zipped = file.stat().st_size, _gzipped(file)
    except (OSError, EOFError, zlib.error) as error:
        raise JaxrnnError(f"{file}: cannot be read ({error}); expected an idx file of unsigned bytes, perhaps gzipped")
    if header[:4] != magic[: len(header)] or not header:
        found = f"begins with the bytes {header[:4].hex(' ')}" if header else "is empty"
        raise JaxrnnError(
            f"{file}: {found}; expected {magic.hex(' ')}, an idx file of unsigned bytes with {axes} "
            f"{'axes' if axes > 1 else 'axis'}; download it again"
        )
    if len(header) < 4 + 4 * axes:
        raise JaxrnnError(f"{file}: ends within its header; the file is truncated; download it again")
    shape = tuple(int(length) for length in np.frombuffer(header, ">u4", offset=4))
    if not zipped and size - len(header) != math.prod(shape):
        raise _wrong_size(file, shape, str(size - len(header)))
    if zipped and GZIP_RATIO * size < math.prod(shape):
        raise _wrong_size(file, shape, f"at most {GZIP_RATIO * size}")
    return shape


def _values(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the values of an idx file: uint8 of the shape that its header states."""
    start, size = 4 + 4 * len(shape), math.prod(shape)
    try:
        if not _gzipped(file):
            return np.memmap(file, np.uint8, "r", start, shape) if size else np.zeros(shape, np.uint8)
        content = bytearray()
        with _open(file) as opened:
            opened.read(start)
            # in chunks, and no further than one byte too many: a header may claim any size, and a gzip hold any
            while len(content) <= size and (chunk := opened.read(min(CHUNK_BYTES, size + 1 - len(content)))):
                content += chunk
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise JaxrnnError(
            f"{file}: cannot be read to its end ({error}); the file is truncated or damaged; download it again"
        )
    if len(content) != size:
        raise _wrong_size(file, shape, f"{'more than ' * (len(content) > size)}{min(len(content), size)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _wrong_size(file: Path, shape: tuple[int, ...], found: str) -> JaxrnnError:
    return JaxrnnError(
        f"{file}: {found} bytes of values; its header says {' x '.join(str(length) for length in shape)}, which is "
        f"{math.prod(shape)}; the file is truncated or damaged; download it again"
    )
