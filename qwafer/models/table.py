"""The classes of Bowles, Ahmed and Schuld 2024 (arXiv:2403.07059) by name: options of a run, and the null of each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VECTOR, IMAGE = "vector", "image"

_CIRCUIT: dict[str, Any] = {
    "head.name": "quantum",
    "head.normalize": "min_max",
    "head.projection": "identity",
    "head.angle_map": "linear",
    "head.angle_scale": math.pi / 2,
    "head.alpha_train": False,
    "head.alpha_init": 1.0,
    "engine.name": "xla",
    "training.lr_mult_readout": 0.0,  # no bias
}
_AMPLITUDES = {**_CIRCUIT, "head.normalize": "raw", "head.angle_scale": 1.0}
_BIAS = {"training.lr_mult_readout": 1.0}
_SIX = {"head.alpha_init": 6.0}
_FIDELITY: dict[str, Any] = {
    **{name: value for name, value in _CIRCUIT.items() if "alpha" not in name and not name.startswith("training")},
    "head.name": "fidelity",
    "objective.loss": "linear",
}
_DRESSED = {**_CIRCUIT, "head.normalize": "standard", "head.projection": "linear", "head.angle_map": "tanh"}


@dataclass(frozen=True)
class Model:
    """One published class: which options make a run of it, and what it must beat."""

    published: str
    """Its name in qml-benchmarks."""
    settings: Mapping[str, Any]
    """Dotted options beside the number of inputs; complete, whatever the configuration that they are set in."""
    null: str
    """The separable or classical counterpart: a name in `MODELS`, or a head of qwafer's."""
    kind: str = VECTOR
    """`vector`, or `image`: features are the pixels of a square image."""
    inputs: str = field(default="circuit.n_inputs")
    """The option that says how many features there are; empty where none does."""

    def options(self, n_features: int) -> dict[str, Any]:
        """Return the options of a run on so many features, for `qwafer.overrides.with_options`."""
        return {**self.settings, **({self.inputs: n_features} if self.inputs else {})}


def _reuploading(published: str, head: Mapping[str, Any] = _FIDELITY, **circuit: Any) -> Model:
    own = {f"circuit.{name}": value for name, value in circuit.items()}
    null = "separable_variational" if circuit.get("variant") == "separable" else "reuploading_separable"
    return Model(published, {**head, "circuit.name": "reuploading", "circuit.n_layers": 4, **own}, null)


def _head(published: str, null: str, name: str, kind: str = VECTOR, **options: Any) -> Model:
    own = {f"head.{option}": value for option, value in options.items()}
    return Model(published, {"head.name": name, **own}, null, kind, "")


MODELS: Mapping[str, Model] = {
    "circuit_centric": Model(
        "CircuitCentricClassifier",
        {**_AMPLITUDES, **_BIAS, "circuit.name": "circuit_centric", "circuit.n_layers": 4, "objective.loss": "square"},
        "svc",
    ),
    "reuploading": _reuploading("DataReuploadingClassifier"),
    "reuploading_no_scaling": _reuploading("DataReuploadingClassifierNoScaling", variant="no_scaling"),
    "reuploading_no_trainable_embedding": _reuploading(
        "DataReuploadingClassifierNoTrainableEmbedding", variant="no_trainable_embedding"
    ),
    "reuploading_no_cost": _reuploading("DataReuploadingClassifierNoCost", {**_CIRCUIT, "objective.loss": "linear"}),
    "reuploading_separable": _reuploading("DataReuploadingClassifierSeparable", variant="separable"),
    "dressed": Model(
        "DressedQuantumCircuitClassifier",
        {**_DRESSED, "circuit.name": "dressed", "circuit.n_layers": 3},
        "dressed_separable",
    ),
    "dressed_separable": Model(
        "DressedQuantumCircuitClassifierSeparable",
        {**_DRESSED, "circuit.name": "dressed", "circuit.n_layers": 3, "circuit.entangled": False},
        "dressed_nn",
    ),
    "dressed_nn": Model(
        "DressedQuantumCircuitClassifierOnlyNN",
        {"head.name": "dressed_nn", "head.normalize": "standard"},
        "mlp",
        VECTOR,
        "head.n_units",
    ),
    "iqp_kernel": _head("IQPKernelClassifier", "separable_kernel", "iqp_kernel"),
    "iqp_variational": Model(
        "IQPVariationalClassifier",
        {**_CIRCUIT, "circuit.name": "iqp_variational", "circuit.n_layers": 10, "objective.loss": "linear"},
        "separable_variational",
    ),
    "projected_kernel": _head("ProjectedQuantumKernel", "svc", "projected_kernel"),
    "boltzmann": _head("QuantumBoltzmannMachine", "boltzmann_separable", "boltzmann", normalize="standard"),
    "boltzmann_separable": _head(
        "QuantumBoltzmannMachineSeparable", "linear", "boltzmann", normalize="standard", entangled=False
    ),
    "kitchen_sinks": _head("QuantumKitchenSinks", "cosines", "kitchen_sinks"),
    "cosines": _head("", "linear", "kitchen_sinks", features="cosines"),
    "metric_learner": _head("QuantumMetricLearner", "svc", "metric_learner"),
    "quanvolutional": _head("QuanvolutionalNeuralNetwork", "convolutional", "quanvolutional", IMAGE),
    "convolutional": _head("ConvolutionalNeuralNetwork", "mlp", "quanvolutional", IMAGE, filters="classical"),
    "separable_variational": Model(
        "SeparableVariationalClassifier", {**_CIRCUIT, **_SIX, "circuit.name": "separable_variational"}, "linear"
    ),
    "separable_kernel": _head("SeparableKernelClassifier", "svc", "separable_kernel"),
    "svc": _head("SVC", "linear", "svc"),
    "tree_tensor": Model(
        "TreeTensorClassifier",
        {**_AMPLITUDES, **_BIAS, "circuit.name": "tree_tensor", "objective.loss": "square"},
        "svc",
    ),
    "vanilla": Model(
        "VanillaQNN", {**_CIRCUIT, **_SIX, "circuit.name": "vanilla", "circuit.n_layers": 3}, "separable_variational"
    ),
    "weinet": Model("WeiNet", {**_AMPLITUDES, "circuit.name": "weinet"}, "convolutional", IMAGE),
}
"""Every model by name; where code and paper differ, as described (`variant` = as_published is the code)."""
