"""The evidence for the order of engine `auto`: milliseconds per train step by `xla` and by `catalyst` (scan), in turns.

    python benchmarks/auto_table.py      # a few minutes on an idle machine; prints {qubits: {batch: (xla, catalyst)}}

The step and its inputs are those of `engines.py`: value and gradients of a binary cross-entropy over mean Z, two
strongly entangling layers, float32. On two idle cores `xla` was at least 8 times faster in each of the 21 cells.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from _engines_pipe import Pipe
from engines import write_inputs

SIZES, BATCHES, LAYERS = (4, 6, 8, 10, 12, 14, 16), (1, 64, 256), 2
ENGINES = ("xla", "catalyst")
ROUNDS = 3
SECONDS = 0.2
"""What a turn lasts, a step at least."""


def main() -> int:
    """Measure, and print a row for each size."""
    pipes = {name: Pipe(name, "float32") for name in ENGINES}
    try:
        for pipe in pipes.values():
            pipe.ask(120, do="hello")
        with tempfile.TemporaryDirectory() as folder:
            for n in SIZES:
                cells = [f"{batch}: {cell(pipes, n, batch, Path(folder))}" for batch in BATCHES]
                print(f"    {n}: {{{', '.join(cells)}}},", flush=True)
    finally:
        for pipe in pipes.values():
            pipe.close()
    return 0


def cell(pipes: dict[str, Pipe], n: int, batch: int, folder: Path) -> str:
    """Return the medians (xla, catalyst) in milliseconds."""
    inputs = folder / "inputs.npz"
    write_inputs(inputs, ("float32", LAYERS, n, batch))
    repeats, times = {}, {name: [] for name in ENGINES}
    for name, pipe in pipes.items():
        output = str(folder / f"{name}.npz")
        answer = pipe.ask(
            300, do="prepare", n=n, layers=LAYERS, batch=batch, memory=2**62, inputs=str(inputs), outputs=output
        )
        if "error" in answer:
            raise RuntimeError(f"{name}, n = {n}, batch {batch}: {answer['error']}")
        repeats[name] = max(1, min(200, int(SECONDS / answer["first_s"])))
    for _ in range(ROUNDS):
        for name, pipe in pipes.items():
            times[name] += pipe.ask(600, do="time", repeats=repeats[name])["seconds"]
    return f"({', '.join(f'{1e3 * np.median(times[name]):.2g}' for name in ENGINES)})"


if __name__ == "__main__":
    sys.exit(main())
