"""Does a statevector fit in this machine's memory? Asked before anything is compiled."""

from pathlib import Path

from qwafer._errors import InputError
from qwafer.circuits import Circuit

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def check_memory(circuit: Circuit, *, double: bool = False) -> None:
    """Raise InputError where one example's gradient cannot be held: three complex states of 2^n_qubits amplitudes.

    A reverse sweep needs at least the state, its adjoint and the one being written. The batch does not count: engines
    may run it in parts. `double`: the engine computes in complex128 whatever `circuit.dtype` is.
    """
    amplitude = 8 if circuit.dtype == "float32" and not double else 16
    needed, available = 3 * amplitude * 2**circuit.n_qubits, available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"`circuit.n_qubits` = {circuit.n_qubits} needs {_readable(needed)} for the states of one example, and "
            f"{_readable(available)} of memory are available: use fewer qubits"
        )


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
