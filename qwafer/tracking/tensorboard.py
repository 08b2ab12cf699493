"""TensorBoard's event files, by tensorboardX: `tensorboard --logdir OUT/tensorboard` shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._lazy import optional_package
from qwafer.tracking.tracker import Curves, TrackedRun

TEXTS = (".md", ".toml")


class TensorBoard:
    """A folder of event files per run in `OUT/tensorboard`: scalars, parameters as hyperparameters, reports as text,
    figures as images; other files stay where they are.
    """

    def __init__(self, folder: Path):
        self._writer = optional_package("tensorboardX", "tensorboard", "--track tensorboard needs").SummaryWriter
        self._folder = folder / "tensorboard"
        self._open: Any = None
        self._parameters: dict[str, Any] = {}

    def start(self, run: TrackedRun) -> None:
        """Open the run's folder."""
        self._open = self._writer(logdir=str(self._folder / run.name), write_to_disk=True)
        self._parameters = dict(run.parameters)
        self._open.add_text("digests", _table(run.digests))
        self._open.add_text("parameters", _table(run.parameters))

    def log(self, curves: Curves, metrics: Mapping[str, float]) -> None:
        """Write curves by epoch, metrics at step 0, and both with the parameters for the page of hyperparameters."""
        for name, points in curves.items():
            for epoch, value in points:
                self._open.add_scalar(name, value, epoch)
        for name, value in metrics.items():
            self._open.add_scalar(f"final/{name}", value, 0)
        self._open.add_hparams(self._parameters, {f"final/{k}": v for k, v in metrics.items()}, name="hparams")

    def finish(self, artefacts: Sequence[Path]) -> None:
        """Write texts and figures, and close the files."""
        import matplotlib.image

        for path in artefacts:
            if path.suffix in TEXTS:
                text = path.read_text(encoding="utf-8")
                self._open.add_text(path.name, text if path.suffix == ".md" else f"```\n{text}\n```")
            elif path.suffix == ".png":
                self._open.add_image(path.stem, matplotlib.image.imread(path)[..., :3], dataformats="HWC")
        self._open.close()


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
