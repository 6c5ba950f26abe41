"""Ingest: survey files into unsplit shards, with an account of every object and observation.

Each part of the survey becomes one shard, written by one rank; which rank is of no consequence for its bytes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from jaxrnn import __version__, features, readers, results, shards
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.ranks import Ranks
from jaxrnn.readers import Column, Part, Reader, Sequences, Survey
from jaxrnn.shards import Shard

Rejected = tuple[str, str, int, str]  # object, file, row (-1: the whole object), reason
Progress = Callable[[int, int], None]
WHOLE_OBJECT = -1


def ingest(data: Data, survey_folder: Path, folder: Path, ranks: Ranks, progress: Progress) -> dict[str, object]:
    """Writes the dataset's shards, `rejected.csv` and, last, `manifest.json` into `folder`; returns the manifest.

    Shards that an interrupted ingest of the same files left whole are kept. Raises JaxrnnError for faulty input (see
    `data.on_error`); nothing half-written stays.
    """
    reader = ranks.each(lambda: readers.open_reader(data.reader, survey_folder))[ranks.rank]
    survey = ranks.each(reader.describe)[ranks.rank]
    ranks.each(lambda: features.check(data, survey))
    files = ranks.first(lambda: [_identity(path) for path in reader.files()])
    ranks.first(lambda: _begin(folder, files))
    parts = ranks.each(lambda: reader.parts(data.sequences_per_shard))[ranks.rank]
    width = max(5, len(str(len(parts))))
    paths = [folder / f"{index:0{width}d}.h5" for index in range(len(parts))]

    def write_own() -> None:
        own = range(ranks.rank, len(parts), ranks.size)
        for done, index in enumerate(own):
            if not paths[index].exists():
                shards.write(paths[index], _shard(data, survey, reader, parts[index]), __version__)
            progress(done + 1, len(own))

    ranks.each(write_own)
    return ranks.first(lambda: _finish(data, survey, folder, files, paths))


def _identity(path: Path) -> dict[str, object]:
    try:
        status = path.stat()
    except OSError as error:
        raise JaxrnnError(f"{path}: cannot be read ({error.strerror}); it belongs to the survey in data.path")
    return {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _begin(folder: Path, files: list[dict[str, object]]) -> None:
    """Clears what another state of the survey's files left, so that old and new shards never mix."""
    marker = folder / "survey_files.json"
    if marker.exists() and results.read_json(marker, "jaxrnn ingest")["files"] == files:
        return
    for stale in [*folder.glob("*.h5"), folder / "manifest.json", folder / "rejected.csv"]:
        stale.unlink(missing_ok=True)
    results.write_json(marker, {"files": files})


def _shard(data: Data, survey: Survey, reader: Reader, part: Part) -> Shard:
    raw = reader.read(part)
    metadata_names = [column.name for column in survey.metadata]
    chosen = [metadata_names.index(name) for name in data.metadata]
    raw = replace(raw, metadata=raw.metadata[:, chosen])
    names, times = np.unique(raw.ids, return_counts=True)
    if (times > 1).any():
        raise JaxrnnError(
            f"{raw.file}: object {names[times > 1][0]}: id stands twice; expected every object once, "
            "with all its observations"
        )
    sequences, rejected = _without_faults(data, survey, raw)
    if rejected and data.on_error == "stop":
        owner, file, row, reason = rejected[0]
        where = f"{file}: object {owner}" + (f", row {row}" if row != WHOLE_OBJECT else "")
        more = f" ({len(rejected) - 1} more faults in this part of the survey)" if len(rejected) > 1 else ""
        raise JaxrnnError(
            f"{where}: {reason}{more}; mend the file, or set `data.on_error: reject` to leave such rows out and "
            "account for them"
        )
    steps = features.make(data, survey, _sorted(sequences))
    columns, indicators = features.describe(data, survey)
    objects_rejected = sum(row == WHOLE_OBJECT for _, _, row, _ in rejected)
    return Shard(
        ids=sequences.ids,
        labels=sequences.labels,
        offsets=steps.offsets,
        time=steps.time,
        features=steps.features,
        metadata=sequences.metadata.astype(np.float32),
        splits=sequences.splits if survey.gives_splits else None,
        feature_columns=columns,
        indicators=indicators,
        metadata_columns=tuple(survey.metadata[index] for index in chosen),
        time_unit=survey.time_unit,
        rejected=tuple(rejected),
        counts={
            "objects_in": len(raw.ids),
            "objects_out": len(sequences.ids),
            "objects_rejected": objects_rejected,
            "observations_in": len(raw.time),
            "observations_out": len(sequences.time),
            "observations_rejected": len(raw.time) - len(sequences.time),
            "steps_out": len(steps.time),
        },
    )


def _without_faults(data: Data, survey: Survey, raw: Sequences) -> tuple[Sequences, list[Rejected]]:
    """Returns the sequences that stand every check, and a row for each object or observation that does not."""
    row_reason = _row_faults(data, survey, raw)
    owner = np.repeat(np.arange(len(raw.ids)), np.diff(raw.offsets))
    left = np.bincount(owner[row_reason == ""], minlength=len(raw.ids))
    object_reason = np.full(len(raw.ids), "", dtype=object)
    object_reason[left == 0] = "every observation was rejected"
    object_reason[np.diff(raw.offsets) == 0] = "no observations"
    object_reason[~_storable(raw.metadata).all(axis=1)] = "metadata not finite"
    object_reason[raw.labels == ""] = "no label"
    object_reason[raw.ids == ""] = "no id"
    rejected: list[Rejected] = [
        (str(raw.ids[index]), raw.file, WHOLE_OBJECT, str(object_reason[index]))
        for index in np.flatnonzero(object_reason != "")
    ]
    rejected += [
        (str(raw.ids[owner[row]]), raw.file, int(raw.row_numbers[row]), str(row_reason[row]))
        for row in np.flatnonzero(row_reason != "")
    ]
    return _kept(raw, object_reason == "", (row_reason == "") & (object_reason == "")[owner]), rejected


