"""Packed ternary products and routed experts against float32, in one run: `python benchmarks/popcount.py [--out FILE]`.

Contenders take turns; every one is checked against the product of the whole numbers before a time is printed. Times are
medians over turns, of one thread: set OMP_NUM_THREADS=1.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._io import write_json
from qwafer.heads import MixtureOptions, head_inputs
from qwafer.heads._popcount import popcount_product, sign_planes, ternary_planes

SHAPES = ((1, 1024, 256), (1, 1024, 1024), (1, 128, 8), (64, 1024, 256), (256, 1024, 256), (256, 128, 8))
"""Examples, inputs, outputs."""
MIXTURES = ((1, 1024, 256), (256, 1024, 256))
"""Examples, inputs, hidden units of each expert."""
PLANES = (1, 8)
TURNS = 15
TURN_SECONDS = 0.02


def in_turns(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median microseconds of each call; every turn is some 20 ms of one contender."""
    counts, found = {}, {name: [] for name in calls}
    for name, call in calls.items():
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(3)])
        counts[name] = max(3, int(3 * TURN_SECONDS / (time.perf_counter() - start)))
    for _ in range(TURNS):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(counts[name]):
                jax.block_until_ready(call())
            found[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {name: statistics.median(times) for name, times in found.items()}


def products(rows: int, n: int, n_out: int) -> dict[str, float]:
    """Return the microseconds of each way to multiply inputs (rows, n) by ternary weights (n, n_out)."""
    rng = np.random.default_rng(n)
    weights = rng.integers(-1, 2, (n, n_out))
    mask, sign = ternary_planes(jnp.asarray(weights))
    floats, small = jnp.asarray(weights, "float32"), jnp.asarray(weights, "int8")
    calls: dict[str, Callable[[], Any]] = {}
    expected: dict[str, np.ndarray] = {}

    def add(name: str, function: Callable[..., Any], *arguments: Any, values: np.ndarray) -> None:
        run = jax.jit(function).lower(*arguments).compile()
        calls[name], expected[name] = (lambda: run(*arguments)), values

    for planes in PLANES:
        codes = 2 * rng.integers(0, 2**planes, (rows, n)) - (2**planes - 1)
        whole, x = codes @ weights, jnp.asarray(codes, "float32")
        if planes == 1:
            add("float32 xla", lambda x, w: x @ w, x, floats, values=whole)
            calls["float32 numpy"] = functools.partial(np.matmul, np.asarray(x), np.asarray(floats))
            expected["float32 numpy"] = whole
            add("int8 weights", lambda x, w: x @ w.astype("float32"), x, small, values=whole)
        packed = jax.jit(sign_planes, static_argnums=1)(jnp.asarray(codes), planes)
        add(f"popcount, {planes} plane{'s' * (planes > 1)}", popcount_product, packed, mask, sign, values=whole)
        add(
            f"popcount, {planes} plane{'s' * (planes > 1)} and packing",
            lambda x, m, s, planes=planes: popcount_product(sign_planes(x, planes), m, s),
            *(x, mask, sign),
            values=whole,
        )
    for name, call in calls.items():
        np.testing.assert_array_equal(np.asarray(call()), expected[name], err_msg=name)
    return in_turns(calls)


def mixtures(rows: int, n: int, hidden: int) -> dict[str, float]:
    """Return the microseconds of packed mixtures of 8-bit experts, by their number and `top_k`."""
    features = np.random.default_rng(0).normal(size=(rows, n)).astype(np.float32)
    calls = {}
    for n_experts, top_k in ((1, 1), (4, 1), (16, 1), (16, 2), (16, 16)):
        options = MixtureOptions(experts=("8",) * n_experts, hidden=hidden, top_k=top_k)
        head = options.make(head_inputs(features, 8, 0)).packed()
        run = jax.jit(lambda head, x: head.logits(x, None)).lower(head, features).compile()
        calls[f"{top_k} of {n_experts} experts"] = lambda run=run, head=head: run(head, features)
    return in_turns(calls)


def table(record: dict[str, Any]) -> str:
    """Return what was measured as two Markdown tables, microseconds."""
    parts = []
    for kind in ("products", "mixtures"):
        names = list(record[kind][0]["microseconds"])
        parts.append("| examples x inputs x outputs | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
        for entry in record[kind]:
            cells = (f"{entry['microseconds'][name]:,.1f}" for name in names)
            parts[-1] += f"\n| {' x '.join(f'{n:,}' for n in entry['shape'])} | {' | '.join(cells)} |"
    return "\n\n".join(parts)


def main() -> int:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    shapes = {"products": SHAPES, "mixtures": MIXTURES}
    record: dict[str, Any] = {"jax": jax.__version__, "numpy": np.__version__, "threads": 1}
    for kind, measure in (("products", products), ("mixtures", mixtures)):
        record[kind] = [{"shape": shape, "microseconds": measure(*shape)} for shape in shapes[kind]]
    print(table(record))
    if arguments.out:
        write_json(arguments.out, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
