"""Calling compiled Catalyst programs from the host: one lock, NumPy in and out, a seed per call, Ctrl-C deferred."""

import atexit
import contextlib
import ctypes
import functools
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError
from qwafer._io import held, remove_abandoned
from qwafer.circuits.recording import RECORDING
from qwafer.engines.catalyst.patches import patching_this_thread
from qwafer.engines.process import check_not_forked

LOCK = threading.RLock()
"""Held while a program is traced, compiled or executed: Catalyst's runtime has one context per process."""


class HostProgram:
    """A function compiled by `catalyst.qjit`, called with NumPy arrays, returning NumPy arrays.

    The compiled function is called directly, with argument descriptors that are made once. Catalyst's own call makes
    JAX arrays of the results, which can deadlock inside a host callback; and it installs, for good, a SIGINT handler
    that throws a C++ exception from wherever the signal arrives, so that Ctrl-C aborts the process.

    `seed` seeds every source of randomness of each call (a program without a seed opens the system's random device
    once per circuit execution); a call may bring its own.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[tuple[tuple[int, ...], Any]], *, seed: int):
        import catalyst
        from catalyst.utils.exceptions import CompileError

        function.__annotations__ = {}  # Catalyst would read type hints as the signature to compile for
        self._buffers = [np.zeros(shape, dtype) for shape, dtype in arguments]
        with compiling():
            qjit = catalyst.qjit(function, seed=seed)
            try:
                qjit.jit_compile(tuple(self._buffers))
            except CompileError as error:
                raise CapabilityError(
                    f"Catalyst {catalyst.__version__} cannot compile {function.__name__} "
                    f"({str(error).strip().splitlines()[0]}); use engine `xla` or `reference` for this circuit"
                ) from error
            compiled = qjit.compiled_function
            self._library = compiled.shared_object
            # Descriptors point into self._buffers and are good for every call. Nothing else of the QJIT object is kept:
            # its intermediate representations are megabytes a program.
            (self._results, self._arguments), _ = compiled.args_to_memref_descs(compiled.restype, tuple(self._buffers))
            kept = [(index, aval) for index, (aval, keep) in enumerate(compiled.out_type) if keep]
            self._outputs = [(f"f{index}", aval.shape, aval.dtype) for index, aval in kept]
            library_bytes = Path(self._library.shared_object_file).stat().st_size
        # Results live twice for a moment: in the memory of Catalyst's runtime and in the array made of it.
        results = sum(2 * aval.size * aval.dtype.itemsize for _, aval in kept)
        self.nbytes = library_bytes + results + sum(buffer.nbytes for buffer in self._buffers)
        # Unloaded with the last reference, but not while Python shuts down: the library's own modules may be gone by
        # then.
        weakref.finalize(self, self._library.close).atexit = False
        self._seed = seed

    def __call__(self, *arguments: np.ndarray, seed: int | None = None) -> list[np.ndarray]:
        """Return the outputs for `arguments`, which are copied and cast to the shapes and dtypes of the program."""
        check_not_forked()
        _defer_interrupts()
        with LOCK:
            for buffer, argument in zip(self._buffers, arguments, strict=True):
                if buffer.shape != argument.shape:
                    raise ValueError(f"`argument` must have shape {buffer.shape}, got {argument.shape}")
                np.copyto(buffer, argument, casting="same_kind")
            _initialize(self._seed if seed is None else seed)
            try:
                self._library.function(self._results, self._arguments)
                return [_copied(getattr(self._results.contents, name), *rest) for name, *rest in self._outputs]
            finally:
                self._library.teardown()  # frees the runtime's copy of the results


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Trace and compile a circuit: in 64 bit, as Catalyst needs it whatever JAX is set to, and seen by no other thread.

    Locks in this order: who records gates runs nothing compiled, but who compiles does both.
    """
    import jax.experimental

    with RECORDING, LOCK, jax.experimental.enable_x64(), _private_workspace(), patching_this_thread():
        yield


@contextlib.contextmanager
def _private_workspace() -> Iterator[None]:
    """Let Catalyst compile in a folder of this process's own, which goes with the process, however that ends."""
    from catalyst.utils.filesystem import WorkspaceManager

    before = WorkspaceManager.tempdir
    WorkspaceManager.tempdir = workspace()
    try:
        yield
    finally:
        WorkspaceManager.tempdir = before


@functools.cache
def workspace() -> Path:
    """Return the folder in which this process compiles, and remove those of processes that were killed."""
    parent, prefix = Path(tempfile.gettempdir()), "qwafer-catalyst-"
    remove_abandoned(parent.glob(f"{prefix}*"))
    holding = contextlib.ExitStack()
    path = holding.enter_context(held(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=parent))))

    def remove() -> None:
        shutil.rmtree(path, ignore_errors=True)
        holding.close()

    atexit.register(remove)
    return path


def _copied(descriptor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return a copy of the array that an MLIR memref descriptor points to."""
    address = ctypes.cast(descriptor.aligned, ctypes.c_void_p).value
    size = int(np.prod(shape))
    if address is None or size == 0:
        return np.zeros(shape, dtype)
    start = address + descriptor.offset * dtype.itemsize
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(start)
    if shape and tuple(descriptor.strides) != tuple(size // int(np.prod(shape[: i + 1])) for i in range(len(shape))):
        raise CapabilityError("Catalyst returned an array that is not contiguous; qwafer knows catalyst 0.15")
    return np.ndarray(shape, dtype, memoryview(memory)).copy()


@functools.cache
def _runtime() -> Any:
    import catalyst

    return ctypes.CDLL(str(Path(catalyst.__file__).parent / "lib" / "librt_capi.so"))


def _initialize(seed: int) -> None:
    """Start Catalyst's runtime context with `seed`: what a program's own `setup` does with the seed of its
    compilation.
    """
    value = ctypes.c_uint32(seed & 0xFFFFFFFF)
    _runtime().__catalyst__rt__initialize(ctypes.byref(value))


_interrupt_ready = False


def _defer_interrupts() -> None:
    """Make Ctrl-C wait for the end of the host callback it arrives in.

    A KeyboardInterrupt raised inside a callback reaches the caller as an XlaRuntimeError that no one can tell from a
    defect. From the first compiled call on, the process's SIGINT handler, whatever it was, is not run inside a
    callback, but as soon as the main thread has left it.
    """
    global _interrupt_ready
    if _interrupt_ready or threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGINT)
    _interrupt_ready = True
    if not callable(previous):
        return  # ignored, or left to the system

    def handler(number: int, frame: FrameType | None) -> None:
        if not _inside_callback(frame):
            previous(number, frame)
            return
        profile = sys.getprofile()

        def left(frame: FrameType, event: str, argument: Any) -> None:
            if not _inside_callback(frame):
                sys.setprofile(profile)
                previous(number, frame)

        # The next Python call or return outside the callback runs `left`: nothing else tells when XLA has returned.
        sys.setprofile(left)

    signal.signal(signal.SIGINT, handler)


def _inside_callback(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is HostProgram.__call__.__code__ or frame.f_code.co_filename.endswith("jax/_src/callback.py"):
            return True
        frame = frame.f_back
    return False
