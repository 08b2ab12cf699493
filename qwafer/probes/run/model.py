"""The built-in heads and losses once more, in NumPy and float64: logits and gradients from formulas alone.

Nothing here comes from the heads, the objective or the engines; circuits are executed by the probes' own state vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.circuits.statevector import bloch_vectors, states, values
from qwafer.config import RunConfig
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions
from qwafer.objective import Asymmetric, Bce, Focal, RocAuc, Softmax

Arrays = Mapping[str, np.ndarray]
Slope = Callable[[np.ndarray], np.ndarray]
"""The derivative of a loss in the logits, as a function of them."""
MOST_QUBITS = 8
"""Wires of the largest circuit that is executed again."""
AMPLITUDES = 1 << 19
"""Amplitudes that are held at a time."""
STEP = 1e-4
"""Step of central differences, radians: their error is of the order of its square."""


TINY = np.finfo(np.float32).tiny


def why_not(config: RunConfig, n_labels: int) -> str | None:
    """Return why head, circuit, engine or loss of `config` cannot be executed again, as a clause; None if they can."""
    if type(config.head) not in (QuantumOptions, LinearOptions, MlpOptions):
        return f"head {config.name('head')} is not a built-in head of the loop"
    if type(config.objective) not in (Bce, Focal, Asymmetric, Softmax, RocAuc):
        return f"loss {config.name('objective')} is not a built-in loss"
    if config.circuit is None:
        return None
    if config.head.angle_bits is not None:
        return f"the head rounds its angles to {config.head.angle_bits} bits"
    if config.head.projection_bits is not None:
        return f"the head rounds its projection to {config.head.projection_bits} bits"
    spec = config.circuit.circuit(n_labels)
    if type(spec) is not CircuitSpec:
        return f"circuit {config.name('circuit')} is not a layered one"
    if spec.n_qubits > MOST_QUBITS:
        return f"{spec.n_qubits} wires are more than {MOST_QUBITS}"
    if getattr(config.engine, "shots", None) is not None:
        return "finite shots are random"
    return None


@dataclass(frozen=True, eq=False)
class Statistics:
    """What standardises features: (D,) mean and scale."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        """Return those of training features (M, D); a feature without spread has scale 1."""
        wide = features.astype(np.float64)
        mean = wide.sum(axis=0) / len(wide)
        scale = np.sqrt(((wide - mean) ** 2).sum(axis=0) / len(wide))
        flat = scale <= np.finfo(np.float32).eps * np.maximum(np.abs(mean), TINY)
        return cls(mean, np.where(flat, 1.0, scale))

    @classmethod
    def of_range(cls, features: np.ndarray) -> "Statistics":
        """Return those that map training features (M, D) to 0 to 1; a feature without spread has scale 1."""
        low, high = (edge(features.astype(np.float64), axis=0) for edge in (np.min, np.max))
        flat = high - low <= np.finfo(np.float32).eps * np.maximum(np.abs([low, high]).max(axis=0), TINY)
        return cls(low, np.where(flat, 1.0, high - low))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return (features - mean) / scale."""
        return (features.astype(np.float64) - self.mean) / self.scale


