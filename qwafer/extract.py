"""`python -m qwafer.extract`: wafer maps through a frozen backbone into a feature file."""

import sys

from qwafer.cli.extract import build_parser as build_parser
from qwafer.cli.extract import main as main

if __name__ == "__main__":
    sys.exit(main())
