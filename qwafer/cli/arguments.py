"""What the verbs share on their command lines, and the experiment that it describes."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from qwafer.execution import Executor
    from qwafer.experiment import Experiment
    from qwafer.tracking import Tracking


def program(verb: str) -> str:
    """Return how a verb was called, for its help: as `qwafer VERB`, the console script, or as a module."""
    return f"qwafer {verb}" if Path(sys.argv[0]).stem == "qwafer" else f"python -m qwafer.{verb}"


def add_experiment(parser: argparse.ArgumentParser, default: str, what: str = "an experiment file") -> None:
    """Add the experiment, its data and its options."""
    parser.add_argument(
        "experiment",
        nargs="?",
        default=default,
        metavar="EXPERIMENT.toml",
        help=f"{what}, or the name of one that comes with qwafer ({default})",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--features", metavar="F.npz", help="features that `python -m qwafer.extract` wrote")
    data.add_argument(
        "--maps",
        metavar="FILE",
        help="wafer maps: MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic`; a table: Edge-IIoTset (.csv)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="an option of every arm that has it, such as training.epochs=20 or engine=xla; may be repeated",
    )
    add_lists(parser)


def add_lists(parser: argparse.ArgumentParser) -> None:
    """Add the lists of what can be named: each is printed, and the process ends with status 0."""
    for name, text, what in (
        ("options", _options, "print every option with its default and its meaning, and stop"),
        ("experiments", _experiments, "print the experiments that come with qwafer, and stop"),
        ("metrics", _metrics, "print the metrics that arms are compared by, and stop"),
    ):
        parser.add_argument(f"--list-{name}", action=_List, text=text, help=what)


class _List(argparse.Action):
    """Prints what `text()` returns, as --version does its line; it is made when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, text: Callable[[], str], help: str):  # noqa: A002
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        try:
            print(self.text(), flush=True)
        except BrokenPipeError:  # `... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit()


def _options() -> str:
    from qwafer.reference import options_text

    return options_text()


def _experiments() -> str:
    from qwafer.reference import experiment_titles

    return _aligned(experiment_titles())


def _metrics() -> str:
    from qwafer.reference import metric_lines

    return _aligned(metric_lines())


def _aligned(lines: dict[str, str]) -> str:
    width = max(map(len, lines), default=0)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the seeds of a sweep."""
    parser.add_argument("--seeds", metavar="N|a:b|list", help="seeds: 8 (0 to 7), 3:11 (3 to 10), or 1,5,9")


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Add how the runs of a sweep are judged."""
    parser.add_argument(
        "--margin", type=float, metavar="M", help="differences that are no larger count as equivalent (0.01)"
    )
    parser.add_argument(
        "--descriptive",
        action="store_true",
        help="allow fewer seeds than a verdict takes: the report describes, and judges nothing",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add how the jobs of a sweep are run."""
    parser.add_argument(
        "--jobs", type=int, metavar="J", help="jobs at a time (2; all CPUs of a cluster); no influence on the numbers"
    )
    parser.add_argument(
        "--executor",
        default="local",
        metavar="NAME",
        help="what runs the jobs: local (processes of this machine), serial, ray (a cluster), or package.module:Class",
    )
    parser.add_argument(
        "--address", metavar="HOST", help="with --executor ray: the cluster, `auto` or ray://HOST:10001 (one's own)"
    )


def add_batch_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the switch of training many seeds side by side."""
    parser.add_argument(
        "--no-batch-seeds",
        action="store_true",
        help="train every seed alone; else 16 seeds and more of a small head share one program where that is faster, "
        "and agree with seeds alone to rounding",
    )


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Add what the runs and the report are told to."""
    parser.add_argument(
        "--track",
        metavar="NAME",
        help="tell runs and reports to tensorboard, mlflow, wandb, or package.module:Class; a failure ends only that",
    )


def tracking_of(arguments: argparse.Namespace, out: "str | Path") -> "Tracking | None":
    """Return the tracking that the command line names, for the output directory; None where it names none."""
    from qwafer.tracking import make_tracking

    return None if arguments.track is None else make_tracking(arguments.track, out)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the switch of the progress bar."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def executor_of(arguments: argparse.Namespace) -> "Executor":
    """Return the executor that the command line names."""
    from qwafer._checks import check_positive_int
    from qwafer.execution import make_executor

    if arguments.jobs is not None:
        check_positive_int("--jobs", arguments.jobs)
    return make_executor(arguments.executor, arguments.jobs, arguments.address)


def configure_for(experiment: "Experiment") -> None:
    """Configure JAX where a backbone of the experiment may compute with it in this process; `spatial` takes NumPy.

    Runs are computed by workers, which configure it themselves, and importing it takes as long as a small report.
    """
    from qwafer._process import configure_jax

    if any(config.data.backbone != "spatial" for config in experiment.arms.values()):
        configure_jax()


def experiment_of(
    arguments: argparse.Namespace, more: Sequence[str] = (), heads: Sequence[str] | None = None
) -> "Experiment":
    """Return the experiment that the command line describes, with `more` overrides of the verb's own; see
    `load_experiment` for `heads`.
    """
    from qwafer.experiment import load_experiment, parse_seeds, with_seeds
    from qwafer.source import source_override

    overrides = [*arguments.overrides, *more, *source_override(arguments.maps, arguments.features)]
    experiment = load_experiment(arguments.experiment, overrides, heads)
    seeds = getattr(arguments, "seeds", None)
    margin = getattr(arguments, "margin", None)
    if margin is not None:
        experiment = dataclasses.replace(experiment, margin=margin)
    return experiment if seeds is None else with_seeds(experiment, parse_seeds(seeds))
