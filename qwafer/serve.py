"""`python -m qwafer.serve`: a model behind an address, with its doubts."""

import sys

from qwafer.cli.serve import build_parser as build_parser
from qwafer.cli.serve import main as main

if __name__ == "__main__":
    sys.exit(main())
