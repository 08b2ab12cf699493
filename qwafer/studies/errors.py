"""`study_errors`: what a predictor gets wrong, of a run's stored outputs or of a model, on one part of its split."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwafer._checks import check_choice, check_positive_int
from qwafer._errors import CapabilityError, InputError
from qwafer._io import file_sha256, hash_texts
from qwafer.backbones.extraction import feature_rows
from qwafer.config import RunConfig
from qwafer.data import WaferMaps, read_maps
from qwafer.data.files import check_file
from qwafer.evaluation.errors import ErrorOptions, analyse_errors, defect_density
from qwafer.evaluation.label_errors import LabelErrors, likely_label_errors
from qwafer.model import Model
from qwafer.onnx.calibration import rows_of, split_again, split_of_run
from qwafer.reports.errors import Conflicts, ErrorReport, write_errors
from qwafer.source import read_data
from qwafer.sweeps.ledger import note_model_read
from qwafer.training import RunResult
from qwafer.training._prepare import GIVEN

PARTS = {"val": "validation", "test": "test"}
"""The parts that can be looked at, and what they are called."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a predictor says of one part, and what it was trained on."""

    predictor: str
    logits: NDArray[np.floating]
    labels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    """(M,) of `maps`."""
    maps: WaferMaps
    label_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    exclusive: bool
    n_train: int
    trained: NDArray[np.str_] | None
    """Content ids of the training split; None where the maps do not give it."""


def study_errors(
    predictor: str | Path,
    maps: str | Path | WaferMaps | None = None,
    *,
    out: str | Path,
    part: str = "val",
    options: ErrorOptions | None = None,
    worst: int = 10,
    split: np.ndarray | None = None,
) -> tuple[ErrorReport, Path]:
    """Write what a predictor gets wrong into the folder `out` (`errors.json`, `report.md`, figures); return the record
    and the path of the report.

    Maps of the training split are left out: the part that is looked at is drawn as in the run, and a map of it that is
    also one of training, by content, is left out and counted. A look at the test split is noted in the ledger of test
    reads: that of the experiment whose run it is, else the one beside `out`.

    Args:
        predictor: `seed-S.json` of a run, whose logits and labels lie beside it in `seed-S.npz`, or a file of
            `qwafer.Model`.
        maps: all maps of the run, or their file; none: the file that the run names.
        out: the folder.
        part: `val` or `test`.
        options: what counts as a finding.
        worst: how many maps are drawn in each figure of maps.
        split: (N,) of `train`, `val` and `test`, where the split came with the features (`FeatureSet.split`).

    Raises:
        InputError: a file that is neither, maps that are not those of the run, or bad options.
    """
    check_choice("part", part, PARTS)
    check_positive_int("worst", worst, maximum=200)
    path = check_file(predictor)
    if path.suffix == ".npz" and path.with_suffix(".json").is_file():
        path = path.with_suffix(".json")
    seen = (_of_run if path.suffix == ".json" else _of_model)(path, maps, part, split)
    seen, n_copies = _without_training(seen)
    ids, wafers = seen.maps.content_ids[seen.rows], [seen.maps.maps[row] for row in seen.rows]
    names, exclusive = seen.label_names, seen.exclusive
    analysis = analyse_errors(
        seen.logits,
        seen.labels,
        thresholds=seen.thresholds or None,
        density=defect_density(wafers),
        options=options,
        label_names=names,
        exclusive=exclusive,
        ids=ids,
    )
    suspects: LabelErrors | None = None
    why_none = ""
    try:
        suspects = likely_label_errors(seen.logits, seen.labels, label_names=names, exclusive=exclusive, ids=ids)
    except (CapabilityError, InputError) as error:
        why_none = str(error)
    reads: tuple[str, ...] = ()
    if part == "test":
        reads = note_model_read(_ledger_of(path, Path(out)), f"errors of {seen.predictor}", path, seen.maps)
    report = ErrorReport(
        predictor=seen.predictor,
        file_sha256=file_sha256(path),
        part=PARTS[part],
        data={"source": seen.maps.source, "sha256": seen.maps.sha256},
        n_train=seen.n_train,
        n_copies=n_copies,
        analysis=analysis,
        label_errors=suspects,
        no_label_errors=why_none,
        conflicts=_conflicts(ids, seen.labels, suspects),
        test_reads=reads,
    )
    return report, write_errors(report, seen.logits, seen.labels, wafers, out, worst)


