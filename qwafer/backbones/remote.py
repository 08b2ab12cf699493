"""Chunks of an extraction as jobs of other processes, of this machine or of a cluster."""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import canonical_json, digest, jsonable
from qwafer.backbones.base import Extractor, Features
from qwafer.backbones.checkpoints import Checkpoint
from qwafer.backbones.registry import extractor
from qwafer.execution.job import Event, Executor, Job, ReportPart
from qwafer.execution.running import run_all

CHUNK = "qwafer.backbones.remote:compute_chunk"


def compute_chunks(
    backbone: Extractor,
    chunks: Sequence[tuple[int, Sequence[np.ndarray]]],
    executor: Executor,
    keep: Callable[[int, Features], None],
) -> None:
    """Compute the features of chunks (start, maps) as jobs of `executor`, and give each to `keep(start, rows)` as it is
    done. Maps and weights go to a job as files; the backbone is made again there, by its name and options.

    Raises InputError for a backbone that another process does not find by its name, or finds another one there.
    """
    if backbone.name.startswith("__main__:"):
        raise InputError(f"backbone {backbone.name} has no name that another process finds: put it into a module")
    with tempfile.TemporaryDirectory(prefix="qwafer-extract-") as name, executor:
        folder = Path(name)
        options = jsonable(dict(backbone.options))
        made = {"name": backbone.name, "options": options, "compute_batch": backbone.compute_batch}
        made |= {"digest": digest(backbone.record), "record": None, "state": None}
        reads = [options["weights"]] if Path(str(options.get("weights", ""))).is_file() else []
        if backbone.state is not None:
            made |= {"record": jsonable(backbone.record["weights"]), "state": str(folder / "weights.npz")}
            np.savez(folder / "weights.npz", allow_pickle=False, **backbone.state)
            reads.append(made["state"])
        jobs = []
        for start, maps in chunks:
            given, rows = str(folder / f"{start}.maps.npz"), str(folder / f"{start}.rows.npy")
            np.savez_compressed(given, allow_pickle=False, **{f"{i:09d}": each for i, each in enumerate(maps)})
            payload = {"backbone": made, "maps": given, "rows": rows}
            jobs.append(Job(str(start), CHUNK, payload, family="chunks", reads=(given, *reads), writes=(rows,)))

        def note(event: Event) -> None:
            if event.kind == "done":
                path = folder / f"{event.key}.rows.npy"
                keep(int(event.key), np.load(path, allow_pickle=False))
                path.unlink()

        run_all(executor, jobs, note)


def compute_chunk(payload: Any, report: ReportPart) -> int:
    """Job: write the features of a file of maps; return how many there are."""
    backbone = _made(canonical_json(payload["backbone"]))
    with np.load(payload["maps"], allow_pickle=False) as file:
        maps = [file[name] for name in sorted(file.files)]
    blocks = []
    for start in range(0, len(maps), backbone.compute_batch):
        blocks.append(np.asarray(backbone.features(maps[start : start + backbone.compute_batch])))
        report(min(1.0, (start + backbone.compute_batch) / len(maps)))
    with Path(payload["rows"]).open("wb") as out:
        np.save(out, np.concatenate(blocks))
    return len(maps)


@functools.lru_cache(maxsize=1)
def _made(text: str) -> Extractor:
    """Return the backbone that `text` describes, made once per process."""
    made = json.loads(text)
    options = dict(made["options"])
    if made["state"] is not None:
        with np.load(made["state"], allow_pickle=False) as file:
            options["weights"] = Checkpoint({name: file[name] for name in file.files}, made["record"])
        options.pop("random_weights", None)
    found = dataclasses.replace(extractor(made["name"], **options), compute_batch=made["compute_batch"])
    if digest(found.record) != made["digest"]:
        raise InputError(
            f"this process makes another backbone {found.name} than the one whose features are asked for: its record "
            f"is {canonical_json(found.record)[:500]}"
        )
    return found
