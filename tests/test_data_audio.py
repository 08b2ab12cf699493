"""Sounds: WAV files of every kind, spectrograms against closed forms, layouts and folds; all sounds are made here."""

import struct
import sys
import wave
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.io import wavfile

from qwafer import FeatureSet, InputError, RunConfig, features_from_maps, train
from qwafer._errors import CapabilityError
from qwafer.backbones import extractor
from qwafer.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, resize_linear
from qwafer.cli.extract import main as extract
from qwafer.config import DataConfig
from qwafer.data import MelOptions, mel_picture, read_audio, read_wav
from qwafer.data.spectrogram import mel_bands
from tests.factories import head_options, training_options

RATE = 22_050
SMALL = MelOptions(n_mels=32, n_fft=1024)


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def written(path: Path, x: np.ndarray, kind: str = "int16", rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "uint8":
        wavfile.write(path, rate, np.round(x * 127 + 128).astype(np.uint8))
    elif kind == "int24":
        with wave.open(str(path), "wb") as file:
            file.setparams((1 if x.ndim == 1 else x.shape[1], 3, rate, 0, "NONE", ""))
            codes = np.round(x * (2**23 - 1)).astype("<i4")
            file.writeframes(codes.reshape(-1, 1).view(np.uint8)[:, :3].tobytes())
    elif kind.startswith("int"):
        wavfile.write(path, rate, np.round(x * np.iinfo(kind).max).astype(kind))
    else:
        wavfile.write(path, rate, x.astype(kind))
    return path


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "step"),
    [("uint8", 1 / 64), ("int16", 2**-14), ("int24", 2**-21), ("int32", 1e-6), ("float32", 1e-6), ("float64", 1e-6)],
)
def test_every_width_and_any_channels_give_the_mean_of_the_same_samples(kind, step, channels, tmp_path):
    x = tone(440) if channels == 1 else np.stack([tone(440 * (c + 1)) for c in range(channels)], axis=1)
    samples, rate = read_wav(written(tmp_path / "a.wav", x, kind, 8000))
    assert (rate, samples.dtype) == (8000, np.float32)
    np.testing.assert_allclose(samples, x if channels == 1 else x.mean(axis=1), atol=step)


def damaged(path: Path) -> dict[str, bytes]:
    good = written(path / "good.wav", tone(440)).read_bytes()
    no_rate = bytearray(good)
    struct.pack_into("<I", no_rate, 24, 0)
    return {
        "cut off": good[: len(good) // 2],
        "its header alone": good[:30],
        "another format": b"ID3" + bytes(500),
        "without a rate": bytes(no_rate),
        "no bytes": b"",
    }


def test_damaged_empty_and_infinite_files_are_refused_in_one_sentence(tmp_path):
    for name, content in damaged(tmp_path).items():
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.wav") as found:
            read_wav(tmp_path / "bad.wav")
        assert "\n" not in str(found.value), name
    with pytest.raises(InputError, match="holds no samples"):
        read_wav(written(tmp_path / "empty.wav", np.zeros(0)))
    with pytest.raises(InputError, match="not finite"):
        read_wav(written(tmp_path / "nan.wav", np.array([0.0, np.nan]), "float32"))
    with pytest.raises(InputError, match="does not exist"):
        read_wav(tmp_path / "none.wav")


@pytest.mark.parametrize("kind", ["MS_ADPCM", "IMA_ADPCM", "ULAW"])
def test_compressed_samples_are_read_by_soundfile(kind, tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="compressed WAV is read with soundfile (qwafer[audio])")
    soundfile.write(tmp_path / "a.wav", tone(440, rate=8000), 8000, subtype=kind)
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 8000
    np.testing.assert_allclose(samples[200:4000], tone(440, rate=8000)[200:4000], atol=0.03)


def test_compressed_samples_without_soundfile_say_what_to_install(tmp_path, monkeypatch):
    compressed = bytearray(written(tmp_path / "a.wav", tone(440)).read_bytes())
    struct.pack_into("<H", compressed, 20, 2)  # ADPCM
    (tmp_path / "a.wav").write_bytes(compressed)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(CapabilityError, match=r"install qwafer\[audio\]"):
        read_wav(tmp_path / "a.wav")


def test_a_chunk_that_nobody_knows_is_left_out(tmp_path):
    good = written(tmp_path / "a.wav", tone(440)).read_bytes()
    tagged = good + b"tags" + struct.pack("<I", 4) + b"abcd"
    tagged = tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]
    (tmp_path / "b.wav").write_bytes(tagged)
    np.testing.assert_array_equal(read_wav(tmp_path / "b.wav")[0], read_wav(tmp_path / "a.wav")[0])


