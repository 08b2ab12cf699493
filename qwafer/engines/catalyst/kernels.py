"""What every batching of the catalyst engine gives it: a `Kernel`, host functions around compiled programs."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines.base import Weights
from qwafer.engines.catalyst import scan
from qwafer.engines.catalyst.plan import GatePlan, gate_plan
from qwafer.engines.catalyst.runtime import HostProgram

Arrays = Mapping[str, np.ndarray]
PullBack = Callable[[Arrays, np.ndarray, np.ndarray], tuple[Arrays, np.ndarray]]

Z_READOUTS = ("mean_z", "z_vec", "z")
"""Readouts for which Pauli Z is all that is measured."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Host functions on NumPy arrays that compute terms (batch, n_terms), and what JAX makes of them.

    A term is the expectation value of a Pauli operator on one wire, or what a batching chooses instead.
    """

    weights: tuple[str, ...]
    """The weights, by name, on which the terms depend."""
    n_terms: int
    values: Callable[[Arrays, np.ndarray], np.ndarray]
    """(weights, angles (batch, n_qubits)) -> terms (batch, n_terms)."""
    pull_back: PullBack | None
    """(weights, angles, cotangent of the terms) -> gradients of weights and angles; None without gradient work."""
    finish: Callable[[Weights, jax.Array], jax.Array]
    """(all weights, terms) -> s (batch, n_outputs), traced by JAX."""
    nbytes: int
    info: dict[str, Any]
    joint: "Joint | None" = None
    """Where the terms and their gradient come from one execution: how, in place of `pull_back`."""


@dataclasses.dataclass(frozen=True)
class Joint:
    """A single term an example together with its derivative, which any cotangent only scales."""

    evaluate: Callable[[Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """(weights, angles) -> term (batch, 1), its derivative by the gate angles theta (batch, n_slots)."""
    plan: GatePlan


def contract(spec: CircuitSpec, weights: Weights, terms: jax.Array) -> jax.Array:
    """Return s (batch, n_outputs) from the Bloch vectors, or their Z components for readouts of Z alone."""
    if spec.readout in ("z", "bloch"):
        return terms
    matrix = readout_matrix(spec, weights).astype(terms.dtype)  # (n_outputs, n_qubits, 3)
    matrix = matrix[..., 2] if spec.readout in Z_READOUTS else matrix.reshape(matrix.shape[0], -1)
    return terms @ matrix.T


def scan_kernel(spec: CircuitSpec, batch: int, *, gradient: bool, device: str, diff_method: str, seed: int) -> Kernel:
    """Return the kernel of an exact simulator: states contracted on the host, one gradient execution an example.

    Every readout is a contraction of the Bloch vectors of the body, and the pull-back of any number of outputs is the
    gradient of one observable, whose coefficients are the cotangent.
    """
    if spec.readout == "mean_z":
        return _mean_z_kernel(spec, batch, gradient=gradient, device=device, diff_method=diff_method, seed=seed)
    z_only = spec.readout in Z_READOUTS
    plan = gate_plan(spec, z_only=z_only)
    chunk = scan.chunk_size(spec.n_qubits, batch)
    states = scan.states_program(spec, plan, chunk, device=device, seed=seed)
    programs = [states]
    if gradient:
        programs.append(
            scan.gradient_program(
                spec, plan, batch, paulis=_paulis(z_only), device=device, diff_method=diff_method, shots=None, seed=seed
            )
        )

    def values(weights: Arrays, angles: np.ndarray) -> np.ndarray:
        theta = plan.theta(weights, angles)
        return np.concatenate(
            [scan.bloch_vectors(part, z_only=z_only) for part in scan.in_chunks(states, chunk, theta)]
        )

    def pull_back(weights: Arrays, angles: np.ndarray, cotangent: np.ndarray) -> tuple[Arrays, np.ndarray]:
        (d_theta,) = programs[1](plan.theta(weights, angles), cotangent)
        return plan.pull_back(spec.weight_shapes(), d_theta)

    return Kernel(
        weights=("ansatz",),
        n_terms=spec.n_qubits * len(_paulis(z_only)),
        values=values,
        pull_back=pull_back if gradient else None,
        finish=functools.partial(contract, spec),
        nbytes=sum(program.nbytes for program in programs),
        info={
            "value": "statevector, contracted outside",
            "gates": len(plan.gates),
            "reasons": [
                "the state costs one execution an example, an expectation value each costs its own measurement",
                "the gradient of one observable with the cotangent as coefficients is the pull-back of all outputs",
            ],
        },
    )


def _mean_z_kernel(
    spec: CircuitSpec, batch: int, *, gradient: bool, device: str, diff_method: str, seed: int
) -> Kernel:
    """Return the kernel of `mean_z`: one fixed observable, so that value and gradient are one execution an example."""
    plan = gate_plan(spec, z_only=True)
    chunk = scan.chunk_size(spec.n_qubits, batch)
    states = scan.states_program(spec, plan, chunk, device=device, seed=seed)
    joint, nbytes = None, states.nbytes
    if gradient:
        options: dict[str, Any] = {"device": device, "diff_method": diff_method, "shots": None, "seed": seed}
        program = scan.gradient_program(spec, plan, batch, paulis="Z", value=True, **options)
        coefficients = np.full((batch, spec.n_qubits), 1 / spec.n_qubits)
        nbytes += program.nbytes

        def evaluate(weights: Arrays, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, d_theta = program(plan.theta(weights, angles), coefficients)
            return value[:, None], d_theta

        joint = Joint(evaluate, plan)

    def values(weights: Arrays, angles: np.ndarray) -> np.ndarray:
        parts = scan.in_chunks(states, chunk, plan.theta(weights, angles))
        return np.concatenate([scan.bloch_vectors(part, z_only=True).mean(axis=1, keepdims=True) for part in parts])

    return Kernel(
        weights=("ansatz",),
        n_terms=1,
        values=values,
        pull_back=None,
        finish=lambda weights, terms: terms,
        nbytes=nbytes,
        info={
            "value": "statevector, contracted outside; with its gradient where one is asked for",
            "gates": len(plan.gates),
            "reasons": ["one fixed observable: a gradient brings its value along, and a cotangent only scales it"],
        },
        joint=joint,
    )


def measured_kernel(
    spec: CircuitSpec, batch: int, *, gradient: bool, device: str, diff_method: str, shots: int | None, seed: int
) -> Kernel:
    """Return the kernel of a device that measures: expectation values as such, the gates of the readout applied.

    `mean_z_readout` runs one circuit an output. With finite shots the noise is a function of the engine's seed and of
    the
    arguments of the call: equal calls give equal results, different ones independent noise.
    """
    paulis = "XYZ" if spec.readout == "bloch" else "Z"
    outputs: list[int | None] = list(range(spec.n_outputs)) if spec.readout == "mean_z_readout" else [None]
    plans = [gate_plan(spec, z_only=paulis == "Z", output=output) for output in outputs]
    n_terms = spec.n_qubits * len(paulis)
    forward = [
        scan.expectation_program(spec, plan, batch, paulis=paulis, device=device, shots=shots, seed=seed)
        for plan in plans
    ]
    backward = [
        scan.gradient_program(
            spec, plan, batch, paulis=paulis, device=device, diff_method=diff_method, shots=shots, seed=seed
        )
        for plan in (plans if gradient else [])
    ]

    def run(program: HostProgram, name: str, *arrays: np.ndarray) -> np.ndarray:
        noise = zlib.crc32(f"{seed}:{name}".encode())
        for array in arrays:
            noise = zlib.crc32(np.ascontiguousarray(array, np.float64).tobytes(), noise)
        return program(*arrays, seed=noise)[0]

    def values(weights: Arrays, angles: np.ndarray) -> np.ndarray:
        parts = [
            run(program, f"value {k}", plan.theta(weights, angles))
            for k, (program, plan) in enumerate(zip(forward, plans, strict=True))
        ]
        return np.concatenate(parts, axis=1)  # (batch, circuits x n_terms)

    def pull_back(weights: Arrays, angles: np.ndarray, cotangent: np.ndarray) -> tuple[Arrays, np.ndarray]:
        d_weights = {name: np.zeros(weights[name].shape) for name in weights}
        d_angles = np.zeros(angles.shape)
        for k, (program, plan) in enumerate(zip(backward, plans, strict=True)):
            part = cotangent[:, k * n_terms : (k + 1) * n_terms]
            d_theta = run(program, f"gradient {k}", plan.theta(weights, angles), part)
            d_weights_k, d_angles_k = plan.pull_back(spec.weight_shapes(), d_theta)
            d_angles += d_angles_k
            for name, value in d_weights_k.items():
                d_weights[name] += value
        return d_weights, d_angles

    def finish(weights: Weights, terms: jax.Array) -> jax.Array:
        if spec.readout == "mean_z_readout":
            return terms.reshape(batch, spec.n_outputs, n_terms).mean(axis=-1)
        return contract(spec, weights, terms)

    return Kernel(
        weights=_weights_of(plans),
        n_terms=n_terms * len(plans),
        values=values,
        pull_back=pull_back if gradient else None,
        finish=finish,
        nbytes=sum(program.nbytes for program in [*forward, *backward]),
        info={
            "value": "expectation values, measured",
            "gates": sum(len(plan.gates) for plan in plans),
            "reasons": [
                f"{shots} shots an expectation value were asked for" if shots else f"{device} is no known simulator",
                "the readout's gates are applied, one circuit an output",
            ],
        },
    )


def _paulis(z_only: bool) -> str:
    return "Z" if z_only else "XYZ"


def _weights_of(plans: list[GatePlan]) -> tuple[str, ...]:
    return tuple(plans[0].from_weights)
