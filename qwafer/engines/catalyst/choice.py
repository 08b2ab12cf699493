"""`batching="auto"`: scan or choi, by a measured table."""

from qwafer.circuits import Circuit
from qwafer.engines.catalyst.choi import why_not

# n_qubits: microseconds of (an example under scan, an adjoint sweep under choi, an example under choi), with gradients
# and without, from `benchmarks/catalyst_core.py --table`: two layers, readout mean_z, lightning.qubit, one core, glibc.
# More layers lengthen all but the host's share of choi: for deep circuits the choice is the same or late, never wrong
# by much.
_WITH_GRADIENT: dict[int, tuple[float, float, float]] = {
    1: (57, 650, 0.26),
    2: (66, 691, 0.41),
    3: (73, 726, 0.62),
    4: (84, 823, 0.66),
    5: (96, 967, 1.4),
    6: (110, 1620, 2.8),
    7: (124, 4010, 6),
    8: (149, 20500, 15),
    9: (187, 124000, 21),
}
_VALUES: dict[int, tuple[float, float, float]] = {
    1: (8.6, 281, 0.13),
    2: (12.9, 297, 0.21),
    3: (11, 304, 0.31),
    4: (12.8, 333, 0.53),
    5: (14.8, 348, 0.93),
    6: (17.8, 467, 1.5),
    7: (20.8, 768, 2.6),
    8: (25.3, 2080, 7),
    9: (34, 12900, 18),
}


def choose_batching(circuit: Circuit, batch: int, *, gradient: bool, exact: bool) -> tuple[str, str]:
    """Return `scan` or `choi`, whichever the table expects to be faster, and the reason."""
    if not exact:
        return "scan", "only scan measures expectation values"
    reason = why_not(circuit)
    if reason is not None:
        return "scan", reason
    table = _WITH_GRADIENT if gradient else _VALUES
    if circuit.n_qubits not in table:
        return "scan", f"choi was not measured above {max(table)} qubits"
    scan, sweep, example = table[circuit.n_qubits]
    n_terms = circuit.n_qubits * (1 if circuit.readout_facts.z_only else 3)
    sweeps = min(circuit.n_outputs, n_terms) if gradient else 1
    times = {"scan": scan * batch, "choi": sweep * sweeps + example * batch}
    chosen = min(times, key=lambda name: times[name])
    return chosen, (
        f"expected {times['choi'] / 1e3:.2g} ms per batch of {batch} by choi and {times['scan'] / 1e3:.2g} ms by scan "
        "(measured table)"
    )


def expected_us(circuit: Circuit, batch: int) -> float:
    """Return about how many microseconds value and gradient of a batch take under `scan` (lightning.qubit, adjoint).

    Fitted to `benchmarks/engines.py` for 4 to 12 wires, 2 and 6 layers, B = 256 (measured: 0.8 to 1.4 times as much);
    where values have a program of their own, which they have unless the readout is one fixed observable, half as much
    again (1.3 to 1.9 times, 4 wires).
    """
    states = 2.0 ** min(circuit.n_qubits, 900)
    gates = len(circuit.operations())
    example = 73 + 0.1 * states + gates * (0.55 + 0.0019 * states)
    return batch * example * (1.0 if circuit.readout_facts.is_mean else 1.5)
