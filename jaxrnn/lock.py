"""A lock on a folder: one run at a time works in it, and whoever comes second is told who the first one is.

The kernel's lock on an open file (flock) decides where the file system has it: it ends with its process, however that
ends. It may not reach other hosts (some mounts of Lustre and NFS), and some file systems have none. So the file also
says who holds it, and its time of change, which the holder renews, that the holder lives.
"""

import errno
import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrnn.errors import JaxrnnError

NAME = ".lock"
TAKEN = (
    "{folder}: another run works in this folder ({who}); {remedy}. Ranks of one MPI run share the folder: if "
    "you started them together, each of them thinks that it is alone, because the MPI library of mpi4py does not "
    "fit the launcher (srun's --mpi=pmi2 is for MPICH, --mpi=pmix for Open MPI)"
)
RENEWED_SECONDS = 10.0
# A holder that another host can't look at is taken for dead after so long without a sign of life.
DEAD_SECONDS = 120.0
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Held(JaxrnnError):
    """That another process holds the lock, for all that is known."""


@contextmanager
def held(folder: Path, name: str = NAME, taken: str = TAKEN) -> Iterator[None]:
    """Holds the lock `name` of `folder`, which is made where it isn't there; raises Held where another process
    has it.

    The lock of a dead process is taken over.
    taken: what the error says, with places for {folder}, {who} and {remedy}.
    """
    with made(folder):
        path = folder / name
        file = _taken(path, taken)
        ended = threading.Event()
        renewing = threading.Thread(target=_renew, args=(file, ended), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            # removed before it is let go: a file that another process holds must not be removed
            path.unlink(missing_ok=True)
            os.close(file)
            with suppress(OSError):
                folder.rmdir()  # where nothing came of it


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder where it is not there, and takes away again what was made, if it is empty then."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()


def holder() -> dict[str, Any]:
    """Returns what a lock or a claim says of who holds it: this process."""
    return {"host": os.uname().nodename, "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _taken(path: Path, taken: str) -> int:
    """Returns the open file of the lock, which is now this process's."""
    while True:
        file, is_new = _opened(path)
        try:
            has_flock = _flocked(file, path, taken)
            if has_flock and not _is_at(file, path):
                os.close(file)  # its holder ended, and removed it, after it was opened here
                continue
            if not (is_new and not has_flock):
                _refuse_living(file, path, has_flock, taken)
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder()).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        return file


def _opened(path: Path) -> tuple[int, bool]:
    """Returns the file, and whether it was made here."""
    with suppress(FileExistsError):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False


def _flocked(file: int, path: Path, taken: str) -> bool:
    """Returns whether the kernel gave its lock, False where it has none to give; raises Held where another has
    it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(path, taken, _holder(file), "wait for it to end, or end it") from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _refuse_living(file: int, path: Path, has_flock: bool, taken: str) -> None:
    """Raises Held where who the file names may be at work, for all that this host can tell."""
    found = _holder(file)
    silent = _now(path) - os.fstat(file).st_mtime
    if found.get("host") == os.uname().nodename:
        if not has_flock and _lives(int(found.get("process", 0))):
            remedy = f"wait for it to end, or end it; if it is another program, remove {path}"
            raise _refusal(path, taken, found, remedy)
    elif silent < DEAD_SECONDS and (found or not has_flock):
        raise _refusal(
            path,
            taken,
            found,
            f"if that process is dead, run this again {DEAD_SECONDS:g} seconds after its death, or remove {path}",
        )


def _refusal(path: Path, taken: str, found: dict[str, Any], remedy: str) -> "Held":
    who = "process {process} on {host}, since {since}".format_map(found) if found else "a process that just began"
    return Held(taken.format(folder=path.parent, who=who, remedy=remedy))


def _holder(file: int) -> dict[str, Any]:
    """Returns what the file says of its holder; {} where it is not written yet, or unreadable."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return {"host": str(found["host"]), "process": int(found["process"]), "since": str(found["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _now(path: Path) -> float:
    """Returns the time by the clock of the file system, which stamps the lock too."""
    # of a file without a name, where the file system has such: a process killed here leaves nothing in the folder
    with tempfile.TemporaryFile(dir=path.parent, prefix=f"{path.name}.") as probe:
        return os.fstat(probe.fileno()).st_mtime


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _renew(file: int, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_SECONDS):
        with suppress(OSError):
            os.utime(file)
