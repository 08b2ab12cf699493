"""A contender of `engines.py` in a process of its own: one JSON line in, one JSON line out, on two cores.

    python benchmarks/_engines_worker.py CONTENDER DTYPE

`{"do": "hello"}`, `{"do": "prepare", ...}` (compile, run, leave loss and gradients in a file),
`{"do": "time", "repeats": k}`, `{"do": "matmul"}`, `{"do": "memory"}`; end of input ends it.
"""

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before any library counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from _engines_contenders import CONTENDERS  # noqa: E402

MATMUL = 2048
PAUSE = 0.25
WARM_UP = 0.1
"""Both in seconds."""


class Worker:
    """What one contender has compiled, and how its calls are timed."""

    def __init__(self, name: str, dtype: str):
        self.name, self.dtype = name, dtype
        self.make, _, self.packages = CONTENDERS[name]
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
        step, _ = self.make(3, 1, 2, self.dtype)
        arguments = [np.ones(shape, self.dtype) for shape in ((1, 3, 3), (2, 3), (2,))]
        if self.name == "torch-lightning":
            step(*arguments)
        else:
            jax.block_until_ready(jax.jit(step)(*arguments))
        return {"versions": {package: version(package) for package in self.packages}}

    def prepare(self, n: int, layers: int, batch: int, inputs: str, outputs: str, memory: int) -> dict[str, Any]:
        """Build and compile the step, run it once on the arrays of `inputs`, write what it gives to `outputs`.

        Where XLA says that its buffers exceed `memory` bytes, the batch is run in parts, one after the other.
        """
        with np.load(inputs) as file:
            w, x, y = (file[name].astype(self.dtype) for name in ("weights", "angles", "labels"))
        start, parts = time.perf_counter(), 1
        if self.name == "torch-lightning":
            step, info = self.make(n, layers, batch, self.dtype)
            self.call = lambda: step(w, x, y)
        else:
            import jax

            jax.clear_caches()
            arguments = jax.device_put((w, x, y))
            while True:
                start = time.perf_counter()
                step, info = self.make(n, layers, batch // parts, self.dtype)
                lowered = jax.jit(_in_parts(step, parts)).lower(*arguments)
                compiled = lowered.compile(compiler_options=info.get("compiler_options"))
                needed = compiled.memory_analysis().temp_size_in_bytes
                if needed <= memory or parts * 4 > batch:
                    break
                parts *= 4
            # In turns, as in a training: an engine may keep what it has computed from equal weights or angles.
            turns = itertools.cycle((arguments, jax.device_put((w + 1e-3, x + 1e-3, y))))
            self.call = lambda: jax.block_until_ready(compiled(*next(turns)))
            info = {**info, "parts": parts, "buffer_bytes": needed}
        compiled_s = time.perf_counter() - start
        start = time.perf_counter()
        loss, d_w, d_x = self.call()
        first_s = time.perf_counter() - start
        np.savez(outputs, loss=np.asarray(loss), weights=np.asarray(d_w), angles=np.asarray(d_x))
        if info.get("eager"):  # nothing was compiled before the first call, and the second pays nothing for it
            start = time.perf_counter()
            self.call()
            second_s = time.perf_counter() - start
            compiled_s, first_s = compiled_s + max(first_s - second_s, 0.0), second_s
        return {"compile_s": compiled_s, "first_s": first_s, "info": json.loads(json.dumps(info, default=str))}

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
            loss, d_w, d_x = step(w, *xy)
            return (sums[0] + loss, sums[1] + d_w), d_x

        zero = (jnp.zeros((), w.dtype), jnp.zeros_like(w))
        (loss, d_w), d_x = jax.lax.scan(part, zero, (x.reshape(parts, -1, x.shape[1]), y.reshape(parts, -1)))
        return loss / parts, d_w / parts, d_x.reshape(x.shape) / parts

    return in_parts


def main() -> int:
    """Answer requests until the input ends. An error is an answer too."""
    # The pipe is for answers alone: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:3])
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
