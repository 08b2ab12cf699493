"""Requests and answers as they travel: JSON as references/001 has it, base64, NPY bodies, and Open Inference V2."""

import base64
import binascii
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from qwafer._checks import check_printable
from qwafer._errors import InputError
from qwafer.data.maps import MAX_SIDE, check_maps
from qwafer.serving.review import Answers, prediction

LONGEST_ID = 200
"""Characters of the id of a wafer or a lot."""
MOST_AXES = 3
"""Axes of maps in JSON, at most: of one map two, of maps three."""


@dataclass(frozen=True, eq=False)
class Wafer:
    """One map that is to be classified."""

    map: np.ndarray
    """(H, W) uint8."""
    wafer_id: str = ""
    """The wafer's id."""
    lot_id: str = ""
    """The lot's id."""


def parse_classify(
    body: bytes, kind: str, wafer_id: str = "", lot_id: str = "", *, check: Callable[[int], None] = lambda n: None
) -> tuple[list[Wafer], bool]:
    """Return the wafers of the body of `POST /classify`, and whether it is one alone, which is answered alone.

    `kind` is the content type. JSON: {"wafer_id", "lot_id", "wafer_map", "timestamp"}, or {"wafers": [...]} of them; a
    map is rows of numbers, or {"base64": ..., "shape": [H, W]} of its uint8 bytes. Else an NPY file of one map (H, W)
    or of maps (N, H, W), whose ids are those given: of several maps, the lot's alone. `check` is
    called with the number of maps before they are read. Raises InputError for anything else.
    """
    if not kind.lower().startswith("application/json"):
        maps = _npy(body)
        one = maps.ndim == 2
        check(1 if one else len(maps))
        if wafer_id and not one and len(maps) > 1:  # of answers to one wafer the first alone would count
            raise InputError(f"`wafer_id` names one wafer, and the body holds {len(maps)} maps: send JSON `wafers`")
        wafers = [
            Wafer(wafer, parse_text("wafer_id", wafer_id), parse_text("lot_id", lot_id))
            for wafer in ([maps] if one else maps)
        ]
    else:
        form = parse_json(body)
        one = "wafers" not in form
        entries = [form] if one else form["wafers"]
        if not isinstance(entries, list) or not entries:
            raise InputError("`wafers` must be a list of at least one wafer")
        check(len(entries))
        wafers = [_wafer(entry) for entry in entries]
    check_maps(tuple(wafer.map for wafer in wafers), "the request")
    return wafers, one


def parse_json(body: bytes) -> dict[str, Any]:
    """Return a JSON object; raise InputError for anything else."""
    try:
        form = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON ({type(error).__name__})") from error
    if not isinstance(form, dict):
        raise InputError(f"the body must be a JSON object, got {type(form).__name__}")
    return form


def parse_label(form: dict[str, Any], names: Sequence[str], none: str, *, exclusive: bool) -> str:
    """Return what an engineer says, `label` or `labels`, as a prediction reads.

    Raises InputError for other labels, and for what no prediction can be, which would count against every one: `none`
    beside a label, and other than one of `exclusive` classes.
    """
    if "label" in form and "labels" in form:
        raise InputError("give `label` or `labels`, not both")
    given = form.get("labels", [form["label"]] if "label" in form else None)
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError("`label` must be the name of a label, or `labels` a list of them (empty: none)")
    names_given = [part for name in given for part in name.split(" + ")]
    wanted = [name for name in names_given if name != none or none in names]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InputError(f"`label` must be one of {', '.join(names)}, got {unknown[0]!r:.80}")
    if wanted and len(wanted) < len(names_given):
        raise InputError(f"`labels` must not hold {none} beside {wanted[0]}")
    if exclusive and len(set(wanted)) != 1:
        raise InputError(f"`labels` must hold one of the exclusive classes {', '.join(names)}")
    return " + ".join(name for name in names if name in wanted) or none


def parse_infer(body: bytes, *, check: Callable[[int], None] = lambda n: None) -> tuple[list[Wafer], str]:
    """Return the wafers of an Open Inference Protocol V2 request, input `maps` of UINT8 [n, H, W], and its id.

    `check` is called with n before the maps are read.
    """
    form = parse_json(body)
    inputs = form.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError("`inputs` must be a list of one input, `maps`")
    given = inputs[0]
    shape, data = given.get("shape"), given.get("data")
    if given.get("name") != "maps" or given.get("datatype") != "UINT8":
        raise InputError("the input must have the name maps and the datatype UINT8")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise InputError("`shape` of maps must be [n, height, width]")
    check(shape[0])
    values = _dies(data)
    if values.size != math.prod(shape):
        sides = " x ".join(map(str, shape))  # Python prints no number of more than 4,300 digits, as the product may be
        raise InputError(f"`data` of maps must hold {sides:.80} values, got {values.size}")
    maps = values.reshape(shape)
    check_maps(maps, "the request")
    return [Wafer(wafer) for wafer in maps], parse_text("id", form.get("id", ""))


