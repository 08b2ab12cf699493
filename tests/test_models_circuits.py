"""The circuits of `qwafer.models` against QNodes written as the code of the paper is, and their gradients."""

import itertools
import math

import jax
import numpy as np
import pytest

import qwafer
from qwafer import models
from qwafer.circuits import CIRCUITS, statevector
from qwafer.models.base import DESCRIBED, PUBLISHED
from tests import papercircuits as paper

CASES = {
    "circuit_centric": (models.CircuitCentric(3, n_layers=1), paper.circuit_centric(3, 2)),
    "circuit_centric of one copy": (models.CircuitCentric(4, n_copies=1, n_layers=2), paper.circuit_centric(4, 1)),
    **{
        f"reuploading {variant}": (
            models.Reuploading(7, n_layers=2, variant=variant, observable="full"),
            paper.reuploading(7, 2, variant),
        )
        for variant in ("full", "no_scaling", "no_trainable_embedding", "separable")
    },
    "dressed": (models.Dressed(3, n_layers=2), paper.dressed(3, 2, True)),
    "dressed separable": (models.Dressed(3, n_layers=2, entangled=False), paper.dressed(3, 2, False)),
    "iqp_variational": (models.IqpVariational(3, repeats=2, n_layers=1), paper.iqp_variational(3, 2)),
    "vanilla": (models.Vanilla(3, n_layers=1), paper.vanilla(3, 2)),
    "separable_variational": (models.SeparableVariational(3, encoding_layers=2), paper.separable_variational(3, 2)),
    "tree_tensor": (models.TreeTensor(5), paper.tree_tensor(5)),
    "tree_tensor of a square": (models.TreeTensor(16), paper.tree_tensor(16)),
    "weinet": (models.WeiNet(9), paper.weinet(3, as_published=False)),
    "weinet as published": (models.WeiNet(9, variant=PUBLISHED), paper.weinet(3, as_published=True)),
}


def point(circuit, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape).astype("float32") for name, shape in circuit.weight_shapes().items()}
    return weights, rng.uniform(-1.5, 1.5, (batch, circuit.n_inputs)).astype("float32")


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_papers_qnode(name):
    options, expected = CASES[name]
    circuit = options.circuit(2 if isinstance(options, models.Dressed) else 1)
    weights, x = point(circuit)
    found = statevector.values(circuit, weights, x)
    wanted = np.stack([expected({k: np.float64(v) for k, v in weights.items()}, np.float64(row)) for row in x])
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # it sees its inputs


@pytest.mark.parametrize("name", ["circuit_centric", "dressed", "weinet"])
def test_engine_xla_runs_them(name):
    circuit = CASES[name][0].circuit(1)
    weights, x = point(circuit)
    found = qwafer.engines.get("xla").program(circuit, len(x), gradient=False)(weights, x)
    np.testing.assert_allclose(found, statevector.values(circuit, weights, x), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["tree_tensor", *(pytest.param(n, marks=pytest.mark.slow) for n in ("reuploading full", "weinet"))]
)
def test_gradients_are_differences(name):
    """By weights and by inputs, along one random direction."""
    circuit = CASES[name][0].circuit(1).with_dtype("float64")
    weights, x = jax.tree.map(np.float64, point(circuit))
    program = qwafer.engines.get("xla").program(circuit, len(x))

    def total(weights, x):
        return jax.numpy.sum(program(weights, x) ** 2)

    gradient = jax.grad(total, argnums=(0, 1))(weights, x)
    rng, step = np.random.default_rng(1), 1e-5
    direction = jax.tree.map(lambda value: rng.normal(size=value.shape), (weights, x))
    ends = [total(*jax.tree.map(lambda v, d, s=s: v + s * d, (weights, x), direction)) for s in (step, -step)]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float((g * d).sum()), gradient, direction)))
    assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert abs(slope) > 1e-3


