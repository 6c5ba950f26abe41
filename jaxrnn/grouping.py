"""Rows of tables brought together by object, in bounded memory and by any number of ranks.

Two passes. `scatter` reads one part of the tables and writes its rows to a file of its own, ordered by partition: a
partition is the share of all objects whose ids hash to its number. `gather` reads one partition's rows from all those
files and returns its objects whole. Which rank does which part is of no consequence: rows keep the order of the parts.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Objects, Observations, Sequences, Survey
from jaxrnn.results import written_whole

ORPHAN = "not in the table of objects"
CONTRADICTION = "its observations name different labels or groups"
# Text per object or row, optional in both kinds of table.
TEXT = ("labels", "splits", "groups", "step_labels")


@dataclass(frozen=True)
class _Piece:
    """One partition's rows of a piece: `count` of them from byte `start` on. file: the survey's that has them."""

    path: Path
    file: str
    dtype: np.dtype
    start: int
    count: int
    faults: list[str]

    def read(self) -> np.ndarray:
        found = np.fromfile(self.path / "rows", self.dtype, self.count, offset=self.start)
        if len(found) != self.count:
            raise JaxrnnError(f"{self.path}: shorter than it was written; remove it and run `jaxrnn ingest` again")
        return found


def hashed(ids: np.ndarray) -> np.ndarray:
    """Returns a 64-bit hash of each id (dtype S): the same on every machine, and whatever the array's width.

    Words of eight bytes are mixed in by the finaliser of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, fig. 17).
    """
    width = -(-ids.dtype.itemsize // 8) * 8
    words = ids.astype(f"S{width}").view("<u8").reshape(len(ids), width // 8)
    found = np.zeros(len(ids), dtype=np.uint64)
    for word in words.T:
        mixed = (found ^ word) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        # a word of padding alone changes nothing, so that the width doesn't either
        found = np.where(word == 0, found, mixed ^ (mixed >> np.uint64(31)))
    return found


def scatter(
    path: Path,
    partitions: int,
    rows: Callable[[], Iterator[Objects | Observations]],
    unreadable: tuple[str, str] | None = None,
) -> None:
    """Writes all that `rows` yields to the folder `path`, ordered by partition piece by piece; whole or not at all.

    unreadable: the file that can't be read, and why, where that is all there is to say of a part.
    """
    index: list[dict[str, Any]] = []
    bounds: list[np.ndarray] = []
    with written_whole(path, durable=False) as temporary:
        temporary.mkdir()
        with (temporary / "rows").open("wb") as file:
            for found in rows():
                table, faults = _packed(found)
                _check_text(table["object"], found.file)
                partition = _partition(table["object"], partitions)
                order = np.argsort(partition, kind="stable")
                counts = np.cumsum(np.bincount(partition, minlength=partitions))
                bounds.append(file.tell() + np.concatenate([[0], counts]) * table.itemsize)
                kind = np.lib.format.dtype_to_descr(table.dtype)
                index.append({"file": found.file, "dtype": kind, "faults": faults})
                file.write(table[order].tobytes())
        # [partition + 1, piece], the byte where a partition's rows begin: one small read finds a partition
        (temporary / "bounds").write_bytes(np.array(bounds, dtype=np.int64).T.tobytes())
        (temporary / "index.json").write_text(json.dumps({"pieces": index, "unreadable": unreadable}))


def unreadable(path: Path) -> tuple[str, str] | None:
    """Returns the file that `scatter` was told can't be read, and why; None where all is there."""
    found = _index(path)["unreadable"]
    return found and (found[0], found[1])


def hashes(partition: int, paths: list[Path]) -> np.ndarray:
    """Returns the hashes of the ids of one partition, each once; paths: what `scatter` wrote."""
    found = [np.zeros(0, dtype=np.uint64)]
    for path in paths:
        for piece in _pieces_of(path, partition):
            ids = piece.read()["object"]
            found.append(np.unique(hashed(ids[_run_starts(ids)])))
    return np.unique(np.concatenate(found))


def _partition(ids: np.ndarray, partitions: int) -> np.ndarray:
    starts = _run_starts(ids)
    return (hashed(ids[starts]) % np.uint64(partitions)).astype(np.int64)[np.cumsum(starts) - 1]


def _run_starts(ids: np.ndarray) -> np.ndarray:
    """Returns [row] bool, True where another object begins: an object's rows often stand together, and are then looked
    at once."""
    return np.concatenate([[True], ids[1:] != ids[:-1]]) if len(ids) else np.zeros(0, dtype=bool)


