"""The tables of a benchmark's report, from the records of its heads."""

from collections.abc import Iterable, Mapping, Sequence

from qwafer.comparison.differences import ExampleDifferences
from qwafer.comparison.record import HeadRecord
from qwafer.comparison.statistics import Comparison
from qwafer.evaluation import Interval
from qwafer.reports.document import Table
from qwafer.reports.format import (
    MISSING,
    format_bytes,
    format_difference,
    format_estimate,
    format_interval,
    format_milliseconds,
    format_number,
    format_rate,
    format_seconds,
    format_spread,
)

Records = Mapping[str, HeadRecord]
"""By head."""

METHOD_NAMES = {
    "half": "p = 0.5",
    "f1": "F1-optimal",
    "youden": "Youden",
    "prevalence": "prevalence",
    "cost": "least cost",
}


def key_results(records: Records) -> Table:
    """Return parameters and macro metrics on test, mean ± sd over seeds, with the intervals of the first seed."""
    every = records.values()
    some = next(iter(every))
    exclusive, main = some.exclusive, some.main_metric
    suffix = "" if exclusive else "_tuned"
    rows: list[list[str]] = [
        ["head parameters, trainable", *(format_number(r.parameters.trainable) for r in every)],
        ["head parameters, effective", *(format_number(r.parameters.effective) for r in every)],
        ["head parameters, total", *(format_number(r.parameters.total) for r in every)],
    ]
    names = {
        main: "macro F1" if exclusive else "macro F1, tuned thresholds",
        **({} if exclusive else {"f1": "macro F1 at p = 0.5"}),
        "roc_auc": "macro ROC-AUC",
        "average_precision": "macro average precision",
        **({"accuracy": "accuracy"} if exclusive else {}),
        f"precision{suffix}": "macro precision",
        f"recall{suffix}": "macro recall",
        f"exact_match{suffix}": "exact match",
        "brier": "Brier score",
        "ece": "expected calibration error",
        **({"top_label_ece": "ECE of the predicted class"} if exclusive else {}),
        "loss": "loss",
    }
    intervals = {main: "f1", "roc_auc": "roc_auc"}
    for name, label in names.items():
        found = [r.test.get(name) for r in every]
        rows.append(
            [label, *(MISSING if values is None else format_spread(values.mean, values.sd) for values in found)]
        )
        if name in intervals:
            cells = (_estimate(r.first.intervals[intervals[name]]) for r in every)
            rows.append([f"{label}, 95% over examples", *cells])
    return Table(("test", *records), rows)


def _estimate(interval: Interval, *, signed: bool = False) -> str:
    return format_estimate(interval.estimate, interval.low, interval.high, signed=signed, marked=interval.degenerate)


def efficiency(records: Records) -> Table:
    """Return wall times, throughput, latency and memory."""
    every = records.values()
    some = next(iter(every)).inference
    rows: list[list[str]] = [
        [
            "training, mean of the runs",
            *(_mean_seconds(run.timings.training for run in r.runs.values()) for r in every),
        ],
        ["compilation, in a process of its own", *(format_seconds(r.first.timings.compile) for r in every)],
    ]
    for name, passes in (("validation", [r.inference.val for r in every]), ("test", [r.inference.test for r in every])):
        times = (format_milliseconds(1000 * timing.seconds) for timing in passes)
        rows.append([f"{name} pass, {passes[0].examples:,} examples", *times])
        rows.append([f"{name} throughput", *(format_rate(timing.throughput) for timing in passes)])
    kinds = {"one example": [r.inference.one for r in every]}
    kinds[f"a batch of {some.batch.examples}"] = [r.inference.batch for r in every]
    for what, latencies in kinds.items():
        times = (format_milliseconds(latency.p50, latency.p90, latency.p99) for latency in latencies)
        rows.append([f"latency of {what}, p50 / p90 / p99", *times])
        calls = (f"{latency.repetitions:,} after {latency.warm_up}" for latency in latencies)
        rows.append(["calls timed for it, after warm-up", *calls])
    process = (_largest(run.memory.process for run in r.runs.values()) for r in every)
    rows.append(["peak memory of a training process", *map(format_bytes, process)])
    rows.append(["peak memory of the timing process", *(format_bytes(r.inference.memory.process) for r in every)])
    device = [_largest(run.memory.device for run in r.runs.values()) for r in every]
    if any(device):
        rows.append(["peak device memory in training", *map(format_bytes, device)])
    return Table(("", *records), rows)


