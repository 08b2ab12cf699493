"""Damaged and hostile variants of every kind of file that qwafer reads, from a seed: what readers are attacked with.

`write_corpus` makes one good file of each kind; `mutate` makes the i-th bad one; `READERS` says who reads which.
"""

import importlib.util
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from scipy.io import wavfile
from torch_writer import save_torch

from qwafer import FeatureSet, Model, RunConfig, train
from qwafer._io import canonical_json
from qwafer._records import load_record, read_json
from qwafer.backbones import extractor, features_from_maps
from qwafer.backbones.adapters import Adapters
from qwafer.backbones.checkpoints import read_checkpoint
from qwafer.backbones.chunks import ChunkStore
from qwafer.config import TrainingConfig
from qwafer.data import read_edge_iiot, read_lswmd, read_maps, read_table, read_wav, synthetic_maps
from qwafer.data.edge_iiot import COLUMNS, LABEL
from qwafer.data.outside_2 import read_outside_2
from qwafer.experiment import Experiment, load_experiment
from qwafer.fitting import training_record
from qwafer.heads import LinearOptions, MlpOptions, QuantisedOptions
from qwafer.onnx import OnnxModel
from qwafer.onnx.graph import Graph
from qwafer.onnx.runtime import save
from qwafer.onnx.write import RECORD
from qwafer.overrides import build, known_options, named, parse_overrides
from qwafer.serving import Gate, Review
from qwafer.serving.store import Store, Stored, packed_map
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.ledger import Ledger
from qwafer.training import Predictor, RunResult, result

HAS_ONNX = importlib.util.find_spec("onnx") is not None and importlib.util.find_spec("onnxruntime") is not None
"""Whether the extra `onnx` is installed: without it, no graph can be written or read."""
CANARY = b"cposix\nsystem\n(S'touch qwafer-canary'\ntR"
"""What a pickle asks for to leave a file behind; no reader may do it."""
EXPERIMENT = """
name = "probe"
title = "Two heads"
seeds = "0:3"
margin = 0.02
[training]
epochs = 3
learning_rate = 0.01
[arms.linear]
head = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 16
"""
OPTIONS = ["training.epochs=20", "head.hidden=[1, 2]", "engine=xla", "data.source='a b'", "circuit.n_qubits=4"]


def _set(path: Path) -> None:
    given = parse_overrides(path.read_bytes().decode("utf-8", "surrogateescape").split("\0"))
    build(named(given, known_options(given)))


def _chunks(path: Path) -> None:
    folder = path.parent / f"{path.name}.parts"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(path.read_bytes())
    with ChunkStore(folder, {"backbone": "spatial"}, 3).opened():
        pass


def _directory(path: Path) -> None:
    folder = path.parent / f"{path.name}.out"
    folder.mkdir(exist_ok=True)
    (folder / "experiment.json").write_bytes(path.read_bytes())
    OutputDirectory(folder).record()


def _result(path: Path) -> None:
    """Read a result; every other one has a digest that fits, so that what lies behind it is reached."""
    path.with_suffix(".npz").write_bytes((path.parent / "corpus-run.npz").read_bytes())
    _redigested(path)
    RunResult.load(path)


def _result_arrays(path: Path) -> None:
    """Read the arrays of a result, with a digest that fits them."""
    beside = path.with_suffix(".json")
    beside.write_bytes((path.parent / "corpus-run.json").read_bytes())
    _redigested(beside)
    RunResult.load(beside)


def _store(path: Path) -> None:
    """Read all answers, their maps and the queue."""
    store = Store(path)
    try:
        store.maps(store.window().ids)
        store.queue(5)
    finally:
        store.close()


def _redigested(path: Path) -> None:
    try:
        form = read_json(path)
        arrays = result._read_arrays(path.with_suffix(".npz"), path)
        path.write_text(json.dumps({**form, "digest": result._digest(form, arrays)}))
    except Exception:  # it is the reader's turn to say what is wrong
        return


