"""Compiled programs as JAX functions: a kernel's host functions behind callbacks, with their derivative rules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._checks import check_shape
from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec
from qwafer.engines.base import Weights
from qwafer.engines.cache import ProgramKey
from qwafer.engines.catalyst.choi import choi_kernel
from qwafer.engines.catalyst.host_call import host_call, joined
from qwafer.engines.catalyst.kernels import Joint, Kernel, PullBack, measured_kernel, scan_kernel

JIT_BYTES = 3 << 19
"""What XLA keeps for the jitted calls around a program: measured as growth of the process over 100 programs."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program in the cache."""

    forward: Callable[[Weights, jax.Array], jax.Array]
    """(weights, angles) -> s."""
    info: dict[str, Any]
    """What it says of itself in `Program.info`."""
    nbytes: int
    """Estimate of the memory it keeps."""


def compile_program(key: ProgramKey, *, exact: bool) -> Compiled:
    """Return the compiled program of `key`; `exact`: values come from the state of a simulator."""
    options: dict[str, Any] = {"gradient": key.gradient, "device": key.device, "seed": key.seed}
    if key.batching == "choi":
        kernel = choi_kernel(key.spec, key.batch, **options)
    elif exact:
        kernel = scan_kernel(key.spec, key.batch, diff_method=key.diff_method, **options)
    else:
        kernel = measured_kernel(key.spec, key.batch, diff_method=key.diff_method, shots=key.shots, **options)
    info = {
        "batching": key.batching,
        "device": key.device,
        "shots": key.shots,
        "diff_method": key.diff_method if key.gradient else None,
        "state_dtype": "complex128",
        "gradient": key.gradient,
        **kernel.info,
    }
    return Compiled(_forward(key.spec, key.batch, kernel), info, kernel.nbytes + JIT_BYTES)


def _forward(spec: CircuitSpec, batch: int, kernel: Kernel) -> Callable[[Weights, jax.Array], jax.Array]:
    """Return (weights, angles) -> s: `kernel` behind host callbacks, with the derivative that it brings."""
    dtype, names, shapes = spec.dtype, kernel.weights, spec.weight_shapes()

    def host_values(*operands: np.ndarray) -> np.ndarray:
        weights, angles = unpacked(operands)
        return joined(dtype, kernel.values(weights, angles))

    def unpacked(operands: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        *weights, angles = map(np.asarray, operands)
        return dict(zip(names, weights, strict=True)), angles

    @jax.custom_vjp
    def terms(*operands: jax.Array) -> jax.Array:
        return host_call(host_values, dtype, [(batch, kernel.n_terms)], *operands)[0]

    if kernel.joint is not None:
        terms.defvjp(*_joint_rules(kernel.joint, unpacked, dtype, batch, names, shapes))
    elif kernel.pull_back is not None:
        terms.defvjp(*_rules(terms, kernel.pull_back, unpacked, dtype, names))
    else:
        terms.defvjp(lambda *operands: (terms(*operands), None), _no_gradient)

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


_Rules = tuple[Callable[..., Any], Callable[..., Any]]
_Unpack = Callable[[Sequence[np.ndarray]], tuple[dict[str, np.ndarray], np.ndarray]]


def _rules(
    terms: Callable[..., jax.Array], pull_back: PullBack, unpacked: _Unpack, dtype: str, names: tuple[str, ...]
) -> _Rules:
    """Return the rules of `jax.custom_vjp` for values and a pull-back that are separate calls of the host."""

    def host_pull_back(*operands: np.ndarray) -> np.ndarray:
        weights, angles = unpacked(operands[:-1])
        d_weights, d_angles = pull_back(weights, angles, np.asarray(operands[-1]))
        return joined(dtype, *(d_weights[name] for name in names), d_angles)

    @jax.jit
    def pulled_back(*operands: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(host_call(host_pull_back, dtype, [operand.shape for operand in operands[:-1]], *operands))

    def forward(*operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return terms(*operands), operands

    def backward(operands: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        return pulled_back(*operands, cotangent)

    return forward, backward


def _joint_rules(
    joint: Joint,
    unpacked: _Unpack,
    dtype: str,
    batch: int,
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
) -> _Rules:
    """Return the rules for a term whose derivative comes with its value; the pull-back is then a product in JAX."""
    plan = joint.plan

    def host_joint(*operands: np.ndarray) -> np.ndarray:
        return joined(dtype, *joint.evaluate(*unpacked(operands)))

    @jax.jit
    def forward(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, d_theta = host_call(host_joint, dtype, [(batch, 1), (batch, plan.n_slots)], *operands)
        return value, d_theta

    def backward(d_theta: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        scaled = d_theta * cotangent  # (batch, n_slots)
        total = scaled.sum(axis=0)
        d_weights = [(total @ jnp.asarray(plan.from_weights[name], dtype)).reshape(shapes[name]) for name in names]
        return *d_weights, scaled @ jnp.asarray(plan.from_angles, dtype)

    return forward, backward


def _no_gradient(*_: Any) -> Any:
    raise InputError("this program was made with gradient=False: ask the engine for one with gradient=True")
