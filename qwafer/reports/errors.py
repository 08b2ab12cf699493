"""The report on the errors of a predictor: Markdown, figures, and the record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qwafer._io import write_text
from qwafer._records import save_record
from qwafer.evaluation.errors import ErrorAnalysis, Rate, decisions_of
from qwafer.evaluation.label_errors import LabelErrors
from qwafer.reports.document import Block, Heading, Images, Paragraph, Table, to_markdown
from qwafer.reports.figures import Drawn, draw
from qwafer.reports.figures.errors import doubted_maps, error_overview
from qwafer.reports.format import MISSING, format_estimate, format_number

LISTED = 20
"""Rows of a table of pairs or of suspects; errors.json holds all."""


@dataclass(frozen=True)
class Conflicts:
    """Maps that are equal, die by die, to another one with other labels: one of the two labels is wrong, or both mean
    the same.
    """

    n: int
    """Such maps among those that were looked at."""
    n_flagged: int
    """Those of them whose label is flagged."""


@dataclass(frozen=True)
class ErrorReport:
    """What a predictor gets wrong on one part of the split of its run."""

    SCHEMA: ClassVar[str] = "qwafer/errors/1"

    predictor: str
    """The arm or head and the seed of a run, or the name of a model's file."""
    file_sha256: str
    """Of the file of the run, or of the model."""
    part: str
    """`validation` or `test`."""
    data: dict[str, str]
    """`source` and `sha256` of the maps."""
    n_train: int
    """Maps of the training split, which are left out."""
    n_copies: int | None
    """Maps of the part that are left out because training has the same map; None where nobody can tell."""
    analysis: ErrorAnalysis
    """The errors."""
    label_errors: LabelErrors | None
    """Labels that are likely wrong; None where they were not looked for."""
    no_label_errors: str
    """Why not; empty where they were."""
    conflicts: Conflicts
    """Maps of which the labels contradict each other."""
    test_reads: tuple[str, ...]
    """Who has read the test split, where this looks at it."""


def write_errors(
    report: ErrorReport,
    logits: NDArray[np.floating],
    labels: NDArray[np.uint8],
    maps: Sequence[NDArray[np.uint8]],
    folder: str | Path,
    worst: int = 10,
) -> Path:
    """Write `errors.json`, `report.md` and figures into `folder`, each atomically; return the path of the report.

    `logits`, `labels` (N, K) and `maps` are those that the report is about; `worst` of them are drawn in each figure of
    maps.
    """
    folder = Path(folder)
    save_record(folder / "errors.json", report)
    path = folder / "report.md"
    figures = _draw(report, logits, labels, maps, folder / "figures", worst)
    write_text(path, to_markdown(_blocks(report, figures), folder))
    return path


def error_lines(report: ErrorReport) -> list[str]:
    """Return the findings in a few lines."""
    found = report.analysis
    lines = [
        f"{report.predictor} on {report.part}: {found.errors.hits:,} of {found.errors.n:,} maps wrong, "
        f"{_share(found.errors)}",
        f"wrong with a confidence above {found.options.confident:g}: {found.confident.hits:,} maps, "
        f"{_share(found.confident)}; mean confidence {format_number(found.confidence.right)} where right, "
        f"{format_number(found.confidence.wrong)} where wrong",
    ]
    if found.confusions:
        first = found.confusions[0]
        what = f"{first.true} taken for {first.predicted}" if first.true and first.predicted else ""
        what = what or (f"{first.true} missed" if first.true else f"{first.predicted} invented")
        lines.append(f"most frequent: {what}, {first.n:,} maps")
    if report.label_errors is None:
        lines.append(f"likely label errors were not looked for: {report.no_label_errors}")
    else:
        lines.append(
            f"labels that are likely wrong (suggestions, to be looked at): {len(report.label_errors.suspects):,}"
        )
    return lines


