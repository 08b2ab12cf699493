"""A run of a contender: a head that trains itself, under the same split, seed and measures as the others."""

import time
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer.config import RunConfig
from qwafer.heads import size_of
from qwafer.training._environment import environment
from qwafer.training._judge import judge
from qwafer.training._prepare import Prepared, written_config
from qwafer.training.predictor import Predictor
from qwafer.training.result import Digests, ParameterCount, RunResult, Timings


def fit_contender(config: RunConfig, prepared: Prepared, seed: int) -> RunResult:
    """Fit `config.head` on the training split and measure it; raises InputError where its logits do not fit."""
    begin = time.perf_counter()
    fitted = config.head.fit(prepared, seed)
    trained = time.perf_counter()
    logits = {name: contender_logits(config, fitted, prepared, name) for name in ("val", "test")}
    judged = judge(prepared, logits)
    count = getattr(fitted, "n_parameters", None)
    bits = size_of(fitted).bits if hasattr(fitted, "stored") else None
    end = time.perf_counter()
    return RunResult(
        config=written_config(config),
        seed=seed,
        label_names=prepared.data.label_names,
        val=judged.val,
        test=judged.test,
        initial=None,
        best_epoch=0,
        epochs_run=0,
        converged=None,
        curves={},
        digests=Digests(prepared.data_digest, prepared.split.digest, source=prepared.source_digest),
        n_parameters=ParameterCount(trainable=count, frozen=0, total=count, effective=count, bits=bits),
        degenerate=judged.degenerate,
        notes=prepared.notes,
        timings=Timings(training=trained - begin, evaluation=end - trained, total=end - begin),
        engine={},
        compile_cache={},
        environment=environment(),
        predictor=Predictor.of(config, fitted, prepared, judged, seed),
        provenance=prepared.data.provenance,
        n_examples=prepared.n_examples,
        n_groups=prepared.n_groups,
        outputs=judged.outputs,
    )


def contender_logits(config: RunConfig, fitted: Any, prepared: Prepared, part: str) -> np.ndarray:
    """Return the logits (N, n_labels) of what `config.head` has fitted; raises InputError where they do not fit."""
    features, labels = prepared.part(part)
    values = np.asarray(fitted.logits(features))
    if values.shape != labels.shape or not np.isfinite(values).all():
        raise InputError(
            f"head {config.name('head')} must give finite logits of shape {labels.shape}, got {values.shape}"
        )
    return values
