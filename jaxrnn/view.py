"""Drawings of single objects, from survey files or shards: the sanity check before any training.

Objects are named, or each class gives those with the smallest hash of seed and id: the same ones whatever the order of
the files, and from shards the same as from survey files. What is faulty is drawn as it is and told, never left out.
"""

import hashlib
import heapq
import re
import textwrap
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrnn import readers, results
from jaxrnn.errors import JaxrnnError, listed, nearest, plural
from jaxrnn.readers import Column, Observations, RowReader, SequenceReader, Sequences, Survey

if TYPE_CHECKING:
    from jaxrnn.config import Data
    from jaxrnn.features import FeatureColumn
    from jaxrnn.report.figures import Drawing, Panel
    from jaxrnn.shards import Shard

MOST_OBJECTS = 200
MOST_MARKS = 40_000  # points or cells of a whole page: a browser still scrolls it smoothly
MOST_SERIES = 8  # columns without passbands; more are drawn as one map of step by column
MOST_CROSSES = 100
PIECE_BYTES = 32 << 20  # read at once
SUFFIXES = (".html", ".png", ".svg")
NO_LABEL = "no label"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What to draw: the objects named, or `per_class` of each label of the survey (of `classes`, where given), chosen
    by `seed`. column: what stands on the y axis; the survey's first column, or all features, where None. together:
    `per_class` of all objects alike, for label sequences, of which hardly two are equal."""

    objects: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    per_class: int = 3
    seed: int = 0
    column: str | None = None
    together: bool = False

    def check(self, output: Path) -> None:
        """Raises JaxrnnError where no page can come of this, before anything is read."""
        if output.suffix.lower() not in SUFFIXES:
            raise JaxrnnError(f"{output}: expected a name that ends with {listed(SUFFIXES)}, which is what is drawn")
        if self.objects and self.classes:
            raise JaxrnnError("both objects and classes are named; name objects, or classes of which some are drawn")
        if self.per_class < 1:
            raise JaxrnnError(f"{self.per_class} objects a class; expected at least 1")
        if len(set(self.objects)) > MOST_OBJECTS:
            raise JaxrnnError(f"{len(set(self.objects))} objects are named; a page holds at most {MOST_OBJECTS}")


def draw_survey(
    data: "Data", survey: Path, wanted: Wanted, output: Path, progress: Progress = lambda done, total: None
) -> str:
    """Draws objects of the survey files at `survey` into `output`, by its suffix .html, .png or .svg; returns what it
    drew. Reads until all objects are found, or the whole survey where it chooses; holds no more than one piece of it.

    Raises JaxrnnError where an object or a class is not there, or more than `MOST_OBJECTS` would be drawn.
    """
    wanted.check(output)
    reader = readers.open_reader(data.reader, survey, data.options)
    described = reader.describe()
    column = _column(described, wanted.column)
    choice = _Choice(wanted, survey)
    if isinstance(reader, RowReader):
        found = _from_rows(reader, choice, progress)
    else:
        found = _from_sequences(reader, choice, progress)
    found = _numbered(reader, found)
    most = MOST_MARKS // max(1, len(found))
    shown = [name for name, _, _ in _values(described)]
    downwards = max(len(entry.time) for entry in found) <= len(shown)
    drawn = [(entry.label, _survey_drawing(described, entry, column, downwards, most)) for entry in found]
    others = [name for name in shown if name != column] if column else []
    facts = [f"{survey}, read as {data.reader}", f"drawn: {column or f'all {len(shown)} columns'}"]
    if others:
        facts.append(f"other columns: {listed(others)}")
    return _write(drawn, described.passbands, wanted, facts, output)


def draw_dataset(folder: Path, wanted: Wanted, output: Path, progress: Progress = lambda done, total: None) -> str:
    """Draws objects of the dataset in `folder` as `draw_survey` does: the features as shards hold them, which is how
    the network sees them before normalisation."""
    from jaxrnn import shards

    wanted.check(output)
    manifest = results.read_json(folder / "manifest.json", "jaxrnn ingest")
    paths = [folder / str(entry["file"]) for entry in manifest["shards"]]
    choice = _Choice(wanted, folder)
    for done, path in enumerate(paths, start=1):
        known = shards.read(path, steps=False)
        for index in choice.entering(known.ids.tolist(), known.labels.tolist()):
            choice.put(str(known.ids[index]), str(known.labels[index]), (path, index))
        progress(done, len(paths))
        if choice.complete:
            break
    chosen = choice.chosen(_rejections(folder))
    whole = {path: [place for place, (_, _, (own, _)) in enumerate(chosen) if own == path] for path in paths}
    most = MOST_MARKS // max(1, len(chosen))
    drawn: list[Any] = [None] * len(chosen)
    bands: tuple[str, ...] = ()
    for path, places in whole.items():
        if not places:
            continue
        shard = shards.read(path)
        bands = bands or tuple(dict.fromkeys(c.passband for c in shard.feature_columns if c.passband))
        for place in places:
            _, label, (_, index) = chosen[place]
            drawn[place] = (label, _shard_drawing(shard, index, bands, wanted.column, most))
    facts = [f"{folder}, features before normalisation"]
    return _write(drawn, bands, wanted, facts, output)


# Which objects


class _Choice:
    """The objects to draw, chosen as ids come by. Holds no more than is drawn, however many come."""

    def __init__(self, wanted: Wanted, where: Path) -> None:
        self.wanted, self.where = wanted, where
        self._names = frozenset(wanted.objects)
        # of each label: (hash, id, (label, what came with it))
        self._groups: dict[str, list[tuple[int, str, tuple[str, Any]]]] = {}
        self._labels: dict[str, None] = {}
        self._similar: dict[str, list[str]] = {}
        self._count = 0

    @property
    def complete(self) -> bool:
        return bool(self._names) and self._names <= {name for name, _, _ in self.kept()}

    def kept(self) -> Iterator[tuple[str, str, Any]]:
        """Yields id, label, and what came with it."""
        for group in self._groups.values():
            yield from ((name, label, payload) for _, name, (label, payload) in group)

    def entering(self, ids: Sequence[str], labels: Sequence[str]) -> Iterator[int]:
        """Yields which of these objects are to be `put`, as far as is known yet."""
        if self._names:
            yield from (index for index, name in enumerate(ids) if name in self._names)
            for word in self.wanted.objects[:3]:
                self._similar[word] = _most_similar(word, [*self._similar.get(word, ()), *ids])
            return
        for index, (name, label) in enumerate(zip(ids, labels, strict=True)):
            if label not in self._labels and len(self._labels) <= MOST_OBJECTS:
                self._labels[label] = None
            if self.wanted.classes and label not in self.wanted.classes:
                continue
            group = self._groups.get("" if self.wanted.together else label, [])
            if len(group) < self.wanted.per_class or self._hash(name) < group[-1][0]:
                yield index

    def put(self, name: str, label: str, payload: Any) -> None:
        group = self._groups.setdefault("" if self.wanted.together else label, [])
        # the place among equals: what came with them is never compared
        insort(group, (self._hash(name), name, (label, payload)), key=lambda entry: entry[:2])
        self._count += 1
        if not self._names and len(group) > self.wanted.per_class:
            group.pop()
            self._count -= 1
        if self._count > MOST_OBJECTS:
            raise JaxrnnError(
                f"{self.where}: more than {MOST_OBJECTS} objects would be drawn ({self.wanted.per_class} of each of at "
                f"least {len(self._groups)} classes: {listed([_label(name) for name in self._groups])}); choose fewer "
                "a class, or name classes"
            )

    def chosen(self, rejections: Mapping[str, str] | None = None) -> list[tuple[str, str, Any]]:
        """Returns the objects in the order in which they are drawn; raises JaxrnnError for what was not found."""
        kept = list(self.kept())
        if self._names:
            missing = [name for name in self.wanted.objects if name not in {own for own, _, _ in kept}]
            for name in missing:
                if rejections and name in rejections:
                    raise JaxrnnError(f"{self.where}: object '{name}' was rejected by ingest: {rejections[name]}")
            if missing:
                near = dict.fromkeys(entry for word in missing for entry in self._similar.get(word, ())[:3])
                raise JaxrnnError(
                    f"{self.where}: there is no object {listed([repr(name) for name in missing])}"
                    + (f"; the nearest ids are {listed(list(near), 9)}" if near else "; it holds no object at all")
                )
            place = {name: index for index, name in enumerate(self.wanted.objects)}
            return sorted(kept, key=lambda entry: place[entry[0]])
        for label in self.wanted.classes:
            if label not in {own for _, own, _ in kept}:
                known = list(self._labels)
                raise JaxrnnError(
                    f"{self.where}: no object of class '{label}'{nearest(label, known)}; the survey's labels are "
                    f"{listed([_label(name) for name in known], 20)}"
                )
        if not kept:
            raise JaxrnnError(f"{self.where}: holds no object; there is nothing to draw")
        return sorted(kept, key=lambda entry: (_natural(entry[1]), _natural(entry[0])))

    def _hash(self, name: str) -> int:
        text = f"{self.wanted.seed}:{name}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _label(label: str) -> str:
    return label or NO_LABEL


def _natural(text: str) -> tuple[Any, ...]:
    """Returns what sorts "9" before "10"."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d{1,18}|\D+", text))


