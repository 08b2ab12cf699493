"""The `auto` engine: `xla` or `catalyst`, whichever a measured table expects to be faster."""

import math
from typing import Any

import jax

from qwafer._checks import check_positive_int
from qwafer.circuits import CircuitSpec
from qwafer.engines.base import Engine, Program

# `benchmarks/auto_table.py` on two idle cores: two strongly entangling layers, mean Z, float32, catalyst by scan on
# lightning.qubit. No crossover was seen up to 16 qubits: xla is at least 8 times faster in every entry.
_MEASURED: dict[int, dict[int, tuple[float, float]]] = {
    4: {1: (0.036, 0.3), 64: (0.04, 6.4), 256: (0.048, 24)},
    6: {1: (0.028, 0.34), 64: (0.11, 7.8), 256: (0.19, 29)},
    8: {1: (0.032, 0.41), 64: (0.21, 10), 256: (0.67, 39)},
    10: {1: (0.056, 0.64), 64: (0.92, 19), 256: (3.7, 74)},
    12: {1: (0.15, 1.6), 64: (3.7, 75), 256: (14, 300)},
    14: {1: (0.54, 5.5), 64: (18, 320), 256: (73, 1300)},
    16: {1: (1.6, 34), 64: (79, 2100), 256: (280, 8500)},
}
"""n_qubits: batch: milliseconds a value with its gradients in weights and angles took by (xla, catalyst)."""


class AutoEngine:
    """The engine that is expected to be faster: `xla` or `catalyst`; `Program.info["auto"]` says which and why.

    The options are those of `CatalystEngine`, None standing for its default. `batching`, `device`, `shots` and
    `diff_method` mean something to `catalyst` alone: setting one of them chooses it. `seed` does not, for without
    shots it has no effect.
    """

    name = "auto"

    def __init__(
        self,
        batching: str | None = None,
        device: str | None = None,
        shots: int | None = None,
        diff_method: str | None = None,
        seed: int | None = None,
    ):
        options = {"batching": batching, "device": device, "shots": shots, "diff_method": diff_method, "seed": seed}
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        self._forced = [name for name in self._options if name != "seed"]
        if self._forced:
            self._catalyst()  # combinations that it cannot do are refused here, not at the first program

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True) -> Program:
        """Return the chosen engine's program of `spec` for `batch` examples; see `Engine.program`."""
        check_positive_int("batch", batch)
        if self._forced:
            took, why = "catalyst", f"only catalyst has the option {', '.join(self._forced)}"
        else:
            took, why = choose_engine(spec, batch, jax.default_backend())
        engine = self._catalyst() if took == "catalyst" else _xla()
        program = engine.program(spec, batch, gradient=gradient)
        program.info["auto"] = {"took": took, "why": why}
        return program

    def _catalyst(self) -> Engine:
        from qwafer.engines.catalyst.engine import CatalystEngine

        return CatalystEngine(**self._options)


def choose_engine(spec: CircuitSpec, batch: int, backend: str) -> tuple[str, str]:
    """Return `xla` or `catalyst`, whichever the table expects to be faster on JAX's `backend`, and the reason."""
    if backend != "cpu":
        return "xla", f"it runs on JAX's device ({backend}), catalyst on the CPU"
    n = min(_MEASURED, key=lambda size: (abs(size - spec.n_qubits), size))
    size = min(_MEASURED[n], key=lambda size: abs(math.log(size / batch)))
    xla, catalyst = _MEASURED[n][size]
    took = "xla" if xla <= catalyst else "catalyst"
    where = f"{n} qubits and a batch of {size}"
    beyond = (
        ""
        if spec.n_qubits == n and batch == size
        else f", the nearest that was measured to {spec.n_qubits} and {batch}"
    )
    return took, f"xla took {xla:.3g} ms and catalyst {catalyst:.3g} ms a step at {where}{beyond}"


def _xla() -> Engine:
    from qwafer.engines.xla.engine import XlaEngine

    return XlaEngine()
