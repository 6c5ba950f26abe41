"""HDF5: the three layouts say the same, and what a file may not lead to."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Sequences, joined, open_reader

LENGTHS = np.array([4, 1, 0, 6, 3])
STEPS, COLUMNS = 6, 2


def read(path: Path, budget: int = 10**9, **options: Any) -> Sequences:
    reader = open_reader("hdf5", path, options)
    return joined([reader.read(part) for part in reader.parts(budget)])  # pyright: ignore


@pytest.fixture
def layouts(tmp_path: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same five sequences in every layout, with the options that read them."""
    generator = np.random.default_rng(0)
    padded = generator.normal(size=(len(LENGTHS), STEPS, COLUMNS))
    times = np.sort(generator.uniform(size=(len(LENGTHS), STEPS)), axis=1)
    words = np.array([b"rest", b"task"])[generator.integers(0, 2, times.shape)]
    labels, subjects = [3, 1, 3, 2, 1], ["anne", "anne", "bob", "bob", "eve"]
    present = np.arange(STEPS) < LENGTHS[:, None]
    ids = [f"o{number}" for number in range(len(LENGTHS))]
    common = {"labels": "label", "step_labels": "word", "groups": "subject", "metadata": {"age": "age"}, "time": "time"}
    lengths, gap, ragged, groups = (tmp_path / f"{name}.h5" for name in ("lengths", "gap", "ragged", "groups"))
    for file, filler in ((lengths, 5.0), (gap, np.nan)):
        with h5py.File(file, "w") as opened:
            opened["x"] = np.where(present[..., None], padded, filler)
            opened["length"] = LENGTHS
            opened["time"], opened["word"] = times, words
            opened["label"], opened["subject"], opened["age"], opened["id"] = labels, subjects, np.arange(5) + 0.5, ids
    with h5py.File(ragged, "w") as opened:
        opened.create_dataset("x", data=padded[present], chunks=(2, 1), compression="gzip")
        opened["first"] = np.cumsum([0, *LENGTHS])
        opened["time"], opened["word"] = times[present], words[present]
        opened["label"], opened["subject"], opened["age"] = np.array(labels, dtype="f4"), subjects, np.arange(5) + 0.5
        opened["id"] = np.array(ids, dtype="S")
    with h5py.File(groups, "w") as opened:
        for number, (name, length) in enumerate(zip(ids, LENGTHS, strict=True)):
            one = opened.create_group(f"all/{name}")
            one["left"], one["right"] = padded[number, :length, 0], padded[number, :length, 1:]
            one["time"], one["word"] = times[number, :length], words[number, :length]
            one.attrs["label"], one.attrs["age"] = labels[number], number + 0.5
            one["subject"] = subjects[number]
    return {
        "lengths": (lengths, {**common, "features": "x", "ids": "id", "lengths": "length"}),
        "padding": (gap, {**common, "features": "x", "ids": "id", "padding": "nan"}),
        "ragged": (ragged, {**common, "features": "x", "ids": "id", "offsets": "first"}),
        "groups": (
            groups,
            {**common, "features": ["left", "right"], "group_per_object": True, "objects": "all"},
        ),
    }


