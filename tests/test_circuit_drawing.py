"""Circuits as text: every gate on its wires, in order, with what it takes; in the reports that rest on them."""

import re

import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer.circuits import CIRCUITS, CircuitSpec, Gate, GateCircuit, Operation, draw
from qwafer.circuits.drawing import MOST_GATES
from qwafer.circuits.gates import RX, H
from qwafer.config import RunConfig
from qwafer.reports.circuits import circuit_blocks
from qwafer.reports.document import Code, to_html, to_markdown
from tests import anycircuits


def test_a_layered_circuit():
    assert draw(CircuitSpec(3, 1, ansatz="basic_entangler", readout="z_vec", n_outputs=2)) == (
        "0: ─RY(x[0])─RX(ansatz[0, 0, 0])─╭●────╭X─\n"
        "1: ─RY(x[1])─RX(ansatz[0, 1, 0])─╰X─╭●─│──\n"
        "2: ─RY(x[2])─RX(ansatz[0, 2, 0])────╰X─╰●─\n"
        "\n"
        "readout: z_vec, 2 outputs"
    )


def test_a_captured_circuit_says_what_reaches_its_gates():
    def function(weights, x):
        qml.RX(x[0], 0)
        qml.PauliRot(weights["w"][0], "XZ", [2, 0])
        qml.CZ([1, 2])
        qml.RY(x[1] * weights["w"][1], 1)
        return qml.expval(qml.Z(0) @ qml.X(2)), qml.probs(wires=1)

    assert draw(qwafer.circuit(function, weights={"w": 2}, n_inputs=2)) == (
        "0: ─RX(x)─╭RZX(w)·Z─────────────\n"
        "1: ───────│─────────╭●─RY(x, w)─\n"
        "2: ───────╰RZX(w)·X─╰●──────────\n"
        "\n"
        "measured: <Z0 X2>, <Z1>; 3 outputs"
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [20, 60])
def test_every_gate_is_drawn_once_and_in_order_on_its_wires(seed, width):
    function, shapes, n = anycircuits.composed(np.random.default_rng(seed))
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=n)
    text = draw(circuit, width)
    body = text.rpartition("\n\n")[0]
    for wire in range(n):
        line = "".join(re.findall(rf"^{wire}: (.*)$", body, re.M))
        found = [re.sub(r"^[╭├╰]|\(.*|·.*", "", part) for part in re.split("─+", line) if part not in ("", "│")]
        own = [op for op in circuit.operations() if wire in op.wires]
        expected = [op.gate.name if op.gate.name not in ("CNOT", "CZ") else "●X" for op in own]
        assert len(found) == len(expected)
        for name, wanted in zip(found, expected, strict=True):
            assert name in wanted or name == re.sub(r"\(.*", "", wanted)
    lines = body.splitlines()
    assert max(map(len, lines)) <= max(width, 8 + max(len(op.gate.name) + 12 for op in circuit.operations()))


def test_large_circuits_are_cut_and_say_so():
    many = tuple(Operation(RX, (0,), "w", (i,)) for i in range(MOST_GATES + 7))
    text = draw(GateCircuit(1, (Operation(H, (0,)), *many), 0, (("w", (MOST_GATES + 7,)),), "z"))
    assert text.count("RX(") == MOST_GATES - 1
    assert "... and 8 gates more" in text
    words = tuple(np.binary_repr(i, 4).replace("0", "I").replace("1", "Z") for i in range(1, 12))
    text = draw(GateCircuit(4, (Operation(H, (0,)),), 0, (), "words", words=words))
    assert "<Z3>, <Z2>, <Z2 Z3>" in text
    assert text.endswith("and 3 words more; 11 outputs")
    with pytest.raises(qwafer.InputError, match="width"):
        draw(CircuitSpec(2, 1), 10)


class Ran:
    """What a report reads of a run."""

    label_names = ("a", "b")

    def __init__(self, config, digest=""):
        self.config, self.engine = config.to_dict(), {"circuit": digest} if digest else {}


def test_reports_hold_each_circuit_once_and_only_the_one_that_ran(tmp_path):
    layered = RunConfig()
    file = tmp_path / "own.py"
    file.write_text(
        "import pennylane as qml\n\ndef body(weights, x):\n    qml.RX(x[0], 0)\n    return qml.expval(qml.Z(0))\n"
    )
    own = CIRCUITS.get("function")(f"{file}:body", n_inputs=1, readout="measured")
    captured = RunConfig(circuit=own)
    digest = own.circuit(2).digest
    results = {"a": {0: Ran(layered)}, "b": {3: Ran(layered)}, "own": {1: Ran(captured, digest)}, "none": {}}
    heading, first, drawn, second, also = circuit_blocks(results)
    assert (heading.text, first.text, second.text) == ("Circuits", "**a, b**", "**own**")
    assert drawn == Code(draw(layered.circuit.circuit(2)))
    assert also.text == "0: ─RX(x)─\n\nmeasured: <Z0>; 1 output"
    assert "```text\n0: ─RX(x)─\n" in to_markdown([also])
    assert "<pre>0: ─RX(x)─\n" in to_html([also], "own")
    (_, _, changed) = circuit_blocks({"own": {1: Ran(captured, "f" * 64)}})
    assert changed.text.startswith("not drawn: the circuit's function")
    gone = RunConfig(circuit=CIRCUITS.get("function")(f"{tmp_path}/gone.py:body", n_inputs=1, readout="measured"))
    assert "not drawn: there is no file" in circuit_blocks({"own": {1: Ran(gone, digest)}})[-1].text


def test_an_unknown_gate_has_its_name():
    ghost = Gate("Ghost", 2, fixed=tuple(map(tuple, np.eye(4))))
    text = draw(GateCircuit(3, (Operation(ghost, (2, 0)),), 0, (), "z"))
    assert text.startswith("0: ─╭Ghost─\n1: ─│──────\n2: ─╰Ghost─\n")
