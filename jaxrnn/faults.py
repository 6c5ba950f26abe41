"""Faults of survey data: found the same way whatever the reader, and either fatal or accounted for row by row."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxrnn import cuts, features, grouping
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Reader, Sequences, Survey
from jaxrnn.shards import WHOLE_OBJECT

Rejected = tuple[str, str, int, str]  # object, file, row (-1: the whole object), reason
# Quoted text, and numbers that are no piece of a name.
OWN = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|(?<![\w.^-])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w^-])""")
TWICE = "stands twice; the first is kept"


class _Marks:
    """The first fault found at each place (an object or a row), as a number that stands for its kind and reason."""

    def __init__(self, count: int) -> None:
        self.codes = np.zeros(count, dtype=np.int32)
        self.texts: list[tuple[str, str]] = [("", "")]

    def add(self, kind: str, reason: str, where: np.ndarray) -> None:
        where = where & (self.codes == 0)
        if where.any():
            self.codes[where] = len(self.texts)
            self.texts.append((kind, reason))

    def add_all(self, kind: str, reasons: np.ndarray | None) -> None:
        """Adds the reasons that a reader gave, "" where there is none."""
        if reasons is not None:
            for reason in dict.fromkeys(reasons[reasons != ""].tolist()):
                self.add("orphan" if reason == grouping.ORPHAN else kind, str(reason), reasons == reason)


def without(
    data: Data, survey: Survey, raw: Sequences, reader: Reader, elsewhere: frozenset[str] = frozenset()
) -> tuple[Sequences, list[Rejected]]:
    """Returns the sequences that stand every check, and a row for each object or observation that does not.

    elsewhere: ids of objects that stand in an earlier shard. Raises JaxrnnError for the first fault of a kind that
    `data.on_error` doesn't reject.
    """
    rows = _row_faults(data, survey, raw)
    owner = cuts.owners(raw)
    lengths = np.diff(raw.offsets)
    left = np.bincount(owner[rows.codes == 0], minlength=len(raw.ids))
    objects = _Marks(len(raw.ids))
    objects.add("row", "no id", raw.ids == "")
    objects.add("duplicate", TWICE, _repeated(raw.ids) | np.isin(raw.ids, sorted(elsewhere)))
    objects.add_all("row", raw.object_faults)
    if survey.labelled and not survey.gives_step_labels:
        objects.add("label", "no label", raw.labels == "")
    used = _metadata_used(data, survey)
    for index in used:
        objects.add(
            "metadata", f"{survey.metadata[index].name} missing or not finite", ~_storable(raw.metadata[:, index])
        )
    objects.add("empty", "no observations", lengths == 0)
    objects.add("empty", "every observation was rejected", left == 0)
    _stop(data, raw, objects, rows, owner, reader)
    rejected = _rejected_objects(raw, objects)
    for row in np.flatnonzero(rows.codes):
        reason = rows.texts[rows.codes[row]][1]
        rejected.append((str(raw.ids[owner[row]]), _file(raw, int(row), None), int(raw.row_numbers[row]), reason))
    return cuts.kept(raw, objects.codes == 0, rows.codes == 0), rejected


def by_time(sequences: Sequences) -> Sequences:
    """Returns the sequences with each one's observations in order of time; equal times keep the file's order."""
    owner = cuts.owners(sequences)
    later = sequences.time[1:] < sequences.time[:-1]
    if not (later & (owner[1:] == owner[:-1])).any():
        return sequences
    order = np.lexsort((sequences.time, owner))
    arrays = {name: getattr(sequences, name) for name in cuts.PER_ROW}
    return replace(sequences, **{name: array[order] for name, array in arrays.items() if array is not None})


def repeated(sequences: Sequences) -> tuple[int, int]:
    """Returns how many observations have the time and passband of another one of their object, and how many of these
    equal it in every value too: copies of a row, most likely. The sequences are sorted by time."""
    owner = cuts.owners(sequences)
    same = (sequences.time[1:] == sequences.time[:-1]) & (owner[1:] == owner[:-1])
    if not same.any():
        return 0, 0
    rows = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    keys = [owner[rows], sequences.time[rows], sequences.passband[rows]]
    columns = [*keys, *sequences.values[rows].T]
    order = np.lexsort(columns[::-1])
    equal = [column[order][1:] == column[order][:-1] for column in columns]
    times = np.logical_and.reduce(equal[: len(keys)])
    return int(times.sum()), int(np.logical_and.reduce([times, *equal[len(keys) :]]).sum())


