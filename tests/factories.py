"""Short ways to the options of a run."""

from typing import Any

from qwafer.heads import HEADS
from qwafer.objective import LOSSES


def head_options(name: str = "quantum", **options: Any) -> Any:
    """Return the options of the head called `name`."""
    return HEADS.get(name)(**options)


def loss_options(loss: str = "bce", **options: Any) -> Any:
    """Return the loss called `loss`."""
    return LOSSES.get(loss)(**options)
