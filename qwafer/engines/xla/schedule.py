"""The gates of a circuit as few blocks, each one pass over the states of the batch.

A greedy list scheduler: of all blocks that could come next it takes the one that absorbs most for what it costs. An
element may go first where it commutes with all that stays before it (`absorbed`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

from qwafer.circuits import Circuit, Operation
from qwafer.circuits.gates import CNOT, RZ, Gate, H, S
from qwafer.engines.cache import kept
from qwafer.engines.xla import elements as parts
from qwafer.engines.xla.elements import Element
from qwafer.engines.xla.frames import Frame, wire_order

MOST_SHARED = 5
"""Most wires of a block that the whole batch shares."""
MOST_OWN = 2
"""Most wires of a block whose matrix is that of an example: a matrix of 8 x 8 real numbers times vectors."""
SEEDS = 6
"""Elements from which a block is grown, at most."""

BLOCK_US = 12.0
"""Microseconds that a block takes in itself, forward and back."""
PHASE_NS, TURN_NS, OWN_NS, REAL_OWN_NS, PLAIN_NS = 4.0, 0.06, 4.5, 2.0, 4.0
"""Nanoseconds per amplitude of a phase, of each rotation in it, of an example's own block, of a real one, of a gate."""
MADE_NS = (60.0, 400.0)
"""Nanoseconds per example of making its own matrix on one wire and on two; a third for a real one."""
SHARED_NS = (1.5, 2.0, 3.0, 3.5, 5.5, 10.0)
"""The same of a shared block of 1, 2, ... wires, complex ones of real numbers on both parts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Elements that are one pass over the states."""

    kind: str
    """`phase`: diagonal, on all wires; `shared`: a matrix on `wires` for the batch; `own`: one for every example;
    `plain`: a gate as it is; `moves`: changes of the frame alone."""
    elements: tuple[Element, ...]
    wires: tuple[int, ...] = ()
    real: bool = False
    """Whether its matrix is real."""


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A block and the frame of the states when it is applied, the former frame where amplitudes move for it."""

    block: Block
    frame: Frame
    before: Frame


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A circuit as a product state, or given states, and blocks."""

    n: int
    real: bool
    """Whether all states are real."""
    states: tuple[Operation, ...]
    """States that the circuit prepares."""
    prefix: tuple[tuple[Element, ...], ...]
    """For every wire the gates that come before all that entangles it."""
    first: Frame
    blocks: tuple[Placed, ...]
    last: Frame
    cost: float
    """Expected microseconds of a step."""


@kept
def plan(circuit: Circuit, words: tuple[str, ...], batch: int) -> Plan:
    """Return the plan of `circuit` for so many examples at a time, of which Pauli `words` are read, or the state."""
    n, states = circuit.n_qubits, tuple(op for op in circuit.operations() if op.gate.given == "state")
    found = parts.elements(op for op in circuit.operations() if op.gate.given != "state")
    if words:
        found = parts.without_effect(found, words)
    prepared = {wire for op in states for wire in op.wires}
    prefix: list[tuple[Element, ...]] = []
    for wire in range(n):
        own: list[int] = []
        if wire not in prepared:
            own = _until_own(found, parts.absorbed(found, functools.partial(_single, wire), {wire}))
        prefix.append(tuple(found[place] for place in own))
        found = _without(found, own)
    real = not states and all(element.real for element in (*found, *(e for own in prefix for e in own)))
    variants = [(found, True)]
    if not real and any(element.own for element in found):
        diagonalised = _diagonalised(found)
        variants += [(diagonalised, True), (diagonalised, False)]
    grouped = [_Grouping(n, real, batch, own).blocks(variant) for variant, own in variants]
    blocks, cost = min(grouped, key=lambda pair: pair[1])
    first, placed, last = _placed(n, blocks, states)
    return Plan(n, real, states, tuple(prefix), first, placed, last, cost)


def _single(wire: int, element: Element) -> bool:
    return element.wires == (wire,) and element.gate.given is None


def _until_own(found: Sequence[Element], places: Sequence[int]) -> list[int]:
    """Return the places up to the last gate of an example, and the rotations of the batch that share its axis: what
    comes behind is free in a block of the batch.
    """
    last = max((i for i, place in enumerate(places) if found[place].own), default=-1)
    while 0 <= last < len(places) - 1:
        here, after = found[places[last]], found[places[last + 1]]
        if not (after.turns and after.letters == here.letters):
            break
        last += 1
    return list(places[: last + 1])


