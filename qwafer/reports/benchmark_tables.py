"""The tables of a benchmark's report, from the records of its heads."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwafer.reports.document import Table
from qwafer.reports.format import format_number as number
from qwafer.reports.format import format_spread as spread

Records = Mapping[str, Mapping[str, Any]]
"""`bench_{head}.json` by head."""

MIB = 2**20
METHOD_NAMES = {
    "half": "p = 0.5",
    "f1": "F1-optimal",
    "youden": "Youden",
    "prevalence": "prevalence",
    "cost": "least cost",
}


def main_metric(record: Mapping[str, Any]) -> str:
    """Return the name of the macro F1 that decides: at tuned thresholds, or of the arg max."""
    return "f1" if record["exclusive"] else "f1_tuned"


def key_results(records: Records) -> Table:
    """Return parameters and macro metrics on test, mean ± sd over seeds, with the intervals of the first seed."""
    exclusive = next(iter(records.values()))["exclusive"]
    main = "f1" if exclusive else "f1_tuned"
    rows: list[list[str]] = [
        ["head parameters, trainable", *(number(r["parameters"]["trainable"]) for r in records.values())],
        ["head parameters, total", *(number(r["parameters"]["total"]) for r in records.values())],
    ]
    names = {
        main: "macro F1" if exclusive else "macro F1, tuned thresholds",
        **({} if exclusive else {"f1": "macro F1 at p = 0.5"}),
        "roc_auc": "macro ROC-AUC",
        "average_precision": "macro average precision",
        **({"accuracy": "accuracy"} if exclusive else {}),
        ("precision" if exclusive else "precision_tuned"): "macro precision",
        ("recall" if exclusive else "recall_tuned"): "macro recall",
        ("exact_match" if exclusive else "exact_match_tuned"): "exact match",
        "brier": "Brier score",
        "ece": "expected calibration error",
        **({"top_label_ece": "ECE of the predicted class"} if exclusive else {}),
        "loss": "loss",
    }
    intervals = {main: "f1", "roc_auc": "roc_auc"}
    for name, label in names.items():
        cells = [r["spread"]["test"].get(name) for r in records.values()]
        rows.append([label, *("–" if cell is None else spread(cell["mean"], cell["sd"]) for cell in cells)])
        if name in intervals:
            rows.append([f"{label}, 95 % over examples", *(_interval(r, intervals[name]) for r in records.values())])
    return Table(("test", *records), rows)


def _interval(record: Mapping[str, Any], name: str) -> str:
    first = next(iter(record["runs"].values()))
    return interval_text(first["intervals"][name])


def interval_text(interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return "estimate [low, high]", a dash where it is undefined, a dagger where it is marked."""
    if interval is None or interval["low"] is None or interval["estimate"] is None:
        return "–"
    form = "{:+.4f}" if signed else "{:.4f}"
    mark = " †" if interval["degenerate"] else ""
    return (
        f"{form.format(interval['estimate'])} [{form.format(interval['low'])}, {form.format(interval['high'])}]{mark}"
    )


def efficiency(records: Records) -> Table:
    """Return wall times, throughput, latency and memory."""

    def seconds(record: Mapping[str, Any], name: str) -> str:
        found = [run["timings"].get(name) for run in record["runs"].values()]
        values = [value for value in found if value is not None]
        return "–" if not values else f"{sum(values) / len(values):.2f} s"

    def peak(record: Mapping[str, Any], name: str) -> str:
        values = [run["memory"].get(name) for run in record["runs"].values()]
        known = [value for value in values if value is not None]
        return "–" if not known else f"{max(known) / MIB:,.0f} MiB"

    every = records.values()
    rows: list[list[str]] = [
        ["training, mean of the runs", *(seconds(r, "training") for r in every)],
        ["compilation, mean of the runs", *(seconds(r, "compile") for r in every)],
    ]
    for part in ("val", "test"):
        name = "validation" if part == "val" else "test"
        rows.append([f"{name} pass, {_examples(records, part)} examples", *(_ms(r["inference"][part]) for r in every)])
        rows.append([f"{name} throughput", *(f"{r['inference'][part]['throughput']:,.0f} /s" for r in every)])
    for kind in ("one", "batch"):
        size = next(iter(every))["inference"][kind]["examples"]
        what = "one example" if size == 1 else f"a batch of {size}"
        cells = [" / ".join(f"{r['inference'][kind][p]:.3g}" for p in ("p50", "p90", "p99")) + " ms" for r in every]
        rows.append([f"latency of {what}, p50 / p90 / p99", *cells])
        rows.append(["calls timed for it, after warm-up", *(_calls(r["inference"][kind]) for r in every)])
    rows.append(["peak memory of a training process", *(peak(r, "peak_memory") for r in every)])
    rows.append(["peak memory of the timing process", *(_mib(r["inference"]["peak_memory"]) for r in every)])
    device = [max((run["memory"].get("peak_device_memory") or 0) for run in r["runs"].values()) for r in every]
    if any(device):
        rows.append(["peak device memory in training", *(_mib(value or None) for value in device)])
    return Table(("", *records), rows)


