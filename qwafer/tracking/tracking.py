"""`Tracking`: tells a tracker every run of an output directory once, and never fails one."""

import contextlib
import dataclasses
import math
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._io import digest, read_or_set_aside
from qwafer._process import one_line
from qwafer._records import load_record, save_record
from qwafer.tracking.tracker import Curves, TrackedRun, Tracker

if TYPE_CHECKING:
    from qwafer.comparison.summary import Summary
    from qwafer.training import RunResult

PATIENCE = 120.0
"""Seconds that a call of a tracker may take."""
Call = tuple[Callable[[], None], "queue.SimpleQueue[BaseException | None]"]
"""What is to be called, and where the answer goes: what it raised, or None."""


@dataclasses.dataclass(frozen=True)
class Tracked:
    """`tracked-NAME.json`: what a tracker has been told."""

    SCHEMA: ClassVar[str] = "qwafer/tracked/1"

    runs: dict[str, str]
    """By name of run, the digest of what was told."""


class Tracking:
    """A tracker that is told runs as they are complete. What it has been told is in `tracked-NAME.json` of the folder,
    so that a sweep that resumes tells it nothing twice. Where it fails, or does not return from a call in `PATIENCE`
    seconds, one line on stderr says so, it is told nothing more, and runs go on.
    """

    def __init__(self, tracker: Tracker, name: str, folder: Path):
        self._tracker, self._name = tracker, name
        self._file = folder / f"tracked-{name.replace('/', '-').replace(':', '-')}.json"
        self._told: dict[str, str] | None = None
        self._calls: queue.SimpleQueue[Call] | None = None
        self.failed = False
        """Whether the tracker has failed."""

    def tell(
        self, run: TrackedRun, curves: Curves, metrics: Mapping[str, float | None], artefacts: Sequence[Path] = ()
    ) -> None:
        """Tell the tracker a run, unless it knows it, or has failed before."""
        if self.failed:
            return
        with self._never_failing(run.name):
            known, key = self._known(), digest(run.parameters, run.digests, dict(curves), dict(metrics))
            if known.get(run.name) == key:
                return
            points = {name: kept for name, own in curves.items() if (kept := [p for p in own if _finite(p[1])])}
            values = {name: float(value) for name, value in metrics.items() if value is not None and _finite(value)}
            files = [path for path in artefacts if path.is_file()]
            self._ask(partial(self._tracker.start, run))
            self._ask(partial(self._tracker.log, points, values))
            self._ask(partial(self._tracker.finish, files))
            known[run.name] = key
            save_record(self._file, Tracked(known))

    def _ask(self, call: Callable[[], None]) -> None:
        """Call the tracker in its own thread, one for all calls; raise what it raises, or TimeoutError."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            # Not waited for at the end of the process: a server that never answers must not hold it.
            threading.Thread(target=_serve, args=(self._calls,), name=f"tracker {self._name}", daemon=True).start()
        answer: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._calls.put((call, answer))
        try:
            error = answer.get(timeout=PATIENCE)
        except queue.Empty:
            raise TimeoutError(f"no answer in {PATIENCE:g} s") from None
        if error is not None:
            raise error

    @contextlib.contextmanager
    def _never_failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self.failed = True
            said = one_line(f"{type(error).__name__}: {error}")
            sys.stderr.write(f"warning: tracking by {self._name} has failed at {name} and ends here: {said}\n")

    def _known(self) -> dict[str, str]:
        if self._told is None:
            found = read_or_set_aside(partial(load_record, Tracked), self._file)
            self._told = {} if found is None else dict(found.runs)
        return self._told

    def result(self, group: str, arm: str, file: Path) -> None:
        """Tell the complete run of `arm` that lies in `file`, a `RunResult`."""
        if self.failed:
            return
        with self._never_failing(str(file)):
            from qwafer.training import RunResult

            self._tell_result(group, arm, RunResult.load(file), file)

    def _tell_result(self, group: str, arm: str, result: "RunResult", file: Path) -> None:
        epochs = result.curves.get("epoch", [])
        curves: dict[str, list[tuple[int, float]]] = {}
        for name, values in result.curves.items():
            if name in ("epoch", "step"):
                continue
            if values and isinstance(values[0], (list, tuple)):  # a value per label
                for place, label in enumerate(result.label_names[: len(values[0])]):
                    curves[f"{name}/{label}"] = [(e, v[place]) for e, v in zip(epochs, values, strict=True)]
            else:
                curves[name] = list(zip(epochs, values, strict=True))
        digests = {name: text for name, text in dataclasses.asdict(result.digests).items() if isinstance(text, str)}
        revision = result.environment.git_revision or "none"
        averages = {f"{part}.{k}": v for part in ("val", "test") for k, v in getattr(result, part).macro.items()}
        run = TrackedRun(
            f"{arm}/seed-{result.seed}",
            group,
            {"arm": arm, "seed": result.seed, **flat(result.config)},
            {**digests, "run": result.digest, "revision": revision},
        )
        self.tell(run, curves, averages, [file])

    def summary(self, summary: "Summary", name: str, artefacts: Sequence[Path]) -> None:
        """Tell what a comparison came to, with its report."""
        facts = summary.experiment
        means = {f"{arm}.{facts.metric}": found.mean for arm, found in summary.arms.items()}
        for c in summary.comparisons:
            means |= {f"{c.arm}.difference": c.mean, f"{c.arm}.p": c.p_holm}
        verdicts = {f"verdict.{c.arm}": c.verdict for c in summary.comparisons}
        stated = {"metric": facts.metric, "baseline": facts.baseline, "margin": facts.margin, "seeds": len(facts.seeds)}
        self.tell(
            TrackedRun(name, facts.name, {**stated, **verdicts}, {"experiment": facts.digest}), {}, means, artefacts
        )


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by dotted name; lists as texts, None as `none`."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, (bool, int, float, str))
            found[f"{prefix}{name}"] = value if plain else "none" if value is None else str(value)
    return found


def _serve(calls: "queue.SimpleQueue[Call]") -> None:
    while True:
        call, answer = calls.get()
        try:
            call()
        except BaseException as error:  # packages of trackers leave the process by SystemExit
            answer.put(error)
        else:
            answer.put(None)


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
