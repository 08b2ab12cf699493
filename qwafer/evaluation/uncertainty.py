"""What sampled probabilities say of doubt: how much of it more data could remove, and whether errors follow it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from qwafer._arrays import shaped, zero_one
from qwafer._errors import InputError


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Entropies in nats of N examples, for which a distribution over K outcomes was sampled S times."""

    total: Float[np.ndarray, " N"]
    """H(mean_s p_s): all doubt."""
    expected: Float[np.ndarray, " N"]
    """mean_s H(p_s): doubt that each sample has (aleatoric)."""

    @property
    def mutual_information(self) -> Float[np.ndarray, " N"]:
        """H(mean_s p_s) - mean_s H(p_s) >= 0: the doubt between the samples (epistemic), at most log min(S, K)."""
        return np.maximum(self.total - self.expected, 0)


@shaped()
def uncertainty(probabilities: Real[np.ndarray, "samples N K"]) -> Uncertainty:
    """Return the entropies of probabilities (S, N, K), which add up to 1 over the K outcomes.

    Source: Houlsby et al. 2011, arXiv:1112.5745; by dropout, Gal and Ghahramani 2016, arXiv:1506.02142.

    Raises InputError for what are not probabilities.
    """
    p = np.asarray(probabilities, np.float64)
    if (p < 0).any() or not np.allclose(p.sum(axis=2), 1, atol=1e-4):
        raise InputError("`probabilities` must be at least 0 and add up to 1 over the last axis")
    return Uncertainty(_entropy(p.mean(axis=0)), _entropy(p).mean(axis=0))


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The error rate of those examples that are decided, where the most doubtful ones are left out."""

    coverage: Float[np.ndarray, " M"]
    """Part of the examples that is decided, rising to 1; examples of equal doubt are decided together."""
    risk: Float[np.ndarray, " M"]
    """Error rate of that part."""
    area: float
    """Mean over the examples of the risk at which each is the last to be decided; the overall error rate where doubt
    says nothing of errors."""


@shaped()
def risk_coverage(doubt: Real[np.ndarray, " N"], errors: Real[np.ndarray, " N"]) -> RiskCoverage:
    """Return the error rate against the part of the examples that are decided, the least doubtful first.

    `errors` (N,) are 0 and 1. Source: El-Yaniv and Wiener 2010, Journal of Machine Learning Research 11; the area as in
    Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206.
    """
    wrong = zero_one("errors", errors)
    order = np.argsort(doubt, kind="stable")
    last = np.append(np.diff(np.asarray(doubt)[order]) != 0, True)
    decided = np.flatnonzero(last) + 1
    risk = np.cumsum(wrong[order])[decided - 1] / decided
    area = float((risk * np.diff(decided, prepend=0)).sum() / len(wrong))
    return RiskCoverage(decided / len(wrong), risk, area)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return -sum p log p over the last axis, 0 log 0 = 0."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)
