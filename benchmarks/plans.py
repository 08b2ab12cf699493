"""The plans of engine `xla` timed against each other, beside what the cost model expects of them.

    python benchmarks/plans.py                  # values alone and with gradients, results/plans.json
    python benchmarks/plans.py --only values

One process, float32, strongly entangling layers, readout mean_z, data encoded once, so that both plans can run. Both
plans of a size take turns in rounds of 0.05 s. For each size: the measured medians, the expected microseconds, and how
much longer the chosen plan takes than the faster one (1: the choice was right).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qwafer
from qwafer.circuits import CircuitSpec
from qwafer.engines.xla import XlaEngine, cost

SIZES = {"values": (4, 6, 8, 10), "gradients": (4, 6, 8)}
LAYERS = (1, 3, 6)
BATCHES = {"values": (1, 16, 128, 1024), "gradients": (16, 64, 256, 4096)}
PLANS = ("schroedinger", "heisenberg")
ROUNDS, SLICE = 7, 0.05


def main() -> int:
    """Time all sizes and print a row for each; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(BATCHES), help="values alone, or values with gradients")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "plans.json")
    arguments = parser.parse_args()
    qwafer.configure_jax()
    rows = []
    print("what n L B | schroedinger us (expected) | heisenberg us (expected) | chosen, times the faster one")
    for what, spec, batch in cases(arguments.only):
        row = {"what": what, "n": spec.n_qubits, "layers": spec.n_layers, "batch": batch, **timed(what, spec, batch)}
        rows.append(row)
        times = " | ".join(f"{row['us'][plan]:.0f} ({row['expected_us'][plan]:.0f})" for plan in PLANS)
        print(
            f"{what} {spec.n_qubits} {spec.n_layers} {batch} | {times} | {row['chosen']} {row['loss']:.2f}", flush=True
        )
    for what in sorted({row["what"] for row in rows}):
        losses = [row["loss"] for row in rows if row["what"] == what]
        right = sum(loss == 1 for loss in losses)
        print(
            f"{what}: the faster plan was taken {right} of {len(losses)} times; at worst {max(losses):.2f} times slower"
        )
    arguments.out.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")
    return 0


def cases(only: str | None) -> Iterator[tuple[str, CircuitSpec, int]]:
    """Yield what is timed, a circuit and a batch."""
    for what, batches in BATCHES.items():
        for n in SIZES[what] if only in (None, what) else ():
            yield from ((what, CircuitSpec(n, layers), batch) for layers in LAYERS for batch in batches)


def timed(what: str, spec: CircuitSpec, batch: int) -> dict[str, Any]:
    """Return the median microseconds of each plan, those that were expected, the choice and what it lost."""
    gradient = what == "gradients"
    calls = {plan: _call(plan, spec, batch, gradient) for plan in PLANS}
    times: dict[str, list[float]] = {plan: [] for plan in PLANS}
    for _ in range(ROUNDS):
        for plan, call in calls.items():
            n, begin = 0, time.perf_counter()
            while n == 0 or time.perf_counter() - begin < SLICE:
                call()
                n += 1
            times[plan].append((time.perf_counter() - begin) / n * 1e6)
    us = {plan: statistics.median(values) for plan, values in times.items()}
    choice = cost.choose(spec, batch, gradient)
    expected = {plan: choice.expected_us[plan] for plan in PLANS}
    return {"us": us, "expected_us": expected, "chosen": choice.plan, "loss": us[choice.plan] / min(us.values())}


def _call(plan: str, spec: CircuitSpec, batch: int, gradient: bool) -> Callable[[], object]:
    program = XlaEngine(plan=plan).program(spec, batch, gradient=gradient)
    rng = np.random.default_rng(0)
    weights = {name: jnp.asarray(rng.normal(size=shape), spec.dtype) for name, shape in spec.weight_shapes().items()}
    inputs = jnp.asarray(rng.normal(size=(batch, spec.n_inputs)), spec.dtype)
    function = (lambda w, x: program(w, x).sum()) if gradient else program
    compiled = jax.jit(jax.value_and_grad(function, argnums=(0, 1)) if gradient else function)
    compiled = compiled.lower(weights, inputs).compile(compiler_options=qwafer.compiler_options())

    def call() -> object:
        return jax.block_until_ready(compiled(weights, inputs))

    call()
    return call


if __name__ == "__main__":
    sys.exit(main())
