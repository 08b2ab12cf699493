"""The `xla` engine: the batch as one array in plain JAX, by whichever plan is cheapest for the spec and the batch."""

import functools

import jax

from qwafer._checks import check_choice, check_positive_int
from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec
from qwafer.engines.base import Forward, Program, Weights
from qwafer.engines.memory import check_memory
from qwafer.engines.xla import cost, product
from qwafer.engines.xla import heisenberg as pauli
from qwafer.engines.xla import schroedinger as statevector


class XlaEngine:
    """Batched simulation in JAX, without host callbacks; float32 or float64 as the spec says, whatever `jax_enable_x64`
    is.

    - `plan`: `schroedinger` evolves the state of every example; `heisenberg` evolves the observable once a step and
      evaluates it as a polynomial of the examples' cosines and sines (circuits that encode once, up to 10 qubits);
      `product` follows Bloch vectors (circuits without entangling gates); `auto`: the one that a cost model expects to
      be fastest.
    - `derivatives`: `reverse`: hand-written reverse passes, fast. `any`: plain JAX, which forward mode and derivatives
      of higher order need; slower.
    - `chunk`: examples that `schroedinger` evolves at a time; None: as many as stay in the processor's cache. Memory
      follows the chunk, not the batch.
    - `recompute`: whether the reverse pass of `schroedinger` undoes the circuit on the final state instead of keeping
      the states of every layer; None: where these would take more than half a GiB.

    `Program.info` tells what was chosen and why, and the floating point operations (`flops`) of its matrix products.
    Raises InputError for a plan that cannot run the spec, for float64 where JAX is in 32 bit, and where one example
    does not fit.
    """

    name = "xla"

    def __init__(
        self,
        plan: str = "auto",
        derivatives: str = "reverse",
        chunk: int | None = None,
        recompute: bool | None = None,
    ):
        check_choice("plan", plan, ("auto", *cost.PLANS))
        check_choice("derivatives", derivatives, ("reverse", "any"))
        if chunk is not None:
            check_positive_int("chunk", chunk)
        if recompute is not None and not isinstance(recompute, bool):
            raise TypeError(f"`recompute` must be true, false or None, got {recompute!r}")
        self._plan = plan
        self._derivatives = derivatives
        self._chunk = chunk
        self._recompute = recompute

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True) -> Program:
        """Return the program of `spec` for `batch` examples; see `Engine.program`."""
        check_positive_int("batch", batch)
        if spec.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise InputError("dtype float64 needs JAX in 64 bit: call jax.config.update('jax_enable_x64', True) first")
        excluded = cost.possible(spec)
        if self._plan in excluded:
            raise InputError(f"plan {self._plan} cannot run this circuit: {excluded[self._plan]}; use plan auto")
        choice = cost.choose(spec, batch, gradient, self._plan, self._chunk)
        if choice.plan == "schroedinger":
            check_memory(spec)
        recompute = choice.recompute if self._recompute is None else self._recompute
        reverse = self._derivatives == "reverse"
        forward = _jitted(spec, choice.plan, choice.chunks, recompute, reverse)
        info = {
            "engine": self.name,
            "plan": choice.plan,
            "reason": choice.reason,
            "chunks": choice.chunks,
            "recompute": recompute,
            "derivatives": self._derivatives,
            "flops": choice.flops,
            "device": jax.default_backend(),
            "state_dtype": "complex64" if spec.dtype == "float32" else "complex128",
            "gradient": gradient,
        }
        return Program(forward, spec, batch, info)


@functools.lru_cache(maxsize=128)
def _jitted(spec: CircuitSpec, plan: str, chunks: int, recompute: bool, reverse: bool) -> Forward:
    """Return the compiled function of a plan, one a process, so that equal programs share its compilations."""

    @jax.jit
    def forward(weights: Weights, angles: jax.Array) -> jax.Array:
        weights = {name: value.astype(spec.dtype) for name, value in weights.items()}
        angles = angles.astype(spec.dtype)
        if plan == "product":
            return product.forward(spec, weights, angles)
        if plan == "heisenberg":
            return pauli.forward(spec, weights, angles, reverse)
        return statevector.forward(spec, weights, angles, chunks, recompute=recompute, reverse=reverse)

    return forward
