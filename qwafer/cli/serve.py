"""`python -m qwafer.serve`: a model behind an address, with its doubts."""

import argparse
from collections.abc import Sequence
from typing import Any

from qwafer._process import run_verb
from qwafer.cli.arguments import program


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("serve"),
        description="Answer wafer maps with the champion of a registry: POST /classify and /feedback, the Open "
        "Inference Protocol V2 under /v2, /review, /health, /metrics, a page at /, OpenAPI at /docs. Every answer is "
        "kept; another champion takes over without a lost request, and goes back by itself where reviews show that it "
        "is worse.",
        epilog="Needs the extra qwafer[serve]. Exit status: 0 ended as told, 2 bad input.",
    )
    parser.add_argument("registry", metavar="REGISTRY", help="the folder of python -m qwafer.registry")
    parser.add_argument("--store", metavar="FILE", help="SQLite file of the answers (REGISTRY/answers.sqlite)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="port (8000); 0: any that is free")
    parser.add_argument("--token-file", metavar="FILE", help="a file that holds the token that clients must send")
    parser.add_argument("--name", default="qwafer", metavar="NAME", help="name of the model under /v2 (qwafer)")
    limits = {
        "largest_body": (int, "BYTES", "bytes of a request (8 MiB)"),
        "most_maps": (int, "N", "maps of a request (256)"),
        "queue": (int, "N", "maps that may wait; 503 beyond (1024)"),
        "rate": (float, "R", "requests per second and client; 429 beyond (no limit)"),
        "body_seconds": (float, "S", "seconds that a client may take to send a body, or the head of a request (10)"),
        "audit": (float, "P", "share of answers without a flag that an engineer sees all the same (0.05)"),
        "keep_days": (float, "D", "days after which answers are deleted (never)"),
        "trial": (str, "VERSION", "a version that answers a share of the wafers"),
        "trial_share": (float, "P", "that share, by the wafer's id (0.25)"),
    }
    for name, (kind, what, text) in limits.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=what, help=text)
    parser.add_argument("--log-maps", action="store_true", help="write the maps into the log, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    import dataclasses
    from pathlib import Path

    from qwafer._errors import InputError
    from qwafer._process import configure_jax
    from qwafer.serving.http import serve
    from qwafer.serving.options import ServeOptions

    given: dict[str, Any] = {
        field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(ServeOptions)
    }
    if arguments.token_file is not None:
        given["token"] = Path(arguments.token_file).read_text(encoding="utf-8", errors="replace").strip()
        if "\ufffd" in given["token"]:
            raise InputError(f"{arguments.token_file} is not text in UTF-8: it must hold the token alone")
        if not given["token"]:
            raise InputError(f"{arguments.token_file} holds no token")
    if not Path(arguments.registry).is_dir():
        raise InputError(f"there is no registry {arguments.registry}: python -m qwafer.registry add makes one")
    options = ServeOptions(**{name: value for name, value in given.items() if value is not None})
    configure_jax()
    store = arguments.store or str(Path(arguments.registry) / "answers.sqlite")
    serve(arguments.registry, store, options, lambda address: print(f"serving on {address}", flush=True))
    return 0
