"""Hostile files: what a reader is handed may be made to read beyond its memory, to hang, or to take all of it."""

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def child(code: str, *arguments: object, seconds: float = 60, megabytes: int = 3000) -> str:
    """Return what `code` prints in a process of its own; a crash, a hang or too much memory fails the test."""
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)\n"
    done = subprocess.run(
        [sys.executable, "-c", limits + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def refusals(reader: str, paths: Sequence[Path], **limits: float) -> list[str]:
    """Return the sentences with which `module:reader` refuses `paths`, in a process of its own."""
    module, name = reader.split(":")
    code = f"""
import sys
from qwafer import InputError
from {module} import {name.split(".")[0]}
for path in sys.argv[1:]:
    try:
        {name}(path)
    except InputError as error:
        print(error)
"""
    said = child(code, *paths, **limits).splitlines()
    assert len(said) == len(paths), said
    for path, sentence in zip(paths, said, strict=True):
        assert str(path) in sentence
        assert len(sentence) < 2000
    return said


# Point 14: tensors of torch files


def torch_zip(path: Path, program: bytes, **storages: bytes) -> Path:
    """Write a checkpoint whose pickle is `program`, and its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        for key, content in storages.items():
            archive.writestr(f"a/data/{key.removeprefix('_')}", content)
    return path


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def storage(kind: str, key: str, length: int) -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(length) + b"tQ"


def tensor(source: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    shape, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + source + number(offset) + shape + steps + b"\x89}tR"


def entry(value: bytes) -> bytes:
    return b"}" + text("w") + value + b"s"


READ_TORCH = "qwafer.backbones.checkpoints:read_checkpoint"


@pytest.mark.parametrize("kind", ["FloatStorage", "ByteStorage"])
def test_a_tensor_is_not_a_storage(kind: str, tmp_path: Path) -> None:
    """A tensor of stride 0 over one number looked like a storage of a billion: reading it left the memory."""
    wide = tensor(storage(kind, "0", 1), 0, (2**30,), (0,))
    path = torch_zip(tmp_path / "w.pth", entry(tensor(wide, 0, (2**26,), (1,))), _0=bytes(8))
    assert path.stat().st_size < 700
    assert "storage" in refusals(READ_TORCH, [path])[0]


def test_a_tensor_stays_inside_its_storage(tmp_path: Path) -> None:
    views = [
        (0, (5,), (1,)),
        (4, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (2, 2), (3, 1)),
        (3, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2**40,), (0,)),
        (0, (2**32, 2**32), (0, 0)),
        (0, (0, 2**62), (1, 1)),
    ]
    numbers = storage("FloatStorage", "0", 4)
    files = [
        torch_zip(tmp_path / f"{i}.pth", entry(tensor(numbers, *view)), _0=bytes(16)) for i, view in enumerate(views)
    ]
    refusals(READ_TORCH, files)


def test_a_storage_cannot_be_altered_by_the_pickle(tmp_path: Path) -> None:
    """BUILD and SETITEM reach every object that the unpickler makes."""
    whole = storage("FloatStorage", "0", 4)
    changed = [
        tensor(whole + b"}" + text("flat") + text("x") + b"sb", 0, (4,), (1,)),
        tensor(whole + number(0) + number(1) + b"s", 0, (4,), (1,)),
        tensor(whole, 0, (4,), (1,)) + b"(K\x01(K\x04tN\x89C\x04aaaatb",
        tensor(whole, 0, (4,), (1,)) + number(0) + number(1) + b"s",
    ]
    files = [torch_zip(tmp_path / f"{i}.pth", entry(each), _0=bytes(16)) for i, each in enumerate(changed)]
    refusals(READ_TORCH, files)


def test_one_storage_does_not_become_many_gigabytes(tmp_path: Path) -> None:
    """3,000 tensors of one storage of 1 MB are 3 GB once they are kept apart."""
    whole = storage("ByteStorage", "0", 2**20) + b"q\x01"
    tensors = b"".join(text(str(i)) + tensor(b"h\x01", 0, (2**20,), (1,)) + b"s" for i in range(3000))
    path = torch_zip(tmp_path / "w.pth", whole + b"0}" + tensors, _0=bytes(2**20))
    assert "unpack" in refusals(READ_TORCH, [path])[0]


def test_what_torch_sets_on_a_state_dict_is_left_out(tmp_path: Path) -> None:
    """`_metadata` of a state_dict is set by BUILD; another name must not take the place of a method."""
    made = b"ccollections\nOrderedDict\n)R"
    held = made + text("w") + tensor(storage("FloatStorage", "0", 4), 0, (4,), (1,)) + b"s"
    files = [
        torch_zip(tmp_path / f"{name}.pth", held + b"}" + text(name) + number(1) + b"sb", _0=bytes(16))
        for name in ("_metadata", "items", "keys", "__class__")
    ]
    code = """
import sys
from qwafer.backbones.checkpoints import read_checkpoint
print(*(list(read_checkpoint(path).state) for path in sys.argv[1:]))
"""
    assert child(code, *files) == "['w'] ['w'] ['w'] ['w']\n"


def nested_tuple(depth: int, wide: bool) -> bytes:
    """Return a program that leaves one tuple inside the other; `wide`: each twice in the next."""
    return b")" + (b"2\x86" if wide else b"\x85") * depth


@pytest.mark.parametrize(("depth", "wide"), [(60, True), (250_000, False)], ids=["wide", "deep"])
def test_a_nested_tuple_is_not_hashed(depth: int, wide: bool, tmp_path: Path) -> None:
    """As a key, 60 tuples of twice the one before take 2^60 steps, and 250,000 in one another the whole stack."""
    key = nested_tuple(depth, wide)
    torch = {
        "item": b"}" + key + b"Ns",
        "items": b"}(" + key + b"Nu",
        "dict": b"(" + key + b"Nd",
        "ordered": b"ccollections\nOrderedDict\n(](" + key + b"N\x86etR",
        "storage": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + number(1) + b"tQ",
    }
    refusals(READ_TORCH, [torch_zip(tmp_path / f"{name}.pth", each) for name, each in torch.items()], seconds=30)
    frames = {
        "item": b"}" + key + b"Ns",
        "items": b"}(" + key + b"Nu",
        "dict": b"(" + key + b"Nd",
        "set": b"\x8f(" + key + b"\x90",
        "frozen": b"(" + key + b"\x91",
    }
    for name, each in frames.items():
        (tmp_path / f"{name}.pkl").write_bytes(b"\x80\x04" + each + b".")
    refusals("qwafer.data:read_lswmd", [tmp_path / f"{name}.pkl" for name in frames], seconds=30)
