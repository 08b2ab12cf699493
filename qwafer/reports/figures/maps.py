"""The maps that a head gets most wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwafer.evaluation.errors import worst_examples as worst_examples
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 5
"""Maps in a row."""
OFF, PASSING, FAILING = "#FFFFFF", "#C9DCEB", "#B2390E"


def error_maps(
    maps: Sequence[NDArray[np.uint8]],
    true_labels: Sequence[Sequence[str]],
    predicted_labels: Sequence[Sequence[str]],
) -> "Figure":
    """Draw wafer maps, five a row, each with its true labels and what is wrong with the prediction.

    Where a prediction shares a label with the truth, only what it missed and what it added are said.

    `maps`: arrays (height, width) of 0 (no die), 1 (passing) and 2 (failing), of any sizes; `true_labels`,
    `predicted_labels`: the names of the labels of each map, none meaning a map without defect. Select them with
    `worst_examples`. Without maps the figure says so.
    """
    with look.house_style():
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        if not len(maps):
            figure = look.new_figure(look.COLUMN, 0.6)
            figure.text(0.5, 0.5, "No example is predicted wrong.", ha="center", va="center")
            return figure
        rows = -(-len(maps) // COLUMNS)
        width = look.PAGE / COLUMNS - 0.1
        captions = [
            _caption(true, predicted, width) for true, predicted in zip(true_labels, predicted_labels, strict=True)
        ]
        lines = sum(
            max(text.count("\n") + 1 for text in captions[i : i + COLUMNS]) for i in range(0, len(maps), COLUMNS)
        )
        figure = look.new_figure(look.PAGE, (width + 0.1) * rows + 0.118 * lines + 0.25)
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        colors = ListedColormap([OFF, PASSING, FAILING])
        for axis, wafer, caption in zip(axes, maps, captions, strict=False):
            axis.imshow(wafer, cmap=colors, vmin=0, vmax=2, interpolation="nearest")
            axis.set_title(caption, fontsize=look.TEXT_SIZE, loc="left", linespacing=1.1)
        for axis in axes:
            axis.set_axis_off()
        look.outer_legend(figure, [Patch(color=PASSING), Patch(color=FAILING)], ["passing die", "failing die"], "lower")
        return figure


def _caption(true: Sequence[str], predicted: Sequence[str], width: float) -> str:
    """Return the lines over a map, each of at most `width` inches."""
    shared = set(true) & set(predicted)
    said = {"true": true, "predicted": predicted}
    if shared:
        missed, added = ([name for name in names if name not in shared] for names in (true, predicted))
        said = {"true": true, **({"missed": missed} if missed else {}), **({"added": added} if added else {})}
    lines = (f"{word}: {', '.join(names) or 'no defect'}" for word, names in said.items())
    return "\n".join(look.fit_text(line, width, look.TEXT_SIZE, lines=3) for line in lines)
