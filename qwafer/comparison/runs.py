"""`HeadRun`: what a benchmark reads of one head trained with one seed, whatever trained it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._errors import InputError
from qwafer._records import load_record
from qwafer.comparison.resources import PeakMemory
from qwafer.experiment import Experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.directory import resources_path

if TYPE_CHECKING:
    from qwafer.training import RunResult

PARTS = ("val", "test")


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers in a head."""

    trainable: int
    """Numbers that training changes."""
    frozen: int
    """Numbers that it leaves as they are."""
    total: int
    """All of them."""


@dataclass(frozen=True)
class RunSeconds:
    """Wall seconds of one run; None for what the head does not have."""

    training: float
    """Training or fitting, without compilation."""
    total: float
    """Everything."""
    compile: float | None = None
    """Making and compiling programs."""
    evaluation: float | None = None
    """Evaluation."""


@dataclass(frozen=True)
class RunEnvironment:
    """What a run was made with."""

    versions: dict[str, str]
    """Of Python and packages."""
    git_revision: str | None
    """Commit of the checkout, `-dirty` if it differs; None outside one."""
    host: dict[str, Any]
    """Machine, devices, threads, allocator."""


@dataclass(frozen=True, eq=False)
class HeadRun:
    """One head, one seed: logits, labels and rows of validation and test, and what it took."""

    head: str
    """Name of the arm."""
    seed: int
    """Of split, initial values and batches."""
    label_names: tuple[str, ...]
    """Labels of the task."""
    exclusive: bool
    """Whether the head gives one of the classes (softmax) or each label on its own (sigmoid)."""
    logits: Mapping[str, np.ndarray]
    """`val`, `test`: (N, n_labels)."""
    labels: Mapping[str, np.ndarray]
    """`val`, `test`: (N, n_labels) of 0 and 1."""
    rows: Mapping[str, np.ndarray]
    """`val`, `test`: rows of the run's data."""
    n_parameters: ParameterCounts
    """Numbers in the head."""
    seconds: RunSeconds
    """Wall times."""
    curves: Mapping[str, list[Any]]
    """Learning curves; empty where nothing is learnt in epochs."""
    data_digest: str
    """Digest of features and labels."""
    split_digest: str
    """Digest of the split."""
    notes: tuple[str, ...]
    """What a reader should know, one sentence each."""
    memory: PeakMemory
    """Of the run's process."""
    config: Mapping[str, Any]
    """Every option."""
    best_epoch: int | None = None
    """Epoch of the checkpoint that was evaluated; None where nothing is learnt in epochs."""
    epochs_run: int | None = None
    """Epochs trained; None likewise."""
    engine: dict[str, Any] | None = None
    """What executed the circuit."""
    environment: RunEnvironment | None = None
    """What the run was made with."""


def head_run(head: str, result: "RunResult", memory: PeakMemory) -> HeadRun:
    """Return the `HeadRun` of a training run; its `outputs` must be there."""
    spent = result.timings
    return HeadRun(
        head=head,
        seed=result.seed,
        label_names=result.label_names,
        exclusive=result.metrics["test"]["exclusive"],
        **{kind: {part: result.outputs[f"{part}_{kind}"] for part in PARTS} for kind in ("logits", "labels", "rows")},
        n_parameters=ParameterCounts(**result.n_parameters),
        seconds=RunSeconds(spent["training"], spent["total"], spent.get("compile"), spent.get("evaluation")),
        curves=result.curves,
        data_digest=result.digests["data"],
        split_digest=result.digests["split"],
        notes=result.notes,
        memory=memory,
        config=result.config,
        best_epoch=result.best_epoch,
        epochs_run=result.epochs_run,
        engine=result.engine,
        environment=RunEnvironment(result.versions, result.git_revision, result.host),
    )


def load_runs(experiment: Experiment, directory: OutputDirectory) -> dict[str, dict[int, HeadRun]]:
    """Return the complete runs of every head by seed; raise InputError where a head has none or a file is missing."""
    runs: dict[str, dict[int, HeadRun]] = {}
    for head in experiment.arms:
        runs[head] = {}
        for seed in experiment.seeds:
            result = directory.load(experiment, head, seed)
            if result is None:
                continue
            path = directory.run_path(head, seed)
            if not result.outputs:
                raise InputError(f"{path} has lost its logits ({path.stem}.npz): delete it, and the run is done again")
            runs[head][seed] = head_run(head, result, load_record(PeakMemory, resources_path(path)))
        if not runs[head]:
            failure = directory.failure(head, experiment.seeds[0]) or {"error": "the run was not done"}
            raise InputError(f"head {head} has no complete run to report: {failure['error']}")
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
