"""A run's claims, executed again: faults planted one at a time in the training path are caught, sound runs pass."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import LayeredOptions
from qwafer.comparison import caveats, signs
from qwafer.comparison.signs import SIGNS
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.evaluation import evaluate
from qwafer.features import FeatureSet
from qwafer.heads import QuantumHead, predict_logits
from qwafer.heads import _predict as predict_module
from qwafer.objective import SamplingConfig, batches, make_sampler
from qwafer.objective import options as losses
from qwafer.probes.run.execution import probe_claims
from qwafer.probes.run.model import Model, OwnLoss, why_not
from qwafer.probes.run.replay import planned, schedule
from qwafer.probes.suite import probe_run
from qwafer.training import RunResult, _judge, _step, _train, _validation, make_schedule, train
from qwafer.training._prepare import Prepared
from tests.factories import feature_set, head_options, loss_options

T = TrainingConfig(epochs=3, batch_size=32, max_doublings=0, learning_rate=0.05)
LINEAR = RunConfig(head=head_options("linear"), training=T)
QUANTUM = RunConfig(
    head=head_options(), circuit=LayeredOptions(n_qubits=2, n_layers=1), engine=engines.get("xla"), training=T
)
BALANCED = dataclasses.replace(
    LINEAR, data=DataConfig(task="L0"), sampling=SamplingConfig(balanced=True, pos_frac=0.25)
)
PCA = dataclasses.replace(QUANTUM, head=head_options(projection="pca", normalize="raw"))
LR_MULT = dataclasses.replace(LINEAR, training=dataclasses.replace(T, lr_mult_projection=0.5))


@pytest.fixture(scope="module")
def data():
    return feature_set(800, 6, 3, signal=2.0)


def forget():
    """Forget what was compiled: a fault must be compiled in, and out again."""
    for cached in (_step.steps, predict_module._forward):
        cached.cache_clear()
    _validation._loss.clear_cache()


@pytest.fixture
def planted(monkeypatch):
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def failing(run, data):
    return {report.name: report.headline for report in probe_claims(run, data) if report.verdict == "fail"}


def part_with(change):
    """`Prepared.part` with other labels of validation."""
    real = Prepared.part

    def part(self, name):
        features, labels = real(self, name)
        return (features, change(labels)) if name == "val" else (features, labels)

    return part


def shuffled(labels):
    return labels[np.random.default_rng(0).permutation(len(labels))]


def swapped(labels):
    return labels[:, [1, 0, *range(2, labels.shape[1])]]


def validation_labels_shuffled(patch):
    patch.setattr(Prepared, "part", part_with(shuffled))


def validation_labels_shuffled_in_the_loop(patch):
    real = _train.validate
    patch.setattr(
        _train, "validate", lambda objective, logits, labels, *size: real(objective, logits, shuffled(labels), *size)
    )


def validation_columns_swapped(patch):
    patch.setattr(Prepared, "part", part_with(swapped))


def label_names_swapped(patch):
    real = FeatureSet.task

    def task(self, name):
        found = real(self, name)
        return dataclasses.replace(found, label_names=found.label_names[::-1])

    patch.setattr(FeatureSet, "task", task)


def checkpoint_from_test(patch):
    real = _train.Run._validate

    def validate(self):
        val, self.val = self.val, self.prepared.part("test")
        try:
            return real(self)
        finally:
            self.val = val

    patch.setattr(_train.Run, "_validate", validate)


def last_checkpoint_taken(patch):
    real = _train.Run._evaluate

    def evaluate(self):
        entry = real(self)
        self.best, self.history.best_epoch = _train.evaluated_arrays(self.config.training, self.state), self.epoch
        return entry

    patch.setattr(_train.Run, "_evaluate", evaluate)


def thresholds_from_test(patch):
    real, logits = _judge.judge, {}

    def judge(prepared, found):
        logits.update({part: (found[part], prepared.part(part)[1]) for part in found})
        return real(prepared, found)

    tune = _judge.tune_thresholds
    patch.setattr(_train, "judge", judge)
    patch.setattr(_judge, "tune_thresholds", lambda *validation: tune(*logits["test"]))


def fitted_on_all_rows(patch):
    real = _train.make_head

    def make_head(config, features, n_labels, seed, origin, label_names):
        return real(config, RUNNING["data"].features, n_labels, seed, origin, label_names)

    patch.setattr(_train, "make_head", make_head)


def every_step_sees_the_first_batch(patch):
    real = _train.steps

    def steps(*key):
        run = real(*key)

        def faulty(head, objective, state, batch, *rest):
            first = [jnp.broadcast_to(array[:1], array.shape) for array in (batch.rows, batch.weights)]
            return run(head, objective, state, batch._replace(rows=first[0], weights=first[1]), *rest)

        return faulty

    patch.setattr(_train, "steps", steps)


def every_epoch_sees_the_first_batches(patch):
    real = _train.Run.batch
    patch.setattr(_train.Run, "batch", lambda self, epoch: real(self, 1))


def half_of_each_batch_ignored(patch):
    real = losses._mean

    def mean(weights, values):
        half = len(weights) // 2 if len(weights) == T.batch_size else len(weights)
        return real(weights[:half], values[:half])

    patch.setattr(losses, "_mean", mean)


def other_order_at_run_time(patch):
    real = _train.Run.batch

    def batch(self, epoch):
        found = real(self, epoch)
        order = np.random.default_rng(epoch).permutation(found.rows.size)
        return found._replace(rows=found.rows.ravel()[order].reshape(found.rows.shape))

    patch.setattr(_train.Run, "batch", batch)


def order_of_a_late_epoch(patch):
    real = _train.Run.batch
    patch.setattr(_train.Run, "batch", lambda self, epoch: real(self, 1 if epoch == 3 else epoch))


def importance_weights_swapped(patch):
    real = batches.importance_weights
    patch.setattr(batches, "importance_weights", lambda *priors: real(*priors)[::-1])


def bias_outside_alpha(patch):
    def logits(self, features, program, *, key=None, train=False):
        return self.alpha()[None, :] * self.scores(features, program) + self.array("readout.bias")[None, :]

    patch.setattr(QuantumHead, "logits", logits)


def absolute_scores(patch):
    real = QuantumHead.scores
    patch.setattr(QuantumHead, "scores", lambda self, features, program: jnp.abs(real(self, features, program)))


def another_alpha_in_evaluation(patch):
    def predict(head, *rest):
        return predict_logits(head.with_parameters({**head.params, "alpha.raw": head.params["alpha.raw"] + 1}), *rest)

    patch.setattr(_train, "predict_logits", predict)


def multiplier_ignored(patch):
    real = _train.hyperparameters

    def hyperparameters(*given):
        told = real(*given)
        return told._replace(lr_mult=dict.fromkeys(told.lr_mult, jnp.float32(1.0)))

    patch.setattr(_train, "hyperparameters", hyperparameters)


def logits_of_a_neighbour(patch):
    real = _train.predict_logits
    patch.setattr(_train, "predict_logits", lambda *given: np.roll(real(*given), 1, axis=0))


RUNNING: dict[str, FeatureSet] = {}
FAULTS = [
    (validation_labels_shuffled, LINEAR, {"run data", "parts agree"}),
    (validation_labels_shuffled_in_the_loop, LINEAR, {"checkpoint"}),
    (validation_columns_swapped, LINEAR, {"run data", "parts agree"}),
    (label_names_swapped, LINEAR, {"run data"}),
    (checkpoint_from_test, LINEAR, {"checkpoint"}),
    (last_checkpoint_taken, LINEAR, {"checkpoint"}),
    (thresholds_from_test, LINEAR, {"run scores"}),
    (fitted_on_all_rows, LINEAR, {"preprocessing"}),
    (fitted_on_all_rows, PCA, {"preprocessing"}),
    (every_step_sees_the_first_batch, LINEAR, {"training replay"}),
    (every_epoch_sees_the_first_batches, LINEAR, {"training replay", "run data"}),
    (half_of_each_batch_ignored, LINEAR, {"training replay"}),
    (other_order_at_run_time, LINEAR, {"training replay", "run data"}),
    (order_of_a_late_epoch, LINEAR, {"run data"}),
    (importance_weights_swapped, BALANCED, {"training replay", "run data"}),
    (bias_outside_alpha, QUANTUM, {"training replay", "run scores"}),
    (absolute_scores, QUANTUM, {"training replay", "run scores"}),
    (another_alpha_in_evaluation, QUANTUM, {"run scores"}),
    (multiplier_ignored, LR_MULT, {"training replay"}),
    (logits_of_a_neighbour, LINEAR, {"run scores"}),
]


@pytest.mark.parametrize(("fault", "config", "caught_by"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_in_the_training_path_is_caught(fault, config, caught_by, data, planted):
    RUNNING["data"] = data
    if fault is last_checkpoint_taken:  # so that the best epoch is not the last one
        training = dataclasses.replace(T, learning_rate=1.0, epochs=6)
        config = dataclasses.replace(config, training=training)
    fault(planted)
    found = failing(train(config, data, 0), data)
    assert caught_by <= found.keys(), found


@pytest.mark.parametrize("config", [LINEAR, QUANTUM, BALANCED, PCA, LR_MULT], ids=lambda config: config.name("head"))
def test_the_same_runs_without_a_fault_pass(config, data):
    run = train(config, data, 0)
    assert not failing(run, data)
    assert all(report.verdict == "pass" for report in probe_claims(run, data))


def test_labels_that_were_shuffled_before_they_came_are_seen_by_their_scores(data):
    """The features' own labels of one part are wrong: every row agrees, and validation ranks as nothing else does."""
    run = train(LINEAR, data, 0)
    labels = data.labels.copy()
    rows = run.rows["val"]
    labels[rows] = shuffled(labels[rows])
    wrong = dataclasses.replace(data, labels=labels, split=_parts(run, len(data)))
    found = failing(train(LINEAR, wrong, 0), wrong)
    assert not found  # a split that came with the data may differ in kind: it warns
    reports = {report.name: report for report in probe_claims(train(LINEAR, wrong, 0), wrong)}
    assert reports["parts agree"].verdict == "warn"
    assert "labels of val" in reports["parts agree"].headline


