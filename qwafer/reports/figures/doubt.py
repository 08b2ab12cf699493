"""Figures of a router's doubt: its histogram, its means by class, and risk against coverage."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwafer.evaluation import risk_coverage
from qwafer.reports.figures.style import COLUMN, INK, Drawn, draw, fit_text, house_style, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 30


def draw_doubt(
    measures: Mapping[str, np.ndarray],
    wrong: np.ndarray,
    foreign: np.ndarray,
    classes: Mapping[str, tuple[float | None, float | None, int]],
    folder: Path,
) -> list[Drawn]:
    """Write `histogram`, `classes` and `risk_coverage` into `folder` as PNG and PDF.

    `measures` (N,) by name, the first of them of the histogram and of `foreign` (M,); `wrong` (N,) the errors;
    `classes` mean doubt, error rate and number by label.
    """
    doubt = next(iter(measures.values()))
    return [
        draw(
            histogram(doubt, wrong, foreign),
            folder / "histogram",
            "Mutual information of the router's samples, as a share of each kind of examples.",
        ),
        draw(
            class_figure(classes),
            folder / "classes",
            "Mean mutual information of the router and error rate of the test examples that have a label.",
        ),
        draw(
            coverage_figure(measures, wrong),
            folder / "risk_coverage",
            "Error rate of the examples that are decided, the least doubtful first, by three measures of doubt; dotted "
            "the overall error rate.",
        ),
    ]


def histogram(doubt: np.ndarray, wrong: np.ndarray, foreign: np.ndarray) -> "Figure":
    """Return the histograms of doubt of right, wrong and foreign examples, each as shares of its own."""
    kinds = {"right": doubt[~wrong], "wrong": doubt[wrong], "foreign": foreign}
    edges = np.linspace(0, max(float(np.max(np.concatenate([doubt, foreign]))), 1e-9), BINS + 1)
    with house_style():
        figure = new_figure(COLUMN, 2.4)
        axis = figure.subplots()
        for k, (name, values) in enumerate(kinds.items()):
            if len(values):
                counts = np.histogram(values, edges)[0] / len(values)
                axis.stairs(counts, edges, label=f"{name} ({len(values)})", linewidth=1.2, **line_style(k))
        axis.set_xlabel("mutual information (nats)")
        axis.set_yscale("log")
        axis.set_ylabel("share of examples")
        axis.grid(axis="y")
        axis.legend()
    return figure


def class_figure(classes: Mapping[str, tuple[float | None, float | None, int]]) -> "Figure":
    """Return mean doubt and error rate of each label, in two panels."""
    shown = {name: (doubt, rate, n) for name, (doubt, rate, n) in classes.items() if doubt is not None}
    with house_style():
        figure = new_figure(COLUMN, 0.7 + 0.2 * max(len(shown), 2))
        axes = figure.subplots(1, 2, sharey=True)
        rows = np.arange(len(shown))
        for axis, k, label in ((axes[0], 0, "mutual information"), (axes[1], 1, "error rate")):
            axis.barh(rows, [value[k] for value in shown.values()], color=line_style(k)["color"], height=0.7)
            axis.set_xlabel(label)
            axis.grid(axis="x")
        axes[0].set_yticks(rows, [fit_text(f"{name} ({value[2]})", 1.0) for name, value in shown.items()])
        axes[0].invert_yaxis()
    return figure


def coverage_figure(measures: Mapping[str, np.ndarray], wrong: np.ndarray) -> "Figure":
    """Return risk against coverage for each measure."""
    with house_style():
        figure = new_figure(COLUMN, 2.4)
        axis = figure.subplots()
        for k, (name, values) in enumerate(measures.items()):
            found = risk_coverage(values, wrong)
            axis.plot(found.coverage, found.risk, label=name.replace("_", " "), **line_style(k))
        axis.axhline(float(wrong.mean()), color=INK, linewidth=0.7, linestyle=":")
        axis.set_xlim(0, 1)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("coverage")
        axis.set_ylabel("risk (error rate)")
        axis.grid(axis="y")
        axis.legend()
    return figure
