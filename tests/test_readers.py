"""One battery over every reader: what it reads is what was written, in any pieces, and damage is told."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from samples import Object, Sample

from jaxrnn import catalogue
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import (
    READERS,
    SPLITS,
    Part,
    RowReader,
    SequenceReader,
    Sequences,
    Survey,
    open_reader,
    reader_class,
)

WHOLE = 10**9
BUDGETS = (1, 200, WHOLE)
FULL_ACCESS = 0o755


def write_sample(name: str, folder: Path) -> Sample:
    folder.mkdir(parents=True, exist_ok=True)
    return importlib.import_module(f"samples.{name}").write(folder, np.random.default_rng(7))


@pytest.fixture(params=list(READERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sample(name: str, tmp_path: Path) -> Sample:
    return write_sample(name, tmp_path / "survey")


def opened(name: str, sample: Sample) -> SequenceReader | RowReader:
    return open_reader(name, sample.path, sample.options)


def described_by(text: object) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


class Content:
    """All that a reader gives, object by object, and the reasons of what it could not read."""

    def __init__(self, reader: SequenceReader | RowReader, budget: int = WHOLE) -> None:
        self.survey = reader.describe()
        self.objects: dict[str, Object] = {}
        self.faults: list[str] = []
        if isinstance(reader, SequenceReader):
            for part in reader.parts(budget):
                self._add_sequences(reader.read(part))
        else:
            self._add_tables(reader, budget)

    def _object(self, **values: Any) -> Object:
        survey = self.survey
        bands, metadata = values.pop("passbands"), values.pop("metadata")
        order = np.argsort(values["time"], kind="stable")
        steps = values.pop("step_labels")
        return Object(
            label=values["label"],
            time=np.asarray(values["time"], dtype=np.float64)[order],
            values=np.asarray(values["values"], dtype=np.float64).reshape(len(order), len(survey.columns))[order],
            passbands=tuple(survey.passbands[bands[k]] if bands[k] >= 0 else "?" for k in order)
            if survey.passbands
            else (),
            metadata={column.name: float(value) for column, value in zip(survey.metadata, metadata, strict=True)},
            split=values["split"],
            group=values["group"],
            step_labels=None if steps is None else tuple(str(steps[k]) for k in order),
        )

    def _add_sequences(self, found: Sequences) -> None:
        check_shapes(found, self.survey)
        for faults in (found.row_faults, found.object_faults):
            self.faults += [] if faults is None else [str(fault) for fault in faults if fault]
        for place, identity in enumerate(found.ids):
            rows = slice(int(found.offsets[place]), int(found.offsets[place + 1]))
            assert str(identity) not in self.objects, "an object was read twice"
            self.objects[str(identity)] = self._object(
                label=str(found.labels[place]),
                time=found.time[rows],
                values=found.values[rows],
                passbands=found.passband[rows],
                metadata=found.metadata[place],
                split=None if found.splits is None else str(found.splits[place]),
                group=None if found.groups is None else str(found.groups[place]),
                step_labels=None if found.step_labels is None else found.step_labels[rows],
            )

    def _add_tables(self, reader: RowReader, budget: int) -> None:
        known: dict[str, dict[str, Any]] = {}
        rows: dict[str, list[tuple[Any, ...]]] = {}
        tables = reader.object_parts(budget)
        for part in tables:
            for piece in reader.read_objects(part):
                self.faults += [] if piece.faults is None else [str(fault) for fault in piece.faults if fault]
                for place, identity in enumerate(piece.ids):
                    if piece.faults is not None and piece.faults[place]:
                        continue
                    assert described_by(identity) not in known, "an object was read twice"
                    known[described_by(identity)] = {
                        "label": str(piece.labels[place]),
                        "metadata": piece.metadata[place],
                        "split": None if piece.splits is None else str(piece.splits[place]),
                        "group": None if piece.groups is None else str(piece.groups[place]),
                    }
        for part in reader.observation_parts(budget):
            for piece in reader.read_observations(part):
                self.faults += [] if piece.faults is None else [str(fault) for fault in piece.faults if fault]
                for place, identity in enumerate(piece.object_ids):
                    if piece.faults is not None and piece.faults[place]:
                        continue
                    if not tables:
                        known.setdefault(
                            described_by(identity),
                            {
                                "label": "" if piece.labels is None else str(piece.labels[place]),
                                "metadata": np.zeros(0),
                                "split": None,
                                "group": None if piece.groups is None else str(piece.groups[place]),
                            },
                        )
                    row = piece.time[place], piece.values[place], int(piece.passband[place])
                    label = None if piece.step_labels is None else str(piece.step_labels[place])
                    rows.setdefault(described_by(identity), []).append((*row, label))
        self.orphans = set(rows) - set(known)
        for identity, entry in known.items():
            its = rows.get(identity, [])
            self.objects[identity] = self._object(
                **entry,
                time=[row[0] for row in its],
                values=np.array([row[1] for row in its]),
                passbands=[row[2] for row in its],
                step_labels=[row[3] for row in its] if self.survey.gives_step_labels else None,
            )


def check_shapes(found: Sequences, survey: Survey) -> None:
    """Asserts what `Sequences` promises of its arrays."""
    objects, rows = len(found.ids), len(found.time)
    assert found.offsets.shape == (objects + 1,) and found.offsets.dtype == np.int64
    assert found.offsets[0] == 0 and found.offsets[-1] == rows and (np.diff(found.offsets) >= 0).all()
    assert found.time.dtype == np.float64 and found.values.dtype == np.float64
    assert found.values.shape == (rows, len(survey.columns)) and found.metadata.shape == (objects, len(survey.metadata))
    assert found.passband.shape == (rows,) and found.passband.dtype == np.int64
    assert found.row_numbers.shape == (rows,) and found.labels.shape == (objects,)
    for array, length in (
        (found.splits, objects),
        (found.groups, objects),
        (found.object_faults, objects),
        (found.object_file, objects),
        (found.step_labels, rows),
        (found.row_faults, rows),
        (found.row_file, rows),
    ):
        assert array is None or array.shape == (length,)
    assert found.files and all(isinstance(file, str) for file in found.files)


def assert_same(found: dict[str, Object], expected: dict[str, Object]) -> None:
    assert sorted(found) == sorted(expected)
    for identity, entry in expected.items():
        assert same(found[identity], entry), f"{identity}: {found[identity]} is not {entry}"


def same(one: Object, other: Object) -> bool:
    order = np.argsort(other.time, kind="stable")
    other = replace(
        other,
        time=np.asarray(other.time, dtype=np.float64)[order],
        values=np.asarray(other.values, dtype=np.float64)[order],
        passbands=tuple(other.passbands[k] for k in order) if other.passbands else (),
        step_labels=None if other.step_labels is None else tuple(other.step_labels[k] for k in order),
    )
    return (
        (one.label, one.passbands, one.split, one.group, one.step_labels)
        == (other.label, other.passbands, other.split, other.group, other.step_labels)
        and one.metadata.keys() == other.metadata.keys()
        and np.array_equal(one.time, other.time, equal_nan=True)
        and np.array_equal(one.values, other.values, equal_nan=True)
        and np.array_equal([*one.metadata.values()], [other.metadata[key] for key in one.metadata], equal_nan=True)
    )


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_is_read_is_what_was_written_whatever_the_pieces(name: str, sample: Sample, budget: int) -> None:
    content = Content(opened(name, sample), budget)
    assert not content.faults
    assert_same(content.objects, sample.objects)


def all_parts(reader: SequenceReader | RowReader, budget: int) -> list[tuple[str, Part]]:
    if isinstance(reader, SequenceReader):
        return [("read", part) for part in reader.parts(budget)]
    objects, rows = reader.object_parts(budget), reader.observation_parts(budget)
    return [("read_objects", part) for part in objects] + [("read_observations", part) for part in rows]


def read_parts(reader: SequenceReader | RowReader, parts: list[tuple[str, Part]]) -> list[list[Any]]:
    """Returns every array of every part, in the parts' order."""
    results = []
    for method, part in parts:
        found = getattr(reader, method)(part)
        results.append([vars(piece) for piece in ([found] if method == "read" else found)])
    return results


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def test_parts_and_what_they_hold_follow_from_the_files_alone(name: str, sample: Sample) -> None:
    reader, again = opened(name, sample), opened(name, sample)
    for budget in BUDGETS:
        parts = all_parts(reader, budget)
        assert parts == all_parts(again, budget)
        assert all(part.bytes >= 0 for _, part in parts) and sum(part.bytes for _, part in parts) > 0
        assert len({(method, part) for method, part in parts}) == len(parts)
        first = read_parts(reader, parts)
        assert_equal(first, read_parts(reader, parts))
        assert_equal(first, read_parts(again, parts[::-1])[::-1])
        assert {file for _, part in parts for file in part.files} <= set(reader.files())


