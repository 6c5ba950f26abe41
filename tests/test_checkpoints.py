"""Checkpoints: whatever becomes of one on the disk is noticed, and the one before it is taken."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrnn.checkpoints import KEPT, Checkpoints
from jaxrnn.errors import Unwritable

VALUES = {"window": 1, "history": [[1.0, float("inf"), 0.1 + 0.2]], "name": "é"}


def arrays(number: int) -> dict[str, Any]:
    """Returns arrays of many kinds, which differ from checkpoint to checkpoint."""
    return {
        "scalar": np.float32(number),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False, number % 2 == 0]),
        "table": np.arange(6, dtype=np.float64).reshape(2, 3)[:, ::-1] * number,  # not contiguous
        "step": np.uint32(number),
    }


def like(_: dict[str, Any]) -> dict[str, Any]:
    return arrays(0)


def saved(folder: Path, count: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in range(1, count + 1):
        checkpoints.save(arrays(number), VALUES | {"number": number})
    return checkpoints


def assert_restores(checkpoints: Checkpoints, number: int) -> list[str]:
    said: list[str] = []
    restored = checkpoints.restore(like, said.append)
    assert restored is not None
    found, values = restored
    assert values == VALUES | {"number": number}
    for name, wanted in arrays(number).items():
        np.testing.assert_array_equal(found[name], wanted)
        assert found[name].dtype == wanted.dtype and found[name].shape == wanted.shape
    return said


def test_the_newest_is_restored_as_it_was_and_two_files_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5)
    assert assert_restores(checkpoints, 5) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"] and KEPT == 2
    # what was restored may be written over
    restored = checkpoints.restore(like, print)
    assert restored and all(leaf.flags.writeable for leaf in restored[0].values())


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "cut short":
        file.write_bytes(content[:-1])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "zeros":  # what some file systems leave after a power cut
        file.write_bytes(bytes(len(content)))
    elif how == "longer":
        file.write_bytes(content + b"\0")
    elif how == "a folder":
        file.unlink()
        (file / "arrays").mkdir(parents=True)
    else:
        assert how == "gone"
        file.unlink()


@pytest.mark.parametrize("how", ["cut short", "empty", "zeros", "longer", "a folder"])
def test_of_a_damaged_one_the_log_tells_and_the_one_before_it_is_taken(tmp_path: Path, how: str) -> None:
    checkpoints = saved(tmp_path, 5)
    damage(tmp_path / "5", how)
    (said,) = assert_restores(checkpoints, 4)
    assert f"checkpoint {tmp_path / '5'} can't be read (" in said and "the one before it is tried" in said
    # of the two that are kept next, both are whole
    checkpoints.save(arrays(6), VALUES | {"number": 6})
    damage(max(tmp_path.iterdir(), key=lambda path: int(path.name)), how)
    assert_restores(checkpoints, 4)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2)
    content = (tmp_path / "2").read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "2").write_bytes(flipped)
        assert len(assert_restores(checkpoints, 1)) == 1


def test_where_none_can_be_read_training_begins_anew(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2)
    for name in ("1", "2"):
        damage(tmp_path / name, "cut short")
    said: list[str] = []
    assert checkpoints.restore(like, said.append) is None
    assert len(said) == 2 and "there is none before it, and training begins anew" in said[1]
    damage(saved(tmp_path, 1).folder / "1", "gone")
    assert checkpoints.restore(like, said.append) is None and len(said) == 2


def test_what_a_killed_write_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / ".3.0123456789abcdef.part").write_bytes((tmp_path / "2").read_bytes()[:50])
    (tmp_path / ".4.part").mkdir()
    assert_restores(Checkpoints(tmp_path), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_ones_before_and_takes_the_next_when_there_is_room(small_disk: Path) -> None:
    checkpoints = saved(small_disk / "checkpoints", 2)
    filler = small_disk / "filler"
    with suppress(OSError):
        filler.write_bytes(bytes(2_000_000))
    with pytest.raises(Unwritable, match=r"3: cannot be written \(No space left on device\)") as refusal:
        checkpoints.save(arrays(3), VALUES | {"number": 3})
    assert refusal.value.full
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["1", "2"]
    assert assert_restores(checkpoints, 2) == []
    filler.unlink()
    checkpoints.save(arrays(3), VALUES | {"number": 3})
    assert assert_restores(checkpoints, 3) == []