def _packed(found: Objects | Observations) -> tuple[np.ndarray, list[str]]:
    """Returns rows as one structured array, and the texts of their faults, which it numbers from 1."""
    is_rows = isinstance(found, Observations)
    columns: dict[str, np.ndarray] = {"object": found.object_ids if is_rows else found.ids, "row": found.row_numbers}
    names = ("time", "values", "passband") if is_rows else ("metadata",)
    columns |= {name: getattr(found, name) for name in names}
    columns |= {name: _bytes(getattr(found, name)) for name in TEXT if getattr(found, name, None) is not None}
    if found.faults is None:
        texts = np.array([""])
        columns["fault"] = np.zeros(len(found.row_numbers), dtype=np.int32)
    else:
        texts, columns["fault"] = np.unique(np.asarray(found.faults, dtype=str), return_inverse=True)
        if not len(texts) or texts[0] != "":
            texts, columns["fault"] = np.concatenate([[""], texts]), columns["fault"] + 1
    kinds = {"object": columns["object"].dtype, "row": "<i8", "passband": "<i2", "fault": "<i4"}
    dtype = np.dtype(
        [(k, kinds.get(k, v.dtype if v.dtype.kind == "S" else "<f8"), v.shape[1:]) for k, v in columns.items()]
    )
    table = np.empty(len(found.row_numbers), dtype=dtype)
    for name, values in columns.items():
        table[name] = values
    return table, [str(text) for text in texts[1:]]


def _check_text(ids: np.ndarray, file: str) -> None:
    """Raises JaxrnnError where an id (dtype S) is no UTF-8."""
    own = np.ascontiguousarray(ids)
    if not len(own) or own.view(np.uint8).max() < 128:
        return
    try:
        np.char.decode(own, "utf-8")
    except UnicodeDecodeError as error:
        raise JaxrnnError(f"{file}: the name of an object, {error.object!r}, is no UTF-8 text; write the file again")


def _bytes(text: np.ndarray) -> np.ndarray:
    text = np.asarray(text, dtype=str)
    try:
        found = text.astype(np.bytes_)
    except UnicodeEncodeError:
        found = np.char.encode(text, "utf-8")
    return found if found.dtype.itemsize else found.astype("S1")


def gather(partition: int, objects: list[Path], observations: list[Path], survey: Survey) -> Sequences:
    """Returns one partition's objects, in the order of their ids, each with its rows in the order of the files.

    objects, observations: what `scatter` wrote of the two tables, in the order of the parts; `objects` is empty where
    the survey has no table of objects. An object that stands twice in it comes twice, and the second time without rows.
    """
    files: dict[str, int] = {}
    rows = _pieces(partition, observations, files)
    known = _pieces(partition, objects, files)
    starts = _run_starts(rows["object"])
    ids, owner = np.unique(rows["object"][starts], return_inverse=True)
    owner = owner[np.cumsum(starts) - 1]
    if objects:
        order = np.argsort(known["object"], kind="stable")
        known = {name: values[order] for name, values in known.items()}
        # in a partition without objects of its own nothing says how many columns there are
        known["metadata"] = known["metadata"].reshape(len(order), len(survey.metadata))
        ids_known, first = np.unique(known["object"], return_index=True)
        orphans = ids[~np.isin(ids, ids_known)]
        all_ids = np.concatenate([known["object"], orphans])
        width = max(all_ids.dtype.itemsize, 1)
        targets = np.concatenate([ids_known.astype(f"S{width}"), orphans])
        places = np.concatenate([first, len(known["object"]) + np.arange(len(orphans))])
        sort = np.argsort(targets, kind="stable")
        owner = places[sort][np.searchsorted(targets[sort], ids)][owner]
        described = {name: _with_blanks(values, len(orphans)) for name, values in known.items()}
        faults = np.concatenate([known["fault"], np.full(len(orphans), ORPHAN, dtype=object)])
        metadata = described["metadata"]
    else:
        all_ids, described = ids, _from_rows(rows, len(ids), owner)
        faults, metadata = described["fault"], np.full((len(ids), len(survey.metadata)), np.nan)
    by_object = np.argsort(owner, kind="stable")
    for name in rows:  # one by one, so that no more than one stands twice in memory
        rows[name] = rows[name][by_object]
    counts = np.bincount(owner, minlength=len(all_ids))

    def text(name: str, table: dict[str, np.ndarray]) -> np.ndarray | None:
        return _decoded(table[name]) if name in table else None

    labels = text("labels", described)
    return Sequences(
        ids=_decoded(all_ids),
        labels=np.full(len(all_ids), "") if labels is None else labels,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        time=rows["time"],
        values=rows["values"].reshape(len(rows["time"]), len(survey.columns)),
        passband=rows["passband"].astype(np.int64),
        metadata=metadata.reshape(len(all_ids), len(survey.metadata)),
        row_numbers=rows["row"],
        files=tuple(files) or ("",),
        splits=text("splits", described),
        groups=text("groups", described),
        step_labels=text("step_labels", rows),
        row_faults=rows["fault"],
        object_faults=faults,
        row_file=rows["file"],
        object_file=described["file"],
    )


