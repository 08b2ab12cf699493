"""The train step of circuits of one's own: qwafer's `xla` against PennyLane and TensorCircuit-NG, in one run.

    python benchmarks/engines.py --setup-peers                              # once: .venv-peers
    python benchmarks/circuits.py                                           # all cases, B = 64, 256 and 1000
    python benchmarks/circuits.py --cases tree,iqp_cz-10 --batches 256      # a part: its entries are replaced
    python benchmarks/circuits.py --cases hardware_efficient --qubits 16,20,24 --batches 64
    python benchmarks/circuits.py --table                                   # only writes the table of the page

A step is the value of a loss with its gradients in weights and inputs, float32, for the circuits of
`_circuits_cases.py`, written as `_circuits_contenders.py` says. Contenders run on the device that JAX takes (a GPU,
where the environment has one; `--platform cpu` says otherwise), each in a process of its own, and take turns as in
`engines.py`. No time counts before the values and gradients of all that ran agree in pairs. A compilation is all that
comes before the first step: capture, tracing and XLA's part. Exit status 1: contenders disagree.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _circuits_cases import CASES, FAMILIES, Case, case
from _circuits_contenders import CONTENDERS
from _engines_pipe import PEERS, ROOT, Pipe
from engines import TOLERANCE, machine, rounds

from qwafer._io import write_json, write_text
from qwafer.engines.memory import available_memory

RESULTS = ROOT / "benchmarks" / "results" / "circuits.json"
PAGE = ROOT / "docs" / "own-circuit.md"
BEGIN = "<!-- begin circuits: written by benchmarks/circuits.py --table, not by hand -->"
END = "<!-- end circuits -->"
MODULE, DTYPE = "_circuits_contenders", "float32"
BATCHES = (64, 256, 1000)
BOX = 10.0
"""Seconds that the rounds of a case go on."""
TIMED = ("seconds", "compile_s", "compile_cpu_s", "rounds")


def chosen(args: argparse.Namespace) -> list[Case]:
    """Return the cases that `--cases` and `--qubits` name; raise ValueError for a name that is none."""
    known = {f"{family}-{n}": (family, n) for family, n in CASES}
    found: list[tuple[str, int]] = []
    for name in args.cases.split(",") if args.cases else FAMILIES:
        if name not in FAMILIES and name not in known:
            raise ValueError(f"there is no case {name}; there are {', '.join((*FAMILIES, *known))}")
        sizes = [n for family, n in ([known[name]] if name in known else CASES) if family == name.partition("-")[0]]
        found += [(name.partition("-")[0], n) for n in (whole(args.qubits) if args.qubits else sizes)]
    return [case(family, n) for family, n in dict.fromkeys(found)]


def whole(text: str) -> list[int]:
    """Return the whole numbers of `text`, separated by commas."""
    return [int(part) for part in text.split(",")]


def differences(files: dict[str, Path]) -> dict[str, float]:
    """Return the largest difference between two contenders: of values, and of gradients to their largest entry."""
    worst = {"values": 0.0, "gradients": 0.0}
    for first, second in itertools.combinations(files.values(), 2):
        with np.load(first) as a, np.load(second) as b:
            gaps = {name: float(np.abs(a[name] - b[name]).max()) for name in ("loss", "values", "weights", "inputs")}
            scales = {name: float(np.abs(b[name]).max()) for name in ("weights", "inputs")}
        worst["values"] = max(worst["values"], gaps["loss"], gaps["values"])
        worst["gradients"] = max(worst["gradients"], *(gaps[name] / scales[name] for name in scales))
    return worst


def run_case(own: Case, batch: int, pipes: dict[str, Pipe], folder: Path, limit: float) -> dict[str, Any]:
    """Compile every contender, hold them against each other, time them in turns; return the entry of the results."""
    inputs = folder / "inputs.npz"
    np.savez(inputs, **own.arrays(batch))
    rows: dict[str, dict[str, Any]] = {}
    files = {name: folder / f"{name}.npz" for name in pipes}
    for name, pipe in pipes.items():
        request = {"family": own.family, "n": own.n, "batch": batch, "inputs": str(inputs)}
        memory = int(0.5 * (available_memory() or 2**33))
        answer = pipe.ask(limit, do="prepare", memory=memory, outputs=str(files[name]), **request)
        rows[name] = {"failed": answer["error"]} if "error" in answer else answer
    ran = [name for name, row in rows.items() if "failed" not in row]
    apart = differences({name: files[name] for name in ran})
    agree = all(gap <= most for gap, most in zip(apart.values(), TOLERANCE[DTYPE], strict=True))
    times, _ = rounds(ran if agree else [], pipes, rows, BOX, with_product=False)
    for name, own_times in times.items():
        if own_times:
            quartiles = np.quantile(own_times, (0.25, 0.5, 0.75)).tolist()
            rows[name] |= {"seconds": quartiles, "rounds": len(own_times)}
    return {"circuit": own.name, "n": own.n, "batch": batch, "agree": agree, "differences": apart, "contenders": rows}


def against_peers(entry: dict[str, Any]) -> tuple[str, float, float] | None:
    """Return the fastest peer of an entry, how many times longer it takes, and the share of its compilation (CPU)."""
    rows = {name: row for name, row in entry["contenders"].items() if "seconds" in row}
    peers = [name for name in rows if name != "xla"]
    if "xla" not in rows or not peers:
        return None
    best = min(peers, key=lambda name: rows[name]["seconds"][1])
    times = rows[best]["seconds"][1] / rows["xla"]["seconds"][1]
    return best, times, rows["xla"]["compile_cpu_s"] / rows[best]["compile_cpu_s"]


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table of the entries of one results file, and a line that sums it up."""
    names = list(dict.fromkeys(name for entry in cases.values() for name in entry["contenders"]))
    lines = [f"| circuit | B | {' | '.join(names)} | fastest peer | compilation |"]
    lines += ["|---|--:|" + "--:|" * (len(names) + 2)]
    found = []
    order = {name: place for place, name in enumerate(FAMILIES)}

    def place(entry: dict[str, Any]) -> tuple[int, int, int]:
        return order.get(entry["circuit"].partition("-")[0], len(order)), entry["n"], entry["batch"]

    for entry in sorted(cases.values(), key=place):
        ratio = against_peers(entry)
        cells = [cell(entry["contenders"].get(name, {})) for name in names]
        last = ("-", "-") if ratio is None else (f"{ratio[1]:.1f} x", f"{ratio[2]:.2f}")
        found += [ratio] if ratio else []
        lines.append(f"| {entry['circuit']} | {entry['batch']:,} | {' | '.join((*cells, *last))} |")
    if found:
        times, shares = np.array([ratio[1] for ratio in found]), np.array([ratio[2] for ratio in found])
        lines += [
            "",
            f"Against the fastest peer of each row: {np.median(times):.1f} times faster in the median and "
            f"{times.min():.1f} at least, {(times >= 5).sum()} of {len(times)} rows at least 5 times. Compilation "
            f"takes {np.median(shares):.2f} of that peer's CPU time in the median and {shares.max():.2f} at most, at "
            f"most half in {(shares <= 0.5).sum()} rows.",
        ]
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    """Return milliseconds a step and CPU seconds of compilation."""
    if "seconds" not in row:
        return row.get("failed", "-").replace("|", "/")
    return f"{1e3 * row['seconds'][1]:.3g} ms ({row['compile_cpu_s']:.1f} s)"


