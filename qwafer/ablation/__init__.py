"""Arms x seeds: pairing, paired statistics, worker processes, the report."""

from qwafer.ablation.caveats import collect_warnings as collect_warnings
from qwafer.ablation.directory import OutputDirectory as OutputDirectory
from qwafer.ablation.directory import seeds_text as seeds_text
from qwafer.ablation.executor import Event as Event
from qwafer.ablation.executor import Task as Task
from qwafer.ablation.executor import WorkerPool as WorkerPool
from qwafer.ablation.metrics import check_metric as check_metric
from qwafer.ablation.metrics import metric_value as metric_value
from qwafer.ablation.pairing import Pairing as Pairing
from qwafer.ablation.pairing import check_pairing as check_pairing
from qwafer.ablation.pairing import identical_arms as identical_arms
from qwafer.ablation.report import number as number
from qwafer.ablation.report import report_text as report_text
from qwafer.ablation.report import spread as spread
from qwafer.ablation.report import write_report as write_report
from qwafer.ablation.statistics import Comparison as Comparison
from qwafer.ablation.statistics import compare_arms as compare_arms
from qwafer.ablation.statistics import holm as holm
from qwafer.ablation.statistics import seeds_for_power as seeds_for_power
from qwafer.ablation.statistics import sign_flip_p as sign_flip_p
from qwafer.ablation.statistics import wilcoxon_p as wilcoxon_p
from qwafer.ablation.summary import summarize as summarize
from qwafer.ablation.summary import write_summary as write_summary
from qwafer.ablation.sweep import Outcome as Outcome
from qwafer.ablation.sweep import Progress as Progress
from qwafer.ablation.sweep import run_experiment as run_experiment
