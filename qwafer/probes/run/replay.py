"""Training once more: the first steps of the training path against own batches, losses, gradients and AdamW."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwafer._io import digest, key_seed
from qwafer.config import RunConfig, TrainingConfig
from qwafer.objective import SamplingConfig
from qwafer.probes.report import Report
from qwafer.probes.run.model import Model, OwnLoss, normalizer
from qwafer.training import RunResult
from qwafer.training._trace import Step, Trace

STEPS = 4
"""Steps of each of the first two epochs that are taken again, beside one on either side of the end of each stage."""
GRADIENT_TOLERANCE = 5e-3
"""Of the largest entry of a parameter's gradient."""
SMALL = 1e-4
"""Of the largest entry of the whole gradient: what a parameter of a nearly vanishing gradient may be off by."""
MOMENT_ROUNDING = 2e-6
"""Of the first moment, from whose change the gradient is read: its rounding, where the gradient itself is nothing."""
UPDATE_TOLERANCE = 1e-3
"""Of the learning rate."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""AdamW's decay rates of the moments, and its epsilon."""


def replay(run: RunResult, config: RunConfig, features: np.ndarray, labels: np.ndarray, trace: Trace) -> Report:
    """Report whether the training path takes the steps that the configuration states, from the start of `run`.

    `features` (M, D) and `labels` (M, n_labels) are those of the training split, `trace` that of `first_steps`. Every
    step is computed anew from the parameters before it.
    """
    steps, buffers, seed = trace.steps, trace.buffers, run.seed
    x = normalizer(config, features)(features)
    model, loss = Model(config, labels.shape[1]), OwnLoss(config.objective, labels)
    plans = {step.epoch: planned(config, labels, seed, step.epoch) for step in steps}
    per_epoch = len(next(iter(plans.values()))[0]) if plans else 0
    options, worst = config.training, 0.0
    faults = [] if _same_start(run, config, steps) else ["training does not start from the initial values of the run"]
    for step in steps:
        rows, weights = (array[step.index] for array in plans[step.epoch])
        keep = _dropout(config, len(rows), seed, step)
        slope = loss.slope(labels[rows], weights.astype(np.float64))
        gradient = model.gradient({**buffers, **step.before}, x[rows], slope, keep)
        gradient = {name: gradient[name] for name in step.before}
        norm = math.sqrt(sum(float((value**2).sum()) for value in gradient.values()))
        clip = 1.0 if options.grad_clip is None else min(1.0, options.grad_clip / max(norm, 1e-300))
        largest = max((float(np.abs(value).max(initial=0)) for value in gradient.values()), default=0.0) * clip
        rate = schedule(options, options.epochs * per_epoch, step.number)
        for name, value in gradient.items():
            (first, second), (first_after, second_after) = (
                [moments[name] for moments in both] for both in (step.moments, step.moments_after)
            )
            seen = (first_after - BETAS[0] * first) / (1 - BETAS[0])
            scale = float(np.abs(value).max(initial=0)) * clip
            off = float(np.abs(seen - clip * value).max(initial=0))
            rounding = MOMENT_ROUNDING * float(np.abs(first).max(initial=0))
            allowed = GRADIENT_TOLERANCE * scale + SMALL * largest + rounding + 1e-12
            squares = np.abs(second_after - BETAS[1] * second - (1 - BETAS[1]) * seen**2).max(initial=0)
            worst = max(worst, off / allowed)
            place = f"step {step.index + 1} of epoch {step.epoch}"
            if not off <= allowed:
                faults.append(
                    f"{place}: the gradient of {name} is off by {off:.2g} (largest entry {scale:.2g}): other examples, "
                    "weights, loss or formula than stated"
                )
            elif not squares <= 1e-2 * (1 - BETAS[1]) * float((seen**2).max(initial=0)) + 1e-6 * second_after.max(
                initial=0
            ):
                faults.append(f"{place}: the second moment of {name} is not AdamW's")
            else:
                after = _adamw(options, name, step, rate, (first_after, second_after))
                own_rate = rate * getattr(options, f"lr_mult_{_group(name)}")
                error = float(np.abs(after - step.after[name]).max(initial=0))
                rounding = 4e-7 * float(np.abs(step.before[name]).max(initial=0))
                if not error <= UPDATE_TOLERANCE * own_rate + rounding:
                    faults.append(f"{place}: {name} moves {error:.2g} beside AdamW at the learning rate {own_rate:.2g}")
        if options.ema_decay is not None:
            d = options.ema_decay
            for name, after in step.after.items():
                own = d * step.average[name] + (1 - d) * after
                if not np.allclose(own, step.average_after[name], rtol=1e-5, atol=1e-6):
                    faults.append(f"step {step.number + 1}: the moving average of {name} is not the one of decay {d}")
    faults += _evaluated(options, steps[-1], trace.evaluated) if steps else []
    return Report(
        name="training replay",
        question="Does training take the steps that the configuration states?",
        verdict="fail" if faults else "pass",
        headline=faults[0] if faults else f"{len(steps)} steps of epochs {_listed(steps)} computed again, all agree",
        numbers={"steps": len(steps), "largest_error": worst, "faults": faults[:20]},
        tolerance=f"fail: a gradient off by {GRADIENT_TOLERANCE:.1%} of its largest entry, or an update by "
        f"{UPDATE_TOLERANCE:.1%} of the learning rate",
        meaning="The run trained on other examples, weights, a loss or a formula than its configuration says.",
        remedy="Compare batch, loss and head of that step with their definitions; nothing trained this way counts.",
    )


