"""Where a run ran: versions, revision, machine."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "jax",
    "jaxlib",
    "pennylane",
    "pennylane-catalyst",
    "pennylane-lightning",
    "optax",
    "equinox",
    "numpy",
    "scikit-learn",
)
ALLOCATION = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")


@dataclass(frozen=True)
class Host:
    """The machine and the settings that move timings or the last bits of a result."""

    name: str
    platform: str
    cpu: str
    cpus: int | None
    """Logical processors; None where they cannot be counted."""
    devices: tuple[str, ...]
    """JAX's devices."""
    x64: bool
    """Whether JAX computes in double precision where asked to."""
    threads: dict[str, str]
    """Environment variables that set numbers of threads, where they are set."""
    allocator: dict[str, str]
    """Environment variables that choose the allocator, where they are set."""


@dataclass(frozen=True)
class Environment:
    """What a run was made with."""

    versions: dict[str, str]
    """Versions of Python and of the packages that a result rests on; `absent` where one is not installed."""
    git_revision: str | None
    """Commit of the checkout, `-dirty` if it differs; of an installed package its version and a digest of its files;
    None in results of versions that recorded neither."""
    host: Host


def environment() -> Environment:
    """Return what a run in this process is made with."""
    return Environment(versions(), git_revision(), host())


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result rests on; `absent` where one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    # The code that runs may be a checkout that is not the installed version, or not installed. Its package is loaded.
    found["qwafer"] = sys.modules["qwafer"].__version__
    return found


@functools.cache
def git_revision() -> str:
    """Return the commit of the checkout that holds this package, with `-dirty` if files differ.

    A package that no checkout tracks, as an installed one, is VERSION+DIGEST: 12 hex digits over its Python files,
    since two commits may have one version. A checkout around an environment says nothing of what is installed in it.
    """
    folder = Path(__file__).resolve().parents[1]
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None:
        described = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        if described:
            return described
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return f"{sys.modules['qwafer'].__version__}+{content.hexdigest()[:12]}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints in `folder`; None where it fails, or there is none."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host() -> Host:
    """Return the machine as it is set up now."""
    import jax

    return Host(
        name=platform.node(),
        platform=platform.platform(),
        cpu=_cpu(),
        cpus=os.cpu_count(),
        devices=tuple(str(device) for device in jax.devices()),
        x64=bool(jax.config.read("jax_enable_x64")),
        threads={name: os.environ[name] for name in THREADS if name in os.environ},
        allocator={name: os.environ[name] for name in ALLOCATION if name in os.environ},
    )


@functools.cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
