"""`Predictor`: a trained head ready to use, and its file."""

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from qwafer._arrays import real_array
from qwafer._checks import LARGEST_SEED, check_positive_int
from qwafer._errors import CapabilityError, InputError
from qwafer._io import atomic_path, canonical_json
from qwafer._reading import reads
from qwafer.backbones.checkpoints import read_tensors, write_tensors
from qwafer.backbones.chunks import difference
from qwafer.config import RunConfig
from qwafer.data.files import ZIP_MAGIC, check_file, read_npz
from qwafer.features import FeatureSet, Origin, as_features, check_finite, fingerprint
from qwafer.heads import Stored
from qwafer.heads.size import packed_file_bytes
from qwafer.training._judge import Judgement
from qwafer.training._prepare import Prepared
from qwafer.training.make import circuit_digest, make_head, make_program

if TYPE_CHECKING:
    from qwafer.heads import Head

MAX_BLANK = 2**24
"""Numbers of the blank examples from which a saved head is made again; beyond, there are fewer examples."""
PREDICTION_BATCH = 256
"""Examples a call; the last batch is padded, so that one program serves any number."""
_PACKED, _HEAD, _THRESHOLDS = "qwafer_predictor", "head/", "thresholds"
"""Of a packed file: the entry of its metadata, the prefix of the head's arrays, the array of thresholds."""


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
    n_train: int
    """M, the training examples its head was made from."""
    seed: int = 0
    """The seed of its run; it matters for finite shots alone."""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where the features that it was trained on come from: `FeatureSet.provenance`. Its `fingerprint` tells other
    features from those that the head understands."""
    split: str = ""
    """Digest of the split of its run (`Split.digest`); empty where an older file does not say."""

    @classmethod
    def of(cls, config: RunConfig, head: Any, prepared: Prepared, judged: Judgement, seed: int) -> "Predictor":
        """Return the predictor of a run."""
        data, n_train = prepared.data, len(prepared.split.train)
        width = data.features.shape[1]
        widths, digest = (width, n_train), prepared.split.digest
        return cls(config, head, data.label_names, judged.thresholds, *widths, seed, data.provenance, digest)

    def logits(
        self, features: FeatureSet | Float[np.ndarray, "N D"], *, batch: int = PREDICTION_BATCH
    ) -> Float[np.ndarray, "N n_labels"]:
        """Return the logits of `features`, which must be those that the head's backbone makes.

        They are computed `batch` at a time, the last ones padded: each value is a compiled program of its own.

        A `FeatureSet` says which backbone made it, and features of another one are refused. A bare array, of any real
        type, says nothing of itself: only its width is compared.

        Raises:
            InputError: another number of features than the head was trained on, features that are not finite in
                float32, or those of another backbone, of other weights or of another preprocessing; features so large,
                or a head so diverged, that a logit is not finite: a NaN would pass for "no defect".
        """
        return self._logits(self._checked(features), batch)

    def answered(
        self, features: FeatureSet | Float[np.ndarray, "N D"], *, batch: int = PREDICTION_BATCH
    ) -> tuple[Float[np.ndarray, "N n_labels"], Int[np.ndarray, " N"] | None]:
        """Return the `logits`, and the steps that each example took where the head halts, None where it does not.

        A head that halts (`head.halt_threshold` below 1) computes an example no further than to its last step. Its
        logits are those of `logits` to rounding, but where rounding decides whether an example halts.
        """
        values = self._checked(features)
        if not hasattr(self.head, "halted"):
            return self._logits(values, batch), None
        from qwafer.engines.process import check_not_forked

        check_not_forked()
        found = self._evaluated.halted(values) if len(values) else None
        if found is None:
            return self._logits(values, batch), None
        return _finite(found.logits, values), found.steps_used

    def _checked(self, features: FeatureSet | Float[np.ndarray, "N D"]) -> np.ndarray:
        """Return the features (N, D) as the head takes them; see `logits`."""
        if isinstance(features, FeatureSet):
            self.check_made_alike(features.provenance)
            features = features.features
        values = as_features(features)
        if values.ndim != 2 or values.shape[1] != self.n_features:
            found = f"{values.shape[1]} features" if values.ndim == 2 else f"an array of shape {values.shape}"
            raise InputError(f"the head was trained on {self.n_features} features for each example, got {found}")
        check_finite(values)
        return values

    def _logits(self, values: np.ndarray, batch: int) -> np.ndarray:
        """Return the logits of features that are checked."""
        from qwafer.heads import Head, predict_logits

        if not isinstance(self.head, Head):
            return _finite(np.asarray(self.head.logits(values)), values)
        check_positive_int("batch", batch)
        program = make_program(self.config, self.head.n_labels, batch, gradient=False, seed=self.seed)
        return _finite(predict_logits(self._evaluated, values, program, batch), values)

    @functools.cached_property
    def _evaluated(self) -> "Head":
        """The head as it is stored, which is what predicts."""
        head: Head = self.head.packed()
        return head

    def check_made_alike(self, provenance: Mapping[str, Any]) -> None:
        """Raise InputError where features of this `provenance` are made otherwise than those that the head was trained
        on; where one of the two names no backbone, nothing can be said.
        """
        trained, given = fingerprint(self.provenance), fingerprint(provenance)
        if trained and given and trained != given:
            raise InputError(
                "the features are not those that the head was trained on: what made them differs "
                f"({difference(trained, given)})"
            )

    def probabilities(self, features: FeatureSet | Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return sigmoid(logits), each label on its own; softmax(logits) where the head was trained for exclusive
        classes; see `logits` for what is refused.
        """
        from qwafer.evaluation.exclusive import probabilities

        return probabilities(self.logits(features), exclusive=self.config.objective.exclusive)

    def save(self, path: str | Path, *, packed: bool = False) -> None:
        """Write the head, its configuration, labels and thresholds to `path`, atomically, without pickles.

        As NPZ with every parameter as it was trained, or, `packed`, as safetensors with every number in as many bits as
        `size_of` counts: what predicts, and cannot be trained further. `load` reads both.

        Raises InputError for a contender, for a head that its arrays would not give back, for a packed head where
        `packed` is not set, and where it is set for a head with numbers that are not finite.
        """
        blank = self._checked_blank()
        record: dict[str, Any] = {
            "config": self.config.to_dict(),
            "label_names": self.label_names,
            "seed": self.seed,
            "n_features": self.n_features,
            "n_train": self.n_train,
            "provenance": self.provenance,
            "split": self.split,
            **_circuit_of(self.config, len(self.label_names)),
        }
        if packed:
            for name, value in {**self.head.params, **self.head.buffers}.items():
                if not np.isfinite(np.asarray(value)).all():
                    raise InputError(f"`{name}` of the head is not finite: nothing that predicts can be packed")
            blank.check_stored({name: part.array for name, part in self.head.stored().items()})
            arrays = {name: part.array for name, part in self.stored().items()}
            write_tensors(path, arrays, {_PACKED: canonical_json(record)})
            return
        if self.head.is_packed:
            raise InputError("the head is packed, and its trained parameters are gone: save it with packed=True")
        misfit = _misfit(blank, self.head.params, self.head.buffers)
        if misfit is not None:
            raise InputError(
                f"head {self.config.name('head')} has other names or shapes for other data or another seed ({misfit}), "
                "so that a file would not give it back: let its options, the number of training examples and D decide "
                "them"
            )
        arrays = {f"params/{name}": np.asarray(value) for name, value in self.head.params.items()}
        arrays |= {f"buffers/{name}": np.asarray(value) for name, value in self.head.buffers.items()}
        record["thresholds"] = self.thresholds
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, record=np.array(canonical_json(record)), **arrays)

    def stored(self) -> dict[str, Stored]:
        """Return what a packed file holds: the arrays of the head, and the thresholds; raise CapabilityError for a
        contender that does not say.
        """
        if not hasattr(self.head, "stored"):
            raise CapabilityError(
                f"the size of head {self.config.name('head')} is not known: it does not define `stored`"
            )
        arrays: dict[str, Stored] = {f"{_HEAD}{name}": part for name, part in self.head.stored().items()}
        return {**arrays, _THRESHOLDS: Stored.plain(np.asarray(self.thresholds, np.float64))}

    def file_bytes(self) -> int:
        """Return the length of the packed file, by writing it to a temporary folder."""
        return packed_file_bytes(self)

    def _checked_blank(self) -> "Head":
        """Return the blank head that a file's arrays fill; raise InputError for a head that it would not give back."""
        from qwafer.heads import Head

        if not isinstance(self.head, Head):
            raise InputError(f"head {self.config.name('head')} trains itself: keep its configuration, and fit it again")
        blank = _blank(self.config, self.n_train, self.n_features, len(self.label_names), self.provenance)
        kept = _kept_elsewhere(blank, self.head)
        if kept is not None:
            raise InputError(
                f"head {self.config.name('head')} keeps {kept} outside of `params` and `buffers`, so that a file would "
                "not give it back: put state that comes from data or seed into `buffers`"
            )
        return blank

    @classmethod
    @reads("is not a saved predictor")
    def load(cls, path: str | Path) -> "Predictor":
        """Return the predictor saved at `path`, packed or not; raises InputError where the file is not one."""
        import jax.numpy as jnp

        try:
            with check_file(path).open("rb") as file:
                packed = file.read(len(ZIP_MAGIC)) != ZIP_MAGIC
            arrays, record = _read_packed(path) if packed else _read_npz(path)
            config = RunConfig.from_dict(record["config"])
            label_names, thresholds = _labels(record["label_names"], record["thresholds"])
            for name, minimum in (("n_train", 1), ("seed", 0)):
                check_positive_int(name, record[name], minimum=minimum, maximum=LARGEST_SEED)
            check_positive_int("n_features", record["n_features"], maximum=MAX_BLANK)
            if not isinstance(record["provenance"], dict):
                raise InputError(f"`provenance` must be a dict of JSON data, got {record['provenance']!r}")
            split = record.get("split", "")
            if not isinstance(split, str):
                raise InputError(f"`split` must be the digest of a split, got {split!r}")
            saved: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}
            for name, value in arrays.items() if not packed else ():
                kind, key = name.split("/", 1)
                saved[kind][key] = jnp.asarray(value)
        except InputError as error:
            raise InputError(f"{path} is not a saved predictor ({error})") from error
        _check_circuit(config, len(label_names), record, path)
        # The saved arrays replace those of a blank head of the same widths.
        blank = _blank(config, record["n_train"], record["n_features"], len(label_names), record["provenance"])
        if packed:
            try:
                head = blank.with_stored(arrays)
            except InputError as error:
                raise InputError(f"{path} is not a saved predictor ({error})") from error
        else:
            misfit = _misfit(blank, saved["params"], saved["buffers"])
            if misfit is not None:
                raise InputError(f"{path} is not a saved predictor (its arrays do not fit its configuration: {misfit})")
            head = dataclasses.replace(blank, params=saved["params"], buffers=saved["buffers"])
        widths = record["n_features"], record["n_train"]
        return cls(config, head, label_names, thresholds, *widths, record["seed"], record["provenance"], split)


