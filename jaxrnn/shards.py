"""Shards: HDF5 files of sequences, unnormalised and without splits of our own. docs/shards.md describes the layout."""

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.features import FeatureColumn
from jaxrnn.readers import Column
from jaxrnn.results import check_version, written_whole

LAYOUT_VERSION = 3
REJECTED_COLUMNS = ("object", "file", "row", "reason")
COUNTS = (
    "objects_in",
    "objects_out",
    "objects_rejected",
    "objects_cut",
    "observations_in",
    "observations_out",
    "observations_rejected",
    "observations_cut",
    "steps_out",
    "parts_in",
    "parts_rejected",
    "bytes_in",
    "bytes_rejected",
    "times_repeated",
    "observations_repeated",
)
WHOLE_OBJECT = -1  # in the place of a row
CHUNK_BYTES = 1 << 20
CHECKSUM_BYTES = 4  # of Fletcher-32, behind each chunk
# Of features: what `FeatureColumn` says beside name and unit.
FEATURE_ATTRIBUTES = ("kind", "column", "passband", "source", "indicator")


@dataclass(frozen=True)
class Shard:
    """One shard's content; steps offsets[i] to offsets[i + 1] belong to sequence i.

    ids, labels: [sequence] str. offsets: [sequence + 1] int64. time: [step] float64. features: [step, feature] float32,
    NaN where a passband has no observation at that step. metadata: [sequence, column] float32. evaluation: [sequence,
    column] float64, for scores and never for networks. splits, groups: [sequence] str or None. step_labels: [step] str
    or None. rejected: rows of (object, file, row, reason); row -1 is the whole object. counts: by the names in
    `COUNTS`; parts are files, or pieces of one, with their bytes; rejected are those that could not be read. cut: how
    many observations were left out by choice, by reason. cut_ids: [object] str, the objects that this left no
    observation of.
    """

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    time: np.ndarray
    features: np.ndarray
    metadata: np.ndarray
    splits: np.ndarray | None
    groups: np.ndarray | None
    step_labels: np.ndarray | None
    feature_columns: tuple[FeatureColumn, ...]
    metadata_columns: tuple[Column, ...]
    time_unit: str
    rejected: tuple[tuple[str, str, int, str], ...]
    counts: dict[str, int]
    cut: dict[str, int] = field(default_factory=dict)
    evaluation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    evaluation_columns: tuple[Column, ...] = ()
    cut_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=str))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def indicators(self) -> np.ndarray:
        """Returns [feature] bool, True for 0/1 columns, which are never normalised."""
        return np.array([column.indicator for column in self.feature_columns], dtype=bool)


def write(path: Path, shard: Shard, version: str, compression: str = "none") -> None:
    """Writes a shard whole or not at all; equal content gives equal bytes. compression: `none` or `gzip`."""
    # made in memory and written at once: one large write, and a full disk meets plain Python instead of HDF5's cache
    image = _image(shard, version, compression)
    with written_whole(path) as temporary:
        temporary.write_bytes(image)


