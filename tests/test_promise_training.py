"""Training goes on until it has converged or says that it has not; options without effect; expectations; nulls."""

import dataclasses
import itertools

import numpy as np
import pytest

from qwafer import InputError
from qwafer._io import digest
from qwafer._records import to_json
from qwafer.circuits import CircuitSpec
from qwafer.comparison import check_design
from qwafer.config import RunConfig, TrainingConfig
from qwafer.execution import Threads
from qwafer.experiment import load_experiment, with_seeds
from qwafer.features import FeatureSet, SourceFacts
from qwafer.heads import LinearOptions, MlpOptions, TreeOptions, TrigonometricOptions, trigonometric_features
from qwafer.overrides import effective_options, no_effect, with_options
from qwafer.probes.circuit.linear import spec_values
from qwafer.probes.pairing import program_fingerprint
from qwafer.reports.document import to_markdown
from qwafer.reports.trust import nulls_table
from qwafer.studies import null_experiment, nulls_report, run_benchmark, run_experiment, run_nulls
from qwafer.studies.nulls import RATES, search_rates
from qwafer.training import RunResult, has_converged, make_schedule, prepare, train


def features(n=160, seed=0, noise=0.3, **more):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = (x[:, :2] + noise * rng.normal(size=(n, 2)) > 0.2).astype(np.uint8)
    return FeatureSet(x, y, ("a", "b"), np.array([f"m{i}" for i in range(n)]), {}, **more)


def run(seed=0, head=None, data=None, **training):
    config = RunConfig(head=head or MlpOptions(hidden=8), training=TrainingConfig(**{"batch_size": 32, **training}))
    return train(config, data or features(), seed)


# Training until it has converged (point 13).


