"""What a search, a tracker and the other habits of the ecosystem must not let pass unsaid."""

import dataclasses
import string
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from qwafer import figures
from qwafer._errors import InputError
from qwafer.cli import search as verb
from qwafer.comparison.caveats import _searched
from qwafer.execution import Failure
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.studies import Dimension, load_space, run_search
from qwafer.sweeps.apart import set_apart
from qwafer.tracking import TrackedRun, Tracking
from qwafer.tracking.mlflow import _key
from tests.factories import feature_set
from tests.test_search import SPACE, TWO, Failing, parts, scores


@pytest.fixture
def two(tmp_path):
    """The experiment of two arms on given features, and its space."""
    feature_set(240, 4, split=parts(240)).save(tmp_path / "given.npz")
    (tmp_path / "two.toml").write_text(TWO.format(source=tmp_path / "given.npz"))
    (tmp_path / "space.toml").write_text(SPACE)
    experiment = load_experiment(tmp_path / "two.toml")
    return experiment, load_space(tmp_path / "space.toml", experiment)


def searched(two, out, what=lambda key: scores(0.5), **options):
    """A search whose trials are worth what `what` says."""
    return run_search(*two, out, **{"budget": 4, "batch": 2, "seeds": (1000,), "executor": Failing(what), **options})


def test_winners_are_not_searched_again_as_if_nobody_had(two, tmp_path):
    """The second search would say its own trials alone, on seeds that the first has used."""
    first = searched(two, tmp_path / "first")
    again = load_experiment(first.winners)
    with pytest.raises(InputError, match=r"found by a search already \(linear 4, mlp 4 trials\).*a larger budget"):
        searched((again, load_space(tmp_path / "space.toml", again)), tmp_path / "second", budget=1)
    assert not (tmp_path / "second").exists()


def test_options_that_no_trial_had_are_not_called_searched(two, tmp_path):
    """`ablate winners.toml --set training.learning_rate=0.5` is no comparison of what was searched."""
    winners = searched(two, tmp_path / "out").winners
    assert _searched(load_experiment(winners)) == []
    assert _searched(load_experiment(winners, ["training.max_doublings=1", "training.epochs=9"])) == []
    (said,) = _searched(load_experiment(winners, ["training.learning_rate=0.5"]))
    assert "linear `training.learning_rate`, mlp `training.learning_rate`" in said
    (said,) = _searched(load_experiment(winners, ["head.hidden=7"]))
    assert said.startswith("options are not those that the search found (mlp `head.hidden`)")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_budget_that_grew_after_its_winners_were_known_is_told(two, tmp_path, capsys):
    """Its comparison is another one, beside the first, not the first overwritten, and not an error after all trials."""
    words = [str(tmp_path / "two.toml"), "--space", str(tmp_path / "space.toml"), "--epochs", "2", "--seeds", "2"]
    words += ["--out", str(tmp_path / "out"), "--executor", "serial", "--quiet", "--trial-seeds", "1000,"]
    words += ["--descriptive", "--pruner", "none", "--batch", "1", "--budget"]
    assert verb.main([*words, "1"]) == 0
    first = (tmp_path / "out" / "comparison" / "report.md").read_text()
    assert "was raised" not in first
    for _ in range(2):
        assert verb.main([*words, "5"]) == 0, capsys.readouterr().err
    report = tmp_path / "out" / "comparison-5" / "report.md"
    assert "The budget was raised from 1 after its winners were known" in report.read_text()
    assert (tmp_path / "out" / "comparison" / "report.md").read_text() == first
    assert "by 2 experiments from this folder" in report.read_text()


def test_a_budget_that_grew_before_it_was_used_up_is_no_second_look(two, tmp_path):
    def killed(key):
        raise KeyboardInterrupt if key.endswith("2") else StopIteration

    with pytest.raises(KeyboardInterrupt):
        searched(two, tmp_path / "out", lambda key: scores(0.5) if key[-1] in "01" else killed(key))
    found = searched(two, tmp_path / "out", budget=6)
    assert found.search.raised == ()
    found = searched(two, tmp_path / "out", budget=8)
    assert found.search.raised == found.search.searched().raised == (6,)
    assert searched(two, tmp_path / "out", budget=8).search == found.search


def test_a_trial_that_repeats_another_is_not_counted_as_a_search(two, tmp_path):
    """Sixty trials of an arm with two choices are two configurations, trained once each."""
    space = {**two[1], "linear": {"training.schedule": Dimension(choices=("constant", "cosine"))}}
    found = searched((two[0], space), tmp_path / "out", budget=8)
    facts = found.search.searched()
    assert (facts.trials["linear"], facts.repeated, facts.epochs) == (
        8,
        {"linear": 6, "mlp": 0},
        {"linear": 8, "mlp": 32},
    )
    (said,) = _searched(load_experiment(found.winners))
    assert "different configurations that gave a value or were ended early: linear 2, mlp 8" in said


