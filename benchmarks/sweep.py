"""Whole sweeps by stage: what a user waits for, before and after, and as a PennyLane user would write them.

    git worktree add /tmp/before REVISION
    python benchmarks/sweep.py --before /tmp/before      # some 20 minutes on two idle cores; results/sweep.json
    python benchmarks/sweep.py --only default_xla

Each case is one command in a fresh process with a cache of XLA of its own, empty at its start. `wall` and `cpu` are its
seconds with all its workers. `compile`, `train` and `evaluate` are sums over the runs (`timings.json`), wall seconds of
workers with one thread each. `again` is the CPU time of the same command given once more, when nothing is left to do
but imports, reading and the report; the rest of `cpu` is the workers' start, checks and files. The seconds of a step
that eight lanes share count an eighth for each.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COMMON = 'seeds = {seeds}\nmetric = "test.roc_auc"\n[data]\ntask = "any"\nn_maps = 2000\n'
FOUR_WIRES = 'engine = "xla"\ncircuit.n_qubits = 4\ncircuit.n_layers = 2\ncircuit.readout = "mean_z"\n'
SEEDS = f"""{COMMON.format(seeds=100)}
[training]
epochs = 80
max_doublings = 0
batch_size = 64
[arms.quantum]
{FOUR_WIRES}
[arms.linear]
head = "linear"
training.epochs = 1
"""
RATES = f"""{COMMON.format(seeds=1)}
[training]
epochs = 20
max_doublings = 0
batch_size = 64
""" + "\n".join(
    f"[arms.rate_{k}]\ntraining.learning_rate = {rate:.6g}\n{FOUR_WIRES}"
    for k, rate in enumerate(np.geomspace(1e-4, 1e-1, 50))
)
HEADS = f"""{COMMON.format(seeds=6)}
[training]
epochs = 20
max_doublings = 0
batch_size = 64
[arms.mlp]
head = "mlp"
[arms.linear]
head = "linear"
[arms.quantum]
{FOUR_WIRES}
[arms.readout]
{FOUR_WIRES.replace('"mean_z"', '"mean_z_readout"')}
[arms.separable]
{FOUR_WIRES}circuit.ansatz = "separable"
"""
TOMLS = {"seeds": SEEDS, "rates": RATES, "heads": HEADS}
ABLATE, SYNTHETIC = ["-m", "qwafer.ablate"], ["--maps", "synthetic"]
EXPERIMENTS = ("alpha", "balanced_and_focal", "schedules")
SWEEPS: dict[str, list[str]] = {
    "default_xla": [*ABLATE, "--set", "engine=xla"],
    "default_catalyst": ABLATE,
    "experiments": ["{root}/experiments/run_all.py", *EXPERIMENTS, "--synthetic"],
    "bench": ["-m", "qwafer.bench", "heads.toml", *SYNTHETIC],
    "seeds": [*ABLATE, "seeds.toml", *SYNTHETIC],
    "seeds_alone": [*ABLATE, "seeds.toml", *SYNTHETIC, "--no-batch-seeds"],
    "rates": [*ABLATE, "rates.toml", *SYNTHETIC, "--descriptive"],
}
"""The arguments of Python; an output directory is added."""
OF_BEFORE = {"seeds_alone": [*ABLATE, "seeds.toml", *SYNTHETIC, "--seeds", "0:20"]}
"""The revision before has no `--no-batch-seeds`, and twenty of its runs are enough."""
NOT_BEFORE = ("seeds",)
STAGES = ("compile", "training", "evaluation")


def main() -> int:
    """Run the cases in turns, print a row for each, and write them; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of an older revision")
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "pennylane"], default=[*SWEEPS, "pennylane"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sweep.json")
    arguments = parser.parse_args()
    roots = {"before": arguments.before, "after": ROOT}
    rows: list[dict[str, Any]] = []
    print(
        f"{'case':18}{'':8}{'wall':>8}{'cpu':>8}{'compile':>9}{'train':>8}{'eval':>7}{'again':>7}{'runs':>6}{'steps':>9}"
    )
    for case in SWEEPS:
        for which, root in roots.items():
            if case in arguments.only and root is not None and not (which == "before" and case in NOT_BEFORE):
                rows.append({"case": case, "which": which, **sweep(case, which, root)})
                show(rows[-1])
    if "pennylane" in arguments.only:
        for case, readouts, seeds, steps in (
            ("default", ["mean_z", "mean_z_readout"], 8, steps_of(rows, "default_xla", 16) or 1600),
            ("seeds", ["mean_z"], 100, steps_of(rows, "seeds", 101.25) or 1760),
        ):
            rows.append({"case": f"pennylane_{case}", "which": "peer", **peer(readouts, seeds, steps)})
            show(rows[-1])
    facts = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "revisions": {}}
    for which, root in roots.items():
        if root is not None:
            facts["revisions"][which] = revision(root)
    arguments.out.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def sweep(case: str, which: str, root: Path) -> dict[str, Any]:
    """Run a case with the code in `root`; return its seconds by stage."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in TOMLS.items():
            Path(folder, f"{name}.toml").write_text(text, encoding="utf-8")
        arguments = OF_BEFORE.get(case, SWEEPS[case]) if which == "before" else SWEEPS[case]
        arguments = [word.format(root=root) for word in arguments] + ["--out", "out"]
        arguments += [] if case == "experiments" else ["--quiet"]
        first, second = (timed(arguments, root, folder) for _ in range(2))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder, "out").rglob("timings.json")]
    arms = [arm for timings in found for arm in timings["arms"].values()]
    sums = {name: sum(arm["sum"][name] for arm in arms) for name in (*STAGES, "steps")}
    runs = [run for arm in arms for run in arm["runs"].values()]
    return {**first, **sums, "again": second["cpu"], "runs": len(runs), "lanes": max(r.get("lanes", 1) for r in runs)}


def timed(arguments: list[str], root: Path, folder: str) -> dict[str, float]:
    """Return wall and CPU seconds of a command, those of its children included; an error ends the benchmark."""
    own = {"PYTHONPATH": str(root), "QWAFER_XLA_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    log = Path(folder, "log")
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env={**os.environ, **own}, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return {"wall": time.perf_counter() - begin, "cpu": usage.ru_utime + usage.ru_stime}


def peer(readouts: list[str], seeds: int, steps: int) -> dict[str, Any]:
    """Run the sweep as a PennyLane user would write it, on the data of seed 0; see `_sweep_pennylane.py`."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder, "data.npz"))
        words = [str(ROOT / "benchmarks" / "_sweep_pennylane.py"), "data.npz", "--readouts", *readouts]
        spent = timed([*words, "--seeds", str(seeds), "--steps", str(steps)], ROOT, folder)
        said = json.loads(Path(folder, "log").read_text(encoding="utf-8").strip().splitlines()[-1])
    n_runs = seeds * len(readouts)
    auc = {readout: float(np.mean(values)) for readout, values in said["auc"].items()}
    return {**spent, "compile": said["compile"], "training": said["train"], "runs": n_runs, "steps": n_runs * steps} | {
        "auc": auc
    }


