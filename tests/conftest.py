"""Settings of every test: 64 bit on, no silent rank promotion, real data only where it is present."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_cpu_enable_async_dispatch", False)

# The same revision gives the same answer; HYPOTHESIS_PROFILE=search looks for new counterexamples.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("search")
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of ablations without figures, which take most of the time of a small one and are not what is asked."""
    monkeypatch.setattr("qwafer.reports.ablation.write_figures", lambda *_: [])


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the checkout; tests that ask for it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED
