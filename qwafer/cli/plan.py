"""`python -m qwafer.plan`: how many seeds a comparison takes, by simulating the test that will decide."""

import argparse
from collections.abc import Sequence

from qwafer._process import DEFAULT_EXPERIMENT, run_verb
from qwafer.cli.arguments import add_experiment, experiment_of, program


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("plan"),
        description="Say how many seeds an experiment takes to show a difference, or that there is none, by simulating "
        "the test that will decide: arms, splits and margin are those of the experiment. Nothing is trained.",
        epilog="Exit status: 0 done, 1 no number of seeds suffices, 2 bad input.",
    )
    add_experiment(parser, DEFAULT_EXPERIMENT)
    parser.add_argument(
        "--effect",
        type=float,
        required=True,
        metavar="D",
        help="the smallest difference of the metric that matters; 0: plan to show equivalence within the margin",
    )
    parser.add_argument(
        "--sd",
        type=float,
        nargs="+",
        required=True,
        metavar="S",
        help="standard deviation of the paired differences over seeds; several: one line each",
    )
    parser.add_argument("--power", type=float, default=0.8, metavar="P", help="probability of the true verdict (0.8)")
    parser.add_argument("--margin", type=float, metavar="M", help="differences that are no larger count as equivalent")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer.comparison import check_comparable, check_metric, plan_seeds, planned_design

    experiment = experiment_of(arguments)
    check_metric(experiment.metric)
    check_comparable(experiment)
    baseline = experiment.baseline
    design = planned_design(experiment.arms[baseline].data, experiment.facts.get(baseline))
    plans = [
        plan_seeds(
            arguments.effect,
            sd,
            design=design,
            power=arguments.power,
            n_comparisons=len(experiment.arms) - 1,
            margin=experiment.margin,
        )
        for sd in arguments.sd
    ]
    print(f"{experiment.name}, {experiment.metric}. {design.about}:")
    for plan in plans:
        print(plan.sentence)
    print(f"Beyond that, {design.limits}.")
    return int(any(plan.seeds is None for plan in plans))
