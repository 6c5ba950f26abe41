"""What a training job tells of itself while it runs, for whoever looks from elsewhere: `progress.json`.

The file is small, one a job, and replaced as a whole by a thread of its own, so that training never waits for a slow
file system: after a second at first, then less and less often, down to every half minute; where there is nothing new,
every two minutes, as a sign of life. It is no output of the workflow, which deletes outputs before a job runs again.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxrnn import __version__, results, slurm
from jaxrnn.errors import Interrupted, JaxrnnError

NAME = "progress.json"
READING, COMPILING, TRAINING, PREDICTING = "reading", "compiling", "training", "predicting"
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
# Between two writes; the gap doubles from one to the other.
FIRST_SECONDS, MOST_SECONDS = 1.0, 30.0
SIGN_OF_LIFE_SECONDS = 120.0
LONGEST_MESSAGE = 2000

Tell = Callable[..., None]


@dataclass(frozen=True)
class Progress:
    """How far a job is, or how it ended.

    state: running, done, stopped (by a signal; it goes on from its checkpoint) or failed; message: why, of an end.
    host, process, process_began (in the kernel's ticks, None where they can't be known): who works. slurm_job: its id.
    began, written: seconds since 1970. trials_finished, _training and _waiting: of those that this call trains.
    epoch, step: of the trial that is least far, of `epochs` and `steps`. best: of `score`, on validation, in the last
    epoch. seconds_left: at most, of the training.
    """

    state: str
    began: float
    written: float
    host: str
    process: int
    process_began: int | None = None
    slurm_job: int | None = None
    message: str = ""
    phase: str = READING
    trials_finished: int | None = None
    trials_training: int | None = None
    trials_waiting: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    score: str | None = None
    best: float | None = None
    seconds_left: float | None = None
    pack_width: int | None = None
    devices: int | None = None

    @property
    def lives(self) -> bool:
        """Returns whether its process runs on this host, if this is its host."""
        began = _process_began(self.process)
        return began is not None and self.process_began in (None, began)


def nothing(**_: Any) -> None:
    """Tells nobody."""


@contextmanager
def told(folder: Path) -> Iterator[Tell]:
    """Keeps `folder`/progress.json while the block runs, and says in it how the block ended.

    Yields a function that takes fields of `Progress` by name, and costs nothing. Where the file can't be written, the
    job goes on all the same.
    """
    fields: dict[str, Any] = {
        "began": time.time(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_began": _process_began(os.getpid()),
        "slurm_job": slurm.own_job(),
        "state": RUNNING,
    }

    def tell(**new: Any) -> None:
        nonlocal fields
        fields = {**fields, **new}  # another dict, so that the thread sees all of it or nothing

    def write_again() -> None:
        last = read(folder)
        # a newer copy of the job may have begun, and its word counts
        if last is None or (last.host, last.process) == (fields["host"], fields["process"]):
            _write(folder / NAME, fields)

    def write_on() -> None:
        gap, last, at = FIRST_SECONDS, first, time.monotonic()
        while not ended.wait(gap):
            gap = min(2 * gap, MOST_SECONDS)
            if fields is not last or time.monotonic() - at > SIGN_OF_LIFE_SECONDS:
                last, at = fields, time.monotonic()
                write_again()

    first, ended = fields, threading.Event()
    _write(folder / NAME, first)
    writing = threading.Thread(target=write_on, daemon=True)
    writing.start()
    end = {"state": FAILED, "message": "it ended without a word"}
    try:
        yield tell
        end = {"state": DONE}
    except (Interrupted, KeyboardInterrupt) as error:
        end = {"state": STOPPED, "message": str(error) or "interrupted"}
        raise
    except JaxrnnError as error:
        end["message"] = str(error)
        raise
    except BaseException as error:
        end["message"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        ended.set()
        writing.join()
        tell(**end)
        write_again()


def read(folder: Path) -> Progress | None:
    """Returns what the job of a folder told last; None where it told nothing, or nothing that can be read."""
    try:
        values = json.loads((folder / NAME).read_text(encoding="utf-8"))
        values.pop("jaxrnn_version", None)
        found = Progress(**values)
        numbers = (found.began, found.written, found.process, found.best or 0, found.seconds_left or 0)
        return found if all(isinstance(number, int | float) for number in numbers) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write(path: Path, fields: dict[str, Any]) -> None:
    values = asdict(Progress(**fields, written=time.time()))
    values["message"] = values["message"][:LONGEST_MESSAGE]
    text = json.dumps({"jaxrnn_version": __version__, **values}, indent=1)
    with suppress(JaxrnnError), results.written_whole(path, durable=False) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _process_began(process: int) -> int | None:
    """Returns when a process of this host began, in ticks since the host did; None where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