def _row_faults(data: Data, survey: Survey, raw: Sequences) -> np.ndarray:
    reason = np.full(len(raw.time), "", dtype=object)
    names = [column.name for column in survey.columns]
    for index in reversed(range(len(names))):
        column = raw.values[:, index]
        if any(feature.name == names[index] and feature.scaling == "log" for feature in data.features):
            reason[column <= 0] = f"{names[index]} not positive, and its logarithm is asked for"
        if names[index] in survey.error_columns:
            reason[column <= 0] = f"{names[index]} not positive"
        reason[~_storable(column)] = f"{names[index]} not finite"
    if survey.passbands:
        reason[raw.passband < 0] = f"passband is none of {', '.join(survey.passbands)}"
    reason[~_storable(raw.time)] = "time not finite"
    return reason


def _storable(values: np.ndarray) -> np.ndarray:
    """Returns which values are finite, also in the single precision of shards."""
    return np.abs(values) <= np.finfo(np.float32).max


def _kept(raw: Sequences, objects: np.ndarray, rows: np.ndarray) -> Sequences:
    owner = np.repeat(np.arange(len(raw.ids)), np.diff(raw.offsets))
    lengths = np.bincount(owner[rows], minlength=len(raw.ids))[objects]
    return replace(
        raw,
        ids=raw.ids[objects],
        labels=raw.labels[objects],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        time=raw.time[rows],
        values=raw.values[rows],
        passband=raw.passband[rows],
        metadata=raw.metadata[objects],
        row_numbers=raw.row_numbers[rows],
        splits=None if raw.splits is None else raw.splits[objects],
    )


def _sorted(sequences: Sequences) -> Sequences:
    """Returns the sequences with each one's observations in order of time; equal times keep the file's order."""
    owner = np.repeat(np.arange(len(sequences.ids)), np.diff(sequences.offsets))
    order = np.lexsort((sequences.time, owner))
    return replace(
        sequences,
        time=sequences.time[order],
        values=sequences.values[order],
        passband=sequences.passband[order],
        row_numbers=sequences.row_numbers[order],
    )


def _finish(
    data: Data, survey: Survey, folder: Path, files: list[dict[str, object]], paths: list[Path]
) -> dict[str, object]:
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seen: dict[str, Path] = {}
    rejected: list[Rejected] = []
    entries, lengths = [], []
    for path in paths:
        shard = shards.read(path)
        counts.update(shard.counts)
        labels.update(shard.labels.tolist())
        reasons.update(reason for *_, reason in shard.rejected)
        rejected += shard.rejected
        lengths.append(shard.lengths)
        for name in shard.ids.tolist():
            if name in seen:
                raise JaxrnnError(
                    f"{_survey_name(files)}: object {name} stands in two parts of the survey ({seen[name].name}, "
                    f"{path.name}); expected every object once, with all its observations"
                )
            seen[name] = path
        entries.append(
            {
                "file": path.name,
                "sequences": len(shard.ids),
                "steps": int(shard.offsets[-1]),
                "sha256": shards.checksum(path),
            }
        )
    if not counts["objects_out"]:
        why = listed([f"{count} {reason}" for reason, count in reasons.items()])
        raise JaxrnnError(f"{_survey_name(files)}: no object is left of {counts['objects_in']} ({why})")
    with results.written_whole(folder / "rejected.csv") as temporary:
        table = pd.DataFrame(rejected, columns=list(shards.REJECTED_COLUMNS))
        table["row"] = table["row"].where(table["row"] != WHOLE_OBJECT, "").astype(str)
        table.to_csv(temporary, index=False)
    columns, _ = features.describe(data, survey)
    metadata = {column.name: column for column in survey.metadata}
    manifest: dict[str, object] = {
        "reader": data.reader,
        "survey_files": files,
        "counts": dict(counts),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "labels": dict(sorted(labels.items())),
        "length_histogram": _histogram(np.concatenate(lengths)),
        "time_unit": survey.time_unit,
        "features": [_described(column) for column in columns],
        "metadata": [_described(metadata[name]) for name in data.metadata],
        "shards": entries,
    }
    results.write_json(folder / "manifest.json", manifest)
    return manifest


def _survey_name(files: list[dict[str, object]]) -> str:
    return str(Path(str(files[0]["path"])).parent)


def _described(column: Column) -> dict[str, str]:
    return {"name": column.name, "unit": column.unit}


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Returns counts of sequences by steps, in at most 30 bins of equal whole width; edges: their first steps."""
    width = -(-(int(lengths.max()) - int(lengths.min()) + 1) // 30)
    edges = np.arange(int(lengths.min()), int(lengths.max()) + width + 1, width)
    return {"edges": edges.tolist(), "counts": np.histogram(lengths, edges)[0].tolist()}
