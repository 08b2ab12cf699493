"""The logits of heads in array operations alone: linear, MLP, and quantum in real arithmetic up to eight wires."""

from typing import Any

import numpy as np

from qwafer._errors import CapabilityError
from qwafer.circuits import CircuitSpec, GateCircuit
from qwafer.circuits.gates import INPUTS, Operation, pauli_matrix
from qwafer.circuits.readouts import readout_matrix
from qwafer.circuits.statevector import evolve
from qwafer.heads._normalization import LENGTH, MEAN, SCALE

MOST_WIRES = 8
"""Wires of a circuit that can be written: its unitary is a matrix of 2^(n + 1) rows."""


def check_head(name: str, head: Any) -> None:
    """Raise CapabilityError for a head that cannot be written."""
    if LENGTH in getattr(head, "buffers", {}):
        raise CapabilityError("head.normalize = l2 cannot be exported: take standard, min_max or raw")
    if name == "lora":
        raise CapabilityError(
            "head lora cannot be exported: merge its adapters into the network's weights (write_merged), and train "
            "head linear on the features of those"
        )
    if name not in ("linear", "mlp", "quantum"):
        raise CapabilityError(f"head {name} cannot be exported: take linear, mlp or quantum")
    if name != "quantum":
        return
    for option in ("angle_bits", "projection_bits"):
        if getattr(head, option) is not None:
            raise CapabilityError(f"a quantum head with head.{option} cannot be exported: leave it out")
    circuit = head.spec
    if not isinstance(circuit, (CircuitSpec, GateCircuit)) or circuit.readout_facts.amplitudes:
        raise CapabilityError(
            "a captured circuit, or one that returns its state, cannot be exported: give it by its gates"
        )
    if circuit.n_qubits > MOST_WIRES:
        raise CapabilityError(f"circuits of up to {MOST_WIRES} wires can be exported, got {circuit.n_qubits}")
    if any(operation.gate.given is not None for operation in circuit.operations()):
        raise CapabilityError("a circuit with given unitaries or states cannot be exported: encode by rotations")


def head_logits(xp: Any, name: str, head: Any, features: Any) -> Any:
    """Return the logits (batch, n_labels) of features (batch, D) float32, in the head's dtype; see `Head.logits`."""
    import jax

    with jax.ensure_compile_time_eval():  # constants, also where the caller is being traced
        held = {key: np.asarray(value, head.dtype) for key, value in {**head.params, **head.buffers}.items()}
        weights = {} if name != "quantum" else {key: np.asarray(v) for key, v in head.circuit_weights().items()}
        alpha = np.asarray(head.alpha(), head.dtype)[None] if name == "quantum" else None

    def layer(x: Any, layer: str) -> Any:
        return x @ xp.asarray(held[f"{layer}.weight"]) + xp.asarray(held[f"{layer}.bias"][None])

    x = features.astype(head.dtype)
    if MEAN in held:
        x = (x - xp.asarray(held[MEAN][None])) / xp.asarray(held[SCALE][None])
    if name == "linear":
        return layer(x, "projection.linear")
    if name == "mlp":
        return layer(xp.maximum(layer(x, "projection.hidden"), 0.0), "projection.output")
    maps = {"tanh": xp.tanh, "atan": lambda z: xp.arctan(z) * (2 / np.pi), "linear": lambda z: z}
    angles = maps[head.angle_map](layer(x, "projection")) * head.angle_scale
    scores = circuit_values(xp, head.spec, weights, angles)
    return xp.asarray(alpha) * (scores + xp.asarray(held["readout.bias"][None]))


def circuit_values(xp: Any, circuit: Any, weights: Any, angles: Any) -> Any:
    """Return s (batch, n_outputs) for angles (batch, n_inputs), in radians; `weights` are constants.

    A state is (Re psi, Im psi), 2^(n + 1) real numbers. Gates between two inputs are one matrix [[Re U, -Im U],
    [Im U, Re U]]; a rotation exp(-i t P / 2) by an input t is cos(t/2) psi + sin(t/2) (-i P psi), and -i P is a
    permutation with signs.
    """
    n, dtype = circuit.n_qubits, circuit.dtype
    sources = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    state: Any = np.eye(1, 2 ** (n + 1))  # |0...0>, a constant up to the first input
    waiting: list[Operation] = []

    def flushed(state: Any) -> Any:
        if not waiting:
            return state
        moved = evolve(n, waiting, sources, start=np.eye(2**n, dtype=np.complex128))  # row j is U|j>
        waiting.clear()
        matrix = np.block([[moved.real, moved.imag], [-moved.imag, moved.real]])
        return state @ (matrix if isinstance(state, np.ndarray) else xp.asarray(matrix.astype(dtype)))

    for operation in circuit.operations():
        if operation.source != INPUTS:
            waiting.append(operation)
            continue
        state = flushed(state)
        half = xp.take(angles, np.array([operation.index[0]]), axis=1) / 2.0  # (batch, 1)
        turned = _permuted(xp, state, -1j * _word(n, operation.wires, operation.gate.generator or ""), dtype)
        fixed = xp.asarray(state.astype(dtype)) if isinstance(state, np.ndarray) else state
        state = xp.cos(half) * fixed + xp.sin(half) * turned
    state = flushed(state)
    if isinstance(state, np.ndarray):  # no gate takes an input
        state = xp.asarray(state.astype(dtype)) + xp.take(angles, np.array([0]), axis=1) * 0.0
    facts = circuit.readout_facts
    if not facts.per_wire:
        words = facts.words
        return xp.concatenate([_expectation(xp, state, _word(n, range(n), word), dtype) for word in words], axis=1)
    matrix = np.asarray(readout_matrix(circuit, sources, np, "float64")).reshape(circuit.n_outputs, -1)
    used = [place for place in range(3 * n) if matrix[:, place].any()] or [0]
    bloch = [_expectation(xp, state, _word(n, (place // 3,), "XYZ"[place % 3]), dtype) for place in used]
    return xp.concatenate(bloch, axis=1) @ xp.asarray(matrix[:, used].T.astype(dtype))


def _word(n: int, wires: Any, letters: str) -> np.ndarray:
    """Return the matrix (2^n, 2^n) of Pauli letters on wires."""
    at = dict(zip(wires, letters, strict=True))
    return pauli_matrix("".join(at.get(wire, "I") for wire in range(n)))


def _permuted(xp: Any, state: Any, matrix: np.ndarray, dtype: str) -> Any:
    """Return the real form of `matrix`, a permutation with factors 1, -1, i and -i, applied to the rows of `state`."""
    real = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    places = np.abs(real).argmax(axis=1)
    signs = real[np.arange(len(real)), places].astype(dtype)[None]
    if isinstance(state, np.ndarray):
        return xp.asarray((state[:, places] * signs).astype(dtype))
    moved = state if (places == np.arange(len(places))).all() else xp.take(state, places, axis=1)
    return moved * xp.asarray(signs)


def _expectation(xp: Any, state: Any, matrix: np.ndarray, dtype: str) -> Any:
    return xp.sum(state * _permuted(xp, state, matrix, dtype), axis=1, keepdims=True)
