"""What the runs of a sweep say: pairing, statistics, analyses; data in, verdicts out."""

from qwafer.comparison.analysis import DEFAULT_COSTS as DEFAULT_COSTS
from qwafer.comparison.analysis import analyse as analyse
from qwafer.comparison.analysis import calibrations as calibrations
from qwafer.comparison.analysis import threshold_variants as threshold_variants
from qwafer.comparison.caveats import collect_warnings as collect_warnings
from qwafer.comparison.differences import example_differences as example_differences
from qwafer.comparison.differences import seed_differences as seed_differences
from qwafer.comparison.metrics import check_metric as check_metric
from qwafer.comparison.metrics import metric_value as metric_value
from qwafer.comparison.pairing import Pairing as Pairing
from qwafer.comparison.pairing import check_pairing as check_pairing
from qwafer.comparison.pairing import identical_arms as identical_arms
from qwafer.comparison.resources import Latency as Latency
from qwafer.comparison.resources import measure_latency as measure_latency
from qwafer.comparison.resources import peak_memory as peak_memory
from qwafer.comparison.runs import HeadRun as HeadRun
from qwafer.comparison.statistics import Comparison as Comparison
from qwafer.comparison.statistics import compare_arms as compare_arms
from qwafer.comparison.statistics import holm as holm
from qwafer.comparison.statistics import seeds_for_power as seeds_for_power
from qwafer.comparison.statistics import sign_flip_p as sign_flip_p
from qwafer.comparison.statistics import wilcoxon_p as wilcoxon_p
from qwafer.comparison.summary import summarize as summarize
from qwafer.comparison.summary import write_summary as write_summary
