"""Extraction: wafer maps through a frozen backbone, once, into a `FeatureSet`."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from qwafer._checks import check_path, check_positive_int
from qwafer._errors import InputError, RecordError
from qwafer._io import canonical_json, digest, is_full, jsonable, npz_damage, read_or_set_aside
from qwafer.backbones.base import Extractor, Features, available_cores
from qwafer.backbones.checkpoints import packed_tensors
from qwafer.backbones.chunks import ChunkStore, difference
from qwafer.backbones.registry import MapFunction, extractor
from qwafer.backbones.remote import compute_chunks
from qwafer.data import Clips, WaferMaps
from qwafer.execution.job import Event, Executor, Job, OnProgress, Progress
from qwafer.execution.threads import Threads
from qwafer.features import FeatureSet

DEFAULT_BATCH = 1024


def extract(
    maps: WaferMaps | Clips,
    backbone: str | Extractor | MapFunction,
    out: str | Path,
    *,
    batch: int = DEFAULT_BATCH,
    dtype: str | None = None,
    jobs: int | None = None,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    channels: str | None = None,
    adapters: str | Path | None = None,
    executor: Executor | None = None,
    progress: OnProgress | None = None,
) -> FeatureSet:
    """Write the features of `maps` to `out` (.npz) and return them, mapped from disk.

    Identical maps (equal content ids) are computed once. Chunks of `batch` maps go to `OUT.parts/` as they are done; a
    killed run is resumed where it stopped, and its arrays are those of an unbroken run, bit for bit. Neither `batch`
    nor `jobs` (threads; one per core if none) has an influence on the numbers. Memory does not grow with the number of
    maps, beyond the maps themselves. Without an `executor` threads of this process compute; with one, its jobs do, a
    chunk each, to which maps and weights travel as files. `progress` is told of distinct maps, at the start and as they
    are done.

    Features of a backbone that was trained on some of these maps carry its split (`FeatureSet.split`).

    An `out` that exists with the same provenance is returned as it is; one of other provenance is refused.

    Raises:
        InputError: unusable weights; an option that the backbone does not take; an output that is in the way; a full
            disk.
    """
    check_positive_int("batch", batch)
    executor = _executor(executor, jobs)
    out = check_path(out)
    backbone = extractor(
        backbone, weights=weights, random_weights=random_weights, dtype=dtype, channels=channels, adapters=adapters
    )
    record = provenance(maps, backbone)
    first, inverse = _distinct(maps)
    store = ChunkStore(out.with_name(out.name + ".parts"), record, len(first))
    if is_complete(out, record):
        store.remove_finished()
        return FeatureSet.load(out)
    step = -(-batch // backbone.compute_batch) * backbone.compute_batch
    with _space_on(out, store), store.opened():
        gaps = store.missing(step)
        done = len(first) - sum(stop - start for start, stop in gaps)
        tell = _teller(progress, backbone, done, len(first))
        chunks = ((start, [maps.maps[i] for i in first[start:stop]]) for start, stop in gaps)
        if isinstance(executor, Threads):
            for start, chunk in chunks:
                store.write(start, _rows(backbone, chunk, executor, tell))
        else:

            def keep(start: int, rows: Features) -> None:
                store.write(start, _checked(backbone, rows, len(rows)))
                tell(len(rows))

            compute_chunks(backbone, list(chunks), executor, keep)
        features = _feature_set(maps, backbone, store.assembled(inverse))
        features.save(out)
        store.remove()
    return features


def features_from_maps(
    maps: WaferMaps | Clips,
    backbone: str | Extractor | MapFunction = "spatial",
    *,
    dtype: str | None = None,
    jobs: int | None = None,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    channels: str | None = None,
    adapters: str | Path | None = None,
    executor: Executor | None = None,
    progress: OnProgress | None = None,
) -> FeatureSet:
    """Return the features of `maps` without touching the disk: the same arrays and provenance as `extract` writes."""
    executor = _executor(executor, jobs)
    backbone = extractor(
        backbone, weights=weights, random_weights=random_weights, dtype=dtype, channels=channels, adapters=adapters
    )
    _check_pictures(maps, backbone)
    first, inverse = _distinct(maps)
    tell = _teller(progress, backbone, 0, len(first))
    rows = _rows(backbone, [maps.maps[i] for i in first], executor, tell)
    return _feature_set(maps, backbone, rows[inverse])


def feature_rows(
    maps: Sequence[np.ndarray], backbone: Extractor, executor: Executor | None = None
) -> Float[np.ndarray, "maps features"]:
    """Return the features (N, D) float32 of N maps, and nothing else."""
    return _rows(backbone, maps, _executor(executor, None), lambda n: None)


def provenance(maps: WaferMaps | Clips, backbone: Extractor) -> dict[str, Any]:
    """Return the record of `maps` through `backbone`, which a FeatureSet carries: what determines its numbers.

    Raises InputError for sounds on a backbone of wafer maps alone.
    """
    _check_pictures(maps, backbone)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "qwafer": _qwafer_version()}
    record = {"backbone": backbone.name, "compute_batch": backbone.compute_batch, **backbone.record}
    record["versions"] = {**versions, **record.get("versions", {})}
    record["data"] = {"source": maps.source, "sha256": maps.sha256, "n_maps": len(maps)}
    if isinstance(maps, Clips):
        record["drawing"] = maps.drawing()
    split = _split(maps, backbone)
    record["split"] = None if split is None else digest(split, np.asarray(maps.content_ids))
    return dict(jsonable(record))


def is_complete(out: str | Path, record: dict[str, Any]) -> bool:
    """Return whether `out` holds the features of `record` already.

    A damaged feature file is set aside with a warning; raises InputError for anything else that is in the way.
    """
    out = Path(out)
    found = read_or_set_aside(_provenance_of, out, damage=RecordError)
    if found is None:
        return False
    if canonical_json(found) != canonical_json(record):
        raise InputError(
            f"{out} exists and holds other features ({difference(found, record)}): delete it, or choose another output"
        )
    return True


def _provenance_of(out: Path) -> dict[str, Any]:
    """Return the provenance of the feature file `out`; raise RecordError where `FeatureSet.save` wrote it, and it is
    damaged.
    """
    try:
        return FeatureSet.load(out).provenance
    except InputError as error:
        if FeatureSet.wrote(out) and npz_damage(out) is not None:
            raise RecordError(str(error)) from error
        raise InputError(f"{out} exists and is not a feature file: choose another output ({error})") from error


def _rows(backbone: Extractor, maps: Sequence[np.ndarray], executor: Executor, tell: Callable[[int], None]) -> Features:
    """Return the features of `maps`, computed a batch per job; `tell` is called with the maps of each batch done."""
    size = backbone.compute_batch
    groups = {f"{i:09d}": maps[i : i + size] for i in range(0, len(maps), size)}
    blocks: dict[str, Features] = {}
    raised: dict[str, BaseException] = {}

    def compute(key: str, report: Callable[[float], None]) -> Features:
        try:
            return np.asarray(backbone.features(groups[key]))
        except BaseException as error:
            raised[key] = error
            raise

    def note(event: Event) -> None:
        if event.kind == "failed":
            raise raised[event.key]
        if event.kind == "done":
            blocks[event.key] = _checked(backbone, event.result, len(groups[event.key]))
            tell(len(blocks[event.key]))

    executor.run([Job(key, compute, key) for key in groups], note)
    return np.concatenate([blocks[key] for key in groups])


def _checked(backbone: Extractor, rows: Features, n: int) -> Features:
    """Return the rows of `n` maps; raise InputError for what no feature set could hold."""
    if rows.ndim != 2 or len(rows) != n or rows.dtype != np.float32:
        raise InputError(
            f"backbone {backbone.name} must return (n, D) float32 features, got {rows.dtype} of shape {rows.shape} for "
            f"{n} maps"
        )
    if not np.isfinite(rows).all():
        raise InputError(
            f"backbone {backbone.name} gives features that are not finite: its weights do not fit these maps, or "
            f"dtype {backbone.record.get('dtype', 'float32')} is too narrow for them"
        )
    return rows


def _check_pictures(maps: WaferMaps | Clips, backbone: Extractor) -> None:
    """Raise InputError for sounds on a backbone of wafer maps alone."""
    if isinstance(maps, Clips) and not backbone.pictures:
        raise InputError(
            f"backbone {backbone.name} takes wafer maps, not pictures of sounds: use a pretrained network with "
            "channels = grey (efficientnet_b0, mobilenet_v3_small, mamba_vision_*), or a function of your own"
        )


def _distinct(maps: WaferMaps | Clips) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, inverse): the index of each distinct map's first occurrence, ascending; each map's rank in it."""
    _, first, inverse = np.unique(np.asarray(maps.content_ids), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def _split(maps: WaferMaps | Clips, backbone: Extractor) -> np.ndarray | None:
    return None if backbone.split is None else backbone.split(np.asarray(maps.content_ids))


def _feature_set(maps: WaferMaps | Clips, backbone: Extractor, features: np.ndarray) -> FeatureSet:
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
        folds=maps.folds if isinstance(maps, Clips) else None,
        network=None if backbone.cut is None else packed_tensors(backbone.state or {}),
    )


@contextlib.contextmanager
def _space_on(out: Path, store: ChunkStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise InputError(
            f"the disk of {out} is full: make space and run the same command again, which resumes {store.folder}"
        ) from error


def _executor(executor: Executor | None, jobs: int | None) -> Executor:
    if jobs is not None:
        check_positive_int("jobs", jobs)
    if executor is None:
        return Threads(available_cores() if jobs is None else jobs)
    if jobs is not None:
        raise InputError("give either jobs, which are threads, or an executor, not both")
    return executor


def _teller(progress: OnProgress | None, backbone: Extractor, done: int, total: int) -> Callable[[int], None]:
    """Report `done` of `total` maps; return a function that is called with each number of maps more."""

    def tell(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(Progress("features", done, total, text=backbone.name))

    tell(0)
    return tell


def _qwafer_version() -> str:
    try:
        return importlib.metadata.version("qwafer")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
