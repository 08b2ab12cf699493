"""`python -m qwafer.export`: a model as one file for another runtime, maps in and answers out."""

import sys

from qwafer.cli.export import build_parser as build_parser
from qwafer.cli.export import main as main

if __name__ == "__main__":
    sys.exit(main())