def test_trials_that_failed_are_not_counted_as_a_search(two, tmp_path):
    bad = Failure("ValueError", "no luck")
    found = searched(two, tmp_path / "out", lambda k: bad if k in {"mlp/0000", "mlp/0001", "mlp/0003"} else scores(0.5))
    (said,) = _searched(load_experiment(found.winners))
    assert "linear 4, mlp 1" in said


def test_a_disk_that_fails_is_no_outcome_of_a_trial(two, tmp_path):
    """Trials that could not read or write are run by the next call; those that ran out of memory at once."""
    full = Failure("OSError", "[Errno 28] No space left on device")
    with pytest.raises(InputError, match=r"mlp/0001 could not run \(OSError: .*No space left"):
        searched(two, tmp_path / "out", lambda key: full if key == "mlp/0001" else scores(0.5))
    seen = []

    def once(key):
        seen.append(key)
        return Failure("MemoryError", "out") if seen.count(key) == 1 else scores(0.5)

    found = searched(two, tmp_path / "out", once)
    assert found.search.searched().failed == {"linear": 0, "mlp": 0}
    assert "mlp/0001" in seen
    assert "linear/0000" not in seen


class Deaf:
    """A tracker whose server takes what is said and never answers."""

    def __init__(self):
        self.answer = threading.Event()

    def start(self, run):
        self.answer.wait(60)

    def log(self, curves, metrics): ...

    def finish(self, artefacts): ...


def test_a_tracker_that_never_answers_ends_the_tracking_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qwafer.tracking.tracking.PATIENCE", 0.2)
    deaf = Deaf()
    tracking, before = Tracking(deaf, "deaf", tmp_path), time.monotonic()
    for name in ("a", "b"):
        tracking.tell(TrackedRun(name, "g"), {}, {})
    deaf.answer.set()
    assert time.monotonic() - before < 20
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("deaf has failed at a and ends here: TimeoutError: no answer in 0.2 s")
    assert not (tmp_path / "tracked-deaf.json").exists()


def test_a_process_whose_tracker_never_answers_comes_to_its_end(tmp_path):
    program = (
        "import threading, pathlib, qwafer.tracking.tracking as t\n"
        "t.PATIENCE = 0.2\n"
        "class Deaf:\n"
        "    def start(self, run): threading.Event().wait()\n"
        f"t.Tracking(Deaf(), 'deaf', pathlib.Path({str(tmp_path)!r})).tell(t.TrackedRun('a', 'g'), {{}}, {{}})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, "ends here: TimeoutError" in done.stderr) == (0, True)


def test_a_tracker_that_leaves_the_process_ends_the_tracking_alone(tmp_path, capsys):
    """Packages of trackers call `sys.exit` where they are not logged in."""

    class Leaving(Deaf):
        def start(self, run):
            sys.exit("not logged in")

    tracking = Tracking(Leaving(), "leaving", tmp_path)
    tracking.tell(TrackedRun("a", "g"), {}, {})
    assert tracking.failed
    assert capsys.readouterr().err.rstrip().endswith("ends here: SystemExit: not logged in")


def test_labels_that_differ_stay_apart_at_a_tracker_that_takes_ascii():
    """Values of two labels under one name would be one curve of both."""
    names = ["val_roc_auc/Kratzer", "val_roc_auc/Löcher", "val_roc_auc/Lächer", "val_roc_auc/L_cher", "a.b/c d-e"]
    keys = [_key(name) for name in names]
    assert len(set(keys)) == len(keys)
    assert (keys[0], keys[-1]) == (names[0], names[-1])
    assert all(key.isascii() and set(key) <= set(string.ascii_letters + string.digits + "_-. /") for key in keys)


@pytest.mark.parametrize("wrong", [None, "runs/demo", 3, object(), [], [None]])
@pytest.mark.parametrize("draw", ["paired", "differences", "curve", "confusion", "reliability", "roc"])
def test_a_figure_of_something_else_is_one_sentence(draw, wrong):
    with pytest.raises(InputError, match=r"^(`summary` must be|`runs?` must (be|hold)|none of these runs)") as raised:
        getattr(figures, draw)(wrong)
    assert "\n" not in str(raised.value)


def test_a_figure_of_no_run_is_one_sentence():
    with pytest.raises(InputError, match="`runs` must hold a result"):
        figures.roc({})


def test_examples_are_set_apart_of_the_file_as_it_is(tmp_path):
    """A file that was replaced since, or is split otherwise, gets parts of its own: else a search would see what the
    experiment tests on.
    """
    features = dataclasses.replace(feature_set(200, 4), times=np.arange(200.0))
    features.save(tmp_path / "given.npz")
    first = set_apart(tmp_path / "given.npz")
    by_time = set_apart(tmp_path / "given.npz", split_by="time")
    assert set_apart(tmp_path / "given.npz") == first
    assert FeatureSet.load(by_time[0]).times.max() < FeatureSet.load(by_time[1]).times.min()
    features.take(np.arange(0, 200, 2)).save(tmp_path / "given.npz")
    parts = [FeatureSet.load(path) for path in set_apart(tmp_path / "given.npz")]
    assert sum(map(len, parts)) == 100
