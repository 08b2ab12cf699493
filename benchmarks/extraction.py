"""Images a second of the frozen backbones against torch on the same weights and images, measured in turns in one run.

Set up once, in an environment of its own (torchvision for its models, whatever device it was built for):

    python benchmarks/extraction.py --setup-torch

Then, on an otherwise idle machine (some three minutes on two cores):

    python benchmarks/extraction.py --out bench_reports/extraction.json

Torch runs in inference mode, channels_last, with as many threads as qwafer has cores. Each round times both sides one
after the other, so that what else the machine does falls on both; given are medians, and the median of the rounds'
ratios. Expected on two cores of a Xeon (Sapphire Rapids): see benchmarks/README.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TORCH = ROOT / ".venv-peers-extraction"
PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "numpy")
MODELS = {"efficientnet_b0": 1.5, "mobilenet_v3_small": 1.0, "mamba_vision_T": 1.0}
"""Backbone: how many times torch's images per second it should reach at batch 16."""


class Side:
    """A worker process that holds a model and times batches on request."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        command = [python, str(ROOT / "benchmarks" / script), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: str) -> dict:
        """Send one request, wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a worker ended: {' '.join(map(str, self.process.args))}")
        return json.loads(answer)

    def close(self) -> None:
        """End the worker."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def compare(name: str, torch_python: str, *, batch: int, rounds: int, folder: Path) -> dict:
    """Return medians, the ratio and the largest difference of the features of both sides."""
    import safetensors.numpy

    from qwafer.backbones.checkpoints import random_checkpoint
    from qwafer.backbones.pretrained import architecture

    state = dict(random_checkpoint(architecture(name).shapes, 0).state)
    safetensors.numpy.save_file(state, folder / f"{name}.safetensors")
    np.savez(folder / f"{name}.npz", **state)
    images = np.random.default_rng(0).standard_normal((batch, 224, 224, 3)).astype(np.float32)
    np.save(folder / "images.npy", images)
    ours = Side(sys.executable, "extraction_ours.py", name, str(folder))
    torch = Side(torch_python, "extraction_torch.py", name, str(folder))
    try:
        first, second = ours.ask("features"), torch.ask("features")
        found, wanted = np.load(first["path"]), np.load(second["path"])
        times: dict[str, list[float]] = {"ours": [], "torch": []}
        for _ in range(rounds):
            times["ours"].append(ours.ask("time")["seconds"])
            times["torch"].append(torch.ask("time")["seconds"])
        peaks = {"ours": ours.ask("memory"), "torch": torch.ask("memory")}
    finally:
        ours.close()
        torch.close()
    ratios = [b / a for a, b in zip(times["ours"], times["torch"], strict=True)]
    return {
        "model": name,
        "batch": batch,
        "rounds": rounds,
        "ours_images_per_s": batch / statistics.median(times["ours"]),
        "torch_images_per_s": batch / statistics.median(times["torch"]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "target": MODELS[name],
        "ours_peak_mb": peaks["ours"]["peak_mb"],
        "torch_peak_mb": peaks["torch"]["peak_mb"],
        "difference": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
        "versions": {**first["versions"], **second["versions"]},
        "threads": second["threads"],
    }


def main() -> int:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=str(TORCH / "bin" / "python"), help="a Python with torch and torchvision")
    parser.add_argument("--setup-torch", action="store_true", help="make that environment, and end")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.setup_torch:
        subprocess.run([sys.executable, "-m", "venv", str(TORCH)], check=True)
        subprocess.run([str(TORCH / "bin" / "pip"), "install", *PACKAGES], check=True)
        return 0
    sys.path.insert(0, str(ROOT))
    columns = ("backbone", "qwafer images/s", "torch images/s", "ratio (quartiles)", "target", "peak MB", "difference")
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(name, arguments.torch, batch=arguments.batch, rounds=arguments.rounds, folder=Path(folder))
        results.append(row)
        low, high = row["ratio_quartiles"]
        print(
            f"| {name} | {row['ours_images_per_s']:.1f} | {row['torch_images_per_s']:.1f} | {row['ratio']:.2f} "
            f"({low:.2f}, {high:.2f}) | {row['target']} | {row['ours_peak_mb']:.0f} / {row['torch_peak_mb']:.0f} "
            f"| {row['difference']:.1e} |",
            flush=True,
        )
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["ratio"] >= row["target"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