def normalizer(config: RunConfig, train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what the head of `config` makes of features (N, D) before its first layer, by training features (M, D)."""
    how = getattr(config.head, "normalize", "raw")
    if how in STATISTICS:
        return STATISTICS[how](train)
    return _of_length_one if how == "l2" else lambda features: features.astype(np.float64)


def _of_length_one(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(length == 0, 1.0, length))


STATISTICS: Mapping[str, Callable[[np.ndarray], Statistics]] = {
    "standard": Statistics.of,
    "min_max": Statistics.of_range,
}
"""Ways to normalise by statistics."""


@dataclass(frozen=True, eq=False)
class Model:
    """A built-in head on standardised features x (N, D)."""

    config: RunConfig
    n_labels: int

    @property
    def spec(self) -> CircuitSpec:
        """The circuit."""
        spec: CircuitSpec = self.config.circuit.circuit(self.n_labels)
        return spec

    def logits(self, arrays: Arrays, x: np.ndarray) -> np.ndarray:
        """Return the logits (N, n_labels); readout gates are applied as gates."""
        if self.config.circuit is None:
            return self._classical(arrays, x)[0]
        spec, weights = self.spec, self._weights(arrays)
        block = max(1, AMPLITUDES >> spec.n_qubits)
        angles = self._angles(self._projected(arrays, x))
        scores = [values(spec, weights, angles[start : start + block]) for start in range(0, len(x), block)]
        return self.alpha(arrays) * (np.concatenate(scores) + arrays["readout.bias"])

    def alpha(self, arrays: Arrays) -> np.ndarray:
        """Return alpha (n_labels,)."""
        raw = arrays.get("alpha.raw")
        value = arrays["alpha.value"] if raw is None else np.logaddexp(0, raw) + 1e-3
        return np.broadcast_to(value, (self.n_labels,))

    def gradient(self, arrays: Arrays, x: np.ndarray, slope: Slope, keep: np.ndarray | None = None) -> Arrays:
        """Return the gradient of a loss by the name of each parameter; `slope(logits)` is its derivative in them.

        `keep` (N, hidden) are the factors of dropout.
        """
        if self.config.circuit is None:
            return self._classical_gradient(arrays, x, slope, keep)
        n = self.spec.n_qubits
        z = self._projected(arrays, x)
        angles, ansatz = self._angles(z), arrays["circuit.ansatz"]
        bloch = self._bloch(ansatz, angles)
        matrix, parts = self._readout(arrays)  # (K, n, 3)
        scores = np.einsum("kic,bic->bk", matrix, bloch)
        alpha, bias = self.alpha(arrays), arrays["readout.bias"]
        dl = slope(alpha * (scores + bias))
        ds = alpha * dl
        found = {"readout.bias": ds.sum(axis=0)}
        dalpha = (dl * (scores + bias)).sum(axis=0)
        for name, factor in (("alpha.raw", _sigmoid), ("alpha.value", np.ones_like)):
            if name in arrays:
                own = dalpha if arrays[name].ndim else dalpha.sum()
                found[name] = own * factor(arrays[name])
        dmatrix = np.einsum("bk,bic->kic", ds, bloch)
        for name, derivative in parts.items():
            found[name] = np.einsum("kic,kicp->kip", dmatrix, derivative).reshape(arrays[name].shape)
        dbloch = np.einsum("bk,kic->bic", ds, matrix)

        def along(d_ansatz: Any, d_angles: Any) -> np.ndarray:
            ahead = self._bloch(ansatz + STEP * d_ansatz, angles + STEP * d_angles)
            behind = self._bloch(ansatz - STEP * d_ansatz, angles - STEP * d_angles)
            return np.asarray(np.sum((ahead - behind) * dbloch, axis=(-2, -1)) / (2 * STEP))  # (P, B)

        flat = np.eye(ansatz.size).reshape(ansatz.size, 1, *ansatz.shape)
        chunk = max(1, AMPLITUDES // (len(x) << n))
        pieces = [flat[start : start + chunk] for start in range(0, len(flat), chunk)]
        columns = [along(e, 0.0).sum(axis=1) for e in pieces]
        found["circuit.ansatz"] = np.concatenate([*columns, np.zeros(0)]).reshape(ansatz.shape)
        inputs = [along(0.0, e) for e in np.eye(n)[:, None, None, :]]
        dz = np.concatenate(inputs).T * self._angle_slope(z)
        found["projection.weight"], found["projection.bias"] = x.T @ dz, dz.sum(axis=0)
        return found

    def _projected(self, arrays: Arrays, x: np.ndarray) -> np.ndarray:
        return x @ arrays["projection.weight"] + arrays["projection.bias"]

    def _angles(self, z: np.ndarray) -> np.ndarray:
        head = self.config.head
        if head.angle_map == "linear":
            return np.asarray(head.angle_scale * z)
        return np.asarray(head.angle_scale * (np.tanh(z) if head.angle_map == "tanh" else 2 / np.pi * np.arctan(z)))

    def _angle_slope(self, z: np.ndarray) -> np.ndarray:
        head = self.config.head
        if head.angle_map == "linear":
            return np.full_like(z, head.angle_scale)
        return np.asarray(
            head.angle_scale * (1 - np.tanh(z) ** 2 if head.angle_map == "tanh" else 2 / np.pi / (1 + z**2))
        )

    def _bloch(self, ansatz: np.ndarray, angles: np.ndarray) -> np.ndarray:
        spec = self.spec
        return bloch_vectors(states(spec, {"ansatz": ansatz}, angles), spec.n_qubits)

    def _weights(self, arrays: Arrays) -> dict[str, np.ndarray]:
        readout = [value for name, value in arrays.items() if name in ("readout.weights", "readout.angles")]
        return {"ansatz": arrays["circuit.ansatz"], **({"readout": readout[0]} if readout else {})}

    def _readout(self, arrays: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return M (K, n, 3) and its derivatives (K, n, 3, P) by parameter."""
        n, k = self.spec.n_qubits, self.n_labels
        if "readout.weights" in arrays:
            e_z = np.array([0.0, 0.0, 1.0])
            return arrays["readout.weights"][..., None] * e_z, {
                "readout.weights": np.broadcast_to(e_z[:, None], (k, n, 3, 1))
            }
        if "readout.angles" not in arrays:
            return np.broadcast_to(np.array([0.0, 0.0, 1 / n]), (k, n, 3)), {}
        a, b, _ = np.moveaxis(arrays["readout.angles"], -1, 0)
        zero = np.zeros_like(a)
        matrix = np.stack([-np.sin(b) * np.cos(a), np.sin(b) * np.sin(a), np.cos(b)], axis=-1) / n
        by_a = np.stack([np.sin(b) * np.sin(a), np.sin(b) * np.cos(a), zero], axis=-1) / n
        by_b = np.stack([-np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), -np.sin(b)], axis=-1) / n
        return matrix, {"readout.angles": np.stack([by_a, by_b, np.zeros_like(by_a)], axis=-1)}

    def _classical(self, p: Arrays, x: np.ndarray, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits and the hidden units before the output layer (features themselves for a linear head)."""
        if "projection.linear.weight" in p:
            return x @ p["projection.linear.weight"] + p["projection.linear.bias"], x
        hidden = np.maximum(x @ p["projection.hidden.weight"] + p["projection.hidden.bias"], 0)
        hidden = hidden if keep is None else hidden * keep
        return hidden @ p["projection.output.weight"] + p["projection.output.bias"], hidden

    def _classical_gradient(self, p: Arrays, x: np.ndarray, slope: Slope, keep: np.ndarray | None) -> Arrays:
        logits, hidden = self._classical(p, x, keep)
        dl = slope(logits)
        last = "linear" if "projection.linear.weight" in p else "output"
        found = {f"projection.{last}.weight": hidden.T @ dl, f"projection.{last}.bias": dl.sum(axis=0)}
        if last == "output":
            active = x @ p["projection.hidden.weight"] + p["projection.hidden.bias"] > 0
            dhidden = dl @ p["projection.output.weight"].T * active * (1.0 if keep is None else keep)
            found |= {"projection.hidden.weight": x.T @ dhidden, "projection.hidden.bias": dhidden.sum(axis=0)}
        return found


class OwnLoss:
    """A built-in loss, with what it takes from the training labels (M, n_labels)."""

    def __init__(self, options: Any, labels: np.ndarray):
        self.options, k = options, labels.shape[1]
        counts = labels.astype(np.float64).sum(axis=0)
        beta = options.effective_beta

        def size(n: np.ndarray, rule: str) -> np.ndarray:
            return (1 - beta**n) / (1 - beta) if rule == "effective" else n

        def numbers(rule: str | None) -> np.ndarray | None:
            if rule in ("balanced", "effective"):
                return None
            return np.resize([1.0] if rule is None else [float(part) for part in rule.split(",")], k)

        rule = getattr(options, "pos_weight", None)
        rest, both = len(labels) - counts, (counts > 0) & (counts < len(labels))
        given = numbers(rule)
        ratio = size(np.where(both, rest, 1), rule or "") / size(np.where(both, counts, 1), rule or "")
        self.positive = np.where(both, ratio, 1.0) if given is None else given
        rule, given = options.class_weights, numbers(options.class_weights)
        rare = 1 / size(np.maximum(counts, 1), rule or "")
        mean = (rare * counts).sum() / counts.sum() if isinstance(options, Softmax) else rare.mean()
        self.classes = rare / mean if given is None else given

    def value(self, logits: np.ndarray, labels: np.ndarray) -> float | None:
        """Return the mean over examples (N, n_labels); None for a loss of pairs, which the loop takes in blocks."""
        if isinstance(self.options, RocAuc):
            return None
        if isinstance(self.options, Softmax):
            shifted = logits - logits.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            return float(-((labels @ self.classes) * (self._smooth(labels) * logs).sum(axis=1)).mean())
        return float((self.classes * self._each(logits, self._smooth(labels))).mean())

    def slope(self, labels: np.ndarray, weights: np.ndarray) -> Slope:
        """Return the derivative of the batch's loss as a function of the logits (batch, n_labels)."""
        labels = labels.astype(np.float64)
        share = weights[:, None] / weights.sum()

        def pairs(logits: np.ndarray) -> np.ndarray:
            found, total = np.zeros_like(logits), 0.0
            for k in range(logits.shape[1]):
                up, down = weights * labels[:, k], weights * (1 - labels[:, k])
                mass = up.sum() * down.sum()
                if mass > 0:
                    pull = up[:, None] * down[None] * _sigmoid(logits[None, :, k] - logits[:, None, k]) / mass
                    found[:, k] = self.classes[k] * (pull.sum(axis=0) - pull.sum(axis=1))
                    total += self.classes[k]
            return found / total if total else found

        def exclusive(logits: np.ndarray) -> np.ndarray:
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            softmax = odds / odds.sum(axis=1, keepdims=True)
            return share * (labels @ self.classes)[:, None] * (softmax - self._smooth(labels))

        def per_label(logits: np.ndarray) -> np.ndarray:
            smooth, h = self._smooth(labels), 1e-5
            each = (self._each(logits + h, smooth) - self._each(logits - h, smooth)) / (2 * h)
            return share * self.classes / logits.shape[1] * each

        return {RocAuc: pairs, Softmax: exclusive}.get(type(self.options), per_label)

    def _smooth(self, labels: np.ndarray) -> np.ndarray:
        share = self.options.label_smoothing
        return (1 - share) * labels + share / (labels.shape[1] if isinstance(self.options, Softmax) else 2)

    def _each(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the loss of each example and label (N, n_labels) from log p and log(1 - p)."""
        log_p, log_q, options = -np.logaddexp(0, -logits), -np.logaddexp(0, logits), self.options
        if isinstance(options, Focal):
            gain, cost = np.exp(options.focal_gamma * log_q), np.exp(options.focal_gamma * log_p)
            return -(self.positive * labels * gain * log_p + (1 - labels) * cost * log_q)
        if isinstance(options, Asymmetric):
            shifted = np.maximum(np.exp(log_p) - options.asymmetric_clip, 0)
            log_rest = np.log1p(-shifted) if options.asymmetric_clip else log_q
            gain = np.exp(options.asymmetric_gamma_pos * log_q)
            cost = np.where(shifted > 0, shifted**options.asymmetric_gamma_neg, 0)
            return -(self.positive * labels * gain * log_p + (1 - labels) * cost * log_rest)
        return -(self.positive * labels * log_p + (1 - labels) * log_q)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
