"""Figures of a trust table: plateau, Fourier and Fisher spectrum, singular values; each from a report's numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.probes.circuit.trainability import two_design_variance
from qwafer.probes.report import Report
from qwafer.reports.figures import style as look
from qwafer.reports.figures.style import Drawn, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FISHER_ZERO = 1e-9
"""Fisher eigenvalues below this, relative to the largest, are zero."""
JACOBIAN_ZERO = 1e-6
"""The same of singular values, which are roots of eigenvalues."""
FOURIER_ZERO = 1e-5
"""Fourier coefficients below this, in units of the values, are zero, where a report does not say what is."""


def plateau_figure(numbers: Mapping[str, Any]) -> "Figure | None":
    """Draw the variance of the gradient of sum_i <Z_i> (local) and |<0...0|psi>|^2 (global) against wires, on a
    logarithmic axis, with the fitted lines whose slopes the headline gives and the line of a 2-design; None without
    several sizes.

    The weights are those of the headline: initial ones where their scale is known, else uniform ones.
    """
    rows = numbers.get("variances", [])
    weights = rows[-1]["weights"] if rows else ""
    depth = max(_depths(rows), key=_depths(rows).count, default=0)
    points = {
        cost: {
            row["n_qubits"]: row["variance"] * (row["n_qubits"] ** 2 if cost == "local" else 1)
            for row in rows
            if (row["cost"], row["weights"], row["n_layers"]) == (cost, weights, depth)
        }
        for cost in ("local", "global")
    }
    if min(map(len, points.values())) < 2:
        return None
    with look.house_style():
        sizes = sorted(points["local"])
        texts, handles = [], []
        figure = look.new_figure(look.COLUMN, 2.75)
        axis = figure.subplots()
        for index, (cost, name) in enumerate((("local", "sum of <Z>"), ("global", "|<0…0|psi>|^2"))):
            kind = look.marker_style(index)
            fit = numbers["decay"][f"{cost}, {weights} weights, per wire"]
            axis.semilogy(sizes, [points[cost][n] for n in sizes], linestyle="none", **kind)
            line = [2 ** (fit["intercept"] - fit["rate"] * n) for n in sizes]
            (handle,) = axis.semilogy(sizes, line, linewidth=0.9, **kind, markevery=[])
            handles.append(handle)
            texts.append(f"{cost}, {name}: {fit['rate']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}] bits per wire")
        design = [n * two_design_variance(n) for n in sizes]
        (handle,) = axis.semilogy(sizes, design, color=look.MUTED, linestyle="--", linewidth=0.9)
        handles.append(handle)
        texts.append(f"2-design, n N²/(2(N²-1)(N+1)), N = 2^n: {numbers['two_design_rate']:.2f}")
        axis.set_xlabel(f"Wires ({weights} weights, {depth} layer{'s' if depth > 1 else ''})")
        axis.set_ylabel("Variance of the gradient")
        axis.set_xticks(sizes)
        look.plain_log_axis(axis)
        figure.legend(handles, texts, loc="outside lower center", labelspacing=0.3)
        return figure


def spectrum_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the largest Fourier coefficient of each frequency in each input, on a logarithmic axis; those that count as
    zero are not drawn.
    """
    power = np.asarray(numbers["largest_coefficients"], np.float64)
    zero = numbers.get("zero", FOURIER_ZERO)
    accessible = numbers["accessible"]
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.2)
        axis = figure.subplots()
        shown = power[:8]
        for i, row in enumerate(shown):
            offset = 0.08 * (i - (len(shown) - 1) / 2)
            kind = {**look.marker_style(i), "marker": "o", "markersize": 3, "linestyle": "none"}
            axis.semilogy(np.arange(len(row)) + offset, np.where(row > zero, row, np.nan), label=f"input {i}", **kind)
        if accessible is not None:
            axis.axvline(accessible + 0.5, color=look.MUTED, linewidth=0.8, linestyle="--")
        for frequency in np.flatnonzero((power <= zero).all(axis=0)):
            axis.annotate(
                "none",
                (frequency, 0.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize=look.SMALL_SIZE,
                color=look.MUTED,
            )
        axis.set_ylim(bottom=max(zero, 0.3 * min(power[power > zero], default=1.0)))
        axis.set_xlim(-0.5, power.shape[1] - 0.5)
        axis.set_xlabel(f"Frequency (below {look.short_power(zero)}: none)")
        axis.set_ylabel("Largest coefficient")
        axis.set_xticks(range(power.shape[1]))
        look.plain_log_axis(axis)
        handles, names = axis.get_legend_handles_labels()
        look.outer_legend(figure, handles, names, "upper")
        return figure


def fisher_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the eigenvalues of the mean Fisher matrix that are not zero, largest first, and say how many are zero."""
    figure = _spectrum(numbers["fisher_eigenvalues"], "Fisher eigenvalue", FISHER_ZERO, relative=False, index=0)
    with look.house_style():
        axis, dimension = figure.axes[0], numbers["effective_dimension"]
        axis.axvline(dimension, color=look.PALETTE[1], linestyle="--", linewidth=0.9)
        _beside(axis, dimension, f"effective dimension {dimension:.1f}", 0.95, look.PALETTE[1])
    return figure


def singular_figure(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the singular values of the output Jacobian over the data that are not zero, and say how many are zero."""
    return _spectrum(numbers["singular_values"], "Singular value / largest", JACOBIAN_ZERO, relative=True, index=2)


def _spectrum(values: Any, ylabel: str, zero: float, *, relative: bool, index: int) -> "Figure":
    """Draw a spectrum, largest first, without what lies below `zero` of the largest: its place is grey and counted."""
    found = np.asarray(values, np.float64)
    largest = found.max(initial=0.0)
    kept = found[found > zero * largest]
    n_zero = len(found) - len(kept)
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 2.0)
        axis = figure.subplots()
        places = np.arange(1, len(kept) + 1)
        kind = {"color": look.PALETTE[index], "markersize": 3, "linewidth": 0.8}
        axis.semilogy(places, kept / largest if relative and len(kept) else kept, "o-", **kind)
        if not len(kept):
            axis.set_ylim(1e-3, 1)
        if n_zero:
            axis.axvspan(len(kept) + 0.5, len(found) + 0.5, color=look.FAINT, alpha=0.5, linewidth=0)
        axis.set_xlim(0, len(found) + 0.5)
        said = "none is zero" if not n_zero else f"grey: {n_zero} of {len(found)} are zero"
        axis.set_xlabel(f"Direction ({said}: below {look.short_power(zero)} of the largest)")
        axis.set_ylabel(ylabel)
        look.plain_log_axis(axis)
        return figure


