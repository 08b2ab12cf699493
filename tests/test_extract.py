"""Extraction: the same bits whatever the batch, the threads or an interruption, and no half-written result."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwafer import InputError
from qwafer.backbones import Extractor, extract, extractor, features_from_maps
from qwafer.backbones.spatial import spatial_features
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.execution.job import Progress
from qwafer.extract import build_parser, main
from qwafer.features import FeatureSet
from tests.factories import wafer_maps

ROOT = Path(__file__).resolve().parents[1]


def tiny(compute_batch: int = 8, calls: list[int] | None = None) -> Extractor:
    """An extractor whose rows depend on their place in the batch, as those of a fused float program may."""

    def features(maps):
        if calls is not None:
            calls.append(len(maps))
        rows = [[m.sum(), m.shape[0], slot] for slot, m in enumerate(maps)]
        return np.array(rows, np.float32)

    return Extractor("tiny", compute_batch, {"dtype": "float32", "weights": None}, features)


def with_duplicates(n: int = 40, distinct: int = 25) -> WaferMaps:
    maps = synthetic_maps(distinct, seed=1)
    return maps.take(
        np.concatenate([np.arange(distinct), np.random.default_rng(0).integers(0, distinct, n - distinct)])
    )


def arrays(path: Path) -> dict[str, bytes]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key].tobytes() for key in file.files}


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
runpy.run_module("qwafer.extract", run_name="__main__", alter_sys=True)
"""


