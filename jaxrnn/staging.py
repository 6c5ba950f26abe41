"""Training data on the node's own disk: copies of a dataset's shards, for a job that reads them in every epoch.

All jobs of a cluster share the file system that results lie on. The disk is that of the folder which the site gives a
job for temporary files: TMPDIR, which Snakemake sets to the profile's `tmpdir`.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jaxrnn import results, slurm
from jaxrnn.doctor import mount_of
from jaxrnn.errors import JaxrnnError

Say = Callable[[str], None]
# Kinds of file systems that are a disk of this machine, and not its memory.
DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs")
# Where every system has temporary files: small, or not for large ones of one user.
EVERYONES = ("/tmp", "/var/tmp", "/usr/tmp")
RESERVE_BYTES = 1_000_000_000  # that stay free: compiled programs lie there too
PIECE_BYTES = 1 << 23


@contextmanager
def copies(paths: Sequence[Path], say: Say) -> Iterator[list[Path]]:
    """Yields where a dataset's shards are to be read while the block lasts: copies on the node's own disk.

    Where the site gives the job none these are the shards themselves, and, after a line that says why, where it has no
    room for all of them or copying fails. Each process has copies of its own.
    """
    given = scratch(paths[0].parent)
    with ExitStack() as stack:
        try:
            found = [*paths] if given is None else _copied(paths, given, stack, say)
        except (OSError, JaxrnnError) as error:
            stack.close()
            reason = error.strerror or error if isinstance(error, OSError) else error
            say(f"training data are not copied to {given} and read where they are, in each epoch ({reason})")
            found = [*paths]
        yield found


def scratch(dataset: Path) -> Path | None:
    """Returns the folder for temporary files that the site gives this job on the node's own disk; None where it gives
    none, or the dataset lies on a disk of this machine already."""
    folder = Path(tempfile.gettempdir())
    if slurm.own_job() is None or str(folder) in EVERYONES:
        return None
    (_, kind), (_, kind_of_dataset) = mount_of(folder), mount_of(dataset)
    return folder if kind in DISKS and kind_of_dataset not in DISKS else None


def _copied(paths: Sequence[Path], given: Path, stack: ExitStack, say: Say) -> list[Path]:
    began, size, free = time.monotonic(), sum(path.stat().st_size for path in paths), shutil.disk_usage(given).free
    if size + RESERVE_BYTES > free:
        reserve = f"of which {RESERVE_BYTES / 1e6:,.0f} MB are to stay so"
        raise JaxrnnError(f"they are {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free, {reserve}")
    manifest = results.read_json(paths[0].parent / "manifest.json", "jaxrnn ingest")
    sums = {entry["file"]: entry["sha256"] for entry in manifest["shards"]}
    temporary = tempfile.TemporaryDirectory(prefix="jaxrnn-", dir=given, ignore_cleanup_errors=True)
    folder = Path(stack.enter_context(temporary))
    for path in paths:
        _copy(path, folder / path.name, sums.get(path.name))
    say(f"training data: {size / 1e6:,.0f} MB copied to {folder} in {time.monotonic() - began:.0f} s")
    return [folder / path.name for path in paths]


def _copy(path: Path, to: Path, sha256: str | None) -> None:
    """Copies a shard; raises JaxrnnError where its bytes are not those of this sum."""
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as source, to.open("wb") as copy:
        while piece := source.read(PIECE_BYTES):
            total.update(piece)
            copy.write(piece)
    if total.hexdigest() != sha256:
        raise JaxrnnError(f"{path}: its bytes are not those that ingest wrote (SHA-256 differs)")
