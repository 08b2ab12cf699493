"""Data parallel programs give the numbers of one device; run on four CPU devices, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.circuits import CircuitSpec
from qwafer.engines.mesh import data_parallel
from tests.factories import QUICK_COMPILATION

DEVICES = 4


def test_mesh_same_numbers_as_one_device():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compared", "3"]


def test_mesh_refusals():
    spec, engine = CircuitSpec(2, 1), engines.get("xla")
    with pytest.raises(InputError, match=r"JAX has 1$"):
        data_parallel(engine, spec, 4, len(jax.devices()) + 1)
    with pytest.raises(InputError, match="use engine xla"):
        data_parallel(engines.get("reference"), spec, 4)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(1, 1), ("a", "b"))
    with pytest.raises(InputError, match="one axis"):
        data_parallel(engine, spec, 4, mesh)


def _compare() -> int:
    """Compare four devices with one: values, gradients, where the outputs lie, ragged batches refused."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert len(jax.devices()) == DEVICES
    engine, compared = engines.get("xla"), 0
    for spec in (
        CircuitSpec(5, 2, dtype="float64"),
        CircuitSpec(3, 2, readout="mean_z_readout", n_outputs=2, reupload=True, dtype="float64"),
        CircuitSpec(4, 2, encoding="rz", readout="z_vec", n_outputs=3, dtype="float64"),
    ):
        batch, rng = 8, np.random.default_rng(3)
        weights = {name: rng.normal(size=shape) for name, shape in spec.weight_shapes().items()}
        angles, cotangent = rng.normal(size=(batch, spec.n_qubits)), rng.normal(size=(batch, spec.n_outputs))
        one, many = engine.program(spec, batch), data_parallel(engine, spec, batch)
        assert many.info["devices"] == DEVICES
        assert many.info["batch_per_device"] == batch // DEVICES
        results = []
        for program in (one, many):

            def loss(w, x, p=program, c=cotangent):
                s = p(w, x)
                return (s * c).sum() + (s**2).sum(), s

            graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=QUICK_COMPILATION)
            (value, s), gradients = graded(weights, angles)
            results.append([s, value, *jax.tree.leaves(gradients)])
        assert len(results[1][0].sharding.device_set) == DEVICES
        if not compared:
            assert len(many(weights, angles).sharding.device_set) == DEVICES
        for have, want in zip(*results[::-1], strict=True):
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-12)
        compared += 1
    for batch, advice in ((6, "use 4 or 8"), (3, "use 4")):
        with pytest.raises(InputError, match=f"{advice}$"):
            data_parallel(engine, CircuitSpec(2, 1), batch)
    sys.stdout.write(f"compared {compared}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_compare())