def _image(shard: Shard, version: str, compression: str) -> bytes:
    options: Any = {"driver": "core", "backing_store": False, "libver": ("v110", "v110")}
    with h5py.File("shard", "w", **options) as file:
        file.attrs["layout_version"] = LAYOUT_VERSION
        file.attrs["jaxrnn_version"] = version
        file.attrs["time_unit"] = shard.time_unit
        for name in COUNTS:
            file.attrs[name] = shard.counts.get(name, 0)
        file.attrs["cut"] = json.dumps(shard.cut, sort_keys=True)

        def put(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
            return _put(group, name, values, compression)

        put(file, "ids", _encoded(shard.ids))
        put(file, "cut_ids", _encoded(shard.cut_ids))
        put(file, "labels", _encoded(shard.labels))
        put(file, "offsets", shard.offsets.astype(np.int64))
        put(file, "time", shard.time.astype(np.float64)).attrs["unit"] = shard.time_unit
        features = put(file, "features", shard.features.astype(np.float32))
        _name_columns(features, shard.feature_columns)
        for name in FEATURE_ATTRIBUTES:
            entries = [getattr(column, name) for column in shard.feature_columns]
            features.attrs[name] = np.array(entries, dtype=np.int64) if name in ("source", "indicator") else entries
        _name_columns(put(file, "metadata", shard.metadata.astype(np.float32)), shard.metadata_columns)
        if shard.evaluation_columns:
            _name_columns(put(file, "evaluation", shard.evaluation.astype(np.float64)), shard.evaluation_columns)
        for name in ("splits", "groups", "step_labels"):
            values = getattr(shard, name)
            if values is not None:
                put(file, name, _encoded(values))
        rejected = file.create_group("rejected")
        for index, name in enumerate(REJECTED_COLUMNS):
            entries = [row[index] for row in shard.rejected]
            put(rejected, name, np.array(entries, dtype=np.int64) if name == "row" else _encoded(entries))
        file.flush()
        return file.id.get_file_image()


def read(path: Path, *, steps: bool = True, check: bool = True) -> Shard:
    """Returns the shard at `path`; raises JaxrnnError where it is missing, broken or of another version.

    steps: False leaves `time`, `features` and `step_labels` empty: what is known of each sequence alone.
    check: False skips the checksums of time and features, which halves the time of a second reading.
    """
    try:
        with _opened(path) as file:
            check_version(file.attrs.get("jaxrnn_version"), path)
            return _read(file, steps, check)
    except FileNotFoundError:
        raise JaxrnnError(f"{path}: not there; run `jaxrnn ingest` again, it makes missing shards alone")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise JaxrnnError(f"{path}: no readable shard ({error}); remove it and run `jaxrnn ingest` again")


def _opened(path: Path) -> h5py.File:
    # whole once it has its name, and never written again: without a lock, which some file systems don't have
    return h5py.File(path, "r", locking=False)


def _read(file: Any, steps: bool, check: bool) -> Shard:
    features, metadata = file["features"], file["metadata"]
    columns = zip(*(features.attrs[name] for name in ("names", "units", *FEATURE_ATTRIBUTES)), strict=True)
    read_array = _checked if check else _unchecked
    rejected = [file["rejected"][name] for name in REJECTED_COLUMNS]
    return Shard(
        ids=_decoded(file["ids"]),
        labels=_decoded(file["labels"]),
        offsets=file["offsets"][()],
        time=read_array(file["time"]) if steps else np.zeros(0),
        features=read_array(features) if steps else np.zeros((0, features.shape[1]), dtype=np.float32),
        metadata=metadata[()],
        splits=_decoded(file["splits"]) if "splits" in file else None,
        groups=_decoded(file["groups"]) if "groups" in file else None,
        step_labels=_decoded(file["step_labels"]) if steps and "step_labels" in file else None,
        feature_columns=tuple(
            FeatureColumn(name, unit, kind, column, passband, int(source), bool(indicator))
            for name, unit, kind, column, passband, source, indicator in columns
        ),
        metadata_columns=_columns(metadata),
        evaluation=file["evaluation"][()] if "evaluation" in file else np.zeros((len(metadata), 0)),
        evaluation_columns=_columns(file["evaluation"]) if "evaluation" in file else (),
        time_unit=str(file.attrs["time_unit"]),
        rejected=tuple(zip(*(_plain(entries) for entries in rejected), strict=True)),
        counts={name: int(file.attrs[name]) for name in COUNTS},
        cut=json.loads(file.attrs["cut"]),
        cut_ids=_decoded(file["cut_ids"]),
    )


def of_sequences(path: Path, wanted: Collection[str]) -> Shard:
    """Returns those sequences of the shard at `path` whose ids are wanted, time and features of theirs alone: no other
    steps are read, nor their labels."""
    known = read(path, steps=False)
    rows = np.flatnonzero(np.isin(known.ids, list(wanted)))
    lengths = known.lengths[rows]
    found = {name: [getattr(known, name)[:0]] for name in ("time", "features")}
    if len(rows):
        try:
            with _opened(path) as opened:
                file: Any = opened
                for start, length in zip(known.offsets[rows].tolist(), lengths.tolist(), strict=True):
                    for name, pieces in found.items():
                        pieces.append(file[name][start : start + length])
        except (OSError, KeyError, ValueError) as error:
            raise JaxrnnError(f"{path}: no readable shard ({error}); remove it and run `jaxrnn ingest` again")
    of_rows = ("ids", "labels", "metadata", "evaluation", "splits", "groups")
    tables = {name: None if (own := getattr(known, name)) is None else own[rows] for name in of_rows}
    steps = {name: np.concatenate(pieces) for name, pieces in found.items()}
    return replace(known, offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), **tables, **steps)


