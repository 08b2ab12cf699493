"""Files of heads of one's own: what a file would not give back is refused, what it says is checked."""

import dataclasses
import json
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError
from qwafer.config import RunConfig, TrainingConfig
from qwafer.features import FeatureSet
from qwafer.heads import LOOP, Head, HeadInputs
from qwafer.training import Predictor, RunResult, train


class Centred(Head):
    """Squared distances to centres; `extra` and `table` may hold more."""

    extra: Any = eqx.field(static=True)
    table: Any = None

    def logits(self, features, program, *, key=None, train=False):
        x = self.standardized(features)
        gaps = ((x[:, None, :] - self.buffers["centres"][None]) ** 2).mean(axis=-1)
        return gaps @ self.params["projection.weight"]


@dataclasses.dataclass(frozen=True)
class Centres:
    """Eight training rows as centres."""

    keeps: str = "nothing"
    sections: ClassVar[tuple[str, ...]] = LOOP

    def make(self, inputs: HeadInputs) -> Head:
        rows = inputs.standardized()
        chosen = np.random.default_rng(inputs.seed).choice(len(rows), 8, replace=False)
        if self.keeps == "zero division" and not rows.any():
            raise ZeroDivisionError("no spread")
        extra = {
            "static": float(rows[0, 0]),
            "seed": inputs.seed,
            "nested": (1, ("a", tuple(rows[0].tolist()))),
        }
        n = 8 + (self.keeps == "shape" and bool(rows.any()))
        return Centred(
            {"projection.weight": jnp.zeros((8, inputs.n_labels), inputs.dtype)},
            {**inputs.buffers, "centres": jnp.asarray(rows[chosen], inputs.dtype), "more": jnp.zeros(n)},
            inputs.n_labels,
            inputs.dtype,
            extra.get(self.keeps),
            jnp.asarray(rows[0]) if self.keeps == "array" else jnp.arange(2) if self.keeps == "constant" else None,
        )


def features() -> FeatureSet:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    return FeatureSet(x, (x[:, :2] > 0.2).astype(np.uint8), ("a", "b"), np.array([f"m{i}" for i in range(60)]), {})


def run(keeps: str = "nothing") -> RunResult:
    config = RunConfig(head=Centres(keeps), training=TrainingConfig(epochs=1, batch_size=20))
    return train(config, features(), seed=3)


def edited(path, **changes):
    with np.load(path) as archive:
        arrays = dict(archive)
    record = json.loads(arrays.pop("record").item()) | changes
    target = path.with_name("edited.npz")
    np.savez(target, record=np.array(json.dumps(record)), **arrays)
    return target


@pytest.mark.parametrize("keeps", ["nothing", "constant"])
def test_buffers_drawn_from_training_rows_survive_the_file(keeps, tmp_path):
    predictor = run(keeps).predictor
    predictor.save(tmp_path / "h.npz")
    loaded = Predictor.load(tmp_path / "h.npz")
    x = features().features
    np.testing.assert_array_equal(loaded.logits(x), predictor.logits(x))
    assert loaded.n_train == predictor.n_train
    loaded.save(tmp_path / "again.npz")


@pytest.mark.parametrize(
    ("keeps", "name"), [("static", "extra"), ("seed", "extra"), ("nested", "extra"), ("array", "table")]
)
def test_state_that_the_file_would_lose_is_refused(keeps, name, tmp_path):
    with pytest.raises(InputError, match=f"Centres keeps `{name}` outside of `params` and `buffers`"):
        run(keeps).predictor.save(tmp_path / "h.npz")
    assert not (tmp_path / "h.npz").exists()


def test_shapes_that_only_the_data_tell_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"`buffers` more: \(9,\), and \(8,\)"):
        run("shape").predictor.save(tmp_path / "h.npz")


def test_a_head_that_cannot_be_made_blank_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be made from blank features.*ZeroDivisionError: no spread"):
        run("zero division").predictor.save(tmp_path / "h.npz")


def test_an_edited_record_is_refused(tmp_path):
    path = tmp_path / "h.npz"
    run().predictor.save(path)
    changes: list[dict[str, Any]] = [
        *({name: value} for name in ("n_features", "n_train", "seed") for value in ("x", None, -1, 2.5)),
        *({"thresholds": value} for value in (None, 3, [1.0], ["x", 1.0], [None, 1.0])),
        *({"label_names": value} for value in (3, None, [], "ab", [1, 2])),
        *({"config": value} for value in (3, None, [])),
        {"n_features": 5},
    ]
    for change in changes:
        with pytest.raises(InputError, match="is not a saved predictor"):
            Predictor.load(edited(path, **change))
    with pytest.raises(InputError, match="cannot be made from blank features"):
        Predictor.load(edited(path, n_train=2))


def test_another_number_of_features_is_refused():
    predictor = run().predictor
    with pytest.raises(InputError, match="trained on 4 features for each example, got 3 features"):
        predictor.logits(np.zeros((5, 3), np.float32))
    with pytest.raises(InputError, match=r"trained on 4 features for each example, got an array of shape \(4,\)"):
        predictor.logits(np.zeros(4, np.float32))


def test_damaged_outputs_beside_a_result_are_refused(tmp_path):
    path = tmp_path / "seed-0.json"
    run().save(path)
    beside = path.with_suffix(".npz")
    whole = beside.read_bytes()
    assert RunResult.load(path).outputs
    flipped = bytearray(whole)
    flipped[100] ^= 1
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    for content in (
        b"",
        b"junk",
        whole[:10],
        whole[: len(whole) // 2],
        whole[:-1],
        bytes(flipped),
        single.read_bytes(),
    ):
        beside.write_bytes(content)
        with pytest.raises(InputError, match=r"seed-0\.npz is damaged"):
            RunResult.load(path)
