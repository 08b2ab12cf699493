"""The `xla` engine: the batch as one array in plain JAX, by the plan that is cheapest for circuit and batch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.circuits import CapturedCircuit, Circuit, CircuitSpec
from qwafer.engines.base import Program
from qwafer.engines.captured import captured_program
from qwafer.engines.memory import check_memory
from qwafer.engines.process import check_x64
from qwafer.engines.xla import cost
from qwafer.engines.xla.memory import gate_chunks, gates_peak_bytes, peak_bytes

LARGEST_SCHROEDINGER = 30
"""Most wires of plan `schroedinger`: its permutations are tables of 32-bit numbers."""


@dataclass(frozen=True)
class XlaEngine:
    """Batched simulation in JAX, without host callbacks.

    Computes in float32 or float64 as the circuit says, whatever `jax_enable_x64` is. `Program.info` tells what was
    chosen and why, the floating point operations (`flops`) of its matrix products, the memory that a call is expected
    to take (`peak_bytes`), and of plan `gates` the number of its `blocks`. Angles beyond 4 pi lose their whole turns
    before anything is computed. Raises InputError for a plan that cannot run the circuit, for float64 where JAX is in
    32 bit, and where a call does not fit in memory.
    """

    plan: str = "auto"
    """`schroedinger` evolves the state of every example; `heisenberg` evolves the observable once per step and
    evaluates it as a polynomial of the examples' cosines and sines (circuits that encode once, up to 10 qubits);
    `product` follows Bloch vectors (circuits without entangling gates); `gates` gathers the gates in blocks (any
    circuit, and the only one for circuits that are not made of layers); `auto`: the one that a cost model expects to be
    fastest."""
    derivatives: str = "reverse"
    """`reverse`: hand-written reverse passes, fast. `any`: plain JAX, which forward mode and derivatives of higher
    order need; slower. Without it these raise CapabilityError."""
    chunk: int | None = None
    """Examples that `schroedinger` and `gates` evolve at a time; None: as many as stay in the processor's cache, at
    least 16 unless their states take more than a GiB; for `gates` the batch, or as many as take 64 MiB where the states
    before all blocks would take more than half a GiB. Memory follows the chunk, not the batch."""
    recompute: bool | None = None
    """Whether the reverse pass of `schroedinger` undoes the circuit on the final state instead of keeping the states of
    every layer; None: where these would take more than half a GiB. The same for `gates` and the states before every
    block, and it makes the final state again; None: where the batch is more than one chunk."""

    name: ClassVar[str] = "xla"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("plan", self.plan, ("auto", *cost.PLANS, cost.GATES))
        check_choice("derivatives", self.derivatives, ("reverse", "any"))
        if self.chunk is not None:
            check_positive_int("chunk", self.chunk)
        if self.recompute is not None and not isinstance(self.recompute, bool):
            raise TypeError(f"`recompute` must be true, false or None, got {self.recompute!r}")

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option in ("chunk", "recompute") and self.plan not in ("auto", "schroedinger", cost.GATES):
            return f"engine.plan is {self.plan}, which keeps no states"
        if option == "recompute" and self.derivatives == "any":
            return "engine.derivatives is any, whose reverse pass is that of JAX"
        return None

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the program of `circuit` for `batch` examples; see `Engine.program`."""
        import jax

        from qwafer.engines.xla.compiled import jitted

        batch = check_positive_int("batch", batch)
        if isinstance(circuit, CapturedCircuit):
            return captured_program(self, circuit, batch, gradient=gradient)
        check_x64(circuit.dtype)
        reason = self.why_not(circuit)
        if reason is not None:
            raise InputError(f"plan {self.plan} cannot run this circuit: {reason}; use plan auto")
        if self.plan == cost.GATES:
            return self._gatewise(circuit, batch, "asked for", gradient=gradient)
        if not isinstance(circuit, CircuitSpec):
            return self._gatewise(circuit, batch, "the circuit is not made of layers", gradient=gradient)
        choice = cost.choose(circuit, batch, gradient, self.plan, self.chunk)
        if choice.plan == cost.GATES:
            return self._gatewise(circuit, batch, choice.reason, gradient=gradient)
        recompute = choice.recompute if self.recompute is None else self.recompute
        reverse = self.derivatives == "reverse"
        how: dict[str, Any] = {"plan": choice.plan, "chunks": choice.chunks, "recompute": recompute, "reverse": reverse}
        needed = peak_bytes(circuit, batch, gradient=gradient, **how)
        advice = "use fewer qubits"
        if choice.plan != "schroedinger" or choice.chunks < batch:
            advice += " or a smaller " + ("`engine.chunk`" if choice.plan == "schroedinger" else "batch")
        check_memory(circuit, needed, batch, advice)
        if choice.plan == "schroedinger" and circuit.n_qubits > LARGEST_SCHROEDINGER:
            raise InputError(f"plan schroedinger goes up to {LARGEST_SCHROEDINGER} qubits, got {circuit.n_qubits}")
        forward = jitted(circuit, choice.plan, choice.chunks, recompute, reverse)
        info = {
            "engine": self.name,
            "plan": choice.plan,
            "reason": choice.reason,
            "chunks": choice.chunks,
            "recompute": recompute,
            "derivatives": self.derivatives,
            "flops": choice.flops,
            "peak_bytes": needed,
            "device": jax.default_backend(),
            "state_dtype": "complex64" if circuit.dtype == "float32" else "complex128",
            "gradient": gradient,
        }
        return Program(forward, circuit, batch, info, made_by=(self, gradient, 0))

    def _gatewise(self, circuit: Circuit, batch: int, reason: str, *, gradient: bool) -> Program:
        import jax

        from qwafer.engines.xla.compiled import jitted_gates

        reverse = self.derivatives == "reverse"
        chunks = gate_chunks(circuit, batch, gradient and reverse, self.chunk)
        recompute = chunks > 1 if self.recompute is None else self.recompute
        how: dict[str, Any] = {"chunks": chunks, "recompute": recompute, "reverse": reverse}
        needed = gates_peak_bytes(circuit, batch, gradient=gradient, **how)
        advice = "use fewer qubits"
        if chunks < batch:
            advice += " or a smaller " + ("`engine.chunk`" if reverse else "batch")
        check_memory(circuit, needed, batch, advice)
        if circuit.n_qubits > LARGEST_SCHROEDINGER:
            raise InputError(f"plan {cost.GATES} goes up to {LARGEST_SCHROEDINGER} qubits, got {circuit.n_qubits}")
        key: Any = circuit  # hashable, as `Circuit` asks
        info = {
            "engine": self.name,
            "plan": cost.GATES,
            "reason": reason,
            **how,
            "derivatives": self.derivatives,
            "blocks": len(cost.gates_plan(circuit, -(-batch // chunks)).blocks),
            "flops": cost.gates_flops(circuit, batch, gradient=gradient, recompute=recompute and reverse),
            "peak_bytes": needed,
            "device": jax.default_backend(),
            "state_dtype": "complex64" if circuit.dtype == "float32" else "complex128",
            "gradient": gradient,
        }
        del info["reverse"]
        return Program(jitted_gates(key, **how), circuit, batch, info, made_by=(self, gradient, 0))

    def check(self, circuit: Circuit, batch: int) -> None:
        """Raise what `program` would raise; it compiles nothing."""
        self.program(circuit, batch)

    def why_not(self, circuit: Circuit) -> str | None:
        """Return why this engine cannot run `circuit` by its plan; None: it can."""
        if self.plan == cost.GATES:
            return None
        if not isinstance(circuit, CircuitSpec):
            return None if self.plan == "auto" else "it evaluates layered circuits (CircuitSpec)"
        return cost.impossible(circuit).get(self.plan)
