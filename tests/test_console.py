"""The command `qwafer`, as the wheel installs it, and what a shell completes of it."""

import importlib
import os
import pty
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qwafer.cli.completion import COMPLETERS, SHELLS
from qwafer.cli.overview import VERBS

ROOT = Path(__file__).resolve().parents[1]

MODULE = (sys.executable, "-m", "qwafer.verify")
BASH = """
set -eu
source <(qwafer completion bash)
read -ra words <<< "$1"
[[ "$1" == *" " ]] && words+=("")
function=$(complete -p qwafer | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)) COMP_TYPE=9 COMP_KEY=9
"$function" qwafer "${words[-1]}" || true
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """The environment of a process in which `qwafer` is the script of pyproject.toml, in an empty directory."""
    folder = tmp_path_factory.mktemp("console")
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["qwafer"].partition(
        ":"
    )
    script = folder / "bin" / "qwafer"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n")
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, folder


def run(console, *words):
    environment, folder = console
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=60)


def test_a_verb_is_its_module(console):
    alone = run(console, "qwafer")
    assert (alone.returncode, alone.stderr) == (0, "")
    for verb in VERBS:
        assert f"qwafer.{verb} " in alone.stdout
    help_of = run(console, "qwafer", "plan", "--help").stdout
    assert help_of.startswith("usage: qwafer plan ")
    spoken, module = (run(console, *words, "nowhere") for words in (("qwafer", "verify"), MODULE))
    assert (spoken.returncode, spoken.stderr) == (module.returncode, module.stderr) == (2, module.stderr)
    assert "nowhere" in spoken.stderr
    for words in (("plan", "--effect"), ("abalte",), ("--nothing",)):
        assert run(console, "qwafer", *words).returncode == 2


def test_every_verb_answers_by_both_names(capsys, monkeypatch):
    from qwafer.cli.overview import main

    for argv, name in (("qwafer", "qwafer {}"), ("-m", "python -m qwafer.{}")):
        monkeypatch.setattr(sys, "argv", [argv])
        for verb in VERBS:
            with pytest.raises(SystemExit) as stop:
                main([verb, "--help"])
            assert stop.value.code == 0
            assert capsys.readouterr().out.startswith(f"usage: {name.format(verb)} ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qwafer abl", {"ablate"}),
        ("qwafer ablate --exec", {"--executor"}),
        ("qwafer ablate --executor ", {"local", "serial", "ray"}),
        ("qwafer ablate mean_z_vs", {"mean_z_vs_readout"}),
        ("qwafer ablate mine", {"mine.toml"}),
        ("qwafer bench --set training.epo", {"training.epochs="}),
        ("qwafer bench --set engine.name=x", {"xla"}),
        ("qwafer registry pro", {"promote"}),
        ("qwafer diagnose --engine ref", {"reference"}),
        ("qwafer completion ", set(SHELLS)),
    ],
)
def test_bash_completes(console, line, expected):
    (console[1] / "mine.toml").touch()
    (console[1] / "mine.npz").touch()
    done = run(console, "bash", "-c", BASH, "bash", line)
    assert not done.stderr
    assert {word.strip() for word in done.stdout.splitlines()} >= expected
    if line[-1] != " ":
        assert len(done.stdout.split()) == len(expected)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_tab_key_completes(console):
    environment, folder = console
    (folder / "rc").write_text('eval "$(qwafer completion bash)"\nPS1=\n')
    terminal, inside = pty.openpty()
    command = ["bash", "--noprofile", "--rcfile", "rc", "-i"]
    with subprocess.Popen(
        command, stdin=inside, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env=environment, text=True
    ) as shell:
        os.close(inside)
        os.write(terminal, b"qwafer pla\t--hel\t\nexit\n")
        out, _ = shell.communicate(timeout=60)
    os.close(terminal)
    assert "usage: qwafer plan " in out


def test_the_words_of_other_shells_and_of_no_shell(console):
    for shell, word in (("zsh", "compdef"), ("fish", "complete --command qwafer")):
        done = run(console, "qwafer", "completion", shell)
        assert done.returncode == 0
        assert word in done.stdout
        if shutil.which(shell) is not None:
            assert run(console, shell, "-c", done.stdout).returncode == 0
    assert run(console, "qwafer", "completion", "sh").returncode == 2


def test_completing_without_the_extra_says_which_one(console):
    code = "import sys; sys.modules['argcomplete'] = None\nfrom qwafer.cli.overview import main\n"
    done = run(console, sys.executable, "-c", f"{code}sys.exit(main(['completion', 'bash']))")
    assert (done.returncode, done.stdout) == (2, "")
    assert "install qwafer[completion]" in done.stderr


def test_what_is_completed_is_an_argument_of_a_verb():
    from qwafer.cli.completion import _actions

    known = {
        action.dest
        for verb in VERBS
        for action in _actions(importlib.import_module(f"qwafer.cli.{verb}").build_parser())
    }
    assert set(COMPLETERS) <= known
    for name, complete in COMPLETERS.items():
        assert len(complete(prefix="")) > 2, name
    options = COMPLETERS["overrides"]
    assert options(prefix="head=qu") == [f"head={name}" for name in importlib.import_module("qwafer.heads").HEADS.names]
    assert options(prefix="training.epochs=") == []
    assert shlex.quote(options(prefix="")[0][:-1]) == options(prefix="")[0][:-1]
