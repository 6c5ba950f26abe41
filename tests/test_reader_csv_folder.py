"""Folders of CSV files: what may stand in them, and what is wrong in a row."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Sequences, joined, open_reader
from jaxrnn.readers.csv_folder import CsvFolderReader

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def read(path: Path, **options: Any) -> Sequences:
    reader = open_reader("csv_folder", path, {"values": {"flux": ""}, **options})
    return joined([reader.read(part) for part in reader.parts(1)])  # pyright: ignore


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(FINITE, FINITE), max_size=6), separator=st.sampled_from([",", ";", "\t", " "]))
def test_numbers_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]], separator: str
) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    lines = [separator.join(map(repr, row)) for row in rows]
    write(folder / "class" / "one.csv", "\n".join([separator.join(["time", "flux"]), *lines]))
    found = read(folder, separator=separator)
    assert list(zip(found.time.tolist(), found.values[:, 0].tolist(), strict=True)) == rows
    assert found.labels.tolist() == ["class"] and found.offsets.tolist() == [0, len(rows)]


def test_a_bad_row_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path / "c" / "x.csv", "time,flux\n1,2\n3,much\n\n4,5,6\n1_0,7\n8,NA\nnan,9\n")
    found = read(tmp_path)
    assert found.row_faults is not None
    assert [bool(fault) for fault in found.row_faults] == [False, True, True, True, False, False]
    assert "flux is 'much'" in found.row_faults[1] and "3 fields; expected 2" in found.row_faults[2]
    assert found.row_numbers.tolist() == [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(found.values[[0, 4, 5], 0], [2, np.nan, 9])
    np.testing.assert_array_equal(found.time[[0, 4, 5]], [1, 8, np.nan])


def test_a_table_of_which_nothing_is_taken_need_not_be_there(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "time,flux\n1,2\n")
    with pytest.raises(JaxrnnError, match=r"labels\.csv"):
        read(tmp_path, labels="table", table="labels.csv")
    to_predict = {"labels": "table", "table": "labels.csv"} | CsvFolderReader.TO_PREDICT
    assert read(tmp_path, **to_predict).ids.tolist() == ["x"]
    write(tmp_path / "labels.csv", "id,label\ny,a\n")
    assert read(tmp_path, **to_predict).ids.tolist() == ["x"]


def test_what_a_file_is_called_says(tmp_path: Path) -> None:
    for name in ("ia/sn1_g1.csv", "ii/sn2_g1.csv", "ii/.sn3_g1.csv"):
        write(tmp_path / name, "time,flux\n1,2\n")
    found = read(tmp_path, labels="name", pattern=r"(?P<id>\w+)_(?P<group>g\d)(?P<label>)")
    assert (found.ids.tolist(), found.groups.tolist()) == (["sn1", "sn2"], ["g1", "g1"])  # pyright: ignore
    found = read(tmp_path)
    assert (found.ids.tolist(), found.labels.tolist()) == (["ia/sn1_g1", "ii/sn2_g1"], ["ia", "ii"])
    found = read(tmp_path, labels="none", pattern=r"(?P<label>sn1)_.*")
    assert found.labels.tolist() == ["", ""]
    assert [bool(fault) for fault in found.object_faults] == [False, True]  # pyright: ignore
    found = read(tmp_path, labels="none", splits="folder")
    assert all("its split is 'i" in fault for fault in found.object_faults)  # pyright: ignore


def test_the_table_of_objects(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write(tmp_path / f"{name}.csv", "time,flux\n1,2\n")
    write(
        tmp_path / "table.csv",
        "id,label,z,split\na,ia,0.5,train\nb,ii,,test\nc,ii,far,train\na,ii,1,test\ne,ii,1,dev\n",
    )
    found = read(tmp_path, table="table.csv", labels="table", metadata={"z": ""}, splits="table")
    assert found.ids.tolist() == ["a", "b", "c", "d", "e"]
    assert found.object_faults is not None and found.splits is not None
    faults = dict(zip(found.ids, found.object_faults, strict=True))
    assert (
        "stands twice" in faults["a"] and not faults["b"] and "'far'" in faults["c"] and "no such file" in faults["e"]
    )
    assert found.labels[1] == "ii" and found.splits[1] == "test" and np.isnan(found.metadata[1, 0])
    assert np.diff(found.offsets).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(JaxrnnError, match=r"table.csv: no column 'zz'; did you mean 'z'"):
        read(tmp_path, table="table.csv", metadata={"zz": ""})


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "c" / "x.csv", "time,fluxx\n1,2\n")
    with pytest.raises(JaxrnnError, match=r"x\.csv: no column 'flux'; did you mean 'fluxx'\? \(it has time, fluxx\)"):
        read(tmp_path)
    for text, reason in (
        ("", "empty"),
        ("\n1,2\n", "no heading"),
        ("time,flux,flux\n", "stands twice"),
        ("a\0b", "no text"),
    ):
        write(tmp_path / "c" / "x.csv", text)
        with pytest.raises(JaxrnnError, match=reason):
            read(tmp_path)
    write(tmp_path / "c" / "x.csv.gz", "time,flux\n")
    (tmp_path / "c" / "x.csv").unlink()
    with pytest.raises(JaxrnnError, match="not compressed"):
        read(tmp_path)


def test_a_file_that_unfolds_to_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrnn.readers.csv_folder.MOST_BYTES", 10_000)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"time,flux\n" + b"1,2\n" * 100_000))
    with pytest.raises(JaxrnnError, match=r"x\.csv\.gz: more than 10,000 bytes"):
        read(tmp_path)


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "c" / "x.csv", "time,flux\n1,2\n")
    for options in (
        {"labels": "table"},
        {"labels": "name"},
        {"splits": "table"},
        {"metadata": {"z": ""}},
        {"group_column": "g"},
        {"passband": "b"},
        {"pattern": "("},
        {"values": {}},
        {"separator": ",,"},
    ):
        with pytest.raises(ValidationError):
            read(tmp_path, **options)
    for options in ({"errors": ["flx"]}, {"flags": ["flx"]}, {"files": "*.dat"}):
        with pytest.raises(JaxrnnError):
            read(tmp_path, **options)
