"""The commands of docs/search.md and docs/tracking.md, at a tiny size, and what the pages say of the code."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from qwafer.experiment import load_experiment
from qwafer.studies import load_space
from qwafer.studies.proposals import SAMPLERS
from qwafer.studies.pruning import PRUNERS
from qwafer.tracking import TRACKERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("search", "tracking")}
TINY = ["--set", "data.n_maps=240", "--set", "training.max_doublings=0", "--set", "training.epochs=1", "--seeds", "2"]
TINY += ["--descriptive", "--quiet", "--executor", "serial"]


def commands(page):
    lines = re.findall(r"^    python -m qwafer\.(\w+) (.*)$", PAGES[page], re.MULTILINE)
    return [(verb, shlex.split(rest, comments=True)) for verb, rest in lines]


@pytest.mark.slow
def test_the_commands_of_the_pages_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (compared, searched, benched), (tracked,) = commands("search"), commands("tracking")
    assert [compared[0], searched[0], benched[0], tracked[0]] == ["search", "search", "bench", "ablate"]
    assert compared[1][-2:] == ["--jobs", "2"]
    budget = searched[1].index("60")
    words = [*searched[1][:budget], "1", *searched[1][budget + 1 :], *TINY, "--trial-seeds", "1000,"]
    assert importlib.import_module("qwafer.search").main(words) == 0
    tiny = [word for word in TINY if "n_maps" not in word][1:]
    assert importlib.import_module("qwafer.bench").main([*benched[1], *tiny]) == 0
    assert "entangling 1 trials (0 ended early" in (tmp_path / "runs" / "winners" / "report.md").read_text()
    words = [*tracked[1], *TINY, "--set", "engine=xla"]
    assert importlib.import_module("qwafer.ablate").main(words) == 0
    assert len(list(Path("runs/demo/tensorboard").glob("*/seed-*/events.*"))) == 4


def test_the_space_of_the_page_is_one(tmp_path):
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGES["search"], re.DOTALL | re.MULTILINE)
    (tmp_path / "space.toml").write_text(block)
    space = load_space(tmp_path / "space.toml", load_experiment("equal_budgets"))
    assert {arm: len(own) for arm, own in space.items()} == {"mlp": 2, "separable": 1, "entangling": 2}


@pytest.mark.parametrize(("page", "names"), [("search", [*SAMPLERS, *PRUNERS]), ("tracking", TRACKERS.names)])
def test_everything_that_can_be_named_is_on_its_page(page, names):
    for name in names:
        assert re.search(rf"[` ]{name}`", PAGES[page]), name
