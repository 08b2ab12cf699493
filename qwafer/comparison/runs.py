"""`HeadRun`: what a benchmark reads of one head trained with one seed, whatever trained it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._errors import InputError
from qwafer._records import to_json
from qwafer.config import RunConfig
from qwafer.sweeps.directory import OutputDirectory, SweepResults, resources_path

if TYPE_CHECKING:
    from qwafer.training import RunResult

PARTS = ("val", "test")


@dataclass(frozen=True, eq=False)
class HeadRun:
    """One head, one seed: logits, labels and rows of validation and test, and what it took."""

    head: str
    """Name of the arm."""
    seed: int
    label_names: tuple[str, ...]
    exclusive: bool
    """Whether the head gives one of the classes (softmax) or each label on its own (sigmoid)."""
    logits: Mapping[str, np.ndarray]
    """`val`, `test`: (N, n_labels)."""
    labels: Mapping[str, np.ndarray]
    """`val`, `test`: (N, n_labels) of 0 and 1."""
    rows: Mapping[str, np.ndarray]
    """`val`, `test`: rows of the run's data."""
    n_parameters: Mapping[str, int]
    """`trainable`, `frozen`, `total` numbers of the head."""
    timings: Mapping[str, float]
    """Wall seconds: `compile`, `training`, `evaluation`, `total`, where they apply."""
    curves: Mapping[str, list[Any]]
    """Learning curves; empty where nothing is learnt in epochs."""
    digests: Mapping[str, Any]
    """`data` and `split`."""
    notes: tuple[str, ...]
    memory: Mapping[str, int | None]
    """`peak_memory` of the run's process and `peak_device_memory`, bytes."""
    config: Mapping[str, Any]
    """Every option."""
    best_epoch: int | None = None
    epochs_run: int | None = None
    degenerate: bool = False
    engine: Mapping[str, Any] | None = None
    """What executed the circuit."""
    made_with: Mapping[str, Any] | None = None
    """`versions`, `git_revision`, `host`."""


def head_run(head: str, result: "RunResult", memory: Mapping[str, int | None]) -> HeadRun:
    """Return the `HeadRun` of a training run; its `outputs` must be there."""
    return HeadRun(
        head=head,
        seed=result.seed,
        label_names=result.label_names,
        exclusive=RunConfig.from_dict(result.config).objective.exclusive,
        **{kind: {part: result.outputs[f"{part}_{kind}"] for part in PARTS} for kind in ("logits", "labels", "rows")},
        n_parameters=dataclasses.asdict(result.n_parameters),
        timings=dataclasses.asdict(result.timings),
        curves=result.curves,
        digests={name: getattr(result.digests, name) for name in ("data", "split")},
        notes=result.notes,
        memory=memory,
        config=result.config,
        best_epoch=result.best_epoch,
        epochs_run=result.epochs_run,
        degenerate=result.degenerate,
        engine=result.engine,
        made_with=to_json(result.environment),
    )


def load_runs(directory: OutputDirectory, sweep: SweepResults) -> dict[str, dict[int, HeadRun]]:
    """Return the complete runs of every head by seed; raise InputError where a head has none or a file is missing."""
    runs: dict[str, dict[int, HeadRun]] = {}
    for head, results in sweep.results.items():
        runs[head] = {}
        for seed, result in results.items():
            path = directory.run_path(head, seed)
            if not result.outputs:
                raise InputError(f"{path} has lost its logits ({path.stem}.npz): delete it, and the run is done again")
            runs[head][seed] = head_run(head, result, json.loads(resources_path(path).read_text(encoding="utf-8")))
        if not runs[head]:
            failure = next(iter(sweep.failures[head].values()))
            raise InputError(f"head {head} has no complete run to report: {failure.error}")
    return runs


def check_same_examples(runs: Mapping[str, Mapping[int, HeadRun]]) -> None:
    """Raise InputError unless all heads were tested on the same examples with every seed."""
    reference: dict[int, tuple[str, HeadRun]] = {}
    for head, by_seed in runs.items():
        for seed, run in by_seed.items():
            name, first = reference.setdefault(seed, (head, run))
            for part in PARTS:
                same = np.array_equal(run.rows[part], first.rows[part])
                if not same or not np.array_equal(run.labels[part], first.labels[part]):
                    raise InputError(
                        f"the heads {name} and {head} have different {part} examples with seed {seed}: they cannot be "
                        "compared; give all heads the same data section, and features with the same split"
                    )
