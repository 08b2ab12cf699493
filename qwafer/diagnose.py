"""`python -m qwafer.diagnose`: the trust table of an experiment, or of the compiler stack itself."""

import sys

from qwafer.cli.diagnose import build_parser as build_parser
from qwafer.cli.diagnose import main as main

if __name__ == "__main__":
    sys.exit(main())
