"""What a head or a model stores: every number at its width, and the bytes of the file that holds them."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError


@dataclass(frozen=True, eq=False)
class Stored:
    """One array as a packed file holds it."""

    array: np.ndarray
    """What is written; packed codes as uint8."""
    numbers: int
    """Numbers that it stands for."""
    bits: int
    """Their widths, added up; a file rounds each array up to whole bytes."""

    @classmethod
    def plain(cls, array: Any) -> "Stored":
        """Return an array that is written as it is."""
        values = np.asarray(array)
        return cls(values, values.size, 8 * values.nbytes)


@dataclass(frozen=True)
class SizePart:
    """The size of one array."""

    name: str
    """Its name in the file."""
    numbers: int
    """Numbers in it."""
    bits: int
    """Their widths, added up."""
    n_bytes: int
    """Bytes that it takes in the file."""


@dataclass(frozen=True)
class Size:
    """The size of everything that a head, a predictor or a model stores."""

    parts: tuple[SizePart, ...]
    """Array by array: weights, biases, scales, statistics, thresholds. Codes are symmetric about 0: there are no zero
    points."""
    file_bytes: int | None
    """Length of the packed file; None for a bare head, which has no file."""

    @property
    def numbers(self) -> int:
        """Stored numbers."""
        return sum(part.numbers for part in self.parts)

    @property
    def bits(self) -> int:
        """Stored bits: each number at its width."""
        return sum(part.bits for part in self.parts)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays in a file: `bits`, each array rounded up to whole bytes."""
        return sum(part.n_bytes for part in self.parts)


def packed_file_bytes(model: Any) -> int:
    """Return the length of the file that `model.save(path, packed=True)` writes, written to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "packed", packed=True)
        return (Path(folder) / "packed").stat().st_size


def size_of(model: Any) -> Size:
    """Return the size of a `Head`, a `Predictor` or a `Model` as it is stored for prediction.

    Weights of k bits count k bits each, ternary ones 8 bits for every five (base 3) or 2 bits (two planes), everything
    else its dtype: scales, biases, the statistics that standardise features, the weights of a backbone, thresholds.
    `file_bytes` is the length of the file that `save(path, packed=True)` writes, header and configuration included.

    Raises CapabilityError for what does not say what it stores, such as a contender.
    """
    if not hasattr(model, "stored"):
        raise CapabilityError(f"the size of {type(model).__name__} is not known: it does not define `stored`")
    stored: Mapping[str, Stored] = model.stored()
    parts = tuple(SizePart(name, part.numbers, part.bits, part.array.nbytes) for name, part in sorted(stored.items()))
    return Size(parts, model.file_bytes() if hasattr(model, "file_bytes") else None)
