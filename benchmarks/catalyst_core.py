"""What the catalyst engine costs per example, against the ways a newcomer would write it.

    python benchmarks/catalyst_core.py --quick     the ratios that the design promises, under 3 minutes
    python benchmarks/catalyst_core.py --table     the measured table behind batching="auto"
    python benchmarks/catalyst_core.py             n = 2..14, layers 1..8, batches 1..4096: about 15 minutes

Every form is timed in two worker processes, one with the environment as it is ("plain") and one with the environment
that
qwafer gives its workers ("worker": a preloaded allocator or a tuned glibc). The processes take turns, round by round,
so that
a busy machine slows all alike; what is compared are medians over the rounds. "bare" is a `qjit` scan with default
settings, value and gradient of mean Z in its body. qwafer's times include everything from a jitted JAX step and back.

Writes results/catalyst_core[_quick].json and .png beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KINDS = ("plain", "worker")
JACOBIAN_BATCH = {4: 64, 8: 16}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the promised ratios hold, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only what the promised ratios need")
    parser.add_argument("--table", action="store_true", help="print the table behind batching auto, and nothing else")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON and the figure")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        return serve()
    if arguments.table:
        from catalyst_core_cases import choice_table

        for row in choice_table():
            print(row, flush=True)
        return 0

    from qwafer._io import write_json

    start = time.perf_counter()
    cases = promised() if arguments.quick else [*promised(), *grid()]
    timed = measure(list(dict.fromkeys(cases)), rounds=5 if arguments.quick else 4)
    ratios = promises(timed["times"])
    for line in table(timed["times"]):
        print(line)
    for ratio in ratios:
        print(
            f"{'holds' if ratio['holds'] else 'FAILS'}: {ratio['what']}: {ratio['worker']:.1f} "
            f"(at least {ratio['target']:g}; {ratio['plain']:.1f} without the worker's allocator)"
        )
    name = "catalyst_core_quick" if arguments.quick else "catalyst_core"
    result = {**timed, "ratios": ratios, "seconds": time.perf_counter() - start}
    write_json(arguments.out / f"{name}.json", result)
    figure(timed["times"], arguments.out / f"{name}.png")
    print(f"{arguments.out / name}.json, {name}.png, {result['seconds']:.0f} s")
    return 0 if all(ratio["holds"] for ratio in ratios) else 1


def promised() -> list[tuple[str, int, int, int]]:
    """The cases (form, n, layers, batch) behind the promised ratios, and the naive forms on one small batch."""
    cases = []
    for n, batch in ((4, 256), (8, 128)):
        cases += [(form, n, 2, batch) for form in ("bare", "scan", "bare forward", "scan forward", "scan, 3n outputs")]
        cases.append(("catalyst.jacobian", n, 2, JACOBIAN_BATCH[n]))
    cases += [("choi", 4, 2, 256), ("choi forward", 4, 2, 256)]
    cases += [(form, 4, 2, 32) for form in ("a call an example", "jax.vmap, forward", "catalyst.vmap")]
    return cases


def grid() -> list[tuple[str, int, int, int]]:
    """Wires, layers and batch sizes, one at a time."""
    forms = ("bare", "scan forward", "scan", "choi forward", "choi")
    cases = []
    for n in (2, 3, 4, 5, 6, 7, 8, 10, 12, 14):
        batch = 256 if n <= 8 else 64 if n <= 10 else 16
        cases += [(form, n, 2, batch) for form in forms if n <= 8 or not form.startswith("choi")]
    for layers in (1, 2, 4, 8):
        cases += [(form, 4, layers, 256) for form in forms]
    for batch in (1, 4, 16, 64, 256, 1024, 4096):
        cases += [(form, 4, 2, batch) for form in forms]
    return cases


def measure(cases: list[tuple[str, int, int, int]], rounds: int) -> dict[str, Any]:
    """Return the median microseconds per example of every case in both kinds of process, and compile seconds."""
    from qwafer._process import worker_environment

    plain = {**worker_environment(1), **dict.fromkeys(("LD_PRELOAD", "GLIBC_TUNABLES"), "")}
    plain = {name: value for name, value in plain.items() if value or name not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    workers = {kind: _Worker(plain if kind == "plain" else worker_environment(1, plain)) for kind in KINDS}
    try:
        described = {kind: worker.ask({"do": "describe"}) for kind, worker in workers.items()}
        times = []
        for case in cases:
            compile_seconds = {kind: worker.ask({"do": "build", "case": case}) for kind, worker in workers.items()}
            found: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(rounds):
                for kind, worker in workers.items():
                    found[kind].append(worker.ask({"do": "time"}))
            form, n, layers, batch = case
            times.append(
                {
                    "form": form,
                    "n_qubits": n,
                    "n_layers": layers,
                    "batch": batch,
                    "compile_s": compile_seconds,
                    "us_an_example": {kind: 1e6 * statistics.median(found[kind]) / batch for kind in KINDS},
                }
            )
            print(f"\r{len(times)}/{len(cases)} {form}, n = {n}\033[K", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.close()
    return {"processes": described, "cpus": os.cpu_count(), "times": times}


class _Worker:
    """A process that builds cases and times them when asked."""

    def __init__(self, environment: dict[str, str]):
        root = str(Path(__file__).resolve().parents[1])
        environment = {**environment, "PYTHONPATH": os.pathsep.join([root, environment.get("PYTHONPATH", "")])}
        command = [sys.executable, __file__, "--worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended at {question}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve() -> int:
    """Answer the questions of the parent: the worker process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not disturb the answers
    from catalyst_core_cases import Case, build

    from qwafer import engines
    from qwafer._process import allocator_in_use, configure_jax
    from qwafer.engines.cache import stack_versions

    configure_jax()
    run: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: Any
        if question["do"] == "describe":
            answer = {"allocator": allocator_in_use(), "versions": dict(stack_versions())}
        elif question["do"] == "build":
            engines.cache_clear()
            run, answer = build(Case(*question["case"]))
            start = time.perf_counter()
            run()
            repeats = max(1, min(50, int(0.15 / (time.perf_counter() - start))))
        else:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            answer = (time.perf_counter() - start) / repeats
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def promises(times: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the promised ratios; the slower form always as it is in the plain process."""
    found = {(t["form"], t["n_qubits"], t["batch"]): t["us_an_example"] for t in times if t["n_layers"] == 2}
    asked = []
    for n, batch, target in ((4, 256, 2.5), (8, 128, 2.0)):
        what = f"value and gradient of mean Z at n = {n} against the bare scan"
        asked.append((what, ("bare", n, batch), ("scan", n, batch), target))
    for n, batch, target in ((4, 256, 8.0), (8, 128, 4.0)):
        what = f"a vector-Jacobian product of 3n outputs at n = {n} against catalyst.jacobian"
        asked.append((what, ("catalyst.jacobian", n, JACOBIAN_BATCH[n]), ("scan, 3n outputs", n, batch), target))
    ratios = []
    for what, slow, fast, target in asked:
        ratio = {kind: found[slow]["plain"] / found[fast][kind] for kind in KINDS}
        ratios.append({"what": what, "target": target, **ratio, "holds": ratio["worker"] >= target})
    choi = {kind: found["scan", 4, 256][kind] / found["choi", 4, 256][kind] for kind in KINDS}
    what = "choi at n = 4, 256 examples, against the scan of the same process"
    ratios.append({"what": what, "target": 10.0, **choi, "holds": choi["worker"] >= 10.0})
    return ratios


def table(times: list[dict[str, Any]]) -> list[str]:
    """Return the times as the lines of a table."""
    lines = [f"{'form':22}{'n':>4}{'layers':>8}{'batch':>7}{'compile s':>11}{'plain us':>11}{'worker us':>11}"]
    for t in times:
        lines.append(
            f"{t['form']:22}{t['n_qubits']:>4}{t['n_layers']:>8}{t['batch']:>7}{t['compile_s']['worker']:>11.2f}"
            f"{t['us_an_example']['plain']:>11.2f}{t['us_an_example']['worker']:>11.2f}"
        )
    return lines


def figure(times: list[dict[str, Any]], path: Path) -> None:
    """Draw microseconds per example over wires, layers and batch size, each where it was varied."""
    from qwafer.reports.figures import style as look

    axes_of = (("n_qubits", "Wires"), ("n_layers", "Layers"), ("batch", "Examples per batch"))
    base = {"n_qubits": 4, "n_layers": 2, "batch": 256}
    forms = ("bare", "scan", "scan forward", "choi", "choi forward")
    with look.house_style():
        drawn = look.new_figure(look.PAGE, 2.15 + look.legend_height(forms, look.PAGE))
        panels = drawn.subplots(1, 3, sharey=True)
        for panel, (axis, label) in zip(panels, axes_of, strict=True):
            for index, form in enumerate(forms):
                points = {}
                for t in times:
                    others = [key for key in base if key != axis and not (axis == "n_qubits" and key == "batch")]
                    if t["form"] == form and all(t[key] == base[key] for key in others):
                        points[t[axis]] = t["us_an_example"]["plain" if form == "bare" else "worker"]
                kind = {**look.line_style(index), "marker": look.MARKERS[index], "markersize": 3}
                panel.plot(sorted(points), [points[x] for x in sorted(points)], label=form, **kind)
            panel.set(xlabel=label, yscale="log")
            if axis != "n_qubits":
                panel.set_xscale("log", base=2)
            ticks = sorted({t[axis] for t in times})[:: 1 if axis != "batch" else 2]
            panel.set_xticks(ticks, [look.short_count(x) for x in ticks])
            panel.minorticks_off()
        for panel in panels:
            look.plain_log_axis(panel)
        panels[0].set_ylabel("Microseconds per example")
        look.outer_legend(drawn, *panels[0].get_legend_handles_labels(), "upper")
    look.save_figure(drawn, path)


if __name__ == "__main__":
    sys.exit(main())
