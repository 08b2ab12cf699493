"""What can this circuit express?

The same as `python -m qwafer.diagnostics.expressive_power`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("qwafer.diagnostics.expressive_power", run_name="__main__")
