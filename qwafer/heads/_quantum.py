"""The quantum head: projection, angles, circuit, readout, alpha and bias."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.circuits import INPUTS, Circuit
from qwafer.circuits.effective import inert
from qwafer.circuits.frequencies import is_periodic
from qwafer.engines import Program
from qwafer.heads._base import Head, HeadInputs, draw, draw_uniform, rounded
from qwafer.heads._few_bits import (
    Layer,
    apply_layer,
    held_codes,
    layer_weights,
    packed_codes,
    quantised_arrays,
    unpacked_codes,
)
from qwafer.heads._normalization import MEAN
from qwafer.heads._packing import pack_bits, unpack_bits
from qwafer.heads._projection import ANGLE_MAPS, orthonormal_frame, principal_axes
from qwafer.heads._quantisers import Quantiser
from qwafer.heads.size import Stored

if TYPE_CHECKING:
    from qwafer.heads.options import QuantumOptions

ALPHA_FLOOR = 1e-3
"""Least alpha of `alpha_mode = "softplus"`."""


class QuantumHead(Head):
    """l(x) = alpha (s(x) + bias) with s the readout of a circuit at angles = angle_scale * map(P^T x + c).

    x are the standardised features, P (D, n_qubits) and c (n_qubits,) the projection. The bias (one per label, trained)
    starts at 0. Alpha is one number, or one per label: softplus(a) + 1e-3 with `alpha.raw` = a, or `alpha.value` itself
    (mode `direct`, which may cross zero and then inverts the ranking). With `angle_bits` = k every angle, of inputs and
    of gates, is the nearest multiple of 2 pi / 2^k, with straight-through gradients; with `projection_bits` P is the
    codes and scales of a `quantised` head. Packed, `projection.codes` and `projection.scale` stand in place of P.
    """

    spec: Circuit = eqx.field(static=True)
    angle_map: str = eqx.field(static=True)
    angle_scale: float = eqx.field(static=True)
    angle_bits: int | None = eqx.field(static=True, default=None)
    projection_bits: int | None = eqx.field(static=True, default=None)

    def inputs(self, features: Float[Array, "batch D"]) -> Float[Array, "batch n_inputs"]:
        """Return the circuit's inputs (batch, n_inputs), angles in radians, of `features` (batch, D)."""
        x, layer = self.standardized(features), self._projection()
        if layer is None:
            z = self.layer(x, "projection")
        else:
            z = apply_layer(self, x, layer_weights(self, layer, train=False), layer)
        angles = to_angles(z, self.angle_map, self.angle_scale)
        return angles if self.angle_bits is None else rounded_angles(angles, self.angle_bits)

    def circuit_weights(self) -> dict[str, Array]:
        """Return the weights that the engine's program takes, by the names of `Circuit.weight_shapes`."""
        weights = {name: self.array(parameter_of(self.spec, name)) for name in self.spec.weight_shapes()}
        if self.angle_bits is not None:
            weights |= {name: rounded_angles(weights[name], self.angle_bits) for name in self.angle_weights()}
        return weights

    def angle_weights(self) -> list[str]:
        """Return the names of the weights that are angles; coefficients of a readout are not."""
        gates = self.spec.readout_facts.gates
        return [name for name in self.spec.weight_shapes() if name != "readout" or gates]

    def _projection(self) -> Layer | None:
        """Return the projection as a layer of few bits; None where its weights are of the head's dtype."""
        if self.projection_bits is None:
            return None
        arrays = {**self.params, **self.buffers}
        n_in, n_out = arrays["projection.codes" if self.is_packed else "projection.weight"].shape
        return Layer("projection", n_in, n_out, Quantiser(str(self.projection_bits)))

    @property
    def is_packed(self) -> bool:
        """Whether the projection is codes, as a packed file gives it; angles of k bits can still be trained."""
        return "projection.codes" in self.buffers

    def packed(self) -> Any:
        """Return the head with angles from -pi to pi in steps of 2 pi / 2^k, and with the codes of its projection, as
        they are stored; itself where neither has few bits. Angles stay after a divergence: a register holds no NaN.
        """
        held = [dict(self.params), dict(self.buffers)]
        names = self._registers()
        if all(np.isfinite(self.array(name)).all() for name in names):
            for name in names:
                held[name in self.buffers][name] = self._of_register(self._register(name))
        layer = self._projection()
        if layer is not None and not self.is_packed:
            weight = held["projection.weight" in self.buffers].pop("projection.weight")
            held[1].update(quantised_arrays(weight, layer))
        return dataclasses.replace(self, params=held[0], buffers=held[1]) if names or layer is not None else self

    def stored(self) -> dict[str, Stored]:
        """Return what a packed file holds: k bits for every trained angle and every weight of the projection, where
        they have so few, and everything else as it is.
        """
        head, layer = self.packed(), self._projection()
        stored = {name: Stored.plain(value) for name, value in {**head.params, **head.buffers}.items()}
        if layer is not None:
            stored.update(packed_codes(layer, head.buffers))
        for name in self._registers():
            codes, bits = self._register(name), self.angle_bits or 0
            stored[name] = Stored(pack_bits(codes, bits), codes.size, codes.size * bits)
        return stored

    def with_stored(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return this head with the arrays that `stored` has given; raise InputError for others."""
        self.check_stored(arrays)
        values, layer = {name: jnp.asarray(value) for name, value in arrays.items()}, self._projection()
        for name in self._registers():
            codes = unpack_bits(arrays[name], self.angle_bits or 0, self.array(name).shape)
            values[name] = self._of_register(codes)
        if layer is not None:
            values.update(held_codes(layer, jnp.asarray(unpacked_codes(layer, arrays), self.dtype)))
        params = {name: values.pop(name) for name in self.params if name in values}
        return dataclasses.replace(self, params=params, buffers=values)

    def _registers(self) -> list[str]:
        """Return the names of the arrays that are angles of k bits."""
        return [] if self.angle_bits is None else [parameter_of(self.spec, weight) for weight in self.angle_weights()]

    def _register(self, name: str) -> np.ndarray:
        """Return the content of the angle register of an array: steps modulo 2^k, 0 for what is not finite."""
        bits = self.angle_bits or 0
        steps = np.round(np.asarray(self.array(name), np.float64) / step_of(bits))
        return np.where(np.isfinite(steps), steps, 0).astype(np.int64) % 2**bits

    def _of_register(self, codes: np.ndarray) -> Array:
        """Return the angles from -pi to pi that `_register` stands for."""
        bits = self.angle_bits or 0
        half = 2 ** (bits - 1)
        return jnp.asarray(((codes + half) % 2**bits - half) * step_of(bits), self.dtype)

    def alpha(self) -> Float[Array, " n_labels"]:
        """Return alpha of each label (n_labels,), also where all share one."""
        if "alpha.raw" in self.params:
            value = jax.nn.softplus(self.params["alpha.raw"]) + jnp.asarray(ALPHA_FLOOR, self.dtype)
        else:
            value = self.array("alpha.value")
        return jnp.broadcast_to(value, (self.n_labels,))

    def scores(self, features: Float[Array, "batch D"], program: Program | None) -> Float[Array, "batch n_labels"]:
        """Return the readout s(x) (batch, n_labels), before bias and alpha."""
        if program is None:
            raise InputError("a quantum head needs the `program` of an engine; see `qwafer.training.make_program`")
        if program.circuit != self.spec:
            raise InputError(
                f"`program` executes another circuit than the head's{_difference(program.circuit, self.spec)}"
            )
        return program(self.circuit_weights(), self.inputs(features))

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits alpha (s + bias) (batch, n_labels); see `Head.logits`."""
        return self.alpha()[None, :] * (self.scores(features, program) + self.array("readout.bias")[None, :])

    def effective(self) -> int | None:
        """Return the number of trainable parameters without the circuit's inert weights, such as the last RZ of every
        readout, and without what projects onto inputs that are inert; None above 12 wires.
        """
        dead = inert(self.spec)
        if dead is None:
            return None
        count = self.count()["trainable"]
        for name in self.spec.weight_shapes():
            count -= int(dead[name].sum()) if parameter_of(self.spec, name) in self.params else 0
        for name in ("projection.weight", "projection.bias"):
            if name in self.params:
                count -= int(np.broadcast_to(dead[INPUTS], self.params[name].shape).sum())
        return count


def _difference(circuit: Circuit, own: Circuit) -> str:
    """Return ": n_layers = 3 where the head's has 2", of the first field that differs; "" for two kinds of circuit."""
    if type(circuit) is type(own) and dataclasses.is_dataclass(circuit):
        for name in (field.name for field in dataclasses.fields(circuit)):
            if getattr(circuit, name) != getattr(own, name):
                return f": {name} = {getattr(circuit, name)} where the head's has {getattr(own, name)}"
    return ""


def to_angles(z: Float[Array, "batch n"], angle_map: str, angle_scale: float) -> Float[Array, "batch n"]:
    """Return the angles in radians of projected features z: `angle_scale` times the map called `angle_map`."""
    return angle_scale * ANGLE_MAPS[angle_map](z)


def step_of(bits: int) -> float:
    """Return the step of an angle register of so many bits, radians."""
    return 2 * math.pi / 2**bits


def rounded_angles(angles: Float[Array, "..."], bits: int) -> Float[Array, "..."]:
    """Return the nearest multiples of 2 pi / 2^bits, with the gradient of `angles` as they are."""
    rounded = jnp.round(angles / step_of(bits)) * step_of(bits)
    return jax.lax.stop_gradient(rounded) + (angles - jax.lax.stop_gradient(angles))


def parameter_of(spec: Circuit, weight: str) -> str:
    """Return the name of the head's parameter that holds a weight of the circuit."""
    return spec.readout_facts.parameter or "" if weight == "readout" else f"circuit.{weight}"


def quantum_head(options: "QuantumOptions", inputs: HeadInputs) -> QuantumHead:
    """Return an untrained `QuantumHead` for the circuit of `inputs`.

    Initial values: projection weights of standard deviation 1/sqrt(D), biases 0, the circuit's weights and readout
    angles normal of standard deviation `init_scale` (where the circuit does not say by `initial` how they start),
    `z_vec` weights 1/n_qubits plus such a number. Readout angles do
    not start at 0: there every label would be the same mean Z, and the first angle of a wire would have no gradient.
    """
    spec = inputs.circuit
    assert spec is not None
    if spec.n_outputs != inputs.n_labels:
        raise InputError(
            f"the circuit has {spec.n_outputs} outputs and the data have {inputs.n_labels} labels: measure as many, or "
            "take a readout that trains one output per label, such as mean_z_readout"
        )
    seed, dtype, scale = inputs.seed, inputs.dtype, options.init_scale
    n_features, n = inputs.features.shape[1], spec.n_inputs
    params = {}
    own = dict(getattr(spec, "initial", ()))
    for weight, weight_shape in spec.weight_shapes().items():
        name = parameter_of(spec, weight)
        if weight in own:
            kind, low, high = own[weight]
            if kind == "uniform":
                params[name] = draw_uniform(seed, name, weight_shape, dtype, low, high)
            else:
                params[name] = draw(seed, name, weight_shape, dtype, high) + jnp.asarray(low, dtype)
            continue
        start = draw(seed, name, weight_shape, dtype, scale)
        offset = spec.readout_facts.offset(spec.n_qubits) if weight == "readout" else 0.0
        params[name] = rounded(np.asarray(start) + np.asarray(offset, dtype), dtype)
    buffers = dict(inputs.buffers)
    if options.projection == "linear":
        params["projection.weight"] = draw(seed, "projection.weight", (n_features, n), dtype, 1 / math.sqrt(n_features))
        params["projection.bias"] = rounded(np.zeros(n), dtype)
    else:
        if options.projection == "identity":
            weight_values, shift = _identity(n_features, n, centred=MEAN in buffers and options.normalize == "min_max")
        elif options.projection == "fixed":
            weight_values, shift = orthonormal_frame(n_features, n, seed), np.zeros(n)
        else:
            weight_values, shift = principal_axes(inputs.standardized(), n)
        buffers["projection.weight"] = rounded(weight_values, dtype)
        buffers["projection.bias"] = rounded(shift, dtype)
    params["readout.bias"] = rounded(np.zeros(spec.n_outputs), dtype)

    shape = (spec.n_outputs,) if options.alpha_per_label else ()
    if not options.alpha_train:
        buffers["alpha.value"] = rounded(np.full(shape, options.alpha_init), dtype)
    elif options.alpha_mode == "direct":
        params["alpha.value"] = rounded(np.full(shape, options.alpha_init), dtype)
    else:
        params["alpha.raw"] = rounded(np.full(shape, inverse_softplus(options.alpha_init - ALPHA_FLOOR)), dtype)
    form = options.angle_map, options.angle_scale, options.angle_bits, options.projection_bits
    head = QuantumHead(params, buffers, spec.n_outputs, dtype, spec, *form)
    if options.angle_bits is not None:
        _check_registers(spec, (INPUTS, *head.angle_weights()))
    return head


def _identity(n_features: int, n: int, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (W, c) such that x W + c are the features themselves, or, `centred`, 2 x - 1."""
    if n_features != n:
        raise InputError(
            f"`head.projection` = identity needs a circuit of as many inputs as there are features, got {n_features} "
            f"features for {n} inputs: use projection linear or pca"
        )
    factor = 2.0 if centred else 1.0
    return factor * np.eye(n), np.full(n, 1.0 - factor)


def _check_registers(spec: Circuit, sources: Iterable[str]) -> None:
    """Raise InputError where the values of a circuit do not have the period of a register, which forgets whole
    turns.
    """
    other = next((source for source in sources if not is_periodic(spec, source)), None)
    if other is not None:
        raise InputError(
            f"`head.angle_bits` is for weights and inputs that are angles of gates, and {other} of the circuit enters "
            "them in other than whole multiples, so that a register, which forgets whole turns, does not hold it: "
            "leave `head.angle_bits` out"
        )


def inverse_softplus(value: float) -> float:
    """Return a with log(1 + e^a) = `value` > 0, in the form that loses no digits at either end."""
    return value + math.log(-math.expm1(-value))
