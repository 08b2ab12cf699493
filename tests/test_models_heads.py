"""Kernels, contenders and heads of `qwafer.models`: Gram matrices against pairs, losses against the published ones."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest
import scipy.linalg

import qwafer
from qwafer import models
from qwafer.circuits import CircuitSpec
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.heads import HEADS, head_inputs
from qwafer.models import boltzmann, gram, kernels, metric, quanvolution
from qwafer.models.base import DESCRIBED, PUBLISHED
from qwafer.training.predictor import Predictor
from tests import papercircuits as paper

rng = np.random.default_rng(0)
X = rng.uniform(-1.5, 1.5, (6, 3))
LABELS = (rng.random((80, 1)) < 0.5).astype(np.uint8)
FEATURES = rng.normal(size=(80, 4)) + LABELS
DATA = qwafer.FeatureSet.from_arrays(FEATURES, LABELS)
PIXELS = qwafer.FeatureSet.from_arrays(rng.normal(size=(80, 16)), LABELS)
SHORT = TrainingConfig(epochs=1, batch_size=32, max_doublings=0)
TASK = DataConfig(task="any")


def iqp(x):
    qml.IQPEmbedding(x, wires=range(3), n_repeats=2)


def separable(x):
    for i in range(3):
        qml.RX(math.pi / 4, i)
        qml.RY(x[i], i)


@pytest.mark.parametrize(
    ("options", "embed"), [(models.IqpKernelOptions(), iqp), (models.SeparableKernelOptions(), separable)]
)
def test_gram_matrices_are_those_of_pairs(options, embed):
    kernel = options.kernel(3, seed=0)
    embedded = kernel.embedded(X)
    found = kernel.gram(embedded, embedded)
    pair = paper.overlap(3, embed)
    for i, j in itertools.product(range(3), repeat=2):
        assert found[i, j] == pytest.approx(pair(X[i], X[j]), abs=1e-5)
    np.testing.assert_allclose(found, found.T, atol=1e-7)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    assert np.linalg.eigvalsh(found.astype(np.float64)).min() > -1e-5


def test_the_projected_kernel_is_that_of_its_bloch_vectors():
    kernel = models.ProjectedKernelOptions(trotter_steps=2).kernel(2, seed=3)
    angles, time = kernel.weights["rotations"], 1 / 3 / 2 * 2
    x = X[:, :2]

    @paper.node(3)
    def circuit(w, x):
        for i in range(3):
            qml.Rot(*w[i], wires=i)
        for _ in range(2):
            for j in range(2):
                qml.IsingXX(x[j] * time, wires=[j, j + 1])
                qml.IsingYY(x[j] * time, wires=[j, j + 1])
                qml.IsingZZ(x[j] * time, wires=[j, j + 1])
        return [qml.expval(P(i)) for P in (qml.X, qml.Y, qml.Z) for i in range(3)]

    bloch = np.stack([circuit(angles, row) for row in x])
    np.testing.assert_allclose(kernel.embedded(x), bloch, atol=1e-5)
    wanted = np.exp(-((bloch[:, None] - bloch[None]) ** 2).sum(axis=2) / bloch.var() / 2)
    np.testing.assert_allclose(kernel.gram(bloch, bloch), wanted, atol=1e-9)
    assert np.linalg.eigvalsh(wanted).min() > -1e-9


def test_a_prediction_as_published_depends_on_its_company():
    """gamma comes from the examples that are predicted: alone, and beside another one, the value differs."""
    for variant, same in ((DESCRIBED, True), (PUBLISHED, False)):
        kernel = models.ProjectedKernelOptions(variant=variant, embedding="iqp").kernel(3, seed=0)
        embedded = np.sin(X)  # expectation values of any kind
        alone, beside = kernel.gram(embedded[:1], embedded[3:]), kernel.gram(embedded[:3], embedded[3:])
        assert np.allclose(alone[0], beside[0]) == same


@pytest.mark.parametrize(
    "options", [models.IqpKernelOptions(repeats=1), models.ProjectedKernelOptions(embedding="iqp")]
)
def test_every_example_is_run_once(options, monkeypatch):
    """No pair is a circuit: N training examples are N evaluations, whatever the labels, and predictions M more."""
    rows = []
    whole = gram.run_circuit
    monkeypatch.setattr(gram, "run_circuit", lambda e, c, x, w=None: rows.append(len(x)) or whole(e, c, x, w))
    prepared = _Prepared(FEATURES[:, :2], np.hstack([LABELS, 1 - LABELS]))
    fitted = options.fit(prepared, seed=0)
    n = 80 * (2 if isinstance(options, models.SeparableKernelOptions) else 1)  # a wire of every input
    assert rows == [n]
    fitted.logits(FEATURES[:7, :2])
    assert rows == [n, 7 * n // 80]


@dataclasses.dataclass
class _Prepared:
    features: np.ndarray
    labels: np.ndarray

    def part(self, name):
        return self.features, self.labels


def test_batches_pad_and_drop():
    circuit = qwafer.circuit(lambda w, x: qml.RY(x[0], 0) and qml.expval(qml.Z(0)), n_inputs=1)
    x = np.linspace(-1, 1, gram.BATCH + 3)[:, None]
    np.testing.assert_allclose(gram.run_circuit(qwafer.engines.get("xla"), circuit, x), np.cos(x), atol=1e-6)


def test_kitchen_sinks_are_independent_bits_and_exclusive_ors():
    """The probabilities of the circuit are those of sin^2(angle / 2) per bit, pushed through the CNOTs."""
    from qwafer.models.kitchen_sinks import kitchen_sink

    angles = np.array([0.3, 1.1, -0.7, 2.0])
    found = np.zeros(16)
    for bits in itertools.product((0, 1), repeat=4):
        p = np.prod([math.sin(a / 2) ** 2 if b else math.cos(a / 2) ** 2 for a, b in zip(angles, bits, strict=True)])
        out = list(bits)
        for control, target in ((0, 1), (2, 3), (0, 2), (1, 3)):
            out[target] ^= out[control]
        found[int("".join(map(str, out)), 2)] += p
    circuit = qwafer.circuit(kitchen_sink, n_inputs=4)
    program = qwafer.engines.get("xla").program(circuit, 1, gradient=False)
    np.testing.assert_allclose(program({}, jnp.asarray(angles[None], "float32"))[0], found, atol=1e-6)


def test_kitchen_sinks_draw_one_shot_of_each_circuit():
    prepared = _Prepared(FEATURES, LABELS)
    fitted = models.KitchenSinksOptions(n_episodes=200, n_wires=2).fit(prepared, seed=0)
    bits = fitted.mapped(FEATURES)
    assert bits.shape == (80, 400)
    assert set(np.unique(bits)) == {0, 1}
    x = fitted.scaler.transform(FEATURES)
    p = np.sin((np.einsum("ewd,nd->new", fitted.omegas, x) + fitted.betas[None]) / 2) ** 2
    assert abs(bits[:, 0::2].mean() - p[:, :, 0].mean()) < 0.1
    np.testing.assert_array_equal(bits, fitted.mapped(FEATURES))
    np.testing.assert_array_equal(fitted.mapped(FEATURES[5:6]), bits[5:6])


def test_the_fidelity_loss_is_equation_23():
    """Loss and penalty of the head add up to the published loss, up to a constant."""
    options = models.Reuploading(6, n_layers=1, observable="full", variant="separable")
    circuit = options.circuit(1)
    config = RunConfig(
        head=models.FidelityOptions(),
        circuit=options,
        engine=qwafer.engines.get("xla"),
        objective=qwafer.objective.Linear(),
    )
    x = rng.normal(size=(20, 6))
    y = (rng.random((20, 1)) < 0.5).astype("float32")
    head = config.head.make(head_inputs(x, 1, 0, circuit, normalize="min_max"))
    alpha = jnp.asarray(rng.normal(size=(2, 2)), "float32")
    head = head.with_parameters({**head.parameters(), "alpha.classes": alpha})
    program = config.engine.program(circuit, 20)
    weights = jnp.ones(20, "float32")
    logits, penalty = head.training_outputs(jnp.asarray(x, "float32"), program, weights=weights, key=jax.random.key(0))
    each = config.objective.per_label(logits, jnp.asarray(y), jnp.ones(1, "float32"))
    s = np.asarray(head.scores(jnp.asarray(x, "float32"), program), np.float64)
    a = np.asarray(alpha, np.float64)
    published = ((a[0] * (1 - s) / 2 - (1 - y)) ** 2 + (a[1] * (1 + s) / 2 - y) ** 2).sum(axis=1).mean() / 2
    assert float(each.mean() + penalty) - float(published) == pytest.approx(0.5 - 0.5 * s.shape[1], abs=1e-5)
    np.testing.assert_allclose(head(jnp.asarray(x, "float32"), program)[:, 0], s.mean(axis=1), atol=1e-6)
    layered = CircuitSpec(n_qubits=2, n_layers=1, readout="mean_z_readout")
    with pytest.raises(qwafer.InputError, match="without a readout to train"):
        config.head.make(head_inputs(x, 1, 0, layered))
    with pytest.raises(qwafer.InputError, match="must be linear with head fidelity, got bce"):
        dataclasses.replace(config, objective=qwafer.objective.Bce())


def test_the_thermal_state_is_that_of_the_published_formula():
    x, theta = rng.normal(size=3), rng.normal(size=(9, 3))
    for variant, n_rows in ((DESCRIBED, 9), (PUBLISHED, 7)):
        operators, rows = boltzmann.terms(3, variant)
        assert len(set(rows)) == n_rows
        h = sum(operator * (theta[row] @ x) for operator, row in zip(operators, rows, strict=True))
        state = scipy.linalg.expm(-h)
        wanted = np.trace(state @ np.kron(boltzmann.Z, np.eye(4))) / np.trace(state)
        head = models.BoltzmannOptions(variant=variant).make(head_inputs(rng.normal(size=(9, 3)), 1, 0))
        assert float(head.expectation(jnp.asarray(theta), jnp.asarray(x))) == pytest.approx(wanted, abs=1e-9)
    assert models.BoltzmannOptions(variant=PUBLISHED).make(head_inputs(x[None], 1, 0)).effective() == 21


@pytest.mark.parametrize("kind", ["sum", "product"])
def test_without_pairs_the_thermal_state_is_a_product(kind):
    x, theta = rng.normal(size=3), rng.normal(size=(9, 3))
    theta[6:] = 0
    form = {"visible": "full", "observable": kind}
    inputs = head_inputs(rng.normal(size=(9, 3)), 1, 0)
    whole, alone = (models.BoltzmannOptions(entangled=e, **form).make(inputs) for e in (True, False))
    found = alone.expectation(jnp.asarray(theta[:6]), jnp.asarray(x))
    assert float(found) == pytest.approx(float(whole.expectation(jnp.asarray(theta), jnp.asarray(x))), abs=1e-9)


def test_the_filter_table_is_the_likeliest_outcome():
    angles = np.random.default_rng(1).uniform(0, 2 * math.pi, (2, 3, 4))
    table = quanvolution.filter_table(angles)
    assert table.shape == (2, 16)

    @paper.node(4)
    def circuit(w, x):
        for i in range(4):
            qml.RY(x[i] * np.pi, wires=i)
        qml.RandomLayers(w, wires=range(4), seed=42)
        return qml.probs(wires=range(4))

    for index in (0, 6, 15):
        window = [int(bit) for bit in f"{index:04b}"]
        likeliest = int(np.argmax(circuit(angles[1], np.array(window))))
        assert table[1, index] == bin(likeliest).count("1")


def test_quanvolution_slides_over_windows():
    head = models.QuanvolutionalOptions(depth=1, rotations=2).make(
        head_inputs(PIXELS.features, 1, 0, normalize="min_max")
    )
    image = np.asarray(head.channels(jnp.asarray(PIXELS.features[:1])))[0, :, :, 0]
    binary = np.asarray(head.standardized(PIXELS.features[:1]) > 0.5).reshape(4, 4)
    for i, j in itertools.product(range(3), repeat=2):
        index = int("".join(str(int(v)) for v in binary[i : i + 2, j : j + 2].ravel()), 2)
        assert image[i, j] == head.buffers["filter.table"][0, index]
    plain = models.QuanvolutionalOptions(filters="classical").make(
        head_inputs(PIXELS.features, 1, 0, normalize="min_max")
    )
    np.testing.assert_array_equal(plain.channels(jnp.asarray(PIXELS.features[:1]))[0, :, :, 0], binary)


def test_the_published_metric_loss_compares_examples_with_themselves():
    """aa = bb = 1 for all weights: what is left is the fidelity between the classes; described, purities count too."""
    states = rng.normal(size=(8, 4)) + 1j * rng.normal(size=(8, 4))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    a, b = states[:4], states[4:]
    pairs = np.mean([abs(np.vdot(x, y)) ** 2 for x, y in zip(a, b, strict=True)])
    assert float(metric.hilbert_schmidt_loss(jnp.asarray(states), same=True)) == pytest.approx(pairs, abs=1e-9)
    rho, sigma = (np.mean([np.outer(s, s.conj()) for s in own], axis=0) for own in (a, b))
    distance = np.trace((rho - sigma) @ (rho - sigma)).real / 2
    assert float(metric.hilbert_schmidt_loss(jnp.asarray(states), same=False)) == pytest.approx(1 - distance, abs=1e-9)
    circuit = qwafer.circuit(metric.self_overlap, metric.angle_shapes(2, 1), 2)
    from qwafer.circuits import statevector

    values = statevector.values(circuit, {"angles": rng.normal(size=(1, 6))}, rng.normal(size=(3, 2)))
    np.testing.assert_allclose(values, 1, atol=1e-9)


CONFIGS = {
    "iqp_kernel": models.IqpKernelOptions(repeats=1, n_components=2),
    "projected_kernel": models.ProjectedKernelOptions(trotter_steps=1, n_components=2),
    "separable_kernel": models.SeparableKernelOptions(),
    "svc": models.SvcOptions(),
    "kitchen_sinks": models.KitchenSinksOptions(n_episodes=20, n_wires=2),
    "metric_learner": models.MetricLearnerOptions(n_layers=1, max_steps=200, n_components=1, batch_size=8),
    "boltzmann": models.BoltzmannOptions(),
    "dressed_nn": models.DressedNnOptions(),
    "quanvolutional": models.QuanvolutionalOptions(n_filters=2, depth=1, rotations=2),
}


SLOW = ("projected_kernel", "metric_learner", "kitchen_sinks")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONFIGS])
def test_every_head_trains_and_predicts(name, tmp_path):
    assert type(CONFIGS[name]) is HEADS.get(name)
    data = PIXELS if name == "quanvolutional" else DATA
    loop = {"training": SHORT} if hasattr(CONFIGS[name], "make") else {}
    result = qwafer.train(RunConfig(head=CONFIGS[name], data=TASK, **loop), data, seed=0)
    assert np.isfinite(result.outputs["test_logits"]).all()
    assert RunConfig.from_dict(result.config) == result.predictor.config
    if loop:
        result.predictor.save(tmp_path / "head.npz")
        again = Predictor.load(tmp_path / "head.npz").logits(data.features[:5])
        np.testing.assert_array_equal(again, result.predictor.logits(data.features[:5]))
    if name in ("svc", "separable_kernel"):
        assert result.test.macro["roc_auc"] > 0.6  # classes a standard deviation apart in four features
    again = qwafer.train(result.predictor.config, data, seed=0)
    np.testing.assert_array_equal(result.outputs["test_logits"], again.outputs["test_logits"])


@pytest.mark.parametrize("loss", [qwafer.objective.Linear(), qwafer.objective.Square()])
def test_losses_of_expectation_values(loss):
    logits, labels = jnp.array([[0.4, -1.0], [0.1, 0.7]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    signed = 2 * labels - 1
    wanted = (1 - signed * logits) / 2 if isinstance(loss, qwafer.objective.Linear) else (logits - signed) ** 2 / 2
    np.testing.assert_allclose(loss.per_label(logits, labels, jnp.ones(2)), wanted)
    constants = loss.constants(np.eye(2, dtype=np.uint8))
    value = loss.value(logits, labels, jnp.ones(2), {k: jnp.asarray(v) for k, v in constants.items()})
    assert float(value) == pytest.approx(float(wanted.mean()), rel=1e-6)


def test_refusals_are_one_sentence():
    inputs = head_inputs(rng.normal(size=(9, 10)), 1, 0)
    for make, text in (
        (lambda: models.BoltzmannOptions().make(inputs), "at most 8, got 10 features"),
        (lambda: models.QuanvolutionalOptions().make(inputs), "square image"),
        (lambda: kernels.scaling(11, np.ones((20, 10))), "n_components"),
        (lambda: models.MetricLearnerOptions().fit(_Prepared(FEATURES, np.hstack([LABELS, LABELS])), 0), "two classes"),
        (lambda: models.SvcOptions(C=0.0), "head.C"),
        (lambda: models.KitchenSinksOptions(features="bits"), "features"),
    ):
        with pytest.raises(qwafer.InputError, match=text):
            make()


def test_a_label_of_one_value_has_a_constant_logit():
    both = np.hstack([LABELS, np.ones_like(LABELS)])
    fitted = models.SvcOptions().fit(_Prepared(FEATURES, both), seed=0)
    np.testing.assert_array_equal(fitted.logits(FEATURES[:3])[:, 1], [1, 1, 1])
