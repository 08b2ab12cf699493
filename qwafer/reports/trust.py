"""The trust table on disk: report.md for people, report.json for programs, figures."""

from collections.abc import Sequence
from pathlib import Path

from qwafer._io import write_text
from qwafer._records import save_record
from qwafer.probes.report import Report
from qwafer.probes.trust import TrustSubject, TrustTable
from qwafer.reports.document import Block, Code, Heading, Images, Paragraph, Table, to_markdown
from qwafer.reports.figures import Drawn
from qwafer.reports.figures.probes import draw_reports
from qwafer.reports.format import MISSING, format_difference, format_interval, format_number

MARKS = {"pass": "pass", "warn": "**warn**", "fail": "**FAIL**", "skip": "skip"}


def write_documents(table: TrustTable, directory: str | Path, drawing: str = "") -> Path:
    """Write report.json, figures and report.md into `directory`, each atomically; return the path of report.md.

    `drawing` is that of the circuit that was probed, where it is one.
    """
    directory = Path(directory)
    save_record(directory / "report.json", table)
    figures = draw_reports(table.reports, directory / "figures")
    path = directory / "report.md"
    blocks = document_blocks(table, figures)
    drawn: list[Block] = [Heading("Circuit"), Code(drawing)] if drawing else []
    write_text(path, to_markdown([*blocks[:2], *drawn, *blocks[2:]], directory))
    return path


def document_blocks(table: TrustTable, figures: Sequence[Drawn] = ()) -> list[Block]:
    """Return the whole report."""
    counts = ", ".join(f"{n} {verdict}" for verdict, n in table.counts().items() if n)
    blocks: list[Block] = [Heading("Trust table", 1), Paragraph(f"Verdict: {MARKS[table.verdict]} ({counts}).")]
    if table.subject is not None:
        blocks.append(_subject(table.subject))
    for section in table.sections:
        rows = [(report.name, MARKS[report.verdict], report.headline) for report in section.reports]
        blocks += [
            Heading(section.title.capitalize()),
            Table(("probe", "verdict", "the line that matters"), rows, text_columns=3),
            *(nulls_table(report) for report in section.reports if report.name == "nulls"),
        ]
    blocks.append(Heading("What each line means"))
    for report in table.reports:
        blocks += [Heading(f"{report.name}: {report.verdict}", 3), _explanation(report)]
    if figures:
        blocks += [Heading("Figures"), Images(figures)]
    return blocks


def nulls_table(report: Report) -> Table:
    """Return the table of a report on nulls: how far each null is from the head, and the verdict."""
    rows = []
    for arm, mean, interval, p, verdict in report.numbers.get("comparisons", []):
        ends = MISSING if interval is None else format_interval(*interval)
        rows.append((arm, format_difference(mean), ends, format_number(p, 3), verdict))
    return Table(("null", "null - head", "interval", "p (Holm)", "verdict"), rows)


def _subject(subject: TrustSubject) -> Paragraph:
    counts = ", ".join(
        f"{arm} {format_number(count.trainable)} ({format_number(count.effective)})"
        for arm, count in subject.parameters.items()
    )
    parameters = f"Trainable parameters (effective ones): {counts}. " if counts else ""
    engines = sorted({str(info.get("engine", "none")) for info in subject.engine.values()})
    return Paragraph(
        f"Arms: {', '.join(subject.arms)} (baseline {subject.baseline}). Engine: {', '.join(engines)}. "
        f"Seed {subject.seed}. {subject.n_examples} examples, {subject.n_features} features, labels "
        f"{', '.join(subject.labels)}. {parameters}{'Thorough' if subject.thorough else 'Quick'}."
    )


def _explanation(report: Report) -> Paragraph:
    """Return a paragraph on a report; what to do is said where there is something to do."""
    lines = [f"{report.question} {report.headline}."]
    if report.tolerance:
        lines.append(f"Tolerance: {report.tolerance}.")
    if report.meaning and report.verdict != "skip":
        lines.append(report.meaning)
    if report.remedy and report.verdict in ("warn", "fail"):
        lines.append(f"What to do: {report.remedy}")
    return Paragraph("\n".join(lines))