def run_verb(*args: str, limited: bool = False) -> subprocess.CompletedProcess[str]:
    # The limit is set by the child itself: a preexec_fn would fork, which JAX's threads do not survive.
    start = ["-c", LIMITED] if limited else ["-m", "qwafer.extract"]
    command = [sys.executable, *start, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_spatial_features_land_in_a_feature_set(tmp_path: Path) -> None:
    maps = synthetic_maps(50, seed=3)
    features = extract(maps, "spatial", tmp_path / "f.npz")
    np.testing.assert_array_equal(features.features, spatial_features(maps.maps))
    loaded = FeatureSet.load(tmp_path / "f.npz")
    assert loaded.digest() == features.digest() == features_from_maps(maps).digest()
    assert loaded.provenance["backbone"] == "spatial"
    assert loaded.provenance["data"]["sha256"] == maps.sha256
    assert loaded.feature_names is not None
    assert loaded.feature_names[0] == "failing_ratio"
    assert not (tmp_path / "f.npz.parts").exists()


@pytest.mark.parametrize("maps", [with_duplicates(), wafer_maps(ragged=True)], ids=["stacked", "ragged"])
def test_batch_and_jobs_change_no_bit(maps: WaferMaps, tmp_path: Path) -> None:
    files = []
    for batch, jobs in ((1, 1), (8, 2), (20, 3), (1000, 1)):
        path = tmp_path / f"{batch}-{jobs}.npz"
        extract(maps, tiny(), path, batch=batch, jobs=jobs)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    in_memory = features_from_maps(maps, tiny())
    np.testing.assert_array_equal(in_memory.features, FeatureSet.load(path).features)


@pytest.mark.parametrize(
    "option", [{"weights": "w.pth"}, {"random_weights": 0}, {"dtype": "float16"}, {"channels": "grey"}], ids=str
)
def test_options_of_a_backbone_are_not_ignored(option: dict[str, object], tmp_path: Path) -> None:
    """An `Extractor` is made already, and a function takes none of them."""
    for backbone in (tiny(), "spatial"):
        with pytest.raises(InputError, match=next(iter(option)).replace("_", ".")):
            extract(synthetic_maps(10, seed=1), backbone, tmp_path / "f.npz", **option)
        with pytest.raises(InputError):
            features_from_maps(synthetic_maps(10, seed=1), backbone, **option)
    assert not list(tmp_path.iterdir())


def test_identical_maps_are_computed_once(tmp_path: Path) -> None:
    maps = with_duplicates(n=40, distinct=25)
    calls: list[int] = []
    features = extract(maps, tiny(calls=calls), tmp_path / "f.npz").features
    assert sum(calls) == 25
    for i, identity in enumerate(maps.content_ids):
        np.testing.assert_array_equal(features[i], features[np.flatnonzero(maps.content_ids == identity)[0]])


def test_an_interrupted_run_is_resumed_with_another_batch(tmp_path: Path) -> None:
    maps = synthetic_maps(60, seed=1)
    whole = extract(maps, tiny(), tmp_path / "whole.npz").features
    calls: list[int] = []
    broken = tiny()

    def fail_late(group):
        if len(calls) == 5:
            raise RuntimeError("power cut")
        calls.append(len(group))
        return tiny().features(group)

    with pytest.raises(RuntimeError, match="power cut"):
        extract(
            maps, Extractor(broken.name, broken.compute_batch, broken.record, fail_late), tmp_path / "f.npz", batch=16
        )
    assert not (tmp_path / "f.npz").exists()
    seen: list[tuple[int, int]] = []
    resumed: list[int] = []
    again = extract(
        maps, tiny(calls=resumed), tmp_path / "f.npz", batch=24, progress=lambda p: seen.append((p.done, p.total))
    )
    assert seen[0] == (32, 60)
    assert seen[-1] == (60, 60)
    assert sum(resumed) == 28
    np.testing.assert_array_equal(again.features, whole)


def test_sigkill_and_again_gives_the_arrays_of_an_unbroken_run(tmp_path: Path) -> None:
    args = ["--maps", "synthetic", "--maps-count", "9000", "--batch", "1024", "--quiet"]
    assert run_verb(*args, "--out", str(tmp_path / "whole.npz")).returncode == 0
    out = tmp_path / "f.npz"
    process = subprocess.Popen([sys.executable, "-m", "qwafer.extract", *args, "--out", str(out)], cwd=ROOT)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("f.npz.parts/0*.npz"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "the extraction ended before it could be killed"
    chunks = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("f.npz.parts/0*.npz")}
    assert 2 <= len(chunks) < 9
    assert run_verb(*args, "--out", str(out)).returncode == 0
    assert arrays(out) == arrays(tmp_path / "whole.npz")
    assert not list(tmp_path.glob("f.npz.parts"))
    assert not list(tmp_path.glob(".*"))


def test_a_complete_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--maps", "synthetic", "--maps-count", "50", "--out", str(tmp_path / "f.npz"), "--quiet"]
    assert main(args) == 0
    before = (tmp_path / "f.npz").stat().st_mtime_ns
    capsys.readouterr()
    assert main(args) == 0
    assert "complete" in capsys.readouterr().out
    assert (tmp_path / "f.npz").stat().st_mtime_ns == before


def test_a_file_of_other_provenance_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.npz"
    args = ["--maps", "synthetic", "--maps-count", "50", "--out", str(out), "--quiet"]
    assert main(args) == 0
    before = out.read_bytes()
    capsys.readouterr()
    assert main([*args, "--seed", "1"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "other features" in message
    out.write_bytes(b"not a feature file")
    assert main(args) == 2
    assert out.read_bytes() == b"not a feature file"
    assert before


def test_chunks_of_another_extraction_are_refused(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(synthetic_maps(60, seed=1), tiny(), tmp_path / "f.npz", batch=8, progress=stop)
    with pytest.raises(InputError, match="parts of another extraction"):
        extract(synthetic_maps(60, seed=2), tiny(), tmp_path / "f.npz")
    with pytest.raises(InputError, match="parts of another extraction"):
        extract(synthetic_maps(60, seed=1), tiny(compute_batch=4), tmp_path / "f.npz")


def test_a_damaged_chunk_is_named_and_computed_again(tmp_path: Path) -> None:
    maps = synthetic_maps(60, seed=1)

    def stop(progress: Progress) -> None:
        if progress.done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(maps, tiny(), tmp_path / "f.npz", batch=8, progress=stop)
    chunk = sorted(tmp_path.glob("f.npz.parts/0*.npz"))[1]
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.warns(UserWarning, match=f"{chunk.name} is damaged.*set aside"):
        found = extract(maps, tiny(), tmp_path / "f.npz")
    np.testing.assert_array_equal(found.features, features_from_maps(maps, tiny()).features)


def test_two_processes_on_one_output_are_refused(tmp_path: Path) -> None:
    maps = synthetic_maps(20, seed=1)

    def second(progress: Progress) -> None:
        with pytest.raises(InputError, match="another process"):
            extract(maps, tiny(), tmp_path / "f.npz")

    extract(maps, tiny(), tmp_path / "f.npz", progress=second)


def test_features_that_are_not_finite_leave_no_chunk(tmp_path: Path) -> None:
    broken = Extractor("tiny", 8, {"dtype": "float16"}, lambda maps: np.full((len(maps), 2), np.inf, np.float32))
    with pytest.raises(InputError, match=r"not finite.*float16"):
        extract(synthetic_maps(20, seed=1), broken, tmp_path / "f.npz")
    assert not list(tmp_path.glob("**/0*"))
    assert not (tmp_path / "f.npz").exists()


def assert_resumable_after_a_full_disk(result: subprocess.CompletedProcess[str], left: list[str]) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert "is full" in result.stderr
    assert "f.npz" not in left
    assert not [name for name in left if name.startswith(".")], "a temporary file was left behind"


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A small tmpfs where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is absent")
    verb = f"{sys.executable} -m qwafer.extract --maps synthetic --maps-count 3000 --out {disk}/f.npz --quiet"
    script = f"mount -t tmpfs -o size=600k none {disk} || exit 77; {verb}; status=$?; ls -A {disk}; exit $status"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip("mounting is not permitted here")
    assert_resumable_after_a_full_disk(result, result.stdout.split())


def test_a_file_size_limit_is_one_sentence(tmp_path: Path) -> None:
    """The same without privileges: the operating system refuses the write that reaches 500 kB."""
    out = tmp_path / "f.npz"
    args = ["--maps", "synthetic", "--maps-count", "3000", "--out", str(out), "--quiet"]
    result = run_verb(*args, limited=True)
    assert_resumable_after_a_full_disk(result, [path.name for path in tmp_path.iterdir()])
    assert run_verb(*args).returncode == 0
    assert FeatureSet.load(out).features.shape == (3000, 88)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--maps", "absent.npz"], "absent.npz"),
        (["--maps", "synthetic", "--backbone", "spatail"], "spatial"),
        (["--maps", "synthetic", "--batch", "0"], "batch"),
        (["--maps", "synthetic", "--weights", "w.pth"], "no weights"),
        (["--maps", "synthetic", "--dtype", "float16"], "float32 only"),
        (["--maps", "synthetic", "--maps-count", "0"], "0"),
    ],
)
def test_bad_options_are_one_sentence(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--out", str(tmp_path / "f.npz"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_maps_of_size_zero_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "maps.npz"
    np.savez(path, arr_0=np.zeros((3, 0, 52), np.uint8), arr_1=np.zeros((3, 8), np.uint8))
    assert main(["--maps", str(path), "--out", str(tmp_path / "f.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "f.npz").exists()


def test_what_the_reader_changed_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "maps.npz"
    codes = np.ones((4, 52, 52), np.uint8)
    codes[:, 0, 0] = 0
    codes[1, 5, 5] = 3
    np.savez(path, arr_0=codes, arr_1=np.zeros((4, 8), np.uint8))
    assert main(["--maps", str(path), "--out", str(tmp_path / "f.npz"), "--quiet"]) == 0
    assert capsys.readouterr().err.count("note: ") == 1


def test_help_names_every_option_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, qwafer.extract as e; e.build_parser().format_help();"
        "print([m for m in sys.modules if m in ('jax', 'numpy')])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
    assert "--backbone" in build_parser().format_help()


def test_constant_memory_in_the_number_of_maps(tmp_path: Path) -> None:
    """The resident features never exceed what a chunk needs: 200 MB of features within 100 MB of growth."""
    code = f"""
import resource, numpy as np
from qwafer.backbones import Extractor, extract
from qwafer.data import WaferMaps, content_ids
n, d = 3000, 16384
maps = (np.arange(n)[:, None, None] // 3 ** np.arange(8).reshape(1, 2, 4) % 3).astype(np.uint8)
made = WaferMaps(maps, np.zeros((n, 1), np.uint8), ("a",), content_ids(maps), "test", "0")
wide = Extractor("wide", 16, {{"dtype": "float32"}}, lambda m: np.ones((len(m), d), np.float32))
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before, peak = anonymous(), []
extract(made, wide, {str(tmp_path / "f.npz")!r}, batch=64, progress=lambda _: peak.append(anonymous()))
print((max(peak + [anonymous()]) - before) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 100


def test_real_maps_of_many_shapes(shared: Path, tmp_path: Path) -> None:
    from qwafer.data import read_maps

    maps = read_maps(shared / "data" / "wm811k.npz").take(np.arange(0, 49_798, 60))
    features = extract(maps, extractor("spatial"), tmp_path / "f.npz")
    assert features.features.shape == (len(maps), 88)
    assert features.exclusive
