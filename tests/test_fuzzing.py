"""Mutated surveys of every format: each is read as it stands, or refused with one message, and nothing else happens.

`JAXRNN_FUZZ=100000 pytest tests/test_fuzzing.py` draws that many mutations for each reader, other ones every time.
"""

import gc
import gzip
import io
import json
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from samples import Sample
from test_readers import all_parts, check_shapes, write_sample

from jaxrnn import grouping, ingest, readers, shards
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks
from jaxrnn.readers import READERS, SPLITS, Reader, SequenceReader, Sequences, Survey, open_reader

# Readers import these when they need them: what Python compiles then would count as written by a reader.
for _name in (
    "astropy.io.fits",
    "h5py",
    "pandas",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "scipy.io.wavfile",
):
    import_module(_name)

EXAMPLES = int(os.environ.get("JAXRNN_FUZZ", 0))
# Of the mutations, at least `ALL` together, fewer where each takes half a second.
ALL, FEWER = 10_000, {"snana_fits": 150}
OTHERS = -(-(ALL - sum(FEWER.values())) // (len(READERS) - len(FEWER)))
MEMORY_BYTES, SECONDS, MESSAGE_LENGTH = 1 << 30, 10, 2000
# In how small parts a survey is read, and compared with how it is read whole; 0: it is ingested instead.
BUDGETS = (0, 40, 500)
DRAWN = (*BUDGETS, *[500] * 5)  # the quickest most often
# Files in memory where there are such: every example writes some.
FOLDER = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Edit:
    """Bytes start to stop of a file become others. `name!member` is the member of an archive, `name!` the content of a
    gzip file: edited and packed again, so that no checksum tells."""

    file: str
    start: int
    stop: int
    content: bytes


@dataclass
class Place:
    """A sample on disk that edits are tried on. parts: the names of each part's files, and its objects."""

    name: str
    root: Path
    sample: Sample
    data: Data
    described: Survey
    contents: dict[str, bytes]
    parts: list[tuple[set[str], Counter[str]]] = field(default_factory=list)

    @property
    def survey(self) -> Path:
        return self.root / "survey"

    @property
    def scratch(self) -> Path:
        """The one folder that may be written to; also for temporary files."""
        return self.root / "scratch"


@contextmanager
def place(name: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="jaxrnn-fuzz-", dir=FOLDER) as temporary:
        root = Path(temporary)
        sample = write_sample(name, root / "survey")
        (root / "scratch").mkdir()
        contents = {str(file.relative_to(root / "survey")): file.read_bytes() for file in all_files(root / "survey")}
        reader = open_reader(name, sample.path, sample.options)
        survey = reader.describe()
        size = sum(part.bytes for _, part in all_parts(reader, 10**9))
        features = ["time_difference", *(column.name for column in survey.columns)]
        data = Data.model_validate({
            "reader": name,
            "path": str(sample.path),
            "options": sample.options,
            "features": [*features, "passband"] if survey.passbands else features,
            "metadata": [column.name for column in survey.metadata],
            "on_error": "reject",
            "most_rejected": 1,
            "shard_mb": size / 3e6,  # a few shards
            "cuts": {"max_steps": 6},
        })  # fmt: skip
        here = Place(name, root, sample, data, survey, contents)
        if isinstance(reader, SequenceReader):
            for part in reader.parts(300):
                names = {str(file.relative_to(here.survey)) for file in part.files}
                here.parts.append((names, objects(reader.read(part), survey)))
        yield here


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- mutations

WHOLE_NUMBERS = (
    0,
    1,
    2,
    -1,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
)
NUMBERS = [
    *(b"", b"nan", b"NaN", b"inf", b"-inf", b"1e400", b"-1e400", b"1e39", b"1e-400", b"-0", b"0", b"-1", b"1", b"2"),
    *(b"9" * 25, b"-" + b"9" * 400, b"2147483648", b"9223372036854775808", b"4294967296", b"1_000", b"0x10", b"1,5"),
    *(b" 7 ", b"+3", b"3.", b".5", b"1e", b"--1", b"True", b"null", b"\xd9\xa3", b"3j", b"1d5", b"007", b"1e5"),
]
TOKENS = [
    *(b"\0", b"\n", b"\r", b"\r\n", b",", b";", b"\t", b" ", b'"', b"'", b'""', b"#", b":", b"@", b"/", b"\\", b"\x1a"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", "é".encode(), "\u2028".encode(), b"\x1b[2J"),
    *(b"..", b"../../etc/passwd", b"/etc/passwd", b"%s", b"{}", b"?", b"NULL", b"END:", b"nan", b"\x80\x04."),
    b'c__builtin__\neval\n(S\'open("/tmp/x","w")\'\ntR.',
]
NUMBER, WORD = re.compile(rb"[-+]?\d[\d.eE+-]*"), re.compile(rb"@?[A-Za-z_]\w*")


def views(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Returns what edits may be made to: the files, and what is packed in them."""
    found = dict(contents)
    for name, content in contents.items():
        if content[:2] == b"\x1f\x8b":
            found[f"{name}!"] = gzip.decompress(content)
        if content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                found |= {f"{name}!{member}": archive.read(member) for member in archive.namelist()}
    return found


@st.composite
def edits(draw: st.DrawFn, contents: dict[str, bytes]) -> Edit:
    """Draws a change of one of these files."""
    file = draw(st.sampled_from(sorted(contents)))
    content = contents[file]
    size = len(content)
    # the beginning and the end of binary files say what the rest is
    near = st.integers(0, min(size, 160)) | st.integers(0, size) | st.integers(max(0, size - 300), size)

    def some() -> tuple[int, int]:
        start = draw(near)
        return start, min(size, start + draw(st.sampled_from([1, 2, 3, 4, 8, 16, 60, 400])))

    def change(start: int, stop: int, replaced: bytes) -> Edit:
        return Edit(file, start, stop, replaced)

    def flip() -> Edit:
        start = min(draw(near), size - 1)
        return change(start, start + 1, bytes([content[start] ^ (1 << draw(st.integers(0, 7)))]))

    def byte() -> Edit:
        start = draw(near)
        return change(start, start + 1, bytes([draw(st.integers(0, 255))]))

    def truncate() -> Edit:
        return change(draw(near), size, b"")

    def delete() -> Edit:
        return change(*some(), b"")

    def insert() -> Edit:
        start = draw(near)
        return change(start, start, draw(st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=6)))

    def repeat() -> Edit:
        start, stop = some()
        return change(start, start, content[start:stop] * draw(st.sampled_from([1, 2, 50])))

    def splice() -> Edit:
        other = contents[draw(st.sampled_from(sorted(contents)))]
        begin = draw(st.integers(0, len(other)))
        start, stop = some()
        return change(start, stop, other[begin : begin + draw(st.sampled_from([stop - start, 30, len(other)]))])

    def whole() -> Edit:
        other = contents[draw(st.sampled_from(sorted(contents)))]
        return change(
            0, size, draw(st.sampled_from([other, b"", b"\0" * 64, b"[]", b"no survey\n" * 9, b"\n", content * 2]))
        )

    def number() -> Edit:
        kind = draw(st.sampled_from(["<h", ">h", "<i", ">i", "<q", ">q", "<d", ">d"]))
        if kind[1] == "d":
            packed = struct.pack(
                kind, draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e308, 1e39, -0.0, 5e-324, -1.0]))
            )
        else:
            length = struct.calcsize(kind)
            value = draw(st.sampled_from(WHOLE_NUMBERS)) % 2 ** (8 * length)
            packed = value.to_bytes(length, "little" if kind[0] == "<" else "big")
        start = draw(near)
        return change(start, start + len(packed), packed)

    def match(pattern: re.Pattern[bytes], replacements: list[bytes]) -> Edit:
        found = list(pattern.finditer(content))
        if not found:
            return insert()
        # the first ones are the header's
        one = found[draw(st.integers(0, min(len(found), 12) - 1) | st.integers(0, len(found) - 1))]
        return change(*one.span(), draw(st.sampled_from(replacements)))

    def text_number() -> Edit:
        return match(NUMBER, NUMBERS)

    def text_word() -> Edit:
        words = sorted(set(WORD.findall(content)))[:200]
        return match(WORD, [*words, *NUMBERS, *TOKENS, b"a" * 3000])

    def lines() -> Edit:
        every = content.splitlines(keepends=True)
        if len(every) < 2:
            return repeat()
        ends = np.cumsum([0, *map(len, every)]).tolist()
        first, second = sorted(draw(st.tuples(*[st.integers(0, len(every) - 1)] * 2)))
        middle = b"".join(every[first + 1 : second])
        kinds = [
            change(ends[first], ends[second + 1], every[second] + middle + every[first]),
            change(ends[first], ends[first + 1], b""),
            change(ends[second], ends[second], every[first]),
            change(ends[first], ends[first + 1], every[first].rstrip(b"\r\n")),
            change(ends[first], ends[first + 1], b'"' + every[first]),
        ]
        return draw(st.sampled_from(kinds))

    is_text = b"\0" not in content
    anywhere = [flip, byte, truncate, delete, insert, repeat, splice, whole]
    special = (
        [text_number, text_number, text_word, text_word, lines] if is_text else [number, number, number, text_word]
    )
    return draw(st.sampled_from([*special, *anywhere] if size else [insert, splice]))()


def applied(contents: dict[str, bytes], changes: tuple[Edit, ...]) -> dict[str, bytes]:
    """Returns the files that the edits change, as they are then; what is packed is changed first."""
    changed: dict[str, bytes] = {}
    inner = views(contents)
    for edit in changes:
        if "!" in edit.file:
            inner[edit.file] = inner[edit.file][: edit.start] + edit.content + inner[edit.file][edit.stop :]
            changed[edit.file.partition("!")[0]] = b""
    for name in changed:
        if f"{name}!" in inner:
            changed[name] = gzip.compress(inner[f"{name}!"], 1, mtime=0)
        else:
            with io.BytesIO() as packed:
                with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                    for view, content in inner.items():
                        if view.startswith(f"{name}!"):
                            archive.writestr(view.partition("!")[2], content)
                changed[name] = packed.getvalue()
    for edit in changes:
        if "!" not in edit.file:
            content = changed.get(edit.file, contents[edit.file])
            changed[edit.file] = content[: edit.start] + edit.content + content[edit.stop :]
    return changed


# ---------------------------------------------------------------- what may come of it


def assert_holds(here: Place, changes: tuple[Edit, ...], budget: int) -> None:
    """Asserts that the survey with these changes is read as the contract says, or refused with one message."""
    changed = applied(here.contents, changes)
    for name, content in changed.items():
        (here.survey / name).write_bytes(content)
    try:
        with guarded(here):
            try:
                if budget:
                    assert_read(here, budget, set(changed))
                else:
                    assert_ingested(here)
            except JaxrnnError as error:
                assert_message(here, str(error))
        assert {str(f.relative_to(here.survey)) for f in all_files(here.survey)} == here.contents.keys()
        assert all((here.survey / name).read_bytes() == content for name, content in changed.items())
    finally:
        for name in changed:
            (here.survey / name).write_bytes(here.contents[name])
        for entry in here.scratch.iterdir():
            shutil.rmtree(entry)


def assert_message(here: Place, message: str) -> None:
    assert str(here.sample.path) in message or "data." in message, message
    assert len(message) < MESSAGE_LENGTH, f"{len(message)} characters: {message}"
    assert message.replace("\n", "", 3).isprintable(), repr(message)


def assert_read(here: Place, budget: int, changed: set[str]) -> None:
    reader = open_reader(here.name, here.sample.path, here.sample.options)
    survey = reader.describe()
    assert_described(survey)
    files = reader.files()
    assert files and len(set(files)) == len(files) and all(file.is_file() for file in files)
    found, unreadable = everything(here, reader, survey, 10**9)
    again, unreadable_again = everything(here, reader, survey, budget)
    for message in [*unreadable, *unreadable_again]:
        assert_message(here, message)
    if not unreadable and not unreadable_again:
        assert objects(found, survey) == objects(again, survey), "another budget reads something else"
    # what stands in other files is as it was
    if survey == here.described and set().union(*(names for names, _ in here.parts)) >= changed:
        untouched = sum((held for names, held in here.parts if not names & changed), start=Counter())
        assert untouched <= objects(found, survey)


def assert_described(survey: Survey) -> None:
    columns = [column.name for column in survey.columns]
    metadata = [column.name for column in survey.metadata]
    for names in (columns, metadata, survey.passbands):
        assert len(set(names)) == len(names) and all(isinstance(name, str) for name in names), names
    assert {*survey.error_columns, *survey.flag_columns} <= set(columns)
    assert all(isinstance(column.unit, str) for column in (*survey.columns, *survey.metadata))
    assert survey.time_unit


def everything(here: Place, reader: Reader, survey: Survey, budget: int) -> tuple[Sequences, list[str]]:
    """Returns all that a reader reads in parts of this budget, and the messages of the parts that can't be read."""
    unreadable: list[str] = []
    if isinstance(reader, SequenceReader):
        pieces = [ingest._nothing(survey)]
        for part in reader.parts(budget):
            try:
                piece = reader.read(part)
            except JaxrnnError as error:
                unreadable.append(str(error))
                continue
            assert_sequences(piece, survey)
            pieces.append(piece)
        return readers.joined(pieces[1:] or pieces), unreadable
    assert isinstance(reader, readers.RowReader)
    folders: dict[str, list[Path]] = {"objects": [], "observations": []}
    for kind, parts in (
        ("objects", reader.object_parts(budget)),
        ("observations", reader.observation_parts(budget)),
    ):
        read = reader.read_objects if kind == "objects" else reader.read_observations
        for part in parts:
            target = here.scratch / f"{budget}" / f"{kind}-{len(folders[kind])}"
            try:
                grouping.scatter(target, 2, lambda part=part, read=read: read(part))
            except JaxrnnError as error:
                unreadable.append(str(error))
                grouping.scatter(target, 2, lambda: iter(()), unreadable=("", str(error)))
            folders[kind].append(target)
    both = [grouping.gather(partition, folders["objects"], folders["observations"], survey) for partition in range(2)]
    for piece in both:
        assert_sequences(piece, survey)
    for piece in both:
        for place in range(len(piece.time))[:: max(1, len(piece.time) // 5)]:
            file = piece.files[0 if piece.row_file is None else piece.row_file[place]]
            assert reader.rows_at(file, piece.row_numbers[place : place + 1]) >= 0
    return readers.joined(both), unreadable


def assert_sequences(found: Sequences, survey: Survey) -> None:
    check_shapes(found, survey)
    assert ((found.passband >= -1) & (found.passband < max(1, len(survey.passbands)))).all()
    assert (found.row_numbers >= 0).all()
    assert found.metadata.dtype == np.float64
    assert (found.splits is not None) == survey.gives_splits or not len(found.ids)
    assert (found.step_labels is not None) == survey.gives_step_labels or not len(found.time)
    if found.splits is not None:
        readable = np.full(len(found.ids), True) if found.object_faults is None else found.object_faults == ""
        assert set(found.splits[readable]) <= set(SPLITS)
    for texts in (found.ids, found.labels, found.splits, found.groups, found.step_labels, found.object_faults):
        for text in [] if texts is None else texts.tolist():
            assert isinstance(text, str)
            text.encode()
    for faults in (found.row_faults, found.object_faults):
        for fault in set() if faults is None else set(faults.tolist()):
            assert isinstance(fault, str) and len(fault) < MESSAGE_LENGTH
    for places, rows in ((found.row_file, found.time), (found.object_file, found.ids)):
        assert places is None or not len(rows) or (places.min() >= 0 and places.max() < len(found.files))


def objects(found: Sequences, survey: Survey) -> Counter[str]:
    """Returns all objects in a form that compares, whatever their order."""
    return Counter(
        repr(
            (
                str(found.ids[place]),
                str(found.labels[place]),
                found.metadata[place].tobytes(),
                *("" if table is None else str(table[place]) for table in (found.splits, found.groups)),
                bool(found.object_faults is not None and found.object_faults[place]),
                *(table[start:stop].tobytes() for table in (found.time, found.values, found.passband)),
                () if found.step_labels is None else tuple(found.step_labels[start:stop].tolist()),
                [] if found.row_faults is None else np.flatnonzero(found.row_faults[start:stop] != "").tolist(),
            )
        )
        for place, (start, stop) in enumerate(zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True))
    )


def assert_ingested(here: Place) -> None:
    """Asserts that ingest accounts for every object and observation; raises its JaxrnnError."""
    folder = here.scratch / "dataset"
    manifest = ingest.ingest(here.data, here.sample.path, folder, Ranks(), lambda done, total: None)
    counts = manifest["counts"]
    assert counts["objects_in"] == counts["objects_out"] + counts["objects_rejected"] + counts["objects_cut"]
    left = counts["observations_out"] + counts["observations_rejected"] + counts["observations_cut"]
    assert counts["observations_in"] == left
    written = [shards.read(folder / entry["file"]) for entry in manifest["shards"]]
    ids = [identity for shard in written for identity in shard.ids.tolist()]
    assert len(set(ids)) == len(ids) == counts["objects_out"] and "" not in ids
    for shard in written:
        assert (shard.lengths > 0).all() and np.isfinite(shard.time).all()
        assert np.isfinite(shard.features).all() and np.isfinite(shard.metadata).all()
        assert shard.splits is None or set(shard.splits) <= set(SPLITS)
    json.loads((folder / "manifest.json").read_text())


# ---------------------------------------------------------------- what must not happen beside it

_watched: list[Path] = []
_seen: list[str] = []
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "ctypes.dlopen", "pty.")
WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event.startswith(FORBIDDEN) or (event == "pickle.find_class" and not str(arguments[0]).startswith("numpy")):
        _seen.append(f"{event} {arguments}")
    elif (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ) or (event.startswith(WRITES) and arguments[-1] == -1):
        _written(arguments[0])


def _written(path: object) -> None:
    if isinstance(path, str | bytes | os.PathLike) and not Path(os.fsdecode(path)).is_relative_to(_watched[0]):
        _seen.append(f"{os.fsdecode(path)} is written")


sys.addaudithook(_watch)


@contextmanager
def guarded(here: Place) -> Iterator[None]:
    """Asserts that nothing is run, nothing written elsewhere, no file left open and nobody warned."""
    files_before = set(open_files())
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    temporary, tempfile.tempdir = tempfile.tempdir, str(here.scratch)
    _seen.clear()
    _watched.append(here.scratch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
            if set(open_files()) - files_before:
                gc.collect()
    finally:
        _watched.clear()
        sys.unraisablehook = hook
        tempfile.tempdir = temporary
    left = set(open_files()) - files_before
    assert not left, f"left open: {left}"
    assert not unraisable, [str(entry.exc_value) for entry in unraisable]
    assert not _seen, _seen


def open_files() -> list[str]:
    found = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except OSError:
            continue
        if target.startswith("/") and "/survey/" in target:
            found.append(f"{entry.name}: {target}")
    return found


@contextmanager
def limited_memory() -> Iterator[None]:
    """A process that asks for much more memory than it has now gets none."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def alike_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis also draws the constants of those modules that happen to be loaded: others beside other tests."""
    if not EXAMPLES:
        monkeypatch.setattr(providers, "_get_local_constants", Constants)
        providers.CONSTANTS_CACHE.cache.clear()


@pytest.mark.timeout(600 + EXAMPLES)
@pytest.mark.usefixtures("alike_everywhere")
@pytest.mark.parametrize("name", list(READERS))
def test_mutated_surveys_are_read_or_refused(name: str) -> None:
    with place(name) as here:
        for budget in BUDGETS:
            assert_holds(here, (), budget)
        choices = views(here.contents)

        @settings(
            max_examples=EXAMPLES or FEWER.get(name, OTHERS),
            derandomize=not EXAMPLES,
            database=None,
            deadline=1000 * SECONDS,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )
        @given(st.lists(edits(choices), min_size=1, max_size=3).map(tuple), st.sampled_from(DRAWN))
        def holds(changes: tuple[Edit, ...], budget: int) -> None:
            assert_holds(here, changes, budget)

        with limited_memory():
            holds()


# What once failed in several places: reader and edits.
FAILED_TOGETHER = {
    "snana_csv": (
        Edit("DES_A_HEAD.csv", 109, 110, b""), Edit("DES_A_HEAD.csv", 4, 723, b""),
        Edit("DES_B_HEAD.csv.gz", 0, 2, b"\0\0"),
    ),
    "table": (Edit("a.csv", 49, 67, b""), Edit("b.csv", 405, 412, b"\xff"), Edit("b.csv", 74, 81, b"\0")),
    "table again": (Edit("a.csv", 49, 67, b""), Edit("b.csv", 69, 69, b'""'), Edit("b.csv", 151, 155, b"")),
    "ts": (Edit("Small_TEST.ts", 49, 54, 3000 * b"a"),),
    "plasticc": (Edit("training_set_batch1.csv", 47, 47, b"\r"),),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILED_TOGETHER)
def test_what_once_failed_in_several_places(name: str) -> None:
    with place(name.removesuffix(" again")) as here:
        for budget in BUDGETS:
            assert_holds(here, FAILED_TOGETHER[name], budget)


# What once failed: reader, file, what becomes what. None: all of the file.
FAILED: list[tuple[str, str, bytes | None, bytes]] = [
    # an unsigned number for a passband that is none became index 255
    ("spcc", "spcc_lightcurves.npz!band.npy", b"\x01\x02\x01\x00\x03\x02\x03\x01\x02\x00", b"\x09" * 10),
    # NumPy warned of a signalling NaN, and of a header that Python 2 might have written
    ("spcc", "spcc_lightcurves.npz!flux_err.npy", b"\n", b"\n" + b"\x01\x00\x80\x7f"),
    ("spcc", "spcc_lightcurves.npz!mjd.npy", b"False, 'shape': (", b"False, 'shape': (\n"),
    ("goto", "test_contextual_features.npy", b", }", b", }\n"),
    # a buffer for the largest text was made for every file
    ("csv_folder", "validation/rrlyrae/star_7.csv.gz!", b"hjd", b"hjd"),
    ("csv_folder", "validation/rrlyrae/star_7.csv.gz!", b"hjd", b"a" * 3000),
    ("csv_folder", "stars.csv", b",", b"," + b"a" * 3000),
    # text that is no UTF-8, and is taken for it
    ("simulated", "objects-00001.parquet", b"00000006", b"0000000\xff"),
    ("simulated", "observations-00001.parquet", b"00000006", b"0000000\xff"),
    # text that is none: ids of a table, and columns that FITS lets be ASCII alone
    ("table", "d.parquet", b"\x000003\r\x08 8\x04\x00\x00", b"\x00\x80003\r\x08 8\x04\x00\x00"),
    ("snana_fits", "MODEL0-0001_PHOT.FITS", b"     END", b"     END\x00"),
    ("snana_fits", "MODEL0-0001_HEAD.FITS", b"     END       ", b"     END     END       "),
    # HDF5 reads zeros where a data set's stored size is smaller than its shape: 51 times of 8 bytes here
    ("hdf5", "survey.h5", (51 * 8).to_bytes(8, "little"), (256).to_bytes(8, "little")),
    # a number of objects that no memory holds, and one by which all would be left out without a word
    ("simulated", "survey.json", b'"count": 6', b'"count": 1e39'),
    ("simulated", "survey.json", b'"count": 6', b'"count": 0'),
    ("simulated", "survey.json", b'"count": 6', b'"count": -6'),
    ("simulated", "survey.json", b'"count": 6', b'"count": NaN'),
    # messages of thousands of characters, and such that steer the terminal
    ("pickle", "waves.pkl", None, b"F" + b"x" * 5000 + b"\n."),
    ("pickle", "waves.pkl", b"multiarray", b"multi\x1b[2Jy"),
    ("plasticc", "training_set_batch2.csv.gz!", b"flux_err", b"\x1b[2J"),
    ("snana_text", "DES_SN011.DAT.gz!", b"FLUXCAL ", b"\x05LUXCAL "),
]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("name", "file", "was", "becomes"), FAILED)
def test_what_once_failed(name: str, file: str, was: bytes | None, becomes: bytes, budget: int) -> None:
    with place(name) as here:
        content = views(here.contents)[file]
        start, stop = (0, len(content)) if was is None else (content.rindex(was), content.rindex(was) + len(was))
        assert_holds(here, (), budget)
        with limited_memory():
            assert_holds(here, (Edit(file, start, stop, becomes),), budget)


def test_nothing_changed_is_the_sample() -> None:
    """The check itself: without a change every object is there, as it was written; with one, not every time."""
    with place("snana_text") as here:
        reader = open_reader(here.name, here.sample.path, here.sample.options)
        found, unreadable = everything(here, reader, here.described, 10**9)
        assert not unreadable and sorted(found.ids) == sorted(here.sample.objects)
        for index, identity in enumerate(found.ids):
            rows = slice(found.offsets[index], found.offsets[index + 1])
            np.testing.assert_array_equal(found.values[rows], here.sample.objects[identity].values)
        here.parts[0][1]["an object that is not there"] += 1
        with pytest.raises(AssertionError):
            assert_holds(here, (), 1)
