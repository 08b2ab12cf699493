"""`circuit.name = function`: a PennyLane function of one's own as the circuit of a configuration."""

import dataclasses
import functools
import tomllib
from dataclasses import dataclass
from typing import Any

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer._registry import check_unchanged
from qwafer.circuits.captured import CapturedCircuit
from qwafer.circuits.circuit import DTYPES, count_weights

MEASURED = "measured"
"""The readout of a function that returns measurements."""


@dataclass(frozen=True)
class FunctionOptions:
    """A PennyLane function or QNode (weights, x) of one's own, captured; see `qwafer.circuit`."""

    function: str = ""
    """`package.module:name`, or `path/to/file.py:name`; there is none by default."""
    n_inputs: int = 4
    """Inputs of one example, onto which features are projected."""
    weights: str = ""
    """Name and shape of every weight: `theta=2x4x3, scale=2`; `scale=` for one number."""
    arguments: str = ""
    """Further arguments of the function, as TOML writes a table: `n_layers=2, rotation="Y"`."""
    readout: str = "mean_z_readout"
    """`mean_z`, `z_vec` or `mean_z_readout` after a function that returns nothing; `measured`: what it returns."""
    dtype: str = "float32"
    """Precision of values and gradients: `float32` or `float64`."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.function:
            self._check_named()
        check_positive_int("circuit.n_inputs", self.n_inputs)
        check_choice("circuit.dtype", self.dtype, DTYPES)
        check_choice("circuit.readout", self.readout, ("mean_z", "z_vec", "mean_z_readout", MEASURED))
        self.shapes()
        self.values()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name."""
        found: dict[str, tuple[int, ...]] = {}
        for text in self.weights.split(",") if self.weights.strip() else ():
            name, equals, sizes = (part.strip() for part in text.partition("="))
            parts = sizes.split("x") if sizes else []
            if not equals or not name.isidentifier() or not all(part.isdecimal() and int(part) for part in parts):
                raise InputError(f"`weights` must be name=sizes, such as theta=2x4x3, got {text.strip()!r}")
            if name in found:
                raise InputError(f"`weights` names {name} twice")
            found[name] = tuple(map(int, parts))
        return found

    def values(self) -> dict[str, Any]:
        """Return the further arguments by name."""
        try:
            (found,) = tomllib.loads(f"arguments = {{{self.arguments}}}").values()
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"`arguments` must be name=value, each name once, such as n_layers=2, got {self.arguments!r}"
            ) from error
        return dict(found)

    def circuit(self, n_outputs: int) -> CapturedCircuit:
        """Return the captured circuit, with so many outputs where its readout trains them.

        Raises InputError for a function that is not named, cannot be imported, or not be captured.
        """
        self._check_named()
        check_unchanged(self.function, "circuit.function")
        found = _captured(self)
        if self.readout == MEASURED or found.core.n_outputs == n_outputs:
            return found
        return dataclasses.replace(found, core=dataclasses.replace(found.core, n_outputs=n_outputs))

    def _check_named(self) -> None:
        if ":" not in self.function:
            raise InputError(f"`circuit.function` must be package.module:name or file.py:name, got {self.function!r}")

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups in which this circuit has nothing to train, each with the reason."""
        return {} if count_weights(self.shapes()) else {"circuit": "circuit.weights are none"}


@functools.lru_cache(maxsize=16)
def _captured(options: FunctionOptions) -> CapturedCircuit:
    from qwafer.circuits.capture import circuit_of_name

    return circuit_of_name(
        options.function,
        weights=options.shapes(),
        n_inputs=options.n_inputs,
        readout=None if options.readout == MEASURED else options.readout,
        dtype=options.dtype,
        arguments=options.values(),
    )
