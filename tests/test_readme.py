"""What the README shows is run as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_script_of_the_readme_runs(capsys):
    (script,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 12
    exec(compile(script, "README.md", "exec"), {})
    words = capsys.readouterr().out.split()
    assert words[:2] == ["test", "ROC-AUC"]
    assert 0.5 < float(words[2]) <= 1
    # 4 wires: the projection of 88 features and its bias, 2 layers of Rot, the readout gates, alpha, one bias
    assert int(words[4]) == 88 * 4 + 4 + 2 * 4 * 3 + 4 * 3 + 1 + 1


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(target):
    assert (ROOT / target).exists()
