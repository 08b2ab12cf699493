"""Labelled WAV files: ESC-50, UrbanSound8K, or a folder per class; drawn as pictures for a backbone."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from qwafer._checks import check_interval, check_path, check_printable
from qwafer._errors import CapabilityError, InputError
from qwafer._reading import reads
from qwafer.data.arrays import as_labels, as_texts
from qwafer.data.files import check_file
from qwafer.data.maps import CONTENT_ID_DTYPE, check_labels, check_rows
from qwafer.data.spectrogram import MelOptions, mel_picture
from qwafer.data.tables import check_whole, read_columns

LONGEST_SECONDS = 60.0
"""Clips are no longer than this, unless `seconds` cuts them."""
LAYOUTS = {
    "ESC-50": ("meta/esc50.csv", ("filename", "category", "fold", "src_file")),
    "UrbanSound8K": ("metadata/UrbanSound8K.csv", ("slice_file_name", "class", "fold", "fsID")),
}
"""By name of the data set: its table, and the columns of file, class, fold and recording."""


@dataclass(frozen=True)
class Pictures(Sequence[np.ndarray]):
    """The spectrograms of WAV files, drawn one by one when they are asked for."""

    paths: tuple[Path, ...]
    """Files."""
    options: MelOptions
    """How they are drawn."""
    seconds: float
    """The length that is drawn of each."""

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | Pictures":
        """Return the picture (n_mels, frames) float32 at `index`."""
        if isinstance(index, slice):
            return Pictures(self.paths[index], self.options, self.seconds)
        return mel_picture(*read_wav(self.paths[index]), self.options, seconds=self.seconds)


@dataclass(frozen=True, eq=False)
class Clips:
    """Labelled sounds, as extraction reads them: the fields that they share with `WaferMaps` mean the same."""

    maps: Pictures
    """N pictures (n_mels, frames) float32 from 0 to 1."""
    labels: np.ndarray
    """(N, K) uint8 of 0 and 1, one 1 per row."""
    label_names: tuple[str, ...]
    """K classes."""
    content_ids: np.ndarray
    """(N,) of 16 hex digits; equal for clips of equal samples."""
    source: str
    """What was read, in words."""
    sha256: str
    """SHA-256 of the names and content ids of all files."""
    groups: np.ndarray | None = None
    """(N,) str: the recording that a clip is cut from, where that is known."""
    folds: np.ndarray | None = None
    """(N,) str: the published fold of each clip."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out or changed."""
    exclusive: bool = True
    """Every clip has one class."""
    times: None = field(default=None, init=False)
    """Sounds have no order in time."""

    def __post_init__(self) -> None:
        n = len(self.maps)
        check_labels(self.labels, self.label_names, n, self.source, exclusive=self.exclusive)
        check_rows(self.content_ids, self.groups, self.times, n, self.source)

    def __len__(self) -> int:
        return len(self.maps)

    def drawing(self) -> dict[str, Any]:
        """Return what determines the pictures beside the sounds."""
        return {"kind": "log-mel spectrogram", **asdict(self.maps.options), "seconds": self.maps.seconds}


def read_audio(folder: str | Path, *, seconds: float | None = None, options: MelOptions | None = None) -> Clips:
    """Return the WAV files of `folder`: ESC-50 or UrbanSound8K with their folds, or `CLASS/*.wav` of one's own.

    All clips are drawn over `seconds`, by default the length of the longest: longer ones are cut, shorter ones followed
    by silence. Channels are averaged. Every file is read once to check it, and again when it is drawn.

    Raises:
        InputError: no such folder, files that are missing, damaged, empty or no WAV, fewer than two classes, or clips
            of more than a minute without `seconds`.
    """
    folder = check_path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a data set of WAV files")
    if seconds is not None:
        check_interval("seconds", seconds, 0, 3600, open_low=True)
    listing = _listed(folder)
    paths, notes = tuple(folder / name for name in listing.names), list(listing.notes)
    found = [_facts(path) for path in paths]
    lengths = [length for _, length in found]
    if seconds is None:
        seconds = max(lengths)
        if seconds > LONGEST_SECONDS:
            raise InputError(
                f"{paths[int(np.argmax(lengths))]} lasts {seconds:.0f} s, and clips of more than {LONGEST_SECONDS:g} s "
                "are not drawn whole: say how much of each counts (seconds)"
            )
    cut, filled = sum(length > seconds + 1e-3 for length in lengths), sum(length < seconds - 1e-3 for length in lengths)
    notes += [f"{cut} of {len(paths)} clips are longer than {seconds:g} s and were cut"] if cut else []
    notes += [f"{filled} of {len(paths)} clips are shorter than {seconds:g} s; silence follows them"] if filled else []
    labels, label_names, _ = as_labels(np.array(listing.classes), len(paths), exclusive=True)
    ids = np.array([own for own, _ in found], CONTENT_ID_DTYPE)
    content = "\n".join(f"{name} {own}" for name, own in zip(listing.names, ids, strict=True))
    return Clips(
        maps=Pictures(paths, MelOptions() if options is None else options, float(seconds)),
        labels=labels,
        label_names=label_names,
        content_ids=ids,
        source=f"{listing.kind} ({folder.resolve().name})",
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        groups=as_texts("groups", listing.groups, len(paths)),
        folds=as_texts("folds", listing.folds, len(paths)),
        notes=tuple(notes),
    )


