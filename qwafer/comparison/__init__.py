"""Heads under identical conditions: trained, timed, analysed, compared and reported."""

from qwafer.comparison.analysis import DEFAULT_COSTS as DEFAULT_COSTS
from qwafer.comparison.analysis import analyse as analyse
from qwafer.comparison.analysis import calibrations as calibrations
from qwafer.comparison.analysis import threshold_variants as threshold_variants
from qwafer.comparison.benchmark import Benchmark as Benchmark
from qwafer.comparison.benchmark import run_benchmark as run_benchmark
from qwafer.comparison.benchmark import select_heads as select_heads
from qwafer.comparison.differences import example_differences as example_differences
from qwafer.comparison.differences import seed_differences as seed_differences
from qwafer.comparison.resources import Latency as Latency
from qwafer.comparison.resources import measure_latency as measure_latency
from qwafer.comparison.resources import peak_memory as peak_memory
from qwafer.comparison.runs import HeadRun as HeadRun
from qwafer.comparison.tree import fit_tree as fit_tree
