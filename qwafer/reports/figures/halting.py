"""Figures of a network that halts: what a threshold costs and saves, and which classes are answered at which step."""

from typing import TYPE_CHECKING

import numpy as np

from qwafer.networks.halting import HaltingReport
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def halting_trade_off(report: HaltingReport) -> "Figure":
    """Draw accuracy, steps and latency of one map (median, in the band up to p99) against the halting threshold.

    Thresholds stand at equal distances; the dotted lines are accuracy and steps of the full depth.
    """
    with look.house_style():
        figure = look.new_figure(look.COLUMN, 3.4)
        axes = figure.subplots(3, 1, sharex=True)
        x = np.arange(len(report.rows))
        kind = {**look.line_style(0), "marker": "o", "markersize": 2.5}
        axes[0].plot(x, [row.accuracy for row in report.rows], **kind)
        axes[0].axhline(report.accuracy_per_step[-1], color=look.MUTED, linewidth=0.7, linestyle=":")
        axes[1].plot(x, [row.mean_steps for row in report.rows], **kind)
        axes[1].axhline(len(report.accuracy_per_step), color=look.MUTED, linewidth=0.7, linestyle=":")
        median, slow = (np.array([getattr(row, name) for row in report.rows]) * 1e3 for name in ("p50", "p99"))
        axes[2].plot(x, median, **kind)
        axes[2].fill_between(x, median, slow, color=look.line_style(0)["color"], alpha=0.15, linewidth=0)
        axes[2].set_ylim(bottom=0)
        for axis, name in zip(axes, ("Accuracy", "Mean steps", "Latency (ms)"), strict=True):
            axis.set_ylabel(name)
            axis.grid(axis="y")
            axis.margins(y=0.15)
        axes[2].set_xticks(x, [f"{row.threshold:g}" for row in report.rows])
        axes[2].set_xlabel("Halting threshold")
        figure.align_ylabels()
    return figure


def halting_steps(report: HaltingReport) -> "Figure":
    """Draw the share of each class's maps that halt after each step, one bar per class, at the report's threshold."""
    counts = {name: np.array(found) for name, found in report.steps_per_class.items() if sum(found)}
    n_steps = len(report.accuracy_per_step)
    with look.house_style():
        steps = [f"step {step}" for step in range(1, n_steps + 1)]
        figure = look.new_figure(look.COLUMN, 0.45 + 0.17 * len(counts) + look.legend_height(steps))
        axis = figure.subplots()
        left = np.zeros(len(counts))
        bars = []
        for step in range(n_steps):
            share = np.array([found[step] / found.sum() for found in counts.values()])
            color = look.line_style(step)["color"]
            bars.append(axis.barh(np.arange(len(counts)), share, 0.7, left, color=color))
            left += share
        names = (f"{look.fit_text(name, 0.8)} ({found.sum():,})" for name, found in counts.items())
        axis.set_yticks(range(len(counts)), list(names))
        axis.invert_yaxis()
        axis.set(xlim=(0, 1), xlabel=f"Share of maps, threshold {report.threshold:g}")
        look.outer_legend(figure, bars, steps, "upper")
    return figure
