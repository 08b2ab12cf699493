"""Maps become images exactly as documented, whatever their shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, resize_nearest
from qwafer.networks.wafercnn_module import WaferImages


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_nearest_neighbour_takes_the_die_under_the_pixels_centre(height: int, width: int, size: int) -> None:
    codes = np.arange(height * width).reshape(height, width)
    resized = resize_nearest(codes, size)
    for i, j in {(0, 0), (size - 1, size // 2), (size // 3, size - 1)}:
        row, column = int((i + 0.5) * height / size + 1e-12), int((j + 0.5) * width / size + 1e-12)
        assert resized[i, j] == codes[row, column]


def test_nearest_neighbour_of_the_same_size_changes_nothing() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (52, 52), dtype=np.uint8)
    np.testing.assert_array_equal(resize_nearest(codes, 52), codes)


@pytest.mark.parametrize("channels", ["one-hot", "grey"])
def test_channels_and_normalisation(channels: str) -> None:
    codes = np.array([[0, 1], [2, 0]], np.uint8)
    image = Preprocessing(2, channels)([codes])[0]
    assert image.shape == (2, 2, 3)
    assert image.dtype == np.float32
    raw = np.eye(3)[codes] if channels == "one-hot" else np.stack([codes / 2] * 3, axis=-1)
    np.testing.assert_allclose(image, (raw - IMAGENET_MEAN) / IMAGENET_STD, rtol=1e-6)


def test_ragged_maps_make_one_batch() -> None:
    maps = [np.full((3, 4), 1, np.uint8), np.full((50, 20), 2, np.uint8)]
    assert Preprocessing(8)(maps).shape == (2, 8, 8, 3)
    images = WaferImages()(maps)
    assert images.shape == (2, 52, 52, 3)
    assert images[0, ..., 0].min() == 1
    assert images[0, ..., 1].max() == 0
    assert images[1, ..., 1].min() == 1


def test_the_distance_channel_is_symmetric_and_centred() -> None:
    radius = WaferImages()([np.ones((52, 52), np.uint8)])[0, ..., 2]
    np.testing.assert_array_equal(radius, radius.T)
    np.testing.assert_array_equal(radius, radius[::-1])
    assert radius[0, 0] == pytest.approx(np.sqrt(2) * 51 / 52)
    assert radius.min() == pytest.approx(np.sqrt(2) / 52)


def test_unknown_channels_are_refused() -> None:
    with pytest.raises(InputError, match="channels"):
        Preprocessing(224, "rgb")


def test_the_record_says_everything() -> None:
    record = Preprocessing(224, "grey").record()
    assert record["size"] == 224
    assert record["channels"] == "grey"
    assert tuple(record["mean"]) == IMAGENET_MEAN
    assert "nearest" in record["resize"]