def _most_similar(word: str, names: Sequence[str]) -> list[str]:
    """Returns the names that begin and end most like `word`; capitals and leading zeros count for nothing."""

    def plain(text: str) -> str:
        return re.sub(r"(?<!\d)0+(?=\d)", "", text.casefold()[:200])

    target = plain(word)

    def likeness(name: str) -> tuple[int, int]:
        own = plain(name)
        alike = _shared(own, target) + _shared(own[::-1], target[::-1])
        return min(alike, len(target)), -abs(len(own) - len(target))

    return heapq.nlargest(8, dict.fromkeys(names), key=likeness)


def _shared(a: str, b: str) -> int:
    """Returns with how many equal characters both begin."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _rejections(folder: Path) -> dict[str, str]:
    """Returns why whole objects were rejected by ingest, of the first of them."""
    import csv

    try:
        with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
            rows = (row for _, row in zip(range(1_000_000), csv.DictReader(file), strict=False))
            return {row["object"]: row["reason"] for row in rows if not row["row"]}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error):
        return {}


# Their observations


@dataclass(frozen=True)
class _Object:
    """One object as the survey's files have it, like `readers.Sequences`. row_files: [row] the file of each."""

    id: str
    label: str
    metadata: np.ndarray
    values: np.ndarray
    time: np.ndarray = field(default_factory=lambda: np.zeros(0))
    passband: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    row_numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    row_files: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    row_faults: np.ndarray | None = None
    step_labels: np.ndarray | None = None
    split: str = ""
    group: str = ""
    fault: str = ""


