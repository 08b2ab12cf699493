"""`python -m qwafer.search`: the options of every arm, searched with one budget, and the winners compared."""

import sys

from qwafer.cli.search import build_parser as build_parser
from qwafer.cli.search import main as main

if __name__ == "__main__":
    sys.exit(main())
