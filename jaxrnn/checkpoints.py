"""Checkpoints of a job's pack: written whole or not at all, two kept, outside of what Snakemake knows and deletes.

Each is one file with a sum, because a shared file system is slow with many small ones, and because what is damaged must
be known for such: the plain values as JSON, then the arrays' bytes one after another.
"""

import copy
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
from jaxrnn.ranks import Ranks

KEPT = 2
LENGTH_BYTES = 8
DAMAGED = "it is damaged"


class Checkpoints:
    """The checkpoints in one folder: arrays and plain values beside them. Of several ranks, which all make the same
    calls, the first one reads and writes.

    claim: the right to write here, where another copy of the job may come.
    """

    def __init__(self, folder: Path, claim: Claim | None = None, ranks: Ranks | None = None) -> None:
        self.folder, self.claim, self._ranks = folder, claim, ranks or Ranks()
        self._ranks.first(self._prepare)

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.part"):
                results.remove(left)
        except OSError as error:
            raise Unwritable(self.folder, error)

    def restore(
        self, like: Callable[[dict[str, Any]], Any | None], say: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Returns arrays and plain values of the newest checkpoint that can be read, None where there is none.

        like: from the plain values to the structure, shapes and types of the arrays; None where they are of no use. A
        broken checkpoint is told of, and the one before it is taken.
        """
        if self._ranks.size == 1:
            return self._restored(like, say)

        own: list[tuple[Any, dict[str, Any]]] = []

        def sent() -> tuple[list[Any], dict[str, Any]] | None:
            given: dict[str, Any] = {}

            def remembered(values: dict[str, Any]) -> Any | None:
                given.update(copy.deepcopy(values))  # `like` may change them
                return like(values)

            if (found := self._restored(remembered, say)) is None:
                return None
            own.append(found)
            return jax.tree.leaves(found[0]), given

        sent_by_first = self._ranks.first(sent)
        if sent_by_first is None or own:
            return own[0] if own else None
        leaves, values = sent_by_first
        return jax.tree.unflatten(jax.tree.structure(like(values)), leaves), values

    def _restored(
        self, like: Callable[[dict[str, Any]], Any | None], say: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
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

    def save(
        self, arrays: Any, values: dict[str, Any], by: Callable[[Callable[[], None]], None] = lambda write: write()
    ) -> None:
        """Writes the next checkpoint and waits until it is on the disk; raises Unwritable, and keeps the ones before.

        arrays: on the host. by: calls what it is given, which does it, and may call it again.
        """
        self._ranks.first(lambda: by(lambda: self._write(arrays, values)))

    def _write(self, arrays: Any, values: dict[str, Any]) -> None:
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
        self._ranks.first(self._remove)

    def _remove(self) -> None:
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