def _from_sequences(reader: SequenceReader, choice: _Choice, progress: Progress) -> list[_Object]:
    parts = reader.parts(PIECE_BYTES)
    for done, part in enumerate(parts, start=1):
        sequences = reader.read(part)
        ids, labels = list(map(str, sequences.ids)), list(map(str, sequences.labels))
        for index in choice.entering(ids, labels):
            choice.put(ids[index], labels[index], _sequence(sequences, index))
        progress(done, len(parts))
        if choice.complete:
            break
    return [found for _, _, found in choice.chosen()]


def _sequence(sequences: Sequences, index: int) -> _Object:
    rows = slice(int(sequences.offsets[index]), int(sequences.offsets[index + 1]))

    if sequences.row_file is not None:
        places = sequences.row_file[rows]
    else:
        whole = 0 if sequences.object_file is None else int(sequences.object_file[index])
        places = np.full(rows.stop - rows.start, whole)

    def of_object(values: np.ndarray | None) -> str:
        return "" if values is None else str(values[index])

    def of_rows(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows].copy()

    return _Object(
        id=str(sequences.ids[index]),
        label=str(sequences.labels[index]),
        metadata=sequences.metadata[index].copy(),
        # copies, so that the part itself can be let go
        time=sequences.time[rows].copy(),
        values=sequences.values[rows].copy(),
        passband=sequences.passband[rows].copy(),
        row_numbers=sequences.row_numbers[rows].copy(),
        row_files=np.array(sequences.files, dtype=object)[places],
        row_faults=of_rows(sequences.row_faults),
        step_labels=of_rows(sequences.step_labels),
        split=of_object(sequences.splits),
        group=of_object(sequences.groups),
        fault=of_object(sequences.object_faults),
    )


def _from_rows(reader: RowReader, choice: _Choice, progress: Progress) -> list[_Object]:
    """Returns the objects to draw with all their rows, wherever in the tables these stand.

    One pass over the observations does, also where they alone say what the objects are: an object that is not among
    those with the smallest hash when it first comes by never will be.
    """
    survey = reader.describe()
    nothing = {"values": np.zeros((0, len(survey.columns))), "metadata": np.full(len(survey.metadata), np.nan)}
    table = reader.object_parts(PIECE_BYTES)
    for part in table:
        for objects in reader.read_objects(part):
            ids, labels = _decoded(objects.ids), list(map(str, objects.labels))
            for index in choice.entering(ids, labels):
                head = _Object(
                    id=ids[index],
                    label=labels[index],
                    metadata=objects.metadata[index].copy(),
                    values=nothing["values"],
                    split="" if objects.splits is None else str(objects.splits[index]),
                    group="" if objects.groups is None else str(objects.groups[index]),
                    fault="" if objects.faults is None else str(objects.faults[index]),
                )
                choice.put(head.id, head.label, (head, []))
    parts = reader.observation_parts(PIECE_BYTES)
    named = np.array([name.encode() for name in choice.wanted.objects] or [b""])
    for done, part in enumerate(parts, start=1):
        for piece in reader.read_observations(part):
            new = piece.object_ids
            if table:
                # named ones that the table lacks: orphans
                new = new[np.isin(new, named)] if choice.wanted.objects else new[:0]
            _put_new(piece, new, choice, nothing, orphans=bool(table))
            kept = list(choice.kept())
            keys = np.array([name.encode() for name, _, _ in kept] or [b""])
            rows = np.flatnonzero(np.isin(piece.object_ids, keys))
            owners = piece.object_ids[rows]
            for key, (_, _, (_, pieces)) in zip(keys, kept, strict=False):
                if len(own := rows[owners == key]):
                    pieces.append(_rows_of(piece, own))
        progress(done, len(parts))
    return [_gathered(head, pieces) for _, _, (head, pieces) in choice.chosen()]


