"""What the published circuits share: options that are captured once, encodings and patterns of gates."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer.circuits.captured import CapturedCircuit, Initial
from qwafer.circuits.circuit import DTYPES

TURN: Initial = ("uniform", 0.0, 2 * math.pi)
"""Angles that start anywhere."""
PUBLISHED, DESCRIBED = "as_published", "as_described"
"""What the code that was published with the paper does, and what its text says, where the two differ."""


@dataclass(frozen=True)
class ModelCircuit:
    """Options of a circuit that a module-level function (weights, x, **arguments) of PennyLane gates defines.

    Subclasses name it (`function`) and give the shapes of its weights, its arguments and how weights start.
    """

    n_inputs: int = 4
    """Inputs of one example: the features, or what a projection makes of them."""
    dtype: str = "float32"
    """Precision of values and gradients: `float32` or `float64`."""

    function: ClassVar[str] = ""
    least_inputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("circuit.dtype", self.dtype, DTYPES)
        check_positive_int("circuit.n_inputs", self.n_inputs, minimum=self.least_inputs)
        for item in dataclasses.fields(self):
            if item.type is int or item.type == "int":
                check_positive_int(f"circuit.{item.name}", getattr(self, item.name))

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name."""
        raise NotImplementedError

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return the further arguments of the function."""
        return {}

    def initial(self) -> dict[str, Initial]:
        """Return how weights start; `angles` anywhere, unless a subclass says otherwise."""
        return {"angles": TURN} if "angles" in self.shapes(1) else {}

    def circuit(self, n_outputs: int = 1) -> CapturedCircuit:
        """Return the captured circuit; the same object for equal options."""
        return _captured(self, n_outputs)


@functools.lru_cache(maxsize=128)
def _captured(options: ModelCircuit, n_outputs: int) -> CapturedCircuit:
    from qwafer.circuits.capture import circuit_of_name

    return circuit_of_name(
        f"{type(options).__module__}:{options.function}",
        weights=options.shapes(n_outputs),
        n_inputs=options.n_inputs,
        dtype=options.dtype,
        arguments=options.arguments(n_outputs),
        initial=options.initial(),
        name=options.function,
    )


def embed_amplitudes(x: Any, n_wires: int, copies: int = 1) -> None:
    """Prepare `copies` of the normalised x on `n_wires` wires each, x filled up to 2^n_wires by entries 2^-n_wires."""
    import jax.numpy as jnp
    import pennylane as qml

    filled = jnp.concatenate([x, jnp.full(2**n_wires - len(x), 2.0**-n_wires, x.dtype)])
    # By the norm here: the normalisation of AmplitudeEmbedding compares values, which a trace does not have.
    one = filled / jnp.sqrt(jnp.sum(filled**2))
    state = functools.reduce(jnp.kron, [one] * copies)
    qml.StatePrep(state, wires=range(n_wires * copies), validate_norm=False)


def wires_for(n_amplitudes: int) -> int:
    """Return ceil(log2 n): the wires whose amplitudes hold so many numbers."""
    return max(n_amplitudes - 1, 0).bit_length()


def neighbours(n: int, start: int = 0) -> Sequence[tuple[int, int]]:
    """Return the pairs (i, i + 1), i = start, start + 2, ... of n wires: `double` (0) and `double_odd` (1)."""
    return [(i, i + 1) for i in range(start, n - 1, 2)]


def ring(n: int) -> Sequence[tuple[int, int]]:
    """Return the pairs (i, i + 1 mod n); of two wires one pair, of one wire none."""
    return [(i, (i + 1) % n) for i in range(n if n > 2 else n - 1)]
