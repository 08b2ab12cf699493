"""A contender of `engines.py` or `circuits.py` in a process of its own: one JSON line in, one out, on two cores.

    python benchmarks/_engines_worker.py MODULE CONTENDER DTYPE

`{"do": "hello"}`, `{"do": "prepare", ...}` (compile, run, leave loss and gradients in a file),
`{"do": "time", "repeats": k}`, `{"do": "matmul"}`, `{"do": "memory"}`; end of input ends it.
"""

import importlib
import itertools
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before any library counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

MATMUL = 2048
PAUSE = 0.25
WARM_UP = 0.1
"""Both in seconds."""


class Worker:
    """What one contender has compiled, and how its calls are timed."""

    def __init__(self, module: str, name: str, dtype: str):
        self.contenders: Any = importlib.import_module(module)
        self.name, self.dtype = name, dtype
        self.make, _, self.packages = self.contenders.CONTENDERS[name]
        self.call: Callable[[], Any] = tuple
        self.product: Callable[[], Any] | None = None

    def hello(self) -> dict[str, Any]:
        """Import what is needed and run a tiny step, so that no start is counted later; return the versions."""
        if self.name != "torch-lightning":
            import jax

            jax.config.update("jax_enable_x64", self.dtype == "float64" or self.name.startswith("catalyst"))
            # As in qwafer's own processes (qwafer._process), and for the peers too: handing the work of a call to
            # another thread takes 30 us here.
            jax.config.update("jax_cpu_enable_async_dispatch", False)
        size, arrays = self.contenders.warm_up()
        step, _ = self.make(**size, dtype=self.dtype)
        arguments = self._arguments(arrays)
        device = platform.processor()
        if self.name == "torch-lightning":
            step(*arguments)
        else:
            jax.block_until_ready(jax.jit(step)(*arguments))
            device = jax.devices()[0].device_kind
        return {"versions": {package: version(package) for package in self.packages}, "device": device}

    def _arguments(self, arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return weights (an array, or a dict of those named `weights.NAME`), inputs and labels."""
        own = {name: np.asarray(array, self.dtype) for name, array in arrays.items()}
        named = {name.removeprefix("weights."): own[name] for name in own if name.startswith("weights.")}
        return named or own["weights"], own["inputs"], own["labels"]

    def prepare(self, batch: int, inputs: str, outputs: str, memory: int, **size: Any) -> dict[str, Any]:
        """Build and compile the step, run it once on the arrays of `inputs`, write what it gives to `outputs`.

        Where XLA says that its buffers exceed `memory` bytes, the batch is run in parts, one after the other.
        """
        with np.load(inputs) as file:
            w, x, y = self._arguments(file)
        start, cpu, parts = time.perf_counter(), time.process_time(), 1
        if self.name == "torch-lightning":
            step, info = self.make(batch=batch, dtype=self.dtype, **size)
            self.call = lambda: step(w, x, y)
        else:
            import jax

            jax.clear_caches()
            arguments = jax.device_put((w, x, y))
            while True:
                start, cpu = time.perf_counter(), time.process_time()
                step, info = self.make(batch=batch // parts, dtype=self.dtype, **size)
                lowered = jax.jit(_in_parts(step, parts)).lower(*arguments)
                compiled = lowered.compile(compiler_options=info.get("compiler_options"))
                needed = compiled.memory_analysis().temp_size_in_bytes
                if needed <= memory or batch % (parts * 4):
                    break
                parts *= 4
            # In turns, as in a training: an engine may keep what it has computed from equal weights or angles.
            turns = itertools.cycle((arguments, jax.device_put((*jax.tree.map(lambda own: own + 1e-3, (w, x)), y))))
            self.call = lambda: jax.block_until_ready(compiled(*next(turns)))
            info = {**info, "parts": parts, "buffer_bytes": needed}
        compiled_s, compiled_cpu_s = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        loss, d_w, d_x, *values = self.call()
        first_s = time.perf_counter() - start
        by_weight = d_w.values() if isinstance(d_w, dict) else [d_w]
        flat = np.concatenate([np.ravel(own) for own in by_weight])
        found = {"loss": loss, "weights": flat, "inputs": d_x, **dict(zip(("values",), values, strict=False))}
        np.savez(outputs, **{name: np.asarray(array) for name, array in found.items()})
        if info.get("eager"):  # nothing was compiled before the first call, and the second pays nothing for it
            start = time.perf_counter()
            self.call()
            second_s = time.perf_counter() - start
            compiled_s, first_s = compiled_s + max(first_s - second_s, 0.0), second_s
        told = json.loads(json.dumps(info, default=str))
        return {"compile_s": compiled_s, "compile_cpu_s": compiled_cpu_s, "first_s": first_s, "info": told}

    def time(self, repeats: int) -> dict[str, Any]:
        """Return the seconds of each of `repeats` calls in the midst of a training: after a pause and calls to warm up.

        Contenders take turns: threads of the one before (OpenMP's spin for 0.2 s) must come to rest, and the first
        calls after a rest are slower by up to a half (caches, clock), whoever makes them.
        """
        time.sleep(PAUSE)
        start = time.perf_counter()
        while True:
            self.call()
            if time.perf_counter() - start > WARM_UP:
                break
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.call()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def matmul(self) -> dict[str, Any]:
        """Return the operations per second of one product of float32 matrices of 2048 x 2048."""
        import jax

        if self.product is None:
            a = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL), "float32")
            compiled = jax.jit(lambda a: a @ a).lower(a).compile()
            self.product = lambda: jax.block_until_ready(compiled(a))
            self.product()
        start = time.perf_counter()
        self.product()
        return {"rate": 2 * MATMUL**3 / (time.perf_counter() - start)}

    def memory(self) -> dict[str, Any]:
        """Return the most bytes that the process has held."""
        return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _in_parts(step: Any, parts: int) -> Any:
    """Return `step` on the batch in so many equal parts in turn: the mean of the parts."""
    if parts == 1:
        return step
    import jax
    import jax.numpy as jnp

    def in_parts(w: Any, x: Any, y: Any) -> Any:
        def part(sums: Any, xy: Any) -> Any:
            loss, d_w, *own = step(w, *xy)
            return jax.tree.map(jnp.add, sums, (loss, d_w)), own

        zero = jax.tree.map(jnp.zeros_like, (y.dtype.type(0), w))
        split = [array.reshape(parts, -1, *array.shape[1:]) for array in (x, y)]
        (loss, d_w), own = jax.lax.scan(part, zero, tuple(split))
        d_x, *values = (array.reshape(-1, *array.shape[2:]) for array in own)
        return loss / parts, jax.tree.map(lambda total: total / parts, d_w), d_x / parts, *values

    return in_parts


def main() -> int:
    """Answer requests until the input ends. An error is an answer too."""
    # The pipe is for answers alone: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:4])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # the driver records it with the case and goes on
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
