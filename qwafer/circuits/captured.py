"""`CapturedCircuit`: a function of PennyLane gates as gates with slots, and what fills the slots."""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer.circuits.circuit import GateCircuit, count_weights
from qwafer.circuits.gates import INPUTS, Operation
from qwafer.circuits.measuring import Expectation, Probabilities, sum_of_words
from qwafer.circuits.readouts import Readout

SHARED = "shared"
"""Name of the weight of a core that holds the slots which no input reaches."""


Initial = tuple[str, float, float]
"""How a weight starts: `("uniform", low, high)` or `("normal", mean, standard deviation)`."""


def initial_values(given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, Initial], ...]:
    """Return how weights start, checked."""
    found = []
    for name, start in given.items():
        if name not in shapes:
            raise InputError(f"`initial` names {name!r}, which is not a weight{nearest(name, shapes)}")
        kind, *numbers = start if isinstance(start, (tuple, list)) else (None,)
        finite = len(numbers) == 2 and all(isinstance(value, (int, float)) and np.isfinite(value) for value in numbers)
        if kind not in ("uniform", "normal") or not finite or numbers[1] < (numbers[0] if kind == "uniform" else 0):
            raise InputError(
                f'`initial[{name!r}]` must be ("uniform", low, high) or ("normal", mean, std), got {start!r}'
            )
        found.append((name, (kind, float(numbers[0]), float(numbers[1]))))
    return tuple(found)


@dataclass(frozen=True)
class Slots:
    """What the gates of a core take, and the coefficients of its measurements."""

    weights: dict[str, Any]
    """`shared` (..., S), and the readout's weight where the core has one."""
    inputs: Any
    """(..., E): the slots of every example."""
    coefficients: Any
    """(..., C), of every example."""


class SlotFunction:
    """A function (weight, ..., inputs (n_inputs,)) of one example -> shared (S,), per example (E,), coefficients (C,).

    It is held as JAX's trace, once in either precision. Functions are equal where the traces of their values and of
    their reverse passes are, constants included.
    """

    def __init__(self, traces: Mapping[str, Any], key: str):
        self._traces = dict(traces)
        self.key = key

    def __call__(self, dtype: str, *arrays: Any) -> tuple[Any, Any, Any]:
        """Return the slots of one example, traced by JAX; `arrays` are the weights, then the inputs, of `dtype`."""
        import jax

        trace = self._traces[dtype]
        shared, own, coefficients = jax.core.eval_jaxpr(trace.jaxpr, trace.consts, *arrays)
        return shared, own, coefficients

    def trace(self, dtype: str) -> Any:
        """Return JAX's trace in one precision."""
        return self._traces[dtype]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotFunction) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"SlotFunction({self.key[:16]})"


@dataclass(frozen=True)
class MeasuredReadout(Readout):
    """The readout of a captured circuit that measures: words, and a map from their values to outputs."""

    limit: Callable[[Mapping[str, Any]], float] | None = field(default=None, compare=False, repr=False)
    """weights -> the largest |s_k|."""

    def bound(self, weights: Mapping[str, Any]) -> float:
        """Return the largest |s_k| that any state can give, at no input."""
        return 1.0 if self.limit is None else self.limit(weights)


