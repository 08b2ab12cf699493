"""The proof that two arms were compared under the same split, batches and initial values, or the refusal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qwafer._errors import PairingError
from qwafer.config import RunConfig
from qwafer.features import SourceFacts
from qwafer.overrides import effective_options

SOURCE = ("data.source", "data.n_maps", "data.seed")
"""Options that say which examples there are."""

DETERMINED_BY = {
    "data": (*SOURCE, "data.backbone", "data.task", "data.limit", "data.split_seed"),
    "split": (*SOURCE, "data.limit", "data.split_seed", "data.split_by", "data.train_fraction", "data.val_fraction"),
    "batches": (
        *SOURCE,
        *("data.limit", "data.split_seed", "data.split_by", "data.train_fraction", "data.val_fraction"),
        *("sampling.balanced", "sampling.pos_frac"),
        *("training.batch_size", "training.epochs", "training.fixed_num_batches"),
    ),
}
"""What determines each digest of a run: it may differ between two arms only where they differ in one of these
options."""

INITIAL_DETERMINED_BY = {
    "circuit.ansatz": ("circuit.n_qubits", "circuit.n_layers", "circuit.ansatz", "circuit.dtype", "head.init_scale"),
    "projection.hidden": (*SOURCE, "data.backbone", "head.hidden"),
    "projection.output": ("data.source", "data.task", "head.hidden"),
    "projection.linear": (*SOURCE, "data.backbone", "data.task"),
    "projection": (*SOURCE, "data.backbone", "circuit.n_qubits", "circuit.dtype"),
    "readout.bias": ("data.source", "data.task", "circuit.dtype"),
    "readout": ("data.source", "data.task", "circuit.n_qubits", "circuit.dtype", "head.init_scale"),
    "alpha": (
        "data.source",
        "data.task",
        "head.alpha_init",
        "head.alpha_mode",
        "head.alpha_per_label",
        "circuit.dtype",
    ),
}
"""The same for the initial value of a parameter, by the longest prefix of its name."""


@dataclass(frozen=True)
class Difference:
    """A digest in which two arms differ, as they may: they differ in an option that determines it."""

    arms: tuple[str, str]
    what: str
    """`data`, `split`, `batches`, or `initial NAME`."""
    options: tuple[str, ...]
    """The options in which the arms differ and which determine it."""


@dataclass(frozen=True)
class Pairing:
    """What the digests of all runs prove."""

    n_seeds: int
    """Seeds on which at least two arms have a run."""
    equal: tuple[str, ...]
    """What is equal in all arms on every seed: `data`, `split`, `batches`."""
    differences: tuple[Difference, ...]
    """What differs, and why it may."""
    shared_parameters: tuple[str, ...]
    """Parameters that at least two arms have and whose initial values agree wherever two arms have them."""


def check_pairing(
    digests: Mapping[str, Mapping[int, Mapping[str, Any]]], configs: Mapping[str, RunConfig], where: str = "the results"
) -> Pairing:
    """Compare `digests[arm][seed]` = {data, split, batches, parameters: {name: digest}} between all arms, seed by seed.

    Raises PairingError where a digest differs between two arms that agree in every option that determines it.
    """
    options = {arm: effective_options(config, _facts(config)) for arm, config in configs.items()}
    differing = {pair: _differing(options[pair[0]], options[pair[1]]) for pair in combinations(configs, 2)}
    found: dict[tuple[tuple[str, str], str], tuple[str, ...]] = {}
    shared: dict[str, bool] = {}
    seeds = sorted({seed for runs in digests.values() for seed in runs})
    n_seeds = 0
    for seed in seeds:
        arms = [arm for arm in configs if seed in digests.get(arm, {})]
        n_seeds += len(arms) > 1
        for pair in combinations(arms, 2):
            first, second = (_labelled(digests[arm][seed]) for arm in pair)
            for what in first.keys() & second.keys():
                equal = first[what] == second[what]
                if what.startswith("initial "):
                    shared[what] = shared.get(what, True) and equal
                if equal:
                    continue
                reasons = tuple(name for name in _determined_by(what, options, pair) if name in differing[pair])
                if not reasons:
                    raise PairingError(_refusal(pair, seed, what, first[what], second[what], where))
                found[pair, what] = reasons
    unequal = {what for _, what in found}
    return Pairing(
        n_seeds=n_seeds,
        equal=tuple(what for what in DETERMINED_BY if what not in unequal) if n_seeds else (),
        differences=tuple(Difference(pair, what, reasons) for (pair, what), reasons in sorted(found.items())),
        shared_parameters=tuple(sorted(what.removeprefix("initial ") for what, equal in shared.items() if equal)),
    )


def _facts(config: RunConfig) -> SourceFacts:
    return SourceFacts("synthetic" if config.data.source == "synthetic" else "maps")


def identical_arms(fingerprints: Mapping[str, Mapping[int, str]]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of arms whose results are bit-identical on every seed that both have, and there is such a
    seed.
    """
    pairs = []
    for first, second in combinations(fingerprints, 2):
        common = fingerprints[first].keys() & fingerprints[second].keys()
        if common and all(fingerprints[first][seed] == fingerprints[second][seed] for seed in common):
            pairs.append((first, second))
    return tuple(pairs)


def _labelled(digests: Mapping[str, Any]) -> dict[str, str]:
    """Return one flat table of digests, initial values under `initial NAME` (a name comes with its shape)."""
    flat = {what: digests[what] for what in DETERMINED_BY}
    return flat | {f"initial {name}": value for name, value in digests["parameters"].items()}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """Return the options that differ, or that only one of the two has."""
    common = first.keys() & second.keys()
    return {name for name in common if first[name] != second[name]} | (first.keys() ^ second.keys())


def _determined_by(what: str, options: Mapping[str, Mapping[str, Any]], pair: Iterable[str]) -> tuple[str, ...]:
    if what == "batches" and any(options[arm]["sampling.balanced"] for arm in pair):
        # Balanced draws pick positives and negatives of the task.
        return (*DETERMINED_BY[what], "data.task")
    if what in DETERMINED_BY:
        return DETERMINED_BY[what]
    name = what.removeprefix("initial ").partition("[")[0]
    matches = [prefix for prefix in INITIAL_DETERMINED_BY if name == prefix or name.startswith(f"{prefix}.")]
    return INITIAL_DETERMINED_BY[max(matches, key=len)] if matches else ()


def _refusal(pair: tuple[str, str], seed: int, what: str, first: str, second: str, where: str) -> str:
    value = f"initial value of `{what.removeprefix('initial ')}`" if what.startswith("initial ") else f"`{what}` digest"
    return (
        f"the arms {pair[0]} and {pair[1]} cannot be compared: with seed {seed} the {value} differs ({first}, "
        f"{second}), and the arms differ in no option that determines it; {where} may mix runs of different data or "
        "versions: run the experiment again into another directory"
    )
