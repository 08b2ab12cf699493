"""Code of anybody's own that raises, or takes other arguments: one sentence, never a traceback."""

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from qwafer import InputError
from qwafer.ablate import main as ablate
from qwafer.backbones import extractor, features_from_maps
from qwafer.config import RunConfig
from qwafer.execution import make_executor
from qwafer.experiment import load_experiment
from qwafer.extract import main as extract_verb
from qwafer.networks import network

try:
    from qwafer._registry import foreign
except ImportError:
    foreign = None
from qwafer.source import read_source
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.directory import NOT_DONE
from qwafer.sweeps.sources import provide_features
from tests.factories import wafer_maps

OWN = """
from dataclasses import dataclass

from qwafer.backbones import Extractor


def raising(path):
    raise KeyError("die\\nnumber")


def bare():
    raise RuntimeError


def other(path, sheet):
    return path


def refusing(path):
    from qwafer import InputError

    raise InputError("no such lot")


def maker(dtype="float32"):
    raise OSError("no licence")


def late(dtype="float32"):
    return Extractor("late", 16, {"dtype": dtype}, raising)


MADE = Extractor("made", 16, {"dtype": "float32"}, raising)


class Executor:
    def run(self, jobs, on_event):
        pass


@dataclass(frozen=True)
class NoDefault:
    depth: int

    def train(self, maps, path, progress=None):
        return path

    def extractor(self, weights):
        return MADE


@dataclass(frozen=True)
class Failing:
    depth: int = 1

    def train(self, maps, path, progress=None):
        raise ZeroDivisionError("empty lot")

    def extractor(self, weights, lot):
        return MADE
"""
TOML = """
[data]
n_maps = 40
[training]
epochs = 1
max_doublings = 0
[arms.mlp]
head.name = "mlp"
[arms.linear]
head = "linear"
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "lot.txt").write_text("40")
    return str(tmp_path / "own.py")


def test_only_what_is_not_qwafers_own_becomes_a_sentence() -> None:
    with pytest.raises(InputError, match=r"^reader a:b raised KeyError: 'x'$"), foreign("reader", "a:b"):
        raise KeyError("x")
    with pytest.raises(KeyError), foreign("reader", "lswmd"):
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), foreign("reader", "a:b"):
        raise KeyboardInterrupt


def test_a_reader(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lot = tmp_path / "lot.txt"
    for name, words in (
        ("raising", r"raised KeyError: 'die\\nnumber'$"),
        ("bare", "raised TypeError: bare"),
        ("other", "raised TypeError: other.*'sheet'"),
        ("refusing", "^no such lot$"),
    ):
        with pytest.raises(InputError, match=words):
            read_source(lot, f"{own}:{name}")
    assert extract_verb(["--maps", str(lot), "--reader", f"{own}:raising", "--out", str(tmp_path / "f.npz")]) == 2
    assert capsys.readouterr().err.startswith(f"error: reader {own}:raising raised KeyError")


def test_a_backbone(own: str) -> None:
    with pytest.raises(InputError, match=r"^backbone .*own.py:maker raised OSError: no licence$"):
        extractor(f"{own}:maker")
    for name, words in (
        ("raising", "raising raised KeyError"),
        ("other", "other raised TypeError"),
        ("late", "late raised KeyError"),
        ("MADE", "MADE raised KeyError"),
    ):
        with pytest.raises(InputError, match=words):
            features_from_maps(wafer_maps(3), f"{own}:{name}")


def test_a_network(own: str, tmp_path: Path) -> None:
    for make in (network, extractor):
        with pytest.raises(InputError, match=r"NoDefault raised TypeError.*'depth'"):
            make(f"{own}:NoDefault")
    failing = network(f"{own}:Failing")
    assert failing.depth == 1  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^network .*Failing raised ZeroDivisionError: empty lot$"):
        failing.train(wafer_maps(3), tmp_path / "w")
    with pytest.raises(InputError, match=r"^network .*Failing raised TypeError.*'lot'"):
        failing.extractor(tmp_path / "w")
    with pytest.raises(InputError, match=r"^backbone .*Failing raised TypeError.*'lot'"):
        extractor(f"{own}:Failing", weights=tmp_path / "w")


def test_an_executor(own: str) -> None:
    with pytest.raises(InputError, match=r"^executor .*Executor raised TypeError"):
        make_executor(f"{own}:Executor")


def test_damaged_records_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(TOML)
    experiment = load_experiment(tmp_path / "e.toml")
    directory = OutputDirectory(tmp_path / "out")
    arms = {arm: config.data for arm, config in experiment.arms.items()}
    data = {arm: source.record for arm, source in provide_features(arms, tmp_path / "features").items()}
    directory.claim(experiment, data)
    error = directory.error_path("mlp", 1)
    error.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"type": 3}', "\x00"):
        error.write_text(text)
        assert directory.read(experiment).failures["mlp"][1] == NOT_DONE
    file = directory.path / "experiment.json"
    form = {**json.loads(file.read_text()), "data": {}}
    form.pop("checksum")  # as in files of older versions
    file.write_text(json.dumps(form))
    with pytest.raises(InputError, match=r"experiment.json does not hold a DirectoryRecord: .*choose another output"):
        directory.check_owner(experiment, data)


SCRIPT = """
import json
import sys
from dataclasses import dataclass
from typing import ClassVar

