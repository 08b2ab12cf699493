"""Is the gradient right? Agreement with derivatives from values, and the identity d/dw_i <sum_j w_j Z_j> = <Z_i>."""

from collections.abc import Collection
from typing import Any

import numpy as np

from qwafer.circuits import INPUTS
from qwafer.probes.circuit.evidence import SIGMAS, Evidence, Point
from qwafer.probes.circuit.sensitivity import classify
from qwafer.probes.report import Report, Verdict, parameter_name

METHODS = {
    "shift": "parameter shift, exact: (s(t + pi/2) - s(t - pi/2)) / 2",
    "linear": "difference quotient, exact for a coefficient",
    "difference": "central difference",
}


def gradient_agreement(evidence: Evidence, *, exclude: Collection[str] = ()) -> Report:
    """Report whether the engine's gradient equals derivatives from its values and from the reference engine's.

    By group: every value's gradient by every live parameter at the probed examples, against parameter shift or central
    differences of the engine's own values and against the exact derivative in float64; and the gradient of random sums
    of all values of the batch, against the sums of what the values say. No example's value may have a gradient by
    another example's inputs. The worst offender is named, and where the error has a known form (a factor, outputs
    swapped, a sign) so is that. Parameters in
    `exclude`, and those that `sensitivity` calls dead, ghost or inert, are left to it. The reference is left out
    where the values differ already.
    """
    excluded = set(exclude)
    excluded |= {parameter_name(*p) for p, label in classify(evidence).items() if label != "live"}
    table: dict[str, dict[str, Any]] = {}
    offenders: list[tuple[float, str, str]] = []
    blames: list[str] = []
    reference_used = all(evidence.agrees(point) for point in evidence.points)
    for group, shape in evidence.subject.group_shapes().items():
        names = [parameter_name(group, tuple(index)) for index in np.ndindex(*shape)]
        kept = np.asarray([name not in excluded for name in names], bool)
        if not kept.any():
            continue
        tolerance = evidence.gradient_tolerance(group)
        row: dict[str, Any] = {"method": METHODS[evidence.subject.rule(group)], "tolerance": tolerance}
        found: list[tuple[float, str, str]] = []
        for method in ("own values", "reference", "random sums"):
            if method == "reference" and not reference_used:
                continue
            allowed = evidence.reference_tolerance() if method == "reference" else tolerance
            worst, where, bad = _compare(evidence, group, names, kept, method, allowed)
            row[method] = worst
            blames += bad
            if bad and (method != "random sums" or not found):  # a sum is wrong where its parts are
                found.append((worst / allowed, group, where))
        offenders += found
        table[group] = row
    crosstalk = max(point.crosstalk for point in evidence.points)
    if crosstalk > evidence.zero_gradient():
        offenders.append(
            (np.inf, INPUTS, f"an example's value has a gradient of {crosstalk:.3g} by another example's inputs")
        )
    verdict: Verdict = "fail" if offenders else "pass"
    if offenders:
        groups = ", ".join(dict.fromkeys(group for _, group, _ in offenders))
        shape_of_error = _form(evidence, [group for _, group, _ in offenders])
        headline = f"{groups} wrong{shape_of_error}; worst: {max(offenders)[2]}"
    else:
        margin = min((row["tolerance"] / max(row["own values"], 1e-300) for row in table.values()), default=np.inf)
        worst = max((row["own values"] for row in table.values()), default=0.0)
        headline = f"largest difference {worst:.1e}, {_times(margin)} below its tolerance"
    return Report(
        name="gradient agreement",
        question="Does the engine's gradient equal derivatives from values, and those of the reference engine?",
        verdict=verdict,
        headline=headline,
        numbers={
            "groups": table,
            "crosstalk": crosstalk,
            "reference": "compared" if reference_used else "left out: no reference, or the values differ already",
            "left_to_other_probes": len(excluded),
            "points": len(evidence.points),
        },
        tolerance="; ".join(f"{group}: {row['tolerance']:.2g} ({row['method']})" for group, row in table.items()),
        meaning="The optimiser follows a direction that is not downhill: training looks slow, unstable or stuck.",
        remedy="Do not train on this engine. Use `reference` or `xla`, and report the specification with this table.",
        blames=tuple(dict.fromkeys(blames)),
    )


