"""Process set-up of verbs and workers: the only place where qwafer configures JAX or the environment."""

import contextlib
import functools
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

DEFAULT_EXPERIMENT = "mean_z_vs_readout"
"""The experiment that verbs take when they are given none; here, because `--help` names it and must be light."""


def run_verb(body: Callable[[], int]) -> int:
    """Run a verb's body; bad input becomes one line on stderr and exit status 2.

    Bad input is InputError, CapabilityError, the operating system's refusals (a missing file, a full disk) and what
    does not fit into memory.
    Anything else is a defect of qwafer and keeps its traceback.
    """
    from qwafer._errors import CapabilityError, InputError

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    try:
        with rare_collections():
            return body()
    except (InputError, CapabilityError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    except (MemoryError, RuntimeError) as error:  # XLA has no class of its own for it
        if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        message = f"the memory of this machine does not suffice ({error}): use less data"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is complete is on disk, and the same command resumes\n")
        return 130
    sys.stderr.write(f"error: {one_line(message)}\n")
    return 2


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for reference cycles less often in here.

    JAX traces a program as hundreds of thousands of small objects that live on, and looking through them again and
    again takes a tenth of the CPU time of a short sweep.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def one_line(text: str) -> str:
    """Return `text` in one line, with every character that could steer a terminal written as its escape sequence."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def configure_jax(*, x64: bool = True) -> None:
    """Configure JAX as verbs and workers do: 64 bit available, no asynchronous dispatch, XLA's cache on.

    Asynchronous dispatch on the CPU can deadlock with host callbacks, on which the catalyst engine rests. JAX reads
    that setting once: call this before any computation.
    """
    import jax

    jax.config.update("jax_enable_x64", x64)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    enable_xla_cache()


def compiler_options() -> dict[str, bool]:
    """Return the options with which circuits of engine `xla` compile faster: `jax.jit(f, compiler_options=...)`.

    On a CPU, XLA's older emitters of kernels take a half to a quarter of the CPU time of the present ones for programs
    that are as fast (`benchmarks/emitters.py`); elsewhere there are none. JAX takes them for the outermost `jax.jit`
    alone. The library's own training and evaluation are compiled so.
    """
    import jax

    return {"xla_cpu_use_fusion_emitters": False} if jax.default_backend() == "cpu" else {}


@functools.cache
def avoid_async_dispatch() -> None:
    """Switch off JAX's asynchronous dispatch on the CPU, or warn where JAX has computed already and keeps it."""
    import jax
    from jax._src import xla_bridge

    if not jax.config.read("jax_cpu_enable_async_dispatch"):
        return
    if not xla_bridge.backends_are_initialized():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    elif jax.default_backend() == "cpu":
        warnings.warn(
            "JAX dispatches asynchronously in this process, which can deadlock with programs of engine catalyst when "
            "threads or pending results are involved: call qwafer.configure_jax() before the first computation",
            stacklevel=3,
        )


def enable_xla_cache(directory: str | Path | None = None) -> Path | None:
    """Keep what XLA compiles on disk, so that the next process need not compile it again; return the directory.

    The directory is `directory`, else the environment variable QWAFER_XLA_CACHE, else `cache_folder("xla")`; `off`
    turns the cache off and returns None. A directory that cannot be written turns it off as well: it only saves time.
    One that was empty, and so is marked as qwafer's with a `CACHEDIR.TAG`, is cut back to `XLA_CACHE_BYTES` here,
    oldest files first; a folder of anything else is used and never cut back. Catalyst's own programs and jitted
    functions with host callbacks have no cache on disk.
    """
    import jax

    chosen = directory or os.environ.get("QWAFER_XLA_CACHE") or cache_folder("xla")
    path = None if str(chosen) == "off" else Path(chosen).expanduser()
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            writable = os.access(path, os.W_OK)
        except OSError:
            writable = False
        path = path if writable else None
    jax.config.update("jax_compilation_cache_dir", None if path is None else str(path))
    if path is not None:
        if _is_own_cache(path, default=path == cache_folder("xla")):
            prune(path, XLA_CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return path


def _is_own_cache(path: Path, *, default: bool) -> bool:
    """Return whether the folder holds XLA's cache alone, by its mark; mark it if it is empty, or the default one."""
    mark = path / "CACHEDIR.TAG"
    try:
        if not mark.exists() and (default or not any(path.iterdir())):
            mark.write_text(CACHE_TAG)
        return mark.read_text() == CACHE_TAG
    except OSError:
        return False


def free_memory_maps(limit: int | None = None) -> bool:
    """Let JAX forget what it has compiled where this process has a quarter of the memory maps that it may have.

    Return whether it did. A circuit's training compiles programs of about 500 memory maps and 60 MB, which JAX keeps as
    long as the process lives, and Linux gives a process 65,530 maps (`limit`: `vm.max_map_count`): a loop over some 130
    circuits would end with an error of the allocator. What is needed again is compiled again, or comes from the cache
    on disk.
    """
    maps, most = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    try:
        limit = int(most.read_text()) if limit is None else limit
        if maps.read_bytes().count(b"\n") < limit // 4:
            return False
    except (OSError, ValueError):  # another system than Linux
        return False
    import jax

    jax.clear_caches()
    return True


def cache_folder(name: str) -> Path:
    """Return the folder `name` of what can be made again: in `$QWAFER_CACHE`, else in `qwafer` of the user's caches.

    The user's caches are `$XDG_CACHE_HOME`, else `~/.cache`.
    """
    chosen = os.environ.get("QWAFER_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwafer"
    return (Path(chosen).expanduser() if chosen else home) / name


def worker_environment(threads: int = 1, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a worker process: `threads` threads for OpenMP, BLAS and XLA, and a fast allocator.

    A fixed thread count makes a run's result independent of how many workers run beside it. Compiled circuits of few
    qubits spend half their time in malloc and free: where jemalloc, tcmalloc or mimalloc is installed, it is preloaded;
    elsewhere glibc's cache per thread is widened. QWAFER_ALLOCATOR=off leaves the allocator alone, a path preloads that
    library; LD_PRELOAD or GLIBC_TUNABLES of the caller's own are kept as they are.
    """
    environment = dict(os.environ if base is None else base)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        environment[name] = str(threads)
    # What an outer worker set is taken out first: XLA reads a text that does not start with "--" as the name of a file.
    ours = ("multi_thread_eigen", "intra_op_parallelism_threads")
    flags = [flag for flag in environment.get("XLA_FLAGS", "").split() if not any(name in flag for name in ours)]
    if threads == 1:
        flags += ["--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1"]
    environment["XLA_FLAGS"] = " ".join(flags)
    environment["MPLBACKEND"] = "Agg"
    environment["TF_CPP_MIN_LOG_LEVEL"] = environment.get("TF_CPP_MIN_LOG_LEVEL", "2")
    choice = environment.get("QWAFER_ALLOCATOR", "")
    if choice != "off" and "LD_PRELOAD" not in environment and "GLIBC_TUNABLES" not in environment:
        library = choice or fast_allocator()
        if library is not None:
            environment["LD_PRELOAD"] = library
        elif sys.platform == "linux":
            environment["GLIBC_TUNABLES"] = GLIBC_TUNABLES
    return environment


XLA_CACHE_BYTES = 512 << 20
"""What the cache of compiled XLA programs may hold on disk."""

CACHE_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# What XLA has compiled for qwafer, which removes the oldest of it (bford.info/cachedir).\n"
)
"""What marks a folder as such a cache, for qwafer and for programs that make backups."""

GLIBC_TUNABLES = "glibc.malloc.tcache_max=65536:glibc.malloc.tcache_count=2000"
"""Blocks of up to 64 KiB (the states of 12 qubits) are kept by the thread that freed them instead of going back."""

ALLOCATORS = ("libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libmimalloc.so.2")
"""Allocators that are preloaded where they are installed, the first one first."""


def fast_allocator() -> str | None:
    """Return the path of the first of `ALLOCATORS` that is installed on this Linux machine, or None."""
    if sys.platform != "linux":
        return None
    triplet = f"{os.uname().machine}-linux-gnu"
    folders = (Path(sys.prefix) / "lib", Path("/usr/local/lib"), Path("/usr/lib") / triplet, Path("/usr/lib64"))
    for name in ALLOCATORS:
        for folder in (*folders, Path("/usr/lib")):
            if (folder / name).is_file():
                return str(folder / name)
    return None


def allocator_in_use(maps: Path = Path("/proc/self/maps")) -> str:
    """Return which allocator serves this process: the file name of a preloaded one, `glibc, tuned`, or `default`."""
    if maps.is_file():
        text = maps.read_text()
        for name in ALLOCATORS:
            if f"/{name}" in text:
                return name
    return "glibc, tuned" if "glibc.malloc.tcache" in os.environ.get("GLIBC_TUNABLES", "") else "default"


def prune(directory: Path, limit: int) -> None:
    """Remove the oldest entries of XLA's cache, `NAME-cache`, until the rest takes at most `limit` bytes."""
    entries = []
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):  # another process prunes as well
            if entry.is_file(follow_symlinks=False) and entry.name.endswith(("-cache", "-atime")):
                entries.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            break
        Path(path).unlink(missing_ok=True)
        total -= size
