"""A model that halts, from `Model.predict` to the answers of the service: steps of each map, computed no further."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")

import qwafer
from qwafer import Model
from qwafer.config import DataConfig, RunConfig
from qwafer.data import synthetic_maps
from qwafer.networks import halting
from qwafer.networks.options import TrmOptions
from qwafer.serving.answering import Answering
from qwafer.serving.evidence import assess
from qwafer.serving.release import Release
from tests.factories import training_options
from tests.serving_factory import made_registry, made_release, request_of, running

MAPS = synthetic_maps(90, seed=4)
SHAPE = {
    "size": 26,
    "patch": 2,
    "halt_bias": -3.0,
    "width": 8,
    "recursions": 2,
    "layers": 1,
    "supervision_steps": 4,
    "augment": "none",
}


def with_halting(model: Model, **options: Any) -> Model:
    """Return the model with other options of evaluation."""
    head = model.head
    changed = dataclasses.replace(head.config.head, **options)
    config = dataclasses.replace(head.config, head=changed)
    network = dataclasses.replace(head.head, options=changed)
    return dataclasses.replace(model, head=dataclasses.replace(head, config=config, head=network))


@pytest.fixture(scope="module")
def trained() -> Model:
    """A recursive network that takes all of its four steps."""
    features = qwafer.features_from_maps(MAPS, "dies_26")
    config = RunConfig(
        head=TrmOptions(**SHAPE),
        data=DataConfig(task="multilabel", backbone="dies_26"),
        training=training_options(epochs=2, batch_size=16, learning_rate=0.01),
    )
    return Model.from_run(qwafer.train(config, features, seed=0), features.provenance)


@pytest.fixture(scope="module")
def halts(trained: Model) -> Model:
    """The same, halting where half of the maps do after their first step."""
    network, params = trained.head.head.options.architecture(), trained.head.head.trees()[0]
    _, halt = halting._trajectory(network, params, network.codes(list(MAPS.maps)))
    first = np.sort(1 / (1 + np.exp(-halt[0].astype(np.float64))))
    return with_halting(trained, halt_threshold=float(first[44] + first[45]) / 2)


@pytest.fixture
def advanced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of maps of every call of a step, and -1 for each map that is answered alone."""
    calls: list[int] = []
    advance, one = halting._advance, halting._one
    monkeypatch.setattr(halting, "_advance", lambda n, p, state: calls.append(state.y.shape[1]) or advance(n, p, state))
    monkeypatch.setattr(halting, "_one", lambda *given: calls.append(-1) or one(*given))
    return calls


def test_a_model_says_the_steps_of_each_map_and_computes_no_more(
    trained: Model, halts: Model, advanced: list[int]
) -> None:
    found = halts.predict(MAPS)
    assert found.steps_used is not None
    assert found.steps_used.min() == 1
    assert found.steps_used.max() > 1
    assert sum(advanced) < 90 * 4, "some steps were spared"
    assert found.steps_used.sum() <= sum(advanced) <= found.steps_used.sum() + 4 * 32, "but for what pads a batch"
    advanced.clear()
    alone = [halts.predict([one]) for one in MAPS.maps[:6]]
    assert advanced == [-1] * 6
    np.testing.assert_allclose(np.concatenate([one.logits for one in alone]), found.logits[:6], rtol=1e-4, atol=1e-5)
    assert [int(one.steps_used[0]) for one in alone if one.steps_used is not None] == found.steps_used[:6].tolist()
    full = halts.head.logits(qwafer.features_from_maps(MAPS, "dies_26"))
    np.testing.assert_allclose(found.logits, full, rtol=1e-4, atol=1e-5)
    assert trained.predict(MAPS).steps_used is None
    assert with_halting(trained, halt_threshold=0.0).predict(MAPS).steps_used.tolist() == [1] * 90  # type: ignore[union-attr]


def test_averaging_over_symmetries_halts_form_by_form(halts: Model) -> None:
    averaged = with_halting(halts, tta=True)
    some = list(halts.head.head.options.architecture().codes(list(MAPS.maps[:5])))  # which no form resamples
    found = averaged.predict(some)
    assert found.steps_used is not None
    turned = [halts.predict([form(one) for form in FORMS]) for one in some]
    np.testing.assert_allclose(found.logits, [each.logits.mean(axis=0) for each in turned], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.steps_used, [np.sum(each.steps_used) for each in turned])


FORMS = [
    lambda one, k=k, flip=flip: np.ascontiguousarray(np.fliplr(np.rot90(one, k)) if flip else np.rot90(one, k))
    for flip in (False, True)
    for k in range(4)
]


def test_the_service_answers_with_the_steps_of_each_map(halts: Model, tmp_path: Path) -> None:
    release = Release(halts, *assess(halts, MAPS))
    wanted = halts.predict(MAPS.maps[:12]).steps_used
    assert wanted is not None
    assert len(set(wanted.tolist())) > 1
    with running(made_registry(tmp_path / "line", release, "1.0.0")) as client:
        for row in range(4):
            status, said = client("POST", "/classify", request_of(MAPS.maps[row]))
            assert (status, said["recursion_steps_used"]) == (200, wanted[row])
        body = {"wafers": [request_of(one, f"W{i}") for i, one in enumerate(MAPS.maps[:12])]}
        _, several = client("POST", "/classify", body)
        assert [answer["recursion_steps_used"] for answer in several["answers"]] == wanted.tolist()
        _, about = client("GET", "/v2/models/qwafer")
        assert {"name": "recursion_steps_used", "datatype": "INT64", "shape": [-1]} in about["outputs"]
        some = MAPS.maps[:3]
        data = {"name": "maps", "shape": list(some.shape), "datatype": "UINT8", "data": some.ravel().tolist()}
        _, found = client("POST", "/v2/models/qwafer/infer", {"inputs": [data]})
        outputs = {output["name"]: output["data"] for output in found["outputs"]}
        assert outputs["recursion_steps_used"] == wanted[:3].tolist()
        assert set(outputs) == {output["name"] for output in about["outputs"]}


def test_a_warm_service_compiles_nothing_for_any_number_of_maps(halts: Model) -> None:
    answering = Answering(Release(halts, *assess(halts, MAPS))).warm()
    programs = (halting._begin, halting._advance, halting._one)
    before = [program._cache_size() for program in programs]
    for n in (1, 2, 3, 7, 33, 64):
        assert answering(list(MAPS.maps[:n])).steps_used is not None
    assert [program._cache_size() for program in programs] == before


def test_a_model_that_does_not_halt_says_nothing_of_steps(tmp_path: Path) -> None:
    with running(made_registry(tmp_path / "line", made_release(), "1.0.0")) as client:
        _, said = client("POST", "/classify", request_of(MAPS.maps[0]))
        assert "recursion_steps_used" not in said
        _, about = client("GET", "/v2/models/qwafer")
        assert [output["name"] for output in about["outputs"]] == ["probabilities", "labels", "review", "confidence"]
