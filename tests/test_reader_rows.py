"""Tables read in pieces: what comes out is what Python's own csv module reads, whatever the pieces and the faults."""

import csv
import gzip
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import rows
from jaxrnn.readers.rows import Rows, Wanted, open_table

WANTED = Wanted("id", numbers=("x", "y"), marks=("good",), texts=("band",))
HEADER = ["id", "x", "note", "good", "y", "band"]
LINE = "7,1.5,,true,-2e3,g"


def read(file: Path, budget: int = 1 << 30, wanted: Wanted = WANTED) -> list[dict[str, Any]]:
    """Returns every row that a table gives, as Python values."""
    table = open_table(file)
    table.check(wanted)
    return [row for part in table.parts(budget) for piece in table.read(part, wanted) for row in unrolled(table, piece)]


def unrolled(table: rows.Table, piece: Rows) -> list[dict[str, Any]]:
    columns = {name: texts.decoded() for name, texts in piece.texts.items()} | piece.numbers
    faults = np.full(len(piece.ids), "") if piece.faults is None else piece.faults
    numbers = table.rows_at(piece.row_numbers)
    return [
        {name: column[k] for name, column in columns.items()}
        | {"id": piece.ids[k].decode(), "row": int(numbers[k]), "fault": faults[k]}
        for k in range(len(piece.ids))
    ]


def write(file: Path, *lines: str, header: list[str] = HEADER) -> Path:
    file.write_text("\n".join([",".join(header), *lines, ""]))
    return file


def assert_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == value or (one[key] != one[key] and value != value), (key, one, other)


numbers = st.floats(allow_nan=False, width=64)
words = st.text("abz 'é#", max_size=6).map(str.strip)
clean = st.fixed_dictionaries(
    {"id": words, "x": numbers, "note": words, "good": st.booleans(), "y": numbers, "band": words}
)
bad = st.sampled_from(["1,2", "a,b,c,d,e,f", "1,2,3,true,5,g,7", '"', "1,2,3,true,five,g", "\0\0", "1_0,1_0,,t,1,g"])
lines = st.lists(st.one_of(clean, clean, bad, st.just("")), max_size=30)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 400), st.booleans(), st.booleans())
def test_every_line_is_a_row_and_every_bad_one_says_why(
    tmp_path: Path, lines: list[Any], end: str, quoted: bool, budget: int, zipped: bool, last: bool
) -> None:
    texts, expected = [",".join(HEADER)], []
    for place, line in enumerate(lines):
        text = line
        if isinstance(line, dict):
            buffer = io.StringIO()
            writer = csv.writer(buffer, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, lineterminator="")
            writer.writerow([repr(line[c]) if isinstance(line[c], float) else line[c] for c in HEADER])
            text = buffer.getvalue()
            expected.append({key: value for key, value in line.items() if key != "note"} | {"row": place, "fault": ""})
        elif line:
            expected.append({"row": place, "fault": True})
        texts.append(text)
    content = (end.join(texts) + (end if last else "")).encode()
    file = tmp_path / ("table.csv.gz" if zipped else "table.csv")
    file.write_bytes(gzip.compress(content) if zipped else content)
    found = read(file, budget)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row["row"] == wanted["row"]
        if wanted["fault"]:
            assert row["fault"] and np.isnan([row["x"], row["y"], row["good"]]).all()
        else:
            assert_rows([row], [wanted])


def test_one_bad_row_among_many_changes_no_other(tmp_path: Path) -> None:
    good = [f"{k % 50},{k / 7!r},,{k % 2},{k},{'gri'[k % 3]}" for k in range(20_000)]
    assert sum(map(len, good)) > 4 * rows.ROW_BY_ROW_BYTES
    expected = read(write(tmp_path / "clean.csv", *good), 100_000)
    assert [row["x"] for row in expected] == [k / 7 for k in range(20_000)]
    found = read(write(tmp_path / "dirty.csv", *good[:12_345], "5,6.0,,1,oops,g", *good[12_345:]), 100_000)
    fault = found.pop(12_345)
    assert (fault["id"], fault["row"], fault["fault"]) == ("5", 12_345, "y: 'oops' is no number")
    assert_rows([{**row, "row": k} for k, row in enumerate(found)], expected)


