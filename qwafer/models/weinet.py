"""Convolution by ancillas (Wei et al. 2022, arXiv:2104.06918): nine shifts of an image, one for each ancilla state.

Four ancillas hold sqrt(softmax(s)) on nine basis states (mu, nu), and shift rows by mu - 1 and columns by nu - 1 of the
image in the amplitudes of the others. The trace over the ancillas is a mixture of nine images, whose <Z_i> and
<Z_i Z_j> are summed with trained weights. What is measured is diagonal, so that the model is linear in the squared
pixels of the normalised image: its null is a linear head. The filters of the paper divide out.

`as_published` is the code of Bowles, Ahmed and Schuld 2024: its nine circuits are made in a loop whose variables they
read when they are called, so that all apply the last shift, (+1, +1), and s does nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.circuits.captured import Initial
from qwafer.models.base import DESCRIBED, PUBLISHED, ModelCircuit, wires_for

N_ANCILLAS = 4


def weinet(weights: Any, x: Any, *, side: int, variant: str) -> Any:
    """sum_o w_o <O_o> over the observables of `observed_words`."""
    import jax
    import jax.numpy as jnp
    import pennylane as qml

    half = wires_for(side)
    image = jnp.zeros((2**half, 2**half), x.dtype).at[:side, :side].set(x.reshape(side, side))
    image = image / jnp.sqrt(jnp.sum(image**2))
    work = [N_ANCILLAS + wire for wire in range(2 * half)]
    roots = jnp.sqrt(jax.nn.softmax(weights["s"])).reshape(3, 3)
    ancillas = jnp.zeros((4, 4), x.dtype).at[:3, :3].set(roots)
    qml.StatePrep(ancillas.ravel(), wires=range(N_ANCILLAS), validate_norm=False)
    qml.StatePrep(image.ravel(), wires=work, validate_norm=False)
    for ancilla, register in (((0, 1), work[:half]), ((2, 3), work[half:])):
        if variant == PUBLISHED:
            _shift(register, 1, (), ())
        else:
            _shift(register, -1, ancilla, (0, 0))
            _shift(register, 1, ancilla, (1, 0))
    observables = [_word(wires, work) for wires in observed_words(half)]
    return qml.expval(qml.dot(weights["coefficients"], observables))


def observed_words(half: int) -> list[tuple[int, ...]]:
    """Return the wires of each observable: Z_i and Z_i Z_j without the last wire of rows and columns, and the identity.

    Pooling drops these two wires.
    """
    kept = [wire for wire in range(2 * half - 1) if wire != half - 1]
    pairs = [(i, *rest) for i in kept for rest in [(), *((j,) for j in kept if j > i)]]
    return [*pairs, ()]


def _word(wires: tuple[int, ...], work: list[int]) -> Any:
    import pennylane as qml

    return qml.prod(*(qml.Z(work[wire]) for wire in wires)) if wires else qml.Identity(work[0])


def _shift(register: list[int], by: int, controls: tuple[int, ...], values: tuple[int, ...]) -> None:
    """Take basis state |j> to |j - by|, cyclically, where the controls have these values."""
    import pennylane as qml

    n = len(register)
    for k in range(n):
        place = k if by == -1 else n - 1 - k  # the carry of adding 1 goes from the first wire on, its inverse back
        lower = register[place + 1 :]
        wires = (*controls, *lower, register[place])
        if len(wires) == 1:
            qml.X(wires[0])
        else:
            qml.MultiControlledX(wires=wires, control_values=[*values, *([1] * len(lower))])


@dataclass(frozen=True)
class WeiNet(ModelCircuit):
    """Square images of n_inputs pixels, filled up to sides of a power of two, on 2 ceil(log2 side) + 4 wires."""

    n_inputs: int = 16
    """Pixels: a square number, at least 9."""
    variant: str = DESCRIBED
    """`as_described`: nine shifts; `as_published`: the last one of them nine times."""

    function: ClassVar[str] = "weinet"
    least_inputs: ClassVar[int] = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("circuit.variant", self.variant, (DESCRIBED, PUBLISHED))
        if self.side**2 != self.n_inputs:
            raise InputError(f"`circuit.n_inputs` must be the pixels of a square image, got {self.n_inputs}")

    @property
    def side(self) -> int:
        """Rows and columns of the image."""
        return math.isqrt(self.n_inputs)

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of mixture and weights."""
        return {"s": (9,), "coefficients": (len(observed_words(wires_for(self.side))),)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return side and variant."""
        return {"side": self.side, "variant": self.variant}

    def initial(self) -> dict[str, Initial]:
        """Return how the weights start."""
        n_words = len(observed_words(wires_for(self.side)))
        return {"s": ("normal", 0.0, 1.0), "coefficients": ("normal", 0.0, 1 / n_words)}
