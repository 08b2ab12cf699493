"""How much memory the catalyst engine takes at its peak; see `benchmarks/memory.py`."""

from qwafer.circuits import Circuit

COMPILE_BYTES = 50 << 20
"""What Catalyst's compiler and a small program add to a process."""

CHUNK_AMPLITUDES = 1 << 20
"""States come back to the host; so many amplitudes (16 bytes each) at a time at most."""

SWEEP_STATES = 11
"""States of an adjoint sweep (measured): the circuit's, the observable's, the derivative's, and what is being
written."""

RETURNED = 12
"""How often the states of a chunk are held on their way back (measured): with probabilities, copies and conversions."""


def peak_bytes(circuit: Circuit, batch: int, *, gradient: bool, batching: str) -> int:
    """Return what the first call of a program adds to the process at its peak, compilation included."""
    n, amplitude = circuit.n_qubits, 16
    if batching == "choi":
        return COMPILE_BYTES + amplitude * (4**n * (SWEEP_STATES if gradient else 2) + 6 * batch * 2**n)
    back = max(2**n, min(batch * 2**n, CHUNK_AMPLITUDES))
    return COMPILE_BYTES + amplitude * (RETURNED * back + 2**n * (SWEEP_STATES if gradient else 1))
