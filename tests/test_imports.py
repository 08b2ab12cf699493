"""`import qwafer` and every `--help` load nothing heavy, and every public name resolves."""

import subprocess
import sys

import pytest

import qwafer

HEAVY = {
    "jax",
    "pennylane",
    "catalyst",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "flax",
    "equinox",
    "orbax",
    "optax",
    "optuna",
    "tensorboardX",
    "mlflow",
    "wandb",
}


def loaded_after(code):
    program = f"{code}\nimport sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_importing_qwafer_is_light():
    assert loaded_after("import qwafer, qwafer.config, qwafer.circuits") == []


def test_engines_are_light_until_they_make_a_program():
    code = "from qwafer import engines\nfor name in engines.ENGINES.names: engines.get(name)"
    assert loaded_after(code) == []


@pytest.mark.parametrize(
    "verb", ["extract", "fit", "ablate", "search", "diagnose", "export", "registry", "serve", "monitor"]
)
def test_help_is_light(verb):
    code = f"""
import qwafer.{verb} as verb
try:
    verb.main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
"""
    assert loaded_after(code) == []


def test_only_workers_of_a_sweep_load_jax(tmp_path):
    (tmp_path / "two.toml").write_text(
        'seeds = 2\nmetric = "test.roc_auc"\ndata.task = "any"\ndata.n_maps = 120\n'
        'arms = {linear = {head = "linear"}, other = {head = "linear", training.weight_decay = 0.1}}\n'
        "[training]\nepochs = 1\nmax_doublings = 0\n"
    )
    words = [
        str(tmp_path / "two.toml"),
        "--maps",
        "synthetic",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--descriptive",
    ]
    loaded = loaded_after(f"from qwafer import ablate\nassert ablate.main({words!r}) == 0")
    assert loaded == ["matplotlib", "scipy"]


def test_every_public_name_resolves():
    for name in dir(qwafer):
        getattr(qwafer, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        qwafer.nonsense  # noqa: B018


def test_the_environment_of_a_worker_inside_a_worker_is_that_of_a_worker():
    from qwafer._process import worker_environment

    outer = worker_environment(1, {"XLA_FLAGS": "--xla_dump_to=/x"})
    assert outer["XLA_FLAGS"].split()[0] == "--xla_dump_to=/x"
    assert worker_environment(1, outer) == outer
    assert worker_environment(1, worker_environment(1, {})) == worker_environment(1, {})
