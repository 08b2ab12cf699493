"""Frozen backbones: wafer maps or images in, features out; computed once, stored with their provenance.

JAX and flax load when a network is asked for, not before.
"""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes
from qwafer.backbones.base import Extractor as Extractor
from qwafer.backbones.extraction import DEFAULT_BATCH as DEFAULT_BATCH
from qwafer.backbones.extraction import extract as extract
from qwafer.backbones.extraction import features_from_maps as features_from_maps
from qwafer.backbones.extraction import is_complete as is_complete
from qwafer.backbones.extraction import provenance as provenance
from qwafer.backbones.registry import BACKBONES as BACKBONES
from qwafer.backbones.registry import extractor as extractor

if TYPE_CHECKING:
    from qwafer.backbones.pretrained import Backbone as Backbone
    from qwafer.backbones.pretrained import load as load

__getattr__, __dir__ = lazy_attributes(globals())
