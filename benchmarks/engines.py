"""The train step of a quantum head by qwafer's engines and by their peers, in one interleaved run.

    python benchmarks/engines.py --setup-peers   # once: .venv-peers from peers-requirements.txt
    python benchmarks/engines.py                 # what qwafer claims: float32, n = 4..12, B = 256 and 4096
    python benchmarks/engines.py --quick         # n = 4 and 8, B = 256
    python benchmarks/engines.py --full          # every size, both precisions, every contender
    python benchmarks/engines.py --scale         # time and peak memory of `xla` for n = 4..20

A step is the value of a binary cross-entropy over mean Z with its gradients in weights and inputs; see
`_engines_contenders.py` for how each contender is written. Each runs in a process of its own on two cores and is asked
for one timing at a time, so that a disturbance meets all of them. All get the same numbers from one file; no time of a
contender is reported before its loss and gradients agree with the first of `default.qubit`, `tensorcircuit`, `qujax`
that ran. `limit` is the share of the machine's own speed that a step of `xla` reaches: the operations that its plan
needs over its time, against a product of 2048 x 2048 float32 matrices timed in the same rounds. Exit status 1: a
contender disagrees.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _engines_contenders import CONTENDERS
from _engines_pipe import PEERS, ROOT, Pipe

from qwafer.engines.memory import available_memory

Case = tuple[str, int, int, int]
"""dtype, layers, n_qubits, batch."""

ORACLES = ("default.qubit", "tensorcircuit", "qujax")
TOLERANCE = {"float32": (1e-4, 1e-3), "float64": (1e-9, 1e-8)}
"""Of the loss, absolute; of a gradient, against its largest entry."""
STEP_BOX = {"quick": 3.0, "claims": 15.0, "full": 60.0}
"""Seconds that a step may be expected to take and is still run."""
COMPILE_BOX = 90.0
"""The same for a compilation."""
CASE_BOX = {"quick": 8.0, "claims": 20.0, "full": 60.0}
"""Seconds that the rounds of a case go on."""
SLICE = 0.1
"""Seconds that a turn of a contender lasts, a step at least."""
ROUNDS = (3, 15)


def cases(args: argparse.Namespace) -> list[Case]:
    """Return the cases of the chosen set, small ones first, so that they predict what large ones cost."""
    if args.quick:
        return [("float32", 2, n, 256) for n in (4, 8)]
    if args.full:
        sizes, batches = (4, 6, 8, 10, 12, 14), (64, 256, 4096)
        return [(d, layers, n, b) for d in ("float32", "float64") for layers in (2, 6) for n in sizes for b in batches]
    return [("float32", 2, n, b) for n in (4, 6, 8, 10, 12) for b in (256, 4096)] + [
        ("float32", 6, n, 256) for n in (4, 8, 12)
    ]


def write_inputs(path: Path, case: Case) -> None:
    """Write the random numbers of `case`, the same for all contenders."""
    _, layers, n, batch = case
    rng = np.random.default_rng([layers, n, batch])
    np.savez(
        path,
        weights=rng.normal(size=(layers, n, 3)),
        inputs=rng.uniform(-np.pi / 2, np.pi / 2, size=(batch, n)),
        labels=rng.integers(0, 2, size=batch),
    )


def too_long(name: str, case: Case, seen: dict[tuple[str, str], list[dict[str, Any]]], kind: str) -> str | None:
    """Return why `case` is not run, from the nearest that `name` has run: steps grow as L B 2^n, compiling as n L."""
    dtype, layers, n, batch = case
    known = seen.get((name, dtype), [])
    if not known:
        return None
    last = min(known, key=lambda row: (abs(row["n"] - n), row["layers"] != layers, abs(row["batch"] - batch)))
    if "failed" in last:
        smaller = last["n"] <= n and last["batch"] <= batch and last["layers"] <= layers
        return f"a smaller size failed ({last['failed']})" if smaller else None
    step = last["first_s"] * layers / last["layers"] * batch / last["batch"] * 2.0 ** (n - last["n"])
    compilation = last["compile_s"] * layers / last["layers"] * n / last["n"]
    if step > STEP_BOX[kind]:
        return f"a step is expected to take {step:.0f} s"
    return f"compilation is expected to take {compilation:.0f} s" if compilation > COMPILE_BOX else None


def disagreement(have: Path, oracle: Path, dtype: str) -> tuple[float, float]:
    """Return the errors of loss (absolute) and gradients (to the largest entry) as shares of what is allowed."""
    values, gradients = TOLERANCE[dtype]
    with np.load(have) as a, np.load(oracle) as b:
        loss = float(np.abs(a["loss"] - b["loss"]).max()) / values
        worst = [float(np.abs(a[key] - b[key]).max() / np.abs(b[key]).max()) for key in ("weights", "inputs")]
    return loss, max(worst) / gradients


def run_case(case: Case, pipes: dict[str, Pipe], seen: dict[Any, Any], folder: Path, kind: str) -> dict[str, Any]:
    """Prepare every contender of `case`, check their agreement, time them in rounds."""
    dtype, layers, n, batch = case
    inputs = folder / "inputs.npz"
    write_inputs(inputs, case)
    rows: dict[str, dict[str, Any]] = {}
    for name, pipe in pipes.items():
        row: dict[str, Any] = {"n": n, "layers": layers, "batch": batch}
        if (reason := too_long(name, case, seen, kind)) is not None:
            rows[name] = {"skipped": reason}
            continue
        memory = int(0.5 * (available_memory() or 2**33))
        output = folder / f"{name}.npz"
        request = {"n": n, "layers": layers, "batch": batch, "inputs": str(inputs), "outputs": str(output)}
        answer = pipe.ask(COMPILE_BOX + 3 * STEP_BOX[kind], do="prepare", memory=memory, **request)
        row |= {"failed": answer["error"]} if "error" in answer else answer
        seen.setdefault((name, dtype), []).append(row)
        rows[name] = row
    ran = [name for name, row in rows.items() if "first_s" in row]
    oracle = next((name for name in ORACLES if name in ran), None)
    for name in ran:
        if oracle is None:
            rows[name]["unchecked"] = True
        elif max(errors := disagreement(folder / f"{name}.npz", folder / f"{oracle}.npz", dtype)) > 1:
            rows[name]["disagrees"] = errors
    agreed = [name for name in ran if "disagrees" not in rows[name]]
    times, rates = rounds(agreed, pipes, rows, CASE_BOX[kind], with_product="xla" in agreed)
    for name in list(times):
        if times[name]:
            quartiles = np.quantile(times[name], (0.25, 0.5, 0.75)).tolist()
            rows[name] |= {"seconds": quartiles, "rounds": len(times[name])}
    result = {"dtype": dtype, "layers": layers, "n": n, "batch": batch, "oracle": oracle, "contenders": rows}
    if rates and "seconds" in rows["xla"]:
        result["matmul_flops_per_s"] = float(np.median(rates))
        flops, source = operations(rows["xla"]["info"], case)
        limit = flops / result["matmul_flops_per_s"] / rows["xla"]["seconds"][1]
        result["xla_limit"] = {"flops": flops, "source": source, "share": limit}
    return result


def rounds(
    names: list[str], pipes: dict[str, Pipe], rows: dict[str, Any], box: float, *, with_product: bool
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the median seconds per step of each contender's turns, and the rates of the matrix product."""
    times: dict[str, list[float]] = {name: [] for name in names}
    rates: list[float] = []
    start = time.monotonic()
    for index in range(ROUNDS[1]):
        if index >= ROUNDS[0] and time.monotonic() - start > box:
            break
        # From the fourth round on the slow ones have said enough: the rest goes to where the spread matters.
        for name in names[index % len(names) :] + names[: index % len(names)] if names else []:
            expected = times[name][-1] if times[name] else rows[name]["first_s"]
            if index >= ROUNDS[0] and expected > box / ROUNDS[1]:
                continue
            repeats = max(1, min(200, int(SLICE / max(expected, 1e-6))))
            answer = pipes[name].ask(60 + 4 * rows[name]["first_s"], do="time", repeats=repeats)
            if "error" in answer:
                rows[name]["failed"] = answer["error"]
                names = [other for other in names if other != name]
            else:
                times[name].append(float(np.median(answer["seconds"])))
        if with_product:
            answer = pipes["xla"].ask(60, do="matmul")
            rates += [answer["rate"]] if "rate" in answer else []
    return times, rates