def with_table(page: str, document: dict[str, Any]) -> str:
    """Return the text of a page with the table between the markers."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(document['cases'])}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", default="", help=f"of {', '.join(FAMILIES)}, or with wires: reupload-4; all")
    parser.add_argument("--qubits", default="", help="numbers of wires in place of those of the cases, such as 16,20")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="batch sizes (%(default)s)")
    parser.add_argument(
        "--peers", default="", help="contenders beside xla, or none; of " + ", ".join([*CONTENDERS][1:])
    )
    parser.add_argument("--platform", default="", help="JAX's platform, such as cpu; JAX's own choice")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds that a compilation may take (%(default)s)")
    parser.add_argument("--out", type=Path, help=f"results, {RESULTS.name} where no contender is left out; else none")
    parser.add_argument("--table", action="store_true", help="write the table of the page from the results, then stop")
    args = parser.parse_args(argv)
    if args.table:
        write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text(encoding="utf-8"))))
        return 0
    try:
        cases, batches = chosen(args), whole(args.batches)
        peers = (
            [name for name in args.peers.split(",") if name not in ("", "none")] if args.peers else [*CONTENDERS][1:]
        )
        if strange := [name for name in peers if name not in CONTENDERS]:
            raise ValueError(f"there is no contender {strange[0]}")
    except ValueError as error:
        parser.error(str(error))
    if any(CONTENDERS[name][1] == "peers" for name in peers) and not (PEERS / "bin" / "python").exists():
        parser.error("the peers are not installed: python benchmarks/engines.py --setup-peers")
    names = ["xla", *peers]
    target = args.out or (RESULTS if set(names) == set(CONTENDERS) else None)
    document = json.loads(target.read_text(encoding="utf-8")) if target and target.exists() else {"cases": {}}
    pipes = {name: Pipe(name, DTYPE, MODULE, args.platform) for name in names}
    agree = True
    try:
        hellos = {name: pipe.ask(120, do="hello") for name, pipe in pipes.items()}
        for name, hello in hellos.items():
            if "error" in hello:
                parser.error(f"{name} does not start: {hello['error']}")
        devices = sorted({hello["device"] for hello in hellos.values()})
        measured = {
            **machine(),
            "devices": devices,
            "versions": {name: own["versions"] for name, own in hellos.items()},
        }
        with tempfile.TemporaryDirectory() as folder:
            for own, batch in itertools.product(cases, batches):
                entry = run_case(own, batch, pipes, Path(folder), args.limit) | {"measured": measured}
                measured |= {"load_at_start": os.getloadavg()[0]}
                agree &= entry["agree"]
                document["cases"][f"{own.name} B={batch} {' '.join(devices)}"] = entry
                print(table({"": entry}).splitlines()[-3 if against_peers(entry) else -1], flush=True)
                if target:
                    write_json(target, document)
    finally:
        for pipe in pipes.values():
            pipe.close()
    print(f"\n{table(document['cases'])}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
