"""Compiled programs that jobs leave to each other: what one job compiled, the next ones find.

JAX keeps compiled programs in a folder, where it writes each in place: a job killed meanwhile leaves a torn one, and
JAX never replaces it. So its folder is the job's own, on the node's disk. It is filled from one file under `results/`,
which all jobs of the same settings share, and which is only ever replaced as a whole.
"""

import contextlib
import io
import os
import platform
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
from jax.experimental.compilation_cache import compilation_cache

from jaxrnn import results
from jaxrnn.config import digest

# Of all files together; the least recently used ones go.
MOST_BYTES = 1_000_000_000
FOLDER, ENABLED = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
# Each where the environment doesn't say otherwise.
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    # the paths of these caches, which lie in the job's own folder, would become part of each program's key
    "jax_persistent_cache_enable_xla_caches": "none",
}
EVENTS = "/jax/compilation_cache/"
REQUEST, HIT, MISS = f"{EVENTS}compile_requests_use_cache", f"{EVENTS}cache_hits", f"{EVENTS}cache_misses"
CPUINFO = Path("/proc/cpuinfo")
PROCESSOR = ("vendor_id", "cpu family", "model", "flags")
PROCESSOR += ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")


def key(values: Any) -> str:
    """Returns digits that stand for plain values and for this node's kind of processor, whose own instructions are in
    a CPU's programs."""
    return digest([values, _processor()])


@contextmanager
def shared(file: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Lets JAX find the compiled programs in `file`; yields the function that adds those compiled since.

    It is for when nothing is being compiled, and is called once more when the block ends well. Where the machine
    refuses anything, a line is said and the job goes on without. Where JAX has a folder already
    (JAX_COMPILATION_CACHE_DIR), it keeps that one alone.
    """
    if getattr(jax.config, FOLDER) or not getattr(jax.config, ENABLED):
        yield lambda: None
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrnn-", ignore_cleanup_errors=True))
            programs = _Programs(file, Path(folder), say)
        except OSError as error:
            say(_refusal(file, error))
            yield lambda: None
            return
        stack.enter_context(programs.in_use())
        yield programs.publish
        programs.publish()
        found, asked = programs.events[HIT], programs.events[REQUEST]
        if asked:
            say(f"compiled programs: {found} of {asked} found in {file.parent}")


class _Programs:
    """The programs in the job's own folder: `taken` are those that came from the shared file."""

    def __init__(self, file: Path, folder: Path, say: Callable[[str], None]) -> None:
        self.file, self.folder, self.say = file, folder, say
        self.events: Counter[str] = Counter()
        self.refused = False
        self.published = 0, 0  # how many were made here, and compiled, when the file was written last
        self.taken = _read(file)
        for name, content in self.taken.items():
            (folder / name).write_bytes(content)
        with suppress(OSError):
            os.utime(file)  # used

    @contextmanager
    def in_use(self) -> Iterator[None]:
        values: dict[str, Any] = {FOLDER: str(self.folder)}
        values |= {name: value for name, value in SETTINGS.items() if name.upper() not in os.environ}
        before = {name: getattr(jax.config, name) for name in values}
        jax.monitoring.register_event_listener(self._count)
        try:
            _configure(values)
            yield
        finally:
            _configure(before)
            jax.monitoring.unregister_event_listener(self._count)

    def _count(self, event: str, **_: str | int) -> None:
        self.events[event] += 1

    def publish(self) -> None:
        if self.refused:
            return
        try:
            made = {path.name for path in self.folder.iterdir()} - self.taken.keys()
            counts = len(made), self.events[MISS]
            if counts == self.published:
                return
            programs = {name: (self.folder / name).read_bytes() for name in made}
            # more compiled than made: something taken is of no use to JAX, and nothing taken is passed on
            spoilt = self.events[MISS] > len(made)
            _replace(self.file, programs if spoilt else _read(self.file) | self.taken | programs)
            _bound(self.file.parent)
            self.published = counts
        except OSError as error:
            self.refused = True
            self.say(_refusal(self.file, error))


def _configure(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks for its folder once


def _refusal(file: Path, error: OSError) -> str:
    return f"compiled programs cannot be shared in {file.parent} ({error.strerror or error}); the job goes on without"


def _read(file: Path) -> dict[str, bytes]:
    """Returns the programs in a shared file, by JAX's names; none where it is not there, or damaged."""
    archive = results.kept(file)
    if archive is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _replace(file: Path, programs: dict[str, bytes]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name in sorted(programs):
            opened.writestr(name, programs[name])
    file.parent.mkdir(parents=True, exist_ok=True)
    # the sum makes it needless to wait for the disk: what a power cut leaves is found out
    results.keep(file, archive.getvalue())


def _bound(folder: Path) -> None:
    """Removes the least recently used files beyond `MOST_BYTES`; also what killed jobs left, which nobody uses."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            files.append((path.stat(), path))
    total = 0
    for status, path in sorted(files, key=lambda entry: entry[0].st_mtime, reverse=True):
        total += status.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)


def _processor() -> list[str]:
    """Returns the processor's kind and features; where the system doesn't tell, the node's name."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    return sorted({line for line in lines if line.partition(":")[0].strip() in PROCESSOR}) or [platform.node()]