from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.execution import LocalProcesses
from qwafer.experiment import Experiment
from qwafer.heads import MlpOptions
from qwafer.studies import run_experiment

print("loaded as", "script" if __name__ == "__main__" else "module", file=sys.stderr)


@dataclass(frozen=True)
class Wide:
    width: int = 4
    sections: ClassVar[tuple[str, ...]] = ("objective", "sampling", "training")

    def make(self, inputs):
        return MlpOptions(hidden=self.width).make(inputs)


if __name__ == "__main__":
    shared = {"data": DataConfig(n_maps=60), "training": TrainingConfig(epochs=1, max_doublings=0, batch_size=20)}
    arms = {f"w{width}": RunConfig(head=Wide(width), **shared) for width in (3, 4)}
    plain = json.loads(json.dumps(arms["w3"].to_dict()))
    assert RunConfig.from_dict(plain) == arms["w3"]
    print(plain["head"]["name"])
    if len(sys.argv) > 1:
        experiment = Experiment(name="script", arms=arms, baseline="w3", seeds=(0,))
        run_experiment(experiment, sys.argv[1], executor=LocalProcesses(1), descriptive=True)
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_a_class_in_a_script_is_found_again(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    done = python(tmp_path, "study.py", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{script.resolve()}:Wide"
    assert done.stderr.count("loaded as script") == 1
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").glob("*/seed-*.json"))
    assert runs == ["seed-0.json", "seed-0.json"]
    done = python(tmp_path, "-m", "study")
    assert (done.returncode, done.stdout) == (0, "study:Wide\n"), done.stderr


def test_a_class_in_a_function_is_refused() -> None:
    @dataclass(frozen=True)
    class Local:
        sections: ClassVar[tuple[str, ...]] = ()

        def fit(self, prepared: object, seed: int) -> None: ...

    with pytest.raises(InputError, match=r"Local is defined in a function.*: define it in a module$"):
        RunConfig(head=Local()).to_dict()


def test_extract_sends_features_of_ones_own_reader_to_the_verbs_that_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lot, reader = tmp_path / "lot.txt", "tests.thirdparty:read_features"
    lot.write_text("40")
    assert extract_verb(["--maps", str(lot), "--reader", reader, "--out", str(tmp_path / "f.npz")]) == 2
    said = capsys.readouterr().err
    command = f"--maps {lot} --set data.reader={reader}"
    assert command in said
    assert "--features" not in said
    (tmp_path / "e.toml").write_text(textwrap.dedent(TOML).replace("n_maps = 40", 'task = "L0"'))
    options = [*command.split(), "--seeds", "1", "--descriptive", "--jobs", "1", "--quiet", "--executor", "serial"]
    assert ablate([str(tmp_path / "e.toml"), *options, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    capsys.readouterr()
    ablate([str(tmp_path / "e.toml"), *options, "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out" / "runs").glob("*/seed-0.json"))) == 2


def test_a_dry_run_says_none_as_the_report_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.toml").write_text(TOML)
    assert ablate([str(tmp_path / "e.toml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "none" in said
    assert "None" not in said
