"""`CircuitSpec`: the meaning of a variational circuit, independent of how an engine evaluates it."""

import dataclasses
import math

from qwafer._checks import check_choice, check_positive_int
from qwafer._errors import InputError

ENCODINGS = ("ry", "rx", "rz")
ANSATZE = ("strongly_entangling", "basic_entangler", "separable")
ENTANGLEMENTS = ("ring", "linear", "all", "none")
READOUTS = ("mean_z", "z_vec", "mean_z_readout", "z", "bloch")
DTYPES = ("float32", "float64")


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
      Empty stands for the ansatz's own.
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
        if self.entanglement == "":
            object.__setattr__(self, "entanglement", native)
        check_choice("entanglement", self.entanglement, ENTANGLEMENTS)
        if (self.entanglement == "none") != (self.ansatz == "separable"):
            raise InputError(
                f"`entanglement` = {self.entanglement} does not go with ansatz {self.ansatz}: "
                "`none` belongs to `separable`, and to it alone"
            )
        if self.readout == "mean_z" and self.n_outputs != 1:
            raise InputError(
                f"`readout` = mean_z has no weights that could tell {self.n_outputs} outputs apart: "
                "use `mean_z_readout` or `z_vec`"
            )
        implied = {"z": self.n_qubits, "bloch": 3 * self.n_qubits}.get(self.readout)
        if implied is not None:
            if self.n_outputs not in (1, implied):
                raise InputError(f"`n_outputs` of readout {self.readout} is {implied}, got {self.n_outputs}")
            object.__setattr__(self, "n_outputs", implied)

    @property
    def angles_per_wire(self) -> int:
        """Trainable angles a wire and layer: 1 for `basic_entangler`, else 3."""
        return 1 if self.ansatz == "basic_entangler" else 3

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name: `ansatz` (layers, wires, angles) and, where it exists,
        `readout`.
        """
        shapes: dict[str, tuple[int, ...]] = {"ansatz": (self.n_layers, self.n_qubits, self.angles_per_wire)}
        if self.readout == "z_vec":
            shapes["readout"] = (self.n_outputs, self.n_qubits)
        elif self.readout == "mean_z_readout":
            shapes["readout"] = (self.n_outputs, self.n_qubits, 3)
        return shapes

    def n_weights(self) -> int:
        """Return the number of trainable angles and coefficients."""
        return sum(math.prod(shape) for shape in self.weight_shapes().values())

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
