"""`report.md` and `report.html` of a benchmark: the blocks, from records, differences and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qwafer._io import write_text
from qwafer.comparison.differences import Differences
from qwafer.comparison.record import FeatureSource
from qwafer.comparison.summary import Summary
from qwafer.experiment import Experiment
from qwafer.reports import benchmark_tables as tables
from qwafer.reports.document import Block, Heading, Images, Items, Paragraph, to_html, to_markdown, with_contents
from qwafer.reports.figures import Drawn
from qwafer.reports.format import format_spread
from qwafer.reports.texts import merged, no_verdicts, text_blocks, verdict_line

KINDS = {
    "confusion": "Confusion matrices",
    "reliability": "Reliability",
    "errors": "Worst errors",
}


def write_report(blocks: Sequence[Block], title: str, folder: Path) -> Path:
    """Write the blocks as `report.md` and `report.html` into `folder`, and return the path of the HTML."""
    write_text(folder / "report.md", to_markdown(blocks, folder))
    path = folder / "report.html"
    write_text(path, to_html(blocks, title))
    return path


def report_blocks(
    experiment: Experiment,
    summary: Summary,
    records: tables.Records,
    differences: Differences,
    shared: Mapping[str, Drawn],
    figures: Mapping[str, Mapping[str, Drawn]],
    warnings: Sequence[str],
    *,
    costs: Sequence[float],
    jobs: int,
    test_reads: Sequence[str] = (),
    circuits: Sequence[Block] = (),
) -> list[Block]:
    """Return the whole report, `summary` being that of the sweep; `shared`, `figures`: what `draw_shared` and, by head,
    `draw_head` drew; `circuits`: what `circuit_blocks` gives.
    """
    seed = _shown(records)
    drawn = [shared[name] for name in ("roc", "precision_recall") if name in shared]
    curves: list[Block] = [Heading("ROC and precision-recall curves"), Images(drawn)] if drawn else []
    learning: list[Block] = [Heading("Learning"), Images([shared["learning"]])] if "learning" in shared else []
    warned: Block = Items(merged(warnings, records)) if warnings else Paragraph("None.")
    blocks: list[Block] = [
        Heading(experiment.title or experiment.name, 1),
        Paragraph(_summary(experiment, records, differences, len(merged(warnings, records)))),
        *text_blocks(summary),
        Paragraph(_foundation(experiment, records)),
        Heading("Results"),
        tables.key_results(records),
        Paragraph(
            "On test, mean ± standard deviation over seeds: the spread of training"
            + (", initial values and batches on one split" if _one_split(records) else ", initial values and splits")
            + "."
        ),
        Images([shared[name] for name in ("trade_off", "average_precision") if name in shared]),
        Heading("Differences"),
        *_differences(experiment, differences),
        Heading("Warnings"),
        warned,
        *map(Paragraph, test_reads),
        Heading("Decisions and probabilities"),
        tables.decisions(records),
        tables.probabilities(records),
        Paragraph("On test, mean ± standard deviation over seeds."),
        Heading("Intervals over examples"),
        tables.example_intervals(records),
        Paragraph(
            f"95% BCa bootstrap of the test examples of {seed}, the trained head and its thresholds held fixed. The "
            "spread over seeds says something else, and neither contains the other."
        ),
        Heading("Cost"),
        tables.training_cost(records),
        tables.inference_cost(records),
        Paragraph(_timing_note(records, jobs)),
        *learning,
        *curves,
        *_head_figures(figures),
        *_thresholds(records, costs),
        Heading("Calibration"),
        tables.calibration_table(records),
        Paragraph(
            f"Fitted on validation, read on test, {seed}. Temperature scaling changes no ranking and no decision "
            "at p = 0.5. A dagger counts labels that could not be fitted or stopped at a bound."
        ),
        Heading("Classes"),
        tables.class_table(records),
        Paragraph(
            f"{seed[0].upper()}{seed[1:]}; Brier score, ECE and threshold of every class are in `bench_HEAD.json`. A "
            "dagger marks classes whose thresholded metrics cannot be trusted."
        ),
        *circuits,
        Heading("What this rests on"),
        *_rests_on(records),
    ]
    return with_contents(blocks)


def _summary(experiment: Experiment, records: tables.Records, differences: Differences, n_warnings: int) -> str:
    """Return what came out in a sentence per metric."""
    base = records[experiment.baseline]
    said = []
    for name, comparisons in differences.seeds.items():
        label = tables.seed_metric_label(name)
        at = format_spread(base.test[name].mean, base.test[name].sd)
        said.append(f"{label[0].upper()}{label[1:]} ({experiment.baseline}: {at}): {verdict_line(comparisons)}.")
    warned = f" **{n_warnings} warning{'s' if n_warnings > 1 else ''}** below." if n_warnings else ""
    seeds = max(len(record.runs) for record in records.values())
    over = f"over {seeds} seeds" if seeds > 1 else "with one seed"
    return f"**Summary.** Against the baseline {experiment.baseline}, on test {over}. {' '.join(said)}{warned}"


def _one_split(records: tables.Records) -> bool:
    return len({run.digests.split for record in records.values() for run in record.runs.values()}) == 1


def _shown(records: tables.Records) -> str:
    """Return which seed single runs are shown of."""
    seeds = {head: record.seed for head, record in records.items()}
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))}"
    return f"the first seed of each head ({', '.join(f'{head} {seed}' for head, seed in seeds.items())})"


def _foundation(experiment: Experiment, records: tables.Records) -> str:
    first = next(iter(records.values()))
    counts = {head: len(record.runs) for head, record in records.items()}
    seeds = ", ".join(f"{head} {count}" for head, count in counts.items())
    seeds = str(len(first.runs)) if len(set(counts.values())) == 1 else seeds
    features = "; ".join(dict.fromkeys(_source_text(record.source) for record in records.values()))
    return (
        f"**Heads**: {', '.join(records)}, under the same splits, seeds and batches; baseline {experiment.baseline}. "
        f"**Features**: {features}. **Labels**: {len(first.label_names)} "
        f"({'exclusive classes' if first.exclusive else 'each on its own'}). **Test**: "
        f"{first.first.test.n_examples:,} examples, read once per run; validation ({first.first.val.n_examples:,}) "
        f"picked checkpoints, thresholds and calibration. **Seeds**: {seeds}."
    )


def _source_text(source: FeatureSource) -> str:
    provenance = source.provenance
    data = provenance.get("data") or {}
    weights = provenance.get("weights")
    parts = [f"{source.n_features} of backbone {provenance.get('backbone', 'unknown')}"]
    if provenance.get("random_weights") is not None:
        parts.append(f"with RANDOM weights (seed {provenance['random_weights']})")
    elif weights:
        parts.append(f"with weights {weights.get('file', 'unnamed')} (sha256 {str(weights.get('sha256'))[:12]})")
    if data.get("source"):
        parts.append(f"on {data['source']} ({data.get('n_maps', '?')} maps)")
    return " ".join(parts)


def _differences(experiment: Experiment, differences: Differences) -> list[Block]:
    reasons = no_verdicts([c for comparisons in differences.seeds.values() for c in comparisons])
    return [
        tables.verdict_table(differences.seeds),
        Paragraph(
            f"Difference from {experiment.baseline} on test, mean over seeds with the interval that decides; "
            f"{_limits(differences)}."
        ),
        *([Items(reasons)] if reasons else []),
        tables.seed_table(differences.seeds),
        Paragraph(
            "t test of the paired differences over seeds, adjusted for the number of heads (Holm), with the interval "
            "that inverts it at the level of its step."
        ),
        Heading("Over test examples, seed by seed", 3),
        tables.example_table(differences.examples),
        Paragraph(
            f"Difference from {experiment.baseline}: 95% BCa bootstrap, both heads read on the same resampled test "
            "examples, thresholds held fixed. The other seeds are in `differences.json`."
        ),
    ]


def _limits(differences: Differences) -> str:
    return next(c.design.limits for comparisons in differences.seeds.values() for c in comparisons)


def _timing_note(records: tables.Records, jobs: int) -> str:
    record = next(iter(records.values()))
    host = record.environment.host
    kinds = {
        "one example": [r.inference.one for r in records.values()],
        f"{record.inference.batch.examples} examples": [r.inference.batch for r in records.values()],
    }
    calls = ", ".join(
        f"at least {min(t.repetitions for t in found):,} calls with {what} after {found[0].warm_up} to warm up"
        for what, found in kinds.items()
    )
    return (
        f"Inference was timed head by head in a process of its own with one thread, features in, NumPy logits out, "
        "after all training had ended: every call waits for its result; a pass is the median of "
        f"{record.inference.test.passes}; {calls}. A single example goes through a program of batch size one. "
        f"Backbones are not in these numbers. Training ran {jobs} runs at a time, each in a process of its own with "
        "one thread. Machine: "
        f"{host.cpu} ({host.cpus or '?'} CPUs), devices {', '.join(host.devices)}."
    )


def _head_figures(figures: Mapping[str, Mapping[str, Drawn]]) -> list[Block]:
    blocks: list[Block] = []
    for kind, title in KINDS.items():
        found = [drawn[kind] for drawn in figures.values() if kind in drawn]
        if found:
            blocks += [Heading(title), Images(found)]
    if not any("errors" in drawn for drawn in figures.values()):
        blocks += [
            Heading(KINDS["errors"]),
            Paragraph("The maps themselves were not given (`--maps`), so that none can be shown."),
        ]
    return blocks


def _thresholds(records: tables.Records, costs: Sequence[float]) -> list[Block]:
    first = next(iter(records.values()))
    if first.exclusive:
        return []
    tn, fp, fn, tp = (f"{cost:g}" for cost in costs)
    return [
        Heading("Thresholds"),
        Paragraph("Macro F1 on test:"),
        tables.threshold_table(records, "f1"),
        Paragraph("Mean cost per example and label:"),
        tables.threshold_table(records, "cost"),
        Paragraph(
            f"One threshold per label, tuned on validation, read on test, {_shown(records)}. Costs per decision: "
            f"true negative {tn}, false positive {fp}, false negative {fn}, true positive {tp}. A dagger counts labels "
            "where tuning means nothing: their threshold is p = 0.5. Thresholds, precision, recall, balanced accuracy "
            "and exact match are in `bench_HEAD.json`."
        ),
    ]


def _rests_on(records: tables.Records) -> list[Block]:
    made = next((record.environment for record in records.values() if record.environment), None)
    versions = {} if made is None else made.versions
    return [
        tables.foundations(records),
        Paragraph(
            ", ".join(f"{name} {version}" for name, version in versions.items())
            + ". Every number of this page is in `bench_HEAD.json`; the runs, their logits and their own paired report "
            "are in `sweep/`."
        ),
    ]
