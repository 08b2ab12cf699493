"""`batching="auto"`: scan or choi, by a measured table."""

from qwafer.circuits import CircuitSpec
from qwafer.engines._catalyst_choi import why_not
from qwafer.engines._catalyst_kernels import Z_READOUTS

# n_qubits: microseconds of (an example under scan, an adjoint sweep under choi, an example under choi), with
# gradients and without.
# From `benchmarks/catalyst_core.py --table` (two layers, readout mean_z, lightning.qubit, one core, glibc); more layers
# lengthen all but the host's share of choi, so that the choice is the same or late for deep circuits, never wrong by
# much.
_WITH_GRADIENT: dict[int, tuple[float, float, float]] = {
    1: (104, 233, 0.24),
    2: (115, 285, 0.40),
    3: (145, 323, 0.89),
    4: (187, 400, 1.3),
    5: (218, 531, 2.6),
    6: (256, 1340, 12),
    7: (279, 8200, 13),
    8: (321, 46600, 74),
}
_VALUES: dict[int, tuple[float, float, float]] = {
    1: (6.4, 63, 0.10),
    2: (7.4, 73, 0.17),
    3: (19, 76, 0.24),
    4: (22, 109, 0.38),
    5: (22, 110, 0.66),
    6: (37, 197, 1.5),
    7: (37, 484, 4.0),
    8: (39, 2280, 26),
}


def choose_batching(spec: CircuitSpec, batch: int, *, gradient: bool, exact: bool) -> tuple[str, str]:
    """Return `scan` or `choi`, whichever the table expects to be faster, and the reason."""
    if not exact:
        return "scan", "only scan measures expectation values"
    reason = why_not(spec)
    if reason is not None:
        return "scan", reason
    table = _WITH_GRADIENT if gradient else _VALUES
    if spec.n_qubits not in table:
        return "scan", f"choi was never faster above {max(table)} qubits"
    scan, sweep, example = table[spec.n_qubits]
    n_terms = spec.n_qubits * (1 if spec.readout in Z_READOUTS else 3)
    sweeps = min(spec.n_outputs, n_terms) if gradient else 1
    times = {"scan": scan * batch, "choi": sweep * sweeps + example * batch}
    chosen = min(times, key=lambda name: times[name])
    return chosen, (
        f"expected {times['choi'] / 1e3:.2g} ms a batch of {batch} by choi and {times['scan'] / 1e3:.2g} ms by scan "
        "(measured table)"
    )
