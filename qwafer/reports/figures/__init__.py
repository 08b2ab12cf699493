"""Figures of results. Functions return matplotlib figures; `save_figure` writes them as PNG and PDF.

`confusion`, `curve`, `differences`, `paired`, `reliability` and `roc` draw one panel of a result on axes of your own.
"""

from qwafer.reports.figures.axes import confusion as confusion
from qwafer.reports.figures.axes import curve as curve
from qwafer.reports.figures.axes import differences as differences
from qwafer.reports.figures.axes import paired as paired
from qwafer.reports.figures.axes import reliability as reliability
from qwafer.reports.figures.axes import roc as roc
from qwafer.reports.figures.classes import TradeOffPoint as TradeOffPoint
from qwafer.reports.figures.classes import class_values as class_values
from qwafer.reports.figures.classes import reliability_diagrams as reliability_diagrams
from qwafer.reports.figures.classes import trade_off as trade_off
from qwafer.reports.figures.curves import curve_matrix as curve_matrix
from qwafer.reports.figures.curves import label_curves as label_curves
from qwafer.reports.figures.curves import learning_curves as learning_curves
from qwafer.reports.figures.curves import training_curves as training_curves
from qwafer.reports.figures.maps import error_maps as error_maps
from qwafer.reports.figures.maps import worst_examples as worst_examples
from qwafer.reports.figures.matrices import class_confusion as class_confusion
from qwafer.reports.figures.matrices import label_confusion as label_confusion
from qwafer.reports.figures.style import Drawn as Drawn
from qwafer.reports.figures.style import draw as draw
from qwafer.reports.figures.style import house_style as house_style
from qwafer.reports.figures.style import new_figure as new_figure
from qwafer.reports.figures.style import save_figure as save_figure
from qwafer.reports.figures.style import text_problems as text_problems