def _beside(axis: Any, x: float, text: str, height: float, color: str) -> None:
    """Write `text` beside a vertical line at `x`, on the side with more room, `height` being of the axes."""
    low, high = axis.get_xlim()
    left = x - low > high - x
    axis.annotate(
        text,
        (x, height),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if left else 3, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=look.SMALL_SIZE,
        color=color,
    )


FIGURES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], Any]]] = {
    "barren plateau": (
        "plateau",
        "Variance of the gradient by the rotations in the middle of the ansatz against wires: dots are samples, lines "
        "the fit whose rate the table gives, with its 95% bootstrap interval, and a 2-design's (McClean et al. 2018).",
        plateau_figure,
    ),
    "fourier spectrum": ("fourier", "Largest Fourier coefficient per frequency and input.", spectrum_figure),
    "effective dimension": ("fisher", "Spectrum of the mean Fisher matrix.", fisher_figure),
    "output rank": ("jacobian", "Singular values of the output Jacobian over the data.", singular_figure),
}
"""The figure of each probe that has one: file name, caption, and what draws it (None: nothing to draw)."""


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
                made = figure(numbers)
                if made is not None:
                    drawn.append(draw(made, folder / name, start + caption))
    return drawn


def _depths(rows: list[dict[str, Any]]) -> list[int]:
    return [row["n_layers"] for row in rows]
