"""Frozen backbones: wafer maps or images in, features out; computed once, stored with their provenance.

JAX and flax load when a network is asked for, not before.
"""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes
from qwafer.backbones._base import Extractor as Extractor
from qwafer.backbones._extraction import DEFAULT_BATCH as DEFAULT_BATCH
from qwafer.backbones._extraction import extract as extract
from qwafer.backbones._extraction import features_from_maps as features_from_maps
from qwafer.backbones._extraction import is_complete as is_complete
from qwafer.backbones._extraction import provenance as provenance
from qwafer.backbones._registry import NAMES as NAMES
from qwafer.backbones._registry import extractor as extractor

if TYPE_CHECKING:
    from qwafer.backbones._model import Backbone as Backbone
    from qwafer.backbones._model import load as load
    from qwafer.backbones._wafercnn_training import WaferCNNTraining as WaferCNNTraining
    from qwafer.backbones._wafercnn_training import train_wafercnn as train_wafercnn

__getattr__, __dir__ = lazy_attributes(globals())
