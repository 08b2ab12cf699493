"""`python -m qwafer.ablate`: the arms of an experiment over seeds, in pairs, ending in a report."""

import sys

from qwafer.cli.ablate import build_parser as build_parser
from qwafer.cli.ablate import main as main

if __name__ == "__main__":
    sys.exit(main())
