"""Checkpoints are read without torch, nothing in them is executed, and every key is accounted for."""

import argparse
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from qwafer import InputError
from qwafer.backbones import load
from qwafer.backbones.checkpoints import random_checkpoint, read_checkpoint, read_tensors, write_tensors
from qwafer.backbones.pretrained import architecture
from tests.torch_writer import save_torch

NAME = "mobilenet_v3_small"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """A whole checkpoint of MobileNetV3-Small, with counters and head as torchvision has them."""
    state = dict(random_checkpoint(architecture(NAME).shapes, 0).state)
    state |= {
        f"{key[: -len('running_var')]}num_batches_tracked": np.zeros((), np.int64)
        for key in [*state]
        if "running_var" in key
    }
    state["classifier.0.weight"] = np.zeros((1024, 576), np.float32)
    return state


def small() -> dict[str, np.ndarray]:
    flat = np.arange(12, dtype=np.float32)
    return {
        "plain": flat.reshape(3, 4),
        "transposed": flat.reshape(3, 4).T,
        "tail": flat[5:9],
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.arange(3, dtype=np.float16),
        "brain": np.array([1.5, -2], ml_dtypes.bfloat16),
        "double": np.arange(3.0),
        "flags": np.array([True, False]),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", ["bare", "nested", "hub", "parallel"])
def test_torch_files_give_every_tensor(legacy: bool, wrap: str, tmp_path: Path) -> None:
    tensors = small()
    prefix = {"hub": "model.", "parallel": "module.model."}.get(wrap, "")
    content: object = {prefix + key: value for key, value in tensors.items()}
    if wrap == "nested":
        content = {"epoch": 3, "args": argparse.Namespace(lr=1e-3), "state_dict": content, "losses": [1.0, (2, "x")]}
    path = save_torch(content, tmp_path / "w.pth.tar", legacy=legacy)
    for _ in range(2):  # the second reading takes the converted file
        state = read_checkpoint(path).state
        assert set(state) == set(tensors)
        for key, tensor in tensors.items():
            assert state[key].shape == tensor.shape, key
            np.testing.assert_array_equal(state[key], tensor, strict=True)


def test_a_torch_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_torch(small(), tmp_path / "w.pth")
    first = read_checkpoint(path)
    converted = list((tmp_path / "cache" / "weights").iterdir())
    assert [file.name for file in converted] == [f"{first.record['sha256']}.safetensors"]
    with safetensors.safe_open(converted[0], framework="numpy") as file:
        assert file.metadata()["source_sha256"] == first.record["sha256"]
    monkeypatch.setattr("qwafer.backbones.checkpoints.read_torch_file", lambda path: pytest.fail("read again"))
    assert read_checkpoint(path).record == first.record


def test_an_unwritable_cache_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "file"))
    path = save_torch(small(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert read_checkpoint(path).state["scalar"] == 7


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


class EvilByEval:
    def __reduce__(self) -> tuple[object, ...]:
        return (eval, ("__import__('os').getpid()",))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_calls_something_is_refused_by_name(legacy: bool, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    for evil, name in ((Evil(target), "pathlib"), (EvilByEval(), "eval")):
        path = save_torch({"state_dict": small(), "extra": evil}, tmp_path / f"{name}.pth", legacy=legacy)
        with pytest.raises(InputError, match=name) as caught:
            load(NAME, weights=path)
        assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps(Evil(target)))
    with pytest.raises(InputError, match="pathlib"):
        load(NAME, weights=path)
    assert not target.exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_checkpoint_is_one_sentence(kind: str, state: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if kind == "safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        save_torch(state, path, legacy=kind == "legacy")
    whole = path.read_bytes()
    for length in (0, 3, 10, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"w\.pth") as caught:
            load(NAME, weights=path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_bytes_never_escape_as_another_error(legacy: bool, tmp_path: Path) -> None:
    path = save_torch(small(), tmp_path / "w.pth", legacy=legacy)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except InputError:
            refused += 1
    assert refused > 300


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = save_torch({"a": np.arange(4, dtype=np.float32)}, tmp_path / "w.pth")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data/0"] = members["archive/data/0"][:8]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="shorter"):
        read_checkpoint(path)


def test_every_key_is_accounted_for(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    broken = dict(state)
    del broken["features.0.0.weight"]
    broken["features.99.weight"] = np.zeros(3, np.float32)
    broken["features.12.0.weight"] = np.zeros((576, 97, 1, 1), np.float32)
    safetensors.numpy.save_file(broken, path)
    with pytest.raises(InputError) as caught:
        load(NAME, weights=path)
    message = str(caught.value)
    assert "1 missing: features.0.0.weight" in message
    assert "1 unexpected: features.99.weight" in message
    assert "1 of another shape: features.12.0.weight (576, 97, 1, 1) instead of (576, 96, 1, 1)" in message
    assert "\n" not in message


def test_another_models_checkpoint_names_that_model(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(state, path)
    with pytest.raises(InputError, match=r"does not fit efficientnet_b0.*it fits mobilenet_v3_small"):
        load("efficientnet_b0", weights=path)
    with pytest.raises(InputError, match=r"does not fit mamba_vision_T2.*it fits mobilenet_v3_small"):
        load("mamba_vision_T2", weights=path)


def test_a_finetuned_head_and_absent_counters_are_fine(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tuned = {key: value for key, value in state.items() if "num_batches" not in key}
    tuned["classifier.3.1.weight"] = np.zeros((12, 1024), np.float32)
    safetensors.numpy.save_file(tuned, path)
    assert load(NAME, weights=path).weights["file"] == "w.safetensors"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "no tensors"),
        ([1, 2], "no tensors"),
        ({"a": np.array([1, np.nan], np.float32)}, "not finite"),
    ],
)
def test_content_that_is_no_checkpoint(content: object, message: str, tmp_path: Path) -> None:
    path = save_torch(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load(NAME, weights=path)


def test_without_weights_the_error_says_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mobilenet_v3_small-047dcff4\.pth.*--random-weights"):
        load(NAME)
    with pytest.raises(InputError, match="nvidia/MambaVision-L2-512-21K"):
        load("mamba_vision_L2_512_21k")
    with pytest.raises(InputError, match="--train"):
        load("wafercnn")
    with pytest.raises(InputError, match="not on the hub"):
        load(NAME, weights="hub")
    with pytest.raises(InputError, match="no such checkpoint"):
        load(NAME, weights=tmp_path / "absent.pth")
    with pytest.raises(InputError, match="not both"):
        load(NAME, weights="w.pth", random_weights=0)
    with pytest.raises(InputError, match="did you mean `mobilenet_v3_small`"):
        load("mobilenetv3_small", weights="w.pth")


def test_the_hub_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from qwafer import CapabilityError

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CapabilityError, match=r"qwafer\[hub\]"):
        load("mamba_vision_T", weights="hub")


def test_the_hub_gives_a_path(state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for huggingface_hub: what is asked of it, and what becomes of its refusal."""
    import sys
    import types

    asked = []

    class HfHubHTTPError(OSError):
        pass

    def download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        raise HfHubHTTPError("401 Client Error\nand more")

    stand_in = types.ModuleType("huggingface_hub")
    stand_in.hf_hub_download = download  # type: ignore[attr-defined]
    stand_in.errors = types.SimpleNamespace(HfHubHTTPError=HfHubHTTPError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    with pytest.raises(InputError, match="401 Client Error"):
        load("mamba_vision_T", weights="hub")
    assert asked == [("nvidia/MambaVision-T-1K", "model.safetensors")]


def test_equal_tensors_make_equal_files(tmp_path):
    """What a file says of itself came in an order drawn anew, and with it another SHA-256 of equal weights."""
    said = {name: name * 3 for name in ("origin", "record", 'é\n"', "version")}
    files = []
    for k in range(8):
        write_tensors(tmp_path / f"{k}.safetensors", {"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)}, said)
        files.append((tmp_path / f"{k}.safetensors").read_bytes())
        tensors, metadata = read_tensors(tmp_path / f"{k}.safetensors")
        assert {name: metadata[name] for name in said} == said
        np.testing.assert_array_equal(tensors["b"], np.arange(3.0))
    assert len(set(files)) == 1
