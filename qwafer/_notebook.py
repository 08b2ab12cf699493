"""How a result shows itself in a notebook: sentences and a table."""

import html
from collections.abc import Iterable
from typing import Any


def as_html(title: str, sentences: Iterable[str], table: Any) -> str:
    """Return HTML of a title, sentences and a pandas table; texts are escaped."""
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    head = f"<p><b>{html.escape(title)}</b></p>" + (f"<ul>{said}</ul>" if said else "")
    return f"<div>{head}{table.to_html(float_format='{:.4f}'.format, na_rep='–', border=0)}</div>"
