"""Peak memory of programs against the prediction that refuses them: `python benchmarks/memory.py [--large] [--case K]`.

Each case is a process of its own. Measured is the growth of its peak resident size from after the imports to after one
call of value and gradient, compiled with `qwafer.compiler_options()` as trainings are; predicted
`Program.info["peak_bytes"]`: they should agree within a factor of 1.5. The model was fitted to `SMALL` and `LARGE`, not
to `HELD_OUT`. Without these options XLA takes more memory to compile, which is most of what small circuits take.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

READOUT = {"readout": "mean_z_readout", "n_outputs": 4}
SMALL = (
    ("xla", {"n_qubits": 4, "n_layers": 2}, 256),
    ("xla", {"n_qubits": 4, "n_layers": 2}, 65536),
    ("xla", {"n_qubits": 6, "n_layers": 4, "reupload": True}, 4096),
    ("xla", {"n_qubits": 8, "n_layers": 4, **READOUT}, 1024),
    ("xla", {"n_qubits": 9, "n_layers": 2, **READOUT}, 256),
    ("xla", {"n_qubits": 12, "n_layers": 4}, 256),
    ("xla", {"n_qubits": 16, "n_layers": 4}, 64),
    ("xla", {"n_qubits": 20, "n_layers": 3}, 16),
    ("reference", {"n_qubits": 10, "n_layers": 1}, 64),
    ("catalyst", {"n_qubits": 14, "n_layers": 2}, 8),
    ("catalyst", {"n_qubits": 18, "n_layers": 3}, 4),
    ("xla", {"n_qubits": 13, "n_layers": 8}, 512),
    ("xla", {"n_qubits": 8, "n_layers": 12, "reupload": True, "dtype": "float64"}, 2048),
    ("xla", {"n_qubits": 19, "n_layers": 6, "readout": "mean_z_readout", "n_outputs": 8}, 4),
    ("xla", {"n_qubits": 20, "n_layers": 10}, 2),
)
LARGE = (
    ("xla", {"n_qubits": 10, "n_layers": 6}, 4096),
    ("xla", {"n_qubits": 14, "n_layers": 4, **READOUT}, 256),
    ("xla", {"n_qubits": 18, "n_layers": 4, "reupload": True}, 64),
    ("xla", {"n_qubits": 20, "n_layers": 3, "readout": "bloch"}, 4),
    ("xla", {"n_qubits": 22, "n_layers": 2}, 16),
    ("xla", {"n_qubits": 24, "n_layers": 2}, 1),
    ("xla", {"n_qubits": 26, "n_layers": 1}, 1),
    ("reference", {"n_qubits": 14, "n_layers": 1}, 64),
    ("catalyst", {"n_qubits": 20, "n_layers": 2}, 2),
    ("catalyst", {"n_qubits": 22, "n_layers": 1}, 1),
    ("xla", {"n_qubits": 22, "n_layers": 8}, 1),
    ("xla", {"n_qubits": 23, "n_layers": 4, "reupload": True}, 2),
)
HELD_OUT = (
    ("xla", {"n_qubits": 11, "n_layers": 9}, 128),
    ("xla", {"n_qubits": 17, "n_layers": 7, "readout": "z_vec", "n_outputs": 3}, 8),
    ("xla", {"n_qubits": 15, "n_layers": 5, "reupload": True}, 40),
    ("xla", {"n_qubits": 21, "n_layers": 6}, 3),
    ("xla", {"n_qubits": 19, "n_layers": 3, "readout": "z"}, 2),
    ("xla", {"n_qubits": 7, "n_layers": 3}, 512),
    ("xla", {"n_qubits": 16, "n_layers": 5, "dtype": "float64"}, 24),
    ("xla", {"n_qubits": 20, "n_layers": 5, "reupload": True, "encoding": "rx"}, 2),
    ("xla", {"n_qubits": 19, "n_layers": 4, "reupload": True, "encoding": "rz"}, 1),
    ("catalyst", {"n_qubits": 19, "n_layers": 2}, 3),
    ("catalyst", {"n_qubits": 21, "n_layers": 2}, 1),
)


def measure(engine: str, fields: dict, batch: int) -> dict:
    """Return the measured and the predicted bytes of one case, in this process."""
    import jax
    import numpy as np

    from qwafer import compiler_options, engines
    from qwafer.circuits import CircuitSpec

    if fields.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    if engine == "catalyst":
        import catalyst  # noqa: F401
    if engine != "xla":
        import pennylane as qml

        qml.device("default.qubit", wires=1)
    jax.numpy.zeros(1).block_until_ready()
    before = peak()
    spec = CircuitSpec(**fields)
    program = engines.get(engine).program(spec, batch)
    weights = {name: np.ones(shape, spec.dtype) for name, shape in spec.weight_shapes().items()}
    x = np.ones((batch, spec.n_inputs), spec.dtype)
    step = jax.value_and_grad(lambda w, x: program(w, x).sum(), (0, 1))
    options = compiler_options() if engine == "xla" else {}
    jax.block_until_ready(jax.jit(step, compiler_options=options)(weights, x))
    how = program.info.get("plan") or program.info.get("batching") or ""
    return {"how": how, "measured": peak() - before, "predicted": program.info["peak_bytes"]}


def peak() -> int:
    """Return the largest resident size of this process so far, bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])  # ru_maxrss is inherited from the parent


def main() -> int:
    """Print a table of the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also cases of up to some GiB, and the held-out ones")
    parser.add_argument("--case", type=int, action="append", help="only the case of this number")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return 0
    cases = SMALL + LARGE + HELD_OUT if arguments.large or arguments.case else SMALL
    print("| case | engine | circuit | batch | plan | measured MiB | predicted MiB | measured / predicted | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number, (engine, fields, batch) in enumerate(cases):
        if arguments.case and number not in arguments.case:
            continue
        command = [sys.executable, __file__, "--one", json.dumps([engine, fields, batch])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {number} | {engine} | {fields} | {batch} | {done.stderr.strip().splitlines()[-1]} | | | | |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        mib = [found[name] / 2**20 for name in ("measured", "predicted")]
        kind = "held out" if number >= len(SMALL + LARGE) else "fitted"
        circuit = " ".join(f"{name}={value}" for name, value in fields.items())
        ratio = f"{mib[0]:.0f} | {mib[1]:.0f} | {mib[0] / mib[1]:.2f}"
        print(f"| {number} | {engine} | {circuit} | {batch} | {found['how']} | {ratio} | {kind} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
