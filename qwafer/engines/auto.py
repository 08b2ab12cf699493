"""The `auto` engine: `xla` or `catalyst`, whichever a measured table expects to be faster."""

import math
from typing import Any

import jax

from qwafer._checks import check_positive_int
from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Engine, Program

# Medians of 3 to 40 interleaved calls in one process on two cores that other work shared: strongly entangling, two
# layers, mean Z, float32, catalyst by scan on lightning.qubit with one OpenMP thread. The load moved single entries by
# a few times; the medians favour xla in every entry, by at least three times: no crossover was seen up to 16 qubits.
_MEASURED: dict[int, dict[int, tuple[float, float]]] = {
    4: {1: (0.14, 0.99), 64: (0.39, 120), 256: (0.46, 340)},
    6: {1: (0.15, 0.75), 64: (2.5, 24), 256: (4.7, 96)},
    8: {1: (0.19, 1), 64: (0.69, 80), 256: (6, 120)},
    10: {1: (0.27, 1.2), 64: (9.3, 66), 256: (6.1, 150)},
    12: {1: (0.34, 2.2), 64: (9.2, 140), 256: (150, 2100)},
    14: {1: (0.83, 6.9), 64: (46, 680), 256: (1200, 4000)},
    16: {1: (4, 38), 64: (320, 4300), 256: (930, 16000)},
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
        from qwafer.engines.catalyst import CatalystEngine

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
    from qwafer.engines.xla import XlaEngine

    return XlaEngine()
