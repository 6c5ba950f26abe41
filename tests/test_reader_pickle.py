"""Pickles: read as they were written whatever the protocol, and nothing in them ever run."""

import gzip
import os
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Sequences, joined, open_reader

generator = np.random.default_rng(3)
X = generator.normal(size=(6, 4, 3))
Y = np.array([0, 1, 2, 0, 1, 2])


def read(file: Path, budget: int = 200, **options: Any) -> Sequences:
    reader = open_reader("pickle", file, options)
    reader.describe()
    return joined([reader.read(part) for part in reader.parts(budget)])  # pyright: ignore


def written(folder: Path, value: Any, protocol: int | None = None) -> Path:
    (folder / "data.pkl").write_bytes(pickle.dumps(value, protocol))
    return folder / "data.pkl"


def refused(file: Path) -> str:
    with pytest.raises(JaxrnnError) as caught:
        read(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "x",
    [
        X,
        np.asfortranarray(X),
        X[:, ::2],
        X.astype(">f4"),
        (100 * X).astype(np.int16),
        (X > 0),
        (100 * X).astype(np.uint8),
        X[:, :, 0],
        list(X),
        tuple(X),
        X.tolist(),
        X[:, :, 1].tolist(),
    ],
    ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}",
)
def test_every_protocol_and_type_is_read_as_pickle_reads_it(tmp_path: Path, protocol: int, x: Any) -> None:
    file = written(tmp_path, ((x, Y), (x, Y.tolist())), protocol)
    (expected, labels), _ = pickle.loads(file.read_bytes())
    found = read(file)
    whole = np.asarray(expected, dtype=float).reshape(6, -1, np.asarray(expected).shape[2] if np.ndim(x) == 3 else 1)
    np.testing.assert_array_equal(found.values, np.concatenate([*whole, *whole]))
    np.testing.assert_array_equal(np.diff(found.offsets), whole.shape[1])
    assert found.labels.tolist() == [str(label) for label in labels] * 2
    assert found.splits is not None and found.splits.tolist() == ["train"] * 6 + ["test"] * 6


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sequences_of_unequal_length(tmp_path: Path, protocol: int) -> None:
    tables = [generator.normal(size=(length, 2)) for length in (3, 0, 5, 1)]
    array = np.empty(4, dtype=object)
    for index, table in enumerate(tables):
        array[index] = table
    for x in (tables, array):
        found = read(written(tmp_path, (x, ["a", "b", "é", "a"]), protocol))
        assert np.diff(found.offsets).tolist() == [3, 0, 5, 1]
        np.testing.assert_array_equal(found.values, np.concatenate(tables))
        np.testing.assert_array_equal(found.time, [0, 1, 2, 0, 1, 2, 3, 4, 0])
        assert found.labels.tolist() == ["a", "b", "é", "a"] and found.splits is None


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.eye(3)[Y], "012012"),
        (np.eye(3, dtype=bool)[Y].tolist(), "012012"),
        (Y[:, None].astype(np.uint8), "012012"),
        (Y.astype(float), "012012"),
        (np.array(list("abcabc")), "abcabc"),
        (np.array(list("abcabc"), dtype="S1"), "abcabc"),
        (np.array(list("abcabc"), dtype=object), "abcabc"),
        ([np.int64(label) for label in Y], "012012"),
        ([np.str_(label) for label in "abcabc"], "abcabc"),
        ([0, 1, None, 0.0, float("nan"), 2], ["0", "1", "", "0", "", "2"]),
    ],
)
def test_labels_in_every_form(tmp_path: Path, y: Any, labels: Any) -> None:
    assert read(written(tmp_path, (X, y))).labels.tolist() == list(labels)


def test_gzip_folders_names_and_three_splits(tmp_path: Path) -> None:
    value = ((X, Y), (X[:2], Y[:2]), (X[2:], Y[2:]))
    (tmp_path / "waves.pkl.gz").write_bytes(gzip.compress(pickle.dumps(value)))
    found = read(tmp_path, columns=["u", "v", "w"], sampling_step=0.5)
    assert found.splits is not None
    assert found.splits.tolist() == ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    np.testing.assert_array_equal(found.time[:4], [0, 0.5, 1, 1.5])
    assert len(set(found.ids.tolist())) == 12
    with pytest.raises(JaxrnnError, match=r"2 names; .* has 3 columns"):
        read(tmp_path, columns=["u", "v"])


