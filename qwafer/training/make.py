"""Heads and the programs of their circuits, from a configuration."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer._io import key_seed
from qwafer.config import RunConfig
from qwafer.engines import Program
from qwafer.engines.cache import cleared
from qwafer.engines.process import check_x64
from qwafer.features import Origin

if TYPE_CHECKING:
    from qwafer.heads import Head


def make_head(
    config: RunConfig,
    train_features: np.ndarray,
    n_labels: int,
    seed: int,
    origin: Origin | None = None,
    label_names: tuple[str, ...] | None = None,
) -> "Head":
    """Return the untrained head that `config.head` and `config.circuit` describe.

    `train_features` (M, D) are those of the training split alone: they give the normalisation and the principal
    axes. Classical heads are float32; a quantum head has the dtype of its circuit. `origin` (`FeatureSet.origin`) is
    for heads that go on with the network behind the features. Raises InputError where the parts do not fit together.
    """
    from qwafer.heads import head_inputs

    circuit = None if config.circuit is None else config.circuit.circuit(n_labels)
    if circuit is not None:
        check_x64(circuit.dtype)
    normalize = getattr(config.head, "normalize", "standard")
    inputs = head_inputs(
        train_features, n_labels, seed, circuit, normalize=normalize, label_names=label_names, origin=origin
    )
    head: Head = config.head.make(inputs)
    return head


def make_program(
    config: RunConfig, n_labels: int, batch: int, *, gradient: bool = True, seed: int = 0
) -> Program | None:
    """Return the program that executes the head's circuit for `batch` examples; None for a head that runs none.

    With finite shots the engine draws from a stream of the run `seed`; without, the seed plays no part. Equal requests
    return the same object, so that what JAX compiled around it serves again. Raises InputError where a state does not
    fit in memory, before anything is compiled.
    """
    if config.circuit is None:
        return None
    circuit = config.circuit.circuit(n_labels)
    check_x64(circuit.dtype)
    stream = 0 if getattr(config.engine, "shots", None) is None else key_seed(seed, "shots")
    return _program(config.engine, circuit, batch, gradient, stream)


def circuit_digest(config: RunConfig, n_labels: int) -> str:
    """Return the digest of the circuit that `config` describes where it is captured from a function, which may change
    under its name; empty for others, which their options determine.
    """
    circuit = None if config.circuit is None else config.circuit.circuit(n_labels)
    return str(getattr(circuit, "digest", ""))


def check_program(arm: str, config: RunConfig) -> None:
    """Raise InputError where the engine cannot run the circuit of `arm`, or its batch does not fit in memory.

    With one output, whatever the labels are, and without compiling anything.
    """
    if config.circuit is None or config.engine is None:
        return
    circuit, batch = config.circuit.circuit(1), config.training.batch_size
    try:
        reason = config.engine.why_not(circuit)
        if reason is not None:
            raise CapabilityError(f"engine {config.engine.name} cannot run this circuit: {reason}")
        if hasattr(config.engine, "check"):
            config.engine.check(circuit, batch)
    except (InputError, CapabilityError) as error:
        raise InputError(f"arm {arm}: {error}") from error


@cleared
@functools.lru_cache(maxsize=64)
def _program(engine: Any, circuit: Any, batch: int, gradient: bool, seed: int) -> Program:
    program: Program = engine.program(circuit, batch, gradient=gradient, seed=seed)
    return program