@reads("is not a whole WAV file")
def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Return the samples (n,) float32 of a WAV file, the mean of its channels, and how many of them make a second.

    Full scale is -1 to 1 for 8, 16, 24 and 32 bits; floats are taken as they are. SciPy reads these; compressed samples
    (ADPCM, as in a few files of UrbanSound8K, A-law, mu-law) are read by soundfile.

    Raises:
        InputError: a file that is missing, damaged, cut off, without samples, or with some that are not finite.
        CapabilityError: compressed samples without soundfile.
    """
    path = check_file(path)
    rate, samples = _decoded(path)
    if samples.size == 0:
        raise InputError(f"{path} holds no samples: its clip is empty")
    if not 1 <= rate <= 10_000_000:
        raise InputError(f"{path} says that it has {rate} samples per second: is it damaged?")
    values = samples.astype(np.float64)
    if samples.dtype.kind == "u":
        values = (values - 128) / 128
    elif samples.dtype.kind == "i":  # 24 bits come in the upper bytes of 32
        values = values / -float(np.iinfo(samples.dtype).min)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds samples that are not finite")
    return (values if values.ndim == 1 else values.mean(axis=1)).astype(np.float32), int(rate)


def _decoded(path: Path) -> tuple[int, np.ndarray]:
    """Return the rate and the samples (n,) or (n, channels) as their type has them."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("error", wavfile.WavFileWarning)
        warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)  # tags, cue points
        try:
            rate, samples = wavfile.read(io.BytesIO(path.read_bytes()))
        except ValueError as error:
            if "wave file format" not in str(error):
                raise
            return _decompressed(path)
    return int(rate), samples


def _decompressed(path: Path) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError as error:
        raise CapabilityError(
            f"{path} holds compressed samples, which need the package soundfile: install qwafer[audio], or convert the "
            "file to PCM"
        ) from error
    samples, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float64")
    return int(rate), samples


def _facts(path: Path) -> tuple[str, float]:
    """Return the content id and the seconds of a file."""
    samples, rate = read_wav(path)
    head = f"{rate}:".encode()
    return hashlib.sha256(head + samples.tobytes()).hexdigest()[:16], len(samples) / rate


@dataclass(frozen=True)
class _Listing:
    """The files of a folder, and what is known of them."""

    names: list[str]
    classes: list[str]
    kind: str
    folds: np.ndarray | None = None
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def _listed(folder: Path) -> _Listing:
    for kind, (table, wanted) in LAYOUTS.items():
        if (folder / table).is_file():
            return _published(folder, kind, table, wanted)
    return _by_class(folder)


def _published(folder: Path, kind: str, table: str, wanted: Sequence[str]) -> _Listing:
    """Return the files that the table of a data set lists."""
    columns = read_columns(folder / table)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InputError(f"{folder / table} lacks the column {missing[0]} of {kind}")
    for role, name in zip(("file", "label", "fold", "group"), wanted, strict=True):
        check_whole(folder / table, role, name, columns[name])
    files, classes, folds, groups = (columns[name] for name in wanted)
    parts = [(f"fold{fold}",) if kind == "UrbanSound8K" else () for fold in folds.tolist()]
    places = [("audio", *part, str(file)) for part, file in zip(parts, files.tolist(), strict=True)]
    if any(Path(*place).parts != place or ".." in place for place in places):
        raise InputError(f"{folder / table} names files outside of audio/")
    names = ["/".join(place) for place in places]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise InputError(
            f"{folder}: {len(absent)} of the {len(names)} files of {table} are missing, the first is {absent[0]}"
        )
    return _Listing(names, classes.astype(str).tolist(), kind, folds, groups)


def _by_class(folder: Path) -> _Listing:
    """Return `CLASS/*.wav`."""
    names: list[str] = []
    classes: list[str] = []
    others = 0
    for sub in sorted(folder.iterdir()):
        if not sub.is_dir() or sub.name.startswith("."):
            continue
        check_printable("the name of a class", sub.name)
        for path in sorted(sub.iterdir()):
            if path.suffix.lower() == ".wav" and path.is_file():
                names.append(f"{sub.name}/{path.name}")
                classes.append(sub.name)
            else:
                others += not path.name.startswith(".")
    if len(set(classes)) < 2:
        raise InputError(
            f"{folder} holds WAV files of {len(set(classes))} classes, and at least two are needed: one folder per "
            "class, or the layout of ESC-50 (meta/esc50.csv) or UrbanSound8K (metadata/UrbanSound8K.csv)"
        )
    notes = (f"{others} files that are not WAV were left out",) if others else ()
    return _Listing(names, classes, "WAV files", notes=notes)