def planned(config: RunConfig, labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and weights (n_batches, batch) of an epoch for `labels` (M, n_labels) of the training split, as the
    sampling options state them.
    """
    sampling: SamplingConfig = config.sampling
    size, fixed, m = config.training.batch_size, config.training.fixed_num_batches, len(labels)
    rng = np.random.default_rng(key_seed(seed, f"batches/{epoch}"))

    def passes(members: np.ndarray, length: int) -> np.ndarray:
        drawn: list[Any] = []
        while len(drawn) < length:
            drawn.extend(rng.permutation(members).tolist())
        return np.array(drawn[:length], np.int64)

    n_batches = fixed or math.ceil(m / size)
    if not sampling.balanced:
        length = n_batches * size if fixed else m
        rows, weights = np.zeros(n_batches * size, np.int64), np.zeros(n_batches * size)
        rows[:length], weights[:length] = passes(np.arange(m), length), 1.0
        return rows.reshape(n_batches, size), weights.reshape(n_batches, size)
    if config.objective.exclusive:
        members = [np.flatnonzero(column == 1) for column in labels.T]
        counts = _class_counts(sampling.class_shares, size, len(members))
        shares = [len(rows) / m for rows in members]
    else:
        members = [np.flatnonzero(labels[:, 0] == value) for value in (1, 0)]
        counts = [up := round(size * sampling.pos_frac), size - up]
        shares = [share := len(members[0]) / m, 1 - share]
    drawn = [
        passes(rows, n_batches * count).reshape(n_batches, count) for rows, count in zip(members, counts, strict=True)
    ]
    # An example stands for its class's share of the data over its share of the batch.
    each = [
        share / (count / size) if sampling.importance_weights else 1.0
        for share, count in zip(shares, counts, strict=True)
    ]
    return np.concatenate(drawn, axis=1), np.tile(np.repeat(each, counts), (n_batches, 1))


def _class_counts(given: str | None, size: int, n_classes: int) -> list[int]:
    """Return how many examples of each class a batch of `size` holds: shares, rounded down, and one more for those that
    lost most.
    """
    parts = np.array([float(part) for part in given.split(",")] if given else [1.0] * n_classes)
    exact = size * parts / sum(parts)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return [int(count) for count in counts]


def schedule(options: TrainingConfig, stage: int, done: int) -> float:
    """Return the learning rate of the step after `done` steps, where the first stage has `stage` steps."""
    rising = max(round(options.warmup * stage), 1)
    rate, begin, length = options.learning_rate * min((done + 1) / rising, 1), 0, stage
    doublings = 0
    while done >= begin + length and doublings < options.max_doublings:
        begin, doublings = begin + length, doublings + 1
        length = begin
    t = done - begin
    if options.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * min(t / length, 1))) / 2
    if options.schedule == "one_cycle":
        length = max(length, 4)
        top, low, last = int(0.3 * length), rate / 25, rate / 25 / 1e4
        if t < top:
            return low + (rate - low) * (1 - math.cos(math.pi * t / top)) / 2
        return last + (rate - last) * (1 + math.cos(math.pi * min((t - top) / (length - top), 1))) / 2
    return rate


def _adamw(
    options: TrainingConfig, name: str, step: Step, rate: float, moments: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the parameter after a step: p - lr (m^ / (sqrt(v^) + eps) + decay p), with moments corrected for 0."""
    own = getattr(options, f"weight_decay_{_group(name)}")
    decay = options.weight_decay if own is None else own
    mean, square = (moment / (1 - beta ** (step.number + 1)) for moment, beta in zip(moments, BETAS, strict=True))
    move = mean / (np.sqrt(square) + EPSILON) + decay * step.before[name]
    return np.asarray(step.before[name] - rate * getattr(options, f"lr_mult_{_group(name)}") * move)


def _evaluated(options: TrainingConfig, last: Step, found: Mapping[str, np.ndarray]) -> list[str]:
    """Return what is wrong with the parameters that are evaluated after the `last` step: those after it, or their
    moving average, divided by the weight that its steps have in it.
    """
    faults = []
    for name, value in last.after.items():
        own = value
        if options.ema_decay is not None:
            own = last.average_after[name] / (1 - options.ema_decay ** (last.number + 1))
        if not np.allclose(own, found[name], rtol=1e-4, atol=1e-6):
            what = "the moving average, corrected for its start at 0" if options.ema_decay else "those after the step"
            faults.append(f"the parameters that are evaluated ({name}) are not {what}")
    return faults


def _listed(steps: Sequence[Step]) -> str:
    epochs = sorted({step.epoch for step in steps})
    return ", ".join(map(str, epochs[:-1])) + (" and " if epochs[1:] else "") + str(epochs[-1])


def _same_start(run: RunResult, config: RunConfig, steps: Sequence[Step]) -> bool:
    """Return whether the first step starts from the values that the run has digests of."""
    dtype = "float32" if config.circuit is None else config.circuit.dtype
    start = {f"{name}{list(value.shape)}": digest(value.astype(dtype)) for name, value in steps[0].before.items()}
    return start == run.digests.parameters


def _group(name: str) -> str:
    return name.partition(".")[0]


def _dropout(config: RunConfig, batch: int, seed: int, step: Step) -> np.ndarray | None:
    """Return the factors (batch, hidden) of inverted dropout, from the stream that belongs to the step."""
    rate = getattr(config.head, "dropout", 0.0)
    if not rate:
        return None
    import jax

    key = jax.random.fold_in(jax.random.key(key_seed(seed, "dropout")), step.number)
    return np.asarray(jax.random.bernoulli(key, 1 - rate, (batch, config.head.hidden))) / (1 - rate)
