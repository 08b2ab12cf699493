"""The sweep of `sweep.py` as a PennyLane user would write it: a QNode on `default.qubit` under jit and vmap, optax, and
a loop over seeds in Python. Nothing of qwafer is imported.

    python benchmarks/_sweep_pennylane.py DATA.npz --readouts mean_z --seeds 100 --steps 1500

DATA.npz holds `train_x`, `train_y`, `test_x`, `test_y` and `pca`, all of seed 0; seeds differ in batches and initial
values. The step is compiled once per readout. Prints one JSON line: seconds of compiling and of training, and the test
AUC of every seed.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pennylane as qml
from sklearn.metrics import roc_auc_score

N_QUBITS, N_LAYERS, BATCH = 4, 2, 64


def scores(readout: str):
    """Return (params, x (B, 4)) -> mean Z (B,)."""

    @qml.qnode(qml.device("default.qubit", wires=N_QUBITS), interface="jax", diff_method="backprop")
    def circuit(params, x):
        qml.AngleEmbedding(x, wires=range(N_QUBITS), rotation="Y")
        qml.StronglyEntanglingLayers(params["ansatz"], wires=range(N_QUBITS))
        if readout == "mean_z_readout":
            for wire in range(N_QUBITS):
                qml.Rot(*params["readout"][wire], wires=wire)
        return [qml.expval(qml.Z(wire)) for wire in range(N_QUBITS)]

    return jax.vmap(lambda params, x: jnp.stack(circuit(params, x)).mean(), in_axes=(None, 0))


def main() -> None:
    """Train every readout with every seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--readouts", nargs="+", default=["mean_z"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    data = {name: jnp.asarray(value) for name, value in np.load(arguments.data).items()}
    begin, compiling, auc = time.perf_counter(), 0.0, {}
    for readout in arguments.readouts:
        quantum = scores(readout)

        def logits(params, x, quantum=quantum):
            alpha = jax.nn.softplus(params["alpha"]) + 1e-3
            return alpha * (quantum(params, x @ params["projection"] + params["offset"]) + params["bias"])

        optimiser = optax.adamw(1e-2)

        @jax.jit
        def step(params, state, rows, logits=logits, optimiser=optimiser):
            def loss(params):
                x, y = data["train_x"][rows], data["train_y"][rows]
                return optax.sigmoid_binary_cross_entropy(logits(params, x), y).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimiser.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        predict = jax.jit(logits)
        for seed in range(arguments.seeds):
            rng = np.random.default_rng(seed)
            angles = rng.uniform(-np.pi, np.pi, (N_LAYERS + 1, N_QUBITS, 3)).astype(np.float32)
            params = {
                "ansatz": jnp.asarray(angles[:N_LAYERS]),
                "readout": jnp.asarray(angles[N_LAYERS]),
                "projection": data["pca"],
                "offset": jnp.zeros(N_QUBITS),
                "bias": jnp.zeros(()),
                "alpha": jnp.zeros(()),
            }
            state = optimiser.init(params)
            n = len(data["train_x"])
            if seed == 0:
                start = time.perf_counter()
                jax.block_until_ready(step(params, state, jnp.zeros(BATCH, jnp.int32)))
                jax.block_until_ready(predict(params, data["test_x"]))
                compiling += time.perf_counter() - start
            taken = 0
            while taken < arguments.steps:
                order = rng.permutation(n).astype(np.int32)
                for k in range(min(n // BATCH, arguments.steps - taken)):
                    params, state, _ = step(params, state, order[k * BATCH : (k + 1) * BATCH])
                    taken += 1
            found = np.asarray(predict(params, data["test_x"]))
            auc.setdefault(readout, []).append(float(roc_auc_score(np.asarray(data["test_y"]), found)))
    spent = time.perf_counter() - begin
    print(json.dumps({"compile": compiling, "train": spent - compiling, "auc": auc}))


if __name__ == "__main__":
    main()
