"""Which probes run on what: a circuit, a trained head, a data set. One defect, one red line."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec
from qwafer.config import RunConfig
from qwafer.evaluation.exclusive import one_vs_rest_logits
from qwafer.execution import OnProgress, Progress
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions, QuantumHead
from qwafer.objective import make_objective
from qwafer.probes.circuit.dimension import fisher_report
from qwafer.probes.circuit.evidence import Evidence, gather
from qwafer.probes.circuit.expressivity import expressive_power
from qwafer.probes.circuit.fourier import fourier_spectrum
from qwafer.probes.circuit.gradients import gradient_agreement
from qwafer.probes.circuit.lie import lie_algebra
from qwafer.probes.circuit.linear import CHUNK_AMPLITUDES, MOST_QUBITS, spec_jacobian
from qwafer.probes.circuit.readout import readout_identity, value_agreement
from qwafer.probes.circuit.routes import gradient_identity
from qwafer.probes.circuit.sensitivity import sensitivity
from qwafer.probes.circuit.subject import Start, Subject, circuit_subject, program_subject
from qwafer.probes.circuit.trainability import own_trainability, trainability
from qwafer.probes.data import controls
from qwafer.probes.data.probed import ProbedData
from qwafer.probes.report import Report, parameter_name
from qwafer.probes.run.execution import probe_claims
from qwafer.probes.scores import logits as scores
from qwafer.probes.scores import stall
from qwafer.training import Prepared, RunResult, make_head, make_program, prepare, train
from qwafer.training.predictor import PREDICTION_BATCH

TOO_LARGE = f"more than {MOST_QUBITS} wires: too large to simulate over many random weights"

MOST_EXAMPLES = 5000
"""Training examples that the best linear null is fitted on, at most."""
QUICK_EXAMPLES = 128
"""Examples at which the output Jacobian and the Gram matrix are taken, at most."""
QUICK_AMPLITUDES = 1 << 17
"""Amplitudes of all of these examples, at most: larger circuits are looked at with fewer examples."""


def run_subject(config: RunConfig, prepared: Prepared, seed: int) -> Subject:
    """Return the subject of the programs of a run: the very ones that `train` and a `Predictor` execute.

    The program that trains, at `training.batch_size`, the one that evaluates, at `PREDICTION_BATCH` without gradients,
    and where the run starts: the head's initial weights of `seed`, and the circuit's inputs for examples spread over
    the training split. A head of one's own that does not say them (`circuit_weights()`, `inputs(features)`, as
    `QuantumHead`) has no start. Raises InputError for a configuration without a circuit.
    """
    features, labels = prepared.part("train")
    make = functools.partial(make_program, config, labels.shape[1], seed=seed)
    program, evaluation = make(config.training.batch_size), make(PREDICTION_BATCH, gradient=False)
    if program is None:
        raise InputError(f"`config` must have a circuit to be probed, got head {config.name('head')}")
    head: Any = make_head(config, features, labels.shape[1], seed, prepared.data.origin)
    starts = []
    if hasattr(head, "circuit_weights") and hasattr(head, "inputs"):
        rows = np.unique(np.linspace(0, len(features) - 1, PREDICTION_BATCH).astype(int))
        inputs = np.asarray(head.inputs(np.asarray(features[rows], head.dtype)))
        starts.append(Start({name: np.asarray(value) for name, value in head.circuit_weights().items()}, inputs))
    return program_subject(program, config.engine, evaluation=evaluation, starts=tuple(starts))


def probe_gradients(evidence: Evidence) -> list[Report]:
    """Return the reports on values, readout, sensitivity and gradients of one subject, each with the programs that
    were asked.

    They run from the specific to the general, and a parameter that one has found at fault is left out by those after
    it: a dead readout coefficient is one finding, not three. Where the readout is not the one specified, or the
    gradient is wrong beyond the readout, the identity is left to the probe that sees all of it.
    """
    readout = readout_identity(evidence)
    identity = gradient_identity(evidence)
    if identity.verdict == "fail" and readout.verdict == "fail":
        identity = _left(identity, "readout identity")
    elif identity.verdict == "fail":
        names = [parameter_name("readout", index) for index in np.ndindex(*evidence.subject.shapes["readout"])]
        if gradient_agreement(evidence, exclude=names).verdict == "fail":
            identity = _left(identity, "gradient agreement")
    moving = sensitivity(evidence, exclude=identity.blames)
    agreement = gradient_agreement(evidence, exclude=(*identity.blames, *moving.blames))
    subject = evidence.subject
    both = [label for label in (subject.label, subject.evaluation_label) if label]
    values = _of(value_agreement(evidence), both)
    return [values, *(_of(report, both[:1]) for report in (readout, identity, moving, agreement))]


def _of(report: Report, programs: Sequence[str]) -> Report:
    """Return `report` with the programs that it speaks of in its headline and its numbers."""
    if not programs or report.verdict == "skip":
        return report
    return dataclasses.replace(
        report,
        headline=f"{report.headline} ({'; evaluation '.join(programs)})",
        numbers={**report.numbers, "programs": list(programs)},
    )


def _left(report: Report, to: str) -> Report:
    """Return `report` as one whose finding is part of another's."""
    return dataclasses.replace(
        report, verdict="skip", headline=f"does not hold, for a wider reason: see `{to}`", blames=()
    )


