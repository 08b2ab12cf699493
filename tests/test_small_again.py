"""Small heads, attacked by one who had not written them: what was found, red before it was mended."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from qwafer import FeatureSet, InputError, engines
from qwafer.circuits.function_options import FunctionOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.data import Roles, read_audio
from qwafer.data._frame import frame_columns
from qwafer.data._unpickle import load_records
from qwafer.heads import LinearOptions, MixtureOptions, QuantisedOptions, QuantumOptions, predict_logits
from qwafer.heads._base import head_inputs
from qwafer.source import features_from_table
from qwafer.studies import router_doubt
from qwafer.training import Predictor, make_head, make_program, train
from tests.factories import feature_set, training_options

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
import small

CIRCUITS = """
import pennylane as qml

def body(weights, x, theta):
    qml.RY(x[0], wires=0)
    qml.RY(x[1], wires=1)
    theta(weights["theta"])
    qml.CNOT(wires=[0, 1])

def whole(weights, x):
    body(weights, x, lambda t: (qml.RX(2 * t[0], wires=0), qml.RZ(t[1], wires=1)))

def half(weights, x):
    body(weights, x, lambda t: (qml.RX(t[0] / 2, wires=0), qml.RZ(t[1], wires=1)))

def controlled(weights, x):
    body(weights, x, lambda t: (qml.CRX(t[0], wires=[0, 1]), qml.RZ(t[1], wires=1)))

def product(weights, x):
    body(weights, x, lambda t: (qml.RX(t[0] * x[0], wires=0), qml.RZ(t[1], wires=1)))

def inputs(weights, x):
    body(weights, x, lambda t: (qml.RX(x[0] / 3, wires=0), qml.RZ(t[1], wires=1)))
