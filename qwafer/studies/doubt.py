"""`router_doubt`: what the doubt of a mixture's router is worth, against errors and against foreign examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._checks import check_positive_int
from qwafer._errors import CapabilityError, InputError
from qwafer._io import key_seed
from qwafer._records import save_record
from qwafer.evaluation import risk_coverage, roc_auc, uncertainty
from qwafer.evaluation.exclusive import decide, probabilities
from qwafer.features import FeatureSet
from qwafer.reports.figures.doubt import draw_doubt
from qwafer.training import Predictor, prepare

MEASURES = ("mutual_information", "total", "confidence")
"""The measures of doubt, the router's first."""
CHUNK = 1024
"""Examples whose samples are held at once."""


@dataclass(frozen=True)
class ExampleDoubt:
    """One example."""

    content_id: str
    """Which map it is."""
    wrong: bool | None
    """Whether a label is decided wrongly; None for a foreign example, whose labels are not asked for."""
    mutual_information: float
    """Of the router, nats: H(mean p) - mean H(p) over the samples, p the probabilities of the experts."""
    total: float
    """Of the router, nats: H(mean p)."""
    confidence: float
    """Of the prediction, without samples: 1 - the probability of what is decided, labels taken as independent."""


@dataclass(frozen=True)
class ClassDoubt:
    """The test examples that have one label."""

    n: int
    error_rate: float | None
    """Part of them with a label decided wrongly; None without examples."""
    mutual_information: float | None
    """Mean, nats."""


@dataclass(frozen=True)
class DoubtWorth:
    """What one measure of doubt says."""

    area: float
    """Area under risk against coverage; the overall error rate where the measure says nothing of errors."""
    gain: float
    """Overall error rate minus `area`."""
    gain_interval: tuple[float, float]
    """95% percentile bootstrap interval of `gain`, over examples."""
    over_confidence: tuple[float, float]
    """The same of the area of `confidence` minus `area`: above 0, the measure sees more than the prediction does."""
    auc_errors: float | None
    """ROC-AUC of the measure for errors; None without errors, or with nothing else."""
    auc_foreign: float | None
    """ROC-AUC of the measure for foreign examples against test examples; None without any."""


@dataclass(frozen=True)
class RouterDoubt:
    """`doubt.json`: the doubt of a router on the test split of its head, and on foreign examples."""

    SCHEMA: ClassVar[str] = "qwafer/router-doubt/1"

    n_samples: int
    """Samples of the router's dropout."""
    seed: int
    error_rate: float
    """Part of the test examples with a label decided wrongly."""
    worth: dict[str, DoubtWorth]
    """By measure, of `MEASURES`."""
    classes: dict[str, ClassDoubt]
    """By label."""
    examples: tuple[ExampleDoubt, ...]
    """The test split."""
    foreign: tuple[ExampleDoubt, ...] = ()

    def values(self, measure: str, *, foreign: bool = False) -> np.ndarray:
        """Return a measure of doubt (N,) of the test examples, or of the foreign ones."""
        return np.array([getattr(one, measure) for one in (self.foreign if foreign else self.examples)], np.float64)

    @property
    def wrong(self) -> np.ndarray:
        """Which test examples are decided wrongly, (N,)."""
        return np.array([one.wrong for one in self.examples], bool)

    def sentence(self, measure: str) -> str:
        """Return what a measure of doubt is worth, in a sentence."""
        found = self.worth[measure]
        name = measure.replace("_", " ")
        low, high = found.gain_interval
        if low <= 0:
            said = f"{name} is not shown to say anything of errors (gain {found.gain:+.4f} [{low:+.4f}, {high:+.4f}])"
        else:
            said = f"{name} says where errors are (gain {found.gain:+.4f} [{low:+.4f}, {high:+.4f}])"
        if measure == "confidence":
            return said
        low, high = found.over_confidence
        more = "more" if low > 0 else "less" if high < 0 else "not shown to be more"
        return f"{said}; {more} than the prediction's own confidence ([{low:+.4f}, {high:+.4f}])"


