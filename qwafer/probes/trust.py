"""The trust table: every probe that applies to the arms of an experiment, its data and its pairing, in one list."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from qwafer._errors import InputError
from qwafer.config import RunConfig
from qwafer.execution import OnProgress, Progress
from qwafer.features import FeatureSet
from qwafer.probes import pairing
from qwafer.probes.circuit.subject import Start, Subject
from qwafer.probes.data import controls
from qwafer.probes.data.held import held_out
from qwafer.probes.data.probed import probe_data
from qwafer.probes.report import Report, Verdict, merge, worst
from qwafer.probes.run.inputs import split_as_stated
from qwafer.probes.suite import head_fit, probe_circuit, probe_run, probed_data, run_subject
from qwafer.training import ParameterCount, Prepared, RunResult, prepare, train

QUICK_BATCHES = 100
"""Most batches per epoch of the short training that the quick table looks at."""
QUICK_EPOCHS = 5
"""Most epochs of it."""
QUICK_PERMUTATIONS = 3
"""Trainings on permuted labels."""
THOROUGH_PERMUTATIONS = 20
"""The same of a thorough table."""

Announce = Callable[[str], None]
"""Called with what comes next."""


@dataclass(frozen=True)
class Section:
    """The reports on one matter."""

    title: str
    """`gradients and circuit`, `scores`, `data`, `pairing`; `nulls` where a verb ran them, too."""
    reports: tuple[Report, ...]
    """In the order in which they ran."""


@dataclass(frozen=True)
class TrustSubject:
    """What was probed."""

    arms: dict[str, Any]
    """Every option of each arm."""
    baseline: str
    """The arm that the others are compared with."""
    engine: dict[str, Any]
    """What executed the circuit of each arm."""
    seed: int
    """Of split, initial values, batches and random points."""
    thorough: bool
    """Whether arms were trained as configured."""
    n_examples: int
    """Examples under the task of the baseline."""
    n_features: int
    """Features of an example."""
    labels: tuple[str, ...]
    """Labels of the task."""
    versions: dict[str, str]
    """Of Python and packages."""
    parameters: dict[str, ParameterCount] = field(default_factory=dict)
    """Numbers in the head of each arm."""


@dataclass(frozen=True)
class TrustTable:
    """What the probes say about an experiment: `report.json`."""

    SCHEMA: ClassVar[str] = "qwafer/trust-table/1"

    sections: tuple[Section, ...]
    """By matter."""
    subject: TrustSubject | None = None
    """What was probed."""

    @property
    def reports(self) -> tuple[Report, ...]:
        """All reports."""
        return tuple(report for section in self.sections for report in section.reports)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all."""
        return worst(report.verdict for report in self.reports)

    def counts(self) -> dict[str, int]:
        """Return how many reports have each verdict."""
        return {
            verdict: sum(r.verdict == verdict for r in self.reports) for verdict in ("pass", "warn", "fail", "skip")
        }


