"""The trust table on disk: report.md for people, report.json for programs, figures."""

from pathlib import Path
from typing import Any

from qwafer._io import write_json, write_text
from qwafer.probes.report import Report
from qwafer.probes.scores.nulls import table_text
from qwafer.probes.trust import TrustTable
from qwafer.reports.figures.probes import write_figures

MARKS = {"pass": "pass", "warn": "**warn**", "fail": "**FAIL**", "skip": "skip"}


def write_documents(table: TrustTable, directory: str | Path) -> Path:
    """Write report.json, figures and report.md into `directory`, each atomically; return the path of report.md."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "report.json", table.to_dict())
    figures = write_figures(list(table.reports), directory / "figures")
    path = directory / "report.md"
    write_text(path, document_text(table, figures))
    return path


def document_text(table: TrustTable, figures: list[tuple[str, str]]) -> str:
    """Return the whole report as Markdown."""
    subject = table.subject
    counts = ", ".join(f"{n} {verdict}" for verdict, n in table.counts().items() if n)
    lines = ["# Trust table", "", f"Verdict: {MARKS[table.verdict]} ({counts}).", ""]
    if subject:
        lines += _subject_lines(subject)
    for section in table.sections:
        lines += [
            f"## {section.title.capitalize()}",
            "",
            "| probe | verdict | the line that matters |",
            "|---|---|---|",
        ]
        lines += [f"| {r.name} | {MARKS[r.verdict]} | {_cell(r.headline)} |" for r in section.reports]
        lines.append("")
        for report in section.reports:
            if report.name == "nulls":
                lines += [table_text(report), ""]
    lines += ["## What each line means", ""]
    for report in table.reports:
        lines += _explanation(report)
    if figures:
        lines += ["## Figures", ""]
        for file, caption in figures:
            lines += [f"![{caption}]({file})", "", caption, ""]
    return "\n".join(lines).rstrip() + "\n"


def _subject_lines(subject: Any) -> list[str]:
    arms = ", ".join(subject["arms"])
    engines = sorted({str(info.get("engine", "none")) for info in subject["engine"].values()})
    return [
        f"Arms: {arms} (baseline {subject['baseline']}). Engine: {', '.join(engines)}. Seed {subject['seed']}. "
        f"{subject['n_examples']} examples, {subject['n_features']} features, labels {', '.join(subject['labels'])}. "
        f"{'Thorough' if subject['thorough'] else 'Quick'}.",
        "",
    ]


def _explanation(report: Report) -> list[str]:
    """Return a paragraph on a report; what to do is said where there is something to do."""
    lines = [f"### {report.name}: {report.verdict}", "", f"{report.question} {report.headline}."]
    if report.tolerance:
        lines.append(f"Tolerance: {report.tolerance}.")
    if report.meaning and report.verdict != "skip":
        lines.append(report.meaning)
    if report.remedy and report.verdict in ("warn", "fail"):
        lines.append(f"What to do: {report.remedy}")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