def test_training_goes_on_until_a_doubling_does_not_pay():
    short = run(epochs=2, learning_rate=3e-2, max_doublings=0)
    long = run(epochs=2, learning_rate=3e-2, max_doublings=8)
    assert (short.epochs_run, short.converged) == (2, False)
    assert long.converged
    assert 8 <= long.epochs_run < 2 * 2**8
    assert long.epochs_run in [2 * 2**k for k in range(9)]
    losses = long.curve("val_loss")
    half = long.epochs_run // 2
    assert losses.min() > 0.99 * losses[:half].min(), "the last doubling paid in the validation loss"
    assert losses[:half].min() <= 0.99 * losses[: half // 2].min() or (
        long.curve("val_roc_auc")[:half].max() > long.curve("val_roc_auc")[: half // 2].max() + 1e-3
    ), "the doubling before did not pay: the run should have ended there"


def test_by_default_training_goes_on_at_most_three_doublings():
    result = run(epochs=2, learning_rate=1e-4)
    assert (result.epochs_run, result.converged) == (16, False)


def test_a_run_that_is_doubled_is_the_longer_run():
    doubled = run(epochs=2, learning_rate=1e-4, max_doublings=2)
    longer = run(epochs=8, learning_rate=1e-4, max_doublings=0)
    assert doubled.epochs_run == longer.epochs_run == 8
    assert doubled.fingerprint() == longer.fingerprint()


@pytest.mark.parametrize(
    ("epochs", "losses", "values", "converged"),
    [
        ([1, 2, 3, 4], [0.5, 0.4, 0.4, 0.397], [0.8, 0.9, 0.9, 0.9009], True),
        ([1, 2, 3, 4], [0.5, 0.4, 0.4, 0.395], [0.8, 0.9, 0.9, 0.9], False),  # the loss is 1.25% better
        ([1, 2, 3, 4], [0.5, 0.4, 0.6, 0.7], [0.8, 0.9, 0.9011, 0.7], False),  # the objective is 0.0011 better
        ([1, 2, 3, 4], [0.5, 0.4, 0.6, 0.7], [0.8, 0.9, 0.8, 0.7], True),  # overfitted: longer is not better
        ([1, 2], [0.4, 0.4], [0.9, 0.9], False),  # too few evaluations to say
        ([1, 2, 4, 8], [0.5, 0.4, 0.4, 0.4], [0.8, 0.9, 0.9, 0.9], True),
        ([5, 6, 7, 8], [0.4, 0.4, 0.4, 0.4], [0.9, 0.9, 0.9, 0.9], False),  # nothing is known of the first half
        ([1, 2, 3, 4], [0.5, 0.4, 0.4, 0.4], [np.nan] * 4, True),  # an undefined objective leaves the loss to judge
        ([1, 2, 3, 4], [0.5, 0.4, 0.4, 0.3], [np.nan] * 4, False),
        ([1, 2, 3, 4], [-100.0, -200.0, -201.0, -199.0], [100, 200.0, 200.1, 199.0], True),  # relative above 1
        ([1, 2, 3, 4], [-100.0, -200.0, -203.0, -199.0], [100, 200.0, 200.0, 199.0], False),
    ],
)
def test_the_rule_of_convergence(epochs, losses, values, converged):
    assert has_converged(epochs, losses, values, 1e-3, 300.0) is converged


def test_what_has_hardly_left_has_not_arrived():
    # 0.4% less loss in the second half: little of a descent from 0.7, half of one from 0.403.
    losses, values = [0.402, 0.4015, 0.4005, 0.4], [0.9] * 4
    assert has_converged([1, 2, 3, 4], losses, values, 1e-3, 0.7)
    assert not has_converged([1, 2, 3, 4], losses, values, 1e-3, 0.403)


def test_few_epochs_are_not_called_converged():
    # A learning rate of nearly zero moves nothing; one or two evaluations do not show that.
    assert not run(epochs=1, learning_rate=1e-9, max_doublings=1).converged
    assert run(epochs=1, learning_rate=1e-9, max_doublings=3).epochs_run == 4


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_every_stage_is_a_schedule_of_its_own(schedule):
    n = 40
    whole = make_schedule(TrainingConfig(schedule=schedule, max_doublings=3), n)
    for start, length in ((0, n), (n, n), (2 * n, 2 * n), (4 * n, 4 * n)):
        own = make_schedule(TrainingConfig(schedule=schedule, max_doublings=0), length)
        steps = range(length)
        np.testing.assert_allclose([whole(start + i) for i in steps], [own(i) for i in steps], rtol=1e-5, atol=1e-9)


def test_a_constant_rate_stays_constant():
    whole = make_schedule(TrainingConfig(max_doublings=3), 10)
    assert {float(whole(i)) for i in range(80)} == {float(np.float32(1e-2))}


def test_a_restart_shows_in_the_curves():
    result = run(epochs=4, learning_rate=1e-3, schedule="cosine", max_doublings=1)
    rates = result.curve("learning_rate")
    assert len(rates) == 8
    assert rates[3] < 0.1 * rates[0]
    assert rates[4] == rates[0]


def substance(result):
    data = {**to_json(result), "timings": None, "compile_cache": None}
    return data, {name: value.tobytes() for name, value in result.outputs.items()}


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_run_killed_around_a_doubling_resumes_bit_for_bit(at, tmp_path):
    training = TrainingConfig(
        epochs=2, batch_size=32, learning_rate=1e-3, schedule="cosine", ema_decay=0.9, max_doublings=2
    )
    config = RunConfig(head=MlpOptions(hidden=6, dropout=0.3), training=training)

    def observe(entry):
        if entry["epoch"] == at:
            raise KeyboardInterrupt

    unbroken = train(config, features(), 1)
    assert unbroken.epochs_run == 8
    with pytest.raises(KeyboardInterrupt):
        train(config, features(), 1, directory=tmp_path, observe=observe)
    seen = []
    resumed = train(config, features(), 1, directory=tmp_path, observe=lambda entry: seen.append(entry["epoch"]))
    assert seen == list(range(at, 9))
    assert substance(resumed) == substance(unbroken)


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_checkpoint_at_a_doubling_goes_on(epoch, tmp_path):
    options = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3, "checkpoint_every_epochs": 1, "max_doublings": 2}
    config = RunConfig(head=LinearOptions(), training=TrainingConfig(**options))

    def kill(entry):  # the checkpoint of `epoch` is on disk
        if entry["epoch"] == epoch + 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(config, features(), 1, directory=tmp_path, observe=kill)
    assert substance(train(config, features(), 1, directory=tmp_path)) == substance(train(config, features(), 1))


def test_the_ends_of_stages_are_evaluated_whatever_the_interval():
    result = run(epochs=2, learning_rate=1e-4, eval_every_epochs=3, max_doublings=2)
    assert result.curves["epoch"] == [2, 3, 4, 6, 8]


def test_early_stopping_is_a_rule_of_convergence_too():
    result = run(seed=3, epochs=50, learning_rate=1.0, early_stopping=2)
    assert result.epochs_run == result.best_epoch + 2 < 50
    assert result.converged


