"""What the sensitivity probe says of every published model: findings as records, and the table of docs/models.md."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qwafer._checks import check_choice
from qwafer._records import save_record
from qwafer.models import MODELS
from qwafer.models.base import PUBLISHED

LAYERS = 2
"""Layers of the variational circuits."""
VECTOR, IMAGE = 4, 9
"""Features of an example."""


@dataclass(frozen=True)
class Finding:
    """What the sensitivity probe says of one model."""

    model: str
    """Name in `qwafer.models.MODELS`, with the variant where it is as published."""
    parameters: int
    """Weights that were asked."""
    inputs: int
    """Inputs that were asked."""
    verdict: str
    """`pass`, `warn` (inert ones) or `fail` (dead ones)."""
    inert_parameters: int
    """Weights that move nothing."""
    inert_inputs: int
    """Inputs that move nothing."""
    headline: str
    """What it says."""


@dataclass(frozen=True)
class Findings:
    """All of them, as a file holds them."""

    SCHEMA: ClassVar[str] = "qwafer/models/1"

    seed: int
    found: tuple[Finding, ...]


def subjects() -> dict[str, Callable[[], Any]]:
    """Return what makes the subject of every model by name."""
    import numpy as np

    from qwafer.circuits.capture import circuit
    from qwafer.config import RunConfig
    from qwafer.heads import head_inputs
    from qwafer.models import BoltzmannOptions, WeiNet
    from qwafer.models.metric import angle_shapes, qaoa_state, self_overlap
    from qwafer.models.quanvolution import random_filter
    from qwafer.overrides import with_options
    from qwafer.probes import circuit_subject, function_subject

    def of(made: Any) -> Any:
        return circuit_subject(made, "xla")

    def named(name: str) -> Callable[[], Any]:
        model = MODELS[name]

        def make() -> Any:
            options = model.options(VECTOR if model.kind == "vector" else IMAGE)
            config = with_options(RunConfig(), options)
            if hasattr(config.circuit, "n_layers"):
                config = with_options(config, {"circuit.n_layers": LAYERS})
            return of(config.circuit.circuit(1))

        return make

    def thermal(**options: Any) -> Callable[[], Any]:
        def make() -> Any:
            head = BoltzmannOptions(**options).make(head_inputs(np.eye(VECTOR), 1, 0))
            theta = np.asarray(head.params["projection.theta"][0])
            return function_subject(head.expectation, theta, VECTOR, name="expectation", dtype="float64")

        return make

    def kernel(name: str) -> Callable[[], Any]:
        def make() -> Any:
            config = with_options(RunConfig(), MODELS[name].options(VECTOR))
            return of(config.head.kernel(VECTOR, 0).circuit)

        return make

    def metric(function: Any) -> Callable[[], Any]:
        return lambda: of(circuit(function, angle_shapes(VECTOR, 1), VECTOR))

    with_circuit = [name for name, model in MODELS.items() if "circuit.name" in model.settings]
    return {
        **{name: named(name) for name in with_circuit},
        f"weinet, {PUBLISHED}": lambda: of(WeiNet(IMAGE, variant=PUBLISHED).circuit(1)),
        "boltzmann": thermal(),
        f"boltzmann, {PUBLISHED}": thermal(variant=PUBLISHED),
        "boltzmann_separable": thermal(entangled=False),
        **{name: kernel(name) for name in ("iqp_kernel", "projected_kernel", "separable_kernel")},
        "metric_learner": metric(qaoa_state),
        f"metric_learner, {PUBLISHED}, within a class": metric(self_overlap),
        "quanvolutional": lambda: of(circuit(random_filter, {"angles": (2, 8)}, 4)),
    }


def probe_models(names: Sequence[str] = (), seed: int = 0) -> Findings:
    """Return what the sensitivity probe says of the models called `names` (all, if none), on engine `xla`."""
    from qwafer.probes import classify, gather, sensitivity

    known, found = subjects(), []
    for name in names:
        check_choice("model", name, tuple(known))
    for name in names or known:
        subject = known[name]()
        evidence = gather(subject, seed=seed, reference=False)
        labels, report = classify(evidence), sensitivity(evidence)
        idle = [group for (group, _), label in labels.items() if label == "inert"]
        found.append(
            Finding(
                name,
                sum(math.prod(shape) for shape in subject.shapes.values()),
                subject.n_inputs,
                report.verdict,
                sum(group != "inputs" for group in idle),
                sum(group == "inputs" for group in idle),
                report.headline,
            )
        )
    return Findings(seed, tuple(found))


def findings_table(findings: Findings) -> str:
    """Return the table of docs/models.md."""
    lines = ["| model | parameters | inert | inputs | inert | what the probe says |", "|---|---|---|---|---|---|"]
    for one in findings.found:
        counts = f"{one.parameters} | {one.inert_parameters} | {one.inputs} | {one.inert_inputs}"
        lines.append(f"| {one.model} | {counts} | {one.verdict}: {one.headline} |")
    return "\n".join(lines)


def write_findings(findings: Findings, path: str | Path) -> Path:
    """Write findings as JSON."""
    save_record(Path(path), findings)
    return Path(path)
