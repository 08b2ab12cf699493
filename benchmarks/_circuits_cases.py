"""The circuits of `circuits.py`, each as PennyLane's users write it and, beside it, as those of TensorCircuit do.

`CASES` names them with their numbers of wires; `case(family, n)` is one, of any number of wires that its family has.
Imported in the project's environment and in that of the peers: nothing of qwafer.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml

LAYERS = 4
"""Layers of every circuit that has layers, other than the convolution."""
RANDOM_GATES = 200

CASES = (
    ("reupload", 4),
    ("reupload", 8),
    ("iqp_cz", 6),
    ("iqp_cz", 10),
    ("dressed", 8),
    ("circuit_centric", 8),
    ("qaoa", 6),
    ("quanvolution", 4),
    ("tree", 8),
    ("hardware_efficient", 12),
    ("random", 8),
)
"""(family, wires)."""

Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One circuit: gates on wires 0 to n - 1, then <Z ... Z> on each set of wires of `measured`."""

    family: str
    n: int
    weights: dict[str, tuple[int, ...]]
    """Name and shape of every weight."""
    n_inputs: int
    measured: tuple[tuple[int, ...], ...]
    gates: Callable[[Weights, Any], None]
    """(weights, x) of one example: applies PennyLane's gates."""
    twin: Callable[[Any, Any, Weights, Any], Any]
    """(tensorcircuit, its backend, weights, x) -> the same as a circuit of TensorCircuit."""

    @property
    def name(self) -> str:
        """Family and wires."""
        return f"{self.family}-{self.n}"

    def function(self, weights: Weights, x: Any) -> list[Any]:
        """Apply PennyLane's gates and return the measurements: the quantum function of one example."""
        self.gates(weights, x)
        return [
            qml.expval(qml.prod(*map(qml.Z, wires)) if len(wires) > 1 else qml.Z(*wires)) for wires in self.measured
        ]

    def arrays(self, batch: int) -> dict[str, np.ndarray]:
        """Return random weights (`weights.NAME`), `inputs` (batch, n_inputs), `labels` (batch, outputs) in float64."""
        rng = np.random.default_rng([self.n, batch, len(self.family)])
        own = {f"weights.{name}": rng.normal(size=shape) for name, shape in self.weights.items()}
        inputs = rng.uniform(-np.pi / 2, np.pi / 2, size=(batch, self.n_inputs))
        return {**own, "inputs": inputs, "labels": rng.integers(0, 2, size=(batch, len(self.measured))).astype(float)}


def case(family: str, n: int) -> Case:
    """Return the circuit of `family` on n wires."""
    return FAMILIES[family](n)


def each(n: int) -> tuple[tuple[int, ...], ...]:
    """Return every wire by itself."""
    return tuple((wire,) for wire in range(n))


def reupload(n: int) -> Case:
    """Data re-uploading (Perez-Salinas et al. 2020): Rot(omega * x + theta) on each wire, and a ring of CZ."""

    def gates(weights: Weights, x: Any) -> None:
        for layer in range(LAYERS):
            for i in range(n):
                angles = weights["omega"][layer, i] * x[i] + weights["theta"][layer, i]
                qml.Rot(angles[0], angles[1], angles[2], wires=i)
            for i in range(n):
                qml.CZ(wires=[i, (i + 1) % n])

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for layer in range(LAYERS):
            for i in range(n):
                angles = weights["omega"][layer, i] * x[i] + weights["theta"][layer, i]
                circuit.u(i, theta=angles[1], phi=angles[2], lbd=angles[0])
            for i in range(n):
                circuit.cz(i, (i + 1) % n)
        return circuit

    shape = (LAYERS, n, 3)
    return Case("reupload", n, {"omega": shape, "theta": shape}, n, each(n), gates, twin)


def iqp_cz(n: int) -> Case:
    """IQP embedding, then strongly entangling layers with CZ, <Z_0 Z_1> (qml-benchmarks' IQPVariationalClassifier)."""

    def gates(weights: Weights, x: Any) -> None:
        qml.IQPEmbedding(x, wires=range(n))
        qml.StronglyEntanglingLayers(weights["theta"], wires=range(n), imprimitive=qml.CZ)

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.h(i)
            circuit.rz(i, theta=x[i])
        for i, j in itertools.combinations(range(n), 2):
            circuit.rzz(i, j, theta=x[i] * x[j])
        return _entangling(circuit, n, weights["theta"], "cz")

    return Case("iqp_cz", n, {"theta": (LAYERS, n, 3)}, n, ((0, 1),), gates, twin)


