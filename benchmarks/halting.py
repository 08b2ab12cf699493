"""What halting saves: accuracy, steps and latency of a fitted recursive network by halting threshold, on one core.

    python benchmarks/halting.py NET.safetensors --maps FILE --out bench_reports/halting

Maps that the network was trained on are left out; `--part` takes those of validation (the default: a threshold is
chosen on them) or of test. The process keeps to one core, whatever the machine has, unless `--cores` says otherwise.
Printed are the accuracy after each step, the table of thresholds, the steps used by class, and the seconds per 1,000
maps in batches: at full depth, and with those that have halted taken out.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwafer.networks.halting import HaltingReport

TURNS = 5
"""Timings of each way to answer a batch, of which the median counts."""


def text(report: "HaltingReport", batches: dict[float, float]) -> str:
    """Return a report as Markdown; `batches` are the seconds per 1,000 maps of each threshold."""
    steps = range(1, len(report.accuracy_per_step) + 1)
    lines = [
        f"{report.n_parameters:,} parameters; {report.n_maps:,} maps, {report.n_timed:,} of them timed one at a time, "
        f"on {report.cores} core{'s' * (report.cores > 1)}",
        "",
        "| step | " + " | ".join(map(str, steps)) + " |",
        "|---|" + "--:|" * len(steps),
        "| accuracy | " + " | ".join(f"{value:.4f}" for value in report.accuracy_per_step) + " |",
        "",
        "| threshold | accuracy | mean steps | p50 ms | p90 ms | p99 ms | s per 1,000 maps in batches |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report.rows:
        times = " | ".join(f"{1e3 * value:.2f}" for value in (row.p50, row.p90, row.p99))
        many = batches[row.threshold]
        lines.append(f"| {row.threshold:g} | {row.accuracy:.4f} | {row.mean_steps:.3f} | {times} | {many:.2f} |")
    lines += [
        "",
        f"| class, threshold {report.threshold:g} | maps | " + " | ".join(f"step {step}" for step in steps) + " |",
    ]
    lines.append("|---|--:|" + "--:|" * len(steps))
    for name, counts in report.steps_per_class.items():
        total = sum(counts)
        shares = " | ".join(f"{count / max(total, 1):.1%}" for count in counts)
        lines.append(f"| {name} | {total:,} | {shares} |")
    return "\n".join(lines)


def in_batches(network: Any, params: Any, statistics: Any, codes: Any, thresholds: list[float]) -> dict[float, float]:
    """Return the median seconds per 1,000 maps of each threshold, measured in turns."""
    from qwafer.networks.halting import halted_logits

    found: dict[float, list[float]] = {threshold: [] for threshold in thresholds}
    for turn in range(TURNS + 1):
        for threshold, seconds in found.items():
            start = time.perf_counter()
            halted_logits(network, params, statistics, codes, threshold)
            if turn:  # the first one compiles
                seconds.append(time.perf_counter() - start)
    return {threshold: sorted(seconds)[TURNS // 2] * 1000 / len(codes) for threshold, seconds in found.items()}


def main() -> int:
    """Measure, print, and write the report and its two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="a fitted network (`python -m qwafer.fit --network trm`)")
    parser.add_argument("--maps", type=Path, required=True, help="a file of wafer maps with labels")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="which maps of the network's split")
    parser.add_argument("--threshold", type=float, default=0.9, help="the threshold of the table of classes")
    parser.add_argument("--timed", type=int, default=1000, help="maps that are answered one at a time")
    parser.add_argument("--batched", type=int, default=1000, help="maps that are answered in batches")
    parser.add_argument("--cores", type=int, default=1, help="cores that the process keeps to")
    parser.add_argument("--out", type=Path, help="folder of the report (JSON) and the figures")
    arguments = parser.parse_args()
    # Before JAX makes its threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])

    import numpy as np

    import qwafer
    from qwafer._io import write_json
    from qwafer.backbones.checkpoints import read_checkpoint
    from qwafer.backbones.trained import recorded_split
    from qwafer.data import read_maps
    from qwafer.networks.halting import halting_report
    from qwafer.reports.figures import save_figure
    from qwafer.reports.figures.halting import halting_steps, halting_trade_off

    head = qwafer.Model.load(arguments.network.with_suffix(".model.safetensors")).head.head
    network, params, statistics = head.options.architecture(), *head.trees()
    maps = read_maps(arguments.maps)
    split = recorded_split(read_checkpoint(arguments.network).state)
    parts = None if split is None else split(maps.content_ids)
    if parts is not None:
        maps = maps.take(np.flatnonzero(parts == arguments.part))
    model = network, params, statistics
    report = halting_report(*model, maps, threshold=arguments.threshold, timed=arguments.timed)
    some = np.linspace(0, len(maps) - 1, min(arguments.batched, len(maps))).astype(int)
    codes = network.codes([maps.maps[i] for i in some])
    batches = in_batches(*model, codes, [row.threshold for row in report.rows])
    print(text(report, batches))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        batched = {str(threshold): seconds for threshold, seconds in batches.items()}
        write_json(
            arguments.out / "halting.json", {**dataclasses.asdict(report), "seconds_per_1000_in_batches": batched}
        )
        save_figure(halting_trade_off(report), arguments.out / "trade_off.png")
        save_figure(halting_steps(report), arguments.out / "steps.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
