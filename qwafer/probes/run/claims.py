"""What a run claims of its scores, its predictor, its end and its checkpoint, computed again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtri

from qwafer.config import RunConfig, TrainingConfig
from qwafer.evaluation import Evaluation
from qwafer.probes.report import Report
from qwafer.probes.run.model import Arrays, Model, OwnLoss
from qwafer.training import RunResult

SCORE_TOLERANCE = 1e-3
"""Of the spread of a logit."""
TOLD_APART = 1e-4
"""Range of the logits below which rounding ranks them."""
INITIAL_AUC = 0.05
"""Of a ROC-AUC before the first step, where rounding may decide ties."""
PARTS_GAP = 0.1
"""Least gap of a ROC-AUC between validation and test that is looked at."""
PARTS_ALARM = 5e-5
"""Of runs without a fault, the share in which some label's gap is called significant, at most."""


def initial_fault(run: RunResult, loss: float | None, logits: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return in what the scores before the first step differ from those of the initial parameters, whose loss and
    logits (N, n_labels) on validation are given.
    """
    if run.initial is None:
        return []
    ranks = _odds(logits) if run.val.exclusive else logits
    aucs = [auc(ranks[:, k], labels[:, k] > 0) for k in range(labels.shape[1])]
    defined = [value for value in aucs if not np.isnan(value)]
    own = float(np.mean(defined)) if defined else float("nan")
    faults = []
    if loss is not None and not np.isclose(run.initial.loss, loss, rtol=1e-2, atol=1e-4):
        faults.append(f"validation loss before the first step is said to be {run.initial.loss:.4g}, and is {loss:.4g}")
    told_apart = float(np.ptp(logits, axis=0).min()) > TOLD_APART
    if told_apart and not np.isclose(run.initial.roc_auc, own, atol=INITIAL_AUC, equal_nan=True):
        faults.append(
            f"validation ROC-AUC before the first step is said to be {run.initial.roc_auc:.3f}, not {own:.3f}"
        )
    return faults


def scores(run: RunResult, config: RunConfig, features: np.ndarray, arrays: Arrays | None, x: Any) -> Report:
    """Report whether logits follow from the parameters, thresholds from validation, and metrics from both.

    `arrays` are the parameters and buffers of the best checkpoint, None where they cannot be executed again; `x` the
    standardisation of the features (N, D).
    """
    faults, worst = [], 0.0
    for part in ("val", "test"):
        logits, labels = run.logits[part].astype(np.float64), run.labels[part] > 0
        if arrays is not None:
            chosen = np.unique(np.linspace(0, len(logits) - 1, 512).astype(int))
            own = Model(config, logits.shape[1]).logits(arrays, x(features[run.rows[part][chosen]]))
            off = float(np.abs(own - logits[chosen]).max())
            allowed = SCORE_TOLERANCE * (float(np.abs(own).max()) + 1)
            worst = max(worst, off / allowed)
            if not off <= allowed:
                faults.append(f"the logits of {part} are off by {off:.2g} from those of the saved parameters")
        evaluation = getattr(run, part)
        ranks = logits if not evaluation.exclusive else _odds(logits)
        aucs = np.array([auc(ranks[:, k], labels[:, k]) for k in range(logits.shape[1])])
        if not np.allclose(aucs, evaluation.per_class["roc_auc"], atol=1e-9, equal_nan=True):
            faults.append(f"the ROC-AUC of {part} is not that of its logits")
        faults += [
            f"the {name} of {part} is not that of its logits" for name in _wrong_metrics(evaluation, ranks, labels)
        ]
        cuts = evaluation.thresholds
        if cuts is not None:
            own_f1 = [_f1(logits[:, k] > cuts[k], labels[:, k]) for k in range(len(cuts))]
            if not np.allclose(own_f1, evaluation.per_class["f1_tuned"], atol=1e-9, equal_nan=True):
                faults.append(f"the tuned F1 of {part} is not that of its logits at the thresholds")
            if cuts != run.val.thresholds:
                faults.append(f"the thresholds of {part} are not those of validation")
    faults += [*_predictor_faults(run), *_prediction_faults(run, config, features)]
    if run.val.thresholds is not None:
        for k, cut in enumerate(run.val.thresholds):
            best = best_cuts(run.logits["val"][:, k].astype(np.float64), run.labels["val"][:, k] > 0)
            fallback = cut == 0.0 and (len(best) == 0 or run.val.degenerate[k] or _extreme(run, k, best))
            if not fallback and not np.isclose(best, cut, rtol=1e-6, atol=1e-9).any():
                faults.append(f"the threshold of {run.label_names[k]} is not one that validation gives")
    return Report(
        name="run scores",
        question="Do logits follow from the parameters, thresholds from validation, metrics from both?",
        verdict="fail" if faults else "pass",
        headline="; ".join(faults[:2])
        or f"logits{' of the saved parameters' if arrays is not None else ''}, thresholds and metrics agree",
        numbers={"faults": faults, "largest_error": worst},
        tolerance=f"fail: a logit off by {SCORE_TOLERANCE:.1%} of the largest, a metric by 1e-9",
        meaning="The numbers of the report are not those of the model that was saved.",
        remedy="Compare evaluation with training: alpha, bias, parameters, thresholds, the part that each reads.",
    )


def _wrong_metrics(evaluation: Evaluation, ranks: np.ndarray, truth: np.ndarray) -> list[str]:
    """Return the names of metrics that scores (N, K), logits of a class against the rest, and their truth do not give,
    and of averages that are not the mean over the labels for which they are defined.
    """
    if not np.isfinite(ranks).all():
        return []
    probability = np.exp(-np.logaddexp(0, -ranks))
    own = {
        "average_precision": [_average_precision(ranks[:, k], truth[:, k]) for k in range(ranks.shape[1])],
        "brier": ((probability - truth) ** 2).mean(axis=0),
        "loss": (np.logaddexp(0, ranks) - truth * ranks).mean(axis=0),
        "separation": [
            ranks[up, k].mean() - ranks[~up, k].mean() if 0 < up.sum() < len(up) else np.nan
            for k, up in enumerate(truth.T)
        ],
    }
    claimed, wrong = evaluation.per_class, []
    for name, values in own.items():
        if not np.allclose(values, claimed[name], rtol=1e-7, atol=1e-9, equal_nan=True):
            wrong.append(name)
    for name, values in claimed.items():
        given = np.asarray(values, np.float64)[~np.isnan(values)]
        mean = float(given.mean()) if len(given) else float("nan")
        if evaluation.exclusive and name == "loss":
            continue  # there it is the cross-entropy of all classes
        if not np.isclose(mean, evaluation.macro[name], rtol=1e-9, atol=1e-9, equal_nan=True):
            wrong.append(f"mean {name}")
    return wrong


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean, over positives, of the precision among the scores at least as high."""
    if not truth.any():
        return float("nan")
    at_least, hits = (len(s) - np.searchsorted(np.sort(s), scores[truth], side="left") for s in (scores, scores[truth]))
    return float((hits / at_least).mean())


def _predictor_faults(run: RunResult) -> list[str]:
    """Return in what the predictor that is handed out differs from the run: names, thresholds, logits, numbers."""
    predictor = run.predictor
    faults: list[str] = []
    if predictor is None:
        return faults
    if predictor.label_names != run.label_names:
        faults.append("the predictor calls its labels otherwise than the run")
    if predictor.thresholds != (run.val.thresholds or ()):
        faults.append("the thresholds of the predictor are not those of the run")
    params = getattr(predictor.head, "params", None)
    if isinstance(params, dict) and run.n_parameters.trainable is not None:
        count = sum(int(np.size(value)) for value in params.values())
        if count != run.n_parameters.trainable:
            faults.append(f"the head has {count} trainable numbers, the run says {run.n_parameters.trainable}")
    return faults


def _prediction_faults(run: RunResult, config: RunConfig, features: np.ndarray) -> list[str]:
    """Return in what the logits that the predictor gives for the rows of validation and test, among `features` (N, D),
    differ from those of the run; nothing is asked of finite shots.
    """
    if run.predictor is None or getattr(config.engine, "shots", None) is not None:
        return []
    faults = []
    for part in ("val", "test"):
        chosen = np.unique(np.linspace(0, len(run.rows[part]) - 1, 512).astype(int))
        found, stored = run.predictor.logits(features[run.rows[part][chosen]]), run.logits[part][chosen]
        if not np.allclose(found, stored, rtol=SCORE_TOLERANCE, atol=SCORE_TOLERANCE, equal_nan=True):
            faults.append(f"the predictor gives other logits for {part} than the run")
    return faults


def ending(run: RunResult, config: RunConfig) -> list[str]:
    """Return what of the end of a run, and of its word on convergence, its curves and options do not give."""
    options = config.training
    epochs = [int(epoch) for epoch in run.curves.get("epoch", ())]
    losses = np.asarray(run.curve("val_loss"), np.float64)
    if not epochs or run.initial is None or not np.isfinite([*losses, *run.curve("train_loss")]).all():
        return []
    curve = np.asarray(run.curve(f"val_{options.val_objective}"), np.float64)
    values = -curve if options.val_objective == "loss" else curve
    if epochs != [epoch for epoch in options.evaluation_epochs if epoch <= run.epochs_run]:
        return ["the evaluations are not at the epochs that the options state"]
    stopped, end = None, None
    for count in range(1, len(epochs) + 1):
        own, patience = values[:count], options.early_stopping
        known = np.where(np.isnan(own), -np.inf, own)
        waited = count - 1 - int(known.argmax()) if np.isfinite(known).any() else count
        if patience is not None and waited >= patience:
            stopped, end = bool(np.isfinite(known).any()), epochs[count - 1]
            break
        if epochs[count - 1] in options.stage_ends and _arrived(epochs[:count], losses[:count], own, run, options):
            end = epochs[count - 1]
            break
    faults = []
    last = options.stage_ends[-1] if end is None else end
    if run.epochs_run != last:
        faults.append(f"training ended after epoch {run.epochs_run}, and by its curves and options after {last}")
    # Where early stopping has judged the objective, the loss alone is left to judge.
    own_word = _arrived(epochs, losses, np.full_like(values, np.nan) if stopped else values, run, options)
    if run.converged is not own_word:
        faults.append(
            f"the run says that it has {'' if run.converged else 'not '}converged, and its curves say "
            f"that it has {'' if own_word else 'not'}".rstrip()
        )
    return faults


def _arrived(
    epochs: Sequence[int], losses: np.ndarray, values: np.ndarray, run: RunResult, options: TrainingConfig
) -> bool:
    """Return whether the second half of the epochs paid too little, by loss and objective, to go on."""
    late = np.array([2 * epoch > epochs[-1] for epoch in epochs])
    if len(epochs) < 4 or late.all() or run.initial is None:
        return False
    early_loss, gain = losses[~late].min(), losses[~late].min() - losses[late].min()
    slack = options.convergence_tolerance * abs(early_loss)
    paid = gain > 10 * slack or (gain > slack and gain > (run.initial.loss - losses[late].min()) / 4)
    if paid or np.isnan(values).any():
        return not paid
    best = values[~late].max()
    return bool(values[late].max() <= best + options.convergence_tolerance * max(1.0, abs(best)))


def checkpoint(
    run: RunResult, config: RunConfig, train_labels: np.ndarray, initial: np.ndarray | None = None
) -> Report:
    """Report whether the checkpoint is the best on validation, and its scores those recorded with its epoch."""
    epochs = [int(epoch) for epoch in run.curves.get("epoch", ())]
    name, question = "checkpoint", "Is the checkpoint the best on validation?"
    objective = config.training.val_objective
    curve = np.asarray(run.curve(f"val_{objective}"), np.float64) * (-1 if objective == "loss" else 1)
    if run.best_epoch not in epochs or not np.isfinite(curve).any():
        return Report(name, question, "skip", "no evaluation picked the checkpoint")
    faults, place = [], epochs.index(run.best_epoch)
    best = epochs[int(np.nanargmax(np.where(np.isnan(curve), -np.inf, curve)))]
    if best != run.best_epoch:
        faults.append(f"epoch {run.best_epoch} was taken, and epoch {best} is the best on validation")
    logits, labels = run.logits["val"].astype(np.float64), run.labels["val"] > 0
    ranks = _odds(logits) if run.val.exclusive else logits
    aucs = [auc(ranks[:, k], labels[:, k]) for k in range(logits.shape[1])]
    defined = [value for value in aucs if not np.isnan(value)]
    recorded, own = run.curve("val_roc_auc")[place], float(np.mean(defined)) if defined else float("nan")
    if not np.isclose(recorded, own, atol=1e-6, equal_nan=True):
        faults.append(
            f"validation ROC-AUC was {recorded:.4f} when the checkpoint was picked, and its logits and labels give "
            f"{own:.4f}"
        )
    loss = OwnLoss(config.objective, train_labels).value(logits, labels.astype(np.float64))
    recorded = run.curve("val_loss")[place]
    if loss is not None and not np.isclose(recorded, loss, rtol=1e-3, atol=1e-6, equal_nan=True):
        faults.append(f"validation loss was {recorded:.5f} when the checkpoint was picked, its logits give {loss:.5f}")
    faults += ending(run, config)
    if initial is not None:
        before = OwnLoss(config.objective, train_labels).value(initial, labels.astype(np.float64))
        faults += initial_fault(run, before, initial, labels)
    return Report(
        name=name,
        question=question,
        verdict="fail" if faults else "pass",
        headline="; ".join(faults) or f"epoch {run.best_epoch} of {epochs[-1]}, by {objective} on validation",
        numbers={"faults": faults},
        tolerance="fail: another epoch, or scores that differ by rounding and more",
        meaning="The checkpoint was picked by other examples or labels than validation's, such as those of test.",
        remedy="Look at what the loop evaluates, and at what it compares.",
    )


def parts_agree(run: RunResult, trained: tuple[np.ndarray, np.ndarray], *, random_split: bool) -> Report:
    """Report labels whose ROC-AUC on validation is far from that on test: shuffled or swapped labels look like that.

    The gap must exceed 0.1 and be significant at 5e-5 over all labels (Bonferroni), by the standard error of Hanley and
    McNeil (1982) at the pooled AUC. `trained` holds logits and labels of training examples, which tell which of the two
    is at fault. A split by lot or time may differ in kind between its parts: there it warns.
    """
    found, rows, sigmas = [], {}, -float(ndtri(PARTS_ALARM / 2 / len(run.label_names)))
    for k, name in enumerate(run.label_names):
        values, errors = {}, {}
        pairs = {part: (run.logits[part], run.labels[part]) for part in ("val", "test")} | {"train": trained}
        for part, (logits, labels) in pairs.items():
            ranks = _odds(logits) if run.val.exclusive else logits
            values[part] = auc(np.asarray(ranks[:, k], np.float64), labels[:, k] > 0)
        n = {part: int((run.labels[part][:, k] > 0).sum()) for part in ("val", "test")}
        rows[name] = values
        if np.isnan(values["val"]) or np.isnan(values["test"]):
            continue
        size = {part: len(run.labels[part]) for part in n}
        pooled = sum(values[part] * size[part] for part in n) / sum(size.values())
        a = float(np.clip(pooled, 0.5, 0.99))
        for part, up in n.items():
            errors[part] = _standard_error(a, up, len(run.labels[part]) - up)
        gap = values["val"] - values["test"]
        if abs(gap) > max(PARTS_GAP, sigmas * float(np.hypot(errors["val"], errors["test"]))):
            odd = max(("val", "test"), key=lambda part: abs(values[part] - values["train"]))
            found.append(
                f"{name}: ROC-AUC {values['train']:.3f} on training, {values['val']:.3f} on validation, "
                f"{values['test']:.3f} on test: the labels of {odd} may be shuffled or swapped"
            )
    return Report(
        name="parts agree",
        question="Do training, validation and test rank each label alike?",
        verdict="pass" if not found else "fail" if random_split else "warn",
        headline="; ".join(found[:2]) or f"{len(rows)} labels rank alike on validation and test",
        numbers={"roc_auc": rows},
        tolerance=f"ROC-AUC of validation and test apart by {PARTS_GAP} and {sigmas:.1f} standard errors: fail, "
        "or warn where the split is by lot, by time or came with the data",
        meaning="Thresholds and checkpoints were tuned on labels that do not belong to their examples.",
        remedy="Compare labels and order of the examples of that part with their source.",
    )


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the ROC-AUC of scores (N,) by mid-ranks; NaN where a class is absent or a score not finite."""
    up = int(truth.sum())
    down = len(truth) - up
    if not up or not down or not np.isfinite(scores).all():
        return float("nan")
    from scipy.stats import rankdata

    return float((rankdata(scores)[truth].sum() - up * (up + 1) / 2) / (up * down))


def best_cuts(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return every midpoint of neighbouring distinct scores (N,) of the largest F1; empty where there is none."""
    distinct = np.unique(scores)
    if len(distinct) < 2 or not truth.any() or truth.all() or not np.isfinite(scores).all():
        return np.zeros(0)
    above, hits = (len(s) - np.searchsorted(np.sort(s), distinct[:-1], side="right") for s in (scores, scores[truth]))
    f1 = 2 * hits / (above + truth.sum())
    return np.asarray((distinct[:-1] + np.diff(distinct) / 2)[np.isclose(f1, f1.max(), rtol=0, atol=1e-12)])


def _extreme(run: RunResult, k: int, best: Sequence[float] | np.ndarray) -> bool:
    """Return whether the best thresholds predict (almost) nothing or everything positive, so that none is used."""
    logits, truth = run.logits["val"][:, k], run.labels["val"][:, k]
    rates, prevalence = np.array([np.mean(logits > cut) for cut in best]), float(truth.mean())
    few, many = (min(0.005, 0.1 * share) for share in (prevalence, 1 - prevalence))
    return bool(((rates < few) | (1 - rates < many)).any())


def _f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any():
        return float("nan")
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _odds(logits: np.ndarray) -> np.ndarray:
    """Return log(p_k / (1 - p_k)) of the softmax (N, K)."""
    columns = range(logits.shape[1])
    others = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in columns]
    return np.stack([logits[:, k] - others[k] for k in columns], axis=1)


def _standard_error(a: float, up: int, down: int) -> float:
    first, second = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (up - 1) * (first - a * a) + (down - 1) * (second - a * a)
    return float(np.sqrt(max(variance, 0) / (up * down)))
