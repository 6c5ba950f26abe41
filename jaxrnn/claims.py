"""A claim on a job's folder: of several copies of the job at work at once, the newest one alone writes.

There are two where a node was taken for dead that is not: SLURM starts the job again, and the old copy knows of
nothing. The newer one wins, for it is the one that SLURM or the user asked for and waits for, and the older one may be
out of reach of both. A claim is a file whose name grows from copy to copy. A copy that comes removes the earlier ones,
and one that finds its own gone stops. It looks right before each rename that makes something count. Until then what it
writes has names of its own, which the newer copy removes before it writes the same: a rename that comes too late fails.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jaxrnn import lock
from jaxrnn.errors import JaxrnnError, Unwritable

PREFIX = ".claim-"


@dataclass(frozen=True)
class Claim:
    """The right to write what a job makes. token: is greater than that of every earlier claim, by its characters."""

    folder: Path
    token: str

    @property
    def file(self) -> Path:
        return self.folder / f"{PREFIX}{self.token}"

    def check(self) -> None:
        """Raises JaxrnnError where a newer copy of the job has the claim."""
        try:
            # opened, and not only looked for: NFS then asks its server
            os.close(os.open(self.file, os.O_RDONLY))
        except FileNotFoundError:
            raise JaxrnnError(
                f"{self.folder}: a newer copy of this job works here{_by(self.folder)}, or has ended. This one, "
                f"process {os.getpid()} on {os.uname().nodename}, has written nothing since and stops; there is "
                "nothing to do"
            )


@contextmanager
def held(folder: Path) -> Iterator[Claim]:
    """Yields the newest claim on a job's folder, which is made where it isn't there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # by the clock too: the folder goes with what it holds, and a copy that was asleep meanwhile must not come back
        newest = max([time.time_ns(), *(int(name.partition("-")[0]) + 1 for name in _claims(folder))])
        claim = Claim(folder, f"{newest:020d}-{secrets.token_hex(4)}")
        claim.file.touch()
        with suppress(OSError):  # a full disk has room for a name
            claim.file.write_text(json.dumps(lock.holder()))
        # looked for once the own one is there: of two copies that come at once each then sees the other, or is seen
        for token in _claims(folder):
            if token != claim.token:
                Claim(folder, min(token, claim.token)).file.unlink(missing_ok=True)
    except OSError as error:
        raise Unwritable(folder, error)
    claim.check()
    try:
        yield claim
    finally:
        with suppress(OSError):
            claim.file.unlink()
            folder.rmdir()  # where nothing is left to go on from


def _claims(folder: Path) -> list[str]:
    """Returns the tokens of the claims on a folder."""
    return sorted(name.removeprefix(PREFIX) for name in os.listdir(folder) if name.startswith(PREFIX))


def _by(folder: Path) -> str:
    try:
        values = json.loads(Claim(folder, _claims(folder)[-1]).file.read_text())
        return " (process {process} on {host}, since {since})".format_map(values)
    except (OSError, ValueError, LookupError):
        return ""
