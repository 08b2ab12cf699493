"""`Network`: what is trained on maps and then frozen into a backbone."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from qwafer._errors import InputError
from qwafer._registry import Registry, foreign
from qwafer.backbones import Extractor
from qwafer.backbones.registry import parted
from qwafer.data import WaferMaps
from qwafer.execution.job import OnProgress


class Network(Protocol):
    """The options of a network, a frozen dataclass with a default for each, and what is done with them."""

    def train(self, maps: WaferMaps, path: str | Path, progress: OnProgress | None = None) -> Path:
        """Train on the training split of `maps`, write the weights to `path` and return it.

        Weights that are there already are kept if the same training made them, and refused with InputError if not.
        """
        ...

    def extractor(self, weights: str | Path) -> Extractor:
        """Return the frozen network with weights that `train` wrote; `Extractor.split` says what they have seen.

        It may take `random_weights`, `dtype` and `channels` as well: see `backbones.extractor`.
        """
        ...


NETWORKS: Registry[Any] = Registry(
    "network",
    {
        "wafercnn": "qwafer.fitting:WaferCNN",
        "waferresnet": "qwafer.fitting:WaferResNet",
        "efficientnet": "qwafer.fitting:EfficientNet",
        "mobilenet": "qwafer.fitting:MobileNet",
    },
)
"""Every network by name; one of your own is `package.module:Class`."""


@dataclasses.dataclass(frozen=True)
class _Foreign:
    """A network of anybody's own, with InputError for whatever it raises."""

    _name: str
    _network: Network

    def train(self, maps: WaferMaps, path: str | Path, progress: OnProgress | None = None) -> Path:
        with foreign("network", self._name):
            return self._network.train(maps, path, progress)

    def extractor(self, weights: str | Path, **options: Any) -> Extractor:
        with foreign("network", self._name):
            return self._network.extractor(weights, **options)

    def __getattr__(self, option: str) -> Any:
        if option.startswith("_"):
            raise AttributeError(option)
        return getattr(self._network, option)


def is_network(name: str) -> bool:
    """Return whether the backbone called `name`, cut or whole, is a network that can be trained here."""
    name = parted(name)[0]
    if name in NETWORKS.names or ":" not in name:
        return name in NETWORKS.names
    thing = NETWORKS.get(name)
    return isinstance(thing, type) and hasattr(thing, "train") and hasattr(thing, "extractor")


def network(name: str, **options: Any) -> Network:
    """Return the network called `name`, trained whole where the name cuts it, with `options`; raise InputError for one
    that it does not have.
    """
    if not is_network(name):
        raise InputError(
            f"backbone {name} is not trained here: take --backbone {' or '.join(NETWORKS.names)}, or yours"
        )
    name = parted(name)[0]
    kind = NETWORKS.get(name)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    for option in options:
        if option not in known:
            raise InputError(f"network {name} has no option {option}; it has {', '.join(known) or 'none'}")
    if ":" not in name:
        return kind(**options)
    with foreign("network", name):
        return _Foreign(name, kind(**options))
