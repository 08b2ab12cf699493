"""MambaVision-T in torch for the comparison in `extraction.py`: qwafer's own definition with a plain recurrent scan."""

# ruff: noqa: D101, D102 - the layers are those that qwafer/backbones/mambavision.py documents

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Stem(nn.Module):
    def __init__(self, stem: int, width: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(stem, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_down(x)


class ConvBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)), approximate="tanh")))


class Mixer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half, self.rank = width // 2, -(-width // 16)
        self.in_proj = nn.Linear(width, width, bias=False)
        self.x_proj = nn.Linear(half, self.rank + 16, bias=False)
        self.dt_proj = nn.Linear(self.rank, half)
        self.A_log = nn.Parameter(torch.zeros(half, 8))
        self.D = nn.Parameter(torch.ones(half))
        self.out_proj = nn.Linear(width, width, bias=False)
        self.conv1d_x = nn.Conv1d(half, half, 3, padding=1, groups=half, bias=False)
        self.conv1d_z = nn.Conv1d(half, half, 3, padding=1, groups=half, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        u, z = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)
        u, z = F.silu(self.conv1d_x(u)), F.silu(self.conv1d_z(z))
        dt, b, c = self.x_proj(u.transpose(1, 2)).split([self.rank, 8, 8], dim=-1)
        dt = F.softplus(self.dt_proj(dt) + self.dt_proj.bias).transpose(1, 2)  # (batch, half, length)
        decay = -self.A_log.exp()
        gains = torch.exp(dt.unsqueeze(-1) * decay[None, :, None])  # (batch, half, length, 8)
        added = (dt * u).unsqueeze(-1) * b[:, None]
        state = torch.zeros_like(added[:, :, 0])
        outs = []
        for t in range(u.shape[2]):
            state = gains[:, :, t] * state + added[:, :, t]
            outs.append(torch.einsum("bdn,bn->bd", state, c[:, t]))
        y = torch.stack(outs, dim=2) + u * self.D[None, :, None]
        return self.out_proj(torch.cat([y, z], dim=1).transpose(1, 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n, length, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class TokenBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixer = Attention(width, heads) if heads else Mixer(width)
        self.mlp = Mlp(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.mixer(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reduction(x)


class Level(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, last: bool) -> None:
        super().__init__()
        self.tokens = heads > 0
        if self.tokens:
            blocks = [TokenBlock(width, heads if i >= -(-depth // 2) else 0) for i in range(depth)]
        else:
            blocks = [ConvBlock(width) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None if last else Downsample(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, width, height, _ = x.shape
        if self.tokens:
            x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        if self.tokens:
            x = x.transpose(1, 2).reshape(n, width, height, height)
        return x if self.downsample is None else self.downsample(x)


class MambaVisionT(nn.Module):
    """MambaVision-T without its classification head: (batch, 3, 224, 224) -> (batch, 640)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = Stem(32, 80)
        rows = zip((1, 3, 8, 4), (0, 0, 8, 16), strict=True)
        self.levels = nn.ModuleList(Level(80 << i, depth, heads, i == 3) for i, (depth, heads) in enumerate(rows))
        self.norm = nn.BatchNorm2d(640)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for level in self.levels:
            x = level(x)
        return self.norm(x).mean(dim=(2, 3))
