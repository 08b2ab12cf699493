"""The job that asks one question. It is loaded by its path and not as a module of qwafer, so that its process imports
nothing but what the question needs.
"""

import importlib
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from qwafer.execution.job import plain


@plain
def ask(name: str, report: Any) -> tuple[str, str]:
    """Return verdict and detail of the question `module.function`; an error is an answer."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(tempfile.gettempdir())
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module, _, function = name.partition(".")
    try:
        return getattr(importlib.import_module(f"questions.{module}"), function)()
    except Exception as error:
        return "fails", f"{type(error).__name__}: {error}"