def trust_table(
    arms: Mapping[str, RunConfig],
    data: Mapping[str, FeatureSet],
    *,
    baseline: str = "",
    seed: int = 0,
    thorough: bool = False,
    progress: OnProgress | None = None,
) -> TrustTable:
    """Run every probe that applies to `arms` and return the trust table.

    What is probed are the programs that the arms train and evaluate with; programs that several arms share are probed
    once, where each of these arms starts. The reports of different circuits, and of the arms' heads, are
    merged into one line per probe, with the worst verdict. Scores are those of a short training of each arm (at most 5
    epochs of 100 batches; `thorough` trains as configured and takes more samples).
    Data are probed as the baseline sees them.

    The labels of the test split are not read: one half of validation chooses checkpoints and thresholds, the other is
    scored (`without_test`). Copies of training examples are sought among the features of the test split, too.

    Args:
        arms: configurations by name.
        data: features of each arm, before the task is applied.
        baseline: the arm that the others are compared with; the first by default.
        seed: of split, initial values, batches and random points.
        thorough: more samples.
        progress: called before each step.
    """
    if not arms:
        raise InputError("`arms` must hold at least one configuration")
    baseline = baseline or next(iter(arms))
    total = _count_steps(arms)
    steps = itertools.count()

    def announce(text: str) -> None:
        if progress is not None:
            progress(Progress("probes", next(steps), total, text=text))

    short = {arm: config if thorough else _shortened(config, len(data[arm])) for arm, config in arms.items()}
    prepared = {arm: prepare(config, data[arm], seed) for arm, config in short.items()}
    held = {arm: held_out(config, prepared[arm]) for arm, config in short.items()}

    circuits = _circuit_reports(arms, data, seed, thorough=thorough, announce=announce)
    runs: dict[str, RunResult] = {}
    head_reports: dict[str, list[Report]] = {}
    for arm, (config, features) in held.items():
        announce(f"scores of {arm}")
        runs[arm] = train(config, features, seed)
        head_reports[arm] = probe_run(runs[arm], features, seed=seed)
    announce("data")
    stratified = arms[baseline].data.split_by == "content" and data[baseline].split is None
    data_reports = _data_reports(
        prepared[baseline], *held[baseline], stratified=stratified, seed=seed, thorough=thorough
    )
    own_split = prepared[baseline].split
    data_reports.insert(1, split_as_stated(short[baseline], data[baseline], seed, own_split))
    announce("pairing")
    as_asked = {arm: _as_asked(run, short[arm], prepared[arm]) for arm, run in runs.items()}
    pairing_reports = _pairing_reports(arms, as_asked, data, baseline, seed)
    sections = [
        Section("gradients and circuit", tuple(circuits)),
        Section("scores", tuple(_merged(head_reports))),
        Section("data", tuple(data_reports)),
        Section("pairing", tuple(pairing_reports)),
    ]
    return TrustTable(
        tuple(sections),
        TrustSubject(
            arms={arm: config.to_dict() for arm, config in arms.items()},
            baseline=baseline,
            engine={arm: run.engine for arm, run in runs.items()},
            seed=seed,
            thorough=thorough,
            n_examples=len(prepared[baseline].data),
            n_features=prepared[baseline].data.features.shape[1],
            labels=prepared[baseline].data.label_names,
            versions=next(iter(runs.values())).environment.versions,
            parameters={arm: run.n_parameters for arm, run in runs.items()},
        ),
    )


def _count_steps(arms: Mapping[str, RunConfig]) -> int:
    """Return how many steps `trust_table` takes for these arms."""
    circuits = {(_programs_of(config), config.data.task) for config in arms.values() if config.circuit is not None}
    return 2 * len(circuits) + len(arms) + 2


def _circuit_reports(
    arms: Mapping[str, RunConfig],
    data: Mapping[str, FeatureSet],
    seed: int,
    *,
    thorough: bool,
    announce: Announce = lambda _: None,
) -> list[Report]:
    """Return the merged reports of the distinct programs of the arms."""
    subjects: dict[Any, tuple[str, Subject]] = {}
    prepared: dict[Any, Prepared] = {}
    for arm, config in arms.items():
        if config.circuit is None:
            continue
        source = (id(data[arm]), config.data, config.objective)
        if source not in prepared:
            prepared[source] = prepare(config, data[arm], seed)
        found = run_subject(config, prepared[source], seed)
        key = (_programs_of(config), prepared[source].data.labels.shape[1])
        first, subject = subjects.setdefault(key, (arm, found))
        if not any(_same_start(one, other) for one in found.starts for other in subject.starts):
            subjects[key] = (first, dataclasses.replace(subject, starts=(*subject.starts, *found.starts)))
    reports: dict[str, list[Report]] = {}
    for arm, subject in subjects.values():
        reports[arm] = probe_circuit(
            subject,
            init_scale=getattr(arms[arm].head, "init_scale", None),
            thorough=thorough,
            seed=seed,
            progress=lambda state, arm=arm: announce(f"{state.text} of {arm}"),  # type: ignore[misc]
        )
    return _merged(reports)


