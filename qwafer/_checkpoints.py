"""Checkpoints on disk, from which a killed training resumes bit for bit."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError, RecordError
from qwafer._io import (
    canonical_json,
    digest,
    flush_folder,
    held,
    read_or_set_aside,
    remove_temporaries,
    temporary_path,
)

KEPT = 2
"""Checkpoints kept: the newest, and the one before."""
FOLDER = "checkpoints"
ARRAYS, DIGEST = "arrays", "digest"
"""Names in the folder of a checkpoint: what Orbax wrote, and the digest over it."""
_NAME, _FOLDER = re.compile(r"epoch-(\d+)"), re.compile(rf"{FOLDER}(-\d+-lanes)?")


class Checkpoints:
    """Orbax checkpoints in `directory`/checkpoints, a folder per epoch; each is whole or absent, and has a digest.

    A checkpoint holds the leaves of a pytree as they are, and a record of plain JSON data. `identity` (JSON data)
    names the run: checkpoints of another are refused. Runs that train `lanes` side by side keep their own, in
    `directory`/checkpoints-N-lanes: their numbers agree with those of runs alone to rounding only.
    """

    def __init__(self, directory: str | Path, identity: Any, *, lanes: int = 1):
        self._identity = canonical_json(identity)
        self.folder = Path(directory).resolve() / (FOLDER if lanes == 1 else f"{FOLDER}-{lanes}-lanes")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot hold checkpoints ({error})") from error

    def save(self, epoch: int, tree: Any, record: dict[str, Any]) -> None:
        """Write the checkpoint of `epoch`; a second one of the same epoch is not written."""
        path = self._path(epoch)
        if path.exists():
            return
        form = json.dumps({"identity": self._identity, "record": record})
        arrays = {"record": np.frombuffer(form.encode(), np.uint8), **_named(tree)}

        def create() -> Path:
            new = temporary_path(path)
            new.mkdir()
            return new

        remove_temporaries(self.folder, path.name)
        with held(create) as temporary:
            try:
                # Orbax refuses arrays without elements: `latest` has their shapes from its tree.
                some = {name: array for name, array in arrays.items() if array.size}
                with _orbax() as orbax:
                    orbax.save(temporary / ARRAYS, some)
                (temporary / DIGEST).write_text(_digest(temporary / ARRAYS))
                flush_folder(temporary)
                temporary.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        flush_folder(self.folder)
        for old in self._epochs()[:-KEPT]:
            shutil.rmtree(self._path(old), ignore_errors=True)

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
            stored = {**{name: leaf for name, leaf in expected.items() if not leaf.size}, **stored}
            if form["identity"] != self._identity or _shapes(stored) != _shapes(expected):
                raise InputError(
                    f"{self.folder} holds checkpoints of a run with another configuration, circuit, seed or data: "
                    "delete it, or choose another directory"
                )
            leaves = [jax.numpy.asarray(stored[name]) for name in expected]
            return epoch, jax.tree.unflatten(jax.tree.structure(tree), leaves), form["record"]
        return None

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}"

    def _epochs(self) -> list[int]:
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, _names(self.folder)) if match)


def remove_checkpoints(directory: Path) -> None:
    """Delete the checkpoints in `directory`, and its folders that are empty then."""
    folders = [directory / name for name in _names(directory) if _FOLDER.fullmatch(name)]
    for folder in folders:
        remove_temporaries(folder)
        for name in _names(folder):
            if _NAME.match(name):  # those that were set aside, too
                shutil.rmtree(folder / name, ignore_errors=True)
    for each in (*folders, directory):
        with contextlib.suppress(OSError):  # not empty, or not there
            each.rmdir()


def _names(folder: Path) -> Iterator[str]:
    return (path.name for path in (list(folder.iterdir()) if folder.is_dir() else []))


def _named(tree: Any) -> dict[str, np.ndarray]:
    import jax

    return {f"leaf_{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _shapes(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _digest(folder: Path) -> str:
    """Return the digest of the names and bytes of the files in `folder`, and in its folders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {str(path.relative_to(folder)): np.frombuffer(path.read_bytes(), np.uint8) for path in files}
    return digest(*content, *content.values())


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at level WARNING
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
        yield orbax


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return identity and record, and the leaves by name; raise RecordError for a damaged checkpoint."""
    try:
        # Orbax is not given damaged bytes: it reads in threads of its own, which raise where nobody waits for them.
        if (path / DIGEST).read_text() != _digest(path / ARRAYS):
            raise ValueError("another digest")
        with _orbax() as orbax:
            arrays = {name: np.asarray(array) for name, array in orbax.restore(path / ARRAYS).items()}
        form = json.loads(arrays.pop("record").tobytes())
        return {"identity": form["identity"], "record": form["record"]}, arrays
    except Exception as error:  # what Orbax and its stores raise has no common class
        raise RecordError(f"the checkpoint {path} is damaged ({type(error).__name__})") from error
