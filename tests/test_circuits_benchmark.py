"""benchmarks/circuits.py: its circuits, what it compares, its table, and the page that holds it."""

import json
import sys
from pathlib import Path

import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer.circuits import statevector

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import circuits

        yield circuits
        for name in ("circuits", "engines", "_circuits_cases", "_circuits_contenders", "_engines_pipe"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "family",
    [
        "reupload",
        "iqp_cz",
        "dressed",
        "circuit_centric",
        "qaoa",
        "quanvolution",
        "tree",
        "hardware_efficient",
        "random",
    ],
)
def test_every_family_is_a_circuit_whose_values_are_read_off_its_state(bench, family):
    from _circuits_contenders import z_signs

    n = 4
    own = bench.case(family, n)
    circuit = qwafer.circuit(own.function, weights=own.weights, n_inputs=own.n_inputs, n_qubits=n, dtype="float64")
    arrays = own.arrays(1)
    weights = {name: arrays[f"weights.{name}"] for name in own.weights}
    assert arrays["labels"].shape == (1, circuit.n_outputs)
    assert circuit.weight_shapes() == own.weights

    @qml.qnode(qml.device("default.qubit", wires=n))
    def state(weights, x):
        own.gates(weights, x)
        return qml.state()

    expected = np.abs(state(weights, arrays["inputs"][0])) ** 2 @ z_signs(n, own.measured)
    np.testing.assert_allclose(statevector.values(circuit, weights, arrays["inputs"])[0], expected, atol=1e-10)


def test_cases_are_chosen_by_family_wires_and_sizes(bench):
    def named(*argv):
        arguments = {"cases": "", "qubits": "", **dict(zip(("cases", "qubits"), argv, strict=False))}
        return [own.name for own in bench.chosen(type("Arguments", (), arguments))]

    assert len(named()) == 11
    assert named("reupload") == ["reupload-4", "reupload-8"]
    assert named("iqp_cz-10,tree") == ["iqp_cz-10", "tree-8"]
    assert named("hardware_efficient", "3,5") == ["hardware_efficient-3", "hardware_efficient-5"]
    with pytest.raises(ValueError, match="there is no case trees"):
        named("trees")
    with pytest.raises(ValueError, match="a power of two"):
        named("tree", "6")


def test_contenders_that_differ_are_found(bench, tmp_path):
    arrays = {
        "loss": np.array(0.5),
        "values": np.ones((2, 1)),
        "weights": np.array([2.0, 1]),
        "inputs": np.ones((2, 2)),
    }
    files = {}
    for name, moved in (("a", {}), ("b", {"values": np.full((2, 1), 1.25)}), ("c", {"weights": np.array([2.0, 1.5])})):
        files[name] = tmp_path / f"{name}.npz"
        np.savez(files[name], **{**arrays, **moved})
    assert bench.differences({"a": files["a"]}) == {"values": 0, "gradients": 0}
    assert bench.differences({"a": files["a"], "b": files["b"]}) == {"values": 0.25, "gradients": 0}
    assert bench.differences(files) == {"values": 0.25, "gradients": 0.25}


def entry(**times):
    rows = {name: {"seconds": [t, t, t], "compile_cpu_s": 10 * t} for name, t in times.items() if t}
    failed = {name: {"failed": "it | broke"} for name, t in times.items() if not t}
    return {"circuit": "own-4", "n": 4, "batch": 1000, "agree": True, "contenders": {**rows, **failed}}


def test_the_table_is_against_the_fastest_peer(bench):
    text = bench.table({"one": entry(xla=0.01, slow=0.2, fast=0.08), "two": entry(xla=0.02, slow=0.04, fast=None)})
    assert "| own-4 | 1,000 | 10 ms (0.1 s) | 200 ms (2.0 s) | 80 ms (0.8 s) | 8.0 x | 0.12 |" in text
    assert "| own-4 | 1,000 | 20 ms (0.2 s) | 40 ms (0.4 s) | it / broke | 2.0 x | 0.50 |" in text
    assert "5.0 times faster in the median and 2.0 at least, 1 of 2 rows at least 5 times" in text
    assert bench.against_peers(entry(xla=None, slow=1.0)) is None


def test_the_page_holds_the_table_of_the_results(bench):
    page = bench.PAGE.read_text(encoding="utf-8")
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
    assert bench.with_table(page, json.loads(bench.RESULTS.read_text(encoding="utf-8"))) == page
