"""What docs/own-circuit.md says: the table of what Catalyst does not run is what the engine says, gate by gate."""

from pathlib import Path

import pennylane as qml
import pytest

import qwafer
from qwafer import engines
from tests.anycircuits import GATES, STARTS, mixed
from tests.test_any_circuit import against_the_definition

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-circuit.md"
BEGIN, END = "<!-- what Catalyst does not run: begin -->\n\n", "\n\n<!-- what Catalyst does not run: end -->"

QNODE = """n_qubits = 2
dev = qml.device("default.qubit", wires=n_qubits)


@qml.qnode(dev)
def qnode(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(n_qubits))
    qml.BasicEntanglerLayers(weights, wires=range(n_qubits))
    return [qml.expval(qml.PauliZ(wires=i)) for i in range(n_qubits)]
"""
"""https://pennylane.ai/qml/demos/tutorial_qnn_module_torch"""

MEASUREMENTS = {
    "qml.expval of a word": lambda weights: qml.expval(qml.X(0) @ qml.Y(2)),
    "qml.expval of a sum with trained coefficients": lambda weights: qml.expval(
        qml.dot([weights["w"][0], 0.5], [qml.Z(0), qml.X(1)])
    ),
    "qml.expval of qml.Projector": lambda weights: qml.expval(qml.Projector([1, 0], [1, 2])),
    "qml.expval of qml.Hermitian": lambda weights: qml.expval(qml.Hermitian([[1.0, 2j], [-2j, 0.5]], 3)),
    "qml.probs": lambda weights: qml.probs(wires=[2, 0]),
    "qml.state": lambda weights: qml.state(),
}

TITLES = {
    "AmplitudeEmbedding": "qml.AmplitudeEmbedding` of weights or inputs",
    "StatePrep": "qml.StatePrep` of weights or inputs",
    "QubitUnitary given": "qml.QubitUnitary` of a matrix that weights or inputs determine",
    "qml.state": "qml.state()`",
}
"""What the page calls a thing."""


def circuit(name):
    def function(weights, x):
        if name in STARTS:
            STARTS[name](x + weights["w"])
        mixed(x)
        if name in GATES:
            GATES[name](x * weights["w"] + 0.1)
        return MEASUREMENTS.get(name, lambda weights: qml.expval(qml.Z(0) @ qml.X(1)))(weights)

    return qwafer.circuit(function, weights={"w": 3}, n_inputs=3, n_qubits=4, dtype="float64")


def table():
    """Return what the engines refuse of all gates, preparations and measurements of the tests, as Markdown."""
    rows = []
    for name in [*STARTS, *GATES, *MEASUREMENTS]:
        made = circuit(name)
        assert engines.get("xla").why_not(made) is None
        assert engines.get("reference").why_not(made) is None
        reason = engines.get("catalyst").why_not(made)
        if reason is not None:
            rows.append(f"| `{TITLES[name]} | {reason} |")
    return "\n".join(["| PennyLane | `why_not` of engine `catalyst` |", "|---|---|", *rows])


def test_the_page_says_what_catalyst_does_not_run():
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table()
    assert f", {len([*STARTS, *GATES, *MEASUREMENTS])} in all," in page


def test_the_script_is_short_and_its_qnode_is_that_of_the_tutorial():
    page = PAGE.read_text(encoding="utf-8")
    script = page.partition("## From a QNode to a verdict")[2].partition("```python\n")[2].partition("```")[0]
    assert len(script.splitlines()) + len(("numpy", "pennylane", "qwafer")) < 40  # which the first block imports
    assert QNODE in script
    for what in ("probe_circuit(", "run_experiment("):
        assert what in script


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STARTS, *GATES, *MEASUREMENTS])
def test_catalyst_runs_the_rest(name):
    made = circuit(name)
    if engines.get("catalyst").why_not(made) is None:
        against_the_definition(engines.get("catalyst"), made, atol=1e-6)
