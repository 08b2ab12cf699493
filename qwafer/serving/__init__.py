"""From a model to a line: export, registry, service, drift; what answers, when it doubts, and how it is taken back."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer.serving.evidence import Evidence as Evidence
    from qwafer.serving.evidence import assess as assess
    from qwafer.serving.export import Exported as Exported
    from qwafer.serving.export import export_model as export_model
    from qwafer.serving.registry import Gate as Gate
    from qwafer.serving.registry import ModelRegistry as ModelRegistry
    from qwafer.serving.release import Release as Release
    from qwafer.serving.review import Review as Review
    from qwafer.serving.review import ReviewOptions as ReviewOptions

__getattr__, __dir__ = lazy_attributes(globals())
