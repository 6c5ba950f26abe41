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
