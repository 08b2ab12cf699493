"""Layers whose weights are stored in few bits, in the two forms that a head has them: trained and packed."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._checks import check_shape
from qwafer._errors import InputError
from qwafer.heads import _packing
from qwafer.heads._base import Head
from qwafer.heads._classical import ClassicalHead
from qwafer.heads._popcount import popcount_product, sign_planes, ternary_planes
from qwafer.heads._quantisers import BITS, Quantiser, quantise, quantise_inputs, straight_through, top_code
from qwafer.heads.size import Stored


class Layer(NamedTuple):
    """A quantised layer of a head; its arrays are `NAME.weight` (n_in, n_out) and `NAME.bias` (n_out,)."""

    name: str
    n_in: int
    n_out: int
    quantiser: Quantiser


class Weights(NamedTuple):
    """The weights of a layer, ready for any number of products."""

    codes: Array | None
    """(n_in, n_out); None where the planes of a packed head stand for them."""
    scale: Array | None
    """(n_out,) or (1,); None where weights and inputs are not quantised."""
    bias: Array
    """(n_out,)"""
    mask: Array | None = None
    """(W, n_out) uint32, of a packed `qesc` layer; see `ternary_planes`."""
    sign: Array | None = None


class FewBitHead(ClassicalHead):
    """A head with layers of few-bit weights: y = (x_codes W_codes) t s + b with scales t of rows and s of columns.

    As it is trained, `params` holds float32 weights, which are quantised at each use. Packed (`packed`), it holds
    codes and scales in `buffers` instead and nothing in `params`: codes as floats, since a CPU multiplies those
    fastest, for `qesc` planes of 32-bit words that are evaluated by population counts. The products of codes are the
    same whole numbers in both.
    """

    layers: tuple[Layer, ...] = eqx.field(static=True)

    @property
    def is_packed(self) -> bool:
        """Whether the weights are codes, as a packed file gives them."""
        return any(name.endswith((".codes", ".mask")) for name in self.buffers)

    def stored(self) -> dict[str, Stored]:
        """Return the arrays of the packed head: codes, scales and biases of its layers, and everything else as it
        is.
        """
        buffers, stored = self.packed().buffers, {}
        for layer in self.layers:
            stored.update(packed_codes(layer, buffers))
        return {name: Stored.plain(value) for name, value in buffers.items()} | stored

    def packed(self) -> Any:
        """Return the same head with codes and scales in place of its weights: what is evaluated, and what is stored."""
        if self.is_packed:
            return self
        buffers = {**self.buffers, **self.params}
        for layer in self.layers:
            buffers.update(quantised_arrays(buffers.pop(f"{layer.name}.weight"), layer))
        return dataclasses.replace(self, params={}, buffers=buffers)

    def with_stored(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return the packed head of the arrays of a file; see `Head.with_stored`."""
        self.check_stored(arrays)
        buffers = {name: jnp.asarray(value) for name, value in arrays.items()}
        for layer in self.layers:
            codes = unpacked_codes(layer, arrays)
            for name in packed_names(layer):
                del buffers[name]
            buffers.update(held_codes(layer, jnp.asarray(codes, self.dtype)))
        return dataclasses.replace(self, params={}, buffers=buffers)


def layer_weights(head: Head, layer: Layer, *, train: bool) -> Weights:
    """Return the weights of a layer, quantised unless it trains in float32."""
    name, bias = layer.name, head.array(f"{layer.name}.bias")
    if f"{name}.mask" in head.buffers:
        mask, sign = head.buffers[f"{name}.mask"], head.buffers[f"{name}.sign"]
        return Weights(None, head.array(f"{name}.scale"), bias, mask, sign)
    if f"{name}.codes" in head.buffers:
        return Weights(head.array(f"{name}.codes"), head.array(f"{name}.scale"), bias)
    weight = head.array(f"{name}.weight")
    if train and not layer.quantiser.straight_through:
        return Weights(weight, None, bias)
    codes, scale = quantise(jax.lax.stop_gradient(weight), layer.quantiser)
    return Weights(straight_through(codes, weight, scale[None, :]), scale, bias)


