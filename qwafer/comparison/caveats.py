"""What a reader of a comparison must know before believing it, in sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwafer._errors import InputError
from qwafer.comparison.pairing import INPUTS, Pairing
from qwafer.comparison.signs import SIGNS
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.experiment import Experiment
from qwafer.overrides import with_options
from qwafer.sweeps.directory import DirectoryRecord, SweepResults, seeds_text
from qwafer.training import RunResult, Runs

UNEVEN = 0.5
"""Arms of equal budgets are told apart where one had fewer than this share of another's different configurations."""


def collect_warnings(
    experiment: Experiment,
    sweep: SweepResults,
    pairing: Pairing,
    identical: Sequence[tuple[str, str]],
    record: DirectoryRecord,
) -> tuple[str, ...]:
    """Return the warnings, the gravest first; empty where nothing stands against the comparison."""
    results = sweep.results
    return (
        *_failed(sweep.failures),
        *_identical(experiment, identical),
        *_repeated(results),
        *_unpaired(pairing),
        *_dead(results),
        *_signs(results),
        *_degenerate(results),
        *_epochs(results),
        *_mixed(results),
        *_searched(experiment),
        *_arms(record),
        *_seeds(experiment, record),
        *_notes(results),
    )


def _searched(experiment: Experiment) -> list[str]:
    found = experiment.searched
    if found is None:
        return []
    warnings = []
    trials = {arm: found.trials.get(arm, 0) for arm in experiment.arms}
    tried = {arm: found.configurations(arm) for arm in experiment.arms}
    more = "what was searched more has an advantage."
    if len(set(trials.values())) > 1:
        warnings.append(f"the arms were searched with different numbers of trials ({_counts(trials)}): {more}")
    elif min(tried.values()) < UNEVEN * max(tried.values()):
        warnings.append(
            "the arms had equal numbers of trials, but different configurations that gave a value or were ended early: "
            f"{_counts(tried)}; {more}"
        )
    changed = [
        f"{arm} {', '.join(options)}"
        for arm, config in experiment.arms.items()
        if (options := _other(config, found.chosen.get(arm, {})))
    ]
    if changed:
        warnings.append(
            f"options are not those that the search found ({', '.join(changed)}): what the report says of the search "
            "is not about these arms as they ran."
        )
    return warnings


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{arm} {count}" for arm, count in numbers.items())


def _other(config: RunConfig, chosen: Mapping[str, Any]) -> list[str]:
    """Return which of the `chosen` options have another value in `config`, or none at all."""
    found = []
    for option, value in chosen.items():
        try:
            same = with_options(config, {option: value}) == config
        except (InputError, TypeError):
            same = False
        if not same:
            found.append(f"`{option}`")
    return found


def _failed(failures: Mapping[str, Mapping[int, Failure]]) -> list[str]:
    found = []
    for arm, by_seed in failures.items():
        by_error: dict[str, list[int]] = {}
        for seed, failure in by_seed.items():
            by_error.setdefault(failure.error, []).append(seed)
        for error, seeds in by_error.items():
            found.append(
                f"{arm}: {_runs(len(seeds))} failed (seed {seeds_text(seeds)}) and left out of every comparison: "
                f"{error.rstrip('.')}."
            )
    return found


def _identical(experiment: Experiment, identical: Sequence[tuple[str, str]]) -> list[str]:
    found = []
    for first, second in identical:
        ours, theirs = experiment.changes(first), experiment.changes(second)
        options = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        found.append(
            f"{first} and {second} gave bit-identical results on every seed: what they differ in "
            f"({', '.join(options)}) had no effect on anything measured."
        )
    return found


def _repeated(results: Runs) -> list[str]:
    """Arms in which the seed changes nothing, as of a contender without chance on one split."""
    return [
        f"{arm}: all {len(runs)} runs measured the same to the last bit: the seed changes nothing in it, and they are "
        "one run."
        for arm, runs in results.items()
        if len(runs) > 1 and len({run.fingerprint() for run in runs.values()}) == 1
    ]


def _unpaired(pairing: Pairing) -> list[str]:
    return [
        f"{difference.arms[0]} and {difference.arms[1]} do not share their {difference.what}, because they differ in "
        f"{', '.join(difference.options)}: part of their difference is that of the {difference.what}."
        for difference in pairing.differences
        if difference.what in INPUTS
    ]


def _dead(results: Runs) -> list[str]:
    """Groups of parameters without a gradient, or that did not move: the minimal sign that something does not learn."""
    found = []
    for arm, runs in results.items():
        for sign, kind in (("has a gradient of exactly zero", "grad_norm"), ("did not move", "distance")):
            for group in sorted({group for result in runs.values() for group in result.parameter_groups(kind)}):
                curves = {seed: result.curve(f"{kind}.{group}") for seed, result in runs.items()}
                seeds = [seed for seed, curve in curves.items() if curve.size and not curve.any()]
                if seeds:
                    found.append(f"{arm}: {group} {sign} in {_of(seeds, runs)}: it is dead, and does not learn.")
    return found


