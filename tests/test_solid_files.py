"""Files under kills and damage: what is written is whole or absent, what is damaged is named and made again, and
what is not the library's own is not deleted.
"""

import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from qwafer import InputError, _process
from qwafer._io import atomic_path, file_sha256, write_json, write_text
from qwafer.ablate import main as ablate_main
from qwafer.backbones import Extractor, extract, features_from_maps
from qwafer.backbones.checkpoints import read_checkpoint
from qwafer.data import synthetic_maps
from qwafer.execution import Threads
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.studies import run_experiment, verify
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.ledger import read_ledger
from qwafer.training import Checkpoints
from qwafer.verify import main as verify_main
from tests.factories import feature_set
from tests.torch_writer import save_torch

ROOT = Path(__file__).resolve().parents[1]

KILLED_AT = """
import os, signal, sys
name, count, real = {name!r}, {count}, os.fsync
def fsync(descriptor):  # the moment between the last byte and the rename
    global count
    path = os.readlink(f"/proc/self/fd/{{descriptor}}")
    if path.endswith(name) or name in path:
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
"""


def killed_at(name: str, code: str, cwd: Path, count: int = 1) -> None:
    """Run `code` in a process that dies while it writes the `count`-th file whose path contains `name`."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT.format(name=name, count=count) + code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, f"{name} was never written: {done.stderr}"


def flip(path: Path, place: float = 0.5) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 16
    path.write_bytes(content)


def hidden(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"]


def sums(maps: Any) -> np.ndarray:
    return np.array([[m.sum(), m.shape[0], m[::2].sum()] for m in maps], np.float32)


def tiny() -> Extractor:
    return Extractor("tiny", 8, {"dtype": "float32", "weights": None}, sums)


MAPS = synthetic_maps(300, seed=1)
FEATURES = features_from_maps(MAPS, tiny()).features
EXTRACT = "from tests.test_solid_files import *\nextract(MAPS, tiny(), 'f.npz', batch=128, jobs=1)"


@pytest.mark.parametrize(("name", "count"), [("000000128-000000256", 1), ("manifest.json", 1), ("-f.npz", 1)])
def test_an_extraction_killed_while_it_writes_resumes(name: str, count: int, tmp_path: Path) -> None:
    killed_at(name, EXTRACT, tmp_path, count)
    assert hidden(tmp_path), "the temporary of the killed write"
    found = extract(MAPS, tiny(), tmp_path / "f.npz", batch=64)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def parts(tmp_path: Path, n: int = 2) -> Path:
    """Return the folder of an extraction that was interrupted after `n` chunks."""

    def stop(progress):
        if progress.done > n * 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(MAPS, tiny(), tmp_path / "f.npz", batch=64, progress=stop)
    return tmp_path / "f.npz.parts"


def test_stray_files_among_the_chunks_are_no_chunks(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    for name in ("a-b.npy", ".000000128-000000192.npy.abcdefgh.npy", "notes-2.npy", "000000128-x.npz"):
        (folder / name).write_bytes(b"mine")
    np.save(folder / "000000064-000000300.npy", np.ones((236, 88), np.float32))
    found = extract(MAPS, tiny(), tmp_path / "f.npz")
    np.testing.assert_array_equal(found.features, FEATURES)
    assert (folder / "notes-2.npy").read_bytes() == b"mine", "what is not the library's own stays"


def test_a_file_of_the_shape_of_a_chunk_is_set_aside(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    chunk = sorted(folder.glob("0*"))[0]
    stray = folder / chunk.name.replace("000000000-000000064", "000000200-000000264")
    stray.write_bytes(chunk.read_bytes())
    with pytest.warns(UserWarning, match=r"000000200-000000264.*set aside"):
        found = extract(MAPS, tiny(), tmp_path / "f.npz")
    np.testing.assert_array_equal(found.features, FEATURES)


def test_a_flipped_bit_in_a_chunk_or_a_manifest_is_found_and_computed_again(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    flip(sorted(folder.glob("0*"))[1])
    flip(folder / "manifest.json", 0.7)
    with pytest.warns(UserWarning, match="set aside") as said:
        found = extract(MAPS, tiny(), tmp_path / "f.npz")
    assert ["manifest" in str(warning.message) for warning in said] == [True, False]
    np.testing.assert_array_equal(found.features, FEATURES)


def test_a_folder_that_the_extraction_did_not_make_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "f.npz.parts"
    folder.mkdir()
    (folder / "features.npy").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"f\.npz\.parts holds other things \(features\.npy\)"):
        extract(MAPS, tiny(), tmp_path / "f.npz")
    assert (folder / "features.npy").read_bytes() == b"mine"


def test_a_kill_while_the_chunks_are_removed_leaves_nothing_for_the_next_call(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    features_from_maps(MAPS, tiny()).save(tmp_path / "f.npz")
    extract(MAPS, tiny(), tmp_path / "f.npz")
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_feature_file_is_set_aside_and_made_again(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    extract(MAPS, tiny(), path)
    whole = path.read_bytes()
    path.write_bytes({"flip": whole, "cut": whole[:-500], "empty": b""}[damage])
    if damage == "flip":
        flip(path, 0.3)
    with pytest.raises(InputError, match=r"f\.npz"):
        FeatureSet.load(path)
    with pytest.warns(UserWarning, match=r"f\.npz\.damaged"):
        extract(MAPS, tiny(), path)
    assert path.read_bytes() == whole
    other = tmp_path / "other.npz"
    other.write_bytes(b"the work of years")
    with pytest.raises(InputError, match="not a feature file"):
        extract(MAPS, tiny(), other)
    assert other.read_bytes() == b"the work of years"


def test_a_killed_write_leaves_the_old_file_and_the_next_write_removes_its_temporary(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "old")
    write_text(tmp_path / "b.json", "old")
    for name in ("a.json", "b.json"):
        killed_at(name, f"from qwafer._io import write_text; write_text('{name}', 'new')", tmp_path)
        assert (tmp_path / name).read_text() == "old"
    assert len(hidden(tmp_path)) == 2
    with atomic_path(tmp_path / "b.json") as temporary:
        temporary.write_text("half")
        write_text(tmp_path / "a.json", "new")
        write_text(tmp_path / "b.json", "of another writer")  # takes away what nobody holds, and nothing else
        assert hidden(tmp_path) == [temporary.name]
    assert (tmp_path / "b.json").read_text() == "half"
    assert hidden(tmp_path) == []


def test_the_folder_is_flushed_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync

    def spy(descriptor):
        flushed.append((os.path.samestat(os.fstat(descriptor), tmp_path.stat()), (tmp_path / "x").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_json(tmp_path / "x", {})
    assert flushed == [(False, False), (True, True)]


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""


@pytest.mark.parametrize(
    "write",
    [
        "from tests.factories import feature_set; feature_set(3000).save('deep/f.npz')",
        "from qwafer._io import write_text; write_text('deep/f.npz', 'x' * 50_000)",
        "from qwafer.backbones.checkpoints import write_tensors; write_tensors('deep/f.npz', {'a': np.ones(9999)}, {})",
    ],
)
def test_a_full_disk_names_the_file(write: str, tmp_path: Path) -> None:
    body = f"import numpy as np\ndef body():\n    {write}\n    return 0\n"
    verb = f"from qwafer._process import run_verb\n{body}raise SystemExit(run_verb(body))"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + verb],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: File too large: deep/f.npz\n"
    assert hidden(tmp_path) == []


def test_every_flipped_bit_of_a_feature_file_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    whole = feature_set(20, d=3)
    whole.save(path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = FeatureSet.load(path)
        except InputError:
            continue
        assert (found.digest(), found.provenance) == (whole.digest(), whole.provenance)


def test_a_flipped_bit_in_converted_weights_is_found_and_they_are_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "cache"))
    state = {"a.weight": np.arange(200, dtype=np.float32).reshape(20, 10)}
    path = save_torch(state, tmp_path / "w.pth", legacy=False)
    first = read_checkpoint(path).state["a.weight"]
    (converted,) = (tmp_path / "cache" / "weights").iterdir()
    flip(converted, 0.8)
    with pytest.warns(UserWarning, match="damaged.*set aside"):
        again = read_checkpoint(path).state["a.weight"]
    np.testing.assert_array_equal(again, first)
    other = save_torch({"a.weight": np.ones((20, 10), np.float32)}, tmp_path / "other.pth", legacy=False)
    read_checkpoint(other)
    mine = (tmp_path / "cache" / "weights") / f"{file_sha256(path)}.safetensors"
    mine.write_bytes((mine.parent / f"{file_sha256(other)}.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="made from the checkpoint of its name"):
        again = read_checkpoint(path).state["a.weight"]
    np.testing.assert_array_equal(again, first)


CNN = """
import jax
jax.config.update("jax_enable_x64", True)
from tests.test_solid_files import *
from qwafer.fitting import WaferCNN
WaferCNN(seed=3, epochs=2, batch_size=8).train(MAPS.take(np.arange(24)), "w.safetensors")
"""


@pytest.mark.slow
def test_the_training_of_a_network_resumes_bit_for_bit_after_a_kill(tmp_path: Path) -> None:
    from qwafer.fitting import WaferCNN

    options, maps = WaferCNN(seed=3, epochs=2, batch_size=8), MAPS.take(np.arange(24))
    whole = options.train(maps, tmp_path / "whole.safetensors")
    killed_at("epoch-000002", CNN, tmp_path)
    seen = []
    resumed = options.train(maps, tmp_path / "w.safetensors", lambda p: seen.append(p.done / p.total))
    assert min(seen) > 0.5
    np.testing.assert_equal(read_checkpoint(resumed).state, read_checkpoint(whole).state)
    files = [".model.safetensors", ".run.json", ".run.npz", ".safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{stem}{file}" for stem in ("w", "whole") for file in files
    ]


@pytest.mark.parametrize("place", [0.02, 0.2, 0.4, 0.6, 0.8, 0.98])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(place: float, tmp_path: Path) -> None:
    tree = {"a": np.arange(300, dtype=np.float32), "b": np.int32(4)}
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"a": tree["a"] + epoch, "b": tree["b"]}, {"epoch": epoch, "text": "x" * 300})
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    for file in [newest] if newest.is_file() else [path for path in newest.rglob("*") if path.is_file()]:
        flip(file, place)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        epoch, found, record = Checkpoints(tmp_path, {"seed": 1}).latest(tree)
    aside = any("set aside" in str(warning.message) for warning in said)
    assert epoch == record["epoch"] == (2 if aside else 3)
    np.testing.assert_array_equal(found["a"], tree["a"] + epoch)


def test_checkpoints_of_which_none_can_be_read_are_set_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    checkpoints.save(1, {"a": np.ones(3)}, {})
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning, match="set aside"):
        assert Checkpoints(tmp_path, {"seed": 1}).latest({"a": np.ones(3)}) is None


@pytest.fixture
def jax_cache():
    """Put JAX's setting back, for the tests that follow."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_given_for_the_xla_cache_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_cache: None
) -> None:
    monkeypatch.setattr(_process, "XLA_CACHE_BYTES", 50)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("thesis.tex", "jit_mine-0123-cache"):
        (mine / name).write_bytes(bytes(100))
    assert _process.enable_xla_cache(mine) == mine
    assert len(list(mine.iterdir())) == 2
    own = tmp_path / "own"
    for names in ((), ("thesis.tex", "jit_f-0123-cache")):
        for name in names:
            (own / name).write_bytes(bytes(100))
        assert _process.enable_xla_cache(own) == own
    assert {path.name for path in own.iterdir()} == {"CACHEDIR.TAG", "thesis.tex"}


