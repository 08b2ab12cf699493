"""Does moving a parameter move the output, and does the gradient know? Each is live, dead, inert or ghost."""

from collections.abc import Collection
from typing import Any

import numpy as np

from qwafer.circuits import INPUTS
from qwafer.probes.circuit.evidence import Evidence
from qwafer.probes.circuit.structure import inert_by_structure
from qwafer.probes.report import Report, Verdict, parameter_name, summarize_names

QUESTION = "Does every parameter move the output, and does its gradient say so?"

Parameter = tuple[str, tuple[int, ...]]


def classify(evidence: Evidence) -> dict[Parameter, str]:
    """Return {(group, index): class} of every parameter and input, over all points, examples and outputs.

    `live`: the output moves under a displacement (+-pi/2 where one gate holds the angle, else three that no integer
    frequency up to 200 can hide from) and the gradient is not zero. `dead`: the output moves,
    the gradient is zero everywhere: it will never be trained. `inert`: neither. `ghost`: a gradient, though nothing
    moves: the optimiser walks on noise. With finite shots a gradient is zero only where it is exactly so, and a ghost
    must exceed the noise.
    """
    classes: dict[Parameter, str] = {}
    still, zero = evidence.value_tolerance(), evidence.zero_gradient()
    for group, shape in evidence.subject.group_shapes().items():
        noise = evidence.gradient_tolerance(group)
        for position, index in enumerate(np.ndindex(*shape)):
            moved = max(float(np.max(point.moved[group][position])) for point in evidence.points)
            gradient = max(float(np.max(np.abs(point.jacobian[group][..., position]))) for point in evidence.points)
            if moved > still:
                label = "live" if gradient > zero else "dead"
            else:
                label = "ghost" if gradient > max(zero, noise) else "inert"
            classes[group, tuple(index)] = label
    return classes


def sensitivity(evidence: Evidence, *, exclude: Collection[str] = ()) -> Report:
    """Report the class of every parameter: fail on dead and ghost ones, warn on inert ones.

    Inert parameters are explained by the light cone and commutation argument where it applies. Parameters named in
    `exclude` (`ansatz[1, 0, 2]`) are another probe's finding and are left out, and so are the inputs where one
    example's gradient reaches another's inputs, which `gradient_agreement` says.
    """
    left_out = set(exclude)
    if max(point.crosstalk for point in evidence.points) > evidence.zero_gradient():
        left_out |= {parameter_name(INPUTS, (i,)) for i in range(evidence.subject.n_inputs)}
    classes = {
        parameter: label
        for parameter, label in classify(evidence).items()
        if parameter_name(*parameter) not in left_out
    }
    by_label: dict[str, list[Parameter]] = {"live": [], "dead": [], "inert": [], "ghost": []}
    for parameter, label in classes.items():
        by_label[label].append(parameter)
    shapes = evidence.subject.group_shapes()
    circuit = evidence.subject.circuit
    reasons = inert_by_structure(circuit) if circuit is not None and by_label["inert"] else None
    text = {label: summarize_names(found, shapes) for label, found in by_label.items()}

    verdict: Verdict = "pass"
    blames: list[Parameter] = []
    if by_label["dead"] or by_label["ghost"]:
        verdict, blames = "fail", by_label["dead"] + by_label["ghost"]
        faults = []
        if by_label["dead"]:
            faults.append(f"dead: {text['dead']} (the output moves, the gradient is zero)")
        if by_label["ghost"]:
            faults.append(f"ghost: {text['ghost']} (a gradient, but nothing moves)")
        headline = "; ".join(faults)
    elif by_label["inert"]:
        verdict = "warn"
        headline = f"inert: {text['inert']} {_why(by_label['inert'], reasons)}"
    else:
        headline = f"all {len(classes)} parameters and inputs are live"
    return Report(
        name="sensitivity",
        question=QUESTION,
        verdict=verdict,
        headline=headline,
        numbers={
            "counts": {label: len(found) for label, found in by_label.items()},
            "parameters": {label: text[label] for label in ("dead", "ghost", "inert") if by_label[label]},
            "reasons": {parameter_name(*p): (reasons or {}).get(p, "") for p in by_label["inert"]},
            "left_to_other_probes": sorted(left_out),
            "points": len(evidence.points),
            **_extremes(evidence, classes),
        },
        tolerance=(
            f"moves: by more than {evidence.value_tolerance():.2g} under displacement; gradient: more than "
            f"{evidence.zero_gradient():.2g}, at any of {len(evidence.points)} points"
        ),
        meaning=(
            "A dead parameter changes predictions but is never trained; a ghost is trained on noise."
            if verdict == "fail"
            else "An inert parameter is counted as one and does nothing."
        ),
        remedy=(
            "Do not train on this route: use readout gates or a contraction outside the circuit, or another engine."
            if verdict == "fail"
            else "Leave them, or drop the gates; do not count them as capacity."
        ),
        blames=tuple(parameter_name(*parameter) for parameter in blames),
    )


def _why(inert: list[Parameter], reasons: dict[Parameter, str] | None) -> str:
    """Return the structural reason of the inert parameters, or the admission that none is known."""
    if reasons is None:
        return "(found numerically at every point; no gate list small enough to argue on)"
    unexplained = [parameter for parameter in inert if parameter not in reasons]
    if unexplained:
        return (
            f"({len(unexplained)} of them without a structural reason: a coincidence of these points, or a broken gate)"
        )
    return f"by structure ({' or '.join(sorted({reasons[parameter] for parameter in inert}))})"


def _extremes(evidence: Evidence, classes: dict[Parameter, str]) -> dict[str, Any]:
    """Return by group the smallest and largest movement and gradient, for the report's table."""
    table = {}
    for group in evidence.subject.group_shapes():
        moved = np.max([point.moved[group] for point in evidence.points], axis=(0, 2, 3))
        gradient = np.max([np.abs(point.jacobian[group]) for point in evidence.points], axis=(0, 1, 2))
        if moved.size:
            table[group] = {"moved": [float(moved.min()), float(moved.max())], "gradient": gradient.tolist()}
    return {"groups": table, "live": sum(label == "live" for label in classes.values())}
