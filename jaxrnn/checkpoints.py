"""Checkpoints of a job's pack: written whole or not at all, two kept, outside of what Snakemake knows and deletes."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jaxrnn.errors import JaxrnnError

# orbax tells of every directory it makes; a job's log is for its user
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints in one folder: arrays on the device and plain values beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except OSError as error:
            raise JaxrnnError(f"{folder}: cannot be written ({error.strerror or error}); checkpoints go there")

    def restore(
        self, like: Callable[[dict[str, Any]], Any | None], say: Callable[[str], None]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Returns arrays and plain values of the newest checkpoint that can be read, None where there is none.

        like: from the plain values to the structure, shapes and types of the arrays; None where they are of no use. A
        broken checkpoint is told of, and the one before it is taken.
        """
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
        number = (self._manager.latest_step() or 0) + 1
        arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(values))
        self._manager.save(number, args=arguments)
        self._manager.wait_until_finished()

    def clear(self) -> None:
        """Removes all checkpoints; the next ones may be of another kind."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self, *, remove: bool = False) -> None:
        """Ends the work here; with `remove` the checkpoints go, once results are whole and need them no more."""
        self._manager.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
