"""`python -m qwafer.errors`: what a predictor gets wrong, how sure it was, and which labels are likely wrong."""

import sys

from qwafer.cli.errors import build_parser as build_parser
from qwafer.cli.errors import main as main

if __name__ == "__main__":
    sys.exit(main())
