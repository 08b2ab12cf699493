"""The commands of docs/serving.md run as they stand there, and its figures are those of the committed results."""

import json
import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from qwafer.serving.export import Exported

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("onnxruntime", reason="the extra qwafer[onnx] is not installed")

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "docs/serving.md", "exec"), types.ModuleType("page").__dict__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "\n".join(["set -eum", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", *blocks("sh")])
    script = script.replace("8000", str(port)).replace("python -m", f"{sys.executable} -m")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*"}
    with subprocess.Popen(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:] + errors[-3000:]
    found = [json.loads(text) for text in re.findall(r'\{"answer_id":.*?"inference_latency_ms":[\d.]+\}', printed)]
    assert [answer["wafer_id"] for answer in found[:2]] == ["WF-1", "WF-2"]
    assert (tmp_path / "week-2" / "report.md").is_file()
    first, second = (json.loads((tmp_path / f"week-{i}" / "monitoring.json").read_text()) for i in (1, 2))
    assert (first["version"], first["n"], second["version"], second["n"]) == ("1.0.0", 202, "1.0.1", 200)
    told = [
        [alert["sentence"] for alert in week["alerts"] if re.search("drift|moved", alert["sentence"])]
        for week in (first, second)
    ]
    assert not told[0]
    assert told[1]
    assert "champion 1.0.0, previous none" in printed
    for name in ("model.onnx", "model.stablehlo"):
        assert Exported.load(tmp_path / name).manifest.verification.n_maps == 256


def rows(name: str) -> list[list[str]]:
    (table,) = re.findall(rf"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", PAGE, re.DOTALL)
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_figures_of_the_page_are_those_of_the_results() -> None:
    replay = json.loads((ROOT / "benchmarks" / "results" / "drift_replay.json").read_text())
    wanted = [[name, f"{n:,}", f"{alarms:.1%}", f"{above:.1%}"] for name, n, alarms, above in replay["rows"]]
    assert rows("drift_replay") == wanted
    ((_, requests, _, steps),) = json.loads((ROOT / "benchmarks" / "results" / "serving_memory.json").read_text())[
        "memory"
    ]
    said = f"{steps[1]} MiB after {requests // 5:,} requests of 8 clients, and {steps[-1]} MiB after {requests:,}"
    assert said in PAGE
    load = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text())["rows"]
    wanted = [[*row[:3], str(row[3]), f"{row[4]:,.0f}", f"{row[5]:.1f}", f"{row[6]:.1f}"] for row in load]
    assert rows("serving") == wanted
    slow = [row[:3] for row in load if row[1] == "service" and row[3] == 8 and row[6] > 50]
    assert slow == [], "the sentence below the table says that none is"
