"""PennyLane functions that the tests of captured circuits share."""

import jax.numpy as jnp
import pennylane as qml

MATRIX = jnp.array([[0.6, 0.8], [0.8, -0.6]])

GATES = {
    "RX": lambda t: qml.RX(t[0], 0),
    "RY": lambda t: qml.RY(t[0], 1),
    "RZ": lambda t: qml.RZ(t[0], 2),
    "PhaseShift": lambda t: qml.PhaseShift(t[0], 0),
    "Rot": lambda t: qml.Rot(t[0], t[1], t[2], 1),
    "U2": lambda t: qml.U2(t[0], t[1], 0),
    "U3": lambda t: qml.U3(t[0], t[1], t[2], 0),
    "GlobalPhase": lambda t: qml.GlobalPhase(t[0]),
    "IsingXX": lambda t: qml.IsingXX(t[0], [2, 0]),
    "IsingYY": lambda t: qml.IsingYY(t[0], [0, 1]),
    "IsingZZ": lambda t: qml.IsingZZ(t[0], [1, 2]),
    "IsingXY": lambda t: qml.IsingXY(t[0], [0, 2]),
    "CRX": lambda t: qml.CRX(t[0], [2, 0]),
    "CRY": lambda t: qml.CRY(t[0], [0, 1]),
    "CRZ": lambda t: qml.CRZ(t[0], [1, 2]),
    "CRot": lambda t: qml.CRot(t[0], t[1], t[2], [1, 0]),
    "ControlledPhaseShift": lambda t: qml.ControlledPhaseShift(t[0], [0, 2]),
    "CPhaseShift00": lambda t: qml.CPhaseShift00(t[0], [0, 2]),
    "CPhaseShift01": lambda t: qml.CPhaseShift01(t[0], [0, 2]),
    "CPhaseShift10": lambda t: qml.CPhaseShift10(t[0], [0, 2]),
    "PSWAP": lambda t: qml.PSWAP(t[0], [0, 2]),
    "SingleExcitation": lambda t: qml.SingleExcitation(t[0], [0, 2]),
    "SingleExcitationPlus": lambda t: qml.SingleExcitationPlus(t[0], [0, 2]),
    "SingleExcitationMinus": lambda t: qml.SingleExcitationMinus(t[0], [2, 1]),
    "FermionicSWAP": lambda t: qml.FermionicSWAP(t[0], [0, 2]),
    "OrbitalRotation": lambda t: qml.OrbitalRotation(t[0], [0, 1, 2, 3]),
    "DoubleExcitation": lambda t: qml.DoubleExcitation(t[0], [0, 1, 2, 3]),
    "DoubleExcitationPlus": lambda t: qml.DoubleExcitationPlus(t[0], [3, 1, 2, 0]),
    "PCPhase": lambda t: qml.PCPhase(t[0], 3, [0, 1]),
    "MultiRZ": lambda t: qml.MultiRZ(t[0] * t[1], [0, 1, 3]),
    "PauliRot": lambda t: qml.PauliRot(t[0], "XYIZ", [3, 0, 1, 2]),
    "adjoint": lambda t: qml.adjoint(qml.CRot)(t[0], t[1], t[2], [1, 0]),
    "adjoint template": lambda t: qml.adjoint(qml.BasicEntanglerLayers)(t[None, :], wires=[0, 1, 2]),
    "controlled": lambda t: qml.ctrl(qml.RY, control=[2, 3], control_values=[0, 1])(t[0], 0),
    "controlled U3": lambda t: qml.ctrl(qml.U3, control=2)(t[0], t[1], t[2], 0),
    "controlled phase": lambda t: qml.ctrl(qml.GlobalPhase(t[0]), 1),
    "power": lambda t: qml.pow(qml.RX(t[0], 0), 0.5),
    "product": lambda t: qml.prod(qml.RX(t[0], 0), qml.RY(t[1], 1)),
    "exponential": lambda t: qml.exp(qml.X(0) @ qml.Z(2), 1j * t[0]),
    "evolution": lambda t: qml.evolve(qml.X(0) @ qml.Y(1) + 0.5 * qml.Z(2), t[0]),
    "trotter": lambda t: qml.TrotterProduct(qml.X(0) @ qml.Z(1) + qml.Z(0), t[0], n=2, order=2),
    "QubitUnitary": lambda t: qml.QubitUnitary(MATRIX, 2),
    "QubitUnitary given": lambda t: qml.QubitUnitary(
        jnp.array([[jnp.cos(t[0]), -1j * jnp.sin(t[0])], [-1j * jnp.sin(t[0]), jnp.cos(t[0])]]), 1
    ),
    "ControlledQubitUnitary": lambda t: qml.ControlledQubitUnitary(MATRIX, wires=[0, 2, 1]),
    "DiagonalQubitUnitary": lambda t: qml.DiagonalQubitUnitary(
        jnp.exp(1j * jnp.array([t[0], t[1], t[2], 1.0])), [2, 0]
    ),
    "H S T SX": lambda t: (qml.Hadamard(0), qml.S(1), qml.T(2), qml.SX(3)),
    "X Y Z": lambda t: (qml.X(0), qml.Y(1), qml.Z(2), qml.adjoint(qml.T(3))),
    "CNOT CZ CY CH": lambda t: (qml.CNOT([0, 2]), qml.CZ([1, 2]), qml.CY([2, 0]), qml.CH([3, 1])),
    "SWAP ISWAP": lambda t: (qml.SWAP([0, 2]), qml.ISWAP([1, 0]), qml.SISWAP([1, 3]), qml.ECR([2, 3])),
    "Toffoli CSWAP CCZ": lambda t: (qml.Toffoli([2, 0, 1]), qml.CSWAP([0, 1, 3]), qml.CCZ([3, 1, 0])),
    "MultiControlledX": lambda t: qml.MultiControlledX([0, 1, 2, 3], control_values=[1, 0, 1]),
    "QFT": lambda t: qml.QFT([0, 1, 2]),
    "Permute": lambda t: qml.Permute([2, 0, 1], [0, 1, 2]),
    "QAOAEmbedding": lambda t: qml.QAOAEmbedding(t[:2], weights=t.reshape(1, 3), wires=[0, 2]),
    "IQPEmbedding": lambda t: qml.IQPEmbedding(t, wires=[0, 1, 3], n_repeats=2),
    "AngleEmbedding": lambda t: qml.AngleEmbedding(t, wires=[0, 1, 3], rotation="Y"),
    "constant": lambda t: (qml.RX(0.3, 0), qml.Rot(0.1, 0.2, 0.3, 1), qml.RZ(jnp.pi * jnp.ones(2)[0] / 5, 2)),
}
"""One gate, or a few, of the numbers t (3,) on wires 0 to 3."""