READERS: Mapping[str, tuple[str, Callable[[Path], Any]]] = {
    "mixedwm38": ("mixedwm38.npz", read_maps),
    "wm811k": ("wm811k.npz", read_maps),
    "outside_2": ("outside_2.npz", read_outside_2),
    "lswmd": ("lswmd.pkl", read_lswmd),
    "lswmd_maps": ("lswmd.pkl", read_maps),
    "edge_iiot": ("edge_iiot.csv", read_edge_iiot),
    "table": ("table.csv", read_table),
    "table_arrays": ("table.npz", read_table),
    "wav": ("sound.wav", read_wav),
    "features": ("features.npz", FeatureSet.load),
    "torch_zip": ("torch.pth", read_checkpoint),
    "torch_legacy": ("legacy.pth", read_checkpoint),
    "safetensors": ("weights.safetensors", read_checkpoint),
    "network": ("weights.safetensors", training_record),
    "adapters": ("adapters.safetensors", Adapters.load),
    "predictor": ("predictor.npz", Predictor.load),
    "packed": ("packed.safetensors", Predictor.load),
    "model": ("model.safetensors", Model.load),
    "result": ("run.json", _result),
    "result_arrays": ("run.npz", _result_arrays),
    "directory": ("experiment.json", _directory),
    "ledger": ("ledger.json", lambda path: load_record(Ledger, path)),
    "manifest": ("manifest.json", _chunks),
    "experiment": ("experiment.toml", load_experiment),
    "options": ("options.txt", _set),
    "review": ("review.safetensors", Review.load),
    "gate": ("gate.toml", Gate.load),
    "store": ("store.sqlite", _store),
    **({"onnx": ("model.onnx", OnnxModel.load)} if HAS_ONNX else {}),
}
"""The good file of each reader, and the reader."""


