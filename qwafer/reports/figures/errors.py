"""Figures of an error analysis: where errors are, and the maps behind them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwafer.evaluation.errors import Decisions, ErrorAnalysis
from qwafer.evaluation.metrics import Floats
from qwafer.reports.figures import style as look
from qwafer.reports.figures.maps import COLUMNS, FAILING, OFF, PASSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = 10
"""Confusions that are drawn, the most frequent ones."""
BARS = 4
"""Probabilities under a map: those of its labels first, then the largest."""
TRUE_BAR, TRUE_FRAME, WRONG_BAR, OTHER_BAR = "#8CCFBA", "#009E73", "#EFB78F", "#E4E4E4"
ROW = 0.12
"""Height of a bar, in inches."""


def error_overview(found: ErrorAnalysis, decisions: Decisions) -> "Figure":
    """Draw the most frequent confusions, the error rate by defect density, and the confidence of decisions."""
    with look.house_style():
        shown = found.confusions[:PAIRS]
        figure = look.new_figure(look.PAGE, max(2.0, 0.75 + 0.17 * len(shown)))
        pairs, density, confidence = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
        _draw_pairs(pairs, found)
        _draw_density(density, found)
        _draw_confidence(confidence, found, decisions)
    return figure


def _draw_pairs(axis: "Axes", found: ErrorAnalysis) -> None:
    shown = found.confusions[:PAIRS]
    names = [look.fit_text(f"{pair.true or 'nothing'} → {pair.predicted or 'nothing'}", 1.3) for pair in shown]
    axis.barh(range(len(shown)), [pair.n for pair in shown], height=0.7, color=look.PALETTE[0])
    axis.set_yticks(range(len(shown)), names)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    axis.set_xlabel("maps")
    axis.set_title("missed → invented", loc="left")
    if not shown:
        axis.text(0.5, 0.5, "no error", ha="center", va="center", transform=axis.transAxes)


def _draw_density(axis: "Axes", found: ErrorAnalysis) -> None:
    """Each bin at its number: quantiles of density lie close together where maps are sparse."""
    axis.set_title("by defect density", loc="left")
    if not found.density:
        axis.text(0.5, 0.5, "no maps were given", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    places = np.arange(len(found.density))
    values = np.array([part.errors.value for part in found.density])
    ends = np.array([(part.errors.low, part.errors.high) for part in found.density]).T
    axis.errorbar(places, values, np.abs(ends - values), fmt="o", color=look.PALETTE[1], capsize=2, linewidth=0.9)
    axis.axhline(found.errors.value, color=look.MUTED, linewidth=0.7, linestyle=look.DASHES[1])
    axis.set_ylim(0, None)
    axis.set_xlim(-0.5, len(places) - 0.5)
    few = len(places) <= 6
    edges = [found.density[0].low, *(part.high for part in found.density)]
    ticks = np.arange(len(edges)) - 0.5
    kept = slice(None) if few else slice(None, None, -(-len(edges) // 6))
    axis.set_xticks(ticks[kept], [f"{edge:.2g}" for edge in edges[kept]], rotation=45, ha="right")
    axis.set_xlabel("share of failing dies")
    axis.set_ylabel("error rate")


def _draw_confidence(axis: "Axes", found: ErrorAnalysis, decisions: Decisions) -> None:
    edges = np.linspace(0, 1, 21)
    for index, (name, which) in enumerate((("right", ~decisions.wrong), ("wrong", decisions.wrong))):
        values = decisions.confidence[which]
        if values.size:
            share = np.histogram(values, edges)[0] / values.size
            color = look.PALETTE[(0, 1)[index]]
            axis.stairs(share, edges, color=color, linewidth=1.1, label=name)
            axis.axvline(values.mean(), color=color, linewidth=0.8, linestyle=look.DASHES[1])
    axis.axvline(found.options.confident, color=look.MUTED, linewidth=0.7, linestyle=look.DASHES[2])
    axis.set_xlim(0, 1)
    axis.set_xlabel("confidence of a decision")
    axis.set_ylabel("share of the decisions")
    axis.set_title("right and wrong", loc="left")
    axis.legend(loc="upper left")


def doubted_maps(
    maps: Sequence[NDArray[np.uint8]],
    labels: Sequence[tuple[Sequence[str], Sequence[str]]],
    probabilities: Floats,
    label_names: Sequence[str],
    words: tuple[str, str],
) -> "Figure":
    """Draw wafer maps, five a row, each over bars of the probabilities of its labels.

    Args:
        maps: M arrays (height, width) of 0 (no die), 1 (passing) and 2 (failing), of any sizes; at least one.
        labels: of each map the labels that it has, and those that are predicted or suggested in their place.
        probabilities: (M, K) of all labels.
        label_names: K names.
        words: what the two kinds of labels are called, such as ("true", "predicted").
    """
    with look.house_style():
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        rows, bars = -(-len(maps) // COLUMNS), min(BARS, len(label_names))
        width = look.PAGE / COLUMNS - 0.12
        titles = [_title(own, other, words, width) for own, other in labels]
        lines = max(title.count("\n") + 1 for title in titles)
        heights = (width, ROW * bars + 0.03)
        figure = look.new_figure(look.PAGE, rows * (sum(heights) + 0.12 * lines + 0.16) + 0.35)
        cells = figure.add_gridspec(rows, COLUMNS)
        colors = ListedColormap([OFF, PASSING, FAILING])
        for place, (wafer, title) in enumerate(zip(maps, titles, strict=True)):
            cell = cells[place // COLUMNS, place % COLUMNS].subgridspec(2, 1, height_ratios=heights, hspace=0.02)
            above, below = figure.add_subplot(cell[0]), figure.add_subplot(cell[1])
            above.imshow(wafer, cmap=colors, vmin=0, vmax=2, interpolation="nearest")
            above.set_title(title, fontsize=look.SMALL_SIZE, loc="left", linespacing=1.1)
            above.set_anchor("W")  # the title begins where the map does, however narrow that is
            above.set_axis_off()
            _draw_bars(below, labels[place], probabilities[place], label_names, bars, width)
        patches = [Patch(color=color) for color in (PASSING, FAILING, WRONG_BAR)]
        patches.append(Patch(facecolor=TRUE_BAR, edgecolor=TRUE_FRAME))
        named = ["passing die", "failing die", f"probability of a {words[1]} label", f"of a {words[0]} label (framed)"]
        look.outer_legend(figure, patches, named, "lower")
    return figure


def _draw_bars(
    axis: "Axes",
    labels: tuple[Sequence[str], Sequence[str]],
    p: Floats,
    names: Sequence[str],
    bars: int,
    width: float,
) -> None:
    """Draw probabilities, the labels of the map first, with their names on the bars."""
    own, other = labels
    order = sorted(range(len(names)), key=lambda k: (names[k] not in own and names[k] not in other, -p[k]))[:bars]
    order.sort(key=lambda k: -p[k])
    for place, k in enumerate(order):
        color = TRUE_BAR if names[k] in own else WRONG_BAR if names[k] in other else OTHER_BAR
        axis.barh(place, p[k], height=0.86, color=color)
        if names[k] in own:  # framed, so that it is seen where its probability is 0
            axis.barh(place, 1, height=0.86, facecolor="none", edgecolor=TRUE_FRAME, linewidth=0.6)
        number = f"{p[k]:.2f}"
        room = width - 0.15 - look.text_width(number, look.SMALL_SIZE)
        name = look.fit_text(str(names[k]), room, look.SMALL_SIZE)
        axis.text(0.02, place, name, va="center", ha="left", fontsize=look.SMALL_SIZE)
        axis.text(0.98, place, number, va="center", ha="right", fontsize=look.SMALL_SIZE)
    axis.set_xlim(-0.005, 1.005)
    axis.set_ylim(bars - 0.5, -0.5)
    axis.set_axis_off()


def _title(own: Sequence[str], other: Sequence[str], words: tuple[str, str], width: float) -> str:
    lines = (f"{word}: {', '.join(found) or 'no defect'}" for word, found in zip(words, (own, other), strict=True))
    return "\n".join(look.fit_text(line, width, look.SMALL_SIZE, lines=2) for line in lines)
