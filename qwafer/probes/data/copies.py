"""Copies of training examples among the held-out ones: more of them than training holds of itself."""

from dataclasses import dataclass

import numpy as np

NEAR = 0.1
"""Two examples nearer to each other than this share of the median nearest-neighbour distance are near copies."""
MOST_SAMPLED = 4000
"""Training examples whose own nearest neighbours are sought, at most."""
LARGEST = 10.0
"""Standardised features are cut off at so many standard deviations, so that float32 distances are exact enough."""
BLOCK_ENTRIES = 2**24
"""Distances computed at a time: 64 MB."""


@dataclass(frozen=True)
class Copies:
    """How many examples of one held-out part copy a training example, and how many are to be expected."""

    part: str
    """`val` or `test`."""
    examined: int
    """Distinct maps of the part (by content id): all of them."""
    equal: int
    """Distinct training examples of which the part holds one with the same features and another content id."""
    equal_expected: float
    """The same, at the rate at which training examples have such a twin in training."""
    equal_p: float
    """Chance of at least `equal` at that rate."""
    near: int
    """Distinct training examples to which one of the part is nearer than `NEAR`, without being equal."""
    near_expected: float
    """The same, at the rate among training examples."""
    near_p: float
    """Chance of at least `near` at that rate."""


def find_copies(
    features: np.ndarray, content_ids: np.ndarray, train: np.ndarray, held: dict[str, np.ndarray], *, seed: int = 0
) -> tuple[Copies, ...]:
    """Return the copies in each part of `held` (rows by name) of the training rows; every held-out row is looked at.

    Genuine near twins occur among real maps, in training as elsewhere. So the count x in a part of m examples is
    compared with the count k among n training examples, each against the others: the chance of at least x is that of
    the negative binomial law with k + 1/2 successes and p = n / (n + m), the predictive law of a Poisson rate under
    Jeffreys' prior. Rows of equal content id count once, and so do several copies of one example.

    Args:
        features: (N, D) numbers; columns that are not finite, or constant in training, are left out.
        content_ids: (N,) equal for identical maps.
        train: rows that train.
        held: rows of each part that does not.
        seed: of the sample of at most `MOST_SAMPLED` training examples whose own neighbours are sought.
    """
    train = train[np.unique(content_ids[train], return_index=True)[1]]
    parts = {name: rows[np.unique(content_ids[rows], return_index=True)[1]] for name, rows in held.items()}
    points = _standardised(features, train)
    if points is None or len(train) < 3:
        return tuple(Copies(name, len(rows), 0, 0.0, 1.0, 0, 0.0, 1.0) for name, rows in parts.items())
    everything = np.concatenate([train, *parts.values()])
    number = np.empty(len(features), np.int64)  # of each distinct row of features
    number[everything] = _numbered(np.asarray(features[everything], np.float32))
    frequency = np.bincount(number[train], minlength=int(number[everything].max()) + 1)
    twins = int((frequency[number[train]] > 1).sum())
    reference = points[train]
    sampled = np.random.default_rng(seed).permutation(len(train))[:MOST_SAMPLED]
    own, _ = _nearest(reference[sampled], reference, own=sampled)
    limit = NEAR * float(np.median(own))
    neighbours = int(((own < limit) & (frequency[number[train[sampled]]] == 1)).sum())
    found = []
    for name, rows in parts.items():
        equal = frequency[number[rows]] > 0
        distance, place = _nearest(points[rows], reference)
        n_equal = len(np.unique(number[rows][equal]))
        n_near = len(np.unique(place[~equal & (distance < limit)]))
        found.append(
            Copies(
                name,
                len(rows),
                n_equal,
                twins * len(rows) / len(train),
                _chance(n_equal, twins, len(train), len(rows)),
                n_near,
                neighbours * len(rows) / len(sampled),
                _chance(n_near, neighbours, len(sampled), len(rows)),
            )
        )
    return tuple(found)


def _chance(found: int, known: int, n_known: int, n_found: int) -> float:
    """Return the chance of at least `found` among `n_found`, where `known` were seen among `n_known`."""
    from scipy.stats import nbinom

    return float(nbinom.sf(found - 1, known + 0.5, n_known / (n_known + max(n_found, 1))))


def _standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray | None:
    """Return (N, d) float32 features in standard deviations of training; None where no column varies."""
    features = np.asarray(features, np.float64)
    own = features[train]
    with np.errstate(invalid="ignore"):
        mean, scale = own.mean(axis=0), own.std(axis=0)
    kept = np.isfinite(features).all(axis=0) & (scale > 0)
    if not kept.any():
        return None
    scaled = (features[:, kept] - mean[kept]) / scale[kept]
    return np.clip(scaled, -LARGEST, LARGEST).astype(np.float32)


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Return (M,) a number for each row of (M, D) float32, equal for equal rows."""
    rows = np.ascontiguousarray(rows + np.float32(0))  # -0 becomes 0
    return np.unique(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), return_inverse=True)[1]


def _nearest(queries: np.ndarray, points: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the Euclidean distance of each query to its nearest point, and the place of that point.

    `own` is the place of each query among the points, which does not count.
    """
    # |q - p|^2 = |q|^2 + (q, 1) . (-2 p, |p|^2): one matrix product finds the nearest, float64 measures it.
    lifted = np.column_stack([-2 * points, (points**2).sum(axis=1)]).T
    place = np.empty(len(queries), np.int64)
    step = max(1, BLOCK_ENTRIES // len(points))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        score = np.column_stack([block, np.ones(len(block), np.float32)]) @ lifted
        if own is not None:
            score[np.arange(len(block)), own[start : start + step]] = np.inf
        place[start : start + step] = score.argmin(axis=1)
    difference = queries.astype(np.float64) - points[place]
    return np.sqrt((difference**2).sum(axis=1)), place