def probe_power(
    subject: Subject, *, init_scale: float | None = None, thorough: bool = False, seed: int = 0
) -> list[Report]:
    """Return the reports on trainability and expressive power of one subject."""
    spec = subject.spec
    fourier = fourier_spectrum(subject, n_points=16 if thorough else 4, seed=seed)
    n_weights, n_inputs = (100, 64) if thorough else (24, 24)
    if spec is None:
        n_pairs = 50_000 if thorough else 5000
        fisher = fisher_report(subject, n_weights=n_weights, n_inputs=n_inputs, seed=seed)
        power = expressive_power(subject, n_pairs=n_pairs, seed=seed)
        return [own_trainability(subject, seed=seed), *power, fourier, fisher, lie_algebra(subject)]
    plateau, *body_power, algebra = _body_power(spec.body(), init_scale, thorough, seed)
    if spec.n_qubits > MOST_QUBITS:
        fisher = Report("effective dimension", "How many parameters does the model really use?", "skip", TOO_LARGE)
    else:
        if spec.n_qubits > 8:
            n_weights, n_inputs = 6, 6
        fisher = fisher_report(subject, n_weights=n_weights, n_inputs=n_inputs, seed=seed)
    return [plateau, *body_power, fourier, fisher, algebra]


@functools.lru_cache(maxsize=8)
def _body_power(body: CircuitSpec, init_scale: float | None, thorough: bool, seed: int) -> tuple[Report, ...]:
    """Return the reports that do not depend on the readout: arms that share a body share them."""
    subject = circuit_subject(body, "xla")  # for its shapes and states; nothing is compiled
    if thorough:
        sizes = (2, 3, 4, 5, 6, 7, 8)
        plateau = trainability(body, qubits=sizes, init_scale=init_scale, n_samples=2000, seed=seed)
    else:
        n_samples = 300 if body.n_qubits <= 6 else 50
        plateau = trainability(body, init_scale=init_scale, n_samples=n_samples, seed=seed)
    if body.n_qubits > MOST_QUBITS:
        names = {"expressibility": "How much can it reach?", "entangling capability": "How entangled are its states?"}
        power: tuple[Report, ...] = tuple(Report(name, text, "skip", TOO_LARGE) for name, text in names.items())
    else:
        n_pairs = min(50_000 if thorough else 5000, CHUNK_AMPLITUDES >> body.n_qubits)
        power = expressive_power(subject, n_pairs=n_pairs, seed=seed)
    return (plateau, *power, lie_algebra(subject))


