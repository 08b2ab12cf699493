"""Published quantum models, as published and as described, each with its classical null; see docs/models.md."""

from qwafer.models.circuit_centric import CircuitCentric as CircuitCentric
from qwafer.models.dressed import Dressed as Dressed
from qwafer.models.iqp import IqpVariational as IqpVariational
from qwafer.models.kernels import IqpKernelOptions as IqpKernelOptions
from qwafer.models.kernels import ProjectedKernelOptions as ProjectedKernelOptions
from qwafer.models.kernels import SeparableKernelOptions as SeparableKernelOptions
from qwafer.models.kernels import SvcOptions as SvcOptions
from qwafer.models.kitchen_sinks import KitchenSinksOptions as KitchenSinksOptions
from qwafer.models.metric import MetricLearnerOptions as MetricLearnerOptions
from qwafer.models.options import BoltzmannOptions as BoltzmannOptions
from qwafer.models.options import DressedNnOptions as DressedNnOptions
from qwafer.models.options import FidelityOptions as FidelityOptions
from qwafer.models.options import QuanvolutionalOptions as QuanvolutionalOptions
from qwafer.models.reuploading import Reuploading as Reuploading
from qwafer.models.separable import SeparableVariational as SeparableVariational
from qwafer.models.table import MODELS as MODELS
from qwafer.models.table import Model as Model
from qwafer.models.tree_tensor import TreeTensor as TreeTensor
from qwafer.models.vanilla import Vanilla as Vanilla
from qwafer.models.weinet import WeiNet as WeiNet
