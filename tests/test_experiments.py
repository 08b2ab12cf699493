"""The experiments that come with qwafer: each loads and says what it should, and the script that runs them all."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer._records import load_record, save_record
from qwafer.comparison.design import FEWEST_SEEDS
from qwafer.experiment import load_experiment, shipped_experiments
from qwafer.features import FeatureSet
from qwafer.overrides import no_effect, with_options
from qwafer.source import source_facts
from qwafer.studies import Search, Trial
from qwafer.studies.proposals import Hypercube
from qwafer.sweeps.apart import set_apart
from qwafer.training import prepare, train

FOLDER = Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture(scope="module", autouse=True)
def folder_on_path():
    """As for a script, the folder of the scripts is where their imports are looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


@pytest.fixture(scope="module")
def script():
    """`experiments/run_all.py` as a module."""
    return importlib.import_module("run_all")


@pytest.fixture(scope="module")
def published():
    """`experiments/published.py` as a module."""
    return importlib.import_module("published")


@pytest.fixture(scope="module")
def searching():
    """`experiments/search.py` as a module."""
    return importlib.import_module("search")


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
        if name != "mean_z_vs_readout":
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
    assert chosen.provenance["rows"] == {"taken": len(chosen), "of": len(whole)}
    rows = (chosen.features[:, 0] / 2).astype(int)
    assert np.all(np.diff(rows) > 0)
    np.testing.assert_array_equal(chosen.labels, whole.labels[rows])
    assert (
        chosen.digest() == script.with_prior(whole, 0.855).digest() != script.with_prior(whole, 0.855, seed=1).digest()
    )


def test_the_table_is_written_between_its_markers_and_nowhere_else(script, tmp_path):
    path = tmp_path / "README.md"
    begin, end = script.BEGIN.format("x"), script.END.format("x")
    path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    script.write_table(path, "x", "new")
    script.write_table(path, "x", "newer")
    assert path.read_text() == f"before\n{begin}\nnewer\n{end}\nafter\n"
    with pytest.raises(InputError, match="must hold the markers"):
        script.write_table(path, "y", "new")


