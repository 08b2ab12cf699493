"""What a process must be for a program to run in it: not forked from one that ran programs, in 64 bit for float64."""

import os

from qwafer._errors import CapabilityError, InputError

_home: list[int] = []


def check_not_forked() -> None:
    """Raise CapabilityError in a process forked from one that has run or compiled a program.

    A fork copies the locks of JAX's and Catalyst's threads but not the threads, so that it waits for ever.
    """
    if not _home:
        _home.append(os.getpid())
    if _home[0] != os.getpid():
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
