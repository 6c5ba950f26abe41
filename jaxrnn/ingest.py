"""Ingest: survey files into unsplit shards, with an account of every object and observation.

A survey's files are ingested in arrivals: the files that were there the first time, then those that came later. What
the shards of an arrival hold follows from its files and the `data` section alone, never from the number of MPI ranks
or from where an earlier run was stopped. What the whole dataset holds follows from all files alone, never from the
order in which they came.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn import __version__, arrivals, cuts, faults, features, grouping, lock, readers, results, shards
from jaxrnn.arrivals import Arrival, Inventory
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError, listed
from jaxrnn.faults import WHOLE_OBJECT, Rejected
from jaxrnn.ranks import Ranks
from jaxrnn.readers import Column, Part, Reader, RowReader, SequenceReader, Sequences, Survey
from jaxrnn.shards import Shard

Progress = Callable[[int, int], None]
# Ids that are compared at once where objects that stand in two shards are looked for: some 100 MB.
IDS_AT_ONCE = 1 << 22


# A part, and where it could not be read, the file of it that is to blame, and why.
_Account = tuple[Part, tuple[str, str] | None]


@dataclass(frozen=True)
class _Tables:
    """An arrival's parts of tables, each with the place of its rows once they are ordered by partition."""

    objects: tuple[tuple[Path, Part], ...]
    observations: tuple[tuple[Path, Part], ...]
    partitions: int


@dataclass(frozen=True)
class _Work:
    """One shard to be made: of these parts, or of one partition of an arrival's tables."""

    path: Path
    bytes: int
    parts: tuple[Part, ...] = ()
    tables: _Tables | None = None
    partition: int = 0


def ingest(
    data: Data, survey_folder: Path, folder: Path, ranks: Ranks, progress: Progress, *, to_predict: bool = False
) -> dict[str, Any]:
    """Writes the dataset's shards, `rejected.csv` and, last, `manifest.json` into `folder`; returns the manifest.

    Shards that are there already, of files that did not change, are kept. Raises JaxrnnError for faulty input (see
    `data.on_error`); nothing half-written stays.
    to_predict: see `opened`; that no object is left is then an answer, too.
    """
    reader, survey = ranks.here(lambda: opened(data, survey_folder, to_predict=to_predict))
    with ranks.holding(lambda: lock.held(folder)):
        return _ingest(data, survey, reader, folder, ranks, progress, to_predict)


def opened(data: Data, survey_folder: Path, *, to_predict: bool = False) -> tuple[SequenceReader | RowReader, Survey]:
    """Returns the reader of a survey, and what that holds, which `data` fits; raises JaxrnnError where it doesn't.

    to_predict: labels, groups and splits, which new objects have not yet, are not asked for.
    """
    options = data.options | readers.reader_class(data.reader).TO_PREDICT if to_predict else data.options
    reader = readers.open_reader(data.reader, survey_folder, options)
    with readers.blamed(data.reader, str(survey_folder)):
        survey = reader.describe()
    features.check(data, survey)
    if to_predict:
        survey = replace(survey, labelled=False, gives_step_labels=False, gives_groups=False, gives_splits=False)
    return reader, survey


def _ingest(
    data: Data,
    survey: Survey,
    reader: SequenceReader | RowReader,
    folder: Path,
    ranks: Ranks,
    progress: Progress,
    to_predict: bool,
) -> dict[str, Any]:
    def take_inventory() -> Inventory:
        with readers.blamed(data.reader, str(folder)):
            return arrivals.take_inventory(data, reader, survey)

    inventory = ranks.first(take_inventory)
    maker = _Maker(data, survey, reader, inventory, ranks, progress)
    paths = maker.make(folder, ranks.first(lambda: arrivals.arrange(folder, inventory)))
    if paths is None:
        paths = maker.make(folder, ranks.first(lambda: arrivals.arrange(folder, inventory, afresh=True)))
    assert paths is not None, "one arrival alone has no object in common with another"
    own = range(ranks.rank, len(paths), ranks.size)
    summaries = ranks.each(lambda: {index: _summary(paths[index]) for index in own})
    ordered = [summaries[index % ranks.size][index] for index in range(len(paths))]
    return ranks.first(lambda: _finish(data, survey, reader, folder, inventory.files, ordered, to_predict))