def operations(info: dict[str, Any], case: Case) -> tuple[float, str]:
    """Return the floating point operations of a step and whose count it is.

    Without the engine's own: three passes (the state, its adjoint, the weights' derivatives) of real blocks of up to
    four wires, 2 x 2 x 16 operations an amplitude a block, over the layers after the first, a product state.
    """
    _, layers, n, batch = case
    if "flops" in info:
        return float(info["flops"]) * info["parts"], "program.info"
    return 3.0 * batch * 2**n * 64 * -(-n // 4) * max(layers - 1, 1), "blocks of four wires, three passes"


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Return how many times longer than `xla` each contender takes, and its compilation."""
    rows = result["contenders"]
    if "seconds" not in rows.get("xla", {}):
        return {}
    return {name: row["seconds"][1] / rows["xla"]["seconds"][1] for name, row in rows.items() if "seconds" in row}


def print_case(result: dict[str, Any]) -> None:
    """Print the table of one case."""
    head = f"n={result['n']} B={result['batch']} L={result['layers']} {result['dtype']}"
    print(f"\n{head}  (checked against {result['oracle']})")
    times = ratios(result)
    for name, row in result["contenders"].items():
        if "seconds" in row:
            low, middle, high = (1e3 * value for value in row["seconds"])
            parts = f", in {row['info']['parts']} parts" if row["info"].get("parts", 1) > 1 else ""
            note = f"{times[name]:8.1f} x xla" if name in times and name != "xla" else " " * 14
            spread, compiled = f"[{low:.4g}, {high:.4g}]", f"compile {row['compile_s']:6.2f} s"
            print(f"  {name:20} {middle:10.4g} ms {spread:22} {compiled} {note}{parts}")
        elif "disagrees" in row:
            loss, gradients = row["disagrees"]
            print(f"  {name:20} DISAGREES: loss {loss:.2g}, gradients {gradients:.2g} times what is allowed")
        else:
            print(f"  {name:20} not run: {row.get('skipped') or row.get('failed')}")
    if "xla_limit" in result:
        limit, rate = result["xla_limit"], result["matmul_flops_per_s"]
        needs = f"{limit['flops'] / 1e9:.3g} GFlop ({limit['source']})"
        print(f"  limit: {needs} at {rate / 1e9:.0f} GFlop/s of a matrix product: xla at {100 * limit['share']:.1f} %")
    sys.stdout.flush()


def print_summary(results: Iterable[dict[str, Any]]) -> None:
    """Print, a line a case, xla against the fastest of all that are not qwafer's, and against default.qubit."""
    print("\n  n     B  L  dtype     xla ms   fastest peer (x, compile x)            default.qubit x   of limit")
    for result in results:
        rows, times = result["contenders"], ratios(result)
        if not times:
            continue
        peers = {name: value for name, value in times.items() if name not in ("xla", "catalyst")}
        best = min(peers, key=lambda name: peers[name], default=None)
        compiled = rows[best]["compile_s"] / rows["xla"]["compile_s"] if best else float("nan")
        against = f"{best} ({peers[best]:.1f}, {compiled:.1f})" if best else "-"
        default = f"{times['default.qubit']:.1f}" if "default.qubit" in times else "-"
        share = f"{100 * result['xla_limit']['share']:.1f} %" if "xla_limit" in result else "-"
        where = f"{result['n']:3} {result['batch']:5} {result['layers']:2}  {result['dtype']}"
        print(f"{where} {1e3 * rows['xla']['seconds'][1]:9.4g}   {against:36} {default:>15} {share:>10}")


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores_used": min(2, os.cpu_count() or 1),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def compare(args: argparse.Namespace) -> int:
    """Run the chosen cases, print, write JSON and figure."""
    kind = "quick" if args.quick else "full" if args.full else "claims"
    names = ["xla", "tensorcircuit", "qujax", "default.qubit", "catalyst"]
    names += (
        ["catalyst-choi", "torch-lightning"]
        if args.quick
        else ["tensorcircuit-plain", "torch-lightning"]
        if args.full
        else []
    )
    names = [name for name in names if not args.only or name in args.only.split(",")]
    if any(CONTENDERS[name][1] == "peers" for name in names) and not (PEERS / "bin" / "python").exists():
        print("the peers are not installed: python benchmarks/engines.py --setup-peers", file=sys.stderr)
        return 2
    minutes = args.minutes or {"quick": 2, "claims": 12, "full": 180}[kind]
    document: dict[str, Any] = {"set": kind, "machine": machine(), "versions": {}, "cases": []}
    target = args.out / ("engines.json" if kind == "claims" else f"engines-{kind}.json")
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = cases(args)
    deadline = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for dtype in dict.fromkeys(case[0] for case in chosen):
            seen: dict[Any, Any] = {}
            pipes = {name: Pipe(name, dtype) for name in names}
            try:
                for name, pipe in pipes.items():
                    document["versions"][name] = pipe.ask(120, do="hello").get("versions", "failed")
                deadline = deadline or time.monotonic() + 60 * minutes
                for case in (case for case in chosen if case[0] == dtype):
                    if time.monotonic() > deadline:
                        print(
                            f"\nn={case[2]} B={case[3]} L={case[1]} {dtype}: not run, {minutes:g} minutes are used up"
                        )
                        continue
                    document["cases"].append(run_case(case, pipes, seen, Path(folder), kind))
                    print_case(document["cases"][-1])
                    target.write_text(json.dumps(document, indent=1) + "\n")
            finally:
                for pipe in pipes.values():
                    pipe.close()
    print_summary(document["cases"])
    from _engines_figure import draw

    draw(document, target.with_suffix(".png"))
    print(f"\nwritten: {target} and {target.with_suffix('.png').name}")
    wrong = any("disagrees" in row for case in document["cases"] for row in case["contenders"].values())
    return 1 if wrong else 0


def scale(args: argparse.Namespace) -> int:
    """Time and peak memory of a step of `xla` for n = 4..20, each size in a process of its own, in a time box."""
    deadline = time.monotonic() + 60 * (args.minutes or 10)
    document: dict[str, Any] = {"set": "scale", "machine": machine(), "cases": []}
    target = args.out / "engines-scale.json"
    args.out.mkdir(parents=True, exist_ok=True)
    print("  n     B  compile s      step ms [quartiles]          peak memory of the process")
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        for n in range(4, 21, 2):
            batch = 256 if n <= 16 else {18: 64, 20: 16}[n]
            if time.monotonic() > deadline:
                print(f"{n:3} {batch:5}  not run: the time of this run is used up")
                continue
            write_inputs(inputs, ("float32", 2, n, batch))
            pipe = Pipe("xla", "float32")
            try:
                idle = pipe.ask(120, do="hello") | pipe.ask(10, do="memory")
                request = {"n": n, "layers": 2, "batch": batch, "inputs": str(inputs), "outputs": str(outputs)}
                # The engine's own parts are measured: no other limit is laid upon it.
                row = {"n": n, "batch": batch} | pipe.ask(300, do="prepare", memory=2**62, **request)
                if "error" not in row:
                    repeats = max(3, min(50, int(2 / row["first_s"])))
                    row |= pipe.ask(300, do="time", repeats=repeats) | pipe.ask(10, do="memory")
                    row["idle_bytes"] = idle["peak_bytes"]
            finally:
                pipe.close()
            document["cases"].append(row)
            target.write_text(json.dumps(document, indent=1) + "\n")
            if "seconds" not in row:
                print(f"{n:3} {batch:5}  failed: {row['error']}")
                continue
            low, middle, high = 1e3 * np.quantile(row["seconds"], (0.25, 0.5, 0.75))
            peak = f"{row['peak_bytes'] / 2**20:8.0f} MiB ({row['idle_bytes'] / 2**20:.0f} before)"
            print(
                f"{n:3} {batch:5} {row['compile_s']:9.2f}  {middle:10.4g} [{low:.4g}, {high:.4g}]   {peak}", flush=True
            )
    print(f"written: {target}")
    return 0


def setup_peers() -> int:
    """Create .venv-peers from peers-requirements.txt."""
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    requirements = Path(__file__).resolve().parent / "peers-requirements.txt"
    return subprocess.run([PEERS / "bin" / "pip", "install", "-r", requirements], check=False).returncode


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    sets = parser.add_mutually_exclusive_group()
    sets.add_argument("--setup-peers", action="store_true", help="install the peers, then stop")
    sets.add_argument("--quick", action="store_true", help="n = 4 and 8, B = 256: under two minutes")
    sets.add_argument("--full", action="store_true", help="every size, both precisions, every contender: hours")
    sets.add_argument("--scale", action="store_true", help="time and peak memory of xla for n = 4..20")
    parser.add_argument("--only", default="", help="contenders, separated by commas: " + ", ".join(CONTENDERS))
    parser.add_argument("--minutes", type=float, default=0.0, help="time box; default 2, 12, 180 or 10 by the set")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of JSON and figure")
    args = parser.parse_args()
    if args.setup_peers:
        return setup_peers()
    return scale(args) if args.scale else compare(args)


if __name__ == "__main__":
    sys.exit(main())
