"""Surveys that are folders of files: which files count, and the small tables that say what each of them is."""

import csv
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from jaxrnn.errors import JaxrnnError, listed, nearest


def files_below(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files below a folder whose names end so (in small or capital letters), ordered by their paths; the
    file itself where `path` is one. Hidden ones, whose names start with a point, do not count.

    Raises JaxrnnError where there is none, and for what would leave files out unnoticed: a folder that may not be
    read, a link that leads nowhere or in a circle.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(path), ())]
    while pending:
        folder, above = pending.pop()
        try:
            info = os.stat(folder)
            here = info.st_dev, info.st_ino
            if here in above:
                raise JaxrnnError(f"{folder}: a link to a folder that it lies in; remove the link")
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    wanted = entry.name.lower().endswith(endings)
                    kind = _kind(entry)
                    if kind == "folder" and not wanted:
                        pending.append((entry.path, (*above, here)))
                    elif kind == "file" and wanted:
                        found.append(Path(entry.path))
                    elif wanted:
                        raise JaxrnnError(f"{entry.path}: is a {kind}; expected a file that ends in {endings[0]}")
        except OSError as error:
            raise JaxrnnError(
                f"{folder}: the folder cannot be read ({error.strerror}); expected one that you may list and enter"
            ) from None
    if not found:
        raise JaxrnnError(
            f"{path}: no file in it or below it ends in {listed(endings)}; expected the survey's files: look at "
            "data.path"
        )
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _kind(entry: os.DirEntry[str]) -> str:
    """Returns "file", "folder" or what else an entry is; raises JaxrnnError for a link that leads nowhere."""
    if not entry.is_symlink():
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "pipe or device"
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        raise JaxrnnError(
            f"{entry.path}: a link that cannot be followed ({error.strerror}); remove it, or put the file in its place"
        ) from None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "pipe or device"


def bytes_of(file: Path) -> int:
    """Returns a file's size, at least 1; what is wrong with a file that is gone is said when it is read."""
    try:
        return max(1, file.stat().st_size)
    except OSError:
        return 1


def read_at_most(opened: BufferedIOBase, most: int) -> bytes:
    """Returns what is left of an open file, at most so many bytes. Not by `read(most)`, which takes memory for all of
    them before it knows how many there are."""
    pieces = []
    while most > 0 and (piece := opened.read(min(most, 1 << 20))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def stem(path: Path, file: Path, endings: tuple[str, ...]) -> str:
    """Returns the file's path below `path` without its ending: what names it uniquely in the survey."""
    name = file.name if file == path else file.relative_to(path).as_posix()
    ending = next((ending for ending in sorted(endings, key=len, reverse=True) if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


@dataclass(frozen=True)
class Entry:
    """What a table says of one object. row: its row, from 0 after the heading. fault: why it cannot be used, or ""."""

    row: int
    cells: dict[str, str]
    fault: str = ""


def read_entries(
    file: Path, key: str, columns: Sequence[str], optional: Sequence[str] = (), separator: str = ","
) -> dict[str, Entry]:
    """Returns the rows of a small CSV table by what stands in the column `key`; cells without the spaces around them.

    Raises JaxrnnError where the table cannot be read, or one of `columns` is not in it. A row of the wrong length, or
    one whose key stood before, is an entry with a fault.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.reader(text, delimiter=separator))
    except OSError as error:
        raise JaxrnnError(f"{file}: the table cannot be read ({error.strerror}); expected a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise JaxrnnError(f"{file}: not a CSV table ({error}); expected text in UTF-8") from None
    if not rows:
        raise JaxrnnError(f"{file}: empty; expected a CSV table with a heading {listed([key, *columns])}")
    heading = [name.strip() for name in rows[0]]
    for name in (key, *columns):
        if name not in heading:
            raise JaxrnnError(f"{file}: no column '{name}'{nearest(name, heading)} (it has {listed(heading, 20)})")
    wanted = [name for name in (key, *columns, *optional) if name in heading]
    if any(heading.count(name) > 1 for name in wanted):
        raise JaxrnnError(f"{file}: a column stands twice in the heading {listed(heading, 20)}; rename one")
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows[1:]):
        if not row:
            continue
        cells = {name: cell.strip() for name, cell in zip(heading, row, strict=False)}
        name, fault = cells.get(key, ""), ""
        if len(row) != len(heading):
            fault = f"row {number} of {file.name} has {len(row)} fields; expected {len(heading)}"
        if name in entries:
            fault = f"stands twice in {file.name}, in rows {entries[name].row} and {number}"
        entries[name] = Entry(number, {column: cells.get(column, "") for column in wanted}, fault)
    return entries


def number(text: str) -> float:
    """Returns a cell as a number, NaN where it is empty; raises ValueError for any other text."""
    if "_" in text:  # Python would read 1_000
        raise ValueError(text)
    return float(text) if text and text.lower() not in ("na", "null", "none") else float("nan")
