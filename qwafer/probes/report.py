"""`Report`: what every probe returns, and how reports on several subjects become one line of the trust table."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qwafer._checks import check_choice
from qwafer._io import jsonable

Verdict = Literal["pass", "warn", "fail", "skip"]

VERDICTS: tuple[Verdict, ...] = ("fail", "warn", "pass", "skip")
"""Worst first. `fail`: do not trust results that rest on this. `warn`: know this before you conclude. `skip`: does
not apply.
"""


@dataclass(frozen=True)
class Report:
    """The answer of one probe: a verdict, the one line that matters, and everything measured on the way."""

    name: str
    """What was probed, in the words of the trust table."""
    question: str
    """The question that the probe answers."""
    verdict: Verdict
    """`pass`, `warn`, `fail` or `skip`."""
    headline: str
    """The one line that matters: the worst offender with its numbers, or the margin by which all is well."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Everything measured, as plain JSON data."""
    tolerance: str = ""
    """What separates the verdicts, with the numbers in force."""
    meaning: str = ""
    """What a bad verdict would mean, or means, for a result."""
    remedy: str = ""
    """What to do about a bad verdict."""
    blames: tuple[str, ...] = ()
    """The parameters found at fault, so that later probes leave them alone: one defect, one red line."""

    def __post_init__(self) -> None:
        check_choice("verdict", self.verdict, VERDICTS)
        object.__setattr__(self, "numbers", jsonable(dict(self.numbers)))

    @property
    def ok(self) -> bool:
        """Whether the verdict is not `fail`."""
        return self.verdict != "fail"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of `verdicts`: fail, then warn, then pass; skip only where there is nothing else."""
    present = set(verdicts)
    return next((verdict for verdict in VERDICTS if verdict in present), "skip")


def merge(reports: Mapping[str, Report]) -> Report:
    """Return one report of the same probe on several subjects (arms): the worst verdict, and who it comes from.

    `reports` maps a subject's name to its report; all must be of one probe. The headline is that of the worst subjects,
    those that say the same together. `numbers` holds those of every subject.
    """
    items = list(reports.items())
    first = items[0][1]
    if len({report.name for _, report in items}) != 1:
        raise ValueError(f"`reports` must be of one probe, got {sorted({report.name for _, report in items})}")
    if len(items) == 1:
        return first
    verdict = worst(report.verdict for _, report in items)
    chosen = [(subject, report) for subject, report in items if report.verdict == verdict]
    said: dict[str, list[str]] = {}
    for subject, report in chosen:
        said.setdefault(report.headline, []).append(subject)
    headline = "; ".join(f"{', '.join(subjects)}: {text}" for text, subjects in said.items())
    if len(said) == 1 and len(chosen) == len(items):
        headline = chosen[0][1].headline
    return dataclasses.replace(
        chosen[0][1],
        question=first.question,
        verdict=verdict,
        headline=headline,
        numbers={subject: {"verdict": report.verdict, **report.numbers} for subject, report in items},
        blames=tuple(name for _, report in chosen for name in report.blames),
    )


def summarize_names(names: Sequence[tuple[str, tuple[int, ...]]], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return parameters as text, whole slices where they fill them: `ansatz[1, :, 2], angles[0]`.

    `names` are (group, index) pairs and `shapes` the groups' shapes. A group's indices are written as one product of
    axes where they form one, else one by one, at most four of them.
    """
    parts = []
    for group in dict.fromkeys(group for group, _ in names):
        indices = [index for name, index in names if name == group]
        parts.append(_summarize_group(group, indices, shapes[group]))
    return ", ".join(parts)


def parameter_name(group: str, index: tuple[int, ...]) -> str:
    """Return the name of one parameter: `ansatz[1, 0, 2]`, or the group's name where it is a scalar."""
    return f"{group}[{', '.join(map(str, index))}]" if index else group


def _summarize_group(group: str, indices: list[tuple[int, ...]], shape: tuple[int, ...]) -> str:
    if not shape:
        return group
    axes = [sorted({index[axis] for index in indices}) for axis in range(len(shape))]
    count = 1
    for values in axes:
        count *= len(values)
    if count != len(set(indices)):
        shown = ", ".join(parameter_name(group, index) for index in indices[:4])
        return shown + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")
    return f"{group}[{', '.join(_axis_text(values, size) for values, size in zip(axes, shape, strict=True))}]"


def _axis_text(values: list[int], size: int) -> str:
    if len(values) == size and size > 1:
        return ":"
    if len(values) > 1 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}:{values[-1] + 1}"
    return str(values[0]) if len(values) == 1 else "{" + ",".join(map(str, values)) + "}"
