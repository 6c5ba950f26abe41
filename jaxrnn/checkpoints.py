"""Checkpoints of a job's pack: written whole or not at all, two kept, outside of what Snakemake knows and deletes."""

import copy
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrnn.errors import JaxrnnError
from jaxrnn.ranks import Ranks

# orbax tells of every directory it makes; a job's log is for its user
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints in one folder: arrays on the device and plain values beside them. Of several ranks, which all
    make the same calls, the first one reads and writes."""

    def __init__(self, folder: Path, ranks: Ranks | None = None) -> None:
        self.folder, self._ranks = folder, ranks or Ranks()
        self._manager = self._ranks.here(self._opened)

    def _opened(self) -> ocp.CheckpointManager | None:
        if self._ranks.rank > 0:
            return None
        # orbax would wait for the other processes of this JAX
        alone = ocp.options.MultiprocessingOptions(active_processes={0} if self._ranks.size > 1 else None)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=False, enable_async_checkpointing=False, multiprocessing_options=alone
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self.folder.absolute(), options=options)
        except OSError as error:
            raise JaxrnnError(f"{self.folder}: cannot be written ({error.strerror or error}); checkpoints go there")

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
        assert self._manager is not None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                record = ocp.args.Composite(record=ocp.args.JsonRestore())
                values = self._manager.restore(step, args=record)["record"]
                wanted = like(values)
                if wanted is None:
                    return None
                arrays = ocp.args.Composite(arrays=ocp.args.StandardRestore(wanted))
                return self._manager.restore(step, args=arrays)["arrays"], values
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                say(f"checkpoint {self.folder / str(step)} can't be read ({reason}); the one before it is tried")
        return None

    def save(self, arrays: Any, values: dict[str, Any]) -> None:
        """Writes the next checkpoint and waits until it is whole on disk."""

        def written() -> None:
            assert self._manager is not None
            number = (self._manager.latest_step() or 0) + 1
            arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(values))
            self._manager.save(number, args=arguments)
            self._manager.wait_until_finished()

        self._ranks.first(written)

    def clear(self) -> None:
        """Removes all checkpoints; the next ones may be of another kind."""

        def removed() -> None:
            assert self._manager is not None
            for step in self._manager.all_steps():
                self._manager.delete(step)

        self._ranks.first(removed)

    def close(self, *, remove: bool = False) -> None:
        """Ends the work here; with `remove` the checkpoints go, once results are whole and need them no more."""
        if self._manager is None:
            return
        self._manager.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
