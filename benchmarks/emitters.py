"""What `qwafer.compiler_options()` saves, and whether it costs speed: steps compiled with and without, in turns.

python benchmarks/emitters.py        # a minute and a half; value and gradient, float32, without a cache on disk
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import qwafer
from qwafer.circuits import CircuitSpec

CASES = (
    (CircuitSpec(4, 2), 64),
    (CircuitSpec(4, 2), 256),
    (CircuitSpec(4, 6), 256),
    (CircuitSpec(4, 4, readout="z_vec", n_outputs=8, reupload=True), 256),
    (CircuitSpec(6, 2), 256),
    (CircuitSpec(8, 2), 256),
    (CircuitSpec(8, 2), 4096),
    (CircuitSpec(8, 3, readout="mean_z_readout", n_outputs=8), 128),
    (CircuitSpec(10, 2), 256),
    (CircuitSpec(12, 2), 256),
)
ROUNDS, SLICE = 9, 0.06
"""Turns of each, and the seconds that one lasts, a call at least."""


def main() -> int:
    """Print a row for each case."""
    qwafer.configure_jax()
    jax.config.update("jax_enable_compilation_cache", False)
    print("n L B readout plan | CPU seconds to compile, without and with | us per step, without and with | ratio")
    for spec, batch in CASES:
        program = qwafer.engines.get("xla").program(spec, batch)
        rng = np.random.default_rng(0)
        weights = {name: rng.normal(size=shape).astype("float32") for name, shape in spec.weight_shapes().items()}
        arguments = jax.device_put((weights, rng.normal(size=(batch, spec.n_inputs)).astype("float32")))
        step = jax.value_and_grad(lambda w, x, program=program: jnp.sin(program(w, x)).sum(), (0, 1))
        lowered = jax.jit(step).lower(*arguments)
        calls, seconds = [], []
        for options in ({}, qwafer.compiler_options()):
            begin = time.process_time()
            calls.append(lowered.compile(compiler_options=options))
            seconds.append(time.process_time() - begin)
        times = np.median([[timed(call, arguments) for call in calls] for _ in range(ROUNDS)], axis=0) * 1e6
        compiled, run = (" -> ".join(f"{value:.{d}f}" for value in pair) for pair, d in ((seconds, 2), (times, 0)))
        place = f"{spec.n_qubits} {spec.n_layers} {batch} {spec.readout} {program.info['plan']}"
        print(f"{place} | {compiled} | {run} | {times[1] / times[0]:.2f}", flush=True)
    return 0


def timed(call: jax.stages.Compiled, arguments: tuple) -> float:
    """Return the seconds of a call, the mean over a turn."""
    n, begin = 0, time.perf_counter()
    while n == 0 or time.perf_counter() - begin < SLICE:
        jax.block_until_ready(call(*arguments))
        n += 1
    return (time.perf_counter() - begin) / n


if __name__ == "__main__":
    sys.exit(main())
