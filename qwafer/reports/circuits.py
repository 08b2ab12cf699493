"""The circuits of a comparison, drawn."""

from qwafer._errors import CapabilityError, InputError
from qwafer._registry import foreign
from qwafer.circuits import draw
from qwafer.config import RunConfig
from qwafer.reports.document import Block, Code, Heading, Paragraph
from qwafer.training import RunResult, Runs


def circuit_blocks(results: Runs) -> list[Block]:
    """Return a heading and, for each distinct circuit of the arms, its drawing; nothing where no arm runs one.

    A circuit that is not, or no longer, the one that the runs say they ran is not drawn, with a sentence.
    """
    drawn: dict[str, list[str]] = {}
    for arm, runs in results.items():
        text = _drawing(runs[min(runs)]) if runs else ""
        if text:
            drawn.setdefault(text, []).append(arm)
    if not drawn:
        return []
    blocks: list[Block] = [Heading("Circuits")]
    for text, arms in drawn.items():
        blocks += [Paragraph(f"**{', '.join(arms)}**"), Code(text)]
    return blocks


def _drawing(run: RunResult) -> str:
    """Return the drawing of a run's circuit, or why there is none; empty where the run has no circuit."""
    try:
        config = RunConfig.from_dict(run.config)
        if config.circuit is None:
            return ""
        with foreign("circuit", config.name("circuit")):
            circuit = config.circuit.circuit(len(run.label_names))
            if run.engine.get("circuit", "") != getattr(circuit, "digest", ""):
                return "not drawn: the circuit's function, or what it calls, has changed since the runs were made"
            return draw(circuit)
    except (InputError, CapabilityError) as error:
        return f"not drawn: {error}"
