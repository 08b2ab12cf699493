"""When a run has been trained for long enough."""

from collections.abc import Sequence

import numpy as np

from qwafer.config import MIN_EVALUATIONS

DEPARTED = 0.25
"""Of the whole improvement of the loss, the part in the second half that tells a run that has hardly left."""
LOSS_FACTOR = 10
"""The relative improvement of the loss that counts, in units of the tolerance."""


def has_converged(
    epochs: Sequence[int], losses: Sequence[float], values: Sequence[float], tolerance: float, initial: float
) -> bool:
    """Return whether the second half of the epochs trained so far improved on the first half too little to count.

    With T the last of `epochs`, l the least validation loss and v the greatest value of the validation objective among
    the evaluations up to epoch T/2 (1) and after it (2), and l_0 the validation loss before the first step, a run has
    converged where

        l_1 - l_2 <= 10 tolerance |l_1|,   v_2 - v_1 <= tolerance max(1, |v_1|),   and
        l_1 - l_2 <= (l_0 - l_2) / 4   or   l_1 - l_2 <= tolerance |l_1|.

    The last line tells a run that has arrived from one that has hardly left: of a steady slow descent, the second half
    is half of all that was gained. What moves even less is converged by this rule, as a learning rate can be too small
    to show anything. The objective has no part in it where it is undefined (NaN). Fewer than four evaluations, or none
    in the first half, cannot say: False.

    Args:
        epochs: epoch of each evaluation, ascending.
        losses: validation loss of each evaluation.
        values: validation objective of each evaluation, greater being better.
        tolerance: `training.convergence_tolerance`.
        initial: validation loss before the first step.
    """
    count = sum(1 for epoch in epochs if 2 * epoch <= epochs[-1])
    if len(epochs) < MIN_EVALUATIONS or count == 0:
        return False
    loss, value = np.asarray(losses, np.float64), np.asarray(values, np.float64)
    before, after = loss[:count].min(), loss[count:].min()
    gain, small = before - after, tolerance * abs(before)
    if not gain <= LOSS_FACTOR * small or (gain > small and gain > DEPARTED * (initial - after)):
        return False
    if np.isnan(value).any():
        return True
    best = value[:count].max()
    return bool(value[count:].max() - best <= tolerance * max(1.0, abs(best)))
