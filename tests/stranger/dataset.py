"""A reader of a stranger's own: an NPZ of dies, labels and lots."""

import hashlib
from pathlib import Path

import numpy as np

from qwafer.data import WaferMaps, content_ids


def read_lots(path: Path) -> WaferMaps:
    with np.load(path) as file:
        dies, edge, lot = (file[name] for name in ("dies", "edge", "lot"))
    return WaferMaps(
        maps=dies,
        labels=edge[:, None],
        label_names=("Edge",),
        content_ids=content_ids(dies),
        source=f"lots, {Path(path).name}",
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        groups=lot,
    )
