"""The `auto` engine: the fastest engine that can run the circuit."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.circuits import Circuit
from qwafer.engines.base import Engine, Program
from qwafer.engines.catalyst.engine import CatalystEngine
from qwafer.engines.reference import ReferenceEngine
from qwafer.engines.xla.engine import XlaEngine


@dataclass(frozen=True)
class AutoEngine:
    """`xla` where it can run the circuit, else `catalyst` where that can, else `reference`, each with its defaults.

    `benchmarks/auto_table.py` measures the order: `xla` is the fastest at every size. `Program.info["auto"]` says which
    engine was taken and why. There are no options: shots or a device are asked of `catalyst` by name.
    """

    name: ClassVar[str] = "auto"

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the chosen engine's program of `circuit` for `batch` examples; see `Engine.program`."""
        engine, why = choose_engine(circuit)
        program = engine.program(circuit, batch, gradient=gradient, seed=seed)
        info = {**program.info, "auto": {"took": engine.name, "why": why}}
        return Program(program._forward, circuit, program.batch, info, made_by=(self, gradient, 0))

    def stands_for(self, config: Any) -> Engine:
        """Return the engine that it takes for the circuit of a configuration."""
        return choose_engine(config.circuit.circuit(1))[0]

    def why_not(self, circuit: Circuit) -> str | None:
        """Return why none of the engines can run `circuit`; None: one can."""
        return choose_engine(circuit)[0].why_not(circuit)


def choose_engine(circuit: Circuit) -> tuple[Engine, str]:
    """Return the first engine that can run `circuit` (the last one if none can), and the reason."""
    reasons = {}
    for engine in (XlaEngine(), CatalystEngine(), ReferenceEngine()):
        reason = engine.why_not(circuit)
        if reason is None:
            break
        reasons[engine.name] = reason
    cannot = "; ".join(f"{name} cannot run this circuit: {reason}" for name, reason in reasons.items())
    return engine, cannot or f"{engine.name} is the fastest wherever it was measured"
