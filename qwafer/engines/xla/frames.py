"""In which order amplitudes are stored: CNOT, SWAP and X change the order, and no amplitude moves."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from qwafer.engines.xla import arrays, wiring


@dataclasses.dataclass(frozen=True)
class Frame:
    """Place j holds the amplitude of basis state A j ^ b, with A linear over GF(2)."""

    order: wiring.Permutation
    """A."""
    offset: int = 0
    """b."""

    @property
    def n(self) -> int:
        """Wires."""
        return len(self.order.images)

    def moved(self, wires: Sequence[int], images: Sequence[int], offset: int) -> "Frame":
        """Return the frame after the gate that maps basis states of `wires` k -> P k ^ offset, P by its images."""
        bits = [self.n - 1 - wire for wire in reversed(wires)]  # bit k of the gate is bit bits[k] of the state

        def spread(number: int) -> int:
            return sum(1 << bit for k, bit in enumerate(bits) if number >> k & 1)

        own = list(wiring.identity(self.n).images)
        for bit, image in zip(bits, images, strict=True):
            own[bit] = spread(image)
        gate = wiring.Permutation(tuple(own))
        return Frame(gate[self.order], gate(self.offset) ^ spread(offset))

    def mask(self, mask: int) -> tuple[int, int]:
        """Return m and the sign s with (-1)^(mask . state) = s (-1)^(m . place)."""
        own = sum((bin(mask & image).count("1") & 1) << k for k, image in enumerate(self.order.images))
        return own, 1 - 2 * (bin(mask & self.offset).count("1") & 1)

    @functools.cached_property
    def inverse(self) -> wiring.Permutation:
        """The inverse of A."""
        return self.order.inverse

    def bit(self, wire: int) -> int | None:
        """Return the bit of places that changes with the state of `wire` and with nothing else, nor it with another;
        None where there is none.
        """
        own = 1 << (self.n - 1 - wire)
        holding = [k for k, image in enumerate(self.order.images) if image & own]
        return holding[0] if len(holding) == 1 and self.order.images[holding[0]] == own else None

    def index_to(self, other: "Frame") -> np.ndarray | jax.Array | None:
        """Return where the amplitudes of `other` are in this frame, (2^n,); None where nothing moves."""
        linear, shift = self.inverse[other.order], self.inverse(self.offset ^ other.offset)
        if linear == wiring.identity(self.n) and not shift:
            return None
        return arrays.places(linear) ^ np.int32(shift)


def wire_order(wires: Sequence[int]) -> Frame:
    """Return the frame with the bits of all `wires` in this order, the first most significant."""
    n = len(wires)
    return Frame(wiring.Permutation(tuple(1 << (n - 1 - wire) for wire in reversed(wires))))
