"""What a new user meets first: the verbs, their lists, the reference of options, the package."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    *("extract", "fit", "search", "ablate", "diagnose", "bench", "errors", "plan", "verify"),
    *("export", "registry", "serve", "monitor"),
)


def python(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_two_routes_are_compared_at_one_point(capsys):
    script = importlib.import_module("qwafer.diagnostics.gradient_identity")
    columns = []
    for route in ("hamiltonian", "contraction"):
        script.main(["--qubits", "2", "--layers", "1", "--engine", "xla", "--route", route])
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("readout[")]
        columns.append([float(row[-1]) for row in rows])
    assert len(columns[0]) == 2
    assert columns[0] == pytest.approx(columns[1], abs=1e-5)


def test_the_qnode_of_the_guide_warns_of_nothing_and_trains_whole(tmp_path):
    """In a process as a user's is: JAX as it comes, in 32 bit."""
    page = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    done = python("own.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "complex128" not in done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"pass", "skip"}
    assert any("sensitivity all" in line and "live" in line for line in lines)


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_what_is_installed_inside_a_checkout_is_not_taken_for_the_checkout(tmp_path, monkeypatch):
    """The commit of a project says nothing of the package that its `.venv` holds."""
    from qwafer.training import _environment

    def revision(package):
        monkeypatch.setattr(_environment, "__file__", str(package / "training" / "_environment.py"))
        _environment.git_revision.cache_clear()
        return _environment.git_revision()

    tracked, installed = tmp_path / "qwafer", tmp_path / ".venv" / "qwafer"
    for package in (tracked, installed):
        (package / "training").mkdir(parents=True)
        (package / "__init__.py").write_text("a = 1\n", encoding="utf-8")
    git(tmp_path, "init")
    git(tmp_path, "add", "qwafer")
    git(tmp_path, "commit", "-m", "one")
    try:
        assert re.fullmatch(r"[0-9a-f]{40}", revision(tracked))
        first = revision(installed)
        assert re.fullmatch(r"0\.1\.0\+[0-9a-f]{12}", first)
        assert revision(installed) == first
        (installed / "__init__.py").write_text("a = 2\n", encoding="utf-8")
        assert revision(installed) != first
        (tracked / "__init__.py").write_text("a = 2\n", encoding="utf-8")
        assert revision(tracked).endswith("-dirty")
    finally:
        _environment.git_revision.cache_clear()


def test_python_m_qwafer_lists_what_there_is():
    code = "import runpy, sys\nsys.argv = ['qwafer']\ntry:\n    runpy.run_module('qwafer', run_name='__main__')\n"
    code += "except SystemExit as stop:\n    print('status', stop.code)\n"
    code += "print('heavy', *sorted({'jax', 'numpy', 'pennylane', 'pandas', 'rich'} & set(sys.modules)))"
    *lines, status, heavy = python("-c", code).stdout.splitlines()
    assert (status.split(), heavy.split()) == (["status", "0"], ["heavy"])
    for verb in VERBS:
        (line,) = [line for line in lines if line.split()[:3] == ["python", "-m", f"qwafer.{verb}"]]
        assert len(line.split()) > 6
    for path in (ROOT / "qwafer" / "diagnostics").glob("[a-z]*.py"):
        assert any(line.split()[:1] == [path.stem] and line.endswith("?") for line in lines)
    assert max(map(len, lines)) <= 110


def test_the_version_is_that_of_the_package(capsys):
    from qwafer.cli.overview import main

    with pytest.raises(SystemExit):
        main(["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert capsys.readouterr().out == f"qwafer {version}\n"
    assert main(["ablate", "--seeds", "none"]) == 2  # as python -m qwafer.ablate
    assert "`seeds` must be a number N" in capsys.readouterr().err
    assert main(["abalte"]) == 2
    assert "did you mean `ablate`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["qwafer", "qwafer.ablate", "qwafer.bench", "qwafer.search", "qwafer.diagnose", "qwafer.plan"]
)
def test_lists_are_on_every_command_line_that_takes_their_names(command, capsys):
    from qwafer.comparison.metrics import METRICS
    from qwafer.experiment import shipped_experiments
    from qwafer.overrides import known_options

    module = importlib.import_module(f"{command}.__main__" if command == "qwafer" else command)
    known = {"options": known_options(), "metrics": {f"test.{name}" for name in METRICS}}
    known["experiments"] = {path.stem for path in shipped_experiments()}
    for what, names in known.items():
        with pytest.raises(SystemExit) as stop:
            module.build_parser().parse_args([f"--list-{what}"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        for name in names:
            assert re.search(rf"(^|with |\s){re.escape(name)}\s", printed), name


def test_every_option_has_a_meaning_and_its_default_is_taken_back():
    from qwafer.config import RunConfig, thing_class, tuples
    from qwafer.overrides import parse_overrides
    from qwafer.reference import option_groups

    groups = option_groups()
    assert sum(len(group.options) for group in groups) > 60
    for group in groups:
        chosen = group.thing.split(" = ") if group.thing else None
        for option in group.options:
            assert len(option.meaning) > 3, option.name
            ((name, given),) = parse_overrides([f"{option.name}={option.default}"])
            section, _, field = name.partition(".")
            value = None if given.value == "none" else tuples(given.value)
            thing = getattr(RunConfig(), section) if chosen is None else thing_class(section, chosen[1])()
            assert getattr(thing, field) == value, name


def test_the_page_of_options_is_what_the_code_says(tmp_path, monkeypatch):
    from qwafer.experiment import load_experiment
    from qwafer.reference import options_page

    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run `make options`"
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "shown.toml").write_text(block, encoding="utf-8")
    assert list(load_experiment(tmp_path / "shown.toml").arms) == ["mean_z", "trained"]


def test_the_readme_leads_from_the_environment_to_commands_that_parse():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    first = next(index for index, line in enumerate(lines) if line.startswith("python -m"))
    assert any(line.startswith(". .venv/bin/activate") for line in lines[:first])
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("python -m qwafer")]
    assert len(commands) >= 8
    for _, _, module, *arguments in commands:
        verb = importlib.import_module("qwafer.__main__" if module == "qwafer" else module)
        verb.build_parser().parse_args(arguments)


def test_the_package_says_that_it_is_typed_and_ci_runs_what_a_user_runs():
    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["qwafer"]
    assert (ROOT / "qwafer" / "py.typed").is_file()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python_version,) = [step["with"]["python-version"] for step in steps if "with" in step]
    assert project["project"]["requires-python"] == f">={python_version}"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert program == ".venv/bin/ruff"
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, __file__], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stdout


def test_no_page_keeps_the_marks_of_a_merge():
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "experiments").glob("*.*"),
    ]
    marked = [str(page) for page in pages if re.search(r"^(<{7}|>{7}) ", page.read_text(encoding="utf-8"), re.M)]
    assert len(pages) > 20
    assert not marked


def test_the_map_of_the_code_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("| room |") : text.index("## What is computed")]
    package = {
        path.name.removesuffix(".py")
        for path in (ROOT / "qwafer").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    verbs = {path.stem for path in (ROOT / "qwafer").glob("*.py") if "main" in path.read_text(encoding="utf-8")}
    named = {name.rstrip("/") for name in re.findall(r"`([a-z_]+/?)`", table)}
    assert package - named - verbs == {"__init__"}
