"""Drift is told from chance, and two versions are judged at one error rate however often one looks."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwafer import InputError
from qwafer._records import load_record, to_json
from qwafer.data import synthetic_maps
from qwafer.reports.figures import text_problems
from qwafer.reports.figures.drift import distributions_figure, null_figure, shares_figure
from qwafer.serving.answering import Answering
from qwafer.serving.drift import LEVEL, Monitoring, class_f1, monitor, psi, psi_null
from qwafer.serving.evidence import Evidence
from qwafer.serving.release import Release
from qwafer.serving.review import Answers
from qwafer.serving.store import Store, Stored, Window, packed_map
from qwafer.serving.trial import ALPHA, judge_trial, required_reviews
from tests.serving_factory import MAPS, made_registry, made_release

SHARES = np.array([0.6, 0.2, 0.12, 0.05, 0.03])
CLASSES = np.array(list("abcde"))


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


def window(predictions: Any, **columns: Any) -> Window:
    n = len(predictions)
    values: dict[str, Any] = {
        "at": np.zeros(n), "lots": np.full(n, ""), "versions": np.full(n, "1.0.0"), "confidence": np.full(n, 0.9),
        "distance": np.ones(n), "flagged": np.zeros(n, bool), "audit": np.ones(n, bool), "latency": np.full(n, 5.0),
        "labels": np.full(n, None), "reviewed": np.full(n, np.nan), "ids": np.arange(n), "wafers": np.full(n, ""),
    }  # fmt: skip
    return Window(**{**values, "predictions": np.asarray(predictions), **columns})


def evidence_of(release: Release, rng: np.random.Generator, n: int = 1000) -> Evidence:
    texts, counts = np.unique(rng.choice(CLASSES, n, p=SHARES), return_counts=True)
    told = dict(zip(texts.tolist(), counts.tolist(), strict=True))
    reference = dataclasses.replace(
        release.evidence.reference, n=n, predictions=told, design_effect=1.0,
        confidence=tuple(np.sort(rng.beta(9, 1, n))), distance=tuple(np.sort(rng.normal(9, 1, n))),
    )  # fmt: skip
    return dataclasses.replace(release.evidence, reference=reference, label_names=tuple(CLASSES))


def drawn(rng: np.random.Generator, n: int, shares: np.ndarray = SHARES, **more: Any) -> Window:
    scores = {"confidence": rng.beta(9, 1, n), "distance": rng.normal(9, 1, n)}
    return window(**{"predictions": rng.choice(CLASSES, n, p=shares), **scores, **more})


def seen(found: Window, evidence: Evidence, seed: int = 0) -> Monitoring:
    return monitor(found, evidence, "1.0.0", since=0.0, until=1.0, seed=seed)


def test_psi_is_the_formula_of_the_reference() -> None:
    p, q = np.array([30.0, 50.0, 20.0]), np.array([40.0, 40.0, 20.0])
    a, b = (p + 0.5) / (p + 0.5).sum(), (q + 0.5) / (q + 0.5).sum()
    assert psi(p, q) == pytest.approx(sum((a - b) * np.log(a / b)))
    assert psi(p, p) == 0.0


def test_the_null_of_psi_is_what_chance_does() -> None:
    rng = np.random.default_rng(0)
    null = psi_null(80 * SHARES, 500 * SHARES)
    drawn_here = psi(rng.multinomial(80, SHARES, 4000), rng.multinomial(500, SHARES, 4000))
    for q in (0.5, 0.9, 0.99):
        assert np.quantile(null, q) == pytest.approx(np.quantile(drawn_here, q), rel=0.1)
    assert (drawn_here > 0.1).mean() > 0.05, "the bound of 0.1 alone fires on noise at 80 wafers"


def test_unmoved_windows_are_quiet_at_the_stated_rate_and_moved_ones_are_found(release: Release) -> None:
    rng = np.random.default_rng(1)
    evidence = evidence_of(release, rng)
    quiet = [seen(drawn(rng, 150), evidence, seed) for seed in range(60)]
    alarms = sum(any(test.p_holm <= LEVEL for test in found.tests) for found in quiet)
    assert alarms <= 4, "binomial(60, 0.01) exceeds 4 less than once in 1,000 times"
    assert not any(
        "PSI" in alert.sentence for found in quiet for alert in found.alerts if found.tests[0].p_holm > LEVEL
    )
    moved = np.array([0.3, 0.2, 0.12, 0.05, 0.33])
    found = seen(drawn(rng, 400, moved), evidence)
    assert found.alerts[0].severity == "critical"
    assert "significant drift of the predicted classes" in found.alerts[0].sentence
    less_sure = seen(drawn(rng, 400, confidence=rng.beta(5, 1, 400)), evidence)
    assert [a.sentence.split(" has")[0] for a in less_sure.alerts] == ["the distribution of confidence"]
    assert not seen(drawn(rng, 20, moved), evidence).tests


def test_wafers_of_one_lot_are_not_taken_for_independent(release: Release) -> None:
    """A lot of 25 is of one class nine times in ten: with lots unknown many unmoved windows are alarms."""
    rng = np.random.default_rng(2)
    evidence = evidence_of(release, rng, n=4000)
    alarms = {"known": 0, "unknown": 0}
    for seed in range(40):
        of_lot = np.repeat(rng.choice(CLASSES, 40, p=SHARES), 25)
        texts = np.where(rng.random(1000) < 0.9, of_lot, rng.choice(CLASSES, 1000, p=SHARES))
        for kind, lots in (("known", np.repeat([f"L{i}" for i in range(40)], 25)), ("unknown", np.full(1000, ""))):
            found = seen(drawn(rng, 1000, predictions=texts, lots=lots), evidence, seed)
            alarms[kind] += found.tests[0].p_holm <= LEVEL
    assert alarms["known"] <= 3
    assert alarms["unknown"] >= 7


def test_noise_on_the_maps_is_found_and_new_maps_are_not(release: Release) -> None:
    answering = Answering(release)
    rng = np.random.default_rng(3)

    def answered(maps: np.ndarray) -> Window:
        parts: list[Answers] = [answering(list(maps[i : i + 64])) for i in range(0, len(maps), 64)]
        texts = [text for part in parts for text in part.predictions]
        both = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("confidence", "distance")}
        return window(texts, **both, flagged=np.concatenate([part.review for part in parts]))

    fresh = synthetic_maps(240, seed=11).maps
    assert not [a for a in seen(answered(fresh), release.evidence).alerts if "flagged" not in a.sentence]
    noisy = np.where((fresh > 0) & (rng.random(fresh.shape) < 0.2), 3 - fresh, fresh).astype(np.uint8)
    told = [alert.sentence for alert in seen(answered(noisy), release.evidence).alerts]
    assert any("drift of the predicted classes" in sentence for sentence in told)
    assert any("confidence has moved" in sentence for sentence in told)


def test_f1_from_reviews_is_that_of_all_answers() -> None:
    rng = np.random.default_rng(4)
    n = 60_000
    true = rng.choice(CLASSES, n, p=SHARES)
    wrong = rng.random(n) < 0.15
    said = np.where(wrong, rng.permutation(true), true)
    flagged = wrong & (rng.random(n) < 0.6)
    audit = ~flagged & (rng.random(n) < 0.1)
    reviewed = np.where((flagged & (rng.random(n) < 0.5)) | audit, 1.0, np.nan)
    found = class_f1(window(said, labels=true, flagged=flagged, audit=audit, reviewed=reviewed), tuple(CLASSES))
    for name, (value, low, high) in found.items():
        tp = ((said == name) & (true == name)).sum()
        wanted = 2 * tp / ((said == name).sum() + (true == name).sum())
        assert value == pytest.approx(wanted, abs=0.03)
        assert low <= value <= high


def trial_window(rng: np.random.Generator, n: int, right: tuple[float, float]) -> tuple[Window, list[np.ndarray], Any]:
    """Wafers that two versions answer, right with these probabilities, half of them each; all are reviewed."""
    true = rng.choice(CLASSES[:2], n)
    other = np.where(true == "a", "b", "a")
    said = [np.where(rng.random(n) < p, true, other) for p in right]
    mine = rng.random(n) < 0.5
    columns = {"labels": true.astype(object), "reviewed": rng.random(n), "versions": np.where(mine, "1.0.0", "1.1.0")}
    return window(np.where(mine, said[0], said[1]), **columns), said, {i: np.full((1, 1), i) for i in range(n)}


def sides_of(said: list[np.ndarray]) -> list[Any]:
    def side(k: int) -> Any:
        return lambda wafers: [said[k][int(wafer[0, 0])] for wafer in wafers]

    return [("1.0.0", side(0)), ("1.1.0", side(1))]


def judged(rng: np.random.Generator, n: int, right: tuple[float, float]) -> Any:
    found, said, maps = trial_window(rng, n, right)
    sides = sides_of(said)
    return judge_trial(found, maps, sides[0], sides[1], ("a", "b"))


def test_who_looks_often_errs_no_more_often() -> None:
    rng = np.random.default_rng(5)
    same = [judged(rng, 850, (0.9, 0.9)) for _ in range(50)]
    assert sum(trial.verdict in ("better", "worse") for trial in same) <= 2 * ALPHA * 50
    better = judged(rng, 1700, (0.85, 0.95))
    assert (better.verdict, better.promote) == ("better", True)
    assert better.looks[-1].low > 0
    assert judged(rng, 850, (0.95, 0.85)).verdict == "worse"
    assert judged(rng, 40, (0.5, 0.9)).sentence == "40 reviews: the first look is at 50."


def test_a_guardrail_holds_a_better_version_back() -> None:
    rng = np.random.default_rng(6)
    found, said, maps = trial_window(rng, 1700, (0.4, 0.55))
    sides = sides_of(said)
    slow = dataclasses.replace(found, latency=np.where(found.versions == "1.1.0", 80.0, 5.0))
    trial = judge_trial(slow, maps, sides[0], sides[1], ("a", "b"))
    assert (trial.verdict, trial.promote) == ("better", False)
    assert {guard.name for guard in trial.guardrails if not guard.held} == {"p99 latency", "F1 of a", "F1 of b"}
    with pytest.raises(InputError, match=r"version 2.0.0 has given no answers"):
        judge_trial(found, maps, sides[0], ("2.0.0", sides[1][1]), ("a", "b"))


def test_the_sample_size_is_that_of_a_paired_test() -> None:
    assert 600 < required_reviews(0.02, 0.015) < 800
    assert required_reviews(0.2, 0.015) > 8 * required_reviews(0.02, 0.015)
    rng = np.random.default_rng(7)
    up, down = 0.06, 0.02
    n = required_reviews(up + down, up - down)
    pairs = rng.multinomial(n, [up, down, 1 - up - down], 3000)
    z = (pairs[:, 0] - pairs[:, 1]) / np.sqrt(np.maximum(pairs[:, 0] + pairs[:, 1], 1))
    assert 0.75 < (z > 1.96).mean() < 0.87


def test_the_verb_reads_the_store_and_writes_a_report(release: Release, tmp_path: Path, capsys: Any) -> None:
    from qwafer.cli.monitor import main

    registry = made_registry(tmp_path / "r", release, "1.0.0", "1.1.0")
    assert main([str(tmp_path / "r")]) == 2
    assert "there is no store" in capsys.readouterr().err
    answers, store = Answering(release)(list(MAPS.maps[:120])), Store(tmp_path / "r" / "answers.sqlite")
    rows = [
        Stored(time.time(), f"W{i}", f"L{i // 10}", "1.1.0" if i % 2 else "1.0.0", text, float(answers.confidence[i]),
               float(answers.distance[i]), bool(answers.review[i]), not answers.review[i], 3.0, b"",
               *MAPS.maps[i].shape, packed_map(MAPS.maps[i]))
        for i, text in enumerate(answers.predictions)
    ]  # fmt: skip
    for number in store.add(rows):
        store.say(number, rows[number - 1].prediction)
    assert main([str(tmp_path / "r"), "--out", str(tmp_path / "out")]) in (0, 1)
    printed = capsys.readouterr().out
    assert "1.0.0: 60 answers" in printed
    record = load_record(Monitoring, tmp_path / "out" / "monitoring.json")
    assert (record.n, record.n_lots, record.accuracy.estimate) == (60, 12, 1.0)
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count(".png") >= 3
    assert main([str(tmp_path / "r"), "--until", "2000-01-01"]) == 2
    assert main([str(tmp_path / "r"), "--trial", "1.0.0", "1.1.0", "--out", str(tmp_path / "t")]) == 1
    assert "undecided" in capsys.readouterr().out
    assert (tmp_path / "t" / "trial.json").is_file()
    assert to_json(record)["schema"] == "qwafer/monitoring/1"
    assert registry.pointers().champion == "1.0.0"


def test_no_text_of_a_figure_is_hidden() -> None:
    rng = np.random.default_rng(0)
    long = {"Edge-Ring + Scratch + Loc": (0.5, 0.4), "none": (0.5, 0.6)}
    pairs = {"confidence": (rng.random(40), rng.random(30)), "distance": (rng.random(40), rng.random(30))}
    for figure in (shares_figure(long), null_figure(rng.random(100), 0.4), distributions_figure(pairs)):  # type: ignore[arg-type]
        assert text_problems(figure) == []
