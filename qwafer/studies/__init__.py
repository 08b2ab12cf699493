"""Whole studies: an ablation or a benchmark from its experiment to its report."""

from qwafer.studies.ablation import Outcome as Outcome
from qwafer.studies.ablation import run_experiment as run_experiment
from qwafer.studies.benchmark import Benchmark as Benchmark
from qwafer.studies.benchmark import run_benchmark as run_benchmark
