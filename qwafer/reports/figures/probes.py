"""Figures of a trust table: gradients, plateau, Fourier spectrum, Fisher spectrum, priors. Each from a report's
numbers alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.probes.report import Report
from qwafer.reports.figures.style import (
    COLUMN,
    MUTED,
    PALETTE,
    SMALL_SIZE,
    house_style,
    new_figure,
    save_figure,
)

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
    """Draw the variance of the gradient against wires, on a logarithmic axis, one line a cost and kind of weights."""
    rows = numbers["variances"]
    depth = max(_depths(rows), key=_depths(rows).count)
    with house_style():
        figure = new_figure(COLUMN, 2.2)
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
            kind = {"color": PALETTE[index], "marker": "os^D"[index % 4]}
            axis.semilogy(sorted(points), [points[n] for n in sorted(points)], label=f"{cost}, {weights}", **kind)
        axis.set_xlabel("Wires")
        axis.set_ylabel("Variance of the gradient")
        axis.set_xticks(sorted({row["n_qubits"] for row in rows}))
        _log_axis(axis)
        axis.legend(fontsize=SMALL_SIZE)
        return figure


def spectrum_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the largest Fourier coefficient of each frequency in each input, on a logarithmic axis."""
    power = np.maximum(np.asarray(numbers["largest_coefficients"], np.float64), 1e-12)
    accessible = numbers["accessible"]
    with house_style():
        figure = new_figure(COLUMN, 2.0)
        axis = figure.subplots()
        for i, row in enumerate(power[:8]):
            offset = 0.08 * (i - (min(len(power), 8) - 1) / 2)
            axis.semilogy(np.arange(len(row)) + offset, row, "o", color=PALETTE[i], markersize=3, label=f"input {i}")
        if accessible is not None:
            axis.axvline(accessible + 0.5, color=MUTED, linewidth=0.8, linestyle="--")
        axis.set_xlabel("Frequency")
        axis.set_ylabel("Largest coefficient")
        axis.set_xticks(range(power.shape[1]))
        _log_axis(axis)
        axis.legend(ncols=2)
        return figure


def fisher_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the eigenvalues of the mean Fisher matrix, largest first."""
    values = np.asarray(numbers["fisher_eigenvalues"], np.float64)
    with house_style():
        figure = new_figure(COLUMN, 2.0)
        axis = figure.subplots()
        axis.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-12), "o-", color=PALETTE[0], markersize=3)
        mark = {"color": PALETTE[1], "linestyle": "--", "linewidth": 0.9, "label": "effective dimension"}
        axis.axvline(numbers["effective_dimension"], **mark)
        axis.legend(loc="lower left")
        axis.set_xlabel("Direction")
        axis.set_ylabel("Fisher eigenvalue")
        _log_axis(axis)
        return figure


def singular_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the singular values of the output Jacobian over the data."""
    values = np.asarray(numbers["singular_values"], np.float64)
    with house_style():
        figure = new_figure(COLUMN, 2.0)
        axis = figure.subplots()
        shown = np.maximum(values / max(values.max(initial=0.0), 1e-300), 1e-12)
        axis.semilogy(np.arange(1, len(values) + 1), shown, "o-", color=PALETTE[2], markersize=3)
        axis.axhline(1e-6, color=MUTED, linestyle="--", linewidth=0.8)
        axis.set_xlabel("Direction")
        axis.set_ylabel("Singular value / largest")
        _log_axis(axis)
        return figure


FIGURES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], Any]]] = {
    "barren plateau": ("plateau", "Variance of the gradient against wires.", plateau_figure),
    "fourier spectrum": ("fourier", "Largest Fourier coefficient a frequency and input.", spectrum_figure),
    "effective dimension": ("fisher", "Spectrum of the Fisher matrix.", fisher_figure),
    "output rank": ("jacobian", "Singular values of the output Jacobian over the data.", singular_figure),
}
"""The figure of each probe that has one: file name, caption, and what draws it."""


def write_figures(reports: list[Report], folder: Path) -> list[tuple[str, str]]:
    """Write a figure of each report that has one, and one a subject where several were merged; return (file,
    caption).
    """
    written = []
    for report in reports:
        if report.name not in FIGURES or report.verdict == "skip":
            continue
        stem, caption, draw = FIGURES[report.name]
        merged = all(isinstance(own, dict) and "verdict" in own for own in report.numbers.values())
        subjects = dict(report.numbers) if merged else {"": report.numbers}
        for subject, numbers in subjects.items():
            if numbers.get("verdict") == "skip":
                continue
            name = f"{stem}-{subject}" if subject else stem
            save_figure(draw(numbers), folder / name)
            written.append((f"{folder.name}/{name}.png", f"{subject}: {caption}" if subject else caption))
    return written


def _depths(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n_layers"] for row in rows]