def dressed(n: int) -> Case:
    """The circuit of PennyLane's tutorial on transfer learning (Mari et al. 2020): H, RY(x), rows of CNOT and RY."""
    pairs = [(i, i + 1) for start in (0, 1) for i in range(start, n - 1, 2)]

    def gates(weights: Weights, x: Any) -> None:
        for i in range(n):
            qml.Hadamard(wires=i)
        for i in range(n):
            qml.RY(x[i], wires=i)
        for layer in range(LAYERS):
            for pair in pairs:
                qml.CNOT(wires=pair)
            for i in range(n):
                qml.RY(weights["theta"][layer, i], wires=i)

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.h(i)
            circuit.ry(i, theta=x[i])
        for layer in range(LAYERS):
            for pair in pairs:
                circuit.cnot(*pair)
            for i in range(n):
                circuit.ry(i, theta=weights["theta"][layer, i])
        return circuit

    return Case("dressed", n, {"theta": (LAYERS, n)}, n, each(n), gates, twin)


def circuit_centric(n: int) -> Case:
    """Amplitudes of each example, then strongly entangling layers, <Z_0> (Schuld et al. 2020)."""

    def gates(weights: Weights, x: Any) -> None:
        qml.AmplitudeEmbedding(x, wires=range(n), normalize=True)
        qml.StronglyEntanglingLayers(weights["theta"], wires=range(n))

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n, inputs=x / backend.norm(x))
        return _entangling(circuit, n, weights["theta"], "cnot")

    return Case("circuit_centric", n, {"theta": (LAYERS, n, 3)}, 2**n, ((0,),), gates, twin)


def qaoa(n: int) -> Case:
    """The QAOA embedding of PennyLane's templates (Lloyd et al. 2020), one feature and one <Z> per wire."""

    def gates(weights: Weights, x: Any) -> None:
        qml.QAOAEmbedding(x, weights=weights["theta"], wires=range(n))

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for layer in range(LAYERS):
            for i in range(n):
                circuit.rx(i, theta=x[i])
            for i in range(n):
                circuit.rzz(i, (i + 1) % n, theta=weights["theta"][layer, i])
            for i in range(n):
                circuit.ry(i, theta=weights["theta"][layer, n + i])
        for i in range(n):
            circuit.rx(i, theta=x[i])
        return circuit

    return Case("qaoa", n, {"theta": (LAYERS, 2 * n)}, n, each(n), gates, twin)


def quanvolution(n: int) -> Case:
    """The filter of PennyLane's tutorial on quanvolution: RY(pi x) of a patch, two random layers, <Z> of each wire."""

    def gates(weights: Weights, x: Any) -> None:
        for i in range(n):
            qml.RY(np.pi * x[i], wires=i)
        qml.RandomLayers(weights["theta"], wires=range(n))

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.ry(i, theta=np.pi * x[i])
        places = np.arange(2 * n, dtype=float).reshape(2, n)  # each parameter is its own place among the weights
        for gate in qml.RandomLayers.compute_decomposition(places, wires=range(n), **random_layers):
            if gate.parameters:
                angle = weights["theta"][divmod(round(float(gate.parameters[0])), n)]
                getattr(circuit, gate.name.lower())(gate.wires[0], theta=angle)
            else:
                circuit.cnot(*gate.wires)
        return circuit

    random_layers = qml.RandomLayers(np.zeros((2, n)), wires=range(n)).hyperparameters
    return Case("quanvolution", n, {"theta": (2, n)}, n, each(n), gates, twin)


def tree(n: int) -> Case:
    """A tree tensor network (Grant et al. 2018): RY(x), then RY on pairs and CNOT towards the root, <Z> of the root."""
    blocks = [(first, first + reach) for reach in _powers(n) for first in range(0, n, 2 * reach)]

    def gates(weights: Weights, x: Any) -> None:
        qml.AngleEmbedding(x, wires=range(n), rotation="Y")
        for block, (first, second) in enumerate(blocks):
            qml.RY(weights["theta"][block, 0], wires=first)
            qml.RY(weights["theta"][block, 1], wires=second)
            qml.CNOT(wires=[second, first])
        qml.RY(weights["last"], wires=0)

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.ry(i, theta=x[i])
        for block, (first, second) in enumerate(blocks):
            circuit.ry(first, theta=weights["theta"][block, 0])
            circuit.ry(second, theta=weights["theta"][block, 1])
            circuit.cnot(second, first)
        circuit.ry(0, theta=weights["last"])
        return circuit

    return Case("tree", n, {"theta": (len(blocks), 2), "last": ()}, n, ((0,),), gates, twin)


