"""Plan `schroedinger`: the states of the whole batch, (2^n, 2, batch) real, evolved layer by layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits import CircuitSpec
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines._base import Weights
from qwafer.engines._xla import gates, wiring

BLOCK = 5


def multiply_phase(state: jax.Array, phase: jax.Array) -> jax.Array:
    """Return e^(i phase) state; `state` (2^n, 2, batch) holds real and imaginary parts, `phase` (2^n, batch or 1)."""
    sign = jnp.asarray([-1, 1], state.dtype)[None, :, None]
    cos, sin = lax.optimization_barrier((jnp.cos(phase), jnp.sin(phase)))
    return cos[:, None, :] * state + (sin[:, None, :] * sign) * lax.rev(state, (1,))


def rotate(state: jax.Array, angles: jax.Array) -> jax.Array:
    """Apply RY(angles_i) to every wire i."""
    sizes = wiring.blocks(angles.shape[0], BLOCK)
    matrices = lax.optimization_barrier(gates.kron_blocks(gates.ry_matrices(angles), sizes))
    return gates.apply_blocks(matrices, state)


def hadamards(state: jax.Array) -> jax.Array:
    """Apply a Hadamard gate to every wire."""
    n = int(np.log2(state.shape[0]))
    h = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    matrices = [functools.reduce(np.kron, [h] * size) for size in wiring.blocks(n, BLOCK)]
    return gates.apply_blocks([jnp.asarray(m, state.dtype) for m in matrices], state)


def wire_states(spec: CircuitSpec, angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return real and imaginary parts (n_qubits, 2, batch) of the encoded state of each wire; `angles` (batch, n_qubits)."""
    half = angles.T / 2
    c, s = jnp.cos(half), jnp.sin(half)
    zero = jnp.zeros_like(c)
    if spec.encoding == "ry":
        return jnp.stack([c, s], 1), jnp.stack([zero, zero], 1)
    if spec.encoding == "rx":
        return jnp.stack([c, zero], 1), jnp.stack([zero, -s], 1)
    r = np.sqrt(0.5)
    return jnp.stack([c * r, c * r], 1), jnp.stack([-s * r, s * r], 1)


def product_state(re: jax.Array, im: jax.Array) -> jax.Array:
    """Return the product state (2^n, 2, batch) of wire states with parts `re`, `im` (n, 2, batch)."""

    def kron(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ar, ai, br, bi = a[0][:, None], a[1][:, None], b[0][None], b[1][None]
        shape = (-1, ar.shape[-1])
        return (ar * br - ai * bi).reshape(shape), (ar * bi + ai * br).reshape(shape)

    n = re.shape[0]
    wires = [(re[i], im[i]) for i in range(n)]
    halves = [functools.reduce(kron, part) for part in (wires[: n // 2], wires[n // 2 :]) if part]
    halves = lax.optimization_barrier(halves)
    parts = functools.reduce(kron, halves)
    return jnp.stack(parts, 1)


def forward(spec: CircuitSpec, weights: Weights, angles: jax.Array) -> jax.Array:
    """Return s (batch, n_outputs)."""
    a, b, c = gates.euler(spec, weights)
    state = product_state(*wire_states(spec, angles))
    pending = None
    for layer in range(spec.n_layers):
        if layer and spec.reupload:
            state, pending = _encode_again(spec, state, pending, angles)
        phase = gates.wire_sums(-a[layer] / 2)
        state = multiply_phase(state, (phase if pending is None else phase + pending)[:, None])
        state = rotate(state, b[layer])
        p = wiring.layer_permutation(spec, layer)
        state = gates.permute(state, p)
        pending = gates.permute(gates.wire_sums(-c[layer] / 2), p)
    return _read(spec, weights, state, pending)


def _encode_again(
    spec: CircuitSpec, state: jax.Array, pending: jax.Array, angles: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Apply the encoding as fixed real gates and per-example phases: RX(x) = H RZ(x) H, RY(x) = S RX(x) S^dagger."""
    per_example = gates.wire_sums(-angles / 2).T
    if spec.encoding == "rz":
        state = hadamards(multiply_phase(state, pending[:, None]))
        return multiply_phase(state, per_example), None
    quarter = None
    if spec.encoding == "ry":
        quarter = gates.wire_sums(jnp.full(spec.n_qubits, -np.pi / 4, state.dtype))
        pending = pending - quarter
    state = hadamards(multiply_phase(state, pending[:, None]))
    return hadamards(multiply_phase(state, per_example)), quarter


def _read(spec: CircuitSpec, weights: Weights, state: jax.Array, pending: jax.Array | None) -> jax.Array:
    matrix = readout_matrix(spec, weights)
    if spec.readout in ("mean_z", "z_vec", "z"):
        return (gates.wire_sums(matrix[:, :, 2]) @ jnp.sum(state * state, 1)).T
    if pending is not None:
        state = multiply_phase(state, pending[:, None])
    quarter = gates.wire_sums(jnp.full(spec.n_qubits, np.pi / 4, state.dtype))
    frames = (hadamards(state), hadamards(multiply_phase(state, quarter[:, None])), state)
    total = jnp.zeros((spec.n_outputs, state.shape[-1]), state.dtype)
    for axis, frame in enumerate(frames):
        total = total + gates.wire_sums(matrix[:, :, axis]) @ jnp.sum(frame * frame, 1)
    return total.T
