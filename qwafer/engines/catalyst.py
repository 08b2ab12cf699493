"""The `catalyst` engine: circuits compiled by PennyLane Catalyst, differentiated by its adjoint sweeps."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._checks import check_choice, check_positive_int, check_shape
from qwafer.circuits import CircuitSpec
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines import _catalyst_scan as scan
from qwafer.engines._base import Program, Weights
from qwafer.engines._catalyst_plan import gate_plan

Z_READOUTS = ("mean_z", "z_vec", "z")


class Kernel(NamedTuple):
    """What a batching gives the engine: host functions on NumPy arrays.

    Terms are (<Z_0>, <Z_1>, ...) for readouts of Z alone and (<X_0>, <Y_0>, <Z_0>, <X_1>, ...) for the others.
    """

    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(ansatz weights, angles (batch, n_qubits)) -> terms (batch, n_terms)."""
    pull_back: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """(ansatz weights, angles, cotangent of the terms (batch, n_terms)) -> gradients of weights and angles."""
    info: dict[str, Any]


class CatalystEngine:
    """Circuits compiled by PennyLane Catalyst."""

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
        if shots is not None:
            check_positive_int("shots", shots)
        self.batching = batching
        self.device = device
        self.shots = shots
        self.diff_method = diff_method
        self.seed = seed

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True) -> Program:
        """Return the program of `spec` for `batch` examples; see `Engine.program`."""
        check_positive_int("batch", batch)
        kernel = self._scan(spec, batch, gradient=gradient)
        info = {
            "engine": self.name,
            "device": self.device,
            "batching": self.batching,
            "state_dtype": "complex128",
            "gradient": gradient,
            **kernel.info,
        }
        return Program(_forward(spec, batch, kernel), spec, batch, info)

    def _scan(self, spec: CircuitSpec, batch: int, *, gradient: bool) -> Kernel:
        z_only = spec.readout in Z_READOUTS
        plan = gate_plan(spec, z_only=z_only)
        chunk = scan.chunk_size(spec.n_qubits, batch)
        states = scan.states_program(spec, plan, chunk, device=self.device, seed=self.seed)
        sweep = None
        if gradient:
            sweep = scan.gradient_program(
                spec, plan, batch, z_only=z_only, device=self.device, diff_method="adjoint", seed=self.seed
            )
        shapes = {"ansatz": spec.weight_shapes()["ansatz"]}

        def values(ansatz: np.ndarray, angles: np.ndarray) -> np.ndarray:
            theta = plan.theta({"ansatz": ansatz}, angles)
            parts = [scan.bloch_vectors(part, z_only=z_only) for part in scan.in_chunks(states, chunk, (theta,))]
            return np.concatenate(parts)

        def pull_back(ansatz: np.ndarray, angles: np.ndarray, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert sweep is not None
            (d_theta,) = sweep(plan.theta({"ansatz": ansatz}, angles), cotangent)
            d_weights, d_angles = plan.pull_back(shapes, d_theta)
            return d_weights["ansatz"], d_angles

        return Kernel(values, pull_back, {"value": "state", "gradients": "adjoint"})


def _forward(spec: CircuitSpec, batch: int, kernel: Kernel) -> Callable[[Weights, jax.Array], jax.Array]:
    """Return (weights, angles) -> s with `kernel` behind host callbacks and the readout contracted by JAX."""
    dtype = spec.dtype
    z_only = spec.readout in Z_READOUTS
    n_terms = spec.n_qubits * (1 if z_only else 3)
    shapes = spec.weight_shapes()

    def host_values(ansatz: np.ndarray, angles: np.ndarray) -> np.ndarray:
        return _joined(dtype, kernel.values(np.asarray(ansatz), np.asarray(angles)))

    def host_pull_back(ansatz: np.ndarray, angles: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        return _joined(dtype, *kernel.pull_back(np.asarray(ansatz), np.asarray(angles), np.asarray(cotangent)))

    @jax.custom_vjp
    def terms(ansatz: jax.Array, angles: jax.Array) -> jax.Array:
        return _call(host_values, dtype, [(batch, n_terms)], ansatz, angles)[0]

    def terms_forward(ansatz: jax.Array, angles: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return terms(ansatz, angles), (ansatz, angles)

    def terms_backward(residual: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        d_ansatz, d_angles = _call(host_pull_back, dtype, [array.shape for array in residual], *residual, cotangent)
        return d_ansatz, d_angles

    terms.defvjp(terms_forward, terms_backward)

    @jax.jit
    def contracted(weights: Weights, angles: jax.Array) -> jax.Array:
        values = terms(weights["ansatz"].astype(dtype), angles.astype(dtype))
        matrix = readout_matrix(spec, weights).astype(dtype)  # (n_outputs, n_qubits, 3)
        matrix = matrix[..., 2] if z_only else matrix.reshape(matrix.shape[0], -1)
        return values @ matrix.T

    def forward(weights: Weights, angles: jax.Array) -> jax.Array:
        check_shape("angles", angles, (batch, spec.n_qubits))
        for name, shape in shapes.items():
            check_shape(f"weights[{name!r}]", weights[name], shape)
        return contracted({name: weights[name] for name in shapes}, angles)

    return forward


def _call(
    host: Callable[..., np.ndarray], dtype: str, shapes: Sequence[tuple[int, ...]], *operands: jax.Array
) -> list[jax.Array]:
    """Return the arrays of `shapes` that `host` computes from `operands` and joins to one vector.

    The vector has one entry more than is read: XLA (jaxlib 0.7.1, CPU) aborts while it compiles a module whose root
    is a host
    callback and which holds a product of small matrices, and the slices keep the callback from being the root.
    """
    sizes = [math.prod(shape) for shape in shapes]
    result = jax.ShapeDtypeStruct((sum(sizes) + 1,), jnp.dtype(dtype))
    joined = jax.pure_callback(host, result, *operands, vmap_method="sequential")
    ends = np.cumsum(sizes)
    return [
        jax.lax.slice_in_dim(joined, end - size, end).reshape(shape)
        for size, end, shape in zip(sizes, ends.tolist(), shapes, strict=True)
    ]


def _joined(dtype: str, *arrays: np.ndarray) -> np.ndarray:
    return np.concatenate([*(array.reshape(-1) for array in arrays), np.zeros(1)]).astype(dtype)
