"""Records: frozen dataclasses inside, one JSON form each where a file is written or read.

A record that is the root of a file names its form in a class variable `SCHEMA = "qwafer/<what>/<version>"`, which is
written first and checked on reading; a `checksum` over everything else is written last and checked as well. Tuples
become lists, keys texts, NaN and infinities null; reading gives them back by the types of the fields, null as NaN where
a field is a float. A field with the metadata `IN_MEMORY` has no part in it.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from qwafer._errors import InputError, RecordError
from qwafer._io import digest, jsonable, write_json
from qwafer._reading import reads

T = TypeVar("T")

IN_MEMORY = {"in_memory": True}
"""Metadata of a field that is not written; it needs a default."""
CHECKSUM = "checksum"
"""The entry of a file that `sealed` adds."""


def to_json(record: Any) -> dict[str, Any]:
    """Return the JSON form of the dataclass `record`: its schema, if it has one, then its fields."""
    schema = getattr(record, "SCHEMA", None)
    form = jsonable(_converter().unstructure(record))
    return form if schema is None else {"schema": schema, **form}


def from_json(cls: type[T], data: Any, where: str = "the record") -> T:
    """Return the record of `to_json`; raise InputError, naming `where` and what is wrong, for anything else."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where} must hold a JSON object, got {type(data).__name__}")
    schema = getattr(cls, "SCHEMA", None)
    fields = dict(data)
    if schema is not None and fields.pop("schema", None) != schema:
        found = data.get("schema", "no schema")
        raise InputError(f"{where} must have the schema {schema}, got {found}: it is of another version")
    try:
        return _converter().structure(fields, cls)
    except Exception as error:  # what a structure of the wrong shape or depth makes of the hooks
        raise InputError(f"{where} does not hold a {cls.__name__}: {'; '.join(_reasons(error))}") from error


def sealed(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON form with its checksum: `digest` of all other entries."""
    return {**form, CHECKSUM: digest(form)}


def unsealed(form: Any, where: str) -> Any:
    """Return what was `sealed`, and as it is what was not; raise RecordError where the checksum is that of another."""
    if not isinstance(form, Mapping) or CHECKSUM not in form:
        return form
    content = {name: value for name, value in form.items() if name != CHECKSUM}
    if digest(content) != form[CHECKSUM]:
        raise RecordError(f"{where} is damaged: its content is not what was written (its checksum differs)")
    return content


def save_record(path: str | Path, record: Any) -> None:
    """Write the JSON form of `record`, with its checksum, to `path`, atomically."""
    write_json(path, sealed(to_json(record)))


def load_record(cls: type[T], path: str | Path) -> T:
    """Return the record at `path`; raise RecordError for a damaged file, InputError for one that holds another.

    A file without the schema that every such record is written with is damaged, too.
    """
    form = read_json(path)
    content, schema = unsealed(form, str(path)), getattr(cls, "SCHEMA", None)
    if schema is not None and (not isinstance(form, Mapping) or "schema" not in form):
        raise RecordError(f"{path} is damaged: it must hold a JSON object of the schema {schema}")
    return from_json(cls, content, str(path))


@reads("is not valid JSON", error=RecordError)
def read_json(path: str | Path) -> Any:
    """Return the plain data of a JSON file; raise RecordError where it is not valid JSON, or not a regular file."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is not a regular file")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _reasons(error: BaseException) -> list[str]:
    import cattrs

    return cattrs.transform_error(error)[:3] if isinstance(error, cattrs.BaseValidationError) else [str(error)]


@functools.cache
def _converter() -> Any:
    import cattrs
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

    converter = cattrs.Converter(forbid_extra_keys=True)

    def unwritten(cls: Any) -> dict[str, Any]:
        return {item.name: override(omit=True) for item in dataclasses.fields(cls) if item.metadata.get("in_memory")}

    converter.register_unstructure_hook_factory(
        dataclasses.is_dataclass, lambda cls: make_dict_unstructure_fn(cls, converter, **unwritten(cls))
    )
    converter.register_structure_hook_factory(
        dataclasses.is_dataclass,
        lambda cls: make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **unwritten(cls)),
    )
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _truth)
    return converter


def _integer(value: Any, _: Any) -> int:
    number = int(value)  # the keys of a JSON object are texts
    if number != float(value):
        raise ValueError(f"{value!r} is not an integer")
    return number


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _truth(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value
