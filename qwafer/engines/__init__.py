"""How circuits are executed: engines turn a circuit and a batch size into a differentiable program."""

from typing import Any

from qwafer._errors import InputError
from qwafer._registry import Registry
from qwafer.engines.base import Engine as Engine
from qwafer.engines.base import Program as Program
from qwafer.engines.base import Weights as Weights
from qwafer.engines.cache import cache_clear as cache_clear
from qwafer.engines.cache import cache_info as cache_info

ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    {
        "catalyst": "qwafer.engines.catalyst.engine:CatalystEngine",
        "xla": "qwafer.engines.xla.engine:XlaEngine",
        "reference": "qwafer.engines.reference:ReferenceEngine",
        "auto": "qwafer.engines.auto:AutoEngine",
    },
)


def get(name: str = "catalyst", **options: Any) -> Engine:
    """Return the engine called `name`: `catalyst`, `xla`, `reference`, `auto`, or `package.module:YourEngine`.

    `options` are the engine's own fields (for `catalyst`: batching, device, shots, diff_method). An option that the
    engine does not have raises InputError. What executes circuits is imported with the first program, not here.
    """
    engine = ENGINES.get(name)
    try:
        return engine(**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "takes no arguments" not in str(error):
            raise
        raise InputError(f"engine {name} does not have all of the options {', '.join(sorted(options))}") from error