STARTS = {
    "AmplitudeEmbedding": lambda t: qml.AmplitudeEmbedding(t, wires=[2, 0], pad_with=0.3, normalize=True),
    "StatePrep": lambda t: qml.StatePrep(jnp.exp(1j * t[:2]) / jnp.sqrt(2), wires=[1]),
    "BasisState": lambda t: qml.BasisState([1, 0, 1], wires=[3, 1, 0]),
    "BasisEmbedding": lambda t: qml.BasisEmbedding([0, 1, 1], wires=[3, 1, 0]),
}


def mixed(t):
    """Turn |0...0> so that no gate leaves it alone."""
    for wire in range(4):
        qml.RY(0.4 + 0.3 * wire, wire)
        qml.RZ(0.9 - 0.2 * wire, wire)
    qml.CNOT([0, 1])
    qml.CNOT([2, 3])


def measured(weights):
    """Return a measurement of every kind, with trained coefficients among them."""
    return (
        qml.expval(qml.Z(0)),
        qml.expval(qml.X(0) @ qml.Y(2) @ qml.Y(1)),
        qml.expval(
            qml.Hamiltonian([weights["c"][0], weights["c"][1] ** 2, 0.5], [qml.Z(0) @ qml.X(1), qml.Y(3), qml.I(0)])
        ),
        qml.expval(qml.Projector([1, 0], [1, 2])),
        qml.expval(qml.Hermitian(jnp.array([[1.0, 2j], [-2j, 0.5]]), 3)),
        qml.probs(wires=[2, 0]),
    )


def some_of(names):
    """Return the function that applies these gates: the odd ones to weights, the even ones to weights and inputs."""

    def function(weights, x):
        for name in names:
            if name in STARTS:
                STARTS[name](x + 0.2)
        mixed(x)
        for place, name in enumerate(names):
            if name in GATES:
                GATES[name](weights["w"][place] * x + 0.1 if place % 2 else weights["w"][place])
        return measured(weights)

    return function, {"w": (len(names), 3), "c": 2}


