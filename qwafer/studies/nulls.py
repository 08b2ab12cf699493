"""Is there anything quantum here? The head and its nulls, siblings without the quantum part, as an experiment."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qwafer._errors import InputError
from qwafer.circuits import INPUTS
from qwafer.circuits.frequencies import uses
from qwafer.circuits.options import NATIVE, LayeredOptions
from qwafer.comparison.design import check_design
from qwafer.comparison.metrics import higher_is_better, metric_value
from qwafer.comparison.summary import Summary
from qwafer.config import RunConfig
from qwafer.execution import Executor, LocalProcesses, OnProgress, Tally, run_all
from qwafer.experiment import MARGIN, Experiment
from qwafer.features import FeatureSet, facts_of
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions, TrigonometricOptions
from qwafer.overrides import effective_options
from qwafer.probes.data.held import without_test
from qwafer.probes.report import Report
from qwafer.studies.ablation import Outcome, run_experiment
from qwafer.sweeps.jobs import TRAIN, run_job, train_payload
from qwafer.training import RunResult, make_head, prepare

HEAD = "head"
"""The arm of the head itself, the baseline."""
NULLS = {
    "separable": "the same circuit without entangling gates",
    "frozen_random": "the same circuit with random ansatz angles that are not trained",
    "linear": "a linear head on the same features",
    "trigonometric": "a linear map of products of cos and sin of learned angles: all that the circuit could compute",
    "mlp": "a network of one hidden layer with as many parameters",
}
"""The nulls and what each is."""
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
"""The learning rates that every arm, the head included, tries; the best on validation is its own."""
NULL_SEEDS = (0, 1, 2, 3, 4, 5)
"""As few seeds as a verdict takes."""


def null_experiment(
    config: RunConfig,
    data: FeatureSet,
    rates: Mapping[str, float] | None = None,
    *,
    seeds: Sequence[int] = NULL_SEEDS,
    metric: str = "test.roc_auc",
    margin: float = MARGIN,
) -> Experiment:
    """Return the experiment of the quantum head that `config` describes and of its nulls on `data`; see `NULLS`.

    The MLP gets the hidden width whose number of trained parameters comes nearest to that of the head. A null that is
    the head itself, as the separable one of a separable circuit, is left out.

    Args:
        config: of the quantum head; `config.data.source` is the file of `data`.
        data: features and labels.
        rates: learning rate of each arm; none: that of `config`. See `search_rates`.
        seeds: of the runs.
        metric: `test.` and the name of an average in `Evaluation.macro`.
        margin: differences that are no larger count as equivalent.

    Raises:
        InputError: a head that is not quantum, or that cannot be made on `data`.
    """
    if not isinstance(config.head, QuantumOptions):
        raise InputError(f"`head.name` must be quantum to have nulls, got {config.name('head')}")
    facts = facts_of(data)
    arms = {HEAD: config}
    for name, null in _nulls(config, data, seeds[0]).items():
        if effective_options(null, facts) not in [effective_options(arm, facts) for arm in arms.values()]:
            arms[name] = null
    return Experiment(
        name="nulls",
        arms={name: _with_rate(arm, (rates or {}).get(name, arm.training.learning_rate)) for name, arm in arms.items()},
        baseline=HEAD,
        seeds=tuple(seeds),
        metric=metric,
        margin=margin,
        title="Is there anything quantum here?",
        description="The head and its nulls: " + "; ".join(f"`{name}`, {NULLS[name]}" for name in list(arms)[1:]) + ". "
        "What the head owes to its circuit is what it is ahead of all of them. Every arm has a learning rate of its "
        f"own, the best on validation of {', '.join(f'{rate:g}' for rate in RATES)}.",
        facts=dict.fromkeys(arms, facts),
    )


def run_nulls(
    config: RunConfig,
    data: FeatureSet,
    out: str | Path,
    *,
    seeds: Sequence[int] = NULL_SEEDS,
    metric: str = "test.roc_auc",
    margin: float = MARGIN,
    executor: Executor | None = None,
    progress: OnProgress | None = None,
) -> Outcome:
    """Search the learning rate of the head and of each null, then run them as an experiment in `out`/sweep.

    Resumes: trials (in `out`/search) and runs that are complete are not done again. Raises InputError as
    `null_experiment`, `search_rates` and `run_experiment` do.
    """
    out = Path(out)
    path = out / "features.npz"
    if not path.is_file():
        data.save(path)
    elif FeatureSet.load(path).digest() != data.digest():
        raise InputError(f"{out} holds the nulls on other data: choose another output directory")
    source = dataclasses.replace(config.data, source=str(path.resolve()), reader=None)
    config = dataclasses.replace(config, data=source)
    running = LocalProcesses() if executor is None else executor
    experiment = null_experiment(config, data, seeds=seeds, metric=metric, margin=margin)
    check_design(experiment)
    with running:
        rates = search_rates(experiment.arms, data, out / "search", max(seeds) + 1, metric, running, progress)
    experiment = null_experiment(config, data, rates, seeds=seeds, metric=metric, margin=margin)
    return run_experiment(experiment, out / "sweep", executor=running, progress=progress, beside=out)


def search_rates(
    arms: Mapping[str, RunConfig],
    data: FeatureSet,
    folder: Path,
    seed: int,
    metric: str,
    executor: Executor,
    progress: OnProgress | None = None,
) -> dict[str, float]:
    """Return the learning rate out of `RATES` of each arm whose run of `seed` has the best `metric` on validation.

    Every arm has the same number of trials, on the same examples: the test split of `seed` is left out
    (`without_test`). A trial with an undefined metric loses. Trials that are complete in `folder` are not done again.
    """
    held = {arm: without_test(config, data, seed) for arm, config in arms.items()}
    path = folder / "features.npz"
    if not path.is_file():
        next(iter(held.values()))[1].save(path)
    trials = {(arm, rate): folder / arm / f"{rate:g}.json" for arm in arms for rate in RATES}
    jobs = [
        run_job(f"{arm} at {rate:g}", TRAIN, train_payload(_with_rate(held[arm][0], rate), path, seed, out))
        for (arm, rate), out in trials.items()
        if not out.is_file()
    ]
    run_all(executor, jobs, Tally("learning rates", len(jobs), progress))
    on_validation = f"val.{metric.partition('.')[2]}"
    sign = 1.0 if higher_is_better(metric) else -1.0
    values = {key: metric_value(RunResult.load(out), on_validation) for key, out in trials.items()}
    scores = {key: -np.inf if value is None or np.isnan(value) else sign * value for key, value in values.items()}
    return {arm: max(RATES, key=lambda rate, arm=arm: scores[arm, rate]) for arm in arms}  # type: ignore[misc]


def nulls_report(summary: Summary) -> Report:
    """Return the line of the trust table: pass where the verdict on every null is `worse` than the head."""
    beaten = [c for c in summary.comparisons if c.verdict == "worse"]
    level = [c for c in summary.comparisons if c.verdict != "worse"]
    headline = f"{summary.experiment.metric} of the head {_mean(summary, HEAD)}"
    if beaten:
        headline += f"; better than {', '.join(c.arm for c in beaten)}"
    if level:
        headline += f"; not shown to beat {', '.join(f'{c.arm} ({_mean(summary, c.arm)}: {c.verdict})' for c in level)}"
    return Report(
        name="nulls",
        question="Is there anything quantum here: does the head beat its classical and unentangled siblings?",
        verdict="warn" if level else "pass",
        headline=f"{headline}; {len(summary.experiment.seeds)} seeds, {summary.design.about}",
        numbers={
            "comparisons": [[c.arm, c.mean, c.interval, c.p_holm, c.verdict] for c in summary.comparisons],
            "nulls": NULLS,
        },
        tolerance="pass: the experiment's verdict on every null is worse than the head",
        meaning="A head that does not beat its classical or unentangled siblings owes its score to the features.",
        remedy="Report the null beside the head; look for a task, an encoding or a depth where the difference holds.",
    )


def _nulls(config: RunConfig, data: FeatureSet, seed: int) -> dict[str, RunConfig]:
    features, labels = prepare(config, data, seed).part("train")
    n_features, n_labels = features.shape[1], labels.shape[1]
    trained = make_head(config, features, n_labels, seed, data.origin).count()["trainable"]
    spec, head = config.circuit.circuit(n_labels), config.head
    hidden = max(1, round((trained - n_labels) / (n_features + 1 + n_labels)))
    angles = TrigonometricOptions(
        normalize=head.normalize,
        n_angles=spec.n_inputs,
        degree=max(1, math.ceil(uses(spec, INPUTS) or 1)),
        angle_map=head.angle_map,
        angle_scale=head.angle_scale,
    )
    random = dataclasses.replace(config.training, lr_mult_circuit=0.0)
    found = {
        "frozen_random": dataclasses.replace(
            config, head=dataclasses.replace(head, init_scale=float(np.pi)), training=random
        ),
        "linear": _classical(config, LinearOptions(head.normalize)),
        "trigonometric": _classical(config, angles),
        "mlp": _classical(config, MlpOptions(head.normalize, hidden)),
    }
    if isinstance(config.circuit, LayeredOptions):
        circuit = dataclasses.replace(config.circuit, ansatz="separable", entanglement=NATIVE)
        found = {"separable": dataclasses.replace(config, circuit=circuit), **found}
    return found


def _classical(config: RunConfig, head: object) -> RunConfig:
    """Return the configuration with a classical head in place of the quantum one."""
    return dataclasses.replace(config, head=head, circuit=None, engine=None)


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, learning_rate=rate))


def _mean(summary: Summary, arm: str) -> str:
    mean = summary.arms[arm].mean
    return "undefined" if mean is None else f"{mean:.4f}"
