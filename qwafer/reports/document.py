"""A report as a list of blocks, written as Markdown and as one self-contained HTML page."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --muted: #5c5c5c; --page: #ffffff; --line: #d9d9d9; --band: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --muted: #a8a8a8; --page: #16181b; --line: #3a3e44; --band: #1f2226; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin-top: 1.5rem; }
h2, h3 { scroll-margin-top: 0.5rem; } a { color: inherit; }
ul.contents { columns: 14rem; padding-left: 1.1rem; margin: 0.6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
.text { text-align: left; } td.text:not(:first-child) { white-space: normal; }
th { color: var(--muted); font-weight: 600; } tr:nth-child(even) td { background: var(--band); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; max-width: 30rem; flex: 1 1 19rem; }
figure img { width: 100%; border-radius: 4px; background: #fff; }
figure.page { max-width: 60rem; flex-basis: 40rem; }
figcaption { font-size: 13px; color: var(--muted); }
code { font-size: 0.92em; } pre { font-size: 12px; line-height: 1.25; } p, li { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 0.75rem; }
  table { font-size: 11px; width: 100%; }
  th, td, td.text { white-space: normal; padding: 0.2rem 3px; } .text { overflow-wrap: anywhere; min-width: 3.2rem; }
  figure.page { overflow-x: auto; } figure.page img { width: 44rem; max-width: none; }
  td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
  tr:nth-child(even) td:first-child { background: var(--band); }
}
"""
"""On a phone (40 rem and less) cells wrap, and the first column stays in sight where a table is wider still."""


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Contents:
    """A list of links to headings."""

    texts: Sequence[str]
    """What the headings say."""


@dataclass(frozen=True)
class Paragraph:
    """Plain text; `**bold**` and `` `code` `` are kept."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table: the first columns are text, the others numbers, aligned right."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    text_columns: int = 1
    """How many columns are text."""


@dataclass(frozen=True)
class Images:
    """PNG files side by side, each with its caption."""

    files: Sequence[tuple[Path, str]]


@dataclass(frozen=True)
class Code:
    """Text that is kept as it is, in letters of one width."""

    text: str


Block = Heading | Contents | Paragraph | Items | Table | Images | Code


def with_contents(blocks: Sequence[Block]) -> list[Block]:
    """Return `blocks` with links to all headings of level 2 before the first of them."""
    titles = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    first = next((i for i, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2), len(blocks))
    return [*blocks[:first], Contents(titles), *blocks[first:]]


def anchor(text: str) -> str:
    """Return the anchor of a heading, which is the one that GitHub gives it in Markdown."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def to_markdown(blocks: Sequence[Block], folder: Path = Path()) -> str:
    """Return the Markdown of `blocks`; image paths are relative to `folder`, where the text will lie."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Return one HTML page that needs no other file: the images are inside, and nothing is fetched."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Contents):
        return "\n".join(f"- [{text}](#{anchor(text)})" for text in block.texts)
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Items):
        return "\n".join(f"- {text}" for text in block.texts)
    if isinstance(block, Code):
        return f"```text\n{block.text}\n```"
    if isinstance(block, Table):
        rule = ["---" if column < block.text_columns else "--:" for column in range(len(block.header))]
        lines = [_markdown_row(block.header), f"|{'|'.join(rule)}|", *map(_markdown_row, block.rows)]
        return "\n".join(lines)
    return "\n\n".join(
        f"![{caption}]({file.relative_to(folder).as_posix()})\n\n*{caption}*" for file, caption in block.files
    )


def _markdown_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="{html.escape(anchor(block.text))}">{_inline(block.text)}</h{block.level}>'
    if isinstance(block, Contents):
        links = (f'<li><a href="#{html.escape(anchor(text))}">{_inline(text)}</a></li>' for text in block.texts)
        return f'<ul class="contents">{"".join(links)}</ul>'
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{_inline(text)}</li>" for text in block.texts) + "</ul>"
    if isinstance(block, Code):
        return f'<div class="wide"><pre>{html.escape(block.text)}</pre></div>'
    if isinstance(block, Table):
        rows = "".join(_html_row(row, "td", block.text_columns) for row in block.rows)
        head = _html_row(block.header, "th", block.text_columns)
        return f'<div class="wide"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return '<div class="figures">' + "".join(_figure(file, caption) for file, caption in block.files) + "</div>"


def _html_row(cells: Sequence[object], tag: str, text_columns: int) -> str:
    kinds = [' class="text"' if column < text_columns else "" for column in range(len(cells))]
    return (
        "<tr>"
        + "".join(f"<{tag}{kind}>{_inline(_unbroken(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>"
    )


def _unbroken(cell: object) -> str:
    """Return the text of a cell, in which a sign stays beside its number where lines are short."""
    return str(cell).replace("± ", "±\u00a0").replace("→ ", "→\u00a0")


def _figure(file: Path, caption: str) -> str:
    content = file.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # of the PNG's header
    kind = ' class="page"' if width > 1000 else ""
    data = base64.b64encode(content).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure{kind}><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{_inline(caption)}'
        "</figcaption></figure>"
    )


def _inline(text: str) -> str:
    """Return escaped text with `**bold**` and `` `code` `` as elements."""
    parts = html.escape(text).split("`")
    for i, part in enumerate(parts):
        if i % 2 and i < len(parts) - 1:
            parts[i] = f"<code>{part}</code>"
            continue
        pieces = part.split("**")
        if len(pieces) % 2:
            part = "".join(f"<strong>{piece}</strong>" if j % 2 else piece for j, piece in enumerate(pieces))
        parts[i] = part
    return "".join(parts)
