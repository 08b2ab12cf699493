"""What the author of an experiment wrote: before the first run, and afterwards."""

from qwafer.comparison.summary import Summary
from qwafer.reports.document import Paragraph
from qwafer.sweeps.directory import seeds_text


def text_blocks(summary: Summary) -> list[Paragraph]:
    """Return description and expectation as they were before the first run, then what was added and noted afterwards,
    each dated; in front, which arms they speak of where others ran.
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
    return [Paragraph(" ".join(text.split())) for text in said if text]
