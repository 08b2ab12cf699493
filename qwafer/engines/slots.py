"""What fills the slots of a captured circuit, as operations on vectors.

A function of PennyLane gates computes its angles one by one: a slice, a product, a sum for every gate. Its trace is
taken apart into these scalars here, once; equal ones are merged, and all that apply one operation at one depth are one
operation on vectors. Time and compilation follow the number of different operations, not that of gates.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits.captured import CapturedCircuit
from qwafer.engines.cache import kept

MOST_SCALARS = 64
"""Entries of an array that are taken apart, at most: an operation on more is one on vectors already."""

_NAMES = """
add sub mul div neg sin cos tan tanh exp log log1p expm1 sqrt rsqrt cbrt abs sign asin acos atan atan2 asinh acosh atanh
sinh cosh integer_pow pow max min logistic square floor ceil round erf
"""
_ELEMENTWISE = frozenset(_NAMES.split())
_CALLS = frozenset({"jit", "pjit", "closed_call", "remat2", "checkpoint"})
"""Calls that are their bodies; not those of functions whose derivative somebody has written, which would be lost."""


@dataclasses.dataclass(eq=False)
class _Step:
    """One operation on vectors: of scalars side by side, or one of the trace as it is."""

    evaluate: Callable[..., Any]
    operands: list[np.ndarray]
    """For each operand the scalars that it is made of, in its shape."""
    results: list[np.ndarray]
    own: bool
    """Whether it is computed for every example."""


class Vectors:
    """A trace (array, ..., inputs) -> (vector, ...) as steps."""

    def __init__(self, closed: Any):
        self._constants: list[Any] = []  # of every scalar its value where it is known, else None
        self._own: list[bool] = []
        self._level: list[int] = []
        self._nodes: dict[Any, int] = {}
        self._pending: dict[Any, list[tuple[tuple[int, ...], int]]] = {}
        self._opaque: list[tuple[int, _Step]] = []
        variables = closed.jaxpr.invars
        self.inputs = [
            self._fresh(variable.aval.shape, 0, own=place == len(variables) - 1)
            for place, variable in enumerate(variables)
        ]
        self.outputs = self._run(closed.jaxpr, [self._known(value) for value in closed.consts], self.inputs)
        self.steps = self._steps()

    def _fresh(self, shape: tuple[int, ...], level: int, own: bool) -> np.ndarray:
        start, size = len(self._own), int(np.prod(shape))
        self._constants += [None] * size
        self._own += [own] * size
        self._level += [level] * size
        return np.arange(start, start + size).reshape(shape)

    def _known(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        found = np.empty(array.shape, int)
        for place in np.ndindex(array.shape):
            key = ("constant", str(array.dtype), array[place].tobytes())
            if key not in self._nodes:
                self._nodes[key] = int(self._fresh((), 0, False))
                self._constants[self._nodes[key]] = array[place]
            found[place] = self._nodes[key]
        return found

    def _run(self, jaxpr: Any, constants: Sequence[np.ndarray], arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        known = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

        def of(atom: Any) -> np.ndarray:
            return self._known(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            operands = [of(atom) for atom in equation.invars]
            name, parameters = equation.primitive.name, equation.params
            inner = parameters.get("jaxpr") or parameters.get("call_jaxpr")
            moved = _moved(name, parameters, operands)
            if name in _CALLS and inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(operands):
                body = getattr(inner, "jaxpr", inner)
                results = self._run(body, [self._known(value) for value in getattr(inner, "consts", ())], operands)
            elif moved is not None:
                results = moved
            elif name == "convert_element_type" and equation.invars[0].aval.dtype == parameters["new_dtype"]:
                results = operands
            elif name in _ELEMENTWISE and equation.outvars[0].aval.size <= MOST_SCALARS:
                results = [self._scalars(equation, operands)]
            else:
                results = self._whole(equation, operands)
            known.update(zip(equation.outvars, results, strict=True))
        return [of(atom) for atom in jaxpr.outvars]

    def _scalars(self, equation: Any, operands: Sequence[np.ndarray]) -> np.ndarray:
        """Return the results of an elementwise operation, each a scalar of its own."""
        spread = np.broadcast_arrays(*operands)
        found = np.empty(spread[0].shape, int)
        # A power may have a whole exponent or a real one: what is computed side by side is of the same types.
        types = tuple(str(atom.aval.dtype) for atom in (*equation.invars, *equation.outvars))
        kind = (equation.primitive, str(sorted(equation.params.items(), key=str)), types)
        for place in np.ndindex(found.shape):
            own = tuple(int(array[place]) for array in spread)
            key = (kind, own)
            if key not in self._nodes:
                level = 1 + max(self._level[node] for node in own)
                result = int(self._fresh((), level, any(self._own[node] for node in own)))
                self._nodes[key] = result
                group = (level, kind, self._own[result])
                self._pending.setdefault(group, []).append((own, result))
                self._nodes.setdefault(("parameters", kind), equation)
            found[place] = self._nodes[key]
        return found

    def _whole(self, equation: Any, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the results of an operation that is not taken apart."""
        nodes = [int(node) for array in operands for node in array.ravel()]
        level = 1 + max((self._level[node] for node in nodes), default=0)
        own = any(self._own[node] for node in nodes)
        results = [self._fresh(variable.aval.shape, level, own) for variable in equation.outvars]

        def evaluate(*arrays: Any) -> Any:
            subfunctions, parameters = equation.primitive.get_bind_params(equation.params)
            found = equation.primitive.bind(*subfunctions, *arrays, **parameters)
            return tuple(found) if equation.primitive.multiple_results else (found,)

        self._opaque.append((level, _Step(evaluate, list(operands), results, own)))
        return results

    def _steps(self) -> list[_Step]:
        """Return the steps that the outputs need, in an order in which they can be made."""
        steps = list(self._opaque)
        for (level, kind, own), pairs in self._pending.items():
            equation = self._nodes[("parameters", kind)]
            operands = [np.array(column) for column in zip(*(nodes for nodes, _ in pairs), strict=True)]
            results = [np.array([result for _, result in pairs])]
            steps.append((level, _Step(_elementwise(equation), operands, results, own)))
        steps.sort(key=lambda pair: pair[0])
        needed = {int(node) for array in self.outputs for node in array.ravel()}
        kept_steps = []
        for _, step in reversed(steps):
            if any(int(node) in needed for array in step.results for node in array.ravel()):
                needed |= {int(node) for array in step.operands for node in array.ravel()}
                kept_steps.append(step)
        return kept_steps[::-1]

    def __call__(self, arrays: Sequence[Any], reverse: bool) -> list[Any]:
        """Return the outputs for `arrays`, the last (n_inputs, batch): (size,), or (size, batch) of every example.

        With `reverse` there is no forward-mode derivative.
        """
        bank = _Bank(self._constants, reverse)
        for ids, array in zip(self.inputs, arrays, strict=True):
            bank.add(ids, array)
        batch, dtype = arrays[-1].shape[1], arrays[-1].dtype
        for step in self.steps:
            operands = [bank.fetch(ids, step.own, batch, dtype) for ids in step.operands]
            evaluate = jax.vmap(step.evaluate, in_axes=-1, out_axes=-1) if step.own else step.evaluate
            for ids, array in zip(step.results, evaluate(*operands), strict=True):
                bank.add(ids, array)
        found = []
        for ids in self.outputs:
            own = any(self._own[int(node)] for node in ids.ravel())
            found.append(bank.fetch(ids, own, batch, dtype))
        return found