def _mean_seconds(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return format_seconds(sum(known) / len(known) if known else None)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def seed_table(comparisons: Sequence[Comparison]) -> Table:
    """Return paired differences over seeds with the test that decides and its interval."""
    rows = [
        [
            f"{c.arm} - {c.baseline}",
            len(c.seeds),
            format_difference(c.mean),
            format_number(c.sd, 3),
            format_interval(*(c.interval or (None, None))),
            format_number(c.p, 3),
            format_number(c.p_holm, 3),
            c.verdict,
        ]
        for c in comparisons
    ]
    return Table(("difference", "seeds", "mean", "sd", "interval over seeds", "p", "p (Holm)", "verdict"), rows)


def example_table(differences: ExampleDifferences, baseline: str) -> Table:
    """Return the differences of every seed with their intervals over test examples."""
    rows = [
        [f"{head} - {baseline}", seed, *(_estimate(found[name], signed=True) for name in ("f1", "roc_auc"))]
        for head, by_seed in differences.items()
        for seed, found in by_seed.items()
    ]
    return Table(("difference", "seed", "macro F1, 95% over examples", "macro ROC-AUC, 95% over examples"), rows)


def threshold_table(record: HeadRecord) -> Table:
    """Return what each way of tuning gives on test, in the first seed; a dagger marks labels that fell back to 0.5."""
    rows = []
    for method, found in record.first.thresholds.items():
        marked = 0 if found.thresholds is None else sum(found.thresholds.degenerate)
        numbers = (found.f1, found.precision, found.recall, found.balanced_accuracy, found.exact_match, found.cost)
        rows.append([METHOD_NAMES[method] + _daggers(marked), *map(format_number, numbers)])
    header = ("threshold", "macro F1", "precision", "recall", "balanced accuracy", "exact match", "mean cost")
    return Table(header, rows)


def _daggers(marked: int) -> str:
    return f" ({marked} †)" if marked else ""


def calibration_table(records: Records) -> Table:
    """Return ECE, Brier score and loss on test before and after each calibration, in the first seed."""
    names = {"ece": "ECE", "top_label_ece": "ECE of the predicted class", "brier": "Brier score", "loss": "loss"}
    if not next(iter(records.values())).exclusive:
        del names["top_label_ece"]
    rows = []
    for head, record in records.items():
        for method, found in record.first.calibration.items():
            before, after = found.effect.before.macro, found.effect.after.macro
            cells = [f"{before[name]:.4f} → {after[name]:.4f}" for name in names]
            rows.append([f"{head}, {method}{_daggers(sum(found.fit.degenerate))}", *cells])
    return Table(("test, macro", *names.values()), rows)


def class_table(record: HeadRecord) -> Table:
    """Return the metrics of every class on test, in the first seed; a dagger marks degenerate classes."""
    test = record.first.test
    suffix = "" if record.exclusive else "_tuned"
    names = {
        "roc_auc": "ROC-AUC",
        "average_precision": "AP",
        f"f1{suffix}": "F1",
        f"precision{suffix}": "precision",
        f"recall{suffix}": "recall",
        "brier": "Brier",
        "ece": "ECE",
    }
    rows = []
    for k, label in enumerate(test.label_names):
        mark = " †" if test.degenerate[k] else ""
        cells = [format_number(test.per_class[name][k]) for name in names]
        limit = [] if test.thresholds is None else [format_number(test.thresholds[k], 3)]
        rows.append([label + mark, f"{test.n_positive[k]:,}", *cells, *limit])
    threshold = [] if test.thresholds is None else ["threshold (logit)"]
    return Table(("class", "positives", *names.values(), *threshold), rows)


def foundations(records: Records) -> Table:
    """Return the features, split, engine and code revision of every head."""
    rows = [
        [
            head,
            record.source.file,
            record.source.digest,
            record.first.digests.split,
            record.engine.get("engine", MISSING),
            (record.environment.git_revision or MISSING)[:12],
        ]
        for head, record in records.items()
    ]
    return Table(("head", "features", "digest of features", "split, first seed", "engine", "revision"), rows, 6)
