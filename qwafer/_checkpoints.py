"""Checkpoints on disk, from which a killed training resumes bit for bit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError, RecordError
from qwafer._io import atomic_path, canonical_json, read_or_set_aside, remove_temporaries

KEPT = 2
"""Checkpoints kept: the newest, and the one before."""
_NAME = re.compile(r"epoch-(\d+)\.npz")


class Checkpoints:
    """Checkpoints in `directory`/checkpoints, an NPZ per epoch; each is whole or absent, and has the checksums of
    every NPZ.

    A checkpoint holds the leaves of a pytree as they are, and a record of plain JSON data. `identity` (JSON data)
    names the run: checkpoints of another are refused.
    """

    def __init__(self, directory: str | Path, identity: Any):
        self._identity = canonical_json(identity)
        self.folder = Path(directory).resolve() / "checkpoints"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot hold checkpoints ({error})") from error

    def save(self, epoch: int, tree: Any, record: dict[str, Any]) -> None:
        """Write the checkpoint of `epoch`; a second one of the same epoch is not written."""
        path = self._path(epoch)
        if path.exists():
            return
        text = json.dumps({"identity": self._identity, "record": record})
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, record=np.frombuffer(text.encode(), np.uint8), **_named(tree))
        for old in self._epochs()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)

    def latest(self, tree: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Return epoch, pytree (of the structure of `tree`) and record of the newest checkpoint that can be read, or
        None if there is none; those that cannot are set aside with a warning.

        Raises InputError where it belongs to another run.
        """
        import jax

        for epoch in reversed(self._epochs()):
            found = read_or_set_aside(_read, self._path(epoch))
            if found is None:
                continue
            form, stored = found
            expected = _named(tree)
            if form["identity"] != self._identity or _shapes(stored) != _shapes(expected):
                raise InputError(
                    f"{self.folder} holds checkpoints of a run with another configuration, seed or data: "
                    "delete it, or choose another directory"
                )
            leaves = [jax.numpy.asarray(stored[name].view(leaf.dtype)) for name, leaf in expected.items()]
            return epoch, jax.tree.unflatten(jax.tree.structure(tree), leaves), form["record"]
        return None

    def remove(self) -> None:
        """Delete the checkpoints, and the folder unless it holds anything else."""
        remove_checkpoints(self.folder.parent)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}.npz"

    def _epochs(self) -> list[int]:
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, _names(self.folder)) if match)


def remove_checkpoints(directory: Path) -> None:
    """Delete the checkpoints in `directory`, and its folders that are empty then."""
    folder = directory / "checkpoints"
    remove_temporaries(folder)
    for name in _names(folder):
        if _NAME.match(name):  # those that were set aside, too
            (folder / name).unlink(missing_ok=True)
    for each in (folder, directory):
        try:
            each.rmdir()
        except OSError:  # not empty, or not there
            return


def _names(folder: Path) -> Iterator[str]:
    return (path.name for path in (list(folder.iterdir()) if folder.is_dir() else []))


def _named(tree: Any) -> dict[str, np.ndarray]:
    import jax

    return {f"leaf_{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _shapes(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what must fit; NumPy's files know extension types, such as bfloat16, by their size alone."""
    return {name: (leaf.shape, leaf.dtype.itemsize) for name, leaf in leaves.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return identity and record, and the leaves by name; raise RecordError for a damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            leaves = {name: archive[name] for name in archive.files}
        form = json.loads(leaves.pop("record").tobytes())
        return {"identity": form["identity"], "record": form["record"]}, leaves
    except OSError:
        raise
    except Exception as error:  # what NumPy and zipfile raise for damaged bytes has no common class
        raise RecordError(f"the checkpoint {path} is damaged ({error})") from error
