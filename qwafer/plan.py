"""`python -m qwafer.plan`: how many seeds a comparison takes, before anything runs."""

import sys

from qwafer.cli.plan import build_parser as build_parser
from qwafer.cli.plan import main as main

if __name__ == "__main__":
    sys.exit(main())