def _put_new(piece: Observations, new: np.ndarray, choice: _Choice, nothing: dict[str, Any], orphans: bool) -> None:
    """Puts the objects into `choice` that are known from their observations alone. new: ids, any number of times."""
    keys, first = np.unique(new, return_index=True)
    known = {name for name, _, _ in choice.kept()}
    fresh = [(name, index) for name, index in zip(_decoded(keys), first.tolist(), strict=True) if name not in known]

    def said(values: np.ndarray | None, index: int) -> str:
        return "" if values is None or orphans else str(values[index])

    labels = [said(piece.labels, index) for _, index in fresh]
    for place in choice.entering([name for name, _ in fresh], labels):
        name, index = fresh[place]
        fault = "it is not in the table of objects" if orphans else ""
        group = said(piece.groups, index)
        head = _Object(id=name, label=labels[place], group=group, fault=fault, **nothing)
        choice.put(name, labels[place], (head, []))


def _rows_of(piece: Observations, rows: np.ndarray) -> dict[str, Any]:
    parts = {name: getattr(piece, name)[rows] for name in ("time", "values", "passband", "row_numbers")}
    parts["row_files"] = np.full(len(rows), piece.file, dtype=object)
    for name, values in (("row_faults", piece.faults), ("step_labels", piece.step_labels)):
        parts[name] = np.full(len(rows), "", dtype=object) if values is None else values[rows]
    return parts


def _gathered(head: _Object, pieces: list[dict[str, Any]]) -> _Object:
    if not pieces:
        return head
    return replace(head, **{name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})


def _numbered(reader: SequenceReader | RowReader, found: Sequence[_Object]) -> list[_Object]:
    """Returns the objects with the rows that a person counts in the files."""
    numbers = [each.row_numbers.copy() for each in found]
    for file in {file for each in found for file in each.row_files.tolist()}:
        own = [each.row_files == file for each in found]
        unique = np.unique(np.concatenate([each.row_numbers[rows] for each, rows in zip(found, own, strict=True)]))
        counted = reader.rows_at(file, unique)
        for each, rows, target in zip(found, own, numbers, strict=True):
            target[rows] = counted[np.searchsorted(unique, each.row_numbers[rows])]
    return [replace(each, row_numbers=target) for each, target in zip(found, numbers, strict=True)]


def _decoded(ids: np.ndarray) -> list[str]:
    return [name.decode("utf-8", "replace") for name in ids.tolist()]


# What is drawn of survey files


def _values(survey: Survey) -> list[tuple[str, str, int]]:
    """Returns name, unit and place of the columns that are neither errors nor flags."""
    apart = {*survey.error_columns, *survey.flag_columns}
    return [(column.name, column.unit, at) for at, column in enumerate(survey.columns) if column.name not in apart]


def _column(survey: Survey, wanted: str | None) -> str | None:
    """Returns the name of the column to draw; None for a map of all."""
    names = [column.name for column in survey.columns]
    if wanted is not None:
        if wanted not in names:
            raise JaxrnnError(
                f"this survey has no column '{wanted}'{nearest(wanted, names)}; it has {listed(names, 20)}"
            )
        return wanted
    shown = [name for name, _, _ in _values(survey)] or names
    if not shown:
        raise JaxrnnError("this survey has no column but the time; there is nothing to draw")
    return shown[0] if survey.passbands or len(shown) <= MOST_SERIES else None


