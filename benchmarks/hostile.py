"""Damaged and hostile files at every reader: `python benchmarks/hostile.py --count 30000` counts how each one ends.

Every input is drawn by its number (`tests/mutations.py`), so that a finding can be made again with `--only NUMBER`.
Batches run in processes of their own with an address space of 4 GB more than they start with: a crash or a hang costs
one input. Ends: `read`, `refused` in one sentence, `traceback`, `crash`, `hang` (10 s), `large` (over 1 GB of memory).
Exit status: 0 if every input was read or refused, 1 otherwise.
"""

import argparse
import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SECONDS = 10
LARGE = 1 << 30
BATCH = 500


class Hang(BaseException):
    """Raised by the alarm; no reader's guard takes it for damage."""


def main() -> int:
    """Run the attack and print the counts by reader and end, then every finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30_000, metavar="N", help="inputs (30000)")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first input (0)")
    parser.add_argument("--only", type=int, metavar="I", help="one input alone, with its traceback")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(Path(arguments.worker), arguments.first, arguments.count)
    first, count = (arguments.first, arguments.count) if arguments.only is None else (arguments.only, 1)
    with tempfile.TemporaryDirectory(prefix="qwafer-hostile-") as folder:
        environment = {**os.environ, "QWAFER_CACHE": f"{folder}/cache", "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
        os.environ.update(environment)
        from mutations import write_corpus

        write_corpus(Path(folder))
        ends = collections.Counter()
        found = []
        number = first
        while number < first + count:
            for end in batch(Path(folder), number, min(BATCH, first + count - number), environment):
                ends[end["reader"], end["end"]] += 1
                if end["end"] not in ("read", "refused"):
                    found.append(end)
                number = end["number"] + 1
        executed = list(Path(folder).rglob("qwafer-canary"))
    print_counts(ends)
    for each in found if arguments.only is None else [end]:
        print(f"{each['number']} {each['reader']}: {each['end']}: {each['said']}")
    if executed:
        print("a pickle was executed")
    return int(bool(found or executed))


def print_counts(ends: collections.Counter) -> None:
    """Print one line per reader and one of totals."""
    kinds = ("read", "refused", "traceback", "crash", "hang", "large")
    print(f"{'reader':<16}" + "".join(f"{kind:>11}" for kind in kinds))
    for reader in sorted({reader for reader, _ in ends}):
        print(f"{reader:<16}" + "".join(f"{ends[reader, kind]:>11,}" for kind in kinds))
    total = {kind: sum(n for (_, end), n in ends.items() if end == kind) for kind in kinds}
    print(f"{'all':<16}" + "".join(f"{total[kind]:>11,}" for kind in kinds))


def batch(folder: Path, first: int, count: int, environment: dict[str, str]) -> list[dict]:
    """Return how the inputs from `first` on ended, up to the one that ended the process, if one did."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(folder)]
    numbers = ["--first", str(first), "--count", str(count)]
    process = subprocess.Popen(
        [*command, *numbers], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment, text=True
    )
    try:
        said, errors = process.communicate(timeout=120 + count * 2)
    except subprocess.TimeoutExpired:
        process.kill()
        said, errors = process.communicate()
    ends = [json.loads(line) for line in said.splitlines()]
    if ends and ends[-1]["end"] == "started":
        status = process.returncode
        ends[-1]["end"] = "hang" if status == -signal.SIGKILL else "crash"
        ends[-1]["said"] = f"status {status}: {errors[-300:]}"
    elif not ends or (process.returncode and len(ends) < 2 * count):
        raise RuntimeError(f"the worker did not begin: {errors[-3000:]}")
    return [end for end in ends if end["end"] != "started"]


def work(folder: Path, first: int, count: int) -> int:
    """Read the inputs; print a line before and after each."""
    from mutations import READERS, mutate

    warnings.simplefilter("ignore")
    for name in READERS:  # what a reader imports is no part of what a file costs
        attempt(folder, name, (folder / f"corpus-{READERS[name][0]}").read_bytes())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30),) * 2)
    names = list(READERS)
    for number in range(first, first + count):
        rng = random.Random(number)
        name = rng.choice(names)
        content = mutate((folder / f"corpus-{READERS[name][0]}").read_bytes(), rng)
        entry = {"number": number, "reader": name, "end": "started", "said": ""}
        print(json.dumps(entry), flush=True)
        end, said = attempt(folder, name, content)
        print(json.dumps({**entry, "end": end, "said": said}), flush=True)
    return 0


def attempt(folder: Path, name: str, content: bytes) -> tuple[str, str]:
    """Return how reading `content` ended, and what was said."""
    from mutations import READERS

    from qwafer import CapabilityError, InputError

    file, reader = READERS[name]
    path = folder / f"input-{file}"
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
    before = memory("VmRSS")
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    try:
        reader(path)
        end, said = "read", ""
    except (InputError, CapabilityError) as error:
        text = str(error)
        one = "\n" not in text and len(text) <= 2010
        end, said = ("refused", text) if one else ("traceback", f"not one sentence: {text[:300]}")
    except Hang:
        end, said = "hang", traceback.format_exc()[-600:]
    except BaseException:
        end, said = "traceback", traceback.format_exc()[-600:]
    finally:
        signal.alarm(0)
    taken = memory("VmHWM") - before
    return (end, said) if taken < LARGE else ("large", f"{taken / 1e9:.1f} GB; {said}")


def expire(*_: object) -> None:
    """End the input that reads too long."""
    raise Hang


def memory(what: str) -> int:
    """Return a line of the process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) << 10


if __name__ == "__main__":
    sys.exit(main())