def write_corpus(folder: Path) -> None:
    """Write the good files, each named `corpus-NAME`, into `folder`."""
    maps = synthetic_maps(n=60, seed=1)
    stack, labels = np.asarray(maps.maps), maps.labels

    def at(name: str) -> Path:
        return folder / f"corpus-{name}"

    np.savez_compressed(at("mixedwm38.npz"), arr_0=stack[:8], arr_1=labels[:8])
    np.savez_compressed(at("outside_2.npz"), arr_0=(stack[:8] + 2) % 3, arr_1=labels[:8])
    flat, sides = stack[:8].ravel(), np.full((8, 2), stack.shape[1])
    classes = np.array(["none", "Center"])
    np.savez(at("wm811k.npz"), flat=flat, shape=sides, label=np.arange(8) % 2, classes=classes, lot=np.arange(8))
    names = ["none", "Center", "Loc", "Scratch"]
    frame = {"waferMap": list(stack[:4, :9, :9]), "failureType": [[[name]] for name in names], "lotName": ["a"] * 4}
    pd.DataFrame(frame).to_pickle(at("lswmd.pkl"), protocol=4)
    rows = [",".join("1" if name == LABEL else "0x1f" if name == "tcp.flags" else "2.5" for name in COLUMNS)] * 6
    at("edge_iiot.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    at("table.csv").write_text("\n".join(["a,b,label,fold", *(f"{i * i},0.5,{'xy'[i % 2]},{i % 3}" for i in range(9))]))
    wavfile.write(at("sound.wav"), 8000, (3000 * np.sin(np.arange(400) / 5)).astype(np.int16).reshape(200, 2))
    np.savez(at("table.npz"), X=np.arange(18.0).reshape(9, 2) ** 2, label=np.arange(9) % 2, fold=np.arange(9) % 3)
    features = features_from_maps(maps, "spatial", jobs=1)
    features.save(at("features.npz"))
    state = {f"layer.{i}.weight": np.arange(12, dtype=np.float32).reshape(3, 4) for i in range(3)}
    save_torch(state, at("torch.pth"))
    save_torch(state, at("legacy.pth"), legacy=True)
    safetensors.numpy.save_file(state, at("weights.safetensors"), metadata={"qwafer_training": "{}"})
    matrices = {"block2": (np.ones((6, 2), np.float32), np.ones((2, 3), np.float32))}
    seen = {part: np.arange(4, dtype=np.uint64) for part in ("train", "val")}
    Adapters("wafercnn", {"sha256": "0" * 64}, 8.0, matrices, seen).save(at("adapters.safetensors"))
    config = RunConfig(head=MlpOptions(hidden=4), training=TrainingConfig(epochs=2, max_doublings=0))
    run = train(config, features.task("any"), 0)
    assert run.predictor is not None
    run.predictor.save(at("predictor.npz"))
    few_bits = train(replace(config, head=QuantisedOptions(hidden=4)), features.task("any"), 0)
    assert few_bits.predictor is not None
    few_bits.predictor.save(at("packed.safetensors"), packed=True)
    Model.from_run(run, extractor("spatial")).save(at("model.safetensors"))
    run.save(at("run.json"))
    at("experiment.toml").write_text(EXPERIMENT)
    experiment = Experiment(
        name="probe", arms={"a": config, "b": replace(config, head=LinearOptions())}, baseline="a", seeds=(0, 1, 2)
    )
    claimed = folder / "claimed"
    OutputDirectory(claimed).claim(experiment, {})
    record = json.loads((claimed / "experiment.json").read_text())
    at("experiment.json").write_text(json.dumps({**record, "data": {arm: {} for arm in experiment.arms}}))
    reads = [{"name": "probe", "digest": "00", "runs": 3, "first": "2026-01-31", "directory": "a"}]
    at("ledger.json").write_text(json.dumps({"schema": Ledger.SCHEMA, "data": {"00ff": reads}}))
    at("manifest.json").write_text(canonical_json({"n_rows": 3, "record": {"backbone": "spatial"}}))
    at("options.txt").write_text("\0".join(OPTIONS))
    small = np.eye(3, dtype=np.float32)
    Review(True, (1.0, 2.0), (0.0, 0.0), 0.5, 3.0, small[0], small).save(at("review.safetensors"))
    at("gate.toml").write_text("accuracy = 0.9\nmacro_f1 = 0.8\n[classes]\nLoc = 0.5\n")
    row = (1.0, "W", "L", "1.0.0", "Loc", 0.5, 1.0, True, False, 2.0, b"", 3, 3, packed_map(small.astype(np.uint8)))
    store = Store(at("store.sqlite"))
    store.say(store.add([Stored(*row)] * 5)[0], "Loc")
    store.close()
    if HAS_ONNX:
        graph = Graph("corpus")
        x = graph.flat(graph.mean(graph.node("Transpose", "nchw", "images", perm=[0, 3, 1, 2])))
        graph.dense(x, "logits", {"kernel": np.ones((3, 2)), "bias": np.zeros(2)})
        said = {
            "backbone": "wafercnn",
            "channels": None,
            "exclusive": False,
            "labels": ["a", "b"],
            "thresholds": [0, 0],
        }
        shapes = ("images", ("batch", "height", "width", 3)), ("logits", ("batch", 2))
        save(graph.model(*shapes, **{RECORD: canonical_json(said)}), at("model.onnx"))


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a damaged variant of a file: of its bytes, or of what lies inside, with sums and lengths that fit."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kinds = [_flip, _flip, _truncate, _splice, _extreme]
        if content[:2] == b"PK":
            kinds += [_member] * 6
        elif content[8:9] == b"{":
            kinds += [_header] * 6
        elif content[:1] == b"\x80" or b"ctorch" in content:
            kinds += [_pickle] * 4
        elif content[:1] != b"\x93":
            kinds += [_text] * 8
        content = rng.choice(kinds)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _splice(content: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randint(0, len(content)) for _ in range(2))
    place = rng.randint(0, len(content))
    part = content[start : min(stop, start + 200)]
    return content[:place] + part * rng.choice((1, 2, 50)) + content[place + rng.choice((0, len(part))) :]


def _extreme(content: bytes, rng: random.Random) -> bytes:
    value = rng.choice((b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 8, b"\xff" * 4, b"\0\0\0\x7f", b"\0" * 7 + b"\x80"))
    place = rng.randint(0, len(content))
    return content[:place] + value + content[place + len(value) :]


def _text(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    numbers = [match.span() for match in re.finditer(r"\d+", text)]
    words = [match.span() for match in re.finditer(r'"[^"]*"|\w+', text)]
    value = rng.choice(
        (
            *("9" * 30, "9" * 400, "9" * 5000, "1e999", "-1", "NaN", "Infinity", "null", "true", "[]", "{}", '""'),
            *("[" * 3000, '{"a":' * 3000, "[" * 400 + "]" * 400, '"\\ud800"', '"\\u001b[2J"', "a." * 2000 + "b"),
            *("0", "4294967296", "1000000000000", "1.5", "'x'", "\x1b[31m"),
        )
    )
    spans = rng.choice((numbers, words)) or [(0, 0)]
    start, stop = rng.choice(spans)
    return (text[:start] + value + text[stop:]).encode("utf-8", "surrogateescape")


def _pickle(content: bytes, rng: random.Random) -> bytes:
    tuples = b")" + b"2\x86" * 60
    value = rng.choice((CANARY, tuples, tuples + b"Ns", b"}" + tuples + b"Ns", b"0", b"2", b"b", b"R", b"\x81", b"Q"))
    place = rng.randint(2, max(len(content), 2))
    return content[:place] + value + content[place + rng.choice((0, len(value))) :]


def _member(content: bytes, rng: random.Random) -> bytes:
    """Damage one member of an archive and write all with sums that fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
            kind = rng.choice((archive.infolist()[0].compress_type,) * 4 + (zipfile.ZIP_DEFLATED,))
    except Exception:
        return _flip(content, rng)
    if not members:
        return content
    name = rng.choice(list(members))
    inner = members[name]
    if inner[:6] == b"\x93NUMPY" and rng.random() < 0.7:
        length = struct.unpack("<H", inner[8:10])[0]
        said = rng.choice((_text, _flip, _dtype))(inner[10 : 10 + length], rng)
        data = inner[10 + length :]
        members[name] = inner[:8] + struct.pack("<H", len(said) & 0xFFFF) + said + data
        if name.startswith(("record", "provenance")):
            members[name] = inner[:10] + inner[10 : 10 + length] + _wide(data, rng)
    else:
        members[name] = (
            mutate(inner, rng) if inner[:1] == b"\x80" else rng.choice((_flip, _extreme, _truncate))(inner, rng)
        )
    if rng.random() < 0.1:
        members[rng.choice(("x.npy", name.replace(".npy", "/y.npy"), "params/z.npy"))] = inner
    if rng.random() < 0.1 and len(members) > 1:
        del members[rng.choice(list(members))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return buffer.getvalue()


def _wide(data: bytes, rng: random.Random) -> bytes:
    """Change a JSON text that is stored in four bytes a character; its length stays."""
    text = data.decode("utf-32-le", "replace")
    changed = _text(text.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return changed[: len(text)].ljust(len(text)).encode("utf-32-le", "replace")


def _dtype(header: bytes, rng: random.Random) -> bytes:
    descr = rng.choice(("|O", "<U999999999", "<c16", "|V8", ">f8", "<M8[s]", "|b1", "<f2", "<U0", "<i8", "|S3"))
    shape = rng.choice(
        ("()", "(0,)", "(-1,)", "(1000000000000,)", "(0, 1000000000000)", "(2, 2)", "(True,)", "((1,),)")
    )
    text = re.sub(rb"'descr': *'[^']*'", f"'descr': '{descr}'".encode(), header)
    return rng.choice((text, re.sub(rb"'shape': *\([^)]*\)", f"'shape': {shape}".encode(), text)))


def _header(content: bytes, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, with a length that fits."""
    length = struct.unpack("<Q", content[:8])[0]
    said, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.4:
        kind = rng.choice((b"F8_E4M3", b"F8_E5M2", b"BF16", b"F64", b"U8", b"BOOL", b"I64", b"F4", b"C64"))
        said = re.sub(rb'"dtype":"\w+"', b'"dtype":"' + kind + b'"', said, count=rng.choice((0, 1)))
    else:
        said = _text(said, rng)
    return struct.pack("<Q", len(said)) + said + data
