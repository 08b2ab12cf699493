"""`python -m qwafer.monitor`: whether what a service answers has moved, and which of two versions is better."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwafer._process import run_verb
from qwafer.cli.arguments import program

if TYPE_CHECKING:
    from qwafer.serving.answering import Answering
    from qwafer.serving.registry import ModelRegistry
    from qwafer.serving.store import Store, Window


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("monitor"),
        description="Compare the answers of a service with the validation of the version that gave them: predicted "
        "classes, confidence, distance from the training features, each against what chance does at this number of "
        "wafers; latency, share flagged, accuracy from reviews. With --trial: which of two versions is better.",
        epilog="Exit status: 0 nothing to do (--trial: promote), 1 an alert (--trial: do not promote), 2 bad input.",
    )
    parser.add_argument("registry", metavar="REGISTRY", help="the folder of python -m qwafer.registry")
    parser.add_argument("--store", metavar="FILE", help="SQLite file of the answers (REGISTRY/answers.sqlite)")
    parser.add_argument("--version", metavar="VERSION", help="the version whose answers are read (the champion)")
    parser.add_argument("--days", type=float, metavar="D", help="days that are looked at (7)")
    parser.add_argument("--until", metavar="ISO", help="end of that time, such as 2026-01-31T12:00 in UTC (now)")
    parser.add_argument("--out", metavar="DIR", help="write a report with figures here")
    parser.add_argument(
        "--trial",
        nargs=2,
        metavar=("BASELINE", "CANDIDATE"),
        help="judge two versions, from the first answer of CANDIDATE on",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    import time
    from datetime import UTC, datetime
    from pathlib import Path

    from qwafer._checks import check_interval
    from qwafer._errors import InputError
    from qwafer.serving.drift import monitor
    from qwafer.serving.registry import ModelRegistry
    from qwafer.serving.report import write_monitoring
    from qwafer.serving.store import Store

    days = 7.0 if arguments.days is None else arguments.days
    check_interval("--days", days, 0, 36500, open_low=True)
    if arguments.trial is not None and arguments.days is not None:
        raise InputError("the looks of a trial begin with its first answer, at one error rate: leave out --days")
    path = Path(arguments.store or Path(arguments.registry) / "answers.sqlite")
    if not path.is_file():
        raise InputError(f"there is no store {path}: python -m qwafer.serve makes one")
    registry, store = ModelRegistry(arguments.registry), Store(path)
    until = time.time()
    if arguments.until is not None:
        try:
            given = datetime.fromisoformat(arguments.until)
            until = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
        except ValueError as error:
            raise InputError(f"`--until` must be a time such as 2026-01-31T12:00, got {arguments.until!r}") from error
    if arguments.trial is not None:
        return _trial(arguments, registry, store, store.window(until=until))
    since = until - 86400 * days
    window = store.window(since, until)
    version = arguments.version or registry.pointers().champion
    if not version:
        raise InputError("no version has been promoted: give --version")
    evidence = registry.evidence(version)
    found = monitor(window, evidence, version, since=since, until=until)
    for test in found.tests:
        print(f"{test.name:12} {test.value:.3f}  by chance up to {test.by_chance:.3f}  p = {test.p_holm:.2g}")
    for alert in found.alerts:
        print(f"{alert.severity}: {alert.sentence}")
    reviewed = found.accuracy
    print(
        f"{found.version}: {found.n} answers, {found.flagged:.1%} flagged, p99 {found.latency['p99']:.1f} ms, "
        f"{reviewed.n_reviews} reviews, {len(found.alerts)} alert{'s' * (len(found.alerts) != 1)}"
    )
    if arguments.out is not None:
        print(write_monitoring(found, window, evidence, arguments.out))
    return int(bool(found.alerts))


def _trial(arguments: argparse.Namespace, registry: "ModelRegistry", store: "Store", window: "Window") -> int:
    import json
    import math
    from pathlib import Path

    from qwafer._errors import InputError
    from qwafer._process import configure_jax
    from qwafer._records import from_json, save_record, to_json
    from qwafer.serving.answering import Answering
    from qwafer.serving.trial import Look, judge_trial

    configure_jax()
    old, new = (Answering(registry.load(name)) for name in arguments.trial)
    if old.label_names != new.label_names:
        raise InputError(f"the versions have other labels: {old.label_names} and {new.label_names}")
    window = window.take(window.at >= window.at[window.versions == new.version].min(initial=math.inf))
    maps = store.maps(window.ids[window.counted])
    sides = [(each.version, lambda wafers, each=each: _said(each, wafers)) for each in (old, new)]
    what = f"trial of {new.version} against {old.version}"
    spent = [from_json(Look, json.loads(said), what) for said in store.looks(what).values()]
    found = judge_trial(window, maps, sides[0], sides[1], old.label_names, spent)
    for number in range(len(spent), len(found.looks)):
        if not store.keep_look(what, number, json.dumps(to_json(found.looks[number]))):
            raise InputError(f"another process has taken a look at the {what} meanwhile: ask again")
    print(found.sentence)
    if found.n_required is not None:
        print(f"a difference of 0.015 takes about {found.n_required} reviews")
    for guard in found.guardrails:
        print(f"{'holds' if guard.held else 'BROKEN'}: {guard.sentence}")
    print("promote" if found.promote else "do not promote")
    if arguments.out is not None:
        save_record(Path(arguments.out) / "trial.json", found)
    return int(not found.promote)


def _said(answering: "Answering", wafers: list) -> list[str]:
    return [text for i in range(0, len(wafers), 64) for text in answering(wafers[i : i + 64]).predictions]
