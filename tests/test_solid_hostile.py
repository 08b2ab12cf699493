"""Hostile files: what a reader is handed may be made to read beyond its memory, to hang, or to take all of it."""

import contextlib
import json
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from qwafer import FeatureSet, InputError, Model
from qwafer._process import run_verb
from qwafer._records import load_record
from qwafer.backbones.checkpoints import read_checkpoint
from qwafer.backbones.chunks import ChunkStore
from qwafer.cli import ablate
from qwafer.data import read_maps
from qwafer.data.maps import check_labels
from qwafer.execution import Event, Job, Threads, processes, run_all
from qwafer.experiment import parse_seeds
from qwafer.overrides import build, known_options, named, parse_overrides
from qwafer.reports.figures import style
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.ledger import Ledger
from qwafer.training import Predictor, RunResult

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


# Point 19: sizes are checked before memory is asked for


def npz(path: Path, compressed: bool = True, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def with_header(path: Path, key: str, said: str, data: bytes = b"") -> Path:
    """Write into the NPZ an array of that NPY header, with a sum that fits."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = said.encode() + b"\n"
    members[f"{key}.npy"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(descr: str, shape: tuple[int, ...], order: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}}}"


def wm811k(path: Path, **changes: np.ndarray) -> Path:
    arrays = {
        "flat": np.zeros(32, np.uint8),
        "shape": np.full((2, 2), 4),
        "label": np.zeros(2, np.int64),
        "classes": np.array(["none", "Center"]),
    }
    return npz(path, **{**arrays, **changes})


def test_a_bomb_of_an_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """300 MB of zeros in 300 KB; a header that says 8 TB; a million maps of one die; a map of 1 x 4,000,000."""
    many = 400_000
    files = [
        npz(tmp_path / "zeros.npz", arr_0=np.zeros((400, 1024, 1024), np.uint8), arr_1=np.zeros((400, 8))),
        with_header(
            wm811k(tmp_path / "header.npz"),
            "flat",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (8000000000000,)}",
        ),
        with_header(
            wm811k(tmp_path / "empty.npz"),
            "classes",
            "{'descr': '<U1', 'fortran_order': False, 'shape': (0, 8000000000000)}",
        ),
        wm811k(
            tmp_path / "dies.npz",
            flat=np.zeros(many, np.uint8),
            shape=np.ones((many, 2), np.uint8),
            label=np.zeros(many, np.uint8),
        ),
        wm811k(
            tmp_path / "long.npz", flat=np.zeros(8_000_000, np.uint8), shape=np.array([[1, 4_000_000]] * 2, np.int64)
        ),
        wm811k(tmp_path / "overflow.npz", shape=np.array([[2**32, 2**32], [4, 8]])),
        wm811k(tmp_path / "classes.npz", classes=np.array([f"{i}" for i in range(100_000)])),
    ]
    said = refusals("qwafer.data:read_maps", files, megabytes=900)
    for words, sentence in zip(("unpack", "header", "unpack|header", "claims", "dies a side"), said, strict=False):
        assert re.search(words, sentence), sentence


def test_a_map_that_is_referenced_a_million_times_is_refused(tmp_path: Path) -> None:
    wafer = np.zeros((300, 300), np.int64)  # converted, each reference is a map of its own
    frame = pd.DataFrame({"waferMap": [wafer] * 4000, "failureType": ["none"] * 4000})
    frame.to_pickle(tmp_path / "a.pkl")
    assert "unpack" in refusals("qwafer.data:read_lswmd", [tmp_path / "a.pkl"], megabytes=1200)[0]
    wide = pd.DataFrame({"waferMap": [np.zeros((3, 3), np.uint8)], "failureType": ["none"], "lotName": ["x" * 10**6]})
    wide.to_pickle(tmp_path / "b.pkl")
    assert "characters" in refusals("qwafer.data:read_lswmd", [tmp_path / "b.pkl"])[0]


@pytest.mark.parametrize("seeds", ["9999999999", "0:9999999999", "9" * 5000, 10**30, 9999999999])
def test_seeds_are_counted_before_they_are_listed(seeds: str | int) -> None:
    with pytest.raises(InputError, match="`seeds` must be"):
        parse_seeds(seeds)


def built(given: list[str], option: str) -> None:
    build(named(parse_overrides([*given, option]), known_options(parse_overrides(given))))


@pytest.mark.parametrize(
    "option",
    [
        "head.hidden=1000000000000",
        "head.hidden=2000000",
        "head.n_angles=1000000",
        "head.degree=1000000",
        "data.n_maps=1000000000000",
        "training.epochs=1000000000000",
        "training.batch_size=1000000000000",
        "training.fixed_num_batches=1000000000000",
        "circuit.n_layers=1000000000000",
        "circuit.n_qubits=1000000000000",
        "head.max_depth=1000000000000",
        "training.epochs=" + "9" * 400,
        "training.learning_rate=" + "9" * 400,
        "training.learning_rate=" + "9" * 5000,
        "circuit.n_qubits=" + "[" * 5000,
    ],
)
def test_options_have_bounds(option: str) -> None:
    head = {"hidden": "mlp", "n_angles": "trigonometric", "degree": "trigonometric", "max_depth": "tree"}
    name = option.partition("=")[0]
    given = [f"head.name={head[name.partition('.')[2]]}"] if name.startswith("head") else []
    with pytest.raises(InputError, match=name.partition(".")[2]) as caught:
        built(given, option)
    assert len(str(caught.value)) < 500


def ask_for_memory(payload: object, report: object) -> None:
    np.zeros(2**60, np.uint8)


def ask_xla_for_memory(payload: object, report: object) -> None:
    jnp.zeros((2**45,), jnp.uint8).block_until_ready()


@pytest.mark.parametrize("ask", [ask_for_memory, ask_xla_for_memory])
def test_a_verb_says_in_one_sentence_that_memory_does_not_suffice(
    ask: Callable[[object, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def directly() -> int:
        ask(None, None)
        return 0

    assert run_verb(directly) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "memory" in said


def test_a_job_that_asks_for_too_much_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(lambda: len(run_all(Threads(1), [Job("a", ask_for_memory)]))) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a: Unable to allocate" in said


# Point 18: nothing hangs


def test_a_long_label_is_cut_in_few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut character by character, a label of 6,000 was measured 6,000 times."""
    measured: list[str] = []

    def width(text: str, size: float = style.TEXT_SIZE) -> float:
        measured.append(text)
        return 0.05 * len(text)

    monkeypatch.setattr(style, "text_width", width)
    for label in ("x" * 6000, "a b-" * 1500):
        for lines in (1, 3):
            measured.clear()
            assert style.fit_text(label, 2.0, lines=lines).endswith("…")
            assert sum(map(len, measured)) < 60_000


def test_text_is_cut_as_wide_as_it_fits() -> None:
    for text in ("Edge-Ring and Center", "iiiiiiiiiiiiiiiii, wwwwwwww", "one two three"):
        whole = style.text_width(text)
        assert style.fit_text(text, whole + 0.01) == text
        for share in (0.3, 0.5, 0.9):
            cut = style.fit_text(text, share * whole)
            assert cut.endswith("…")
            kept = cut.removesuffix("…")
            assert text.startswith(kept)
            assert style.text_width(cut) <= share * whole
            longer = text[: len(kept) + 1 + len(text[len(kept) :]) - len(text[len(kept) :].lstrip(" ,+-_/"))]
            assert style.text_width(longer + "…") > share * whole


STOPS = """
import os, signal
from qwafer.execution import plain

@plain
def act(payload, report):
    if payload["stop"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"
"""


def test_a_stopped_worker_fails_its_job_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOPPED", 1.0)
    monkeypatch.setattr(processes, "POLL", 0.25)
    (tmp_path / "stops.py").write_text(STOPS)
    act = f"{tmp_path / 'stops.py'}:act"
    done: dict[str, Event] = {}
    with processes.LocalProcesses(1) as executor:
        jobs = [Job(str(i), act, {"stop": i == 0}) for i in range(2)]
        executor.run(jobs, lambda event: done.update({event.key: event}))
    assert done["0"].failure is not None
    assert "stopped by a signal" in done["0"].failure.error
    assert done["1"].result == "done"


# Point 20: what is printed


ARMS = """
[arms.a]
head = "linear"
[arms.b]
head = "mlp"
"""


def test_markup_in_a_title_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.toml").write_text('title = "[/red] [bold]x"\n' + ARMS)
    out = tmp_path / "[/out]"
    arguments = [str(tmp_path / "e.toml"), "--dry-run", "--descriptive", "--seeds", "2", "--out", str(out)]
    assert ablate.main(arguments) == 0
    said = "".join(capsys.readouterr().out.split())
    assert "[/red][bold]x" in said
    assert "[/out]" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('name = "../../x"', "not a path"),
        ('name = "/tmp/x"', "not a path"),
        ('name = ".."', "not a path"),
        ('name = ""', "not a path"),
        ('title = "\\u001b[2Jx"', "printable"),
        ('title = "\\u202ex"', "printable"),
        ('data.backbone = "\\u001b[2Jx"', "printable"),
        ("seeds = " + "9" * 5000, "TOML"),
        ("margin = " + "9" * 400, "margin"),
        ("training.learning_rate = " + "9" * 400, "64 bits"),
        ("x = " + "[" * 5000, "TOML"),
        ("training" + ".a" * 3000 + " = 1", "e.toml"),
    ],
)
def test_texts_of_an_experiment_neither_steer_the_terminal_nor_leave_the_folder(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.toml").write_text(line + "\n" + ARMS)
    assert ablate.main([str(tmp_path / "e.toml"), "--dry-run", "--descriptive"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert "\x1b" not in said
    assert len(said) < 1000


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    with pytest.raises(InputError, match=r"no option `tr\\ning.epochs`") as raised:
        build(named(parse_overrides(["tr\ning.epochs=3"]), known_options({})))
    assert "\n" not in str(raised.value)
    assert str(InputError("a\r\nb\u2028c")) == r"a\r\nb\u2028c"


def test_an_error_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main(["\x1b[2J\udcff.toml"]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[2J\\udcff.toml" in said
    assert "\x1b" not in said


def test_a_path_that_is_not_utf8_is_refused_before_the_work(tmp_path: Path) -> None:
    odd = tmp_path / "\udcff"
    for use in (OutputDirectory, read_maps, FeatureSet.load):
        with pytest.raises(InputError, match="not UTF-8"):
            use(odd)


def test_labels_are_printable() -> None:
    with pytest.raises(InputError, match="printable"):
        check_labels(np.ones((1, 1), np.uint8), ("\x1b[31mred",), 1, "the file")


# Point 21: one sentence that names the file, whatever a parser raises


def refused(reader: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        reader(path)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 2010
    return said


@pytest.mark.parametrize(
    "said",
    [
        header("<f4", (2,), order="None"),
        header("<f4", (2,), order="1"),
        header("<f4", (2,)).replace("(2,)", "2"),
        header("<f4", (2,)).replace("(2,)", "(" * 300 + ")" * 300),
        header("<f4", (2,)).replace("'<f4'", "('<f4', (2,))"),
        header("<f4", (2,)).replace("'<f4'", "[('a', '<f4'), ('a', '<f4')]"),
        header("<f4", (2,)).replace("'<f4'", "{1: 2}"),
        header("<f4", (2,)).replace("'<f4'", "'<f4"),
        header("<f4,,", (2,)),
        header("<U4294967296", (2,)),
        header("<f4", (True,)),
        "{'descr': '<f4'}",
        "[" * 5000,
        "9" * 5000,
        "\0\0\0",
        "",
    ],
)
def test_headers_of_arrays_with_sums_that_fit(said: str, tmp_path: Path) -> None:
    path = wm811k(tmp_path / "a.npz")
    for key in ("shape", "label"):
        refused(read_maps, with_header(path, key, said, bytes(8)))


def test_odd_members_of_an_archive(tmp_path: Path) -> None:
    whole = wm811k(tmp_path / "whole.npz", compressed=False).read_bytes()
    place = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (8, 64), (10, 99), (10, 12), (24, 255), (42, 255)):  # flags, method, size, place
        damaged = bytearray(whole)
        damaged[place + offset] = value
        (tmp_path / "a.npz").write_bytes(damaged)
        refused(read_maps, tmp_path / "a.npz")


def test_slices_and_types_of_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"waferMap": [np.zeros((3, 3), np.uint8)], "failureType": [np.array([["none"]])]})
    frame.to_pickle(tmp_path / "whole.pkl", protocol=4)
    content = (tmp_path / "whole.pkl").read_bytes()
    for old, new in (
        (b"K\x00K\x02K\x01\x87", b"K\x00K\x02K\x00\x87"),  # slice(0, 2, 0)
        (b"\x8c\x02u1", b"\x8c\x02U9"),
        (b"\x8c\x02u1", b"\x8c\x02zz"),
        (b"\x8c\x02O8", b"\x8c\x02f8"),
    ):
        assert old in content
        (tmp_path / "a.pkl").write_bytes(content.replace(old, new, 1))
        refused(read_maps, tmp_path / "a.pkl")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "X"])
def test_numbers_of_eight_bits_in_safetensors(kind: str, tmp_path: Path) -> None:
    said = json.dumps({"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(said)) + said + bytes(2))
    refused(read_checkpoint, path)
    refused(Model.load, path)


def test_records_of_predictors_runs_and_manifests(tmp_path: Path) -> None:
    deep = "[" * 100_000
    texts = ["null", "[]", "{}", "3", '"x"', "1e999", "9" * 5000, deep, '{"config":' * 400 + "1" + "}" * 400, "\ud800"]
    for i, text in enumerate([*texts, '{"config": 3}', '{"schema": "qwafer/run/3", "seed": Infinity}']):
        np.savez(tmp_path / f"{i}.npz", record=np.array(text[:4000]))
        refused(Predictor.load, tmp_path / f"{i}.npz")
        path = tmp_path / f"{i}.json"
        path.write_text(text, errors="surrogatepass")
        refused(RunResult.load, path)
        refused(lambda path: load_record(Ledger, path), path)
        parts = tmp_path / f"{i}.parts"
        parts.mkdir()
        (parts / "manifest.json").write_text(text, errors="surrogatepass")
        with warnings.catch_warnings(record=True) as said:  # a damaged manifest is set aside, and made again
            warnings.simplefilter("always", UserWarning)
            with contextlib.suppress(InputError), ChunkStore(parts, {"a": 1}, 3).opened():
                pass
        assert all(len(str(warning.message)) < 2500 for warning in said)


def test_damaged_files_of_every_kind() -> None:
    """300 inputs of the attack in `benchmarks/hostile.py`, which takes any number of them."""
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), "--count", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    total = done.stdout.splitlines()[-1].split()
    assert total[0] == "all"
    assert int(total[1]) + int(total[2]) == 300
    assert int(total[1]) >= 10
