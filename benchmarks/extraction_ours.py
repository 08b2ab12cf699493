"""qwafer's side of `extraction.py`."""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Answer `features`, `time` and `memory` on stdin."""
    import jax

    from qwafer.backbones import load

    name, folder = sys.argv[1], Path(sys.argv[2])
    backbone = load(name, weights=folder / f"{name}.safetensors")
    images = np.load(folder / "images.npy")
    for question in map(str.strip, sys.stdin):
        if question == "features":
            np.save(folder / "ours.npy", backbone(images))
            answer: dict = {"path": str(folder / "ours.npy"), "versions": {"jax": jax.__version__}}
        elif question == "time":
            start = time.perf_counter()
            backbone(images)
            answer = {"seconds": time.perf_counter() - start}
        else:
            from qwafer.sweeps.resources import peak_memory  # now, so that it is not part of what was measured

            answer = {"peak_mb": peak_memory() / 2**20}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