def answer_json(wafer: Wafer, answers: Answers, row: int, version: str) -> dict[str, Any]:
    """Return the answer for a wafer, without its number and latency."""
    names, steps = answers.label_names, answers.steps_used
    return {
        "wafer_id": wafer.wafer_id,
        "lot_id": wafer.lot_id,
        "prediction": prediction(answers.labels[row], names),
        "labels": [name for name, is_set in zip(names, answers.labels[row], strict=True) if is_set],
        "confidence": round(float(answers.confidence[row]), 6),
        "class_probabilities": dict(zip(names, np.round(answers.probabilities[row], 6).tolist(), strict=True)),
        **({} if steps is None else {"recursion_steps_used": int(steps[row])}),
        "distance": round(float(answers.distance[row]), 4),
        "model_version": version,
        "flagged_for_review": bool(answers.review[row]),
    }


def infer_json(name: str, version: str, request_id: str, answers: Answers) -> dict[str, Any]:
    """Return the answer of an Open Inference Protocol V2 request."""
    parts = {
        "probabilities": ("FP32", answers.probabilities),
        "labels": ("BOOL", answers.labels),
        "review": ("BOOL", answers.review),
        "confidence": ("FP32", answers.confidence),
    }
    if answers.steps_used is not None:
        parts["recursion_steps_used"] = ("INT64", answers.steps_used)
    outputs = [
        {"name": name, "datatype": kind, "shape": list(values.shape), "data": values.ravel().tolist()}
        for name, (kind, values) in parts.items()
    ]
    return {"model_name": name, "model_version": version, "id": request_id, "outputs": outputs}


def _wafer(entry: Any) -> Wafer:
    if not isinstance(entry, dict) or "wafer_map" not in entry:
        raise InputError("a wafer must be a JSON object with `wafer_map`")
    given = entry["wafer_map"]
    if isinstance(given, dict):
        values, shape = _base64(given.get("base64")), given.get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
            raise InputError("`shape` of a map in base64 must be [height, width]")
        if values.size != shape[0] * shape[1]:
            raise InputError(f"a map of {shape[0]} x {shape[1]} dies has as many bytes, got {values.size}")
        wafer = values.reshape(shape)
    else:
        wafer = _dies(given)
    if wafer.ndim != 2:
        raise InputError("`wafer_map` must be rows of dies, all of one length")
    parse_text("timestamp", entry.get("timestamp", ""))
    ids = (parse_text(name, entry.get(name, "")) for name in ("wafer_id", "lot_id"))
    return Wafer(wafer, *ids)


def _dies(given: Any) -> np.ndarray:
    """Return numbers of JSON as uint8; raise InputError for others, also for truths, which NumPy takes for 0 and 1."""
    shape: list[int] = []
    dies = given
    while isinstance(dies, list) and dies:
        shape.append(len(dies) if not shape else len(dies) // math.prod(shape))
        kinds = set(map(type, dies))
        if kinds != {list}:
            break
        if len(set(map(len, dies))) > 1 or len(shape) == MOST_AXES:
            raise InputError("a map must be rows of dies, all of one length")
        dies = list(chain.from_iterable(dies))
    else:
        kinds = set()
    if list in kinds:
        raise InputError("a map must be rows of dies, all of one length")
    values = _small(dies) if kinds == {int} else None
    if values is None or values.max() > 2:
        raise InputError("a map must hold 0 (off the wafer), 1 (passing) and 2 (failing) only")
    return values.reshape(shape)


def _small(numbers: list[int]) -> np.ndarray | None:
    """Return whole numbers as uint8; None where one is none."""
    try:
        return np.frombuffer(bytes(numbers), np.uint8)
    except ValueError:
        return None


def _base64(text: Any) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError("`base64` must be the bytes of a map in base64") from error


def _npy(body: bytes) -> np.ndarray:
    """Return the array of an NPY file, of uint8 and two or three axes, without pickles."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=1000)
    except Exception as error:  # what a damaged header raises has no common class
        raise InputError("the body is not an NPY file: send JSON as application/json, or numpy.save's bytes") from error
    rest = body[file.tell() :]
    sides = len(shape) in (2, 3) and all(type(side) is int and side > 0 for side in shape)
    if dtype != np.uint8 or not sides or len(rest) != math.prod(shape):
        raise InputError(f"an NPY body must hold uint8 maps (H, W) or (N, H, W), whole, got {dtype} of shape {shape}")
    if max(shape[-2:]) > MAX_SIDE:
        raise InputError(f"maps must be at most {MAX_SIDE} dies a side, got {shape[-2:]}")
    return np.frombuffer(rest, np.uint8).reshape(shape, order="F" if fortran else "C")


def parse_text(name: str, value: Any) -> str:
    """Return a text that can be kept and shown; raise InputError for anything else."""
    if not isinstance(value, str) or len(value) > LONGEST_ID:
        raise InputError(f"`{name}` must be a text of at most {LONGEST_ID} characters")
    check_printable(f"`{name}`", value)
    return value
