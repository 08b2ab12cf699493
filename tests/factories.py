"""Feature sets and wafer maps for tests, small, drawn from a seed, any field replaced by a keyword; options by name;
random circuits."""

from typing import Any

import numpy as np

from qwafer.circuits import Circuit, CircuitSpec, GateCircuit, Operation
from qwafer.circuits.gates import CNOT, CZ, RX, RY, RZ, H
from qwafer.config import TrainingConfig
from qwafer.data import WaferMaps, content_ids
from qwafer.features import FeatureSet
from qwafer.heads import HEADS
from qwafer.objective import LOSSES

QUICK_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Options of `jax.jit` for programs that run once: compiling them is all that costs."""


def feature_set(
    n: int = 120, d: int = 4, k: int = 1, *, seed: int = 0, signal: float = 1.0, **fields: Any
) -> FeatureSet:
    """Return N examples of D normal features, the first K of which move by `signal` with the label of their number."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < 0.4).astype(np.uint8)
    features = rng.standard_normal((n, d)).astype(np.float32)
    shared = min(k, d)
    features[:, :shared] += np.float32(signal) * labels[:, :shared]
    values: dict[str, Any] = {
        "features": features,
        "labels": labels,
        "label_names": tuple(f"L{i}" for i in range(k)),
        "content_ids": np.array([f"{i:016x}" for i in range(n)]),
        "provenance": {"backbone": "made"},
    }
    return FeatureSet(**{**values, **fields})


def wafer_maps(
    n: int = 30, k: int = 2, *, shape: tuple[int, int] = (5, 6), ragged: bool = False, seed: int = 0, **fields: Any
) -> WaferMaps:
    """Return N maps of random dies, of one shape or of a dozen of them, with K random labels."""
    rng = np.random.default_rng(seed)
    height, width = shape
    if ragged:
        maps: Any = tuple(rng.integers(0, 3, (height + i % 4, width + i % 3), dtype=np.uint8) for i in range(n))
    else:
        maps = rng.integers(0, 3, (n, height, width), dtype=np.uint8)
    values: dict[str, Any] = {
        "maps": maps,
        "labels": rng.integers(0, 2, (n, k), dtype=np.uint8),
        "label_names": tuple("abcdefgh"[:k]),
        "source": "a test",
        "sha256": "0" * 64,
        **fields,
    }
    if "content_ids" not in values:
        values["content_ids"] = content_ids(values["maps"])
    return WaferMaps(**values)


def head_options(name: str = "quantum", **options: Any) -> Any:
    """Return the options of the head called `name`."""
    return HEADS.get(name)(**options)


def loss_options(loss: str = "bce", **options: Any) -> Any:
    """Return the loss called `loss`."""
    return LOSSES.get(loss)(**options)


def training_options(**options: Any) -> TrainingConfig:
    """Return options of training for exactly so many epochs, whether it has converged or not."""
    return TrainingConfig(**{"max_doublings": 0, **options})


def random_circuit(seed: int) -> tuple[Circuit, str]:
    """Return a layered circuit for engine xla, or, one time in ten, a circuit of gates, some angles in several."""
    generator = np.random.default_rng(seed)

    def choose(*options: Any) -> Any:
        return options[generator.integers(len(options))]

    n_qubits, dtype = int(generator.integers(1, 6)), choose("float32", "float64")
    readout = choose("mean_z", "z_vec", "mean_z_readout", "z", "bloch")
    n_outputs = int(generator.integers(1, 4)) if readout in ("z_vec", "mean_z_readout") else 1
    if seed % 10 == 0:
        n_qubits, operations = min(n_qubits, 3), []
        for place in range(8):
            gate, wires = choose(RX, RY, RZ, CNOT, CZ, H), tuple(int(i) for i in generator.permutation(n_qubits))
            if gate.n_wires > n_qubits:
                continue
            source = "" if gate.generator is None else "inputs" if place % 3 == 0 else "w"
            index = () if not source else (int(generator.integers(2 if source == "inputs" else 4)),)
            operations.append(Operation(gate, wires[: gate.n_wires], source, index))
        weights = (("w", (4,)),)
        return GateCircuit(n_qubits, tuple(operations), 2, weights, readout, n_outputs, dtype), "reference"
    ansatz = choose("strongly_entangling", "basic_entangler", "separable")
    spec = CircuitSpec(
        n_qubits=n_qubits,
        n_layers=int(generator.integers(0, 5)),
        encoding=choose("ry", "rx", "rz"),
        ansatz=ansatz,
        entanglement="" if ansatz == "separable" else choose("ring", "linear", "all"),
        readout=readout,
        n_outputs=n_outputs,
        reupload=choose(True, False),
        dtype=dtype,
    )
    return spec, "xla"


def two_heads(seeds: int, task: str) -> str:
    """The TOML of a short experiment: a linear map and eight hidden units."""
    return f"""
title = "Two classical heads"
seeds = {seeds}
metric = "test.roc_auc"
[data]
task = "{task}"
[training]
epochs = 2
max_doublings = 0
batch_size = 16
[arms.linear]
head = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 8
"""
