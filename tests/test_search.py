"""A search: its space, proposals, trials on validation alone, budget, and what the comparison says of it."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwafer._errors import CapabilityError, InputError
from qwafer._records import load_record, save_record
from qwafer.cli import search as verb
from qwafer.execution import Event, Failure, Threads
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.studies import Dimension, Search, Trial, experiment_toml, load_space, run_search, space, spread
from qwafer.studies.ablation import run_experiment
from qwafer.studies.proposals import OptunaProposer, make_proposer
from qwafer.studies.pruning import stops
from qwafer.training import Prepared, TrialScores, run_trial, train
from tests.factories import feature_set

TWO = """
seeds = 6
metric = "test.roc_auc"
[data]
source = "{source}"
task = "any"
[training]
epochs = 4
max_doublings = 0
batch_size = 32
[arms.linear]
head.name = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 3
"""
SPACE = """
[training.learning_rate]
low = 1e-3
high = 1e-1
log = true
[arms.mlp.head.hidden]
low = 2
high = 4
int = true
"""


def parts(n, seed=1):
    return np.random.default_rng(seed).choice(["train", "val", "test"], n, p=[0.5, 0.25, 0.25])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "given.npz"
    feature_set(240, 4, split=parts(240)).save(path)
    return path


@pytest.fixture
def two(source, tmp_path):
    """The experiment of two arms, and its space."""
    (tmp_path / "two.toml").write_text(TWO.format(source=source))
    (tmp_path / "space.toml").write_text(SPACE)
    experiment = load_experiment(tmp_path / "two.toml")
    return experiment, load_space(tmp_path / "space.toml", experiment)


def short(two, out, **options):
    """A search of five trials in this process."""
    given = {"budget": 5, "batch": 2, "seeds": (1000,), "executor": Threads(1), **options}
    return run_search(*two, out, **given)


def content(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted((out / "trials").glob("*/[0-9]*.json"))}


def test_an_option_is_drawn_where_it_has_an_effect(two):
    rate = Dimension(1e-3, 1e-1, log=True)
    assert two[1] == {
        "linear": {"training.learning_rate": rate},
        "mlp": {"training.learning_rate": rate, "head.hidden": Dimension(2, 4, integer=True)},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.learning_rat = {low = 1, high = 2}", "there is no option `training.learning_rat`"),
        ("[training.learning_rate]\nlow = 0.1\nhigh = 0.1", "`low` must be less than `high`, got 0.1 and 0.1"),
        ("[training.learning_rate]\nlow = 0.1\nhigh = nan", "`low` must be less than `high`"),
        ("[training.learning_rate]\nlow = 0.1", "needs the numbers `low` and `high`"),
        ("[training.learning_rate]\nlow = 0\nhigh = 0.1\nlog = true", "`log` needs `low` > 0"),
        ("[training.learning_rate]\nlow = 0\nhigh = 0.1", "learning_rate` must lie in (0, 10], got 0"),
        (
            "[training.learning_rate]\nlow = 1e-3\nhigh = 1e-1\nchoice = [1]",
            "has no key `choice`; did you mean `choices`?",
        ),
        (
            "[training.learning_rate]\nlow = 1e-3\nhigh = 1e-1\nlog = 1",
            "`log` of `training.learning_rate` must be true",
        ),
        ("[training.learning_rate]\nchoices = [0.1]", "must be at least two, all different"),
        ("[training.learning_rate]\nchoices = [0.1, 0.1]", "must be at least two, all different"),
        ("[training.learning_rate]\nchoices = []", "must be a list of values"),
        ("[training.learning_rate]\nchoices = [[0.1], [0.2]]", "must be texts, numbers, true or false"),
        ("[training.learning_rate]\nchoices = [0.1, 0.2]\nlow = 1", "takes either `choices`, or `low` and `high`"),
        ("[training.learning_rate]", "is empty"),
        ("training.learning_rate = 0.1", "must be a table with low and high"),
        ("[training.schedule]\nchoices = ['constant', 'cosin']", "must be one of constant, cosine, one_cycle"),
        ("[training.batch_size]\nlow = 16\nhigh = 64", "`int = true` draws integers"),
        ("[training.epochs]\nlow = 1\nhigh = 4\nint = true", "every trial has the same budget of epochs"),
        ("[data.limit]\nlow = 10\nhigh = 40\nint = true", "trials are scored on the same examples"),
        ("[circuit.n_qubits]\nlow = 2\nhigh = 4\nint = true", "`circuit.n_qubits` has no effect in any arm"),
        ("[arms.linear.head.hidden]\nlow = 2\nhigh = 4\nint = true", "`head.hidden` has no effect in arm linear"),
        ("[arms.mpl.head.hidden]\nlow = 2\nhigh = 4\nint = true", "has no arm `mpl`; did you mean `mlp`?"),
        ("[arms.mlp.head.hidden]\nlow = 2\nhigh = 4\nint = true", "nothing is drawn in arm linear"),
        ("arms = 3", "`arms` must hold one table per arm"),
        ("[[", "is not valid TOML"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_sentence(two, tmp_path, text, said, capsys):
    (tmp_path / "wrong.toml").write_text(text)
    words = [str(tmp_path / "two.toml"), "--space", str(tmp_path / "wrong.toml"), "--budget", "2"]
    assert verb.main([*words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_follow_from_what_was_told(sampler):
    drawn = {
        "x": Dimension(1e-3, 1.0, log=True),
        "n": Dimension(1, 8, integer=True),
        "k": Dimension(choices=("a", "b")),
    }

    def play(rounds, count=4):
        proposer, asked = OptunaProposer(sampler, "arm", drawn, higher_is_better=False), []
        for _ in range(rounds):
            asked.append(proposer.ask(count))
            values = [abs(options["x"] - 0.03) + (options["k"] == "b") for options in asked[-1]]
            values[0] = float("nan")
            trials = [
                Trial("arm", options, {}, None if np.isnan(value) else value, {}, {}, {2: value}, number == 1)
                for number, (options, value) in enumerate(zip(asked[-1], values, strict=True))
            ]
            proposer.tell(trials)
        return asked

    first = play(6)
    assert first == play(6)
    assert first[:2] == play(2)
    assert play(1, 2)[0] == first[0][:2]  # a round may be cut short by the budget
    flat = [options for asked in first for options in asked]
    assert len({options["x"] for options in flat}) == len(flat)
    assert all(1e-3 <= options["x"] <= 1 and options["n"] in range(1, 9) for options in flat)
    assert {type(options["n"]) for options in flat} == {int}
    if sampler == "tpe":
        assert np.median([abs(np.log(options["x"] / 0.03)) for options in flat[16:]]) < 1.0


def test_a_hypercube_has_one_value_in_each_part_of_a_range():
    drawn = {
        "x": Dimension(1e-3, 1.0, log=True),
        "n": Dimension(1, 4, integer=True),
        "k": Dimension(choices=(True, False)),
    }
    points = make_proposer("hypercube", "arm", drawn, 8, higher_is_better=True).ask(8)
    assert sorted(int(8 * (3 + np.log10(point["x"])) / 3) for point in points) == list(range(8))
    assert sorted(point["n"] for point in points) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert sum(point["k"] for point in points) == 4


def test_a_trial_is_worth_what_its_run_is_worth_on_validation(two, source):
    config, data = two[0].arms["mlp"], FeatureSet.load(source)
    runs = [train(config, data, seed) for seed in (3, 4)]
    scores = run_trial(config, data, (3, 4), "roc_auc")
    assert scores.values == {3: runs[0].val.macro["roc_auc"], 4: runs[1].val.macro["roc_auc"]}
    assert scores.epochs == {3: 4, 4: 4}
    assert scores.value == pytest.approx(np.mean([run.val.macro["roc_auc"] for run in runs]))


def test_no_trial_depends_on_the_test_split(two, source, tmp_path, monkeypatch):
    """Other labels and features of the test split change no byte of any trial, and a trial that asks for it raises."""
    first = short(two, tmp_path / "first")
    data = FeatureSet.load(source)
    features, labels, test = data.features.copy(), data.labels.copy(), data.split == "test"
    features[test] *= -3
    labels[test] = 1 - labels[test]
    dataclasses.replace(data, features=features, labels=labels).save(tmp_path / "other.npz")
    arms = {
        arm: dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(tmp_path / "other.npz")))
        for arm, config in two[0].arms.items()
    }
    other = (dataclasses.replace(two[0], arms=arms), two[1])
    part = Prepared.part

    def no_test(self, name):
        assert name != "test", "a trial has read the test split"
        return part(self, name)

    monkeypatch.setattr(Prepared, "part", no_test)
    second = short(other, tmp_path / "second")
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert first.search.data != second.search.data
    with pytest.raises(AssertionError, match="has read the test split"):
        train(two[0].arms["linear"], data, 3)


def test_records_of_a_search_have_no_place_for_a_test_figure(two, tmp_path):
    fields = [item.name for cls in (Trial, TrialScores, Search) for item in dataclasses.fields(cls)]
    assert not [name for name in fields if "test" in name]
    found = short(two, tmp_path / "out").search
    assert found.metric == "val.roc_auc"
    for text in content(tmp_path / "out").values():
        assert b"test" not in text


def test_what_a_search_sees_is_never_tested_on(two, source, tmp_path):
    """Features without a split: a quarter is set apart, and the winners run on the others."""
    features = feature_set(400, 4)
    features.save(tmp_path / "plain.npz")
    (tmp_path / "plain.toml").write_text(TWO.format(source=tmp_path / "plain.npz"))
    experiment = load_experiment(tmp_path / "plain.toml")
    before = sorted(path.name for path in tmp_path.iterdir())
    found = short((experiment, two[1]), tmp_path / "out", budget=1)
    (search,) = (tmp_path / "out" / "features").glob("*-search.npz")
    rest = FeatureSet.load(found.experiment.arms["mlp"].data.source)
    assert set(FeatureSet.load(search).content_ids).isdisjoint(rest.content_ids)
    assert len(rest) == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])  # nothing beside the data
    given = short(two, tmp_path / "given", budget=1)
    assert given.experiment.arms["mlp"].data.source == str(source)


def test_a_search_by_time_sees_the_earliest_and_one_by_fold_is_refused(two, tmp_path):
    features = feature_set(400, 4)
    times = np.random.default_rng(0).permutation(400).astype(float)
    folds = np.array([f"fold {i % 5}" for i in range(400)])
    dataclasses.replace(features, times=times, folds=folds).save(tmp_path / "plain.npz")
    text = TWO.format(source=tmp_path / "plain.npz")

    def experiment(by):
        (tmp_path / "plain.toml").write_text(text.replace('task = "any"', f'task = "any"\nsplit_by = "{by}"'))
        return load_experiment(tmp_path / "plain.toml"), two[1]

    found = short(experiment("time"), tmp_path / "time", budget=1)
    (search,) = (tmp_path / "time" / "features").glob("*-search.npz")
    seen, rest = FeatureSet.load(search), FeatureSet.load(found.experiment.arms["mlp"].data.source)
    assert seen.times.max() < rest.times.min()
    with pytest.raises(CapabilityError, match=r"data\.split_by = fold tests on every fold"):
        short(experiment("fold"), tmp_path / "fold", budget=1)


@pytest.mark.usefixtures("without_figures")
def test_every_arm_has_the_same_budget_and_the_comparison_says_it(two, tmp_path):
    found = short(two, tmp_path / "out", budget=7, pruner="halving", seeds=(1000, 1001))
    trials = {arm: [trial for trial in found.search.trials if trial.arm == arm] for arm in two[0].arms}
    assert {arm: len(own) for arm, own in trials.items()} == {"linear": 7, "mlp": 7}
    assert found.n_done == 14
    for own in trials.values():
        assert [trial.value is None for trial in own] == [trial.pruned for trial in own]
        assert not own[0].pruned
        assert all(set(trial.epochs.values()) == ({max(trial.stops)} if trial.pruned else {4}) for trial in own)
    assert any(trial.pruned for own in trials.values() for trial in own)
    winner = max((trial for trial in trials["mlp"] if trial.value is not None), key=lambda trial: trial.value)
    assert found.experiment.arms["mlp"].head.hidden == winner.options["head.hidden"]

    experiment = load_experiment(found.winners)
    assert {arm: experiment.effective(arm) for arm in experiment.arms} == {
        arm: found.experiment.effective(arm) for arm in experiment.arms
    }
    assert experiment.searched == found.experiment.searched == found.search.searched()
    with pytest.raises(InputError, match="must be fresh: the search of these options has used seed 1000"):
        dataclasses.replace(experiment, seeds=(0, 1000))
    outcome = run_experiment(
        dataclasses.replace(experiment, seeds=(0, 1)), tmp_path / "out" / "c", executor=Threads(1), descriptive=True
    )
    text = outcome.report.read_text()
    facts = found.search.searched()
    said = f"{facts.pruned['mlp']} ended early, 0 without a value, {facts.epochs['mlp']} epochs"
    assert f"mlp 7 trials ({said}; `training.learning_rate`, `head.hidden`)" in text
    assert "on seeds 1000, 1001, none of which ran here" in text
    assert not any("numbers of trials" in warning for warning in outcome.summary.warnings)

    rival = dataclasses.replace(experiment.arms["mlp"], head=dataclasses.replace(experiment.arms["mlp"].head, hidden=6))
    more = dataclasses.replace(experiment, seeds=(0, 1), arms={**experiment.arms, "unsearched": rival})
    more = dataclasses.replace(more, facts={**experiment.facts, "unsearched": experiment.facts["mlp"]})
    outcome = run_experiment(more, tmp_path / "out" / "c", executor=Threads(1), descriptive=True)
    assert "different numbers of trials (linear 7, mlp 7, unsearched 0)" in " ".join(outcome.summary.warnings)
    assert "; unsearched none." in outcome.report.read_text()


def test_epochs_are_the_same_for_all_arms(two, tmp_path):
    arms = dict(two[0].arms)
    arms["mlp"] = dataclasses.replace(arms["mlp"], training=dataclasses.replace(arms["mlp"].training, epochs=8))
    uneven = dataclasses.replace(two[0], arms=arms), two[1]
    with pytest.raises(InputError, match=r"same budget of epochs .* got linear 4, mlp 8: give --epochs"):
        short(uneven, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = short(uneven, tmp_path / "out", epochs=2, budget=1)
    assert {tuple(trial.epochs.values()) for trial in found.search.trials} == {(2,)}
    assert found.experiment.arms["mlp"].training.epochs == 8  # the comparison trains as the experiment says


def trial(value=None, stops_=None, *, pruned=False):
    return Trial("a", {}, {}, value, {}, {}, stops_ or {}, pruned)


def test_bounds_come_from_earlier_trials(two):
    config = two[0].arms["linear"]
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=18, eval_every_epochs=2))
    whole = [trial(v, {6: v, 10: v, 14: v}) for v in (0.1, 0.2, 0.3, 0.4)]
    ended = trial(None, {6: 0.9}, pruned=True)

    def bounds(pruner, earlier, *, upwards=True):
        return {stop.epoch: stop.bound for stop in stops(pruner, config, earlier, higher_is_better=upwards)}

    assert bounds("none", whole) == {}
    assert bounds("median", whole[:3]) == {6: None, 10: None, 14: None}
    assert bounds("median", [*whole, ended]) == {6: 0.25, 10: 0.25, 14: 0.25}
    thirds = [trial(None, {2: v, 6: v}) for v in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert bounds("halving", []) == {2: None, 6: None}
    assert bounds("halving", thirds[:1]) == {2: 0.1, 6: 0.1}
    assert bounds("halving", thirds) == {2: 0.4, 6: 0.4}  # of six trials, two go on
    assert bounds("halving", thirds, upwards=False) == {2: 0.2, 6: 0.2}
    assert bounds("halving", [trial(None, {2: None}), *thirds]) == {2: 0.4, 6: 0.4}


def test_a_search_that_was_cut_short_goes_on_to_the_same_trials(two, tmp_path):
    """Trials that are there are neither done again nor changed, however many jobs ran at a time."""
    whole = short(two, tmp_path / "whole")
    trials = content(tmp_path / "whole")
    record = (tmp_path / "whole" / "search.json").read_bytes()
    cut = tmp_path / "whole" / "trials" / "mlp"
    for number in (1, 3, 4):
        (cut / f"000{number}.json").unlink()
    (cut / "0000.json").write_text("{")
    with pytest.warns(UserWarning, match="was set aside as 0000.json.damaged"):
        again = short(two, tmp_path / "whole", executor=Threads(2))
    assert again.n_done == 4
    (cut / "0000.json.damaged").unlink()
    assert content(tmp_path / "whole") == trials
    assert (tmp_path / "whole" / "search.json").read_bytes() == record
    assert again.search == whole.search
    assert short(two, tmp_path / "whole").n_done == 0
    grown = short(two, tmp_path / "whole", budget=6)
    assert grown.n_done == 2
    assert {name: text for name, text in content(tmp_path / "whole").items() if name in trials} == trials
    assert short(two, tmp_path / "once", budget=6).search.trials == grown.search.trials
    with pytest.raises(InputError, match="what was tried cannot be untried: `budget` must be at least that, got 5"):
        short(two, tmp_path / "whole")


def test_a_search_goes_on_after_sigkill(two, tmp_path):
    words = [str(tmp_path / "two.toml"), "--space", str(tmp_path / "space.toml"), "--budget", "5", "--batch", "2"]
    words += ["--trial-seeds", "1000,", "--no-compare", "--quiet", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "qwafer.search", *words, "--executor", "serial"])
    while len(list((tmp_path / "out").glob("trials/*/[0-9]*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = content(tmp_path / "out")
    again = short(two, tmp_path / "out")
    assert 3 <= len(left) == 10 - again.n_done
    assert again.search.trials == short(two, tmp_path / "whole").search.trials


def test_the_folder_of_another_search_is_refused(two, tmp_path, capsys):
    out = tmp_path / "out"
    short(two, out, budget=1)
    for options, field in (
        ({"seeds": (1002,)}, "seeds"),
        ({"pruner": "none"}, "pruner"),
        ({"batch": 3}, "batch"),
        ({"epochs": 3}, "base"),
    ):
        with pytest.raises(InputError, match=rf"holds another search \({field} "):
            short(two, out, **{"budget": 1, **options})
    with pytest.raises(InputError, match=r"holds another search \(space "):
        short((two[0], {arm: {"training.learning_rate": Dimension(1e-3, 1.0, log=True)} for arm in two[0].arms}), out)
    with pytest.raises(InputError, match=r"holds another search \(experiment "):
        short((dataclasses.replace(two[0], metric="test.loss"), two[1]), out)
    data = load_record(Search, out / "search.json")
    save_record(out / "search.json", dataclasses.replace(data, version="4.0.0"))
    with pytest.raises(InputError, match=r"holds another search \(version 4.0.0 there"):
        short(two, out)
    file = out / "trials" / "mlp" / "0000.json"
    save_record(out / "search.json", data)
    save_record(file, dataclasses.replace(load_record(Trial, file), options={"head.hidden": 2}))
    with pytest.raises(InputError, match="is not the trial that is proposed there"):
        short(two, out, budget=1)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds other things \(thesis.tex\) and no search"):
        short(two, tmp_path / "foreign")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "0"], "`budget` must be at least 1, got 0"),
        (["--budget", "2", "--batch", "0"], "`batch` must be at least 1, got 0"),
        (["--budget", "2", "--sampler", "tp"], "`sampler` must be one of hypercube, random, tpe, got 'tp'"),
        (["--budget", "2", "--pruner", "asha"], "`pruner` must be one of halving, median, none"),
        (["--budget", "2", "--trial-seeds", "5,9"], "must not be seeds of the experiment"),
        (["--budget", "2", "--seeds", "3"], "3 seeds cannot reach a verdict"),
        (["--budget", "2", "--epochs", "0"], "`training.epochs` must be at least 1"),
    ],
)
def test_bad_words_are_one_sentence(two, tmp_path, capsys, words, said):
    given = [str(tmp_path / "two.toml"), "--space", str(tmp_path / "space.toml"), "--out", str(tmp_path / "out")]
    assert verb.main([*given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


class Failing(Threads):
    """Runs no job: says of each what `what(key)` is, a failure or a result."""

    def __init__(self, what):
        super().__init__(1)
        self.what, self.keys = what, []

    def run(self, jobs, on_event):
        for job in jobs:
            if "/" not in job.key:  # the look at an arm before its first trial
                super().run([job], on_event)
                continue
            self.keys.append(job.key)
            found = self.what(job.key)
            kind = {"failure": found} if isinstance(found, Failure) else {"result": found}
            on_event(Event(job.key, "failed" if "failure" in kind else "done", **kind))


def scores(value, **more):
    return {"values": {"1000": value}, "epochs": {"1000": 4}, "converged": {"1000": True}, "stops": {}, **more}


def test_an_arm_whose_every_trial_fails_ends_the_search_with_the_reason(two, tmp_path):
    broken = Failing(lambda key: Failure("ValueError", "no luck") if key.startswith("mlp") else scores(0.7))
    with pytest.raises(InputError, match=r"no trial of arm mlp with a value \(ValueError: no luck\)"):
        short(two, tmp_path / "out", executor=broken)
    assert len(broken.keys) == 10
    again = Failing(lambda key: scores(0.7))
    with pytest.raises(InputError, match="no trial of arm mlp"):  # a failed trial is a trial: it is not tried again
        short(two, tmp_path / "out", executor=again)
    assert again.keys == []


def test_undefined_values_lose_and_of_equals_the_first_wins(two, tmp_path):
    values = {"linear/0001": 0.8, "linear/0003": 0.8, "mlp/0002": None}
    found = short(two, tmp_path / "out", executor=Failing(lambda key: scores(values.get(key, 0.5))))
    trials = [trial for trial in found.search.trials if trial.arm == "linear"]
    assert found.search.winner("linear") == trials[1].options != trials[3].options
    assert found.search.searched().failed == {"linear": 0, "mlp": 1}
    everything = Failing(lambda key: scores(None))
    with pytest.raises(InputError, match="no trial of arm linear with a value: search again"):
        short(two, tmp_path / "none", executor=everything)


def test_a_process_that_dies_costs_its_trial_nothing_but_time(two, tmp_path):
    died, seen = Failure("WorkerDied", "by signal 9"), []

    def what(key):
        seen.append(key)
        return died if key == "mlp/0001" and seen.count(key) < 3 else scores(0.5)

    found = short(two, tmp_path / "out", executor=Failing(what))
    assert (seen.count("mlp/0001"), found.search.searched().failed["mlp"]) == (3, 0)
    found = short(two, tmp_path / "dead", executor=Failing(lambda k: died if k == "mlp/0001" else scores(0.5)))
    assert found.search.trials[6].error == "WorkerDied: by signal 9"


def test_a_diverging_trial_has_no_value(two, source):
    config = two[0].arms["linear"]
    options = {"epochs": 6, "learning_rate": 10.0, "weight_decay": 10.0, "grad_clip": None, "fixed_num_batches": 60}
    wild = dataclasses.replace(config, training=dataclasses.replace(config.training, **options))
    found = run_trial(wild, FeatureSet.load(source), (3, 4), "roc_auc")
    assert (found.value, found.error) == (None, "training diverged")


def test_a_repeated_proposal_is_a_trial_that_is_not_run_again(two, tmp_path):
    few = {arm: {"training.schedule": Dimension(choices=("constant", "cosine"))} for arm in two[0].arms}
    found = short((two[0], few), tmp_path / "out", budget=6)
    assert found.n_done == 4
    own = [trial for trial in found.search.trials if trial.arm == "mlp"]
    assert len(own) == 6
    assert len({(trial.options["training.schedule"], trial.value) for trial in own}) == 2
    assert found.search.own["mlp"] == few["mlp"]


def test_the_space_is_recorded_and_read_again(two, tmp_path):
    found = short(two, tmp_path / "out", budget=1).search
    assert found.space == {"training.learning_rate": (1e-3, 1e-1)}
    assert found.own == {"mlp": {"head.hidden": Dimension(2, 4, integer=True)}}
    assert load_record(Search, tmp_path / "out" / "search.json") == found


def test_an_experiment_as_a_file_says_the_same(tmp_path):
    path = Path(__file__).resolve().parents[1] / "experiments" / "equal_budgets.toml"
    experiment = load_experiment(path)
    (tmp_path / "copy.toml").write_text(experiment_toml(experiment))
    copy = load_experiment(tmp_path / "copy.toml")
    assert [copy.effective(arm) for arm in copy.arms] == [experiment.effective(arm) for arm in experiment.arms]
    for name in ("title", "description", "expected", "reference", "seeds", "metric", "margin", "baseline"):
        assert getattr(copy, name) == getattr(experiment, name)
    (tmp_path / "copy.toml").write_text(experiment_toml(experiment) + "\n[search]\ntrials = {mlp = 3}\n")
    with pytest.raises(InputError, match=r"`search` of .* does not hold a Searched"):
        load_experiment(tmp_path / "copy.toml")
    found = load_space(path.parent / "spaces" / "equal_budgets.toml", experiment)
    assert {arm: len(own) for arm, own in found.items()} == dict.fromkeys(experiment.arms, 3)
    assert spread({}, experiment, found) == found
    with pytest.raises(InputError, match="nothing is drawn in arm mlp"):
        space.spread({}, experiment)


def test_optuna_is_asked_for_where_it_is_missing(two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        CapabilityError, match=r"a search needs the package optuna, which is not here: install qwafer\[search\]"
    ):
        short(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert short(two, tmp_path / "out", sampler="hypercube", budget=1).n_done == 2
    with pytest.raises(InputError, match="`budget` must be that, got 2"):
        short(two, tmp_path / "out", sampler="hypercube", budget=2)


@pytest.mark.usefixtures("without_figures")
def test_the_verb_searches_compares_and_resumes(two, tmp_path, capsys):
    words = [str(tmp_path / "two.toml"), "--space", str(tmp_path / "space.toml"), "--budget", "2", "--epochs", "2"]
    words += ["--out", str(tmp_path / "out"), "--executor", "serial", "--quiet", "--trial-seeds", "1000,"]
    assert verb.main(words) == 0
    said = capsys.readouterr().out
    assert "2 trials per arm, seeds 1000" in said
    report = tmp_path / "out" / "comparison" / "report.md"
    assert f"report: {report}" in said
    assert "mlp 2 trials (0 ended early" in report.read_text()
    ledger = json.loads((tmp_path / "test-reads.json").read_text())
    ((read,),) = ledger["data"].values()
    assert (read["name"], read["runs"]) == ("two-searched", 12)  # no trial is among the reads of the test split
    before = content(tmp_path / "out")
    assert verb.main(words) == 0
    assert content(tmp_path / "out") == before