def apply_layer(head: Head, x: Float[Array, "rows n_in"], weights: Weights, layer: Layer) -> Float[Array, "rows n_out"]:
    """Return the layer's outputs; see `FewBitHead`."""
    check_shape("features", x, ("rows", layer.n_in))
    bias = weights.bias[None, :]
    if weights.scale is None:
        assert weights.codes is not None
        return x @ weights.codes + bias
    scale, found = weights.scale[None, :], quantise_inputs(jax.lax.stop_gradient(x), layer.quantiser)
    if found is None:
        assert weights.codes is not None
        return (x @ weights.codes) * scale + bias
    codes, row_scale = found
    if weights.codes is None:
        assert weights.mask is not None
        assert weights.sign is not None
        planes = sign_planes(codes, layer.quantiser.activation_bits)
        product = popcount_product(planes, weights.mask, weights.sign).astype(head.dtype)
    else:
        product = straight_through(codes, x, row_scale[:, None]) @ weights.codes
    return product * (row_scale[:, None] * scale) + bias


@functools.partial(jax.jit, static_argnums=1)
def quantised_arrays(weight: Array, layer: Layer) -> dict[str, Array]:
    """Return what a packed head holds of the weights of a layer; compiled once for all heads of its shape."""
    codes, scale = quantise(weight, layer.quantiser)
    return {**held_codes(layer, codes), f"{layer.name}.scale": scale}


def held_codes(layer: Layer, codes: Array) -> dict[str, Array]:
    """Return how a packed head holds codes (n_in, n_out)."""
    if layer.quantiser.precision == "qesc":
        mask, sign = ternary_planes(codes)
        return {f"{layer.name}.mask": mask, f"{layer.name}.sign": sign}
    return {f"{layer.name}.codes": codes}


def packed_names(layer: Layer) -> list[str]:
    """Return the names that the codes of a layer have in a file and in `held_codes`."""
    kinds = ("mask", "sign") if layer.quantiser.precision == "qesc" else ("codes",)
    return [f"{layer.name}.{kind}" for kind in kinds]


def packed_codes(layer: Layer, buffers: Mapping[str, Array]) -> dict[str, Stored]:
    """Return the codes of a layer of a packed head as a file has them; of ternary numbers 8 bits for five."""
    precision, numbers = layer.quantiser.precision, layer.n_in * layer.n_out
    if precision == "qesc":
        planes = {name: _from_words(np.asarray(buffers[name]), layer.n_in) for name in packed_names(layer)}
        # The mask counts as the numbers, of a bit each; the signs take another bit of each.
        counted = (numbers, 0)
        pairs = zip(planes.items(), counted, strict=True)
        return {name: Stored(_packing.pack_bits(bits, 1), count, numbers) for (name, bits), count in pairs}
    (name,) = packed_names(layer)
    codes = np.asarray(buffers[name]).astype(np.int32)
    if precision == "bitnet":
        packed = _packing.pack_trits(codes + 1)
        return {name: Stored(packed, numbers, 8 * packed.size)}
    bits = BITS[precision]
    offset = (codes + 1) // 2 if bits == 1 else codes + top_code(precision)
    return {name: Stored(_packing.pack_bits(offset, bits), numbers, bits * numbers)}


def unpacked_codes(layer: Layer, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the codes (n_in, n_out) int32 of a layer from the arrays of a file."""
    precision, shape = layer.quantiser.precision, (layer.n_in, layer.n_out)
    if precision == "qesc":
        mask, sign = (_packing.unpack_bits(arrays[name], 1, shape) for name in packed_names(layer))
        return mask * (2 * sign - 1)
    packed = arrays[packed_names(layer)[0]]
    if precision == "bitnet":
        return _packing.unpack_trits(packed, shape) - 1
    codes = _packing.unpack_bits(packed, BITS[precision], shape)
    if precision == "1":
        return 2 * codes - 1
    top = top_code(precision)
    if codes.size and codes.max() > 2 * top:
        raise InputError(f"the codes of {layer.name} must lie from {-top} to {top}, got {codes.max() - top}")
    return codes - top


def _from_words(words: np.ndarray, n: int) -> np.ndarray:
    """Return the n rows of bits (n, N) of words (W, N)."""
    bits = (words[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1
    return bits.reshape(-1, words.shape[1])[:n]
