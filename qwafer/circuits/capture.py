"""`qwafer.circuit`: a PennyLane function, QNode or list of operations as a circuit, captured once by tracing."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwafer._checks import check_choice, check_positive_int
from qwafer._errors import CapabilityError, InputError
from qwafer._registry import check_unchanged, load_attribute
from qwafer.circuits.calling import Shape, as_called, device_wires, source_of, weight_shapes
from qwafer.circuits.captured import SHARED, CapturedCircuit, Initial, SlotFunction, initial_values
from qwafer.circuits.circuit import DTYPES, GateCircuit
from qwafer.circuits.expansion import MOST_WIRES, SINGLE, Condition, Phase, Turn, expand, fixed_gate
from qwafer.circuits.gates import INPUTS, Gate, Operation
from qwafer.circuits.measuring import Measured, measured, measurements
from qwafer.circuits.readouts import STATE, WORDS
from qwafer.circuits.recording import RECORDING
from qwafer.circuits.traces import (
    NotPlainError,
    calls_python,
    constant_outputs,
    depends,
    explicit,
    holds_double,
    in_single_precision,
    trace_digest,
)

_PHASE = Gate("GlobalPhase", generator="I")


def circuit(
    function: Any,
    weights: Mapping[str, Shape | int] | Shape = (),
    n_inputs: int = 0,
    *,
    n_qubits: int | None = None,
    readout: str | None = None,
    n_outputs: int = 1,
    dtype: str = "float32",
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    initial: Mapping[str, Initial] | None = None,
) -> CapturedCircuit:
    """Return the circuit of `function(weights, x, **arguments)`, which applies PennyLane gates for one example.

    `weights` maps names to shapes, and the function is given a dict of arrays; with a single shape it is given an
    array, the weight `weights`. `x` is (n_inputs,). A function whose parameters are named as the weights is called by
    these names, and the parameter that is left is given x: `def node(inputs, w0, w1)`. A QNode is unwrapped, and its
    device says the wires; `n_qubits` says them otherwise (0, ..., n_qubits - 1; by default those that are used, in
    order). A list of PennyLane operations, or a function that returns one, will do.

    The function is traced once by JAX: gates and wires must not depend on values, angles may be any JAX expression of
    weights and inputs. It returns `qml.expval`, `qml.probs`, a tuple of these, `qml.state()` (real parts, then
    imaginary parts) or nothing: then `readout` names one of the house's (`mean_z`, `z_vec`, `mean_z_readout`, `z`,
    `bloch`), with `n_outputs` where it has as many as are asked for.

    `initial` says how heads start a weight: `("uniform", low, high)` or `("normal", mean, std)`; normal of standard
    deviation `head.init_scale` where it says nothing.

        def iqp(weights, x):
            qml.IQPEmbedding(x, wires=range(3))
            qml.StronglyEntanglingLayers(weights["theta"], wires=range(3))
            return qml.expval(qml.Z(0) @ qml.Z(1))

        qwafer.circuit(iqp, weights={"theta": (2, 3, 3)}, n_inputs=3)

    Raises InputError for a function that JAX cannot trace, and CapabilityError, by name, for what cannot be captured:
    measurements in the middle of a circuit, channels, shots, samples.
    """
    check_positive_int("n_inputs", n_inputs, minimum=0)
    check_choice("dtype", dtype, DTYPES)
    if n_qubits is not None:
        check_positive_int("n_qubits", n_qubits)
    shapes = weight_shapes(weights)
    starts = initial_values(initial or {}, shapes)
    called = as_called(function, shapes, arguments or {}, n_inputs, single=not isinstance(weights, Mapping))
    name = name or getattr(function, "__name__", "circuit")
    wires = device_wires(function) if n_qubits is None else tuple(range(n_qubits))
    options: dict[str, Any] = {"weights": weights, "n_inputs": n_inputs, "n_qubits": n_qubits, "readout": readout}
    options |= {"n_outputs": n_outputs, "name": name, "arguments": dict(arguments or {}), "initial": initial}
    trace = _trace(called, shapes, n_inputs, "float64", wires, name)
    if readout is None and not trace.returns:
        raise InputError(f"{name} returns no measurement: return one, or name a `readout`, such as mean_z_readout")
    if readout is not None and trace.returns:
        raise InputError(
            f"`readout` = {readout}, and {name} returns measurements of its own: leave out one of the two "
            "(circuit.readout = measured takes those of the function)"
        )
    places = _Places.of(trace)
    double = _slot_function(trace, places, shapes, n_inputs, "float64")
    try:
        single = _slot_function(trace, places, shapes, n_inputs, "float32")
    except NotPlainError:
        again = _trace(called, shapes, n_inputs, "float32", wires, name)
        if len(trace.turns) != len(again.turns):
            raise InputError(f"{name} has other gates in float32 than in float64") from None
        if holds_double(again.closed):
            raise InputError(
                f"{name} holds arrays of JAX in float64, which cannot be told in float32 beside a loop, a branch or a "
                "derivative of its own: make them NumPy arrays"
            ) from None
        single = _slot_function(again, places, shapes, n_inputs, "float32", traced="float32")
    core = GateCircuit(
        len(trace.wires),
        places.operations,
        places.n_own,
        ((SHARED, (places.n_shared,)),) if places.n_shared else (),
        readout or (WORDS if trace.measured.words else STATE.name if not trace.measured.outputs else "mean_z"),
        n_outputs if readout else 1,
        dtype,
        trace.measured.words,
    )
    return CapturedCircuit(
        core=core,
        weights=tuple(shapes.items()),
        n_inputs=n_inputs,
        outputs=trace.measured.outputs,
        slots_of=SlotFunction({"float32": single[0], "float64": double[0]}, single[1] + double[1]),
        name=name,
        trained=places.trained,
        source=source_of(function, options),
        initial=starts,
    )


def circuit_of_name(place: str, /, **options: Any) -> CapturedCircuit:
    """Return `circuit` of the function at `place`, `package.module:name` or `file.py:name`.

    It is imported in 64 bit, so that the arrays of JAX in its module are the same whatever a process has set. Raises
    InputError for a file that has changed since this process imported it.
    """
    import jax.experimental

    check_unchanged(place, "circuit.function")

    with jax.experimental.enable_x64():
        function = load_attribute(place, "circuit.function")
    return circuit(function, **options)


@dataclass(frozen=True)
class _Trace:
    """One tracing of a function."""

    turns: tuple[Turn, ...]
    wires: dict[Any, int]
    measured: Measured
    returns: bool
    closed: Any
    """The trace (weight, ..., inputs) -> (numbers of every turn that has some, ..., coefficient, ...)."""

    def dependence(self) -> list[tuple[bool, bool]]:
        """Return of every output of the trace whether it depends on a weight, and on the inputs."""
        n = len(self.closed.jaxpr.invars)
        found = depends(self.closed.jaxpr, [frozenset({i == n - 1}) for i in range(n)])
        return [(False in own, True in own) for own in found]


@dataclass(frozen=True)
class _Places:
    """Where the numbers of every gate are: in the shared slots, in those of an example, or folded into the gate."""

    operations: tuple[Operation, ...]
    shared: tuple[int, ...]
    """The outputs of the trace that the shared slots are made of, in order."""
    own: tuple[int, ...]
    n_shared: int
    n_own: int
    trained: tuple[bool, ...]
    n_numbers: int
    """Outputs of the trace before the coefficients."""

    @classmethod
    def of(cls, trace: _Trace) -> "_Places":
        depends = trace.dependence()
        constants = constant_outputs(trace.closed, [place for place, by in enumerate(depends) if not any(by)])
        operations: list[Operation] = []
        starts: list[Operation] = []
        shared: list[int] = []
        own: list[int] = []
        trained: list[bool] = []
        touched: set[int] = set()
        counts, place = {SHARED: 0, INPUTS: 0}, 0
        for turn in trace.turns:
            wires = tuple(trace.wires[wire] for wire in turn.wires)
            gate = turn.gate
            if gate.given == "state" and touched & set(wires):
                raise CapabilityError(
                    f"a state is prepared on wires {list(turn.wires)} that gates have acted on: prepare it first"
                )
            touched |= set(wires)
            if turn.numbers is None:
                operations.append(Operation(gate, wires))
                continue
            by_weight, by_input = depends[place]
            if not by_weight and not by_input and gate.given != "state" and gate.n_wires <= MOST_WIRES:
                operations.append(Operation(_folded(gate, constants[place]), wires))
            else:
                source, chosen = (INPUTS, own) if by_input else (SHARED, shared)
                chosen.append(place)
                if by_input:
                    trained += [by_weight] * gate.n_numbers
                target = starts if gate.given == "state" else operations
                target.append(Operation(gate, wires, source, (counts[source],)))
                counts[source] += gate.n_numbers
            place += 1
        return cls(
            (*starts, *operations),
            tuple(shared),
            tuple(own),
            counts[SHARED],
            counts[INPUTS],
            tuple(trained),
            place,
        )


def _trace(
    called: Callable[..., Any], shapes: Mapping[str, Shape], n_inputs: int, dtype: str, wires: Any, name: str
) -> _Trace:
    """Trace the function in one precision, whatever JAX is set to."""
    import jax
    import jax.experimental
    import jax.numpy as jnp
    import pennylane as qml

    noted: list[Any] = []
    conditions: list[Condition] = []

    def numbers(*arrays: Any) -> list[Any]:
        conditions.clear()
        with qml.queuing.AnnotatedQueue() as queue:
            returned = called(arrays[:-1], arrays[-1])
        operations, returned = _recorded(queue, returned)
        found = measurements(returned)
        places = _places(wires, [*operations, *found], name)
        parts = [part for operation in operations for part in expand(operation)]
        own = measured(found, places) if found else Measured((), (), ())
        turns = [part for part in parts if isinstance(part, Turn)]
        phases = [part.angle for part in parts if isinstance(part, Phase)]
        if found and not own.outputs and phases:
            turns.append(Turn(_PHASE, (next(iter(places)),), sum(phases[1:], phases[0])))
        noted.append((tuple(turns), places, own, bool(found)))
        conditions.extend(part for part in parts if isinstance(part, Condition))
        conditions.extend(own.conditions)
        conditions.extend(
            Condition(f"the angle of gate {turn.gate.name} is complex", jnp.imag(turn.numbers))
            for turn in turns
            if turn.numbers is not None and jnp.iscomplexobj(turn.numbers)
        )
        taken = [jnp.asarray(jnp.real(turn.numbers), dtype) for turn in turns if turn.numbers is not None]
        for turn, value in zip((turn for turn in turns if turn.numbers is not None), taken, strict=True):
            wanted = (turn.gate.n_numbers,) if turn.gate.given else ()
            if value.shape != wanted:
                raise InputError(f"gate {turn.gate.name} takes numbers of shape {wanted}, got {value.shape}")
        return [*taken, *(jnp.asarray(value, dtype) for value in own.coefficients)]

    def vanishing(*arrays: Any) -> list[Any]:
        numbers(*arrays)
        return [condition.value for condition in conditions]

    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in (*shapes.values(), (n_inputs,))]
    with (
        RECORDING,
        warnings.catch_warnings(),
        jax.experimental.enable_x64(dtype == "float64"),
        jax.numpy_rank_promotion("allow"),
    ):
        # PennyLane asks for doubles by name, and single precision is what is traced here.
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        try:
            closed = jax.make_jaxpr(numbers)(*arguments)
            turns, places, own, returns = noted[-1]
            outside = calls_python(closed.jaxpr)
            if outside:
                raise CapabilityError(
                    f"{name} calls Python while it runs ({outside}): no trace tells what that computes; write it in "
                    "operations of JAX"
                )
            if conditions and dtype == "float64":
                said = tuple(conditions)
                _check_conditions(said, jax.make_jaxpr(vanishing)(*arguments))
        except (InputError, CapabilityError) as error:
            raise type(error)(*error.args) from error  # without the notes that JAX adds
        except Exception as error:
            text = str(error).strip().splitlines()
            known = f"its weights are {', '.join(shapes)}" if shapes else "it has no weights"
            unnamed = isinstance(error, KeyError) and not set(error.args) & set(shapes)
            hint = f" ({known}: name all of them, with their shapes)" if unnamed else ""
            raise InputError(
                f"{name} cannot be traced as a function of weights and inputs ({n_inputs},): it raised "
                f"{type(error).__name__}{': ' + text[0] if text else ''}{hint}"
            ) from error
    return _Trace(turns, places, own, returns, closed)


def _check_conditions(conditions: Sequence[Condition], closed: Any) -> None:
    """Raise InputError where one of `conditions`, whose values `closed` traces, does not hold at random weights and
    inputs; of one that may hold for the data alone nothing is known where inputs reach it.
    """
    import jax

    variables = closed.jaxpr.invars
    reached = depends(closed.jaxpr, [frozenset({variable is variables[-1]}) for variable in variables])
    generator = np.random.default_rng(0)
    point = [generator.uniform(-np.pi, np.pi, variable.aval.shape) for variable in variables]
    values = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *point)
    for condition, by, value in zip(conditions, reached, values, strict=True):
        if (condition.whatever_inputs or True not in by) and np.max(np.abs(value), initial=0.0) > SINGLE:
            raise InputError(condition.text)


def _recorded(queue: Any, returned: Any) -> tuple[list[Any], Any]:
    """Return the operations, those recorded or those of the list that a function returned, and the measurements.

    Raises InputError where the two differ: some would be lost.
    """
    import pennylane as qml

    recorded = list(qml.tape.QuantumScript.from_queue(queue).operations)
    listed = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    operations = [one for one in listed if isinstance(one, qml.operation.Operator)]
    if not operations:
        return recorded, returned
    if recorded and {id(one) for one in recorded} != {id(one) for one in operations}:
        raise InputError("the function returns some of the operations that it applies: return all of them, or none")
    return operations, [one for one in listed if not isinstance(one, qml.operation.Operator)]


def _places(wires: Any, parts: Sequence[Any], name: str) -> dict[Any, int]:
    """Return the place of every wire: those that were told, else those that are used."""
    used = list(dict.fromkeys(wire for part in parts for wire in part.wires))
    if wires is None:
        wires = sorted(used) if all(isinstance(wire, int) for wire in used) else used
    if not wires:
        raise InputError(f"{name} acts on no wires")
    strange = [wire for wire in used if wire not in wires]
    if strange:
        raise InputError(f"{name} acts on wire {strange[0]!r}, and has wires {', '.join(map(repr, wires))}")
    return {wire: place for place, wire in enumerate(wires)}


def _folded(gate: Gate, numbers: np.ndarray) -> Gate:
    """Return a gate of constant numbers as a fixed one."""
    name = f"{gate.name}({numbers:.6g})" if gate.given is None else gate.name
    return fixed_gate(name, np.asarray(gate.matrix(numbers)))


def _slot_function(
    trace: _Trace,
    places: _Places,
    shapes: Mapping[str, Shape],
    n_inputs: int,
    dtype: str,
    traced: str = "float64",
) -> tuple[Any, str]:
    """Return the trace of (weight, ..., inputs) -> shared, per example, coefficients, in `dtype`, and its digest.

    Raises NotPlainError where `trace`, which was `traced` in double precision, cannot be told in single precision.
    """
    import jax
    import jax.experimental
    import jax.numpy as jnp

    def slots(*arrays: Any) -> tuple[Any, Any, Any]:
        if dtype == traced:
            found = jax.core.eval_jaxpr(trace.closed.jaxpr, trace.closed.consts, *arrays)
        else:
            found = in_single_precision(trace.closed, *arrays)

        def joined(chosen: Sequence[int]) -> Any:
            return jnp.concatenate([jnp.zeros((0,), dtype), *(jnp.ravel(found[place]) for place in chosen)])

        return joined(places.shared), joined(places.own), joined(range(places.n_numbers, len(found)))

    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in (*shapes.values(), (n_inputs,))]
    with jax.experimental.enable_x64(dtype == "float64"), jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(slots)(*arguments)
        return explicit(closed), trace_digest(slots, closed, arguments) if dtype == traced else ""
