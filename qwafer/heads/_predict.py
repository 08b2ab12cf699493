"""Logits of any number of examples, through programs of one fixed batch size."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from qwafer._arrays import shaped
from qwafer._process import compiler_options
from qwafer.engines import Program
from qwafer.engines.cache import cleared
from qwafer.engines.process import check_not_forked
from qwafer.heads._base import Head


@shaped(empty=True, finite=False)
def predict_logits(
    head: Head, features: Real[np.ndarray, "examples D"], program: Program | None, batch: int
) -> np.ndarray:
    """Return the logits (N, n_labels) of `features` (N, D), `batch` examples per call; the last batch is padded.

    `program` must be one for `batch` examples (None for a classical head). The result does not depend on what pads. A
    head of few bits is to be given as it is stored, packed, which takes longer than a logit.
    """
    check_not_forked()
    forward = _forward(program)
    parts = []
    for start in range(0, len(features), batch):
        part = features[start : start + batch]
        padded = np.zeros((batch, features.shape[1]), head.dtype)
        padded[: len(part)] = part
        parts.append(np.asarray(forward(head, padded))[: len(part)])
    return np.concatenate(parts) if parts else np.zeros((0, head.n_labels), head.dtype)


@cleared
@functools.lru_cache(maxsize=64)
def _forward(program: Program | None) -> Callable[[Head, Any], jax.Array]:
    @functools.partial(jax.jit, compiler_options=compiler_options())
    def forward(head: Head, features: Any) -> jax.Array:
        return head.logits(jnp.asarray(features, head.dtype), program)

    return forward
