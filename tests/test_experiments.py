"""The experiments that come with qwafer: each loads and says what it should, and the script that runs them all."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.comparison.design import FEWEST_SEEDS
from qwafer.experiment import load_experiment, shipped_experiments
from qwafer.features import FeatureSet

FOLDER = Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture(scope="module")
def script():
    """`experiments/run_all.py` as a module."""
    spec = importlib.util.spec_from_file_location("run_all", FOLDER / "run_all.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_loads_and_says_where_it_comes_from_and_what_it_expects(path):
    experiment = load_experiment(path)
    for field in ("title", "description", "expected", "reference"):
        assert len(getattr(experiment, field).strip()) > 5, field
    assert "\\" not in experiment.reference + experiment.description + experiment.expected


def test_every_experiment_is_in_the_table_or_in_the_text(script):
    named = (FOLDER / "README.md").read_text()
    for path in shipped_experiments():
        assert path.stem in script.NAMES or f"`{path.name}`" in named


def test_experiments_of_the_table_have_seeds_enough_and_state_their_cost(script):
    for name in script.NAMES:
        experiment = load_experiment(FOLDER / f"{name}.toml")
        assert len(experiment.seeds) >= FEWEST_SEEDS, name
        (runs,) = re.findall(r"(\d+) runs", " ".join(experiment.description.split()))
        assert int(runs) == len(experiment.arms) * len(experiment.seeds), name
        assert {config.engine.name for config in experiment.arms.values()} == {"xla"}
        assert "xla" in experiment.description


def test_the_refused_cell_is_refused():
    with pytest.raises(InputError, match="cannot be combined with sampling"):
        load_experiment(
            FOLDER / "balanced_and_focal.toml",
            ["sampling.balanced=true", "objective.loss=focal", "objective.focal_gamma=2"],
        )


def features(n_defect, n_none, exclusive):
    rng = np.random.default_rng(0)
    n = n_defect + n_none
    defect = rng.permutation(np.arange(n) < n_defect)
    labels = np.stack([defect, ~defect], axis=1) if exclusive else np.stack([defect, np.zeros(n)], axis=1)
    return FeatureSet(
        features=np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        labels=labels.astype(np.uint8),
        label_names=("Center", "none" if exclusive else "Loc"),
        content_ids=np.array([str(i) for i in range(n)]),
        provenance={"backbone": "spatial"},
        exclusive=exclusive,
    )


@pytest.mark.parametrize(("n_defect", "n_none", "exclusive"), [(600, 100, True), (900, 50, False), (100, 700, True)])
def test_the_prior_is_reached_by_leaving_out_the_larger_class(script, n_defect, n_none, exclusive):
    whole = features(n_defect, n_none, exclusive)
    chosen = script.with_prior(whole, 0.855)
    defect = chosen.labels[:, 0] == 1
    assert defect.mean() == pytest.approx(0.855, abs=0.005)
    assert min(n_defect - defect.sum(), n_none - (~defect).sum()) == 0  # one class stays whole
    assert chosen.provenance["subsample"] == {"defects": int(defect.sum()), "none": int((~defect).sum()), "seed": 0}
    rows = (chosen.features[:, 0] / 2).astype(int)
    assert np.all(np.diff(rows) > 0)
    np.testing.assert_array_equal(chosen.labels, whole.labels[rows])
    assert (
        chosen.digest() == script.with_prior(whole, 0.855).digest() != script.with_prior(whole, 0.855, seed=1).digest()
    )


def test_the_table_is_written_between_its_markers_and_nowhere_else(script, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    script.write_table(path, "new")
    script.write_table(path, "newer")
    assert path.read_text() == f"before\n{script.BEGIN}\nnewer\n{script.END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(InputError, match="must hold the markers"):
        script.write_table(path, "new")


def test_the_committed_table_is_one_that_the_script_writes(script):
    text = (FOLDER / "README.md").read_text()
    table = text.split(script.BEGIN)[1].split(script.END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| [`")]
    assert [re.match(r"\| \[`(\w+)`\]\(\1\.toml\)", row)[1] for row in rows] == list(script.NAMES)
    for name, row in zip(script.NAMES, rows, strict=True):
        experiment = load_experiment(FOLDER / f"{name}.toml")
        assert " ".join(experiment.expected.split()).replace("|", "\\|") in row
        assert " ".join(experiment.reference.split()) in row
        for arm in experiment.arms:
            assert arm == experiment.baseline or f"**{arm}** " in row


def test_a_whole_call_on_synthetic_maps(script, tmp_path, monkeypatch, capsys):
    readme, costs = tmp_path / "README.md", tmp_path / "costs.json"
    readme.write_text(f"{script.BEGIN}\n{script.END}\n")
    (tmp_path / "small.toml").write_text(
        'title = "A small one"\nexpected = "less | more"\nreference = "none"\nseeds = 6\nmetric = "test.roc_auc"\n'
        'head = "linear"\n[data]\ntask = "any"\n[training]\nepochs = 2\n[arms.a]\ntraining.schedule = "constant"\n'
        '[arms.b]\ntraining.schedule = "cosine"\n'
    )
    for name, value in {
        "HERE": tmp_path,
        "README": readme,
        "COSTS": costs,
        "NAMES": ("small",),
        "N_SYNTHETIC": 400,
    }.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setenv("GIT_DIR", "/dev/null")
    costs.write_text(json.dumps({"small": {"seconds": 3.0, "probe": 1.0}}))
    monkeypatch.setattr(script, "probe", lambda: 2.0)
    arguments = ["--synthetic", "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert script.main([*arguments, "--dry-run"]) == 0
    assert "small: 12 of 12 runs to do, about 72 s" in capsys.readouterr().out  # 12 runs x 3 s x twice as slow
    assert script.main(arguments) == 0
    text = readme.read_text()
    assert "| [`small`](small.toml) A small one | none | less \\| more |" in text
    assert "Runs whose best epoch is the first: a " in text
    assert "synthetic-400-spatial-prior-0.855.npz" in text
    assert json.loads(costs.read_text())["small"]["seconds"] == 3.0  # synthetic runs say nothing about real ones
    assert script.main(arguments) == 0
    assert "small: 0 runs" in capsys.readouterr().out
    assert readme.read_text() == text
    assert script.main(["smal"]) == 2
