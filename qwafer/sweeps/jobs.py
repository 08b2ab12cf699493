"""The jobs of a sweep: train a run, check that it could start, time a trained head."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwafer._records import to_json
from qwafer.config import RunConfig
from qwafer.execution import Failure, Job, ReportPart
from qwafer.features import FeatureSet
from qwafer.sweeps.directory import predictor_path
from qwafer.training.resources import PeakMemory

if TYPE_CHECKING:
    from qwafer.training import RunResult

TRAIN, TRAIN_LANES, CHECK, TIME, TRY = (
    f"{__name__}:{name}" for name in ("train_run", "train_lanes", "check_run", "time_run", "try_run")
)
"""The names of the jobs."""


def run_payload(config: RunConfig, features: str | Path, seed: int) -> dict[str, Any]:
    """Return what every job on a run is told: the configuration, the feature file and the seed."""
    return {"config": config.to_dict(), "features": str(features), "seed": seed}


def train_payload(
    config: RunConfig,
    features: str | Path,
    seed: int,
    out: Path,
    *,
    checkpoints: Path | None = None,
    store_all: bool = False,
    measure: bool = False,
) -> dict[str, Any]:
    """Return the payload of `train_run`: the result goes to `out`; see there for the rest."""
    return {
        **run_payload(config, features, seed),
        "out": str(out.absolute()),
        "checkpoints": None if checkpoints is None else str(checkpoints.absolute()),
        "store_all": store_all,
        "measure": measure,
    }


def run_job(key: str, function: str, payload: Mapping[str, Any], **how: Any) -> Job:
    """Return the job with the files that its payload, or one of the runs in it, names."""
    runs = [run for lane in payload["lanes"] for run in lane] if "lanes" in payload else [payload]
    reads = {run["features"]: None for run in runs}
    writes: list[str] = []
    for run in runs:
        if "out" in run:
            out = Path(run["out"])
            writes += map(str, (predictor_path(out), out.with_suffix(".npz"), out))  # a run is complete with its result
            writes += [] if run["checkpoints"] is None else [run["checkpoints"]]
        if Path(run.get("predictor", "")).is_file():
            reads[run["predictor"]] = None
    return Job(key, function, payload, reads=tuple(reads), writes=tuple(writes), **how)


def train_run(payload: Mapping[str, Any], report: ReportPart) -> None:
    """Train one arm with one seed and write its result.

    With `store_all` the predictor is written beside it, and before it: a run is complete when its result is there. With
    `measure` it holds the peak memory of the process, which then should have done nothing else.
    """
    from qwafer.training import train

    result = train(
        run_config(payload),
        load_features(payload["features"]),
        payload["seed"],
        from_source=True,
        directory=payload["checkpoints"],
        progress=lambda state: report(state.done / state.total),
    )
    if payload["measure"]:
        result = dataclasses.replace(result, memory=PeakMemory.now())
    _save(result, payload)


def _save(result: "RunResult", payload: Mapping[str, Any]) -> None:
    from qwafer.heads import Head

    out = Path(payload["out"])
    if payload["store_all"] and result.predictor is not None and isinstance(result.predictor.head, Head):
        result.predictor.save(predictor_path(out))
    result.save(out)


def lanes_payload(n_lanes: int) -> dict[str, Any]:
    """Return the payload of `train_lanes` without runs; the lanes take payloads of `train_run` that differ in their
    seeds alone.
    """
    return {"lanes": [[] for _ in range(n_lanes)]}


def train_lanes(payload: Mapping[str, Any], report: ReportPart) -> dict[str, dict[str, str]]:
    """Train the runs of every lane one after another, the lanes side by side; write each result as it comes.

    Returns what failed: the fields of its `Failure`, by seed.
    """
    from qwafer.training import train_lanes

    runs = {run["seed"]: run for lane in payload["lanes"] for run in lane}
    first = next(iter(runs.values()))
    failures: dict[str, dict[str, str]] = {}

    def outcome(seed: int, result: "RunResult | Exception") -> None:
        try:
            if isinstance(result, Exception):
                raise result
            _save(result, runs[seed])
        except Exception as error:
            failures[str(seed)] = dataclasses.asdict(Failure.of(error))

    train_lanes(
        run_config(first),
        load_features(first["features"]),
        [[run["seed"] for run in lane] for lane in payload["lanes"]],
        outcome,
        directories={seed: run["checkpoints"] for seed, run in runs.items() if run["checkpoints"] is not None},
        progress=report,
    )
    return failures


def try_run(payload: Mapping[str, Any], report: ReportPart) -> dict[str, Any]:
    """Return the JSON form of the `TrialScores` of a trial of a search: `seeds`, `metric`, `higher_is_better` and
    `stops` ([epoch, bound]) are those of `run_trial`. Nothing is written.
    """
    from qwafer.training import Stop, run_trial

    scores = run_trial(
        run_config(payload),
        load_features(payload["features"]),
        payload["seeds"],
        payload["metric"],
        higher_is_better=payload["higher_is_better"],
        stops=[Stop(epoch, bound) for epoch, bound in payload["stops"]],
        report=report,
    )
    return to_json(scores)


@dataclass(frozen=True)
class Checked:
    """What is known of the runs of an arm before the first."""

    lanes: bool = False
    """Whether they are faster side by side."""
    steps: int = 0
    """Steps of a run's first stage."""
    step_seconds: dict[str, float] = field(default_factory=dict)
    """About the seconds of a step with its engine and with a faster one, by name; empty where they are not known."""
    circuit: str = ""
    """`circuit_digest` of the arm."""


