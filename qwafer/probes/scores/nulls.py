"""Is there anything quantum here? Nulls trained beside the head: same data, splits, batches, seeds and budget."""

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from qwafer._errors import InputError
from qwafer.circuits import INPUTS
from qwafer.circuits.circuit import uses
from qwafer.circuits.options import NATIVE, LayeredOptions
from qwafer.config import RunConfig
from qwafer.evaluation import bca_mean_interval
from qwafer.execution import Event, Executor, Job, OnProgress, Progress, Threads, run_all
from qwafer.experiment import check_seeds
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions, MlpOptions, QuantumHead, QuantumOptions
from qwafer.probes.report import Report, Verdict
from qwafer.sweeps.directory import predictor_path
from qwafer.sweeps.jobs import TRAIN, train_payload, train_run
from qwafer.training import Predictor, RunResult

QUESTION = "Is there anything quantum here: does the head beat its classical and unentangled siblings?"

MAX_MONOMIALS = 1024
"""Above so many products of trigonometric features, only products of two wires are taken."""

NULLS = {
    "separable": "the same circuit without entangling gates",
    "frozen random": "the same circuit with random ansatz angles that are not trained",
    "linear probe": "a linear head on the same features",
    "trigonometric": "a linear head on products of cos and sin of the trained head's angles: its classical surrogate",
    "mlp": "a network of one hidden layer with as many parameters",
}
"""The nulls and what each is."""


@dataclass(frozen=True)
class NullRow:
    """One line of the table: a null against the head."""

    name: str
    """`head`, or one of `NULLS`."""
    n_parameters: int
    """Trained parameters."""
    values: tuple[float, ...]
    """The metric of each seed."""
    mean: float
    """Their mean."""
    difference: float | None = None
    """Mean over seeds of head minus null; none for the head itself."""
    low: float | None = None
    """Lower end of its 95% BCa interval; none where it is not defined."""
    high: float | None = None
    """Upper end."""


def null_configs(config: RunConfig, n_features: int, n_labels: int, n_parameters: int) -> dict[str, RunConfig]:
    """Return the configuration of every null but the trigonometric one, which needs the trained head.

    `n_parameters` is what the head trains: the MLP gets the hidden width that comes nearest to it. A separable head
    has no separable null. Raises InputError where `config` is not of a quantum head.
    """
    if not isinstance(config.head, QuantumOptions):
        raise InputError(f"`head.name` must be quantum to have nulls, got {config.name('head')}")
    configs = {}
    if isinstance(config.circuit, LayeredOptions) and config.circuit.ansatz != "separable":
        circuit = dataclasses.replace(config.circuit, ansatz="separable", entanglement=NATIVE)
        configs["separable"] = dataclasses.replace(config, circuit=circuit)
    configs["frozen random"] = dataclasses.replace(
        config,
        head=dataclasses.replace(config.head, init_scale=float(np.pi)),
        training=dataclasses.replace(config.training, lr_mult_circuit=0.0, weight_decay_circuit=0.0),
    )
    configs["linear probe"] = _classical(config, LinearOptions(config.head.standardize))
    hidden = max(1, round((n_parameters - n_labels) / (n_features + 1 + n_labels)))
    configs["mlp"] = _classical(config, MlpOptions(config.head.standardize, hidden))
    return configs


def trigonometric_features(angles: Float[np.ndarray, "N n"], degree: int = 1) -> Float[np.ndarray, "N M"]:
    """Return the products over wires of {1, cos(k x_i), sin(k x_i), k = 1 ... degree}, without the constant.

    All (2 degree + 1)^n - 1 of them, in which a circuit that encodes each input `degree` times by a Pauli rotation is
    linear (Schreiber, Eisert and Meyer 2023, arXiv:2206.11740); beyond 1,024 only products of at most two wires.
    """
    angles = np.asarray(angles, np.float64)
    n = angles.shape[1]
    single = [[wave(k * angles[:, i]) for k in range(1, degree + 1) for wave in (np.cos, np.sin)] for i in range(n)]
    most = n if (2 * degree + 1) ** n <= MAX_MONOMIALS else 2
    columns = []
    for order in range(1, most + 1):
        for wires in itertools.combinations(range(n), order):
            for factors in itertools.product(*(single[i] for i in wires)):
                columns.append(np.prod(factors, axis=0))
    return np.stack(columns, axis=1)