def hardware_efficient(n: int) -> Case:
    """RY(x), then layers of RY on each wire and a chain of CZ, <Z> of each wire (Kandala et al. 2017)."""

    def gates(weights: Weights, x: Any) -> None:
        qml.AngleEmbedding(x, wires=range(n), rotation="Y")
        for layer in range(LAYERS):
            for i in range(n):
                qml.RY(weights["theta"][layer, i], wires=i)
            for i in range(n - 1):
                qml.CZ(wires=[i, i + 1])

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.ry(i, theta=x[i])
        for layer in range(LAYERS):
            for i in range(n):
                circuit.ry(i, theta=weights["theta"][layer, i])
            for i in range(n - 1):
                circuit.cz(i, i + 1)
        return circuit

    return Case("hardware_efficient", n, {"theta": (LAYERS, n)}, n, each(n), gates, twin)


TURNS = {"rx": (qml.RX, 1), "ry": (qml.RY, 1), "rz": (qml.RZ, 1), "rzz": (qml.IsingZZ, 2), "crx": (qml.CRX, 2)}
FIXED = {"h": (qml.Hadamard, 1), "s": (qml.S, 1), "t": (qml.T, 1), "cnot": (qml.CNOT, 2), "cz": (qml.CZ, 2)}
FIXED |= {"swap": (qml.SWAP, 2), "toffoli": (qml.Toffoli, 3)}
"""Name at TensorCircuit: (PennyLane's gate, wires)."""


def random(n: int) -> Case:
    """200 random gates of one to three wires; angles are a weight, an input, w x or w + x; <Z> of each wire."""
    rng = np.random.default_rng(200)
    names = [str(name) for name in rng.choice([*TURNS, *TURNS, *FIXED], size=RANDOM_GATES)]
    wires = [tuple(map(int, rng.permutation(n)[: {**TURNS, **FIXED}[name][1]])) for name in names]
    rules = rng.integers(5, size=RANDOM_GATES)
    features = rng.integers(n, size=RANDOM_GATES)
    turns = {gate: place for place, gate in enumerate(gate for gate, name in enumerate(names) if name in TURNS)}

    def angle(gate: int, weights: Weights, x: Any) -> Any:
        own, feature = weights["theta"][turns[gate]], x[int(features[gate])]
        return (own, own, feature, own * feature, own + feature)[int(rules[gate])]

    def gates(weights: Weights, x: Any) -> None:
        for gate, name in enumerate(names):
            if name in TURNS:
                TURNS[name][0](angle(gate, weights, x), wires=wires[gate])
            else:
                FIXED[name][0](wires=wires[gate])

    def twin(tc: Any, backend: Any, weights: Weights, x: Any) -> Any:
        circuit = tc.Circuit(n)
        for gate, name in enumerate(names):
            angles = {"theta": angle(gate, weights, x)} if name in TURNS else {}
            getattr(circuit, name)(*wires[gate], **angles)
        return circuit

    return Case("random", n, {"theta": (len(turns),)}, n, each(n), gates, twin)


FAMILIES: dict[str, Callable[[int], Case]] = {
    make.__name__: make
    for make in (
        reupload,
        iqp_cz,
        dressed,
        circuit_centric,
        qaoa,
        quanvolution,
        tree,
        hardware_efficient,
        random,
    )
}


def _entangling(circuit: Any, n: int, theta: Any, gate: str) -> Any:
    """Apply strongly entangling layers by TensorCircuit: Rot as one gate, and a ring of range l mod (n - 1) + 1."""
    for layer in range(theta.shape[0]):
        for i in range(n):
            circuit.u(i, theta=theta[layer, i, 1], phi=theta[layer, i, 2], lbd=theta[layer, i, 0])
        for i in range(n):
            getattr(circuit, gate)(i, (i + layer % (n - 1) + 1) % n)
    return circuit


def _powers(n: int) -> list[int]:
    """Return 1, 2, 4, ... below n, a power of two."""
    if n & (n - 1):
        raise ValueError(f"a tree has a power of two wires, got {n}")
    return [2**k for k in range(n.bit_length() - 1)]
