"""The circuits of Bowles, Ahmed and Schuld 2024 as their users write them: QNodes of one example on `default.qubit`."""

import functools
import math

import numpy as np
import pennylane as qml


def node(n_wires):
    """Make a QNode without gradients of a function of PennyLane gates."""

    def made(function):
        qnode = qml.QNode(function, qml.device("default.qubit", wires=n_wires), diff_method=None)
        return lambda w, x: np.asarray(qnode(w, x), np.float64).ravel()

    return made


def padded(x, n_amplitudes):
    x = np.concatenate([x, np.full(n_amplitudes - len(x), 1 / n_amplitudes)])
    return x / np.linalg.norm(x)


def circuit_centric(n_features, copies):
    per_copy = math.ceil(math.log2(n_features))
    n = per_copy * copies

    @node(n)
    def circuit(w, x):
        one = padded(x, 2**per_copy)
        qml.AmplitudeEmbedding(functools.reduce(np.kron, [one] * copies), wires=range(n))
        qml.StronglyEntanglingLayers(w["angles"], wires=range(n))
        return qml.expval(qml.PauliZ(0))

    return circuit


def reuploading(n_features, n_layers, variant):
    n = math.ceil(n_features / 3)

    def cz(layer):
        for i in range(layer % 2, n - 1, 2):
            qml.CZ(wires=[i, i + 1])

    @node(n)
    def circuit(w, x):
        x = np.pad(x, (0, 3 * n - n_features))
        omegas = w.get("omegas", np.ones((n_layers + 1, 3 * n)))
        last = n_layers

        def each(angles):
            for i in range(n):
                qml.Rot(*angles(i, slice(3 * i, 3 * i + 3)), wires=i)

        if variant == "no_trainable_embedding":
            for layer in range(n_layers + 1):
                each(lambda i, s, layer=layer: x[s] * omegas[layer, s])
            for layer in range(n_layers):
                each(lambda i, s, layer=layer: w["thetas"][i, layer])
                cz(layer)
            each(lambda i, s: w["thetas"][i, last])
        else:
            for layer in range(n_layers):
                if variant == "full":
                    for i in range(n):
                        qml.Rot(*(x[3 * i : 3 * i + 3] * omegas[layer, 3 * i : 3 * i + 3]), wires=i)
                        qml.Rot(*w["thetas"][i, layer], wires=i)
                else:
                    each(lambda i, s, layer=layer: x[s] * omegas[layer, s] + w["thetas"][i, layer])
                if variant != "separable":
                    cz(layer)
            each(lambda i, s: x[s] * omegas[last, s] + w["thetas"][i, last])
        return [qml.expval(qml.PauliZ(i)) for i in range(n)]

    return circuit


def dressed(n, n_layers, entangled):
    @node(n)
    def body(w, x):
        for i in range(n):
            qml.Hadamard(wires=i)
            qml.RY(x[i], wires=i)
        for layer in range(n_layers):
            for i in range(n):
                qml.RY(w["circuit"][layer, i], wires=i)
            if entangled:
                for i in range(n):
                    qml.CNOT(wires=[i, (i + 1) % n])
        return [qml.expval(qml.PauliZ(wires=i)) for i in range(n)]

    return lambda w, x: w["output"] @ body(w, x)


def iqp_variational(n, repeats):
    @node(n)
    def circuit(w, x):
        qml.IQPEmbedding(x, wires=range(n), n_repeats=repeats)
        qml.StronglyEntanglingLayers(w["angles"], wires=range(n), imprimitive=qml.CZ)
        return qml.expval(qml.PauliZ(0) @ qml.PauliZ(1))

    return circuit


def vanilla(n, layers):
    @node(n)
    def circuit(w, x):
        for _ in range(layers):
            for j in range(n):
                qml.RX(x[j], wires=j)
            for i in range(n):
                qml.CNOT(wires=[i, (i + 1) % n])
        qml.StronglyEntanglingLayers(w["angles"], wires=range(n), imprimitive=qml.CZ)
        return qml.expval(qml.PauliZ(0))

    return circuit


def separable_variational(n, layers):
    @node(1)
    def single(w, x):
        for layer in range(layers):
            qml.Rot(w[layer, 0], w[layer, 1], w[layer, 2], wires=0)
            qml.RY(x, wires=0)
        qml.Rot(*w[layers], wires=0)
        return qml.expval(qml.PauliZ(wires=0))

    return lambda w, x: np.mean([single(w["angles"][i], x[i]) for i in range(n)], axis=0)


def tree_tensor(n_features):
    n = 2 ** math.ceil(math.log2(math.ceil(math.log2(n_features))))

    @node(n)
    def circuit(w, x):
        qml.AmplitudeEmbedding(padded(x, 2**n), wires=range(n))
        count = 0
        for layer in range(int(math.log2(n))):
            for q in range(0, n, 2**layer):
                qml.RY(w["angles"][count], wires=q)
                count += 1
            for i in range(0, n, 2 ** (layer + 1)):
                qml.CNOT(wires=[i + 2**layer, i])
        qml.RY(w["angles"][count], wires=0)
        return qml.expval(qml.PauliZ(0))

    return circuit


def weinet(side, *, as_published):
    """Nine circuits on the work register alone, mixed by softmax(s); as published, all of them are the last one."""
    half = math.ceil(math.log2(side))
    n, height = 2 * half, 2**half
    wires = [i for i in range(n - 1) if i != half - 1]
    operators = []
    for i in wires:
        operators.append(qml.PauliZ(i))
        operators += [qml.PauliZ(i) @ qml.PauliZ(j) for j in wires if j > i]
    operators.append(qml.Identity(0))

    def shift(k):
        matrix = np.zeros((height, height))
        for i in range(height):
            matrix[i, (i + k) % height] = 1
        return matrix

    def one(rows, columns):
        @node(n)
        def circuit(w, x):
            image = np.zeros((height, height))
            image[:side, :side] = x.reshape(side, side)
            qml.AmplitudeEmbedding(image.ravel(), wires=range(n), normalize=True)
            qml.QubitUnitary(np.kron(shift(rows), shift(columns)), wires=range(n))
            return [qml.expval(op) for op in operators]

        return circuit

    shifts = [(1, 1)] * 9 if as_published else [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    circuits = [one(a, b) for a, b in shifts]

    def model(w, x):
        p = np.exp(w["s"] - w["s"].max())
        values = sum(share * circuit(w, x) for share, circuit in zip(p / p.sum(), circuits, strict=True))
        return np.atleast_1d(w["coefficients"] @ values)

    return model


def overlap(n, embed):
    """The kernel |<0|U(y)^dagger U(x)|0>|^2 of one pair, by the adjoint of the embedding."""

    @node(n)
    def circuit(pair, _):
        embed(pair[0])
        qml.adjoint(embed)(pair[1])
        return qml.probs(wires=range(n))

    return lambda x, y: circuit((x, y), None)[0]
