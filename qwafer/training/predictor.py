"""`Predictor`: a trained head ready to use, and its file."""

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qwafer._errors import InputError
from qwafer._io import atomic_path, canonical_json
from qwafer.config import RunConfig
from qwafer.heads import Head, predict_logits
from qwafer.training._judge import Judgement
from qwafer.training._prepare import Prepared
from qwafer.training.make import make_head, make_program

PREDICTION_BATCH = 256
"""Examples a call; the last batch is padded, so that one program serves any number."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained head with what is needed to run it: features (N, D) in, logits and probabilities (N, n_labels) out."""

    config: RunConfig
    """The configuration of its run."""
    head: Any
    """The `Head` at the best checkpoint, or what the `fit` of a contender returned."""
    label_names: tuple[str, ...]
    """Its labels."""
    thresholds: tuple[float, ...]
    """Logit above which each label is predicted, tuned on validation; empty for exclusive classes (largest logit)."""
    n_features: int
    """D, the features of an example."""
    seed: int = 0
    """The seed of its run; it matters for finite shots alone."""

    @classmethod
    def of(cls, config: RunConfig, head: Any, prepared: Prepared, judged: Judgement, seed: int) -> "Predictor":
        """Return the predictor of a run."""
        width = prepared.data.features.shape[1]
        return cls(config, head, prepared.data.label_names, judged.thresholds, width, seed)

    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return the logits of `features`, which must be those that the head's backbone makes."""
        if not isinstance(self.head, Head):
            return np.asarray(self.head.logits(np.asarray(features)))
        program = make_program(self.config, self.head.n_labels, PREDICTION_BATCH, gradient=False, seed=self.seed)
        return predict_logits(self.head, np.asarray(features), program, PREDICTION_BATCH)

    def probabilities(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return sigmoid(logits), each label on its own; softmax(logits) where the head was trained for exclusive
        classes.
        """
        from qwafer.evaluation.exclusive import softmax
        from qwafer.evaluation.metrics import sigmoid

        logits = self.logits(features)
        return softmax(logits) if self.config.objective.exclusive else sigmoid(logits)

    def save(self, path: str | Path) -> None:
        """Write the head, its configuration, labels and thresholds to `path` as NPZ, atomically, without pickles."""
        if not isinstance(self.head, Head):
            raise InputError(f"head {self.config.name('head')} trains itself: keep its configuration, and fit it again")
        arrays: dict[str, Any] = {f"params/{name}": np.asarray(value) for name, value in self.head.params.items()}
        arrays |= {f"buffers/{name}": np.asarray(value) for name, value in self.head.buffers.items()}
        record = {
            "config": self.config.to_dict(),
            "label_names": self.label_names,
            "thresholds": self.thresholds,
            "seed": self.seed,
            "n_features": self.n_features,
        }
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, record=np.array(canonical_json(record)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Predictor":
        """Return the predictor saved at `path`; raises InputError where the file is not one."""
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            record = json.loads(arrays.pop("record").item())
            config = RunConfig.from_dict(record["config"])
            saved: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}
            for name, value in arrays.items():
                kind, key = name.split("/", 1)
                saved[kind][key] = jnp.asarray(value)
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a saved predictor ({error})") from error
        # The saved arrays replace those of a blank head of the same widths.
        blank = np.zeros((2, record["n_features"]), np.float32)
        head = make_head(config, blank, len(record["label_names"]), seed=0)
        head = dataclasses.replace(head, params=saved["params"], buffers=saved["buffers"])
        return cls(
            config,
            head,
            tuple(record["label_names"]),
            tuple(record["thresholds"]),
            record["n_features"],
            record["seed"],
        )
