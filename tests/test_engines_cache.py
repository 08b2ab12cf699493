"""The cache of compiled programs."""

import dataclasses
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import CircuitSpec
from qwafer.engines.cache import ProgramCache, ProgramKey

KEY = ProgramKey(
    circuit=CircuitSpec(2, 1),
    batch=4,
    gradient=True,
    device="lightning.qubit",
    diff_method="adjoint",
    shots=None,
    batching="scan",
    seed=0,
    versions=(("jax", "0"),),
)


def entry(nbytes: int = 1) -> types.SimpleNamespace:
    return types.SimpleNamespace(nbytes=nbytes)


def changed() -> list[ProgramKey]:
    """`KEY` with one field changed: every field of the key, and every field of the spec."""
    values = {
        "batch": 5,
        "gradient": False,
        "device": "lightning.kokkos",
        "diff_method": "parameter-shift",
        "shots": 10,
        "batching": "choi",
        "seed": 1,
        "versions": (("jax", "1"),),
    }
    assert {field.name for field in dataclasses.fields(ProgramKey)} == {"circuit", *values}
    specs = {
        "n_qubits": CircuitSpec(3, 1),
        "n_layers": CircuitSpec(2, 2),
        "encoding": CircuitSpec(2, 1, "rx"),
        "ansatz": CircuitSpec(2, 1, ansatz="basic_entangler"),
        "entanglement": CircuitSpec(2, 1, entanglement="linear"),
        "readout": CircuitSpec(2, 1, readout="mean_z_readout"),
        "n_outputs": CircuitSpec(2, 1, readout="mean_z_readout", n_outputs=2),
        "reupload": CircuitSpec(2, 1, reupload=True),
        "dtype": CircuitSpec(2, 1, dtype="float64"),
    }
    assert {field.name for field in dataclasses.fields(CircuitSpec)} == set(specs)
    return [
        *(dataclasses.replace(KEY, **{name: value}) for name, value in values.items()),
        *(dataclasses.replace(KEY, circuit=spec) for spec in specs.values()),
    ]


def test_a_key_that_differs_in_any_one_field_misses() -> None:
    cache = ProgramCache()
    made = [cache.get(key, entry) for key in (KEY, *changed())]
    assert len(set(map(id, made))) == len(made) == cache.info()["misses"]
    assert cache.get(dataclasses.replace(KEY), entry) is made[0]
    assert cache.info()["hits"] == 1


def test_least_recently_used_goes_first_and_the_newest_stays() -> None:
    cache = ProgramCache(limit_bytes=10)
    first, second, third = (dataclasses.replace(KEY, batch=batch) for batch in (1, 2, 3))
    kept = cache.get(first, lambda: entry(4))
    cache.get(second, lambda: entry(4))
    assert cache.get(first, entry) is kept
    cache.get(third, lambda: entry(4))
    assert cache.info()["evictions"] == 1
    assert cache.get(first, entry) is kept
    assert cache.get(second, lambda: entry(4)) is not None
    assert cache.info()["misses"] == 4
    huge = dataclasses.replace(KEY, batch=9)
    cache.get(huge, lambda: entry(99))
    assert (cache.info()["resident"], cache.info()["bytes"]) == (1, 99)


def test_an_error_while_building_leaves_no_trace() -> None:
    cache = ProgramCache()

    def fail() -> types.SimpleNamespace:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.get(KEY, fail)
    assert cache.info()["resident"] == cache.info()["misses"] == 0


def test_one_compilation_a_shape_over_a_run_with_a_ragged_last_batch() -> None:
    engines.cache_clear()
    spec, batch = CircuitSpec(2, 1), 8
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(21, 2)), "float32")  # 8 + 8 + 5
    weights = {"ansatz": jnp.zeros((1, 2, 3))}
    for _ in range(3):
        for start in range(0, len(data), batch):
            rows = data[start : start + batch]
            padded = jnp.pad(rows, ((0, batch - len(rows)), (0, 0)))
            mask = jnp.arange(batch) < len(rows)
            program = engines.get("catalyst").program(spec, batch)
            gradient = jax.grad(lambda w, program=program, x=padded, m=mask: (program(w, x)[:, 0] * m).sum())(weights)
            weights = {"ansatz": weights["ansatz"] - 0.1 * gradient["ansatz"]}
        engines.get("catalyst").program(spec, batch, gradient=False)(weights, padded)
    info = engines.cache_info()
    assert (info["misses"], info["resident"]) == (2, 2)  # one with gradients, one without
    assert info["hits"] == 3 * 4 - 2
    assert info["compile_seconds"] > 0


def test_two_specs_never_share_a_program() -> None:
    engines.cache_clear()
    weights, x = {"ansatz": jnp.ones((1, 2, 3))}, jnp.full((1, 2), 0.3)
    specs = [CircuitSpec(2, 1, encoding) for encoding in ("ry", "rx", "rz")]
    values = [float(engines.get("catalyst").program(spec, 1)(weights, x)[0, 0]) for spec in specs]
    assert engines.cache_info()["misses"] == 3
    assert len(set(values)) == 3


SHAPES = """
import gc, sys
import numpy as np
import qwafer.engines.catalyst.engine as catalyst
from qwafer import engines
from qwafer.circuits import CircuitSpec
from qwafer.engines.cache import ProgramCache

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

catalyst.CACHE = ProgramCache(limit_bytes=8 << 20)
count = int(sys.argv[1])
weights = {"ansatz": np.zeros((1, 1, 3), "float32")}
sizes = []
for batch in range(1, count + 1):
    program = engines.get("catalyst").program(CircuitSpec(1, 1), batch, gradient=False)
    program(weights, np.zeros((batch, 1), "float32"))
    if batch % (count // 4) == 0:
        sizes.append(resident())
info = catalyst.CACHE.info()
print(info["resident"], info["evictions"], *sizes)
"""


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_many_shapes_do_not_grow_without_bound(count: int) -> None:
    command = [sys.executable, "-c", SHAPES, str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    resident, evicted, *sizes = map(int, done.stdout.split())
    assert resident < 10
    assert evicted == count - resident
    # The cache is full long before the first mark. A shape that stays would add more than 1 MiB (see JIT_BYTES); what
    # evicted ones leave behind are fragments.
    assert sizes[-1] - sizes[0] < 0.75 * count * 0.4 * (1 << 20), sizes
