"""Data parallel programs: the batch in equal parts over a mesh of JAX devices, the weights whole on each."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer.circuits import Circuit
from qwafer.engines.base import Engine, Forward, Program, Weights
from qwafer.engines.cache import kept


def data_parallel(
    engine: Engine, circuit: Circuit, batch: int, mesh: Mesh | int | None = None, *, gradient: bool = True
) -> Program:
    """Return the program of `circuit` for `batch` examples, `batch / devices` of them on each device of `mesh`.

    s(w, x) = [s(w, x_1); ...; s(w, x_D)] over the D parts x_d of the batch: the numbers are those of one device, and
    the gradient in the weights is the sum of the parts' (transposing the replication of w gives the sum).
    `mesh`: a mesh with one axis, a number of devices, or None for all of them. Weights and inputs may lie anywhere, and
    are put where they belong: inputs by `NamedSharding(mesh, PartitionSpec(axis))`, as the outputs are, weights whole
    on each device. A `jax.jit` of yours around the program takes arrays so sharded, or uncommitted ones: JAX refuses
    what was put on one device by `jax.device_put`.

    Raises InputError where the batch does not divide among the devices, where so many devices are not there, and for an
    engine other than `xla`: the others compute on the host, where devices would wait for each other.
    """
    over = _mesh(mesh)
    return _Parallel(engine, over.size if over == _mesh(over.size) else over).program(circuit, batch, gradient=gradient)


@dataclasses.dataclass(frozen=True)
class _Parallel:
    """An engine's programs spread over a mesh: what makes them equal, and again."""

    engine: Engine
    mesh: Mesh | int
    """A mesh, or a number of this process's devices, which means the same in another process."""

    name: ClassVar[str] = "mesh"

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        batch = check_positive_int("batch", batch)
        if self.engine.name != "xla":
            raise InputError(f"programs of engine {self.engine.name} do not spread over devices: use engine xla")
        size = _mesh(self.mesh).size
        if batch % size:
            below, above = batch - batch % size, batch + size - batch % size
            advice = f"{below} or {above}" if below else str(above)
            raise InputError(f"a batch of {batch} does not divide among {size} devices: use {advice}")
        part = self.engine.program(circuit, batch // size, gradient=gradient)
        info = {**part.info, "devices": size, "batch_per_device": part.batch}
        return Program(_sharded(part, self.mesh), circuit, batch, info, made_by=(self, gradient, 0))

    def why_not(self, circuit: Circuit) -> str | None:
        return self.engine.why_not(circuit)


@kept
def _sharded(part: Program, mesh: Mesh | int) -> Forward:
    """Return the compiled function of a whole batch, one per process, so that equal programs share its compilations."""
    over = _mesh(mesh)
    whole, split = PartitionSpec(), PartitionSpec(*over.axis_names)
    # No check of replication: it would have to look into the engine's custom derivatives. Out of a shard comes its own
    # part of the batch and nothing else, and unchecked transposition sums over the axis what came in whole.
    sharded: Callable[..., jax.Array] = jax.shard_map(
        part, mesh=over, in_specs=(whole, split), out_specs=split, check_vma=False
    )

    compiled = jax.jit(sharded)

    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        weights = jax.device_put(dict(weights), NamedSharding(over, whole))
        return compiled(weights, jax.device_put(inputs, NamedSharding(over, split)))

    return forward


def _mesh(mesh: Mesh | int | None) -> Mesh:
    if isinstance(mesh, Mesh):
        if len(mesh.axis_names) != 1:
            raise InputError(f"the mesh must have one axis, the batch's, got {len(mesh.axis_names)}")
        return mesh
    devices = jax.devices()
    if mesh is None:
        mesh = len(devices)
    mesh = check_positive_int("mesh", mesh)
    if mesh > len(devices):
        raise InputError(f"`mesh` = {mesh} devices were asked for and JAX has {len(devices)}")
    return Mesh(np.asarray(devices[:mesh]), ("batch",))
