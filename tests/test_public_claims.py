"""What README.md and docs say of results: every number and every verdict is that of a committed result.

A sentence that states a result refers to it as

    (`entanglement`, all: -0.0350 [-0.0560, -0.0190], p = 0.023, worse)
    (`bench`, mlp: test.f1_tuned 0.9786 ± 0.0015; quantum: test.f1_tuned 0.9694)

that is: experiment, arm, and then difference from the baseline with its interval, p and verdict, or the mean of a
metric over seeds. A difference has its verdict with it. Elsewhere, pages hold no word of verdict and no such number.
"""

import importlib
import re
import sys
from pathlib import Path

import pytest

from qwafer._records import load_record, save_record

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXEMPT = {
    "docs/options.md": "what options mean, made from the docstrings of the code; it says nothing of results",
    "docs/promise.md": "what was wrong and what is checked now; its tests are named beside each point",
    "docs/solid.md": "what broke and what holds now; its tests are named beside each point",
    "docs/catalyst-learnings.md": "facts of the installed stack, each of which `qwafer.reports.stack` measures again",
    "docs/statistics.md": "error rates of a simulation, which its own test compares with benchmarks/results",
}
"""Pages without claims about experiments, with the reason."""
ALLOWED = {
    "README.md": {
        "better, worse, equivalent, or undecided": "the names of the verdicts",
        "--effect 0.02 --sd 0.005 0.01": "arguments of a command",
    },
    "docs/index.md": {
        "better, worse, equivalent, undecided": "the names of the verdicts",
        "--effect 0.02 --sd 0.01": "arguments of a command",
    },
    "experiments/README.md": {
        "until their share is 0.855": "a property of the data",
    },
    "docs/backbones.md": {
        "means (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225) of ImageNet": "constants of preprocessing",
    },
    "docs/probes.md": {
        "(0.1733 at gamma = 2)": "(1/2)^2 log 2",
        "(AUC 0.9995)": "a threshold of the probe",
        "one feature reaches AUC 0.98": "a threshold of the probe",
        "moves by 0.44 of the most that it can": "a property of the displacements",
        "(0.2999, 0.2860, 0.6773, 0.1892)": "values of the cited paper",
    },
    "docs/serving.md": {
        "a difference of 0.015 would be found": "what the command is asked for",
    },
}
"""Texts on a page that look like a claim and are none, with the reason."""
WORDS = {
    "better": r"better|beats\b|outperform\w*|superior|far ahead|advantage",
    "worse": r"worse|inferior|(?:far|close) behind|(?<!what )falls? (?:far |close )?(?:behind|short)",
    "equivalent": r"equivalent|as well as|do(?:es)? as well|level with|on a par|no difference|within 0\.\d+",
}
"""Words by the verdict that they claim."""
NUMBER = re.compile(r"(?<![\w.])[-+]?0\.\d{2,}(?![\w.]*\.\d)|\bp\s*[=<>]\s*[\d.]+|[\d.]+\s*±")
CLAIM = re.compile(r"\(`(?P<name>\w+)`, (?P<items>[^()]*: [^()]*)\)")
SIGNED = r"[-+]\d+\.\d+"
DIFFERENCE = re.compile(rf"(?P<mean>{SIGNED})(?: \[(?P<low>{SIGNED}), (?P<high>{SIGNED})\])?")
P_VALUE = re.compile(r"p = (?P<p>\d+(?:\.\d+)?)")
METRIC = re.compile(r"(?P<metric>test\.\w+) (?P<mean>\d+\.\d+)(?: ± (?P<sd>\d+\.\d+))?")
VERDICTS = ("better", "worse", "equivalent", "undecided", "not converged", "collapsed", "identical")


def script(name):
    """A module of experiments/."""
    folder = str(ROOT / "experiments")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


published, run_all, small = script("published"), script("run_all"), script("small")


def problems(page: str, text: str, folder: Path) -> list[str]:
    """Return what `page` says that the results in `folder` do not."""
    found = []
    for block in blocks(text):
        rest = block
        for allowed in ALLOWED.get(page, {}):
            rest = rest.replace(allowed, "")
        verdicts = set()
        for match in CLAIM.finditer(rest):
            result = published.load_result(match["name"], folder)
            if result is None:
                found.append(f"{match[0]}: there is no result of {match['name']}")
                continue
            for item in match["items"].split("; "):
                arm, _, body = item.partition(": ")
                said, wrong = check_item(result, arm.strip("`"), body)
                verdicts |= said
                found += [f"{match[0]}: {text}" for text in wrong]
        rest = re.sub(r"`[^`]*`", "", CLAIM.sub("", rest))
        for verdict, words in WORDS.items():
            for word in re.findall(rf"\b(?:{words})", rest, flags=re.IGNORECASE):
                if verdict not in verdicts:
                    found.append(f"`{word}` claims the verdict {verdict}, and no result is named that has it: {block}")
        found += [f"{number} comes from no result that is named: {block}" for number in NUMBER.findall(rest)]
    return found


