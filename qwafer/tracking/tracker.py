"""`Tracker`: the three calls that a tracker is told a run by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""(epoch, value) of each curve by name; finite values alone."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its numbers."""

    name: str
    """`ARM/seed-S`, `ARM/trial-NNNN`, `comparison`, `benchmark` or `search`."""
    group: str
    """Name of the experiment."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Options by dotted name, plain values."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What it was made from, and the revision of the code."""


class Tracker(Protocol):
    """Keeps runs somewhere. Each run is `start`, `log`, `finish`; an exception out of any, and
    a call that does not return, ends the tracking alone. All calls come from one thread, which is not the main one.
    """

    def start(self, run: TrackedRun) -> None:
        """Begin a run."""
        ...

    def log(self, curves: Curves, metrics: Mapping[str, float]) -> None:
        """Take its curves, and its final metrics, which are finite."""
        ...

    def finish(self, artefacts: Sequence[Path]) -> None:
        """Take its files, and end it."""
        ...
