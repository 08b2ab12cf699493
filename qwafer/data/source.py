"""Readers of data sets by name, and `read_maps`: one way in for wafer maps, whatever holds them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwafer._errors import InputError
from qwafer._registry import Registry, foreign
from qwafer.data.files import ZIP_MAGIC, check_file, npz_keys
from qwafer.data.maps import WaferMaps

READERS: Registry[Callable[..., Any]] = Registry(
    "reader",
    {
        "mixedwm38": "qwafer.data.mixedwm38:read_mixedwm38",
        "wm811k": "qwafer.data.wm811k:read_wm811k",
        "outside_2": "qwafer.data.outside_2:read_outside_2",
        "lswmd": "qwafer.data.lswmd:read_lswmd",
        "edge_iiot": "qwafer.data.edge_iiot:read_edge_iiot",
        "features": "qwafer.features:FeatureSet.load",
        "synthetic": "qwafer.data.synthetic:read_synthetic",
    },
)
"""Every reader by name; one of your own is `package.module:function`: path -> WaferMaps, DataTable or FeatureSet."""

SYNTHETIC = "synthetic"
PICKLE_STARTS = (b"\x80", b"ccopy_reg", b"ccopyreg", b"cpandas", b"(")
"""How pickles begin: protocols 2 and up with their number, older ones with the first name or a mark."""


def reader_of(source: str | Path) -> str:
    """Return the name of the reader that `source` asks for by its content; `synthetic` is a source without a file.

    Raises:
        InputError: a missing or damaged file, or one that no reader of qwafer's takes.
    """
    if str(source) == SYNTHETIC:
        return SYNTHETIC
    path = check_file(source)
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(ZIP_MAGIC):
        keys = npz_keys(path)
        for key, name in (("arr_0", "mixedwm38"), ("flat", "wm811k"), ("features", "features")):
            if key in keys:
                return name
        raise InputError(
            f"{path} has the arrays {', '.join(keys) or '(none)'}; wafer maps are arr_0, arr_1 (MixedWM38) or flat, "
            f"shape, label, classes (packed WM-811K)"
        )
    if start.startswith(PICKLE_STARTS):
        return "lswmd"
    if b"," in start.split(b"\n")[0] and b"\0" not in start:
        return "edge_iiot"
    raise InputError(
        f"{path} is not a file of wafer maps (it starts with {start[:8]!r}); expected a MixedWM38 or packed WM-811K "
        f"NPZ, LSWMD.pkl, a CSV of Edge-IIoTset, or any file with a `data.reader` of your own"
    )


def is_edge_iiot(path: str | Path) -> bool:
    """Return whether `path` is a CSV with the columns of Edge-IIoTset."""
    from qwafer.data.edge_iiot import COLUMNS

    with check_file(path).open("rb") as file:
        header = file.readline(1 << 16).decode("utf-8", "replace").strip().lstrip("\ufeff")
    return set(header.split(",")) >= set(COLUMNS)


def read(source: str | Path, reader: str | None = None, *, n: int | None = None, seed: int | None = None) -> Any:
    """Return what the reader makes of `source`; `n` and `seed` go to one that takes them, as `synthetic` does.

    Raises:
        InputError: an unknown reader, what the reader refuses, what one of your own raises, or `n` or `seed` with a
            reader that does not take them.
    """
    reader = reader_of(source) if reader is None else reader
    function = READERS.get(reader)
    given = {name: value for name, value in (("n", n), ("seed", seed)) if value is not None}
    for name, value in given.items():
        if name not in inspect.signature(function).parameters:
            raise InputError(
                f"`{name}` = {value} has no effect on a file ({source}): it belongs to `synthetic`; leave it out"
            )
    with foreign("reader", reader):
        return function(Path(source), **given)


def read_maps(
    source: str | Path, *, reader: str | None = None, n: int | None = None, seed: int | None = None
) -> WaferMaps:
    """Return the wafer maps of `source`; draw them if it is `synthetic`, else a file whose format its content tells.

    Args:
        source: `synthetic`, or the path of a MixedWM38 NPZ, a packed WM-811K NPZ or the original LSWMD.pkl.
        reader: name of the reader in place of what the content tells; see `READERS`.
        n: maps to draw (default 2000); only with `synthetic`.
        seed: of the generator (default 0); only with `synthetic`.

    Raises:
        InputError: a missing or damaged file, one that does not hold wafer maps, or `n` or `seed` given with a file.
    """
    reader = reader_of(source) if reader is None else reader
    if reader == "features":
        raise not_maps(source)
    if reader == "edge_iiot":
        raise InputError(
            f"{source} holds a table, not wafer maps: read it with qwafer.data.read_edge_iiot, or give it to a verb"
        )
    found = read(source, reader, n=n, seed=seed)
    if not isinstance(found, WaferMaps):
        raise InputError(f"reader {reader} gives a {type(found).__name__} of {source}, not wafer maps")
    return found


def not_maps(source: str | Path) -> InputError:
    """Return what every verb says of features in the place of maps."""
    return InputError(f"{source} holds features, not wafer maps: give it as --features (ablate, bench, diagnose)")


def own_features(source: str | Path, reader: str | None) -> InputError:
    """Return what `extract` says of features; `--features` takes only those in qwafer's own format."""
    if reader is None or reader in READERS.names:
        return not_maps(source)
    return InputError(
        f"{source} holds features, which need no backbone: ablate, bench and diagnose read it with --maps {source} "
        f"--set data.reader={reader}"
    )
