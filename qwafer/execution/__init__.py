"""Jobs and what runs them."""

from qwafer.execution.processes import Event as Event
from qwafer.execution.processes import Task as Task
from qwafer.execution.processes import WorkerPool as WorkerPool
