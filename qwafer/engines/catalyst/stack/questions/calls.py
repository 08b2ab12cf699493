"""What a call does to the process: caches, flags, threads, signals."""

import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from ._common import Answer, bloch, compared, compiled, inputs, node


def x64_switch() -> Answer:
    """Whether `import catalyst` leaves JAX's 64-bit flag alone; must be the first question of its process."""
    import jax

    if "catalyst" in sys.modules:
        raise RuntimeError("catalyst was imported before the question")
    jax.config.update("jax_enable_x64", False)
    import catalyst  # noqa: F401

    after = bool(jax.config.jax_enable_x64)
    jax.config.update("jax_enable_x64", True)
    return ("fails", "off before the import, on after it") if after else ("works", "off before the import and after it")


def keyword_arguments() -> Answer:
    """A second call with another shape in a keyword argument."""
    import jax.numpy as jnp

    program = compiled(lambda x, *, y: x + y.sum())
    x = jnp.ones(2)
    program(x, y=jnp.ones(2))
    return compared(program(x, y=jnp.ones(5)), np.full(2, 6.0))


def shape_change() -> Answer:
    """Two shapes in turn through one QJIT object: compilations counted."""
    import jax.numpy as jnp

    program = compiled(lambda x: 2 * x)
    count = 0
    compile_ = program.compile

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        return compile_(*arguments, **keywords)

    program.compile = counted
    for size in (3, 4, 3, 4):
        program(jnp.ones(size))
    return ("works" if count == 2 else "fails"), f"{count} compilations for 4 calls with 2 shapes"


def one_shape() -> Answer:
    """One shape four times through one QJIT object: compilations counted."""
    import jax.numpy as jnp

    program = compiled(lambda x: 2 * x)
    program(jnp.ones(3))
    first = program.compiled_function
    for _ in range(3):
        program(jnp.ones(3))
    return ("works" if program.compiled_function is first else "fails"), "the compiled function stays the same object"


def direct_call() -> Answer:
    """The engine's own way of calling compiled code (ctypes, no JAX arrays, one seed per call)."""
    import jax

    from qwafer.engines.catalyst.runtime import HostProgram

    circuit = node(3)
    weights, data = inputs(3, 5)

    def program(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda _, row: (None, circuit(w, row)), None, x)[1]

    compiled = HostProgram(program, [((3,), np.float64), ((5, 3), np.float64)], seed=0)
    (found,) = compiled(np.asarray(weights), np.asarray(data))
    return compared(found, bloch(weights, data)[..., 2].mean(axis=-1))


def threads() -> Answer:
    """Two threads in one compiled function."""
    circuit = node(3)
    weights, data = inputs(3)
    program = compiled(lambda w, x: circuit(w, x), seed=0)
    right = float(bloch(weights, data)[..., 2].mean())
    program(weights, data)
    errors: list[str] = []
    start = threading.Barrier(2)

    def work() -> None:
        start.wait()
        stop = time.perf_counter() + 4
        while time.perf_counter() < stop and not errors:
            try:
                value = float(program(weights, data))
            except Exception as error:  # whatever comes is the answer
                errors.append(f"{type(error).__name__}: {error}")
            else:
                if abs(value - right) > 1e-7:
                    errors.append(f"value {value:.3f} instead of {right:.3f}")

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return ("fails", errors[0]) if errors else ("works", "no error in 4 s")


def interrupt() -> Answer:
    """Ctrl-C in the middle of a compiled call, by Catalyst's own way of calling."""
    import jax

    circuit = node(4)
    weights, data = inputs(4, 2000)
    program = compiled(lambda w, x: jax.lax.scan(lambda _, row: (None, circuit(w, row)), None, x)[1])
    program(weights, data)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    stop = time.perf_counter() + 10
    try:
        while time.perf_counter() < stop:
            program(weights, data)
    except KeyboardInterrupt:
        return "works", "KeyboardInterrupt"
    return "fails", "the signal was lost"


def callback_at_the_root() -> Answer:
    """A jitted JAX function that ends in a host callback of a small matrix product."""
    import jax

    def function(x: Any, m: Any) -> Any:
        return jax.pure_callback(lambda y: 2 * np.asarray(y), jax.ShapeDtypeStruct((3, 2), np.float32), x @ m)

    return compared(jax.jit(function)(np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)), np.full((3, 2), 4.0))