def check_run(payload: Mapping[str, Any], report: ReportPart) -> dict[str, Any]:
    """Raise what a run would raise before its first step, for its data, split, head, circuit and memory; return the
    fields of `Checked` for its arm's runs, `n_seeds` of them.
    """
    from qwafer.engines.expected import expected_steps
    from qwafer.objective import make_sampler
    from qwafer.training import lanes_gain, make_head, make_program, prepare
    from qwafer.training.make import circuit_digest

    config = run_config(payload)
    prepared = prepare(config, load_features(payload["features"]), payload["seed"])
    if not config.trained_by_loop:
        return dataclasses.asdict(Checked())
    features, labels = prepared.part("train")
    head = make_head(config, features, labels.shape[1], payload["seed"], prepared.data.origin)
    options = config.training
    program = make_program(config, labels.shape[1], options.batch_size)
    sampler = make_sampler(
        config.sampling,
        labels,
        batch_size=options.batch_size,
        seed=payload["seed"],
        fixed_num_batches=options.fixed_num_batches,
        exclusive=prepared.exclusive,
    )
    seconds = {} if program is None else expected_steps(config.engine, program.circuit, options.batch_size)
    return dataclasses.asdict(
        Checked(
            lanes_gain(config, head, len(features), payload.get("n_seeds", 1)),
            options.epochs * sampler.n_batches,
            seconds,
            circuit_digest(config, labels.shape[1]),
        )
    )


def time_run(payload: Mapping[str, Any], report: ReportPart) -> dict[str, Any]:
    """Return the JSON form of the `InferenceTiming` of a trained head, which must be alone in its process.

    `predictor` is its file; a contender, which has none, is fitted again.
    """
    from qwafer.sweeps.inference import time_head
    from qwafer.training import Predictor, prepare, train

    config, data = run_config(payload), load_features(payload["features"])
    stored = Path(payload["predictor"])
    predictor = (
        Predictor.load(stored) if stored.is_file() else train(config, data, payload["seed"], from_source=True).predictor
    )
    assert predictor is not None
    prepared = prepare(config, data, payload["seed"])
    return to_json(time_head(predictor, prepared.part("val")[0], prepared.part("test")[0]))


@lru_cache(maxsize=2)
def load_features(path: str) -> FeatureSet:
    """Return the features of a file, read once per process; their arrays are read-only, so that no run alters them."""
    return FeatureSet.load(path)


def run_config(payload: Mapping[str, Any]) -> RunConfig:
    """Return the configuration in the payload of a job."""
    return RunConfig.from_dict(payload["config"])
