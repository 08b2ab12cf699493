"""Kills at random points of `ablate`, `bench`, `extract` and a network's training, each resumed to the same result.

    python benchmarks/kills.py --kills 100                 # of each verb
    python benchmarks/kills.py --kills 20 --aimed          # while a file is being written
    python benchmarks/kills.py --kills 3 --verbs extract

One unbroken run of each verb is the reference. Then the same command is killed (SIGKILL, with its workers) after a
random part of the time that it took, or with `--aimed` at a random flush of a file, between its last byte and its name,
and given again, until it was killed so many times; every result must equal the reference byte by byte, nothing of a
killed write may be left, and `verify` must find all whole. Exit status 1 if anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qwafer._io import TEMPORARY, digest
from qwafer.backbones.checkpoints import read_tensors
from qwafer.studies import verify

ROOT = Path(__file__).resolve().parents[1]
TOML = """
seeds = 3
metric = "test.roc_auc"
[data]
n_maps = 300
task = "any"
[training]
epochs = 4
max_doublings = 0
batch_size = 32
checkpoint_every_epochs = 1
[arms.quantum]
engine = "xla"
circuit.n_qubits = 2
circuit.n_layers = 1
[arms.linear]
head = "linear"
"""
SWEEP = ["e.toml", "--maps", "synthetic", "--descriptive", "--quiet", "--executor", "serial", "--out", "out"]
MAPS = ["--maps", "synthetic", "--quiet", "--out", "out/f.npz"]
VERBS = {
    "ablate": ["qwafer.ablate", *SWEEP],
    "bench": ["qwafer.bench", *SWEEP],
    "extract": ["qwafer.extract", *MAPS, "--maps-count", "6000", "--batch", "256"],
    "network": ["qwafer.extract", *MAPS, "--maps-count", "150", "--backbone", "wafercnn", "--train", "--epochs", "4"],
}
AIMED = """
import os, runpy, signal, sys
place, real, seen = {place}, os.fsync, 0
def fsync(descriptor):
    global seen
    seen += 1
    if seen == place:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
sys.argv = {argv!r}
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("flushes", seen, file=sys.stderr)
"""


def start(verb: str, folder: Path, place: int | None) -> subprocess.Popen[str]:
    """Start the verb in `folder`, to die at flush number `place`, if one is given (0: never, but they are counted)."""
    argv = VERBS[verb]
    command = ["-m", *argv] if place is None else ["-c", AIMED.format(place=place, argv=argv)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_DIR": os.devnull, "PYTHONWARNINGS": "default"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def results(folder: Path) -> Mapping[str, str]:
    """Return the digest of everything that does not depend on the clock, by path."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.endswith(".head.npz"):  # which names its features by their whole path
            with np.load(path) as head:
                record = str(head["record"]).replace(str(folder.resolve()), "")
                found[name] = digest(record, *(head[key] for key in head.files if key != "record"))
        elif path.name in ("summary.json", "differences.json") or path.suffix == ".npz":
            found[name] = digest(path.read_bytes().hex())
        elif path.suffix == ".safetensors":
            found[name] = digest(*(part for item in sorted(read_tensors(path)[0].items()) for part in item))
        elif path.suffix in (".json", ".parts") or path.name.startswith(TEMPORARY) or "damaged" in path.name:
            found[name] = ""
    return found


def tried(verb: str, kills: int, rng: random.Random, *, aimed: bool) -> list[str]:
    """Kill the verb `kills` times, in as many runs as that takes; return what differs."""
    with tempfile.TemporaryDirectory(prefix="qwafer-kills-") as home:
        reference = Path(home) / "reference"
        begin = time.perf_counter()
        _, said = once(verb, prepared(reference), 0 if aimed else None, None)
        seconds, whole = time.perf_counter() - begin, results(reference)
        flushes = int(said.rsplit("flushes", 1)[1]) if aimed else 0
        print(f"{verb}: {seconds:.0f} s, {len(whole)} files, {flushes} flushes", flush=True)
        wrong, done, run = [], 0, 0
        while done < kills:
            run += 1
            folder = prepared(Path(home) / f"run-{run}")
            for _ in range(4):  # kills of one run at most, then it may end
                place = rng.randint(1, flushes) if aimed and done < kills else 0 if aimed else None
                wait = rng.uniform(0, seconds) if not aimed and done < kills else None
                killed, said = once(verb, folder, place, wait)
                done += killed
                if not killed:
                    break
            else:
                once(verb, folder, None, None)
            found = results(folder)
            wrong += [f"{verb} {run}: {name}" for name in {*whole, *found} if whole.get(name) != found.get(name)]
            wrong += [f"{verb} {run}: {path}: {why}" for path, why in verify(folder / "out").damaged.items()]
        print(f"{verb}: {done} kills in {run} runs, {len(wrong)} differences", flush=True)
        return wrong


def prepared(folder: Path) -> Path:
    """Return the new folder with the experiment in it."""
    folder.mkdir()
    (folder / "e.toml").write_text(TOML)
    return folder


def once(verb: str, folder: Path, place: int | None, wait: float | None) -> tuple[bool, str]:
    """Run the verb, kill it after `wait` seconds if that is not none; return whether it was killed, and its stderr."""
    process = start(verb, folder, place)
    try:
        _, said = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{verb} ended with status {process.returncode} after a kill:\n{said}")
    return process.returncode != 0, said


def main() -> int:
    """Return 0 if every killed run was resumed to the same result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--verbs", nargs="+", choices=list(VERBS), default=list(VERBS))
    parser.add_argument("--aimed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    wrong = [line for verb in arguments.verbs for line in tried(verb, arguments.kills, rng, aimed=arguments.aimed)]
    print("\n".join(wrong) or "all resumed to the same results")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
