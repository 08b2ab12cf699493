"""Figures of a trust table: plateau, Fourier and Fisher spectrum, singular values; each from a report's numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.probes.report import Report
from qwafer.reports.figures import style as look
from qwafer.reports.figures.style import Drawn, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _log_axis(axis: Any) -> None:
    """Label a logarithmic y axis in plain text: the house style does not parse mathematics."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(numticks=7))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e"))
    )
    axis.grid(axis="y")


def plateau_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the variance of the gradient against wires, on a logarithmic axis, one line per cost and kind of weights."""
    rows = numbers["variances"]
    depth = max(_depths(rows), key=_depths(rows).count)
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.2)
        axis = figure.subplots()
        kinds = list(dict.fromkeys((row["cost"], row["weights"]) for row in rows))
        for index, (cost, weights) in enumerate(kinds):
            points = {
                row["n_qubits"]: row["variance"]
                for row in rows
                if (row["cost"], row["weights"], row["n_layers"]) == (cost, weights, depth)
            }
            if len(points) < 2:
                continue
            values, kind = [points[n] for n in sorted(points)], look.marker_style(index)
            axis.semilogy(sorted(points), values, label=f"{cost}, {weights}", **kind)
        axis.set_xlabel("Wires")
        axis.set_ylabel("Variance of the gradient")
        axis.set_xticks(sorted({row["n_qubits"] for row in rows}))
        _log_axis(axis)
        axis.legend(fontsize=look.SMALL_SIZE)
        return figure


def spectrum_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the largest Fourier coefficient of each frequency in each input, on a logarithmic axis."""
    power = np.maximum(np.asarray(numbers["largest_coefficients"], np.float64), 1e-12)
    accessible = numbers["accessible"]
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.0)
        axis = figure.subplots()
        for i, row in enumerate(power[:8]):
            offset = 0.08 * (i - (min(len(power), 8) - 1) / 2)
            kind = {**look.marker_style(i), "marker": "o", "markersize": 3, "linestyle": "none"}
            axis.semilogy(np.arange(len(row)) + offset, row, label=f"input {i}", **kind)
        if accessible is not None:
            axis.axvline(accessible + 0.5, color=look.MUTED, linewidth=0.8, linestyle="--")
        axis.set_xlabel("Frequency")
        axis.set_ylabel("Largest coefficient")
        axis.set_xticks(range(power.shape[1]))
        _log_axis(axis)
        axis.legend(ncols=2)
        return figure


def fisher_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the eigenvalues of the mean Fisher matrix, largest first."""
    values = np.asarray(numbers["fisher_eigenvalues"], np.float64)
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.0)
        axis = figure.subplots()
        axis.semilogy(
            np.arange(1, len(values) + 1), np.maximum(values, 1e-12), "o-", color=look.PALETTE[0], markersize=3
        )
        mark = {"color": look.PALETTE[1], "linestyle": "--", "linewidth": 0.9, "label": "effective dimension"}
        axis.axvline(numbers["effective_dimension"], **mark)
        axis.legend(loc="lower left")
        axis.set_xlabel("Direction")
        axis.set_ylabel("Fisher eigenvalue")
        _log_axis(axis)
        return figure


def singular_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the singular values of the output Jacobian over the data."""
    values = np.asarray(numbers["singular_values"], np.float64)
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.0)
        axis = figure.subplots()
        shown = np.maximum(values / max(values.max(initial=0.0), 1e-300), 1e-12)
        axis.semilogy(np.arange(1, len(values) + 1), shown, "o-", color=look.PALETTE[2], markersize=3)
        axis.axhline(1e-6, color=look.MUTED, linestyle="--", linewidth=0.8)
        axis.set_xlabel("Direction")
        axis.set_ylabel("Singular value / largest")
        _log_axis(axis)
        return figure


FIGURES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], Any]]] = {
    "barren plateau": ("plateau", "Variance of the gradient against wires.", plateau_figure),
    "fourier spectrum": ("fourier", "Largest Fourier coefficient per frequency and input.", spectrum_figure),
    "effective dimension": ("fisher", "Spectrum of the Fisher matrix.", fisher_figure),
    "output rank": ("jacobian", "Singular values of the output Jacobian over the data.", singular_figure),
}
"""The figure of each probe that has one: file name, caption, and what draws it."""


def draw_reports(reports: Sequence[Report], folder: Path) -> list[Drawn]:
    """Draw each report that has a figure, one per subject where several were merged."""
    drawn = []
    for report in reports:
        if report.name not in FIGURES or report.verdict == "skip":
            continue
        stem, caption, figure = FIGURES[report.name]
        merged = all(isinstance(own, dict) and "verdict" in own for own in report.numbers.values())
        subjects = dict(report.numbers) if merged else {"": report.numbers}
        for subject, numbers in subjects.items():
            if numbers.get("verdict") != "skip":
                name, start = (f"{stem}-{subject}", f"{subject}: ") if subject else (stem, "")
                drawn.append(draw(figure(numbers), folder / name, start + caption))
    return drawn


def _depths(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n_layers"] for row in rows]
