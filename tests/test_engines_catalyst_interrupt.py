"""Ctrl-C in the middle of a compiled call."""

import os
import subprocess
import sys

INTERRUPTED = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
import jax, numpy as np
jax.config.update("jax_cpu_enable_async_dispatch", False)
from qwafer import engines
from qwafer.circuits import CircuitSpec
from qwafer.engines.catalyst.runtime import LOCK

spec, batch = CircuitSpec(4, 2), 512
program = engines.get("catalyst").program(spec, batch)
weights = {"ansatz": np.ones((2, 4, 3), "float32")}
x = np.ones((batch, 4), "float32")
step = jax.jit(jax.value_and_grad(lambda w, x: program(w, x).sum(), argnums=(0, 1)))
first = jax.block_until_ready(step(weights, x))

for delay in (0.05, 0.0613, 0.0777):
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    steps, start = 0, time.monotonic()
    try:
        while time.monotonic() - start < 60:
            jax.block_until_ready(step(weights, x))
            steps += 1
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    assert LOCK.acquire(blocking=False)
    LOCK.release()
    again = step(weights, x)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)))
    assert engines.get("catalyst").program(CircuitSpec(1, 1), 2).batch == 2  # compiling still works
print("sane")
"""


def test_an_interrupt_waits_for_the_call_and_leaves_all_sane() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted"] * 3 + ["sane"]
