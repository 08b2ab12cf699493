"""Will this circuit still have a gradient with more wires?

The same as `python -m qwafer.diagnostics.barren_plateau`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.barren_plateau", run_name="__main__")
