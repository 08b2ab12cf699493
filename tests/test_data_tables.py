"""Tables of embeddings: CSV, NPZ and Parquet give one feature set; what would fool its user is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qwafer import FeatureSet, InputError, RunConfig, train
from qwafer._errors import CapabilityError
from qwafer.cli.extract import main as extract
from qwafer.config import DataConfig
from qwafer.data import Roles, read_table
from qwafer.source import features_from_table
from tests.factories import head_options, training_options
from tests.test_data_edge_iiot import README_COLUMNS

RNG = np.random.default_rng(0)
N = 60
FRAME = pd.DataFrame(
    {
        "e0": RNG.normal(size=N).round(6),
        "e1": RNG.integers(-5, 5, N),
        "kind": np.array(["none", "drill", "NA"])[np.arange(N) % 3],
        "fold": 1 + np.arange(N) // 12,
        "clip": np.arange(N) // 2,
        "day": np.arange(N) / 7,
    }
)
ROLES = Roles(labels=("kind",), group="clip", time="day")


def written(path: Path, frame: pd.DataFrame = FRAME) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet is read with pyarrow (qwafer[parquet])")
        frame.to_parquet(path)
    else:
        np.savez(path, **{name: np.asarray(column.tolist()) for name, column in frame.items()})
    return path


def check(found: FeatureSet) -> None:
    np.testing.assert_array_equal(found.features, FRAME[["e0", "e1"]].to_numpy(np.float32))
    assert found.feature_names == ("e0", "e1")
    assert found.label_names == ("NA", "drill", "none")
    assert found.exclusive
    np.testing.assert_array_equal(
        found.labels.argmax(axis=1), [("NA", "drill", "none").index(k) for k in FRAME["kind"]]
    )
    np.testing.assert_array_equal(found.folds, FRAME["fold"].astype(str))
    np.testing.assert_array_equal(found.groups, FRAME["clip"].astype(str))
    np.testing.assert_array_equal(found.times, FRAME["day"])
    assert found.provenance["data"]["roles"]["fold"] == "fold"


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_a_table_becomes_a_feature_set(kind, tmp_path):
    found = features_from_table(written(tmp_path / f"t.{kind}"), ROLES)
    check(found)
    found.save(tmp_path / "f.npz")
    assert FeatureSet.load(tmp_path / "f.npz").digest() == found.digest()


def test_arrays_of_several_columns_and_several_labels(tmp_path):
    x, y = RNG.normal(size=(N, 8)), RNG.integers(0, 2, (N, 3))
    np.savez(tmp_path / "t.npz", X=x, y=y)
    found = features_from_table(tmp_path / "t.npz", Roles(labels=("y",)), "clap, 2024")
    np.testing.assert_allclose(found.features, x.astype(np.float32))
    assert found.feature_names[-1] == "X_7"
    assert found.label_names == ("label_0", "label_1", "label_2")
    assert found.provenance["backbone"] == "clap, 2024"
    frame = pd.DataFrame({**{f"x{j}": x[:, j] for j in range(8)}, **{name: y[:, k] for k, name in enumerate("abc")}})
    several = features_from_table(written(tmp_path / "t.csv", frame), Roles(labels=("a", "b", "c")))
    assert several.label_names == ("a", "b", "c")
    np.testing.assert_array_equal(several.labels, y)
    assert not several.exclusive
    one = features_from_table(written(tmp_path / "o.csv", frame), Roles(labels=("a",), drop=("b", "c")))
    assert one.label_names == ("a",)


def test_a_column_of_lists_in_parquet(tmp_path):
    frame = pd.DataFrame({"v": [row.tolist() for row in RNG.normal(size=(N, 4))], "label": np.arange(N) % 2})
    found = features_from_table(written(tmp_path / "t.parquet", frame))
    assert found.features.shape == (N, 4)
    assert found.feature_names[0] == "v_0"
    frame["v"] = [[1.0] * (1 + i % 2) for i in range(N)]
    with pytest.raises(InputError, match="the lists of column v must have one length"):
        read_table(written(tmp_path / "u.parquet", frame))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import sys

    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(100))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CapabilityError, match=r"install qwafer\[parquet\]"):
        read_table(tmp_path / "t.parquet")


def changed(**columns) -> pd.DataFrame:
    return FRAME.assign(**columns)


BAD = {
    "no label": (FRAME.drop(columns="kind"), "has no column kind"),
    "text as a feature": (changed(e0="a b"), "the column e0 is not of numbers (it holds 'a b')"),
    "a hole": (changed(e0=FRAME["e0"].astype(object).where(FRAME.index != 7, "")), "the column e0 is not of numbers"),
    "nan": (changed(e0=FRAME["e0"].astype(object).where(FRAME.index != 7, "nan")), "e0"),
    "infinite": (changed(e0=FRAME["e0"].where(FRAME.index != 7, np.inf)), "e0 must be finite; row 8 of the data"),
    "an empty label": (changed(kind=FRAME["kind"].where(FRAME.index != 3, "")), "row 4 of the data has no label"),
    "no rows": (FRAME[:0], "no rows"),
    "the label again": (
        changed(target=np.array([7, 1, 4])[np.arange(N) % 3]),
        "the column target is the label in other",
    ),
    "row numbers": (changed(row=np.arange(N) + 100), "the column row numbers the rows"),
    "no features": (FRAME.drop(columns=["e0", "e1"]), "no column that is a feature"),
    "a time that is text": (changed(day="monday"), "`times`"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_in_one_sentence(case, tmp_path, capsys):
    frame, says = BAD[case]
    path = written(tmp_path / "t.csv", frame)
    roles = ["--label", "kind", "--group", "clip", "--time", "day"]
    assert extract(["--table", str(path), *roles, "--out", str(tmp_path / "f.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "f.npz").exists()


RAW = {
    "an index": (",e0,label\n0,1.5,a\n1,2.5,b\n", "column 1 has no name"),
    "a name twice": ("e0,e0,label\n1,2,a\n3,4,b\n", "the name e0 stands above more than one column"),
    "a long row": ("e0,label\n1.5,a\n2.5,b,c\n", "is not a whole table"),
    "long rows": ("e0,label\n1.5,a,x\n2.5,b,y\n", "more entries than its header"),
    "a short row": ("label,e0\na,1.5\nb\n", "e0"),
    "nothing": ("\n", "has no columns"),
    "bytes": ("e0\0,label\n", "is not a table"),
    "no file": (None, "does not exist"),
    "an empty file": ("", "is empty"),
}


@pytest.mark.parametrize("case", RAW)
def test_broken_files_are_refused_in_one_sentence(case, tmp_path, capsys):
    text, says = RAW[case]
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    assert extract(["--table", str(tmp_path / "t.csv"), "--out", str(tmp_path / "f.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ({"labels": ("king",)}, "has no column king; did you mean `kind`?"),
        ({"labels": ("kind",), "drop": ("kind",)}, "kind is named for two purposes"),
        ({"labels": ()}, "name at least one column of labels"),
        ({"labels": ("kind", "e0")}, "t.csv: `labels` of shape (N, K) must be 0 or 1"),
    ],
)
def test_roles_that_do_not_fit_are_refused(roles, says, tmp_path):
    with pytest.raises(InputError, match=re.escape(says)):
        features_from_table(written(tmp_path / "t.csv"), Roles(**roles))
    np.savez(tmp_path / "u.npz", a=np.zeros(3), label=np.zeros(4))
    with pytest.raises(InputError, match="must have one length"):
        read_table(tmp_path / "u.npz")


def test_the_verb_says_which_column_is_what_and_refuses_options_without_effect(tmp_path, capsys):
    path, out = written(tmp_path / "t.csv"), tmp_path / "f.npz"
    arguments = ["--table", str(path), "--label", "kind", "--group", "clip", "--drop", "day", "--out", str(out)]
    assert extract(arguments) == 0
    assert "60 rows; 2 features, 3 labels of kind, fold of fold, group of clip" in capsys.readouterr().out
    assert extract(arguments) == 0
    assert "is complete" in capsys.readouterr().out
    for option in (["--backbone", "spatial"], ["--seed", "0"], ["--jobs", "2"]):
        assert extract([*arguments, *option]) == 2
        assert f"{option[0]} has no effect with --table" in capsys.readouterr().err
    assert extract(["--maps", "synthetic", "--label", "kind", "--out", str(out)]) == 2
    assert "--label has no effect with --maps" in capsys.readouterr().err
    run = train(
        RunConfig(
            data=DataConfig(split_by="fold"),
            head=head_options("linear", normalize="min_max"),
            training=training_options(epochs=1),
        ),
        FeatureSet.load(out),
        0,
    )
    assert set(FeatureSet.load(out).folds[run.rows["test"]]) == {"1"}


def test_a_head_refuses_a_table_of_other_columns(tmp_path):
    first = features_from_table(written(tmp_path / "a.csv"), ROLES)
    other = features_from_table(written(tmp_path / "b.csv", FRAME.rename(columns={"e1": "e2"})), ROLES)
    run = train(RunConfig(head=head_options("linear"), training=training_options(epochs=1)), first, 0)
    with pytest.raises(InputError, match="columns"):
        run.predictor.logits(other)


def test_edge_iiot_goes_the_same_way(tmp_path, capsys):
    names = README_COLUMNS.split()
    rows = [",".join(str(i % 2) if name == "Attack_label" else str(i) for name in names) for i in range(40)]
    (tmp_path / "e.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    for source, out in (("--table", "t.npz"), ("--maps", "m.npz")):
        assert extract([source, str(tmp_path / "e.csv"), "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "t.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()
    capsys.readouterr()
    assert extract(["--table", str(tmp_path / "e.csv"), "--drop", "x", "--out", str(tmp_path / "t.npz")]) == 2
    assert "whose columns have their roles" in capsys.readouterr().err
    shutil.copy(written(tmp_path / "t.csv"), tmp_path / "own.csv")
    assert extract(["--maps", str(tmp_path / "own.csv"), "--out", str(tmp_path / "o.npz")]) == 2
    assert "extract --table" in capsys.readouterr().err
