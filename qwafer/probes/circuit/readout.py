"""Do the engine's values agree with the reference, and is its readout the contraction of its own Bloch vectors?"""

import numpy as np

from qwafer.circuits.readouts import readout_matrix
from qwafer.circuits.statevector import bloch_vectors, states
from qwafer.probes.circuit.evidence import Evidence
from qwafer.probes.report import Report, Verdict


def readout_identity(evidence: Evidence) -> Report:
    """Report whether s_k = sum_i M_ki . (<X_i>, <Y_i>, <Z_i>): the readout as executed against the contraction.

    Left: the subject's values. Right: Bloch vectors (`Evidence.bloch`), contracted. The reference engine, which applies
    readout gates as gates, is held against the right too. Fails where the left differs by more than rounding explains.
    """
    name, question = "readout identity", "Is the readout the contraction of the body's Bloch vectors, gates or not?"
    subject = evidence.subject
    if subject.circuit is None or subject.bloch is None:
        return Report(name, question, "skip", "no Bloch vectors: the gates of the circuit are not known")
    if not subject.circuit.readout_facts.per_wire:
        return Report(name, question, "skip", f"readout {subject.circuit.readout} is no contraction of Bloch vectors")
    tolerance = 2 * evidence.value_tolerance()
    worst, where, gates = 0.0, "", 0.0
    for point in evidence.points:
        vectors = evidence.bloch(point)
        assert vectors is not None
        weights = {group: np.asarray(value, np.float64) for group, value in point.weights.items()}
        matrix = readout_matrix(subject.circuit, weights, np, "float64")
        contracted = np.tensordot(vectors, matrix, axes=([1, 2], [1, 2]))
        difference = np.abs(contracted - point.values)
        if difference.max() > worst:
            worst = float(difference.max())
            example, output = np.unravel_index(difference.argmax(), difference.shape)
            where = (
                f"output {output}: executed {point.values[example, output]:.6g}, contracted "
                f"{contracted[example, output]:.6g}"
            )
        if point.reference_values is not None:
            gates = max(gates, float(np.abs(contracted - point.reference_values).max()))
    verdict: Verdict = "pass" if worst <= tolerance else "fail"
    return Report(
        name=name,
        question=question,
        verdict=verdict,
        headline=f"largest difference {worst:.1e} (allowed {tolerance:.1e})" if verdict == "pass" else where,
        numbers={"largest_difference": worst, "reference_gates_difference": gates, "tolerance": tolerance},
        tolerance=f"|executed - contracted| <= {tolerance:.2g} ({subject.dtype})",
        meaning="A readout that is not the one specified trains and predicts something else than the report says.",
        remedy="Compare the order and the sign of the readout gates RZ(a), RY(b), RZ(c) with readout_matrix.",
    )


def value_agreement(evidence: Evidence) -> Report:
    """Report whether the programs compute the specified circuit.

    The values of the training program and of the evaluation program are held against the reference, at every example of
    their batches. Where those of the training program differ, the Bloch vectors of the engine's body are held against
    a statevector made from the gates' matrices alone: where they are right, the readout is at fault, which
    `readout_identity` says.
    """
    name, question = "value agreement", "Do the programs compute the circuit that was specified?"
    subject = evidence.subject
    if subject.circuit is None or any(point.reference_values is None for point in evidence.points):
        return Report(name, question, "skip", "no reference: the gates of the circuit are not known")
    tolerance = evidence.value_tolerance()
    body, values, evaluated, where, where_evaluated = 0.0, 0.0, 0.0, "", ""
    for point in evidence.points:
        assert point.reference_values is not None
        difference, sentence = _worst(point.values, point.reference_values, point.place)
        if difference > values:
            values, where = difference, sentence
        if point.evaluated is not None:
            difference, sentence = _worst(*point.evaluated, point.place)
            if difference > evaluated:
                evaluated, where_evaluated = difference, f"evaluation program, {sentence}"
        if subject.bloch is not None and not evidence.agrees(point):
            vectors = evidence.bloch(point)
            assert vectors is not None
            exact = bloch_vectors(states(subject.circuit, point.weights, point.inputs), subject.circuit.n_qubits)
            body = max(body, float(np.abs(vectors - exact).max()))
    at_fault = body > tolerance or (subject.bloch is None and values > tolerance)
    headline = f"largest difference {max(body, values, evaluated):.1e} (allowed {tolerance:.1e})"
    if not at_fault and values > tolerance:
        headline = f"the body agrees to {body:.1e}; the readout does not, see `readout identity`"
    elif not at_fault and evaluated > tolerance:
        at_fault, where = True, where_evaluated
    return Report(
        name=name,
        question=question,
        verdict="fail" if at_fault else "pass",
        headline=where if at_fault else headline,
        numbers={
            "body_difference": body,
            "value_difference": values,
            "evaluation_difference": evaluated,
            "tolerance": tolerance,
        },
        tolerance=f"|engine - reference| <= {tolerance:.2g} ({subject.dtype})",
        meaning="The engine computes another circuit than the one specified.",
        remedy="Use another engine, and report the specification and the point with the two values.",
    )


def _worst(found: np.ndarray, expected: np.ndarray, place: str) -> tuple[float, str]:
    """Return the largest difference of values (N, outputs), and a sentence on it."""
    difference = np.abs(found - expected)
    example, output = np.unravel_index(difference.argmax(), difference.shape)
    where = f"example {example}, output {output}{', ' if place else ''}{place}"
    return (
        float(difference[example, output]),
        f"{where}: engine {found[example, output]:.6g}, reference {expected[example, output]:.6g}",
    )
