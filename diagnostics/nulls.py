"""Is there anything quantum here?

A quantum head on good features scores well; so does a linear head on the same features. What the circuit adds is the
difference to what is left when it is taken away. This script trains, on the same splits, batches and seeds and for as
long: the head; the same circuit without entanglement; the same circuit with random angles that are not trained; a
linear head; a linear head on products of cosines and sines of the trained head's own angles (everything the circuit
could compute, classically); and a network with as many parameters. It prints one table with paired differences and
their intervals. A warning says that the head was not shown to beat one of them.

    python diagnostics/nulls.py --engine xla --seeds 5
"""

import sys

from _common import parser, run


def main(argv: list[str] | None = None) -> int:
    """Train the head and its nulls and print the table."""
    options = parser(__doc__, circuit=False)
    options.add_argument("--engine", default="catalyst", help="catalyst, xla or reference (catalyst)")
    options.add_argument("--features", metavar="F.npz", help="features to train on (synthetic maps)")
    options.add_argument("--arm", default="mean_z_readout", help="arm of the default experiment (mean_z_readout)")
    options.add_argument("--seeds", type=int, default=5, help="seeds (5)")
    options.add_argument("--metric", default="roc_auc", help="macro metric on the test split (roc_auc)")
    options.add_argument("--jobs", type=int, default=1, metavar="J", help="worker processes; 1: this process (1)")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer import InputError
        from qwafer.execution import LocalProcesses
        from qwafer.experiment import DEFAULT_EXPERIMENT, load_experiment
        from qwafer.probes import run_nulls
        from qwafer.reports.document import to_markdown
        from qwafer.reports.trust import nulls_table
        from qwafer.sweeps.sources import load_features

        if arguments.jobs < 1:
            raise InputError(f"`--jobs` must be at least 1, got {arguments.jobs}")
        settings = [f"engine={arguments.engine}"] + (
            [f"data.source={arguments.features}"] if arguments.features else []
        )
        experiment = load_experiment(DEFAULT_EXPERIMENT, [*settings, *arguments.overrides])
        if arguments.arm not in experiment.arms:
            raise InputError(f"`--arm` must be one of {', '.join(experiment.arms)}, got {arguments.arm!r}")
        config = experiment.arms[arguments.arm]
        report = run_nulls(
            config,
            load_features({"head": config.data})["head"],
            range(arguments.seed, arguments.seed + arguments.seeds),
            metric=arguments.metric,
            executor=LocalProcesses(arguments.jobs) if arguments.jobs > 1 else None,
            progress=lambda state: print(f"training {state.text}", file=sys.stderr),
        )
        print(to_markdown([nulls_table(report)]))
        return report

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
