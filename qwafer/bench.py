"""`python -m qwafer.bench`: classical and quantum heads under identical conditions, ending in one report."""

import sys

from qwafer.cli.bench import build_parser as build_parser
from qwafer.cli.bench import main as main

if __name__ == "__main__":
    sys.exit(main())
