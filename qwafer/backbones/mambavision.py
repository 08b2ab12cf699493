"""MambaVision (Hatamizadeh & Kautz, CVPR 2025, arXiv 2407.08083) with the keys of the published checkpoints.

Written from the paper; agreement with the published models rests on their key lists and on stored reference numbers.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.backbones.keys import Affine, ConvNorm, LayerNormKeys, LayerTable, Linear, Shapes, State, Tensors
from qwafer.backbones.layers import Conv, Dense, Images, LayerNorm, Stage, Staged, gelu, gelu_tanh, global_mean
from qwafer.backbones.preprocess import Preprocessing
from qwafer.backbones.pretrained import Architecture, Pretrained
from qwafer.backbones.scan import selective_scan, sequential_scan

D_STATE = 8
D_CONV = 3
MLP_RATIO = 4
STEM_EPS = 1e-4


@dataclass(frozen=True)
class MambaVisionConfig:
    """What tells the variants apart (paper, section 3.1 and table of configurations)."""

    width: int
    """Channels of stage 1; each stage doubles them."""
    stem: int
    """Channels between the two convolutions of the stem."""
    depths: tuple[int, int, int, int]
    """Blocks per stage."""
    heads: tuple[int, int]
    """Attention heads in stages 3 and 4."""
    image_size: int = 224
    """Side of the images that the checkpoint was trained on; its windows span stages 3 and 4 at this size."""
    layer_scale: bool = True
    """Whether the residual branches of stages 3 and 4 have trained gains (gamma)."""

    @property
    def windows(self) -> tuple[int, int]:
        """Side of the windows in stages 3 and 4."""
        return self.image_size // 16, self.image_size // 32


_SMALL_HEADS, _LARGE_HEADS = (8, 16), (16, 32)
CONFIGS = {
    "mamba_vision_T": MambaVisionConfig(80, 32, (1, 3, 8, 4), _SMALL_HEADS, layer_scale=False),
    "mamba_vision_T2": MambaVisionConfig(80, 32, (1, 3, 11, 4), _SMALL_HEADS, layer_scale=False),
    "mamba_vision_S": MambaVisionConfig(96, 64, (3, 3, 7, 5), _SMALL_HEADS, layer_scale=False),
    "mamba_vision_B": MambaVisionConfig(128, 64, (3, 3, 10, 5), _SMALL_HEADS),
    "mamba_vision_B_21k": MambaVisionConfig(128, 64, (3, 3, 10, 5), _SMALL_HEADS),
    "mamba_vision_L": MambaVisionConfig(196, 64, (3, 3, 10, 5), _LARGE_HEADS),
    "mamba_vision_L_21k": MambaVisionConfig(196, 64, (3, 3, 10, 5), _LARGE_HEADS),
    "mamba_vision_L2": MambaVisionConfig(196, 64, (3, 3, 12, 5), _LARGE_HEADS),
    "mamba_vision_L2_512_21k": MambaVisionConfig(196, 64, (3, 3, 12, 5), _LARGE_HEADS, 512),
    "mamba_vision_L3_256_21k": MambaVisionConfig(256, 64, (3, 3, 20, 10), _LARGE_HEADS, 256),
    "mamba_vision_L3_512_21k": MambaVisionConfig(256, 64, (3, 3, 20, 10), _LARGE_HEADS, 512),
}
Tokens = Float[Array, "windows length width"]


class ConvBlock(nn.Module):
    """x + norm(conv(gelu(norm(conv(x))))): the residual blocks of stages 1 and 2."""

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> the same."""
        y = gelu_tanh(Conv(x.shape[-1], name="conv1")(x))
        return x + Conv(x.shape[-1], name="conv2")(y)