def write_data(path: Path) -> None:
    """Write the spatial features of the default maps, split and standardised, and a PCA on four of their axes."""
    from qwafer.config import DataConfig
    from qwafer.data import make_split
    from qwafer.features import FeatureSet
    from qwafer.sweeps.sources import provide_features

    source = provide_features({"x": DataConfig()}, path.parent)["x"]
    data = FeatureSet.load(source.path).task("any")
    split = make_split(data.labels, data.content_ids, seed=0)
    mean, deviation = data.features[split.train].mean(0), data.features[split.train].std(0) + 1e-6
    x = ((data.features - mean) / deviation).astype(np.float32)
    axes = np.linalg.svd(x[split.train], full_matrices=False)[2][:4].T
    y = data.labels[:, 0].astype(np.float32)
    parts = {
        f"{part}_{name}": value[rows]
        for part, rows in (("train", split.train), ("test", split.test))
        for name, value in (("x", x), ("y", y))
    }
    np.savez(path, pca=axes / np.sqrt((x[split.train] @ axes).var(0)), **parts)


def steps_of(rows: list[dict[str, Any]], case: str, n_runs: float) -> int:
    """Return the mean steps of the runs of a case, 0 where it was not run."""
    return next((round(row["steps"] / n_runs) for row in rows if (row["case"], row["which"]) == (case, "after")), 0)


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    numbers = [row.get(name) for name in ("wall", "cpu", *STAGES, "again")]
    texts = [f"{'-' if value is None else format(value, '.2f'):>8}" for value in numbers]
    print(f"{row['case']:18}{row['which']:8}{''.join(texts)}{row['runs']:>6}{row['steps']:>9}", flush=True)


def revision(root: Path) -> str:
    """Return the commit of a checkout, with a plus where it differs from it."""
    told = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