@dataclass(frozen=True)
class CapturedCircuit:
    """A circuit that `qwafer.circuit` has captured.

    `core` is a `GateCircuit` whose `inputs` are the slots that an example fills (angles, amplitudes), and whose weight
    `shared` holds those that no input reaches; `slots` computes both from weights and inputs. So every engine that runs
    a `GateCircuit` runs this one, and JAX has the chain rule. `operations()` are those of the core. Circuits are equal
    where cores, outputs and what fills the slots are.
    """

    core: GateCircuit
    weights: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of each weight of the function."""
    n_inputs: int
    outputs: tuple[Expectation | Probabilities, ...]
    """How the values of the core become outputs; empty where they are the outputs."""
    slots_of: SlotFunction
    name: str = field(default="circuit", compare=False)
    """What to call it."""
    trained: tuple[bool, ...] = ()
    """Of every slot of an example whether a weight reaches it, too."""
    source: Any = field(default=None, compare=False, repr=False)
    """What pickling captures again: the name of the function, or the list of operations, and the arguments."""
    initial: tuple[tuple[str, Initial], ...] = field(default=(), compare=False)
    """How heads start weights, by name; normal of standard deviation `head.init_scale` where it says nothing."""

    shared: ClassVar[str] = SHARED

    @property
    def n_qubits(self) -> int:
        """Wires."""
        return self.core.n_qubits

    @property
    def n_outputs(self) -> int:
        """Values of one example."""
        return sum(output.n_outputs for output in self.outputs) if self.outputs else self.core.n_outputs

    @property
    def dtype(self) -> str:
        """Precision of values and gradients."""
        return self.core.dtype

    @property
    def readout(self) -> str:
        """Name of the readout; `measured` where the function says what is measured."""
        return "measured" if self.outputs else self.core.readout

    @property
    def readout_facts(self) -> Readout:
        """The readout."""
        if not self.outputs:
            return self.core.readout_facts
        return MeasuredReadout("measured", "each", measured="", words=self.core.words, limit=self._bound)

    def operations(self) -> tuple[Operation, ...]:
        """Return the gates of the core, whose angles are slots."""
        return self.core.operations()

    def readout_operations(self, output: int) -> tuple[Operation, ...]:
        """Return the trainable readout gates of one output."""
        return self.core.readout_operations(output)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name, that of a readout last."""
        readout = {name: shape for name, shape in self.core.weight_shapes().items() if name != SHARED}
        return {**dict(self.weights), **readout}

    def n_weights(self) -> int:
        """Return the number of trainable numbers."""
        return count_weights(self.weight_shapes())

    def body(self) -> "CapturedCircuit":
        """Return the same circuit with the `bloch` readout."""
        return replace(self, core=self.core.body(), outputs=())

    def with_dtype(self, dtype: str) -> "CapturedCircuit":
        """Return the same circuit in another precision, `float32` or `float64`."""
        return replace(self, core=replace(self.core, dtype=dtype))

    @property
    def digest(self) -> str:
        """A digest of all that it computes: gates, what fills their slots, outputs, precision."""
        said = (self.core, self.weights, self.n_inputs, self.outputs, self.trained, self.slots_of.key)
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def slots(self, weights: Mapping[str, Any], inputs: Any) -> Slots:
        """Return the slots in float64 for `weights` (..., *shape) and `inputs` (..., n_inputs), NumPy arrays whose
        leading axes broadcast; those of a readout come back as they are.
        """
        arrays, lead = self._arrays(weights, inputs)
        rows = math.prod(lead)
        flat = [array.reshape(rows, *array.shape[len(lead) :]) if batched else array for array, batched in arrays]
        found = _evaluate(self.slots_of, tuple(batched for _, batched in arrays), flat)
        shared, own, coefficients = (part.reshape(*lead, part.shape[-1]) for part in found)
        if not any(batched for _, batched in arrays[:-1]):
            shared = found[0][0]
        own_names = dict(self.weights)  # a weight of the function may be called as the slots are
        readout = {
            name: np.asarray(weights[name], np.float64)
            for name in self.core.weight_shapes()
            if name in weights and name not in own_names
        }
        return Slots({**({SHARED: shared} if self._has_shared else {}), **readout}, own, coefficients)

    def slot_derivatives(self, weights: Mapping[str, Any], inputs: Any) -> dict[str, Slots]:
        """Return the derivative of every slot by every weight of the function, and by `inputs`, in float64.

        By group arrays (N, slots, *shape), for weights of their own shapes and `inputs` (N, n_inputs).
        """
        own = [np.asarray(weights[name], np.float64) for name, _ in self.weights]
        blocks = _differentiate(self.slots_of, own, np.asarray(inputs, np.float64))
        names = [*dict(self.weights), INPUTS]
        return {
            name: Slots({SHARED: blocks[0][place]}, blocks[1][place], blocks[2][place])
            for place, name in enumerate(names)
        }

    def outputs_of(self, values: Any, coefficients: Any, xp: ModuleType) -> Any:
        """Return s (..., n_outputs) from the core's values (..., words) and `coefficients` (..., C)."""
        if not self.outputs:
            return values
        plain = self._expectations
        if plain is not None:
            constants, matrix = plain
            if matrix is None:
                return values
            found = sum_of_words(values[..., : len(matrix)], matrix, xp)  # of the identity alone there are no words
            return found + constants.astype(found.dtype) if constants.any() else found
        lead = np.broadcast_shapes(values.shape[:-1], coefficients.shape[:-1])
        values = xp.broadcast_to(values, (*lead, values.shape[-1]))
        values = xp.concatenate([xp.ones_like(values[..., :1]), values], axis=-1)  # <I> = 1 is not measured
        return xp.concatenate([output.read(values, coefficients, xp) for output in self.outputs], axis=-1)

    @functools.cached_property
    def _expectations(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The outputs as one linear map, where no coefficient is traced: constants (1, K), and the matrix (words, K),
        None where the values are the outputs.
        """
        if not all(isinstance(output, Expectation) and not output.coefficients for output in self.outputs):
            return None
        table = np.zeros((1 + len(self.core.words), len(self.outputs)))
        for column, output in enumerate(self.outputs):
            for word, value in zip(output.words, getattr(output, "constants", ()), strict=True):
                table[word, column] += value
        same = table.shape[0] == 1 + table.shape[1] and np.array_equal(table, np.eye(*table.shape, k=-1))
        return table[:1], None if same else table[1:]

    @property
    def _has_shared(self) -> bool:
        return SHARED in dict(self.core.weights)

    def _arrays(self, weights: Mapping[str, Any], inputs: Any) -> tuple[list[tuple[np.ndarray, bool]], tuple[int, ...]]:
        """Return the arrays of the slot function, each with whether it has the leading axes, and these."""
        arrays = [(np.asarray(weights[name], np.float64), shape) for name, shape in self.weights]
        arrays.append((np.asarray(inputs, np.float64), (self.n_inputs,)))
        for (array, shape), name in zip(arrays, [*dict(self.weights), INPUTS], strict=True):
            if array.shape[array.ndim - len(shape) :] != shape or array.ndim < len(shape):
                raise InputError(f"`{name}` must have shape (..., {', '.join(map(str, shape))}), got {array.shape}")
        leads = [array.shape[: array.ndim - len(shape)] for array, shape in arrays]
        lead = np.broadcast_shapes(*leads)
        batched = [bool(own) for own in leads[:-1]] + [True]
        spread = [
            np.broadcast_to(array, (*lead, *shape)) if own else array
            for (array, shape), own in zip(arrays, batched, strict=True)
        ]
        return list(zip(spread, batched, strict=True)), lead

    def _bound(self, weights: Mapping[str, Any]) -> float:
        largest = 1.0
        coefficients = np.abs(self.slots(weights, np.zeros(self.n_inputs)).coefficients)
        for output in self.outputs:
            if isinstance(output, Expectation):
                fixed = sum(abs(value) for value in output.constants if value is not None)
                largest = max(largest, fixed + float(coefficients[list(output.coefficients)].sum()))
        return largest

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is None:
            raise TypeError(
                f"{self.name} is defined where no other process finds it: define the function in a module, so that it "
                "can be captured again"
            )
        return _captured_again, (self.source, self.core.dtype, self.core.readout, self.core.n_outputs, self.digest)


def _captured_again(
    source: tuple[Any, Mapping[str, Any]], dtype: str, readout: str, n_outputs: int, digest: str
) -> Any:
    from qwafer.circuits.capture import circuit, circuit_of_name

    function, options = source
    make = circuit_of_name if isinstance(function, str) else circuit
    found = make(function, **options).with_dtype(dtype)
    if found.core.readout != readout:
        found = found.body()
    elif found.core.n_outputs != n_outputs:
        found = replace(found, core=replace(found.core, n_outputs=n_outputs))
    if found.digest != digest:
        raise InputError(f"{found.name} is not the circuit any longer that was pickled: its function has changed")
    return found


@functools.lru_cache(maxsize=64)
def _compiled(function: SlotFunction, batched: tuple[bool, ...]) -> Any:
    import jax

    def values(*arrays: Any) -> Any:
        return function("float64", *arrays)

    return jax.jit(jax.vmap(values, in_axes=[0 if own else None for own in batched]))


def _evaluate(function: SlotFunction, batched: tuple[bool, ...], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the slots of every row of the arrays that are `batched`, in float64 whatever JAX is set to."""
    import jax
    import jax.experimental

    with jax.experimental.enable_x64():
        return [np.asarray(part, np.float64) for part in _compiled(function, batched)(*arrays)]


@functools.lru_cache(maxsize=64)
def _jacobian(function: SlotFunction, n_arrays: int) -> Any:
    import jax

    def values(*arrays: Any) -> Any:
        return function("float64", *arrays)

    axes = (*(None,) * (n_arrays - 1), 0)
    return jax.jit(jax.vmap(jax.jacrev(values, argnums=tuple(range(n_arrays))), in_axes=axes))


def _differentiate(function: SlotFunction, weights: Sequence[np.ndarray], inputs: np.ndarray) -> Any:
    import jax
    import jax.experimental

    with jax.experimental.enable_x64():
        found = _jacobian(function, len(weights) + 1)(*weights, inputs)
        return jax.tree.map(lambda part: np.asarray(part, np.float64), found)
