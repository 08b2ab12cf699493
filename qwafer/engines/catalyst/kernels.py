"""What every batching of the catalyst engine gives it: a `Kernel`, host functions around compiled programs."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer.circuits import Circuit
from qwafer.circuits.readouts import READOUTS, readout_matrix
from qwafer.circuits.statevector import measured_values
from qwafer.engines.base import Weights
from qwafer.engines.catalyst import scan
from qwafer.engines.catalyst.plan import GatePlan, gate_plan
from qwafer.engines.catalyst.runtime import HostProgram

Arrays = Mapping[str, np.ndarray]
Vjp = Callable[[Arrays, np.ndarray, np.ndarray], tuple[Arrays, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Host functions on NumPy arrays that compute terms (batch, n_terms), and what JAX makes of them.

    A term is the expectation value of a Pauli operator on one wire, or what a batching chooses instead.
    """

    weights: tuple[str, ...]
    """The weights, by name, on which the terms depend."""
    n_terms: int
    values: Callable[[Arrays, np.ndarray], np.ndarray]
    """(weights, inputs (batch, n_inputs)) -> terms (batch, n_terms)."""
    vjp: Vjp | None
    """(weights, inputs, cotangent of the terms) -> gradients of weights and inputs; None without gradient work."""
    finish: Callable[[Weights, jax.Array], jax.Array]
    """(all weights, terms) -> s (batch, n_outputs), traced by JAX."""
    nbytes: int
    info: dict[str, Any]
    value_and_grad: "ValueAndGrad | None" = None
    """Where the terms and their gradient come from one execution: how, in place of `vjp`."""