def router_doubt(
    predictor: Predictor,
    data: FeatureSet,
    *,
    n_samples: int = 64,
    seed: int = 0,
    foreign: FeatureSet | None = None,
    n_resamples: int = 1000,
) -> RouterDoubt:
    """Return what the router of a trained mixture doubts, on the test split that its run had in `data`.

    The router's probabilities are sampled under its dropout (Gal and Ghahramani 2016, arXiv:1506.02142) and taken apart
    by `evaluation.uncertainty`; each measure is judged by `evaluation.risk_coverage` against the errors, beside the
    confidence of the prediction, which costs nothing: doubt that sees no more than that is not worth its samples.
    `foreign` holds examples of another kind, made by the same backbone.

    Raises CapabilityError for a head without a router; InputError for one without `head.router_dropout`, for features
    that are not those of the head, and for data that do not give the split of its run: examples that were trained on
    would be tested.
    """
    check_positive_int("n_samples", n_samples, minimum=2)
    check_positive_int("n_resamples", n_resamples, minimum=2)
    if not hasattr(predictor.head, "sampled_routing"):
        raise CapabilityError(f"head {predictor.config.name('head')} has no router to sample: train a mixture")
    if len(data) == 0 or (foreign is not None and len(foreign) == 0):
        raise InputError("there are no examples to doubt")
    prepared = prepare(predictor.config, data, predictor.seed)
    if prepared.data.label_names != predictor.label_names:
        raise InputError(
            f"the data have the labels {', '.join(prepared.data.label_names)}, the head "
            f"{', '.join(predictor.label_names)}"
        )
    same = (
        prepared.split.digest == predictor.split if predictor.split else len(prepared.split.train) == predictor.n_train
    )
    if not same:
        raise InputError(
            "the data do not give the split under which the head was trained, so that examples that it has seen could "
            "be tested: give all examples of its run, with their content ids"
        )
    test = prepared.data.take(prepared.split.test)
    measures, decided = _measured(predictor, test, n_samples, seed)
    wrong = (decided != test.labels.astype(bool)).any(axis=1)
    outside = {} if foreign is None else _measured(predictor, foreign, n_samples, seed)[0]
    return RouterDoubt(
        n_samples=n_samples,
        seed=seed,
        error_rate=float(wrong.mean()),
        worth=_worth(measures, wrong, outside, n_resamples, seed),
        classes={
            label: _of_class(test.labels[:, k] == 1, wrong, measures) for k, label in enumerate(predictor.label_names)
        },
        examples=_examples(test, measures, wrong),
        foreign=() if foreign is None else _examples(foreign, outside, None),
    )


def write_router_doubt(doubt: RouterDoubt, folder: str | Path) -> Path:
    """Write `doubt.json` and the figures `histogram`, `classes` and `risk_coverage` (PNG and PDF) into `folder`; return
    the path of the record.
    """
    target = Path(folder) / "doubt.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_record(target, doubt)
    draw_doubt(
        {name: doubt.values(name) for name in MEASURES},
        doubt.wrong,
        doubt.values(MEASURES[0], foreign=True),
        {name: (one.mutual_information, one.error_rate, one.n) for name, one in doubt.classes.items()},
        target.parent,
    )
    return target


def _measured(
    predictor: Predictor, data: FeatureSet, n_samples: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the measures (N,) by name, and what is decided (N, n_labels)."""
    exclusive = predictor.config.objective.exclusive
    logits = predictor.logits(data)
    p, decided = probabilities(logits, exclusive=exclusive), decide(logits, predictor.thresholds)
    found = []
    for start in range(0, len(data), CHUNK):
        rows = data.features[start : start + CHUNK]
        part = key_seed(seed, f"rows {start}")  # other masks for other rows
        found.append(uncertainty(np.asarray(predictor.head.sampled_routing(rows, n_samples, seed=part))))
    sure = p.max(axis=1) if exclusive else np.where(decided, p, 1 - p).prod(axis=1)
    measures = {
        "mutual_information": np.concatenate([one.mutual_information for one in found]),
        "total": np.concatenate([one.total for one in found]),
        "confidence": 1 - sure,
    }
    return measures, decided


def _worth(
    measures: Mapping[str, np.ndarray],
    wrong: np.ndarray,
    foreign: Mapping[str, np.ndarray],
    n_resamples: int,
    seed: int,
) -> dict[str, DoubtWorth]:
    areas = {name: risk_coverage(value, wrong).area for name, value in measures.items()}
    rng = np.random.default_rng(key_seed(seed, "doubt bootstrap"))
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    rates = []
    for _ in range(n_resamples):
        rows = rng.integers(0, len(wrong), len(wrong))
        rates.append(float(wrong[rows].mean()))
        for name, value in measures.items():
            drawn[name].append(risk_coverage(value[rows], wrong[rows]).area)
    said = {}
    for name, value in measures.items():
        others = foreign.get(name)
        said[name] = DoubtWorth(
            area=areas[name],
            gain=float(wrong.mean()) - areas[name],
            gain_interval=_ends(np.subtract(rates, drawn[name])),
            over_confidence=_ends(np.subtract(drawn["confidence"], drawn[name])),
            auc_errors=_auc(value, wrong),
            auc_foreign=None
            if others is None
            else _auc(np.concatenate([value, others]), np.repeat([False, True], [len(value), len(others)])),
        )
    return said


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _auc(values: np.ndarray, positive: np.ndarray) -> float | None:
    return float(np.asarray(roc_auc(values, positive))) if 0 < positive.sum() < len(positive) else None


def _of_class(chosen: np.ndarray, wrong: np.ndarray, measures: Mapping[str, np.ndarray]) -> ClassDoubt:
    if not chosen.any():
        return ClassDoubt(0, None, None)
    return ClassDoubt(
        int(chosen.sum()), float(wrong[chosen].mean()), float(measures["mutual_information"][chosen].mean())
    )


def _examples(data: FeatureSet, measures: Mapping[str, Any], wrong: np.ndarray | None) -> tuple[ExampleDoubt, ...]:
    return tuple(
        ExampleDoubt(
            str(data.content_ids[k]),
            None if wrong is None else bool(wrong[k]),
            *(float(f"{measures[name][k]:.6g}") for name in MEASURES),
        )
        for k in range(len(data))
    )
