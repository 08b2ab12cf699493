"""Is there anything quantum here? Nulls trained beside the head, under the same data, splits, batches, seeds and
budget.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qwafer._errors import InputError
from qwafer.circuits.options import NATIVE
from qwafer.config import RunConfig
from qwafer.evaluation import bca_mean_interval
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions, MlpOptions, QuantumHead, QuantumOptions
from qwafer.probes.report import Report, Verdict
from qwafer.training import RunResult, train

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
    """Return the configuration of every null of a quantum head but the trigonometric one, which needs the trained
    head.

    `n_parameters` is what the head trains: the MLP gets the hidden width that comes nearest to it. A separable head
    has no separable null. Raises InputError where `config` is not of a quantum head.
    """
    if not isinstance(config.head, QuantumOptions):
        raise InputError(f"`head.name` must be quantum to have nulls, got {config.name('head')}")
    configs = {}
    if config.circuit.ansatz != "separable":
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
    progress: Callable[[str, int], None] = lambda name, seed: None,
) -> Report:
    """Train the head and every null on each seed, and report the paired differences of the macro test `metric`.

    All runs of a seed share split, batches and every initial value that they have in common. Passes where the head is
    better than every null (lower end of the 95% BCa interval of head minus null above 0); warns where it is not.
    `progress` is called before each run.
    """
    values: dict[str, list[float]] = {"head": []}
    counts: dict[str, int] = {}
    for seed in seeds:
        progress("head", seed)
        head_run = train(config, data, seed)
        _note(values, counts, "head", head_run, metric)
        n_labels, n_features = len(head_run.label_names), data.features.shape[1]
        configs = null_configs(config, n_features, n_labels, counts["head"])
        for name, null in configs.items():
            progress(name, seed)
            _note(values, counts, name, train(null, data, seed), metric)
        progress("trigonometric", seed)
        surrogate = _classical(config, LinearOptions(config.head.standardize))
        _note(values, counts, "trigonometric", train(surrogate, _surrogate_data(head_run, data), seed), metric)
    rows = [_row(name, values[name], values["head"], counts[name]) for name in ("head", *NULLS) if name in values]
    return _report(rows, metric, len(seeds))


def table_text(report: Report) -> str:
    """Return the table of a report of `run_nulls` as Markdown."""
    lines = ["| head | parameters | mean | head - null | 95 % interval |", "|---|---|---|---|---|"]
    for row in report.numbers.get("rows", []):
        if row["difference"] is None:
            lines.append(f"| {row['name']} | {row['n_parameters']} | {row['mean']:.4f} | | |")
        else:
            interval = "undefined" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(
                f"| {row['name']} | {row['n_parameters']} | {row['mean']:.4f} | {row['difference']:+.4f} | {interval} |"
            )
    return "\n".join(lines)


def _classical(config: RunConfig, head: LinearOptions | MlpOptions) -> RunConfig:
    """Return the configuration with a classical head in place of the quantum one."""
    return dataclasses.replace(config, head=head, circuit=None, engine=None)


def _surrogate_data(run: RunResult, data: FeatureSet) -> FeatureSet:
    """Return `data` with the trigonometric features of the trained head's angles in place of its features."""
    import jax.numpy as jnp

    assert run.predictor is not None
    head = run.predictor.head
    assert isinstance(head, QuantumHead)
    angles = np.asarray(head.inputs(jnp.asarray(data.features, head.dtype)))
    degree = head.spec.n_layers if head.spec.reupload and head.spec.n_layers else 1
    features = trigonometric_features(angles, degree).astype(np.float32)
    return dataclasses.replace(data, features=features, feature_names=None)


def _note(values: dict[str, list[float]], counts: dict[str, int], name: str, run: RunResult, metric: str) -> None:
    macro = run.test.macro
    if metric not in macro:
        raise InputError(f"`metric` must be one of {', '.join(sorted(macro))}, got {metric!r}")
    values.setdefault(name, []).append(macro[metric])
    counts[name] = run.n_parameters.trainable
    if name == "frozen random" and run.predictor is not None:
        counts[name] -= int(run.predictor.head.params["circuit.ansatz"].size)


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
