"""The report of a monitored line: Markdown, figures, and the record."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from qwafer._io import write_text
from qwafer._records import save_record
from qwafer.reports.document import Block, Heading, Images, Items, Paragraph, Table, to_markdown
from qwafer.reports.figures import draw
from qwafer.reports.figures.drift import distributions_figure, null_figure, shares_figure
from qwafer.serving.drift import Monitoring, psi_null
from qwafer.serving.evidence import Evidence
from qwafer.serving.store import Window


def write_monitoring(found: Monitoring, window: Window, evidence: Evidence, folder: str | Path) -> Path:
    """Write `monitoring.json`, `report.md` and figures into `folder`; return the path of the report."""
    folder = Path(folder)
    save_record(folder / "monitoring.json", found)
    own = window.take(window.versions == found.version)
    figures = [draw(shares_figure(found.shares), folder / "figures" / "shares", "Predictions now and on validation.")]
    if found.tests:
        first, reference = found.tests[0], evidence.reference
        counts = [
            np.array([pair[k] for pair in found.shares.values()]) * n for k, n in ((0, found.n), (1, reference.n))
        ]
        null = psi_null(counts[0], counts[1], (found.n / first.n_effective, reference.design_effect))
        figures.append(
            draw(null_figure(null, first.value), folder / "figures" / "null", "PSI where nothing has moved, and here.")
        )
        pairs = {
            "confidence": (own.confidence.tolist(), reference.confidence),
            "distance": (own.distance.tolist(), reference.distance),
        }
        caption = "Confidence, and distance from the training features, now and on validation."
        figures.append(draw(distributions_figure(pairs), folder / "figures" / "distributions", caption))
    path = folder / "report.md"
    write_text(path, to_markdown([*_blocks(found), Heading("Figures"), Images(figures)], folder))
    return path


def _blocks(found: Monitoring) -> list[Block]:
    begin, end = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (found.since, found.until))
    lots = f"{found.n_lots} lots" if found.n_lots else "no lots named: wafers are taken for independent"
    blocks: list[Block] = [
        Heading(f"Version {found.version} on the line", 1),
        Paragraph(f"{found.n} answers from {begin} to {end} UTC ({lots})."),
        Heading("Alerts"),
        Items([f"**{alert.severity}**: {alert.sentence}" for alert in found.alerts])
        if found.alerts
        else Paragraph("None."),
        Heading("Against validation"),
    ]
    if found.tests:
        rows = [
            (t.name, f"{t.value:.3f}", f"{t.by_chance:.3f}", f"{t.p_holm:.2g}", f"{t.n_effective:.0f}")
            for t in found.tests
        ]
        blocks.append(Table(("statistic", "value", "by chance up to", "p (Holm)", "independent wafers"), rows))
    else:
        blocks.append(Paragraph("Too few answers for a test of drift."))
    reviewed = found.accuracy
    estimate = "unknown" if np.isnan(reviewed.estimate) else f"{reviewed.estimate:.4f}"
    numbers = [
        ("flagged for review", f"{found.flagged:.1%}"),
        ("latency p50 / p90 / p99 (ms)", " / ".join(f"{value:.1f}" for value in found.latency.values())),
        (f"accuracy, from {reviewed.n_reviews} reviews", f"{estimate} [{reviewed.low:.4f}, {reviewed.high:.4f}]"),
        *((f"F1 of {n}", f"{value:.4f} [{low:.4f}, {high:.4f}]") for n, (value, low, high) in found.class_f1.items()),
    ]
    return [*blocks, Heading("Numbers"), Table(("what", "value"), numbers)]
