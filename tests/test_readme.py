"""What the README and the guides show is run as it stands there."""

import re
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwafer.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>python|toml)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\(((?!http)[^)]+)\)")


@dataclass(frozen=True)
class Block:
    code: str
    line: int
    reason: str | None


def blocks(page: Path, language: str) -> list[Block]:
    """Return the blocks of one language; line numbers are those of the page, so that tracebacks point there."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match["language"] == language]
    return [Block(m["code"], text.count("\n", 0, m.start("code")), m["reason"]) for m in found]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_PYTHON = [page for page in PAGES if "```py" in page.read_text(encoding="utf-8")]


@pytest.fixture
def own(monkeypatch, tmp_path):
    """The module `own` that a page's blocks make, in a folder of its own."""
    module = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", module)
    monkeypatch.chdir(tmp_path)
    return module


def run_page(page: Path, module: types.ModuleType) -> None:
    """Run the page's blocks one after the other in one namespace; compile those that are not to be run."""
    for block in blocks(page, "python"):
        code = compile("\n" * block.line + block.code, str(page), "exec")
        if block.reason is None:
            exec(code, module.__dict__)


def test_every_page_with_python_is_found():
    assert {"README.md", "docs/extending.md", "docs/own-data.md", "docs/probes.md"} <= {
        name_of(page) for page in WITH_PYTHON
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"``` *(?:py|toml)", text)) == sum(len(blocks(page, name)) for name in ("python", "toml"))
        assert text.count("<!-- not run") == sum(block.reason is not None for block in blocks(page, "python"))


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page != PAGES[0]], ids=name_of)
def test_the_python_of_a_page_runs(page, own):
    run_page(page, own)
    for block in blocks(page, "toml"):
        if "arms" in tomllib.loads(block.code):
            Path("shown.toml").write_text(block.code, encoding="utf-8")
            assert load_experiment("shown.toml").arms


def test_the_script_of_the_readme_runs(own, capsys):
    (script,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in script.code.splitlines() if line.strip()]) <= 12
    run_page(ROOT / "README.md", own)
    words = capsys.readouterr().out.split()
    assert words[:2] == ["test", "ROC-AUC"]
    assert 0.5 < float(words[2]) <= 1
    # 4 wires: the projection of 88 features and its bias, 2 layers of Rot, the readout gates, alpha, one bias
    assert int(words[4]) == 88 * 4 + 4 + 2 * 4 * 3 + 4 * 3 + 1 + 1


def test_examples_of_extending_are_short():
    for block in blocks(ROOT / "docs" / "extending.md", "python"):
        assert len([line for line in block.code.splitlines() if line.strip()]) <= 30, block.line


@pytest.mark.parametrize(
    ("page", "target"),
    [
        pytest.param(page, target, id=f"{name_of(page)}:{target}")
        for page in [*PAGES, ROOT / "benchmarks" / "README.md", ROOT / "experiments" / "README.md"]
        for target in sorted(set(LINK.findall(page.read_text(encoding="utf-8"))))
    ],
)
def test_links_lead_somewhere(page, target):
    path, _, anchor = target.partition("#")
    linked = page.parent / path if path else page
    assert linked.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
