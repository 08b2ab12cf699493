"""Checkpoints of backbones: read once, checked key by key, kept as safetensors with the sha256 of their source."""

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from qwafer._checks import check_exists
from qwafer._errors import CapabilityError, InputError, RecordError
from qwafer._io import atomic_path, digest, file_sha256, key_seed, read_or_set_aside
from qwafer._process import cache_folder
from qwafer._reading import check_unpacked, reads
from qwafer.backbones.keys import Shapes, State
from qwafer.backbones.torch_files import read_torch_file

_CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "model.")
_SOURCE, CHECKSUM = "source_sha256", "checksum"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and where they come from."""

    state: State
    """{key: tensor}, without the prefixes of hubs and wrappers."""
    record: dict[str, Any]
    """Provenance: `file` and `sha256`, and `random_weights` where they were drawn."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Return the tensors of a `.safetensors` file, or of torch's `.pth`, `.pt`, `.pth.tar`, `.bin`.

    Torch files are read without torch, and nothing in their pickles is executed. The first reading stores the tensors
    as safetensors, with the source's sha256, in `weights` of qwafer's cache folder (`cache_folder`); later ones
    take those.

    Raises:
        InputError: a missing, truncated or damaged file, one that holds no tensors, or a pickle that asks for code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such checkpoint: {path}")
    sha256 = file_sha256(path)
    record = {"file": path.name, "sha256": sha256}
    if _is_safetensors(path):
        return Checkpoint(_plain(read_tensors(path)[0], path), record)
    converted = cache_folder("weights") / f"{sha256}.safetensors"
    kept = read_or_set_aside(partial(read_tensors, source=sha256), converted)
    if kept is not None:
        return Checkpoint(kept[0], record)
    state = _plain(_tensors(read_torch_file(path), path), path)
    _keep(state, converted, sha256)
    return Checkpoint(state, record)


