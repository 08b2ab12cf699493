"""Trackers: what each is told, that nothing is told twice, and that no failure of one reaches a run."""

import json
import sys
from pathlib import Path

import pytest

from qwafer._errors import CapabilityError, InputError
from qwafer.cli import ablate, bench, search
from qwafer.tracking import TRACKERS, TrackedRun, make_tracking
from qwafer.training import RunResult
from tests.factories import feature_set

TWO = """
seeds = 2
metric = "test.roc_auc"
[data]
source = "{source}"
task = "any"
[training]
epochs = 2
max_doublings = 0
batch_size = 32
[arms.linear]
head.name = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 3
"""
OWN = """
import json
from pathlib import Path


class Own:
    def __init__(self, folder):
        self.file = Path("told.jsonl").resolve()

    def say(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    def start(self, run):
        self.say("start", run.name, run.group, dict(run.parameters), dict(run.digests))

    def log(self, curves, metrics):
        self.say("log", {name: list(points) for name, points in curves.items()}, dict(metrics))

    def finish(self, artefacts):
        self.say("finish", [path.name for path in artefacts])
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    feature_set(160, 4).save("given.npz")
    Path("two.toml").write_text(TWO.format(source=tmp_path / "given.npz"))
    Path("own.py").write_text(OWN)
    return tmp_path


def run(*words, verb=ablate):
    return verb.main(["two.toml", "--executor", "serial", "--quiet", "--descriptive", "--out", "out", *words])


def told():
    calls = [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]
    assert [call[0] for call in calls] == ["start", "log", "finish"] * (len(calls) // 3)
    return {calls[i][1]: (calls[i], calls[i + 1], calls[i + 2]) for i in range(0, len(calls), 3)}


def test_every_run_and_the_report_are_told_once(two):
    """Runs of an earlier call that told nobody, then those of a sweep that has grown."""
    assert run() == 0
    assert run("--track", "own.py:Own") == 0
    found = told()
    assert set(found) == {"linear/seed-0", "linear/seed-1", "mlp/seed-0", "mlp/seed-1", "comparison"}
    result = RunResult.load("out/runs/mlp/seed-1.json")
    (_, _, group, parameters, digests), (_, curves, metrics), (_, files) = found["mlp/seed-1"]
    assert (group, parameters["arm"], parameters["seed"], parameters["head.hidden"]) == ("two", "mlp", 1, 3)
    assert parameters["training.grad_clip"] == 1.0
    assert (digests["run"], digests["split"], digests["data"]) == (
        result.digest,
        result.digests.split,
        result.digests.data,
    )
    assert curves["val_loss"] == [[1, result.curves["val_loss"][0]], [2, result.curves["val_loss"][1]]]
    assert metrics["test.roc_auc"] == result.test.macro["roc_auc"]
    assert files == ["seed-1.json"]
    (_, _, _, parameters, _), (_, _, metrics), (_, files) = found["comparison"]
    assert (parameters["baseline"], parameters["verdict.mlp"]) == ("linear", "too few seeds")
    assert metrics["mlp.difference"] == pytest.approx(metrics["mlp.test.roc_auc"] - metrics["linear.test.roc_auc"])
    assert files[:2] == ["report.md", "summary.json"]
    assert "paired.png" in files

    before = Path("told.jsonl").read_text()
    assert run("--track", "own.py:Own", "--seeds", "3") == 0
    more = Path("told.jsonl").read_text()[len(before) :]
    assert [json.loads(line)[1] for line in more.splitlines() if '"start"' in line] == [
        "linear/seed-2",
        "mlp/seed-2",
        "comparison",
    ]


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_tracker_that_raises_ends_the_tracking_alone(two, call, capsys):
    failing = f"def {call}(self, *_):\n        raise RuntimeError('no\\nserver')\n\n    def x(self"
    Path("failing.py").write_text(OWN.replace(f"def {call}(self", failing))
    tracking = make_tracking("failing.py:Own", two / "out")
    for name in ("a", "b"):
        tracking.tell(TrackedRun(name, "g"), {}, {})
        tracking.result("g", "mlp", two / "absent.json")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("failing.py:Own has failed at a and ends here: RuntimeError: no server")
    assert tracking.failed


@pytest.mark.usefixtures("without_figures")
def test_a_folder_that_cannot_be_written_to_ends_the_tracking_alone(two, capsys):
    Path("out").mkdir()
    (Path("out") / "tensorboard").write_text("a file")
    (Path("out") / ".lock").write_text("")
    assert run("--track", "tensorboard") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tracking by tensorboard has failed at linear/seed-0 and ends here: NotADirectory")
    assert Path("out/report.md").is_file()
    assert len(list(Path("out/runs").rglob("seed-?.json"))) == 4


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_tracker_without_its_package_is_refused_before_anything_runs(two, name, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert run("--track", name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --track {name} needs the package {package}, which is not here: install qwafer[{name}]"
    assert not Path("out").exists()
    with pytest.raises(CapabilityError):
        make_tracking(name, "out")


def test_an_unknown_tracker_is_refused(two, capsys):
    assert run("--track", "tensorbord") == 2
    assert "`tracker` must be one of mlflow, tensorboard, wandb" in capsys.readouterr().err
    Path("raising.py").write_text("def Own(folder):\n    raise ValueError('no')\n")
    with pytest.raises(InputError, match=r"tracker raising\.py:Own raised ValueError: no"):
        make_tracking("raising.py:Own", "out")
    assert TRACKERS.names == ("tensorboard", "mlflow", "wandb")


def test_values_that_are_undefined_are_left_out(two):
    tracking = make_tracking(f"{two / 'own.py'}:Own", two / "out")
    curves = {"a": [(1, 0.5), (2, float("nan")), (3, None)], "b": [(1, None)]}
    tracking.tell(TrackedRun("x", "g"), curves, {"c": float("inf"), "d": None, "e": 1})
    assert told()["x"][1] == ["log", {"a": [[1, 0.5]]}, {"e": 1.0}]
    assert not tracking.failed


def test_trials_of_a_search_are_told_without_a_test_figure(two):
    Path("space.toml").write_text("[training.learning_rate]\nlow = 1e-3\nhigh = 0.1\nlog = true\n")
    words = ["--space", "space.toml", "--budget", "1", "--trial-seeds", "9,", "--track", "own.py:Own", "--no-compare"]
    assert run(*words, verb=search) == 0
    found = told()
    assert set(found) == {"linear/trial-0000", "mlp/trial-0000", "search"}
    (_, _, _, parameters, _), (_, curves, metrics), _ = found["mlp/trial-0000"]
    assert set(parameters) == {"arm", "state", "training.learning_rate"}
    assert (set(curves), set(metrics)) == ({"val.roc_auc"}, {"val.roc_auc", "val.roc_auc/seed-9"})
    assert found["search"][2] == ["finish", ["search.json", "winners.toml"]]
    assert "test." not in json.dumps([found[name] for name in found if "trial" in name])


def test_a_benchmark_is_told_with_its_reports(two):
    assert run("--track", "own.py:Own", verb=bench) == 0
    found = told()
    assert set(found) == {"linear/seed-0", "linear/seed-1", "mlp/seed-0", "mlp/seed-1", "comparison", "benchmark"}
    assert {"report.md", "report.html", "differences.json", "bench_mlp.json"} <= set(found["benchmark"][2][1])


def test_tensorboards_own_reader_reads_what_was_told(two):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run("--track", "tensorboard") == 0
    result = RunResult.load("out/runs/mlp/seed-1.json")

    def read(name):
        found = accumulator.EventAccumulator(f"out/tensorboard/{name}", size_guidance={"images": 0})
        found.Reload()
        return found

    events = read("mlp/seed-1")
    assert [(e.step, e.value) for e in events.Scalars("val_loss")] == [
        (epoch, pytest.approx(value)) for epoch, value in enumerate(result.curves["val_loss"], 1)
    ]
    assert events.Scalars("final/test.roc_auc")[0].value == pytest.approx(result.test.macro["roc_auc"])
    text = events.Tensors("digests/text_summary")[0].tensor_proto.string_val[0].decode()
    assert result.digest in text
    assert (
        b"head.hidden" in read("mlp/seed-1/hparams").SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    whole = read("comparison")
    assert (
        Path("out/report.md").read_text()
        in whole.Tensors("report.md/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert "paired" in whole.Tags()["images"]


@pytest.mark.track
def test_mlflow_on_sqlite_holds_what_was_told(two):
    assert run("--track", "mlflow") == 0
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{two / 'out' / 'mlflow.db'}")
    (key,) = [found.experiment_id for found in client.search_experiments() if found.name == "two"]
    runs = {found.info.run_name: found for found in client.search_runs([key])}
    assert set(runs) == {"linear/seed-0", "linear/seed-1", "mlp/seed-0", "mlp/seed-1", "comparison"}
    one, result = runs["mlp/seed-1"], RunResult.load("out/runs/mlp/seed-1.json")
    assert one.info.status == "FINISHED"
    assert one.data.params["head.hidden"] == "3"
    assert one.data.tags["digest.run"] == result.digest
    assert one.data.metrics["test.roc_auc"] == result.test.macro["roc_auc"]
    history = client.get_metric_history(one.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == list(enumerate(result.curves["val_loss"], 1))
    files = {file.path for file in client.list_artifacts(runs["comparison"].info.run_id)}
    assert {"report.md", "summary.json"} <= files
    assert run("--track", "mlflow") == 0
    assert len(client.search_runs([key])) == 5


def leveldb_records(content):
    """Return the records of a LevelDB log: blocks of 32 KiB, parts of CRC 4, length 2, kind 1 (1 whole, 4 last)."""
    found, parts, at = [], b"", 7  # wandb's own header stands before the first
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found, parts = [*found, parts], b""
    return found


@pytest.mark.track
def test_wandb_writes_offline_runs(two, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert run("--track", "wandb") == 0
    assert "has failed" not in capsys.readouterr().err
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for path in Path("out/wandb").glob("offline-run-*/run-*.wandb"):
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
        (started,) = [record.run for record in records if record.HasField("run")]
        found[started.display_name] = records
    assert set(found) == {"linear/seed-0", "linear/seed-1", "mlp/seed-0", "mlp/seed-1", "comparison"}
    result = RunResult.load("out/runs/mlp/seed-1.json")
    values = {
        item.key or "/".join(item.nested_key): item.value_json
        for r in found["mlp/seed-1"]
        for item in r.run.config.update
    }
    assert json.loads(values["digest.run"]) == result.digest
    assert json.loads(values["head.hidden"]) == 3
    history = [
        {item.key or item.nested_key[0]: item.value_json for item in r.history.item} for r in found["mlp/seed-1"]
    ]
    losses = [json.loads(step["val_loss"]) for step in history if "val_loss" in step]
    assert losses == result.curves["val_loss"]
    last = [item for r in found["mlp/seed-1"] for item in r.summary.update]
    (scored,) = [json.loads(item.value_json) for item in last if (item.key or item.nested_key[0]) == "test.roc_auc"]
    assert scored == result.test.macro["roc_auc"]
