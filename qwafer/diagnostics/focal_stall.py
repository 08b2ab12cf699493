"""Is the loss low because the model is good, or because it stands still?

The focal loss weights the cross-entropy of an example by (1 - p_t)^gamma. A model that says p = 1/2 of everything has
p_t = 1/2, and so the loss (1/2)^gamma log 2: 0.1733 at gamma = 2. That looks low; it is chance. This script trains an
experiment's baseline under the focal loss, watches every evaluation, and says so when the run sits there.

    python -m qwafer.diagnostics.focal_stall --engine xla
    python -m qwafer.diagnostics.focal_stall --engine xla --set head.alpha_init=0.01 --set training.learning_rate=1e-4
"""

import sys

from qwafer.diagnostics._common import parser, run


def main(argv: list[str] | None = None) -> int:
    """Train under the focal loss and watch for the stall."""
    options = parser(__doc__, circuit=False)
    options.add_argument("--gamma", type=float, default=2.0, help="exponent of the focal loss (2)")
    options.add_argument("--engine", default="catalyst", help="catalyst, xla or reference (catalyst)")
    options.add_argument("--features", metavar="F.npz", help="features to train on (synthetic maps)")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer.experiment import DEFAULT_EXPERIMENT, load_experiment
        from qwafer.probes import StallWatch, focal_stall
        from qwafer.sweeps.sources import load_features
        from qwafer.training import train

        settings = [f"engine={arguments.engine}", "objective.loss=focal", f"objective.focal_gamma={arguments.gamma}"]
        if arguments.features:
            settings.append(f"data.source={arguments.features}")
        experiment = load_experiment(DEFAULT_EXPERIMENT, [*settings, *arguments.overrides])
        config = experiment.arms[experiment.baseline]
        data = load_features({experiment.baseline: config.data})[experiment.baseline]
        watch = StallWatch(arguments.gamma)
        print(f"stall level {watch.level:.4f}")

        def follow(entry: dict) -> None:
            watch(entry)
            print(
                f"epoch {entry['epoch']}: loss {entry['train_loss']:.4f}, "
                f"separation {entry['val_separation']:+.4f}  {watch.message}"
            )

        result = train(config, data, arguments.seed, observe=follow)
        return focal_stall(result.curves, arguments.gamma)

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