def blocks(text: str) -> list[str]:
    """Return the paragraphs, list items and table rows of a page, one line each, without code and generated parts."""
    text = re.sub(r"^<!-- begin .*?^<!-- end .*?-->$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(?=[-*|#] ?)", "\n", text, flags=re.MULTILINE)
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def check_item(result, arm: str, body: str) -> tuple[set[str], list[str]]:
    """Return the verdicts that one item of a claim states, and what is wrong with it."""
    if arm not in result.arms:
        return set(), [f"there is no arm {arm}"]
    difference = next((c for c in result.differences if c.arm == arm), None)
    parts = re.split(r", (?![^\[]*\])", body)
    verdicts, wrong, compared = set(), [], False
    for part in parts:
        if part in VERDICTS:
            verdicts.add(part)
            if difference is None or difference.verdict != part:
                wrong.append(f"the verdict is {difference and difference.verdict}, not {part}")
        elif match := METRIC.fullmatch(part):
            mean, sd = result.arms[arm].metrics.get(match["metric"], (None, None))
            wrong += agree(match["mean"], mean) + agree(match["sd"], sd)
        elif difference is not None and (match := DIFFERENCE.fullmatch(part)):
            compared = True
            low, high = difference.interval or (None, None)
            wrong += agree(match["mean"], difference.mean) + agree(match["low"], low) + agree(match["high"], high)
        elif difference is not None and (match := P_VALUE.fullmatch(part)):
            compared = True
            wrong += agree(match["p"], difference.p)
        else:
            wrong.append(f"`{part}` is not a difference, p, metric or verdict of {arm}")
    if compared and not verdicts:
        wrong.append(f"a difference without its verdict, {difference.verdict}")
    return verdicts, wrong


def agree(printed: str | None, value: float | None) -> list[str]:
    """Return what is wrong with a printed number: nothing, where it is `value` rounded as printed."""
    if printed is None:
        return []
    digits = len(printed.partition(".")[2])
    if value is None or abs(float(printed) - value) > 0.5 * 10**-digits + 1e-9:
        return [f"{printed} should be {value}"]
    return []


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in EXEMPT], ids=name_of)
def test_every_claim_of_a_page_is_that_of_a_committed_result(page):
    assert problems(name_of(page), page.read_text(encoding="utf-8"), published.RESULTS) == []


def test_what_is_allowed_is_there():
    for page, texts in ALLOWED.items():
        content = (ROOT / page).read_text(encoding="utf-8")
        assert all(text in content for text in texts), page


