"""The `catalyst` engine: circuits compiled by PennyLane Catalyst, differentiated by its adjoint sweeps."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._checks import check_choice, check_positive_int, check_shape
from qwafer._errors import CapabilityError
from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Program, Weights
from qwafer.engines._catalyst_kernels import Kernel, measured_kernel, scan_kernel
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
        check_choice("batching", batching, ("scan",))
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
        if self._exact:
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
        return _joined(dtype, kernel.values(dict(zip(names, weights, strict=True)), angles))

    def host_pull_back(*operands: np.ndarray) -> np.ndarray:
        *weights, angles, cotangent = map(np.asarray, operands)
        d_weights, d_angles = kernel.pull_back(dict(zip(names, weights, strict=True)), angles, cotangent)
        return _joined(dtype, *(d_weights[name] for name in names), d_angles)

    @jax.custom_vjp
    def terms(*operands: jax.Array) -> jax.Array:
        return _call(host_values, dtype, [(batch, kernel.n_terms)], *operands)[0]

    def terms_forward(*operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return terms(*operands), operands

    def terms_backward(operands: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_call(host_pull_back, dtype, [operand.shape for operand in operands], *operands, cotangent))

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


def _call(
    host: Callable[..., np.ndarray], dtype: str, shapes: Sequence[tuple[int, ...]], *operands: jax.Array
) -> list[jax.Array]:
    """Return the arrays of `shapes` that `host` computes from `operands` and joins to one vector.

    The vector has one entry more than is read: XLA (jaxlib 0.7.1, CPU) aborts while it compiles a module whose root
    is a
    host callback and which holds a product of small matrices, and the slices keep the callback from being the root.
    """
    sizes = [math.prod(shape) for shape in shapes]
    result = jax.ShapeDtypeStruct((sum(sizes) + 1,), jnp.dtype(dtype))
    joined = jax.pure_callback(host, result, *operands, vmap_method="sequential")
    ends = np.cumsum(sizes).tolist()
    return [
        jax.lax.slice_in_dim(joined, end - size, end).reshape(shape)
        for size, end, shape in zip(sizes, ends, shapes, strict=True)
    ]


def _joined(dtype: str, *arrays: np.ndarray) -> np.ndarray:
    return np.concatenate([*(array.reshape(-1) for array in arrays), np.zeros(1)]).astype(dtype)