def run_nulls(
    config: RunConfig,
    data: FeatureSet,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    metric: str = "roc_auc",
    executor: Executor | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Train the head and every null on each seed, and report the paired differences of the macro test `metric`.

    All runs of a seed share split, batches and every initial value that they have in common. Passes where the head is
    better than every null (lower end of the 95% BCa interval of head minus null above 0); warns where it is not.
    Without an executor, one run after the other is done in this process. `progress` is called before each run.
    """
    check_seeds(seeds)
    running = Threads() if executor is None else executor
    with tempfile.TemporaryDirectory(prefix="qwafer-nulls-") as folder, running:
        total = len(seeds) * (2 + len(null_configs(config, 1, 1, 1)))
        # By name, a job would configure JAX: this process is its caller's.
        runs = _Runs(Path(folder), running, train_run if executor is None else TRAIN, progress, total)
        features = runs.store(data, "features")
        runs.train([(("head", seed), config, features) for seed in seeds])
        values: dict[str, list[float]] = {"head": []}
        counts: dict[str, int] = {}
        nulls = []
        for seed in seeds:
            result, head = runs.result("head", seed), runs.head(seed)
            _note(values, counts, "head", result, metric)
            configs = null_configs(config, data.features.shape[1], len(result.label_names), counts["head"])
            nulls += [((name, seed), null, features) for name, null in configs.items()]
            surrogate = _classical(config, LinearOptions(config.head.standardize))
            surrogate_features = runs.store(_surrogate_data(head, data), f"surrogate-{seed}")
            nulls.append((("trigonometric", seed), surrogate, surrogate_features))
        runs.train(nulls)
        for (name, seed), _, _ in nulls:
            _note(values, counts, name, runs.result(name, seed), metric)
        counts["frozen random"] -= sum(value.size for name, value in head.params.items() if name.startswith("circuit."))
    rows = [_row(name, values[name], values["head"], counts[name]) for name in ("head", *NULLS) if name in values]
    return _report(rows, metric, len(seeds))


class _Runs:
    """The trainings as jobs, and the folder where their data and results lie."""

    def __init__(self, folder: Path, executor: Executor, function: Any, progress: OnProgress | None, total: int):
        self._folder, self._executor, self._function = folder, executor, function
        self._progress, self._total, self._started = progress, total, 0

    def store(self, data: FeatureSet, name: str) -> Path:
        path = self._folder / f"{name}.npz"
        data.save(path)
        return path

    def train(self, runs: Sequence[tuple[tuple[str, int], RunConfig, Path]]) -> None:
        """Do the runs: (name and seed), configuration, features."""
        jobs = []
        for (name, seed), config, features in runs:
            payload = train_payload(config, features, seed, self._path(name, seed), store_all=True)
            jobs.append(
                Job(
                    f"{name}, seed {seed}",
                    self._function,
                    payload,
                    fresh=getattr(config.engine, "shots", None) is not None,
                )
            )

        def note(event: Event) -> None:
            if event.kind == "started" and self._progress is not None:
                self._progress(Progress("nulls", self._started, self._total, text=event.key))
                self._started += 1

        run_all(self._executor, jobs, note)

    def result(self, name: str, seed: int) -> RunResult:
        return RunResult.load(self._path(name, seed))

    def head(self, seed: int) -> QuantumHead:
        head = Predictor.load(predictor_path(self._path("head", seed))).head
        assert isinstance(head, QuantumHead)
        return head

    def _path(self, name: str, seed: int) -> Path:
        return self._folder / name / f"seed-{seed}.json"


def _classical(config: RunConfig, head: LinearOptions | MlpOptions) -> RunConfig:
    """Return the configuration with a classical head in place of the quantum one."""
    return dataclasses.replace(config, head=head, circuit=None, engine=None)


def _surrogate_data(head: QuantumHead, data: FeatureSet) -> FeatureSet:
    """Return `data` with the trigonometric features of the trained head's angles in place of its features."""
    import jax.numpy as jnp

    angles = np.asarray(head.inputs(jnp.asarray(data.features, head.dtype)))
    degree = uses(head.spec, INPUTS)
    features = trigonometric_features(angles, degree).astype(np.float32)
    return dataclasses.replace(data, features=features, feature_names=None)


def _note(values: dict[str, list[float]], counts: dict[str, int], name: str, run: RunResult, metric: str) -> None:
    macro = run.test.macro
    if metric not in macro:
        raise InputError(f"`metric` must be one of {', '.join(sorted(macro))}, got {metric!r}")
    values.setdefault(name, []).append(macro[metric])
    assert run.n_parameters.trainable is not None  # every null is trained by the loop
    counts[name] = run.n_parameters.trainable


def _row(name: str, values: list[float], head: list[float], count: int) -> NullRow:
    mean = float(np.mean(values))
    if name == "head":
        return NullRow(name, count, tuple(values), mean)
    differences = np.asarray(head) - np.asarray(values)
    interval = bca_mean_interval(differences)
    low, high = (None if np.isnan(end) else float(end) for end in (interval.low, interval.high))
    return NullRow(name, count, tuple(values), mean, float(differences.mean()), low, high)


def _report(rows: Sequence[NullRow], metric: str, n_seeds: int) -> Report:
    nulls = [row for row in rows if row.difference is not None]
    beaten = [row for row in nulls if row.low is not None and row.low > 0]
    ahead = max(nulls, key=lambda row: row.mean)
    verdict: Verdict = "pass" if len(beaten) == len(nulls) else "warn"
    head = next(row for row in rows if row.difference is None)
    interval = "" if ahead.low is None else f" [{ahead.low:+.3f}, {ahead.high:+.3f}]"
    against = f"best null {ahead.name} {ahead.mean:.3f}: difference {ahead.difference:+.3f}{interval}"
    headline = f"{metric} {head.mean:.3f}, {against}, {n_seeds} seeds"
    if verdict == "warn":
        level = [row.name for row in nulls if row not in beaten]
        headline += f"; not shown to beat {', '.join(level)}"
    return Report(
        name="nulls",
        question=QUESTION,
        verdict=verdict,
        headline=headline,
        numbers={"metric": metric, "rows": [dataclasses.asdict(row) for row in rows], "nulls": NULLS},
        tolerance="pass: the 95% BCa interval of head minus null lies above 0 for every null",
        meaning="A head that does not beat its classical or unentangled siblings owes its score to the features.",
        remedy="Report the null beside the head; look for a task, an encoding or a depth where the difference holds.",
    )
