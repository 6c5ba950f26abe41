"""Checkpoints of a job's pack: written whole or not at all, two kept, outside of what Snakemake knows and deletes."""

import logging
import shutil
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

    def latest(self) -> dict[str, Any] | None:
        """Returns the plain values of the newest checkpoint, None where there is none."""
        step = self._manager.latest_step()
        return None if step is None else self._manager.restore(step, args=ocp.args.Composite(values=ocp.args.JsonRestore())).values

    def arrays(self, like: Any) -> Any:
        """Returns the newest checkpoint's arrays, in the structure, shapes and types of `like`."""
        step = self._manager.latest_step()
        restore = ocp.args.StandardRestore(like)
        return self._manager.restore(step, args=ocp.args.Composite(arrays=restore)).arrays

    def save(self, arrays: Any, values: dict[str, Any]) -> None:
        """Writes the next checkpoint and waits until it is whole on disk."""
        number = (self._manager.latest_step() or 0) + 1
        arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), values=ocp.args.JsonSave(values))
        self._manager.save(number, args=arguments)
        self._manager.wait_until_finished()

    def close(self, *, remove: bool = False) -> None:
        """Ends the work here; with `remove` the checkpoints go, once results are whole and need them no more."""
        self._manager.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
