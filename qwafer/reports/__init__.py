"""What is written for a reader: documents, tables and figures."""

from qwafer.reports.ablation import number as number
from qwafer.reports.ablation import report_text as report_text
from qwafer.reports.ablation import spread as spread
from qwafer.reports.ablation import write_report as write_report
