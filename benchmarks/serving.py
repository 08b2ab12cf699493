"""How fast the service answers, and what batching gains: `python -m qwafer.serve` against a plain handler, in one run.

    python benchmarks/serving.py [--maps FILE] [--seconds 5] [--requests 100000] [--model spatial|wafercnn]

For each model (with a quantum head of 4 wires): 1, 8 and 64 clients that each wait for their answer before they ask
again, JSON rows and NPY bodies, the service and the same model behind a plain FastAPI handler, which computes and
stores one request at a time. Then `--requests` requests to the first model, with the memory of its service. The
clients run on the same cores. Writes results/serving.json, and serving_memory.json.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = (1, 8, 64)
QUBITS = 4


def make_registry(folder, backbone, maps):
    """Train a quantum head for one epoch on at most 2,000 maps and promote it: speed does not depend on its quality."""
    import qwafer
    from qwafer.backbones import extractor, features_from_maps
    from qwafer.circuits import LayeredOptions
    from qwafer.config import DataConfig, RunConfig, TrainingConfig
    from qwafer.heads import QuantumOptions
    from qwafer.serving import Gate, ModelRegistry, Release, assess

    made = extractor(backbone, **({"random_weights": 0} if backbone != "spatial" else {}))
    config = RunConfig(
        head=QuantumOptions(),
        circuit=LayeredOptions(n_qubits=QUBITS, n_layers=2, readout="mean_z_readout"),
        engine=qwafer.engines.get("xla"),
        data=DataConfig(task="multilabel"),
        training=TrainingConfig(epochs=1, max_doublings=0),
    )
    model = qwafer.Model.from_run(qwafer.train(config, features_from_maps(maps, made), seed=0), made)
    registry = ModelRegistry(folder)
    registry.add(Release(model, *assess(model, maps)), "1.0.0")
    registry.promote("1.0.0", Gate(accuracy=0.0))


def plain(folder):
    """The same model and store behind a handler that takes requests one by one."""
    import io

    import uvicorn
    from fastapi import FastAPI, Request

    from qwafer._process import configure_jax
    from qwafer.serving.answering import Answering
    from qwafer.serving.registry import ModelRegistry
    from qwafer.serving.store import Store, Stored
    from qwafer.serving.wire import Wafer, answer_json

    configure_jax()
    answering, store, app, lock = (
        Answering(ModelRegistry(folder).load("1.0.0")).warm(),
        Store(folder / "plain.sqlite"),
        FastAPI(),
        threading.Lock(),
    )

    def answer(wafer):
        with lock:
            started = time.perf_counter()
            found = answering([wafer])
            latency = 1000 * (time.perf_counter() - started)
            row = Stored(
                time.time(),
                "",
                "",
                "1.0.0",
                found.predictions[0],
                float(found.confidence[0]),
                float(found.distance[0]),
                bool(found.review[0]),
                False,
                latency,
                b"",
                *wafer.shape,
                None,
            )
            store.add([row])
            return answer_json(Wafer(wafer), found, 0, "1.0.0")

    @app.post("/classify")
    async def classify(request: Request):
        body = await request.body()
        if request.headers.get("content-type") == "application/json":
            wafer = np.array(json.loads(body)["wafer_map"], np.uint8)
        else:
            wafer = np.load(io.BytesIO(body), allow_pickle=False)
        return await asyncio.to_thread(answer, wafer)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))

    async def run():
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(f"serving on http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
        await serving

    asyncio.run(run())


def bodies_of(maps, kind):
    """Return whole requests, one per map."""
    import io

    found = []
    for wafer in maps:
        if kind == "json":
            body, said = json.dumps({"wafer_id": "", "wafer_map": wafer.tolist()}).encode(), "application/json"
        else:
            file = io.BytesIO()
            np.save(file, wafer)
            body, said = file.getvalue(), "application/octet-stream"
        head = f"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Type: {said}\r\nContent-Length: {len(body)}\r\n\r\n"
        found.append(head.encode() + body)
    return found


async def load(port, requests, clients, *, seconds=None, total=None):
    """Return the latencies in milliseconds of every request, and how long all of it took."""
    latencies, started = [], time.perf_counter()

    async def client(first):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = first
        while (total is None or len(latencies) < total) and (
            seconds is None or time.perf_counter() - started < seconds
        ):
            begun = time.perf_counter()
            writer.write(requests[number % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200"), head
            latencies.append(1000 * (time.perf_counter() - begun))
            number += clients
        writer.close()

    await asyncio.gather(*(client(i) for i in range(clients)))
    return np.array(latencies), time.perf_counter() - started


class Server:
    """A server in a process of its own."""

    def __init__(self, *words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
        )
        self.port = int(self.process.stdout.readline().decode().strip().rsplit(":", 1)[1])

    def memory(self):
        """Return the resident MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def main():
    """Run every combination, print its line, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--maps", default="synthetic")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--model", nargs="*", default=["spatial", "wafercnn"])
    parser.add_argument("--plain", metavar="REGISTRY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(Path(arguments.plain))
        return
    import qwafer

    maps = qwafer.read_maps(arguments.maps)
    maps = maps.take(np.unique(np.linspace(0, len(maps) - 1, 2000).astype(int)))
    found = {"maps": maps.source, "cores": len(os.sched_getaffinity(0)), "rows": [], "memory": []}
    print("| model | server | body | clients | requests/s | p50 (ms) | p99 (ms) |\n|---|---|---|--:|--:|--:|--:|")
    for backbone in arguments.model:
        with tempfile.TemporaryDirectory() as folder:
            make_registry(folder, backbone, maps)
            servers = {
                "service": ("-m", "qwafer.serve", folder, "--port", "0"),
                "plain": (str(Path(__file__).resolve()), "--plain", folder),
            }
            some = [maps.maps[i] for i in range(0, len(maps), max(1, len(maps) // 200))]
            for name, words in servers.items():
                with Server(*words) as server:
                    for kind in ("json", "npy"):
                        requests = bodies_of(some, kind)
                        for clients in CLIENTS:
                            asyncio.run(load(server.port, requests, clients, seconds=0.5))
                            took, wall = asyncio.run(load(server.port, requests, clients, seconds=arguments.seconds))
                            p50, p99 = np.quantile(took, [0.5, 0.99])
                            found["rows"].append([backbone, name, kind, clients, len(took) / wall, p50, p99])
                            speed = f"{len(took) / wall:,.0f} | {p50:.1f} | {p99:.1f}"
                            print(f"| {backbone} | {name} | {kind} | {clients} | {speed} |", flush=True)
                    if name == "service" and arguments.requests and backbone == arguments.model[0]:
                        before = server.memory()
                        steps = []
                        for _ in range(10):
                            asyncio.run(load(server.port, requests, 8, total=arguments.requests // 10))
                            steps.append(round(server.memory(), 1))
                        found["memory"].append([backbone, arguments.requests, before, steps])
                        print(f"{backbone}: {before:.1f} MiB, after each tenth {steps}", file=sys.stderr, flush=True)
    results = ROOT / "benchmarks" / "results"
    memory = found.pop("memory")
    (results / "serving.json").write_text(json.dumps(found, indent=1) + "\n")
    if memory:
        (results / "serving_memory.json").write_text(
            json.dumps({**found, "rows": [], "memory": memory}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
