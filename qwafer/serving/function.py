"""What is exported: maps in; probabilities, labels and the review flag out, one definition for StableHLO and ONNX."""

from typing import Any

import numpy as np

from qwafer._errors import CapabilityError
from qwafer.backbones.preprocess import Preprocessing, chosen_channels
from qwafer.backbones.pretrained import architecture
from qwafer.model import Model
from qwafer.networks.head import NetworkHead
from qwafer.networks.wafercnn_module import WaferImages
from qwafer.serving.heads import check_head, head_logits
from qwafer.serving.review import Review
from qwafer.serving.spatial import spatial

OUTPUTS = ("probabilities", "labels", "review")
"""What a file gives for maps (batch, H, W) uint8 of any H and W: (batch, n_labels) float32, (batch, n_labels) and
(batch,) bool."""


def check_exportable(model: Model, form: str = "stablehlo") -> None:
    """Raise CapabilityError for a model that cannot be exported as `form`, `onnx` or `stablehlo`."""
    backbone, name = model.backbone, model.head.config.name("head")
    size = dies_read(model)
    if size is not None:
        if backbone.name != f"dies_{size}":
            raise CapabilityError(f"head {name} on backbone {backbone.name} cannot be exported: take dies_{size}")
        if form != "stablehlo":
            raise CapabilityError(f"head {name} is a network, which ONNX files do not hold: take --format stablehlo")
        return
    check_head(name, model.head.head)
    if backbone.name == "spatial":
        return
    if backbone.state is None or ":" in backbone.name:
        raise CapabilityError(
            f"backbone {backbone.name} cannot be exported: take spatial, wafercnn or a pretrained network; another "
            "network of fit is exported as its own model, which fit writes"
        )
    if backbone.record.get("dtype") != "float32":
        raise CapabilityError(f"the backbone computes in {backbone.record.get('dtype')}: export float32 ones")


def dies_read(model: Model) -> int | None:
    """Return the side of the dies that a model's head reads, a network on them; None for other heads."""
    head = model.head.head
    return int(head.options.architecture().size) if isinstance(head, NetworkHead) else None


def codes_of(xp: Any, maps: Any, size: int) -> Any:
    """Return the dies (batch, size, size) of maps (batch, H, W), by nearest neighbour (pixel centres)."""
    codes = maps
    for axis in (1, 2):
        pixel = xp.asarray(2 * np.arange(size) + 1)
        codes = xp.take(codes, pixel * xp.length(maps, axis) // (2 * size), axis=axis)
    return codes


def images_of(xp: Any, model: Model, maps: Any) -> Any:
    """Return the images (batch, size, size, 3) float32 of maps (batch, H, W) uint8, as the preprocessing makes them."""
    form = architecture(model.backbone.name, None, chosen_channels(model.backbone.record))
    made = form.preprocessing
    if not isinstance(made, (Preprocessing, WaferImages)):
        raise CapabilityError(f"the preprocessing of backbone {model.backbone.name} cannot be exported")
    codes = codes_of(xp, maps, made.size)
    if isinstance(made, Preprocessing):
        # The images of three maps of one die each are the colours of off the wafer, passing and failing.
        palette = made([np.full((1, 1), value, np.uint8) for value in range(3)])[:, 0, 0]
        return xp.take(xp.asarray(palette), codes.astype(np.int64), axis=0)
    radius = made([np.zeros((1, 1), np.uint8)])[..., 2]  # (1, size, size)
    parts = [(codes == value).astype(np.float32) for value in (1, 2)]
    parts.append(xp.asarray(radius) + parts[0] * 0.0)
    return xp.concatenate([xp.expand_dims(part, 3) for part in parts], axis=3)


def answers(xp: Any, model: Model, review: Review, features: Any, logits: Any = None) -> tuple[Any, Any, Any]:
    """Return `OUTPUTS` of features (batch, D) float32: those of `Review.answers`, in array operations alone."""
    if logits is None:
        logits = head_logits(xp, model.head.config.name("head"), model.head._evaluated, features)
    thresholds = np.asarray(model.head.thresholds, np.float32)[None]
    exact = logits.astype(np.float32)
    if thresholds.size:
        labels = logits > xp.asarray(np.asarray(model.head.thresholds)[None].astype(logits.dtype))
    else:
        classes = np.arange(len(model.label_names))[None]
        labels = xp.expand_dims(xp.argmax(logits, axis=1).astype(np.int64), 1) == xp.asarray(classes)
    scale, shift = (xp.asarray(np.asarray(part, np.float32)[None]) for part in (review.scale, review.shift))
    calibrated = exact * scale + shift
    if review.exclusive:
        weights = xp.exp(calibrated - xp.max(calibrated, axis=1, keepdims=True))
        p = weights / xp.sum(weights, axis=1, keepdims=True)
        sure = xp.max(p, axis=1)
    else:
        p = 1.0 / (xp.exp(-calibrated) + 1.0)
        sure = -xp.max(-xp.where(labels, p, 1.0 - p), axis=1)
    doubtful = sure < review.confidence
    moved = (features - xp.asarray(review.centre[None])) @ xp.asarray(review.whitening)
    return p, labels, doubtful | (xp.sqrt(xp.sum(moved * moved, axis=1)) > review.distance)


def jax_function(model: Model, review: Review) -> Any:
    """Return the function of maps (batch, H, W) for JAX, whose lengths may be symbols."""
    import jax.numpy as jnp

    from qwafer.backbones.checkpoints import Checkpoint
    from qwafer.backbones.pretrained import load
    from qwafer.serving.arrays import ModuleArrays

    check_exportable(model)
    xp = ModuleArrays(jnp)
    if model.backbone.name == "spatial":
        return lambda maps: answers(xp, model, review, spatial(xp, maps))
    size = dies_read(model)
    if size is not None:
        head = model.head._evaluated

        def of_dies(maps: Any) -> Any:
            dies = xp.flatten(codes_of(xp, maps, size)).astype(np.float32)
            return answers(xp, model, review, dies, head.logits(dies, None))

        return of_dies
    weights = Checkpoint(dict(model.backbone.state or {}), model.backbone.record["weights"])
    network = load(model.backbone.name, weights, channels=chosen_channels(model.backbone.record))
    return lambda maps: answers(xp, model, review, network.apply(network.parameters, images_of(xp, model, maps)))
