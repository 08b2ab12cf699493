"""The panels of docs/gallery.md: curves, reliability, ROC and confusion of two heads on synthetic maps.

    python experiments/gallery.py [--out FILE.png]

Draws docs/images/panels.png, in some ten seconds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import qwafer
from qwafer._process import configure_jax, run_verb
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.heads import LinearOptions
from qwafer.reports.figures import house_style, new_figure, save_figure

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default=str(IMAGES / "panels.png"), metavar="FILE.png", help="the figure")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(Path(arguments.out)))


def _run(out: Path) -> int:
    configure_jax()
    data = qwafer.features_from_maps(qwafer.synthetic_maps(800, seed=0), backbone="spatial")
    training = TrainingConfig(learning_rate=0.02)  # until it has converged
    options = {"data": DataConfig(task="Edge-Loc"), "training": training}
    runs = {
        "quantum": qwafer.train(RunConfig(engine=qwafer.engines.get("xla"), **options), data, seed=0),
        "linear": qwafer.train(RunConfig(head=LinearOptions(), **options), data, seed=0),
    }
    with house_style():
        figure = new_figure(7.0, 1.9)
        axes = figure.subplots(1, 4)
    qwafer.figures.curve(runs, "val_loss", ax=axes[0])
    qwafer.figures.reliability(runs["quantum"], ax=axes[1])
    qwafer.figures.roc(runs, ax=axes[2])
    qwafer.figures.confusion(runs["quantum"], ax=axes[3])
    path, pdf = save_figure(figure, out)
    pdf.unlink()
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
