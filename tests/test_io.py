"""Files are whole or absent; digests and keys depend on content and names alone."""

import json
import math
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwafer._io import atomic_path, canonical_json, digest, file_sha256, jsonable, key_seed, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "result.json"
    write_text(target, "old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_has_ordinary_permissions(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": np.float32(1.5), "b": [math.nan, np.inf], "c": np.arange(2), 3: None})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1.5, "b": [None, None], "c": [0, 1], "3": None}


def test_json_refuses_what_it_cannot_hold():
    with pytest.raises(TypeError, match="must be JSON data"):
        jsonable({"a": object()})


@given(st.dictionaries(st.text(), st.integers()))
def test_canonical_json_does_not_depend_on_order(value):
    assert canonical_json(value) == canonical_json(dict(reversed(list(value.items()))))


def test_a_digest_sees_dtype_shape_and_content():
    base = np.arange(6, dtype=np.int32)
    others = [base.astype(np.int64), base.reshape(2, 3), base + 1, base[:5]]
    assert len({digest(array) for array in [base, *others]}) == 5
    assert digest(base.reshape(2, 3).T) == digest(np.ascontiguousarray(base.reshape(2, 3).T))
    assert digest("ab", "c") != digest("a", "bc")


def test_file_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_key_seeds_differ_by_seed_and_name():
    seeds = {key_seed(seed, name) for seed in range(50) for name in ("split", "ansatz", "readout")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**32 for seed in seeds)