def step_labels(path: Path) -> np.ndarray | None:
    """Returns the step labels alone of the shard at `path`, [step] str; None where it has none."""
    try:
        with _opened(path) as file:
            return _decoded(file["step_labels"]) if "step_labels" in file else None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise JaxrnnError(f"{path}: no readable shard ({error}); remove it and run `jaxrnn ingest` again")


def ids(path: Path, besides: str) -> np.ndarray:
    """Returns the ids of all objects that the shard at `path` accounts for, as UTF-8 bytes: those in it, those cut, and
    those rejected, but for the reason `besides`."""
    try:
        with _opened(path) as opened:
            file: Any = opened
            objects, rows, reasons = (file["rejected"][name][()] for name in ("object", "row", "reason"))
            rejected = (rows == WHOLE_OBJECT) & (objects != b"") & (reasons != besides.encode())
            return np.concatenate([file["ids"][()], file["cut_ids"][()], objects[rejected]])
    except (OSError, KeyError) as error:
        raise JaxrnnError(f"{path}: no readable shard ({error}); remove it and run `jaxrnn ingest` again")


def check_alike(first: Shard, other: Shard, path: Path) -> None:
    """Raises JaxrnnError where the shard at `path` has other columns than the first of its dataset."""
    for what in ("feature_columns", "metadata_columns", "time_unit"):
        if getattr(first, what) != getattr(other, what):
            told = [
                shard.time_unit if what == "time_unit" else listed([column.name for column in getattr(shard, what)], 20)
                for shard in (other, first)
            ]
            raise JaxrnnError(
                f"{path}: its {what.replace('_', ' ')} are {told[0]}, and those of the dataset's first shard "
                f"{told[1]}; shards of one dataset have the same. Remove the folder {path.parent} and run `jaxrnn "
                "ingest` again"
            )


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(group: h5py.Group, name: str, values: np.ndarray, compression: str) -> h5py.Dataset:
    # chunked storage, which the checksums need, can't be empty
    if not values.size:
        return group.create_dataset(name, data=values)
    rows = max(1, min(len(values), CHUNK_BYTES // (values.nbytes // len(values))))
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}
    # Fletcher-32 finds a flipped byte on read
    return group.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True, **options)


def _checked(dataset: Any) -> np.ndarray:
    return dataset[()]


def _unchecked(dataset: Any) -> np.ndarray:
    """Returns a data set's values past HDF5's filters, which for uncompressed ones only compute checksums."""
    if dataset.chunks is None or dataset.compression is not None:
        return dataset[()]
    found = np.empty(dataset.shape, dataset.dtype)
    flat = found.reshape(-1).view(np.uint8)
    row_bytes = found.nbytes // len(found)
    # straight from where HDF5 says that each chunk lies in the file, without the checksum of 4 bytes at its end
    with open(dataset.file.filename, "rb", buffering=0) as file:
        for index in range(dataset.id.get_num_chunks()):
            chunk = dataset.id.get_chunk_info(index)
            start = chunk.chunk_offset[0] * row_bytes
            piece = flat[start : start + chunk.size - CHECKSUM_BYTES].data
            if os.preadv(file.fileno(), [piece], chunk.byte_offset) != piece.nbytes:
                raise OSError(f"{dataset.name} ends before its time")
    return found


def _encoded(text: Any) -> np.ndarray:
    text = np.asarray(text, dtype=str)
    # one conversion for all, where every character is ASCII; NumPy refuses others
    try:
        encoded = text.astype(np.bytes_)
    except UnicodeEncodeError:
        encoded = np.char.encode(text, "utf-8")
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")


def _decoded(dataset: Any) -> np.ndarray:
    if not dataset.size:
        return np.zeros(0, dtype=str)
    try:
        return dataset[()].astype(np.str_)
    except UnicodeDecodeError:
        return np.char.decode(dataset[()], "utf-8")


def _plain(dataset: Any) -> list[Any]:
    return dataset[()].tolist() if dataset.dtype.kind == "i" else _decoded(dataset).tolist()


def _columns(dataset: Any) -> tuple[Column, ...]:
    return tuple(Column(*column) for column in zip(dataset.attrs["names"], dataset.attrs["units"], strict=True))


def _name_columns(dataset: h5py.Dataset, columns: Any) -> None:
    dataset.attrs["names"] = [column.name for column in columns] or np.array([], dtype="S1")
    dataset.attrs["units"] = [column.unit for column in columns] or np.array([], dtype="S1")
