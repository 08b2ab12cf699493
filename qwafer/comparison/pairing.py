"""The proof that two arms were compared under the same split, batches and initial values, or the refusal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qwafer._errors import PairingError
from qwafer.config import RunConfig
from qwafer.features import SourceFacts
from qwafer.overrides import determined_by, effective_options
from qwafer.training.result import Digests, Runs

INPUTS = ("data", "split", "batches")
"""Digests of what a run was given."""
INITIAL = "initial "
"""What the digest of an initial value starts with, before the parameter's name."""


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
    """What is equal on every seed in all arms that have it: `data`, `split`, `batches`."""
    differences: tuple[Difference, ...]
    """What differs, and why it may."""
    shared_parameters: tuple[str, ...]
    """Parameters that at least two arms have and whose initial values agree wherever two arms have them."""


@dataclass(frozen=True)
class DigestPair:
    """One digest that two arms have with the same seed."""

    arms: tuple[str, str]
    seed: int
    what: str
    """`data`, `split`, `batches`, or `initial NAME`; a parameter's name comes with its shape."""
    digests: tuple[str, str]
    options: tuple[str, ...]
    """The options in which the arms differ and which determine it; none: the digests must be equal."""

    @property
    def equal(self) -> bool:
        """Whether the arms share what was digested."""
        return self.digests[0] == self.digests[1]


def digest_pairs(
    digests: Mapping[str, Mapping[int, Digests]], configs: Mapping[str, RunConfig], facts: Mapping[str, SourceFacts]
) -> Iterator[DigestPair]:
    """Yield every digest that two arms have in common, from `digests[arm][seed]`, seed by seed; `facts` by arm."""
    options = {arm: effective_options(config, facts.get(arm)) for arm, config in configs.items()}
    differing = {pair: _differing(options[pair[0]], options[pair[1]]) for pair in combinations(configs, 2)}
    for seed in sorted({seed for runs in digests.values() for seed in runs}):
        for pair in combinations([arm for arm in configs if seed in digests.get(arm, {})], 2):
            first, second = (_labelled(digests[arm][seed]) for arm in pair)
            for what in first:
                if what in second:
                    name = what.partition("[")[0]
                    known = dict.fromkeys(option for arm in pair for option in determined_by(name, configs[arm]))
                    reasons = tuple(option for option in known if option in differing[pair])
                    yield DigestPair(pair, seed, what, (first[what], second[what]), reasons)


def check_pairing(
    digests: Mapping[str, Mapping[int, Digests]],
    configs: Mapping[str, RunConfig],
    facts: Mapping[str, SourceFacts],
    where: str = "the results",
) -> Pairing:
    """Compare `digests[arm][seed]` between all arms, seed by seed, and the data of each arm between its seeds.

    Raises PairingError where a digest differs between two arms that agree in every option that determines it, or where
    the seeds of an arm saw other data.
    """
    found: dict[tuple[tuple[str, str], str], Difference] = {}
    agree: dict[str, bool] = {}
    seeds = set()
    for pair in digest_pairs(digests, configs, facts):
        seeds.add(pair.seed)
        agree[pair.what] = agree.get(pair.what, True) and pair.equal
        if not pair.equal:
            if not pair.options:
                raise PairingError(_refusal(pair, where))
            found[pair.arms, pair.what] = Difference(pair.arms, pair.what, pair.options)
    for arm, runs in digests.items():
        _check_data(arm, runs, configs[arm], where)
    return Pairing(
        n_seeds=len(seeds),
        equal=tuple(what for what in INPUTS if agree.get(what, False)),
        differences=tuple(found[key] for key in sorted(found)),
        shared_parameters=tuple(
            sorted(what.removeprefix(INITIAL) for what, equal in agree.items() if equal and what.startswith(INITIAL))
        ),
    )


def check_circuits(results: Runs, configs: Mapping[str, RunConfig], here: Mapping[str, str], where: str) -> None:
    """Raise PairingError where runs of an arm ran different circuits, or another one than `here`, digests by arm.

    The options of a circuit name a function, and what it computes may change under its name.
    """
    for arm, runs in results.items():
        seen = {str(run.engine.get("circuit", "")): seed for seed, run in sorted(runs.items(), reverse=True)}
        seen.pop("", None)
        name = (
            f"`circuit.function` = {getattr(configs[arm].circuit, 'function', '')}, what it calls, or JAX has changed"
        )
        if len(seen) > 1:
            (one, first), (other, second) = sorted(seen.items(), key=lambda item: item[1])[:2]
            raise PairingError(
                f"the runs of arm {arm} with seeds {first} and {second} ran different circuits ({one[:16]}, "
                f"{other[:16]}): {name} in between: delete those of one of the two in {where}, and they are done again"
            )
        for digest, seed in seen.items():
            if here.get(arm, digest) != digest:
                raise PairingError(
                    f"the run of arm {arm} with seed {seed} ran another circuit ({digest[:16]}) than is there now "
                    f"({here[arm][:16]}): {name}: choose another output directory than {where}, or delete the runs of "
                    "that arm"
                )


def identical_arms(results: Runs) -> tuple[tuple[str, str], ...]:
    """Return the pairs of arms that measured the same to the last bit (`RunResult.fingerprint`) on every seed that both
    have; pairs without such a seed are left out.
    """
    prints = {arm: {seed: run.fingerprint() for seed, run in runs.items()} for arm, runs in results.items()}
    pairs = []
    for first, second in combinations(prints, 2):
        common = prints[first].keys() & prints[second].keys()
        if common and all(prints[first][seed] == prints[second][seed] for seed in common):
            pairs.append((first, second))
    return tuple(pairs)


def _check_data(arm: str, runs: Mapping[int, Digests], config: RunConfig, where: str) -> None:
    """Raise PairingError where two seeds of an arm were given other features, or drew other data from them than
    `data.limit` asks for.
    """
    drawn = config.data.limit is not None and config.data.split_seed is None
    for what in ("source",) if drawn else ("source", "data", "teacher"):
        seen = {getattr(found, what): seed for seed, found in sorted(runs.items(), reverse=True)}
        seen.pop("", None)
        if len(seen) > 1:
            (one, first), (other, second) = sorted(seen.items(), key=lambda item: item[1])[:2]
            raise PairingError(
                f"the runs of arm {arm} with seeds {first} and {second} were made on different data ({one}, {other}): "
                f"{where} may mix runs of different files: delete those of the other data, and they are done again"
            )


def _labelled(digests: Digests) -> dict[str, str]:
    """Return one flat table of the digests that there are."""
    inputs = {"data": digests.data, "split": digests.split, "batches": digests.batches, "teacher": digests.teacher}
    initial = {f"{INITIAL}{name}": value for name, value in digests.parameters.items()}
    return {what: value for what, value in inputs.items() if value} | initial


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """Return the options that differ, or that only one of the two has."""
    common = first.keys() & second.keys()
    return {name for name in common if first[name] != second[name]} | (first.keys() ^ second.keys())


def _refusal(pair: DigestPair, where: str) -> str:
    initial = pair.what.startswith(INITIAL)
    value = f"initial value of `{pair.what.removeprefix(INITIAL)}`" if initial else f"`{pair.what}` digest"
    return (
        f"the arms {pair.arms[0]} and {pair.arms[1]} cannot be compared: with seed {pair.seed} the {value} differs "
        f"({pair.digests[0]}, {pair.digests[1]}), and the arms differ in no option that determines it; {where} may mix "
        "runs of different data or versions: run the experiment again into another directory"
    )