INTERRUPTED = """
import os, signal
import numpy as np
from catalyst.compiler import Compiler
Compiler.run = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
from qwafer import engines
from qwafer.circuits import CircuitSpec
engines.get("catalyst").program(CircuitSpec(1, 1), 2, gradient=False)
"""


def test_a_killed_compilation_of_catalyst_leaves_nothing_for_long(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert list(tmp_path.iterdir()), "what the compiler had begun"
    keep = tmp_path / "states_of_mine"
    keep.mkdir()
    code = "from qwafer.engines.catalyst.runtime import workspace; print(len(list(workspace().parent.iterdir())))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert list(tmp_path.iterdir()) == [keep]


TOML = """
seeds = 2
[data]
n_maps = 120
task = "any"
[training]
epochs = 2
max_doublings = 0
checkpoint_every_epochs = 1
batch_size = 32
[arms.linear]
head = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 4
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An experiment, and its whole output directory."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "e.toml").write_text(TOML)
    experiment = load_experiment(folder / "e.toml")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GIT_DIR", os.devnull)
        run_experiment(experiment, folder / "out", executor=Threads(1), descriptive=True)
        yield experiment, folder


def test_a_complete_sweep_leaves_no_checkpoints_and_no_temporaries(sweep: Any) -> None:
    _, folder = sweep
    assert not (folder / "out" / "checkpoints").exists()
    assert hidden(folder / "out") == []


@pytest.mark.usefixtures("without_figures")
def test_half_of_all_files_damaged_in_turn_are_named_and_made_again(
    sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, folder = sweep
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    assert verify_main([str(out)]) == 0
    stored = sorted(path for path in out.rglob("*") if path.suffix in (".json", ".npz"))
    assert len(stored) == 12  # eight of runs; features, experiment, summary, timings
    hurt = [flip, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b"")]
    for turn in (0, 1):
        chosen = stored[turn::2]
        for i, path in enumerate(chosen):
            hurt[i % 3](path)
        capsys.readouterr()
        assert verify_main([str(out)]) == 1
        said = capsys.readouterr().out
        for path in chosen:
            assert str(path) in said
        with pytest.warns(UserWarning, match="set aside"):
            run_experiment(experiment, out, executor=Threads(1), descriptive=True)
        assert verify_main([str(out)]) == 0
        assert (out / "summary.json").read_bytes() == (folder / "out" / "summary.json").read_bytes()
    assert len(list(out.rglob("*.damaged*"))) >= 10


@pytest.mark.parametrize("text", ["[]", "{", "\x00", ""])
def test_a_damaged_failure_record_is_set_aside(sweep: Any, text: str, tmp_path: Path) -> None:
    experiment, folder = sweep
    shutil.copytree(folder / "out", tmp_path / "out")
    directory = OutputDirectory(tmp_path / "out")
    directory.run_path("mlp", 1).unlink()
    directory.error_path("mlp", 1).write_text(text)
    with directory.locked(), pytest.warns(UserWarning, match=r"seed-1\.error\.json\.damaged"):
        assert directory.read(experiment, repair=True).pending == [("mlp", 1)]


def test_a_dry_run_renames_nothing(sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = sweep
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    flip(out / "experiment.json")
    (out / "runs/mlp/seed-1.npz").write_bytes(b"")
    before = sorted(out.rglob("*"))
    assert ablate_main([str(folder / "e.toml"), "--out", str(out), "--dry-run", "--descriptive"]) == 0
    assert "1 of 4 runs to do" in capsys.readouterr().out
    assert sorted(out.rglob("*")) == before


def test_the_runs_of_another_configuration_are_never_written_over(sweep: Any, tmp_path: Path) -> None:
    experiment, folder = sweep
    shutil.copytree(folder / "out", tmp_path / "out")
    directory = OutputDirectory(tmp_path / "out")
    mlp = experiment.arms["mlp"]
    other = dataclasses.replace(mlp, training=dataclasses.replace(mlp.training, batch_size=16))
    changed = dataclasses.replace(experiment, arms={**experiment.arms, "mlp": other})
    with directory.locked(), pytest.warns(UserWarning, match="another configuration.*set aside"):
        assert directory.read(changed, repair=True).pending == [("mlp", 0), ("mlp", 1)]


def test_a_damaged_ledger_is_set_aside_each_time_under_a_name_of_its_own(sweep: Any, tmp_path: Path) -> None:
    _, folder = sweep
    for _ in range(2):
        shutil.copy(folder / "test-reads.json", tmp_path / "test-reads.json")
        flip(tmp_path / "test-reads.json")
        with pytest.warns(UserWarning, match="set aside"):
            assert not read_ledger(tmp_path / "out").data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test-reads.json.damaged", "test-reads.json.damaged-2"]


def test_verify_of_nothing_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_main([str(tmp_path / "absent")]) == 2
    (tmp_path / "notes.txt").write_text("mine")
    assert verify_main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("place", np.linspace(0.02, 0.98, 13))
def test_a_flipped_bit_in_a_record_is_found(sweep: Any, place: float, tmp_path: Path) -> None:
    _, folder = sweep
    for name in ("summary.json", "timings.json", "runs/mlp/seed-0.json", "runs/mlp/seed-0.npz"):
        for beside in (name, name.replace(".json", ".npz"), name.replace(".npz", ".json")):
            if (folder / "out" / beside).exists():
                (tmp_path / beside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "out" / beside, tmp_path / beside)
        path = tmp_path / name
        before = path.read_bytes()
        flip(path, place)
        found = verify(path)
        if not found.damaged and path.suffix == ".json":
            assert json.loads(path.read_text()) == json.loads(before)
        path.write_bytes(before)
        assert verify(path).whole == (path,)


def test_a_process_with_too_many_memory_maps_lets_go_of_what_was_compiled() -> None:
    def maps() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_bytes().count(b"\n")

    before = maps()
    kept = [jax.jit(lambda x, i=i: jax.numpy.tanh(x * i).sum()) for i in range(1, 12)]
    values = [float(function(np.ones(3))) for function in kept]
    compiled = maps()
    assert compiled > before + 20
    assert not _process.free_memory_maps()
    assert _process.free_memory_maps(limit=4 * compiled)
    assert maps() < compiled - 20
    assert [float(function(np.ones(3))) for function in kept] == values


@pytest.mark.slow
def test_a_sweep_killed_at_each_kind_of_write_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(TOML)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = ["ablate", "../e.toml", "--out", "out", "--executor", "serial", "--descriptive", "--quiet"]
    code = f"import sys; from qwafer.ablate import main; sys.argv = {argv!r}; sys.exit(main(sys.argv[1:]))"
    for folder in (whole, killed):
        folder.mkdir()
    kinds = ["experiment.json", "-epoch-", "seed-0.npz", "seed-0.json", "test-reads.json", "summary.json", "report.md"]
    for kind in kinds:
        killed_at(kind, code, killed)
        assert hidden(killed), kind
    for folder in (whole, killed):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull}
        subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
    assert hidden(killed) == hidden(whole)
    stored = [Path("out/summary.json"), *(path.relative_to(whole) for path in sorted(whole.glob("out/runs/*/*.npz")))]
    assert len(stored) == 5
    for path in stored:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
