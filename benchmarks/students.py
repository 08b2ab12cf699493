"""A teacher, its students, and the share of the gap between them that distillation recovers.

    python benchmarks/students.py students --maps mixedwm38.npz --out runs/students
    python benchmarks/students.py soft_targets --maps mixedwm38.npz --out runs/soft_targets

`students`: EfficientNet-B0 teaches MobileNetV3-Small on 64 x 64 dies; `soft_targets`: an MLP teaches the quantum head
of four wires. The teacher is trained with the split of the experiment (`data.split_seed`), its logits and, of a
network, its features are written to the folder, the experiment of that name is run in `FOLDER/ablation`, and for each
arm (arm - baseline) / (teacher - baseline) is printed with Fieller's interval over seeds (`comparison.recovered_gap`).
The teacher is one model: no interval says what another one would teach. Everything resumes after a kill.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import qwafer
from qwafer._io import write_json
from qwafer._process import configure_jax, run_verb
from qwafer.backbones import extract, extractor, features_from_maps
from qwafer.cli.ablate import print_summary
from qwafer.cli.progress import progress_bar
from qwafer.comparison import metric_value, recovered_gap
from qwafer.data import WaferMaps
from qwafer.experiment import Experiment, load_experiment
from qwafer.fitting import fit
from qwafer.heads.options import MlpOptions
from qwafer.model import Model
from qwafer.networks.options import NetworkOptions
from qwafer.overrides import parse_overrides, with_options
from qwafer.studies import run_experiment
from qwafer.training import RunResult, train
from qwafer.training.result import Runs

NETWORK = "efficientnet"
NETWORK_OPTIONS = {"training.epochs": 60}
MLP_OPTIONS = {"training.learning_rate": 1e-3}


def teacher(experiment: Experiment, maps: WaferMaps, folder: Path, options: Mapping[str, Any], progress: Any) -> Any:
    """Return the run of the teacher, whose logits and features are then in `folder`."""
    config = experiment.arms[experiment.baseline]
    seed = config.data.split_seed
    if seed is None:
        raise qwafer.InputError("the experiment must have `data.split_seed`, the seed of its teacher")
    if isinstance(config.head, NetworkOptions):
        drawn = ("limit", "split_by", "train_fraction", "val_fraction")
        own = {f"data.{name}": getattr(config.data, name) for name in drawn}
        path = folder / "teacher.safetensors"
        run = fit(maps, NETWORK, path, seed=seed, options={**own, **NETWORK_OPTIONS, **options}, progress=progress)
        extract(maps, extractor(NETWORK, weights=path), folder / "features.npz", progress=progress)
        model = path.with_suffix(".model.safetensors")
    else:
        path, model = folder / "teacher.run.json", folder / "teacher.model.safetensors"
        if path.exists():
            run = RunResult.load(path)
        else:
            blank = dataclasses.replace(config, head=MlpOptions(), circuit=None, engine=None)
            learning = with_options(blank, {**MLP_OPTIONS, **options})
            run = train(learning, features_from_maps(maps, config.data.backbone), seed)
            Model.from_run(run, extractor(config.data.backbone)).save(model)
            run.save(path)
    extract(maps, extractor("logits", weights=model), folder / "logits.npz", progress=progress)
    return run


def taught(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with the files of `folder` in place of those that it names."""
    arms = {}
    for name, config in experiment.arms.items():
        loss = config.objective
        if hasattr(loss, "teacher"):
            features = None if loss.teacher_features is None else str(folder / "features.npz")
            loss = dataclasses.replace(loss, teacher=str(folder / "logits.npz"), teacher_features=features)
        arms[name] = dataclasses.replace(config, objective=loss)
    return dataclasses.replace(experiment, arms=arms)


def shares(runs: Runs, experiment: Experiment, of_teacher: RunResult) -> dict[str, dict[str, Any]]:
    """Return, by metric and arm, the means and the recovered share over the seeds that both arms have."""
    found: dict[str, dict[str, Any]] = {}
    baseline = experiment.baseline
    for metric in dict.fromkeys((experiment.metric, "test.exact_match")):
        best = metric_value(of_teacher, metric)
        for arm, by_seed in runs.items():
            seeds = sorted(set(by_seed) & set(runs[baseline]))
            scores = np.array([[metric_value(runs[name][seed], metric) for seed in seeds] for name in (baseline, arm)])
            if arm == baseline or best is None or len(seeds) < 2:
                continue
            gap = recovered_gap(scores[0], scores[1], np.full(len(seeds), best))
            means = {"teacher": best, "baseline": scores[0].mean(), "arm": scores[1].mean()}
            found.setdefault(metric, {})[arm] = {**means, **dataclasses.asdict(gap)}
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the shares as Markdown."""
    lines = [
        "| metric | arm | baseline | arm | teacher | share of the gap | 95% interval |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for metric, arms in found.items():
        for arm, row in arms.items():
            scores = " | ".join(f"{row[name]:.4f}" for name in ("baseline", "arm", "teacher"))
            if row["share"] is None:
                share = "no gap | "
            else:
                share = f"{row['share']:.0%} | [{row['low']:.0%}, {row['high']:.0%}]"
            lines.append(f"| {metric} | {arm} | {scores} | {share} |")
    return "\n".join(lines)


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("students", "soft_targets"))
    parser.add_argument("--maps", required=True, help="a file of wafer maps with several labels, such as MixedWM38")
    parser.add_argument("--out", type=Path, help="folder of everything that is written (runs/NAME)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="an option of every arm")
    parser.add_argument("--teacher-set", action="append", default=[], help="an option of the teacher's run")
    parser.add_argument("--descriptive", action="store_true", help="do not refuse fewer seeds than a verdict takes")
    arguments = parser.parse_args()
    return run_verb(lambda: compared(arguments))


def compared(arguments: argparse.Namespace) -> int:
    """Train the teacher, run the experiment, write and print the shares; return the exit status."""
    configure_jax()
    folder = arguments.out or Path("runs") / arguments.experiment
    folder.mkdir(parents=True, exist_ok=True)
    given = [f"data.source={arguments.maps}", *arguments.overrides]
    experiment = taught(load_experiment(arguments.experiment, given), folder)
    options = {name: value.value for name, value in parse_overrides(arguments.teacher_set)}
    with progress_bar(quiet=False) as progress:
        run = teacher(experiment, qwafer.read_maps(arguments.maps), folder, options, progress)
        outcome = run_experiment(
            experiment,
            folder / "ablation",
            jobs=arguments.jobs,
            descriptive=arguments.descriptive,
            progress=progress,
        )
    print_summary(outcome.summary)
    found = shares(outcome.results.results, experiment, run)
    write_json(folder / "shares.json", found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
