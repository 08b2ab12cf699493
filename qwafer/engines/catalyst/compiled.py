"""Compiled programs as JAX functions: a kernel's host functions behind callbacks, with their derivative rules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._errors import InputError
from qwafer.circuits import Circuit, CircuitSpec
from qwafer.engines.base import Weights
from qwafer.engines.cache import JIT_BYTES, ProgramKey
from qwafer.engines.catalyst.choi import choi_kernel
from qwafer.engines.catalyst.host_call import host_call, joined
from qwafer.engines.catalyst.kernels import Kernel, ValueAndGrad, Vjp, measured_kernel, scan_kernel
from qwafer.engines.forward_mode import reverse_only


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program in the cache."""

    forward: Callable[[Weights, jax.Array], jax.Array]
    """(weights, inputs) -> s."""
    info: dict[str, Any]
    """What it says of itself in `Program.info`."""
    nbytes: int
    """Estimate of the memory it keeps."""


def compile_program(key: ProgramKey, *, exact: bool) -> Compiled:
    """Return the compiled program of `key`; `exact`: values come from the state of a simulator."""
    options: dict[str, Any] = {"gradient": key.gradient, "device": key.device, "seed": key.seed}
    if key.batching == "choi":
        assert isinstance(key.circuit, CircuitSpec)
        kernel = choi_kernel(key.circuit, key.batch, **options)
    elif exact:
        kernel = scan_kernel(key.circuit, key.batch, diff_method=key.diff_method, **options)
    else:
        kernel = measured_kernel(key.circuit, key.batch, diff_method=key.diff_method, shots=key.shots, **options)
    info = {
        "batching": key.batching,
        "device": key.device,
        "shots": key.shots,
        "diff_method": key.diff_method if key.gradient else None,
        "state_dtype": "complex128",
        "gradient": key.gradient,
        **kernel.info,
    }
    return Compiled(_forward(key.circuit, key.batch, kernel), info, kernel.nbytes + JIT_BYTES)


def _forward(circuit: Circuit, batch: int, kernel: Kernel) -> Callable[[Weights, jax.Array], jax.Array]:
    """Return (weights, inputs) -> s: `kernel` behind host callbacks, with the derivative that it brings."""
    dtype, names, shapes = circuit.dtype, kernel.weights, circuit.weight_shapes()

    def host_values(*operands: np.ndarray) -> np.ndarray:
        weights, inputs = unpacked(operands)
        return joined(dtype, kernel.values(weights, inputs))

    def unpacked(operands: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        *weights, inputs = map(np.asarray, operands)
        return dict(zip(names, weights, strict=True)), inputs

    @jax.custom_vjp
    def terms(*operands: jax.Array) -> jax.Array:
        return host_call(host_values, dtype, [(batch, kernel.n_terms)], *operands)[0]

    if kernel.value_and_grad is not None:
        terms.defvjp(*_value_and_grad_rules(kernel.value_and_grad, unpacked, dtype, batch, names, shapes))
    elif kernel.vjp is not None:
        terms.defvjp(*_rules(terms, kernel.vjp, unpacked, dtype, names))
    else:
        terms.defvjp(lambda *operands: (terms(*operands), None), _no_gradient)

    @jax.jit
    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        weights = {name: weight.astype(dtype) for name, weight in weights.items()}
        weights, inputs = reverse_only((weights, inputs.astype(dtype)))
        return kernel.finish(weights, terms(*(weights[name] for name in names), inputs))

    return forward


_Rules = tuple[Callable[..., Any], Callable[..., Any]]
_Unpack = Callable[[Sequence[np.ndarray]], tuple[dict[str, np.ndarray], np.ndarray]]


def _rules(terms: Callable[..., jax.Array], vjp: Vjp, unpacked: _Unpack, dtype: str, names: tuple[str, ...]) -> _Rules:
    """Return the rules of `jax.custom_vjp` for values and a vjp that are separate calls of the host."""

    def host_vjp(*operands: np.ndarray) -> np.ndarray:
        weights, inputs = unpacked(operands[:-1])
        d_weights, d_inputs = vjp(weights, inputs, np.asarray(operands[-1]))
        return joined(dtype, *(d_weights[name] for name in names), d_inputs)

    @jax.jit
    def pulled_back(*operands: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(host_call(host_vjp, dtype, [operand.shape for operand in operands[:-1]], *operands))

    def forward(*operands: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return terms(*operands), operands

    def backward(operands: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        return pulled_back(*operands, cotangent)

    return forward, backward


def _value_and_grad_rules(
    value_and_grad: ValueAndGrad,
    unpacked: _Unpack,
    dtype: str,
    batch: int,
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
) -> _Rules:
    """Return the rules for a term whose derivative comes with its value; the vjp is then a product in JAX."""
    plan = value_and_grad.plan

    def host_value_and_grad(*operands: np.ndarray) -> np.ndarray:
        return joined(dtype, *value_and_grad.evaluate(*unpacked(operands)))

    @jax.jit
    def forward(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, d_theta = host_call(host_value_and_grad, dtype, [(batch, 1), (batch, plan.n_slots)], *operands)
        return value, d_theta

    def backward(d_theta: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        scaled = d_theta * cotangent  # (batch, n_slots)
        total = scaled.sum(axis=0)
        d_weights = [(total @ jnp.asarray(plan.from_weights[name], dtype)).reshape(shapes[name]) for name in names]
        return *d_weights, scaled @ jnp.asarray(plan.from_inputs, dtype)

    return forward, backward


def _no_gradient(*_: Any) -> Any:
    raise InputError("this program was made with gradient=False: ask the engine for one with gradient=True")
