"""Process set-up of verbs and workers: the only place where qwafer configures JAX or the environment."""

import os
import sys
from collections.abc import Callable, Mapping


def run_verb(body: Callable[[], int]) -> int:
    """Run a verb's body; bad input becomes one line on stderr and exit status 2.

    Bad input is InputError, CapabilityError and the operating system's refusals (a missing file, a full disk).
    Anything else is a defect of qwafer and keeps its traceback.
    """
    from qwafer._errors import CapabilityError, InputError

    try:
        return body()
    except (InputError, CapabilityError) as error:
        message = " ".join(str(error).split())
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is complete is on disk, and the same command resumes\n")
        return 130
    sys.stderr.write(f"error: {message}\n")
    return 2


def configure_jax(*, x64: bool = True) -> None:
    """Configure JAX for a verb or worker process: 64 bit available, no asynchronous dispatch on the CPU.

    Asynchronous dispatch can deadlock with host callbacks, on which the catalyst engine rests. Call before any
    computation.
    """
    import jax

    jax.config.update("jax_enable_x64", x64)
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def worker_environment(threads: int = 1, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a worker process: `threads` threads for OpenMP, BLAS and XLA, no progress output.

    A fixed thread count makes a run's result independent of how many workers run beside it.
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
    return environment
