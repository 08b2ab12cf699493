"""Matrices of few wires, computed side by side from their forms: those of the batch, and those of every example."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qwafer.circuits import INPUTS
from qwafer.engines.slots import selected
from qwafer.engines.xla import arrays, gates
from qwafer.engines.xla.forms import Form, Key, as_real, signs

Sources = Mapping[str, jax.Array]
"""Weights as they are, `inputs` (n_inputs, batch)."""

MOST_ENTRIES = 1 << 18
"""Entries of a table by which all phases of shared matrices follow from their weights at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Forms of one size, with as many levels as the longest has."""

    k: int
    own: bool
    """Whether they are those of every example."""
    fixed: np.ndarray
    """(m + 1, forms, 2 d, 2 d): F in real numbers, d = 2^k."""
    words: np.ndarray
    """(forms, m, d, g): half the signs of each rotation's Z word; 0 where there is none."""
    keys: tuple[Key | None, ...]
    """Angles of forms, levels and rotations, (forms m g)."""

    @classmethod
    def of(cls, forms: Sequence[Form], k: int, own: bool) -> "Family":
        """Return the family of these forms."""
        m = max(len(form.turns) for form in forms)
        most = max((len(level) for form in forms for level in form.turns), default=0)
        fixed = np.zeros((m + 1, len(forms), 2**k, 2**k), complex) + np.eye(2**k)
        words = np.zeros((len(forms), m, 2**k, most))
        keys: list[Key | None] = [None] * (len(forms) * m * most)
        for i, form in enumerate(forms):
            fixed[: len(form.fixed), i] = form.fixed
            for level, turns in enumerate(form.turns):
                for g, (mask, key) in enumerate(turns):
                    words[i, level, :, g] = signs(mask, k) / 2
                    keys[(i * m + level) * most + g] = key
        return cls(k, own, as_real(fixed), words, tuple(keys))

    def phases(self, sources: Sources, dtype: jnp.dtype, reverse: bool) -> jax.Array:
        """Return the phases (forms, m, d, batch or 1), in radians."""
        forms, m, d, g = self.words.shape
        if not self.own:
            used = [name for name in sources if any(key and key[0] == name for key in self.keys)]
            table, flat = _picked(self.keys, {name: sources[name].shape for name in used}), _flat(sources, used)
            if forms * m * d * table.shape[1] <= MOST_ENTRIES:
                whole = np.einsum("imjg,imgw->imjw", self.words, table.reshape(forms, m, g, -1))
                whole = whole.reshape(-1, table.shape[1])
                return arrays.dot(jnp.asarray(whole, dtype), flat[:, None]).reshape(forms, m, d, 1)
            angles = arrays.dot(jnp.asarray(table, dtype), flat[:, None]).reshape(forms, m, g, 1)
            return arrays.dot(jnp.asarray(self.words, dtype), angles)
        angles = angles_of(self.keys, sources, reverse).reshape(forms, m, 1, g, -1)
        return (jnp.asarray(self.words, dtype)[..., None] * angles).sum(axis=3)

    def products(self, sources: Sources, dtype: jnp.dtype, reverse: bool, columns: int | None = None) -> jax.Array:
        """Return the matrices (forms, 2 d, c, batch or 1): real parts over imaginary parts, of the first columns."""
        forms, m, d, _ = self.words.shape
        c = d if columns is None else columns
        matrix = jnp.asarray(self.fixed[0][:, :, :c], dtype)[..., None]  # (forms, 2 d, c, 1)
        if not m:
            return matrix
        waves = gates.wave(self.phases(sources, dtype, reverse), 0, reverse)  # (2, forms, m, d, batch)
        turn = jnp.asarray([1, -1], dtype)[None, :, None, None, None]
        # Splits, for the reverse of an index is a sum of padded arrays.
        for level, wave in enumerate(jax.lax.split(waves, (1,) * m, axis=2)):
            cos, sin = jax.lax.split(wave.reshape(2, forms, 1, d, 1, -1), (1, 1), axis=0)
            split = matrix.reshape(forms, 2, d, c, -1)
            split = cos[0] * split + turn * sin[0] * jax.lax.rev(split, (1,))
            fixed = self.fixed[level + 1]
            if np.array_equal(fixed, np.broadcast_to(np.eye(2 * d), fixed.shape)):
                matrix = split.reshape(forms, 2 * d, c, -1)
            elif self.own:
                flat = split.reshape(forms, 1, 2 * d, c, -1)
                matrix = (jnp.asarray(fixed, dtype)[..., None, None] * flat).sum(axis=2)
            else:
                flat = split.reshape(forms, 2 * d, -1)
                matrix = arrays.dot(jnp.asarray(fixed, dtype), flat).reshape(forms, 2 * d, c, -1)
        return matrix


def angles_of(keys: Sequence[Key | None], sources: Sources, reverse: bool) -> jax.Array:
    """Return the angles (keys, batch) of an example, 0 for None."""
    inputs = sources[INPUTS]
    shared = [name for name in sources if name != INPUTS and any(key and key[0] == name for key in keys)]
    bank = [inputs]
    if shared:
        flat = _flat(sources, shared)
        bank.append(jnp.broadcast_to(flat[:, None], (len(flat), inputs.shape[1])))
    starts, place = {}, len(inputs)
    for name in shared:
        starts[name], place = place, place + sources[name].size
    rows = np.array(
        [
            place
            if key is None
            else key[1][0]
            if key[0] == INPUTS
            else starts[key[0]] + int(np.ravel_multi_index(key[1], sources[key[0]].shape) if key[1] else 0)
            for key in keys
        ],
        np.int32,
    )
    return selected(jnp.concatenate(bank) if len(bank) > 1 else inputs, rows, reverse)


def _flat(sources: Sources, names: Sequence[str]) -> jax.Array:
    parts = [sources[name].reshape(-1) for name in names]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _picked(keys: Sequence[Key | None], shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Return the matrix of 0 and 1 (keys, numbers) that picks the angles of `keys` from flat sources."""
    starts, place = {}, 0
    for name, shape in shapes.items():
        starts[name], place = place, place + int(np.prod(shape))
    table = np.zeros((len(keys), place))
    for row, key in enumerate(keys):
        if key is not None:
            table[row, starts[key[0]] + (int(np.ravel_multi_index(key[1], shapes[key[0]])) if key[1] else 0)] = 1
    return table