def _parts(run, n):
    parts = np.full(n, "train", dtype="<U5")
    for part in ("val", "test"):
        parts[run.rows[part]] = part
    return parts


def test_a_run_from_a_file_is_probed_without_its_predictor(data, tmp_path):
    run = train(PCA, data, 0)
    run.save(tmp_path / "run.json")
    loaded = RunResult.load(tmp_path / "run.json")
    reports = {report.name: report.verdict for report in probe_claims(loaded, data)}
    assert reports == dict.fromkeys(
        ("run data", "run scores", "checkpoint", "preprocessing", "training replay"), "pass"
    )
    other = feature_set(800, 6, 3, signal=2.0, seed=1)
    assert {"run data"} <= failing(loaded, other).keys()


def test_what_cannot_be_executed_again_says_why(data):
    run = train(RunConfig(head=head_options("tree")), data, 0)
    (skipped,) = (report for report in probe_claims(run, data) if report.verdict == "skip")
    assert skipped.headline == "cannot be executed again: it trains itself"
    wide = dataclasses.replace(QUANTUM, circuit=LayeredOptions(n_qubits=9, n_layers=1))
    assert why_not(wide, 2) == "9 wires are more than 8"
    shots = dataclasses.replace(QUANTUM, engine=engines.get("catalyst", shots=100))
    assert why_not(shots, 2) == "finite shots are random"
    assert why_not(QUANTUM, 2) is None


