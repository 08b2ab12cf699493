"""How every figure looks, how it is laid out, and how it is written; matplotlib is imported when the first is drawn.

Figures stand in a column of a paper (3.4 in) or across the page (7 in) at their natural size, with text of 6 to 7
points. The palette extends that of Okabe and Ito (2008), safe for colour-blind readers, and lines differ in dash or
marker too. The surface is opaque and white with a margin of its own, so that a figure reads the same on a light and on
a dark page.
"""

import bisect
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from qwafer import _io

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4
"""Width of a figure in one column of a paper, in inches."""
PAGE = 7.0
"""Width of a figure across the page, in inches."""
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#8C8C8C", "#7E57C2", "#882255", "#2E5C00", "#DDCC77"),
)
"""Okabe and Ito's colours in the order of use, their yellow (faint on white) replaced by a grey, and four more that
keep as far from them."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "h", ">", "*")
"""Marker of each colour."""
DASHES = ((0, ()), (0, (4, 1.2)), (0, (1, 1)))
"""Dash patterns of the palette's thirds; see `line_style`."""
SURFACE = "#FFFFFF"
INK = "#1A1A1A"
MUTED = "#6B6B6B"
FAINT = "#D9D9D9"
TEXT_SIZE = 7.0
SMALL_SIZE = 6.0
LONGEST_LINE = 1000
"""Characters that no line of a figure holds."""
DPI = 200
MARGIN = 0.05

_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": TEXT_SIZE,
    "axes.titlesize": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "legend.fontsize": SMALL_SIZE,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.4,
    "text.color": INK,
    "text.parse_math": False,  # a label's name may hold a dollar sign
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.hspace": 0.02,
    "figure.constrained_layout.wspace": 0.02,
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
    "pdf.fonttype": 42,  # text stays text in a paper
}


class Drawn(NamedTuple):
    """A figure on disk, with what its caption says."""

    path: Path
    """Of the PNG; the PDF lies beside it."""
    caption: str
    """One or two sentences."""


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style inside this context; matplotlib's own settings come back after it, whatever they were."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float = COLUMN, height: float = 2.2) -> "Figure":
    """Return an empty figure of `width` x `height` inches, outside of pyplot, that keeps its labels inside (inside
    `house_style()`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    across, down = MARGIN / width, MARGIN / height
    figure.get_layout_engine().set(rect=(across, down, 1 - 2 * across, 1 - 2 * down))
    FigureCanvasAgg(figure)
    return figure


def new_grid(n: int, panel_height: float = 1.0, extra_height: float = 0.4) -> tuple["Figure", list["Axes"]]:
    """Return a figure of `n` panels and their axes, row by row: up to four a row in a column, beyond twelve panels
    eight a row on a page.

    Each row is `panel_height` inches high (for up to three panels: as high as wide) and `extra_height` is added for
    outer labels.
    """
    wide = n > 12
    columns = 8 if wide else min(n, 4)
    rows = -(-n // columns)
    if n <= 3:
        panel_height = {1: 2.0, 2: 1.55, 3: 1.15}[n]
    figure = new_figure(PAGE if wide else COLUMN, rows * panel_height + extra_height)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[n:]:
        unused.remove()
    return figure, list(axes[:n])


def grid_columns(n: int) -> int:
    """Return how many of `n` panels stand in a row: up to two in a column of a paper, four or eight on a page."""
    return n if n <= 2 else min(n, 4) if n <= 12 else 8


@overload
def panels(figure: "Figure", n: int) -> "list[Axes]": ...
@overload
def panels(figure: "Figure", n: int, ratios: tuple[float, float]) -> "tuple[list[Axes], list[Axes]]": ...
def panels(figure: "Figure", n: int, ratios: tuple[float, float] | None = None) -> Any:
    """Return the axes of `n` panels in `grid_columns(n)` columns, row by row; with `ratios` two lists of axes, the
    upper and the lower part of each panel, of heights in these proportions.
    """
    columns = grid_columns(n)
    cells = figure.add_gridspec(-(-n // columns), columns)
    places = [cells[i // columns, i % columns] for i in range(n)]
    if ratios is None:
        return [figure.add_subplot(place) for place in places]
    parts = [place.subgridspec(2, 1, height_ratios=ratios, hspace=0.04) for place in places]
    return [figure.add_subplot(part[0]) for part in parts], [figure.add_subplot(part[1]) for part in parts]


def panel_width(figure: "Figure", axes: "Sequence[Axes]", beside: float = 0.5) -> float:
    """Return the width that a panel's title may take, in inches, with `beside` inches for the labels of the row."""
    return (figure.get_figwidth() - beside) / _columns(axes) - 0.06


def _columns(axes: "Sequence[Axes]") -> int:
    return axes[0].get_subplotspec().get_topmost_subplotspec().get_gridspec().ncols