def _draw(
    report: ErrorReport,
    logits: NDArray[np.floating],
    labels: NDArray[np.uint8],
    maps: Sequence[NDArray[np.uint8]],
    folder: Path,
    worst: int,
) -> dict[str, Drawn]:
    found = report.analysis
    decisions = decisions_of(logits, labels, thresholds=found.thresholds or None, exclusive=found.exclusive)
    of = f"{report.predictor}, {report.part}"
    drawn = {
        "overview": draw(
            error_overview(found, decisions),
            folder / "overview",
            f"The most frequent confusions, the error rate by defect density with exact {found.options.level:.0%} "
            f"intervals, and the confidence of right and wrong decisions: {of}.",
        )
    }
    if found.wrong:
        rows = [wrong.row for wrong in found.wrong[:worst]]
        figure = doubted_maps(
            [maps[row] for row in rows],
            [(wrong.true, wrong.predicted) for wrong in found.wrong[:worst]],
            decisions.probabilities[rows],
            found.label_names,
            ("true", "predicted"),
        )
        caption = f"The maps predicted worst, with the probabilities of their labels: {of}."
        drawn["worst"] = draw(figure, folder / "worst", caption)
    suspects = report.label_errors.suspects[:worst] if report.label_errors is not None else ()
    rows = [suspect.row for suspect in suspects]
    if rows and rows != [wrong.row for wrong in found.wrong[:worst]]:  # else they are drawn
        figure = doubted_maps(
            [maps[row] for row in rows],
            [(suspect.given, suspect.suggested) for suspect in suspects],
            decisions.probabilities[rows],
            found.label_names,
            ("given", "suggested"),
        )
        caption = f"The maps whose labels are most likely wrong, with the probabilities of the predictor: {of}."
        drawn["suspects"] = draw(figure, folder / "suspects", caption)
    return drawn


def _blocks(report: ErrorReport, figures: dict[str, Drawn]) -> list[Block]:
    found = report.analysis
    blocks: list[Block] = [
        Heading(f"Errors of {report.predictor} on {report.part}", 1),
        Paragraph(_about(report)),
        Heading("How much is wrong"),
        Table(("what", "maps", "of maps", "share [exact interval]"), _totals(found)),
        Paragraph(
            f"Mean confidence of a decision: {format_number(found.confidence.right)} where it is right "
            f"({found.confidence.n_right:,} decisions), {format_number(found.confidence.wrong)} where it is wrong "
            f"({found.confidence.n_wrong:,}). {_decision(found)} Intervals take maps for independent, which those of "
            "one lot may not be."
        ),
        Images([figures["overview"]]),
        Heading("What is taken for what"),
        Table(("missed", "invented", "maps", "of maps with the missed label"), _pairs(found), text_columns=2),
    ]
    if len(found.confusions) > LISTED:
        blocks.append(Paragraph(f"The {LISTED} most frequent of {len(found.confusions)}; errors.json has all."))
    if found.neighbours:
        blocks += [
            Heading("Between neighbours"),
            Table(
                ("labels", "maps", "share of the wrong maps"),
                [
                    (f"{pair.first} and {pair.second}", pair.n, _percent(pair.n, pair.n_wrong))
                    for pair in found.neighbours
                ],
            ),
        ]
    if found.density:
        rows = [(f"{part.low:.3f} to {part.high:.3f}", *_counts(part.errors)) for part in found.density]
        blocks += [
            Heading("By defect density"),
            Paragraph("Defect density is the share of failing dies among the dies of a wafer."),
            Table(("defect density", "wrong", "of maps", "error rate [exact interval]"), rows),
        ]
    blocks += [Heading("The maps predicted worst")]
    blocks.append(Images([figures["worst"]]) if "worst" in figures else Paragraph("No map is predicted wrong."))
    return [*blocks, Heading("Labels that are likely wrong"), *_label_blocks(report, figures)]


def _about(report: ErrorReport) -> str:
    """Return what was looked at, and what was not."""
    n = report.analysis.errors.n
    if report.n_copies is None:
        copies = (
            "The maps do not give the split of the run again, so that nobody can tell whether one of these maps is a "
            "copy of a training map."
        )
    elif report.n_copies:
        copies = f"So are {report.n_copies:,} maps of this part that are equal to a training map, die by die."
    else:
        copies = "No map of this part is equal to a training map, die by die."
    if report.part == "test":
        use = " ".join(("This is a read of the test split.", *report.test_reads))
    else:
        chosen = "the checkpoint" if report.analysis.exclusive else "the checkpoint and the thresholds"
        use = f"Validation chose {chosen}, so that its error rate is rather too low; the test split was not looked at."
    return (
        f"{n:,} maps of the {report.part} split of {report.data['source']}. The {report.n_train:,} maps of the "
        f"training split are left out. {copies} {use}"
    )