def _survey_drawing(survey: Survey, found: _Object, column: str | None, downwards: bool, most: int) -> "Drawing":
    from jaxrnn.report import figures

    steps = len(found.time)
    at_name = {own.name: at for at, own in enumerate(survey.columns)}
    places = [at for _, _, at in _values(survey)] if column is None else [at_name[column]]
    errors = None if column is None else at_name.get(_error_of(survey, column))
    reasons = _faults(survey, found, places, errors)
    remarks = [found.fault] if found.fault else []
    faulty = zip(reasons, found.row_files, strict=True)
    for (reason, file), count in Counter(pair for pair in faulty if pair[0]).most_common():
        rows = found.row_numbers[(reasons == reason) & (found.row_files == file)].tolist()
        remarks.append(f"{plural(count, 'faulty observation')}: {reason} (row {listed(rows, 5)} of {Path(file).name})")
    if column is None:
        names = [survey.columns[at].name for at in places]
        units = {survey.columns[at].unit for at in places}
        unit = units.pop() if len(units) == 1 else ""
        panel, left = _map(found.values[:, places], names, unit, downwards, most)
    else:
        texts = _texts(survey, found, places[0], errors, reasons)
        of_band = found.passband if survey.passbands else None
        own = found.values[:, places[0]]
        error = found.values[:, errors] if errors is not None else None
        unit = survey.columns[places[0]].unit
        points = _Points(found.time, own, texts, reasons != "", error, of_band)
        titles = _titled("time", survey.time_unit), _titled(column, unit)
        panel, left = _panel(points, survey.passbands, titles, _is_magnitude(column, unit), most)
    facts = [_label(found.label)] if survey.labelled or found.label else []
    facts += [found.split] if found.split else []
    facts += [f"group {found.group}"] if found.group else []
    facts += [plural(steps, "observation"), *left]
    shown = column or "all columns"
    return figures.Drawing(
        title=figures.printable(found.id) or "(empty id)",
        facts=[figures.printable(fact) for fact in facts],
        metadata=_metadata(survey.metadata, found.metadata),
        remarks=[figures.printable(remark) for remark in remarks],
        panels=[panel],
        description=figures.printable(f"{shown} of object {found.id} against time: {', '.join(facts)}."),
    )


def _error_of(survey: Survey, column: str) -> str:
    """Returns the name of a column's errors: by its own name, or where only one can be meant. "" where it has none."""
    if f"{column}_error" in survey.error_columns:
        return f"{column}_error"
    only = len(_values(survey)) == len(survey.error_columns) == 1 and column not in survey.error_columns
    return survey.error_columns[0] if only else ""


def _faults(survey: Survey, found: _Object, places: Sequence[int], errors: int | None) -> np.ndarray:
    """Returns for each row why it is faulty, "" where it isn't: what is drawn of it, and what the reader said."""
    reasons = np.full(len(found.time), "", dtype=object)
    if survey.passbands:
        reasons[found.passband < 0] = f"passband is none of {listed(survey.passbands)}"
    for at in (*places, *([] if errors is None else [errors])):
        name, own = survey.columns[at].name, found.values[:, at]
        if name in survey.error_columns:
            for value in np.unique(own[own <= 0]).tolist():
                reasons[own == value] = f"{name} {value:g} is not positive"
        reasons[~_storable(own)] = f"{name} is not finite"
    reasons[~_storable(found.time)] = "time is not finite"
    if found.row_faults is not None:
        reasons = np.where(found.row_faults != "", found.row_faults, reasons)
    return reasons


def _storable(values: np.ndarray) -> np.ndarray:
    """Returns which values are finite, also in the single precision of shards."""
    return np.abs(values) <= np.finfo(np.float32).max


def _texts(survey: Survey, found: _Object, at: int, errors: int | None, reasons: np.ndarray) -> list[str]:
    """Returns what each row says on hover of the column at `at`."""
    column, unit = survey.columns[at].name, survey.columns[at].unit
    marks = [place for place, own in enumerate(survey.columns) if own.name in survey.flag_columns and place != at]
    texts = []
    for row in range(len(found.time)):
        value = _number(found.values[row, at])
        value += f" ± {_number(found.values[row, errors])}" if errors is not None else ""
        band = int(found.passband[row])
        parts = [
            f"{found.time[row]:.10g} {survey.time_unit}".strip(),
            f"{column} {value} {unit}".strip(),
            *([survey.passbands[band] if band >= 0 else "unknown passband"] if survey.passbands else []),
            *(f"{survey.columns[mark].name} {_number(found.values[row, mark])}" for mark in marks[:4]),
            *([str(found.step_labels[row])] if found.step_labels is not None and found.step_labels[row] else []),
            f"row {int(found.row_numbers[row])}",
            *([str(reasons[row])] if reasons[row] else []),
        ]
        texts.append(" · ".join(parts))
    return texts


def _metadata(columns: Sequence[Column], values: Any) -> list[tuple[str, str]]:
    from jaxrnn.report import figures

    return [
        (figures.printable(column.name), f"{_number(value)} {figures.printable(column.unit)}".strip())
        if np.isfinite(value)
        else (figures.printable(column.name), "missing")
        for column, value in zip(columns, values, strict=True)
    ]


# What is drawn of shards


