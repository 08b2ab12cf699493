"""`python -m qwafer.fit`: a network trained on wafer maps, its weights and its run."""

import sys
from types import ModuleType
from typing import Any

from qwafer.cli.fit import build_parser as build_parser
from qwafer.cli.fit import main as main


class _Verb(ModuleType):
    """The module of the verb is the function as well: `qwafer.fit(maps, "wafercnn", "net.safetensors")`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from qwafer.fitting import fit

        return fit(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb

if __name__ == "__main__":
    sys.exit(main())