def _elementwise(equation: Any) -> Callable[..., Any]:
    def evaluate(*arrays: Any) -> Any:
        return (equation.primitive.bind(*arrays, **equation.params),)

    return evaluate


class _Bank:
    """Scalars that are known, in the vectors that hold them."""

    def __init__(self, constants: Sequence[Any], reverse: bool):
        self._constants, self._reverse = constants, reverse
        self._arrays: list[tuple[Any, bool]] = []
        self._place: dict[int, tuple[int, int]] = {}

    def add(self, ids: np.ndarray, array: Any) -> None:
        """Hold `array`, of the shape of `ids`, with the batch behind it where it has one."""
        own = array.ndim > ids.ndim
        flat = array.reshape(ids.size, *array.shape[ids.ndim :])
        for place, node in enumerate(ids.ravel()):
            self._place.setdefault(int(node), (len(self._arrays), place))
        self._arrays.append((flat, own))

    def fetch(self, ids: np.ndarray, own: bool, batch: int, dtype: Any) -> Any:
        """Return the scalars `ids` in their shape, with the batch behind it if `own`."""
        nodes = [int(node) for node in ids.ravel()]
        known = [self._constants[node] for node in nodes]
        if all(value is not None for value in known):
            constant = jnp.asarray(np.array(known, known[0].dtype if known else dtype).reshape(ids.shape))
            return jnp.broadcast_to(constant[..., None], (*ids.shape, batch)) if own else constant
        missing = [
            node for node, value in zip(nodes, known, strict=True) if value is not None and node not in self._place
        ]
        if missing:
            unique = np.array(list(dict.fromkeys(missing)), int)
            self.add(unique, jnp.asarray(np.array([self._constants[node] for node in unique])))
        zero = {node for node, value in zip(nodes, known, strict=True) if value is not None and value == 0}
        used = list(dict.fromkeys(self._place[node][0] for node in nodes if node not in zero))
        parts, starts, total = [], {}, 0
        for which in used:
            array, has_batch = self._arrays[which]
            if own and not has_batch:
                array = jnp.broadcast_to(array[:, None], (len(array), batch))
            parts.append(array)
            starts[which], total = total, total + len(array)
        joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        rows = np.array(
            [total if node in zero else starts[self._place[node][0]] + self._place[node][1] for node in nodes], np.int32
        )
        found = selected(joined, rows, self._reverse)
        return found.reshape(*ids.shape, *found.shape[1:])