def verify(folder: Path, progress: Progress) -> list[str]:
    """Returns what is wrong with a dataset, a sentence each: shards missing, changed, or not in its manifest."""
    manifest = results.read_json(folder / "manifest.json", "jaxrnn ingest")
    entries = {entry["file"]: entry for entry in manifest["shards"]}
    wrong = []
    for done, (name, entry) in enumerate(entries.items()):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: not there")
        elif shards.checksum(path) != entry["sha256"]:
            wrong.append(f"{path}: its bytes are not those that were written (SHA-256 differs)")
        progress(done + 1, len(entries))
    extra = sorted(path for path in folder.glob("*.h5") if path.name not in entries)
    return wrong + [f"{path}: not in the manifest" for path in extra]


# ---------------------------------------------------------------- which shards the files become


def _work(data: Data, inventory: Inventory, arrival: Arrival, folder: Path) -> list[_Work]:
    """Returns the shards of an arrival, in order."""
    budget = arrivals.part_bytes(data)

    def path(index: int) -> Path:
        return folder / f"{arrival.first + index:05d}.h5"

    sequences, objects, observations = (
        arrival.holding(inventory, kind) for kind in (arrivals.SEQUENCES, arrivals.OBJECTS, arrivals.OBSERVATIONS)
    )
    if sequences:
        bundles = _bundles(sequences, budget)
        return [_Work(path(i), sum(p.bytes for p in bundle), tuple(bundle)) for i, bundle in enumerate(bundles)]
    rows = folder / arrivals.ROWS / str(arrival.first)
    size = sum(part.bytes for part in observations)
    tables = _Tables(
        tuple((rows / f"objects-{index}", part) for index, part in enumerate(objects)),
        tuple((rows / f"observations-{index}", part) for index, part in enumerate(observations)),
        partitions=max(1, -(-size // budget)),
    )
    return [
        _Work(path(partition), size // tables.partitions, tables=tables, partition=partition)
        for partition in range(tables.partitions)
    ]


def _bundles(parts: list[Part], budget: int) -> list[list[Part]]:
    """Returns consecutive parts together, up to the budget."""
    bundles: list[list[Part]] = []
    size = 0
    for part in parts:
        if not bundles or size + part.bytes > budget:
            bundles.append([])
            size = 0
        bundles[-1].append(part)
        size += part.bytes
    return bundles


def _missing(folder: Path, wanted: list[Path]) -> set[Path]:
    """Returns which shards are to be made, after removing those of files that are gone and what a kill left behind."""
    for stale in [*(path for path in folder.glob("*.h5") if path not in wanted), *folder.glob(".*.part")]:
        stale.unlink()
    for stale in (folder / arrivals.ROWS).rglob(".*.part"):
        shutil.rmtree(stale)
    return {path for path in wanted if not path.exists()}


def _remove(paths: Iterable[Path], ranks: Ranks) -> None:
    ranks.first(lambda: [path.unlink() for path in paths])


def _to_scatter(to_make: list[_Work]) -> list[tuple[Path, Part, bool, int]]:
    """Returns which parts of tables are still to be ordered by partition: where their rows go, the part, whether it is
    of the table of objects, and into how many partitions."""
    tables = {id(item.tables): item.tables for item in to_make if item.tables is not None}.values()
    return [
        (path, part, entries is each.objects, each.partitions)
        for each in tables
        for entries in (each.objects, each.observations)
        for path, part in entries
        if not path.exists()
    ]


def _place(part: Part) -> str:
    """Returns where a part is, for messages."""
    return f"{part.files[0]}{f' from {part.start} to {part.stop}' if part.stop else ''}"


# ---------------------------------------------------------------- making shards


@dataclass(frozen=True)
class _Maker:
    """Makes shards. inventory: what each file was when the ingest began: one that changes meanwhile is refused."""

    data: Data
    survey: Survey
    reader: Reader
    inventory: Inventory
    ranks: Ranks
    progress: Progress

    def make(self, folder: Path, found: list[Arrival]) -> list[Path] | None:
        """Writes the shards of all arrivals that are not there yet; returns all of them, in order.

        None where an object of one arrival stands in another too. What then becomes of it follows from all of its rows,
        and which of two is the first from the order of all files: only one arrival of all files can tell.
        """
        work = [_work(self.data, self.inventory, arrival, folder) for arrival in found]
        paths = [item.path for items in work for item in items]
        arrival_of = [place for place, items in enumerate(work) for _ in items]
        elsewhere: dict[Path, frozenset[str]] = {}
        while True:
            missing = self.ranks.first(lambda: _missing(folder, paths))
            earlier: list[Path] = []
            for items in work:
                to_make = [item for item in items if item.path in missing]
                if not self._scatter_missing(to_make, earlier):
                    return None
                self._make_missing(to_make, elsewhere)
                earlier += [item.path for item in items]
            twice = _in_two_shards(paths, self.ranks)
            if not twice:
                return paths
            across = any(arrival_of[later] != arrival_of[first] for later, _, first in twice)
            if across and (self.data.rejects("duplicate") or isinstance(self.reader, RowReader)):
                return None
            self.ranks.each(partial(_check_rejected_twice, self.data, paths, twice))
            elsewhere = {
                paths[place]: frozenset(name for index, name, _ in twice if index == place) for place, *_ in twice
            }
            _remove(elsewhere, self.ranks)

    def _scatter_missing(self, to_make: list[_Work], earlier: list[Path]) -> bool:
        """Brings the rows in order that these shards need; returns False where any is of an object that stands in an
        earlier shard."""
        # told by one rank: another would look after the first rows were written
        to_scatter = self.ranks.first(lambda: _to_scatter(to_make))
        sizes = [part.bytes for _, part, *_ in to_scatter]
        self.ranks.each(lambda: self._share(to_scatter, sizes, lambda todo: self._scatter(*todo)))
        tables = next((item.tables for item in to_make), None)
        return tables is None or not earlier or not _stand_in(earlier, tables, self.ranks)

    def _make_missing(self, to_make: list[_Work], elsewhere: dict[Path, frozenset[str]]) -> None:
        """Writes shards, each by one rank. elsewhere: ids, by shard, of objects that it must not hold, because an
        earlier one has them."""

        def make(item: _Work) -> None:
            self._make(item, elsewhere.get(item.path, frozenset()))

        self.ranks.each(lambda: self._share(to_make, [item.bytes for item in to_make], make))

    def _share(self, todo: list[Any], weights: list[int], do: Callable[[Any], None]) -> None:
        own = self.ranks.share(weights)
        for done, index in enumerate(own):
            self.ranks.heed()
            do(todo[index])
            self.progress(done + 1, len(own))

    def _scatter(self, path: Path, part: Part, is_objects: bool, partitions: int) -> None:
        """Orders a part of a table by partition."""
        assert isinstance(self.reader, RowReader)
        read = self.reader.read_objects if is_objects else self.reader.read_observations

        def rows() -> Iterator[Any]:
            yield from read(part)
            self._check_unchanged(part)

        fault = self._unreadable(part, lambda: grouping.scatter(path, partitions, rows))
        if fault is not None:
            grouping.scatter(path, partitions, lambda: iter(()), unreadable=fault)

    def _make(self, work: _Work, elsewhere: frozenset[str]) -> None:
        """Writes one shard."""
        # what is read makes sense or not when it is put together
        with readers.blamed(self.data.reader, str(work.path)):
            if work.tables is not None:
                raw, parts = self._gathered(work.tables, work.partition)
            else:
                raw, parts = self._read(work.parts)
            shard = shard_of(self.data, self.survey, self.reader, raw, parts, elsewhere)
        shards.write(work.path, shard, __version__, self.data.compression)

    def _gathered(self, tables: _Tables, partition: int) -> tuple[Sequences, list[_Account]]:
        objects, observations = ([path for path, _ in entries] for entries in (tables.objects, tables.observations))
        # what is said of parts stands in the first shard that rows of them go to
        entries = (*tables.objects, *tables.observations) if partition == 0 else ()
        account = [(part, grouping.unreadable(path)) for path, part in entries]
        return grouping.gather(partition, objects, observations, self.survey), account

    def _read(self, parts: tuple[Part, ...]) -> tuple[Sequences, list[_Account]]:
        assert isinstance(self.reader, SequenceReader)
        read, pieces, account = self.reader.read, [_nothing(self.survey)], []
        for part in parts:
            self.ranks.heed()

            def add(part: Part = part) -> None:
                piece = read(part)
                self._check_unchanged(part)
                pieces.append(piece)

            account.append((part, self._unreadable(part, add)))
        return readers.joined(pieces[1:] or pieces), account

    def _unreadable(self, part: Part, read: Callable[[], None]) -> tuple[str, str] | None:
        """Returns which file of a part can't be read and why, where `data.on_error` lets that pass; None where it
        can."""
        # an error in a reader's code is no fault of the file, and stops whatever is to be rejected
        with readers.blamed(self.data.reader, _place(part)):
            try:
                read()
            except OSError as error:
                message = f"{error.filename or 'survey file'}: cannot be read ({error.strerror or error})"
            except JaxrnnError as error:
                message = str(error)
            else:
                return None
        if not self.data.rejects("file"):
            raise JaxrnnError(message)
        named = (str(file) for file in part.files if message.startswith(f"{file}: "))
        file = next(named, str(part.files[0]))
        return file, message.removeprefix(f"{file}: ")

    def _check_unchanged(self, part: Part) -> None:
        for file in part.files:
            if self.inventory.files[str(file)] != arrivals.identity(file):
                raise JaxrnnError(
                    f"{file}: changed while it was read; run the same command again when nothing writes to it any more"
                )


def shard_of(
    data: Data,
    survey: Survey,
    reader: Reader,
    raw: Sequences,
    parts: Sequence[_Account] = (),
    elsewhere: frozenset[str] = frozenset(),
) -> Shard:
    """Returns what becomes of sequences as a reader gives them. parts: what they were read from; elsewhere: ids of
    objects that stand in an earlier shard."""
    unreadable: list[Rejected] = [("", *fault[:1], WHOLE_OBJECT, *fault[1:]) for _, fault in parts if fault]
    sound, rejected = faults.without(data, survey, raw, reader, elsewhere)
    sound = faults.by_time(sound)
    times_repeated, observations_repeated = faults.repeated(sound)
    left, cut = cuts.apply(data, survey, sound)
    left, emptied = cuts.without_emptied(left)
    steps = features.make(data, survey, left)
    cut += steps.cut
    names = [column.name for column in survey.metadata]
    chosen, measured = ([names.index(name) for name in wanted] for wanted in (data.metadata, data.evaluation))
    counts = {
        "objects_in": len(raw.ids),
        "objects_out": len(left.ids),
        "objects_rejected": len(raw.ids) - len(sound.ids),
        "objects_cut": len(emptied),
        "observations_in": len(raw.time),
        "observations_out": len(left.time) - sum(steps.cut.values()),
        "observations_rejected": len(raw.time) - len(sound.time),
        "observations_cut": sum(cut.values()),
        "steps_out": len(steps.time),
        "parts_in": len(parts),
        "parts_rejected": len(unreadable),
        "bytes_in": sum(part.bytes for part, _ in parts),
        "bytes_rejected": sum(part.bytes for part, fault in parts if fault),
        "times_repeated": times_repeated,
        "observations_repeated": observations_repeated,
    }
    return Shard(
        ids=left.ids,
        labels=left.labels,
        offsets=steps.offsets,
        time=steps.time,
        features=steps.features,
        metadata=left.metadata[:, chosen].astype(np.float32),
        splits=left.splits if survey.gives_splits else None,
        groups=left.groups if survey.gives_groups else None,
        step_labels=steps.step_labels if survey.gives_step_labels else None,
        feature_columns=features.describe(data, survey),
        metadata_columns=tuple(survey.metadata[index] for index in chosen),
        evaluation=left.metadata[:, measured],
        evaluation_columns=tuple(survey.metadata[index] for index in measured),
        time_unit=survey.time_unit,
        rejected=(*unreadable, *rejected),
        counts=counts,
        cut=dict(cut),
        cut_ids=emptied,
    )


def _nothing(survey: Survey) -> Sequences:
    """Returns no objects, for a shard whose every part is unreadable."""
    none, text = np.zeros(0), np.zeros(0, dtype=str)
    return Sequences(
        text, text, np.zeros(1, dtype=np.int64), none, np.zeros((0, len(survey.columns))), none.astype(np.int64),
        np.zeros((0, len(survey.metadata))), none.astype(np.int64), ("",),
        splits=text if survey.gives_splits else None, groups=text if survey.gives_groups else None,
        step_labels=text if survey.gives_step_labels else None,
    )  # fmt: skip


# ---------------------------------------------------------------- all shards together


def _in_two_shards(paths: list[Path], ranks: Ranks) -> list[tuple[int, str, int]]:
    """Returns (later shard, id, first shard) of each object that stands in two shards, in order.

    Ids are compared by slices of their hashes' range, so that the memory for it does not grow with the survey.
    """
    slices = _slices(paths, ranks)

    def find() -> list[tuple[int, str, int]]:
        return [twice for part in range(ranks.rank, slices, ranks.size) for twice in _twice(paths, part, slices)]

    return sorted(entry for found in ranks.each(find) for entry in found)


def _check_rejected_twice(data: Data, paths: list[Path], twice: list[tuple[int, str, int]]) -> None:
    if not data.rejects("duplicate"):
        later, name, first = twice[0]
        more = f" ({len(twice) - 1} more such objects)" if len(twice) > 1 else ""
        raise JaxrnnError(
            f"{paths[0].parent}: object {name} stands in two parts of the survey, which became {paths[first].name} "
            f"and {paths[later].name}{more}; expected every object once, with all its observations. Mend the "
            "files, or set `data.on_error: {duplicate: reject}` to keep the first of each"
        )


def _stand_in(earlier: list[Path], tables: _Tables, ranks: Ranks) -> bool:
    """Returns whether any object of an arrival's tables stands in earlier shards, as their hashes say."""
    slices = _slices(earlier, ranks)
    paths = [path for path, _ in (*tables.objects, *tables.observations)]

    def find() -> bool:
        for part in range(slices):
            known = np.concatenate([_hashes(_ids(path), part, slices) for path in earlier])
            for partition in range(ranks.rank, tables.partitions, ranks.size):
                if np.isin(grouping.hashes(partition, paths), known).any():
                    return True
        return False

    return any(ranks.each(find))


def _slices(paths: list[Path], ranks: Ranks) -> int:
    own = range(ranks.rank, len(paths), ranks.size)
    total = sum(ranks.each(lambda: sum(len(_ids(paths[index])) for index in own)))
    return max(1, -(-total // IDS_AT_ONCE))


def _ids(path: Path) -> np.ndarray:
    """Returns the ids of all objects that became of a shard's parts: in it, cut, or rejected for themselves."""
    return shards.ids(path, besides=faults.TWICE)


def _hashes(ids: np.ndarray, part: int, slices: int) -> np.ndarray:
    """Returns the hashes of the ids that fall into a slice."""
    hashes = grouping.hashed(ids)
    return hashes[hashes % np.uint64(slices) == part]


def _twice(paths: list[Path], part: int, slices: int) -> list[tuple[int, str, int]]:
    """Returns (later shard, id, first shard) of each id that stands in two shards and hashes into this slice."""
    found: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for index, path in enumerate(paths):
        found.append(_hashes(_ids(path), part, slices))
        places.append(np.full(len(found[-1]), index, dtype=np.int32))
    hashes, place = np.concatenate(found), np.concatenate(places)
    order = np.argsort(hashes, kind="stable")
    hashes, place = hashes[order], place[order]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    suspects = np.unique(hashes[same])
    if not len(suspects):
        return []
    first: dict[bytes, int] = {}
    twice = []
    for index in np.unique(place[np.isin(hashes, suspects)]).tolist():
        ids = _ids(paths[index])
        # equal hashes are a reason to look, and only equal ids a fault
        for name in ids[np.isin(grouping.hashed(ids), suspects)].tolist():
            if name in first:
                twice.append((index, name.decode(), first[name]))
            first.setdefault(name, index)
    return twice


def _summary(path: Path) -> dict[str, Any]:
    """Returns what the manifest says of one shard, and what it adds up."""
    shard = shards.read(path, steps=False)
    return {
        "entry": {
            "file": path.name,
            "sequences": len(shard.ids),
            "steps": int(shard.offsets[-1]),
            "bytes": path.stat().st_size,
            "sha256": shards.checksum(path),
        },
        "counts": Counter(shard.counts),
        "labels": Counter(shard.labels.tolist()),
        "lengths": Counter(shard.lengths.tolist()),
        "reasons": Counter(faults.alike(reason, file) for _, file, _, reason in shard.rejected),
        "cut": Counter(shard.cut),
    }


def _finish(
    data: Data,
    survey: Survey,
    reader: Reader,
    folder: Path,
    files: dict[str, list[int]],
    summaries: list[dict[str, Any]],
    to_predict: bool,
) -> dict[str, Any]:
    names = ("counts", "labels", "lengths", "reasons", "cut")
    counts, labels, lengths, reasons, cut = (
        sum((summary[name] for summary in summaries), start=Counter[Any]()) for name in names
    )
    counts = {name: counts[name] for name in shards.COUNTS}
    where = str(Path(next(iter(files))).parent)
    why = listed([f"{count} {reason}" for reason, count in (reasons + cut).most_common()], 5)
    if not counts["objects_in"]:
        raise JaxrnnError(
            f"{where}: the survey's files hold no object{f' that can be read ({why})' if why else ' and no row'}; "
            "expected some: look at data.path and data.options"
        )
    if not counts["objects_out"] and not to_predict:
        raise JaxrnnError(
            f"{where}: no object is left of {counts['objects_in']} ({why}); mend the files, or loosen `data.cuts`"
        )
    for noun, words in (
        ("objects", "objects are rejected"),
        ("observations", "observations are rejected"),
        ("parts", "files, or pieces of them, cannot be read"),
        ("bytes", "bytes of files cannot be read"),
    ):
        share = counts[f"{noun}_rejected"] / max(counts[f"{noun}_in"], 1)
        if share > data.most_rejected:
            raise JaxrnnError(
                f"{where}: {counts[f'{noun}_rejected']} of {counts[f'{noun}_in']} {words} ({why}), which "
                f"is {share:.1%} and more than `data.most_rejected: {data.most_rejected:g}` allows; mend the files, or "
                "raise it if you know why"
            )
    faulty = [folder / summary["entry"]["file"] for summary in summaries if summary["reasons"]]
    _write_rejected(folder / "rejected.csv", reader, faulty)
    metadata = {column.name: column for column in survey.metadata}
    manifest: dict[str, Any] = {
        "reader": data.reader,
        "survey_files": [
            {"path": file, "bytes": size, "modified_ns": modified} for file, (size, modified) in files.items()
        ],
        "counts": counts,
        "rejected_by_reason": dict(sorted(reasons.items())),
        "cut_by_reason": dict(sorted(cut.items())),
        "labels": dict(sorted(labels.items())),
        "length_histogram": _histogram(lengths),
        "time_unit": survey.time_unit,
        "survey": asdict(survey),
        "features": [vars(column) for column in features.describe(data, survey)],
        "metadata": [_described(metadata[name]) for name in data.metadata],
        "evaluation": [_described(metadata[name]) for name in data.evaluation],
        "shards": [summary["entry"] for summary in summaries],
    }
    results.write_json(folder / "manifest.json", manifest)
    shutil.rmtree(folder / arrivals.ROWS, ignore_errors=True)
    return manifest


def _write_rejected(target: Path, reader: Reader, paths: list[Path]) -> None:
    """Writes the rejected objects and observations of all shards as a table, with their rows in the survey's files."""
    places: dict[str, list[int]] = {}
    for path in paths:
        for _, name, row, _ in shards.read(path, steps=False).rejected:
            if row != WHOLE_OBJECT:
                places.setdefault(name, []).append(row)
    rows = {}
    for name, numbers in places.items():
        unique = np.unique(numbers)
        rows[name] = dict(zip(unique.tolist(), reader.rows_at(name, unique).tolist(), strict=True))
    with results.written_whole(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        # all is quoted: Python's writer leaves a lone carriage return, which readers take for a line's end
        table = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        table.writerow(shards.REJECTED_COLUMNS)
        for path in paths:
            for owner, name, row, reason in shards.read(path, steps=False).rejected:
                table.writerow([owner, name, "" if row == WHOLE_OBJECT else rows[name][row], reason])


def _described(column: Column) -> dict[str, str]:
    return {"name": column.name, "unit": column.unit}


def _histogram(lengths: Counter[int]) -> dict[str, list[int]]:
    """Returns counts of sequences by steps, in at most 30 bins of equal whole width; edges: their first steps."""
    if not lengths:
        return {"edges": [], "counts": []}
    least, most = min(lengths), max(lengths)
    width = -(-(most - least + 1) // 30)
    edges = np.arange(least, most + width + 1, width)
    counts = np.histogram(list(lengths), edges, weights=list(lengths.values()))[0]
    return {"edges": edges.tolist(), "counts": counts.astype(int).tolist()}