def test_a_run_that_diverged_has_not_converged():
    options = {"learning_rate": 10.0, "weight_decay": 10.0, "grad_clip": None, "fixed_num_batches": 60}
    result = run(head=LinearOptions(), epochs=6, **options)
    assert any("diverged" in note for note in result.notes)
    assert result.converged is False


def test_what_is_not_trained_in_epochs_does_not_converge(tmp_path):
    result = train(RunConfig(head=TreeOptions()), features(), 0)
    assert result.converged is None
    result.save(tmp_path / "run.json")
    assert RunResult.load(tmp_path / "run.json").converged is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_doublings": -1}, r"`training.max_doublings` must lie in \[0, 20\], got -1"),
        ({"max_doublings": 21}, r"`training.max_doublings` must lie in \[0, 20\], got 21"),
        ({"convergence_tolerance": -1e-3}, r"`training.convergence_tolerance` must lie in \[0, 1\]"),
    ],
)
def test_options_of_convergence_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**options)


# Options without effect, and equal runs under different names (point 17).

BASES = {
    "quantum": {"data.task": "a", "circuit.n_qubits": 2, "circuit.n_layers": 1, "engine.name": "xla"},
    "basic": {"data.task": "a", "circuit.n_qubits": 2, "circuit.ansatz": "basic_entangler", "engine.name": "xla"},
    "no layers": {"data.task": "a", "circuit.n_layers": 0, "circuit.readout": "mean_z", "engine.name": "xla"},
    "one wire": {"circuit.n_qubits": 1, "engine.name": "xla", "objective.loss": "roc_auc"},
    "balanced": {"data.task": "a", "head.name": "linear", "sampling.balanced": True},
    "ranked": {"data.task": "a", "head.name": "linear", "sampling.balanced": True, "objective.loss": "roc_auc"},
    "short": {"head.name": "mlp", "training.epochs": 1, "training.max_doublings": 1},
    "frozen": {"data.task": "a", "engine.name": "xla", "circuit.n_qubits": 1, "training.lr_mult_circuit": 0.0},
    "tree": {"head.name": "tree", "data.task": "a"},
}
VALUES = {
    "data.split_seed": [7],
    "data.task": ["a", "any"],
    "circuit.n_layers": [0, 1, 2],
    "circuit.ansatz": ["strongly_entangling", "basic_entangler", "separable"],
    "circuit.entanglement": ["native", "ring", "linear", "all", "none"],
    "circuit.reupload": [True],
    "circuit.readout": ["mean_z", "z_vec"],
    "engine.name": ["auto", "xla"],
    "head.init_scale": [0.5],
    "head.alpha_per_label": [True],
    "objective.loss": ["bce", "roc_auc"],
    "objective.pos_weight": ["1", "1.0", "2", "2.0", "2,2", "balanced"],
    "objective.class_weights": ["1", "1,1", "3,3", "2,4", "1,2", "balanced"],
    "objective.effective_beta": [0.9],
    "sampling.balanced": [True],
    "sampling.pos_frac": [0.5, 0.501, 0.52],
    "sampling.importance_weights": [False],
    "training.max_doublings": [0, 1],
    "training.convergence_tolerance": [1e-3, 1e-2],
    "training.early_stopping": [1, 2, 100],
    "training.eval_every_epochs": [1, 2, 3, 100, 101],
    "training.val_objective": ["loss"],
    "training.preflight_compile": [False],
    "training.checkpoint_every_epochs": [2],
    "training.weight_decay": [0.1],
    "training.weight_decay_circuit": [0.0, 0.1],
    "training.weight_decay_projection": [0.0, 0.1],
    "training.lr_mult_circuit": [0.0, 2.0],
}


def variants(base):
    """Return the configurations one option away from `base`, by "option=value", with the base itself as ""."""
    start = with_options(RunConfig(), base)
    found = {"": start}
    for option, values in VALUES.items():
        for value in values:
            try:
                found[f"{option}={value}"] = with_options(start, {option: value})
            except InputError:
                continue  # the base has no such option, or it has no meaning there
    return found