@dataclasses.dataclass(frozen=True)
class ValueAndGrad:
    """A single term per example together with its derivative, which any cotangent only scales."""

    evaluate: Callable[[Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """(weights, inputs) -> term (batch, 1), its derivative by the gate angles theta (batch, n_slots)."""
    plan: GatePlan


def contract(circuit: Circuit, weights: Weights, terms: jax.Array) -> jax.Array:
    """Return s (batch, n_outputs) from the Bloch vectors, or their Z components for readouts of Z alone."""
    if circuit.readout_facts.is_each:
        return terms
    matrix = readout_matrix(circuit, weights, jnp).astype(terms.dtype)  # (n_outputs, n_qubits, 3)
    matrix = matrix[..., 2] if circuit.readout_facts.z_only else matrix.reshape(matrix.shape[0], -1)
    return terms @ matrix.T


def scan_kernel(circuit: Circuit, batch: int, *, gradient: bool, device: str, diff_method: str, seed: int) -> Kernel:
    """Return the kernel of an exact simulator: states contracted on the host, one gradient execution per example.

    Every readout is a contraction of the Bloch vectors of the body, and the vjp of any number of outputs is the
    gradient of one observable, whose coefficients are the cotangent.
    """
    if circuit.readout_facts.is_mean:
        return _mean_z_kernel(circuit, batch, gradient=gradient, device=device, diff_method=diff_method, seed=seed)
    readout = circuit.readout_facts
    z_only = readout.z_only
    bloch = READOUTS["z" if z_only else "bloch"]
    words = (bloch if readout.per_wire else readout).measured_words(circuit.n_qubits)
    plan = gate_plan(circuit, z_only=z_only)
    chunk = scan.chunk_size(circuit.n_qubits, batch)
    states = scan.states_program(circuit, plan, chunk, device=device, seed=seed)
    programs = [states]
    if gradient:
        programs.append(
            scan.gradient_program(
                circuit,
                plan,
                batch,
                words=words,
                device=device,
                diff_method=diff_method,
                shots=None,
                seed=seed,
            )
        )

    def values(weights: Arrays, inputs: np.ndarray) -> np.ndarray:
        theta = plan.theta(weights, inputs)
        parts = scan.in_chunks(states, chunk, theta)
        if not readout.per_wire:
            return np.concatenate([measured_values(part, circuit.n_qubits, readout) for part in parts])
        return np.concatenate([scan.bloch_vectors(part, z_only=z_only) for part in parts])

    def vjp(weights: Arrays, inputs: np.ndarray, cotangent: np.ndarray) -> tuple[Arrays, np.ndarray]:
        (d_theta,) = programs[1](plan.theta(weights, inputs), cotangent)
        return plan.vjp(circuit.weight_shapes(), d_theta)

    return Kernel(
        weights=tuple(plan.from_weights),
        n_terms=len(words),
        values=values,
        vjp=vjp if gradient else None,
        finish=functools.partial(contract, circuit),
        nbytes=sum(program.nbytes for program in programs),
        info={
            "value": "statevector, contracted outside",
            "gates": len(plan.steps),
            "reasons": [
                "the state costs one execution per example, expectation values cost one measurement each",
                "the gradient of one observable with the cotangent as coefficients is the vjp of all outputs",
            ],
        },
    )


def _mean_z_kernel(circuit: Circuit, batch: int, *, gradient: bool, device: str, diff_method: str, seed: int) -> Kernel:
    """Return the kernel of `mean_z`: one fixed observable, so that value and gradient are one execution per example."""
    plan = gate_plan(circuit, z_only=True)
    chunk = scan.chunk_size(circuit.n_qubits, batch)
    states = scan.states_program(circuit, plan, chunk, device=device, seed=seed)
    value_and_grad, nbytes = None, states.nbytes
    if gradient:
        options: dict[str, Any] = {"device": device, "diff_method": diff_method, "shots": None, "seed": seed}
        program = scan.gradient_program(
            circuit, plan, batch, words=READOUTS["z"].measured_words(circuit.n_qubits), value=True, **options
        )
        coefficients = np.full((batch, circuit.n_qubits), 1 / circuit.n_qubits)
        nbytes += program.nbytes

        def evaluate(weights: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, d_theta = program(plan.theta(weights, inputs), coefficients)
            return value[:, None], d_theta

        value_and_grad = ValueAndGrad(evaluate, plan)

    def values(weights: Arrays, inputs: np.ndarray) -> np.ndarray:
        parts = scan.in_chunks(states, chunk, plan.theta(weights, inputs))
        return np.concatenate([scan.bloch_vectors(part, z_only=True).mean(axis=1, keepdims=True) for part in parts])

    return Kernel(
        weights=tuple(plan.from_weights),
        n_terms=1,
        values=values,
        vjp=None,
        finish=lambda weights, terms: terms,
        nbytes=nbytes,
        info={
            "value": "statevector, contracted outside; with its gradient where one is asked for",
            "gates": len(plan.steps),
            "reasons": ["one fixed observable: a gradient brings its value along, and a cotangent only scales it"],
        },
        value_and_grad=value_and_grad,
    )


def measured_kernel(
    circuit: Circuit, batch: int, *, gradient: bool, device: str, diff_method: str, shots: int | None, seed: int
) -> Kernel:
    """Return the kernel of a device that measures: expectation values as such, the gates of the readout applied.

    Readout gates make one circuit per output. With finite shots the noise is a function of the program's seed and of
    the arguments of the call: equal calls give equal results, different ones independent noise.
    """
    readout = circuit.readout_facts
    words = readout.measured_words(circuit.n_qubits)
    outputs: list[int | None] = list(range(circuit.n_outputs)) if readout.gates else [None]
    plans = [gate_plan(circuit, z_only=set("".join(words)) <= {"I", "Z"}, output=output) for output in outputs]
    n_terms = len(words)
    forward = [
        scan.expectation_program(circuit, plan, batch, words=words, device=device, shots=shots, seed=seed)
        for plan in plans
    ]
    backward = [
        scan.gradient_program(
            circuit, plan, batch, words=words, device=device, diff_method=diff_method, shots=shots, seed=seed
        )
        for plan in (plans if gradient else [])
    ]

    def run(program: HostProgram, name: str, *arrays: np.ndarray) -> np.ndarray:
        noise = zlib.crc32(f"{seed}:{name}".encode())
        for array in arrays:
            noise = zlib.crc32(np.ascontiguousarray(array, np.float64).tobytes(), noise)
        return program(*arrays, seed=noise)[0]

    def values(weights: Arrays, inputs: np.ndarray) -> np.ndarray:
        parts = [
            run(program, f"value {k}", plan.theta(weights, inputs))
            for k, (program, plan) in enumerate(zip(forward, plans, strict=True))
        ]
        return np.concatenate(parts, axis=1)  # (batch, circuits x n_terms)

    def vjp(weights: Arrays, inputs: np.ndarray, cotangent: np.ndarray) -> tuple[Arrays, np.ndarray]:
        d_weights = {name: np.zeros(weights[name].shape) for name in weights}
        d_inputs = np.zeros(inputs.shape)
        for k, (program, plan) in enumerate(zip(backward, plans, strict=True)):
            part = cotangent[:, k * n_terms : (k + 1) * n_terms]
            d_theta = run(program, f"gradient {k}", plan.theta(weights, inputs), part)
            d_weights_k, d_inputs_k = plan.vjp(circuit.weight_shapes(), d_theta)
            d_inputs += d_inputs_k
            for name, value in d_weights_k.items():
                d_weights[name] += value
        return d_weights, d_inputs

    def finish(weights: Weights, terms: jax.Array) -> jax.Array:
        if readout.gates:
            return terms.reshape(batch, circuit.n_outputs, n_terms).mean(axis=-1)
        return contract(circuit, weights, terms)

    return Kernel(
        weights=tuple(plans[0].from_weights),
        n_terms=n_terms * len(plans),
        values=values,
        vjp=vjp if gradient else None,
        finish=finish,
        nbytes=sum(program.nbytes for program in [*forward, *backward]),
        info={
            "value": "expectation values, measured",
            "gates": sum(len(plan.steps) for plan in plans),
            "reasons": [
                f"{shots} shots per expectation value were asked for"
                if shots
                else f"{device} is not a known simulator",
                "the readout's gates are applied, one circuit per output",
            ],
        },
    )
