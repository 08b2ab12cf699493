"""What every engine offers: programs, that is circuits made callable for one batch size."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qwafer.circuits import Circuit

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
    """

    def __init__(self, forward: Forward, circuit: Circuit, batch: int, info: Mapping[str, Any]):
        self._forward = forward
        self.circuit = circuit
        self.batch = batch
        self.info = dict(info)
        """What was chosen and why (engine, plan, device, batching, reasons): plain JSON data, written into every
        result."""

    def __call__(self, weights: Weights, inputs: "Float[Array, 'batch n_inputs']") -> "Float[Array, 'batch n_outputs']":
        """Return s (batch, n_outputs) for `inputs` (batch, n_inputs) in radians."""
        return self._forward(weights, inputs)


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
