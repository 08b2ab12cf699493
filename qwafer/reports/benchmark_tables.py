"""The tables of a benchmark's report, from the records of its heads: a row per head, and at most seven columns, so that
a page as narrow as a phone holds them.
"""

from collections.abc import Iterable, Mapping

from qwafer.comparison.differences import ExampleDifferences, SeedDifferences
from qwafer.comparison.record import HeadRecord
from qwafer.evaluation import Interval
from qwafer.reports.document import Table
from qwafer.reports.format import (
    MISSING,
    format_bytes,
    format_difference,
    format_estimate,
    format_milliseconds,
    format_number,
    format_p,
    format_range,
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


def main_label(record: HeadRecord) -> str:
    """Return what the metric that heads are compared by is called."""
    return "macro F1" if record.exclusive else "macro F1, tuned thresholds"


def key_results(records: Records) -> Table:
    """Return parameters and the main macro metrics on test, mean ± sd over seeds."""
    some = _some(records)
    names = {
        some.main_metric: main_label(some),
        "roc_auc": "macro ROC-AUC",
        "average_precision": "macro average precision",
    }
    sized = any(r.parameters.bits for r in records.values())
    rows = [
        [
            head,
            f"{format_number(r.parameters.trainable)} ({format_number(r.parameters.effective)})",
            *([format_number(r.parameters.bits)] if sized else []),
            *_spreads(r, names),
        ]
        for head, r in records.items()
    ]
    bits = ["stored bits"] if sized else []
    return Table(("head", "trainable parameters (effective)", *bits, *names.values()), rows)


def decisions(records: Records) -> Table:
    """Return what the decisions on test are worth, mean ± sd over seeds."""
    exclusive = _some(records).exclusive
    suffix = "" if exclusive else "_tuned"
    names = {
        f"precision{suffix}": "macro precision",
        f"recall{suffix}": "macro recall",
        f"exact_match{suffix}": "exact match",
        **({"accuracy": "accuracy"} if exclusive else {"f1": "macro F1 at p = 0.5"}),
    }
    return Table(("head", *names.values()), [[head, *_spreads(r, names)] for head, r in records.items()])


def probabilities(records: Records) -> Table:
    """Return what the probabilities on test are worth, mean ± sd over seeds."""
    names = {
        "brier": "Brier score",
        "ece": "expected calibration error",
        **({"top_label_ece": "ECE of the predicted class"} if _some(records).exclusive else {}),
        "loss": "loss",
    }
    return Table(("head", *names.values()), [[head, *_spreads(r, names)] for head, r in records.items()])


def example_intervals(records: Records) -> Table:
    """Return the first seed's macro metrics on test with their intervals over examples."""
    names = {"f1": main_label(_some(records)), "roc_auc": "macro ROC-AUC", "exact_match": "exact match"}
    rows = [[head, *(_estimate(r.first.intervals[name]) for name in names)] for head, r in records.items()]
    return Table(("head", *names.values()), rows)


def _some(records: Records) -> HeadRecord:
    return next(iter(records.values()))


def _spreads(record: HeadRecord, names: Iterable[str]) -> list[str]:
    found = (record.test.get(name) for name in names)
    return [MISSING if values is None else format_spread(values.mean, values.sd) for values in found]


def _estimate(interval: Interval, *, signed: bool = False) -> str:
    return format_estimate(interval.estimate, interval.low, interval.high, signed=signed, marked=interval.degenerate)


def training_cost(records: Records) -> Table:
    """Return wall times and memory of training: means of the runs, compilation and peak of the one that ran alone."""
    device = {head: _largest(run.memory.device for run in r.runs.values()) for head, r in records.items()}
    rows = [
        [
            head,
            format_number(r.parameters.total),
            _mean_seconds(run.timings.training for run in r.runs.values()),
            format_seconds(r.first.timings.compile),
            format_bytes(_largest(run.memory.process for run in r.runs.values())),
            *([format_bytes(device[head])] if any(device.values()) else []),
        ]
        for head, r in records.items()
    ]
    header = ("head", "parameters, total", "training", "compilation", "peak memory of a training process")
    return Table((*header, *(["on the device"] if any(device.values()) else [])), rows)


def inference_cost(records: Records) -> Table:
    """Return latency, throughput and memory of the head of the first seed."""
    some = _some(records).inference
    rows = [
        [
            head,
            *(format_milliseconds(t.p50, t.p90, t.p99) for t in (r.inference.one, r.inference.batch)),
            format_rate(r.inference.test.throughput),
            format_bytes(r.inference.memory.process),
        ]
        for head, r in records.items()
    ]
    latencies = (f"latency of {what}, p50 / p90 / p99" for what in ("one example", f"{some.batch.examples} examples"))
    return Table(("head", *latencies, "test throughput", "peak memory of the timing process"), rows)


def _mean_seconds(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return format_seconds(sum(known) / len(known) if known else None)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def verdict_table(differences: SeedDifferences) -> Table:
    """Return, per head, the mean difference from the baseline with the interval that decides, and the verdict of every
    metric.
    """
    heads = list(dict.fromkeys(c.arm for comparisons in differences.values() for c in comparisons))
    rows = []
    for head in heads:
        found = [c for comparisons in differences.values() for c in comparisons if c.arm == head]
        pairs = ((f"{format_difference(c.mean)} {_range(c.interval)}".strip(), c.verdict) for c in found)
        rows.append([head, *(cell for pair in pairs for cell in pair)])
    header = (cell for name in differences for cell in (seed_metric_label(name), "verdict"))
    return Table(("head", *header), rows)


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else format_range(*interval, signed=True)


def seed_metric_label(name: str) -> str:
    """Return what a metric of `SeedDifferences` is called."""
    return "macro F1" if name.startswith("f1") else "macro ROC-AUC"


def seed_table(differences: SeedDifferences) -> Table:
    """Return, per head and metric, the test that decides the verdict."""
    rows = [
        [
            c.arm,
            seed_metric_label(name),
            len(c.seeds),
            format_number(c.sd, 3),
            MISSING if c.level is None else f"{100 * c.level:.3g}%",
            format_p(c.p),
            format_p(c.p_holm),
        ]
        for name, comparisons in differences.items()
        for c in comparisons
    ]
    return Table(("head", "metric", "seeds", "sd", "level", "p", "p (Holm)"), rows)


def example_table(differences: ExampleDifferences) -> Table:
    """Return, per head, the first seed's difference from the baseline with its interval over test examples, and in how
    many seeds that interval lies above and below 0.
    """
    rows = []
    for head, by_seed in differences.items():
        cells = [head]
        for name in ("f1", "roc_auc"):
            found = [intervals[name] for intervals in by_seed.values()]
            above, below = sum(i.low > 0 for i in found), sum(i.high < 0 for i in found)
            shown = _estimate(found[0], signed=True) if found else MISSING
            cells += [shown, f"{above}, {below} of {len(found)}"]
        rows.append(cells)
    header = (cell for name in ("macro F1", "macro ROC-AUC") for cell in (f"{name}, first seed", "above 0, below 0"))
    return Table(("head", *header), rows)


def threshold_table(records: Records, what: str) -> Table:
    """Return `what` (`f1`, `cost`, ...) on test under each way of tuning, in the first seed; daggers count the labels
    that fell back to 0.5.
    """
    rows = []
    for head, record in records.items():
        cells = [head]
        for found in record.first.thresholds.values():
            marked = 0 if found.thresholds is None else sum(found.thresholds.degenerate)
            cells.append(f"{getattr(found, what):.4f}{_daggers(marked)}")
        rows.append(cells)
    return Table(("head", *(METHOD_NAMES[method] for method in _some(records).first.thresholds)), rows)


def _daggers(marked: int) -> str:
    return f" ({marked} †)" if marked else ""


def calibration_table(records: Records) -> Table:
    """Return ECE, Brier score and loss on test before and after each calibration, in the first seed."""
    names = {"ece": "ECE", "top_label_ece": "ECE of the predicted class", "brier": "Brier score", "loss": "loss"}
    if not _some(records).exclusive:
        del names["top_label_ece"]
    rows = []
    for head, record in records.items():
        for method, found in record.first.calibration.items():
            before, after = found.effect.before.macro, found.effect.after.macro
            cells = [f"{before[name]:.4f} → {after[name]:.4f}" for name in names]
            rows.append([head, method + _daggers(sum(found.fit.degenerate)), *cells])
    return Table(("head", "calibration", *names.values()), rows, text_columns=2)


def class_table(records: Records) -> Table:
    """Return the metrics of every class and head on test, in the first seed; a dagger marks degenerate classes."""
    some = _some(records)
    suffix = "" if some.exclusive else "_tuned"
    names = {
        "average_precision": "AP",
        "roc_auc": "AUC",
        f"f1{suffix}": "F1",
        f"precision{suffix}": "precision",
        f"recall{suffix}": "recall",
    }
    rows = []
    for k, label in enumerate(some.label_names):
        for head, record in records.items():
            test = record.first.test
            mark = " †" if test.degenerate[k] else ""
            name = f"{label} ({test.n_positive[k]:,})"
            rows.append([name, head + mark, *(_short(test.per_class[metric][k]) for metric in names)])
    return Table(("class (positives)", "head", *names.values()), rows, text_columns=2)


def _short(value: float) -> str:
    return MISSING if value != value else f"{value:.3f}"


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
