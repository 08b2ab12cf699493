"""`report.md`: what was asked, what came out, how sure one can be, and what it rests on; text, tables and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._io import write_text
from qwafer.comparison.metrics import METRICS, SCORED_PARTS
from qwafer.comparison.statistics import ALPHA
from qwafer.comparison.summary import Summary, SweepTimings, distinct
from qwafer.reports.document import Block, Heading, Images, Items, Paragraph, Table, to_markdown
from qwafer.reports.figures.ablation import write_figures
from qwafer.reports.format import MISSING, format_difference, format_interval, format_number, format_spread
from qwafer.sweeps.directory import seeds_text
from qwafer.training import Runs

SECONDS = ("compile", "evaluation", "total", "training")
"""The timings that the report sums."""


def write_report(folder: Path, summary: Summary, timings: SweepTimings, results: Runs) -> Path:
    """Write `report.md` and `figures/` into `folder`, and return the path of the report."""
    figures = write_figures(summary, results, folder / "figures")
    path = folder / "report.md"
    write_text(path, to_markdown(report_blocks(summary, timings, figures), folder))
    return path


def report_blocks(summary: Summary, timings: SweepTimings, figures: Sequence[tuple[Path, str]]) -> list[Block]:
    """Return the report; `figures` are (file, caption)."""
    return [
        *_head(summary),
        *_verdicts(summary),
        *_comparison_table(summary),
        *([Images(figures)] if figures else []),
        *_metrics_table(summary),
        *_per_seed_table(summary),
        *_learning_table(summary),
        *_pairing(summary),
        *_foundations(summary, timings),
        *_reading(summary),
    ]


def _head(summary: Summary) -> list[Block]:
    experiment = summary.experiment
    arms = []
    for name, arm in summary.arms.items():
        changes = ", ".join(
            f"`{option}` = {'none' if value is None else value}" for option, value in arm.changes.items()
        )
        arms.append(f"**{name}**: " + ("the baseline" if name == experiment.baseline else changes))
    texts = (
        experiment.description.strip(),
        experiment.expected and f"**Expected.** {experiment.expected.strip()}",
        experiment.reference and f"**Source.** {experiment.reference.strip()}",
        f"**Arms.** {len(arms)} arms x {len(experiment.seeds)} seeds ({seeds_text(experiment.seeds)}), compared "
        f"on `{experiment.metric}` ({'higher' if experiment.higher_is_better else 'lower'} is better).",
    )
    heading = Heading(experiment.title or experiment.name, 1)
    return [heading, *(Paragraph(text) for text in texts if text), Items(arms)]


def _verdicts(summary: Summary) -> list[Block]:
    verdicts = [f"**{c.arm} against {c.baseline}: {c.verdict}.** {c.sentence}" for c in summary.comparisons]
    warnings = Items(summary.warnings) if summary.warnings else Paragraph("None.")
    return [Heading("Verdict"), Items(verdicts), Heading("Warnings"), warnings]


def _comparison_table(summary: Summary) -> list[Block]:
    header = (
        *("difference", "seeds", "mean", "sd", "95% interval", "p", "p (Holm)", "p (Wilcoxon)", "smallest p", "d_z"),
        "seeds for 80%",
    )
    rows = [
        (
            f"{c.arm} - {c.baseline}",
            len(c.seeds),
            format_difference(c.mean),
            format_number(c.sd, 3),
            MISSING if c.interval is None else format_interval(*c.interval),
            format_number(c.sign_flip_p, 3),
            format_number(c.sign_flip_p_holm, 3),
            format_number(c.wilcoxon_p, 3),
            format_number(c.smallest_p, 3),
            format_number(c.effect_size, 3),
            format_number(c.seeds_for_power),
        )
        for c in summary.comparisons
    ]
    return [Heading(f"Paired differences of `{summary.experiment.metric}`"), Table(header, rows)]


def _metrics_table(summary: Summary) -> list[Block]:
    arms = summary.arms.values()
    rows: list[Sequence[object]] = []
    for name in (f"{part}.{metric.name}" for part in SCORED_PARTS for metric in METRICS.values() if metric.reported):
        found = [arm.metrics.get(name) for arm in arms]
        if any(found):
            rows.append((name, *(MISSING if cell is None else format_spread(cell.mean, cell.sd) for cell in found)))
    counts = [arm.n_parameters for arm in arms]
    rows.append(("trainable parameters", *(format_number(count and count.trainable) for count in counts)))
    rows.append(("effective parameters", *(format_number(count and count.effective) for count in counts)))
    heading = Heading("Metrics, mean ± standard deviation over seeds")
    return [heading, Table(("metric", *summary.arms), rows)]


def _per_seed_table(summary: Summary) -> list[Block]:
    experiment, arms = summary.experiment, summary.arms
    differences = {c.arm: dict(zip(c.seeds, c.differences, strict=True)) for c in summary.comparisons}
    rows = []
    for seed in experiment.seeds:
        cells = ["failed" if seed in arm.failed else format_number(arm.values.get(seed), 6) for arm in arms.values()]
        rows.append((seed, *cells, *(format_difference(found.get(seed)) for found in differences.values())))
    header = ("seed", *arms, *(f"{arm} - {experiment.baseline}" for arm in differences))
    return [Heading(f"`{experiment.metric}` by seed"), Table(header, rows)]


def _learning_table(summary: Summary) -> list[Block]:
    rows = [
        (
            name,
            group,
            format_number(found.first_grad_norm, 3),
            format_number(found.last_grad_norm, 3),
            format_number(found.first_distance, 3),
            format_number(found.last_distance, 3),
        )
        for name, arm in summary.arms.items()
        for group, found in arm.learning.items()
    ]
    if not rows:
        return []
    header = ("arm", "parameters", "first gradient norm", "last", "first distance moved", "last")
    text = (
        "Gradient norm (before clipping) and distance from the initial values, at the first and the last evaluation, "
        "means over seeds. A zero is a part that does not learn."
    )
    return [Heading("Is everything learning?"), Paragraph(text), Table(header, rows)]


def _pairing(summary: Summary) -> list[Block]:
    pairing = summary.pairing
    text = (
        f"Checked by digest on {pairing.n_seeds} seeds. Equal in all arms: {', '.join(pairing.equal) or 'nothing'}; "
        f"initial values of {len(pairing.shared_parameters)} shared parameters: "
        f"{', '.join(pairing.shared_parameters) or 'none'}."
    )
    differences = [
        f"{d.what} differs between {d.arms[0]} and {d.arms[1]}, as {', '.join(d.options)} differs."
        for d in pairing.differences
    ]
    return [Heading("Pairing"), Paragraph(text), *([Items(differences)] if differences else [])]


def _in_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _foundations(summary: Summary, timings: SweepTimings) -> list[Block]:
    shared: dict[str | None, list[str]] = {}
    for name, record in summary.data.items():
        shared.setdefault(record.digest, []).append(name)
    rows = [
        (
            "all arms" if len(shared) == 1 else ", ".join(arms),
            record.maps or record.file,
            record.n_examples,
            record.n_features,
            record.digest,
        )
        for record, arms in ((summary.data[arms[0]], arms) for arms in shared.values())
    ]
    engines = []
    for name, arm in summary.arms.items():
        info = "; ".join(
            f"{entry.replace('_', ' ')}: {_in_words(value)}"
            for entry, value in (arm.engine or {}).items()
            if value not in (None, "")
        )
        spent = timings.arms[name].sum
        times = ", ".join(f"{what} {getattr(spent, what):.1f} s" for what in SECONDS) if arm.complete else "nothing"
        engines.append(f"**{name}**: {info or 'no circuit'}. Sum over runs: {times}.")
    made = summary.environments
    versions = distinct(", ".join(f"{name} {value}" for name, value in each.versions.items()) for each in made)
    hosts = distinct(f"{each.host.cpu} ({each.host.cpus} CPUs)" for each in made)
    revisions = distinct(each.git_revision or "none" for each in made)
    return [
        Heading("What this rests on"),
        Table(("data of", "from", "examples", "features", "digest"), rows),
        Items(engines),
        Paragraph(
            f"Experiment {summary.experiment.digest}. Revision {', '.join(revisions)}. {'; '.join(versions)}. "
            f"Machine: {'; '.join(hosts)}."
        ),
    ]


def _reading(summary: Summary) -> list[Block]:
    n = max((c.n_comparisons for c in summary.comparisons), default=1)
    holm = (
        f"As {n} arms are compared, the verdict uses Holm's adjustment of it over {n} comparisons. "
        if n > 1
        else "With a single comparison Holm's adjustment changes nothing. "
    )
    text = (
        "Runs of one seed are paired: difference = arm - baseline, seed by seed. **p** is the exact two-sided "
        "sign-flip permutation test, which assumes only that a difference is as likely as its negative where the arms "
        f"do not differ; the smallest p that n seeds can reach is 2^(1-n). {holm}The verdict says better or worse "
        f"where p is at most {ALPHA}. **95% interval**: BCa bootstrap of the mean difference (10,000 resamples); with "
        "few seeds it is too narrow, and p counts. **Wilcoxon**: signed-rank test, zero differences dropped. **d_z**: "
        "mean / sd of the differences. **Seeds for 80%**: seeds at which a paired t test at 5% shows the observed "
        "d_z four times out of five; it is as uncertain as d_z itself. All seeds draw on one data set: what is shown "
        "holds for it, split and initialised anew, and other data may say otherwise. The test split was read once per "
        "run; validation chose the checkpoint and the thresholds. Each run's own record is in "
        "`runs/ARM/seed-S.json`, all numbers of this page in `summary.json`, durations in `timings.json`."
    )
    return [Heading("How to read this"), Paragraph(text)]
