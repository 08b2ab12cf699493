"""The heads of few bits of all families on one page: what each stores, predicts and takes.

    python experiments/run_all.py small_quantum small_linear small_mlp small_mixture --source FEATURES.npz
    python experiments/small.py          # writes results/small.json, the figure and the table of docs/small.md

The families (`small_*.toml`) share features, splits, seeds and the budget of their search, so that any two heads are
compared in pairs. A head is set against its rival: of all heads that store no more bits, the one with the highest mean.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from published import RESULTS, load_result
from run_all import HERE, SMALL, write_table

from qwafer._errors import InputError
from qwafer._process import run_verb
from qwafer._records import load_record, save_record
from qwafer.comparison.record import HeadRecord
from qwafer.comparison.statistics import MOST_UNCONVERGED, paired_t_interval
from qwafer.reports.figures import house_style, new_figure, save_figure
from qwafer.reports.figures.style import MUTED, PAGE, marker_style, short_count
from qwafer.reports.format import format_difference, format_spread

DOCS = HERE.parent / "docs"
LEVEL = 0.95
"""Of all intervals together. Bonferroni counts every pair of which one could have been the other's rival: it is chosen
by the means that the interval is of. With one comparison a head, 29 equal heads differ on every seventh page.
"""
FAMILIES = {name: name.removeprefix("small_") for name in SMALL}


@dataclass(frozen=True)
class SmallHead:
    """One head, over seeds."""

    name: str
    family: str
    parameters: int
    """Trained ones."""
    bits: int
    """Stored for prediction; see `qwafer.size_of`."""
    values: dict[int, float]
    """Macro F1 on test at tuned thresholds, by seed."""
    microseconds: float
    """Of one example, features in and logits out: the median of many calls in a process of its own."""
    batch_microseconds: float
    """Of an example in a pass over the test split."""
    not_converged: int
    """Runs that had not converged."""
    rival: str | None = None
    """Of the heads with at most as many bits, the one of the highest mean; None where there is no other."""
    difference: tuple[float, float, float] | None = None
    """Mean of this head minus its rival over seeds, and the paired t interval, adjusted for the number of pairs."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def sd(self) -> float:
        """Standard deviation over seeds."""
        return float(np.std(list(self.values.values()), ddof=1))

    @property
    def is_late(self) -> bool:
        """Whether so many runs had not converged that `ablate` and `bench` would give no verdict."""
        return self.not_converged > MOST_UNCONVERGED * len(self.values)

    @property
    def on_front(self) -> bool:
        """Whether no head of at most as many bits has a mean as high."""
        return self.difference is None or self.difference[0] > 0


