"""Does a program fit in this machine's memory? Asked before anything is compiled."""

from pathlib import Path

from qwafer._errors import InputError
from qwafer.circuits import Circuit

COMPILE_BYTES = 100 << 20
"""What compiling and calling a small program adds to a process."""

GATE_BYTES = 4 << 20
"""What the compiler takes for a gate of a circuit that JAX simulates gate by gate; a quarter in its repetitions."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def number_bytes(circuit: Circuit) -> int:
    """Return the bytes of a real number of the circuit's precision."""
    return 4 if circuit.dtype == "float32" else 8


def check_memory(circuit: Circuit, needed: int, batch: int, advice: str = "use fewer qubits") -> int:
    """Return `needed`, the predicted peak of a program in bytes; raise InputError where less memory is available."""
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"`circuit.n_qubits` = {circuit.n_qubits} needs {_readable(needed)} for a batch of {batch}, and "
            f"{_readable(available)} of memory are available: {advice}"
        )
    return needed


def gate_by_gate(circuit: Circuit, batch: int, *, gradient: bool) -> int:
    """Return the predicted peak of a simulator that JAX differentiates: the states of the batch after every gate."""
    state = 2 * number_bytes(circuit) * 2**circuit.n_qubits
    bodies = circuit.readout_facts.n_circuits(circuit.n_outputs)
    gates = len(circuit.operations()) + len(circuit.readout_operations(0))
    compiler = COMPILE_BYTES + GATE_BYTES * gates * (bodies + 3) // 4
    return compiler + batch * state * (bodies * gates if gradient else 4)


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that a process can still take, by the kernel's estimate and the container's limit; None if
    unknown.
    """
    limits = []
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        limits.append(max(int(limit.read_text()) - int(used.read_text()), 0))
    return min(limits, default=None)


def _readable(n_bytes: int) -> str:
    if n_bytes >= 1024 ** len(_UNITS):
        return f"2^{n_bytes.bit_length() - 1} bytes"
    power = max(n_bytes.bit_length() - 1, 0) // 10
    return f"{n_bytes / 1024**power:.3g} {_UNITS[power]}"
