"""`Int8Report`: what INT8 costs and gains, measured in one run."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.evaluation import Interval
from qwafer.onnx.calibration import Calibration
from qwafer.onnx.fine_tune import FineTuning
from qwafer.onnx.runtime import Latency
from qwafer.training import Environment


@dataclass(frozen=True)
class Agreement:
    """How near a graph in ONNX Runtime is to the same graph in JAX, on the validation maps."""

    largest: float
    """Largest difference of a logit."""
    spread: float
    """Standard deviation of all logits, which says what a difference means."""
    decisions: float
    """Fraction of equal decisions, map by map and label by label."""


@dataclass(frozen=True)
class Variant:
    """One file: what it says of the test split, its bytes, its speed."""

    name: str
    """`float32` or `int8`, either also `fine-tuned`."""
    file: str
    """Name of the file."""
    against: str | None
    """The variant that it is compared with, of as much training; None for float32."""
    file_bytes: int
    """Its length."""
    weight_bytes: int
    """Bytes of the weights of convolutions and matrices alone."""
    thresholds: tuple[float, ...]
    """Thresholds tuned on validation, from the logits of this file; empty for exclusive classes."""
    val_f1: float
    """Macro F1 of the validation split at these thresholds."""
    test_f1: float
    """Macro F1 of the test split."""
    test_exact_match: float
    """Fraction of test maps of which every label is right."""
    f1_gain: Interval | None
    """Macro F1 less that of `against`, with its BCa interval over test maps."""
    exact_match_gain: Interval | None
    """Exact match less that of `against`, with its BCa interval over test maps."""
    agreement: Agreement
    """Of float32 with `Model.predict`; of the others with the same graph in JAX, which fine-tuning trains."""
    integer_layers: int
    """Convolutions and matrices that the runtime runs in 8 bits."""
    layers: int
    """Convolutions and matrices."""
    latency: tuple[Latency, ...]
    """By batch; empty where it was not measured."""


@dataclass(frozen=True)
class Int8Report:
    """A quantisation: where the ranges come from, and each file against float32, on the same maps in one run."""

    SCHEMA: ClassVar[str] = "qwafer/int8/1"

    network: str
    """Name of the backbone."""
    head: str
    """Name of the head."""
    random_weights: int | None
    """Seed of the weights of the backbone, where they were drawn and not trained."""
    options: dict[str, Any]
    """The `Int8Options`."""
    split: str
    """Digest of the split: that of the run that trained the model."""
    n_maps: dict[str, int]
    """Maps in each part of it."""
    calibration: Calibration
    """The maps that gave the ranges."""
    fine_tuning: dict[str, FineTuning]
    """How the fine-tuning of a variant went; empty where there was none."""
    variants: tuple[Variant, ...]
    """Each file, float32 first."""
    runtime: str
    """Version of ONNX Runtime; latency is that of one thread."""
    environment: Environment
    """The machine and the packages."""

    def table(self) -> str:
        """Return the files as a Markdown table: in brackets the difference from float32 of as much training with its
        interval, latency in microseconds per call.
        """
        batches = [each.batch for each in self.variants[0].latency]
        timed = [f"{batch} map{'s' * (batch > 1)}, p50 / p99" for batch in batches]
        header = ["file", "bytes", "of float32", "macro F1", "exact match", "8-bit layers", *timed]
        lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
        for each in self.variants:
            cells = [each.name, f"{each.file_bytes:,}", f"{each.file_bytes / self.variants[0].file_bytes:.3f}"]
            cells.append(_with_gain(each.test_f1, each.f1_gain))
            cells.append(_with_gain(each.test_exact_match, each.exact_match_gain))
            cells.append(f"{each.integer_layers} of {each.layers}")
            cells += [f"{latency.p50:,.0f} / {latency.p99:,.0f}" for latency in each.latency]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def _with_gain(value: float, gain: Interval | None) -> str:
    return f"{value:.4f}" if gain is None else f"{value:.4f} ({gain.estimate:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])"
