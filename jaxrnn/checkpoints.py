"""Checkpoints of a job's pack: written whole or not at all, two kept, outside of what Snakemake knows and deletes.

Each is one file with a sum, because a shared file system is slow with many small ones, and because what is damaged must
be known for such: the plain values as JSON, then the arrays' bytes one after another.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn import results
from jaxrnn.claims import Claim
from jaxrnn.errors import Unwritable

KEPT = 2
LENGTH_BYTES = 8
DAMAGED = "it is damaged"


class Checkpoints:
    """The checkpoints in one folder: arrays and plain values beside them.

    claim: the right to write here, where another copy of the job may come.
    """

    def __init__(self, folder: Path, claim: Claim | None = None) -> None:
        self.folder, self.claim = folder, claim
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".*.part"):
                results.remove(left)
        except OSError as error:
            raise Unwritable(folder, error)

    def restore(
        self, like: Callable[[dict[str, Any]], Any | None], say: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Returns arrays and plain values of the newest checkpoint that can be read, None where there is none.

        like: from the plain values to the structure, shapes and types of the arrays; None where they are of no use. A
        broken checkpoint is told of, and the one before it is taken.
        """
        for number in sorted(self._numbers(), reverse=True):
            file = self.folder / str(number)
            try:
                content, reason = results.kept(file), DAMAGED
            except OSError as error:
                content, reason = None, error.strerror or str(error)
            if content is not None:
                start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
                values = json.loads(bytes(content[LENGTH_BYTES:start]))
                wanted = like(values)
                if wanted is None:
                    return None
                return _arrays(content[start:], wanted), values
            older = [other for other in self._numbers() if other < number]
            then = "the one before it is tried" if older else "there is none before it, and training begins anew"
            say(f"checkpoint {file} can't be read ({reason}); {then}")
            if reason == DAMAGED or file.is_dir():
                results.remove(file)  # of the two that are kept, none is of no use
        return None

    def save(self, arrays: Any, values: dict[str, Any]) -> None:
        """Writes the next checkpoint and waits until it is on the disk; raises Unwritable, and keeps the ones before.

        arrays: on the host.
        """
        record = json.dumps(values).encode()
        leaves = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data for leaf in jax.tree.leaves(arrays)]
        numbers = sorted(self._numbers())
        file = self.folder / str(numbers[-1] + 1 if numbers else 1)
        try:
            length = len(record).to_bytes(LENGTH_BYTES, "little")
            results.keep(file, length, record, *leaves, durable=True, claim=self.claim)
        except OSError as error:
            if self.claim:
                self.claim.check()
            raise Unwritable(file, error)
        for number in numbers[: 1 - KEPT]:
            with suppress(OSError):
                results.remove(self.folder / str(number))

    def clear(self) -> None:
        """Removes all checkpoints; the next ones may be of another kind."""
        if self.claim:
            self.claim.check()
        for number in self._numbers():
            results.remove(self.folder / str(number))

    def _numbers(self) -> list[int]:
        with suppress(FileNotFoundError):
            return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
        return []


def _arrays(content: memoryview, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        shape, kind = leaf.shape, np.dtype(leaf.dtype)
        stop = start + kind.itemsize * int(np.prod(shape))
        # a copy: JAX may write over what it was given
        found.append(np.frombuffer(content[start:stop], kind).reshape(shape).copy())
        start = stop
    return jax.tree.unflatten(structure, found)
