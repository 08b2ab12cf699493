"""What every engine offers: programs, that is circuits made callable for one batch size."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qwafer._arrays import check_traced
from qwafer._errors import InputError
from qwafer.circuits import Circuit
from qwafer.engines.process import check_not_forked, check_x64

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Weights = Mapping[str, "Array"]
"""The trainable arrays of a circuit by name, of the shapes in `Circuit.weight_shapes()`; radians where they are
angles."""

Forward = Callable[[Weights, "Array"], "Array"]


class Program:
    """A circuit made executable for one batch size: `(weights, inputs (batch, n_inputs)) -> s (batch, n_outputs)`.

    JAX differentiates a program in both arguments (reverse mode, first order), inside `jax.jit` or outside it.
    Values and gradients have the dtype `circuit.dtype`, whatever the engine computes in.

    `made_by` = (engine, gradient, seed) says what was asked for. Programs of equal engine, circuit, batch, gradient and
    seed are equal, hash alike and are made again when unpickled, so that a function of yours that JAX compiled for one
    (`static_argnums`, `eqx.filter_jit`) serves the others. Without `made_by` a program equals itself alone.
    """

    def __init__(
        self,
        forward: Forward,
        circuit: Circuit,
        batch: int,
        info: Mapping[str, Any],
        *,
        made_by: "tuple[Engine, bool, int] | None" = None,
    ):
        check_x64(circuit.dtype)
        self._forward = forward
        self._shapes = circuit.weight_shapes()
        self._made_by = made_by
        self.circuit = circuit
        self.batch = batch
        self.info = dict(info)
        """What was chosen and why (engine, plan, device, batching, reasons): plain JSON data, written into every
        result."""

    def __call__(self, weights: Weights, inputs: "Float[Array, 'batch n_inputs']") -> "Float[Array, 'batch n_outputs']":
        """Return s (batch, n_outputs) for `inputs` (batch, n_inputs) in radians.

        Raises InputError unless `weights` maps exactly the names of `circuit.weight_shapes()` to arrays of these shapes
        and all arrays are real, and for float64 where JAX is in 32 bit. Only shapes and types are looked at, so that
        tracing costs nothing more. Raises CapabilityError in a process forked from one that has run programs.
        """
        check_not_forked()
        check_x64(self.circuit.dtype)
        if not isinstance(weights, Mapping):
            raise InputError(f"`weights` must be a mapping of names to arrays, got {type(weights).__name__}")
        if weights.keys() != self._shapes.keys():
            missing = [name for name in self._shapes if name not in weights]
            surplus = [str(name) for name in weights if name not in self._shapes]
            wrong = f"{missing[0]} is missing" if missing else f"{surplus[0]} is not among them"
            raise InputError(f"`weights` must hold {', '.join(self._shapes) or 'nothing'}; {wrong}")
        for name, shape in self._shapes.items():
            check_traced(f"weights[{name!r}]", weights[name], shape)
        check_traced("inputs", inputs, (self.batch, self.circuit.n_inputs))
        return self._forward({name: weights[name] for name in self._shapes}, inputs)

    def _request(self) -> tuple[Any, ...]:
        return () if self._made_by is None else (*self._made_by, self.circuit, self.batch)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program):
            return NotImplemented
        return self is other or (self._made_by is not None and self._request() == other._request())

    def __hash__(self) -> int:
        return hash(self._request()) if self._made_by is not None else id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_by is None:
            raise TypeError("this program says not what made it, so that it cannot be pickled: give it `made_by`")
        return _made_again, self._request()


def _made_again(engine: "Engine", gradient: bool, seed: int, circuit: Circuit, batch: int) -> Program:
    return engine.program(circuit, batch, gradient=gradient, seed=seed)


class Engine(Protocol):
    """How circuits are executed: a frozen dataclass whose fields are its options.

    Obtain one with `qwafer.engines.get(name, **options)`, or make it.
    """

    name: ClassVar[str]

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the program of `circuit` for batches of exactly `batch` examples.

        With `gradient=False` the program does no gradient work and differentiating it is an error or undefined. `seed`:
        seed of the shot noise; without effect on exact results. Raises CapabilityError where the engine cannot run
        `circuit`, InputError where it does not fit in memory.
        """
        ...

    def why_not(self, circuit: Circuit) -> str | None:
        """Return why this engine cannot run `circuit`; None: it can."""
        ...