def drawn(generator, n_gates):
    """Return the function of `n_gates` random gates with shared parameters and products of them, and its weights."""
    names = [name for name in GATES if name not in ("QFT", "trotter")]
    chosen = [names[i] for i in generator.integers(len(names), size=n_gates)]
    places, kinds = generator.integers(3, size=n_gates), generator.integers(4, size=n_gates)

    def function(weights, x):
        mixed(x)
        for name, place, kind in zip(chosen, places, kinds, strict=True):
            own = weights["w"][place]
            GATES[name]((own, own * x, x[::-1] + own, jnp.sin(own) * x[0])[kind])
        return measured(weights)

    return function, {"w": (3, 3), "c": 2}


def iqp(weights, x):
    """A function that a module holds, so that other processes find it."""
    qml.IQPEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(weights["theta"], wires=range(3))
    return qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.X(2))


def layers(weights, x, n_layers=1, scale=1.0):
    """A body without measurements, and arguments."""
    for _ in range(n_layers):
        qml.AngleEmbedding(scale * x, wires=range(3), rotation="Y")
        qml.StronglyEntanglingLayers(weights["theta"], wires=range(3))


@qml.qnode(qml.device("default.qubit", wires=2))
def node(inputs, w0, w1):
    """A QNode as PennyLane's layers of torch and keras take it."""
    qml.AngleEmbedding(inputs, wires=range(2))
    qml.RX(w0[0] * w1, 0)
    qml.CNOT([0, 1])
    return [qml.expval(qml.Z(wire)) for wire in range(2)]


def composed(generator):
    """Return a random function, its weights, and how many wires it has.

    Gates of `GATES` on random wires of four to six, some as they stand, some adjoint, some controlled; their numbers
    are weights, inputs, products of both, of two weights or of two inputs, or constants; some begin with a state of
    each example. Measured are random words, their sums with trained coefficients, and probabilities.
    """
    n = int(generator.integers(4, 7))
    names = [name for name in GATES if name not in ("QFT", "trotter", "GlobalPhase")]
    gates = [
        (names[generator.integers(len(names))], generator.permutation(n), *map(int, generator.integers((3, 7, 3, 3))))
        for _ in range(int(generator.integers(3, 20)))
    ]
    start = [*STARTS][generator.integers(len(STARTS))] if generator.random() < 0.3 else None
    outputs = [_words(generator, n) for _ in range(int(generator.integers(1, 4)))]
    measured_wires = [int(wire) for wire in generator.permutation(n)[: generator.integers(3)]]

    def numbers(kind, place, other, w, x):
        own = w[place]
        return (own, x, own * x, x[::-1] + own, jnp.sin(own) * x[0], own * w[other], x * x[::-1])[kind]

    def function(weights, x):
        if start:
            STARTS[start](x + weights["w"][0])
        for wire in range(n):
            qml.RY(0.4 + 0.3 * wire + weights["w"][1, wire % 3], wire)
        for name, wires, form, kind, place, other in gates:
            with qml.queuing.AnnotatedQueue() as queue:
                GATES[name](numbers(kind, place, other, weights["w"], x))
            for op in qml.tape.QuantumScript.from_queue(queue).operations:
                _applied(qml.map_wires(op, {wire: int(wires[wire]) for wire in range(4)}), form, wires)
        found = [
            qml.expval(
                qml.dot([factor if trained is None else factor * weights["c"][trained] for factor, trained in by], ops)
            )
            for by, ops in outputs
        ]
        return (*found, qml.probs(wires=measured_wires)) if measured_wires else tuple(found)

    return function, {"w": (3, 3), "c": 2}, n


def _applied(op, form, wires):
    """Apply `op` as it stands, adjoint, or controlled by a wire that it leaves free."""
    free = [int(wire) for wire in wires if wire not in op.wires]
    if form == 1:
        qml.adjoint(op)
    elif form == 2 and free:
        qml.ctrl(op, control=free[0], control_values=[len(free) % 2])
    else:
        qml.apply(op)


def _words(generator, n):
    """Return a sum of Pauli words: ((factor, index of a trained coefficient or None), ...), (word, ...)."""
    by, words = [], []
    for _ in range(int(generator.integers(1, 4))):
        wires = generator.permutation(n)[: generator.integers(1, 4)]
        letters = [(qml.X, qml.Y, qml.Z)[kind] for kind in generator.integers(3, size=len(wires))]
        words.append(qml.prod(*(letter(int(wire)) for letter, wire in zip(letters, wires, strict=True))))
        by.append((float(generator.normal()), (None, 0, 1)[generator.integers(3)]))
    return by, words
