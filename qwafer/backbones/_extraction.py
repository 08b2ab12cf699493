"""Extraction: wafer maps through a frozen backbone, once, into a `FeatureSet`."""

import contextlib
import errno
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import canonical_json, digest, jsonable
from qwafer.backbones._base import Extractor, Features, available_cores
from qwafer.backbones._chunks import ChunkStore, difference
from qwafer.backbones._registry import extractor
from qwafer.data import WaferMaps
from qwafer.features import FeatureSet

Progress = Callable[[int, int], None]
"""Called with (distinct maps done, distinct maps in all) at the start and after every compute batch."""

DEFAULT_BATCH = 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def extract(
    maps: WaferMaps,
    backbone: str | Extractor,
    out: str | Path,
    *,
    batch: int = DEFAULT_BATCH,
    dtype: str = "float32",
    jobs: int | None = None,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    channels: str | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Write the features of `maps` to `out` (.npz) and return them, mapped from disk.

    Identical maps (equal content ids) are computed once. Chunks of `batch` maps go to `OUT.parts/` as they are done; a
    killed run is taken up where it stopped, and its arrays are those of an unbroken run, bit for bit. Neither `batch`
    nor `jobs` (threads; one a core if none) has an influence on the numbers. Memory does not grow with the number of
    maps, beyond the maps themselves.

    Features of a backbone that was trained on some of these maps carry its split (`FeatureSet.split`).

    An `out` that exists with the same provenance is returned as it is; one of other provenance is refused.

    Raises:
        InputError: unusable weights; an output that is in the way; a full disk.
    """
    check_positive_int("batch", batch)
    threads = _thread_count(jobs)
    out = Path(out)
    if not isinstance(backbone, Extractor):
        backbone = extractor(backbone, weights=weights, random_weights=random_weights, dtype=dtype, channels=channels)
    record = provenance(maps, backbone)
    if is_complete(out, record):
        return FeatureSet.load(out)

    first, inverse = _distinct(maps)
    store = ChunkStore(out.with_name(out.name + ".parts"), record, len(first))
    step = -(-batch // backbone.compute_batch) * backbone.compute_batch
    with _space_on(out, store), store.opened():
        gaps = store.missing(step)
        done = len(first) - sum(stop - start for start, stop in gaps)
        _report(progress, done, len(first))
        with _pool(threads) as pool:
            for start, stop in gaps:
                selected = [maps.maps[i] for i in first[start:stop]]
                blocks = []
                for block in _blocks(backbone, selected, pool):
                    blocks.append(block)
                    done += len(block)
                    _report(progress, done, len(first))
                store.write(start, np.concatenate(blocks))
        features = _feature_set(maps, backbone, store.assembled(inverse))
        features.save(out)
        store.remove()
    return features


def features_from_maps(
    maps: WaferMaps,
    backbone: str | Extractor = "spatial",
    *,
    dtype: str = "float32",
    jobs: int | None = None,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    channels: str | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Return the features of `maps` without touching the disk: the same arrays and provenance as `extract` writes."""
    threads = _thread_count(jobs)
    if not isinstance(backbone, Extractor):
        backbone = extractor(backbone, weights=weights, random_weights=random_weights, dtype=dtype, channels=channels)
    first, inverse = _distinct(maps)
    _report(progress, 0, len(first))
    blocks: list[Features] = []
    with _pool(threads) as pool:
        for block in _blocks(backbone, [maps.maps[i] for i in first], pool):
            blocks.append(block)
            _report(progress, sum(map(len, blocks)), len(first))
    return _feature_set(maps, backbone, np.concatenate(blocks)[inverse])


def provenance(maps: WaferMaps, backbone: Extractor) -> dict[str, Any]:
    """Return the record of `maps` through `backbone`, which a FeatureSet carries: what determines its numbers."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "qwafer": _qwafer_version()}
    record = {"backbone": backbone.name, "compute_batch": backbone.compute_batch, **backbone.record}
    record["versions"] = {**versions, **record.get("versions", {})}
    record["data"] = {"source": maps.source, "sha256": maps.sha256, "n_maps": len(maps)}
    split = _split(maps, backbone)
    record["split"] = None if split is None else digest(split, np.asarray(maps.content_ids))
    return dict(jsonable(record))


def is_complete(out: str | Path, record: dict[str, Any]) -> bool:
    """Return whether `out` holds the features of `record` already; raise InputError if it holds anything else."""
    out = Path(out)
    if not out.exists():
        return False
    try:
        found = FeatureSet.load(out).provenance
    except InputError as error:
        raise InputError(f"{out} exists and is no feature file: choose another output ({error})") from error
    if canonical_json(found) != canonical_json(record):
        raise InputError(
            f"{out} exists and holds other features ({difference(found, record)}): delete it, or choose another output"
        )
    return True


def _blocks(backbone: Extractor, maps: Sequence[np.ndarray], pool: ThreadPoolExecutor) -> Iterator[Features]:
    """Yield the features of `maps`, a compute batch at a time and in order."""
    size = backbone.compute_batch
    groups = [maps[i : i + size] for i in range(0, len(maps), size)]
    for group, rows in zip(groups, pool.map(backbone.features, groups), strict=True):
        if rows.ndim != 2 or len(rows) != len(group) or rows.dtype != np.float32:
            raise TypeError(f"backbone {backbone.name} returned {rows.dtype}{rows.shape} for {len(group)} maps")
        if not np.isfinite(rows).all():
            raise InputError(
                f"backbone {backbone.name} gives features that are not finite: its weights do not fit these maps, or "
                f"dtype {backbone.record['dtype']} is too narrow for them"
            )
        yield rows


def _distinct(maps: WaferMaps) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, inverse): the index of each distinct map's first occurrence, ascending; each map's rank in it."""
    _, first, inverse = np.unique(np.asarray(maps.content_ids), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def _split(maps: WaferMaps, backbone: Extractor) -> np.ndarray | None:
    return None if backbone.split is None else backbone.split(np.asarray(maps.content_ids))


def _feature_set(maps: WaferMaps, backbone: Extractor, features: np.ndarray) -> FeatureSet:
    return FeatureSet(
        features=features,
        labels=maps.labels,
        label_names=maps.label_names,
        content_ids=maps.content_ids,
        provenance=provenance(maps, backbone),
        groups=maps.groups,
        times=maps.times,
        exclusive=maps.exclusive,
        split=_split(maps, backbone),
        feature_names=backbone.feature_names,
    )


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is dropped when the extraction fails or is interrupted."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _space_on(out: Path, store: ChunkStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"the disk of {out} is full: make space and run the same command again, which takes up {store.folder}"
        ) from error


def _thread_count(jobs: int | None) -> int:
    if jobs is None:
        return available_cores()
    check_positive_int("jobs", jobs)
    return jobs


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _qwafer_version() -> str:
    try:
        return importlib.metadata.version("qwafer")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
