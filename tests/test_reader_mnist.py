"""idx images: MNIST itself, other shapes and names, and files that are not what they say."""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SequenceReader, joined, open_reader

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def opened(path: Path, **options: Any) -> SequenceReader:
    reader = open_reader("mnist", path, options)
    assert isinstance(reader, SequenceReader)
    return reader


def images(count: int = 2, rows: int = 3, columns: int = 2) -> bytes:
    values = bytes(index % 256 for index in range(count * rows * columns))
    return struct.pack(">IIII", 2051, count, rows, columns) + values


def labels(count: int = 2) -> bytes:
    return struct.pack(">II", 2049, count) + bytes(range(count))


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(images())
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels()))
    return tmp_path


def refused(path: Path, **options: Any) -> str:
    def read_all() -> None:
        reader = opened(path, **options)
        for part in reader.parts(10**6):
            reader.read(part)

    with pytest.raises(JaxrnnError) as caught:
        read_all()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.data
def test_mnist_is_read_to_the_pixel(data_folder: Path) -> None:
    reader = opened(data_folder / "mnist")
    assert [column.name for column in reader.describe().columns] == [f"pixel_{index:02d}" for index in range(28)]
    pixels, found, counts = hashlib.sha256(), [], {"train": 0, "test": 0}
    for part in reader.parts(64_000_000):
        piece = reader.read(part)
        assert (np.diff(piece.offsets) == 28).all() and piece.splits is not None
        pixels.update(piece.values.astype(np.uint8).tobytes())
        found += piece.labels.tolist()
        for split in counts:
            counts[split] += piece.splits.tolist().count(split)
    assert counts == {"train": 60_000, "test": 10_000}
    content = {
        (prefix, kind): gzip.decompress((data_folder / "mnist" / f"{prefix}-{kind}-ubyte.gz").read_bytes())
        for prefix in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }
    stored = content["train", "images-idx3"][16:] + content["t10k", "images-idx3"][16:]
    assert pixels.digest() == hashlib.sha256(stored).digest()
    stored = content["train", "labels-idx1"][8:] + content["t10k", "labels-idx1"][8:]
    assert found == [str(label) for label in stored]


def test_images_of_any_shape_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "emnist-images-idx3-ubyte").write_bytes(images(3, 2, 120))
    (tmp_path / "emnist-labels-idx1-ubyte").write_bytes(labels(3))
    reader = opened(tmp_path, files={"validation": "emnist"})
    assert [column.name for column in reader.describe().columns][::119] == ["pixel_000", "pixel_119"]
    found = joined([reader.read(part) for part in reader.parts(1)])
    np.testing.assert_array_equal(found.values, (np.arange(720) % 256).reshape(6, 120))
    assert found.splits is not None and set(found.splits.tolist()) == {"validation"}
    np.testing.assert_array_equal(found.time, [0, 1] * 3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGES, b"", "is empty; expected 00 00 08 03"),
        (IMAGES, labels(), "begins with the bytes 00 00 08 01; expected 00 00 08 03"),
        (LABELS, images(), "begins with the bytes 00 00 08 03; expected 00 00 08 01"),
        (IMAGES, images()[:10], "ends within its header"),
        (IMAGES, images()[:-1], "11 bytes of values; its header says 2 x 3 x 2, which is 12"),
        (IMAGES, images() + b"0", "bytes of values; its header says 2 x 3 x 2, which is 12"),
        (IMAGES, images(3), "2 labels for the 3 images of train-images-idx3-ubyte"),
        (LABELS, labels(3), "3 labels for the 2 images"),
        (LABELS, labels()[:-1], "1 bytes of values; its header says 2, which is 2"),
        (IMAGES, struct.pack(">IIII", 2051, 2, 2**32 - 1, 2**32 - 1), "bytes of values; its header says"),
        (IMAGES, struct.pack(">IIII", 2051, 2, 3, 0), "images of 0 columns; expected 1 to 65535"),
        (IMAGES, struct.pack(">IIII", 2051, 2, 0, 2) + b"1", "bytes of values; its header says 2 x 0 x 2"),
        (IMAGES, struct.pack(">IIII", 2051, 0, 3, 2**32 - 1), "2 labels for the 0 images"),
        (IMAGES, images(2, 3, 4), "expected the same in every split"),
    ],
)
def test_files_that_are_not_what_they_say(survey: Path, name: str, content: bytes, said: str, compressed: bool) -> None:
    (survey / f"{name}.gz").unlink(missing_ok=True)
    (survey / name).write_bytes(gzip.compress(content) if compressed else content)
    message = refused(survey)
    assert said in message and str(survey) in message


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
def test_truncated_gzip(survey: Path, share: float) -> None:
    file = survey / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert str(file) in refused(survey)


def test_missing_files_are_named(survey: Path) -> None:
    (survey / IMAGES).unlink()
    assert f"{survey}: {IMAGES} missing; expected" in refused(survey)
    assert "kmnist-images-idx3-ubyte, kmnist-labels-idx1-ubyte missing" in refused(survey, files={"test": "kmnist"})


def test_rows_without_a_drawing_are_left_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 256, (40, 7, 3), dtype=np.uint8)
    drawn[generator.random((40, 7)) < 0.6] = 0
    drawn[0] = 0
    for prefix in ("train", "t10k"):
        header = struct.pack(">IIII", 2051, *drawn.shape)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(header + drawn.tobytes())
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels(len(drawn)))
    reader = opened(tmp_path, blank_rows="trim")
    found = joined([reader.read(part) for part in reader.parts(500)])
    assert len(found.ids) == 80
    lengths = set()
    for index, image in enumerate([*drawn, *drawn]):
        rows = slice(found.offsets[index], found.offsets[index + 1])
        inked = np.flatnonzero(image.any(axis=1)).tolist() or [0]
        np.testing.assert_array_equal(found.values[rows], image[inked[0] : inked[-1] + 1])
        np.testing.assert_array_equal(found.time[rows], np.arange(inked[0], inked[-1] + 1))
        np.testing.assert_array_equal(found.row_numbers[rows], found.time[rows])
        lengths.add(rows.stop - rows.start)
    assert lengths == set(range(1, 8))
