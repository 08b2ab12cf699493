"""Extraction as jobs of an executor gives what threads of this process give, bit for bit."""

import dataclasses

import numpy as np
import pytest

import qwafer
from qwafer import InputError
from qwafer.backbones import extract, extractor
from qwafer.execution import Job, LocalProcesses, make_executor
from qwafer.extract import main

SMALL = dataclasses.replace(extractor("spatial"), compute_batch=64)
MAPS = qwafer.synthetic_maps(200, seed=3)


class Counting:
    """An executor that notes what it is given."""

    def __init__(self, inner):
        self.inner, self.jobs = inner, []

    def __enter__(self):
        self.inner.__enter__()
        return self

    def __exit__(self, *error):
        return self.inner.__exit__(*error)

    def run(self, jobs, on_event):
        self.jobs += jobs
        self.inner.run(jobs, on_event)


def test_chunks_are_jobs_of_worker_processes(tmp_path):
    threads = extract(MAPS, SMALL, tmp_path / "threads.npz", jobs=2)
    executor = Counting(LocalProcesses(2))
    told = []
    jobs = extract(MAPS, SMALL, tmp_path / "jobs.npz", batch=64, executor=executor, progress=told.append)
    np.testing.assert_array_equal(jobs.features, threads.features)
    assert jobs.provenance == threads.provenance
    assert jobs.digest() == threads.digest()
    assert len(executor.jobs) > 1
    assert all(len(job.reads) == len(job.writes) == 1 for job in executor.jobs)
    assert told[-1].done == told[-1].total
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.npz", "threads.npz"]


def test_a_killed_extraction_resumes_with_another_executor(tmp_path):
    class KilledError(Exception):
        pass

    def stop(progress):
        if progress.done > 64:
            raise KilledError

    with pytest.raises(KilledError):
        extract(MAPS, SMALL, tmp_path / "f.npz", batch=64, executor=make_executor("serial"), progress=stop)
    executor = Counting(LocalProcesses(1))
    found = extract(MAPS, SMALL, tmp_path / "f.npz", batch=64, executor=executor)
    assert 0 < len(executor.jobs) < -(-len(MAPS) // 64)
    np.testing.assert_array_equal(found.features, qwafer.features_from_maps(MAPS, "spatial").features)


def test_the_verb_takes_an_executor(tmp_path, capsys):
    words = ["--maps", "synthetic", "--maps-count", "60", "--out", str(tmp_path / "f.npz"), "--quiet"]
    assert main([*words, "--executor", "local", "--jobs", "1", "--batch", "64"]) == 0
    expected = qwafer.features_from_maps(qwafer.synthetic_maps(60, seed=0), "spatial").features
    np.testing.assert_array_equal(qwafer.FeatureSet.load(tmp_path / "f.npz").features, expected)
    for more, said in (
        (["--executor", "locl"], "did you mean `local`"),
        (["--address", "auto"], "--address goes with --executor ray"),
        (["--executor", "local", "--address", "auto"], "takes no address"),
    ):
        assert main([*words[:4], "--out", str(tmp_path / "g.npz"), *more]) == 2
        assert said in capsys.readouterr().err


def test_a_backbone_that_is_another_one_there_is_refused(tmp_path):
    other = dataclasses.replace(SMALL, record={**SMALL.record, "versions": {"numpy": "0"}})
    for made, said in (
        (dataclasses.replace(SMALL, name="__main__:mine"), "has no name that another process finds"),
        (other, "makes another backbone spatial"),
    ):
        with pytest.raises(InputError, match=said):
            extract(MAPS, made, tmp_path / f"{len(said)}.npz", executor=LocalProcesses(1))


@pytest.mark.slow
def test_the_weights_of_a_network_travel(tmp_path):
    """A network with drawn weights, of which only the name and the tensors reach the other process."""
    made = extractor("mobilenet_v3_small", random_weights=0)
    few = qwafer.synthetic_maps(6, seed=0)
    executor = Counting(LocalProcesses(1))
    jobs = extract(few, made, tmp_path / "jobs.npz", executor=executor)
    assert isinstance(executor.jobs[0], Job)
    assert any(path.endswith("weights.npz") for path in executor.jobs[0].reads) == (made.state is not None)
    np.testing.assert_allclose(jobs.features, extract(few, made, tmp_path / "f.npz").features, rtol=1e-4, atol=1e-5)