QUICK = ("balanced", "tree")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BASES]
)
def test_equal_runs_have_equal_effective_options(name):
    """Brute force: configurations of one fingerprint (program, initial values, data, split, batches, loop) must have
    the same effective options; that an option has no effect must show as the base's fingerprint.
    """
    data, facts = features(), SourceFacts("features")
    prints, effective = {}, {}
    for key, config in variants(BASES[name]).items():
        try:
            prints[key] = fingerprint(config, data)
        except InputError:
            continue  # this data cannot do it
        effective[key] = effective_options(config, facts)
    for one, other in itertools.combinations(prints, 2):
        if prints[one] == prints[other]:
            assert effective[one] == effective[other], f"{one or 'the base'} and {other or 'the base'} are one run"
    variant = variants(BASES[name])
    outputs = {}
    for key in prints:
        option = key.partition("=")[0]
        reason = option and no_effect(variant[key], option, facts)
        if reason:
            for run in ("", key):
                outputs[run] = outputs.get(run) or train(variant[run], data, 0)
            for part in ("val", "test"):
                ours, base = outputs[key].logits[part], outputs[""].logits[part]
                if getattr(variant[key].objective, "pairs", False):
                    # Differences alone matter to the loss; Adam makes a walk of the bias out of rounding errors.
                    ours, base = ours - ours.mean(axis=0), base - base.mean(axis=0)
                np.testing.assert_allclose(ours, base, rtol=1e-3, atol=1e-4, err_msg=f"{key} has an effect: {reason}")


def fingerprint(config, data):
    if config.trained_by_loop:
        return program_fingerprint(config, data)
    fitted = train(config, data, 0)
    return digest(fitted.logits["test"], fitted.digests.split)


@pytest.mark.parametrize(
    ("options", "option", "facts", "reason"),
    [
        ({"data.source": "f.npz"}, "data.split_seed", SourceFacts("features", True), "brings its own split"),
        ({"objective.loss": "roc_auc", "sampling.balanced": True}, "sampling.importance_weights", None, "pairs"),
        ({"training.epochs": 2, "training.early_stopping": 16}, "training.early_stopping", None, "16 evaluations"),
        ({"circuit.n_layers": 0, "circuit.readout": "mean_z"}, "head.init_scale", None, "has no angles"),
        ({"circuit.n_layers": 0}, "circuit.ansatz", None, "circuit.n_layers is 0"),
        ({"training.epochs": 1, "training.max_doublings": 1}, "training.convergence_tolerance", None, "2 evaluations"),
        ({"training.epochs": 1, "training.max_doublings": 0}, "training.val_objective", None, "1 evaluation"),
        ({"training.lr_mult_circuit": 0.0}, "training.weight_decay_circuit", None, "training.lr_mult_circuit is 0"),
        ({"engine.name": "xla", "engine.plan": "product", "circuit.ansatz": "separable"}, "engine.chunk", None, "plan"),
        ({"engine.name": "xla", "engine.derivatives": "any"}, "engine.recompute", None, "derivatives is any"),
    ],
)
def test_an_option_without_effect_is_refused_with_its_reason(options, option, facts, reason):
    config = with_options(RunConfig(), {"data.task": "a", **options})
    assert reason in (no_effect(config, option, facts or SourceFacts("maps")) or "")


@pytest.mark.parametrize(
    ("options", "option", "facts"),
    [
        ({"data.source": "f.npz", "data.limit": 50}, "data.split_seed", SourceFacts("features", True)),
        ({"sampling.balanced": True}, "sampling.importance_weights", None),
        ({"training.epochs": 2, "training.early_stopping": 15}, "training.early_stopping", None),
        ({"circuit.n_layers": 0}, "head.init_scale", None),  # mean_z_readout has angles of its own
        ({"training.epochs": 4, "training.max_doublings": 0}, "training.convergence_tolerance", None),
    ],
)
def test_an_option_with_an_effect_is_taken(options, option, facts):
    config = with_options(RunConfig(), {"data.task": "a", **options})
    assert no_effect(config, option, facts or SourceFacts("maps")) is None