@dataclass(frozen=True)
class SmallPage:
    """`results/small.json`."""

    SCHEMA: ClassVar[str] = "qwafer/small/1"

    digest: str
    """Of the features."""
    n_examples: int
    n_features: int
    seeds: tuple[int, ...]
    budget: int
    """Trials of each head's search."""
    heads: tuple[SmallHead, ...]
    """By bits."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--out", default=str(HERE.parent / "runs" / "experiments"), metavar="DIR", help="where `run_all.py` has written"
    )
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(Path(arguments.out)))


def _run(out: Path) -> int:
    page = collect(out)
    save_record(RESULTS / "small.json", page)
    draw(page, DOCS / "images" / "small")
    write_table(DOCS / "small.md", "small", table(page))
    print(table(page))
    return 0


def collect(out: Path) -> SmallPage:
    """Return the heads of all families from their benchmarks in `out`.

    Raises InputError where a family is missing, or differs from the others in data, seeds or budget.
    """
    records: dict[str, tuple[str, HeadRecord]] = {}
    late: dict[str, int] = {}
    budgets = set()
    for name, family in FAMILIES.items():
        result = load_result(name)
        files = sorted((out / name).glob("bench_*.json"))
        if result is None or not files:
            raise InputError(f"{out / name} holds no benchmark: run experiments/run_all.py {name} first")
        budgets.add(result.budget)
        for difference in result.differences:
            late.update(difference.not_converged)
        for file in files:
            record = load_record(HeadRecord, file)
            records[record.head] = family, record
    found = {(record.source.digest, tuple(record.runs)) for _, record in records.values()}
    splits = {record.first.digests.split for _, record in records.values()}
    if len(found) != 1 or len(splits) != 1 or len(budgets) != 1:
        raise InputError("the families differ in features, split, seeds or budget of search: run all of them again")
    ((digest, seeds),) = found
    source = next(iter(records.values()))[1].source
    heads = judged([_head(family, record, late) for family, record in records.values()])
    return SmallPage(digest, source.n_examples, source.n_features, seeds, budgets.pop(), heads)


def _head(family: str, record: HeadRecord, late: Mapping[str, int]) -> SmallHead:
    values = {seed: run.test.macro[record.main_metric] for seed, run in record.runs.items()}
    inference = record.inference
    assert record.parameters.bits is not None
    return SmallHead(
        name=record.head,
        family=family,
        parameters=record.parameters.trainable,
        bits=record.parameters.bits,
        values={seed: float(f"{value:.6g}") for seed, value in values.items()},
        microseconds=float(f"{1e3 * inference.one.p50:.4g}"),
        batch_microseconds=float(f"{1e6 / inference.test.throughput:.4g}"),
        not_converged=late.get(record.head, 0),
    )


def judged(heads: Sequence[SmallHead]) -> tuple[SmallHead, ...]:
    """Return the heads by size, each with its rival and the paired difference from it."""
    smaller = {h.name: [o for o in heads if o.bits <= h.bits and o.name != h.name] for h in heads}
    level, done = 1 - (1 - LEVEL) / max(1, sum(map(len, smaller.values()))), []
    for head in sorted(heads, key=lambda h: (h.bits, -h.mean)):
        rivals = smaller[head.name]
        if not rivals:
            done.append(head)
            continue
        rival = max(rivals, key=lambda other: other.mean)
        d = np.array([head.values[seed] - rival.values[seed] for seed in head.values])
        low, high = paired_t_interval(float(d.mean()), float(d.std(ddof=1)), len(d), level=level)
        said = (round(float(d.mean()), 6), round(low, 6), round(high, 6))
        done.append(replace(head, rival=rival.name, difference=said))
    return tuple(done)


def table(page: SmallPage) -> str:
    """Return the table of docs/small.md."""
    rows = [
        "| head | family | stored bits | parameters | macro F1 | best of at most its size | difference | one example | "
        "in batches |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    unsettled = {head.name for head in page.heads if head.is_late}
    for head in page.heads:
        name = f"**`{head.name}`**" if head.on_front else f"`{head.name}`"
        name += "†" if head.name in unsettled else ""
        against, difference = "", ""
        if head.difference is not None:
            against = f"`{head.rival}`{'†' if head.rival in unsettled else ''}"
            doubtful = unsettled.intersection((head.name, head.rival))
            difference = format_difference(head.difference[0]) if doubtful else _difference(head.difference)
        rows.append(
            f"| {name} | {head.family} | {head.bits:,} | {head.parameters:,} "
            f"| {format_spread(head.mean, head.sd)} | {against} | {difference} "
            f"| {head.microseconds:,.0f} us | {head.batch_microseconds:.2f} us |"
        )
    late = ", ".join(f"`{head.name}` {head.not_converged}" for head in page.heads if head.not_converged)
    rows += [
        "",
        f"{page.n_examples:,} maps of MixedWM38, {page.n_features} features of WaferCNN and its split by content, "
        f"{len(page.seeds)} seeds, {page.budget} learning rates tried for each head on validation. Bold: the front, "
        "heads above every one of at most their size. Intervals: paired over seeds, 95% together, for all pairs that "
        f"the rivals are chosen from. Runs that had not converged: {late or 'none'}.",
    ]
    if unsettled:
        rows[-1] += " †: more than a quarter of them, and no interval."
    return "\n".join(rows)


def _difference(found: tuple[float, float, float]) -> str:
    mean, low, high = map(format_difference, found)
    return f"{mean} [{low}, {high}]"


def draw(page: SmallPage, path: Path) -> None:
    """Draw macro F1 against stored bits and against the time of an example, the front as a line."""
    shown: Mapping[str, int] = {family: k for k, family in enumerate(FAMILIES.values())}
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with house_style():
        figure = new_figure(PAGE, 3.0)
        axes = figure.subplots(1, 2, sharey=True)
        for family, k in shown.items():
            own = [head for head in page.heads if head.family == family]
            means = [head.mean for head in own]
            spread = [head.sd for head in own]
            for axis, x in ((axes[0], [h.bits for h in own]), (axes[1], [h.microseconds for h in own])):
                axis.errorbar(x, means, yerr=spread, linestyle="", label=family, markersize=4, **marker_style(k))
        front = [head for head in page.heads if head.on_front]
        axes[0].plot([h.bits for h in front], [h.mean for h in front], color=MUTED, linewidth=0.8, zorder=0)
        axes[0].set_xlabel("stored bits")
        axes[1].set_xlabel("time of one example (us)")
        axes[0].set_ylabel("macro F1 on test")
        for axis in axes:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
            axis.grid(axis="y")
        axes[1].legend(loc="lower center")
        save_figure(figure, path)[1].unlink()  # the page shows the PNG


if __name__ == "__main__":
    sys.exit(main())