def _of_run(path: Path, maps: str | Path | WaferMaps | None, part: str, split: np.ndarray | None) -> _Seen:
    """Return what a run has stored of a part."""
    result = RunResult.load(path)
    config = RunConfig.from_dict(result.config)
    found = _maps(config, maps)
    place = {key: row for row, key in enumerate(hash_texts(found.content_ids).tolist())}
    rows = np.array([place.get(key, -1) for key in result.ids[part].tolist()], np.int64)
    if (rows < 0).any():
        raise InputError(
            f"the maps of {found.source} hold {int((rows >= 0).sum())} of the {len(rows)} {PARTS[part]} maps of "
            f"{path}: give all maps of its run"
        )
    try:
        prepared = split_again(config, result.seed, result.digests.split, found, split)
        trained = prepared.data.content_ids[prepared.split.train]
    except InputError:
        if split is not None:
            raise
        trained = None
    thresholds = getattr(result, part).thresholds
    in_experiment = _experiment_of(path) is not None
    return _Seen(
        predictor=f"{path.parent.name if in_experiment else config.name('head')}, seed {result.seed}",
        logits=result.logits[part],
        labels=result.labels[part],
        rows=rows,
        maps=found,
        label_names=result.label_names,
        thresholds=() if thresholds is None else thresholds,
        exclusive=result.exclusive,
        n_train=result.n_examples["train"],
        trained=trained,
    )


def _of_model(path: Path, maps: str | Path | WaferMaps | None, part: str, split: np.ndarray | None) -> _Seen:
    """Return what a model says of a part of the split of its run."""
    model = Model.load(path)
    found = _maps(model.head.config, maps)
    prepared = split_of_run(model, found, split)
    rows = rows_of(prepared, part)
    return _Seen(
        predictor=path.name,
        logits=model.head.logits(feature_rows([found.maps[row] for row in rows], model.backbone)),
        labels=prepared.part(part)[1],
        rows=rows,
        maps=found,
        label_names=model.label_names,
        thresholds=model.head.thresholds,
        exclusive=prepared.exclusive,
        n_train=prepared.n_examples["train"],
        trained=prepared.data.content_ids[prepared.split.train],
    )


def _maps(config: RunConfig, maps: str | Path | WaferMaps | None) -> WaferMaps:
    """Return the maps that are given, in a file or not, or else those that the run names."""
    if isinstance(maps, WaferMaps):
        return maps
    if maps is None and config.data.source == GIVEN:
        raise InputError("the run was made on features that were handed over in Python: name its maps by --maps")
    found = read_data(config.data) if maps is None or str(maps) == config.data.source else read_maps(maps)
    if not isinstance(found, WaferMaps):
        raise InputError(f"{maps or config.data.source} holds no wafer maps: name those of the run by --maps")
    return found


def _without_training(seen: _Seen) -> tuple[_Seen, int | None]:
    """Return `seen` without the maps that are in the training split, too, and their number; None: nobody can tell."""
    if seen.trained is None:
        return seen, None
    kept = ~np.isin(seen.maps.content_ids[seen.rows], seen.trained)
    if not kept.any():
        raise InputError("every map of this part is a map of training, too: nothing out of sample is left")
    parts = {name: getattr(seen, name)[kept] for name in ("logits", "labels", "rows")}
    return _Seen(**{**vars(seen), **parts}), int((~kept).sum())


def _conflicts(ids: NDArray[np.str_], labels: NDArray[np.uint8], suspects: LabelErrors | None) -> Conflicts:
    """Return how many maps are equal, die by die, to one with other labels, and how many of these are flagged."""
    kinds = defaultdict(set)
    for key, row in zip(ids.tolist(), labels.tolist(), strict=True):
        kinds[key].add(tuple(row))
    contradicted = {place for place, key in enumerate(ids.tolist()) if len(kinds[key]) > 1}
    flagged = {suspect.row for suspect in suspects.suspects} if suspects else set()
    return Conflicts(len(contradicted), len(contradicted & flagged))


def _ledger_of(path: Path, out: Path) -> Path:
    """Return the output directory of the experiment that a run belongs to, else `out`: the ledger lies beside it."""
    return _experiment_of(path) or out


def _experiment_of(path: Path) -> Path | None:
    """Return DIR of DIR/runs/ARM/seed-S.json, where it is the output directory of an experiment."""
    parents = path.resolve().parents
    found = parents[2] if len(parents) > 2 else None
    return found if found is not None and (found / "experiment.json").is_file() else None
