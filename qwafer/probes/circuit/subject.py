"""`Subject`: the circuit that the probes question, whether it comes from a `Circuit`, a function or a QNode."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._arrays import real_array
from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits import INPUTS, Circuit, CircuitSpec
from qwafer.circuits.frequencies import is_periodic, uses
from qwafer.circuits.statevector import states as circuit_states
from qwafer.engines import Engine, Program
from qwafer.engines import get as get_engine

Weights = Mapping[str, Array]

SMALL = 0.1
"""Standard deviation of the weights of the point near zero, where no run's own initial values are known (radians)."""


@dataclass(frozen=True)
class Start:
    """Where a run starts: what is wrong only there, such as near small weights, is asked there."""

    weights: Mapping[str, np.ndarray]
    """Initial value of each group of weights."""
    inputs: Float[np.ndarray, "N n_inputs"]
    """Inputs of examples that the run trains on (radians), at least one."""


@dataclass(frozen=True)
class Subject:
    """A circuit under question, as a batched function with what is known about it.

    Probes use `program` for values and gradients and the rest where it is there: `circuit` for structure and exact
    shift rules, `bloch` for the readout's identities, `states` for what needs amplitudes.
    """

    name: str
    """What to call it in a report."""
    program: Callable[[Weights, Array], Array]
    """(weights, inputs (batch, n_inputs)) -> s (batch, n_outputs), differentiable by JAX in both."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each group of weights."""
    n_inputs: int
    """Inputs of one example, in radians."""
    batch: int
    """Examples of one call."""
    dtype: str
    """Precision of values and gradients."""
    circuit: Circuit | None = None
    """Its gates and readout, where they are known."""
    bloch: Callable[[Weights, Array], Array] | None = None
    """(weights, inputs) -> (batch, 3 n_qubits): the Pauli expectation values of the body, from the same engine."""
    states: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = None
    """(weights (S, ...), inputs (S, n_inputs)) -> amplitudes (S, 2^n), for the questions that need the state."""
    shots: int | None = None
    """Finite shots behind an expectation value; none: exact."""
    center: Mapping[str, np.ndarray] | None = None
    """Weights around which points are drawn; none: uniform over a whole turn."""
    label: str = ""
    """What executes `program`, for the reports: engine and plan, batch, precision."""
    evaluation: Program | None = None
    """The program without gradients that evaluates, where it is another one."""
    starts: tuple[Start, ...] = ()
    """Where the runs that execute these programs start; none: a point of small weights stands for them."""

    @property
    def evaluation_label(self) -> str:
        """What executes `evaluation`; empty where there is none."""
        return "" if self.evaluation is None else program_label(self.evaluation)

    @property
    def spec(self) -> CircuitSpec | None:
        """The circuit, where it is one of layers: what can be asked at other sizes too."""
        return self.circuit if isinstance(self.circuit, CircuitSpec) else None

    def group_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each group, the inputs of one example last."""
        return {**self.shapes, INPUTS: (self.n_inputs,)}

    def rounding(self) -> float:
        """Return a bound on the rounding of one value of order 1: a random walk over the gates."""
        gates = len(self.circuit.operations()) if self.circuit is not None else 100
        return float(jnp.finfo(self.dtype).eps) * (4 + gates**0.5)

    def shot_noise(self) -> float:
        """Return the largest standard deviation of one value of order 1 from finite shots; 0 where values are exact."""
        return 1 / self.shots**0.5 if self.shots else 0.0

    def point(self, seed: int, index: int) -> tuple[dict[str, Array], Array]:
        """Return weights and inputs (batch, n_inputs) of the `index`-th random point.

        Inputs, and weights that are angles, are uniform over a turn: special points, such as the small initial
        weights, hide what vanishes by symmetry. Coefficients of `z_vec` are normal. Where `center` is set, points are
        normal around it.
        """
        weights = {}
        for group, shape in self.shapes.items():
            generator = np.random.default_rng(key_seed(seed, f"probe/{index}/{group}"))
            if self.center is not None:
                value = self.center[group] + 0.5 * generator.standard_normal(shape)
            elif self._is_coefficient(group):
                value = generator.standard_normal(shape)
            else:
                value = generator.uniform(-np.pi, np.pi, shape)
            weights[group] = jnp.asarray(value, self.dtype)
        return weights, jnp.asarray(self.filled([], self.batch, seed, f"probe/{index}/angles"), self.dtype)

    def start_points(self, seed: int) -> list[tuple[dict[str, Array], Array]]:
        """Return weights and inputs (batch, n_inputs) of `starts`; a batch is filled up with inputs over a turn.

        Where there are none, and the gates are known, one point of weights of standard deviation `SMALL` around what
        heads start from.
        """
        starts = self.starts
        if not starts and self.circuit is not None:
            readout = self.circuit.readout_facts
            small = {}
            for group, shape in self.shapes.items():
                generator = np.random.default_rng(key_seed(seed, f"probe/small/{group}"))
                offset = readout.offset(self.circuit.n_qubits) if group == "readout" else 0.0
                small[group] = offset + SMALL * generator.standard_normal(shape)
            starts = (Start(small, np.zeros((0, self.n_inputs))),)
        return [
            (
                {group: jnp.asarray(value, self.dtype) for group, value in start.weights.items()},
                jnp.asarray(self.filled(start.inputs, self.batch, seed, f"probe/start/{index}"), self.dtype),
            )
            for index, start in enumerate(starts)
        ]

    def filled(self, inputs: Any, count: int, seed: int, name: str) -> Float[np.ndarray, "count n_inputs"]:
        """Return the first `count` of `inputs` (N, n_inputs), and as many uniform over a turn as are missing."""
        own = np.asarray(inputs, np.float64).reshape(len(inputs), self.n_inputs)[:count]
        generator = np.random.default_rng(key_seed(seed, name))
        return np.concatenate([own, generator.uniform(-np.pi, np.pi, (count - len(own), self.n_inputs))])

    def values_at(self, weights: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
        """Return the values (N, n_outputs) in float64 at one set of weights and any number of inputs (N, n_inputs)."""
        arrays = {group: jnp.asarray(value, self.dtype) for group, value in weights.items()}
        parts = []
        for start in range(0, len(inputs), self.batch):
            part = np.asarray(inputs[start : start + self.batch])
            padded = np.concatenate([part, np.repeat(part[-1:], self.batch - len(part), axis=0)])
            values = np.asarray(self.program(arrays, jnp.asarray(padded, self.dtype)), np.float64)
            parts.append(values[: len(part)])
        return np.concatenate(parts)

    def rule(self, group: str) -> str:
        """Return how a derivative by this group follows from values: `shift`, `linear` (both exact) or `difference`."""
        if self.circuit is None:
            return "difference"
        if self._is_coefficient(group):
            return "linear"
        return "shift" if uses(self.circuit, group) == 1 and self._turns(group) else "difference"

    def max_frequency(self) -> float | None:
        """Return the largest frequency of the values in one angle of any group; None where that is not known."""
        if self.circuit is None:
            return None
        found = [uses(self.circuit, group) for group in self.group_shapes()]
        return None if None in found else max(value for value in found if value is not None)

    def _turns(self, group: str) -> bool:
        """Whether every parameter of the group is the angle of one gate, and nothing else."""
        assert self.circuit is not None
        return is_periodic(self.circuit, group)

    def _is_coefficient(self, group: str) -> bool:
        return self.circuit is not None and self.circuit.readout_facts.is_weighted and group == "readout"


def circuit_subject(circuit: Circuit, engine: str | Engine = "reference", *, batch: int = 3, **options: Any) -> Subject:
    """Return the subject of `circuit` on an engine, or on the engine of that name, whose own options follow."""
    check_positive_int("batch", batch, minimum=2)
    instance = get_engine(engine, **options) if isinstance(engine, str) else engine
    return program_subject(instance.program(circuit, batch), instance)


def program_subject(
    program: Program, engine: Engine, *, evaluation: Program | None = None, starts: tuple[Start, ...] = ()
) -> Subject:
    """Return the subject of a program of `engine`: of what runs, and of nothing that is made for the occasion.

    `evaluation` is the program without gradients that evaluates, `starts` where the runs of both start.
    """
    circuit, batch = program.circuit, program.batch
    return Subject(
        name=f"{circuit.readout} on {engine.name}",
        program=program,
        shapes=circuit.weight_shapes(),
        n_inputs=circuit.n_inputs,
        batch=batch,
        dtype=circuit.dtype,
        circuit=circuit,
        bloch=_Lazy(lambda: engine.program(circuit.body(), batch, gradient=False)),
        states=lambda weights, inputs: circuit_states(circuit, weights, inputs),
        shots=program.info.get("shots"),
        label=program_label(program),
        evaluation=evaluation,
        starts=starts,
    )


def program_label(program: Program) -> str:
    """Return what executes `program`: `xla heisenberg, batch 64, float32`."""
    how = " ".join(str(program.info[key]) for key in ("engine", "plan", "batching") if program.info.get(key))
    shots = f", {program.info['shots']} shots" if program.info.get("shots") else ""
    return f"{how}, batch {program.batch}, {program.circuit.dtype}{shots}"


def function_subject(
    function: Callable[[Any, Float[Array, " n_inputs"]], Array],
    weights: Any,
    n_inputs: int,
    *,
    name: str = "function",
    batch: int = 3,
    dtype: str = "",
) -> Subject:
    """Return the subject of a plain function (weights, inputs (n_inputs,)) -> a scalar or a vector: one example.

    `weights` is an array or a dict of arrays: the point around which the probes ask. A function that returns complex
    amplitudes (2^n) is a state: its values are then <Z_i> of every wire. `dtype` is the precision of the values; by
    default that of JAX. Raises InputError where JAX cannot trace the function.
    """
    check_positive_int("n_inputs", n_inputs)
    is_mapping = isinstance(weights, Mapping)
    given = weights if is_mapping else {"weights": weights}
    center = {
        str(group): real_array(str(group), value, finite=True).astype(np.float64) for group, value in given.items()
    }
    dtype = dtype or ("float64" if jax.config.jax_enable_x64 else "float32")

    def example(weights: Weights, inputs: Array) -> Array:
        return _stack(function(weights if is_mapping else weights["weights"], inputs))

    shape = _trace(example, center, n_inputs, dtype, name)
    is_state = np.issubdtype(shape.dtype, np.complexfloating)
    n_qubits = int(shape.shape[0]).bit_length() - 1
    if is_state and 2**n_qubits != shape.shape[0]:
        raise InputError(f"`{name}` must return real values or 2^n complex amplitudes, got {shape.shape[0]} amplitudes")

    def values(weights: Weights, inputs: Array) -> Array:
        value = example(weights, inputs)
        if is_state:
            value = _z_values(value, n_qubits)
        return value.astype(dtype)

    def amplitudes(weights: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
        batched = jax.jit(jax.vmap(example))
        return np.asarray(
            batched({group: jnp.asarray(w, dtype) for group, w in weights.items()}, jnp.asarray(inputs, dtype))
        )

    return Subject(
        name=name,
        program=jax.jit(jax.vmap(values, in_axes=(None, 0))),
        shapes={group: value.shape for group, value in center.items()},
        n_inputs=n_inputs,
        batch=batch,
        dtype=dtype,
        states=amplitudes if is_state else None,
        center=center,
    )


def qnode_subject(qnode: Any, weights: Any, n_inputs: int, *, batch: int = 3, dtype: str = "") -> Subject:
    """Return the subject of a PennyLane QNode (weights, inputs (n_inputs,)) -> expectation values, or a state.

    The state behind expectation values is recovered by running the QNode's own tape on `default.qubit`.
    """
    import pennylane as qml

    if not isinstance(qnode, qml.QNode):
        raise TypeError(f"`qnode` must be a PennyLane QNode, got {type(qnode).__name__}")
    name = getattr(qnode, "__name__", "qnode")
    subject = function_subject(qnode, weights, n_inputs, name=name, batch=batch, dtype=dtype)
    shots = qnode.shots.total_shots if getattr(qnode, "shots", None) else None
    if subject.states is None:
        wires = qnode.device.wires

        @qml.qnode(qml.device("default.qubit", wires=wires), interface="jax")
        def state_node(weights: Any, inputs: Array) -> Any:
            tape = qml.workflow.construct_tape(qnode, level="top")(weights, inputs)
            for operation in tape.operations:
                qml.apply(operation)
            return qml.state()

        states = function_subject(state_node, weights, n_inputs, name=name, batch=batch, dtype=dtype).states
        subject = dataclasses.replace(subject, states=states)
    return dataclasses.replace(subject, shots=shots)


class _Lazy:
    """A callable made on first use: most probes never ask for the Bloch program, and it costs a compilation."""

    def __init__(self, make: Callable[[], Program]):
        self._make = make
        self._made: Program | None = None

    def __call__(self, weights: Weights, inputs: Array) -> Array:
        if self._made is None:
            self._made = self._make()
        return self._made(weights, inputs)


def _stack(value: Any) -> Array:
    """Return a function's result as one vector: scalars, arrays and (nested) tuples of them."""
    leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree_util.tree_leaves(value)]
    return jnp.concatenate(leaves)


def _z_values(amplitudes: Array, n_qubits: int) -> Array:
    """Return <Z_i> (n_qubits,) of `amplitudes` (2^n_qubits,)."""
    bits = (np.arange(2**n_qubits)[None, :] >> np.arange(n_qubits)[::-1, None]) & 1
    signs = jnp.asarray(1 - 2 * bits, amplitudes.real.dtype)
    return signs @ (jnp.abs(amplitudes) ** 2)


def _trace(example: Any, center: Mapping[str, np.ndarray], n_inputs: int, dtype: str, name: str) -> Any:
    weights = {group: jax.ShapeDtypeStruct(value.shape, dtype) for group, value in center.items()}
    try:
        return jax.eval_shape(example, weights, jax.ShapeDtypeStruct((n_inputs,), dtype))
    except (TypeError, jax.errors.JAXTypeError) as error:
        raise InputError(
            f"`{name}` must be a function (weights, inputs (n_inputs,)) of JAX arrays that JAX can trace; it raised "
            f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
