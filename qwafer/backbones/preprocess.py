"""From a wafer map to the image that a pretrained network expects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from qwafer._checks import check_choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNELS = ("one-hot", "grey")


@dataclass(frozen=True)
class Preprocessing:
    """Map (H, W) of 0 (off the wafer), 1 (passing), 2 (failing) to image (size, size, 3), float32.

    1. Nearest neighbour: pixel (i, j) shows die (floor((i + 1/2) H / size), floor((j + 1/2) W / size)).
    2. Three channels: `one-hot`: off the wafer, passing, failing, each 0 or 1; `grey`: value / 2, three times.
    3. (channel - mean) / std, as the checkpoint was trained.

    A picture (H, W) of floats from 0 to 1, such as a spectrogram, is resized by linear interpolation instead, with
    antialiasing where it shrinks, and its value is all three channels; only `grey` draws pictures.
    """

    size: int
    """Side of the image in pixels."""
    channels: str = "one-hot"
    """`one-hot` or `grey`."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel in training."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel in training."""

    def __post_init__(self) -> None:
        check_choice("channels", self.channels, CHANNELS)

    def __call__(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size, 3) float32 images of n maps, or n pictures, of any shapes."""
        if len(maps) and maps[0].dtype.kind == "f":
            return self._drawn(maps)
        colours = np.eye(3) if self.channels == "one-hot" else np.repeat(np.arange(3)[:, None] / 2, 3, axis=1)
        palette = ((colours - np.array([self.mean])) / np.array([self.std])).astype(np.float32)  # (value, channel)
        images = np.empty((len(maps), self.size, self.size, 3), np.float32)
        for image, codes in zip(images, maps, strict=True):
            np.take(palette, resize_nearest(codes, self.size), axis=0, out=image)
        return images

    def _drawn(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        check_choice("channels", self.channels, ("grey",))
        grey = np.stack([resize_linear(picture, self.size) for picture in pictures])[..., None]
        return ((grey - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def record(self) -> dict[str, Any]:
        """Return the provenance: every parameter, and the interpolation in words."""
        return {**asdict(self), "resize": "nearest neighbour, pixel centres"}


def chosen_channels(record: Mapping[str, Any]) -> str | None:
    """Return the `channels` that a backbone with this record was made with; None for one that has its own."""
    found = record.get("preprocessing", {}).get("channels")
    return found if found in CHANNELS else None


def resize_nearest(codes: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) of the die under each pixel's centre, from a map (H, W)."""
    rows, columns = ((2 * np.arange(size) + 1) * length // (2 * size) for length in codes.shape)
    return codes[rows[:, None], columns[None, :]]


def resize_linear(picture: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) float64 of a picture (H, W): triangle filters, as wide as a pixel of the coarser grid."""
    rows, columns = (_triangles(length, size) for length in picture.shape)
    return np.asarray(rows @ picture.astype(np.float64) @ columns.T)


@lru_cache(maxsize=32)
def _triangles(length: int, size: int) -> np.ndarray:
    """Return the weights (size, length) of one axis, each row of sum 1."""
    step = length / size
    centres = (np.arange(size) + 0.5) * step - 0.5
    distance = np.abs(np.arange(length)[None] - centres[:, None]) / max(step, 1.0)
    weights = np.maximum(0, 1 - distance)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
