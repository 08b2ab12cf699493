"""Backbones by name, and the extractor behind each."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._registry import Registry, foreign
from qwafer.backbones.base import Extractor

if TYPE_CHECKING:
    from qwafer.backbones.adapters import Adapters
    from qwafer.backbones.checkpoints import Checkpoint

_SIZES = ("T", "T2", "S", "B", "B_21k", "L", "L_21k", "L2", "L2_512_21k", "L3_256_21k", "L3_512_21k")
BACKBONES: Registry[Any] = Registry(
    "backbone",
    {
        "spatial": "qwafer.backbones.spatial:spatial_extractor",
        **{f"dies_{size}": f"qwafer.backbones.dies:DIES_{size}" for size in (26, 32, 52, 64)},
        "wafercnn": "qwafer.networks.wafercnn_module:FROZEN",
        "waferresnet": "qwafer.networks.frozen:WAFERRESNET",
        "trm": "qwafer.networks.frozen:TRM",
        "efficientnet": "qwafer.networks.students:EFFICIENTNET",
        "mobilenet": "qwafer.networks.students:MOBILENET",
        "logits": "qwafer.model:logits_backbone",
        "efficientnet_b0": "qwafer.backbones.efficientnet:EFFICIENTNET_B0",
        "mobilenet_v3_small": "qwafer.backbones.mobilenet:MOBILENET_V3_SMALL",
        **{f"mamba_vision_{size}": f"qwafer.backbones.mambavision:VARIANTS.mamba_vision_{size}" for size in _SIZES},
    },
)
"""Every backbone by name (`NAME@STAGE`: a network, cut before that stage); one of your own is `package.module:thing`,
and the thing is one of four:

- an `Extractor`;
- a function that returns one; its parameters are those of `OPTIONS` that it takes, none of them without a default;
- a function from a sequence of maps, 2-D uint8 arrays of any shapes, to (n, D) features of each map on its own, safe to
  call from several threads;