def probe_circuit(
    subject: Subject,
    *,
    init_scale: float | None = None,
    thorough: bool = False,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> list[Report]:
    """Return the reports of every probe of a circuit; those that need more than the subject has are skipped.

    `init_scale` is the standard deviation of the initial weights, if known. `progress` is called before each step.
    """
    say = progress or (lambda _: None)
    say(Progress("circuit", 0, 2, text="values and gradients"))
    reports = probe_gradients(gather(subject, points=6 if thorough else 2, seed=seed))
    say(Progress("circuit", 1, 2, text="trainability and expressive power"))
    return reports + probe_power(subject, init_scale=init_scale, thorough=thorough, seed=seed)


def probe_run(run: RunResult, data: FeatureSet, *, seed: int = 0) -> list[Report]:
    """Return the reports on the scores of a trained head and on what its run claims (`probe_claims`): `run` must hold
    its predictor and outputs, as `train` returns it, and `data` be the features that it was given.
    """
    assert run.predictor is not None
    config, head = run.predictor.config, run.predictor.head
    prepared = prepare(config, data, run.seed)
    outputs, names = run.outputs, run.label_names
    logits = np.concatenate([outputs["val_logits"], outputs["test_logits"]])
    held = prepared.data.features[np.concatenate([outputs["val_rows"], outputs["test_rows"]])]
    fitted = prepared.data.features[prepared.split.train[:MOST_EXAMPLES]]
    test = {"logits": outputs["test_logits"], "labels": outputs["test_labels"]}
    val = {"logits": outputs["val_logits"], "labels": outputs["val_labels"]}
    gamma = getattr(config.objective, "focal_gamma", 0.0)
    ranks = one_vs_rest_logits(test["logits"]) if run.exclusive else test["logits"]
    reports = [
        scores.score_spread(ranks, test["labels"], run.predictor.thresholds or None, names, exclusive=run.exclusive),
        scores.score_sign(ranks, test["labels"], run.curves.get("alpha", ()), names),
        stall.focal_stall(run.curves, gamma, level=stall_level_of(prepared, config)),
        _undecided() if run.exclusive else scores.threshold_fragility(val, test, names, seed=seed),
    ]
    if not isinstance(config.head, LinearOptions):
        reports.insert(3, scores.linear_equality(logits, held, run.predictor.logits(fitted), fitted))
    if isinstance(head, QuantumHead):
        bound = head.spec.readout_facts.bound(head.circuit_weights())
        bias = np.asarray(head.array("readout.bias"), np.float64)
        readout = logits / np.asarray(head.alpha(), np.float64) - bias
        reports.insert(1, scores.score_range(readout, bound=bound))
        if isinstance(head.spec, CircuitSpec) and head.spec.n_qubits <= MOST_QUBITS:
            shown = held[: min(QUICK_EXAMPLES, QUICK_AMPLITUDES >> head.spec.n_qubits)]
            jacobian, gram = _jacobian_and_gram(head, head.spec, shown)
            reports.append(scores.output_rank(jacobian, gram=gram))
    return [*reports, *probe_claims(run, data)]


def _undecided() -> Report:
    """Return the report of exclusive classes on thresholds: they have none."""
    question = "How much does test F1 depend on the threshold that validation happened to give?"
    return Report(
        "threshold fragility", question, "skip", "exclusive classes have no thresholds: the largest logit decides"
    )


def stall_level_of(prepared: Prepared, config: RunConfig) -> float:
    """Return the loss of logits that are all 0 under the objective of `config` on the training split.

    (1/2)^gamma log 2 without class weights, which raise or lower it.
    """
    import jax.numpy as jnp

    labels = jnp.asarray(prepared.part("train")[1], "float32")
    objective = make_objective(config.objective, prepared.part("train")[1])
    return float(objective(jnp.zeros(labels.shape, "float32"), labels, jnp.ones((len(labels),), "float32")))


def probed_data(prepared: Prepared, *, stratified: bool = True) -> ProbedData:
    """Return the data of a run as the data probes look at it."""
    data = prepared.data
    return ProbedData(
        features=np.asarray(data.features),
        labels=np.asarray(data.labels),
        split=prepared.split,
        content_ids=np.asarray(data.content_ids),
        label_names=tuple(data.label_names),
        feature_names=tuple(data.feature_names or ()),
        groups=data.groups,
        times=data.times,
        stratified=stratified,
    )


def head_fit(config: RunConfig, data: FeatureSet, seed: int) -> controls.Fit:
    """Return the pipeline of `config` as a fit for `label_permutation`: `train` on `data` with the labels and
    split that it is given.
    """

    def fit(probed: ProbedData) -> tuple[np.ndarray, np.ndarray]:
        permuted = dataclasses.replace(data, labels=np.asarray(probed.labels), split=probed.split.parts())
        run = train(config, permuted, seed)
        return run.outputs["test_logits"], run.outputs["test_labels"]

    return fit


def _jacobian_and_gram(head: QuantumHead, spec: CircuitSpec, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the output Jacobian at the data and the fidelity matrix of the encoded and processed states."""
    import jax.numpy as jnp

    from qwafer.circuits.statevector import states

    angles = np.asarray(head.inputs(jnp.asarray(features, head.dtype)), np.float64)
    weights: Mapping[str, np.ndarray] = {
        name: np.asarray(value, np.float64) for name, value in head.circuit_weights().items()
    }
    amplitudes = states(spec, {"ansatz": weights["ansatz"]}, angles)
    gram = np.abs(amplitudes.conj() @ amplitudes.T) ** 2
    return spec_jacobian(spec, weights, angles), gram