def _shard_drawing(shard: "Shard", index: int, bands: Sequence[str], wanted: str | None, most: int) -> "Drawing":
    from jaxrnn.report import figures

    rows = slice(int(shard.offsets[index]), int(shard.offsets[index + 1]))
    time, features = shard.time[rows], shard.features[rows].astype(np.float64)
    label, name = str(shard.labels[index]), str(shard.ids[index])
    own = [at for at, column in enumerate(shard.feature_columns) if wanted in (None, column.name, column.column)]
    if not own:
        names = list(dict.fromkeys(column.column or column.name for column in shard.feature_columns))
        raise JaxrnnError(f"these shards have no feature '{wanted}'{nearest(wanted or '', names)}; {listed(names, 20)}")
    panels, remarks = [], []
    facts = [_label(label)]
    facts += [str(shard.splits[index])] if shard.splits is not None else []
    facts += [f"group {shard.groups[index]}"] if shard.groups is not None else []
    facts.append(plural(len(time), "step"))
    presence = _presence(shard.feature_columns, features, bands)
    groups = _panels_of(shard.feature_columns, own)
    for group in groups:
        panel, left = _feature_panel(
            [shard.feature_columns[at] for at in group], time, features[:, group], presence, bands,
            _titled("time", shard.time_unit), most // len(groups),
        )  # fmt: skip
        panels.append(panel)
        facts += left
    for reason, count in Counter(why for whose, _, _, why in shard.rejected if whose == name).most_common():
        remarks.append(f"{plural(count, 'observation')} left out by ingest: {reason}")
    return figures.Drawing(
        title=figures.printable(name) or "(empty id)",
        facts=[figures.printable(fact) for fact in dict.fromkeys(facts)],
        metadata=_metadata(shard.metadata_columns, shard.metadata[index]),
        remarks=[figures.printable(remark) for remark in remarks],
        panels=panels,
        description=figures.printable(f"Features of object {name} against time: {', '.join(facts)}."),
    )


def _panels_of(columns: Sequence["FeatureColumn"], own: Sequence[int]) -> list[list[int]]:
    """Returns which columns share a panel: the passbands of one quantity; all plain ones, where they are many."""
    plain = [at for at in own if not columns[at].passband and columns[at].kind in ("value", "error")]
    many = set(plain) if len(plain) > MOST_SERIES else set()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for at in own:
        column = columns[at]
        key = ("map",) if at in many else (column.source, column.column, column.kind, "" if column.passband else at)
        groups.setdefault(key, []).append(at)
    return list(groups.values())


def _presence(columns: Sequence["FeatureColumn"], features: np.ndarray, bands: Sequence[str]) -> np.ndarray | None:
    """Returns each step's passband, -1 where it has none or several; None where the features don't tell."""
    own = [at for at, column in enumerate(columns) if column.kind == "passband"]
    if not own:
        return None
    set_ = features[:, own] > 0
    index = np.array([bands.index(columns[at].passband) for at in own])
    return np.where(set_.sum(axis=1) == 1, index[set_.argmax(axis=1)], -1)


def _feature_panel(
    columns: Sequence["FeatureColumn"],
    time: np.ndarray,
    values: np.ndarray,
    presence: np.ndarray | None,
    bands: Sequence[str],
    time_title: str,
    most: int,
) -> tuple["Panel", list[str]]:
    """Returns the panel of columns that share one; values [step, column], NaN where a passband was not observed."""
    from jaxrnn.report import figures

    first = columns[0]
    if len(columns) > 1 and not first.passband:
        return _map(values, [column.name for column in columns], "", len(time) <= len(columns), most)
    places = [bands.index(column.passband) if column.passband else -1 for column in columns]
    names = figures.labels(bands)
    if first.kind == "passband":
        steps, which = np.nonzero(values > 0)
        rows = [
            {
                "x": float(time[step]),
                "band": names[places[at]],
                "text": f"{time[step]:.10g} · {figures.printable(bands[places[at]])}",
            }
            for step, at in zip(steps.tolist(), which.tolist(), strict=True)
        ][:most]
        left = [] if len(rows) == len(steps) else [f"passbands of the first {len(rows)} observations alone"]
        return figures.Panel("marks", time_title, "passband", _domain(time), (0, 1), rows), left
    title = first.name if len(columns) == 1 else first.column or first.name
    steps = np.tile(np.arange(len(time)), len(columns))
    flat = values.T.reshape(-1)
    band = np.repeat(places, len(time))
    if first.kind in ("value", "error") and places[0] < 0 and presence is not None and (presence >= 0).all():
        band = presence
    # a passband that was not observed at a step is no fault of this step
    seen = ~np.isnan(flat) if first.passband else np.ones(len(flat), dtype=bool)
    steps, flat, band = steps[seen], flat[seen], band[seen]
    coloured = band if (band >= 0).any() else None
    texts = [
        f"{time[step]:.10g} · {title} {_number(value)} {first.unit}".strip() + (f" · {bands[own]}" if own >= 0 else "")
        for step, value, own in zip(steps.tolist(), flat.tolist(), band.tolist(), strict=True)
    ]
    points = _Points(time[steps], flat, texts, ~np.isfinite(flat), passband=coloured)
    return _panel(points, bands, (time_title, _titled(title, first.unit)), _is_magnitude("", first.unit), most)


# Panels


