"""The process that asks the questions: `python _child.py ANSWERS module.function ...`, one JSON line before and after.

It is started by its path and not as a module of qwafer, so that it loads nothing but what its questions need. A
question that takes the process along leaves the line before it, and the parent knows which one it was.
"""

import importlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Ask; write the answers; return 0, whatever they are."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.append(str(Path(__file__).resolve().parents[4]))
    with Path(arguments[0]).open("a") as answers:
        for name in arguments[1:]:
            _write(answers, {"asked": name})
            try:
                module, function = name.rsplit(".", 1)
                verdict, detail = getattr(importlib.import_module(f"questions.{module}"), function)()
            except Exception as error:  # an error is an answer
                verdict, detail = "fails", f"{type(error).__name__}: {error}"
            _write(answers, {"name": name, "verdict": verdict, "detail": detail})
    return 0


def _write(stream: Any, record: dict[str, str]) -> None:
    stream.write(json.dumps(record) + "\n")
    stream.flush()
    os.fsync(stream.fileno())


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a runtime that the questions have upset may crash on its way out
