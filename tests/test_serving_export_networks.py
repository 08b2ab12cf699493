"""Networks on the dies as exported files, and what is refused of networks and adapters, in one sentence each."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwafer
from qwafer import CapabilityError, Model
from qwafer.backbones import extractor, features_from_maps
from qwafer.config import DataConfig, RunConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.export import main
from qwafer.heads import LinearOptions
from qwafer.networks.lora import LoraOptions
from qwafer.networks.options import TrmOptions, WaferCnnOptions, WaferResNetOptions
from qwafer.serving.evidence import Evidence, assess
from qwafer.serving.export import TOLERANCE, Exported, export_model, int8_model
from qwafer.serving.function import check_exportable
from qwafer.serving.review import fit_review
from qwafer.training import Predictor, make_head
from tests.factories import training_options

MAPS = synthetic_maps(40, seed=3)
SMALL = {"size": 26, "patch": 2, "width": 8, "layers": 1, "recursions": 1, "supervision_steps": 2, "halt_bias": -3.0}
HEADS: dict[str, Any] = {
    "trm": TrmOptions(**SMALL, halt_threshold=0.0474, tta=True),
    "wafercnn": WaferCnnOptions(),
    "waferresnet": WaferResNetOptions(width=4),
}
CUT = "wafercnn@block2"


def trained(head: Any, backbone: str, **options: Any) -> Model:
    made = extractor(backbone, **options)
    data = DataConfig(task="multilabel", backbone=backbone)
    config = RunConfig(head=head, data=data, training=training_options(epochs=1, batch_size=20))
    return Model.from_run(qwafer.train(config, features_from_maps(MAPS, made), seed=0), made)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """The evidence of another model, for manifests that need some."""
    return assess(trained(LinearOptions(), "spatial"), MAPS)[1]


def untrained(name: str) -> Model:
    """A network with its initial weights, some of which halt after the first step and some after the second."""
    made, head = extractor(HEADS[name].backbone), HEADS[name]
    features = features_from_maps(MAPS, made).features
    config = RunConfig(head=head, data=DataConfig(task="multilabel", backbone=made.name))
    network = make_head(config, features, len(MAPS.label_names), 0)
    if "projection.halt.kernel" in network.params:
        kernel = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
        network = network.with_parameters({**network.params, "projection.halt.kernel": kernel})
    cuts = tuple(np.linspace(-0.3, 0.3, len(MAPS.label_names)).tolist())
    return Model(made, Predictor(config, network, MAPS.label_names, cuts, features.shape[1], len(MAPS)), {})


@pytest.mark.parametrize("name", ["trm", "waferresnet", pytest.param("wafercnn", marks=pytest.mark.slow)])
def test_a_network_on_the_dies_is_a_file_of_stablehlo(name: str, evidence: Evidence, tmp_path: Path) -> None:
    model = untrained(name)
    features = features_from_maps(MAPS, model.backbone).features
    logits = model.head.logits(features[:12], batch=12)
    review = fit_review(features, features[:12], logits, MAPS.labels[:12], model.head.thresholds, exclusive=False)
    with pytest.raises(CapabilityError, match=f"head {name} is a network, which ONNX files do not hold"):
        export_model(model, review, evidence, MAPS, tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    manifest = export_model(model, review, evidence, MAPS.maps[:12], tmp_path / "model.bin", "stablehlo")
    assert manifest.verification.largest <= TOLERANCE
    assert manifest.verification.n_maps == 12
    assert manifest.platforms == ("cpu", "cuda")
    ragged = [MAPS.maps[0], MAPS.maps[1, :30, :41]]
    p, labels, flags = Exported.load(tmp_path / "model.bin").predict(ragged)
    dies = features_from_maps(WaferMaps.from_arrays(ragged), model.backbone).features
    wanted = review.answers(model.head.logits(dies, batch=12), dies, model.head.thresholds, model.label_names)
    np.testing.assert_array_equal(labels, wanted.labels)
    np.testing.assert_array_equal(flags, wanted.review)
    np.testing.assert_allclose(p, wanted.probabilities, atol=1e-5)


def test_adapters_and_networks_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra qwafer[onnx] is not installed")
    from qwafer import quantise

    lora = trained(LoraOptions(rank=1), CUT, random_weights=5)
    for form in ("stablehlo", "onnx"):
        with pytest.raises(CapabilityError, match="head lora cannot be exported: merge its adapters"):
            check_exportable(lora, form)
    trm = untrained("trm")
    elsewhere = dataclasses.replace(trm, backbone=extractor("spatial"))
    with pytest.raises(CapabilityError, match="head trm on backbone spatial cannot be exported: take dies_26"):
        check_exportable(elsewhere)
    for name, model in {"lora": lora, "trm": trm}.items():
        with pytest.raises(
            CapabilityError, match=f"head {name} cannot be written as an ONNX graph: take linear or mlp"
        ):
            quantise(model, MAPS, tmp_path / "int8")
    linear = trained(LinearOptions(), "spatial")
    frozen = dataclasses.replace(linear, backbone=dataclasses.replace(linear.backbone, name="trm"))
    with pytest.raises(CapabilityError, match=r"backbone trm cannot be exported: .* exported as its own model"):
        check_exportable(frozen)
    assert not list(tmp_path.iterdir())


def test_the_verb_refuses_before_it_reads_the_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untrained("trm").save(tmp_path / "trm.safetensors")
    command = [str(tmp_path / "trm.safetensors"), "--maps", "synthetic", "--out", str(tmp_path / "model.onnx")]
    assert main([*command, "--format", "onnx"]) == 2
    error = capsys.readouterr().err
    assert "head trm is a network, which ONNX files do not hold: take --format stablehlo" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["trm.safetensors"]


def test_int8_of_a_network_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    model = trained(LinearOptions(), "spatial")
    review = assess(model, MAPS)[0]
    for name, form, says in (("trm", "onnx", "ONNX files do not hold"), ("trm", "stablehlo", "is for --format onnx")):
        with pytest.raises(CapabilityError, match=says):
            export_model(untrained(name), review, evidence, MAPS, tmp_path / "f", form, int8=tmp_path / "int8.onnx")
    with pytest.raises(CapabilityError, match="INT8 is exported for backbone wafercnn, not dies_26"):
        int8_model(untrained("trm"), tmp_path / "int8.onnx")