@dataclass(frozen=True)
class _Points:
    """What is drawn of one quantity, a row an observation. passband: index, -1 for none; texts: shown on hover."""

    time: np.ndarray
    values: np.ndarray
    texts: Sequence[str]
    faulty: np.ndarray
    errors: np.ndarray | None = None
    passband: np.ndarray | None = None


def _panel(
    points: _Points, bands: Sequence[str], titles: tuple[str, str], reversed_: bool, most: int
) -> tuple["Panel", list[str]]:
    """Returns the panel of one quantity, and what is to be said of it where not all is drawn as it is."""
    from jaxrnn.report import figures

    time, values, errors, passband = points.time, points.values, points.errors, points.passband
    names = figures.labels(bands)
    texts = [figures.printable(text) for text in points.texts]
    good = np.flatnonzero(~points.faulty)
    drawn = good[_envelope(time[good], values[good], None if passband is None else passband[good], most)]
    said = []
    if len(drawn) < len(good):
        said.append(
            f"{len(drawn):,} of {len(good):,} observations drawn, the smallest and the largest of each stretch of time"
        )
    low, high = _frame(values[good], None if errors is None else errors[good], values)
    rows: list[dict[str, Any]] = []
    for at in map(int, drawn):
        row: dict[str, Any] = {"x": float(time[at]), "y": float(values[at]), "text": texts[at]}
        if errors is not None:
            # cut at the frame, which one huge error must not widen
            row |= {"low": max(low, float(values[at] - errors[at])), "high": min(high, float(values[at] + errors[at]))}
        if passband is not None and passband[at] >= 0:
            row["band"] = names[passband[at]]
        rows.append(row)
    placed = np.flatnonzero(points.faulty & _storable(time))
    if len(placed) > MOST_CROSSES:
        said.append(f"crosses for the first {MOST_CROSSES} of {len(placed):,} faulty observations")
    bottom = high if reversed_ else low
    crosses = [
        {
            "x": float(time[at]),
            "y": float(np.clip(values[at], low, high)) if np.isfinite(values[at]) else bottom,
            "text": texts[at],
        }
        for at in map(int, placed[:MOST_CROSSES])
    ]
    x, y = map(figures.printable, titles)
    kind = "line" if passband is None and errors is None else "points"
    return figures.Panel(kind, x, y, _domain(time[_storable(time)]), (low, high), rows, crosses, reversed_), said