@pytest.mark.parametrize(
    ("base", "one", "other"),
    [
        (
            "circuit.n_qubits = 2\ncircuit.ansatz = 'basic_entangler'",
            "circuit.entanglement = 'ring'",
            "circuit.entanglement = 'all'",
        ),
        ("circuit.n_qubits = 2", "circuit.entanglement = 'linear'", "circuit.entanglement = 'all'"),
        ("head = 'linear'", "objective.pos_weight = 'none'", "objective.pos_weight = '1'"),
        ("head = 'linear'\nsampling.balanced = true", "sampling.pos_frac = 0.5", "sampling.pos_frac = 0.501"),
        ("circuit.n_qubits = 2", "engine = 'auto'", "engine = 'xla'"),
        ("circuit.n_qubits = 2", "engine.diff_method = 'adjoint'", "engine.diff_method = 'none'"),
        ("head = 'linear'", "training.preflight_compile = true", "training.preflight_compile = false"),
        ("head = 'tree'", "objective.loss = 'bce'", "objective.loss = 'focal'"),
    ],
)
def test_arms_that_differ_only_in_name_are_refused(base, one, other, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text(f"data.task = 'Edge-Loc'\n{base}\n[arms.a]\n{one}\n[arms.b]\n{other}\n")
    with pytest.raises(InputError, match="a and b resolve to the same configuration"):
        load_experiment(path)


# What was expected before the first run (point 16).

WORDS = """title = "Two"
description = "{description}"
expected = "{expected}"
seeds = 6
[data]
source = "{source}"
task = "a"
[training]
epochs = 4
[arms.linear]
head = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 4
"""


@pytest.fixture
def words(tmp_path):
    """Return a function that writes an experiment with these texts and loads it."""
    features().save(tmp_path / "f.npz")

    def load(description="Why.", expected="Level.", heads=None):
        path = tmp_path / "two.toml"
        path.write_text(WORDS.format(source=tmp_path / "f.npz", description=description, expected=expected))
        return load_experiment(path, heads=heads)

    return load


def do(experiment, out):
    outcome = run_experiment(experiment, out, executor=Threads())
    return (out / "summary.json").read_bytes(), outcome.report.read_text()


@pytest.mark.usefixtures("without_figures")
def test_what_was_expected_before_the_first_run_stays(words, tmp_path, monkeypatch):
    monkeypatch.setattr("qwafer.sweeps.directory.today", lambda: "2026-01-02")
    out = tmp_path / "out"
    first, report = do(words(expected="Linear wins."), out)
    assert "**Expected (written before the first run, 2026-01-02).** Linear wins." in report
    assert "Noted afterwards" not in report
    monkeypatch.setattr("qwafer.sweeps.directory.today", lambda: "2026-03-04")
    again, _ = do(words(expected="Linear wins."), out)
    assert again == first, "another day's call of a complete directory changes no byte"
    _, report = do(words(description="Why not.", expected="The network wins, as I always said."), out)
    assert "**Expected (written before the first run, 2026-01-02).** Linear wins." in report
    assert report.startswith("# Two\n\n**Summary.**")
    assert "\n\nWhy.\n" in report
    assert "**Noted afterwards (2026-03-04).** Why not." in report
    assert "**Noted afterwards (2026-03-04).** The network wins, as I always said." in report
    final, report = do(words(expected="Linear wins."), out)
    assert "as I always said" in report, "what was noted is not lost, either"
    assert do(words(expected="Linear wins."), out)[0] == final


@pytest.mark.usefixtures("without_figures")
def test_expectations_of_heads_that_did_not_run_are_marked(words, tmp_path):
    chosen = words(heads=["linear", "tree"])
    _, report = do(chosen, tmp_path / "out")
    said = "Written for the experiment with the arms linear, mlp; of which linear ran."
    assert report.index(said) < report.index("Why.")
    _, report = do(words(), tmp_path / "all")
    assert "Written for" not in report


def test_the_report_of_a_benchmark_prints_what_was_expected_first(words, tmp_path):
    experiment = with_seeds(words(heads=["linear", "tree"]), (0, 1))
    found = []
    for expected in ("Level.", "The tree was bound to lose."):
        changed = dataclasses.replace(experiment, expected=expected)
        path = run_benchmark(changed, tmp_path / "bench", executor=Threads(), n_resamples=200, descriptive=True).report
        found.append(path.with_suffix(".md").read_text())
    for report in found:
        assert "of which linear ran" in report
        assert "(written before the first run, " in report
        assert ".** Level." in report
    assert "bound to lose" not in found[0]
    assert "**Noted afterwards (" in found[1]


# The nulls are an experiment as any other (point 11).


def quantum(**options):
    small = {"data.task": "a", "circuit.n_qubits": 2, "circuit.n_layers": 1, "engine.name": "xla", **options}
    return with_options(RunConfig(), {"training.epochs": 4, "training.batch_size": 32, **small})


def test_nulls_are_what_they_say():
    experiment = null_experiment(quantum(), features(), {"linear": 0.03})
    arms = experiment.arms
    assert list(arms) == ["head", "separable", "frozen_random", "linear", "trigonometric", "mlp"]
    assert experiment.baseline == "head"
    assert arms["separable"].circuit.ansatz == "separable"
    assert arms["frozen_random"].training.lr_mult_circuit == 0
    assert arms["linear"].head == LinearOptions()
    assert arms["linear"].training.learning_rate == 0.03
    assert arms["trigonometric"].head == TrigonometricOptions(n_angles=2)
    # 12 + 2 of the projection, 6 angles, 6 of the readout, bias and alpha: 28 = about 3 (6 + 1 + 1) + 1.
    assert arms["mlp"].head.hidden == 3
    check_design(experiment)


def test_a_null_that_is_the_head_itself_is_left_out():
    alone = null_experiment(quantum(**{"circuit.ansatz": "separable"}), features())
    assert "separable" not in alone.arms
    one_wire = null_experiment(quantum(**{"circuit.n_qubits": 1}), features())
    assert "separable" not in one_wire.arms


def test_only_quantum_heads_have_nulls():
    with pytest.raises(InputError, match=r"`head\.name` must be quantum to have nulls, got linear"):
        null_experiment(RunConfig(head=LinearOptions()), features())


@pytest.mark.parametrize(("n", "degree"), [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_the_surrogate_spans_what_its_circuit_computes(n, degree):
    spec = CircuitSpec(n_qubits=n, n_layers=degree, reupload=degree > 1, readout="mean_z", dtype="float64")
    rng = np.random.default_rng(0)
    angles = rng.uniform(-np.pi, np.pi, (200, n))
    values = spec_values(spec, {"ansatz": rng.normal(size=(degree, n, 3))}, angles)
    products = np.asarray(trigonometric_features(angles, degree))
    assert products.shape == (200, (2 * degree + 1) ** n - 1)
    design = np.column_stack([products, np.ones(200)])
    np.testing.assert_allclose(design @ np.linalg.lstsq(design, values, rcond=None)[0], values, atol=1e-10)
    assert trigonometric_features(np.zeros((3, 8))).shape == (3, 16 + 28 * 4)


def test_the_surrogate_learns_what_a_linear_head_cannot():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    labels = (x[:, :1] * x[:, 1:] > 0).astype(np.uint8)
    data = FeatureSet(x, labels, ("a",), np.array([f"m{i}" for i in range(300)]), {})
    options = {"epochs": 10, "learning_rate": 0.05, "batch_size": 32, "max_doublings": 0}
    surrogate = run(head=TrigonometricOptions(n_angles=2), data=data, **options)
    linear = run(head=LinearOptions(), data=data, **options)
    assert surrogate.test.macro["roc_auc"] > 0.9 > 0.7 > linear.test.macro["roc_auc"]


def test_every_arm_has_the_learning_rate_that_is_best_for_it(tmp_path):
    arms = {name: RunConfig(head=head, training=TrainingConfig(epochs=1, max_doublings=0, batch_size=32)) for name, head
            in (("linear", LinearOptions()), ("mlp", MlpOptions(hidden=4)))}  # fmt: skip
    rates = search_rates(arms, features(), tmp_path, 6, "test.loss", Threads())
    for arm in arms:
        trials = {rate: RunResult.load(tmp_path / arm / f"{rate:g}.json") for rate in RATES}
        assert rates[arm] == min(RATES, key=lambda rate: trials[rate].val.macro["loss"])
        assert {rate: trial.config["training"]["learning_rate"] for rate, trial in trials.items()} == {
            rate: rate for rate in RATES
        }
    seen = FeatureSet.load(tmp_path / "features.npz")
    held = prepare(arms["linear"], features(), 6)
    test_ids = set(held.data.content_ids[held.split.test])
    assert not test_ids & set(seen.content_ids), "no trial sees the test split of its seed"


@pytest.mark.slow
def test_nulls_end_in_a_verdict_of_their_experiment(tmp_path):
    data = features()  # the labels are linear in the features: no circuit can beat the linear head
    outcome = run_nulls(quantum(), data, tmp_path, executor=Threads())
    report = nulls_report(outcome.summary)
    verdicts = {c.arm: c.verdict for c in outcome.summary.comparisons}
    assert verdicts["linear"] != "worse"
    assert report.verdict == "warn"
    assert f"linear ({outcome.summary.arms['linear'].mean:.4f}: {verdicts['linear']})" in report.headline
    assert "| linear |" in to_markdown([nulls_table(report)])
    again = run_nulls(quantum(), data, tmp_path, executor=Threads())
    assert again.n_done == 0
    with pytest.raises(InputError, match="holds the nulls on other data"):
        run_nulls(quantum(), features(seed=1), tmp_path)
