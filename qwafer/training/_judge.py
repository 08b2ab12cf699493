"""What every run is measured by, however it was trained: thresholds from validation, both splits at them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qwafer.evaluation import Evaluation, evaluate, tune_thresholds
from qwafer.training._prepare import Prepared


@dataclass(frozen=True, eq=False)
class Judgement:
    """The logits of validation and test, measured."""

    val: Evaluation
    test: Evaluation
    thresholds: tuple[float, ...]
    """Tuned on validation; empty for exclusive classes, which the largest logit decides."""
    outputs: dict[str, np.ndarray]
    """As `RunResult.outputs`."""

    @property
    def degenerate(self) -> bool:
        """Whether thresholded metrics of some label cannot be trusted."""
        return self.val.any_degenerate or self.test.any_degenerate


def judge_validation(prepared: Prepared, logits: np.ndarray) -> Evaluation:
    """Return the measures of the logits (N, n_labels) of validation, at thresholds tuned on them; test is not read."""
    return _measured(prepared, "val", logits, None if prepared.exclusive else _tuned(prepared, logits))


def judge(prepared: Prepared, logits: Mapping[str, np.ndarray]) -> Judgement:
    """Return the judgement of the logits (N, n_labels) of `val` and `test`."""
    thresholds = None if prepared.exclusive else _tuned(prepared, logits["val"])
    outputs: dict[str, np.ndarray] = {}
    found = {}
    for name, values in logits.items():
        found[name] = _measured(prepared, name, values, thresholds)
        outputs |= {f"{name}_logits": values, f"{name}_labels": prepared.part(name)[1]}
        outputs |= {f"{name}_rows": getattr(prepared.split, name), f"{name}_ids": prepared.ids(name)}
        groups = prepared.groups(name)
        if groups is not None:
            outputs[f"{name}_groups"] = groups
    return Judgement(found["val"], found["test"], thresholds or (), outputs)


def _tuned(prepared: Prepared, logits: np.ndarray) -> tuple[float, ...]:
    return tuple(tune_thresholds(logits, prepared.part("val")[1]).values)


def _measured(prepared: Prepared, name: str, logits: np.ndarray, thresholds: tuple[float, ...] | None) -> Evaluation:
    return evaluate(
        logits,
        prepared.part(name)[1],
        label_names=prepared.data.label_names,
        thresholds=thresholds,
        exclusive=prepared.exclusive,
    )
