"""`Answering`: a release, compiled for a few numbers of maps, in the one thread that computes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer.engines import get
from qwafer.serving.release import Release
from qwafer.serving.review import Answers

BATCHES = (1, 8, 64)
"""Examples per call of a compiled head: the smallest that holds what is asked."""


class Answering:
    """Maps in, `Answers` out; circuits run on engine `xla`, whatever the head was trained with.

    Raises CapabilityError for a head whose circuit `xla` cannot run, or whose run measured with finite shots: exact
    values would be those of another model.
    """

    def __init__(self, release: Release) -> None:
        model = release.model
        self.release, self.version, self.backbone = release, release.version, model.backbone
        config, head = model.head.config, model.head
        if config.circuit is not None and config.engine is not None:
            if getattr(config.engine, "shots", None) is not None:
                raise CapabilityError(
                    "the head was evaluated with finite shots, and the service computes exact values: evaluate it "
                    "without (engine.shots = none)"
                )
            reason = get("xla").why_not(config.circuit.circuit(len(model.label_names)))
            if reason is not None:
                raise CapabilityError(f"engine xla cannot run the circuit of the head: {reason}")
            head = dataclasses.replace(head, config=dataclasses.replace(config, engine=get("xla")))
        self.head = head
        self.label_names = model.label_names
        self.halts = False
        """Whether answers say how many steps they took; known after `warm`."""

    def __call__(self, maps: Sequence[np.ndarray]) -> Answers:
        """Return the answers for maps, 2-D uint8 arrays of any shapes."""
        size = self.backbone.compute_batch
        features_of = self.backbone.quick or self.backbone.features
        groups = [features_of(maps[i : i + size]) for i in range(0, len(maps), size)]
        features = groups[0] if len(groups) == 1 else np.concatenate(groups)
        if not np.isfinite(features).all():
            raise InputError("the backbone gives features that are not finite for these maps")
        batch = next((n for n in BATCHES if n >= len(maps)), BATCHES[-1])
        logits, steps = self.head.answered(features, batch=batch)
        answers = self.release.review.answers(logits, features, self.head.thresholds, self.label_names)
        return dataclasses.replace(answers, steps_used=steps)

    def warm(self) -> "Answering":
        """Compile every program that a number of maps may take, on maps of 26 x 26 dies, and return itself."""
        doubled = (1 << k for k in range(self.backbone.compute_batch.bit_length()))
        for n in sorted({*BATCHES, *(doubled if self.backbone.quick else ())}):
            found = self([np.pad(np.ones((24, 24), np.uint8), 1)] * n)
            self.halts = found.steps_used is not None
        self.head.head.compile_halted()
        return self
