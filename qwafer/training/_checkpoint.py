"""Checkpoints on disk, from which a killed run resumes bit for bit."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qwafer._errors import InputError
from qwafer._io import canonical_json

KEPT = 2
"""Checkpoints kept: the newest, and the one before."""


class Checkpoints:
    """Orbax checkpoints in `directory`/checkpoints, one per epoch; each is whole or absent.

    A checkpoint holds the leaves of a pytree as they are, and a record of plain JSON data. `identity` (JSON data)
    names the run: checkpoints of another are refused.
    """

    def __init__(self, directory: Path, identity: Any):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at level WARNING
        self._ocp = ocp
        self._identity = canonical_json(identity)
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True, enable_async_checkpointing=False)
        self._directory = Path(directory).resolve() / "checkpoints"
        try:
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        except OSError as error:
            raise InputError(f"{self._directory} cannot hold checkpoints ({error})") from error

    def save(self, epoch: int, tree: Any, record: dict[str, Any]) -> None:
        """Write the checkpoint of `epoch`; a second one of the same epoch is not written."""
        if epoch in self._manager.all_steps():
            return
        save = self._ocp.args
        leaves = {name: np.asarray(leaf) for name, leaf in _named(jax.tree.leaves(tree)).items() if np.size(leaf)}
        record = {"identity": self._identity, **record}
        self._manager.save(epoch, args=save.Composite(state=save.StandardSave(leaves), record=save.JsonSave(record)))
        self._manager.wait_until_finished()

    def latest(self, tree: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Return epoch, pytree (of the structure of `tree`) and record of the newest checkpoint that can be read, or
        None if there is none; those that cannot are deleted, so that the run writes them anew.

        Raises InputError where it belongs to another run, or where there are checkpoints and none can be read.
        """
        damaged = []
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(epoch, tree)
            except InputError:
                raise
            except Exception:  # what orbax and its stores raise for a damaged file has no common class
                damaged.append(epoch)
                continue
            for other in damaged:
                self._manager.delete(other)
            return found
        if damaged:
            raise InputError(
                f"{self._directory} holds no checkpoint that can be read: delete it, and the run begins anew"
            )
        return None

    def _read(self, epoch: int, tree: Any) -> tuple[int, Any, dict[str, Any]]:
        """Return the checkpoint of `epoch`; see `latest`."""
        restore = self._ocp.args
        record = self._manager.restore(epoch, args=restore.Composite(record=restore.JsonRestore()))["record"]
        if record.pop("identity") != self._identity:
            raise InputError(
                f"{self._directory} holds checkpoints of a run with another configuration, seed or data: "
                "choose another directory"
            )
        leaves, structure = jax.tree.flatten(tree)
        blank = {name: np.zeros(np.shape(leaf), leaf.dtype) for name, leaf in _named(leaves).items()}
        stored = {name: leaf for name, leaf in blank.items() if leaf.size}
        saved = self._manager.restore(epoch, args=restore.Composite(state=restore.StandardRestore(stored)))["state"]
        arrays = [jax.numpy.asarray({**blank, **saved}[name]) for name in blank]
        return epoch, jax.tree.unflatten(structure, arrays), record

    def close(self) -> None:
        """Release what orbax holds."""
        self._manager.close()


def _named(leaves: Iterable[Any]) -> dict[str, Any]:
    """Return the leaves by name, in order; orbax refuses those without elements, so that they are left out above."""
    return {f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)}
