"""What the scripts share: options of a circuit, printing a report, the exit status."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from qwafer._process import configure_jax, run_verb


def parser(docstring: str | None, *, circuit: bool = True) -> argparse.ArgumentParser:
    """Return a parser with a script's docstring as its help and, for circuits, the options of a `CircuitSpec`."""
    command = re.search(r"python -m \S+", docstring or "")
    result = argparse.ArgumentParser(
        prog=command and command[0], description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if circuit:
        result.add_argument("--qubits", type=int, default=4, help="wires (4)")
        result.add_argument("--layers", type=int, default=2, help="layers of the ansatz (2)")
        result.add_argument("--encoding", default="ry", help="ry, rx or rz (ry)")
        result.add_argument(
            "--ansatz", default="strongly_entangling", help="strongly_entangling, basic_entangler, separable"
        )
        result.add_argument(
            "--entanglement", default="native", help="ring, linear, all, none, or the ansatz's own (native)"
        )
        result.add_argument("--reupload", action="store_true", help="encode the data before every layer")
        result.add_argument("--dtype", default="float32", help="float32 or float64 (float32)")
        result.add_argument("--engine", default="catalyst", help="catalyst, xla or reference (catalyst)")
    result.add_argument("--seed", type=int, default=0, help="seed of the random points (0)")
    return result


def spec_of(arguments: argparse.Namespace, readout: str, n_outputs: int = 1) -> Any:
    """Return the `CircuitSpec` of the parsed options."""
    from qwafer.circuits import CircuitSpec

    entanglement = {} if arguments.entanglement == "native" else {"entanglement": arguments.entanglement}
    return CircuitSpec(
        n_qubits=arguments.qubits,
        n_layers=arguments.layers,
        encoding=arguments.encoding,
        ansatz=arguments.ansatz,
        readout=readout,
        n_outputs=n_outputs,
        reupload=arguments.reupload,
        dtype=arguments.dtype,
        **entanglement,
    )


def run(body: Callable[[], Any]) -> int:
    """Run a script's body, which returns one report or several, and print them.

    Returns 0, 1 if a report fails, 2 on bad input.
    """

    def printed() -> int:
        found = body()
        reports = found if isinstance(found, (list, tuple)) else [found]
        for report in reports:
            show(report)
        return int(any(report.verdict == "fail" for report in reports))

    return run_configured(printed)


def run_configured(body: Callable[[], int]) -> int:
    """Run a script's body with JAX configured; return its exit status, 2 on bad input."""
    configure_jax()
    return run_verb(body)


def show(report: Any) -> None:
    """Print a report: verdict, headline, tolerance, and what it means and what to do where something is wrong."""
    print(f"{report.verdict.upper()}: {report.name}: {report.headline}")
    if report.tolerance:
        print(f"  tolerance: {report.tolerance}")
    if report.verdict in ("warn", "fail"):
        print(f"  meaning: {report.meaning}")
        print(f"  what to do: {report.remedy}")
