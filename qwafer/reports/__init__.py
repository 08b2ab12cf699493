"""What is written for a reader: documents, tables and figures."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer.reports import figures as figures

__getattr__, __dir__ = lazy_attributes(globals())
