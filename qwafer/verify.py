"""`python -m qwafer.verify`: whether stored files are what was written."""

import sys

from qwafer.cli.verify import build_parser as build_parser
from qwafer.cli.verify import main as main

if __name__ == "__main__":
    sys.exit(main())