def _decision(found: ErrorAnalysis) -> str:
    if found.exclusive:
        return "A decision is the class of the largest logit, its confidence the probability of that class."
    return (
        "A decision is whether a label applies, by its threshold; its confidence is the probability of what is "
        "decided. A map is wrong where one of its labels is."
    )


def _totals(found: ErrorAnalysis) -> list[tuple[object, ...]]:
    wrong, confident = found.errors, found.confident
    return [
        ("wrong", *_counts(wrong)),
        (
            f"wrong with a confidence above {found.options.confident:g}",
            *_counts(confident),
        ),
    ]


def _pairs(found: ErrorAnalysis) -> list[tuple[object, ...]]:
    return [
        (
            _or_nothing(pair.true),
            _or_nothing(pair.predicted),
            pair.n,
            _percent(pair.n, pair.of) if pair.true else MISSING,
        )
        for pair in found.confusions[:LISTED]
    ]


def _label_blocks(report: ErrorReport, figures: dict[str, Drawn]) -> list[Block]:
    found, conflicts = report.label_errors, report.conflicts
    said = "No two of the maps are equal, die by die, and have other labels."
    if conflicts.n:
        said = f"{conflicts.n:,} of the maps are equal, die by die, to another one of this part with other labels" + (
            f"; {conflicts.n_flagged:,} of these are flagged." if found is not None else "."
        )
    if found is None:
        return [Paragraph(f"Not looked for: {report.no_label_errors}. {said}".rstrip())]
    unsaid = f" Nothing can be said of {', '.join(found.unsaid)}: too few maps." if found.unsaid else ""
    wrong = f"{report.analysis.errors.value:.0%}"
    blocks: list[Block] = [
        Paragraph(
            f"Confident learning ({found.package}; Northcutt, Jiang and Chuang 2021) flags {len(found.suspects):,} of "
            f"{found.n_maps:,} maps, on probabilities of maps that did not train the predictor.{unsaid} **A flag is a "
            f"suggestion**: where the predictor is wrong about a pattern, it flags labels that are right, and by these "
            f"labels it is wrong on {wrong} of the maps. No label was changed. {said}".rstrip()
        )
    ]
    if found.joint:
        rows = [(entry.given, entry.likely, entry.n) for entry in found.joint[:LISTED]]
        blocks += [
            Paragraph("Estimated numbers of maps, beside the diagonal of the confident joint:"),
            Table(("given", "likely", "maps"), rows, text_columns=2),
        ]
    ranked = bool(found.suspects)
    if ranked:
        ranking = [
            (suspect.id, _names(suspect.given), _names(suspect.suggested), format_number(suspect.quality, 3))
            for suspect in found.suspects[:LISTED]
        ]
        blocks += [
            Paragraph(f"The most suspicious first, {len(ranking)} of {len(found.suspects):,}; errors.json has all:"),
            Table(("map", "given", "suggested", "probability of what is given"), ranking, text_columns=3),
        ]
    if "suspects" in figures:
        return [*blocks, Images([figures["suspects"]])]
    return [*blocks, Paragraph("The first of them are the maps predicted worst, drawn above.")] if ranked else blocks


def _counts(rate: Rate) -> tuple[str, str, str]:
    return format_number(rate.hits), format_number(rate.n), _share(rate)


def _share(rate: Rate) -> str:
    return format_estimate(rate.value, rate.low, rate.high)


def _percent(part: int, of: int) -> str:
    return f"{part / of:.1%}" if of else MISSING


def _or_nothing(name: str) -> str:
    return name or "nothing"


def _names(names: Sequence[str]) -> str:
    return " + ".join(names) or "no defect"
