"""Long tables: which column is what, and messages where the options and the files do not agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import RowReader, open_reader
from jaxrnn.readers.table import TableReader

OPTIONS = {
    "object": "star",
    "time": "t",
    "values": {"flux": "uJy", "flux_error": {"column": "e", "unit": "uJy"}},
    "errors": ["flux_error"],
    "passband": "filter",
    "passbands": ["g", "r"],
    "label": "class",
}
TABLE = "star,t,flux,e,filter,class,field\na,1.0,5,.1,g,RR,n\nb,2.0,6,.2,x,,n\na,3.0,7,-9,r,RR,s\n"
STARS = "star,class,split,d\na,RR,Training,1.5\nb,EA,test,\nc,EA,tset,2\n"


def opened(folder: Path, table: str = TABLE, stars: str | None = None, **options: Any) -> RowReader:
    (folder / "table.csv").write_text(table)
    if stars is not None:
        (folder / "stars.csv").write_text(stars)
    reader = open_reader("table", folder, OPTIONS | options)
    assert isinstance(reader, RowReader)
    return reader


def test_without_a_table_of_objects_labels_and_groups_come_with_the_observations(tmp_path: Path) -> None:
    reader = opened(tmp_path, group="field")
    assert reader.object_parts(10**6) == []
    (part,) = reader.observation_parts(10**6)
    (rows,) = reader.read_observations(part)
    assert rows.object_ids.tolist() == [b"a", b"b", b"a"]
    assert rows.labels is not None and rows.labels.tolist() == ["RR", "", "RR"]
    assert rows.groups is not None and rows.groups.tolist() == ["n", "n", "s"]
    # faults inside the data are handed on: an undeclared passband, a negative error
    assert (
        rows.passband.tolist() == [0, -1, 1] and rows.values[:, 1].tolist() == [0.1, 0.2, -9.0] and rows.faults is None
    )
    assert reader.describe().labelled and reader.describe().gives_groups and not reader.describe().gives_splits


def test_a_table_of_objects_takes_the_label_and_says_which_split_is_none(tmp_path: Path) -> None:
    metadata = {"file": "stars.csv", "columns": {"distance": {"column": "d", "unit": "kpc"}}}
    reader = opened(tmp_path, stars=STARS, metadata=metadata, split="split")
    (part,) = reader.object_parts(10**6)
    (objects,) = reader.read_objects(part)
    assert objects.labels.tolist() == ["RR", "EA", "EA"]
    np.testing.assert_array_equal(objects.metadata, [[1.5], [np.nan], [2]])
    assert objects.splits is not None and objects.splits.tolist() == ["train", "test", "tset"]
    assert objects.faults is not None and objects.faults.tolist()[:2] == ["", ""]
    assert objects.faults[2] == "split: 'tset' is none of train, validation, test"
    assert [file.name for file in reader.files()] == ["stars.csv", "table.csv"]
    assert next(reader.read_observations(reader.observation_parts(10**6)[0])).labels is None


NOTHING = ["", "NA", "nan", "N/A", "null", "None", " NA "]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("is_dirty", [False, True])
def test_what_says_that_a_name_is_missing_is_no_name(tmp_path: Path, ending: str, is_dirty: bool) -> None:
    """Neither a class nor a group, split or step's label, in CSV read at once and row by row, and in Parquet."""
    names = [*NOTHING, "x", " x", "x\t"]
    expected = [""] * len(NOTHING) + ["x"] * 3
    # a null stands where Parquet says so itself; CSV has no other than the texts
    blanks = [None, *names[1:]] if ending == "parquet" else names
    columns = {"star": [f"s{k}" for k in range(len(names))], "t": 1.0, "flux": 2.0, "e": 1.0, "filter": "g"}
    table = pd.DataFrame({**columns, "class": blanks, "field": blanks, "phase": blanks})
    known = pd.DataFrame(
        {"star": columns["star"], "kind": blanks, "night": blanks, "split": [*blanks[:-3], *3 * [" Train "]]}
    )
    for content, name in ((table, "table"), (known, "stars")):
        if ending == "parquet":
            content.to_parquet(tmp_path / f"{name}.{ending}")
        else:
            if is_dirty:  # one bad number, and all rows are read one by one
                content = pd.concat(
                    [content, content.iloc[:1].assign(star="bad", **({"t": "?"} if name == "table" else {}))]
                )
            content.to_csv(tmp_path / f"{name}.{ending}", index=False)

    def options(**more: Any) -> dict[str, Any]:
        return OPTIONS | {"step_label": "phase", "files": "table*"} | more

    reader = open_reader("table", tmp_path, options(group="field"))
    assert isinstance(reader, RowReader)
    (rows,) = reader.read_observations(reader.observation_parts(10**6)[0])
    for found in (rows.labels, rows.groups, rows.step_labels):
        assert found is not None and found.tolist()[: len(names)] == expected
    metadata = {"file": f"stars.{ending}"}
    reader = open_reader("table", tmp_path, options(label="kind", group="night", split="split", metadata=metadata))
    assert isinstance(reader, RowReader)
    (objects,) = reader.read_objects(reader.object_parts(10**6)[0])
    assert objects.labels.tolist()[: len(names)] == expected
    assert objects.groups is not None and objects.groups.tolist()[: len(names)] == expected
    assert objects.splits is not None and objects.splits.tolist()[: len(names)] == [*expected[:-3], *["train"] * 3]


