"""What a run claims to have read, asked of the features as given: rows, labels, split, preprocessing."""

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest, hash_texts, key_seed
from qwafer.config import RunConfig
from qwafer.data import Split
from qwafer.features import FeatureSet
from qwafer.probes.report import Report
from qwafer.probes.run.model import STATISTICS, Arrays, Statistics, normalizer
from qwafer.probes.run.replay import planned
from qwafer.training import RunResult, prepare

STATISTICS_TOLERANCE = 1e-3
"""Of a standard deviation."""
SIZE_UNITS, SIZE_SHARE = 3, 0.1
"""A part may be off by so many of the largest unit that stays together, or by so much of all rows."""
FEW_UNITS = 20
"""Distinct maps, or lots, below which two seeds may well draw one split."""


def limited(config: RunConfig, data: FeatureSet, seed: int) -> np.ndarray:
    """Return the rows of `data` that `data.limit` leaves, ascending."""
    options = config.data
    if options.limit is None or options.limit >= len(data):
        return np.arange(len(data))
    own = seed if options.split_seed is None else options.split_seed
    drawn = own if options.n_folds is None else seed // options.n_folds
    if options.split_by == "fold":  # folds are of one set
        drawn = 0
    rng = np.random.default_rng(key_seed(drawn, "limit"))
    return np.asarray(np.sort(rng.choice(len(data), options.limit, replace=False)))


