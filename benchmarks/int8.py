"""INT8 networks against float32: `python benchmarks/int8.py --maps MixedWM38.npz --out FOLDER [--network NAME]`.

Trains the network (or takes --weights, or drawn weights of MobileNetV3-Small), a linear head on its features, quantises
the model, and prints the table of docs/small.md. `--time` times the files that are in the folder already and does
nothing else: run it on an idle machine, with OMP_NUM_THREADS=1. Times are those of calls in turns in one process.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import qwafer
from qwafer._process import configure_jax
from qwafer._records import load_record, save_record
from qwafer.backbones import extractor
from qwafer.cli.progress import progress_bar
from qwafer.config import DataConfig, RunConfig
from qwafer.heads import LinearOptions
from qwafer.networks import network
from qwafer.onnx import Int8Options, Int8Report, OnnxModel, quantise
from qwafer.onnx.runtime import latencies

REPORT = "int8.json"


def model_of(name: str, maps: qwafer.data.WaferMaps, weights: Path | None, out: Path) -> qwafer.Model:
    """Return the network with a linear head that is trained on its features."""
    if name == "wafercnn":
        backbone = extractor(name, weights=network(name).train(maps, weights or out / "wafercnn.safetensors"))
    else:
        backbone = extractor(name, weights=weights) if weights else extractor(name, random_weights=0)
    config = RunConfig(data=DataConfig(task="multilabel"), head=LinearOptions())
    return qwafer.Model.from_run(qwafer.train(config, qwafer.features_from_maps(maps, backbone), seed=0), backbone)


def timed(out: Path, maps: qwafer.data.WaferMaps, calls: int, batches: tuple[int, ...]) -> Int8Report:
    """Return the report in `out` with the latency of its files as measured now, without the names of the machine."""
    report = load_record(Int8Report, out / REPORT)
    models = {each.name: OnnxModel.load(out / each.file) for each in report.variants}
    sessions = {name: model.session for name, model in models.items()}
    preprocessing = models["float32"].preprocessing
    rows = np.linspace(0, len(maps) - 1, max(batches)).astype(int)
    found = [latencies(sessions, preprocessing([maps.maps[row] for row in rows[:n]]), calls) for n in batches]
    variants = (dataclasses.replace(e, latency=tuple(times[e.name] for times in found)) for e in report.variants)
    nowhere = dataclasses.replace(report.environment.host, name="", platform="")
    environment = dataclasses.replace(report.environment, host=nowhere)
    return dataclasses.replace(report, variants=tuple(variants), environment=environment)


def main() -> int:
    """Quantise or time, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the graphs and the report")
    parser.add_argument("--network", default="wafercnn", choices=("wafercnn", "mobilenet_v3_small"))
    parser.add_argument("--weights", type=Path, help="weights of the network; WaferCNN is trained where they are not")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of fine-tuning")
    parser.add_argument("--calls", type=int, default=1000, help="timed calls per file and batch")
    parser.add_argument("--time", action="store_true", help="time the files that are there")
    arguments = parser.parse_args()
    configure_jax()
    maps = qwafer.read_maps(arguments.maps)
    if not arguments.time:
        model = model_of(arguments.network, maps, arguments.weights, arguments.out)
        options = Int8Options(fine_tune_epochs=arguments.epochs, latency_calls=0)
        with progress_bar(quiet=False) as progress:
            quantise(model, maps, arguments.out, options, progress=progress)
    report = timed(arguments.out, maps, arguments.calls, (1, 32))
    save_record(arguments.out / REPORT, report)
    print(report.table())
    for each in report.variants:
        print(each.name, each.agreement, f"{each.weight_bytes:,} bytes of weights")
    print(report.calibration, *report.fine_tuning.values(), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
