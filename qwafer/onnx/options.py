"""How a network is quantised."""

from dataclasses import dataclass

from qwafer._checks import LARGEST_SEED, check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError


@dataclass(frozen=True)
class Int8Options:
    """How a model is quantised to 8 bits, fine-tuned and measured."""

    calibration_maps: int = 500
    """Maps that the ranges of activations come from, 100 to 1,000, in proportion to the combinations of labels, and at
    least one of each where there are as many."""
    calibrate_on: str = "train"
    """The part of the split that they are from: `train` or `val`, never `test`."""
    fine_tune_epochs: int = 0
    """Passes over the training split of quantisation-aware fine-tuning; 0: none."""
    learning_rate: float = 3e-4
    """Peak learning rate of the fine-tuning (Adam, one cycle)."""
    batch_size: int = 32
    """Maps per step of the fine-tuning."""
    latency_calls: int = 500
    """Timed calls per file and batch; 0: latency is not measured."""
    latency_batches: tuple[int, ...] = (1, 32)
    """Maps per call of the measured latency."""
    seed: int = 0
    """Seed of the calibration maps, the batches and the augmentation."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("calibration_maps", self.calibration_maps, minimum=100, maximum=1000)
        if self.calibrate_on == "test":
            raise InputError(
                "`calibrate_on` must not be test: ranges fitted on the test split would leak it; use train"
            )
        check_choice("calibrate_on", self.calibrate_on, ("train", "val"))
        check_positive_int("fine_tune_epochs", self.fine_tune_epochs, minimum=0, maximum=1_000_000)
        check_interval("learning_rate", self.learning_rate, 0, 1, open_low=True)
        check_positive_int("batch_size", self.batch_size, maximum=1_000_000)
        check_positive_int("latency_calls", self.latency_calls, minimum=0, maximum=1_000_000)
        object.__setattr__(self, "latency_batches", tuple(self.latency_batches))
        for batch in self.latency_batches:
            check_positive_int("latency_batches", batch, maximum=1_000_000)
        check_positive_int("seed", self.seed, minimum=0, maximum=LARGEST_SEED)
