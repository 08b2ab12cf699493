"""qwafer: quantum machine learning on semiconductor wafer maps that you cannot fool yourself with.

Frozen backbone features feed compiled variational heads; probes check a circuit before it is trusted; a comparison
ends in a paired statistic over seeds. Importing this package is light: JAX, PennyLane and Catalyst load when
something needs them.
"""

from typing import TYPE_CHECKING

from qwafer._errors import CapabilityError as CapabilityError
from qwafer._errors import InputError as InputError
from qwafer._errors import PairingError as PairingError
from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer import engines as engines
    from qwafer import probes as probes
    from qwafer._process import compiler_options as compiler_options
    from qwafer._process import configure_jax as configure_jax
    from qwafer.backbones import features_from_maps as features_from_maps
    from qwafer.circuits import CircuitSpec as CircuitSpec
    from qwafer.circuits.capture import circuit as circuit
    from qwafer.config import RunConfig as RunConfig
    from qwafer.data import read_maps as read_maps
    from qwafer.data import synthetic_maps as synthetic_maps
    from qwafer.experiment import load_experiment as load_experiment
    from qwafer.features import FeatureSet as FeatureSet
    from qwafer.fitting import fit as fit
    from qwafer.heads import size_of as size_of
    from qwafer.model import Model as Model
    from qwafer.onnx import Int8Options as Int8Options
    from qwafer.onnx import quantise as quantise
    from qwafer.reports import figures as figures
    from qwafer.training import train as train

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_attributes(globals())
