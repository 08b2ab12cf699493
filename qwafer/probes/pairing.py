"""Does the comparison compare anything? Bit-identical arms, digests that must agree, options without effect."""

import re
from collections.abc import Collection, Mapping

from qwafer._io import digest
from qwafer.comparison.pairing import digest_pairs, identical_arms
from qwafer.config import RunConfig
from qwafer.features import FeatureSet
from qwafer.overrides import flat_config
from qwafer.probes.report import Report
from qwafer.training import Runs, prepare
from qwafer.training._trace import first_step

ADDRESS = re.compile(r"0x[0-9a-f]+|\bid=\d+")
"""What differs between two printings of one program."""

LOOP_OPTIONS = ("evaluation_epochs", "stage_ends", "early_stopping", "val_objective", "convergence_tolerance")
"""Options of the loop around the program: they choose when to evaluate and which checkpoint counts."""


def arms_differ(runs: Runs, *, exclude: Collection[tuple[str, str]] = ()) -> Report:
    """Report arms whose configurations differ and whose results are bit-identical on every seed that both have.

    See `qwafer.comparison.identical_arms`. Pairs in `exclude` are another probe's finding already.
    """
    known = {frozenset(pair) for pair in exclude}
    equal = [pair for pair in identical_arms(runs) if frozenset(pair) not in known]
    listed = "; ".join(f"{a} and {b}" for a, b in equal)
    return Report(
        name="identical arms",
        question="Do arms with different configurations give different results?",
        verdict="skip" if len(runs) < 2 else "fail" if equal else "pass",
        headline=(
            f"bit-identical though their configurations differ: {listed}"
            if equal
            else f"{len(runs)} arms, no two alike"
            if len(runs) > 1
            else "one arm: nothing to compare"
        ),
        numbers={"identical": equal},
        tolerance="fail: all metrics and losses equal to the last bit on every common seed",
        meaning="The option that tells the arms apart never reached the program: the comparison compares nothing.",
        remedy="Trace the option from the configuration to the program; see `ineffective options`.",
    )


def digests_agree(runs: Runs) -> Report:
    """Report digests that must agree between arms of one seed and do not: data, split, batches, shared initial values.

    Digests may differ where the arms differ in an option that determines them; those pairs are left out.
    """
    configs = {arm: RunConfig.from_dict(next(iter(results.values())).config) for arm, results in runs.items()}
    digests = {arm: {seed: run.digests for seed, run in results.items()} for arm, results in runs.items()}
    pairs = [pair for pair in digest_pairs(digests, configs, {}) if not pair.options]
    compared = len(pairs)
    differing = [
        f"{pair.what} of {pair.arms[0]} and {pair.arms[1]}, seed {pair.seed}" for pair in pairs if not pair.equal
    ]
    return Report(
        name="digests",
        question="Do arms of one seed share data, split, batches and initial values?",
        verdict="fail" if differing else "pass" if compared else "skip",
        headline=(
            f"must agree and do not: {'; '.join(differing[:3])}"
            + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
            if differing
            else f"{compared} digests compared, all equal"
            if compared
            else "no two arms with a seed in common"
        ),
        numbers={"differing": differing, "compared": compared},
        tolerance="fail: any digest that differs between arms whose options do not ask for it",
        meaning=(
            "The arms did not see the same examples, order or start: their difference is not due to the option alone."
        ),
        remedy="Run the arms again from one version of code and data, into one directory.",
    )


def program_fingerprint(config: RunConfig, data: FeatureSet, seed: int = 0) -> dict[str, str]:
    """Return digests of all that a run of `config` computes: program, initial values, data, split, batches, loop.

    `program` is the jaxpr of a training step (with addresses removed) and the numbers that the optimiser is told,
    together with the circuit's gates where the engine hides them behind a host callback. Two configurations with
    equal fingerprints are one run.
    """
    prepared, options = prepare(config, data, seed), config.training
    step = first_step(config, prepared, seed)
    circuit = getattr(step.program, "circuit", None)
    gates = [] if circuit is None else [str(op) for op in (*circuit.operations(), *circuit.readout_operations(0))]
    info = {} if step.program is None else {k: v for k, v in step.program.info.items() if not isinstance(v, float)}
    told = [] if circuit is None else [str(circuit.readout_facts), circuit.dtype, getattr(circuit, "digest", "")]
    return {
        "program": digest(ADDRESS.sub("", step.jaxpr), gates, told, info, *step.told),
        "initial": digest(*step.initial),
        "data": prepared.data_digest,
        "split": prepared.split.digest,
        "batches": digest(step.batches),
        "loop": digest([getattr(options, name) for name in LOOP_OPTIONS], options.ema_decay, len(step.told[0])),
    }


def ineffective_options(arms: Mapping[str, RunConfig], data: FeatureSet, baseline: str, *, seed: int = 0) -> Report:
    """Report arms whose options change neither the program nor its data: same jaxpr, initial values, split and batches.

    Each arm's fingerprint is compared with that of `baseline`; nothing is trained.
    """
    base = program_fingerprint(arms[baseline], data, seed)
    changed = {}
    for arm, config in arms.items():
        if arm != baseline:
            own = program_fingerprint(config, data, seed)
            changed[arm] = [what for what in base if own[what] != base[what]]
    without = [arm for arm, what in changed.items() if not what]
    options = {arm: _different_options(arms[baseline], arms[arm]) for arm in changed}
    listed = "; ".join(
        f"{arm}: {', '.join(options[arm]) or 'nothing'} changes nothing against {baseline}" for arm in without
    )
    effects = "; ".join(f"{arm} changes {', '.join(what)}" for arm, what in changed.items())
    return Report(
        name="ineffective options",
        question="Does every arm's option change the program or its data?",
        verdict="skip" if not changed else "fail" if without else "pass",
        headline=listed or effects or "one arm: nothing to compare",
        numbers={"changed": changed, "options": options, "without_effect": [[arm, baseline] for arm in without]},
        tolerance="fail: equal jaxpr, gates, learning rates, initial values, data, split, batches and loop options",
        meaning="The override was accepted and did nothing: the arm is the baseline under another name.",
        remedy="Check the option's name and section, and that the head, engine or sampling in force reads it.",
    )


def _different_options(first: RunConfig, second: RunConfig) -> list[str]:
    a, b = flat_config(first), flat_config(second)
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]
