"""The site of the documentation: its pages, links and commands; `make docs` builds it."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qwafer.cli.overview import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMAND = re.compile(
    r"^ {4}(qwafer [^\n]*|python -m qwafer\S*[^\n]*|python (?:experiments|benchmarks)/[^\n]*)$", re.MULTILINE
)


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def leaves(entry):
    if isinstance(entry, str):
        return [entry]
    return [leaf for each in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(each)]


def test_the_navigation_has_every_page_once(config, hooks):
    found = leaves(config["nav"])
    assert sorted(found) == sorted([*(page.name for page in PAGES), *hooks.PAGES, *hooks.NOTEBOOKS])
    assert len(hooks.NOTEBOOKS) == 3
    added = leaves(hooks.on_config(config)["nav"])
    assert set(added) - set(found) == {hooks.page_of(package) for package in hooks.PACKAGES}


def test_the_site_loads_nothing_from_elsewhere(config):
    assert config["theme"]["font"] is False
    assert "offline" not in config["plugins"]  # it has a script of another site on every page
    assert config["use_directory_urls"] is False
    assert not {"extra_javascript", "extra_css"} & set(config)
    for page in PAGES:
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*https?:", page.read_text(encoding="utf-8"))


def test_links_of_the_site_lead_to_its_pages(hooks):
    site = {*(page.name for page in PAGES), *hooks.PAGES, *hooks.NOTEBOOKS}
    site |= {f"images/{path.name}" for path in (DOCS / "images").iterdir()}
    seen = 0
    for name, source in {**{page.name: page for page in PAGES}, **hooks.PAGES}.items():
        text = hooks.relinked(source.read_text(encoding="utf-8"), source.parent, name)
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
            assert target in site, (name, target)
            seen += 1
    assert seen > 60
    text = "[a](../docs/x.md) [`b`](alpha.toml) [c](../docs/bench.md#what-it-showed) ![d](../docs/images/small.png)"
    made = hooks.relinked(text, ROOT / "experiments", "deep/page.md")
    assert made == "a `b` [c](../bench.md#what-it-showed) ![d](../images/small.png)"


def test_notebooks_are_pages(hooks, tmp_path):
    page = hooks.notebook_page(ROOT / "notebooks" / "own_data.ipynb")
    assert page.startswith("# Own data")
    assert "```python\nimport matplotlib" in page
    shown = hooks._output({"data": {"text/html": ["<p>a</p>\n\n", "<p>b</p>"], "text/plain": "x"}})
    assert shown == "<p>a</p>\n<p>b</p>"
    assert 'src="data:image/png;base64,QQ=="' in hooks._output({"data": {"image/png": "QQ==\n"}})
    assert hooks._output({"text": ["a\n", "b\n"]}) == "```text\na\nb\n```"


def test_the_reference_holds_what_is_public_and_documented(hooks):
    for package in hooks.PACKAGES:
        names = hooks.public_names(package)
        assert names, package
        assert [f"::: {package}.{name}" for name in names] == re.findall(
            r"^:::.*$", hooks.reference_page(package, ""), re.M
        )
        module = importlib.import_module(package)
        for name in names:
            assert getattr(module, name) is not None, (package, name)
    assert {"train", "circuit", "RunConfig", "figures"} <= set(hooks.public_names("qwafer"))


@pytest.mark.parametrize("page", [page for page in PAGES if COMMAND.search(page.read_text())], ids=lambda p: p.name)
def test_commands_of_a_page_parse(page):
    for line in COMMAND.findall(page.read_text(encoding="utf-8")):
        words = shlex.split(re.sub(r" \[.*\]$", "", line), comments=True)
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), line
            continue
        verb, *rest = words[1:] if words[0] == "qwafer" else [words[2].partition(".")[2], *words[3:]]
        if verb in VERBS:
            importlib.import_module(f"qwafer.cli.{verb}").build_parser().parse_args(rest)
        else:
            importlib.import_module(f"qwafer.{verb}" if verb else "qwafer.__main__")


def test_every_figure_of_the_docs_is_in_the_gallery_with_a_command():
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(images/([^)]+)\)", text))
    assert shown == {path.name for path in (DOCS / "images").iterdir()}
    sections = text.split("\n## ")[1:]
    assert len(sections) >= 6
    for section in sections:
        assert re.search(r"!\[[^\]]{8,}\]\(images/", section), section
        assert COMMAND.search(section), section


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra qwafer[docs] is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of its theme, about a successor
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(?:https?:)?//|<link[^>]*stylesheet[^>]*//", text), (
            page
        )
    reference = next(tmp_path.glob("reference/qwafer.evaluation*.html")).read_text(encoding="utf-8")
    assert "expected_calibration_error" in reference


def test_every_block_of_code_is_of_a_kind_that_tests_run():
    """Python runs and TOML is read (tests/test_readme.py), as is the shell of one page (tests/test_serving_docs.py)."""
    for page in [*PAGES, ROOT / "README.md"]:
        opened = re.findall(r"^\s*```(\S*)$", page.read_text(encoding="utf-8"), re.M)[::2]
        allowed = {"", "python", "toml", *(["sh"] if page.name == "serving.md" else [])}
        assert set(opened) <= allowed, page.name