def test_the_trust_table_holds_the_claims(data):
    names = {report.name for report in probe_run(train(LINEAR, data, 0), data)}
    assert {"run data", "run scores", "checkpoint", "preprocessing", "training replay", "parts agree"} <= names


LOSSES = [
    loss_options("bce", pos_weight="balanced", class_weights="effective", label_smoothing=0.1),
    loss_options("focal", focal_gamma=1.5, pos_weight="1,2,3"),
    loss_options("asymmetric", asymmetric_gamma_pos=1.0),
    loss_options("roc_auc", class_weights="balanced"),
    loss_options("softmax", class_weights="effective", label_smoothing=0.2),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_own_slopes_are_those_of_the_losses_by_finite_differences(loss):
    """The probe's own loss against the real one's values: two derivations of one formula."""
    from qwafer.objective import make_objective

    rng = np.random.default_rng(0)
    train_labels = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, 60)]
    labels, logits, weights = train_labels[:9], rng.normal(size=(9, 3)), rng.random(9)
    objective = make_objective(loss, train_labels)

    def value(logits):
        return float(objective(jnp.asarray(logits), jnp.asarray(labels, "float64"), jnp.asarray(weights)))

    slope = OwnLoss(loss, train_labels).slope(labels, weights)(logits)
    for i, k in itertools.product(range(9), range(3)):
        step = np.zeros_like(logits)
        step[i, k] = 1e-5
        assert slope[i, k] == pytest.approx((value(logits + step) - value(logits - step)) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("readout", ["mean_z", "z_vec", "mean_z_readout"])
@pytest.mark.parametrize("options", [{"angle_map": "atan", "alpha_per_label": True}, {"alpha_mode": "direct"}])
def test_own_gradients_are_those_of_own_logits(readout, options):
    """By central differences of `Model.logits`, which executes readout gates as gates."""
    k = 1 if readout == "mean_z" else 2
    circuit = LayeredOptions(n_qubits=2, n_layers=2, readout=readout, reupload=True)
    model = Model(RunConfig(head=head_options(**options), circuit=circuit, engine=engines.get("xla")), k)
    rng = np.random.default_rng(1)
    shapes = {"circuit.ansatz": (2, 2, 3), "projection.weight": (3, 2), "projection.bias": (2,), "readout.bias": (k,)}
    shapes |= {"z_vec": {"readout.weights": (k, 2)}, "mean_z_readout": {"readout.angles": (k, 2, 3)}}.get(readout, {})
    per_label = options.get("alpha_per_label", False)
    shapes["alpha.value" if "alpha_mode" in options else "alpha.raw"] = (k,) if per_label else ()
    arrays = {name: np.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x, weight = rng.normal(size=(5, 3)), rng.normal(size=(5, k))
    found = model.gradient(arrays, x, lambda logits: weight)
    for name, value in arrays.items():
        for index in np.ndindex(value.shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = value.copy()
                moved[index] += h
                sides.append(float((model.logits({**arrays, name: moved}, x) * weight).sum()))
            assert found[name][index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("kind", ["constant", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("stage", [3, 10, 40])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_own_schedule_is_the_one_that_is_documented(kind, stage, warmup):
    options = TrainingConfig(schedule=kind, max_doublings=2, warmup=warmup)
    real = make_schedule(options, stage)
    for step in range(4 * stage):
        assert schedule(options, stage, step) == pytest.approx(float(real(step)), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    "config", [LINEAR, BALANCED, dataclasses.replace(LINEAR, training=TrainingConfig(fixed_num_batches=4))]
)
def test_own_batches_are_those_of_the_sampler(config):
    labels = feature_set(100).labels
    options = config.training
    sampler = make_sampler(
        config.sampling, labels, batch_size=options.batch_size, seed=3, fixed_num_batches=options.fixed_num_batches
    )
    rows, weights = planned(config, labels, 3, 2)
    np.testing.assert_array_equal(rows, sampler.epoch(2).rows)
    np.testing.assert_allclose(weights, sampler.epoch(2).weights, rtol=1e-6)


def sound_configs():
    """One hundred and eight configurations: heads, circuits, losses, sampling, schedules, averages, clipping."""
    rng = np.random.default_rng(0)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    for number in range(108):
        head = ("linear", "mlp", "quantum", "mlp", "linear", "mlp")[number % 6]
        training = TrainingConfig(
            epochs=pick(1, 2, 3),
            batch_size=pick(16, 64),
            max_doublings=pick(0, 1),
            learning_rate=pick(1e-3, 1e-2, 0.1),
            schedule=pick("constant", "cosine", "one_cycle", "plateau"),
            warmup=pick(0.0, 0.2),
            weight_decay=pick(0.0, 0.1),
            lr_mult_projection=pick(1.0, 0.3),
            grad_clip=pick(None, 0.05, 1.0),
            ema_decay=pick(None, 0.9),
            val_objective=pick("roc_auc", "separation", "loss", "macro_f1"),
            fixed_num_batches=pick(None, None, 5),
        )
        balanced = bool(rng.integers(2)) and head != "quantum"
        loss = pick(loss_options("bce"), loss_options("roc_auc")) if balanced else pick(*LOSSES[:4])
        task = "L0" if balanced else "multilabel"
        data = DataConfig(task=task, limit=pick(None, 200), split_by=pick("content", "group"), split_seed=pick(None, 3))
        sections = {"training": training, "objective": loss, "data": data}
        if balanced:
            sections["sampling"] = SamplingConfig(balanced=True, pos_frac=pick(0.25, 0.5))
        own = {"normalize": pick("raw", "standard", "min_max", "l2")}
        if head == "mlp":
            own |= {"hidden": pick(4, 9), "dropout": pick(0.0, 0.3)}
        if head == "quantum":
            own |= {
                "projection": pick("linear", "fixed", "pca"),
                "angle_map": pick("tanh", "atan", "linear"),
                "alpha_mode": pick("softplus", "direct"),
                "alpha_train": pick(True, True, False),
                "alpha_per_label": pick(True, False),
            }
            sections["circuit"] = LayeredOptions(
                n_qubits=pick(2, 3),
                n_layers=pick(1, 2),
                encoding=pick("ry", "rx", "rz"),
                ansatz=pick("strongly_entangling", "basic_entangler", "separable"),
                readout=pick("z_vec", "mean_z_readout"),
                dtype=pick("float32", "float64"),
            )
            sections["engine"] = engines.get(pick("xla", "xla", "reference"))
        yield number, RunConfig(head=head_options(head, **own), **sections)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_sound_runs_raise_no_false_alarm():
    groups = np.array([f"lot {i % 40}" for i in range(300)])
    alarms = {}
    for number, config in sound_configs():
        data = feature_set(300, 6, 3, seed=number % 10, signal=(0.0, 0.5, 2.0)[number % 3], groups=groups)
        found = failing(train(config, data, number), data)
        if found:
            alarms[number] = found
    assert not alarms


def run_with(run, **outputs):
    return dataclasses.replace(run, outputs={**run.outputs, **outputs})


def test_every_sign_is_seen_where_it_is_planted_and_nowhere_else(data):
    sound = train(dataclasses.replace(QUANTUM, training=dataclasses.replace(T, epochs=6)), data, 0)
    rng = np.random.default_rng(0)
    clear = {f"{part}_logits": 6.0 * sound.labels[part] + rng.random(sound.labels[part].shape) for part in sound.labels}
    sound = run_with(sound, **clear)
    assert not any(sign(sound) for _, sign in SIGNS)
    labels, logits = sound.labels["test"], sound.logits["test"]
    names = sound.label_names

    def judged(test):
        return evaluate(test, labels, label_names=names, thresholds=sound.val.thresholds)

    flipped = dataclasses.replace(sound, test=judged(-logits))
    assert [text.split()[0] for text in signs.inverted(flipped)] == list(names)
    constant = dataclasses.replace(sound, test=judged(np.zeros_like(logits)))
    assert signs.constant(constant) == list(names)
    assert not signs.inverted(constant)
    path = sound.curves["alpha"]
    crossing = dataclasses.replace(
        sound, curves={**sound.curves, "alpha": [[-row[0]] * 3 for row in path[:-1]] + path[-1:]}
    )
    assert signs.alpha_sign(crossing) == ["crossed zero"]
    negative = dataclasses.replace(sound, curves={**sound.curves, "alpha": [[-1.0] * 3] * len(path)})
    assert signs.alpha_sign(negative) == ["negative"]
    truth = np.repeat([1, 1, 0], [15, 15, 30])[:, None].repeat(3, axis=1)  # two cuts of one F1 on validation
    torn = np.repeat([1.0, -1.0, 0.0], [15, 15, 30])[:, None] + 1e-3 * rng.random((60, 3))
    fragile = run_with(sound, val_labels=truth, val_logits=torn, test_logits=labels.astype(np.float64))
    assert signs.fragile(fragile) == list(names)


@pytest.mark.parametrize(("pos_weight", "level"), [(None, 0.1733), ("3", None)])
def test_a_stalled_focal_arm_is_told_from_its_curves(data, pos_weight, level):
    """The level is that of the real loss at logits 0, weights included."""
    from qwafer.objective import make_objective

    focal = loss_options("focal", pos_weight=pos_weight)
    config = dataclasses.replace(QUANTUM, objective=focal, training=dataclasses.replace(T, learning_rate=1e-6))
    config = dataclasses.replace(config, head=head_options(alpha_init=0.01))
    run = train(config, data, 0)
    assert signs.stalled(run)
    zeros = jnp.zeros(run.labels["val"].shape)
    objective = make_objective(focal, run.labels["val"])
    value = float(objective(zeros, jnp.asarray(run.labels["val"]), jnp.ones(len(zeros))))
    assert focal.level_at_zero(run.labels["val"]) == pytest.approx(value, rel=1e-6)
    if level is not None:
        assert value == pytest.approx(level, abs=1e-4)
    bce = dataclasses.replace(config, objective=loss_options("bce"), training=dataclasses.replace(T, learning_rate=0.1))
    assert not signs.stalled(train(bce, data, 0))


def test_the_warnings_of_a_comparison_name_the_stalled_arm(data):
    focal = dataclasses.replace(LINEAR, objective=loss_options("focal"), head=head_options("linear", normalize="raw"))
    focal = dataclasses.replace(focal, training=dataclasses.replace(T, learning_rate=1e-6))
    faint = dataclasses.replace(data, features=data.features * np.float32(1e-3))
    runs = {
        "linear": {seed: train(LINEAR, data, seed) for seed in (0, 1)},
        "stalled": {seed: train(focal, faint, seed) for seed in (0, 1)},
    }
    found = caveats._signs(runs)
    assert any(text.startswith("stalled: training ended in a stall") and "2 of 2 runs" in text for text in found)
    assert not any(text.startswith("linear: training ended") for text in found)