def test_a_small_budget_makes_no_fewer_parts(name: str, sample: Sample) -> None:
    reader = opened(name, sample)
    counts = [len(all_parts(reader, budget)) for budget in BUDGETS]
    assert counts == sorted(counts, reverse=True)


def test_the_description_agrees_with_what_is_read(name: str, sample: Sample) -> None:
    reader = opened(name, sample)
    survey, entries = reader.describe(), list(sample.objects.values())
    columns = [column.name for column in survey.columns]
    assert len(set(columns)) == len(columns)
    assert {*survey.error_columns, *survey.flag_columns} <= set(columns)
    assert survey.time_unit
    assert all(set(entry.passbands) <= set(survey.passbands) for entry in entries)
    assert all(entry.metadata.keys() == {column.name for column in survey.metadata} for entry in entries)
    assert survey.gives_splits == any(entry.split is not None for entry in entries)
    assert survey.gives_groups == any(entry.group is not None for entry in entries)
    assert survey.gives_step_labels == any(entry.step_labels is not None for entry in entries)
    assert survey.labelled == any(entry.label for entry in entries)
    for method, part in all_parts(reader, 200):
        found = getattr(reader, method)(part)
        for piece in [found] if method == "read" else found:
            for key, told in (
                ("splits", survey.gives_splits and method != "read_observations"),
                ("step_labels", survey.gives_step_labels and method != "read_objects"),
            ):
                if hasattr(piece, key):
                    assert (getattr(piece, key) is not None) == told, key
            if getattr(piece, "splits", None) is not None:
                assert set(piece.splits) <= set(SPLITS)
            if hasattr(piece, "passband"):
                assert ((piece.passband >= -1) & (piece.passband < max(1, len(survey.passbands)))).all()


