"""The driver's end of a contender's process: a question, an answer, a limit on the wait."""

import importlib
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers"
sys.path.insert(0, str(ROOT))  # for a checkout that is not installed
WORKER = Path(__file__).resolve().parent / "_engines_worker.py"


class Pipe:
    """One contender of a module in one precision; its process is started anew after it died or overran a limit.

    `platform` is JAX's; none leaves the choice to JAX.
    """

    def __init__(self, name: str, dtype: str, module: str = "_engines_contenders", platform: str = "cpu"):
        self.name, self.dtype, self.module, self.platform = name, dtype, module, platform
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """Return the answer, or `{"error": why}`."""
        fresh = self.process is None
        process = self._started()
        if fresh and request["do"] != "hello" and "error" in (hello := self.ask(120, do="hello")):
            return hello
        try:
            process.stdin.write((json.dumps(request) + "\n").encode())
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended("its process ended")
        line = self._line(process, time.monotonic() + limit_s)
        if line is None:
            return self._ended(f"no answer within {limit_s:.0f} s")
        if not line:
            return self._ended("its process ended, as it does when memory runs out")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def _ended(self, why: str) -> dict[str, Any]:
        self.close()
        return {"error": why}

    @staticmethod
    def _line(process: Any, deadline: float) -> bytes | None:
        """Return a line; None: not in time; empty: the other end is closed."""
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    return None
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    return b""
                line += part
        return line

    def _started(self) -> Any:
        if self.process is None:
            home = importlib.import_module(self.module).CONTENDERS[self.name][1]
            python = sys.executable if home == "project" else str(PEERS / "bin" / "python")
            # Lightning holds one example at a time: a second OpenMP thread there only waits.
            threads = "1" if self.name.startswith("catalyst") or self.name == "torch-lightning" else "2"
            names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            environment = {**os.environ, **dict.fromkeys(names, threads)}
            environment |= {"JAX_PLATFORMS": self.platform} if self.platform else {}
            self.process = subprocess.Popen(
                [python, str(WORKER), self.module, self.name, self.dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                cwd=ROOT,
            )
        return self.process
