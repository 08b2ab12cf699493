"""Which parameters of this circuit do anything?

The same as `python -m qwafer.diagnostics.dead_parameters`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.dead_parameters", run_name="__main__")
