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
from qwafer.comparison.statistics import Comparison as Comparison
from qwafer.comparison.statistics import compare_arms as compare_arms
from qwafer.comparison.statistics import holm as holm
from qwafer.comparison.statistics import seeds_for_power as seeds_for_power
from qwafer.comparison.statistics import sign_flip_p as sign_flip_p
from qwafer.comparison.statistics import wilcoxon_p as wilcoxon_p
from qwafer.comparison.summary import Summary as Summary
from qwafer.comparison.summary import SweepTimings as SweepTimings
from qwafer.comparison.summary import sum_timings as sum_timings
from qwafer.comparison.summary import summarize as summarize
