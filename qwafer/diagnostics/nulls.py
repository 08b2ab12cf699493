"""Is there anything quantum here?

A quantum head on good features scores well; so does a linear head on the same features. What the circuit adds is the
difference to what is left when it is taken away. This script runs, as an experiment on the same splits, batches and
seeds: the head; the same circuit without entanglement; the same circuit with random angles that are not trained; a
linear head; a linear map of products of cosines and sines of learned angles (everything the circuit could compute,
classically); and a network with as many parameters. Each trains until it has converged, at the one of four learning
rates that is best on validation. It prints one table with the verdicts; the report of the experiment lies in
OUT/sweep. A warning says that the head was not shown to beat one of them.

    python -m qwafer.diagnostics.nulls --engine xla --out runs/nulls
"""

import sys

from qwafer.diagnostics._common import parser, run


def main(argv: list[str] | None = None) -> int:
    """Train the head and its nulls and print the table."""
    options = parser(__doc__, circuit=False)
    options.add_argument("--engine", default="catalyst", help="catalyst, xla or reference (catalyst)")
    options.add_argument("--features", metavar="F.npz", help="features to train on (synthetic maps)")
    options.add_argument("--arm", default="mean_z_readout", help="arm of the default experiment (mean_z_readout)")
    options.add_argument("--seeds", type=int, default=6, help="seeds; a verdict takes six (6)")
    options.add_argument("--metric", default="test.roc_auc", help="macro metric (test.roc_auc)")
    options.add_argument("--jobs", type=int, default=1, metavar="J", help="worker processes (1)")
    options.add_argument("--out", default="runs/nulls", metavar="DIR", help="output directory (runs/nulls)")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="key=value")
    arguments = options.parse_args(argv)

    def body() -> object:
        from qwafer import InputError
        from qwafer.execution import LocalProcesses
        from qwafer.experiment import DEFAULT_EXPERIMENT, load_experiment
        from qwafer.reports.document import to_markdown
        from qwafer.reports.trust import nulls_table
        from qwafer.studies import nulls_report, run_nulls
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
        outcome = run_nulls(
            config,
            load_features({"head": config.data})["head"],
            arguments.out,
            seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
            metric=arguments.metric,
            executor=LocalProcesses(arguments.jobs),
            progress=lambda state: print(f"{state.stage}: {state.text}", file=sys.stderr),
        )
        report = nulls_report(outcome.summary)
        print(to_markdown([nulls_table(report)]))
        return report

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