"""


@pytest.mark.parametrize("name", ["whole", "half", "controlled", "product", "inputs"])
def test_a_register_of_k_bits_holds_angles_alone(name, tmp_path):
    """The register of an angle forgets whole turns: a head that is packed would compute something else where the
    values do not have the period of the register.
    """
    (tmp_path / "circuits.py").write_text(CIRCUITS)
    data = feature_set(40, 5, 2)
    config = RunConfig(
        data=DataConfig(task="multilabel"),
        head=QuantumOptions(angle_bits=6, init_scale=4.0),
        circuit=FunctionOptions(function=f"{tmp_path / 'circuits.py'}:{name}", n_inputs=2, weights="theta=2"),
        engine=engines.get("xla"),
        training=training_options(epochs=1),
    )
    if name != "whole":
        with pytest.raises(InputError, match=r"`head\.angle_bits` .* (theta|inputs) "):
            make_head(config, data.features, 2, 0)
        return
    head, program = make_head(config, data.features, 2, 0), make_program(config, 2, 40)
    assert np.abs(head.params["circuit.theta"]).max() > np.pi
    packed, trained = (predict_logits(one, data.features, program, 40) for one in (head.packed(), head))
    np.testing.assert_allclose(packed, trained, atol=1e-4)


def test_doubt_is_of_examples_that_were_not_trained_on(tmp_path):
    """Another set of examples gives another split, whose test part was trained on."""
    data = feature_set(300, 6, 2)
    options = MixtureOptions(experts=("4",), top_k=1, router_dropout=0.3)
    predictor = train(RunConfig(head=options, training=training_options(epochs=1)), data, 0).predictor
    predictor.save(tmp_path / "packed", packed=True)
    predictor.save(tmp_path / "head.npz")
    renamed = dataclasses.replace(data, content_ids=np.array([f"{i:016x}" for i in range(1, 301)]))
    for one in (predictor, Predictor.load(tmp_path / "packed"), Predictor.load(tmp_path / "head.npz")):
        assert one.split == predictor.split
        for other in (data.take(np.arange(0, 300, 2)), renamed):
            with pytest.raises(InputError, match="do not give the split under which the head was trained"):
                router_doubt(one, other, n_samples=2, n_resamples=2)
    older = dataclasses.replace(predictor, split="")  # of a file that does not say
    with pytest.raises(InputError, match="do not give the split"):
        router_doubt(older, data.take(np.arange(0, 300, 2)), n_samples=2, n_resamples=2)


def test_a_copy_of_one_of_several_labels_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 60))
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(60, 3)), a=a, b=b, copied=1 - b)
    with pytest.raises(InputError, match="the column copied is the label"):
        features_from_table(tmp_path / "t.npz", Roles(labels=("a", "b")))
    found = features_from_table(tmp_path / "t.npz", Roles(labels=("a", "b"), drop=("copied",)))
    assert isinstance(found, FeatureSet)
    assert found.features.shape == (60, 3)


@pytest.mark.parametrize("role", ["fold", "group", "id"])
def test_a_row_without_its_fold_is_no_fold_of_its_own(role, tmp_path):
    rows = [f"{i / 7 % 1:.5f},{'pq'[i * i % 7 % 2]},{'' if i == 3 else i % 5}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join([f"x,label,{role}", *rows]))
    with pytest.raises(InputError, match=rf"row 4 of the data has no {role} \(column {role} is empty there\)"):
        features_from_table(tmp_path / "t.csv", Roles(id="id" if role == "id" else None))


def test_a_clip_without_its_fold_is_no_fold_of_its_own(tmp_path):
    (tmp_path / "meta").mkdir()
    rows = [f"{i}.wav,{i % 3 or ''},{'ab'[i % 2]},{i}" for i in range(1, 9)]
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(["filename,fold,category,src_file", *rows]))
    with pytest.raises(InputError, match="row 3 of the data has no fold"):
        read_audio(tmp_path)


@pytest.mark.parametrize(
    "options", [QuantisedOptions(precision="qesc"), MixtureOptions(experts=("1", "qesc"), top_k=1)]
)
def test_no_examples_have_no_logits(options):
    head = options.make(head_inputs(np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32), 2, 0))
    for one in (head, head.packed()):
        assert one.logits(np.zeros((0, 5), np.float32), None).shape == (0, 2)


def test_an_example_of_zeros_and_one_of_large_numbers_have_a_length_in_a_compiled_program_too():
    """(x / a) / b is compiled as x / (a b), and the product of two lengths may be 0 or beyond float32."""
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    x[0], x[1], x[2], x[3] = 0, 3e38, 1e-30, -2e-38
    head = LinearOptions(normalize="l2").make(head_inputs(x, 2, 0, normalize="l2"))
    found = jax.jit(lambda head, x: head.standardized(x))(head, x)
    wide = x.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wide / np.where(lengths == 0, 1, lengths), rtol=1e-6)
    data = feature_set(80, 5, 2)
    data = dataclasses.replace(data, features=np.where(np.arange(80)[:, None] == 7, np.float32(0), data.features))
    run = train(RunConfig(head=LinearOptions(normalize="l2"), training=training_options(epochs=1)), data, 0)
    assert np.isfinite(run.curves["train_loss"]).all()
    assert np.isfinite(run.predictor.logits(np.zeros((1, 5)))).all()


def test_a_file_without_a_threshold_is_refused(tmp_path):
    """No logit exceeds NaN: every example would have no defect."""
    options = RunConfig(head=LinearOptions(), training=training_options(epochs=1))
    predictor = dataclasses.replace(train(options, feature_set(80, 5, 2), 0).predictor, thresholds=(0.5, float("nan")))
    for packed in (False, True):
        predictor.save(tmp_path / "head", packed=packed)
        with pytest.raises(InputError, match="`thresholds` must be a list of one finite number per label"):
            Predictor.load(tmp_path / "head")


def test_intervals_of_rivals_that_the_means_have_picked_hold_together():
    """Twenty equal heads: in at most a twentieth of all pages any interval excludes 0, though each rival is the best
    of those that it was chosen from.
    """
    rng, wrong, n_pages = np.random.default_rng(0), 0, 200
    for _ in range(n_pages):
        values = rng.normal(0.97, 0.01, (20, 8))
        heads = [
            small.SmallHead(f"h{i}", "mlp", 1, 1000 + i, dict(enumerate(row)), 1.0, 1.0, 0)
            for i, row in enumerate(values)
        ]
        found = [head.difference for head in small.judged(heads) if head.difference is not None]
        wrong += any(low > 0 or high < 0 for _, low, high in found)
    assert wrong / n_pages <= 0.05


def test_heads_that_have_not_converged_are_marked():
    """No interval stands where the library itself would give no verdict."""
    made = [
        small.SmallHead(
            name, "mlp", 1, bits, {s: 0.9 + (bits + 10 * s * (bits % 7)) / 1e5 for s in range(8)}, 1, 1, late
        )
        for name, bits, late in (("a", 1001, 0), ("b", 2002, 6), ("c", 3005, 2))
    ]
    page = small.SmallPage("0" * 16, 10, 2, tuple(range(8)), 8, small.judged(made))
    rows = {line.split("`")[1]: line for line in small.table(page).splitlines() if "| mlp |" in line}
    assert "†" not in rows["a"]
    assert "`b`† " in rows["b"].replace("*", "")
    assert "[" not in rows["b"]
    assert "`c`†" not in rows["c"].replace("*", "")
    assert "[" not in rows["c"], "its rival has not converged"
    assert "not converged: `b` 6, `c` 2. †" in small.table(page)
    assert "†" not in small.table(dataclasses.replace(page, heads=small.judged([made[0], made[2]])))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_texts_that_pyarrow_holds_are_read_from_a_pickle(protocol, tmp_path):
    """With pyarrow installed, for Parquet, pandas keeps texts in its arrays: pickled tables of maps were refused."""
    pytest.importorskip("pyarrow")
    kind = pd.StringDtype("pyarrow", na_value=np.nan)
    texts = pd.array(["none", "Loc", None, "", "Kante ä", "x" * 300] * 3, dtype=kind)
    frame = pd.DataFrame({"a": texts, "b": texts[::-1]}).iloc[3:16]
    frame.to_pickle(tmp_path / "f.pkl", protocol=protocol)
    found = frame_columns(load_records(tmp_path / "f.pkl"))
    for name in ("a", "b"):
        assert [None if x != x else x for x in found[name]] == [None if x != x else x for x in frame[name]]
    content = (tmp_path / "f.pkl").read_bytes()
    for old, new in ((b"large_string", b"large_binary"), ("ä".encode(), b"\xff\xff")):
        if old in content:
            (tmp_path / "f.pkl").write_bytes(content.replace(old, new))
            with pytest.raises(InputError, match="array of text"):
                frame_columns(load_records(tmp_path / "f.pkl"))
