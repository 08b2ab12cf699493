"""Arms x seeds: the output directory, the features and the jobs of a sweep."""

from qwafer.sweeps.directory import DirectoryRecord as DirectoryRecord
from qwafer.sweeps.directory import OutputDirectory as OutputDirectory
from qwafer.sweeps.directory import SweepResults as SweepResults
from qwafer.sweeps.directory import seeds_text as seeds_text
from qwafer.sweeps.sources import SourceRecord as SourceRecord