def test_ids_are_text_and_stay_as_they_are_written(tmp_path: Path) -> None:
    reader = opened(tmp_path, "star,t,flux,e,filter,class\n7,1,1,1,g,a\n007,1,1,1,g,a\n7.0,1,1,1,g,a\n")
    (rows,) = reader.read_observations(reader.observation_parts(10**6)[0])
    assert rows.object_ids.tolist() == [b"7", b"007", b"7.0"]


def test_another_separator(tmp_path: Path) -> None:
    reader = opened(tmp_path, TABLE.replace(",", ";"), separator=";")
    (rows,) = reader.read_observations(reader.observation_parts(10**6)[0])
    assert rows.time.tolist() == [1, 2, 3]


def test_numbers_of_passbands_and_labels_in_parquet_as_pandas_writes_them(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"star": [4, 5], "t": [1, 2], "flux": [1.0, 2], "e": [1.0, 2], "filter": [1.0, 2], "class": [90.0, None]}
    )
    table.to_parquet(tmp_path / "table.parquet")
    reader = open_reader("table", tmp_path / "table.parquet", OPTIONS | {"passbands": {"g": 1, "r": 2}})
    assert isinstance(reader, RowReader)
    (rows,) = reader.read_observations(reader.observation_parts(10**6)[0])
    assert rows.object_ids.tolist() == [b"4", b"5"] and rows.passband.tolist() == [0, 1]
    assert rows.labels is not None and rows.labels.tolist() == ["90", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "tt"}, "no column tt"),
        ({"label": "klass"}, "no column klass; did you mean 'class'"),
        ({"errors": ["error"]}, "errors: error is none of `values`"),
        ({"errors": ["flux"]}, "is the error of no value"),
        ({"flags": ["saturated"]}, "flags: saturated is none of `values`"),
        ({"passbands": []}, "go together"),
        ({"split": "class"}, "needs `metadata`"),
        ({"label": "flux"}, "flux is named as two things"),
        ({"files": "lc_*"}, "whose name fits lc_"),
        ({"metadata": {"file": "stars.csv"}}, "stars.csv: cannot be read"),
    ],
)
def test_options_that_do_not_fit_the_files(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(JaxrnnError, match=message):
        opened(tmp_path, **options)


def test_a_label_that_stands_in_neither_table(tmp_path: Path) -> None:
    with pytest.raises(JaxrnnError, match=r"no column kind in .*stars.csv or .*table.csv"):
        opened(tmp_path, stars=STARS, metadata={"file": "stars.csv"}, label="kind")


@pytest.mark.parametrize("options", [{"separator": "ab"}, {"separator": '"'}, {"values": {}}, {"colour": "b"}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TableReader.Options.model_validate(OPTIONS | options)


def test_options_are_the_same_after_json() -> None:
    options = TableReader.Options.model_validate(OPTIONS | {"metadata": {"file": "stars.csv", "columns": {"d": "kpc"}}})
    assert TableReader.Options.model_validate(options.model_dump(mode="json")) == options
