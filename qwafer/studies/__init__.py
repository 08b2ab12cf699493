"""Whole studies: an ablation, a benchmark or the nulls of a head, from its experiment to its report."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer.studies.ablation import Outcome as Outcome
    from qwafer.studies.ablation import run_experiment as run_experiment
    from qwafer.studies.benchmark import Benchmark as Benchmark
    from qwafer.studies.benchmark import run_benchmark as run_benchmark
    from qwafer.studies.doubt import RouterDoubt as RouterDoubt
    from qwafer.studies.doubt import router_doubt as router_doubt
    from qwafer.studies.doubt import write_router_doubt as write_router_doubt
    from qwafer.studies.errors import study_errors as study_errors
    from qwafer.studies.nulls import null_experiment as null_experiment
    from qwafer.studies.nulls import nulls_report as nulls_report
    from qwafer.studies.nulls import run_nulls as run_nulls
    from qwafer.studies.published import Finding as Finding
    from qwafer.studies.published import Findings as Findings
    from qwafer.studies.published import findings_table as findings_table
    from qwafer.studies.published import probe_models as probe_models
    from qwafer.studies.published import write_findings as write_findings
    from qwafer.studies.search import SearchOutcome as SearchOutcome
    from qwafer.studies.search import run_search as run_search
    from qwafer.studies.space import Dimension as Dimension
    from qwafer.studies.space import load_space as load_space
    from qwafer.studies.space import spread as spread
    from qwafer.studies.toml import experiment_toml as experiment_toml
    from qwafer.studies.trials import Search as Search
    from qwafer.studies.trials import Trial as Trial
    from qwafer.studies.verification import Verification as Verification
    from qwafer.studies.verification import verify as verify

__getattr__, __dir__ = lazy_attributes(globals())
