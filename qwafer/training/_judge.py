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


def judge(prepared: Prepared, logits: Mapping[str, np.ndarray]) -> Judgement:
    """Return the judgement of the logits (N, n_labels) of `val` and `test`."""
    labels = {name: prepared.part(name)[1] for name in logits}
    thresholds = None if prepared.exclusive else tune_thresholds(logits["val"], labels["val"]).values
    outputs: dict[str, np.ndarray] = {}
    found = {}
    for name, values in logits.items():
        found[name] = evaluate(
            values,
            labels[name],
            label_names=prepared.data.label_names,
            thresholds=thresholds,
            exclusive=prepared.exclusive,
        )
        outputs |= {f"{name}_logits": values, f"{name}_labels": labels[name]}
        outputs |= {f"{name}_rows": getattr(prepared.split, name), f"{name}_ids": prepared.ids(name)}
        groups = prepared.groups(name)
        if groups is not None:
            outputs[f"{name}_groups"] = groups
    return Judgement(found["val"], found["test"], thresholds or (), outputs)
