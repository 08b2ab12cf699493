"""`bench_{head}.json`: everything about one head in one file."""

from collections.abc import Mapping
from typing import Any

from qwafer.comparison.analysis import spread
from qwafer.comparison.runs import HeadRun

FORMAT = 1


def head_record(
    runs: Mapping[int, HeadRun],
    analyses: Mapping[int, Mapping[str, Any]],
    timing: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of one head.

    `parameters` (`trainable`, `frozen`, `total`), `spread` (`val` and `test`: mean, sd, least and largest of every
    average over seeds), `runs` (one `analysis.analyse` a seed), `inference` (`inference.time_head`, and the memory of
    that process), `source` (the features: file, provenance, digest), `config`, `engine`, `made_with`.
    """
    first = next(iter(runs.values()))
    return {
        "format": FORMAT,
        "head": first.head,
        "label_names": first.label_names,
        "exclusive": first.exclusive,
        "seeds": list(runs),
        "parameters": dict(first.n_parameters),
        "spread": {part: spread(analyses, part) for part in ("val", "test")},
        "runs": {seed: dict(analysis) for seed, analysis in analyses.items()},
        "inference": dict(timing),
        "source": dict(source),
        "config": dict(first.config),
        "engine": first.engine,
        "made_with": first.made_with,
    }
