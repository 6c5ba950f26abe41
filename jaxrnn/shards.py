"""Shards: HDF5 files of sequences, unnormalised and without splits.

Layout of a shard (version 1): `ids`, `labels` [sequence] UTF-8 bytes; `offsets` [sequence + 1] int64; `time` [step]
float64; `features` [step, feature] float32, NaN where a passband has no observation at that step; `metadata`
[sequence, column] float32; `splits` [sequence], only where the survey gives them; `rejected/` with one row a rejected
object or observation (`object`, `file`, `row`, `reason`). Attributes carry names, units, counts and the version.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Column
from jaxrnn.results import check_version, written_whole

LAYOUT_VERSION = 1
REJECTED_COLUMNS = ("object", "file", "row", "reason")


@dataclass(frozen=True)
class Shard:
    """One shard's content; steps offsets[i] to offsets[i + 1] belong to sequence i.

    ids, labels: [sequence] str. offsets: [sequence + 1] int64. time: [step] float64. features: [step, feature] float32.
    indicators: [feature] bool, True for 0/1 columns, which are never normalised. metadata: [sequence, column] float32.
    splits: [sequence] str or None. rejected: rows of (object, file, row, reason). counts: objects and observations in,
    out and rejected, and steps out.
    """

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    time: np.ndarray
    features: np.ndarray
    metadata: np.ndarray
    splits: np.ndarray | None
    feature_columns: tuple[Column, ...]
    indicators: np.ndarray
    metadata_columns: tuple[Column, ...]
    time_unit: str
    rejected: tuple[tuple[str, str, int, str], ...]
    counts: dict[str, int]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def write(path: Path, shard: Shard, version: str) -> None:
    """Writes a shard whole or not at all; equal content gives equal bytes."""
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["layout_version"] = LAYOUT_VERSION
        file.attrs["jaxrnn_version"] = version
        file.attrs["time_unit"] = shard.time_unit
        for name, count in sorted(shard.counts.items()):
            file.attrs[name] = count
        _put(file, "ids", _encoded(shard.ids))
        _put(file, "labels", _encoded(shard.labels))
        _put(file, "offsets", shard.offsets.astype(np.int64))
        _put(file, "time", shard.time.astype(np.float64)).attrs["unit"] = shard.time_unit
        features = _put(file, "features", shard.features.astype(np.float32))
        _name_columns(features, shard.feature_columns)
        features.attrs["indicators"] = shard.indicators.astype(np.uint8)
        _name_columns(_put(file, "metadata", shard.metadata.astype(np.float32)), shard.metadata_columns)
        if shard.splits is not None:
            _put(file, "splits", _encoded(shard.splits))
        rejected = file.create_group("rejected")
        for index, name in enumerate(REJECTED_COLUMNS):
            entries = [row[index] for row in shard.rejected]
            _put(
                rejected,
                name,
                np.array(entries, dtype=np.int64) if name == "row" else _encoded(np.array(entries, dtype=str)),
            )


def read(path: Path) -> Shard:
    """Returns the shard at `path`; raises JaxrnnError where it is missing, broken or of another version."""
    try:
        with h5py.File(path, "r") as file:
            check_version(file.attrs.get("jaxrnn_version"), path)
            features, metadata, rejected = file["features"], file["metadata"], file["rejected"]
            return Shard(
                ids=_decoded(file["ids"]),
                labels=_decoded(file["labels"]),
                offsets=file["offsets"][()],  # pyright: ignore
                time=file["time"][()],  # pyright: ignore
                features=features[()],  # pyright: ignore
                metadata=metadata[()],  # pyright: ignore
                splits=_decoded(file["splits"]) if "splits" in file else None,
                feature_columns=_columns(features),
                indicators=np.asarray(features.attrs["indicators"]).astype(bool),
                metadata_columns=_columns(metadata),
                time_unit=str(file.attrs["time_unit"]),
                rejected=tuple(
                    zip(
                        _decoded(rejected["object"]),  # pyright: ignore
                        _decoded(rejected["file"]),  # pyright: ignore
                        (int(row) for row in rejected["row"][()]),  # pyright: ignore
                        _decoded(rejected["reason"]),  # pyright: ignore
                        strict=True,
                    )
                ),
                counts={
                    name: int(value)
                    for name, value in file.attrs.items()
                    if name.endswith(("_in", "_out", "_rejected"))
                },  # pyright: ignore
            )
    except (OSError, KeyError, ValueError) as error:
        raise JaxrnnError(f"{path}: no readable shard ({error}); remove it and run `jaxrnn ingest` again")


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    # Fletcher-32 finds a flipped byte on read; chunked storage, which it needs, can't be empty
    options = {"chunks": True, "fletcher32": True, "shuffle": True, "compression": "gzip", "compression_opts": 1}
    return group.create_dataset(name, data=values, **(options if values.size else {}))


def _encoded(text: np.ndarray) -> np.ndarray:
    encoded = [str(entry).encode() for entry in text]
    return np.array(encoded, dtype=f"S{max((len(entry) for entry in encoded), default=1) or 1}")


def _decoded(dataset: object) -> np.ndarray:
    return np.array([entry.decode() for entry in dataset[()]], dtype=str)  # pyright: ignore


def _name_columns(dataset: h5py.Dataset, columns: tuple[Column, ...]) -> None:
    dataset.attrs["names"] = [column.name for column in columns] or np.array([], dtype="S1")
    dataset.attrs["units"] = [column.unit for column in columns] or np.array([], dtype="S1")


def _columns(dataset: object) -> tuple[Column, ...]:
    names, units = dataset.attrs["names"], dataset.attrs["units"]  # pyright: ignore
    return tuple(Column(str(name), str(unit)) for name, unit in zip(names, units, strict=True))