def _without(found: Sequence[Element], places: Sequence[int]) -> list[Element]:
    gone = set(places)
    return [element for place, element in enumerate(found) if place not in gone]


class _Grouping:
    """Elements taken into blocks, for states of n wires of so many examples."""

    def __init__(self, n: int, real: bool, batch: int, own: bool):
        """`own`: whether examples may have blocks of their own."""
        self.n, self.real, self.amplitudes, self.own = n, real, 2.0**n * batch, own

    def blocks(self, found: Sequence[Element]) -> tuple[list[Block], float]:
        """Return the blocks of all elements, in order, and their expected microseconds."""
        rest, blocks, total = list(found), [], 0.0
        every = set(range(self.n))
        while rest:
            moves = parts.absorbed(rest, lambda e: e.moves is not None, every)
            if moves:
                blocks.append(Block("moves", tuple(rest[place] for place in moves)))
                rest = _without(rest, moves)
                continue
            _, cost, block, places = max(self._candidates(rest), key=lambda found: found[0])
            blocks.append(block)
            rest, total = _without(rest, places), total + cost
        return blocks, total

    def _candidates(self, rest: list[Element]) -> Iterator[tuple[float, float, Block, list[int]]]:
        """Yield (worth, cost, block, places) of the blocks that may come next."""
        yield from self._phase(rest)
        ready = [e for e in rest if not self._odd(e)]
        seeds = list(dict.fromkeys(tuple(sorted(e.wires)) for e in ready))[:SEEDS]
        largest = min(MOST_SHARED, self.n)
        for seed in seeds:
            yield from self._grown(rest, seed, "shared", largest, lambda e: not e.own)
            if self.own and any(e.own for e in rest):
                yield from self._grown(rest, seed, "own", MOST_OWN, lambda e: True)
                if not self.real:
                    yield from self._grown(rest, seed, "own", MOST_OWN, lambda e: e.real, real=True)
        if self._odd(rest[0]):
            block = Block("plain", (rest[0],), rest[0].wires)
            yield self._rated(block, [0], 1.0)

    def _odd(self, element: Element) -> bool:
        """Whether nothing but a pass of its own applies it."""
        most = (MOST_OWN if self.own else 0) if element.own else MOST_SHARED
        return element.gate.given is not None or (len(element.wires) > most and not element.diagonal)

    def _phase(self, rest: list[Element]) -> Iterator[tuple[float, float, Block, list[int]]]:
        places = parts.absorbed(rest, lambda e: e.diagonal and (e.real or not self.real), set(range(self.n)))
        if not places:
            return
        taken = [rest[place] for place in places]
        own = [e for e in taken if e.own or len(e.wires) > MOST_SHARED]
        value = len(own) + 0.3 * (len(taken) - len(own))
        yield self._rated(Block("phase", tuple(taken), real=self.real), places, value)

    def _grown(
        self,
        rest: list[Element],
        seed: tuple[int, ...],
        kind: str,
        largest: int,
        accepts: Callable[[Element], bool],
        real: bool = False,
    ) -> Iterator[tuple[float, float, Block, list[int]]]:
        """Yield the blocks that grow from the wires of `seed`, wire by wire."""

        def inside(wires: tuple[int, ...]) -> tuple[float, list[int]]:
            own = set(wires)
            places = parts.absorbed(
                rest, lambda e: e.gate.given is None and own.issuperset(e.wires) and accepts(e), own
            )
            return sum(_value(rest[place]) for place in places), places

        wires = seed
        if len(wires) > largest:
            return
        value, places = inside(wires)
        while True:
            if places:
                taken = tuple(rest[place] for place in places)
                if kind == "shared" or any(e.own for e in taken):
                    yield self._rated(Block(kind, taken, wires, real or self.real), places, value)
            others = [wire for wire in range(self.n) if wire not in wires]
            if len(wires) >= largest or not others:
                return
            (value, places), wires = max(
                ((inside((*wires, wire)), (*wires, wire)) for wire in others), key=lambda pair: pair[0][0]
            )

    def _rated(self, block: Block, places: list[int], value: float) -> tuple[float, float, Block, list[int]]:
        if block.kind == "phase":
            per = PHASE_NS + TURN_NS * len(block.elements)
            per = 0.7 if self.real else per
        elif block.kind == "own":
            per = REAL_OWN_NS if block.real else OWN_NS
            per *= 0.5 if len(block.wires) == 1 else 1.0
            per *= 0.5 if self.real else 1.0
        elif block.kind == "shared":
            per = SHARED_NS[len(block.wires) - 1 - (1 if self.real and len(block.wires) > 1 else 0)]
            per *= 0.5 if self.real else 1.0
        else:
            per = PLAIN_NS
        cost = BLOCK_US + 1e-3 * per * self.amplitudes
        if block.kind == "own":
            made = MADE_NS[len(block.wires) - 1] * (0.3 if block.real else 1.0)
            cost += 1e-3 * made * self.amplitudes / 2.0**self.n
        return value / cost, cost, block, places


