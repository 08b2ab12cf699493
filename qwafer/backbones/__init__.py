"""Frozen backbones: wafer maps or images in, features out; computed once, stored with their provenance."""

from qwafer.backbones._base import Extractor as Extractor
from qwafer.backbones._extraction import DEFAULT_BATCH as DEFAULT_BATCH
from qwafer.backbones._extraction import extract as extract
from qwafer.backbones._extraction import features_from_maps as features_from_maps
from qwafer.backbones._extraction import is_complete as is_complete
from qwafer.backbones._extraction import provenance as provenance
from qwafer.backbones._registry import extractor as extractor
