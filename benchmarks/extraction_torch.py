"""Torch's side of `extraction.py`: torchvision's own models, and MambaVision with a plain scan."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))


def torchvision_model(name: str) -> nn.Module:
    """Return torchvision's model without its classification head."""
    # Where torchvision was built for a GPU that is not there, its operators are absent; the models do not need them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    model = getattr(torchvision.models, name)()
    model.classifier = nn.Identity()
    model.library = library  # keeps the definitions alive
    return model


def build(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Return the model with its weights, for inference, channels last."""
    if name == "mamba_vision_T":
        from torch_mambavision import MambaVisionT

        model: nn.Module = MambaVisionT()
    else:
        model = torchvision_model(name)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return model.eval().to(memory_format=torch.channels_last)


def peak_mb() -> float:
    """Return the largest resident size of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Answer `features`, `time` and `memory` on stdin."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with np.load(folder / f"{name}.npz") as file:
        model = build(name, {key: torch.from_numpy(file[key]) for key in file.files})
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for question in map(str.strip, sys.stdin):
            if question == "features":
                np.save(folder / "torch.npy", model(images).numpy())
                path = str(folder / "torch.npy")
                answer: dict = {"path": path, "versions": {"torch": torch.__version__}, "threads": threads}
            elif question == "time":
                start = time.perf_counter()
                model(images)
                answer = {"seconds": time.perf_counter() - start}
            else:
                answer = {"peak_mb": peak_mb()}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
