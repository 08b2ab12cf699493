"""qwafer: quantum machine learning on semiconductor wafer maps that you cannot fool yourself with.

Frozen backbone features feed compiled variational heads; probes check a circuit before it is trusted; a comparison
ends in a paired statistic over seeds. Importing this package is light: JAX, PennyLane and Catalyst load when
something needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from qwafer._errors import CapabilityError as CapabilityError
from qwafer._errors import InputError as InputError
from qwafer._errors import PairingError as PairingError

if TYPE_CHECKING:
    from qwafer import engines as engines
    from qwafer import probes as probes
    from qwafer.backbones import features_from_maps as features_from_maps
    from qwafer.circuits import CircuitSpec as CircuitSpec
    from qwafer.config import RunConfig as RunConfig
    from qwafer.data import read_maps as read_maps
    from qwafer.data import synthetic_maps as synthetic_maps
    from qwafer.experiment import load_experiment as load_experiment
    from qwafer.features import FeatureSet as FeatureSet
    from qwafer.model import Model as Model
    from qwafer.training import train as train

__version__ = "0.1.0"

_LAZY = {
    "engines": ("qwafer.engines", None),
    "probes": ("qwafer.probes", None),
    "features_from_maps": ("qwafer.backbones", "features_from_maps"),
    "CircuitSpec": ("qwafer.circuits", "CircuitSpec"),
    "RunConfig": ("qwafer.config", "RunConfig"),
    "read_maps": ("qwafer.data", "read_maps"),
    "synthetic_maps": ("qwafer.data", "synthetic_maps"),
    "load_experiment": ("qwafer.experiment", "load_experiment"),
    "FeatureSet": ("qwafer.features", "FeatureSet"),
    "Model": ("qwafer.model", "Model"),
    "train": ("qwafer.training", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qwafer' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
