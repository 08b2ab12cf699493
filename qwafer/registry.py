"""`python -m qwafer.registry`: versions of models, which of them answers, and the way back."""

import sys

from qwafer.cli.registry import build_parser as build_parser
from qwafer.cli.registry import main as main

if __name__ == "__main__":
    sys.exit(main())
