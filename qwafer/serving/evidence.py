"""`Evidence`: what a model is worth as it is deployed, and what validation looked like; `assess` finds it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._errors import InputError
from qwafer.backbones.extraction import feature_rows
from qwafer.data import WaferMaps, read_maps
from qwafer.evaluation import Evaluation, evaluate
from qwafer.model import Model
from qwafer.onnx.calibration import rows_of, split_of_run
from qwafer.serving.review import Answers, Review, ReviewOptions, fit_review
from qwafer.source import read_data
from qwafer.training._prepare import GIVEN

MOST_TRAINING = 5000
"""Training maps behind the distance from the training features."""
MOST_KEPT = 2000
"""Values of validation that are kept of confidences and distances."""


@dataclass(frozen=True)
class Reference:
    """What answers look like where nothing has moved: the validation split."""

    n: int
    """Maps."""
    predictions: dict[str, int]
    """How often each prediction was given."""
    confidence: tuple[float, ...]
    """Confidences, ascending; of many maps as many order statistics as `MOST_KEPT`."""
    distance: tuple[float, ...]
    """Distances from the training features, ascending, as many."""
    flagged: float
    """Share of the maps that would be reviewed."""
    design_effect: float
    """By how much wafers of one lot are alike in what is predicted; 1: as if drawn one by one. See `design_effect`."""


@dataclass(frozen=True)
class Evidence:
    """The evaluation of a model with its review: on the test split of the run that trained its head."""

    SCHEMA: ClassVar[str] = "qwafer/evidence/1"

    label_names: tuple[str, ...]
    """The labels."""
    exclusive: bool
    """Whether they are exclusive classes."""
    accuracy: float
    """Share of the test maps of which every label is right."""
    macro_f1: float
    """Mean of `class_f1` over the classes with a test map."""
    class_f1: dict[str, float]
    """F1 of each class on the test split; NaN without a test map of it."""
    test: Evaluation
    """Every metric of the test split, at the thresholds of the model."""
    flagged: float
    """Share of the test maps that would be reviewed."""
    accuracy_of_others: float
    """`accuracy` of those that would not be."""
    reference: Reference
    """Validation."""
    n_maps: dict[str, int]
    """Maps of each part."""
    split: str
    """Digest of the split: that of the run."""
    data: dict[str, str]
    """`source` and `sha256` of the maps."""


Forward = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""Maps to features (N, D) float32 and logits (N, n_labels)."""


