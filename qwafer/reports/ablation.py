"""`report.md`: what was asked, what came out, how sure one can be, and what it rests on; text, tables and figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._io import write_text
from qwafer.comparison.statistics import ALPHA
from qwafer.comparison.summary import Results
from qwafer.reports.figures.ablation import write_figures
from qwafer.sweeps.directory import seeds_text

METRIC_ROWS = (
    "roc_auc",
    "average_precision",
    "sep",
    "loss",
    "brier",
    "ece",
    "f1",
    "f1_tuned",
    "balanced_accuracy_tuned",
)
"""Averages that the report shows where they exist; `summary.json` has all."""


def write_report(folder: Path, summary: Mapping[str, Any], seconds: Mapping[str, Any], results: Results) -> Path:
    """Write `report.md` and `figures/` into the folder, and return the path of the report."""
    figures = write_figures(summary, results, folder / "figures")
    path = folder / "report.md"
    write_text(path, report_text(summary, seconds, figures))
    return path


def report_text(summary: Mapping[str, Any], seconds: Mapping[str, Any], figures: Sequence[tuple[str, str]]) -> str:
    """Return the Markdown of the report; `figures` are (file name without suffix, caption)."""
    sections = [
        _head(summary),
        _verdicts(summary),
        _warnings(summary),
        _comparison_table(summary),
        _figures(figures),
        _metrics_table(summary),
        _per_seed_table(summary),
        _learning_table(summary),
        _pairing(summary),
        _foundations(summary, seconds),
        _reading(summary),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def number(value: Any, digits: int = 4) -> str:
    """Return a number in short, a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def spread(mean: Any, sd: Any) -> str:
    """Return "mean ± sd" to the digits that the spread supports, at least four decimals."""
    if mean is None:
        return "–"
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; the first column is text, the others are aligned right."""
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---', *['--:'] * (len(header) - 1)])}|"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _head(summary: Mapping[str, Any]) -> str:
    experiment = summary["experiment"]
    arms = []
    for name, arm in summary["arms"].items():
        changes = ", ".join(
            f"`{option}` = {'none' if value is None else value}" for option, value in arm["changes"].items()
        )
        arms.append(f"- **{name}**: " + ("the baseline" if name == experiment["baseline"] else changes))
    parts = [f"# {experiment['title'] or experiment['name']}", experiment["description"].strip()]
    if experiment["expected"]:
        parts.append(f"**Expected.** {experiment['expected'].strip()}")
    if experiment["reference"]:
        parts.append(f"**Source.** {experiment['reference'].strip()}")
    parts.append(
        f"**Arms.** {len(arms)} arms x {len(experiment['seeds'])} seeds ({seeds_text(experiment['seeds'])}), compared "
        f"on `{experiment['metric']}` ({'higher' if experiment['higher_is_better'] else 'lower'} is better).\n\n"
        + "\n".join(arms)
    )
    return "\n\n".join(part for part in parts if part)


def _verdicts(summary: Mapping[str, Any]) -> str:
    lines = [
        f"- **{c['arm']} against {c['baseline']}: {c['verdict']}.** {c['sentence']}" for c in summary["comparisons"]
    ]
    return "## Verdict\n\n" + "\n".join(lines)


def _warnings(summary: Mapping[str, Any]) -> str:
    if not summary["warnings"]:
        return "## Warnings\n\nNone."
    return "## Warnings\n\n" + "\n".join(f"- {sentence}" for sentence in summary["warnings"])


def _comparison_table(summary: Mapping[str, Any]) -> str:
    metric = summary["experiment"]["metric"]
    rows = []
    for c in summary["comparisons"]:
        interval = "–" if c["interval"] is None else f"{c['interval'][0]:+.4f} to {c['interval'][1]:+.4f}"
        rows.append(
            (
                f"{c['arm']} - {c['baseline']}",
                len(c["seeds"]),
                "–" if c["mean"] is None else f"{c['mean']:+.4f}",
                number(c["sd"], 3),
                interval,
                number(c["sign_flip_p"], 3),
                number(c["sign_flip_p_holm"], 3),
                number(c["wilcoxon_p"], 3),
                number(c["smallest_p"], 3),
                number(c["effect_size"], 3),
                number(c["seeds_for_power"]),
            )
        )
    header = (
        "difference",
        "seeds",
        "mean",
        "sd",
        "95 % interval",
        "p",
        "p (Holm)",
        "p (Wilcoxon)",
        "smallest p",
        "d_z",
    )
    return f"## Paired differences of `{metric}`\n\n" + table((*header, "seeds for 80 %"), rows)


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"![{caption}](figures/{name}.png)\n\n*{caption}*" for name, caption in figures)


def _metrics_table(summary: Mapping[str, Any]) -> str:
    arms = summary["arms"]
    rows = []
    for part in ("test", "val"):
        for name in METRIC_ROWS:
            cells = [arm["metrics"][part].get(name) for arm in arms.values()]
            if any(cell is not None for cell in cells):
                rows.append(
                    (f"{part}.{name}", *("–" if cell is None else spread(cell["mean"], cell["sd"]) for cell in cells))
                )
    counts = [arm["n_parameters"] for arm in arms.values()]
    rows.append(("trainable parameters", *("–" if count is None else number(count["trainable"]) for count in counts)))
    return "## Metrics, mean ± standard deviation over seeds\n\n" + table(("metric", *arms), rows)


def _per_seed_table(summary: Mapping[str, Any]) -> str:
    experiment, arms = summary["experiment"], summary["arms"]
    differences = {c["arm"]: dict(zip(c["seeds"], c["differences"], strict=True)) for c in summary["comparisons"]}
    rows = []
    for seed in experiment["seeds"]:
        values = [arm["values"].get(seed) for arm in arms.values()]
        cells = [
            "failed" if seed in arm["failed"] else number(v, 6) for arm, v in zip(arms.values(), values, strict=True)
        ]
        deltas = [f"{d[seed]:+.4f}" if seed in d else "–" for d in differences.values()]
        rows.append((seed, *cells, *deltas))
    header = ("seed", *arms, *(f"{arm} - {experiment['baseline']}" for arm in differences))
    return f"## `{experiment['metric']}` by seed\n\n" + table(header, rows)


def _learning_table(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, arm in summary["arms"].items():
        for group, entry in arm["learning"].items():
            columns = ("first_grad_norm", "last_grad_norm", "first_distance", "last_distance")
            rows.append((name, group, *(number(entry.get(column), 3) for column in columns)))
    if not rows:
        return ""
    header = ("arm", "parameters", "first gradient norm", "last", "first distance moved", "last")
    text = (
        "## Is everything learning?\n\nGradient norm (before clipping) and distance from the initial values, at the "
        "first and the last evaluation, means over seeds. A zero is a part that does not learn.\n\n"
    )
    return text + table(header, rows)


def _pairing(summary: Mapping[str, Any]) -> str:
    pairing = summary["pairing"]
    lines = [
        f"Checked by digest on {pairing['n_seeds']} seeds. Equal in all arms: "
        f"{', '.join(pairing['equal']) or 'nothing'}; initial values of {len(pairing['shared_parameters'])} shared "
        f"parameters: {', '.join(pairing['shared_parameters']) or 'none'}."
    ]
    for d in pairing["differences"]:
        first, second = d["arms"]
        lines.append(f"- {d['what']} differs between {first} and {second}, as {', '.join(d['options'])} differs.")
    return "## Pairing\n\n" + "\n".join([lines[0], *([""] if len(lines) > 1 else []), *lines[1:]])


def _in_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _foundations(summary: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    shared: dict[str, list[str]] = {}
    for arm, record in summary["data"].items():
        shared.setdefault(record["digest"], []).append(arm)
    rows = []
    for arms in shared.values():
        record = summary["data"][arms[0]]
        origin = record.get("maps") or record.get("file", "")
        who = "all arms" if len(shared) == 1 else ", ".join(arms)
        rows.append((who, origin, record["n_examples"], record["n_features"], record["digest"]))
    data = table(("data of", "from", "examples", "features", "digest"), rows)
    engines = []
    for arm, record in summary["arms"].items():
        info = "; ".join(
            f"{name.replace('_', ' ')}: {_in_words(value)}"
            for name, value in (record["engine"] or {}).items()
            if value not in (None, "")
        )
        spent = seconds[arm]["sum"]
        times = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items() if name != "steps")
        engines.append(f"- **{arm}**: {info or 'no circuit'}. Sum over runs: {times or 'nothing'}.")
    versions = "; ".join(", ".join(f"{name} {value}" for name, value in table.items()) for table in summary["versions"])
    hosts = "; ".join(f"{host.get('cpu', '?')} ({host.get('cpus', '?')} CPUs)" for host in summary["hosts"])
    revisions = ", ".join(str(revision or "none") for revision in summary["git_revisions"])
    return "\n\n".join(
        (
            "## What this rests on",
            data,
            "\n".join(engines),
            f"Experiment {summary['experiment']['digest']}. Revision {revisions}. {versions}. Machine: {hosts}.",
        )
    )


def _reading(summary: Mapping[str, Any]) -> str:
    n = max((c["n_comparisons"] for c in summary["comparisons"]), default=1)
    holm = (
        f"As {n} arms are compared, the verdict uses Holm's adjustment of it over {n} comparisons. "
        if n > 1
        else "With a single comparison Holm's adjustment changes nothing. "
    )
    return (
        "## How to read this\n\n"
        "Runs of one seed are paired: difference = arm - baseline, seed by seed. **p** is the exact two-sided "
        "sign-flip permutation test, which assumes only that a difference is as likely as its negative where the arms "
        f"do not differ; the smallest p that n seeds can reach is 2^(1-n). {holm}The verdict says better or worse "
        f"where p is at most {ALPHA}. **95 % interval**: BCa bootstrap of the mean difference (10,000 resamples); with "
        "few seeds it is too narrow, and p counts. **Wilcoxon**: signed-rank test, zero differences dropped. **d_z**: "
        "mean / sd of the differences. **Seeds for 80 %**: seeds at which a paired t test at 5 % shows the observed "
        "d_z four times out of five; it is as uncertain as d_z itself. All seeds draw on one data set: what is shown "
        "holds for it, split and initialised anew, and other data may say otherwise. The test split was read once a "
        "run; validation chose the checkpoint and the thresholds. Each run's own record is in "
        "`runs/ARM/seed-S.json`, all numbers of this page in `summary.json`, durations in `timings.json`."
    )