def test_nine_shifts_are_nine_as_described_and_one_as_published():
    """`s` chooses among the shifts: with all its weight on one of them the values differ, as published they do not."""
    for variant, n_different in ((DESCRIBED, 9), (PUBLISHED, 1)):
        circuit = models.WeiNet(9, variant=variant).circuit(1)
        weights, x = point(circuit, batch=1)
        found = [statevector.values(circuit, {**weights, "s": 30 * np.eye(9)[k]}, x)[0, 0] for k in range(9)]
        assert len({round(value, 4) for value in found}) == n_different


def test_weinet_is_linear_in_the_squared_pixels():
    """Its classical null: whatever the mixture, the value is a linear function of x^2 / |x|^2."""
    circuit = models.WeiNet(9).circuit(1)
    weights, _ = point(circuit)
    x = np.concatenate([np.eye(9), np.random.default_rng(2).uniform(0.1, 1, (5, 9))]).astype("float32")
    values = statevector.values(circuit, weights, x)[:, 0]
    shares = x[9:] ** 2 / (x[9:] ** 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values[9:], shares @ values[:9], atol=1e-5)


def test_every_circuit_has_its_name_and_pickles():
    import pickle

    own = {type(options) for options, _ in CASES.values()}
    assert {CIRCUITS.get(name) for name in CIRCUITS.names} >= own
    circuit = models.TreeTensor(5).circuit(1)
    assert pickle.loads(pickle.dumps(circuit)) == circuit
    assert models.TreeTensor(5).circuit(1) is circuit


def test_bad_options_are_refused():
    for make, text in (
        (lambda: models.WeiNet(10), "square image"),
        (lambda: models.Vanilla(1), "n_inputs"),
        (lambda: models.Reuploading(variant="half"), "variant"),
        (lambda: models.CircuitCentric(n_layers=0), "n_layers"),
    ):
        with pytest.raises(qwafer.InputError, match=text):
            make()


def test_weights_start_as_published():
    from qwafer.heads import QuantumOptions, head_inputs

    features = np.random.default_rng(0).normal(size=(50, 9))
    circuit = models.WeiNet(9).circuit(1)
    head = QuantumOptions(projection="identity").make(head_inputs(features, 1, 0, circuit))
    s, coefficients = head.params["circuit.s"], head.params["circuit.coefficients"]
    assert 0.3 < float(s.std()) < 2 > 4 * float(abs(coefficients).max())
    circuit = models.Vanilla(4, n_layers=6).circuit(1)
    head = QuantumOptions(projection="identity", normalize="min_max", angle_map="linear").make(
        head_inputs(features[:, :4], 1, 0, circuit, normalize="min_max")
    )
    angles = np.asarray(head.params["circuit.angles"])
    assert angles.min() >= 0
    assert math.pi < angles.max() <= 2 * math.pi
    inputs = np.asarray(head.inputs(np.float32(features[:, :4])))
    np.testing.assert_allclose([inputs.min(axis=0), inputs.max(axis=0)], [[-math.pi / 2] * 4, [math.pi / 2] * 4], 1e-5)


@pytest.mark.parametrize("start", [("uniform", 1, 0), ("beta", 0, 1), ("normal", 0, -1), "normal", ("normal", 0)])
def test_bad_starts_are_refused(start):
    with pytest.raises(qwafer.InputError, match="initial"):
        qwafer.circuit(lambda w, x: None, {"a": 1}, 1, readout="mean_z", initial={"a": start})
    with pytest.raises(qwafer.InputError, match="not a weight"):
        qwafer.circuit(lambda w, x: None, {"a": 1}, 1, readout="mean_z", initial={"b": ("normal", 0, 1)})


def test_a_circuit_takes_features_without_a_projection():
    from qwafer.heads import QuantumOptions, head_inputs

    circuit = models.SeparableVariational(3).circuit(1)
    with pytest.raises(qwafer.InputError, match="as many inputs as there are features, got 5"):
        QuantumOptions(projection="identity").make(head_inputs(np.ones((4, 5)), 1, 0, circuit))
    assert list(itertools.chain(QuantumOptions(projection="identity").untrained_groups())) == ["projection"]
