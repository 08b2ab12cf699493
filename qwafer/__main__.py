"""`python -m qwafer`: the verbs, the diagnostics, and lists of what can be named."""

import sys

from qwafer.cli.overview import build_parser as build_parser
from qwafer.cli.overview import main as main

if __name__ == "__main__":
    sys.exit(main())
