"""`python -m qwafer.fit`: a network trained on wafer maps, its weights and its run."""

import sys

from qwafer.cli.fit import build_parser as build_parser
from qwafer.cli.fit import main as main

if __name__ == "__main__":
    sys.exit(main())
