"""The .ts format: headers of every kind, missing values, lines that are no objects, and large files in pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SequenceReader, Sequences, joined, open_reader

HEADER = "@problemName Two\n@dimensions 2\n@classLabel true a b\n@data\n"


def opened(path: Path, **options: Any) -> SequenceReader:
    reader = open_reader("ts", path, options)
    assert isinstance(reader, SequenceReader)
    return reader


def read(path: Path, budget: int = 10**6, **options: Any) -> Sequences:
    reader = opened(path, **options)
    return joined([reader.read(part) for part in reader.parts(budget)])


def written(folder: Path, text: str | bytes, name: str = "Two.ts") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def test_missing_values_are_nan_in_their_place(tmp_path: Path) -> None:
    found = read(written(tmp_path, f"{HEADER}1,?,NaN:4,5, 6 :a\n?,?:1e3,-2:?\n"))
    np.testing.assert_array_equal(found.values[:, 0], [1, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found.values[:, 1], [4, 5, 6, 1000, -2])
    assert found.labels.tolist() == ["a", ""] and found.ids.tolist() == ["Two-5", "Two-6"]
    assert found.object_faults is not None and not any(found.object_faults)


def test_timestamps_come_with_the_values(tmp_path: Path) -> None:
    header = "@TIMESTAMPS TRUE\n@Univariate false\n@classLabel false\n@DATA\n"
    path = written(tmp_path, f"{header}(0.5,1),(2, ?),(7,3):(0.5,4),(2,5),(7,6)\n")
    found = read(path, time_unit="seconds")
    np.testing.assert_array_equal(found.time, [0.5, 2, 7])
    np.testing.assert_array_equal(found.values, [[1, 4], [np.nan, 5], [3, 6]])
    survey = opened(path, time_unit="seconds").describe()
    assert (survey.time_unit, survey.labelled, len(survey.columns)) == ("seconds", False, 2)


@pytest.mark.parametrize(
    ("header", "dimensions", "labelled"),
    [
        ("@univariate true\n@classLabel true x y\n@data\n1,2:x\n", 1, True),
        ("\ufeff@UNIVARIATE TRUE\r\n@ClassLabel True x y\r\n@Data\r\n1,2:x\r\n", 1, True),
        ("# a comment\n\n@univariate true\n@data\n1,2\n", 1, False),
        ("% another\n@dimension 3\n@classLabel false\n@data\n1,2:3,4:5,6\n", 3, False),
        ("@univariate false\n@classLabel true x\n@data\n# here too\n\n1,2:3,4:5,6:x\n", 3, True),
        ("@dimensions 1\n@classLabel true x\n@data\n:x\n", 1, True),
    ],
)
def test_headers(tmp_path: Path, header: str, dimensions: int, labelled: bool) -> None:
    path = written(tmp_path, header)
    survey = opened(path).describe()
    assert (len(survey.columns), survey.labelled, survey.gives_splits) == (dimensions, labelled, False)
    found = read(path)
    assert found.labels.tolist() == (["x"] if labelled else [""])
    assert len(found.time) == (0 if "\n:x" in header else 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2:3,4", "2 fields between colons; expected 2 dimensions and a class"),
        (b"1,2:3,4:5,6:a", "4 fields between colons"),
        (b"1,2:3:a", "dimension 1 has 1 values, and dimension 0 has 2"),
        (b"1,2:3,x:a", "dimension 1, step 1: the value 'x' is no number"),
        (b"1,:3,4:a", "dimension 0, step 1: the value '' is no number"),
        (b"1_0,2:3,4:a", "'_'"),
        (b"1,2:3,4:c", "class 'c' is none of a, b"),
        (b"1,2:3,\xff:a", "byte 6 is no UTF-8 text"),
        (b"1,2:3,4?:a", "'4?' is no number"),
    ],
)
@pytest.mark.parametrize("budget", [1, 10**6])
def test_lines_that_are_no_objects_are_told_with_their_number(
    tmp_path: Path, line: bytes, reason: str, budget: int
) -> None:
    found = read(written(tmp_path, HEADER.encode() + b"1,2:3,4:a\n\n" + line + b"\n5:6:b"), budget)
    assert found.object_faults is not None
    assert reason in found.object_faults[1] and found.object_faults[1].startswith("line 7: ")
    assert found.ids.tolist() == ["Two-5", "Two-7", "Two-8"] and found.labels.tolist() == ["a", "", "b"]
    assert np.diff(found.offsets).tolist() == [2, 0, 1] and not found.object_faults[0] and not found.object_faults[2]


def test_lengths_and_times_that_disagree_are_told(tmp_path: Path) -> None:
    found = read(written(tmp_path, "@univariate true\n@equalLength true\n@seriesLength 3\n@data\n1,2,3\n1,2\n"))
    assert found.object_faults is not None and "@seriesLength 3" in found.object_faults[1]
    text = "@timestamps true\n@dimensions 2\n@data\n(0,1):(1,1)\n(0,1):0,1\n(0,1,2):(0,1)\n(x,1):(x,1)\n"
    found = read(written(tmp_path, text))
    assert found.object_faults is not None
    for fault, reason in zip(
        found.object_faults, ("times of dimension 1", "no list of", "no list of", "time 'x'"), strict=True
    ):
        assert reason in fault


@given(
    lines=st.lists(
        st.one_of(st.just(""), st.just("# 1"), st.lists(st.integers(-99, 99), min_size=1, max_size=6)), max_size=12
    ),
    budget=st.integers(1, 60),
    ended=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_parts_of_any_size_read_in_any_order_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any], budget: int, ended: bool, data: st.DataObject
) -> None:
    text = [line if isinstance(line, str) else ",".join(map(str, line)) for line in lines]
    content = "\n".join(["@univariate true", "@data", *text]) + "\n" * ended
    if not text:
        content += "\n"
    reader = opened(written(tmp_path_factory.mktemp("ts"), content))
    parts = reader.parts(budget)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    pieces = {part: reader.read(part) for part in data.draw(st.permutations(parts))}
    found = [
        (name, piece.values[slice(*piece.offsets[row : row + 2]), 0].tolist())
        for piece in (pieces[part] for part in parts)
        for row, name in enumerate(piece.ids.tolist())
    ]
    expected = [(f"Two-{row + 3}", line) for row, line in enumerate(lines) if not isinstance(line, str)]
    assert found == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"@univariate true\n", "ends before @data"),
        (b"1,2,3\n@data\n", "line 1 is neither @key nor a comment before @data"),
        (b"@univariate true\n@problemName \xff\n@data\n1\n", "line 2 is no UTF-8 text"),
        (b"@univariate perhaps\n@data\n1\n", "@univariate 'perhaps'; expected `true` or `false`"),
        (b"@dimensions none\n@data\n1\n", "@dimensions 'none'; expected a whole number above 0"),
        (b"@dimensions 0\n@data\n1\n", "expected a whole number above 0"),
        (b"@dimensions 99999999\n@data\n1\n", "expected a whole number"),
        (b"@\n@dimensions \n@data\n1\n", "@dimensions ''; expected a whole number"),
        (b"@targetLabel true\n@data\n1:2\n", "expected classes"),
        (b"@data\n", "no line of data, and no @dimensions"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(JaxrnnError) as caught:
        opened(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "expected" in str(caught.value)


def test_which_files_are_the_splits(tmp_path: Path) -> None:
    one = f"{HEADER}1:2:a\n"
    with pytest.raises(JaxrnnError, match=r"\*\.ts missing; expected"):
        opened(tmp_path)
    written(tmp_path, one, "Two_TRAIN.ts")
    assert read(tmp_path).splits.tolist() == ["train"]  # pyright: ignore[reportOptionalMemberAccess]
    written(tmp_path, one, "Two_TEST.ts")
    assert read(tmp_path).splits.tolist() == ["train", "test"]  # pyright: ignore[reportOptionalMemberAccess]
    assert len(opened(tmp_path).files()) == 2
    written(tmp_path, one, "Two_eq_TRAIN.ts")
    with pytest.raises(JaxrnnError, match=r"Two_TRAIN\.ts, Two_eq_TRAIN\.ts are all the train split"):
        opened(tmp_path)
    named = {"train": "Two_eq_TRAIN.ts", "validation": "Two_TEST.ts"}
    assert read(tmp_path, files=named).ids.tolist() == ["Two_eq_TRAIN-5", "Two_TEST-5"]
    with pytest.raises(JaxrnnError, match=r"None\.ts missing"):
        opened(tmp_path, files={"train": "None.ts"})
    (tmp_path / "Two_eq_TRAIN.ts").unlink()
    written(tmp_path, "@univariate true\n@data\n1\n", "Two_TEST.ts")
    with pytest.raises(JaxrnnError, match=r"Two_TEST\.ts: 1 dimensions, .* Two_TRAIN\.ts has 2 dimensions"):
        opened(tmp_path)