def _examples(records: Records, part: str) -> str:
    return f"{next(iter(records.values()))['inference'][part]['examples']:,}"


def _ms(entry: Mapping[str, Any]) -> str:
    return f"{1000 * entry['seconds']:.3g} ms"


def _calls(entry: Mapping[str, Any]) -> str:
    return f"{entry['repetitions']:,} after {entry['warm_up']}"


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value / MIB:,.0f} MiB"


def seed_table(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Return paired differences over seeds with their exact tests."""
    rows = []
    for c in comparisons:
        interval = "–" if c["interval"] is None else f"{c['interval'][0]:+.4f} to {c['interval'][1]:+.4f}"
        mean = "–" if c["mean"] is None else f"{c['mean']:+.4f}"
        cells = (number(c["sd"], 3), interval, number(c["sign_flip_p"], 3), number(c["sign_flip_p_holm"], 3))
        rows.append([f"{c['arm']} - {c['baseline']}", len(c["seeds"]), mean, *cells, c["verdict"]])
    return Table(("difference", "seeds", "mean", "sd", "95 % over seeds", "p", "p (Holm)", "verdict"), rows)


def example_table(differences: Mapping[str, Mapping[int, Mapping[str, Any]]], baseline: str) -> Table:
    """Return the differences of every seed with their intervals over test examples."""
    rows = [
        [
            f"{head} - {baseline}",
            seed,
            interval_text(found["f1"], signed=True),
            interval_text(found["roc_auc"], signed=True),
        ]
        for head, by_seed in differences.items()
        for seed, found in by_seed.items()
    ]
    return Table(("difference", "seed", "macro F1, 95 % over examples", "macro ROC-AUC, 95 % over examples"), rows)


def threshold_table(record: Mapping[str, Any]) -> Table:
    """Return what each way of tuning gives on test, in the first seed; a dagger marks labels that fell back to 0.5."""
    variants = next(iter(record["runs"].values()))["thresholds"]
    rows = []
    for method, entry in variants.items():
        tuned = entry["thresholds"]
        marked = 0 if tuned is None else sum(tuned["degenerate"])
        rows.append(
            [
                METHOD_NAMES[method] + (f" ({marked} †)" if marked else ""),
                *(number(entry[name]) for name in ("f1", "precision", "recall", "balanced_accuracy", "exact_match")),
                number(entry["cost"]),
            ]
        )
    header = ("threshold", "macro F1", "precision", "recall", "balanced accuracy", "exact match", "mean cost")
    return Table(header, rows)


def calibration_table(records: Records) -> Table:
    """Return ECE, Brier score and loss on test before and after each calibration, in the first seed."""
    rows = []
    for head, record in records.items():
        for method, found in next(iter(record["runs"].values()))["calibration"].items():
            before, after = found["before"]["macro"], found["after"]["macro"]
            names = [name for name in ("ece", "top_label_ece", "brier", "loss") if name in before]
            cells = [f"{before[name]:.4f} → {after[name]:.4f}" for name in names]
            marked = sum(found["fit"]["degenerate"])
            rows.append([f"{head}, {method}" + (f" ({marked} †)" if marked else ""), *cells])
    first = next(iter(next(iter(next(iter(records.values()))["runs"].values()))["calibration"].values()))
    labels = {"ece": "ECE", "top_label_ece": "ECE of the predicted class", "brier": "Brier score", "loss": "loss"}
    header = [label for name, label in labels.items() if name in first["before"]["macro"]]
    return Table(("test, macro", *header), rows)


def class_table(record: Mapping[str, Any]) -> Table:
    """Return the metrics of every class on test, in the first seed; a dagger marks degenerate classes."""
    test = next(iter(record["runs"].values()))["test"]
    suffix = "" if record["exclusive"] else "_tuned"
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
    for k, label in enumerate(test["label_names"]):
        mark = " †" if test["degenerate"][k] else ""
        cells = [number(test["per_class"][name][k]) for name in names]
        limit = [] if test["thresholds"] is None else [number(test["thresholds"][k], 3)]
        rows.append([label + mark, f"{test['n_positive'][k]:,}", *cells, *limit])
    threshold = [] if test["thresholds"] is None else ["threshold (logit)"]
    return Table(("class", "positives", *names.values(), *threshold), rows)