def maps(n=240, split=False, lots=False):
    """Features of `n` examples in pairs of identical maps."""
    rng = np.random.default_rng(1)
    defect = np.repeat(rng.random(n // 2) < 0.5, 2)
    content = np.array([f"map {i // 2}" for i in range(n)])
    return FeatureSet(
        features=(defect[:, None] + rng.standard_normal((n, 3))).astype(np.float32),
        labels=np.stack([defect, ~defect], axis=1).astype(np.uint8),
        label_names=("Center", "none"),
        content_ids=content,
        provenance={"backbone": "spatial"},
        groups=np.array([f"lot {i // 12}" for i in range(n)]) if lots else None,
        split=np.repeat(rng.choice(["train", "val", "test"], n // 2, p=[0.6, 0.2, 0.2]), 2) if split else None,
    )


@pytest.mark.parametrize("kind", ["plain", "lots", "split"])
def test_no_example_of_a_search_is_ever_tested_on(tmp_path, kind):
    whole = maps(split=kind == "split", lots=kind == "lots")
    whole.save(tmp_path / "f.npz")
    first, second = set_apart(tmp_path / "f.npz")
    search, rest = FeatureSet.load(first), FeatureSet.load(second)
    assert set(np.unique(search.split)) == {"train", "val", "test"}
    assert search.provenance["rows"] == {"taken": len(search), "of": len(whole)}
    seen = set(search.content_ids)
    if kind == "split":
        assert second == tmp_path / "f.npz"
        assert seen == set(whole.content_ids[whole.split != "test"])
        assert seen.isdisjoint(whole.content_ids[whole.split == "test"])
        assert set(search.content_ids[search.split == "val"]) == set(whole.content_ids[whole.split == "val"])
    else:
        assert seen.isdisjoint(rest.content_ids)
        assert len(search) + len(rest) == len(whole)
        assert len(search) == pytest.approx(0.25 * len(whole), abs=14)
        assert kind != "lots" or set(search.groups).isdisjoint(rest.groups)
    assert set(search.content_ids[search.split == "train"]).isdisjoint(search.content_ids[search.split != "train"])
    assert set_apart(tmp_path / "f.npz") == (first, second)


def test_every_arm_has_equal_trials_of_what_it_shares(searching):
    for name, space in searching.SPACES.items():
        experiment = load_experiment(FOLDER / f"{name}.toml")
        drawn = searching.space_of(experiment)
        trials = {arm: Hypercube(own, 8).ask(8) for arm, own in drawn.items()}
        assert set(trials) == set(experiment.arms)
        assert not set(searching.SEEDS) & set(experiment.seeds)
        for arm, own in trials.items():
            assert len(own) == 8
            assert "training.learning_rate" in own[0]
            for option in own[0]:
                low, high = space[option]
                values = [options[option] for options in own]
                edges = low * (high / low) ** (np.arange(9) / 8)
                for k, value in enumerate(sorted(values)):  # one in each eighth of the logarithmic range
                    assert 0.995 * edges[k] <= value <= 1.005 * edges[k + 1]
                for other in trials.values():
                    assert option not in other[0] or [options[option] for options in other] == values
            config, facts = experiment.arms[arm], source_facts(experiment.arms[arm].data)
            left_out = set(space) - set(own[0]) - set(searching.FIXED.get(name, {}).get(arm, ()))
            assert all(no_effect(config, option, facts) for option in left_out)


def test_what_was_published_is_what_is_drawn_today(searching, published):
    for name in searching.SPACES:
        search = published.load_search(FOLDER / f"{name}.toml")
        for arm, own in searching.space_of(load_experiment(FOLDER / f"{name}.toml")).items():
            tried = [trial.options for trial in search.trials if trial.arm == arm]
            assert Hypercube(own, search.budget).ask(search.budget) == tried, (name, arm)
        assert (search.sampler, search.pruner, search.searched().trials[arm]) == ("hypercube", "none", search.budget)


def test_what_an_experiment_varies_on_purpose_is_not_searched(searching, script):
    for name in set(searching.SPACES) - set(script.BENCHES):
        experiment = load_experiment(FOLDER / f"{name}.toml")
        changed = {option for arm in experiment.arms for option in experiment.changes(arm)}
        assert not changed & set(searching.SPACES[name]), name
    for name in set(script.NAMES) - set(searching.SPACES):
        assert "not searched" in " ".join(load_experiment(FOLDER / f"{name}.toml").description.split())


SMALL = """
title = "A small one"
expected = "less | more"
reference = "none"
seeds = 6
metric = "test.roc_auc"
head = "linear"
[data]
task = "any"
[training]
epochs = 2
max_doublings = 0
[arms.a]
training.schedule = "constant"
[arms.b]
training.schedule = "cosine"
"""


@pytest.fixture
def small(script, published, searching, tmp_path, monkeypatch):
    """The scripts in a folder of their own with one small experiment."""
    (tmp_path / "small.toml").write_text(SMALL)
    begin, end = script.BEGIN.format("experiments"), script.END.format("experiments")
    (tmp_path / "README.md").write_text(f"{begin}\n{end}\n")
    (tmp_path / "costs.json").write_text(json.dumps({"small": {"seconds": 3.0, "probe": 1.0}}))
    for module in (script, searching):
        for name, value in {
            "HERE": tmp_path,
            "NAMES": ("small",),
            "TABLED": (),
            "RESULTS": tmp_path / "results",
            "SEARCHED": tmp_path / "searched",
            "README": tmp_path / "README.md",
            "COSTS": tmp_path / "costs.json",
            "N_SYNTHETIC": 400,
            "SPACES": {"small": searching.RATE},
            "CAPS": {"training.epochs": 4},
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(script, "probe", lambda: 2.0)
    monkeypatch.setenv("GIT_DIR", "/dev/null")
    return tmp_path


@pytest.mark.usefixtures("without_figures")
def test_a_whole_call_on_synthetic_maps_publishes_nothing(script, small, capsys):
    before = {path: path.read_bytes() for path in small.iterdir()}
    arguments = ["--synthetic", "--out", str(small / "out"), "--jobs", "1"]
    assert script.main([*arguments, "--dry-run"]) == 0
    assert "small: 12 of 12 runs to do, about 72 s" in capsys.readouterr().out  # 12 runs x 3 s x twice as slow
    assert script.main(arguments) == 0
    text = (small / "out" / "README.md").read_text()
    assert "| [`small`](small.toml) A small one | none | less \\| more | `test.roc_auc` of a: 0." in text
    assert re.search(r"synthetic-400-spatial-prior-0.855-\w{8}-rest.npz", text)
    assert "; not searched; " in text
    assert {path: path.read_bytes() for path in before} == before
    assert not (small / "results").exists()
    assert script.main(arguments) == 0
    assert "small: 0 runs" in capsys.readouterr().out
    assert (small / "out" / "README.md").read_text() == text
    assert script.main(["smal"]) == 2


@pytest.mark.usefixtures("without_figures")
def test_search_and_experiment_on_given_features(script, searching, published, small, monkeypatch, capsys):
    source = small / "given.npz"
    maps(480).save(source)
    for module in (script, searching):
        monkeypatch.setattr(module, "has_data", lambda: True)
        monkeypatch.setattr(module, "feature_files", lambda folder, real: {"binary": source, "multilabel": source})
    arguments = ["--out", str(small / "searches"), "--jobs", "1", "--trials", "2"]
    assert searching.main([*arguments, "--dry-run"]) == 0
    assert "small: 2 arms, 2 trials each, 8 runs" in capsys.readouterr().out
    assert searching.main(arguments) == 0
    file = small / "searched" / "small.json"
    first, search = file.read_bytes(), load_record(Search, file)
    assert searching.main(arguments) == 0  # resumed: nothing is left to do
    assert file.read_bytes() == first
    assert "\n0 trials\n" in capsys.readouterr().out

    assert [(trial.arm, trial.epochs) for trial in search.trials] == [(a, {1000: 4, 1001: 4}) for a in "aabb"]
    trial, sources = search.trials[2], {"binary": set_apart(source)[0]}
    arm = script.experiment_on("small", sources).arms["b"]
    run = train(with_options(arm, {**search.base, **trial.options}), FeatureSet.load(sources["binary"]), 1000)
    assert trial.values[1000] == run.val.macro["roc_auc"] != run.test.macro["roc_auc"]
    best = max(search.trials[:2], key=lambda trial: trial.value)
    assert search.winner("a") == best.options

    assert script.main(["--out", str(small / "out"), "--jobs", "1"]) == 0
    result = published.load_result("small", small / "results")
    assert (result.budget, result.searched) == (2, search.winners())
    table = (small / "README.md").read_text()
    assert "; each arm searched: 2 trials on validation; " in table
    experiment, _ = script.with_data("small", {"binary": source})
    assert "a 2 trials (0 ended early" in (small / "out" / "small" / "report.md").read_text()
    assert experiment.arms["a"].training.learning_rate == best.options["training.learning_rate"]
    features = FeatureSet.load(experiment.arms["a"].data.source)
    seen = set(FeatureSet.load(set_apart(source)[0]).content_ids)
    for seed in experiment.seeds:
        prepared = prepare(experiment.arms["a"], features, seed)
        assert seen.isdisjoint(prepared.data.content_ids[prepared.split.test])

    refuse(script, published, small, source, search)


def refuse(script, published, small, source, search):
    """What `with_data` refuses of the search that lies there."""
    file, toml = small / "searched" / "small.json", small / "small.toml"

    def call():
        return script.with_data("small", {"binary": source})

    toml.write_text(SMALL.replace("epochs = 2", "epochs = 3"))
    with pytest.raises(InputError, match="is the search of another experiment"):
        call()
    for harmless in (SMALL.replace("A small one", "A"), SMALL.replace("epochs = 2", "epochs = 2\nlearning_rate = 0.5")):
        toml.write_text(harmless)
        assert call()[1] == search
    toml.write_text(SMALL.replace("seeds = 6", "seeds = [1, 2, 3, 4, 5, 1000]"))
    with pytest.raises(InputError, match="seeds of the experiment itself"):
        call()
    toml.write_text(SMALL)
    save_record(file, dataclasses.replace(search, trials=search.trials[:3]))
    with pytest.raises(InputError, match="holds 1 trials of arm b, not 2"):
        call()
    save_record(file, dataclasses.replace(search, data={"a": "0" * 16, "b": "0" * 16}))
    with pytest.raises(InputError, match="saw other data than arm a has here"):
        call()


def test_the_best_trial_wins_by_the_direction_of_the_metric():
    def trial(rate, value):
        return Trial("a", {"training.learning_rate": rate}, {}, value, {}, {})

    trials = (trial(0.1, 0.7), trial(0.2, 0.9), trial(0.3, None), trial(0.4, 0.9))
    search = Search("x", "", "val.roc_auc", 4, (), {}, {}, {}, (), trials)
    assert search.winner("a") == {"training.learning_rate": 0.2}
    assert dataclasses.replace(search, metric="val.loss").winner("a") == {"training.learning_rate": 0.1}
    with pytest.raises(InputError, match="no trial of arm a with a value"):
        dataclasses.replace(search, trials=trials[2:3]).winner("a")
