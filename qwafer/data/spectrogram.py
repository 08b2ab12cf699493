"""Log-mel spectrograms: a sound as a picture. Resampling and the short-time Fourier transform are SciPy's."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from qwafer._arrays import real_array
from qwafer._checks import check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError

LOUDEST = 1e12
"""Largest sample, far beyond any encoding: squares of larger ones may overflow."""
SILENCE = 1e-10
"""Power below which there is no sound, that of a sine of full scale being about 0.25 n_fft^2."""
LINEAR_HZ, PER_MEL, LOG_STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27
"""Slaney's mel scale (Auditory Toolbox 1998): f / PER_MEL up to 1 kHz, logarithmic beyond."""


@dataclass(frozen=True)
class MelOptions:
    """How a sound is drawn; the defaults are those of librosa's `melspectrogram`."""

    rate: int = 22_050
    """Samples per second, to which every clip is resampled."""
    n_fft: int = 2048
    """Samples of a window (Hann)."""
    hop: int = 512
    """Samples from window to window."""
    n_mels: int = 128
    """Mel bands from 0 to half the rate: rows of the picture."""
    range_db: float = 80.0
    """Decibels below the loudest point of the clip that are drawn black."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("rate", self.rate, minimum=1000, maximum=384_000)
        check_positive_int("n_fft", self.n_fft, minimum=16, maximum=65_536)
        check_positive_int("hop", self.hop, maximum=self.n_fft)
        check_positive_int("n_mels", self.n_mels, maximum=1024)
        check_interval("range_db", self.range_db, 0, 200, open_low=True)


def mel_picture(
    samples: Float[np.ndarray, " n"], rate: int, options: MelOptions | None = None, *, seconds: float | None = None
) -> Float[np.ndarray, "n_mels frames"]:
    """Return the log-mel spectrogram (n_mels, frames) float32 of a mono clip, from 0 to 1, low tones in the last row.

    With P the power of the short-time Fourier transform, windows centred on every `hop`-th sample and the clip zero
    outside, and E = M P its energy in triangular mel bands of equal area: (10 log10(E / max E) + range) / range, cut to
    0 to 1. Silence is 0.

    Args:
        samples: (n,) finite numbers, full scale from -1 to 1.
        rate: their number per second.
        options: how it is drawn; none: the defaults.
        seconds: the length that is drawn; a longer clip is cut, a shorter one followed by silence. None: all of it.

    Raises:
        InputError: no samples, or some that are not finite or beyond `LOUDEST`.
    """
    from scipy.signal import ShortTimeFFT, get_window, resample_poly

    options = MelOptions() if options is None else options
    x = real_array("samples", samples, ("n",), finite=True).astype(np.float64)
    check_positive_int("rate", rate, minimum=1, maximum=10_000_000)
    if not len(x):
        raise InputError("`samples` must hold at least one sample")
    if np.abs(x).max() > LOUDEST:
        raise InputError(f"`samples` must be at most {LOUDEST:g}, full scale being 1, got {np.abs(x).max():.3g}")
    if rate != options.rate:
        common = math.gcd(rate, options.rate)
        x = resample_poly(x, options.rate // common, rate // common)
    n = len(x) if seconds is None else max(1, round(seconds * options.rate))
    x = np.pad(x[:n], (0, max(0, n - len(x), options.n_fft - len(x[:n]))))
    transform = ShortTimeFFT(get_window("hann", options.n_fft), options.hop, options.rate)
    power = transform.spectrogram(x, p0=0, p1=1 + n // options.hop)  # (n_fft / 2 + 1, frames)
    energy = mel_bands(options.rate, options.n_fft, options.n_mels) @ power
    loudest = energy.max()
    if loudest <= SILENCE:
        return np.zeros(energy.shape, np.float32)
    level = 10 * np.log10(np.maximum(energy, SILENCE) / loudest)
    return np.flipud(np.clip(1 + level / options.range_db, 0, 1)).astype(np.float32)


@lru_cache(maxsize=8)
def mel_bands(rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Return M (n_mels, n_fft / 2 + 1): triangles between neighbours on the mel scale, each of area 1 in Hz."""
    frequencies = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    edges = _hertz(np.linspace(0.0, _mel(rate / 2), n_mels + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    bands = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    bands.flags.writeable = False
    return bands


def _mel(hertz: float) -> float:
    if hertz < LINEAR_HZ:
        return hertz / PER_MEL
    return LINEAR_HZ / PER_MEL + math.log(hertz / LINEAR_HZ) / LOG_STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    corner = LINEAR_HZ / PER_MEL
    return np.where(mels < corner, PER_MEL * mels, LINEAR_HZ * np.exp(LOG_STEP * (np.maximum(mels, corner) - corner)))