def outer_only(axes: "Sequence[Axes]", *, below: bool = True) -> None:
    """Keep tick labels on the left of each row and, with `below`, at the bottom of each column."""
    columns = _columns(axes)
    for index, axis in enumerate(axes):
        axis.tick_params(labelleft=index % columns == 0)
        if below:
            axis.tick_params(labelbottom=index + columns >= len(axes))


def short_count(value: float) -> str:
    """Return 1, 10, 100, 1k, 10k, 100k, 1M and so on."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def plain_log_axis(axis: "Axes") -> None:
    """Label a logarithmic y axis, its limits being final, in plain text: the house style does not parse mathematics."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0), numticks=7))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_power(value)))
    axis.grid(axis="y")


def short_power(value: float) -> str:
    """Return a number by its power of ten, such as 2e-3."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def name_points(
    axis: "Axes", points: Sequence[tuple[str, float, float]], bars: Sequence[tuple[float, float, float]] = ()
) -> None:
    """Write the name of each point (name, x, y) beside it, where no other name and no point is, and if possible none of
    the vertical `bars` (x, low, high); a thin line leads to a name that stands further away. The axes' limits and
    scales must be final.
    """
    figure = axis.figure
    figure.canvas.draw()  # settles the layout, in which names take no room
    frame, dot, height = axis.get_window_extent(), figure.dpi / 72, 1.2 * SMALL_SIZE * figure.dpi / 72
    centres = [axis.transData.transform((x, y)) for _, x, y in points]
    taken = [(x - 3 * dot, y - 3 * dot, x + 3 * dot, y + 3 * dot) for x, y in centres]
    crossed = []
    for x, low, high in bars:
        (px, bottom), (_, top) = axis.transData.transform([(x, low), (x, high)])
        crossed.append((px - 2 * dot, bottom, px + 2 * dot, top))
    for (name, x, y), (px, py) in zip(points, centres, strict=True):
        text = fit_text(name, frame.width / figure.dpi / 2, SMALL_SIZE)
        width = text_width(text, SMALL_SIZE) * figure.dpi + dot
        found: list[tuple[float, bool, tuple[float, float, float, float]]] = []
        for aside, up in itertools.product((5, 9, 14, 20, 40, 70), range(-18, 19)):
            for left in (px + aside * dot, px - aside * dot - width):
                box = (left, py + (0.6 * up - 0.5) * height, left + width, py + (0.6 * up + 0.5) * height)
                outside = box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1
                over = sum(_shared(box, other) for other in taken) + outside * width * height
                cost = 100 * over + 8 * sum(_shared(box, other) for other in crossed)
                found.append((cost + 10 * height * (aside - 5) + height**2 * abs(up), abs(up) > 1 or aside > 5, box))
        _, far, box = min(found)
        taken.append(box)
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        note = axis.annotate(
            text,
            (x, y),
            xytext=((box[0] - px) / dot, ((box[1] + box[3]) / 2 - py) / dot),
            textcoords="offset points",
            va="center",
            fontsize=SMALL_SIZE,
            arrowprops=({**arrow, "relpos": (0 if box[0] > px else 1, 0.5)} if far else None),
        )
        note.set_in_layout(False)


def _shared(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return the area that two boxes (x0, y0, x1, y1) share."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def legend_columns(names: Sequence[str], width: float = COLUMN) -> int:
    """Return how many columns (at most four, on a page eight) of a legend with these names a figure of `width` inches
    holds.
    """
    longest = max(text_width(_shorten(name, width), SMALL_SIZE) for name in names)
    columns = max(
        1, min(4 if width <= COLUMN else 8, len(names), int((width - 0.1) / (longest + 0.36)))
    )  # 0.36 in: the handle and a space
    return -(-len(names) // -(-len(names) // columns))  # no more than the rows need: they come out even


def legend_height(names: Sequence[str], width: float = COLUMN) -> float:
    """Return the height in inches that `outer_legend` takes."""
    return 0.1 + 0.125 * -(-len(names) // legend_columns(names, width))


def outer_legend(
    figure: "Figure", handles: Sequence["Artist"], names: Sequence[str], where: str, title: str = ""
) -> None:
    """Put a legend above (`upper`) or below (`lower`) the panels, in as many columns as the figure is wide."""
    width = figure.get_figwidth()
    figure.legend(
        handles,
        [_shorten(name, width) for name in names],
        loc=f"outside {where} center",
        ncols=legend_columns(names, width),
        labelspacing=0.25,
        title=title or None,
        title_fontsize=SMALL_SIZE,
    )


def _shorten(name: str, width: float) -> str:
    return fit_text(name, width - 0.6, SMALL_SIZE)


def line_style(index: int) -> dict[str, object]:
    """Return colour and dash of line `index`: four solid lines, four dashed and four dotted ones in other colours, and
    so on. The first 36 lines differ, and the first 12 in colour. An index has the same colour in `marker_style`.
    """
    rounds, place = divmod(index, len(PALETTE))
    return {"color": PALETTE[place], "linestyle": DASHES[(rounds + place // 4) % len(DASHES)]}


def marker_style(index: int) -> dict[str, object]:
    """Return colour and marker of point `index`; the first 144 differ."""
    rounds, place = divmod(index, len(PALETTE))
    return {"color": PALETTE[place], "marker": MARKERS[(place + rounds) % len(MARKERS)]}


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """Return the width of one line of text in inches, in the house font at `size` points."""
    return _measure(text) * size / 72


def fit_text(text: str, width: float, size: float = TEXT_SIZE, lines: int = 1) -> str:
    """Return `text` broken into at most `lines` lines of `width` inches; what does not fit ends in an ellipsis.

    Lines break after a space, comma, plus, hyphen, underscore or slash.
    """
    rest = text[: LONGEST_LINE * lines]
    done: list[str] = []
    while rest and len(done) < lines - 1 and text_width(rest, size) > width:
        # A hyphen or underscore may belong to a name (Edge-Ring): those break only where nothing better fits.
        for pattern in (r"[ ,+/]+", r"[-_]+"):
            end = _last_fitting([match.end() for match in re.finditer(pattern, rest)], rest, width, size)
            if end:
                break
        else:
            break
        done.append(rest[:end].rstrip())
        rest = rest[end:]
    if text_width(rest, size) > width:
        rest = rest[: _last_fitting(range(1, len(rest) + 1), rest, width, size, "…")].rstrip(" ,+-_/") + "…"
    return "\n".join([*done, rest])


def _last_fitting(ends: Sequence[int], text: str, width: float, size: float, mark: str = "") -> int:
    """Return the last of the rising `ends` at which `text`, cut and followed by `mark`, is no wider than `width`; 0 if
    none is.
    """
    place = bisect.bisect_right(ends, width, key=lambda end: text_width(text[:end].rstrip() + mark, size))
    return ends[place - 1] if place else 0


def save_figure(figure: "Figure", path: str | Path) -> tuple[Path, Path]:
    """Write `figure` as PNG (200 dpi) and PDF beside each other and return both paths; the suffix of `path` is ignored.

    Each file is written atomically, and the same figure gives the same bytes (no dates inside).
    """
    stem = Path(path)
    if stem.suffix in (".png", ".pdf"):
        stem = stem.with_suffix("")
    files = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with house_style():
        _settle(figure)
        with _io.atomic_path(files[0]) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        with _io.atomic_path(files[1]) as temporary:
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return files


def _settle(figure: "Figure") -> None:
    """Lay `figure` out once and round the places: the solver's last bits depend on what was drawn before."""
    from matplotlib.transforms import Bbox

    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # or every file would begin with a drawing that only lays out
    for axis in figure.axes:
        axis.set_position(Bbox(axis.get_position(original=True).get_points().round(5)))