def _data_reports(
    prepared: Prepared, config: RunConfig, features: FeatureSet, *, stratified: bool, seed: int, thorough: bool
) -> list[Report]:
    """Return the reports on the data of a run, and on `config` and `features`, which are that run without its test."""
    labels = np.array(prepared.data.labels)
    labels[prepared.split.test] = 0
    probed = dataclasses.replace(probed_data(prepared, stratified=stratified), labels=labels, labelled=("train", "val"))
    rest = probed_data(prepare(config, features, seed))
    times = THOROUGH_PERMUTATIONS if thorough else QUICK_PERMUTATIONS
    own = controls.label_permutation(rest, head_fit(config, features, seed), permutations=times, seed=seed)
    return [
        *probe_data(probed),
        own,
        dataclasses.replace(controls.label_permutation(rest, seed=seed), name="label permutation, linear"),
        controls.split_by_origin(rest, seed=seed),
    ]


def _as_asked(run: RunResult, config: RunConfig, prepared: Prepared) -> RunResult:
    """Return `run` with the configuration and the digests that it has with its test split."""
    digests = dataclasses.replace(
        run.digests, data=prepared.data_digest, split=prepared.split.digest, source=prepared.source_digest
    )
    return dataclasses.replace(run, config=config.to_dict(), digests=digests)


def _programs_of(config: RunConfig) -> tuple[Any, ...]:
    """Return what the programs of two arms on one task have in common where they are the same, and how they start."""
    return config.circuit, config.engine, config.training.batch_size, getattr(config.head, "init_scale", None)


def _same_start(one: Start, other: Start) -> bool:
    same = one.inputs.shape == other.inputs.shape and bool(np.array_equal(one.inputs, other.inputs))
    return same and all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())


def _pairing_reports(
    arms: Mapping[str, RunConfig],
    runs: Mapping[str, RunResult],
    data: Mapping[str, FeatureSet],
    baseline: str,
    seed: int,
) -> list[Report]:
    """Return the reports on the pairing; `runs` may come from shortened configurations, which then may coincide."""
    if len(arms) < 2:
        return []
    trained = {arm: config for arm, config in arms.items() if config.trained_by_loop}
    shared = {arm: config for arm, config in trained.items() if data[arm] is data[baseline]}
    options = pairing.ineffective_options(shared, data[baseline], baseline, seed=seed)
    by_seed = {arm: {seed: run} for arm, run in runs.items()}
    known = [(first, second) for first, second in options.numbers.get("without_effect", [])]
    known += [(a, b) for a, b in itertools.combinations(runs, 2) if runs[a].config == runs[b].config]
    return [options, pairing.arms_differ(by_seed, exclude=known), pairing.digests_agree(by_seed)]


def _merged(reports: Mapping[str, Sequence[Report]]) -> list[Report]:
    """Return one report per probe, over all subjects that have it, in the order of the first subject."""
    names = list(dict.fromkeys(report.name for own in reports.values() for report in own))
    merged = []
    for name in names:
        found = {subject: report for subject, own in reports.items() for report in own if report.name == name}
        merged.append(merge(found))
    return merged


def _shortened(config: RunConfig, n_examples: int) -> RunConfig:
    """Return `config` with a training of at most `QUICK_EPOCHS` epochs of `QUICK_BATCHES` batches."""
    options = config.training
    a_pass = n_examples * config.data.trained_fraction / options.batch_size
    batches = options.fixed_num_batches
    if (a_pass if batches is None else batches) > QUICK_BATCHES:
        batches = QUICK_BATCHES
    epochs = min(options.epochs, QUICK_EPOCHS)
    training = dataclasses.replace(
        options, epochs=epochs, max_doublings=0, fixed_num_batches=batches, checkpoint_every_epochs=0
    )
    return dataclasses.replace(config, training=training)