@pytest.fixture
def folder(tmp_path):
    """A folder with the result of an invented experiment."""
    arm = published.ArmResult(0.9786, 0.00151, 8, 0, 0, 35080, {"test.f1_tuned": (0.97862, 0.00151)})
    result = published.Result(
        name="entanglement",
        experiment="0" * 16,
        expected="nothing",
        metric="test.f1_tuned",
        baseline="separable",
        margin=0.01,
        about="On data like these",
        seeds=tuple(range(8)),
        differences=(
            published.Difference("all", -0.03504, (-0.0561, -0.0191), 0.98, 0.0233, "worse", 8, {}),
            published.Difference("ring", 0.0012, (-0.0041, 0.0065), 0.95, 0.61, "equivalent", 8, {}),
            published.Difference("line", -0.02, (-0.05, 0.01), 0.95, 0.2, "undecided", 8, {}),
        ),
        arms=dict.fromkeys(("separable", "all", "ring", "line"), arm),
        data={},
        searched={},
        budget=0,
        seconds=1.0,
        hosts=(),
        revisions=(),
    )
    save_record(tmp_path / "entanglement.json", result)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "CNOTs between all pairs are worse (`entanglement`, all: -0.0350 [-0.0561, -0.0191], p = 0.023, worse).",
        "- A ring is equivalent (`entanglement`, ring: +0.001 [-0.004, +0.007], equivalent; all: -0.04, worse).",
        "The separable circuit reaches (`entanglement`, separable: test.f1_tuned 0.9786 ± 0.0015).",
        "Nothing can be said of a line (`entanglement`, line: undecided).",
        "```\nbetter 0.123\n```\n<!-- begin x -->\nworse 0.9999 ± 0.1\n<!-- end x -->\nAn option `worse = 0.25`.",
    ],
)
def test_a_claim_that_agrees_passes(folder, text):
    assert problems("README.md", text, folder) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("all is worse (`entanglement`, all: -0.0340 [-0.0561, -0.0191], worse)", "-0.0340 should be -0.03504"),
        ("all is worse (`entanglement`, all: -0.0350 [-0.0561, -0.0091], worse)", "-0.0091 should be -0.0191"),
        ("all is worse (`entanglement`, all: -0.0350, p = 0.016, worse)", "0.016 should be 0.0233"),
        ("all is (`entanglement`, all: -0.0350 [-0.0561, -0.0191])", "a difference without its verdict, worse"),
        ("a line is worse (`entanglement`, line: -0.0200, worse)", "the verdict is undecided, not worse"),
        ("a line is equivalent (`entanglement`, line: undecided)", "claims the verdict equivalent"),
        ("all is better (`entanglement`, all: -0.0350, worse)", "claims the verdict better"),
        ("see (`entanglement`, none: -0.0350, worse)", "there is no arm none"),
        ("see (`entanglement`, all: about -0.035, worse)", "is not a difference"),
        ("see (`entanglement`, all: test.f1_tuned 0.9886)", "0.9886 should be 0.97862"),
        ("see (`best_head`, pca: -0.1000, worse)", "there is no result of best_head"),
        ("one is worse.\n\nall is (`entanglement`, all: -0.0350, worse)", "claims the verdict worse"),
        ("| `all` | 0.9694 ± 0.0069 |", "0.9694 comes from no result"),
        ("the p was small, p = 0.016", "p = 0.016 comes from no result"),
        # what README.md and docs/bench.md once said of the library's own runs
        ("Four wires come within 0.009 of the macro F1 of a network", "claims the verdict equivalent"),
        ("and fall far behind on the rarest classes", "claims the verdict worse"),
        ("eight classical hidden units do as well: see", "claims the verdict equivalent"),
        ("A trainable readout against a fixed one: no difference in ranking shown.", "claims the verdict equivalent"),
        ("Entangling gates made a six-wire circuit worse on spatial features", "claims the verdict worse"),
        ("Four wires as built there reach 0.81 here, the same four wires 0.97.", "0.81 comes from no result"),
    ],
)
def test_a_claim_that_does_not_agree_is_named(folder, text, problem):
    found = problems("README.md", text, folder)
    assert any(problem in one for one in found), found


def test_the_tables_are_those_of_the_committed_results():
    for path, name, text in [
        (run_all.README, "experiments", run_all.table_text(published.RESULTS)),
        *(
            (run_all.BENCH_PAGE, bench, run_all.bench_text(bench, published.load_result(bench)))
            for bench in run_all.TABLED
        ),
        (small.DOCS / "small.md", "small", small.table(load_record(small.SmallPage, small.RESULTS / "small.json"))),
    ]:
        content = path.read_text(encoding="utf-8")
        begin, end = run_all.BEGIN.format(name), run_all.END.format(name)
        assert content.split(begin)[1].split(end)[0] == f"\n{text}\n", f"{path}: run experiments/run_all.py --tables"


@pytest.mark.parametrize("name", [*run_all.NAMES, *run_all.BENCHES])
def test_a_committed_result_rests_on_the_committed_search(name):
    result, search = published.load_result(name), published.load_search(run_all.HERE / f"{name}.toml")
    if result is not None:
        assert (result.budget, result.searched) == ((0, {}) if search is None else (search.budget, search.winners()))
        assert set(result.arms) == set(run_all.load_experiment(run_all.HERE / f"{name}.toml").arms)


@pytest.mark.parametrize("page", ["docs/promise.md", "docs/solid.md"])
def test_every_test_that_a_page_names_is_one(page):
    defined = {
        name for path in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def test_(\w+)", path.read_text())
    }
    rows = [line.rsplit("|", 2)[1] for line in (ROOT / page).read_text().splitlines() if re.match(r"\| \d", line)]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(rows) >= 21
    assert len(named) >= 30
    assert [name for name in named if name not in defined] == []
