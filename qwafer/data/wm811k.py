"""Reader of WM-811K as a packed NPZ (Wu, Jang and Chen 2015, doi 10.1109/TSM.2014.2364237)."""

from pathlib import Path

import numpy as np

from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._reading import reads
from qwafer.data.files import check_count, load_npz
from qwafer.data.maps import MAX_LABELS, MAX_SIDE, Recode, WaferMaps, as_is, content_ids, one_hot, unpack_maps

REQUIRED_KEYS = ("flat", "shape", "label", "classes")


@reads("is not a whole file of packed WM-811K")
def read_wm811k(path: str | Path, recode: Recode = as_is) -> WaferMaps:
    """Return the maps of a packed WM-811K NPZ at their native resolutions.

    The file holds `flat` (uint8, all maps end to end, row-major), `shape` (N, 2), `label` (N,) and `classes`
    (C,) names; where it has `lot` (N,), that is the group. The classes exclude one another: labels are one-hot over
    `classes`, with `none` (no pattern) a class of its own, and `exclusive` is set. `recode` turns the dies of a file of
    another encoding into this one.

    Raises:
        InputError: arrays missing or of other types, lengths that do not fit, a label outside `classes`, or a die
            value outside 0..2.
    """
    arrays = load_npz(path, REQUIRED_KEYS, "packed WM-811K", optional=("lot",))
    flat, shapes, codes, classes = (arrays[key] for key in REQUIRED_KEYS)
    n = len(codes) if codes.ndim == 1 else -1
    for name, array, kinds, fits, what in (
        ("flat", flat, "u", flat.ndim == 1 and flat.dtype == np.uint8, "one row of uint8 dies"),
        ("shape", shapes, "iu", shapes.shape == (n, 2), "one (height, width) per label"),
        ("label", codes, "iu", codes.ndim == 1, "one class number per map"),
        ("classes", classes, "U", classes.ndim == 1, "class names"),
    ):
        if array.dtype.kind not in kinds or not fits:
            raise InputError(f"{path}: `{name}` must be {what}, got {array.dtype} of shape {array.shape}")
    sides = shapes.astype(np.int64)
    check_count(path, n)
    if n and int(sides.max()) > MAX_SIDE:
        raise InputError(f"{path}: `shape` must be at most {MAX_SIDE} dies a side, got {int(sides.max())}")
    if len(classes) > MAX_LABELS:
        raise InputError(f"{path}: `classes` must be at most {MAX_LABELS} names, got {len(classes)}")
    if n and (sides.min() < 1 or int((sides[:, 0] * sides[:, 1]).sum()) != len(flat)):
        raise InputError(
            f"{path}: `shape` must add up to the {len(flat)} dies of `flat`, got "
            f"{int((sides[:, 0] * sides[:, 1]).sum())} (smallest side {sides.min()})"
        )
    codes = codes.astype(np.int64)
    if n and (codes.min() < 0 or codes.max() >= len(classes)):
        raise InputError(
            f"{path}: `label` must lie in 0..{len(classes) - 1}, one of the {len(classes)} classes, "
            f"got {codes.min()}..{codes.max()}"
        )
    lots = arrays.get("lot")
    maps = unpack_maps(recode(flat), sides)
    return WaferMaps(
        maps=maps,
        labels=one_hot(codes, len(classes)),
        label_names=tuple(class_name(name) for name in classes.tolist()),
        content_ids=content_ids(maps),
        source=f"WM-811K ({Path(path).name})",
        sha256=file_sha256(path),
        groups=None if lots is None else lots.astype(np.str_),
        exclusive=True,
    )


def class_name(name: str) -> str:
    """Return the name of a class as this library spells it: `none`, in lower case, is the class without a pattern."""
    return "none" if name.casefold() == "none" else name