def _pieces(partition: int, paths: list[Path], files: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns one partition's rows of all files by column; `fault` as text, `file` as index into `files`."""
    pieces = [piece for path in paths for piece in _pieces_of(path, partition)]
    if not pieces:
        empty = {"object": "S1", "row": "i8", "time": "f8", "passband": "i2", "values": "f8", "metadata": "f8"}
        columns = {name: np.zeros(0, dtype=kind) for name, kind in empty.items()}
        return columns | {"fault": np.zeros(0, dtype=object), "file": np.zeros(0, dtype=np.int32)}
    # columns are made at once and filled piece by piece: many small arrays would scatter over the memory and hold it
    count, first = sum(piece.count for piece in pieces), pieces[0].dtype
    columns = {
        name: np.empty((count, *first[name].shape), np.result_type(*{piece.dtype[name].base for piece in pieces}))
        for name in first.names or ()
    }
    columns |= {"fault": np.empty(count, dtype=object), "file": np.empty(count, dtype=np.int32)}
    done = 0
    for piece in pieces:
        table = piece.read()
        rows = slice(done, done := done + len(table))
        for name in first.names or ():
            columns[name][rows] = table[name]
        columns["fault"][rows] = np.array(["", *piece.faults], dtype=object)[table["fault"]]
        columns["file"][rows] = files.setdefault(piece.file, len(files))
    return columns


def _index(path: Path) -> dict[str, Any]:
    return json.loads((path / "index.json").read_text())


def _pieces_of(path: Path, partition: int) -> list[_Piece]:
    entries = _index(path)["pieces"]
    count = len(entries)
    bounds = np.fromfile(path / "bounds", np.int64, 2 * count, offset=8 * count * partition)
    begins, ends = bounds.reshape(2, count).tolist()
    pieces = []
    for entry, begin, end in zip(entries, begins, ends, strict=True):
        kind = np.dtype([tuple(tuple(v) if isinstance(v, list) else v for v in field) for field in entry["dtype"]])
        pieces.append(_Piece(path, entry["file"], kind, begin, (end - begin) // kind.itemsize, entry["faults"]))
    return pieces


def _with_blanks(values: np.ndarray, count: int) -> np.ndarray:
    """Returns a column of the table of objects, with as many empty entries more: for objects that it doesn't have."""
    fill: Any = np.nan if values.dtype.kind == "f" else 0 if values.dtype.kind == "i" else b""
    return np.concatenate([values, np.full((count, *values.shape[1:]), fill, dtype=values.dtype)])


def _from_rows(rows: dict[str, np.ndarray], count: int, owner: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the first row of each object says of it; rows that contradict it are a fault of the object."""
    first = np.full(count, len(owner), dtype=np.int64)
    np.minimum.at(first, owner, np.arange(len(owner)))
    found = {name: rows[name][first] for name in ("file", *TEXT) if name in rows and name != "step_labels"}
    contradicts = np.zeros(len(owner), dtype=bool)
    for name in ("labels", "groups"):
        if name in rows:
            contradicts |= (rows[name] != found[name][owner]) & (rows["fault"] == "")
    faults = np.full(count, "", dtype=object)
    faults[owner[contradicts]] = CONTRADICTION
    return found | {"fault": faults}


def _decoded(text: np.ndarray) -> np.ndarray:
    # one conversion for all, where every character is ASCII; NumPy refuses others
    try:
        return text.astype(np.str_) if len(text) else np.zeros(0, dtype=str)
    except UnicodeDecodeError:
        return np.char.decode(text, "utf-8")
