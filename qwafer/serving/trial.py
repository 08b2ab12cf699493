"""`judge_trial`: two versions on the same reviewed wafers, judged as often as one likes at one error rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.serving.drift import CLASS_F1, TOO_SLOW, class_f1
from qwafer.serving.reviewed import FIRST_LOOK, look_alpha
from qwafer.serving.store import Window

ALPHA, POWER, EFFECT, MARGIN = 0.05, 0.8, 0.015, 0.01
"""Error rate over all looks, power, the difference that is to be found, and the one that does not matter."""
MORE_FLAGGED = 0.05
"""By how much the share of flagged answers may rise."""


@dataclass(frozen=True)
class Look:
    """The difference of the accuracies at one look."""

    n: int
    """Reviews: 50, 100, 200, ..., the first so many."""
    level: float
    """Level of the interval; all looks together err with a probability of at most `ALPHA`."""
    difference: float
    """Accuracy of the candidate less that of the baseline, over all answers."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end."""
    discordant: float
    """Share of the answers, by weight, in which one of the two alone is right."""


@dataclass(frozen=True)
class Guardrail:
    """Something that the candidate must not break."""

    name: str
    held: bool
    sentence: str


@dataclass(frozen=True)
class Trial:
    """A candidate against a baseline, wafer by wafer."""

    SCHEMA: ClassVar[str] = "qwafer/trial/1"

    baseline: str
    candidate: str
    n_reviews: int
    """Reviewed wafers that both have answered."""
    looks: tuple[Look, ...]
    """Up to the one that decided, or the last one that was due."""
    verdict: str
    """`better`, `worse`, `equivalent` or `undecided`, as in ablations; of accuracy."""
    sentence: str
    """The verdict in words."""
    n_required: int | None
    """Reviews at the look that shows a difference of `EFFECT` at the power, from what is discordant so far; see
    `reviews_to_decide`. None: nothing is."""
    guardrails: tuple[Guardrail, ...]
    """What must hold beside it."""

    @property
    def promote(self) -> bool:
        """Whether the candidate is better and breaks nothing."""
        return self.verdict == "better" and all(guard.held for guard in self.guardrails)


Predict = Callable[[list[np.ndarray]], list[str]]
"""Maps to predictions."""


def judge_trial(
    window: Window,
    maps: dict[int, np.ndarray],
    baseline: tuple[str, Predict],
    candidate: tuple[str, Predict],
    label_names: tuple[str, ...],
    spent: Sequence[Look] = (),
) -> Trial:
    """Return the verdict on two versions, each a name and its predictions.

    Both answer every reviewed wafer again, whichever of them answered it when it came: the differences d_i in {-1, 0,
    1} of being right are paired. Reviews are not drawn evenly: the strata h are the version that answered, and whether
    it flagged the wafer, W_h their shares of all answers, and the difference is sum_h W_h mean_h(d), with variance
    sum_h W_h^2 s_h^2 / n_h; two pairs of pseudo-observations per stratum, a half for each outcome, keep a stratum
    without a difference from being certain (Agresti and Min 2005, Statistics in Medicine 24). Looks are at the first
    50, 100, 200, ... reviews alone, at levels that add up to `ALPHA`, and the first that decides stands: who looks
    every day errs no more often than who looks once. Looks that were taken before are `spent`, and not taken again:
    where answers were deleted since, the next one is at its own number of the reviews that are left. A wafer that both
    versions have answered counts by the first of the two answers.

    Raises InputError where one version answered nothing.
    """
    names = baseline[0], candidate[0]
    both = _once(window.take(np.isin(window.versions, names)))
    live = {name: both.take(both.versions == name) for name in names}
    for name in names:
        if not len(live[name]):
            raise InputError(f"version {name} has given no answers in this time: serve it with --trial")
    has_map = np.isin(both.ids, list(maps))
    chosen = np.flatnonzero(both.counted & has_map)
    chosen = chosen[np.argsort(both.reviewed[chosen], kind="stable")]
    wafers = [maps[int(number)] for number in both.ids[chosen]]
    said = [np.array(predict(wafers) if wafers else [], dtype=object) for _, predict in (baseline, candidate)]
    right = [answers == both.labels[chosen] for answers in said]
    differences = right[1].astype(np.int64) - right[0].astype(np.int64)
    stratum = 2 * (both.versions == names[1]) + both.flagged
    sizes = np.bincount(stratum, minlength=4)
    looks = list(spent)
    verdict = _verdict(looks[-1]) if looks else "undecided"
    n = FIRST_LOOK * 2 ** len(looks)
    while n <= len(chosen) and verdict == "undecided":
        found = _look(differences[:n], stratum[chosen[:n]], sizes, len(looks))
        looks.append(found)
        verdict = _verdict(found)
        n *= 2
    discordant = float(np.mean(differences != 0)) if len(differences) else 0.0
    reviews = np.bincount(stratum[chosen], minlength=4)
    differ = looks[-1].discordant if looks else discordant
    required = reviews_to_decide(differ, sizes / sizes.sum(), reviews) if differ else None
    guards = _guardrails(live, names, both, chosen, said[1], label_names)
    return Trial(
        *names, len(chosen), tuple(looks), verdict, _sentence(names, looks, verdict, len(chosen)), required, guards
    )