def task_labels(config: RunConfig, data: FeatureSet) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels (N, n_labels) and names of the task of `config`."""
    task, names = config.data.task, tuple(data.label_names)
    if task == "multilabel":
        return np.asarray(data.labels), names
    if task == "any":
        defect = [k for k, name in enumerate(names) if name.lower() not in ("none", "normal")]
        return (data.labels[:, defect].sum(axis=1, keepdims=True) > 0).astype(np.uint8), ("defect",)
    return np.asarray(data.labels[:, [names.index(task)]]), (task,)


def run_data(run: RunResult, config: RunConfig, data: FeatureSet, split: Split) -> Report:
    """Report whether rows, labels and names of a run are those of `data`, and its parts and batches those stated.

    `data` are the features as they were given, before limit and task; `split` is the one that the options state.
    """
    rows = limited(config, data, run.seed)
    (labels, names), content = task_labels(config, data), data.content_ids[rows]
    labels = labels[rows]
    parts = {name: getattr(split, name) for name in ("train", "val", "test")}
    faults = []
    if run.label_names != names or run.val.label_names != names or run.test.label_names != names:
        faults.append(f"the labels are called {', '.join(run.label_names)}, those of the data {', '.join(names)}")
    for part in ("val", "test"):
        if not np.array_equal(run.rows[part], parts[part]):
            faults.append(f"the rows of {part} are not those of the split that the options state")
            continue
        ids = run.ids.get(part)
        if ids is not None and not np.array_equal(ids, hash_texts(content[parts[part]])):
            faults.append(f"the content ids of {part} are not those of its rows")
        lots = run.groups.get(part)
        known = None if data.groups is None else hash_texts(data.groups[rows][parts[part]]).view(np.int64)
        if lots is None or known is None:
            same = lots is None and known is None
        else:
            same = np.array_equal(lots, known)
        if not same:
            faults.append(f"the lots of {part} are not those of its rows")
        if run.labels[part].shape != labels[parts[part]].shape:
            faults.append(f"the labels of {part} have another shape than those of the data")
        else:
            differ = run.labels[part] != labels[parts[part]]
            if differ.any():
                columns = [name for name, any_ in zip(names, differ.any(axis=0), strict=True) if any_]
                faults.append(
                    f"{int(differ.any(axis=1).sum())} of {len(differ)} examples of {part} carry other labels than the "
                    f"data ({', '.join(columns)})"
                )
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = len(set(content[parts[one]].tolist()) & set(content[parts[other]].tolist()))
        if shared:
            faults.append(f"{shared} examples are both in {one} and in {other}")
    if run.digests.source and run.digests.source != data.digest():
        faults.append("the digest of the data is not theirs")
    if run.digests.split != split.digest:
        faults.append("the digest of the split is not its own")
    if run.n_examples and run.n_examples != {name: len(part) for name, part in parts.items()}:
        faults.append("the numbers of examples are not those of the parts")
    faults += [*split_faults(config, data, run.seed, split), *seed_faults(config, data, run.seed, split)]
    if data.split is not None and any((data.split[rows][part] != name).any() for name, part in parts.items()):
        faults.append("the split is not the one that came with the data")
    if config.trained_by_loop and run.digests.batches:
        ids = hash_texts(content[parts["train"]])
        plan = [planned(config, labels[parts["train"]], run.seed, epoch + 1) for epoch in range(config.training.epochs)]
        own = digest(*(digest(ids[order], weights.astype(np.float32)) for order, weights in plan))
        if own != run.digests.batches:
            faults.append("the batches that were handed to the steps are not those that the sampling options state")
    return Report(
        name="run data",
        question="Are the run's rows, labels, names and batches those of the data and the options?",
        verdict="fail" if faults else "pass",
        headline="; ".join(faults[:2]) or f"{len(rows)} rows, parts, labels and batches agree",
        numbers={"faults": faults, "n_examples": {name: len(part) for name, part in parts.items()}},
        tolerance="fail: any row, label, name or batch that differs",
        meaning="Metrics speak of other examples, labels or patterns than the report says.",
        remedy="Look for an order that was applied to one of features, labels and names alone.",
    )


def split_faults(config: RunConfig, data: FeatureSet, seed: int, split: Split) -> list[str]:
    """Return what of `split` is not as the options state, for `data` before limit and task: lots or time that its parts
    share, the sizes of its parts, the seed.

    Sizes are those of whole units (identical maps, lots): a part may be off by the largest of them, or by a tenth.
    """
    options = config.data
    faults: list[str] = []
    if data.split is not None:
        return faults
    rows = limited(config, data, seed)
    parts = {name: getattr(split, name) for name in ("train", "val", "test")}
    content = np.unique(data.content_ids[rows], return_inverse=True)[1]
    unit = content
    if options.split_by == "fold":
        return _fold_faults(data.folds, rows, parts)
    if options.split_by == "group":
        if data.groups is None:
            return ["the split is by lot, and the data have no lots"]
        lots = data.groups[rows]
        unit = np.unique(lots, return_inverse=True)[1]
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = np.intersect1d(lots[parts[one]], lots[parts[other]])
            if len(shared):
                faults.append(f"the split is by lot, and {len(shared)} lots are both in {one} and in {other}")
    if options.split_by == "time":
        if data.times is None:
            return ["the split is by time, and the data have no times"]
        newest = np.full(content.max() + 1, -np.inf)
        np.maximum.at(newest, content, data.times[rows])
        times = newest[content]
        for one, other in (("train", "val"), ("val", "test")):
            if times[parts[one]].max() > times[parts[other]].min():
                faults.append(f"the split is by time, and {one} has maps that are newer than some of {other}")
    test = 1 - options.train_fraction - options.val_fraction if options.n_folds is None else 1 / options.n_folds
    if len(np.unique(np.stack([content, unit]), axis=1).T) > content.max() + 1:
        return faults  # lots that share a map stay together, and how large they become is not known here
    stated = {"train": options.trained_fraction, "val": options.val_fraction, "test": test}
    largest = int(np.bincount(unit).max())
    for name, fraction in stated.items():
        off = abs(len(parts[name]) - fraction * len(rows))
        if off > max(SIZE_UNITS * largest, SIZE_SHARE * len(rows)):
            faults.append(
                f"{name} has {len(parts[name]) / len(rows):.0%} of the rows, and the options say {fraction:.0%}"
            )
    return faults


def _fold_faults(folds: np.ndarray | None, rows: np.ndarray, parts: dict[str, np.ndarray]) -> list[str]:
    if folds is None:
        return ["the split is by fold, and the data have no folds"]
    found = {name: set(folds[rows][part].tolist()) for name, part in parts.items()}
    faults = [
        f"the split is by fold, and {name} has examples of {len(found[name])} folds"
        for name in ("val", "test")
        if len(found[name]) != 1
    ]
    pairs = (("train", "val"), ("train", "test"), ("val", "test"))
    shared = [f"the split is by fold, and {a} and {b} share one" for a, b in pairs if found[a] & found[b]]
    return [*faults, *shared]


def split_as_stated(config: RunConfig, data: FeatureSet, seed: int, split: Split) -> Report:
    """Report whether `split` is as the options state, for `data` before limit and task; see `split_faults`."""
    faults = [*split_faults(config, data, seed, split), *seed_faults(config, data, seed, split)]
    name, question = "split as stated", "Does the split keep lots, time, sizes and seeds apart as the options state?"
    if data.split is not None:
        return Report(name, question, "skip", "the data bring their own split")
    return Report(
        name=name,
        question=question,
        verdict="fail" if faults else "pass",
        headline="; ".join(faults[:2]) or f"parts by {config.data.split_by}, of the sizes stated",
        numbers={"faults": faults},
        tolerance="fail: a lot in two parts, training newer than test, a part that is far from its size, one test part "
        "for all seeds",
        meaning="The verdict is about another split than its sentence says.",
        remedy="Compare `Prepared.split` with data.split_by, the fractions and the seed.",
    )


def seed_faults(config: RunConfig, data: FeatureSet, seed: int, split: Split) -> list[str]:
    """Return whether the test part does not depend on the seed as the options state: folds of one partition share no
    row, and other seeds draw other parts. Of few units, which may be drawn alike, nothing is asked.
    """
    options = config.data
    if data.split is not None or options.split_by == "time" or options.split_seed is not None:
        return []
    if options.split_by == "fold":
        shared = len(np.intersect1d(split.test, prepare(config, data, seed + 1).split.test))
        return [f"{shared} rows are tested by two folds"] if shared else []
    names = data.content_ids if options.split_by == "content" else data.groups
    if names is None or len(np.unique(names)) < FEW_UNITS or len(split.test) < 2:
        return []
    if options.n_folds is None:
        others = [seed + 1, seed + 2]
    else:
        first = seed - seed % options.n_folds
        others = [first + (seed + 1) % options.n_folds]
    try:
        found = [prepare(config, data, other) for other in others]
    except InputError:
        return []
    if options.n_folds is not None:
        shared = len(np.intersect1d(split.test, found[0].split.test))
        return [f"{shared} rows are tested by two folds of one partition"] if shared else []
    own = data.content_ids[limited(config, data, seed)[split.test]]
    same = all(np.array_equal(np.sort(own), np.sort(p.data.content_ids[p.split.test])) for p in found)
    return ["every seed has the same test part, though the options draw one per seed"] if same else []


def preprocessing(config: RunConfig, train: np.ndarray, arrays: Arrays) -> Report:
    """Report whether the frozen arrays of the head come from the training features (M, D) alone."""
    faults, how = [], getattr(config.head, "normalize", "raw")
    if "standardize.mean" in arrays:
        own = STATISTICS.get(how, Statistics.of)(train)
        shift = np.abs(arrays["standardize.mean"] - own.mean) / own.scale
        ratio = np.abs(arrays["standardize.scale"] / own.scale - 1)
        off = max(float(shift.max()), float(ratio.max()))
        if not off <= STATISTICS_TOLERANCE:
            faults.append(f"the normalisation is off by {off:.2g} standard deviations from that of the training rows")
    elif how in STATISTICS:
        faults.append(f"head.normalize is {how}, and the head does not shift and scale")
    projection = getattr(config.head, "projection", "linear")
    x = normalizer(config, train)(train)
    if projection == "pca":
        weight, bias = arrays["projection.weight"], arrays["projection.bias"]
        z = x @ weight + bias
        present = np.abs(weight).max(axis=0) > 0
        mean, covariance = np.abs(z.mean(axis=0)).max(initial=0), np.cov(z.T, bias=True).reshape(len(present), -1)
        error = float(max(mean, np.abs(covariance - np.diag(present)).max(initial=0)))
        spectrum = np.sort(np.linalg.svd(x - x.mean(axis=0), compute_uv=False))[::-1][: len(present)] ** 2 / len(x)
        captured = 1 / (weight[:, present] ** 2).sum(axis=0)
        lost = float(np.abs(captured / spectrum[: len(captured)] - 1).max(initial=0)) if present.all() else 0.0
        if not max(error, lost) <= 10 * STATISTICS_TOLERANCE:
            faults.append(f"the principal axes are off by {max(error, lost):.2g} from those of the training rows")
    elif projection == "fixed":
        weight = arrays["projection.weight"]
        error = float(np.abs(weight.T @ weight - np.eye(weight.shape[1])).max())
        if not error <= STATISTICS_TOLERANCE:
            faults.append(f"the fixed projection is not an orthonormal frame (off by {error:.2g})")
    return Report(
        name="preprocessing",
        question="Do the statistics of the preprocessing come from the training rows alone?",
        verdict="fail" if faults else "pass",
        headline="; ".join(faults) or f"normalisation and projection ({projection}) are those of {len(train)} rows",
        numbers={"faults": faults},
        tolerance=f"fail: off by {STATISTICS_TOLERANCE} standard deviations",
        meaning="Validation and test examples shaped the features: their scores are not those of unseen examples.",
        remedy="Fit normalisation and projection on `Prepared.part('train')` alone.",
    )
