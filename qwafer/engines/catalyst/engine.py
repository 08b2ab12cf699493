"""The `catalyst` engine: circuits compiled by PennyLane Catalyst, differentiated by its adjoint sweeps."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer._errors import CapabilityError
from qwafer._process import avoid_async_dispatch
from qwafer.circuits import CapturedCircuit, Circuit
from qwafer.engines import pennylane_gates
from qwafer.engines.base import Program
from qwafer.engines.cache import CACHE, ProgramKey
from qwafer.engines.captured import captured_program, core_of
from qwafer.engines.catalyst.memory import peak_bytes
from qwafer.engines.memory import check_memory
from qwafer.engines.process import check_not_forked, check_x64

SIMULATORS = ("lightning.qubit", "lightning.kokkos", "lightning.gpu")
"""Devices whose exact state can be read."""


@dataclass(frozen=True)
class CatalystEngine:
    """Circuits compiled by PennyLane Catalyst (`qjit`).

    Programs compute in double precision, whatever `circuit.dtype` they take and return. Compiled programs are kept in
    the process-wide cache (`qwafer.engines.cache_info()`). One program runs at a time in a process: Catalyst's runtime
    has one context. Raises CapabilityError for what this stack cannot do. The first program switches JAX's asynchronous
    dispatch off, or warns where it is too late for that; see `qwafer.configure_jax`.
    """

    batching: str = "scan"
    """`scan`: one example at a time, any circuit. `choi`: the batch in one circuit on 2n wires, where a circuit encodes
    once. `auto`: the one that a measured table expects to be faster."""
    device: str = "lightning.qubit"
    """PennyLane device that executes the circuits."""
    shots: int | None = None
    """An expectation value is estimated from so many; None: exact."""
    diff_method: str | None = None
    """`adjoint` (exact simulators) or `parameter-shift` (anywhere); None: `adjoint` where it works."""

    name: ClassVar[str] = "catalyst"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("batching", self.batching, ("scan", "choi", "auto"))
        if self.shots is not None:
            check_positive_int("shots", self.shots)
        check_choice("diff_method", self.gradient_method, ("adjoint", "parameter-shift"))
        if self.gradient_method == "adjoint" and not self.exact:
            # With shots, Catalyst runs the adjoint sweep on the exact state without a word: noise in the values, none
            # in the gradients.
            raise CapabilityError(
                "diff_method adjoint needs the exact state of a simulator (lightning.*, shots none): "
                "use parameter-shift"
            )
        if self.batching == "choi" and not self.can_batch:
            raise CapabilityError(
                "batching choi reads the exact state and needs diff_method adjoint: use batching scan with shots or "
                "parameter-shift"
            )

    def implied(self, config: Any) -> dict[str, Any]:
        """Return the options that stand for another value, with that value."""
        return {"diff_method": self.gradient_method}

    @property
    def exact(self) -> bool:
        """Whether values are exact: a simulator, and no shots."""
        return self.device in SIMULATORS and self.shots is None

    @property
    def gradient_method(self) -> str:
        """The `diff_method` that is used: the one asked for, or `adjoint` on exact simulators."""
        return self.diff_method or ("adjoint" if self.exact else "parameter-shift")

    @property
    def can_batch(self) -> bool:
        """Whether these options leave batching choi possible."""
        return self.exact and self.gradient_method == "adjoint"

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the program of `circuit` for `batch` examples, compiled; see `Engine.program`."""
        from qwafer.engines.catalyst.compiled import compile_program

        batch = check_positive_int("batch", batch)
        if isinstance(circuit, CapturedCircuit):
            return captured_program(self, circuit, batch, gradient=gradient, seed=seed)
        batching, reason, needed = self.check(circuit, batch, gradient=gradient)
        check_not_forked()
        avoid_async_dispatch()
        key = ProgramKey(
            circuit=circuit,
            batch=batch,
            gradient=gradient,
            device=self.device,
            diff_method=self.gradient_method,
            shots=self.shots,
            batching=batching,
            seed=0 if self.exact else seed,  # exact results do not depend on it
        )
        compiled = CACHE.get(key, lambda: compile_program(key, exact=self.exact))
        info = {
            "engine": self.name,
            **compiled.info,
            "peak_bytes": needed,
            "batching_asked": self.batching,
            "batching_reason": reason,
        }
        return Program(compiled.forward, circuit, batch, info, made_by=(self, gradient, key.seed))

    def check(self, circuit: Circuit, batch: int, *, gradient: bool = True) -> tuple[str, str, int]:
        """Return the batching, why it was chosen, and the bytes of a program at its peak; raise what `program` would
        raise before it compiles.
        """
        from qwafer.engines.catalyst.choice import choose_batching

        circuit = core_of(circuit)
        reason = self.why_not(circuit)
        if reason is not None:
            raise CapabilityError(f"engine catalyst cannot run this circuit: {reason}")
        check_x64(circuit.dtype)
        batching, reason = self.batching, "asked for"
        if batching == "auto":
            batching, reason = choose_batching(circuit, batch, gradient=gradient, exact=self.can_batch)
        needed = peak_bytes(circuit, batch, gradient=gradient, batching=batching)
        return batching, reason, check_memory(circuit, needed, batch)

    def why_not(self, circuit: Circuit) -> str | None:
        """Return why this engine cannot run `circuit`; None: it can."""
        from qwafer.engines.catalyst import choi

        reason = choi.why_not(circuit) if self.batching == "choi" else None
        if reason is not None:
            return f"{reason}; use batching scan, not choi"
        core = core_of(circuit)
        if core.readout_facts.amplitudes:
            return "it returns the state, and Catalyst differentiates expectation values alone"
        for op in core.operations():
            if op.gate.given is not None:
                return f"gate {op.gate.name} on wires {op.wires} has entries that Catalyst does not differentiate"
        return pennylane_gates.why_not(core)
