"""The options of a circuit, as a configuration holds them; the number of outputs follows from the task."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from qwafer._checks import check_choice, plain_numbers
from qwafer._errors import InputError
from qwafer._registry import Registry
from qwafer.circuits.spec import ANSATZE, DTYPES, ENCODINGS, ENTANGLEMENTS, CircuitSpec


class CircuitOptions(Protocol):
    """A frozen dataclass whose fields are the options of a circuit; it may also define `no_effect` and `determines`."""

    def circuit(self, n_outputs: int) -> Any:
        """Return the `Circuit` with so many outputs."""
        ...


CIRCUITS: Registry[type[CircuitOptions]] = Registry(
    "circuit.name",
    {
        "layered": "qwafer.circuits.options:LayeredOptions",
        "function": "qwafer.circuits.function_options:FunctionOptions",
        "circuit_centric": "qwafer.models.circuit_centric:CircuitCentric",
        "reuploading": "qwafer.models.reuploading:Reuploading",
        "dressed": "qwafer.models.dressed:Dressed",
        "iqp_variational": "qwafer.models.iqp:IqpVariational",
        "separable_variational": "qwafer.models.separable:SeparableVariational",
        "tree_tensor": "qwafer.models.tree_tensor:TreeTensor",
        "vanilla": "qwafer.models.vanilla:Vanilla",
        "weinet": "qwafer.models.weinet:WeiNet",
    },
)

NATIVE = "native"
MAX_SIZE = 1_000_000
"""Gates of a circuit, at most: layers times pairs of wires, or times wires where no gate joins two."""


@dataclass(frozen=True)
class LayeredOptions:
    """Angle encoding, layers of rotations and CNOTs, a readout; see `CircuitSpec` for the meaning."""

    n_qubits: int = 4
    """Wires."""
    n_layers: int = 2
    """Layers of the ansatz."""
    encoding: str = "ry"
    """`ry`, `rx` or `rz` (after Hadamards)."""
    ansatz: str = "strongly_entangling"
    """`strongly_entangling`, `basic_entangler` or `separable`."""
    entanglement: str = NATIVE
    """`ring`, `linear`, `all`, `none` (for `separable` alone), or `native`: the ansatz's own."""
    readout: str = "mean_z_readout"
    """`mean_z`, `z_vec` or `mean_z_readout`."""
    reupload: bool = False
    """Encode the data again before every layer."""
    dtype: str = "float32"
    """Precision of values and gradients: `float32` or `float64`."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial circuit": ("n_qubits", "n_layers", "ansatz", "dtype"),
        "initial projection": ("n_qubits", "dtype"),
        "initial readout": ("n_qubits", "dtype"),
        "initial readout.bias": ("dtype",),
        "initial alpha": ("dtype",),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("circuit.encoding", self.encoding, ENCODINGS)
        check_choice("circuit.ansatz", self.ansatz, ANSATZE)
        check_choice("circuit.entanglement", self.entanglement, (NATIVE, *ENTANGLEMENTS))
        check_choice("circuit.readout", self.readout, ("mean_z", "z_vec", "mean_z_readout"))
        check_choice("circuit.dtype", self.dtype, DTYPES)
        self.circuit(1)
        pairs = self.n_qubits if self.ansatz == "separable" else self.n_qubits**2
        if self.n_layers * pairs > MAX_SIZE:
            raise InputError(
                f"`circuit.n_layers` times the pairs of `circuit.n_qubits` must be at most {MAX_SIZE:,}, got "
                f"{self.n_layers} x {pairs:,}"
            )

    def circuit(self, n_outputs: int) -> CircuitSpec:
        """Return the `CircuitSpec` with so many outputs."""
        values = dataclasses.asdict(self)
        if self.entanglement == NATIVE:
            del values["entanglement"]
        return CircuitSpec(**values, n_outputs=n_outputs)

    def implied(self, config: Any) -> dict[str, Any]:
        """Return `ansatz` and `entanglement` of the first circuit of the same gates, as they are listed."""
        own = self.circuit(1)
        same = (other for other in _siblings(own) if other.operations() == own.operations())
        first = next(same, own)
        return {"ansatz": first.ansatz, "entanglement": first.entanglement}

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option in ("ansatz", "entanglement") and self.n_layers == 0:
            return "circuit.n_layers is 0"
        if option == "entanglement" and self.n_qubits == 1:
            return "circuit.n_qubits is 1: there is nothing to entangle"
        if option == "reupload" and self.n_layers <= 1:
            return f"circuit.n_layers is {self.n_layers}: the data are encoded once anyway"
        return None

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups in which this circuit has nothing to train, each with the reason."""
        return {"circuit": "circuit.n_layers is 0"} if self.n_layers == 0 else {}


def _siblings(spec: CircuitSpec) -> Iterator[CircuitSpec]:
    """Yield the circuits that differ from `spec` in ansatz and entanglement alone, and itself."""
    for ansatz, entanglement in itertools.product(ANSATZE, ENTANGLEMENTS):
        if (ansatz == "separable") == (entanglement == "none"):
            yield dataclasses.replace(spec, ansatz=ansatz, entanglement=entanglement)
