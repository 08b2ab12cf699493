"""Folds that the data bring, as ESC-50 and UrbanSound8K do: a partition that nobody draws anew."""

import re

import numpy as np

from qwafer._arrays import row_array
from qwafer._errors import InputError
from qwafer.data.splits import Split, split_of, units_of

FEWEST_FOLDS = 3
"""One tests, one validates, one trains."""


def fold_names(folds: np.ndarray) -> tuple[str, ...]:
    """Return the distinct names of `folds` (N,), whole numbers in their own order: 2 before 10."""

    def key(name: str) -> tuple[tuple[int, int | str], ...]:
        return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", name) if part)

    return tuple(sorted(map(str, np.unique(folds).tolist()), key=lambda name: (key(name), name)))


def make_given_fold(
    labels: np.ndarray,
    content_ids: np.ndarray,
    folds: np.ndarray | None,
    *,
    seed: int,
    names: tuple[str, ...] | None = None,
) -> Split:
    """Return the split of N examples that tests on fold `seed` mod K of the folds they bring, validates on the next
    one, and trains on the others.

    What belongs together, as the clips of one recording do, lies in one fold: a validation part that is drawn from the
    training folds would choose the checkpoint on recordings that were trained on. Nothing is drawn at random.

    Args:
        labels: (N, L) of 0 and 1.
        content_ids: (N,) strings.
        folds: (N,) strings, the fold of each example.
        seed: of the run.
        names: the K folds in their order; none: those that occur, see `fold_names`.

    Raises:
        InputError: no folds or fewer than three, equal examples in two folds, or a fold without examples.
    """
    if folds is None:
        raise InputError("a split by fold needs `folds`, and these data have none; use `content` instead")
    labels, ids, content, _ = units_of(labels, content_ids, seed, "content", None, None)
    folds = row_array("folds", folds, len(labels))
    names = fold_names(folds) if names is None else names
    if len(names) < FEWEST_FOLDS:
        raise InputError(
            f"a split by fold needs at least {FEWEST_FOLDS} folds, of which one tests and one validates; these data "
            f"bring {len(names)}"
        )
    number = np.array([names.index(str(name)) for name in folds])
    lowest = np.full(len(ids), len(names))
    np.minimum.at(lowest, content, number)
    astray = np.unique(content[number != lowest[content]])
    if len(astray):
        stand = "1 example stands" if len(astray) == 1 else f"{len(astray)} examples stand"
        raise InputError(
            f"{stand} in more than one fold (equal content ids), so that what is tested was trained on: put equal "
            "examples into one fold, or split by content"
        )
    held = seed % len(names)
    part = np.select([number == held, number == (held + 1) % len(names)], [2, 1], 0)
    sizes = np.bincount(part, minlength=3)
    if not sizes.all():
        raise InputError(
            f"fold {names[held]}, the next one or the others hold no example here: raise or drop `data.limit`"
        )
    return split_of(labels, ids, content, part, sizes / len(part))
