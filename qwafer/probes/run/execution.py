"""Every probe of a run's claims, in one call: which of them apply, and why the others are skipped."""

import numpy as np

from qwafer.config import RunConfig
from qwafer.features import FeatureSet
from qwafer.probes.report import Report
from qwafer.probes.run import claims, inputs
from qwafer.probes.run.model import Model, normalizer, why_not
from qwafer.probes.run.replay import STEPS, replay
from qwafer.training import RunResult, prepare
from qwafer.training._trace import first_steps

MOST_TRAINED = 4000
"""Training examples whose scores tell what the head learned, at most."""


def probe_claims(run: RunResult, data: FeatureSet) -> list[Report]:
    """Return the reports of an independent re-execution of `run` on `data`, the features as they were given to it.

    Rows, labels, names, batches, preprocessing, logits, thresholds, metrics and the checkpoint are computed again from
    `data`, the saved parameters and the stored logits; the first steps of the training path are taken once more and
    computed again. `run` may come from a file: what needs its predictor is then left out. Heads, circuits and losses of
    one's own, and finite shots, cannot be executed again: skipped with the reason.
    """
    config = RunConfig.from_dict(run.config)
    prepared = prepare(config, data, run.seed)
    split, rows = prepared.split, inputs.limited(config, data, run.seed)
    features, labels = data.features[rows], inputs.task_labels(config, data)[0][rows]
    train_features, train_labels = features[split.train], labels[split.train]
    reports = [inputs.run_data(run, config, data, split)]
    reason = why_not(config, len(run.label_names)) if config.trained_by_loop else "it trains itself"
    arrays = None
    if reason is None and run.predictor is not None:
        head = run.predictor.head
        arrays = {name: np.asarray(value, np.float64) for name, value in {**head.params, **head.buffers}.items()}
    own = normalizer(config, train_features)
    reports.append(claims.scores(run, config, features, arrays, own))
    if run.predictor is not None:
        chosen = np.unique(np.linspace(0, len(split.train) - 1, MOST_TRAINED).astype(int))
        trained = run.predictor.logits(train_features[chosen]), train_labels[chosen]
        random_split = config.data.split_by == "content" and data.split is None
        reports.append(claims.parts_agree(run, trained, random_split=random_split))
    if reason is not None:
        question = "Does training take the steps that the configuration states?"
        return [*reports, Report("training replay", question, "skip", f"cannot be executed again: {reason}")]
    trace = first_steps(config, prepared, run.seed, STEPS, run.epochs_run)
    before = {**trace.buffers, **trace.steps[0].before} if trace.steps else None
    x = own(features[run.rows["val"]])
    initial = None if before is None else Model(config, labels.shape[1]).logits(before, np.asarray(x, np.float64))
    reports.append(claims.checkpoint(run, config, train_labels, initial))
    reports.append(inputs.preprocessing(config, train_features, trace.buffers if arrays is None else arrays))
    return [*reports, replay(run, config, train_features, train_labels, trace)]
