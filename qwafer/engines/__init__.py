"""How circuits are executed: engines turn a `CircuitSpec` and a batch size into a differentiable program."""

import importlib
from typing import Any

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.engines.base import Engine as Engine
from qwafer.engines.base import Program as Program
from qwafer.engines.base import Weights as Weights
from qwafer.engines.cache import cache_clear as cache_clear
from qwafer.engines.cache import cache_info as cache_info

_ENGINES = {
    "catalyst": ("qwafer.engines.catalyst.engine", "CatalystEngine"),
    "xla": ("qwafer.engines.xla.engine", "XlaEngine"),
    "reference": ("qwafer.engines.reference", "ReferenceEngine"),
    "auto": ("qwafer.engines.auto", "AutoEngine"),
}


def get(name: str = "catalyst", **options: Any) -> Engine:
    """Return the engine called `name`: `catalyst`, `xla`, `reference` or `auto`.

    `options` are the engine's own (for `catalyst`: batching, device, shots, diff_method, seed). An option that the
    engine does not have raises InputError. The engine's packages are imported here, not before.
    """
    check_choice("engine", name, _ENGINES)
    module, attribute = _ENGINES[name]
    engine = getattr(importlib.import_module(module), attribute)
    try:
        return engine(**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "takes no arguments" not in str(error):
            raise
        raise InputError(f"engine {name} does not have all of the options {', '.join(sorted(options))}") from error
