"""What a trial of a search is told and what it says: `Stop` and `TrialScores`, without what trains."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stop:
    """A trial ends at an epoch where its value is worse than a bound."""

    epoch: int
    bound: float | None = None
    """The least value that goes on (the greatest, where lower is better); None: the value is noted, and it goes on."""


@dataclass(frozen=True)
class TrialScores:
    """What a trial measured on validation; None where a value is undefined."""

    values: dict[int, float | None]
    """The metric by seed, of the best checkpoint."""
    epochs: dict[int, int] = field(default_factory=dict)
    """Epochs trained by seed; 0 for what trains itself."""
    converged: dict[int, bool | None] = field(default_factory=dict)
    """`RunResult.converged` by seed."""
    stops: dict[int, float | None] = field(default_factory=dict)
    """By epoch of a `Stop` that was passed, the mean over seeds of what `values` would have been."""
    pruned: bool = False
    """Whether it ended at the last of `stops`."""
    error: str = ""
    """Why there is no value."""

    @property
    def value(self) -> float | None:
        """The mean of `values`; None where one of them is, and for a trial that was pruned."""
        found = [value for value in self.values.values() if value is not None]
        return None if self.pruned or not found or len(found) < len(self.values) else math.fsum(found) / len(found)
