"""`CircuitSpec`: the layered circuits of qwafer's heads, independent of how an engine evaluates them."""

import dataclasses

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.circuits.circuit import DTYPES, DerivedText, count_weights, derived_outputs
from qwafer.circuits.encodings import ENCODINGS, Encoding
from qwafer.circuits.gates import CNOT, RX, RY, RZ, Gate, Operation
from qwafer.circuits.readouts import READOUTS, Readout

ANSATZE: dict[str, tuple[Gate, ...]] = {
    "strongly_entangling": (RZ, RY, RZ),
    "basic_entangler": (RX,),
    "separable": (RZ, RY, RZ),
}
"""The trainable gates that each ansatz has on every wire of a layer, by its name."""
ENTANGLEMENTS = ("ring", "linear", "all", "none")


@dataclasses.dataclass(frozen=True)
class CircuitSpec:
    """A circuit of angle encoding, ansatz and readout on `n_qubits` wires that start in |0>.

    body(x, w) = prod_l [layer_l(w_l)] E(x), or prod_l [layer_l(w_l) E(x)] with `reupload`; s_k(x) = readout of the
    body.

    - Encodings E(x): `ry`: RY(x_i); `rx`: RX(x_i); `rz`: H then RZ(x_i), on every wire i.
    - Ansätze: `strongly_entangling`: on every wire RZ(w0), RY(w1), RZ(w2) in that order (PennyLane's Rot), then CNOTs;
      its ring has range l mod (n - 1) + 1 in layer l (Schuld et al. 2020, arXiv:1804.00633; PennyLane's template).
      `basic_entangler`: RX(w), then a CNOT ring of range 1. `separable`: RZ, RY, RZ and no entangling gate: the null.
    - Entanglement: `ring`; `linear`: CNOT(i, i+1); `all`: CNOT(i, j) for all i < j; `none`, for `separable` alone.
      Empty stands for the ansatz's own, also after `dataclasses.replace` has changed the ansatz.
    - Readouts, in [-1, 1] but for `z_vec`: `mean_z` = (1/n) sum_i <Z_i>; `z_vec`: s_k = sum_i w_ki <Z_i>;
      `mean_z_readout`: per output k and wire i trainable gates RZ, RY, RZ, then mean Z; `z`: the n values <Z_i>;
      `bloch`: the 3n values <X_0>, <Y_0>, <Z_0>, <X_1>, ....

    Raises InputError where the combination has no meaning.
    """

    n_qubits: int
    n_layers: int
    encoding: str = "ry"
    ansatz: str = "strongly_entangling"
    entanglement: str = ""
    readout: str = "mean_z"
    n_outputs: int = 1
    reupload: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("n_qubits", self.n_qubits)
        check_positive_int("n_layers", self.n_layers, minimum=0)
        check_positive_int("n_outputs", self.n_outputs)
        check_choice("encoding", self.encoding, ENCODINGS)
        check_choice("ansatz", self.ansatz, ANSATZE)
        check_choice("readout", self.readout, READOUTS)
        check_choice("dtype", self.dtype, DTYPES)
        if not isinstance(self.reupload, bool):
            raise TypeError(f"`reupload` must be true or false, got {self.reupload!r}")
        native = "none" if self.ansatz == "separable" else "ring"
        if self.entanglement == "" or isinstance(self.entanglement, DerivedText):
            object.__setattr__(self, "entanglement", DerivedText(native))
        check_choice("entanglement", self.entanglement, ENTANGLEMENTS)
        if (self.entanglement == "none") != (self.ansatz == "separable"):
            raise InputError(
                f"`entanglement` = {self.entanglement} does not go with ansatz {self.ansatz}: "
                "`none` belongs to `separable`, and to it alone"
            )
        object.__setattr__(self, "n_outputs", derived_outputs(self.n_outputs, self.readout_facts, self.n_qubits))

    @property
    def n_inputs(self) -> int:
        """Inputs of one example: one per wire."""
        return self.n_qubits

    @property
    def encoding_facts(self) -> Encoding:
        """The encoding."""
        return ENCODINGS[self.encoding]

    @property
    def readout_facts(self) -> Readout:
        """The readout."""
        return READOUTS[self.readout]

    @property
    def layer_gates(self) -> tuple[Gate, ...]:
        """The trainable gates on every wire of a layer."""
        return ANSATZE[self.ansatz]

    @property
    def encodes_once(self) -> bool:
        """Whether every input enters one gate only."""
        return not self.reupload or self.n_layers <= 1

    def operations(self) -> tuple[Operation, ...]:
        """Return the gates of the body (encoding and ansatz), in order of application."""
        encoding = list(self.encoding_facts.operations(self.n_qubits))
        ops = [*encoding]
        for layer in range(self.n_layers):
            if layer and self.reupload:
                ops += encoding
            ops += self.layer_operations(layer)
        return tuple(ops)

    def layer_operations(self, layer: int) -> tuple[Operation, ...]:
        """Return the gates of one layer of the ansatz."""
        rotations = [
            Operation(gate, (wire,), "ansatz", (layer, wire, angle))
            for wire in range(self.n_qubits)
            for angle, gate in enumerate(self.layer_gates)
        ]
        return (*rotations, *(Operation(CNOT, pair) for pair in self.entangling_pairs(layer)))

    def readout_operations(self, output: int) -> tuple[Operation, ...]:
        """Return the trainable readout gates of one output: RZ, RY, RZ per wire for `mean_z_readout`, else none."""
        return tuple(self.readout_facts.operations(output, self.n_qubits))

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight: `ansatz` (layers, wires, gates) and, where it has one, `readout`."""
        ansatz = (self.n_layers, self.n_qubits, len(self.layer_gates))
        return {"ansatz": ansatz, **self.readout_facts.weight_shapes(self.n_outputs, self.n_qubits)}

    def n_weights(self) -> int:
        """Return the number of trainable angles and coefficients."""
        return count_weights(self.weight_shapes())

    def body(self) -> "CircuitSpec":
        """Return the same circuit with the `bloch` readout: all 3n single-qubit expectation values."""
        return dataclasses.replace(self, readout="bloch", n_outputs=1)

    def entangling_pairs(self, layer: int) -> tuple[tuple[int, int], ...]:
        """Return the (control, target) pairs of the CNOTs of `layer`, in order of application."""
        n = self.n_qubits
        if n == 1 or self.entanglement == "none":
            return ()
        if self.entanglement == "linear":
            return tuple((i, i + 1) for i in range(n - 1))
        if self.entanglement == "all":
            return tuple((i, j) for i in range(n) for j in range(i + 1, n))
        if self.ansatz == "basic_entangler":
            # PennyLane's BasicEntanglerLayers has a single CNOT on two wires, not a ring of two.
            return ((0, 1),) if n == 2 else tuple((i, (i + 1) % n) for i in range(n))
        reach = layer % (n - 1) + 1
        return tuple((i, (i + reach) % n) for i in range(n))
