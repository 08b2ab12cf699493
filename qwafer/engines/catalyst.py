"""The `catalyst` engine: circuits compiled by PennyLane Catalyst, differentiated by its adjoint sweeps."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from qwafer._checks import check_choice, check_positive_int, check_shape
from qwafer._errors import CapabilityError
from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Program, Weights
from qwafer.engines._catalyst_choi import choi_kernel
from qwafer.engines._catalyst_kernels import Kernel, measured_kernel, scan_kernel
from qwafer.engines._host_call import host_call, joined
from qwafer.engines.cache import CACHE, ProgramKey

SIMULATORS = ("lightning.qubit", "lightning.kokkos", "lightning.gpu", "lightning.amdgpu")
"""Devices whose exact state can be read."""


class CatalystEngine:
    """Circuits compiled by PennyLane Catalyst (`qjit`), on `device`.

    - `batching`: `scan`: an example at a time, any circuit.
    - `shots`: an expectation value is estimated from so many; None: exact.
    - `diff_method`: `adjoint` (exact simulators; the default there) or `parameter-shift` (anywhere).
    - `seed`: seed of the shot noise; without effect on exact results.

    Programs compute in double precision, whatever `spec.dtype` they take and return. Compiled programs are kept in the
    process-wide cache (`qwafer.engines.cache_info()`). One program runs at a time in a process: Catalyst's runtime has
    one context. Raises CapabilityError for what this stack cannot do.
    """

    name = "catalyst"

    def __init__(
        self,
        batching: str = "scan",
        device: str = "lightning.qubit",
        shots: int | None = None,
        diff_method: str | None = None,
        seed: int = 0,
    ):
        check_choice("batching", batching, ("scan", "choi"))
        exact = device in SIMULATORS and shots is None
        if shots is not None:
            check_positive_int("shots", shots)
        if diff_method is None:
            diff_method = "adjoint" if exact else "parameter-shift"
        check_choice("diff_method", diff_method, ("adjoint", "parameter-shift"))
        if diff_method == "adjoint" and not exact:
            # With shots, Catalyst runs the adjoint sweep on the exact state without a word: noise in the values, none
            # in the gradients.
            raise CapabilityError(
                "diff_method adjoint needs the exact state of a simulator (lightning.*, shots none): "
                "use parameter-shift"
            )
        self.batching = batching
        self.device = device
        self.shots = shots
        self.diff_method = diff_method
        self.seed = seed
        self._exact = exact

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True) -> Program:
        """Return the program of `spec` for `batch` examples, compiled; see `Engine.program`."""
        check_positive_int("batch", batch)
        key = ProgramKey(
            spec=spec,
            batch=batch,
            gradient=gradient,
            device=self.device,
            diff_method=self.diff_method,
            shots=self.shots,
            batching=self.batching,
            seed=self.seed,
        )
        return CACHE.get(key, lambda: self._compile(spec, batch, gradient)).program

    def _compile(self, spec: CircuitSpec, batch: int, gradient: bool) -> "_Compiled":
        if self.batching == "choi":
            kernel = choi_kernel(spec, batch, gradient=gradient, device=self.device, seed=self.seed)
        elif self._exact:
            kernel = scan_kernel(
                spec, batch, gradient=gradient, device=self.device, diff_method=self.diff_method, seed=self.seed
            )
        else:
            kernel = measured_kernel(
                spec,
                batch,
                gradient=gradient,
                device=self.device,
                diff_method=self.diff_method,
                shots=self.shots,
                seed=self.seed,
            )
        info = {
            "engine": self.name,
            "batching": self.batching,
            "device": self.device,
            "shots": self.shots,
            "diff_method": self.diff_method if gradient else None,
            "state_dtype": "complex128",
            "gradient": gradient,
            **kernel.info,
        }
        return _Compiled(Program(_forward(spec, batch, kernel), spec, batch, info), kernel.nbytes)


@dataclasses.dataclass(frozen=True)
class _Compiled:
    program: Program
    nbytes: int


def _forward(spec: CircuitSpec, batch: int, kernel: Kernel) -> Callable[[Weights, jax.Array], jax.Array]:
    """Return (weights, angles) -> s: `kernel` behind host callbacks, with the derivative that it brings."""
    dtype, names, shapes = spec.dtype, kernel.weights, spec.weight_shapes()

    def host_values(*operands: np.ndarray) -> np.ndarray:
        *weights, angles = map(np.asarray, operands)
        return joined(dtype, kernel.values(dict(zip(names, weights, strict=True)), angles))

    def host_pull_back(*operands: np.ndarray) -> np.ndarray:
        *weights, angles, cotangent = map(np.asarray, operands)
        d_weights, d_angles = kernel.pull_back(dict(zip(names, weights, strict=True)), angles, cotangent)
        return joined(dtype, *(d_weights[name] for name in names), d_angles)

    @jax.custom_vjp
    def terms(*operands: jax.Array) -> jax.Array:
        return host_call(host_values, dtype, [(batch, kernel.n_terms)], *operands)[0]

    def terms_forward(*operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return terms(*operands), operands

    @jax.jit
    def pulled_back(*operands: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(host_call(host_pull_back, dtype, [operand.shape for operand in operands[:-1]], *operands))

    def terms_backward(operands: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        return pulled_back(*operands, cotangent)

    terms.defvjp(terms_forward, terms_backward)

    @jax.jit
    def checked(weights: Weights, angles: jax.Array) -> jax.Array:
        weights = {name: weight.astype(dtype) for name, weight in weights.items()}
        return kernel.finish(weights, terms(*(weights[name] for name in names), angles.astype(dtype)))

    def forward(weights: Weights, angles: jax.Array) -> jax.Array:
        check_shape("angles", angles, (batch, spec.n_qubits))
        for name, shape in shapes.items():
            check_shape(f"weights[{name!r}]", weights[name], shape)
        return checked({name: weights[name] for name in shapes}, angles)

    return forward
