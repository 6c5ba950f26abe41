"""Raw .dat folders: the ADACS waves, other types and layouts, and files that don't fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SequenceReader, Sequences, joined, open_reader
from jaxrnn.readers.dat import DatOptions, DatReader


def opened(path: Path, **options: Any) -> SequenceReader:
    reader = open_reader("dat", path, options)
    assert isinstance(reader, SequenceReader)
    return reader


def read(path: Path, **options: Any) -> Sequences:
    reader = opened(path, **options)
    reader.describe()
    return joined([reader.read(part) for part in reader.parts(10**6)])


def write(folder: Path, name: str, *numbers: float, dtype: str = "<f8") -> None:
    folder.mkdir(exist_ok=True)
    np.array(numbers, dtype).tofile(folder / name)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(JaxrnnError) as caught:
        read(path, **options)
    return str(caught.value)


@pytest.mark.data
def test_the_adacs_waves(data_folder: Path) -> None:
    folder = data_folder / "adacs"
    found = read(folder, labels={"0": "sine", "1": "square"})
    assert found.splits is not None
    assert (found.splits.tolist().count("train"), found.splits.tolist().count("test")) == (200, 50)
    assert (np.diff(found.offsets) == 128).all() and set(found.labels.tolist()) == {"sine", "square"}
    for index, name in enumerate(found.ids.tolist()):
        split, number = name.split("/")
        np.testing.assert_array_equal(
            found.values[128 * index : 128 * (index + 1), 0], np.fromfile(folder / split / f"X_{number}.dat")
        )
        assert (found.labels[index] == "square") == (np.fromfile(folder / split / f"Y_{number}.dat")[0] == 1)
    # all test files are copies of training files
    waves = {values.tobytes(): split for values, split in zip(found.values.reshape(250, -1), found.splits, strict=True)}
    assert len(waves) == 189


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">f4", "<i4", ">i4", "<i2", ">i2"])
def test_every_type_in_a_flat_folder(tmp_path: Path, dtype: str) -> None:
    write(tmp_path, "X_a.dat", 1, -2, 3, dtype=dtype)
    write(tmp_path, "Y_a.dat", 4, dtype=dtype)
    reader = opened(tmp_path, dtype=dtype)
    assert not reader.describe().gives_splits and reader.describe().labelled
    found = read(tmp_path, dtype=dtype, sampling_step=0.5)
    assert found.values.tolist() == [[1], [-2], [3]] and found.time.tolist() == [0, 0.5, 1]
    assert found.labels.tolist() == ["4"] and found.splits is None


def test_what_lacks_its_other_half_is_passed_on(tmp_path: Path) -> None:
    write(tmp_path, "X_1.dat", 1, 2)
    write(tmp_path, "Y_2.dat", 1)
    write(tmp_path, "X_3.dat", np.nan)
    write(tmp_path, "Y_3.dat", np.nan)
    write(tmp_path, "X_4.dat", 5)
    write(tmp_path, "Y_4.dat", 0.25)
    (tmp_path / "Readme.txt").write_text("waves")
    found = read(tmp_path)
    by_name = dict(
        zip(found.ids.tolist(), zip(found.labels.tolist(), np.diff(found.offsets), strict=True), strict=True)
    )
    assert by_name == {"1": ("", 2), "2": ("1", 0), "3": ("", 1), "4": ("0.25", 1)}
    assert len(opened(tmp_path).files()) == 6


def test_splits_by_folder(tmp_path: Path) -> None:
    for folder in ("learn", "TEST", "validation"):
        write(tmp_path / folder, "X_1.dat", 1)
        write(tmp_path / folder, "Y_1.dat", 1)
    assert read(tmp_path).ids.tolist() == ["validation/1", "TEST/1"]
    found = read(tmp_path, splits={"test": "validation", "train": "learn"})
    assert found.splits is not None
    assert dict(zip(found.ids.tolist(), found.splits.tolist(), strict=True)) == {
        "learn/1": "train",
        "validation/1": "test",
    }
    assert "splits.train" in refused(tmp_path, splits={"train": "none"})
    write(tmp_path / "test", "X_1.dat", 1)
    assert "TEST and test are both the test split" in refused(tmp_path)
    write(tmp_path, "X_9.dat", 1)
    assert "X_9.dat: lies beside the folders" in refused(tmp_path, splits={"train": "learn"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("X_1.dat", b"", "0 bytes, which is no whole number of values of 8 bytes"),
        ("X_1.dat", bytes(15), "15 bytes, which is no whole number of values of 8 bytes; the file is truncated"),
        ("Y_1.dat", b"", "0 bytes"),
        ("Y_1.dat", bytes(16), "2 numbers; expected one, the label of the X of that name"),
        ("Z_1.dat", bytes(8), "neither X_<name>.dat nor Y_<name>.dat"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write(tmp_path, "X_1.dat", 1)
    write(tmp_path, "Y_1.dat", 1)
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path)
    assert f"{tmp_path / name}: " in message and said in message


def test_links_and_folders_in_a_files_place(tmp_path: Path) -> None:
    assert "X_<name>.dat missing; " in refused(tmp_path)
    (tmp_path / "X_1.dat").symlink_to(tmp_path / "X_1.dat")
    assert f"{tmp_path / 'X_1.dat'}: cannot be read (" in refused(tmp_path)
    (tmp_path / "X_1.dat").unlink()
    (tmp_path / "X_1.dat").mkdir()
    assert "is no regular file" in refused(tmp_path)
    assert "is no folder" in refused(Path(__file__))


def test_splits_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("survey/test", "old/train", "new/train"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder, "X_1.dat", len(folder), 2.0)
        write(tmp_path / folder, "Y_1.dat", 1.0)
    absolute = str(tmp_path / "new/train")
    for where, ids in ((absolute, ["train/1", "test/1"]), ("./old/train", ["train/1", "test/1"])):
        found = read(Path("survey"), splits={"train": where, "test": "test"})
        assert found.ids.tolist() == ids
        assert found.splits is not None and found.splits.tolist() == ["train", "test"]
        assert found.values[0, 0] == 9
        # what the workflow watches before a survey is made there
        options = DatOptions.model_validate({"splits": {"train": where, "test": "test"}})
        assert DatReader.files_elsewhere(options) == [Path(where) / "X_1.dat", Path(where) / "Y_1.dat"]
    # folders of one name go by their splits
    found = read(
        Path("survey"), splits={"train": "./old/train", "validation": "../" + str(tmp_path.name) + "/new/train"}
    )
    assert found.ids.tolist() == ["train/1", "validation/1"]
    assert "../gone missing" in refused(Path("survey"), splits={"train": "../gone"})
