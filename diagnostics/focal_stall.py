"""Is the loss low because the model is good, or because it stands still?

The same as `python -m qwafer.diagnostics.focal_stall`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.focal_stall", run_name="__main__")
