"""Reports as Markdown and as a page that needs nothing else."""

import base64
import re
from html.parser import HTMLParser

import numpy as np

from qwafer.reports.document import Heading, Images, Items, Paragraph, Table, to_html, to_markdown

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects text and images, and fails on tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images = [], "", []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def png(path):
    from matplotlib.image import imsave

    imsave(path, np.zeros((3, 4)))
    return path


def test_both_forms_say_the_same(tmp_path):
    image = png(tmp_path / "a.png")
    blocks = [
        Heading("A < B & C", 1),
        Paragraph("**bold** and `code <tag>` and 2 ** 3"),
        Items(["one", "two"]),
        Table(("name", "a|b"), [("x<y", 1), ("z", "–")]),
        Images([(image, 'a "caption"')]),
    ]
    text = to_markdown(blocks, tmp_path)
    assert text.startswith("# A < B & C\n\n**bold**")
    assert "| name | a\\|b |\n|---|--:|\n| x<y | 1 |" in text
    assert "(a.png)" in text

    page = to_html(blocks, "A < B")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    for word in ("A < B & C", "bold", "code <tag>", "2 ** 3", "two", "a|b", "x<y", 'a "caption"'):
        assert word in checker.text
    assert "<strong>bold</strong>" in page
    assert "<tag>" not in page
    (found,) = checker.images
    assert found["alt"] == 'a "caption"'
    assert base64.b64decode(found["src"].removeprefix("data:image/png;base64,")) == image.read_bytes()
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script", page)


def test_columns_of_text_stand_left_and_cells_stay_in_their_row():
    table = Table(("probe", "verdict", "n"), [("a\nb", "it | is", 3)], text_columns=2)
    assert to_markdown([table]) == "| probe | verdict | n |\n|---|---|--:|\n| a b | it \\| is | 3 |\n"
    page = to_html([table], "t")
    assert '<th class="text">verdict</th><th>n</th>' in page
    assert '<td class="text">it | is</td><td>3</td>' in page
