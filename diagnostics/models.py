"""Which parameters of the published models do anything, as published and as described?

The same as `python -m qwafer.diagnostics.models`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.models", run_name="__main__")