def alike(reason: str, file: str) -> str:
    """Returns a reason without what is one file's or row's own: its name, numbers and quoted text. Reasons that differ
    in nothing else are counted as one."""
    path = Path(file)
    for name in (file, path.name, path.stem):
        if len(name) > 2:
            reason = reason.replace(name, "...")
    return OWN.sub("...", reason)


def _row_faults(data: Data, survey: Survey, raw: Sequences) -> _Marks:
    rows = _Marks(len(raw.time))
    rows.add_all("row", raw.row_faults)
    rows.add("value", "time not finite", ~_storable(raw.time))
    if survey.passbands:
        rows.add("passband", f"passband is none of {', '.join(survey.passbands)}", raw.passband < 0)
    positive = features.positive(data, survey)
    for index, column in enumerate(survey.columns):
        values = raw.values[:, index]
        rows.add("value", f"{column.name} not finite", ~_storable(values))
        if column.name in survey.error_columns:
            rows.add("error", f"{column.name} not positive", values <= 0)
        elif column.name in positive:
            rows.add("value", f"{column.name} not positive, and its logarithm is asked for", values <= 0)
    if survey.gives_step_labels and raw.step_labels is not None:
        rows.add("label", "no label", raw.step_labels == "")
    return rows


def _metadata_used(data: Data, survey: Survey) -> list[int]:
    names = [column.name for column in survey.metadata]
    around = [] if data.cuts.window is None else [data.cuts.window.around]
    return [names.index(name) for name in dict.fromkeys([*data.metadata, *around]) if name in names]


def _repeated(ids: np.ndarray) -> np.ndarray:
    """Returns which ids stood earlier already, [object] bool."""
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), dtype=bool)
    repeated[first] = False
    return repeated


def _storable(values: np.ndarray) -> np.ndarray:
    """Returns which values are finite, also in the single precision of shards."""
    return np.abs(values) <= np.finfo(np.float32).max


def _stop(data: Data, raw: Sequences, objects: _Marks, rows: _Marks, owner: np.ndarray, reader: Reader) -> None:
    """Raises JaxrnnError for the first fault whose kind `data.on_error` doesn't reject, rows before objects."""
    for marks, are_rows in ((rows, True), (objects, False)):
        fatal = [code for code, (kind, _) in enumerate(marks.texts) if code and not data.rejects(kind)]
        places = np.flatnonzero(np.isin(marks.codes, fatal))
        if not len(places):
            continue
        kind, reason = marks.texts[marks.codes[places[0]]]
        place = int(places[0])
        if are_rows:
            file = _file(raw, place, None)
            (row,) = reader.rows_at(file, raw.row_numbers[place : place + 1])
            where = f"{file}: object {raw.ids[owner[place]]}, row {row}"
        else:
            where = f"{_file(raw, None, place)}: object {raw.ids[place]}"
        more = f" ({len(places) - 1} more faults in this part of the survey)" if len(places) > 1 else ""
        raise JaxrnnError(
            f"{where}: {reason}{more}; mend the file, or set `data.on_error: reject` (or `{{{kind}: reject}}`, for "
            "faults of this kind alone) to leave out what is faulty and account for it"
        )


def _rejected_objects(raw: Sequences, objects: _Marks) -> list[Rejected]:
    return [
        (str(raw.ids[index]), _file(raw, None, int(index)), WHOLE_OBJECT, objects.texts[objects.codes[index]][1])
        for index in np.flatnonzero(objects.codes)
    ]


def _file(raw: Sequences, row: int | None, index: int | None) -> str:
    places, place = (raw.object_file, index) if row is None else (raw.row_file, row)
    return raw.files[0 if places is None else int(places[place])]