def draw(figure: "Figure", path: Path, caption: str) -> Drawn:
    """Write `figure` as `save_figure` does, and return it with its caption."""
    return Drawn(save_figure(figure, path)[0], caption)


def text_problems(figure: "Figure") -> list[str]:
    """Return what is wrong with the text of `figure`: each text that leaves the figure and each pair that overlaps;
    empty if all is well.
    """
    from matplotlib.text import Text

    with house_style():
        figure.canvas.draw()
        boxes = [(text.get_text(), Text.get_window_extent(text)) for text in _visible_texts(figure)]  # without lines
    frame = figure.bbox
    problems = [
        f"{text!r} leaves the figure"
        for text, box in boxes
        if box.x0 < frame.x0 - 0.5 or box.y0 < frame.y0 - 0.5 or box.x1 > frame.x1 + 0.5 or box.y1 > frame.y1 + 0.5
    ]
    for index, (text, box) in enumerate(boxes):
        for other, against in boxes[index + 1 :]:
            across = min(box.x1, against.x1) - max(box.x0, against.x0)
            down = min(box.y1, against.y1) - max(box.y0, against.y0)
            if across > 0.5 and down > 0.5:
                problems.append(f"{text!r} overlaps {other!r}")
    return problems


def _visible_texts(figure: "Figure") -> list:
    """Return the texts that are drawn; tick labels outside the limits of their axis exist, but are not."""
    from matplotlib.text import Text

    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            every = axis.get_majorticklabels() + axis.get_minorticklabels()
            hidden |= {id(label) for label in every if id(label) not in drawn}
            if not axes.axison or not axes.get_visible():
                hidden |= {id(label) for label in [*every, axis.label]}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden and text.get_figure() is figure
    ]


@functools.lru_cache(maxsize=4096)
def _measure(text: str) -> float:
    """Return the width of `text` at one point, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family="DejaVu Sans", size=100)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return width / 100
