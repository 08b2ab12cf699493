"""The gate sequence of a `CircuitSpec`, as data: the one definition that every engine interprets."""

import dataclasses
from collections.abc import Iterator

from qwafer.circuits.spec import CircuitSpec


@dataclasses.dataclass(frozen=True)
class Operation:
    """One gate: `name` (H, CNOT, RX, RY or RZ), its `wires`, and where its angle (radians) comes from.

    `source` is "" for a fixed gate, "angles" (index: wire), "ansatz" (index: layer, wire, angle) or "readout"
    (index: output, wire, angle).
    """

    name: str
    wires: tuple[int, ...]
    source: str = ""
    index: tuple[int, ...] = ()


def operations(spec: CircuitSpec) -> Iterator[Operation]:
    """Yield the gates of the body of `spec` (encoding and ansatz), in order of application."""
    for layer in range(spec.n_layers):
        if layer == 0 or spec.reupload:
            yield from _encoding(spec)
        yield from _layer(spec, layer)
    if spec.n_layers == 0:
        yield from _encoding(spec)


def readout_operations(spec: CircuitSpec, output: int) -> Iterator[Operation]:
    """Yield the trainable readout gates of one output: RZ, RY, RZ a wire for `mean_z_readout`, nothing otherwise."""
    if spec.readout == "mean_z_readout":
        for wire in range(spec.n_qubits):
            for angle, name in enumerate(("RZ", "RY", "RZ")):
                yield Operation(name, (wire,), "readout", (output, wire, angle))


def _encoding(spec: CircuitSpec) -> Iterator[Operation]:
    for wire in range(spec.n_qubits):
        if spec.encoding == "rz":
            yield Operation("H", (wire,))
        yield Operation(spec.encoding.upper(), (wire,), "angles", (wire,))


def _layer(spec: CircuitSpec, layer: int) -> Iterator[Operation]:
    names = ("RX",) if spec.ansatz == "basic_entangler" else ("RZ", "RY", "RZ")
    for wire in range(spec.n_qubits):
        for angle, name in enumerate(names):
            yield Operation(name, (wire,), "ansatz", (layer, wire, angle))
    for pair in spec.entangling_pairs(layer):
        yield Operation("CNOT", pair)
