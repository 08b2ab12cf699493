"""The networks by name: their modules, their checkpoint keys, and where their weights are."""

import dataclasses
from dataclasses import dataclass

import flax.linen as nn

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.backbones import efficientnet, mambavision, mobilenet, wafercnn
from qwafer.backbones._keys import Shapes, State, Table, expected_shapes
from qwafer.backbones._preprocess import Preprocessing

NAMES = ("efficientnet_b0", "mobilenet_v3_small", *mambavision.CONFIGS, "wafercnn")
DEFAULT_CHANNELS = "one-hot"


@dataclass(frozen=True)
class Architecture:
    """A network as its checkpoints know it."""

    name: str
    """Name as in torchvision or mambavision."""
    module: nn.Module
    """The flax module, for inference."""
    table: Table
    """Which tensors each layer takes."""
    preprocessing: Preprocessing | wafercnn.WaferImages
    """From maps to the images that the checkpoint was trained on."""
    unused: tuple[str, ...]
    """Prefixes of keys that extraction leaves out: the classification head."""
    published: str
    """Where weights are to be had, in words."""
    hub: tuple[str, str] | None = None
    """Repository and file on the Hugging Face hub, if they are there with these keys."""
    cpu_batch: int = 2
    """Images a call of the compiled program on a CPU: more of them leave the second-level cache between two layers."""

    @property
    def shapes(self) -> Shapes:
        """{key: shape} of every tensor needed."""
        return expected_shapes(self.table)


def architecture(name: str, state: State | None = None, channels: str | None = None) -> Architecture:
    """Return the architecture called `name`.

    A MambaVision checkpoint itself tells whether its blocks have layer scale and how wide its stem is: both are taken
    from `state` if it is given. `channels` is how maps become images (`one-hot` if none): see `Preprocessing`.
    """
    check_choice("backbone", name, NAMES)
    if name == "wafercnn":
        if channels is not None:
            raise InputError("backbone wafercnn has channels of its own: leave out --channels")
        images = wafercnn.WaferImages()
        return Architecture(
            name, wafercnn.WaferCNN(), wafercnn.table(), images, ("head.", "training."), "made by --train", cpu_batch=8
        )
    channels = DEFAULT_CHANNELS if channels is None else channels
    head = ("classifier.",)
    if name == "efficientnet_b0":
        file = "download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth"
        table = efficientnet.table()
        return Architecture(name, efficientnet.EfficientNetB0(), table, Preprocessing(224, channels), head, file)
    if name == "mobilenet_v3_small":
        file = "download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth"
        table = mobilenet.table()
        return Architecture(name, mobilenet.MobileNetV3Small(), table, Preprocessing(224, channels), head, file)
    return _mambavision(name, state, channels)


def _mambavision(name: str, state: State | None, channels: str) -> Architecture:
    config = mambavision.CONFIGS[name]
    if state is not None:
        stem = state.get("patch_embed.conv_down.0.weight")
        config = dataclasses.replace(
            config,
            layer_scale="levels.2.blocks.0.gamma_1" in state,
            stem=config.stem if stem is None else stem.shape[0],
        )
    variant = name.removeprefix("mamba_vision_").replace("_", "-")
    variant = variant.replace("21k", "21K") if variant.endswith("21k") else f"{variant}-1K"
    hub = (f"nvidia/MambaVision-{variant}", "model.safetensors")
    module = mambavision.MambaVision(config)
    published = f"model.safetensors of {hub[0]} on the Hugging Face hub (non-commercial licence)"
    images = Preprocessing(config.image_size, channels)
    return Architecture(name, module, mambavision.table(config), images, ("head.",), published, hub)
