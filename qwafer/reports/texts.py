"""Sentences that reports share: what the author of an experiment wrote, and what the comparisons came to."""

from collections.abc import Collection, Sequence

from qwafer.comparison.design import FEWEST_FOLDS, FEWEST_SEEDS
from qwafer.comparison.statistics import Comparison
from qwafer.comparison.summary import Summary
from qwafer.reports.document import Paragraph
from qwafer.sweeps.directory import seeds_text

DECIDED = ("better", "equivalent", "undecided", "worse")
"""The verdicts; every other one says why there is none."""


def verdict_line(comparisons: Sequence[Comparison]) -> str:
    """Return which arms have which verdict: "none is better; equivalent: a, b; no verdict: c (not converged)"."""
    found: dict[str, list[str]] = {}
    for c in comparisons:
        found.setdefault(c.verdict, []).append(c.arm)
    names = {
        verdict: f"all {len(arms)}" if len(arms) == len(comparisons) > 3 else ", ".join(arms)
        for verdict, arms in found.items()
    }
    said = [f"{verdict}: {names[verdict]}" for verdict in DECIDED if verdict in found]
    none = [f"{arms} ({verdict})" for verdict, arms in names.items() if verdict not in DECIDED]
    lead = [] if "better" in found else ["none is better"]
    return "; ".join([*lead, *said, *([f"no verdict: {'; '.join(none)}"] if none else [])])


def no_verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence for each reason why comparisons have no verdict, with the arms and the runs at fault."""
    found: dict[str, list[str]] = {}
    for c in comparisons:
        if c.verdict in DECIDED:
            continue
        arms = found.setdefault(c.verdict, [])
        runs: dict[str, str] = {}
        if c.verdict == "not converged":
            runs = {arm: f"{arm} ({count} of {len(c.seeds)} runs)" for arm, count in c.not_converged.items()}
        elif c.verdict == "collapsed":
            runs = {arm: f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in c.collapsed.items()}
        arms += [text for text in (runs or {c.arm: c.arm}).values() if text not in arms]
    return [f"**No verdict, {verdict}**: {', '.join(arms)}{_WHY.get(verdict, '')}." for verdict, arms in found.items()]


_WHY = {
    "too few seeds": f": a verdict takes at least {FEWEST_SEEDS} seeds, on {FEWEST_FOLDS} folds if the data bring some",
    "not converged": ": training ended before it had converged; train longer (training.epochs, training.max_doublings)",
    "collapsed": ": a mean describes neither kind of run; the pseudomedian is not moved by single runs",
    "no spread": ": every seed has the same difference, so that there is nothing to test it against",
    "identical": ": every run equals that of the baseline exactly",
    "no data": ": no seed has both runs with a defined metric, so nothing can be said",
}


def merged(sentences: Sequence[str], arms: Collection[str]) -> list[str]:
    """Return `sentences` ("ARM: what is wrong"), those on several arms in the place of the first of them."""
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        arm, colon, rest = sentence.partition(": ")
        if colon and arm in arms:
            found.setdefault(rest, []).append(arm)
        else:
            found.setdefault(sentence, [])
    return [f"{', '.join(names)}: {rest}" if names else rest for rest, names in found.items()]


def text_blocks(summary: Summary) -> list[Paragraph]:
    """Return description and expectation as they were before the first run, then what was added and noted afterwards,
    each dated; in front, which arms they speak of where others ran; at the end, how options were searched.
    """
    facts = summary.experiment
    said = []
    if facts.written_for:
        ran = ", ".join(arm for arm in facts.written_for if arm in summary.arms)
        said.append(f"Written for the experiment with the arms {', '.join(facts.written_for)}; of which {ran} ran.")
    said.append(facts.description)
    if facts.expected:
        said.append(f"**Expected (written before the first run, {facts.written}).** {facts.expected}")
    known = {facts.description, facts.expected, ""}
    for added in facts.additions:
        what = [f"arm {', '.join(added.arms)}"] if added.arms else []
        what += [f"seed {seeds_text(added.seeds)}"] if added.seeds else []
        runs = f"{added.runs} run{' was' if added.runs == 1 else 's were'}"
        then = "nothing else than before" if added.expected in known else added.expected
        said.append(f"**Added {added.date}, when {runs} complete: {', '.join(what)}.** Expected then: {then}")
        known.add(added.expected)
    for note in facts.noted:
        for text in (note.description, note.expected):
            if text not in known:
                said.append(f"**Noted afterwards ({note.date}).** {text}")
                known.add(text)
    said.append(_search_text(summary))
    return [Paragraph(" ".join(text.split())) for text in said if text]


def _search_text(summary: Summary) -> str:
    """Return how many trials found the options of each arm, and on what; empty where nothing was searched."""
    search = summary.experiment.searched
    if search is None:
        return ""
    said = [
        f"{arm} {search.trials[arm]} trials ({search.pruned[arm]} ended early, {search.failed[arm]} without a value, "
        f"{f'{search.repeated[arm]} repeated, ' if search.repeated.get(arm) else ''}"
        f"{search.epochs[arm]:,} epochs; {', '.join(f'`{option}`' for option in search.options[arm])})"
        if arm in search.trials
        else f"{arm} none"
        for arm in summary.arms
    ]
    seeds = f"seed{'s' if len(search.seeds) > 1 else ''} {seeds_text(search.seeds)}"
    budgets = ", then from ".join(map(str, search.raised))
    raised = f" The budget was raised from {budgets} after its winners were known." if budgets else ""
    return (
        f"**Search.** Options were searched by `{search.metric}`, on {seeds}, none of which ran here: "
        f"{'; '.join(said)}. No trial had the test split.{raised}"
    )
