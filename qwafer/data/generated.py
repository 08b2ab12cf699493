"""Generated data sets of Bowles, Ahmed and Schuld 2024 (arXiv:2403.07059): two classes, known by construction.

Every one draws from a stream of its own by seed and name (`_io.key_seed`), so that a seed gives the same examples on
every machine. Labels are one column, 1 for the class that the paper calls +1.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qwafer._checks import LARGEST_SEED, check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer._io import key_seed

Drawn = tuple[np.ndarray, np.ndarray]
"""Features (N, D) float64 and labels (N,) uint8."""
MOST = 1_000_000
"""Examples of a draw, and numbers of an example, at most."""


def linearly_separable(n: int, seed: int, *, n_features: int = 4, margin: float | None = None) -> Drawn:
    """Return points of the cube [-1, 1]^D with |sum_i x_i| > `margin` (0.02 D by default), labelled by the sign: 1
    where the sum is negative, as published.
    """
    rng = _stream("linearly separable", n, seed, n_features=n_features)
    margin = 0.02 * n_features if margin is None else margin
    check_interval("margin", margin, 0, n_features / 2)
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        points = rng.uniform(-1, 1, (2 * n, n_features))
        kept.append(points[np.abs(points.sum(axis=1)) > margin])
    x = np.concatenate(kept)[:n]
    return x, (x.sum(axis=1) < 0).astype(np.uint8)


def hidden_manifold(n: int, seed: int, *, n_features: int = 4, dimension: int = 6) -> Drawn:
    """Return x = tanh(C F / sqrt(m) - b), C (N, m) and F (m, D) normal, b uniform in [-1, 1], labelled by whether a
    network of one hidden layer, v . tanh(W c) / sqrt(m), is at least its median (Goldt et al. 2020).

    The classes have equal size up to one; `hidden manifold diff` is D = 10 with m = `dimension` from 2 to 20.
    """
    rng = _stream("hidden manifold", n, seed, n_features=n_features, dimension=dimension)
    f = rng.standard_normal((dimension, n_features))
    c = rng.standard_normal((n, dimension))
    x = np.tanh(c @ f / math.sqrt(dimension) - rng.uniform(-1, 1, n_features))
    w, v = rng.standard_normal((dimension, dimension)), rng.standard_normal(dimension)
    score = np.tanh(c @ w.T) @ v / math.sqrt(dimension)
    return x, (score >= np.median(score)).astype(np.uint8)


def bars_and_stripes(n: int, seed: int, *, side: int = 4, noise: float = 0.5) -> Drawn:
    """Return images (N, side^2) of -1 and 1 with normal noise: each row is one with probability 1/2 (label 1, a
    stripe), or each column (label 0, a bar). One in 2^(side - 1) is blank or full, and could be either.
    """
    rng = _stream("bars and stripes", n, seed, side=side)
    check_interval("noise", noise, 0, 100)
    labels = (rng.random(n) > 0.5).astype(np.uint8)
    lines = np.where(rng.random((n, side)) > 0.5, 1.0, -1.0)
    images = np.where(labels[:, None, None] == 1, lines[:, :, None], lines[:, None, :])
    images = np.broadcast_to(images, (n, side, side)) + noise * rng.standard_normal((n, side, side))
    return images.reshape(n, -1), labels


def two_curves(
    n: int, seed: int, *, n_features: int = 4, degree: int = 5, offset: float = 0.1, noise: float = 0.01
) -> Drawn:
    """Return points of two curves, t -> (f_1(t), ..., f_D(t)) and the same moved by `offset` (label 1), t in [0, 1].

    f_i(t) = sum_k a_ik cos(pi k t) + b_ik sin(pi k t), k to `degree`, coefficients uniform and of norm 1 in all, with
    normal noise; features are standardised, as published.
    """
    rng = _stream("two curves", n, seed, n_features=n_features, degree=degree)
    check_interval("offset", offset, -1e6, 1e6)
    check_interval("noise", noise, 0, 1e6)
    coefficients = rng.uniform(size=(n_features, degree + 1, 2))
    coefficients /= np.linalg.norm(coefficients)
    labels = (np.arange(n) >= n // 2).astype(np.uint8)
    angles = math.pi * rng.uniform(size=(n, 1)) * np.arange(degree + 1)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=2)
    waves[:, 0, 1] = 1  # the published constant is the sum of both coefficients of k = 0
    x = np.einsum("nkw,dkw->nd", waves, coefficients) + noise * rng.standard_normal((n, n_features))
    x += offset * labels[:, None]
    return (x - x.mean(axis=0)) / x.std(axis=0), labels


GENERATORS: Mapping[str, Callable[..., Drawn]] = {
    "linearly_separable": linearly_separable,
    "hidden_manifold": hidden_manifold,
    "bars_and_stripes": bars_and_stripes,
    "two_curves": two_curves,
}


def generated(name: str, n: int = 300, seed: int = 0, **options: Any) -> Drawn:
    """Return `n` examples of the generator called `name`, with its options; 300 as in the paper."""
    if name not in GENERATORS:
        raise InputError(f"`name` must be one of {', '.join(GENERATORS)}, got {name!r}")
    return GENERATORS[name](n, seed, **options)


def _stream(name: str, n: int, seed: int, **sizes: int) -> np.random.Generator:
    """Return the random stream of a generator, after a check of what was asked."""
    check_positive_int("n", n, minimum=2, maximum=MOST)
    check_positive_int("seed", seed, minimum=0, maximum=LARGEST_SEED)
    for option, value in sizes.items():
        check_positive_int(option, value, maximum=1000)
    return np.random.default_rng(key_seed(seed, f"generated/{name}"))