# Damage. Each takes a file and leaves something else in its place.


def truncated(share: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    damage.__name__ = f"truncated to {share}"
    return damage


def short_of_a_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def scribbled(file: Path) -> None:
    file.write_text("this is no survey, it is a letter; dear observer, ...\n" * 3)


def scribbled_at_its_start(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes((b"###!!! not what it was\n" + content[23:])[: max(len(content), 23)])


def made_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def removed(file: Path) -> None:
    file.unlink()


def linked_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


DAMAGE = (
    truncated(0.1),
    truncated(0.5),
    truncated(0.9),
    short_of_a_byte,
    emptied,
    scribbled,
    scribbled_at_its_start,
    made_a_folder,
    removed,
    linked_to_itself,
)


def told(name: str, sample: Sample, file: Path, *, may_lose: bool = False, may_differ: bool = False) -> str:
    """Returns "" where damage to `file` is told, or what is read is right all the same; else what went wrong.

    may_lose: objects or rows may be missing without a word. may_differ: a text that is cut within its last number or
    word looks whole, so one row and one label may differ.
    """
    try:
        content = Content(opened(name, sample))
    except JaxrnnError as error:
        message = str(error)
        # a file that may be gzipped or not is named without that ending
        named = file.name.removesuffix(".gz") in message
        return "" if named else f"the message does not name the file: {message}"
    except Exception:
        return traceback.format_exc()
    if content.faults or getattr(content, "orphans", None):
        return ""
    rows, labels, accounted = 0, 0, False
    for identity, entry in content.objects.items():
        expected = sample.objects.get(identity)
        if expected is None:
            return f"read an object {identity} that was never there"
        # what ingest finds and accounts for, whatever the reader
        missing = entry.label == "" != expected.label and content.survey.labelled
        accounted |= missing or not len(entry.time) or "?" in entry.passbands
        known = {row.tobytes() for row in np.column_stack([expected.time, expected.values])}
        rows += sum(row.tobytes() not in known for row in np.column_stack([entry.time, entry.values]))
        labels += entry.label != expected.label and not missing
    if max(rows, labels) > int(may_differ):
        return f"{rows} rows and {labels} labels were read that were never there"
    complete = content.objects.keys() == sample.objects.keys() and all(
        same(content.objects[identity], entry) for identity, entry in sample.objects.items()
    )
    return "" if complete or accounted or may_lose else "nothing tells that the file is damaged"


def is_text(content: bytes) -> bool:
    return b"\0" not in content and all(byte < 128 for byte in content[:500])


def damaged_files(name: str, folder: Path) -> Iterator[tuple[Sample, Path, bool]]:
    """Yields a fresh copy of the sample for each file that may be damaged."""
    first = write_sample(name, folder / "whole")
    assert first.damageable or name == "simulated", "a sample names the files whose damage must be told"
    for number, file in enumerate(first.damageable):
        target = folder / str(number)
        shutil.copytree(folder / "whole", target, dirs_exist_ok=True)
        moved = target / first.path.relative_to(folder / "whole")
        yield replace(first, path=moved), target / file.relative_to(folder / "whole"), is_text(file.read_bytes())


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_told(name: str, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for sample, file, text in damaged_files(name, tmp_path):
        damage(file)
        cut = text and damage.__name__.startswith(("truncated", "short"))
        # a survey with a file less is another survey: `files` shows it, and the manifest compares
        failed = told(name, sample, file, may_lose=cut or damage is removed, may_differ=cut)
        assert not failed, f"{file.name}: {failed}"


def reads(name: str, sample: Sample) -> bool:
    try:
        Content(opened(name, sample))
    except JaxrnnError:
        return False
    return True


def test_a_file_without_permission_is_told(name: str) -> None:
    # what may not be read is read all the same by root, which tests often are: a child gives that up
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(FULL_ACCESS)  # pytest's own folders are closed to others
        for sample, file, _ in damaged_files(name, Path(temporary)):
            # here first: what is imported only now could not be found by the child
            assert reads(name, sample) and not in_child(lambda sample=sample: "" if reads(name, sample) else "no way")
            file.chmod(0)
            assert not (failed := in_child(lambda sample=sample, file=file: told(name, sample, file))), failed


def in_child(work: Callable[[], str]) -> str:
    """Returns what `work` returns in a process of its own that has no right to files of others."""
    content_end, writing_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of libraries end with the fork; the child starts none
        child = os.fork()
    if child == 0:
        os.close(content_end)
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            message = work()
        except BaseException:
            message = traceback.format_exc()
        os.write(writing_end, message.encode()[-4000:])
        os._exit(0)
    os.close(writing_end)
    with os.fdopen(content_end) as content:
        message = content.read()
    _, status = os.waitpid(child, 0)
    return message or ("" if status == 0 else f"ended with status {status}")


def test_files_are_those_that_matter(name: str, sample: Sample) -> None:
    files = opened(name, sample).files()
    assert files and len(set(files)) == len(files)
    assert all(file.is_file() for file in files)
    assert set(sample.damageable) <= set(files)
    for file in files:
        content = file.read_bytes()
        file.unlink()
        try:
            after = opened(name, sample).files()
            noticed = file not in after or not reads(name, sample)
        except JaxrnnError:
            noticed = True
        file.write_bytes(content)
        assert noticed, f"{file} was removed, and nothing tells"


def test_the_example_is_a_section_that_works(name: str) -> None:
    reader = reader_class(name)
    text = yaml.safe_load(reader.EXAMPLE)
    assert list(text) == ["data"]
    section = Data.model_validate(
        text["data"]
        | {"features": [one if isinstance(one, dict) else {"name": one} for one in text["data"]["features"]]}
    )
    assert section.reader == name
    reader.Options.model_validate(section.options)


def test_every_option_is_described(name: str) -> None:
    reader = reader_class(name)
    assert reader.__doc__ and reader.__doc__.strip()
    for key, field in reader.Options.model_fields.items():
        assert field.description and len(field.description) > 10, key


def test_an_option_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no_such_option"):
        reader_class(name).Options.model_validate({"no_such_option": 1})


def test_readers_load_nothing_heavy_before_they_read() -> None:
    modules = sorted({place.partition(":")[0] for place in READERS.values()})
    code = f"""
import importlib, sys
heavy = ("pandas", "pyarrow", "h5py", "astropy", "scipy", "jax")
for module in {modules}:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(module, "is missing:", error)
    for library in heavy:
        if library in sys.modules:
            print(module, "loads", library)
            heavy = tuple(one for one in heavy if one != library)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout, done.stdout


def test_the_catalogue_names_every_reader_and_option(name: str) -> None:
    listing, text, tables = catalogue.listing(), catalogue.described(name), catalogue.tables()
    reader = reader_class(name)
    assert f"\n{name}\n" in f"\n{listing}" and text.startswith(f"{name}\n")
    section = tables.partition(f"#### `{name}`\n")[2].partition("\n#### ")[0]
    for line in reader.EXAMPLE.strip().splitlines():
        assert line in listing and line in text and line in section
    for key, field in reader.Options.model_fields.items():
        rows = [row for row in section.splitlines() if row.startswith(f"| `{key}` |")]
        assert len(rows) == 1 and len(re.split(r"(?<!\\)\|", rows[0])) == 6
        assert ("(required)" in rows[0]) == field.is_required()
        assert f"\n  {key}: " in text


# A user's own readers, as docs/readers.md shows them.


def test_the_readers_of_the_docs_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    stars = {
        f"star{number}": Object(
            label=("dwarf", "giant")[number % 2],
            time=np.sort(generator.uniform(0, 9, 1 + number)),
            values=generator.normal(size=(1 + number, 2)),
        )
        for number in range(6)
    }
    lines = []
    for star, entry in stars.items():
        rows = [" ".join(map(repr, row)) for row in np.column_stack([entry.time, entry.values]).tolist()]
        (tmp_path / f"{star}.lc").write_text("\n".join([entry.label, *rows]) + "\n")
        lines += [f"{star} {entry.label} {row}\n" for row in rows]
    log = tmp_path / "log.txt"
    log.write_text("".join(lines[k] for k in generator.permutation(len(lines))))
    for name, path in (("own_reader:StarFilesReader", tmp_path), ("own_reader:NightLogReader", log)):
        reader = open_reader(name, path)
        for budget in (1, 70, WHOLE):
            content = Content(reader, budget)
            assert not content.faults
            assert_same(content.objects, stars)
        section = yaml.safe_load(reader.EXAMPLE)["data"]
        assert section["reader"] == name and Data.model_validate(
            section | {"features": [{"name": feature} for feature in section["features"]]}
        )
        assert name in catalogue.described(name)
    log.write_text(log.read_text() + "star1 giant 4.5 much 0.1\n")
    content = Content(open_reader("own_reader:NightLogReader", log))
    assert len(content.faults) == 1
    assert_same(content.objects, stars)
    (tmp_path / "star1.lc").write_text("giant\n1.0 2.0\n")
    with pytest.raises(JaxrnnError, match=r"star1\.lc"):
        Content(open_reader("own_reader:StarFilesReader", tmp_path))


def test_the_docs_show_the_readers_that_are_tested() -> None:
    tests = Path(__file__).parent
    (shown,) = re.findall(r"```python\n(.*?)```", (tests.parent / "docs" / "readers.md").read_text(), re.DOTALL)
    assert shown == (tests / "own_reader.py").read_text()


def test_a_reader_that_is_none_is_told() -> None:
    for name in ("csv_foldr", "own_reader:NoSuch", "no_such_module:Reader", "pathlib:Path"):
        with pytest.raises(JaxrnnError, match=re.escape(name)):
            reader_class(name)
