"""Heads and the programs of their circuits, from a configuration."""

import functools

import numpy as np

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits import CircuitSpec
from qwafer.config import EngineConfig, RunConfig
from qwafer.engines import Program
from qwafer.engines import get as get_engine
from qwafer.heads._base import Head, check_features, standardization
from qwafer.heads._classical import linear_head, mlp_head
from qwafer.heads._quantum import quantum_head


def make_head(config: RunConfig, train_features: np.ndarray, n_labels: int, seed: int) -> Head:
    """Return the untrained head that `config.head` and `config.circuit` describe.

    `train_features` (M, D) are those of the training split alone: they give the standardisation and the principal
    axes. Classical heads are float32; a quantum head has the dtype of its circuit. Raises InputError where the parts
    do not fit together.
    """
    check_positive_int("n_labels", n_labels)
    check_features(train_features)
    features = np.asarray(train_features)
    dtype = config.circuit.dtype if config.head.name == "quantum" else "float32"
    check_x64(dtype)
    buffers = standardization(features, dtype) if config.head.standardize else {}
    if config.head.name == "linear":
        return linear_head(features.shape[1], n_labels, buffers, seed)
    if config.head.name == "mlp":
        return mlp_head(config.head, features.shape[1], n_labels, buffers, seed)
    spec = config.circuit.spec(n_labels)
    if config.head.standardize and config.head.projection == "pca":
        mean, scale = (np.asarray(buffers[f"standardize.{name}"], np.float64) for name in ("mean", "scale"))
        features = (features.astype(np.float64) - mean[None]) / scale[None]
    return quantum_head(config.head, spec, features, buffers, seed)


def make_program(
    config: RunConfig, n_labels: int, batch: int, *, gradient: bool = True, seed: int = 0
) -> Program | None:
    """Return the program that executes the head's circuit for `batch` examples; None for a classical head.

    With finite shots the engine draws from a stream of the run `seed`; without, the seed plays no part. Equal requests
    return the same object, so that what JAX compiled around it serves again. Raises InputError where a state does not
    fit in memory, before anything is compiled.
    """
    if config.head.name != "quantum":
        return None
    check_x64(config.circuit.dtype)
    spec = config.circuit.spec(n_labels)
    stream = None if config.engine.shots is None else key_seed(seed, "shots")
    return _program(config.engine, spec, batch, gradient, stream)


@functools.lru_cache(maxsize=64)
def _program(engine: EngineConfig, spec: CircuitSpec, batch: int, gradient: bool, stream: int | None) -> Program:
    return get_engine(engine.name, **engine.options()).program(spec, batch, gradient=gradient, seed=stream or 0)


def check_x64(dtype: str) -> None:
    """Raise InputError where `dtype` is float64 and JAX has its 64-bit types switched off."""
    import jax

    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise InputError(
            "`circuit.dtype` = float64 needs jax.config.update('jax_enable_x64', True) at the start of the process"
        )
