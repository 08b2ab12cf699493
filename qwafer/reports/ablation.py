"""`report.md`: what was asked, what came out, how sure one can be, and what it rests on; text, tables and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._io import write_text
from qwafer.comparison.metrics import METRICS, SCORED_PARTS
from qwafer.comparison.statistics import ALPHA
from qwafer.comparison.summary import Summary, SweepTimings, distinct
from qwafer.reports.circuits import circuit_blocks
from qwafer.reports.document import Block, Heading, Images, Items, Paragraph, Table, to_markdown, with_contents
from qwafer.reports.figures.ablation import write_figures
from qwafer.reports.format import MISSING, format_difference, format_interval, format_number, format_p, format_spread
from qwafer.reports.texts import merged, no_verdicts, text_blocks, verdict_line
from qwafer.sweeps.directory import seeds_text
from qwafer.training import Runs

SECONDS = ("compile", "evaluation", "total", "training")
"""The timings that the report sums."""


def write_report(
    folder: Path, summary: Summary, timings: SweepTimings, results: Runs, test_reads: Sequence[str] = ()
) -> Path:
    """Write `report.md` and `figures/` into `folder`, and return the path of the report."""
    figures = write_figures(summary, results, folder / "figures")
    path = folder / "report.md"
    blocks = report_blocks(summary, timings, figures, test_reads, circuit_blocks(results))
    write_text(path, to_markdown(blocks, folder))
    return path


def report_blocks(
    summary: Summary,
    timings: SweepTimings,
    figures: Sequence[tuple[Path, str]],
    test_reads: Sequence[str] = (),
    circuits: Sequence[Block] = (),
) -> list[Block]:
    """Return the report; `figures` are (file, caption), `test_reads` who has read the test split, in sentences,
    `circuits` what `circuit_blocks` gives.
    """
    blocks = [
        *_head(summary),
        *_verdicts(summary),
        *map(Paragraph, test_reads),
        *_comparison_table(summary),
        *([Images(figures)] if figures else []),
        *_metrics_table(summary),
        *_per_seed_table(summary),
        *_learning_table(summary),
        *circuits,
        *_pairing(summary),
        *_foundations(summary, timings),
        *_reading(summary),
    ]
    return with_contents(blocks)


def _head(summary: Summary) -> list[Block]:
    experiment = summary.experiment
    added = {arm: f" (added {addition.date})" for addition in experiment.additions for arm in addition.arms}
    arms = []
    for name, arm in summary.arms.items():
        changes = ", ".join(
            f"`{option}` = {'none' if value is None else value}" for option, value in arm.changes.items()
        )
        arms.append(f"**{name}**{added.get(name, '')}: " + ("the baseline" if name == experiment.baseline else changes))
    texts = (
        experiment.reference and f"**Source.** {experiment.reference.strip()}",
        f"**Arms.** {len(arms)} arms x {len(experiment.seeds)} seeds ({seeds_text(experiment.seeds)}), compared "
        f"on `{experiment.metric}` ({'higher' if experiment.higher_is_better else 'lower'} is better).",
    )
    heading = Heading(experiment.title or experiment.name, 1)
    return [
        heading,
        Paragraph(_summary(summary)),
        *text_blocks(summary),
        *(Paragraph(text) for text in texts if text),
        Items(arms),
    ]


def _summary(summary: Summary) -> str:
    experiment, base = summary.experiment, summary.arms[summary.experiment.baseline]
    values = [value for value in base.values.values() if value is not None]
    at = f"the baseline {experiment.baseline} ({format_spread(base.mean, base.sd)} over {len(values)} seeds)"
    n = len(merged(summary.warnings, summary.arms))
    warned = f" **{n} warning{'s' if n > 1 else ''}** below." if n else ""
    said = f" {verdict_line(summary.comparisons)}." if summary.comparisons else ""
    return f"**Summary.** `{experiment.metric}` against {at}:{said}{warned}"


def _verdicts(summary: Summary) -> list[Block]:
    rows = [
        (
            c.arm,
            format_difference(c.mean),
            MISSING if c.interval is None else format_interval(*c.interval),
            MISSING if c.level is None else f"{100 * c.level:.3g}%",
            format_p(c.p_holm),
            c.verdict,
        )
        for c in summary.comparisons
    ]
    header = ("arm", f"difference from {summary.experiment.baseline}", "interval", "level", "p (Holm)", "verdict")
    reasons = no_verdicts(summary.comparisons)
    about = f"{summary.design.about}; {summary.design.limits}."
    warnings = Items(merged(summary.warnings, summary.arms)) if summary.warnings else Paragraph("None.")
    return [
        Heading("Verdict"),
        Table(header, rows),
        *([Items(reasons)] if reasons else []),
        Paragraph(about),
        Heading("Warnings"),
        warnings,
    ]


def _comparison_table(summary: Summary) -> list[Block]:
    flips = any(c.sign_flip_p is not None for c in summary.comparisons)
    header = (
        *("difference", "seeds", "mean", "sd", "p", "pseudomedian"),
        *(("p (sign flips)",) if flips else ()),
        "over test examples, 95%",
    )
    rows = []
    for c in summary.comparisons:
        examples = summary.examples.get(c.arm)
        rows.append(
            (
                f"{c.arm} - {c.baseline}",
                len(c.seeds),
                format_difference(c.mean),
                format_number(c.sd, 3),
                format_p(c.p),
                format_difference(c.pseudomedian),
                *((format_p(c.sign_flip_p),) if flips else ()),
                MISSING if examples is None else format_interval(examples.low, examples.high),
            )
        )
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
    if any(count and count.bits for count in counts):
        rows.append(("stored bits", *(format_number(count and count.bits) for count in counts)))
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
        lanes = [spent.lanes for spent in timings.arms[name].runs.values()]
        engines.append(f"**{name}**: {info or 'no circuit'}. Sum over runs: {times}.{lanes_sentence(lanes)}")
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
    design, margin = summary.design, summary.experiment.margin
    n = max((c.n_comparisons for c in summary.comparisons), default=1)
    holm = (
        f"As {n} arms are compared, the verdict uses Holm's adjustment of p over {n} comparisons, and each interval "
        "has the level of its step, so that it excludes zero exactly where the verdict does. "
        if n > 1
        else "With a single comparison Holm's adjustment changes nothing. "
    )
    folds = (
        ""
        if design.kind != "given folds"
        else "n counts folds: the differences of the seeds of a fold are averaged first; "
    )
    overlap = (
        f"rho = {design.overlap:.3g} allows for seeds that draw their training and test {design.unit} from one set "
        "(corrected resampled test after Nadeau and Bengio 2003)"
        if design.overlap
        else "rho = 0, as all seeds share one split"
    )
    flips = (
        ""
        if design.overlap  # it takes the differences for independent
        else "**Sign flips**: exact test of symmetry, which does not decide. "
    )
    units = {found.unit for found in summary.examples.values()}
    examples = (
        f"**Over test examples**: 95% jackknife interval over test {' or '.join(sorted(units))}, the trained heads "
        "held fixed; where it holds 0, other test maps may say otherwise. "
        if units
        else ""
    )
    detectable = (
        f"So many seeds show a difference of {summary.detectable:.2g} sd four times out of five; "
        "`python -m qwafer.plan` says what another effect takes. "
        if summary.detectable is not None
        else ""
    )
    text = (
        "Runs of one seed are paired: difference = arm - baseline, seed by seed. **p**: t test of the mean difference, "
        f"t = mean / (sd sqrt(1/n + rho)) with n - 1 degrees of freedom; {folds}{overlap}. {holm}"
        f"**Verdict**: equivalent where the interval lies within the margin of {margin:g}; "
        f"else better or worse where p is at most {ALPHA}; "
        "else undecided, which is not equal. There is no verdict from fewer than six seeds, from runs that had not "
        "converged, or where single runs collapsed. **Pseudomedian**: Hodges-Lehmann location, which single runs do "
        "not move. "
        f"{flips}{examples}{detectable}The test split was read "
        "once per run; validation chose the checkpoint and the thresholds. Each run's own record is in "
        "`runs/ARM/seed-S.json`, all numbers of this page in `summary.json`, durations in `timings.json`; "
        "docs/statistics.md has the formulas and how often they err."
    )
    return [Heading("How to read this"), Paragraph(text)]


def lanes_sentence(lanes: Sequence[int]) -> str:
    """Return the sentence on how many runs of an arm trained side by side, from the lanes of each; empty for none."""
    together = [n for n in lanes if n > 1]
    if not together:
        return ""
    said = f" {max(together)} seeds were trained side by side in one program"
    if len(together) == len(lanes):
        return f"{said}."
    return f"{said}, in {len(together)} of {len(lanes)} runs; the others were trained alone."
