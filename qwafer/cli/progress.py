"""The progress bar of every verb, on stderr: a line per stage with units done, time spent and time left."""

import contextlib
import sys
from collections.abc import Iterator

from qwafer.execution import OnProgress, Progress


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator[OnProgress | None]:
    """Yield what to call with a `Progress`; None with `quiet`."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    def column(text: str) -> TextColumn:
        return TextColumn(text, markup=False)  # names and paths are no markup

    columns = (column("{task.description}"), BarColumn(), column("{task.fields[count]}"))
    times = (TimeElapsedColumn(), column("left"), TimeRemainingColumn(), column("{task.fields[text]}"))
    # The speed of runs is that of the whole sweep, not of the last half minute.
    bars = Bars(*columns, *times, console=Console(file=sys.stderr), speed_estimate_period=3600)
    stages: dict[str, TaskID] = {}

    def show(state: Progress) -> None:
        if not stages:
            bars.start()  # not before there is something to show: bad input is one line
        if state.stage not in stages:
            stages[state.stage] = bars.add_task(state.stage, total=state.total, count="", text="")
        if state.note:
            bars.console.print(state.note, markup=False, highlight=False)
        failed = f", {state.failed} failed" if state.failed else ""
        count = f"{int(state.done):,} of {state.total:,}{failed}"
        bars.update(stages[state.stage], completed=state.done, total=state.total, count=count, text=state.text)

    try:
        yield show
    finally:
        if stages:
            bars.stop()
