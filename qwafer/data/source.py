"""`read_maps`: one way in for wafer maps, whatever holds them."""

from pathlib import Path

from qwafer._errors import InputError
from qwafer.data.files import ZIP_MAGIC, check_file, npz_keys
from qwafer.data.lswmd import read_lswmd
from qwafer.data.maps import WaferMaps
from qwafer.data.mixedwm38 import read_mixedwm38
from qwafer.data.synthetic import synthetic_maps
from qwafer.data.wm811k import read_wm811k

SYNTHETIC = "synthetic"
DEFAULT_N = 2000
PICKLE_STARTS = (b"\x80", b"ccopy_reg", b"ccopyreg", b"cpandas", b"(")
"""How pickles begin: protocols 2 and up with their number, older ones with the first name or a mark."""


def read_maps(source: str | Path, *, n: int | None = None, seed: int | None = None) -> WaferMaps:
    """Return the wafer maps of `source`; draw them if it is `synthetic`, else a file whose format its content tells.

    Args:
        source: `synthetic`, or the path of a MixedWM38 NPZ, a packed WM-811K NPZ or the original LSWMD.pkl.
        n: maps to draw (default 2000); only with `synthetic`.
        seed: of the generator (default 0); only with `synthetic`.

    Raises:
        InputError: a missing or damaged file, a format that holds no wafer maps, or `n` or `seed` given with a file.
    """
    if str(source) == SYNTHETIC:
        return synthetic_maps(DEFAULT_N if n is None else n, 0 if seed is None else seed)
    for name, value in (("n", n), ("seed", seed)):
        if value is not None:
            raise InputError(
                f"`{name}` = {value} has no effect on a file ({source}): it belongs to `synthetic`; leave it out"
            )
    path = check_file(source)
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(ZIP_MAGIC):
        keys = npz_keys(path)
        if "arr_0" in keys:
            return read_mixedwm38(path)
        if "flat" in keys:
            return read_wm811k(path)
        if "features" in keys:
            raise InputError(
                f"{path} holds features, not wafer maps; give it as --features, or the maps themselves here"
            )
        raise InputError(
            f"{path} has the arrays {', '.join(keys) or '(none)'}; wafer maps are arr_0, arr_1 (MixedWM38) or flat, "
            f"shape, label, classes (packed WM-811K)"
        )
    if start.startswith(PICKLE_STARTS):
        return read_lswmd(path)
    first_line = start.split(b"\n")[0]
    if b"," in first_line and b"\0" not in start:
        raise InputError(
            f"{path} looks like a CSV table, not wafer maps; read Edge-IIoTset with qwafer.data.read_edge_iiot and "
            f"qwafer.features.from_table, and give the FeatureSet instead"
        )
    raise InputError(
        f"{path} is no wafer-map file (it starts with {start[:8]!r}); expected a MixedWM38 or packed WM-811K NPZ, or "
        f"LSWMD.pkl"
    )