class Calling:
    """An object whose pickle asks for any call."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.reduced = called, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class Subclass(np.ndarray):
    def __setstate__(self, state: Any) -> None:
        raise AssertionError("was run")


def mark_of(folder: Path) -> str:
    return str(folder / "was-run")


ATTACKS: dict[str, Callable[[str], Any]] = {
    "posix.system": lambda mark: Calling(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Calling(eval, f"open({mark!r}, 'w')"),
    "builtins.exec": lambda mark: Calling(exec, f"open({mark!r}, 'w')"),
    "builtins.getattr": lambda mark: Calling(getattr, np.zeros(1), "tofile"),
    "numpy.save": lambda mark: Calling(np.save, mark, np.zeros(1)),
    "numpy.fromfile": lambda mark: Calling(np.fromfile, mark),
    "numpy.load": lambda mark: Calling(np.load, mark, None, True),
    "test_reader_pickle.Subclass": lambda mark: np.zeros(3).view(Subclass),
    "numpy.ma": lambda mark: np.ma.masked_array([1.0, 2.0]),
    "collections.OrderedDict": lambda mark: OrderedDict(a=1),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_pickle_names_is_refused_by_name_and_not_run(tmp_path: Path, name: str, protocol: int) -> None:
    mark = mark_of(tmp_path)
    file = written(tmp_path, ((X, Y), (ATTACKS[name](mark), Y)), protocol)
    message = refused(file)
    assert name in message or "copyreg" in message or "copy_reg" in message or "__builtin__" in message
    assert "nothing was run" in message
    assert not Path(mark).exists()


def test_the_attacks_would_work_elsewhere(tmp_path: Path) -> None:
    mark = mark_of(tmp_path)
    for name in ("posix.system", "numpy.save"):
        pickle.loads(pickle.dumps(ATTACKS[name](mark)))
        assert list(tmp_path.glob("was-run*")), name
        for file in tmp_path.glob("was-run*"):
            file.unlink()


def assembled(*instructions: tuple[str, bytes]) -> bytes:
    """Returns a pickle of instructions by name, each with the bytes of its argument."""
    codes = {code.name: code.code.encode("latin-1") for code in pickletools.opcodes}
    return b"".join(codes[name] + argument for name, argument in (*instructions, ("STOP", b"")))


RECONSTRUCT = (
    ("GLOBAL", b"numpy.core.multiarray\n_reconstruct\n"),
    ("GLOBAL", b"numpy\nndarray\n"),
    ("BININT1", b"\x00"),
    ("TUPLE1", b""),
    ("SHORT_BINBYTES", b"\x01b"),
    ("TUPLE3", b""),
    ("REDUCE", b""),
)
TYPE = (
    ("GLOBAL", b"numpy\ndtype\n"),
    ("SHORT_BINUNICODE", b"\x02f8"),
    ("TUPLE1", b""),
    ("REDUCE", b""),
)


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        # INST and OBJ call without REDUCE
        ([("MARK", b""), ("UNICODE", b"true\n"), ("INST", b"os\nsystem\n")], "os.system"),
        ([("MARK", b""), ("GLOBAL", b"os\nsystem\n"), ("UNICODE", b"true\n"), ("OBJ", b"")], "os.system"),
        ([("GLOBAL", b"numpy\nndarray\n"), ("EMPTY_TUPLE", b""), ("NEWOBJ", b"")], "NEWOBJ"),
        ([("UNICODE", b"a\n"), ("BINPERSID", b"")], "BINPERSID"),
        ([("EXT1", b"\x01")], "EXT1"),
        # a name with dots in it, which Python 3.4 and later follow
        ([("SHORT_BINUNICODE", b"\x05numpy"), ("SHORT_BINUNICODE", b"\x0bndarray.sum"), ("STACK_GLOBAL", b"")], "sum"),
        # admitted names called for something else
        ([("GLOBAL", b"numpy\nndarray\n"), ("BININT", b"\xff\xff\xff\x7f"), ("TUPLE1", b""), ("REDUCE", b"")], "numpy"),
        ([("GLOBAL", b"_codecs\nencode\n"), ("UNICODE", b"a\n"), ("UNICODE", b"rot13\n"), ("TUPLE2", b""),
          ("REDUCE", b"")], "_codecs.encode"),
        ([("GLOBAL", b"numpy\ndtype\n"), ("UNICODE", b"O,f8\n"), ("TUPLE1", b""), ("REDUCE", b"")], "O,f8"),
        # BUILD on what has no state: a name, a list
        ([("GLOBAL", b"numpy\nndarray\n"), ("EMPTY_TUPLE", b""), ("BUILD", b"")], "no readable pickle"),
        ([("EMPTY_LIST", b""), ("EMPTY_TUPLE", b""), ("BUILD", b"")], "no readable pickle"),
        ([("GLOBAL", b"numpy\nndarray\n"), ("EMPTY_DICT", b""), ("BUILD", b"")], "no readable pickle"),
        # an array that is never described, and one whose bytes are not there
        ([*RECONSTRUCT, ("EMPTY_LIST", b""), ("TUPLE2", b"")], "no readable pickle"),
        ([*RECONSTRUCT, ("MARK", b""), ("BININT1", b"\x01"), ("BININT", b"\xff\xff\xff\x7f"), ("TUPLE1", b""), *TYPE,
          ("NEWFALSE", b""), ("SHORT_BINBYTES", b"\x08" + bytes(8)), ("TUPLE", b""), ("BUILD", b"")], "not there"),
        # pointers to objects out of plain bytes
        ([*RECONSTRUCT, ("MARK", b""), ("BININT1", b"\x01"), ("BININT1", b"\x01"), ("TUPLE1", b""),
          ("GLOBAL", b"numpy\ndtype\n"), ("SHORT_BINUNICODE", b"\x02O8"), ("TUPLE1", b""), ("REDUCE", b""),
          ("NEWFALSE", b""), ("SHORT_BINBYTES", b"\x08" + b"A" * 8), ("TUPLE", b""), ("BUILD", b"")], "bytes"),
        # sizes and places that would fill the memory
        ([("NONE", b""), ("LONG_BINPUT", b"\xff\xff\xff\xff")], "holds a NoneType"),
        ([("BYTEARRAY8", b"\xff" * 7 + b"\x00")], "no readable pickle"),
        ([("BINBYTES8", b"\x00\x00\x00\x00\x00\x01\x00\x00")], "no readable pickle"),
    ],
)  # fmt: skip
def test_instructions_beyond_arrays_have_no_effect(
    tmp_path: Path, instructions: list[tuple[str, bytes]], said: str
) -> None:
    (tmp_path / "data.pkl").write_bytes(assembled(*instructions))
    assert said in refused(tmp_path / "data.pkl")


def test_lists_that_hold_one_another_many_times_over(tmp_path: Path) -> None:
    row = [1.0] * 1000
    table = [row] * 1000
    assert "more often" in refused(written(tmp_path, ([table] * 1000, [0] * 1000)))
    loop: list[Any] = []
    loop.append(loop)
    assert "y" in refused(written(tmp_path, (X, loop)))
    assert "nested" in refused(written(tmp_path, (loop, [0])))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "holds a NoneType"),
        (X, "holds an array of float64 of shape (6, 4, 3)"),
        ({"x": X, "y": Y}, "holds a dict of 2"),
        ((X, Y, X, Y), "holds a tuple of 4"),
        ((X, Y[:5]), "6 sequences and 5 labels"),
        ((X[:, 0, 0], Y), "x has the shape (6,)"),
        ((X.astype(str), Y), "holds <U32 values, not numbers"),
        ((X * 1j, Y), "the NumPy type 'c16'"),
        ((X, np.eye(3)[Y] * 2), "y[0] is not one-hot"),
        ((X, np.zeros((6, 2, 2))), "y has the shape (6, 2, 2)"),
        ((X, "labels"), "y is a str, no array or list"),
        (([X[0], X[0, :, :2]], [0, 1]), "2, 3 columns"),
        (([X[0], "text"], [0, 1]), "a list holds a str where a number must be"),
        (([], []), "holds no sequence"),
        (((X, Y), (X, Y[:2])), "split test: 6 sequences and 2 labels"),
    ],
)
def test_values_of_another_kind_are_explained(tmp_path: Path, value: Any, said: str) -> None:
    message = refused(written(tmp_path, value))
    assert said in message
    assert "xpected" in message


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_pickles(tmp_path: Path, share: float, compressed: bool) -> None:
    file = written(tmp_path, ((X, Y), (X, Y)))
    content = gzip.compress(file.read_bytes()) if compressed else file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert refused(file)


def test_folders_without_one_pickle(tmp_path: Path) -> None:
    assert "*.pkl missing; expected" in refused(tmp_path)
    for name in ("a.pkl", "b.pickle"):
        (tmp_path / name).write_bytes(b"")
    assert "2 pickles" in refused(tmp_path)