def _times(margin: float) -> str:
    return f"{margin:.0f} times" if margin < 1e4 else "far"


def _compare(
    evidence: Evidence, group: str, names: list[str], kept: np.ndarray, method: str, tolerance: float
) -> tuple[float, str, list[str]]:
    """Return the worst difference by `method`, a sentence on it, and the parameters that exceed the tolerance."""
    worst, where, bad = -1.0, "", []
    for point in evidence.points:
        if method == "random sums":
            found, truth, allowed = _sums(point, group)
            difference = np.where(kept, np.abs(found - truth) / allowed, 0.0)
            spot = np.unravel_index(difference.argmax(), difference.shape)
            of = f" of example {spot[1]}" if group == INPUTS else ""
            place, kind = f"{of} for a mixed cotangent of all {len(point.values)} examples", "expected"
        else:
            if method == "reference":
                assert point.reference is not None
                truth, kind = point.reference[group], "reference"
            else:
                truth = np.moveaxis(point.derivative[group][:, list(evidence.rows)], 0, -1)  # (rows, outputs, P)
                kind = "values say"
            found = point.jacobian[group]
            difference = np.where(kept, np.abs(found - truth), 0.0)
            spot = np.unravel_index(difference.argmax(), difference.shape)
            place = f", output {spot[1]}"
        bad += [names[i] for i in np.flatnonzero((difference > tolerance).any(axis=tuple(range(difference.ndim - 1))))]
        if difference[spot] > worst:
            worst = float(difference[spot])
            place += f", {point.place}" if point.place else ""
            where = f"{names[spot[-1]]}{place}: gradient {found[spot]:.5g}, {kind} {truth[spot]:.5g}"
    return worst, where, bad


def _sums(point: Point, group: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of the random sums, what the derivatives of all values add up to, and how far the
    tolerance of one value reaches: with its absolute coefficients, or 7 times their norm, for errors that are not
    correlated with them.
    """
    c, parts = point.cotangents, point.derivative[group]
    if group == INPUTS:  # every example has inputs of its own
        return point.dense[group], np.einsum("cbk,pbk->cbp", c, parts), np.abs(c).sum(axis=-1)[..., None]
    size = np.minimum(np.abs(c).sum(axis=(1, 2)), SIGMAS * np.sqrt((c**2).sum(axis=(1, 2))))
    return point.dense[group], np.einsum("cbk,pbk->cp", c, parts), size[:, None]


def _form(evidence: Evidence, groups: list[str]) -> str:
    """Return the form of the error where it is a common one: a factor (or sign), or the outputs in another order."""
    point = evidence.points[0]
    group = groups[0]
    found = point.jacobian[group]
    truth = np.moveaxis(point.derivative[group][:, list(evidence.rows)], 0, -1)
    tolerance = evidence.gradient_tolerance(group)
    norm = float((truth * truth).sum())
    if norm > 0:
        factor = float((found * truth).sum()) / norm
        if abs(factor - 1) > 1e-3 and np.abs(found - factor * truth).max() <= 4 * tolerance * max(1.0, abs(factor)):
            return f" by a factor of {factor:.3g}"
    outputs = found.shape[1]
    order = []
    for output in range(outputs):
        distances = [float(np.abs(found[:, output] - truth[:, other]).max()) for other in range(outputs)]
        best = int(np.argmin(distances))
        if distances[best] > 4 * tolerance:
            return ""
        order.append(best)
    return f": outputs in the order {order}" if order != list(range(outputs)) else ""