def _value(element: Element) -> float:
    if element.turns:
        return 1.0
    return 0.1 if element.moves is not None else 0.2 if element.diagonal else 0.5


_TO_Z = {"X": (("H", "H"),), "Y": (("S+", "S"), ("H", "H")), "Z": ()}
_S_BACK = Gate("S+", fixed=((1, 0), (0, -1j)))
_CLIFFORD = {"H": H, "S": S, "S+": _S_BACK}


def _diagonalised(found: Sequence[Element]) -> list[Element]:
    """Return the elements with the rotations of examples about Z words alone, fixed gates around them, H moved to the
    front of CNOTs where that turns these round.
    """
    result: list[Element] = []
    for element in found:
        if not (element.turns and element.own) or element.diagonal or element.op is None:
            result.append(element)
            continue
        word = element.gate.generator or ""
        changes = [(pair, wire) for wire, letter in zip(element.wires, word, strict=True) for pair in _TO_Z[letter]]
        result += [Element(_CLIFFORD[before], (wire,)) for (before, _), wire in changes]
        gate = RZ if len(word) == 1 else Gate(f"R{'Z' * len(word)}", len(word), generator="Z" * len(word))
        result.append(Element(gate, element.wires, element.op))
        result += [Element(_CLIFFORD[after], (wire,)) for (_, after), wire in reversed(changes)]
    return _hadamards_first(result)


def _hadamards_first(found: list[Element]) -> list[Element]:
    """Move pairs of H from behind a CNOT to before it, control and target exchanged; H after H is nothing."""
    found = list(found)
    place = len(found) - 1
    while place >= 0:
        element = found[place]
        if element.gate == CNOT:
            after = [_next(found, place, wire) for wire in element.wires]
            if all(own is not None and found[own].gate == H for own in after):
                for own in sorted((own for own in after if own is not None), reverse=True):
                    del found[own]
                flipped = Element(CNOT, element.wires[::-1])
                found[place : place + 1] = [*(Element(H, (wire,)) for wire in element.wires), flipped]
                place += 2
        elif element.gate == H:
            after_h = _next(found, place, element.wires[0])
            if after_h is not None and found[after_h].gate == H:
                del found[after_h], found[place]
        place -= 1
    return found


def _next(found: Sequence[Element], place: int, wire: int) -> int | None:
    return next((i for i in range(place + 1, len(found)) if wire in found[i].wires), None)


def _placed(n: int, blocks: Sequence[Block], states: Sequence[Operation]) -> tuple[Frame, tuple[Placed, ...], Frame]:
    """Return the frame in which the states begin, the blocks with theirs, and the frame at the end."""
    shared = next((block for block in blocks if block.kind == "shared"), None)
    prepared = [wire for op in states for wire in op.wires]
    frame = _leading(n, shared.wires if shared else ())
    if prepared:
        frame = wire_order((*(wire for wire in range(n) if wire not in prepared), *prepared))
    first = frame
    placed = []
    for block in blocks:
        before = frame
        if block.kind == "moves":
            for element in block.elements:
                images, offset = element.moves or ((), 0)
                frame = frame.moved(element.wires, images, offset)
            continue
        if block.kind == "plain":
            frame = wire_order(range(n))
        bits = [frame.bit(wire) for wire in block.wires]
        lowest = n - len(bits) if block.kind == "shared" else 0
        if any(bit is None or bit < lowest for bit in bits):
            frame = _leading(n, block.wires)
        own = sorted(block.wires, key=lambda wire: -(frame.bit(wire) or 0))
        placed.append(Placed(dataclasses.replace(block, wires=tuple(own)), frame, before))
    return first, tuple(placed), frame


def _leading(n: int, wires: Sequence[int]) -> Frame:
    return wire_order((*sorted(wires), *(wire for wire in range(n) if wire not in wires)))