@pytest.mark.parametrize("hertz", [110.0, 700.0, 2000.0, 9000.0])
def test_a_tone_is_a_line_in_its_band(hertz):
    picture = mel_picture(tone(hertz, 1.0), RATE, SMALL)
    assert picture.shape == (32, 1 + RATE // SMALL.hop)
    assert picture.min() >= 0
    assert picture.max() == 1
    band = 31 - int(picture[:, 20].argmax())  # low tones stand in the last row
    weights = mel_bands(RATE, 1024, 32)[:, round(hertz / RATE * 1024)]
    assert weights[band] > 0.4 * weights.max()


def test_mel_bands_have_area_one_and_cover_the_axis():
    """Slaney's bands: 1 / (width / 2) high, so that sum_f M df is 1 where a band spans many bins."""
    bands = mel_bands(RATE, 1 << 15, 40)
    np.testing.assert_allclose(bands.sum(axis=1) * RATE / (1 << 15), 1, atol=0.02)
    centres = bands.argmax(axis=1) * RATE / (1 << 15)
    below = centres[centres < 950]
    np.testing.assert_allclose(np.diff(below), np.diff(below)[0], atol=2)  # linear below 1 kHz
    above = centres[centres > 1100]
    np.testing.assert_allclose(above[1:] / above[:-1], (above[1:] / above[:-1]).mean(), rtol=0.01)


def test_the_power_is_that_of_a_transform_written_out():
    """Frame t is the windowed spectrum around sample t * hop, zeros outside: level differences are exact in dB."""
    rng = np.random.default_rng(0)
    x, o = 0.1 * rng.standard_normal(4000), SMALL
    padded = np.pad(x, (o.n_fft // 2, o.n_fft))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(o.n_fft) / o.n_fft)
    frames = [np.abs(np.fft.rfft(window * padded[t : t + o.n_fft])) ** 2 for t in range(0, 4000 + 1, o.hop)]
    energy = mel_bands(o.rate, o.n_fft, o.n_mels) @ np.stack(frames, axis=1)
    expected = np.clip(1 + 10 * np.log10(energy / energy.max()) / o.range_db, 0, 1)[::-1]
    np.testing.assert_allclose(mel_picture(x, o.rate, o), expected, atol=1e-6)


def test_loudness_rate_silence_and_length():
    quiet, loud = mel_picture(tone(700, loud=0.01), RATE, SMALL), mel_picture(tone(700, loud=0.9), RATE, SMALL)
    np.testing.assert_allclose(quiet, loud, atol=1e-4)
    other = mel_picture(tone(700, 1.0, 44_100), 44_100, SMALL)
    np.testing.assert_allclose(other[:, 5:30], mel_picture(tone(700, 1.0), RATE, SMALL)[:, 5:30], atol=0.25)
    assert other[:, 20].argmax() == mel_picture(tone(700, 1.0), RATE, SMALL)[:, 20].argmax()
    assert not mel_picture(np.zeros(5000), RATE, SMALL).any()
    for n in (1, 100, 30_000):
        assert mel_picture(np.ones(n), RATE, SMALL, seconds=1.0).shape == (32, 1 + RATE // SMALL.hop)
    with pytest.raises(InputError, match="at least one sample"):
        mel_picture(np.zeros(0), RATE)


@pytest.mark.parametrize(("shape", "size"), [((128, 216), 224), ((40, 300), 32), ((7, 5), 7)])
def test_pictures_are_resized_as_jax_does(shape, size):
    picture = np.random.default_rng(0).random(shape)
    expected = jax.image.resize(picture.astype(np.float32), (size, size), "linear", antialias=True)
    np.testing.assert_allclose(resize_linear(picture, size), expected, atol=2e-6)


def test_a_picture_is_grey_and_normalised_as_the_checkpoint_was():
    picture = np.full((6, 9), 0.25, np.float32)
    image = Preprocessing(8, "grey")([picture])
    np.testing.assert_allclose(image[0, 3, 3], (0.25 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD), rtol=1e-5)
    with pytest.raises(InputError, match="grey"):
        Preprocessing(8, "one-hot")([picture])


def rows(pictures):
    """Mean and spread of every band."""
    return [np.concatenate([picture.mean(axis=1), picture.std(axis=1)]) for picture in pictures]


def esc50(folder: Path, n: int = 30) -> Path:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(n):
        name, kind = f"1-{i}-A-{i % 2}.wav", ("dog", "rain")[i % 2]
        written(folder / "audio" / name, tone(300 + 40 * i + 3000 * (i % 2), 0.25))
        lines.append(f"{name},{1 + i // 6},{i % 2},{kind},False,{100 + i // 2},A")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return folder


def urban(folder: Path) -> Path:
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for i in range(12):
        name, fold = f"{200 + i // 2}-{i}.wav", 1 + i // 4
        written(
            folder / "audio" / f"fold{fold}" / name, tone(300 + 100 * i, 0.1 + 0.02 * i), rate=(8000, 44_100)[i % 2]
        )
        lines.append(f"{name},{200 + i // 2},0,1,1,{fold},{i % 2},{('siren', 'drilling')[i % 2]}")
    (folder / "metadata").mkdir()
    (folder / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_esc50_brings_its_folds_and_recordings_to_a_run(tmp_path):
    clips = read_audio(esc50(tmp_path / "ESC"))
    assert clips.source == "ESC-50 (ESC)"
    assert clips.label_names == ("dog", "rain")
    assert clips.maps.seconds == pytest.approx(0.25, abs=1e-3)
    features = features_from_maps(clips, rows)
    assert features.features.shape == (30, 256)
    np.testing.assert_array_equal(features.folds, (1 + np.arange(30) // 6).astype(str))
    np.testing.assert_array_equal(features.groups, (100 + np.arange(30) // 2).astype(str))
    assert features.provenance["drawing"]["n_mels"] == 128
    config = RunConfig(
        data=DataConfig(split_by="fold", task="rain"), head=head_options("linear"), training=training_options(epochs=3)
    )
    run = train(config, features, 2)
    assert set(features.folds[run.rows["test"]]) == {"3"}
    assert run.test.macro["roc_auc"] == 1.0


def test_urbansound_and_folders_of_classes(tmp_path):
    clips = read_audio(urban(tmp_path / "US"))
    assert clips.label_names == ("drilling", "siren")
    assert set(clips.folds) == {"1", "2", "3"}
    assert any("11 of 12 clips are shorter" in note for note in clips.notes)
    assert len({picture.shape for picture in clips.maps}) == 1
    cut = read_audio(tmp_path / "US", seconds=0.15)
    assert any("longer than 0.15 s and were cut" in note for note in cut.notes)
    for kind in ("on", "off"):
        for i in range(2):
            written(tmp_path / "own" / kind / f"{i}.WAV", tone(500 + 100 * i))
    (tmp_path / "own" / "on" / "x.mp3").write_bytes(b"x")
    own = read_audio(tmp_path / "own")
    assert (own.label_names, own.folds, own.groups) == (("off", "on"), None, None)
    assert own.notes == ("1 files that are not WAV were left out",)
    assert own.content_ids[0] == own.content_ids[2] != own.content_ids[1]


def broken(case: str, folder: Path) -> Path:
    if case == "missing file":
        next((esc50(folder) / "audio").iterdir()).unlink()
    elif case == "outside":
        table = esc50(folder) / "meta" / "esc50.csv"
        table.write_text(table.read_text().replace("1-0-A-0.wav", "../../x.wav"))
    elif case == "column":
        table = esc50(folder) / "meta" / "esc50.csv"
        table.write_text(table.read_text().replace("category", "kind"))
    elif case == "empty clip":
        written(esc50(folder) / "audio" / "1-4-A-0.wav", np.zeros(0))
    elif case == "long":
        written(folder / "a" / "x.wav", np.zeros(61 * 1000), rate=1000)
        written(folder / "b" / "x.wav", tone(100))
    elif case == "one class":
        written(folder / "a" / "x.wav", tone(100))
    return folder


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("missing file", "1 of the 30 files of meta/esc50.csv are missing"),
        ("outside", "names files outside of audio/"),
        ("column", "lacks the column category of ESC-50"),
        ("empty clip", "holds no samples"),
        ("long", "lasts 61 s"),
        ("one class", "at least two are needed"),
        ("no folder", "is not a folder"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_with_status_2(case, says, tmp_path, capsys):
    folder = broken(case, tmp_path / "data")
    out = str(tmp_path / "f.npz")
    assert extract(["--audio", str(folder), "--backbone", f"{__file__}:rows", "--out", out, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_the_verb_draws_sounds_into_networks_and_functions_only(tmp_path, capsys):
    folder, out = str(esc50(tmp_path / "E", 6)), tmp_path / "f.npz"
    network = ["--backbone", "mobilenet_v3_small", "--random-weights", "0", "--quiet"]
    assert extract(["--audio", folder, *network, "--out", str(out)]) == 0
    assert "6 clips x 576 features" in capsys.readouterr().out
    found = FeatureSet.load(out)
    assert found.folds is not None
    assert found.provenance["preprocessing"]["channels"] == "grey"
    pictures = list(read_audio(folder).maps)
    alone = extractor("mobilenet_v3_small", random_weights=0, channels="grey").features(pictures[:1])
    np.testing.assert_allclose(found.features[:1], alone, rtol=1e-4, atol=1e-5)
    for wrong, says in (
        (["--backbone", "spatial"], "takes wafer maps, not pictures"),
        ([], "--audio needs a --backbone"),
        ([*network, "--channels", "one-hot"], "--channels has no effect with --audio"),
        ([*network, "--seconds", "-1"], "`seconds` must lie in (0, 3600]"),
        ([*network, "--seconds", "0.1"], "exists and holds other features"),
    ):
        assert extract(["--audio", folder, *wrong, "--out", str(out)]) == 2
        assert says in capsys.readouterr().err


def test_samples_whose_squares_overflow_are_refused() -> None:
    with pytest.raises(InputError, match="full scale being 1, got 1e"):
        mel_picture(np.full(4096, 1e200), 16_000)