def fetch_from_hub(repository: str, filename: str) -> Path:
    """Return the local path of `filename` in a repository of the Hugging Face hub, downloaded on first use.

    Raises:
        CapabilityError: huggingface_hub is not installed.
        InputError: the hub cannot be reached, or has no such file.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CapabilityError(
            "--weights hub needs the package huggingface-hub: install qwafer[hub], or download the checkpoint and give "
            "its path"
        ) from error
    try:
        return Path(huggingface_hub.hf_hub_download(repository, filename))
    except (OSError, huggingface_hub.errors.HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{filename} of {repository} cannot be had from the hub ({reason}): download it elsewhere and give its path"
        ) from error


def random_checkpoint(shapes: Shapes, seed: int) -> Checkpoint:
    """Return weights drawn by `seed` for a model that needs `shapes`: for trials, never for results.

    Kernels are normal with variance 2 / fan-in, scales and variances 1, everything else 0; each key has its own stream.
    """
    state: dict[str, np.ndarray] = {}
    for key, shape in shapes.items():
        if len(shape) >= 2:
            rng = np.random.default_rng(key_seed(seed, key))
            fan_in = int(np.prod(shape[1:]))
            state[key] = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        else:
            ones = key.endswith(("weight", "running_var", ".D")) or "gamma" in key
            state[key] = np.full(shape, 1 if ones else 0, np.float32)
    return Checkpoint(state, {"file": None, "sha256": None, "random_weights": seed})


def check_fit(
    state: State, expected: Shapes, name: str, unused: tuple[str, ...], others: Callable[[], Mapping[str, Shapes]]
) -> None:
    """Raise InputError unless `state` has exactly the tensors of the model `name`, each in its shape.

    Batch counters and keys that start with one of `unused` (the classification head) may be there or not. `others`
    gives the shapes of the models that a misfit is compared with.
    """
    used = {key for key in state if not (key.endswith("num_batches_tracked") or key.startswith(unused))}
    missing = [key for key in expected if key not in state]
    unexpected = sorted(used - set(expected))
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {expected[key]}"
        for key in expected
        if key in state and tuple(state[key].shape) != expected[key]
    ]
    problems = [
        f"{len(keys)} {what}: {_first(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        fitting = [other for other, shapes in others().items() if _fits(used, state, shapes)]
        hint = f"; it fits {fitting[0]}" if fitting else ""
        raise InputError(f"the checkpoint does not fit {name} ({'; '.join(problems)}){hint}")


def _fits(used: set[str], state: State, shapes: Shapes) -> bool:
    return set(shapes) <= used and all(tuple(state[key].shape) == shape for key, shape in shapes.items())


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_safetensors(path: Path) -> bool:
    """Tell by content: the length of a JSON header, then the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def write_tensors(path: str | Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `state` and `metadata`, with the checksum of both, to `path` as safetensors, atomically; equal ones make
    equal files.
    """
    tensors = {key: np.asarray(value, order="C") for key, value in state.items()}
    sealed = {**metadata, CHECKSUM: _checksum(tensors, metadata)}
    with atomic_path(path) as temporary:
        try:
            safetensors.numpy.save_file(tensors, temporary, metadata=sealed)
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))  # such as a full disk, which has a class of its own
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Order what the header of a safetensors file says of the file, which the library writes in an order it draws."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length, "the same entries in another order"
        file.seek(8)
        file.write(text)


@reads("is truncated or damaged", error=RecordError)
def read_tensors(path: str | Path, source: str | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, of anybody's.

    Raises InputError for one that is not there, RecordError for a damaged one: not in that format, not what
    `write_tensors` wrote, or, where `source` is given, not made from a file of that SHA-256.
    """
    check_exists(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is not a dict
    content = {key: value for key, value in metadata.items() if key != CHECKSUM}
    checksum = metadata.get(CHECKSUM)
    if checksum is not None and checksum != _checksum(tensors, content):
        raise RecordError(f"{path} is damaged: its tensors are not those that were written (their checksum differs)")
    if source is not None and (checksum is None or metadata.get(_SOURCE) != source):
        raise RecordError(f"{path} is damaged: it does not say that it was made from the checkpoint of its name")
    return tensors, metadata


def packed_tensors(state: State) -> np.ndarray:
    """Return the bytes (n,) uint8 of `state` as a safetensors file."""
    tensors = {key: np.asarray(value, order="C") for key, value in state.items()}
    return np.frombuffer(safetensors.numpy.save(tensors), np.uint8)


def unpacked_tensors(content: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors in bytes that `packed_tensors` gave; raise InputError for others."""
    try:
        return dict(safetensors.numpy.load(content.tobytes()))
    except Exception as error:
        raise InputError(f"the weights that came with the features are damaged ({error})") from error


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return the digest of tensors of any dtype, and of metadata."""
    parts = (part for key in sorted(tensors) for part in (key, np.atleast_1d(tensors[key])))
    return digest(dict(metadata), *parts)


def _tensors(loaded: Any, path: Path) -> dict[str, np.ndarray]:
    """Return the dictionary of tensors in what a torch file holds, one level down if need be."""
    if isinstance(loaded, dict):
        for candidate in (loaded, *(loaded.get(name) for name in _CONTAINERS)):
            if not isinstance(candidate, dict):
                continue
            tensors = {str(key): value for key, value in candidate.items() if isinstance(value, np.ndarray)}
            if tensors:
                return tensors
    raise InputError(
        f"{path} holds no tensors: a state_dict is expected, alone or as the entry {', '.join(_CONTAINERS)}"
    )


def _plain(state: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Strip the prefixes of hubs and wrappers, and check that the numbers are finite and not too many for the file."""
    check_unpacked(path, sum(value.nbytes for value in state.values()))
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    for key, value in state.items():
        if value.dtype.kind not in "iub" and not np.isfinite(value.astype(np.float64)).all():
            raise InputError(f"{path}: the tensor {key} holds numbers that are not finite")
    return state


def _keep(state: dict[str, np.ndarray], target: Path, sha256: str) -> None:
    try:
        write_tensors(target, state, {_SOURCE: sha256})
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(
            f"the converted weights could not be kept in {target.parent} ({error}); set QWAFER_CACHE to a "
            f"folder with space, or they will be converted again",
            stacklevel=3,
        )