- a class of a network that is trained before it is frozen (`qwafer.networks.Network`).
"""

OPTIONS = ("weights", "random_weights", "dtype", "channels", "adapters")
_REASONS = {
    "weights": "has no weights to choose",
    "random_weights": "has no weights to choose",
    "dtype": "computes in float32 only",
    "channels": "works on the map itself",
    "adapters": "has no weights to adapt",
}
MapFunction: TypeAlias = Callable[..., Any]
"""A function from a sequence of maps to (n, D) features, one that returns an `Extractor`, or a class of a network."""
FUNCTION_BATCH = 256
"""Maps per call of a plain function."""


def parted(name: str) -> tuple[str, str | None]:
    """Return the backbone that `name` names, and the stage before which `NAME@STAGE` cuts it; None: whole."""
    front, mark, cut = name.rpartition("@") if isinstance(name, str) else ("", "", "")
    return (front, cut) if mark and not {":", "/"} & set(cut) else (name, None)


def backbone_thing(name: str) -> Any:
    """Return what stands behind the name of a backbone, cut where the name says so.

    Raises InputError for an unknown name, a backbone that cannot be cut, or one without such a stage.
    """
    whole, cut = parted(name)
    thing = BACKBONES.get(whole)
    if cut is None:
        return thing
    if not hasattr(thing, "at"):
        raise InputError(
            f"backbone {whole} has no stages to be cut at: take a network such as wafercnn, or leave out @{cut}"
        )
    return thing.at(cut)


def extractor(
    backbone: "str | Extractor | MapFunction",
    *,
    weights: "str | Path | Checkpoint | None" = None,
    random_weights: int | None = None,
    dtype: str | None = None,
    channels: str | None = None,
    adapters: "str | Path | Adapters | None" = None,
) -> Extractor:
    """Return the extractor called `backbone`, ready to run; see `load` for the options, which networks take.

    An `Extractor` is returned as it is: it takes no options, for it is made already. A function, or a class of a
    network, stands for its name, `package.module:function`: worker processes and saved models find it by that.

    Raises:
        InputError: an unknown name, missing or unusable weights, or an option that the backbone does not have.
    """
    values: dict[str, Any] = {
        "weights": weights,
        "random_weights": random_weights,
        "dtype": dtype,
        "channels": channels,
        "adapters": adapters,
    }
    given = {option: value for option, value in values.items() if value is not None}
    if isinstance(backbone, Extractor):
        if given:
            raise InputError(f"backbone {backbone.name} is made already: give {next(iter(given))} where it is made")
        return backbone
    if not isinstance(backbone, str):
        backbone = _name_of(backbone)
    thing, taken = _maker(backbone)
    for option, value in given.items():
        if option not in (taken or ()) and (option, value) != ("dtype", "float32"):
            raise InputError(f"backbone {backbone} {_REASONS[option]}: leave out --{option.replace('_', '-')}")
    if isinstance(thing, Extractor):
        return dataclasses.replace(thing, name=backbone, features=_guarded(backbone, thing.features))
    if taken is None:
        return _of_function(backbone, thing)
    options = {option: value for option, value in given.items() if option in taken}
    if "weights" in taken and not {"weights", "random_weights"} & set(options) and _needs_weights(thing):
        raise InputError(f"backbone {backbone} needs weights: give --weights PATH, or --train it first")
    with foreign("backbone", backbone):
        made = thing(**options)
    if not isinstance(made, Extractor):
        raise InputError(f"backbone {backbone} must give an Extractor, got a {type(made).__name__}")
    inside = () if made.state is None else ("weights", "adapters")
    kept = {option: value for option, value in options.items() if option not in inside}
    return dataclasses.replace(made, name=backbone, options=kept, features=_guarded(backbone, made.features))


def _name_of(function: Any) -> str:
    """Return the name that gives `function` back."""
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise InputError(f"`backbone` must be a name, an Extractor or a function, got {function!r:.80}")
    if "<lambda>" in function.__qualname__:
        raise InputError("`backbone` is a lambda, where nothing else finds it: define it in a module, with a name")
    return BACKBONES.name_of(function)


def taken_options(backbone: str) -> tuple[str, ...]:
    """Return which of `OPTIONS` the backbone called `backbone` takes."""
    return _maker(backbone)[1] or ()


def _maker(name: str) -> tuple[Any, tuple[str, ...] | None]:
    """Return what stands behind a name, an Extractor or something to call, and which options it takes; None for a
    function of maps, which takes those instead.
    """
    thing = backbone_thing(name)
    if isinstance(thing, Extractor):
        return thing, ()
    trained = isinstance(thing, type) and hasattr(thing, "train") and hasattr(thing, "extractor")
    if not callable(thing) or (isinstance(thing, type) and not trained):
        raise InputError(f"`backbone` = {name} is {thing!r:.80}, not an Extractor, a function or a network")
    with foreign("backbone", name):
        maker = thing().extractor if trained else thing
    try:
        parameters = tuple(inspect.signature(maker).parameters)
    except ValueError:  # a function in C that does not tell
        return maker, None
    return maker, parameters if trained or set(parameters) <= set(OPTIONS) else None


def _needs_weights(maker: Any) -> bool:
    return inspect.signature(maker).parameters["weights"].default is inspect.Parameter.empty


def _guarded(
    name: str, function: Callable[[Sequence[np.ndarray]], np.ndarray]
) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the features function, where it is anybody's own with InputError for whatever it raises."""
    if ":" not in name:
        return function

    def features(maps: Sequence[np.ndarray]) -> np.ndarray:
        with foreign("backbone", name):
            return function(maps)

    return features


def _source_sha256(thing: Any) -> str | None:
    """Return the SHA-256 of the file that defines `thing`, or of its own text in a notebook; None where neither is
    known.
    """
    try:
        return file_sha256(inspect.getsourcefile(thing) or "")
    except (TypeError, OSError):  # built into the interpreter; typed into it
        pass
    try:
        return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()
    except (TypeError, OSError):
        return None


def _of_function(name: str, function: Any) -> Extractor:
    """Return the extractor of a plain function, whose record holds the digest of its source file."""
    plain = function.func if isinstance(function, partial) else function
    record = {
        "weights": None,
        "random_weights": None,
        "preprocessing": "none: a function of the maps",
        "dtype": "float32",
        "source_sha256": _source_sha256(plain if inspect.isroutine(plain) else type(plain)),
    }

    def features(maps: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(function(maps), np.float32)

    return Extractor(name, FUNCTION_BATCH, record, _guarded(name, features), pictures=True)
