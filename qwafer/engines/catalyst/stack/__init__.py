"""What the installed compiler stack can and cannot do: one probe for each fact that the engine leans on.

`run_stack_probes()` asks every question of `QUESTIONS` in subprocesses and returns a `StackFact` each;
`python -m qwafer.reports.stack --write-docs` writes them into `docs/catalyst-learnings.md`.
"""

from qwafer.engines.catalyst.stack._catalog import QUESTIONS as QUESTIONS
from qwafer.engines.catalyst.stack._fact import Question as Question
from qwafer.engines.catalyst.stack._fact import StackFact as StackFact
from qwafer.engines.catalyst.stack._fact import broken as broken
from qwafer.engines.catalyst.stack._fact import versions as versions
from qwafer.engines.catalyst.stack._run import run_stack_probes as run_stack_probes
