"""Releases that take seconds to make, and a service of them in a thread."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import qwafer
from qwafer import Model
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import synthetic_maps
from qwafer.heads import LinearOptions
from qwafer.serving.evidence import assess
from qwafer.serving.registry import Gate, ModelRegistry
from qwafer.serving.release import Release

MAPS = synthetic_maps(240, seed=4)
OPEN = Gate(accuracy=0.0)
"""A gate that every version passes."""


def made_release(seed: int = 0) -> Release:
    features = qwafer.features_from_maps(MAPS, "spatial")
    training = TrainingConfig(epochs=2, batch_size=32, max_doublings=0)
    config = RunConfig(head=LinearOptions(), data=DataConfig(task="multilabel"), training=training)
    model = Model.from_run(qwafer.train(config, features, seed=seed), features.provenance)
    return Release(model, *assess(model, MAPS))


def made_registry(folder: Path, release: Release, *versions: str) -> ModelRegistry:
    registry = ModelRegistry(folder)
    for version in versions:
        registry.add(release, version)
    registry.promote(versions[0], OPEN)
    return registry


@contextlib.contextmanager
def running(registry: ModelRegistry, **options: Any) -> Iterator["Client"]:
    """A service in a thread of this process, on a port that is free."""
    import uvicorn

    from qwafer.serving.http import server_config
    from qwafer.serving.options import ServeOptions
    from qwafer.serving.service import Service
    from qwafer.serving.store import Store

    service = Service(registry, Store(registry.folder / "answers.sqlite"), ServeOptions(**{"port": 0, **options}))
    service.load()
    server = uvicorn.Server(server_config(service))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(server.servers[0].sockets[0].getsockname()[1], service)
    finally:
        server.should_exit = True
        thread.join()
        service.store.close()


class Client:
    """Requests to a service, and the service itself where it is in this process."""

    def __init__(self, port: int, service: Any = None) -> None:
        self.port, self.service = port, service

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if isinstance(body, (dict, list)):
                body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            json_like = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(content) if json_like else content
        finally:
            connection.close()


def request_of(wafer: np.ndarray, wafer_id: str = "W", lot_id: str = "L") -> dict[str, Any]:
    return {"wafer_id": wafer_id, "lot_id": lot_id, "wafer_map": wafer.tolist(), "timestamp": "2026-01-01T00:00:00Z"}
