"""`Review`: calibrated probabilities and when an engineer is to look; fitted on training and validation alone."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from qwafer._checks import check_interval, plain_numbers
from qwafer._errors import InputError
from qwafer._reading import reads
from qwafer._records import from_json, to_json
from qwafer.backbones.checkpoints import read_tensors, write_tensors
from qwafer.evaluation.exclusive import decide, probabilities

_RECORD = "qwafer_review"
NONE = "none"
"""The prediction of a map without any label."""


@dataclass(frozen=True)
class ReviewOptions:
    """How much an engineer is to see."""

    doubtful: float = 0.1
    """Share of the validation maps whose confidence is below the threshold of review."""
    far: float = 0.01
    """Share of the validation maps that are farther from the training features than the threshold of review."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_interval("doubtful", self.doubtful, 0, 1, open_high=True)
        check_interval("far", self.far, 0, 1, open_high=True)


@dataclass(frozen=True, eq=False)
class Answers:
    """What is answered for N maps."""

    probabilities: Float[np.ndarray, "N n_labels"]
    """Calibrated, as sigmoid or softmax of scale * logit + shift."""
    labels: Bool[np.ndarray, "N n_labels"]
    """What is decided, by the thresholds of the model."""
    confidence: Float[np.ndarray, " N"]
    """Of exclusive classes the largest probability; else the least probability of a decision, max over no label."""
    distance: Float[np.ndarray, " N"]
    """Mahalanobis distance of the features from those of the training split."""
    review: Bool[np.ndarray, " N"]
    """Whether an engineer is to look: a confidence below, or a distance beyond its threshold."""
    label_names: tuple[str, ...]
    """The labels, in the order of the columns."""
    steps_used: Int[np.ndarray, " N"] | None = None
    """Steps that each map took, where the head halts; see `Predictions.steps_used`."""

    def __getitem__(self, rows: slice) -> "Answers":
        """Return the answers of some of the maps."""
        own = (self.probabilities, self.labels, self.confidence, self.distance, self.review)
        p, labels, confidence, distance, review = (part[rows] for part in own)
        steps = None if self.steps_used is None else self.steps_used[rows]
        return Answers(p, labels, confidence, distance, review, self.label_names, steps)

    @property
    def predictions(self) -> list[str]:
        """The names of the decided labels, joined by ` + `; `none` where there are none."""
        return [prediction(row, self.label_names) for row in self.labels]


def prediction(labels: np.ndarray, names: tuple[str, ...]) -> str:
    """Return the names of the labels that are set, joined by ` + `; `none` where none is."""
    return " + ".join(name for name, is_set in zip(names, labels, strict=True) if is_set) or NONE


@dataclass(frozen=True, eq=False)
class Review:
    """From logits and features to `Answers`."""

    exclusive: bool
    """Whether the labels are exclusive classes."""
    scale: tuple[float, ...]
    """K slopes of the calibration (1/T of temperature scaling), fitted on validation."""
    shift: tuple[float, ...]
    """K offsets of the calibration."""
    confidence: float
    """Below it a map is reviewed; of the validation maps `ReviewOptions.doubtful` are."""
    distance: float
    """Beyond it a map is reviewed; of the validation maps `ReviewOptions.far` are."""
    centre: Float[np.ndarray, " D"]
    """Mean of the features of the training split."""
    whitening: Float[np.ndarray, "D D"]
    """W with W W^T the inverse of their covariance (Ledoit and Wolf 2004): the distance is |(x - centre) W|."""

    def answers(
        self, logits: np.ndarray, features: np.ndarray, thresholds: tuple[float, ...], names: tuple[str, ...]
    ) -> Answers:
        """Return the answers for logits (N, K) and features (N, D) of a model with these thresholds and labels."""
        labels = decide(logits, thresholds)
        p = probabilities(logits * np.asarray(self.scale) + np.asarray(self.shift), exclusive=self.exclusive)
        sure = p.max(axis=1) if self.exclusive else np.where(labels, p, 1 - p).min(axis=1)
        distance = np.linalg.norm((features - self.centre[None]) @ self.whitening, axis=1)
        flags = (sure < self.confidence) | (distance > self.distance)
        return Answers(p, labels, sure, distance, flags, names)

    def save(self, path: str | Path) -> None:
        """Write the review to `path` (safetensors), atomically."""
        said = _Said(self.exclusive, self.scale, self.shift, self.confidence, self.distance)
        write_tensors(path, {"centre": self.centre, "whitening": self.whitening}, {_RECORD: json.dumps(to_json(said))})

    @classmethod
    @reads("is not a review, or a damaged one")
    def load(cls, path: str | Path) -> "Review":
        """Return the review saved at `path`; raise InputError for anything else."""
        tensors, metadata = read_tensors(path)
        data = json.loads(metadata.get(_RECORD, "null"))
        if data is None or set(tensors) != {"centre", "whitening"}:
            raise InputError(f"{path} is not a review: it is another safetensors file")
        said = from_json(_Said, data, str(path))
        return cls(said.exclusive, said.scale, said.shift, said.confidence, said.distance, **tensors)


@dataclass(frozen=True)
class _Said:
    """What the file of a `Review` says beside its tensors."""

    SCHEMA: ClassVar[str] = "qwafer/review/1"
    exclusive: bool
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    confidence: float
    distance: float


def fit_review(
    train: np.ndarray,
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    thresholds: tuple[float, ...],
    *,
    exclusive: bool,
    options: ReviewOptions | None = None,
) -> Review:
    """Return the review from the features (M, D) of the training split, and of the validation split (N, D) with its
    logits and labels (N, K).

    Temperatures minimise the cross-entropy of validation (`fit_calibration`). Each threshold lies midway between two
    values of validation, so that rounding moves no flag.
    """
    from sklearn.covariance import ledoit_wolf

    from qwafer.evaluation import fit_calibration

    options = ReviewOptions() if options is None else options
    calibration = fit_calibration(logits, labels, exclusive=exclusive)
    values = np.asarray(train, np.float64)
    centre, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread <= 1e-6 * np.maximum(np.abs(centre), 1e-6), 1.0, spread)
    covariance, _ = ledoit_wolf((values - centre) / spread)
    variances, axes = np.linalg.eigh(covariance)
    floor = max(1e-6 * float(variances.max()), 1e-12)
    whitening = axes / np.sqrt(np.maximum(variances, floor)) / spread[:, None]
    form = (exclusive, calibration.scale, calibration.shift, 0.0, np.inf)
    draft = Review(*form, centre.astype(np.float32), np.ascontiguousarray(whitening, np.float32))
    found = draft.answers(logits, features, thresholds, ("",) * logits.shape[1])
    low = _between(np.sort(found.confidence), options.doubtful)
    return replace(draft, confidence=low, distance=-_between(np.sort(-found.distance), options.far))


def _between(ascending: np.ndarray, share: float) -> float:
    """Return a number with `share` of the values below it, midway between two of them."""
    count = int(share * len(ascending))
    if count == 0:
        return float(ascending[0]) - 1e-6 - 0.01 * abs(float(ascending[0]))
    return float(ascending[count - 1] + ascending[count]) / 2