def _signs(results: Runs) -> list[str]:
    """The signs of `comparison.signs`, one sentence per arm and sign, with the commonest of what was seen."""
    found = []
    for arm, runs in results.items():
        for meaning, sign in SIGNS:
            seen = {seed: what for seed, result in runs.items() if (what := sign(result))}
            if seen:
                common = Counter(what for every in seen.values() for what in every).most_common(3)
                details = ", ".join(what for what, _ in common)
                found.append(f"{arm}: {meaning} ({details}; {_of([*seen], runs)}).")
    return found


def _degenerate(results: Runs) -> list[str]:
    found = []
    for arm, runs in results.items():
        seeds = [seed for seed, result in runs.items() if result.degenerate]
        if not seeds:
            continue
        reasons = Counter(
            f"{label}: {reason}"
            for seed in seeds
            for label, reason in zip(runs[seed].label_names, runs[seed].test.reasons, strict=True)
            if reason
        )
        why = "; ".join(reason for reason, _ in reasons.most_common(3))
        found.append(
            f"{arm}: {_of(seeds, runs)} marked degenerate{f' ({why})' if why else ''}; metrics at a threshold cannot "
            "be trusted there, ranking metrics can."
        )
    return found


def _epochs(results: Runs) -> list[str]:
    """Two signs in the epochs: arms that had not converged when training ended, and arms that only get worse."""
    found = []
    for arm, runs in results.items():
        unfinished = [seed for seed, result in runs.items() if result.converged is False]
        if unfinished:
            found.append(
                f"{arm}: training had not converged in {_of(unfinished, runs)}: more epochs may change the comparison; "
                "raise training.epochs or training.max_doublings."
            )
        long = {seed: result for seed, result in runs.items() if result.epochs_run > 1}
        first = [seed for seed, result in long.items() if result.best_epoch == result.curve("epoch")[0]]
        if long and len(first) == len(long):
            found.append(
                f"{arm}: the first evaluation was the best in {_of(first, long)}: a sign of a learning rate that is "
                "too high."
            )
    return found


def _mixed(results: Runs) -> list[str]:
    every = [result.environment for runs in results.values() for result in runs.values()]
    names = sorted({name for made in every for name in made.versions})
    mixed = [name for name in names if len({made.versions.get(name) for made in every}) > 1]
    found = [f"the runs were made with different versions of {', '.join(mixed)}."] if mixed else []
    revisions = sorted({made.git_revision or "none" for made in every})
    if len(revisions) > 1:
        found.append(f"the runs were made at different revisions of the code: {', '.join(revisions)}.")
    elif revisions and revisions[0].endswith("-dirty"):
        found.append("the code differed from its committed revision (-dirty), so the revision does not identify it.")
    return found


def _arms(record: DirectoryRecord) -> list[str]:
    return [
        f"arm {', '.join(added.arms)} was added after results could be seen ({added.date}, when {_runs(added.runs)} "
        f"{'was' if added.runs == 1 else 'were'} complete): p values are too small where its choice depended on the "
        "results."
        for added in record.additions
        if added.arms and added.runs
    ]


def _seeds(experiment: Experiment, record: DirectoryRecord) -> list[str]:
    found = []
    if record.extended_after:
        steps = ", then ".join(str(count) for count in (*record.extended_after, len(record.seeds)))
        found.append(
            f"seeds were added after results could be seen ({steps}): p values are too small where the additions "
            "depended on the results."
        )
    if experiment.margin != record.margin:
        found.append(
            f"the margin was {record.margin:g} before the first run and is {experiment.margin:g} now: a margin that is "
            "chosen after the results makes of any difference what one likes."
        )
    left_out = [seed for seed in record.seeds if seed not in experiment.seeds]
    if left_out:
        found.append(
            f"this report leaves out seed {seeds_text(left_out)}, which the directory holds too: a choice of seeds "
            "after the fact proves nothing."
        )
    return found


def _notes(results: Runs) -> list[str]:
    """The runs' own notes, each once, with the number of runs that have it."""
    counts = Counter(note for runs in results.values() for result in runs.values() for note in set(result.notes))
    total = sum(len(runs) for runs in results.values())
    return [f"{note.rstrip('.')} ({count} of {total} runs)." for note, count in sorted(counts.items())]


def _of(seeds: Sequence[int], runs: Mapping[int, RunResult]) -> str:
    return f"{len(seeds)} of {_runs(len(runs))}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