@pytest.mark.parametrize("budget", [1, 100, 10**9])
def test_every_layout_says_the_same(layouts: dict[str, tuple[Path, dict[str, Any]]], budget: int) -> None:
    expected = read(layouts["lengths"][0], **layouts["lengths"][1])
    assert np.array_equal(np.diff(expected.offsets), LENGTHS)
    assert expected.labels.tolist() == ["3", "1", "3", "2", "1"]
    for path, options in layouts.values():
        found = read(path, budget, **options)
        for name in ("ids", "labels", "offsets", "time", "values", "metadata", "groups", "step_labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=f"{path}: {name}")
        assert not any(found.object_faults)  # pyright: ignore


def test_files_of_a_folder_are_read_each_by_itself(
    layouts: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    path, options = layouts["ragged"]
    options = {key: value for key, value in options.items() if key != "ids"}
    folder = tmp_path / "many"
    (folder / "day2").mkdir(parents=True)
    for name in ("a.h5", "day2/b.hdf5"):
        (folder / name).write_bytes(path.read_bytes())
    found, alone = read(folder, **options), read(path, **options)
    assert found.ids.tolist() == [f"{name}-{number:06d}" for name in ("a", "day2/b") for number in range(5)]
    np.testing.assert_array_equal(found.values, np.concatenate([alone.values, alone.values]))
    # one broken file of many is said when it is read, and the others are read all the same
    (folder / "z.h5").write_bytes(path.read_bytes()[:1000])
    reader = open_reader("hdf5", folder, options)
    *good, bad = reader.parts(10**9)  # pyright: ignore
    assert len(joined([reader.read(part) for part in good]).ids) == 10  # pyright: ignore
    with pytest.raises(JaxrnnError, match=r"z\.h5: cannot be read as HDF5"):
        reader.read(bad)  # pyright: ignore


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_padding_at_the_end_alone_is_left_out(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    values = np.array(
        data.draw(st.lists(st.lists(st.sampled_from([-9.0, 1.0]), min_size=5, max_size=5), min_size=1, max_size=4))
    )
    file = tmp_path_factory.mktemp("padding") / "x.h5"
    with h5py.File(file, "w") as opened:
        opened["x"] = values
    found = read(file, features="x", padding=-9.0)
    for number, row in enumerate(values.tolist()):
        while row and row[-1] == -9:
            row.pop()
        rows = slice(int(found.offsets[number]), int(found.offsets[number + 1]))
        assert found.values[rows, 0].tolist() == row
        assert found.time[rows].tolist() == list(range(len(row)))


def test_time_from_a_step_or_shared_by_all(tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as opened:
        opened["x"], opened["t"] = np.zeros((2, 3, 1)), [5.0, 6.0, 8.0]
    assert read(file, features="x", time="t").time.tolist() == [5, 6, 8, 5, 6, 8]
    assert read(file, features="x", time_step=0.5).time.tolist() == [0, 0.5, 1, 0, 0.5, 1]


def test_one_broken_object_of_many_is_that_object_s_fault(layouts: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    path, options = layouts["groups"]
    with h5py.File(path, "r+") as opened:
        del opened["all/o1/left"]
        opened["all/o3/time"][...] = np.nan  # pyright: ignore
        del opened["all/o4/word"]
    found = read(path, **options)
    assert np.diff(found.offsets).tolist() == [4, 0, 0, 6, 0]
    assert [bool(fault) for fault in found.object_faults] == [False, True, False, False, True]  # pyright: ignore
    assert "left" in found.object_faults[1] and "word" in found.object_faults[4]  # pyright: ignore


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret.h5", tmp_path / "survey.h5"
    with h5py.File(secret, "w") as opened:
        opened["x"] = np.ones((2, 3))
    (tmp_path / "raw.bin").write_bytes(bytes(48))
    with h5py.File(file, "w") as opened:
        opened["good"] = np.zeros((2, 3))
        opened["soft"] = h5py.SoftLink("/good")
        opened["outside"] = h5py.ExternalLink(str(secret), "x")
        opened["behind"] = h5py.SoftLink("/outside")
        opened["circle"] = h5py.SoftLink("/other")
        opened["other"] = h5py.SoftLink("/circle")
        opened["dangling"] = h5py.SoftLink("/nowhere")
        layout = h5py.VirtualLayout((2, 3), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=(2, 3))
        opened.create_virtual_dataset("virtual", layout)
        opened.create_dataset("raw", (2, 3), dtype="f8", external=[(str(tmp_path / "raw.bin"), 0, 48)])
        opened.create_dataset("bomb", (10**9, 10**6), dtype="f8", chunks=(1, 1000))
    assert read(file, features="soft").values.tolist() == [[0.0]] * 6
    for name, reason in {
        "outside": "another file",
        "behind": "another file",
        "circle": "circle",
        "dangling": "nowhere",
        "virtual": "other files",
        "raw": "other files",
        "bomb": "can hold",
        "godo": "did you mean 'good'",
        "/": "is a group",
    }.items():
        with pytest.raises(JaxrnnError, match=reason) as caught:
            read(file, features=name)
        assert str(file) in str(caught.value)


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as opened:
        opened["x"] = np.zeros((3, 4, 2))
        opened["rows"] = np.zeros((12, 2))
        opened["four"] = np.zeros(4)
        opened["text"] = ["a", "b", "c"]
        opened["first"] = [0, 5, 4, 12]
        opened["short"] = [0, 5, 8, 11]
        opened["pairs"] = np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])
        opened["long"] = [4, 9, -1]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"features": "x", "labels": "four"}, r"four has the shape \(4,\); expected \(3,\)"),
        ({"features": "x", "time": "text"}, "text has the shape"),
        ({"features": "x", "metadata": {"m": "text"}}, "holds text; expected numbers"),
        ({"features": "text"}, "expected numbers"),
        ({"features": "x", "labels": "pairs"}, "expected text or numbers"),
        ({"features": ["x", "rows"]}, "rows has the shape"),
        ({"features": "rows", "offsets": "first"}, "first does not fit"),
        ({"features": "rows", "offsets": "short"}, "short does not fit"),
        ({"features": "rows", "offsets": "four"}, "whole numbers"),
        ({"features": "x", "columns": ["one"]}, "names 1"),
        ({"features": "x", "errors": ["feature_0001"]}, "did you mean 'feature_001'"),
        ({"features": "x", "group_per_object": True, "objects": "x"}, "is no group"),
    ]
    for options, reason in cases:
        with pytest.raises(JaxrnnError, match=reason):
            read(file, **options)
    found = read(file, features="x", lengths="long")
    assert np.diff(found.offsets).tolist() == [4, 0, 0]
    assert [bool(fault) for fault in found.object_faults] == [False, True, True]  # pyright: ignore
    contradictions: list[dict[str, Any]] = [
        {"features": "x", "passband": "b"},
        {"features": "x", "lengths": "n", "padding": "nan"},
        {"features": "x", "offsets": "n", "lengths": "n"},
        {"features": []},
    ]
    for options in contradictions:
        with pytest.raises(ValidationError):
            read(file, **options)


def test_a_declared_passband_by_name_or_number(tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as opened:
        opened["x"] = np.zeros((1, 4))
        opened["name"], opened["number"] = [["g", "r", "u", "g"]], [[0, 1, 7, 0]]
    for source in ("name", "number"):
        assert read(file, features="x", passband=source, passbands=["g", "r"]).passband.tolist() == [0, 1, -1, 0]
