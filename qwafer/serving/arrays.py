"""`ModuleArrays`: NumPy or JAX under the interface in which exported functions are written; see `OnnxArrays`."""

from types import ModuleType
from typing import Any


class ModuleArrays:
    """`numpy` or `jax.numpy`, with the lengths of arrays as numbers of the program: in JAX they may be symbols."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def length(self, x: Any, axis: int) -> Any:
        """Return the length of an axis, a number of the program."""
        return self.module.asarray(x.shape[axis])

    def indices(self, x: Any, axis: int, per: int = 1) -> Any:
        """Return 0, 1, ... to the length of an axis over `per`, rounded up."""
        return self.module.arange((x.shape[axis] + per - 1) // per)

    def swapaxes(self, x: Any, first: int, second: int, rank: int = 2) -> Any:
        """Return `x`, of `rank` axes, with two of them exchanged."""
        return self.module.swapaxes(x, first, second)

    def flatten(self, x: Any) -> Any:
        """Return the values as (batch, what is left)."""
        return x.reshape(x.shape[0], -1)