def _envelope(time: np.ndarray, values: np.ndarray, passband: np.ndarray | None, most: int) -> np.ndarray:
    """Returns at most about `most` indices, by time: of each stretch its smallest and largest value, so that no outlier
    is lost."""
    order = np.argsort(time, kind="stable")
    if len(time) <= most:
        return order
    groups = [order] if passband is None else [order[passband[order] == band] for band in np.unique(passband)]
    kept: set[int] = set()
    for own in groups:
        stretches = max(1, most * len(own) // (2 * len(time)))
        for stretch in np.array_split(own, stretches):
            kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return np.array([at for at in order.tolist() if at in kept])


def _map(values: np.ndarray, names: Sequence[str], unit: str, downwards: bool, most: int) -> tuple["Panel", list[str]]:
    """Returns a map of step by column, in cells that may be means of several; downwards: steps go from top to bottom
    instead of from left to right."""
    from jaxrnn.report import figures

    sizes = [1, 1]
    counts = np.array(values.shape if values.size else (1, len(names)))
    while np.prod(cells := -(-counts // sizes)) > most:
        sizes[int(cells.argmax())] *= 2
    finite = _storable(values)
    starts = [np.arange(0, int(count), size) for count, size in zip(counts, sizes, strict=True)]
    rows, faults, remarks = [], [], []
    low, high = 0.0, 0.0
    if values.size:
        total = _summed(np.where(finite, values, 0.0), starts)
        filled = _summed(finite.astype(np.float64), starts)
        whole = _summed(np.ones_like(values), starts)
        means = np.divide(total, filled, out=np.full(total.shape, np.nan), where=filled > 0)
        if finite.any():
            low, high = float(np.nanmin(means)), float(np.nanmax(means))
        for i, step in enumerate(starts[0].tolist()):
            for j, at in enumerate(starts[1].tolist()):
                ends = min(step + sizes[0], int(counts[0])), min(at + sizes[1], int(counts[1]))
                place = {"x": step, "x2": ends[0], "y": at, "y2": ends[1]}
                if downwards:
                    place = {"x": at, "x2": ends[1], "y": step, "y2": ends[0]}
                column = names[at] if ends[1] == at + 1 else f"{names[at]} to {names[ends[1] - 1]}"
                when = f"step {step}" if ends[0] == step + 1 else f"steps {step} to {ends[0] - 1}"
                text = figures.printable(f"{when} · {column} {_number(means[i, j])} {unit}".strip())
                if filled[i, j]:
                    share = (means[i, j] - low) / (high - low) if high > low else 0.5
                    rows.append({**place, "share": float(share), "text": text})
                if filled[i, j] < whole[i, j] and len(faults) < MOST_CROSSES:
                    middle = {"x": (place["x"] + place["x2"]) / 2, "y": (place["y"] + place["y2"]) / 2}
                    faults.append({**middle, "text": f"{text} · not finite"})
    remarks.append(f"{_number(low)} (palest) to {_number(high)} {unit}".strip())
    if sizes != [1, 1]:
        remarks.append(f"a cell is the mean of {sizes[0]} steps by {sizes[1]} columns")
    columns = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    along, across = ("step", float(counts[0])), (figures.printable(columns), float(counts[1]))
    (x, right), (y, bottom) = (across, along) if downwards else (along, across)
    return figures.Panel("map", x, y, (0, right), (0, bottom), rows, faults), remarks


def _summed(values: np.ndarray, starts: Sequence[np.ndarray]) -> np.ndarray:
    return np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)


def _domain(values: np.ndarray) -> tuple[float, float]:
    """Returns the ends of a frame a little wider than the values, which are finite."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _frame(good: np.ndarray, errors: np.ndarray | None, every: np.ndarray) -> tuple[float, float]:
    """Returns the ends of a frame for values and their error bars, of which none takes more than half the frame."""
    if not len(good):
        return _domain(every[_storable(every)])
    if errors is None:
        return _domain(good)
    reach = (good.max() - good.min()) or float(np.median(errors))
    lowest, highest = np.maximum(good - errors, good.min() - reach), np.minimum(good + errors, good.max() + reach)
    return _domain(np.concatenate([lowest, highest]))


def _is_magnitude(name: str, unit: str) -> bool:
    return bool(re.search(r"\bmag(nitudes?)?\b", unit, re.I) or re.match(r"(mag|magnitude)(_|$)", name, re.I)) and not (
        name.endswith("_error")
    )


def _titled(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _number(value: float) -> str:
    return f"{float(value):.6g}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else str(float(value))


# The page


def _write(
    drawn: Sequence[tuple[str, "Drawing"]], bands: Sequence[str], wanted: Wanted, facts: Sequence[str], output: Path
) -> str:
    """Writes the drawings, by class where none was named, and returns in a sentence what they are."""
    from jaxrnn.report import figures

    by_class = not wanted.objects and any(label for label, _ in drawn)
    twice = {title for title, count in Counter(each.title for _, each in drawn).items() if count > 1}
    sections: dict[str, list[Drawing]] = {}
    for label, each in drawn:
        if each.title in twice:
            each = replace(each, remarks=["this id stands more than once in the survey", *each.remarks])
        section = figures.printable(_label(label)) if by_class else ""
        sections.setdefault(section, []).append(each)
    title = plural(len(drawn), "object")
    if len(sections) > 1 and not wanted.together:
        title += f" of {len(sections)} classes"
    facts = [figures.printable(fact) for fact in facts]
    if not wanted.objects:
        of = "in all" if wanted.together else "a class"
        facts.append(f"at most {wanted.per_class} {of}, by seed {wanted.seed}")
    if any(panel.faults for _, each in drawn for panel in each.panels):
        facts.append("crosses are faulty observations")
    if output.suffix.lower() == ".html":
        results.write_text(output, _html(title, sections, bands, facts))
    else:
        figure = figures.drawings(title, sections, bands, textwrap.shorten(" · ".join(facts), 150, placeholder=" …"))
        if output.suffix.lower() == ".svg":
            results.write_text(output, figure.svg)
        else:
            with results.written_whole(output) as temporary:
                temporary.write_bytes(figure.png())
    counts = f" ({listed([f'{name} {len(own)}' for name, own in sections.items()], 20)})" if by_class else ""
    faulty = sum(1 for _, each in drawn if any("faulty" in remark for remark in each.remarks))
    told = f"; faulty observations in {plural(faulty, 'object')} of them" if faulty else ""
    return f"{title}{counts} drawn in {output}{told}"


def _html(title: str, sections: Mapping[str, Sequence["Drawing"]], bands: Sequence[str], facts: Iterable[str]) -> str:
    import base64

    import jinja2
    from markupsafe import Markup

    from jaxrnn import __version__
    from jaxrnn.report import figures

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    cards = []
    for place, (name, group) in enumerate(sections.items()):
        own = []
        for index, each in enumerate(group):
            drawn = figures.panels(f"o{place}-{index}", each, bands)
            own.append({"drawn": each, "panels": [(Markup(figure.inline()), figure.width) for figure in drawn]})
        cards.append({"name": name, "cards": own})
    return environment.get_template("view.html.j2").render(
        title=title,
        facts=list(facts),
        version=__version__,
        figure_style=Markup(figures.stylesheet()),
        key=Markup(figures.passbands(bands).inline()) if bands else None,
        sections=cards,
    )
