"""What a process must be for a program to run in it: not forked from one that ran programs, in 64 bit for float64."""

import os
import sys

from qwafer._errors import CapabilityError, InputError

_lost_threads: list[bool] = []


def _forked() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        _lost_threads.append(True)


os.register_at_fork(after_in_child=_forked)


def check_not_forked() -> None:
    """Raise CapabilityError in a process forked from one in which JAX has computed.

    A fork copies the locks of JAX's and Catalyst's threads but not the threads, so that it waits for ever. Whatever
    computes asks this first: programs, training and prediction.
    """
    if _lost_threads:
        raise CapabilityError(
            "this process was forked from one that has run programs, whose threads it lacks, and would hang: start it "
            'by multiprocessing.get_context("spawn")'
        )


def check_x64(dtype: str) -> None:
    """Raise InputError where `dtype` is float64 and JAX has its 64-bit types switched off."""
    if dtype != "float64":
        return
    import jax

    if not jax.config.jax_enable_x64:
        raise InputError(
            "a circuit of dtype float64 needs JAX in 64 bit, which is switched off: call "
            "jax.config.update('jax_enable_x64', True) at the start of the process"
        )