def required_reviews(discordant: float, effect: float = EFFECT, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Return how many pairs show a difference of `effect` between two shares of which `discordant` of the pairs differ.

    n = (z_{1 - alpha/2} sqrt(p) + z_power sqrt(p - effect^2))^2 / effect^2 for p discordant pairs (Connor 1987,
    Biometrics 43, 207-211). Raises InputError for an effect that is larger than what differs.
    """
    from scipy.special import ndtri

    check_interval("discordant", discordant, 0, 1, open_low=True)
    check_interval("effect", effect, 0, 1, open_low=True)
    p = max(discordant, effect)
    z = float(ndtri(1 - alpha / 2)) * math.sqrt(p) + float(ndtri(power)) * math.sqrt(p - effect**2)
    return math.ceil(z**2 / effect**2)


def reviews_to_decide(discordant: float, shares: np.ndarray, n_reviews: np.ndarray) -> int:
    """Return the reviews 50, 100, 200, ... of the first look whose test, at its own level, has the power for `EFFECT`.

    `required_reviews` at the level of the look, times n sum_h W_h^2 / n_h for strata of shares W_h with n_h of n
    reviews so far: what it costs that reviews are not spread as the answers are.
    """
    spread = float(n_reviews.sum() * (shares**2 / np.maximum(n_reviews, 1)).sum())
    number = 0
    while required_reviews(discordant, alpha=look_alpha(number, ALPHA)) * max(spread, 1.0) > FIRST_LOOK * 2**number:
        number += 1
    return FIRST_LOOK * 2**number


def _once(window: Window) -> Window:
    """Return the first answer to each wafer of a lot; a wafer without an id is one by itself."""
    first: dict[object, int] = {}
    for i, (lot, wafer) in enumerate(zip(window.lots.tolist(), window.wafers.tolist(), strict=True)):
        first.setdefault((lot, wafer) if wafer else i, i)
    return window.take(np.isin(np.arange(len(window)), list(first.values())))


def _look(differences: np.ndarray, stratum: np.ndarray, sizes: np.ndarray, number: int) -> Look:
    from scipy.special import ndtri

    alpha = look_alpha(number, ALPHA)
    mean, variance, differ = 0.0, 0.0, 0.0
    for h in np.flatnonzero(sizes):
        share, own = sizes[h] / sizes.sum(), differences[stratum == h]
        n = len(own) + 2  # with half an observation of each of the four outcomes of a pair
        ups, downs = ((own == sign).sum() + 0.5 for sign in (1, -1))
        centre = (ups - downs) / n
        mean += share * (own.mean() if len(own) else 0.0)
        differ += share * ((own != 0).mean() if len(own) else 0.0)
        variance += share**2 * ((ups + downs) / n - centre**2) / n
    half = float(ndtri(1 - alpha / 2)) * math.sqrt(variance)
    return Look(len(differences), 1 - alpha, float(mean), float(mean - half), float(mean + half), float(differ))


def _verdict(found: Look) -> str:
    if found.low >= -MARGIN and found.high <= MARGIN:
        return "equivalent"
    return "better" if found.low > 0 else "worse" if found.high < 0 else "undecided"


def _sentence(names: tuple[str, str], looks: list[Look], verdict: str, n: int) -> str:
    if not looks:
        return f"{n} reviews: the first look is at {FIRST_LOOK}."
    last = looks[-1]
    return (
        f"accuracy of {names[1]} less that of {names[0]} is {last.difference:+.4f} [{last.low:+.4f}, {last.high:+.4f}] "
        f"at level {last.level:.3f}, after {last.n} reviews of the same wafers: {verdict}."
    )


def _guardrails(
    live: dict[str, Window],
    names: tuple[str, str],
    both: Window,
    chosen: np.ndarray,
    said: np.ndarray,
    label_names: tuple[str, ...],
) -> tuple[Guardrail, ...]:
    old, new = (live[name] for name in names)
    p99 = float(np.quantile(new.latency, 0.99))
    more = float(new.flagged.mean() - old.flagged.mean())
    guards = [
        Guardrail("p99 latency", p99 < TOO_SLOW, f"p99 latency of {names[1]} is {p99:.1f} ms (limit {TOO_SLOW:g} ms)"),
        Guardrail(
            "flagged share",
            more <= MORE_FLAGGED,
            f"{names[1]} flags {new.flagged.mean():.1%} of its answers, {more:+.1%} (limit {MORE_FLAGGED:+.0%})",
        ),
    ]
    kept = np.zeros(len(both), bool)
    kept[chosen] = True
    predictions = both.predictions.astype(object)
    predictions[chosen] = said
    answered = Window(
        **{**both.__dict__, "predictions": predictions, "reviewed": np.where(kept, both.reviewed, np.nan)}
    )
    for name, (value, _, high) in class_f1(answered, label_names).items():
        text = f"F1 of {name} is {value:.4f} (at most {high:.4f}; floor {CLASS_F1:g})"
        guards.append(Guardrail(f"F1 of {name}", high >= CLASS_F1, text))
    return tuple(guards)