class Mixer(nn.Module):
    """The MambaVision mixer: a state-space branch beside a plain one, concatenated (paper, eq. 6 to 8)."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(windows, length, C) -> the same."""
        width = x.shape[-1] // 2
        rank = -(-x.shape[-1] // 16)
        both = Dense(2 * width, use_bias=False, name="in_proj")(x)
        u = jax.nn.silu(ShiftConv(name="conv1d_x")(both[..., :width]))
        z = jax.nn.silu(ShiftConv(name="conv1d_z")(both[..., width:]))
        projected = Dense(rank + 2 * D_STATE, use_bias=False, name="x_proj")(u).astype(jnp.float32)
        decay = self.param("decay", nn.initializers.zeros, (D_STATE, width), x.dtype).astype(jnp.float32)
        skip = self.param("skip", nn.initializers.zeros, (width,), x.dtype).astype(jnp.float32)
        step = jax.nn.softplus(Dense(width, name="dt_proj")(projected[..., :rank].astype(x.dtype)).astype(jnp.float32))
        wide = u.astype(jnp.float32)
        into, out = projected[..., rank : rank + D_STATE], projected[..., rank + D_STATE :]
        # One token at a time is fastest where a step costs a microsecond; elsewhere the number of steps counts.
        y = lax.platform_dependent(wide, step, decay, into, out, cpu=sequential_scan, default=selective_scan)
        y = y + wide * jnp.expand_dims(skip, (0, 1))
        return Dense(x.shape[-1], use_bias=False, name="out_proj")(jnp.concatenate([y.astype(x.dtype), z], axis=-1))


class ShiftConv(nn.Module):
    """A depthwise convolution along the tokens, centred (not causal), without bias."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(windows, length, C) -> the same."""
        kernel = self.param("kernel", nn.initializers.zeros, (D_CONV, x.shape[-1]), x.dtype)
        length = x.shape[1]
        padded = jnp.pad(x, ((0, 0), (D_CONV // 2, D_CONV // 2), (0, 0)))
        terms = [padded[:, k : k + length] * jnp.expand_dims(kernel[k], (0, 1)) for k in range(D_CONV)]
        return sum(terms[1:], terms[0])


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(head width)) v."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(windows, length, C) -> the same."""
        n, length, width = x.shape
        qkv = Dense(3 * width, name="qkv")(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = (jnp.moveaxis(qkv[:, :, i], 1, 2) for i in range(3))  # (windows, heads, length, head width)
        q = q * jnp.asarray((width // self.heads) ** -0.5, x.dtype)
        scores = jnp.einsum("whqd,whkd->whqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("whqk,whkd->whqd", weights, v, preferred_element_type=jnp.float32).astype(x.dtype)
        return Dense(width, name="proj")(jnp.moveaxis(mixed, 1, 2).reshape(n, length, width))


class TokenBlock(nn.Module):
    """x + g1 mixer(norm(x)), then x + g2 mlp(norm(x)): the blocks of stages 3 and 4."""

    heads: int
    """Attention heads; 0: the state-space mixer."""
    layer_scale: bool

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(windows, length, C) -> the same."""
        width = x.shape[-1]
        mixer: nn.Module = Attention(self.heads, name="mixer") if self.heads else Mixer(name="mixer")
        x = x + self._gain("gamma_1", mixer(LayerNorm(name="norm1")(x)))
        hidden = gelu(Dense(MLP_RATIO * width, name="fc1")(LayerNorm(name="norm2")(x)))
        return x + self._gain("gamma_2", Dense(width, name="fc2")(hidden))

    def _gain(self, name: str, x: Tokens) -> Tokens:
        if not self.layer_scale:
            return x
        gamma = self.param(name, nn.initializers.ones, (x.shape[-1],), x.dtype)
        return x * jnp.expand_dims(gamma, (0, 1))


class MambaVision(Staged):
    """Images, normalised, to pooled features, (batch, H, W, 3) -> (batch, 8 width) float32. Sows the outputs of stem
    and stages as `stages`.
    """

    config: MambaVisionConfig

    @nn.nowrap
    def stages(self) -> list[tuple[str, Stage]]:
        """Return `stem`, `stage0` to `stage3` and `pool`.

        The blocks are followed by their downsampling; `stage2` and `stage3` work in windows (of the whole map, at the
        image size of the configuration).
        """
        blocks = [(f"stage{stage}", partial(self._stage, stage)) for stage in range(len(self.config.depths))]
        return [("stem", self._stem), *blocks, ("pool", self._pool)]

    @nn.nowrap
    def _stem(self, x: Images) -> Images:
        x = jax.nn.relu(Conv(self.config.stem, 3, 2, name="stem1")(x))
        return self.sown(jax.nn.relu(Conv(self.config.width, 3, 2, name="stem2")(x)))

    @nn.nowrap
    def _stage(self, stage: int, x: Images) -> Images:
        depth = self.config.depths[stage]
        if stage < 2:
            for block in range(depth):
                x = ConvBlock(name=f"stage{stage}_{block}")(x)
        else:
            x = self._token_blocks(stage, depth, x)
        if stage < 3:
            x = Conv(2 * x.shape[-1], 3, 2, use_bias=False, name=f"down{stage}")(x)
        return self.sown(x)

    @nn.nowrap
    def _pool(self, x: Images) -> Float[Array, "batch features"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), x.dtype).astype(jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, (x.shape[-1],), x.dtype).astype(jnp.float32)
        return global_mean(x) * scale[None] + shift[None]

    @nn.nowrap
    def _token_blocks(self, stage: int, depth: int, x: Images) -> Images:
        window, heads = self.config.windows[stage - 2], self.config.heads[stage - 2]
        batch, height, width, channels = x.shape
        if height % window or width % window:
            raise InputError(f"images must be a multiple of {self.config.image_size} pixels a side")
        grid = x.reshape(batch, height // window, window, width // window, window, channels)
        tokens = jnp.moveaxis(grid, 3, 2).reshape(-1, window * window, channels)
        for block in range(depth):
            attends = block >= attention_from(depth)
            tokens = TokenBlock(heads if attends else 0, self.config.layer_scale, name=f"stage{stage}_{block}")(tokens)
        grid = tokens.reshape(batch, height // window, width // window, window, window, channels)
        return jnp.moveaxis(grid, 2, 3).reshape(batch, height, width, channels)


def attention_from(depth: int) -> int:
    """Return the first of `depth` blocks that is attention: the last half is, rounded down."""
    return -(-depth // 2)


def table(config: MambaVisionConfig) -> LayerTable:
    """Return which checkpoint keys each layer takes."""
    stem = "patch_embed.conv_down"
    layers: LayerTable = {
        ("stem1",): ConvNorm(f"{stem}.0", f"{stem}.1", (config.stem, 3, 3, 3), STEM_EPS),
        ("stem2",): ConvNorm(f"{stem}.3", f"{stem}.4", (config.width, config.stem, 3, 3), STEM_EPS),
    }
    for stage, depth in enumerate(config.depths):
        width = config.width << stage
        for block in range(depth):
            key, path = f"levels.{stage}.blocks.{block}", f"stage{stage}_{block}"
            if stage < 2:
                for i in (1, 2):
                    shape = (width, width, 3, 3)
                    layers[path, f"conv{i}"] = ConvNorm(f"{key}.conv{i}", f"{key}.norm{i}", shape, bias=True)
            else:
                layers |= _token_block(key, path, width, block >= attention_from(depth), config.layer_scale)
        if stage < 3:
            layers[f"down{stage}",] = ConvNorm(f"levels.{stage}.downsample.reduction.0", None, (2 * width, width, 3, 3))
    layers[()] = Affine("norm", config.width << 3)
    return layers


def _token_block(key: str, path: str, width: int, attends: bool, layer_scale: bool) -> LayerTable:
    mixer = f"{key}.mixer"
    layers: LayerTable = {
        (path, "norm1"): LayerNormKeys(f"{key}.norm1", width),
        (path, "norm2"): LayerNormKeys(f"{key}.norm2", width),
        (path, "fc1"): Linear(f"{key}.mlp.fc1", width, MLP_RATIO * width),
        (path, "fc2"): Linear(f"{key}.mlp.fc2", MLP_RATIO * width, width),
    }
    if layer_scale:
        gains = tuple((name, f"{key}.{name}", (width,)) for name in ("gamma_1", "gamma_2"))
        layers[path,] = Tensors(gains)
    if attends:
        layers[path, "mixer", "qkv"] = Linear(f"{mixer}.qkv", width, 3 * width)
        layers[path, "mixer", "proj"] = Linear(f"{mixer}.proj", width, width)
        return layers
    half, rank = width // 2, -(-width // 16)
    layers[path, "mixer", "in_proj"] = Linear(f"{mixer}.in_proj", width, width, bias=False)
    layers[path, "mixer", "x_proj"] = Linear(f"{mixer}.x_proj", half, rank + 2 * D_STATE, bias=False)
    layers[path, "mixer", "dt_proj"] = _StepKeys(f"{mixer}.dt_proj", rank, half)
    layers[path, "mixer", "out_proj"] = Linear(f"{mixer}.out_proj", width, width, bias=False)
    for name in ("conv1d_x", "conv1d_z"):
        layers[path, "mixer", name] = _ShiftConvKeys(f"{mixer}.{name}.weight", half)
    layers[path, "mixer"] = _StateSpaceKeys(mixer, half)
    return layers


class _StepKeys(Linear):
    """The projection to step sizes. The published models add its bias twice, once in the projection and once before the
    softplus: without that, the features miss the reference numbers by 8%.
    """

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        parameters = super().parameters(state)
        return {**parameters, "bias": 2 * parameters["bias"]}


@dataclass(frozen=True)
class _ShiftConvKeys:
    """Torch's (channels, 1, taps) as (taps, channels)."""

    key: str
    width: int

    def shapes(self) -> Shapes:
        return {self.key: (self.width, 1, D_CONV)}

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        return {"kernel": np.ascontiguousarray(state[self.key][:, 0].T, dtype=np.float32)}


@dataclass(frozen=True)
class _StateSpaceKeys:
    """decay = -exp(A_log), (state, width); skip = D."""

    key: str
    width: int

    def shapes(self) -> Shapes:
        return {f"{self.key}.A_log": (self.width, D_STATE), f"{self.key}.D": (self.width,)}

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        decay = -np.exp(state[f"{self.key}.A_log"].astype(np.float64)).T
        return {"decay": decay.astype(np.float32), "skip": state[f"{self.key}.D"].astype(np.float32)}


def architecture(name: str, state: State | None, channels: str | None) -> Architecture:
    """Return the variant `name`; its checkpoint tells whether the blocks have layer scale, and how wide the stem is."""
    config = CONFIGS[name]
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
    published = f"model.safetensors of {hub[0]} on the Hugging Face hub (non-commercial licence)"
    images = Preprocessing(config.image_size, channels or "one-hot")
    module, adapted = MambaVision(config), ("*/mixer/qkv", "*/mixer/*proj")
    return Architecture(name, module, table(config), images, ("head.",), published, hub, adapted=adapted)


VARIANTS = SimpleNamespace(**{name: Pretrained(name, partial(architecture, name)) for name in CONFIGS})
"""The variants by name."""
