"""What is minimised, and over which batches: losses, class priors, samplers and their importance weights."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes
from qwafer.objective.bounded import Linear as Linear
from qwafer.objective.bounded import Square as Square
from qwafer.objective.options import LOSSES as LOSSES
from qwafer.objective.options import Asymmetric as Asymmetric
from qwafer.objective.options import Bce as Bce
from qwafer.objective.options import Focal as Focal
from qwafer.objective.options import Loss as Loss
from qwafer.objective.options import PerLabelLoss as PerLabelLoss
from qwafer.objective.options import RocAuc as RocAuc
from qwafer.objective.options import Softmax as Softmax
from qwafer.objective.sampling import SamplingConfig as SamplingConfig

if TYPE_CHECKING:
    from qwafer.objective._objective import Objective as Objective
    from qwafer.objective._objective import make_objective as make_objective
    from qwafer.objective.batches import Batches as Batches
    from qwafer.objective.batches import Sampler as Sampler
    from qwafer.objective.batches import batches_digest as batches_digest
    from qwafer.objective.batches import make_sampler as make_sampler
    from qwafer.objective.batches import order_digest as order_digest
    from qwafer.objective.losses import asymmetric as asymmetric
    from qwafer.objective.losses import binary_cross_entropy as binary_cross_entropy
    from qwafer.objective.losses import focal as focal
    from qwafer.objective.losses import pairwise_logistic as pairwise_logistic
    from qwafer.objective.losses import softmax_cross_entropy as softmax_cross_entropy
    from qwafer.objective.priors import class_importance_weights as class_importance_weights
    from qwafer.objective.priors import class_prior as class_prior
    from qwafer.objective.priors import class_weights as class_weights
    from qwafer.objective.priors import effective_number as effective_number
    from qwafer.objective.priors import example_weights as example_weights
    from qwafer.objective.priors import importance_weights as importance_weights
    from qwafer.objective.priors import positive_weights as positive_weights

__getattr__, __dir__ = lazy_attributes(globals())
