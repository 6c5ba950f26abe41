"""Arrivals: which of a survey's files came when, and what the shards of each arrival were made from.

The files that are there at the first ingest are an arrival; those that come later are another, with shards behind the
others. What the shards of an arrival hold follows from three things. `survey_files.json` records them, and where one is
not what it was, shards are made anew, so that old and new content never mix:

- the parts that the reader cuts its files into, each with the size and time of change of its files. An arrival holds as
  long as all of its parts are still among the survey's, in their order;
- what decides how every part is read (`Inventory.basis`): what the reader says of the whole survey, the source of a
  reader of one's own, and files that belong to no part. All arrivals fall with it;
- that no object of it stands in another arrival too. That shows when ids are compared, by `ingest`.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxrnn import features, readers, results
from jaxrnn.config import Data, digest
from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import Part, Reader, SequenceReader, Survey

STATE, ROWS = "survey_files.json", ".rows"  # the record; rows on their way to their objects
SEQUENCES, OBJECTS, OBSERVATIONS = "sequences", "objects", "observations"


@dataclass(frozen=True)
class Inventory:
    """All that there is to ingest. files: size and time of change (ns) of each. parts: by fingerprint, in the reader's
    order, each with what it holds. basis: stands for what decides how they all are read."""

    files: dict[str, list[int]]
    parts: dict[str, tuple[str, Part]]
    basis: str


@dataclass(frozen=True)
class Arrival:
    """Files that came together. first: the number of its first shard. parts: their fingerprints."""

    first: int
    parts: tuple[str, ...]

    def holding(self, inventory: Inventory, kind: str) -> list[Part]:
        """Returns its parts that hold sequences, or rows of one of the tables."""
        found = (inventory.parts[fingerprint] for fingerprint in self.parts)
        return [part for holds, part in found if holds == kind]


def identity(file: Path) -> list[int]:
    """Returns a file's size and time of change: where both are what they were, so is its content."""
    try:
        status = file.stat()
    except OSError as error:
        raise JaxrnnError(f"{file}: cannot be read ({error.strerror}); it belongs to the survey in data.path")
    return [status.st_size, status.st_mtime_ns]


def take_inventory(data: Data, reader: Reader, survey: Survey) -> Inventory:
    """Returns what there is to ingest now; raises JaxrnnError where that is nothing."""
    files = {str(file): identity(file) for file in reader.files()}
    budget = part_bytes(data)
    if isinstance(reader, SequenceReader):
        cut = [(SEQUENCES, reader.parts(budget))]
    else:
        assert isinstance(reader, readers.RowReader)
        cut = [(OBJECTS, reader.object_parts(budget)), (OBSERVATIONS, reader.observation_parts(budget))]
    parts: dict[str, tuple[str, Part]] = {}
    unused = dict(files)
    for kind, pieces in cut:
        for part in pieces:
            for file in map(str, part.files):
                unused.pop(file, None)
                if file not in files:
                    files[file] = identity(Path(file))
            fingerprint = _fingerprint(kind, part, files)
            if fingerprint in parts:
                raise JaxrnnError(
                    f"{part.files[0]}: the reader '{data.reader}' gives its part from {part.start} to {part.stop} "
                    "twice; expected every object or row in one part"
                )
            parts[fingerprint] = kind, part
    if not parts:
        where = f"{next(iter(files))}: " if files else "data.path: "
        raise JaxrnnError(f"{where}the survey's {len(files)} files hold no object and no row; expected some")
    says = [asdict(survey), [asdict(column) for column in features.describe(data, survey)]]
    return Inventory(files, parts, digest([says, readers.source_digest(data.reader), unused]))


def part_bytes(data: Data) -> int:
    """Returns how many bytes a part has at most, about, and so a shard's parts together."""
    return max(1, int(data.shard_mb * 1e6))


def _fingerprint(kind: str, part: Part, files: dict[str, list[int]]) -> str:
    held = [[str(file), *files[str(file)]] for file in part.files]
    text = json.dumps([kind, part.start, part.stop, part.bytes, held])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def arrange(folder: Path, inventory: Inventory, *, afresh: bool = False) -> list[Arrival]:
    """Returns the arrivals that the survey's files make now, after recording them and clearing what no longer holds.

    afresh: True makes one arrival of all files, whatever the record says.
    """
    recorded = _recorded(folder, inventory)
    places = {fingerprint: place for place, fingerprint in enumerate(inventory.parts)}
    kept = [] if afresh else [arrival for arrival in recorded if _holds(arrival, places)]
    taken = {fingerprint for arrival in kept for fingerprint in arrival.parts}
    new = tuple(fingerprint for fingerprint in inventory.parts if fingerprint not in taken)
    if not _bring_their_objects([*(arrival.parts for arrival in kept), new], inventory):
        kept, new = [], tuple(inventory.parts)
    # a number is used once: no shard ever stands where another one stood
    first = 1 + max([int(path.stem) for path in folder.glob("[0-9]*.h5")], default=-1) if kept else 0
    arrivals = [*kept, Arrival(first, new)] if new else kept
    if kept != recorded or new:
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder / ROWS, ignore_errors=True)
        if not kept:
            for stale in folder.glob("*.h5"):
                stale.unlink()
        _record(folder, inventory, arrivals)
    return arrivals


def _holds(arrival: Arrival, places: dict[str, int]) -> bool:
    """Returns whether the parts of an arrival are all there still, in the same order; places: of those that are."""
    found = [places.get(fingerprint, -1) for fingerprint in arrival.parts]
    return -1 not in found and found == sorted(found)


def _bring_their_objects(arrivals: list[tuple[str, ...]], inventory: Inventory) -> bool:
    """Returns whether the rows of each arrival can be read without what the tables of others say of objects."""
    objects = {fingerprint for fingerprint, (kind, _) in inventory.parts.items() if kind == OBJECTS}
    return not objects or all(not objects.isdisjoint(parts) for parts in arrivals if parts)


def _recorded(folder: Path, inventory: Inventory) -> list[Arrival]:
    """Returns the arrivals on record, none where another basis made their shards."""
    state = folder / STATE
    if not state.exists():
        return []
    found: dict[str, Any] = results.read_json(state, "jaxrnn ingest")
    if found.get("basis") != inventory.basis:
        return []
    return [Arrival(entry["first"], tuple(entry["parts"])) for entry in found["arrivals"]]


def _record(folder: Path, inventory: Inventory, arrivals: list[Arrival]) -> None:
    told: set[str] = set()
    entries = []
    for arrival in arrivals:
        files: dict[str, list[int]] = {}
        for fingerprint in arrival.parts:
            _, part = inventory.parts[fingerprint]
            files |= {str(file): inventory.files[str(file)] for file in part.files if str(file) not in told}
        told |= files.keys()
        entries.append({"first": arrival.first, "files": files, "parts": list(arrival.parts)})
    results.write_json(folder / STATE, {"basis": inventory.basis, "arrivals": entries})
