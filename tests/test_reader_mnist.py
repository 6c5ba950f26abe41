"""idx images: MNIST itself, other shapes and names, and files that are not what they say."""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SequenceReader, joined, mnist, open_reader

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


# Lines


def ink(count: int, seed: int, rows: int = 3, columns: int = 6) -> tuple[bytes, bytes]:
    """Returns image and label files; the pixels of an image tell which one it is, and some have empty columns."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((count, rows, columns), np.uint8)
    first, last = generator.integers(0, 3, count), generator.integers(3, columns, count)
    inked = (np.arange(columns) >= first[:, None]) & (np.arange(columns) <= last[:, None])
    pixels[:] = np.where(inked, 1, 0)[:, None, :] * (1 + np.arange(count) % 250)[:, None, None]
    digits = bytes((np.arange(count) * 7 % 10).tolist())
    header = struct.pack(">IIII", 2051, count, rows, columns)
    return header + pixels.tobytes(), struct.pack(">II", 2049, count) + digits


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    for prefix, count, seed in (("train", 247, 1), ("t10k", 33, 2)):
        for kind, content in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), ink(count, seed), strict=True):
            (tmp_path / f"{prefix}-{kind}").write_bytes(content)
    return tmp_path


def lines_of(folder: Path, budget: int, **lines: Any) -> Any:
    reader = opened(folder, lines=lines)
    return joined([reader.read(part) for part in reader.parts(budget)])


def images_of(found: Any, line: Any, width: int | None = 6) -> list[int]:
    """Returns which images stand in a line: their pixels are 1 more than their number."""
    columns = found.values[found.offsets[line] : found.offsets[line + 1]]
    assert width is None or len(columns) % width == 0
    seen = [int(column.max()) for column in columns if column.any()]
    return [seen[at] - 1 for at in range(len(seen)) if at == 0 or seen[at] != seen[at - 1]]


@pytest.mark.parametrize("widths", ["fixed", "variable"])
def test_lines_hold_every_image_once_in_its_own_split(digits: Path, widths: str) -> None:
    found = lines_of(digits, 10**6, widths=widths)
    assert found.groups is None and found.ids.tolist()[:2] == ["train-line-000000", "train-line-000001"]
    for split, count in (("train", 247), ("test", 33)):
        rows = np.flatnonzero(found.splits == split)
        held = [images_of(found, row, 6 if widths == "fixed" else None) for row in rows]
        assert sorted(image for line in held for image in line) == list(range(count))
        assert [len(line) for line in held] == [5] * (count // 5) + [count % 5]
        for row, line in zip(rows, held, strict=True):
            assert found.labels[row] == " ".join(str(image * 7 % 10) for image in line)
        # drawn, not as they come
        assert sum(np.diff(line).tolist() == [1] * (len(line) - 1) for line in held) < len(held) / 2


def test_lines_are_the_same_however_they_are_cut(digits: Path) -> None:
    whole = lines_of(digits, 10**7, widths="variable", passes=2)
    for budget in (1, 3000, 50_000):
        pieces = lines_of(digits, budget, widths="variable", passes=2)
        for name in ("ids", "labels", "offsets", "values", "time", "splits", "groups"):
            np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)
    other = lines_of(digits, 10**7, widths="variable", passes=2, seed=1)
    assert other.labels.tolist() != whole.labels.tolist()


def test_variable_lines_are_cut_to_their_ink_with_margins(digits: Path) -> None:
    bare, wide = (lines_of(digits, 10**7, widths="variable", margin=margin) for margin in (0, 3))
    assert bare.values.any(axis=1).all() and bare.labels.tolist() == wide.labels.tolist()
    np.testing.assert_array_equal(wide.values[wide.values.any(axis=1)], bare.values)
    added = np.diff(wide.offsets) - np.diff(bare.offsets)
    assert added.min() >= 0 and added.max() <= 2 * 5 * 3 and 12 < added.mean() < 18


def test_passes_pair_images_anew_within_groups(digits: Path) -> None:
    found = lines_of(digits, 10**7, passes=3)
    train = found.splits == "train"
    assert found.groups is not None and (~train).sum() == 7 and train.sum() == 3 * 50
    groups: dict[str, list[list[int]]] = {}
    for row in np.flatnonzero(train):
        groups.setdefault(found.groups[row], []).append(images_of(found, row))
    # a block has 20 lines of 5 images: no image is in two of them
    assert [len(lines) for lines in groups.values()] == [60, 60, 30]
    held = [sorted(image for line in lines for image in line) for lines in groups.values()]
    assert sorted(image for images in held for image in images) == sorted([*range(247)] * 3)
    assert all(images == sorted([*set(images)] * 3) for images in held)
    pairs = [
        (one, other) for lines in groups.values() for line in lines for one in line for other in line if one < other
    ]
    assert len(set(pairs)) > 0.8 * len(pairs)


def test_warps_are_small_and_of_later_passes_alone(digits: Path) -> None:
    plain, warped = (lines_of(digits, 10**7, passes=3, warp=warp) for warp in (0, 0.2))
    for name in ("ids", "labels", "offsets", "splits", "groups"):
        np.testing.assert_array_equal(getattr(warped, name), getattr(plain, name))
    first = np.array([name.startswith("test") or int(name.rsplit("-", 1)[1]) < 50 for name in plain.ids.tolist()])
    steps = np.repeat(first, np.diff(plain.offsets))
    np.testing.assert_array_equal(warped.values[steps], plain.values[steps])
    changed = np.any(warped.values != plain.values, axis=1)[~steps].reshape(-1, 6).any(axis=1)
    assert changed.mean() > 0.9
    second, third = warped.values[~steps].reshape(2, -1)
    assert np.any(second != third)
    pieces = lines_of(digits, 3000, passes=3, warp=0.2)
    np.testing.assert_array_equal(pieces.values, warped.values)
    with pytest.raises(ValueError, match="`warp` leaves the first pass as it is; set `passes` to 2 or more"):
        opened(digits, lines={"warp": 0.1})


@given(st.integers(0, 2**32), st.floats(0.01, 0.2))
def test_a_warp_is_the_affine_map_that_it_says(seed: int, warp: float) -> None:
    """A smooth bump stays one, and its centre and widths move as the map's inverse says."""
    drawn = np.random.Philox(seed).random_raw(6)
    x, y = np.meshgrid(np.arange(64), np.arange(60), indexing="ij")
    bump = 250 * np.exp(-((x - 31.5) ** 2 / 2 / 4**2 + (y - 29.5) ** 2 / 2 / 3**2))
    found = mnist.warped(bump.astype(np.uint8), warp, drawn).astype(float)
    unit = drawn / 2.0**63 - 1
    inverse = np.linalg.inv(np.eye(2) + warp * unit[:4].reshape(2, 2))
    assert np.abs(unit).max() <= 1
    weights = found / found.sum()
    centre = np.array([(weights * x).sum(), (weights * y).sum()])
    expected = inverse @ (-warp * unit[4:] * (32, 30))
    np.testing.assert_allclose(centre - (31.5, 29.5), expected, atol=0.3)
    spread = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=weights.ravel(), bias=True)
    np.testing.assert_allclose(spread, inverse @ np.diag([16.0, 9.0]) @ inverse.T, atol=1.5, rtol=0.06)


def test_unusual_lines(digits: Path) -> None:
    columns = opened(digits, lines={}).describe().columns
    assert [column.name for column in columns] == ["pixel_00", "pixel_01", "pixel_02"]
    alone = lines_of(digits, 10**7, digits=1)
    assert len(alone.ids) == 280
    (digits / "t10k-images-idx3-ubyte").write_bytes(images(33, 2, 6))
    assert "rows; lines need the same in every split" in refused(digits, lines={"digits": 5})
    # without ink nothing is cut
    (digits / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 33, 3, 6) + bytes(33 * 18))
    message = refused(digits, lines={}, blank_rows="trim")
    assert "data.options.blank_rows: `trim` leaves out rows of single images" in message
    with pytest.raises(ValueError, match="`margin` is of `widths: variable`; set that, or leave it out"):
        opened(digits, lines={"margin": 2})
    empty = lines_of(digits, 10**7, widths="variable", margin=0)
    assert (np.diff(empty.offsets)[empty.splits == "test"][:-1] == 30).all()
