"""Questions with known answers, which test those who ask: an answer, an error, a crash, a silence, a clean process."""

import os
import sys
import time

from ._common import Answer


def answer() -> Answer:
    """Answer at once."""
    return "works", "as it should"


def error() -> Answer:
    """Raise."""
    raise ValueError("as it should\nand a second line")


def crash() -> Answer:
    """Abort the process, as a failed assertion of a compiler does."""
    os.write(2, b"what():  as it should\n")
    os.abort()


def silence() -> Answer:
    """Say nothing for a minute."""
    time.sleep(60)
    return "wrong", "the silence ended"


def loaded() -> Answer:
    """Tell which parts of the stack were there before the question."""
    found = [name for name in ("jax", "pennylane", "catalyst", "qwafer.engines") if name in sys.modules]
    return ("fails" if found else "works"), ", ".join(found)
