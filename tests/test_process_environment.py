"""What verbs and workers set before JAX starts: allocator, threads, XLA's cache."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from qwafer import InputError, _process
from qwafer._process import (
    GLIBC_TUNABLES,
    allocator_in_use,
    cache_folder,
    enable_xla_cache,
    prune,
    run_verb,
    worker_environment,
)


@pytest.fixture
def jax_cache():
    """Put JAX's setting back, for the tests that follow."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_worker_preloads_an_allocator_where_one_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "fast_allocator", lambda: "/lib/libjemalloc.so.2")
    assert worker_environment(1, {})["LD_PRELOAD"] == "/lib/libjemalloc.so.2"
    assert "GLIBC_TUNABLES" not in worker_environment(1, {})
    monkeypatch.setattr(_process, "fast_allocator", lambda: None)
    monkeypatch.setattr(sys, "platform", "linux")
    assert worker_environment(1, {})["GLIBC_TUNABLES"] == GLIBC_TUNABLES
    assert "LD_PRELOAD" not in worker_environment(1, {})


@pytest.mark.parametrize(
    "base", [{"QWAFER_ALLOCATOR": "off"}, {"LD_PRELOAD": "mine.so"}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}]
)
def test_what_the_caller_set_stays(base: dict[str, str]) -> None:
    environment = worker_environment(1, base)
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        assert environment.get(name) == base.get(name)


def test_a_library_of_ones_own_and_no_change_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "fast_allocator", lambda: None)
    once = worker_environment(1, {"QWAFER_ALLOCATOR": "/opt/lib/mine.so"})
    assert once["LD_PRELOAD"] == "/opt/lib/mine.so"
    assert worker_environment(1, once) == once


def test_the_allocator_in_use_is_read_from_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libjemalloc.so.2\n")
    assert allocator_in_use(maps) == "libjemalloc.so.2"
    maps.write_text("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n")
    assert allocator_in_use(maps) == "default"
    monkeypatch.setenv("GLIBC_TUNABLES", GLIBC_TUNABLES)
    assert allocator_in_use(maps) == "glibc, tuned"


@pytest.mark.skipif(sys.platform != "linux", reason="preloading is a Linux matter")
def test_a_worker_really_starts_with_what_is_set() -> None:
    code = "from qwafer._process import allocator_in_use; print(allocator_in_use())"
    environment = worker_environment(1, {"PATH": os.environ["PATH"], "PYTHONPATH": "."})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() != "default"
    assert done.stderr == ""


def test_the_xla_cache_goes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_cache: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QWAFER_XLA_CACHE", raising=False)
    assert enable_xla_cache() == tmp_path / "home" / "qwafer" / "xla"
    monkeypatch.setenv("QWAFER_XLA_CACHE", str(tmp_path / "env"))
    assert enable_xla_cache() == tmp_path / "env"
    assert enable_xla_cache(tmp_path / "argument") == tmp_path / "argument"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "argument")
    monkeypatch.setenv("QWAFER_XLA_CACHE", "off")
    assert enable_xla_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_that_cannot_be_written_is_off(tmp_path: Path, jax_cache: None) -> None:
    (tmp_path / "file").touch()
    assert enable_xla_cache(tmp_path / "file" / "cache") is None


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    code = (
        "import jax, jax.numpy as jnp; from qwafer._process import configure_jax; configure_jax()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "print(repr(float(jax.jit(lambda x: jnp.tanh(x @ x.T).sum())(jnp.linspace(0, 1, 6).reshape(2, 3)))))"
    )
    environment = {**os.environ, "QWAFER_XLA_CACHE": str(tmp_path)}
    results = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        results.append((done.stdout, {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}))
    assert results[0] == results[1]
    assert results[0][1]


def test_pruning_removes_the_oldest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new-cache", "old-cache", "oldest-cache", "notes.txt")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    prune(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new-cache", "old-cache", "notes.txt"}
    prune(tmp_path, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


def test_one_rule_for_folders_of_what_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWAFER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder("weights") == tmp_path / "home" / "qwafer" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("weights") == Path.home() / ".cache" / "qwafer" / "weights"
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "own"))
    assert cache_folder("weights") == tmp_path / "own" / "weights"
    assert cache_folder("xla") == tmp_path / "own" / "xla"


def test_a_verb_collects_rarely_and_leaves_python_as_it_was():
    before, inside = gc.get_threshold(), []

    def body():
        inside.append(gc.get_threshold())
        raise InputError("no")

    assert run_verb(body) == 2
    assert inside[0] > before == gc.get_threshold()
