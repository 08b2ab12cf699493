"""`Batcher`: requests that wait together are computed together, in one worker thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Maps = Sequence[np.ndarray]


class QueueFullError(Exception):
    """As many maps wait as may wait."""


class Batcher:
    """Calls `answer(key, maps)` in one thread, with the maps of all requests of one key that wait, up to `size`.

    Nothing is waited for: while one batch is computed the next one gathers, so that one client alone has no delay, and
    many have large batches. A batch that fails is computed again request by request, so that no request fails for
    another's maps.
    """

    def __init__(self, answer: Callable[[Any, Maps], Any], *, size: int = 64, limit: int = 1024) -> None:
        self._answer, self._size, self._limit = answer, size, limit
        self._waiting: deque[tuple[Any, Maps, asyncio.Future[Any]]] = deque()
        self._maps = 0
        self._busy = False
        self._worker = ThreadPoolExecutor(1, "qwafer-compute")

    @property
    def waiting(self) -> int:
        """Maps that wait."""
        return self._maps

    async def submit(self, key: Any, maps: Maps) -> Any:
        """Return what `answer` gives for these maps; raise QueueFullError where too many wait."""
        if self._maps + len(maps) > self._limit:
            raise QueueFullError
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, maps, future))
        self._maps += len(maps)
        self._next()
        return await future

    def close(self) -> None:
        """Wait for what is being computed."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> None:
        """Begin the next batch, if the thread is free and anything waits."""
        if self._busy or not self._waiting:
            return
        key, count = self._waiting[0][0], 0
        batch: list[tuple[Any, Maps, asyncio.Future[Any]]] = []
        while (
            self._waiting
            and self._waiting[0][0] is key
            and (not batch or count + len(self._waiting[0][1]) <= self._size)
        ):
            item = self._waiting.popleft()
            count += len(item[1])
            self._maps -= len(item[1])
            if not item[2].done():  # the client has not gone
                batch.append(item)
        if not batch:
            self._next()
            return
        self._busy = True
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._worker, self._run, key, [item[1] for item in batch])
        done.add_done_callback(lambda found: self._finish(batch, found))

    def _run(self, key: Any, requests: list[Maps]) -> list[Any]:
        """Return for each request its answers, or the exception that its maps raise."""
        try:
            found = self._answer(key, [wafer for maps in requests for wafer in maps])
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [self._run(key, [maps])[0] for maps in requests]
        ends = np.cumsum([len(maps) for maps in requests]).tolist()
        return [found[end - len(maps) : end] for maps, end in zip(requests, ends, strict=True)]

    def _finish(self, batch: list[tuple[Any, Maps, asyncio.Future[Any]]], done: asyncio.Future[Any]) -> None:
        self._busy = False
        error = done.exception()
        results = [error] * len(batch) if error is not None else done.result()
        for (_, _, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._next()
