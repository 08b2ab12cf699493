"""How much memory the catalyst engine takes at its peak; see `benchmarks/memory.py`."""

from qwafer.circuits import Circuit

COMPILE_BYTES = {True: 60 << 20, False: 30 << 20}
"""What Catalyst's compiler and a small program add to a process, with gradients and without."""

CHUNK_AMPLITUDES = 1 << 20
"""States come back to the host; so many amplitudes (16 bytes each) at a time at most."""

SWEEP_STATES = 8
"""States of an adjoint sweep (measured): the circuit's, the observable's, the derivative's, and what is being
written."""

SWEEPS = 2
"""How many sweeps' states are held where more than one example is differentiated (measured)."""

UNITARY_STATES = 11
"""The same as `SWEEP_STATES` of the one sweep of batching `choi`."""

RETURNED = 3
"""How often the states of a chunk are held on their way back (measured): with probabilities, copies and conversions."""


def peak_bytes(circuit: Circuit, batch: int, *, gradient: bool, batching: str) -> int:
    """Return what the first call of a program adds to the process at its peak, compilation included."""
    n, amplitude = circuit.n_qubits, 16
    if batching == "choi":
        sweep = 4**n * (UNITARY_STATES if gradient else 2) + 6 * batch * 2**n
        return COMPILE_BYTES[gradient] + amplitude * sweep
    back = RETURNED * max(2**n, min(batch * 2**n, CHUNK_AMPLITUDES))
    sweep = SWEEP_STATES * min(batch, SWEEPS) * 2**n if gradient else 0
    return COMPILE_BYTES[gradient] + amplitude * max(back, sweep)
