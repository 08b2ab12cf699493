"""The routes of the service, in FastAPI, and the process that serves them."""

import asyncio
import contextlib
import hmac
import json
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from qwafer._errors import InputError
from qwafer.serving.batching import QueueFullError
from qwafer.serving.connections import prompt
from qwafer.serving.options import ServeOptions
from qwafer.serving.packages import fastapi, uvicorn
from qwafer.serving.registry import ModelRegistry
from qwafer.serving.service import Service, UnavailableError
from qwafer.serving.store import Store
from qwafer.serving.wire import infer_json, parse_classify, parse_infer, parse_json

OPEN = ("/health", "/v2/health/live", "/v2/health/ready", "/")
"""Paths that ask for no token; the page asks its user for it."""
MOST_CLIENTS = 10_000
"""Client addresses whose rates are remembered."""
MAP = {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2}}}
WAFER = {
    "type": "object",
    "required": ["wafer_map"],
    "properties": {
        "wafer_id": {"type": "string"},
        "lot_id": {"type": "string"},
        "timestamp": {"type": "string"},
        "wafer_map": {"oneOf": [MAP, {"type": "object", "description": 'the bytes: {"base64": ..., "shape": [H, W]}'}]},
    },
}
SAID = {
    "type": "object",
    "properties": {
        "answer_id": {"type": "integer"},
        "wafer_id": {"type": "string"},
        "label": {"type": "string"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "reviewer": {"type": "string"},
    },
}


class RefusedError(Exception):
    """A request that is refused before it is read, with a status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def application(service: Service) -> Any:
    """Return the FastAPI application of a service that is loaded; needs the extra `serve`."""
    fastapi()
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.requests import ClientDisconnect

    options, counters = service.options, service.counters

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        following = asyncio.create_task(service.run())
        yield
        following.cancel()
        service.close()

    app = FastAPI(title="qwafer", description="Wafer maps in, labels and doubts out.", lifespan=lifespan)
    classify_body = {
        "requestBody": {"content": {"application/json": {"schema": WAFER}, "application/octet-stream": {}}}
    }

    def failed(error: Exception) -> Any:
        status, headers = 500, {}
        if isinstance(error, RefusedError):
            status = error.status
        elif isinstance(error, InputError):
            status = 400
        elif isinstance(error, LookupError):
            status = 404
        elif isinstance(error, (QueueFullError, UnavailableError)):
            status, headers = 503, {"Retry-After": "1"}
        text = "the queue is full" if isinstance(error, QueueFullError) else " ".join(map(str, error.args))
        return JSONResponse({"error": text}, status, headers)

    for kind in (RefusedError, InputError, LookupError, QueueFullError, UnavailableError):
        app.add_exception_handler(kind, lambda _, error: failed(error))
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))

    async def body_of(request: Any) -> bytes:
        async def read() -> bytes:
            content, total = bytearray(), 0
            async for part in request.stream():
                total += len(part)
                if total > 4 * options.largest_body:
                    break
                if total <= options.largest_body:  # else read and forgotten, so that the client sees the answer
                    content += part
            if total > options.largest_body:
                raise RefusedError(413, f"a body must have at most {options.largest_body:,} bytes")
            return bytes(content)

        try:
            return await asyncio.wait_for(read(), options.body_seconds)
        except TimeoutError as error:
            raise RefusedError(408, "the body did not come in time") from error

    def check_count(n: int) -> None:
        most = min(options.most_maps, options.queue)  # more than may wait never get in: it is no use to come again
        if n > most:
            raise RefusedError(413, f"a request must have at most {most} maps, got {n}")

    @app.post("/classify", openapi_extra=classify_body)
    async def classify(request: Request, wafer_id: str = "", lot_id: str = "") -> Any:
        """Classify one wafer, or `wafers`: JSON (rows of dies, or base64), or an NPY body of one or more maps."""
        body, started = await body_of(request), time.perf_counter()
        kind = request.headers.get("content-type", "")
        wafers, one = parse_classify(body, kind, wafer_id, lot_id, check=check_count)
        found = await service.classify(wafers, started)
        return JSONResponse(found[0] if one else {"answers": found})

    @app.post("/feedback", openapi_extra={"requestBody": {"content": {"application/json": {"schema": SAID}}}})
    async def feedback(request: Request) -> Any:
        """Keep an engineer's label for an answer, by `answer_id`, or the last one of `wafer_id`."""
        return JSONResponse(await service.feedback(parse_json(await body_of(request))))

    @app.get("/review")
    async def review(limit: int = 20) -> Any:
        """Return the newest answers that wait for an engineer: those flagged, and those drawn."""
        if not 1 <= limit <= 200:
            raise InputError("`limit` must lie in [1, 200]")
        return JSONResponse(await asyncio.to_thread(service.queue, limit))

    @app.get("/health")
    async def health() -> Any:
        """Say whether a version answers."""
        champion = service.champion
        if champion is None:
            raise UnavailableError("no version has been promoted")
        return {"status": "ok", "model_version": champion.version, "labels": list(champion.label_names)}

    @app.get("/metrics")
    async def metrics() -> Any:
        """Return counters in Prometheus' text form."""
        counters.waiting.set(service.batcher.waiting)
        return Response(counters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> Any:
        """Show a page to classify a map and to work off the review queue."""
        policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        content = (files("qwafer.serving") / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(content, headers={"Content-Security-Policy": policy})

    @app.get("/v2")
    async def server() -> Any:
        """Open Inference Protocol V2: the server."""
        from qwafer import __version__

        return {"name": "qwafer", "version": __version__, "extensions": []}

    @app.get("/v2/health/live")
    async def live() -> Any:
        """Say that the process lives."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> Any:
        """Say whether a version answers."""
        if service.champion is None:
            raise UnavailableError("no version has been promoted")
        return {"ready": True}

    def champion_of(name: str, version: str | None) -> Any:
        champion = service.champion
        if champion is None:
            raise UnavailableError("no version has been promoted")
        if name != options.name or version not in (None, champion.version):
            raise LookupError(f"model {name}{f' {version}' if version else ''} does not answer here")
        return champion

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def metadata(name: str, version: str | None = None) -> Any:
        """Open Inference Protocol V2: inputs and outputs of the model."""
        found = champion_of(name, version)
        n = len(found.label_names)
        shapes = {"probabilities": ("FP32", [-1, n]), "labels": ("BOOL", [-1, n])}
        shapes |= {"review": ("BOOL", [-1]), "confidence": ("FP32", [-1])}
        shapes |= {"recursion_steps_used": ("INT64", [-1])} if found.halts else {}
        outputs = [{"name": key, "datatype": kind, "shape": shape} for key, (kind, shape) in shapes.items()]
        inputs = [{"name": "maps", "datatype": "UINT8", "shape": [-1, -1, -1]}]
        known = {"name": name, "versions": [found.version], "platform": "qwafer", "inputs": inputs, "outputs": outputs}
        return {**known, "parameters": {"labels": list(found.label_names)}}

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> Any:
        """Open Inference Protocol V2: whether the model answers."""
        return {"name": name, "ready": bool(champion_of(name, version))}

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str | None = None) -> Any:
        """Open Inference Protocol V2: input `maps` UINT8 [n, H, W]; its answers are kept as those of /classify are."""
        champion_of(name, version)
        body, started = await body_of(request), time.perf_counter()
        wafers, request_id = parse_infer(body, check=check_count)
        champion_of(name, version)  # again: another may have been promoted while the body came
        found, answering = await service.answered(wafers, started)
        return JSONResponse(infer_json(name, answering.version, request_id, found))

    return Guard(app, service)


class Guard:
    """What stands before the routes: the token, the rate of each client, and the count of statuses."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.options, self.counters = app, service.options, service.counters
        self._rates: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.counters.requests.labels(str(message["status"])).inc()
            await send(message)

        headers = dict(scope["headers"])
        refused = self._refused(scope, headers)
        if refused is None:
            await self.app(scope, receive, counted)
            return
        status, reason, more = refused
        content = json.dumps({"error": reason}).encode()
        sent = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *more]
        await counted({"type": "http.response.start", "status": status, "headers": sent})
        await counted({"type": "http.response.body", "body": content})

    def _refused(self, scope: Any, headers: dict[bytes, bytes]) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        options = self.options
        if options.token and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {options.token}".encode()):
                return 401, "send Authorization: Bearer TOKEN", [(b"www-authenticate", b"Bearer")]
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > options.largest_body:
            return 413, f"a body must have at most {options.largest_body:,} bytes", [(b"connection", b"close")]
        if options.rate and scope.get("client"):
            now, client = time.monotonic(), scope["client"][0]
            left, before = self._rates.get(client, (2 * options.rate, now))
            left = min(2 * options.rate, left + (now - before) * options.rate)
            if len(self._rates) >= MOST_CLIENTS:
                self._rates.clear()
            self._rates[client] = (left - (left >= 1), now)
            if left < 1:
                return 429, f"at most {options.rate:g} requests per second", [(b"retry-after", b"1")]
        return None


def server_config(service: Service) -> Any:
    """Return uvicorn's configuration of a service."""
    options = service.options
    return uvicorn().Config(
        application(service),
        host=options.host,
        port=options.port,
        http=prompt(options.body_seconds),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        limit_concurrency=max(64, options.queue),
        timeout_graceful_shutdown=math.ceil(options.body_seconds) + 5,
    )


async def _listens(host: str, port: int) -> None:
    """Raise InputError where the address is not to be had: before a model is compiled, and in words."""
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise InputError(f"the service cannot listen on {host}, port {port} ({error.strerror})") from error
    server.close()
    await server.wait_closed()


def serve(registry: str, store: str, options: ServeOptions, ready: Callable[[str], None] | None = None) -> None:
    """Serve a registry until SIGTERM or SIGINT; `ready` is called with the address once it listens.

    Requests that are under way by then are answered first.
    """
    server_of = uvicorn()
    asyncio.run(_listens(options.host, options.port))
    service = Service(ModelRegistry(registry), Store(store), options)
    server = server_of.Server(server_config(service))

    def end(*_: object) -> None:
        """End a service that does not listen yet; uvicorn sends itself the signal again after it has answered all."""
        if not server.started:
            raise SystemExit(0)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
    service.load()

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if ready is not None and server.started:
            host, port = server.servers[0].sockets[0].getsockname()[:2]
            ready(f"http://{host}:{port}")
        await serving

    asyncio.run(run())
