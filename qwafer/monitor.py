"""`python -m qwafer.monitor`: whether what a service answers has moved, and which of two versions is better."""

import sys

from qwafer.cli.monitor import build_parser as build_parser
from qwafer.cli.monitor import main as main

if __name__ == "__main__":
    sys.exit(main())