@pytest.mark.parametrize("before", [0, 1, 5000])
def test_a_line_that_is_longer_than_a_piece_that_is_read_row_by_row(tmp_path: Path, before: int) -> None:
    note = "x" * (3 * rows.ROW_BY_ROW_BYTES)
    found = read(write(tmp_path / "table.csv", *[LINE] * before, f"8,1,{note},1,oops,g", f"9,1,{note},1,2,g"))
    assert [row["id"] for row in found] == ["7"] * before + ["8", "9"]
    assert [bool(row["fault"]) for row in found] == [False] * before + [True, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7,1.5", "2 fields where 6 are expected: '7,1.5'"),
        ("7,1.5,,true,,g,8", "7 fields where 6 are expected"),
        ("7,1.5,,true,1.2.3,g", "y: '1.2.3' is no number"),
        ("7,1.5,,maybe,2,g", "good: 'maybe' is no number"),
        (f"7,{'x' * 99},,1,2,g", f"x: '{'x' * 37}...' is no number"),
        ('7,1.5,"open,1,2,g', "a quote that does not close on its line"),
        (f"{'7' * 300},1.5,,1,2,g", "is longer than 256 bytes"),
        ("\0" * 50, "NUL bytes"),
    ],
)
def test_the_reason_of_a_bad_row(tmp_path: Path, line: str, reason: str) -> None:
    before, found, after = read(write(tmp_path / "table.csv", LINE, line, LINE))
    assert reason in found["fault"] and found["row"] == 1
    good = {"id": "7", "x": 1.5, "y": -2e3, "good": 1.0, "band": "g", "fault": ""}
    assert_rows([before, after], [good | {"row": 0}, good | {"row": 2}])


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(",".join(HEADER).encode() + b"\n\xff\xfe,1,,1,2,g\n" + LINE.encode())
    assert ["not in UTF-8" in row["fault"] for row in read(file)] == [True, False]


def test_ids_stay_text_and_missing_numbers_are_nan(tmp_path: Path) -> None:
    found = read(write(tmp_path / "table.csv", "0012,,,1,NaN,g", " 12 ,inf,,0,null,", "1e3,NA,,F,-inf,NA"))
    assert [row["id"] for row in found] == ["0012", "12", "1e3"]
    np.testing.assert_array_equal([row["x"] for row in found], [np.nan, np.inf, np.nan])
    np.testing.assert_array_equal([row["y"] for row in found], [np.nan, np.nan, -np.inf])
    assert [row["band"] for row in found] == ["g", "", "NA"]
    assert not any(row["fault"] for row in found)


def test_a_byte_order_mark_comments_and_blank_lines_before_the_names(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"\xef\xbb\xbf# from a survey\r\n\r\n" + ",".join(HEADER).encode() + b"\r\n" + LINE.encode())
    assert [(row["id"], row["row"]) for row in read(file)] == [("7", 0)]


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    assert read(write(tmp_path / "table.csv")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n# nothing\n", "no line of column names"),
        (b"id,x,id\n1,2,3\n", "column id stands twice"),
        (b"id,x\r1,2\r", "no line end"),
        ("id,x\n".encode("utf-16"), "no CSV in UTF-8"),
        (b"id,x,note,good,yy,band\n", "no column y; did you mean 'yy'"),
        (b"x" * (rows.MOST_LINE_BYTES + 1), "no line end"),
        (b"PAR1 and no more", "cannot be read as a table"),
        (b"\x1f\x8b and no more", "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(JaxrnnError, match=message) as refused:
        read(file)
    assert str(file) in str(refused.value)


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv.gz"
    whole = gzip.compress("\n".join([",".join(HEADER), *[f"{k},{k / 3},,1,2,g" for k in range(500)]]).encode())
    file.write_bytes(whole[:-20])
    with pytest.raises(JaxrnnError, match="truncated"):
        read(file)


def test_parts_cover_every_byte_of_the_rows_once(tmp_path: Path) -> None:
    file = write(tmp_path / "table.csv", *[LINE] * 200)
    for budget in (1, 50, 1000, 1 << 30):
        parts = open_table(file).parts(budget)
        assert parts[0].start == len(",".join(HEADER)) + 1 and parts[-1].stop == file.stat().st_size
        assert all(one.stop == other.start for one, other in pairwise(parts))
        assert max(part.bytes for part in parts) <= budget + len(LINE) + 1


def test_small_pieces_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "table.csv", *[f"{k},{k / 3!r},,1,2,{'gr'[k % 2]}" for k in range(300)], "bad", "")
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    expected = read(file)
    monkeypatch.setattr(rows, "PIECE_BYTES", 64)
    assert_rows(read(file, 500), expected)
    assert_rows(read(packed, 500), expected)


def test_parquet_gives_what_the_csv_file_gives(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "id": np.arange(100) // 7,
            "x": np.where(generator.random(100) < 0.1, np.nan, generator.normal(size=100)),
            "good": generator.random(100) < 0.5,
            "y": generator.integers(0, 9, 100),
            "band": pd.Categorical(generator.choice(["g", "r"], 100)),
        }
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet", row_group_size=13)
    expected = read(tmp_path / "table.csv")
    assert len(expected) == 100
    for budget in (1, 700, 1 << 30):
        assert_rows(read(tmp_path / "table.parquet", budget), expected)


@pytest.mark.parametrize(("column", "values"), [("id", [1.5]), ("x", ["text"]), ("band", [[1, 2]])])
def test_parquet_columns_of_another_type_are_refused(tmp_path: Path, column: str, values: list[Any]) -> None:
    columns: dict[str, Any] = {"id": ["a"], "x": [1.0], "good": [True], "y": [2], "band": ["g"]}
    pd.DataFrame(columns | {column: values}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(JaxrnnError, match=f"column {column} holds .* expected"):
        read(tmp_path / "table.parquet")