def _read_npz(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the record of a predictor whose parameters are as they were trained."""
    arrays = read_npz(Path(path))
    return arrays, json.loads(arrays.pop("record").item())


def _read_packed(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the stored arrays and the record of a packed predictor."""
    tensors, metadata = read_tensors(path)
    if _PACKED not in metadata or _THRESHOLDS not in tensors:
        raise InputError("it is another safetensors file")
    record = json.loads(metadata[_PACKED])
    record["thresholds"] = real_array(_THRESHOLDS, tensors.pop(_THRESHOLDS), ("labels",)).tolist()
    return {name.removeprefix(_HEAD): value for name, value in tensors.items()}, record


def _finite(logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return `logits` (N, n_labels); raise InputError where one of them is not finite."""
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise InputError(
            f"the head has no finite logit for {len(wrong)} of {len(logits)} examples, the first in row {wrong[0]}, "
            f"whose largest feature is {np.abs(features[wrong[0]]).max():.3g}: features are too large, or the head "
            "diverged in training"
        )
    return logits


def _labels(names: Any, thresholds: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the labels and thresholds of a record, checked."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"`label_names` must be a list of names, got {names!r}")
    finite = isinstance(thresholds, list) and all(type(x) in (int, float) and math.isfinite(x) for x in thresholds)
    if not finite or len(thresholds) not in (0, len(names)):
        raise InputError(f"`thresholds` must be a list of one finite number per label, got {thresholds!r}")
    return tuple(names), tuple(float(value) for value in thresholds)


def _circuit_of(config: RunConfig, n_labels: int) -> dict[str, str]:
    """Return what tells the circuit of a captured function from another: its digest, and the JAX that traced it."""
    own = circuit_digest(config, n_labels)
    return {"circuit": own, "jax": version("jax")} if own else {}


def _check_circuit(config: RunConfig, n_labels: int, record: Mapping[str, Any], path: str | Path) -> None:
    """Raise InputError where the circuit of `config` is not that of `record`; warn where another JAX traced that."""
    here = _circuit_of(config, n_labels)
    if here.get("circuit") == record.get("circuit"):
        return
    name = getattr(config.circuit, "function", config.name("circuit"))
    if here and here["jax"] != record.get("jax"):
        warnings.warn(
            f"{path} was saved with JAX {record.get('jax')}, and with {here['jax']} it cannot be told whether "
            f"`circuit.function` = {name} is still the circuit that was trained",
            UserWarning,
            stacklevel=3,
        )
        return
    raise InputError(
        f"{path} cannot be used: `circuit.function` = {name}, or what it calls, is not the circuit any longer that was "
        "trained"
    )


def _blank(config: RunConfig, n_train: int, n_features: int, n_labels: int, provenance: Mapping[str, Any]) -> "Head":
    """Return the head of `config` made from zeros, seed 0: a file holds its arrays, and this gives everything else."""
    rows = min(n_train, max(1, MAX_BLANK // n_features))
    try:
        origin = Origin(provenance, np.zeros(0, np.uint8))
        return make_head(config, np.zeros((rows, n_features), np.float32), n_labels, seed=0, origin=origin)
    except Exception as error:
        raise InputError(
            f"head {config.name('head')} cannot be made from blank features, as its file needs "
            f"({type(error).__name__}: {error})"
        ) from error


def _kept_elsewhere(blank: "Head", head: "Head") -> str | None:
    """Return what of `head`, beside the arrays of `params` and `buffers`, `blank` does not have; None if nothing."""
    if type(blank) is not type(head):
        return f"its class {type(head).__name__}"
    names = [field.name for field in dataclasses.fields(head) if field.name not in ("params", "buffers")]
    return next((f"`{name}`" for name in names if not _same(getattr(blank, name), getattr(head, name))), None)


def _misfit(blank: "Head", params: dict[str, Any], buffers: dict[str, Any]) -> str | None:
    """Return the first array whose shape is not that of `blank`, or that only one of both has; None if all fit."""
    for kind, there, here in (("params", blank.params, params), ("buffers", blank.buffers, buffers)):
        for name in sorted({*there, *here}):
            shapes = [np.shape(arrays[name]) if name in arrays else "none" for arrays in (here, there)]
            if shapes[0] != shapes[1]:
                return f"`{kind}` {name}: {shapes[0]}, and {shapes[1]} in a blank head"
    return None


def _same(one: Any, other: Any) -> bool:
    """Return whether two values of a field are equal; what cannot be compared is not."""
    import equinox as eqx
    import jax

    try:
        if isinstance(one, (np.ndarray, jax.Array)) and isinstance(other, (np.ndarray, jax.Array)):
            a, b = np.asarray(one), np.asarray(other)
            return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        if type(one) is not type(other):
            return False
        if isinstance(one, eqx.Module):
            return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
        if isinstance(one, (list, tuple)):
            return len(one) == len(other) and all(map(_same, one, other))
        return one is other or bool(one == other)
    except Exception:
        return False