def selected(x: Any, rows: np.ndarray, reverse: bool) -> Any:
    """Return `x[rows]` for static rows, 0 for row `len(x)`.

    With `reverse` its reverse pass is a gather or a product, as a scatter is slow on CPU, and it has no forward-mode
    derivative.
    """
    size = len(x)
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))) and rows[-1] < size:
        return x if len(rows) == size else lax.slice_in_dim(x, int(rows[0]), int(rows[0]) + len(rows))
    valid = rows < size

    def take(x: Any) -> Any:
        padded = x if valid.all() else _with_zero(x)
        return padded.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)

    if not reverse:
        return take(x)

    def back(_: None, g: Any) -> tuple[Any]:
        if len(np.unique(rows[valid])) == valid.sum():
            source = np.full(size, len(rows), np.int32)
            source[rows[valid]] = np.flatnonzero(valid)
            padded = g if len(np.unique(source)) == size and source.max() < len(rows) else _with_zero(g)
            return (padded.at[source].get(mode="promise_in_bounds", wrap_negative_indices=False),)
        table = np.zeros((size, len(rows)))
        table[rows[valid], np.flatnonzero(valid)] = 1
        return (jnp.matmul(jnp.asarray(table, g.dtype), g, precision=lax.Precision.HIGHEST),)

    select = jax.custom_vjp(take)
    select.defvjp(lambda x: (take(x), None), back)
    return select(x)


def _with_zero(x: Any) -> Any:
    return jnp.concatenate([x, jnp.zeros((1, *x.shape[1:]), x.dtype)])


def _moved(name: str, parameters: Any, operands: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Return the results of an operation that moves entries alone; None for another."""
    if not operands:
        return None
    x = operands[0]
    if len(operands) > 1 and name != "concatenate":
        return None
    if name == "squeeze":
        return [np.squeeze(x, axis=tuple(parameters["dimensions"]))]
    if name == "reshape" and parameters.get("dimensions") is None:
        return [x.reshape(parameters["new_sizes"])]
    if name == "broadcast_in_dim":
        shape, dims = parameters["shape"], parameters["broadcast_dimensions"]
        expanded = [1] * len(shape)
        for axis, dim in enumerate(dims):
            expanded[dim] = x.shape[axis]
        return [np.broadcast_to(x.reshape(expanded), shape)]
    if name == "slice":
        strides = parameters["strides"] or (1,) * x.ndim
        limits = zip(parameters["start_indices"], parameters["limit_indices"], strides, strict=True)
        return [x[tuple(slice(*own) for own in limits)]]
    if name == "transpose":
        return [x.transpose(parameters["permutation"])]
    if name == "rev":
        return [np.flip(x, parameters["dimensions"])]
    if name in ("copy", "copy_p"):
        return [x]
    if name == "concatenate":
        return [np.concatenate(operands, parameters["dimension"])]
    if name == "split":
        ends = np.cumsum(parameters["sizes"])[:-1]
        return list(np.split(x, ends, parameters["axis"]))
    return None


@kept
def slot_vectors(circuit: CapturedCircuit) -> Vectors:
    """Return what fills the slots of `circuit`."""
    return Vectors(circuit.slots_of.trace(circuit.dtype))
