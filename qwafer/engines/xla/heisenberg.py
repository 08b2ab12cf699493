"""Plan `heisenberg`: one effective observable per step, then a polynomial in the examples' cosines and sines.

For a circuit that encodes once, s_k(x) = <E(x)| U^dagger O_k U |E(x)> with O_k = sum_i M_ki . (X_i, Y_i, Z_i). In the
Pauli basis O_k is a real vector of 4^n coefficients; a layer of rotations turns it by orthogonal 4 x 4 matrices, one
per wire, and CNOTs permute it with signs. An encoded wire has Bloch vectors in a plane, so only 3 of its 4 Pauli
operators matter, and

    s_k(x) = sum over alpha in {0, 1, 2}^n of C_k,alpha prod_i f_alpha_i(x_i),  f = (1, cos x, sin x):

3^n coefficients, evaluated for the batch as one matrix product of the polynomials of the two halves of the wires.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits import CircuitSpec
from qwafer.circuits.gates import CNOT
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines.base import Weights
from qwafer.engines.cache import kept
from qwafer.engines.xla import arrays, gates, wiring


class SignedPermutation(NamedTuple):
    """new[j] = sign[j] old[source[j]], and the same for the inverse."""

    source: np.ndarray
    sign: np.ndarray
    inverse_source: np.ndarray
    inverse_sign: np.ndarray


@kept
def conjugation(n: int, pairs: tuple[tuple[int, int], ...]) -> SignedPermutation:
    """Return the map of coefficients of O -> C^dagger O C for the CNOTs `pairs`, C applying them in order.

    Strings are numbers in base 4, wire 0 first: 0 I, 1 X, 2 Y, 3 Z.
    """
    strings = np.arange(4**n, dtype=np.int32)
    index, sign = strings, np.ones(4**n, np.int8)
    image, flips = CNOT.conjugation()
    for control, target in reversed(pairs):
        c, t = 2 * (n - 1 - control), 2 * (n - 1 - target)
        word = 4 * ((strings >> c) & 3) + ((strings >> t) & 3)
        change = (word ^ image[word]).astype(np.int32)
        moved = strings ^ ((change >> 2) << c) ^ ((change & 3) << t)
        sign = flips[word[moved]] * sign[moved]  # a CNOT undoes itself: string j comes from moved[j]
        index = index[moved]
    inverse = wiring.inverse(index)
    return SignedPermutation(index, sign, inverse, sign[inverse])


def observables(spec: CircuitSpec, matrix: jax.Array, reverse: bool) -> jax.Array:
    """Return the coefficients (4^n, n_outputs) of the observables before the CNOTs of the last layer."""
    n = spec.n_qubits
    table = conjugation(n, spec.entangling_pairs(spec.n_layers - 1))
    places = np.array([axis * 4 ** (n - 1 - i) for i in range(n) for axis in (1, 2, 3)])
    places = table.inverse_source[places]  # where each X_i, Y_i, Z_i goes
    signs = table.sign[places]
    source = np.full(4**n, 3 * n, np.int32)
    source[places] = np.arange(3 * n)

    def evaluate(flat: jax.Array) -> jax.Array:
        signed = flat * jnp.asarray(signs, flat.dtype)[:, None]
        return arrays.take(jnp.pad(signed, ((0, 1), (0, 0))), source)

    flat = matrix.reshape(matrix.shape[0], -1).T
    if not reverse:
        return evaluate(flat)
    function = jax.custom_vjp(evaluate)
    function.defvjp(
        lambda flat: (evaluate(flat), None),
        lambda _, g: (arrays.take(g, places) * jnp.asarray(signs, g.dtype)[:, None],),
    )
    return function(flat)


def _turn_tensor() -> np.ndarray:
    """Return K (27, 16): u_a u_b u_c K = diag(1, R^T), u = (1, cos, sin), R = Rz(c) Ry(b) Rz(a) on Bloch vectors."""
    z, y = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    z[0, 2, 2] = z[1, 0, 0] = z[1, 1, 1] = z[2, 1, 0] = 1
    y[0, 1, 1] = y[1, 0, 0] = y[1, 2, 2] = y[2, 0, 2] = 1
    z[2, 0, 1] = y[2, 2, 0] = -1
    turns = np.zeros((3, 3, 3, 4, 4))
    turns[0, 0, 0, 0, 0] = 1
    turns[..., 1:, 1:] = np.einsum("cij,bjk,akl->abcli", z, y, z)
    return turns.reshape(27, 16)


def turns(spec: CircuitSpec, weights: Weights, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """Return the blocks of every layer, (n_layers, blocks, 4^w, 4^w), and of the first on encoded states.

    These are (blocks, 3^w, 4^w). w is 2, or 1 for one wire; a block of fewer wires lies in the upper left corner.
    """
    sizes = wiring.blocks(spec.n_qubits, wiring.PAIR)
    angles = jnp.stack(gates.euler(spec, weights))  # (3, n_layers, n)
    u = jnp.concatenate([jnp.ones_like(angles)[..., None], gates.wave(angles, -1, reverse)], -1)
    a, b, c = (part[0] for part in jnp.split(u, 3))
    products = a[..., :, None, None] * b[..., None, :, None] * c[..., None, None, :]
    flat = products.reshape(*products.shape[:2], 27)
    matrices = arrays.dot(flat, jnp.asarray(_turn_tensor(), flat.dtype)).reshape(*flat.shape[:2], 4, 4)
    pairs = gates.padded(matrices, sizes, 1, jnp.eye(4, dtype=flat.dtype))
    encoded = spec.encoding_facts.bloch_rows
    rows = encoded if gates.padded_width(sizes) == 1 else np.kron(encoded, encoded)
    blocks = gates.kron_pairs(pairs)
    first = arrays.dot(jnp.asarray(rows, flat.dtype), blocks[0])  # a product, for the reverse of picked rows scatters
    return blocks, first


def _rotate(blocks: list[jax.Array], x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """Apply the Kronecker product of `blocks` to the first axis of x (D, outputs); return (outputs, D'), the operands.

    Each product takes the first block of wires and leaves it last: no transposition, and in the end the outputs come
    first.
    """
    outputs, operands = x.shape[1], []
    for block in blocks:
        operands.append(x.reshape(block.shape[1], -1))
        x = _dot(operands[-1], block, 0, 1)
    return x.reshape(outputs, -1), operands


def _rotate_back(blocks: list[jax.Array], operands: list[jax.Array], g: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """Return the cotangents of x (D, outputs) and of `blocks` in `_rotate`."""
    outputs, gradients = g.shape[0], []
    for block, operand in zip(reversed(blocks), reversed(operands), strict=True):
        g = g.reshape(-1, block.shape[0])
        gradients.append(_dot(g, operand, 0, 1))
        g = _dot(block, g, 0, 1)
    return g.reshape(-1, outputs), gradients[::-1]


def _dot(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), precision=lax.Precision.HIGHEST)


def _turn(table: SignedPermutation, x: jax.Array) -> jax.Array:
    """Return the turned coefficients (4^n, outputs) of x (outputs, 4^n)."""
    return arrays.take(x.T, table.source) * jnp.asarray(table.sign, x.dtype)[:, None]


def _turn_back(table: SignedPermutation, g: jax.Array) -> jax.Array:
    return (arrays.take(g, table.inverse_source) * jnp.asarray(table.inverse_sign, g.dtype)[:, None]).T


def evolve(sizes: tuple[int, ...], tables: list[SignedPermutation], reverse: bool) -> Any:
    """Return the function (blocks, first, x (4^n, K)) -> C (K, 3^n) of the arrays of `turns`.

    `tables` are the CNOTs between the layers, `sizes` the wires in each block.
    """
    layers = range(1, len(tables) + 1)

    def factors(blocks: jax.Array, layer: int) -> list[jax.Array]:
        return [blocks[layer, g, : 4**size, : 4**size] for g, size in enumerate(sizes)]

    def projected(first: jax.Array) -> list[jax.Array]:
        return [first[g, : 3**size, : 4**size] for g, size in enumerate(sizes)]

    def evaluate(blocks: jax.Array, first: jax.Array, x: jax.Array) -> tuple[jax.Array, list[list[jax.Array]]]:
        tape = []
        for layer in reversed(layers):
            x, operands = _rotate(factors(blocks, layer), x)
            tape.append(operands)
            x = arrays.stored(functools.partial(_turn, tables[layer - 1]), x)
        x, operands = _rotate(projected(first), x)
        return x, [*tape, operands]

    if not reverse:
        return lambda blocks, first, x: evaluate(blocks, first, x)[0]
    function = jax.custom_vjp(lambda blocks, first, x: evaluate(blocks, first, x)[0])

    def forward(blocks: jax.Array, first: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
        c, tape = evaluate(blocks, first, x)
        return c, (blocks, first, tape)

    def stacked(gradients: list[jax.Array], like: jax.Array) -> jax.Array:
        rows, columns = like.shape[-2:]
        padded = [jnp.pad(g, ((0, rows - g.shape[0]), (0, columns - g.shape[1]))) for g in gradients]
        return jnp.stack(padded).reshape(like.shape)

    def backward(saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        blocks, first, tape = saved
        g, gradients = _rotate_back(projected(first), tape[-1], g)
        d_first = stacked(gradients, first)
        d_blocks = [jnp.zeros_like(block) for block in factors(blocks, 0)]
        for layer, operands in zip(layers, reversed(tape[:-1]), strict=True):
            g = arrays.stored(functools.partial(_turn_back, tables[layer - 1]), g)
            g, gradients = _rotate_back(factors(blocks, layer), operands, g)
            d_blocks += gradients
        return stacked(d_blocks, blocks), d_first, g

    function.defvjp(forward, backward)
    return function


def coefficients(spec: CircuitSpec, weights: Weights, reverse: bool) -> jax.Array:
    """Return C (n_outputs, 3^n)."""
    blocks, first = arrays.stored(functools.partial(turns, spec, reverse=reverse), weights)
    x = arrays.stored(functools.partial(observables, spec, reverse=reverse), readout_matrix(spec, weights, jnp))
    tables = [conjugation(spec.n_qubits, spec.entangling_pairs(layer)) for layer in range(spec.n_layers - 1)]
    return evolve(wiring.blocks(spec.n_qubits, wiring.PAIR), tables, reverse)(blocks, first, x)


def _tree(waves: jax.Array) -> Any:
    """Return the product of the wires' (1, cos, sin) as a tree of factors; waves (n, 2, batch)."""
    if waves.shape[0] == 1:
        return jnp.concatenate([jnp.ones_like(waves[0, :1]), waves[0]])
    middle = waves.shape[0] // 2
    return (_tree(waves[:middle]), _tree(waves[middle:]))


def _product(tree: Any) -> jax.Array:
    """Return all monomials (3^m, batch) of a tree of m wires."""
    if not isinstance(tree, tuple):
        return tree
    a, b = _product(tree[0]), _product(tree[1])
    return (a[:, None] * b[None]).reshape(-1, a.shape[-1])


def _product_back(tree: Any, g: jax.Array) -> list[jax.Array]:
    """Return the cotangents of the leaves of `tree`."""
    if not isinstance(tree, tuple):
        return [g]
    a, b = _product(tree[0]), _product(tree[1])

    def back(a: jax.Array, b: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        g = g.reshape(a.shape[0], b.shape[0], -1)
        da = functools.reduce(jnp.add, [g[:, j] * b[j][None] for j in range(b.shape[0])])
        db = functools.reduce(jnp.add, [g[j] * a[j][None] for j in range(a.shape[0])])
        return da, db

    da, db = arrays.stored(back, a, b, g)
    return [*_product_back(tree[0], da), *_product_back(tree[1], db)]


def polynomial(reverse: bool) -> Any:
    """Return the function (C (K, 3^n), waves (n, 2, batch)) -> s (K, batch)."""

    def halves(waves: jax.Array) -> tuple[jax.Array, jax.Array]:
        middle = waves.shape[0] // 2
        b = _product(_tree(waves[middle:]))
        return (_product(_tree(waves[:middle])) if middle else jnp.ones_like(b[:1])), b

    def evaluate(c: jax.Array, waves: jax.Array) -> tuple[jax.Array, Any]:
        a, b = arrays.stored(halves, waves)
        partial = arrays.dot(c.reshape(-1, b.shape[0]), b).reshape(c.shape[0], *a.shape)  # (K, 3^h, batch)
        products = arrays.stored(lambda a, p: a[None] * p, a, partial)
        ones = jnp.ones((1, a.shape[0]), a.dtype)
        if c.shape[0] == 1:
            return arrays.dot(ones, products[0]), (a, b, partial)
        return jnp.sum(products, 1), (a, b, partial)

    if not reverse:
        return lambda c, waves: evaluate(c, waves)[0]
    function = jax.custom_vjp(lambda c, waves: evaluate(c, waves)[0])

    def forward(c: jax.Array, waves: jax.Array) -> tuple[jax.Array, Any]:
        s, residuals = evaluate(c, waves)
        return s, (c, waves, *residuals)

    def backward(saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        c, waves, a, b, partial = saved
        middle = waves.shape[0] // 2
        weighted, da = arrays.stored(
            lambda g, a, p: (
                g[:, None] * a[None],
                functools.reduce(jnp.add, [g[k][None] * p[k] for k in range(len(p))]),
            ),
            g,
            a,
            partial,
        )
        weighted = weighted.reshape(-1, g.shape[-1])
        db = arrays.dot(c.reshape(-1, b.shape[0]).T, weighted)
        dc = arrays.dot(weighted, b.T).reshape(c.shape)
        leaves = _product_back(_tree(waves[:middle]), da) if middle else []
        leaves += _product_back(_tree(waves[middle:]), db)
        return dc, arrays.stored(lambda leaves: jnp.stack([leaf[1:] for leaf in leaves]), leaves)

    function.defvjp(forward, backward)
    return function


def forward(spec: CircuitSpec, weights: Weights, inputs: jax.Array, reverse: bool = True) -> jax.Array:
    """Return s (batch, n_outputs)."""
    c = coefficients(spec, weights, reverse)
    waves = arrays.stored(lambda x: gates.wave(x.T, 1, reverse), inputs)  # (n, 2, batch)
    return polynomial(reverse)(c, waves).T
