"""SNANA's three formats: real text files against the same objects in another format, and one survey written in all."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from pydantic import ValidationError

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import RowReader, SequenceReader, Sequences, joined, open_reader, snana

REAL = "spcc/snana_text"
HEAD = {
    "SNID": ["12", "0012", "x"],
    "RA": [-9.0, 2.0, 3.0],
    "NOBS": [2, 0, 1],
    "PTROBS_MIN": [1, -1, 4],
    "PTROBS_MAX": [2, -1, 4],
    "HOSTGAL_PHOTOZ": [0.5, -9.0, 0.25],
    "SIM_REDSHIFT_CMB": [0.51, 0.2, 0.3],
    "SIM_TYPE_INDEX": [1, 21, -9],
}
PHOT = {
    "MJD": [1.0, 2.0, -777.0, 5.0, -777.0],
    "BAND": ["g", "LSST-r", "-", "z", "-"],
    "FLUXCAL": [1.5, -2.5, -777.0, 3.5, -777.0],
    "FLUXCALERR": [0.5, -9.0, -777.0, 0.25, -777.0],
}


def text_reader(path: Path, **options: Any) -> SequenceReader:
    reader = open_reader("snana_text", path, options)
    assert isinstance(reader, SequenceReader)
    return reader


def everything(reader: SequenceReader, budget: int = 10**9) -> Sequences:
    return joined([reader.read(part) for part in reader.parts(budget)])


def write_pair(folder: Path, head: dict[str, Any] = HEAD, phot: dict[str, Any] = PHOT, name: str = "A") -> None:
    for kind, table in (("HEAD", head), ("PHOT", phot)):
        first = fits.PrimaryHDU()
        first.header["FILTERS"] = "gr"
        fits.HDUList([first, fits.BinTableHDU(Table(table))]).writeto(folder / f"{name}_{kind}.FITS")


def fits_reader(path: Path, **options: Any) -> SequenceReader:
    reader = open_reader("snana_fits", path, options)
    assert isinstance(reader, SequenceReader)
    return reader


@pytest.mark.data
def test_the_real_text_files_hold_what_the_archive_of_the_same_objects_holds(data_folder: Path) -> None:
    reader = text_reader(data_folder / REAL)
    found = everything(reader)
    assert len(found.ids) == 200 and found.row_faults is None
    assert reader.describe().passbands == ("g", "r", "i", "z")
    with np.load(data_folder / "spcc/spcc_lightcurves.npz") as archive:
        arrays = {name: archive[name] for name in archive}
    table = pd.read_csv(data_folder / "spcc/spcc_metadata.csv").set_index("snid")
    columns = [column.name for column in reader.describe().metadata]
    for place, name in enumerate(found.ids):
        (index,) = np.flatnonzero(arrays["snid"] == int(name))
        theirs = slice(arrays["offsets"][index], arrays["offsets"][index + 1])
        ours = slice(found.offsets[place], found.offsets[place + 1])
        np.testing.assert_array_equal(found.time[ours], arrays["mjd"][theirs])
        np.testing.assert_array_equal(found.passband[ours], arrays["band"][theirs])
        np.testing.assert_array_equal(found.values[ours, 0].astype("f4"), arrays["flux"][theirs])
        np.testing.assert_array_equal(found.values[ours, 1].astype("f4"), arrays["flux_err"][theirs])
        known = table.loc[int(name)]
        assert found.labels[place] == known["sim_type"]
        expected = known[["ra", "decl", "mwebv", "hostz", "hostz_err"]].to_numpy(dtype=float)
        np.testing.assert_array_equal(found.metadata[place], np.where(expected == -9, np.nan, expected))
    assert columns == ["RA", "DEC", "MWEBV", "HOSTGAL_PHOTOZ", "HOSTGAL_PHOTOZ_ERR"]


@pytest.mark.data
def test_spectroscopic_types_by_name_are_missing_where_no_spectrum_was_taken(data_folder: Path) -> None:
    found = everything(text_reader(data_folder / REAL, label="SNTYPE", types={1: "Ia", 22: "II"}, metadata=[]))
    assert {label: int((found.labels == label).sum()) for label in ("", "Ia", "II", "32")} == {
        "": 189,
        "Ia": 6,
        "II": 4,
        "32": 1,
    }
    assert found.metadata.shape == (200, 0)


@pytest.fixture
def real_text(data_folder: Path) -> str:
    return (data_folder / REAL / "DES_SN000017.DAT").read_text()


@pytest.mark.data
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: text.index("OBS:  56305.070")], "92 lines `OBS:` where NOBS states 93; truncated"),
        (lambda text: text[: text.index("END:") - 8], "ends within a line; truncated"),
        (lambda text: text[:300], "neither `NOBS:` nor `END:`"),
        (lambda text: text.replace("VARLIST:", "VARS:"), "no line `VARLIST:`"),
        (lambda text: text.replace("FLUXCALERR", "FLUXERR"), "no FLUXCALERR in its VARLIST"),
        (lambda text: text.replace("SNID:", "CID:"), "no line `SNID:`"),
        (lambda text: text.replace("0.0111 ", "about a tenth "), "MWEBV is 'about a tenth"),
        (lambda text: text.replace("FILTERS: griz", "FILTERS: gg"), "declare data.options.passbands"),
        (lambda text: text.replace("OBS:", "EPOCH:"), "verbose format"),
        (lambda text: "", "is empty; expected an SNANA light curve"),
    ],
)
def test_a_damaged_text_file_is_refused(
    tmp_path: Path, real_text: str, damage: Callable[[str], str], message: str
) -> None:
    file = tmp_path / "DES_SN000017.DAT"
    file.write_text(damage(real_text))
    with pytest.raises(JaxrnnError, match=re.escape(message)) as refused:
        everything(text_reader(tmp_path))
    assert str(file) in str(refused.value)


@pytest.mark.data
def test_a_bad_line_of_a_text_file_is_a_row_with_its_reason(tmp_path: Path, real_text: str) -> None:
    file = tmp_path / "DES_SN000017.DAT"
    text = real_text.replace("g NULL  -3.679e+01", "g NULL  -3.6x9e+01").replace("r NULL   4.410e+00", "r 4.410e+00")
    file.write_text(text)
    found = everything(text_reader(file))
    assert len(found.time) == 93 and found.row_faults is not None
    assert [row for row, fault in enumerate(found.row_faults) if fault] == [0, 1]
    assert found.row_faults[0] == "FLUXCAL: '-3.6x9e+01' is no number"
    assert found.row_faults[1].startswith("8 values where VARLIST names 9")
    assert np.isnan(found.values[:2]).all() and np.isfinite(found.values[2:]).all()


@pytest.mark.data
def test_a_text_file_without_observations_is_an_object_of_length_0(tmp_path: Path, real_text: str) -> None:
    text = re.sub(r"OBS: .*\n", "", real_text).replace("NOBS: 93", "NOBS: 0")
    assert "OBS: " in real_text and "56171" not in text
    (tmp_path / "DES_SN000017.DAT").write_text(text)
    found = everything(text_reader(tmp_path))
    assert found.ids.tolist() == ["17"] and found.offsets.tolist() == [0, 0] and found.values.shape == (0, 2)


@pytest.mark.parametrize("reader", ["snana_text", "snana_fits", "snana_csv"])
@pytest.mark.parametrize("name", ["SIM_REDSHIFT", "sim_peakmjd", "SNTYPE"])
def test_truth_is_refused_as_metadata(reader: str, name: str) -> None:
    with pytest.raises(ValidationError, match="tells the answer"):
        snana.Options.model_validate({"metadata": [name]})
    with pytest.raises(ValidationError, match="tells the answer"):
        open_reader(reader, Path(), {"metadata": [name]})


def test_types_are_the_same_after_json() -> None:
    options = snana.Options(types={1: "Ia", "20": "II"})
    again = snana.Options.model_validate(options.model_dump(mode="json"))
    assert snana.label_names(again.types) == snana.label_names(options.types)


@pytest.mark.parametrize("budget", [1, 10**9])
def test_fits_tables_hold_what_was_put_there(tmp_path: Path, budget: int) -> None:
    write_pair(tmp_path)
    found = everything(fits_reader(tmp_path, types={1: "Ia"}), budget)
    assert found.ids.tolist() == ["12", "0012", "x"] and found.labels.tolist() == ["Ia", "21", ""]
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.time.tolist() == [1, 2, 5] and found.row_numbers.tolist() == [0, 1, 3]
    assert found.values.tolist() == [[1.5, 0.5], [-2.5, -9], [3.5, 0.25]] and found.passband.tolist() == [0, 1, -1]
    np.testing.assert_array_equal(found.metadata, [[-9, 0.5], [2, np.nan], [3, 0.25]])
    assert found.object_faults is None


def test_a_range_across_an_end_of_object_that_the_pointers_take_in_leaves_it_out(tmp_path: Path) -> None:
    write_pair(tmp_path, HEAD | {"NOBS": [3, 0, 2], "PTROBS_MAX": [3, -1, 5]})
    found = everything(fits_reader(tmp_path))
    assert found.offsets.tolist() == [0, 2, 2, 3] and found.time.tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PTROBS_MAX": [2, -1, 9]}, "row 2 of HEAD points to rows 4 to 9 of PHOT, which has 5"),
        ({"PTROBS_MIN": [3, -1, 4], "PTROBS_MAX": [1, -1, 4]}, "row 0 of HEAD points to rows 3 to 1"),
        ({"NOBS": [2, 0, 7]}, "row 2 of HEAD states NOBS 7 and points to 1 rows"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_the_fault_of_its_object_alone(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    write_pair(tmp_path, HEAD | change)
    faults = everything(fits_reader(tmp_path)).object_faults
    assert faults is not None
    (fault,) = [fault for fault in faults if fault]
    assert fault.startswith(reason)


@pytest.mark.parametrize("kind", ["HEAD", "PHOT"])
@pytest.mark.parametrize("reader", ["snana_fits", "snana_csv"])
def test_one_of_a_pair_without_the_other_is_refused(tmp_path: Path, reader: str, kind: str) -> None:
    other = {"HEAD": "PHOT", "PHOT": "HEAD"}[kind]
    ending = "FITS" if reader == "snana_fits" else "csv"
    (tmp_path / f"A_{kind}.{ending}").write_text("SNID\n")
    with pytest.raises(JaxrnnError, match=f"A_{kind}.{ending}: no {other} file beside it; .* A_{other}.{ending}"):
        open_reader(reader, tmp_path, {})


def test_a_table_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "A_HEAD.FITS.gz").write_bytes(gzip.compress((tmp_path / "A_HEAD.FITS").read_bytes()))
    with pytest.raises(JaxrnnError, match="the same table"):
        fits_reader(tmp_path)


def test_a_truncated_fits_file_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    file = tmp_path / "A_PHOT.FITS"
    file.write_bytes(file.read_bytes()[:-2880])
    with pytest.raises(JaxrnnError, match=r"A_PHOT.FITS: truncated by [\d,]+ bytes"):
        fits_reader(tmp_path)


def test_a_damaged_second_pair_is_told_when_it_is_read_and_the_first_is_kept(tmp_path: Path) -> None:
    write_pair(tmp_path, name="A")
    write_pair(tmp_path, name="B")
    (tmp_path / "B_PHOT.FITS").write_bytes(b"SIMPLE")
    reader = fits_reader(tmp_path)
    first, second = reader.parts(10**9)
    assert len(reader.read(first).ids) == 3
    with pytest.raises(JaxrnnError, match=r"B_PHOT.FITS: not a readable FITS file"):
        reader.read(second)


@pytest.mark.parametrize("column", ["FLUXCALERR", "BAND", "MJD"])
def test_a_fits_table_without_a_column_is_refused(tmp_path: Path, column: str) -> None:
    write_pair(tmp_path, phot={name: values for name, values in PHOT.items() if name != column})
    with pytest.raises(JaxrnnError, match=f"A_PHOT.FITS: no column {column}"):
        fits_reader(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_csv_twin_gives_what_the_fits_tables_give(tmp_path: Path, zipped: bool) -> None:
    write_pair(tmp_path)
    expected = everything(fits_reader(tmp_path, types={1: "Ia"}))
    owners = ["12", "12", "12", "x", "x"]
    head, phot = pd.DataFrame(HEAD), pd.DataFrame({"SNID": owners} | PHOT).rename(columns={"BAND": "FLT"})
    for kind, table in (("HEAD", head), ("PHOT", phot)):
        table.to_csv(tmp_path / f"A_{kind}.csv{'.gz' if zipped else ''}", index=False)
    reader = open_reader("snana_csv", tmp_path, {"types": {1: "Ia"}, "passbands": ["g", "r"]})
    assert isinstance(reader, RowReader)
    (objects,) = reader.read_objects(reader.object_parts(10**9)[0])
    (rows,) = reader.read_observations(reader.observation_parts(10**9)[0])
    assert objects.ids.astype(str).tolist() == expected.ids.tolist()
    assert objects.labels.tolist() == expected.labels.tolist()
    np.testing.assert_array_equal(objects.metadata, expected.metadata)
    assert rows.object_ids.tolist() == [b"12", b"12", b"x"]
    np.testing.assert_array_equal(rows.time, expected.time)
    np.testing.assert_array_equal(rows.values, expected.values)
    np.testing.assert_array_equal(rows.passband, expected.passband)
    assert reader.rows_at(rows.file, rows.row_numbers).tolist() == expected.row_numbers.tolist()


def test_csv_tables_ask_for_passbands_and_say_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "A_HEAD.csv").write_text("SNID,SNTYPE\n1,101\n")
    (tmp_path / "A_PHOT.csv").write_text("SNID,MJD,FLUXCAL,FLUXCALERR,FLT\n1,5.0,1,1,z\n1,6.0,1,1,g\n")
    with pytest.raises(JaxrnnError, match=r"declare data.options.passbands; its first rows have g, z"):
        open_reader("snana_csv", tmp_path, {})
