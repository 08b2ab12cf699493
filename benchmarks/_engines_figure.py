"""The figure of `engines.py`: milliseconds per step against the number of qubits, a panel for each batch and depth."""

from pathlib import Path
from typing import Any

import numpy as np

from qwafer.reports.figures import style as look


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw the cases of `document` (the JSON of `engines.py`) as PNG and PDF; bars are quartiles over rounds."""
    cases = document["cases"]
    panels = sorted({(case["dtype"], case["layers"], case["batch"]) for case in cases})
    names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with look.house_style():
        width = look.COLUMN if columns == 1 else look.PAGE
        figure = look.new_figure(width, 2.15 * rows + look.legend_height(names, width))
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes.flat, panels, strict=False):
            for index, name in enumerate(names):
                times = {
                    case["n"]: [1e3 * value for value in case["contenders"][name]["seconds"]]
                    for case in cases
                    if (case["dtype"], case["layers"], case["batch"]) == panel and "seconds" in case["contenders"][name]
                }
                if times:
                    n, (low, middle, high) = list(times), np.transpose(list(times.values()))
                    axis.vlines(n, low, high, color=look.PALETTE[index], linewidth=0.9)
                    (handles[name],) = axis.plot(
                        n, middle, **look.line_style(index), marker=look.MARKERS[index], markersize=3
                    )
            axis.set_yscale("log")
            dtype, layers, batch = panel
            axis.set_title(f"batch {batch:,}, {layers} layers, {dtype}")
            axis.set_xticks(sorted({case["n"] for case in cases}))
        for axis in axes.flat[: len(panels)]:
            look.plain_log_axis(axis)
        machine = document["machine"]
        figure.supxlabel(f"Qubits ({machine['cpu']}, {machine['cores_used']} cores)", fontsize=look.TEXT_SIZE)
        for row in axes:
            row[0].set_ylabel("ms per training step")
        for unused in axes.flat[len(panels) :]:
            unused.set_visible(False)
        shown = [name for name in names if name in handles]
        look.outer_legend(figure, [handles[name] for name in shown], shown, "upper")
    look.save_figure(figure, path)
