"""Maps from features to logits: a quantum head, its classical rivals, and contenders that train themselves."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes
from qwafer.heads.few_bits import MixtureOptions as MixtureOptions
from qwafer.heads.few_bits import QuantisedOptions as QuantisedOptions
from qwafer.heads.options import HEADS as HEADS
from qwafer.heads.options import LOOP as LOOP
from qwafer.heads.options import PARAMETER_GROUPS as PARAMETER_GROUPS
from qwafer.heads.options import Contender as Contender
from qwafer.heads.options import Fitted as Fitted
from qwafer.heads.options import LinearOptions as LinearOptions
from qwafer.heads.options import MlpOptions as MlpOptions
from qwafer.heads.options import QuantumOptions as QuantumOptions
from qwafer.heads.options import TrainedHead as TrainedHead
from qwafer.heads.options import TreeOptions as TreeOptions
from qwafer.heads.options import TrigonometricOptions as TrigonometricOptions

if TYPE_CHECKING:
    from qwafer.heads._base import Halted as Halted
    from qwafer.heads._base import Head as Head
    from qwafer.heads._base import HeadInputs as HeadInputs
    from qwafer.heads._base import draw as draw
    from qwafer.heads._base import group_of as group_of
    from qwafer.heads._base import head_inputs as head_inputs
    from qwafer.heads._classical import LinearHead as LinearHead
    from qwafer.heads._classical import MlpHead as MlpHead
    from qwafer.heads._mixture import MixtureHead as MixtureHead
    from qwafer.heads._predict import predict_logits as predict_logits
    from qwafer.heads._projection import orthonormal_frame as orthonormal_frame
    from qwafer.heads._projection import principal_axes as principal_axes
    from qwafer.heads._quantised import QuantisedHead as QuantisedHead
    from qwafer.heads._quantum import QuantumHead as QuantumHead
    from qwafer.heads._tree import FittedTree as FittedTree
    from qwafer.heads._trigonometric import TrigonometricHead as TrigonometricHead
    from qwafer.heads._trigonometric import trigonometric_features as trigonometric_features
    from qwafer.heads.size import Size as Size
    from qwafer.heads.size import SizePart as SizePart
    from qwafer.heads.size import Stored as Stored
    from qwafer.heads.size import size_of as size_of

__getattr__, __dir__ = lazy_attributes(globals())