def forward_of(model: Model) -> Forward:
    """Return the forward pass of a model as it is evaluated."""

    def forward(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        features = feature_rows(maps, model.backbone)
        return features, model.head.answered(features)[0]

    return forward


def maps_of(model: Model, source: str | Path | None) -> WaferMaps:
    """Return the maps in the file `source`; where it is None, those that the run of the head names.

    Raises InputError where the run names none, because its features were handed over in Python.
    """
    data = model.head.config.data
    if source is None and data.source == GIVEN:
        raise InputError("the model was trained on features that were handed over in Python: name its maps by --maps")
    same = source is None or str(source) == data.source
    found = read_data(data) if same else read_maps(source or "")
    if not isinstance(found, WaferMaps):
        raise InputError(f"{source or data.source} holds no wafer maps: a model that is served takes maps")
    return found


def assess(
    model: Model,
    maps: WaferMaps,
    options: ReviewOptions | None = None,
    *,
    split: np.ndarray | None = None,
    forward: Forward | None = None,
) -> tuple[Review, Evidence]:
    """Return the review of a model, and what both are worth, on all maps of the run that trained its head.

    The split is the run's (its digest is compared). Training features give centre and covariance, validation gives
    temperatures and thresholds of review, and the test split is read once, with everything fixed. `forward` computes
    features and logits where another form of the model is to be assessed, such as INT8.

    Raises:
        InputError: what are not a model and maps, or maps that do not give the split of the run.
    """
    if not isinstance(model, Model):
        raise InputError(f"`model` must be a qwafer.Model, got {type(model).__name__}: Model.from_run or Model.load")
    if not isinstance(maps, WaferMaps):
        raise InputError(f"`maps` must be WaferMaps, got {type(maps).__name__}: qwafer.read_maps reads them")
    prepared = split_of_run(model, maps, split)
    rows = {part: rows_of(prepared, part) for part in ("train", "val", "test")}
    chosen = np.unique(np.linspace(0, len(rows["train"]) - 1, MOST_TRAINING).astype(np.int64))
    forward = forward_of(model) if forward is None else forward
    train = forward([maps.maps[row] for row in rows["train"][chosen]])[0]
    passed = {part: forward([maps.maps[row] for row in rows[part]]) for part in ("val", "test")}
    features, logits = ({part: both[place] for part, both in passed.items()} for place in (0, 1))
    labels = {part: prepared.part(part)[1] for part in features}
    thresholds, exclusive, names = model.head.thresholds, prepared.exclusive, model.label_names
    fitted = (train, features["val"], logits["val"], labels["val"], thresholds)
    review = fit_review(*fitted, exclusive=exclusive, options=options)
    val, test = (review.answers(logits[part], features[part], thresholds, names) for part in ("val", "test"))
    found = evaluate(
        logits["test"], labels["test"], label_names=names, thresholds=thresholds or None, exclusive=exclusive
    )
    suffix = "" if exclusive else "_tuned"
    right = (test.labels == labels["test"].astype(bool)).all(axis=1)
    lots = None if maps.groups is None else np.asarray(maps.groups)[rows["val"]]
    return review, Evidence(
        label_names=names,
        exclusive=exclusive,
        accuracy=float(right.mean()),
        macro_f1=found.macro[f"f1{suffix}"],
        class_f1=dict(zip(names, found.per_class[f"f1{suffix}"], strict=True)),
        test=found,
        flagged=float(test.review.mean()),
        accuracy_of_others=float(right[~test.review].mean()) if not test.review.all() else np.nan,
        reference=reference(val, lots),
        n_maps=prepared.n_examples,
        split=prepared.split.digest,
        data={"source": maps.source, "sha256": maps.sha256},
    )


def reference(answers: Answers, lots: np.ndarray | None) -> Reference:
    """Return what these answers look like; `lots` (N,) where they are known."""
    texts = answers.predictions

    def kept(values: np.ndarray) -> tuple[float, ...]:
        places = np.unique(np.linspace(0, len(values) - 1, MOST_KEPT).astype(np.int64))
        return tuple(np.sort(values.astype(np.float64))[places].tolist())

    return Reference(
        n=len(texts),
        predictions=dict(sorted(Counter(texts).items())),
        confidence=kept(answers.confidence),
        distance=kept(answers.distance),
        flagged=float(answers.review.mean()),
        design_effect=design_effect(texts, lots),
    )


def design_effect(predictions: Any, lots: Any) -> float:
    """Return how many times larger the variance of class shares is than that of N independent wafers, at least 1.

    With z_lk the wafers of lot l of class k, n_l all of it, p_k the share of class k, the variance of p_k over lots is
    v_k = L / (L - 1) sum_l (z_lk - n_l p_k)^2 / N^2, and the effect is sum_k v_k / p_k over (K - 1) / N, the mean over
    classes of Rao and Scott (1981, Journal of the American Statistical Association 76). 1 without lots, or with one.
    """
    classes, codes = np.unique(np.asarray(predictions), return_inverse=True)
    if lots is None or len(classes) < 2:
        return 1.0
    names, lot = np.unique(np.asarray(lots), return_inverse=True)
    if len(names) < 2:
        return 1.0
    table = np.zeros((len(names), len(classes)))
    np.add.at(table, (lot, codes), 1)
    total = table.sum()
    p = table.sum(axis=0) / total
    spread = ((table - table.sum(axis=1, keepdims=True) * p) ** 2).sum(axis=0) * len(names) / (len(names) - 1)
    return max(1.0, float((spread / total**2 / p).sum() * total / (len(classes) - 1)))
