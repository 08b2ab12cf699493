"""Trainability and expressive power against closed forms and published values, each on at least two circuits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec, Gate, Operation
from qwafer.circuits.gates import CNOT, CZ, RX, RY, RZ, H
from qwafer.circuits.statevector import evolve, states
from qwafer.probes import circuit_subject, function_subject
from qwafer.probes.circuit.dimension import bernoulli_fisher, categorical_fisher, effective_dimension, fisher_report
from qwafer.probes.circuit.expressivity import (
    BINS,
    expressibility,
    expressive_power,
    haar_fidelities,
    haar_meyer_wallach,
    meyer_wallach,
)
from qwafer.probes.circuit.fourier import fourier_coefficients, fourier_spectrum
from qwafer.probes.circuit.lie import circuit_generators, lie_algebra, lie_closure_dimension, pauli_string
from qwafer.probes.circuit.trainability import (
    COSTS,
    fit_decay,
    gradient_samples,
    gradient_variance,
    spec_gradient_samples,
    trainability,
    two_design_variance,
)


def rotations(gate: Gate, n: int, first: int) -> list[Operation]:
    return [Operation(gate, (wire,), "p", (first + wire,)) for wire in range(n)]


def cnots(*pairs: tuple[int, int]) -> list[Operation]:
    return [Operation(CNOT, pair) for pair in pairs]


def cz(control: int, target: int) -> list[Operation]:
    return [Operation(CZ, (control, target))]


def random_states(gates: list[Operation], n: int, n_params: int, size: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0, 2 * np.pi, (size, n_params))
    return evolve(n, gates, {"p": values})


# Circuits of Sim, Johnson and Aspuru-Guzik 2019 (arXiv:1905.10876), figure 2, on four wires, one layer.
SIM = {
    1: rotations(RX, 4, 0) + rotations(RZ, 4, 4),
    2: rotations(RX, 4, 0) + rotations(RZ, 4, 4) + cnots((3, 2), (2, 1), (1, 0)),
    9: [*(Operation(H, (i,)) for i in range(4)), *cz(3, 2), *cz(2, 1), *cz(1, 0), *rotations(RX, 4, 0)],
    15: [
        *rotations(RY, 4, 0),
        *cnots((3, 0), (2, 3), (1, 2), (0, 1)),
        *rotations(RY, 4, 4),
        *cnots((3, 2), (0, 3), (1, 0), (2, 1)),
    ],
}
PUBLISHED_KL = {1: 0.2999, 2: 0.2860, 9: 0.6773, 15: 0.1892}
"""Their table of expressibilities at L = 1: 5,000 pairs, 75 bins."""


@pytest.mark.parametrize("circuit", SIM)
def test_expressibility_of_published_circuits(circuit: int) -> None:
    found = []
    for seed in range(8):
        a, b = (random_states(SIM[circuit], 4, 8, 5000, 2 * seed + i) for i in range(2))
        found.append(expressibility(a, b))
    # Theirs is one sample of 5,000 pairs, too: it lies within four standard deviations of ours.
    spread = float(np.std(found))
    assert abs(float(np.mean(found)) - PUBLISHED_KL[circuit]) < 4 * spread
    assert spread < 0.05


def test_expressibility_of_an_idle_circuit_is_exact() -> None:
    for n in (1, 2, 6, 10):
        state = np.zeros((3, 2**n), complex)
        state[:, 0] = 1
        assert expressibility(state, state) == pytest.approx((2**n - 1) * np.log(BINS), rel=1e-12)


def test_expressibility_of_one_random_phase_is_the_arcsine_law() -> None:
    # H, RZ: F = cos^2 of a uniform angle. KL of the arcsine law from the uniform one, binned.
    edges = np.linspace(0, 1, BINS + 1)
    p = np.diff(2 / np.pi * np.arcsin(np.sqrt(edges)))
    exact = float((p * np.log(p * BINS)).sum())
    gates = [Operation(H, (0,)), Operation(RZ, (0,), "p", (0,))]
    a, b = (random_states(gates, 1, 1, 200_000, i) for i in range(2))
    assert expressibility(a, b) == pytest.approx(exact, abs=5e-3)


def test_expressibility_of_haar_random_states_is_the_sampling_floor() -> None:
    generator = np.random.default_rng(0)

    def haar(size: int) -> np.ndarray:
        raw = generator.standard_normal((size, 4)) + 1j * generator.standard_normal((size, 4))
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    assert expressibility(haar(50_000), haar(50_000)) == pytest.approx(74 / 100_000, abs=1e-3)
    assert haar_fidelities(4).sum() == pytest.approx(1, abs=1e-14)


def test_meyer_wallach_of_known_states() -> None:
    ghz, product, w = np.zeros((3, 16))
    ghz[[0, 15]] = np.sqrt(0.5)
    product[5] = 1
    w[[1, 2, 4, 8]] = 0.5
    bell_pairs = np.kron([1, 0, 0, 1], [1, 0, 0, 1]) / 2
    # W of n wires: Tr rho^2 = ((n-1)^2 + 1) / n^2, so Q = 4 (n - 1) / n^2.
    for state, q in ((ghz, 1.0), (product, 0.0), (w, 4 * 3 / 16), (bell_pairs, 1.0)):
        assert meyer_wallach(state.astype(complex)) == pytest.approx(q, abs=1e-14)


def test_meyer_wallach_of_haar_states_and_of_circuits() -> None:
    generator = np.random.default_rng(0)
    raw = generator.standard_normal((20_000, 8)) + 1j * generator.standard_normal((20_000, 8))
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    assert meyer_wallach(raw).mean() == pytest.approx(haar_meyer_wallach(3), abs=3e-3)
    # Circuits 1 and 9 of Sim et al.: products, and a cluster state under local rotations.
    assert np.abs(meyer_wallach(random_states(SIM[1], 4, 8, 100, 0))).max() < 1e-12
    assert meyer_wallach(random_states(SIM[9], 4, 8, 100, 0)) == pytest.approx(1.0, abs=1e-12)
    # RY(t), CNOT: Q = sin^2 t.
    angles = np.linspace(-3, 3, 7)[:, None]
    pair = evolve(2, [Operation(RY, (0,), "p", (0,)), *cnots((0, 1))], {"p": angles})
    np.testing.assert_allclose(meyer_wallach(pair), np.sin(angles[:, 0]) ** 2, atol=1e-14)


def test_power_reports_describe_and_warn_on_unentangled_entanglers() -> None:
    sound, separable = (
        expressive_power(circuit_subject(CircuitSpec(3, 2, ansatz=ansatz), "xla"), n_pairs=500)
        for ansatz in ("strongly_entangling", "separable")
    )
    assert [r.verdict for r in (*sound, *separable)] == ["pass"] * 4
    assert "separable on purpose" in separable[1].headline
    assert sound[0].numbers["kl"] < separable[0].numbers["kl"]
    broken = dataclasses.replace(
        circuit_subject(CircuitSpec(2, 1), "xla"),
        states=lambda w, x: states(CircuitSpec(2, 1, ansatz="separable"), w, x),
    )
    assert expressive_power(broken, n_pairs=100)[1].verdict == "warn"


def test_fourier_coefficients_of_a_trigonometric_polynomial() -> None:
    coefficients = fourier_coefficients(lambda x: 0.5 + np.cos(x) - 0.25 * np.sin(3 * x), 4)
    np.testing.assert_allclose(coefficients, [0.5, 0.5, 0, 0.125j, 0], atol=1e-15)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_fourier_degree_is_the_number_of_encodings(n_layers: int) -> None:
    # Schuld, Sweke and Meyer 2021: L Pauli encodings of an input give the integer frequencies up to L; one gives {0,
    # 1}.
    spec = CircuitSpec(2, n_layers, reupload=True, dtype="float64")
    report = fourier_spectrum(circuit_subject(spec, "xla"), n_points=3)
    assert report.numbers["reached"] == [n_layers, n_layers]
    assert report.verdict == "pass"
    once = fourier_spectrum(circuit_subject(dataclasses.replace(spec, reupload=False), "xla"), n_points=2)
    assert once.numbers["reached"] == [1, 1]


def test_fourier_spectrum_of_one_wire_in_closed_form() -> None:
    # RY(x) then <Z> is cos x: c_1 = 1/2 and no other; encoded twice without anything between, cos 2x.
    single = fourier_spectrum(circuit_subject(CircuitSpec(1, 0, readout="z", dtype="float64"), "xla"), n_points=1)
    np.testing.assert_allclose(single.numbers["largest_coefficients"][0], [0, 0.5, 0, 0], atol=1e-12)
    import jax.numpy as jnp

    double = function_subject(lambda w, x: jnp.cos(2 * x[0]) * w[0], np.ones(1), 1)
    assert fourier_spectrum(double).numbers["reached"] == [2]


def test_fourier_power_beyond_the_accessible_frequencies_fails() -> None:
    subject = circuit_subject(CircuitSpec(2, 1), "xla")
    doubled = dataclasses.replace(subject, program=lambda w, x: subject.program(w, 2 * x))
    assert fourier_spectrum(doubled, n_points=1).verdict == "fail"


def test_fourier_spectrum_of_a_user_function_that_goes_on_warns() -> None:
    import jax.numpy as jnp

    endless = function_subject(lambda w, x: jnp.exp(jnp.cos(x[0])) * w[0], np.ones(1), 1)
    report = fourier_spectrum(endless, max_degree=4)
    assert report.verdict == "warn"


def fishers_of(matrix: Any, size: int = 6) -> np.ndarray:
    return np.repeat(np.asarray(matrix, float)[None], size, axis=0)


def test_effective_dimension_of_known_fisher_matrices() -> None:
    n_data = 1000
    kappa = n_data / (2 * np.pi * np.log(n_data))
    # All directions alike: F^ = 1, d = P log(1 + kappa) / log kappa. One direction: F^ = diag(P, 0, ...).
    assert effective_dimension(fishers_of(3.7 * np.eye(5)), n_data) == pytest.approx(
        5 * np.log(1 + kappa) / np.log(kappa), rel=1e-12
    )
    assert effective_dimension(fishers_of(np.diag([2.0, 0, 0, 0])), n_data) == pytest.approx(
        np.log(1 + 4 * kappa) / np.log(kappa), rel=1e-12
    )
    assert effective_dimension(fishers_of(np.zeros((3, 3))), n_data) == 0
    with pytest.raises(InputError, match="too small for an effective dimension"):
        effective_dimension(fishers_of(np.eye(2)), 10)


def test_effective_dimension_tends_to_the_rank() -> None:
    # Abbas et al. 2021: d tends to the maximal rank of the Fisher matrix as n grows.
    values = [effective_dimension(fishers_of(np.diag([1.0, 1.0, 0.0])), 10**k) for k in (3, 8, 80)]
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(2, abs=0.02)


def test_effective_dimension_integrates_over_parameters() -> None:
    # F = diag(1 + c) with c = +-1/2 half of the time each: the mean of sqrt(det) in closed form.
    fishers = np.stack([np.eye(2) * 1.5, np.eye(2) * 0.5])
    n_data = 5000
    kappa = n_data / (2 * np.pi * np.log(n_data))
    expected = 2 * np.log(np.mean([1 + 1.5 * kappa, 1 + 0.5 * kappa])) / np.log(kappa)
    assert effective_dimension(fishers, n_data) == pytest.approx(expected, rel=1e-12)


def test_fisher_information_of_rotated_qubits_is_the_identity() -> None:
    # RY(t)|0> measured in Z: p_0 = cos^2(t/2), classical Fisher information 1 for every t. Two wires: the identity.
    for t in (0.3, 1.2, 2.5):
        p = np.array([[np.cos(t / 2) ** 2, np.sin(t / 2) ** 2]])
        dp = np.array([[[-np.sin(t) / 2], [np.sin(t) / 2]]])
        assert categorical_fisher(p, dp)[0, 0] == pytest.approx(1, rel=1e-12)
    a, b = 0.4, 1.9
    pa, pb = (np.array([np.cos(t / 2) ** 2, np.sin(t / 2) ** 2]) for t in (a, b))
    da, db = (np.array([-np.sin(t) / 2, np.sin(t) / 2]) for t in (a, b))
    joint = np.outer(pa, pb).reshape(1, 4)
    jacobian = np.stack([np.outer(da, pb).ravel(), np.outer(pa, db).ravel()], axis=-1)[None]
    np.testing.assert_allclose(categorical_fisher(joint, jacobian), np.eye(2), atol=1e-12)


def test_bernoulli_fisher_is_that_of_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(50, 3)), np.array([0.5, -1.0, 0.2])
    logits = x @ w
    p = 1 / (1 + np.exp(-logits))
    expected = (x * (p * (1 - p))[:, None]).T @ x / 50
    np.testing.assert_allclose(bernoulli_fisher(logits[:, None], x[:, None, :]), expected, atol=1e-14)


def test_fisher_report_counts_only_what_acts() -> None:
    spec = CircuitSpec(2, 1, dtype="float64")
    report = fisher_report(circuit_subject(spec, "xla"), n_weights=10, n_inputs=16)
    eigenvalues = np.asarray(report.numbers["fisher_eigenvalues"])
    assert (eigenvalues < 1e-9 * eigenvalues[0]).sum() >= 2  # the two inert RZ angles
    assert 0 < report.numbers["effective_dimension"] < 6
    import jax.numpy as jnp

    flat = function_subject(lambda w, x: jnp.sin(w[0] + 1e-9 * w[1] + x[0]), np.zeros(2), 1)
    assert fisher_report(flat, n_weights=5, n_inputs=8).verdict == "warn"


def rx_product(n: int) -> Any:
    gates = rotations(RX, n, 0)
    return lambda weights, angles: evolve(n, gates, {"p": weights["p"]})


def test_plateau_of_the_product_circuit_in_closed_form() -> None:
    # Cerezo et al. 2021, V = RX product: Var = (1/8)(3/8)^(n-1) for the global cost, 1/(8 n^2) for the local one.
    # <Z_i> here is 1 - 2 p_i, twice their projector: 1/(2 n^2).
    sizes = (2, 3, 4, 5, 6)
    found: Mapping[str, list[np.ndarray]] = {cost: [] for cost in COSTS}
    for n in sizes:
        samples = gradient_samples(rx_product(n), {"p": (n,)}, 1, [("p", (0,))], n_samples=10_000, seed=n)
        for cost in COSTS:
            found[cost].append(samples[cost])
        assert samples["global"].var() == pytest.approx(3 ** (n - 1) / 8**n, rel=0.08)
        assert samples["local"].var() == pytest.approx(1 / (2 * n**2), rel=0.05)
    decay = fit_decay(sizes, found["global"])
    assert decay.rate == pytest.approx(np.log2(8 / 3), abs=0.03)
    assert decay.low < np.log2(8 / 3) < decay.high
    flat = fit_decay(sizes, [samples * n for n, samples in zip(sizes, found["local"], strict=True)])
    assert abs(flat.rate) < 0.03


@pytest.mark.parametrize("n", [2, 3, 4])
def test_plateau_of_a_deep_circuit_is_that_of_a_2_design(n: int) -> None:
    # McClean et al. 2018, exactly. mean Z: n uncorrelated strings of weight 1/n; |0..0><0..0|: N - 1 strings of 1/N.
    samples = spec_gradient_samples(CircuitSpec(n, 12 * n), n_samples=1500, seed=1)
    dimension = 2**n
    exact = two_design_variance(n)
    assert gradient_variance(samples["local"]) == pytest.approx(exact / n, rel=0.12)
    assert gradient_variance(samples["global"]) == pytest.approx(exact * (dimension - 1) / dimension**2, rel=0.15)


def test_trainability_fails_where_the_initial_gradient_vanishes() -> None:
    # RY encoding, then RX(w): d<Z>/dw is proportional to w at small w, so tiny initial weights have no gradient.
    dead = trainability(CircuitSpec(3, 1, ansatz="basic_entangler"), qubits=(2, 3), n_samples=50, init_scale=1e-6)
    assert dead.verdict == "fail"
    assert "nothing to follow" in dead.headline
    faint = trainability(CircuitSpec(3, 1, ansatz="basic_entangler"), qubits=(2, 3), n_samples=50, init_scale=1e-3)
    assert faint.verdict == "warn"
    sound = trainability(CircuitSpec(3, 2), qubits=(2, 3, 4), n_samples=50, init_scale=0.1)
    assert sound.verdict == "pass"
    assert trainability(CircuitSpec(3, 0)).verdict == "skip"
    with pytest.raises(InputError, match="two sizes"):
        fit_decay([3], [np.ones((2, 1))])


def test_gradient_samples_are_derivatives() -> None:
    samples = gradient_samples(rx_product(2), {"p": (2,)}, 1, [("p", (0,)), ("p", (1,))], n_samples=4, seed=0)
    from qwafer._io import key_seed

    w = np.random.default_rng(key_seed(0, "plateau/p")).uniform(-np.pi, np.pi, (4, 2))
    np.testing.assert_allclose(samples["local"], -np.sin(w) / 2, atol=1e-12)
    expected = -np.sin(w) / 2 * np.cos(w[:, ::-1] / 2) ** 2
    np.testing.assert_allclose(samples["global"], expected, atol=1e-12)


def chain(n: int, letters: str) -> list[str]:
    return [("I" * i + letters + "I" * (n - i - len(letters))) for i in range(n - len(letters) + 1)]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_lie_algebras_of_known_dimension(n: int) -> None:
    def dimension(*strings: str) -> int:
        return lie_closure_dimension([pauli_string(s) for s in strings], n)

    # Free fermions: so(2n). Local rotations: n su(2). With an Ising chain: all of su(2^n). (Wiersema et al. 2024.)
    assert dimension(*chain(n, "ZZ"), *chain(n, "X")) == n * (2 * n - 1)
    assert dimension(*chain(n, "X"), *chain(n, "Z")) == 3 * n
    assert dimension(*chain(n, "X"), *chain(n, "Z"), *chain(n, "ZZ")) == 4**n - 1
    assert dimension(*chain(n, "Z")) == n


def test_lie_closure_equals_pennylanes() -> None:
    import pennylane as qml
    from pennylane.pauli import string_to_pauli_word

    generator = np.random.default_rng(0)
    for _ in range(4):
        strings = ["".join(generator.choice(list("IXYZ"), 3)) for _ in range(4)]
        strings = [s for s in strings if s != "III"]
        words = [string_to_pauli_word(s) for s in strings]
        assert lie_closure_dimension(map(pauli_string, strings), 3) == len(qml.lie_closure(words))


def test_lie_algebra_of_specs() -> None:
    assert lie_closure_dimension(circuit_generators(CircuitSpec(3, 2, ansatz="separable")), 3) == 9
    assert lie_closure_dimension(circuit_generators(CircuitSpec(3, 2)), 3) == 63
    assert lie_algebra(circuit_subject(CircuitSpec(2, 2), "xla")).numbers == {
        "dimension": 15,
        "full": 15,
        "n_qubits": 2,
    }
    assert lie_algebra(circuit_subject(CircuitSpec(7, 1), "xla")).verdict == "skip"
    with pytest.raises(InputError, match="at most 6"):
        lie_closure_dimension([(1, 0)], 7)
    with pytest.raises(InputError, match="I, X, Y and Z"):
        pauli_string("XQ")


def test_generators_are_the_rotations_seen_through_the_fixed_gates() -> None:
    """Each rotation, conjugated by the fixed gates before it, is exp(-+i w P / 2) of its generator P."""
    import scipy.linalg

    spec = CircuitSpec(2, 2, encoding="rz")
    paulis = {(0, 0): np.eye(2), (1, 0): np.eye(2)[::-1], (0, 1): np.diag([1, -1])}
    paulis[1, 1] = np.array([[0, -1j], [1j, 0]])
    body = [op for op in spec.operations() if op.source != "inputs"]
    generators = iter(circuit_generators(spec))
    fixed = np.eye(4, dtype=complex)
    for op in body:
        if not op.source:
            fixed = evolve_matrix(op, 0.0) @ fixed
            continue
        x, z = next(generators)
        pauli = np.kron(*(paulis[x >> shift & 1, z >> shift & 1] for shift in (1, 0)))
        pulled = fixed.conj().T @ evolve_matrix(op, 0.7) @ fixed
        candidates = [scipy.linalg.expm(-0.35j * sign * pauli) for sign in (1, -1)]
        assert min(np.abs(pulled - candidate).max() for candidate in candidates) < 1e-12
    assert next(generators, None) is None


def evolve_matrix(op: Operation, angle: float) -> np.ndarray:
    """Return the 4 x 4 matrix of one gate on two wires, by PennyLane."""
    import pennylane as qml

    operation = getattr(qml, str(op.gate.pennylane))
    gate = operation(angle, wires=op.wires) if op.source else operation(wires=op.wires)
    return np.asarray(qml.matrix(gate, wire_order=[0, 1]))
